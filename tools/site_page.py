"""One page of HTML taken apart: what it links to, loads and shows, and which of its words are foreign.

In: HTML. Out: :class:`Page`; ``tools.site_check`` judges it. Everything below ``<article>`` is content.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser

from tools import twins
from tools.markdown import Leaf
from tools.twins import CJK

LOADS = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "frame": ("src",),
    "source": ("src", "srcset"),
    "embed": ("src",),
    "object": ("data",),
    "audio": ("src",),
    "video": ("src", "poster"),
    "track": ("src",),
    "input": ("src",),
    "body": ("background",),
    "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
    "feimage": ("href", "xlink:href"),
}
RELS = {
    "stylesheet",
    "icon",
    "preload",
    "modulepreload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
    "manifest",
}
LEADS = {"a": "href", "area": "href", "form": "action", "blockquote": "cite"}
SHOWS = {"img", "area", "input", "image", "svg", "object", "embed", "iframe", "canvas", "video", "audio"}
WORDS = {"img": "alt", "area": "alt", "input": "alt", "iframe": "title", "object": "title", "embed": "title"}
CODE = {"pre", "code", "script", "style", "textarea", "math", "kbd", "svg"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
TWINS = ("img", "math", "table", "h1", "h2", "h3", "pre", "li")  # what both languages have equally many of
BLOCKS = {
    "p",
    "li",
    "td",
    "th",
    "dt",
    "dd",
    "figcaption",
    "summary",
    "caption",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
}
SAME = {"pre", "math"}  # what reads the same in both languages
RAW = re.compile(
    r"\*\*[^*\s]|\$\$|\\(?:frac|mathrm|text|log|pi)\b|\{(?:ref|doc|term)\}`|!?\[[^\[\]]+\]\([^()\s]+\)"
)
URL = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")
OUTSIDE = re.compile(r"(?:[a-z]+:)?//|(?:https?|ftp|wss?):", re.I)
# what a script fetches: by a function, by an element's address, or as a module
FETCHES = re.compile(
    r"(?:\b(?:fetch|import|importScripts|open|Worker|WebSocket|EventSource|sendBeacon|getScript|getJSON|ajax)"
    r"\(\s*(?:[\"'`]\w+[\"'`]\s*,\s*)?|\.(?:src|href)\s*=\s*|setAttribute\([\"'](?:src|href)[\"'],\s*|"
    r"\b(?:import|from)\s+)[\"'`]((?:https?:|wss?:)?//[^\"'`]+)"
)
QUOTED = re.compile(r"[\"'`]((?:https?:|wss?:)?//[\w.-]+\.[^\"'`\s]*)")  # any address in a script on the page
NAMES = "http://www.w3.org/"  # names of XML's vocabularies; nothing is fetched


@dataclass
class Page(HTMLParser):
    """One page.

    Attributes:
        links: where readers may go. loads: what the browser fetches by itself. images: address, text or None.
        content: how many of :data:`TWINS` the article has; same: its code and formulas, in their order.
        foreign: words in the other language, code apart. raw: Markdown or LaTeX that was not rendered.
        hollow: links of the article without an address.
    """

    text: str
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    images: list[tuple[str, str | None]] = field(default_factory=list)
    content: Counter = field(default_factory=Counter)
    same: dict[str, list[str]] = field(default_factory=lambda: {tag: [] for tag in SAME})
    terms: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    hollow: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, bool]] = []  # open elements, and whether their text is prose of this page
        self.blocks: list[Leaf] = []  # open pieces of prose
        self.abroad = 0  # inside how many links to other sites
        self.drawing: bool | None = None  # inside <svg>: whether it has a text
        self.language = ""
        self.feed(self.text)
        self.close()

    __hash__ = object.__hash__

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attributes}
        self.language = found.get("lang", "") if tag == "html" else self.language
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        self._address(tag, found)
        if tag in SHOWS:
            self._picture(tag, found, dict(attributes))
        if tag == "title" and self.drawing is False:
            self.drawing = True
        inside = self.inside("article")
        if tag in TWINS and inside:
            self.content[tag] += 1
        if tag in SAME and inside:
            self.same[tag].append("")
        if tag == "dt" and "term-" in found.get("id", ""):
            self.terms.append("")
        prose = self.prose and tag not in CODE and not _another(found.get("lang"), self.language)
        prose = prose and "output" not in found.get("class", "").split()
        if tag in VOID:
            return
        self.open.append((tag, prose if self.open else True))
        if tag in BLOCKS and inside and prose:
            self._close_block()
            cell = any(map(self.inside, ("td", "th", "dt")))
            self.blocks.append(Leaf("td" if cell else "p", 0))
        self.abroad += tag == "a" and bool(OUTSIDE.match(found.get("href", "")))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def _address(self, tag: str, found: dict[str, str]) -> None:
        key = LEADS.get(tag, "")
        if key in found:
            self.links.append(found[key])
            if tag in ("a", "area") and found[key].strip() in ("", "#") and self.inside("article"):
                self.hollow.append(found[key])
        for key in LOADS.get(tag, ()):
            if found.get(key):
                addresses = [part.split()[0] for part in found[key].split(",") if part.strip()]
                self.loads += addresses if key == "srcset" else [found[key].strip()]
        rels = set(found.get("rel", "").lower().split())
        if tag == "link":
            (self.loads if RELS & rels else self.links).append(found.get("href", ""))
        if tag == "base":
            self.loads.append(found.get("href", ""))
        if tag == "meta" and found.get("http-equiv", "").lower() == "refresh":
            self.loads += re.findall(r"url\s*=\s*['\"]?([^'\"\s]+)", found.get("content", ""), re.I)
        self.loads += addresses_in(found.get("style", ""))
        for key, value in found.items():
            if key.startswith("on"):
                self.loads += fetched(value)

    def _picture(self, tag: str, found: dict[str, str], given: dict[str, str | None]) -> None:
        if tag == "input" and found.get("type") != "image":
            return
        if tag == "area" and "href" not in found:
            return
        hidden = found.get("role") in ("presentation", "none") or found.get("aria-hidden") == "true"
        text = given.get(WORDS.get(tag, "aria-label")) or given.get("aria-label") or given.get("title")
        if hidden and not self.inside("article"):
            return  # an ornament of the theme
        if tag == "svg":
            self.drawing = bool(text)
            return
        source = found.get("src") or found.get("data") or found.get("href") or found.get("xlink:href") or ""
        self.images.append((source or f"<{tag}>", text))

    def handle_endtag(self, tag: str) -> None:
        for place in range(len(self.open) - 1, -1, -1):
            if self.open[place][0] == tag:
                closed = [name for name, _ in self.open[place:]]
                if set(closed) & BLOCKS:
                    self._close_block()
                if tag == "svg" and self.drawing is False:
                    self.images.append(("<svg>", None))
                self.drawing = None if tag == "svg" else self.drawing
                self.abroad = max(0, self.abroad - (tag == "a"))
                del self.open[place:]
                return

    def handle_data(self, data: str) -> None:
        tag = self.open[-1][0] if self.open else ""
        if tag == "style":
            self.loads += addresses_in(data)
        if tag == "script":
            self.loads += fetched(data, all_quoted=True)
        for name in SAME:
            if self.inside(name) and self.inside("article") and self.same[name]:
                self.same[name][-1] += data
        if self.inside("math") and "\\" in data:
            self.raw.append(data.strip()[:60])
        if self.inside("dt") and not self.inside("a") and self.terms:
            self.terms[-1] += data
        if not self.inside("article"):
            return
        if self.blocks and (self.prose or self.inside("code")):
            self.blocks[-1].add(data, code=not self.prose, abroad=self.abroad > 0)
            self.blocks[-1].cited |= self.abroad > 0
        if not self.prose:
            return
        if RAW.search(data):
            self.raw.append(data.strip()[:60])
        if self.language == "en" and CJK.search(data):
            self.foreign.append(f"Chinese in an English page: {data.strip()[:40]}")

    def _close_block(self) -> None:
        if self.blocks:
            block = self.blocks.pop()
            what = twins.foreign(block, "zh") if self.language.startswith("zh") else ""
            self.foreign += [f"English in a Chinese page, {what}"] if what else []

    def inside(self, tag: str) -> bool:
        return any(name == tag for name, _ in self.open)

    @property
    def prose(self) -> bool:
        return self.open[-1][1] if self.open else True


def fetched(script: str, all_quoted: bool = False) -> list[str]:
    """Addresses of other sites that a script fetches; with ``all_quoted``, all it names in quotes."""
    pattern = QUOTED if all_quoted else FETCHES
    return [address for address in pattern.findall(script) if not address.startswith(NAMES)]


def addresses_in(css: str) -> list[str]:
    found = [a or b for a, b in URL.findall(css)]
    return [address.strip() for address in found if not address.startswith(("data:", "#"))]


def _another(own: str | None, page: str) -> bool:
    return bool(own) and own[:2] != page[:2]
