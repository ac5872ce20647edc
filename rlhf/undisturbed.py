"""What a measurement or a training in between leaves as it was: random numbers, a model's mode and forward.

In: a seed, or a model. Out: a ``with`` block; after it all goes on as if it had not been there. What TRL's
trainers leave on a model is taken off by :func:`untangle`.
The lessons sample held-out responses in the middle of a run this way, and the run stays the same.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn


@contextlib.contextmanager
def own_random_state(seed: int) -> Iterator[None]:
    """Python's, NumPy's and torch's random numbers from ``seed``; outside they go on as before."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():  # the CPU's state and that of every GPU
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside the block, every module as it was after it: the policy that samples must be the
    policy that is scored."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def untangle(model: nn.Module) -> None:
    """Take off the ``forward`` that a trainer of TRL or Accelerate has put on the object ``model``.

    It is bound to this very object, and ``copy.deepcopy`` copies the binding along: a copy would compute with
    weights that are not its own. The ``forward`` of the class comes back; where nothing was put on, nothing
    happens.
    """
    vars(model).pop("forward", None)
