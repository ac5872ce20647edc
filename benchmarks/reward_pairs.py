"""How well does a small reward model order preference pairs? Trained from a profile's policy, with baselines.

In: preference pairs, the profile's own (from its reviews) or a folder in the HH-RLHF layout (``--data``); a
folder with one split only is cut into a part to train on and a part to measure on.
Out: one line per seed and scorer; nothing is saved.

    python benchmarks/reward_pairs.py --seeds 0 1 2                       # the bundled pairs
    python benchmarks/reward_pairs.py --profile imdb --data DIR --split test --epochs 2
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from rlhf import baselines, errors, pairs, profiles, reward_model
from rlhf.rewards import PairwiseReward

HELD_OUT = 0.25  # of a lone split


@errors.command
def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--profile", help="whose policy is the start (default: RLHF_PROFILE, else offline)")
    parser.add_argument("--data", help="a folder of pairs in the HH-RLHF layout; default: the profile's own")
    parser.add_argument("--split", help="the only split that the folder has, to be cut in two")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=float, help="default: the profile's")
    parser.add_argument("--learning-rate", type=float, help="default: the profile's")
    asked = parser.parse_args()
    for seed in asked.seeds:
        os.environ["RLHF_SEED"] = str(seed)
        setup = profiles.setup(reward_model.KEY, asked.profile)
        splits = read(asked.data, asked.split, seed) if asked.data else reward_model.make_pairs(setup)
        measure(setup, splits, asked)
    return 0


def read(data: str, split: str | None, seed: int) -> dict:
    """``train`` and ``test``; of a lone split, a quarter of its rows is kept for measuring."""
    if split is None:
        return pairs.load_pairs(data, {"train": "train", "test": "test"}, drop_bad=True)
    rows = pairs.load_pairs(data, split, drop_bad=True)
    parts = rows.train_test_split(test_size=HELD_OUT, seed=seed)
    return {"train": parts["train"], "test": parts["test"]}


def measure(setup, splits: dict, asked) -> None:
    """Train, then print the accuracy of the reward model and of every baseline on the held-out pairs."""
    started, wall = time.process_time(), time.perf_counter()
    changes = {"num_train_epochs": asked.epochs, "learning_rate": asked.learning_rate, "disable_tqdm": True}
    tokenizer = reward_model.load_tokenizer(setup.policy)
    trainer = reward_model.new_trainer(
        setup, splits, tokenizer, **{key: value for key, value in changes.items() if value is not None}
    )
    trainer.train()
    seconds = f"{time.process_time() - started:.0f} s of CPU, {time.perf_counter() - wall:.0f} s"
    print(f"seed {setup.seed} · {len(splits['train'])} pairs, {trainer.state.global_step} steps, {seconds}")
    with tempfile.TemporaryDirectory() as folder:
        saved = reward_model.save(setup, trainer, splits, Path(folder) / "rm")
        scorers = {"reward model": PairwiseReward(saved, setup.device)}
    scorers |= {"coin": baselines.coin, "length": baselines.length, "listed words": baselines.listed_words}
    scorers["counted words"] = baselines.CountedWords.fit(splits["train"])
    scorers["counted words and pairs"] = baselines.CountedWords.fit(splits["train"], longest=2)
    for name, scorer in scorers.items():
        for part in ("train", "test"):
            mean, low, high = baselines.accuracy(scorer, splits[part])
            print(f"  {name:24} {part:6} {mean:.3f} [{low:.3f}, {high:.3f}]  {len(splits[part])} pairs")


if __name__ == "__main__":
    raise SystemExit(main())
