"""Graders of lesson 03: right answers in every form, wrong ones by name."""

import math

import torch
from grader_tools import told_apart

from rlhf import checks, lora
from rlhf.gpt import keep_top_p
from rlhf.published import is_transposed

COUNT = 12 * 8 * (768 + 2304 + 768 + 768)


# ------------------------------------------------------------------------------------------ Conv1D (2)


def by_name(name, tensor, shape):
    conv1d = ".attn." in name or ".mlp." in name
    return tensor.T if conv1d and name.endswith("weight") else tensor


def by_shape(name, tensor, shape):  # the bug of the lesson
    return tensor.T if tuple(tensor.shape) != shape else tensor


def every_matrix(name, tensor, shape):
    return tensor.T if tensor.dim() == 2 else tensor


def forgets_the_ffn(name, tensor, shape):
    return tensor.T if ".attn." in name and tensor.dim() == 2 else tensor


def reshapes(name, tensor, shape):
    return tensor.reshape(shape)


# ------------------------------------------------------------------------------------------- top-p (3)


def one_by_one(logits, p):
    result = torch.full_like(logits, float("-inf"))
    for r, row in enumerate(logits):
        total = 0.0
        for i in row.argsort(descending=True):
            result[r, i] = row[i]
            total += row.softmax(-1)[i]
            if total >= p:
                break
    return result


def drops_the_crossing_one(logits, p):
    probability, order = logits.softmax(-1).sort(descending=True)
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, probability.cumsum(-1) > p)
    return logits.masked_fill(dropped, float("-inf"))


def at_least_one(logits, p):
    kept = drops_the_crossing_one(logits, p)
    best = logits.argmax(-1, keepdim=True)
    return kept.scatter(-1, best, logits.gather(-1, best))


def stays_sorted(logits, p):
    values = logits.sort(descending=True).values
    probability = values.softmax(-1)
    return values.masked_fill(probability.cumsum(-1) - probability >= p, float("-inf"))


def threshold(logits, p):
    return logits.masked_fill(logits.softmax(-1) < 1 - p, float("-inf"))


# ------------------------------------------------------------------------------------------- LoRA (4, 5)


def merged(w, a, b, alpha):
    return w + alpha / a.shape[0] * b @ a


def prepare(model, patterns, fresh):
    lora.inject(model, patterns, rank=2, keep=fresh)
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)


def by_hand(model, patterns, fresh):
    lora.inject(model, patterns, rank=3)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or any(name.startswith(f + ".") for f in fresh))
    return torch.optim.SGD(model.parameters(), lr=0.1)


def two_groups(model, patterns, fresh):
    lora.inject(model, patterns, rank=1)
    new = [p for name in fresh for p in model.get_submodule(name).requires_grad_(True).parameters()]
    adapters = [p for n, p in model.named_parameters() if "lora_" in n]
    return torch.optim.Adam([{"params": adapters, "lr": 1e-2}, {"params": new, "lr": 1e-1}])


def too_early(model, patterns, fresh):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    lora.inject(model, patterns, rank=2, keep=fresh)
    return optimizer


def as_in_the_lesson(model, patterns, fresh):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    lora.inject(model, patterns, rank=2)
    return optimizer


def head_frozen(model, patterns, fresh):
    lora.inject(model, patterns, rank=2)
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)


def everything_learns(model, patterns, fresh):
    lora.inject(model, patterns, rank=2)
    return torch.optim.AdamW(model.requires_grad_(True).parameters(), lr=0.01)


def only_b(model, patterns, fresh):
    lora.inject(model, patterns, rank=2, keep=fresh)
    return torch.optim.AdamW([p for n, p in model.named_parameters() if not n.endswith("lora_A")], lr=0.01)


def wrong_layers(model, patterns, fresh):
    lora.inject(model, ["*.up"], rank=2, keep=fresh)
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)


def no_adapters(model, patterns, fresh):
    return torch.optim.AdamW(model.get_submodule(fresh[0]).parameters(), lr=0.01)


def all_frozen(model, patterns, fresh):
    optimizer = head_frozen(model, patterns, fresh)
    model.requires_grad_(False)
    return optimizer


