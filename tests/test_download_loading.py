"""What was downloaded loads: transformers and datasets on miniatures named like the real repositories.

The catalogue is the course's own assets.toml with its revisions opened, so its file patterns are tested too.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hub.server import Hub
from hub.standins import distilbert, full_profile, gpt2, hh_rlhf, imdb, opt
from hub.use import CHECKOUT, download, environment, place

from rlhf.fetch import toml

STAND_INS = {
    "gpt2-imdb": gpt2,
    "distilbert-imdb": distilbert,
    "imdb": imdb,
    "opt-350m": opt,
    "hh-rlhf": hh_rlhf,
}


def opened_catalogue(folder, names) -> str:
    """The course's entries for ``names`` without the commits that only the real hub has."""
    lines = []
    for asset in toml.read(CHECKOUT / "assets.toml")["asset"]:
        if asset["name"] in names:
            facts = asset | {"revision": "main"}
            lines += ["[[asset]]", *(f"{key} = {toml.quote(value)}" for key, value in facts.items())]
    path = folder / "miniatures.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with every stand-in, downloaded through download.sh from a loopback hub."""
    folder = tmp_path_factory.mktemp("miniatures")
    with Hub([build() for build in STAND_INS.values()]) as hub:
        run = download(folder, "--manifest", opened_catalogue(folder, STAND_INS), hubs=(hub,))
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def test_the_policy_generates(home):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = place(home, gpt2())
    words, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert (
        model.dtype == torch.float32
        and words.decode(words("This movie was")["input_ids"]) == "This movie was"
    )
    queries = words("This movie was", return_tensors="pt")
    output = model.generate(**queries, max_new_tokens=4, do_sample=False, pad_token_id=words.eos_token_id)
    assert output.shape[1] > queries["input_ids"].shape[1]


def test_the_reward_model_scores(home):
    from rlhf.rewards import SentimentReward

    scores = SentimentReward(place(home, distilbert()))(["a wonderful surprise", "dull from start to end"])
    assert scores.shape == (2,) and bool(scores.isfinite().all())


def test_opt_comes_in_half_precision_without_its_other_formats(home):
    import torch
    from transformers import AutoModelForCausalLM

    folder = place(home, opt())
    assert not (folder / "tf_model.h5").exists()
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.float16
    assert AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).dtype == torch.float32


def test_datasets_reads_the_folders(home, tmp_path):
    from datasets import load_dataset

    rows = load_dataset(str(place(home, imdb())), cache_dir=str(tmp_path))
    assert {split: len(part) for split, part in rows.items()} == {
        "train": 400,
        "test": 200,
        "unsupervised": 20,
    }
    assert rows["train"].features["label"].names == ["neg", "pos"]
    pairs = load_dataset(str(place(home, hh_rlhf())), cache_dir=str(tmp_path))
    assert {split: len(part) for split, part in pairs.items()} == {"train": 80, "test": 80}


def test_the_courses_own_loader_sees_a_repair(home):
    """After a repair the fingerprint and the rows are the repaired ones."""
    from rlhf.assets import fingerprint
    from rlhf.data import load_reviews

    folder = place(home, imdb())
    assert len(load_reviews(folder, "train")) == 400
    assert fingerprint(folder) == fingerprint(folder) != fingerprint(place(home, hh_rlhf()))


@pytest.mark.slow
def test_lesson_07_runs_with_the_full_profile(tmp_path):
    """The lesson's own cells with RLHF_PROFILE=full, on what download.sh brought from a hub of miniatures."""
    lesson = CHECKOUT / "lessons" / "07_ppo_imdb.py"
    names = ("gpt2-imdb", "distilbert-imdb", "imdb")
    with Hub(full_profile()) as hub:
        listed = opened_catalogue(tmp_path, names)
        run = download(tmp_path, "--profile", "full", "--manifest", listed, hubs=(hub,))
    assert run.returncode == 0, run.stdout + run.stderr
    env = environment(tmp_path, RLHF_PROFILE="full", RLHF_HOME=str(tmp_path / "home"), RLHF_DEVICE="cpu")
    env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    env |= {
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "PYTHONPATH": str(CHECKOUT),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    call = [sys.executable, str(CHECKOUT / "tests/hub/run_lesson.py"), str(lesson), json.dumps(SMALL)]
    run = subprocess.run(call, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-3000:]
    assert "profile full" in run.stdout and "model/gpt2-imdb" in run.stdout
    assert (tmp_path / "home" / "output" / "07_ppo_imdb" / "table.json").is_file()


# A few seconds of PPO instead of 194 steps of 128 on a GPU; the cells and everything else are the profile's.
SMALL = {
    "ppo": {"steps": 10, "batch_size": 32, "mini_batch_size": 32, "learning_rate": 1e-3},
    "evaluation": {"prompts": 64, "shown": 16},
    "lessons": {
        "04_supervised_fine_tuning": {
            "reviews": 40,
            "max_length": 32,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "held_out": 20,
        },
        "05_reward_modelling": {
            "pairs": 30,
            "held_out": 10,
            "tokens": [10, 20],
            "reward": {"per_device_train_batch_size": 8, "num_train_epochs": 1, "learning_rate": 1e-3},
        },
        "07_ppo_imdb": {
            "chain": {"steps": 2, "batch_size": 8, "mini_batch_size": 8},
            "lab": {"steps": 1, "batch_size": 8, "mini_batch_size": 8},
        },
    },
}
