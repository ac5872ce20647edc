"""Graders of lesson 01: right answers in every form, wrong answers by name."""

import numpy as np
import torch
from grader_tools import told_apart

from rlhf import anatomy, checks, memory, museum


def by_object(model):
    return sum({id(w): w.numel() for w in model.parameters()}.values())


def walking(model):
    seen, total = set(), 0
    for part in model.modules():
        for weight in part.parameters(recurse=False):
            if id(weight) not in seen:
                total, seen = total + weight.numel(), seen | {id(weight)}
    return torch.tensor(total)


def decoder(vocab, hidden, layers, heads, kv_heads, ffn, tied):
    keys = hidden // heads * kv_heads
    block = hidden * (hidden + keys + keys + hidden) + 3 * hidden * ffn + 2 * hidden
    return vocab * hidden + (0 if tied else vocab * hidden) + layers * block + hidden


def changed(**lost):
    """The decoder's formula with something forgotten."""

    def formula(vocab, hidden, layers, heads, kv_heads, ffn, tied):
        keys = hidden if lost.get("gqa") else hidden // heads * kv_heads
        block = 2 * hidden**2 + 2 * hidden * keys + (2 if lost.get("gate") else 3) * hidden * ffn
        block += 0 if lost.get("norms") else 2 * hidden
        tables = lost.get("tables") or (1 if tied else 2)
        return (
            vocab * hidden * tables
            + layers * block
            + (0 if lost.get("last") or lost.get("norms") else hidden)
        )

    return formula


def read(shapes):
    layers = 1 + max(int(name.split(".")[2]) for name in shapes if ".layers." in name)
    hidden = shapes["model.embed_tokens.weight"][1]
    at = "model.layers.0."
    return {
        "layers": layers,
        "hidden": hidden,
        "ffn": shapes[at + "mlp.up_proj.weight"][0],
        "kv_width": shapes[at + "self_attn.v_proj.weight"][0],
        "tied": "lm_head.weight" not in shapes,
    }


def misread(**changes):
    return lambda shapes: read(shapes) | {key: change(shapes) for key, change in changes.items()}


RIGHT = [
    ("e01_1", (64, 16)),
    ("e01_1", (torch.tensor(64.0), np.float64(16))),
    ("e01_1", (64.3, 15.9)),
    ("e01_2", (by_object,)),
    ("e01_2", (walking,)),
    ("e01_2", (anatomy.count,)),
    ("e01_2", (lambda model: np.int64(by_object(model)),)),
    ("e01_3", (decoder,)),
    (
        "e01_3",
        (
            lambda vocab, hidden, layers, heads, kv_heads, ffn, tied: float(
                decoder(vocab, hidden, layers, heads, kv_heads, ffn, tied)
            ),
        ),
    ),
    ("e01_3", (changed(),)),
    ("e01_4", (lambda frozen, trained: 2 * frozen + 16 * trained,)),
    (
        "e01_4",
        (
            lambda frozen, trained: torch.tensor(
                2.0 * (frozen + trained) + 14.0 * trained, dtype=torch.float64
            ),
        ),
    ),
    ("e01_5", (read,)),
    ("e01_5", (misread(tied=lambda shapes: np.bool_("lm_head.weight" not in shapes)),)),
    ("e01_5", (misread(layers=lambda shapes: torch.tensor(read(shapes)["layers"])),)),
]

