"""The step that computes only what counts: the plain step's numbers wherever a loss or reward reads them."""

import pytest
import torch
from ppo_parity import batch, build_trainer, flat_parameters
from ppo_tools import rollouts, tiny_policy, tiny_trainer
from torch.testing import assert_close
from transformers.activations import NewGELUActivation

from rlhf.ppo import lean, losses
from rlhf.ppo.config import BadConfig

IN_PASSES = {"mini_batch_size": 2, "gradient_accumulation_steps": 4, "accumulate_by_tokens": True}
LIVE = ("logprobs", "ref_logprobs", "kl", "values", "advantages", "returns")
NOT_COMPARED = ("time/", "objective/logprobs", "objective/ref_logprobs", "ppo/policy/adv", "ppo/policy/ratio")


def step(**settings):
    trainer = build_trainer(**settings)
    return trainer, trainer.step(*batch())


@pytest.mark.parametrize("changes", [{}, IN_PASSES, {"fused": True, **IN_PASSES}])
def test_a_step_without_the_rest_is_the_same_step(changes):
    (plain, wanted), (short, got) = step(), step(response_only=True, **changes)
    live = plain.experience.mask.bool()
    for name in LIVE:
        ours, theirs = getattr(short.experience, name), getattr(plain.experience, name)
        assert_close(ours[live], theirs[live], atol=5e-6, rtol=1e-5, msg=name)
    assert not short.experience.logprobs[~live].any()  # and nothing else was computed
    for name in (n for n in wanted if not n.startswith(NOT_COMPARED)):
        assert_close(
            torch.as_tensor(got[name]), torch.as_tensor(wanted[name]), atol=1e-4, rtol=1e-3, msg=name
        )
    before = flat_parameters(build_trainer())
    theirs, ours = flat_parameters(plain), flat_parameters(short)
    moved = sum((theirs[n] - before[n]).square().sum() for n in before) ** 0.5
    apart = sum((theirs[n] - ours[n]).square().sum() for n in before) ** 0.5
    assert moved > 0
    assert apart < 0.02 * moved  # Adam turns rounding of tiny gradients into steps


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama", "qwen2"])
def test_every_architecture_takes_the_same_step(kind):
    results = []
    for settings in ({}, {"response_only": True, **IN_PASSES}):
        trainer = tiny_trainer(tiny_policy(kind), learning_rate=1e-3, **settings)
        results.append(trainer.step(*rollouts()))
    for name in ("ppo/loss/total", "ppo/policy/entropy", "ppo/policy/approxkl", "ppo/policy/grad_norm"):
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-3), name


def test_full_kl_and_masked_responses_keep_their_numbers():
    queries, responses, scores = rollouts()
    masks = [torch.ones_like(r) for r in responses]
    for i, mask in enumerate(masks):
        mask[: len(mask) // 2] = i % 2
    found = []
    for lean_step in (False, True):
        trainer = tiny_trainer(kl_penalty="full", response_only=lean_step)
        found.append(trainer.step(queries, responses, scores, masks))
    for name in ("objective/kl", "ppo/loss/total", "ppo/policy/entropy"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-4, abs=1e-6), name


def test_the_head_computes_nothing_but_response_positions():
    trainer = tiny_trainer(response_only=True)
    queries, responses, scores = rollouts()
    seen = []
    head = trainer.policy.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[0]))
    trainer.step(queries, responses, scores)
    hook.remove()
    written = sum(map(len, responses))
    assert sum(seen[:2]) == written  # the old pass, in two parts
    assert seen[2:] == [written] * 4  # one pass per epoch
    logits, _, _ = trainer.policy(queries[0][None])
    assert logits.shape[:2] == (1, len(queries[0]))  # afterwards the head is as it was


def passes_of_policy(trainer) -> list[int]:
    """From now on: how many rows every forward pass of the policy has."""
    rows = []
    trainer.policy.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return rows


def written(kind="gpt2", **settings):
    """A trainer and what it wrote: ragged queries, own lengths, EOS ends a response."""
    policy = tiny_policy(kind)
    torch.nn.init.normal_(policy.v_head.summary.weight, std=0.3)
    trainer = tiny_trainer(policy, tiny_policy(kind, seed=1), response_only=True, **settings)
    queries, _, scores = rollouts()
    torch.manual_seed(3)
    responses = trainer.generate(
        queries,
        batch_size=3,
        max_new_tokens=[4 + i % 5 for i in range(8)],
        eos_token_id=7,
        return_prompt=False,
    )
    return trainer, queries, responses, scores


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama", "qwen2"])
def test_what_sampling_noted_is_what_a_pass_finds(kind):
    found = []
    for reuse in (False, True):
        trainer, *batch = written(kind, reuse_sampling=reuse, mini_batch_size=4)
        rows = passes_of_policy(trainer)
        found.append((trainer, batch, trainer.step(*batch), rows))
    (asked, batch, wanted, passes), (noted, same, got, fewer) = found
    assert all(torch.equal(a, b) for a, b in zip(batch[1], same[1], strict=True))
    live = asked.experience.mask.bool()
    assert len({len(r) for r in batch[1]}) > 2 and live.sum() < live.numel()
    for name in LIVE:
        assert_close(getattr(noted.experience, name)[live], getattr(asked.experience, name)[live], msg=name)
    for name in ("ppo/loss/total", "objective/kl", "ppo/policy/grad_norm"):
        assert got[name] == pytest.approx(wanted[name], rel=1e-3, abs=1e-5), name
    assert sum(passes) == 5 * 8 and sum(fewer) == 4 * 8  # the epochs only


