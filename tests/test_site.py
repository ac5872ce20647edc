"""The site: its pages are made of the course's files, and every kind of planted fault is counted."""

import base64
import html
import importlib.util
import json
import re
from pathlib import Path

import nbformat
import pytest

from rlhf import errors, profiles
from tools import alts, site, site_check, site_links, site_pages, site_parts, site_sections
from tools.notebooks import LANGUAGES, Course, build, one_language, read, write

ROOT = Path(__file__).resolve().parents[1]
PIXEL = base64.b64encode(b"\x89PNG not looked at").decode()
PAGE = """<!doctype html><html lang="{lang}"><head><link rel="stylesheet" href="../_static/a.css">
<script src="../_static/a.js"></script></head><body><a href="../{twin}/a.html" lang="{other}">{label}</a>
<article><h1 id="s-1">{title}</h1><p>{text} <a href="https://arxiv.org/abs/1707.06347">PPO</a>
<a href="#s-1">{text}</a> <a href="b.html#top">{text}</a> <math><mi>x</mi></math> <code>**kwargs $$</code></p>
<pre>中文 **raw**</pre><img src="../_images/a.png" alt="{alt}"></article></body></html>"""
FACTS = {
    "zh": {"lang": "zh-CN", "twin": "en", "other": "en", "label": "English", "title": "标题", "alt": "曲线"},
    "en": {
        "lang": "en",
        "twin": "zh",
        "other": "zh-CN",
        "label": "中文",
        "title": "Title",
        "alt": "A rising curve",
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small site without faults."""
    for part in ("_static", "_images", "zh/lessons", "en/lessons"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "_static" / "a.css").write_text("a {background: url(a.js), url('data:image/png;base64,x')}")
    (tmp_path / "_static" / "a.js").write_text("")
    (tmp_path / "_images" / "a.png").write_text("")
    for language, facts in FACTS.items():
        text = PAGE.replace("{text}", "文字" if language == "zh" else "words").format(**facts)
        for page in ("a", "lessons/a"):
            up = "../" if "/" in page else ""
            moved = text.replace('"../', f'"{up}../').replace(
                f"/{facts['twin']}/a", f"/{facts['twin']}/{page}"
            )
            (tmp_path / language / f"{page}.html").write_text(moved, encoding="utf-8")
        for page in ("b", "lessons/b"):
            (tmp_path / language / f"{page}.html").write_text(
                f'<html lang="{language}"><p id="top"></p></html>'
            )
    return tmp_path


def counts(folder: Path) -> dict[str, int]:
    return {kind: len(found) for kind, found in site_check.faults(folder).items()}


def test_a_good_site_has_no_faults(folder):
    assert site_check.faults(folder) == {kind: [] for kind in site_check.KINDS}
    assert site_check.external_links(folder) == {"https://arxiv.org/abs/1707.06347"}


FAULTS = {
    "a page that is not there": ("broken links", "b.html#top", "c.html"),
    "an anchor that is not there": ("broken links", "b.html#top", "b.html#bottom"),
    "an anchor of the same page": ("broken links", '"#s-1"', '"#s-2"'),
    "a script that is not there": ("broken links", "_static/a.js", "_static/b.js"),
    "an image that is not there": ("missing images", "a.png", "b.png"),
    "no alt text": ("missing alt texts", 'alt="A rising curve"', ""),
    "an empty alt text": ("missing alt texts", 'alt="A rising curve"', 'alt=" "'),
    "an alt text in Chinese": ("missing alt texts", 'alt="A rising curve"', 'alt="图"'),
    "Chinese in an English page": ("untranslated cells", "<p>words", "<p>words 没有翻译"),
    "a script from elsewhere": (
        "external requests",
        '"../../_static/a.js"',
        '"https://cdn.example.org/a.js"',
    ),
    "a style from elsewhere": ("external requests", '"../../_static/a.css"', '"//cdn.example.org/a.css"'),
    "a picture from elsewhere": ("external requests", '"../../_images/a.png"', '"http://example.org/a.png"'),
    "a style attribute": (
        "external requests",
        "<p>",
        "<p style=\"background:url('https://example.org/a')\">",
    ),
    "an import in a style": ("external requests", "<p>", "<style>@import 'https://example.org/a'</style><p>"),
    "an address with a space": ("malformed addresses", "https://arxiv.org/abs/", "https://arxiv.org/abs /"),
    "an address that runs on": ("malformed addresses", "1707.06347", "1707.06347，然后"),
    "an address without a host": ("malformed addresses", "https://arxiv.org/", "https:///"),
    "bold that was not rendered": ("unrendered text", "<p>words", "<p>**words**"),
    "a formula that was not rendered": ("unrendered text", "<mi>x</mi>", "<mi>\\foo</mi>"),
    "dollars that were not rendered": ("unrendered text", "<p>words", "<p>$$x$$ words"),
    "a link that was not rendered": ("unrendered text", "<p>words", "<p>[words](a.md)"),
    "a link without an address": ("broken links", 'href="b.html#top"', 'href=""'),
    "a link that leads out of the site": ("broken links", "b.html#top", "../../../x.html"),
    "a link in another case": ("broken links", "b.html#top", "B.html"),
    "a file of this machine": ("malformed addresses", "b.html#top", "file:///etc/hosts"),
    "a misspelled scheme": ("malformed addresses", "b.html#top", "htps://arxiv.org/abs/1"),
    "a form that leads nowhere": ("broken links", "<p>words", '<form action="gone.html"></form><p>words'),
    "an area that leads nowhere": ("broken links", "<p>words", '<area href="gone.html" alt="A map"><p>words'),
    "a file's name as alt text": ("missing alt texts", 'alt="A rising curve"', 'alt="a.png"'),
    "an alt text that says nothing": ("missing alt texts", 'alt="A rising curve"', 'alt="Image"'),
    "a picture hidden from readers": (
        "missing alt texts",
        'alt="A rising curve"',
        'alt="" role="presentation"',
    ),
    "a drawing without words": ("missing alt texts", "<p>words", "<svg><rect/></svg><p>words"),
    "a picture in a drawing": (
        "missing alt texts",
        "<p>words",
        "<svg aria-label='A box'><image href='data:x'/></svg><p>words",
    ),
    "a frame without a title": ("missing alt texts", "<p>words", '<iframe src="b.html"></iframe><p>words'),
    "a set of sources": (
        "external requests",
        'src="../../_images/a.png"',
        'src="../../_images/a.png" srcset="https://e.org/b.png 2x"',
    ),
    "a video's picture": (
        "external requests",
        "<p>words",
        '<video title="A film" poster="//e.org/a.png"></video><p>words',
    ),
    "a refresh": (
        "external requests",
        "<p>words",
        '<meta http-equiv="refresh" content="0; url=https://e.org"><p>words',
    ),
    "a script on the page": (
        "external requests",
        "<p>words",
        '<script>get("https://e.org/a")</script><p>words',
    ),
    "an event": ("external requests", "<p>words", "<p onclick=\"fetch('https://e.org/a')\">words"),
    "a picture in a style": (
        "external requests",
        "<p>words",
        "<style>a{background:url(//e.org/a)}</style><p>words",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_counted(folder, fault):
    kind, old, new = FAULTS[fault]
    page = folder / "en" / "lessons" / "a.html"
    text = page.read_text(encoding="utf-8")
    assert old in text
    page.write_text(text.replace(old, new, 1), encoding="utf-8")
    kinds = {kind, "untranslated cells"} if "<mi>" in old else {kind}  # the twin's formula is another one
    assert counts(folder) == {each: int(each in kinds) for each in site_check.KINDS}


def test_a_page_without_its_twin_is_counted(folder):
    (folder / "zh" / "b.html").unlink()
    (folder / "zh" / "a.html").unlink()
    found = site_check.faults(folder)
    assert found["untranslated cells"] == ["en/a.html: no twin", "en/b.html: no twin"]


def test_twins_with_another_number_of_formulas_are_counted(folder):
    page = folder / "zh" / "lessons" / "a.html"
    page.write_text(page.read_text("utf-8").replace("<math>", "<math></math><math>", 1), encoding="utf-8")
    found = site_check.faults(folder)["untranslated cells"]
    assert found == ["lessons/a.html: the twins differ: zh, en have 2 and 1 <math>"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<p>文字", "<p>Nobody translated this paragraph"),
        ("<p>文字", "<p>文字 is what we have here"),
        ('<h1 id="s-1">标题', '<h1 id="s-1">The title'),
        ("<mi>x</mi>", "<mi>y</mi>"),
        ("中文 **raw**", "other **raw**"),
    ],
)
def test_what_differs_in_a_chinese_page_is_counted(folder, old, new):
    page = folder / "zh" / "lessons" / "a.html"
    text = page.read_text("utf-8")
    assert old in text
    page.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert counts(folder) == {each: int(each == "untranslated cells") for each in site_check.KINDS}


def test_a_request_of_a_script_is_counted(folder):
    (folder / "_static" / "a.js").write_text("import x from 'https://e.org/x'; // see https://e.org/manual")
    (folder / "_images" / "a.svg").write_text("<svg><image href='https://e.org/x'/></svg>")
    assert site_check.faults(folder)["external requests"] == [
        "_images/a.svg: https://e.org/x",
        "_static/a.js: https://e.org/x",
    ]


def test_a_request_of_a_style_sheet_is_counted(folder):
    (folder / "_static" / "a.css").write_text("@font-face {src: url(https://fonts.example.org/a.woff)}")
    assert site_check.faults(folder)["external requests"] == [
        "_static/a.css: https://fonts.example.org/a.woff"
    ]


LESSON = """\
# %% [markdown] tags=["zh"]
# # 42 小课
#
# 分数 $\\log \\pi$ 和 $\\tfrac23$：**重点**。见[术语](../GLOSSARY.md)、[`a.py`](../rlhf/a.py)。
#
# $$S = \\frac{QK^\\top}{\\sqrt{d}}$$
#
# ![一条曲线](../figs/a.svg)

# %% [markdown] tags=["en"]
# # 42 A small lesson
#
# The score $\\log \\pi$ and $\\tfrac23$: **bold**. See [the terms](../GLOSSARY.md), [`a.py`](../rlhf/a.py).
#
# $$S = \\frac{QK^\\top}{\\sqrt{d}}$$
#
# ![A rising curve](../figs/a.svg)

# %%
draw(curve)

# %% [markdown] tags=["zh"]
# ## 1 奖励模型

# %% [markdown] tags=["en"]
# ## 1 The reward model

# %% jupyter={"source_hidden": true} tags=["solution"]
answer = 1
"""
FILES = {
    "README.md": "# RLHF\n\n[中文](README.zh.md) · English\n\nIntro.\n\n## Commands\n\n[more](rlhf/)\n\n"
    "## Lessons\n\n"
    "| lesson |\n|---|\n| [42 small](notebooks/42_small.ipynb) |\n\n## Results\n\n<!-- results: x -->\n1\n",
    "README.zh.md": "# RLHF\n\n中文 · [English](README.md)\n\n开头的\n字。\n\n## 命令\n\n[更多](rlhf/)\n\n"
    "## 课程\n\n"
    "| 课 |\n|---|\n| [42 小课](notebooks/42_small.ipynb) |\n\n## 结果\n\n<!-- results: x -->\n1\n",
    "GLOSSARY.md": "# 术语表 · Glossary\n\n## 阶段 · Stages\n\n"
    "| 中文 | English | 意思 | meaning |\n|---|---|---|---|\n"
    "| 奖励模型 | reward model | 打分的模型。 | A model that scores. |\n",
    "benchmarks/RESULTS.md": "# Results\n\n[Downloads](RESULTS-download.md)\n",
    "benchmarks/RESULTS-download.md": "# Downloads\n\n```\n# not a heading\n```\n",
    "lessons/42_small.py": LESSON,
    "rlhf/a.py": "'''`` ```'''\nx = 1\n",
    "figs/a.svg": '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="4"/>',
    "figs/42_plots.yaml": "- code: draw(curve)\n  zh: 一条曲线\n  en: A curve\n",
}


@pytest.fixture
def course(tmp_path: Path) -> Course:
    """One lesson with a plot, and all that the site is made of."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    notebook = build(tmp_path / "lessons" / "42_small.py")
    code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    code.outputs = [nbformat.v4.new_output("display_data", {"image/png": PIXEL})]
    write(notebook, tmp_path / "notebooks" / "42_small.ipynb")
    return Course(tmp_path)


def pages(course: Course, language: str) -> Path:
    made = site_pages.Pages(course, language, course.root / "src" / language, course.root / "downloads")
    made.write()
    assert made.problems == []
    return made.folder


def test_the_pages_of_one_language(course):
    zh, en = (pages(course, language) for language in LANGUAGES)
    assert {path.relative_to(zh) for path in zh.rglob("*.*")} == {
        path.relative_to(en) for path in en.rglob("*.*")
    }
    assert "开头的字。" in (zh / "index.md").read_text("utf-8"), "a line break within Chinese is no space"
    for folder in (zh, en):
        assert "(/lessons/42_small.ipynb)" in (folder / "index.md").read_text("utf-8")
        assert "README" not in (folder / "index.md").read_text("utf-8")
        lesson = read(folder / "lessons" / "42_small.ipynb")
        assert lesson.cells[0].source.startswith("(42_small-s-1)=\n# 42")
        assert lesson.cells[2].source.startswith("(42_small-s-2)=\n## 1")
        assert (
            "(/glossary.md)" in lesson.cells[0].source and "(/files/rlhf/a.py.md)" in lesson.cells[0].source
        )
        assert lesson.cells[3].metadata["tags"] == ["hide-cell"]
        assert "````python" in (folder / "files" / "rlhf" / "a.py.md").read_text("utf-8")
        assert "# not a heading" in (folder / "results.md").read_text("utf-8")
    shown = [read(folder / "lessons" / "42_small.ipynb").cells[1] for folder in (zh, en)]
    assert [cell.metadata["mystnb"]["image"]["alt"] for cell in shown] == ["一条曲线", "A curve"]
    glossary = (en / "glossary.md").read_text("utf-8")
    assert 'reward model\n  <span class="other" lang="zh">奖励模型</span> A model that scores.' in glossary
    assert "打分的模型" not in glossary


def test_a_link_that_leads_nowhere_is_named(course):
    with pytest.raises(errors.BadData, match=r"gone\.md"):
        site_links.Links(course.root, "en").rewrite("see [this](../gone.md)", "notebooks/a.ipynb")


def test_a_readme_without_its_table_is_named(course):
    path = course.root / "README.md"
    path.write_text(path.read_text("utf-8").replace("notebooks/", "nowhere/"), encoding="utf-8")
    with pytest.raises(errors.BadData, match="no section with"):
        site_pages.Readme(path)


def test_pictures_in_html_are_found_and_chinese_lines_joined():
    links = site_links.Links(ROOT, "zh")
    shown = links.rewrite('# 标题\n第一\n行\n\n<img src="../figs/00_roles.svg" alt="图">', "tools/a.md")
    assert shown == '# 标题\n第一行\n\n<img src="/figs/00_roles.svg" alt="图">'
    assert list(links.figures) == ["figs/00_roles.svg"] and not links.files


SECTIONS = {
    "notes.md": "# 笔记 · Notes\n\n中文在前，英文在后。 · Chinese first, English below.\n\n"
    "## 中文\n\n字\n\n### 开头\n\n字\n\n### 结尾\n\n<a id='last'></a>字\n\n"
    "## English\n\nwords\n\n### The start\n\nwords\n\n### The end\n\nwords\n",
    "other.md": "# Other\n\n## `a_b` again\n\n```\n## not this\n```\n\n## `a_b` again\n\n## 中文 too\n",
}
LEADS = {
    "[x](../README.md#lessons)": "index-s-2",
    "[x](../README.md#commands)": "guide-s-2",
    "[x](../README.zh.md#命令)": "guide-s-2",
    "[x](../README.md#results)": "results-s-1",
    "[x](../README.md#rlhf)": "index-s-1",
    "[x](../GLOSSARY.md#阶段--stages)": "glossary-s-2",
    "[x](../benchmarks/RESULTS-download.md#downloads)": "results-s-4",
    "[x](42_small.ipynb#1-The-reward-model)": "42_small-s-2",
    "[x](42_small.ipynb#1-奖励模型)": "42_small-s-2",
    "[x](#1-the-reward-model)": "42_small-s-2",
    "[x](#top)": "42_small-s-1",
    "[x](../notes.md#the-end)": "file-notes-md-s-3",
    "[x](../notes.md#结尾)": "file-notes-md-s-3",
    "[x](../notes.md#%E7%BB%93%E5%B0%BE)": "file-notes-md-s-3",
    "[x](../notes.md#last)": "file-notes-md-s-3",
    "[x](../notes.md#english)": "file-notes-md-s-1",
    "[x](../other.md#a_b-again-1)": "file-other-md-s-3",
    "[x](<../other.md#a_b-again> 'b')": "file-other-md-s-2",
    "<a href='../other.md#a_b-again'>x</a>": "file-other-md-s-2",
    "[x][name]\n\n[name]: ../notes.md#the-start": "file-notes-md-s-2",
    "[![A map](../figs/a.svg)](../notes.md#the-start)": "file-notes-md-s-2",
}


@pytest.fixture
def noted(course) -> Course:
    """The same course with documents to link to."""
    for name, text in SECTIONS.items():
        (course.root / name).write_text(text, encoding="utf-8")
    return course


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("link", LEADS)
def test_an_anchor_leads_to_its_section_in_either_language(noted, language, link):
    links = site_links.Links(noted.root, language)
    shown = links.rewrite(link, "notebooks/42_small.ipynb")
    assert f"#{LEADS[link]}" in shown and ".." not in shown, shown
    assert list(links.figures) == (["figs/a.svg"] if "svg" in link else [])


@pytest.mark.parametrize(
    ("link", "left"),
    [
        ("[x](../README.md#gone)", "/index.md#gone"),
        ("[x](../notes.md#gone)", "/files/notes.md.md#gone"),
        ("[x](42_small.ipynb#gone)", "/lessons/42_small.ipynb#gone"),
        ("[x](#gone)", "/lessons/42_small.ipynb#gone"),
        ("[x](../benchmarks/RESULTS.md#gone)", "/results.md#gone"),
        ("[x](../rlhf/a.py#L9)", "/files/rlhf/a.py.md#L9"),
        ("[x](../rlhf/a.py#L2)", "/files/rlhf/a.py.md)"),  # a line that there is: its page
    ],
)
def test_an_anchor_without_a_section_stays_to_be_counted(noted, link, left):
    assert left in site_links.Links(noted.root, "en").rewrite(link, "notebooks/42_small.ipynb")


def test_every_section_of_the_small_course_has_the_label_that_its_page_has(noted):
    """Anchors are worked out from the files; the pages are written on their own."""
    (noted.root / "rlhf" / "README.md").write_text("[n](../notes.md#last) [o](../other.md)\n", "utf-8")
    for language in LANGUAGES:
        made = site_pages.Pages(noted, language, noted.root / "src" / language, noted.root / "downloads")
        made.write()
        texts = [path.read_text("utf-8") for path in made.folder.rglob("*.md")]
        texts += [cell.source for path in made.folder.rglob("*.ipynb") for cell in read(path).cells]
        marks = dict(re.findall(r"^\(([\w-]+-s-\d+)\)=\n#+ (.*)$", "\n".join(texts), re.M))
        for path in [*made.links.files, "README.md", "GLOSSARY.md"]:
            for anchors, label in zip(*(made.links.sections._sections(path) or [([], [])])[0], strict=True):
                title = re.sub(r"[\W_]", "", marks[label]).lower()
                assert any(title in re.sub(r"[\W_]", "", anchor) for anchor in anchors), (
                    path,
                    label,
                    anchors,
                )
        assert "file-notes-md-s-3" in marks and "file-other-md-s-4" in marks


def test_a_document_in_halves_is_shown_in_one_language(noted):
    both = site_sections.halves((noted.root / "notes.md").read_text("utf-8"))
    assert " ".join(both["en"].split()) == "# Notes words ## The start words ## The end words"
    assert " ".join(both["zh"].split()) == "# 笔记 字 ## 开头 字 ## 结尾 <a id='last'></a>字"
    assert site_sections.halves("# A\n\n## English\n") is None


@pytest.fixture
def whole(course) -> Path:
    """A site that has every part of the small course."""
    out, name = course.root / "site", "42_small"
    for language, other in (("zh", "en"), ("en", "zh")):
        pages = [*site_parts.ALWAYS, f"lessons/{name}"]
        notebook = out / "downloads" / language / f"{name}.{language}.ipynb"
        write(one_language(read(course.notebook(name)), language), notebook)
        for page in pages:
            up = "../" * page.count("/")
            links = [f"{up}../{other}/{page}.html", f"{up}search.html", f"{up}lessons/{name}.html"]
            links.append(f"{up}../downloads/{language}/{notebook.name}")
            term = (
                "<dt id='term-x'>奖励模型</dt>" if language == "zh" else "<dt id='term-x'>reward model</dt>"
            )
            path = out / language / f"{page}.html"
            path.parent.mkdir(parents=True, exist_ok=True)
            shown = "".join(f'<a href="{link}">x</a>' for link in links)
            path.write_text(f'<html lang="{language}">{shown}{term}</html>', encoding="utf-8")
        index = {"docnames": pages, "terms": {"word": list(range(len(pages)))}, "titleterms": {}}
        (out / language / "searchindex.js").write_text(
            f"Search.setIndex({json.dumps(index)})", encoding="utf-8"
        )
        (out / language / "_static").mkdir()
        shown = json.dumps({page: [["", "words", ""]] for page in pages})
        (out / language / "_static" / "sections.js").write_text(f"const SECTIONS = {shown};\n", "utf-8")
    (out / "index.html").write_text('<a href="zh/index.html">x</a><a href="en/index.html">x</a>')
    return out


def lacks(course: Course, out: Path) -> list[str]:
    return list(site_parts.missing(out, course, site_check.pages(out)))


def test_a_whole_site_lacks_nothing(course, whole):
    assert lacks(course, whole) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("index.html", 'href="zh/index.html"', "", "does not lead to both languages"),
        ("en/guide.html", "../zh/guide.html", "guide.html", "en/guide.html: no link to the other language"),
        ("zh/guide.html", "search.html", "guide.html", "zh/guide.html: no way to the search"),
        ("zh/index.html", "lessons/42_small.html", "guide.html", "zh/index.html: no link to lesson 42"),
        ("zh/glossary.html", "奖励模型", "模型", "no entry for 奖励模型"),
        ("en/downloads.html", "42_small.en", "42_small.zh", "en/downloads.html: no link to downloads/en/42"),
        ("en/lessons/42_small.html", "42_small.en", "x", "42_small.html: no link to downloads/en/42"),
        ("zh/searchindex.js", '"guide"', '"gone"', "zh/guide.html: the search does not know this page"),
        ("zh/searchindex.js", "[0, 1, ", "[0, ", "zh/guide.html: the search does not know this page"),
        ("zh/searchindex.js", "Search", "", ""),
        ("en/searchindex.js", "{", "", "en/searchindex.js: no index"),
        ("zh/_static/sections.js", '"guide"', '"gone"', "zh/guide.html: the search does not know this page"),
        ("zh/_static/sections.js", None, None, "zh/searchindex.js: no index"),
        ("downloads/zh/42_small.zh.ipynb", "小课", "大课", "does not hold the lesson's cells"),
        ("downloads/zh/42_small.zh.ipynb", '"zh"', '"en"', "holds cells in the other language"),
        ("downloads/zh/42_small.zh.ipynb", None, None, "zh.ipynb: not there"),
        ("zh/guide.html", None, None, "zh/guide.html: no such page"),
        ("en/lessons/42_small.html", None, None, "en/lessons/42_small.html: no such page"),
    ],
)
def test_a_missing_part_is_counted(course, whole, file, old, new, said):
    path = whole / file
    if old is None:
        path.unlink()
    else:
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
    found = lacks(course, whole)
    assert any(said in what for what in found) if said else found == [], found


