"""The ZeRO recipes, run where DeepSpeed is installed: two CPU processes end with the weights of one.

What is run is ``accelerate launch`` with ``recipes/accelerate/zero{2,3}.yaml``, of which only the number of
processes and the device differ (and, where weights are compared, the number format), and ``recipes/7b`` with
a miniature Llama. The first run compiles DeepSpeed's operators, which takes minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_large import RECIPES, home  # noqa: F401 (the fixture)

from rlhf import train

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (pip install deepspeed)")
WHOLE = ["--lora_rank", "0", "--merge", "true", "--dtype", "float32", "--learning_rate", "1e-3"]
SIZES = {  # all rows in every update, so that one process and two see the same ones
    "sft": [
        "--max_length",
        "24",
        "--packing",
        "false",
        "--epochs",
        "3",
        "--gradient_accumulation_steps",
        "3",
    ],
    "reward": ["--max_length", "64", "--pairs", "8", "--held_out", "4", "--epochs", "3"],
}
ROWS = {"sft": 4, "reward": 8}


def launch(home, zero: int, stage: str, words: list[str], **changes) -> str:  # noqa: F811
    """Two processes of the stage with its own recipe; returns what they printed."""
    recipe = yaml.safe_load((RECIPES / "accelerate" / f"zero{zero}.yaml").read_text())
    file = home / f"zero{zero}.yaml"
    file.write_text(yaml.safe_dump({**recipe, "num_processes": 2, "use_cpu": True, **changes}))
    command = ["-m", "accelerate.commands.launch", "--config_file", str(file), "-m", "rlhf.train", stage]
    command += ["--config", str(RECIPES / "7b" / f"{stage}.yaml"), *words]
    settings = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    search = os.pathsep.join([str(RECIPES.parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, *command],
        env=os.environ | settings | {"PYTHONPATH": search},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = process.communicate(timeout=1200)
    finally:
        process.terminate()  # it ends its two processes, which a kill would leave
    assert process.returncode == 0, said[-4000:]
    return said


@pytest.fixture
def base(home):  # noqa: F811
    """Every stage begins with the same miniature."""
    (home / "output").mkdir(exist_ok=True)
    if not (home / "output" / "sft_7b").exists():
        (home / "output" / "sft_7b").symlink_to(home / "model" / "Llama-2-7b-hf")
    return home


@pytest.mark.parametrize("zero", [2, 3])
@pytest.mark.parametrize("stage", SIZES)
def test_two_processes_end_with_the_weights_of_one(stage, zero, base):
    words = [*SIZES[stage], *WHOLE, "--gradient_checkpointing", "false"]
    one, two = (base / "output" / f"{stage}_{name}" for name in ("one", f"zero{zero}"))
    rows = ROWS[stage]
    launch(
        base,
        zero,
        stage,
        [*words, "--batch_size", str(rows // 2), "--output", two.name],
        mixed_precision="no",
    )
    if not one.exists():
        given = ["--config", str(RECIPES / "7b" / f"{stage}.yaml"), "--batch_size", str(rows)]
        train.run(stage, [*given, *words, "--output", one.name])
    alone, together = (load_file(folder / "model.safetensors") for folder in (one, two))
    start = load_file(base / "model" / "Llama-2-7b-hf" / "model.safetensors")
    assert alone.keys() == together.keys()
    assert max(float((alone[name] - start[name]).abs().max()) for name in alone.keys() & start.keys()) > 5e-4
    for name, weight in alone.items():
        torch.testing.assert_close(together[name], weight, atol=1e-5, rtol=0, msg=name)
    assert {file.name for file in two.iterdir()} == {file.name for file in one.iterdir()}
    assert json.loads((two / "config.json").read_text()) == json.loads((one / "config.json").read_text())
