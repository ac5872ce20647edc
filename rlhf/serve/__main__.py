"""The command ``python -m rlhf.serve``: two models, an OpenAI-compatible server, a page that compares."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
import webbrowser
from collections.abc import Iterator, Sequence
from types import FrameType

from rlhf import errors
from rlhf.serve.page import LOCAL, comparing

PORT = 8770


@errors.command
def main(words: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or a signal to stop; nothing keeps running behind it."""
    asked = _parser().parse_args(words)
    print("正在载入模型…… · loading the models …", flush=True)
    places = {"port": asked.port, "host": asked.host, "device": asked.device}
    with _signals_stop(), comparing(asked.before, asked.after, asked.reward, **places) as page:
        pair, server = page.pair, page.pair.server
        print(f"{pair.before.name} | {pair.after.name} · reward {pair.reward_name} · log {server.log}")
        print(f"OpenAI-compatible: {server.base_url} · models {', '.join(server.models)}")
        if asked.host not in LOCAL:
            print("注意：同一网络里的任何人都能打开这个页面。 Anyone in this network can open the page.")
        print(f"page: {page.url} · Ctrl-C", flush=True)
        if asked.open:
            webbrowser.open(page.url)
        threading.Event().wait()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rlhf.serve", description=__doc__)
    model = "a folder, a name under output/, or profile"
    parser.add_argument(
        "before", nargs="?", default="profile", help=f"{model} (the profile's policy, default)"
    )
    parser.add_argument("after", nargs="?", default="ppo_3", help=f"{model} (default: ppo_3)")
    parser.add_argument("--reward", default="profile", help=f"{model} (the profile's reward model, default)")
    parser.add_argument("--port", type=int, default=PORT, help=f"of the page (default {PORT}; 0: a free one)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="whom the page listens to (default: this machine)"
    )
    parser.add_argument("--device", help="cpu, cuda, … (default: RLHF_DEVICE, else a GPU if there is one)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    return parser


@contextlib.contextmanager
def _signals_stop() -> Iterator[None]:
    """A signal to end does while the block runs what Ctrl-C does, so that what was started is stopped."""
    names = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(name, _stop) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
