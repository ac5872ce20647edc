"""The walk of lesson 05 through a reward model: tokens, hidden states, one number per token, one per text.

In: nothing. Out: ``figs/05_walk.svg``. Run ``python figs/05_walk.py`` after a change; the same code and the
same matplotlib give the same bytes.
"""

from __future__ import annotations

from drawing import BLUE, GREY, MUTED, ORANGE, SMALL, Axes, Figure, arrow, box, canvas, panel, save, write
from matplotlib.patches import Rectangle

ROWS = (("The", "story", "was", "warm", "."), ("The", "story", "was", "dull", "and", "long", "."))
SCORES = ((0.1, 0.3, 0.2, 1.6, 1.9), (0.1, 0.3, 0.2, -1.2, -1.1, -1.8, -2.0))
LONGEST = 7
CELL = 0.62


def draw() -> Figure:
    """Four stages from left to right, each with its shape; two texts, the first one padded."""
    figure, axes = canvas(15.2, 6.1, scale=0.72)
    panel(axes, 0.15, 0.2, 5.15, 5.7, "tokens  [B, T]")
    panel(axes, 5.55, 0.2, 2.45, 5.7, "[B, T, H]")
    panel(axes, 8.25, 0.2, 4.35, 5.7, "[B, T, 1]")
    panel(axes, 12.85, 0.2, 2.2, 5.7, "[B, 1]")

    for row, (words, scores) in enumerate(zip(ROWS, SCORES, strict=True)):
        y = 3.55 - 1.85 * row
        for place in range(LONGEST):
            real, last = place < len(words), place == len(words) - 1
            _cell(axes, 0.45 + 0.67 * place, y, words[place] if real else "pad", real, last)
            number = f"{scores[place]:+.1f}" if real else "?"
            _cell(axes, 8.5 + 0.56 * place, y, number, real, last, width=0.52)
        _stack(axes, 5.95, y)
        box(axes, 13.25, y - 0.06, 1.4, 0.75, f"{scores[-1]:+.1f}")
        arrow(axes, (5.15, y + 0.31), (5.9, y + 0.31))
        arrow(axes, (7.45, y + 0.31), (8.45, y + 0.31))
        arrow(axes, (8.5 + 0.56 * len(words) - 0.3, y + 0.66), (13.2, y + 0.55), bend=-0.16, color=BLUE)

    write(axes, 0.45, 4.75, "right-padded; T = longest text of the batch", size=SMALL, color=MUTED)
    write(axes, 6.77, 4.75, "body of the policy", size=SMALL, color=MUTED, ha="center")
    write(axes, 8.5, 4.75, "Linear(H, 1): a number at every token", size=SMALL, color=MUTED)
    write(axes, 13.95, 4.75, "the score", size=SMALL, color=MUTED, ha="center")
    write(axes, 0.45, 0.95, "blue: the last real token; it alone", size=SMALL, color=BLUE)
    write(axes, 0.45, 0.6, "has read all of prompt and answer", size=SMALL, color=BLUE)
    write(axes, 8.5, 0.95, "what stands on padding is noise: never", size=SMALL, color=ORANGE)
    write(axes, 8.5, 0.6, "read it, never average over it", size=SMALL, color=ORANGE)
    return figure


def _cell(axes: Axes, x: float, y: float, text: str, real: bool, last: bool, width: float = CELL) -> None:
    """One token or one number: white, grey and dashed on padding, framed blue where the score is read."""
    face = "#cfe5f3" if last else "#ffffff" if real else "#e3e3e3"
    edge = BLUE if last else "#b8b4a6" if real else GREY
    line = "-" if real else "--"
    axes.add_patch(
        Rectangle((x, y), width, CELL, fc=face, ec=edge, lw=1.8 if last else 1.0, ls=line, zorder=2)
    )
    write(axes, x + width / 2, y + CELL / 2, text, size=SMALL, color="#1f2933" if real else GREY, ha="center")


def _stack(axes: Axes, x: float, y: float) -> None:
    """A block of hidden states: T columns of H numbers."""
    for place in range(LONGEST):
        for depth in range(3):
            corner = (x + 0.2 * place, y - 0.08 + 0.27 * depth)
            axes.add_patch(Rectangle(corner, 0.17, 0.24, fc="#cfe5f3", ec=BLUE, lw=0.7, zorder=2))


if __name__ == "__main__":
    save(draw, __file__)
