"""What a transformer is made of, read off the model itself: from its module tree and from one short pass.

In: any of the course's models, real or on the meta device. Out: parameters by kind, the blocks, the order in
which a block calls its parts, and an :class:`Anatomy` of the numbers that decide about memory. Nothing is
taken from a name or a model card where it can be measured. Lesson 01; :mod:`rlhf.memory` counts with it.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rlhf.errors import CourseError

KINDS = ("embedding", "position", "attention", "ffn", "norm", "head", "other")
ACTIVATIONS = {  # class in the module tree: what papers call it
    "ReLU": "ReLU",
    "GELUActivation": "GELU",
    "NewGELUActivation": "GELU (tanh)",
    "GELUTanh": "GELU (tanh)",
    "PytorchGELUTanh": "GELU (tanh)",
    "GELU": "GELU (tanh)",  # torch's own, as rlhf.chatglm uses it
    "SiLUActivation": "SiLU",
    "SiLU": "SiLU",
}


class NoTransformer(CourseError, ValueError):
    """A model whose blocks cannot be found."""


@dataclass(frozen=True)
class Step:
    """One call inside a block: what it is, its place in the tree, its class, widths in and out."""

    kind: str
    path: str
    cls: str
    width_in: int
    width_out: int

    def __str__(self) -> str:
        return f"{self.kind:10} {self.path:28} {self.cls:18} {self.width_in:>6} → {self.width_out}"


@dataclass(frozen=True)
class Anatomy:
    """The numbers of a transformer that decide about its memory.

    Attributes:
        parameters: all of them, tied weights once.
        layers, hidden, heads: as usual. kv_heads: heads that have keys and values of their own.
        head_dim: width of one head. ffn: width between the two ways of a feed-forward layer.
        gated: whether that layer multiplies two projections. activation: the function in between, by the
            name of its class. norm: LayerNorm or RMSNorm.
        vocab: width of the logits; 0 without a language-model head.
        cached: whether generation keeps keys and values.
    """

    parameters: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    gated: bool
    activation: str
    norm: str
    vocab: int
    cached: bool

    @property
    def attention(self) -> str:
        """MHA, GQA or MQA: how many query heads share one head of keys and values."""
        if self.kv_heads == self.heads:
            return f"MHA ({self.heads})"
        return f"{'MQA' if self.kv_heads == 1 else 'GQA'} ({self.heads} → {self.kv_heads})"

    @classmethod
    def of(cls, model: nn.Module) -> Anatomy:
        """Read it off ``model``, which may lie on the meta device. One pass over two tokens.

        Raises:
            NoTransformer: there is no list of blocks in it.
        """
        model = getattr(model, "pretrained_model", model)  # with a value head
        return cls.read(model, *first_block(model))

    @classmethod
    def read(cls, model: nn.Module, steps: Sequence[Step], result: object) -> Anatomy:
        """The same from a pass that was made already: what :func:`first_block` returned."""
        up, down = ffn_widths(steps)
        hidden, heads = model.config.hidden_size, model.config.num_attention_heads
        keys = _keys(result)  # (1, kv_heads, 2, head_dim), or None
        logits = getattr(result, "logits", None)
        return cls(
            parameters=count(model),
            layers=len(blocks(model)),
            hidden=hidden,
            heads=heads,
            kv_heads=keys.shape[1] if keys is not None else heads,
            head_dim=keys.shape[3] if keys is not None else hidden // heads,
            ffn=down,
            gated=up == 2 * down,
            activation=activation(steps),
            norm=norm(steps),
            vocab=logits.shape[-1] if logits is not None and logits.dim() == 3 else 0,
            cached=keys is not None,
        )


def count(module: nn.Module) -> int:
    """Number of parameters; a tensor that is used in two places counts once."""
    return sum({id(weight): weight.numel() for weight in module.parameters()}.values())


def by_kind(model: nn.Module) -> dict[str, int]:
    """Parameters per kind, tied weights once and under the embedding; together they are ``count(model)``."""
    counts = Counter(dict.fromkeys(KINDS, 0))
    seen: set[int] = set()
    for path, module in model.named_modules():
        for weight in module.parameters(recurse=False):
            if id(weight) not in seen:
                counts[kind_of(path, module)] += weight.numel()
                seen.add(id(weight))
    return dict(counts)


def kind_of(path: str, module: nn.Module) -> str:
    """One of :data:`KINDS`, by the class of the module and its place in the tree."""
    if "norm" in type(module).__name__.lower():
        return "norm"
    if isinstance(module, nn.Embedding):
        return "position" if re.search(r"wpe|pos", path.lower()) else "embedding"
    if re.search(r"(^|\.)(lm_head|score|classifier|pre_classifier|v_head|vocab_\w+)(\.|$)", path):
        return "head"
    if re.search(r"attn|attention", path):
        return "attention"
    if re.search(r"mlp|ffn|(^|\.)fc\d|activation", path):
        return "ffn"
    return "other"


def blocks(model: nn.Module) -> nn.ModuleList:
    """The list of transformer blocks: the module list that holds most of the parameters.

    Raises:
        NoTransformer: the model has no module list.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        name = type(model).__name__
        raise NoTransformer(
            f"在 {name} 里找不到由相同的块组成的 ModuleList，它不像是 Transformer。",
            f"There is no ModuleList of blocks in {name}; it does not look like a transformer.",
        )
    return max(lists, key=count)


