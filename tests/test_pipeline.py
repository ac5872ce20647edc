"""The chain as one command: what is made is taken, what is interrupted goes on, one table at the end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from test_train import equal, home, stop_at, weights, world  # noqa: F401  (fixtures)

from rlhf import pipeline, profiles, report, stages, train
from rlhf.errors import BadRecipe, CannotWrite

TINY = {  # the smallest sizes that train at all
    "sft": {"reviews": 12, "batch_size": 4, "max_length": 16, "save_every": 1},
    "reward": {"pairs": 8, "held_out": 4, "batch_size": 4, "epochs": 1, "learning_rate": 1e-2},
    "ppo": {"steps": 3, "save_every": 1, "batch_size": 4, "mini_batch_size": 4, "learning_rate": 1e-3},
    "rejection": {"rounds": 1, "prompts": 8, "k": 2, "epochs": 1, "batch_size": 4, "sampling_batch": 16},
}
RESULTS = ("sft_1", "rm_2", "ppo_3", "rs_4")


def write_recipes(folder: Path, **changes: dict) -> Path:
    """The course's four recipes with tiny sizes and ``changes``, in a folder of their own."""
    pairs = folder / "pairs"
    pairs.mkdir(parents=True)
    for split, count in (("train", 12), ("test", 4)):
        rows = [
            {"chosen": f"the plot {i} was good", "rejected": f"the plot {i} was bad"} for i in range(count)
        ]
        (pairs / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in stages.STAGES:
        found = yaml.safe_load((profiles.CHECKOUT / "recipes" / f"{name}.yaml").read_text())
        found |= {"data": str(pairs)} if name == "reward" else {}
        found |= {"response_tokens": [2, 6]} if name in ("ppo", "rejection") else {}
        found |= TINY[name] | changes.get(name, {})
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(found))
    return folder


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):  # noqa: F811
    """A home with recipes; what the four commands made there; and what the one command said with ``--again``,
    which ran there after them and made all of it anew."""
    place = tmp_path_factory.mktemp("chain")
    for name in ("model", "dataset"):
        (place / name).symlink_to(world / name)
    recipes = write_recipes(place / "recipes")
    with pytest.MonkeyPatch.context() as patch:
        environment(patch, place)
        for name in stages.STAGES:
            assert train.main([name, "--config", str(recipes / f"{name}.yaml")]) == 0
        before = content(place)
        for name in RESULTS:  # it must be trained, not found
            (place / "output" / name / "model.safetensors").write_bytes(b"")
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert again(place, "--again") == 0
    return place, before, said.getvalue()


@pytest.fixture(scope="module")
def chain(trained):
    return trained[0]


def environment(patch: pytest.MonkeyPatch, place: Path) -> None:
    for name in ("RLHF_PROFILE", "RLHF_DATA", "RLHF_SEED"):
        patch.delenv(name, raising=False)
    patch.setenv("RLHF_HOME", str(place))
    patch.setenv("RLHF_DEVICE", "cpu")
    small = dict(profiles.read("offline")) | {"evaluation": {"prompts": 16, "shown": 4}}
    read = profiles.read
    patch.setattr(profiles, "read", lambda name=None: small if name in (None, "offline") else read(name))


@pytest.fixture
def done(chain, tmp_path, monkeypatch):
    """The same home once more, for a test that changes it."""
    place = tmp_path / "home"
    shutil.copytree(chain, place, symlinks=True)
    environment(monkeypatch, place)
    return place  # the pairs keep their old place: it is a field of the recipe


def again(place: Path, *words: str) -> int:
    return pipeline.main(["--recipes", str(place / "recipes"), *words])


def content(place: Path) -> dict[str, bytes]:
    return {name: (place / "output" / name / "model.safetensors").read_bytes() for name in RESULTS}


# ------------------------------------------------------------------------------------------------ the chain


def test_again_trains_everything_with_the_results_of_the_four_commands(trained):
    place, before, said = trained
    assert said.count("trained anew, as asked") == 4
    assert content(place) == before and all(before.values())


