"""Which lesson waits for which, and which begins first where several run at once.

In: the sources of a course, and how long the cells of its notebooks took. Out: what a lesson needs, an order,
and a schedule for several processes.

A lesson waits for the ones that make what it reads, ``sft_1`` or ``ppo_3`` for instance: it would train that
itself otherwise, or meet a folder at the moment in which it is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rlhf import ready
from tools import timing
from tools.notebooks import Course, read

UNTIMED = 100.0  # seconds, for a lesson whose notebook does not say how long it took


def needs(course: Course, names: Iterable[str]) -> dict[str, set[str]]:
    """Of every lesson the earlier ones among ``names`` whose results it reads, see :mod:`rlhf.ready`."""
    names = list(names)
    return {name: {other for other in _read_by(course, name) if other in names} for name in names}


def _read_by(course: Course, name: str) -> set[str]:
    try:
        read_off = ready.needs(course.source(name).read_text(encoding="utf-8"), name)
    except SyntaxError:
        return set()  # running it will show what is wrong
    return {need.lesson for need in read_off if need.lesson < name}


def seconds(course: Course, name: str) -> float:
    """How long the committed run of a lesson took, all cells together."""
    path = course.notebook(name)
    cells = read(path).cells if path.is_file() else []
    return sum(filter(None, map(timing.seconds, cells))) or UNTIMED


def by_urgency(needed: Mapping[str, set[str]], takes: Mapping[str, float]) -> list[str]:
    """The lessons, first the one behind which the longest chain of others waits, its own time included."""
    urgency: dict[str, float] = {}
    for name in sorted(needed, reverse=True):  # a lesson is needed by later ones only
        behind = [urgency[other] for other in urgency if name in needed[other]]
        urgency[name] = takes[name] + max(behind, default=0.0)
    return sorted(needed, key=lambda name: (-urgency[name], name))


class Slot(NamedTuple):
    """When a lesson is to begin, in seconds, and in which of several processes."""

    begins: float
    lane: int


def schedule(needed: Mapping[str, set[str]], takes: Mapping[str, float], count: int) -> dict[str, Slot]:
    """The lessons spread over ``count`` processes, in the order in which they begin: the process that is free
    first takes the most urgent lesson that may begin.

    Processes that keep this order, and wait where a lesson needs one of another process, never wait for each
    other in a circle: of the lessons that have not ended, the first one can always go on.
    """
    left, found, ended, free = by_urgency(needed, takes), dict[str, Slot](), dict[str, float](), [0.0] * count
    while left:
        lane = free.index(min(free))
        may_begin = {
            name: max([free[lane], *(ended[other] for other in needed[name])])
            for name in left
            if needed[name] <= ended.keys()
        }
        name = min(may_begin, key=may_begin.__getitem__)  # of equals the first, which is the most urgent
        left.remove(name)
        found[name] = Slot(may_begin[name], lane)
        ended[name] = free[lane] = may_begin[name] + takes[name]
    return dict(sorted(found.items(), key=lambda item: item[1].begins))
