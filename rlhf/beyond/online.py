"""GRPO and RLOO with TRL's trainers, on the course's prompts, lengths and sampler.

In: a :class:`~rlhf.beyond.run.Task` and fields of :class:`OnlineConfig`. Out: its result.
Lesson 09 explains both and compares their losses with :mod:`rlhf.beyond.losses`.

**What is not TRL's here.** TRL's trainers make tokens of the prompts' texts and give all responses one
maximal length. :class:`OwnRollouts` hands them the prompts' own tokens, a length per prompt that all K
responses share (as everywhere in the course, so that no score is won by length), and
:func:`rlhf.sampling.generate`: padding on the left, dropout off, the full softmax. Rewards, advantages,
losses, updates are theirs.

**A trap.** For their losses these trainers pad prompts on the left and give the model a mask, but no
positions (``_get_per_token_logps_and_entropies`` of ``grpo_trainer.py`` and ``rloo_trainer.py``). GPT-2 then
counts positions from the padding on (``modeling_gpt2.py``: ``if position_ids is None``), and the loss is
about other log-probabilities than those that were sampled. Nothing is raised. Models with relative positions
are not concerned; for the others :func:`positions_from_mask` supplies them.

**Where TRL's defaults are not the papers'** (trl 1.16.0, files under ``trl/trainer/``;
``tests/test_beyond.py`` reads them again):

GRPO (``grpo_config.py``), against DeepSeekMath, arXiv:2402.03300:

- ``beta = 0.0`` (line 682): no KL term, and no reference is loaded (``grpo_trainer.py``: ``if self.beta ==
  0.0``). The paper has 0.04. Here: 0.04.
- ``loss_type = "dapo"`` (line 802): the mean is over all tokens of the batch, so that a long response weighs
  more. The paper averages each response first: ``"grpo"``, used here.
- ``scale_rewards = "group"`` (line 790) is the paper's: divided by the standard deviation of the group, which
  makes beta relative to that and not to the score. The standard deviation is the unbiased one, plus 1e-4.
- ``epsilon = 0.2`` (line 694), ``num_iterations = 1`` (line 690): with one update per batch the ratio is 1
  and nothing is clipped. ``num_generations = 8`` (line 481); the paper samples 64.
- ``use_bias_correction_kl = True`` (line 973): the KL term, k3 per token in the loss, is multiplied by the
  ratio, which changes its gradient even where the ratio is 1 (arXiv:2512.02556). The paper has no ratio
  there; False is used here.

RLOO (``rloo_config.py``), against Ahmadian et al., arXiv:2402.14740:

- ``beta = 0.05`` (line 503) times k1 summed over the response is subtracted from the **score**, before the
  baseline. PPO of this course taxes every token, GRPO puts it into the loss: their betas cannot be compared.
- ``normalize_advantages = False`` (line 532), as in the paper. ``num_generations = 2`` (line 302).
- ``epsilon = 0.2`` (line 514): a clipped ratio per response. The paper has none and needs none.

Both: ``learning_rate = 1e-6``; ``bf16 = True`` and recomputed activations unless told otherwise
(``base_config.py``); ``disable_dropout = False``, so that with dropout the ratio is not 1 even before the
first update; the reference is loaded from the folder that ``config._name_or_path`` names, not copied from
the model that was passed; AdamW, gradients clipped at 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from rlhf import sampling
from rlhf.beyond.run import (
    Result,
    Run,
    Task,
    bookkeeping,
    check_numbers,
    settings,
    trl_settings,
    workplace,
)
from rlhf.ppo.config import BadConfig
from rlhf.undisturbed import untangle

PAPER = {"loss_type": "grpo", "scale_rewards": "group", "use_bias_correction_kl": False}  # GRPO as published


@dataclass(frozen=True)
class OnlineConfig:
    """What GRPO and RLOO are told. Raises BadConfig for values that cannot work."""

    k: int = 8  # responses per prompt
    batch_size: int = 128  # responses per generation: batch_size / k prompts
    mini_batch_size: int = 64  # responses per update
    epochs: int = 1  # how often a batch is gone through
    learning_rate: float = 3e-4
    beta: float = 0.04  # price of the KL; its unit differs between the two (see above)
    epsilon: float = 0.2  # how far a ratio may go

    def __post_init__(self) -> None:
        check_numbers(self, ("k", "batch_size", "mini_batch_size", "epochs"), ("learning_rate", "epsilon"))
        if self.k < 2 or self.batch_size % self.k or self.batch_size % self.mini_batch_size:
            raise BadConfig(
                f"k 至少为 2，并且 batch_size（{self.batch_size}）必须是 k（{self.k}）和 "
                f"mini_batch_size（{self.mini_batch_size}）的倍数",
                f"k must be at least 2, and batch_size ({self.batch_size}) a multiple of k ({self.k}) and of "
                f"mini_batch_size ({self.mini_batch_size})",
            )
        if not isinstance(self.beta, (int, float)) or not 0 <= self.beta < float("inf"):
            raise BadConfig(
                f"beta 应当不小于 0，而不是 {self.beta!r}", f"beta must be >= 0, not {self.beta!r}"
            )


class OwnRollouts:
    """Mixed into a trainer of TRL: it samples as the rest of the course does, and counts the tokens.

    Rows have ``prompt`` (text), ``input_ids`` and ``length`` (tokens that a response may have).
    """

    run: Run

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        self.rows = inputs
        return super()._generate_and_score_completions(inputs)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict]:
        return [list(row["input_ids"]) for row in self.rows], None, {}

    def sample(self, prompt_ids: list[list[int]]) -> list[list[int]]:
        """One response per row."""
        tokenizer = self.processing_class
        rollout = sampling.generate(
            self.accelerator.unwrap_model(self.model),
            [torch.tensor(ids) for ids in prompt_ids],
            [row["length"] for row in self.rows],
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            batch_size=len(prompt_ids),
        )
        self.run.tokens += sum(rollout.lengths)
        return [response.tolist() for response in rollout.responses]


class GRPO(OwnRollouts, GRPOTrainer):
    """TRL's GRPOTrainer with the course's rollouts."""

    def _generate_single_turn(self, prompt_ids, *others, **more):
        return self.sample(prompt_ids), None  # None: no log-probabilities of another engine


class RLOO(OwnRollouts, RLOOTrainer):
    """TRL's RLOOTrainer with the course's rollouts."""

    def _generate_single_turn(self, prompt_ids, *others, **more):
        return self.sample(prompt_ids)


def train_grpo(task: Task, **changes) -> Result:
    """GRPO until the budget is spent; ``changes`` are fields of OnlineConfig.

    Raises:
        BadConfig: a setting that does not exist or cannot work. BadData: too few reviews for the budget.
    """
    config = settings(OnlineConfig, changes)
    run = Run("grpo", task)
    return train(run, config, GRPO, GRPOConfig, **PAPER)


def train_rloo(task: Task, **changes) -> Result:
    """RLOO until the budget is spent; as :func:`train_grpo`, beta 0.05 by default."""
    config = settings(OnlineConfig, {"beta": 0.05, **changes})
    run = Run("rloo", task)
    return train(run, config, RLOO, RLOOConfig, normalize_advantages=False)


def train(run: Run, config: OnlineConfig, kind: type, trl_kind: type, **own) -> Result:
    """One run of either; ``own`` are fields that only one of TRL's configurations has."""
    with workplace(run.setup.seed) as folder:
        trainer = make_trainer(run, config, kind, trl_kind, folder, **own)
        trainer.train()
    trainer.positions.remove()
    untangle(run.policy)
    return run.result(run.policy, config, trainer.state.log_history)


