"""Random lengths of queries and responses. In: a range. Out: a callable that draws from it. Lesson 07 uses
it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import BadState
from .config import BadConfig
from .randomness import numpy_state, set_numpy_state


class LengthSampler:
    """``LengthSampler(2, 8)()`` is 2, 3, ..., or 7: the upper bound is excluded.

    Draws from numpy's global generator, which ``set_seed`` seeds, or with ``seed`` from one of its own.
    """

    def __init__(self, min_value: int, max_value: int, seed: int | None = None):
        if not min_value < max_value:
            raise BadConfig(
                f"LengthSampler 的上界（不含）必须大于下界：{min_value}, {max_value}",
                f"LengthSampler needs an upper bound (excluded) above the lower: {min_value}, {max_value}",
            )
        self.values = list(range(min_value, max_value))
        self.generator = None if seed is None else np.random.RandomState(seed)

    def __call__(self) -> int:
        return int((self.generator or np.random).choice(self.values))

    def state_dict(self) -> dict[str, Any]:
        """Range and random state, for ``trainer.save_state(..., extra={"lengths": sampler})``. A sampler
        without a seed has no state of its own: numpy's global one is part of every saved state."""
        generator = None if self.generator is None else numpy_state(self.generator)
        return {"values": self.values, "generator": generator}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken. Raises BadState for a sampler of another range, or if only one of
        the two has a seed."""
        if state["values"] != self.values or (state["generator"] is None) != (self.generator is None):
            was, now = (
                f"LengthSampler({values[0]}, {values[-1] + 1}{', seed=...' if seeded else ''})"
                for values, seeded in (
                    (state["values"], state["generator"] is not None),
                    (self.values, self.generator is not None),
                )
            )
            raise BadState(
                f"保存时是 {was}，现在是 {now}。", f"The state was saved with {was}; here it is {now}."
            )
        if self.generator is not None:
            set_numpy_state(self.generator, state["generator"])
