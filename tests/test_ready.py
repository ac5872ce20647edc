"""A class joins anywhere: what a lesson reads, what is there of it, and that the rest is made once."""

import json
import re
import shutil
import subprocess

import pytest
from test_train import home, world  # noqa: F401  (fixtures)

from rlhf import errors, profiles, ready, reward_model, sft, stages, train
from rlhf.ready import Need, needs
from tools.notebooks import Course, read

COURSE = Course(profiles.CHECKOUT)
EXPECTED = {"07": {"sft_1", "rm_2"}, "10": {"sft_1", "rm_2", "ppo_3", "rs_4"}}  # read by a person
ALONE = ("00", "01", "02", "03", "04", "05", "06", "08")  # lessons that read no result of another
TINY = {
    "04_supervised_fine_tuning": {"reviews": 12, "batch_size": 4, "max_length": 16, "learning_rate": 1e-3},
    "05_reward_modelling": {
        "pairs": 1,
        "held_out": 1,
        "tokens": [3, 8],
        "turned": 0.2,
        "reward": {
            "per_device_train_batch_size": 1,
            "num_train_epochs": 1.0,
            "learning_rate": 1e-2,
            "center_rewards_coefficient": 0.01,
        },
    },
    "08_rejection_sampling": {"rounds": 1, "prompts": 8, "k": 2, "epochs": 1, "batch_size": 4},
}


@pytest.fixture
def small(home, monkeypatch):  # noqa: F811
    """A home with tiny models and reviews, and a profile ``offline`` of the smallest sizes."""
    fields = dict(profiles.read("offline"))
    fields |= {
        "ppo": {"steps": 2, "batch_size": 4, "mini_batch_size": 4, "learning_rate": 1e-3},
        "response": {"min_tokens": 2, "max_tokens": 6},
        "lessons": fields["lessons"] | TINY,
    }
    original = profiles.read
    monkeypatch.setattr(
        profiles, "read", lambda name=None: fields if name in (None, "offline") else original(name)
    )
    monkeypatch.setattr(reward_model, "REVIEWS_PER_PAIR", 40)  # all of these few reviews
    return home


# -------------------------------------------------------------------------------------- what a lesson reads


@pytest.mark.parametrize("name", COURSE.names())
def test_what_is_read_off_a_lesson_is_what_it_reads(name):
    found = {need.name for need in needs(COURSE.source(name).read_text("utf-8"), name)}
    if name[:2] in (*EXPECTED, *ALONE):
        assert found == EXPECTED.get(name[:2], set())
    cells = read(COURSE.notebook(name)).cells if COURSE.notebook(name).is_file() else []
    shown = "\n".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))
    said = re.findall(
        r"\b(?:found|trained here, small:) (?:output/)?(\w+)", shown
    )  # lesson 10 says what it took
    assert set(said) & {"sft_1", "rm_2", "ppo_3", "rs_4"} <= found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('folder = root / "output" / "sft_1"', [("sft", False)]),
        ('train(policy="output/rm_2")', [("reward", False)]),
        ("from rlhf import sft as step_1\nstep_1.reuse_or_train(setup)", [("sft", True)]),
        ("import rlhf.reward_model as rm\nrm.reuse_or_train(s)", [("reward", True)]),
        ('from rlhf import sft\nsft.reuse_or_train(s)\nx = "rs_4"', [("sft", True), ("rejection", False)]),
        ('# "sft_1" in a comment, and sft_1 as a name\nsft_1 = 3', []),
        ("from rlhf import lora\nlora.reuse_or_train(s)", []),
    ],
)
def test_planted_readers(source, found):
    assert [(need.stage, need.usual) for need in needs(source, "12_planted")] == found


def test_a_lesson_does_not_need_what_it_makes():
    source = 'a = "sft_1"\nb = "rm_2"'
    assert [need.name for need in needs(source, "04_supervised_fine_tuning")] == ["rm_2"]


@pytest.mark.parametrize("word", ["7", "07", "07_ppo", "notebooks/07_ppo_imdb.ipynb", " 07 "])
def test_a_lesson_by_number_or_name(word):
    assert ready.lesson_named(word) == "07_ppo_imdb"


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("", "Which lesson?"),
        (".", "Which lesson?"),
        ("77", "no lesson '77'"),
        ("0x", "no lesson '0x'"),
        ("PPO", "give the number: 06_ppo_step_by_step, 07_ppo_imdb, 09_beyond_ppo?"),
        ("07 08", "One lesson at a time"),
        ("7,8", "One lesson at a time"),
    ],
)
def test_no_such_lesson_is_said_with_the_ones_there_are(word, answer, capsys):
    assert ready.main([word]) == 2
    said = capsys.readouterr().err
    assert answer in said and re.search("[一-鿿]{3}", said) and "\n  07_ppo_imdb\n" in said
    assert ready.lesson_named("../07") == "07_ppo_imdb"  # a path is taken by its name


def test_models_of_other_settings_are_to_be_built_anew(small, monkeypatch):
    from rlhf import build

    assert ready.base("offline") == ""  # built by nobody: left alone
    plan = build.make_plan("offline", None, None)
    for name in build.MODELS:
        mark = build._fingerprint(name, plan, build._digest_files(plan.data))
        (getattr(plan, name) / "build.json").write_text(json.dumps({"fingerprint": mark}))
    assert ready.base("offline") == ""
    monkeypatch.setenv("RLHF_SEED", "5")
    assert ready.base("offline") == "build"