def test_the_table_says_what_the_reports_say(chain):
    folder = chain / "output" / "pipeline"
    found = json.loads((folder / "pipeline.json").read_text())
    assert list(found["models"]) == ["base", "ppo_3", "rs_4"] and found["reference"] == "sft_1"
    assert [each["trained"] for each in found["stages"]] == [True] * 4
    assert all(each["cpu_seconds"] > 0 for each in found["stages"])
    assert found["stages"][2]["recipe"]["steps"] == 3
    assert any("ppo_3 12, rs_4 16 (" in note for note in found["notes"])  # 3 steps of 4; 8 prompts, 2 each
    page = (folder / "pipeline.html").read_text()
    for name, numbers in found["models"].items():
        saved = report.load(folder / name)
        assert saved.numbers["judge_gain"] == numbers["judge_gain"]
        assert saved.names == ("sft_1", name) and len(saved.table) == 16
        assert f"{numbers['reward_mean_after']:.2f}" in page and f"{numbers['kl']:.2f}" in page
        assert "{:+.2f} [{:+.2f}, {:+.2f}]".format(*saved.judge_gain) in page
    assert page.count("<tr><th>") >= 5 and "sentiment classifier" in page


def outcome(low: float, high: float) -> str:
    """The line about PPO when the classifier's gain has this interval."""
    texts = [str(i) for i in range(16)]
    scores = [0.0] * 16
    each = report.before_after(
        texts, texts, texts, scores, scores, judge_before=scores, judge_after=scores, kl=0.0
    )
    each.numbers |= {"judge_gain": (low + high) / 2, "judge_gain_low": low, "judge_gain_high": high}
    jobs = {name: train.plan(name, []) for name in stages.STAGES}
    names = dict.fromkeys(("base", "ppo_3", "rs_4"), each)
    return next(line for line in pipeline.Outcome(jobs, names, []).notes() if line.startswith("ppo_3"))


def test_a_gain_is_called_one_only_if_the_interval_says_so():
    assert "sees a gain" in outcome(0.1, 0.5) and "看到了进步" in outcome(0.1, 0.5)
    assert "sees no gain" in outcome(-0.1, 0.5) and "看不出进步" in outcome(-0.1, 0.5)
    assert "sees a loss" in outcome(-0.5, -0.1) and "看到了退步" in outcome(-0.5, -0.1)


# ------------------------------------------------------------------------------------- what is there already


def test_what_the_same_recipe_made_is_taken_as_it_is(done, capsys, monkeypatch):
    before = content(done)
    monkeypatch.setattr(train, "carry_out", lambda *a, **k: pytest.fail("trained again"))
    assert again(done) == 0
    shown = capsys.readouterr().out
    assert shown.count("taken as it is") == 4 and "ppo_3" in shown and content(done) == before
    found = json.loads((done / "output" / "pipeline" / "pipeline.json").read_text())
    assert [each["seconds"] for each in found["stages"]] == [None] * 4


def test_another_recipe_is_trained_and_what_does_not_depend_on_it_is_taken(done, capsys):
    file = done / "recipes" / "ppo.yaml"
    file.write_text(file.read_text().replace("steps: 3", "steps: 2"))
    before = content(done)
    assert again(done) == 0
    shown = capsys.readouterr().out
    assert shown.count("taken as it is") == 3 and "steps: 3 → 2" in shown
    assert [name for name, each in content(done).items() if each != before[name]] == ["ppo_3"]


def test_what_was_made_from_another_model_of_the_same_name_is_trained_anew(done, capsys):
    made = done / "output" / "rm_2"
    (made / train.RECIPE).unlink()  # as a lesson leaves it
    file = done / "recipes" / "reward.yaml"
    file.write_text(file.read_text().replace("learning_rate: 0.01", "learning_rate: 0.02"))
    before = content(done)
    assert again(done) == 0
    shown = capsys.readouterr().out
    assert "no recipe.yaml" in shown and shown.count("reward_model: rm_2, which is not what it was") == 2
    assert [name for name, each in content(done).items() if each != before[name]] == list(RESULTS[1:])


def test_an_interrupted_chain_goes_on(done, capsys):
    before = content(done)
    shutil.rmtree(done / "output" / "ppo_3")
    shutil.rmtree(done / "output" / "rs_4")
    with stop_at(3):
        assert again(done) == 130
    caught = capsys.readouterr()
    assert "Stage 3/4, ppo, is not finished" in caught.err and "第 3/4 阶段 ppo" in caught.err
    assert caught.out.count("taken as it is") == 2
    assert again(done) == 0
    shown = capsys.readouterr().out
    assert "going on with the interrupted run" in shown and "going on after step 2 of 3" in shown
    assert "second part" in shown and content(done) == before


