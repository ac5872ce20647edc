"""Sampling in fixed shapes, so that the step of one token can be compiled: what ``compiled=True`` does.

In: what :func:`rlhf.decoding.write` takes. Out: the same tokens from the same random numbers, up to rounding.
Lesson 06 samples without it.

Where a step of one token is a few hundred small operations, a GPU waits for Python to start them. Compiled,
they are one graph, started at once. A graph has fixed shapes and fixed places in memory: so the cache is as
long as it will ever be from the start, rows that have ended go on to the last token, and queries and caches
are widened to multiples of :data:`WIDTH`, for a new shape is a new compilation, which takes seconds to
minutes. Weights are read where they are: those that an optimiser has changed count at once.

Where arithmetic is what takes the time, as on a CPU, :mod:`rlhf.decoding` does less of it.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, StaticCache
from transformers.cache_utils import StaticLayer

from . import decoding
from .errors import CourseError

WIDTH = 8  # queries, and queries with their responses, are widened to a multiple of this
KEPT = 4  # caches of different shapes that are kept for a model; each is as large as its keys and values
LOOK = 8  # tokens between two looks whether all rows have ended; on a CPU looking costs nothing
BACKEND: str | Callable = "inductor"  # of torch.compile
SHAPES = 64  # compilations, of all models together, before torch.compile gives up

_caches: WeakKeyDictionary[PreTrainedModel, OrderedDict[tuple, StaticCache]] = WeakKeyDictionary()


class CannotCompile(CourseError, RuntimeError):
    """torch.compile does not work here: no compiler, or an operation that it does not know."""


def drivable(backbone: PreTrainedModel) -> bool:
    """Whether :func:`write` can drive a model that :func:`rlhf.decoding.drivable` knows: all its layers look
    back at everything, and transformers knows it to be one graph."""
    layers = StaticCache(config=backbone.config, max_cache_len=WIDTH).layers
    return backbone._can_compile_fullgraph and all(type(layer) is StaticLayer for layer in layers)


@torch.no_grad()
def write(
    backbone: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    limits: Sequence[int],
    eos: Sequence[int] = (),
    temperature: float = 1.0,
    notes: decoding.Notes | None = None,
) -> torch.Tensor:
    """As :func:`rlhf.decoding.write`, with rows that go on to the end of the longest.

    Raises :class:`CannotCompile`.
    """
    device, total, longest = input_ids.device, len(input_ids), max(limits)
    input_ids, visible = widened(input_ids, attention_mask, longest)  # (B, Q), (B, L)
    positions = (visible[:, : input_ids.shape[1]].cumsum(1) - 1).clamp(min=0)  # (B, Q)
    cache = empty_cache(backbone, visible)
    new = input_ids.new_zeros(total, longest)
    ends, limit = (torch.tensor(list(x), dtype=torch.long, device=device) for x in (eos, limits))
    ended, rows = torch.zeros(total, dtype=torch.bool, device=device), torch.arange(total, device=device)
    look = 1 if device.type == "cpu" else LOOK
    step = decoding.forward  # the queries differ in width: not compiled
    for t in range(longest):
        logits, hidden = step(backbone, input_ids, positions, visible, cache, notes is not None)
        spots = torch.rand(total, 1, dtype=torch.float64, device=device)
        token = decoding.draw(logits.float() / temperature, spots)  # (B,)
        new[:, t] = token
        if notes is not None:
            notes.take(rows, t, logits, token, hidden)
        ended |= (t + 1 >= limit) | torch.isin(token, ends)
        if (t + 1) % look == 0 and bool(ended.all()):
            break
        step, input_ids, positions = compiled_forward, token.unsqueeze(1), positions[:, -1:] + 1
    return new[:, : t + 1]


def widened(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, longest: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries ``(B, Q)`` with more padding on the left, and which of the L places of the cache a row may look
    at, ``(B, L)``: its query and all to come. (Not to look ahead is what the model sees to itself.)"""
    q = input_ids.shape[1]
    width, length = round_up(q), round_up(round_up(q) + longest)
    visible = F.pad(F.pad(attention_mask, (width - q, 0)), (0, length - width), value=1)
    return F.pad(input_ids, (width - q, 0)), visible


def round_up(tokens: int) -> int:
    """To a multiple of :data:`WIDTH`."""
    return -(-tokens // WIDTH) * WIDTH


def empty_cache(backbone: PreTrainedModel, visible: torch.Tensor) -> StaticCache:
    """A cache for batches of the shape of ``visible`` ``(B, L)``: always the same one, emptied, since a
    compiled step knows it by its place in memory."""
    kind = visible.device.type
    precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else backbone.dtype
    key = tuple(visible.shape), visible.device, precision
    known = _caches.setdefault(backbone, OrderedDict())
    if key not in known:
        known[key] = StaticCache(config=backbone.config, max_cache_len=visible.shape[1])
    known.move_to_end(key)
    while len(known) > KEPT:
        known.popitem(last=False)
    known[key].reset()
    return known[key]


def compiled_forward(backbone: PreTrainedModel, input_ids: torch.Tensor, *rest) -> tuple:
    """:func:`rlhf.decoding.forward` of one token per row, as one graph, compiled when a shape first comes."""
    step = _compile(BACKEND, input_ids.is_cuda)
    try:
        torch.compiler.cudagraph_mark_step_begin()  # what the last step returned has been used
        return step(backbone, input_ids, *rest)
    except Exception as error:
        what = " ".join(str(error).split("\n")[:2])  # torch names the backend first, then what went wrong
        reason = f"{type(error).__name__}: {what[:300]}"
        raise CannotCompile(
            f"torch.compile 在这里不能用（{reason}）；请去掉 compiled / compile_sampling",
            f"torch.compile does not work here ({reason}); leave out compiled / compile_sampling",
        ) from error


@functools.cache
def _compile(backend: str | Callable, as_graph: bool) -> Callable:
    """``as_graph``: recorded once and replayed as a CUDA graph."""
    return torch.compile(
        decoding.forward,
        backend=backend,
        fullgraph=True,
        dynamic=False,
        mode="reduce-overhead" if as_graph else None,
        recompile_limit=SHAPES,
        isolate_recompiles=True,
    )
