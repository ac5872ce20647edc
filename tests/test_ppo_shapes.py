"""Any causal language model: each architecture has habits of its own, and a PPO step must not notice.

Positions counted by the mask or not, embeddings narrower than the hidden states, heads that are tied to the
embeddings or not, pad tokens of many kinds. Adapters, activation checkpointing, bfloat16 and other optimisers
go through the same step.
"""

import contextlib
import gc
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from peft import LoraConfig
from ppo_tools import EOS, rollouts, tiny_lm, tiny_policy, tiny_trainer
from torch import nn
from torch.testing import assert_close
from transformers import AutoModelForCausalLM
from transformers.optimization import Adafactor

from rlhf.ppo import (
    AutoModelForCausalLMWithValueHead,
    BadConfig,
    LengthSampler,
    PPOConfig,
    PPOTrainer,
    set_seed,
)

# name: (architecture, changes to its configuration, width of the states that its head reads)
SHAPES = {
    "gpt2": ("gpt2", {}, 32),
    "opt-350m": ("opt", {}, 16),
    "opt": ("opt", {"do_layer_norm_before": True, "word_embed_proj_dim": 32, "pad_token_id": 1}, 32),
    "llama": ("llama", {"pad_token_id": None}, 32),
    "llama, tied": ("llama", {"tie_word_embeddings": True}, 32),
    "qwen": ("qwen", {"tie_word_embeddings": True, "pad_token_id": 0}, 32),
}
TIED = set(SHAPES) - {"llama"}
ADAPTED = {"gpt2": ["c_attn"], "opt": ["q_proj", "v_proj"], "llama": ["q_proj", "v_proj", "up_proj"]}
ADAPTED["qwen"] = ADAPTED["llama"]
QUERIES, RESPONSES, SCORES = rollouts()


def policy(shape: str) -> AutoModelForCausalLMWithValueHead:
    kind, changes, _ = SHAPES[shape]
    return tiny_policy(kind, **changes)


def lora_policy(shape: str, dtype: torch.dtype = torch.float32) -> AutoModelForCausalLMWithValueHead:
    """With an adapter that already does something, and dropout, which is off in a step."""
    kind, changes, _ = SHAPES[shape]
    torch.manual_seed(5)  # of the adapter
    adapter = LoraConfig(
        r=2,
        target_modules=ADAPTED[kind],
        fan_in_fan_out=kind == "gpt2",
        init_lora_weights=False,
        lora_dropout=0.5,
    )
    backbone = tiny_lm(kind, **changes).to(dtype)
    return AutoModelForCausalLMWithValueHead.from_pretrained(backbone, peft_config=adapter)


def learnt(trainer: PPOTrainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.policy.named_parameters() if p.requires_grad}


def train(trainer: PPOTrainer, steps: int = 2) -> list[dict]:
    """Steps on fixed rollouts; the statistics of each but its times."""
    return [train_one(trainer, seed) for seed in range(steps)]


def train_one(trainer: PPOTrainer, seed: int) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the responses are random, hence a negative KL
        stats = trainer.step(*rollouts(seed=seed))
    return {name: value for name, value in stats.items() if not name.startswith("time/")}


def assert_same_run(one: PPOTrainer, other: PPOTrainer, within: float, steps: int = 2) -> None:
    for row, same in zip(train(one, steps), train(other, steps), strict=True):
        assert row.keys() == same.keys()
        for name in row:
            np.testing.assert_allclose(row[name], same[name], atol=within, rtol=within, err_msg=name)
    ours, theirs = learnt(one), learnt(other)
    assert ours.keys() == theirs.keys() != set()
    for name in ours:
        assert_close(ours[name], theirs[name], atol=within, rtol=0)


