"""Do the Chinese and the English cell say the same?

In: two pieces of markdown. Out: the differences that a machine can see: headings, numbers, formulas, links,
images, code, lists and tables; and, paragraph by paragraph, whether each is in its language and as long as
its twin. Whether the words agree is for readers.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

from tools import markdown
from tools.markdown import Leaf

CJK = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\u3000-\u303f\uff00-\uffef]")
FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.M | re.S)
SPAN = re.compile(r"(`+)(.+?)\1", re.S)
MATH = re.compile(r"\$\$.+?\$\$|(?<![\\$])\$(?![\s$])[^$]+?(?<![\s\\])\$", re.S)
IMAGE = re.compile(r"!\[[^\]]*\]\(\s*([^)\s]+)[^)]*\)|<img[^>]*?src=[\"']([^\"']+)[\"'][^>]*>")
LINK = re.compile(r"\[([^\]]*)\]\(\s*([^)\s]+)[^)]*\)|<(https?://[^>]+)>|(https?://[^\s)>\]，。；、）]+)")
HEADING = re.compile(r"^(#{1,6})\s+(\d+(?:\.\d+)*(?=[\s.、，]))?", re.M)
NUMBER = re.compile(r"(?:(?<![\w)\]}.-])-)?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)", re.A)
MINUS = str.maketrans({"−": "-", "–": "~", "—": "~"})  # a dash between numbers is a range, not a sign
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
MONTH = re.compile(rf"\b({'|'.join(MONTHS)})(?= \d{{4}}\b)")  # September 2026 = 2026 年 9 月

HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
WORD = re.compile(r"[A-Za-z][A-Za-z'’-]+")
ORDINARY = re.compile(r"(?<![\w./-])[A-Z]?[a-z]{2,}(?![\w/-]|\.\w)")  # no name such as GPT, no file's
BEGINNING = re.compile(r"[A-Z][a-z]+ \S+ (?:\S+ )*?[a-z]{2,}|[A-Z][a-z]+ (?:\S+ )*?[a-z]{2,} \S")  # 3 words
PAIR = re.compile(r"(?<![\w./-])[a-z]{2,} [a-z]{2,}(?![\w/-])")
# words that make an English sentence: one of them beside two others, and somebody forgot to translate
GLUE = {"the", "is", "are", "was", "were", "be", "that", "this", "which", "we", "it", "its", "you", "they"}
GLUE |= {"will", "can", "has", "have", "does", "do", "not"}
ASIDE = re.compile(r"（[^（）]*）|\([^()]*\)|“[^”]*”|\"[^\"]*\"|「[^」]*」")  # terms and quotations
FILE = re.compile(r"[\w./-]+\.[a-z]{2,5}\b")
SENTENCE = 6  # so many English words in a row are one
# Chinese characters per English word; measured in the course: 0.44 to 2.5, in long paragraphs 0.75 to 2.4
SHORT, LONG = (12, 0.42, 20, 3.0), (25, 0.7, 40, 2.6)


class Text:
    """One markdown cell taken apart. ``prose`` is what is left without code, formulas and addresses."""

    def __init__(self, markdown_text: str):
        self.fences = [re.sub(r"\s+$", "", m[0], flags=re.M) for m in FENCE.finditer(markdown_text)]
        text = FENCE.sub(" ", markdown_text)
        self.spans = [m[2].strip() for m in SPAN.finditer(text)]
        text = SPAN.sub(" ", text)
        self.formulas = ["".join(m[0].split()) for m in MATH.finditer(text)]
        text = MATH.sub(" ", text)
        text = IMAGE.sub(" ", text)
        parsed = markdown.parse(markdown_text)
        self.images = [image.address for image in parsed.images]
        self.links = [link.address for link in parsed.links]
        self.links += [m[4].rstrip(".,;:") for m in LINK.finditer(text) if m[4]]  # bare ones
        self.plain = LINK.sub(" ", text)
        self.prose = LINK.sub(lambda m: m[1] or " ", text)

    @property
    def headings(self) -> list[tuple[int, str]]:
        return [(len(m[1]), m[2] or "") for m in HEADING.finditer(self.prose)]

    @property
    def numbers(self) -> list[str]:
        return numbers(self.prose)

    @property
    def shape(self) -> dict[str, int]:
        """How many list items and table rows there are."""
        lines = self.prose.splitlines()
        return {
            "list items": sum(bool(re.match(r"\s*([-*+]|\d+[.)])\s", line)) for line in lines),
            "table rows": sum(line.lstrip().startswith("|") for line in lines),
        }


def numbers(prose: str) -> list[str]:
    """The numbers in a text, as both languages would write them: ``20,000`` → ``20000``."""
    text = unicodedata.normalize("NFKC", prose.replace("，", "， ")).translate(MINUS)
    text = MONTH.sub(lambda month: str(MONTHS.index(month[0]) + 1), text)
    return [number.replace(",", "") for number in NUMBER.findall(text)]


def differences(zh: str, en: str) -> list[str]:
    """What differs between two twin cells, one line each; empty when they agree."""
    a, b = Text(zh), Text(en)
    found = []
    if a.headings != b.headings:
        found.append(f"headings differ: zh {a.headings}, en {b.headings}")
    for what in ("numbers", "formulas", "fences"):
        found += _difference(what, Counter(getattr(a, what)), Counter(getattr(b, what)))
    for what in ("links", "images"):
        found += _difference(what, *(Counter(map(_address, getattr(text, what))) for text in (a, b)))
    found += _difference("inline code", Counter(set(a.spans)), Counter(set(b.spans)))
    for what, count in a.shape.items():
        if count != b.shape[what]:
            found.append(f"{what} differ: zh {count}, en {b.shape[what]}")
    if not CJK.search(a.prose):
        found.append("the zh cell holds no Chinese")
    for what in ("formulas", "fences"):  # the same in both, so in the English cell
        shown = "".join(CJK.findall("".join(getattr(b, what))))
        found += [f"Chinese in the {what} of both cells: {shown[:20]}"] if shown else []
    if CJK.search(b.plain):
        found.append(f"the en cell holds Chinese characters: {''.join(CJK.findall(b.plain))[:20]}")
    return [*found, *paragraphs(zh, en, any(" differ" in what for what in found))]


def paragraphs(zh: str, en: str, known: bool = False) -> Iterator[str]:
    """What is wrong with the paragraphs, headings and table cells of two twins, one beside the other.

    Args:
        known: the caller has said already that the two are built differently.
    """
    a, b = markdown.parse(zh), markdown.parse(en)
    if a.structure != b.structure or len(a.leaves) != len(b.leaves):
        if not known:
            count = Counter(a.structure), Counter(b.structure)
            yield from _difference("blocks", *count) or ["the blocks stand in another order"]
    else:
        for one, other in zip(a.leaves, b.leaves, strict=True):
            yield from beside(one, other)
    for language, parsed in (("zh", a), ("en", b)):
        for leaf in parsed.leaves:
            what = foreign(leaf, language)
            if what:
                yield f"{language}, line {leaf.line}: {what}"
        for line, text in parsed.unresolved:
            yield f"{language}, line {line}: {text!r} is no link: its address is missing or not understood"


def beside(zh: Leaf, en: Leaf) -> Iterator[str]:
    """What a piece of prose and its twin do not both say: no English, one much longer, other numbers."""
    where = f"line {en.line} ({' '.join(en.prose.split())[:30]!r})"
    characters, words = len(HAN.findall(zh.prose)), len(WORD.findall(en.prose))
    if characters > 1 and not re.search("[A-Za-z]", en.prose):
        yield f"{where}: the English is missing"
    elif _too_long(words, characters, 0) or _too_long(characters, words, 2):
        yield f"{where}: {characters} Chinese characters against {words} English words: one says more"
    if Counter(numbers(zh.prose)) != Counter(numbers(en.prose)):
        yield from _difference(f"{where}: numbers", Counter(numbers(zh.prose)), Counter(numbers(en.prose)))


def _too_long(one: int, other: int, side: int) -> bool:
    """Whether ``one`` says more than ``other``; side 0: ``one`` is English words, 2: Chinese characters."""
    for bounds in (SHORT, LONG):
        least, ratio = bounds[side : side + 2]
        if one >= least and (other < ratio * one if side == 0 else one > ratio * other):
            return True
    return False


def foreign(leaf: Leaf, language: str) -> str:
    """Why a piece of prose is not in ``language``, or nothing."""
    if language == "en":
        text = "".join(CJK.findall(leaf.words))[:20]
        return f"Chinese in English text: {text}" if text else ""
    said = ASIDE.sub(lambda aside: aside[0] if _sentence(aside[0]) else " ", leaf.prose)
    said = FILE.sub(" ", said)
    ordinary = (PAIR if leaf.kind == "td" else ORDINARY).search(said)
    if ordinary and not leaf.cited and not HAN.search(leaf.prose):
        return f"not translated: {leaf.prose.strip()[:40]!r}"
    for run in re.split(rf"{CJK.pattern}|[|\n]", said):
        words = WORD.findall(run)
        glued = len(words) > 2 and any(word in GLUE for word in words)
        begun = not leaf.cited and leaf.kind != "td" and BEGINNING.match(run.strip())
        if glued or begun or (_sentence(run) and sum(word.islower() for word in words) > 2):
            return f"not translated: {run.strip()[:60]!r}"
    return ""


def _sentence(text: str) -> bool:
    return len(WORD.findall(text)) >= SENTENCE


def _difference(what: str, a: Counter, b: Counter) -> list[str]:
    if a == b:
        return []
    only_zh, only_en = sorted((a - b).elements()), sorted((b - a).elements())
    return [f"{what} differ: only zh {only_zh}, only en {only_en}"]


def _address(address: str) -> str:
    """An address without what may differ by language: ``.zh`` in a file name, a heading's anchor."""
    head, mark, _ = address.partition("#")
    return re.sub(r"\.(zh|en)(?=\.)", "", head) + mark
