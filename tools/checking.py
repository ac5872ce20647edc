"""Does a lesson keep the conventions? In: its source and its notebook. Out: problems, one line each."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator

import nbformat
from nbformat import NotebookNode

from tools import addresses, alts, documents, exercises, figures, markdown, named, timing, twins
from tools.notebooks import LANGUAGES, Course, build, read, tags, texts
from tools.site_page import OUTSIDE, Page

MAX_BYTES = 600_000
MAX_LINES, MEDIAN_LINES = 40, 8
FIGURES = 2
ABSOLUTE = re.compile(
    r"(?<![\w./:~$<-])/(?:home|Users|root|tmp|private|var|opt|usr|mnt|media|srv|data|work|workspace|content)/[\w.-]+"
    r"|\b[A-Za-z]:\\\\?Users\b"
)
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")
KNOWN_METADATA = {"tags", "jupyter", timing.SECONDS}
KNOWN_TAGS = {"zh", "en", "setup", "exercise", "solution", "table"}


def problems(course: Course, name: str, *, source_only: bool = False) -> list[str]:
    """Everything that is wrong with one lesson; empty when nothing is.

    Args:
        source_only: look at ``lessons/NAME.py`` alone, not at the notebook and its outputs.
    """
    notebook = build(course.source(name))
    found = [*untwinned(notebook), *_links(notebook, course, name), *_title(notebook, name)]
    found += [*_code(notebook), *_order(notebook), *exercises.problems(notebook, name)]
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
        *alts.problems(executed, course.root, name),
        *_shown_links(executed, course, name),
        *exercises.answered(executed),
        *exercises.given_away(executed, course.root / "rlhf" / "checks" / f"lesson{name[:2]}.py"),
    ]


def outputs(notebook: NotebookNode) -> list[str]:
    """What must not be in a committed notebook: errors, machine paths, memory addresses, too many bytes."""
    found = []
    for index, cell in _of(notebook, "code"):
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {index}: ended with {output.ename}: {output.evalue}")
            for text in texts(output):
                for pattern, what in ((ABSOLUTE, "a path of this machine"), (ADDRESS, "a memory address")):
                    match = pattern.search(text)
                    if match:
                        found.append(f"cell {index}: the output shows {what}: {match[0]}")
            for address in Page("".join(output.get("data", {}).get("text/html", ""))).loads:
                if OUTSIDE.match(address):
                    found.append(f"cell {index}: the output loads {address} from another site")
    size = len(nbformat.writes(notebook).encode())
    if size > MAX_BYTES:
        found.append(f"the notebook has {size:,} bytes, more than {MAX_BYTES:,}")
    return found


def strays(course: Course) -> list[str]:
    """Notebooks that no lesson stands behind."""
    names = set(course.names())
    paths = sorted(course.notebooks.glob("*.ipynb"))
    found = [f"notebooks/{path.name}: no lesson of that name" for path in paths if path.stem not in names]
    numbers = {name[:2] for name in names}
    for path in sorted((course.root / "figs").glob("[0-9][0-9]_*")):
        if path.name[:2] not in numbers:
            found.append(f"figs/{path.name}: no lesson {path.name[:2]}")
    return found


def around(course: Course) -> list[str]:
    """What is wrong beside the lessons: documents, drawings, files without a lesson."""
    found = [*strays(course), *documents.problems(course.root), *figures.problems(course.root)]
    return [*found, *named.messages(course.root), *named.mentions(course.root)]


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


def _links(notebook: NotebookNode, course: Course, name: str) -> Iterator[str]:
    """Addresses must lead somewhere, as seen from ``notebooks/``, and pictures have a text."""
    cells = [(index, cell, markdown.parse(cell.source)) for index, cell in _of(notebook, "markdown")]
    for index, cell, parsed in cells:
        language = next((each for each in LANGUAGES if each in tags(cell)), None)
        own = frozenset().union(*(other.anchors for _, one, other in cells if language in (None, *tags(one))))
        for what in documents.faults(parsed, course.notebook(name), course.root, language, own):
            yield f"cell {index} ({_start(cell)!r}), {what}"
        yield from (
            f"cell {index} ({_start(cell)!r}): {what}" for what in named.unknown(cell.source, course.root)
        )
    for language in LANGUAGES:
        shown = [(i, image) for i, cell, parsed in cells if language in tags(cell) for image in parsed.images]
        yield from alts.repeated((f"cell {index}", image.alt, image.address) for index, image in shown)


def _shown_links(notebook: NotebookNode, course: Course, name: str) -> Iterator[str]:
    """Links and pictures in outputs, HTML or Markdown, that lead nowhere."""
    for index, cell in _of(notebook, "code"):
        for output in cell.outputs:
            data = output.get("data", {})
            texts = "".join(data.get("text/html", "")), "".join(data.get("text/markdown", ""))
            for parsed in (
                markdown.parse(f"<div>\n{texts[0]}\n</div>" if texts[0] else ""),
                markdown.parse(texts[1]),
            ):
                for address in [place.address for place in (*parsed.links, *parsed.images)]:
                    what = addresses.fault(
                        address, course.notebook(name), course.root, frozenset(parsed.anchors)
                    )
                    yield from (
                        [f"cell {index}: the output leads to {what}"]
                        if what and "data:" not in address
                        else []
                    )


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
        if cell.cell_type == "raw":
            yield f"cell {index} ({_start(cell)!r}): a raw cell has no language and no twin"


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


def _paired(notebook: NotebookNode, executed: NotebookNode) -> Iterator[str]:
    def essence(cells: list[NotebookNode]) -> list[tuple]:
        return [
            (cell.cell_type, cell.source, tags(cell), dict(cell.metadata.get("jupyter", {})))
            for cell in cells
        ]

    if essence(notebook.cells) != essence(executed.cells):
        yield "the notebook is not the one of the source: run `python -m tools.lessons pair`, then execute"
    for index, cell in enumerate(executed.cells):
        more = sorted({*cell.metadata} - KNOWN_METADATA) + sorted({"attachments"} & {*cell})
        if more:
            yield f"cell {index}: {', '.join(more)} do not come from the source: pair and execute it anew"
    if "generated" not in executed.metadata:
        yield "the notebook does not say that it is generated: run `python -m tools.lessons pair`"


def _executed(notebook: NotebookNode) -> Iterator[str]:
    counts = [cell.execution_count for _, cell in _of(notebook, "code")]
    if counts != list(range(1, len(counts) + 1)):
        yield "not executed in one go: run `python -m tools.lessons execute --inplace`"
    untimed = sum(timing.seconds(cell) is None for _, cell in _of(notebook, "code"))
    if untimed and timing.TIMED in notebook.metadata:
        yield f"{untimed} cells have no time for teachers: `python -m tools.lessons execute --times`"


def _figures(notebook: NotebookNode) -> Iterator[str]:
    count = 0
    for _, cell in _of(notebook, "markdown"):
        count += len(twins.IMAGE.findall(cell.source)) if "en" in tags(cell) else 0
    for _, cell in _of(notebook, "code"):
        for output in cell.outputs:
            data = output.get("data", {})
            drawn = any(kind.startswith("image/") for kind in data)
            count += drawn or "rlhf-heat" in data.get("text/html", "")
    if count < FIGURES:
        yield f"{count} figures; a lesson shows at least {FIGURES}"


def _start(cell: NotebookNode) -> str:
    return (cell.source.strip().splitlines() or [""])[0][:40]
