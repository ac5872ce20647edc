"""The parts of a transformer block, each as short as its formula.

In: queries, keys and values; hidden states ``(B, T, H)``; attention masks and positions. Out: hidden states
of the same shape. Lesson 02 derives every line on toy numbers and holds it against PyTorch and transformers;
``rlhf.gpt`` (lesson 03) is a whole model in the manner of GPT-2.

Departures from what large models do: no dropout, no grouped key/value heads, and weights are shown rather
than fused away. ``torch.nn`` keeps the norms (``nn.LayerNorm``, ``nn.RMSNorm``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf.errors import CourseError

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),  # GPT-2's, which transformers calls gelu_new
    "silu": F.silu,  # x · sigmoid(x), also called Swish
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}

# Gated variants by the activation of their gate (Shazeer 2020, "GLU Variants Improve Transformer", eq. 5).
GATES = {"GLU": "sigmoid", "ReGLU": "relu", "GEGLU": "gelu", "SwiGLU": "silu", "Bilinear": "identity"}


# ---------------------------------------------------------------------------------------------- attention


def causal_mask(length: int, device: torch.device | str | None = None) -> Tensor:
    """``(T, T)`` of bool, True where row t may look at column s: at itself and at what came before."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def visible(attention_mask: Tensor) -> Tensor:
    """Who may look at whom in a padded batch: ``(B, T)`` of 0 and 1 to ``(B, 1, T, T)`` of bool.

    A real token sees the real tokens up to itself. A padded position sees itself only: nobody reads it, but a
    row with nothing to look at would be a softmax over nothing, which is NaN.
    """
    if attention_mask.dim() != 2:
        raise CourseError(
            f"attention_mask 的形状应当是 (B, T)，而不是 {tuple(attention_mask.shape)}。",
            f"attention_mask should have the shape (B, T), not {tuple(attention_mask.shape)}.",
        )
    length, device = attention_mask.shape[1], attention_mask.device
    real = attention_mask.bool()[:, None, None, :]  # (B, 1, 1, T): the keys
    itself = torch.eye(length, dtype=torch.bool, device=device)  # (T, T)
    return causal_mask(length, device) & real | itself


def position_ids(attention_mask: Tensor) -> Tensor:
    """``(B, T)`` of 0 and 1 to ``(B, T)``: the first real token of every row is at position 0.

    On the left of it padding gets 0, which nobody reads. It is what transformers' ``generate`` computes; a
    plain forward call does not, and counts padding.
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``softmax(Q Kᵀ / √d) V`` (Vaswani et al. 2017, eq. 1).

    Args:
        query: ``(..., T, d)``. key: ``(..., S, d)``. value: ``(..., S, e)``.
        mask: bool, broadcast to ``(..., T, S)``, True where row t may look at column s.

    Returns:
        The output ``(..., T, e)``, and the weights ``(..., T, S)``, whose rows sum to 1.
    """
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # (..., T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1)
    return weights @ value, weights


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``(B, T, H)`` to ``(B, heads, T, H / heads)``: neighbouring features make a head, no number changes."""
    batch, length, width = x.shape
    return x.view(batch, length, heads, width // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``(B, heads, T, d)`` to ``(B, T, heads · d)``: the inverse of :func:`split_heads`."""
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Queries, keys and values from one set of hidden states, all heads at once, and a matrix to mix them."""

    def __init__(self, width: int, heads: int, bias: bool = True):
        super().__init__()
        if width % heads:
            raise CourseError(
                f"宽度 {width} 不能被 {heads} 个头整除。", f"{heads} heads do not divide the width {width}."
            )
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias)
        self.out = nn.Linear(width, width, bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, T, H)`` to ``(B, T, H)``; ``mask`` as in :func:`attention`, for ``(B, heads, T, T)``."""
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        output, _ = attention(query, key, value, mask)
        return self.out(merge_heads(output))


# ------------------------------------------------------------------------------------------ feed-forward


class FFN(nn.Module):
    """``W_down · act(W_up x)``: two matrices, ``2 · width · hidden`` weights."""

    def __init__(self, width: int, hidden: int, activation: str = "gelu", bias: bool = False):
        super().__init__()
        self.up = nn.Linear(width, hidden, bias)
        self.down = nn.Linear(hidden, width, bias)
        self.act = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """``(..., H)`` to ``(..., H)``; every position by itself."""
        return self.down(self.act(self.up(x)))


class GLU(nn.Module):
    """``W_down · (act(W_gate x) ⊙ W_up x)``: three matrices, ``3 · width · hidden`` weights.

    ``kind`` names the gate: one of :data:`GATES`. Llama's feed-forward layer is ``GLU(..., "SwiGLU")``.
    """

    def __init__(self, width: int, hidden: int, kind: str = "SwiGLU", bias: bool = False):
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias)
        self.up = nn.Linear(width, hidden, bias)
        self.down = nn.Linear(hidden, width, bias)
        self.act = ACTIVATIONS[GATES[kind]]

    def forward(self, x: Tensor) -> Tensor:
        """``(..., H)`` to ``(..., H)``; every position by itself."""
        return self.down(self.act(self.gate(x)) * self.up(x))


def matched_hidden(ffn_hidden: int, multiple_of: int = 1) -> int:
    """The hidden size at which a GLU has as many weights as an FFN of ``ffn_hidden``: two thirds of it.

    Three matrices instead of two, so each may be 2/3 as wide; rounded up to a multiple (Llama: of 256).
    """
    return math.ceil(2 * ffn_hidden / 3 / multiple_of) * multiple_of


# --------------------------------------------------------------------------------------------- the block


class Block(nn.Module):
    """A transformer block: attention, then ``mlp``, each added to the residual stream.

    ``pre=True`` normalises what a part reads (GPT-2, Llama; Xiong et al. 2020); ``pre=False`` normalises the
    stream itself after every addition (the original transformer, BERT).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp: nn.Module,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        pre: bool = True,
    ):
        super().__init__()
        self.norm_1, self.norm_2 = norm(width), norm(width)
        self.attention = SelfAttention(width, heads)
        self.mlp = mlp
        self.pre = pre

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, T, H)`` to ``(B, T, H)``; ``mask`` as in :func:`attention`."""
        if self.pre:
            x = x + self.attention(self.norm_1(x), mask)
            return x + self.mlp(self.norm_2(x))
        x = self.norm_1(x + self.attention(x, mask))
        return self.norm_2(x + self.mlp(x))


# -------------------------------------------------------------------------------------- rotary positions


def rotary_angles(positions: Tensor, size: int, base: float = 10_000.0) -> Tensor:
    """Angles in radians, ``(..., T, size / 2)``: position times a frequency that falls from 1 to 1/base.

    Source: Su et al. 2021, "RoFormer", section 3.2.2.
    """
    frequencies = base ** (-torch.arange(0, size, 2, device=positions.device) / size)  # (size / 2,)
    return positions[..., None] * frequencies


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn every pair ``(x_i, x_{i + d/2})`` of ``x`` ``(..., T, d)`` by its angle ``(..., T, d / 2)``.

    The pairs are those of Llama in transformers: first half with second half. The paper pairs neighbours;
    the two differ by a fixed reordering of the features.
    """
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
