"""The page of rlhf.serve in a real browser, by keyboard alone: ``make test-browser``, not in ``make test``.

Screenshots stay under ``output/browser/``.
"""

from __future__ import annotations

import re

import pytest

from rlhf import profiles, serve

from .lab import CHECKOUT, SHOTS

EVIL = "The film <script>document.title = 'broken'</script><img src=x onerror=alert(1)> was"


@pytest.fixture(scope="module")
def page_at():
    """The profile's policy on both sides: what is built is enough, and equal models have equal answers."""
    folder = CHECKOUT / profiles.read("offline")["policy"]
    reward = CHECKOUT / profiles.read("offline")["reward_model"]
    log = SHOTS / "server.log"
    with serve.comparing(folder, folder, reward, device="cpu", log=log) as page:
        yield page


@pytest.fixture(params=["light", "dark"])
def tab(request, browser, page_at):
    """The page, freshly opened, in English; ``problems`` collects what goes wrong in it."""
    with browser.new_context(viewport={"width": 1100, "height": 900}, color_scheme=request.param) as context:
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.theme, page.problems, asked = request.param, [], []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("dialog", lambda dialog: (page.problems.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda sent: asked.append(sent.url))
        page.goto(f"{page_at.url}?lang=en")
        page.locator("[data-ready]").wait_for()
        yield page
        assert not page.problems
        assert all(url.startswith((page_at.url, "data:")) for url in asked), asked  # nothing from elsewhere


def texts(page, selector: str) -> list[str]:
    return [" ".join(text.split()) for text in page.locator(selector).all_inner_texts()]


def test_two_answers_with_scores_by_keyboard_alone(tab, page_at):
    assert tab.evaluate("document.activeElement.id") == "prompt"  # one can begin to write at once
    tab.keyboard.type("This film was")
    tab.keyboard.press("Tab")
    tab.keyboard.type("6")  # what was there is selected, and replaced
    for control in ("temperature", "seed"):
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.id") == control
    tab.keyboard.press("ArrowUp")  # another seed
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")  # the button
    tab.locator(".round").wait_for()
    assert texts(tab, ".round > .small") == ["seed 1 · temperature 1 · at most 6 tokens"]
    assert texts(tab, ".answer h2") == ["Before policy", "After policy-2"]
    before, after = (tab.locator(f".{side} .text").inner_text() for side in ("before", "after"))
    assert before == after and before.startswith("This film was ") and len(before) > len("This film was ")
    asked = serve.Question("This film was", max_tokens=6, seed=1)
    done = page_at.pair.ask(asked)
    assert before == done.text + done.after.text
    assert texts(tab, ".score strong") == [f"{done.before.score:.2f}", f"{done.after.score:.2f}"]
    assert texts(tab, "#tally") == ["After scored higher in 0 of 1 so far; mean change of the score +0.00"]
    tab.screenshot(path=SHOTS / f"chat_{tab.theme}_en.png", full_page=True)


def test_text_is_shown_as_text(tab):
    tab.keyboard.type(EVIL)
    tab.keyboard.press("Enter")  # in the text, too
    tab.locator(".round").wait_for()
    assert tab.locator(".before .text").inner_text().startswith(EVIL)
    assert tab.locator("main script, main img").count() == 0 and tab.title() == "Before and after"


def test_both_languages_and_what_is_wrong_in_both(tab):
    assert texts(tab, "label:visible")[0] == "How a review begins"
    tab.keyboard.press("Enter")
    tab.locator("#error:not(:empty)").wait_for()
    assert texts(tab, "#error") == ["Write a few words to begin with."]
    assert tab.locator("#prompt").get_attribute("aria-invalid") == "true"
    for _ in range(2):  # back to the top: the second button, then the first
        tab.keyboard.press("Shift+Tab")
    assert tab.evaluate("document.activeElement.id") == "zh"
    tab.keyboard.press("Enter")
    assert texts(tab, "#error") == ["请先写几个词作为开头。"]
    assert texts(tab, "label:visible")[0] == "影评的开头" and tab.locator("html[lang=zh-CN]").count() == 1
    words = tab.locator("main").inner_text()
    assert not re.search(r"\b(Compare|Seed|Write)\b", words)
    tab.locator("#prompt").fill("word " * 300)
    tab.keyboard.press("Enter")
    tab.get_by_text("提示太长").wait_for()
    tab.locator("#prompt").fill("The actors")
    tab.keyboard.press("Enter")
    tab.locator(".round").wait_for()
    assert texts(tab, "#error") == [""] and texts(tab, ".answer h2")[1] == "训练后 policy-2"
    tab.screenshot(path=SHOTS / f"chat_{tab.theme}_zh.png", full_page=True)
