"""Bytes and FLOPs of a step, counted on models of one and two blocks; every further block adds the same.

In: a configuration and an :class:`~rlhf.plan.Ask`. Out: a :class:`Count`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from rlhf import memory, museum
from rlhf.errors import CourseError
from rlhf.memory import BadPlan

from .asking import Ask
from .building import build, quietly
from .steps import LOSSES, score, under_autocast

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TABLES = 4 * (16 + 256 + 1)  # of a matrix in NF4: the values of both codes, and an offset
# what libraries raise for a model that is no causal one, has other names for its sizes, or computes in a way
# that depends on the numbers, as a router of experts may
UNCOUNTABLE = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Peak(TorchDispatchMode):
    """Counts the bytes that tensors take within ``with Peak(own) as peak``: ``peak.highest`` is their largest
    sum at one moment. Storage of the tensors ``own``, which were there before, does not count."""

    def __init__(self, own: Sequence[Tensor] = ()):
        super().__init__()
        self.own = {tensor.untyped_storage()._cdata for tensor in own}
        self.alive: dict[int, weakref.finalize] = {}
        self.now = self.highest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, result)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.own or key in self.alive:
            return
        self.alive[key] = weakref.finalize(storage, self._forget, key, size)
        self.now += size
        self.highest = max(self.highest, self.now)

    def _forget(self, key: int, size: int) -> None:
        del self.alive[key]
        self.now -= size


@dataclass(frozen=True)
class Count:
    """What was counted on a model. Bytes, but for ``parameters``, ``trained`` (numbers) and the FLOPs.

    Counts of two models can be subtracted and scaled: ``one + (two - one) * (layers - 1)``.
    """

    parameters: float = 0.0  # of the model, the adapter included
    trained: float = 0.0  # those that learn
    weights: float = 0.0
    trained_bytes: float = 0.0
    optimizer: float = 0.0  # what it keeps of every weight that learns
    unpacked: float = 0.0  # the largest quantised matrix as it is multiplied
    activations: float = 0.0
    peak: float = 0.0  # activations and temporaries, at the moment when they are most
    scoring: float = 0.0  # the same without gradients: PPO's pass over the rollouts
    cache: float = 0.0
    forward: float = 0.0  # FLOPs of one forward pass
    both: float = 0.0  # FLOPs of one forward and backward pass

    def __add__(self, other: Count) -> Count:
        return Count(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, factor: float) -> Count:
        return Count(*(getattr(self, f.name) * factor for f in fields(self)))

    def __sub__(self, other: Count) -> Count:
        return self + other * -1


def count(config: PreTrainedConfig, ask: Ask) -> tuple[Count, float, float]:
    """Everything about a model of this configuration; the bytes of one of its blocks, and of what is around.

    Raises:
        BadPlan: more tokens are asked for than the model has positions, its blocks are not alike, or it
            is of a kind that cannot be counted.
    """
    layers, positions = getattr(config, "num_hidden_layers", 0), getattr(config, "max_position_embeddings", 0)
    if positions and ask.tokens > positions:
        raise BadPlan(
            f"一条序列有 {ask.tokens} 个词元，模型只有 {positions} 个位置。",
            f"A sequence has {ask.tokens} tokens, but the model has only {positions} positions.",
        )
    # how many passes a step has changes nothing in one of them
    kind, text, ask = type(config), config.to_json_string(), replace(ask, passes=1)
    try:
        one, two = (_measured(kind, text, ask, blocks) for blocks in (1, 2))
        whole = _parameters(kind, text, Ask(ask.stage, 1, 1, lora_rank=ask.lora_rank), layers)
    except CourseError:
        raise
    except UNCOUNTABLE as error:
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[0]:.150}" if str(error) else "?"
        raise BadPlan(
            f"数不了 {config.model_type} 这种模型的 {ask.stage} 阶段（{why}）。能数的是由相同的块堆成的"
            "因果语言模型（GPT-2、OPT、Llama、Qwen2 等）；用 --model 换一个。",
            f"A {config.model_type} cannot be counted for the stage {ask.stage} ({why}). What can be are "
            "causal language models of equal blocks (GPT-2, OPT, Llama, Qwen2 …); name one with --model.",
        ) from error
    block = two - one
    total = one + block * (layers - 1)
    if whole != total.parameters:
        raise BadPlan(
            f"这个 {config.model_type} 的 {layers} 个块并不相同（共 {whole:,} 个参数），没法按一块乘以块数"
            "来算。用 --model 换一个各块相同的模型。",
            f"The {layers} blocks of this {config.model_type} are not alike ({whole:,} parameters in all): "
            "it cannot be planned as so many times one block. Name a model of equal blocks with --model.",
        )
    return total, block.weights, one.weights - block.weights


@functools.lru_cache(maxsize=64)
def _parameters(kind: type, text: str, ask: Ask, layers: int) -> int:
    """Of the whole model, adapter included: counted, not extrapolated."""
    return museum.anatomy.count(build(kind.from_dict(json.loads(text)), ask, layers))


@functools.lru_cache(maxsize=64)
def _measured(kind: type, text: str, ask: Ask, layers: int) -> Count:
    """:func:`measure` on a model of the configuration written in ``text``, once."""
    return measure(build(kind.from_dict(json.loads(text)), ask, layers), ask)


def measure(model: nn.Module, ask: Ask) -> Count:
    """Count on one model; what lies on the meta device becomes fake tensors on the CPU.

    Fake tensors know that they are on a CPU, so autocast casts them, which nothing on the meta device does.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    fake = any(weight.is_meta for weight in model.parameters())
    with FakeTensorMode(allow_non_fake_inputs=True) if fake else contextlib.nullcontext(), quietly():
        if fake:
            tied = museum.anatomy.count(model)
            model.to_empty(device="cpu")
            getattr(model, "get_base_model", lambda: model)().tie_weights()
            assert museum.anatomy.count(model) == tied
        ids = torch.ones(ask.sequences, ask.tokens, dtype=torch.long)
        learning = [weight for weight in model.parameters() if weight.requires_grad]
        loss = functools.partial(under_autocast, ask, LOSSES[ask.stage], model, ids, ask)
        with FlopCounterMode(display=False) as both:
            loss().backward()
        activations = memory.measured_activations(model, loss)
        own = [*model.parameters(), *model.buffers(), *(weight.grad for weight in learning), ids]
        with Peak(own) as peak:
            loss().backward()
        with Peak(own) as scoring, FlopCounterMode(display=False) as forward, torch.no_grad():
            if ask.stage == "ppo":
                under_autocast(ask, score, model, ids, ask)
        cache = _cache(model, ids) if ask.stage == "ppo" else 0
        packed = adapted_weights(model) if ask.quantize != "none" else []
        saved = memory.tensor_bytes(packed) - quantized_bytes(packed, ask.quantize)
        return Count(
            parameters=museum.anatomy.count(model),
            trained=sum(weight.numel() for weight in learning),
            weights=memory.tensor_bytes(model.parameters()) - saved,
            trained_bytes=memory.tensor_bytes(learning),
            optimizer=optimizer_bytes(learning, ask.optimizer),
            unpacked=max((memory.tensor_bytes([weight]) for weight in packed), default=0),
            activations=activations,
            peak=peak.highest,
            scoring=scoring.highest,
            cache=cache,
            forward=forward.get_total_flops(),
            both=both.get_total_flops(),
        )


