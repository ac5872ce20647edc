"""Graders of lesson 11: right answers in every form, wrong answers by name."""

import random

import pytest
import torch

from rlhf import checks


def statistics(parts):
    n, s, q = (sum(column) for column in zip(*parts, strict=True))
    return s / n, (q - s * s / n) / (n - 1)


@pytest.mark.parametrize(
    "right",
    [
        statistics,
        lambda parts: torch.tensor(statistics(parts)),
        lambda parts: [torch.tensor(x) for x in statistics(parts)],
    ],
)
def test_statistics_pass(right):
    assert checks.e11_1(right).passed, checks.e11_1(right)


def means(parts):
    return [s / n for n, s, _ in parts if n]


def variances(parts):
    return [q / n - (s / n) ** 2 for n, s, q in parts if n]


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda p: (mean(means(p)), statistics(p)[1]), "mean of means"),
        (lambda p: (statistics(p)[0], mean(variances(p))), "mean of variances"),
        (
            lambda p: (statistics(p)[0], statistics(p)[1] * (1 - 1 / sum(n for n, _, _ in p))),
            "by n − 1",
        ),
        (lambda p: (statistics(p)[0], sum(q for *_, q in p) / sum(n for n, *_ in p)), "not subtracted"),
        (lambda p: (statistics(p)[0], statistics(p)[1] ** 0.5), "standard deviation"),
    ],
)
def test_wrong_statistics_are_named(wrong, said):
    verdict = checks.e11_1(wrong)
    assert verdict.passed is False and said in verdict.en, verdict


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


@pytest.mark.parametrize("right", [part, strided])
def test_parts_of_one_deck_pass(right):
    assert checks.e11_2(right).passed, checks.e11_2(right)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda t, s, b, r, w, seed: part(t, s, b, 0, w, seed), "same rows"),
        (lambda t, s, b, r, w, seed: part(t, s, b, r, w, seed + r), "overlap"),
        (lambda t, s, b, r, w, seed: part(t, 0, b, r, w, seed), "goes on where"),
        (lambda t, s, b, r, w, seed: part(t, s % (t // (b * w)), b, r, w, seed), "shuffle anew"),
        (lambda t, s, b, r, w, seed: part(t, s, b, r, w, 5), "nothing is shuffled"),
        (lambda t, s, b, r, w, seed: part(t, s, b * w, 0, 1, seed), "rows instead of"),
    ],
)
def test_wrong_rows_are_named(wrong, said):
    verdict = checks.e11_2(wrong)
    assert verdict.passed is False and said in verdict.en, verdict


@pytest.mark.parametrize(
    "right",
    [
        lambda tokens, rank: tokens[rank] * len(tokens) / sum(tokens),
        lambda tokens, rank: torch.tensor(tokens[rank] / (sum(tokens) / len(tokens))),
    ],
)
def test_the_factor_passes(right):
    assert checks.e11_3(right).passed, checks.e11_3(right)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda tokens, rank: 1.0, "mistake itself"),
        (lambda tokens, rank: tokens[rank] / sum(tokens), "2 times too small"),
        (lambda tokens, rank: sum(tokens) / tokens[rank] / len(tokens), "upside down"),
        (lambda tokens, rank: tokens[rank], "number of all tokens"),
        (lambda tokens, rank: 1 / len(tokens), "done by DDP"),
    ],
)
def test_a_wrong_factor_is_named(wrong, said):
    verdict = checks.e11_3(wrong)
    assert verdict.passed is False and said in verdict.en, verdict


RIGHT = (208, 61.75, 37.375, 13)


def test_bytes_per_gpu():
    assert checks.e11_4(*RIGHT).passed and checks.e11_4(208, 62, 37, 13).passed
    assert "not GiB" in checks.e11_4(193.7, *RIGHT[1:]).en
    assert "sum over all GPUs" in checks.e11_4(*RIGHT[:3], 208).en
    assert "shared out" in checks.e11_4(208, 13, 37, 13).en
    assert "12 of optimiser" in checks.e11_4(104, *RIGHT[1:]).en
    assert "not bytes" in checks.e11_4(208e9, *RIGHT[1:]).en
    assert checks.e11_4(208, 61.75, 37.375, ...).passed is None


def test_empty_bodies_are_no_answers():
    for grade in (checks.e11_1, checks.e11_2, checks.e11_3):
        assert grade(lambda *args: None).passed is None and grade(...).passed is None
