"""The runs of a frontier file as numbers: a table with intervals, and who is ahead at one KL. Lesson 09.

In: the JSON that :mod:`rlhf.frontier.running` writes. Out: :class:`Frontier`, :func:`table`,
:func:`compare`. Intervals are bootstrapped over seeds **and** prompts: three runs that differ only in their
seed are no more than three, however many prompts each was measured on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlhf import profiles
from rlhf.beyond import METHODS, STRENGTH
from rlhf.errors import BadData

RESULTS = profiles.CHECKOUT / "benchmarks" / "results"
RESAMPLES = 2_000
NAMES = {
    "ppo": "PPO",
    "grpo": "GRPO",
    "rloo": "RLOO",
    "dpo": "DPO",
    "rejection": "rejection sampling",
    "best_of_n": "best-of-n",
}


@dataclass(frozen=True)
class Frontier:
    """The runs of one file. ``record`` is the file; everything else is made of it."""

    record: Mapping[str, Any]

    @property
    def methods(self) -> list[str]:
        """The methods that have runs, in the order of :data:`rlhf.beyond.METHODS`."""
        there = {row["method"] for row in self.record["runs"]}
        return [name for name in METHODS if name in there]

    def runs(self, method: str) -> dict[float, dict[int, Mapping]]:
        """Strength → seed → run; without strengths that lack a seed which the fullest one has."""
        found: dict[float, dict[int, Mapping]] = {}
        for row in self.record["runs"]:
            if row["method"] == method:
                found.setdefault(row["strength"], {})[row["seed"]] = row
        seeds = sorted(max(found.values(), key=len))
        return {s: {n: found[s][n] for n in seeds} for s in sorted(found) if set(seeds) <= set(found[s])}

    @cached_property
    def resampled(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Per method ``(gains, KLs)``, both ``(strengths, 1 + RESAMPLES)``; column 0 is the data as they are.

        One draw of prompts serves all methods, so that their differences are paired; seeds are drawn for each
        method by itself, since seed 0 of PPO has nothing to do with seed 0 of DPO.
        """
        rng = np.random.default_rng(0)
        start = np.array(self.record["start"]["scores"]) / 100  # (N,)
        n = len(start)
        share = np.vstack([np.full(n, 1 / n), rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n])
        out = {}
        for method in self.methods:
            runs = self.runs(method)
            scores = np.array([[run["scores"] for run in rows.values()] for rows in runs.values()]) / 100
            gains = (scores - start) @ share.T  # (strengths, seeds, 1 + RESAMPLES)
            kls = np.array([[run["kl"] for run in rows.values()] for rows in runs.values()])
            seeds = gains.shape[1]
            weight = np.vstack(
                [
                    np.full(seeds, 1 / seeds),
                    rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds,
                ]
            )
            out[method] = np.einsum("asb,bs->ab", gains, weight), kls @ weight.T
        return out

    def gain_at(self, method: str, kl: float) -> np.ndarray:
        """The gain of ``method`` at ``kl`` nats, ``(1 + RESAMPLES,)``, on straight lines between strengths,
        the first of which begins at the start (no KL, no gain). NaN where it does not reach so far."""
        gains, kls = self.resampled[method]
        values = []
        for column in range(gains.shape[1]):
            order = np.argsort(kls[:, column])
            x, y = np.append(0.0, kls[order, column]), np.append(0.0, gains[order, column])
            values.append(np.interp(kl, x, y, right=np.nan))
        return np.array(values)


def load(path: str | Path | None = None) -> Frontier:
    """The runs in ``path``, by default the committed ones of the profile in use.

    Raises:
        BadData: there is no such file, or it is none of these.
    """
    return Frontier(read(Path(path or RESULTS / f"frontier_{profiles.read()['name']}.json")))


def table(frontier: Frontier) -> pd.DataFrame:
    """A row per method and strength: gain with its 95 % interval, KL, distinct-2, judge, seeds, seconds."""
    rows = []
    for method in frontier.methods:
        gains, kls = frontier.resampled[method]
        for place, (strength, runs) in enumerate(frontier.runs(method).items()):
            low, high = interval(gains[place])
            judged = [run["judge"][0] for run in runs.values() if run["judge"]]
            rows.append(
                {
                    "method": NAMES[method],
                    "strength": f"{STRENGTH[method]} = {strength:g}",
                    "gain": gains[place, 0],
                    "low": low,
                    "high": high,
                    "KL": kls[place, 0],
                    "distinct-2": np.mean([run["distinct_2"] for run in runs.values()]),
                    "second judge": np.mean(judged) if judged else math.nan,
                    "seeds": len(runs),
                    "tokens": np.mean([run["tokens"] for run in runs.values()]).round(),
                    "seconds": np.mean([run["seconds"] for run in runs.values()]),
                }
            )
    return pd.DataFrame(rows).set_index(["method", "strength"])


