"""The classic loop of PPO as one function: generate → score → step → log, as lesson 07 writes it out.

In: a :class:`rlhf.profiles.Setup`, and where asked another policy, reward or setting than the profile's. Out:
a trainer, and the statistics of every step. The short run of lesson 00, the chain and the failures of lesson
07, ``python -m rlhf.train ppo`` and the benchmarks all go through here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from rlhf import model_files

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from rlhf.ppo import LengthSampler, PPOTrainer
    from rlhf.profiles import Setup

Reward = Callable[[Sequence[str]], torch.Tensor]  # texts (query + response) to scores, (B,)


def build_trainer(
    setup: Setup,
    logs: Path,
    policy: Path | None = None,
    prompts: Dataset | None = None,
    *,
    questions: Path | None = None,
    loading: Mapping[str, Any] | None = None,
    **changes: Any,
) -> PPOTrainer:
    """A policy with a new value head, the profile's prompts and settings in a trainer.

    Args:
        logs: TensorBoard's folder. policy: a folder in the layout of the hub; by default the profile's.
        prompts: as :func:`training_prompts` makes them, which is the default. questions: preference pairs
            whose questions are the prompts instead. loading: how the policy is loaded (``dtype``,
            ``peft_config`` …).
        changes: fields of ``PPOConfig`` that differ from the profile's.

    Raises:
        BadConfig: a setting of ``PPOConfig`` that does not exist or does not fit the others.
        MissingAssets: files of the policy are missing or damaged.
    """
    from rlhf.data import collator
    from rlhf.ppo import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer

    folder = policy or setup.policy
    tokenizer = model_files.load_tokenizer(folder)
    if prompts is None:
        own = training_prompts if questions is None else partial(question_prompts, path=questions)
        prompts = own(setup, tokenizer)
    settings = {key: value for key, value in setup.ppo.items() if key != "steps"}
    settings |= {
        "seed": setup.seed,
        "logging_dir": logs,
        "accelerator_kwargs": {"cpu": setup.device == "cpu"},
    }
    config = PPOConfig(**(settings | changes))
    with model_files.readable(folder):
        model = AutoModelForCausalLMWithValueHead.from_pretrained(folder, seed=setup.seed, **(loading or {}))
    return PPOTrainer(config, model, None, tokenizer, prompts, data_collator=collator)


def training_prompts(setup: Setup, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """The openings of the training split's reviews, cut to the profile's lengths with its seed."""
    from rlhf.data import build_prompts, load_reviews
    from rlhf.ppo import LengthSampler

    sizes = setup.prompts
    sampler = LengthSampler(sizes["min_tokens"], sizes["max_tokens"], seed=setup.seed)
    return build_prompts(load_reviews(setup.dataset, "train"), tokenizer, sampler, sizes["min_chars"])


def question_prompts(setup: Setup, tokenizer: PreTrainedTokenizerBase, path: Path) -> Dataset:
    """The questions of preference pairs that have as many tokens as the setup's queries may have, whole.

    They become tokens as texts do in SFT and in scoring, with whatever the tokenizer puts in front.

    Raises:
        BadData: there is no such question. MissingAssets: no pairs.
    """
    from datasets import Dataset

    from rlhf.errors import BadData
    from rlhf.pairs import load_pairs, split_prompt

    low, high = setup.prompts["min_tokens"], setup.prompts["max_tokens"]
    rows = load_pairs(path, "train", drop_bad=True)
    texts = [split_prompt(*both)[0] for both in zip(rows["chosen"], rows["rejected"], strict=True)]
    encoded = tokenizer(texts)["input_ids"]
    fitting = [k for k, ids in enumerate(encoded) if low <= len(ids) < high]
    if not fitting:
        raise BadData(
            f"{path.name} 里没有 {low} 到 {high - 1} 个词元的问题；请改 query_tokens。",
            f"{path.name} has no question of {low} to {high - 1} tokens; change query_tokens.",
        )
    chosen = {"input_ids": [encoded[k] for k in fitting], "query": [texts[k] for k in fitting]}
    return Dataset.from_dict(chosen).with_format("torch", columns=["input_ids"], output_all_columns=True)


def response_lengths(setup: Setup) -> LengthSampler:
    """Draws how many tokens a response may have, from the profile's range and with its seed."""
    from rlhf.ppo import LengthSampler

    return LengthSampler(setup.response["min_tokens"], setup.response["max_tokens"], seed=setup.seed)


def run(
    trainer: PPOTrainer,
    reward: Reward,
    lengths: LengthSampler,
    total: int,
    after: Callable[[dict[str, float]], object] | None = None,
    title: str = "PPO",
) -> list[dict[str, float]]:
    """Train until ``trainer`` has taken ``total`` steps; returns what each step logged.

    ``after`` is called with the statistics of every step (to save a state, to draw a curve); what it returns
    ends the run if it is true. Of several processes all call this, with equal statistics; one shows a bar.
    """
    rows: list[dict[str, float]] = []
    left = max(0, total - trainer.current_step)
    others = not trainer.accelerator.is_main_process
    with tqdm(trainer.batches(total), total=left, desc=title, file=sys.stdout, disable=others) as bar:
        for batch in bar:
            rows.append(one_step(trainer, reward, lengths, batch))
            bar.set_postfix(reward=f"{rows[-1]['env/reward_mean']:.2f}", KL=f"{rows[-1]['objective/kl']:.1f}")
            if after is not None and after(rows[-1]):
                break
    return rows


def one_step(trainer: PPOTrainer, reward: Reward, lengths: LengthSampler, batch: dict) -> dict[str, float]:
    """Generate, score, step, log: one turn of the loop with one batch of prompts."""
    from rlhf.rows import moved

    queries = batch["input_ids"]
    responses = trainer.generate(queries, return_prompt=False, length_sampler=lengths)
    batch["response"] = trainer.tokenizer.batch_decode(moved(responses, "cpu"), skip_special_tokens=True)
    scores = list(reward([q + r for q, r in zip(batch["query"], batch["response"], strict=True)]))
    return trainer.log_stats(trainer.step(queries, responses, scores), batch, scores)
