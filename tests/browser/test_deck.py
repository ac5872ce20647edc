"""Step through a talk in a real browser, as a teacher does: ``make test-browser``.

In: the decks of the wanted lessons, built here as HTML; without node they are skipped. Looked at: every slide
comes with the arrow key and its heading is in sight, pictures and formulas are drawn, the presenter view
opens, nothing is asked of a network, the console stays silent. Screenshots: ``output/browser/``.
"""

from __future__ import annotations

import contextlib

import pytest

from rlhf import profiles
from rlhf.errors import MissingAssets
from tools import decks, slides
from tools.notebooks import LANGUAGES

from .lab import SHOTS
from .test_lab import wanted

LOCAL = ("file:", "data:", "blob:")
SHOWN = "svg.bespoke-marp-slide.bespoke-marp-active"
# what of the slide that is shown has no size: pictures that did not load, formulas that were not drawn
UNDRAWN = f"""async () => {{
    const slide = document.querySelector('{SHOWN}');
    await Promise.all(Array.from(slide.querySelectorAll('img'), image => image.decode().catch(() => null)));
    const empty = part => !part.getBoundingClientRect().width || part.tagName == 'IMG' && !part.naturalWidth;
    return Array.from(slide.querySelectorAll('img, mjx-container')).filter(empty)
        .map(part => part.outerHTML.slice(0, 80));
}}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """``{(lesson, language): file}``, built as ``make slides`` does."""
    try:
        slides.prepare()
    except MissingAssets as error:
        pytest.skip(str(error))
    every = [decks.load(profiles.CHECKOUT / "slides" / f"{name}.md") for name in wanted()]
    texts = {
        f"{deck.name}.{language}": decks.markdown(deck, language) for deck in every for language in LANGUAGES
    }
    built = slides.build(texts, tmp_path_factory.mktemp("slides"), ["html"])
    return {page.name.removesuffix(".html"): page for page in built}


@contextlib.contextmanager
def opened(browser, file):
    """A page with the deck; fails at the end if it asked for anything, or if its console complained."""
    wrong = []
    with browser.new_context(viewport={"width": 1280, "height": 720}) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda asked: asked.url.startswith(LOCAL) or wrong.append(asked.url))
        page.goto(file.as_uri())
        page.locator(SHOWN).wait_for()
        yield page
    assert not wrong, wrong


@pytest.mark.timeout(600)
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", wanted())
def test_every_slide_comes_and_is_drawn(browser, pages, name, language):
    SHOTS.mkdir(parents=True, exist_ok=True)
    count = len(decks.load(profiles.CHECKOUT / "slides" / f"{name}.md").slides)
    with opened(browser, pages[f"{name}.{language}"]) as page:
        assert page.evaluate("document.documentElement.lang.slice(0, 2)") == language
        for number in range(1, count + 1):
            assert page.locator(f"{SHOWN} :is(h1, h2)").first.is_visible(), number
            assert page.evaluate(UNDRAWN) == [], number
            if number in (1, count // 2, count):
                page.screenshot(path=SHOTS / f"deck_{name}_{language}_{number:02}.png")
            page.keyboard.press("ArrowRight")  # after the last one it stays
            page.wait_for_function(f"location.hash == '#{min(number + 1, count)}'")
        page.keyboard.press("ArrowLeft")
        page.wait_for_function(f"location.hash == '#{count - 1}'")


def test_the_presenter_view_opens_with_the_same_slide(browser, pages):
    with opened(browser, next(iter(pages.values()))) as page:
        page.keyboard.press("ArrowRight")
        with page.expect_popup() as popup:
            page.keyboard.press("p")
        presenter = popup.value
        presenter.locator(".bespoke-marp-presenter-container").wait_for()
        presenter.locator(".bespoke-marp-presenter-next-container").wait_for()
        assert "#2" in presenter.url


def test_a_picture_that_does_not_load_is_noticed(browser, pages, tmp_path):
    file = next(iter(pages.values()))
    broken = tmp_path / file.name
    broken.write_text(
        file.read_text(encoding="utf-8").replace("data:image/", "data:imagine/"), encoding="utf-8"
    )
    with opened(browser, broken) as page:
        found = []
        for _ in range(20):
            found += page.evaluate(UNDRAWN)
            page.keyboard.press("ArrowRight")
    assert found
