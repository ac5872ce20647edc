"""A notebook goes into another folder, and with it what it shows: figures, the glossary, other documents.

In: a notebook of the course, whose addresses are seen from ``notebooks/``. Out: the notebook at its new place
and beside it the files that its addresses lead to, so that the folder can be handed out as it is.
"""

from __future__ import annotations

import copy
import posixpath
import re
from collections.abc import Collection
from pathlib import Path

from nbformat import NotebookNode

from rlhf.errors import BadData, CannotWrite
from rlhf.files import whole_text
from tools import markdown
from tools.notebooks import Course, write

UP = re.compile(
    r"(\]\(\s*<?|^ {0,3}\[[^\]]+\]:\s*<?|\b(?:src|href)=[\"'])\.\./(?!\.\.)([^)\s\"'#>]+)", re.M
)  # an address below the checkout
LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\(\s*<?([^)\s>]+)>?[^)]*\)")
CLOSED = ("lessons", "notebooks", "rlhf/checks")  # a student's copy takes nothing from where solutions are
GOING = (".md", ".svg", ".png")  # what a document takes along; its other links become plain words


def moved(notebook: NotebookNode, root: Path) -> tuple[NotebookNode, set[str]]:
    """``notebook`` with addresses such as ``../figs/a.svg`` turned into ``figs/a.svg``, and the files (as
    seen from the checkout's ``root``) that have to lie beside it for that.

    Raises:
        BadData: an address leads to a folder, to nothing, or to where solutions are.
    """
    notebook, files = copy.deepcopy(notebook), set()

    def turned(match: re.Match) -> str:
        path = match[2]
        if path.startswith(CLOSED) or not (root / path).is_file():
            raise BadData(
                f"课文里的地址 ../{path} 不能随笔记本发出去：它不是文件，或在放参考答案的文件夹里。",
                f"The address ../{path} cannot go along with a notebook: it is no file, or lies where "
                "solutions are.",
            )
        files.add(path)
        return f"{match[1]}{path}"

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = UP.sub(turned, cell.source)
    return notebook, files


def without_links(notebook: NotebookNode, absent: Collection[str]) -> NotebookNode:
    """``notebook`` with links to the notebooks ``absent`` (names of lessons) turned into words."""
    notebook, files = copy.deepcopy(notebook), {f"{name}.ipynb" for name in absent}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(
                lambda match: match[1] if markdown.parts(match[2])[0] in files else match[0], cell.source
            )
    return notebook


def place(course: Course, notebook: NotebookNode, path: Path) -> Path:
    """Write a notebook of ``course`` to ``path`` and the files that it shows beside it; returns ``path``.

    Raises:
        BadData: see :func:`moved`. CannotWrite: no space or no permission.
    """
    notebook, files = moved(notebook, course.root)
    take(course.root, files, path.parent)
    write(notebook, path)
    return path


def take(root: Path, files: set[str], folder: Path) -> None:
    """Copy ``files`` of the checkout to the same places below ``folder``, and what the documents among them
    lead to; a link of theirs to anything else is left as words.

    Raises:
        CannotWrite: no space or no permission.
    """
    left, done = sorted(files), set()
    while left:
        name = left.pop()
        if name in done:
            continue
        done.add(name)
        if name.endswith(".md"):
            text, more = _document(root, name)
            whole_text(folder / name, text)
            left += sorted(more)
        else:
            _copy(root / name, folder / name)


def _document(root: Path, name: str) -> tuple[str, set[str]]:
    """The text of a document without links to what stays behind, and the files that it leads to."""
    text, files = (root / name).read_text(encoding="utf-8"), set()
    for image in markdown.parse(text).images:
        files |= {_seen_from(name, image.address)} - {""}

    def turned(match: re.Match) -> str:
        if markdown.elsewhere(match[2]) or match[2].startswith("#"):
            return match[0]
        path = _seen_from(name, match[2])
        if path.startswith(CLOSED) or not path.endswith(GOING) or not (root / path).is_file():
            return match[1]
        files.add(path)
        return match[0]

    return LINK.sub(turned, text), files


def _seen_from(name: str, address: str) -> str:
    """The file of the checkout that ``address`` in the document ``name`` means; empty for another site."""
    path, _ = markdown.parts(address)
    if markdown.elsewhere(address) or not path:
        return ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), path))


def _copy(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    except OSError as error:
        raise CannotWrite(
            f"无法写入 {target}：{error.strerror}", f"Cannot write {target}: {error.strerror}"
        ) from error
