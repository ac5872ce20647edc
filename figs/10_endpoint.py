"""Lesson 10: the way of a question to a chat model and back, and where it may end early.

In: nothing. Out: ``figs/10_endpoint.svg``. Run ``python figs/10_endpoint.py`` after a change.
"""

from __future__ import annotations

from drawing import (
    BLUE,
    MUTED,
    ORANGE,
    SMALL,
    Figure,
    arrow,
    box,
    canvas,
    panel,
    save,
    write,
)

STEPS = (
    (0.45, "question", "in both orders"),
    (3.0, "cache", "answered before?"),
    (5.55, "cap", "is there money left?"),
)


def draw() -> Figure:
    """Question, cache, cap, client, endpoint in a row; the answer comes back below and is read."""
    figure, axes = canvas(12.4, 4.7, scale=0.887)
    panel(axes, 0.2, 0.2, 9.75, 4.3, "EndpointJudge")
    panel(axes, 10.15, 0.2, 2.05, 4.3, "endpoint")
    for x, title, note in STEPS:
        box(axes, x, 2.75, 1.95, 0.9, title, note)
        arrow(axes, (x + 1.97, 3.2), (x + 2.53, 3.2))
    box(axes, 8.1, 2.75, 1.6, 0.9, "client", "waits, retries")
    arrow(axes, (9.72, 3.35), (10.38, 3.35))
    box(axes, 10.4, 1.1, 1.55, 2.55, "chat model", "local or hosted", "frozen")
    arrow(axes, (10.38, 3.02), (9.72, 3.02), color=ORANGE)
    write(axes, 9.7, 2.55, "429, timeout", ha="right", size=SMALL, color=ORANGE)
    arrow(axes, (10.38, 1.45), (7.05, 1.45))
    write(axes, 8.7, 1.22, "a text", ha="center", size=SMALL, color=MUTED)
    box(axes, 5.0, 1.0, 2.0, 0.9, "read", "one [[verdict]]")
    arrow(axes, (4.98, 1.45), (4.2, 1.45), color=BLUE)
    write(axes, 4.05, 1.62, "A, B, tie", ha="right", weight="bold", color=BLUE)
    write(axes, 4.05, 1.26, "malformed: counted", ha="right", size=SMALL, color=ORANGE)
    arrow(axes, (9.3, 1.45), (4.3, 2.72), color=MUTED, line="--")
    write(axes, 5.75, 2.58, "kept", ha="center", size=SMALL, color=MUTED)
    write(
        axes,
        5.1,
        0.5,
        "cached answers are free · asked, retried and failed are counted · the cap holds before "
        "the question is put",
        ha="center",
        size=SMALL,
        color=MUTED,
    )
    return figure


if __name__ == "__main__":
    save(draw, __file__)
