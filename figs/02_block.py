"""The transformer block of lesson 02 in two orders: pre-LN leaves the stream alone, post-LN normalises it.

In: nothing. Out: ``figs/02_block.svg``. Run ``python figs/02_block.py`` after a change.
"""

from __future__ import annotations

from drawing import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    SMALL,
    Axes,
    Figure,
    arrow,
    box,
    canvas,
    panel,
    save,
    write,
)
from matplotlib.patches import Circle


def plus(axes: Axes, x: float, y: float) -> None:
    """The place where a part's output is added to the stream."""
    axes.add_patch(Circle((x, y), 0.19, fc=PAPER, ec=BLUE, lw=1.6, zorder=5))
    write(axes, x, y, "+", ha="center", color=BLUE, weight="bold")


def stream(axes: Axes, x: float, low: float, high: float) -> None:
    """The residual stream: a thick line from below to above."""
    axes.plot([x, x], [low, high - 0.15], color=BLUE, lw=5, alpha=0.35, solid_capstyle="butt", zorder=1)
    arrow(axes, (x, high - 0.5), (x, high), color=BLUE)


def branch(axes: Axes, x: float, low: float, high: float, parts: list[tuple[str, str]]) -> None:
    """From the stream at ``low`` through boxes, and back into it at ``high``."""
    right, height = x + 1.15, 0.62
    room = (high - low - 0.1) / len(parts)
    arrow(axes, (x, low), (right, low), color=INK)
    y = low - 0.31
    for place, (name, kind) in enumerate(parts):
        y = low - 0.31 + place * room
        box(axes, right, y, 2.3, height, name, kind=kind)
        if place:
            arrow(axes, (right + 1.15, y - room + height), (right + 1.15, y))
    axes.plot([right + 1.15, right + 1.15], [y + height, high], color=INK, lw=1.3, zorder=3)
    arrow(axes, (right + 1.15, high), (x + 0.19, high))
    plus(axes, x, high)


def pre(axes: Axes, x: float) -> None:
    """Norms sit on the branches."""
    stream(axes, x, 0.75, 6.25)
    branch(axes, x, 1.25, 3.15, [("norm", "trained"), ("attention", "trained")])
    branch(axes, x, 3.75, 5.65, [("norm", "trained"), ("FFN or GLU", "trained")])


def post(axes: Axes, x: float) -> None:
    """Norms sit on the stream itself."""
    stream(axes, x, 0.75, 6.25)
    branch(axes, x, 1.25, 2.3, [("attention", "trained")])
    box(axes, x - 0.6, 2.68, 1.2, 0.5, "norm", kind="trained")
    branch(axes, x, 3.75, 4.8, [("FFN or GLU", "trained")])
    box(axes, x - 0.6, 5.18, 1.2, 0.5, "norm", kind="trained")


def draw() -> Figure:
    """Two panels and a line under each."""
    figure, axes = canvas(12.0, 7.7, scale=0.6)
    panel(axes, 0.2, 0.15, 5.7, 7.4, "pre-LN")
    panel(axes, 6.1, 0.15, 5.7, 7.4, "post-LN")
    write(axes, 0.38, 6.85, "GPT-2, Llama, Qwen, most models today", size=SMALL, color=MUTED)
    write(axes, 6.28, 6.85, "the first transformer, BERT, DistilBERT, OPT-350m", size=SMALL, color=MUTED)
    pre(axes, 1.5)
    post(axes, 7.4)
    for x in (1.5, 7.4):
        write(axes, x - 0.9, 3.45, "residual stream", size=SMALL, color=BLUE, rotation=90, ha="center")
        write(axes, x, 0.55, "from the block below", size=SMALL, ha="center", color=MUTED)
    write(axes, 5.7, 3.45, "untouched: only added to", size=SMALL, color=ORANGE, rotation=90, ha="center")
    write(axes, 11.6, 3.45, "normalised twice per block", size=SMALL, color=ORANGE, rotation=90, ha="center")
    return figure


if __name__ == "__main__":
    save(draw, __file__)
