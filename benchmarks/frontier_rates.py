"""The learning rates of the frontier: a few values per method, on a seed and prompts that are not reported.

    python benchmarks/frontier_rates.py --seed 9 --budget 16000

In: a built profile. Out: benchmarks/results/frontier_rates_<profile>.json and one line per run. A method is
tried at one strength with every rate of ``RATES``; what counts is the objective that all of them are after,
gain − 0.1 · KL, on a draw of held-out prompts of its own. The rest (K, batch sizes, epochs) is not tuned.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

from rlhf import beyond, profiles, report
from rlhf.beyond import STRENGTH, HeldOut
from rlhf.rewards import SentimentReward

RESULTS = Path(__file__).parent / "results"
RATES = {
    "ppo": (1.5e-4, 3e-4),
    "grpo": (1.5e-4, 3e-4),
    "rloo": (1e-4, 2e-4),
    "dpo": (5e-5, 1e-4),
    "rejection": (4e-4, 8e-4),
}
STRENGTHS = {"ppo": 0.1, "grpo": 0.04, "rloo": 0.1, "dpo": 0.1, "rejection": 3}
TAX = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="offline")
    parser.add_argument("--seed", type=int, default=9, help="of the runs and of the held-out prompts")
    parser.add_argument("--budget", type=int, default=16_000, help="generated tokens per run")
    parser.add_argument("--methods", nargs="+", default=list(RATES), choices=list(RATES))
    parser.add_argument("--rates", type=float, nargs="+", help="other rates than those of the table")
    args = parser.parse_args()
    setup = profiles.setup("09_beyond_ppo", args.profile)
    reward = SentimentReward(setup.reward_model, setup.device)
    held_out = HeldOut(setup, setup.policy, reward, seed=args.seed)
    facts = {"budget": args.budget, "seed": args.seed, "tax": TAX, "hardware": report.hardware(setup.device)}
    out = RESULTS / f"frontier_rates_{setup.profile}.json"
    rows = json.loads(out.read_text(encoding="utf-8"))["runs"] if out.is_file() else []
    for name in args.methods:
        for rate in args.rates or RATES[name]:
            rows.append(one_run(setup, reward, held_out, args, name, rate))
            print(json.dumps(rows[-1]), flush=True)
            write(out, facts, rows)


def one_run(setup, reward, held_out, args, name: str, rate: float) -> dict:
    """Train ``name`` with one learning rate and measure it."""
    settings = {key: value for key, value in setup.sizes["methods"][name].items() if key != "strengths"}
    settings |= {"learning_rate": rate, STRENGTH[name]: STRENGTHS[name]}
    run = beyond.train(
        name, setup, setup.policy, reward, args.budget, args.seed, held_out=held_out, points=1, **settings
    )
    gain, kl = run.final.gain, run.final.kl
    return {
        "method": name,
        "settings": settings,
        "gain": [round(each, 3) for each in gain],
        "kl": round(kl, 2),
        "objective": round(gain[0] - TAX * kl, 3),
        "seconds": run.seconds,
        "date": datetime.date.today().isoformat(),
    }


def write(out: Path, facts: dict, rows: list[dict]) -> None:
    """One line per run."""
    head = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in facts.items())
    runs = ",\n".join(f"  {json.dumps(each)}" for each in rows)
    out.write_text(f'{{\n{head},\n "runs": [\n{runs}\n ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
