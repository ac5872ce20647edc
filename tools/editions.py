"""Copies of the lessons for a class: students get them without solutions, teachers with a plan of the time.

In: the committed notebooks. Out: ``output/student/{zh,en}/`` and ``output/teacher/{zh,en}/``, each with all
lessons in one language, the figures they show and a page to begin with: such a folder can be handed out.

    python -m tools.editions                # both editions, both languages, all lessons (make student)
    python -m tools.editions 07 --lang zh   # some of it
    python -m tools.editions 00 01 --run    # and run the copies in their own folders, which takes its time

Students: solution cells are taken out and all outputs cleared, so that a prediction is one, and every
number is the reader's own. Teachers: solutions open, outputs kept, a plan at the beginning (how long the
sections run, :mod:`tools.teaching`) and places to stop. What was written is checked at once by
:mod:`tools.leaks`: a line of a solution in a student's copy, a cell in the wrong language or a missing file
ends in exit code 1.
"""

from __future__ import annotations

import argparse
import copy
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from rlhf import errors, profiles
from rlhf.errors import BadData, CannotWrite
from rlhf.files import whole_text
from tools import leaks, running, teaching, timing
from tools.notebooks import LANGUAGES, Course, build, one_language, read, tags, write

EDITIONS = ("student", "teacher")
OWN = "edition"  # the tag of a cell that an edition adds
UP = re.compile(
    r"(\]\(\s*<?|^ {0,3}\[[^\]]+\]:\s*<?|\b(?:src|href)=[\"'])\.\./(?!\.\.)([^)\s\"'#>]+)", re.M
)  # an address below the checkout
CLOSED = ("lessons", "notebooks", "rlhf/checks")  # a student's copy takes nothing from where solutions are
TIMEOUT = 3600  # seconds for one cell of --run

NOTICE = {
    "zh": "> **学生版。** 参考答案已经拿掉，输出也清空了：数字由你自己跑出来。练习照样当场批改；"
    "课文里说到“折叠的参考答案”的地方，这一版里没有，请问老师。",
    "en": "> **Student edition.** The solutions are taken out and the outputs cleared: the numbers will be "
    "your own. Exercises are graded on the spot all the same. Where the text speaks of a folded solution, "
    "this edition has none: ask your teacher.",
}
PAGE = {
    "zh": "# {title}\n\n在装好课程的环境里打开这个文件夹（课程根目录下 `make lab`，或激活 `.venv` 后在这里 "
    "`jupyter lab`）。\n从任何一课开始都可以：`make ready LESSON=07` 会备好前面各课留下的东西。\n\n{rows}\n",
    "en": "# {title}\n\nOpen this folder in the environment that the course was installed in (`make lab` in "
    "the course's folder,\nor activate `.venv` and run `jupyter lab` here). You can begin with any lesson: "
    "`make ready LESSON=07`\nprepares what the earlier ones would have left.\n\n{rows}\n",
}
TITLES = {
    ("student", "zh"): "学生版",
    ("student", "en"): "Student edition",
    ("teacher", "zh"): "教师版",
    ("teacher", "en"): "Teacher edition",
}


# ------------------------------------------------------------------------------------------------- making


