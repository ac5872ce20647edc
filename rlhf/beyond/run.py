"""What one training run is, whatever the method: the same prompts, a budget of tokens, a curve.

In: a :class:`Task`. Out: a :class:`Result`. A method asks its :class:`Run` for prompts, tells it how many
tokens it generated, and lets it look at the policy now and then. Lesson 09 explains the comparison: response
tokens sampled in training are what is counted, since on large models sampling is most of the cost, and since
it says how much a method saw of the reward model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from rlhf import rejection, sft
from rlhf.beyond.held_out import HeldOut, Point, Score
from rlhf.errors import BadRollout
from rlhf.ppo.config import BadConfig
from rlhf.undisturbed import own_random_state

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, TrainerControl, TrainerState

    from rlhf.profiles import Setup


@dataclass(frozen=True)
class Task:
    """What every method is given.

    Attributes:
        start: folder of the policy to start from. budget: response tokens to generate for training; the batch
            that reaches it is the last one.
        held_out: what measures; by default one on the profile's held-out prompts. points: how often it does,
            the start not counted; a method that works in rounds measures after every round instead.
    """

    setup: Setup
    start: str | Path
    reward: Score
    budget: int = 0
    seed: int = 0
    held_out: HeldOut | None = None
    points: int = 4


@dataclass
class Result:
    """What a run leaves.

    Attributes:
        policy: the trained causal language model, without value head; None where nothing is trained.
        curve: from the start (0 tokens) to the end; :attr:`final` is its last point.
        tokens: response tokens that were generated for training; for best-of-n, for its answers.
        seconds: of sampling, scoring and training, without the measurements.
        settings: what the method was told. history: what its trainer logged, one dict per entry.
    """

    method: str
    policy: nn.Module | None
    tokenizer: PreTrainedTokenizerBase
    curve: list[Point]
    tokens: int
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def final(self) -> Point:
        return self.curve[-1]


class Run:
    """One run of a method in progress: the policy to train, the tokens generated so far, the curve.

    Raises:
        BadRollout: the budget or the number of points is no whole number above 0.
    """

    def __init__(self, method: str, task: Task):
        budget, points = task.budget, task.points
        if not isinstance(budget, int) or budget < 1 or points < 1:
            raise BadRollout(
                f"词元预算和测量次数都应当是正整数，而不是 {budget!r}、{points!r}。",
                f"The budget of tokens and the number of points must be 1, 2, …, not {budget!r}, {points!r}.",
            )
        self.method, self.start, self.reward = method, Path(task.start), task.reward
        self.setup = dataclasses.replace(task.setup, seed=task.seed)
        self.budget, self.points, self.tokens, self.looked = budget, points, 0, 0
        self.held_out = task.held_out or HeldOut(task.setup, task.start, task.reward)
        self.curve = [self.held_out.start]
        self.policy, self.tokenizer = sft.load_policy(task.start, task.setup.device)
        self.policy.eval()
        self.started, self.measuring = time.perf_counter(), 0.0

    def prompts(self, k: int, batch_size: int) -> tuple[Dataset, list[int]]:
        """Enough prompts to spend the budget with ``k`` responses each, and the length of a response to each.

        Whatever ``k`` is, they come from the front of the same list, which the seed determines.

        Raises:
            BadData: the data set has too few reviews.
        """
        sizes = self.setup.response
        mean = (sizes["min_tokens"] + sizes["max_tokens"] - 1) / 2
        count = math.ceil(self.budget / (k * mean)) + batch_size
        config = rejection.RejectionConfig(rounds=1, prompts=count)
        return rejection.training_prompts(self.setup, self.tokenizer, config)

    @property
    def done(self) -> bool:
        return self.tokens >= self.budget

    def look(self, policy: nn.Module) -> None:
        """Measure ``policy`` if that is due: ``points`` times, the last time at the end of the budget."""
        due = min(self.points, self.points * self.tokens // self.budget)
        if due > self.looked:
            self.looked = due
            self.measure(policy)

    def measure(self, policy: nn.Module) -> None:
        """A point of the curve here and now; the clock of the run stands still meanwhile."""
        clock = time.perf_counter()
        self.curve.append(self.held_out(policy, self.tokens))
        self.measuring += time.perf_counter() - clock

    def result(self, policy: nn.Module | None, settings: Any, history: list | None = None) -> Result:
        """The end; the last point of the curve is of ``policy`` as it is now."""
        seconds = time.perf_counter() - self.started - self.measuring
        if policy is not None:
            policy.eval()
            if self.curve[-1].tokens != self.tokens:
                self.measure(policy)
        settings = dict(settings) if isinstance(settings, Mapping) else dataclasses.asdict(settings)
        settings |= {"budget": self.budget, "seed": self.setup.seed}
        return Result(
            self.method,
            policy,
            self.tokenizer,
            self.curve,
            self.tokens,
            round(seconds, 1),
            settings,
            history or [],
        )


def settings(kind: type, changes: Mapping[str, Any]):
    """``kind(**changes)``, where a name that is none of its fields is told.

    Raises:
        BadConfig: such a name, or a value that the class refuses.
    """
    known = [each.name for each in dataclasses.fields(kind)]
    if wrong := [name for name in changes if name not in known]:
        listed = ", ".join(known)
        raise BadConfig(
            f"没有 {', '.join(wrong)} 这样的设置；可选：{listed}。",
            f"No such setting: {', '.join(wrong)}; there are: {listed}.",
        )
    return kind(**changes)


def check_numbers(
    config: Any, whole: tuple[str, ...], positive: tuple[str, ...] = ("learning_rate",)
) -> None:
    """Refuse a field that is no whole number above 0, or no positive number. Raises BadConfig."""
    for name in whole:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadConfig(
                f"{name} 应当是正整数，而不是 {value!r}", f"{name} must be 1, 2, …, not {value!r}"
            )
    for name in positive:
        value = getattr(config, name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
            raise BadConfig(
                f"{name} 应当是正数，而不是 {value!r}", f"{name} must be a positive number, not {value!r}"
            )


def trl_settings(kind: type, run: Run, folder: str | Path, **changes):
    """A configuration of TRL with what all runs share: float32, a constant learning rate, no checkpoints."""
    known = {each.name for each in dataclasses.fields(kind)}
    # the name changes with transformers 6, and the old one already warns
    recompute = next(name for name in ("activation_checkpointing", "gradient_checkpointing") if name in known)
    shared = {
        "output_dir": str(folder),
        "lr_scheduler_type": "constant",
        "bf16": False,
        recompute: False,
        "disable_dropout": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": run.setup.device.startswith("cuda"),
        "use_cpu": run.setup.device == "cpu",
        "seed": run.setup.seed,
    }
    return kind(**shared | changes)


@contextlib.contextmanager
def workplace(seed: int) -> Iterator[str]:
    """For a trainer of TRL: an empty folder, a random state of its own, and no warnings about names that the
    libraries are going to change for each other."""
    with own_random_state(seed), tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield folder


def bookkeeping(run: Run, updates: int):
    """A callback for TRL's online trainers: stop at the budget, measure between two generations.

    ``updates`` is how many optimiser steps belong to one generation.
    """
    from transformers import TrainerCallback

    class Bookkeeping(TrainerCallback):
        def on_step_end(self, args, state: TrainerState, control: TrainerControl, model=None, **others):
            if state.global_step % updates == 0:
                run.look(model)
                control.should_training_stop = run.done

    return Bookkeeping()
