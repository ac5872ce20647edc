"""The reward–KL frontier of lesson 09: every method at several strengths and seeds, in one small file.

    python -m rlhf.frontier --profile offline --seeds 0 1 2
    python -m rlhf.frontier --methods grpo rloo --seeds 3      # adds to the same file

In: a built profile; the sizes are its block for lesson 09. Out:
``benchmarks/results/frontier_<profile>.json``, with the command, the hardware, the library versions and,
for every run, its seed, settings, date and scores on the held-out prompts. What is in the file is not run
again, so a run that was stopped goes on where it was.

:func:`run` writes such a file (:mod:`~rlhf.frontier.running`), :func:`load` reads it, :func:`table` has a row
per method and strength, :func:`compare` says who is ahead at one KL (:mod:`~rlhf.frontier.reading`),
:func:`draw` makes the picture (:mod:`~rlhf.frontier.picture`).
"""

from rlhf.frontier.picture import LOOKS, draw
from rlhf.frontier.reading import NAMES, RESULTS, Comparison, Frontier, compare, load, table
from rlhf.frontier.running import main, run

__all__ = [
    "LOOKS",
    "NAMES",
    "RESULTS",
    "Comparison",
    "Frontier",
    "compare",
    "draw",
    "load",
    "main",
    "run",
    "table",
]
