"""What the policy thought while it wrote: log-probabilities and values of its own tokens, kept for the step.

In: rollouts of :func:`rlhf.sampling.generate` with their log-probs and values. Out: the same numbers in the
columns where a step has them, so that the step need not push the rollouts through the policy once more.
``PPOConfig(reuse_sampling=True)`` switches this on. The numbers differ by rounding from those of a pass
over the whole sequence, more so in bfloat16, where the ratio of the first epoch is then not exactly 1.
"""

from __future__ import annotations

from collections import OrderedDict

import torch

from ..sampling import Rollout
from .rollouts import RolloutBatch


class Written:
    """The last ``limit`` rollouts, found by their tokens. Whoever changes the policy calls :meth:`forget`."""

    def __init__(self, limit: int):
        self.limit = limit
        self.known: OrderedDict[tuple, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()

    def add(self, rollout: Rollout) -> None:
        """Keep what ``rollout`` says of its tokens; without its log-probs and values nothing."""
        for query, response, *numbers in zip(
            rollout.queries, rollout.responses, rollout.logprobs, rollout.values, strict=False
        ):
            self.known[tuple(query.tolist()), tuple(response.tolist())] = tuple(numbers)
        while len(self.known) > self.limit:
            self.known.popitem(last=False)

    def forget(self) -> None:
        """The policy is another one now."""
        self.known.clear()

    def columns(self, batch: RolloutBatch, rows: slice) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Log-probs and values of ``rows`` of ``batch``, ``(b, T-1)`` each, 0 outside the response; None if
        one of these rollouts was not written with the present policy or was changed since."""
        ids = batch.input_ids[rows]
        found = []
        for row, q, r in zip(
            ids.tolist(),
            batch.query_lengths[rows].tolist(),
            batch.response_lengths[rows].tolist(),
            strict=True,
        ):
            numbers = self.known.get((tuple(row[:q]), tuple(row[q : q + r])))
            if numbers is None:
                return None
            found.append((slice(q - 1, q - 1 + r), numbers))
        columns = torch.zeros(2, len(ids), ids.shape[1] - 1, device=ids.device)
        for i, (place, numbers) in enumerate(found):
            for column, part in zip(columns, numbers, strict=True):
                column[i, place] = part
        return columns[0], columns[1]
