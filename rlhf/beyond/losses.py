"""GRPO, RLOO and DPO: what each of them minimises, in at most five lines. Pure functions, torch only.

Lesson 09 shows them with ``inspect.getsource``; the tests compare each with what TRL's trainer computes on a
real batch. PPO's own loss is :func:`rlhf.ppo.losses.policy_loss`.

Shapes: P prompts with K responses each, prompt by prompt, so B = P · K sequences; R response tokens, padded
on the right, ``mask`` 1 where there is one. ``logprobs`` are those of the sampled tokens by the policy that
is being trained, ``old_`` by the one that sampled, ``ref_`` by the reference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.ppo.losses import kl_k1, kl_k3, masked_mean, policy_terms, probability_ratio

# ------------------------------------------------------------------------------------------------------ GRPO


def group_advantages(scores: Tensor, scale: bool = True) -> Tensor:
    """How much better a response is than the others to its prompt: ``(P, K)`` → ``(P · K,)``.

    Every token of a response gets this one number. ``scale`` divides by the standard deviation within the
    prompt. Shao et al. 2024 (DeepSeekMath), arXiv:2402.03300, section 4.1.2; Liu et al. 2025 (Dr. GRPO) do
    not scale.
    """
    centred = scores - scores.mean(1, keepdim=True)
    return (centred / (scores.std(1, keepdim=True) + 1e-4) if scale else centred).flatten()


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    cliprange: float = 0.2,
    beta: float = 0.04,
) -> Tensor:
    """PPO's clipped terms per token plus ``beta`` · k3, averaged over each response, then over responses.

    ``logprobs`` and ``mask`` ``(B, R)``, ``advantages`` ``(B,)``; a scalar. arXiv:2402.03300, equations 3
    and 4.
    """
    ratio = probability_ratio(logprobs, old_logprobs, mask)
    surrogate = torch.max(*policy_terms(ratio, advantages[:, None], cliprange))
    return masked_mean(surrogate + beta * kl_k3(logprobs, ref_logprobs), mask, dim=1).mean()


def dapo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    cliprange: float = 0.2,
    beta: float = 0.0,
) -> Tensor:
    """What TRL's GRPOTrainer does by default: the mean over all **tokens** (DAPO, Yu et al. 2025), and the KL
    term times the ratio, which makes its gradient that of the reverse KL (arXiv:2512.02556)."""
    ratio = probability_ratio(logprobs, old_logprobs, mask)
    surrogate = torch.max(*policy_terms(ratio, advantages[:, None], cliprange))
    return masked_mean(surrogate + beta * ratio * kl_k3(logprobs, ref_logprobs), mask)


# ------------------------------------------------------------------------------------------------------ RLOO


def taxed_scores(scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, beta: float) -> Tensor:
    """The score of a whole response minus ``beta`` times its KL estimate, k1 summed over tokens.

    ``scores`` ``(P, K)``, log-probabilities ``(P · K, R)``; result ``(P, K)``. PPO taxes every token instead.
    """
    return scores - beta * (kl_k1(logprobs, ref_logprobs) * mask).sum(1).view_as(scores)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Each reward minus the mean of the **other** K − 1 of its prompt: ``(P, K)`` → ``(P · K,)``.

    An unbiased baseline without a value head. Ahmadian et al. 2024, arXiv:2402.14740; Kool et al. 2019.
    """
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return (rewards - others).flatten()


def rloo_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, cliprange: float = 0.2
) -> Tensor:
    """REINFORCE on whole responses: one ratio per **response**, the product of its tokens' ratios, clipped.

    ``logprobs`` and ``mask`` ``(B, R)``, ``advantages`` ``(B,)``; a scalar. Clipping is TRL's; in the paper
    every batch is used once, where the ratio is 1 and the gradient is that of ``-A · log p(response)``.
    """
    ratio = ((logprobs - old_logprobs) * mask).sum(1).exp()  # (B,)
    return torch.max(*policy_terms(ratio, advantages, cliprange)).mean()


# ------------------------------------------------------------------------------------------------------- DPO


def dpo_loss(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float = 0.1
) -> Tensor:
    """The chosen response should gain more probability against the reference than the rejected one.

    All ``(P,)``: log-probabilities of whole responses, summed over tokens. A scalar. Rafailov et al. 2023,
    arXiv:2305.18290, equation 7.
    """
    margin = (chosen - ref_chosen) - (rejected - ref_rejected)  # (P,)
    return -F.logsigmoid(beta * margin).mean()
