"""LoRA of lesson 03 against PEFT: outputs, gradients, merging; who learns; saving; clear errors."""

import copy
import re

import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from ppo_tools import VOCABULARY, tiny_lm
from torch import nn
from torch.testing import assert_close
from transformers import GPT2LMHeadModel

from rlhf import lora
from rlhf.errors import CannotWrite, MissingAssets
from rlhf.gpt import GPT, GPTConfig, next_token_loss
from rlhf.lora import BadAdapter, LoRALinear
from rlhf.ppo.value_head import ValueHead

CONFIG = GPTConfig(
    vocab_size=VOCABULARY, n_positions=32, n_embd=24, n_layer=2, n_head=2,
    embd_pdrop=0, attn_pdrop=0, resid_pdrop=0, initializer_range=0.3, eos_token_id=None,
)  # fmt: skip
IDS = torch.randint(0, VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(0))
ATTENTION = ["*.attention.qkv", "*.attention.out"]
ALL = ["*.qkv", "*.out", "*.up", "*.down"]


def gpt(seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return GPT(CONFIG).eval()


def adapted(patterns=ATTENTION, rank: int = 3, seed: int = 1, **settings) -> GPT:
    """A GPT whose adapters have learnt something: B is no longer 0."""
    model = gpt()
    lora.inject(model, patterns, rank, **settings)
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in lora.adapters(model).values():
            layer.lora_B.normal_(std=0.1)
    return model


class Critic(nn.Module):
    """A GPT with a value head that no checkpoint knows."""

    def __init__(self):
        super().__init__()
        self.gpt, self.v_head = gpt(), ValueHead(CONFIG.n_embd)

    def forward(self, ids):
        hidden = self.gpt.decoder(ids, torch.ones_like(ids))
        return self.gpt.head(hidden), self.v_head(hidden)


# ------------------------------------------ against PEFT


def copy_into_peft(model: GPT, theirs: nn.Module, rename=lambda name: name) -> None:
    modules = dict(theirs.named_modules())
    with torch.no_grad():
        for name, layer in lora.adapters(model).items():
            module = modules[rename(name)]
            module.lora_A["default"].weight.copy_(layer.lora_A)
            module.lora_B["default"].weight.copy_(layer.lora_B)


@pytest.mark.parametrize(("rank", "alpha"), [(1, 1), (3, 6), (8, 32)])
def test_outputs_and_gradients_are_those_of_peft(rank, alpha):
    model = adapted(ALL, rank, alpha=alpha)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=["qkv", "out", "up", "down"], lora_dropout=0.0
    )
    theirs = inject_adapter_in_model(config, gpt())
    copy_into_peft(model, theirs)
    assert_close(model(IDS), theirs(IDS), atol=1e-5, rtol=1e-5)
    for each in (model, theirs):
        next_token_loss(each(IDS), IDS).backward()
    modules = dict(theirs.named_modules())
    for name, layer in lora.adapters(model).items():
        assert_close(layer.lora_A.grad, modules[name].lora_A["default"].weight.grad, atol=1e-6, rtol=1e-4)
        assert_close(layer.lora_B.grad, modules[name].lora_B["default"].weight.grad, atol=1e-6, rtol=1e-4)
    learns = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    assert lora.count(model).trainable == learns


def test_it_equals_peft_on_the_conv1d_of_transformers(tmp_path):
    theirs = tiny_lm("gpt2")
    theirs.save_pretrained(tmp_path)
    model = GPT.from_pretrained(tmp_path)
    lora.inject(model, ATTENTION, 4, alpha=8)
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in lora.adapters(model).values():
            layer.lora_B.normal_(std=0.1)
    names = {"attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj"}
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=r".*attn\.c_(attn|proj)", fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    wrapped = get_peft_model(theirs, config)

    def rename(name: str) -> str:
        layer, part = name.removeprefix("decoder.blocks.").split(".", 1)
        return f"base_model.model.transformer.h.{layer}.{names[part]}"

    copy_into_peft(model, wrapped, rename)
    assert_close(model(IDS), wrapped(IDS).logits, atol=1e-5, rtol=1e-5)
    merged = wrapped.merge_and_unload()
    lora.merge(model)
    assert_close(model(IDS), merged(IDS).logits, atol=1e-5, rtol=1e-5)


