"""How much memory a model needs: weights, gradients, Adam, activations, keys and values.

In: an :class:`rlhf.anatomy.Anatomy` (of a model that may have no weights), what is to be done with it, and in
which number format. Out: bytes, as a :class:`Plan`. The second half measures the same things on a real model,
so that the formulas can be checked; lesson 01 does, and compares with Accelerate's estimate::

    llama = museum.facts("llama-2-7b")
    plan_training(llama, tokens=1024)             # what full fine-tuning needs
    plan_generation(llama, tokens=4096, batch=8)  # weights and cache

Everything is exact but activations, whose formula comes out up to a quarter too low. What is left out:
buffers, workspace of kernels, fragmentation, and what CUDA itself takes (0.3 to 1 GB).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields

import pandas as pd
import torch
from torch import Tensor, nn

from rlhf.anatomy import Anatomy
from rlhf.errors import CourseError

BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5}
GIB = 2**30
KEPT = {"ReLU": 1, "NewGELUActivation": 5}  # inner widths that stay for the backward pass; a fused GELU: 2


class BadPlan(CourseError, ValueError):
    """A number format that does not exist, or a negative size."""


@dataclass(frozen=True)
class Plan:
    """Bytes per purpose. Plans add up: ``policy + reference + reward_model``."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    cache: float = 0.0

    @property
    def total(self) -> float:
        return sum(getattr(self, part.name) for part in fields(self))

    def __add__(self, other: Plan) -> Plan:
        parts = (part.name for part in fields(self))
        return Plan(**{part: getattr(self, part) + getattr(other, part) for part in parts})

    def row(self, unit: float = GIB) -> dict[str, float]:
        """All parts and the total, divided by ``unit`` (GiB unless said otherwise)."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: value / unit for name, value in {**parts, "total": self.total}.items()}


def ledger(plans: Mapping[str, Plan], unit: float = GIB) -> pd.DataFrame:
    """One row per plan, one column per purpose."""
    return pd.DataFrame({name: plan.row(unit) for name, plan in plans.items()}).T


def bytes_of(dtype: str | torch.dtype) -> float:
    """Bytes per number: ``"bfloat16"`` or ``torch.bfloat16`` is 2. Raises BadPlan for an unknown format."""
    name = str(dtype).removeprefix("torch.")
    if name not in BYTES:
        known = ", ".join(BYTES)
        raise BadPlan(
            f"不认识数字格式 {name!r}；有：{known}。", f"Unknown number format {name!r}; known: {known}."
        )
    return BYTES[name]


def weights(parameters: int, dtype: str | torch.dtype = "float32") -> float:
    """``parameters`` times the bytes of one."""
    return _size(parameters, "parameters") * bytes_of(dtype)


def kv_cache(model: Anatomy, tokens: int, batch: int = 1, dtype: str | torch.dtype = "bfloat16") -> float:
    """Keys **and** values of every token, in every layer, for the heads that have their own.

    ``2 * layers * kv_heads * head_dim * tokens * batch`` numbers; 0 for a model that keeps none.
    """
    per_token = 2 * model.layers * model.kv_heads * model.head_dim if model.cached else 0
    return per_token * _size(tokens, "tokens") * _size(batch, "batch") * bytes_of(dtype)


def activations(
    model: Anatomy,
    tokens: int,
    batch: int = 1,
    dtype: str | torch.dtype = "float32",
    *,
    attention: str = "sdpa",
    checkpointing: bool = False,
) -> float:
    """Roughly what one forward pass keeps for the backward pass: inputs of the operations, per token.

    Per layer: two norms (input and output, and one more copy in RMSNorm), queries, keys, values, the output
    of attention, and the inner width of the feed-forward layer: once for ReLU, twice for a fused GELU, five
    times for one written out op by op (``gelu_new``, the original GPT-2's), four times with a gate.
    ``attention="eager"`` adds the matrix of attention weights; ``checkpointing`` keeps the input of each
    block only, and one block at a time in full. On top, one row of logits per token.

    Left out: dropout masks, and the gradient of the logits while it exists. Counted the way of Korthikanti
    et al. 2022, section 4.
    """
    hidden, keys = model.hidden, model.kv_heads * model.head_dim
    norms = (6 if model.norm == "RMSNorm" else 4) * hidden
    inner = (4 if model.gated else KEPT.get(model.activation, 2)) * model.ffn
    per_layer = norms + 2 * model.heads * model.head_dim + 2 * keys + inner
    if attention == "eager":
        per_layer += model.heads * tokens
    elif attention != "sdpa":
        raise BadPlan(
            f"attention 是 'sdpa' 或 'eager'，不是 {attention!r}。",
            f"attention is 'sdpa' or 'eager', not {attention!r}.",
        )
    layers = model.layers * hidden + per_layer if checkpointing else model.layers * per_layer
    floats = (layers + model.vocab) * _size(tokens, "tokens") * _size(batch, "batch")
    return floats * bytes_of(dtype)


def plan_training(
    model: Anatomy,
    tokens: int = 0,
    batch: int = 1,
    *,
    dtype: str | torch.dtype = "float32",
    trained: int | None = None,
    master: bool = False,
    **settings,
) -> Plan:
    """Training with Adam.

    Args:
        tokens, batch: what one forward pass sees, for the activations; 0 leaves them out.
        dtype: of weights, gradients and activations. trained: parameters that learn; all unless given (the
            adapters of LoRA are a part of ``model.parameters`` or come on top, as you count them).
        master: keep a float32 copy of the weights that learn, as mixed precision does; the moments are then
            float32 as well. Otherwise everything has the format of the weights, as in plain PyTorch.
        settings: of :func:`activations`.
    """
    trained = model.parameters if trained is None else _size(trained, "trained")
    moments = 2 * trained * (4.0 if master else bytes_of(dtype))
    return Plan(
        weights=weights(model.parameters, dtype),
        gradients=weights(trained, dtype),
        optimizer=moments + (4.0 * trained if master else 0.0),
        activations=activations(model, tokens, batch, dtype, **settings) if tokens else 0.0,
    )


def plan_generation(
    model: Anatomy, tokens: int, batch: int = 1, *, dtype: str | torch.dtype = "bfloat16"
) -> Plan:
    """Weights, and the keys and values of ``batch`` sequences of ``tokens`` tokens (prompt and response)."""
    return Plan(weights=weights(model.parameters, dtype), cache=kv_cache(model, tokens, batch, dtype))


def plan_frozen(model: Anatomy, dtype: str | torch.dtype = "bfloat16") -> Plan:
    """A model that only answers: the reference or the reward model of PPO."""
    return Plan(weights=weights(model.parameters, dtype))


# ---- the same things, measured


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of storage behind some tensors; storage that several of them share counts once."""
    return sum({_storage(tensor): _nbytes(tensor) for tensor in tensors}.values())


def measured_training(model: nn.Module, optimizer: torch.optim.Optimizer) -> Plan:
    """Weights, gradients and optimizer state as they lie in memory, after at least one step.

    Adam also keeps a step counter per tensor, a few bytes that the formula leaves out.
    """
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    return Plan(
        weights=float(tensor_bytes(model.parameters())),
        gradients=float(tensor_bytes(w.grad for w in model.parameters() if w.grad is not None)),
        optimizer=float(tensor_bytes(value for value in state if isinstance(value, Tensor))),
    )


def measured_cache(past_key_values) -> int:
    """Bytes of a cache of transformers."""
    return tensor_bytes(tensor for layer in past_key_values.layers for tensor in (layer.keys, layer.values))


def measured_activations(model: nn.Module, loss: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps while ``loss()`` runs, the weights themselves not counted."""
    own, saved = {_storage(weight) for weight in model.parameters()}, {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            saved[_storage(tensor)] = tensor  # the tensor, so that its address is not given away again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = loss()
    total = tensor_bytes(saved.values())
    del result
    return total


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # also where there is no address: on the meta device


def _nbytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _size(value: int, name: str) -> int:
    if value < 0:
        raise BadPlan(f"{name} 不能是负数：{value}。", f"{name} cannot be negative: {value}.")
    return value