def make_trainer(run: Run, config: OnlineConfig, kind: type, trl_kind: type, folder: str | Path, **own):
    """TRL's trainer for ``run``, ready to train. It changes ``run.policy`` in place."""
    updates = config.epochs * (config.batch_size // config.mini_batch_size)
    arguments = trl_settings(
        trl_kind,
        run,
        folder,
        per_device_train_batch_size=config.mini_batch_size,
        steps_per_generation=config.batch_size // config.mini_batch_size,
        num_iterations=config.epochs,
        num_generations=config.k,
        max_steps=10**6,  # the budget ends the run
        shuffle_dataset=False,  # the order is that of all methods
        **{name: getattr(config, name) for name in ("learning_rate", "beta", "epsilon")},
        **own,
    )

    def scores(prompts: list[str], completions: list[str], **others) -> list[float]:
        texts = [query + response for query, response in zip(prompts, completions, strict=True)]
        return run.reward(texts).tolist()

    trainer = kind(
        model=run.policy,
        reward_funcs=scores,
        args=arguments,
        train_dataset=rows(*run.prompts(config.k, config.batch_size // config.k)),
        processing_class=run.tokenizer,
        callbacks=[bookkeeping(run, updates)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.run, trainer.positions = run, positions_from_mask(run.policy)
    if trainer.ref_model is not None:
        positions_from_mask(trainer.ref_model)
    return trainer


def positions_from_mask(model: nn.Module) -> RemovableHandle:
    """From now on ``model`` counts positions from the first real token, where nobody tells it positions.

    The hook works on calls with ``input_ids`` and a mask of the same shape; ``remove()`` it when done.
    """

    def supply(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if kwargs.get("position_ids") is None and ids is not None and getattr(mask, "shape", 0) == ids.shape:
            kwargs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)  # (B, T)
        return args, kwargs

    return model.register_forward_pre_hook(supply, with_kwargs=True)


def rows(prompts: Dataset, lengths: list[int]) -> Dataset:
    """What :class:`OwnRollouts` reads: ``prompt``, ``input_ids``, ``length``."""
    ids = [tokens.tolist() for tokens in prompts["input_ids"]]
    return Dataset.from_dict({"prompt": list(prompts["query"]), "input_ids": ids, "length": lengths})
