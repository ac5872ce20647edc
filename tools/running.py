"""Run a notebook from top to bottom, headless, and tidy what it printed.

In: a notebook without outputs. Out: the same notebook with outputs that are fit to keep: progress bars
reduced to their last state, no widgets, no timestamps, no paths of the machine it ran on.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
from ipykernel.kernelspec import make_ipkernel_cmd
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from tools.timing import Stopwatch, stamp

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CURSOR_UP = re.compile(r"\x1b\[(\d*)A")
QUIET = ["--log-level=ERROR"]  # no warning about TCP: nobody but this machine listens
WIDGET = "application/vnd.jupyter.widget-view+json"


class ThisPython(AsyncKernelManager):
    """A kernel of the Python that runs this, whatever kernels are installed on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = make_ipkernel_cmd(extra_arguments=QUIET)
        return KernelSpec(argv=command, display_name="Python 3", language="python")


class CellFailed(Exception):
    """A cell raised, ran too long, or took the kernel down. ``str()`` shows the cell and what happened."""

    def __init__(self, index: int, source: str, what: str):
        self.index, self.source, self.what = index, source, what
        super().__init__(f"cell {index}:\n{_indent(source)}\n{_indent(what)}")


def run(
    notebook: NotebookNode,
    folder: Path,
    timeout: int,
    on_cell: Callable[[int], None] | None = None,
    threads: int | None = None,
) -> None:
    """Execute ``notebook`` in place, with ``folder`` as working directory; outputs are tidied either way.

    Every code cell keeps how long it took, see :mod:`tools.timing`. Several may run at once, in threads.

    Args:
        timeout: seconds that one cell may take. on_cell: called with the index of each cell that starts.
        threads: how many the kernel's arithmetic uses; by default what the environment says.

    Raises:
        CellFailed: at the first cell that fails; the outputs up to it are kept.
    """
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    started = [0]
    watch = Stopwatch(lambda: client.km.provisioner.pid if client.km and client.km.has_kernel else None)

    def on_start(cell: NotebookNode, cell_index: int) -> None:
        started[0] = cell_index
        if on_cell is not None:
            on_cell(cell_index)

    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_manager_class=ThisPython,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
        on_cell_start=on_start,
        on_cell_execute=lambda cell, cell_index: watch.start(),
        on_cell_executed=lambda cell, cell_index, execute_reply: watch.stop(cell),
    )
    _at_work.add(client)
    try:
        client.execute(env=environment)
        stamp(notebook, threads)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        what = ANSI.sub("", _traceback(notebook, started[0]) or str(error))
        raise CellFailed(started[0], notebook.cells[started[0]].source, what) from None
    finally:
        _at_work.discard(client)
        tidy(notebook)


_at_work: set[NotebookClient] = set()


def stop_all() -> None:
    """End every kernel that runs now, with all that it started; each :func:`run` then raises CellFailed."""
    for client in list(_at_work):
        kernel = getattr(client.km, "provisioner", None)
        with contextlib.suppress(psutil.Error):
            started = psutil.Process(kernel.pid) if kernel is not None and kernel.pid else None
            for process in [*started.children(recursive=True), started] if started else []:
                process.kill()


def tidy(notebook: NotebookNode) -> None:
    """Make the outputs fit to keep; see the module's docstring."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_tidied, _merged(cell.outputs)) if output is not None]


def _merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """One piece per stream where neighbours belong together, or a progress bar rewrites its own line."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            same = [o for o in kept if o.output_type == "stream" and o.name == output.name]
            if same and (same[-1] is kept[-1] or "\r" in output.text):
                same[-1].text += output.text
                continue
        kept.append(output)
    return kept


def _tidied(output: NotebookNode) -> NotebookNode | None:
    if output.output_type == "stream":
        output.text = without_paths(collapse(output.text))
        return output if output.text.strip() else None
    data = output.get("data", {})
    if WIDGET in data:
        return None
    for kind, value in data.items():
        if kind.startswith("text/") and isinstance(value, str):
            data[kind] = without_paths(value)
    return output


def collapse(text: str) -> str:
    """What a terminal would show at the end: a carriage return starts the line anew, cursor-up goes back."""
    screen, row = [""], 0
    for part in re.split(r"(\n|\r|\x1b\[\d*A)", text):
        up = CURSOR_UP.fullmatch(part)
        if part == "\n":
            row += 1
            screen += [""] * (row + 1 - len(screen))
        elif up:
            row = max(0, row - int(up[1] or 1))
        elif part == "\r":
            screen[row] += "\r"
        elif part:
            kept = "" if screen[row].endswith("\r") else screen[row]
            screen[row] = kept + part
    return "\n".join(line.rstrip("\r") for line in screen)


def without_paths(text: str) -> str:
    """``text`` with the checkout as ``.``, the course's home as ``.`` and the user's home as ``~``."""
    from rlhf import profiles

    places = {
        str(profiles.CHECKOUT): ".",
        str(profiles.root()): ".",
        sys.prefix: ".venv",
        str(Path.home()): "~",
    }
    for place in sorted(places, key=len, reverse=True):
        if len(place) > 1:
            text = re.sub(rf"{re.escape(place)}(?![\w.-])", places[place], text)
    return text


def _traceback(notebook: NotebookNode, index: int) -> str:
    """The end of the traceback that the failing cell left."""
    outputs = notebook.cells[index].get("outputs", [])
    lines = [line for output in outputs if output.output_type == "error" for line in output.traceback]
    return "\n".join("\n".join(lines).splitlines()[-25:])


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
