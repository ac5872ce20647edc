"""Open every lesson in JupyterLab, run all, look: ``make test-browser``, not part of ``make test``.

Needs a Chromium: ``RLHF_CHROMIUM``, or ``chromium`` or ``google-chrome`` on the path. Some lessons only:
``make test-browser LESSONS="00 06"``. What is looked at: the table is in sight, no cell ended in an error,
all pictures loaded, widgets are used with the keyboard alone, and the browser's console has no error.
Screenshots of every lesson stay under ``output/browser/``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools import editions
from tools.notebooks import Course

from . import lab as looking
from .lab import CHECKOUT, SHOTS, run_all, running_lab, show

COURSE = Course(CHECKOUT)
SECONDS = 3600  # for one lesson; they take minutes, more where other work has the cores
MOVES = {"slider": ("ArrowLeft", "ArrowRight"), "number": ("ArrowDown", "ArrowUp")}  # the keys that move it
NOT_OURS = ()  # pieces of console errors that JupyterLab itself is known for


def wanted() -> list[str]:
    """The lessons of ``RLHF_BROWSER_LESSONS``, or all that have a notebook."""
    names = COURSE.names(os.environ.get("RLHF_BROWSER_LESSONS", "").split() or None)
    return [name for name in names if COURSE.notebook(name).is_file()]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with running_lab(tmp_path_factory.mktemp("course")) as running:
        yield running


@pytest.fixture
def page(browser):
    """A fresh page; ``page.errors`` collects what its console calls an error."""
    with browser.new_context(viewport={"width": 1280, "height": 1000}) as context:
        page = context.new_page()
        page.set_default_timeout(300_000)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda line: page.errors.append(line.text) if line.type == "error" else None)
        yield page


@pytest.mark.timeout(SECONDS + 600)
@pytest.mark.parametrize("name", wanted())
def test_lesson_runs_and_shows_its_table(lab, page, name):
    assert lab.lesson(page, name) == f"{name}.ipynb"
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}_top.png")
    cells = run_all(page, seconds=SECONDS)
    code = [cell for cell in cells if cell["type"] == "code"]
    errors = [out for cell in code for out in cell["outputs"] if out["output_type"] == "error"]
    assert not errors, errors[0]["evalue"]
    assert [cell["count"] for cell in code] == list(range(1, len(code) + 1))
    table = next(index for index, cell in enumerate(cells) if "table" in cell["tags"])
    show(page, table)
    page.screenshot(path=SHOTS / f"{name}_table.png")
    assert page.locator(".jp-OutputArea .rlhf-report table").first.is_visible()
    assert pictures_that_did_not_load(page, cells) == []
    for index, cell in enumerate(cells):
        if any(looking.WIDGET in output.get("data", {}) for output in cell["outputs"]):
            sliders = use_by_keyboard(page, index, SHOTS / f"{name}_widget_{index}.png")
            assert sliders or "sliders(" not in cell["source"]
    assert [error for error in page.errors if not any(known in error for known in NOT_OURS)] == []


def pictures_that_did_not_load(page, cells: list[dict]) -> list[str]:
    """Scroll to every cell of text with a picture, and wait for it."""
    found = []
    for index, cell in enumerate(cells):
        if cell["type"] == "markdown" and "![" in cell["source"]:
            show(page, index)
            found += looking.broken_images(page, index)
    return found


def use_by_keyboard(page, index: int, shot: Path) -> int:
    """Every control of the cell's widgets is reached with Tab and has a name of its own; sliders and numbers
    move with the arrows, and what is shown moves along. Returns how many moved: a progress bar has none."""
    show(page, index)
    page.wait_for_function(f"({looking.DRAWN})({index})", timeout=120_000)
    reached, moving = [], 0
    if not looking.controls(page, index):
        return moving
    for control in looking.tab_through(page, index):
        assert control.name, f"a {control.role} without a name"
        reached.append(control)
        if control.role not in MOVES:
            continue
        role = {"number": "spinbutton"}.get(control.role, control.role)
        assert page.get_by_role(role, name=control.name, exact=True).count(), "as Chromium computes the name"
        moving += 1
        before = looking.shown(page, index)
        for key in MOVES[control.role]:
            page.keyboard.press(key)
            moved = looking.focused(page, index)
            if moved.value != control.value:  # else it stood at its end
                break
        assert moved.value != control.value, f"{control.name} does not move"
        page.wait_for_function(
            f"(before) => ({looking.SHOWN})({index}) !== before", arg=before, timeout=120_000
        )
    assert sum(control.role != "div" for control in reached) >= looking.controls(page, index)
    page.screenshot(path=shot)
    return moving


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_students_copy_opens_in_its_own_folder_with_its_pictures(lab, page, language):
    name = wanted()[0]
    editions.export(COURSE, name, "student", language, lab.folder / "student" / language)
    assert lab.lesson(page, name, f"student/{language}") == f"{name}.ipynb"
    cells = looking.cells(page)
    assert not any("solution" in cell["tags"] or cell["outputs"] for cell in cells)
    assert pictures_that_did_not_load(page, cells) == []
    page.screenshot(path=SHOTS / f"{name}_student_{language}.png")
    assert [one["path"] for one in lab.sessions()] == [f"student/{language}/{name}.ipynb"]


def test_what_the_browser_saves_is_a_copy(lab):
    assert not Path(lab.folder / "notebooks").is_symlink()
    assert Path(lab.folder / "model").resolve() == CHECKOUT / "model"
