"""The course's documents beside the lessons: READMEs, glossary, contributing, platforms, results, recipes.

In: every Markdown file that git keeps, decks apart (``tools.slides`` has those). Out: problems, one line
each: addresses and anchors that lead nowhere, pictures without an alt text, terms without an explanation in
both languages, and halves (``README.md`` and ``README.zh.md``, ``## 中文`` and ``## English``) that differ.
Part of ``python -m tools.lessons check``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tools import addresses, alts, markdown, named, twins
from tools.markdown import Document, Leaf

DECK = re.compile(r"slides/\d\d_[a-z0-9_]+\.md")
HALVES = re.compile(r"^## (中文|English)\s*$", re.M)
# what a program writes into both READMEs, quotations of model output among it, and other remarks
GENERATED = re.compile(r"<!-- (\w+): .*?<!-- /\1 -->|<!--.*?-->", re.S)
LESSON = re.compile(r"第 ?(\d\d?) ?课|\b[Ll]esson (\d\d?)\b|^(\d\d) ")  # a link's words name one
FILE = re.compile(r"[\w.-]+\.(?:md|py|ya?ml|toml|svg|ipynb|sh|css|txt|json|jinja)")
SWITCH = re.compile(r"^.*\]\(README(?:\.zh)?\.md\).*$", re.M)  # the line that leads to the other language


def problems(root: Path) -> list[str]:
    """Everything that is wrong with the documents of the checkout ``root``; empty when nothing is."""
    found = []
    for name in names(root):
        text = (root / name).read_text(encoding="utf-8")
        language = (
            "zh" if name.endswith(".zh.md") else "en" if (root / f"{name[:-3]}.zh.md").is_file() else None
        )
        found += [f"{name}, {what}" for what in _addresses(text, root / name, root, language)]
        found += [f"{name}: {what}" for what in named.unknown(text, root)]
        found += [f"{name}: {what}" for what in _other_language(text, root / name)]
        if "\n| 中文 | English | 意思 | meaning |" in text:
            found += [f"{name}, {what}" for what in glossary(text)]
    return found


def names(root: Path) -> list[str]:
    """The documents, as seen from ``root``."""
    found = addresses.listed(root) or (path.relative_to(root).as_posix() for path in root.rglob("*.md"))
    shown = (name for name in found if name.endswith(".md") and not name.startswith(".") and "/." not in name)
    return sorted(name for name in shown if (root / name).is_file() and not DECK.fullmatch(name))


def _addresses(text: str, file: Path, root: Path, language: str | None) -> Iterator[str]:
    parsed = markdown.parse(text)
    yield from faults(parsed, file, root, language)
    if language is None and len(HALVES.findall(text)) == 2:  # which language a picture's half has
        _, *halves = HALVES.split(text)
        for title, half in zip(halves[::2], halves[1::2], strict=True):
            for image in markdown.parse(half).images:
                what = alts.fault(image.alt, image.address, "zh" if title == "中文" else "en")
                yield from [f"## {title}: {what}"] if what else []
    elif language is None:
        for image in parsed.images:
            what = alts.fault(image.alt, image.address)
            yield from [f"line {image.line}: {what}"] if what else []


def faults(
    parsed: Document, file: Path, root: Path, language: str | None, own: frozenset[str] | None = None
) -> Iterator[str]:
    """Addresses of a text that lead nowhere, links that are none, and, in ``language``, missing alt texts.

    Args:
        file: where the text stands, as its addresses see it. own: the anchors of the whole of it.
    """
    known = frozenset(parsed.anchors) if own is None else own
    for line, address in [*parsed.links, *((image.line, image.address) for image in parsed.images)]:
        what = "" if address.startswith("data:image/") else addresses.fault(address, file, root, known)
        yield from [f"line {line}: {what}"] if what else []
    for line, text in parsed.unresolved:
        yield f"line {line}: {text!r} is no link: its address is missing or not understood"
    for line, words, address in parsed.named:
        what = misnamed(words, address)
        yield from [f"line {line}: {what}"] if what else []
    for line, tag, said in parsed.drawn:
        what = alts.unnamed(tag, said, language)
        yield from [f"line {line}: {what}"] if what else []
    yield from alts.repeated((f"line {image.line}", image.alt, image.address) for image in parsed.images)
    for image in parsed.images if language else []:
        what = alts.fault(image.alt, image.address, language)
        yield from [f"line {image.line}: {what}"] if what else []


def misnamed(words: str, address: str) -> str:
    """Why the words of a link name something else than it leads to: another lesson, another file."""
    path = markdown.parts(address)[0].rpartition("/")[2]
    lesson, said = re.match(r"(\d\d)_\w+\.(?:ipynb|py|md)$", path), LESSON.search(words)
    if lesson and said and int(lesson[1]) != int(said[1] or said[2] or said[3]):
        return f"{words!r} leads to lesson {lesson[1]}"
    name = words.strip().rpartition("/")[2]
    if path and FILE.fullmatch(name) and not markdown.elsewhere(address) and _base(name) != _base(path):
        return f"{words!r} leads to {address}"
    return ""


def _base(name: str) -> str:
    return name.replace(".zh.", ".")


def _other_language(text: str, file: Path) -> Iterator[str]:
    """What differs between two halves of a document, or between ``X.md`` and ``X.zh.md``."""
    other = file.with_name(f"{file.stem}.zh.md")
    if other.is_file():
        theirs = other.read_text(encoding="utf-8")
        yield from differences(theirs, text)
        for name, said, twin in ((file.name, text, other.name), (other.name, theirs, file.name)):
            if file.name == "README.md" and twin not in {link.address for link in markdown.parse(said).links}:
                yield f"{name} does not lead to {twin}"
    titles = HALVES.findall(text)
    if titles:
        if sorted(titles) != ["English", "中文"]:
            yield "it has one of the halves ## 中文 and ## English, not both"
            return
        _, first, one, _, two = HALVES.split(text)
        yield from differences(*((one, two) if first == "中文" else (two, one)))
    elif file.stem.endswith(".zh") and not file.with_name(file.name.replace(".zh.md", ".md")).is_file():
        yield "there is no English twin"


def differences(zh: str, en: str) -> list[str]:
    """What differs between two documents; comments in code may, and what a program wrote into them."""
    written = [Counter(_generated_numbers(text)) for text in (zh, en)]
    zh, en = (SWITCH.sub("", GENERATED.sub("", text)) for text in (zh, en))
    found = [what for what in twins.differences(*_prose(zh, en)) if not what.startswith("inline code")]
    found += _inline_code(*_prose(zh, en))
    code = [[fence[0].splitlines() for fence in twins.FENCE.finditer(text)] for text in (zh, en)]
    if list(map(len, code[0])) != list(map(len, code[1])):
        found.append(f"the pieces of code differ: zh has {len(code[0])}, en {len(code[1])}, or other lines")
    else:
        lines = [(a, b) for one, other in zip(*code, strict=True) for a, b in zip(one, other, strict=True)]
        found += [f"code differs: {a!r} and {b!r}" for a, b in lines if not b.startswith(_command(a))]
        found += [f"a comment is not translated: {a!r}" for a, b in lines if _untranslated(a, b)]
    if written[0] != written[1]:
        only = sorted((written[0] - written[1]) | (written[1] - written[0]))
        found.append(f"numbers that a program wrote differ: {only}")
    return found


def _prose(zh: str, en: str) -> list[str]:
    return [twins.FENCE.sub("", text) for text in (zh, en)]


def _generated_numbers(text: str) -> list[str]:
    return [n for block in GENERATED.finditer(text) for n in twins.numbers(twins.Text(block[0]).prose)]


def _inline_code(zh: str, en: str) -> list[str]:
    """Inline code that one language has alone; a Chinese word stands for whatever the English says there."""
    a, b = ({" ".join(span.split()) for span in twins.Text(text).spans} for text in (zh, en))
    only_zh, only_en = a - b, b - a
    for span in sorted(only_zh):
        pattern = r"[^ /]+".join(map(re.escape, re.split(rf"{twins.CJK.pattern}+", span)))
        like = {other for other in only_en if pattern != re.escape(span) and re.fullmatch(pattern, other)}
        # a hint for one country's mirrors may name a command that the other language does not need
        only_zh -= {span} if like or span.startswith("pip config set ") else set()
        only_en -= like
    return (
        [f"inline code differs: only zh {sorted(only_zh)}, only en {sorted(only_en)}"]
        if only_zh | only_en
        else []
    )


def _untranslated(zh: str, en: str) -> bool:
    """Whether the comment of a line of code is the English one; ``# = make x`` names a command."""
    said, other = (re.search(r"(?:^|\s)#\s+(.*)", line) for line in (zh, en))
    if said is None or other is None or said[1].startswith("=") or twins.HAN.search(said[1]):
        return False
    return len(twins.WORD.findall(said[1])) > 1


