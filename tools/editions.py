"""Copies of the lessons for a class: students get them without solutions, teachers with a plan of the time.

In: the committed notebooks. Out: ``output/student/{zh,en}/`` and ``output/teacher/{zh,en}/``, each with all
lessons in one language, the figures they show and a page to begin with: such a folder can be handed out.

    python -m tools.editions                # both editions, both languages, all lessons (make student)
    python -m tools.editions 07 --lang zh   # some of it
    python -m tools.editions 00 01 --run    # and run the copies in their own folders, which takes its time

Students: solution cells are taken out and all outputs cleared, so that a prediction is one, and every
number is the reader's own. Teachers: solutions open, outputs kept, a plan at the beginning (how long the
sections run, :mod:`tools.teaching`) and places to stop. What the text says of folded solutions is said as it
is right there (:mod:`tools.wording`). What was written is checked at once by :mod:`tools.leaks`: a line of a
solution in a student's copy, a cell in the wrong language or a missing file ends in exit code 1.

A copy that somebody has worked in is not overwritten but put aside, into ``output/student_before/``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from rlhf import errors, profiles
from rlhf.files import whole_text
from tools import along, front, leaks, running, teaching, timing, wording
from tools.notebooks import LANGUAGES, Course, build, one_language, read, tags

EDITIONS = ("student", "teacher")
OWN = "edition"  # the tag of a cell that an edition adds
WRITTEN = "written"  # in a copy's metadata: what its cells were when it was made
TIMEOUT = 3600  # seconds for one cell of --run

NOTICE = {
    "zh": "> **学生版。** 输出清空了：数字由你自己跑出来。练习照样当场批改；参考答案在老师那里。",
    "en": "> **Student edition.** The outputs are cleared: the numbers will be your own. Exercises are "
    "graded on the spot all the same; the solutions are with your teacher.",
}


# ------------------------------------------------------------------------------------------------- making


def student(notebook: NotebookNode, language: str) -> NotebookNode:
    """The lesson in one language without solutions and without outputs."""
    made = _reworded(one_language(notebook, language), "student", language)
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
    made = teaching.parted(_reworded(one_language(notebook, language), "teacher", language))
    for cell in made.cells:
        if "solution" in tags(cell):
            cell.metadata.pop("jupyter", None)
    plan = teaching.plan(made)
    for stop in reversed(plan.stops):  # from the end, so that places stay what they are
        made.cells.insert(plan.sections[stop].start, note(plan.stop_text(stop, language), f"stop-{stop}"))
    made.cells.insert(1, note(plan.text(language), "plan"))
    return made


def _reworded(notebook: NotebookNode, edition: str, language: str) -> NotebookNode:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = wording.said_for(edition, cell.source, language)
    return notebook


MAKERS = {"student": student, "teacher": teacher}


def note(text: str, name: str) -> NotebookNode:
    """A cell that an edition adds."""
    return nbformat.v4.new_markdown_cell(text, id=f"edition-{name}", metadata={"tags": [OWN]})


def export(
    course: Course, name: str, edition: str, language: str, out: Path, others: Collection[str] = ()
) -> Path:
    """Write one lesson of one edition, and the files it shows; returns the notebook's path.

    Args:
        others: the lessons that are about to be written beside it. Links to those that are neither among
            them nor there already become words.

    Raises:
        BadData: see :func:`tools.along.moved`. CannotWrite: no space or no permission.
    """
    notebook, path = _made(course, name, edition, language, out, others), out / f"{name}.ipynb"
    moved, _ = along.moved(notebook, course.root)
    notebook.metadata["generated"] = {"by": "python -m tools.editions", "from": f"lessons/{name}.py"}
    notebook.metadata[WRITTEN] = _digest(moved)
    return along.place(course, notebook, path)


def _made(
    course: Course, name: str, edition: str, language: str, out: Path, others: Collection[str] = ()
) -> NotebookNode:
    there = {each for each in course.names() if each in (name, *others) or (out / f"{each}.ipynb").is_file()}
    made = MAKERS[edition](_lesson(course, name), language)
    return along.without_links(made, set(course.names()) - there)


def _lesson(course: Course, name: str) -> NotebookNode:
    """The committed notebook; of a lesson that was never run, its source."""
    path = course.notebook(name)
    return read(path) if path.is_file() else build(course.source(name))


def _digest(notebook: NotebookNode) -> str:
    """Changes when somebody writes into a copy or runs it."""
    cells = [(cell.cell_type, cell.source, cell.get("execution_count")) for cell in notebook.cells]
    return hashlib.sha256(repr(cells).encode()).hexdigest()[:16]


def put_aside(path: Path) -> Path | None:
    """Move a copy that somebody has worked in out of its edition's folder, so that the next one does not
    overwrite it; returns its new place, None where there is no work to be lost."""
    if not path.is_file():
        return None
    made = read(path)
    if made.metadata.get(WRITTEN, "") in ("", _digest(made)):
        return None
    language, edition = path.parent, path.parent.parent
    folder = edition.with_name(f"{edition.name}_before") / language.name
    places = (folder / f"{path.stem}{end}.ipynb" for end in ("", *(f"_{k}" for k in range(2, 1000))))
    place = next(place for place in places if not place.exists())
    whole_text(place, path.read_text(encoding="utf-8"))
    return place


# ------------------------------------------------------------------------------------------------ checking


def problems(course: Course, name: str, edition: str, language: str, out: Path) -> list[str]:
    """What is wrong with a written copy: leaked solutions (students), foreign cells, missing files."""
    made, lesson = read(out / f"{name}.ipynb"), _lesson(course, name)
    if edition == "student":
        opened, _ = along.moved(_made(course, name, edition, language, out), course.root)
        allowed = [(cell.cell_type, cell.source) for cell in opened.cells if OWN not in tags(cell)]
        found = [*leaks.solutions(lesson, made), *leaks.more_than_the_lesson(allowed, made, OWN)]
    else:
        found = leaks.unplanned(lesson, made)
    found += leaks.misleading(made, edition, language, OWN)
    return [*found, *leaks.untranslated(lesson, made, language), *leaks.missing_files(made, out, language)]


def folder_problems(course: Course, edition: str, out: Path) -> list[str]:
    """What is wrong with a written folder as a whole: documents that lead nowhere; in a student's, foreign
    notebooks and files that show a solution."""
    found, names = leaks.lost_documents(out), course.names()
    if edition == "student":
        own = {f"{name}.ipynb" for name in names}
        found += leaks.files(out, [_lesson(course, name) for name in names], own)
    return found


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
                _export_and_tell(course, name, edition, language, out, names)
            everything = [each for each in course.names() if (out / f"{each}.ipynb").is_file()]
            front.page(everything, edition, language, out, OWN)
            found = {name: problems(course, name, edition, language, out) for name in names}
            found["the folder"] = folder_problems(course, edition, out)
            wrong += _tell(f"output/{edition}/{language}", found)
    if options.run:
        profiles.require_base(profiles.read())  # said once, before the first of them fails
        wrong += _run(options.edition or EDITIONS, options.lang or LANGUAGES, names, base)
    return int(wrong > 0)


def _export_and_tell(
    course: Course, name: str, edition: str, language: str, out: Path, others: Collection[str]
) -> None:
    kept = put_aside(out / f"{name}.ipynb")
    if kept is not None:
        place = kept.relative_to(profiles.root()).as_posix()
        print(f"  {name}: 里面有人写过东西，留在 · somebody had worked in it, kept as {place}")
    export(course, name, edition, language, out, others)


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
