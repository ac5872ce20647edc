"""What the texts of a reward model look like: noted when it is trained, compared whenever it scores.

In: the pairs it is trained on and the tokens they become. Out: a :class:`TextForm`, which lies as
``text_form`` in the model's ``config.json`` and in ``reward_model.json``, and survives :mod:`rlhf.merge`. A
reward model gives a number to any text; the number means something for texts of the form it learnt from.
Lesson 05, section 10.1, shows what another template does to it.

The template is read off the texts themselves: its *marks* are the labels, tags and headings that every prompt
has, in the same order (``\\n\\nHuman:``, ``<|user|>``, ``[INST]``, ``### Response:`` …).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.errors import BadData

ATTRIBUTE = "text_form"
CUT = "left"  # the only side that rewards.to_tokens cuts: what is judged stands at the end
SPACES = ("\n\n", "\n", " ")  # what may belong to a mark, behind it
# What a mark may look like. That all prompts have it decides, so these may be generous.
TAGS = re.compile(r"\n*(?:<{1,2}[^<>\s]{1,40}>{1,2}\w*|\[/?[A-Z_]{2,}\]|【[^】\n]{1,20}】)+")
TAG = re.compile(r"\n*(?:<{1,2}[^<>\s]{1,40}>{1,2}|\[/?[A-Z_]{2,}\]|【[^】\n]{1,20}】)\w*")
LABEL = re.compile(r"(?:\n+[ \t]*)?(?:#{1,6}[ \t]*)?(?:[^\W\d_]\w*[ \t]){0,2}[^\W\d_]\w*[:：]")
HEADING = re.compile(r"(?:^|\n+)#{1,6}[ \t]*[^\n:：]{1,40}")
# Who speaks, as dialogues say it: where training had no marks, a text that has both of a row is another form.
SPEAKERS = (
    ("\n\nHuman:", "\n\nAssistant:"),
    ("<|im_start|>user", "<|im_start|>assistant"),
    ("<|start_header_id|>user", "<|start_header_id|>assistant"),
    ("<start_of_turn>user", "<start_of_turn>model"),
    ("<|user|>", "<|assistant|>"),
    ("[INST]", "[/INST]"),
    ("### Instruction:", "### Response:"),
    ("### Human:", "### Assistant:"),
    ("USER:", "ASSISTANT:"),
)


@dataclass(frozen=True)
class TextForm:
    """The form of all texts that a reward model learnt from.

    Attributes:
        marks: pieces that every text has, in this order; the last one stands before the answer. Empty for
            texts without a template, such as reviews.
        begins: what every text begins with, up to and including the first mark; empty where what stands
            before it differs from text to text, as system texts do.
        end: the end-of-sequence token behind every text. max_length: tokens that are kept, of the ``cut``
            side's other end: ``left`` means the beginning is cut off.
        probe, tokens: a text of this form and what training's tokenizer made of it.
    """

    marks: tuple[str, ...]
    begins: str
    end: str
    max_length: int
    probe: str
    tokens: tuple[int, ...]
    cut: str = CUT

    @classmethod
    def of(
        cls,
        prompts: Sequence[str],
        end: str,
        max_length: int,
        encode: Callable[[str], Sequence[int]],
    ) -> TextForm:
        """The form of texts with these prompts; ``encode`` makes tokens as training does."""
        marks, begins = template(prompts)
        probe = (begins.removesuffix(marks[0]) if begins else "") + "".join(f"{mark} x" for mark in marks)
        probe = (probe or "It was good, and well-made") + " 1."
        return cls(marks, begins, end, max_length, probe, tuple(encode(probe)))

    @classmethod
    def read(cls, found: Any, name: str) -> TextForm | None:
        """From what a configuration holds; None where it holds nothing, as that of an older model.

        Raises:
            BadData: it is damaged, or of a course that cuts texts elsewhere.
        """
        if found is None:
            return None
        try:
            values = {field.name: found[field.name] for field in dataclasses.fields(cls)}
            values |= {key: tuple(values[key]) for key in ("marks", "tokens")}
            form = cls(**values)
            right = all(isinstance(text, str) for text in (*form.marks, form.begins, form.end, form.probe))
            whole = [type(number) is int for number in (*form.tokens, form.max_length)]
            if not (right and all(whole) and form.max_length > 0 and form.cut == CUT):
                raise ValueError(found)
        except (KeyError, TypeError, ValueError):
            raise BadData(
                f"{name}/config.json 里的 {ATTRIBUTE} 读不懂：{found!r:.200}。请重新训练这个奖励模型"
                f"（python -m rlhf.train reward），或删去 {ATTRIBUTE}，不再核对模板。",
                f"The {ATTRIBUTE} in {name}/config.json cannot be read: {found!r:.200}. Train this reward "
                f"model again (python -m rlhf.train reward), or remove {ATTRIBUTE}: templates then go "
                "unchecked.",
            ) from None
        return form

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**dataclasses.asdict(self), "marks": list(self.marks), "tokens": list(self.tokens)}

    def check_reader(self, name: str, end: str, max_length: int, tokens: Sequence[int]) -> None:
        """Raise BadData unless whoever scores reads texts as training did: its end token, how many tokens it
        keeps, and the ``tokens`` that it makes of ``probe``."""
        if max_length != self.max_length:
            raise BadData(
                f"{name} 训练时每条文本保留 {self.max_length} 个词元，打分时却要保留 {max_length} 个。"
                "不要改 max_length。",
                f"{name} was trained on {self.max_length} tokens of a text and is to score {max_length} of "
                "them. Leave max_length as it is.",
            )
        if end != self.end or tuple(tokens) != self.tokens:
            differs = (
                f"{self.end!r} → {end!r}" if end != self.end else f"{list(self.tokens)} → {list(tokens)}"
            )
            raise BadData(
                f"{name} 里的分词器不是训练时的那一个（{differs}，文本 {self.probe!r}）。"
                "把训练时的分词器放回去，或重新训练这个奖励模型。",
                f"The tokenizer in {name} is not the one it was trained with ({differs}, for the text "
                f"{self.probe!r}). Put that one back, or train the reward model again.",
            )

    def check(self, texts: Sequence[str]) -> None:
        """Raise BadData for texts of another form than those of training."""
        wrong = [text for text in texts if not self._fits(text)]
        if not wrong:
            return
        zh, en = self._said()
        first = wrong[0] if len(wrong[0]) <= 100 else f"{wrong[0][:60]} … {wrong[0][-40:]}"
        raise BadData(
            f"模板不一致，分数没有意义：这个奖励模型训练时，{zh}；现在 {len(texts)} 条文本里有 {len(wrong)} "
            f"条不是，第一条是 {first!r}。把打分的文本写成训练时的样子（问答：rlhf.pairs.to_text），"
            "或用这种文本重新训练奖励模型（python -m rlhf.train reward --data …）。",
            f"With another template the scores mean nothing: {en}; {len(wrong)} of these {len(texts)} do not "
            f"look so, the first is {first!r}. Write what is scored as it was in training (questions and "
            "answers: rlhf.pairs.to_text), or train a reward model on such texts (python -m rlhf.train "
            "reward --data …).",
        )

    def _fits(self, text: str) -> bool:
        if not self.marks:
            return not any(follow(text, pair) for pair in SPEAKERS)
        return text.startswith(self.begins) and follow(text, self.marks)

    def _said(self) -> tuple[str, str]:
        """The form in words, Chinese and English."""
        if not self.marks:
            return "文本里没有说话人的标记", "no text it was trained on says who speaks"
        listed = ", ".join(map(repr, self.marks))
        zh, en = f"每条文本都依次有 {listed}", f"every text it was trained on has {listed}, in this order"
        if self.begins:
            zh, en = f"{zh}，开头是 {self.begins!r}", f"{en}, and begins with {self.begins!r}"
        return zh, en


def template(prompts: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The marks that all prompts have, in the order in which all have them, and what all begin with (see
    :class:`TextForm`)."""
    if not prompts or not all(prompts):
        return (), ""
    shortest = min(prompts, key=len)
    common = [mark for mark in candidates(shortest) if all(mark in prompt for prompt in prompts)]
    marks: list[str] = []
    for mark in _largest(shortest, common):
        if all(follow(prompt, [*marks, mark]) for prompt in prompts):
            marks.append(mark)
    for place, mark in enumerate(marks[:-1]):  # the answer's own white space is the policy's to write
        longer = ([*marks[:place], mark + space, *marks[place + 1 :]] for space in SPACES)
        marks = next((some for some in longer if all(follow(p, some) for p in prompts)), marks)
    if not marks:
        return (), ""
    before = {prompt[: prompt.index(marks[0])] for prompt in prompts}
    return tuple(marks), before.pop() + marks[0] if len(before) == 1 else ""


