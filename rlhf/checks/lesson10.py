"""Graders of lesson 10: share of B, win rate from both orders, malformed answers, kappa, a prediction."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from rlhf.checks.compare import to_tensor
from rlhf.checks.verdict import NotAnswered, Wrong, grader, run

Message = tuple[str, str]  # Chinese, English
Answers = Sequence[str]
Mistake = tuple[Callable[..., float], str, str]  # what it computes, and what to say about it
Guess = tuple[float, str, str]  # the same for a predicted number
PERCENT = ("写成 0 到 1 之间的数，不要写百分数。", "Give a number between 0 and 1, not percent.")

VALID = ("A", "B", "tie")


def _draw(seed: int, n: int, kinds: Sequence[str], first: Sequence[int], second: Sequence[int]):
    """The answers to ``n`` pairs, candidate as A and candidate as B, drawn with these weights."""
    rng = random.Random(seed)
    return rng.choices(kinds, first, k=n), rng.choices(kinds, second, k=n)


KINDS = (*VALID, "malformed", "failed")
CASES = (
    _draw(1, 60, KINDS[:3], (5, 3, 2), (2, 6, 2)),  # every pair complete
    _draw(2, 80, KINDS, (3, 5, 2, 2, 1), (2, 5, 2, 2, 1)),
    _draw(3, 40, KINDS, (2, 6, 1, 1, 1), (1, 7, 1, 2, 0)),  # leans to B
    (["A", "A", "B", "tie", "B", "malformed", "B"], ["B", "B", "B", "tie", "A", "B", "tie"]),
)


# ------------------------------------------------------------------------------------------ order bias


@grader
def e10_1(share_b):
    """``share_b(straight, swapped) -> float``: share of B among A and B, over pairs with both answers."""
    _grade(share_b, CASES, _share_b, _share_mistakes(), ("B 的比例", "The share of B"))
    return (
        "正确。每一对都换过位置，所以不看位置的评委只会落在 0.5 附近。",
        "Correct. Every pair was shown in both orders, so a judge that ignores the place stays near 0.5.",
    )


def _complete(straight: Answers, swapped: Answers) -> list[tuple[str, str]]:
    return [pair for pair in zip(straight, swapped, strict=True) if set(pair) <= set(VALID)]


def _share_of(letter: str, answers: Answers, among: Sequence[str] = ("A", "B")) -> float:
    return answers.count(letter) / max(1, sum(answer in among for answer in answers))


def _share_b(straight: Answers, swapped: Answers) -> float:
    return _share_of("B", [answer for pair in _complete(straight, swapped) for answer in pair])


def _share_mistakes() -> list[Mistake]:
    def kept(pick: Callable[[Answers, Answers], list[str]]) -> Callable[[Answers, Answers], list[str]]:
        def answers(straight: Answers, swapped: Answers) -> list[str]:
            pairs = _complete(straight, swapped)
            return pick([one for one, _ in pairs], [two for _, two in pairs])

        return answers

    both = kept(lambda one, two: one + two)
    return [
        (
            lambda *case: _share_of("B", kept(lambda one, two: one)(*case)),
            "只数了第一种顺序。那里的 B 也可能是因为 B 真的好；两种顺序合起来才分得开。",
            "Only the first order was counted. There, B may simply be better; only both orders together "
            "tell a better B from a better place.",
        ),
        (
            lambda *case: _share_of("B", kept(lambda one, two: two)(*case)),
            "只数了第二种顺序；要两种都数。",
            "Only the second order was counted; count both.",
        ),
        (
            lambda *case: _share_of("A", both(*case)),
            "这是 A 的比例。",
            "That is the share of A.",
        ),
        (
            lambda *case: _share_of("B", both(*case), VALID),
            "分母里有平局：平局没有偏向任何位置，只在 A 和 B 里算。",
            "Ties are in the denominator. A tie leans to no place; take the share among A and B.",
        ),
        (
            lambda one, two: _share_of("B", [*one, *two]),
            "只答了一半的对也算进去了：另一半缺了，两个位置就不再各出现一次。",
            "Pairs with one answer missing are counted too: for them the two places did not come up equally.",
        ),
        (
            lambda one, two: _share_of("B", [*one, *two], KINDS),
            "分母里有无效回答；先去掉缺一个回答的对。",
            "Malformed answers are in the denominator; leave out pairs that lack an answer first.",
        ),
        (
            lambda one, two: _share_of("B", [*one, *({"A": "B", "B": "A"}.get(a, a) for a in two)]),
            "第二种顺序被换算成了谁赢；这里问的是位置，B 就是 B。",
            "The second order was translated into who won; this is about places, where B is B.",
        ),
        (
            lambda one, two: _share_of(
                "B", both(one, [{"A": "B", "B": "A"}.get(answer, answer) for answer in two])
            ),
            "第二种顺序被换算成了谁赢；这里问的是位置，B 就是 B。",
            "The second order was translated into who won; this is about places, where B is B.",
        ),
        (
            lambda *case: float(both(*case).count("B")),
            "这是个数，要的是比例。",
            "That is a count; a share is asked for.",
        ),
    ]


# -------------------------------------------------------------------------------------------- win rate


@grader
def e10_2(win_rate):
    """``win_rate(straight, swapped) -> float``: (wins + ties / 2) / complete pairs, of the candidate.

    A pair is won if it is won in both orders, lost if it is lost in both, and a tie otherwise.
    """
    _grade(win_rate, CASES, _win_rate, _rate_mistakes(), ("胜率", "The win rate"))
    every = _number(run(win_rate, ["B"] * 9, ["B"] * 9), ("胜率", "The win rate"))
    if abs(every - 0.5) > 1e-6:
        raise Wrong(
            f"一个永远答 B 的评委得到了胜率 {every:g}；换位以后应当是 0.5。",
            f"A judge that always says B gives a win rate of {every:g}; after swapping it must be 0.5.",
        )
    return (
        "正确。永远答 B 的评委，在这里只能得到 0.5。",
        "Correct. A judge that always says B gets no more than 0.5 out of it.",
    )


def _points(one: str, two: str) -> float:
    """Of the candidate, which is A in ``one`` and B in ``two``."""
    return {("A", "B"): 1.0, ("B", "A"): 0.0}.get((one, two), 0.5)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def _win_rate(straight: Answers, swapped: Answers) -> float:
    return _mean([_points(*pair) for pair in _complete(straight, swapped)])


def _rate_mistakes() -> list[Mistake]:
    as_a, as_b = {"A": 1.0, "B": 0.0, "tie": 0.5}, {"A": 0.0, "B": 1.0, "tie": 0.5}

    def of_pairs(value: Callable[[str, str], float | None], complete: bool = True):
        def rate(straight: Answers, swapped: Answers) -> float:
            pairs = _complete(straight, swapped) if complete else zip(straight, swapped, strict=True)
            values = [value(*pair) for pair in pairs]
            return _mean([each for each in values if each is not None])

        return rate

    one_order = (
        "只数了一种顺序：评委偏爱哪个位置，就白送给那个位置。",
        "Only one order is counted, so whatever the judge feels about a place goes to whoever sits there.",
    )
    guessed = (
        "缺一个回答的对也算进去了：没有回答的不能猜，要去掉并另外计数。",
        "Pairs that lack an answer are counted: what was not answered is not to be guessed; leave such pairs "
        "out and count them separately.",
    )
    return [
        (of_pairs(lambda one, two: as_a[one]), *one_order),
        (of_pairs(lambda one, two: as_b[two]), *one_order),
        (of_pairs(lambda one, two: as_a.get(one), complete=False), *one_order),
        (of_pairs(lambda one, two: float(one == "A")), *one_order),
        (of_pairs(lambda one, two: float(one == "A"), complete=False), *one_order),
        (of_pairs(lambda one, two: None if one == "tie" else float(one == "A")), *one_order),
        (
            of_pairs(lambda one, two: None if one not in ("A", "B") else float(one == "A"), complete=False),
            *one_order,
        ),
        (
            of_pairs(lambda one, two: (as_a[one] + as_a[two]) / 2),
            "第二种顺序没有换算：那里候选者是 B，回答 A 说明它输了。",
            "The second order is not translated: there the candidate is B, so an answer A means it lost.",
        ),
        (
            of_pairs(lambda one, two: {("A", "A"): 1.0, ("B", "B"): 0.0}.get((one, two), 0.5)),
            "第二种顺序没有换算：两次都答 A，不是赢了两次，而是选了同一个位置。",
            "The second order is not translated: A twice is not two wins, it is the same place twice.",
        ),
        (
            of_pairs(lambda one, two: None if _points(one, two) == 0.5 else _points(one, two)),
            "平局被丢掉了：分母应当是所有完整的对，每个平局算半个胜。",
            "Ties are dropped: divide by all complete pairs, and count a tie as half a win.",
        ),
        (
            of_pairs(lambda one, two: float(_points(one, two) == 1)),
            "平局被当成了输：每个平局算半个胜。",
            "Ties count as losses: each is half a win.",
        ),
        (
            of_pairs(lambda one, two: float(_points(one, two) > 0)),
            "平局被当成了胜：每个平局算半个胜。",
            "Ties count as wins: each is half a win.",
        ),
        (
            of_pairs(lambda one, two: None if one == two != "tie" else _points(one, two)),
            "两种顺序下回答相反的对被丢掉了；它们是平局。",
            "Pairs on which the two orders contradict each other are dropped; they are ties.",
        ),
        (
            of_pairs(lambda one, two: (as_a[one] + as_b[two]) / 2),
            "这是两种顺序的平均，一胜一平得 0.75。这里的规则更严：两种顺序都赢才算赢。",
            "That is the mean over both orders, where a win and a tie make 0.75. The rule here is stricter: "
            "a win must be one in both orders.",
        ),
        (
            of_pairs(lambda one, two: 1 - _points(one, two)),
            "这是对手的胜率。",
            "That is the opponent's win rate.",
        ),
        (of_pairs(_points, complete=False), *guessed),
        (
            of_pairs(lambda one, two: _points(one, two) if {one, two} <= set(VALID) else 0.0, complete=False),
            *guessed,
        ),
        (
            lambda one, two: sum(_points(*pair) for pair in _complete(one, two)),
            "这是总分，要除以完整的对数。",
            "That is the sum; divide it by the number of complete pairs.",
        ),
    ]


# ------------------------------------------------------------------------------------- malformed answers

TEXTS = (  # what a chat model wrote, and what it means
    ("[[A]]", "A"),
    ("[[B]]", "B"),
    ("[[C]]", "tie"),
    ("Both praise the film, A with more warmth. [[A]]", "A"),
    ("A is longer, yet its ending is sour: [[B]]", "B"),
    ("As good as each other.\n\n[[C]]\n", "tie"),
    ("B", None),  # not graded: a bare letter may be taken or left
    ("A film as warm as this one deserves a kinder end.", "malformed"),
    ("Both are lovely, I could not choose.", "malformed"),
    ("", "malformed"),
    ("As an assistant I do not judge films.", "malformed"),
    ("Better: B. Although A is not bad.", "malformed"),
    ("It is [[A]] for warmth, [[B]] for style.", "malformed"),
    ("[[B]] and then again [[A]]", "malformed"),
    ("[[D]]", "malformed"),
    ("I would call it a tie between A and B, or would I?", "malformed"),
)


@grader
def e10_3(read):
    """``read(text) -> "A", "B", "tie" or "malformed"``: the one verdict in double brackets, never a guess."""
    said = [run(_kept(read), text)[0] for text, _ in TEXTS]
    if all(each is None or each is ... for each in said):
        raise NotAnswered
    rows = zip(TEXTS, said, strict=True)
    readings = [(text, want, _reading(got)) for (text, want), got in rows if want is not None]
    for text, want, got in readings:
        if want != "malformed" and got == "malformed":
            raise Wrong(
                f"{text!r} 里有一个明确的判决 {want}，却没有读出来。",
                f"{text!r} holds one clear verdict, {want}, which was not read.",
            )
    guesses = [(text, got) for text, want, got in readings if want == "malformed" and got != "malformed"]
    if guesses and all(got == "A" for _, got in guesses):
        text = guesses[0][0]
        raise Wrong(
            f"{len(guesses)} 条无效回答全被读成了 A（例如 {text!r}）。猜出来的 A 让坐在 A 位置的一方白赢；"
            "要记为 malformed。",
            f"{len(guesses)} answers without a verdict were all read as A, such as {text!r}. Guessed A's are "
            "wins for whoever sits at A; call them malformed.",
        )
    two = [text for text, _ in guesses if text.count("[[") == 2]
    if guesses and len(two) == len(guesses):
        raise Wrong(
            f"{two[0]!r} 里有两个不同的判决，取哪一个都是猜。",
            f"{two[0]!r} holds two different verdicts; to take either is a guess.",
        )
    if guesses:
        text, got = guesses[0]
        raise Wrong(
            f"{text!r} 里没有判决，却被读成了 {got}。字母 A 可能只是冠词，B 可能只是被提到。",
            f"{text!r} holds no verdict but was read as {got}. An A may be an article, a B merely mentioned.",
        )
    for text, want, got in readings:
        if got != want:
            raise Wrong(
                f"{text!r} 的判决是 {want}，读成了 {got}。要看双方括号，不是第一个字母。",
                f"The verdict of {text!r} is {want}, not {got}. Read the double brackets, not the first "
                "letter.",
            )


def _kept(read) -> Callable[[str], tuple]:
    """``read`` with its result in a tuple, so that None, which some return for no answer, comes through."""
    return (lambda text: (read(text),)) if callable(read) else read


def _reading(value) -> str:
    """What a student returns, in our words: C is a tie, and None is malformed."""
    if value is None:
        return "malformed"
    if not isinstance(value, str):
        raise Wrong(
            f"要返回文字 A、B、tie 或 malformed，而不是 {type(value).__name__}。",
            f"Return the text A, B, tie or malformed, not {type(value).__name__}.",
        )
    word = value.strip().strip("[]")
    known = {"A": "A", "B": "B", "C": "tie", "tie": "tie", "malformed": "malformed"}
    if word.lower() not in ("tie", "malformed") and word not in known:
        raise Wrong(
            f"返回了 {value!r}；只能是 A、B、tie 或 malformed。",
            f"{value!r} was returned; only A, B, tie and malformed are known.",
        )
    return known.get(word, word.lower())


# ----------------------------------------------------------------------------------------------- agreement


@grader
def e10_4(kappa):
    """``kappa(one, other) -> float``: Cohen's kappa of two judges; None where a judge has no outcome."""
    _grade(kappa, LABELS, _kappa, _kappa_mistakes(), ("kappa", "Kappa"))


