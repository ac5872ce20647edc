"""Recipes: the settings of a training in a YAML file and on the command line, checked field by field.

In: dataclasses whose fields say in a comment at the end of their line what they are for; a YAML file; words
of a command line. Out: checked values of the right type, a help text that explains every field, and a YAML
file of all settings that a run really had. :mod:`rlhf.train` is made of this; lesson 11 writes recipes.

The comments are the documentation: there is no second place where a field is explained.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import inspect
import math
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from rlhf import plain_yaml
from rlhf.errors import BadRecipe
from rlhf.files import whole_text

FIELD = re.compile(r"^    (\w+): .*?  # (.+)$", re.MULTILINE)
WORDS = {int: "INT", float: "FLOAT", str: "TEXT", bool: "BOOL", type(None): "null", list: "LIST"}
COMMAND_LINE = ("命令行", "command line")


@dataclass(frozen=True)
class Field:
    """One setting: its name, type, default, and the comment that explains it."""

    name: str
    kind: Any
    default: Any
    doc: str


def known_fields(*classes: type, without: Iterable[str] = ()) -> dict[str, Field]:
    """Every field of these dataclasses by name; where two have the same, the first one's."""
    found: dict[str, Field] = {}
    for cls in classes:
        hints, docs = get_type_hints(cls), _comments(cls)
        for field in fields(cls):
            if field.name in found or field.name in without:
                continue
            default = field.default if field.default is not MISSING else field.default_factory()
            found[field.name] = Field(field.name, hints[field.name], default, docs[field.name])
    return found


@functools.cache
def _comments(cls: type) -> dict[str, str]:
    """The comment behind every field, those of base classes included."""
    parents = (parent for parent in reversed(cls.__mro__) if hasattr(parent, "__dataclass_fields__"))
    return {name: doc for parent in parents for name, doc in FIELD.findall(inspect.getsource(parent))}


# ------------------------------------------------------------------------------------------------- reading


