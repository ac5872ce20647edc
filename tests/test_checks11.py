"""Graders of lesson 11: right answers in every form, wrong answers by name."""

import random

import torch
from grader_tools import told_apart

from rlhf import checks


def statistics(parts):
    n, s, q = (sum(column) for column in zip(*parts, strict=True))
    return s / n, (q - s * s / n) / (n - 1)


def mean_of(values):
    return sum(values) / len(values)


def mean_of_means(parts):
    return mean_of([s / n for n, s, _ in parts if n]), statistics(parts)[1]


def mean_of_variances(parts):
    return statistics(parts)[0], mean_of([q / n - (s / n) ** 2 for n, s, q in parts if n])


def divided_by_n(parts):
    mean, variance = statistics(parts)
    return mean, variance * (1 - 1 / sum(n for n, _, _ in parts))


def not_centred(parts):
    return statistics(parts)[0], sum(q for *_, q in parts) / sum(n for n, *_ in parts)


def root(parts):
    return statistics(parts)[0], statistics(parts)[1] ** 0.5


def shuffled(total, seed):
    order = list(range(total))
    random.Random(seed).shuffle(order)
    return order


def part(total, step, batch, rank, world, seed):
    steps = total // (batch * world)
    order = shuffled(total, seed + step // steps)
    start = (step % steps) * batch * world + rank * batch
    return order[start : start + batch]


def strided(total, step, batch, rank, world, seed):
    epoch, place = divmod(step, total // (batch * world))
    order = torch.randperm(total, generator=torch.Generator().manual_seed(1000 * seed + epoch))
    return order[place * batch * world :][: batch * world][rank::world]


def factor(tokens, rank):
    return tokens[rank] * len(tokens) / sum(tokens)


RIGHT = [
    ("e11_1", statistics),
    ("e11_1", lambda parts: torch.tensor(statistics(parts))),
    ("e11_1", lambda parts: [torch.tensor(x) for x in statistics(parts)]),
    ("e11_2", part),
    ("e11_2", strided),
    ("e11_3", factor),
    ("e11_3", lambda tokens, rank: torch.tensor(tokens[rank] / (sum(tokens) / len(tokens)))),
]

WRONG = [
    ("e11_1", mean_of_means, "mean of means"),
    ("e11_1", mean_of_variances, "mean of variances"),
    ("e11_1", divided_by_n, "by n − 1"),
    ("e11_1", not_centred, "not subtracted"),
    ("e11_1", root, "standard deviation"),
    ("e11_2", lambda t, s, b, r, w, seed: part(t, s, b, 0, w, seed), "same rows"),
    ("e11_2", lambda t, s, b, r, w, seed: part(t, s, b, r, w, seed + r), "overlap"),
    ("e11_2", lambda t, s, b, r, w, seed: part(t, 0, b, r, w, seed), "goes on where"),
    ("e11_2", lambda t, s, b, r, w, seed: part(t, s % (t // (b * w)), b, r, w, seed), "shuffle anew"),
    ("e11_2", lambda t, s, b, r, w, seed: part(t, s, b, r, w, 5), "nothing is shuffled"),
    ("e11_2", lambda t, s, b, r, w, seed: part(t, s, b * w, 0, 1, seed), "rows instead of"),
    ("e11_3", lambda tokens, rank: 1.0, "mistake itself"),
    ("e11_3", lambda tokens, rank: tokens[rank] / sum(tokens), "2 times too small"),
    ("e11_3", lambda tokens, rank: sum(tokens) / tokens[rank] / len(tokens), "upside down"),
    ("e11_3", lambda tokens, rank: tokens[rank], "number of all tokens"),
    ("e11_3", lambda tokens, rank: 1 / len(tokens), "done by DDP"),
]

test_right_answers_pass, test_wrong_answers_are_named = told_apart(RIGHT, WRONG)

BYTES = (208, 61.75, 37.375, 13)


def test_bytes_per_gpu():
    assert checks.e11_4(*BYTES).passed and checks.e11_4(208, 62, 37, 13).passed
    assert "not GiB" in checks.e11_4(193.7, *BYTES[1:]).en
    assert "sum over all GPUs" in checks.e11_4(*BYTES[:3], 208).en
    assert "shared out" in checks.e11_4(208, 13, 37, 13).en
    assert "12 of optimiser" in checks.e11_4(104, *BYTES[1:]).en
    assert "not bytes" in checks.e11_4(208e9, *BYTES[1:]).en
    assert checks.e11_4(208, 61.75, 37.375, ...).passed is None


def test_empty_bodies_are_no_answers():
    for grade in (checks.e11_1, checks.e11_2, checks.e11_3):
        assert grade(lambda *args: None).passed is None and grade(...).passed is None
