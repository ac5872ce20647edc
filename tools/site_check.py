"""What is wrong with a built site: pure functions on a folder of HTML.

In: the folder that ``python -m tools.site`` wrote, ``zh/`` and ``en/`` beside each other. Out: faults by
kind, one line each: broken links and anchors, missing images, missing alt texts, pages and cells without
their twin, requests that would leave the machine, Markdown or LaTeX that was not rendered. Links to other
sites are collected and their syntax is checked; nobody visits them.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tools import checking
from tools.notebooks import LANGUAGES, Course, build
from tools.twins import CJK

KINDS = (
    "broken links",
    "missing images",
    "missing alt texts",
    "untranslated cells",
    "external requests",
    "malformed addresses",
    "unrendered text",
)
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "embed": "src", "object": "data"}
RELS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "manifest"}
CODE = {"pre", "code", "script", "style", "textarea", "math", "kbd"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
TWINS = ("img", "math", "table", "h1", "h2", "h3", "pre", "li")  # what both languages have equally many of
RAW = re.compile(r"\*\*[^*\s]|\$\$|\\(?:frac|mathrm|text|log|pi)\b|\{(?:ref|doc|term)\}`")
URL = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")
OUTSIDE = re.compile(r"(?:[a-z]+:)?//|(?:https?|ftp|wss?):", re.I)


@dataclass
class Page(HTMLParser):
    """One page taken apart; everything below ``<article>`` counts as its content."""

    path: Path
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    images: list[tuple[str, str | None]] = field(default_factory=list)
    content: Counter = field(default_factory=Counter)
    foreign: list[str] = field(default_factory=list)  # Chinese outside code in an English page
    raw: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, bool]] = []  # open elements, and whether their text is prose of this page
        self.language = ""
        self.feed(self.path.read_text(encoding="utf-8"))

    __hash__ = object.__hash__

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attributes}
        self.language = found.get("lang", "") if tag == "html" else self.language
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in LOADS and found.get(LOADS[tag]):
            self.loads.append(found[LOADS[tag]])
        if tag == "link" and RELS & set(found.get("rel", "").split()):
            self.loads.append(found.get("href", ""))
        if "style" in found:
            self.loads += _addresses(found["style"])
        if tag == "img":
            hidden = found.get("role") == "presentation" or found.get("aria-hidden") == "true"
            self.images.append((found.get("src", ""), "-" if hidden else dict(attributes).get("alt")))
        if tag in TWINS and self.inside("article"):
            self.content[tag] += 1
        prose = self.prose and tag not in CODE and not _another(found.get("lang"), self.language)
        prose = prose and "output" not in found.get("class", "").split()
        if tag not in VOID:
            self.open.append((tag, prose if self.open else True))

    def handle_endtag(self, tag: str) -> None:
        for place in range(len(self.open) - 1, -1, -1):
            if self.open[place][0] == tag:
                del self.open[place:]
                return

    def handle_data(self, data: str) -> None:
        tag = self.open[-1][0] if self.open else ""
        if tag == "style":
            self.loads += _addresses(data)
        if self.inside("math") and "\\" in data:
            self.raw.append(data.strip()[:60])
        if not self.inside("article") or not self.prose:
            return
        if RAW.search(data):
            self.raw.append(data.strip()[:60])
        if self.language == "en" and CJK.search(data):
            self.foreign.append(data.strip()[:40])

    def inside(self, tag: str) -> bool:
        return any(name == tag for name, _ in self.open)

    @property
    def prose(self) -> bool:
        return self.open[-1][1] if self.open else True


def faults(folder: Path) -> dict[str, list[str]]:
    """Every fault of the site in ``folder``, by kind; each kind of :data:`KINDS` is there."""
    read = pages(folder)
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for name, page in read.items():
        for kind, what in _page_faults(folder, name, page, read):
            found[kind].append(f"{name}: {what}")
    for path in sorted(folder.rglob("*.css")):
        for address in _addresses(path.read_text(encoding="utf-8")):
            if OUTSIDE.match(address):
                found["external requests"].append(f"{path.relative_to(folder)}: {address}")
    found["untranslated cells"] += _twin_faults(read)
    return found


def pages(folder: Path) -> dict[str, Page]:
    """Every page below ``folder`` by its relative address, downloads apart."""
    paths = sorted(
        path for path in folder.rglob("*.html") if "downloads" not in path.relative_to(folder).parts
    )
    return {path.relative_to(folder).as_posix(): Page(path) for path in paths if "_static" not in path.parts}


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


def _page_faults(folder: Path, name: str, page: Page, read: dict[str, Page]):
    for link in page.links:
        if OUTSIDE.match(link):
            if not _well_formed(link):
                yield "malformed addresses", link
        elif not re.match(r"[a-z]+:", link) and (what := _broken(folder, name, link, read)):
            yield "broken links", what
    for address in page.loads:
        if OUTSIDE.match(address):
            yield "external requests", address
        elif not address.startswith("data:") and not _file(folder, name, address).is_file():
            yield (
                "missing images" if re.search(r"\.(svg|png|jpe?g|gif|webp)$", address) else "broken links",
                address,
            )
    for address, alt in page.images:
        if not (alt or "").strip():
            yield "missing alt texts", address[:80]
        elif alt != "-" and _in_the_other_language(alt, page.language):
            yield "missing alt texts", f"in the other language: {alt[:40]}"
    for text in page.raw:
        yield "unrendered text", text
    if "/files/" not in name:  # the course's files are shown as they are
        for text in page.foreign:
            yield "untranslated cells", f"Chinese in an English page: {text}"


def _twin_faults(read: dict[str, Page]) -> list[str]:
    found = []
    for name, page in read.items():
        language, _, rest = name.partition("/")
        if language not in LANGUAGES:
            continue
        twin = read.get(f"{'en' if language == 'zh' else 'zh'}/{rest}")
        if twin is None:
            found.append(f"{name}: no twin")
        elif language == "zh" and "lessons/" in rest and page.content != twin.content:
            different = {tag: (page.content[tag], twin.content[tag]) for tag in TWINS}
            shown = ", ".join(f"{a} and {b} <{tag}>" for tag, (a, b) in different.items() if a != b)
            found.append(f"{rest}: the twins differ: zh, en have {shown}")
    return found


def _broken(folder: Path, name: str, link: str, read: dict[str, Page]) -> str:
    """Why a link of the page ``name`` leads nowhere, or nothing."""
    address, _, anchor = link.partition("#")
    path = _file(folder, name, address) if address else folder / name
    if path.is_dir():
        path = path / "index.html"
    if not path.is_file():
        return link
    target = read.get(path.relative_to(folder).as_posix())
    anchor = unquote(anchor)
    return f"{link} (no such anchor)" if anchor and target and anchor not in target.ids else ""


def _file(folder: Path, name: str, address: str) -> Path:
    """The file that an address of the page ``name`` stands for."""
    path = unquote(re.split(r"[?#]", address)[0])
    return folder / posixpath.normpath(posixpath.join(posixpath.dirname(name), path))


def _well_formed(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    host = parts.hostname or ""
    whole = re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)*", host, re.I) is not None
    return whole and parts.scheme in ("http", "https") and not re.search(r"[\s<>\"{}|^`，。；）]", address)


def _addresses(css: str) -> list[str]:
    found = [a or b for a, b in URL.findall(css)]
    return [address for address in found if not address.startswith(("data:", "#"))]


def _in_the_other_language(alt: str, language: str) -> bool:
    return bool(CJK.search(alt)) != language.startswith("zh")


def _another(own: str | None, page: str) -> bool:
    return bool(own) and own[:2] != page[:2]
