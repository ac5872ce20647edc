"""Bradley–Terry: one strength per contestant from pairwise wins, with intervals.

In: judgements of several pairs of contestants. Out: :class:`Ratings`. ``P(i beats j) = σ(s_i - s_j)``
(Bradley and Terry 1952): a logistic regression whose inputs are +1 for one contestant and -1 for the other.
Lesson 10 explains it; lesson 05 met the same formula as the reward model's loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf.judge.faults import BadJudging
from rlhf.judge.pairwise import Judgements


@dataclass(frozen=True)
class Ratings:
    """Strengths in log-odds, strongest first; they add up to 0, since only differences mean something.

    ``low``, ``high``: bootstrap over the prompts, which all contestants answered.
    """

    names: tuple[str, ...]
    strengths: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def probability(self, one: str, other: str) -> float:
        """How likely ``one`` beats ``other``, ties as half."""
        i, j = self.names.index(one), self.names.index(other)
        return float(1 / (1 + np.exp(self.strengths[j] - self.strengths[i])))

    def elo(self) -> dict[str, float]:
        """The same on the scale of chess: 400 points are odds of ten to one, the mean is 1000."""
        points = 1000 + 400 / np.log(10) * self.strengths
        return {name: float(value) for name, value in zip(self.names, points, strict=True)}

    def __str__(self) -> str:
        rows = zip(self.names, self.strengths, self.low, self.high, strict=True)
        return "\n".join(f"{name:16} {s:+.2f} [{low:+.2f}, {high:+.2f}]" for name, s, low, high in rows)


def bradley_terry(
    matches: Sequence[Judgements],
    prior: float = 1.0,
    resamples: int = 1_000,
    seed: int = 0,
    level: float = 0.95,
) -> Ratings:
    """Strengths that make the observed points likeliest; a tie is half a win for each side.

    Args:
        matches: such as :func:`rlhf.judge.round_robin` returns. Pairs with a missing answer are left out.
        prior: so many imagined ties are added to each match. Without any, a contestant that always wins
            would be infinitely strong.

    Raises:
        BadJudging: no complete pair in a match, contestants never compared, even through others, or a prior
            that is not positive.
    """
    names = list(dict.fromkeys(name for match in matches for name in (match.candidate, match.opponent)))
    points, counts = _by_prompt(matches)  # (M, prompts) each
    design = np.array(
        [[float(name == m.candidate) - float(name == m.opponent) for name in names] for m in matches]
    )  # (M, K)
    if not prior > 0 or not len(matches) or not (counts.sum(1) > 0).all():
        raise BadJudging(
            f"至少要有一场比较，每场至少一对完整的回答，prior 要大于 0；现在有 {len(matches)} 场，"
            f"prior = {prior}。",
            f"At least one match, a complete pair in each, and prior > 0 are needed; here {len(matches)} "
            f"matches and prior = {prior}.",
        )
    if np.linalg.matrix_rank(design) < len(names) - 1:
        raise BadJudging(
            f"这些选手没有全部连起来，有的从未直接或间接比过：{', '.join(names)}。",
            f"Some of these were never compared, not even through others: {', '.join(names)}.",
        )
    n, rng = points.shape[1], np.random.default_rng(seed)
    weights = np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), size=resamples)])
    wins, trials = weights @ points.T + prior / 2, weights @ counts.T + prior  # (1 + resamples, M)
    # the ridge acts on the sum of the strengths alone, which the comparisons leave open, and makes it 0
    strengths = fit_logistic(design, wins, trials, ridge=np.ones((len(names), len(names))))
    low, high = np.quantile(strengths[1:], [(1 - level) / 2, (1 + level) / 2], axis=0)
    order = np.argsort(-strengths[0], kind="stable")
    return Ratings(tuple(names[i] for i in order), strengths[0][order], low[order], high[order])


def _by_prompt(matches: Sequence[Judgements]) -> tuple[np.ndarray, np.ndarray]:
    """Points and complete pairs of every match at every prompt: a prompt is drawn with all of them."""
    prompts = list(dict.fromkeys(question.query for match in matches for question in match.questions))
    place = {prompt: i for i, prompt in enumerate(prompts)}
    points, counts = np.zeros((2, len(matches), len(prompts)))
    for row, match in enumerate(matches):
        for question, value in zip(match.questions, match.points, strict=True):
            if not np.isnan(value):
                points[row, place[question.query]] += value
                counts[row, place[question.query]] += 1
    return points, counts


def fit_logistic(
    design: np.ndarray, wins: np.ndarray, trials: np.ndarray, ridge: np.ndarray, steps: int = 50
) -> np.ndarray:
    """Many logistic regressions with the same inputs at once, by Newton's method with halved steps.

    Args:
        design: inputs ``(M, K)``. wins: successes ``(S, M)``, fractions allowed. trials: ``(S, M)``.
        ridge: ``(K, K)``; ``½ βᵀ ridge β`` is added to the negative log-likelihood.

    Returns:
        The coefficients ``(S, K)``.
    """

    def loss(beta: np.ndarray) -> np.ndarray:  # (S, K) -> (S,)
        logits = beta @ design.T
        penalty = np.einsum("sk,kl,sl->s", beta, ridge, beta) / 2
        return (trials * np.logaddexp(0, logits) - wins * logits).sum(1) + penalty

    beta = np.zeros((len(wins), design.shape[1]))
    now = loss(beta)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-(beta @ design.T)))  # (S, M)
        gradient = (trials * p - wins) @ design + beta @ ridge
        curvature = np.einsum("sm,mk,ml->skl", trials * p * (1 - p), design, design) + ridge
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        for _ in range(30):  # halve the steps of the fits that would get worse
            after = loss(beta - step)
            worse = after > now + 1e-12 * np.abs(now)
            if not worse.any():
                break
            step[worse] /= 2
        beta, now = beta - step, after
        if np.abs(step).max() < 1e-10:
            break
    return beta
