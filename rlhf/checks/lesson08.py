"""Graders of lesson 08: what rounds amount to, a counter that never moves, labels, expected maxima."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from rlhf.checks.compare import compare, to_tensor
from rlhf.checks.verdict import NotAnswered, Wrong, grader, run

Message = tuple[str, str]  # Chinese, English


@grader
def e08_1(refreshed, frozen, random_pick, *, k: int = 8, rounds: int = 3):
    """Best-of-n of the policy at the start: n after perfect rounds with each kind of sampler and of picking.

    The maximum of k is distributed as F^k. A refreshed sampler draws its next k from that: (F^k)^k.
    """
    answers = (
        ("采样器更新", "Refreshed sampler", refreshed, k**rounds, _refreshed),
        ("采样器冻结", "Frozen sampler", frozen, k, _frozen),
        ("随机挑", "Random pick", random_pick, 1, _random),
    )
    for zh, en, given, right, why in answers:
        number = to_tensor(given, (f"{zh}的答案", f"{en}: the answer"))
        if number.numel() != 1:
            raise Wrong(f"{zh}：请给一个数。", f"{en}: give one number.")
        if not abs(float(number) - right) <= 1e-6 * right:
            because = why(float(number), k, rounds)
            raise Wrong(f"{zh}：{because[0]}", f"{en}: {because[1]}")
    bound = math.log(k**rounds) - 1 + 1 / k**rounds
    return (
        f"正确。完美的 {rounds} 轮，每轮每个提示只写 {k} 条，却相当于 {k**rounds} 选一；"
        f"它的 KL 不超过 {bound:.2f}。",
        f"Correct. Perfect rounds of only {k} responses per prompt amount to best of {k**rounds}, "
        f"whose KL is at most {bound:.2f}.",
    )


def _refreshed(n: float, k: int, rounds: int) -> Message:
    if n == k * rounds:
        return (
            "不是相加：第二轮的每一条，已经是第一轮 K 选一的水平。(F^K)^K 是多少？",
            "they do not add up: each draw of round 2 is already a best-of-K. What is (F^K)^K?",
        )
    if n == k:
        return (
            "那是冻结的采样器：更新以后，老师也变好了。",
            "that is the frozen one: a refreshed sampler gets better.",
        )
    if n == rounds**k:
        return "底数和指数反了。", "base and exponent are swapped."
    if n == k ** (rounds - 1):
        return "少算了一轮。", "one round is missing."
    return (
        "第一轮后是 F^K；每多一轮，指数再乘 K。",
        "after round 1 it is F^K; each round multiplies the exponent by K.",
    )


def _frozen(n: float, k: int, rounds: int) -> Message:
    if n == k**rounds:
        return (
            "老师一直没变，每一轮教的都是同一个 F^K。",
            "the teacher never changes; every round teaches the same F^K.",
        )
    if n == k * rounds:
        return (
            "每一轮仍然只从 K 条里挑一条，轮与轮之间不比较。",
            "each round still picks one of K; nothing is compared across rounds.",
        )
    if n == 1:
        return (
            "冻结的是写的人，挑还是照样挑。",
            "it is the writer that is frozen; the best is still picked.",
        )
    return (
        "学得再完美，也就是老师的 K 选一。",
        "a perfect pupil is as good as its teacher's best-of-K, no better.",
    )


def _random(n: float, k: int, rounds: int) -> Message:
    if n == 0:
        return (
            "随便挑的一条，分布和策略自己一样：1 选一。",
            "any one response is distributed as the policy itself: best of 1.",
        )
    return (
        "不看分数就没有挑选，分布不变。",
        "without looking at scores nothing is chosen, so nothing changes.",
    )


@grader
def e08_2(collect):
    """``collect(prompts, size, k, sample, score)``: one (prompt, best response) for every prompt."""
    for count, size, k in ((6, 2, 3), (7, 3, 4), (4, 8, 2), (5, 1, 3)):
        world = _World(count, k)
        pairs = run(collect, world.prompts, size, k, world.sample, world.score)
        _check_pairs(pairs, world, size)


class _World:
    """Prompts with known responses and scores; ``sample`` remembers how large its batches were."""

    def __init__(self, count: int, k: int):
        rng = torch.Generator().manual_seed(10 * count + k)
        self.prompts = [f"prompt {i}:" for i in range(count)]
        self.k, self.sizes = k, []
        values = torch.randn(count, k, generator=rng)
        values[:, 0] -= 2.0  # neither the first nor the last is ever the best
        values[:, -1] -= 2.0 if k > 2 else 0.0
        self.responses = {p: [f" answer {i}.{j}" for j in range(k)] for i, p in enumerate(self.prompts)}
        self.scores = {
            p + r: float(values[i, j])
            for i, p in enumerate(self.prompts)
            for j, r in enumerate(self.responses[p])
        }

    def __deepcopy__(self, memo):
        return self  # its methods are handed to a student's function, which is given copies

    def sample(self, batch: Sequence[str], k: int) -> list[list[str]]:
        if isinstance(batch, str) or not all(prompt in self.responses for prompt in batch):
            raise Wrong(
                "sample 的第一个参数是一批提示（列表）。", "sample takes a batch of prompts, as a list."
            )
        if k != self.k:
            raise Wrong(f"应当向 sample 要 k = {self.k} 条。", f"Ask sample for k = {self.k} responses.")
        self.sizes.append(len(batch))
        return [list(self.responses[prompt]) for prompt in batch]

    def score(self, texts: Sequence[str]) -> list[float]:
        if any(text not in self.scores for text in texts):
            raise Wrong(
                "奖励模型读的是完整文本：提示加回复。",
                "The reward model reads whole texts: prompt and response.",
            )
        return [self.scores[text] for text in texts]

    def ranked(self, prompt: str) -> list[str]:
        return sorted(self.responses[prompt], key=lambda response: -self.scores[prompt + response])


def _check_pairs(pairs, world: _World, size: int) -> None:
    try:
        pairs = [(prompt, response) for prompt, response in pairs]
    except (TypeError, ValueError):
        raise Wrong("应当返回 (提示, 回复) 的列表。", "Return a list of (prompt, response) pairs.") from None
    count = len(world.prompts)
    seen = [prompt for prompt, _ in pairs]
    if len(set(seen)) < len(seen):
        raise Wrong(
            f"{len(seen)} 对里只有 {len(set(seen))} 个不同的提示：循环一直在取同一批，start 从来没有前进。",
            f"{len(seen)} pairs hold only {len(set(seen))} different prompts: the loop takes the same batch "
            "again and again, start never moves.",
        )
    if len(seen) != count or set(seen) != set(world.prompts):
        raise Wrong(
            f"{count} 个提示，每批 {size} 个，返回了 {len(seen)} 对。最后不满的一批也要。",
            f"{count} prompts, {size} at a time, gave {len(seen)} pairs. The last batch may be smaller.",
        )
    if max(world.sizes) > size:
        raise Wrong(
            f"一批最多 {size} 个提示，却一次取了 {max(world.sizes)} 个。",
            f"A batch holds at most {size} prompts, but {max(world.sizes)} were taken at once.",
        )
    for prompt, response in pairs:
        if response == world.ranked(prompt)[0]:
            continue
        if response == world.ranked(prompt)[-1]:
            raise Wrong("挑成了分数最低的一条。", "The worst response was picked.")
        raise Wrong(
            f"{prompt!r} 的回复不是分数最高的一条。",
            f"The response to {prompt!r} is not the one that scores highest.",
        )
    if seen != world.prompts:
        raise Wrong("返回的顺序应当和提示的顺序一致。", "Return the pairs in the order of the prompts.")


@grader
def e08_3(best_of):
    """``best_of(outputs) -> index``: the response with the highest logit of POSITIVE, by the label's name."""
    results = []
    for logits in _LOGITS:
        both = [
            [{"label": "NEGATIVE", "score": negative}, {"label": "POSITIVE", "score": positive}]
            for negative, positive in logits
        ]
        outputs = [sorted(pair, key=lambda each: -each["score"]) for pair in both]  # as top_k=None gives them
        index = to_tensor(run(best_of, outputs), ("下标", "The index"))
        if index.numel() != 1:
            raise Wrong("要返回一个下标。", "Return one index.")
        results.append(float(index))
    _explain_picks(results)


