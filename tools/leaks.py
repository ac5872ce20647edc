"""What must not be in a copy for a class: a solution, a cell in the wrong language, a file that is not there.

In: a lesson with both languages and its solutions, and a copy made from it. Out: problems, one line each. A
student's copy is looked at twice: whether it holds anything beside the lesson's open cells, whatever that is,
and whether a line of a solution stands in it.
"""

from __future__ import annotations

import base64
import binascii
import copy
import html
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from nbformat import NotebookNode

from tools import addresses, alts, markdown, timing, twins, wording
from tools.notebooks import LANGUAGES, tags

SHORTEST = 6  # characters, white space aside, of a line of a solution that would tell something
KNOWN = {"tags"}  # what the metadata of a student's cell may hold
CODED = re.compile(r"(?:[A-Za-z0-9+/]{4}){4,}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")  # base64
LINE = 16  # characters of a line of a solution by which a file beside the copies is known
READABLE = (".md", ".txt", ".py", ".ipynb", ".json", ".html", ".csv", ".yaml", ".yml", ".svg", "")


def solutions(lesson: NotebookNode, made: NotebookNode) -> list[str]:
    """Solutions of ``lesson`` that ``made`` still holds, wherever: cells, metadata, outputs, attachments.

    A solution is known by its lines; lines that the lesson shows elsewhere are no secret.
    """
    secret = secrets(lesson)
    found = []
    for index, cell in enumerate(made.cells):
        place = f"cell {index}"
        if "solution" in tags(cell):
            found.append(f"{place}: is a solution")
        elif cell.metadata.get("jupyter", {}).get("source_hidden"):
            found.append(f"{place}: is hidden")
        texts = [_plain(text) for text in _strings(cell)]
        found += _hits(place, secret, [*texts, *(hidden for text in texts for hidden in _decoded(text))])
    found += _hits("the notebook's metadata", secret, [_plain(text) for text in _strings(made.metadata)])
    return found


def secrets(lesson: NotebookNode) -> list[str]:
    """The lines of a lesson's solutions that stand nowhere else in it, without white space."""
    closed = [cell.source for cell in lesson.cells if "solution" in tags(cell)]
    shown = " ".join(_plain(cell.source) for cell in lesson.cells if "solution" not in tags(cell))
    lines = {_plain(line) for source in closed for line in source.splitlines()}
    return sorted(line for line in lines if len(line) >= SHORTEST and line not in shown)


def more_than_the_lesson(allowed: Collection[tuple[str, str]], made: NotebookNode, own: str) -> list[str]:
    """What a student's copy holds beside the open cells of its lesson: answers filled in, outputs, notes.

    Args:
        allowed: type and text of the lesson's open cells, in their order. own: the tag of cells that the
            edition adds.
    """
    found, cells = [], [cell for cell in made.cells if own not in tags(cell)]
    for index, cell in enumerate(made.cells):
        place = f"cell {index}"
        if own not in tags(cell) and (cell.cell_type, cell.source) not in allowed:
            found.append(f"{place}: is no open cell of the lesson: {cell.source.strip()[:40]!r}")
        if cell.get("outputs") or cell.get("execution_count"):
            found.append(f"{place}: an output was left, or the number of a run")
        if cell.get("attachments"):
            found.append(f"{place}: has attachments: {', '.join(cell.attachments)}")
        more = sorted(set(cell.metadata) - KNOWN)
        if more:
            found.append(f"{place}: metadata beside its tags: {', '.join(more)}")
    lacking = Counter(allowed) - Counter((cell.cell_type, cell.source) for cell in cells)
    found += [f"a cell of the lesson is missing: {text.strip()[:40]!r}" for _, text in lacking]
    if not found and [(cell.cell_type, cell.source) for cell in cells] != list(allowed):
        found.append("the cells stand in another order than in the lesson")
    return found


def files(folder: Path, lessons: Collection[NotebookNode], own: Collection[str]) -> list[str]:
    """Files in a folder for students that show a solution, or are notebooks of somebody else.

    Args:
        lessons: all lessons with their solutions. own: names of the notebooks that the edition wrote.
    """
    secret = sorted({line for lesson in lessons for line in secrets(lesson) if len(line) >= LINE})
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name in own or path.suffix not in READABLE:
            continue
        if path.suffix == ".ipynb":
            found.append(f"{name}: no notebook of this edition: remove it before handing the folder out")
        text = _plain(path.read_text(encoding="utf-8", errors="replace"))
        found += _hits(name, secret, [text, *_decoded(text)])
    return found


