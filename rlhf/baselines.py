"""What a reward model has to beat: a coin, the length, a list of words, counted words.

In: texts. Out: scores ``(B,)``, the same call as :class:`rlhf.rewards.PairwiseReward`, so that one function
measures them all: :func:`accuracy`. Lesson 05 compares with them, ``benchmarks/reward_pairs.py`` too.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from rlhf.errors import BadData
from rlhf.report import bootstrap_gain

if TYPE_CHECKING:
    from datasets import Dataset

Scorer = Callable[[Sequence[str]], torch.Tensor]  # texts to scores, (B,)

PRAISE = (
    "good great best fine nice wonderful excellent brilliant superb perfect perfectly beautiful beautifully "
    "amazing fantastic love loved enjoy enjoyed favorite fun funny charming clever moving touching gripping "
    "masterpiece recommend"
)
BLAME = (
    "bad worst poor poorly terrible terribly awful horrible dreadful boring bored dull stupid silly weak "
    "waste wasted hate hated annoying disappointing disappointed lame mess predictable pointless ridiculous "
    "unfortunately"
)
WORD = re.compile(r"[a-z']+")


def coin(texts: Sequence[str]) -> torch.Tensor:
    """A number that has nothing to do with the meaning: right in half of all pairs."""
    return torch.tensor([float(zlib.crc32(text.encode())) for text in texts], dtype=torch.float64)


def length(texts: Sequence[str]) -> torch.Tensor:
    """The number of characters: what a reward model learns when longer answers were preferred."""
    return torch.tensor([float(len(text)) for text in texts])


def listed_words(texts: Sequence[str]) -> torch.Tensor:
    """Words of :data:`PRAISE` minus words of :data:`BLAME`: everyday lists, made without any data."""
    good, bad = frozenset(PRAISE.split()), frozenset(BLAME.split())
    words = [WORD.findall(text.lower()) for text in texts]
    return torch.tensor([float(sum((w in good) - (w in bad) for w in row)) for row in words])


class CountedWords:
    """One weight per word, fitted to preference pairs: the Bradley–Terry model without a neural network.

    ``score = sum of the weights of a text's words``, and ``P(chosen preferred) = σ(difference)``: logistic
    regression on differences of word counts. It knows every word, but nothing of their order; with
    ``longest=2`` it counts pairs of neighbours too.
    """

    def __init__(self, vectoriser, weights: np.ndarray):
        self.vectoriser, self.weights = vectoriser, weights

    @classmethod
    def fit(cls, pairs: Dataset, longest: int = 1) -> CountedWords:
        """Fit to ``pairs`` (``chosen``, ``rejected``)."""
        from scipy.sparse import diags
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression

        chosen, rejected = pairs["chosen"][:], pairs["rejected"][:]
        vectoriser = CountVectorizer(ngram_range=(1, longest), min_df=2).fit([*chosen, *rejected])
        difference = vectoriser.transform(chosen) - vectoriser.transform(rejected)
        # Every other pair the other way round: a regression needs both answers.
        side = np.where(np.arange(len(chosen)) % 2, 1.0, -1.0)
        model = LogisticRegression(C=0.3, fit_intercept=False, max_iter=500)
        return cls(vectoriser, model.fit(diags(side) @ difference, side).coef_[0])

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Scores of ``texts``, ``(B,)`` float32."""
        return torch.tensor(self.vectoriser.transform(list(texts)) @ self.weights, dtype=torch.float32)


def wins(chosen: torch.Tensor, rejected: torch.Tensor) -> np.ndarray:
    """Scores ``(N,)`` of both sides → 1 where chosen is higher, 0 where it is lower, ½ on a tie: ``(N,)``."""
    return ((chosen > rejected).double() + 0.5 * (chosen == rejected).double()).numpy()


def accuracy(scorer: Scorer, pairs: Dataset) -> tuple[float, float, float]:
    """Share of pairs ordered as the annotator did, with its 95% bootstrap interval: ``(mean, low, high)``.

    Raises:
        BadData: there are no pairs.
    """
    if not len(pairs):
        raise BadData("没有可评测的偏好对。", "There are no pairs to measure on.")
    right = wins(*(scorer(pairs[name][:]) for name in ("chosen", "rejected")))
    return bootstrap_gain(np.zeros(len(right)), right)
