"""The short PPO run of lesson 00: it trains once, is kept, and is never half there."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from datasets import Dataset
from ppo_tools import save_world
from transformers import AutoModelForCausalLM

from rlhf import profiles, promise
from rlhf.errors import CannotWrite


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    policy, judge, reviews = save_world(folder)
    rows = {"text": reviews, "label": [i % 2 for i in range(len(reviews))]}
    (folder / "reviews").mkdir()
    Dataset.from_dict(rows).to_parquet(folder / "reviews" / "train-00000-of-00001.parquet")
    return policy, judge, folder / "reviews"


@pytest.fixture
def setup(world, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    policy, judge, reviews = world
    return profiles.Setup(
        profile="test",
        lesson="00_overview",
        policy=policy,
        reward_model=judge,
        dataset=reviews,
        prompts={"min_chars": 200, "min_tokens": 2, "max_tokens": 8},
        response={"min_tokens": 4, "max_tokens": 8},
        evaluation={"prompts": 16, "shown": 16},
        ppo={"steps": 5, "batch_size": 8, "mini_batch_size": 4, "learning_rate": 1e-3},
        device="cpu",
        seed=3,
        prepare="",
    )


def weights(folder) -> torch.Tensor:
    return AutoModelForCausalLM.from_pretrained(folder).transformer.h[0].mlp.c_fc.weight


def test_it_trains_saves_and_is_reused(setup, capsys):
    folder = promise.short_ppo(setup)
    assert folder == setup.output / "policy"
    assert not torch.equal(weights(folder), weights(setup.policy))
    history = promise.history(folder)
    steps = len(history)
    assert steps == promise.steps(setup) == int(promise.SHORT * 5) > 0
    assert {"env/reward_mean", "objective/kl"} <= set(history[0])
    assert list((setup.output / "runs").rglob("events.out.tfevents.*"))
    assert f"{steps}/{steps}" in capsys.readouterr().out
    stamp = (folder / promise.RECORD).stat().st_mtime_ns
    assert promise.short_ppo(setup) == folder
    assert (folder / promise.RECORD).stat().st_mtime_ns == stamp
    assert "reused" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_policy_and_another_seed_another(setup):
    first = weights(promise.short_ppo(setup)).clone()
    (setup.output / "policy" / promise.RECORD).unlink()
    assert torch.equal(weights(promise.short_ppo(setup)), first)
    other = dataclasses.replace(setup, seed=4)
    assert not torch.equal(weights(promise.short_ppo(other)), first)


@pytest.mark.parametrize("part", ["seed", "ppo", "response", "profile", "policy"])
def test_whatever_the_result_depends_on_is_in_the_fingerprint(setup, part, tmp_path):
    changed = {"seed": 9, "ppo": {**setup.ppo, "learning_rate": 2e-3}, "response": {"min_tokens": 4}}
    changed |= {"profile": "other", "policy": tmp_path}
    other = dataclasses.replace(setup, **{part: changed[part]})
    assert promise.fingerprint(other) != promise.fingerprint(setup)


def test_a_built_model_is_known_by_its_build(setup, tmp_path):
    for name, mark in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "build.json").write_text(json.dumps({"fingerprint": mark}))
    a, b, c = (promise.fingerprint(dataclasses.replace(setup, policy=tmp_path / n)) for n in "abc")
    assert a == b != c


def test_an_interrupted_run_leaves_nothing_half_written(setup, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlhf.files.os.replace", full)
    with pytest.raises(CannotWrite):
        promise.short_ppo(setup)
    assert [path.name for path in setup.output.iterdir()] == ["runs"]