def read_file(path: str | Path, known: Mapping[str, Field]) -> dict[str, Any]:
    """The settings of a recipe file, checked.

    Raises:
        BadRecipe: no such file, no YAML, or a field that does not exist or has a value of another type.
    """
    path = Path(path)
    try:
        found = plain_yaml.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        others = ", ".join(sorted(map(str, path.parent.glob("*.yaml")))) or "-"
        raise BadRecipe(
            f"读不到配方 {path}（{error.strerror}）。那里有：{others}",
            f"Cannot read the recipe {path} ({error.strerror}). There are: {others}",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadRecipe(f"{path} 不是合法的 YAML：{error}", f"{path} is no valid YAML: {error}") from error
    if not isinstance(found or {}, dict):
        raise BadRecipe(
            f"{path} 应当是 field: value 的形式，一行一个字段。", f"{path} should hold lines of field: value."
        )
    return check(found or {}, known, str(path))


def check(
    values: Mapping[str, Any], known: Mapping[str, Field], where: str | tuple[str, str]
) -> dict[str, Any]:
    """``values`` with the types that their fields ask for. ``where`` they come from, a file or in both
    languages, is for the error."""
    where = (where, where) if isinstance(where, str) else where
    for name in values:
        if name not in known:
            raise _unknown(str(name), known, where)
    return {name: _typed(value, known[name], where) for name, value in values.items()}


def _typed(value: Any, field: Field, where: tuple[str, str]) -> Any:
    kinds = _kinds(field.kind)
    for kind in kinds:
        converted = _convert(value, kind)
        if converted is not MISSING:
            return converted
    wanted = _kind_words(field)
    raise BadRecipe(
        f"{where[0]}：字段 {field.name} 的值 {value!r} 不对，应当是 {wanted}。（{field.doc}）",
        f"{where[1]}: the field {field.name} cannot be {value!r}; it takes {wanted}. ({field.doc})",
    )


def _kinds(hint: Any) -> tuple:
    """The alternatives of a type hint, ``None`` first and text last, so that no word is taken too early."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(sorted(kinds, key=lambda kind: (kind is not type(None), kind is str)))


def _convert(value: Any, kind: Any) -> Any:
    """``value`` as ``kind``, or MISSING. Words of a command line are read as their kind asks."""
    text = isinstance(value, str)
    if kind is type(None):
        return None if value is None or (text and value.lower() in ("null", "none")) else MISSING
    if kind is bool:
        words = {"true": True, "yes": True, "false": False, "no": False}
        return value if isinstance(value, bool) else words.get(value.lower(), MISSING) if text else MISSING
    if kind is str:
        return value if text else MISSING
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            return MISSING
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return MISSING
        if not math.isfinite(number):
            return MISSING
        return number if kind is float else int(number) if number.is_integer() else MISSING
    if get_origin(kind) is list:
        try:
            parts = plain_yaml.parse(value) if text and value.startswith("[") else value
        except yaml.YAMLError:
            return MISSING
        if not isinstance(parts, (list, tuple)):
            return MISSING
        converted = [_convert(part, get_args(kind)[0]) for part in parts]
        return MISSING if MISSING in converted else converted
    raise TypeError(f"a recipe cannot hold {kind}")


def _kind_words(field: Field) -> str:
    return "|".join(WORDS[get_origin(kind) or kind] for kind in reversed(_kinds(field.kind)))


def _unknown(name: str, known: Mapping[str, Field], where: tuple[str, str]) -> BadRecipe:
    close = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(known)
    return BadRecipe(
        f"{where[0]}：没有名为 {name} 的字段{f'，是不是 {close[0]}？' if close else '。'}可用的字段见下。",
        f"{where[1]}: there is no field {name}{f'; did you mean {close[0]}?' if close else '.'} There are:"
        f"\n  {listed}",
    )


# -------------------------------------------------------------------------------------------- command line


class Parser(argparse.ArgumentParser):
    """Says what is wrong in both languages instead of printing the usage of forty options."""

    def error(self, message: str) -> None:
        raise BadRecipe(
            f"命令行有误：{message}（--help 列出全部字段）", f"{message} (--help lists all fields)"
        )


def parse_words(
    words: Sequence[str], known: Mapping[str, Field], program: str, about: str, now: Mapping[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    """``(recipe file or None, settings)`` from ``--config FILE``, ``--field value``, ``--set field=value``.

    ``--help`` prints ``about`` and every field with its default, or with the value in ``now`` that replaces
    it, and leaves. Raises BadRecipe as :func:`check` does.
    """
    parser = Parser(
        prog=program,
        usage=f"{program} [--config FILE] [--FIELD VALUE ...]",
        description=about,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=32, width=110
        ),
    )
    parser.add_argument("--config", metavar="FILE", help="a recipe: a YAML file with any of the fields below")
    parser.add_argument(
        "--set", metavar="FIELD=VALUE", action="append", default=[], help="the same as --FIELD VALUE"
    )
    group = parser.add_argument_group("fields")
    for field in known.values():
        shown = f"{field.doc} [{_inline(now.get(field.name, field.default))}]".replace("%", "%%")
        group.add_argument(
            f"--{field.name}", metavar=_kind_words(field), default=argparse.SUPPRESS, help=shown
        )
    words = [re.sub(r"^--[\w-]+", lambda m: "--" + m[0][2:].replace("-", "_"), word) for word in words]
    given, rest = parser.parse_known_args(words)
    if rest and rest[0].startswith("--"):
        raise _unknown(rest[0].lstrip("-").split("=")[0], known, COMMAND_LINE)
    if rest:
        parser.error(f"unexpected: {' '.join(rest)}")
    values = {name: value for name, value in vars(given).items() if name not in ("config", "set")}
    for pair in given.set:
        name, equals, value = pair.partition("=")
        if not equals:
            parser.error(f"--set {pair}: FIELD=VALUE")
        values[name.strip().replace("-", "_")] = value.strip()
    return given.config, check(values, known, COMMAND_LINE)


# ------------------------------------------------------------------------------------------------- writing


def write_file(path: Path, values: Mapping[str, Any], known: Mapping[str, Field], head: str) -> Path:
    """All settings as a recipe that explains itself, and that can be given to ``--config`` again."""
    lines = [f"# {line}" for line in head.splitlines()]
    lines += [f"{name}: {_inline(value)}  # {known[name].doc}" for name, value in values.items()]
    return whole_text(path, "\n".join(lines) + "\n")


def _inline(value: Any) -> str:
    """A value as YAML writes it, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], free: Iterable[str] = ()) -> list[str]:
    """Every field in which two recipes differ, as ``name: saved → now``; those in ``free`` may."""
    names = [name for name in now if name not in set(free)]
    return [f"{n}: {saved.get(n)} → {now[n]}" for n in names if saved.get(n) != now[n]]
