"""Graders of lesson 02: attention and a block with bugs, positions under padding, SwiGLU, a prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf import blocks
from rlhf.checks.compare import compare, to_tensor
from rlhf.checks.verdict import Wrong, grader, run

Mistake = tuple[Tensor, str, str]  # what it gives, what to say in Chinese and in English


@grader
def e02_1(attention):
    """``attention(query, key, value, mask) -> (T, e)``: scaled, masked before a softmax over the keys.

    query (T, d), key (S, d), value (S, e), mask (T, S) of bool. A tuple that starts with the output
    passes as well.
    """
    name = ("输出", "The output")
    for query, key, value, mask in _attention_cases():
        result = run(attention, query, key, value, mask)
        got = to_tensor(result[0] if isinstance(result, tuple) else result, name)
        want, _ = blocks.attention(query, key, value, mask)
        _name_mistake(got, want, _wrong_attentions(query, key, value, mask))
        compare(got, want, name=name)


@grader
def e02_2(position_ids):
    """``position_ids(attention_mask) -> (B, T)``: 0, 1, 2, … over real tokens; any valid position on padding.

    Padding is on the left or on the right.
    """
    name = ("位置", "The tensor of positions")
    for rows in ([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], [[0, 1, 1], [0, 0, 1]], [[1, 1, 1, 0], [0, 0, 1, 1]]):
        mask = torch.tensor(rows)
        live, length = mask.bool(), mask.shape[1]
        got = to_tensor(run(position_ids, mask), name)
        want = blocks.position_ids(mask).double()
        if got.shape == want.shape:
            _explain_positions(got, want, live, length)
            got = torch.where(live, got, 0.0)
        compare(got, torch.where(live, want, 0.0), mask=live, name=name)


@grader
def e02_3(block):
    """``block(x, attention, ffn, norm_1, norm_2) -> (B, T, H)``: pre-LN, two residuals."""
    name = ("块的输出", "The block's output")
    for seed, shape in enumerate([(2, 3, 4), (1, 5, 6)]):
        x, parts = _parts(shape, seed)
        got = to_tensor(run(block, x, *parts), name)
        attention, ffn, norm_1, norm_2 = parts
        middle = x + attention(norm_1(x))
        want = middle + ffn(norm_2(middle))
        _name_mistake(got, want, _wrong_blocks(x, *parts))
        compare(got, want, name=name)


@grader
def e02_4(swiglu, hidden, *, width: int = 768, ffn_hidden: int = 3072):
    """``swiglu(x, w_gate, w_up, w_down)`` with weights (out, in), and the hidden width to match an FFN."""
    generator = torch.Generator().manual_seed(4)
    for shape, wide in (((5, 4), 7), ((2, 3, 6), 4)):
        x = torch.randn(shape, generator=generator)
        gate, up = (torch.randn(wide, shape[-1], generator=generator) for _ in range(2))
        down = torch.randn(shape[-1], wide, generator=generator)
        got = to_tensor(run(swiglu, x, gate, up, down), ("输出", "The output"))
        want = (F.silu(x @ gate.T) * (x @ up.T)) @ down.T
        _name_mistake(got, want, _wrong_glus(x, gate, up, down))
        compare(got, want, name=("输出", "The output"))
    _check_hidden(hidden, width, ffn_hidden)


@grader
def e02_5(training_loss, loss_in_use):
    """Without the causal mask from the start: are the training loss and the loss in use lower or higher?"""
    first, second = _direction(training_loss), _direction(loss_in_use)
    if first != "lower":
        raise Wrong(
            "训练损失不对：没有掩码时，位置 t 看得见位置 t+1，也就是答案本身。",
            "Not the training loss: without the mask, position t sees position t+1, the answer itself.",
        )
    if second != "higher":
        raise Wrong(
            "实际使用时的损失不对：它学会的是抄答案，而真正写的时候答案还不存在。",
            "Not the loss in use: it learnt to copy the answer, and in writing there is none to copy.",
        )
    return (
        "正确。好得不像真的训练损失，先怀疑泄漏：检查掩码。",
        "Correct. A training loss too good to be true means a leak: check the mask.",
    )


# ------------------------------------------------------------------------------------ right and wrong answers


def _attention_cases() -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Queries, keys, values and masks: causal, causal with padding, and fewer queries than keys."""
    generator = torch.Generator().manual_seed(2)
    padded = blocks.visible(torch.tensor([[0, 1, 1, 1, 1]]))[0, 0]
    for mask, d, e in ((blocks.causal_mask(4), 3, 2), (padded, 9, 4), (blocks.causal_mask(6)[-2:], 4, 4)):
        length, seen = mask.shape
        sizes = ((length, d), (seen, d), (seen, e))
        yield *(torch.randn(size, generator=generator) for size in sizes), mask


def _wrong_attentions(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Iterator[Mistake]:
    d, raw = query.shape[-1], query @ key.T
    scores, hidden = raw / d**0.5, ~mask
    bare = scores.masked_fill(hidden, -torch.inf)
    yield (raw * mask) @ value, "这还是有错的那个函数。", "This is the faulty function, unchanged."
    yield (
        raw.masked_fill(hidden, -torch.inf).softmax(-1) @ value,
        "分数没有除以 √d。",
        "The scores are not divided by √d.",
    )
    yield (
        (raw / d).masked_fill(hidden, -torch.inf).softmax(-1) @ value,
        "除的是 d，应当是 √d。",
        "It divides by d; it should be √d.",
    )
    yield (scores * mask) @ value, "没有 softmax：权重可以是负数，加起来也不是 1。", _NO_SOFTMAX
    yield (
        scores.softmax(-1) @ value,
        "掩码没有用上：它看见了未来。",
        "The mask is not used: it sees the future.",
    )
    yield (
        (scores.softmax(-1) * mask) @ value,
        "掩码乘在 softmax 之后，一行的权重加起来不到 1。要在 softmax 之前用 -inf。",
        "The mask comes after the softmax, so a row no longer sums to 1. Use -inf before the softmax.",
    )
    yield (
        (scores * mask).softmax(-1) @ value,
        "被遮住的分数成了 0，而 exp(0) = 1，它们仍有权重。要用 -inf。",
        "Hidden scores became 0, and exp(0) = 1 still has weight. Use -inf.",
    )
    if bare.shape[0] == bare.shape[1]:
        yield (
            bare.softmax(0) @ value,
            "softmax 的方向反了：每一行（每个查询）的权重加起来应当是 1。",
            "The softmax runs the wrong way: the weights of each row, one per query, must sum to 1.",
        )
    yield (
        scores.masked_fill(mask, -torch.inf).softmax(-1).nan_to_num() @ value,
        "掩码反了：True 表示可以看。",
        "The mask is inverted: True means that it may look.",
    )


_NO_SOFTMAX = "There is no softmax: weights can be negative and do not sum to 1."


def _explain_positions(got: Tensor, want: Tensor, live: Tensor, length: int) -> None:
    if torch.equal(got, torch.arange(length).double().expand_as(got)) and not torch.equal(got, want):
        raise Wrong(
            "把填充也数进去了：应当从每一行的第一个真词元数起。",
            "Padding is counted too: start at the first real token of each row.",
        )
    if torch.equal(got[live], want[live] + 1):
        raise Wrong("从 1 数起了，第一个真词元的位置是 0。", "It starts at 1; the first real token is at 0.")
    if torch.equal(got[live], want[live]) and ((got < 0) | (got >= length)).any():
        raise Wrong(
            "填充位置上不是合法的位置（小于 0 或不小于 T），查位置编码表时会出错。",
            "Padding holds no valid position (below 0, or T and above): looking it up fails.",
        )


def _parts(shape: tuple[int, ...], seed: int) -> tuple[Tensor, list[Callable[[Tensor], Tensor]]]:
    """A stream, and four different functions in the roles of attention, FFN and the two norms."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    matrices = [torch.randn(shape[-1], shape[-1], generator=generator) for _ in range(2)]

    def attention(h: Tensor) -> Tensor:
        return h.cumsum(1) @ matrices[0]

    def ffn(h: Tensor) -> Tensor:
        return torch.tanh(h @ matrices[1])

    def norm_1(h: Tensor) -> Tensor:
        return F.layer_norm(h, shape[-1:])

    def norm_2(h: Tensor) -> Tensor:
        return 1.7 * F.layer_norm(h, shape[-1:]) + 0.3

    return x, [attention, ffn, norm_1, norm_2]


def _wrong_blocks(x: Tensor, attention, ffn, norm_1, norm_2) -> Iterator[Mistake]:
    attended = attention(norm_1(x))
    middle = x + attended
    right = middle + ffn(norm_2(middle))
    yield (
        middle + attended,
        "第二次加的还是注意力的输出，前馈层的结果算了却没有用。",
        "The second addition is attention's output again; what the FFN computed is thrown away.",
    )
    yield middle, "前馈层没有加进来。", "The FFN is not added at all."
    yield (
        ffn(norm_2(middle)),
        "第二个残差丢了：要加回残差流。",
        "The second residual is missing: add to the stream.",
    )
    yield (
        attended + ffn(norm_2(attended)),
        "第一个残差丢了：注意力的输出要加到 x 上。",
        "The first residual is missing: attention's output is added to x.",
    )
    yield (
        x + ffn(norm_2(middle)),
        "第二次加到了原来的 x 上，注意力的结果没有留在流里。",
        "The second addition starts from the old x, so attention's output is lost from the stream.",
    )
    yield (
        middle + ffn(norm_2(x)),
        "前馈层读的是旧的 x：应当读加过注意力之后的流。（两半并排的块也有，如 GPT-J，但这里不是。）",
        "The FFN reads the old x instead of the stream after attention. (Parallel blocks exist, "
        "as in GPT-J, but this is not one.)",
    )
    yield middle + ffn(middle), "前馈层之前少了 norm_2。", "norm_2 is missing before the FFN."
    yield (
        middle + ffn(norm_1(middle)),
        "第二半用的应当是 norm_2。",
        "The second half has a norm of its own, norm_2.",
    )
    after = norm_1(x + attention(x))
    yield (
        norm_2(after + ffn(after)),
        "这是 post-LN：归一化应当在每一半之前，不碰残差流。",
        "This is post-LN; the norms belong before each half and leave the stream alone.",
    )
    yield right + attended, "注意力的输出加了两次。", "Attention's output is added twice."


def _wrong_glus(x: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor) -> Iterator[Mistake]:
    gate, up = x @ w_gate.T, x @ w_up.T
    yield (
        (F.silu(up) * gate) @ w_down.T,
        "激活函数放错了一路：弯的是门，不是 up。",
        "The activation is on the wrong branch: it bends the gate, not up.",
    )
    yield F.silu(up) @ w_down.T, "没有门：这是普通的 FFN。", "There is no gate: this is a plain FFN."
    yield (
        (torch.sigmoid(gate) * up) @ w_down.T,
        "门是 sigmoid，那是最早的 GLU；SiLU(g) = g · σ(g)。",
        "The gate is a sigmoid, which is the first GLU; SiLU(g) = g · σ(g).",
    )
    yield (F.gelu(gate) * up) @ w_down.T, "用了 GELU，那是 GEGLU。", "With GELU it is GEGLU."
    yield (F.relu(gate) * up) @ w_down.T, "用了 ReLU，那是 ReGLU。", "With ReLU it is ReGLU."
    yield (gate * up) @ w_down.T, "没有激活函数，那是 Bilinear。", "Without an activation it is Bilinear."
    yield (
        F.silu(gate * up) @ w_down.T,
        "先乘后弯了：激活函数只作用在门上。",
        "Product first, activation second: the activation is for the gate alone.",
    )
    yield (
        (F.silu(gate) + up) @ w_down.T,
        "两路应当相乘，不是相加。",
        "The two branches are multiplied, not added.",
    )


def _check_hidden(hidden, width: int, ffn_hidden: int) -> None:
    right = blocks.matched_hidden(ffn_hidden)
    value = float(to_tensor(hidden, ("隐藏宽度", "The hidden width")))
    weights, budget = 3 * width * value, 2 * width * ffn_hidden
    if value == right:
        return
    zh, en = f"隐藏宽度 {value:g} 不对：", f"A hidden width of {value:g} is not right: "
    if value == ffn_hidden:
        zh, en = (
            zh + "矩阵有三个，宽度不变就多了一半参数。",
            en + "with three matrices that is half as many weights again.",
        )
    elif value == ffn_hidden / 2:
        zh, en = zh + "矩阵从两个变成三个，不是四个。", en + "two matrices become three, not four."
    else:
        zh += f"三个矩阵共 {weights:,.0f} 个权重，FFN 有 {budget:,}。"
        en += f"three matrices have {weights:,.0f} weights, the FFN has {budget:,}."
    raise Wrong(zh, en)


def _direction(answer) -> str:
    text = str(answer).strip().strip("\"'").lower()
    if text in ("lower", "low", "less", "smaller", "<", "更低", "低", "变低", "更小"):
        return "lower"
    if text in ("higher", "high", "more", "larger", ">", "更高", "高", "变高", "更大"):
        return "higher"
    raise Wrong('请写 "lower" 或 "higher"。', 'Write "lower" or "higher".')


def _name_mistake(got: Tensor, want: Tensor, mistakes: Iterator[Mistake]) -> None:
    """Raise :class:`Wrong` if ``got`` is what a known mistake gives, and not also the right answer."""
    if got.shape != want.shape or torch.allclose(got, want.double(), rtol=1e-4, atol=1e-5):
        return
    for wrong, zh, en in mistakes:
        if torch.allclose(got, wrong.double(), rtol=1e-4, atol=1e-5):
            raise Wrong(zh, en)
