"""Graders of lesson 04: an untrained loss, labels with two bugs, the loss, accumulation, a packed row."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.checks.compare import compare, to_tensor
from rlhf.checks.verdict import NotAnswered, Wrong, grader, run

IGNORED = -100
LOSS = ("损失", "The loss")
LABELS = ("标签", "The tensor of labels")


@grader
def e04_1(loss, perplexity, *, vocabulary: int = 50_257):
    """Loss (nats) and perplexity of a model that knows nothing: about ln V and V."""
    want = math.log(vocabulary)
    got, seen = (
        _number(value, name) for value, name in ((loss, LOSS), (perplexity, ("困惑度", "The perplexity")))
    )
    if abs(got - want) > 0.05 * want:
        for guess, zh, en in (
            (0.0, "损失为 0 表示每个词元都猜对了。", "A loss of 0 means that every token was right."),
            (
                math.log2(vocabulary),
                "那是以 2 为底（bit）；损失用自然对数（nat）。",
                "That is in bits; the loss is in nats.",
            ),
            (
                math.log10(vocabulary),
                "那是以 10 为底；损失用自然对数。",
                "That is the logarithm to base 10; the loss is in nats.",
            ),
            (
                1 / vocabulary,
                "那是每个词元的概率；损失是它的负对数。",
                "That is the probability of each token; the loss is −log of it.",
            ),
            (
                -want,
                "损失是负对数概率，不会是负的。",
                "The loss is a negative log-probability; it is never negative.",
            ),
            (
                vocabulary,
                "那是困惑度；损失是它的对数。",
                "That is the perplexity; the loss is its logarithm.",
            ),
        ):
            if abs(got - guess) <= 0.02 * abs(guess) + 1e-9:
                raise Wrong(zh, en)
        raise Wrong(
            "损失不对。随机的模型给每个词元差不多同样的概率：那是多少？取负对数。",
            "The loss is not right. To a random model all tokens are about equally likely: so, how likely?",
        )
    if abs(math.log(max(seen, 1e-9)) - want) > 0.05 * want:
        raise Wrong(
            "损失对了，困惑度不对：它是损失的指数，也就是在多少个词元之间犹豫。",
            "The loss is right, the perplexity is not: it is exp(loss), that many equally likely tokens.",
        )
    return (
        f"正确：ln {vocabulary:,} = {want:.2f}，困惑度约为 {vocabulary:,}。",
        f"Correct: ln {vocabulary:,} = {want:.2f}, and the perplexity is about {vocabulary:,}.",
    )


@grader
def e04_2(make_labels):
    """``make_labels(input_ids, attention_mask, pad_token_id) -> (B, T)``; the model shifts by itself."""
    for pad, left in ((7, False), (7, True), (0, False)):
        ids, mask = _padded_batch(pad, left)
        got = to_tensor(run(make_labels, ids, mask, pad), LABELS)
        want = ids.masked_fill(mask == 0, IGNORED)
        if got.shape == want.shape:
            first = torch.arange(len(ids)), mask.argmax(1)  # nothing comes before it: it may count or not
            _explain_labels(got, ids, mask, pad)
            got[first] = torch.where(got[first] == IGNORED, want[first].double(), got[first])
            _explain_labels(got, ids, mask, pad)
        compare(got, want, mask=mask, name=LABELS)
    return (
        "正确：填充按位置屏蔽，真正的 EOS 保住了；错位交给模型。",
        "Correct: padding is masked by place, real EOS keep their labels, and the model does the shift.",
    )


@grader
def e04_3(sft_loss):
    """``sft_loss(logits (B, T, V), labels (B, T)) -> scalar``: shifted, mean over the labels that count."""
    for seed, (batch, length, vocabulary) in enumerate([(2, 5, 7), (3, 9, 4), (1, 6, 11)]):
        logits, labels = _logits_and_labels(batch, length, vocabulary, seed)
        got = to_tensor(run(sft_loss, logits, labels), LOSS)
        for wrong, zh, en in _wrong_losses(logits, labels):
            if (
                got.numel() == 1
                and abs(float(got) - wrong) < 1e-5
                and abs(wrong - _loss(logits, labels)) > 1e-4
            ):
                raise Wrong(zh, en)
        compare(got, _loss(logits, labels), name=LOSS)


@grader
def e04_4(accumulated_loss):
    """``accumulated_loss(list of (n_i,)) -> scalar``: the mean over all tokens, and its gradient."""
    for sizes in ([1, 9], [4, 2, 7, 1], [5]):
        rng = torch.Generator().manual_seed(len(sizes))
        parts = [4 * torch.rand(size, generator=rng) for size in sizes]
        got = to_tensor(run(accumulated_loss, parts), LOSS)
        flat, means = torch.cat(parts), torch.stack([part.mean() for part in parts])
        for wrong, zh, en in (
            (
                means.mean(),
                "这是平均的平均：短的小批里，每个词元分到的权重更大。",
                "This is the mean of means: a token in a short minibatch gets more weight.",
            ),
            (
                means.sum(),
                "还没有除：各小批的平均值只是加了起来。",
                "Nothing was divided: the means are only added up.",
            ),
            (flat.sum(), "要除以词元的总数。", "Divide by the total number of tokens."),
            (parts[-1].mean(), "只算了最后一个小批。", "Only the last minibatch counts here."),
            (
                flat.sum() / len(parts),
                "除数是词元的总数，不是小批的个数。",
                "Divide by the number of tokens, not of minibatches.",
            ),
        ):
            if got.numel() == 1 and abs(float(got) - wrong) < 1e-5 and abs(wrong - flat.mean()) > 1e-4:
                raise Wrong(zh, en)
        compare(got, flat.mean(), name=LOSS)
    _check_gradient(accumulated_loss)


@grader
def e04_5(packed_row):
    """``packed_row(seq_lengths) -> (positions (T,), counts (T,))`` of a row packed from such texts."""
    for lengths in ([3, 1, 2], [4], [2, 2, 5, 1]):
        result = run(packed_row, lengths)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise Wrong(
                "应当返回两样：位置编号，哪些标签算数。",
                "Return two things: positions, and which labels count.",
            )
        if any(part is None or part is ... for part in result):
            raise NotAnswered
        want = torch.cat([torch.arange(length) for length in lengths])
        positions, counts = (
            to_tensor(result[0], ("位置编号", "The row of positions")),
            to_tensor(result[1], ("算数", "counts")),
        )
        if positions.shape == want.shape:
            _explain_positions(positions, want, lengths)
        compare(positions, want, name=("位置编号", "The row of positions"))
        if counts.shape == want.shape:
            _explain_counts(counts.bool(), want)
        compare(counts, (want > 0).double(), name=("哪些标签算数", "The answer to which labels count"))


def _number(value, name: tuple[str, str]) -> float:
    if (
        isinstance(value, bool)
        or (found := to_tensor(value, name)).numel() != 1
        or not torch.isfinite(found).all()
    ):
        raise Wrong(f"{name[0]}应当是一个数字。", f"{name[1]} should be one number.")
    return float(found)


def _padded_batch(pad: int, left: bool) -> tuple[Tensor, Tensor]:
    """Three rows that end with EOS = ``pad``, one of them with another EOS in the middle."""
    rows = [[11, 12, 13, pad], [21, pad, 22, 23, 24, pad], [31, pad]]
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        where = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[place, where], mask[place, where] = torch.tensor(row), 1
    return ids, mask


def _explain_labels(got: Tensor, ids: Tensor, mask: Tensor, pad: int) -> None:
    """Name the real mistakes before the numbers are compared."""
    live = mask.bool()
    by_place, by_number = ids.masked_fill(~live, IGNORED), ids.masked_fill(ids == pad, IGNORED)

    def equals(want: Tensor) -> bool:
        return torch.equal(got, want.double())

    def shifted(labels: Tensor) -> Tensor:
        return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], 1)

    for base, lost in ((by_place, False), (by_number, True)):
        if any(equals(moved) for moved in (shifted(base), base.roll(-1, 1), base.roll(1, 1))):
            zh, en = (
                "标签不要自己错开：模型内部会错开一位。",
                "Do not shift the labels: the model does that itself.",
            )
            if lost:
                zh, en = zh + "另外，真正的 EOS 也丢了。", en + " And the real EOS are lost as well."
            raise Wrong(zh, en)
    if equals(by_number):
        raise Wrong(
            "填充没有了，可是真正的 EOS 编号与填充相同，也被抹掉了：模型永远学不会停。用 attention_mask。",
            "Padding is gone, but the real EOS has the same number and went with it: the model never "
            "learns to stop. Use attention_mask.",
        )
    if equals(ids):
        raise Wrong(
            "填充也算进了损失：大量的标签在教“EOS 后面还是 EOS”。",
            "Padding counts too: many labels now teach that EOS follows EOS.",
        )
    if equals(ids * mask) or equals(ids.masked_fill(~live, 0)):
        raise Wrong(
            "忽略的记号是 −100，不是 0：0 是一个真正的词元。",
            "The mark for 'ignore' is −100; 0 is a real token.",
        )


def _logits_and_labels(batch: int, length: int, vocabulary: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random logits; labels with ignored positions at both ends, a different number in every row."""
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, length, vocabulary, generator=rng)
    labels = torch.randint(vocabulary, (batch, length), generator=rng)
    for row in range(batch):
        labels[row, : row % 3] = IGNORED
        labels[row, length - row - 1 :] = IGNORED
    return logits, labels


