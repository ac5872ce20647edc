"""Pairs of responses to judgements: every pair is asked about in both orders.

In: a judge, queries, and the responses of two contestants or of several. Out: :class:`Judgements`, which
keep every single answer. A pair is won if it is won in both orders, and lost if it is lost in both; anything
else is a tie (Zheng et al. 2023, arXiv 2306.05685, section 3.4). Lesson 10 explains it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlhf.judge.faults import BadJudging, CapReached
from rlhf.judge.question import ANSWERS, OUTCOMES, TIE, A, B, Question, both_orders

WIN, LOSS = "win", "loss"
SWAP = {A: B, B: A}  # what an answer means once the responses have changed places


class Judge(Protocol):
    """Questions in, one of :data:`OUTCOMES` for each out."""

    name: str

    def __call__(self, questions: Sequence[Question]) -> Sequence[str]: ...


class RewardJudge:
    """A reward model as a judge: the response with the higher score wins.

    It never sees the two side by side, so their order cannot matter to it.

    Args:
        reward: whole texts (query + response) to scores ``(B,)``; any callable of :mod:`rlhf.rewards`.
        margin: scores no further apart than this are a tie.
    """

    def __init__(self, reward: Callable[[Sequence[str]], object], margin: float = 0.0, name: str = "reward"):
        self.reward, self.margin, self.name = reward, margin, name

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """Every distinct text is scored once. Raises BadJudging for scores that are NaN, inf or too few."""
        texts = list(dict.fromkeys(q.query + r for q in questions for r in (q.a, q.b)))
        scores = np.asarray(self.reward(texts), dtype=float) if texts else np.empty(0)
        if scores.shape != (len(texts),) or not np.isfinite(scores).all():
            raise BadJudging(
                f"{len(texts)} 条文本应有同样多的有限分数，得到的形状是 {scores.shape}，或有 NaN、inf。",
                f"{len(texts)} texts need as many finite scores; the shape is {scores.shape}, or NaN or inf "
                "is among them.",
            )
        score = dict(zip(texts, scores, strict=True))
        return [self._answer(score[q.query + q.a] - score[q.query + q.b]) for q in questions]

    def _answer(self, difference: float) -> str:
        return TIE if abs(difference) <= self.margin else A if difference > 0 else B


class Always:
    """A judge that does not read: it gives the same answer to everything. Made to be found out."""

    def __init__(self, answer: str = B):
        self.answer, self.name = answer, f"always {answer}"

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        return [self.answer] * len(questions)


@dataclass(frozen=True)
class Judgements:
    """What one judge said about N pairs.

    Attributes:
        questions: the pairs, ``a`` is the candidate's response and ``b`` the opponent's.
        straight: the answers with the candidate shown as A. swapped: those with the candidate shown as B.
        judge, candidate, opponent: names.
    """

    questions: tuple[Question, ...]
    straight: tuple[str, ...]
    swapped: tuple[str, ...]
    judge: str = "judge"
    candidate: str = "candidate"
    opponent: str = "opponent"

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def outcomes(self) -> list[str | None]:
        """``win``, ``tie`` or ``loss`` of the candidate; None where one of the two answers is missing."""
        return [_outcome(one, two) for one, two in zip(self.straight, self.swapped, strict=True)]

    @property
    def points(self) -> np.ndarray:
        """1 for a win, 0.5 for a tie, 0 for a loss, NaN where an answer is missing; ``(N,)``."""
        worth = {WIN: 1.0, TIE: 0.5, LOSS: 0.0, None: np.nan}
        return np.array([worth[outcome] for outcome in self.outcomes])

    @property
    def complete(self) -> np.ndarray:
        """True where both orders were answered, ``(N,)``."""
        return ~np.isnan(self.points)

    def answers(self) -> dict[str, int]:
        """How many of the 2N questions ended how: A, B, tie, malformed, failed, unasked."""
        counted = Counter(self.straight + self.swapped)
        return {outcome: counted[outcome] for outcome in OUTCOMES}

    def tally(self) -> dict[str, int]:
        """How many of the N pairs are wins, ties and losses, and how many are incomplete."""
        counted = Counter(self.outcomes)
        return {name: counted[name] for name in (WIN, TIE, LOSS)} | {"incomplete": counted[None]}


def _outcome(straight: str, swapped: str) -> str | None:
    if straight not in ANSWERS or swapped not in ANSWERS:
        return None
    if straight == SWAP.get(swapped):
        return WIN if straight == A else LOSS
    return TIE


def judge_pairs(
    judge: Judge,
    queries: Sequence[str],
    candidate: Sequence[str],
    opponent: Sequence[str],
    names: tuple[str, str] = ("candidate", "opponent"),
) -> Judgements:
    """Ask ``judge`` about every pair twice, once in each order.

    Raises:
        BadJudging: lists of different lengths, none at all, non-text, or a judge that gives no valid answers.
        CapReached: its ``judgements`` hold what was answered before the cap.
    """
    columns = [list(column) for column in (queries, candidate, opponent)]
    sizes = [len(column) for column in columns]
    if len(set(sizes)) > 1 or not sizes[0] or not all(isinstance(t, str) for c in columns for t in c):
        raise BadJudging(
            f"要三列等长的文本：提示 {sizes[0]} 条，两方的回复 {sizes[1]} 和 {sizes[2]} 条。",
            f"Three columns of texts of the same length are needed: {sizes[0]} queries, {sizes[1]} and "
            f"{sizes[2]} responses.",
        )
    questions = both_orders(*columns)

    def paired(answers: Sequence[str]) -> Judgements:
        _check_answers(judge, answers, len(questions))
        return Judgements(
            tuple(questions[::2]), tuple(answers[::2]), tuple(answers[1::2]), judge.name, *names
        )

    try:
        return paired(judge(questions))
    except CapReached as stop:
        stop.judgements = paired(stop.answers)
        raise


def round_robin(
    judge: Judge, queries: Sequence[str], responses: Mapping[str, Sequence[str]]
) -> list[Judgements]:
    """Every contestant against every other: ``{name: responses}`` to one :class:`Judgements` per pair."""
    return [
        judge_pairs(judge, queries, responses[one], responses[other], (one, other))
        for one, other in itertools.combinations(responses, 2)
    ]


def _check_answers(judge: Judge, answers: Sequence[str], count: int) -> None:
    unknown = sorted({str(answer) for answer in answers} - set(OUTCOMES))
    if len(answers) != count or unknown:
        raise BadJudging(
            f"评委 {judge.name} 对 {count} 个问题给了 {len(answers)} 个回答，其中不认识的：{unknown[:5]}。",
            f"The judge {judge.name} gave {len(answers)} answers to {count} questions; not known: "
            f"{unknown[:5]}.",
        )
