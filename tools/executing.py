"""Run lessons headless, several at a time where there are cores for it, and say how far they are.

In: names of lessons. Out: each of them run and kept (a copy, the committed notebook, or only its times), and
a line when it begins and when it ends. Trainings this small gain little from a second thread: two at a time,
with half of the threads each, are faster than one after the other. :mod:`tools.order` says which is next.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import psutil
from nbformat import NotebookNode

from rlhf import profiles
from tools import checking, order, running
from tools.notebooks import Course, build, read, write
from tools.timing import carry_over

TIMEOUT = 3600  # seconds for one cell; the imdb and full profiles train in a single cell
MOST = 4  # lessons at a time: the chain 04, 07, 10 takes a third of the whole, however many run beside it
MEMORY = 3 * 2**30  # bytes free for each: twice what the lessons take that train most

# keeps the lesson of this name as it was run, given what went wrong in it; returns what is wrong in the end
Keep = Callable[[str, NotebookNode, str], str]


def execute(course: Course, names: list[str], keep: Keep, timeout: int = TIMEOUT, jobs: int = 1) -> list[str]:
    """Run lessons and tell what happens; returns the names of those that failed, whose errors are shown.

    Args:
        keep: what becomes of a lesson that was run: :func:`copies`, :func:`in_place`, :func:`times`.
        jobs: how many run at once, with a share of the threads each. One: in the order of ``names``.

    Raises:
        KeyboardInterrupt: Ctrl-C; all kernels have been ended.
    """
    needed = order.needs(course, names)
    takes = {name: order.seconds(course, name) for name in names}
    waiting = list(names) if jobs == 1 else order.by_urgency(needed, takes)
    board, failed, at_work = Board(len(names), jobs), [], dict[Future, str]()

    def one(name: str) -> str:
        board.begins(name)
        return _execute_one(course, name, keep, timeout, share_of_threads(jobs), board)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or at_work:
                unfinished = {*waiting, *at_work.values()}
                ready = [name for name in waiting if not needed[name] & unfinished]
                for name in ready[: jobs - len(at_work)]:
                    waiting.remove(name)
                    at_work[pool.submit(one, name)] = name
                for done in wait(at_work, timeout=1, return_when=FIRST_COMPLETED).done:
                    name = at_work.pop(done)
                    board.ends(name, done.result())
                    failed += [name] if done.result() else []
        except BaseException:
            while wait(at_work, timeout=0.2).not_done:
                running.stop_all()
            raise
    return failed


def how_many(lessons: int) -> int:
    """How many of so many lessons run at once unless somebody says: as cores and memory allow. On a GPU it
    is one, which may need all of it."""
    if profiles.pick_device() != "cpu":
        return 1
    room = int(psutil.virtual_memory().available // MEMORY)
    return max(1, min(cores(), room, MOST, lessons))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_threads(jobs: int) -> int | None:
    """Threads for each of several lessons; None where the environment says it, or one lesson has them all."""
    return None if jobs == 1 or os.environ.get("OMP_NUM_THREADS") else max(1, cores() // jobs)


def _execute_one(
    course: Course, name: str, keep: Keep, timeout: int, threads: int | None, board: Board
) -> str:
    """Run one lesson and keep the result; returns what went wrong, or nothing."""
    notebook = build(course.source(name))
    total = len(notebook.cells)
    for file in ("table.json", "table.html"):  # a table on the page comes from a run that happened now
        (profiles.root() / "output" / name / file).unlink(missing_ok=True)
    folder, trouble = course.notebooks if course.notebooks.is_dir() else course.root, ""
    try:
        running.run(notebook, folder, timeout, lambda cell: board.is_at(name, 100 * cell // total), threads)
    except running.CellFailed as error:
        trouble = str(error)
    return keep(name, notebook, trouble)


class Board:
    """What is said meanwhile: a line when a lesson begins and one when it ends; on a terminal a single line
    for all that run, with how far each of them is."""

    def __init__(self, total: int, jobs: int):
        self.total, self.jobs, self.terminal = total, jobs, sys.stdout.isatty()
        self.begun: dict[str, tuple[str, float]] = {}  # name: its line so far, and since when
        self.far: dict[str, int] = {}  # of those that run now, per cent
        self.lock = threading.Lock()

    def begins(self, name: str) -> None:
        with self.lock:
            line = f"[{len(self.begun) + 1}/{self.total}] {name} …"
            self.begun[name] = line, time.perf_counter()
            self.far[name] = 0
            if not self.terminal:
                print(line, end=" " if self.jobs == 1 else "\n", flush=True)
            self._show()

    def is_at(self, name: str, percent: int) -> None:
        with self.lock:
            self.far[name] = percent
            self._show()

    def ends(self, name: str, trouble: str) -> None:
        with self.lock:
            line, since = self.begun[name]
            del self.far[name]
            took = f"{time.perf_counter() - since:.0f} s {'✗' if trouble else '✓'}"
            waiting = not self.terminal and self.jobs == 1  # the line stands there already
            print(took if waiting else f"{self._erase()}{line} {took}")
            print(f"{trouble}\n" if trouble else "", end="", flush=True)
            self._show()

    def _show(self) -> None:
        if self.terminal:
            line = " · ".join(f"{self.begun[name][0]} {far} %" for name, far in self.far.items())
            room = shutil.get_terminal_size().columns - 1
            print(self._erase() + line[:room], end="", flush=True)

    def _erase(self) -> str:
        return "\r\x1b[K" if self.terminal else ""


# ------------------------------------------------------------------------------- what becomes of a run lesson


def copies(out: Path) -> Keep:
    """Keep executed copies in ``out``, failed ones too: they show how far they came."""

    def keep(name: str, notebook: NotebookNode, trouble: str) -> str:
        write(notebook, out / f"{name}.ipynb")
        return trouble

    return keep


def in_place(course: Course) -> Keep:
    """Refresh the committed notebooks; the old one stays where the new one is not fit to commit."""

    def keep(name: str, notebook: NotebookNode, trouble: str) -> str:
        trouble = trouble or "\n".join(f"    {problem}" for problem in checking.outputs(notebook))
        if not trouble:
            write(notebook, course.notebook(name))
        return trouble

    return keep


def times(course: Course) -> Keep:
    """Renew how long the cells of the committed notebooks take; their outputs stay as they are."""

    def keep(name: str, notebook: NotebookNode, trouble: str) -> str:
        if not trouble:
            committed = read(course.notebook(name))
            carry_over(notebook, committed)
            write(committed, course.notebook(name))
        return trouble

    return keep
