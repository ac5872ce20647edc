"""Left padding, its mask and its positions, and the two ways to get them wrong (lesson 02).

In: nothing; masks and positions are computed by ``rlhf.blocks``. Out: ``figs/02_padding.svg``. Run
``python figs/02_padding.py`` after a change.
"""

from __future__ import annotations

import torch
from drawing import BLUE, GREY, INK, MUTED, ORANGE, SMALL, Axes, Figure, canvas, panel, save, write
from matplotlib.patches import Rectangle

from rlhf import blocks

ROWS = (("This", "movie", "was"), ("I", "have", "never", "seen", "such"))
WIDTH = max(map(len, ROWS))
W, H = 0.86, 0.5


def cells(axes: Axes, x: float, y: float, words: list[str], real: list[int], wrong: list[bool]) -> None:
    """One row of a batch; padding is grey, wrong entries are orange."""
    for column, (word, live, bad) in enumerate(zip(words, real, wrong, strict=True)):
        face = "white" if live else "#e3e3e3"
        edge = ORANGE if bad else (BLUE if live else GREY)
        place = (x + column * W, y)
        axes.add_patch(Rectangle(place, W - 0.06, H, fc=face, ec=edge, lw=1.6 if bad else 1.1, zorder=2))
        tone = ORANGE if bad else (INK if live else MUTED)
        write(axes, place[0] + (W - 0.06) / 2, y + H / 2, word, size=SMALL, ha="center", color=tone)


def grid(axes: Axes, x: float, y: float, allowed: torch.Tensor, real: list[int], wrong: bool) -> None:
    """Who looks (row) at whom (column): blue squares."""
    size = 0.34
    for row in range(WIDTH):
        for column in range(WIDTH):
            live = bool(allowed[row, column])
            bad = wrong and live and real[row] and not real[column]
            face = ORANGE if bad else ("#8fc1e0" if live else "white")
            place = (x + column * size, y - (row + 1) * size)
            axes.add_patch(Rectangle(place, size, size, fc=face, ec="#b8b4a6", lw=0.7, zorder=2))


def draw() -> Figure:
    """Right on the left; wrong mask in the middle, wrong positions on the right."""
    figure, axes = canvas(15.0, 5.5, scale=0.77)
    short = ROWS[0]
    real = [0] * (WIDTH - len(short)) + [1] * len(short)
    mask = torch.tensor([real, [1] * WIDTH])
    words = ["pad"] * (WIDTH - len(short)) + list(short)
    right = [str(int(p)) for p in blocks.position_ids(mask)[0]]
    right[: WIDTH - len(short)] = ["–"] * (WIDTH - len(short))
    counted = [str(p) for p in range(WIDTH)]
    ones = ["1"] * WIDTH
    good, bits = [False] * WIDTH, [str(b) for b in real]
    columns = (
        (0.2, "as it should be", bits, good, right, good, blocks.visible(mask)[0, 0], False),
        (5.1, "mask forgotten", ones, [not r for r in real], right, good, blocks.causal_mask(WIDTH), True),
        (10.0, "positions forgotten", bits, good, counted, [bool(r) for r in real], None, False),
    )
    for x, title, masks, bad_mask, places, bad_place, allowed, wrong in columns:
        panel(axes, x, 0.15, 4.75, 5.2, title)
        for y, label, row, bad in (
            (4.05, "tokens", words, good),
            (3.3, "mask", masks, bad_mask),
            (2.55, "positions", places, bad_place),
        ):
            write(axes, x + 0.15, y + H + 0.1, label, size=SMALL, color=MUTED)
            cells(axes, x + 0.2, y, row, real, bad)
        seen = blocks.visible(mask)[0, 0] if allowed is None else allowed
        grid(axes, x + 0.25, 2.25, seen, real, wrong)
        write(axes, x + 2.15, 1.95, "row looks at column", size=SMALL, color=MUTED)
    write(axes, 2.35, 1.35, "no word reads padding", size=SMALL)
    write(axes, 7.25, 1.35, "orange: words read padding", size=SMALL, color=ORANGE)
    write(axes, 12.15, 1.5, "“This” is told that it is", size=SMALL, color=ORANGE)
    write(axes, 12.15, 1.2, "the third token of the text", size=SMALL, color=ORANGE)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
