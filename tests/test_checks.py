"""Graders: right answers in every form, wrong answers by name, and nothing ever raised into the notebook."""

import statistics
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from grader_tools import told_apart

from rlhf import checks
from rlhf.checks import verdict as frame
from rlhf.checks.verdict import Wrong, explain

ROLES = {"policy": "trained", "reference": "frozen", "reward model": "frozen", "value head": "trained"}


def last_live(mask):
    return [int(row.nonzero()[-1]) for row in mask]


def per_token(scores, logprobs, ref, mask, coef):
    rewards = -coef * (logprobs - ref) * mask
    rewards[torch.arange(len(scores)), last_live(mask)] += scores
    return rewards


def with_padding_kl(scores, logprobs, ref, mask, coef):
    rewards = -coef * (logprobs - ref)
    rewards[torch.arange(len(scores)), last_live(mask)] += scores
    return rewards


def flipped_kl(scores, logprobs, ref, mask, coef):
    return per_token(scores, ref, logprobs, mask, coef)


def score_on_the_last_column(scores, logprobs, ref, mask, coef):
    rewards = -coef * (logprobs - ref) * mask
    rewards[:, -1] += scores
    return rewards


def score_everywhere(scores, logprobs, ref, mask, coef):
    return (-coef * (logprobs - ref) + scores[:, None]) * mask


def score_at_the_length(scores, logprobs, ref, mask, coef):
    rewards = -coef * (logprobs - ref) * mask
    rewards[torch.arange(len(scores)), mask.sum(1) - 1] += scores  # forgets that responses may begin late
    return rewards


def absolute_kl(scores, logprobs, ref, mask, coef):
    rewards = -coef * (logprobs - ref).abs() * mask
    rewards[torch.arange(len(scores)), last_live(mask)] += scores
    return rewards


def shaped(kl, score, beta):
    return [-beta * k + (score if i == len(kl) - 1 else 0) for i, k in enumerate(kl)]


def by_label(output):
    return next(item["score"] for item in output if item["label"] == "POSITIVE")


FORECAST = {
    "no penalty: KL": "higher",
    "heavy penalty: score": "lower",
    "20 epochs: clipfrac": "higher",
    "no value loss: value explained": "lower",
}

RIGHT = [
    ("e00_1", (ROLES,)),
    ("e00_1", ({"Policy": True, "reference_model": False, "reward-model": "冻结", "value_head": "训练"},)),
    ("e00_2", (lambda before, after: float(np.mean(np.array(after) - np.array(before))),)),
    ("e00_2", (lambda before, after: (torch.tensor(after) - torch.tensor(before)).mean(),)),
    ("e00_2", (lambda before, after: sum(after) / len(after) - sum(before) / len(before),)),
    ("e00_3", (shaped,)),
    ("e00_3", (lambda *a: torch.tensor(shaped(*a)),)),
    ("e00_3", (lambda *a: [torch.tensor(x) for x in shaped(*a)],)),
    ("e00_4", (by_label,)),
    ("e00_4", (lambda output: {item["label"]: item["score"] for item in output}["POSITIVE"],)),
    ("e00_4", (lambda output: torch.tensor(by_label(output)),)),
    ("e07_1", (0.32,)),
    ("e07_1", (torch.tensor(0.2 * (1 + 0.2 * 128 / 10_000) ** 184),)),
    ("e07_2", (per_token,)),
    ("e07_2", (with_padding_kl,)),
    ("e07_2", (lambda *a: per_token(*a).numpy(),)),
    ("e07_3", (0, 1)),
    ("e07_3", (1e-9, torch.tensor(1.0))),
    ("e07_4", (lambda kl, target: kl > 1.5 * target,)),
    ("e07_4", (lambda kl, target: float(kl) / target > 1.5,)),
    ("e07_4", (lambda kl, target: int(kl > 1.5 * target),)),
    ("e07_5", (FORECAST,)),
    ("e07_5", ({key: value.upper() for key, value in FORECAST.items()},)),
]