def follow(text: str, marks: Sequence[str]) -> bool:
    """Whether ``text`` has all of them, one behind the other."""
    place = 0
    for mark in marks:
        found = text.find(mark, place)
        if found < 0:
            return False
        place = found + len(mark)
    return True


def candidates(prompt: str) -> Iterator[str]:
    """Whatever in a prompt may be a mark, and the parts of it that may be one in other prompts."""
    found: dict[str, None] = {}
    for run in TAGS.finditer(prompt):
        atoms = [match[0] for match in TAG.finditer(run[0])]
        bare = [re.sub(r"(?<=[>\]】])\w+$", "", atom) for atom in atoms]  # <|user|>Hi → <|user|>
        for first in range(len(atoms)):
            for last in range(first, min(first + 5, len(atoms))):
                head = "".join(atoms[first:last])
                found |= {head + atoms[last]: None, head + bare[last]: None}
    for pattern in (LABEL, HEADING):
        for match in pattern.finditer(prompt):
            words = re.split(r"(?<=\s)(?=\S)", match[0])  # "so good Answer:" → "good Answer:", "Answer:"
            found |= {"".join(words[first:]): None for first in range(len(words))}
    for mark in tuple(found):  # with fewer of its empty lines, or with none
        bare = mark.lstrip("\n")
        found |= {"\n" * lines + bare: None for lines in range(len(mark) - len(bare))}
    yield from (mark for mark in found if mark.strip())


def _largest(prompt: str, marks: Sequence[str]) -> list[str]:
    """Those that are no part of another one at the same place, in their order in ``prompt``."""
    spans: list[tuple[int, int, str]] = []
    for mark in sorted(set(marks), key=len, reverse=True):
        for match in re.finditer(re.escape(mark), prompt):
            if not any(start < match.end() and match.start() < end for start, end, _ in spans):
                spans.append((match.start(), match.end(), mark))
                break
    return [mark for _, _, mark in sorted(spans)]


def recorded(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What of a reward model's record belongs into the configuration of the model merged from it."""
    return {name: facts[name] for name in ("texts_begin_with", "reads_tokens", ATTRIBUTE) if name in facts}
