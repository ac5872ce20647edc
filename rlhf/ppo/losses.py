"""The mathematics of PPO for language models: pure functions, tensors in, tensors out.

Everything here is a function of its arguments and imports nothing but torch, so that a lesson can show a
function with ``inspect.getsource`` and compute it by hand next to it. Lesson 06 walks through all of them,
in this order.

Shapes: B sequences, padded on the right to T tokens, vocabulary V. All tensors of a rollout are ``(B,
T-1)``: index ``t`` is always *the position that predicts token t+1*, so its log-probability, value, reward
and advantage all speak about token t+1. ``mask`` is 1 where token t+1 belongs to the response, 0 for prompt
and padding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

KL_PENALTIES = ("kl", "abs", "mse", "full")


# ---------------------------------------------------------------------------- masks and masked statistics


def response_mask(query_lengths: torch.Tensor, response_lengths: torch.Tensor, length: int) -> torch.Tensor:
    """Mark the positions that predict a response token: ``n_q - 1 <= t < n_q - 1 + n_r``.

    Both lengths are ``(B,)``, ``length`` is T; the result is ``(B, T-1)`` of 0 and 1. The first live
    position is the *last query token*, because it predicts the first response token. Sequences are padded
    on the right.
    """
    t = torch.arange(length - 1, device=query_lengths.device)  # (T-1,)
    start = (query_lengths - 1).unsqueeze(1)  # (B, 1)
    return ((t >= start) & (t < start + response_lengths.unsqueeze(1))).long()


def last_index(mask: torch.Tensor) -> torch.Tensor:
    """Index of the last 1 in every row of ``mask`` ``(B, N)``; result ``(B,)``. Every row must hold a 1."""
    t = torch.arange(mask.shape[1], device=mask.device)
    return (mask * t).argmax(dim=1)


def masked_mean(x: torch.Tensor, mask: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """``sum(x * mask) / sum(mask)``: the mean over *tokens*, so a long response weighs more than a short
    one."""
    if dim is None:
        return (x * mask).sum() / mask.sum()
    return (x * mask).sum(dim) / mask.sum(dim)


def masked_var(x: torch.Tensor, mask: torch.Tensor, unbiased: bool = True) -> torch.Tensor:
    """Variance over the masked tokens; ``unbiased`` divides by n - 1 as ``torch.var`` does (0 if n is 1)."""
    variance = masked_mean((x - masked_mean(x, mask)) ** 2, mask)
    if unbiased:
        n = mask.sum()
        variance = variance * n / (n - 1).clamp(min=1)
    return variance


def whiten(x: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
    """Bring the masked tokens of the whole batch to variance 1 and, if ``shift_mean``, to mean 0.

    ``(x - mean) / sqrt(var + 1e-8)`` with the unbiased variance; without ``shift_mean`` the mean is added
    back. Positions outside the mask come out as 0, so that nothing leaks from padding into a later
    recursion.
    """
    mean, variance = masked_mean(x, mask), masked_var(x, mask)
    whitened = (x - mean) * torch.rsqrt(variance + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return whitened * mask


# ------------------------------------------------------------------------------- from logits to numbers


def logprobs_from_logits(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability of the tokens that were *sampled* (a gather, not an argmax).

    ``logits`` ``(B, N, V)`` and ``tokens`` ``(B, N)`` give ``(B, N)``. The caller aligns them: for a sequence
    ``ids`` ``(B, T)`` pass ``logits[:, :-1]`` and ``ids[:, 1:]``.
    """
    logprobs = F.log_softmax(logits, dim=-1)  # (B, N, V)
    return logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)  # (B, N, 1) -> (B, N)


