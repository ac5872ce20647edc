"""Graders of lesson 05: a prediction, a scoring function with bugs, the last token, the loss, the ceiling."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.checks.compare import compare, to_tensor
from rlhf.checks.verdict import Wrong, grader, run


@grader
def e05_1(loss, accuracy):
    """Before training: the loss, and the share of pairs that are in the right order.

    A new head gives every text nearly the same score, so the difference d is near 0 and the loss near ln 2
    (to second order ln 2 + E[d²] / 8).
    """
    first = float(to_tensor(loss, ("损失", "The loss")).reshape(-1)[0])
    share = float(to_tensor(accuracy, ("准确率", "The accuracy")).reshape(-1)[0])
    if not abs(first - math.log(2)) <= 0.05:
        for guess, zh, en in (
            (0.0, "损失为 0 意味着已经分得清清楚楚。", "A loss of 0 would mean that it already knows."),
            (0.5, "0.5 是概率，损失是 −log 0.5。", "0.5 is the probability; the loss is −log 0.5."),
            (math.log10(2), "这里用自然对数，不是以 10 为底。", "Take the natural logarithm, not base 10."),
            (-math.log(2), "符号反了：−log σ(0) 是正数。", "The sign is flipped: −log σ(0) is positive."),
            (
                1.0,
                "以 2 为底才是 1；这里用自然对数。",
                "It would be 1 in base 2; here it is the natural log.",
            ),
        ):
            if abs(first - guess) <= 0.02:
                raise Wrong(zh, en)
        raise Wrong(
            "损失不对。新装的头给每条文本几乎相同的分数，差 d 约为 0：σ(0) 是多少？",
            "The loss is not right. A new head scores all texts nearly alike, so d is about 0: what is σ(0)?",
        )
    if abs(share - 50) <= 15:
        raise Wrong(
            "准确率请写成 0 到 1 之间的数，不用百分数。",
            "Write the accuracy as a number between 0 and 1, not in percent.",
        )
    if not abs(share - 0.5) <= 0.15:
        raise Wrong(
            "损失对了，准确率不对：还没有学过任何东西，排对一对的机会和抛硬币一样。",
            "The loss is right, the accuracy is not: having learnt nothing, it is right as often as a coin.",
        )
    return (
        "正确：ln 2 ≈ 0.693 就是“不知道”。训练曲线应当从这里开始；远远高于它，多半是哪里接错了。",
        "Correct: ln 2 ≈ 0.693 says “no idea”. A curve should begin there or a little above it; far above, "
        "something is wired wrong.",
    )


TEMPLATE = "Question: {}\nAnswer: {}"


@grader
def e05_2(serve):
    """``serve(tokenizer, question, answer, max_length) -> ids``, as the texts in training were.

    Template, end-of-sequence token, and of a text that is too long the end.
    """
    tokenizer = _tokenizer()
    cases = [
        ("Is it good?", "Yes, very good.", 64),
        ("Why?", "Because the story was warm and the end was funny.", 64),
        ("What is it about? " * 4, "A cook and a thief.", 16),
        ("So?", "It is long. " * 12, 20),
        ("Is it good?", "Yes, very good.", 64),
    ]
    for question, answer, longest in cases:
        got = run(serve, tokenizer, question, answer, longest)
        got = _ids(got)
        text = TEMPLATE.format(question, answer)
        want = tokenizer(text + tokenizer.eos_token)["input_ids"][-longest:]
        if got != want:
            raise _explain_ids(tokenizer, got, question, answer, longest)
    return (
        "正确。更好的做法：训练和打分调用同一个函数，就没有东西可以走样。",
        "Correct. Better still: let training and scoring call one function, and nothing can drift apart.",
    )


def _explain_ids(tokenizer, got: list[int], question: str, answer: str, longest: int) -> Wrong:
    """Name the first thing that keeps the student's ids from being those of training."""
    end = tokenizer.eos_token_id
    text = TEMPLATE.format(question, answer)
    whole = tokenizer(text + tokenizer.eos_token)["input_ids"]
    seen = tokenizer.decode(got, skip_special_tokens=True)
    if len(got) > longest:
        return Wrong(
            f"有 {len(got)} 个词元，超过了 max_length={longest}。",
            f"There are {len(got)} tokens, more than max_length={longest}.",
        )
    starts = (whole[: len(got)], [*whole[: longest - 1], end][: len(got)])
    if len(whole) > longest and got in starts:
        return Wrong(
            "太长的文本截掉了末尾，也就是要评判的回答；训练时留下的是末尾。",
            "A text that is too long lost its end, the answer to be judged; training kept the end.",
        )
    if len(whole) <= longest and not seen.startswith("Question: "):
        return Wrong(
            "没有用训练时的模板：文本应当以 'Question: ' 开头，回答前有换行和 'Answer: '。",
            "This is not the template of training: a text begins with 'Question: ', and a line break and "
            "'Answer: ' stand before the answer.",
        )
    if got in (whole[:-1][-longest:], whole[-longest:-1]):
        return Wrong(
            "模板对了，但末尾少了 EOS：训练时的文本都以它结尾。",
            "The template is right, but EOS is missing: in training every text ended with it.",
        )
    if got.count(end) > 1:
        return Wrong("EOS 出现了不止一次。", "EOS is there more than once.")
    return Wrong(
        f"和训练时不一样。你的：{seen[:60]!r}；训练时：{tokenizer.decode(whole[-longest:])[:60]!r}。",
        f"Not as in training. Yours: {seen[:60]!r}; in training: "
        f"{tokenizer.decode(whole[-longest:])[:60]!r}.",
    )