@contextlib.contextmanager
def bfloat16():
    """Settings of a trainer in bfloat16; Accelerate remembers them for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield {"accelerator_kwargs": {"mixed_precision": "bf16", "cpu": True}}
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


# ----------------------------------------------------------------------------------- positions and padding


@pytest.mark.parametrize("shape", SHAPES)
def test_sampling_and_training_see_what_a_lone_text_sees(shape):
    """Left padding while sampling, right padding in the step, none at all: the same log-probabilities."""
    trainer, sampled = tiny_trainer(policy(shape)), []
    model = trainer.policy
    queries = [*QUERIES[:6], torch.tensor([EOS, 7, 8]), torch.tensor([0, 0, 1, 5, EOS, 9])]
    hook = model.get_output_embeddings().register_forward_hook(lambda *about: sampled.append(about[2][:, -1]))
    lengths = LengthSampler(2, 9, seed=0)
    responses = trainer.generate(queries, length_sampler=lengths, return_prompt=False, eos_token_id=-1)
    hook.remove()
    sampled = torch.stack(sampled, 1).log_softmax(-1)  # (B, longest response, V)
    batch = trainer.forward_rollouts(trainer.validate(queries, responses, SCORES))
    assert model.v_head.summary.in_features == SHAPES[shape][2]
    for i, (query, response) in enumerate(zip(queries, responses, strict=True)):
        with torch.no_grad():
            logits, _, values = model(torch.cat([query, response])[None])
        live = slice(len(query) - 1, len(query) - 1 + len(response))
        alone = logits[0, live].log_softmax(-1).gather(-1, response[:, None])[:, 0]  # (R,)
        assert batch.mask[i].nonzero().flatten().tolist() == list(range(live.start, live.stop))
        assert_close(batch.logprobs[i, live], alone, atol=1e-4, rtol=0)
        assert_close(batch.values_raw[i, live], values[0, live], atol=1e-4, rtol=0)
        written = sampled[i, : len(response)].gather(-1, response[:, None])[:, 0]
        assert_close(written, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_pad_token_and_no_padding_side_changes_a_step(shape):
    """EOS as pad token, or an ordinary word: what stands in the padding is never looked at."""
    trainers = []
    for pad, side in ((EOS, "right"), (3, "left")):
        tokenizer = SimpleNamespace(pad_token_id=pad, eos_token_id=EOS, padding_side=side)
        trainers.append(tiny_trainer(policy(shape), tokenizer=tokenizer, learning_rate=1e-4))
    first, other = (train(trainer, 1)[0] for trainer in trainers)
    for name in (n for n in first if np.ndim(first[n]) == 0):
        assert other[name] == pytest.approx(first[name], abs=1e-5), name
    for name, value in learnt(trainers[0]).items():
        assert_close(learnt(trainers[1])[name], value, atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------------------ heads


@pytest.mark.parametrize("shape", SHAPES)
def test_heads_stay_tied_or_apart(shape, tmp_path):
    trainer = tiny_trainer(policy(shape), learning_rate=1e-3)
    train(trainer, 1)
    for model in (trainer.policy, trainer.ref_model):
        head, words = model.get_output_embeddings().weight, model.get_input_embeddings().weight
        assert (head is words) == (shape in TIED)
    weight = trainer.policy.get_input_embeddings().weight
    assert not torch.equal(weight, trainer.ref_model.get_input_embeddings().weight)
    assert len({id(p) for p in trainer.parameters}) == len(trainer.parameters)
    folder = trainer.save_pretrained(tmp_path / "policy")
    again = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        assert_close(again(QUERIES[0][None]).logits, trainer.policy(QUERIES[0][None])[0])


# --------------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("shape", ["gpt2", "opt-350m", "llama", "qwen"])
def test_an_adapter_switched_off_is_a_whole_reference(shape):
    kind, changes, _ = SHAPES[shape]
    settings = {"learning_rate": 1e-3, "mini_batch_size": 4}
    off = tiny_trainer(lora_policy(shape), **settings)
    copy = tiny_trainer(lora_policy(shape), tiny_lm(kind, **changes), **settings)
    assert off.ref_model is None
    assert_same_run(off, copy, within=1e-5, steps=3)
    assert off.experience.kl.abs().max() > 0.01  # otherwise any reference would do


def alive() -> int:
    """Numbers in all parameters of this process, shared ones counted once."""
    gc.collect()
    found = [p for p in gc.get_objects() if isinstance(p, nn.Parameter)]
    return sum({p.data_ptr(): p.numel() for p in found}.values())


def test_an_adapter_needs_no_second_model():
    def most(model: AutoModelForCausalLMWithValueHead, others: int) -> float:
        """Parameters alive while the reference computes, in multiples of the policy's."""
        trainer, seen = tiny_trainer(model), []
        reference = trainer.forward_reference
        trainer.forward_reference = lambda *args: (seen.append(alive()), reference(*args))[1]
        train(trainer, 1)
        return (max(seen) - others) / sum(p.numel() for p in trainer.policy.parameters())

    others = alive()
    assert most(lora_policy("llama"), others) == 1
    assert most(policy("llama"), others) == 2


# -------------------------------------------------------------------------- memory, precision, optimisers


