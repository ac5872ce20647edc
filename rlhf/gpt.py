"""GPT-2 from scratch: the whole model, its weights from a published checkpoint, and generation.

In: token ids ``(B, T)`` and an attention mask. Out: logits ``(B, T, V)``, or responses. Lesson 03 builds the
classes one by one, from the bottom up, and checks each against ``transformers``::

    GPT                                         logits over the vocabulary
    └ TransformerDecoder                        embeddings, blocks, final norm
      └ TransformerDecoderBlock  × n_layer      x + attention(norm(x)), then x + ffn(norm(x))
        ├ MaskedMultiheadSelfAttention
        └ FFN

What differs from ``transformers``: linear layers are ``nn.Linear`` (weight ``(out, in)``) instead of Conv1D
(``(in, out)``); positions are always counted along the attention mask, so that left padding needs no extra
argument; weights are kept in float32. Radford et al. 2019, "Language Models are Unsupervised Multitask
Learners"; Vaswani et al. 2017, "Attention Is All You Need".
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from rlhf import checkpoint, published
from rlhf.blocks import merge_heads, position_ids, split_heads
from rlhf.errors import BadRollout, CannotWrite
from rlhf.files import whole_folder
from rlhf.published import UnsupportedModel
from rlhf.sampling import Rollout, left_pad, response_lengths
from rlhf.undisturbed import evaluating

EXPORTED = ".rlhf-gpt"  # marks the folders that save_pretrained may replace
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": functools.partial(F.gelu, approximate="tanh"),  # GPT-2's own
    "gelu_pytorch_tanh": functools.partial(F.gelu, approximate="tanh"),
    "gelu_fast": functools.partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


# ----------------------------------------------------------------------------------------- configuration


@dataclass(frozen=True)
class GPTConfig:
    """The sizes of a GPT-2, under the names of its published ``config.json``; defaults are GPT-2 small's.

    Raises:
        UnsupportedModel: a size is not a positive whole number, the heads do not divide the width, or the
            activation is not one of :data:`ACTIVATIONS`.
    """

    vocab_size: int = 50257
    n_positions: int = 1024  # the longest sequence
    n_embd: int = 768  # width of the hidden states, H
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None  # width inside the FFN; None means 4 * n_embd
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    embd_pdrop: float = 0.1  # dropout after the embeddings, on attention weights, before each residual sum
    attn_pdrop: float = 0.1
    resid_pdrop: float = 0.1
    initializer_range: float = 0.02
    eos_token_id: int | Sequence[int] | None = 50256

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise UnsupportedModel(
                    f"{name} 应当是正整数，而不是 {size!r}。",
                    f"{name} must be a positive whole number, not {size!r}.",
                )
        if self.n_embd % self.n_head:
            raise UnsupportedModel(
                f"宽度 {self.n_embd} 不能平分给 {self.n_head} 个头。",
                f"A width of {self.n_embd} cannot be divided among {self.n_head} heads.",
            )
        if self.activation_function not in ACTIVATIONS:
            raise UnsupportedModel(
                f"不支持激活函数 {self.activation_function!r}；可用：{', '.join(ACTIVATIONS)}。",
                f"The activation {self.activation_function!r} is not one of {', '.join(ACTIVATIONS)}.",
            )

    @property
    def inner(self) -> int:
        """Width inside the FFN."""
        return self.n_inner or 4 * self.n_embd

    @classmethod
    def from_published(cls, fields: Mapping[str, Any]) -> GPTConfig:
        """Read ``transformers``' fields; those that change no number here (``summary_type`` …) are skipped.

        ``reorder_and_upcast_attn`` is one of those: it matters in half precision only.

        Raises:
            UnsupportedModel: not a GPT-2, a size is missing, or a setting that this class cannot honour.
        """
        for name, (expected, why_zh, why_en) in MUST_BE.items():
            if fields.get(name, expected) != expected:
                raise UnsupportedModel(
                    f"config.json 里 {name} = {fields[name]!r}，而这个实现{why_zh}。",
                    f"config.json has {name} = {fields[name]!r}, but {why_en}.",
                )
        sizes = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
        missing = [name for name in sizes if name not in fields]
        if missing:
            raise UnsupportedModel(
                f"config.json 缺少 {', '.join(missing)}。", f"config.json lacks {', '.join(missing)}."
            )
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in fields.items() if name in known})


MUST_BE = {  # settings of GPT-2's configuration that change the computation: expected value, and why
    "model_type": ("gpt2", "只会算 GPT-2", "this is GPT-2 only"),
    "scale_attn_weights": (True, "总是除以 √d", "scores are always divided by √d here"),
    "scale_attn_by_inverse_layer_idx": (
        False,
        "不会再除以层号",
        "scores are not divided by the layer's number here",
    ),
    "add_cross_attention": (False, "没有交叉注意力", "there is no cross-attention here"),
    "tie_word_embeddings": (True, "的输出头就是词嵌入", "the output head is the token embedding here"),
}


# ----------------------------------------------------------------------------------- the mask, the cache


def visible_keys(attention_mask: Tensor, new: int) -> Tensor:
    """Which of the T tokens each of the last ``new`` may read, ``(B, 1, new, T)``, True or False.

    The last ``new`` rows of :func:`rlhf.blocks.visible`: with a cache, only they are computed.
    """
    length = attention_mask.shape[1]
    key = torch.arange(length, device=attention_mask.device)  # (T,)
    query = key[length - new :, None]  # (new, 1)
    real = attention_mask.bool()[:, None, None, :]  # (B, 1, 1, T)
    return (key <= query) & (real | (key == query))


class KVCache:
    """Keys and values that one attention layer has computed so far, ``(B, heads, T, d)`` each."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append those of the new tokens; return all of them."""
        if self.keys is not None:
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values


