"""Tokens and slots in lesson 06: slot t predicts token t+1, so the last query token is the first live slot.

In: nothing. Out: ``figs/06_slots.svg``. Run ``python figs/06_slots.py`` after a change; the same code and the
same matplotlib give the same bytes.
"""

from __future__ import annotations

from drawing import BLUE, GREY, MUTED, ORANGE, SMALL, Axes, Figure, arrow, canvas, panel, save, write
from matplotlib.patches import Rectangle

QUERY, RESPONSE = ("This", "movie", "was"), ("a", "delight", "to", "watch")
WIDTH = 1.15


def cell(axes: Axes, x: float, y: float, text: str, kind: str) -> None:
    """One token or one slot."""
    face = {"query": "#ffffff", "response": "#cfe5f3", "padding": "#e3e3e3", "dead": "#f6f5f0"}[kind]
    edge = BLUE if kind == "response" else GREY
    line = "--" if kind in ("padding", "dead") else "-"
    axes.add_patch(Rectangle((x, y), WIDTH - 0.1, 0.55, fc=face, ec=edge, ls=line, lw=1.2, zorder=2))
    colour = MUTED if kind in ("padding", "dead") else "#1f2933"
    write(axes, x + (WIDTH - 0.1) / 2, y + 0.28, text, size=SMALL, ha="center", color=colour)


def slots(axes: Axes, left: float, top: float) -> None:
    """The tokens of one sequence, and below them the slots that predict them."""
    tokens = [(t, "query") for t in QUERY] + [(t, "response") for t in RESPONSE] + [("pad", "padding")] * 2
    start = len(QUERY) - 1
    for t, (token, kind) in enumerate(tokens):
        x = left + WIDTH * t
        cell(axes, x, top, token, kind)
        write(axes, x + 0.52, top + 0.78, str(t), size=SMALL, color=MUTED, ha="center")
        if t < len(tokens) - 1:
            live = start <= t < start + len(RESPONSE)
            cell(axes, x, top - 1.45, f"slot {t}", "response" if live else "dead")
            colour = BLUE if live else "#b9b9b9"
            arrow(axes, (x + 0.6, top - 0.9), (x + WIDTH + 0.4, top - 0.02), color=colour)
    write(axes, left - 0.15, top + 0.28, "tokens (T = 9)", size=SMALL, ha="right")
    write(axes, left - 0.15, top - 1.17, "slots (T - 1 = 8)", size=SMALL, ha="right")
    first, last = left + WIDTH * start, left + WIDTH * (start + len(RESPONSE)) - 0.1
    axes.plot([first, first, last, last], [top - 1.6, top - 1.72, top - 1.72, top - 1.6], color=BLUE, lw=1.3)
    write(
        axes,
        (first + last) / 2,
        top - 1.95,
        "mask = 1: start = len(query) - 1, one slot per response token",
        size=SMALL,
        color=BLUE,
        ha="center",
    )
    x = left + WIDTH * len(QUERY)
    write(axes, x - 1.2, top - 2.35, "start = len(query) would lose the first word", size=SMALL, color=ORANGE)


def padded(axes: Axes, x: float, y: float, rows: tuple, side: str) -> None:
    """A little batch, padded on one side."""
    for line, row in enumerate(rows):
        for column, kind in enumerate(row):
            text = {"q": "query", "r": "resp.", "p": "pad"}[kind]
            name = {"q": "query", "r": "response", "p": "padding"}[kind]
            cell(axes, x + WIDTH * column, y - 0.65 * line, text, name)
    if side == "left":
        end = x + WIDTH * len(rows[0])
        arrow(axes, (end + 0.02, y + 0.28), (end + 0.75, y + 0.28), color=BLUE)
        arrow(axes, (end + 0.02, y - 0.37), (end + 0.75, y - 0.37), color=BLUE)
        write(axes, end + 0.05, y + 0.68, "next token", size=SMALL, color=BLUE)


def draw() -> Figure:
    """Above, one sequence with its slots; below, the two paddings of a PPO step."""
    figure, axes = canvas(13.4, 7.1, scale=0.83)
    panel(axes, 0.2, 2.75, 13.0, 4.15, "A sequence in training: slot t predicts token t + 1")
    slots(axes, 2.35, 5.35)
    panel(axes, 0.2, 0.2, 5.75, 2.35, "Sampling: padded left")
    padded(axes, 0.5, 1.35, (("p", "p", "q"), ("q", "q", "q")), "left")
    panel(axes, 6.15, 0.2, 7.05, 2.35, "Training: padded right")
    padded(axes, 6.45, 1.35, (("q", "r", "r", "p", "p"), ("q", "q", "q", "r", "r")), "right")
    return figure


if __name__ == "__main__":
    save(draw, __file__)
