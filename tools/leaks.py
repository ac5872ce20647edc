"""What must not be in a copy for a class: a solution, a cell in the wrong language, a file that is not there.

In: a lesson with both languages and its solutions, and a copy made from it. Out: problems, one line each.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

from nbformat import NotebookNode

from tools import twins
from tools.notebooks import LANGUAGES, tags

SHORTEST = 6  # characters, white space aside, of a line of a solution that would tell something
WORDS = 12  # so many English words without a Chinese character are a paragraph that nobody translated
ENGLISH = re.compile(r"[A-Za-z][A-Za-z'’-]+")
QUOTED = re.compile(r"\s*([-*+>|]|\d+[.)])\s?")  # lists of sources, tables and quotations may be English


def solutions(lesson: NotebookNode, made: NotebookNode) -> list[str]:
    """Solutions of ``lesson`` that ``made`` still holds, wherever: cells, metadata, outputs, attachments.

    A solution is known by its lines; lines that the lesson shows elsewhere are no secret.
    """
    closed = [cell.source for cell in lesson.cells if "solution" in tags(cell)]
    shown = " ".join(_plain(cell.source) for cell in lesson.cells if "solution" not in tags(cell))
    lines = {_plain(line) for source in closed for line in source.splitlines()}
    secret = sorted(line for line in lines if len(line) >= SHORTEST and line not in shown)
    found = []
    for index, cell in enumerate(made.cells):
        place = f"cell {index}"
        if "solution" in tags(cell):
            found.append(f"{place}: is a solution")
        elif cell.metadata.get("jupyter", {}).get("source_hidden"):
            found.append(f"{place}: is hidden")
        texts = [_plain(text) for text in _strings(cell)]
        found += _hits(place, secret, texts)
    found += _hits("the notebook's metadata", secret, [_plain(text) for text in _strings(made.metadata)])
    return found


def _hits(place: str, secret: list[str], texts: list[str]) -> list[str]:
    hits = [line for line in secret if any(line in text for text in texts)]
    return [f"{place}: {len(hits)} lines of a solution, such as {hits[0][:60]!r}"] if hits else []


def _plain(text: str) -> str:
    """``text`` without white space and without the escapes of HTML and JSON."""
    return re.sub(r"\s+", "", re.sub(r"\\[nt]", " ", html.unescape(text)).replace('\\"', '"'))


def _strings(node: object) -> Iterator[str]:
    """Every string in a piece of a notebook, keys included."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _strings(key)
            yield from _strings(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _strings(value)


def untranslated(lesson: NotebookNode, made: NotebookNode, language: str) -> list[str]:
    """Cells of ``made`` that are not in ``language``, and cells of ``lesson`` that have no twin in it."""
    counts = {each: sum(each in tags(cell) for cell in lesson.cells) for each in LANGUAGES}
    found = []
    if len(set(counts.values())) > 1:
        found.append(f"the lesson has {counts['zh']} cells in zh and {counts['en']} in en")
    for index, cell in enumerate(made.cells):
        if cell.cell_type != "markdown":
            continue
        foreign = set(tags(cell)) & (set(LANGUAGES) - {language})
        if foreign or not _is_in(cell.source, language):
            found.append(f"cell {index} is not in {language}: {cell.source.strip()[:50]!r}")
    return found


def _is_in(markdown: str, language: str) -> bool:
    text = twins.Text(markdown)
    if language == "en":
        return not twins.CJK.search(text.plain)
    if text.prose.strip() and not twins.CJK.search(text.prose) and ENGLISH.search(text.prose):
        return False
    blocks = re.split(r"\n\s*\n", text.prose)
    return not any(
        len(ENGLISH.findall(block)) >= WORDS and not twins.CJK.search(block) and not QUOTED.match(block)
        for block in blocks
    )


def missing_files(made: NotebookNode, folder: Path) -> list[str]:
    """Addresses in ``made`` that lead nowhere when it lies in ``folder``, or lead out of it."""
    found = []
    for index, cell in enumerate(made.cells):
        if cell.cell_type != "markdown":
            continue
        text = twins.Text(cell.source)
        for address in [*text.links, *text.images]:
            path = address.partition("#")[0]
            if not path or re.match(r"[a-z]+:", path):
                continue
            inside = (folder / path).resolve().is_relative_to(folder.resolve())
            if not inside or not (folder / path).is_file():
                found.append(f"cell {index}: {address} is not in the folder")
    return found
