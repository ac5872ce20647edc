"""A second process for work that can be done meanwhile: :mod:`rlhf.build` trains its two models this way.

In: a function of a module and its arguments, which can be pickled. Out: a ``with`` block; at its end the
other process has ended too, and what went wrong there is raised here.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any


@contextlib.contextmanager
def beside(work: Callable[..., Any], *arguments: Any) -> Iterator[None]:
    """Do ``work(*arguments)`` in a process of its own while the block runs; its result is not wanted.

    Raises:
        What the block raises; then the other process is stopped. Otherwise what ``work`` raised, after the
        block; RuntimeError if somebody killed the process.
    """
    context = multiprocessing.get_context("spawn")
    told, tells = context.Pipe(duplex=False)
    other = context.Process(target=_at_work, args=(tells, work, arguments))
    other.start()
    tells.close()  # the other process holds the only end, so that its death can be noticed
    try:
        yield
        fault = told.recv()  # waits
    except EOFError:
        raise RuntimeError(f"the process of {work.__name__} was killed") from None
    finally:
        other.terminate()
        other.join()
    if fault is not None:
        raise fault


def _at_work(tells: Connection, work: Callable[..., Any], arguments: tuple) -> None:
    """What the other process does; it does not outlive the first, under whose locks it may be working."""
    first = multiprocessing.parent_process()
    threading.Thread(target=lambda: (first.join(), os._exit(1)), daemon=True).start()
    try:
        work(*arguments)
    except KeyboardInterrupt:
        pass  # the first process has been told as well, and says so
    except Exception as fault:
        tells.send(fault)
    else:
        tells.send(None)
