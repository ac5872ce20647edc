"""Every random state a run draws from, as plain numbers and tensors: Python's, numpy's, torch's, the GPU's.

In: nothing, or a numpy generator. Out: a dict for :mod:`rlhf.ppo.packing`; and from such a dict the states as
they were. Lesson 07 stops a run and continues it: sampling has to go on with the very next random number.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def global_states(device: torch.device) -> dict[str, Any]:
    """The states of ``random``, of numpy's global generator, of torch on the CPU and on ``device``."""
    version, words, gauss = random.getstate()
    states = {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": numpy_state(np.random),
        "torch": torch.get_rng_state(),
    }
    if module := _accelerator(device):
        states[device.type] = module.get_rng_state()
    return states


def set_global_states(states: dict[str, Any], device: torch.device) -> None:
    """Continue with the random numbers that come after those states. A device of another kind keeps its
    own."""
    python = states["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    set_numpy_state(np.random, states["numpy"])
    torch.set_rng_state(states["torch"])
    if (module := _accelerator(device)) and device.type in states:
        module.set_rng_state(states[device.type])


def numpy_state(generator: Any) -> dict[str, Any]:
    """The Mersenne Twister of a ``RandomState``, or of the module ``numpy.random`` itself."""
    name, words, position, has_gauss, gauss = generator.get_state()
    words = torch.from_numpy(words.astype(np.int64))  # (624,)
    return {"name": name, "words": words, "position": position, "has_gauss": has_gauss, "gauss": gauss}


def set_numpy_state(generator: Any, state: dict[str, Any]) -> None:
    """The counterpart of :func:`numpy_state`."""
    words = state["words"].numpy().astype(np.uint32)
    generator.set_state((state["name"], words, state["position"], state["has_gauss"], state["gauss"]))


def _accelerator(device: torch.device) -> Any:
    """``torch.cuda``, ``torch.mps``, … with a random state of its own; None for the CPU."""
    module = None if device.type == "cpu" else getattr(torch, device.type, None)
    return module if hasattr(module, "get_rng_state") else None
