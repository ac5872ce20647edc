"""Beyond PPO: GRPO, RLOO, DPO, rejection sampling and best-of-n on the task of lesson 07. Lesson 09.

In: a :class:`rlhf.profiles.Setup`, a policy to start from, a reward model, a budget of **generated tokens**
and a seed. Out: one :class:`~rlhf.beyond.run.Result` per run. Every method takes its prompts from the front
of one list, samples with :mod:`rlhf.sampling` (the full softmax, its own length per prompt), stops at the
same number of tokens and is measured by the same :class:`~rlhf.beyond.held_out.HeldOut`::

    held_out = HeldOut(setup, setup.policy, reward)
    for name in METHODS:
        result = train(name, setup, setup.policy, reward, 32_000, seed=0, held_out=held_out)
        print(name, result.final)

| method | module | what it needs besides policy and reward |
|---|---|---|
| ``ppo`` | :mod:`~rlhf.beyond.ppo` | value head, reference |
| ``grpo``, ``rloo`` | :mod:`~rlhf.beyond.online` | K responses per prompt, reference |
| ``dpo`` | :mod:`~rlhf.beyond.dpo` | pairs, reference |
| ``rejection`` | :mod:`~rlhf.beyond.best_of` | K responses per prompt |
| ``best_of_n`` | :mod:`~rlhf.beyond.best_of` | nothing is trained; K responses per **answer** |
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.beyond.held_out import HeldOut, Point, Score
from rlhf.beyond.run import Result, Task
from rlhf.ppo.config import BadConfig

if TYPE_CHECKING:
    from rlhf.profiles import Setup

__all__ = ["METHODS", "STRENGTH", "HeldOut", "Point", "Result", "Task", "method", "train"]

METHODS = {  # TRL takes seconds to import, so a method's module is imported when it is asked for
    "ppo": "ppo:train_ppo",
    "grpo": "online:train_grpo",
    "rloo": "online:train_rloo",
    "dpo": "dpo:train_dpo",
    "rejection": "best_of:train_rejection",
    "best_of_n": "best_of:best_of_n",
}
STRENGTH = {  # the setting that decides how far a method moves from where it started
    "ppo": "init_kl_coef",
    "grpo": "beta",
    "rloo": "beta",
    "dpo": "beta",
    "rejection": "rounds",
    "best_of_n": "n",
}


def method(name: str) -> Callable[..., Result]:
    """The function of a method, ``train_X(task, **settings)``.

    Raises:
        BadConfig: no such method; the message lists them.
    """
    if name not in METHODS:
        known = ", ".join(METHODS)
        raise BadConfig(
            f"没有 {name!r} 这种方法；可选：{known}。", f"No method {name!r}; there are: {known}."
        )
    module, function = METHODS[name].split(":")
    return getattr(import_module(f"rlhf.beyond.{module}"), function)


def train(
    name: str,
    setup: Setup,
    start: str | Path,
    reward: Score,
    budget: int = 0,
    seed: int = 0,
    *,
    held_out: HeldOut | None = None,
    points: int = 4,
    **settings,
) -> Result:
    """One run of the method ``name`` on a :class:`Task` of these; ``settings`` are the method's own.

    Raises:
        BadConfig: a setting that does not exist or cannot work. BadData: too few reviews for the budget.
        BadRollout: a budget or a number of points below 1 (best-of-n needs no budget).
    """
    return method(name)(Task(setup, start, reward, budget, seed, held_out, points), **settings)
