"""Does a lesson keep the conventions? In: its source and its notebook. Out: problems, one line each."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools import twins
from tools.notebooks import Course, build, read, tags

MAX_BYTES = 600_000
MAX_LINES, MEDIAN_LINES = 40, 8
EXERCISES = range(3, 6)
FIGURES = 2
ABSOLUTE = re.compile(
    r"(?<![\w./:~$<-])/(?:home|Users|root|tmp|private|var|opt|usr|mnt|media|srv|data|work|workspace|content)/[\w.-]+"
    r"|\b[A-Za-z]:\\\\?Users\b"
)
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")
KNOWN_TAGS = {"zh", "en", "setup", "exercise", "solution", "table"}


def problems(course: Course, name: str, *, source_only: bool = False) -> list[str]:
    """Everything that is wrong with one lesson; empty when nothing is.

    Args:
        source_only: look at ``lessons/NAME.py`` alone, not at the notebook and its outputs.
    """
    notebook = build(course.source(name))
    found = [*untwinned(notebook), *_links(notebook, course.notebooks), *_title(notebook, name)]
    found += [*_code(notebook), *_order(notebook), *_exercises(notebook, name)]
    if source_only:
        return found
    path = course.notebook(name)
    if not path.is_file():
        return [*found, f"notebooks/{path.name} is missing: run `python -m tools.lessons pair`"]
    executed = read(path)
    return [
        *found,
        *_paired(notebook, executed),
        *outputs(executed),
        *_executed(executed),
        *_figures(executed),
    ]


def outputs(notebook: NotebookNode) -> list[str]:
    """What must not be in a committed notebook: errors, machine paths, memory addresses, too many bytes."""
    found = []
    for index, cell in _of(notebook, "code"):
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {index}: ended with {output.ename}: {output.evalue}")
            for text in _texts(output):
                for pattern, what in ((ABSOLUTE, "a path of this machine"), (ADDRESS, "a memory address")):
                    match = pattern.search(text)
                    if match:
                        found.append(f"cell {index}: the output shows {what}: {match[0]}")
    size = len(nbformat.writes(notebook).encode())
    if size > MAX_BYTES:
        found.append(f"the notebook has {size:,} bytes, more than {MAX_BYTES:,}")
    return found


def strays(course: Course) -> list[str]:
    """Notebooks that no lesson stands behind."""
    names = set(course.names())
    paths = sorted(course.notebooks.glob("*.ipynb"))
    return [f"notebooks/{path.name}: no lesson of that name" for path in paths if path.stem not in names]


def _of(notebook: NotebookNode, kind: str) -> Iterator[tuple[int, NotebookNode]]:
    return ((index, cell) for index, cell in enumerate(notebook.cells) if cell.cell_type == kind)


def untwinned(notebook: NotebookNode) -> Iterator[str]:
    """Markdown cells without their twin, and twins that differ."""
    waiting = None  # the zh cell whose twin comes next
    for index, cell in [*enumerate(notebook.cells), (len(notebook.cells), None)]:
        language = {"zh", "en"} & set(tags(cell)) if cell is not None else set()
        if waiting is not None and language != {"en"}:
            yield f"cell {waiting} (zh) is not followed by its en twin"
        if language == {"en"}:
            if waiting is None:
                yield f"cell {index} (en) does not follow a zh cell"
            else:
                different = twins.differences(notebook.cells[waiting].source, cell.source)
                yield from (
                    f"cells {waiting} and {index} (zh, en; {_start(cell)!r}): {what}" for what in different
                )
        elif cell is not None and cell.cell_type == "markdown" and language != {"zh"}:
            yield f"cell {index} ({_start(cell)!r}): a markdown cell needs one of the tags zh and en"
        waiting = index if language == {"zh"} else None


def _links(notebook: NotebookNode, folder: Path) -> Iterator[str]:
    """Relative addresses must lead somewhere, as seen from ``notebooks/``."""
    for index, cell in _of(notebook, "markdown"):
        text = twins.Text(cell.source)
        for address in (link.partition("#")[0] for link in text.images + text.links):
            if address and not re.match(r"[a-z]+:", address) and not (folder / address).exists():
                yield f"cell {index}: {address} does not exist"


def _title(notebook: NotebookNode, name: str) -> Iterator[str]:
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith(f"# {name[:2]}"):
        yield f"the first cell must be the title: '# {name[:2]} …'"
    numbers = []
    for _, cell in _of(notebook, "markdown"):
        if "en" in tags(cell):
            numbers += [
                int(number) for level, number in twins.Text(cell.source).headings if level == 2 and number
            ]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"the sections are not numbered 1, 2, 3, …: {numbers}"


def _code(notebook: NotebookNode) -> Iterator[str]:
    lengths = []
    for index, cell in _of(notebook, "code"):
        lengths.append(len(cell.source.splitlines()))
        if lengths[-1] > MAX_LINES:
            yield f"cell {index} ({_start(cell)!r}): {lengths[-1]} lines, more than {MAX_LINES}"
        if twins.CJK.search(cell.source):
            yield f"cell {index} ({_start(cell)!r}): code and comments are English"
    median = statistics.median(lengths or [0])
    if median > MEDIAN_LINES:
        yield f"the median code cell has {median:g} lines, more than {MEDIAN_LINES}"
    for index, cell in enumerate(notebook.cells):
        unknown = set(tags(cell)) - KNOWN_TAGS
        if unknown:
            yield f"cell {index}: unknown tags {sorted(unknown)}"


def _order(notebook: NotebookNode) -> Iterator[str]:
    places = {tag: [i for i, cell in _of(notebook, "code") if tag in tags(cell)] for tag in KNOWN_TAGS}
    for tag in ("setup", "table"):
        if len(places[tag]) != 1:
            yield f"{len(places[tag])} cells are tagged {tag!r}; there must be one"
    first = next((index for index, _ in _of(notebook, "code")), None)
    if places["setup"] and places["setup"][0] != first:
        yield "the cell tagged 'setup' must be the first code cell"
    if places["table"] and places["exercise"] and places["table"][0] > places["exercise"][0]:
        yield "the before/after table comes before the exercises"
    for index in places["table"]:
        if (
            "before_after" not in notebook.cells[index].source
            and ".save(" not in notebook.cells[index].source
        ):
            yield f"cell {index}: the table cell makes or saves the report (before_after, .save)"


def _exercises(notebook: NotebookNode, name: str) -> Iterator[str]:
    code = list(_of(notebook, "code"))
    exercises = [place for place, (_, cell) in enumerate(code) if "exercise" in tags(cell)]
    if len(exercises) not in EXERCISES:
        yield f"{len(exercises)} exercises; there are 3 to 5"
    for number, place in enumerate(exercises, 1):
        index, cell = code[place]
        call = f"checks.e{name[:2]}_{number}("
        follower = code[place + 1][1] if place + 1 < len(code) else None
        if call not in cell.source:
            yield f"cell {index}: exercise {number} does not call {call}…)"
        if follower is None or "solution" not in tags(follower):
            yield f"cell {index}: exercise {number} is not followed by a solution cell"
            continue
        if call not in follower.source or ".must_pass()" not in follower.source:
            yield f"cell {index}: the solution of exercise {number} does not call {call}…).must_pass()"
        if not follower.metadata.get("jupyter", {}).get("source_hidden"):
            yield f"cell {index}: the solution of exercise {number} is not hidden (jupyter source_hidden)"
    if sum("solution" in tags(cell) for _, cell in code) != len(exercises):
        yield "every solution belongs to one exercise"


def _paired(notebook: NotebookNode, executed: NotebookNode) -> Iterator[str]:
    def essence(cells: list[NotebookNode]) -> list[tuple]:
        return [
            (cell.cell_type, cell.source, tags(cell), dict(cell.metadata.get("jupyter", {})))
            for cell in cells
        ]

    if essence(notebook.cells) != essence(executed.cells):
        yield "the notebook is not the one of the source: run `python -m tools.lessons pair`, then execute"
    if "generated" not in executed.metadata:
        yield "the notebook does not say that it is generated: run `python -m tools.lessons pair`"


def _executed(notebook: NotebookNode) -> Iterator[str]:
    counts = [cell.execution_count for _, cell in _of(notebook, "code")]
    if counts != list(range(1, len(counts) + 1)):
        yield "not executed in one go: run `python -m tools.lessons execute --inplace`"


def _figures(notebook: NotebookNode) -> Iterator[str]:
    count = 0
    for _, cell in _of(notebook, "markdown"):
        count += len(twins.IMAGE.findall(cell.source)) if "en" in tags(cell) else 0
    for _, cell in _of(notebook, "code"):
        for output in cell.outputs:
            data = output.get("data", {})
            count += any(kind.startswith("image/") for kind in data) or "rlhf-heat" in data.get(
                "text/html", ""
            )
    if count < FIGURES:
        yield f"{count} figures; a lesson shows at least {FIGURES}"


def _texts(output: NotebookNode) -> Iterator[str]:
    yield from (output.get(key, "") for key in ("text", "evalue"))
    yield from (v for k, v in output.get("data", {}).items() if k.startswith("text/") and isinstance(v, str))


def _start(cell: NotebookNode) -> str:
    return (cell.source.strip().splitlines() or [""])[0][:40]
