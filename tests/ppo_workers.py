"""PPO steps that any number of processes may take together, on the same rollouts.

The tests call :func:`run` in one process; started by :mod:`pair` this file runs every case in several and
leaves what each process saw in a file. Sizes are those of all processes together.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig
from ppo_tools import EOS, rollouts, tiny_lm, tiny_policy

from rlhf.errors import BadRollout
from rlhf.ppo import AutoModelForCausalLMWithValueHead, LengthSampler, PPOConfig, PPOTrainer, set_seed
from rlhf.ppo.sharding import plain

BATCH = 8
PLAIN = {
    "batch_size": BATCH,
    "mini_batch_size": 4,
    "ppo_epochs": 2,
    "log_with": "none",
    "learning_rate": 1e-4,
    "accelerator_kwargs": {"cpu": True},
}
SCORES = {"use_score_scaling": True, "use_score_norm": True, "score_clip": 1.5, "target": 0.1, "horizon": 50}
STOPPING = {"whiten_rewards": True, "early_stopping": True, "target_kl": 6e-4}
PARTS = {"mini_batch_size": 2, "gradient_accumulation_steps": 2}

# name: (architecture, settings, steps)
CASES = {
    "minibatches": ("gpt2", SCORES | {"max_grad_norm": 0.5}, 10),
    "early stopping": ("llama", STOPPING | {"mini_batch_size": 8, "ppo_epochs": 3}, 10),
    "mean of means": ("llama", PARTS, 3),
    "by tokens": ("llama", PARTS | {"accumulate_by_tokens": True}, 3),
    "left out": ("llama", PARTS | {"ppo_epochs": 3}, 2),
    "LoRA, checkpointed": ("lora", {"gradient_checkpointing": True, "learning_rate": 1e-3}, 2),
}


def build(name: str, **changes) -> PPOTrainer:
    """The trainer of a case in one of the processes."""
    kind, settings, _ = CASES[name]
    settings = PLAIN | settings | changes
    for size in ("batch_size", "mini_batch_size"):
        settings[size] //= processes()
    dataset = settings.pop("dataset", None)
    model = lora_policy() if kind == "lora" else tiny_policy(kind)
    return PPOTrainer(PPOConfig(**settings), model, dataset=dataset)


def lora_policy() -> AutoModelForCausalLMWithValueHead:
    torch.manual_seed(5)  # of the adapter
    adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return AutoModelForCausalLMWithValueHead.from_pretrained(tiny_lm("llama"), peft_config=adapter)


def processes() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def index() -> int:
    return torch.distributed.get_rank() if processes() > 1 else 0


def own(values: list) -> list:
    """This process's part of the batch."""
    share = len(values) // processes()
    return values[index() * share : (index() + 1) * share]


def run(name: str, number: int | None = None, **changes) -> dict:
    """The steps of a case, or ``number`` of them: the statistics of each, and what is learnt in the end."""
    trainer = build(name, **changes)
    if name == "left out":
        make_one_overflow(trainer)
    return {"rows": steps(trainer, number or CASES[name][2]), "parameters": learnt(trainer)}


def steps(trainer: PPOTrainer, number: int) -> list[dict]:
    """The statistics of so many steps on random rollouts."""
    rows = []
    for step in range(number):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the responses are random, hence a negative KL
            stats = trainer.step(*(own(part) for part in rollouts(BATCH, seed=step)))
        rows.append({k: v for k, v in stats.items() if not k.startswith("time/")})
        rows[-1]["passes"] = float(len(trainer.passes))
        rows[-1]["beta"] = trainer.kl_ctl.value
    return rows


def learnt(trainer: PPOTrainer) -> dict[str, torch.Tensor]:
    return {n: plain(p.detach()).clone() for n, p in trainer.policy.named_parameters() if p.requires_grad}


def make_one_overflow(trainer: PPOTrainer) -> None:
    """The ratio of row 5 is out of bounds, so whichever minibatch it falls into is left out."""
    original = trainer.compute_advantages

    def sabotage(experience):
        original(experience)
        experience.logprobs = experience.logprobs.index_fill(0, torch.tensor([5]), -200.0)

    trainer.compute_advantages = sabotage


# ---------------------------------------------------------------------- what only a group of them can show


def prompts() -> list[dict]:
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 6, (26,), generator=g).tolist()
    return [{"input_ids": torch.randint(0, EOS, (n,), generator=g), "query": f"prompt {n}"} for n in lengths]


def loop(folder: Path | None = None, stop: int | None = None, total: int = 3, **changes) -> dict:
    """The classic loop over prompts, with a state saved and loaded after ``stop`` steps."""
    set_seed(1)
    trainer, lengths = build("minibatches", dataset=prompts(), **changes), LengthSampler(2, 7, seed=3)
    seen = []
    for batch in trainer.batches(stop or total):
        seen.append(one_step(trainer, lengths, batch))
    if stop is not None:
        trainer.save_state(folder, {"lengths": lengths})
        set_seed(99)
        trainer, lengths = build("minibatches", dataset=prompts(), **changes), LengthSampler(2, 7, seed=3)
        trainer.load_state(folder, {"lengths": lengths})
        for batch in trainer.batches(total):
            seen.append(one_step(trainer, lengths, batch))
    return {"seen": seen, "parameters": learnt(trainer)}


def one_step(trainer: PPOTrainer, lengths: LengthSampler, batch: dict) -> dict:
    queries = batch["input_ids"]
    texts = trainer.generate(queries, length_sampler=lengths, return_prompt=False, eos_token_id=-1)
    scores = [(text < 20).float().mean() for text in texts]
    logged = trainer.log_stats(trainer.step(queries, texts, scores), batch, scores)
    return {
        "queries": [query.tolist() for query in queries],
        "lengths": [len(text) for text in texts],
        "texts": [text.tolist() for text in texts],
        "score": float(np.mean([float(score) for score in scores])),
        "logged": {k: v for k, v in logged.items() if not k.startswith("time/")},
    }


def refusal() -> dict:
    """The last process is given a score that is no number: all hear of it, and the next step works."""
    trainer = build("minibatches")
    before = learnt(trainer)
    queries, responses, scores = (own(part) for part in rollouts(BATCH))
    wrong = [float("nan"), *scores[1:]] if index() == processes() - 1 else scores
    try:
        trainer.step(queries, responses, wrong)
        said = ""
    except BadRollout as error:
        said = error.en
    unchanged = all(torch.equal(before[n], p) for n, p in learnt(trainer).items())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kl = trainer.step(queries, responses, scores)["objective/kl"]
    return {"said": said, "unchanged": unchanged, "kl": kl}


def main(folder: Path) -> None:
    from accelerate import Accelerator

    Accelerator(cpu=True)  # the processes find each other
    torch.set_num_threads(1)
    found = {name: run(name) for name in CASES}
    found["unbroken"] = loop()
    logs = {"log_with": "tensorboard", "logging_dir": folder / "runs"}
    found["resumed"] = loop(folder / "state", stop=2, **logs)
    found["refusal"] = refusal()
    torch.save(found, folder / f"process{index()}.pt")
