"""A command launched in several processes: which of them speaks and writes, and who hears of a mistake.

In: what ``torch.distributed.run`` or ``accelerate launch`` left in the environment. Out: a group of processes
that know of each other, of which the main one prints, shows progress and writes files. A process that was
started alone is the main one, and nothing here does anything. :mod:`rlhf.train` is launched this way;
lesson 11 launches it. (:mod:`rlhf.ppo.processes` is the arithmetic: which process computes which rows.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from rlhf.errors import CourseError


def count() -> int:
    """How many processes were launched together; 1 if this one was started alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def index() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def is_main() -> bool:
    """Whether this is the one that prints and writes."""
    return index() == 0


def sharding() -> str:
    """How the launcher has the model shared out: ``ZeRO-3``, ``FSDP`` (its second version), ``FSDP1`` …;
    empty if each process has it all."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        return "FSDP" if os.environ.get("FSDP_VERSION", "1") != "1" else "FSDP1"
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    return f"ZeRO-{os.environ.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', '2')}" if deepspeed else ""


@contextlib.contextmanager
def loading_whole() -> Iterator[None]:
    """What is loaded in this block is there in every process. With ``fsdp_cpu_ram_efficient_loading``
    transformers otherwise reads weights in the main one only, for FSDP to share them out; a model that is not
    shared out, such as the reward model, would stay empty in all others."""
    name = "FSDP_CPU_RAM_EFFICIENT_LOADING"
    usual = os.environ.pop(name, None)
    try:
        yield
    finally:
        if usual is not None:
            os.environ[name] = usual


def say(text: str) -> None:
    """Print, once for all processes."""
    if is_main():
        print(text, flush=True)


def join(device: str) -> None:
    """Find the other processes, on the CPU if ``device`` is ``cpu``. A second call does nothing."""
    if count() > 1:
        from accelerate import PartialState

        PartialState(cpu=device == "cpu")


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """A CourseError that any process meets in this block is raised in all of them at its end.

    So none goes on to wait for one that gave up, and :func:`group` prints the message once. The block itself
    must not wait for other processes. All leave it together.
    """
    if count() == 1:
        yield
        return
    from accelerate.utils import gather_object

    problem: CourseError | None = None
    try:
        yield
    except CourseError as error:
        problem = error
    found = gather_object([None if problem is None else (problem.zh, problem.en)])
    first = next((place for place, texts in enumerate(found) if texts is not None), None)
    if first is None:
        return
    problem = problem or CourseError(*found[first])
    problem.told_by = first
    raise problem


@contextlib.contextmanager
def group() -> Iterator[None]:
    """Around a whole command: the others are silent, a message for all is printed once, and a process that is
    told to stop (SIGTERM, when another one failed) cleans up what it was writing."""
    if count() == 1:
        yield
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with contextlib.ExitStack() as stack:
        if not is_main():
            _no_bars()
            stack.enter_context(
                contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w", encoding="utf-8")))
            )
        try:
            yield
        except CourseError as error:
            if error.told_by is not None:
                if index() == error.told_by:
                    print(error, file=sys.stderr, flush=True)
                error.printed = True
                _wait()  # a launcher ends all processes as soon as the first one fails
            raise
        finally:
            _leave()


def _no_bars() -> None:
    import datasets
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    datasets.disable_progress_bars()


def _wait() -> None:
    from accelerate import PartialState

    PartialState().wait_for_everyone()


def _leave() -> None:
    """Close the connections; without it, PyTorch warns where there are GPUs."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
