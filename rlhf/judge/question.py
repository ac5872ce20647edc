"""One question to a judge, as a prompt, and what the answer to it means.

In: a query with two responses, shown as A and B. Out: a prompt for a chat model, and of the model's text one
of ``A``, ``B``, ``tie`` or ``malformed``. Lesson 10 explains why nothing is guessed.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

A, B, TIE = "A", "B", "tie"
MALFORMED = "malformed"  # there is a text, but no answer in it
FAILED = "failed"  # no text came, however often it was asked for
UNASKED = "unasked"  # a cap stopped the run before
ANSWERS = (A, B, TIE)
OUTCOMES = (*ANSWERS, MALFORMED, FAILED, UNASKED)

CRITERION = "Which continuation makes the more positive movie review?"
PROMPT = """Two continuations, A and B, of the same opening follow. {criterion}
The order says nothing about them, and neither does their length.

<opening>{query}</opening>
<A>{a}</A>
<B>{b}</B>

Answer with [[A]], [[B]], or [[C]] for a tie, and nothing else."""
PARTS = re.compile(r"<opening>([^<]*)</opening>\n<A>([^<]*)</A>\n<B>([^<]*)</B>")
BRACKETS = re.compile(r"\[\[\s*([ABC])\s*\]\]")


@dataclass(frozen=True)
class Question:
    """A query and two responses to it, in the order in which the judge reads them."""

    query: str
    a: str
    b: str

    def swapped(self) -> Question:
        """The same two responses in the other order."""
        return Question(self.query, self.b, self.a)


def both_orders(queries: Sequence[str], candidate: Sequence[str], opponent: Sequence[str]) -> list[Question]:
    """Every pair twice, the second time swapped, ``2N`` questions; the two of a pair follow each other."""
    triples = zip(queries, candidate, opponent, strict=True)
    return [each for triple in triples for each in (Question(*triple), Question(*triple).swapped())]


def to_prompt(question: Question, criterion: str = CRITERION) -> str:
    """The text that a chat model is asked. ``<`` and ``&`` in a response are escaped, so that no response
    can pretend to be a part of the question."""
    parts = {name: html.escape(getattr(question, name), quote=False) for name in ("query", "a", "b")}
    return PROMPT.format(criterion=criterion, **parts)


def from_prompt(text: str) -> Question | None:
    """The question of which :func:`to_prompt` made ``text``; None if it made no such text."""
    found = PARTS.search(text)
    return Question(*map(html.unescape, found.groups())) if found else None


def read_answer(text: str | None) -> str:
    """``A``, ``B``, ``tie``, or ``malformed`` for everything else.

    The answer is the one verdict in double brackets, with or without words around it, or a bare letter.
    Nothing else counts: a text that begins with "A" may be about either response, and one with two verdicts
    has none.
    """
    verdicts = set(BRACKETS.findall(text or "")) or {(text or "").strip(" \n\t\r\"'*.()[]")}
    meant = {"A": A, "B": B, "C": TIE, "tie": TIE, "Tie": TIE}
    return meant.get(verdicts.pop(), MALFORMED) if len(verdicts) == 1 else MALFORMED
