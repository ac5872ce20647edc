"""LoRA from scratch: freeze the weights, train two thin matrices beside some of them.

In: any model made of ``nn.Linear`` and the patterns of the layers to adapt. Out: the same model, in which
only the adapters (and what you ask to keep) can learn. Lesson 03 explains it and compares it with PEFT::

    inject(model, ["*.attention.qkv", "*.attention.out"], rank=8)   # freezes all, adds adapters
    ...train...
    merge(model)                                                    # adapters become part of the weights

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from rlhf import checkpoint
from rlhf.errors import CourseError


class BadAdapter(CourseError, ValueError):
    """Adapters that do not fit the model, or a step that makes no sense for them."""


class LoRALinear(nn.Module):
    """``y = W x + b + (alpha / rank) · B A x``: the frozen linear layer and a low-rank path beside it.

    ``A`` ``(rank, in)`` starts random, ``B`` ``(out, rank)`` starts at 0, so that a new adapter changes
    nothing. ``dropout`` falls on the input of the side path only.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as nn.Linear and PEFT start
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        self.merged, self.enabled = False, True

    def forward(self, x: Tensor) -> Tensor:
        """``(…, in)`` to ``(…, out)``. Raises BadAdapter for training what is merged: it could not learn."""
        self._refuse_to_train_merged()
        y = self.base(x)
        if self.merged or not self.enabled:
            return y
        return y + self.scale * (self.dropout(x) @ self.lora_A.T @ self.lora_B.T)

    def delta(self) -> Tensor:
        """What the side path adds to ``W``, ``(out, in)``; its rank is at most ``rank``."""
        return self.scale * self.lora_B @ self.lora_A

    def _refuse_to_train_merged(self) -> None:
        if self.merged and self.training and torch.is_grad_enabled():
            _bad("合并后的适配器不会再学习，先 unmerge", "Merged adapters do not learn; unmerge them first")

    def extra_repr(self) -> str:
        return f"rank={len(self.lora_A)}, scale={self.scale:g}, merged={self.merged}"


# ------------------------------------------------------------------------------------ adding, freezing


def inject(
    model: nn.Module,
    patterns: Sequence[str],
    rank: int,
    alpha: float | None = None,
    dropout: float = 0.0,
    keep: Sequence[str] = (),
) -> list[str]:
    """Put an adapter on every ``nn.Linear`` whose name matches a pattern, and freeze everything else.

    Args:
        patterns: shell patterns over the names of ``named_modules()``: ``"*.qkv"``, ``"*.blocks.0.*"``.
        alpha: ``alpha / rank`` scales the side path; default ``2 * rank``, so that the scale is 2.
        keep: names of modules that stay trainable although they have no adapter. **A layer that did not come
            from the checkpoint (a new value head, a new score head) belongs here**: frozen, it stays random.

    Returns:
        The names of the adapted layers.

    Raises:
        BadAdapter: a pattern fits no linear layer or one whose weight is shared (tied), ``rank`` is below 1,
            the model has adapters already, or ``keep`` names no module.
    """
    if rank < 1:
        _bad(f"rank 必须至少为 1，而不是 {rank}", f"rank must be at least 1, not {rank}")
    if adapters(model):
        _bad("模型里已有适配器，先合并或卸下", "The model has adapters already; merge or remove them first")
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in linear):
            known = ", ".join(list(linear)[:6])
            _bad(
                f"没有线性层的名字符合 {pattern!r}；线性层有：{known} …",
                f"No linear layer is called {pattern!r}; there are: {known} …",
            )
    chosen = [name for name in linear if any(fnmatchcase(name, pattern) for pattern in patterns)]
    tied = [name for name in chosen if _is_shared(model, linear[name].weight)]
    if tied:
        _bad(f"{tied[0]} 的权重与别处共用，不能加适配器", f"The weight of {tied[0]} is tied to another one")
    for name in chosen:
        replace(model, name, LoRALinear(linear[name], rank, 2 * rank if alpha is None else alpha, dropout))
    freeze(model, keep)
    return chosen


