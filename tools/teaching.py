"""A plan for teaching a lesson: its sections, how long they run, where a class guesses, waits and can stop.

In: a notebook in one language whose cells were timed (:mod:`tools.timing`). Out: :class:`Plan`, and its text.
Running times are measured; the minutes for reading and talking are a rule of thumb and are called so.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import nbformat
from nbformat import NotebookNode

from tools import results, timing, twins
from tools.notebooks import tags

HEADING = re.compile(r"^## +(.+?)\s*$", re.M)
BREAK = re.compile(r"^(?=## )", re.M)
FENCE = re.compile(r"^(?:```+|~~~+)", re.M)
# where a lesson asks for a guess before the next cell runs
GUESS = re.compile(r"先猜|先预测|\b[Gg]uess (?:first|before)\b|\b[Pp]redict(?: first| before|, then)\b")
PERIOD = 45  # minutes between two places to stop: a period at school
SLACK = 5  # minutes by which a period may be exceeded rather than cut
WAIT = 15  # seconds of one cell, from which on a teacher had better know of it
CHARACTERS, WORDS, LINES = 300, 180, 12  # read in a minute: Chinese characters, English words, lines of code
EXERCISE = 5  # minutes for one exercise

TEXTS = {
    "zh": {
        "title": "**教师版：怎样安排时间**",
        "head": "| 节 | 阅读与讲解，分钟（估计） | 运行，秒（实测） | 从头跑到这一节结束，分钟 |",
        "start": "开头",
        "total": "合计",
        "unknown": "未测",
        "machine": "运行时间：{date} 逐个单元格量得（{hardware}，{threads} 线程，配置 offline）；"
        "有别的程序占着处理器时，以处理器时间为准。",
        "untimed": "{count} 个单元格还没有量过时间：`python -m tools.lessons execute --times {name}`。",
        "table": "提交的那次运行，从头到对比表用了 {minutes} 分钟。",
        "guess": f"阅读与讲解按每分钟 {CHARACTERS} 个汉字或 {WORDS} 个英文词、{LINES} 行代码、"
        f"每题 {EXERCISE} 分钟估算，只供排课参考。",
        "guesses": "先让学生猜、写下来、再运行的地方：{places}。",
        "waits": "要等的单元格：{places}。先让它跑，边等边讲。",
        "guess_at": "“{title}”",
        "wait_at": "“{title}”里有一格约 {seconds:.0f} 秒",
        "stops": "可以停的地方（大约每 {period} 分钟一处，有 ⏸ 单元格）：{places}。",
        "no_stops": "大约 {minutes} 分钟，一次上完。",
        "stop_at": "“{title}”之前",
        "join": "、",
        "stop": "⏸ **可以在这里停。** 从{since}到这里大约 {minutes} 分钟（估计）。下次接着上："
        "选中下面的单元格，点 Run → Run All Above Selected Cell，把前面的内容重跑一遍{resume}。",
        "resume": "（约 {minutes} 分钟）",
        "first": "开头",
        "later": "上一处",
    },
    "en": {
        "title": "**Teacher edition: planning the time**",
        "head": "| section | reading and talking, minutes (estimate) | running, seconds (measured) "
        "| running from the top to its end, minutes |",
        "start": "beginning",
        "total": "in all",
        "unknown": "not timed",
        "machine": "Running times: measured cell by cell on {date} ({hardware}, threads: {threads}, profile "
        "offline); where other programs had the processor, its time counts, not the clock's.",
        "untimed": "{count} cells have not been timed yet: `python -m tools.lessons execute --times {name}`.",
        "table": "The committed run took {minutes} minutes up to its before/after table.",
        "guess": f"Reading and talking: {CHARACTERS} Chinese characters, {WORDS} English words or {LINES} "
        f"lines of code a minute, {EXERCISE} minutes for an exercise. A rule of thumb, for planning only.",
        "guesses": "Have the class guess, write it down, and only then run: {places}.",
        "waits": "Cells to wait for: {places}. Start them, and talk while they run.",
        "guess_at": "“{title}”",
        "wait_at": "one of about {seconds:.0f} s in “{title}”",
        "stops": "Places to stop, about every {period} minutes, with a ⏸ cell: {places}.",
        "no_stops": "About {minutes} minutes: one sitting.",
        "stop_at": "before “{title}”",
        "join": "; ",
        "stop": "⏸ **A place to stop.** About {minutes} minutes since {since} (estimate). To go on "
        "next time: select the cell below, then Run → Run All Above Selected Cell{resume}.",
        "resume": ", which takes about {minutes} minutes",
        "first": "the beginning",
        "later": "the last one",
    },
}


@dataclass(frozen=True)
class Section:
    """One section: where its cells begin, its heading, minutes to read it, seconds to run it (None: there is
    no code), how many of its cells were not timed, seconds of the longest, whether it asks for a guess."""

    start: int
    title: str
    reading: float
    running: float | None
    untimed: int
    longest: float
    guess: bool


@dataclass(frozen=True)
class Plan:
    """The sections of a lesson and the places to stop: numbers of the sections before which one can.

    Attributes:
        timed: date, hardware, threads of the running times. table: seconds that the committed run took up to
            its closing table, as it says itself.
    """

    sections: Sequence[Section]
    stops: Sequence[int]
    lesson: str
    timed: dict
    table: float | None

    def running(self, sections: Sequence[Section] | None = None) -> float | None:
        """Seconds that ``sections`` (default: all) run; None where some of their cells were not timed."""
        chosen = self.sections if sections is None else sections
        if any(each.untimed for each in chosen):
            return None
        return sum(each.running or 0.0 for each in chosen)

    def minutes(self, language: str) -> str:
        """Cells of a table's row: minutes to read, minutes to run, how many places to stop."""
        reading = sum(each.reading for each in self.sections)
        return f"{reading:.0f} | {_minutes(self.running(), TEXTS[language])} | {len(self.stops)}"

    def text(self, language: str) -> str:
        """The cell at the beginning of a teacher's copy."""
        words = TEXTS[language]
        reading, whole = sum(each.reading for each in self.sections), self.running()
        minutes = _adding_up([each.reading for each in self.sections])
        seconds = _adding_up([each.running or 0.0 for each in self.sections])
        rows = [
            self._row(number, *minutes_seconds, words)
            for number, minutes_seconds in enumerate(zip(minutes, seconds, strict=True))
        ]
        running = (_shown(whole, "{:.0f}", words), _minutes(whole, words))
        rows.append(f"| **{words['total']}** | **{reading:.0f}** | **{running[0]}** | **{running[1]}** |")
        lines = [words["title"], "", words["head"], "|---|---|---|---|", *rows, ""]
        return "\n\n".join(["\n".join(lines).strip(), *self._remarks(words)])

    def _row(self, number: int, minutes: int, seconds: int, words: dict) -> str:
        each = self.sections[number]
        shown = words["unknown"] if each.untimed else "–" if each.running is None else seconds
        until = _minutes(self.running(self.sections[: number + 1]), words)
        return f"| {each.title or words['start']} | {minutes} | {shown} | {until} |"

    def _remarks(self, words: dict) -> list[str]:
        untimed, said = sum(each.untimed for each in self.sections), []
        if self.timed and self.running() != 0:
            said.append(words["machine"].format(**self.timed))
        if untimed:
            said.append(words["untimed"].format(count=untimed, name=self.lesson[:2]))
        if untimed and self.table is not None:
            said.append(words["table"].format(minutes=f"{self.table / 60:.1f}"))
        return [*said, words["guess"], *self._hints(words), self._places(words)]

    def _hints(self, words: dict) -> list[str]:
        """Where to ask for a guess, and what takes so long that one talks meanwhile."""
        guesses = [words["guess_at"].format(title=each.title) for each in self.sections if each.guess]
        waits = [
            words["wait_at"].format(title=each.title or words["start"], seconds=each.longest)
            for each in self.sections
            if each.longest >= WAIT
        ]
        found = {"guesses": guesses, "waits": waits}
        return [
            words[key].format(places=words["join"].join(places)) for key, places in found.items() if places
        ]

    def _places(self, words: dict) -> str:
        if not self.stops:
            return words["no_stops"].format(minutes=f"{sum(map(_minutes_of, self.sections)):.0f}")
        places = [words["stop_at"].format(title=self.sections[stop].title) for stop in self.stops]
        return words["stops"].format(period=PERIOD, places=words["join"].join(places))

    def stop_text(self, stop: int, language: str) -> str:
        """The cell at a place to stop."""
        before, words = [other for other in self.stops if other < stop], TEXTS[language]
        part = self.sections[before[-1] if before else 0 : stop]
        minutes = sum(map(_minutes_of, part))
        again = self.running(self.sections[:stop])
        resume = "" if again is None else words["resume"].format(minutes=f"{again / 60:.1f}")
        since = words["later" if before else "first"]
        return words["stop"].format(minutes=f"{minutes:.0f}", resume=resume, since=since)


