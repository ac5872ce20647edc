"""A real JupyterLab with the course's notebooks, and a real headless Chromium that looks at it.

In: a folder to work in; the notebooks are copied there, so that what the browser saves touches nothing of
the checkout. Out: :class:`Lab`, whose pages open a lesson, run all its cells and hand over what they show.
"""

from __future__ import annotations

import contextlib
import json
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
SHOTS = CHECKOUT / "output" / "browser"  # screenshots
PARTS = ("notebooks", "lessons", "figs", "pyproject.toml", "README.md", "README.zh.md", "GLOSSARY.md")
OPEN = """async (seconds) => {
    const app = window.jupyterapp, until = Date.now() + 1000 * seconds;
    const pause = () => new Promise(done => setTimeout(done, 100));
    const waited = async (promise) => {
        let done = false;
        promise.then(() => { done = true; });
        while (!done) {
            const dialog = document.querySelector('.jp-Dialog');
            if (dialog) throw new Error("JupyterLab says: " + dialog.innerText.slice(0, 500));
            if (Date.now() > until) throw new Error("no notebook opened");
            await pause();
        }
    };
    await waited(app.restored);
    let panel = app.shell.currentWidget;
    for (; !(panel && panel.content && panel.content.model && panel.sessionContext); await pause()) {
        await waited(Promise.resolve());
        panel = app.shell.currentWidget;
    }
    await waited(panel.context.ready); await waited(panel.sessionContext.ready);
    return panel.title.label;
}"""
RUN = "async () => await window.jupyterapp.commands.execute('notebook:run-all-cells')"
CELLS = """() => Array.from(window.jupyterapp.shell.currentWidget.content.widgets).map(cell => ({
    type: cell.model.type, source: cell.model.sharedModel.getSource(),
    tags: cell.model.getMetadata('tags') || [],
    outputs: cell.model.type == 'code' ? cell.model.outputs.toJSON() : [],
    count: cell.model.type == 'code' ? cell.model.executionCount : null}))"""
SHOW = """async (index) => {
    const book = window.jupyterapp.shell.currentWidget.content;
    const pause = (ms) => new Promise(done => setTimeout(done, ms));
    book.activeCellIndex = index;
    await Promise.race([book.scrollToItem(index, 'start'), pause(5000)]);  // some never answer
    await pause(800);
}"""
CELL = "const cell = window.jupyterapp.shell.currentWidget.content.widgets[index].node;"
BROKEN = f"""async (index) => {{ {CELL}
    const images = Array.from(cell.querySelectorAll('img'));
    for (let i = 0; i < 100 && !images.every(image => image.complete); i++)
        await new Promise(done => setTimeout(done, 100));
    return images.filter(image => !image.naturalWidth).map(image => image.src.slice(0, 120));
}}"""
# what the keyboard has, if it is a control of a widget in this cell; words beside a control are no name
FOCUS = f"""(index) => {{ {CELL}
    const here = document.activeElement;
    if (!here.closest('.jupyter-widgets') || !cell.contains(here)) return null;
    const own = here.getAttribute('aria-label') || (here.labels && here.labels[0] || {{}}).textContent;
    const kinds = ['[tabindex]', '[contenteditable]', 'button', 'select', 'input', 'textarea'];
    const all = cell.querySelectorAll(kinds.map(kind => '.jupyter-widgets ' + kind).join(', '));
    return {{role: here.getAttribute('role') || here.type || here.tagName.toLowerCase(),
             place: Array.from(all).indexOf(here), name: (own || here.textContent).trim(),
             value: here.getAttribute('aria-valuetext') || here.value || null}};
}}"""
DRAWN = f"""(index) => {{ {CELL}
    return cell.querySelector('.jupyter-widgets') !== null;
}}"""
CONTROLS = f"""(index) => {{ {CELL}
    const kinds = ['[role=slider]', 'button', 'select', 'input', 'textarea'];
    return cell.querySelectorAll(kinds.map(kind => '.jupyter-widgets ' + kind).join(', ')).length;
}}"""
SHOWN = f"""(index) => {{ {CELL}
    const parts = cell.querySelectorAll('.widget-html, .jupyter-widgets img');
    return Array.from(parts).map(part => part.innerHTML).join(' ');
}}"""
WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass
class Lab:
    """A running server; ``url`` carries the token."""

    folder: Path
    port: int
    token: str

    def lesson(self, page, name: str, folder: str = "notebooks") -> str:
        """Open ``<folder>/<name>.ipynb`` and wait for its kernel; returns the tab's title. Kernels of lessons
        that were open before end: each holds about 1 GB.

        A dialog in between is an error: the Lab had something to complain of.
        """
        for session in self.sessions():
            self._ask(f"sessions/{session['id']}", "DELETE")
        page.goto(f"http://127.0.0.1:{self.port}/lab/tree/{folder}/{name}.ipynb?token={self.token}&reset")
        page.wait_for_function("window.jupyterapp !== undefined", timeout=120_000)
        return page.evaluate(OPEN, 300)

    def sessions(self) -> list[dict]:
        """The notebooks that have a kernel."""
        return json.loads(self._ask("sessions"))

    def _ask(self, what: str, method: str = "GET") -> bytes:
        """The answer of Jupyter's own interface."""
        address = f"http://127.0.0.1:{self.port}/api/{what}"
        request = urllib.request.Request(
            address, method=method, headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()


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


def broken_images(page, index: int) -> list[str]:
    """Addresses of the images of a cell in sight that did not load."""
    return page.evaluate(BROKEN, index)


@dataclass
class Control:
    """What the keyboard has: a control of a widget. ``place`` tells it from the others of its cell; ``value``
    is what a screen reader says (``aria-valuetext``; ``aria-valuenow`` has one decimal)."""

    role: str
    place: int
    name: str
    value: str | None


def controls(page, index: int) -> int:
    """How many sliders, buttons, lists and fields the widgets of a cell have."""
    return page.evaluate(CONTROLS, index)


def tab_through(page, index: int, presses: int = 60) -> Iterator[Control]:
    """Press Tab, from the cell on, and yield every control of its widgets that is reached, once."""
    page.keyboard.press("Escape")  # leave the editor, where Tab is a letter
    reached = set()
    for _ in range(presses):
        page.keyboard.press("Tab")
        found = page.evaluate(FOCUS, index)
        if found is not None and found["place"] not in reached:
            reached.add(found["place"])
            yield Control(**found)
        elif found is not None:
            return  # round again


def shown(page, index: int) -> str:
    """What the widgets of a cell show, as HTML."""
    return page.evaluate(SHOWN, index)


def focused(page, index: int) -> Control | None:
    """The control that the keyboard has now, if it is one of this cell's."""
    found = page.evaluate(FOCUS, index)
    return found and Control(**found)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(lab: Lab, server: subprocess.Popen) -> None:
    for _ in range(1800):
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab stopped: {(lab.folder / 'lab.log').read_text()[-2000:]}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{lab.port}/api?token={lab.token}", timeout=2)
            return
        time.sleep(0.1)
    raise RuntimeError("JupyterLab did not answer within three minutes")
