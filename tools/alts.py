"""Alt texts of the plots that lessons draw: what one sees, for readers who do not.

In: ``figs/NN_plots.yaml``, a list of ``{code, zh, en}``; ``code`` is a piece of code that only one of the
lesson's cells has. Out: the text in that cell's outputs, where IPython puts it, too. Drawings
(``figs/*.svg``) have theirs in the lesson itself.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from nbformat import NotebookNode

from rlhf.errors import BadData


def load(root: Path, name: str) -> list[dict[str, str]]:
    """The texts of lesson ``name`` (``07_ppo_imdb``); none where the lesson has no file of them.

    Raises:
        BadData: an entry lacks ``code``, ``zh`` or ``en``.
    """
    path = root / "figs" / f"{name[:2]}_plots.yaml"
    entries = (yaml.safe_load(path.read_text(encoding="utf-8")) or []) if path.is_file() else []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not all(entry.get(key) for key in ("code", "zh", "en")):
            raise BadData(
                f"{path.name} 第 {number} 条缺少 code、zh 或 en。",
                f"{path.name}, entry {number}: code, zh and en are needed.",
            )
    return entries


def describe(notebook: NotebookNode, entries: list[dict[str, str]], language: str) -> list[str]:
    """Put each text with the pictures of its cell: ``metadata["image/png"]["alt"]``, as IPython does.

    Returns:
        what is wrong, one line each: an entry whose code no cell with a picture has, or several; a picture
        without a text.
    """
    drawing = [cell for cell in notebook.cells if pictures(cell)]
    found = []
    for entry in entries:
        cells = [cell for cell in drawing if entry["code"] in cell.source]
        if len(cells) != 1:
            found.append(f"{len(cells)} cells that draw contain {entry['code']!r}; there must be one")
            continue
        for output in pictures(cells[0]):
            for kind in _kinds(output):
                output.metadata.setdefault(kind, {})["alt"] = entry[language]
    bare = [cell for cell in drawing if not text(cell)]
    return found + [f"no alt text for the plot of {cell.source.strip().splitlines()[0]!r}" for cell in bare]


def text(cell: NotebookNode) -> str:
    """The alt text of a cell's pictures, or nothing."""
    found = (output.metadata.get(kind, {}).get("alt") for output in pictures(cell) for kind in _kinds(output))
    return next(filter(None, found), "")


def pictures(cell: NotebookNode) -> list[NotebookNode]:
    """The outputs of a cell that are pictures."""
    return [output for output in cell.get("outputs", []) if _kinds(output)]


def _kinds(output: NotebookNode) -> list[str]:
    return [kind for kind in output.get("data", {}) if kind.startswith("image/")]
