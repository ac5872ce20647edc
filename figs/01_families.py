"""The architectures of lesson 01: one drawing per family, made from the module tree of the model itself.

In: nothing; the museum's models are built on the meta device and asked which part calls which. Out:
``figs/01_family_<family>.svg``. Run ``python figs/01_families.py`` after a change; the same code and the same
matplotlib give the same bytes. Names, widths and order are read off the model, nothing is typed in here.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from drawing import GREY, INK, NORMAL, SMALL, Figure, arrow, canvas, panel, save, write
from matplotlib.patches import Circle, FancyBboxPatch

from rlhf import anatomy, museum

FACES = {"attention": "#cfe5f3", "ffn": "#fbe3cf", "norm": "#e3e3e3", "embedding": "#d7ecdf"}
FACES |= {"position": "#d7ecdf", "head": "#d7ecdf", "other": "#f3d9e6", "blocks": "#ffffff"}
SHOWN = {"gpt2": "gpt2", "opt-350m": "opt-350m", "chatglm-6b": "chatglm-6b", "llama": "llama-2-7b"}
SHOWN |= {"distilbert": "distilbert"}  # the exhibit that is drawn for each family
LINE, GAP = 0.36, 0.5  # height of a line of text; space between two boxes
LEFT, RIGHT, WIDE = 2.35, 7.85, 4.6  # centres of the two columns; width of a part of a block


def draw(name: str) -> Figure:
    """The whole model on the left, from the ids upwards; one of its blocks on the right."""
    model = museum.build(name)
    outline, steps = anatomy.outline(model), museum.steps(name)
    facts, order = museum.facts(name), museum.block_order(name)
    groups = [(kind, list(parts)) for kind, parts in groupby(steps, key=lambda step: step.kind)]
    inside = sum(size(parts) + GAP for _, parts in groups) + 2 * GAP  # two additions
    height = max(inside, len(outline) * (0.75 + GAP) + 0.3) + 2.95

    figure, axes = canvas(11.6, height, scale=0.58)
    panel(axes, 0.2, 0.2, 4.3, height - 0.4, museum.card(name).title)
    write(axes, 0.38, height - 0.82, f"{facts.parameters:,} parameters", size=SMALL)
    cls = type(anatomy.blocks(model)[0]).__name__
    panel(axes, 4.8, 0.2, 6.6, height - 0.4, f"{cls}: {order}")
    whole(axes, outline, facts, tied=anatomy.tied(model))
    block(axes, groups, facts, order)
    return figure


def whole(axes, outline: list[anatomy.Step], facts: anatomy.Anatomy, tied: bool | None) -> None:
    """Embeddings, all the blocks, what follows them. Positions are added last before the blocks begin."""
    start = next(at for at, step in enumerate(outline) if step.kind in ("norm", "blocks"))
    outline = sorted(outline[:start], key=lambda step: step.kind == "position") + outline[start:]
    y = 0.75
    write(axes, LEFT, y - 0.2, "token ids", size=SMALL, ha="center")
    for step in outline:
        arrow(axes, (LEFT, y), (LEFT, y + GAP))
        y += GAP
        name = step.path.rsplit(".", 1)[-1]
        title = f"{facts.layers} × block" if step.kind == "blocks" else name
        if step.kind == "position":
            title = f"+ {name}"
        if step.kind == "head" and tied:
            title += "  = embedding"
        shape(axes, LEFT, y, 3.5, 0.75, step.kind)
        write(axes, LEFT, y + 0.5, title, ha="center", weight="bold" if step.kind == "blocks" else "normal")
        write(axes, LEFT, y + 0.22, f"{step.width_in} → {step.width_out}", size=SMALL, ha="center")
        y += 0.75
    arrow(axes, (LEFT, y), (LEFT, y + GAP))
    write(axes, LEFT, y + GAP + 0.18, "logits" if facts.vocab else "hidden states", size=SMALL, ha="center")


def block(axes, groups: list[tuple[str, list]], facts: anatomy.Anatomy, order: str) -> None:
    """The parts of a block in calling order, and the residual stream around them."""
    y, fork = 0.95, 0.95
    write(axes, RIGHT, y - 0.28, f"residual stream, {facts.hidden} wide", size=SMALL, ha="center")
    for kind, parts in groups:
        if kind != "norm" and order != "pre-LN":
            fork = y  # post-LN: the stream is what comes out of a norm
        arrow(axes, (RIGHT, y), (RIGHT, y + GAP))
        y += GAP
        shape(axes, RIGHT, y, WIDE, size(parts), kind)
        label(axes, kind, parts, facts, y)
        y += size(parts)
        if kind != "norm":
            y = add(axes, fork, y, "× α" if "DeepNorm" in order else "")
            fork = y
    arrow(axes, (RIGHT, y), (RIGHT, y + GAP))
    write(axes, RIGHT, y + GAP + 0.18, "to the next block", size=SMALL, ha="center")


def label(axes, kind: str, parts: list[anatomy.Step], facts: anatomy.Anatomy, y: float) -> None:
    """A heading, then one line per module: its name, its class, its widths."""
    heading = {"norm": parts[0].cls, "attention": f"attention: {facts.attention}"}
    activation = anatomy.ACTIVATIONS[facts.activation]
    heading["ffn"] = f"GLU: {activation}(gate) × up" if facts.gated else f"FFN: {activation}"
    top = y + size(parts) - LINE / 2 - 0.06
    write(axes, RIGHT, top, heading[kind], size=NORMAL, ha="center", weight="bold")
    for line, step in enumerate(parts, 1):
        name = step.path.rsplit(".", 1)[-1]
        text = name if kind == "norm" else f"{name}   {step.cls}   {step.width_in} → {step.width_out}"
        write(axes, RIGHT, top - line * LINE * 0.86, text, size=SMALL, ha="center")


def add(axes, fork: float, y: float, factor: str) -> float:
    """A plus sign where the residual joins again; the stream goes around the part on the right."""
    radius, x = 0.17, RIGHT + WIDE / 2 + 0.3
    centre = y + GAP / 2 + radius
    arrow(axes, (RIGHT, y), (RIGHT, centre - radius))
    axes.add_patch(Circle((RIGHT, centre), radius, fc="white", ec=INK, lw=1.3, zorder=4))
    write(axes, RIGHT, centre, "+", ha="center")
    start = fork + 0.12
    axes.plot([RIGHT, x, x], [start, start, centre], color=GREY, lw=1.6, zorder=1)
    arrow(axes, (x, centre), (RIGHT + radius, centre), color=GREY)
    if factor:
        write(axes, x + 0.08, (start + centre) / 2, factor, size=NORMAL)
    return centre + radius


def shape(axes, x: float, y: float, width: float, height: float, kind: str) -> None:
    """A box in the colour of its kind, centred on ``x``, its foot at ``y``."""
    style = "round,pad=0,rounding_size=0.1"
    at = (x - width / 2, y)
    axes.add_patch(FancyBboxPatch(at, width, height, boxstyle=style, fc=FACES[kind], ec=GREY, lw=1, zorder=2))


def size(parts: list[anatomy.Step]) -> float:
    """Height of a box: one line for the heading, one per module."""
    return LINE * (1 + 0.86 * len(parts)) + 0.1


if __name__ == "__main__":
    for family, exhibit in SHOWN.items():
        save(lambda exhibit=exhibit: draw(exhibit), str(Path(__file__).with_name(f"01_family_{family}.py")))
