"""What :mod:`tools.results` and :mod:`tools.chain` share: reading a kept result, writing it as Markdown."""

from __future__ import annotations

import json

from rlhf import errors, profiles

RESULTS = profiles.CHECKOUT / "benchmarks" / "results"


def read(name: str, zh: str, en: str) -> dict:
    """The result ``name``; ``zh`` and ``en`` say how to make it. Raises MissingAssets where there is none."""
    try:
        return json.loads((RESULTS / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.MissingAssets(f"读不到 {name}。{zh}", f"Cannot read {name}. {en}") from error


def table(head: str, rows: list[str]) -> list[str]:
    """The lines of a table; ``head`` and every row are cells joined by `` | ``."""
    return [f"| {head} |", "|" + "---|" * (head.count(" | ") + 1), *(f"| {row} |" for row in rows)]


def gain(numbers: dict, judge: str) -> str:
    """The paired gain of ``judge`` with its interval."""
    mean, low, high = (numbers[f"{judge}_gain{end}"] for end in ("", "_low", "_high"))
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
