"""Step 1: what goes into TRL's trainer, what its loss is, and what comes out as a folder."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig
from ppo_tools import tiny_lm, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf import profiles, sft
from rlhf.errors import BadData, BadProfile, CannotWrite

SIZES = {"reviews": 24, "max_length": 16, "batch_size": 4, "learning_rate": 5e-3}
GOOD, BAD = "this film was a joy and I loved every scene", "this film was a bore and I left after one scene"


def review(place: int) -> str:
    return f"{(BAD, GOOD)[place % 2]} of part {place}" + ", really" * (place % 5) + "."


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A policy whose build read the first 20 of 100 reviews, and the reviews (odd ones positive)."""
    folder = tmp_path_factory.mktemp("world")
    for split, rows in (("train", range(100)), ("test", range(100, 140))):
        texts = [review(place) for place in rows]
        (folder / "reviews").mkdir(exist_ok=True)
        data = Dataset.from_dict({"text": texts, "label": [place % 2 for place in rows]})
        data.to_parquet(folder / "reviews" / f"{split}-00000-of-00001.parquet")
    tokenizer = tiny_tokenizer([review(place) for place in range(40)])
    end = tokenizer.eos_token_id
    sizes = {"vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end, "pad_token_id": None}
    tiny_lm(**sizes, initializer_range=0.05).save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    (folder / "policy" / "build.json").write_text(json.dumps({"sizes": {"reviews": 20}}))
    return folder


@pytest.fixture
def setup(world, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    return profiles.Setup(
        profile="offline",
        lesson=sft.LESSON,
        policy=world / "policy",
        reward_model=world / "policy",
        dataset=world / "reviews",
        prompts={},
        response={},
        evaluation={},
        ppo={},
        device="cpu",
        seed=3,
        prepare="",
    )


def trainer_of(setup, rows, folder, lora=None, **changes):
    model, tokenizer = sft.load_policy(setup.policy)
    config = sft.make_config(folder, SIZES, seed=setup.seed, report_to="none", disable_tqdm=True, **changes)
    return sft.make_trainer(model, tokenizer, rows, config, peft_config=lora)


def batch_of(trainer):
    return trainer.data_collator([trainer.train_dataset[row] for row in range(len(trainer.train_dataset))])


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).transformer.h[0].mlp.c_fc.weight


# ---- data


def test_padding_is_found_by_its_place():
    ids, labels = sft.pad_rows([[5, 0], [7, 0, 8, 0]], pad_token_id=0)
    assert ids.tolist() == [[5, 0, 0, 0], [7, 0, 8, 0]]
    assert labels.tolist() == [[5, 0, -100, -100], [7, 0, 8, 0]]


def test_demonstrations_are_new_to_the_policy_and_of_the_right_kind(setup):
    numbers = {}
    for which in sft.WHICH:
        texts = sft.demonstrations(setup, which)["text"]
        numbers[which] = [int(text.split("part ")[1].split(",")[0].rstrip(".")) for text in texts]
    assert sorted(numbers["everything"]) == list(range(20, 100)) != numbers["everything"]
    assert all(number % 2 for number in numbers["positive"]) and len(numbers["positive"]) == 40
    assert not any(number % 2 for number in numbers["negative"])
    assert (
        sft.demonstrations(setup, "positive", 5)["text"] == sft.demonstrations(setup, "positive")["text"][:5]
    )
    held_out = sft.held_out_reviews(setup, "positive", 20)
    assert not set(held_out) & set(sft.demonstrations(setup, "everything")["text"])


def test_what_a_policy_has_read(setup, tmp_path):
    assert sft.reviews_read(setup.policy, 100) == 20 and sft.reviews_read(setup.policy, 10) == 10
    assert sft.reviews_read(tmp_path, 100) is None
    (tmp_path / "build.json").write_text('{"sizes": {"steps": 3}}')
    assert sft.reviews_read(tmp_path, 100) == 100
    unknown = dataclasses.replace(setup, policy=tmp_path)  # it may have read all: then all are used
    assert len(sft.demonstrations(unknown, "everything")) == 100


@pytest.mark.parametrize(
    ("which", "n", "said"), [("nice", 1, "there are: everything"), ("positive", 41, "there are 40")]
)
def test_impossible_wishes_are_explained(setup, which, n, said):
    with pytest.raises(BadData, match=said):
        sft.demonstrations(setup, which, n)


def test_every_profile_has_the_sizes(monkeypatch):
    for name in profiles.names():
        assert set(SIZES) <= set(sft.lesson_sizes(name))
    monkeypatch.setattr(profiles, "read", lambda name: {"name": "bare"})
    with pytest.raises(BadProfile, match="bare"):
        sft.lesson_sizes("bare")


# ---- the batch and the loss


def test_the_batch_is_the_one_made_by_hand(setup, tmp_path):
    rows = sft.demonstrations(setup, "positive", 6)
    trainer = trainer_of(setup, rows, tmp_path)
    batch, tokenizer = batch_of(trainer), trainer.processing_class
    ids = [tokenizer.encode(text + tokenizer.eos_token)[: SIZES["max_length"]] for text in rows["text"]]
    assert any(row[-1] == tokenizer.eos_token_id for row in ids) or max(map(len, ids)) == SIZES["max_length"]
    for mine, theirs in zip(
        sft.pad_rows(ids, tokenizer.pad_token_id), (batch["input_ids"], batch["labels"]), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_the_loss_is_the_trainers(setup, tmp_path):
    rows = Dataset.from_dict({"text": ["a film", "this film was a joy", "I left"]})
    trainer = trainer_of(setup, rows, tmp_path)
    batch, model = batch_of(trainer), trainer.model.eval()
    losses = sft.token_losses(model, trainer.processing_class, list(rows["text"]), SIZES["max_length"])
    assert [len(x) for x in losses] == ((batch["labels"] != -100).sum(1) - 1).tolist()
    with torch.no_grad():
        theirs = trainer.compute_loss(model, dict(batch))
    torch.testing.assert_close(torch.cat(losses).mean(), theirs, atol=1e-5, rtol=0)
    assert sft.perplexity(losses) == pytest.approx(math.exp(theirs.item()), rel=1e-5)


def test_token_losses_do_not_depend_on_the_batch(setup):
    model, tokenizer = sft.load_policy(setup.policy)
    model.train()
    texts = [GOOD, "a", BAD + BAD, "film"]
    together = sft.token_losses(model, tokenizer, texts, 30)
    assert model.training
    for text, loss in zip(texts, together, strict=True):
        ids = torch.tensor([tokenizer.encode(text + tokenizer.eos_token)[:30]])
        alone = F.cross_entropy(model.eval()(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        torch.testing.assert_close(loss, alone.detach(), atol=1e-5, rtol=0)
    for wrong in (([], 30), (texts, 1)):
        with pytest.raises(BadData):
            sft.token_losses(model, tokenizer, *wrong)


def test_perplexity_averages_over_tokens_not_texts():
    assert sft.perplexity([torch.tensor([4.0]), torch.ones(9)]) == pytest.approx(math.exp(1.3))


def test_a_prompt_carries_no_loss(setup, tmp_path):
    rows = Dataset.from_dict(
        {"prompt": ["this film was", "I left"], "completion": [" a joy", " after one scene"]}
    )
    trainer = trainer_of(setup, rows, tmp_path)
    tokenizer, labels = trainer.processing_class, batch_of(trainer)["labels"]
    for row, its in zip(rows, labels, strict=True):
        want = tokenizer.encode(row["completion"] + tokenizer.eos_token)
        assert its[its != -100].tolist() == want and its[0] == -100


def test_preparing_leaves_the_tokenizer_as_it_was(setup, tmp_path):
    _, tokenizer = sft.load_policy(setup.policy)
    limit = tokenizer.model_max_length
    trainer = trainer_of(setup, sft.demonstrations(setup, "positive", 2), tmp_path)
    assert trainer.processing_class.model_max_length == limit


@pytest.mark.parametrize(
    "columns",
    [
        {"text": []},
        {"review": ["a"]},
        {"prompt": ["a"]},
        {"text": ["a", ""]},
        {"prompt": ["a"], "completion": [None]},
    ],
)
def test_rows_that_cannot_be_trained_on(setup, tmp_path, columns):
    with pytest.raises(BadData):
        trainer_of(setup, Dataset.from_dict(columns), tmp_path)


# ---- training and saving


def test_training_makes_a_plain_folder_and_learns(setup):
    folder = sft.train_sft(setup, SIZES)
    assert folder == profiles.root() / "output" / "sft_1"
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", sft.RECORD} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert list((setup.output / "sft_1").rglob("events.out.tfevents.*"))
    before, tokenizer = sft.load_policy(setup.policy)
    after, again = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert again.encode(GOOD) == tokenizer.encode(GOOD)
    held_out = sft.held_out_reviews(setup, "positive", 10)
    old, new = (sft.perplexity(sft.token_losses(m, tokenizer, held_out, 16)) for m in (before, after))
    assert new < 0.8 * old
    record = json.loads((folder / sft.RECORD).read_text())
    assert record["which"] == "positive" and record["steps"] == 6 and record["history"]


def test_the_seed_decides(setup, tmp_path):
    first, second = (weights(sft.train_sft(setup, SIZES, folder=tmp_path / name)) for name in "ab")
    other = weights(sft.train_sft(dataclasses.replace(setup, seed=4), SIZES, folder=tmp_path / "c"))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_a_result_made_alike_is_reused(setup, monkeypatch):
    monkeypatch.setattr(sft, "lesson_sizes", lambda profile: SIZES)
    folder = sft.reuse_or_train(setup)
    stamp = (folder / sft.RECORD).stat().st_mtime_ns
    assert sft.reuse_or_train(setup) == folder and (folder / sft.RECORD).stat().st_mtime_ns == stamp
    old = weights(folder).clone()
    assert sft.reuse_or_train(dataclasses.replace(setup, seed=4)) == folder
    assert (folder / sft.RECORD).stat().st_mtime_ns != stamp and not torch.equal(weights(folder), old)


def test_an_adapter_trains_alone_and_is_saved_merged(setup, tmp_path):
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=True)
    rows = sft.demonstrations(setup, "positive", 8)
    trainer = trainer_of(setup, rows, tmp_path / "logs", lora, learning_rate=0.05)
    trainable = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)
    trainer.train()
    tokenizer, texts = trainer.processing_class, list(rows["text"])
    adapted = sft.token_losses(trainer.model, tokenizer, texts, 16)
    folder = sft.save(trainer, tmp_path / "merged")
    assert not list(folder.glob("adapter*"))
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert not torch.equal(weights(folder), weights(setup.policy))
    same = sft.token_losses(plain, tokenizer, texts, 16)
    torch.testing.assert_close(torch.cat(adapted), torch.cat(same), atol=1e-4, rtol=1e-4)


def test_a_failed_save_leaves_the_old_result(setup, tmp_path, monkeypatch):
    folder = tmp_path / "kept"
    trainer = trainer_of(setup, sft.demonstrations(setup, "positive", 4), tmp_path / "logs")
    sft.save(trainer, folder, which="first")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer.processing_class, "save_pretrained", full)
    with pytest.raises(CannotWrite, match="No space left"):
        sft.save(trainer, folder, which="second")
    assert json.loads((folder / sft.RECORD).read_text())["which"] == "first"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
