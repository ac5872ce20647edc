"""What a PPO step knows about its batch: the rollouts that come in, and everything computed from them.

In: lists of queries, responses and scores. Out: checked, padded tensors. Nothing here changes a model.
Lesson 06 prints every field of :class:`Experience`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ..errors import BadRollout
from ..rows import moved
from . import losses


@dataclass
class RolloutBatch:
    """The checked input of a step: B sequences ``query ++ response``, padded on the right to T tokens."""

    input_ids: torch.Tensor  # (B, T)
    attention_mask: torch.Tensor  # (B, T), 1 for real tokens, a genuine EOS included
    mask: torch.Tensor  # (B, T-1), 1 at the positions that predict a response token
    scores: torch.Tensor  # (B,), float32, as the reward model gave them
    query_lengths: torch.Tensor  # (B,)
    response_lengths: torch.Tensor  # (B,)


@dataclass
class Experience:
    """Every intermediate of a step, before the first update; ``(B, T-1)`` unless noted, all without
    gradient."""

    input_ids: torch.Tensor  # (B, T)
    attention_mask: torch.Tensor  # (B, T)
    mask: torch.Tensor  # response positions
    logprobs: torch.Tensor  # of the policy that sampled, "old" in the ratio
    ref_logprobs: torch.Tensor  # of the reference
    kl: torch.Tensor  # the chosen penalty per token
    values_raw: torch.Tensor  # the value head, everywhere
    scores: torch.Tensor | None = None  # (B,) after scaling and clipping
    non_score_reward: torch.Tensor | None = None  # -beta * kl
    rewards: torch.Tensor | None = None  # the same plus the score on the last token
    rewards_used: torch.Tensor | None = None  # what GAE sees: masked, whitened if asked
    values: torch.Tensor | None = None  # masked values, "old" in value clipping
    advantages_raw: torch.Tensor | None = None  # GAE
    advantages: torch.Tensor | None = None  # whitened over the batch, 0 outside the mask
    returns: torch.Tensor | None = None  # what the value head should have said

    def rows(self, index: torch.Tensor) -> Experience:
        """The same record for some of the sequences: a minibatch."""
        return Experience(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def check_rollouts(
    queries: Sequence[torch.Tensor],
    responses: Sequence[torch.Tensor],
    scores: Sequence[torch.Tensor] | torch.Tensor,
    response_masks: Sequence[torch.Tensor] | None = None,
    *,
    batch_size: int,
    vocab_size: int,
    max_length: int | None,
    pad_token_id: int,
    device: torch.device,
) -> RolloutBatch:
    """Check a step's input and pad it, or raise :class:`BadRollout` and say what is wrong with which element.

    ``queries`` and ``responses`` are lists of 1-D integer tensors, ``scores`` a list of single numbers or a
    tensor ``(B,)``, ``response_masks`` 0/1 tensors as long as their responses.
    """
    scores = list(scores) if isinstance(scores, torch.Tensor) and scores.dim() == 1 else scores
    named = {"queries": queries, "responses": responses, "scores": scores}
    if response_masks is not None:
        named["response_masks"] = response_masks
    for name, values in named.items():
        _check_list(name, values, batch_size)
    queries = _check_tokens("queries", queries, vocab_size, device)
    responses = _check_tokens("responses", responses, vocab_size, device)
    checked_scores = _check_scores(scores)
    query_lengths = torch.tensor([len(q) for q in queries], device=device)
    response_lengths = torch.tensor([len(r) for r in responses], device=device)
    longest = max(len(q) + len(r) for q, r in zip(queries, responses, strict=True))
    if max_length is not None and longest > max_length:
        _bad(
            f"最长的 query+response 有 {longest} 个词元，而模型最多支持 {max_length} 个",
            f"the longest query + response has {longest} tokens, but the model has {max_length} positions",
        )
    sequences = [torch.cat(pair) for pair in zip(queries, responses, strict=True)]
    input_ids = pad_sequence(sequences, batch_first=True, padding_value=pad_token_id)  # (B, T)
    column = torch.arange(longest, device=device)
    attention_mask = (column < (query_lengths + response_lengths).unsqueeze(1)).long()
    mask = losses.response_mask(query_lengths, response_lengths, input_ids.shape[1])
    if response_masks is not None:
        mask = _apply_response_masks(mask, query_lengths, responses, response_masks)
    return RolloutBatch(
        input_ids, attention_mask, mask, checked_scores.to(device), query_lengths, response_lengths
    )


def _check_list(name: str, values: object, batch_size: int) -> None:
    if not isinstance(values, (list, tuple)):
        kind = type(values).__name__
        _bad(f"{name} 应当是张量的列表，而不是 {kind}", f"{name} must be a list of tensors, not {kind}")
    if len(values) != batch_size:
        _bad(
            f"{name} 有 {len(values)} 个元素，而 config.batch_size 是 {batch_size}",
            f"{name} has {len(values)} elements, but config.batch_size is {batch_size}",
        )


def _check_tokens(
    name: str, values: Sequence[object], vocab_size: int, device: torch.device
) -> list[torch.Tensor]:
    for i, tokens in enumerate(values):
        if not isinstance(tokens, torch.Tensor) or tokens.dim() != 1:
            shape = tuple(tokens.shape) if isinstance(tokens, torch.Tensor) else type(tokens).__name__
            _bad(
                f"{name}[{i}] 应当是一维张量，而不是 {shape}",
                f"{name}[{i}] must be a 1-D tensor, not {shape}",
            )
        if tokens.dtype == torch.bool or tokens.is_floating_point() or tokens.is_complex():
            _bad(
                f"{name}[{i}] 应当是整数词元，而不是 {tokens.dtype}",
                f"{name}[{i}] must hold integer token ids, not {tokens.dtype}",
            )
        if tokens.numel() == 0:
            _bad(f"{name}[{i}] 是空的", f"{name}[{i}] is empty")
    values = moved(values, device)
    # one look at all of them: a device is asked once, not once per sequence
    lowest, highest = torch.stack(torch.cat(values).aminmax()).tolist()
    if lowest < 0 or highest >= vocab_size:
        i = next(i for i, v in enumerate(values) if int(v.min()) < 0 or int(v.max()) >= vocab_size)
        wrong = next(t for t in values[i].tolist() if not 0 <= t < vocab_size)
        _bad(
            f"{name}[{i}] 中的词元 {wrong} 不在词表内（大小 {vocab_size}）",
            f"{name}[{i}] holds token {wrong}, outside the vocabulary of {vocab_size}",
        )
    return values


def _check_scores(scores: Sequence[object]) -> torch.Tensor:
    for i, score in enumerate(scores):
        if isinstance(score, torch.Tensor):
            number = score.numel() == 1 and score.dim() <= 1
            number = number and not score.is_complex() and score.dtype != torch.bool
        else:
            number = isinstance(score, (int, float, np.number)) and not isinstance(score, bool)
        if not number:
            kind = f"{tuple(score.shape)} {score.dtype}" if isinstance(score, torch.Tensor) else repr(score)
            _bad(
                f"scores[{i}] 应当是一个数，而不是 {kind}", f"scores[{i}] must be a single number, not {kind}"
            )
    checked = torch.stack([torch.as_tensor(s).detach().reshape(()).float() for s in scores])
    finite = torch.isfinite(checked)
    if not bool(finite.all()):
        i = int((~finite).nonzero()[0])
        value = float(checked[i])
        _bad(f"scores[{i}] 是 {value}，不是有限的数", f"scores[{i}] is {value}, not a finite number")
    return checked


def _apply_response_masks(
    mask: torch.Tensor,
    query_lengths: torch.Tensor,
    responses: Sequence[torch.Tensor],
    response_masks: Sequence[torch.Tensor],
) -> torch.Tensor:
    mask = mask.clone()
    for i, (start, response, wanted) in enumerate(
        zip(query_lengths - 1, responses, response_masks, strict=True)
    ):
        if not isinstance(wanted, torch.Tensor) or wanted.shape != response.shape:
            _bad(
                f"response_masks[{i}] 的形状应当是 {tuple(response.shape)}",
                f"response_masks[{i}] must be a tensor of shape {tuple(response.shape)}",
            )
        wanted = wanted.to(mask.device)
        if not bool(((wanted == 0) | (wanted == 1)).all()) or not bool(wanted.any()):
            _bad(
                f"response_masks[{i}] 只能含 0 和 1，且至少有一个 1",
                f"response_masks[{i}] must hold only 0 and 1, and at least one 1",
            )
        mask[i, start : start + len(response)] = wanted.long()
    return mask


def _bad(zh: str, en: str) -> None:
    raise BadRollout(zh, en)
