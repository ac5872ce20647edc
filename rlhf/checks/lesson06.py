"""Graders of lesson 06: log-probs of a response, advantages, a prediction, whitening, who is clipped."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlhf.checks.compare import compare, to_tensor
from rlhf.checks.verdict import Wrong, grader, run
from rlhf.ppo import losses

Message = tuple[str, str]  # Chinese, English
LOGPROBS: Message = ("对数概率", "The log-probability")
ADVANTAGE: Message = ("优势", "The advantage")
WHITENED: Message = ("白化的结果", "The whitened result")


@grader
def e06_1(logprobs):
    """``logprobs(logits (T, V), ids (T,), query_length, response_length) -> (R,)``, for one sequence.

    There may be padding behind the response, and a response of one token.
    """
    for seed, (query, response, length) in enumerate([(3, 4, 9), (1, 3, 4), (5, 1, 8), (2, 6, 8)]):
        g = torch.Generator().manual_seed(seed)
        logits = 3 * torch.randn(length, 7, generator=g)
        ids = torch.randint(0, 7, (length,), generator=g)
        table = logits.log_softmax(-1)  # (T, V)
        start, best = query - 1, table.amax(-1)
        want = table[start : start + response].gather(-1, ids[query : query + response, None]).squeeze(-1)
        got = to_tensor(run(logprobs, logits, ids, query, response), LOGPROBS)
        shifted = torch.cat([ids[1:], ids[:1]])  # the token that each position predicts
        late = table.gather(-1, shifted[:, None]).squeeze(-1)[query : query + response]
        same = table.gather(-1, ids[:, None]).squeeze(-1)
        raw = logits[start : start + response].gather(-1, ids[query : query + response, None]).squeeze(-1)
        across = logits.log_softmax(0)[start : start + response]  # (R, V), over positions
        across = across.gather(-1, ids[query : query + response, None]).squeeze(-1)
        slips = [
            (
                best[start : start + response],
                (
                    "取的是 argmax：要 gather 出实际写下的词元。",
                    "this is the argmax: gather the token that was written.",
                ),
            ),
            (
                best[query : query + response],
                (
                    "两处都还没改：要 gather 写下的词元，起点是 len(q) − 1。",
                    "both mistakes are still there: gather the token that was written, from len(q) − 1 on.",
                ),
            ),
            (
                late,
                (
                    "晚了一格：回复的第一个词元由提示的最后一个位置预测，起点是 len(q) − 1。",
                    "one slot late: the last query token predicts the first response token, so start at "
                    "len(q) − 1.",
                ),
            ),
            (
                same[start : start + response],
                (
                    "位置 t 的 logits 预测第 t+1 个词元：词元要错开一位。",
                    "the logits at t predict token t+1: shift the tokens by one.",
                ),
            ),
            (
                same[query : query + response],
                (
                    "位置 t 的 logits 预测第 t+1 个词元：logits 要提前一位。",
                    "the logits at t predict token t+1: take the logits one position earlier.",
                ),
            ),
            (raw, ("忘了 log_softmax。", "the log_softmax is missing.")),
            (
                across,
                (
                    "log_softmax 的维度不对：要在词表上取（最后一维），不是在位置上。",
                    "log_softmax over the wrong dimension: it runs over the vocabulary, the last one.",
                ),
            ),
            (want.exp(), ("这是概率，还要取对数。", "these are probabilities; take the logarithm.")),
        ]
        _explain(got, want, slips, LOGPROBS)
        compare(got, want, name=LOGPROBS)


@grader
def e06_2(advantages):
    """``advantages(scores (B,), kl, values, mask (B, N), beta, gamma, lam) -> (B, N)``, before whitening.

    Responses begin late and end early; what stands outside the mask does not matter.
    """
    for seed, (batch, length, gamma, lam) in enumerate(
        [(3, 6, 1.0, 0.95), (2, 9, 0.9, 0.6), (4, 7, 1.0, 0.8)]
    ):
        scores, kl, values, mask = _rollout(batch, length, seed)
        result = run(advantages, scores, kl, values, mask, 0.2, gamma, lam)
        rewards = losses.token_rewards(scores, kl, mask, 0.2)[0]
        want = losses.gae(rewards * mask, values * mask, gamma, lam)
        got = to_tensor(result, ADVANTAGE)
        live = mask.bool()
        if got.shape == want.shape:
            slips = _slips(scores, kl, values, mask, 0.2, gamma, lam)
            _explain(got[live], want[live], [(x[live], why) for x, why in slips], ADVANTAGE)
            got = torch.where(live, got, 0.0)
        compare(got, torch.where(live, want, 0.0), mask=live, name=ADVANTAGE)


@grader
def e06_3(prediction, *, score: float = 2.0, value: float = 0.5, tokens: int = 10):
    """The first token's advantage at lambda 0, 0.95 and 1, when nothing but the last slot has a reward."""
    if not isinstance(prediction, (list, tuple, Tensor)) and not hasattr(prediction, "tolist"):
        raise Wrong("请给三个数的列表。", "Give a list of three numbers.")
    got = to_tensor(prediction, ADVANTAGE).flatten()
    if len(got) != 3:
        raise Wrong(f"需要三个数，收到 {len(got)} 个。", f"Three numbers are needed, not {len(got)}.")
    last, lam = score - value, (0.0, 0.95, 1.0)
    want = [last * x ** (tokens - 1) for x in lam]  # 0 ** 9 is 0: with lambda 0 the first slot sees nothing
    for place, (a, right) in enumerate(zip(got.tolist(), want, strict=True)):
        if abs(a - right) <= 0.01 * abs(right) + 1e-6:
            continue
        why = _why_not(a, last, lam[place], score, value, tokens)
        raise Wrong(
            f"λ = {lam[place]:g} 时不是 {a:.4g}：{why[0]}", f"At λ = {lam[place]:g} not {a:.4g}: {why[1]}"
        )
    return (
        "正确。λ 越大，最后的分数传得越远，代价是抖动更大。",
        "Correct. The larger λ, the further the final score travels, and the noisier it gets.",
    )


