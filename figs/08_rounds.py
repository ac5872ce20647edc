"""Lesson 08: one round of rejection sampling, the way back to the next, and the two controls.

In: nothing. Out: ``figs/08_rounds.svg``. Run ``python figs/08_rounds.py`` after a change.
"""

from __future__ import annotations

from drawing import (
    BLUE,
    MUTED,
    ORANGE,
    PAPER,
    SMALL,
    Axes,
    Figure,
    arrow,
    box,
    canvas,
    legend,
    panel,
    save,
    write,
)

SCORES = (("was fine, I suppose", "+0.2"), ("was a joy to watch", "+1.9"), ("was not for me", "−1.1"))


def candidates(axes: Axes) -> None:
    """K responses with their scores; the best one framed."""
    for place, (text, score) in enumerate(SCORES):
        y = 3.72 - 0.72 * place
        best = place == 1
        box(axes, 4.55, y, 2.3, 0.5, text)
        write(
            axes,
            7.15,
            y + 0.25,
            score,
            ha="left",
            weight="bold" if best else "normal",
            color=BLUE if best else MUTED,
        )
        if best:
            axes.plot(
                [4.47, 7.78, 7.78, 4.47, 4.47],
                [y - 0.08, y - 0.08, y + 0.58, y + 0.58, y - 0.08],
                color=BLUE,
                lw=1.8,
            )


def draw() -> Figure:
    """Sample, choose, imitate from left to right; the blue line is what a frozen sampler lacks."""
    figure, axes = canvas(12.4, 6.1, scale=0.887)
    for x, width, title in ((0.2, 3.6, "1  Sample"), (4.1, 4.2, "2  Choose"), (8.6, 3.6, "3  Imitate")):
        panel(axes, x, 1.5, width, 4.35, title)
    box(axes, 0.55, 4.45, 2.9, 0.8, "query", "“This movie”")
    box(axes, 0.55, 2.9, 2.9, 0.95, "sampler", "writes K responses", "trained")
    write(axes, 2.15, 4.16, "all prompts at once", size=SMALL, color=MUTED)
    arrow(axes, (2.0, 4.45), (2.0, 3.87))
    box(axes, 4.55, 4.45, 2.3, 0.8, "reward model", "one score per text", "frozen")
    candidates(axes)
    arrow(axes, (3.45, 3.37), (4.4, 3.37))
    arrow(axes, (6.3, 4.45), (7.2, 4.22), bend=-0.2)
    write(axes, 6.15, 1.88, "the other K − 1 are thrown away", size=SMALL, color=MUTED, ha="center")
    box(axes, 8.95, 4.45, 2.9, 0.8, "SFT", "cross-entropy, TRL's SFTTrainer")
    box(axes, 8.95, 2.9, 2.9, 0.95, "policy", "learns to write the best one", "trained")
    arrow(axes, (7.8, 3.25), (8.93, 4.6), bend=-0.15)
    arrow(axes, (10.4, 4.45), (10.4, 3.87))
    axes.plot([10.4, 10.4, 2.0], [2.9, 1.05, 1.05], color=BLUE, lw=1.6, zorder=4)
    arrow(axes, (2.0, 1.05), (2.0, 2.88), color=BLUE)
    write(
        axes,
        6.2,
        1.05,
        "  refreshed: the new policy samples the next round  ",
        size=SMALL,
        color=BLUE,
        ha="center",
        backgroundcolor=PAPER,
    )
    write(
        axes, 0.35, 0.62, "control 1, random pick: any of the K instead of the best", size=SMALL, color=ORANGE
    )
    write(axes, 0.35, 0.28, "control 2, frozen sampler: without the blue line back", size=SMALL, color=ORANGE)
    legend(axes, 7.3, 0.3)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
