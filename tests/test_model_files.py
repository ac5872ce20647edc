"""What is said of a model whose files are damaged, before a library trips over them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_train import SFT, world  # noqa: F401  (a fixture)

from rlhf import model_files, train
from rlhf.errors import MissingAssets


def cut(path, keep=0.5):
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


def shards(folder, lost=False):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: tensors[name].contiguous() for name in held}, folder / file)
    where = {name: file for file, held in parts.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    if lost:
        (folder / "model-2-of-2.safetensors").unlink()


DAMAGE = {
    "cut short": (lambda folder: cut(folder / "model.safetensors"), "model.safetensors is damaged"),
    "cut in its header": (
        lambda folder: cut(folder / "model.safetensors", 1e-4),
        "model.safetensors is damaged",
    ),
    "empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors is damaged"),
    "a page in its place": (
        lambda folder: (folder / "model.safetensors").write_text("<html>404</html>"),
        "model.safetensors is damaged",
    ),
    "no tensors": (
        lambda folder: save_file({}, folder / "model.safetensors"),
        "model.safetensors is damaged (it holds no tensors)",
    ),
    "configuration": (lambda folder: cut(folder / "config.json"), "config.json is damaged (no valid JSON"),
    "tokenizer": (lambda folder: cut(folder / "tokenizer.json"), "tokenizer.json is damaged (no valid JSON"),
    "a shard is missing": (lambda folder: shards(folder, lost=True), "model-2-of-2.safetensors is not there"),
}


@pytest.fixture
def home(world, tmp_path, monkeypatch):  # noqa: F811
    for name in ("RLHF_PROFILE", "RLHF_DATA", "RLHF_SEED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    monkeypatch.setenv("RLHF_DEVICE", "cpu")
    shutil.copytree(world / "model", tmp_path / "model")
    (tmp_path / "dataset").symlink_to(world / "dataset")
    return tmp_path


@pytest.fixture
def policy(home):
    return home / "model" / "offline" / "policy"


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_damaged_policy_is_named_before_anything_begins(case, stage, policy, home, capsys):
    damage, said = DAMAGE[case]
    damage(policy)
    assert train.main([stage]) == 2
    chinese, english = capsys.readouterr().err.strip().split("\n")
    assert said in english and "Delete model/offline/policy, then run: python -m rlhf.build" in english
    assert "已损坏" in chinese and "请删除 model/offline/policy" in chinese
    assert not (home / "output").exists()


def test_a_damaged_model_named_in_a_recipe(policy, home, capsys):
    shutil.copytree(policy, home / "output" / "mine")
    cut(home / "output" / "mine" / "model.safetensors")
    assert train.main(["sft", "--policy", "mine"]) == 2
    assert "mine/model.safetensors is damaged" in capsys.readouterr().err


def test_a_tokenizer_that_is_not_there_is_not_replaced_by_an_empty_one(policy, capsys):
    for file in [*policy.glob("tokenizer.json"), *policy.glob("vocab.*"), *policy.glob("merges.txt")]:
        file.unlink()
    with pytest.raises(MissingAssets, match="The model folder policy has no tokenizer"):
        model_files.load_tokenizer(policy)
    assert train.main(SFT) == 2
    assert "policy has no tokenizer" in capsys.readouterr().err


def test_a_tokenizer_of_an_unknown_kind(policy):
    (policy / "tokenizer.json").write_text("{}")
    with pytest.raises(MissingAssets, match="The model folder policy cannot be loaded"):
        model_files.load_tokenizer(policy)


def test_a_configuration_that_does_not_fit_its_weights(policy, capsys):
    config = json.loads((policy / "config.json").read_text())
    (policy / "config.json").write_text(json.dumps(config | {"n_embd": 2 * config["n_embd"]}))
    assert train.main(SFT) == 2
    assert "The model folder policy cannot be loaded" in capsys.readouterr().err


def test_shards_and_what_torch_saves_are_fine(policy):
    model_files.check(policy, "", "")
    tensors = load_file(policy / "model.safetensors")
    shards(policy)
    model_files.check(policy, "", "")
    for file in policy.glob("model*"):
        file.unlink()
    for how in (True, False):
        torch.save(tensors, policy / "pytorch_model.bin", _use_new_zipfile_serialization=how)
        model_files.check(policy, "", "")
    cut(policy / "pytorch_model.bin", 0)
    with pytest.raises(MissingAssets, match=r"pytorch_model\.bin is damaged \(no weights\)"):
        model_files.check(policy, "", "")
