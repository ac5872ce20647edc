"""Lesson 09: what a response is compared with: a value head's guess, or the other responses to its prompt.

In: nothing. Out: ``figs/09_baseline.svg``. Run ``python figs/09_baseline.py`` after a change.
"""

from __future__ import annotations

from drawing import BLUE, INK, MUTED, ORANGE, SMALL, Axes, Figure, arrow, box, canvas, panel, save, write
from matplotlib.patches import Rectangle

TOKENS, VALUES = ("a", "dull", "start,", "a", "lovely", "end"), (0.4, 0.4, -0.9, -0.8, -0.7, 1.1)
SCORE = 1.5
GROUP = (("was a joy", 1.9), ("was long", -0.3), ("had its day", 0.2), ("was a bore", -1.4))


def bar(axes: Axes, x: float, y: float, value: float, width: float, unit: float) -> None:
    """A number as a bar from its zero line: blue up, orange down."""
    color = BLUE if value > 0 else ORANGE
    axes.add_patch(Rectangle((x, y), width, value * unit, fc=color, ec="none", alpha=0.75, zorder=3))


def value_side(axes: Axes) -> None:
    """One response; the head's guess before each token, and what is left of the score."""
    panel(axes, 0.2, 0.2, 6.3, 5.0, "PPO: a value head guesses")
    for place, (token, value) in enumerate(zip(TOKENS, VALUES, strict=True)):
        x = 1.35 + 0.83 * place
        axes.add_patch(Rectangle((x, 3.75), 0.78, 0.5, fc="#ffffff", ec="#b8b4a6", zorder=3))
        write(axes, x + 0.39, 4.0, token, ha="center", size=SMALL)
        write(axes, x + 0.39, 3.25, f"{value:+.1f}", ha="center", size=SMALL)
        bar(axes, x + 0.24, 1.75, SCORE - value, 0.3, 0.45)
        write(axes, x + 0.39, 1.45, f"{SCORE - value:+.1f}", ha="center", size=SMALL)
    for y, word in ((4.0, "tokens"), (3.25, "V before it"), (1.75, "score − V")):
        write(axes, 1.2, y, word, ha="right", size=SMALL, color=MUTED)
    write(axes, 0.45, 0.75, f"one response, score {SCORE:+.1f}; a baseline for every token,", size=SMALL)
    write(axes, 0.45, 0.45, "learnt along with the policy", size=SMALL)


def group_side(axes: Axes) -> None:
    """K responses to one prompt; their mean is the baseline."""
    panel(axes, 6.8, 0.2, 6.0, 5.0, "GRPO, RLOO: the others are the baseline")
    mean = sum(score for _, score in GROUP) / len(GROUP)
    box(axes, 7.0, 2.55, 1.15, 0.6, "The film")
    for place, (text, score) in enumerate(GROUP):
        y = 3.75 - 0.75 * place
        arrow(axes, (8.17, 2.85), (8.72, y + 0.25))
        axes.add_patch(Rectangle((8.75, y), 1.5, 0.5, fc="#ffffff", ec="#b8b4a6", zorder=3))
        write(axes, 9.5, y + 0.25, text, ha="center", size=SMALL)
        write(axes, 10.55, y + 0.25, f"{score:+.1f}", ha="center", size=SMALL)
        axes.add_patch(
            Rectangle(
                (11.45, y + 0.12),
                (score - mean) * 0.27,
                0.26,
                fc=BLUE if score > mean else ORANGE,
                alpha=0.75,
                zorder=3,
            )
        )
        write(axes, 12.35, y + 0.25, f"{score - mean:+.1f}", ha="center", size=SMALL)
    for x, word in ((10.55, "score"), (11.75, "minus their mean")):
        write(axes, x, 4.5, word, ha="center", size=SMALL, color=MUTED)
    write(
        axes,
        7.05,
        0.75,
        f"K responses, mean {mean:+.1f}; one number for all tokens of a response,",
        size=SMALL,
    )
    write(
        axes,
        7.05,
        0.45,
        "nothing to learn; RLOO leaves the response itself out of its mean",
        size=SMALL,
        color=INK,
    )


def draw() -> Figure:
    """Both, side by side."""
    figure, axes = canvas(13.0, 5.4, scale=0.82)
    value_side(axes)
    group_side(axes)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
