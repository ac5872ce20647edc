"""The reward–KL frontier of lesson 09: every method at several strengths and seeds, in one small file.

    python -m rlhf.frontier --profile offline --seeds 0 1 2
    python -m rlhf.frontier --methods grpo rloo --seeds 3      # adds to the same file

In: a built profile; the sizes are its block for lesson 09. Out:
``benchmarks/results/frontier_<profile>.json``, with the command, the hardware, the library versions and,
for every run, its seed, settings, date and scores on the held-out prompts. What is in the file is not run
again, so a run that was stopped goes on where it was.

:func:`load` reads such a file, :func:`table` has a row per method and strength, :func:`compare` says who is
ahead at one KL, :func:`draw` makes the picture. Intervals are bootstrapped over seeds **and** prompts:
three runs that differ only in their seed are no more than three, however many prompts each was measured on.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rlhf import beyond, errors, profiles, report
from rlhf.beyond import METHODS, STRENGTH, HeldOut, Result
from rlhf.beyond.held_out import Score
from rlhf.errors import BadData
from rlhf.files import folder_mark, whole_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rlhf.profiles import Setup

LESSON = "09_beyond_ppo"
RESULTS = profiles.CHECKOUT / "benchmarks" / "results"
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "numpy")
RESAMPLES = 2_000
NAMES = {
    "ppo": "PPO",
    "grpo": "GRPO",
    "rloo": "RLOO",
    "dpo": "DPO",
    "rejection": "rejection sampling",
    "best_of_n": "best-of-n",
}
MARKS = dict(zip(METHODS, "os^Dv*", strict=True))


# --------------------------------------------------------------------------------------------------- running


@errors.command
def main(words: Sequence[str] | None = None) -> int:
    """The command ``python -m rlhf.frontier``."""
    words = list(sys.argv[1:] if words is None else words)
    parser = argparse.ArgumentParser(prog="python -m rlhf.frontier", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default=None, help="default: RLHF_PROFILE, then offline")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--budget", type=int, help="generated tokens per run (default: the profile's)")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/frontier_<profile>.json")
    parser.add_argument("--again", action="store_true", help="begin anew, whatever is in the file")
    args = parser.parse_args(words)
    setup = profiles.setup(LESSON, args.profile)
    out = args.out or RESULTS / f"frontier_{setup.profile}.json"
    if args.again:
        out.unlink(missing_ok=True)
    command = f"python -m rlhf.frontier {' '.join(words)}".strip()
    run(setup, out, args.seeds, args.methods, args.budget, command=command, say=print)
    print(table(load(out)).round(2).to_string())
    return 0


def run(
    setup: Setup,
    out: Path,
    seeds: Sequence[int],
    methods: Sequence[str] = tuple(METHODS),
    budget: int | None = None,
    *,
    reward: Score | None = None,
    judge: Score | None = None,
    command: str = "",
    say: Callable[[str], object] = lambda line: None,
) -> Path:
    """Every method at each of its strengths with each seed; what ``out`` holds already is left out.

    Args:
        budget: by default the profile's. reward: by default the profile's reward model. judge: a second one;
            by default a ``WordJudge`` where the profile's reward model is used.
        say: told one line per run.

    Raises:
        BadData: ``out`` holds runs of other models, another budget or other sizes. CannotWrite: no space.
    """
    sizes, budget = setup.sizes["methods"], budget or setup.sizes["budget"]
    record = _record(setup, out, budget, command)
    todo = [
        (name, strength, seed)
        for seed in seeds  # whoever stops early has a whole picture of fewer seeds
        for name in methods
        for strength in sizes[name]["strengths"]
        if not _has(record, name, strength, seed)
    ]
    if not todo:
        say(f"all runs are in {out.name}")
        return out
    if reward is None:
        from rlhf.rewards import SentimentReward

        reward, judge = SentimentReward(setup.reward_model, setup.device), judge or _word_judge(setup)
    held_out = HeldOut(setup, setup.policy, reward, judge)
    record["start"] = _point(held_out.start)
    for number, (name, strength, seed) in enumerate(todo, 1):
        settings = {key: value for key, value in sizes[name].items() if key != "strengths"}
        settings[STRENGTH[name]] = strength
        result = beyond.train(
            name, setup, setup.policy, reward, budget, seed, held_out=held_out, points=2, **settings
        )
        record["runs"].append(_row(name, strength, seed, settings, result))
        _write(out, record)
        final = result.final
        say(
            f"{number} of {len(todo)}: {NAMES[name]}, {STRENGTH[name]} {strength}, seed {seed}: "
            f"gain {final.gain[0]:+.2f}, KL {final.kl:.2f}, {result.tokens:,} tokens, {result.seconds:.0f} s"
        )
    return out


def _word_judge(setup: Setup) -> Score:
    """The second judge of lesson 07, trained on reviews that nothing else has read."""
    from rlhf import evaluate, sft
    from rlhf.rewards import WordJudge

    prompts = evaluate.held_out_prompts(setup, sft.load_policy(setup.policy)[1])
    return WordJudge.fit(evaluate.judge_reviews(setup, prompts))


def _record(setup: Setup, out: Path, budget: int, command: str) -> dict[str, Any]:
    """What ``out`` holds, or the head of a new one."""
    same = {
        "profile": setup.profile,
        "budget": budget,
        "models": [folder_mark(setup.policy), folder_mark(setup.reward_model), folder_mark(setup.dataset)],
        "prompts": setup.evaluation["prompts"],
        "methods": _fixed(setup),
    }
    head = {
        "command": command,
        "hardware": report.hardware(setup.device),
        "date": datetime.date.today().isoformat(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }
    if not out.is_file():
        return {**head, **same, "start": None, "runs": []}
    record = _read(out)
    if different := [key for key in same if record.get(key) != same[key]]:
        raise BadData(
            f"{out.name} 里的结果来自不同的 {', '.join(different)}。用 --again 重新开始，"
            "或用 --out 换一个文件。",
            f"The results in {out.name} are of another {', '.join(different)}. Begin anew with --again, or "
            "name another file with --out.",
        )
    return record


def _fixed(setup: Setup) -> dict[str, Any]:
    """The settings of all methods but the strengths, of which more may be added to a file."""
    methods = {
        name: {key: value for key, value in part.items() if key != "strengths"}
        for name, part in setup.sizes["methods"].items()
    }
    methods["ppo"] |= {key: value for key, value in setup.ppo.items() if key != "steps"}
    return json.loads(json.dumps(methods))


def _has(record: Mapping[str, Any], name: str, strength: float, seed: int) -> bool:
    return any((r["method"], r["strength"], r["seed"]) == (name, strength, seed) for r in record["runs"])


def _row(name: str, strength: float, seed: int, settings: Mapping, result: Result) -> dict[str, Any]:
    return {
        "method": name,
        "strength": strength,
        "seed": seed,
        "settings": dict(settings),
        "tokens": result.tokens,
        "seconds": result.seconds,
        "date": datetime.date.today().isoformat(),
        **_point(result.final),
        "curve": [[point.tokens, round(point.reward, 3), round(point.kl, 3)] for point in result.curve],
    }


def _point(point: beyond.Point) -> dict[str, Any]:
    """A point as JSON; scores in hundredths, to keep the file small."""
    return {
        "reward": round(point.reward, 4),
        "gain": [round(value, 3) for value in point.gain],
        "kl": round(point.kl, 3),
        "distinct_2": round(point.distinct_2, 3),
        "judge": point.judge and [round(value, 3) for value in point.judge],
        "scores": [round(100 * score) for score in point.scores.tolist()],
    }


def _write(out: Path, record: Mapping[str, Any]) -> None:
    """One line per run, so that a difference between two files can be read."""
    head = {key: value for key, value in record.items() if key != "runs"}
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    rows = ",\n".join(f"  {json.dumps(row)}" for row in record["runs"])
    whole_text(out, "{\n" + ",\n".join(lines) + f',\n "runs": [\n{rows}\n ]\n}}\n')


def _read(path: Path) -> dict[str, Any]:
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


# --------------------------------------------------------------------------------------------------- reading


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
        """Strength → seed → run; only the seeds that every strength of this method has."""
        found: dict[float, dict[int, Mapping]] = {}
        for row in self.record["runs"]:
            if row["method"] == method:
                found.setdefault(row["strength"], {})[row["seed"]] = row
        common = set.intersection(*(set(rows) for rows in found.values()))
        return {s: {seed: rows[seed] for seed in sorted(common)} for s, rows in found.items()}

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
    return Frontier(_read(Path(path or RESULTS / f"frontier_{profiles.read()['name']}.json")))


def table(frontier: Frontier) -> pd.DataFrame:
    """A row per method and strength: gain with its 95 % interval, KL, distinct-2, judge, seeds, seconds."""
    rows = []
    for method in frontier.methods:
        gains, kls = frontier.resampled[method]
        for place, (strength, runs) in enumerate(frontier.runs(method).items()):
            low, high = _interval(gains[place])
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
            "At {kl:g} nats nobody has a result.",
            "At {kl:g} nats {first} gains most: {gain:+.2f} [{low:+.2f}, {high:+.2f}].",
            " Clearly behind: {}.",
            " Inconclusive, their intervals of the difference hold 0: {}.",
            " Do not get that far: {}.",
            ", ",
        )

    @property
    def zh(self) -> str:
        return self._say(
            "在 {kl:g} nat 处没有结果。",
            "在 {kl:g} nat 处，{first} 的增益最大：{gain:+.2f} [{low:+.2f}, {high:+.2f}]。",
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
        low, high = _interval(ahead)
        verdict = "first" if name == order[0] else "behind" if low > 0 else "inconclusive"
        inner = _interval(reached[name])
        rows.append([NAMES[name], reached[name][0], *inner, ahead[0], low, high, verdict])
    missing = [math.nan] * 6
    rows += [[NAMES[name], *missing, "not reached"] for name in gains if name not in reached]
    columns = ["method", "gain", "low", "high", "behind", "behind low", "behind high", "verdict"]
    return Comparison(kl, pd.DataFrame(rows, columns=columns).set_index("method"))


def draw(frontier: Frontier, axes: Axes, title: str = "") -> Axes:
    """The picture: gain over the start against KL, one line per method, 95 % intervals as bars."""
    for number, method in enumerate(frontier.methods):
        gains, kls = frontier.resampled[method]
        order = np.argsort(kls[:, 0])
        x, y = kls[order, 0], gains[order, 0]
        ends = np.array([_interval(gains[place]) for place in order])
        bars = np.abs(ends.T - y)
        axes.errorbar(
            np.append(0, x),
            np.append(0, y),
            np.hstack([np.zeros((2, 1)), bars]),
            color=f"C{number}",
            marker=MARKS[method],
            capsize=2,
            elinewidth=1,
            linestyle="--" if method == "best_of_n" else "-",
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


def _interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Of the resamples, which are all but the first value; those that are NaN do not count."""
    low, high = np.nanquantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


if __name__ == "__main__":
    sys.exit(main())
