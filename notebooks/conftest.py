"""How nbmake runs the notebooks: longest chain first, none before those whose results it reads.

With ``pytest -n 2 --dist loadgroup --nbmake notebooks`` every process keeps to its part of the schedule in
:mod:`tools.order`; a notebook that needs one of the other process waits until that has ended.
"""

import time
from pathlib import Path

import pytest

from tools import order
from tools.notebooks import Course

PATIENCE = 3600  # seconds to wait for another notebook; then this one runs without, and trains what it needs
NEEDED = pytest.StashKey[dict]()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(config, items):
    course = Course(Path(__file__).resolve().parent.parent)
    names = [name for name in course.names() if any(item.path.stem == name for item in items)]
    needed = config.stash[NEEDED] = order.needs(course, names)
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    takes = {name: order.seconds(course, name) for name in names}
    slots = order.schedule(needed, takes, processes)
    for item in items:
        if item.path.stem in slots:
            item.add_marker(pytest.mark.xdist_group(f"lane{slots[item.path.stem].lane}"))
    rank = {name: number for number, name in enumerate(slots)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # the time limit of a test begins after the wait
def pytest_runtest_protocol(item):
    ended, begun = _ended(item.config), time.monotonic()
    needed = item.config.stash[NEEDED].get(item.path.stem, set())
    while ended is not None and time.monotonic() - begun < PATIENCE:
        if all((ended / name).exists() for name in needed):
            break
        time.sleep(0.5)
    try:
        return (yield)
    finally:
        if ended is not None:
            (ended / item.path.stem).touch()


def _ended(config) -> Path | None:
    """A folder that all processes see, with a file for each notebook that has ended; None for one alone."""
    if not hasattr(config, "workerinput"):
        return None
    folder = Path(config.option.basetemp).parent / "ended"
    folder.mkdir(exist_ok=True)
    return folder
