"""Which section of the site an anchor of the checkout stands for.

In: a file of the checkout and an anchor of it, as GitHub and JupyterLab make them (``README.md#lessons``).
Out: the label of that section on the pages of one language (``index-s-2``), whichever language the anchor
is in: twins have the same headings in the same order. ``tools.site_pages`` writes these labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from rlhf.errors import BadData
from tools import markdown
from tools.documents import HALVES
from tools.notebooks import LANGUAGES, one_language, read
from tools.twins import CJK

KEEP = re.compile(r"^(?P<mark>```+|~~~+).*?^(?P=mark)\s*$|(?P<tick>`+).+?(?P=tick)", re.M | re.S)  # code
HEADING = re.compile(r"^(#{1,6}) ", re.M)
COMMENT = re.compile(r"<!--.*?-->\n?", re.S)
ORDER = re.compile(r"^.*中文在前.*English below.*\n", re.M)  # no longer true of one half
RESULTS = re.compile(r"benchmarks/RESULTS[^/]*\.md")


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """``change(text)``, which sees a private character in place of each fenced or inline piece of code."""
    codes: list[str] = []

    def hide(code: re.Match) -> str:
        codes.append(code[0])
        return "\ue000"

    shown = change(KEEP.sub(hide, text))
    rest = iter(codes)
    return re.sub("\ue000", lambda _: next(rest), shown)


def numbered(text: str, name: str, first: int = 1) -> tuple[str, int]:
    """Mark the headings so that both languages share their anchors: ``name-s-1``, ``name-s-2``, …

    Returns:
        the text, and the number of the next heading.
    """
    count = first

    def mark(_: re.Match) -> str:
        nonlocal count
        count += 1
        return f"({name}-s-{count - 1})=\n{_[0]}"

    return outside_code(text, lambda part: HEADING.sub(mark, part)), count


def page_name(path: str) -> str:
    """The name in the labels of a page that shows the file ``path``."""
    return re.sub(r"[^a-z0-9]+", "-", f"file-{path}".lower())


class Readme:
    """A README in pieces, found by what they hold, so that its headings may be renamed."""

    def __init__(self, path: Path):
        text = path.read_text(encoding="utf-8")
        marked = outside_code(text, lambda part: re.sub("^(?=## )", "\ue002", part, flags=re.M))
        first, *sections = marked.split("\ue002")
        sections = [f"{section.strip()}\n" for section in sections]
        self.lessons = self._one(path, sections, "](notebooks/")
        self.results = self._one(path, sections, "<!-- results:")
        self.rest = "\n".join(s for s in sections if s not in (self.lessons, self.results))
        lines = first.splitlines()  # the title, and below it the line that leads to the other language
        self.intro = "\n".join(line for line in lines if not re.search(r"\]\(README(\.zh)?\.md\)", line))
        self.pages = [("index", first)]  # all of it, in its order, and where each section is shown
        self.pages += [(self._page(section), section) for section in sections]

    def _page(self, section: str) -> str:
        return {self.lessons: "index", self.results: "results"}.get(section, "guide")

    def labels(self) -> list[str]:
        """What the site calls its headings; the guide has a title of its own above them."""
        count, found = Counter(guide=1), []
        for page, section in self.pages:
            for _ in outline(COMMENT.sub("", section)):
                count[page] += 1
                found.append(f"{page}-s-{count[page]}")
        return found

    @staticmethod
    def _one(path: Path, sections: list[str], mark: str) -> str:
        found = [section for section in sections if mark in section]
        if not found:
            raise BadData(f"{path.name} 里没有带 {mark} 的一节。", f"{path.name} has no section with {mark}.")
        return found[0]


def halves(text: str) -> dict[str, str] | None:
    """A document that says all twice (``## 中文``, ``## English``) as two of one language, else None.

    What stands before the halves is kept as far as it is in that language; headings move up one level.
    """
    if sorted(HALVES.findall(text)) != ["English", "中文"]:
        return None
    before, one, first, _, second = HALVES.split(text)
    own = {"zh": first, "en": second} if one == "中文" else {"zh": second, "en": first}
    return {
        language: _in_language(ORDER.sub("", before), language)
        + outside_code(half, lambda part: re.sub(r"^##(#+ )", r"#\1", part, flags=re.M))
        for language, half in own.items()
    }


def _in_language(text: str, language: str) -> str:
    """``text`` with lines of the kind ``中文 · English`` cut down to one language."""
    lines = []
    for line in text.split("\n"):
        mark, said = re.fullmatch(r"(#+ )?(.*)", line).groups("")
        parts = said.split(" · ")
        chinese = [bool(CJK.search(part)) for part in parts]
        if len(parts) == 2 and chinese[0] != chinese[1]:
            said = parts[chinese.index(language == "zh")]
        lines.append(mark + said)
    return "\n".join(lines)


def sections(text: str) -> tuple[str, list[str]]:
    """What stands before the first heading of a Markdown text, and its pieces from heading to heading."""
    marked = outside_code(text, lambda part: HEADING.sub(lambda match: f"\ue001{match[0]}", part))
    first, *parts = marked.split("\ue001")
    return first, parts


def outline(text: str) -> list[set[str]]:
    """The anchors of each section of a Markdown text, in its order: of its heading, and the ids inside it."""
    first, parts = sections(text)
    seen: Counter[str] = Counter()
    found = []
    for part in parts:
        parsed = markdown.parse(part)
        name = markdown.slug(next((leaf.shown for leaf in parsed.leaves if leaf.kind[1:].isdigit()), ""))
        again = {f"{name}-{seen[name]}"} if seen[name] else {name}
        found.append(parsed.anchors - {name} | again)
        seen[name] += 1
    if found:
        found[0] |= markdown.parse(first).anchors | {"top"}
    return found


class Sections:
    """The sections of all files on the pages of one language."""

    def __init__(self, root: Path, language: str):
        self.root, self.language = root, language
        self._known: dict[str, list[dict[str, str]]] = {}

    def label(self, path: str, anchor: str) -> str | None:
        """Where ``path#anchor`` is shown, or None where no page has it."""
        if path not in self._known:
            self._known[path] = [_by_anchor(*each) for each in self._sections(path)]
        return next((each[anchor] for each in self._known[path] if anchor in each), None)

    def _sections(self, path: str) -> list[tuple[list[set[str]], list[str]]]:
        """For either language, this one first: the anchors of a file's sections, and the labels of these."""
        own = self.language
        languages = [own, *(each for each in LANGUAGES if each != own)]
        if path.endswith(".ipynb"):
            notebook, name = read(self.root / path), Path(path).stem
            texts = (
                [c.source for c in one_language(notebook, each).cells if c.cell_type == "markdown"]
                for each in languages
            )
            return [_counted([part for text in each for part in outline(text)], name) for each in texts]
        if not path.endswith(".md"):
            return []
        plain = re.sub(r"(\.zh)?\.md$", "", path)
        files = {"zh": self.root / f"{plain}.zh.md", "en": self.root / f"{plain}.md"}
        found = []
        for each in languages:
            file = files[each] if files[each].is_file() else files["en"]
            found += self._of_file(path, file.read_text(encoding="utf-8"), each) if file.is_file() else []
        return found

    def _of_file(self, path: str, text: str, language: str) -> list[tuple[list[set[str]], list[str]]]:
        if path in ("README.md", "README.zh.md"):
            file = self.root / ("README.zh.md" if language == "zh" else "README.md")
            return [(outline(COMMENT.sub("", text)), Readme(file).labels())]
        if path == "GLOSSARY.md":
            return [_glossary(text)]
        text = COMMENT.sub("", text)
        if RESULTS.fullmatch(path):
            return [_counted(outline(text), "results", 1 + self._before[Path(path).name])]
        if both := halves(text):
            name = page_name(path)
            heads = [f"{name}-s-1"] * 2
            return [_counted(outline(both[language]), name), ([{"中文"}, {"english", "English"}], heads)]
        return [_counted(outline(text), page_name(path))]

    @cached_property
    def _before(self) -> dict[str, int]:
        """How many headings the page of results has before each file of ``benchmarks/``."""
        readme = self.root / ("README.zh.md" if self.language == "zh" else "README.md")
        count = len(outline(COMMENT.sub("", Readme(readme).results))) + 1  # and the one above the files
        found = {}
        for file in results(self.root):
            found[file.name] = count
            count += len(outline(COMMENT.sub("", file.read_text(encoding="utf-8"))))
        return found


def results(root: Path) -> list[Path]:
    """The files on the page of results, in their order."""
    return sorted((root / "benchmarks").glob("RESULTS*.md"), key=lambda path: path.stem)


def _by_anchor(anchors: list[set[str]], labels: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for own, label in zip(anchors, labels, strict=True):
        for anchor in own:
            found.setdefault(anchor, label)
    return found


def _counted(anchors: list[set[str]], name: str, first: int = 1) -> tuple[list[set[str]], list[str]]:
    return anchors, [f"{name}-s-{number}" for number in range(first, first + len(anchors))]


def _glossary(text: str) -> tuple[list[set[str]], list[str]]:
    """The title, and each part, whose heading reads ``中文 · English``."""
    heads = [part.partition("\n")[0] for part in sections(text)[1]]
    both = zip(outline(text), heads, strict=True)
    shown = [own for own, head in both if head.startswith("# ") or (head.startswith("## ") and "·" in head)]
    return _counted(shown, "glossary")
