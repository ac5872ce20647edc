"""Graders of lesson 09: leave-one-out baselines, DPO's loss, GRPO's loss and padding, the first update."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.checks.compare import compare, to_tensor
from rlhf.checks.verdict import NotAnswered, Wrong, grader, run

Mistake = tuple[object, str, str]  # what it gives, Chinese, English


@grader
def e09_1(leave_one_out):
    """``leave_one_out(rewards) -> advantages``: ``(P, K)``; each minus the mean of the others."""
    for p, k, seed in ((3, 4, 1), (2, 2, 0), (5, 3, 2), (1, 8, 3)):
        rewards = torch.randn(p, k, generator=torch.Generator().manual_seed(seed)) + 2.0
        want = rewards - (rewards.sum(1, keepdim=True) - rewards) / (k - 1)
        got = run(leave_one_out, rewards)
        _name(got, want, _wrong_baselines(rewards))
        got = to_tensor(got, ("优势", "The advantages"))
        compare(got.reshape(p, k) if got.numel() == p * k else got, want, name=("优势", "The advantages"))


def _wrong_baselines(rewards: Tensor) -> Iterator[Mistake]:
    p, k = rewards.shape
    total = rewards.sum(1, keepdim=True)
    yield (
        rewards - total / k,
        "基线里还算进了自己：要的是另外 K − 1 条的平均。",
        "the baseline still holds the response itself; take the mean of the other K − 1.",
    )
    yield (
        rewards - (total - rewards) / k,
        "另外只有 K − 1 条，却除以了 K。",
        "there are K − 1 others, but the sum was divided by K.",
    )
    if p > 1:
        others = (rewards.sum(0, keepdim=True) - rewards) / (p - 1)
        yield (
            rewards - others,
            "平均是在提示之间取的；要在同一个提示的 K 条里取（dim=1）。",
            "the mean was taken across prompts; take it over the K responses to one prompt (dim=1).",
        )
    yield (
        (total - rewards) / (k - 1),
        "这是基线本身，还没有从奖励里减去。",
        "that is the baseline itself; subtract it from the reward.",
    )
    yield (
        (total - rewards) / (k - 1) - rewards,
        "符号反了：奖励减基线。",
        "the sign is flipped: reward minus baseline.",
    )
    yield (
        (rewards - total / k) / (rewards.std(1, keepdim=True) + 1e-4),
        "这是 GRPO 的优势（减均值、除以标准差），不是留一法。",
        "that is GRPO's advantage (mean and standard deviation), not leave-one-out.",
    )


@grader
def e09_2(dpo_loss):
    """``dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)``: all ``(P,)``, a scalar."""
    for size, beta, seed in ((6, 0.1, 1), (1, 0.5, 0), (7, 0.05, 2), (3, 2.0, 3)):
        rng = torch.Generator().manual_seed(seed)
        parts = [-20 + 6 * torch.randn(size, generator=rng) for _ in range(4)]
        got, want = run(dpo_loss, *parts, beta), _dpo(*parts, beta)
        _name(got, want, _wrong_dpos(*parts, beta))
        compare(got, want, name=("损失", "The loss"))


def _dpo(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float) -> Tensor:
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected))).mean()


def _wrong_dpos(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Iterator[Mistake]:
    margin = (chosen - ref_chosen) - (rejected - ref_rejected)
    yield (
        _dpo(rejected, chosen, ref_rejected, ref_chosen, beta),
        "好的和差的反了：这样会学着写差的那一条。",
        "chosen and rejected are swapped; this learns to write the worse one.",
    )
    yield (
        -F.logsigmoid(beta * (chosen - rejected)).mean(),
        "少了参考模型：β 乘的是两个对数概率比之差。",
        "the reference is missing: beta multiplies a difference of log-ratios.",
    )
    yield (
        -F.logsigmoid(beta * (chosen + ref_chosen - rejected - ref_rejected)).mean(),
        "参考模型的对数概率要减去，不是加上。",
        "the reference's log-probabilities are subtracted, not added.",
    )
    yield (
        -F.logsigmoid(margin).mean(),
        "少了 β。",
        "beta is missing.",
    )
    yield (
        -beta * F.logsigmoid(margin).mean(),
        "β 要乘在 sigmoid 里面。",
        "beta belongs inside the sigmoid.",
    )
    yield (
        F.logsigmoid(beta * margin).mean(),
        "符号反了：损失是负的对数。",
        "the sign is flipped: the loss is minus the logarithm.",
    )
    yield (
        -F.logsigmoid(beta * margin).sum(),
        "这是各对之和；要平均。",
        "that is the sum over pairs; take the mean.",
    )


@grader
def e09_3(grpo_loss):
    """``grpo_loss(logprobs, old, ref, advantages, mask, cliprange, beta)``; padding must not count."""
    for rows, length, seed in ((2, 3, 0), (4, 6, 1), (6, 5, 2)):
        case = _batch(rows, length, seed)
        got, want = run(grpo_loss, *case), _grpo(*case)
        _name(got, want, _wrong_grpos(*case))
        compare(got, want, name=("损失", "The loss"))


def _batch(rows: int, length: int, seed: int) -> tuple:
    """Responses of different lengths, ratios on both sides of the clip, and large numbers on the padding."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length, (rows,), generator=rng)
    lengths[0] = length
    mask = (torch.arange(length) < lengths[:, None]).long()  # (B, R)
    old = -3 + torch.randn(rows, length, generator=rng)
    logprobs, ref = (old + 0.5 * torch.randn(rows, length, generator=rng) for _ in range(2))
    logprobs = torch.where(mask.bool(), logprobs, old + 1.0)
    advantages = torch.randn(rows, generator=rng)
    return logprobs, old, ref, advantages, mask, 0.2, 0.1


