"""The page of rlhf.serve in a real browser, by keyboard alone: ``make test-browser``, not in ``make test``.

Once with models that continue a text, once with models that answer questions. Screenshots stay under
``output/browser/``.
"""

from __future__ import annotations

import contextlib
import json
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


@pytest.fixture(scope="module")
def talk_at(tmp_path_factory):
    """The same policy on both sides, as one that was trained on dialogues: its recipe says so."""
    place = tmp_path_factory.mktemp("models")
    policy = CHECKOUT / profiles.read("offline")["policy"]
    for name in ("sft_talk", "ppo_talk"):
        (place / name).mkdir()
        for file in policy.iterdir():
            (place / name / file.name).symlink_to(file)
        (place / name / "recipe.yaml").write_text("data: questions.jsonl\n", encoding="utf-8")
    reward = CHECKOUT / profiles.read("offline")["reward_model"]
    log = SHOTS / "server_talk.log"
    with serve.comparing(place / "sft_talk", place / "ppo_talk", reward, device="cpu", log=log) as page:
        yield page


@contextlib.contextmanager
def opened(browser, url: str, theme: str, width: int = 1100, language: str = "en"):
    """The page, freshly opened; fails if anything went wrong in it or was asked for elsewhere."""
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme) as context:
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.theme, page.problems, asked = theme, [], []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("dialog", lambda dialog: (page.problems.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda sent: asked.append(sent.url))
        page.goto(f"{url}?lang={language}")
        page.locator("[data-ready]").wait_for()
        yield page
        assert not page.problems
        assert all(one.startswith((url, "data:")) for one in asked), asked  # nothing from elsewhere


@pytest.fixture(params=["light", "dark"])
def tab(request, browser, page_at):
    """The page over models that continue a text, in English."""
    with opened(browser, page_at.url, request.param) as page:
        yield page


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
    assert texts(tab, "#error") == ["Write a few words first."]
    assert tab.locator("#prompt").get_attribute("aria-invalid") == "true"
    for _ in range(2):  # back to the top: the second button, then the first
        tab.keyboard.press("Shift+Tab")
    assert tab.evaluate("document.activeElement.id") == "zh"
    tab.keyboard.press("Enter")
    assert texts(tab, "#error") == ["请先写几个词。"]
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


WINDOWS = [("light", 1100, "en"), ("dark", 340, "zh")]


@pytest.mark.parametrize(("theme", "width", "language"), WINDOWS)
def test_a_question_gets_two_answers(browser, talk_at, theme, width, language):
    zh = language == "zh"
    with opened(browser, talk_at.url, theme, width, language) as tab:
        assert texts(tab, "label:visible")[0] == ("问题" if zh else "A question")
        assert ("各答一次" if zh else "Both models answer") in texts(tab, "#hint")[0]
        assert not tab.locator("#example").is_visible()  # examples are beginnings of reviews
        tab.keyboard.press("Enter")
        tab.locator("#error:not(:empty)").wait_for()
        assert texts(tab, "#error") == ["请先写几个词。" if zh else "Write a few words first."]
        tab.keyboard.type("Was it good?")
        tab.keyboard.press("Enter")
        tab.locator(".round").wait_for()
        done = talk_at.pair.ask(serve.Question("Was it good?"))
        shown = [tab.locator(f".{side} .text").inner_text() for side in ("before", "after")]
        assert shown == [f"Human: Was it good?\n\nAssistant:{one.text}" for one in (done.before, done.after)]
        assert texts(tab, ".score strong") == [f"{done.before.score:.2f}", f"{done.after.score:.2f}"]
        assert sideways(tab) <= 0
        tab.screenshot(path=SHOTS / f"chat_talk_{theme}_{width}_{language}.png", full_page=True)


ODD = {  # answers that small models seldom give
    "long": (" It was a film that I would watch again." * 30 + " " + "Superb" * 60, ""),
    "markup": (
        " <b>bold</b> <img src=x onerror=alert(1)>",
        " </p></article><script>alert(2)</script> &lt;i&gt;",
    ),
    "lists": (" Yes.\n\n- **one**\n- two\n\n```python\nprint(1)\n```\n\nHuman: And then?", "   "),
}


def odd_answer(route) -> None:
    """What the server would send; ``error`` is no JSON at all."""
    question = json.loads(route.request.post_data)
    if question["prompt"] == "error":
        return route.fulfill(status=500, body="<html>Internal Server Error")
    answers = [
        {"model": name, "text": text, "tokens": 1, "ended": not text, "score": score}
        for name, text, score in zip(("a", "b"), ODD[question["prompt"]], (-0.3, 1.2), strict=True)
    ]
    text = f"\n\nHuman: {question['prompt']}\n\nAssistant:"
    done = {"question": question, "text": text, "before": answers[0], "after": answers[1], "difference": 1.5}
    return route.fulfill(json=done)


@pytest.mark.parametrize(("theme", "width", "language"), [("dark", 1100, "en"), ("light", 340, "zh")])
def test_odd_answers_and_a_failing_server(browser, talk_at, theme, width, language):
    """Long, empty, full of markup: shown as text, within the window; an error without JSON is told."""
    nothing = "（什么也没写）" if language == "zh" else "(nothing written)"
    with opened(browser, talk_at.url, theme, width, language) as tab:
        tab.route("**/api/compare", odd_answer)
        for number, (prompt, answers) in enumerate(ODD.items(), 1):
            tab.locator("#prompt").fill(prompt)
            tab.keyboard.press("Enter")
            tab.locator(".round").nth(number - 1).wait_for()
            for side, text in zip(("before", "after"), answers, strict=True):
                shown = tab.locator(f".{side} .text").first.inner_text()  # the newest stands first
                assert shown == f"Human: {prompt}\n\nAssistant:" + (text if text.strip() else nothing)
        assert sideways(tab) <= 0 and tab.locator("main script, main img, .text b").count() == 0
        assert "1 tokens" not in tab.locator("main").inner_text()
        tab.locator("#prompt").fill("error")
        tab.keyboard.press("Enter")
        tab.locator("#error:not(:empty)").wait_for()
        assert (
            "500" in texts(tab, "#error")[0] and tab.locator("#prompt").get_attribute("aria-invalid") is None
        )
        tab.screenshot(path=SHOTS / f"chat_odd_{theme}_{width}_{language}.png", full_page=True)
        tab.unroute("**/api/compare")
        tab.route("**/api/compare", lambda route: route.abort())
        tab.locator("#prompt").press("Enter")
        words = "连不上服务" if language == "zh" else "cannot be reached"
        tab.locator("#error", has_text=words).wait_for()


def sideways(page) -> int:
    """Pixels that the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")
