"""The published run on a GPU: 194 PPO steps of 128 queries, GPT-2 124M and DistilBERT shapes, in bfloat16.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --no-compile --no-reuse                 # what these two are worth
    python benchmarks/gpu.py --device cpu --size tiny --steps 2      # the same code where there is no GPU

In: nothing; models of random weights are made on the spot (``speed_models``). Out: seconds of the run and of
its parts, peak memory, and a profile of one step that says where the rest goes, printed and written to
``results/gpu.json``. The weights are random and the task is none; the arithmetic is that of the
published run. Policy and update compute in bfloat16 under autocast, with weights, Adam and losses in float32;
what is left in float32 may multiply with TF32 (``--precision no``: float32 throughout).

The first steps compile, choose kernels and fill the allocator's pool: timed, not counted. If compiled
sampling fails, the script says so and starts again without it, and the result keeps the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
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
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

RESULT = Path(__file__).resolve().parent / "results" / "gpu.json"
ROWS = 20  # of the profile
WARM_UP = 2  # steps
PARTS = ("generate", "score", "step", "total")


def settings(case: Case, args: argparse.Namespace) -> dict:
    """Models and settings as ``speed_worker.build`` takes them: the whole batch in one pass."""
    folder = write_models(case.size, cache() / "speed" / case.size)
    queries, lengths = case.prompts()
    switches = {"response_only": True, "fused": True}
    switches |= {"reuse_sampling": args.reuse, "compile_sampling": args.compile}
    return {
        "models": str(folder),
        "queries": queries,
        "lengths": lengths,
        "device": args.device,
        "accelerator": {"mixed_precision": args.precision},
        "ppo": {"mini_batch_size": case.batch, "seed": case.seed} | switches,
    }


class Run:
    """Trainer and classifier on the device, and one step after another."""

    def __init__(self, case: Case, args: argparse.Namespace):
        self.case, self.spec, self.on_gpu = case, settings(case, args), args.device == "cuda"
        self.trainer, self.scorer = build(self.spec)

    def step(self, number: int) -> dict:
        """One turn with queries of its own; the clock stops when the device has finished."""
        queries, lengths = replace(self.case, seed=number).prompts()
        start = time.perf_counter()
        found = turn(self.trainer, self.scorer, self.spec | {"queries": queries, "lengths": lengths})
        if self.on_gpu:
            torch.cuda.synchronize()
        return found | {"total": time.perf_counter() - start}

    def steps(self, first: int, count: int) -> tuple[float, list[dict]]:
        """Seconds of ``count`` steps together, and each of them."""
        start = time.perf_counter()
        turns = [self.step(first + i) for i in range(count)]
        return round(time.perf_counter() - start, 2), turns

    def memory(self) -> dict[str, float]:
        """The most memory in MiB: on a GPU what tensors held and what the allocator had taken for them."""
        if not self.on_gpu:
            return {"peak_mib": round(peak_bytes() / 2**20)}
        held, taken = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return {"peak_mib": round(taken / 2**20), "peak_in_tensors_mib": round(held / 2**20)}

    def profile(self) -> dict:
        """Of one step, in milliseconds: how long it took, how long the device computed, and its longest
        operations. The difference is Python that starts operations, and waiting."""
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self.on_gpu else [])
        with profile(activities=activities) as recorded:
            whole = self.step(0)["total"]
        name = "self_device_time_total" if self.on_gpu else "self_cpu_time_total"
        events = [e for e in recorded.key_averages() if not self.on_gpu or is_kernel(e)]
        events.sort(key=lambda event: -getattr(event, name))
        rows = [{"name": e.key, "ms": round(getattr(e, name) / 1000, 2), "calls": e.count} for e in events]
        return {
            "step_ms": round(whole * 1000, 1),
            "device_ms": round(sum(row["ms"] for row in rows), 1),
            "started": sum(row["calls"] for row in rows),
            "operations": rows[:ROWS],
        }


def is_kernel(event: FunctionEventAvg) -> bool:
    """Whether an entry is what a GPU computed, not the operation on the host that started it."""
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation


def measure(case: Case, args: argparse.Namespace) -> dict:
    """The whole run; what ``results/gpu.json`` keeps of it."""
    run = Run(case, args)
    warming, _ = run.steps(0, WARM_UP)
    if run.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds, turns = run.steps(WARM_UP, args.steps)
    choices = {name: getattr(args, name) for name in ("steps", "precision", "compile", "reuse")}
    return {
        "device": torch.cuda.get_device_name() if run.on_gpu else "cpu",
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "case": vars(case) | choices,
        "compile_failed": args.failed,
        "warm_up_seconds": warming,
        "seconds": seconds,
        "seconds_per_step": {name: round(median(t[name] for t in turns), 4) for name in PARTS},
        **run.memory(),
        "profile": run.profile(),
    }


def start_again_without_compiling(error: Exception) -> None:
    """In a new process image, for a GPU may be unusable to a process after an error on it."""
    reason = f"{type(error).__name__}: {error}"[:500]
    print(f"compiled sampling failed, going on without it: {reason}", file=sys.stderr, flush=True)
    os.execv(sys.executable, [sys.executable, *sys.argv, "--no-compile", "--failed", reason])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    switch = {"action": argparse.BooleanOptionalAction, "default": True}
    parser.add_argument("--size", default="124m", choices=[*SIZES])
    parser.add_argument("--steps", type=int, default=194)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--precision", default="bf16", choices=["bf16", "no"])
    parser.add_argument("--compile", help="PPOConfig(compile_sampling=…)", **switch)
    parser.add_argument("--reuse", help="PPOConfig(reuse_sampling=…)", **switch)
    parser.add_argument("--failed", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, default=RESULT)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU here: --device cpu --size tiny --steps 2 shows that the script works")
    transformers.utils.logging.set_verbosity_error()
    torch.set_float32_matmul_precision("high" if args.precision == "bf16" else "highest")
    try:
        result = measure(Case(args.size, args.batch), args)
    except Exception as error:
        if not args.compile:
            raise
        start_again_without_compiling(error)
    args.result.parent.mkdir(parents=True, exist_ok=True)
    args.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
