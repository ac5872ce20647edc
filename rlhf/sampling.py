"""Batched sampling: a list of queries in, one :class:`Rollout` out, never a loop over queries.

The distribution sampled from is the one PPO scores, the full softmax at temperature 1, whatever the model's
own generation settings say (transformers' default cuts to the 50 likeliest tokens). Lessons 06 and 07 use
it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from . import decoding, static
from .errors import BadRollout
from .rows import moved
from .undisturbed import evaluating

FULL_SOFTMAX = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
PLAIN = {*FULL_SOFTMAX, "pad_token_id", "eos_token_id"}  # settings that our own loop understands
CUTS = (
    "typical_p",
    "min_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "top_h",
)  # further settings that cut the softmax


@dataclass
class Rollout:
    """What a policy wrote: N queries and their responses, as lists of 1-D token tensors without padding.

    A response ends with its first EOS, which is kept, or at its maximal length. ``logprobs`` and ``values``,
    as long as the responses, are there if :func:`generate` was given a value head.
    """

    queries: list[torch.Tensor] = field(default_factory=list)
    responses: list[torch.Tensor] = field(default_factory=list)
    logprobs: list[torch.Tensor] = field(default_factory=list)  # of every response token, at temperature 1
    values: list[torch.Tensor] = field(default_factory=list)  # of the state before every response token

    def __len__(self) -> int:
        return len(self.responses)

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of every response."""
        return [len(r) for r in self.responses]

    @property
    def sequences(self) -> list[torch.Tensor]:
        """``query ++ response``, N tensors of shape ``(Q + R,)``."""
        return [torch.cat(pair) for pair in zip(self.queries, self.responses, strict=True)]

    def response_mask(self) -> torch.Tensor:
        """``(N, longest response)``, 1 where there is a token."""
        lengths = torch.tensor(self.lengths)
        return (torch.arange(int(lengths.max())) < lengths.unsqueeze(1)).long()

    def texts(self, tokenizer, skip_special_tokens: bool = True) -> list[str]:
        """The responses as text."""
        return tokenizer.batch_decode(self.responses, skip_special_tokens=skip_special_tokens)


def generate(
    model: nn.Module,
    queries: Sequence[torch.Tensor],
    max_new_tokens: int | Sequence[int],
    *,
    pad_token_id: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    batch_size: int = 128,
    value_head: nn.Module | None = None,
    compiled: bool = False,
    **sampling,
) -> Rollout:
    """Continue every query, ``batch_size`` of them at a time.

    ``model`` is a causal LM of transformers, with or without a value head; ``queries`` are 1-D integer
    tensors of any lengths; ``max_new_tokens`` is one number or one per query. Queries are padded on the
    left, with the attention mask and the positions that go with it, so a query's continuation does not
    depend on its neighbours. Dropout is off. ``sampling`` (``do_sample``, ``temperature``, ``top_k``,
    ``top_p``, ``min_length`` ...) goes to transformers' ``generate``; by default nothing is cut off.

    ``pad_token_id`` and ``eos_token_id`` default to the model's; ``eos_token_id=-1`` means: never stop
    early. With ``value_head`` (hidden states to values) the rollout also has the log-probabilities and values
    that were computed on the way; not where only transformers' ``generate`` can drive the model. Nor does
    ``compiled`` change anything there; elsewhere it writes the same tokens with a compiled step
    (:mod:`rlhf.static`), which pays on a GPU. Raises :class:`BadRollout` for empty or malformed queries and
    for texts longer than the model, :class:`~rlhf.static.CannotCompile` where ``compiled`` does not work.
    """
    backbone = getattr(model, "pretrained_model", model)
    if sampling.get("num_return_sequences", 1) != 1:
        _bad("想要多个回答，请重复 query", "for several responses repeat the query in the list")
    limits = _check(backbone, queries, max_new_tokens, batch_size)
    eos = _eos_ids(backbone, eos_token_id)
    if pad_token_id is None:
        pad_token_id = next((t for t in (backbone.config.pad_token_id, *eos) if t is not None), 0)
    if sampling.get("min_length", 1) <= 0:  # tutorials pass -1: no minimum
        sampling = {k: v for k, v in sampling.items() if k != "min_length"}
    settings = FULL_SOFTMAX | sampling | {"pad_token_id": pad_token_id, "eos_token_id": eos or None}
    if not settings["do_sample"]:  # greedy: transformers warns about sampling settings that do nothing
        settings = {k: v for k, v in settings.items() if k not in ("temperature", "top_k", "top_p")}

    device = backbone.get_input_embeddings().weight.device
    queries = moved(queries, device)
    _check_vocabulary(queries, backbone.get_input_embeddings().num_embeddings)
    rollout = Rollout(queries=queries)
    with evaluating(model), _no_own_settings(backbone), _no_padding_alarm(), torch.no_grad():
        for i in range(0, len(queries), batch_size):
            rows = slice(i, i + batch_size)
            _generate_batch(
                backbone, queries[rows], limits[rows], settings, eos, rollout, value_head, compiled
            )
    return rollout


