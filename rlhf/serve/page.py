"""The page that shows two models side by side, with the score of each answer.

In: two models and a reward model. Out: a page on this machine, made of the files beside this one: nothing is
fetched from elsewhere, and what a model writes is shown as text, never as HTML. Lesson 11 opens it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware

from rlhf import profiles
from rlhf.errors import CannotServe, CourseError
from rlhf.serve import endpoint
from rlhf.serve.compare import HOTTEST, LARGEST_SEED, LONGEST, BadQuestion, Pair, Question, Unanswered

FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
LARGEST = 100_000  # bytes of a request: the longest prompt, and some
LOCAL = ("127.0.0.1", "localhost")
HEADERS = {  # scripts, styles and requests of this page alone
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class TooLarge(BadQuestion):
    """A request that is not even read to its end."""


class NoJSON(BadQuestion):
    """Not sent as JSON. Another site's page can make a browser send plain forms, and only those."""


@dataclass(frozen=True)
class Page:
    """A page that is there: its address, and the pair of models that it asks."""

    url: str
    pair: Pair


@contextlib.contextmanager
def comparing(
    before: str | Path = "profile",
    after: str | Path = "ppo_3",
    reward: str | Path = "profile",
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    device: str | None = None,
    log: Path | None = None,
) -> Iterator[Page]:
    """Serve two models and the page that compares them while the block runs.

    Args:
        before, after: folders, names under ``output/``, or ``profile`` for the profile's policy.
        reward: likewise; ``profile`` is the profile's reward model.
        port: of the page, by default a free one. host: whom it listens to; this machine alone unless given.
        device, log: see :func:`rlhf.serve.running`.

    Raises:
        MissingAssets, BadModel, CannotServe, CannotWrite: see there. BadData: the reward model does not fit.
    """
    from rlhf.stages import load_reward
    from rlhf.train import find_model

    device = device or profiles.pick_device()
    scorer = find_model(str(reward), profiles.root() / profiles.read()["reward_model"])
    with listening(host, port) as sock, endpoint.running(before, after, device=device, log=log) as server:
        pair = Pair(server, load_reward(scorer, device), scorer.name)
        with _shown(build(pair, host), sock):
            at = "127.0.0.1" if host in ("0.0.0.0", "::") else host
            yield Page(f"http://{at}:{sock.getsockname()[1]}/", pair)


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to that port; 0 is any free one. Raises CannotServe."""
    port = endpoint.free_port(port, host)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        yield sock


def build(pair: Pair, host: str = "127.0.0.1") -> FastAPI:
    """The page's application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if host in LOCAL:  # a name that another site points to this machine is refused
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL))

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(CourseError)
    async def explain(request: Request, error: CourseError) -> JSONResponse:
        return JSONResponse({"zh": error.zh, "en": error.en}, status_code=_status(error))

    @app.exception_handler(Exception)
    async def admit(request: Request, error: Exception) -> JSONResponse:
        traceback.print_exception(error)
        words = {"zh": "服务出错了，终端里有细节。", "en": "The server failed; its terminal has the details."}
        return JSONResponse(words, status_code=500)

    for path, name in FILES.items():
        app.get(path)(_sender(Path(__file__).with_name(name)))

    @app.get("/api/facts")
    def facts() -> dict[str, Any]:
        return facts_of(pair)

    @app.post("/api/compare")
    async def compare(request: Request) -> JSONResponse:
        question = Question.read(await _body(request))
        done = await run_in_threadpool(pair.ask, question)
        return JSONResponse(done.to_dict())

    return app


def facts_of(pair: Pair) -> dict[str, Any]:
    """What the page says about the models, and the limits of its controls."""
    usual = Question("x")
    most = min(512, (pair.positions or 4096) - 1)
    return {
        "before": pair.before.name,
        "after": pair.after.name,
        "reward": pair.reward_name,
        "form": pair.after.form,
        "base_url": pair.server.base_url,
        "max_tokens": {"value": min(usual.max_tokens, most), "max": most},
        "temperature": {"value": usual.temperature, "max": HOTTEST},
        "seed": {"value": usual.seed, "max": LARGEST_SEED},
        "prompt": {"max": LONGEST},
    }


def _sender(file: Path) -> Any:
    def send() -> FileResponse:
        return FileResponse(file)

    return send


async def _body(request: Request) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise NoJSON("请求应当是 application/json。", "The request must be application/json.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise TooLarge(
                f"请求太大：最多 {LARGEST} 字节。", f"The request is too large: at most {LARGEST} bytes."
            )
    return bytes(body)


def _status(error: CourseError) -> int:
    kinds = {TooLarge: 413, NoJSON: 415, BadQuestion: 422, Unanswered: 502}
    return next((status for kind, status in kinds.items() if isinstance(error, kind)), 500)


@contextlib.contextmanager
def _shown(app: FastAPI, sock: socket.socket) -> Iterator[None]:
    """The application behind ``sock``, in a thread of its own while the block runs."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise CannotServe("网页没有启动。", "The page did not start.")
            time.sleep(0.02)
        yield
    finally:
        server.should_exit = True
        thread.join(10)
