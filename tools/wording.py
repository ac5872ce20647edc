"""What a lesson says of its folded solutions, said as it is right in a copy for a class.

In: a lesson's text in one language. Out: the same text for students, who have no solutions, or for teachers,
who have them open; and the sentences that speak of solutions as if they were still there, or still folded.
"""

from __future__ import annotations

import re

from tools import markdown

SAID = {
    "zh": (
        (
            re.compile(
                r"参考答案(?:在每题后面折叠着|折叠在每题后面)|每题后面(?:藏|折叠)着一个参考答案，点开就能看"
            ),
            {"student": "参考答案在老师那里", "teacher": "参考答案在每题后面，学生版里没有"},
        ),
        (re.compile(r"点开参考答案"), {"student": "向老师要参考答案", "teacher": "看后面的参考答案"}),
    ),
    "en": (
        (
            re.compile(
                r"\ba solution is (?:hidden|folded(?: away)?) after each exercise(?:; click to open it)?",
                re.I,
            ),
            {
                "student": "your teacher has the solutions",
                "teacher": "a solution follows each exercise; students' copies have none",
            },
        ),
        (
            re.compile(r"\bopen the solution\b"),
            {"student": "ask your teacher for the solution", "teacher": "look at the solution"},
        ),
    ),
}
SENTENCE = {"zh": re.compile(r"[。！？；\n]"), "en": re.compile(r"(?<=[.!?;])\s|\n")}
SPEAKS = {  # of a solution, as of something at hand
    "zh": re.compile(r"参考答案|题解|答案(?:见|就?在)(?:上|下|前|后|文末|附录|每题|折叠|单元格)"),
    "en": re.compile(
        r"(?<!closed-form )(?<!closed form )(?<!exact )(?<!numerical )\bsolutions?\b"
        r"|\banswers? (?:is|are|stands?|follows?)\b[^.;]*\b(?:above|after|below|folded|hidden|next|end)\b",
        re.I,
    ),
}
ASKS = {"zh": re.compile(r"老师|教师"), "en": re.compile(r"\bteachers?\b", re.I)}
FOLDED = {
    "zh": re.compile(r"(?:点开|折叠|藏着).*答案|答案.*(?:点开|折叠|藏着)"),
    "en": re.compile(
        r"\bsolutions?\b.*\b(?:fold\w*|hidden|click|unfold)\b|\b(?:click|open|unfold)\b.*\bsolutions?\b", re.I
    ),
}


def said_for(edition: str, text: str, language: str) -> str:
    """``text`` of a lesson with what it says of folded solutions put right for ``edition``."""
    for pattern, words in SAID[language]:
        text = pattern.sub(lambda match, words=words: _as_begun(match[0], words[edition]), text)
    return text


def _as_begun(said: str, words: str) -> str:
    return words[0].upper() + words[1:] if said[0].isupper() else words


def misleading(edition: str, text: str, language: str) -> list[str]:
    """Sentences that send a student to a solution that is not there, or a teacher to a folded one."""
    sentences = [
        sentence.strip()
        for leaf in markdown.parse(text).leaves
        for sentence in SENTENCE[language].split(leaf.words)
    ]
    if edition == "teacher":
        return [sentence for sentence in sentences if FOLDED[language].search(sentence)]
    return [
        sentence
        for sentence in sentences
        if SPEAKS[language].search(sentence) and not ASKS[language].search(sentence)
    ]
