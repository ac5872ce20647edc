"""What judgements say, and how far they can be trusted: win rate, order bias, length bias, agreement.

In: :class:`rlhf.judge.Judgements`. Out: small records with intervals. Pairs with a missing answer are left
out of all of them and counted by ``Judgements.tally()``. Lesson 10 explains each number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf.judge.faults import BadJudging
from rlhf.judge.pairwise import Judgements
from rlhf.judge.question import A, B
from rlhf.judge.ratings import fit_logistic
from rlhf.report import bootstrap_gain

BLOCK = 2_000_000  # numbers per block of a bootstrap, so that many pairs do not fill the memory


@dataclass(frozen=True)
class WinRate:
    """The candidate's win rate: wins plus half of the ties, divided by the complete pairs.

    ``low``, ``high``: bootstrap over pairs, which shrinks to a point where all pairs ended alike. ``wilson``:
    the score interval with a tie as half a win, which does not, and which ties make rather too wide. ``p``:
    exact two-sided sign test, wins against losses. ``incomplete`` pairs count nowhere.
    """

    rate: float
    low: float
    high: float
    wilson: tuple[float, float]
    p: float
    wins: int
    ties: int
    losses: int
    incomplete: int

    def __str__(self) -> str:
        return (
            f"win rate {self.rate:.3f} [{self.low:.3f}, {self.high:.3f}]: {self.wins} wins, "
            f"{self.ties} ties, {self.losses} losses, {self.incomplete} incomplete"
        )


def win_rate(judgements: Judgements, resamples: int = 10_000, seed: int = 0, level: float = 0.95) -> WinRate:
    """See :class:`WinRate`. Raises BadJudging where no pair has both answers."""
    points = judgements.points[_complete(judgements)]
    rate, low, high = bootstrap_gain(np.zeros(len(points)), points, resamples, seed, level)
    tally = judgements.tally()
    wins, ties, losses, incomplete = tally.values()
    interval = wilson(rate, len(points), level)
    return WinRate(rate, low, high, interval, sign_test(wins, losses), wins, ties, losses, incomplete)


def wilson(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a share of ``n`` (Wilson 1927): every p with ``|share - p| ≤ z sqrt(p(1-p) / n)``."""
    from scipy.stats import norm

    z2 = norm.ppf((1 + level) / 2) ** 2
    middle, half = share + z2 / (2 * n), np.sqrt(z2 * share * (1 - share) / n + z2**2 / (4 * n**2))
    return float((middle - half) / (1 + z2 / n)), float((middle + half) / (1 + z2 / n))


def sign_test(ups: int, downs: int) -> float:
    """Two-sided exact p-value: how likely so uneven a split is if both were equally likely. 1 for none."""
    from scipy.stats import binomtest

    return float(binomtest(ups, ups + downs).pvalue) if ups + downs else 1.0


@dataclass(frozen=True)
class OrderBias:
    """Does the place decide? Over complete pairs, each of which was shown in both orders.

    ``share_b``: share of B among the answers A and B. A pair judged consistently gives one A and one B, so
    only inconsistent pairs move it from 0.5, and without a bias they move it either way alike: it then falls
    into ``permitted`` (95 %, signs of the pairs drawn at random). ``consistent``: share of pairs whose
    outcome is the same in both orders. ``to_a``, ``to_b``: pairs that got more A than B, or more B than A;
    ``p`` is their sign test.
    """

    share_b: float
    permitted: tuple[float, float]
    consistent: float
    to_a: int
    to_b: int
    p: float

    @property
    def biased(self) -> bool:
        """``share_b`` lies outside of what swapping permits."""
        low, high = self.permitted
        return not low - 1e-9 <= self.share_b <= high + 1e-9

    def __str__(self) -> str:
        low, high = self.permitted
        return (
            f"B in {self.share_b:.3f} of the answers ({low:.3f} to {high:.3f} without a bias), "
            f"same outcome in both orders {self.consistent:.3f}"
        )


