"""The reward model: tokens and loss as TRL's, a training that learns, a folder that anybody can load."""

import math

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf import pretrain, reward_model
from rlhf.errors import BadData, BadProfile, CannotWrite, MissingAssets
from rlhf.profiles import Setup
from rlhf.rewards import PairwiseReward, to_tokens

SIZES = {"positions": 32, "width": 32, "layers": 2, "heads": 2}
GOOD, BAD = ("a joy", "great fun", "a delight"), ("a bore", "poor stuff", "a mess")
THINGS = ("The film", "The story", "The cast", "The music", "The end", "The camera", "The script")


def some_pairs(count, seed):
    """``The film of number 7 was a joy`` against ``… a bore``."""
    rng = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        thing, good, bad, number = (int(torch.randint(n, (), generator=rng)) for n in (7, 3, 3, 90))
        opening = f"{THINGS[thing]} of number {number} was "
        rows.append({"chosen": opening + GOOD[good], "rejected": opening + BAD[bad]})
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def splits():
    return {"train": some_pairs(192, 0), "test": some_pairs(64, 1)}


@pytest.fixture(scope="module")
def policy(tmp_path_factory, splits):
    folder = tmp_path_factory.mktemp("models") / "policy"
    texts = splits["train"]["chosen"][:] + splits["train"]["rejected"][:]
    tokenizer = pretrain.policy_tokenizer(texts, 340, SIZES["positions"])
    torch.manual_seed(0)
    pretrain.new_policy(SIZES, len(tokenizer), tokenizer.eos_token_id).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def a_setup(policy, monkeypatch, tmp_path):
    """A lesson's setup with tiny sizes, whose output goes to ``tmp_path``."""
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    sizes = {
        "pairs": 10,
        "held_out": 4,
        "tokens": [6, 10],
        "reward": {
            "per_device_train_batch_size": 16,
            "num_train_epochs": 3,
            "learning_rate": 5e-3,
            "center_rewards_coefficient": 0.01,
            "disable_tqdm": True,
        },
    }
    monkeypatch.setattr(reward_model, "sizes", lambda setup: sizes)
    return Setup(
        profile="offline",
        lesson="05_reward_modelling",
        policy=policy,
        reward_model=policy,
        dataset=tmp_path / "reviews",
        prompts={},
        response={},
        evaluation={},
        ppo={},
        device="cpu",
        seed=0,
        prepare="",
    )


