"""One batch spread over several processes: who computes which rows, and how every process learns the rest.

In: an Accelerator, and tensors of this process's rows. Out: tensors of all rows, the same in every process.
With one process each function hands back what it was given. Lesson 11 trains with two.

Each process pushes its own rows through the models, which is the expensive part; token ids, log-probabilities
and values, a few numbers per token, are exchanged. So whatever is a mean over *the batch* (whitening, running
moments, KL, the losses) is computed by every process from the same numbers, and by the code that one process
alone would run.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..errors import BadRollout
from .rollouts import RolloutBatch


def own_rows(accelerator: Accelerator, total: int) -> slice:
    """Which of ``total`` rows this process computes: the k-th of equally long parts."""
    share = total // accelerator.num_processes
    return slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)


def join(accelerator: Accelerator, own: torch.Tensor) -> torch.Tensor:
    """Rows ``(b, ...)`` of every process, in the order of the processes: ``(P * b, ...)``.

    The gradient flows into this process's rows only. A loss over all rows has therefore the right value
    everywhere, but only a part of its gradient; the parts of all processes add up to the whole.
    """
    if accelerator.num_processes == 1:
        return own
    everyones = accelerator.gather(own.detach())
    rows = own_rows(accelerator, len(everyones))
    return torch.cat([everyones[: rows.start], own, everyones[rows.stop :]])


def join_rollouts(accelerator: Accelerator, own: RolloutBatch, pad_token_id: int) -> RolloutBatch:
    """The rollouts of all processes as one batch, padded to the longest of all."""
    if accelerator.num_processes == 1:
        return own
    joined = {}
    for field in fields(own):
        pad = pad_token_id if field.name == "input_ids" else 0
        padded = accelerator.pad_across_processes(getattr(own, field.name), dim=1, pad_index=pad)
        joined[field.name] = accelerator.gather(padded)
    return RolloutBatch(**joined)


def raise_everywhere(accelerator: Accelerator, problem: BadRollout | None) -> None:
    """Raise if any process has a problem, so that none waits for the numbers of one that gave up."""
    if accelerator.num_processes == 1:
        if problem is not None:
            raise problem
        return
    problems = gather_object([None if problem is None else (problem.zh, problem.en)])
    for index, texts in enumerate(problems):
        if texts is not None:
            raise BadRollout(f"进程 {index}：{texts[0]}", f"Process {index}: {texts[1]}") from problem
