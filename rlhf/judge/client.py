"""One prompt to one reply over HTTP, through the official ``openai`` client, with every failure named.

In: a prompt. Out: a :class:`Reply`, or why there is none; what would befall every other prompt is raised. The
client retries timeouts, 408, 409, 429 and 5xx, each time after a longer wait, or as long as the server asks
(Retry-After).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from rlhf.judge import faults
from rlhf.judge.keys import is_local


@dataclass(frozen=True)
class Reply:
    """What an endpoint sent: a text, and the tokens of prompt and answer as it counted them, if it did."""

    text: str
    tokens_in: int | None = None
    tokens_out: int | None = None


@dataclass(frozen=True)
class Attempt:
    """How one question went: a reply or the reason why there is none, and how often it was asked again."""

    reply: Reply | None
    retries: int
    why: str = ""


class Client:
    """Asks one endpoint; safe to share between threads. ``with client:`` opens and closes its connections.

    Args:
        key: sent with every request, shown nowhere.
        timeout: seconds to wait for an answer. retries: of one prompt.
        requests_per_minute: retries included; None for no limit.
    """

    def __init__(
        self, base_url: str, key: str, timeout: float, retries: int, requests_per_minute: float | None
    ):
        self.base_url, self._key = base_url, key
        self.timeout, self.retries = timeout, retries
        self.gap = 60 / requests_per_minute if requests_per_minute else 0.0
        self.reached = False  # has it ever answered?
        self._next, self._lock, self._openai = 0.0, threading.Lock(), None

    @property
    def shown_url(self) -> str:
        """The address without a user name, a password or a query."""
        address = urlsplit(self.base_url)
        return address._replace(netloc=address.netloc.rpartition("@")[2], query="").geturl()

    def __enter__(self) -> Client:
        import openai

        # Every request waits for its turn, retries too. A proxy that the environment names cannot see this
        # machine's own servers, so none is asked for those.
        web = openai.DefaultHttpxClient(
            event_hooks={"request": [lambda request: self._wait()]}, trust_env=not is_local(self.base_url)
        )
        self._openai = openai.OpenAI(
            api_key=self._key,
            base_url=self.base_url,
            timeout=self.timeout,
            max_retries=self.retries,
            http_client=web,
        )
        return self

    def __exit__(self, *_) -> None:
        self._openai.close()

    def ask(self, model: str, prompt: str, settings: Mapping[str, Any]) -> Attempt:
        """Put ``prompt`` to ``model``.

        Raises:
            NoEndpoint: wrong address, unknown model, refused key, no credit, settings that are not accepted.
        """
        import openai

        create = self._openai.chat.completions.with_raw_response.create
        try:
            raw = create(model=model, messages=[{"role": "user", "content": prompt}], **settings)
            completion = raw.parse()
            text, used = completion.choices[0].message.content or "", completion.usage
            counted = (used.prompt_tokens, used.completion_tokens) if used is not None else ()
        except openai.APITimeoutError:
            return Attempt(None, self.retries, f"timeout after {self.timeout:g} s")
        except openai.APIStatusError as error:
            return self._status(model, error)
        except openai.APIResponseValidationError:
            raise faults.not_an_api(self.shown_url) from None
        except openai.APIConnectionError as error:
            why = type(error.__cause__ or error).__name__
            if not self.reached:
                raise faults.unreachable(self.shown_url, why) from None
            return Attempt(None, self.retries, why)
        except (ValueError, AttributeError, IndexError, TypeError):  # a web page, or JSON of another kind
            raise faults.not_an_api(self.shown_url) from None
        self.reached = True
        return Attempt(Reply(text, *counted), raw.retries_taken)

    def _status(self, model: str, error: Any) -> Attempt:
        """What an HTTP status of 400 or more means."""
        status, said = error.status_code, " ".join(str(error.message).split())[:200]
        if status in (401, 403):
            raise faults.refused(self.shown_url, status) from None  # what it says may quote the key
        if error.code == "insufficient_quota":
            raise faults.no_credit(self.shown_url) from None
        if status == 404:
            known = self._models()
            if known is None:
                raise faults.not_an_api(self.shown_url) from None
            if model not in known:
                raise faults.no_model(self.shown_url, model, known) from None
        if status < 500 and status not in (408, 409, 429):
            if not self.reached:
                raise faults.rejected(self.shown_url, status, said.replace(self._key, "***")) from None
            return Attempt(None, 0, f"HTTP {status}")
        return Attempt(None, self.retries, f"HTTP {status}")

    def _models(self) -> list[str] | None:
        """The models that the endpoint says it has; None if it does not say."""
        import openai

        with contextlib.suppress(openai.OpenAIError, ValueError, TypeError, AttributeError):
            return sorted(model.id for model in self._openai.models.list())
        return None

    def _wait(self) -> None:
        """Return when the rate limit permits the next request."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self.gap
        time.sleep(turn - now)