# ------------------------------------------------------------------------------------------------ making it


def test_everything_is_made_once_and_serves_the_lessons(small, capsys, monkeypatch):
    assert ready.main(["10"]) == 0, capsys.readouterr()
    first = capsys.readouterr().out
    for name in EXPECTED["10"]:
        assert f"→ output/{name}" in first and (small / "output" / name / "config.json").is_file()
    before = {path: path.stat().st_mtime_ns for path in (small / "output").rglob("*") if path.is_file()}
    assert ready.main(["10"]) == 0 and ready.main(["07"]) == 0
    again = capsys.readouterr().out
    assert "→ output" not in again and again.count("✓ output/sft_1") == 2
    assert before == {p: p.stat().st_mtime_ns for p in (small / "output").rglob("*") if p.is_file()}
    # lesson 07 takes both as they are
    setup = profiles.setup("07_ppo_imdb")
    with monkeypatch.context() as patch:
        for module, name in ((sft, "train_sft"), (reward_model, "train")):
            patch.setattr(module, name, lambda *_: pytest.fail("trained again"))
        found = sft.reuse_or_train(setup), reward_model.reuse_or_train(setup)
    assert [folder.name for folder in found] == ["sft_1", "rm_2"]
    # what other settings made is good enough to look at, but not where the usual is asked for
    record = small / "output" / "sft_1" / sft.RECORD
    record.write_text(json.dumps(json.loads(record.read_text()) | {"seed": 5}))
    assert ready.look(Need("sft"), "offline").there
    assert ready.look(Need("sft", usual=True), "offline").other


@pytest.mark.parametrize("profile", ["offline", "imdb", "full"])
def test_the_stage_of_a_lesson_has_the_sizes_that_reuse_or_train_asks_for(profile, home):  # noqa: F811
    for need in (Need("sft"), Need("reward")):
        values = train.plan(need.stage, ["--profile", profile]).values
        setup = profiles.setup(need.lesson, profile, needs=())
        if need.stage == "sft":
            sizes = sft.lesson_sizes(profile)
            assert {
                name: values[name] for name in ("reviews", "max_length", "batch_size", "learning_rate")
            } == {name: sizes[name] for name in ("reviews", "max_length", "batch_size", "learning_rate")}
        else:
            made = reward_model.fingerprint(stages._with_sizes(setup, values))
            assert made == reward_model.fingerprint(setup)


def test_what_is_of_another_profile_is_put_aside(small, capsys):
    folder = small / "output" / "sft_1"
    shutil.copytree(small / "model" / "offline" / "policy", folder)
    assert ready.look(Need("sft"), "offline").there
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["another"] = len(tokenizer["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    state = ready.look(Need("sft"), "offline")
    assert not state.there and "another profile" in state.other[1]
    assert ready.put_aside(folder).name == "sft_1_before" and not folder.exists()
    folder.mkdir()
    assert not ready.look(Need("sft"), "offline").there and ready.look(Need("sft"), "offline").other is None
    (folder / "notes.txt").write_text("mine")
    assert "whole" in ready.look(Need("sft"), "offline").other[1]
    assert ready.put_aside(folder).name == "sft_1_before_2"
    assert (small / "output" / "sft_1_before_2" / "notes.txt").read_text() == "mine"


def test_the_plan_says_what_is_missing_and_makes_nothing(small, capsys):
    assert ready.main(["10", "--plan"]) == 0
    said = capsys.readouterr().out
    assert said.count("to be trained (") == 4 and re.search(r"about \d+\.\d min", said)
    assert "✓ model/offline/policy" in said and not (small / "output").exists()


def test_a_home_without_models_is_built_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    monkeypatch.delenv("RLHF_DATA", raising=False)
    assert ready.main(["07", "--plan"]) == 0
    said = capsys.readouterr().out
    assert "to be built (" in said and said.count("to be trained (") == 2
    assert ready.main(["00", "--plan", "--profile", "full"]) == 0
    assert "to be downloaded" in capsys.readouterr().out
    assert ready.main(["00", "--profile", "nowhere"]) == 2
    done = []
    monkeypatch.setattr("rlhf.build.build", lambda profile, side_by_side: done.append(profile))
    monkeypatch.setattr("rlhf.assets.main", lambda words: done.append(words[1]) or 1)
    ready.make_base("offline", "build")
    assert done == ["offline"]  # the bundled corpus needs no download
    assert ready.base("imdb") == "both"  # its reviews have to be downloaded before
    for profile, how in (("imdb", "both"), ("full", "download")):
        with pytest.raises(errors.MissingAssets, match="not complete"):
            ready.make_base(profile, how)
    assert done == ["offline", "imdb", "full"]


def test_make_ready_without_a_lesson_says_so():
    shown = subprocess.run(["make", "-n", "ready"], cwd=profiles.CHECKOUT, capture_output=True, text=True)
    assert 'rlhf.ready ""' in shown.stdout, shown.stderr
