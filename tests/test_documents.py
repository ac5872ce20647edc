"""Documents, drawings, addresses and alt texts: every kind of planted fault is found, the course has none."""

import re
from pathlib import Path

import pytest

from rlhf import profiles
from tools import addresses, alts, documents, figures, markdown, named

ROOT = profiles.CHECKOUT
README = """# A course

[中文](README.zh.md) · English

Two words about 3 things, in [the glossary](GLOSSARY.md#terms--术语) and [below](#how).

![A rising curve](figs/a.svg)

## How

| what | where |
|---|---|
| the first thing | [here](sub%20folder/page.md) |

```
make course   # everything
```

<!-- results: typed by a program -->
| query |
|---|
| This is what a model wrote and it is English |
<!-- /results -->
"""
ZH = """# 一门课

中文 · [English](README.md)

用几句话讲 3 件事，见[术语表](GLOSSARY.md#terms--术语)和[下面](#怎么做)。

![一条上升的曲线](figs/a.svg)

## 怎么做

| 什么 | 在哪里 |
|---|---|
| 第一件事 | [这里](sub%20folder/page.md) |

```
make course   # 全部
```

<!-- results: typed by a program -->
| 提示 |
|---|
| This is what a model wrote and it is English |
<!-- /results -->
"""
GLOSSARY = """# 术语表 · Glossary

## Terms · 术语

| 中文 | English | 意思 | meaning |
|---|---|---|---|
| 词元 | token | 模型读写文字的最小单位。 | The smallest piece of text a model reads. |
| 词表 | vocabulary | 模型认识的全部词元。 | All tokens a model knows. |
"""
HALVES = "# Both\n\n## 中文\n\n一段话，有 2 个数。\n\n## English\n\nA paragraph with 2 numbers.\n"
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"><text>a</text></svg>'
)
FILES = {"README.md": README, "README.zh.md": ZH, "GLOSSARY.md": GLOSSARY, "BOTH.md": HALVES}
FILES |= {"figs/a.svg": SVG, "sub folder/page.md": "# Page\n"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def found(root: Path) -> list[str]:
    return [*documents.problems(root), *figures.problems(root)]


def test_good_documents_have_no_faults(root):
    assert found(root) == []


def test_the_documents_of_the_course_have_no_faults():
    assert {"README.zh.md", "GLOSSARY.md", "PLATFORMS.md", "tools/README.md"} <= set(documents.names(ROOT))
    assert found(ROOT) == []


HOW = "## How\n"
LINKS = {
    "a file that is not there": ("[x](gone.md)", "gone.md does not exist"),
    "another case": ("[x](glossary.md)", "it is spelled GLOSSARY.md"),
    "decoded": ("[x](sub%20folder/gone.md)", "gone.md does not exist"),
    "by reference": ("[x][y]\n\n[y]: gone.md", "gone.md does not exist"),
    "a reference that nothing defines": ("[x][nothing]", "is no link"),
    "a blank before the address": ("[x] (GLOSSARY.md)", "is no link"),
    "in HTML": ('<a href="gone.md">x</a>', "gone.md does not exist"),
    "in a block of HTML": ('<p>\n<a href="gone.md">x</a>\n</p>', "gone.md does not exist"),
    "in a table": ("| a |\n|---|\n| [x](gone.md) |", "gone.md does not exist"),
    "in a list": ("- b\n  - [x](gone.md)", "gone.md does not exist"),
    "a picture": ("![A curve that falls](gone.svg)", "gone.svg does not exist"),
    "an anchor of this page": ("[x](#gone)", "no heading or id #gone"),
    "an anchor of another page": ("[x](GLOSSARY.md#gone)", "no heading or id #gone"),
    "a Chinese anchor": ("[x](README.zh.md#没有)", "no heading or id #没有"),
    "no address": ("[x]()", "without an address"),
    "out of the course": ("[x](../../etc/passwd)", "leads out of the course"),
    "absolute": ("[x](/GLOSSARY.md)", "begins with /"),
    "another scheme": ("[x](htps://arxiv.org/abs/1)", "not the address of another site"),
    "no host": ("[x](https:/arxiv.org)", "not the address of another site"),
    "a machine's file": ("[x](file:///etc/hosts)", "is no link"),
    "no alt text": ("![](figs/a.svg)", "has no alt text"),
    "no alt attribute": ('<img src="figs/a.svg">', "has no alt text"),
    "an empty alt attribute": ('<img src="figs/a.svg" alt="">', "has no alt text"),
    "a file's name": ("![a.svg](figs/a.svg)", "the name of a file"),
    "nothing said": ("![Figure 3](figs/a.svg)", "does not say what is to be seen"),
    "the other language": ("![一条曲线](figs/a.svg)", "in the other language"),
    "wide brackets": ("[x]（GLOSSARY.md）", "is no link"),
    "a bracket left open": ("[x](GLOSSARY.md and more", "is no link"),
    "a page of the writer's machine": ("[x](http://localhost:8888/lab/tree/a)", "not the address"),
    "another lesson's number": ("[lesson 08](sub%20folder/07_loop.md)", "leads to lesson 07"),
    "another file's name": ("[`page.md`](GLOSSARY.md)", "'page.md' leads to GLOSSARY.md"),
    "one text for two pictures": ("![A rising curve](figs/b.svg)", "has the alt text of figs/a.svg"),
    "a drawing in HTML": ("<svg width='9'><path d='M0 0'/></svg>", "<svg> has no alt text"),
    "a frame in HTML": ('<iframe src="figs/a.svg"></iframe>', "<iframe> has no alt text"),
}


@pytest.mark.parametrize("fault", LINKS)
def test_a_planted_fault_is_found(root, fault):
    text, said = LINKS[fault]
    (root / "README.md").write_text(README.replace(HOW, f"{HOW}\n{text}\n"), encoding="utf-8")
    assert any("README.md" in problem and said in problem for problem in found(root)), found(root)


CHANGES = {
    "a section in one language": ("README.md", HOW, "## More\n\nWords.\n\n## How\n", "headings differ"),
    "another number": ("README.zh.md", "3 件", "4 件", "numbers differ"),
    "another picture": ("README.md", "](figs/a.svg)", "](README.md)", "images differ"),
    "another command": ("README.zh.md", "make course", "make test", "code differs"),
    "an English paragraph": (
        "README.zh.md",
        "用几句话讲 3 件事，见",
        "Words about 3 things: ",
        "not translated",
    ),
    "a half-translated sentence": ("README.zh.md", "讲 3 件事", "is all that we need, 3 ", "not translated"),
    "an English cell": ("README.zh.md", "| 第一件事 |", "| the first thing |", "not translated"),
    "an English heading": ("README.zh.md", "## 怎么做", "## How to", "not translated"),
    "a Chinese word": ("README.md", "Two words", "Two 词 words", "Chinese"),
    "a paragraph of one half": ("BOTH.md", "## English", "再说一段。\n\n## English", "blocks differ"),
    "a half": ("BOTH.md", "## English\n", "## Anglais\n", "not both"),
    "another number in a program's table": (
        "README.zh.md",
        "<!-- /results -->",
        "3<!-- /results -->",
        "program",
    ),
    "another command in a sentence": ("README.md", "Two words", "Two words, `make x`", "inline code differs"),
    "an English comment": ("README.zh.md", "# 全部", "# just everything", "comment is not translated"),
    "no way to the other language": (
        "README.md",
        "[中文](README.zh.md)",
        "[中文](README.md)",
        "does not lead",
    ),
    "a heading of terms in English": ("GLOSSARY.md", "## Terms · 术语", "## Terms", "in both languages"),
    "a sentence on terms in Chinese": (
        "GLOSSARY.md",
        "## Terms",
        "只有中文的一句话。\n\n## Terms",
        "lines of prose",
    ),
    "an English name as the Chinese one": ("GLOSSARY.md", "| 词表 |", "| the vocabulary |", "no Chinese"),
    "a link in a drawing": ("figs/a.svg", "</svg>", '<a href="b.html"/></svg>', "a link to b.html"),
    "a shape that is not there": ("figs/a.svg", "</svg>", '<use href="#gone"/></svg>', "draws #gone"),
    "a term without a meaning": ("GLOSSARY.md", "All tokens a model knows.", " ", "a term needs"),
    "a term in English only": ("GLOSSARY.md", "模型认识的全部词元。", "All tokens it knows.", "no Chinese"),
    "a Chinese meaning in English": ("GLOSSARY.md", "All tokens", "All 词元", "Chinese in English"),
    "a term twice": ("GLOSSARY.md", "| 词表 |", "| 词元 |", "already"),
    "a picture from elsewhere": ("figs/a.svg", "</svg>", '<image xlink:href="b.png"/></svg>', "loads b.png"),
    "a picture without words": ("figs/a.svg", "</svg>", '<image href="data:x"/></svg>', "no alt text"),
    "a font from elsewhere": (
        "figs/a.svg",
        "</svg>",
        "<style>@import 'https://e.org';</style></svg>",
        "loads",
    ),
    "a Chinese label": ("figs/a.svg", ">a<", ">词<", "are English"),
    "no drawing": ("figs/a.svg", "</svg>", "", "not readable"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_planted_difference_is_found(root, change):
    file, old, new, said = CHANGES[change]
    text = FILES[file]
    assert old in text
    (root / file).write_text(text.replace(old, new), encoding="utf-8")
    assert any(said in problem for problem in found(root)), found(root)


def test_a_drawing_that_nothing_shows_is_found(root):
    (root / "figs" / "b.svg").write_text(SVG, encoding="utf-8")
    assert found(root) == ["figs/b.svg: nothing shows it"]


def test_what_git_ignores_is_not_there():
    file = ROOT / "README.md"
    assert "ignored by git" in addresses.fault(".git", file, ROOT)
    assert addresses.fault("tools/README.md#graders", file, ROOT) == ""


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("https://arxiv.org/abs/1707.06347", True),
        ("http://127.0.0.1:8080", True),
        ("mailto:a@b.org", True),
        ("https://arxiv", False),
        ("https://arxiv.org/abs/1，然后", False),
        ("https://a.org/https://b.org", False),
        ("http://a.org:port/", False),
        ("mailto:a", False),
        ("javascript:alert(1)", False),
    ],
)
def test_addresses_of_other_sites(address, good):
    assert addresses.well_formed(address) == good


@pytest.mark.parametrize(
    "alt",
    ["", " ", "image", "图", "Fig. 3", "a plot", "07_loop.svg", "07 loop", "x/y.png", "&nbsp;", "fig:loop_1"],
)
def test_texts_that_name_a_file_or_a_kind(alt):
    assert alts.fault(alt, "../figs/07_loop.svg")


@pytest.mark.parametrize(
    "alt",
    ["TODO: alt text", "see the figure above", "scatter plot", "asdf", "一张图片", "如图所示", "啊啊啊"],
)
def test_texts_that_say_nothing(alt):
    assert alts.fault(alt, "../figs/07_loop.svg")


def test_texts_that_say_something():
    assert not alts.fault("The loop of PPO", "../figs/07_loop.svg", "en")
    assert not alts.fault("PPO 的循环", "../figs/07_loop.svg", "zh")
    assert not alts.fault("图中三条曲线都上升", "../figs/07_loop.svg", "zh")
    assert not alts.fault("Line plot of the reward", "../figs/07_loop.svg", "en")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("`tools/gone.py`", "does not exist"),
        ("`python -m rlhf.gone --help`", "no such program"),
        ("```\nmake gone   # all\n```", "no such target"),
    ],
)
def test_what_a_text_names_is_there(text, said):
    good = "`tools/named.py`, `figs/NN_name.py`\n\n```\nRLHF_SEED=1 make course\npython -m tools.lessons\n```"
    assert list(named.unknown(good, ROOT)) == []
    assert said in next(named.unknown(text, ROOT))


def test_messages_are_chinese_first_then_english(tmp_path):
    (tmp_path / "rlhf" / "checks").mkdir(parents=True)
    lines = [
        'Wrong("错了。", "Wrong.")',
        'Wrong("Wrong.", "Wrong.")',
        'errors.BadData("错了。", f"{x} 错了。")',
    ]
    lines += ['def e():\n    return f"{x} right", f"{x} right"', "# see tools/gone.md"]
    (tmp_path / "rlhf" / "checks" / "lesson42.py").write_text("\n".join(lines), encoding="utf-8")
    found = list(named.messages(tmp_path))
    assert [re.search(r"line (\d+)", what)[1] for what in found] == ["2", "3", "5"]
    assert "tools/gone.md does not exist" in next(named.mentions(tmp_path))


def test_anchors_as_pages_make_them():
    anchors = markdown.parse("# 1 Two *words*: `x`\n\n## 没有\n\n## 没有\n\n<a id='own'></a>").anchors
    assert {"1-two-words-x", "没有", "没有-1", "own"} <= anchors
