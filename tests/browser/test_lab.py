"""Open every lesson in JupyterLab, run all, see the table: ``make test-browser``, not part of ``make test``.

Needs a Chromium: ``RLHF_CHROMIUM``, or ``chromium`` or ``google-chrome`` on the path.
Screenshots of every lesson's top and table stay under ``output/browser/``.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from .lab import CHECKOUT, run_all, running_lab, show

LESSONS = sorted(path.stem for path in (CHECKOUT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SHOTS = CHECKOUT / "output" / "browser"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with running_lab(tmp_path_factory.mktemp("course")) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("RLHF_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if path is None:
        pytest.skip("no Chromium here: apt install chromium, or set RLHF_CHROMIUM")
    with playwright.sync_playwright() as p:
        running = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser):
    with browser.new_context(viewport={"width": 1280, "height": 1000}) as context:
        yield context.new_page()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", LESSONS)
def test_lesson_runs_and_shows_its_table(lab, page, name):
    assert lab.lesson(page, name) == f"{name}.ipynb"
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}_top.png")
    cells = run_all(page, seconds=900)
    code = [cell for cell in cells if cell["type"] == "code"]
    errors = [out for cell in code for out in cell["outputs"] if out["output_type"] == "error"]
    assert not errors, errors[0]["evalue"]
    assert [cell["count"] for cell in code] == list(range(1, len(code) + 1))
    table = next(index for index, cell in enumerate(cells) if "table" in cell["tags"])
    show(page, table)
    page.screenshot(path=SHOTS / f"{name}_table.png")
    assert page.locator(".jp-OutputArea .rlhf-report table").first.is_visible()


def test_what_the_browser_saves_is_a_copy(lab):
    assert not Path(lab.folder / "notebooks").is_symlink()
    assert Path(lab.folder / "model").resolve() == CHECKOUT / "model"
