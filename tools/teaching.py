"""A plan for teaching a lesson: its sections, how long they run, where a class can stop.

In: a notebook in one language whose cells were timed (:mod:`tools.timing`). Out: :class:`Plan`, and its text.
Running times are measured; the minutes for reading and talking are a rule of thumb and are called so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import nbformat
from nbformat import NotebookNode

from tools import results, timing, twins
from tools.notebooks import tags

HEADING = re.compile(r"^## +(.+?)\s*$", re.M)
PERIOD = 45  # minutes between two places to stop: a period at school
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
        "stops": "可以停的地方（大约每 {period} 分钟一处）：{places}。那里各有一个 ⏸ 单元格。",
        "no_stops": "不到 {period} 分钟，一次上完。",
        "before": "“{title}”之前",
        "join": "、",
        "stop": "⏸ **可以在这里停。** 从上一处到这里大约 {minutes} 分钟（估计）。下次接着上："
        "选中下面的单元格，点 Run → Run All Above Selected Cell，把前面的内容重跑一遍{resume}。",
        "resume": "（约 {minutes} 分钟）",
    },
    "en": {
        "title": "**Teacher edition: planning the time**",
        "head": "| section | reading and talking, minutes (estimate) | running, seconds (measured) "
        "| running from the top to its end, minutes |",
        "start": "beginning",
        "total": "in all",
        "unknown": "not timed",
        "machine": "Running times: measured cell by cell on {date} ({hardware}, {threads} threads, profile "
        "offline); where other programs had the processor, its time counts, not the clock's.",
        "untimed": "{count} cells have not been timed yet: `python -m tools.lessons execute --times {name}`.",
        "table": "The committed run took {minutes} minutes up to its before/after table.",
        "guess": f"Reading and talking: {CHARACTERS} Chinese characters, {WORDS} English words or {LINES} "
        f"lines of code a minute, {EXERCISE} minutes for an exercise. A rule of thumb, for planning only.",
        "stops": "Places to stop, about every {period} minutes: {places}. Each has a ⏸ cell.",
        "no_stops": "Less than {period} minutes: one sitting.",
        "before": "before “{title}”",
        "join": "; ",
        "stop": "⏸ **A place to stop.** About {minutes} minutes since the last one (estimate). To go on "
        "next time: select the cell below, then Run → Run All Above Selected Cell{resume}.",
        "resume": ", which takes about {minutes} minutes",
    },
}


@dataclass(frozen=True)
class Section:
    """One section: where its cells begin, its heading, minutes to read it, seconds to run it (None: there is
    no code), and how many of its cells were not timed."""

    start: int
    title: str
    reading: float
    running: float | None
    untimed: int


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

    def text(self, language: str) -> str:
        """The cell at the beginning of a teacher's copy."""
        words = TEXTS[language]
        rows = [self._row(number, words) for number in range(len(self.sections))]
        reading, whole = sum(each.reading for each in self.sections), self.running()
        running = (_shown(whole, "{:.0f}", words), _minutes(whole, words))
        rows.append(f"| **{words['total']}** | **{reading:.0f}** | **{running[0]}** | **{running[1]}** |")
        lines = [words["title"], "", words["head"], "|---|---|---|---|", *rows, ""]
        return "\n\n".join(["\n".join(lines).strip(), *self._remarks(words)])

    def _row(self, number: int, words: dict) -> str:
        each = self.sections[number]
        seconds = "–" if each.running is None and not each.untimed else self.running([each])
        seconds = seconds if seconds == "–" else _shown(seconds, "{:.0f}", words)
        until = _minutes(self.running(self.sections[: number + 1]), words)
        return f"| {each.title or words['start']} | {each.reading:.0f} | {seconds} | {until} |"

    def _remarks(self, words: dict) -> list[str]:
        untimed, said = sum(each.untimed for each in self.sections), []
        if self.timed and self.running() != 0:
            said.append(words["machine"].format(**self.timed))
        if untimed:
            said.append(words["untimed"].format(count=untimed, name=self.lesson[:2]))
        if untimed and self.table is not None:
            said.append(words["table"].format(minutes=f"{self.table / 60:.1f}"))
        return [*said, words["guess"], self._places(words)]

    def _places(self, words: dict) -> str:
        if not self.stops:
            return words["no_stops"].format(period=PERIOD)
        places = [words["before"].format(title=self.sections[stop].title) for stop in self.stops]
        return words["stops"].format(period=PERIOD, places=words["join"].join(places))

    def stop_text(self, stop: int, language: str) -> str:
        """The cell at a place to stop."""
        before, words = [other for other in self.stops if other < stop], TEXTS[language]
        part = self.sections[before[-1] if before else 0 : stop]
        minutes = sum(map(_minutes_of, part))
        again = self.running(self.sections[:stop])
        resume = "" if again is None else words["resume"].format(minutes=f"{again / 60:.1f}")
        return words["stop"].format(minutes=f"{minutes:.0f}", resume=resume)


def _shown(seconds: float | None, form: str, words: dict) -> str:
    return words["unknown"] if seconds is None else form.format(seconds)


def _minutes(seconds: float | None, words: dict) -> str:
    return _shown(None if seconds is None else seconds / 60, "{:.1f}", words)


def _minutes_of(section: Section) -> float:
    return section.reading + (section.running or 0.0) / 60


def plan(notebook: NotebookNode) -> Plan:
    """The plan of a lesson in one language."""
    sections = _sections(notebook)
    lesson = notebook.metadata.get("generated", {}).get("from", "").rpartition("/")[2]
    timed = dict(notebook.metadata.get(timing.TIMED, {}))
    table = results.SECONDS.search(nbformat.writes(notebook))
    return Plan(sections, _stops(sections), lesson, timed, float(table[1]) if table else None)


def _sections(notebook: NotebookNode) -> list[Section]:
    starts = [(0, "")]
    for index, cell in enumerate(notebook.cells):
        match = HEADING.search(cell.source) if cell.cell_type == "markdown" else None
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
    )


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
    """Before which sections to stop, so that what lies between fits into a period where a section does."""
    stops, minutes = [], 0.0
    for number, each in enumerate(sections):
        if minutes and minutes + _minutes_of(each) > PERIOD:
            stops.append(number)
            minutes = 0.0
        minutes += _minutes_of(each)
    return stops
