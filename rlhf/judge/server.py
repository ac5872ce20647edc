"""A judge on this machine, behind the same HTTP interface as a hosted one: no key, no network, no cost.

In: any judge, such as :class:`rlhf.judge.RewardJudge`. Out: an address for ``EndpointJudge(base_url=…)``. It
understands the prompts of :func:`rlhf.judge.to_prompt`. On request it misbehaves the way hosted ones do, so
that one can see what a run makes of it. Lesson 10 uses it; it also runs as a command::

    python -m rlhf.judge.server --port 8765       # the profile's reward model; --reward output/rm_2 another
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rlhf import errors, profiles
from rlhf.judge.pairwise import Judge, RewardJudge
from rlhf.judge.question import TIE, A, B, from_prompt

HOST = "127.0.0.1"
LARGEST = 1_000_000  # bytes of a request
WORDS = {A: "[[A]]", B: "[[B]]", TIE: "[[C]]"}
NONSENSE = ("", "Both are lovely.", "A is warmer, but B is longer.", "[[A]] or [[B]]", "Answer: first")


@dataclass(frozen=True)
class Faults:
    """How the server misbehaves: shares of the prompts, the same prompts each time.

    malformed: the answer is none. busy: the first request gets a 429. slow: the first request is answered
    ``delay`` seconds late. dead: every request gets a 503.
    """

    malformed: float = 0.0
    busy: float = 0.0
    slow: float = 0.0
    dead: float = 0.0
    delay: float = 1.0
    seed: int = 0

    def of(self, prompt: str) -> str:
        """What is wrong with this prompt: the name of a share, or ``fine``."""
        digest = hashlib.sha256(f"{self.seed} {prompt}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        for name in ("malformed", "busy", "slow", "dead"):
            place -= getattr(self, name)
            if place < 0:
                return name
        return "fine"


class LocalServer(ThreadingHTTPServer):
    """See :func:`serve`. ``prompts``: every prompt that came, and how often. ``statuses``: what was sent."""

    daemon_threads = True

    def __init__(self, judge: Judge, model: str, faults: Faults, port: int):
        super().__init__((HOST, port), _Handler)
        self.judge, self.model, self.faults = judge, model, faults
        self.prompts: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.times: list[float] = []  # when the prompts came, monotonic seconds
        self.lock, self.closing = threading.Lock(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/v1"

    def kinds(self) -> Counter[str]:
        """How many different prompts were of which kind, see :meth:`Faults.of`."""
        return Counter(self.faults.of(prompt) for prompt in self.prompts)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that waits no longer is nothing to report
            super().handle_error(request, client_address)


@contextmanager
def serve(
    judge: Judge, model: str | None = None, faults: Faults | None = None, port: int = 0
) -> Iterator[LocalServer]:
    """Serve ``judge`` on this machine alone while the block runs; ``server.url`` is its address.

    Args:
        model: its name, by default the judge's. Answers are cached under it, so a cache that outlives the
            server needs a name that says which model it is.
        port: by default a free one.

    Raises:
        CannotServe: the port is taken.
    """
    try:
        server = LocalServer(judge, model or judge.name, faults or Faults(), port)
    except OSError as error:
        raise errors.CannotServe(
            f"端口 {port} 打不开（{error.strerror}）。换一个 port。",
            f"Port {port} cannot be opened ({error.strerror}). Choose another port.",
        ) from None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds for a connection to say something
    server: LocalServer

    def do_GET(self) -> None:
        if self.path.rstrip("/") != "/v1/models":
            return self._problem(404, f"no such path: {self.path}")
        self._send(200, {"object": "list", "data": [{"id": self.server.model, "object": "model"}]})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LARGEST:
            self.close_connection = True
            return self._problem(413, "a Content-Length of at most a megabyte is needed")
        body = self.rfile.read(int(length))
        if self.path.rstrip("/") != "/v1/chat/completions":
            return self._problem(404, f"no such path: {self.path}")
        try:
            request = json.loads(body)
            model, prompt = request["model"], request["messages"][-1]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            return self._problem(400, "model and messages are needed")
        if model != self.server.model:
            return self._problem(404, f"no model {model!r}", code="model_not_found")
        self._answer(str(prompt))

    def _answer(self, prompt: str) -> None:
        server, question = self.server, from_prompt(prompt)
        if question is None:
            return self._problem(400, "this judge understands the prompts of rlhf.judge.to_prompt only")
        with server.lock:
            server.prompts[prompt] += 1
            server.times.append(time.monotonic())
            first, kind = server.prompts[prompt] == 1, server.faults.of(prompt)
        if kind == "dead":
            return self._problem(503, "out of order", **{"Retry-After-Ms": "10"})
        if kind == "busy" and first:
            return self._problem(429, "too many requests", **{"Retry-After-Ms": "10"})
        if kind == "slow" and first and server.closing.wait(server.faults.delay):
            return None
        if kind == "malformed":
            return self._send(200, self._completion(prompt, NONSENSE[len(prompt) % len(NONSENSE)]))
        try:
            with server.lock:  # one forward pass at a time
                answer = server.judge([question])[0]
        except errors.CourseError as error:  # such as a template that the reward model does not know
            return self._problem(422, error.en)
        return self._send(200, self._completion(prompt, WORDS.get(answer, "")))

    def _completion(self, prompt: str, text: str) -> dict[str, Any]:
        """An answer in the form of the OpenAI API; tokens are counted as words."""
        sizes = len(prompt.split()), len(text.split())
        usage = {"prompt_tokens": sizes[0], "completion_tokens": sizes[1], "total_tokens": sum(sizes)}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        head = {"id": "local", "object": "chat.completion", "created": int(time.time())}
        return {**head, "model": self.server.model, "choices": [choice], "usage": usage}

    def _problem(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self._send(status, {"error": {"message": message, "type": kind, "code": code}}, headers)

    def _send(self, status: int, answer: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        with self.server.lock:
            self.server.statuses[status] += 1
        data = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass  # a line per request would fill the notebook


@errors.command
def main(words: list[str] | None = None) -> int:
    """The command ``python -m rlhf.judge.server``."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhf.judge.server", description="a judge on this machine"
    )
    parser.add_argument(
        "--reward", default="profile", help="a reward model: a folder, or a name under output/"
    )
    parser.add_argument("--margin", type=float, default=0.0, help="scores no further apart are a tie")
    parser.add_argument("--port", type=int, default=8765)
    asked = parser.parse_args(words)
    setup = profiles.setup("10_evaluation")
    from rlhf import stages  # these load the trainers, which takes a while
    from rlhf.train import find_model

    folder = find_model(asked.reward, setup.reward_model)
    judge = RewardJudge(stages.load_reward(folder, setup.device), asked.margin, folder.name)
    with serve(judge, port=asked.port) as server:
        print(f"{server.model} · {server.url} · Ctrl-C", flush=True)
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
