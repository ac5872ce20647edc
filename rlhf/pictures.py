"""Curves of a run and tokens coloured by a number.

In: the history of a run (one dict of numbers per step), or tokens with one value each. Out: a matplotlib
figure, a picture that redraws while training runs, or a piece of HTML. Every lesson uses these through
:mod:`rlhf.report`; lesson 06 looks at tokens, lesson 07 at curves.
"""

from __future__ import annotations

import base64
import html
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rlhf.errors import BadRollout, CourseError

STYLE = Path(__file__).with_name("plots.mplstyle")
POSITIVE, NEGATIVE = (
    (0, 114, 178),
    (213, 94, 0),
)  # blue and vermillion: a pair that colour-blind readers tell apart
FADED = 0.65  # of what does not count: paler, and still to be read on light and on dark pages
VISIBLE = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍", "Ġ": "·", "Ċ": "↵", "▁": "·"}


class Picture(Figure):
    """A figure that draws itself in a notebook, whether or not pyplot was ever imported."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        FigureCanvasAgg(self).print_png(buffer, metadata={"Software": None})
        return buffer.getvalue()


class Html:
    """A piece of HTML for a notebook, with a plain-text form for the terminal. ``.data`` is the HTML."""

    def __init__(self, data: str, text: str = ""):
        self.data, self.text = data, text

    def _repr_html_(self) -> str:
        return self.data

    def __repr__(self) -> str:
        return self.text


def curves(
    history: Sequence[Mapping] | pd.DataFrame,
    keys: Sequence[str],
    *,
    smooth: int = 1,
    labels: Mapping[str, str] | Sequence[str] | None = None,
    columns: int = 3,
    lines: Mapping[str, float] | None = None,
    title: str = "",
) -> Picture:
    """One small plot per key, all over the same steps.

    Args:
        history: one mapping per step (extra keys are ignored, a step may lack a key), or a DataFrame.
        keys: what to draw, e.g. ``["env/reward_mean", "objective/kl"]``.
        smooth: width of a centred running mean, in steps; above 1 the raw curve stays visible behind it.
        labels: English titles of the plots, by key or in the order of ``keys``.
        columns: plots per row.
        lines: a dashed horizontal line per key, e.g. ``{"objective/kl": 6.0}`` for the target.
        title: title of the whole figure.

    Raises:
        CourseError: ``history`` is empty, or never holds one of ``keys``.
    """
    frame = _frame(history, keys)
    names = _labels(keys, labels)
    columns = max(1, min(columns, len(keys)))
    rows = math.ceil(len(keys) / columns)
    with matplotlib.style.context(str(STYLE)):
        figure = Picture(figsize=(3.4 * columns, 2.3 * rows + (0.3 if title else 0)), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, key, name in zip(grid, keys, names, strict=False):
            _draw(axes, frame[key], smooth, (lines or {}).get(key))
            axes.set_title(name)
        for axes in grid[len(keys) :]:
            axes.set_axis_off()
        for axes in grid[max(0, len(keys) - columns) : len(keys)]:
            axes.set_xlabel("step")
        if title:
            figure.suptitle(title)
    return figure


def _frame(history: Sequence[Mapping] | pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The numbers to draw, one column per key, indexed by step."""
    if isinstance(history, pd.DataFrame):
        frame = history
    else:
        frame = pd.DataFrame([{key: _number(row[key]) for key in keys if key in row} for row in history])
    missing = [key for key in keys if key not in frame.columns]
    if not keys or not len(frame) or missing:
        columns = (
            frame.columns if isinstance(history, pd.DataFrame) else {key for row in history for key in row}
        )
        known, lacking = ", ".join(sorted(map(str, columns))), ", ".join(missing)
        raise CourseError(
            f"没有可画的曲线：缺少 {lacking or '数据'}。已有：{known or '（空）'}",
            f"Nothing to draw: {lacking or 'data'} missing. There is: {known or '(none)'}",
        )
    return frame[list(keys)].astype(float)


