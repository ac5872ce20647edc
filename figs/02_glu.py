"""FFN and GLU side by side: two matrices or three, at the same number of weights (lesson 02).

In: nothing. Out: ``figs/02_glu.svg``. Run ``python figs/02_glu.py`` after a change.
"""

from __future__ import annotations

from drawing import BLUE, INK, MUTED, ORANGE, PAPER, SMALL, Axes, Figure, arrow, canvas, panel, save, write
from matplotlib.patches import Circle, Polygon, Rectangle

D, WIDE, NARROW = 1.0, 4.0, 4.0 * 2 / 3  # the widths d, 4d and 8/3 d, to scale


def vector(axes: Axes, x: float, y: float, width: float, label: str) -> None:
    """Hidden features as a bar centred on ``x``."""
    axes.add_patch(Rectangle((x - width / 2, y), width, 0.26, fc="white", ec=INK, lw=1.2, zorder=3))
    write(axes, x, y + 0.13, label, size=SMALL, ha="center")


def matrix(axes: Axes, x: float, low: float, high: float, below: float, above: float, label: str) -> None:
    """A weight matrix between two vectors: a trapezoid as wide as what goes in and what comes out."""
    corners = [(x - below / 2, low), (x + below / 2, low), (x + above / 2, high), (x - above / 2, high)]
    axes.add_patch(Polygon(corners, fc="#cfe5f3", ec=BLUE, lw=1.4, zorder=2))
    write(axes, x, (low + high) / 2, label, ha="center")


def knot(axes: Axes, x: float, y: float, sign: str, radius: float = 0.24) -> None:
    """A function or a product, applied feature by feature."""
    axes.add_patch(Circle((x, y), radius, fc=PAPER, ec=ORANGE, lw=1.5, zorder=4))
    write(axes, x, y, sign, size=SMALL, ha="center", color=ORANGE)


def ffn(axes: Axes, x: float) -> None:
    """Up, bend, down."""
    vector(axes, x, 0.85, D, "x   (d)")
    matrix(axes, x, 1.2, 2.05, D, WIDE, r"$W_{up}$")
    vector(axes, x, 2.15, WIDE, "4d")
    arrow(axes, (x, 2.41), (x, 2.9))
    knot(axes, x, 3.2, "act", 0.3)
    arrow(axes, (x, 3.5), (x, 4.05))
    vector(axes, x, 4.05, WIDE, "4d")
    matrix(axes, x, 4.4, 5.25, WIDE, D, r"$W_{down}$")
    vector(axes, x, 5.35, D, "out   (d)")


def glu(axes: Axes, x: float) -> None:
    """Two ways up, one of them bent into a gate; their product goes down."""
    left, right = x - 1.55, x + 1.55
    vector(axes, x, 0.55, D, "x   (d)")
    for side in (left, right):
        arrow(axes, (x, 0.81), (side, 1.17))
    matrix(axes, left, 1.2, 2.05, D, NARROW, r"$W_{gate}$")
    matrix(axes, right, 1.2, 2.05, D, NARROW, r"$W_{up}$")
    vector(axes, left, 2.15, NARROW, "8/3 d")
    vector(axes, right, 2.15, NARROW, "8/3 d")
    arrow(axes, (left, 2.41), (left, 2.75))
    knot(axes, left, 3.05, "act", 0.3)
    arrow(axes, (left, 3.35), (x - 0.22, 3.72))
    arrow(axes, (right, 2.41), (x + 0.2, 3.68))
    knot(axes, x, 3.72, "×")
    arrow(axes, (x, 3.96), (x, 4.18))
    vector(axes, x, 4.18, NARROW, "8/3 d")
    matrix(axes, x, 4.5, 5.25, NARROW, D, r"$W_{down}$")
    vector(axes, x, 5.35, D, "out   (d)")


def draw() -> Figure:
    """The two layers to scale, with their number of weights."""
    figure, axes = canvas(12.4, 6.85, scale=0.76)
    panel(axes, 0.2, 0.15, 5.1, 6.55, "FFN")
    panel(axes, 5.5, 0.15, 6.7, 6.55, "GLU")
    ffn(axes, 2.75)
    glu(axes, 8.85)
    write(axes, 1.15, 6.4, r"2 matrices, $2 \cdot d \cdot 4d = 8d^2$ weights", size=SMALL, color=MUTED)
    write(
        axes, 6.45, 6.4, r"3 matrices, $3 \cdot d \cdot \frac{8}{3}d = 8d^2$ weights", size=SMALL, color=MUTED
    )
    write(axes, 5.68, 3.85, "the gate: how much", size=SMALL, color=ORANGE)
    write(axes, 5.68, 3.58, "of each feature passes", size=SMALL, color=ORANGE)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
