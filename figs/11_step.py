"""Lesson 11: one PPO step in two processes: what each computes, and what they tell each other.

In: nothing. Out: ``figs/11_step.svg``. Run ``python figs/11_step.py`` after a change.
"""

from __future__ import annotations

from drawing import BLUE, MUTED, ORANGE, SMALL, Axes, Figure, arrow, box, canvas, panel, save, write

STAGES = (  # x, width, title, note, kind
    (1.55, 1.75, "sample", "own seed", "trained"),
    (6.85, 1.85, "advantages", "of all rows", "data"),
    (9.35, 1.85, "loss, gradient", "own rows", "trained"),
)
EXCHANGES = (  # x, what is gathered
    (3.62, "tokens, scores"),
    (6.27, "log-probs, values"),
    (11.55, "gradients"),
)


def process(axes: Axes, y: float, name: str, rows: str) -> None:
    """The row of one process: its queries, and what it does with them."""
    panel(axes, 0.15, y, 12.1, 1.5)
    write(axes, 0.35, y + 0.95, name, weight="bold")
    write(axes, 0.35, y + 0.55, rows, size=SMALL, color=MUTED)
    for x, width, title, note, kind in STAGES:
        box(axes, x, y + 0.3, width, 0.9, title, note, kind)
    box(axes, 3.95, y + 0.79, 1.75, 0.41, "policy", kind="trained")
    box(axes, 3.95, y + 0.3, 1.75, 0.41, "reference", kind="frozen")
    for left, right in ((3.32, 3.93), (5.72, 6.83), (8.72, 9.33)):
        arrow(axes, (left, y + 0.75), (right, y + 0.75))
    arrow(axes, (11.22, y + 0.75), (11.8, y + 0.75), color=BLUE)


def draw() -> Figure:
    """Two processes, one above the other, and three exchanges between them."""
    figure, axes = canvas(12.4, 4.9, scale=0.887)
    process(axes, 3.25, "process 0", "rows 0 … 31")
    process(axes, 0.15, "process 1", "rows 32 … 63")
    for x, words in EXCHANGES:
        axes.annotate(
            "",
            xy=(x, 3.85),
            xytext=(x, 1.05),
            arrowprops={"arrowstyle": "<|-|>", "color": ORANGE, "lw": 1.4},
            zorder=6,
        )
        write(axes, x - 0.1, 2.65, words, ha="right", size=SMALL, color=ORANGE, weight="bold")
    write(axes, 2.3, 2.2, "a few numbers per token", ha="center", size=SMALL, color=MUTED)
    write(axes, 7.85, 2.65, "the same numbers", ha="center", size=SMALL, color=MUTED)
    write(axes, 7.85, 2.3, "in both", ha="center", size=SMALL, color=MUTED)
    write(axes, 11.45, 2.3, "averaged; the same update", ha="right", size=SMALL, color=MUTED)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
