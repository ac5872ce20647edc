"""The promise of lesson 00: a short PPO run, so that the first lesson can show where the course leads.

In: a :class:`rlhf.profiles.Setup`. Out: a folder with the trained policy, kept for the next time. The loop is
the classic one that lesson 07 explains line by line, only shorter.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from rlhf.files import whole_folder

if TYPE_CHECKING:
    from rlhf.ppo import PPOTrainer
    from rlhf.profiles import Setup

RECORD = "promise.json"
SHORT = 1 / 2  # of the steps of the profile's full run
CODE = Path(__file__).parent  # a change of the code that trains makes a kept policy out of date
TRAINS = ("promise.py", "data.py", "rewards.py", "sampling.py", "ppo/*.py")


def short_ppo(setup: Setup) -> Path:
    """Train the profile's policy with PPO for a short while and return the folder of the result.

    Prompts come from the training split, scores from the reward model. A policy that the same sizes, seed,
    models and code have made before is reused. The folder appears whole or not at all; TensorBoard's files
    go to ``runs/`` beside it.

    Raises:
        CannotWrite: no space or no permission.
    """
    folder, mark = setup.output / "policy", fingerprint(setup)
    if _record(folder).get("fingerprint") == mark:
        print(f"short PPO: reused, trained before with the same settings in {_record(folder)['seconds']} s")
        return folder
    started = time.perf_counter()
    trainer = build_trainer(setup, setup.output / "runs" / mark[:8])
    rows = train(setup, trainer)
    record = {"fingerprint": mark, "seconds": round(time.perf_counter() - started, 1), "history": rows}
    _save(trainer, folder, record)
    return folder


def history(folder: str | Path) -> list[dict[str, float]]:
    """What the run logged, one dict per PPO step: ``env/reward_mean``, ``objective/kl``, …"""
    return _record(Path(folder)).get("history", [])


def steps(setup: Setup) -> int:
    """How many PPO steps the short run takes."""
    return max(1, int(SHORT * setup.ppo["steps"]))


def train(setup: Setup, trainer: PPOTrainer, total: int | None = None) -> list[dict[str, float]]:
    """The classic loop: generate → score → step → log. Returns the statistics of every step.

    ``total`` is the number of steps; by default that of the short run.
    """
    from rlhf.ppo import LengthSampler
    from rlhf.rewards import SentimentReward

    reward = SentimentReward(setup.reward_model, setup.device)
    lengths = LengthSampler(setup.response["min_tokens"], setup.response["max_tokens"], seed=setup.seed)
    rows, total = [], steps(setup) if total is None else total
    bar = tqdm(_batches(trainer, total), total=total, desc="PPO", file=sys.stdout)
    for batch in bar:
        queries = batch["input_ids"]
        responses = trainer.generate(queries, return_prompt=False, length_sampler=lengths)
        batch["response"] = trainer.tokenizer.batch_decode(responses, skip_special_tokens=True)
        scores = list(reward([q + r for q, r in zip(batch["query"], batch["response"], strict=True)]))
        rows.append(trainer.log_stats(trainer.step(queries, responses, scores), batch, scores))
        bar.set_postfix(reward=f"{rows[-1]['env/reward_mean']:.2f}", KL=f"{rows[-1]['objective/kl']:.1f}")
    trainer.accelerator.end_training()
    return rows


def fingerprint(setup: Setup) -> str:
    """What the result depends on: sizes, seed, device, both models, the prompts' data and the code."""
    sizes = [dict(part) for part in (setup.prompts, setup.response, setup.ppo)]
    files = sorted(file for pattern in TRAINS for file in CODE.glob(pattern))
    code = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    folders = [_folder_mark(path) for path in (setup.policy, setup.reward_model, setup.dataset)]
    facts = [setup.profile, setup.seed, setup.device, steps(setup), sizes, folders, code]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def build_trainer(setup: Setup, logs: Path) -> PPOTrainer:
    """The profile's policy with a new value head, its prompts and settings in a trainer; logs to ``logs``."""
    from transformers import AutoTokenizer

    from rlhf.data import build_prompts, collator, load_reviews
    from rlhf.ppo import AutoModelForCausalLMWithValueHead, LengthSampler, PPOConfig, PPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(setup.policy)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    sizes = setup.prompts
    sampler = LengthSampler(sizes["min_tokens"], sizes["max_tokens"], seed=setup.seed)
    prompts = build_prompts(load_reviews(setup.dataset, "train"), tokenizer, sampler, sizes["min_chars"])
    settings = {key: value for key, value in setup.ppo.items() if key != "steps"}
    config = PPOConfig(
        **settings, seed=setup.seed, logging_dir=logs, accelerator_kwargs={"cpu": setup.device == "cpu"}
    )
    model = AutoModelForCausalLMWithValueHead.from_pretrained(setup.policy, seed=setup.seed)
    return PPOTrainer(config, model, None, tokenizer, prompts, data_collator=collator)


def _batches(trainer: PPOTrainer, count: int) -> Iterator[dict]:
    """``count`` batches, going through the prompts again where they are too few."""
    passes = itertools.chain.from_iterable(itertools.repeat(trainer.dataloader))
    return itertools.islice(passes, count)


def _save(trainer: PPOTrainer, folder: Path, record: dict) -> None:
    with whole_folder(folder) as partial:
        trainer.save_pretrained(partial)
        (partial / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")


def _record(folder: Path) -> dict:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _folder_mark(folder: Path) -> str | list:
    """The fingerprint that :mod:`rlhf.build` left; of a downloaded folder, its files and their sizes."""
    try:
        return json.loads((folder / "build.json").read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError):
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return [[file.relative_to(folder).as_posix(), file.stat().st_size] for file in files]
