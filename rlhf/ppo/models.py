"""What the trainer asks of the models it is given, and how it switches them.

In: policy and reference. Out: an error that says what is wrong with them, or models that recompute their
activations. :class:`~rlhf.ppo.PPOTrainer` uses it; lesson 11 trains with recomputation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..errors import BadRollout
from .config import BadConfig
from .value_head import AutoModelForCausalLMWithValueHead


def check(model: object, ref_model: object) -> None:
    """Raise BadConfig unless ``model`` is a policy with a value head, and ``ref_model`` another or None."""
    if not isinstance(model, AutoModelForCausalLMWithValueHead):
        kind = type(model).__name__
        raise BadConfig(
            f"model 应当是 AutoModelForCausalLMWithValueHead，而不是 {kind}",
            f"model must be an AutoModelForCausalLMWithValueHead, not {kind}",
        )
    if ref_model is not None and (ref_model is model or ref_model is model.pretrained_model):
        raise BadConfig(
            "ref_model 与 model 是同一个对象：训练会连参考模型一起改变；传 None 会自动复制一份",
            "ref_model is the policy itself and would be trained with it; None makes a frozen copy",
        )


def check_finite(*tensors: torch.Tensor) -> None:
    """Raise BadRollout if what the models say is not a number any more."""
    if not bool(torch.stack([torch.isfinite(t).all() for t in tensors]).all()):
        raise BadRollout(
            "模型给出了 NaN 或无穷大的对数概率或价值，训练已经发散；请调低学习率并从上一个检查点继续",
            "The models give NaN or infinite log-probabilities or values: training has diverged. Lower the "
            "learning rate and continue from an earlier checkpoint",
        )


@contextlib.contextmanager
def train_mode(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Put these modules, but nothing inside them, into train mode for a while."""
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def checkpoint_activations(model: AutoModelForCausalLMWithValueHead) -> list[nn.Module]:
    """Switch activation checkpointing on; returns the layers that do it when they are in train mode.

    transformers recomputes only what is in train mode, so these layers are put there for the update, while
    everything inside them stays in eval mode. Some keep a dropout rate of their own (OPT): set to 0.
    """
    model.pretrained_model.gradient_checkpointing_enable()
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        for name, value in vars(layer).items():
            if "dropout" in name and isinstance(value, float):
                setattr(layer, name, 0.0)
    return layers
