"""Attention as matrices, with the four-token example of lesson 02: Q and K give scores, scores give weights,
weights mix V.

In: nothing; the numbers are computed by ``rlhf.blocks.attention``. Out: ``figs/02_attention.svg``. Run
``python figs/02_attention.py`` after a change.
"""

from __future__ import annotations

import torch
from drawing import BLUE, INK, MUTED, ORANGE, SMALL, Axes, Figure, arrow, canvas, save, write
from matplotlib.patches import Rectangle

from rlhf import blocks

WORDS = ("a", "dull", "film", "shines")
Q = torch.tensor([[0.0, 0], [0, 0], [3, 0], [0, 3]])  # looks for: an adjective, a noun
K = torch.tensor([[0.0, 0], [2, 0], [0, 2], [0, 0]])  # is: an adjective, a noun
V = torch.tensor([[0.0, 0], [-1, 0], [0, 1], [1, 0]])  # says: a verdict, here is a noun
CELL = 0.62


def matrix(axes: Axes, x: float, y: float, values: torch.Tensor, digits: int, live=None, color=BLUE) -> None:
    """Numbers in cells, top row at ``y``; the larger in size, the darker. ``live`` False is hatched."""
    top = float(values[live].abs().max() if live is not None else values.abs().max()) or 1.0
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            place = (x + column * CELL, y - (row + 1) * CELL)
            hidden = live is not None and not bool(live[row, column])
            value = float(values[row, column])
            shade = 0.0 if hidden else 0.55 * abs(value) / top
            tone = ORANGE if value < 0 else color
            axes.add_patch(Rectangle(place, CELL, CELL, fc="white", ec="#b8b4a6", lw=0.8, zorder=1))
            axes.add_patch(Rectangle(place, CELL, CELL, fc=tone, ec="none", alpha=shade, zorder=2))
            if hidden:
                axes.add_patch(
                    Rectangle(place, CELL, CELL, fc="#e3e3e3", ec="#b8b4a6", hatch="////", lw=0.8, zorder=2)
                )
            else:
                text = f"{value:.{digits}f}" if value else "0"
                write(axes, place[0] + CELL / 2, place[1] + CELL / 2, text, size=SMALL, ha="center")


def head(axes: Axes, x: float, y: float, columns: int, title: str, note: str) -> None:
    """What a matrix is called and what it means, above its top edge."""
    middle = x + columns * CELL / 2
    write(axes, middle, y + 0.62, title, ha="center", weight="bold")
    write(axes, middle, y + 0.27, note, ha="center", size=SMALL, color=MUTED)


def draw() -> Figure:
    """Six matrices from left to right; masked cells are hatched."""
    figure, axes = canvas(14.6, 6.35, scale=0.78)
    mask = blocks.causal_mask(4)
    output, weights = blocks.attention(Q, K, V, mask)
    scores = Q @ K.T / Q.shape[-1] ** 0.5
    low, high = 3.0, 5.3

    matrix(axes, 1.15, low, Q, 0)
    head(axes, 1.15, low, 2, "Q", "asks for: adj., noun")
    for row, word in enumerate(WORDS):
        write(axes, 1.0, low - (row + 0.5) * CELL, word, ha="right")
    matrix(axes, 3.35, high, K.T, 0)
    head(axes, 3.35, high, 4, r"$K^{T}$", "each key is a column: adjective? noun?")
    matrix(axes, 3.35, low, scores, 1, mask)
    head(axes, 3.35, low, 4, r"$QK^{T}/\sqrt{d}$, masked", "row: who asks;  column: who is read")
    for column, word in enumerate(WORDS):
        write(axes, 3.35 + (column + 0.5) * CELL, low - 4 * CELL - 0.2, word, ha="center", size=SMALL)
    matrix(axes, 7.35, low, weights, 2, mask)
    head(axes, 7.35, low, 4, "weights", "softmax: every row sums to 1")
    for column, word in enumerate(WORDS):
        write(axes, 7.35 + (column + 0.5) * CELL, low - 4 * CELL - 0.2, word, ha="center", size=SMALL)
    matrix(axes, 10.75, low, V, 0)
    head(axes, 10.75, low, 2, "V", "says: verdict, noun")
    matrix(axes, 12.85, low, output, 2)
    head(axes, 12.85, low, 2, "output", "mix of values")

    middle = low - 2 * CELL
    write(axes, 2.87, middle, "·", size=16, ha="center")
    arrow(axes, (5.95, middle), (7.25, middle))
    write(axes, 6.6, middle + 0.22, "softmax", size=SMALL, ha="center")
    write(axes, 10.3, middle, "·", size=16, ha="center")
    write(axes, 12.42, middle, "=", size=14, ha="center")
    note = "“film” asks for an adjective, finds “dull” before it and takes over its verdict, −1."
    write(axes, 7.2, 5.2, note, color=INK)
    write(axes, 7.2, 4.8, "“a” and “dull” ask for nothing: their row is an even mean of what", color=INK)
    write(axes, 7.2, 4.5, "they may see.  Hatched: the future, weight 0.", color=INK)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
