"""Graders of lesson 11: statistics from shards, who draws which rows, unequal shards, bytes per GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from rlhf.checks.compare import compare, to_tensor
from rlhf.checks.verdict import Wrong, grader, run

STATISTICS = ("均值和方差", "Mean and variance")
FACTOR = ("系数", "The factor")


# --------------------------------------------------------------------------- 1 mean and variance from sums


@grader
def e11_1(mean_and_variance):
    """``mean_and_variance(parts)``: one ``(count, sum, sum of squares)`` per process → mean, unbiased var."""
    for sizes, seed in (((3, 5), 0), ((4, 4), 1), ((1, 2, 9), 2), ((6,), 3), ((7, 0, 2), 4)):
        shards = [torch.randn(n, generator=torch.Generator().manual_seed(seed + n)) + n for n in sizes]
        parts = [(len(x), float(x.sum()), float((x * x).sum())) for x in shards]
        whole = torch.cat(shards)
        want = torch.stack([whole.mean(), whole.var()])
        got = run(mean_and_variance, parts)
        if isinstance(got, dict):
            raise Wrong("请返回两个数：均值，方差。", "Return two numbers: the mean, the variance.")
        _name_statistics(to_tensor(got, STATISTICS), want, parts, whole)
        compare(got, want, rtol=1e-3, atol=1e-3, name=STATISTICS)


def _name_statistics(got: torch.Tensor, want: torch.Tensor, parts: Sequence, whole: torch.Tensor) -> None:
    """Raise Wrong with the mistake that gives ``got``, if it is one of the usual ones."""
    if got.shape != (2,) or torch.allclose(got, want.double(), 1e-3, 1e-3):
        return
    full = [part for part in parts if part[0]]
    means = torch.tensor([s / n for n, s, _ in full])
    within = torch.tensor([q / n - (s / n) ** 2 for n, s, q in full])
    n, square = len(whole), float((whole**2).mean())
    mean, variance = got.tolist()
    for found, wrong, zh, en in (
        (
            mean,
            means.mean(),
            "均值是各进程均值的平均：各份的个数不同，先把和与个数分别加起来再除。",
            "the mean is a mean of means; counts differ, so add up sums and counts first, then divide.",
        ),
        (
            variance,
            whole.var(unbiased=False),
            "方差除以了 n；要无偏的，除以 n − 1。",
            "the variance is divided by n; the unbiased one by n − 1.",
        ),
        (
            variance,
            within.mean(),
            "方差是各进程方差的平均：各份均值之间的差别丢了。",
            "the variance is a mean of variances: how far the means of the parts lie apart is lost.",
        ),
        (
            variance,
            square,
            "方差里没有减去均值的平方。",
            "the square of the mean is not subtracted from the variance.",
        ),
        (
            variance,
            float(whole.std()),
            "这是标准差，不是方差。",
            "that is the standard deviation, not the variance.",
        ),
        (
            variance,
            n * float(whole.var()),
            "方差还没有除以个数。",
            "the variance is not divided by the count yet.",
        ),
    ):
        right = float(want[0] if found is mean else want[1])
        if abs(found - float(wrong)) < 1e-3 * max(1, abs(found)) and abs(found - right) > 1e-2:
            raise Wrong(f"不对：{zh}", f"Not right: {en}")


# --------------------------------------------------------------------------------- 2 who draws which rows


@grader
def e11_2(my_rows):
    """``my_rows(total, step, batch, rank, world, seed)``: this process's rows of a step, without a repeat."""
    for total, batch, world, seed in ((64, 4, 2, 0), (60, 5, 3, 7), (48, 6, 4, 1), (20, 5, 1, 3)):
        steps = total // (batch * world)
        drawn = [
            [
                _rows(run(my_rows, total, step, batch, rank, world, seed), batch, total)
                for rank in range(world)
            ]
            for step in range(steps)
        ]
        _check_step(drawn, batch, world)
        epoch = sorted(row for step in drawn for rank in step for row in rank)
        if epoch != list(range(total)):
            raise Wrong(
                "一轮还没有结束，有的行就出现了第二次：每一步要接着上一步的地方往下取。",
                "rows come up twice before the epoch is over: each step goes on where the last one ended.",
            )
        _check_order(my_rows, drawn[0], total, batch, world, seed, steps)
    return (
        "正确：所有进程用同一个种子洗牌，各取各的一段。",
        "Correct: every process shuffles with the same seed and takes its own part.",
    )


