"""``transformers serve`` over folders that :mod:`rlhf.serve.folders` made, with what it leaves open closed.

In: the folder that holds them, and a port. Out: a server on this machine, until the standard input ends, so
that it never outlives who started it. :mod:`rlhf.serve.endpoint` runs it. What is added to the command:

- A prompt with its answer may be longer than the model has positions (without ``max_tokens``, 1024 tokens are
  asked for): answers end there, with ``finish_reason`` ``length``; a prompt without room for any gets a 400.
- Any path and any name on the hub could be asked for: only the models in the folder are here, and listed.
- What a request has wrong gets a 400 that says so, not a 500.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PATIENCE = 3.0  # seconds for what is being answered when the server is told to stop
WRONG = (ValueError, TypeError, KeyError, AttributeError, OverflowError, IndexError)


def main(words: Sequence[str] | None = None) -> int:
    """The command ``python -m rlhf.serve.engine``."""
    parser = argparse.ArgumentParser(prog="python -m rlhf.serve.engine", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args(words)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    names = sorted(path.name for path in asked.folder.iterdir())
    from transformers.cli.transformers import app

    list_only(names)
    stay_within_positions()
    explain_bad_requests()
    os.chdir(asked.folder)  # so that a model's name is its path
    address = ("--host", "127.0.0.1", "--port", str(asked.port))
    app(["serve", *address, "--device", asked.device, "--model-timeout", "-1"])
    return 0


def _stop_with_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(0)


def list_only(names: Sequence[str]) -> None:
    """Serve these models and no others."""
    from fastapi import HTTPException
    from transformers.cli.serving.model_manager import ModelManager

    usual = ModelManager.process_model_name

    def known(model_id: str) -> str:
        if model_id not in names:
            raise HTTPException(404, f"There is no model {model_id!r} here; there are: {', '.join(names)}")
        return usual(model_id)

    entries = [{"id": name, "object": "model", "owned_by": "rlhf", "created": 0} for name in names]
    ModelManager.process_model_name = staticmethod(known)
    ModelManager.get_gen_models = staticmethod(lambda cache_dir=None: entries)


def stay_within_positions() -> None:
    """Every answer ends where the model's positions end."""
    from fastapi import HTTPException
    from transformers import GenerationMixin

    usual = GenerationMixin.generate

    @functools.wraps(usual)
    def generate(self, *args: Any, input_ids: Any, generation_config: Any, **others: Any) -> Any:
        tokens = input_ids.shape[-1]  # (1, Q)
        limit = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        if tokens == 0:
            raise HTTPException(400, "The prompt has no tokens")
        if limit is not None:
            if tokens >= limit:
                raise HTTPException(
                    400, f"The prompt has {tokens} tokens, and the model reads {limit}: no room for an answer"
                )
            generation_config.max_new_tokens = min(generation_config.max_new_tokens, limit - tokens)
        try:
            return usual(self, *args, input_ids=input_ids, generation_config=generation_config, **others)
        except ValueError as error:  # settings that cannot be, such as a negative temperature
            raise HTTPException(400, " ".join(str(error).replace('"', "'").split())) from error

    GenerationMixin.generate = generate


def explain_bad_requests() -> None:
    """A request that a handler chokes on gets a 400 with the reason, and the log gets the traceback. Errors
    are written as OpenAI writes them, else its clients show a number and no reason."""
    import traceback

    from fastapi import HTTPException, Request
    from fastapi.responses import JSONResponse
    from transformers.cli.serving import server

    usual: Callable = server.build_server

    def answer(status: int, message: str) -> JSONResponse:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        return JSONResponse({"error": {"message": message, "type": kind, "code": None}}, status_code=status)

    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail))

    async def choked(request: Request, error: Exception) -> JSONResponse:
        traceback.print_exception(error)
        return answer(400, f"{type(error).__name__}: {error}")

    @functools.wraps(usual)
    def build(*args: Any, **settings: Any) -> Any:
        app = usual(*args, **settings)
        app.add_exception_handler(HTTPException, refused)
        for kind in WRONG:
            app.add_exception_handler(kind, choked)
        return app

    server.build_server = build


if __name__ == "__main__":
    sys.exit(main())
