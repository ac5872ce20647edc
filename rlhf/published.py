"""GPT-2's published checkpoints: their names, their layout, and how they are read and written.

In: a folder with ``config.json`` and safetensors, whole or in shards. Out: its configuration, and its tensors
under the names of :class:`rlhf.gpt.GPT`; and the way back. Lesson 03 translates one checkpoint by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, equal

from rlhf.errors import CourseError, MissingAssets

PUBLISHED = {  # our name of a part: its name in GPT-2's checkpoints
    "token_embedding": "wte",
    "position_embedding": "wpe",
    "final_norm": "ln_f",
    "norm_1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "norm_2": "ln_2",
    "ffn.up": "mlp.c_fc",
    "ffn.down": "mlp.c_proj",
}
CONV1D = (".qkv.weight", ".out.weight", ".up.weight", ".down.weight")
OLD_MASKS = (".attn.bias", ".attn.masked_bias")  # old checkpoints hold the causal mask as well


class UnsupportedModel(CourseError, ValueError):
    """A configuration or a checkpoint that the course's GPT would compute wrongly."""


def published_name(name: str) -> str:
    """``decoder.blocks.2.ffn.up.weight`` is ``h.2.mlp.c_fc.weight`` in a published checkpoint."""
    part, kind = name.removeprefix("decoder.").rsplit(".", 1)
    if not part.startswith("blocks."):
        return f"{PUBLISHED[part]}.{kind}"
    _, layer, part = part.split(".", 2)
    return f"h.{layer}.{PUBLISHED[part]}.{kind}"


def is_transposed(name: str) -> bool:
    """Whether GPT-2 stores this tensor of ours as Conv1D does, ``(in, out)``. Decided by its name: a square
    matrix has no shape to tell it by."""
    return name.endswith(CONV1D)


def from_published(weights: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors that our ``names`` stand for, in our layout, float32.

    Raises:
        UnsupportedModel: a tensor is missing, there is one that has no place, or the head is not tied.
    """
    left = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    theirs = {name: published_name(name) for name in names}
    missing = [name for name in theirs.values() if name not in left]
    extra = set(left) - set(theirs.values()) - {"lm_head.weight"}
    extra = sorted(name for name in extra if not name.endswith(OLD_MASKS))
    if missing or extra:
        raise UnsupportedModel(
            f"检查点与配置不符：缺少 {_few(missing)}；多出 {_few(extra)}。",
            f"The checkpoint does not fit its configuration: missing {_few(missing)}; unknown {_few(extra)}.",
        )
    if not equal(left.get("lm_head.weight", left["wte.weight"]), left["wte.weight"]):
        raise UnsupportedModel(
            "检查点的 lm_head 与词嵌入不同，而这里的输出头就是词嵌入。",
            "The checkpoint's lm_head differs from its token embedding, but here the head is the embedding.",
        )
    tensors = {ours: left[name].float() for ours, name in theirs.items()}
    return {name: t.T.contiguous() if is_transposed(name) else t for name, t in tensors.items()}


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back: GPT-2's names with ``transformer.`` in front, in Conv1D's layout, on the CPU."""
    return {
        f"transformer.{published_name(name)}": (t.T if is_transposed(name) else t).detach().cpu().contiguous()
        for name, t in state.items()
    }


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of ``config.json``. Raises MissingAssets."""
    return _read_json(folder / "config.json")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of ``model.safetensors``, or of the shards that its index lists. Raises MissingAssets."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return _load_tensors(folder / "model.safetensors")
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise _unreadable(index, "no weight_map")
    shards = [_load_tensors(folder / shard) for shard in sorted(set(places.values()))]
    return {name: tensor for shard in shards for name, tensor in shard.items()}


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(fields, dict):
        raise _unreadable(path, "not a JSON object")
    return fields


def _unreadable(path: Path, reason: object) -> MissingAssets:
    return MissingAssets(
        f"读不出 {path}（{reason}）。from_pretrained 需要 config.json 和 model.safetensors；"
        "自己的检查点请用 from_checkpoint。",
        f"Cannot read {path} ({reason}). from_pretrained takes config.json and model.safetensors; "
        "from_checkpoint reads this class's own checkpoints.",
    )


def _few(names: Sequence[str], most: int = 3) -> str:
    more = f" … ({len(names)})" if len(names) > most else ""
    return (", ".join(names[:most]) or "–") + more
