"""Does the gain hold on seeds and prompts that no setting was chosen on? One PPO run per seed, no notebook.

    python benchmarks/seeds.py --profile imdb --seeds 1 2 3 --prompts 11 12

In: a built profile. Out: benchmarks/results/seeds_<profile>.json and one line per run and prompt draw: the
paired mean gain with its 95 % bootstrap interval, on all held-out prompts and on those whose opening does
not occur among the prompts of training, KL per response, distinct-2 before and after.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import tempfile
import time
from pathlib import Path

from rlhf import evaluate, loop, profiles, report
from rlhf.rewards import SentimentReward

RESULTS = Path(__file__).parent / "results"


def one_seed(profile: str, seed: int, draws: list[int], steps: int | None, changes: dict) -> list[dict]:
    """Train once with ``seed``; measure on every draw of held-out prompts."""
    os.environ["RLHF_SEED"] = str(seed)
    setup = profiles.setup("07_ppo_imdb", profile)
    reward = SentimentReward(setup.reward_model, setup.device)
    total = steps or setup.ppo["steps"]
    with tempfile.TemporaryDirectory() as logs:
        trainer = loop.build_trainer(setup, Path(logs), **changes)
        seen = set(trainer.dataset["query"])
        started = time.perf_counter()
        loop.run(trainer, reward, loop.response_lengths(setup), total)
    facts = {"seed": seed, "steps": total, "seconds": round(time.perf_counter() - started), **changes}
    return [{**facts, **measure(setup, trainer, seen, draw)} for draw in draws]


def measure(setup: profiles.Setup, trainer, seen: set[str], draw: int) -> dict:
    """Gain, interval, KL and diversity on one draw of held-out prompts."""
    tokenizer, reward = trainer.tokenizer, SentimentReward(setup.reward_model, setup.device)
    prompts = evaluate.held_out_prompts(setup, tokenizer, seed=draw)
    lengths = evaluate.response_lengths(setup, len(prompts), seed=draw)
    policy, reference = trainer.model, trainer.ref_model
    before, after = (
        evaluate.respond(model, tokenizer, prompts, lengths, seed=draw) for model in (reference, policy)
    )
    texts = [rollout.texts(tokenizer) for rollout in (before, after)]
    scores = [reward([q + r for q, r in zip(prompts["query"], part, strict=True)]).double() for part in texts]
    new = [row for row, query in enumerate(prompts["query"]) if query not in seen]
    return {
        "prompts": draw,
        "mean": [round(float(part.mean()), 3) for part in scores],
        "gain": report.bootstrap_gain(*scores),
        "unseen": len(new),
        "gain_unseen": report.bootstrap_gain(*(part[new] for part in scores)),
        "kl": round(float(evaluate.response_kl(policy, reference, after).mean()), 2),
        "distinct_2": [round(report.distinct_n(part, 2), 3) for part in texts],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="offline")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--prompts", type=int, nargs="+", default=[11, 12], help="draws of held-out prompts")
    parser.add_argument("--steps", type=int, help="PPO steps (default: the profile's)")
    parser.add_argument("--set", default="{}", help='fields of PPOConfig, as JSON: {"learning_rate": 2e-4}')
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/seeds_<profile>.json")
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        rows += one_seed(args.profile, seed, args.prompts, args.steps, json.loads(args.set))
        for row in rows[-len(args.prompts) :]:
            print(json.dumps(row), flush=True)
    facts = {"profile": args.profile, "date": datetime.date.today().isoformat(), "cpus": os.cpu_count()}
    out = args.out or RESULTS / f"seeds_{args.profile}.json"
    out.write_text(json.dumps({**facts, "runs": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