def test_adapters_start_as_those_of_peft_do():
    torch.manual_seed(0)
    mine = LoRALinear(nn.Linear(400, 300), 16, 32)
    theirs = inject_adapter_in_model(
        LoraConfig(r=16, target_modules=["0"]), nn.Sequential(nn.Linear(400, 300))
    )[0]
    other = theirs.lora_A["default"].weight
    assert mine.lora_A.shape == other.shape and not mine.lora_B.any()
    assert mine.lora_A.std().item() == pytest.approx(other.std().item(), rel=0.05)
    assert mine.lora_A.abs().max().item() == pytest.approx(other.abs().max().item(), rel=0.02)


# ------------------------------------------ what changes, who learns


def test_a_new_adapter_changes_nothing():
    model = gpt()
    before = model(IDS)
    lora.inject(model, ALL, 4)
    assert torch.equal(model(IDS), before)


def test_only_adapters_learn():
    model = adapted(ALL)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learns == set(lora.adapter_state(model)) and len(learns) == 2 * 4 * CONFIG.n_layer
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    next_token_loss(model(IDS), IDS).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == learns
    start = copy.deepcopy(lora.adapter_state(model))
    optimizer.step()
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    assert all(not torch.equal(p, start[name]) for name, p in lora.adapter_state(model).items())


def test_counts_are_what_the_formula_says():
    model, rank, width = gpt(), 5, CONFIG.n_embd
    total = lora.count(model)
    assert total.trainable == total.total
    lora.inject(model, ATTENTION, rank)
    after = lora.count(model)
    assert after.trainable == CONFIG.n_layer * rank * ((width + 3 * width) + (width + width))
    assert after.total == total.total + after.trainable
    assert str(after).startswith(f"{after.trainable:,} of {after.total:,}") and "%" in str(after)


def test_patterns_choose_layers():
    assert lora.inject(gpt(), ["*.blocks.1.attention.qkv"], 2) == ["decoder.blocks.1.attention.qkv"]
    names = lora.inject(gpt(), ["*.blocks.0.*", "*.down"], 2)
    assert len(names) == 5 and names[-1] == "decoder.blocks.1.ffn.down"


def test_dropout_falls_on_the_side_path_only():
    model = adapted(dropout=0.9)
    assert torch.equal(model(IDS), model(IDS))
    model.train()
    assert not torch.equal(model(IDS), model(IDS))
    with torch.no_grad():
        for layer in lora.adapters(model).values():
            layer.lora_B.zero_()
    assert torch.equal(model(IDS), model(IDS)), "without a side path there is nothing to drop"


def test_the_update_has_the_rank_of_its_adapter():
    layer = lora.adapters(adapted(rank=3))["decoder.blocks.0.attention.qkv"]
    assert layer.delta().shape == layer.base.weight.shape
    assert torch.linalg.matrix_rank(layer.delta()) == 3


def test_a_new_value_head_is_frozen_unless_it_is_kept():
    """The trap: with the head frozen (and its gradient kept off the backbone) the value loss cannot fall."""
    losses = {}
    for keep in ((), ("v_head",)):
        critic = Critic()
        lora.inject(critic, ["*.attention.qkv"], 2, keep=keep)
        assert {p.requires_grad for p in critic.v_head.parameters()} == {bool(keep)}
        with torch.no_grad():
            hidden = critic.gpt.decoder(IDS, torch.ones_like(IDS))
        target = torch.linspace(-2, 2, 4)[:, None].expand(4, 9)
        optimizer = torch.optim.AdamW([p for p in critic.parameters() if p.requires_grad], lr=0.05)
        run = []
        for _ in range(60):
            loss = (critic.v_head(hidden) - target).square().mean()
            run.append(loss.item())
            if loss.requires_grad:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        losses[keep] = run
    assert losses[()][-1] == losses[()][0]
    assert losses[("v_head",)][-1] < 0.7 * losses[("v_head",)][0]


# ------------------------------------------ merging, switching off, removing


