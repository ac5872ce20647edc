"""This course's side of ``benchmarks/speed.py``: the turn of ``legacy/worker.py`` with :mod:`rlhf`.

In: a JSON file (models, queries, lengths, settings) and one line per turn on standard input. Out: one JSON
line per turn, the seconds of writing, scoring and learning.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoTokenizer

from rlhf.ppo import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer
from rlhf.rewards import SentimentReward


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
    texts = tokenizer.batch_decode([torch.cat((q, r.cpu())) for q, r in zip(queries, responses, strict=True)])
    scores = scorer(texts)
    seconds["score"] = time.perf_counter() - start
    start = time.perf_counter()
    stats = trainer.step(queries, responses, scores)
    seconds["step"] = time.perf_counter() - start
    phases = {k.rsplit("/", 1)[1]: round(v, 4) for k, v in stats.items() if k.startswith("time/")}
    return seconds | {"tokens": sum(map(len, responses)), "phases": phases}


def peak_mib() -> float:
    """The most memory this process has held. (getrusage would include the process that started it.)"""
    status = Path("/proc/self/status")
    if not status.is_file():  # macOS, in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path)
    spec = json.loads(parser.parse_args().spec.read_text(encoding="utf-8"))
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(spec["threads"])
    answer, sys.stdout = sys.stdout, sys.stderr  # libraries print too; the answers keep their pipe
    trainer, scorer = build(spec)
    print(json.dumps({"ready": True}), file=answer, flush=True)
    for _ in sys.stdin:
        cpu = time.process_time()
        result = turn(trainer, scorer, spec)
        result["cpu"] = time.process_time() - cpu
        result["peak_mib"] = peak_mib()
        print(json.dumps(result), file=answer, flush=True)


if __name__ == "__main__":
    main()
