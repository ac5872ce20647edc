"""What a recipe needs before it runs: bytes per process, whether a GPU holds them, time per step.

    python -m rlhf.plan --recipe recipes/7b/ppo.yaml                    # beside every GPU of rlhf/gpus.yaml
    python -m rlhf.plan --recipe recipes/7b/ppo.yaml --gpu rtx-4090     # what to change if it does not fit
    python -m rlhf.plan --recipe recipes/7b/ppo.yaml --quantize 4bit    # any field of the recipe
    python -m rlhf.plan --recipe recipes/7b/sft.yaml --gpu a100-80gb --processes 8 --zero 3 --lora_rank 0

In: a recipe of :mod:`rlhf.train`, and the configuration of its model (a folder, an exhibit of the museum, or
the result of a recipe beside this one); no weights. Out: a :class:`Needs`.

Nothing is estimated by a formula where it can be counted. The model of the recipe is built with one and with
two blocks out of fake tensors, which have shapes and formats but no storage, takes the stage's own kind of
training step, and the bytes are counted with the tools of :mod:`rlhf.memory`; what one block adds, every
further block adds too. On a CPU the same count on real tensors is equal to the byte (the tests compare), and
the peak is that of the allocator. On a GPU other kernels keep a little more or less.

Left out: fragmentation and what the driver takes (a reserve stands for them), padding within a batch (the
longest texts are assumed), the optimiser's temporaries, buckets of communication, and communication time.
Lesson 11 plans with it.
"""

from __future__ import annotations

from rlhf.memory import BadPlan

from .asking import STAGES, Ask, find_config, read_recipe
from .building import build
from .cards import READING, RESERVE, TABLE, UTILISATION, Gpu, gpu, gpus
from .command import main, parser
from .counting import Count, Peak, count, measure, optimizer_bytes, quantized_bytes
from .needing import ROWS, Needs, needs
from .reporting import Question, changes, report
from .steps import LOSSES, under_autocast

__all__ = [
    "LOSSES",
    "READING",
    "RESERVE",
    "ROWS",
    "STAGES",
    "TABLE",
    "UTILISATION",
    "Ask",
    "BadPlan",
    "Count",
    "Gpu",
    "Needs",
    "Peak",
    "Question",
    "build",
    "changes",
    "count",
    "find_config",
    "gpu",
    "gpus",
    "main",
    "measure",
    "needs",
    "optimizer_bytes",
    "parser",
    "quantized_bytes",
    "read_recipe",
    "report",
    "under_autocast",
]
