"""Graders of lesson 06: right answers in every form, and every wrong one by its name."""

import numpy as np
import pytest
import torch
from grader_tools import told_apart

from rlhf import checks
from rlhf.ppo import losses


def logprobs(logits, ids, query, response):
    table = logits[query - 1 : query - 1 + response].log_softmax(-1)
    return table.gather(-1, ids[query : query + response, None]).squeeze(-1)


def logprobs_by_loop(logits, ids, query, response):
    return [float(logits[t].log_softmax(-1)[ids[t + 1]]) for t in range(query - 1, query - 1 + response)]


def argmax(logits, ids, query, response):
    return logits.log_softmax(-1).amax(-1)[query - 1 : query - 1 + response]


def argmax_and_late(logits, ids, query, response):
    return logits.log_softmax(-1).amax(-1)[query : query + response]


def late(logits, ids, query, response):
    return losses.logprobs_from_logits(logits[None], ids.roll(-1)[None])[0, query : query + response]


def unshifted(logits, ids, query, response):
    return losses.logprobs_from_logits(logits[None], ids[None])[0, query : query + response]


def late_inside(logits, ids, query, response):  # T-1 slots, then the wrong start: one number is missing
    return losses.logprobs_from_logits(logits[None, :-1], ids[None, 1:])[0, query : query + response]


def rewards_of(scores, kl, mask, beta):
    return losses.token_rewards(scores, kl, mask, beta)[0] * mask


def advantages(scores, kl, values, mask, beta, gamma, lam):
    return losses.gae(rewards_of(scores, kl, mask, beta), values * mask, gamma, lam)


def advantages_with_a_tail(scores, kl, values, mask, beta, gamma, lam):
    return torch.where(mask.bool(), advantages(scores, kl, values, mask, beta, gamma, lam), 77.0)


def advantages_by_sums(scores, kl, values, mask, beta, gamma, lam):
    delta = losses.td_errors(rewards_of(scores, kl, mask, beta), values * mask, gamma)
    n = delta.shape[1]
    return [
        [float(sum((gamma * lam) ** k * row[t + k] for k in range(n - t))) for t in range(n)] for row in delta
    ]


def deltas(scores, kl, values, mask, beta, gamma, lam):
    return losses.td_errors(rewards_of(scores, kl, mask, beta), values * mask, gamma)


def last_column(scores, kl, values, mask, beta, gamma, lam, keep=True):
    rewards = -beta * kl
    rewards[:, -1] += scores
    return losses.gae(rewards * mask if keep else rewards, values * mask, gamma, lam)


def both(scores, kl, values, mask, beta, gamma, lam):
    rewards = -beta * kl
    rewards[:, -1] += scores
    return losses.td_errors(rewards * mask, values * mask, gamma)


def everywhere(scores, kl, values, mask, beta, gamma, lam):
    return losses.gae((-beta * kl + scores[:, None]) * mask, values * mask, gamma, lam)


def whiten(x, mask):
    live = x[mask.bool()]
    return (x - live.mean()) / live.std() * mask


def whiten_plainly(x, mask):
    live = x[mask.bool()].numpy()
    return (x.numpy() - live.mean()) / live.std() * mask.numpy()


def whiten_padding(x, mask):
    x = x * mask
    return (x - x.mean()) / x.std() * mask


def whiten_with_zeros_in_the_spread(x, mask):
    return (x - x[mask.bool()].mean()) / (x * mask).std() * mask


def clipped(ratio, advantages, epsilon):
    return ((advantages > 0) & (ratio > 1 + epsilon)) | ((advantages < 0) & (ratio < 1 - epsilon))


def clipped_by_terms(ratio, advantages, epsilon):
    plain, cut = losses.policy_terms(ratio, advantages, epsilon)
    return (cut > plain).int()


def clipped_by_loop(ratio, advantages, epsilon):
    return [
        [(a > 0 and r > 1 + epsilon) or (a < 0 and r < 1 - epsilon) for r, a in zip(*rows, strict=True)]
        for rows in zip(ratio.tolist(), advantages.tolist(), strict=True)
    ]


def outside(ratio, advantages, epsilon):
    return (ratio - 1).abs() > epsilon


def outside_the_wrong_way(ratio, advantages, epsilon):
    return ((advantages < 0) & (ratio > 1 + epsilon)) | ((advantages > 0) & (ratio < 1 - epsilon))


RIGHT = [
    ("e06_1", logprobs),
    ("e06_1", logprobs_by_loop),
    ("e06_1", lambda *a: logprobs(*a).numpy()),
    ("e06_2", advantages),
    ("e06_2", advantages_with_a_tail),
    ("e06_2", advantages_by_sums),
    (
        "e06_2",
        lambda scores, kl, values, mask, beta, gamma, lam: advantages(
            scores, kl, values, mask, beta, gamma, lam
        ),
    ),
    ("e06_3", [0, 1.5 * 0.95**9, 1.5]),
    ("e06_3", ((0.0, 0.945, 1.5),)),
    ("e06_3", torch.tensor([0.0, 0.9454, 1.5])),
    ("e06_3", np.array([0.0, 0.95, 1.5])),
    ("e06_4", whiten),
    ("e06_4", whiten_plainly),
    ("e06_4", losses.whiten),
    ("e06_5", clipped),
    ("e06_5", clipped_by_terms),
    ("e06_5", clipped_by_loop),
]

