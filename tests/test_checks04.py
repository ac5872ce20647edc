"""Graders of lesson 04: right answers in every form, wrong ones by name."""

import math

import pytest
import torch
import torch.nn.functional as F
from grader_tools import told_apart

from rlhf import checks

V = 50_257


def by_place(ids, mask, pad):
    return ids.masked_fill(mask == 0, -100)


def by_number(ids, mask, pad):
    return ids.masked_fill(ids == pad, -100)


def shifted(labels):
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], 1)


def loss_of(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def without(column):
    """Labels by place, and one more position of every row ignored: its first real token, or a column."""

    def labels(ids, mask, pad):
        made = by_place(ids, mask, pad).clone()
        made[torch.arange(len(ids)), mask.argmax(1) if column is None else column] = -100
        return made

    return labels


def each_of(logits, labels):
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")


def per_row(logits, labels):
    live = labels[:, 1:] != -100
    rows = [row[keep].mean() for row, keep in zip(each_of(logits, labels), live, strict=True) if keep.any()]
    return torch.stack(rows).mean()


def token_mean(parts):
    return torch.cat(list(parts)).mean()


def weighted(parts):
    tokens = sum(len(part) for part in parts)
    return sum(part.mean() * len(part) / tokens for part in parts)


def starts(lengths):
    return [number for length in lengths for number in range(length)]


def row(lengths):
    return starts(lengths), [number > 0 for number in starts(lengths)]


RIGHT = [
    ("e04_1", (10.8, V)),
    ("e04_1", (math.log(V), 50_000)),
    ("e04_1", (torch.tensor(10.86), torch.tensor([52_000.0]))),
    ("e04_2", (by_place,)),
    ("e04_2", (lambda ids, mask, pad: torch.where(mask.bool(), ids, -100),)),
    ("e04_2", (lambda ids, mask, pad: (ids * mask - 100 * (1 - mask)).tolist(),)),
    (
        "e04_2",
        (lambda input_ids, attention_mask, pad_token_id: by_place(input_ids, attention_mask, 0).numpy(),),
    ),
    ("e04_2", (without(None),)),  # nothing comes before the first real token of a row
    ("e04_2", (without(0),)),
    ("e04_3", (loss_of,)),
    ("e04_3", (lambda logits, labels: each_of(logits, labels).sum() / (labels[:, 1:] != -100).sum(),)),
    ("e04_3", (lambda logits, labels: loss_of(logits, labels).item(),)),
    ("e04_4", (token_mean,)),
    ("e04_4", (weighted,)),
    ("e04_4", (lambda parts: sum(p.sum() for p in parts) / sum(p.numel() for p in parts),)),
    ("e04_5", (row,)),
    ("e04_5", (lambda lengths: tuple(map(torch.tensor, row(lengths))),)),
    ("e04_5", (lambda seq_lengths: [starts(seq_lengths), [int(n > 0) for n in starts(seq_lengths)]],)),
]

WRONG = [
    ("e04_1", (0.0, 1.0), "every token was right"),
    ("e04_1", (math.log2(V), V), "in bits"),
    ("e04_1", (math.log10(V), V), "base 10"),
    ("e04_1", (1 / V, V), "probability of each token"),
    ("e04_1", (V, V), "That is the perplexity"),
    ("e04_1", (-math.log(V), V), "never negative"),
    ("e04_1", (5.0, V), "how likely"),
    ("e04_1", (math.log(V), math.log(V)), "exp(loss)"),
    ("e04_1", (True, V), "one number"),
    ("e04_2", (by_number,), "never learns to stop"),
    ("e04_2", (lambda ids, mask, pad: shifted(by_number(ids, mask, pad)),), "Do not shift"),
    ("e04_2", (lambda ids, mask, pad: shifted(by_number(ids, mask, pad)),), "lost as well"),
    ("e04_2", (lambda ids, mask, pad: shifted(by_place(ids, mask, pad)),), "Do not shift"),
    ("e04_2", (lambda ids, mask, pad: by_place(ids, mask, pad).roll(-1, 1),), "Do not shift"),
    ("e04_2", (lambda ids, mask, pad: ids,), "EOS follows EOS"),
    ("e04_2", (lambda ids, mask, pad: ids * mask,), "0 is a real token"),
    ("e04_2", (lambda ids, mask, pad: by_place(ids, mask, pad)[:, 1:],), "missing at the end"),
    ("e04_2", (lambda ids, mask, pad: mask,), "wrong in"),
    ("e04_2", (without(1),), "The tensor of labels is wrong in"),
    ("e04_2", (without(-1),), "The tensor of labels is wrong in"),
    ("e04_3", (lambda lo, la: F.cross_entropy(lo.flatten(0, 1), la.flatten()),), "no shift"),
    ("e04_3", (lambda lo, la: F.cross_entropy(lo[:, 1:].flatten(0, 1), la[:, :-1].flatten()),), "wrong way"),
    ("e04_3", (lambda lo, la: each_of(lo, la).mean(),), "denominator"),
    ("e04_3", (lambda lo, la: each_of(lo, la).sum(),), "not the sum"),
    ("e04_3", (lambda lo, la: -loss_of(lo, la),), "flipped"),
    ("e04_3", (per_row,), "short rows"),
    ("e04_3", (each_of,), "shape"),
    ("e04_4", (lambda parts: sum(p.mean() / len(parts) for p in parts),), "mean of means"),
    ("e04_4", (lambda parts: sum(p.mean() for p in parts),), "only added up"),
    ("e04_4", (lambda parts: sum(p.sum() for p in parts),), "total number of tokens"),
    ("e04_4", (lambda parts: sum(p.sum() for p in parts) / len(parts),), "not of minibatches"),
    ("e04_4", (lambda parts: parts[-1].mean(),), "last minibatch"),
    ("e04_4", (lambda parts: token_mean(parts).item(),), "no gradient"),
    ("e04_4", (lambda parts: token_mean([p.detach() for p in parts]),), "no gradient"),
    ("e04_5", (lambda lengths: (list(range(sum(lengths))), row(lengths)[1]),), "starts from 0 again"),
    ("e04_5", (lambda lengths: ([n + 1 for n in starts(lengths)], row(lengths)[1]),), "start from 0"),
    (
        "e04_5",
        (lambda lengths: ([i for i, n in enumerate(lengths) for _ in range(n)], row(lengths)[1]),),
        "which text",
    ),
    ("e04_5", (lambda lengths: (starts(lengths), [True] * sum(lengths)),), "predict the next"),
    ("e04_5", (lambda lengths: (starts(lengths), [n == 0 for n in starts(lengths)]),), "swapped"),
    (
        "e04_5",
        (lambda lengths: (starts(lengths), [i > 0 for i in range(sum(lengths))]),),
        "Only the first of the row",
    ),
    ("e04_5", (starts,), "two things"),
]


test_right_answers_pass, test_wrong_answers_are_named = told_apart(RIGHT, WRONG)


@pytest.mark.parametrize("name", [f"e04_{k}" for k in range(1, 6)])
def test_every_grader_survives_anything(name):
    grade, count = getattr(checks, name), 2 if name == "e04_1" else 1

    def broken(*args):
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")

    for answer in (None, ...):
        assert grade(*[answer] * count).passed is None
    for answer in (broken, lambda: 1, "text", [], {}, object(), float("nan"), torch.zeros(2, 3), -1e9):
        assert grade(*[answer] * count).passed is False
    assert grade().passed is False


def test_unanswered_bodies_are_not_wrong():
    for name in ("e04_2", "e04_3", "e04_4", "e04_5"):
        assert getattr(checks, name)(lambda *a: None).passed is None
    assert checks.e04_5(lambda lengths: (..., ...)).passed is None
    assert checks.e04_1(10.8, ...).passed is None


def test_the_vocabulary_is_a_setting():
    assert checks.e04_1(math.log(5000), 5000, vocabulary=5000).passed
    assert not checks.e04_1(math.log(5000), 5000).passed
