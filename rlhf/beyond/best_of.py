"""Best-of-K, learnt (rejection sampling) and as it is (best-of-n), within a budget of tokens.

In: a :class:`~rlhf.beyond.run.Task`. Out: a :class:`~rlhf.beyond.run.Result`. Sampling, choosing and
imitating are lesson 08's (:mod:`rlhf.rejection`); here they get a budget, and lesson 09 compares them with
the rest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from rlhf import rejection
from rlhf.beyond.ppo import batches
from rlhf.beyond.run import Result, Run, Task, check_numbers, settings
from rlhf.errors import BadRollout
from rlhf.rejection import Pool, RejectionConfig

CHUNK = 16  # prompts sampled before the tokens are counted again


@dataclass(frozen=True)
class BestOfConfig:
    """What rejection sampling is told. Raises BadConfig for values that cannot work."""

    rounds: int = 3  # how often the sampler is refreshed; the budget is divided among them
    k: int = 8  # responses per prompt, of which one is kept
    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 8e-4

    def __post_init__(self) -> None:
        check_numbers(self, ("rounds", "k", "epochs", "batch_size"))


def train_rejection(task: Task, **changes) -> Result:
    """Rounds of best-of-K and SFT until the budget is spent; ``changes`` are fields of BestOfConfig.

    The curve has a point after every round, whatever ``task.points`` says.

    Raises:
        BadConfig: a setting that does not exist or cannot work. BadData: too few reviews for the budget.
    """
    config = settings(BestOfConfig, changes)
    run = Run("rejection", task)
    imitation = RejectionConfig(
        epochs=config.epochs, batch_size=config.batch_size, learning_rate=config.learning_rate
    )
    draws, history = Draws(run, config.k), []
    for number in range(1, config.rounds + 1):
        pool = draws.pool(run.policy, task.budget * number // config.rounds)
        shown = rejection.demonstrations(pool, rejection.pick_best(pool.scores))
        with tempfile.TemporaryDirectory() as logs:
            rejection.imitate(run.policy, run.tokenizer, shown, imitation, seed=draws.seed(), logs=Path(logs))
        best = pool.scores.max(1).values.mean().item()
        history.append({"score/mean": pool.scores.mean().item(), "score/best": best})
        run.measure(run.policy)
    return run.result(run.policy, config, history)


class Draws:
    """Pools of ``k`` responses per prompt from the prompts of ``run``, one after the other."""

    def __init__(self, run: Run, k: int):
        self.run, self.k, self.count = run, k, 0
        self.prompts, self.lengths = run.prompts(k, CHUNK)
        self.rows: Iterator[Sequence[int]] = batches(len(self.prompts), CHUNK)

    def seed(self) -> int:
        """Another one at every call, made of the run's."""
        self.count += 1
        return 10_000 * (self.run.setup.seed + 1) + self.count

    def pool(self, policy: nn.Module, until: int) -> Pool:
        """Let ``policy`` write until the run has ``until`` tokens; the last chunk of prompts is whole."""
        parts = []
        while self.run.tokens < until or not parts:
            part = next(self.rows)
            parts.append(
                rejection.sample_pool(
                    policy,
                    self.run.tokenizer,
                    self.prompts.select(part),
                    [self.lengths[i] for i in part],
                    self.k,
                    self.run.reward,
                    seed=self.seed(),
                )
            )
            self.run.tokens += sum(map(len, parts[-1].responses))
        return join(parts)


def join(pools: Sequence[Pool]) -> Pool:
    """Pools with the same K as one."""
    lists = {
        name: [each for pool in pools for each in getattr(pool, name)]
        for name in ("prompts", "queries", "texts", "responses")
    }
    return Pool(**lists, scores=torch.cat([pool.scores for pool in pools]))


def best_of_n(task: Task, n: int = 8) -> Result:
    """Nothing is trained: the start writes ``n`` responses to every held-out prompt, the best one counts.

    Every **answer** costs n times the tokens, for ever; a budget for training has no meaning, so
    ``task.budget`` is ignored and the result's ``tokens`` are those of the answers. The KL is
    ``log n − (n − 1)/n``, the bound of :func:`rlhf.rejection.best_of_kl`.

    Raises:
        BadRollout: ``n`` is no whole number above 0.
    """
    if not isinstance(n, int) or n < 1:
        raise BadRollout(f"n 应当是正整数，而不是 {n!r}。", f"n must be 1, 2, …, not {n!r}.")
    run = Run("best_of_n", replace(task, budget=1))
    held = run.held_out
    pool = rejection.sample_pool(
        run.policy, run.tokenizer, held.prompts, held.lengths, n, run.reward, seed=10_000 * (task.seed + 1)
    )
    run.tokens = sum(map(len, pool.responses))
    best = [pool.texts[place] for place in pool.flat(rejection.pick_best(pool.scores))]
    run.curve.append(held.point(best, rejection.best_of_kl(n), run.tokens))
    result = run.result(None, {"n": n})
    return replace(result, settings={"n": n, "seed": task.seed})
