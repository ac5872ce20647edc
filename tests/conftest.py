"""The browser tests need a Chromium and minutes: they run when asked for by name (``make test-browser``).

With several processes (``-n 2 --dist loadfile --no-loadscope-reorder``) the files that take longest begin
first: one that comes last would keep a single process busy while the others have nothing left to do.
"""

import os

LONG = (  # seconds of CPU time in 2026-11: 48 to 15
    "test_train_launched",
    "test_plan",
    "test_pipeline",
    "test_download_loading",
    "test_serve",
    "test_ppo_state",
    "test_fsdp",
    "test_ppo_parallel",
    "test_ppo_sharded",
    "test_large",
    "test_build",
    "test_large_memory",
    "test_executing",
    "test_reward_model",
    "test_train",
    "test_beyond",
    "test_rejection",
    "test_ppo_trainer",
)
collect_ignore = [] if os.environ.get("RLHF_BROWSER") else ["browser"]


def pytest_collection_modifyitems(items):
    rank = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONG)))  # stable: the others stay as they are