def test_links_in_code_stay():
    text = "`[a](b)` and\n```\n[c](d)\n# no heading\n```\n# heading"
    assert site_links.Links(ROOT, "en").rewrite(text, "README.md") == text
    assert site_sections.numbered(text, "n")[0] == text.replace("# heading", "(n-s-1)=\n# heading")


def test_a_cell_without_its_twin_is_counted(course):
    assert site_check.cells_without_twin(course) == []
    path = course.source("42_small")
    path.write_text(path.read_text("utf-8").replace('tags=["en"]\n# ## 1', "\n# ## 1"), "utf-8")
    assert len(site_check.cells_without_twin(course)) == 2, "one has no twin, the other no tag"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries[0].update(code="nobody draws this"), "0 cells that draw"),
        (lambda entries: entries.clear(), "no alt text for the plot of 'draw(curve)'"),
    ],
)
def test_a_plot_without_its_alt_text_is_counted(course, change, message):
    entries = alts.load(course.root, "42_small")
    change(entries)
    found = alts.describe(one_language(read(course.notebook("42_small")), "en"), entries, "en")
    assert any(message in problem for problem in found)


def test_an_alt_text_in_one_language_only_is_refused(course):
    (course.root / "figs" / "42_plots.yaml").write_text("- code: draw(curve)\n  zh: 一条曲线\n", "utf-8")
    with pytest.raises(errors.BadData, match=r"42_plots\.yaml, entry 1"):
        alts.load(course.root, "42_small")


