"""Does an address in the course's texts lead somewhere?

In: an address as written, and the file it stands in. Out: what is wrong with it, or nothing. A file counts if
it is in the checkout under exactly this name (a system that ignores case would hide the difference) and git
does not ignore it (a clone would lack it); an anchor, if its target has it. Other sites are not visited; only
the syntax of their addresses is checked.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import subprocess
from collections.abc import Container
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from tools import markdown

SCHEMES = ("http", "https", "mailto")
BESIDE = re.compile(r"[\s<>\"{}|^`，。；）（、]")  # what an address swallowed of the text around it


def fault(address: str, file: Path, root: Path, own: frozenset[str] = frozenset()) -> str:
    """What is wrong with an address in ``file``, or nothing.

    Args:
        file: the file that holds it, below ``root``. A lesson's addresses are seen from its notebook.
        own: the anchors of ``file`` itself.
    """
    if markdown.elsewhere(address):
        return "" if well_formed(address) else f"{address} is not the address of another site"
    path, anchor = markdown.parts(address)
    if not path and not anchor:
        return "a link without an address"
    if path.startswith("/"):
        return f"{address} begins with /: addresses are seen from the file they stand in"
    if not path:
        return "" if anchor in own | {"top"} else f"there is no heading or id #{anchor} here"
    name = posixpath.normpath(posixpath.join(_relative(file.parent, root), path))
    if name.startswith(".."):
        return f"{address} leads out of the course's folder"
    absent = missing(root, name)
    if absent:
        return f"{address} does not exist{absent}"
    if name != "." and name not in kept(root):
        return f"{address} is ignored by git: a clone lacks it"
    if name != "." and name not in committed(root):
        return f"{address} is not in git yet: a clone lacks it (git add)"
    known = anchors(root / name) if anchor else None
    if known is not None and anchor not in known | {"top"}:
        return f"{address}: {name} has no heading or id #{anchor}"
    return ""


def well_formed(address: str) -> bool:
    """Whether the address of another site could be one: a known scheme, a host, nothing run into it."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return False
    if parts.scheme not in SCHEMES or BESIDE.search(address):
        return False
    if parts.scheme == "mailto":
        return re.fullmatch(r"[^@]+@[^@]+\.[a-z]+", parts.path) is not None
    if host in ("localhost", "127.0.0.1") and parts.path.strip("/"):
        return False  # a page of the writer's own machine
    dotted = re.fullmatch(r"(?!-)[a-z0-9-]+(\.[a-z0-9-]+)+", host, re.I) or host == "localhost"
    return bool(dotted) and not re.search(r"https?:/", parts.path)


def anchors(path: Path) -> frozenset[str] | None:
    """The anchors that a file offers; None where that cannot be told (a folder, an image)."""
    if not path.is_file():
        return None
    return _anchors(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _anchors(path: Path, _: int) -> frozenset[str] | None:
    if path.suffix not in (".md", ".ipynb", ".html", ".py", ".yaml", ".toml", ".sh"):
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        return frozenset().union(*(markdown.parse("".join(cell["source"])).anchors for cell in cells))
    if path.suffix == ".html":
        return frozenset(re.findall(r"\b(?:id|name)=[\"']([^\"']+)", text))
    if path.suffix != ".md":
        return frozenset(f"L{number}" for number in range(1, text.count("\n") + 2))
    return frozenset(markdown.parse(text).anchors)


def _relative(folder: Path, root: Path) -> str:
    return Path(os.path.abspath(folder)).relative_to(os.path.abspath(root)).as_posix()


def missing(root: Path, name: str) -> str:
    """Empty where ``name`` is there letter by letter; else why not, beginning with a colon or a blank."""
    folder = root
    for part in [part for part in name.split("/") if part != "."]:
        there = _inside(folder)
        if part not in there:
            like = [each for each in there if each.lower() == part.lower()]
            return f": it is spelled {like[0]}" if like else f" (no {part})"
        folder = folder / part
    return ""


def _inside(folder: Path) -> frozenset[str]:
    return _names(folder, folder.stat().st_mtime_ns) if folder.is_dir() else frozenset()


@lru_cache(maxsize=512)
def _names(folder: Path, _: int) -> frozenset[str]:
    return frozenset(os.listdir(folder))


@lru_cache(maxsize=8)
def listed(root: Path) -> frozenset[str]:
    """Files and folders of the checkout that git keeps, or would; none, where ``root`` is no checkout."""
    files = _git(root, "--cached", "--others", "--exclude-standard")
    return frozenset(files).union(*(map(str, _parents(file)) for file in files))


@lru_cache(maxsize=8)
def _committed(root: Path) -> frozenset[str]:
    files = tracked(root)
    return frozenset(files).union(*(map(str, _parents(file)) for file in files))


def committed(root: Path) -> Container[str]:
    """Files and folders that git has; everything, where the course is no checkout."""
    return _committed(root) or _Everything()


def tracked(root: Path) -> list[str]:
    """The files that git keeps; none, where ``root`` is no checkout."""
    return _git(root, "--cached")


def _git(root: Path, *which: str) -> list[str]:
    command = ["git", "ls-files", "-z", *which]
    try:
        said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [name for name in said.stdout.split("\0") if name]


def _parents(file: str) -> list[str]:
    pieces = file.split("/")
    return ["/".join(pieces[:count]) for count in range(1, len(pieces))]


class _Everything:
    def __contains__(self, _: object) -> bool:
        return True


def kept(root: Path) -> Container[str]:
    """The same; everything, where the course is no checkout."""
    return listed(root) or _Everything()
