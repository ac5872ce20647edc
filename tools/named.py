"""What texts and programs say: files, modules and targets that they name, messages in both languages.

In: the checkout. Out: problems, one line each: a path of the course, ``python -m`` or ``make`` in the code of
a Markdown text that names nothing; an error or a grader's message whose Chinese or English is missing.
Part of ``python -m tools.lessons check``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from rlhf import errors
from tools import addresses, twins

FOLDERS = "rlhf|tools|tests|figs|slides|lessons|notebooks|profiles|recipes|benchmarks|site|dataset/offline"
PATH = re.compile(rf"(?:{FOLDERS})/(?:[\w.-]+/)*[\w.-]*")
PLACEHOLDER = re.compile(r"NN|\b[A-Z]+\.yaml|…|\.\.\.|name|topic|yours")
MENTIONED = re.compile(rf"(?<![\w/.{{}}-])(?:{FOLDERS})/[\w./-]+\.(?:md|py|yaml|ipynb|svg|sh)\b")
MODULE = re.compile(r"\bpython3? -m ((?:rlhf|tools)(?:\.\w+)*)")
TARGET = re.compile(r"^(?:\w+=\S+ )*make ([a-z][a-z-]*)\b(?!=)")
ERRORS = {
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
}
ERRORS |= {"Wrong"}


def unknown(text: str, root: Path) -> Iterator[str]:
    """Files, modules and targets that the code of a Markdown text names and the course does not have."""
    if not (root / "Makefile").is_file():
        return
    parsed = twins.Text(text)
    spans = [" ".join(span.split()) for span in parsed.spans]
    lines = [line.strip() for fence in parsed.fences for line in fence.splitlines()]
    for span in spans:
        path = span.rstrip("/")
        if PATH.fullmatch(span) and not PLACEHOLDER.search(span) and addresses.missing(root, path):
            yield f"`{span}` does not exist"
    for line in [*spans, *lines]:
        for name in MODULE.findall(line):
            place = root / name.replace(".", "/")
            if not (place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()):
                yield f"python -m {name}: there is no such program"
        target = TARGET.match(line)
        if target and target[1] not in _targets(root):
            yield f"make {target[1]}: there is no such target"


@lru_cache(maxsize=4)
def _targets(root: Path) -> frozenset[str]:
    return frozenset(re.findall(r"^([\w-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.M))


def mentions(root: Path) -> Iterator[str]:
    """Files of the course that programs and recipes name in words and that do not exist."""
    for path in sorted([*(root / "rlhf").rglob("*.py"), *(root / "recipes").rglob("*.yaml")]):
        for name in MENTIONED.findall(path.read_text(encoding="utf-8")):
            if not PLACEHOLDER.search(name) and addresses.missing(root, name):
                yield f"{path.relative_to(root).as_posix()}: {name} does not exist"


def messages(root: Path) -> Iterator[str]:
    """Errors and graders' verdicts of the package that are not Chinese first, then English."""
    for path in sorted((root / "rlhf").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            pair = _pair(node, "checks" in path.parts)
            if pair and not (twins.HAN.search(pair[0]) and not twins.HAN.search(pair[1])):
                place = f"{path.relative_to(root).as_posix()}, line {node.lineno}"
                yield f"{place}: not Chinese, then English: {pair[0][:40]!r}, {pair[1][:40]!r}"


def _pair(node: ast.AST, grader: bool) -> list[str] | None:
    """The two texts of an error that is made here, or of what a grader returns."""
    if isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        said = node.args[:2] if name in ERRORS and len(node.args) >= 2 else []
    else:
        returned = node.value if grader and isinstance(node, ast.Return) else None
        said = returned.elts if isinstance(returned, ast.Tuple) and len(returned.elts) == 2 else []
    texts = [_text(part) for part in said]
    return texts if len(texts) == 2 and all(re.search(r"[^\W\d_]{2}", text) for text in texts) else None


def _text(node: ast.AST) -> str:
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(
        part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )
