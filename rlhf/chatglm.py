"""The first ChatGLM-6B, rebuilt from its published configuration, to be looked at and not to be talked to.

In: :class:`ChatGLMConfig`. Out: a module tree with the names and shapes of the published checkpoint, and a
forward pass. transformers has no class for it: its code lies in the model's own repository and would have to
be run with ``trust_remote_code``, which this course keeps off. So it is written here again, short, from the
configuration and from reading that file (``modeling_chatglm.py`` of ``zai-org/chatglm-6b``). Lesson 01.

What differs from the original: attention is causal everywhere (there, the prompt reads itself in both
directions), and no weights are loaded. Papers: GLM (Du et al. 2022), GLM-130B (Zeng et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache


@dataclass(frozen=True)
class ChatGLMConfig:
    """The fields of ``config.json`` that decide about the model, under their published names."""

    vocab_size: int
    hidden_size: int
    inner_hidden_size: int
    num_layers: int
    num_attention_heads: int
    max_sequence_length: int
    layernorm_epsilon: float = 1e-5
    position_encoding_2d: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None


class RotaryEmbedding(nn.Module):
    """Cosine and sine of position times frequency: ``(B, T)`` to two tensors ``(B, 1, T, dim)``."""

    def __init__(self, dim: int):
        super().__init__()
        frequencies = 10_000 ** (-torch.arange(0, dim, 2).float() / dim)
        self.register_buffer("inv_freq", frequencies, persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions[:, None, :, None] * self.inv_freq.repeat(2)
        return angles.cos(), angles.sin()


class SelfAttention(nn.Module):
    """Multi-head attention; one projection makes queries, keys and values of all heads."""

    def __init__(self, config: ChatGLMConfig, layer: int):
        super().__init__()
        hidden, self.heads, self.layer = config.hidden_size, config.num_attention_heads, layer
        self.rotary_emb = RotaryEmbedding(hidden // self.heads // 2)  # half a head for each of two positions
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.dense = nn.Linear(hidden, hidden)

    def forward(self, hidden_states: Tensor, positions: Tensor, cache: DynamicCache | None) -> Tensor:
        batch, length, hidden = hidden_states.shape
        mixed = self.query_key_value(hidden_states).view(batch, length, self.heads, -1)  # (B, T, heads, 3 d)
        query, key, value = mixed.transpose(1, 2).chunk(3, dim=-1)  # each (B, heads, T, d)
        query, key = self.rotate(query, positions), self.rotate(key, positions)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        out = F.scaled_dot_product_attention(query, key, value, is_causal=length > 1)
        return self.dense(out.transpose(1, 2).reshape(batch, length, hidden))

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Turn the first half of each head by the position, the second half by the position in the block."""
        parts = []
        for half, position in zip(x.chunk(2, dim=-1), positions.unbind(1), strict=True):
            cos, sin = self.rotary_emb(position)
            left, right = half.chunk(2, dim=-1)
            parts.append(half * cos + torch.cat([-right, left], dim=-1) * sin)
        return torch.cat(parts, dim=-1)


class GLU(nn.Module):
    """Called GLU in the original as well, and no gated linear unit: one way up, GELU, one way down."""

    def __init__(self, config: ChatGLMConfig):
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.inner_hidden_size)
        self.activation_func = nn.GELU(approximate="tanh")
        self.dense_4h_to_h = nn.Linear(config.inner_hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.activation_func(self.dense_h_to_4h(hidden_states)))


class GLMBlock(nn.Module):
    """Norm, then a residual around what was **normalised**, enlarged by alpha: post-LN with DeepNorm.

    Wang et al. 2022 (DeepNet) and GLM-130B write it ``x = LN(alpha * x + f(x))``, alpha = sqrt(2 * layers);
    cut the chain before each LN instead of behind it and you have the lines below.
    """

    def __init__(self, config: ChatGLMConfig, layer: int):
        super().__init__()
        self.alpha = (2 * config.num_layers) ** 0.5
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = SelfAttention(config, layer)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = GLU(config)

    def forward(self, hidden_states: Tensor, positions: Tensor, cache: DynamicCache | None) -> Tensor:
        normed = self.input_layernorm(hidden_states)
        hidden_states = self.alpha * normed + self.attention(normed, positions, cache)
        normed = self.post_attention_layernorm(hidden_states)
        return self.alpha * normed + self.mlp(normed)


class ChatGLMModel(nn.Module):
    """Embedding, blocks, final norm: ``(B, T)`` ids to ``(B, T, H)``."""

    def __init__(self, config: ChatGLMConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(GLMBlock(config, layer) for layer in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)

    def forward(self, input_ids: Tensor, positions: Tensor, cache: DynamicCache | None) -> Tensor:
        hidden_states = self.word_embeddings(input_ids)
        for block in self.layers:
            hidden_states = block(hidden_states, positions, cache)
        return self.final_layernorm(hidden_states)


class ChatGLMForConditionalGeneration(nn.Module):
    """The model with its head, which is the embedding matrix once more."""

    def __init__(self, config: ChatGLMConfig):
        super().__init__()
        self.config = config
        self.transformer = ChatGLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.word_embeddings.weight

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: DynamicCache | None = None,
        use_cache: bool = False,
    ) -> SimpleNamespace:
        """``input_ids`` (B, T) to ``.logits`` (B, T, V); ``.past_key_values`` holds the keys and values.

        All tokens count as prompt: the first position runs, the position in the block stays 0.
        """
        cache = past_key_values or (DynamicCache() if use_cache else None)
        seen = cache.get_seq_length() if cache is not None else 0
        running = torch.arange(seen, seen + input_ids.shape[1], device=input_ids.device)
        positions = torch.stack([running, torch.zeros_like(running)])[None]  # (1, 2, T)
        hidden_states = self.transformer(input_ids, positions.expand(len(input_ids), -1, -1), cache)
        return SimpleNamespace(logits=self.lm_head(hidden_states), past_key_values=cache)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.transformer.word_embeddings

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head