def order_bias(judgements: Judgements, resamples: int = 2_000, seed: int = 0) -> OrderBias:
    """See :class:`OrderBias`. A judge that only ever ties has ``share_b`` 0.5."""
    keep = _complete(judgements)
    rows = [pair for pair, kept in zip(_answer_pairs(judgements), keep, strict=True) if kept]
    lean = np.array([pair.count(B) - pair.count(A) for pair in rows])  # (N,), of -2 … 2
    decided = sum(answer in (A, B) for pair in rows for answer in pair)
    rng = np.random.default_rng(seed)
    size = max(1, BLOCK // len(rows))
    chance = [
        rng.choice((-1, 1), size=(min(size, resamples - done), len(rows))) @ np.abs(lean)
        for done in range(0, resamples, size)
    ]
    share = 0.5 + np.concatenate([[lean.sum()], *chance]) / (2 * max(1, decided))  # measured, then by chance
    consistent = np.mean([two == {A: B, B: A}.get(one, one) for one, two in rows])
    to_a, to_b = int((lean < 0).sum()), int((lean > 0).sum())
    permitted = tuple(float(q) for q in np.quantile(share[1:], (0.025, 0.975)))
    return OrderBias(float(share[0]), permitted, float(consistent), to_a, to_b, sign_test(to_a, to_b))


def _answer_pairs(judgements: Judgements) -> Iterator[tuple[str, str]]:
    return zip(judgements.straight, judgements.swapped, strict=True)


@dataclass(frozen=True)
class LengthBias:
    """Does the longer response win?

    ``longer_wins``: its share among the ``pairs`` won or lost whose lengths differ, with Wilson's interval
    ``low``, ``high``. ``coefficient``: log-odds of the candidate's win per unit of length that it is longer
    by, with a bootstrap interval. ``at_equal_length``: the candidate's win rate if both were equally long, by
    the same logistic curve (Dubois et al. 2024, arXiv 2404.04475). NaN where lengths never differ.
    """

    longer_wins: float
    low: float
    high: float
    pairs: int
    coefficient: float
    coefficient_low: float
    coefficient_high: float
    at_equal_length: float

    def __str__(self) -> str:
        return (
            f"the longer one wins {self.longer_wins:.3f} [{self.low:.3f}, {self.high:.3f}] "
            f"of {self.pairs} pairs, log-odds {self.coefficient:+.3f} "
            f"[{self.coefficient_low:+.3f}, {self.coefficient_high:+.3f}] per unit of length"
        )


def words(text: str) -> int:
    """Length in words separated by spaces."""
    return len(text.split())


def length_bias(
    judgements: Judgements,
    length: Callable[[str], float] = words,
    resamples: int = 500,
    seed: int = 0,
    level: float = 0.95,
) -> LengthBias:
    """See :class:`LengthBias`. ``length`` measures a response; by default in words."""
    keep = _complete(judgements)
    points = judgements.points[keep]
    pairs = [pair for pair, kept in zip(judgements.questions, keep, strict=True) if kept]
    difference = np.array([length(pair.a) - length(pair.b) for pair in pairs], dtype=float)  # (N,)
    counted = (points != 0.5) & (difference != 0)
    n, nan = int(counted.sum()), float("nan")
    longer = float(((difference > 0) == (points == 1))[counted].mean()) if n else nan
    low, high = wilson(longer, n, level) if n else (nan, nan)
    spread = float(np.sqrt((difference**2).mean()))
    if not spread:
        return LengthBias(longer, low, high, n, nan, nan, nan, nan)
    design = np.stack([np.ones(len(points)), difference / spread], axis=1)  # (N, 2)
    weights = np.concatenate([np.ones((1, len(points))), *resampled(len(points), resamples, seed)])
    # the ridge keeps the slope finite where length decides every single pair
    fits = fit_logistic(design, weights * points, weights, ridge=np.diag([1e-2, 1e-2]))  # (1 + resamples, 2)
    slopes = fits[:, 1] / spread
    ends = np.quantile(slopes[1:], [(1 - level) / 2, (1 + level) / 2])
    equal = 1 / (1 + np.exp(-fits[0, 0]))
    return LengthBias(longer, low, high, n, float(slopes[0]), *map(float, ends), float(equal))


@dataclass(frozen=True)
class Agreement:
    """How often two judges say the same of a pair (win, tie or loss), over the pairs both have judged.

    ``chance``: how often they would if each kept its own shares and neither read. ``kappa``: Cohen's, the
    share of what chance leaves, (raw - chance) / (1 - chance); NaN where both always say the same one thing.
    """

    raw: float
    low: float
    high: float
    chance: float
    kappa: float
    kappa_low: float
    kappa_high: float
    pairs: int

    def __str__(self) -> str:
        return (
            f"agreement {self.raw:.3f} [{self.low:.3f}, {self.high:.3f}], chance {self.chance:.3f}, "
            f"kappa {self.kappa:.3f} [{self.kappa_low:.3f}, {self.kappa_high:.3f}], {self.pairs} pairs"
        )


def agreement(
    one: Judgements | Sequence[str | None],
    other: Judgements | Sequence[str | None],
    resamples: int = 2_000,
    seed: int = 0,
    level: float = 0.95,
) -> Agreement:
    """See :class:`Agreement`. Both are judgements of the same pairs, or lists of labels (None: not judged).

    Raises:
        BadJudging: other pairs, different lengths, or no pair that both have judged.
    """
    questions = [each.questions for each in (one, other) if isinstance(each, Judgements)]
    labels = [list(each.outcomes if isinstance(each, Judgements) else each) for each in (one, other)]
    if len(labels[0]) != len(labels[1]) or len(set(questions)) > 1:
        raise BadJudging("两位评委评的不是同样的对。", "The two judges did not judge the same pairs.")
    both = [pair for pair in zip(*labels, strict=True) if None not in pair]
    if not both:
        raise BadJudging("没有一对是两位评委都评过的。", "There is no pair that both have judged.")
    kinds = sorted({label for pair in both for label in pair})
    first, second = (
        np.array([[label == kind for kind in kinds] for label in column], dtype=float)  # (N, kinds)
        for column in zip(*both, strict=True)
    )
    n = len(both)
    weights = np.concatenate([np.ones((1, n)), *resampled(n, resamples, seed)]) / n  # (1 + resamples, N)
    raw = weights @ (first * second).sum(1)
    chance = ((weights @ first) * (weights @ second)).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = np.where(chance < 1 - 1e-12, np.round((raw - chance) / (1 - chance), 12) + 0.0, np.nan)
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(raw[1:], ends)
    kappa_low, kappa_high = _quantiles(kappa[1:], ends)
    return Agreement(*map(float, (raw[0], low, high, chance[0], kappa[0], kappa_low, kappa_high)), n)


def resampled(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Bootstrap as weights: how often each of ``n`` pairs was drawn, ``(resamples, n)`` in blocks."""
    rng, size = np.random.default_rng(seed), max(1, BLOCK // n)
    for done in range(0, resamples, size):
        yield rng.multinomial(n, np.full(n, 1 / n), size=min(size, resamples - done)).astype(float)


def _quantiles(values: np.ndarray, ends: list[float]) -> np.ndarray:
    finite = values[np.isfinite(values)]  # a draw of pairs that are all alike has no kappa
    return np.quantile(finite, ends) if len(finite) else np.full(len(ends), np.nan)


def _complete(judgements: Judgements) -> np.ndarray:
    keep = judgements.complete
    if not keep.any():
        counts = ", ".join(f"{name} {count}" for name, count in judgements.answers().items() if count)
        raise BadJudging(
            f"没有一对在两种顺序下都有回答（{counts}），无法计算。",
            f"No pair was answered in both orders ({counts}); there is nothing to compute.",
        )
    return keep
