"""Bases in 8 and 4 bits: what is refused before any work, the bytes, and real ones where bitsandbytes is."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import pytest
import torch
from ppo_tools import llama_tokenizer, rollouts, tiny_lm, tiny_reviews, tiny_trainer
from safetensors.torch import load_file
from torch import nn

from rlhf import merge, pairs, plan, quantize, train
from rlhf.errors import BadRecipe
from rlhf.memory import BadPlan
from rlhf.ppo import AutoModelForCausalLMWithValueHead
from rlhf.stages import _adapter

GOOD = {"quantize": "4bit", "lora_rank": 2, "merge": False, "dtype": "bfloat16"}
WORDS = [word for name, value in GOOD.items() for word in (f"--{name}", str(value).lower())]
WIDE = {  # wide enough to have a scale for every 64 numbers of a row
    "gpt2": {"n_embd": 128, "n_head": 4},
    "opt": {"hidden_size": 128, "ffn_dim": 192, "word_embed_proj_dim": 64},
    "llama": {"hidden_size": 128, "intermediate_size": 320},
}
ASK = plan.Ask("ppo", 2, 8, lora_rank=2, quantize="4bit", rows=4, new_tokens=4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quantize": "3bit"}, "one of none, 8bit, 4bit, not 3bit"),
        ({"lora_rank": 0}, "such as lora_rank: 16"),
        ({"dtype": "float32"}, "goes with dtype: bfloat16"),
        ({"merge": True}, r"merge: false.*rlhf\.merge"),
    ],
)
def test_what_does_not_go_together_is_named(change, said):
    quantize.check(GOOD)
    quantize.check({**GOOD, **change, "quantize": "none"})
    with pytest.raises(BadRecipe, match=said) as caught:
        quantize.check(GOOD | change)
    assert any("\u4e00" <= letter <= "\u9fff" for letter in caught.value.zh)


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_a_missing_package_is_named_before_any_work(stage, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    monkeypatch.delenv("RLHF_PROFILE", raising=False)
    with pytest.raises(quantize.MissingPackage, match="pip install bitsandbytes") as caught:
        train.plan(stage, WORDS)
    assert "没有安装" in caught.value.zh and not any(tmp_path.iterdir())
    train.plan(stage, [])  # nobody else needs it
    with pytest.raises(BadRecipe, match="cannot be shared out with FSDP"):
        quantize.require("4bit", "FSDP")
    values = train.resolve(train.STAGES[stage], train.STAGES[stage].known(), WORDS, "")
    assert plan.Ask.of(stage, values).quantize == "4bit"  # planning needs no bitsandbytes


def test_bits_per_weight_are_those_of_the_papers():
    matrix = [torch.empty(4096, 4096, device="meta")]
    bits = {name: 8 * plan.quantized_bytes(matrix, name) / 4096**2 for name in quantize.FORMATS}
    assert bits["none"] == 32
    assert bits["8bit"] == pytest.approx(8 + 32 / 4096)
    assert bits["4bit"] == pytest.approx(4.127, abs=0.002)  # QLoRA, section 3: 0.127 bits of constants


def test_the_plan_packs_what_is_frozen_beside_an_adapter():
    config = tiny_lm("llama", num_hidden_layers=3).config
    whole, packed = (plan.needs(config, replace(ASK, quantize=name)) for name in ("none", "4bit"))
    per_layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
    codes = 3 * 7 * 4 * (16 + 256 + 1)
    assert whole.rows["weights"] - packed.rows["weights"] == pytest.approx(
        3 * per_layer * 3.484 - codes, rel=0.01
    )
    for name in ("gradients", "optimizer", "reference", "cache"):
        assert whole.rows[name] == packed.rows[name]
    assert packed.rows["temporaries"] == whole.rows["temporaries"] + 4 * 32 * 48  # one matrix at a time
    assert packed.parameters == whole.parameters
    with pytest.raises(BadPlan, match="not shared out"):
        plan.needs(config, ASK, processes=2, zero=3)


# -------------------------------------------------------------------------------- where bitsandbytes is there


def quantised(kind: str, how: str, folder) -> AutoModelForCausalLMWithValueHead:
    tiny_lm(kind, **WIDE[kind]).save_pretrained(folder)
    loading = quantize.loading(how, torch.float32, "cpu")
    return AutoModelForCausalLMWithValueHead.from_pretrained(folder, peft_config=_adapter(2), **loading)


def packed_bytes(weight: nn.Parameter) -> int:
    """A packed matrix and all that belongs to it."""
    state = getattr(weight, "quant_state", None)
    parts = [weight, getattr(weight, "SCB", None)]
    if state is not None:
        parts += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    return sum(part.numel() * part.element_size() for part in parts if part is not None)


@pytest.mark.parametrize("how", ["8bit", "4bit"])
@pytest.mark.parametrize("kind", WIDE)
def test_ppo_on_a_real_quantised_base(kind, how, tmp_path):
    pytest.importorskip("bitsandbytes")
    model = quantised(kind, how, tmp_path)
    config = tiny_lm(kind, **WIDE[kind]).config
    real = sum(packed_bytes(weight) for weight in model.pretrained_model.parameters())
    assert plan.needs(config, replace(ASK, quantize=how)).rows["weights"] == pytest.approx(real, rel=0.002)
    trainer = tiny_trainer(model, learning_rate=1e-2, mini_batch_size=4)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for seed in range(2):
        stats = trainer.step(*rollouts(seed=seed))
    assert abs(stats["objective/kl"]) > 1e-4 and trainer.ref_model is None
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed and all("lora" in name or "v_head" in name for name in changed)
    assert len(trainer.generate(rollouts()[0], max_new_tokens=3, return_prompt=False)) == 8


@pytest.mark.parametrize("how", ["8bit", "4bit"])
def test_every_stage_learns_beside_a_packed_base(how, tmp_path, monkeypatch):
    """Through their commands, and merged into the whole base afterwards."""
    pytest.importorskip("bitsandbytes")
    monkeypatch.delenv("RLHF_PROFILE", raising=False)
    for name, value in {"RLHF_HOME": str(tmp_path), "RLHF_DEVICE": "cpu"}.items():
        monkeypatch.setenv(name, value)
    tokenizer = llama_tokenizer([*tiny_reviews(8), pairs.HUMAN, pairs.ASSISTANT])
    model = tiny_lm("llama", **WIDE["llama"], vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model" / "base")
    rows = [{"question": f"was it {k}", "chosen": f"good {k}", "rejected": f"bad {k}"} for k in range(12)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    common = ["--policy", "base", "--data", "pairs.jsonl", "--batch_size", "2", "--dtype", "bfloat16"]
    common += ["--lora_rank", "2", "--merge", "false", "--quantize", how]
    sizes = ["--max_length", "40", "--epochs", "1"]
    own = {
        "sft": sizes,
        "reward": [*sizes, "--pairs", "8", "--held_out", "4"],
        "ppo": [
            *("--reward_model", "reward", "--steps", "2", "--mini_batch_size", "2", "--log_with", "none"),
            *("--query_tokens", "[2, 40]", "--response_tokens", "[3, 4]", "--learning_rate", "1e-3"),
        ],
    }
    for stage, words in own.items():
        train.run(stage, [*common, *words, "--output", f"{stage}_lora"])
        adapter = load_file(tmp_path / "output" / f"{stage}_lora" / merge.WEIGHTS)
        assert all(w.abs().max() > 0 for name, w in adapter.items() if "lora_B" in name)
        merge.merge(f"{stage}_lora", stage)
        merged = load_file(tmp_path / "output" / stage / "model.safetensors")
        assert all(w.is_floating_point() for w in merged.values())  # whole weights, none of them packed
