"""The numbers a step reports, its times included, under the names TRL gave them. In: an Experience and its
passes. Out: a flat dict.

Lessons 06 and 07 explain every key. Scalars are finite Python floats, the rest numpy arrays.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from . import losses
from .rollouts import Experience, RolloutBatch

# One minibatch: scalars, and policy/advantages, policy/ratio, mask (b, T-1).
PassStats = dict[str, torch.Tensor]


def pass_stats(
    logprobs: torch.Tensor,
    entropies: torch.Tensor,
    values: torch.Tensor,
    batch: Experience,
    policy_loss: torch.Tensor,
    value_loss: torch.Tensor,
    total: torch.Tensor,
    clip_fractions: tuple[torch.Tensor, torch.Tensor],
) -> PassStats:
    """Statistics of one minibatch, before its update; nothing here is differentiated.

    ``logprobs`` and ``values`` ``(b, T-1)`` are the current policy's, ``entropies`` ``(n,)`` those of its
    distributions at response positions (of one process's rows, and so is ``policy/entropy``).
    """
    mask = batch.mask
    with torch.no_grad():
        return {
            "mask": mask,
            "loss/policy": policy_loss.detach(),
            "loss/value": value_loss.detach(),
            "loss/total": total.detach(),
            "policy/entropy": entropies.mean(),
            "policy/approxkl": losses.approx_kl(logprobs, batch.logprobs, mask),
            "policy/policykl": losses.policy_kl(logprobs, batch.logprobs, mask),
            "policy/clipfrac": clip_fractions[0],
            "policy/advantages": batch.advantages,
            "policy/advantages_mean": losses.masked_mean(batch.advantages, mask),
            "policy/ratio": (logprobs - batch.logprobs).exp(),
            "returns/mean": losses.masked_mean(batch.returns, mask),
            "returns/var": losses.masked_var(batch.returns, mask),
            "val/vpred": losses.masked_mean(values, mask),
            "val/error": losses.masked_mean((values - batch.returns) ** 2, mask),
            "val/clipfrac": clip_fractions[1],
            "val/mean": losses.masked_mean(batch.values, mask),
            "val/var": losses.masked_var(batch.values, mask),
        }


def objective_stats(experience: Experience, rollouts: RolloutBatch, kl_coef: float) -> dict:
    """What was true of the batch before the update: KL, entropy, scores, lengths."""
    mask, scores = experience.mask, experience.scores
    kl_per_response = (experience.kl * mask).sum(-1)  # (B,)
    queries, responses = rollouts.query_lengths.float(), rollouts.response_lengths.float()
    return {
        "objective/kl": kl_per_response.mean(),
        "objective/kl_dist": kl_per_response,
        "objective/logprobs": experience.logprobs,
        "objective/ref_logprobs": experience.ref_logprobs,
        "objective/kl_coef": kl_coef,
        "objective/entropy": -(experience.logprobs * mask).sum(-1).mean(),
        "ppo/mean_non_score_reward": losses.masked_mean(experience.non_score_reward, mask),
        "ppo/mean_scores": scores.mean(),
        "ppo/std_scores": std(scores),
        "tokens/queries_len_mean": queries.mean(),
        "tokens/queries_len_std": std(queries),
        "tokens/queries_dist": queries,
        "tokens/responses_len_mean": responses.mean(),
        "tokens/responses_len_std": std(responses),
        "tokens/responses_dist": responses,
    }


def merged(passes: Sequence[PassStats]) -> PassStats:
    """Minibatches that were accumulated by tokens, as the one large minibatch they stand for."""
    tokens = torch.stack([p["mask"].sum() for p in passes])  # (passes,)
    share = tokens / tokens.sum()
    whole = {}
    for name in passes[0]:
        values = [p[name] for p in passes]
        whole[name] = torch.cat(values) if values[0].dim() else (torch.stack(values) * share).sum()
    for name in ("returns", "val"):  # variances do not average: within the parts, and between their means
        means, within = (torch.stack([p[f"{name}/{key}"] for p in passes]) for key in ("mean", "var"))
        between = tokens * (means - whole[f"{name}/mean"]) ** 2
        squares = (within * (tokens - 1) + between).sum()
        whole[f"{name}/var"] = squares / (tokens.sum() - 1).clamp(min=1)
    return whole


def optimisation_stats(passes: Sequence[PassStats]) -> dict:
    """The mean of every scalar over all passes of the step; advantages and ratios of all passes,
    flattened."""
    stats = {}
    for name in (n for n in passes[0] if n != "mask"):
        values = [p[name].float() for p in passes]
        joined = torch.cat([v.flatten() for v in values]) if values[0].dim() else torch.stack(values).mean()
        stats[f"ppo/{name}"] = joined
    error, variance = stats["ppo/val/error"], stats["ppo/returns/var"]
    stats["ppo/val/var_explained"] = 1 - error / variance.clamp(min=1e-8)
    return stats


def std(x: torch.Tensor) -> torch.Tensor:
    """Unbiased standard deviation, 0 for a single number (where torch says nan)."""
    return x.std() if x.numel() > 1 else torch.zeros((), device=x.device)


def to_plain(stats: dict) -> dict:
    """Tensors to numpy arrays and Python floats, with one transfer from the device for all scalars."""
    names = [k for k, v in stats.items() if isinstance(v, torch.Tensor) and v.dim() == 0]
    numbers = torch.stack([stats[k].detach().float() for k in names]).tolist()
    plain = dict(stats) | dict(zip(names, numbers, strict=True))
    for name, value in plain.items():
        if isinstance(value, torch.Tensor):
            value = value.detach().float().cpu().numpy()
        plain[name] = np.nan_to_num(value) if isinstance(value, np.ndarray) else finite(value)
    return plain


def finite(value: float) -> float:
    """A Python float that a tracker can plot: infinities become the largest floats, nan becomes 0."""
    return float(np.nan_to_num(float(value)))


def split(stats: dict) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Scalars, and the one-dimensional arrays that make a histogram."""
    scalars = {k: float(v) for k, v in stats.items() if np.isscalar(v)}
    arrays = {k: np.asarray(v) for k, v in stats.items() if not np.isscalar(v) and np.ndim(v) == 1}
    return scalars, arrays


class Clock:
    """Seconds per phase of a step, as ``time/ppo/<phase>``."""

    def __init__(self) -> None:
        self.start, self.phases = time.perf_counter(), {}

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.phases[f"time/ppo/{phase}"] = time.perf_counter() - start

    def times(self) -> dict[str, float]:
        return self.phases | {"time/ppo/total": time.perf_counter() - self.start}