@grader
def e06_4(whiten):
    """``whiten(x, mask) -> (B, N)``: mean 0, standard deviation 1 over live slots, 0 elsewhere.

    The unbiased and the plain standard deviation are both right.
    """
    for seed, (batch, length) in enumerate([(2, 6), (3, 8), (5, 7)]):
        g = torch.Generator().manual_seed(seed)
        mask = _rollout(batch, length, seed)[3]
        x = 2.5 + 1.5 * torch.randn(batch, length, generator=g)
        x = torch.where(mask.bool(), x, 50.0 if seed else 0.0)  # padding may hold anything
        want, live = losses.whiten(x, mask), mask.bool()
        got = to_tensor(run(whiten, x, mask), WHITENED)
        if got.shape == want.shape:
            count = live.sum()
            plain = want * (count / (count - 1)).sqrt()  # divided by the plain standard deviation
            if torch.allclose(got, plain.double(), atol=1e-3):
                continue
            _explain(got[live], want[live], _whitening_slips(x, mask), WHITENED)
        compare(got, want, mask=mask, atol=1e-3, name=WHITENED)


@grader
def e06_5(clipped):
    """``clipped(ratio, advantages, epsilon) -> bool (B, N)``: true where clipping leaves no gradient."""
    ratio = torch.tensor([[1.5, 0.5, 1.5, 0.5], [1.0, 1.1, 0.95, 1.25], [2.0, 0.1, 1.3, 0.7]])
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0], [2.0, -3.0, 1.0, 0.5], [0.0, 0.0, 0.1, -0.1]])
    for epsilon in (0.2, 0.4, 0.05):
        want = ((advantages > 0) & (ratio > 1 + epsilon)) | ((advantages < 0) & (ratio < 1 - epsilon))
        result = run(clipped, ratio, advantages, epsilon)
        got = to_tensor(result, ("结果", "The result"))
        if got.shape != want.shape:
            compare(got, want, name=("结果", "The result"))
        if not torch.isin(got, torch.tensor([0.0, 1.0], dtype=got.dtype)).all():
            raise Wrong("应当是真假值（True 和 False）。", "The result should hold True and False.")
        _explain_clipping(got.bool(), want, ratio, advantages, epsilon)


# ------------------------------------------------------------------------------------- how it went wrong


