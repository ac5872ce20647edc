"""One training step of every stage, as the stage itself computes it: what the planner counts.

In: a model and token ids ``(B, T)``. Out: a loss to go backward from.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .asking import Ask


def under_autocast(ask: Ask, function: Callable, *arguments) -> Tensor:
    """Mixed precision, as the trainers use it: where the weights are not float32."""
    number = getattr(torch, ask.dtype)
    with torch.autocast("cpu", number, enabled=ask.dtype != "float32"):
        return function(*arguments)


def _lm_loss(model: nn.Module, ids: Tensor, ask: Ask) -> Tensor:
    """Cross-entropy of every token, as SFT has it. (TRL computes it piece by piece and needs less.)"""
    return model(input_ids=ids, labels=ids, use_cache=not ask.checkpointing).loss


def _reward_loss(model: nn.Module, ids: Tensor, ask: Ask) -> Tensor:
    """Bradley–Terry: the first half of the rows is preferred."""
    scores = model(input_ids=ids, use_cache=not ask.checkpointing).logits[:, 0]
    chosen, rejected = scores.chunk(2)
    return -nn.functional.logsigmoid(chosen - rejected).mean()


def _ppo_loss(model: nn.Module, ids: Tensor, ask: Ask) -> Tensor:
    """One minibatch of the course's PPO: policy loss, value loss, and the entropy that is logged."""
    from rlhf.ppo import losses

    logprobs, values, logits = _policy(model, ids, ask)
    old = mask = torch.ones_like(logprobs)
    ratio = losses.probability_ratio(logprobs, old, mask)
    with torch.no_grad():
        losses.entropy_from_logits(logits[:, -ask.new_tokens :])  # of the response
    loss, _ = losses.policy_loss(ratio, old, mask, 0.2)
    return loss + 0.1 * losses.value_loss(values, old, old, mask, 0.2)[0]


def _policy(model: nn.Module, ids: Tensor, ask: Ask) -> tuple[Tensor, Tensor, Tensor]:
    """What PPOTrainer.forward does; a value head of its own is 1 row and is counted by :func:`needs`."""
    from rlhf.ppo import losses

    output = model(input_ids=ids, output_hidden_states=True, use_cache=not ask.checkpointing)
    values, logits = output.hidden_states[-1].float().mean(-1), output.logits.float()[:, :-1]
    return losses.logprobs_from_logits(logits, ids[:, 1:]), values[:, :-1], logits


def score(model: nn.Module, ids: Tensor, ask: Ask) -> None:
    """PPO without gradients: policy and reference over the rollouts."""
    from rlhf.ppo import losses

    logprobs, _, logits = _policy(model, ids, ask)
    reference = model(input_ids=ids, use_cache=True).logits[:, :-1].float()
    del logprobs, logits
    losses.logprobs_from_logits(reference, ids[:, 1:])


LOSSES = {"sft": _lm_loss, "reward": _reward_loss, "ppo": _ppo_loss}
