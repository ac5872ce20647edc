"""Graders of lesson 07: the KL controller, a reward with a bug, predictions, stopping, what failures do."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf.checks.compare import compare, to_tensor
from rlhf.checks.verdict import NotAnswered, Wrong, grader, run


@grader
def e07_1(
    prediction,
    *,
    value: float = 0.2,
    kl: float = 60.0,
    target: float = 6.0,
    steps: int = 184,
    batch_size: int = 128,
    horizon: int = 10_000,
):
    """The KL coefficient after ``steps`` steps at a constant KL (Ziegler et al. 2019, section 2.2).

    Every step multiplies it by ``1 + clip(kl / target - 1, -0.2, 0.2) * batch_size / horizon``.
    """
    if isinstance(prediction, bool):
        raise Wrong("请给一个数字。", "Give a number.")
    error = max(-0.2, min(0.2, kl / target - 1))
    rate = error * batch_size / horizon
    right, got = value * (1 + rate) ** steps, float(to_tensor(prediction, ("预测", "The prediction")))
    if abs(got - right) <= 0.01 * right:
        return f"正确：{right:.4f}。", f"Correct: {right:.4f}."
    for guess, zh, en in (
        (
            value,
            "系数会动：KL 偏离目标，每一步都乘一个因子。",
            "It does move: KL is off target, and every step multiplies.",
        ),
        (
            value * (1 - rate) ** steps,
            "方向反了：KL 高于目标时系数上升。",
            "Wrong way: above the target the coefficient rises.",
        ),
        (value * (1 + error) ** steps, "忘了 batch / horizon。", "You forgot batch / horizon."),
        (
            value * (1 + (kl / target - 1) * batch_size / horizon) ** steps,
            "忘了裁剪到 ±0.2。",
            "You forgot to clip to ±0.2.",
        ),
        (
            value * (1 + rate * steps),
            "差一点：每一步是乘，不是加。",
            "Almost: every step multiplies, it does not add.",
        ),
        (value * (1 + rate), "这是一步之后的值。", "That is the value after one step."),
    ):
        if abs(got - guess) <= 0.01 * abs(guess):
            raise Wrong(zh, en)
    raise Wrong(
        f"不是 {got:.4g}。提示：每步乘 1 + 裁剪后的误差 × batch / horizon，共 {steps} 步。",
        f"Not {got:.4g}. Hint: each of the {steps} steps multiplies by 1 + clipped error × batch / horizon.",
    )


@grader
def e07_2(rewards):
    """``rewards(scores, logprobs, ref_logprobs, mask, kl_coef) -> (B, R)``, with the bug taken out.

    ``scores`` is (B,), the others are (B, R), mask 1 on response tokens. A response may begin late and end
    early. What stands on padding does not matter, as long as no score stands there.
    """
    for seed, (batch, length) in enumerate([(2, 5), (3, 8), (1, 4)]):
        scores, logprobs, ref, mask = _rollout(batch, length, seed)
        result = run(rewards, scores, logprobs, ref, mask, 0.2)
        kl = -0.2 * (logprobs - ref)
        want, last = kl.clone(), _last(mask)
        want[torch.arange(batch), last] += scores
        live = mask.bool()
        got = to_tensor(result, ("奖励", "The reward"))
        if got.shape == want.shape:
            _explain_reward(got, kl, scores, live, last)
            got = torch.where(live, got, 0.0)
        compare(got, torch.where(live, want.double(), 0.0), mask=live, name=("奖励", "The reward"))


@grader
def e07_3(advantages_mean, ratio):
    """Two numbers before training starts: the mean of whitened advantages, the ratio in the first pass."""
    mean = to_tensor(advantages_mean, ("advantages_mean", "advantages_mean"))
    first = to_tensor(ratio, ("ratio", "The ratio"))
    if mean.numel() != 1 or not abs(float(mean)) <= 1e-3:
        raise Wrong(
            "advantages_mean 不对：白化（whitening）先减去均值，所以它只剩舍入误差。",
            "advantages_mean is not right: whitening subtracts the mean, so only rounding is left.",
        )
    if first.numel() != 1 or not abs(float(first) - 1) <= 1e-3:
        raise Wrong(
            "ratio 不对：第一遍时策略还没有更新，exp(logπ − logπ_old) 的指数是 0。",
            "The ratio is not right: nothing was updated before the first pass, so it is exp(0).",
        )
    return (
        "正确。因此看 advantages_mean 看不出学得好不好；第一遍也没有什么可裁剪。",
        "Correct. So advantages_mean tells nothing about learning, and the first pass has nothing to clip.",
    )


@grader
def e07_4(should_stop, *, factor: float = 1.5):
    """``should_stop(policykl, target_kl) -> bool``: True above ``factor`` times the target."""
    cases = [
        (0.2, 0.1),
        (0.16, 0.1),
        (0.14, 0.1),
        (0.11, 0.1),
        (0.05, 0.1),
        (0.0, 0.1),
        (-5.0, 0.1),
        (9.1, 6.0),
        (8.9, 6.0),
    ]
    for kl, target in cases:
        kl = kl * factor / 1.5
        result, right = _truth(run(should_stop, torch.tensor(kl), target)), kl > factor * target
        if result == right:
            continue
        if kl < 0:
            zh, en = (
                "估计出的 KL 可以是负的，负数不该停。",
                "An estimated KL can be negative; that is no reason to stop.",
            )
        elif target < kl < factor * target:
            zh, en = (
                f"超过目标但不到 {factor:g} 倍，还不停。",
                f"Above the target but below {factor:g} times it: go on.",
            )
        else:
            zh, en = "比较的方向或倍数不对。", "The comparison goes the wrong way, or has the wrong factor."
        raise Wrong(
            f"policykl={kl:.3g}，target_kl={target:g} 时应当返回 {right}。{zh}",
            f"At policykl={kl:.3g}, target_kl={target:g} it should return {right}. {en}",
        )


FORECASTS = {  # what must hold, and why, in both languages
    "no penalty: KL": (
        "higher",
        "没有惩罚，离开参考模型不花代价，KL 只会更高。",
        "Without a penalty nothing holds the policy back: its KL is higher.",
    ),
    "heavy penalty: score": (
        "lower",
        "每离开一点都要付 5 倍的 KL，奖励里几乎只剩 KL 的噪声，分数学不上去。",
        "At five times the KL the reward is little but the KL's noise: the score is not learnt.",
    ),
    "20 epochs: clipfrac": (
        "higher",
        "同一批用 20 遍，策略离写下它的那个自己越来越远，比率出界、被裁剪的更多。",
        "Used 20 times over, the batch is left further behind: more ratios leave the range and are clipped.",
    ),
    "no value loss: value explained": (
        "lower",
        "价值头从不学习，解释不了回报的方差，所以更低。",
        "A value head that never learns explains none of the returns' variance: lower.",
    ),
}


@grader
def e07_5(forecast):
    """``{"no penalty: KL": "higher" | "lower", …}`` for the four quantities of :data:`FORECASTS`."""
    if not isinstance(forecast, dict):
        raise Wrong(
            "请给一个字典，四个键各填 higher 或 lower。",
            "Give a dict: higher or lower for each of the four keys.",
        )
    if missing := [key for key in FORECASTS if key not in forecast]:
        raise Wrong(f"缺少：{'、'.join(missing)}。", f"Missing: {', '.join(missing)}.")
    if any(forecast[key] is ... for key in FORECASTS):
        raise NotAnswered
    for key, (right, zh, en) in FORECASTS.items():
        given = str(forecast[key]).strip().lower()
        if given not in ("higher", "lower"):
            raise Wrong(
                f"{key}：填 higher 或 lower，而不是 {forecast[key]!r}。",
                f"{key}: write higher or lower, not {forecast[key]!r}.",
            )
        if given != right:
            raise Wrong(f"{key}：再想想。{zh}", f"{key}: think again. {en}")
    return "四个都对。", "All four are right."


def _explain_reward(got: Tensor, kl: Tensor, scores: Tensor, live: Tensor, last: Tensor) -> None:
    """Name the real mistakes of PPO code before the numbers are compared."""
    rows = torch.arange(len(scores))

    def matches(want: Tensor) -> bool:
        return torch.allclose(got[live], want.double()[live], rtol=1e-4, atol=1e-5)

    flipped, every, none = -kl, kl + scores[:, None], kl.clone()
    flipped[rows, last] += scores
    if matches(flipped):
        raise Wrong(
            "KL 的符号反了：这样会奖励偏离参考模型。",
            "The sign of KL is flipped: this rewards moving away from the reference.",
        )
    if matches(every):
        raise Wrong(
            "每个词元都加了分数，应当只加在最后一个。",
            "The score is on every token; it belongs on the last one only.",
        )
    on_padding = [
        r for r in range(len(scores)) if last[r] + 1 < got.shape[1] and _holds(got, kl, r, last[r], scores[r])
    ]
    if on_padding or matches(none):
        raise Wrong(
            "分数落在了填充位置上：最后一列不一定是回复，要找 mask 为 1 的最后一个位置。",
            "The score fell on padding: take the last position where the mask is 1, not the last column.",
        )


def _holds(got: Tensor, kl: Tensor, row: int, last: Tensor, score: Tensor) -> bool:
    """Whether a padding slot behind ``last`` holds the score, with or without a KL term."""
    tail, penalty = got[row, int(last) + 1 :], kl[row, int(last) + 1 :].double()
    return bool((torch.isclose(tail, score.double()) | torch.isclose(tail, score + penalty)).any())


def _rollout(batch: int, length: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores (B,), log-probs (B, R) twice and a mask (B, R) with a late start and padding at the end."""
    rng = torch.Generator().manual_seed(seed)
    logprobs, ref = (-3 * torch.rand(batch, length, generator=rng) - 0.1 for _ in range(2))
    mask = torch.ones(batch, length, dtype=torch.long)
    for row in range(batch):
        mask[row, : row % 2] = 0
        mask[row, length - 1 - row % 3 :] = 0
    return torch.linspace(-1.7, 2.3, batch) + 0.9, logprobs, ref, mask


def _last(mask: Tensor) -> Tensor:
    return torch.tensor([int(row.nonzero()[-1]) for row in mask])


def _truth(value) -> bool:
    if isinstance(value, str) or (
        not isinstance(value, (bool, int, float, Tensor)) and not hasattr(value, "item")
    ):
        raise Wrong("应当返回 True 或 False。", "Return True or False.")
    return bool(value)
