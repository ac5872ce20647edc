"""Sampling with a static cache and a compiled step: the tokens of the plain loop, from the weights of now."""

import gc
import shutil

import pytest
import torch
from ppo_tools import EOS, rollouts, tiny_lm, tiny_policy, tiny_trainer
from torch._dynamo.utils import counters
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from rlhf import decoding, sampling, static

QUERIES = [torch.randint(0, EOS, (2 + i % 5,), generator=torch.Generator().manual_seed(i)) for i in range(40)]
LIMITS = [3 + i % 9 for i in range(40)]


def write(policy, compiled, eos=5, **settings):
    """What a policy writes, its log-probs and values, and the next random number."""
    torch.manual_seed(3)
    found = sampling.generate(
        policy, QUERIES, LIMITS, eos_token_id=eos, value_head=policy.v_head, compiled=compiled, **settings
    )
    return found, torch.rand(1)


def assert_same(one, other):
    (ours, next_of_ours), (theirs, next_of_theirs) = one, other
    assert [r.tolist() for r in ours.responses] == [r.tolist() for r in theirs.responses]
    for name in ("logprobs", "values"):
        assert_close(torch.cat(getattr(ours, name)), torch.cat(getattr(theirs, name)))
    assert torch.equal(next_of_ours, next_of_theirs)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama", "qwen2"])
@pytest.mark.parametrize("eos", [-1, 5])
def test_fixed_shapes_write_what_the_plain_loop_writes(kind, eos, monkeypatch):
    monkeypatch.setattr(static, "compiled_forward", decoding.forward)
    policy = tiny_policy(kind)
    torch.nn.init.normal_(policy.v_head.summary.weight, std=0.3)
    assert_same(write(policy, True, eos), write(policy, False, eos))
    assert_same(write(policy, True, eos, batch_size=16), write(policy, False, eos, batch_size=16))
    assert_same(write(policy, True, eos, temperature=0.7), write(policy, False, eos, temperature=0.7))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_compiled_once_and_never_stale(kind, monkeypatch):
    monkeypatch.setattr(static, "BACKEND", "eager")  # traced and guarded, not translated
    policy = tiny_policy(kind)
    counters.clear()
    before = write(policy, True)
    assert_same(before, write(policy, False))
    assert counters["stats"]["unique_graphs"] == 1
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.02)
    for _ in range(2):
        policy(QUERIES[1][None])[0].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        after = write(policy, True)
        assert_same(after, write(policy, False))
    assert [r.tolist() for r in after[0].responses] != [r.tolist() for r in before[0].responses]
    sampling.generate(policy, [q[:1] for q in QUERIES], 9, value_head=policy.v_head, compiled=True)
    assert counters["stats"]["unique_graphs"] == 1  # shorter texts: the same shape


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile's own backend needs g++")
def test_translated_to_machine_code_it_still_writes_the_same():
    policy = tiny_policy(n_layer=1)
    try:
        ours = write(policy, True)
    except static.CannotCompile as error:
        pytest.skip(error.en)
    assert_same(ours, write(policy, False))


def test_a_training_step_with_compiled_sampling_is_the_same_step(monkeypatch):
    monkeypatch.setattr(static, "BACKEND", "eager")
    found = []
    for compiled in (False, True):
        settings = {"response_only": True, "reuse_sampling": True, "compile_sampling": compiled}
        trainer = tiny_trainer(tiny_policy(), tiny_policy(seed=1), learning_rate=1e-3, **settings)
        queries, _, scores = rollouts()
        for _ in range(2):
            torch.manual_seed(7)
            responses = trainer.generate(queries, max_new_tokens=6, eos_token_id=7, return_prompt=False)
            found.append(trainer.step(queries, responses, scores))
    for name in ("ppo/loss/total", "objective/kl", "ppo/policy/entropy", "tokens/responses_len_mean"):
        assert [f[name] for f in found[:2]] == pytest.approx([f[name] for f in found[2:]], rel=1e-3), name


def test_a_model_that_looks_back_a_little_only_is_not_compiled():
    window = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}
    model = tiny_lm("qwen2", **window)
    assert not static.drivable(model)
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match="cannot be compiled"):
        ours = sampling.generate(model, QUERIES, LIMITS, compiled=True)
    torch.manual_seed(3)
    plain = sampling.generate(model, QUERIES, LIMITS)
    assert [r.tolist() for r in ours.responses] == [r.tolist() for r in plain.responses]


def test_what_cannot_be_compiled_says_so_in_both_languages(monkeypatch):
    def broken(graph, inputs):
        raise OSError("no compiler here")

    monkeypatch.setattr(static, "BACKEND", broken)
    with pytest.raises(static.CannotCompile, match="no compiler here") as caught:
        write(tiny_policy(n_layer=1), True)
    assert "去掉" in caught.value.zh and "leave out" in caught.value.en


def test_few_caches_are_kept_and_they_go_with_their_model(monkeypatch):
    monkeypatch.setattr(static, "compiled_forward", decoding.forward)
    model, others = tiny_lm(), len(static._caches)
    for rows in range(1, static.KEPT + 3):
        sampling.generate(model, QUERIES[:rows], 3, compiled=True)
    assert [key[0][0] for key in static._caches[model]] == [3, 4, 5, 6]
    del model
    gc.collect()
    assert len(static._caches) <= others


class Looks(TorchDispatchMode):
    """How often the host waits for a number: single numbers, and sizes that only the device knows."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put") and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        self.count += by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select")
        return function(*args, **(kwargs or {}))


def test_an_update_hardly_waits_for_the_device():
    trainer = tiny_trainer(response_only=True, fused=True, ppo_epochs=1)
    experience = trainer.forward_rollouts(trainer.validate(*rollouts()))
    trainer.compute_rewards(experience, torch.zeros(8))
    trainer.compute_advantages(experience)
    with Looks() as looks:
        trainer.optimise(experience)
    # longest and number of tokens, two looks of transformers at the mask, the brake on the ratio
    assert looks.count <= 5
