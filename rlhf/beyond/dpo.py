"""DPO with TRL's trainer on pairs that the reward model ranked, within a budget of tokens.

In: a :class:`~rlhf.beyond.run.Task` and fields of :class:`PairConfig`. Out: its result.
K responses per prompt are sampled, the highest score is the chosen one, the lowest the rejected one. With one
round all pairs come from the start, which is DPO as published; with more, each round samples from the newest
policy, while the reference stays the start. Lesson 09 explains it; :func:`rlhf.beyond.losses.dpo_loss` is
the loss.

**What is not TRL's here.** From texts TRL makes tokens of its own and adds an EOS to responses that merely
ran out of room (``dpo_trainer.py``, ``add_eos``), which teaches the policy to stop. :class:`SampledPairs`
takes the very tokens that were sampled. The reference is a copy of the start, handed over.

**TRL's defaults** (trl 1.16.0, ``trl/trainer/dpo_config.py``): ``beta = 0.1`` (line 298) and ``loss_type =
["sigmoid"]`` (line 245) are the paper's, arXiv:2305.18290; ``disable_dropout = True`` (line 186), unlike
GRPO's and RLOO's; ``learning_rate = 1e-6`` (line 157) and ``max_length = 1024`` (line 196) are for large
models. Log-probabilities are summed over the response, not averaged.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer

from rlhf.beyond.best_of import Draws
from rlhf.beyond.run import Result, Run, Task, check_numbers, settings, trl_settings, workplace
from rlhf.errors import BadData
from rlhf.ppo.config import BadConfig
from rlhf.rejection import Pool
from rlhf.undisturbed import untangle


@dataclass(frozen=True)
class PairConfig:
    """What DPO is told. Raises BadConfig for values that cannot work."""

    rounds: int = 1  # how often pairs are sampled anew; the budget is divided among them
    k: int = 4  # responses per prompt, of which the best and the worst make a pair
    epochs: int = 2
    batch_size: int = 32  # pairs per update
    learning_rate: float = 2e-4
    beta: float = 0.1  # small: far from the reference

    def __post_init__(self) -> None:
        check_numbers(self, ("rounds", "k", "epochs", "batch_size"), ("learning_rate", "beta"))
        if self.k < 2:
            raise BadConfig("一对需要 k ≥ 2 条回复", "A pair needs k >= 2 responses")


class SampledPairs(DPOTrainer):
    """TRL's DPOTrainer on rows of tokens: ``prompt_ids``, ``chosen_ids``, ``rejected_ids``."""

    def _prepare_dataset(self, dataset: Dataset, *others) -> Dataset:
        return dataset


def train_dpo(task: Task, **changes) -> Result:
    """Rounds of sampling, ranking and DPO until the budget is spent; ``changes`` are fields of PairConfig.

    The curve has a point after every round, whatever ``task.points`` says.

    Raises:
        BadConfig: a setting that does not exist or cannot work. BadData: too few reviews for the budget, or
            no pair whose scores differ.
    """
    config = settings(PairConfig, changes)
    run = Run("dpo", task)
    draws, history = Draws(run, config.k), []
    for number in range(1, config.rounds + 1):
        pairs = rank(draws.pool(run.policy, task.budget * number // config.rounds))
        with workplace(draws.seed()) as folder:
            trainer = make_trainer(run, config, pairs, folder)
            trainer.train()
        untangle(run.policy)
        run.policy.eval()
        history += trainer.state.log_history
        run.measure(run.policy)
    return run.result(run.policy, config, history)


def rank(pool: Pool) -> Dataset:
    """The best against the worst of the K responses to every prompt; equal scores make no pair.

    Raises:
        BadData: nothing is left.
    """
    best, worst = (pool.flat(pick) for pick in (pool.scores.argmax(1), pool.scores.argmin(1)))
    rows = [
        {
            "prompt_ids": pool.queries[i].tolist(),
            "chosen_ids": pool.responses[best[i]].tolist(),
            "rejected_ids": pool.responses[worst[i]].tolist(),
        }
        for i in range(len(pool.prompts))
        if best[i] != worst[i]
    ]
    if not rows:
        raise BadData("所有回复的分数都一样，排不出先后。", "All responses score the same: there is no pair.")
    return Dataset.from_list(rows)


def make_trainer(run: Run, config: PairConfig, pairs: Dataset, folder: str | Path) -> DPOTrainer:
    """TRL's trainer on ``pairs``, ready to train. It changes ``run.policy`` in place."""
    reference = copy.deepcopy(run.held_out.reference)
    arguments = trl_settings(
        DPOConfig,
        run,
        folder,
        per_device_train_batch_size=config.batch_size,
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        beta=config.beta,
        max_length=None,
    )
    trainer = SampledPairs(
        model=run.policy,
        ref_model=reference,
        args=arguments,
        train_dataset=pairs,
        processing_class=run.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