_LOGITS = (  # NEGATIVE, POSITIVE of each response
    ((0.4, 1.5), (2.9, -3.0), (-0.2, 0.3)),
    ((1.9, -2.0), (0.8, -0.7), (3.1, -2.8), (1.1, -1.2)),  # all negative: the mildest is the best
    ((-4.0, 2.0), (0.5, 1.0), (3.0, -1.0)),  # neither place of the two labels finds the best
    ((-1.0, 3.0), (2.0, -2.0), (1.0, -2.5)),
)


def _explain_picks(results: Sequence[float]) -> None:
    """Return if every pick is right; otherwise name the mistake that makes all of these picks."""

    def picks(value: Callable[[float, float], float]) -> list[int]:
        return [max(range(len(case)), key=lambda i: value(*case[i])) for case in _LOGITS]

    right = picks(lambda negative, positive: positive)
    if list(results) == right:
        return
    best = [case[i][1] for case, i in zip(_LOGITS, right, strict=True)]
    if all(abs(result - score) < 1e-6 for result, score in zip(results, best, strict=True)):
        raise Wrong("这是分数；要返回它的下标。", "That is the score; return its index.")
    mistakes: tuple[tuple[Callable[[float, float], float], str, str], ...] = (
        (
            max,
            "按位置取了第一个标签。排在前面的是分数高的那个，最狠的差评也就得了高分；要按标签的名字取。",
            "The first label was taken by position. Sorted, that is whichever is higher, so the harshest "
            "criticism scores high too; go by the label's name.",
        ),
        (
            min,
            "按位置取了第二个标签；位置不可靠，要按标签的名字取。",
            "The second label was taken by position; go by the label's name.",
        ),
        (
            lambda negative, positive: negative,
            "这是最像差评的一条：取成了 NEGATIVE。",
            "That is the most negative one: NEGATIVE was taken.",
        ),
        (
            lambda negative, positive: -positive,
            "这是分数最低的一条。",
            "That is the one with the lowest score.",
        ),
    )
    for value, zh, en in mistakes:
        if list(results) == picks(value):
            raise Wrong(zh, en)
    case = next(i for i, (got, want) in enumerate(zip(results, right, strict=True)) if got != want)
    raise Wrong(
        f"{len(_LOGITS[case])} 条回复里应当挑下标为 {right[case]} 的一条，而不是 {results[case]:g}。",
        f"Of {len(_LOGITS[case])} responses index {right[case]} is the best, not {results[case]:g}.",
    )


