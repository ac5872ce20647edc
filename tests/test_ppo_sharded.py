"""PPO with the weights in shards of two processes (FSDP2): the steps of one process, in half the memory."""

from pathlib import Path
from types import SimpleNamespace

import pair
import ppo_sharded_workers as workers
import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from test_ppo_parallel import LOSSES, NOISE, assert_went_on
from torch.testing import assert_close

from rlhf.ppo import AutoModelForCausalLMWithValueHead, BadConfig, PPOConfig, sharding


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes left behind."""
    place = tmp_path_factory.mktemp("sharded")
    pair.run("ppo_sharded_workers", place)
    return place


@pytest.fixture(scope="module")
def two(folder) -> list[dict]:
    """Everything each of the two saw; our own numbers, so it may be unpickled."""
    return [torch.load(folder / f"process{k}.pt", weights_only=False) for k in (0, 1)]


def close(ours: dict, theirs: dict) -> None:
    """The same parameters within 1e-5."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if not name.endswith(NOISE):
            assert_close(theirs[name], value, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("case", workers.CASES)
def test_two_processes_with_a_half_each_take_the_steps_of_one(case, two):
    one = workers.run(case)
    for process in two:
        for ours, theirs in zip(one["rows"], process[case]["rows"], strict=True):
            assert max(abs(ours[name] - theirs[name]) for name in LOSSES) <= 1e-5
            for name in ("objective/kl", "ppo/policy/grad_norm", "ppo/policy/entropy", "beta", "passes"):
                assert theirs[name] == pytest.approx(ours[name], abs=1e-5, rel=1e-5), name
        close(one["parameters"], process[case]["parameters"])
    assert len(two[0]["plain"]["rows"]) == 10
    learnt = two[0]["LoRA, response_only"]["parameters"]
    assert all("lora" in name or "v_head" in name for name in learnt)


def test_each_process_holds_a_half(two):
    alone = workers.held()["bytes"]
    for process in two:
        held = process["held"]["bytes"]
        for name in ("weights", "gradients", "moments", "reference"):
            assert held[name] / alone[name] == pytest.approx(0.5, abs=0.01), name
        # gathered for that long; a matrix of one row is padded to two
        assert held["sampling"] / alone["weights"] == pytest.approx(1, abs=0.02)


def test_gathered_weights_write_what_whole_ones_write(two):
    for process in two:
        whole, sharded = process["whole"], process["unbroken"]
        for ours, theirs in zip(whole["seen"], sharded["seen"], strict=True):
            assert ours["texts"] == theirs["texts"]
            assert theirs["logged"] == pytest.approx(ours["logged"], abs=1e-5, rel=1e-5)
        close(whole["parameters"], sharded["parameters"])
    assert two[0]["unbroken"]["seen"][0]["lengths"] != two[1]["unbroken"]["seen"][0]["lengths"]


def test_they_go_on_where_they_stopped_from_a_state_of_whole_tensors(folder, two):
    for process in two:
        assert_went_on(process["unbroken"], process["resumed"])
    (state,) = (folder / "state").iterdir()
    tensors = load_file(state / "tensors.safetensors")
    for name, value in two[0]["unbroken"]["parameters"].items():
        assert tensors[f"policy/{name}"].shape == value.shape
    moments = [tensor for name, tensor in tensors.items() if name.endswith("/exp_avg")]
    assert sum(map(torch.numel, moments)) == sum(map(torch.numel, two[0]["unbroken"]["parameters"].values()))


def test_one_whole_model_is_saved(folder, two):
    saved = AutoModelForCausalLMWithValueHead.from_pretrained(folder / "saved").state_dict()
    for name, value in two[1]["held"]["parameters"].items():
        assert torch.equal(saved[name], value), name


@pytest.mark.parametrize(
    ("kind", "second", "settings", "message"),
    [
        (DistributedType.DEEPSPEED, False, {}, "not with DEEPSPEED"),
        (DistributedType.FSDP, False, {}, "not with FSDP 1"),
        (DistributedType.FSDP, True, {"optimizer": "adafactor"}, "adafactor needs the rows"),
        (DistributedType.FSDP, True, {"compile_sampling": True}, "cannot work on shards"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(kind, second, settings, message):
    accelerator = SimpleNamespace(distributed_type=kind, is_fsdp2=second)
    with pytest.raises(BadConfig, match=message):
        sharding.check(accelerator, PPOConfig(**settings))
    assert sharding.check(SimpleNamespace(distributed_type=DistributedType.FSDP, is_fsdp2=True), PPOConfig())
