"""Graders of lesson 10: right answers in every form, wrong answers by name."""

import re

import numpy as np
import pytest
import torch
from grader_tools import told_apart
from sklearn.metrics import cohen_kappa_score

from rlhf import checks, judge
from rlhf.judge import Judgements, Question

VALID = ("A", "B", "tie")


def complete(straight, swapped):
    return [(one, two) for one, two in zip(straight, swapped, strict=True) if one in VALID and two in VALID]


def as_judgements(straight, swapped):
    return Judgements((Question("q", "a", "b"),) * len(straight), tuple(straight), tuple(swapped))


# ---- e10_1


def share_b(straight, swapped):
    answers = [answer for pair in complete(straight, swapped) for answer in pair]
    return answers.count("B") / (answers.count("A") + answers.count("B"))


def share(pick, among=("A", "B"), letter="B"):
    def of(straight, swapped):
        answers = [answer for pair in complete(straight, swapped) for answer in pick(pair)]
        return answers.count(letter) / sum(answer in among for answer in answers)

    return of


def share_of_everything(straight, swapped):
    both = straight + swapped
    return both.count("B") / (both.count("A") + both.count("B"))


# ---- e10_2


def win_rate(straight, swapped):
    pairs = complete(straight, swapped)
    wins = sum(pair == ("A", "B") for pair in pairs)
    losses = sum(pair == ("B", "A") for pair in pairs)
    return (wins + (len(pairs) - wins - losses) / 2) / len(pairs)


def rate(value, keep=complete):
    def of(straight, swapped):
        values = [value(one, two) for one, two in keep(straight, swapped)]
        values = [each for each in values if each is not None]
        return sum(values) / len(values)

    return of


def everything(straight, swapped):
    return zip(straight, swapped, strict=True)


def points(one, two):
    return {("A", "B"): 1.0, ("B", "A"): 0.0}.get((one, two), 0.5)


def one_order(one, two):
    return {"A": 1.0, "B": 0.0, "tie": 0.5}[one]


def half(one, two):
    return (one_order(one, two) + {"B": 1.0, "A": 0.0, "tie": 0.5}[two]) / 2


def untranslated(one, two):
    return (one_order(one, two) + one_order(two, one)) / 2


def averaged_one_order_each(straight, swapped):
    """The win rate of the second order alone."""
    return rate(lambda one, two: {"B": 1.0, "A": 0.0, "tie": 0.5}[two])(straight, swapped)


# ---- e10_3


def read(text):
    verdicts = set(re.findall(r"\[\[([ABC])\]\]", text))
    return {"A": "A", "B": "B", "C": "tie"}[verdicts.pop()] if len(verdicts) == 1 else "malformed"


def read_or_none(text):
    return {"malformed": None, "tie": "C"}.get(read(text), read(text))


def otherwise_a(text):
    return "A" if read(text) == "malformed" else read(text)


def first_letter(text):
    found = re.search(r"[ABC]", text)
    return {"C": "tie"}.get(found[0], found[0]) if found else "malformed"


def mentioned(text):
    return "A" if "A" in text else "B" if "B" in text else "malformed"


def last_verdict(text):
    verdicts = re.findall(r"\[\[([ABC])\]\]", text)
    return {"A": "A", "B": "B", "C": "tie"}[verdicts[-1]] if verdicts else "malformed"


def otherwise_a_tie(text):
    return "tie" if read(text) == "malformed" else read(text)


def brackets_alone(text):
    return {"[[A]]": "A", "[[B]]": "B", "[[C]]": "tie"}.get(text.strip(), "malformed")


def mixed_up(text):
    return {"A": "B", "B": "A"}.get(read(text), read(text))


# ---- e10_4


def judged_by_both(one, other):
    return [(x, y) for x, y in zip(one, other, strict=True) if x is not None and y is not None]


def kappa(one, other):
    return corrected(judged_by_both(one, other))


def chance(pairs):
    one, other = zip(*pairs, strict=True)
    return sum(one.count(kind) * other.count(kind) for kind in set(one)) / len(pairs) ** 2


