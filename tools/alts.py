"""Alt texts: what one sees, for readers who do not. Whether a text is one, and those of the lessons' plots.

In: ``figs/NN_plots.yaml``, a list of ``{code, zh, en}``; ``code`` is a piece of code that only one of the
lesson's cells has. Out: the text in that cell's outputs, where IPython puts it, too. Drawings
(``figs/*.svg``) have theirs in the lesson itself.
"""

from __future__ import annotations

import copy
import html
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import yaml
from nbformat import NotebookNode

from rlhf.errors import BadData
from tools import markdown, twins

# words that say that there is a picture, or that a text will come, and not what is to be seen
EMPTY = set(
    re.findall(
        "[a-z]+",
        "a an the this that it is in of on for here see shown show shows showing above below following "
        "next left right my our some new old alt alternative text caption title description describe "
        "describes insert add put write fill todo tbd fixme none null untitled placeholder example "
        "sample test tests asdf qwer qwerty foo bar baz lorem ipsum dolor sit amet image images img "
        "picture pictures pic photo figure figures fig figs plot plots graph graphs chart charts "
        "diagram drawing illustration screenshot logo icon visualisation visualization scatter line pie "
        "histogram curve curves png svg jpg gif",
    )
)
EMPTY_ZH = re.compile(
    r"(?:[一这此该上下本如见请看在里是的个张幅待补写填加]|替代|文字|文本|说明|描述|标题|题注|内容|正文|上文|下文|上面|下面|"
    r"左边|右边|所示|这里|此处|填写|补充|稍后|以后|再|(?:示意|截|插|配|附|曲线|折线|散点|直方|柱状|条形|饼|热力|流程|"
    r"结构)图|图片|图像|图表|图示|照片|占位|测试|示例|图)+"
)
FILE = re.compile(
    r"[\w./\\-]+\.(?:svg|png|jpe?g|gif|webp|bmp|pdf)|https?://\S+|[!-~]*[a-z\d][_:/\\][a-z\d][!-~]*", re.I
)
# what Marp would take for a size or a place; a deck's figures take what room there is
SIZES = re.compile(
    r"(?:^| )(?:bg|fit|auto|cover|contain|(?:w|h|width|height):\S+|(?:left|right):\d+%)(?= |$)"
)


def fault(alt: str | None, address: str = "", language: str | None = None) -> str:
    """Why ``alt`` tells nobody what the picture at ``address`` shows, or nothing.

    Args:
        language: ``zh`` or ``en``, where the text must be in it.
    """
    picture = address if len(address) < 80 else f"{address[:30]}…"
    said = " ".join(re.sub(r"[\u200b-\u200f\ufeff]", "", html.unescape(alt or "")).split())
    if not said:
        return f"{picture} has no alt text"
    name = unquote(address.rpartition("/")[2])
    if FILE.fullmatch(said) or _bare(said) in {_bare(name), _bare(name.rpartition(".")[0])}:
        return f"the alt text of {picture} is the name of a file: {said[:40]!r}"
    if _says_nothing(said):
        return f"the alt text of {picture} does not say what is to be seen: {said!r}"
    if language and bool(twins.CJK.search(said)) != (language == "zh"):
        return f"the alt text of {picture} is in the other language: {said[:40]!r}"
    return ""


def _says_nothing(said: str) -> bool:
    """Whether a text names the picture, not what is in it: numbers, signs, one letter over and over."""
    words, chinese = re.findall(r"[a-z]+", said.lower()), "".join(twins.HAN.findall(said))
    letters = "".join(words) + chinese
    if len(set(letters)) < 2:
        return True
    if chinese:
        return EMPTY_ZH.fullmatch(chinese) is not None and EMPTY.issuperset(words)
    return EMPTY.issuperset(words)


def repeated(pictures: Iterable[tuple[str, str | None, str]]) -> Iterator[str]:
    """Pictures that share their text with another one: ``(where, alt, address)`` of all of a text."""
    seen: dict[str, str] = {}
    for where, alt, address in pictures:
        said = _bare(alt or "")
        if said and seen.setdefault(said, address) != address:
            yield f"{where}: {address} has the alt text of {seen[said]}: {(alt or '')[:40]!r}"


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
    for language in ("zh", "en"):
        texts = [(language, entry[language], entry["code"]) for entry in entries]
        found += [f"figs/{name[:2]}_plots.yaml, {what}" for what in repeated(texts)]
    for number, entry in enumerate(entries, 1):
        what = [fault(entry[language], "", language) for language in ("zh", "en")]
        what += [*twins.paragraphs(entry["zh"], entry["en"])] if not any(what) else []
        found += [f"figs/{name[:2]}_plots.yaml, entry {number}: {each.strip()}" for each in what if each]
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            reader = _Pictures()
            reader.feed("".join(data.get("text/html", "")))
            shown = markdown.parse("".join(data.get("text/markdown", "")))
            told = [fault(image.alt, image.address) for image in shown.images]
            told += [f"<{tag}>: {what}" for _, tag, said in shown.drawn if (what := unnamed(tag, said))]
            found += [f"cell {index}: the output shows {what}" for what in [*reader.found, *told] if what]
    return found


def unnamed(tag: str, said: str | None, language: str | None = None) -> str:
    """What is wrong with the name of a drawing in HTML (``<svg>``, ``<canvas>``, ``<iframe>``, …)."""
    return fault(said, f"<{tag}>", language)


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
        if tag in markdown.DRAWN - {"svg"} and not hidden:
            said = given.get("aria-label") or given.get("title")
            self.found += [f"a picture: {what}"] if (what := fault(said, f"<{tag}>")) else []
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