@pytest.mark.parametrize("shape", ["gpt2", "opt-350m", "llama", "qwen"])
@pytest.mark.parametrize("make", [policy, lora_policy])
def test_checkpointed_activations_give_the_same_run(make, shape):
    settings = {"learning_rate": 1e-4, "mini_batch_size": 4}
    checkpointed = tiny_trainer(make(shape), gradient_checkpointing=True, **settings)
    assert len(checkpointed.checkpointed) == 2
    assert_same_run(tiny_trainer(make(shape), **settings), checkpointed, within=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_stays_finite_and_keeps_what_needs_precision(shape):
    with bfloat16() as settings:
        trainer = tiny_trainer(policy(shape), learning_rate=1e-3, **settings)
        for _ in range(2):
            texts = trainer.generate(QUERIES, max_new_tokens=5, return_prompt=False)
            stats = trainer.step(QUERIES, texts, SCORES)
    assert all(np.isfinite(value).all() for value in stats.values())
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in trainer.parameters)
    values = trainer.experience.values_raw
    assert values.dtype == torch.float32
    assert not torch.equal(values, values.bfloat16().float())  # the head computes in float32


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_an_adapter_on_a_bfloat16_model(shape):
    trainer = tiny_trainer(lora_policy(shape, torch.bfloat16), learning_rate=1e-3)
    before = learnt(trainer)
    stats = train(trainer)[-1]
    assert all(np.isfinite(value).all() for value in stats.values())
    assert {p.dtype for p in before.values()} == {torch.float32}  # what learns; the rest is frozen
    assert any(not torch.equal(before[n], p) for n, p in learnt(trainer).items() if "lora" in n)


OPTIMISERS = {
    "transformers": lambda p: Adafactor(p, lr=1e-3, scale_parameter=False, relative_step=False),
    "its own rate": lambda p: Adafactor(p),
    "torch": lambda p: torch.optim.Adafactor(p, lr=1e-3),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_adafactor_trains_and_goes_on_where_it_was(name, tmp_path):
    def build() -> PPOTrainer:
        set_seed(0)
        model = policy("llama")
        config = PPOConfig(batch_size=8, mini_batch_size=4, log_with="none")
        return PPOTrainer(config, model, optimizer=OPTIMISERS[name](model.parameters()))

    trainer = build()
    before = learnt(trainer)
    train(trainer, 1)
    assert all(not torch.equal(before[n], p) for n, p in learnt(trainer).items() if "proj" in n)
    trainer.save_state(tmp_path)
    other = build()
    other.load_state(tmp_path)
    assert_same_run(trainer, other, within=0.0, steps=1)


MEANT = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "adafactor": OPTIMISERS["transformers"],
}


@pytest.mark.parametrize("name", MEANT)
def test_the_configuration_names_the_optimiser(name):
    settings = {"batch_size": 8, "mini_batch_size": 4, "log_with": "none"}
    model = policy("llama")
    given = PPOTrainer(PPOConfig(**settings), model, optimizer=MEANT[name](list(model.parameters())))
    named = {} if name == "adam" else {"optimizer": name}  # adam is what everybody has
    assert_same_run(given, tiny_trainer(policy("llama"), **settings, **named, learning_rate=1e-3), within=0.0)
    with pytest.raises(BadConfig, match="one of adam, adamw, adafactor, not 'sgd'"):
        PPOConfig(optimizer="sgd")


@pytest.mark.parametrize(
    ("kind", "name"), [(DistributedType.FSDP, "FSDP 1"), (DistributedType.DEEPSPEED, "DEEPSPEED")]
)
def test_unknown_ways_of_sharing_out_are_refused_by_name(kind, name, monkeypatch):
    launched = SimpleNamespace(distributed_type=kind, is_fsdp2=False)
    monkeypatch.setattr("rlhf.ppo.trainer.trackers.build_accelerator", lambda config: launched)
    with pytest.raises(BadConfig, match=f"{name}.*MULTI_GPU") as caught:
        tiny_trainer(policy("llama"))
    assert "LoRA" in caught.value.zh


# -------------------------------------------------------------------------------------------- accumulation


def test_eight_times_one_is_one_times_eight():
    """Accumulated by tokens, minibatches are a matter of memory: no number of a run depends on them."""
    settings = {"early_stopping": True, "target_kl": 5e-5, "max_grad_norm": 0.5, "ppo_epochs": 3}
    by_tokens = {"gradient_accumulation_steps": 8, "accumulate_by_tokens": True}
    whole = tiny_trainer(policy("llama"), mini_batch_size=8, **settings)
    parts = tiny_trainer(policy("llama"), mini_batch_size=1, **by_tokens, **settings)
    passes = set()
    for seed in range(10):
        rows = [train_one(trainer, seed) for trainer in (whole, parts)]
        assert rows[0].keys() == rows[1].keys()
        for name in (n for n in rows[0] if np.ndim(rows[0][n]) == 0):  # the others are per minibatch
            assert rows[1][name] == pytest.approx(rows[0][name], abs=1e-5, rel=1e-5), name
        assert len(parts.passes) == 8 * len(whole.passes)
        passes.add(len(whole.passes))
    assert len(passes) > 1  # some steps stopped early, and some did not
    for name, value in learnt(whole).items():
        assert_close(learnt(parts)[name], value, atol=1e-5, rtol=0)