def raw(pairs):
    return sum(x == y for x, y in pairs) / len(pairs)


def corrected(pairs, by_chance=chance):
    return (raw(pairs) - by_chance(pairs)) / (1 - by_chance(pairs))


def pooled(pairs):
    labels = [label for pair in pairs for label in pair]
    return sum((labels.count(kind) / len(labels)) ** 2 for kind in set(labels))


RIGHT = [
    ("e10_1", share_b),
    ("e10_1", lambda straight, swapped: torch.tensor(share_b(straight, swapped))),
    ("e10_1", lambda *case: judge.order_bias(as_judgements(*case), resamples=1).share_b),
    ("e10_2", win_rate),
    ("e10_2", lambda straight, swapped: np.array([win_rate(straight, swapped)])),
    ("e10_2", lambda *case: judge.win_rate(as_judgements(*case), resamples=1).rate),
    ("e10_3", read),
    ("e10_3", read_or_none),
    ("e10_3", judge.read_answer),
    ("e10_4", kappa),
    ("e10_4", lambda *case: cohen_kappa_score(*zip(*judged_by_both(*case), strict=True))),
    ("e10_4", lambda *case: judge.agreement(*case, resamples=1).kappa),
]

WRONG = [
    ("e10_1", share(lambda pair: pair[:1]), "first order"),
    ("e10_1", share(lambda pair: pair[1:]), "second order"),
    ("e10_1", share(lambda pair: pair, letter="A"), "share of A"),
    ("e10_1", share(lambda pair: pair, among=VALID), "Ties are in the denominator"),
    ("e10_1", share_of_everything, "one answer missing"),
    ("e10_1", lambda *case: (case[0] + case[1]).count("B") / (2 * len(case[0])), "Malformed answers"),
    ("e10_1", share(lambda pair: (pair[0], {"A": "B", "B": "A"}.get(pair[1], "tie"))), "places"),
    ("e10_1", lambda *case: sum(pair.count("B") for pair in complete(*case)), "a count"),
    ("e10_1", lambda *case: 100 * share_b(*case), "not percent"),
    ("e10_1", lambda *case: 0.5, "should be"),
    ("e10_1", lambda *case: [0.5, 0.5], "one number"),
    ("e10_2", rate(one_order), "Only one order"),
    ("e10_2", averaged_one_order_each, "Only one order"),
    ("e10_2", rate(lambda one, two: float(one == "A"), everything), "Only one order"),
    ("e10_2", lambda straight, swapped: straight.count("A") / len(straight), "Only one order"),
    (
        "e10_2",
        lambda straight, swapped: straight.count("A") / (straight.count("A") + straight.count("B")),
        "Only one order",
    ),
    ("e10_2", rate(untranslated), "not translated"),
    ("e10_2", rate(lambda *pair: {("A", "A"): 1.0, ("B", "B"): 0.0}.get(pair, 0.5)), "same place twice"),
    ("e10_2", rate(lambda *pair: None if points(*pair) == 0.5 else points(*pair)), "Ties are dropped"),
    ("e10_2", rate(lambda *pair: float(points(*pair) == 1)), "count as losses"),
    ("e10_2", rate(lambda *pair: float(points(*pair) > 0)), "count as wins"),
    ("e10_2", rate(lambda *p: None if p in (("A", "A"), ("B", "B")) else points(*p)), "contradict"),
    ("e10_2", rate(half), "stricter"),
    ("e10_2", rate(lambda *pair: 1 - points(*pair)), "opponent"),
    ("e10_2", rate(points, everything), "guessed"),
    ("e10_2", rate(lambda *p: points(*p) if set(p) <= set(VALID) else 0.0, everything), "guessed"),
    ("e10_2", lambda *case: sum(points(*pair) for pair in complete(*case)), "the sum"),
    ("e10_2", lambda *case: 0.25, "should be"),
    (
        "e10_2",
        lambda *case: 1.0 if set(case[0]) == set(case[1]) == {"B"} else win_rate(*case),
        "always says B",
    ),
    ("e10_3", otherwise_a, "Guessed A's"),
    ("e10_3", first_letter, "article"),
    ("e10_3", mentioned, "was not read"),
    ("e10_3", last_verdict, "two different verdicts"),
    ("e10_3", otherwise_a_tie, "but was read as tie"),
    ("e10_3", brackets_alone, "was not read"),
    ("e10_3", mixed_up, "Read the double brackets"),
    ("e10_3", lambda text: 1, "not int"),
    ("e10_3", lambda text: "first", "only A, B, tie"),
    ("e10_4", lambda *case: raw(judged_by_both(*case)), "raw agreement; take off"),
    ("e10_4", lambda *case: raw(list(zip(*case, strict=True))), "None on both sides"),
    ("e10_4", lambda *case: corrected(list(zip(*case, strict=True))), "None is no outcome"),
    ("e10_4", lambda *case: chance(judged_by_both(*case)), "by chance"),
    ("e10_4", lambda *case: raw(judged_by_both(*case)) - chance(judged_by_both(*case)), "Divide by"),
    ("e10_4", lambda *case: corrected(judged_by_both(*case), lambda pairs: 1 / 3), "1/3"),
    ("e10_4", lambda *case: corrected(judged_by_both(*case), lambda pairs: 1 / 2), "1/2"),
    ("e10_4", lambda *case: corrected(judged_by_both(*case), pooled), "Scott"),
    ("e10_4", lambda *case: float("nan"), "should be"),
]


