"""A frozen base in 8 or 4 bits, under an adapter that learns in full: a recipe's field ``quantize``.

In: the name of a format. Out: what ``from_pretrained`` has to be told; transformers and bitsandbytes do the
work. ``8bit`` is LLM.int8 (Dettmers et al. 2022), ``4bit`` is NF4 with double quantisation (QLoRA, Dettmers
et al. 2023). What is rounded so coarsely cannot learn, so both need LoRA; and the adapter is merged into the
whole weights afterwards, by ``python -m rlhf.merge``. bitsandbytes is not among the course's requirements: it
is asked for only where a recipe names one of the two. ``python -m rlhf.plan`` counts the bytes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlhf.errors import BadRecipe, CourseError

if TYPE_CHECKING:
    import torch

FORMATS = ("none", "8bit", "4bit")
INSTALL = "pip install bitsandbytes"


class MissingPackage(CourseError, ImportError):
    """Something that only this setting needs is not installed; the message names the command."""

    __str__ = Exception.__str__


def check(values: Mapping[str, Any]) -> None:
    """Raise BadRecipe where a recipe's ``quantize`` is no format or does not go with its other fields."""
    quantize = values.get("quantize", "none")
    if quantize not in FORMATS:
        known = ", ".join(FORMATS)
        raise BadRecipe(
            f"字段 quantize 是 {known} 之一，而不是 {quantize}。",
            f"The field quantize is one of {known}, not {quantize}.",
        )
    if quantize == "none":
        return
    if not values["lora_rank"]:
        raise BadRecipe(
            f"quantize: {quantize} 的权重不能训练，请加上适配器，例如 lora_rank: 16。",
            f"Weights in {quantize} cannot learn; train an adapter beside them, such as lora_rank: 16.",
        )
    if values["dtype"] != "bfloat16":
        raise BadRecipe(
            f"quantize: {quantize} 要和 dtype: bfloat16 一起用：适配器和新的打分头是这个格式。",
            f"quantize: {quantize} goes with dtype: bfloat16, which adapter and score head have too.",
        )
    if values["merge"]:
        raise BadRecipe(
            f"适配器不能并入 {quantize} 的权重。请写 merge: false，训练后运行 python -m rlhf.merge，"
            "它并入的是完整的权重。",
            f"An adapter is not merged into weights in {quantize}. Set merge: false, and run python -m "
            "rlhf.merge after the training: it takes the whole weights.",
        )


def require(quantize: str, sharding: str = "") -> None:
    """Can this be done here? ``sharding``: how the launcher shares the weights out, if it does.

    Raises:
        MissingPackage: bitsandbytes is not installed; the message has the command. BadRecipe: packed weights
            would be shared out.
    """
    if quantize != "none" and sharding:
        raise BadRecipe(
            f"quantize: {quantize} 的权重不能用 {sharding} 分摊。请用 recipes/accelerate/eight_gpus.yaml。",
            f"Weights in {quantize} cannot be shared out with {sharding}. Use "
            "recipes/accelerate/eight_gpus.yaml.",
        )
    if quantize != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingPackage(
            f"quantize: {quantize} 需要 bitsandbytes，这里没有安装。请运行：{INSTALL}（有 GPU 才快；"
            "在 CPU 上能跑，但很慢），或写 quantize: none。",
            f"quantize: {quantize} needs bitsandbytes, which is not installed. Run: {INSTALL} (for "
            "GPUs; on a CPU it works, slowly), or set quantize: none.",
        )


def loading(quantize: str, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Arguments for ``from_pretrained``: nothing for ``none``. ``dtype`` is that of the arithmetic,
    ``device`` this process's own.

    Raises:
        MissingPackage: see :func:`require`.
    """
    require(quantize)
    if quantize == "none":
        return {}
    from transformers import BitsAndBytesConfig

    if quantize == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return {"quantization_config": config, "device_map": {"": device}}
