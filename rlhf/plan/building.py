"""The model of a recipe with as many blocks as wanted, and by default without any storage.

In: a configuration and an :class:`~rlhf.plan.Ask`. Out: a module on the meta device, with its adapter.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from .asking import Ask

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def build(config: PreTrainedConfig, ask: Ask, layers: int, device: str = "meta") -> nn.Module:
    """The recipe's model with so many blocks, in the recipe's format and with its adapter; without storage
    unless ``device`` is another than meta."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils import logging

    config = copy.deepcopy(config)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    config.num_hidden_layers = layers
    scorer = ask.stage == "reward"
    if scorer:
        config.num_labels, config.pad_token_id = 1, 0
    auto = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.device(device), quietly():
            model = auto.from_config(config, dtype=getattr(torch, ask.dtype))
            if ask.checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            if ask.lora_rank:
                model = _adapted(model, ask)
    finally:
        logging.set_verbosity(level)
    return model.train(ask.stage != "ppo" or ask.checkpointing)


def _adapted(model: nn.Module, ask: Ask) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=ask.lora_rank,
        lora_alpha=2 * ask.lora_rank,
        target_modules="all-linear",
        task_type="SEQ_CLS" if ask.stage == "reward" else "CAUSAL_LM",
    )
    with quietly():
        model = get_peft_model(model, config)
    if ask.quantize != "none" and ask.stage != "ppo":  # so TRL's trainers do
        for weight in (weight for weight in model.parameters() if weight.requires_grad):
            weight.data = weight.data.to(torch.bfloat16)
    if ask.checkpointing:
        model.enable_input_require_grads()
    return model


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the libraries' advice on adapters and checkpoints."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
