"""Only the work that counts: a PPO step without logits where no loss is, and without columns of padding.

In: padded token ids and the mask of response positions. Out: the same log-probabilities, values and
entropies as the plain pass gives at those positions, up to rounding; everywhere else 0.
``PPOConfig(response_only=True)`` and ``fused=True`` switch this on; lesson 06 looks at every position and
leaves both off.

Where the time goes without it: the language-model head is a third of GPT-2's arithmetic, and half of a
batch's positions are prompt or padding. Log-softmax, entropy and their gradient go through a table of V
numbers per position again and again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import NewGELUActivation

ROWS = 32  # of a table of logits that a CPU looks at together


class TokenLogprobs(torch.autograd.Function):
    """``logits`` ``(n, V)`` and ``tokens`` ``(n,)`` to log-probabilities and entropies, ``(n,)`` each.

    As ``log_softmax`` and ``gather``, and :func:`rlhf.ppo.losses.entropy_from_logits` beside it. Both need
    the probabilities, and so does the gradient, ``onehot(token) - p``: the one table of ``(n, V)`` that is
    kept, and that becomes the gradient (so there is one backward pass, not two). On a CPU a few rows are
    looked at together, which stay in its cache. The entropy is a statistic and has no gradient.
    """

    @staticmethod
    def forward(ctx, logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        table = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        chosen, entropies = [], []
        rows = ROWS if logits.device.type == "cpu" else len(logits)
        for i in range(0, len(logits), rows):
            part = slice(i, i + rows)
            logprobs = logits[part].log_softmax(-1)  # (rows, V)
            probabilities = torch.exp(logprobs, out=None if table is None else table[part])
            chosen.append(logprobs.gather(-1, tokens[part].unsqueeze(-1)).squeeze(-1))
            entropies.append(-torch.linalg.vecdot(probabilities, logprobs))
        chosen, entropy = torch.cat(chosen), torch.cat(entropies)  # (n,) each
        ctx.save_for_backward(table, tokens)
        ctx.mark_non_differentiable(entropy)
        return chosen, entropy

    @staticmethod
    def backward(ctx, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, None]:
        table, tokens = ctx.saved_tensors
        at_logits = table.mul_(-gradient.unsqueeze(-1))  # (n, V)
        return at_logits.scatter_add_(-1, tokens.unsqueeze(-1), gradient.unsqueeze(-1)), None


@dataclass
class Live:
    """The part of a padded minibatch that has to be computed: the first ``t`` columns of its T."""

    inputs: torch.Tensor  # (b, t), what the models read: all but the longest sequence's last token
    attention_mask: torch.Tensor  # (b, t)
    places: torch.Tensor  # (n,), which of the b * t positions predict a response token
    tokens: torch.Tensor  # (n,), the tokens they predict
    columns: int  # T - 1

    @classmethod
    def of(cls, input_ids: torch.Tensor, attention_mask: torch.Tensor, mask: torch.Tensor) -> Live:
        """From ``input_ids`` and ``attention_mask`` ``(b, T)`` and ``mask`` ``(b, T-1)``."""
        longest, n = torch.stack([attention_mask.sum(1).max(), mask.sum()]).tolist()  # the host's one look
        t = longest - 1
        places = mask[:, :t].flatten().nonzero_static(size=n).squeeze(1)
        tokens = input_ids[:, 1 : t + 1].flatten()[places]
        return cls(input_ids[:, :t], attention_mask[:, :t], places, tokens, mask.shape[1])

    def spread(self, numbers: torch.Tensor) -> torch.Tensor:
        """``(n,)`` back into their places: ``(b, T-1)``, 0 elsewhere."""
        everywhere = numbers.new_zeros(self.inputs.numel()).index_put((self.places,), numbers)
        return self.widen(everywhere.view(self.inputs.shape))

    def widen(self, columns: torch.Tensor) -> torch.Tensor:
        """``(b, t)`` to ``(b, T-1)`` with columns of 0."""
        return F.pad(columns, (0, self.columns - columns.shape[1]))


@contextlib.contextmanager
def head_at(backbone: nn.Module, places: torch.Tensor) -> Iterator[None]:
    """While this lasts, the language-model head of ``backbone`` computes only the positions ``places``
    ``(n,)`` of the flattened ``(b, t)``.

    Its logits are then ``(n, V)``; what the model does to logits afterwards (scaling, soft capping) stays.
    """
    head = backbone.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, inputs: (inputs[0].flatten(0, 1)[places],))
    try:
        yield
    finally:
        hook.remove()


def like_lengths_together(attention_mask: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The same ``rows``, shortest sequence first: minibatches cut from them have little padding."""
    return rows[attention_mask[rows].sum(1).argsort(stable=True)]


def fuse_activations(*models: nn.Module) -> None:
    """Let torch compute GPT-2's GELU in one pass; transformers writes it out in eight, and keeps four tables
    for the gradient. Same formula, other rounding."""
    for parent in [parent for model in models for parent in model.modules()]:
        for name, child in parent.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(parent, name, nn.GELU(approximate="tanh"))


def spare_embedding_gradient(model: nn.Module) -> None:
    """Where the embedding is also the head's matrix, let its own gradient name the few rows it has instead of
    filling a table of ``(V, H)``, which every backward pass would make, clear and add to the head's."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embedding, nn.Embedding) and head is not None and embedding.weight is head.weight:
        embedding.sparse = True  # the head's gradient is a whole matrix, and so is their sum


def fuse_update(optimizer: torch.optim.Optimizer) -> None:
    """Let Adam and AdamW go through parameters, gradients and moments once per update, not a dozen times.
    Other optimisers, and settings that exclude it, stay as they are."""
    if not isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        return
    for group in optimizer.param_groups:
        if not any(group.get(name) for name in ("foreach", "capturable", "differentiable")):
            group["fused"] = True
