"""How long the cells of a lesson took: kept in the notebook, so that a teacher can plan with it.

In: the process of a kernel while it runs cells. Out: in the metadata of each code cell
``"seconds": {"wall": …, "cpu": …}``, in that of the notebook ``"timed"``: date, machine, threads. ``cpu``
counts the kernel and its children; where other work has the cores, it is the better guess of what a quiet
machine would take. ``execute`` writes both; ``execute --times`` renews them and leaves the outputs alone.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Callable

import psutil
from nbformat import NotebookNode

SECONDS, TIMED = "seconds", "timed"


class Stopwatch:
    """Times one cell after the other; ``process`` gives the kernel's process id, or None when it is gone."""

    def __init__(self, process: Callable[[], int | None]):
        self.process = process
        self.begun: tuple[float, float] | None = None

    def start(self) -> None:
        self.begun = time.perf_counter(), self._cpu()

    def stop(self, cell: NotebookNode) -> None:
        """Write into ``cell`` what has passed since :meth:`start`."""
        if self.begun is not None:
            wall, cpu = time.perf_counter() - self.begun[0], self._cpu() - self.begun[1]
            cell.metadata[SECONDS] = {"wall": round(wall, 2), "cpu": round(max(cpu, 0.0), 2)}
            self.begun = None

    def _cpu(self) -> float:
        """Seconds of user and system time of the kernel and of its children, ended ones included."""
        number = self.process()
        if number is None:
            return 0.0
        with contextlib.suppress(psutil.Error):
            kernel = psutil.Process(number)
            total = sum(kernel.cpu_times()[:4])
            for child in kernel.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += sum(child.cpu_times()[:2])
            return total
        return 0.0


def stamp(notebook: NotebookNode, threads: int | None = None) -> None:
    """Note in ``notebook`` when and where its cells were timed, with how many threads."""
    from rlhf import report  # with pandas and matplotlib, which those who only read times do without

    notebook.metadata[TIMED] = {
        "date": datetime.date.today().isoformat(),
        "hardware": report.hardware(),
        "threads": threads or int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
    }


def carry_over(source: NotebookNode, target: NotebookNode) -> int:
    """Give the cells of ``target`` the times that the same cells of ``source`` have; returns how many."""
    times = {cell.id: cell.metadata[SECONDS] for cell in source.cells if SECONDS in cell.metadata}
    count = 0
    for cell in target.cells:
        cell.metadata.pop(SECONDS, None)
        if cell.id in times:
            cell.metadata[SECONDS] = dict(times[cell.id])
            count += 1
    if TIMED in source.metadata:
        target.metadata[TIMED] = dict(source.metadata[TIMED])
    return count


def seconds(cell: NotebookNode) -> float | None:
    """What this cell takes on a machine that does nothing else, as far as one run tells: CPU time where the
    wall clock ran longer because other work had the cores, wall time where several threads shared the work.
    None where the cell was not timed."""
    times = cell.metadata.get(SECONDS)
    return None if times is None else min(times["wall"], times["cpu"] or times["wall"])