def _labels(seed: int, n: int, same: float, first: Sequence[int], second: Sequence[int], missing: bool):
    rng, kinds = random.Random(seed), ("win", "tie", "loss")
    one = rng.choices(kinds, first, k=n)
    other = [each if rng.random() < same else rng.choices(kinds, second)[0] for each in one]
    if missing:
        for column in (one, other):
            for place in rng.sample(range(n), n // 6):
                column[place] = None
        one[0] = other[0] = None
    return one, other


LABELS = (
    _labels(1, 50, 0.6, (5, 2, 3), (2, 1, 5), False),
    _labels(2, 90, 0.5, (8, 1, 1), (6, 3, 1), True),
    _labels(3, 30, 0.1, (1, 0, 1), (3, 0, 1), False),  # two labels only
    _labels(4, 70, 0.8, (3, 3, 3), (1, 5, 1), True),
)


def _both(one: Sequence, other: Sequence) -> list[tuple[str, str]]:
    return [pair for pair in zip(one, other, strict=True) if None not in pair]


def _raw(pairs: Sequence[tuple]) -> float:
    return _mean([float(x == y) for x, y in pairs])


def _chance(pairs: Sequence[tuple]) -> float:
    columns = list(zip(*pairs, strict=True))
    return sum(columns[0].count(kind) * columns[1].count(kind) for kind in set(columns[0])) / len(pairs) ** 2


def _kappa(one: Sequence, other: Sequence) -> float:
    return _corrected(_both(one, other), _chance)


def _corrected(pairs: Sequence[tuple], chance: Callable[[Sequence[tuple]], float]) -> float:
    return (_raw(pairs) - chance(pairs)) / (1 - chance(pairs))


def _pooled(pairs: Sequence[tuple]) -> float:
    labels = [label for pair in pairs for label in pair]
    return sum((labels.count(kind) / len(labels)) ** 2 for kind in set(labels))


def _kappa_mistakes() -> list[Mistake]:
    return [
        (
            lambda one, other: _raw(_both(one, other)),
            "这是一致的比例；靠运气也会一致，要把那一部分去掉。",
            "That is the raw agreement; take off what chance alone would give.",
        ),
        (
            lambda one, other: _raw(list(zip(one, other, strict=True))),
            "这是一致的比例，而且两边都是 None 的也算成了一致。",
            "That is the raw agreement, with None on both sides counted as agreeing.",
        ),
        (
            lambda one, other: _corrected(list(zip(one, other, strict=True)), _chance),
            "None 不是一种结果：先去掉至少一方没有评的对。",
            "None is no outcome: leave out the pairs that one of them did not judge.",
        ),
        (
            lambda one, other: _chance(_both(one, other)),
            "这是靠运气一致的比例。",
            "That is the agreement by chance.",
        ),
        (
            lambda one, other: _raw(_both(one, other)) - _chance(_both(one, other)),
            "还要除以 1 − chance：满分应当是 1。",
            "Divide by 1 − chance, so that perfect agreement is 1.",
        ),
        (
            lambda one, other: _corrected(_both(one, other), lambda pairs: 1 / 3),
            "运气被当成了 1/3。每位评委说“赢”的比例不同，要用他们各自的比例。",
            "Chance was taken to be 1/3. Judges do not say each outcome equally often; use their own shares.",
        ),
        (
            lambda one, other: _corrected(_both(one, other), lambda pairs: 0.5),
            "运气被当成了 1/2；要用两位评委各自的比例。",
            "Chance was taken to be 1/2; use the shares of the two judges.",
        ),
        (
            lambda one, other: _corrected(_both(one, other), _pooled),
            "两位评委的比例被合在一起了（那是 Scott 的 π）；Cohen 的 kappa 用各自的比例相乘。",
            "The shares of both judges were pooled, which is Scott's pi; Cohen multiplies those of each.",
        ),
    ]


# ----------------------------------------------------------------------------------------- a prediction


@grader
def e10_5(one_order, both_orders, share_b, *, reads: float = 0.6, better: float = 0.8):
    """Predict what a half-hearted judge reports: it reads with probability ``reads`` and else says B.

    The candidate truly is better in a share ``better`` of the pairs. Asked: its win rate with the candidate
    always shown as A, its win rate after swapping (a contradiction is a tie), the share of B.
    """
    first = reads * better  # as A the candidate wins only where it is better and the judge reads
    swapped = better * (reads + (1 - reads) / 2) + (1 - better) * (1 - reads) / 2
    share = 1 - reads / 2  # whoever it favours sits at A once; to say A takes reading
    answers = (
        ("只看一种顺序", "One order", one_order, first, _one_order(reads, better)),
        ("两种顺序", "Both orders", both_orders, swapped, _both_orders(reads, better)),
        ("B 的比例", "Share of B", share_b, share, _share(reads, better)),
    )
    for zh, en, given, right, mistakes in answers:
        number = _number(given, (f"{zh}的答案", f"{en}: the answer"))
        if abs(number - right) > 0.005:
            if abs(number / 100 - right) <= 0.005:
                raise Wrong(*PERCENT)
            said = next((why for value, *why in mistakes if abs(number - value) <= 0.005), None)
            zh_why, en_why = said or (
                f"{number:g} 不对。把四种情形（候选者好或差，评委读或不读）各算一遍。",
                f"{number:g} is not right. Go through the four cases: candidate better or worse, judge reads "
                "or not.",
            )
            raise Wrong(f"{zh}：{zh_why}", f"{en}: {en_why}")
    return (
        f"正确。真实的胜率是 {better:g}：只看一种顺序得到 {first:.2f}，像是输了；换位以后是 {swapped:.2f}，"
        f"方向对了，只是被平局拉向 0.5；B 的比例 {share:.2f} 说明了原因。",
        f"Correct. The true win rate is {better:g}: one order alone says {first:.2f}, as if it had lost; "
        f"after swapping it is {swapped:.2f}, the right side, only drawn to 0.5 by ties; a share of B of "
        f"{share:.2f} tells why.",
    )


def _one_order(reads: float, better: float) -> list[Guess]:
    return [
        (better, "那是真相；评委不读的时候答 B，也就是对手。", "that is the truth; unread, B wins."),
        (
            reads * better + 1 - reads,
            "不读的时候答 B，而候选者坐在 A。",
            "unread, the answer is B, but the candidate sits at A.",
        ),
        (
            reads * better + (1 - reads) / 2,
            "不读的时候不是掷硬币，而是答 B。",
            "unread, it does not toss a coin, it says B.",
        ),
        (reads, "候选者也不是每一对都更好。", "nor is the candidate better in every pair."),
    ]


def _both_orders(reads: float, better: float) -> list[Guess]:
    once = reads * better
    return [
        (
            better,
            "换位除掉了偏差，却除不掉噪声：矛盾的对成了平局。",
            "swapping removes the bias but not the noise: pairs that contradict themselves become ties.",
        ),
        (once, "那是一种顺序的结果；换位以后呢？", "that is one order; and after swapping?"),
        (0.5, "只有从来不读的评委才得 0.5。", "only a judge that never reads gives 0.5."),
        (
            reads**2 * better + (1 - reads**2) / 2,
            "更好的一方坐在 B 时，不读也会答对：不必两次都读。",
            "when the better one sits at B, saying B unread is right, too: it need not read twice.",
        ),
    ]


def _share(reads: float, better: float) -> list[Guess]:
    return [
        (
            1 - reads,
            "读的时候，换位的两次里也有一次是 B。",
            "when it reads, one of the two orders is B, too.",
        ),
        (
            1 - reads * better,
            "只数了第一种顺序。",
            "only the first order is counted.",
        ),
        (reads / 2, "这是 A 的比例。", "that is the share of A."),
        (0.5, "不读的时候都答 B，比例一定高过 0.5。", "unread it says B, so the share is above 0.5."),
    ]


# ------------------------------------------------------------------------------------------------ numbers


def _grade(function, cases, right: Callable[..., float], mistakes: Sequence[Mistake], name: Message) -> None:
    """Return if ``function`` is right on all ``cases``; otherwise name the mistake that gives its numbers."""
    results = [_number(run(function, *map(list, case)), name) for case in cases]
    wanted = [right(*case) for case in cases]
    if _alike(results, wanted):
        return
    for value, zh, en in mistakes:
        if _alike(results, [value(*case) for case in cases]):
            raise Wrong(zh, en)
    if _alike([result / 100 for result in results], wanted):
        raise Wrong(*PERCENT)
    for case, got, want in zip(cases, results, wanted, strict=True):
        if not _alike([got], [want]):
            kinds = {kind: (case[0] + case[1]).count(kind) for kind in dict.fromkeys([*case[0], *case[1]])}
            raise Wrong(
                f"{name[0]}应当是 {want:.4f}，而不是 {got:.4f}（{len(case[0])} 对，两列里共有 {kinds}）。",
                f"{name[1]} should be {want:.4f}, not {got:.4f} ({len(case[0])} pairs; both columns together "
                f"hold {kinds}).",
            )


def _number(value, name: Message) -> float:
    number = to_tensor(value, name)
    if number.numel() != 1:
        raise Wrong(f"{name[0]}应当是一个数。", f"{name[1]} should be one number.")
    return float(number)


def _alike(these: Sequence[float], those: Sequence[float]) -> bool:
    return all(abs(a - b) < 1e-4 for a, b in zip(these, those, strict=True))
