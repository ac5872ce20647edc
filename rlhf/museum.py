"""A museum of architectures without weights: published configurations, built on the meta device.

In: ``museum.yaml``, which holds what the repositories' ``config.json`` say and what was published about the
number of parameters. Out: models without storage, a table that compares them, and small copies with the same
architecture that really run. No download, and no code of a repository. Lesson 01::

    model = museum.build("llama-2-7b")     # 6.7 billion parameters, no memory, a tenth of a second
    museum.table()                         # block order, norm, positions, attention, FFN or GLU, …
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch
from torch import nn

from rlhf import anatomy, plain_yaml
from rlhf.errors import CourseError

CATALOGUE = Path(__file__).with_name("museum.yaml")


class NoExhibit(CourseError, KeyError):
    """A model that the museum does not have."""

    __str__ = Exception.__str__


@dataclass(frozen=True)
class Exhibit:
    """One published model: its configuration, and what was published about its size.

    Attributes:
        config: fields of ``config.json`` under their own names. renamed: what transformers calls some of
            them. small: other sizes for the same architecture.
        published: parameters, tied weights once. source: who published that number.
        file: ``bytes`` of the published weight files and ``each``, the bytes per number; may be empty.
    """

    name: str
    title: str
    year: int
    family: str
    repo: str
    revision: str
    cls: str
    config: Mapping[str, Any]
    small: Mapping[str, Any]
    published: int
    source: str
    renamed: Mapping[str, str] = field(default_factory=dict)
    file: Mapping[str, int] = field(default_factory=dict)

    def fields(self, small: bool = False) -> dict[str, Any]:
        """The configuration as the model's class wants it; ``small`` replaces the sizes."""
        fields = {**self.config, **(self.small if small else {})}
        return {self.renamed.get(key, key): value for key, value in fields.items()}


@functools.cache
def exhibits() -> Mapping[str, Exhibit]:
    """Every exhibit by its name, in the order of the catalogue."""
    rows = plain_yaml.parse(CATALOGUE.read_text(encoding="utf-8"))
    cards = {name: Exhibit(name=name, cls=row.pop("class"), **row) for name, row in rows.items()}
    return MappingProxyType(cards)


def names() -> list[str]:
    """What the museum shows: ``["gpt2", "opt-125m", …]``."""
    return list(exhibits())


def card(name: str) -> Exhibit:
    """One exhibit. Raises NoExhibit, with the names there are, for one that is not in the catalogue."""
    if name not in exhibits():
        known = ", ".join(names())
        raise NoExhibit(
            f"博物馆里没有 {name!r}；有：{known}。", f"The museum has no {name!r}; it has: {known}."
        )
    return exhibits()[name]


def build(name: str, *, small: bool = False, **changes: Any) -> nn.Module:
    """The model of an exhibit, in evaluation mode.

    By default in full size on the meta device: every tensor has a shape and a type, none has storage.
    ``small`` builds the small copy on the CPU with random weights that are the same at every call.
    ``changes`` replaces fields of the configuration, to ask what would be if.
    """
    exhibit = card(name)
    fields = exhibit.fields(small) | changes
    with torch.device("cpu" if small else "meta"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _construct(exhibit.cls, fields).eval()


def _construct(cls: str, fields: dict[str, Any]) -> nn.Module:
    """A class of ours takes its own configuration; one of transformers names its configuration class."""
    if cls.startswith("rlhf."):
        module = importlib.import_module(cls.rpartition(".")[0])
        return getattr(module, cls.rpartition(".")[2])(module.ChatGLMConfig(**fields))
    import transformers

    model_class = getattr(transformers, cls)
    return model_class(model_class.config_class(**fields))


@functools.cache
def _shown(name: str) -> nn.Module:
    """The full-size model that the tables look at; nothing changes it, and it takes no storage."""
    return build(name)


@functools.cache
def _passed(name: str) -> tuple[list[anatomy.Step], object]:
    return anatomy.first_block(_shown(name))


def steps(name: str) -> list[anatomy.Step]:
    """What the first block of an exhibit calls, in calling order; measured once, in full size."""
    return list(_passed(name)[0])


@functools.cache
def facts(name: str) -> anatomy.Anatomy:
    """The numbers of an exhibit, in full size; measured once."""
    return anatomy.Anatomy.read(_shown(name), *_passed(name))


def block_order(name: str) -> str:
    """Where the norms stand, from two measurements: the order of the calls, and whether the stream passes.

    A block that multiplies its output along with its input has a residual stream that no norm touches:
    pre-LN. A block that does not is post-LN; if its first call is a norm all the same, the residual starts
    behind that norm, as in DeepNorm.
    """
    model = build(name, small=True)
    if anatomy.highway(model) > 30:
        return "pre-LN"
    first = anatomy.first_block(model)[0][0]
    return "post-LN (DeepNorm)" if first.kind == "norm" else "post-LN"


def describe(name: str) -> dict[str, str]:
    """One row of :func:`table`; but for the pad token, every entry is measured on the model."""
    model, pad = _shown(name), card(name).config.get("pad_token_id")
    measured, shared = facts(name), anatomy.tied(model)
    return {
        "model": card(name).title,
        "block order": block_order(name),
        "norm": measured.norm,
        "position": anatomy.positions(model, measured.head_dim),
        "attention": measured.attention,
        "FFN or GLU": f"{'GLU' if measured.gated else 'FFN'} ({measured.hidden} → {measured.ffn})",
        "activation": anatomy.ACTIVATIONS.get(measured.activation, measured.activation),
        "tied head": {True: "yes", False: "no", None: "no LM head"}[shared],
        "pad token": "none" if pad is None else str(pad),
    }


def table(which: Sequence[str] | None = None) -> pd.DataFrame:
    """How the exhibits differ, one row each."""
    return pd.DataFrame([describe(name) for name in which or names()]).set_index("model")


def shares(which: Sequence[str] | None = None) -> pd.DataFrame:
    """Where the parameters are: the share of every kind, one row per exhibit; rows add up to 1."""
    kinds = {card(name).title: anatomy.by_kind(_shown(name)) for name in which or names()}
    frame = pd.DataFrame(kinds).T
    return frame.div(frame.sum(axis=1), axis=0)


def counts(which: Sequence[str] | None = None) -> pd.DataFrame:
    """Counted against published parameters, and the repository whose configuration was built."""
    rows = []
    for name in which or names():
        exhibit, counted = card(name), anatomy.count(_shown(name))
        rows.append((exhibit.title, exhibit.year, exhibit.repo, counted, exhibit.published))
    columns = ["model", "year", "configuration of", "counted", "published"]
    return pd.DataFrame(rows, columns=columns).set_index("model")
