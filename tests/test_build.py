"""rlhf.build on a tiny plan: what it writes, that it repeats, that it never leaves half a folder."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from rlhf import build as building
from rlhf import profiles
from rlhf.beside import beside
from rlhf.corpus import write_corpus
from rlhf.errors import BadData, BadProfile, CannotWrite, MissingAssets
from rlhf.rewards import SentimentReward

TINY = {
    "policy": {"vocab": 400, "layers": 1, "width": 32, "heads": 2, "positions": 64, "block": 32, "batch": 8}
    | {"steps": 12, "learning_rate": 3e-3},
    "sentiment": {"vocab": 400, "layers": 1, "width": 32, "heads": 2, "positions": 128, "dropout": 0.0}
    | {"window": 60, "short": 0.5, "batch": 16, "steps": 60, "learning_rate": 5e-3, "drop": 0.0, "init": 0.2},
}


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("data") / "reviews", seed=1, train=600, test=200)


def move_in(place, patch):
    """A home with tiny sizes, nothing built in it."""
    patch.setenv("RLHF_HOME", str(place))
    patch.setenv("RLHF_DEVICE", "cpu")
    for name in ("RLHF_PROFILE", "RLHF_DATA", "RLHF_SEED"):
        patch.delenv(name, raising=False)
    real = profiles.read
    patch.setattr(profiles, "read", lambda name=None: {**real(name), "build": TINY})


@pytest.fixture
def home(tmp_path, monkeypatch):
    move_in(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def built_once(reviews, tmp_path_factory):
    place = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        move_in(place, patch)
        building.build("imdb", reviews)
    return place


@pytest.fixture
def built(home, reviews, built_once):
    """A home of one's own in which the models have been built."""
    shutil.copytree(built_once / "model", home / "model")
    return building.make_plan("imdb", reviews, None)


def hashes(home):
    return {
        path.relative_to(home).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((home / "model").rglob("*"))
        if path.is_file() and path.name not in ("build.json", ".build.lock")
    }


def test_builds_what_the_hub_would_hold(built):
    plan = built
    for folder in (plan.policy, plan.sentiment):
        names = {path.name for path in folder.iterdir()}
        assert {
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
        } <= names
        assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    config = AutoModelForSequenceClassification.from_pretrained(plan.sentiment).config
    assert config.model_type == "distilbert" and config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}
    assert AutoModelForCausalLM.from_pretrained(plan.policy).config.model_type == "gpt2"
    tokenizer = AutoTokenizer.from_pretrained(plan.policy)
    text = "I watched it on a rainy night — naïve, ½ good, 很好."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text  # byte level: nothing is unknown
    assert tokenizer.eos_token == "<|endoftext|>" and tokenizer.pad_token is None


def test_up_to_date_stages_are_skipped_and_changed_ones_are_not(built, home, reviews, capsys, monkeypatch):
    before = os.stat(home / "model/imdb/policy/model.safetensors").st_mtime_ns
    capsys.readouterr()
    building.build("imdb", reviews)
    assert capsys.readouterr().out.count("up to date") == 2
    assert os.stat(home / "model/imdb/policy/model.safetensors").st_mtime_ns == before
    changed = {**TINY, "sentiment": {**TINY["sentiment"], "steps": 61}}
    real = profiles.read
    monkeypatch.setattr(profiles, "read", lambda name=None: {**real(name), "build": changed})
    building.build("imdb", reviews)
    assert capsys.readouterr().out.count("up to date") == 1


def test_what_was_damaged_since_is_built_anew(built, home, reviews, capsys):
    before, weights = hashes(home), home / "model/imdb/policy/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    building.build("imdb", reviews)
    assert capsys.readouterr().out.count("up to date") == 1
    assert hashes(home) == before


def test_classifier_learns_and_policy_loss_falls(home, tmp_path):
    moods = [["dull", "awful", "boring"], ["superb", "lovely", "great"]]
    rows = [
        (f"The {what} of it was {moods[i % 2][i % 3]}.", i % 2)
        for i in range(300)
        for what in ("end", "cast")
    ]
    for split in ("train", "test"):
        (tmp_path / "plain").mkdir(exist_ok=True)
        texts, labels = zip(*rows, strict=True)
        pq.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "plain" / f"{split}-0.parquet")
    plan = building.build("imdb", tmp_path / "plain")
    assert json.loads((plan.sentiment / "build.json").read_text())["test_accuracy"] > 0.9
    assert json.loads((plan.policy / "build.json").read_text())["loss"] < 5.5


