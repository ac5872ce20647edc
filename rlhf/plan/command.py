"""The command ``python -m rlhf.plan``: words in, the table out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from rlhf import errors, recipes
from rlhf.memory import GIB, BadPlan

from .cards import READING, RESERVE, UTILISATION, gpu, gpus
from .needing import ROWS
from .reporting import Question, report


def parser() -> argparse.ArgumentParser:
    """The command line of ``python -m rlhf.plan``."""
    meaning = "\n".join(f"  {name:13} {zh}\n  {'':13} {en}" for name, (zh, en) in ROWS.items())
    epilog = (
        f"rows:\n{meaning}\n\nGPUs: {', '.join(gpus())}\n\n"
        f"time: training at {UTILISATION:.0%} of the GPU's bf16 peak (--utilisation), "
        f"sampling at {READING:.0%} of its\nbandwidth, communication left out. usable: the card less "
        f"{RESERVE[0] / GIB:.0f} GiB and {RESERVE[1]:.0%}. Every field of the recipe\ncan be replaced: "
        "--batch_size 1 --lora_rank 8 …"
    )
    result = recipes.Parser(
        prog="python -m rlhf.plan",
        usage="python -m rlhf.plan --recipe FILE [--gpu NAME] [--processes N] [--zero N] [--FIELD VALUE ...]",
        description="What a recipe needs: bytes per process, whether a GPU holds them, time per step.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = result.add_argument
    add("--recipe", metavar="FILE", required=True, help="recipe of rlhf.train: recipes/7b/ppo.yaml")
    add("--stage", metavar="NAME", help="sft, reward or ppo [what the file's name begins with]")
    add(
        "--model",
        metavar="NAME",
        help="instead of the recipe's policy: a folder, or an exhibit of the museum",
    )
    add("--gpu", metavar="NAME", help="a line of rlhf/gpus.yaml [all of them]")
    add("--processes", metavar="N", type=int, default=1, help="data-parallel processes, one GPU each [1]")
    add("--zero", metavar="0|2|3", type=int, default=0, help="stage of ZeRO; FSDP needs what 3 needs [0]")
    add("--utilisation", metavar="SHARE", type=float, default=UTILISATION, help="share of the peak reached")
    return result


@errors.command
def main(words: Sequence[str] | None = None) -> int:
    """The command ``python -m rlhf.plan``."""
    given, rest = parser().parse_known_args(words)
    if not 0 < given.utilisation <= 1:
        raise BadPlan(
            f"--utilisation 是 0 到 1 之间的数，不是 {given.utilisation}。",
            f"--utilisation is a share between 0 and 1, not {given.utilisation}.",
        )
    chosen = gpu(given.gpu) if given.gpu else None
    question = Question.of(given.recipe, rest, given.model, given.stage)
    question = replace(question, processes=given.processes, zero=given.zero)
    print(report(question, chosen, given.utilisation))
    return 0