@grader
def e08_4(expected_best):
    """``expected_best(scores, k) -> float``: unbiased estimate of the expected maximum of k draws."""
    rng = torch.Generator().manual_seed(8)
    cases = [
        ([2.0, 0.5, -1.0, 0.25], 2),
        ([3.0, 1.0, 1.0, -2.0, 0.5], 3),
        ([0.5, -1.0, 2.0], 1),
        ([1.5, -0.5, 0.75], 3),
        (torch.randn(200, generator=rng).tolist(), 16),
    ]
    for scores, k in cases:
        result, want = run(expected_best, scores, k), _unbiased(scores, k)
        for wrong, zh, en in _wrong_estimates(scores, k):
            if _near(result, wrong) and not _near(result, want):
                raise Wrong(f"N = {len(scores)}, K = {k}：{zh}", f"N = {len(scores)}, K = {k}: {en}")
        compare(result, want, name=("期望最大值", "The expected maximum"))


def _unbiased(scores: Sequence[float], k: int) -> float:
    ways = math.comb(len(scores), k)
    return sum(score * math.comb(i, k - 1) for i, score in enumerate(sorted(scores))) / ways


def _wrong_estimates(scores: Sequence[float], k: int) -> list[tuple[float, str, str]]:
    """What the usual mistakes give for these scores."""
    n, ordered = len(scores), sorted(scores)
    repeats = sum(score * ((i + 1) ** k - i**k) for i, score in enumerate(ordered)) / n**k
    groups = [max(scores[i : i + k]) for i in range(0, n - n % k, k)]
    shifted = sum(score * math.comb(i, k) for i, score in enumerate(ordered)) / math.comb(n, k)
    return [
        (
            repeats,
            "同一个分数被重复取了（把经验分布直接代进公式），结果偏低；K 个要互不相同。",
            "the same score is drawn more than once (the formula with the empirical distribution), which is "
            "too low; take K different ones.",
        ),
        (_unbiased([-s for s in scores], k) * -1, "这是最小值的期望。", "that is the expected minimum."),
        (ordered[-1], "这是全部 N 个里的最大值。", "that is the maximum of all N."),
        (sum(scores) / n, "这是平均分，也就是 K = 1。", "that is the mean, as for K = 1."),
        (sum(ordered[-k:]) / k, "这是最高的 K 个的平均。", "that is the mean of the K highest."),
        (
            sum(groups) / len(groups),
            "只用了一种分组；要把所有的取法平均起来。",
            "that is one way to form groups; take the mean over all ways.",
        ),
        (
            shifted,
            "差了一位：排好序后，第 i 小的下面有 i − 1 个，要从中取 K − 1 个。",
            "off by one: below the i-th smallest there are i − 1 scores, of which K − 1 are taken.",
        ),
    ]


def _near(a, b: float) -> bool:
    try:
        return abs(float(a) - b) < 1e-6 * max(1.0, abs(b))
    except (TypeError, ValueError, NotAnswered):
        return False
