"""Every knob of PPO, with the names and defaults that TRL 0.11.4 gave them. Lessons 06 and 07 use it.

In: keyword arguments. Out: a checked :class:`PPOConfig`; a wrong value is a :class:`BadConfig` (a
``ValueError``) that names the field.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import CourseError
from .losses import KL_PENALTIES
from .optimizers import OPTIMIZERS

# fields that change nothing but rounding and time
SPEED = ("response_only", "fused", "reuse_sampling", "compile_sampling")


class BadConfig(CourseError, ValueError):
    """A setting that cannot work, or two that contradict each other."""


@dataclass
class PPOConfig:
    """Settings of :class:`~rlhf.ppo.PPOTrainer`. One PPO step is one batch of rollouts, reused
    ``ppo_epochs`` times.

    Raises :class:`BadConfig` for a value out of range.
    """

    # the batch
    batch_size: int = 128  # rollouts per step (per process)
    mini_batch_size: int = 128  # sequences per forward and backward pass; lower it when memory is short
    gradient_accumulation_steps: int = 1  # backward passes per optimiser update
    accumulate_by_tokens: bool = False  # True: weigh these passes by tokens; False: mean of means (TRL)
    ppo_epochs: int = 4  # how often a batch is gone through
    steps: int = 20000  # a label: rollouts one means to sample altogether; no loop depends on it

    # the optimiser
    optimizer: str = "adam"  # adam, adamw (which also shrinks weights) or adafactor (needs less memory)
    learning_rate: float = 1.41e-5  # of the optimiser, constant unless a scheduler is given
    max_grad_norm: float | None = None  # clip the global gradient norm before every update; None: do not clip
    gradient_checkpointing: bool = False  # trade time for memory: recompute activations in the backward pass

    # the tax on leaving the reference
    init_kl_coef: float = 0.2  # beta of the first step
    adap_kl_ctrl: bool = True  # move beta towards the target; False: keep it
    target: float = 6.0  # KL per response, in nats, that the adaptive controller steers to
    horizon: float = 10000.0  # how slowly it steers: beta moves by at most 0.2 * batch / horizon per step
    kl_penalty: str = "kl"  # "kl" (log p - log q) | "abs" | "mse" (half its square) | "full" (all tokens)

    # rewards and advantages
    gamma: float = 1.0  # discount per token
    lam: float = 0.95  # GAE: 0 trusts the value head (one step), 1 trusts the sampled return
    whiten_rewards: bool = False  # rewards to variance 1 before GAE
    whiten_advantages: bool = True  # mean 0 and variance 1 over the batch's response tokens; TRL always does
    use_score_scaling: bool = False  # divide scores by the standard deviation of all scores seen so far
    use_score_norm: bool = False  # with use_score_scaling: also subtract their mean
    score_clip: float | None = None  # clip (scaled) scores to [-c, c]

    # the losses
    cliprange: float = 0.2  # policy ratio is clipped to 1 +- this
    cliprange_value: float = 0.2  # values may move this far from the rollout's
    vf_coef: float = 0.1  # weight of the value loss

    # brakes
    early_stopping: bool = False  # stop the epochs of a step when the policy has moved too far
    target_kl: float = 1.0  # "too far": policykl of an epoch's last minibatch above 1.5 times this
    ratio_threshold: float = 10.0  # leave out a minibatch whose mean ratio exceeds this

    # running and logging
    seed: int = 0  # for everything random: sampling, shuffling, minibatches
    log_with: str | list[str] | None = None  # None or "tensorboard" | "wandb" | "none" | accelerate's others
    logging_dir: str | os.PathLike | None = None  # where trackers write; None: output/ppo/runs/<time>
    tracker_project_name: str = "ppo"  # the project in W&B, the sub-folder in TensorBoard
    tracker_kwargs: dict[str, Any] = field(default_factory=dict)  # per tracker: {"wandb": {"name": ...}}
    accelerator_kwargs: dict[str, Any] = field(default_factory=dict)  # for accelerate.Accelerator(...)
    project_kwargs: dict[str, Any] = field(default_factory=dict)  # for accelerate's ProjectConfiguration
    remove_unused_columns: bool = True  # drop all but input_ids, attention_mask, query, response, label

    # speed: the same step up to rounding; lesson 06 leaves them off
    response_only: bool = False  # compute no logits and no columns that no loss reads; numbers there are 0
    fused: bool = False  # one kernel for Adam's update and one for GPT-2's activation
    reuse_sampling: bool = False  # log-probs and values as noted while sampling; not for kl_penalty="full"
    compile_sampling: bool = False  # a GPU writes a token with one compiled graph; on a CPU it does not pay

    # labels: logged with the run, used by nothing
    exp_name: str = "ppo"  # name of the experiment
    task_name: str | None = None  # name of the task
    model_name: str = "gpt2"  # name of the policy; tutorials read it back as config.model_name
    query_dataset: str = "stanfordnlp/imdb"  # name of the prompts' data set
    reward_model: str = "sentiment-analysis:lvwerra/distilbert-imdb"  # name of the reward model

    # accepted so that an old script still runs
    forward_batch_size: int | None = None  # old name of mini_batch_size
    optimize_cuda_cache: bool | None = None  # ignored: torch's allocator needs no emptying here
    optimize_device_cache: bool = False  # ignored, likewise
    compare_steps: int = 1  # ignored, with push_to_hub_if_best_kwargs
    push_to_hub_if_best_kwargs: dict[str, Any] = field(default_factory=dict)  # ignored: nothing is uploaded
    dataset_num_proc: int | None = None  # ignored

    def __post_init__(self) -> None:
        if self.forward_batch_size is not None:
            warnings.warn("forward_batch_size is the old name of mini_batch_size", stacklevel=3)
            self.mini_batch_size = self.forward_batch_size
        self._check_ranges()
        if self.batch_size % self.backward_batch_size:
            _bad(
                f"batch_size ({self.batch_size}) 必须是 mini_batch_size * gradient_accumulation_steps "
                f"({self.backward_batch_size}) 的整数倍",
                f"batch_size ({self.batch_size}) must be a multiple of mini_batch_size * "
                f"gradient_accumulation_steps ({self.backward_batch_size})",
            )
        if self.kl_penalty not in KL_PENALTIES:
            _bad(
                f"kl_penalty 只能是 {KL_PENALTIES} 之一，而不是 {self.kl_penalty!r}",
                f"kl_penalty must be one of {KL_PENALTIES}, not {self.kl_penalty!r}",
            )
        if self.optimizer not in OPTIMIZERS:
            known = ", ".join(OPTIMIZERS)
            _bad(
                f"optimizer 只能是 {known} 之一，而不是 {self.optimizer!r}",
                f"optimizer must be one of {known}, not {self.optimizer!r}",
            )
        if self.use_score_norm and not self.use_score_scaling:
            _bad("use_score_norm 需要 use_score_scaling=True", "use_score_norm needs use_score_scaling=True")
        if self.reuse_sampling and not self.response_only:
            _bad(
                "reuse_sampling 只知道写出的那些词元，需要 response_only=True",
                "reuse_sampling knows the written tokens only: it needs response_only=True",
            )
        if "wandb" in self.trackers:
            os.environ.setdefault("WANDB_MODE", "offline")  # before any wandb.init() of the caller's own

    def _check_ranges(self) -> None:
        for name in ("batch_size", "mini_batch_size", "gradient_accumulation_steps", "ppo_epochs"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                _bad(
                    f"{name} 必须是不小于 1 的整数，而不是 {value!r}",
                    f"{name} must be an integer >= 1, not {value!r}",
                )
        for name in ("learning_rate", "init_kl_coef", "vf_coef"):
            self._number(name, low=0.0)
        for name in ("target", "horizon", "cliprange", "cliprange_value", "target_kl", "ratio_threshold"):
            self._number(name, low=0.0, strictly=True)
        for name in ("gamma", "lam"):
            self._number(name, low=0.0, high=1.0)
        for name in ("max_grad_norm", "score_clip"):
            if getattr(self, name) is not None:
                self._number(name, low=0.0, strictly=True)

    def _number(self, name: str, low: float, high: float = math.inf, strictly: bool = False) -> None:
        value = getattr(self, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
        if not number or value > high or value < low or (strictly and value == low):
            bound = f"{'>' if strictly else '>='} {low:g}" + ("" if math.isinf(high) else f" and <= {high:g}")
            _bad(
                f"{name} 必须是数且 {bound}，而不是 {value!r}",
                f"{name} must be a number {bound}, not {value!r}",
            )

    @property
    def backward_batch_size(self) -> int:
        """Sequences per optimiser update."""
        return self.mini_batch_size * self.gradient_accumulation_steps

    @property
    def total_ppo_epochs(self) -> int:
        """PPO steps that ``steps`` rollouts make."""
        return math.ceil(self.steps / self.batch_size)

    @property
    def trackers(self) -> list[str]:
        """Names of the trackers to start; empty when logging is off."""
        chosen = ["tensorboard"] if self.log_with is None else self.log_with
        chosen = [chosen] if isinstance(chosen, str) else list(chosen)
        return [name for name in chosen if name != "none"]

    def to_dict(self) -> dict[str, Any]:
        """All fields, as plain Python values."""
        return asdict(self)


def _bad(zh: str, en: str) -> None:
    raise BadConfig(zh, en)