def test_a_changed_response_or_an_older_policy_is_computed_anew():
    trainer, queries, responses, scores = written(reuse_sampling=True)
    rows = passes_of_policy(trainer)
    trainer.step(queries, [*responses[:-1], responses[-1][:2]], scores)  # one was cut
    assert sum(rows) == 5 * 8
    rows.clear()
    trainer.step(queries, responses, scores)  # written before the update
    assert sum(rows) == 5 * 8


def test_the_place_of_the_query_is_part_of_what_was_noted():
    trainer, queries, responses, scores = written(reuse_sampling=True)
    moved = [torch.cat((q, r[:1])) for q, r in zip(queries, responses, strict=True)]
    rests = [r[1:] if len(r) > 1 else r for r in responses]
    rows = passes_of_policy(trainer)
    trainer.step(moved, rests, scores)  # the same sequences, divided elsewhere
    assert sum(rows) == 5 * 8


def test_temperature_changes_what_is_drawn_but_not_what_is_noted():
    trainer, queries, _, scores = written(reuse_sampling=True)
    responses = trainer.generate(queries, max_new_tokens=5, temperature=0.5, return_prompt=False)
    noted = trainer.forward_rollouts(trainer.validate(queries, responses, scores))
    trainer.written.forget()
    asked = trainer.forward_rollouts(trainer.validate(queries, responses, scores))
    live = asked.mask.bool()
    assert_close(noted.logprobs[live], asked.logprobs[live])
    assert_close(noted.values_raw[live], asked.values_raw[live])


def test_a_long_evaluation_does_not_fill_the_memory():
    trainer, queries, *_ = written(reuse_sampling=True)
    for _ in range(10):
        trainer.generate(queries, max_new_tokens=3)
    assert len(trainer.written.known) <= 32


def test_reuse_needs_a_step_that_reads_responses_only():
    with pytest.raises(BadConfig, match="response_only"):
        tiny_trainer(reuse_sampling=True)


def test_full_kl_needs_all_logits_and_so_a_pass():
    trainer, *batch = written(reuse_sampling=True, kl_penalty="full")
    rows = passes_of_policy(trainer)
    trainer.step(*batch)
    assert sum(rows) == 5 * 8


def test_token_logprobs_is_log_softmax_and_gather():
    torch.manual_seed(0)
    logits, tokens = torch.randn(6, 11, requires_grad=True), torch.randint(0, 11, (6,))
    weights = torch.randn(6)
    chosen, entropy = lean.TokenLogprobs.apply(logits, tokens)
    (chosen * weights).sum().backward()
    gradient, logits.grad = logits.grad, None
    wanted = losses.logprobs_from_logits(logits[None], tokens[None])[0]
    (wanted * weights).sum().backward()
    assert_close(chosen, wanted)
    assert_close(entropy, losses.entropy_from_logits(logits))
    assert_close(gradient, logits.grad)
    assert not entropy.requires_grad


def test_minibatches_of_like_lengths_keep_every_row_once():
    lengths = torch.tensor([5, 2, 9, 2, 7])
    attention_mask = (torch.arange(9) < lengths[:, None]).long()
    rows = torch.tensor([4, 0, 3, 2])
    assert lean.like_lengths_together(attention_mask, rows).tolist() == [3, 0, 4, 2]


def test_an_embedding_that_is_also_the_head_learns_as_much():
    """Its gradient is the sum of both uses, a whole matrix, though the one use names rows only."""
    gradients = []
    for sparse in (False, True):
        model = tiny_policy().pretrained_model
        if sparse:
            lean.spare_embedding_gradient(model)
        assert model.get_input_embeddings().sparse == sparse
        for ids in (torch.tensor([[3, 4, 3, 9]]), torch.tensor([[7, 8]])):
            model(ids).logits.square().mean().backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    assert not gradients[1].is_sparse
    assert_close(*gradients)
    apart = tiny_policy("llama").pretrained_model  # embedding and head are two matrices here
    lean.spare_embedding_gradient(apart)
    assert apart.get_input_embeddings().sparse == (
        apart.get_input_embeddings().weight is apart.get_output_embeddings().weight
    )


def test_fused_says_what_it_does():
    trainer = tiny_trainer(fused=True)
    for model in (trainer.policy, trainer.ref_model):
        assert not any(isinstance(m, NewGELUActivation) for m in model.modules())
    assert all(group["fused"] for group in trainer.optimizer.param_groups)
    plain = torch.optim.SGD(trainer.parameters, lr=0.1)
    lean.fuse_update(plain)
    assert not plain.param_groups[0].get("fused")
    assert any(isinstance(m, NewGELUActivation) for m in tiny_trainer().policy.modules())
