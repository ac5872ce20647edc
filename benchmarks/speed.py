"""How fast is a PPO step? This course against the tutorials' loop with TRL 0.11.4, side by side in one run.

    python benchmarks/speed.py --sizes tiny 124m --repeats 3 --growth

In: nothing; models of random weights are made on the spot, and so is the legacy side's own environment. Out:
``benchmarks/results/speed.json`` and a table; ``figs/speed.py`` draws it. Both hold the same weights, get
the same queries and write responses of the same lengths, with the same number of threads. They take turns: a
turn of one, then a turn of the other, while the first waits without using a core. A turn is one whole PPO
step of the published task (128 queries of 2 to 7 tokens, responses of 4 to 15, four epochs), in three parts:
generate, score, step.

The legacy side writes each batch twice, one query at a time (the loop of the tutorials) and with TRL's own
batched generation, and then scores and learns once; its two totals share those two times. Every turn is saved
at once, and a run that was stopped goes on with the turns that are missing. ``--again`` measures anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from importlib import metadata
from pathlib import Path

from legacy.environment import cache, legacy_python
from speed_models import Case, write_models
from speed_table import table

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "speed.json"
WAYS = ("one_by_one", "all_at_once")
# The same step up to rounding: one update per epoch on the whole batch, in passes of fewer sequences.
OURS = {"response_only": True, "fused": True, "reuse_sampling": True, "accumulate_by_tokens": True}
PASS = {"tiny": 64, "small": 32, "124m": 32}  # sequences per pass
WARM_UP = {"tiny": 1, "small": 1, "124m": 0}  # turns that are not counted
GROWTH = [Case("tiny", batch=b) for b in (32, 64, 256)]
GROWTH += [Case("tiny", responses=(r, r + 1)) for r in (8, 32, 64)]
GROWTH += [Case("small")]


class Side:
    """One of the two sides: a process that takes a turn whenever it is asked."""

    def __init__(self, python: Path | str, script: Path, spec: dict):
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name) / "spec.json"
        file.write_text(json.dumps(spec), encoding="utf-8")
        threads = str(spec["threads"])
        settings = {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
        self.log = (Path(self.folder.name) / "log").open("w+")
        self.process = subprocess.Popen(
            [str(python), str(script), str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ | settings,
        )
        self._answer()

    def turn(self, **ask) -> dict:
        """One whole PPO step; its seconds."""
        self.process.stdin.write(json.dumps(ask) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"a side of the benchmark ended:\n{self.log.read()[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.log.close()
        self.folder.cleanup()


def measure(case: Case, repeats: int, result: dict, save, python: Path, threads: int) -> None:
    """Add the missing turns of ``case`` to ``result``, saving after each. Turns of other settings are
    forgotten."""
    size = min(PASS[case.size], case.batch)
    passes = {"mini_batch_size": size, "gradient_accumulation_steps": case.batch // size}
    wanted = json.loads(json.dumps({"case": vars(case), "settings": OURS | passes}))
    turns = result["cases"].setdefault(case.name, {})
    if {key: turns.get(key) for key in wanted} != wanted:
        turns = result["cases"][case.name] = wanted | {"legacy": [], "ours": []}
    if min(len(turns["legacy"]), len(turns["ours"])) >= repeats:
        return
    queries, lengths = case.prompts()
    folder = write_models(case.size, cache() / "speed" / case.size)
    spec = {"models": str(folder), "queries": queries, "lengths": lengths, "threads": threads}
    whole = {"mini_batch_size": case.batch, "seed": case.seed}
    legacy = Side(python, HERE / "legacy" / "worker.py", spec | {"ppo": whole})
    ours = Side(
        sys.executable,
        HERE / "speed_worker.py",
        spec | {"ppo": whole | OURS | passes, "scorer": {"batch_size": 32}},
    )
    try:
        for _ in range(WARM_UP[case.size]):
            legacy.turn(ways=WAYS[1:]), ours.turn()
        while len(turns["ours"]) < repeats:
            if len(turns["legacy"]) == len(turns["ours"]):
                turns["legacy"].append(legacy.turn(ways=WAYS))
                save()
            turns["ours"].append(ours.turn())
            save()
            if turns["ours"][-1]["tokens"] != turns["legacy"][-1]["tokens"]:
                raise SystemExit("the two sides wrote different numbers of tokens")
            print(f"{case.name}: {len(turns['ours'])} of {repeats}", file=sys.stderr, flush=True)
    finally:
        legacy.close(), ours.close()


def machine(threads: int) -> dict:
    """What the numbers depend on."""
    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    return {"processor": model, "threads": threads, "date": date.today().isoformat(), **versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["tiny"], choices=[*PASS])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--responses", type=int, nargs=2, default=(4, 16), metavar=("FROM", "BELOW"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--growth", action="store_true", help="also other batches, lengths and a size between"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--legacy-environment", type=Path, help="a folder; made if it is not there")
    parser.add_argument("--again", action="store_true", help="forget the turns that were measured before")
    args = parser.parse_args()
    result = {"machine": machine(args.threads), "cases": {}}
    if args.result.is_file() and not args.again:
        result = json.loads(args.result.read_text(encoding="utf-8"))

    def save() -> None:
        args.result.parent.mkdir(parents=True, exist_ok=True)
        partial = args.result.with_suffix(".partial")
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, args.result)

    python = legacy_python(args.legacy_environment)
    cases = [Case(size, args.batch, responses=tuple(args.responses)) for size in args.sizes]
    for case in cases + (GROWTH if args.growth else []):
        repeats = args.repeats if case in cases else min(2, args.repeats)
        measure(case, repeats, result, save, python, args.threads)
    print(table(result))


if __name__ == "__main__":
    main()
