"""Graders of lesson 05: right answers in every form, wrong answers by name."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from grader_tools import told_apart

from rlhf import checks

TEMPLATE = "Question: {}\nAnswer: {}"


def serve(tokenizer, question, answer, max_length):
    return tokenizer(TEMPLATE.format(question, answer) + tokenizer.eos_token)["input_ids"][-max_length:]


def serve_by_truncation(tokenizer, question, answer, max_length):
    tokenizer.truncation_side = "left"
    text = TEMPLATE.format(question, answer) + tokenizer.eos_token
    return tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")["input_ids"]


def raw(tokenizer, question, answer, max_length):
    return tokenizer(question + " " + answer + tokenizer.eos_token)["input_ids"][-max_length:]


def without_end(tokenizer, question, answer, max_length):
    return tokenizer(TEMPLATE.format(question, answer))["input_ids"][-max_length:]


def keeps_the_beginning(tokenizer, question, answer, max_length):
    return tokenizer(TEMPLATE.format(question, answer) + tokenizer.eos_token)["input_ids"][:max_length]


def end_after_the_cut(tokenizer, question, answer, max_length):
    ids = tokenizer(TEMPLATE.format(question, answer))["input_ids"][: max_length - 1]
    return [*ids, tokenizer.eos_token_id]


def no_limit(tokenizer, question, answer, max_length):
    return tokenizer(TEMPLATE.format(question, answer) + tokenizer.eos_token)["input_ids"]


def other_template(tokenizer, question, answer, max_length):
    return tokenizer(f"Question: {question} Answer: {answer}{tokenizer.eos_token}")["input_ids"][-max_length:]


def two_ends(tokenizer, question, answer, max_length):
    return tokenizer(TEMPLATE.format(question, answer) + 2 * tokenizer.eos_token)["input_ids"][-max_length:]


def last(scores, mask):
    place = torch.arange(mask.shape[1])
    return scores[torch.arange(len(scores)), (mask * place).argmax(1)]


def last_by_flipping(scores, mask):
    return scores[torch.arange(len(scores)), mask.shape[1] - 1 - mask.flip(1).argmax(1)]


def loss(chosen, rejected, centre):
    return -F.logsigmoid(chosen - rejected).mean() + centre * ((chosen + rejected) ** 2).mean()


def ceiling(agreement):
    return 1 - (1 - math.sqrt(2 * agreement - 1)) / 2


def rows(scores):
    return torch.arange(len(scores))


RIGHT = [
    ("e05_1", (0.693, 0.5)),
    ("e05_1", (torch.tensor(math.log(2)), 0.47)),
    ("e05_1", (0.6945, torch.tensor([0.52]))),
    ("e05_2", (serve,)),
    ("e05_2", (serve_by_truncation,)),
    ("e05_2", (lambda *a: torch.tensor(serve(*a)),)),
    ("e05_2", (lambda *a: {"input_ids": serve(*a)},)),
    ("e05_3", (last,)),
    ("e05_3", (last_by_flipping,)),
    ("e05_3", (lambda s, m: [row[keep.bool()][-1] for row, keep in zip(s, m, strict=True)],)),
    ("e05_3", (lambda s, m: last(s, m)[:, None],)),
    ("e05_3", (lambda s, m: last(s, m).numpy(),)),
    ("e05_4", (loss,)),
    ("e05_4", (lambda c, r, k: F.softplus(r - c).mean() + k * (c + r).square().mean(),)),
    ("e05_4", (lambda c, r, k: float(loss(c, r, k)),)),
    ("e05_4", (lambda c, r, k: torch.log1p(torch.exp((r - c).double())).mean() + k * ((c + r) ** 2).mean(),)),
    ("e05_5", (ceiling,)),
    ("e05_5", (lambda a: (1 + np.sqrt(2 * a - 1)) / 2,)),
    ("e05_5", (lambda a: torch.tensor(ceiling(a)),)),
]

WRONG = [
    ("e05_1", (0.0, 0.5), "already knows"),
    ("e05_1", (0.5, 0.5), "probability"),
    ("e05_1", (0.301, 0.5), "base 10"),
    ("e05_1", (-0.693, 0.5), "flipped"),
    ("e05_1", (1.0, 0.5), "base 2"),
    ("e05_1", (5.0, 0.5), "what is σ"),
    ("e05_1", (0.693, 0.9), "coin"),
    ("e05_1", (0.69, 50), "not in percent"),
    ("e05_1", (0.693, 0.0), "coin"),
    ("e05_2", (raw,), "not the template"),
    ("e05_2", (without_end,), "EOS is missing"),
    ("e05_2", (keeps_the_beginning,), "lost its end"),
    ("e05_2", (end_after_the_cut,), "lost its end"),
    ("e05_2", (no_limit,), "more than max_length"),
    ("e05_2", (other_template,), "Not as in training"),
    ("e05_2", (two_ends,), "more than once"),
    ("e05_2", (lambda *a: TEMPLATE,), "not text"),
    ("e05_2", (lambda *a: torch.zeros(2, 3),), "one row"),
    ("e05_3", (lambda s, m: s[:, -1],), "last column"),
    ("e05_3", (lambda s, m: s[rows(s), m.sum(1) - 1],), "right padding only"),
    ("e05_3", (lambda s, m: s[rows(s), m.argmax(1)],), "first real token"),
    ("e05_3", (lambda s, m: s.mean(1),), "neighbours"),
    ("e05_3", (lambda s, m: (s * m).sum(1) / m.sum(1),), "only the last"),
    ("e05_3", (lambda s, m: (s * m).sum(1),), "Not the sum"),
    ("e05_3", (lambda s, m: s.masked_fill(m == 0, -1e9).max(1).values,), "Not the largest"),
    ("e05_3", (lambda s, m: s,), "shape"),
    ("e05_3", (lambda s, m: s[rows(s), -2],), "wrong in"),
    ("e05_4", (lambda c, r, k: loss(r, c, k),), "flipped"),
    ("e05_4", (lambda c, r, k: loss(c, r, k) * len(c),), "mean, not the sum"),
    ("e05_4", (lambda c, r, k: F.logsigmoid(c - r).mean(),), "minus"),
    ("e05_4", (lambda c, r, k: (1 - (c - r).sigmoid()).mean(),), "log is missing"),
    ("e05_4", (lambda c, r, k: (F.softplus(-c) + F.softplus(r)).mean(),), "subtract first"),
    ("e05_4", (lambda c, r, k: F.softplus((r - c).mean()),), "then the mean"),
    ("e05_4", (lambda c, r, k: loss(c, r, 0.0),), "centring term is missing"),
    ("e05_4", (lambda c, r, k: loss(c, r, 0.0) + k * ((c - r) ** 2).mean(),), "not the difference"),
    ("e05_4", (lambda c, r, k: loss(c, r, 0.0) + k * (c**2 + r**2).mean(),), "shrink"),
    ("e05_4", (lambda c, r, k: loss(c, r, 0.0) + k * (c + r).mean() ** 2,), "Square first"),
    ("e05_4", (lambda c, r, k: loss(c, r, 0.0) + k * ((c + r) / 2).square().mean(),), "not half"),
    ("e05_4", (lambda c, r, k: loss(c, r, 0.0) + k * (c + r).square().sum(),), "mean too"),
    ("e05_4", (lambda c, r, k: -(c - r).sigmoid().log().mean() + k * ((c + r) ** 2).mean(),), "underflows"),
    ("e05_4", (lambda c, r, k: F.softplus(r - c),), "shape"),
    ("e05_5", (lambda a: a,), "above the agreement"),
    ("e05_5", (lambda a: (1 - math.sqrt(2 * a - 1)) / 2,), "error e"),
    ("e05_5", (math.sqrt,), "both may be wrong"),
    ("e05_5", (lambda a: (1 + a) / 2,), "not linear"),
    ("e05_5", (lambda a: a * a,), "Wrong way"),
    ("e05_5", (lambda a: 0.99,), "Hint"),
]


test_right_answers_pass, test_wrong_answers_are_named = told_apart(RIGHT, WRONG)


def test_the_buggy_function_of_the_lesson_does_not_pass():
    def buggy_serve(tokenizer, question, answer, max_length):
        return tokenizer(question + "\n" + answer, truncation=True, max_length=max_length)["input_ids"]

    verdict = checks.e05_2(buggy_serve)
    assert verdict.passed is False and "not the template" in verdict.en


@pytest.mark.parametrize("name", [f"e05_{k}" for k in range(1, 6)])
def test_graders_survive_anything(name):
    grade, count = getattr(checks, name), 2 if name == "e05_1" else 1

    def broken(*args):
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")

    for answer in (None, ...):
        assert grade(*[answer] * count).passed is None
    for answer in (broken, lambda *a: "text", "text", [], {}, object(), float("nan"), torch.zeros(2, 3), 1e9):
        assert grade(*[answer] * count).passed is False
    assert grade().passed is False


def test_an_empty_body_is_not_answered_yet():
    for name in ("e05_2", "e05_3", "e05_4", "e05_5"):
        assert getattr(checks, name)(lambda *a: None).passed is None
    assert checks.e05_1(0.69, None).passed is None