def test_the_alt_texts_of_the_course_are_in_their_language():
    course = Course(profiles.CHECKOUT)
    for name in course.names():
        for entry in alts.load(course.root, name):
            assert site_check.CJK.search(entry["zh"]) and not site_check.CJK.search(entry["en"]), entry


def test_missing_packages_are_named(course, monkeypatch):
    monkeypatch.setattr(site.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.MissingAssets, match=r"pip install -r requirements-site\.txt"):
        site.build(course, course.root / "out", course.root / "src")


def extension(name: str):
    """A module of ``site/``, which is a folder of settings, not a package."""
    pytest.importorskip("sphinx", reason="only where `make site` has installed requirements-site.txt")
    spec = importlib.util.spec_from_file_location(name, ROOT / "site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_chinese_is_searched_by_pairs():
    words = extension("chinese").ByPairs({})
    assert words.split("看奖励 PPO的σ") == ["PPO", "σ", "看", "奖", "励", "看奖", "奖励", "的"]
    assert all(map(words.word_filter, ("奖", "奖励", "ppo")))
    assert not words.word_filter("42")


def test_the_search_shows_sections_and_terms():
    body = """<section id="a"><h1>One <code>x</code><a class="headerlink" href="#a">#</a></h1><p>first</p>
        <section id="b"><h2>Two</h2><p>second<script>no()</script></p><pre>y = 1</pre></section><p>last</p>
        <dl><dt id="term-0">KL<a class="headerlink">#</a></dt><dd><p>how far</p></dd></dl></section>"""
    assert extension("words").Sections(body).found == [
        ["a", "One x", "first last"],
        ["b", "Two", "second y = 1"],
        ["term-0", "KL", "how far"],
    ]


def test_formulas_become_mathml_or_are_named():
    mathml = extension("mathml")
    assert re.sub(r"\s", "", mathml.convert(r"\tfrac23")).count("<mn>") == 2
    assert "mspace" in mathml.convert(r"\log \pi") and "mspace" not in mathml.convert(r"\log \bigl(x\bigr)")
    assert "…" in html.unescape(mathml.convert(r"r_1, \dots, r_K")), (
        "by latex2mathml, which docutils leaves it to"
    )
    for wrong in (
        r"\foo x",
        r"\Big[ \foo \Big]",
        r"\Big[ \begin{aligned} a & b \end{aligned} \Big]",
        r"\frac{1",
    ):
        with pytest.raises(ValueError, match=r"foo|Big|braces"):
            mathml.convert(wrong)


def test_a_page_is_built(noted):
    """Sphinx itself, on the Chinese pages of the small course, two anchors among them: one is a section's."""
    extension("mathml")
    course = noted
    path = course.root / "README.zh.md"
    path.write_text(
        path.read_text("utf-8").replace("字。", "字，[甲](notes.md#结尾)，[乙](notes.md#没有)。"), "utf-8"
    )
    for kind in ("html", "pdf"):  # as make slides leaves them
        (course.root / "downloads" / "slides").mkdir(parents=True, exist_ok=True)
        (course.root / "downloads" / "slides" / f"42_small.zh.{kind}").write_text("")
    source = pages(course, "zh")
    process = site._sphinx(source, course.root / "out" / "zh", "zh")
    _, said = process.communicate()
    assert process.returncode == 0 and len(said.splitlines()) == 1 and "没有" in said, said
    first = (course.root / "out" / "zh" / "index.html").read_text("utf-8")
    assert 'href="files/notes.md.html#file-notes-md-s-3"' in first and "<title>RLHF</title>" in first
    shown = (course.root / "out" / "zh" / "lessons" / "42_small.html").read_text("utf-8")
    assert shown.count("<math") == 3 and "<strong>重点</strong>" in shown
    assert 'alt="一条曲线"' in shown and 'alt="一条曲线"' in shown
    assert 'href="../../en/lessons/42_small.html"' in shown and 'id="small-s-2"' in shown
    assert "<summary>" in shown and "Toggle hidden" not in shown, "a label in English hid the words"
    index = (course.root / "out" / "zh" / "_static" / "sections.js").read_text("utf-8")
    assert '"1 奖励模型"' in index
    index = (course.root / "out" / "zh" / "searchindex.js").read_text("utf-8")
    terms = json.loads(index[len("Search.setIndex(") : -1])["terms"]
    assert {"奖励", "励模", "模型", "分"} <= set(terms)
    assert (course.root / "out" / "zh" / "_static" / "math.woff").stat().st_size > 100_000
    found = site_check.faults(course.root / "out")
    assert {kind: what for kind, what in found.items() if what and kind != "untranslated cells"} == {
        "broken links": found["broken links"]
    }
    assert not any("not translated" in what for what in found["untranslated cells"])
    listed = (course.root / "out" / "zh" / "downloads.html").read_text("utf-8")
    assert 'slides/42_small.zh.pdf" aria-label="42 小课: PDF">PDF</a>' in listed
    planted = [link for link in found["broken links"] if "no such anchor" in link]
    assert len(planted) == 1 and planted[0].startswith("zh/index.html: files/notes.md.html#"), planted
    assert all("en/" in link or "downloads" in link for link in found["broken links"] if link not in planted)