def _number(value) -> float:
    """A float from a Python number, a NumPy scalar or a one-element tensor; a longer array gives its mean."""
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=float)
    return float(array.mean()) if array.size else math.nan


def _labels(keys: Sequence[str], labels: Mapping[str, str] | Sequence[str] | None) -> list[str]:
    if isinstance(labels, Mapping):
        return [labels.get(key, key) for key in keys]
    return list(labels) if labels is not None else list(keys)


def _draw(axes, values: pd.Series, smooth: int, line: float | None) -> None:
    values = values.dropna()
    if smooth > 1:
        axes.plot(values.index, values, color="#0072B2", alpha=0.25, linewidth=1)
        values = values.rolling(smooth, center=True, min_periods=1).mean()
    axes.plot(values.index, values, color="#0072B2", marker="." if len(values) < 3 else None)
    if line is not None:
        axes.axhline(line, color="#D55E00", linestyle="--", linewidth=1)


class LiveCurves:
    """Curves that redraw in place while training runs; what stays in the notebook is one static picture.

    ::

        with LiveCurves(["env/reward_mean", "objective/kl"], every=5) as live:
            for batch in trainer.dataloader:
                live.add(trainer.step(...))

    Outside a notebook kernel nothing is shown, and :meth:`figure` still gives the picture. Redrawing costs a
    few tenths of a second, so it happens at most every ``every`` steps and every ``seconds`` seconds.
    """

    def __init__(self, keys: Sequence[str], *, every: int = 10, seconds: float = 2.0, **options):
        """``options`` go to :func:`curves` (``smooth``, ``labels``, ``columns``, ``lines``, ``title``)."""
        self.keys, self.every, self.seconds, self.options = list(keys), max(1, every), seconds, options
        self.history: list[dict[str, float]] = []
        self._handle, self._drawn_at = None, -math.inf

    def __enter__(self) -> LiveCurves:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def add(self, stats: Mapping) -> None:
        """Take in one step's statistics; keys that are not drawn are dropped."""
        self.history.append({key: _number(stats[key]) for key in self.keys if key in stats})
        due = len(self.history) % self.every == 0 and time.monotonic() - self._drawn_at >= self.seconds
        if due and in_kernel():
            self._show()

    def figure(self) -> Picture:
        """The picture of everything taken in so far."""
        return curves(self.history, self.keys, **self.options)

    def close(self) -> None:
        """Draw the last state. An interrupted run keeps its picture too."""
        if self.history and in_kernel():
            self._show()

    def _show(self) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(self.figure(), display_id=True)
        else:
            self._handle.update(self.figure())
        self._drawn_at = time.monotonic()


