"""Before/after tables with their statistics: the closing table of every lesson.

In: queries, the responses of two policies and their rewards. Out: a :class:`Report` that shows itself in a
notebook, in HTML (light and dark pages) and in one line of text, and that saves itself to a lesson's output
folder; :func:`page` gathers the saved ones. Lesson 00 explains the table, lesson 07 its interval; lesson 10
asks what it cannot tell. Curves and token heat maps live in :mod:`rlhf.pictures` and are exported from here.
"""

from __future__ import annotations

import datetime
import html
import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from rlhf.errors import BadData, BadRollout
from rlhf.files import whole_text
from rlhf.pictures import Html, LiveCurves, curves, tint, token_heat

__all__ = [
    "PROMPTS_EXPECTED",
    "Html",
    "LiveCurves",
    "Report",
    "before_after",
    "bootstrap_gain",
    "curves",
    "distinct_n",
    "load",
    "page",
    "run_meta",
    "token_heat",
]

PROMPTS_EXPECTED = 16  # fewer prompts than this say little; the table then carries a mark
BLOCK = 2_000_000  # draws per block of the bootstrap, so that many prompts do not fill the memory


def bootstrap_gain(
    before: Sequence[float],
    after: Sequence[float],
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Mean of ``after - before`` over the same prompts, with a percentile bootstrap interval.

    Prompts are drawn with replacement, and each drawn prompt brings its own difference with it: the pairs
    stay together, so a prompt that is easy for both policies adds no noise. (Efron and
    Tibshirani 1993, chapter 13.)

    Returns:
        ``(mean, low, high)``; the same seed gives the same interval.

    Raises:
        BadRollout: different lengths, no prompts, NaN or inf.
    """
    gains = _numbers(after, "after") - _numbers(before, "before", length=len(after))
    n, rng = len(gains), np.random.default_rng(seed)
    block = max(1, BLOCK // n)
    means = [
        gains[rng.integers(n, size=(min(block, resamples - done), n))].mean(axis=1)
        for done in range(0, resamples, block)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(gains.mean()), float(low), float(high)


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Different n-grams divided by all n-grams, over whitespace-separated tokens of all ``texts`` together.

    N-grams do not cross from one text into the next. 1 means that nothing repeats; texts with fewer than
    ``n`` tokens add nothing; no n-gram at all gives 0. It falls as texts grow in number or length, so only
    compare equally many texts of equal length. (Li et al. 2016, "A Diversity-Promoting Objective Function".)
    """
    grams = [gram for text in texts for gram in zip(*(text.split()[i:] for i in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else 0.0


@dataclass
class Report:
    """A before/after comparison on the same prompts. Built by :func:`before_after`, shown as it is.

    Attributes:
        table: one row per prompt: query, response (before), response (after), reward (before), reward (after)
            and, where a second judge was given, its two columns.
        stats: one row per statistic; columns before, after, gain, low, high (the bootstrap interval).
        numbers: the same statistics under flat names (``reward_mean_after``, ``reward_gain_low``, ``kl``, …).
        meta: how the run came about: lesson, profile, seed, device, hardware, seconds, date.
        show: how many rows the HTML shows, from the top; None shows all. The statistics are over all of them.
    """

    table: pd.DataFrame
    stats: pd.DataFrame
    numbers: dict[str, float]
    title: str = ""
    names: tuple[str, str] = ("before", "after")
    judge_name: str | None = None
    level: float = 0.95
    meta: dict = field(default_factory=dict)
    show: int | None = None

    @property
    def gain(self) -> tuple[float, float, float]:
        """Paired mean gain of the reward: ``(mean, low, high)``."""
        return tuple(self.numbers[f"reward_gain{part}"] for part in ("", "_low", "_high"))

    @property
    def judge_gain(self) -> tuple[float, float, float] | None:
        """The same for the second judge; None without one."""
        if self.judge_name is None:
            return None
        return tuple(self.numbers[f"judge_gain{part}"] for part in ("", "_low", "_high"))

    @property
    def enough(self) -> bool:
        """Whether there are at least 16 prompts, as every closing table of the course needs."""
        return len(self.table) >= PROMPTS_EXPECTED

    def summary(self) -> str:
        """The whole comparison in one line of text."""
        n = self.numbers
        parts = [
            f"reward {n['reward_mean_before']:.3f} → {n['reward_mean_after']:.3f}",
            "gain {:+.3f} [{:+.3f}, {:+.3f}]".format(*self.gain),
        ]
        if self.judge_name is not None:
            parts.append("{} {:+.3f} [{:+.3f}, {:+.3f}]".format(self.judge_name, *self.judge_gain))
        if "kl" in n:
            parts.append(f"KL {n['kl']:.2f}")
        parts.append(f"distinct-2 {n['distinct_2_before']:.2f} → {n['distinct_2_after']:.2f}")
        parts.append(
            f"{len(self.table)} prompts" + ("" if self.enough else f" (fewer than {PROMPTS_EXPECTED})")
        )
        return " · ".join(parts)

    def __repr__(self) -> str:
        return f"{self.title + ': ' if self.title else ''}{self.summary()}"

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_html(self) -> str:
        """The table, its statistics and where they come from, as one piece of HTML."""
        heading = f"<p><b>{html.escape(self.title)}</b></p>" if self.title else ""
        body = self._stats_html() + self._table_html() + self._foot()
        return f'{CSS}<div class="rlhf-report">{heading}{body}</div>'

    def save(self, folder: Path | str) -> Path:
        """Write ``table.json`` and ``table.html`` into ``folder``, each whole or not at all.

        Raises:
            CannotWrite: no space, no permission, or ``folder`` is a file.
        """
        folder = Path(folder)
        document = PAGE.format(title=html.escape(self.title or "before / after"), body=self.to_html())
        whole_text(
            folder / "table.json", json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)
        )
        whole_text(folder / "table.html", document)
        return folder

    def to_dict(self) -> dict:
        """Plain values that JSON can hold; NaN becomes None."""
        return {
            "title": self.title,
            "names": list(self.names),
            "judge_name": self.judge_name,
            "level": self.level,
            "show": self.show,
            "meta": {key: _plain(value) for key, value in self.meta.items()},
            "numbers": {key: _plain(value) for key, value in self.numbers.items()},
            "stats": _records(self.stats.reset_index()),
            "table": _records(self.table),
        }

    def _table_html(self) -> str:
        texts, rewards = list(self.table.columns[:3]), list(self.table.columns[3:])
        limits = {name: self.table[name].abs().max() for name in rewards}
        for left, right in zip(rewards[::2], rewards[1::2], strict=True):  # one scale per judge
            limits[left] = limits[right] = max(limits[left], limits[right])
        rows = []
        for _, row in self.table.head(len(self.table) if self.show is None else self.show).iterrows():
            cells = [f'<td class="text">{html.escape(str(row[name]))}</td>' for name in texts]
            cells += [
                f'<td class="num" style="background:{tint(row[name], limits[name])}">{row[name]:.3f}</td>'
                for name in rewards
            ]
            rows.append(f"<tr>{''.join(cells)}</tr>")
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.table.columns)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"

    def _stats_html(self) -> str:
        rows = []
        for name, row in self.stats.iterrows():
            label = html.escape(name) + f' <span class="zh">{html.escape(_chinese(name))}</span>'
            cells = "".join(f'<td class="num">{_shown(name, value)}</td>' for value in row)
            rows.append(f"<tr><th>{label}</th>{cells}</tr>")
        head = "".join(f"<th>{html.escape(str(name))}</th>" for name in self.stats.columns)
        return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"

    def _foot(self) -> str:
        notes = []
        if not self.enough:
            notes.append(
                f"⚠ 只有 {len(self.table)} 个提示（至少要 {PROMPTS_EXPECTED} 个），不足以下结论。"
                f" · Only {len(self.table)} prompts, not {PROMPTS_EXPECTED} or more: too few."
            )
        if self.show is not None and self.show < len(self.table):
            n = len(self.table)
            notes.append(
                f"显示 {n} 个提示中的前 {self.show} 个 · The first {self.show} of {n} prompts are shown."
            )
        facts = [f"{key} {_fact(value)}" for key, value in self.meta.items() if value is not None]
        if facts:
            notes.append(" · ".join(facts))
        return "".join(f'<p class="note">{html.escape(note)}</p>' for note in notes)


def before_after(
    queries: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
    reward_before: Sequence[float],
    reward_after: Sequence[float],
    *,
    judge_before: Sequence[float] | None = None,
    judge_after: Sequence[float] | None = None,
    judge_name: str = "second judge",
    kl: Sequence[float] | float | None = None,
    title: str = "",
    names: tuple[str, str] = ("before", "after"),
    meta: Mapping | None = None,
    show: int | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Report:
    """Compare two policies on the same prompts.

    Args:
        queries, before, after: texts, one per prompt (``before`` and ``after`` without the query).
        reward_before, reward_after: one score per prompt, e.g. the raw logit of POSITIVE; tensors are fine.
        judge_before, judge_after: scores of a second judge that took no part in training, both or neither.
        judge_name: what its columns are called.
        kl: KL of the ``after`` policy to the reference, summed over each response, in nats; one number per
            response, or their mean.
        title: heading of the table.
        names: what the two columns stand for, if not "before" and "after".
        meta: where the numbers come from; see :func:`run_meta`.
        show: how many rows the HTML shows; all of them count and are saved.
        level, resamples, seed: of the bootstrap interval.

    Raises:
        BadRollout: lists of different lengths, no prompts, NaN or inf in a score, half a second judge.
    """
    n = _check_texts(queries, before, after)
    if (judge_before is None) != (judge_after is None):
        raise BadRollout("第二个评判需要两列分数。", "A second judge needs both of its columns.")
    columns = {"query": list(queries)}
    columns |= {f"response ({name})": list(texts) for name, texts in zip(names, (before, after), strict=True)}
    judges = [("reward", "reward", reward_before, reward_after)]
    if judge_before is not None:
        judges.append(("judge", judge_name, judge_before, judge_after))
    numbers, rows = {}, {}
    for key, shown, old, new in judges:
        old, new = _numbers(old, f"{shown} ({names[0]})", n), _numbers(new, f"{shown} ({names[1]})", n)
        columns[f"{shown} ({names[0]})"], columns[f"{shown} ({names[1]})"] = old, new
        gain = bootstrap_gain(old, new, resamples, seed, level)
        numbers |= _judge_numbers(key, old, new, gain)
        rows[f"{shown}: mean"] = (old.mean(), new.mean(), *gain)
        rows[f"{shown}: median"] = (np.median(old), np.median(new), np.median(new) - np.median(old))
    diversity = distinct_n(before), distinct_n(after)
    numbers |= {"distinct_2_before": diversity[0], "distinct_2_after": diversity[1], "prompts": n}
    rows["distinct-2"] = (*diversity, diversity[1] - diversity[0])
    if kl is not None:
        numbers["kl"] = float(_numbers(kl if np.ndim(kl) else [kl], "KL", n if np.ndim(kl) else 1).mean())
        rows["KL to the reference"] = (math.nan, numbers["kl"])
    rows["prompts"] = (n, n)
    stats = pd.DataFrame(
        [list(row) + [math.nan] * (5 - len(row)) for row in rows.values()],
        index=pd.Index(rows, name="statistic"),
        columns=[*names, "gain", f"{level:.0%} low", f"{level:.0%} high"],
        dtype=float,
    )
    judge = judge_name if judge_before is not None else None
    meta = dict(meta or {})
    return Report(pd.DataFrame(columns), stats, numbers, title, tuple(names), judge, level, meta, show)


def run_meta(setup=None, started: float | None = None, **more) -> dict:
    """Where a table's numbers come from: lesson, profile, seed, device, hardware, seconds, date.

    Args:
        setup: what :func:`rlhf.profiles.setup` returned.
        started: ``time.perf_counter()`` at the start of the lesson, for the seconds it took.
        more: further facts; they win over the ones found here.
    """
    device = str(getattr(setup, "device", "cpu"))
    facts = {
        "lesson": getattr(setup, "lesson", None),
        "profile": getattr(setup, "profile", None),
        "seed": getattr(setup, "seed", None),
        "device": device,
        "hardware": hardware(device),
        "seconds": None if started is None else round(time.perf_counter() - started, 1),
        "date": datetime.date.today().isoformat(),
    }
    return {key: value for key, value in (facts | more).items() if value is not None}


def hardware(device: str = "cpu") -> str:
    """The machine in a few words: the GPU's name, or the number of usable cores and the CPU's name."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} × {_cpu_name()}"


def load(folder: Path | str) -> Report:
    """The report that :meth:`Report.save` left in ``folder``.

    Raises:
        BadData: there is no readable ``table.json``.
    """
    path = Path(folder) / "table.json"
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        stats = pd.DataFrame(saved["stats"]).set_index("statistic").astype(float)
        numbers = {key: math.nan if value is None else value for key, value in saved["numbers"].items()}
        table, names = pd.DataFrame(saved["table"]), tuple(saved["names"])
        rest = (saved[key] for key in ("judge_name", "level", "meta", "show"))
        return Report(table, stats, numbers, saved["title"], names, *rest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData(f"读不出对比表：{path}", f"No readable before/after table: {path}") from error


def page(reports_folder: Path | str, out_html: Path | str) -> Path:
    """One self-contained page of every ``*/table.json`` under ``reports_folder``, sorted by lesson.

    Raises:
        CannotWrite: the page cannot be written.
    """
    folders = sorted(path.parent for path in Path(reports_folder).glob("*/table.json"))
    reports = [(folder.name, load(folder)) for folder in folders]
    links = "".join(
        f'<li><a href="#{html.escape(n)}">{html.escape(n)}</a> {html.escape(r.summary())}</li>'
        for n, r in reports
    )
    sections = "".join(
        f'<section id="{html.escape(name)}"><h2>{html.escape(name)}</h2>{report.to_html()}</section>'
        for name, report in reports
    )
    empty = "" if reports else "<p>还没有结果。No results yet.</p>"
    body = f"<h1>训练前后 · Before and after</h1><ul>{links}</ul>{empty}{sections}"
    return whole_text(Path(out_html), PAGE.format(title="训练前后 · Before and after", body=body))


CSS = """<style>
.rlhf-report {color: inherit; font-size: 0.9em}
.rlhf-report table {border-collapse: collapse; margin: 0.6em 0; color: inherit; background: none}
.rlhf-report th, .rlhf-report td {border: 1px solid rgba(128,128,128,.35)}
.rlhf-report th, .rlhf-report td {padding: 3px 7px; vertical-align: top}
.rlhf-report tr {background: none}
.rlhf-report th {text-align: left; font-weight: 600}
.rlhf-report td.text {text-align: left; white-space: pre-wrap; overflow-wrap: anywhere}
.rlhf-report td.text {min-width: 8em; max-width: 26em}
.rlhf-report td.num {text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums}
.rlhf-report .zh, .rlhf-report .note {opacity: .75; font-weight: normal}
</style>"""

PAGE = """<!DOCTYPE html>
<html lang="zh">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{color-scheme: light dark}}
body {{font-family: system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif;
      line-height: 1.5; max-width: 72em; margin: 1.5em auto; padding: 0 1em;
      background: Canvas; color: CanvasText}}
section {{overflow-x: auto; border-top: 1px solid rgba(128,128,128,.35); margin-top: 2em}}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def _chinese(statistic: str) -> str:
    for english, chinese in (
        (": mean", "均值"),
        (": median", "中位数"),
        ("distinct-2", "不同二元组占比"),
        ("KL", "每条回复与参考模型的 KL"),
        ("prompts", "提示数"),
    ):
        if english in statistic:
            return chinese
    return ""


def _shown(statistic: str, value: float) -> str:
    if not math.isfinite(value):
        return ""
    return f"{value:.0f}" if statistic == "prompts" else f"{value:.3f}"


def _fact(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _judge_numbers(
    key: str, old: np.ndarray, new: np.ndarray, gain: tuple[float, float, float]
) -> dict[str, float]:
    return {
        f"{key}_mean_before": float(old.mean()),
        f"{key}_mean_after": float(new.mean()),
        f"{key}_median_before": float(np.median(old)),
        f"{key}_median_after": float(np.median(new)),
        **dict(zip((f"{key}_gain", f"{key}_gain_low", f"{key}_gain_high"), gain, strict=True)),
    }


def _check_texts(queries: Sequence[str], before: Sequence[str], after: Sequence[str]) -> int:
    """The number of prompts, after making sure that every prompt has both responses."""
    lengths = len(queries), len(before), len(after)
    if len(set(lengths)) != 1 or not lengths[0]:
        raise BadRollout(
            "每个提示都要有两条回复；现有 query、before、after 各 {}、{}、{} 条。".format(*lengths),
            "Every prompt needs both responses; there are {} queries, {} before and {} after.".format(
                *lengths
            ),
        )
    return lengths[0]


def _numbers(values: Sequence[float], name: str, length: int | None = None) -> np.ndarray:
    """A flat float array from a list, array or tensor, made sure to be finite and as long as it should be."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double()
    elif isinstance(values, (list, tuple)):
        values = [float(value) for value in values]
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not len(array) or (length is not None and len(array) != length):
        wanted = "n" if length is None else length
        raise BadRollout(
            f"{name}：应有 {wanted} 个分数，实得形状 {tuple(array.shape)}。",
            f"{name}: expected {wanted} scores, got shape {tuple(array.shape)}.",
        )
    if not np.isfinite(array).all():
        where = int(np.flatnonzero(~np.isfinite(array))[0])
        raise BadRollout(
            f"{name}：第 {where} 个分数是 {array[where]}。", f"{name}: score {where} is {array[where]}."
        )
    return array


def _records(frame: pd.DataFrame) -> list[dict]:
    return [{key: _plain(value) for key, value in row.items()} for row in frame.to_dict("records")]


def _plain(value):
    """A value as JSON knows it: NumPy scalars become Python's, NaN and inf become None, the rest text."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return " ".join((names[0] if names else platform.processor() or platform.machine()).split())