def replace(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` where ``model`` has the module called ``name``, in the same mode."""
    parent, _, attribute = name.rpartition(".")
    holder = model.get_submodule(parent)
    setattr(holder, attribute, new.train(getattr(holder, attribute).training))


def freeze(model: nn.Module, keep: Sequence[str] = ()) -> None:
    """Adapters learn, and so do the modules named in ``keep``; everything else is frozen."""
    modules = dict(model.named_modules())
    unknown = [name for name in keep if name not in modules]
    if unknown:
        _bad(f"没有名为 {', '.join(unknown)} 的模块", f"No module is called {', '.join(unknown)}")
    model.requires_grad_(False)
    for layer in adapters(model).values():
        layer.lora_A.requires_grad_(True)
        layer.lora_B.requires_grad_(True)
    for name in keep:
        modules[name].requires_grad_(True)


def adapters(model: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


@dataclass(frozen=True)
class Count:
    """How many numbers a model has and how many of them learn; a tied tensor counts once."""

    total: int
    trainable: int

    def __str__(self) -> str:
        share = self.trainable / max(1, self.total)
        return f"{self.trainable:,} of {self.total:,} parameters learn ({share:.2%})"


def count(model: nn.Module) -> Count:
    """Parameters of ``model``, all and trainable."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return Count(sum(n for n, _ in sizes), sum(n for n, learns in sizes if learns))


# ----------------------------------------------------------------------- merging, switching off, removing


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add every side path to its weight: ``W + (alpha / rank) B A``. Same outputs, no extra work. Merged
    adapters do not learn. Merging twice does nothing the second time."""
    for layer in adapters(model).values():
        if not layer.merged:
            layer.base.weight += layer.delta()
            layer.merged = True


@torch.no_grad()
def unmerge(model: nn.Module) -> None:
    """Take the side paths out of the weights again; the weights come back up to rounding."""
    for layer in adapters(model).values():
        if layer.merged:
            layer.base.weight -= layer.delta()
            layer.merged = False


def remove(model: nn.Module) -> None:
    """Put plain linear layers back: with what was learnt after :func:`merge`, as they began without."""
    for name, layer in adapters(model).items():
        replace(model, name, layer.base)


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """The model as it was before it had adapters: a reference that takes no memory of its own.

    Raises:
        BadAdapter: an adapter is merged, so that the old weights are not there.
    """
    layers = list(adapters(model).values())
    if any(layer.merged for layer in layers):
        _bad("适配器已经合并，先 unmerge", "The adapters are merged; unmerge them first")
    before = [layer.enabled for layer in layers]
    for layer in layers:
        layer.enabled = False
    try:
        yield model
    finally:
        for layer, enabled in zip(layers, before, strict=True):
            layer.enabled = enabled


# -------------------------------------------------------------------------------------- saving and loading


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the adapters only: ``…qkv.lora_A`` ``(rank, in)``, ``…qkv.lora_B`` ``(out, rank)``."""
    return {
        f"{name}.{part}": getattr(layer, part).detach()
        for name, layer in adapters(model).items()
        for part in ("lora_A", "lora_B")
    }


@torch.no_grad()
def load_adapter_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy tensors into the adapters. Raises BadAdapter unless names and shapes are exactly the model's."""
    if any(layer.merged for layer in adapters(model).values()):
        _bad("适配器已经合并，先 unmerge", "The adapters are merged; unmerge them first")
    mine = adapter_state(model)
    odd = sorted(set(mine) ^ set(state)) or [name for name in mine if mine[name].shape != state[name].shape]
    if odd:
        _bad(f"适配器与模型不符：{odd[0]}", f"The adapters do not fit the model: {odd[0]}")
    for name, tensor in mine.items():
        tensor.copy_(state[name])


def save(model: nn.Module, folder: str | Path) -> Path:
    """Write the adapters, a few kilobytes, as a :mod:`rlhf.checkpoint`. Raises BadAdapter without any."""
    layers = adapters(model)
    if not layers:
        _bad("模型里没有适配器", "The model has no adapters")
    shape = {name: [len(layer.lora_A), layer.scale, layer.dropout.p] for name, layer in layers.items()}
    return checkpoint.save(folder, "LoRA", adapter_state(model), {"layers": shape})


def load(model: nn.Module, folder: str | Path, keep: Sequence[str] = ()) -> list[str]:
    """Put saved adapters on a model that has none. Raises MissingAssets or BadAdapter."""
    record, state = checkpoint.load(folder, "LoRA")
    if adapters(model):
        _bad("模型里已有适配器，先合并或卸下", "The model has adapters already; merge or remove them first")
    modules = dict(model.named_modules())
    for name, (rank, scale, dropout) in record["layers"].items():
        if not isinstance(modules.get(name), nn.Linear):
            _bad(f"模型里没有线性层 {name}", f"The model has no linear layer {name}")
        replace(model, name, LoRALinear(modules[name], rank, scale * rank, dropout))
    freeze(model, keep)
    load_adapter_state(model, state)
    return list(record["layers"])


def _is_shared(model: nn.Module, weight: Tensor) -> bool:
    return sum(p is weight for _, p in model.named_parameters(remove_duplicate=False)) > 1


def _bad(zh: str, en: str) -> None:
    raise BadAdapter(f"{zh}。", f"{en}.")
