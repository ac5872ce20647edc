"""Build the decks: HTML and PDF per language with Marp, every slide measured in a headless Chromium.

In: ``slides/NN_topic.md`` (``tools.decks``), ``slides/theme.css``. Out: in ``output/slides/``,
``NN_topic.<lang>.html`` and ``.pdf``, each one file that needs no network; or what is wrong, one line each.

::

    python -m tools.slides                 # build all: make slides
    python -m tools.slides 07 --lang zh    # one deck, one language; --html: no PDF
    python -m tools.slides --check         # the text only: no node, no browser
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rlhf import errors, profiles
from rlhf.files import whole_text
from tools import decks, system
from tools.measuring import is_root, measure
from tools.notebooks import LANGUAGES
from tools.system import find_browser

SLIDES = profiles.CHECKOUT / "slides"
MARP = SLIDES / "node_modules" / ".bin" / "marp"
TIMEOUT = 1800  # seconds for one run of Marp, over all decks
NEEDED = ["node", "npm", "chromium", "fonts-noto-cjk"]


def prepare() -> None:
    """Make sure that node, a browser, a Chinese font and the pinned Marp are here.

    Raises:
        MissingAssets: a system package is missing, or npm could not install Marp.
    """
    system.need(("制作幻灯片", "Building slides needs"), NEEDED)
    installed = SLIDES / "node_modules" / ".package-lock.json"
    lock = SLIDES / "package-lock.json"
    if MARP.is_file() and installed.is_file() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    done = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund"], cwd=SLIDES, capture_output=True, text=True
    )
    if done.returncode or not MARP.is_file():
        last = (done.stderr.strip().splitlines() or ["?"])[-1]
        raise errors.MissingAssets(
            f"npm 装不上 Marp：{last}。检查网络后在 slides/ 里运行 npm ci。",
            f"npm could not install Marp: {last}. Check the network and run npm ci in slides/.",
        )


def build(texts: dict[str, str], out: Path, kinds: Sequence[str] = ("html", "pdf")) -> list[Path]:
    """Write ``out/<name>.html`` and ``.pdf`` of each Marp Markdown ``{name: text}``; returns the HTML pages.

    Raises:
        CannotWrite: Marp failed; its last line is in the message.
    """
    out.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "CHROME_PATH": find_browser() or ""}
    if is_root():
        environment["CHROME_NO_SANDBOX"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            whole_text(Path(folder) / f"{name}.md", text)
        command = [str(MARP), "--no-stdin", "-c", str(SLIDES / "marp.config.json"), "--parallel", "1"]
        command += ["--theme-set", str(SLIDES / "theme.css"), "-I", folder, "-o", str(out)]
        for kind in kinds:
            done = subprocess.run(
                [*command, *(["--pdf"] if kind == "pdf" else [])],
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
            absent = [name for name in texts if not (out / f"{name}.{kind}").is_file()]
            if done.returncode or absent:
                last = (done.stderr.strip().splitlines() or ["?"])[-1]
                raise errors.CannotWrite(
                    f"Marp 没有生成 {kind}：{last}", f"Marp did not make the {kind} files: {last}"
                )
    return [out / f"{name}.html" for name in texts]


def _chosen(wanted: list[str]) -> list[Path]:
    paths = decks.names(SLIDES)
    unknown = [start for start in wanted if not any(path.stem.startswith(start) for path in paths)]
    if unknown or not paths:
        here = ", ".join(path.stem for path in paths) or "—"
        raise errors.BadData(
            f"没有这样的幻灯片：{', '.join(unknown)}。现有：{here}",
            f"No such deck: {', '.join(unknown)}. There are: {here}",
        )
    return [path for path in paths if not wanted or any(path.stem.startswith(start) for start in wanted)]


def _built(paths: list[Path], languages: Sequence[str], html_only: bool) -> list[str]:
    every = [(decks.load(path), language) for path in paths for language in languages]
    texts = {f"{deck.name}.{language}": decks.markdown(deck, language) for deck, language in every}
    kinds = ("html",) if html_only else ("html", "pdf")
    pages = build(texts, profiles.root() / "output" / "slides", kinds)
    print(*(f"output/slides/{name} {' '.join(f'.{kind}' for kind in kinds)}" for name in texts), sep="\n")
    counts = [len(deck.slides) for deck, _ in every]
    return [f"{page}, slide {number}: {what}" for page, number, what in measure(pages, counts)]


@errors.command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.slides", description=__doc__.splitlines()[0])
    parser.add_argument("decks", nargs="*", metavar="NN", help="which decks; all if none is named")
    parser.add_argument("--lang", choices=LANGUAGES, help="one language only")
    parser.add_argument("--html", action="store_true", help="no PDF, which takes most of the time")
    parser.add_argument("--check", action="store_true", help="check the text, build nothing")
    options = parser.parse_args(argv)
    paths = _chosen(options.decks)
    found = [problem for path in paths for problem in decks.problems(path)]
    if not found and not options.check:
        prepare()
        found = _built(paths, [options.lang] if options.lang else LANGUAGES, options.html)
    print(*found, f"{len(paths)} decks, {len(found)} problems", sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
