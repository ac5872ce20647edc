"""One token's way through lesson 06: from three numbers to a reward, a surprise δ, an advantage, two losses.

In: nothing; log-probabilities and values are made up here, all that follows from them is computed by
``rlhf.ppo.losses``. Out: ``figs/06_token.svg``. Run ``python figs/06_token.py`` after a change.
"""

from __future__ import annotations

import torch
from drawing import BLUE, MUTED, ORANGE, SMALL, Axes, Figure, arrow, box, canvas, panel, save, write
from matplotlib.patches import Rectangle

from rlhf.ppo import losses

TOKENS, AT = ("was", "a", "joy", "."), 2  # the response, and the token that is followed
LOGP, REF = torch.tensor([[-0.4, -1.0, -1.2, -0.9]]), torch.tensor([[-0.5, -0.9, -1.7, -0.8]])
VALUES, SCORE = torch.tensor([[0.3, 0.5, 0.6, 1.1]]), 2.0
BETA, GAMMA, LAM = 0.2, 1.0, 0.95
LEFT, STEP, WIDTH = 4.6, 2.25, 1.6  # columns of the response


def numbers() -> dict[str, list[float]]:
    """Every quantity of the response, one number per token."""
    live = torch.ones_like(LOGP)
    kl = losses.kl_k1(LOGP, REF)
    rewards, _ = losses.token_rewards(torch.tensor([SCORE]), kl, live, BETA)
    advantages = losses.gae(rewards, VALUES, GAMMA, LAM)
    found = {"logp": LOGP, "ref": REF, "V": VALUES, "KL": kl, "r": rewards, "A": advantages}
    found |= {
        "delta": losses.td_errors(rewards, VALUES, GAMMA),
        "R": losses.returns_from(advantages, VALUES),
    }
    return {name: row[0].tolist() for name, row in found.items()}


def signed(number: float) -> str:
    """With its sign."""
    return f"{number:+.2f}"


def strip(axes: Axes, n: dict[str, list[float]]) -> None:
    """All tokens of the response: the score comes in at the last, the advantage travels to the left."""
    box(axes, 2.05, 6.15, 1.9, 0.5, "This movie")
    write(axes, 0.4, 6.4, "tokens", size=SMALL, color=MUTED)
    for y, name, words in ((5.6, "r", "reward r"), (5.15, "delta", "surprise δ"), (4.7, "A", "advantage A")):
        write(axes, 0.4, y, words, size=SMALL, color=MUTED)
        for place in range(len(TOKENS)):
            x = LEFT + place * STEP + WIDTH / 2
            write(axes, x, y, signed(n[name][place]), ha="center", weight="bold" if place == AT else "normal")
    write(axes, 3.0, 5.15, "query: no number", ha="center", size=SMALL, color=MUTED)
    for place, token in enumerate(TOKENS):
        box(axes, LEFT + place * STEP, 6.15, WIDTH, 0.5, token)
        if place:
            x = LEFT + place * STEP
            arrow(axes, (x - 0.17, 4.7), (x - 0.65, 4.7), color=ORANGE)
    x = LEFT + AT * STEP - 0.12
    axes.add_patch(Rectangle((x, 4.42), WIDTH + 0.24, 2.4, fc="none", ec=BLUE, lw=2, zorder=6))
    write(axes, 13.25, 5.6, f"−β KL + {SCORE:.0f}, the", size=SMALL, color=ORANGE)
    write(axes, 13.25, 5.35, "score of the text", size=SMALL, color=ORANGE)
    write(axes, 13.25, 4.7, "leftwards, × γλ", size=SMALL, color=ORANGE)


def way(axes: Axes, n: dict[str, list[float]]) -> None:
    """The framed token alone: who says what, and what becomes of it."""
    mine = {name: row[AT] for name, row in n.items()}
    coming = {name: row[AT + 1] for name, row in n.items()}
    box(axes, 0.4, 2.66, 1.85, 0.78, "policy", rf"$\log\,\pi$ = {signed(mine['logp'])}", "trained")
    box(axes, 0.4, 1.64, 1.85, 0.78, "reference", rf"$\log\,\pi_{{ref}}$ = {signed(mine['ref'])}", "frozen")
    box(axes, 0.4, 0.55, 1.85, 0.78, "value head", f"V = {signed(mine['V'])}", "trained")

    box(axes, 2.9, 2.2, 1.75, 0.8, "KL", r"$\log\,\pi - \log\,\pi_{ref}$")
    box(axes, 5.25, 2.2, 1.75, 0.8, "reward r", r"$-\beta\,$KL")
    box(axes, 7.6, 2.2, 2.1, 0.8, "surprise δ", r"$r + \gamma V_{next} - V$")
    box(axes, 10.3, 2.2, 1.6, 0.8, "advantage A", r"$\delta + \gamma\lambda A_{next}$")
    box(axes, 12.45, 2.2, 1.95, 0.8, "policy loss", "whiten, × ratio, clip")
    box(axes, 12.45, 0.55, 1.95, 0.78, "value loss", "return = A + V")
    arrow(axes, (2.25, 3.02), (2.9, 2.75))
    arrow(axes, (2.25, 2.1), (2.9, 2.45))
    for left, right in ((4.65, 5.25), (7.0, 7.6), (9.7, 10.3), (11.9, 12.45)):
        arrow(axes, (left, 2.6), (right, 2.6))
    arrow(axes, (2.25, 0.94), (12.45, 0.94))
    arrow(axes, (8.65, 0.94), (8.65, 2.2))
    arrow(axes, (11.1, 2.2), (12.45, 1.2))
    arrow(axes, (11.75, 3.5), (11.6, 3.02), color=ORANGE)

    for x, name in ((3.775, "KL"), (6.125, "r"), (8.65, "delta"), (11.1, "A")):
        write(axes, x, 3.2, signed(mine[name]), ha="center", weight="bold", color=BLUE)
    write(axes, 13.43, 0.33, signed(mine["R"]), ha="center", weight="bold", color=BLUE)
    write(axes, 6.125, 1.95, "no score: not the last", ha="center", size=SMALL, color=ORANGE)
    write(axes, 8.8, 1.5, rf"$V_{{next}}$ = {signed(coming['V'])}", size=SMALL, color=MUTED)
    write(axes, 11.5, 3.66, rf"$A_{{next}}$ = {signed(coming['A'])}", size=SMALL, color=ORANGE)


def draw() -> Figure:
    """Above the whole response, below the way of one of its tokens."""
    figure, axes = canvas(14.8, 7.7, scale=0.79)
    n = numbers()
    panel(axes, 0.2, 4.2, 14.4, 3.35, "A response, token by token")
    panel(axes, 0.2, 0.1, 14.4, 3.95, "The way of “joy”")
    strip(axes, n)
    way(axes, n)
    return figure


if __name__ == "__main__":
    save(draw, __file__)
