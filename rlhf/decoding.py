"""Many responses at once, token by token: what :func:`rlhf.sampling.generate` does where nothing is cut off.

In: a causal LM of transformers, queries padded on the left, and how long each response may get. Out: one row
of new tokens per query. Lesson 06 samples with it; lesson 03 writes the same loop for one text.

Three things make it faster than the general ``generate`` of transformers, which it replaces for plain
sampling: rows that have ended leave the batch, the logits of a step are looked at once, and a token is drawn
by one random number per row instead of one per word of the vocabulary. Every row has its own random number
in every step, so what is drawn does not depend on the rows that left.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel

BLOCK = 256  # words per block of the vocabulary: a token is looked up among the blocks, then within one
# Ended rows leave the batch once they are this many and this share: copying the others' keys and values costs
# time too.
LEAVE_ROWS, LEAVE_SHARE = 16, 0.25


def drivable(backbone: nn.Module) -> PreTrainedModel | None:
    """The model that :func:`write` can drive: one that takes positions from outside and keeps keys and values
    row by row, without a ``generate`` of its own. With an adapter, the model that it sits in; None if
    there is no such model."""
    if hasattr(backbone, "get_base_model"):  # PEFT
        prompts = getattr(backbone.active_peft_config, "is_prompt_learning", False)
        backbone = None if prompts else backbone.get_base_model()
    if not isinstance(backbone, PreTrainedModel) or not isinstance(backbone, GenerationMixin):
        return None
    if getattr(backbone.generate, "__func__", None) is not GenerationMixin.generate:
        return None
    known = inspect.signature(backbone.forward).parameters
    fits = {"position_ids", "past_key_values", "logits_to_keep"} <= known.keys()
    return backbone if fits and backbone._supports_default_dynamic_cache() else None


class Notes:
    """What the model says of every token it writes: ``logprobs`` and ``values``, ``(B, R)`` each."""

    def __init__(self, value_head: nn.Module, shape: tuple[int, int], device: torch.device):
        """``value_head`` maps hidden states ``(..., H)`` to values ``(...,)``; ``shape`` is ``(B, R)``."""
        self.value_head = value_head
        self.logprobs, self.values = (torch.zeros(shape, device=device) for _ in range(2))

    def take(
        self, rows: torch.Tensor, t: int, logits: torch.Tensor, token: torch.Tensor, hidden: torch.Tensor
    ) -> None:
        """Token number ``t`` of ``rows`` ``(b,)``: its log-probability at temperature 1, and the value of the
        state before it. ``logits`` ``(b, V)``, ``token`` ``(b,)``, ``hidden`` ``(b, H)``."""
        logits = logits.float()
        chosen = logits.gather(-1, token.unsqueeze(-1)).squeeze(-1)
        self.logprobs[rows, t] = chosen - logits.logsumexp(-1)
        self.values[rows, t] = self.value_head(hidden).float()


@torch.no_grad()
def write(
    backbone: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    limits: Sequence[int],
    eos: Sequence[int] = (),
    temperature: float = 1.0,
    notes: Notes | None = None,
) -> torch.Tensor:
    """Sample from the full softmax, row by row up to an EOS or as many tokens as ``limits`` says for it.

    ``input_ids`` and ``attention_mask`` ``(B, Q)`` are padded on the left. Returns ``(B, R)`` with R the
    longest response; what follows a row's own end has no meaning. ``notes`` are taken on the way.
    """
    total, longest, device = len(input_ids), max(limits), input_ids.device
    new = input_ids.new_zeros(total, longest)
    ends, limit = (torch.tensor(list(x), dtype=torch.long, device=device) for x in (eos, limits))
    rows = torch.arange(total, device=device)  # those in the batch
    ended = torch.zeros_like(rows, dtype=torch.bool)
    positions = (attention_mask.cumsum(1) - 1).clamp(min=0)  # (B, Q)
    cache = DynamicCache(config=backbone.config)
    for t in range(longest):
        logits, hidden = forward(backbone, input_ids, positions, attention_mask, cache, notes is not None)
        spots = torch.rand(total, 1, dtype=torch.float64, device=device)[rows]
        token = draw(logits.float() / temperature, spots)  # (b,)
        new[rows, t] = token
        if notes is not None:
            notes.take(rows, t, logits, token, hidden)
        ended |= (t + 1 >= limit[rows]) | torch.isin(token, ends)
        over = ended.tolist()  # the one look per token from the host
        left = over.count(False)
        if left == 0:
            return new[:, : t + 1]
        input_ids, positions = token.unsqueeze(1), positions[:, -1:] + 1
        attention_mask = torch.cat([attention_mask, torch.ones_like(input_ids)], dim=1)
        if len(rows) - left >= max(LEAVE_ROWS, LEAVE_SHARE * len(rows)):
            stay = torch.tensor([i for i, done in enumerate(over) if not done], device=device)
            cache.batch_select_indices(stay)
            rows, ended, input_ids, positions, attention_mask = (
                x[stay] for x in (rows, ended, input_ids, positions, attention_mask)
            )
    return new


def forward(
    backbone: PreTrainedModel,
    input_ids: torch.Tensor,
    positions: torch.Tensor,
    visible: torch.Tensor,
    cache: Cache,
    with_hidden: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The next tokens' logits ``(b, V)``, and the hidden states ``(b, H)`` that they come from, if wanted."""
    output = backbone(
        input_ids=input_ids,
        attention_mask=visible,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        output_hidden_states=with_hidden,
    )
    return output.logits[:, -1], output.hidden_states[-1][:, -1] if with_hidden else None


def draw(logits: torch.Tensor, spots: torch.Tensor) -> torch.Tensor:
    """One token per row, ``(b,)``, from the softmax of ``logits`` ``(b, V)``, by the random numbers ``spots``
    ``(b, 1)`` in [0, 1).

    The token is the first whose cumulative probability exceeds the spot, never one of probability 0. Running
    sums over V numbers per row would be most of the work; here numbers are summed in blocks, and the running
    sum is taken over blocks and within the one block that is hit.
    """
    weights = logits.softmax(-1)
    v = weights.shape[1]
    whole = v // BLOCK * BLOCK
    sums = weights[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1, dtype=torch.float64)
    sums = torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True, dtype=torch.float64)], dim=1)
    upto = sums.cumsum(-1)  # (b, V / BLOCK)
    spots = spots * upto[:, -1:]
    block = torch.searchsorted(upto, spots, right=True)  # (b, 1)
    before = upto.gather(1, block) - sums.gather(1, block)
    columns = block * BLOCK + torch.arange(BLOCK, device=logits.device)  # (b, BLOCK), some past the end
    inside = weights.gather(1, columns.clamp(max=v - 1)).double() * (columns < v)
    inside = inside.cumsum(-1)
    rest = torch.minimum(spots - before, inside[:, -1:] * (1 - 1e-12))  # rounding must not leave the block
    return (block * BLOCK + torch.searchsorted(inside, rest, right=True)).squeeze(1)
