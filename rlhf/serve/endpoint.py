"""An OpenAI-compatible server over model folders, as a process of its own that stops with whoever started it.

In: one or several models, as folders or as names under ``output/``. Out: a :class:`Server` with the address
and the models' names for any OpenAI client. Lesson 11 uses it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rlhf import profiles
from rlhf.errors import CannotServe, CannotWrite
from rlhf.serve.folders import Served, prepare

HOST = "127.0.0.1"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
GRACE = 10.0  # seconds to stop in before it is killed
LOCAL = urllib.request.build_opener(
    urllib.request.ProxyHandler({})
)  # no proxy sees this machine's own servers


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        base_url: for ``openai.OpenAI(base_url=…, api_key="none")``. models: names to ask for, in order.
        served: the folders behind them. process: the server itself. log: what it said.
    """

    base_url: str
    served: tuple[Served, ...]
    process: subprocess.Popen
    log: Path

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.served)

    @property
    def model(self) -> str:
        """The name of the first model, for where there is only one."""
        return self.models[0]


@contextlib.contextmanager
def running(
    *models: str | Path,
    port: int = 0,
    device: str | None = None,
    wait: float = 900.0,
    log: Path | None = None,
) -> Iterator[Server]:
    """Serve ``models`` on this machine alone while the block runs, by ``transformers serve``.

    Args:
        models: folders, names under ``output/``, or ``profile`` for the profile's policy. The first two to
            have the same name are told apart by a number.
        port: by default a free one. device: default: ``RLHF_DEVICE``, else a GPU where there is one.
        wait: seconds that loading may take. log: default: ``output/serve/server.log``.

    Raises:
        MissingAssets, BadModel: see :func:`rlhf.serve.folders.prepare`. CannotServe: the port is taken, or
            the server did not start. CannotWrite: the log.
    """
    folders = [find(model) for model in models]
    device = device or profiles.pick_device()
    log = log or profiles.make_folder(profiles.root() / "output" / "serve") / "server.log"
    with tempfile.TemporaryDirectory(prefix="rlhf-serve-") as place, contextlib.ExitStack() as stack:
        names = distinct([folder.name for folder in folders])
        served = tuple(
            prepare(folder, Path(place), name) for folder, name in zip(folders, names, strict=True)
        )
        port = free_port(port)
        process = stack.enter_context(_started([place, "--port", str(port), "--device", device], log))
        root = f"http://{HOST}:{port}"
        until = time.monotonic() + wait
        _wait_until_up(root, process, log, until)
        for one in served:
            _load(root, one.name, process, log, until)
        yield Server(f"{root}/v1", served, process, log)


def find(model: str | Path) -> Path:
    """The folder of a model; ``profile`` is the profile's policy. Raises MissingAssets with the next step."""
    from rlhf.train import find_model

    return find_model(str(model), profiles.root() / profiles.read()["policy"])


def distinct(names: Sequence[str]) -> list[str]:
    """Names for URLs and folders, no two alike: ``policy``, ``policy-2``."""
    made: list[str] = []
    for name in names:
        plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".") or "model"
        ways = itertools.chain([plain], (f"{plain}-{number}" for number in itertools.count(2)))
        made.append(next(way for way in ways if way not in made))
    return made


def free_port(port: int = 0, host: str = HOST) -> int:
    """``port`` if nobody listens there, for 0 any free one. Raises CannotServe."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return probe.getsockname()[1]
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CannotServe(
            f"{host} 的端口 {port} 打不开（{reason}）。换一个：--port，0 表示任选一个空闲的。",
            f"Port {port} of {host} cannot be opened ({reason}). Choose another with --port; "
            "0 is any free one.",
        ) from None


@contextlib.contextmanager
def _started(words: list[str], log: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "rlhf.serve.engine", *words]
    path = os.pathsep.join(filter(None, (str(profiles.CHECKOUT), os.environ.get("PYTHONPATH"))))
    with _open(log) as file:
        file.write(f"$ {shlex.join(command)}\n".encode())
        file.flush()
        process = subprocess.Popen(
            command,
            env={**os.environ, **OFFLINE, "PYTHONPATH": path},
            stdin=subprocess.PIPE,  # it stops when this ends, however we end
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us; we stop it
        )
    try:
        yield process
    finally:
        process.stdin.close()
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _open(log: Path) -> IO[bytes]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("wb")
    except OSError as error:
        raise CannotWrite(
            f"无法写入 {log}：{error.strerror}", f"Cannot write {log}: {error.strerror}"
        ) from error


def _wait_until_up(root: str, process: subprocess.Popen, log: Path, until: float) -> None:
    while True:
        with contextlib.suppress(OSError), LOCAL.open(f"{root}/health", timeout=5):
            return
        _still_waiting(process, log, until)
        time.sleep(0.1)


def _load(root: str, name: str, process: subprocess.Popen, log: Path, until: float) -> None:
    """Have a model loaded before anybody asks for it. The server reports progress as events."""
    body = json.dumps({"model": name}).encode()
    request = urllib.request.Request(f"{root}/load_model", body, {"Content-Type": "application/json"})
    event = {}
    try:
        with LOCAL.open(request, timeout=max(until - time.monotonic(), 1)) as events:
            for line in events:
                if line.startswith(b"data: "):
                    event = json.loads(line[6:])
    except OSError:
        _still_waiting(process, log, until)
    if event.get("status") != "ready":
        reason = str(event.get("message", "?")).strip().split("\n")[0][:300]
        raise _failed(f"{name}: {reason}", log)


def _still_waiting(process: subprocess.Popen, log: Path, until: float) -> None:
    """Raises CannotServe if there is nothing to wait for any more."""
    if process.poll() is not None:
        raise _failed(f"exit code {process.returncode}", log)
    if time.monotonic() > until:
        raise _failed("it took too long", log)


def _failed(reason: str, log: Path) -> CannotServe:
    last = "\n".join(log.read_text(encoding="utf-8", errors="replace").strip().split("\n")[-5:])
    return CannotServe(
        f"服务没有启动：{reason}。它的日志 {log} 的最后几行在下面。",
        f"The server did not start: {reason}. The last lines of its log, {log}:\n{last}",
    )
