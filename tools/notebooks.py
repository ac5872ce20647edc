"""From a lesson's source to its notebook, and from a notebook with two languages to one with one.

In: ``lessons/NN_topic.py`` (percent format). Out: a notebook whose cell ids follow from the text of the
cells, so that building it twice gives the same bytes, and only a changed cell loses its outputs.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from rlhf.errors import BadData
from rlhf.files import whole_text
from tools.timing import carry_over

NAME = re.compile(r"\d\d_[a-z0-9_]+")
LANGUAGES = ("zh", "en")
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE_INFO = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}


@dataclass(frozen=True)
class Course:
    """Where the lessons of a checkout are."""

    root: Path

    @property
    def lessons(self) -> Path:
        return self.root / "lessons"

    @property
    def notebooks(self) -> Path:
        return self.root / "notebooks"

    def names(self, wanted: list[str] | None = None) -> list[str]:
        """The lessons that exist, or those of them that start with one of ``wanted`` (``07`` or ``07_ppo``).

        Raises:
            BadData: a wanted lesson does not exist.
        """
        names = sorted(path.stem for path in self.lessons.glob("*.py") if NAME.fullmatch(path.stem))
        chosen = [name for name in names if not wanted or any(name.startswith(start) for start in wanted)]
        missing = [start for start in wanted or [] if not any(name.startswith(start) for name in names)]
        if missing:
            raise BadData(
                f"没有这样的课：{', '.join(missing)}。现有：{', '.join(names) or '（无）'}",
                f"No such lesson: {', '.join(missing)}. There are: {', '.join(names) or '(none)'}",
            )
        return chosen

    def source(self, name: str) -> Path:
        return self.lessons / f"{name}.py"

    def notebook(self, name: str) -> Path:
        return self.notebooks / f"{name}.ipynb"


def build(source: Path) -> NotebookNode:
    """The notebook of a lesson, without outputs."""
    text = source.read_text(encoding="utf-8")
    cells, seen = [], Counter()
    for cell in jupytext.reads(text, fmt="py:percent").cells:
        metadata = {key: cell.metadata[key] for key in ("tags", "jupyter") if key in cell.metadata}
        key = repr((cell.cell_type, cell.source, sorted(metadata.get("tags", []))))
        seen[key] += 1
        identity = hashlib.sha256(f"{source.stem} {key} {seen[key]}".encode()).hexdigest()[:12]
        new = {"markdown": nbformat.v4.new_markdown_cell, "raw": nbformat.v4.new_raw_cell}
        maker = new.get(cell.cell_type, nbformat.v4.new_code_cell)
        cells.append(maker(cell.source, id=identity, metadata=metadata))
    generated = {"by": "python -m tools.lessons pair", "from": f"lessons/{source.name}"}
    metadata = {"generated": generated, "kernelspec": KERNEL, "language_info": LANGUAGE_INFO}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def with_outputs(notebook: NotebookNode, previous: NotebookNode) -> NotebookNode:
    """``notebook`` with the outputs and times of those cells of ``previous`` that did not change."""
    old = {cell.id: cell for cell in previous.cells if cell.cell_type == "code" and "id" in cell}
    notebook = copy.deepcopy(notebook)
    carry_over(previous, notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id in old:
            cell.outputs = old[cell.id].outputs
            cell.execution_count = old[cell.id].execution_count
    return notebook


def pair(course: Course, name: str) -> bool:
    """Write ``notebooks/NAME.ipynb``; returns whether anything changed.

    Raises:
        CannotWrite: the notebook cannot be written.
    """
    notebook, path = build(course.source(name)), course.notebook(name)
    if path.is_file():
        notebook = with_outputs(notebook, read(path))
    return write(notebook, path)


def one_language(notebook: NotebookNode, language: str) -> NotebookNode:
    """The notebook without the cells of the other language."""
    notebook = copy.deepcopy(notebook)
    others = set(LANGUAGES) - {language}
    notebook.cells = [cell for cell in notebook.cells if not others & set(tags(cell))]
    return notebook


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def texts(output: NotebookNode) -> Iterator[str]:
    """Everything in one output that can be read."""
    yield from ("".join(output.get(key, "")) for key in ("text", "evalue"))
    yield from (
        "".join(value)
        for kind, value in output.get("data", {}).items()
        if kind.startswith("text/") and isinstance(value, str | list)
    )


def read(path: Path) -> NotebookNode:
    """A notebook from disk; BadData if it is not one."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:
        raise BadData(f"读不出 notebook：{path.name}", f"Not a readable notebook: {path.name}") from error


def write(notebook: NotebookNode, path: Path) -> bool:
    """Write a notebook whole or not at all; an unchanged file is left alone. Returns whether it changed."""
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    whole_text(path, text)
    return True
