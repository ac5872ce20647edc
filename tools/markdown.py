"""A Markdown text taken apart by a real parser: its pieces of prose, links, pictures and anchors.

In: Markdown as notebooks, GitHub and the site read it (CommonMark, tables, formulas in dollars, raw HTML).
Out: :class:`Document`. Links count whichever way they are written: inline, by reference, bare in angle
brackets, as HTML, in tables, lists and headings. ``tools.addresses`` says whether they lead somewhere,
``tools.twins`` whether two languages say the same.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin

# `[words][name]` or `[words](…` left over as text: the parser saw no link there
UNRESOLVED = re.compile(
    r"\[[^\[\]]+\](?:\s?\[[^\[\]]*\]|\s?\([^()\s]*[./#][^()\s]*(?:\)|$)"
    r"|\([^()\s]*[./#][^()\s]*\s|\s?（[^（）\s]*[./#][^（）\s]*）)"  # not closed; a typist's wide brackets
)
HTML_LINKS = {"a": ("href",), "area": ("href",), "source": ("src",), "video": ("src",), "audio": ("src",)}
HTML_LINKS |= {"iframe": ("src",), "embed": ("src",), "object": ("data",)}
DRAWN = {"svg", "canvas", "iframe", "object", "embed", "video"}  # show something, and have no alt
HTML_IMAGES = {"img": ("src",), "image": ("href", "xlink:href"), "input": ("src",)}


class Link(NamedTuple):
    """An address that a text leads to; ``line`` counts from 1."""

    line: int
    address: str


class Image(NamedTuple):
    """A picture that a text shows; ``alt`` is None where there is none at all."""

    line: int
    address: str
    alt: str | None


@dataclass
class Leaf:
    """One piece of prose: a paragraph, a heading, a table's cell.

    Attributes:
        kind: ``p``, ``h1`` … ``h6``, ``th``, ``td``, ``html``. shown: what a reader sees, alt texts and
            formulas apart. words: that without code. prose: that without the words of links to other sites
            (titles of works keep their language). cited: whether it links to another site.
    """

    kind: str
    line: int
    shown: str = ""
    words: str = ""
    prose: str = ""
    cited: bool = False
    addresses: list[str] = field(default_factory=list)

    def add(self, text: str, *, code: bool = False, abroad: bool = False) -> None:
        """One more piece, at the end; what does not belong to ``words`` or ``prose`` leaves a blank there."""
        self.shown += text
        self.words += " " if code else text
        self.prose += " " if code or abroad else text


@dataclass
class Document:
    """What a Markdown text holds, in its order. ``structure``: the kinds of all blocks. ``drawn``: line, tag
    and name of what HTML shows without ``<img>``; ``named``: line, words and address of links."""

    leaves: list[Leaf] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    named: list[tuple[int, str, str]] = field(default_factory=list)
    drawn: list[tuple[int, str, str | None]] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    unresolved: list[tuple[int, str]] = field(default_factory=list)
    structure: list[str] = field(default_factory=list)


@lru_cache(maxsize=4096)
def parse(text: str) -> Document:
    """Take ``text`` apart. The result is shared: do not change it."""
    made, environment = Document(), {}
    kinds: list[str] = []
    for token in _parser().parse(text, environment):
        line = (token.map or [0])[0] + 1
        if token.type == "inline":
            _inline(made, token, kinds[-1] if kinds else "p", line)
            continue
        if token.nesting >= 0:
            made.structure.append(token.type)
        if token.type == "html_block":
            _html(made, token.content, line, Leaf("html", line))
        if token.nesting == 1:
            kinds.append(token.tag)
        elif token.nesting == -1:
            kinds.pop()
    _anchors(made)
    for reference in environment.get("references", {}).values():
        made.links.append(Link(reference["map"][0] + 1, reference["href"]))
    return made


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).use(dollarmath_plugin)


def _inline(made: Document, token: Token, kind: str, line: int) -> None:
    leaf, abroad, words = Leaf(kind, line), [False], ""
    made.leaves.append(leaf)
    for child in token.children or []:
        if child.type == "link_open":
            address = str(child.attrs["href"])
            made.links.append(Link(line, address))
            leaf.addresses.append(address)
            words = ""
            abroad.append(elsewhere(address))
            leaf.cited = leaf.cited or abroad[-1]
        elif child.type == "link_close":
            abroad.pop()
            made.named.append((line, words, leaf.addresses[-1]))
        elif child.type == "image":
            made.images.append(Image(line, str(child.attrs["src"]), child.content))
        elif child.type in ("em_open", "em_close"):
            leaf.prose += "“" if child.nesting == 1 else "”"  # a title or a quotation
        elif child.type == "html_inline":
            _html(made, child.content, line, None)
        elif child.type in ("softbreak", "hardbreak"):
            leaf.add("\n")
        elif child.type == "math_inline":
            leaf.add(" ")
        elif child.content:
            words += child.content
            leaf.add(child.content, code=child.type == "code_inline", abroad=abroad[-1])
    made.unresolved += [(line, match[0]) for match in UNRESOLVED.finditer(leaf.words)]


class _Html(HTMLParser):
    def __init__(self, made: Document, line: int, leaf: Leaf | None):
        super().__init__(convert_charrefs=True)
        self.made, self.line, self.leaf = made, line, leaf

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found, line = dict(attributes), self.line + self.getpos()[0] - 1
        for key in HTML_LINKS.get(tag, ()):
            if key in found:
                self.made.links.append(Link(line, found[key] or ""))
        if tag in DRAWN and found.get("aria-hidden") != "true":
            self.made.drawn.append((line, tag, found.get("aria-label") or found.get("title")))
        if tag == "input" and found.get("type") != "image":
            return
        for key in HTML_IMAGES.get(tag, ()):
            if key in found:
                alt = found.get("aria-label") if tag == "image" else found.get("alt")
                self.made.images.append(Image(line, found[key] or "", alt))
        self.made.anchors |= {found[key] for key in ("id", "name") if found.get(key)}

    def handle_data(self, data: str) -> None:
        if self.leaf is not None:
            self.leaf.add(data)


def _html(made: Document, text: str, line: int, leaf: Leaf | None) -> None:
    reader = _Html(made, line, leaf)
    reader.feed(text)
    reader.close()
    if leaf is not None and leaf.prose.strip():
        made.leaves.append(leaf)


def _anchors(made: Document) -> None:
    """Anchors of headings, as GitHub and the site make them, and as JupyterLab does."""
    seen: Counter[str] = Counter()
    for leaf in made.leaves:
        if re.fullmatch("h[1-6]", leaf.kind):
            name = slug(leaf.shown)
            made.anchors |= {f"{name}-{seen[name]}" if seen[name] else name, leaf.shown.replace(" ", "-")}
            seen[name] += 1


def slug(heading: str) -> str:
    """GitHub's anchor of a heading: ``"1 Two Words!"`` → ``1-two-words``; Chinese stays."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def elsewhere(address: str) -> bool:
    """Whether an address names another site (or another program, as ``mailto:`` does)."""
    return re.match(r"[a-z][a-z0-9+.-]*:|//", address, re.I) is not None


def parts(address: str) -> tuple[str, str]:
    """Path and anchor of an address, decoded: ``a%20b.md?x#c`` → ``("a b.md", "c")``."""
    path, _, anchor = address.partition("#")
    return unquote(path.partition("?")[0]), unquote(anchor)
