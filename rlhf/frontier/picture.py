"""The picture of lesson 09: gain over KL, one line per method, with intervals.

In: a :class:`rlhf.frontier.reading.Frontier`. Out: lines on axes. Colour, mark and dashes are given to every
method by name: whoever sees no colours still tells them apart, and no cycle of colours begins again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlhf.frontier.reading import NAMES, Frontier, interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS = {  # colour (Okabe and Ito), mark, dashes
    "ppo": ("#0072B2", "o", "-"),
    "grpo": ("#D55E00", "s", "-"),
    "rloo": ("#009E73", "^", "-"),
    "dpo": ("#CC79A7", "D", "-."),
    "rejection": ("#000000", "v", ":"),
    "best_of_n": ("#7a7a7a", "*", "--"),
}


def draw(frontier: Frontier, axes: Axes, title: str = "") -> Axes:
    """The picture: gain over the start against KL, one line per method, 95 % intervals as bars."""
    for method in frontier.methods:
        color, mark, dashes = LOOKS[method]
        gains, kls = frontier.resampled[method]
        order = np.argsort(kls[:, 0])
        x, y = kls[order, 0], gains[order, 0]
        ends = np.array([interval(gains[place]) for place in order])
        bars = np.abs(ends.T - y)
        axes.errorbar(
            np.append(0, x),
            np.append(0, y),
            np.hstack([np.zeros((2, 1)), bars]),
            color=color,
            marker=mark,
            linestyle=dashes,
            capsize=2,
            elinewidth=1,
            label=NAMES[method],
        )
    seeds = sorted({row["seed"] for row in frontier.record["runs"]})
    axes.set(
        xlabel="KL to the start, nats per response",
        ylabel="gain in reward over the start",
        title=title or f"{frontier.record['budget']:,} generated tokens, {len(seeds)} seeds",
    )
    axes.legend()
    return axes
