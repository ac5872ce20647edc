"""Lesson 09: who needs what. One column per method, one row per part.

In: nothing. Out: ``figs/09_needs.svg``. Run ``python figs/09_needs.py`` after a change.
"""

from __future__ import annotations

from drawing import INK, MUTED, SMALL, Axes, Figure, box, canvas, legend, panel, save, write

METHODS = ("PPO", "GRPO", "RLOO", "DPO", "rejection\nsampling", "best-of-n")
LEFT, WIDTH, HEIGHT = 2.5, 1.72, 0.86
PARTS = (  # a part, and per method its word (empty: not needed) and its kind
    ("policy", ("learns",) * 5 + ("as it is",), ("trained",) * 5 + ("frozen",)),
    ("value head", ("learns", "", "", "", "", ""), ("trained",) * 6),
    ("reference", ("tax", "tax", "tax", "in the loss", "", ""), ("frozen",) * 6),
    ("reward model", ("scores all",) * 3 + ("ranks once", "picks", "picks"), ("frozen",) * 6),
    ("responses to\none prompt", ("1", "K", "K", "K, one pair", "K, one kept", "n, for ever"), ("data",) * 6),
    (
        "credit for",
        ("each token",) + ("the response",) * 2 + ("a pair", "the best", "nothing"),
        ("data",) * 6,
    ),
)


def row(axes: Axes, y: float, name: str, words: tuple[str, ...], kinds: tuple[str, ...]) -> None:
    """One part: its name on the left, a box below every method that has it, a dot below the others."""
    write(axes, LEFT - 0.3, y + HEIGHT / 2 - 0.08, name, ha="right", weight="bold")
    for place, (word, kind) in enumerate(zip(words, kinds, strict=True)):
        x = LEFT + place * WIDTH
        if word:
            box(axes, x + 0.08, y, WIDTH - 0.16, HEIGHT - 0.16, "", kind=kind)
            write(axes, x + WIDTH / 2, y + HEIGHT / 2 - 0.08, word, ha="center", size=SMALL + 0.5, color=INK)
        else:
            write(axes, x + WIDTH / 2, y + HEIGHT / 2 - 0.08, "–", ha="center", color=MUTED)


def draw() -> Figure:
    """The whole table."""
    height = len(PARTS) * HEIGHT + 1.9
    figure, axes = canvas(LEFT + 6 * WIDTH + 0.3, height, scale=0.86)
    for place in range(0, 6, 2):  # every second column on a ground of its own
        panel(axes, LEFT + place * WIDTH, 0.65, WIDTH, height - 0.75)
    for place, name in enumerate(METHODS):
        write(axes, LEFT + (place + 0.5) * WIDTH, height - 0.6, name, ha="center", size=11, weight="bold")
    for place, part in enumerate(PARTS):
        row(axes, height - 1.95 - place * HEIGHT, *part)
    legend(axes, LEFT + 0.1, 0.22)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
