"""One measurement for all methods: held-out prompts → reward, gain, KL per response, distinct-2.

In: a policy (or the texts it chose). Out: a :class:`Point`. All points of one :class:`HeldOut` are on the
same prompts with the same lengths and the same random numbers, so their scores may be compared prompt by
prompt. Lesson 09 draws them; the measurement itself is that of :mod:`rlhf.evaluate`, which lesson 07
explains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rlhf import evaluate, report, sft

if TYPE_CHECKING:
    from rlhf.profiles import Setup

Score = Callable[[Sequence[str]], Tensor]  # whole texts to one number each, (B,)


@dataclass(frozen=True)
class Point:
    """Where a policy stands after ``tokens`` generated tokens of training.

    Attributes:
        reward: mean score. gain: paired mean gain over the start, with the ends of its 95 % bootstrap
            interval over prompts. kl: mean KL to the start in nats per response. distinct_2: of all
            responses together.
        judge: the same gain by a second judge that took no part in training; None without one.
        scores: ``(N,)``, one per held-out prompt.
    """

    tokens: int
    reward: float
    gain: tuple[float, float, float]
    kl: float
    distinct_2: float
    judge: tuple[float, float, float] | None = None
    scores: Tensor = field(default=None, repr=False, compare=False)


class HeldOut:
    """Held-out prompts, and what the start answers to them.

    Args:
        start: folder of the policy that all methods start from; also the reference of the KL.
        reward: the score that is trained on. judge: a second one, such as ``rewards.WordJudge``.
        n: how many prompts; by default the profile's ``evaluation.prompts``.
        seed: of prompts, lengths and responses. It does not depend on the seed of a run.
    """

    def __init__(
        self,
        setup: Setup,
        start: str | Path,
        reward: Score,
        judge: Score | None = None,
        n: int | None = None,
        seed: int = 0,
    ):
        self.reference, self.tokenizer = sft.load_policy(start, setup.device)
        self.reference.eval()
        self.reward, self.judge, self.seed = reward, judge, seed
        self.prompts = evaluate.held_out_prompts(setup, self.tokenizer, n, seed)
        self.queries = list(self.prompts["query"])
        self.lengths = evaluate.response_lengths(setup, len(self.queries), seed)
        self.start_texts = self.answer(self.reference).texts(self.tokenizer)
        self.start_scores = self.score(reward, self.start_texts)
        self.start_judged = None if judge is None else self.score(judge, self.start_texts)
        self.start = self.point(self.start_texts, kl=0.0, tokens=0)

    def __call__(self, policy: nn.Module, tokens: int = 0) -> Point:
        """Let ``policy`` answer every prompt once and measure it."""
        rollout = self.answer(policy)
        kl = evaluate.response_kl(policy, self.reference, rollout).mean().item()
        return self.point(rollout.texts(self.tokenizer), kl, tokens)

    def answer(self, policy: nn.Module):
        """One sampled response per prompt, a :class:`rlhf.sampling.Rollout`; its random state is its own."""
        return evaluate.respond(policy, self.tokenizer, self.prompts, self.lengths, seed=self.seed)

    def score(self, judge: Score, texts: Sequence[str]) -> Tensor:
        """``(N,)`` scores of the whole texts."""
        whole = [query + text for query, text in zip(self.queries, texts, strict=True)]
        return torch.as_tensor(judge(whole)).double()

    def point(self, texts: Sequence[str], kl: float, tokens: int) -> Point:
        """Measure responses that are there already, one per prompt."""
        scores, judged = self.score(self.reward, texts), None
        if self.judge is not None:
            judged = report.bootstrap_gain(self.start_judged, self.score(self.judge, texts))
        return Point(
            tokens=tokens,
            reward=scores.mean().item(),
            gain=report.bootstrap_gain(self.start_scores, scores),
            kl=kl,
            distinct_2=report.distinct_n(texts, 2),
            judge=judged,
            scores=scores,
        )
