"""The stages as commands: every field explained and checked, runs that go on, results that say how."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from datasets import Dataset
from ppo_tools import save_world
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2ForSequenceClassification,
)

from rlhf import loop, profiles, recipes, stages, train
from rlhf.errors import BadRecipe, CannotWrite, CourseError, MissingAssets

RECIPES = profiles.CHECKOUT / "recipes"
SMALL = ["--batch_size", "4", "--mini_batch_size", "4", "--response_tokens", "[2, 6]", "--log_with", "none"]
PPO = ["ppo", "--steps", "4", "--save_every", "2", "--learning_rate", "1e-3", "--ppo_epochs", "2", *SMALL]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiny models and reviews where the profile ``offline`` looks for them."""
    folder = tmp_path_factory.mktemp("world")
    _, _, reviews = save_world(folder / "model" / "offline")
    rows = {"text": reviews, "label": [i % 2 for i in range(len(reviews))]}
    data = folder / "dataset" / "offline_reviews"
    data.mkdir(parents=True)
    for split in ("train", "test"):
        Dataset.from_dict(rows).to_parquet(data / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture
def home(world, tmp_path, monkeypatch):
    for name in ("RLHF_PROFILE", "RLHF_DATA", "RLHF_SEED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    monkeypatch.setenv("RLHF_DEVICE", "cpu")
    for name in ("model", "dataset"):
        (tmp_path / name).symlink_to(world / name)
    return tmp_path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@contextlib.contextmanager
def stop_at(step: int):
    """Ctrl-C before the given PPO step."""
    calls, one_step = [], loop.one_step

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return one_step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "one_step", interrupted)
        yield


# ------------------------------------------------------------------------------------------------- fields


@pytest.mark.parametrize("name", stages.STAGES)
def test_every_field_is_explained(name, capsys):
    known = stages.STAGES[name].known()
    for field in known.values():
        assert len(field.doc) > 8, field.name
        assert recipes.check({field.name: field.default}, known, "") == {field.name: field.default}
    with pytest.raises(SystemExit) as left:
        train.main([name, "--help"])
    assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"--{field.name} " in shown and field.doc in shown for field in known.values())


def test_without_a_stage_the_stages_are_listed(capsys):
    assert train.main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in stages.STAGES)


@pytest.mark.parametrize("name", stages.STAGES)
def test_the_recipes_of_the_course_are_valid_and_make_what_the_next_one_needs(name):
    stage = stages.STAGES[name]
    found = recipes.read_file(RECIPES / f"{name}.yaml", stage.known())
    assert found["profile"] == "offline" and found["output"] == stage.makes
    values = train.resolve(stage, stage.known(), ["--config", str(RECIPES / f"{name}.yaml")], "")
    made = {other.makes for other in stages.STAGES.values()} | {"profile"}
    assert {values["policy"], values.get("reward_model", "profile")} <= made


def test_the_command_line_wins_over_the_recipe_over_the_profile_over_the_default(tmp_path, monkeypatch):
    monkeypatch.delenv("RLHF_SEED", raising=False)
    file = tmp_path / "mine.yaml"
    file.write_text("profile: imdb\nlam: 0.9\ntarget: 4\nquery_tokens: [3, 5]\nscore_clip: null\n")
    stage = stages.STAGES["ppo"]
    words = [
        "--config",
        str(file),
        "--target=5",
        "--set",
        "gamma=0.99",
        "--score-clip",
        "2",
        "--set",
        "seed=7",
    ]
    values = train.resolve(stage, stage.known(), words, "")
    profile = profiles.read("imdb")["ppo"]
    assert (values["target"], values["gamma"], values["score_clip"], values["seed"]) == (5.0, 0.99, 2.0, 7)
    assert (values["lam"], values["query_tokens"]) == (0.9, [3, 5])
    assert (values["steps"], values["learning_rate"]) == (profile["steps"], profile["learning_rate"])
    assert (values["cliprange"], values["log_with"], values["seed"]) == (0.2, None, 7)
    chain = train.resolve(stage, stage.known(), ["--reward_model", "rm_2"], "")
    assert chain["steps"] == profiles.read("offline")["lessons"]["07_ppo_imdb"]["chain"]["steps"]


