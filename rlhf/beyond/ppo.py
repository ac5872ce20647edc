"""PPO, the course's own trainer, within a budget of tokens. Lessons 06 and 07 explain it; 09 compares it.

In: a :class:`~rlhf.beyond.run.Task` and fields of ``PPOConfig``. Out: a :class:`~rlhf.beyond.run.Result`.
Settings are the profile's, with one change: the KL coefficient stays what it is (``adap_kl_ctrl=False``), so
that it decides how far the run goes, as ``beta`` does for the other methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rlhf import loop
from rlhf.beyond.run import Result, Run, Task, workplace


def train_ppo(task: Task, **changes) -> Result:
    """Train with PPO until the budget is spent; the last batch is whole.

    Args:
        changes: fields of ``PPOConfig`` that differ from the profile's (``init_kl_coef``, …).

    Raises:
        BadConfig: a setting that does not exist or cannot work. BadData: too few reviews for the budget.
    """
    run = Run("ppo", task)
    changes = {"adap_kl_ctrl": False, "log_with": "none", **changes}
    size = changes.get("batch_size", task.setup.ppo["batch_size"])
    prompts, lengths = run.prompts(1, size)
    with workplace(task.seed) as logs:
        trainer = loop.build_trainer(run.setup, Path(logs), run.start, prompts, **changes)
        history, rows = [], batches(len(prompts), size)
        while not run.done:
            part = next(rows)
            batch = {"query": [prompts[i]["query"] for i in part]}
            batch["input_ids"] = [prompts[i]["input_ids"] for i in part]
            own = iter([lengths[i] for i in part])
            history.append(loop.one_step(trainer, run.reward, lambda own=own: next(own), batch))
            run.tokens += int(trainer.experience.mask.sum())
            run.look(trainer.policy)
    settings = {**{k: v for k, v in task.setup.ppo.items() if k != "steps"}, **changes}
    return run.result(trainer.policy.pretrained_model, settings, history)


def batches(rows: int, size: int) -> Iterator[Sequence[int]]:
    """Places 0 … rows − 1 in order, ``size`` at a time, over and over."""
    place = 0
    while True:
        yield [i % rows for i in range(place, place + size)]
        place += size
