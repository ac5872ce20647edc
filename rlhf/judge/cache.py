"""Answers on disk: nothing is paid for twice, and a run that was stopped goes on where it was.

In: what an answer depends on (model, endpoint, prompt, settings). Out: the text that came back. One small
file per answer, written whole or not at all, under the SHA-256 of what it depends on. Lesson 10 uses it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf.files import whole_text
from rlhf.judge import faults
from rlhf.judge.client import Reply


class Cache:
    """A folder of answers; None keeps nothing."""

    def __init__(self, folder: str | Path | None):
        self.folder = None if folder is None else Path(folder)

    def get(self, facts: Mapping[str, Any]) -> Reply | None:
        """The reply to ``facts``, or None. Raises BadCache for a file that cannot be read."""
        if self.folder is None:
            return None
        file = self._file(facts)
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            reply = Reply(**record["reply"])
            if record["facts"] != facts or not isinstance(reply.text, str):
                raise ValueError("it answers something else")
            return reply
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise faults.unreadable_cache(file, f"{type(error).__name__}: {error}"[:120]) from None

    def put(self, facts: Mapping[str, Any], reply: Reply) -> None:
        """Raises CannotWrite: no space or no permission."""
        if self.folder is not None:
            record = {"facts": facts, "reply": asdict(reply)}
            whole_text(self._file(facts), json.dumps(record, ensure_ascii=False, indent=1) + "\n")

    def _file(self, facts: Mapping[str, Any]) -> Path:
        mark = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return self.folder / mark[:2] / f"{mark}.json"
