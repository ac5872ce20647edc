"""The decks: their text is right, planted faults are found, and a real browser measures slides."""

import base64
import re
from pathlib import Path

import nbformat
import pytest
from matplotlib import pyplot as plt

from rlhf import errors, pictures, profiles
from tools import decks, letters, slides, system

PIXEL = base64.b64encode(b"\x89PNG not looked at").decode()
GOOD = """\
---
facts:
  gain: 'gain ([+-][\\d.]+)'
plots:
  curve: draw(curve)
---
"""
SLIDE = """\
<!-- zh -->
## 第 {n} 页

增益 {{{{gain}}}}，公式 $a^2$。

![一条曲线上升](../figs/a.svg)

<!-- en -->
## Slide {n}

Gain {{{{gain}}}}, formula $a^2$.

![A rising curve](../figs/a.svg)
"""


@pytest.fixture
def deck(tmp_path: Path) -> Path:
    """A small correct deck in a small course."""
    for name in ("slides", "figs", "lessons", "notebooks"):
        (tmp_path / name).mkdir()
    (tmp_path / "figs" / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="4"/>')
    (tmp_path / "lessons" / "42_small.py").write_text("")
    code = nbformat.v4.new_code_cell("draw(curve)")
    code.outputs = [
        nbformat.v4.new_output("stream", text="reward 1.0, gain +0.25\n"),
        nbformat.v4.new_output("display_data", {"image/png": PIXEL}),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=[code]), tmp_path / "notebooks" / "42_small.ipynb")
    path = tmp_path / "slides" / "42_small.md"
    parts = [SLIDE.format(n=n) for n in range(1, 11)]
    for old, new in (("../figs/a.svg", "plot:curve"), ("上升", "下降"), ("rising", "falling")):
        parts[0] = parts[0].replace(old, new)
    path.write_text(GOOD + "\n---\n".join(parts), encoding="utf-8")
    return path


def test_the_decks_of_the_course_are_right():
    paths = decks.names()
    assert paths
    assert [problem for path in paths for problem in decks.problems(path)] == []


def test_a_good_deck_has_no_problems_and_becomes_one_language(deck):
    assert decks.problems(deck) == []
    zh, en = (decks.markdown(decks.load(deck), language) for language in ("zh", "en"))
    assert "增益 +0.25" in zh and "Gain" not in zh and "lang: zh-CN" in zh
    assert "Gain +0.25" in en and "增益" not in en
    assert zh.count("<figure>") == en.count("<figure>") == 10
    assert f"data:image/png;base64,{PIXEL}" in zh and "data:image/svg+xml;base64," in en


