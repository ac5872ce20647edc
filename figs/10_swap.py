"""Lesson 10: one pair asked about in both orders, and what two answers make of it.

In: nothing. Out: ``figs/10_swap.svg``. Run ``python figs/10_swap.py`` after a change.
"""

from __future__ import annotations

from drawing import BLUE, INK, MUTED, ORANGE, SMALL, Axes, Figure, arrow, box, canvas, panel, save, write
from matplotlib.patches import Rectangle

CANDIDATE, OPPONENT = "#cfe5f3", "#f6dcc8"
OUTCOMES = (  # answers in both orders, what they mean, its colour
    ("A", "B", "win", BLUE),
    ("B", "A", "loss", ORANGE),
    ("B", "B", "tie: the place decided", INK),
    ("A", "tie", "tie", INK),
    ("B", "malformed", "incomplete: counted, not guessed", MUTED),
)


def seat(axes: Axes, x: float, y: float, letter: str, who: str) -> None:
    """One of the two places, and who sits there."""
    face = CANDIDATE if who == "candidate" else OPPONENT
    axes.add_patch(Rectangle((x, y), 2.1, 0.6, fc=face, ec="#b8b4a6", lw=1, zorder=3))
    write(axes, x + 0.28, y + 0.3, letter, ha="center", weight="bold")
    write(axes, x + 1.25, y + 0.3, who, ha="center")


def question(axes: Axes, y: float, title: str, who: tuple[str, str], letter: str) -> None:
    """One order: two seats, the judge, its answer."""
    panel(axes, 0.2, y, 6.5, 2.15, title)
    seat(axes, 0.5, y + 0.9, "A", who[0])
    seat(axes, 0.5, y + 0.2, "B", who[1])
    arrow(axes, (2.7, y + 0.85), (3.5, y + 0.85))
    box(axes, 3.55, y + 0.4, 1.5, 0.9, "judge", kind="frozen")
    arrow(axes, (5.1, y + 0.85), (5.75, y + 0.85))
    write(axes, 6.1, y + 0.85, letter, ha="center", weight="bold", size=12, color=BLUE)


def draw() -> Figure:
    """Both orders on the left, the table of outcomes on the right."""
    figure, axes = canvas(12.4, 4.9, scale=0.887)
    question(axes, 2.55, "straight", ("candidate", "opponent"), "A")
    question(axes, 0.2, "swapped", ("opponent", "candidate"), "B")
    panel(axes, 6.95, 0.2, 5.25, 4.5, "two answers, one outcome")
    for x, word in ((7.6, "straight"), (8.85, "swapped"), (9.65, "outcome")):
        write(axes, x, 3.85, word, ha="center" if x < 9 else "left", size=SMALL, color=MUTED)
    for place, (one, two, outcome, color) in enumerate(OUTCOMES):
        y = 3.3 - 0.62 * place
        write(axes, 7.6, y, one, ha="center", weight="bold")
        write(axes, 8.85, y, two, ha="center", weight="bold" if len(two) == 1 else "normal")
        write(axes, 9.65, y, outcome, color=color, size=SMALL + 0.5)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