def _explain(got: Tensor, want: Tensor, slips: list[tuple[Tensor, Message]], name: Message) -> None:
    """Raise the explanation of the first known slip that gives exactly these numbers."""
    if got.shape != want.shape or torch.allclose(got, want.double(), rtol=1e-4, atol=1e-5):
        return
    for wrong, (zh, en) in slips:
        if wrong.shape == got.shape and torch.allclose(got, wrong.double(), rtol=1e-4, atol=1e-5):
            raise Wrong(f"{name[0]}不对：{zh}", f"{name[1]} is wrong: {en}")


def _slips(
    scores: Tensor, kl: Tensor, values: Tensor, mask: Tensor, beta: float, gamma: float, lam: float
) -> list[tuple[Tensor, Message]]:
    """What the usual mistakes on the way from scores to advantages give."""
    rows, last = torch.arange(len(scores)), losses.last_index(mask)
    right = -beta * kl
    right[rows, last] += scores
    column, everywhere, none = -beta * kl, -beta * kl + scores[:, None], -beta * kl
    column[:, -1] += scores
    flipped = beta * kl
    flipped[rows, last] += scores
    kept = values * mask

    def gae(rewards: Tensor, masked: bool = True) -> Tensor:
        return losses.gae(rewards * mask if masked else rewards, kept, gamma, lam)

    def delta(rewards: Tensor) -> Tensor:
        return losses.td_errors(rewards * mask, kept, gamma)

    one = (
        "这是 δ 的列表，只看了一步：还要把后面的 δ 折扣相加。",
        "these are the δ, one step only: add up the later ones, discounted.",
    )
    column_zh = "分数加在了最后一列，那通常是填充：要找掩码为 1 的最后一格。"
    column_en = "the score is in the last column, which is mostly padding: find the last slot with mask 1."
    reached = losses.gae(right * mask, kept, gamma, 1.0)
    forwards = _forwards(delta(right), gamma * lam)
    return [
        (delta(right), one),
        (
            delta(column),
            (
                f"两处都还没改：{column_zh}{one[0]}",
                f"both mistakes are still there: {column_en} And {one[1]}",
            ),
        ),
        (gae(column), (column_zh, column_en)),
        (gae(column, masked=False), (column_zh, column_en)),
        (gae(none), ("分数不见了。", "the score is missing.")),
        (gae(everywhere), ("每一格都加了分数。", "every slot got the score.")),
        (gae(flipped), ("KL 的符号反了。", "the sign of the KL is flipped.")),
        (reached, ("少了 λ。", "λ is missing.")),
        (
            losses.gae(right * mask, kept, 1.0, lam),
            (
                "少了 γ：下一格的价值和后面的 δ 都要乘 γ。",
                "γ is missing: it goes with the next value and the later δ.",
            ),
        ),
        (
            gae(right + (beta - 1) * kl),
            ("少了 β：KL 要乘上税率。", "β is missing: the KL is taxed at that rate."),
        ),
        (
            forwards,
            ("方向反了：要从右往左加，功劳归于前面的词元。", "the wrong way round: add from right to left."),
        ),
        (
            losses.gae(right * mask, kept, gamma, lam) + kept,
            ("这是回报（优势加价值）。", "these are the returns, advantage plus value."),
        ),
        (losses.whiten(gae(right), mask), ("还不要白化。", "do not whiten yet.")),
    ]


def _forwards(delta: Tensor, factor: float) -> Tensor:
    """The sum over earlier surprises instead of later ones."""
    total, sums = torch.zeros(len(delta)), torch.zeros_like(delta)
    for t in range(delta.shape[1]):
        total = delta[:, t] + factor * total
        sums[:, t] = total
    return sums


def _why_not(got: float, last: float, lam: float, score: float, value: float, tokens: int) -> Message:
    def is_(guess: float) -> bool:
        return abs(got - guess) <= 0.01 * abs(guess) + 1e-6

    if is_(score * lam ** (tokens - 1)) or (lam == 1 and is_(score)):
        return "忘了减去价值头的预期。", "you forgot what the value head expected."
    if lam == 0 and is_(-value):
        return (
            "第一格的 δ 是 r + V(下一格) − V，下一格也有价值。",
            "the first δ is r + V(next) − V, and the next slot has a value too.",
        )
    if lam == 0 and is_(last):
        return (
            "λ = 0 只看一步，第一格看不到最后的分数。",
            "λ = 0 looks one step ahead and does not see the score.",
        )
    if any(is_(last * lam ** (tokens + k)) for k in (0, -2)):
        return (
            "指数差一：从第 1 格到第 10 格要走 9 步。",
            "off by one: from slot 1 to slot 10 there are 9 steps.",
        )
    if is_(last) and lam < 1:
        return "还要乘 λ 的幂：分数要一格一格传过来。", "multiply by a power of λ: it travels slot by slot."
    return (
        "只有最后一格的 δ 不是 0，乘上 λ 的若干次方。",
        "only the last δ is not 0; it is multiplied by a power of λ.",
    )


