"""Lesson 03: how token ids become logits in the course's GPT, with the shape of everything on the way.

In: nothing. Out: ``figs/03_gpt.svg``; blue holds weights, white is data. Run it again after a change.
"""

from __future__ import annotations

from drawing import BLUE, MUTED, SMALL, Axes, Figure, arrow, box, canvas, panel, save, write

STREAM = 3.35  # the height at which the residual stream runs


def plus(axes: Axes, x: float) -> None:
    """Where a branch is added to the stream."""
    axes.plot([x], [STREAM], marker="o", markersize=17, mfc="#ffffff", mec=BLUE, mew=1.6, zorder=4.5)
    write(axes, x, STREAM, "+", size=13, ha="center", weight="bold", color=BLUE)


def branch(axes: Axes, x: float, norm: str, part: str, note: str) -> None:
    """One step of a block: a copy leaves the stream, is normalised, worked on, and added back."""
    left, right = x, x + 2.75
    arrow(axes, (left, STREAM), (left, STREAM - 1.02))
    box(axes, left - 0.45, STREAM - 1.58, 0.9, 0.55, norm, kind="trained")
    arrow(axes, (left + 0.45, STREAM - 1.3), (left + 0.75, STREAM - 1.3))
    box(axes, left + 0.75, STREAM - 1.8, 1.65, 1.0, part, note, "trained")
    axes.plot([left + 2.4, right], [STREAM - 1.3, STREAM - 1.3], color="#1f2933", lw=1.3, zorder=4)
    arrow(axes, (right, STREAM - 1.3), (right, STREAM - 0.2))
    plus(axes, right)


def draw() -> Figure:
    """From the left: embeddings, the blocks on their stream, the head."""
    figure, axes = canvas(14.9, 5.6, scale=0.76)
    panel(axes, 0.2, 0.3, 3.35, 5.1, "TransformerDecoder")
    panel(axes, 3.85, 0.3, 7.3, 5.1, "TransformerDecoderBlock   × n_layer")
    panel(axes, 11.45, 0.3, 3.25, 5.1, "Norm and head")

    box(axes, 0.4, 3.9, 1.35, 0.7, "token ids", "(B, T)")
    box(axes, 2.0, 3.9, 1.35, 0.7, "mask", "(B, T)")
    box(axes, 0.4, 2.45, 1.35, 0.9, "token\nembedding", kind="trained")
    box(axes, 2.0, 2.45, 1.35, 0.9, "position\nembedding", kind="trained")
    arrow(axes, (1.07, 3.9), (1.07, 3.37))
    arrow(axes, (2.67, 3.9), (2.67, 3.37))
    write(axes, 2.75, 3.62, "places", size=SMALL, color=MUTED)
    box(axes, 1.1, 0.95, 1.55, 0.75, "sum", "(B, T, H)")
    arrow(axes, (1.07, 2.45), (1.55, 1.72))
    arrow(axes, (2.67, 2.45), (2.2, 1.72))

    axes.plot([2.65, 3.7, 3.7], [1.32, 1.32, STREAM], color=BLUE, lw=2.4, zorder=3)
    axes.plot([3.7, 11.75], [STREAM, STREAM], color=BLUE, lw=2.4, zorder=3)
    branch(axes, 4.55, "norm_1", "attention", "reads other tokens")
    branch(axes, 8.05, "norm_2", "ffn", "each token alone")
    write(axes, 4.05, STREAM + 0.3, "residual stream   (B, T, H)", size=SMALL, color=BLUE)
    axes.plot([3.35, 6.12], [4.25, 4.25], color=MUTED, lw=1.2, ls="--")
    arrow(axes, (6.12, 4.25), (6.12, STREAM - 0.78), color=MUTED, line="--")
    write(axes, 6.3, 4.25, "who may read whom: nobody the future, nobody padding", size=SMALL, color=MUTED)
    write(
        axes,
        4.05,
        0.8,
        "attention: 3 × (B, heads, T, d)  →  weights (B, heads, T, T)",
        size=SMALL,
        color=MUTED,
    )
    write(axes, 10.95, 0.8, "ffn: H → 4H → H", size=SMALL, color=MUTED, ha="right")

    box(axes, 11.75, STREAM - 0.3, 1.3, 0.6, "final_norm", kind="trained")
    arrow(axes, (12.37, STREAM - 0.3), (12.37, 2.27))
    box(axes, 11.62, 1.35, 1.5, 0.9, "head", "token embedding\nonce more", "trained")
    arrow(axes, (13.12, 1.87), (13.4, 1.87))
    box(axes, 13.42, 1.5, 1.1, 0.75, "logits", "(B, T, V)")
    arrow(axes, (13.97, 2.25), (13.97, 2.98))
    box(axes, 13.3, 3.0, 1.3, 0.75, "next token", "from [:, −1]")
    return figure


if __name__ == "__main__":
    save(draw, __file__)
