"""The promise of lesson 00: a short PPO run, so that the first lesson can show where the course leads.

In: a :class:`rlhf.profiles.Setup`. Out: a folder with the trained policy, kept for the next time. The loop is
the classic one that lesson 07 explains line by line, only shorter.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf import loop
from rlhf.files import folder_mark, whole_folder
from rlhf.rewards import SentimentReward

if TYPE_CHECKING:
    from rlhf.ppo import PPOTrainer
    from rlhf.profiles import Setup

RECORD = "promise.json"
SHORT = 1 / 2  # of the steps of the profile's full run
CODE = Path(__file__).parent  # a change of the code that trains makes a kept policy out of date
TRAINS = ("promise.py", "loop.py", "data.py", "rewards.py", "sampling.py", "ppo/*.py")


def short_ppo(setup: Setup) -> Path:
    """Train the profile's policy with PPO for a short while and return the folder of the result.

    Prompts come from the training split, scores from the reward model. A policy that the same sizes, seed,
    models and code have made before is reused. The folder appears whole or not at all; TensorBoard's files
    go to ``runs/`` beside it.

    Raises:
        CannotWrite: no space or no permission.
    """
    folder, mark = setup.output / "policy", fingerprint(setup)
    if _record(folder).get("fingerprint") == mark:
        print(f"short PPO: reused, trained before with the same settings in {_record(folder)['seconds']} s")
        return folder
    started = time.perf_counter()
    trainer = loop.build_trainer(setup, setup.output / "runs" / mark[:8])
    reward = SentimentReward(setup.reward_model, setup.device)
    rows = loop.run(trainer, reward, loop.response_lengths(setup), steps(setup), title="short PPO")
    trainer.accelerator.end_training()
    record = {"fingerprint": mark, "seconds": round(time.perf_counter() - started, 1), "history": rows}
    _save(trainer, folder, record)
    return folder


def history(folder: str | Path) -> list[dict[str, float]]:
    """What the run logged, one dict per PPO step: ``env/reward_mean``, ``objective/kl``, …"""
    return _record(Path(folder)).get("history", [])


def steps(setup: Setup) -> int:
    """How many PPO steps the short run takes."""
    return max(1, int(SHORT * setup.ppo["steps"]))


def fingerprint(setup: Setup) -> str:
    """What the result depends on: sizes, seed, device, both models, the prompts' data and the code."""
    sizes = [dict(part) for part in (setup.prompts, setup.response, setup.ppo)]
    files = sorted(file for pattern in TRAINS for file in CODE.glob(pattern))
    code = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    folders = [folder_mark(path) for path in (setup.policy, setup.reward_model, setup.dataset)]
    facts = [setup.profile, setup.seed, setup.device, steps(setup), sizes, folders, code]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _save(trainer: PPOTrainer, folder: Path, record: dict) -> None:
    with whole_folder(folder) as partial:
        trainer.save_pretrained(partial)
        (partial / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")


def _record(folder: Path) -> dict:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
