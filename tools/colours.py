"""Can everybody tell the colours apart and read the words? Measures, and where pictures fail them.

In: colours, a matplotlib figure, or the source of a lesson. Out: distances, contrasts, and problems, one line
each. Colour blindness: Machado, Oliveira and Fernandes (2009), "A Physiologically-based Model for Simulation
of Color Vision Deficiency", matrices of severity 1.0, on linear RGB. Distance: CIEDE2000. Contrast: WCAG.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import matplotlib.style
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from rlhf import pictures

APART = 8.0  # CIEDE2000 between two colours that meet; about 2 is just noticeable side by side
READABLE = 4.5  # contrast of text, WCAG 2.2, 1.4.3 (AA)
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])  # D65


# ------------------------------------------------------------------------------------------------- measures


def linear(colour: object) -> np.ndarray:
    """Linear RGB, ``(3,)``, of anything that matplotlib takes for a colour; see-through parts are ignored."""
    rgb = np.array(to_rgba(colour)[:3])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(colour: object, vision: str = "normal") -> np.ndarray:
    """CIELAB (D65), ``(3,)``, of a colour as ``vision`` sees it."""
    xyz = TO_XYZ @ np.clip(VISIONS[vision] @ linear(colour), 0, 1) / WHITE
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def ciede2000(one: Sequence[float], other: Sequence[float]) -> float:
    """Distance of two CIELAB colours: Sharma, Wu and Dalal (2005), whose table of examples tests it."""
    (l1, a1, b1), (l2, a2, b2) = one, other
    chroma = (math.hypot(a1, b1) + math.hypot(a2, b2)) / 2
    g = 0.5 * (1 - math.sqrt(chroma**7 / (chroma**7 + 25**7)))
    c1, c2 = math.hypot((1 + g) * a1, b1), math.hypot((1 + g) * a2, b2)
    h1, h2 = (math.degrees(math.atan2(b, (1 + g) * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = 0.0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    if c1 * c2 and abs(h2 - h1) == 180:
        turn = h2 - h1
    dl, dc, dh = l2 - l1, c2 - c1, 2 * math.sqrt(c1 * c2) * math.sin(math.radians(turn / 2))
    ml, mc = (l1 + l2) / 2, (c1 + c2) / 2
    mh = h1 + h2 if c1 * c2 == 0 else (h1 + turn / 2) % 360
    t = sum(
        weight * math.cos(math.radians(k * mh + shift))
        for weight, k, shift in ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63))
    )
    sl = 1 + 0.015 * (ml - 50) ** 2 / math.sqrt(20 + (ml - 50) ** 2)
    sc, sh = 1 + 0.045 * mc, 1 + 0.015 * mc * (1 + t)
    spin = math.radians(60 * math.exp(-(((mh - 275) / 25) ** 2)))
    rt = -math.sin(spin) * 2 * math.sqrt(mc**7 / (mc**7 + 25**7))
    parts = (dl / sl) ** 2 + (dc / sc) ** 2 + (dh / sh) ** 2 + rt * dc / sc * dh / sh
    return math.sqrt(max(parts, 0.0))


def contrast(one: object, other: object) -> float:
    """WCAG contrast of two opaque colours, from 1 to 21."""
    light, dark = sorted((float(TO_XYZ[1] @ linear(each)) for each in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def over(colour: object, ground: object, alpha: float = 1.0) -> tuple[float, float, float]:
    """The opaque colour that a see-through one gives on ``ground``, as a screen mixes them."""
    *rgb, own = to_rgba(colour)
    share = own * alpha
    return tuple(
        share * part + (1 - share) * base for part, base in zip(rgb, to_rgba(ground)[:3], strict=True)
    )


# ------------------------------------------------------------------------------------------------- problems


def too_close(colours: Iterable[object], least: float = APART) -> list[str]:
    """Pairs of different colours that somebody takes for one; a colour given twice counts twice."""
    found = []
    for one, other in combinations(colours, 2):
        for vision in VISIONS:
            distance = ciede2000(lab(one, vision), lab(other, vision))
            if distance < least:
                found.append(f"{one} and {other}: {distance:.1f} with {vision} vision")
    return found


def faint_words(figure: Figure, least: float = READABLE) -> list[str]:
    """Texts of a figure whose contrast with what lies behind them is too low."""
    figure.draw_without_rendering()
    filled = _filled(figure)
    found = []
    for text in figure.findobj(Text):
        if not text.get_text().strip() or not text.get_visible():
            continue
        ground = _behind(text, filled, figure)
        ratio = contrast(over(text.get_color(), ground, text.get_alpha() or 1.0), ground)
        if ratio < least:
            found.append(f"{text.get_text()[:40]!r}: {ratio:.2f}")
    return found


def _filled(figure: Figure) -> list[tuple[float, Path, Bbox, tuple]]:
    """Height, outline in pixels, its box, and colour of every filled shape, from the lowest up."""
    found = []
    for patch in figure.findobj(Patch):
        face = to_rgba(patch.get_facecolor())
        if face[3] and patch.get_visible() and patch.get_fill() and not isinstance(patch, FancyArrowPatch):
            outline = patch.get_transform().transform_path(patch.get_path())
            height = -math.inf if patch is figure.patch else patch.get_zorder()
            found.append((height, outline, outline.get_extents(), face))
    return sorted(found, key=lambda shape: shape[0])


def _behind(text: Text, filled: list[tuple], figure: Figure) -> tuple[float, float, float]:
    """The colour under the middle of a text: all filled shapes there, from the lowest up."""
    box = text.get_window_extent()
    middle = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    colour = to_rgba(figure.get_facecolor())[:3]
    for height, outline, extent, face in filled:
        if height <= text.get_zorder() and extent.contains(*middle) and outline.contains_point(middle):
            colour = over(face, colour)
    return colour


def meeting(source: str) -> Iterator[tuple[int, list[str]]]:
    """For every cell of a lesson's source that names several colours: its first line, and the colours as hex.

    ``C0``, ``C1``, … are those of the course's plots; ``C7`` of a shorter list would be ``C0`` again.
    """
    with matplotlib.style.context(str(pictures.STYLE)):
        cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    line = 1
    for cell in source.split("\n# %%"):
        try:
            tree = ast.parse(cell if line == 1 else f"# %%{cell}")
        except SyntaxError:
            tree = ast.Module([], [])
        words = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        named = {word: _colour(word, cycle) for word in words if isinstance(word, str)}
        colours = {word.rstrip("-.:o "): colour for word, colour in named.items() if colour}
        if len(colours) > 1:
            yield line, [f"#{colour.lstrip('#').upper()}" for colour in colours.values()]
        line += cell.count("\n") + 1


def maps(source: str) -> Iterator[tuple[int, list[str]]]:
    """For every colour map that a lesson names: its line, and colours of it as hex. A short list, as
    ``tab20``, whole; otherwise five, evenly spread."""
    for node in ast.walk(ast.parse(source)):
        named = node.value if isinstance(node, ast.keyword) and node.arg in ("cmap", "colormap") else None
        if isinstance(named, ast.Constant) and isinstance(named.value, str):
            found = colormaps[named.value]
            few = isinstance(found, ListedColormap) and found.N <= 20
            places = range(found.N) if few else np.linspace(0, 1, 5)
            yield node.value.lineno, [to_hex(found(place)) for place in places]


def _colour(word: str, cycle: Sequence[str]) -> str | None:
    """``word`` as a hex code if it is one, or names one of the cycle, with or without a line style."""
    bare = word.rstrip("-.:o ")
    if len(bare) == 2 and bare[0] == "C" and bare[1].isdigit():
        return cycle[int(bare[1]) % len(cycle)]
    return word if len(word) == 7 and word[0] == "#" and word[1:].isalnum() else None