@pytest.fixture
def setup(policy, monkeypatch, tmp_path):
    return a_setup(policy, monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def trained(policy, splits, tmp_path_factory):
    """One trained reward model for the tests that only look at it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        home = tmp_path_factory.mktemp("home")
        return reward_model.train(a_setup(policy, monkeypatch, home), splits)


def test_tokens_are_those_that_trl_makes(setup, splits, policy, tmp_path):
    from trl import RewardConfig, RewardTrainer

    tokenizer = reward_model.load_tokenizer(policy)
    args = RewardConfig(str(tmp_path), bf16=False, use_cpu=True, report_to="none", max_length=32)
    raw = splits["test"].select(range(20))
    model = reward_model.new_model(policy, tokenizer)
    theirs = RewardTrainer(model=model, args=args, train_dataset=raw, processing_class=tokenizer)
    ours = reward_model.tokenise(raw, tokenizer, 32)
    for name in ("chosen_ids", "rejected_ids"):
        assert [list(ids) for ids in theirs.train_dataset[name]] == [list(ids) for ids in ours[name]]


def test_long_texts_keep_their_end(policy):
    tokenizer = reward_model.load_tokenizer(policy)
    text = " ".join(f"number {i}" for i in range(40)) + " was a joy"
    whole, cut = to_tokens(tokenizer, [text], 1000)[0], to_tokens(tokenizer, [text], 12)[0]
    assert len(cut) == 12 and cut == whole[-12:] and cut[-1] == tokenizer.eos_token_id
    assert tokenizer.truncation_side == "right"  # left as it was found
    assert to_tokens(tokenizer, ["a" + tokenizer.eos_token], 12) == to_tokens(tokenizer, ["a"], 12)


def test_the_loss_is_minus_log_sigmoid_of_the_difference(setup, splits, policy):
    tokenizer = reward_model.load_tokenizer(policy)
    trainer = reward_model.new_trainer(setup, splits, tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[0] == 32  # 16 chosen, then 16 rejected
    trainer.model.eval()
    with torch.no_grad():
        scores = trainer.model(**batch).logits[:, 0]
        loss = trainer.compute_loss(trainer.model, dict(batch))
    chosen, rejected = scores[:16], scores[16:]
    by_hand = -F.logsigmoid(chosen - rejected).mean() + 0.01 * ((chosen + rejected) ** 2).mean()
    torch.testing.assert_close(loss, by_hand, rtol=0, atol=1e-5)
    assert abs(float(loss) - math.log(2)) < 0.05  # almost undecided at the start


def test_training_learns_and_the_folder_loads_anywhere(trained, splits):
    model = AutoModelForSequenceClassification.from_pretrained(trained)
    tokenizer = AutoTokenizer.from_pretrained(trained)
    assert model.config.num_labels == 1 and model.config.pad_token_id == tokenizer.pad_token_id is not None
    assert (trained / "model.safetensors").is_file()
    reward = PairwiseReward(trained)
    test = splits["test"]
    chosen, rejected = reward(test["chosen"][:]), reward(test["rejected"][:])
    assert chosen.shape == (64,) and chosen.dtype == torch.float32
    assert (chosen > rejected).float().mean() > 0.95
    batch = tokenizer(
        [text + tokenizer.eos_token for text in test["chosen"]], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits[:, 0], chosen, rtol=1e-4, atol=1e-5)


def test_scores_do_not_depend_on_neighbours_or_padding(trained):
    reward, texts = PairwiseReward(trained), ["The film was a joy", "The film " * 9 + "was a bore", "A joy"]
    together = reward(texts)
    alone = torch.cat([reward([text]) for text in texts])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(PairwiseReward(trained, batch_size=2)(texts), together, rtol=1e-4, atol=1e-5)
    assert PairwiseReward(trained)(["word " * 500 + "a joy"]).isfinite().all()  # longer than the model


def test_the_record_says_how_it_was_made(trained):
    record = reward_model._record(trained)
    assert record["pairs"] == 192 and record["steps"] == 36 and record["held_out"]["eval_accuracy"] > 0.95


def test_same_seed_same_scores(setup, splits, trained, tmp_path):
    again = reward_model.train(setup, splits, tmp_path / "again")
    texts = splits["test"]["chosen"][:8]
    torch.testing.assert_close(PairwiseReward(again)(texts), PairwiseReward(trained)(texts))


def test_an_existing_model_is_used_again_until_something_changes(setup, splits, monkeypatch):
    setup.dataset.mkdir()
    calls = []

    def train(setup, splits=None, folder=None):
        calls.append(1)
        return original(setup, some, folder)

    original, some = reward_model.train, {"train": splits["train"].select(range(16))}
    monkeypatch.setattr(reward_model, "train", train)
    folder = reward_model.reuse_or_train(setup)
    assert folder.name == "rm_2" and reward_model.reuse_or_train(setup) == folder and len(calls) == 1
    (setup.dataset / "more.parquet").write_bytes(b"x")
    reward_model.reuse_or_train(setup)
    assert len(calls) == 2


def test_a_failed_save_leaves_the_old_folder(setup, splits, tmp_path, monkeypatch):
    folder = tmp_path / "rm_2"
    folder.mkdir()
    (folder / "old").write_text("kept")
    tokenizer = reward_model.load_tokenizer(setup.policy)
    trainer = reward_model.new_trainer(setup, {"train": splits["train"]}, tokenizer)

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer.processing_class, "save_pretrained", no_space)
    with pytest.raises(CannotWrite, match="No space left"):
        reward_model.save(setup, trainer, splits | {"test": splits["test"]}, folder)
    assert [file.name for file in folder.iterdir()] == ["old"]
    assert not list(tmp_path.glob(".rm_2*"))


def test_a_dialogue_model_refuses_texts_without_its_template(setup, splits, tmp_path):
    talks = (
        splits["train"]
        .select(range(16))
        .map(
            lambda row: {
                name: f"\n\nHuman: Well?\n\nAssistant: {row[name]}" for name in ("chosen", "rejected")
            }
        )
    )
    folder = reward_model.train(setup, {"train": talks}, tmp_path / "talks")
    reward = PairwiseReward(folder)
    assert reward([talks[0]["chosen"]]).shape == (1,)
    with pytest.raises(BadData, match="another template"):
        reward([talks[0]["chosen"], "The film was a joy"])


def test_bad_folders_and_texts_are_named(trained, policy, tmp_path):
    with pytest.raises(MissingAssets, match="lesson 05"):
        PairwiseReward(tmp_path / "nothing")
    tokenizer = reward_model.load_tokenizer(policy)
    for labels, pad in ((2, 0), (1, None)):
        model = reward_model.new_model(policy, tokenizer, labels=labels)
        model.config.pad_token_id = pad
        model.save_pretrained(tmp_path / f"{labels}")
        tokenizer.save_pretrained(tmp_path / f"{labels}")
        with pytest.raises(BadData, match="no pairwise reward model"):
            PairwiseReward(tmp_path / f"{labels}")
    for texts in ([], [1, 2]):
        with pytest.raises(BadData, match="list of texts"):
            PairwiseReward(trained)(texts)


def test_a_new_head_is_repeatable_and_leaves_the_random_state_alone(policy):
    tokenizer = reward_model.load_tokenizer(policy)
    state = torch.random.get_rng_state()
    heads = [reward_model.new_model(policy, tokenizer, seed).score.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_profile_without_sizes_is_named(monkeypatch):
    fields = {"lessons": {reward_model.KEY: {"pairs": 3}}}
    monkeypatch.setattr(reward_model.profiles, "read", lambda name: fields)
    with pytest.raises(BadProfile, match="held_out, reward, tokens"):
        reward_model.sizes(type("S", (), {"profile": "offline", "lesson": "07_ppo_imdb"}))


def test_every_profile_has_sizes():
    from rlhf import profiles

    for name in profiles.names():
        found = reward_model.sizes(type("S", (), {"profile": name, "lesson": "07_ppo_imdb"}))
        assert found["pairs"] >= 1000 and found["reward"]["learning_rate"] > 0