def _shown(seconds: float | None, form: str, words: dict) -> str:
    return words["unknown"] if seconds is None else form.format(seconds)


def _minutes(seconds: float | None, words: dict) -> str:
    return _shown(None if seconds is None else seconds / 60, "{:.1f}", words)


def _adding_up(values: Sequence[float]) -> list[int]:
    """``values`` rounded so that they add up to their rounded sum, as a reader of a table will check."""
    ends = [round(sum(values[:count])) for count in range(len(values) + 1)]
    return [end - begin for begin, end in itertools.pairwise(ends)]


def _minutes_of(section: Section) -> float:
    return section.reading + (section.running or 0.0) / 60


def parted(notebook: NotebookNode) -> NotebookNode:
    """``notebook`` with a cell of its own for each section's beginning: what a cell says before a heading
    belongs to the section that ends there, and to the outputs above it."""
    notebook = copy.deepcopy(notebook)
    cells = []
    for cell in notebook.cells:
        texts = _pieces(cell.source) if cell.cell_type == "markdown" else [cell.source]
        for count, text in enumerate(texts):
            piece = copy.deepcopy(cell)
            piece.source, piece.id = text, f"{cell.id}-{count}" if count else cell.id
            cells.append(piece)
    notebook.cells = cells
    return notebook