def test_merged_equals_unmerged_and_comes_apart_again():
    model = adapted(ALL)
    base = lora.adapters(model)["decoder.blocks.1.ffn.up"].base.weight
    apart, start = model(IDS), base.clone()
    lora.merge(model)
    lora.merge(model)  # the second time does nothing
    assert_close(model(IDS), apart, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(base, start)
    lora.unmerge(model)
    lora.unmerge(model)
    assert_close(model(IDS), apart, atol=1e-5, rtol=1e-5)
    assert_close(base, start, atol=1e-6, rtol=1e-6)


def test_a_merged_model_is_an_ordinary_gpt2(tmp_path):
    model = adapted(ALL)
    want = model(IDS)
    lora.merge(model)
    lora.remove(model)
    assert not lora.adapters(model) and lora.count(model).total == lora.count(gpt()).total
    folder = model.save_pretrained(tmp_path / "out")
    theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
    assert_close(theirs(IDS).logits, want, atol=1e-4, rtol=1e-4)


def test_without_merging_the_old_model_comes_back():
    model, start = adapted(ALL), gpt()(IDS)
    assert not torch.allclose(model(IDS), start)
    with lora.disabled(model) as reference:
        assert torch.equal(reference(IDS), start)
    assert not torch.allclose(model(IDS), start)
    lora.remove(model)
    assert torch.equal(model(IDS), start)


def test_merged_adapters_refuse_to_train_and_to_be_switched_off():
    model = adapted()
    lora.merge(model)
    model.train()
    with pytest.raises(BadAdapter, match="unmerge"):
        model(IDS)
    with torch.no_grad():
        model(IDS)
    with pytest.raises(BadAdapter, match="unmerge"), lora.disabled(model):
        pass
    with pytest.raises(BadAdapter, match="unmerge"):
        lora.load_adapter_state(model, lora.adapter_state(model))


def test_generation_with_adapters_is_that_of_the_merged_model():
    model = adapted(ALL)
    queries = [IDS[0, :3], IDS[1, :5]]
    apart = model.batch_generate(queries, 8, do_sample=False).responses
    lora.merge(model)
    assert [r.tolist() for r in apart] == [
        r.tolist() for r in model.batch_generate(queries, 8, do_sample=False).responses
    ]


# ------------------------------------------ saving and loading


def test_saved_adapters_hold_nothing_else(tmp_path):
    model = adapted(ALL, rank=2, alpha=7, dropout=0.25)
    folder = lora.save(model, tmp_path / "adapters")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 40_000
    other = gpt()
    names = lora.load(other, folder)
    assert names == list(lora.adapters(model)) and torch.equal(other(IDS), model(IDS))
    layer = lora.adapters(other)["decoder.blocks.0.ffn.up"]
    assert (layer.scale, layer.dropout.p) == (3.5, 0.25)
    assert lora.count(other) == lora.count(model)
    lora.save(model, folder)  # over its own


def test_what_cannot_be_saved_or_loaded(tmp_path):
    with pytest.raises(BadAdapter, match="no adapters"):
        lora.save(gpt(), tmp_path / "x")
    model = adapted()
    folder = lora.save(model, tmp_path / "adapters")
    with pytest.raises(BadAdapter, match="already"):
        lora.load(adapted(), folder)
    with pytest.raises(BadAdapter, match="no linear layer"):
        lora.load(nn.Linear(3, 3), folder)
    with pytest.raises(MissingAssets):
        lora.load(gpt(), tmp_path / "nowhere")
    with pytest.raises(MissingAssets, match="one of GPT, not of LoRA"):
        lora.load(gpt(), gpt().save_checkpoint(tmp_path / "gpt"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(CannotWrite, match="left alone"):
        lora.save(model, tmp_path / "other")
    state = lora.adapter_state(model)
    for wrong in ({}, state | {"x": torch.ones(1)}, {name: t[:-1] for name, t in state.items()}):
        with pytest.raises(BadAdapter, match="do not fit"):
            lora.load_adapter_state(model, wrong)


# ------------------------------------------ bad settings


@pytest.mark.parametrize(
    ("patterns", "settings", "said"),
    [
        (["*.wqkv"], {"rank": 2}, r"'\*\.wqkv'; there are: decoder\.blocks\.0\.attention\.qkv"),
        (["*.qkv", "*.dropout"], {"rank": 2}, "dropout"),
        (["*.qkv"], {"rank": 0}, "at least 1, not 0"),
        (["*.qkv"], {"rank": 2, "keep": ("value_head",)}, "No module is called value_head"),
    ],
)
def test_settings_that_make_no_sense(patterns, settings, said):
    with pytest.raises(BadAdapter, match=said) as caught:
        lora.inject(gpt(), patterns, **settings)
    assert re.search("[一-鿿]", caught.value.zh)


def test_adapters_are_put_on_once_and_never_on_a_tied_weight():
    with pytest.raises(BadAdapter, match="already"):
        lora.inject(adapted(), ATTENTION, 2)
    theirs = tiny_lm("gpt2")
    with pytest.raises(BadAdapter, match="lm_head is tied"):
        lora.inject(theirs, ["lm_head"], 2)