def student(notebook: NotebookNode, language: str) -> NotebookNode:
    """The lesson in one language without solutions and without outputs."""
    made = one_language(notebook, language)
    made.cells = [cell for cell in made.cells if "solution" not in tags(cell)]
    made.metadata.pop(timing.TIMED, None)
    for cell in made.cells:
        cell.metadata.pop(timing.SECONDS, None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    made.cells.insert(1, note(NOTICE[language], "notice"))
    return made


def teacher(notebook: NotebookNode, language: str) -> NotebookNode:
    """The lesson in one language with solutions open, its plan, and places to stop."""
    made = one_language(notebook, language)
    for cell in made.cells:
        if "solution" in tags(cell):
            cell.metadata.pop("jupyter", None)
    plan = teaching.plan(made)
    for stop in reversed(plan.stops):  # from the end, so that places stay what they are
        made.cells.insert(plan.sections[stop].start, note(plan.stop_text(stop, language), f"stop-{stop}"))
    made.cells.insert(1, note(plan.text(language), "plan"))
    return made


MAKERS = {"student": student, "teacher": teacher}


def note(text: str, name: str) -> NotebookNode:
    """A cell that an edition adds."""
    return nbformat.v4.new_markdown_cell(text, id=f"edition-{name}", metadata={"tags": [OWN]})


def moved(notebook: NotebookNode, root: Path) -> tuple[NotebookNode, set[str]]:
    """``notebook`` with addresses such as ``../figs/a.svg`` turned into ``figs/a.svg``, and the files (as
    seen from the checkout's ``root``) that have to lie beside it for that.

    Raises:
        BadData: an address leads to a folder, to nothing, or to where solutions are.
    """
    notebook, files = copy.deepcopy(notebook), set()

    def turned(match: re.Match) -> str:
        path = match[2]
        if path.startswith(CLOSED) or not (root / path).is_file():
            raise BadData(
                f"课文里的地址 ../{path} 不能随笔记本发出去：它不是文件，或在放参考答案的文件夹里。",
                f"The address ../{path} cannot go along with a notebook: it is no file, or lies where "
                "solutions are.",
            )
        files.add(path)
        return f"{match[1]}{path}"

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = UP.sub(turned, cell.source)
    return notebook, files


def export(course: Course, name: str, edition: str, language: str, out: Path) -> Path:
    """Write one lesson of one edition, and the files it shows; returns the notebook's path.

    Raises:
        BadData: see :func:`moved`. CannotWrite: no space or no permission.
    """
    return place(course, MAKERS[edition](_lesson(course, name), language), out / f"{name}.ipynb")


def _lesson(course: Course, name: str) -> NotebookNode:
    """The committed notebook; of a lesson that was never run, its source."""
    path = course.notebook(name)
    return read(path) if path.is_file() else build(course.source(name))


def place(course: Course, notebook: NotebookNode, path: Path) -> Path:
    """Write a notebook of ``course`` to ``path`` and the files that it shows beside it; returns ``path``.

    Raises:
        BadData: see :func:`moved`. CannotWrite: no space or no permission.
    """
    notebook, files = moved(notebook, course.root)
    for file in sorted(files):
        _copy(course.root / file, path.parent / file)
    write(notebook, path)
    return path


def _copy(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise CannotWrite(
            f"无法写入 {target}：{error.strerror}", f"Cannot write {target}: {error.strerror}"
        ) from error


def front_page(names: Sequence[str], edition: str, language: str, out: Path) -> None:
    """``README.md`` of a folder: how to open it, and the lessons by their titles."""
    rows = []
    for name in names:
        first = next(cell for cell in read(out / f"{name}.ipynb").cells if cell.cell_type == "markdown")
        rows.append(f"- [{first.source.splitlines()[0].lstrip('# ')}]({name}.ipynb)")
    text = PAGE[language].format(title=TITLES[edition, language], rows="\n".join(rows))
    whole_text(out / "README.md", text)


# ------------------------------------------------------------------------------------------------ checking


def problems(course: Course, name: str, edition: str, language: str, out: Path) -> list[str]:
    """What is wrong with a written copy: leaked solutions (students), foreign cells, missing files."""
    made, lesson = read(out / f"{name}.ipynb"), _lesson(course, name)
    if edition == "student":
        opened, _ = moved(student(lesson, language), course.root)
        allowed = [(cell.cell_type, cell.source) for cell in opened.cells if OWN not in tags(cell)]
        found = [*leaks.solutions(lesson, made), *leaks.more_than_the_lesson(allowed, made, OWN)]
    else:
        found = leaks.unplanned(lesson, made)
    return [*found, *leaks.untranslated(lesson, made, language), *leaks.missing_files(made, out, language)]


def folder_problems(course: Course, edition: str, out: Path) -> list[str]:
    """What is wrong with a written folder as a whole: foreign notebooks, files that show a solution."""
    if edition != "student":
        return []
    names = course.names()
    own = {f"{name}.ipynb" for name in names}
    return leaks.files(out, [_lesson(course, name) for name in names], own)


def run_copy(path: Path) -> str:
    """Execute a copy in its own folder and leave it as it is; returns what went wrong, or nothing.

    A cell that leaves a file in the folder is wrong too: what a lesson makes belongs to ``output/``.
    """
    before = set(path.parent.rglob("*"))
    try:
        running.run(read(path), path.parent, TIMEOUT)
    except running.CellFailed as error:
        return str(error)
    left = sorted(str(file.relative_to(path.parent)) for file in set(path.parent.rglob("*")) - before)
    return f"left in the folder: {', '.join(left)}" if left else ""


# ------------------------------------------------------------------------------------------ the command line


@errors.command
def main(words: Sequence[str] | None = None) -> int:
    """The command ``python -m tools.editions``; 1 if a copy leaks, is half translated, or does not run."""
    options = _parser().parse_args(words)
    course = Course(options.root.resolve())
    names = course.names(options.lessons)
    base, wrong = profiles.root() / "output", 0
    for edition in options.edition or EDITIONS:
        for language in options.lang or LANGUAGES:
            out = base / edition / language
            for name in names:
                export(course, name, edition, language, out)
            everything = [each for each in course.names() if (out / f"{each}.ipynb").is_file()]
            front_page(everything, edition, language, out)
            found = {name: problems(course, name, edition, language, out) for name in names}
            found["the folder"] = folder_problems(course, edition, out)
            wrong += _tell(f"output/{edition}/{language}", found)
    if options.run:
        wrong += _run(options.edition or EDITIONS, options.lang or LANGUAGES, names, base)
    return int(wrong > 0)


def _tell(place: str, found: dict[str, list[str]]) -> int:
    count = sum(map(len, found.values()))
    print(f"{'✗' if count else '✓'} {place}: {len(found) - 1} lessons, {count} problems", flush=True)
    for name, each in found.items():
        print("".join(f"    {name}: {problem}\n" for problem in each), end="")
    return count


def _run(editions: Sequence[str], languages: Sequence[str], names: Sequence[str], base: Path) -> int:
    """Run what was written; copies with the same code once. Returns how many did not run to their end."""
    done, wrong = set(), 0
    for edition in editions:
        for language in languages:
            for name in names:
                path = base / edition / language / f"{name}.ipynb"
                code = tuple(cell.source for cell in read(path).cells if cell.cell_type == "code")
                if code in done:
                    continue
                done.add(code)
                trouble = run_copy(path)
                print(f"{'✗' if trouble else '✓'} output/{edition}/{language}/{name} runs", flush=True)
                print(f"{trouble}\n" if trouble else "", end="")
                wrong += bool(trouble)
    return wrong


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.editions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("lessons", nargs="*", metavar="NN", help="lessons by number or name; default: all")
    parser.add_argument("--edition", choices=EDITIONS, action="append", help="default: both")
    parser.add_argument("--lang", choices=LANGUAGES, action="append", help="default: both")
    parser.add_argument("--run", action="store_true", help="run the copies in their own folders")
    parser.add_argument("--root", type=Path, default=profiles.CHECKOUT, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