test_right_answers_pass, test_wrong_answers_are_named = told_apart(RIGHT, WRONG)


@pytest.mark.parametrize("grade", ["e10_1", "e10_2", "e10_3", "e10_4"])
def test_every_grader_survives_anything(grade):
    grade = getattr(checks, grade)

    def quits(*args):
        raise SystemExit

    for answer in (None, ..., lambda *a: None, lambda *a: ...):
        assert grade(answer).passed is None
    for answer in (
        quits,
        lambda *a: [],
        lambda: 1,
        "text",
        [],
        {},
        object(),
        float("nan"),
        torch.zeros(2, 3),
    ):
        assert grade(answer).passed is False


# ---- e10_5


def simulated(pairs=200_000, reads=0.6, better=0.8):
    rng = np.random.default_rng(0)
    good = rng.random(pairs) < better
    straight = np.where(rng.random(pairs) < reads, np.where(good, "A", "B"), "B").tolist()
    swapped = np.where(rng.random(pairs) < reads, np.where(good, "B", "A"), "B").tolist()
    return straight.count("A") / pairs, win_rate(straight, swapped), share_b(straight, swapped)


def test_the_prediction_is_what_a_simulation_finds():
    checks.e10_5(*(round(value, 2) for value in simulated())).must_pass()
    checks.e10_5([0.48], torch.tensor(0.68), np.float32(0.7)).must_pass()


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((0.8, 0.68, 0.7), "that is the truth"),
        ((0.88, 0.68, 0.7), "sits at A"),
        ((0.68, 0.68, 0.7), "toss a coin"),
        ((0.6, 0.68, 0.7), "in every pair"),
        ((0.48, 0.8, 0.7), "not the noise"),
        ((0.48, 0.48, 0.7), "after swapping"),
        ((0.48, 0.5, 0.7), "never reads"),
        ((0.48, 0.608, 0.7), "need not read twice"),
        ((0.48, 0.68, 0.4), "one of the two orders"),
        ((0.48, 0.68, 0.52), "only the first order"),
        ((0.48, 0.68, 0.3), "share of A"),
        ((0.48, 0.68, 0.5), "above 0.5"),
        ((0.1, 0.68, 0.7), "four cases"),
        ((48, 0.68, 0.7), "not percent"),
        (([0.1, 0.2], 0.68, 0.7), "one number"),
    ],
)
def test_wrong_predictions_are_named(answers, said):
    verdict = checks.e10_5(*answers)
    assert verdict.passed is False and said in verdict.en, verdict
    assert any("\u4e00" <= letter <= "\u9fff" for letter in verdict.zh)


def test_no_prediction_is_no_answer():
    assert checks.e10_5(..., ..., ...).passed is None