def _loss(logits: Tensor, labels: Tensor) -> float:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).item()


def _wrong_losses(logits: Tensor, labels: Tensor) -> list[tuple[float, str, str]]:
    """What the usual mistakes give."""
    each = F.cross_entropy(
        logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none"
    )  # (B, T-1), 0 ignored
    live = labels[:, 1:] != IGNORED
    rows = [each[row][live[row]].mean() for row in range(len(labels)) if live[row].any()]
    backwards = F.cross_entropy(logits[:, 1:].flatten(0, 1), labels[:, :-1].flatten())
    mean = each.sum() / live.sum()
    return [
        (
            F.cross_entropy(logits.flatten(0, 1), labels.flatten()).item(),
            "没有错开：第 t 个位置预测的是第 t+1 个词元。",
            "There is no shift: position t predicts token t+1.",
        ),
        (
            backwards.item(),
            "错反了方向：去掉 logits 的最后一个、标签的第一个。",
            "The shift goes the wrong way: drop the last logits and the first label.",
        ),
        (
            each.mean().item(),
            "除数算进了被忽略的位置：只除以算数的词元数。",
            "Ignored positions are in the denominator: divide by the labels that count.",
        ),
        (each.sum().item(), "要取平均，不是求和。", "Take the mean, not the sum."),
        (-mean.item(), "符号反了：损失是负的对数概率。", "The sign is flipped: the loss is −log p."),
        (
            torch.stack(rows).mean().item(),
            "先对每行平均、再对行平均，短的行就占了便宜；平均要对所有词元。",
            "A mean per row and then over rows favours short rows; average over all tokens.",
        ),
    ]


