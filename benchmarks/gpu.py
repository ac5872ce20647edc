"""The published run on a GPU: 194 PPO steps of 128 queries, GPT-2 124M and DistilBERT shapes, in bfloat16.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --size tiny --steps 2      # the same code where there is no GPU

In: nothing; models of random weights are made on the spot (``speed_models``). Out: seconds of the run and of
its parts, peak memory, and a profile of one step that says where the rest goes, printed and written to
``results/gpu.json``. The weights are random and the task is none; the arithmetic is that of the
published run. Policy and update compute in bfloat16 under autocast, with weights, Adam and losses in float32.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from statistics import median

import torch
import transformers
from legacy.environment import cache
from legacy.turns import peak_bytes
from speed_models import SIZES, Case, write_models
from speed_worker import build, turn
from torch.profiler import ProfilerActivity, profile

RESULT = Path(__file__).resolve().parent / "results" / "gpu.json"
ROWS = 20  # of the profile


def settings(case: Case, device: str, precision: str) -> dict:
    """Models and settings as ``speed_worker.build`` takes them: the whole batch in one pass."""
    folder = write_models(case.size, cache() / "speed" / case.size)
    queries, lengths = case.prompts()
    return {
        "models": str(folder),
        "queries": queries,
        "lengths": lengths,
        "device": device,
        "accelerator": {"mixed_precision": precision},
        "ppo": {"mini_batch_size": case.batch, "response_only": True, "fused": True, "seed": case.seed},
    }


def step_with_other_queries(trainer, scorer, spec: dict, case: Case, number: int, on_gpu: bool) -> dict:
    """One turn; the clock stops when the device has finished."""
    queries, lengths = replace(case, seed=number).prompts()
    start = time.perf_counter()
    found = turn(trainer, scorer, spec | {"queries": queries, "lengths": lengths})
    if on_gpu:
        torch.cuda.synchronize()
    return found | {"total": time.perf_counter() - start}


def where_time_goes(one_step, on_gpu: bool) -> list[dict]:
    """The operations that take longest, in milliseconds on the device that computes."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with profile(activities=activities) as recorded:
        one_step()
    name = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(recorded.key_averages(), key=lambda event: -getattr(event, name))[:ROWS]
    return [{"name": e.key, "ms": round(getattr(e, name) / 1000, 2), "calls": e.count} for e in events]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="124m", choices=[*SIZES])
    parser.add_argument("--steps", type=int, default=194)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--precision", default="bf16", choices=["bf16", "no"])
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    on_gpu = args.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise SystemExit("no GPU here: --device cpu --size tiny --steps 2 shows that the script works")
    transformers.utils.logging.set_verbosity_error()
    torch.set_float32_matmul_precision("high")
    case = Case(args.size, args.batch)
    spec = settings(case, args.device, args.precision)
    trainer, scorer = build(spec)
    step_with_other_queries(trainer, scorer, spec, case, 0, on_gpu)  # warm up: kernels, allocator
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    turns = [step_with_other_queries(trainer, scorer, spec, case, i + 1, on_gpu) for i in range(args.steps)]
    seconds = time.perf_counter() - start
    result = {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "case": vars(case) | {"steps": args.steps, "precision": args.precision},
        "seconds": round(seconds, 2),
        "seconds_per_step": {
            name: median(t[name] for t in turns) for name in ("generate", "score", "step", "total")
        },
        "peak_mib": torch.cuda.max_memory_reserved() / 2**20 if on_gpu else peak_bytes() / 2**20,
        "profile": where_time_goes(
            lambda: step_with_other_queries(trainer, scorer, spec, case, 0, on_gpu), on_gpu
        ),
    }
    args.result.parent.mkdir(parents=True, exist_ok=True)
    args.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
