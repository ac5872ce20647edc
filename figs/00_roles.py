"""Lesson 00: who holds which weights, and what each role says about a text.

In: nothing. Out: ``figs/00_roles.svg``. Run ``python figs/00_roles.py`` after a change.
"""

from __future__ import annotations

from drawing import (
    BLUE,
    GREY,
    MUTED,
    NORMAL,
    SMALL,
    Axes,
    Figure,
    arrow,
    box,
    canvas,
    legend,
    panel,
    rectangle,
    save,
    write,
)


def stack(axes: Axes, x: float, y: float, parts: list[str], kind: str) -> None:
    """The weights that one role holds, bottom to top: each part in a box of its own."""
    for place, part in enumerate(parts):
        rectangle(axes, x, y + 0.62 * place, 2.55, 0.5, kind)
        write(axes, x + 1.275, y + 0.62 * place + 0.25, part, size=SMALL + 0.5, ha="center")


def role(axes: Axes, y: float, name: str, note: str, color: str) -> None:
    """The name of a role, at the left of its weights."""
    write(axes, 4.05, y + 0.17, name, size=NORMAL + 1, weight="bold", color=color)
    write(axes, 4.05, y - 0.17, note, size=SMALL, color=MUTED)


def draw() -> Figure:
    """Left the text, in the middle three models with their weights, on the right what each one says."""
    figure, axes = canvas(13.4, 7.1, scale=0.82)
    panel(axes, 0.25, 0.85, 2.9, 6.0, "Text")
    panel(axes, 3.75, 0.85, 5.6, 6.0, "Who holds which weights")
    panel(axes, 9.95, 0.85, 3.2, 6.0, "What it says")

    box(axes, 0.5, 4.6, 2.4, 0.9, "query", "“This movie”")
    box(axes, 0.5, 2.2, 2.4, 0.9, "response", "“was a joy to watch”")
    write(axes, 1.7, 3.85, "+", size=16, ha="center")

    stack(axes, 6.55, 4.35, ["transformer blocks", "LM head   H → vocabulary"], "trained")
    stack(axes, 6.55, 5.59, ["value head   H → 1"], "trained")
    role(axes, 4.95, "policy", "learns; writes the response", BLUE)
    role(axes, 5.86, "value head", "learns; used in training only", BLUE)
    stack(axes, 6.55, 2.75, ["transformer blocks", "LM head   H → vocabulary"], "frozen")
    role(axes, 3.3, "reference", "a copy of the policy at the start", GREY)
    stack(axes, 6.55, 1.15, ["another transformer", "score head   H → 1"], "frozen")
    role(axes, 1.7, "reward model", "reads the text, never writes", GREY)

    for y in (4.95, 3.3, 1.7):
        arrow(axes, (3.17, 3.85), (3.97, y))
    for y, title, note in (
        (5.84, r"$V$", "per token"),
        (4.97, r"$\log\,\pi$", "per token"),
        (3.37, r"$\log\,\pi_{ref}$", "per token"),
        (1.77, "score", "one per text"),
    ):
        box(axes, 10.55, y - 0.36, 2.2, 0.72, title, note)
        arrow(axes, (9.12, y), (10.53, y))
    axes.plot([12.9, 12.98, 12.98, 12.9], [4.97, 4.97, 3.37, 3.37], color=MUTED, lw=1.2)
    write(axes, 11.65, 4.17, "their difference: KL", size=SMALL, color=MUTED, ha="center")
    legend(axes, 4.4, 0.3)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
