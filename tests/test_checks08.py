"""Graders of lesson 08: right answers in every form, wrong answers by name."""

import math

import numpy as np
import pytest
import torch
from grader_tools import told_apart

from rlhf import checks, rejection


def collect(prompts, size, k, sample, score):
    pairs = []
    for start in range(0, len(prompts), size):
        batch = prompts[start : start + size]
        for prompt, responses in zip(batch, sample(batch, k), strict=True):
            scores = score([prompt + response for response in responses])
            pairs.append((prompt, responses[int(np.argmax(scores))]))
    return pairs


def collect_by_while(prompts, size, k, sample, score):
    pairs, start = [], 0
    while start < len(prompts):
        batch = prompts[start : start + size]
        for prompt, responses in zip(batch, sample(batch, k), strict=True):
            pairs.append([prompt, max(responses, key=lambda r, p=prompt: score([p + r])[0])])
        start += size
    return pairs


def counter_never_moves(prompts, size, k, sample, score):
    pairs = []
    while len(pairs) < len(prompts):
        pairs += collect(prompts[:size], size, k, sample, score)
    return pairs[: len(prompts)]


def whole_batches_only(prompts, size, k, sample, score):
    return collect(prompts[: len(prompts) - len(prompts) % size], size, k, sample, score)


def all_at_once(prompts, size, k, sample, score):
    return collect(prompts, len(prompts), k, sample, score)


def scores_the_response_alone(prompts, size, k, sample, score):
    return [(p, max(sample([p], k)[0], key=lambda r: score([r])[0])) for p in prompts]


def worst(prompts, size, k, sample, score):
    return collect(prompts, size, k, sample, lambda texts: [-value for value in score(texts)])


def first(prompts, size, k, sample, score):
    return [(prompt, sample([prompt], k)[0][0]) for prompt in prompts]


def backwards(prompts, size, k, sample, score):
    return collect(prompts, size, k, sample, score)[::-1]


def of(outputs, label):
    return [{each["label"]: each["score"] for each in output}[label] for output in outputs]


def by_label(outputs):
    scores = of(outputs, "POSITIVE")
    return scores.index(max(scores))


def by_place(place):
    return lambda outputs: max(range(len(outputs)), key=lambda i: outputs[i][place]["score"])


def estimate(scores, k):
    ordered, ways = sorted(scores), math.comb(len(scores), k)
    return sum(score * math.comb(i, k - 1) for i, score in enumerate(ordered)) / ways


def plug_in(scores, k):
    ordered, n = sorted(scores), len(scores)
    return sum(score * ((i + 1) ** k - i**k) for i, score in enumerate(ordered)) / n**k


def off_by_one(scores, k):
    ways = math.comb(len(scores), k)
    return sum(score * math.comb(i, k) for i, score in enumerate(sorted(scores))) / ways


def one_grouping(scores, k):
    groups = [scores[i : i + k] for i in range(0, len(scores) - len(scores) % k, k)]
    return sum(map(max, groups)) / len(groups)


RIGHT = [
    ("e08_1", (512, 8, 1)),
    ("e08_1", (8.0**3, torch.tensor(8), np.int64(1))),
    ("e08_2", (collect,)),
    ("e08_2", (collect_by_while,)),
    ("e08_3", (by_label,)),
    ("e08_3", (lambda outputs: torch.tensor(of(outputs, "POSITIVE")).argmax(),)),
    ("e08_3", (lambda outputs: np.argmax(of(outputs, "POSITIVE")),)),
    ("e08_4", (estimate,)),
    ("e08_4", (lambda scores, k: rejection.expected_max(torch.tensor(scores), k),)),
    ("e08_4", (lambda scores, k: rejection.expected_max(torch.tensor(scores), k).numpy(),)),
]