def _ids(value) -> list[int]:
    """Token numbers from a list, a tensor or an array, with or without a batch of one."""
    if isinstance(value, str):
        raise Wrong("应当返回词元编号，不是文本。", "Return token numbers, not text.")
    if hasattr(value, "keys") and "input_ids" in value:
        value = value["input_ids"]
    ids = to_tensor(value, ("词元编号", "The token numbers"))
    if ids.ndim == 2 and len(ids) == 1:
        ids = ids[0]
    if ids.ndim != 1:
        raise Wrong("应当返回一串词元编号。", "Return one row of token numbers.")
    return [int(i) for i in ids]


@functools.lru_cache(maxsize=1)
def _tokenizer():
    """A tokenizer of its own, so that the answer cannot be tuned to the lesson's."""
    from rlhf.pretrain import policy_tokenizer

    texts = [TEMPLATE.format("Is it good? Why? What is it about?", "Yes, the story was warm and funny.")] * 3
    return policy_tokenizer(texts, 320, 64)


@grader
def e05_3(last_scores):
    """``last_scores(token_scores (B, T), mask (B, T)) -> (B,)``: the score at the last real token.

    Padding may stand on the right, on the left, on both sides, or nowhere.
    """
    name = ("分数", "The row of scores")
    for kind in ("right", "left", "both", "none"):
        scores, mask = _padded(kind)
        got = to_tensor(run(last_scores, scores, mask), name)
        want = torch.stack([row[keep.nonzero()[-1, 0]] for row, keep in zip(scores, mask, strict=True)])
        if got.shape == (len(want), 1):
            got = got[:, 0]
        if got.shape == want.shape and not torch.allclose(got, want.double(), rtol=1e-4, atol=1e-5):
            _explain_last(got, scores, mask, kind)
        compare(got, want, name=name)


