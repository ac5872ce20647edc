"""Measure built slides in a headless Chromium: what is cut off, squeezed, overlapping or too small to read.

In: pages that Marp has built. Out: what is wrong, slide by slide. What is looked at and where the limits lie:
``measuring.js``, which runs inside the pages.
"""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rlhf import errors
from rlhf.files import whole_text
from tools.system import find_browser

TIMEOUT = 1800  # seconds for one run of the browser, over all decks
# Marp lays out one slide at a time; here all are wanted.
ALL = "<style>.bespoke-marp-slide{display:block!important;content-visibility:visible!important}</style>"
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


def is_root() -> bool:
    """Chromium refuses a sandbox to root."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def output(command: list[str]) -> str:
    """What a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, errors="replace")
    return done.stdout


def measure(pages: Sequence[Path], slides: Sequence[int]) -> list[tuple[str, int, str]]:
    """What is wrong with the layout, as ``(page, slide, what)``, measured by one headless browser.

    Args:
        pages: built HTML. slides: how many slides each has.

    Raises:
        CannotWrite: the browser did not answer, or did not see all the slides.
    """
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for index, page in enumerate(pages):
            text = page.read_text(encoding="utf-8")
            end = f"{ALL}<script>(() => {{\n{script}\n}})()</script></body>"
            whole_text(Path(folder) / f"{index}.html", text.replace("</body>", end))
        frames = "".join(f'<iframe src="{index}.html"></iframe>' for index in range(len(pages)))
        whole_text(Path(folder) / "all.html", FRAMES + frames)
        command = [find_browser() or "chromium", "--headless", "--disable-gpu", "--window-size=1280,720"]
        command += ["--virtual-time-budget=60000", f"--user-data-dir={folder}/profile", "--dump-dom"]
        command += ["--no-sandbox"] if is_root() else []
        shown = output([*command, (Path(folder) / "all.html").as_uri()])
    results = {r["index"]: r for r in (json.loads(html.unescape(t)) for t in MEASURED.findall(shown))}
    for index, (page, count) in enumerate(zip(pages, slides, strict=True)):
        seen = results.get(index, {"slides": 0})["slides"]
        if seen != count:
            raise errors.CannotWrite(
                f"浏览器量不了 {page.name}：看到 {seen} 页，应有 {count} 页。",
                f"The browser could not measure {page.name}: it saw {seen} of {count} slides.",
            )
    return [(page.stem, *what) for index, page in enumerate(pages) for what in results[index]["found"]]