def _rows(value, batch: int, total: int) -> list[int]:
    rows = [int(row) for row in to_tensor(list(value), ("行号", "The rows")).flatten().tolist()]
    if len(rows) != batch:
        raise Wrong(
            f"每个进程应当取 {batch} 行，而不是 {len(rows)} 行。", f"{len(rows)} rows instead of {batch}."
        )
    if any(not 0 <= row < total for row in rows):
        raise Wrong(f"行号应当在 0 到 {total - 1} 之间。", f"Rows must lie between 0 and {total - 1}.")
    return rows


def _check_step(drawn: list[list[list[int]]], batch: int, world: int) -> None:
    """All processes of a step together must have ``batch * world`` different rows."""
    if world == 1:
        return
    first = [sorted(rows) for rows in drawn[0]]
    if all(rows == first[0] for rows in first):
        raise Wrong(
            "所有进程取的是同样的行：同样的种子，又没有用上 rank，等于把一份工作做了几遍。",
            "All processes draw the same rows: the same seed, and rank is not used.",
        )
    for step in drawn:
        together = {row for rows in step for row in rows}
        if len(together) < batch * world:
            raise Wrong(
                "同一步里，不同进程取到了相同的行：洗牌的种子里有 rank，各洗各的牌就会重叠。",
                "Within one step two processes draw the same row: with rank in the seed each shuffles a deck "
                "of its own, and decks overlap.",
            )


def _check_order(
    my_rows: Callable, first: list, total: int, batch: int, world: int, seed: int, steps: int
) -> None:
    """The seed decides, the next epoch has another order, and calling twice gives the same rows."""

    def everyone(step: int, seed: int) -> list:
        return [_rows(run(my_rows, total, step, batch, r, world, seed), batch, total) for r in range(world)]

    if everyone(0, seed) != first:
        raise Wrong(
            "同样的参数两次结果不同：洗牌要用 seed，不要用全局的随机状态。",
            "The same arguments give different rows: shuffle with the seed, not with global random state.",
        )
    if everyone(0, seed + 100) == first:
        raise Wrong("换了种子，次序没有变：没有洗牌。", "Another seed, the same order: nothing is shuffled.")
    if everyone(steps, seed) == first:
        raise Wrong(
            "第二轮的次序和第一轮一样：每轮要重新洗牌（种子里加上轮数）。",
            "The second epoch has the order of the first: shuffle anew each time (seed + epoch).",
        )


# ----------------------------------------------------------------------------------- 3 unequal shards


@grader
def e11_3(factor):
    """``factor(tokens, rank)``: what a process multiplies its mean loss with, so that the average of all
    processes' gradients is that of the mean over all tokens."""
    for tokens in ([10, 30], [5, 5], [1, 2, 3, 10], [7], [40, 8, 8]):
        total, world = sum(tokens), len(tokens)
        got = torch.stack([to_tensor(run(factor, tokens, rank), FACTOR).reshape(()) for rank in range(world)])
        want = torch.tensor([n * world / total for n in tokens])
        _name_factor(got, tokens)
        compare(got, want, name=FACTOR)