def _explain_last(got: Tensor, scores: Tensor, mask: Tensor, kind: str) -> None:
    rows = torch.arange(len(scores))
    count = mask.sum(1)
    sides = {
        "right": ("右填充", "on the right"),
        "left": ("左填充", "on the left"),
        "both": ("两边都有填充", "on both sides"),
        "none": ("没有填充", "nowhere"),
    }
    zh, en = sides[kind]
    guesses = (
        (
            scores[:, -1],
            "取的是最后一列，那里是填充：要最后一个真正的词元。",
            "That is the last column, which is padding: take the last real token.",
        ),
        (
            scores[rows, count - 1],
            "“长度减 1”只在右填充时对；左填充时真正的词元从中间才开始。",
            "“Length minus 1” holds for right padding only; with left padding the text begins later.",
        ),
        (
            scores[rows, mask.argmax(1)],
            "取的是第一个真正的词元，它还没有读到回答。",
            "That is the first real token; it has not read the answer.",
        ),
        (
            scores.mean(1),
            "对整行取了平均，填充也算了进去：分数会随同批的邻居而变。",
            "That is the mean over the row, padding included: the score would depend on the neighbours.",
        ),
        (
            (scores * mask).sum(1) / count,
            "平均了所有真正的词元。它们大多只读了文本的一部分，只有最后一个读完了全文。",
            "That is the mean over the real tokens. Most have read but a part; only the last read it all.",
        ),
        (
            (scores * mask).sum(1),
            "不是求和：越长的文本分数越大。",
            "Not the sum: longer texts would get larger scores.",
        ),
        (
            scores.masked_fill(mask == 0, -1e9).max(1).values,
            "不是最大值，是最后一个。",
            "Not the largest one but the last one.",
        ),
    )
    for guess, reason_zh, reason_en in guesses:
        if torch.allclose(got, guess.double(), rtol=1e-4, atol=1e-5):
            raise Wrong(f"{reason_zh}（{zh}的例子）", f"{reason_en} (The example has padding {en}.)")


def _padded(kind: str) -> tuple[Tensor, Tensor]:
    """Token scores (4, 7) and their mask; what stands on padding is large, so that a slip shows."""
    rng = torch.Generator().manual_seed(len(kind))
    scores, mask = torch.randn(4, 7, generator=rng), torch.ones(4, 7, dtype=torch.long)
    for row, n in enumerate((3, 0, 1, 4)):
        if kind in ("right", "both"):
            mask[row, 7 - n :] = 0
        if kind in ("left", "both"):
            mask[row, : min(n, 2) if kind == "both" else n] = 0
    return torch.where(mask.bool(), scores, 20 + scores), mask


@grader
def e05_4(pair_loss):
    """``pair_loss(chosen, rejected, centre) -> scalar``: mean −log σ(c − r), plus centre · mean (c + r)²."""
    name = ("损失", "The loss")
    rng = torch.Generator().manual_seed(5)
    for scale, centre, shift in ((1.0, 0.0, 0.0), (2.0, 0.0, 3.0), (1.0, 0.01, 2.0), (1.5, 0.3, -1.0)):
        chosen, rejected = (scale * torch.randn(6, generator=rng) + shift for _ in range(2))
        got = to_tensor(run(pair_loss, chosen, rejected, centre), name)
        want = _pair_loss(chosen, rejected, centre)
        if got.numel() == 1 and not torch.allclose(got.reshape(()), want.double(), rtol=1e-4, atol=1e-5):
            _explain_loss(got.reshape(()), chosen, rejected, centre)
        compare(got, want, name=name)
    far = torch.tensor([-200.0, 3.0]), torch.tensor([0.0, -2.0])
    got = to_tensor(run(pair_loss, *far, 0.0), name)
    if not torch.isfinite(got).all():
        raise Wrong(
            "差为 −200 时得到 inf：先算 σ 再取对数，σ 已经下溢成 0。用 logsigmoid 或 softplus。",
            "A difference of −200 gives inf: σ underflows to 0 before the log. Use logsigmoid or softplus.",
        )
    compare(got, _pair_loss(*far, 0.0), name=name)
    return (
        "正确。居中那一项只管零点在哪里，不管次序。",
        "Correct. The centring term decides where the zero is, not the order.",
    )


def _pair_loss(chosen: Tensor, rejected: Tensor, centre: float) -> Tensor:
    return F.softplus(rejected - chosen).mean() + centre * ((chosen + rejected) ** 2).mean()


