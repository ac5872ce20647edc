"""From a pair to a loss, for lesson 05: one model reads two texts, and only the difference counts.

In: nothing. Out: ``figs/05_loss.svg``. Run ``python figs/05_loss.py`` after a change; the same code and the
same matplotlib give the same bytes.
"""

from __future__ import annotations

from drawing import BLUE, MUTED, SMALL, Figure, arrow, box, canvas, save, write


def draw() -> Figure:
    """Chosen above, rejected below, the same reward model in the middle, the loss on the right."""
    figure, axes = canvas(14.6, 4.1, scale=0.75)
    for y, name, text, score in (
        (2.75, "prompt + chosen", "“The story was warm.”", r"$r_c$"),
        (0.45, "prompt + rejected", "“The story was dull.”", r"$r_r$"),
    ):
        box(axes, 0.3, y, 3.0, 0.95, name, text)
        arrow(axes, (3.3, y + 0.47), (4.3, 2.35 if y > 1 else 1.8))
        box(axes, 7.75, y + 0.1, 1.1, 0.75, score)
        arrow(axes, (6.75, 2.35 if y > 1 else 1.8), (7.75, y + 0.47))
        arrow(axes, (8.85, y + 0.47), (9.75, 2.25 if y > 1 else 1.9))
    box(axes, 4.3, 1.5, 2.45, 1.15, "reward model", "the same weights twice", "trained")
    box(axes, 9.75, 1.6, 1.5, 0.95, r"$d = r_c - r_r$", "margin")
    box(axes, 12.0, 1.6, 2.3, 0.95, r"$-\log\,\sigma(d)$", "loss")
    arrow(axes, (11.25, 2.07), (12.0, 2.07))
    axes.plot([13.15, 13.15, 5.5, 5.5], [1.6, 0.22, 0.22, 1.3], color=BLUE, lw=1.5, zorder=1)
    arrow(axes, (5.5, 1.2), (5.5, 1.48), color=BLUE)
    write(axes, 9.9, 0.42, "gradient: raise the one, lower the other", size=SMALL, color=BLUE)
    write(axes, 9.75, 3.4, r"$\sigma(d)$ = probability that “chosen” is preferred", size=SMALL, color=MUTED)
    write(axes, 9.75, 3.02, "adding one number to both scores changes nothing", size=SMALL, color=MUTED)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
