"""The optimiser of a run, by its name in the configuration.

In: parameters and a learning rate. Out: a ``torch.optim.Optimizer``. ``adam`` is what TRL's PPO used.
``adafactor`` is set as TRL's examples at 7B and 20B set it: the learning rate means what it means for Adam,
and there is no first moment, so that of a matrix only one number per row and per column is kept. ``python -m
rlhf.plan`` counts the difference.

Shazeer and Stern 2018, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

Parameters = Sequence[nn.Parameter]


def adafactor(parameters: Parameters, lr: float) -> torch.optim.Optimizer:
    """transformers' Adafactor with a learning rate from outside. (torch's takes the rate as a share of each
    matrix's own size; at a rate made for Adam it would hardly move.)"""
    from transformers.optimization import Adafactor

    return Adafactor(parameters, lr=lr, scale_parameter=False, relative_step=False, warmup_init=False)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adafactor": adafactor,
}


def build_optimizer(name: str, parameters: Parameters, learning_rate: float) -> torch.optim.Optimizer:
    """One of :data:`OPTIMIZERS`; its other settings are the library's defaults."""
    return OPTIMIZERS[name](parameters, lr=learning_rate)