def _generate_batch(
    backbone: nn.Module,
    queries: list[torch.Tensor],
    limits: list[int],
    settings: dict,
    eos: list[int],
    rollout: Rollout,
    value_head: nn.Module | None,
    compiled: bool,
) -> None:
    """Add a response to each of ``queries`` to ``rollout``."""
    if len(queries) > 1 and max(map(len, queries)) + max(limits) > _room(backbone):
        half = len(queries) // 2  # every row fits by itself, but the padded batch would not
        for rows in (slice(half), slice(half, None)):
            _generate_batch(
                backbone, queries[rows], limits[rows], settings, eos, rollout, value_head, compiled
            )
        return
    input_ids, attention_mask = left_pad(queries, settings["pad_token_id"])  # (B, Q)
    start = input_ids.shape[1]
    limit = torch.tensor(limits, device=input_ids.device)
    theirs, draw = _own_draw(settings)
    notes, write = None, _own_loop(backbone, compiled) if draw and settings.keys() <= PLAIN else None
    if write is not None:
        if value_head is not None:
            notes = decoding.Notes(value_head, (len(limits), max(limits)), limit.device)
        new = write(input_ids, attention_mask, limits, eos, settings["temperature"], notes)
    else:
        on_cpu = input_ids.device.type == "cpu"
        new = backbone.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            generation_config=GenerationConfig(
                **(theirs if on_cpu else settings), max_new_tokens=max(limits)
            ),
            logits_processor=LogitsProcessorList(draw if on_cpu else []),
            stopping_criteria=StoppingCriteriaList([OwnLength(start, limit)]),
        )[:, start:]  # (B, longest response)
    lengths = response_lengths(new, limit, eos)  # (B,)
    kept = torch.arange(new.shape[1], device=new.device) < lengths.unsqueeze(1)  # (B, R)
    found = {"responses": new} | ({"logprobs": notes.logprobs, "values": notes.values} if notes else {})
    for name, rows in found.items():
        getattr(rollout, name).extend(rows[:, : new.shape[1]][kept].split(lengths.tolist()))


def _own_loop(backbone: nn.Module, compiled: bool) -> Callable[..., torch.Tensor] | None:
    """What writes with this model instead of transformers' ``generate``, if anything of ours can."""
    model = decoding.drivable(backbone)
    if model is None:
        return None
    if compiled and not static.drivable(model):
        warnings.warn(f"{type(model).__name__} cannot be compiled for sampling: not compiled", stacklevel=5)
        compiled = False
    return functools.partial(static.write if compiled else decoding.write, model)


