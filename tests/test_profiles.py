"""One switch: profiles, and what is said when something is missing."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from rlhf import profiles
from rlhf.errors import BadProfile, CannotWrite, MissingAssets


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    for name in ("RLHF_PROFILE", "RLHF_DATA", "RLHF_SEED", "RLHF_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def fill(home, profile="offline"):
    fields = profiles.read(profile)
    for key in ("policy", "reward_model"):
        (home / fields[key]).mkdir(parents=True)
        (home / fields[key] / "config.json").write_text("{}")
        save_file({"weight": np.ones(4, np.float32)}, home / fields[key] / "model.safetensors")
    (home / fields["dataset"] / "plain_text").mkdir(parents=True)
    (home / fields["dataset"] / "plain_text" / "train-0.parquet").write_bytes(b"x")
    return fields


def test_every_profile_file_is_complete(home):
    assert profiles.names() == ["full", "imdb", "offline"]
    for name in profiles.names():
        fields = profiles.read(name)
        assert fields["evaluation"]["shown"] >= 16 and fields["ppo"]["steps"] > 0


def test_unknown_profile_lists_the_known(home, monkeypatch):
    monkeypatch.setenv("RLHF_PROFILE", "ofline")
    with pytest.raises(BadProfile, match="full, imdb, offline"):
        profiles.setup("07_ppo_imdb")


def test_setup_prints_one_line_without_absolute_paths(home, capsys):
    fill(home)
    setup = profiles.setup("07_ppo_imdb")
    printed = capsys.readouterr().out.strip()
    assert printed.count("\n") == 0 and str(home) not in printed
    assert "profile offline" in printed and "model/offline/policy" in printed and "seed 0" in printed
    assert setup.output.is_dir() and setup.output.parent.parent == home


def test_seed_comes_from_the_environment(home, monkeypatch):
    import torch

    fill(home)
    monkeypatch.setenv("RLHF_SEED", "7")
    assert profiles.setup("07_ppo_imdb").seed == 7
    first = torch.rand(3)
    profiles.setup("07_ppo_imdb")
    assert torch.equal(first, torch.rand(3))
    monkeypatch.setenv("RLHF_SEED", "seven")
    with pytest.raises(BadProfile, match="seven"):
        profiles.setup("07_ppo_imdb")


def test_missing_model_names_the_command_in_both_languages(home):
    with pytest.raises(MissingAssets) as caught:
        profiles.setup("07_ppo_imdb")
    chinese, english = str(caught.value).split("\n")
    assert "请先运行：python -m rlhf.build --profile offline" in chinese
    assert "Run: python -m rlhf.build --profile offline" in english


def test_full_profile_names_the_download(home, monkeypatch):
    monkeypatch.setenv("RLHF_PROFILE", "full")
    with pytest.raises(MissingAssets, match=r"\./download\.sh --profile full"):
        profiles.setup("07_ppo_imdb")


def test_half_built_model_is_said(home):
    fields = fill(home)
    (home / fields["policy"] / "model.safetensors").unlink()
    with pytest.raises(MissingAssets, match="incomplete"):
        profiles.setup("07_ppo_imdb")


def test_data_folder_of_the_build_is_remembered(home, tmp_path):
    fields = fill(home, "imdb")
    record = home / fields["reward_model"] / "build.json"
    record.write_text(json.dumps({"data": str(tmp_path / "elsewhere")}))
    assert profiles.dataset_folder(fields) == home / "dataset" / "imdb"  # its own folder first
    (home / "dataset" / "imdb" / "plain_text" / "train-0.parquet").unlink()
    (home / "dataset" / "imdb" / "plain_text").rmdir()
    (home / "dataset" / "imdb").rmdir()
    assert profiles.dataset_folder(fields) == tmp_path / "elsewhere"


def test_a_place_that_cannot_be_written_is_said(home):
    (home / "output").write_text("a file where a folder should be")
    with pytest.raises(CannotWrite, match="Cannot create"):
        profiles.make_folder(home / "output" / "07_ppo_imdb")


def test_a_lesson_has_sizes_of_its_own(home, monkeypatch):
    fields = {**fill(home), "lessons": {"07_ppo_imdb": {"steps": 9, "ppo": {"steps": 3}}}}
    monkeypatch.setattr(profiles, "read", lambda name=None: fields)
    setup, other = profiles.setup("07_ppo_imdb"), profiles.setup("00_overview")
    assert dict(setup.sizes) == {"steps": 9} and setup.ppo["steps"] == 3
    assert dict(other.sizes) == {} and other.ppo["steps"] == fields["ppo"]["steps"]