RIGHT = [
    ("e03_1", (math.log(50257), COUNT)),
    ("e03_1", (10.8, float(COUNT))),
    ("e03_1", (torch.tensor(10.83), torch.tensor(442_368))),
    ("e03_2", (by_name,)),
    ("e03_2", (lambda name, tensor, shape: by_name(name, tensor, shape).numpy(),)),
    ("e03_2", (lambda name, tensor, shape: by_name(name, tensor, shape).tolist(),)),
    ("e03_3", (keep_top_p,)),
    ("e03_3", (one_by_one,)),
    ("e03_3", (lambda logits, p: one_by_one(logits, p).clamp(min=-1e9),)),
    ("e03_3", (lambda logits, p: one_by_one(logits, p).numpy(),)),
    ("e03_4", (merged,)),
    ("e03_4", (lambda W, A, B, alpha: W + torch.einsum("or,ri->oi", B, A) * (alpha / len(A)),)),
    ("e03_4", (lambda W, A, B, alpha: merged(W, A, B, alpha).numpy(),)),
    ("e03_5", (prepare,)),
    ("e03_5", (by_hand,)),
    ("e03_5", (two_groups,)),
]

WRONG = [
    ("e03_1", (math.log2(50257), COUNT), "base 2"),
    ("e03_1", (1 / 50257, COUNT), "minus its logarithm"),
    ("e03_1", (50257, COUNT), "perplexity"),
    ("e03_1", (0.0, COUNT), "1 / V"),
    ("e03_1", ("10.8", COUNT), "should be numbers"),
    ("e03_1", (10.825, 12 * 8 * 4 * 768), "3H wide"),
    ("e03_1", (10.825, 12 * 8 * 2 * 768), "the B too"),
    ("e03_1", (10.825, COUNT / 12), "n_layer"),
    ("e03_1", (10.825, COUNT / 8), "rank r is missing"),
    ("e03_1", (10.825, 12 * 4 * 768 * 768), "full matrices"),
    ("e03_1", (10.825, 124_439_808), "r·in"),
    ("e03_2", (by_shape,), "square"),
    ("e03_2", (lambda name, tensor, shape: tensor,), "has to be transposed"),
    ("e03_2", (every_matrix,), "embedding table"),
    ("e03_2", (forgets_the_ffn,), "h.11.mlp.c_fc.weight is a Conv1D"),
    ("e03_2", (reshapes,), "wrong in"),
    ("e03_3", (drops_the_crossing_one,), "One too few"),
    ("e03_3", (lambda logits, p: logits - float("inf"),), "the token that crosses p is kept"),
    ("e03_3", (at_least_one,), "One too few"),
    ("e03_3", (stays_sorted,), "back in place"),
    ("e03_3", (threshold,), "from the largest down"),
    ("e03_3", (lambda logits, p: logits,), "Nothing was dropped"),
    ("e03_3", (lambda logits, p: logits[0],), "shape"),
    ("e03_3", (lambda logits, p: keep_top_p(logits, p).softmax(-1),), "not probabilities"),
    ("e03_4", (lambda w, a, b, alpha: w + b @ a,), "is missing"),
    ("e03_4", (lambda w, a, b, alpha: w + alpha * b @ a,), "not α"),
    ("e03_4", (lambda w, a, b, alpha: w + len(a) / alpha * b @ a,), "upside down"),
    ("e03_4", (lambda w, a, b, alpha: w - alpha / len(a) * b @ a,), "not subtracted"),
    ("e03_4", (lambda w, a, b, alpha: alpha / len(a) * b @ a,), "wrong in"),
    ("e03_4", (lambda w, a, b, alpha: w + a @ b,), "RuntimeError"),
    ("e03_5", (too_early,), "did not exist yet"),
    ("e03_5", (as_in_the_lesson,), "did not exist yet"),
    ("e03_5", (head_frozen,), "v_head has not moved"),
    ("e03_5", (everything_learns,), "should be frozen"),
    ("e03_5", (only_b,), "A and B both"),
    ("e03_5", (wrong_layers,), "wrong layers"),
    ("e03_5", (no_adapters,), "no adapters"),
    ("e03_5", (all_frozen,), "every parameter is frozen"),
    ("e03_5", (lambda *a: [prepare(*a)],), "Return the optimizer"),
]


test_right_answers_pass, test_wrong_answers_are_named = told_apart(RIGHT, WRONG)


def test_not_answered_yet():
    assert checks.e03_1(10.8, ...).passed is None
    for name in ("e03_2", "e03_3", "e03_4", "e03_5"):
        assert getattr(checks, name)(lambda *a: None).passed is None


def test_other_sizes_reach_the_grader():
    assert checks.e03_1(math.log(100), 2 * 3 * 6 * 10, vocab=100, layers=2, width=10, rank=3).passed


def test_the_grader_leaves_the_random_numbers_of_the_notebook_alone():
    torch.manual_seed(1)
    want = torch.rand(3)
    torch.manual_seed(1)
    checks.e03_2(by_name)
    checks.e03_3(keep_top_p)
    assert torch.equal(torch.rand(3), want)


def test_the_package_does_it_right():
    assert is_transposed("decoder.blocks.0.attention.out.weight")
    assert not is_transposed("decoder.token_embedding.weight")