# ---------------------------------------------------------------------------------------- the model itself


class MaskedMultiheadSelfAttention(nn.Module):
    """``softmax(Q K^T / sqrt(d)) V`` in ``n_head`` heads of width ``d = H / n_head`` (Vaswani, eq. 1)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.n_head = config.n_head
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.out = nn.Linear(config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.attn_pdrop)

    def forward(self, x: Tensor, visible: Tensor, cache: KVCache | None = None) -> Tensor:
        """``x`` ``(B, N, H)`` of the N newest tokens, ``visible`` ``(B, 1, N, T)``; returns ``(B, N, H)``."""
        parts = self.qkv(x).chunk(3, dim=-1)  # each (B, N, H)
        q, k, v = (split_heads(part, self.n_head) for part in parts)  # each (B, heads, N, d)
        if cache is not None:
            k, v = cache.extend(k, v)  # (B, heads, T, d): those of earlier tokens too
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, heads, N, T)
        weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
        mixed = self.dropout(weights) @ v  # (B, heads, N, d)
        return self.out(merge_heads(mixed))  # heads side by side again: (B, N, H)


class FFN(nn.Module):
    """Two linear layers with an activation between; every position by itself, ``(B, N, H)`` to the same."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.up = nn.Linear(config.n_embd, config.inner)
        self.down = nn.Linear(config.inner, config.n_embd)
        self.activation = ACTIVATIONS[config.activation_function]

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class TransformerDecoderBlock(nn.Module):
    """Attention, then FFN, each on the normalised stream and each **added** to the stream (pre-LN)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attention = MaskedMultiheadSelfAttention(config)
        self.norm_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.ffn = FFN(config)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, visible: Tensor, cache: KVCache | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_1(x), visible, cache))
        return x + self.dropout(self.ffn(self.norm_2(x)))


class TransformerDecoder(nn.Module):
    """Token and position embeddings, the blocks, a last LayerNorm: ids ``(B, N)`` to states ``(B, N, H)``."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.n_positions, config.n_embd)
        self.dropout = nn.Dropout(config.embd_pdrop)
        self.blocks = nn.ModuleList(TransformerDecoderBlock(config) for _ in range(config.n_layer))
        self.final_norm = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(self, x: Tensor, attention_mask: Tensor, cache: list[KVCache] | None = None) -> Tensor:
        """``x`` holds the N newest tokens, ``attention_mask`` ``(B, T)`` those in the cache as well."""
        new = x.shape[1]
        place = position_ids(attention_mask)[:, -new:]  # (B, N)
        visible = visible_keys(attention_mask, new)  # (B, 1, N, T)
        h = self.dropout(self.token_embedding(x) + self.position_embedding(place))  # (B, N, H)
        for i, block in enumerate(self.blocks):
            h = block(h, visible, cache[i] if cache is not None else None)
        return self.final_norm(h)