def entropy_from_logits(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of the next-token distribution in nats, ``-sum_v p_v log p_v``: ``(..., V)`` to ``(...)``."""
    logprobs = F.log_softmax(logits, dim=-1)
    return -(logprobs.exp() * logprobs).sum(-1)


# --------------------------------------------------------------------------- distance to the reference


def kl_k1(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """``log p - log q`` at the sampled token: unbiased for KL(p || q), but a single sample may be negative.

    The three estimators are from J. Schulman, "Approximating KL Divergence", joschu.net/blog/kl-approx.html.
    """
    return logprobs - ref_logprobs


def kl_k2(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """``(log p - log q)^2 / 2``: never negative, low variance, biased."""
    return 0.5 * (logprobs - ref_logprobs) ** 2


def kl_k3(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """``q/p - 1 - log(q/p)``: never negative and unbiased."""
    log_ratio = ref_logprobs - logprobs
    return log_ratio.exp() - 1 - log_ratio


def kl_full(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """The exact ``sum_v p_v (log p_v - log q_v)`` from two log-softmaxes ``(..., V)``; result ``(...)``."""
    return (logprobs.exp() * (logprobs - ref_logprobs)).sum(-1)


def kl_penalty(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, kind: str = "kl") -> torch.Tensor:
    """Per-token distance to the reference, ``(B, N)``: what the reward is taxed with.

    ``"kl"`` is k1, ``"abs"`` its absolute value, ``"mse"`` is k2; these take log-probabilities of the sampled
    tokens ``(B, N)``. ``"full"`` takes whole log-softmaxes ``(B, N, V)``.
    """
    if kind == "kl":
        return kl_k1(logprobs, ref_logprobs)
    if kind == "abs":
        return kl_k1(logprobs, ref_logprobs).abs()
    if kind == "mse":
        return kl_k2(logprobs, ref_logprobs)
    if kind == "full":
        return kl_full(logprobs, ref_logprobs)
    raise ValueError(f"kl_penalty must be one of {KL_PENALTIES}, not {kind!r}")


# ----------------------------------------------------------------- rewards, advantages, returns


def token_rewards(
    scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, kl_coef: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``r_t = -beta * kl_t``, plus the score of the whole text at the last unmasked position.

    ``scores`` ``(B,)``, ``kl`` and ``mask`` ``(B, T-1)``. Returns ``(rewards, non_score_rewards)``, both
    ``(B, T-1)``; positions outside the mask still carry their KL term. Ziegler et al. 2019, arXiv:1909.08593,
    equation 2, and Ouyang et al. 2022 (InstructGPT), arXiv:2203.02155.
    """
    non_score = -kl_coef * kl
    rows = torch.arange(len(scores), device=scores.device)
    rewards = non_score.clone()
    rewards[rows, last_index(mask)] += scores
    return rewards, non_score


def td_errors(rewards: torch.Tensor, values: torch.Tensor, gamma: float) -> torch.Tensor:
    """``delta_t = r_t + gamma V_{t+1} - V_t``, with ``V = 0`` after the last position; all ``(B, N)``.

    How wrong the value head was about a single token. These are no advantages yet: :func:`gae` sums them up.
    """
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    return rewards + gamma * next_values - values


def gae(rewards: torch.Tensor, values: torch.Tensor, gamma: float, lam: float) -> torch.Tensor:
    """Generalised advantage estimation: ``A_t = sum_k (gamma lam)^k delta_{t+k}``, computed from the right.

    The deltas are :func:`td_errors`. ``rewards`` and ``values`` are ``(B, N)`` and already multiplied by the
    mask, which makes the state after a response worth 0, finished or truncated alike. Schulman et al.
    2016, arXiv:1506.02438, equation 16.
    """
    deltas = td_errors(rewards, values, gamma)
    advantages, advantage = torch.zeros_like(deltas), torch.zeros_like(deltas[:, 0])  # (B, N), (B,)
    for t in reversed(range(deltas.shape[1])):
        advantage = deltas[:, t] + gamma * lam * advantage
        advantages[:, t] = advantage
    return advantages


def returns_from(advantages: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``R_t = A_t + V_t``, the value head's target, from the advantages *before* whitening; ``(B, N)``."""
    return advantages + values


# -------------------------------------------------------------------------------------- the two losses


def probability_ratio(logprobs: torch.Tensor, old_logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``pi(token) / pi_old(token) = exp(logp - logp_old)``, ``(B, N)``; 1 outside the mask.

    The mask is applied to the exponent: an overflow at a position that does not count would turn into
    ``inf * 0 = nan`` in the mean and in the gradient.
    """
    return ((logprobs - old_logprobs) * mask).exp()


def policy_terms(
    ratio: torch.Tensor, advantages: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two candidates for the loss of every token: ``-A ratio`` and ``-A clip(ratio, 1 - c, 1 + c)``."""
    return -advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)


def policy_loss(
    ratio: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """PPO's clipped objective as a loss: ``mean(max(-A ratio, -A clip(ratio, 1 - c, 1 + c)))``.

    All ``(B, N)``; returns two scalars, the loss and the share of tokens where clipping makes it larger.
    Schulman et al. 2017, arXiv:1707.06347, equation 7.
    """
    plain, clipped = policy_terms(ratio, advantages, cliprange)
    return masked_mean(torch.max(plain, clipped), mask), masked_mean((clipped > plain).float(), mask)


def value_errors(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, cliprange_value: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(V - R)^2`` and the same with V kept within ``V_old ± c``; both ``(B, N)``."""
    clipped = values.clamp(old_values - cliprange_value, old_values + cliprange_value)
    return (values - returns) ** 2, (clipped - returns) ** 2


def value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    cliprange_value: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``mean(max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2)) / 2``.

    All ``(B, N)``; returns two scalars, the loss and the share of tokens where the clipped error is the
    larger. Clipping values is not in the paper; it comes from OpenAI's baselines (Huang et al. 2022, "The
    37 implementation details of PPO").
    """
    plain_error, clipped_error = value_errors(values, old_values, returns, cliprange_value)
    loss = 0.5 * masked_mean(torch.max(plain_error, clipped_error), mask)
    return loss, masked_mean((clipped_error > plain_error).float(), mask)


def approx_kl(logprobs: torch.Tensor, old_logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """How far the policy has moved since the rollout, k2: ``mean((logp - logp_old)^2) / 2``, a scalar."""
    return masked_mean(kl_k2(logprobs, old_logprobs), mask)


def policy_kl(logprobs: torch.Tensor, old_logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The same distance, k1 and signed: ``mean(logp_old - logp)``; early stopping looks at this scalar."""
    return masked_mean(old_logprobs - logprobs, mask)
