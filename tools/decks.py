"""The decks of the lessons: one Markdown source for both languages, numbers and plots from the notebooks.

In: ``slides/NN_topic.md`` and the committed notebook of that lesson. Out: the Marp Markdown of one language,
or what is wrong with the deck. Conventions: slides/README.md. ``tools.slides`` builds from it.
"""

from __future__ import annotations

import base64
import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml
from nbformat import NotebookNode

from rlhf import profiles
from rlhf.errors import BadData
from tools import alts, checking, documents, letters, named, twins
from tools import markdown as reader
from tools.notebooks import LANGUAGES, read

SLIDES = range(10, 21)
FIGURES = 2
FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.S)
MARK = re.compile(r"^<!-- (zh|en) -->[ \t]*$", re.M)
DIRECTIVES = re.compile(r"(?:<!-- _(?:class|paginate): [\w ]+ -->\s*)*")  # others would be in one language
LOADED = re.compile(r"url\(\s*[\"']?(?!data:|#)([^\"')]+)", re.I)
SLOT = re.compile(r"\{\{\s*(\w+)\s*\}\}")
PICTURE = re.compile(r"^!\[([^\]]*)\]\(([^)\s]+)\)[ \t]*$", re.M)
TAGS = re.compile(r"<style.*?</style>|<[^>]+>", re.S)
LOCALES = {"zh": "zh-CN", "en": "en"}
FOOTERS = {"zh": "动手学 RLHF", "en": "RLHF, hands on"}


@dataclass(frozen=True)
class Slide:
    """What one slide shows; ``shared`` holds Marp's directives, the same in both languages."""

    shared: str
    zh: str
    en: str


@dataclass(frozen=True)
class Deck:
    """One source. ``facts``: name → where its number stands; ``plots``: name → code that drew it."""

    path: Path
    facts: dict[str, str | list[str]]
    plots: dict[str, str]
    slides: tuple[Slide, ...]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def root(self) -> Path:
        return self.path.resolve().parent.parent


def names(folder: Path = profiles.CHECKOUT / "slides") -> list[Path]:
    """The decks there are, in the order of the lessons."""
    return sorted(folder.glob("[0-9][0-9]_*.md"))


def load(path: Path) -> Deck:
    """Read a deck.

    Raises:
        BadData: no front matter, or a slide without exactly one zh and then one en part.
    """
    text = path.read_text(encoding="utf-8")
    front = FRONT.match(text)
    if front is None:
        raise BadData(
            f"{path.name} 开头没有 --- 之间的设置。", f"{path.name} does not start with front matter."
        )
    try:
        settings = yaml.safe_load(front[1]) or {}
        facts, plots = dict(settings.get("facts") or {}), dict(settings.get("plots") or {})
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise BadData(
            f"{path.name} 开头的设置读不懂：{error}", f"{path.name}: unreadable front matter: {error}"
        ) from error
    slides = tuple(_slide(part, i, path.name) for i, part in enumerate(_split(text[front.end() :]), 1))
    return Deck(path, facts, plots, slides)


def _split(text: str) -> Iterator[str]:
    """Parts between lines ``---``, except inside fenced code."""
    part, fence = [], ""
    for line in text.splitlines():
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark:
            fence = "" if fence and line.strip().startswith(fence) else fence or mark[1]
        if line.strip() == "---" and not fence:
            yield "\n".join(part)
            part = []
        else:
            part.append(line)
    yield "\n".join(part)


def _slide(text: str, number: int, name: str) -> Slide:
    marks = list(MARK.finditer(text))
    if [mark[1] for mark in marks] != list(LANGUAGES):
        raise BadData(
            f"{name} 第 {number} 页：需要一个 <!-- zh --> 部分，再跟一个 <!-- en --> 部分。",
            f"{name}, slide {number}: it needs one <!-- zh --> part, then one <!-- en --> part.",
        )
    first, second = marks
    parts = text[: first.start()], text[first.end() : second.start()], text[second.end() :]
    return Slide(*(part.strip() for part in parts))


