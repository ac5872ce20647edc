"""What is wrong with a built site: pure functions on a folder of HTML.

In: the folder that ``python -m tools.site`` wrote, ``zh/`` and ``en/`` beside each other. Out: faults by
kind, one line each: broken links and anchors, missing images, missing alt texts, pages and cells without
their twin, pages that neither search nor downloads know, requests that would leave the machine, Markdown or
LaTeX that was not rendered. Links to other sites are collected, their syntax is checked; nobody visits them.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from tools import addresses, alts, checking, documents, figures, site_parts
from tools.notebooks import LANGUAGES, Course, build
from tools.site_page import OUTSIDE, SAME, TWINS, Page, addresses_in, fetched
from tools.twins import CJK as CJK

KINDS = (
    "broken links",
    "missing images",
    "missing alt texts",
    "untranslated cells",
    "missing parts",
    "external requests",
    "malformed addresses",
    "unrendered text",
)
PICTURE = re.compile(r"\.(svg|png|jpe?g|gif|webp)$", re.I)
ENGLISH = ("results.html", "files/", "search.html", "genindex.html")  # measurements and files stay as written


def faults(folder: Path, course: Course | None = None) -> dict[str, list[str]]:
    """Every fault of the site in ``folder``, by kind; each kind of :data:`KINDS` is there.

    Args:
        course: what the site was made of, to see whether all of it is there.
    """
    read = pages(folder)
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for name, page in read.items():
        for kind, what in _page_faults(folder, name, page, read):
            found[kind].append(f"{name}: {what}")
    found["external requests"] += _requests(folder)
    found["untranslated cells"] += _twin_faults(read)
    if course is not None:
        found["missing parts"] += site_parts.missing(folder, course, read)
    return found


def pages(folder: Path) -> dict[str, Page]:
    """Every page below ``folder`` by its relative address, downloads apart."""
    paths = sorted(
        path for path in folder.rglob("*.html") if "downloads" not in path.relative_to(folder).parts
    )
    return {
        path.relative_to(folder).as_posix(): Page(path.read_text(encoding="utf-8"))
        for path in paths
        if "_static" not in path.parts
    }


def external_links(folder: Path) -> set[str]:
    """All addresses of other sites that readers may click on."""
    return {link for page in pages(folder).values() for link in page.links if OUTSIDE.match(link)}


def cells_without_twin(course: Course) -> list[str]:
    """Markdown cells of the lessons whose other language is missing or says something else."""
    return [
        f"lessons/{name}.py: {problem}"
        for name in course.names()
        for problem in checking.untwinned(build(course.source(name)))
    ]


def sources(course: Course) -> dict[str, list[str]]:
    """What is wrong with the texts and drawings that the site is made of, by kind."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    found["untranslated cells"] += cells_without_twin(course)
    for what in [*documents.problems(course.root), *figures.problems(course.root)]:
        alt = "alt text" in what
        lead = re.search(r"does not exist|leads out|no heading|link|ignored by git|address", what)
        kind = "missing alt texts" if alt else "broken links" if lead else "untranslated cells"
        found[kind].append(what)
    return found


def _page_faults(folder: Path, name: str, page: Page, read: dict[str, Page]) -> Iterator[tuple[str, str]]:
    for link in page.links:
        if OUTSIDE.match(link) or re.match(r"[a-z][a-z0-9+.-]*:", link, re.I):
            if not addresses.well_formed(link):
                yield "malformed addresses", link
        elif what := _broken(folder, name, link, read):
            yield "broken links", what
    for link in page.hollow:
        yield "broken links", f"a link without an address ({link!r})"
    for address in page.loads:
        if OUTSIDE.match(address):
            yield "external requests", address
        elif not address.startswith(("data:", "#")) and not _is_file(folder, _file(folder, name, address)):
            yield "missing images" if PICTURE.search(address.partition("?")[0]) else "broken links", address
    for address, alt in page.images:
        if what := alts.fault(alt, address, page.language[:2] or None):
            yield "missing alt texts", what
    for text in page.raw:
        yield "unrendered text", text
    language, _, own = name.partition("/")
    for text in page.foreign:
        # the course's files are shown as they are, in whichever language
        if not own.startswith(ENGLISH if language == "zh" else "files/"):
            yield "untranslated cells", text


def _requests(folder: Path) -> list[str]:
    """What style sheets, scripts and drawings of the site would fetch from elsewhere."""
    found = []
    for path in sorted(folder.rglob("*")):
        own = path.relative_to(folder)
        if "downloads" in own.parts or path.suffix not in (".css", ".js", ".svg"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        loads = addresses_in(text) if path.suffix != ".js" else fetched(text)
        if path.suffix == ".svg":
            loads += Page(text).loads
        found += [f"{own}: {address}" for address in loads if OUTSIDE.match(address)]
    return found


def _twin_faults(read: dict[str, Page]) -> list[str]:
    found = []
    for name, page in read.items():
        language, _, rest = name.partition("/")
        if language not in LANGUAGES:
            continue
        twin = read.get(f"{'en' if language == 'zh' else 'zh'}/{rest}")
        if twin is None:
            found.append(f"{name}: no twin")
        elif language == "zh" and not rest.startswith(ENGLISH):
            lesson = rest.startswith("lessons/")
            found += [f"{rest}: the twins differ: {what}" for what in _different(page, twin, lesson)]
    return found


def _different(zh: Page, en: Page, lesson: bool) -> Iterator[str]:
    """What two pages do not have alike; the code and formulas of a lesson are the same in both languages."""
    if zh.content != en.content:
        different = {tag: (zh.content[tag], en.content[tag]) for tag in TWINS}
        shown = ", ".join(f"{a} and {b} <{tag}>" for tag, (a, b) in different.items() if a != b)
        yield f"zh, en have {shown}"
        return
    for tag in SAME if lesson else ():
        a, b = (Counter("".join(text.split()) for text in page.same[tag]) for page in (zh, en))
        if a != b:
            only = sorted((a - b) or (b - a))[0][:40]
            yield f"{sum(((a - b) | (b - a)).values())} <{tag}> in one language only, such as {only!r}"


def _broken(folder: Path, name: str, link: str, read: dict[str, Page]) -> str:
    """Why a link of the page ``name`` leads nowhere, or nothing."""
    address, _, anchor = link.partition("#")
    path = _file(folder, name, address) if address else folder / name
    if path.is_dir():
        path = path / "index.html"
    if not _is_file(folder, path):
        return link
    target = read.get(path.relative_to(folder).as_posix())
    anchor = unquote(anchor)
    return f"{link} (no such anchor)" if anchor and target and anchor not in target.ids else ""


def _file(folder: Path, name: str, address: str) -> Path:
    """The file that an address of the page ``name`` stands for."""
    path = unquote(re.split(r"[?#]", address)[0])
    return folder / posixpath.normpath(posixpath.join(posixpath.dirname(name), path))


def _is_file(folder: Path, path: Path) -> bool:
    """Whether ``path`` is a file of the site, spelled like this (some systems ignore case)."""
    try:
        own = path.relative_to(folder)
    except ValueError:
        return False
    return ".." not in own.parts and path.is_file() and not addresses.missing(folder, own.as_posix())
