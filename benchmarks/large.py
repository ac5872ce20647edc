"""One PPO step of a large model, measured: seconds, tokens per second, the peak of memory beside the plan.

    python benchmarks/large.py                      # Llama-2-7B's shape on a GPU, recipes/7b/ppo.yaml
    python benchmarks/large.py --batch_size 32      # every field of the recipe can be replaced
    python benchmarks/large.py --miniature          # 27M parameters in float32, on a CPU too: does it work?

In: a recipe and the shape of its model; the weights are random, so nothing is downloaded. Out: a table, and a
row in benchmarks/results/large.json. Exit code 1 if a peak differs from ``python -m rlhf.plan`` by more than
15 %. The step is a whole one: sample the responses, score them with a reward model of the same shape, learn.

On a GPU the peak is that of torch's allocator. On a CPU it is the growth of the process's resident memory, in
which the libraries' own buffers come and go: there a difference counts only above 64 MiB.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import gc
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from legacy.turns import peak_bytes
from torch import nn

import rlhf
from rlhf import memory, plan, profiles, stages
from rlhf.memory import GIB
from rlhf.ppo import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer

RECIPE = profiles.CHECKOUT / "recipes" / "7b" / "ppo.yaml"
RESULTS = Path(__file__).parent / "results" / "large.json"
WITHIN = 0.15
SLACK = (
    2**26
)  # of a CPU's resident memory: buffers that the kernels and the C library keep, whatever the model
MINIATURE = {  # of the shape, and of the recipe
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 8000,
}
SMALL = {
    "dtype": "float32",
    "query_tokens": "[2, 33]",
    "response_tokens": "[32, 33]",
    "batch_size": "8",
    "mini_batch_size": "4",
    "gradient_accumulation_steps": "2",
    "gradient_checkpointing": "false",
    "ppo_epochs": "1",
}


class Watch:
    """The memory of a device, in bytes, since this object was made."""

    def __init__(self, device: str):
        self.gpu = device.startswith("cuda")
        gc.collect()
        self.before = self._held()

    def _held(self) -> int:
        return torch.cuda.memory_allocated() if self.gpu else psutil.Process().memory_info().rss

    def held(self) -> int:
        """What is held now."""
        return self._held() - self.before

    def forget(self) -> None:
        """Begin a new peak."""
        gc.collect()
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is now what is held

    def peak(self) -> int:
        """The most that was held at one moment since :meth:`forget`."""
        if self.gpu:
            return torch.cuda.max_memory_allocated() - self.before
        return peak_bytes() - self.before


def build(question: plan.Question, values: Mapping[str, Any], device: str, copied: bool = False) -> tuple:
    """The trainer and the reward model of a recipe, with random weights.

    ``copied`` gives an adapter's reference a model of its own, which it does not need, to see the difference.
    """
    config, ask = question.config, question.ask
    torch.manual_seed(0)
    with torch.device(device):
        dtype = getattr(torch, ask.dtype)
        backbone = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
        scorer_config = copy.deepcopy(question.reward or config)
        scorer_config.num_labels, scorer_config.pad_token_id = 1, 0
        scorer = transformers.AutoModelForSequenceClassification.from_config(scorer_config, dtype=dtype)
    reference = copy.deepcopy(backbone).requires_grad_(False) if copied else None
    model = AutoModelForCausalLMWithValueHead.from_pretrained(
        backbone, peft_config=stages._adapter(ask.lora_rank)
    )
    mixed = {"mixed_precision": "bf16"} if ask.dtype == "bfloat16" else {}
    settings = stages._ppo_settings(values) | {"log_with": "none"}
    settings["accelerator_kwargs"] = {"cpu": device == "cpu", **mixed}
    return PPOTrainer(PPOConfig(**settings), model, reference), scorer.eval().requires_grad_(False)


def measure(
    question: plan.Question, values: Mapping[str, Any], device: str, copied: bool = False, steps: int = 2
) -> dict:
    """A whole step: what is held, bytes of every kind, the peak of every phase, and its seconds.

    It is the last of the ``steps`` that counts: the first one makes what the optimiser keeps.
    """
    watch, ask = Watch(device), question.ask
    trainer, scorer = build(question, values, device, copied)
    found: dict[str, Any] = {"held": watch.held(), "seconds": {}}
    g = torch.Generator().manual_seed(0)
    size = (ask.rows, ask.tokens - ask.new_tokens)
    queries = list(torch.randint(1, question.config.vocab_size, size, generator=g).to(device))

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        watch.forget()
        start = time.perf_counter()
        yield
        if watch.gpu:
            torch.cuda.synchronize()
        found["seconds"][name] = time.perf_counter() - start
        found[name] = watch.peak()

    gradients = _watch_gradients(trainer)
    for _ in range(steps):
        with phase("sampling"):
            responses = trainer.generate(
                queries, max_new_tokens=ask.new_tokens, return_prompt=False, eos_token_id=-1
            )
        with phase("scoring"), torch.no_grad():
            texts = torch.stack([torch.cat(pair) for pair in zip(queries, responses, strict=True)])
            parts = [scorer(input_ids=rows).logits[:, 0].float() for rows in texts.split(ask.sequences)]
        with phase("training"):
            stats = trainer.step(queries, responses, list(torch.cat(parts)))
    found["bytes"] = {**held_by(trainer, scorer), "gradients": max(gradients)}
    found["loss"] = stats["ppo/loss/total"]
    return found


def _watch_gradients(trainer: PPOTrainer) -> list[int]:
    """Filled with the bytes of the backbone's gradients before every update."""
    seen, step = [], trainer.optimizer.step
    weights = list(trainer.policy.pretrained_model.parameters())

    def watched(*args, **kwargs):
        seen.append(memory.tensor_bytes(w.grad for w in weights if w.grad is not None))
        return step(*args, **kwargs)

    trainer.optimizer.step = watched
    return seen