WRONG = [
    ("e00_1", (ROLES | {"reward model": "trained"},), "judge"),
    ("e00_1", (ROLES | {"value head": "frozen"},), "value head"),
    ("e00_1", (ROLES | {"reference": "yes"},), "fixed point"),
    ("e00_1", ({"policy": "trained"},), "missing"),
    ("e00_1", (ROLES | {"policy": "sometimes"},), "trained or frozen"),
    ("e00_1", ("trained",), "dict"),
    ("e00_2", (lambda before, after: np.mean(np.array(before) - np.array(after)),), "wrong sign"),
    ("e00_2", (lambda before, after: sum(after) - sum(before),), "a mean, not a sum"),
    ("e00_2", (lambda before, after: np.median(np.array(after) - np.array(before)),), "median"),
    ("e00_2", (lambda before, after: np.array(after) - np.array(before),), "shape"),
    ("e00_2", (lambda before, after: sum(after) / len(after),), "not"),
    ("e00_3", (lambda kl, score, beta: [-beta * k + score for k in kl],), "last token only"),
    ("e00_3", (lambda kl, score, beta: [-beta * kl[0] + score] + [-beta * k for k in kl[1:]],), "first"),
    ("e00_3", (lambda kl, score, beta: shaped(kl, score, -beta),), "flipped"),
    ("e00_3", (lambda kl, score, beta: [-beta * k for k in kl[:-1]] + [score],), "do not replace"),
    ("e00_3", (lambda kl, score, beta: score - beta * sum(kl),), "shape"),
    ("e00_4", (lambda output: output[0]["score"],), "label"),
    ("e00_4", (lambda output: output[1]["score"],), "label"),
    ("e00_4", (lambda output: max(item["score"] for item in output),), "label"),
    ("e00_4", (lambda output: "POSITIVE",), "one number"),
    ("e07_1", (0.2,), "It does move"),
    ("e07_1", (0.2 * (1 - 0.2 * 128 / 10_000) ** 184,), "Wrong way"),
    ("e07_1", (0.2 * (1 + 0.2 * 128 / 10_000 * 184),), "multiplies, it does not add"),
    ("e07_1", (0.2 * (1 + 9 * 128 / 10_000) ** 184,), "clip"),
    ("e07_1", (6.0,), "Hint"),
    ("e07_1", (True,), "number"),
    ("e07_2", (flipped_kl,), "flipped"),
    ("e07_2", (score_on_the_last_column,), "padding"),
    ("e07_2", (score_everywhere,), "every token"),
    ("e07_2", (score_at_the_length,), "wrong in"),
    ("e07_2", (absolute_kl,), "wrong in"),
    ("e07_2", (lambda s, lp, ref, mask, c: -c * (lp - ref),), "padding"),
    ("e07_2", (lambda s, lp, ref, mask, c: per_token(s, lp, ref, mask, c)[:, :-1],), "missing at the end"),
    ("e07_3", (1, 1), "subtracts the mean"),
    ("e07_3", (0, 0), "exp(0)"),
    ("e07_3", (0.5, 1.2), "whitening"),
    ("e07_4", (lambda kl, target: kl > target,), "Above the target but below 1.5"),
    ("e07_4", (lambda kl, target: kl < 1.5 * target,), "wrong way"),
    ("e07_4", (lambda kl, target: abs(kl) > 1.5 * target,), "negative"),
    ("e07_4", (lambda kl, target: "yes",), "True or False"),
    ("e07_5", (FORECAST | {"no penalty: KL": "lower"},), "nothing holds the policy back"),
    ("e07_5", (FORECAST | {"heavy penalty: score": "higher"},), "the KL's noise"),
    ("e07_5", (FORECAST | {"20 epochs: clipfrac": "lower"},), "clipped"),
    ("e07_5", (FORECAST | {"no value loss: value explained": "higher"},), "never learns"),
    ("e07_5", ({"no penalty: KL": "higher"},), "Missing"),
    ("e07_5", (FORECAST | {"no penalty: KL": "a lot"},), "write higher or lower"),
    ("e07_5", ("higher",), "dict"),
]


test_right_answers_pass, test_wrong_answers_are_named = told_apart(RIGHT, WRONG)


@pytest.mark.parametrize("name", checks.graders())
def test_every_grader_survives_anything(name):
    grade = getattr(checks, name)
    count = 2 if name == "e07_3" else 1

    def broken(*args):
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")

    def quits(*args):
        raise SystemExit

    for answer in (None, ...):
        assert grade(*[answer] * count).passed is None
    for answer in (broken, quits, lambda: 1, "text", [], {}, object(), float("nan"), torch.zeros(2, 3), 1e9):
        assert grade(*[answer] * count).passed is False
    assert grade().passed is False  # no answer at all


def test_an_empty_body_is_not_answered_yet():
    assert checks.e00_2(lambda before, after: None).passed is None
    assert checks.e00_3(lambda *a: ...).passed is None
    assert checks.e00_1(dict.fromkeys(ROLES)).passed is None
    assert checks.e07_3(0, None).passed is None
    assert "○" in repr(checks.e00_2(None))


def test_the_settings_of_a_lesson_reach_the_grader():
    low = checks.e07_1(
        0.1 * (1 - 0.2 * 64 / 1000) ** 10, value=0.1, kl=1.0, steps=10, batch_size=64, horizon=1000
    )
    assert low.passed
    assert checks.e07_1(0.1, value=0.1, kl=6.0, target=6.0).passed  # on target nothing moves
    assert checks.e07_4(lambda kl, target: kl > 3 * target, factor=3.0).passed
    assert not checks.e07_4(lambda kl, target: kl > 1.5 * target, factor=3.0).passed


