"""A real JupyterLab with the course's notebooks, and a real headless Chromium that looks at it.

In: a folder to work in; the notebooks are copied there, so that what the browser saves touches nothing of
the checkout. Out: :class:`Lab`, whose pages open a lesson, run all its cells and hand over what they show.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PARTS = ("notebooks", "lessons", "figs", "pyproject.toml", "README.md", "README.zh.md", "GLOSSARY.md")
OPEN = """async () => {
    const app = window.jupyterapp;
    await app.restored;
    for (let i = 0; i < 600; i++) {
        const panel = app.shell.currentWidget;
        if (panel && panel.content && panel.content.model && panel.sessionContext) {
            await panel.context.ready; await panel.sessionContext.ready; return panel.title.label;
        }
        await new Promise(done => setTimeout(done, 100));
    }
    throw new Error("no notebook opened");
}"""
RUN = "async () => await window.jupyterapp.commands.execute('notebook:run-all-cells')"
CELLS = """() => Array.from(window.jupyterapp.shell.currentWidget.content.widgets).map(cell => ({
    type: cell.model.type, source: cell.model.sharedModel.getSource(),
    tags: cell.model.getMetadata('tags') || [],
    outputs: cell.model.type == 'code' ? cell.model.outputs.toJSON() : [],
    count: cell.model.type == 'code' ? cell.model.executionCount : null}))"""
SHOW = """async (index) => {
    const book = window.jupyterapp.shell.currentWidget.content;
    book.activeCellIndex = index; await book.scrollToItem(index, 'start');
    await new Promise(done => setTimeout(done, 800));
}"""


@dataclass
class Lab:
    """A running server; ``url`` carries the token."""

    folder: Path
    port: int
    token: str

    def lesson(self, page, name: str) -> str:
        """Open ``notebooks/<name>.ipynb`` and wait for its kernel; returns the tab's title."""
        page.goto(f"http://127.0.0.1:{self.port}/lab/tree/notebooks/{name}.ipynb?token={self.token}&reset")
        page.wait_for_function("window.jupyterapp !== undefined", timeout=120_000)
        return page.evaluate(OPEN)


@contextlib.contextmanager
def running_lab(folder: Path) -> Iterator[Lab]:
    """JupyterLab over a copy of the notebooks in ``folder``, stopped at the end."""
    copy_course(folder)
    lab = Lab(folder, _free_port(), secrets.token_hex(16))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [
        f"--ServerApp.root_dir={folder}",
        f"--port={lab.port}",
        f"--IdentityProvider.token={lab.token}",
    ]
    command += ["--expose-app-in-browser", "--ServerApp.port_retries=0"]
    environment = {**os.environ, "RLHF_HOME": str(folder), "JUPYTER_PREFER_ENV_PATH": "1"}
    with (folder / "lab.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait(lab, server)
        yield lab
    finally:
        server.terminate()
        server.wait(30)


def copy_course(folder: Path) -> None:
    """Notebooks, their sources and figures as copies; models and data as links to the built ones."""
    for part in PARTS:
        source = CHECKOUT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns(".*"))
        else:
            shutil.copy(source, folder / part)
    for part in ("model", "dataset"):
        (folder / part).symlink_to(CHECKOUT / part)


def cells(page) -> list[dict]:
    """Every cell with its type, source, tags, execution count and outputs."""
    return page.evaluate(CELLS)


def run_all(page, seconds: int) -> list[dict]:
    """Run > Run All Cells, wait for the end; returns :func:`cells`."""
    page.set_default_timeout(seconds * 1000)
    page.evaluate(RUN)
    return cells(page)


def show(page, index: int) -> None:
    """Scroll to a cell; the Lab draws only cells that are in sight."""
    page.evaluate(SHOW, index)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(lab: Lab, server: subprocess.Popen) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab stopped: {(lab.folder / 'lab.log').read_text()[-2000:]}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{lab.port}/api?token={lab.token}", timeout=2)
            return
        time.sleep(0.1)
    raise RuntimeError("JupyterLab did not answer within a minute")