WRONG = [
    ("e06_1", argmax, "argmax"),
    ("e06_1", argmax_and_late, "both mistakes"),
    ("e06_1", late, "one slot late"),
    ("e06_1", unshifted, "one position earlier"),
    ("e06_1", late_inside, "one slot late"),
    ("e06_1", lambda logits, ids, q, r: logprobs(logits, ids.roll(1), q, r), "shift the tokens"),
    (
        "e06_1",
        lambda logits, ids, q, r: logits[q - 1 : q - 1 + r].gather(-1, ids[q : q + r, None])[:, 0],
        "log_softmax",
    ),
    ("e06_1", lambda *a: logprobs(*a).exp(), "take the logarithm"),
    ("e06_1", lambda *a: -logprobs(*a), "wrong sign"),
    (
        "e06_1",
        lambda z, ids, q, r: z.log_softmax(0)[torch.arange(q - 1, q - 1 + r), ids[q : q + r]],
        "dimension",
    ),
    ("e06_2", deltas, "these are the δ"),
    ("e06_2", both, "both mistakes"),
    ("e06_2", last_column, "last column"),
    ("e06_2", lambda *a: last_column(*a, keep=False), "last column"),
    ("e06_2", everywhere, "every slot"),
    ("e06_2", lambda s, *a: advantages(torch.zeros_like(s), *a), "score is missing"),
    ("e06_2", lambda s, kl, *a: advantages(s, -kl, *a), "sign of the KL"),
    ("e06_2", lambda *a: advantages(*a[:-1], 1.0), "λ is missing"),
    ("e06_2", lambda *a: advantages(*a[:-2], 1.0, a[-1]), "γ is missing"),
    ("e06_2", lambda *a: advantages(*a[:-3], 1.0, *a[-2:]), "β is missing"),
    ("e06_2", lambda s, kl, v, m, *a: advantages(s, kl, v, m, *a) + v * m, "returns"),
    ("e06_2", lambda s, kl, v, m, *a: losses.whiten(advantages(s, kl, v, m, *a), m), "do not whiten"),
    ("e06_2", lambda s, kl, v, m, b, g, lam: deltas(s, kl, v, m, b, g, lam).cumsum(1), "wrong in"),
    ("e06_3", [0, 2 * 0.95**9, 2.0], "expected"),
    ("e06_3", [0, 1.5 * 0.95**10, 1.5], "9 steps"),
    ("e06_3", [1.5, 1.5, 1.5], "does not see"),
    ("e06_3", [-0.5, 0.945, 1.5], "has a value too"),
    ("e06_3", [0, 1.5, 1.5], "slot by slot"),
    ("e06_3", [0, 0.945, 9.0], "only the last"),
    ("e06_3", [0, 1.5], "Three numbers"),
    ("e06_3", 0.945, "a list"),
    ("e06_4", whiten_padding, "padding got into"),
    ("e06_4", lambda x, mask: (x - x.mean()) / x.std() * mask, "padding got into"),
    ("e06_4", whiten_with_zeros_in_the_spread, "padding got into"),
    ("e06_4", lambda x, mask: (x - x[mask.bool()].mean()) * mask, "standard deviation, too"),
    ("e06_4", lambda x, mask: x / x[mask.bool()].std() * mask, "subtract the mean"),
    ("e06_4", lambda x, mask: (x - x[mask.bool()].mean()) / x[mask.bool()].var() * mask, "variance"),
    ("e06_4", lambda x, mask: (x - x[mask.bool()].mean()) / x[mask.bool()].std(), "padding only"),
    ("e06_4", lambda x, mask: whiten(x, mask)[mask.bool()], "shape"),
    ("e06_5", outside, "not enough"),
    ("e06_5", lambda r, a, e: outside(r, a, e) & (a != 0), "mind the direction"),
    ("e06_5", outside_the_wrong_way, "swapped"),
    ("e06_5", lambda *a: ~clipped(*a), "swapped"),
    ("e06_5", lambda r, a, e: (a > 0) & (r > 1 + e), "A < 0 is missing"),
    ("e06_5", lambda r, a, e: (a < 0) & (r < 1 - e), "A > 0 is missing"),
    ("e06_5", lambda r, a, e: torch.zeros_like(r), "it should be True"),
    ("e06_5", lambda r, a, e: clipped(r, a, 0.2), "it should be"),
    ("e06_5", lambda r, a, e: r, "True and False"),
    ("e06_5", lambda r, a, e: clipped(r, a, e).any(), "one sum or mean too many"),
]


test_right_answers_pass, test_wrong_answers_are_named = told_apart(RIGHT, WRONG)


def test_the_buggy_functions_of_the_lesson_are_caught():
    """The very functions that the lesson shows, taken from its source."""
    from rlhf import profiles

    source = (profiles.CHECKOUT / "lessons" / "06_ppo_step_by_step.py").read_text(encoding="utf-8")
    found = {"torch": torch}
    for cell in source.split("# %%"):
        if "def buggy_" in cell:
            exec(cell.partition("\n")[2], found)
    for name, grade, said in (
        ("buggy_logprobs", checks.e06_1, "both mistakes"),
        ("buggy_advantages", checks.e06_2, "both mistakes"),
        ("buggy_whiten", checks.e06_4, "padding got into"),
    ):
        verdict = grade(found[name])
        assert verdict.passed is False and said in verdict.en, verdict


@pytest.mark.parametrize("answer", [None, ..., [..., ..., ...]])
def test_no_answer_is_no_verdict(answer):
    assert checks.e06_3(answer).passed is None
    assert checks.e06_1(lambda *a: None).passed is None


def test_the_prediction_agrees_with_the_package():
    rewards, values = torch.zeros(1, 10), torch.full((1, 10), 0.5)
    rewards[0, -1] = 2.0
    got = [losses.gae(rewards, values, 1.0, lam)[0, 0].item() for lam in (0.0, 0.95, 1.0)]
    assert checks.e06_3(got).passed
