"""From text to a batch, lesson 04: EOS, truncation, padding, labels, and the shift by one.

In: nothing. Out: ``figs/04_batch.svg``. Run ``python figs/04_batch.py`` after a change; the same code and the
same matplotlib give the same bytes.
"""

from __future__ import annotations

from drawing import INK, MUTED, ORANGE, SMALL, Axes, Figure, arrow, canvas, panel, save, write
from matplotlib.patches import Rectangle

TEXT, END, OFF = "#cfe5f3", "#9bd8c4", "#e3e3e3"
WIDTH, HEIGHT, STEP = 0.98, 0.5, 0.66
ROWS = (
    ("“A warm film”", ["A", "warm", "film", "EOS"]),
    ("“I liked it.”", ["I", "liked", "it", ".", "EOS"]),
    (
        "“This is the best film of the year.”",
        ["This", "is", "the", "best", "film", "of", "the", "year", ". EOS"],
    ),
)
LENGTH = 7


def cell(axes: Axes, x: float, y: float, word: str, face: str, color: str = INK, line: str = "-") -> None:
    """One position of a row."""
    axes.add_patch(Rectangle((x, y), WIDTH, HEIGHT, fc=face, ec="#b8b4a6", lw=1, ls=line, zorder=2))
    write(axes, x + WIDTH / 2, y + HEIGHT / 2, word, size=SMALL, color=color, ha="center")


def face_of(word: str) -> str:
    return END if word.endswith("EOS") else TEXT


def batch(axes: Axes, x: float, y: float) -> None:
    """``input_ids``: what is behind ``max_length`` is drawn dashed, padding is grey."""
    for row, (_, words) in enumerate(ROWS):
        below = y - row * STEP
        for place in range(max(LENGTH, len(words))):
            left = x + place * WIDTH + (0.1 if place >= LENGTH else 0)
            if place >= LENGTH:
                cell(axes, left, below, words[place], "none", MUTED, "--")
            elif place < len(words):
                cell(axes, left, below, words[place], face_of(words[place]))
            else:
                cell(axes, left, below, "pad", OFF, MUTED)
    border = x + LENGTH * WIDTH + 0.05
    axes.plot([border, border], [y - 2 * STEP - 0.12, y + HEIGHT + 0.1], color=ORANGE, lw=1.6, zorder=4)
    write(axes, border + 0.08, y + 0.3, "max_length:", size=SMALL, color=ORANGE)
    write(axes, border + 0.08, y + 0.06, "cut here, EOS too", size=SMALL, color=ORANGE)


def labels(axes: Axes, x: float, y: float) -> None:
    """``labels``: the same, with −100 on padding, found by its place."""
    for row, (_, words) in enumerate(ROWS):
        for place in range(LENGTH):
            known = place < len(words)
            word, face = (words[place], face_of(words[place])) if known else ("−100", OFF)
            cell(axes, x + place * WIDTH, y - row * STEP, word, face, INK if known else MUTED)
    write(axes, x + LENGTH * WIDTH + 0.15, y + 0.3, "blue and green count,", size=SMALL)
    write(axes, x + LENGTH * WIDTH + 0.15, y + 0.06, "grey is ignored", size=SMALL)


def shift(axes: Axes, x: float, y: float) -> None:
    """Position t predicts label t+1; the first label is not used, the last position predicts nothing."""
    words = ROWS[0][1]
    for place, word in enumerate(words):
        left = x + place * WIDTH
        cell(axes, left, y, word, face_of(word))
        cell(axes, left, y - 1.35, word, OFF if place == 0 else face_of(word), MUTED if place == 0 else INK)
        if place:
            arrow(axes, (left - WIDTH / 2, y - 0.02), (left + WIDTH / 2, y - 1.35 + HEIGHT + 0.02))
    write(axes, x, y + HEIGHT + 0.16, "reads", size=SMALL, color=MUTED)
    write(axes, x, y - 1.52, "predicts (the first label is never used)", size=SMALL, color=MUTED)


def draw() -> Figure:
    """Texts and shift on the left, the two matrices on the right."""
    figure, axes = canvas(14.2, 6.5, scale=0.8)
    panel(axes, 0.2, 3.5, 4.3, 2.85, "texts")
    panel(axes, 4.7, 3.5, 9.3, 2.85, "input_ids  (B, T):  append EOS, tokenise, cut, pad")
    panel(axes, 0.2, 0.2, 4.3, 3.1, "shift by one")
    panel(axes, 4.7, 0.2, 9.3, 3.1, "labels  (B, T):  the same numbers, −100 on padding")
    for row, (text, _) in enumerate(ROWS):
        write(axes, 0.4, 5.4 - row * STEP, text)
        arrow(axes, (4.2, 5.4 - row * STEP), (4.92, 5.4 - row * STEP))
    batch(axes, 4.95, 5.15)
    arrow(axes, (8.4, 3.72), (8.4, 3.28))
    labels(axes, 4.95, 2.05)
    shift(axes, 0.4, 2.0)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