def held_by(trainer: PPOTrainer, scorer: nn.Module) -> dict[str, int]:
    """Bytes of storage by purpose, under the names of the plan; the value head counted for itself."""
    backbone = trainer.policy.pretrained_model
    own = {id(weight) for weight in backbone.parameters()}
    entries = [(id(w) in own, entry) for w, entry in trainer.optimizer.state.items()]
    kept = [v for mine, e in entries if mine for v in e.values() if isinstance(v, torch.Tensor) and v.dim()]
    reference = [] if trainer.ref_model is None else _backbone(trainer.ref_model).parameters()
    return {
        "weights": memory.tensor_bytes(backbone.parameters()),
        "optimizer": memory.tensor_bytes(kept),
        "reference": memory.tensor_bytes(reference),
        "reward_model": memory.tensor_bytes(scorer.parameters()),
    }


def _backbone(model: nn.Module) -> nn.Module:
    return getattr(model, "pretrained_model", model)


# ------------------------------------------------------------------------------------------------- the table


def ask(words: Sequence[str], miniature: bool) -> tuple[plan.Question, dict]:
    """The question, with Llama-2-7B's shape or a miniature of it, and the fields of the recipe."""
    small = [word for name, value in SMALL.items() for word in (f"--{name}", value)] if miniature else []
    words = [*small, *words]
    question = plan.Question.of(RECIPE, words, model="llama-2-7b")
    if miniature:
        config = type(question.config)(**question.config.to_dict() | MINIATURE)
        question = replace(question, config=config, reward=config)
    return question, plan.read_recipe(RECIPE, words)[1]


def warm_up(question: plan.Question, values: Mapping[str, Any], device: str) -> None:
    """A step that does not count: it loads the libraries, whose buffers stay. On a CPU the C library is told
    to hand back at once what is freed."""
    if device == "cpu":
        rlhf.keep_freed_memory(below=2**16)
    measure(question, values, device, steps=1)


def tiny(question: plan.Question) -> plan.Question:
    """The same with a model of next to nothing."""
    small = dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size"), 64) | {"num_hidden_layers": 1}
    config = type(question.config)(**question.config.to_dict() | small)
    return replace(question, config=config, reward=config)


def differences(found: Mapping[str, Any], needs: plan.Needs) -> dict[str, float]:
    """How far each measured peak lies above (+) or below (-) the planned one, as a share of it."""
    return {phase: found[phase] / needs.during(phase) - 1 for phase in ("sampling", "training")}


def far(found: Mapping[str, Any], needs: plan.Needs, device: str) -> list[str]:
    """The phases whose peak is not where it was planned."""
    slack = SLACK if device == "cpu" else 0
    shares = differences(found, needs)
    return [p for p, share in shares.items() if abs(share) > max(WITHIN, slack / needs.during(p))]


def describe(found: Mapping[str, Any], question: plan.Question) -> str:
    """The table that is printed."""
    needs = question.needs()
    seconds = sum(found["seconds"].values())
    lines = [plan.report(question).split("\n\n")[0], "", f"{'GiB':14}{'planned':>9}{'measured':>10}"]
    for name, value in found["bytes"].items():
        lines.append(f"{name:14}{needs.rows[name] / GIB:9.3f}{value / GIB:10.3f}")
    for phase, share in differences(found, needs).items():
        planned, measured = needs.during(phase) / GIB, found[phase] / GIB
        lines.append(f"peak, {phase:8}{planned:9.3f}{measured:10.3f}   {share:+.1%}")
    parts = ", ".join(f"{name} {value:.1f}" for name, value in found["seconds"].items())
    lines.append(f"{seconds:.1f} s a step ({parts}), {needs.tokens / seconds:,.0f} tokens/s")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--miniature", action="store_true", help="a small shape in float32, for a CPU")
    parser.add_argument("--device", default=profiles.pick_device(), help="[what there is]")
    given, words = parser.parse_known_args()
    if given.device == "cpu" and not given.miniature:
        print("没有 GPU：请加 --miniature。\nThere is no GPU: add --miniature.", file=sys.stderr)
        return 2
    question, values = ask(words, given.miniature)
    if question.ask.quantize != "none":  # transformers quantises what it reads, and here is nothing to read
        print("随机权重不能量化。\nRandom weights are not quantised.", file=sys.stderr)
        return 2
    warm_up(question if given.device == "cpu" else tiny(question), values, given.device)
    found = measure(question, values, given.device)
    print(describe(found, question))
    _keep(found, question, given.device, words)
    return int(bool(far(found, question.needs(), given.device)))


def _keep(found: dict, question: plan.Question, device: str, words: Sequence[str]) -> None:
    needs = question.needs()
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
    row = {
        "date": str(datetime.date.today()),
        "device": name,
        "torch": torch.__version__,
        "words": list(words),
        "parameters": needs.parameters,
        "planned": dict(needs.rows),
        **found,
    }
    rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    RESULTS.write_text(json.dumps([*rows, row], indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
