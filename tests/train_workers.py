"""The commands of ``rlhf.train``, one after another, in one of several processes; a test launches this file.

Each process leaves in ``<home>/process<k>.json`` what every command returned and printed. The last command
fails on purpose in the last process, as one does that runs out of memory.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from rlhf import launched, loop, sampling, train

SFT = ["sft", "--reviews", "24", "--max_length", "16", "--save_every", "2", "--learning_rate", "1e-3"]
REWARD = ["reward", "--data", "pairs", "--pairs", "8", "--held_out", "4", "--epochs", "1"]
PPO = ["ppo", "--steps", "10", "--save_every", "4", "--learning_rate", "1e-4", "--ppo_epochs", "2"]
PPO += ["--response_tokens", "[2, 6]"]


def sized(words: list[str], rows: int) -> list[str]:
    """With ``rows`` sequences in the batch of all processes together."""
    each = str(rows // launched.count())
    return [*words, "--batch_size", each, *(["--mini_batch_size", each] if words[0] == "ppo" else [])]


def by_query(generate: Callable) -> Callable:
    """``sampling.generate`` with random numbers that belong to a query and a step instead of a process: any
    number of processes write the same texts. Policy, softmax and all the rest are the real ones."""
    calls = [0]

    def drawn(model, queries, limits, batch_size=None, **settings):
        calls[0] += 1
        rollout = sampling.Rollout()
        for query, limit in zip(queries, limits, strict=True):
            torch.manual_seed(hash((calls[0], *query.tolist())) % 2**31)
            one = generate(model, [query], [limit], **settings)
            rollout.queries += one.queries
            rollout.responses += one.responses
        return rollout

    return drawn


def run(words: list[str]) -> dict:
    """The command as a user gives it: exit code, and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = train.main(words)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def fail_at(step: int) -> None:
    """The last process gives up before this PPO step."""
    calls, one_step = [], loop.one_step

    def failing(*arguments):
        calls.append(1)
        if len(calls) == step and launched.index() == launched.count() - 1:
            raise MemoryError("out of memory, on purpose")
        return one_step(*arguments)

    loop.one_step = failing


def main(home: Path) -> None:
    launched._leave = lambda: None  # the next command runs in the same group
    sampling.generate = by_query(sampling.generate)
    commands = {"sft": sized(SFT, 8), "reward": sized(REWARD, 4), "ppo": sized(PPO, 8)}
    commands |= {"rejection": ["rejection"], "wrong": ["ppo", "--lam", "2"]}
    found = {name: run(words) for name, words in commands.items()}
    (home / f"process{launched.index()}.json").write_text(json.dumps(found))
    fail_at(3)
    train.main(sized([*PPO, "--output", "broken", "--save_every", "1"], 8))


if __name__ == "__main__":
    main(Path(os.environ["RLHF_HOME"]))
    sys.exit(0)
