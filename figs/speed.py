"""How long a PPO step takes, beside TRL 0.11.4: by parts, and how it grows.

In: ``benchmarks/results/speed.json``, written by ``benchmarks/speed.py``. Out: ``figs/speed.svg``. Nothing is
typed in; what was not measured is left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from rlhf import pictures, profiles

BENCHMARKS = profiles.CHECKOUT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from speed_table import summary  # noqa: E402

OUT = Path(__file__).with_suffix(".svg")
PAPER = "#fbfaf6"
PARTS = {"generate": "#0072B2", "score": "#E69F00", "step": "#009E73"}
NAMES = {"one_by_one": "TRL 0.11.4,\none query at a time", "all_at_once": "TRL 0.11.4,\nbatched"}
NAMES |= {"ours": "this course"}
LINES = {"one_by_one": ("#D55E00", "o"), "all_at_once": ("#CC79A7", "s"), "ours": ("#0072B2", "^")}
Measured = list[tuple[dict, dict]]  # a case and its summary


def bars(axes: Axes, found: dict[str, dict[str, float]], title: str) -> None:
    """One bar per side, in three parts."""
    sides = [*reversed(NAMES)]
    left = [0.0] * len(sides)
    for part, color in PARTS.items():
        seconds = [found[side][part] for side in sides]
        axes.barh([NAMES[side] for side in sides], seconds, left=left, color=color, label=part)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    for row, total in enumerate(left):
        label = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{total:.3g} s", (total, row), **label)
    axes.set(xlabel="seconds per PPO step", title=title, xlim=(0, max(left) * 1.2))


def growth(axes: Axes, cases: Measured, key: str, label: str) -> None:
    """Seconds per step over one size that was varied."""
    points = sorted(((case[key], found) for case, found in cases), key=lambda point: point[0])
    for side, (color, marker) in LINES.items():
        x, y = [p[0] for p in points], [p[1][side]["total"] for p in points]
        axes.plot(x, y, color=color, marker=marker, label=NAMES[side].replace("\n", " "))
    axes.set(xlabel=label, ylabel="seconds per PPO step")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks([p[0] for p in points])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")


def varied(measured: Measured) -> tuple[Measured, Measured]:
    """The tiny model's cases by batch (at the usual lengths), and by response length (at the usual batch)."""
    tiny = [(case, found) for case, found in measured if case["size"] == "tiny"]
    batches = [(c, f) for c, f in tiny if list(c["responses"]) == [4, 16]]
    lengths = [(c, f) for c, f in tiny if c["batch"] == 128 and c["responses"][1] == c["responses"][0] + 1]
    return batches, [(c | {"length": c["responses"][0]}, f) for c, f in lengths]


def draw(result: dict) -> None:
    """Bars for every size at the published lengths; lines where more than one value was measured."""
    plt.style.use(pictures.STYLE)
    plt.rcParams["svg.hashsalt"] = "speed"
    measured = [(c["case"], summary(c)) for c in result["cases"].values() if c["ours"]]
    usual = [(c, f) for c, f in measured if c["batch"] == 128 and list(c["responses"]) == [4, 16]]
    batches, lengths = varied(measured)
    usual.sort(key=lambda point: point[1]["ours"]["total"])
    lines = [(batches, "batch", "queries per step"), (lengths, "length", "tokens per response")]
    lines = [line for line in lines if len(line[0]) > 1]
    rows = 1 + bool(lines)
    figure = plt.figure(figsize=(11, 2.7 * rows), layout="constrained", facecolor=PAPER)
    parts = figure.subfigures(rows, 1, squeeze=False)[:, 0]
    for axes, (case, found) in zip(parts[0].subplots(1, len(usual), squeeze=False)[0], usual, strict=True):
        bars(axes, found, f"{case['size']} model")
        axes.set_facecolor(PAPER)
    parts[0].axes[0].legend(loc="lower right")
    if lines:
        for axes, line in zip(parts[1].subplots(1, len(lines), squeeze=False)[0], lines, strict=True):
            growth(axes, *line)
            axes.set_facecolor(PAPER)
        parts[1].axes[0].legend()
    for part in parts:
        part.set_facecolor(PAPER)
    figure.savefig(OUT, facecolor=PAPER, metadata={"Date": None})


if __name__ == "__main__":
    draw(json.loads((BENCHMARKS / "results" / "speed.json").read_text(encoding="utf-8")))
    print("drew", OUT.name)
