"""The result that README shows: scores before and after PPO on held-out prompts, and the curves of that run.

In: ``benchmarks/results/07_<profile>.json``, written by ``python figs/07_result.py --keep`` from the newest
run of lesson 07 under ``output/``. Out: ``figs/07_result.svg``. Nothing is typed in.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from rlhf import pictures, profiles, report

RESULTS = profiles.CHECKOUT / "benchmarks" / "results"
OUT = Path(__file__).with_suffix(".svg")
CURVES = ("env/reward_mean", "objective/kl")
PAPER = "#fbfaf6"
BEFORE, AFTER = "#D55E00", "#0072B2"


def keep() -> Path:
    """Copy what README needs from the newest run of lesson 07 into a small file that git keeps."""
    folder = profiles.root() / "output" / "07_ppo_imdb"
    table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    with (folder / "history.csv").open(encoding="utf-8") as lines:
        rows = [{key: round(float(row[key]), 4) for key in CURVES} for row in csv.DictReader(lines)]
    scores = [{key: row[key] for key in row if key.startswith("reward")} for row in table["table"]]
    shown = table["table"][: table["show"]]  # openings of a few tokens and what the models made of them
    profile = profiles.read(table["meta"]["profile"])
    result = {
        "meta": table["meta"],
        "steps": len(rows),
        "batch": profile["ppo"]["batch_size"],
        "build": build_facts(profile),
        "numbers": table["numbers"],
        "scores": scores,
        "shown": shown,
        "history": rows,
    }
    path = RESULTS / f"07_{result['meta']['profile']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def build_facts(profile: Mapping) -> dict:
    """Seconds and test accuracy that the build of this profile's models recorded; empty if downloaded."""
    records = [profiles.root() / profile[key] / "build.json" for key in ("policy", "reward_model")]
    if not all(record.is_file() for record in records):
        return {}
    policy, classifier = (json.loads(record.read_text(encoding="utf-8")) for record in records)
    return {
        "policy_seconds": policy["seconds"],
        "classifier_seconds": classifier["seconds"],
        "accuracy": classifier["test_accuracy"],
    }


def distribution(axes: Axes, rows: list[dict]) -> None:
    """Histogram of both scores over the held-out prompts."""
    before, after = ([row[f"reward ({name})"] for row in rows] for name in ("before", "after"))
    low, high = min(before + after), max(before + after)
    bins = [low + (high - low) * i / 28 for i in range(29)]
    axes.hist(before, bins, alpha=0.75, color=BEFORE, label="before PPO")
    axes.hist(after, bins, alpha=0.65, color=AFTER, label="after PPO")
    mean, low, high = report.bootstrap_gain(before, after)
    axes.set(
        xlabel="score (logit of POSITIVE)",
        ylabel="responses",
        title=f"{len(rows)} held-out prompts: {mean:+.2f} [{low:+.2f}, {high:+.2f}]",
    )
    axes.legend()


def curve(axes: Axes, history: list[dict], key: str, title: str) -> None:
    """One logged quantity over the steps of the run."""
    axes.plot([row[key] for row in history], color=AFTER, lw=1.5)
    axes.set(xlabel="PPO step", title=title)


def draw(result: dict) -> None:
    """Three panels: who scored what, and how score and KL rose together."""
    plt.style.use(pictures.STYLE)
    plt.rcParams["svg.hashsalt"] = "07_result"
    figure, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained", facecolor=PAPER)
    distribution(axes[0], result["scores"])
    curve(axes[1], result["history"], "env/reward_mean", "mean score of the batch")
    curve(axes[2], result["history"], "objective/kl", "KL to the reference, nats per response")
    for panel in axes:
        panel.set_facecolor(PAPER)
    figure.savefig(OUT, facecolor=PAPER, metadata={"Date": None})


if __name__ == "__main__":
    if "--keep" in sys.argv:
        print("kept", keep().name)
    draw(json.loads((RESULTS / "07_imdb.json").read_text(encoding="utf-8")))
    print("drew", OUT.name)