class Source:
    """What a deck quotes: its lesson's committed notebook, and other files of the course."""

    def __init__(self, deck: Deck):
        self.deck = deck
        self.notebook = deck.root / "notebooks" / f"{deck.name}.ipynb"
        self._texts: dict[Path, str] = {}

    def fact(self, name: str) -> str:
        """The number of that name, as it stands in the file.

        Raises:
            BadData: not declared, the file is missing, or nothing in it matches.
        """
        where = self.deck.facts.get(name)
        if where is None:
            raise BadData(f"没有叫 {name} 的数。", f"{{{{{name}}}}} is not among the deck's facts.")
        file, pattern = (
            (self.notebook, where) if isinstance(where, str) else (self.deck.root / where[0], where[1])
        )
        found = re.search(pattern, self._text(file), re.M)
        if found is None or not found.groups():
            raise BadData(
                f"{file.name} 里找不到 {name}：{pattern}", f"{file.name} does not show {name}: {pattern}"
            )
        return " ".join(found[1].split())

    def plot(self, name: str) -> bytes:
        """The PNG that the one cell with this code in it shows.

        Raises:
            BadData: not declared, or not exactly one such cell.
        """
        code = self.deck.plots.get(name)
        if code is None:
            raise BadData(f"没有叫 {name} 的图。", f"plot:{name} is not among the deck's plots.")
        pictures = [
            output["data"]["image/png"]
            for cell in _notebook(self.notebook).cells
            if cell.cell_type == "code" and code in cell.source
            for output in cell.outputs
            if "image/png" in output.get("data", {})
        ]
        if len(pictures) != 1:
            raise BadData(
                f"{self.notebook.name}：有 {len(pictures)} 张图的代码里出现 {code!r}，应当是一张。",
                f"{self.notebook.name}: {len(pictures)} plots come from {code!r}; there must be one.",
            )
        return base64.b64decode(pictures[0])

    def image(self, address: str) -> tuple[str, bytes]:
        """Media type and bytes of ``plot:name`` or of a file, as seen from the deck's folder."""
        if address.startswith("plot:"):
            return "image/png", self.plot(address[5:])
        path = self.deck.path.resolve().parent / address
        kinds = {".svg": "image/svg+xml", ".png": "image/png"}
        if not path.is_file() or path.suffix not in kinds:
            raise BadData(f"没有这张图：{address}", f"There is no figure {address}")
        return kinds[path.suffix], path.read_bytes()

    def _text(self, file: Path) -> str:
        if file not in self._texts:
            if not file.is_file():
                raise BadData(f"没有 {file.name}。", f"{file.name} is missing.")
            self._texts[file] = (
                _outputs(file) if file.suffix == ".ipynb" else file.read_text(encoding="utf-8")
            )
        return self._texts[file]


@lru_cache(maxsize=16)
def _notebook(path: Path) -> NotebookNode:
    return read(path)


def _outputs(notebook: Path) -> str:
    """All that a notebook prints; tables without their tags, one blank between cells."""
    texts = []
    for cell in _notebook(notebook).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            texts += [output.get("text", ""), data.get("text/plain", "")]
            texts.append(" ".join(html.unescape(TAGS.sub(" ", data.get("text/html", ""))).split()))
    return "\n".join(texts)


def filled(part: str, source: Source) -> str:
    """A slide's part with its numbers in place."""
    return SLOT.sub(lambda slot: source.fact(slot[1]), part)


def markdown(deck: Deck, language: str) -> str:
    """One language as Marp Markdown that needs no other file: pictures are inside."""
    source = Source(deck)
    parts = []
    for slide in deck.slides:
        part = filled(getattr(slide, language), source)
        parts.append(f"{slide.shared}\n\n{PICTURE.sub(lambda match: _figure(match, source), part)}".strip())
    front = {"marp": True, "theme": "rlhf", "paginate": True, "math": "mathjax", "lang": LOCALES[language]}
    front |= {"title": _title(deck, language), "footer": f"{FOOTERS[language]} · {deck.name[:2]}"}
    settings = yaml.safe_dump(front, allow_unicode=True, sort_keys=False)
    return f"---\n{settings}---\n\n" + "\n\n---\n\n".join(parts) + "\n"


def _figure(match: re.Match, source: Source) -> str:
    kind, data = source.image(match[2])
    address = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    size = letters.smallest(kind, data)  # for tools.measuring
    known = "" if size is None else f' data-letters="{size:.5f}"'
    return f'<figure><img alt="{html.escape(match[1])}"{known} src="{address}"></figure>'


