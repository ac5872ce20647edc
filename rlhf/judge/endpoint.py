"""A chat model behind any OpenAI-compatible endpoint as a judge.

In: questions. Out: one outcome each; what is no answer is counted as malformed, what never came as failed.
Answers are kept on disk, costs are estimated before and stopped at a cap. Lesson 10 uses it::

    judge = EndpointJudge("gpt-4o-mini", price=(0.15, 0.60), max_cost=0.50, cache="output/answers")
    print(judge.estimate(both_orders(queries, after, before)))
    judge_pairs(judge, queries, after, before)
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm.auto import tqdm

from rlhf.errors import CourseError
from rlhf.judge import faults
from rlhf.judge.cache import Cache
from rlhf.judge.client import Attempt, Client, Reply
from rlhf.judge.faults import BadJudging
from rlhf.judge.keys import checked, find_key, is_local
from rlhf.judge.question import CRITERION, FAILED, MALFORMED, UNASKED, Question, read_answer, to_prompt

OPENAI = "https://api.openai.com/v1"
SETTINGS = {"temperature": 0, "max_tokens": 16}
LIMITS = ("max_tokens", "max_completion_tokens")  # what bounds the length of an answer
ROW = 5  # so many failures in a row, and the rest would fail too


@dataclass
class Usage:
    """What a judge has done so far. ``cost`` is about, in the currency of ``price``; cached answers are free.

    ``asked``: questions put to the endpoint, those that failed included. ``retries``: requests repeated.
    """

    asked: int = 0
    cached: int = 0
    malformed: int = 0
    failed: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """What a run will take at most, about: answers of full length, a token per three bytes of a prompt."""

    questions: int
    cached: int
    tokens_in: int
    tokens_out: int
    cost: float | None

    def __str__(self) -> str:
        cost = "no price given" if self.cost is None else f"cost at most about {self.cost:.4f}"
        return (
            f"{self.questions} questions, {self.cached} of them cached; {self.tokens_in} tokens in, "
            f"{self.tokens_out} out; {cost}"
        )


class EndpointJudge:
    """A chat model as a judge.

    Args:
        model: its name at the endpoint.
        base_url: by default ``OPENAI_BASE_URL``, else OpenAI. key: by default see :func:`find_key`.
        criterion: the question that is asked about the two responses.
        settings: passed on with every request; by default temperature 0 and at most 16 tokens.
        price: per million tokens, (in, out). max_cost: the cap, in the same currency.
        requests_per_minute: of all workers together, retries included; None for no limit.
        workers: requests at the same time. timeout: seconds to wait for each. retries: of one question.
        cache: folder of the answers; None keeps nothing.
        progress: show a bar.

    Raises:
        MissingKey: see :func:`find_key`. BadJudging: settings that cannot work. NoEndpoint: no http address.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        key: str | None = None,
        *,
        criterion: str = CRITERION,
        settings: Mapping[str, Any] | None = None,
        price: tuple[float, float] | None = None,
        max_cost: float | None = None,
        requests_per_minute: float | None = None,
        workers: int = 4,
        timeout: float = 30.0,
        retries: int = 4,
        cache: str | Path | None = None,
        progress: bool = True,
    ):
        self.model = self.name = model
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI
        self.criterion, self.settings = criterion, dict(SETTINGS if settings is None else settings)
        self.price, self.max_cost, self.workers = price, max_cost, workers
        self.cache, self.progress, self.usage = Cache(cache), progress, Usage()
        _check(self.base_url, price, max_cost, workers, timeout, retries, requests_per_minute)
        key = checked(key, "key") if key else find_key(self.base_url)
        self._client = Client(self.base_url, key, timeout, retries, requests_per_minute)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"EndpointJudge({self.model!r}, {self._client.shown_url!r})"

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """One of ``OUTCOMES`` per question, in their order.

        Raises:
            NoEndpoint: wrong address, unknown model, refused key, or no answer to five questions in a row.
            CapReached: ``max_cost`` is used up; its ``answers`` hold what came before.
            BadCache, CannotWrite: an answer cannot be read from or written to the disk.
        """
        run = _Run(questions, [self._cached(question) for question in questions])
        if run.todo:
            self._ask_all(run)
        if run.fault is not None:
            raise run.fault
        if run.todo:
            done, kept = len(questions) - run.answers.count(UNASKED), self.cache.folder is not None
            stop = faults.cap_reached(self.max_cost, self.usage.cost, done, len(questions), kept)
            stop.answers = run.answers
            raise stop
        return run.answers

    def estimate(self, questions: Sequence[Question]) -> Estimate:
        """What asking ``questions`` will take at most, about; asks nothing and needs no network."""
        new = [question for question in questions if self.cache.get(self._facts(question)) is None]
        sizes = [self._size(question) for question in new]
        tokens_in, tokens_out = (sum(part) for part in zip(*sizes, strict=True)) if new else (0, 0)
        cost = None if self.price is None else self._cost(tokens_in, tokens_out)
        return Estimate(len(questions), len(questions) - len(new), tokens_in, tokens_out, cost)

    # ---- one run

    def _ask_all(self, run: _Run) -> None:
        with (
            self._client,
            tqdm(
                total=len(run.todo), desc=f"asking {self.model}", mininterval=0.5, disable=not self.progress
            ) as bar,
            ThreadPoolExecutor(self.workers) as pool,
        ):
            try:
                for worker in [pool.submit(self._work, run, bar) for _ in range(self.workers)]:
                    worker.result()
            except BaseException:  # Ctrl-C, too: the workers finish their question and take no other
                run.stopped = True
                raise

    def _work(self, run: _Run, bar: tqdm) -> None:
        """What one thread does: take the next question until there is none, or the run has stopped."""
        while (i := self._take(run)) is not None:
            try:
                run.answers[i] = self._ask(run, run.questions[i])
            except CourseError as fault:
                run.fail(fault)
            bar.update()

    def _take(self, run: _Run) -> int | None:
        """The next question if the cap has room for it; its highest price is set aside until it is known."""
        with self._lock:
            if run.stopped or not run.todo:
                return None
            price = self._cost(*self._size(run.questions[run.todo[0]]))
            if self.max_cost is not None and self.usage.cost + run.reserved + price > self.max_cost:
                run.stopped = True
                return None
            run.reserved += price
            return run.todo.popleft()

    def _ask(self, run: _Run, question: Question) -> str:
        """Ask one question, count what it took, keep the reply."""
        attempt = self._client.ask(self.model, to_prompt(question, self.criterion), self.settings)
        self._count(run, attempt, self._size(question))
        if attempt.reply is None:
            return FAILED
        self.cache.put(self._facts(question), attempt.reply)
        return self._read(attempt.reply)

    def _count(self, run: _Run, attempt: Attempt, size: tuple[int, int]) -> None:
        """Costs and failures. An endpoint may charge for what came too late: a failure costs its estimate."""
        reply, usage = attempt.reply or Reply(""), self.usage
        tokens_in = size[0] if reply.tokens_in is None else reply.tokens_in
        tokens_out = size[1] if reply.tokens_out is None else reply.tokens_out
        with self._lock:
            run.reserved -= self._cost(*size)
            usage.cost += self._cost(tokens_in, tokens_out)
            usage.tokens_in += tokens_in
            usage.tokens_out += tokens_out
            usage.asked += 1
            usage.retries += attempt.retries
            usage.failed += attempt.reply is None
            run.failures = 0 if attempt.reply else run.failures + 1
            if run.failures >= ROW:
                raise faults.keeps_failing(self._client.shown_url, run.failures, attempt.why)

    def _cached(self, question: Question) -> str:
        reply = self.cache.get(self._facts(question))
        if reply is None:
            return UNASKED
        self.usage.cached += 1
        return self._read(reply)

    def _read(self, reply: Reply) -> str:
        outcome = read_answer(reply.text)
        with self._lock:
            self.usage.malformed += outcome == MALFORMED
        return outcome

    # ---- details

    def _facts(self, question: Question) -> dict[str, Any]:
        """What the answer depends on. A local server has another port every time, so the port is left out."""
        address = urlsplit(self._client.shown_url)
        place = (address._replace(netloc="localhost") if is_local(self.base_url) else address).geturl()
        prompt = to_prompt(question, self.criterion)
        return {"endpoint": place, "model": self.model, "settings": self.settings, "prompt": prompt}

    def _size(self, question: Question) -> tuple[int, int]:
        """Tokens of a question and of the longest answer to it, about and rather too many."""
        longest = next((int(self.settings[name]) for name in LIMITS if name in self.settings), 1024)
        return math.ceil(len(to_prompt(question, self.criterion).encode()) / 3) + 8, longest

    def _cost(self, tokens_in: int, tokens_out: int) -> float:
        per_in, per_out = self.price or (0.0, 0.0)
        return (tokens_in * per_in + tokens_out * per_out) / 1e6


