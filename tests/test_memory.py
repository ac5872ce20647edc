"""The calculator against torch (weights, gradients, Adam, cache, activations) and against Accelerate."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN

from rlhf import anatomy, memory, museum

DECODERS = [name for name in museum.names() if name != "distilbert"]
NO_DROPOUT = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "opt-125m": {"dropout": 0.0},
    "opt-350m": {"dropout": 0.0},
}


def small(name):
    return museum.build(name, small=True, **NO_DROPOUT.get(name, {})).train()


def loss_of(model, ids):
    logits = model(input_ids=ids).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def ids_of(batch, tokens):
    return torch.randint(5, 200, (batch, tokens), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", DECODERS)
def test_a_step_of_adam_takes_what_was_planned(name):
    model = small(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss_of(model, ids_of(2, 9)).backward()
    optimizer.step()
    real, plan = memory.measured_training(model, optimizer), memory.plan_training(anatomy.Anatomy.of(model))
    assert (real.weights, real.gradients) == (plan.weights, plan.gradients)
    tensors = len(list(model.parameters()))
    assert real.optimizer == plan.optimizer + 4 * tensors  # Adam's step counter, one float per tensor


def test_frozen_parameters_have_weights_only():
    model = small("llama-2-7b")
    for weight in anatomy.blocks(model).parameters():
        weight.requires_grad_(False)
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad])
    loss_of(model, ids_of(2, 9)).backward()
    optimizer.step()
    trained = sum(w.numel() for w in model.parameters() if w.requires_grad)
    plan = memory.plan_training(anatomy.Anatomy.of(model), trained=trained)
    real = memory.measured_training(model, optimizer)
    assert 0 < trained < anatomy.count(model)
    assert (real.weights, real.gradients) == (plan.weights, plan.gradients)
    assert 0 < real.optimizer - plan.optimizer <= 4 * len(optimizer.state)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", DECODERS)
def test_the_cache_is_as_large_as_planned(name, dtype):
    model = small(name).eval().to(getattr(torch, dtype))
    with torch.no_grad():
        cache = model(input_ids=ids_of(3, 11), use_cache=True).past_key_values
    assert memory.measured_cache(cache) == memory.kv_cache(anatomy.Anatomy.of(model), 11, 3, dtype) > 0


def test_no_cache_without_generation():
    assert memory.kv_cache(museum.facts("distilbert"), tokens=100) == 0


@pytest.mark.parametrize("name", DECODERS)
def test_activations_are_estimated_within_a_quarter(name):
    model = small(name)
    facts = anatomy.Anatomy.of(model)
    for batch, tokens in ((4, 16), (8, 48)):
        ids = ids_of(batch, tokens)
        real = memory.measured_activations(model, lambda ids=ids: loss_of(model, ids))
        assert 0.75 < memory.activations(facts, tokens, batch) / real < 1.05


def test_eager_attention_keeps_its_matrix():
    model, facts = small("llama-2-7b"), museum.facts("llama-2-7b")
    model.set_attn_implementation("eager")
    extra = []
    for tokens in (16, 48):
        real = memory.measured_activations(model, lambda tokens=tokens: loss_of(model, ids_of(4, tokens)))
        extra.append(real / (4 * tokens))  # bytes per token: grows with the length
    own = anatomy.Anatomy.of(model)
    planned = [memory.activations(own, tokens, attention="eager") / tokens for tokens in (16, 48)]
    assert extra[1] - extra[0] == pytest.approx(planned[1] - planned[0], rel=0.15)
    assert memory.activations(facts, 4096, attention="eager") > 2 * memory.activations(facts, 4096)


def test_gelu_written_out_keeps_two_and_a_half_times_as_much():
    x = torch.randn(50, 40, requires_grad=True)
    kept = {}
    for name in ("gelu_new", "gelu_pytorch_tanh", "relu"):
        layer = nn.Sequential(ACT2FN[name], nn.Linear(40, 1))
        kept[name] = memory.measured_activations(layer, lambda layer=layer: layer(x + 0).sum()) / (
            50 * 40 * 4
        )
    assert kept == {"gelu_new": 5, "gelu_pytorch_tanh": 2, "relu": 1}
    torch.testing.assert_close(ACT2FN["gelu_new"](x), ACT2FN["gelu_pytorch_tanh"](x))


def test_checkpointing_keeps_less_than_a_full_pass():
    facts = museum.facts("llama-2-7b")
    full, less = (memory.activations(facts, 1024, checkpointing=on) for on in (False, True))
    assert facts.layers * facts.hidden * 1024 * 4 < less < full / 4


@pytest.mark.parametrize("name", museum.names())
def test_accelerate_counts_weights_and_buffers(name):
    from accelerate.commands.estimate import estimate_training_usage
    from accelerate.utils import calculate_maximum_sizes

    model = museum.build(name)
    total, _ = calculate_maximum_sizes(model)
    weights = memory.weights(anatomy.count(model))
    assert total == weights + memory.tensor_bytes(model.buffers())
    training = memory.plan_training(museum.facts(name)).total
    assert training == estimate_training_usage(weights, "float32")["step"] == 4 * weights


def test_plans_by_hand():
    facts = museum.facts("llama-2-7b")
    n = facts.parameters
    assert memory.kv_cache(facts, tokens=1) == 2 * 32 * 32 * 128 * 2 == 512 * 1024
    assert memory.plan_frozen(facts, "int4").total == n / 2
    mixed = memory.plan_training(facts, dtype="bfloat16", master=True)
    assert (mixed.weights, mixed.gradients, mixed.optimizer) == (2 * n, 2 * n, 12 * n)
    pure = memory.plan_training(facts, dtype=torch.bfloat16)
    assert pure.total == 8 * n
    serving = memory.plan_generation(facts, tokens=4096, batch=2)
    assert serving.cache == 2 * 4096 * 512 * 1024 and serving.total == 2 * n + serving.cache
    both = serving + memory.plan_frozen(facts)
    assert both.weights == 4 * n and both.total == serving.total + 2 * n
    table = memory.ledger({"a": serving, "b": both})
    assert table.loc["b", "weights"] == pytest.approx(4 * n / 2**30)
    assert table.loc["a", "total"] == pytest.approx(serving.total / 2**30)


def test_shared_storage_counts_once():
    x = torch.zeros(10, 3)
    assert memory.tensor_bytes([x, x[2:], x.T]) == 120
    assert memory.tensor_bytes([x, torch.zeros(2)]) == 128
    assert memory.tensor_bytes(museum.build("chatglm-6b").buffers()) == 28 * 32 * 4  # on meta: no address


def test_bad_plans_are_explained():
    facts = museum.facts("gpt2")
    with pytest.raises(memory.BadPlan, match=r"'fp8'.*bfloat16"):
        memory.weights(10, "fp8")
    with pytest.raises(memory.BadPlan, match="tokens cannot be negative"):
        memory.kv_cache(facts, tokens=-1)
    with pytest.raises(memory.BadPlan, match="trained"):
        memory.plan_training(facts, trained=-5)
    with pytest.raises(memory.BadPlan, match="sdpa"):
        memory.activations(facts, 10, attention="flash")
