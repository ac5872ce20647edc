"""Errors a reader can act on: what is wrong and what to do next, in Chinese and in English.

Every module raises these instead of letting a dependency's traceback through. Commands catch
:class:`CourseError`, print it to stderr and leave with exit code 2.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator


class CourseError(Exception):
    """One message in both languages. ``str(error)`` is the Chinese line, then the English line."""

    told_by: int | None = None  # of several processes that all raise it, the one that prints it
    printed = False  # that has been done: rlhf.launched

    def __init__(self, zh: str, en: str):
        self.zh, self.en = zh, en
        super().__init__(f"{zh}\n{en}")

    def __reduce__(self) -> tuple:
        return type(self), (self.zh, self.en)  # so that another process can raise it


class MissingAssets(CourseError, FileNotFoundError):
    """A model or a data set is not on this machine; the message names the command that gets it."""

    __str__ = Exception.__str__


class BadProfile(CourseError, ValueError):
    """A profile that does not exist, or a profile file with a wrong field."""


class BadData(CourseError, ValueError):
    """A data set that cannot be trained on: wrong columns, no rows, one class, empty or non-text reviews."""


class BadRollout(CourseError, ValueError):
    """Queries, responses or scores that cannot be trained on; raised before anything is updated."""


class BadRecipe(CourseError, ValueError):
    """A recipe or a command line with a field that does not exist or cannot have that value."""


class BadState(CourseError, ValueError):
    """A saved training state that is damaged or of another run, or a moment at which none can be saved."""


class CannotWrite(CourseError, OSError):
    """No space, no permission, or a read-only folder; nothing half-written is left behind."""

    __str__ = Exception.__str__


class CannotServe(CourseError):
    """A port of this machine is taken or must not be used, or a server did not start."""


@contextlib.contextmanager
def reading(kind: type[CourseError], zh: str, en: str) -> Iterator[None]:
    """What the model libraries raise in this block for missing, damaged or unknown files, as a ``kind``.
    ``{reason}`` in the two messages stands for the first line of theirs."""
    from safetensors import SafetensorError

    try:
        yield
    except CourseError:
        raise
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise kind(zh.replace("{reason}", reason), en.replace("{reason}", reason)) from error


def command(main: Callable[[], int | None]) -> Callable[[], int]:
    """Wrap a command's ``main``: a :class:`CourseError` becomes two lines on stderr and exit code 2."""

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except CourseError as error:
            if not error.printed:
                print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("已停止。\nStopped.", file=sys.stderr)
            return 130

    return run