class GPT(nn.Module):
    """A GPT-2 language model. The output head has no weights of its own: it is the token embedding."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.decoder = TransformerDecoder(config)
        self.apply(functools.partial(initialise, config=config))

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, cache: list[KVCache] | None = None
    ) -> Tensor:
        """Token ids ``(B, T)`` to logits ``(B, T, V)``; logits at ``t`` are about token ``t + 1``.

        ``attention_mask`` ``(B, T)`` is 1 on tokens and 0 on padding, left or right; without it there is no
        padding. With a ``cache``, ``x`` holds only the newest tokens and the mask still covers all.

        Raises:
            BadRollout: wrong shapes, a token outside the vocabulary, or more tokens than positions.
        """
        attention_mask = torch.ones_like(x) if attention_mask is None else attention_mask
        check_input(x, attention_mask, self.config, cached=cache is not None)
        return self.head(self.decoder(x, attention_mask, cache))

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states ``(…, H)`` to logits ``(…, V)``: a dot product with every token's embedding."""
        return hidden @ self.decoder.token_embedding.weight.T

    @property
    def device(self) -> torch.device:
        return self.decoder.token_embedding.weight.device

    # ------------------------------------------------------------------------------ writing

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        max_new_tokens: int,
        *,
        eos_token_id: int | Sequence[int] | None = None,
        **choice,
    ) -> Tensor:
        """Continue one prompt ``(Q,)``; returns the response ``(R,)``, which keeps its EOS.

        The plain loop: all tokens are read again at every step. :meth:`batch_generate` gives the same tokens
        with less work. ``choice`` goes to :func:`next_token`; ``eos_token_id=-1`` means: never stop.
        """
        check_queries([prompt], [max_new_tokens], self.config)
        eos, x = self._eos(eos_token_id), prompt[None].to(self.device)  # (1, Q)
        with evaluating(self):
            for _ in range(max_new_tokens):
                token = next_token(self(x)[:, -1], **choice)  # the last position decides: (1, V) -> (1,)
                x = torch.cat([x, token[:, None]], dim=1)
                if int(token) in eos:
                    break
        return x[0, len(prompt) :]

    @torch.no_grad()
    def batch_generate(
        self,
        queries: Sequence[Tensor],
        max_new_tokens: int | Sequence[int],
        *,
        eos_token_id: int | Sequence[int] | None = None,
        batch_size: int = 128,
        **choice,
    ) -> Rollout:
        """Continue many prompts ``(Q_i,)`` of any lengths, padded on the left, with a KV cache.

        ``max_new_tokens`` is one number or one per query; a response ends with its first EOS, which it keeps.
        ``choice`` goes to :func:`next_token`; by default tokens are drawn from the full softmax.

        Raises:
            BadRollout: no queries, an empty one, a token outside the vocabulary, or no room for a response.
        """
        single = isinstance(max_new_tokens, int)
        limits = [max_new_tokens] * len(queries) if single else [int(n) for n in max_new_tokens]
        check_queries(queries, limits, self.config)
        if batch_size < 1:
            _bad("batch_size 必须至少为 1", "batch_size must be at least 1")
        rollout = Rollout(queries=[query.to(self.device) for query in queries])
        with evaluating(self):
            for start in range(0, len(queries), batch_size):
                rows = slice(start, start + batch_size)
                batch = rollout.queries[rows], limits[rows]
                rollout.responses += self._continue(*batch, self._eos(eos_token_id), choice)
        return rollout

    def _continue(
        self, queries: Sequence[Tensor], limits: list[int], eos: list[int], choice: dict
    ) -> list[Tensor]:
        """The responses of one batch. Rows that have finished wait as padding for the others."""
        x, mask = left_pad(queries, 0)  # (B, Q) each
        ends, limit = torch.tensor(eos, device=x.device), torch.tensor(limits, device=x.device)
        cache = [KVCache() for _ in self.decoder.blocks]
        live, written = torch.ones_like(limit, dtype=torch.bool), []
        while live.any():
            hidden = self.decoder(x, mask, cache)[:, -1]  # (B, H): of the newest token
            token = next_token(self.head(hidden), **choice)  # (B,)
            written.append(token)
            live = live & ~torch.isin(token, ends) & (len(written) < limit)
            x = token[:, None]  # (B, 1): everything before it is in the cache
            mask = torch.cat([mask, live[:, None].long()], dim=1)
        new = torch.stack(written, dim=1)  # (B, R)
        lengths = response_lengths(new, limit, eos).tolist()
        return [row[:length].clone() for row, length in zip(new, lengths, strict=True)]

    def _eos(self, asked: int | Sequence[int] | None) -> list[int]:
        ids = self.config.eos_token_id if asked is None else asked
        return [i for i in ([ids] if isinstance(ids, int) else list(ids or [])) if i >= 0]

    # ------------------------------------------------------------------------ reading and saving weights

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> GPT:
        """A published GPT-2 from a folder with ``config.json`` and safetensors, whole or in shards.

        Raises:
            MissingAssets: a file is missing or damaged. UnsupportedModel: it is no GPT-2 that this class can
                compute, or its tensors are others than those of a GPT-2.
        """
        config = GPTConfig.from_published(published.read_config(Path(folder)))
        model = cls._empty(config)
        return model._filled(
            published.from_published(published.read_weights(Path(folder)), model.state_dict())
        )

    def save_pretrained(self, folder: str | Path, *also: Callable[[Path], object]) -> Path:
        """Write the weights as ``transformers`` expects them; ``also`` saves more (a tokenizer, say).

        Raises:
            CannotWrite: no space, no permission, or ``folder`` holds files that this method did not write.
        """
        folder = Path(folder)
        checkpoint.refuse_to_replace(folder, EXPORTED)
        kind = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "bos_token_id": None}
        config = json.dumps(dataclasses.asdict(self.config) | kind, indent=1)
        try:
            with whole_folder(folder) as partial:
                partial.mkdir()
                (partial / EXPORTED).write_text("written by rlhf.gpt\n", encoding="utf-8")
                (partial / "config.json").write_text(config + "\n", encoding="utf-8")
                tensors = published.to_published(self.state_dict())
                save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
                for save in also:
                    save(partial)
        except SafetensorError as error:
            raise CannotWrite(f"无法写入 {folder}：{error}", f"Cannot write {folder}: {error}") from error
        return folder

    def save_checkpoint(self, folder: str | Path) -> Path:
        """Write a checkpoint under this class's own names: see :mod:`rlhf.checkpoint`."""
        return checkpoint.save(folder, "GPT", self.state_dict(), {"config": dataclasses.asdict(self.config)})

    @classmethod
    def from_checkpoint(cls, folder: str | Path) -> GPT:
        """Read what :meth:`save_checkpoint` wrote. Raises MissingAssets or UnsupportedModel."""
        record, tensors = checkpoint.load(folder, "GPT")
        try:
            config = GPTConfig(**record["config"])
        except (KeyError, TypeError) as error:
            raise UnsupportedModel(
                f"检查点的 config 不对：{error}", f"The config of the checkpoint is not right: {error}"
            ) from error
        return cls._empty(config)._filled(tensors)

    @classmethod
    def _empty(cls, config: GPTConfig) -> GPT:
        """The model without memory for its weights: they are about to be read."""
        with torch.device("meta"):
            return cls(config)

    def _filled(self, tensors: Mapping[str, Tensor]) -> GPT:
        """The model with exactly these weights, in eval mode."""
        try:
            self.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            raise UnsupportedModel(
                f"权重与配置不符：{error}", f"The weights do not fit the configuration: {error}"
            ) from error
        return self.eval()


