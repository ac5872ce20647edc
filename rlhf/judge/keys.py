"""Where an endpoint's key comes from: ``OPENAI_API_KEY``, or the file ``openai.key`` that git ignores.

In: the endpoint's address. Out: the key. It is never printed, logged, cached or part of an error.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from rlhf.judge import faults
from rlhf.profiles import CHECKOUT

VARIABLE, FILE = "OPENAI_API_KEY", CHECKOUT / "openai.key"
NONE_NEEDED = "none-needed"  # what a server on this machine is sent when there is no key


def find_key(base_url: str | None = None, file: Path | None = None) -> str:
    """The key for ``base_url``. A server on this machine usually needs none, so for it there is always one.

    Raises:
        MissingKey: there is none, it does not look like one, or git tracks ``file``.
    """
    file = FILE if file is None else Path(file)
    if os.environ.get(VARIABLE, "").strip():
        return checked(os.environ[VARIABLE], VARIABLE)
    if file.is_file():
        if _tracked(file):
            raise faults.tracked_key(file)
        try:
            return checked(file.read_text(encoding="utf-8"), file.name)
        except (OSError, UnicodeDecodeError) as error:
            raise faults.unreadable_key(file, type(error).__name__) from None  # its text may hold the key
    if base_url is not None and is_local(base_url):
        return NONE_NEEDED
    raise faults.no_key(file)


def is_local(url: str) -> bool:
    """Is that address on this machine?"""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def checked(text: str, where: str) -> str:
    """``text`` without the white space around it. Raises MissingKey unless it looks like a key."""
    key = text.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise faults.strange_key(where)
    return key


def _tracked(file: Path) -> bool:
    command = ["git", "-C", str(file.parent), "ls-files", "--error-unmatch", "--", file.name]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:  # without git nothing is tracked
        return False
