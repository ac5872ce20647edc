"""The commands in two processes: the result of one process, one that writes and speaks, and a failure of one.

``torch.distributed.run`` starts ``train_workers.py`` twice (gloo, on the CPU), once for all of this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import train_workers
import yaml
from datasets import Dataset
from ppo_tools import save_world
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf import launched, profiles, sampling, train
from rlhf.errors import BadRecipe

WORKER = Path(train_workers.__file__)
NOISE = "attn.c_attn.bias"  # a key's bias has no gradient but rounding, which Adam blows up: test_ppo_parity
CUT = ("RLHF_PROFILE", "RLHF_DATA", "RLHF_SEED", "WORLD_SIZE", "RANK", "LOCAL_RANK")


def world(home: Path) -> Path:
    """Tiny models without dropout, whose masks would be other ones in every process; reviews; pairs."""
    policy, _, reviews = save_world(home / "model" / "offline")
    config = json.loads((policy / "config.json").read_text())
    (policy / "config.json").write_text(json.dumps(config | dict.fromkeys(DROPOUT, 0.0)))
    rows = {"text": reviews, "label": [i % 2 for i in range(len(reviews))]}
    (home / "dataset" / "offline_reviews").mkdir(parents=True)
    (home / "pairs").mkdir()
    for split, count in (("train", 8), ("test", 4)):
        Dataset.from_dict(rows).to_parquet(home / f"dataset/offline_reviews/{split}-00000-of-00001.parquet")
        pairs = [{"chosen": f"plot {i} was good", "rejected": f"plot {i} was bad"} for i in range(count)]
        (home / "pairs" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return home


DROPOUT = ("attn_pdrop", "embd_pdrop", "resid_pdrop")


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess, list[dict]]:
    """Home, what the launcher said, and what each of two processes did."""
    home = world(tmp_path_factory.mktemp("two"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    search = os.pathsep.join([str(WORKER.parents[1]), os.environ.get("PYTHONPATH", "")])
    settings = {"PYTHONPATH": search, "OMP_NUM_THREADS": "1", "RLHF_HOME": str(home), "RLHF_DEVICE": "cpu"}
    environment = {name: value for name, value in os.environ.items() if name not in CUT}
    process = subprocess.Popen(
        [*launch, str(WORKER)], env=environment | settings, stderr=subprocess.PIPE, text=True
    )
    try:
        _, said = process.communicate(timeout=1200)
    finally:
        process.terminate()  # if it took too long; it ends its two processes, which a kill would leave
    done = subprocess.CompletedProcess(launch, process.returncode, stderr=said)
    files = [home / f"process{k}.json" for k in (0, 1)]
    assert all(file.is_file() for file in files), said[-4000:]
    return home, done, [json.loads(file.read_text()) for file in files]


@pytest.fixture(scope="module")
def one(two, tmp_path_factory) -> Path:
    """The same commands in this process alone, with as many rows in a batch as both had together."""
    home = tmp_path_factory.mktemp("one")
    for name in ("model", "dataset", "pairs"):
        (home / name).symlink_to(two[0] / name)
    with pytest.MonkeyPatch.context() as patch:
        for name in CUT:
            patch.delenv(name, raising=False)
        patch.setenv("RLHF_HOME", str(home))
        patch.setenv("RLHF_DEVICE", "cpu")
        patch.setattr(sampling, "generate", train_workers.by_query(sampling.generate))
        for words in (train_workers.SFT, train_workers.PPO):
            train.run(words[0], train_workers.sized(words, 8)[1:])
    return home


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("name", ["sft_1", "ppo_3"])
def test_two_processes_end_with_the_weights_of_one(name, two, one):
    together, alone = (weights(home / "output" / name) for home in (two[0], one))
    start = weights(one / "model" / "offline" / "policy")
    assert together.keys() == alone.keys()
    assert max(float((alone[n] - start[n]).abs().max()) for n in alone) > 5e-4  # it has learnt something
    for n in alone:
        if not n.endswith(NOISE):
            assert_close(together[n], alone[n], atol=1e-5, rtol=0, msg=f"{name}: {n}")


def test_ppo_logs_the_losses_of_one(two, one):
    logs = [pd.read_csv(home / "output" / "ppo_3" / "history.csv") for home in (two[0], one)]
    assert len(logs[0]) == 10
    for name in ("env/reward_mean", "objective/kl", "ppo/loss/policy", "ppo/loss/value"):
        assert logs[0][name].tolist() == pytest.approx(logs[1][name].tolist(), abs=1e-5), name


def test_the_reward_model_saw_every_pair_once(two):
    made = two[0] / "output" / "rm_2"
    assert AutoModelForSequenceClassification.from_pretrained(made).config.num_labels == 1
    record = json.loads((made / "reward_model.json").read_text())
    assert record["pairs"] == 8 and record["steps"] == 2  # twice 2 pairs in each update


def test_one_of_them_writes(two):
    output = two[0] / "output"
    for name in ("sft_1", "rm_2", "ppo_3"):
        assert not list(output.glob(f".{name}*"))
        assert yaml.safe_load((output / name / "recipe.yaml").read_text())["batch_size"] in (2, 4)
        assert "2 processes" in (output / name / "recipe.yaml").read_text()
        assert json.loads((output / name / "made_from.json").read_text())["processes"] == 2
        writers = {path.name.split(".")[-2] for path in (output / "runs" / name).rglob("events.out*")}
        assert len(writers) == 1, name  # the number of the process is in the name
        assert not train.unfinished(output / "runs" / name)
    (run,) = {path.parent for path in (output / "runs" / "ppo_3").rglob("events.out*")}
    events = EventAccumulator(str(run))
    events.Reload()
    assert [event.step for event in events.Scalars("env/reward_mean")] == list(range(1, 11))


def test_one_of_them_speaks(two):
    main, other = two[2]
    for name in ("sft", "reward", "ppo"):
        assert main[name]["code"] == other[name]["code"] == 0, main[name]["err"]
        assert "profile offline" in main[name]["out"] and "→ output/" in main[name]["out"]
        assert not other[name]["out"] and "it/s" not in other[name]["err"], name
    assert "10/10" in main["ppo"]["out"] and "10 steps · score" in main["ppo"]["out"]


def test_a_mistake_is_told_once_and_ends_all(two):
    for name, said in (("rejection", "The stage rejection runs in one process"), ("wrong", "lam must be")):
        assert [process[name]["code"] for process in two[2]] == [2, 2]
        errors = [process[name]["err"] for process in two[2]]
        assert said in errors[0] and "Traceback" not in errors[0] and errors[1] == ""
        assert any("\u4e00" <= letter <= "\u9fff" for letter in errors[0])
    assert not (two[0] / "output" / "rs_4").exists() and not (two[0] / "output" / "runs" / "rs_4").exists()


def test_when_one_fails_all_end_and_nothing_half_written_is_left(two):
    home, done, _ = two
    assert done.returncode != 0
    assert "out of memory, on purpose" in done.stderr
    output = home / "output"
    assert not (output / "broken").exists() and not list(output.glob(".*"))
    states = sorted((output / "runs" / "broken" / "state").iterdir())
    assert [path.name for path in states] == ["0001_step_000001", "0002_step_000002"]  # from here it goes on
    assert all((path / "state.json").is_file() for path in states)


def test_a_run_of_two_processes_is_not_continued_by_one(two, monkeypatch):
    for name in CUT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RLHF_HOME", str(two[0]))
    monkeypatch.setenv("RLHF_DEVICE", "cpu")
    words = [*train_workers.PPO[1:], "--batch_size", "4", "--mini_batch_size", "4", "--output", "broken"]
    with pytest.raises(BadRecipe, match="processes: 2 → 1"):
        train.run("ppo", [*words, "--save_every", "1"])


@pytest.mark.parametrize(
    ("setting", "stage", "words", "message"),
    [
        ("ACCELERATE_USE_FSDP", "ppo", [], "cannot be launched with FSDP1"),
        ("ACCELERATE_USE_DEEPSPEED", "ppo", [], "cannot be launched with ZeRO-3"),
        ("ACCELERATE_USE_FSDP", "sft", ["--lora_rank", "4"], "merge: false"),
    ],
)
def test_a_model_in_shards_is_refused_where_it_must_be_whole(setting, stage, words, message, monkeypatch):
    monkeypatch.setenv(setting, "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(BadRecipe, match=message):
        train.plan(stage, words)
    assert train.plan("sft", ["--lora_rank", "4", "--merge", "false"]).name == "sft"


def test_ppo_is_launched_with_the_second_fsdp(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert train.plan("ppo", []).name == "ppo"
    with pytest.raises(BadRecipe, match="merge: false"):
        train.plan("ppo", ["--lora_rank", "4"])


def test_alone_a_process_is_the_main_one(monkeypatch):
    for name in CUT:
        monkeypatch.delenv(name, raising=False)
    assert (launched.count(), launched.index(), launched.is_main(), launched.sharding()) == (1, 0, True, "")
    with pytest.raises(BadRecipe), launched.group(), launched.one_voice():
        raise BadRecipe("错", "wrong")
    assert profiles.pick_device()