def _name_factor(got: torch.Tensor, tokens: list[int]) -> None:
    total, world = sum(tokens), len(tokens)
    if len(set(tokens)) == 1:  # equal shards: many mistakes are right
        return
    for wrong, zh, en in (
        (
            [1.0] * world,
            "不加权就是错误本身：短的那份里每个词元的分量更大。",
            "no weight is the mistake itself: each token of a short shard counts more.",
        ),
        (
            [n / total for n in tokens],
            f"小了 {world} 倍：DDP 会把梯度再平均一次（除以进程数），要先乘回来。",
            f"{world} times too small: DDP divides by the number of processes; multiply by it first.",
        ),
        (
            [total / (n * world) for n in tokens],
            "反了：词元多的那份应当更重。",
            "upside down: the shard with more tokens weighs more.",
        ),
        (
            [float(n) for n in tokens],
            "还没有除以全部词元数。",
            "not divided by the number of all tokens yet.",
        ),
        (
            [1 / world] * world,
            "平均由 DDP 来做；这里要的是词元的权重。",
            "averaging is done by DDP; what is asked for are the weights of the tokens.",
        ),
        (
            [n * world for n in tokens],
            "还没有除以全部词元数。",
            "not divided by the number of all tokens yet.",
        ),
    ):
        if torch.allclose(got, torch.tensor(wrong).double(), 1e-4, 1e-6):
            raise Wrong(f"不对：{zh}", f"Not right: {en}")


# ------------------------------------------------------------------------------------ 4 bytes per GPU


@grader
def e11_4(replicated, zero_1, zero_2, zero_3):
    """GB per GPU of weights, gradients and optimiser: 13 billion parameters, all learning, 16 GPUs."""
    n, world = 13, 16
    right = {
        "replicated": 16 * n,
        "ZeRO-1": 4 * n + 12 * n / world,
        "ZeRO-2": 2 * n + 14 * n / world,
        "ZeRO-3": 16 * n / world,
    }
    given = (replicated, zero_1, zero_2, zero_3)
    for (name, want), answer in zip(right.items(), given, strict=True):
        got = to_tensor(answer, (name, name))
        if got.numel() != 1:
            raise Wrong("四个答案各是一个数。", "Give one number for each.")
        _check_bytes(float(got), want, name)
    return (
        "正确：优化器最占地方，所以 ZeRO-1 已经省了一大半；ZeRO-3 把剩下的也分掉。",
        "Correct: the optimiser is the largest part, so ZeRO-1 saves most; ZeRO-3 shares out the rest.",
    )


def _check_bytes(got: float, want: float, name: str) -> None:
    if abs(got - want) <= 0.03 * want:
        return
    for factor, zh, en in (
        (1e9 / 2**30, "单位是 GB（10 的 9 次方字节），不是 GiB。", "the unit is GB (10^9 bytes), not GiB."),
        (1e9, "单位是 GB，不是字节。", "the unit is GB, not bytes."),
        (16, "这是全部 GPU 之和，要的是每块。", "that is the sum over all GPUs; one was asked for."),
        (1 / 16, "这里除以了 16，可是并不是全部都分摊。", "divided by 16, but not all of it is shared out."),
    ):
        if abs(got - factor * want) <= 0.02 * factor * want:
            raise Wrong(f"{name}：{zh}", f"{name}: {en}")
    hint = {
        "replicated": (
            "每个参数 2 字节权重、2 字节梯度、12 字节优化器（float32 的主权重和两个矩）。",
            "per parameter 2 bytes of weights, 2 of gradients, 12 of optimiser (float32 copy, two moments).",
        ),
        "ZeRO-1": ("只分摊优化器的 12 字节。", "only the optimiser's 12 bytes are shared out."),
        "ZeRO-2": ("分摊优化器和梯度，共 14 字节。", "optimiser and gradients are shared out, 14 bytes."),
        "ZeRO-3": ("16 字节全部分摊。", "all 16 bytes are shared out."),
    }[name]
    raise Wrong(f"{name}：{got:.4g} GB 不对。{hint[0]}", f"{name}: {got:.4g} GB is not right. Here {hint[1]}")