def unplanned(lesson: NotebookNode, made: NotebookNode) -> list[str]:
    """What a teacher's copy lacks: open solutions, outputs, the plan with every cell's time, alt texts."""
    found = []
    untimed = sum(cell.cell_type == "code" and timing.seconds(cell) is None for cell in made.cells)
    known = sum(cell.cell_type == "code" and timing.seconds(cell) is not None for cell in lesson.cells)
    if untimed and (known or timing.TIMED in lesson.metadata):
        number = lesson.metadata.get("generated", {}).get("from", "").rpartition("/")[2][:2]
        found.append(
            f"{untimed} cells without a time: `python -m tools.lessons execute --times {number}`".strip()
        )
    if not any(cell.id == "edition-plan" for cell in made.cells):
        found.append("the plan of the time is missing")
    if any(cell.metadata.get("jupyter", {}).get("source_hidden") for cell in made.cells):
        found.append("a solution is folded")
    for kind in ("solution", "exercise"):
        counts = [sum(kind in tags(cell) for cell in notebook.cells) for notebook in (lesson, made)]
        if counts[0] != counts[1]:
            found.append(f"{counts[1]} cells tagged {kind}; the lesson has {counts[0]}")
    kept = [
        [cell.get("outputs", []) for cell in each.cells if cell.cell_type == "code"]
        for each in (lesson, made)
    ]
    if list(map(len, kept[0])) != list(map(len, kept[1])):
        found.append("code cells or their outputs are not those of the lesson")
    return found


def _hits(place: str, secret: list[str], texts: list[str]) -> list[str]:
    hits = [line for line in secret if any(line in text for text in texts)]
    return [f"{place}: {len(hits)} lines of a solution, such as {hits[0][:60]!r}"] if hits else []


def _plain(text: str) -> str:
    """``text`` without white space and without the escapes of HTML and JSON."""
    return re.sub(r"\s+", "", re.sub(r"\\[nt]", " ", html.unescape(text)).replace('\\"', '"'))


def _decoded(text: str) -> Iterator[str]:
    """What pieces of ``text`` say that are base64 of a text."""
    for match in CODED.finditer(text):
        try:
            yield _plain(base64.b64decode(match[0]).decode())
        except (binascii.Error, UnicodeDecodeError):
            continue


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


def _is_in(source: str, language: str) -> bool:
    return not any(twins.foreign(leaf, language) for leaf in markdown.parse(source).leaves)


def misleading(made: NotebookNode, edition: str, language: str, own: str) -> list[str]:
    """Sentences of ``made`` about solutions that are not there (students) or not folded (teachers)."""
    wrong = {"student": "not there", "teacher": "not folded"}[edition]
    return [
        f"cell {index}: speaks of a solution that is {wrong}: {sentence[:60]!r}"
        for index, cell in enumerate(made.cells)
        if cell.cell_type == "markdown" and own not in tags(cell)
        for sentence in wording.misleading(edition, cell.source, language)
    ]


def without(made: NotebookNode, own: str) -> NotebookNode:
    """``made`` without the cells that an edition added."""
    made = copy.deepcopy(made)
    made.cells = [cell for cell in made.cells if own not in tags(cell)]
    return made


def lost_documents(folder: Path) -> list[str]:
    """Links and pictures of the documents in ``folder`` that lead nowhere, or out of it."""
    found = []
    for path in sorted(folder.rglob("*.md")):
        parsed, name = markdown.parse(path.read_text(encoding="utf-8")), path.relative_to(folder).as_posix()
        for place in (*parsed.links, *parsed.images):
            what = addresses.fault(place.address, path, folder, frozenset(parsed.anchors))
            found += (
                [f"{name}, line {place.line}: {place.address} is not in the folder: {what}"] if what else []
            )
    return found


def missing_files(made: NotebookNode, folder: Path, language: str | None = None) -> list[str]:
    """Addresses in ``made`` that lead nowhere when it lies in ``folder``, or lead out of it; pictures in its
    text without a word."""
    found = []
    cells = [
        (index, markdown.parse(c.source)) for index, c in enumerate(made.cells) if c.cell_type == "markdown"
    ]
    own = frozenset().union(*(parsed.anchors for _, parsed in cells))
    for index, parsed in cells:
        shown = [link.address for link in parsed.links] + [image.address for image in parsed.images]
        for address in shown:
            what = addresses.fault(address, folder / "lesson.ipynb", folder, own)
            found += [f"cell {index}: {address} is not in the folder: {what}"] if what else []
        for image in parsed.images:
            what = alts.fault(image.alt, image.address, language)
            found += [f"cell {index}: {what}"] if what else []
    return found
