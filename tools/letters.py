"""How large the smallest letters of a picture are, seen from its width.

In: an SVG of ``figs/drawing.py`` or matplotlib, or a PNG as a notebook keeps it. Out: height of the letters
(their font size) divided by the width of the picture,
which ``tools.measuring`` multiplies by the width on a slide.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache

from rlhf import profiles

OUTLINED = re.compile(rb"scale\(([\d.]+) -\1\)")  # matplotlib draws letters of 100 units and scales them
NAMED = re.compile(rb"font(?:-size)?[:=]\s*\"?[^;\"]*?([\d.]+)px")
VIEW = re.compile(rb'viewBox="[-\d.]+ [-\d.]+ ([\d.]+)')


def smallest(kind: str, data: bytes) -> float | None:
    """Font size ÷ width; None where the picture has no letters, or does not say how large it is.

    A PNG keeps its dots per inch; its letters are taken to be those of the course's style of plots.
    """
    return _of_svg(data) if kind == "image/svg+xml" else _of_png(data)


def _of_svg(data: bytes) -> float | None:
    view = VIEW.search(data)
    sizes = [100 * float(size) for size in OUTLINED.findall(data)]
    sizes += [float(size) for size in NAMED.findall(data)]
    return min(sizes) / float(view[1]) if view and sizes else None


def _of_png(data: bytes) -> float | None:
    at = data.find(b"pHYs", 0, 200)
    if at < 0 or data[at + 12] != 1:
        return None
    (width,) = struct.unpack(">I", data[16:20])
    (dots,) = struct.unpack(">I", data[at + 4 : at + 8])  # per metre
    return _plot_points() / 72 * dots * 0.0254 / width


@lru_cache(maxsize=1)
def _plot_points() -> float:
    """Font size of labels and ticks, in points."""
    style = (profiles.CHECKOUT / "rlhf" / "plots.mplstyle").read_text(encoding="utf-8")
    return float(re.search(r"^font\.size: *([\d.]+)", style, re.M)[1])
