"""Lesson 08: from a flat list of P · K scores to one pick per prompt, and the order that goes wrong.

In: nothing. Out: ``figs/08_choose.svg``. Run ``python figs/08_choose.py`` after a change.
"""

from __future__ import annotations

from drawing import BLUE, INK, MUTED, ORANGE, SMALL, Axes, Figure, arrow, canvas, panel, save, write
from matplotlib.patches import Rectangle

FACES = {"a": "#cfe5f3", "b": "#f6dcc8"}
SCORES = {"a": (0.2, 1.9, -1.1), "b": (0.7, -0.4, 0.1)}
CELL = 0.95


def cell(axes: Axes, x: float, y: float, name: str, score: float, best: bool = False) -> None:
    """One response: the prompt's colour, its name and its score."""
    axes.add_patch(
        Rectangle(
            (x, y),
            CELL,
            0.62,
            fc=FACES[name[0]],
            ec=BLUE if best else "#b8b4a6",
            lw=2.4 if best else 1,
            zorder=4 if best else 3,
        )
    )
    write(axes, x + CELL / 2, y + 0.42, name, ha="center", size=SMALL)
    write(axes, x + CELL / 2, y + 0.18, f"{score:+.1f}", ha="center", size=SMALL, color=MUTED)


def strip(axes: Axes, y: float, order: list[tuple[str, int]], title: str, color: str = INK) -> None:
    """The flat list in one row."""
    write(axes, 0.3, y + 0.9, title, color=color)
    for place, (prompt, number) in enumerate(order):
        cell(axes, 0.3 + place * CELL, y, f"{prompt}{number + 1}", SCORES[prompt][number])


def grid(axes: Axes, x: float, y: float, order: list[tuple[str, int]], right: bool) -> None:
    """The same list as a table of two rows; the maximum of every row framed."""
    for row in range(2):
        part = order[3 * row : 3 * row + 3]
        best = max(part, key=lambda each: SCORES[each[0]][each[1]])
        for column, each in enumerate(part):
            place = y + 0.72 * (1 - row)
            cell(
                axes,
                x + column * CELL,
                place,
                f"{each[0]}{each[1] + 1}",
                SCORES[each[0]][each[1]],
                each == best,
            )
    verdict = "one pick per prompt" if right else "rows mix the prompts: b1, the best of b, is lost"
    write(axes, x + 1.5 * CELL, y - 0.3, verdict, ha="center", size=SMALL, color=BLUE if right else ORANGE)


def draw() -> Figure:
    """Prompt by prompt above, copy by copy below."""
    figure, axes = canvas(11.4, 5.0, scale=0.887)
    by_prompt = [(prompt, number) for prompt in "ab" for number in range(3)]
    by_copy = [(prompt, number) for number in range(3) for prompt in "ab"]
    panel(axes, 0.1, 2.55, 11.2, 2.35)
    panel(axes, 0.1, 0.1, 11.2, 2.35)
    for y, order, title, right in (
        (3.3, by_prompt, "prompt by prompt: q for q in queries for _ in range(K)", True),
        (0.85, by_copy, "copy by copy: queries * K", False),
    ):
        strip(axes, y, order, title, INK if right else ORANGE)
        arrow(axes, (6.15, y + 0.31), (7.55, y + 0.31))
        write(axes, 6.85, y + 0.6, "reshape(P, K)", ha="center", size=SMALL)
        write(axes, 6.85, y + 0.02, "argmax(1)", ha="center", size=SMALL)
        grid(axes, 7.75, y - 0.05, order, right)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