def initialise(module: nn.Module, config: GPTConfig) -> None:
    """GPT-2's start: weights from N(0, 0.02), biases 0, and smaller weights where a residual sum begins."""
    std = config.initializer_range
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, TransformerDecoderBlock):  # after its parts: apply() goes from the inside out
        for last in (module.attention.out, module.ffn.down):
            nn.init.normal_(last.weight, std=std / math.sqrt(2 * config.n_layer))


def next_token_loss(logits: Tensor, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of the tokens ``x[:, 1:]`` under ``logits[:, :-1]``; padding does not count."""
    mask = torch.ones_like(x) if attention_mask is None else attention_mask
    real = (mask[:, :-1] * mask[:, 1:]).bool()  # (B, T-1): a token that predicts a token
    return F.cross_entropy(logits[:, :-1][real], x[:, 1:][real])


# ---------------------------------------------------------------------------------- choosing the next token


def next_token(
    logits: Tensor,
    do_sample: bool = True,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One token per row of ``logits`` ``(B, V)``, ``(B,)``: the likeliest, or one drawn by its probability.

    ``temperature`` divides the logits; then ``top_k`` keeps the k likeliest tokens (0: all) and ``top_p`` the
    fewest that together have that probability (1: all), in this order.

    Raises:
        BadRollout: a setting out of its range.
    """
    if temperature <= 0 or top_k < 0 or not 0 < top_p <= 1:
        raise BadRollout(
            f"采样设置无效：temperature={temperature}（须 > 0）、top_k={top_k}（须 ≥ 0）、top_p={top_p}"
            "（须在 0 与 1 之间）。要贪心解码，请用 do_sample=False。",
            f"Sampling settings out of range: temperature={temperature} (> 0), top_k={top_k} (≥ 0), "
            f"top_p={top_p} (above 0, at most 1). For greedy decoding use do_sample=False.",
        )
    if not do_sample:
        return logits.argmax(dim=-1)
    logits = keep_top_p(keep_top_k(logits / temperature, top_k), top_p)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(1)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Everything below the k-th largest of each row becomes −inf; ``k = 0`` keeps all (Fan et al. 2018)."""
    if not 0 < k < logits.shape[-1]:
        return logits
    smallest_kept = logits.topk(k).values[..., -1:]  # (B, 1)
    return logits.masked_fill(logits < smallest_kept, float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The fewest tokens whose probabilities reach ``p``; all others become −inf (Holtzman et al. 2020)."""
    if p >= 1:
        return logits
    probability, order = logits.softmax(-1).sort(descending=True)  # (B, V): likeliest first
    before = probability.cumsum(-1) - probability  # what the likelier tokens have together
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= p)  # back in place
    return logits.masked_fill(dropped, float("-inf"))