def _explain_loss(got: Tensor, chosen: Tensor, rejected: Tensor, centre: float) -> None:
    difference, c, r = chosen - rejected, chosen, rejected
    main = F.softplus(-difference)
    plain = main.mean()
    square = ((c + r) ** 2).mean()
    guesses = [
        (
            F.softplus(difference).mean(),
            "符号反了：这样会奖励被拒的那条。",
            "The sign is flipped: this prefers the rejected one.",
        ),
        (main.sum(), "应当取平均，不是求和。", "Take the mean, not the sum."),
        (-plain, "少了前面的负号。", "The minus in front is missing."),
        (
            (1 - difference.sigmoid()).mean(),
            "少了对数：损失是 −log σ，不是 1 − σ。",
            "The log is missing: the loss is −log σ, not 1 − σ.",
        ),
        (
            (F.softplus(-c) + F.softplus(r)).mean(),
            "两个分数分别过了 σ；要先相减：只有差有意义。",
            "Each score went through σ by itself; subtract first, for only the difference means something.",
        ),
        (
            F.softplus(-difference.mean()),
            "先平均差、再算损失，次序反了。",
            "First the loss of every pair, then the mean.",
        ),
    ]
    for guess, zh, en in guesses:
        if _near(got, guess) or (centre and _near(got, guess + centre * square)):
            raise Wrong(zh, en)
    if centre:
        for term, zh, en in (
            (0 * square, "忘了居中那一项。", "The centring term is missing."),
            (
                (difference**2).mean(),
                "居中要用和 c + r，不是差：差正是要学的。",
                "Centre the sum c + r, not the difference, which is what is to be learnt.",
            ),
            (
                (c**2 + r**2).mean(),
                "是和的平方 (c + r)²，不是平方的和：后者还会把差压小。",
                "It is (c + r)², not c² + r², which would shrink the difference too.",
            ),
            ((c + r).mean() ** 2, "先平方，再平均。", "Square first, then take the mean."),
            (((c + r) / 2).square().mean(), "用 c + r，不要除以 2。", "Use c + r, not half of it."),
            ((c + r).square().sum(), "居中那一项也取平均。", "The centring term is a mean too."),
        ):
            if _near(got, plain + centre * term):
                raise Wrong(zh, en)


@grader
def e05_5(ceiling):
    """``ceiling(agreement) -> accuracy``: what a perfect model reaches against one annotator.

    Both annotators err independently with probability e, so ``agreement = (1 − e)² + e²``.
    """
    for agreement in (0.726, 0.63, 0.9, 0.5, 1.0, 0.773):
        got = float(to_tensor(run(ceiling, agreement), ("上限", "The ceiling")).reshape(-1)[0])
        want = (1 + math.sqrt(2 * agreement - 1)) / 2
        if abs(got - want) <= 2e-3:
            continue
        for guess, zh, en in (
            (
                agreement,
                "上限比一致率高：两个人不一致，往往只错了一个，模型只和其中一个比。",
                "The ceiling is above the agreement: of two who disagree only one is wrong, and the model is "
                "compared with one.",
            ),
            (1 - want, "这是犯错的概率 e；上限是 1 − e。", "That is the error e; the ceiling is 1 − e."),
            (
                math.sqrt(agreement),
                "漏了“两个都错”的情形：那时他们也一致。",
                "You left out that both may be wrong: then they agree too.",
            ),
            (
                (1 + agreement) / 2,
                "不是线性的：解 (1 − e)² + e² = 一致率。",
                "It is not linear: solve (1 − e)² + e² = agreement.",
            ),
            (
                agreement**2,
                "方向反了：上限不会低于一致率。",
                "Wrong way: the ceiling is not below the agreement.",
            ),
        ):
            if abs(got - guess) <= 2e-3:
                raise Wrong(zh, en)
        raise Wrong(
            f"一致率 {agreement} 时应得 {want:.3f}，你得 {got:.3f}。提示：设每人独立出错的概率为 e。",
            f"For an agreement of {agreement} it is {want:.3f}, not {got:.3f}. Hint: let each err with "
            "probability e, independently.",
        )


def _near(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5)
