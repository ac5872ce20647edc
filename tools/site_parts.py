"""Is all of the course on its site? Pages, search, glossary, downloads, the way to the other language.

In: the folder of the site, its pages, and the course. Out: what is missing, one line each.
"""

from __future__ import annotations

import json
import posixpath
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tools import addresses
from tools.notebooks import LANGUAGES, Course, one_language, read, tags
from tools.site_page import Page

ALWAYS = ("index", "guide", "results", "glossary", "downloads", "search", "lessons/index")
UNSEARCHED = {"search", "genindex"}


def missing(folder: Path, course: Course, pages: dict[str, Page]) -> Iterator[str]:
    """What the site in ``folder`` lacks of ``course``; ``pages`` by their addresses below ``folder``."""
    if not {f"{language}/index.html" for language in LANGUAGES} <= _targets("index.html", pages):
        yield "index.html does not lead to both languages"
    for language in LANGUAGES:
        for name in [*ALWAYS, *(f"lessons/{lesson}" for lesson in course.names())]:
            if f"{language}/{name}.html" not in pages:
                yield f"{language}/{name}.html: no such page"
        yield from _ways(language, course, pages)
        yield from _search(folder / language, pages, language)
        yield from _glossary(language, course, pages)
        yield from _downloads(folder / "downloads", language, course, pages)
    yield from _archive(folder / "downloads", course)


def _targets(name: str, pages: dict[str, Page]) -> set[str]:
    """The files that a page links to, as addresses below the site's folder."""
    page = pages.get(name)
    if page is None:
        return set()
    links = (re.split(r"[?#]", link)[0] for link in page.links)
    return {posixpath.normpath(posixpath.join(posixpath.dirname(name), link)) for link in links if link}


def _ways(language: str, course: Course, pages: dict[str, Page]) -> Iterator[str]:
    """From every page to its twin and to the search; from the first pages to every lesson."""
    other = "en" if language == "zh" else "zh"
    for name in pages:
        own, _, rest = name.partition("/")
        if own != language:
            continue
        targets = _targets(name, pages)
        if f"{other}/{rest}" not in targets:
            yield f"{name}: no link to the other language"
        if f"{language}/search.html" not in targets and rest != "search.html":
            yield f"{name}: no way to the search"
    for first in (f"{language}/index.html", f"{language}/lessons/index.html"):
        for lesson in course.names():
            if first in pages and f"{language}/lessons/{lesson}.html" not in _targets(first, pages):
                yield f"{first}: no link to lesson {lesson}"


def _search(folder: Path, pages: dict[str, Page], language: str) -> Iterator[str]:
    """Every page must be in the index, with words of its own."""
    path = folder / "searchindex.js"
    try:
        text = path.read_text(encoding="utf-8")
        index = json.loads(text[text.index("(") + 1 : text.rindex(")")])
        names, terms = list(index["docnames"]), [*index["terms"].values(), *index["titleterms"].values()]
        text = (folder / "_static" / "sections.js").read_text(encoding="utf-8")
        shown = {
            name for name, found in json.loads(text[text.index("{") : text.rindex("}") + 1]).items() if found
        }
    except (OSError, ValueError, KeyError):
        yield f"{language}/searchindex.js: no index for the search, or not a readable one"
        return
    numbers = {number for found in terms for number in (found if isinstance(found, list) else [found])}
    known = {name for number, name in enumerate(names) if number in numbers}
    for page in pages:
        own, _, rest = page.partition("/")
        name = rest.removesuffix(".html")
        if own == language and name not in known & shown | UNSEARCHED:
            yield f"{page}: the search does not know this page"


def _glossary(language: str, course: Course, pages: dict[str, Page]) -> Iterator[str]:
    path, page = course.root / "GLOSSARY.md", pages.get(f"{language}/glossary.html")
    shown = {"".join(term.split()) for term in page.terms} if page else set()
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() and page else []:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("| ") or cells[:2] == ["中文", "English"]:
            continue
        term = cells[LANGUAGES.index(language)]
        if "".join(term.split()) not in shown:
            yield f"{language}/glossary.html: no entry for {term}"


def _downloads(folder: Path, language: str, course: Course, pages: dict[str, Page]) -> Iterator[str]:
    """Every lesson in this language, readable, whole, and linked from its page and the list."""
    listed = f"{language}/downloads.html"
    for name in course.names():
        path = folder / language / f"{name}.{language}.ipynb"
        address = f"downloads/{language}/{path.name}"
        for page in (listed, f"{language}/lessons/{name}.html"):
            if page in pages and address not in _targets(page, pages):
                yield f"{page}: no link to {address}"
        if not path.is_file():
            yield f"{address}: not there"
        elif course.notebook(name).is_file():
            made, lesson = read(path), one_language(read(course.notebook(name)), language)
            if [(c.cell_type, c.source) for c in made.cells] != [
                (c.cell_type, c.source) for c in lesson.cells
            ]:
                yield f"{address}: does not hold the lesson's cells in {language}"
            if any(set(tags(cell)) & (set(LANGUAGES) - {language}) for cell in made.cells):
                yield f"{address}: holds cells in the other language"
    decks = (folder / "slides").glob(f"*.{language}.*")
    for deck in sorted(decks):
        if f"downloads/slides/{deck.name}" not in _targets(listed, pages) and listed in pages:
            yield f"{listed}: no link to downloads/slides/{deck.name}"


def _archive(folder: Path, course: Course) -> Iterator[str]:
    """The whole course as one file, where the course is a checkout."""
    kept = {name for name in addresses.tracked(course.root) if (course.root / name).is_file()}
    path = folder / "rlhf-course.zip"
    if not kept:
        return
    if not zipfile.is_zipfile(path):
        yield "downloads/rlhf-course.zip: not there, or no archive"
        return
    with zipfile.ZipFile(path) as archive:
        absent = kept - {name.partition("/")[2] for name in archive.namelist()}
    yield from (f"downloads/rlhf-course.zip: {name} is not in it" for name in sorted(absent))
