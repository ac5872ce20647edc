"""Do two training processes on one machine starve each other? Seconds per PPO step, alone and side by side.

    python benchmarks/side_by_side.py

In: the built offline profile. Out: one line per case. Idle OpenMP threads spin by default, and two processes
that spin on the same cores take each other's time; ``OMP_WAIT_POLICY=passive`` lets them sleep. The package
sets it on import, before torch is loaded (see ``rlhf/__init__.py``); the last case takes it away again.
Two processes share the cores, so twice the time alone is fair, and more than that is loss.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

TRAIN = """
import json, sys, time
from pathlib import Path
from rlhf import loop, profiles
from rlhf.rewards import SentimentReward
setup = profiles.setup("07_ppo_imdb", "offline")
trainer, reward = loop.build_trainer(setup, Path(sys.argv[1])), SentimentReward(setup.reward_model)
rows = loop.run(trainer, reward, loop.response_lengths(setup), int(sys.argv[2]) + 1)
print(json.dumps([row["time/ppo/total"] for row in rows[1:]]))  # the first step warms up
"""


def seconds_per_step(processes: int, policy: str, steps: int) -> float:
    """The median step, generation left out, over all steps of all ``processes`` running at once."""
    environment = {**os.environ, "OMP_WAIT_POLICY": policy}
    with tempfile.TemporaryDirectory() as folder:
        running = [
            subprocess.Popen(
                [sys.executable, "-c", TRAIN, f"{folder}/{number}", str(steps)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for number in range(processes)
        ]
        answers = [process.communicate()[0] for process in running]
    times = [second for answer in answers for second in json.loads(answer.splitlines()[-1])]
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    steps = parser.parse_args().steps
    alone = seconds_per_step(1, "passive", steps)
    print(f"one process, passive:  {alone:.2f} s per step")
    for policy in ("passive", "active"):
        both = seconds_per_step(2, policy, steps)
        print(f"two processes, {policy}: {both:.2f} s per step, {both / alone:.2f} times alone", flush=True)


if __name__ == "__main__":
    main()