def _check_gradient(accumulated_loss) -> None:
    """Every token must get the same gradient; a loss that is cut off from its inputs trains nothing."""
    parts = [torch.rand(size, requires_grad=True) for size in (1, 3)]
    loss = accumulated_loss(parts)  # not a copy: the gradient has to reach these tensors
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise Wrong(
            "数值对了，但结果不带梯度：不要用 .item() 或 float()。",
            "The number is right, but it carries no gradient: leave out .item() and float().",
        )
    loss.backward()
    compare(torch.cat([part.grad for part in parts]), torch.full((4,), 0.25), name=("梯度", "The gradient"))


def _explain_positions(got: Tensor, want: Tensor, lengths: list[int]) -> None:
    total = len(want)
    if len(lengths) > 1 and torch.equal(got, torch.arange(total).double()):
        raise Wrong(
            "位置一直数了下去：每条文本都要从 0 重新数，模型靠它认出界限。",
            "The numbers run on: every text starts from 0 again; that is how boundaries are recognised.",
        )
    if torch.equal(got, want.double() + 1):
        raise Wrong("位置从 0 开始数。", "Positions start from 0.")
    owner = torch.cat([torch.full((length,), place) for place, length in enumerate(lengths)])
    if len(lengths) > 1 and (torch.equal(got, owner.double()) or torch.equal(got, owner.double() + 1)):
        raise Wrong(
            "这是“第几条文本”，要的是词元在自己那条文本里的位置。",
            "This says which text it is; wanted is the place inside its text.",
        )


def _explain_counts(got: Tensor, want: Tensor) -> None:
    if got.all():
        raise Wrong(
            "每条文本的第一个词元不算：否则前一条文本的结尾要去预测后一条的开头。",
            "The first token of a text does not count: the end of one text would have to predict the next.",
        )
    if torch.equal(got, want == 0):
        raise Wrong("真假反了。", "True and False are swapped.")
    if len(want) and torch.equal(got, torch.arange(len(want)) > 0) and (want[1:] == 0).any():
        raise Wrong(
            "只去掉了整行的第一个；每条文本的第一个都不算。",
            "Only the first of the row is left out; the first token of every text does not count.",
        )