def _command(line: str) -> str:
    """A line of code up to its comment or its first Chinese word."""
    return re.split(rf"\s#|^#|[<(\"'《]?{twins.CJK.pattern}", line)[0].rstrip()


def _both_said(text: str) -> Iterator[str]:
    """Headings and lines of prose that a document in both languages at once says in one alone."""
    lines = {True: 0, False: 0}
    for leaf in markdown.parse(text).leaves:
        if re.fullmatch("h[1-6]", leaf.kind):
            if not (twins.HAN.search(leaf.prose) and twins.WORD.search(leaf.prose)):
                yield f"line {leaf.line}: a heading says it in both languages: {leaf.prose.strip()!r}"
        elif leaf.kind == "p":
            for line in filter(str.strip, leaf.prose.splitlines()):
                lines[len(twins.HAN.findall(line)) > len(twins.WORD.findall(line))] += 1
    if lines[True] != lines[False]:
        yield f"{lines[True]} lines of prose are Chinese, {lines[False]} English"


def glossary(text: str) -> Iterator[str]:
    """Terms that lack a name or an explanation in one language, or stand there twice."""
    yield from _both_said(text)
    seen: dict[tuple[int, str], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("| ") or cells[:2] == ["中文", "English"]:
            continue
        if len(cells) != 4 or not all(cells):
            yield f"line {number}: a term needs 中文 | English | 意思 | meaning: {line[:40]!r}"
            continue
        zh, en = (markdown.parse(cell).leaves or [Leaf("p", 1)] for cell in cells[2:])
        told = [*twins.beside(zh[0], en[0]), twins.foreign(zh[0], "zh"), twins.foreign(en[0], "en")]
        told.append(f"Chinese in {cells[1]!r}" if twins.CJK.search(cells[1]) else "")
        english = " " in cells[0] and not twins.HAN.search(cells[0])
        told.append(f"no Chinese in {cells[0]!r}" if english else "")
        told.append("" if twins.HAN.search(cells[2]) else f"no Chinese in {cells[2][:30]!r}")
        yield from (f"line {number} ({cells[1]}): {what}" for what in told if what)
        for column, term in enumerate(cells[:2]):
            before = seen.setdefault((column, term.lower()), number)
            if before != number:
                yield f"line {number}: {term} is explained in line {before} already"
