"""One prompt, two models, one reward model: what each writes, and what that is worth.

In: a :class:`Question`, from a page or from a program. Out: a :class:`Comparison`. The models behind
:mod:`rlhf.serve.endpoint` are asked through the OpenAI client, both with the same text and the same seed, one
after the other, so that the same question has the same answers. Lesson 11 uses it.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from rlhf.errors import CourseError
from rlhf.serve.endpoint import Server
from rlhf.serve.folders import CONTINUE, Served, automatic_start

if TYPE_CHECKING:
    import torch

LONGEST = 20_000  # characters of a prompt
HOTTEST = 2.0
LARGEST_SEED = 2**31 - 1


class BadQuestion(CourseError, ValueError):
    """A prompt or a setting that no model can be asked with."""


class Unanswered(CourseError):
    """The server gave no answer."""


@dataclass(frozen=True)
class Question:
    """What both models are asked.

    Attributes:
        prompt: the text to continue; spaces at its end are dropped, since tokens begin with theirs.
        max_tokens: length of an answer at most. temperature: 0 is greedy. seed: of the sampling.

    Raises:
        BadQuestion: an empty prompt, one that is too long or no text, or a setting out of range.
    """

    prompt: str
    max_tokens: int = 24
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", _prompt(self.prompt))
        _number("max_tokens", self.max_tokens, 1, 4096, whole=True)
        _number("temperature", self.temperature, 0, HOTTEST)
        _number("seed", self.seed, 0, LARGEST_SEED, whole=True)

    @classmethod
    def read(cls, body: bytes) -> Question:
        """A question from JSON in UTF-8, as the page sends it. Raises BadQuestion."""
        try:
            given = json.loads(body.decode("utf-8"))
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            raise BadQuestion(
                "请求读不懂：应当是 UTF-8 编码的 JSON。", "The request is not JSON in UTF-8."
            ) from None
        known = {field.name for field in fields(cls)}
        if not isinstance(given, dict) or "prompt" not in given or given.keys() - known:
            raise BadQuestion(
                f"请求应当是含有 prompt 的 JSON 对象，可选的还有 {', '.join(sorted(known - {'prompt'}))}。",
                f"The request must be a JSON object with prompt and perhaps "
                f"{', '.join(sorted(known - {'prompt'}))}.",
            )
        return cls(**given)


@dataclass(frozen=True)
class Answer:
    """What one model wrote: ``text`` behind the prompt, the ``score`` of both together, how many ``tokens``,
    and whether it ``ended`` by itself (else at the limit)."""

    model: str
    text: str
    tokens: int
    ended: bool
    score: float


@dataclass(frozen=True)
class Comparison:
    """Both answers. ``text``: what the models were given. ``difference``: score after minus score before."""

    question: Question
    text: str
    before: Answer
    after: Answer

    @property
    def difference(self) -> float:
        return self.after.score - self.before.score

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "difference": self.difference}


class Pair:
    """Two models behind one server, and a reward model.

    Args:
        server: running, with two models: before and after. reward: texts → scores ``(B,)``.
        reward_name: for people. timeout: seconds to wait for an answer.

    Raises:
        BadData: the reward model was trained on another template than the models.
    """

    def __init__(
        self,
        server: Server,
        reward: Callable[[Sequence[str]], torch.Tensor],
        reward_name: str,
        timeout: float = 600.0,
    ):
        import openai
        from transformers import AutoTokenizer

        self.before, self.after = server.served
        self.server, self.reward, self.reward_name = server, reward, reward_name
        self.tokenizers = [AutoTokenizer.from_pretrained(one.folder) for one in server.served]
        self._lock = threading.Lock()
        web = openai.DefaultHttpxClient(trust_env=False)  # no proxy sees this machine's own servers
        self._client = openai.OpenAI(
            base_url=server.base_url, api_key="none", timeout=timeout, max_retries=0, http_client=web
        )
        reward([self.text("x") + " y"])

    @property
    def positions(self) -> int | None:
        """Tokens that prompt and answer may have together in both models."""
        return min((one.positions for one in (self.before, self.after) if one.positions), default=None)

    def text(self, prompt: str) -> str:
        """What both models are given: the prompt, with the words around it that ``after`` learnt with."""
        if self.after.form == CONTINUE:
            return prompt
        tokenizer = self.tokenizers[1]
        turn = [{"role": "user", "content": prompt}]
        whole = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        return whole.removeprefix(automatic_start(tokenizer))  # which the server puts there again

    def ask(self, question: Question) -> Comparison:
        """Both models' answers with their scores.

        Raises:
            BadQuestion: the prompt leaves a model no room. Unanswered: the server failed.
        """
        text = self.text(question.prompt)
        self._check_room(text)
        with self._lock:  # the server has one random state for all that it does
            written = [self._write(one, text, question) for one in (self.before, self.after)]
            scores = self.reward([text + one[0] for one in written]).tolist()
        names = (self.before.name, self.after.name)
        before, after = map(Answer, names, *zip(*written, strict=True), scores)
        return Comparison(question, text, before, after)

    def _write(self, model: Served, text: str, question: Question) -> tuple[str, int, bool]:
        """What the model writes behind ``text``, how many tokens, and whether it ended by itself."""
        import openai

        settings = {name: getattr(question, name) for name in ("max_tokens", "temperature", "seed")}
        try:
            done = self._client.completions.create(model=model.name, prompt=text, **settings)
        except openai.OpenAIError as error:
            log = self.server.log
            raise Unanswered(
                f"{model.name} 没有回答：{error}。服务的日志：{log}",
                f"{model.name} gave no answer: {error}. The server's log: {log}",
            ) from error
        choice = done.choices[0]
        return choice.text, done.usage.completion_tokens, choice.finish_reason == "stop"

    def _check_room(self, text: str) -> None:
        for model, tokenizer in zip((self.before, self.after), self.tokenizers, strict=True):
            tokens = len(tokenizer(text)["input_ids"])
            if model.positions is not None and tokens >= model.positions:
                raise BadQuestion(
                    f"提示太长：有 {tokens} 个词元，而 {model.name} 连同续写一共只能读 "
                    f"{model.positions} 个。请写短些。",
                    f"The prompt is too long: it has {tokens} tokens, and {model.name} reads "
                    f"{model.positions} together with the answer. Shorten it.",
                )


def _prompt(prompt: Any) -> str:
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadQuestion("请先写几个词。", "Write a few words first.")
    if len(prompt) > LONGEST:
        raise BadQuestion(
            f"提示太长：{len(prompt)} 个字符，最多 {LONGEST} 个。",
            f"The prompt is too long: {len(prompt)} characters, at most {LONGEST}.",
        )
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise BadQuestion(
            "提示里有不成字的编码（孤立的代理项）。",
            "The prompt has half a character in it (a lone surrogate).",
        ) from None
    return prompt.rstrip()


def _number(name: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    right = isinstance(value, int) if whole else isinstance(value, (int, float)) and math.isfinite(value)
    if isinstance(value, bool) or not right or not low <= value <= high:
        kind = ("整数", "a whole number") if whole else ("数", "a number")
        raise BadQuestion(
            f"{name} 应当是 {low} 到 {high} 之间的{kind[0]}，而不是 {value!r:.50}。",
            f"{name} must be {kind[1]} from {low} to {high}, not {value!r:.50}.",
        )
