"""The course as a web site that needs no network: ``make site`` → ``output/site/index.html``.

In: the committed notebooks (never executed here), READMEs, glossary, results, decks if they are built. Out:
``output/site/{zh,en}/``, each with its own navigation and search, every page linked to its twin; then
counts of what is wrong with them (``tools.site_check``), and exit code 1 unless all are 0.

::

    python -m tools.site            # write, build, check
    python -m tools.site --check    # check what was built
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from rlhf import errors, profiles
from rlhf.files import whole_text
from tools import addresses, site_check
from tools.notebooks import LANGUAGES, Course
from tools.site_pages import Pages

SETTINGS = profiles.CHECKOUT / "site"
NEEDED = ("sphinx", "myst_nb", "pydata_sphinx_theme", "latex2mathml", "ziamath")
# What opens first: it goes on to the language that was read last, or that the browser asks for.
FIRST = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>动手学 RLHF · RLHF, hands on</title>
<style>
:root {color-scheme: light dark}
body {font: 1.3rem/1.6 system-ui, sans-serif; display: grid; place-content: center; min-height: 90vh}
a {display: block; margin: .5rem; padding: 1rem 2rem; border: 1px solid; border-radius: .5rem}
a {text-decoration: none; color: inherit}
a:hover, a:focus {background: color-mix(in srgb, currentColor 12%, transparent)}
</style>
<script>
let known = null;
try { known = localStorage.getItem("course-language"); } catch {}
const wanted = known || ((navigator.language || "").startsWith("zh") ? "zh" : "en");
location.replace(`${wanted}/index.html`);
</script>
</head>
<body><a href="zh/index.html" lang="zh-CN">动手学 RLHF</a><a href="en/index.html">RLHF, hands on</a></body>
</html>
"""


def build(course: Course, out: Path, sources: Path) -> int:
    """Write ``out`` anew from the sources of ``course``; returns how many warnings there were, printed here.

    Raises:
        MissingAssets: Sphinx or a part of it is not installed. CannotWrite: Sphinx failed.
    """
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise errors.MissingAssets(
            f"生成网站还缺：{', '.join(absent)}。请运行 pip install -r requirements-site.txt",
            f"The site needs {', '.join(absent)}: pip install -r requirements-site.txt",
        )
    for folder in (out, sources):
        shutil.rmtree(folder, ignore_errors=True)
    downloads = out / "downloads"
    _downloads(course, downloads)
    pages = [Pages(course, language, sources / language, downloads) for language in LANGUAGES]
    for each in pages:
        each.write()
    running = {language: _sphinx(sources / language, out / language, language) for language in LANGUAGES}
    ended = {language: (process, *process.communicate()) for language, process in running.items()}
    problems = [problem for each in pages for problem in each.problems]
    print(*problems, sep="\n", end="\n" if problems else "")
    warnings = len(problems)
    for language, (process, _, said) in ended.items():
        lines = [line for line in said.splitlines() if line.strip()]
        print(*(f"{language}: {line}" for line in lines), sep="\n", end="\n" if lines else "")
        warnings += len(lines)
        if process.returncode:
            last = lines[-1] if lines else "?"
            raise errors.CannotWrite(f"Sphinx 没有生成网页：{last}", f"Sphinx did not make the pages: {last}")
    shutil.rmtree(out / "jupyter_execute", ignore_errors=True)  # myst-nb's copies of what it was given
    whole_text(out / "index.html", FIRST)
    return warnings


def _sphinx(source: Path, out: Path, language: str) -> subprocess.Popen:
    """Sphinx over the pages of one language; both run side by side, one core each."""
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "html",
        "-q",
        "--color" if sys.stderr.isatty() else "--no-color",
    ]
    command += ["-c", str(SETTINGS), "-t", language, "-d", str(source.with_name(f".doctrees-{language}"))]
    environment = {**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [*command, str(source), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _downloads(course: Course, folder: Path) -> None:
    """The whole course as one archive, and the decks that ``make slides`` left."""
    folder.mkdir(parents=True)
    names = [name for name in addresses.tracked(course.root) if (course.root / name).is_file()]
    if names:  # a checkout; from an archive there is no telling what belongs to the course
        with zipfile.ZipFile(folder / "rlhf-course.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.write(course.root / name, f"rlhf-course/{name}")
    for deck in sorted((profiles.root() / "output" / "slides").glob("*.*")):
        if deck.suffix in (".html", ".pdf"):
            (folder / "slides").mkdir(exist_ok=True)
            shutil.copy(deck, folder / "slides" / deck.name)


def check(course: Course, out: Path, warnings: int = 0) -> int:
    """Print every fault of the built site and the counts; returns how many faults there are."""
    found = site_check.faults(out, course)
    for kind, where in site_check.sources(course).items():
        found[kind] += where
    counts = {"warnings": warnings, **{kind: len(where) for kind, where in found.items()}}
    for kind, where in found.items():
        print(*(f"✗ {kind}: {what}" for what in where), sep="\n", end="\n" if where else "")
    links = site_check.external_links(out)
    print(
        f"{len(site_check.pages(out))} pages, {len(links)} links to other sites (syntax checked, not visited)"
    )
    print(", ".join(f"{kind} {count}" for kind, count in counts.items()))
    return sum(counts.values())


@errors.command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="check what was built, build nothing")
    options = parser.parse_args(argv)
    course, output = Course(profiles.CHECKOUT), profiles.root() / "output"
    warnings = 0 if options.check else build(course, output / "site", output / "site_source")
    faults = check(course, output / "site", warnings)
    print(f"{'✗' if faults else '✓'} {os.path.relpath(output / 'site' / 'index.html')}")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