@torch.no_grad()
def _cache(model: nn.Module, ids: Tensor) -> int:
    was_training = model.training
    cache = model.eval()(input_ids=ids, use_cache=True).past_key_values
    model.train(was_training)
    return memory.measured_cache(cache)


def optimizer_bytes(weights: Iterable[Tensor], optimizer: str = "adam") -> int:
    """What the optimiser keeps of these weights, in their format; step counters left out.

    Adam and AdamW keep two moments of every number. Adafactor keeps, of a matrix, the means of its squared
    gradients by row and by column, and of a vector the squares (Shazeer and Stern 2018, algorithm 4).
    """
    if optimizer != "adafactor":
        return sum(2 * weight.numel() * weight.element_size() for weight in weights)
    total = 0
    for weight in weights:
        numbers = weight.numel()
        if weight.dim() > 1:
            numbers = numbers // weight.shape[-1] + numbers // weight.shape[-2]
        total += numbers * weight.element_size()
    return total


def adapted_weights(model: nn.Module) -> list[Tensor]:
    """The matrices ``(out, in)`` beside which an adapter learns; bitsandbytes packs these, and no other."""
    from transformers.pytorch_utils import Conv1D

    layers = [module.base_layer for module in model.modules() if hasattr(module, "base_layer")]
    return [layer.weight.T if isinstance(layer, Conv1D) else layer.weight for layer in layers]


def quantized_bytes(weights: Iterable[Tensor], quantize: str) -> int:
    """What these matrices take when bitsandbytes packs them.

    8bit: a byte per number, and a float32 scale per output (Dettmers et al. 2022, LLM.int8). 4bit: half a
    byte per number, a byte of scale for every 64 of them, a float32 for every 256 of these scales, and the
    tables of both codes (NF4 with double quantisation; Dettmers et al. 2023, QLoRA, section 3).
    """
    total = 0
    for weight in weights:
        numbers = weight.numel()
        if quantize == "8bit":
            total += numbers + 4 * weight.shape[0]
        elif quantize == "4bit":
            blocks = -(-numbers // 64)
            total += numbers // 2 + blocks + 4 * -(-blocks // 256) + TABLES
        else:
            total += numbers * weight.element_size()
    return total