def left_pad(queries: Sequence[torch.Tensor], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-align 1-D tensors: ``(input_ids, attention_mask)``, both ``(B, Q)``. Whatever the tokenizer
    prefers, a decoder has to see the last query token in the last column."""
    input_ids = pad_sequence(list(queries), True, pad_token_id, padding_side="left").long()
    padding = input_ids.shape[1] - torch.tensor([len(q) for q in queries], device=input_ids.device)  # (B,)
    column = torch.arange(input_ids.shape[1], device=input_ids.device)
    return input_ids, (column >= padding.unsqueeze(1)).long()


def response_lengths(new: torch.Tensor, limit: torch.Tensor, eos: Sequence[int]) -> torch.Tensor:
    """Tokens to keep of every row of ``new`` ``(B, R)``: up to and with the first EOS, at most ``limit``
    ``(B,)``."""
    is_eos = torch.isin(new, torch.tensor(list(eos), dtype=new.dtype, device=new.device))
    first = torch.where(is_eos.any(1), is_eos.int().argmax(1) + 1, new.shape[1])
    return torch.minimum(first, limit)


class OwnLength(StoppingCriteria):
    """Every row stops at its own length; the batch stops when all have."""

    def __init__(self, start: int, limit: torch.Tensor):
        self.start, self.limit = start, limit

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        return input_ids.shape[1] - self.start >= self.limit  # (B,)


class Draw(LogitsProcessor):
    """Draw the next token of every row from its full softmax and leave it as the only choice: for models that
    only transformers' ``generate`` can drive.

    One random number per row, looked up in the cumulative probabilities. ``torch.multinomial`` draws one per
    token of the vocabulary instead, which on a CPU takes more time than a small model does.
    """

    def __init__(self, temperature: float):
        self.temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        spots = torch.rand(len(scores), 1, dtype=torch.float64)
        token = decoding.draw(scores.float() / self.temperature, spots)  # (B,)
        return torch.full_like(scores, -torch.inf).scatter_(1, token.unsqueeze(1), 0.0)


def _own_draw(settings: dict) -> tuple[dict, list[LogitsProcessor]]:
    """Settings for :class:`Draw` where nothing is cut off; as they are otherwise."""
    whole = settings.get("top_k") in (0, None) and settings.get("top_p") in (1.0, None)
    if not settings["do_sample"] or not whole or any(settings.get(name) is not None for name in CUTS):
        return settings, []
    left = {k: v for k, v in settings.items() if k not in ("temperature", "top_k", "top_p")}
    return left | {"do_sample": False}, [Draw(settings["temperature"])]


@contextlib.contextmanager
def _no_own_settings(backbone: nn.Module) -> Iterator[None]:
    """Hide the model's generation_config: transformers fills every setting left open from it."""
    own = backbone.generation_config
    backbone.generation_config = GenerationConfig(bos_token_id=own.bos_token_id)
    try:
        yield
    finally:
        backbone.generation_config = own


@contextlib.contextmanager
def _no_padding_alarm() -> Iterator[None]:
    """transformers warns of padding without a mask when a finished row waits for others: a false alarm."""

    def wanted(record: logging.LogRecord) -> bool:
        return "passing in an `attention_mask`" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def _eos_ids(backbone: nn.Module, eos_token_id: int | Sequence[int] | None) -> list[int]:
    if eos_token_id is None:
        eos_token_id = backbone.generation_config.eos_token_id
    if eos_token_id is None:
        eos_token_id = backbone.config.eos_token_id
    ids = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or [])
    return [i for i in ids if i >= 0]


def _check(
    backbone: nn.Module, queries: Sequence[torch.Tensor], max_new_tokens: int | Sequence[int], batch_size: int
) -> list[int]:
    """The length limit of every query, after checking all of them."""
    if not isinstance(queries, (list, tuple)) or not queries:
        _bad("queries 应当是非空的一维张量列表", "queries must be a non-empty list of 1-D tensors")
    if batch_size < 1:
        _bad(
            f"batch_size 必须至少为 1，而不是 {batch_size}",
            f"batch_size must be at least 1, not {batch_size}",
        )
    for i, query in enumerate(queries):
        if not isinstance(query, torch.Tensor) or query.dim() != 1 or query.is_floating_point():
            _bad(f"queries[{i}] 应当是一维整数张量", f"queries[{i}] must be a 1-D integer tensor")
        if query.numel() == 0:
            _bad(f"queries[{i}] 是空的", f"queries[{i}] is empty")
    single = not isinstance(max_new_tokens, (list, tuple, torch.Tensor))
    limits = [max_new_tokens] * len(queries) if single else list(max_new_tokens)
    if len(limits) != len(queries):
        _bad(
            f"max_new_tokens 有 {len(limits)} 个，而 queries 有 {len(queries)} 个",
            f"max_new_tokens has {len(limits)} entries for {len(queries)} queries",
        )
    limits = [int(n) for n in limits]
    if min(limits) < 1:
        _bad("max_new_tokens 必须至少为 1", "max_new_tokens must be at least 1")
    room = _room(backbone)
    for i, (query, limit) in enumerate(zip(queries, limits, strict=True)):
        if len(query) + limit > room:
            _bad(
                f"queries[{i}] 有 {len(query)} 个词元，再加 {limit} 个就超过模型的 {room} 个位置",
                f"queries[{i}] has {len(query)} tokens; {limit} more exceed the model's {room} positions",
            )
    return limits


def _check_vocabulary(queries: Sequence[torch.Tensor], vocab_size: int) -> None:
    lowest, highest = torch.stack(torch.cat(list(queries)).aminmax()).tolist()
    if lowest >= 0 and highest < vocab_size:
        return
    i = next(i for i, q in enumerate(queries) if int(q.min()) < 0 or int(q.max()) >= vocab_size)
    _bad(
        f"queries[{i}] 中有词表（大小 {vocab_size}）之外的词元",
        f"queries[{i}] holds a token outside the vocabulary of {vocab_size}",
    )


def _room(backbone: nn.Module) -> float:
    """How many positions the model has."""
    return getattr(backbone.config, "max_position_embeddings", None) or float("inf")


def _bad(zh: str, en: str) -> None:
    raise BadRollout(zh, en)