FAULTS = {
    "another number": ("Slide 3", "Slide 4", "headings differ|numbers differ"),
    "another formula": ("formula $a^2$", "formula $a^3$", "formulas differ"),
    "another figure": ("![A rising curve](../figs/a.svg)", "![A rising curve](plot:curve)", "images differ"),
    "a figure that is not there": ("figs/a.svg", "figs/b.svg", "There is no figure"),
    "no alt text": ("![A rising curve]", "![]", "no alt text"),
    "alt text in the other language": ("![A rising curve]", "![一条曲线]", "in the other language"),
    "an alt text that says nothing": ("![A rising curve]", "![figure 2]", "does not say what is to be seen"),
    "Marp's words for an alt text": ("![A rising curve]", "![bg right:40% A curve]", "for the theme"),
    "one text for two pictures": ("![A falling curve]", "![A rising curve]", "has the alt text of"),
    "a link that leads nowhere": ("Gain {{gain}}", "Gain {{gain}} [x](gone.md)", "gone.md does not exist"),
    "a link to a file of the course": ("Gain {{gain}}", "Gain {{gain}} [x](42_small.md)", "not beside"),
    "a malformed address": ("Gain {{gain}}", "Gain {{gain}} [x](https://a,b/c)", "not the address"),
    "a picture in a style": ("Gain", "<b style='background:url(a.png)'>Gain</b>", "the style loads a.png"),
    "a drawing without a name": ("Gain", "<svg width='9'></svg> Gain", "<svg> has no alt text"),
    "a footer in one language": (
        "<!-- zh -->\n## 第 3 页",
        "<!-- _footer: Foot -->\n<!-- zh -->\n## 第 3 页",
        "only _class",
    ),
    "Chinese in a formula of both": ("$a^2$", "$a^2_\\text{奖}$", "Chinese in the formulas"),
    "a picture within a line": (
        "![A rising curve](../figs/a.svg)",
        "See ![A rising curve](../figs/a.svg)",
        "its own",
    ),
    "an unknown fact": ("Gain {{gain}}", "Gain {{loss}}", "quoted numbers differ"),
    "a fact that the notebook does not show": ("'gain (", "'win (", "does not show gain"),
    "a fact nobody uses": ("facts:\n", "facts:\n  more: 'x(y)'\n", "declared but not used"),
    "a plot nobody draws": ("curve: draw(curve)", "curve: draw(other)", "there must be one"),
    "a machine path": ("Gain {{gain}}", "Gain {{gain}} in /home/me/x", "path of this machine"),
    "no title": ("## Slide 3\n", "Slide 3\n", "no title"),
    "no English part": ("<!-- en -->", "", "one <!-- zh --> part, then one <!-- en --> part"),
    "the parts exchanged": ("<!-- zh -->", "<!-- en -->", "one <!-- zh --> part, then one <!-- en --> part"),
    "no lesson": (None, None, "no lesson of that name"),
    "too few slides": ("## Slide 1\n", None, "a deck has 10 to 20"),
    "no front matter": ("---\nfacts:", "facts:", "front matter"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(deck, fault):
    old, new, message = FAULTS[fault]
    text = deck.read_text(encoding="utf-8")
    if fault == "no lesson":
        deck = deck.rename(deck.with_name("43_other.md"))
        (deck.parents[1] / "notebooks" / "42_small.ipynb").rename(
            deck.parents[1] / "notebooks" / "43_other.ipynb"
        )
    elif new is None:
        deck.write_text(text.rpartition("\n---\n")[0], encoding="utf-8")
    else:
        assert old in text
        deck.write_text(text.replace(old, new, -1 if "of both" in fault else 1), encoding="utf-8")
    found = decks.problems(deck)
    assert any(part in problem for part in message.split("|") for problem in found), found


def test_a_rule_inside_code_does_not_end_a_slide(deck):
    text = deck.read_text(encoding="utf-8").replace("公式", "\n\n```\n---\n```\n\n公式", 1)
    deck.write_text(text.replace("formula", "\n\n```\n---\n```\n\nformula", 1), encoding="utf-8")
    assert len(decks.load(deck).slides) == 10
    assert decks.problems(deck) == []


def test_what_is_missing_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(system.shutil, "which", lambda name: None)
    monkeypatch.setattr(system, "FONTS", ())
    monkeypatch.setattr(system.sys, "platform", "linux")
    for name in system.CHOSEN:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(errors.MissingAssets) as caught:
        slides.prepare()
    command = "sudo apt install nodejs npm chromium fonts-noto-cjk"
    assert "node, npm, chromium, fonts-noto-cjk" in caught.value.en and command in caught.value.en
    assert command in caught.value.zh
    for readme in ("README.md", "README.zh.md"):
        assert command in (profiles.CHECKOUT / readme).read_text(encoding="utf-8")


def test_a_browser_that_is_no_program_and_an_old_node_are_named(monkeypatch, tmp_path, capsys):
    node = tmp_path / "node"
    node.write_text("#!/bin/sh\necho v12.22.9\n")
    node.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("RLHF_CHROMIUM", "")
    monkeypatch.setenv("CHROME_PATH", "/no/such/chrome")
    assert system.main(["node", "chromium"]) == 2
    said = capsys.readouterr().err
    assert "needs node, chromium" in said and "CHROME_PATH is no program: /no/such/chrome" in said
    assert "here is 12" in said and "这里是 12" in said
    node.write_text("#!/bin/sh\necho v20.19.1\n")
    monkeypatch.setenv("CHROME_PATH", str(node))
    assert system.main(["node", "chromium"]) == 0


def test_an_unknown_deck_is_named(capsys):
    assert slides.main(["99", "--check"]) == 2
    assert "No such deck: 99" in capsys.readouterr().err


SVG = (
    "<svg xmlns='http://www.w3.org/2000/svg' width='1000' height='400'><rect width='999' height='399'/></svg>"
)
IMAGE = "data:image/svg+xml;base64," + base64.b64encode(SVG.encode()).decode()
LINES = "\n".join(f"line {n}" for n in range(1, 9))
LONG = "\n".join(f"line {n}" for n in range(1, 30))
CODE = "<pre style='{}'><code>" + LONG + "</code></pre>"
TABLE = "<table>" + "<tr><td>cell</td><td>other</td></tr>" * 8 + "</table>"
FITS = f"""<h2>Title</h2><p>A line with <code>code</code>, <strong>bold</strong>.</p>
<ul><li>one<ul><li>within</li></ul></li></ul><blockquote><p>said</p></blockquote>
<figure style='flex:1;min-height:0;margin:0'><img data-letters='0.02' src='{IMAGE}' alt='a'
 style='width:100%;height:100%;object-fit:contain'></figure><footer>foot</footer>"""
CODE_FITS = (
    f"<h2>Code</h2><pre style='overflow:hidden'><code>{LINES}</code></pre><table><tr><td>a</td></tr></table>"
)
PAGES = {
    "too high": ("px too high", "<p style='flex:none'>A line.</p>" * 40),
    "too wide": (
        "too wide",
        f"<table><tr><td style='white-space:nowrap'>{'word ' * 400}</td></tr></table>",
    ),
    "code too wide": ("px of its width", "<pre style='overflow:hidden'><code>" + "x" * 500 + "</code></pre>"),
    "code squeezed": (r"<PRE> hides \d+ px of its height", CODE.format("overflow:hidden;min-height:0")),
    "code that scrolls": (r"<PRE> hides \d+ px of its height", CODE.format("overflow:auto;height:300px")),
    "code clipped": (r"^\d+ px are cut off of: line 1", CODE.format("overflow:clip;height:300px")),
    "code hanging out": ("<PRE> is squeezed", CODE.format("height:200px;flex:none")),
    "a table cut off": (
        r"<DIV> hides \d+ px",
        f"<div style='max-height:150px;overflow:hidden'>{TABLE}</div>",
    ),
    "a list that scrolls": ("<UL> hides", f"<ul style='height:90px;overflow-y:scroll'>{'<li>item' * 6}</ul>"),
    "lines clamped": (
        "<P> hides",
        f"<p style='display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:2;overflow:hidden'>"
        f"{'word ' * 90}</p>",
    ),
    "an ellipsis": (
        "<P> hides",
        f"<p style='white-space:nowrap;overflow:hidden;text-overflow:ellipsis'>{'word ' * 90}</p>",
    ),
    "cut off above": (
        "are cut off of: first",
        "<div style='height:120px;overflow:hidden;display:flex;flex-direction:column;justify-content:end'>"
        "<p>first</p><p>second</p><p>third</p><p>last</p></div>",
    ),
    "small letters": ("letters of 12 px", "<p style='font-size:12px'>Small print.</p>"),
    "letters made small": (
        "letters of 15 px",
        "<p style='transform:scale(.5);width:500px'>Half as large.</p>",
    ),
    "lines on one another": (
        "lies on one another: below | above",
        "<p>below</p><p style='margin-top:-65px'>above</p>",
    ),
    "words over a picture": (
        "lies on one another",
        f"<figure style='margin:0'><img src='{IMAGE}' alt='a' width='1000'></figure>"
        "<p style='position:absolute;top:300px'>over it</p>",
    ),
    "no picture": ("did not load", "<p><img alt='gone' src='data:image/png;base64,AAAA'></p>"),
    "a picture squeezed": (
        "too small to read",
        f"<p style='height:400px;flex:none'>tall</p><figure style='flex:1;min-height:0;margin:0'>"
        f"<img src='{IMAGE}' alt='a' style='width:100%;height:100%;object-fit:contain'></figure>",
    ),
    "a picture stretched": ("is stretched", f"<img src='{IMAGE}' alt='a' style='width:600px;height:380px'>"),
    "a picture cropped": (
        "a picture is cut off",
        f"<img src='{IMAGE}' alt='a' style='width:600px;height:380px;object-fit:cover'>",
    ),
    "a picture cut off": (
        "<FIGURE> hides",
        f"<figure style='height:200px;overflow:hidden;margin:0'><img src='{IMAGE}' alt='a' width='1000'>"
        "</figure>",
    ),
    "small letters in a picture": (
        "letters of 8.0 px in a picture",
        f"<figure style='margin:0'><img data-letters='0.008' src='{IMAGE}' alt='a' width='1000'></figure>",
    ),
    "white on white": ("hardly stands out", "<p style='color:#fff'>Not to be seen.</p>"),
    "dark on dark": ("hardly stands out", "<div style='background:#123'><p>Not to be seen.</p></div>"),
    "transparent": ("hardly stands out", "<div style='opacity:.1'><p>Not to be seen.</p></div>"),
    "not shown": ("is not shown: Not", "<p style='display:none'>Not to be seen.</p>"),
    "invisible": ("is not shown: Not", "<p style='visibility:hidden'>Not to be seen.</p>"),
    "folded": ("is folded", "<details><summary>More</summary><p>Not to be seen.</p></details>"),
    "clipped": ("is clipped", "<p style='clip-path:inset(0 50% 0 0)'>Half of it.</p>"),
    "blurred": ("is clipped, masked or filtered", "<p style='filter:blur(9px)'>Not to be read.</p>"),
    "turned": ("is turned", "<p style='transform:rotate(20deg)'>Not level.</p>"),
    "under a box": (
        "lies under <DIV>: Below",
        "<p>Below.</p><div style='position:absolute;inset:0;background:#eee'></div>",
    ),
    "behind the slide": ("behind", "<p style='position:relative;z-index:-1'>Not to be seen.</p>"),
    "lines into one another": ("set into one another", "<p style='line-height:.5'>One.<br>Two.</p>"),
    "letters into one another": ("too close", "<p style='letter-spacing:-.2em'>One word.</p>"),
    "cut off by its style alone": (
        "<DIV> hides",
        f"<div style='contain:paint;height:40px'>{'word ' * 90}</div>",
    ),
    "a field": ("is a field", "<input value='a long text that is not to be seen' size='5'>"),
    "a formula made small": (
        "letters of 10 px, too small to read: a formula",
        "<mjx-container><svg width='40' height='10' viewBox='0 0 4000 1000'></svg></mjx-container>",
    ),
    "at the foot": ("reaches the foot", "<div style='height:545px;flex:none'></div><p>Last line.</p>"),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One page in which every slide but the first two has one planted fault."""
    if slides.find_browser() is None:
        pytest.skip("no Chromium here: `make slides` asks for it")
    bodies = [FITS, CODE_FITS, *("<h2>Title</h2><p>A line.</p>" + body for _, body in PAGES.values())]
    style = (
        "section{width:1280px;height:720px;overflow:hidden;box-sizing:border-box;padding:40px 40px 50px;"
        "font-size:30px;display:flex;flex-direction:column;position:relative}p,h2,ul{margin:0 0 10px}"
        "code{font-size:24px}"
        "footer{position:absolute;bottom:10px;left:40px;font-size:18px}"
    )
    sections = "".join(f'<section id="{i}">{body}</section>' for i, body in enumerate(bodies, 1))
    page = tmp_path_factory.mktemp("page") / "deck.html"
    page.write_text(f"<!doctype html><style>{style}</style><body>{sections}</body></html>", encoding="utf-8")
    found = slides.measure([page], [len(bodies)])
    return [(number, what) for _, number, what in found], page


def test_a_slide_that_fits_is_left_alone(measured):
    assert [what for number, what in measured[0] if number <= 2] == []


@pytest.mark.parametrize("fault", PAGES)
def test_an_overflowing_slide_is_measured(measured, fault):
    number = list(PAGES).index(fault) + 3
    found = [what for where, what in measured[0] if where == number]
    assert any(re.search(PAGES[fault][0].replace("|", r"\|"), what) for what in found), found


def test_a_page_with_fewer_slides_than_its_deck_is_not_believed(measured):
    count = len(PAGES) + 2
    with pytest.raises(errors.CannotWrite, match=f"it saw {count} of {count + 1}"):
        slides.measure([measured[1]], [count + 1])


def test_the_smallest_letters_of_a_picture_are_known(tmp_path):
    """Of a drawing, of a plot with its letters as text, and of a plot as notebooks keep it."""
    with plt.style.context(str(pictures.STYLE)):
        figure = plt.figure(figsize=(4, 2))
        figure.text(0.1, 0.5, "small", fontsize=7)
        figure.text(0.1, 0.2, "large", fontsize=20)
        for name, kept in (("path", {"svg.fonttype": "path"}), ("none", {"svg.fonttype": "none"})):
            with plt.rc_context(kept):
                figure.savefig(tmp_path / f"{name}.svg")
        figure.savefig(tmp_path / "a.png", dpi=80)
        plt.close(figure)
    for name in ("path", "none"):
        size = letters.smallest("image/svg+xml", (tmp_path / f"{name}.svg").read_bytes())
        assert size == pytest.approx(7 / (4 * 72))
    assert letters.smallest("image/png", (tmp_path / "a.png").read_bytes()) == pytest.approx(
        9 / (4 * 72), rel=0.01
    )
    assert letters.smallest("image/png", base64.b64decode(PIXEL)) is None
