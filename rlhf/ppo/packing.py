"""Nested Python values to JSON and tensors, and back, exactly: how a training state is stored without pickle.

In: dicts, lists and tuples of numbers, texts, None, tensors and numpy arrays, such as an optimiser's
``state_dict``. Out: the same structure as JSON knows it, and the tensors by name for a safetensors file. A
pickle could run any code when it is read; these two cannot. Lesson 07 looks into such a file.

What JSON has no word for is written as a dict with one key: ``{"tensor": name}``, ``{"array": name}``,
``{"tuple": [...]}``, and ``{"items": [[key, value], ...]}`` for a dict whose keys are not texts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

MARKS = ("tensor", "array", "tuple", "items")


def pack(value: Any, place: str, tensors: dict[str, torch.Tensor]) -> Any:
    """``value`` as JSON knows it. Its tensors are copied to the CPU and put into ``tensors``, named by
    ``place``.

    Raises:
        TypeError: something else than numbers, texts, tensors and containers; the message names its place.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (torch.Tensor, np.ndarray)):
        kind = "tensor" if isinstance(value, torch.Tensor) else "array"
        tensors[place] = torch.as_tensor(value).detach().cpu().contiguous().clone()
        return {kind: place}
    if isinstance(value, (list, tuple)):
        parts = [pack(part, f"{place}/{i}", tensors) for i, part in enumerate(value)]
        return {"tuple": parts} if isinstance(value, tuple) else parts
    if isinstance(value, dict):
        items = [[key, pack(part, f"{place}/{key}", tensors)] for key, part in value.items()]
        plain = all(isinstance(key, str) for key in value) and not (len(value) == 1 and {*value} & {*MARKS})
        return dict(items) if plain else {"items": items}
    raise TypeError(f"{place}: {type(value).__name__}")


def unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """What :func:`pack` was given. ``KeyError`` if a tensor is not there."""
    if isinstance(value, list):
        return [unpack(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    mark = next(iter(value)) if len(value) == 1 else None
    if mark in ("tensor", "array"):
        found = tensors[value[mark]]
        return found if mark == "tensor" else found.numpy()
    if mark == "tuple":
        return tuple(unpack(value[mark], tensors))
    items = value["items"] if mark == "items" else value.items()
    return {key: unpack(part, tensors) for key, part in items}