class _Run:
    """What the threads of one call share: answers from the cache, and the places still to be asked."""

    def __init__(self, questions: Sequence[Question], answers: list[str]):
        self.questions, self.answers = questions, answers
        self.todo = deque(i for i, answer in enumerate(answers) if answer == UNASKED)
        self.reserved = 0.0  # the most that the questions under way may cost
        self.failures = 0  # in a row
        self.stopped = False
        self.fault: CourseError | None = None

    def fail(self, fault: CourseError) -> None:
        """Keep the first fault; nothing more is asked."""
        self.fault = self.fault or fault
        self.stopped = True


def _check(base_url, price, max_cost, workers, timeout, retries, requests_per_minute) -> None:
    address = urlsplit(base_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise faults.unreachable(base_url, "not an http(s) address")
    if max_cost is not None and price is None:
        raise BadJudging(
            "有 max_cost，就要给出 price（每百万词元的价格：输入、输出）。",
            "max_cost needs price, per million tokens in and out.",
        )
    rate = 1 if requests_per_minute is None else requests_per_minute
    if workers < 1 or retries < 0 or not timeout > 0 or not rate > 0:
        raise BadJudging(
            "workers 至少为 1，retries 至少为 0，timeout 和 requests_per_minute 要大于 0。",
            "workers must be at least 1, retries at least 0, timeout and requests_per_minute above 0.",
        )
