"""The one browser that all of these tests use."""

from __future__ import annotations

import os

import pytest

from tools.slides import find_browser


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium: ``RLHF_CHROMIUM``, or what is installed; without one the tests are skipped."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("RLHF_CHROMIUM") or find_browser()
    if path is None:
        pytest.skip("no Chromium here: apt install chromium, or set RLHF_CHROMIUM")
    with playwright.sync_playwright() as p:
        running = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()