def test_an_interrupted_run_of_another_recipe_is_begun_anew(done, capsys):
    shutil.rmtree(done / "output" / "ppo_3")
    with stop_at(3):
        assert again(done) == 130
    file = done / "recipes" / "ppo.yaml"
    file.write_text(file.read_text().replace("steps: 3", "steps: 2"))
    capsys.readouterr()
    assert again(done) == 0
    assert "going on" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------- what goes wrong


def fails(capsys, place: Path, *words: str) -> str:
    """The error of a command that must leave with 2, in both languages and without a traceback."""
    assert again(place, *words) == 2
    caught = capsys.readouterr()
    assert "Traceback" not in caught.err
    assert any("\u4e00" <= letter <= "\u9fff" for letter in caught.err.splitlines()[0])
    return caught.err + caught.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--profile", "mine"], "full, imdb, offline"),
        (["--agian"], "unrecognized arguments: --agian"),
        (["--recipes", "nowhere"], "sft.yaml"),
    ],
)
def test_wrong_words_are_named_before_anything_is_trained(words, message, home, capsys):  # noqa: F811
    write_recipes(home / "recipes")
    assert message in fails(capsys, home, *words)
    assert not (home / "output").exists()


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("rejection", {"round": 2}, "rejection.yaml: there is no field round; did you mean rounds"),
        ("ppo", {"policy": "profile"}, "ppo.yaml: the field policy is profile; .* must be sft_1"),
        ("ppo", {"reward_model": "profile"}, "the field reward_model is profile; .* must be rm_2"),
        ("reward", {"profile": "imdb"}, "the field profile is imdb; .* must be offline"),
        ("ppo", {"output": "sft_1"}, "five different names"),
        ("ppo", {"lam": 2}, "lam must be a number"),
    ],
)
def test_a_wrong_recipe_is_named_before_anything_is_trained(stage, change, message, home, capsys):  # noqa: F811
    import re

    write_recipes(home / "recipes", **{stage: change})
    assert re.search(message, fails(capsys, home))
    assert not (home / "output").exists()


def test_without_models_the_command_that_makes_them_is_named(home, capsys):  # noqa: F811
    write_recipes(home / "recipes")
    (home / "model").unlink()
    error = fails(capsys, home)
    assert "python -m rlhf.build --profile offline" in error and "Stage 1/4, sft" in error


def test_a_stage_that_cannot_write_is_named(done, capsys):
    shutil.rmtree(done / "output" / "ppo_3")
    mine = done / "output" / "ppo_3" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("years of work")
    error = fails(capsys, done)
    assert "left alone" in error and "Stage 3/4, ppo, is not finished" in error
    assert mine.read_text() == "years of work"


def test_an_output_that_cannot_be_written_is_found_before_training(home, capsys):  # noqa: F811
    write_recipes(home / "recipes")
    (home / "output").write_text("a file")
    assert "Cannot create" in fails(capsys, home)


def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    folder = tmp_path if os.geteuid() else Path("/proc/self")  # where even root may not write
    if not folder.is_dir():
        pytest.skip("root, and no /proc")
    with pytest.raises(CannotWrite, match="Cannot write to"):
        pipeline.writable(folder)


def test_a_bug_keeps_its_traceback_and_names_the_stage(done, capsys, monkeypatch):
    shutil.rmtree(done / "output" / "rs_4")
    monkeypatch.setattr(train, "carry_out", lambda *a, **k: {}["a bug"])
    with pytest.raises(KeyError, match="a bug"):
        again(done)
    assert "Stage 4/4, rejection, is not finished" in capsys.readouterr().err


def test_the_recipes_of_the_course_are_a_chain(monkeypatch):
    monkeypatch.delenv("RLHF_SEED", raising=False)
    for name in (None, *profiles.names()):
        jobs = pipeline.read_recipes(profiles.CHECKOUT / "recipes", name)
        assert tuple(job.folder.name for job in jobs.values()) == RESULTS
        assert {job.values["profile"] for job in jobs.values()} == {name or "offline"}
    with pytest.raises(BadRecipe):
        pipeline.read_recipes(profiles.CHECKOUT / "profiles")


def test_the_profile_of_the_environment_is_the_default(monkeypatch):
    asked = []
    monkeypatch.setattr(pipeline, "run", lambda folder, profile, again: asked.append((profile, again)))
    monkeypatch.delenv("RLHF_PROFILE", raising=False)
    pipeline.main([])
    monkeypatch.setenv("RLHF_PROFILE", "imdb")
    pipeline.main(["--again"])
    pipeline.main(["--profile", "full"])
    assert asked == [(None, False), ("imdb", True), ("full", False)]