# ------------------------------------------------------------------------------------------ checking input


def check_input(x: Tensor, attention_mask: Tensor, config: GPTConfig, cached: bool = False) -> None:
    """Raise BadRollout for what would otherwise end in an error deep inside, or in wrong numbers."""
    shapes = tuple(x.shape), tuple(attention_mask.shape)
    if x.dim() != 2 or not x.numel() or x.is_floating_point():
        _bad(f"x 应当是整数张量 (B, T)，而不是 {shapes[0]}", f"x must be integers (B, T), not {shapes[0]}")
    wide = attention_mask.shape[-1] >= x.shape[1] if cached else shapes[0] == shapes[1]
    if attention_mask.dim() != 2 or len(attention_mask) != len(x) or not wide:
        _bad(
            "x {} 与 attention_mask {} 不符".format(*shapes),
            "attention_mask {1} does not fit x {0}".format(*shapes),
        )
    _check_tokens("x", x, config.vocab_size)
    longest, room = int(attention_mask.long().sum(1).max()), config.n_positions
    if longest > room:
        _bad(
            f"有 {longest} 个词元，而模型只有 {room} 个位置",
            f"{longest} tokens exceed the model's {room} positions",
        )


def check_queries(queries: Sequence[Tensor], limits: Sequence[int], config: GPTConfig) -> None:
    """Raise BadRollout unless every query is a 1-D tensor of known tokens with room for its response."""
    if not isinstance(queries, (list, tuple)) or not queries:
        _bad("queries 应当是非空的一维张量列表", "queries must be a non-empty list of 1-D tensors")
    if len(limits) != len(queries):
        _bad(
            f"max_new_tokens 有 {len(limits)} 个，而 queries 有 {len(queries)} 个",
            f"max_new_tokens has {len(limits)} entries for {len(queries)} queries",
        )
    for i, (query, limit) in enumerate(zip(queries, limits, strict=True)):
        name = f"queries[{i}]"
        if (
            not isinstance(query, Tensor)
            or query.dim() != 1
            or not query.numel()
            or query.is_floating_point()
        ):
            _bad(f"{name} 应当是非空的一维整数张量", f"{name} must be a non-empty 1-D integer tensor")
        _check_tokens(name, query, config.vocab_size)
        length, room = len(query), config.n_positions
        if limit < 1:
            _bad("max_new_tokens 必须至少为 1", "max_new_tokens must be at least 1")
        if length + limit > room:
            _bad(
                f"{name} 有 {length} 个词元，再加 {limit} 个就超过模型的 {room} 个位置",
                f"{name} has {length} tokens; {limit} more exceed the model's {room} positions",
            )


def _check_tokens(name: str, x: Tensor, size: int) -> None:
    if int(x.min()) < 0 or int(x.max()) >= size:
        _bad(
            f"{name} 里有词表（大小 {size}）之外的词元",
            f"{name} holds a token outside the vocabulary of {size}",
        )


def _bad(zh: str, en: str) -> None:
    raise BadRollout(f"{zh}。", f"{en}.")
