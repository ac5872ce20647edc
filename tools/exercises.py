"""Are a lesson's exercises open, and their solutions nowhere but in their own cells?

In: a lesson's notebook. Out: problems, one line each: how many exercises, each with its grader and a folded
solution; an exercise that holds its answer already; a solution or a grader that some other cell gives away.
What an edition for students must not hold: ``tools.leaks``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from nbformat import NotebookNode

from tools.notebooks import tags, texts

COUNT = range(3, 6)
TELLING = 6  # characters, white space aside, of a line of a solution that would tell something
GIVEN_AWAY = 0.8  # of a solution's lines in one other cell; a bug hunt shows up to so many, and the bug
LINE = 25  # characters of a line of a solution that its exercise must not hold
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
GRADER_LINE = 25  # characters of a line by which a grader is known
FRAME = ("def", "@", "#", '"""', "import", "from", "checks.", "print(", "return{")  # lines without an answer
OPEN_SIGN, PASSED_SIGN, FAILED_SIGN = "○", "✓", "✗"


def problems(notebook: NotebookNode, name: str) -> Iterator[str]:
    """What is wrong with the exercises of a lesson as it is written."""
    code = [(index, cell) for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    exercises = [place for place, (_, cell) in enumerate(code) if "exercise" in tags(cell)]
    if len(exercises) not in COUNT:
        yield f"{len(exercises)} exercises; there are {COUNT.start} to {COUNT.stop - 1}"
    for number, place in enumerate(exercises, 1):
        index, cell = code[place]
        call = f"checks.e{name[:2]}_{number}("
        follower = code[place + 1][1] if place + 1 < len(code) else None
        if call not in cell.source:
            yield f"cell {index}: exercise {number} does not call {call}…)"
        if not _has_gap(cell.source):
            yield f"cell {index}: exercise {number} is answered already: leave `...` where the answer goes"
        if follower is None or "solution" not in tags(follower):
            yield f"cell {index}: exercise {number} is not followed by a solution cell"
            continue
        if call not in follower.source or ".must_pass()" not in follower.source:
            yield f"cell {index}: the solution of exercise {number} does not call {call}…).must_pass()"
        if not follower.metadata.get("jupyter", {}).get("source_hidden"):
            yield f"cell {index}: the solution of exercise {number} is not hidden (jupyter source_hidden)"
    if sum("solution" in tags(cell) for _, cell in code) != len(exercises):
        yield "every solution belongs to one exercise"


def answered(notebook: NotebookNode) -> Iterator[str]:
    """Exercises whose kept output is a verdict on an answer, and solutions that did not pass."""
    for index, cell in enumerate(notebook.cells):
        signs = {text.lstrip()[:1] for output in cell.get("outputs", []) for text in texts(output)}
        if "exercise" in tags(cell) and signs & {PASSED_SIGN, FAILED_SIGN}:
            yield f"cell {index}: the output of the exercise is a verdict on an answer; it is kept open"
        if "solution" in tags(cell) and signs & {OPEN_SIGN, FAILED_SIGN}:
            yield f"cell {index}: the output of the solution says that it did not pass"


def given_away(notebook: NotebookNode, graders: Path) -> Iterator[str]:
    """Solutions and graders that can be read in other cells: code, text, comments, outputs.

    Args:
        graders: the module of this lesson's graders; it need not exist.
    """
    shown = [_everything(cell) for cell in notebook.cells]
    solutions = [index for index, cell in enumerate(notebook.cells) if "solution" in tags(cell)]
    shapes = [_shapes(cell) for cell in notebook.cells]
    for number, own in enumerate(solutions, 1):
        pieces = [
            telling(piece) for piece in (notebook.cells[own].source, *_functions(notebook.cells[own].source))
        ]
        for index, text in enumerate(shown):
            if index in solutions:
                continue
            told = any(
                sum(line in text for line in lines) > GIVEN_AWAY * len(lines) for lines in pieces if lines
            )
            if told or shapes[own] & shapes[index]:
                yield f"cell {index}: gives away the solution of exercise {number} (cell {own})"
    for index, cell in enumerate(notebook.cells):
        plain = cell.cell_type == "code" and not {"exercise", "solution"} & set(tags(cell))
        if plain and re.search(r"\bchecks\.e\d\d_\d\(", cell.source):
            yield f"cell {index}: calls a grader, and is neither exercise nor solution"
        if "exercise" in tags(cell) and index + 1 in solutions:
            lines = [_bare(line) for line in telling(notebook.cells[index + 1].source)]
            found = [line for line in lines if len(line) >= LINE and line in shown[index]]
            yield from [f"cell {index}: the exercise shows its solution: {found[0][:50]!r}"] if found else []
    secret = _grader_lines(graders)
    for index, cell in enumerate(notebook.cells):
        if re.search(
            r"getsource\(\s*checks\b|\brlhf\.checks\.lesson|\brlhf\.checks import lesson", cell.source
        ):
            yield f"cell {index}: prints the source of a grader"
        found = [line for line in secret if line in shown[index]] if index not in solutions else []
        if len(found) > 1:  # a formula of one line may be the same
            yield f"cell {index}: shows {len(found)} lines of {graders.name}, such as {found[0][:50]!r}"


def telling(source: str) -> list[str]:
    """The lines of a solution that hold its answer, without white space."""
    lines = (squeezed(line) for line in source.splitlines())
    return [line for line in lines if len(line) >= TELLING and not line.startswith(FRAME)]


def squeezed(text: str) -> str:
    return "".join(text.split()).replace("'", '"')


def _bare(line: str) -> str:
    return line.partition("#")[0].removeprefix("return")


def _functions(source: str) -> list[str]:
    """The functions of a cell, each by itself."""
    return [ast.get_source_segment(source, node) or "" for node in _defined(source)]


def _defined(source: str) -> list[ast.FunctionDef]:
    try:
        return [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    except SyntaxError:
        return []


def _shapes(cell: NotebookNode) -> set[str]:
    """The functions of a cell, of code or of text, whatever their names are called."""
    pieces = [cell.source] if cell.cell_type == "code" else FENCE.findall(cell.source)
    return {_renamed(node) for piece in pieces for node in _defined(piece)}


def _renamed(function: ast.FunctionDef) -> str:
    """A function with its own names numbered in the order in which they come, and without its docstring."""
    names: dict[str, str] = {}
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    tree = ast.parse(ast.unparse(ast.FunctionDef("f", function.args, body, [], None, lineno=0)))
    for node in ast.walk(tree):
        key = {ast.Name: "id", ast.arg: "arg"}.get(type(node))
        if key:
            setattr(node, key, names.setdefault(getattr(node, key), f"n{len(names)}"))
        if isinstance(node, ast.arg):
            node.annotation = None
    return ast.dump(tree)


def _grader_lines(graders: Path) -> list[str]:
    if not graders.is_file():
        return []
    lines = map(squeezed, graders.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if len(line) >= GRADER_LINE and not line.startswith(FRAME)]


def _has_gap(source: str) -> bool:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return True  # what is no Python is found elsewhere
    return any(isinstance(node, ast.Constant) and node.value is Ellipsis for node in ast.walk(tree))


def _everything(cell: NotebookNode) -> str:
    outputs = (text for output in cell.get("outputs", []) for text in texts(output))
    return squeezed("\n".join([cell.source, *outputs, str(cell.get("attachments", ""))]))