def in_kernel() -> bool:
    """Whether this process is a Jupyter kernel, which is where a picture can be redrawn in place."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def token_heat(
    tokens: Sequence[str],
    values: Sequence[float],
    title: str = "",
    *,
    show_values: bool = False,
    limit: float | None = None,
    precision: int = 3,
) -> Html:
    """Tokens coloured by a number: blue above zero, orange below, the stronger the further from zero.

    Args:
        tokens: token texts; spaces and newlines (also GPT-2's ``Ġ`` and ``Ċ``) are shown as visible signs.
        values: one number per token; NaN is drawn as an empty frame (a masked slot, say).
        title: English heading, shown as text.
        show_values: print the number under each token, not only on hover.
        limit: the value of full colour; by default the largest absolute value.
        precision: decimals of the printed numbers.

    Raises:
        BadRollout: as many values as tokens are needed.
    """
    numbers = [_number(value) for value in values]
    if len(tokens) != len(numbers):
        raise BadRollout(
            f"有 {len(tokens)} 个词元，却有 {len(numbers)} 个数值。",
            f"{len(tokens)} tokens, but {len(numbers)} values.",
        )
    finite = [abs(number) for number in numbers if math.isfinite(number)]
    limit = limit or max(finite, default=0.0) or 1.0
    spans = [_token(t, v, limit, show_values, precision) for t, v in zip(tokens, numbers, strict=True)]
    heading = f"<div><b>{html.escape(title)}</b></div>" if title else ""
    height = 2.6 if show_values else 1.9
    body = f'<div style="line-height:{height};overflow-wrap:anywhere">{"".join(spans)}</div>'
    text = " ".join(f"{visible(t)}[{v:.{precision}f}]" for t, v in zip(tokens, numbers, strict=True))
    return Html(
        f'<div class="rlhf-heat" style="color:inherit">{heading}{body}{_legend(limit, precision)}</div>', text
    )


def token_grid(
    tokens: Sequence[str],
    rows: Mapping[str, Sequence],
    *,
    parts: Sequence[str] | None = None,
    centres: Mapping[str, float] | None = None,
    title: str = "",
    precision: int = 2,
) -> Html:
    """A table with one column per token and one row per quantity: a sequence as PPO sees it.

    Args:
        tokens: token texts, the columns; white space is made visible.
        rows: per quantity one number, truth value or word per token. Each row has a colour scale of its own,
            blue above zero and orange below; a truth value is a dot or nothing.
        parts: what each token belongs to. Columns other than ``"response"`` are faded: they do not count.
        centres: the value without colour, where it is not 0: ``{"ratio": 1.0}``.
        title: English heading. precision: decimals.

    Raises:
        BadRollout: as many values as tokens are needed in every row.
    """
    grid = _Grid(tokens, rows, parts, centres, precision)
    fades = ["" if live else ' class="off"' for live in grid.live]
    head = "".join(
        f"<th{fade}><code>{html.escape(token)}</code></th>"
        for token, fade in zip(grid.tokens, fades, strict=True)
    )
    body = []
    for name in grid.rows:
        cells = zip(grid.texts(name), grid.tints(name), fades, strict=True)
        shown = "".join(
            f'<td{fade} style="background:{tint(level, 1.0)}">{html.escape(text)}</td>'
            if level
            else f"<td{fade}>{html.escape(text)}</td>"
            for text, level, fade in cells
        )
        body.append(f"<tr><th>{html.escape(name)}</th>{shown}</tr>")
    heading = f"<div><b>{html.escape(title)}</b></div>" if title else ""
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return Html(f'{GRID_CSS}<div class="rlhf-grid">{heading}{table}</div>', grid.text())


def token_grid_picture(
    tokens: Sequence[str],
    rows: Mapping[str, Sequence],
    *,
    parts: Sequence[str] | None = None,
    centres: Mapping[str, float] | None = None,
    title: str = "",
    precision: int = 2,
) -> Picture:
    """The same as :func:`token_grid`, as a figure on a light ground, for pages that show no HTML."""
    grid = _Grid(tokens, rows, parts, centres, precision)
    columns, lines = len(grid.tokens), len(grid.rows) + 1
    with matplotlib.style.context(str(STYLE)):
        figure = Picture(figsize=(1.1 + 0.5 * columns, 0.25 * lines + (0.3 if title else 0.05)))
        axes = figure.add_axes((0, 0, 1, 0.25 * lines / figure.get_figheight()))
        axes.set(xlim=(-2.2, columns), ylim=(lines, 0))
        axes.set_axis_off()
        for column, (token, live) in enumerate(zip(grid.tokens, grid.live, strict=True)):
            text = token if len(token) < 8 else token[:6] + "…"
            axes.text(
                column + 0.5, 0.5, text, ha="center", va="center", fontsize=7, alpha=1 if live else FADED
            )
        for line, name in enumerate(grid.rows, start=1):
            axes.text(-0.1, line + 0.5, name, ha="right", va="center", fontsize=8, weight="bold")
            _draw_line(axes, line, grid.texts(name), grid.tints(name), grid.live)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def _draw_line(axes, line: int, texts: Sequence[str], levels: Sequence[float], live: Sequence[bool]) -> None:
    """One row of a token grid: coloured cells with their numbers."""
    for column, (text, level, counts) in enumerate(zip(texts, levels, live, strict=True)):
        colour = [part / 255 for part in (POSITIVE if level > 0 else NEGATIVE)]
        axes.add_patch(
            Rectangle(
                (column + 0.03, line + 0.06),
                0.94,
                0.88,
                fc=(*colour, 0.55 * min(abs(level), 1.0)) if level else ("#ffffff" if counts else "#f3f3f3"),
                ec="#d9d9d9",
                lw=0.5,
            )
        )
        axes.text(
            column + 0.5,
            line + 0.5,
            text,
            ha="center",
            va="center",
            fontsize=7,
            alpha=1 if counts else FADED,
        )


class _Grid:
    """What both forms of a token grid show: texts, and how strongly each cell is coloured."""

    def __init__(self, tokens, rows, parts, centres, precision: int):
        for name, values in rows.items():
            if len(values) != len(tokens):
                raise BadRollout(
                    f"{name}：有 {len(tokens)} 个词元，却有 {len(values)} 个数值。",
                    f"{name}: {len(tokens)} tokens, but {len(values)} values.",
                )
        self.tokens = [visible(token) for token in tokens]
        self.rows = {name: [_plain(value) for value in values] for name, values in rows.items()}
        self.live = [part == "response" for part in parts] if parts is not None else [True] * len(tokens)
        self.centres, self.precision = dict(centres or {}), precision

    def texts(self, name: str) -> list[str]:
        """The cells of one row as they are printed."""
        return [self._shown(value) for value in self.rows[name]]

    def _shown(self, value) -> str:
        if isinstance(value, bool):
            return "●" if value else ""
        if isinstance(value, int):
            return str(value)
        if isinstance(value, float):
            if not math.isfinite(value):
                return "–"
            shown = f"{value:.{self.precision}f}"
            return shown.lstrip("-") if not float(shown) else shown  # no minus zero
        return str(value)

    def tints(self, name: str) -> list[float]:
        """How far each cell is from its row's centre, from -1 to 1; 0 for words and beside the response."""
        centre, values = self.centres.get(name, 0.0), self.rows[name]
        numbers = [
            value - centre if live and isinstance(value, float) and math.isfinite(value) else 0.0
            for value, live in zip(values, self.live, strict=True)
        ]
        limit = max(map(abs, numbers), default=0.0) or 1.0
        return [number / limit for number in numbers]

    def text(self) -> str:
        """The grid for a terminal."""
        return pd.DataFrame({name: self.texts(name) for name in self.rows}, index=self.tokens).T.to_string()


def _plain(value):
    """A value as Python knows it: tensors and NumPy scalars of one element become numbers."""
    return value.item() if hasattr(value, "item") else value


# ipywidgets gives the handle of a slider no name; the tooltip ends up on an empty label. One observer serves
# the page, since front ends draw cells anew. Where no script runs, the number fields still have names.
NAME_HANDLES = """
(() => {
    const nameless = ".widget-slider .noUi-handle:not([aria-label])";
    const name = () => document.querySelectorAll(nameless).forEach(handle => {
        const label = handle.closest(".widget-slider").querySelector(".widget-label");
        if (label && label.title) handle.setAttribute("aria-label", label.title);
    });
    name();
    if (!window.namedHandles) {
        window.namedHandles = new MutationObserver(name);
        window.namedHandles.observe(document.body, {childList: true, subtree: true});
    }
})();
"""


def sliders(draw: Callable[..., Html | Picture], **knobs: tuple[float, float, float, float]):
    """A number field and a slider per number that ``draw`` takes; moving one draws again, below. Tab leads
    from one to the next, the arrow keys move what has the focus, a screen reader says its name and value.

    A widget lives in a running notebook only. A page that is to show something without one needs a picture
    of its own beside it.

    Args:
        draw: called with the values by name; returns what is shown. An impossible value that ends in a
            :class:`CourseError` is shown as its message.
        knobs: ``name=(low, high, step, start)``.
    """
    import ipywidgets
    from IPython.display import Javascript

    fields, rows = {}, []
    for name, (low, high, step, start) in knobs.items():
        limits = {"value": start, "min": low, "max": high, "step": step}
        field = ipywidgets.BoundedFloatText(**limits, description=name, layout={"width": "13em"})
        said = f"{name}, {low} to {high}"
        slider = ipywidgets.FloatSlider(**limits, tooltip=said, readout=False, continuous_update=False)
        tidy = partial(round, ndigits=_places(step))  # a slider goes from 0.19 to 0.18000000000000002
        ipywidgets.link((field, "value"), (slider, "value"), transform=(tidy, tidy))
        fields[name] = field
        rows.append(ipywidgets.HBox([field, slider]))
    shown = ipywidgets.HTML()

    def redraw(_=None) -> None:
        try:
            shown.value = _as_html(draw(**{name: field.value for name, field in fields.items()}))
        except CourseError as error:
            shown.value = f"<pre>{html.escape(str(error))}</pre>"

    for field in fields.values():
        field.observe(redraw, "value")
    redraw()
    names = ipywidgets.Output()
    names.append_display_data(Javascript(NAME_HANDLES))
    return ipywidgets.VBox([*rows, shown, names])


def _places(step: float) -> int:
    """Decimal places that multiples of ``step`` have: 2 for 0.05."""
    return max(0, -Decimal(str(step)).normalize().as_tuple().exponent)


def _as_html(picture: Html | Picture) -> str:
    if isinstance(picture, Picture):
        said = "; ".join(
            text for text in [picture.get_suptitle(), *(a.get_title() for a in picture.axes)] if text
        )
        source = base64.b64encode(picture._repr_png_()).decode()
        return f'<img alt="{html.escape(said or "picture")}" src="data:image/png;base64,{source}">'
    return picture.data


GRID_CSS = """<style>
.rlhf-grid {overflow-x: auto; color: inherit}
.rlhf-grid table {border-collapse: collapse; font-size: .78em; color: inherit; background: none}
.rlhf-grid tr {background: none}
.rlhf-grid td, .rlhf-grid th {border: 1px solid rgba(128,128,128,.3); padding: 2px 5px; text-align: right}
.rlhf-grid td, .rlhf-grid th {white-space: nowrap; font-variant-numeric: tabular-nums}
.rlhf-grid code {background: none; color: inherit}
.rlhf-grid .off {opacity: .65}
</style>"""


def tint(value: float, limit: float) -> str:
    """A CSS colour for ``value`` on a diverging scale that is transparent at 0 and full at ±``limit``.

    See-through colours, at most 55 % strong, keep the text readable on light and on dark pages.
    """
    if not math.isfinite(value) or not limit:
        return "transparent"
    red, green, blue = POSITIVE if value > 0 else NEGATIVE
    return f"rgba({red},{green},{blue},{0.55 * min(abs(value) / limit, 1.0):.2f})"


def visible(token: str) -> str:
    """The token with its white space made visible; an empty token becomes ``∅``."""
    return "".join(VISIBLE.get(letter, letter) for letter in str(token)) or "∅"


def _token(token: str, value: float, limit: float, show_value: bool, precision: int) -> str:
    number = f"{value:.{precision}f}" if math.isfinite(value) else "–"
    below = f'<sub style="font-size:.65em;opacity:.8;margin-left:1px">{number}</sub>' if show_value else ""
    frame = "" if math.isfinite(value) else "outline:1px dashed rgba(128,128,128,.6);"
    style = f"background:{tint(value, limit)};{frame}padding:2px 1px;margin:0 1px;border-radius:3px"
    label = f"<code style='background:none;color:inherit'>{html.escape(visible(token))}</code>"
    line = "<br>" if "\n" in str(token) or "Ċ" in str(token) else ""
    return f'<span title="{number}" style="{style}">{label}{below}</span>{line}'


def _legend(limit: float, precision: int) -> str:
    stops = [-limit, -limit / 2, 0.0, limit / 2, limit]
    boxes = "".join(
        f'<span style="background:{tint(stop, limit)};padding:1px 6px">{stop:.{precision}f}</span>'
        for stop in stops
    )
    return f'<div style="font-size:.75em;margin-top:4px">{boxes}</div>'
