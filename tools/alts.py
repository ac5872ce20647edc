"""Alt texts: what one sees, for readers who do not. Whether a text is one, and those of the lessons' plots.

In: ``figs/NN_plots.yaml``, a list of ``{code, zh, en}``; ``code`` is a piece of code that only one of the
lesson's cells has. Out: the text in that cell's outputs, where IPython puts it, too. Drawings
(``figs/*.svg``) have theirs in the lesson itself.
"""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import yaml
from nbformat import NotebookNode

from rlhf.errors import BadData
from tools import twins

# what says that there is a picture, and not what is in it
EMPTY = re.compile(
    r"(?:an?|the|this)?\W*(?:alt(?:ernative)?(?: text)?|image|img|picture|pic|photo|figure|fig|plot|graph|"
    r"chart|diagram|drawing|illustration|screenshot|logo|untitled|todo|tbd|none|null|png|svg|"
    r"图|图片|图像|图表|图示|插图|配图|示意图|曲线图|截图|照片|替代文字|待补)?[\W\d_]*",
    re.I,
)
FILE = re.compile(r"[\w./\\-]+\.(?:svg|png|jpe?g|gif|webp|bmp|pdf)", re.I)


def fault(alt: str | None, address: str = "", language: str | None = None) -> str:
    """Why ``alt`` tells nobody what the picture at ``address`` shows, or nothing.

    Args:
        language: ``zh`` or ``en``, where the text must be in it.
    """
    picture = address if len(address) < 80 else f"{address[:30]}…"
    said = " ".join((alt or "").split())
    if not said:
        return f"{picture} has no alt text"
    name = unquote(address.rpartition("/")[2])
    if FILE.fullmatch(said) or _bare(said) in {_bare(name), _bare(name.rpartition(".")[0])}:
        return f"the alt text of {picture} is the name of a file: {said[:40]!r}"
    if EMPTY.fullmatch(said):
        return f"the alt text of {picture} does not say what is to be seen: {said!r}"
    if language and bool(twins.CJK.search(said)) != (language == "zh"):
        return f"the alt text of {picture} is in the other language: {said[:40]!r}"
    return ""


def _bare(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.lower())


def load(root: Path, name: str) -> list[dict[str, str]]:
    """The texts of lesson ``name`` (``07_ppo_imdb``); none where the lesson has no file of them.

    Raises:
        BadData: an entry lacks ``code``, ``zh`` or ``en``.
    """
    path = root / "figs" / f"{name[:2]}_plots.yaml"
    entries = (yaml.safe_load(path.read_text(encoding="utf-8")) or []) if path.is_file() else []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not all(entry.get(key) for key in ("code", "zh", "en")):
            raise BadData(
                f"{path.name} 第 {number} 条缺少 code、zh 或 en。",
                f"{path.name}, entry {number}: code, zh and en are needed.",
            )
    return entries


def describe(notebook: NotebookNode, entries: list[dict[str, str]], language: str) -> list[str]:
    """Put each text with the pictures of its cell: ``metadata["image/png"]["alt"]``, as IPython does.

    Returns:
        what is wrong, one line each: an entry whose code no cell with a picture has, or several; a picture
        without a text.
    """
    drawing = [cell for cell in notebook.cells if pictures(cell)]
    found = []
    for entry in entries:
        cells = [cell for cell in drawing if entry["code"] in cell.source]
        if len(cells) != 1:
            found.append(f"{len(cells)} cells that draw contain {entry['code']!r}; there must be one")
            continue
        for output in pictures(cells[0]):
            for kind in _kinds(output):
                output.metadata.setdefault(kind, {})["alt"] = entry[language]
    for cell in drawing:
        if not text(cell):
            found.append(f"no alt text for the plot of {cell.source.strip().splitlines()[0]!r}")
    return found


def problems(notebook: NotebookNode, root: Path, name: str) -> list[str]:
    """What is wrong with the alt texts of a lesson's outputs: missing ones, ones that say nothing, ones in
    the wrong language or with other numbers than their twin's, pictures in HTML without any."""
    entries = load(root, name)
    found = describe(copy.deepcopy(notebook), entries, "en")
    for number, entry in enumerate(entries, 1):
        what = [fault(entry[language], "", language) for language in ("zh", "en")]
        what += [*twins.paragraphs(entry["zh"], entry["en"])] if not any(what) else []
        found += [f"figs/{name[:2]}_plots.yaml, entry {number}: {each.strip()}" for each in what if each]
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            reader = _Pictures()
            reader.feed("".join(output.get("data", {}).get("text/html", "")))
            found += [f"cell {index}: the output shows {what}" for what in reader.found]
    return found


class _Pictures(HTMLParser):
    """Pictures in HTML that have no words: ``<img>`` without alt, ``<svg>`` without a title."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open = ""  # the drawing that has not named itself yet

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        hidden = given.get("aria-hidden") == "true"
        if tag == "img" and not hidden and (what := fault(given.get("alt"), given.get("src") or "")):
            self.found.append(f"a picture: {what}")
        if tag == "svg" and not (hidden or given.get("aria-label")):
            self.open = "a drawing (<svg>) without <title> or aria-label"
        if tag == "title":
            self.open = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "svg" and self.open:
            self.found.append(self.open)
            self.open = ""


def text(cell: NotebookNode) -> str:
    """The alt text of a cell's pictures, or nothing."""
    found = (output.metadata.get(kind, {}).get("alt") for output in pictures(cell) for kind in _kinds(output))
    return next(filter(None, found), "")


def pictures(cell: NotebookNode) -> list[NotebookNode]:
    """The outputs of a cell that are pictures."""
    return [output for output in cell.get("outputs", []) if _kinds(output)]


def _kinds(output: NotebookNode) -> list[str]:
    return [kind for kind in output.get("data", {}) if kind.startswith("image/")]