def _pieces(source: str) -> list[str]:
    """``source`` cut before each heading of a section that stands in no fenced code."""
    pieces: list[str] = []
    for piece in filter(None, BREAK.split(source)):
        if pieces and len(FENCE.findall("".join(pieces))) % 2:
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return [piece.strip("\n") for piece in pieces] or [source]


def plan(notebook: NotebookNode) -> Plan:
    """The plan of a lesson in one language, whose sections begin with cells of their own (:func:`parted`)."""
    sections = _sections(notebook)
    lesson = notebook.metadata.get("generated", {}).get("from", "").rpartition("/")[2]
    timed = dict(notebook.metadata.get(timing.TIMED, {}))
    table = results.SECONDS.search(nbformat.writes(notebook))
    return Plan(sections, _stops(sections), lesson, timed, float(table[1]) if table else None)


def _sections(notebook: NotebookNode) -> list[Section]:
    starts = [(0, "")]
    for index, cell in enumerate(notebook.cells):
        match = HEADING.match(cell.source) if cell.cell_type == "markdown" else None
        if match:
            starts.append((index, match[1]))
    ends = [start for start, _ in starts[1:]] + [len(notebook.cells)]
    return [
        _section(notebook.cells[start:end], start, title)
        for (start, title), end in zip(starts, ends, strict=True)
    ]


def _section(cells: Sequence[NotebookNode], start: int, title: str) -> Section:
    code = [cell for cell in cells if cell.cell_type == "code"]
    seconds = [timing.seconds(cell) for cell in code]
    return Section(
        start,
        title,
        sum(map(_reading, cells)),
        sum(value or 0.0 for value in seconds) if seconds else None,
        sum(value is None for value in seconds),
        max((value or 0.0 for value in seconds), default=0.0),
        bool(title) and not any("exercise" in tags(cell) for cell in code) and _asks(cells),
    )


def _asks(cells: Sequence[NotebookNode]) -> bool:
    return any(cell.cell_type == "markdown" and GUESS.search(cell.source) for cell in cells)


def _reading(cell: NotebookNode) -> float:
    """Minutes for one cell, by rule of thumb."""
    if cell.cell_type == "code":
        lines = len([line for line in cell.source.splitlines() if line.strip()])
        if "solution" in tags(cell):
            return 0.0
        return EXERCISE if "exercise" in tags(cell) else lines / LINES
    prose = twins.Text(cell.source).prose
    words = re.findall(r"[A-Za-z][A-Za-z'’-]*", prose)
    return len(re.findall(r"[\u3400-\u9fff]", prose)) / CHARACTERS + len(words) / WORDS


def _stops(sections: Sequence[Section]) -> list[int]:
    """Before which sections to stop: as few parts as fit into periods, and of those the most even ones."""
    minutes = list(map(_minutes_of, sections))
    parts = min(max(1, math.ceil(sum(minutes) / (PERIOD + SLACK))), len(sections))

    def longest(stops: Sequence[int]) -> float:
        return max(sum(minutes[i:j]) for i, j in itertools.pairwise((0, *stops, len(minutes))))

    return list(min(itertools.combinations(range(1, len(sections)), parts - 1), key=longest))
