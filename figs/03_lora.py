"""Lesson 03: LoRA as a low-rank side path, and what merging does.

In: nothing. Out: ``figs/03_lora.svg``. Run ``python figs/03_lora.py`` after a change.
"""

from __future__ import annotations

from drawing import MUTED, NORMAL, SMALL, Axes, Figure, arrow, box, canvas, panel, rectangle, save, write


def matrix(axes: Axes, x: float, y: float, w: float, h: float, name: str, size: str, kind: str) -> None:
    """A matrix drawn to scale: its name inside, its shape below."""
    rectangle(axes, x, y, w, h, kind)
    write(axes, x + w / 2, y + h / 2, name, size=NORMAL + 1, ha="center", weight="bold")
    write(axes, x + w / 2, y - 0.22, size, size=SMALL, color=MUTED, ha="center")


def draw() -> Figure:
    """Left: the two paths of a layer while it trains. Right: the sum of both as one matrix."""
    figure, axes = canvas(14.6, 5.1, scale=0.78)
    panel(axes, 0.25, 0.25, 6.9, 4.6, "While training: two paths")
    panel(axes, 7.4, 0.25, 6.95, 4.6, "Merged: one matrix again")

    box(axes, 0.5, 2.0, 1.0, 0.75, "x", "(…, in)")
    matrix(axes, 2.5, 2.6, 1.5, 1.5, "W", "(out, in), frozen", "frozen")
    matrix(axes, 2.2, 1.0, 1.5, 0.3, "A", "(r, in), random", "trained")
    matrix(axes, 4.35, 0.78, 0.3, 1.5, "B", "(out, r), starts at 0", "trained")
    arrow(axes, (1.5, 2.5), (2.5, 3.3))
    arrow(axes, (1.5, 2.2), (2.2, 1.17))
    arrow(axes, (3.7, 1.15), (4.33, 1.3))
    write(axes, 5.5, 1.7, "× α / r", size=SMALL + 0.5, ha="center")
    axes.plot([5.6], [2.6], marker="o", markersize=17, mfc="#ffffff", mec="#1f2933", mew=1.4, zorder=4.5)
    write(axes, 5.6, 2.6, "+", size=13, ha="center", weight="bold")
    arrow(axes, (4.0, 3.35), (5.42, 2.72))
    arrow(axes, (4.65, 1.55), (5.47, 2.42))
    box(axes, 6.1, 2.22, 0.9, 0.75, "y", "(…, out)")
    arrow(axes, (5.78, 2.6), (6.1, 2.6))

    matrix(axes, 7.65, 1.9, 1.5, 1.5, "W", "(out, in)", "frozen")
    write(axes, 9.42, 2.65, "+", size=14, ha="center")
    write(axes, 9.85, 2.65, "α / r  ·", size=SMALL + 1, ha="center")
    matrix(axes, 10.25, 1.9, 0.3, 1.5, "B", "", "trained")
    matrix(axes, 10.65, 3.1, 1.5, 0.3, "A", "", "trained")
    write(axes, 11.2, 1.68, "a product of rank ≤ r", size=SMALL, color=MUTED, ha="center")
    write(axes, 12.4, 2.65, "=", size=14, ha="center")
    matrix(axes, 12.65, 1.9, 1.5, 1.5, "W'", "(out, in)", "trained")
    write(axes, 7.65, 0.95, "Same outputs, no extra work at inference;", size=SMALL)
    write(axes, 7.65, 0.6, "subtract the product and W is back.", size=SMALL)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
