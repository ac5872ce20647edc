"""Open the built site in a real browser without a network: ``make test-browser``, after ``make site``.

In: ``output/site``; without it these tests are skipped. Looked at: the switch leads to the same section in
the other language and the keyboard reaches it, both searches find the lesson, formulas are drawn in a font of
the site's own, the console stays silent, no request is for another machine. Screenshots: ``output/browser/``.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import re
import threading

import pytest

from .lab import CHECKOUT, SHOTS

SITE = CHECKOUT / "output" / "site"
LESSON = "lessons/06_ppo_step_by_step.html"
DESKTOP, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def address():
    """Where the site is served on this machine."""
    if not (SITE / "index.html").is_file():
        pytest.skip("no site here: make site")

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *what):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def visit(browser, address, size=DESKTOP, scheme="light", scripts=True):
    """A page that may talk to the site alone; fails if it asked for more or if something went wrong in it."""
    away, wrong = [], []
    width, height = size
    view = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
    with browser.new_context(**view, java_script_enabled=scripts) as context:

        def guard(route):
            if route.request.url.startswith((address, "data:", "blob:")):
                return route.continue_()
            away.append(route.request.url)
            return route.abort()

        context.route("**/*", guard)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on(
            "console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "response", lambda got: wrong.append(f"{got.status} {got.url}") if got.status >= 400 else None
        )
        yield page
    assert not away, away
    assert not wrong, wrong


def switch(page) -> None:
    """Click on the switch where it is: Playwright's own click scrolls the page, which a reader's does not."""
    box = page.locator("a.language-switch:visible").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def test_the_first_page_goes_to_the_language_of_the_browser(browser, address):
    with visit(browser, address) as page:
        page.goto(f"{address}/index.html")
        page.wait_for_url("**/en/index.html")
        assert page.locator("article table a").count() >= 10, "the lesson table"
        switch(page)
        page.wait_for_url("**/zh/index.html*")
        page.goto(f"{address}/index.html")
        page.wait_for_url("**/zh/index.html")  # what was read last


@pytest.mark.parametrize(("here", "there"), [("zh", "en"), ("en", "zh")])
def test_the_switch_keeps_the_place(browser, address, here, there):
    with visit(browser, address) as page:
        page.goto(f"{address}/{here}/{LESSON}")
        marks = page.locator("article [id*='-s-']")
        number = marks.count() // 2
        name = marks.nth(number).get_attribute("id")
        marks.nth(number).evaluate("mark => mark.scrollIntoView()")
        switch(page)
        page.wait_for_url(f"**/{there}/{LESSON}#{name}")
        assert page.locator("html").get_attribute("lang")[:2] == there
        top = page.locator(f"article #{name}").evaluate("mark => mark.getBoundingClientRect().top")
        assert -5 <= top < 300, "the same section is in sight"


def test_the_keyboard_reaches_the_switch(browser, address):
    with visit(browser, address) as page:
        page.goto(f"{address}/zh/{LESSON}")
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.classList.contains('language-switch')"):
                break
        else:
            pytest.fail("twenty tabs did not reach the switch")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", "focus can be seen"
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/en/{LESSON}*")


@pytest.mark.parametrize(
    ("language", "query", "lesson"),
    [
        ("zh", "优势", "06_ppo_step_by_step"),
        ("zh", "奖励模型", "05_reward_modelling"),  # two words that are written as one
        ("zh", "LoRA", "03_gpt_from_scratch"),
        ("en", "calibration", "05_reward_modelling"),
        ("en", "clipping", "07_ppo_imdb"),  # found by its stem
    ],
)
def test_search_finds_the_lesson(browser, address, language, query, lesson):
    with visit(browser, address) as page:
        page.goto(f"{address}/{language}/index.html")
        page.keyboard.press("Control+k")
        page.keyboard.type(query)
        page.keyboard.press("Enter")
        page.wait_for_selector(f"#search-results a[href*='{lesson}']")
        if query == "奖励模型":  # the glossary's entry, then the lesson of that name
            found = page.locator("ul.search > li > a").evaluate_all("all => all.map(each => each.href)")
            assert "glossary.html" in found[0] and lesson in found[1], found
        page.wait_for_function("document.querySelectorAll('#search-results .context').length > 0")
        shown = page.locator("#search-results").inner_text()
        assert query.lower()[:4] in shown.lower()


@pytest.mark.parametrize(
    ("language", "query", "page_and_words"),
    [
        ("zh", "优势", ("06_ppo_step_by_step", "优势")),
        ("zh", "KL惩罚", ("06_ppo_step_by_step", "KL 惩罚")),  # written without the blank
        ("en", "value head", ("03_gpt_from_scratch", "value head")),
        ("en", "reward hacking", ("glossary", "reward hacking")),
    ],
)
def test_the_search_leads_to_the_section_without_a_server(browser, language, query, page_and_words):
    """The site as a folder that somebody unpacked: no page may be fetched, and still the words are shown."""
    where, words = page_and_words
    with visit(browser, "file://") as page:
        page.goto(f"{SITE.as_uri()}/{language}/search.html?q={query}")
        page.wait_for_function("document.querySelectorAll('ul.search .context mark').length > 2")
        items = page.locator("ul.search > li")
        assert items.first.locator(".context").count(), "the first result is explained as well"
        own = page.locator(f"ul.search a[href*='{where}'][href*='#']")
        assert words.lower() in page.locator("#search-results").inner_text().lower()
        own.first.click()
        page.wait_for_url(f"**/{where}.html#*")
        name = page.evaluate("decodeURIComponent(location.hash.slice(1))")
        top = page.locator(f"[id='{name}']").first.evaluate("mark => mark.getBoundingClientRect().top")
        assert -5 <= top < 400, "the section is in sight"


def test_code_is_copied_and_the_first_tab_skips_to_the_text(browser, address):
    with visit(browser, address) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
        page.goto(f"{address}/en/{LESSON}")
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.getAttribute('href')")
        assert focused == "#main-content", "the skip link comes first"
        assert page.locator("a.skip-link, #pst-skip-link a, #pst-skip-link").first.is_visible()
        button = page.locator(".cell_input .copy-code").first
        button.focus()
        page.keyboard.press("Enter")
        page.wait_for_function("document.activeElement.textContent === 'Copied'")
        code = page.locator(".cell_input pre").first.inner_text()
        assert page.evaluate("navigator.clipboard.readText()").strip() == code.strip()
        assert page.locator(".cell_output .copy-code").count() == 0


def test_nothing_is_found_where_there_is_nothing(browser, address):
    with visit(browser, address) as page:
        page.goto(f"{address}/zh/search.html?q=量子纠缠")
        page.wait_for_function(
            "document.querySelector('#search-results p.search-summary').innerText.length > 8"
        )
        assert page.locator("#search-results li").count() == 0


def test_formulas_are_drawn(browser, address):
    with visit(browser, address) as page:
        page.goto(f"{address}/en/lessons/02_attention_and_glu.html")
        page.evaluate("document.fonts.ready")
        assert page.evaluate("document.fonts.check('16px \"Course Math\"', 'x')")
        sizes = page.locator("article math").evaluate_all(
            "all => all.map(each => each.getBoundingClientRect()).map(box => [box.width, box.height])"
        )
        assert len(sizes) > 20 and all(width > 2 and height > 5 for width, height in sizes)
        fraction = page.locator("article .formula mfrac").first
        above, below = (fraction.locator(f"> :nth-child({n})").bounding_box() for n in (1, 2))
        assert above["y"] + above["height"] <= below["y"] + 2, "a fraction stands upright"


def test_a_page_reads_without_scripts(browser, address):
    with visit(browser, address, scripts=False) as page:
        page.goto(f"{address}/zh/{LESSON}")
        switch(page)
        page.wait_for_url(f"**/en/{LESSON}")
        assert page.locator("article math").count() > 5


def test_paper_is_light(browser, address):
    with visit(browser, address, scheme="dark") as page:
        page.goto(f"{address}/en/{LESSON}")
        page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
        page.evaluate(
            "addEventListener('beforeprint', () => (window.ink = getComputedStyle(document.body).color))"
        )
        page.pdf()
        red, green, blue = map(int, re.findall(r"\d+", page.evaluate("window.ink"))[:3])
        assert max(red, green, blue) < 100, "dark ink"
        assert page.evaluate("document.documentElement.dataset.theme") == "dark", "and back again"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_nothing_sticks_out(browser, address, size, scheme):
    """No page scrolls sideways, every picture loads and the switch is in sight, on a desk and on a phone."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    pages = sorted(path.relative_to(SITE).as_posix() for path in SITE.glob("??/lessons/*.html"))
    pages += [
        f"{tree}/{name}.html" for tree in ("zh", "en") for name in ("index", "guide", "results", "glossary")
    ]
    with visit(browser, address, size, scheme) as page:
        for name in pages:
            page.goto(f"{address}/{name}")
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{name} is {wide} px too wide"
            images = "[...document.images].filter(each => each.complete && !each.naturalWidth).length"
            assert page.evaluate(images) == 0, name
            assert page.locator("a.language-switch:visible").count() == 1, name
            shot = name.replace("/", "_").removesuffix(".html")
            page.screenshot(path=SHOTS / f"site_{shot}_{size[0]}_{scheme}.png")
