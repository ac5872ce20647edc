"""Graders of lesson 09: right answers in every form, wrong answers by name."""

import pytest
import torch
import torch.nn.functional as F

from rlhf import checks
from rlhf.ppo.losses import kl_k1, kl_k3, masked_mean


def others(rewards):
    return (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)


def by_loops(rewards):
    rows = rewards.tolist()
    return [[r - (sum(row) - r) / (len(row) - 1) for r in row] for row in rows]


@pytest.mark.parametrize(
    "right",
    [
        lambda r: r - others(r),
        by_loops,
        lambda r: (r - others(r)).numpy(),
        lambda r: (r - others(r)).flatten(),
    ],
)
def test_leave_one_out_passes(right):
    assert checks.e09_1(right).passed, checks.e09_1(right)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda r: r - r.mean(1, keepdim=True), "the other K − 1"),
        (lambda r: r - others(r) * (r.shape[1] - 1) / r.shape[1], "divided by K"),
        (lambda r: r - others(r.T).T, "across prompts"),
        (others, "subtract it from the reward"),
        (lambda r: others(r) - r, "sign"),
        (lambda r: (r - r.mean(1, keepdim=True)) / (r.std(1, keepdim=True) + 1e-4), "GRPO's"),
    ],
)
def test_a_wrong_baseline_is_named(wrong, said):
    verdict = checks.e09_1(wrong)
    assert verdict.passed is False and said in verdict.en


def dpo(c, r, rc, rr, beta):
    return -F.logsigmoid(beta * (c - rc - r + rr)).mean()


@pytest.mark.parametrize(
    "right",
    [
        dpo,
        lambda c, r, rc, rr, beta: dpo(c, r, rc, rr, beta).item(),
        lambda c, r, rc, rr, beta: torch.log1p((-beta * ((c - r) - (rc - rr))).exp()).mean(),
    ],
)
def test_dpo_passes(right):
    assert checks.e09_2(right).passed, checks.e09_2(right)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda c, r, rc, rr, beta: dpo(r, c, rr, rc, beta), "swapped"),
        (lambda c, r, rc, rr, beta: -F.logsigmoid(beta * (c - r)).mean(), "reference is missing"),
        (lambda c, r, rc, rr, beta: dpo(c, r, -rc, -rr, beta), "not added"),
        (lambda c, r, rc, rr, beta: dpo(c, r, rc, rr, 1.0), "beta is missing"),
        (lambda c, r, rc, rr, beta: beta * dpo(c, r, rc, rr, 1.0), "inside the sigmoid"),
        (lambda c, r, rc, rr, beta: -dpo(c, r, rc, rr, beta), "sign"),
    ],
)
def test_a_wrong_dpo_loss_is_named(wrong, said):
    verdict = checks.e09_2(wrong)
    assert verdict.passed is False and said in verdict.en


def grpo(logp, old, ref, advantages, mask, clip, beta, kl=kl_k3, worse=torch.max, mean=None):
    ratio, a = (logp - old).exp(), advantages[:, None]
    terms = worse(-a * ratio, -a * ratio.clamp(1 - clip, 1 + clip)) + beta * kl(logp, ref)
    return mean(terms, mask) if mean else masked_mean(terms, mask, dim=1).mean()


def test_grpo_passes():
    assert checks.e09_3(grpo).passed, checks.e09_3(grpo)
    assert checks.e09_3(lambda *case: float(grpo(*case))).passed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mean": lambda x, mask: x.mean()}, "padding is part of the mean"),
        ({"mean": lambda x, mask: (x * mask).mean()}, "padded length"),
        ({"mean": masked_mean}, "dapo"),
        ({"worse": torch.min}, "pessimistic"),
        ({"worse": lambda plain, clipped: plain}, "nothing is clipped"),
        ({"kl": kl_k1}, "k1"),
        ({"kl": lambda p, q: kl_k3(q, p)}, "reversed"),
        ({"kl": lambda p, q: -kl_k3(p, q)}, "sign"),
        ({"kl": lambda p, q: 0 * p}, "KL term is missing"),
    ],
)
def test_a_wrong_grpo_loss_is_named(change, said):
    verdict = checks.e09_3(lambda *case: grpo(*case, **change))
    assert verdict.passed is False and said in verdict.en


def test_the_first_update():
    assert checks.e09_4(0.0, 0).passed
    assert "ratio is 1" in checks.e09_4(0.0, 0.2).en
    assert "What is left" in checks.e09_4(0.7, 0.0).en
    assert checks.e09_4(..., 0).passed is None


def test_empty_bodies_are_no_answers():
    for grade in (checks.e09_1, checks.e09_2, checks.e09_3):
        assert grade(lambda *args: None).passed is None and grade(...).passed is None
