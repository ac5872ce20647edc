"""Compare a student's numbers with the right ones and say how they differ.

In: two tensors, arrays, lists or numbers. Out: nothing, or :class:`Wrong` that names the mistake: a shape, a
NaN, padding, a flipped sign, a factor, a shift by one. Every lesson's graders use it.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import torch
from torch import Tensor

from rlhf.checks.verdict import NotAnswered, Wrong

Message = tuple[str, str]  # Chinese, English


def compare(
    got,
    want,
    *,
    mask=None,
    rtol: float = 1e-4,
    atol: float = 1e-5,
    name: Message = ("结果", "The result"),
) -> None:
    """Return if ``got`` equals ``want`` within the tolerance; otherwise say what is different.

    Args:
        got: the student's numbers: a tensor, array, list, list of tensors, or one number.
        want: the right numbers, in any of these forms.
        mask: 1 where a position counts, 0 on padding; same shape as ``want``. Padding is compared too, and
            named when only padding is wrong. Where padding may hold anything, replace it on both sides first.
        name: what the numbers are called, in both languages.

    Raises:
        Wrong: with the first diagnosis that fits. NotAnswered: ``got`` is None or ``...``.
    """
    want = to_tensor(want, name)
    got = _fit(to_tensor(got, name), want, name)
    if not torch.isfinite(got).all():
        raise _wrong(
            name,
            (
                "里有 NaN 或 inf。是否除以 0，或对 0 取了对数？",
                "holds NaN or inf. A division by 0, or log 0?",
            ),
        )
    if _close(got, want, rtol, atol):
        return
    live = torch.ones_like(want, dtype=torch.bool) if mask is None else to_tensor(mask, name).bool()

    def close(a: Tensor, b: Tensor) -> bool:
        return a.numel() > 0 and _close(a, b, rtol, atol)

    if mask is not None and close(got[live], want[live]):
        raise _wrong(
            name,
            (
                "只在填充位置上不对：mask 为 0 的地方应当不计。",
                "is wrong on padding only: where the mask is 0.",
            ),
        )
    raise _wrong(name, _diagnose(got, want, live, close))


def to_tensor(value, name: Message = ("结果", "The result")) -> Tensor:
    """Any of the forms a student may hand in, as a float64 tensor on the CPU."""
    if value is None or value is ...:
        raise NotAnswered
    value = _floats(value)
    if isinstance(value, (list, tuple)):
        if any(item is None or item is ... for item in value):
            raise NotAnswered
        if any(isinstance(item, Tensor) for item in value):
            value = [
                item.detach().cpu().double() if isinstance(item, Tensor) else torch.tensor(item)
                for item in value
            ]
            if len({tuple(item.shape) for item in value}) == 1:
                return torch.stack(value).double()
            raise _wrong(name, ("里各张量形状不同。", "holds tensors of different shapes."))
    try:
        return torch.as_tensor(value).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        kind = type(value).__name__
        raise _wrong(
            name,
            (
                f"应当是数字、列表或张量，而不是 {kind}。",
                f"should be numbers, a list or a tensor, not {kind}.",
            ),
        ) from None


def _floats(value):
    """Fractions and decimals, in lists too, as floats: torch knows neither."""
    if isinstance(value, (list, tuple)):
        return [_floats(item) for item in value]
    return float(value) if isinstance(value, (Fraction, Decimal)) else value


def _fit(got: Tensor, want: Tensor, name: Message) -> Tensor:
    """``got`` in the shape of ``want``; only a missing or extra dimension of size 1 is forgiven."""
    if got.shape == want.shape:
        return got
    if [n for n in got.shape if n != 1] == [n for n in want.shape if n != 1]:
        return got.reshape(want.shape)
    shapes = tuple(got.shape), tuple(want.shape)
    if got.ndim == want.ndim == 2 and got.shape == want.T.shape:
        zh, en = "：行和列颠倒了", ": rows and columns are swapped"
    elif got.numel() == 1:
        zh, en = "：是不是多做了一次求和或平均？", ": one sum or mean too many?"
    elif got.ndim == want.ndim and got.shape[-1] == want.shape[-1] - 1:
        zh, en = "：最后一维少了一个位置", ": one position is missing at the end"
    else:
        zh, en = "", ""
    raise _wrong(
        name,
        ("的形状是 {}，应当是 {}{}。".format(*shapes, zh), "has shape {}, not {}{}.".format(*shapes, en)),
    )


def _diagnose(got: Tensor, want: Tensor, live: Tensor, close: Callable[[Tensor, Tensor], bool]) -> Message:
    """The simplest change that turns ``got`` into ``want``, or else the first place where they differ."""
    a, b = got[live], want[live]
    count = int(live.sum())
    if close(-a, b):
        return "的正负号反了。", "has the wrong sign."
    factor = _ratio(a, b) if count > 1 else None
    if factor is not None and close(a, b * factor):
        if abs(factor - count) < 1e-6 * count:
            return (
                f"大了 {count} 倍：应当取平均，不是求和。",
                f"is {count} times too large: a sum instead of a mean.",
            )
        if abs(factor * count - 1) < 1e-6:
            return (
                f"小了 {count} 倍：应当求和，不是取平均。",
                f"is {count} times too small: a mean instead of a sum.",
            )
        return f"是正确值的 {factor:.4g} 倍。", f"is {factor:.4g} times the right value."
    if count > 1 and close(a - (a - b).mean(), b):
        offset = float((a - b).mean())
        return f"处处差了同一个数 {offset:+.4g}。", f"is off by the same amount everywhere: {offset:+.4g}."
    if got.ndim and got.shape[-1] > 2:
        if close(got[..., 1:], want[..., :-1]):
            return "整体晚了一个位置。", "is shifted: every value sits one position too late."
        if close(got[..., :-1], want[..., 1:]):
            return "整体早了一个位置。", "is shifted: every value sits one position too early."
        if close(got.flip(-1), want):
            return "的顺序反了。", "is in reversed order."
    if close(a, b.trunc()) or close(a, b.round()):
        return "的小数部分丢了：不要用整数类型。", "lost its decimals: do not use an integer type."
    return _first_difference(got, want, live, close)


def _first_difference(
    got: Tensor, want: Tensor, live: Tensor, close: Callable[[Tensor, Tensor], bool]
) -> Message:
    if got.ndim == 0 or got.numel() == 1:
        a, b = float(got), float(want)
        return f"是 {a:.4g}，应当是 {b:.4g}。", f"is {a:.4g}, not {b:.4g}."
    wrong = [
        tuple(i.tolist())
        for i in live.nonzero()
        if not close(got[tuple(i)].reshape(1), want[tuple(i)].reshape(1))
    ]
    if not wrong:
        return "在填充位置上不对。", "is wrong on padding."
    place, count, total = wrong[0], len(wrong), int(live.sum())
    shown = place[0] if len(place) == 1 else place
    a, b = float(got[place]), float(want[place])
    return (
        f"有 {count}/{total} 处不对，第一处在下标 {shown}：是 {a:.4g}，应当是 {b:.4g}。",
        f"is wrong in {count} of {total} places, first at index {shown}: {a:.4g} instead of {b:.4g}.",
    )


def _ratio(a: Tensor, b: Tensor) -> float | None:
    """``a / b`` where ``b`` is largest, if that is a number other than 0."""
    if not b.numel() or not b.abs().max():
        return None
    at = b.abs().argmax()
    return float(a[at] / b[at]) or None


def _close(a: Tensor, b: Tensor, rtol: float, atol: float) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=rtol, atol=atol)


def _wrong(name: Message, what: Message) -> Wrong:
    return Wrong(f"{name[0]}{what[0]}", f"{name[1]} {what[1]}")
