"""Lesson 11: what each of four GPUs holds, data-parallel, under ZeRO-1, 2, 3 and FSDP.

In: nothing. Out: ``figs/11_shares.svg``. Run ``python figs/11_shares.py`` after a change.
"""

from __future__ import annotations

from drawing import BLUE, MUTED, ORANGE, SMALL, Axes, Figure, canvas, panel, save, write
from matplotlib.patches import Rectangle

GPUS = 4
PARTS = (("weights", 2, "#cfe5f3"), ("gradients", 2, "#f6dcc8"), ("optimiser", 12, "#dfe8d2"))
COLUMNS = (  # title, which of the three parts are shared out, what is sent in a step
    ("data-parallel", (), "gradients, all-reduced"),
    ("ZeRO-1", ("optimiser",), "gradients, new weights"),
    ("ZeRO-2", ("optimiser", "gradients"), "gradients, new weights"),
    ("ZeRO-3 · FSDP", ("optimiser", "gradients", "weights"), "and weights, at every block"),
)


def gpu(axes: Axes, x: float, y: float, place: int, shared: tuple[str, ...]) -> None:
    """One GPU: three bars of 16 bytes together, of which a quarter is filled where they are shared out."""
    bottom = y
    for name, size, face in PARTS:
        height = size * 0.21
        axes.add_patch(Rectangle((x, bottom), 0.48, height, fc="none", ec="#b8b4a6", lw=0.8, zorder=2))
        filled = height / GPUS if name in shared else height
        start = bottom + (place * filled if name in shared else 0)
        axes.add_patch(Rectangle((x, start), 0.48, filled, fc=face, ec=MUTED, lw=0.9, zorder=3))
        bottom += height


def draw() -> Figure:
    """Four panels, four GPUs in each; on the left what the bars are, below what one GPU holds."""
    figure, axes = canvas(12.4, 5.4, scale=0.8)
    bottom = 1.35
    for name, size, _ in PARTS:
        middle = bottom + size * 0.21 / 2
        write(axes, 1.5, middle, name, ha="right")
        if name == "optimiser":
            for line, text in enumerate(("float32 copy,", "two moments")):
                write(axes, 1.5, middle - 0.3 - 0.25 * line, text, ha="right", size=SMALL, color=MUTED)
        bottom += size * 0.21
    for column, (title, shared, sent) in enumerate(COLUMNS):
        x = 1.75 + 2.66 * column
        panel(axes, x, 0.15, 2.5, 5.1, title)
        for place in range(GPUS):
            gpu(axes, x + 0.16 + 0.56 * place, 1.35, place, shared)
            write(axes, x + 0.4 + 0.56 * place, 1.15, f"{place}", ha="center", size=SMALL, color=MUTED)
        held = sum(size / (GPUS if name in shared else 1) for name, size, _ in PARTS)
        write(axes, x + 1.25, 0.8, f"{held:g} bytes each", ha="center", weight="bold", color=BLUE)
        write(axes, x + 1.25, 0.45, sent, ha="center", size=SMALL, color=ORANGE)
    write(axes, 1.5, 1.15, "GPU", ha="right", size=SMALL, color=MUTED)
    write(axes, 1.5, 0.8, "per parameter", ha="right", size=SMALL, color=MUTED)
    write(axes, 1.5, 0.45, "sent in a step", ha="right", size=SMALL, color=MUTED)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
