"""Every method at each of its strengths with each seed, run by run into one file. Lesson 09 reads it.

In: a built profile; the sizes are its block for lesson 09. Out: the JSON that :mod:`rlhf.frontier` describes,
written anew after every run, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf import beyond, errors, profiles, report
from rlhf.beyond import METHODS, STRENGTH, HeldOut, Result
from rlhf.beyond.held_out import Score
from rlhf.errors import BadData
from rlhf.files import folder_mark, whole_text
from rlhf.frontier.reading import NAMES, RESULTS, load, read, table
from rlhf.ppo.config import SPEED

if TYPE_CHECKING:
    from rlhf.profiles import Setup

LESSON = "09_beyond_ppo"
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "numpy")


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
        for place in range(max(len(sizes[name]["strengths"]) for name in methods))
        for seed in seeds  # whoever stops early has all methods and seeds, with fewer strengths
        for name in methods
        for strength in sizes[name]["strengths"][place : place + 1]
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
    from transformers import AutoTokenizer

    from rlhf.evaluate import held_out_prompts, judge_reviews
    from rlhf.rewards import WordJudge

    prompts = held_out_prompts(setup, AutoTokenizer.from_pretrained(setup.policy))
    return WordJudge.fit(judge_reviews(setup, prompts))


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
    record = read(out)
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
    # as beyond.ppo takes them: the profile's, unless the method has its own
    ppo = {k: v for k, v in setup.ppo.items() if k not in ("steps", *SPEED)}
    methods["ppo"] = ppo | methods["ppo"]
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
