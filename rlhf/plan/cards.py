"""The accelerators that are known, from ``rlhf/gpus.yaml``, and how much of one a training can use."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf import plain_yaml
from rlhf.memory import GIB, BadPlan

TABLE = Path(__file__).parents[1] / "gpus.yaml"
UTILISATION = 0.4  # share of the peak that training reaches; 0.3 to 0.5 is usual
READING = 0.6  # share of the bandwidth that sampling reaches
RESERVE = (GIB, 0.05)  # for driver and fragmentation: one GiB and 5 % of the card


@dataclass(frozen=True)
class Gpu:
    """One line of ``gpus.yaml``."""

    name: str
    memory: float
    tflops: float
    bandwidth: float
    source: str

    @property
    def usable(self) -> float:
        """Bytes that are left for us."""
        size = self.memory * (GIB if self.memory in (16, 24, 48) else 1e9)
        return size - RESERVE[0] - RESERVE[1] * size


@functools.cache
def gpus() -> Mapping[str, Gpu]:
    """The table, by name, from small to large."""
    rows = plain_yaml.parse(TABLE.read_text(encoding="utf-8"))
    return {name: Gpu(name=name, **row) for name, row in rows.items()}


def gpu(name: str) -> Gpu:
    """One GPU. Raises BadPlan, with the names there are, for one that is not in the table."""
    if name.lower() not in gpus():
        known = ", ".join(gpus())
        raise BadPlan(f"表里没有 {name}；有：{known}。", f"The table has no {name}; there are: {known}.")
    return gpus()[name.lower()]