def tied(model: nn.Module) -> bool | None:
    """Whether head and embedding are one tensor; None without a language-model head."""
    head = model.get_output_embeddings()
    return None if head is None else head.weight is model.get_input_embeddings().weight


def first_block(model: nn.Module, tokens: int = 2) -> tuple[list[Step], object]:
    """The steps of the first block in the order in which they are **called**, and what the model returned.

    The order of a module tree is the order in which somebody wrote down the parts; only hooks on a real pass
    tell which comes first. Works on the meta device, where a pass computes shapes and nothing else.
    """
    block, steps, hooks = blocks(model)[0], [], []
    for path, module in block.named_modules():
        kind = kind_of(path, module)
        leaf = not list(module.children()) and not isinstance(module, nn.Dropout)
        if leaf and (kind in ("norm", "ffn") or isinstance(module, (nn.Linear, Conv1D))):
            hooks.append(module.register_forward_hook(_recorder(steps, kind, path), with_kwargs=True))
    try:
        result = forward(model, tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return steps, result


def outline(model: nn.Module) -> list[Step]:
    """What lies around the blocks, in calling order; all blocks together are one step of kind ``blocks``."""
    inside, steps, hooks = blocks(model), [], []
    path = next(path for path, module in model.named_modules() if module is inside)
    for name, module in model.named_modules():
        if module is inside[0]:
            hooks.append(module.register_forward_hook(_recorder(steps, "blocks", path), with_kwargs=True))
        elif not name.startswith(f"{path}.") and not list(module.children()):
            wanted = kind_of(name, module) in ("embedding", "position", "norm", "head")
            if wanted or isinstance(module, nn.Linear):
                record = _recorder(steps, kind_of(name, module), name)
                hooks.append(module.register_forward_hook(record, with_kwargs=True))
    try:
        forward(model)
    finally:
        for hook in hooks:
            hook.remove()
    return steps


@torch.no_grad()
def forward(model: nn.Module, tokens: int = 2):
    """One pass over a few different tokens, with a cache where the model has one."""
    device = next(model.parameters()).device
    ids = (torch.arange(tokens, device=device)[None] + 3) % model.config.vocab_size  # (1, T)
    training = model.training
    model.eval()
    try:
        cache = "past_key_values" in inspect.signature(model.forward).parameters
        return model(input_ids=ids, use_cache=True) if cache else model(input_ids=ids)
    finally:
        model.train(training)


def pattern(steps: Sequence[Step]) -> tuple[str, ...]:
    """The kinds in calling order, repetitions left out: ``("norm", "attention", "norm", "ffn")``."""
    return tuple(kind for kind, _ in groupby(step.kind for step in steps))


def ffn_widths(steps: Sequence[Step]) -> tuple[int, int]:
    """``(width that comes up, width that goes down)`` of the feed-forward layer.

    Without a gate they are equal. With one, what comes up is twice as wide: two projections, whether in one
    matrix or in two, multiplied with each other before the way down.
    """
    linear = [step for step in steps if step.kind == "ffn" and step.cls not in ACTIVATIONS]
    down = linear[-1]
    return sum(step.width_out for step in linear[:-1]), down.width_in


def activation(steps: Sequence[Step]) -> str:
    """The class of the activation function of the feed-forward layer; :data:`ACTIVATIONS` knows its name."""
    return next((step.cls for step in steps if step.kind == "ffn" and step.cls in ACTIVATIONS), "?")


def norm(steps: Sequence[Step]) -> str:
    """LayerNorm, or RMSNorm in any of its spellings."""
    name = next(step.cls for step in steps if step.kind == "norm")
    return "RMSNorm" if "RMS" in name else name


def highway(model: nn.Module, factor: float = 1000.0) -> float:
    """How much larger the first block's output gets when its input is multiplied by ``factor``.

    About ``factor`` where the residual stream runs through the block untouched (pre-LN), about 1 where a norm
    stands in its way (post-LN). For a model with real weights.
    """
    block, sizes = blocks(model)[0], []
    for scale in (1.0, factor):

        def enlarge(_, args, scale=scale):
            return (args[0] * scale, *args[1:])

        def measure(_, args, output):
            sizes.append((output[0] if isinstance(output, tuple) else output).norm().item())

        hooks = block.register_forward_pre_hook(enlarge), block.register_forward_hook(measure)
        try:
            forward(model, 8)
        finally:
            for hook in hooks:
                hook.remove()
    return sizes[1] / sizes[0]


def positions(model: nn.Module, head_dim: int) -> str:
    """How the model knows where a token stands: a learned table, or rotation of queries and keys (RoPE)."""
    if any(kind_of(path, module) == "position" for path, module in model.named_modules()):
        return "learned"
    rotary = next((m for m in model.modules() if "Rotary" in type(m).__name__), None)
    if rotary is None:
        return "none"
    if getattr(model.config, "position_encoding_2d", False):
        return "RoPE, two positions"
    share = 2 * len(rotary.inv_freq) / head_dim
    return "RoPE" if share == 1 else f"RoPE on {share:.0%} of a head"


def _recorder(steps: list[Step], kind: str, path: str):
    def record(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        given = args[0] if args else next(iter(kwargs.values()))
        made = output[0] if isinstance(output, tuple) else output
        width_in = getattr(module, "num_embeddings", given.shape[-1])  # a table has one row per token
        steps.append(Step(kind, path, type(module).__name__, width_in, made.shape[-1]))

    return record


def _keys(result: object) -> Tensor | None:
    cache = getattr(result, "past_key_values", None)
    return None if cache is None else cache.layers[0].keys
