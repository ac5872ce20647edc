"""Where an address in the course's texts leads on its site.

In: Markdown of the checkout, with addresses as seen from its folder. Out: the same Markdown with addresses of
pages of the site, and the list of files that need a page because some text leads to them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from rlhf.errors import BadData
from tools.twins import CJK

KEEP = re.compile(r"^(?P<mark>```+|~~~+).*?^(?P=mark)\s*$|(?P<tick>`+).+?(?P=tick)", re.M | re.S)  # code
TARGET = re.compile(r"(!?)(\[(?:[^\[\]]|\[[^\]]*\])*\])\(\s*([^)\s]+)([^)]*)\)")
PICTURE = re.compile(r"(<img\b[^>]*?\bsrc=[\"'])([^\"']+)")
ELSEWHERE = re.compile(r"[a-z]+:|#|//")
HEADING = re.compile(r"^(#{1,6}) ", re.M)
PAGES = {  # files that are pages of their own
    "README.md": "/index.md",
    "README.zh.md": "/index.md",
    "GLOSSARY.md": "/glossary.md",
}


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """``change(text)``, which sees a private character in place of each fenced or inline piece of code."""
    codes: list[str] = []

    def hide(code: re.Match) -> str:
        codes.append(code[0])
        return "\ue000"

    shown = change(KEEP.sub(hide, text))
    rest = iter(codes)
    return re.sub("\ue000", lambda _: next(rest), shown)


class Links:
    """Rewrites addresses; ``files`` collects what of the checkout is linked to, ``figures`` what is shown."""

    def __init__(self, root: Path, language: str):
        self.root, self.language = root, language
        self.files: dict[str, None] = {}
        self.figures: dict[str, None] = {}

    def rewrite(self, text: str, folder: str = "") -> str:
        """``text`` of a file in ``folder`` with the site's addresses. Raises BadData if one leads nowhere."""
        return outside_code(text, lambda part: without_broken_lines(self._all_moved(part, folder)))

    def _all_moved(self, text: str, folder: str) -> str:
        text = TARGET.sub(lambda match: self._moved(match, folder), text)
        return PICTURE.sub(lambda match: f"{match[1]}{self._shown(match[2], folder)}", text)

    def _moved(self, match: re.Match, folder: str) -> str:
        shown, words, address, rest = match.groups()
        if shown:
            return f"!{words}({self._shown(address, folder)}{rest})"
        if ELSEWHERE.match(address):
            return match[0]
        path, new = self.place(address.partition("#")[0], folder)
        self.files.setdefault(path)
        return f"{words}({new}{rest})"

    def _shown(self, address: str, folder: str) -> str:
        """Where a picture lies, seen from the folder of the pages."""
        if ELSEWHERE.match(address):
            return address
        path = self.place(address, folder)[0]
        self.figures.setdefault(path)
        return f"/{path}"

    def place(self, address: str, folder: str) -> tuple[str, str]:
        """An address as seen from ``folder`` → the file's path in the checkout, its address on the site."""
        parts: list[str] = []
        for part in PurePosixPath(folder, address).parts:
            if part == "..":
                parts = parts[:-1]
            else:
                parts.append(part)
        path = "/".join(parts)
        if self.language == "zh" and (self.root / re.sub(r"\.md$", ".zh.md", path)).is_file():
            path = re.sub(r"(\.zh)?\.md$", ".zh.md", path)
        if not (self.root / path).exists():
            raise BadData(
                f"{folder}/ 中的链接 {address} 没有目标。", f"{address}, linked in {folder}/, is not there."
            )
        if (self.root / path).is_dir():
            inside = f"{path}/README.md".lstrip("/")
            path = inside if (self.root / inside).is_file() else path
        if path in PAGES:
            return path, PAGES[path]
        if re.fullmatch(r"benchmarks/RESULTS[^/]*\.md", path):
            return path, f"#{label(path)}"  # a place on the page of results
        if path.startswith("notebooks/"):
            return path, f"/lessons/{Path(path).name}"
        return path, f"/files/{path}.md"


def label(path: str) -> str:
    """The name by which the site's pages lead to a file that is part of another page."""
    return re.sub(r"[^a-z0-9]+", "-", f"file-{Path(path).stem}".lower())


def without_broken_lines(text: str) -> str:
    """Chinese lines of one paragraph joined: a browser would show a space where the line was broken."""
    lines = [""]
    for line in text.split("\n"):
        before = lines[-1]
        if CJK.match(line[:1]) and CJK.match(before[-1:]) and not before.startswith(("#", "|")):
            lines[-1] += line
        else:
            lines.append(line)
    return "\n".join(lines[1:])


def numbered(text: str, name: str, first: int = 1) -> tuple[str, int]:
    """Mark the headings so that both languages share their anchors: ``name-s-1``, ``name-s-2``, …

    Returns:
        the text, and the number of the next heading.
    """
    count = first

    def mark(_: re.Match) -> str:
        nonlocal count
        count += 1
        return f"({name}-s-{count - 1})=\n{_[0]}"

    return outside_code(text, lambda part: HEADING.sub(mark, part)), count
