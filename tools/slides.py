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
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rlhf import errors, profiles
from rlhf.files import whole_text
from tools import decks
from tools.notebooks import LANGUAGES

SLIDES = profiles.CHECKOUT / "slides"
MARP = SLIDES / "node_modules" / ".bin" / "marp"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
TIMEOUT = 1800  # seconds for one run of Marp or of the browser, over all decks
INSTALL = "sudo apt install nodejs npm chromium fonts-noto-cjk"

# Lays out every slide of Marp's page and writes what sticks out into the page itself.
MEASURE = """
<style>.bespoke-marp-slide{display:block!important;content-visibility:visible!important}</style>
<script>
addEventListener("load", () => {  // no web fonts here, and pictures are inside: all is there on load
  const found = [];
  document.querySelectorAll("section[id]").forEach((section, index) => {
    const say = what => found.push([index + 1, what]);
    const box = section.getBoundingClientRect(), scale = box.width / section.offsetWidth || 1;
    if (section.scrollHeight > section.clientHeight + 1)
      say(`${section.scrollHeight - section.clientHeight} px too high`);
    if (section.scrollWidth > section.clientWidth + 1)
      say(`${section.scrollWidth - section.clientWidth} px too wide`);
    const side = section.classList.contains("split") ? section.querySelector("figure") : null;
    const right = side ? side.getBoundingClientRect().left : box.right - 40 * scale;
    section.querySelectorAll("h1,h2,h3,p,li,table,pre,blockquote,mjx-container > svg").forEach(element => {
      const place = element.getBoundingClientRect(), text = element.textContent.trim().slice(0, 30);
      const limit = element.tagName == "H2" ? box.right - 40 * scale : right;
      if (place.bottom > box.bottom - 44 * scale) say(`<${element.tagName}> reaches the foot: ${text}`);
      if (place.right > limit + 1) say(`<${element.tagName}> is too wide: ${text}`);
      if (element.tagName == "PRE" && element.scrollWidth > element.clientWidth + 1)
        say(`code is cut off: ${text}`);
    });
    section.querySelectorAll("img").forEach(image => {
      const place = image.getBoundingClientRect(), name = image.alt.slice(0, 30);
      const ratio = image.naturalWidth / image.naturalHeight;
      if (!ratio) return say(`a picture did not load: ${name}`);
      const width = Math.min(place.width, place.height * ratio) / scale;
      if (width < 420 || width / ratio < 150) say(`a picture is too small to read: ${name}`);
      if (place.bottom > box.bottom - 30 * scale) say(`a picture reaches the foot: ${name}`);
    });
  });
  parent.postMessage({slides: document.querySelectorAll("section[id]").length, found}, "*");
});
</script>
"""
# One browser for all pages: each in a frame of the size of a slide, what they report kept as text.
FRAMES = """<!doctype html><style>iframe{position:absolute;inset:0;width:1280px;height:720px;border:0}</style>
<script>
const frames = () => [...document.querySelectorAll("iframe")];
addEventListener("message", event => {
  const note = document.createElement("pre");
  const index = frames().findIndex(frame => frame.contentWindow === event.source);
  note.textContent = JSON.stringify({index, ...event.data});
  document.body.append(note);
});
</script><body>"""
MEASURED = re.compile(r"<pre>(.*?)</pre>", re.S)


def find_browser() -> str | None:
    """A Chromium or Chrome: ``CHROME_PATH``, else what is installed."""
    wanted = os.environ.get("CHROME_PATH")
    return wanted or next((path for name in BROWSERS if (path := shutil.which(name))), None)


def missing() -> list[str]:
    """System packages that building needs and this machine lacks."""
    found = [name for name in ("node", "npm") if shutil.which(name) is None]
    if find_browser() is None:
        found.append("chromium")
    if shutil.which("fc-list") and not _output(["fc-list", ":lang=zh", "family"]).strip():
        found.append("fonts-noto-cjk")
    return found


def prepare() -> None:
    """Make sure that node, a browser, a Chinese font and the pinned Marp are here.

    Raises:
        MissingAssets: a system package is missing, or npm could not install Marp.
    """
    lacking = missing()
    if lacking:
        raise errors.MissingAssets(
            f"制作幻灯片还缺：{', '.join(lacking)}。请安装：{INSTALL}",
            f"Building slides needs {', '.join(lacking)}. Install: {INSTALL}",
        )
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
    if _root():
        environment["CHROME_NO_SANDBOX"] = "1"  # Chromium refuses a sandbox to root
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


def measure(pages: Sequence[Path], slides: Sequence[int]) -> list[tuple[str, int, str]]:
    """What sticks out of its slide, as ``(page, slide, what)``, measured by one headless browser.

    Args:
        pages: built HTML. slides: how many slides each has.

    Raises:
        CannotWrite: the browser did not answer, or did not see all the slides.
    """
    with tempfile.TemporaryDirectory() as folder:
        for index, page in enumerate(pages):
            text = page.read_text(encoding="utf-8").replace("</body>", MEASURE + "</body>")
            whole_text(Path(folder) / f"{index}.html", text)
        frames = "".join(f'<iframe src="{index}.html"></iframe>' for index in range(len(pages)))
        whole_text(Path(folder) / "all.html", FRAMES + frames)
        command = [find_browser() or "chromium", "--headless", "--disable-gpu", "--window-size=1280,720"]
        command += ["--virtual-time-budget=60000", f"--user-data-dir={folder}/profile", "--dump-dom"]
        command += ["--no-sandbox"] if _root() else []
        shown = _output([*command, (Path(folder) / "all.html").as_uri()])
    results = {r["index"]: r for r in (json.loads(html.unescape(t)) for t in MEASURED.findall(shown))}
    for index, (page, count) in enumerate(zip(pages, slides, strict=True)):
        seen = results.get(index, {"slides": 0})["slides"]
        if seen != count:
            raise errors.CannotWrite(
                f"浏览器量不了 {page.name}：看到 {seen} 页，应有 {count} 页。",
                f"The browser could not measure {page.name}: it saw {seen} of {count} slides.",
            )
    return [(page.stem, *what) for index, page in enumerate(pages) for what in results[index]["found"]]


def _root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, errors="replace")
    return done.stdout


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