WRONG = {
    "no such field": (["ppo", "--learning_rat", "1"], "did you mean learning_rate"),
    "no such field to set": (["ppo", "--set", "lambda=1"], "there is no field lambda"),
    "a word too many": (["ppo", "--set", "lam", "1"], "unexpected: 1"),
    "no value": (["ppo", "--lam"], "lam: expected one argument"),
    "no equals sign": (["ppo", "--set", "lam"], "FIELD=VALUE"),
    "text for a number": (
        ["ppo", "--learning_rate", "high"],
        "learning_rate cannot be 'high'; it takes FLOAT",
    ),
    "half a step": (["ppo", "--steps", "1.5"], "steps cannot be '1.5'; it takes INT"),
    "a number for yes": (["ppo", "--adap_kl_ctrl", "2"], "adap_kl_ctrl cannot be '2'; it takes BOOL"),
    "a number for a list": (["ppo", "--query_tokens", "8"], "query_tokens cannot be '8'; it takes LIST"),
    "endless": (["sft", "--learning_rate", "inf"], "learning_rate cannot be 'inf'; it takes FLOAT"),
    "out of range": (["ppo", "--lam", "2"], "lam must be a number"),
    "not a divisor": (["ppo", "--mini_batch_size", "7"], "must be a multiple"),
    "lengths that fall": (["ppo", "--query_tokens", "[8, 2]"], "query_tokens must be two rising"),
    "no updates between saves": (["ppo", "--save_every", "0"], "save_every must be >= 1"),
    "no learning": (["sft", "--learning_rate", "0"], "learning_rate must be > 0"),
    "no rounds": (["rejection", "--rounds", "0"], "rounds must be"),
    "no such pick": (["rejection", "--pick", "worst"], "pick is one of"),
    "no such profile": (["sft", "--profile", "mine"], "full, imdb, offline"),
    "no such stage": (["dpo"], "there are: sft, reward, ppo, rejection"),
    "no such recipe": (["ppo", "--config", str(RECIPES / "pppo.yaml")], "ppo.yaml"),
    "what another stage makes": (["ppo", "--policy", "sft_1"], "rlhf.train sft --config recipes/sft.yaml"),
    "what nothing makes": (["ppo", "--reward_model", "rm_7"], "There is no model rm_7"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_in_both_languages(case, home, capsys):
    words, message = WRONG[case]
    assert train.main(words) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert any("\u4e00" <= letter <= "\u9fff" for letter in error.splitlines()[0])
    assert not (home / "output" / "runs").exists()  # nothing was begun


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lam: [0.9]", r"recipe\.yaml: the field lam cannot be \[0\.9\]"),
        ("lamb: 0.9", r"recipe\.yaml: there is no field lamb; did you mean lam"),
        ("- lam", "lines of field: value"),
        ("lam: {0.9", "no valid YAML"),
    ],
)
def test_a_wrong_recipe_names_its_file_and_field(text, message, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(BadRecipe, match=message):
        recipes.read_file(file, stages.STAGES["ppo"].known())


def test_a_written_recipe_is_read_back_as_it_was(tmp_path):
    known = stages.STAGES["ppo"].known()
    values = {name: field.default for name, field in known.items()}
    values |= {
        "learning_rate": 1.41e-5,
        "horizon": 1e22,
        "log_with": ["none"],
        "policy": "策略: #1",
        "stop_kl": None,
    }
    file = recipes.write_file(tmp_path / "recipe.yaml", values, known, "two\nlines")
    assert recipes.read_file(file, known) == values
    assert file.read_text().count("# ") >= len(values) + 2
    assert recipes.differences(values, values | {"lam": 0.5, "seed": 1}, free=["seed"]) == ["lam: 0.95 → 0.5"]


# ---------------------------------------------------------------------------------------------------- PPO


def test_ppo_makes_a_plain_model_and_says_how(home, capsys):
    assert train.main(PPO) == 0
    folder = home / "output" / "ppo_3"
    assert not equal(weights(folder), weights(home / "model" / "offline" / "policy"))
    assert AutoTokenizer.from_pretrained(folder).pad_token is not None
    log = pd.read_csv(folder / "history.csv")
    assert len(log) == 4 and {"env/reward_mean", "objective/kl"} <= set(log)
    assert "4 steps · score" in capsys.readouterr().out
    values = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert values["steps"] == 4 and values["learning_rate"] == 1e-3 and values["cliprange"] == 0.2
    left = {path.name for path in (home / "output" / "runs" / "ppo_3").iterdir()}
    assert left <= {"recipe.yaml", "made_from.json", "runs"}  # no saved state; TensorBoard's files may stay

    again = ["ppo", "--config", str(folder / "recipe.yaml"), "--output", "again"]
    assert train.main(again) == 0
    assert equal(weights(home / "output" / "again"), weights(folder))


def test_an_adapter_left_apart_is_made_anew_like_any_other_result(home):
    apart = [*PPO[1:], "--lora_rank", "2", "--merge", "false"]
    first = train.run("ppo", apart) / "adapter_model.safetensors"
    before = first.read_bytes()
    train.run("ppo", [*apart, "--learning_rate", "2e-3"])
    assert first.read_bytes() != before


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_stopped(home, capsys):
    assert train.main([*PPO, "--output", "unbroken"]) == 0
    with stop_at(4):
        assert train.main(PPO) == 130
    assert "once more goes on" in capsys.readouterr().err
    assert not (home / "output" / "ppo_3").exists()
    assert train.main([*PPO, "--lam", "0.9"]) == 2
    assert "lam: 0.95 → 0.9" in capsys.readouterr().err
    assert train.main([*PPO, "--save_every", "3"]) == 0
    assert "going on after step 2 of 4" in capsys.readouterr().out
    for name in ("model.safetensors", "v_head.safetensors"):
        a, b = (home / "output" / run / name for run in ("ppo_3", "unbroken"))
        assert a.read_bytes() == b.read_bytes()
    logs = [pd.read_csv(home / "output" / run / "history.csv") for run in ("ppo_3", "unbroken")]
    # all that was logged is the same, but for how long it took
    pd.testing.assert_frame_equal(*(log[[key for key in log if not key.startswith("time/")]] for log in logs))


def test_a_new_beginning_can_be_asked_for(home, capsys):
    with stop_at(3):
        assert train.main(PPO) == 130
    assert train.main([*PPO, "--lam", "0.9", "--resume", "false", "--steps", "1"]) == 0
    assert "going on" not in capsys.readouterr().out
    assert len(pd.read_csv(home / "output" / "ppo_3" / "history.csv")) == 1


def test_ppo_on_models_of_ones_own_found_by_name(home):
    policy = home / "model" / "offline" / "policy"
    shutil.copytree(policy, home / "output" / "sft_1")
    judge = GPT2ForSequenceClassification.from_pretrained(policy, num_labels=1)
    judge.config.pad_token_id = 0
    judge.save_pretrained(home / "output" / "rm_2")
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(home / "output" / "rm_2")
    words = ["--config", str(RECIPES / "ppo.yaml"), "--steps", "1", "--stop_kl", "100", *SMALL]
    assert train.main(["ppo", *words]) == 0
    log = pd.read_csv(home / "output" / "ppo_3" / "history.csv")
    reward = stages.load_reward(home / "output" / "rm_2", "cpu")
    assert type(reward).__name__ == "PairwiseReward" and log["env/reward_mean"].abs().max() > 0
    assert (
        type(stages.load_reward(home / "model" / "offline" / "sentiment", "cpu")).__name__
        == "SentimentReward"
    )


def test_a_run_ends_when_the_policy_has_gone_too_far(home):
    assert train.main([*PPO, "--stop_kl", "-100"]) == 0  # any KL is above that
    assert len(pd.read_csv(home / "output" / "ppo_3" / "history.csv")) == 1


def test_other_peoples_folders_are_left_alone(home, tmp_path_factory):
    mine = home / "output" / "mine"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(CannotWrite, match="left alone"):
        train.run("ppo", [*PPO[1:], "--output", "mine"])
    runs = home / "output" / "runs" / "ppo_3"
    runs.mkdir(parents=True)
    (runs / "notes.txt").write_text("mine too")
    with pytest.raises(CannotWrite, match="left alone"):
        train.run("ppo", PPO[1:])
    assert (mine / "thesis.txt").is_file() and (runs / "notes.txt").is_file()


def test_models_are_found_by_name_or_folder(home, tmp_path):
    made = tmp_path / "output" / "sft_1"
    made.mkdir(parents=True)
    (made / "config.json").write_text("{}")
    for name in ("sft_1", "output/sft_1", str(made)):
        assert train.find_model(name, home) == made
    assert train.find_model("profile", home) == home
    with pytest.raises(MissingAssets, match="Under output/ there are: sft_1") as caught:
        train.find_model("sft_2", home)
    assert isinstance(caught.value, CourseError)


# ------------------------------------------------------------------------------------------ the other stages

SFT = ["sft", "--reviews", "12", "--batch_size", "4", "--max_length", "16", "--save_every", "1"]


class Interrupt:
    """Ctrl-C after the given update of a transformers Trainer."""

    def __new__(cls, update: int):
        from transformers import TrainerCallback

        class Callback(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                if state.global_step == update:
                    raise KeyboardInterrupt

        return Callback()


def test_sft_goes_on_from_a_checkpoint(home, monkeypatch, capsys):
    from rlhf import sft

    assert train.main([*SFT, "--output", "unbroken"]) == 0
    make = sft.make_trainer
    with monkeypatch.context() as patch:
        patch.setattr(sft, "make_trainer", lambda *a, **k: make(*a, **k, callbacks=[Interrupt(2)]))
        assert train.main(SFT) == 130
    newest = home / "output" / "runs" / "sft_1" / "checkpoint-3"
    newest.mkdir()  # a kill while saving: no trainer_state.json yet
    (newest / "model.safetensors").write_bytes(b"half")
    assert train.main(SFT) == 0
    assert "going on after update 2" in capsys.readouterr().out
    assert equal(weights(home / "output" / "sft_1"), weights(home / "output" / "unbroken"))
    record = json.loads((home / "output" / "sft_1" / "sft.json").read_text())
    assert record["steps"] == 3 and record["which"] == "positive"
    assert not list((home / "output" / "runs" / "sft_1").glob("checkpoint-*"))


def test_the_reward_model_learns_from_a_folder_of_pairs(home):
    folder = home / "pairs"
    folder.mkdir()
    for split, count in (("train", 12), ("test", 4)):
        rows = [
            {"chosen": f"the plot {i} was good", "rejected": f"the plot {i} was bad"} for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["--data", str(folder), "--pairs", "8", "--held_out", "4", "--batch_size", "4", "--epochs", "3"]
    assert train.main(["reward", *words, "--learning_rate", "1e-2"]) == 0
    made = home / "output" / "rm_2"
    assert AutoModelForSequenceClassification.from_pretrained(made).config.num_labels == 1
    record = json.loads((made / "reward_model.json").read_text())
    assert record["pairs"] == 8 and record["steps"] == 6  # the recipe's batches and epochs, not the profile's
    assert yaml.safe_load((made / "recipe.yaml").read_text())["learning_rate"] == 1e-2


def test_rejection_sampling_runs_with_its_recipe(home):
    words = ["--rounds", "1", "--prompts", "8", "--k", "2", "--epochs", "1", "--batch_size", "4"]
    words += ["--sampling_batch", "16", "--response_tokens", "[2, 6]"]
    assert train.main(["rejection", *words]) == 0
    made = home / "output" / "rs_4"
    assert not equal(weights(made), weights(home / "model" / "offline" / "policy"))
    assert json.loads((made / "rounds.json").read_text())["config"]["k"] == 2
    assert yaml.safe_load((made / "recipe.yaml").read_text())["k"] == 2


# -------------------------------------------------------------------------------------------------- curves


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_what_is_logged_before_training_stays_in_the_output_folder(stage, home, tmp_path, monkeypatch):
    from rlhf import reward_model, sft

    monkeypatch.chdir(home / "model")  # where the program is started, and nothing must appear
    before = sorted(Path().rglob("*"))
    logs = tmp_path / "logs"
    setup = profiles.setup(stages.STAGES[stage].lesson)
    if stage == "sft":
        rows = Dataset.from_dict({"text": ["the plot was good", "the plot was bad"]})
        model, tokenizer = sft.load_policy(setup.policy)
        sizes = {"max_length": 16, "batch_size": 2, "learning_rate": 1e-3}
        trainer = sft.make_trainer(model, tokenizer, rows, sft.make_config(logs, sizes), rows)
    else:
        rows = Dataset.from_dict({"chosen": ["the plot was good"] * 2, "rejected": ["the plot was bad"] * 2})
        tokenizer = reward_model.load_tokenizer(setup.policy)
        changes = {"output_dir": str(logs), "num_train_epochs": 1, "disable_tqdm": True}
        trainer = reward_model.new_trainer(setup, {"train": rows, "test": rows}, tokenizer, **changes)
    trainer.evaluate()
    trainer.train()
    trainer.evaluate()
    files = [path for path in logs.rglob("*tfevents*") if path.is_file()]
    assert files and len({path.parent for path in files}) == 1
    assert sorted(Path().rglob("*")) == before