def test_the_drill_agrees_with_the_controller_of_the_package():
    ppo = pytest.importorskip("rlhf.ppo")
    if not hasattr(ppo, "AdaptiveKLController"):
        pytest.skip("no controller yet")
    controller = ppo.AdaptiveKLController(0.2, 6.0, 10_000)
    for _ in range(184):
        controller.update(60.0, 128)
    assert checks.e07_1(controller.value).passed


def test_students_cannot_change_the_graders_inputs():
    def in_place(scores, logprobs, ref, mask, coef):
        logprobs -= ref
        logprobs *= -coef * mask
        logprobs[torch.arange(len(scores)), last_live(mask)] += scores
        return logprobs

    assert checks.e07_2(in_place).passed


def test_an_endless_loop_is_stopped(monkeypatch):
    monkeypatch.setattr(frame, "SECONDS", 0.2)

    def endless(before, after):
        while True:
            pass

    assert "counter" in checks.e00_2(endless).en


def test_errors_are_explained_with_the_students_line():
    def mistaken(before, after):
        return after[99]

    def deeper(before, after):
        return statistics.mean([])  # raised inside the standard library

    assert "return statistics.mean([])" in checks.e00_2(deeper).en
    verdict = checks.e00_2(mistaken)
    assert "IndexError" in verdict.en and "return after[99]" in verdict.en and "last index" in verdict.en
    assert "/" not in verdict.en  # no path of this machine


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (TypeError("f() takes 1 positional argument but 2 were given"), "names"),
        (RuntimeError("The size of tensor a (3) must match"), "shape"),
        (NameError("name 'x' is not defined"), "cells above"),
        (OSError("odd"), "OSError: odd"),
    ],
)
def test_hints(error, hint):
    zh, en = explain(error)
    assert hint in en and "代码报错" in zh


W = torch.tensor([[1.0, -2.0, 3.5, 0.25], [4.0, 5.5, -6.0, 7.0]])


@pytest.mark.parametrize(
    ("got", "said"),
    [
        (-W, "wrong sign"),
        (2 * W, "2 times"),
        (8 * W, "a sum instead of a mean"),
        (W / 8, "a mean instead of a sum"),
        (W + 1, "same amount"),
        (torch.roll(W, 1, -1), "too late"),
        (torch.roll(W, -1, -1), "too early"),
        (W.flip(-1), "reversed"),
        (W.trunc().long(), "decimals"),
        (W.T, "swapped"),
        (W[:, :-1], "missing at the end"),
        (W.sum(), "one sum or mean too many"),
        (W / 0, "NaN or inf"),
        (W + torch.eye(4)[:2], "2 of 8 places, first at index (0, 0)"),
        ([[1.0, 2.0], [3.0]], "list or a tensor"),
        ({"a": 1}, "not dict"),
    ],
)
def test_compare_says_what_differs(got, said):
    with pytest.raises(Wrong, match=r"The result") as caught:
        checks.compare(got, W)
    assert said in caught.value.en


def test_compare_accepts_every_form_and_names_padding():
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    for same in (W, W.numpy(), W.tolist(), list(W), W[None], W + 1e-7, W.half().float().requires_grad_()):
        checks.compare(same, W, mask=mask)
    with pytest.raises(Wrong, match="padding only"):
        checks.compare(W + (1 - mask), W, mask=mask)
    with pytest.raises(Wrong, match="wrong sign"):
        checks.compare(torch.where(mask.bool(), -W, 9.0), W, mask=mask)
    with pytest.raises(checks.NotAnswered):
        checks.compare([1.0, None], W)


def test_fractions_and_decimals_are_numbers():
    assert checks.e07_1(Fraction(8, 25)).passed and checks.e06_3((0, Decimal("0.945"), Fraction(3, 2))).passed
    assert checks.e10_5(Fraction(12, 25), Fraction(17, 25), Fraction(7, 10)).passed
    assert checks.e11_3(lambda tokens, rank: Fraction(tokens[rank] * len(tokens), sum(tokens))).passed
    wrong = checks.e11_3(lambda tokens, rank: Fraction(tokens[rank], sum(tokens)))
    assert wrong.passed is False and "too small" in wrong.en
    checks.compare([[Fraction(1, 2)], [Decimal("0.25")]], [[0.5], [0.25]])


def test_verdicts_render_in_both_languages_and_escape():
    verdict = checks.Verdict("e00_1", False, "小于 <", "less than <")
    assert "&lt;" in verdict._repr_html_() and "✗" in verdict._repr_html_() and not verdict
    assert repr(verdict).splitlines() == ["✗ e00_1", "  小于 <", "  less than <"]


def test_graders_are_found_by_name():
    assert {"e00_1", "e00_4", "e07_1", "e07_5"} <= set(checks.graders()) <= set(dir(checks))
    with pytest.raises(AttributeError, match="e00_1"):
        _ = checks.e00_99
    with pytest.raises(AttributeError):
        _ = checks.e99_1
