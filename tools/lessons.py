"""Upkeep of the lessons: pair, execute, check, export, new. Conventions: tools/README.md.

::

    python -m tools.lessons pair                  # lessons/ → notebooks/, unchanged cells keep their outputs
    python -m tools.lessons execute               # run all, headless → output/notebooks/, output/index.html
    python -m tools.lessons execute --inplace 07  # refresh the committed notebook of one lesson
    python -m tools.lessons execute --times 07    # run it, and renew only how long its cells take
    python -m tools.lessons check                 # twins, pairing, outputs, exercises, sizes
    python -m tools.lessons export --lang zh      # notebooks in one language → output/zh/
    python -m tools.lessons new 05_reward --zh … --en …
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rlhf import errors, profiles, report
from tools import along, checking, executing, scaffold
from tools.notebooks import LANGUAGES, Course, build, one_language, pair, read


def check(course: Course, names: list[str], source_only: bool = False) -> int:
    """Print every problem of the lessons, and if all
    are asked for, of the documents and drawings beside them; returns how many there are."""
    count = 0
    for name in names:
        found = checking.problems(course, name, source_only=source_only)
        print(f"{'✗' if found else '✓'} {name}")
        print("".join(f"    {problem}\n" for problem in found), end="")
        count += len(found)
    whole = names == course.names()
    for problem in checking.around(course) if whole else checking.strays(course):
        print(f"✗ {problem}")
        count += 1
    return count


def export(course: Course, names: list[str], languages: list[str]) -> None:
    """Write each lesson in one language to ``output/LANG/``, with the outputs that its notebook has and the
    files that it shows. Copies for a class: :mod:`tools.editions`."""
    for name in names:
        path = course.notebook(name)
        notebook = read(path) if path.is_file() else build(course.source(name))
        for language in languages:
            target = profiles.root() / "output" / language / path.name
            along.place(course, one_language(notebook, language), target)
            print(f"output/{language}/{path.name}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.lessons",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, default=profiles.CHECKOUT, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True)
    some = argparse.ArgumentParser(add_help=False)
    some.add_argument("lessons", nargs="*", metavar="NN", help="lessons by number or name; default: all")
    commands.add_parser("pair", parents=[some], help="lessons/*.py → notebooks/*.ipynb")
    running = commands.add_parser("execute", parents=[some], help="run the lessons, headless")
    where = running.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, help="folder of the executed copies (default: output/notebooks)")
    where.add_argument("--inplace", action="store_true", help="refresh the committed notebooks")
    where.add_argument("--times", action="store_true", help="refresh only the times of their cells")
    running.add_argument("--timeout", type=int, default=executing.TIMEOUT, help="seconds for one cell")
    at_once = "how many run at once (default: as cores and memory allow; one with --inplace or --times)"
    running.add_argument("--jobs", type=_number, metavar="N", help=at_once)
    checking_ = commands.add_parser("check", parents=[some], help="conventions, twins, pairing, outputs")
    checking_.add_argument("--source", action="store_true", help="the sources only, before anything was run")
    exporting = commands.add_parser("export", parents=[some], help="notebooks in one language")
    exporting.add_argument("--lang", choices=LANGUAGES, action="append", help="default: both")
    making = commands.add_parser("new", help="the skeleton of a lesson")
    making.add_argument("name", metavar="NN_topic")
    making.add_argument("--zh", default="……", help="Chinese title")
    making.add_argument("--en", default="…", help="English title")
    return parser


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lessons, 1 or more")
    return int(text)


@errors.command
def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(argv)
    course = Course(options.root.resolve())
    if options.command == "new":
        scaffold.new(course, options.name, options.zh, options.en)
        print(f"lessons/{options.name}.py")
        return 0
    names = course.names(options.lessons)
    if options.command == "pair":
        for name in names:
            print(f"{'written ' if pair(course, name) else 'unchanged'} notebooks/{name}.ipynb")
        return 0
    if options.command == "check":
        return int(check(course, names, options.source) > 0)
    if options.command == "export":
        export(course, names, options.lang or list(LANGUAGES))
        return 0
    return _run_all(course, names, options)


def _run_all(course: Course, names: list[str], options: argparse.Namespace) -> int:
    profile = profiles.read()["name"]  # an unknown profile is said once, not once per lesson
    if (options.inplace or options.times) and profile != "offline":
        raise errors.BadProfile(
            "提交的 notebook 用 offline 配置运行；请不要设置 RLHF_PROFILE。",
            "Committed notebooks are run with the offline profile; leave RLHF_PROFILE unset.",
        )
    if options.inplace or options.times:
        keep = executing.in_place(course) if options.inplace else executing.times(course)
        jobs = options.jobs or 1  # what a lesson says about its time is then what it takes alone
    else:
        keep = executing.copies((options.out or profiles.root() / "output" / "notebooks").resolve())
        jobs = options.jobs or executing.how_many(len(names))
    failed = executing.execute(course, names, keep, options.timeout, jobs)
    page = report.page(profiles.root() / "output", profiles.root() / "output" / "index.html")
    print(f"{len(names) - len(failed)}/{len(names)} ✓ · {os.path.relpath(page)}")
    if failed:
        print(f"失败：{', '.join(failed)}\nFailed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
