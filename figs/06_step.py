"""One PPO step of lesson 06 as a map: every tensor with its shape, from texts to one optimiser update.

In: nothing. Out: ``figs/06_step.svg``. Run ``python figs/06_step.py`` after a change; the same code and the
same matplotlib give the same bytes.
"""

from __future__ import annotations

from drawing import (
    BLUE,
    INK,
    MUTED,
    PAPER,
    SMALL,
    Axes,
    Figure,
    arrow,
    box,
    canvas,
    legend,
    panel,
    save,
    write,
)


def tensor(axes: Axes, x: float, y: float, name: str, shape: str, width: float = 1.75) -> None:
    """A piece of data with its shape."""
    box(axes, x, y, width, 0.62, name, shape)


def draw() -> Figure:
    """Four columns: the rollout, one number per slot, rewards and advantages, the updates."""
    figure, axes = canvas(14.6, 7.3, scale=0.8)
    for x, width, title in (
        (0.2, 2.75, "1  Rollout"),
        (3.15, 4.75, "2  Four numbers per slot"),
        (8.1, 2.75, "3  Credit"),
        (11.05, 3.35, "4  Updates"),
    ):
        panel(axes, x, 1.15, width, 5.95, title)

    tensor(axes, 0.5, 5.6, "queries", "B lists, 2 to 7 tokens", 2.15)
    box(axes, 0.5, 4.3, 2.15, 0.8, "policy", "samples the rest", "trained")
    tensor(axes, 0.5, 3.0, "input_ids", "(B, T), padded right", 2.15)
    box(axes, 0.5, 1.4, 2.15, 0.8, "reward model", "reads the text", "frozen")
    arrow(axes, (1.57, 5.6), (1.57, 5.12))
    arrow(axes, (1.57, 4.3), (1.57, 3.64))
    arrow(axes, (1.57, 3.0), (1.57, 2.22))

    box(axes, 3.35, 4.95, 1.3, 1.45, "policy", "one pass", "trained")
    box(axes, 3.35, 2.95, 1.3, 0.8, "reference", "one pass", "frozen")
    arrow(axes, (2.65, 3.45), (3.35, 5.3), bend=-0.12)
    arrow(axes, (2.65, 3.3), (3.35, 3.35))
    tensor(axes, 5.95, 5.8, "value", "(B, T-1)")
    tensor(axes, 5.95, 5.0, r"$\log p$", "(B, T-1)")
    tensor(axes, 5.95, 4.02, "KL", r"$\log p - \log p_{ref}$  (B, T-1)")
    tensor(axes, 5.95, 3.04, r"$\log p_{ref}$", "(B, T-1)")
    for y, over, under in (
        (6.11, "hidden (B, T, H)", "value head"),
        (5.31, "logits (B, T, V)", "gather"),
        (3.35, "logits (B, T, V)", "gather"),
    ):
        arrow(axes, (4.65, y), (5.95, y))
        write(axes, 5.25, y + 0.17, over, size=SMALL - 0.5, color=MUTED, ha="center")
        write(axes, 5.25, y - 0.17, under, size=SMALL - 0.5, color=MUTED, ha="center")
    arrow(axes, (7.3, 3.66), (7.3, 4.02))
    arrow(axes, (7.3, 5.0), (7.3, 4.66))
    tensor(axes, 5.95, 1.49, "score", "(B,), one per text")
    arrow(axes, (2.65, 1.8), (5.95, 1.8))

    tensor(axes, 8.35, 5.6, "reward per token", r"$-\beta\,$KL, last slot + score", 2.25)
    tensor(axes, 8.35, 4.45, r"$\delta_t$", r"$r_t + \gamma V_{t+1} - V_t$", 2.25)
    tensor(axes, 8.35, 3.3, "advantage", r"$\Sigma_k\,(\gamma\lambda)^k\,\delta_{t+k}$", 2.25)
    tensor(axes, 8.25, 1.75, "return", "+ value", 1.15)
    tensor(axes, 9.5, 1.75, "whitened", "mean 0, sd 1", 1.2)
    arrow(axes, (7.7, 4.4), (8.35, 6.05), bend=0.08)
    axes.plot([7.7, 8.0, 8.0], [1.8, 1.8, 5.75], color=INK, lw=1.3, zorder=4)
    arrow(axes, (7.98, 5.75), (8.35, 5.75))
    arrow(axes, (7.7, 6.05), (8.35, 4.85), bend=-0.12)
    arrow(axes, (9.47, 5.6), (9.47, 5.08))
    arrow(axes, (9.47, 4.45), (9.47, 3.94))
    arrow(axes, (9.2, 3.3), (8.85, 2.39))
    arrow(axes, (9.75, 3.3), (10.1, 2.39))

    box(axes, 11.35, 5.6, 2.75, 0.8, "policy, again", "new log p and values", "trained")
    tensor(axes, 11.35, 4.35, "ratio", r"$\exp(\log p - \log p_{old})$", 2.75)
    tensor(axes, 11.35, 3.1, "clipped policy loss", r"+ $0.1\,\times$ value loss", 2.75)
    tensor(axes, 11.35, 1.85, "gradient, Adam", "one optimiser step", 2.75)
    for high, low in ((5.6, 4.98), (4.35, 3.73), (3.1, 2.48)):
        arrow(axes, (12.72, high), (12.72, low))
    arrow(axes, (10.7, 2.06), (11.35, 3.3), bend=0.15)
    axes.plot([8.82, 8.82, 10.95], [1.75, 1.5, 1.5], color="#1f2933", lw=1.3, zorder=4)
    arrow(axes, (10.93, 1.5), (11.42, 3.08), bend=0.1)
    axes.plot([14.1, 14.28, 14.28], [2.15, 2.15, 6.0], color=BLUE, lw=1.6, zorder=4)
    arrow(axes, (14.28, 6.0), (14.08, 6.0), color=BLUE)
    write(axes, 12.72, 1.45, "next minibatch, next epoch", size=SMALL, color=BLUE, ha="center")

    axes.plot([12.72, 12.72, 0.08, 0.08, 0.5], [1.15, 0.85, 0.85, 4.7, 4.7], color=BLUE, lw=1.6, zorder=4)
    arrow(axes, (0.4, 4.7), (0.52, 4.7), color=BLUE)
    back = "  the next PPO step samples with the new policy  "
    write(axes, 7.2, 0.85, back, size=SMALL, color=BLUE, ha="center", backgroundcolor=PAPER)
    legend(axes, 4.9, 0.25)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
