"""What ``make slides`` and ``make test-browser`` need of the system, and how to get what is missing.

In: the programs and fonts of this machine. Out: names of what it lacks; an error with the command that helps.

::

    python -m tools.system chromium                    # nothing, or what is missing; exit code 2
    python -m tools.system node npm chromium fonts-noto-cjk
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rlhf import errors

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
MAC = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
CHOSEN = ("RLHF_CHROMIUM", "CHROME_PATH")  # the first that is set names the browser
FONTS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
CHINESE = re.compile(r"CJK|Hei|Song|Kai|Ming|wqy|SourceHanS|droid.*fallback", re.I)
APT = {"node": "nodejs"}  # where the package is called otherwise
MAC_COMMAND = "brew install node && brew install --cask google-chrome"
NODE = 18  # the oldest that Marp runs on; Ubuntu 22.04 has 12


def find_browser() -> str | None:
    """A Chromium or Chrome: what ``RLHF_CHROMIUM`` or ``CHROME_PATH`` names, else what is installed."""
    chosen = next(filter(None, map(os.environ.get, CHOSEN)), None)
    if chosen:
        return shutil.which(chosen)
    return next(filter(None, map(shutil.which, (*BROWSERS, *MAC))), None)


def node_version() -> int:
    """The major version of node, 0 without one."""
    if shutil.which("node") is None:
        return 0
    said = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout
    number = re.match(r"v(\d+)", said)
    return int(number[1]) if number else 0


def chinese_font() -> bool:
    """Whether a font with Chinese letters is here; Windows and macOS bring some."""
    if sys.platform in ("darwin", "win32"):
        return True
    if shutil.which("fc-list"):
        listed = subprocess.run(["fc-list", ":lang=zh", "family"], capture_output=True, text=True)
        return bool(listed.stdout.strip())
    files = (path for folder in FONTS for path in Path(folder).expanduser().rglob("*.*"))
    return any(CHINESE.search(path.name) for path in files)


FOUND: dict[str, Callable[[], bool]] = {
    "node": lambda: node_version() >= NODE,
    "npm": lambda: shutil.which("npm") is not None,
    "chromium": lambda: find_browser() is not None,
    "fonts-noto-cjk": chinese_font,
}


def missing(names: list[str]) -> list[str]:
    """Those of ``names`` (keys of ``FOUND``) that this machine lacks."""
    return [name for name in names if not FOUND[name]()]


def need(what: tuple[str, str], names: list[str]) -> None:
    """Make sure that all of ``names`` are here.

    Args:
        what: what they are for, in Chinese and English, as the beginning of a sentence.

    Raises:
        MissingAssets: some are not; the message names them and the command that installs them.
    """
    lacking = missing(names)
    if not lacking:
        return
    command = MAC_COMMAND
    if sys.platform != "darwin":
        command = " ".join(["sudo apt install", *(APT.get(name, name) for name in names)])
    hints = list(_hints(lacking))
    raise errors.MissingAssets(
        f"{what[0]}还缺：{', '.join(lacking)}。请安装：{command}" + "".join(f"。{zh}" for zh, _ in hints),
        f"{what[1]} {', '.join(lacking)}. Install: {command}" + "".join(f". {en}" for _, en in hints),
    )


def _hints(lacking: list[str]) -> Iterator[tuple[str, str]]:
    """What the command alone does not say."""
    wrong = next((name for name in CHOSEN if os.environ.get(name)), None)
    if "chromium" in lacking and wrong:
        yield f"{wrong} 指的不是程序：{os.environ[wrong]}", f"{wrong} is no program: {os.environ[wrong]}"
    elif "chromium" in lacking:
        yield "装在别处的 Chrome：CHROME_PATH=路径", "For a Chrome that is elsewhere: CHROME_PATH=its path"
    if "node" in lacking and (here := node_version()):
        yield (
            f"node 要 {NODE} 以上，这里是 {here}：https://nodejs.org/en/download",
            f"Node {NODE} or later is needed, here is {here}: https://nodejs.org/en/download",
        )


@errors.command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.system", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=list(FOUND), metavar="NAME", help=", ".join(FOUND))
    need(("这一步", "This step needs"), parser.parse_args(argv).names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