def _grpo(logprobs, old, ref, advantages, mask, clip, beta, variant: str = "") -> Tensor:
    """The loss, or with the name of a mistake what that mistake gives."""
    a, ratio, log_ratio = advantages[:, None], (logprobs - old).exp(), ref - logprobs
    both = -a * ratio, -a * ratio.clamp(1 - clip, 1 + clip)
    surrogate = {"min": torch.min(*both), "unclipped": both[0]}.get(variant, torch.max(*both))
    kl = {"k1": -log_ratio, "reversed": (-log_ratio).exp() - 1 + log_ratio}.get(
        variant, log_ratio.exp() - 1 - log_ratio
    )
    terms = surrogate + {"bonus": -beta, "free": 0.0}.get(variant, beta) * kl
    if variant == "padding":
        return terms.mean()
    if variant == "length":
        return (terms * mask).mean()
    if variant == "tokens":
        return (terms * mask).sum() / mask.sum()
    return ((terms * mask).sum(1) / mask.sum(1)).mean()


def _wrong_grpos(*case) -> Iterator[Mistake]:
    for variant, zh, en in (
        (
            "padding",
            "填充也算进了平均。先乘 mask，再除以 mask 之和。",
            "padding is part of the mean. Multiply by the mask, then divide by its sum.",
        ),
        (
            "length",
            "分子乘了 mask，分母却还是补齐后的长度：短的回复被缩小了。",
            "the sum is masked, but divided by the padded length: short responses are scaled down.",
        ),
        (
            "tokens",
            "这是对全部词元平均（TRL 默认的 dapo）；论文先在每条回复内平均，再对回复平均。",
            "that is the mean over all tokens (TRL's default, dapo); the paper averages each response first, "
            "then over responses.",
        ),
        (
            "min",
            "两项损失里要取较大的（悲观的一边）。",
            "of the two losses take the larger, the pessimistic one.",
        ),
        ("unclipped", "没有裁剪。", "nothing is clipped."),
        (
            "k1",
            "KL 用了 k1；GRPO 用 k3：exp(d) − 1 − d，其中 d = log q − log p。",
            "the KL term is k1; GRPO has k3: exp(d) − 1 − d with d = log q − log p.",
        ),
        (
            "reversed",
            "k3 里的 d 反了：d = log q − log p，q 是参考模型。",
            "d is reversed in k3: d = log q − log p, where q is the reference.",
        ),
        (
            "bonus",
            "KL 的符号反了：这样是奖励离开参考模型。",
            "the sign of the KL is flipped: this rewards leaving the reference.",
        ),
        ("free", "少了 KL 这一项。", "the KL term is missing."),
    ):
        yield _grpo(*case, variant), zh, en


@grader
def e09_4(loss, clipped):
    """GRPO's first update of a run, responses of equal length: its loss, and the share of clipped tokens."""
    loss, clipped = (to_tensor(each, ("答案", "The answer")) for each in (loss, clipped))
    if loss.numel() != 1 or clipped.numel() != 1:
        raise Wrong("两个答案各是一个数。", "Give one number for each.")
    if abs(float(clipped)) > 1e-6:
        raise Wrong(
            "裁剪：策略还没有动过，每个比值都是 1，没有一个超出 1 ± ε。",
            "Clipping: the policy has not moved yet, every ratio is 1, and none is outside 1 ± epsilon.",
        )
    if abs(float(loss)) > 1e-6:
        raise Wrong(
            "损失：比值都是 1，每组优势之和是 0，和参考模型的 KL 也是 0。还剩下什么？",
            "Loss: all ratios are 1, the advantages of a group add up to 0, and the KL to the reference is 0 "
            "too. What is left?",
        )
    return (
        "正确：损失是 0，梯度却不是。看损失曲线看不出 GRPO 在不在学。",
        "Correct: the loss is 0, but its gradient is not. The loss curve does not tell whether GRPO learns.",
    )


def _name(got, want: Tensor, mistakes: Iterator[Mistake]) -> None:
    """Return if ``got`` is right or none of the mistakes; otherwise name the one that it is."""
    try:
        got = to_tensor(got)
    except NotAnswered:
        raise
    except Wrong:
        return
    if _same(got, want):
        return
    for wrong, zh, en in mistakes:
        if _same(got, wrong) and not _same(wrong, want):
            raise Wrong(f"不对：{zh}", f"Not right: {en}")


def _same(got: Tensor, want: Tensor) -> bool:
    want = torch.as_tensor(want)
    same_size = got.numel() == want.numel()
    return same_size and torch.allclose(got.double().flatten(), want.double().flatten(), 1e-4, 1e-5)