WRONG = [
    ("e08_1", (24, 8, 1), "do not add up"),
    ("e08_1", (8, 8, 1), "gets better"),
    ("e08_1", (3**8, 8, 1), "swapped"),
    ("e08_1", (64, 8, 1), "missing"),
    ("e08_1", (100, 8, 1), "exponent"),
    ("e08_1", (512, 512, 1), "never changes"),
    ("e08_1", (512, 24, 1), "across rounds"),
    ("e08_1", (512, 1, 1), "writer"),
    ("e08_1", (512, 8, 8), "nothing changes"),
    ("e08_1", (512, 8, 0), "best of 1"),
    ("e08_1", ([1, 2], 8, 1), "one number"),
    ("e08_2", (counter_never_moves,), "start never moves"),
    ("e08_2", (whole_batches_only,), "last batch"),
    ("e08_2", (all_at_once,), "at most"),
    ("e08_2", (scores_the_response_alone,), "whole texts"),
    ("e08_2", (worst,), "worst"),
    ("e08_2", (first,), "scores highest"),
    ("e08_2", (backwards,), "order"),
    ("e08_2", (lambda prompts, *rest: 5,), "list of"),
    ("e08_2", (lambda p, size, k, sample, score: sample(p[0], k),), "as a list"),
    ("e08_2", (lambda p, size, k, sample, score: sample(p[:1], 1),), "Ask sample for"),
    ("e08_3", (by_place(0),), "harshest"),
    ("e08_3", (by_place(1),), "second label"),
    ("e08_3", (lambda outputs: max(of(outputs, "POSITIVE")),), "return its index"),
    ("e08_3", (lambda outputs: int(np.argmax(of(outputs, "NEGATIVE"))),), "most negative"),
    ("e08_3", (lambda outputs: int(np.argmin(of(outputs, "POSITIVE"))),), "lowest"),
    ("e08_3", (lambda outputs: [0, 1],), "one index"),
    ("e08_4", (plug_in,), "more than once"),
    ("e08_4", (one_grouping,), "one way to form groups"),
    ("e08_4", (lambda scores, k: max(scores),), "all N"),
    ("e08_4", (lambda scores, k: sum(scores) / len(scores),), "the mean"),
    ("e08_4", (lambda scores, k: sum(sorted(scores)[-k:]) / k,), "K highest"),
    ("e08_4", (lambda scores, k: -estimate([-s for s in scores], k),), "minimum"),
    ("e08_4", (off_by_one,), "off by one"),
]


test_right_answers_pass, test_wrong_answers_are_named = told_apart(RIGHT, WRONG)


@pytest.mark.parametrize("grade", ["e08_1", "e08_2", "e08_3", "e08_4"])
def test_every_grader_survives_anything(grade):
    grade = getattr(checks, grade)
    count = 3 if grade.__name__ == "e08_1" else 1

    def quits(*args):
        raise SystemExit

    for answer in (None, ...):
        assert grade(*[answer] * count).passed is None
    for answer in (quits, lambda *a: [], "text", [], {}, object(), float("nan"), torch.zeros(2, 3), -1e9):
        assert grade(*[answer] * count).passed is False


def test_other_sizes_of_the_rounds_reach_the_grader():
    assert checks.e08_1(16, 4, 1, k=4, rounds=2).passed
    assert not checks.e08_1(512, 8, 1, k=4, rounds=2).passed


def test_the_functions_shown_in_the_lesson_are_the_bugs_that_are_named():
    """Executed from the lesson's own source, so that the two cannot drift apart."""
    import re
    from pathlib import Path

    source = (Path(__file__).parents[1] / "lessons" / "08_rejection_sampling.py").read_text(encoding="utf-8")
    space = {}
    for function in ("buggy_collect", "buggy_best_of"):
        exec(re.search(rf"^def {function}\(.*?(?=^# %%)", source, re.S | re.M)[0], space)
    assert "start never moves" in checks.e08_2(space["buggy_collect"]).en
    assert "harshest" in checks.e08_3(space["buggy_best_of"]).en
