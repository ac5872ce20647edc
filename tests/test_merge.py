"""Adapters merged into their base: the same logits, whole folders, and nothing random left inside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from ppo_tools import TEXT, tiny_lm, tiny_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf import merge
from rlhf.errors import CannotWrite, MissingAssets
from rlhf.lora import BadAdapter

SHAPES = ("gpt2", "opt", "llama", "qwen2")
IDS = torch.arange(12).reshape(2, 6)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_base(folder: Path, kind: str = "llama", **changes) -> Path:
    tiny_lm(kind, **changes).save_pretrained(folder)
    tiny_tokenizer([TEXT]).save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path, task: str = "CAUSAL_LM", **settings) -> torch.Tensor:
    """An adapter that has learnt something, and the logits of base and adapter."""
    if task == "SEQ_CLS":
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=59)
    else:
        model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=8, task_type=task, **{"target_modules": "all-linear"} | settings)
    model = get_peft_model(model, config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    with torch.no_grad():
        return model(input_ids=IDS).logits


def logits(folder: Path, auto=AutoModelForCausalLM) -> torch.Tensor:
    with torch.no_grad():
        return auto.from_pretrained(folder).eval()(input_ids=IDS).logits


def run(*words: str, code: int = 0, capsys=None) -> str:
    assert merge.main([str(word) for word in words]) == code
    if capsys is None:
        return ""
    shown = capsys.readouterr()
    return shown.err if code else shown.out


@pytest.mark.parametrize("kind", SHAPES)
def test_merged_gives_the_logits_of_base_and_adapter(kind, home, capsys):
    base = save_base(home / "model" / "tiny", kind)
    wanted = save_adapter(home / "adapter", base)
    shown = run(home / "adapter", "--output", "merged", capsys=capsys)
    folder = home / "output" / "merged"
    torch.testing.assert_close(logits(folder), wanted, atol=1e-4, rtol=1e-4)
    assert (logits(base) - wanted).abs().max() > 0.1  # the adapter does something
    assert "moves logits by up to" in shown and "differ by at most" in shown
    assert "model/tiny + adapter → output/merged" in shown
    assert len(AutoTokenizer.from_pretrained(folder)) == len(tiny_tokenizer([TEXT]))
    assert not list(folder.glob("adapter*")) and not list(folder.parent.glob(".*"))


@pytest.mark.parametrize("kind", SHAPES)
def test_a_reward_model_keeps_its_score_head(kind, home):
    base = save_base(home / "model" / "tiny", kind)
    wanted = save_adapter(home / "rm", base, "SEQ_CLS")
    (home / "rm" / "reward_model.json").write_text(json.dumps({"texts_begin_with": "\n\nHuman:"}))
    run(home / "rm", "--output", "rm_2")
    folder = home / "output" / "rm_2"
    torch.testing.assert_close(
        logits(folder, AutoModelForSequenceClassification), wanted, atol=1e-4, rtol=1e-4
    )
    config = json.loads((folder / "config.json").read_text())
    assert config["texts_begin_with"] == "\n\nHuman:" and config["pad_token_id"] == 59
    saved = load_file(folder / "model.safetensors")["score.weight"]
    learnt = next(v for k, v in load_file(home / "rm" / merge.WEIGHTS).items() if k.endswith("score.weight"))
    assert torch.equal(saved, learnt) and len(saved) == 1


def test_a_random_score_head_is_refused_and_one_in_the_base_is_used(home):
    base = save_base(home / "model" / "tiny")
    save_adapter(home / "rm", base, "SEQ_CLS")
    tensors = load_file(home / "rm" / merge.WEIGHTS)
    save_file({k: v for k, v in tensors.items() if "score" not in k}, home / "rm" / merge.WEIGHTS)
    with pytest.raises(BadAdapter, match=r"score\.weight would be random"):
        merge.merge(home / "rm", "out")
    assert not (home / "output" / "out").exists()


def test_a_head_that_learnt_beside_a_tied_embedding_is_not_lost(home):
    base = save_base(home / "model" / "tiny", "gpt2")
    wanted = save_adapter(home / "adapter", base, target_modules=["c_attn"], modules_to_save=["lm_head"])
    made = merge.merge(home / "adapter", "out")
    torch.testing.assert_close(logits(made.folder), wanted, atol=1e-4, rtol=1e-4)


def test_half_precision_is_merged_in_float32_and_stored_as_the_base_was(home, capsys):
    base = save_base(home / "model" / "tiny", initializer_range=0.05)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    save_adapter(home / "adapter", base)
    shown = run(home / "adapter", "--output", "half", capsys=capsys)
    folder = home / "output" / "half"
    assert "rounding the merged weights to bfloat16 moves logits" in shown
    half = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in half.values()} == {torch.bfloat16}
    exact = merge.merge(home / "adapter", "exact", dtype="float32")
    assert exact.rounding == 0 and exact.dtype == "float32"
    whole = load_file(exact.folder / "model.safetensors")
    assert all(torch.equal(half[name], whole[name].bfloat16()) for name in whole)  # rounded once, at the end


def test_dora_and_a_value_head_come_along(home):
    base = save_base(home / "model" / "tiny")
    wanted = save_adapter(home / "output" / "ppo_lora", base, use_dora=True)
    (home / "output" / "ppo_lora" / "v_head.safetensors").write_bytes(b"head")
    made = merge.merge("ppo_lora", home / "elsewhere" / "merged", base="tiny")
    torch.testing.assert_close(logits(made.folder), wanted, atol=1e-4, rtol=1e-4)
    assert (made.folder / "v_head.safetensors").read_bytes() == b"head"


def test_a_result_that_differs_is_not_written(home, monkeypatch):
    base = save_base(home / "model" / "tiny")
    save_adapter(home / "adapter", base)
    monkeypatch.setattr(merge, "TOLERANCE", 1e-12)
    with pytest.raises(BadAdapter, match=r"merged model and of base with adapter.*nothing was written"):
        merge.merge(home / "adapter", "out")
    monkeypatch.undo()
    monkeypatch.setenv("RLHF_HOME", str(home))
    monkeypatch.setattr(merge, "_untie_if_changed", lambda model: model.lm_head.weight.data.zero_())
    with pytest.raises(BadAdapter, match="merged model"):
        merge.merge(home / "adapter", "out")
    assert not list(home.glob("output/*"))


def test_what_is_there_is_replaced_only_when_asked(home, capsys):
    base = save_base(home / "model" / "tiny")
    save_adapter(home / "adapter", base)
    run(home / "adapter", "--output", "merged")
    assert "--again" in run(home / "adapter", "--output", "merged", code=2, capsys=capsys)
    run(home / "adapter", "--output", "merged", "--again")
    mine = home / "output" / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    refused = run(home / "adapter", "--output", "mine", "--again", code=2, capsys=capsys)
    assert "left alone" in refused and (mine / "thesis.txt").is_file()
    with pytest.raises(CannotWrite, match="where the adapter is"):
        merge.merge(home / "adapter", home / "adapter", again=True)
    assert (home / "adapter" / merge.WEIGHTS).is_file()


def test_what_is_no_lora_adapter_is_refused(home, capsys):
    base = save_base(home / "model" / "tiny")
    assert "a whole model" in run(base, "--output", "out", code=2, capsys=capsys)
    assert "There is no adapter nowhere" in run("nowhere", "--output", "out", code=2, capsys=capsys)
    (home / "empty").mkdir()
    assert "which PEFT writes" in run(home / "empty", "--output", "out", code=2, capsys=capsys)
    other = get_peft_model(tiny_lm("llama"), IA3Config(task_type="CAUSAL_LM"))
    other.save_pretrained(home / "ia3")
    assert "is a IA3 adapter" in run(home / "ia3", "--output", "out", code=2, capsys=capsys)
    save_adapter(home / "adapter", base)
    (home / "adapter" / merge.WEIGHTS).write_bytes(b"half a file")
    assert "damaged" in run(home / "adapter", "--output", "out", code=2, capsys=capsys)
    (home / "adapter" / merge.WEIGHTS).unlink()
    assert "no adapter_model.safetensors" in run(home / "adapter", "--output", "out", code=2, capsys=capsys)
    (home / "adapter" / merge.CONFIG).write_text("{")
    assert "cannot be read" in run(home / "adapter", "--output", "out", code=2, capsys=capsys)
    assert "--output" in run(home / "adapter", code=2, capsys=capsys)
    assert not (home / "output").exists()


def test_an_adapter_of_another_model_is_refused(home):
    save_adapter(home / "adapter", save_base(home / "model" / "tiny"))
    for name, changes in {"flatter": {"num_hidden_layers": 1}, "wider": {"intermediate_size": 64}}.items():
        save_base(home / "model" / name, **changes)
        with pytest.raises(BadAdapter, match="does not fit the base"):
            merge.merge(home / "adapter", "out", base=name)


BASES = {
    "meta-llama/Llama-2-7b-hf": r"\./download\.sh --only Llama-2-7b-hf \(gated",
    "somewhere/model/opt-350m": r"\./download\.sh --only opt-350m$",
    "output/sft_1": r"python -m rlhf\.train sft --config recipes/sft\.yaml",
    "mistralai/Mistral-7B-v0.1": r"hf download mistralai/Mistral-7B-v0\.1 --local-dir model/Mistral-7B-v0\.1",
    None: "--base",
}


@pytest.mark.parametrize("name", BASES)
def test_a_missing_base_names_the_command_that_gets_it(name, home):
    with pytest.raises(MissingAssets, match=BASES[name]):
        merge.find_base(name, Path("adapter"))


def test_a_base_that_is_an_adapter_or_has_no_tokenizer(home):
    base = save_base(home / "model" / "tiny")
    save_adapter(home / "output" / "first", base)
    with pytest.raises(MissingAssets, match=r"rlhf\.merge first"):
        merge.find_base("first", Path("second"))
    for file in base.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(MissingAssets, match="tokenizer"):
        merge.merge("first", "out", base=str(base))
    shutil.rmtree(base)
    with pytest.raises(MissingAssets, match="tiny"):
        merge.merge("first", "out")


def test_tokens_that_were_added_come_along(home):
    """The adapter then has an embedding and a head of its own, with more rows than the base's."""
    base = save_base(home / "model" / "tiny")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(64)
    settings = {
        "use_rslora": True,
        "rank_pattern": {"q_proj": 3},
        "modules_to_save": ["embed_tokens", "lm_head"],
    }
    config = LoraConfig(
        r=2, lora_alpha=8, task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"], **settings
    )
    model = get_peft_model(model, config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(0, 0.3)
        wanted = model(input_ids=IDS + 4).logits
    model.save_pretrained(home / "adapter")
    merge.merge(home / "adapter", "out", str(base))
    merged = AutoModelForCausalLM.from_pretrained(home / "output" / "out").eval()
    assert merged.config.vocab_size == 64
    torch.testing.assert_close(merged(input_ids=IDS + 4).logits.detach(), wanted, atol=1e-4, rtol=1e-4)


def test_damaged_files_of_the_base_are_named_and_nothing_is_written(home, capsys):
    base = save_base(home / "model" / "tiny")
    save_adapter(home / "adapter", base)
    words = [home / "adapter", "--base", base, "--output", "out"]
    kept = {
        name: (base / name).read_bytes() for name in ("config.json", "model.safetensors", "tokenizer.json")
    }
    for name in kept:
        for content in (b"{", b'{"model_type": "no such thing"}'):
            (base / name).write_bytes(content)
            assert "cannot be read" in run(*words, code=2, capsys=capsys)
        (base / name).write_bytes(kept[name])
    settings = json.loads((home / "adapter" / merge.CONFIG).read_text())
    del settings["base_model_name_or_path"]
    (home / "adapter" / merge.CONFIG).write_text(json.dumps(settings))
    assert "--base" in run(home / "adapter", "--output", "out", code=2, capsys=capsys)
    assert not (home / "output").exists()
