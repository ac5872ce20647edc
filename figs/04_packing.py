"""Padding and packing, lesson 04: four texts in four rows, and the same four in two.

In: nothing. Out: ``figs/04_packing.svg``. Run ``python figs/04_packing.py`` after a change; the same code and
the same matplotlib give the same bytes.
"""

from __future__ import annotations

from drawing import INK, MUTED, ORANGE, SMALL, Axes, Figure, canvas, panel, save, write
from matplotlib.patches import Rectangle

TEXTS = {"A": (5, "#cfe5f3"), "B": (3, "#f6d7c3"), "C": (2, "#cfeadf"), "D": (1, "#ecdcea")}
OFF, SIZE, LENGTH = "#e3e3e3", 0.62, 6


def cell(axes: Axes, x: float, y: float, word: str, face: str, color: str = INK, ring: bool = False) -> None:
    """One position; a ring marks the first token of a text, whose label does not count."""
    edge, width = (ORANGE, 1.8) if ring else ("#b8b4a6", 1.0)
    axes.add_patch(Rectangle((x, y), SIZE, SIZE, fc=face, ec=edge, lw=width, zorder=3 if ring else 2))
    write(axes, x + SIZE / 2, y + SIZE / 2, word, size=SMALL, color=color, ha="center")


def padded(axes: Axes, x: float, y: float) -> None:
    """One text per row, the rest is padding."""
    for row, (name, (length, face)) in enumerate(TEXTS.items()):
        for place in range(LENGTH):
            live = place < length
            word = f"{name}{place}" if live else "pad"
            cell(axes, x + place * SIZE, y - row * SIZE, word, face if live else OFF, INK if live else MUTED)


def packed(axes: Axes, x: float, y: float, rows: list[list[str]]) -> None:
    """Several texts per row; below each row the position numbers, which start from 0 again."""
    for row, names in enumerate(rows):
        place, top = 0, y - row * 1.3
        for name in names:
            length, face = TEXTS[name]
            for number in range(length):
                cell(axes, x + place * SIZE, top, f"{name}{number}", face)
                write(axes, x + (place + 0.5) * SIZE, top - 0.2, str(number), SMALL, MUTED, ha="center")
                place += 1
        place = 0
        for name in names:  # the rings last, so that no neighbour covers them
            cell(axes, x + place * SIZE, top, f"{name}0", TEXTS[name][1], ring=True)
            place += TEXTS[name][0]
    write(axes, x, y - 1.3 * len(rows) + 0.82, "position_ids start from 0 with every text;", SMALL, MUTED)
    write(axes, x, y - 1.3 * len(rows) + 0.55, "labels of ringed tokens do not count", SMALL, ORANGE)


def mask(axes: Axes, x: float, y: float, names: list[str]) -> None:
    """Who sees whom in one packed row: causal, and inside one's own text only."""
    owners = [(name, number) for name in names for number in range(TEXTS[name][0])]
    step = 0.42
    for row, (mine, _) in enumerate(owners):
        for column, (its, _) in enumerate(owners):
            sees = mine == its and column <= row
            face = TEXTS[mine][1] if sees else "#ffffff"
            axes.add_patch(
                Rectangle(
                    (x + column * step, y - row * step), step, step, fc=face, ec="#b8b4a6", lw=0.8, zorder=2
                )
            )
    for place, (name, number) in enumerate(owners):
        write(axes, x + (place + 0.5) * step, y + step + 0.16, f"{name}{number}", 7, MUTED, ha="center")
        write(axes, x - 0.08, y - (place - 0.5) * step, f"{name}{number}", 7, MUTED, ha="right")


def draw() -> Figure:
    """Padding, packing, and the attention mask that packing needs."""
    figure, axes = canvas(13.2, 4.3, scale=0.83)
    panel(axes, 0.2, 0.2, 4.2, 3.9, "padded:  4 × 6")
    panel(axes, 4.6, 0.2, 4.4, 3.9, "packed (bfd):  2 × 6")
    panel(axes, 9.2, 0.2, 3.8, 3.9, "who sees whom, row 2")
    padded(axes, 0.44, 2.75)
    write(axes, 0.44, 0.55, "13 of 24 positions are padding", SMALL, MUTED)
    packed(axes, 4.9, 2.7, [["A", "D"], ["B", "C"]])
    mask(axes, 10.2, 2.55, ["B", "C"])
    return figure


if __name__ == "__main__":
    save(draw, __file__)
