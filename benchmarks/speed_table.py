"""Turns of ``benchmarks/speed.py`` to medians, ratios and a table.

In: the content of ``results/speed.json``. Out: rows as Markdown. Ratios are taken turn by turn and then their
median, since both sides of a turn met the same moment of the machine.
"""

from __future__ import annotations

from statistics import median
from typing import Any

SIDES = {
    "one_by_one": "TRL 0.11.4, one query at a time",
    "all_at_once": "TRL 0.11.4, its batched generation",
    "ours": "this course",
}


def parts(turn: dict[str, Any], side: str) -> dict[str, float]:
    """Seconds of one turn: generate, score, step, and their sum."""
    generate = turn["generate"] if side == "ours" else turn["generate"][side]
    found = {"generate": generate, "score": turn["score"], "step": turn["step"]}
    return found | {"total": sum(found.values())}


def summary(case: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Per side: the median seconds of every part, tokens per second, peak memory in MiB, and how many times
    this course is as fast."""
    found = {}
    whole = [parts(turn, "ours")["total"] for turn in case["ours"]]
    for side in SIDES:
        turns = case["ours" if side == "ours" else "legacy"]
        rows = [parts(turn, side) for turn in turns]
        found[side] = {name: median(row[name] for row in rows) for name in rows[0]}
        found[side]["tokens_per_second"] = turns[0]["tokens"] / found[side]["total"]
        found[side]["peak_mib"] = max(turn["peak_mib"] for turn in turns)
        ratios = [row["total"] / ours for row, ours in zip(rows, whole, strict=False)]
        found[side]["times"] = median(ratios)
    return found


def table(result: dict[str, Any]) -> str:
    """One Markdown table per case."""
    blocks = []
    for name, case in result["cases"].items():
        if not case["ours"]:
            continue
        lines = [
            f"{name} ({len(case['ours'])} turns)",
            "",
            "| | generate | score | step | whole step, s | tokens per s | peak MiB | ours: times faster |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for side, row in summary(case).items():
            seconds = " | ".join(f"{row[key]:.3g}" for key in ("generate", "score", "step", "total"))
            times = "" if side == "ours" else f"{row['times']:.1f}"
            rest = f"{row['tokens_per_second']:,.0f} | {row['peak_mib']:,.0f} | {times}"
            lines.append(f"| {SIDES[side]} | {seconds} | {rest} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