def _title(deck: Deck, language: str) -> str:
    found = re.search(r"^# (.+)$", getattr(deck.slides[0], language), re.M)
    return found[1] if found else deck.name


def problems(path: Path) -> list[str]:
    """Everything in a deck's text that is wrong, one line each; layout is measured by ``tools.slides``."""
    try:
        deck = load(path)
    except BadData as error:
        return [f"{path.name}: {error.en}"]
    found = list(_whole(deck))
    source, pictures = Source(deck), 0
    for language in LANGUAGES:
        parts = [
            (f"slide {n}, {language}", getattr(slide, language)) for n, slide in enumerate(deck.slides, 1)
        ]
        shown = [(where, alt, address) for where, part in parts for alt, address in PICTURE.findall(part)]
        found += [f"{path.name}, {what}" for what in alts.repeated(shown)]
    for number, slide in enumerate(deck.slides, 1):
        where = f"{path.name}, slide {number}"
        found += [f"{where}: {what}" for what in _problems(slide, source)]
        pictures += len(twins.IMAGE.findall(slide.en))
    if pictures < FIGURES:
        found.append(f"{path.name}: {pictures} figures; a deck shows at least {FIGURES}")
    return found


def _whole(deck: Deck) -> Iterator[str]:
    if len(deck.slides) not in SLIDES:
        yield f"{deck.path.name}: {len(deck.slides)} slides; a deck has {SLIDES.start} to {SLIDES.stop - 1}"
    if not (deck.root / "lessons" / f"{deck.name}.py").is_file():
        yield f"{deck.path.name}: there is no lesson of that name"
    everything = "\n".join(f"{slide.zh}\n{slide.en}" for slide in deck.slides)
    used = set(SLOT.findall(everything)), set(re.findall(r"\(plot:(\w+)\)", everything))
    for kind, declared, names_used in zip(("fact", "plot"), (deck.facts, deck.plots), used, strict=True):
        for name in sorted(set(declared) - names_used):
            yield f"{deck.path.name}: the {kind} {name} is declared but not used"


def _problems(slide: Slide, source: Source) -> Iterator[str]:
    for language in LANGUAGES:
        part = getattr(slide, language)
        path = checking.ABSOLUTE.search(part)
        if path:
            yield f"{language} shows a path of this machine: {path[0]}"
        if not re.search(r"^#{1,2} \S", part, re.M):
            yield f"{language} has no title"
        if len(twins.IMAGE.findall(part)) != len(PICTURE.findall(part)):
            yield f"{language}: a picture stands on a line of its own"
        for alt, address in PICTURE.findall(part):
            yield from _picture(language, alt, address, source)
        yield from (f"{language}: {what}" for what in _lost(PICTURE.sub("", part), slide, source.deck))
    if not DIRECTIVES.fullmatch(slide.shared):
        yield f"only _class and _paginate stand before both languages: {slide.shared[:50]!r}"
    slots = [Counter(SLOT.findall(getattr(slide, language))) for language in LANGUAGES]
    if slots[0] != slots[1]:
        yield f"quoted numbers differ: zh {sorted(slots[0].elements())}, en {sorted(slots[1].elements())}"
    try:
        texts = [filled(getattr(slide, language), source) for language in LANGUAGES]
    except BadData as error:
        yield error.en
        return
    yield from twins.differences(*texts)


def _lost(part: str, slide: Slide, deck: Deck) -> Iterator[str]:
    """Addresses that lead nowhere once the deck is built; files of the course are not beside it there."""
    parsed = reader.parse(part)
    yield from documents.faults(parsed, deck.path, deck.root, "en" if part == slide.en else "zh")
    for line, address in parsed.links:
        if not reader.elsewhere(address):
            yield f"line {line}: {address} is not beside the built slides; name it, or link to another site"
    yield from named.unknown(part, deck.root)
    for address in LOADED.findall(part):
        yield f"the style loads {address}: a deck holds all it needs"


def _picture(language: str, alt: str, address: str, source: Source) -> Iterator[str]:
    what = alts.fault(alt, address, language)
    if what or alts.SIZES.search(alt):
        yield f"{language}: {what or f'{alt[:40]!r}: sizes and places are for the theme'}"
    try:
        source.image(address)
    except BadData as error:
        yield f"{language}: {error.en}"
