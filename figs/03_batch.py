"""Lesson 03: a batch of prompts of different lengths being continued: padding, places, mask, cache.

In: nothing. Out: ``figs/03_batch.svg``. Run ``python figs/03_batch.py`` after a change.
"""

from __future__ import annotations

from drawing import BLUE, MUTED, ORANGE, SMALL, Axes, Figure, canvas, panel, save, write
from matplotlib.patches import Rectangle

ROWS = [
    ("", "", "This", "movie", "was", "great", "", ""),
    ("The", "plot", "of", "this", "film", "is", "thin", "."),
    ("", "I", "liked", "it", "a", "lot", ".", "It"),
]
KINDS = ["..qqnEww", "qqqqnnnn", ".qqqnnnn"]  # padding, query, new, end of text, waiting
FACE = {".": "#e3e3e3", "q": "#ffffff", "n": "#cfe5f3", "E": "#f7d9c4", "w": "#e3e3e3"}
W, H = 1.02, 0.62


def cell(axes: Axes, x: float, y: float, word: str, kind: str, place: int | None) -> None:
    """One slot: the token, and the place that its position embedding is taken from."""
    edge = {"n": BLUE, "E": ORANGE}.get(kind, "#b8b4a6")
    axes.add_patch(Rectangle((x, y), W - 0.06, H, fc=FACE[kind], ec=edge, lw=1.2, zorder=2))
    text = {".": "pad", "w": "pad", "E": "EOS"}.get(kind, word)
    write(
        axes,
        x + W / 2 - 0.03,
        y + 0.4,
        text,
        size=SMALL + 0.5,
        ha="center",
        color=MUTED if kind in ".w" else "#1f2933",
    )
    if place is not None:
        write(axes, x + W / 2 - 0.03, y + 0.14, str(place), size=SMALL - 1.5, ha="center", color=MUTED)


def draw() -> Figure:
    """Three texts, eight columns; above them what the cache holds when the sixth column is computed."""
    figure, axes = canvas(13.0, 4.4, scale=0.86)
    panel(axes, 0.2, 0.1, 12.6, 4.2, "batch_generate")
    left, top = 2.1, 2.75
    for column, _ in enumerate(ROWS[0]):
        write(axes, left + column * W + W / 2, 3.62, str(column), size=SMALL, color=MUTED, ha="center")
    for r, (words, kinds) in enumerate(zip(ROWS, KINDS, strict=True)):
        y, place = top - r * 0.8, 0
        write(axes, 0.45, y + 0.33, f"row {r}", size=SMALL + 0.5)
        for column, (word, kind) in enumerate(zip(words, kinds, strict=True)):
            real = kind in "qnE"
            cell(axes, left + column * W, y, word, kind, place if real else None)
            place += real
    axes.plot([left, left + 4 * W - 0.1], [0.88, 0.88], color=MUTED, lw=1.4)
    write(axes, left + 2 * W, 0.6, "first pass: all queries at once", size=SMALL, ha="center", color=MUTED)
    axes.plot([left + 4 * W, left + 8 * W - 0.1], [0.88, 0.88], color=BLUE, lw=1.4)
    write(
        axes,
        left + 6 * W,
        0.6,
        "then one column per step; keys and values",
        size=SMALL,
        ha="center",
        color=BLUE,
    )
    write(
        axes,
        left + 6 * W,
        0.36,
        "of everything to the left are in the cache",
        size=SMALL,
        ha="center",
        color=BLUE,
    )
    for y, line in (
        (3.18, "a row that has finished"),
        (2.93, "waits as padding"),
        (2.05, "small number: the place"),
        (1.8, "of the token in its own text,"),
        (1.55, "counted along the mask"),
    ):
        write(axes, 10.4, y, line, size=SMALL, color=MUTED)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
