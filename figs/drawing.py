"""The pencil box of the course's drawings: boxes, arrows, panels, one palette, one way of saving.

In: positions and words. Out: an SVG beside the script. Blue learns, grey and dashed stays frozen, white is
data; every drawing brings its own light panel, so that it reads the same on light and on dark pages. Words
are English and drawn as outlines: no font is needed to look at them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, PAPER, PANEL, MUTED = "#1f2933", "#fbfaf6", "#f0eee6", "#56626d"
BLUE, GREY, ORANGE = "#0072B2", "#7a7a7a", "#D55E00"
# what is thin needs a darker shade of the same colour: contrast 4.5 on every ground above and below
WORDS = {BLUE: "#00639c", GREY: "#616161", ORANGE: "#a34700"}
FACES = {"trained": "#cfe5f3", "frozen": "#e3e3e3", "data": "#ffffff"}
EDGES = {"trained": BLUE, "frozen": GREY, "data": "#b8b4a6"}
SMALL, NORMAL, LARGE = 8.5, 10, 12
HYPHEN = re.compile(r"(?<![\w.])-(?=\d)")  # before a number it is a minus


def canvas(width: float, height: float, scale: float = 0.9) -> tuple[Figure, Axes]:
    """An empty sheet; ``width`` and ``height`` are in the units that boxes are placed in."""
    figure = plt.figure(figsize=(width * scale, height * scale), facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return figure, axes


def rectangle(axes: Axes, x: float, y: float, w: float, h: float, kind: str) -> None:
    """The frame of a role (``trained``, ``frozen``) or of a piece of data (``data``)."""
    style = "square,pad=0" if kind == "data" else "round,pad=0,rounding_size=0.12"
    line = "--" if kind == "frozen" else "-"
    axes.add_patch(
        FancyBboxPatch(
            (x, y), w, h, boxstyle=style, fc=FACES[kind], ec=EDGES[kind], lw=1.4, ls=line, zorder=2
        )
    )


def box(
    axes: Axes, x: float, y: float, w: float, h: float, title: str, note: str = "", kind: str = "data"
) -> None:
    """A rectangle with a name and, below it, a short line."""
    rectangle(axes, x, y, w, h, kind)
    weight = "normal" if kind == "data" else "bold"
    write(axes, x + w / 2, y + h * (0.67 if note else 0.5), title, ha="center", weight=weight)
    if note:
        write(axes, x + w / 2, y + h * 0.31, note, ha="center", size=SMALL)


def write(axes: Axes, x: float, y: float, text: str, size: float = NORMAL, color: str = INK, **more) -> None:
    """Words, vertically centred on ``y``; a colour of the palette is taken in its darker shade."""
    text = HYPHEN.sub("−", text)
    axes.text(x, y, text, va="center", fontsize=size, color=WORDS.get(color, color), zorder=5, **more)


def arrow(axes: Axes, start: tuple, end: tuple, bend: float = 0.0, color: str = INK, line: str = "-") -> None:
    """From one place to another; ``bend`` curves it."""
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=12,
            lw=1.3,
            ls=line,
            color=color,
            connectionstyle=f"arc3,rad={bend}",
            shrinkA=1,
            shrinkB=1,
            zorder=4,
        )
    )


def panel(axes: Axes, x: float, y: float, w: float, h: float, title: str = "") -> None:
    """A background that holds together what belongs together."""
    style = "round,pad=0,rounding_size=0.15"
    axes.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=style, fc=PANEL, ec="none", zorder=0))
    write(axes, x + 0.18, y + h - 0.3, title, size=LARGE, weight="bold")


def legend(axes: Axes, x: float, y: float) -> None:
    """What the colours mean, in one row."""
    for place, (kind, word) in enumerate((("trained", "learns"), ("frozen", "frozen"), ("data", "data"))):
        left = x + 1.7 * place
        rectangle(axes, left, y, 0.45, 0.25, kind)
        write(axes, left + 0.6, y + 0.125, word, size=SMALL)


def save(draw: Callable[[], Figure], script: str) -> Path:
    """Write the drawing beside its script as SVG, without date or random ids: same code, same bytes."""
    out = Path(script).with_suffix(".svg")
    with matplotlib.rc_context(
        {"svg.fonttype": "path", "svg.hashsalt": out.stem, "font.family": "DejaVu Sans"}
    ):
        draw().savefig(out, facecolor=PAPER, metadata={"Date": None, "Creator": None})
    return out