def _whitening_slips(x: Tensor, mask: Tensor) -> list[tuple[Tensor, Message]]:
    """What the usual mistakes of whitening give, at the live slots."""
    live, zeroed = mask.bool(), x * mask
    lively = x[live]
    centred = lively - lively.mean()
    rows = [(row - row[m.bool()].mean()) / row[m.bool()].std() for row, m in zip(x, mask, strict=True)]
    leak = ("填充混进了均值或标准差。", "padding got into the mean or the standard deviation.")
    return [
        (((zeroed - zeroed.mean()) / zeroed.std())[live], leak),
        (((x - x.mean()) / x.std())[live], leak),
        (centred / zeroed.std(), leak),
        (centred, ("还要除以标准差。", "divide by the standard deviation, too.")),
        (lively / lively.std(), ("还要减去均值。", "subtract the mean, too.")),
        (
            centred / lively.var(),
            ("除的是方差，应当是标准差。", "this divides by the variance, not by the standard deviation."),
        ),
        (
            torch.stack(rows)[live],
            ("要对整批一起白化，不是一行一行。", "whiten the batch as a whole, not row by row."),
        ),
    ]


def _explain_clipping(got: Tensor, want: Tensor, ratio: Tensor, advantages: Tensor, epsilon: float) -> None:
    """Name the misunderstanding behind a wrong set of clipped slots."""
    if torch.equal(got, want):
        return
    outside = (ratio > 1 + epsilon) | (ratio < 1 - epsilon)
    guesses: list[tuple[Callable[[], Tensor], Message]] = [
        (
            lambda: outside,
            (
                "走出 1 ± ε 还要看方向：走错方向的不裁剪。",
                "outside 1 ± ε is not enough: a move the wrong way is not clipped.",
            ),
        ),
        (
            lambda: outside & (advantages != 0),
            ("走出 1 ± ε 还要看方向。", "outside 1 ± ε is not enough: mind the direction."),
        ),
        (lambda: outside & ~want & (advantages != 0), ("方向反了。", "the directions are swapped.")),
        (lambda: ~want, ("真假颠倒了。", "true and false are swapped.")),
        (
            lambda: (advantages > 0) & (ratio > 1 + epsilon),
            ("漏了 A < 0 的情形。", "the case A < 0 is missing."),
        ),
        (
            lambda: (advantages < 0) & (ratio < 1 - epsilon),
            ("漏了 A > 0 的情形。", "the case A > 0 is missing."),
        ),
    ]
    for guess, (zh, en) in guesses:
        if torch.equal(got, guess()):
            raise Wrong(zh, en[0].upper() + en[1:])
    place = tuple((got != want).nonzero()[0].tolist())
    a, rho, right = float(advantages[place]), float(ratio[place]), bool(want[place])
    raise Wrong(
        f"A = {a:g}，ratio = {rho:g}，ε = {epsilon:g} 时应当是 {right}。",
        f"At A = {a:g}, ratio = {rho:g}, ε = {epsilon:g} it should be {right}.",
    )


def _rollout(batch: int, length: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores (B,), KL and values (B, N), and a mask with late starts and padding at the end."""
    g = torch.Generator().manual_seed(100 + seed)
    kl, values = torch.randn(batch, length, generator=g), torch.randn(batch, length, generator=g)
    mask = torch.ones(batch, length, dtype=torch.long)
    for row in range(batch):
        mask[row, : row % 2 + 1] = 0
        mask[row, length - row % 3 :] = 0  # row 0 reaches the last column, the others do not
    return torch.linspace(-1.7, 2.3, batch) + 0.9, kl, values, mask