WRONG = [
    ("e01_1", (32, 8), "factor of 2"),
    ("e01_1", (2, 0.5), "one person"),
    ("e01_1", (128, 32), "2 bytes"),
    ("e01_1", (16, 4), "8 KV heads"),
    ("e01_1", (68.7, 17.2), "2^30"),
    ("e01_1", (64 * 2**30, 16 * 2**30), "in bytes"),
    ("e01_1", (64, 64), "KV heads only"),
    ("e01_1", (64, 32), "in proportion"),
    ("e01_1", (True, 16), "number"),
    ("e01_1", ([64, 64], 16), "One number"),
    ("e01_1", (7, 7), "Hint"),
    ("e01_2", (lambda m: sum(t.numel() for t in m.state_dict().values()),), "state_dict holds too much"),
    ("e01_2", (lambda m: sum(w.numel() for w in m.parameters() if w.requires_grad),), "frozen parameter"),
    ("e01_2", (lambda m: sum(w.numel() for _, w in m.named_parameters(remove_duplicate=False)),), "twice"),
    (
        "e01_2",
        (lambda m: sum(w.numel() for p in m.modules() for w in p.parameters(recurse=False)),),
        "one tensor",
    ),
    ("e01_2", (lambda m: by_object(m) + sum(b.numel() for b in m.buffers()),), "Buffers"),
    (
        "e01_2",
        (lambda m: sum({t.data_ptr(): t.numel() for t in m.state_dict().values()}.values()),),
        "Buffers",
    ),
    ("e01_2", (lambda m: sum(w.numel() for n, w in m.named_parameters() if "weight" in n),), "Biases"),
    ("e01_2", (lambda m: sum(w.numel() for w in m.parameters(recurse=False)),), "outermost"),
    ("e01_2", (lambda m: len(list(m.parameters())),), "tensors"),
    ("e01_2", (lambda m: by_object(m) * 4,), "the function says"),
    ("e01_2", (lambda m: list(m.parameters()),), "shape"),
    ("e01_3", (changed(gate=True),), "three matrices"),
    ("e01_3", (changed(gqa=True),), "kv_heads heads wide"),
    ("e01_3", (changed(norms=True),), "RMSNorms have parameters"),
    ("e01_3", (changed(last=True),), "outside the blocks"),
    ("e01_3", (changed(tables=1),), "of its own"),
    ("e01_3", (changed(tables=2),), "count once"),
    ("e01_3", (lambda *a: decoder(*a[:-1], not a[-1]),), "wrong way round"),
    (
        "e01_3",
        (
            lambda vocab, hidden, layers, heads, kv_heads, ffn, tied: (
                decoder(vocab, hidden, layers, heads, kv_heads, ffn, tied) - layers * hidden**2
            ),
        ),
        "output projection",
    ),
    ("e01_3", (lambda *a: decoder(*a) + 7,), "off by +7"),
    ("e01_4", (lambda frozen, trained: 16 * (frozen + trained),), "no gradient"),
    ("e01_4", (lambda frozen, trained: 2 * frozen + 12 * trained,), "4 bytes is missing"),
    ("e01_4", (lambda frozen, trained: 2 * frozen + 14 * trained,), "2 bytes each"),
    ("e01_4", (lambda frozen, trained: 2 * frozen + 18 * trained,), "2 bytes, not 4"),
    ("e01_4", (lambda frozen, trained: 4 * frozen + 18 * trained,), "not 4"),
    ("e01_4", (lambda frozen, trained: 16 * trained,), "lie in memory too"),
    ("e01_4", (lambda frozen, trained: frozen + trained,), "take 2,160 bytes"),
    ("e01_4", (lambda frozen, trained: (2 * frozen + 16 * trained) / 2**30,), "not 2.01166e-06"),
    ("e01_5", (misread(layers=lambda s: read(s)["layers"] - 1),), "numbered from 0"),
    ("e01_5", (misread(layers=lambda s: str(read(s)["layers"])),), "not text"),
    ("e01_5", (misread(layers=lambda s: sum(".layers." in name for name in s)),), "several tensors"),
    (
        "e01_5",
        (misread(layers=lambda s: 1 + int(sorted(n for n in s if ".layers." in n)[-1].split(".")[2])),),
        "sorted by name",
    ),
    ("e01_5", (misread(ffn=lambda s: s["model.layers.0.mlp.up_proj.weight"][1]),), "(out, in)"),
    ("e01_5", (misread(kv_width=lambda s: s["model.layers.0.self_attn.k_proj.weight"][1]),), "(out, in)"),
    ("e01_5", (misread(hidden=lambda s: s["model.embed_tokens.weight"][0]),), "second dimension"),
    ("e01_5", (misread(tied=lambda s: "lm_head.weight" in s),), "lm_head.weight"),
    ("e01_5", (lambda s: {"layers": 2},), "lacks 'hidden'"),
    ("e01_5", (lambda s: list(read(s).values()),), "Return a dict"),
]


test_right_answers_pass, test_wrong_answers_are_named = told_apart(RIGHT, WRONG)


def test_not_answered_yet():
    assert checks.e01_1(..., ...).passed is None and checks.e01_1(64, ...).passed is None
    for grade in (checks.e01_2, checks.e01_3, checks.e01_4, checks.e01_5):
        assert grade(lambda *args: None).passed is None
    assert checks.e01_5(lambda shapes: dict.fromkeys(read(shapes))).passed is None


def test_the_graders_agree_with_the_package():
    llama, qwen = museum.facts("llama-2-7b"), museum.card("qwen2.5-0.5b")
    cache = memory.kv_cache(llama, tokens=4096, batch=32) / 2**30
    assert checks.e01_1(cache, cache / 4).passed
    assert decoder(32_000, 4096, 32, 32, 32, 11_008, False) == llama.parameters
    biases = 24 * (896 + 2 * 128)  # Qwen2.5 has biases on queries, keys and values, Llama has none
    assert decoder(151_936, 896, 24, 14, 2, 4864, True) + biases == qwen.published
    plan = memory.plan_training(llama, trained=1000, dtype="bfloat16", master=True)
    assert plan.total == 2 * (llama.parameters - 1000) + 16 * 1000
    shapes = {name: tuple(w.shape) for name, w in museum.build("qwen2.5-0.5b").named_parameters()}
    assert read(shapes) == {"layers": 24, "hidden": 896, "ffn": 4864, "kv_width": 128, "tied": True}
