"""The one browser that all of these tests use."""

from __future__ import annotations

import pytest

from tools import system


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium: ``RLHF_CHROMIUM``, or what is installed. Without one the tests fail:
    they run only where somebody asks for them."""
    from playwright.sync_api import sync_playwright

    system.need(("浏览器测试", "The browser tests need"), ["chromium"])
    with sync_playwright() as p:
        running = p.chromium.launch(executable_path=system.find_browser(), args=["--no-sandbox"])
        yield running
        running.close()