def test_killed_build_leaves_nothing_half_written_and_the_next_one_finishes(home, reviews):
    script = textwrap.dedent(f"""
        from rlhf import build, profiles
        real = profiles.read
        sizes = {TINY!r}
        sizes["sentiment"]["steps"] = 100_000
        profiles.read = lambda name=None: {{**real(name), "build": sizes}}
        build.build("imdb", {str(reviews)!r})
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if line.startswith("sentiment · building"):
                break
        time.sleep(0.5)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (home / "model/imdb/policy/config.json").is_file() and not (home / "model/imdb/sentiment").exists()
    plan = building.build("imdb", reviews)  # the kernel released the lock; the policy is kept
    assert (plan.sentiment / "model.safetensors").is_file()
    assert not list((home / "model/imdb").glob(".*.partial"))


def test_side_by_side_gives_the_same_bytes_and_another_seed_other_weights(home, reviews, built_once, capfd):
    building.build("imdb", reviews, side_by_side=True)
    first = hashes(built_once)
    assert hashes(home) == first
    said = capfd.readouterr().out
    assert "policy · step 12/12" in said and "sentiment · step 60/60" in said
    building.build("imdb", reviews, side_by_side=True)
    assert capfd.readouterr().out.count("up to date") == 2
    building.build("imdb", reviews, seed=1)
    for name in ("policy", "sentiment"):
        weights = f"model/imdb/{name}/model.safetensors"
        assert hashes(home)[weights] != first[weights]


def test_what_goes_wrong_side_by_side_is_said(home, reviews, monkeypatch):
    """The classifier's place cannot be written; what the other process raises arrives here whole."""
    plan = building.make_plan("imdb", reviews, None)
    blocked = home / "file"
    blocked.touch()
    plan = dataclasses.replace(plan, sentiment=blocked / "sentiment")
    monkeypatch.setattr(building, "make_plan", lambda *_: plan)
    with pytest.raises(CannotWrite, match="Cannot write") as caught:
        building.build("imdb", reviews, side_by_side=True)
    assert caught.value.zh.startswith("无法写入") and (plan.policy / "config.json").is_file()


def test_a_killed_second_process_is_noticed_and_does_not_outlive_the_first(tmp_path):
    with pytest.raises(RuntimeError, match="process of abort was killed"), beside(os.abort):
        pass
    script = """
        import os, sys, time
        from rlhf.beside import beside
        def work(file):
            open(file, "w").write(str(os.getpid()))
            time.sleep(600)
        if __name__ == "__main__":
            with beside(work, sys.argv[1]):
                while not (os.path.exists(sys.argv[1]) and open(sys.argv[1]).read()):
                    time.sleep(0.05)
                os.kill(os.getpid(), 9)
    """
    program, file = tmp_path / "program.py", tmp_path / "pid"
    program.write_text(textwrap.dedent(script))
    subprocess.run(
        [sys.executable, str(program), str(file)], env=os.environ | {"PYTHONPATH": str(profiles.CHECKOUT)}
    )
    deadline = time.monotonic() + 60
    while psutil.pid_exists(int(file.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_failing_write_keeps_the_old_model(built, home, reviews, monkeypatch):
    before = hashes(home)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(building, "_write_record", full)
    with pytest.raises(CannotWrite, match="nothing half-written"):
        building.build("imdb", reviews, force=True)
    assert hashes(home) == before and built.policy.is_dir()
    assert not list((home / "model/imdb").glob(".*.partial"))


def test_errors_before_any_training(home, reviews, tmp_path, capsys):
    with pytest.raises(MissingAssets, match="no folder"):
        building.build("imdb", tmp_path / "nowhere")
    with pytest.raises(MissingAssets, match="test-"):
        only_train = tmp_path / "half"
        shutil.copytree(reviews, only_train, ignore=shutil.ignore_patterns("test-*"))
        building.build("imdb", only_train)
    assert building.main(["--profile", "imdb", "--data", str(tmp_path / "nowhere")]) == 2
    assert "--data" in capsys.readouterr().err
    assert not list((home / "model").rglob("config.json"))


def test_no_space_is_said_before_any_training(home, reviews, monkeypatch):
    monkeypatch.setattr(building, "FREE_BYTES", 2**62)
    with pytest.raises(CannotWrite, match="Not enough disk"):
        building.build("imdb", reviews)


def test_profiles_that_are_not_built_say_how_they_come(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    with pytest.raises(BadProfile, match=r"download\.sh"):
        building.make_plan("full", None, None)
    with pytest.raises(BadProfile, match="no --data"):
        building.make_plan("offline", tmp_path, None)


def test_reward_is_the_pipelines_positive_logit(built, home):
    plan = built
    texts = ["this movie was really bad!!", "A wonderful, warm film. " * 30, "Dull."]
    scores = SentimentReward(plan.sentiment)(texts)
    pipe = pipeline("sentiment-analysis", model=str(plan.sentiment), device="cpu")
    for text, score in zip(texts, scores, strict=True):
        [entries] = pipe([text], top_k=None, function_to_apply="none", truncation=True)
        expected = next(entry["score"] for entry in entries if entry["label"] == "POSITIVE")
        torch.testing.assert_close(score, torch.tensor(expected), rtol=1e-4, atol=1e-4)
    with pytest.raises(BadData, match="no label JOY"):
        SentimentReward(plan.sentiment, label="JOY")
    with pytest.raises(BadData, match="non-empty"):
        SentimentReward(plan.sentiment)([])
    with pytest.raises(MissingAssets):
        SentimentReward(home / "model" / "nowhere")
