"""Clipping in lesson 06: the loss of one token over its ratio, and in which of four cases the gradient ends.

In: nothing; the lines are ``rlhf.ppo.losses.policy_loss``. Out: ``figs/06_clip.svg``. Run
``python figs/06_clip.py`` after a change.
"""

from __future__ import annotations

import torch
from drawing import BLUE, INK, MUTED, ORANGE, SMALL, Axes, Figure, arrow, canvas, panel, save, write
from matplotlib.patches import Rectangle

from rlhf.ppo import losses

EPSILON, LOW, HIGH = 0.2, 0.4, 1.6  # clip range; the ratios drawn
WIDTH, HEIGHT, MIDDLE = 5.2, 2.3, 2.35  # of the curve; the height at which the loss of ratio 1 is drawn


def loss(ratio: float, advantage: float) -> float:
    """The loss of a single token."""
    one = torch.ones(1, 1)
    return losses.policy_loss(one * ratio, one * advantage, one, EPSILON)[0].item()


def curve(axes: Axes, left: float, advantage: float) -> None:
    """The loss over the ratio; grey where it is flat, with what an update does in each part."""

    def at(ratio: float, lift: float = 0.0) -> tuple[float, float]:
        x = left + WIDTH * (ratio - LOW) / (HIGH - LOW)
        return x, MIDDLE + (loss(ratio, advantage) - loss(1.0, advantage)) * HEIGHT / (HIGH - LOW) + lift

    flat = (1 + EPSILON, HIGH) if advantage > 0 else (LOW, 1 - EPSILON)
    start, end = at(flat[0])[0], at(flat[1])[0]
    axes.add_patch(Rectangle((start, 1.0), end - start, 2.85, fc="#e3e3e3", ec="none", zorder=1))
    corner = flat[0] if advantage > 0 else flat[1]
    ends = (at(LOW), at(corner), at(HIGH))
    axes.plot(*zip(*ends, strict=True), color=BLUE, lw=2.4, zorder=4)
    beyond = flat[1] if advantage > 0 else flat[0]
    straight = at(corner)[1] + (at(0.9)[1] - at(1.1)[1]) / 0.2 * (corner - beyond)
    axes.plot(
        [at(corner)[0], at(beyond)[0]], [at(corner)[1], straight], color=ORANGE, lw=1.6, ls="--", zorder=3
    )
    axes.plot([left, left + WIDTH], [1.0, 1.0], color=INK, lw=1, zorder=3)
    for ratio, words in ((1 - EPSILON, "1 − ε"), (1.0, "1"), (1 + EPSILON, "1 + ε")):
        axes.plot([at(ratio)[0]] * 2, [0.95, 3.85], color=MUTED, lw=0.8, ls=":", zorder=2)
        write(axes, at(ratio)[0], 0.78, words, size=SMALL, ha="center")
    axes.plot(*at(1.0), "o", color=INK, ms=6, zorder=6)
    step = 0.22 if advantage > 0 else -0.22
    for ratio in (0.5, 0.88) if advantage > 0 else (1.5, 1.12):
        arrow(axes, at(ratio, 0.22), at(ratio + step, 0.22))


def words(axes: Axes, left: float, lines: tuple[tuple[float, str, str], ...]) -> None:
    """What is true of each part of the horizontal axis."""
    for ratio, first, second in lines:
        x = left + WIDTH * (ratio - LOW) / (HIGH - LOW)
        write(axes, x, 4.32, first, size=SMALL, ha="center")
        write(axes, x, 4.05, second, size=SMALL, ha="center", color=MUTED)


def draw() -> Figure:
    """A good token on the left, a bad one on the right."""
    figure, axes = canvas(13.2, 5.5, scale=0.86)
    panel(axes, 0.2, 0.2, 6.3, 5.1, "A > 0: a good token, to be made likelier")
    panel(axes, 6.7, 0.2, 6.3, 5.1, "A < 0: a bad token, to be made rarer")
    curve(axes, 0.9, 1.0)
    curve(axes, 7.4, -1.0)
    words(axes, 0.9, ((0.6, "fell: pulled up", "gradient"), (1.0, "near 1", "gradient")))
    words(axes, 0.9, ((1.4, "rose enough", "clipped: no gradient"),))
    words(axes, 7.4, ((0.6, "fell enough", "clipped: no gradient"), (1.0, "near 1", "gradient")))
    words(axes, 7.4, ((1.4, "rose: pushed down", "gradient"),))
    for left in (0.2, 6.7):
        write(axes, left + 0.4, 2.35, "loss", size=SMALL, ha="center", rotation=90)
        write(axes, left + 3.3, 0.45, "ratio ρ, new probability : old", size=SMALL, ha="center")
    write(axes, 1.05, 1.5, "arrows: where", size=SMALL, color=MUTED)
    write(axes, 1.05, 1.25, "an update leads", size=SMALL, color=MUTED)
    write(axes, 4.25, 1.25, "without clipping", size=SMALL, ha="right", color=ORANGE)
    arrow(axes, (4.3, 1.25), (5.4, 1.42), color=ORANGE)
    write(axes, 9.3, 1.25, "without clipping", size=SMALL, color=ORANGE)
    arrow(axes, (9.25, 1.25), (8.1, 1.42), color=ORANGE)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
