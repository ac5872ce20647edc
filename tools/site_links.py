"""Where an address in the course's texts leads on its site.

In: Markdown of the checkout, with addresses as seen from its folder. Out: the same Markdown with addresses of
pages of the site, and the list of files that need a page because some text leads to them.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from rlhf.errors import BadData
from tools import addresses, markdown
from tools.site_sections import RESULTS, Sections, outside_code
from tools.twins import CJK

TARGET = re.compile(r"(!?)(\[(?:[^\[\]]|\[[^\]]*\])*\])\(\s*(<[^<>\n]*>|[^)\s]+)([^)]*)\)")
NAMED = re.compile(r"^( {0,3}\[(?!\^)([^\[\]\n]+)\]:[ \t]*)(<[^<>\n]*>|\S+)", re.M)  # [name]: address
PICTURE = re.compile(r"(<img\b[^>]*?\bsrc=[\"'])([^\"']+)")
ANCHOR = re.compile(r"<a\s+href=([\"'])([^\"']*)\1\s*>([^<>\[\]\n]+)</a>", re.I)
PAGES = {  # files that are pages of their own
    "README.md": "/index.md",
    "README.zh.md": "/index.md",
    "GLOSSARY.md": "/glossary.md",
}


class Links:
    """Rewrites addresses; ``files`` collects what of the checkout is linked to, ``figures`` what is shown."""

    def __init__(self, root: Path, language: str):
        self.root, self.language = root, language
        self.sections = Sections(root, language)
        self.files: dict[str, None] = {}
        self.figures: dict[str, None] = {}

    def rewrite(self, text: str, file: str) -> str:
        """``text`` of ``file`` with the site's addresses. Raises BadData if one leads to no file.

        An anchor that no section of the site has stays: Sphinx warns, ``tools.site_check`` counts it.
        """
        return outside_code(text, lambda part: without_broken_lines(self._all_moved(part, file)))

    def _all_moved(self, text: str, file: str) -> str:
        text = ANCHOR.sub(lambda match: self._plain(match), text)
        text = TARGET.sub(lambda match: self._moved(match, file), text)
        text = NAMED.sub(lambda match: self._named(match, text, file), text)
        return PICTURE.sub(lambda match: f"{match[1]}{self._shown(match[2], file)}", text)

    @staticmethod
    def _plain(match: re.Match) -> str:
        """A link in HTML as one in Markdown, which alone Sphinx can lead to a page of its own."""
        return match[0] if markdown.elsewhere(match[2]) else f"[{match[3]}](<{match[2]}>)"

    def _moved(self, match: re.Match, file: str) -> str:
        shown, words, address, rest = match.groups()
        new = (self._shown if shown else self._led)(address.strip("<>"), file)
        inner = TARGET.sub(lambda match: self._moved(match, file), words[1:-1])  # a picture that is a link
        return f"{shown}[{inner}]({_enclosed(new)}{rest})"

    def _named(self, match: re.Match, text: str, file: str) -> str:
        name = re.escape(match[2])
        picture = re.search(rf"!\[[^\[\]]*\]\[{name}\]|!\[{name}\](?![\[(])", text)
        return match[1] + _enclosed((self._shown if picture else self._led)(match[3].strip("<>"), file))

    def _led(self, address: str, file: str) -> str:
        """Where a link leads: to the section that its anchor names, else to the page."""
        if markdown.elsewhere(address):
            return address
        own, anchor = markdown.parts(address)
        path, new = self.place(own, str(PurePosixPath(file).parent)) if own else self.place(file, "")
        self.files.setdefault(path)
        if not anchor:
            return new
        if label := self.sections.label(path, anchor):
            return f"#{label}"
        lines = addresses.anchors(self.root / path) if Path(path).suffix not in (".md", ".ipynb") else None
        if lines and anchor in lines:
            return new  # a line of code: its page
        return f"{'/results.md' if new.startswith('#') else new}#{anchor}"

    def _shown(self, address: str, file: str) -> str:
        """Where a picture lies, seen from the folder of the pages."""
        if markdown.elsewhere(address):
            return address
        path = self.place(markdown.parts(address)[0], str(PurePosixPath(file).parent))[0]
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
        if RESULTS.fullmatch(path):
            return path, f"#{label(path)}"  # a place on the page of results
        if re.fullmatch(r"notebooks/[^/]+\.ipynb", path):
            return path, f"/lessons/{Path(path).name}"
        return path, f"/files/{path}.md"


def _enclosed(address: str) -> str:
    return f"<{address}>" if re.search(r"[\s()]", address) else address


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
