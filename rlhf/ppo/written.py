"""What the policy thought while it wrote: log-probabilities and values of its own tokens, kept for the step.

In: rollouts of :func:`rlhf.sampling.generate` with their log-probs and values. Out: the same numbers in the
columns where a step has them, so that the step need not push the rollouts through the policy once more.
``PPOConfig(reuse_sampling=True)`` switches this on. The numbers differ by rounding from those of a pass
over the whole sequence, more so in bfloat16, where the ratio of the first epoch is then not exactly 1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from ..rows import moved
from ..sampling import Rollout
from . import losses
from .rollouts import RolloutBatch


class Written:
    """The last ``limit`` rollouts, found by their tokens. Whoever changes the policy calls :meth:`forget`."""

    def __init__(self, limit: int):
        self.limit = limit
        self.known: OrderedDict[tuple, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()

    def add(self, rollout: Rollout) -> None:
        """Keep what ``rollout`` says of its tokens; without its log-probs and values nothing."""
        if not rollout.logprobs:
            return
        texts = zip(as_tuples(rollout.queries), as_tuples(rollout.responses), strict=True)
        for text, *numbers in zip(texts, rollout.logprobs, rollout.values, strict=True):
            self.known[text] = tuple(numbers)
        while len(self.known) > self.limit:
            self.known.popitem(last=False)

    def forget(self) -> None:
        """The policy is another one now."""
        self.known.clear()

    def columns(self, batch: RolloutBatch, rows: slice) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Log-probs and values of ``rows`` of ``batch``, ``(b, T-1)`` each, 0 outside the response; None if
        one of these rollouts was not written with the present policy or was changed since."""
        ids = batch.input_ids[rows]
        lengths = torch.stack([batch.query_lengths[rows], batch.response_lengths[rows]], dim=1)  # (b, 2)
        found = [
            self.known.get((tuple(row[:q]), tuple(row[q : q + r])))
            for row, (q, r) in zip(ids.tolist(), lengths.tolist(), strict=True)
        ]
        if None in found:
            return None
        place = losses.response_mask(*lengths.unbind(1), ids.shape[1]).bool()  # (b, T-1)
        empty = torch.zeros(place.shape, device=ids.device)
        logprobs, values = (torch.cat(parts) for parts in zip(*found, strict=True))  # row after row
        return empty.masked_scatter(place, logprobs), empty.masked_scatter(place, values)


def as_tuples(rows: Sequence[torch.Tensor]) -> list[tuple[int, ...]]:
    """Token ids to search for; they come from their device together."""
    return [tuple(row.tolist()) for row in moved(rows, "cpu")]
