"""Graders of lesson 02: right answers in several forms, wrong ones by name."""

import math

import numpy as np
import torch
from grader_tools import told_apart
from torch.nn import functional as F

from rlhf import blocks, checks

INF = float("inf")


def attention(query, key, value, mask):
    scores = (query @ key.T / math.sqrt(query.shape[-1])).masked_fill(~mask, -INF)
    return scores.softmax(-1) @ value


def additive(query, key, value, mask):
    scores = query @ key.T * query.shape[-1] ** -0.5 + torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return weights @ value


def library(query, key, value, mask):
    return F.scaled_dot_product_attention(query[None], key[None], value[None], attn_mask=mask)[0]


def buggy_attention(query, key, value, mask):
    return ((query @ key.T) * mask) @ value


def unscaled(query, key, value, mask):
    return (query @ key.T).masked_fill(~mask, -INF).softmax(-1) @ value


def scaled_by_d(query, key, value, mask):
    return (query @ key.T / query.shape[-1]).masked_fill(~mask, -INF).softmax(-1) @ value


def without_softmax(query, key, value, mask):
    return (query @ key.T / query.shape[-1] ** 0.5 * mask) @ value


def maskless(query, key, value, mask):
    return blocks.attention(query, key, value)[0]


def masked_afterwards(query, key, value, mask):
    return (blocks.attention(query, key, value)[1] * mask) @ value


def masked_with_zero(query, key, value, mask):
    return (query @ key.T / query.shape[-1] ** 0.5 * mask).softmax(-1) @ value


def softmax_over_queries(query, key, value, mask):
    return (query @ key.T / query.shape[-1] ** 0.5).masked_fill(~mask, -INF).softmax(0) @ value


def loop_positions(mask):
    return [[max(0, sum(row[: i + 1]) - 1) for i in range(len(row))] for row in mask.tolist()]


def filled_positions(mask):
    return (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 1)


def block(x, attention, ffn, norm_1, norm_2):
    x = attention(norm_1(x)) + x
    return ffn(norm_2(x)) + x


def buggy_block(x, attention, ffn, norm_1, norm_2):
    first = attention(norm_1(x))
    return x + first + first


def without_residual(x, attention, ffn, norm_1, norm_2):
    return ffn(norm_2(x + attention(norm_1(x))))


def parallel(x, attention, ffn, norm_1, norm_2):
    return x + attention(norm_1(x)) + ffn(norm_2(x))


def post_ln(x, attention, ffn, norm_1, norm_2):
    x = norm_1(x + attention(x))
    return norm_2(x + ffn(x))


def one_norm(x, attention, ffn, norm_1, norm_2):
    x = x + attention(norm_1(x))
    return x + ffn(norm_1(x))


def forgets_attention(x, attention, ffn, norm_1, norm_2):
    return x + ffn(norm_2(x + attention(norm_1(x))))


def swiglu(x, w_gate, w_up, w_down):
    return F.linear(F.silu(F.linear(x, w_gate)) * F.linear(x, w_up), w_down)


def glu(act, swap=False):
    def layer(x, w_gate, w_up, w_down):
        gate, up = (w_up, w_gate) if swap else (w_gate, w_up)
        return (act(x @ gate.T) * (x @ up.T)) @ w_down.T

    return layer


RIGHT = [
    ("e02_1", (attention,)),
    ("e02_1", (additive,)),
    ("e02_1", (library,)),
    ("e02_1", (blocks.attention,)),
    ("e02_1", (lambda *a: attention(*a).numpy(),)),
    ("e02_2", (blocks.position_ids,)),
    ("e02_2", (loop_positions,)),
    ("e02_2", (filled_positions,)),
    ("e02_2", (lambda mask: torch.clip(mask.cumsum(1) - 1, min=0).float(),)),
    ("e02_3", (block,)),
    ("e02_3", (lambda *a: block(*a).numpy(),)),
    ("e02_4", (swiglu, 2048)),
    ("e02_4", (lambda x, g, u, d: (x @ u.T * (x @ g.T) / (1 + torch.exp(-x @ g.T))) @ d.T, 2048.0)),
    ("e02_4", (glu(F.silu), np.int64(2048))),
    ("e02_5", ("lower", "higher")),
    ("e02_5", (" Lower ", "更高")),
]

WRONG = [
    ("e02_1", (buggy_attention,), "faulty function"),
    ("e02_1", (unscaled,), "not divided by √d"),
    ("e02_1", (scaled_by_d,), "divides by d"),
    ("e02_1", (without_softmax,), "no softmax"),
    ("e02_1", (maskless,), "sees the future"),
    ("e02_1", (masked_afterwards,), "after the softmax"),
    ("e02_1", (masked_with_zero,), "exp(0) = 1"),
    ("e02_1", (softmax_over_queries,), "wrong way"),
    ("e02_1", (lambda q, k, v, mask: attention(q, k, v, ~mask),), "NaN"),
    ("e02_1", (lambda q, k, v, mask: attention(q, k, v, mask)[:, :1],), "shape"),
    ("e02_2", (lambda mask: torch.arange(mask.shape[1]).expand_as(mask),), "Padding is counted"),
    ("e02_2", (lambda mask: mask.cumsum(-1),), "starts at 1"),
    ("e02_2", (lambda mask: mask.cumsum(-1) - 1,), "no valid position"),
    ("e02_2", (lambda mask: torch.arange(mask.shape[1]),), "shape"),
    ("e02_2", (lambda mask: torch.zeros_like(mask),), "The tensor of positions"),
    ("e02_3", (buggy_block,), "thrown away"),
    ("e02_3", (without_residual,), "second residual is missing"),
    ("e02_3", (parallel,), "GPT-J"),
    ("e02_3", (post_ln,), "post-LN"),
    ("e02_3", (one_norm,), "norm of its own"),
    ("e02_3", (forgets_attention,), "lost from the stream"),
    ("e02_3", (lambda x, attention, ffn, n1, n2: x + attention(n1(x)),), "not added at all"),
    ("e02_4", (glu(F.silu, swap=True), 2048), "wrong branch"),
    ("e02_4", (glu(torch.sigmoid), 2048), "sigmoid"),
    ("e02_4", (glu(F.gelu), 2048), "GEGLU"),
    ("e02_4", (glu(F.relu), 2048), "ReGLU"),
    ("e02_4", (glu(lambda g: g), 2048), "Bilinear"),
    ("e02_4", (lambda x, g, u, d: F.silu(x @ u.T) @ d.T, 2048), "plain FFN"),
    ("e02_4", (lambda x, g, u, d: (F.silu(x @ g.T) + x @ u.T) @ d.T, 2048), "multiplied"),
    ("e02_4", (swiglu, 3072), "half as many weights again"),
    ("e02_4", (swiglu, 1536), "not four"),
    ("e02_4", (swiglu, 2000), "4,608,000 weights"),
    ("e02_5", ("higher", "higher"), "the answer itself"),
    ("e02_5", ("lower", "lower"), "none to copy"),
    ("e02_5", ("lower", "maybe"), "Write"),
]


test_right_answers_pass, test_wrong_answers_are_named = told_apart(RIGHT, WRONG)


def test_half_an_answer_is_not_answered_yet():
    assert checks.e02_4(swiglu, ...).passed is None
    assert checks.e02_5("lower", None).passed is None
    assert checks.e02_1(lambda *a: ...).passed is None


def test_the_matched_width_follows_the_lesson():
    assert checks.e02_4(swiglu, 256, width=96, ffn_hidden=384).passed
    assert not checks.e02_4(swiglu, 2048, width=96, ffn_hidden=384).passed
