"""This course's side of ``benchmarks/speed.py``: the turn of ``legacy/worker.py`` with :mod:`rlhf`.

In: a JSON file (models, queries, lengths, settings) and one line per turn on standard input. Out: one JSON
line per turn, the seconds of writing, scoring and learning.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from legacy.turns import take_turns
from safetensors.torch import load_file
from transformers import AutoTokenizer

from rlhf.ppo import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer
from rlhf.rewards import SentimentReward
from rlhf.rows import moved


def build(spec: dict) -> tuple[PPOTrainer, SentimentReward]:
    """Trainer and classifier from the folder that both sides read."""
    folder = Path(spec["models"])
    policy, reference = (
        AutoModelForCausalLMWithValueHead.from_pretrained(folder / name) for name in ("policy", "reference")
    )
    policy.v_head.summary.load_state_dict(load_file(folder / "head.safetensors"))
    settings = {"log_with": "none", "batch_size": len(spec["queries"])} | spec["ppo"]
    on_cpu = spec.get("device", "cpu") == "cpu"
    settings |= {"accelerator_kwargs": {"cpu": on_cpu} | spec.get("accelerator", {})}
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    trainer = PPOTrainer(PPOConfig(**settings), policy, reference, tokenizer)
    return trainer, SentimentReward(folder / "scorer", trainer.current_device, **spec.get("scorer", {}))


def turn(trainer: PPOTrainer, scorer: SentimentReward, spec: dict) -> dict:
    """One batch; seconds per part."""
    queries = [torch.tensor(ids) for ids in spec["queries"]]
    tokenizer, seconds, start = trainer.tokenizer, {}, time.perf_counter()
    responses = trainer.generate(
        queries, batch_size=len(queries), max_new_tokens=spec["lengths"], return_prompt=False
    )
    seconds["generate"] = time.perf_counter() - start
    start = time.perf_counter()
    written = moved(responses, "cpu")
    texts = tokenizer.batch_decode([torch.cat(pair) for pair in zip(queries, written, strict=True)])
    scores = scorer(texts)
    seconds["score"] = time.perf_counter() - start
    start = time.perf_counter()
    stats = trainer.step(queries, responses, scores)
    seconds["step"] = time.perf_counter() - start
    phases = {k.rsplit("/", 1)[1]: round(v, 4) for k, v in stats.items() if k.startswith("time/")}
    return seconds | {"tokens": sum(map(len, responses)), "phases": phases}


def prepare(spec: dict) -> Callable[[dict], dict]:
    """What answers a turn; nothing needs to be asked."""
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(spec["threads"])
    trainer, scorer = build(spec)
    return lambda asked: turn(trainer, scorer, spec)


if __name__ == "__main__":
    take_turns(prepare, __doc__)