@dataclass(frozen=True)
class Comparison:
    """Who gains most at ``kl`` nats per response.

    ``rows``: method, gain, low, high, ``behind`` (how much the first gains more, with ``behind low`` and
    ``behind high``), ``verdict``. The methods that do not get that far are at the end, without numbers.
    """

    kl: float
    rows: pd.DataFrame

    @property
    def conclusive(self) -> bool:
        """Whether the first is ahead of all others that get this far, and there is one."""
        verdicts = set(self.rows["verdict"])
        return "behind" in verdicts and "inconclusive" not in verdicts

    @property
    def en(self) -> str:
        return self._say(
            "At a KL of {kl:g} nobody has a result.",
            "At a KL of {kl:g} {first} gains most: {gain:+.2f} [{low:+.2f}, {high:+.2f}].",
            " Clearly behind: {}.",
            " Inconclusive, their intervals of the difference hold 0: {}.",
            " Do not get that far: {}.",
            ", ",
        )

    @property
    def zh(self) -> str:
        return self._say(
            "在 KL = {kl:g} 处没有结果。",
            "在 KL = {kl:g} 处，{first} 的增益最大：{gain:+.2f} [{low:+.2f}, {high:+.2f}]。",
            "明显落后的：{}。",
            "分不出高下的（差的区间含 0）：{}。",
            "没有走到这么远的：{}。",
            "、",
        )

    def _say(self, nobody: str, best: str, behind: str, open_: str, short: str, comma: str) -> str:
        there = self.rows[self.rows["verdict"] != "not reached"]
        if there.empty:
            return nobody.format(kl=self.kl)
        first = there.iloc[0]
        text = best.format(
            kl=self.kl, first=there.index[0], gain=first["gain"], low=first["low"], high=first["high"]
        )
        for words, verdict in ((behind, "behind"), (open_, "inconclusive"), (short, "not reached")):
            names = self.rows.index[self.rows["verdict"] == verdict]
            text += words.format(comma.join(names)) if len(names) else ""
        return text

    def __str__(self) -> str:
        return self.en


def compare(frontier: Frontier, kl: float, methods: Sequence[str] | None = None) -> Comparison:
    """Gains at the same KL, by straight lines between the strengths of a method; best first.

    A method reaches ``kl`` if it does in 95 % of the resamples. ``behind`` is decided by the interval of the
    paired difference, not by whether two intervals overlap. The first is the one with the largest mean,
    chosen after looking: with six methods such a winner is somewhat flattered, and a narrow win is none.
    """
    gains = {name: frontier.gain_at(name, kl) for name in methods or frontier.methods}
    reached = {n: g for n, g in gains.items() if not math.isnan(g[0]) and np.isnan(g).mean() <= 0.05}
    order = sorted(reached, key=lambda name: -reached[name][0])
    rows = []
    for name in order:
        ahead = reached[order[0]] - reached[name]
        low, high = interval(ahead)
        verdict = "first" if name == order[0] else "behind" if low > 0 else "inconclusive"
        inner = interval(reached[name])
        rows.append([NAMES[name], reached[name][0], *inner, ahead[0], low, high, verdict])
    missing = [math.nan] * 6
    rows += [[NAMES[name], *missing, "not reached"] for name in gains if name not in reached]
    columns = ["method", "gain", "low", "high", "behind", "behind low", "behind high", "verdict"]
    return Comparison(kl, pd.DataFrame(rows, columns=columns).set_index("method"))


def read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not record["runs"] or not record["start"]["scores"]:
            raise ValueError("no runs")
        return record
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData(
            f"读不出 {path}。用 make frontier 生成它。",
            f"{path} cannot be read. make frontier makes it.",
        ) from error


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Of the resamples, which are all but the first value; those that are NaN do not count."""
    low, high = np.nanquantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
