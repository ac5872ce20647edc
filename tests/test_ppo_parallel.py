"""Two processes against one at the same global batch: the same losses, statistics and parameters.

The processes are real ones: :mod:`pair` runs ``ppo_workers.py`` twice (gloo, on the CPU), and this process
takes the same steps alone.
"""

import math
from pathlib import Path

import numpy as np
import pair
import ppo_workers
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

NOISE = "attn.c_attn.bias"  # a key's bias has no gradient but rounding, which Adam blows up: test_ppo_parity
LOSSES = [f"ppo/loss/{name}" for name in ("policy", "value", "total")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes left behind."""
    place = tmp_path_factory.mktemp("two")
    pair.run("ppo_workers", place)
    return place


@pytest.fixture(scope="module")
def two(folder) -> list[dict]:
    """Everything each of the two saw; our own numbers, so it may be unpickled."""
    return [torch.load(folder / f"process{k}.pt", weights_only=False) for k in (0, 1)]


@pytest.fixture(scope="module")
def alone() -> dict:
    """One process with all the prompts."""
    return ppo_workers.loop()


@pytest.mark.parametrize("case", ppo_workers.CASES)
def test_two_processes_take_the_steps_of_one(case, two):
    one = ppo_workers.run(case)
    for ours, theirs in zip(one["rows"], two[0][case]["rows"], strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            if np.ndim(value) == 0:
                assert theirs[name] == pytest.approx(value, abs=1e-5, rel=1e-5), name
            else:
                np.testing.assert_allclose(theirs[name], value, atol=5e-5, rtol=5e-5, err_msg=name)
        assert max(abs(ours[name] - theirs[name]) for name in LOSSES) <= 1e-5
    assert one["parameters"].keys() == two[0][case]["parameters"].keys()
    for name, value in one["parameters"].items():
        if not name.endswith(NOISE):
            assert_close(two[0][case]["parameters"][name], value, atol=1e-5, rtol=0, msg=name)


def test_the_cases_are_what_they_are_called(two):
    """Epochs are cut short in some steps and not in all, minibatches are left out, adapters learn alone."""
    passes = [row["passes"] for row in two[0]["early stopping"]["rows"]]
    assert len(set(passes)) > 1
    skipped = [row["ppo/loss/total"] for row in two[0]["left out"]["rows"]]
    assert all(math.isfinite(loss) for loss in skipped)
    assert all("lora" in n or "v_head" in n for n in two[0]["LoRA, checkpointed"]["parameters"])
    rows = two[0]["minibatches"]["rows"]
    assert len(rows) == 10 and len({row["beta"] for row in rows}) == 10
    assert max(row["ppo/policy/grad_norm"] for row in rows) > 0.5  # the limit of that case


@pytest.mark.parametrize("case", ppo_workers.CASES)
def test_all_processes_know_the_same(case, two):
    for first, second in zip(two[0][case]["rows"], two[1][case]["rows"], strict=True):
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    for name, value in two[0][case]["parameters"].items():
        assert torch.equal(value, two[1][case]["parameters"][name]), name


def test_two_processes_share_out_the_prompts_and_lengths_of_one(two, alone):
    parts = [process["unbroken"]["seen"] for process in two]
    for together, first, second in zip(alone["seen"], *parts, strict=True):
        for what in ("queries", "lengths"):
            assert together[what] == first[what] + second[what]
        assert first["texts"] != second["texts"]  # each samples with random numbers of its own
        assert first["logged"] == second["logged"]
        mean = (first["score"] + second["score"]) / 2
        assert first["logged"]["env/reward_mean"] == pytest.approx(mean, abs=1e-6)


def assert_went_on(unbroken: dict, resumed: dict) -> None:
    """The same texts, numbers and weights, bit for bit."""
    assert [step["texts"] for step in unbroken["seen"]] == [step["texts"] for step in resumed["seen"]]
    assert [step["logged"] for step in unbroken["seen"]] == [step["logged"] for step in resumed["seen"]]
    for name, value in unbroken["parameters"].items():
        assert torch.equal(value, resumed["parameters"][name]), name


def test_two_processes_go_on_where_they_stopped(two):
    for process in two:
        assert_went_on(process["unbroken"], process["resumed"])


def test_one_of_them_writes(folder, two):
    states = [path.name for path in (folder / "state").iterdir()]
    assert states == ["0001_step_000002"]
    (run,) = (folder / "runs").iterdir()
    events = EventAccumulator(str(run))
    events.Reload()
    logged = [event.value for event in events.Scalars("env/reward_mean")]
    expected = [step["logged"]["env/reward_mean"] for step in two[0]["resumed"]["seen"]]
    assert logged == pytest.approx(expected)
    assert [event.step for event in events.Scalars("env/reward_mean")] == [1, 2, 3]
    writers = {path.name.split(".")[-2] for path in run.glob("events*")}  # host.PROCESS.counter
    assert len(writers) == 1


def test_what_one_process_refuses_all_refuse(two):
    for process in two:
        assert process["refusal"]["said"] == "Process 1: scores[0] is nan, not a finite number"
        assert process["refusal"]["unchanged"]
        assert process["refusal"]["kl"] == pytest.approx(0.0, abs=1e-5)
