"""Graders of lesson 01: the size of a cache, a counter with bugs, two formulas, a file of weights to read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from rlhf.checks.compare import to_tensor
from rlhf.checks.verdict import NotAnswered, Wrong, grader, run


@grader
def e01_1(as_it_is, with_fewer_heads):
    """Two predictions in GiB: Llama-2-7B's cache for 32 contexts of 4,096 tokens, and with 8 KV heads."""
    whole = (
        2 * 32 * 32 * 128 * 4096 * 32 * 2 / 2**30
    )  # keys and values, layers, heads, width, tokens, batch, bytes
    first, second = (_number(value) for value in (as_it_is, with_fewer_heads))
    for guess, zh, en in (
        (
            whole / 2,
            "键和值各存一份：少了一个 2。",
            "Keys and values are both kept: a factor of 2 is missing.",
        ),
        (whole / 32, "这是一个人的：一共 32 个人。", "That is for one person; there are 32."),
        (whole * 2, "16 位是 2 个字节，不是 4 个。", "16 bits are 2 bytes, not 4."),
        (
            whole / 4,
            "这是 8 个键值头的结果；现在有 32 个。",
            "That is for 8 KV heads; there are 32 as it is.",
        ),
        (
            whole * 2**30 / 1e9,
            "这是 GB（10 的 9 次方）；1 GiB 是 2 的 30 次方字节。",
            "That is GB (10^9); 1 GiB is 2^30 bytes.",
        ),
        (whole * 2**30, "这是字节数：再除以 2 的 30 次方。", "That is in bytes: divide by 2^30."),
        (whole / 32 * 1024, "这是一个人的 MiB 数。", "That is for one person, in MiB."),
    ):
        if _near(first, guess):
            raise Wrong(zh, en)
    if not _near(first, whole):
        raise Wrong(
            f"第一个数不是 {first:.4g}。提示：2 × 层 × 键值头 × 头宽 × 词元 × 人数 × 字节数。",
            f"The first number is not {first:.4g}. Hint: 2 × layers × KV heads × head width × tokens "
            "× people × bytes.",
        )
    if _near(second, whole):
        raise Wrong(
            "第二个数应当变小：缓存只看键值头有几个。",
            "The second number is smaller: the cache depends on the KV heads only.",
        )
    if not _near(second, whole / 4):
        raise Wrong(
            f"第二个数不是 {second:.4g}：键值头从 32 个减到 8 个，缓存按比例变小。",
            f"The second number is not {second:.4g}: from 32 KV heads to 8, the cache shrinks in proportion.",
        )
    return (
        "正确。64 GiB 比 16 位的权重还大好几倍：同时服务很多人时，占内存的是缓存。",
        "Correct. 64 GiB is several times the 16-bit weights: with many users it is the cache that counts.",
    )


@grader
def e01_2(count_parameters):
    """``count_parameters(model) -> int``: shared tensors once, frozen ones too, buffers not."""
    models = _models()
    want = [sum(weight.numel() for weight in model.parameters()) for model in models]
    got = [_number(run(count_parameters, model)) for model in models]
    if got != want:
        for count, zh, en in MISCOUNTS:
            if got == [count(model) for model in models]:
                raise Wrong(zh, en)
        first, right = next(pair for pair in zip(got, want, strict=True) if pair[0] != pair[1])
        raise Wrong(
            f"有一个模型应当是 {right:,} 个参数，得到 {first:,.0f}。",
            f"One model has {right:,} parameters; the function says {first:,.0f}.",
        )
    return (
        "正确。PyTorch 的 parameters() 本来就按对象去重，named_parameters(remove_duplicate=False) 才按名字。",
        "Correct. PyTorch's parameters() goes by object; named_parameters(remove_duplicate=False) by name.",
    )


@grader
def e01_3(decoder_parameters):
    """``decoder_parameters(vocab, hidden, layers, heads, kv_heads, ffn, tied) -> int``, as in Llama."""
    cases = [
        (32_000, 4096, 32, 32, 32, 11_008, False),
        (500, 64, 3, 8, 2, 160, True),
        (128_256, 4096, 32, 32, 8, 14_336, False),
        (211, 48, 2, 4, 1, 96, True),
    ]
    want = [_decoder(*case) for case in cases]
    got = [_number(run(decoder_parameters, *case)) for case in cases]
    if got == want:
        return
    for mistake, zh, en in FORGOTTEN:
        if got == [_decoder(*case, mistake=mistake) for case in cases]:
            raise Wrong(zh, en)
    case, first, right = next(row for row in zip(cases, got, want, strict=True) if row[1] != row[2])
    raise Wrong(
        f"{_settings(case)} 应当是 {right:,}，得到 {first:,.0f}（相差 {first - right:+,.0f}）。",
        f"{_settings(case)} should give {right:,}, not {first:,.0f} (off by {first - right:+,.0f}).",
    )


@grader
def e01_4(training_bytes):
    """``training_bytes(frozen, trained) -> bytes``: 2 for every weight, 14 more for every one that learns."""
    for frozen, trained in ((1000, 10), (0, 7), (6_738_415_616, 20_000_000), (5, 0)):
        want, got = 2 * frozen + 16 * trained, _number(run(training_bytes, frozen, trained))
        if _close(got, want):
            continue
        for guess, zh, en in (
            (
                16 * (frozen + trained),
                "冻结的参数没有梯度、主权重和动量。",
                "What is frozen has no gradient, master copy or moments.",
            ),
            (
                2 * frozen + 12 * trained,
                "少了一份 4 字节的：主权重和两个动量都是 fp32。",
                "One piece of 4 bytes is missing: the master copy and both moments are fp32.",
            ),
            (
                2 * frozen + 14 * trained,
                "可训练的参数也有 bf16 的权重和梯度，各 2 字节。",
                "What learns has a weight and a gradient in bf16 too, 2 bytes each.",
            ),
            (
                2 * frozen + 18 * trained,
                "梯度是 bf16，占 2 字节，不是 4。",
                "The gradient is bf16: 2 bytes, not 4.",
            ),
            (
                4 * frozen + 16 * trained,
                "冻结的权重存成 bf16，占 2 字节。",
                "Frozen weights are kept in bf16: 2 bytes.",
            ),
            (
                4 * frozen + 18 * trained,
                "权重存成 bf16，占 2 字节，不是 4。",
                "Weights are kept in bf16: 2 bytes, not 4.",
            ),
            (16 * trained, "冻结的权重也在内存里。", "The frozen weights lie in memory too."),
        ):
            if _close(got, guess):
                raise Wrong(zh, en)
        raise Wrong(
            f"冻结 {frozen:,}、可训练 {trained:,} 时应当是 {want:,} 字节，得到 {got:,.6g}。",
            f"{frozen:,} frozen and {trained:,} learning take {want:,} bytes, not {got:,.6g}.",
        )


@grader
def e01_5(read_checkpoint):
    """``read_checkpoint(shapes) -> dict`` with layers, hidden, ffn, kv_width and tied."""
    keys = ("layers", "hidden", "ffn", "kv_width", "tied")
    for layers, hidden, ffn, kv_width, tied in (
        (2, 64, 172, 64, False),
        (12, 48, 96, 12, True),
        (3, 32, 200, 16, False),
    ):
        right = dict(zip(keys, (layers, hidden, ffn, kv_width, tied), strict=True))
        got = run(read_checkpoint, _shapes(**right, vocab=100))
        if not isinstance(got, dict):
            raise Wrong("请返回一个字典。", "Return a dict.")
        for key in keys:
            if key not in got:
                raise Wrong(f"字典里少了 {key!r}。", f"The dict lacks {key!r}.")
            if got[key] is None or got[key] is ...:
                raise NotAnswered
            if _plain(got[key]) != right[key]:
                zh, en = _misread(key, _plain(got[key]), right)
                raise Wrong(
                    f"{key} 应当是 {right[key]}，得到 {_plain(got[key])!r}。{zh}",
                    f"{key} should be {right[key]}, not {_plain(got[key])!r}. {en}",
                )


# ---- models to count, and how one miscounts them


class _Tied(nn.Module):
    """Embedding and head share a weight; a block is used twice; a buffer; part of it frozen."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight
        self.first = self.second = nn.Linear(5, 5)
        self.norm = nn.LayerNorm(5).requires_grad_(False)
        self.register_buffer("mask", torch.ones(9, 9))


def _models() -> list[nn.Module]:
    return [
        nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)),
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),  # running statistics are buffers
        nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6).requires_grad_(False)),
        _Tied(),
    ]


def _by_name(model: nn.Module) -> int:
    return sum(w.numel() for _, w in model.named_parameters(remove_duplicate=False))


Miscount = tuple[Callable[[nn.Module], int], str, str]
MISCOUNTS: tuple[Miscount, ...] = (
    (
        lambda m: sum(t.numel() for t in m.state_dict().values()),
        "state_dict 里有两样不该数的东西：共享的张量出现两次，缓冲区（掩码、统计量）不是参数。",
        "state_dict holds too much: shared tensors twice, and buffers (masks, statistics), no parameters.",
    ),
    (
        lambda m: sum(w.numel() for w in m.parameters() if w.requires_grad),
        "冻结的参数也是参数：不要按 requires_grad 筛选。",
        "A frozen parameter is a parameter: do not filter by requires_grad.",
    ),
    (
        _by_name,
        "共享的张量数了两次：按对象（id）数，不要按名字数。",
        "Shared tensors were counted twice: go by the object (id), not by the name.",
    ),
    (
        lambda m: sum(w.numel() for part in m.modules() for w in part.parameters(recurse=False)),
        "共享的张量数了两次：两个模块可以挂着同一个张量，按对象（id）去重。",
        "Shared tensors were counted twice: two modules may hold one tensor, so go by the object (id).",
    ),
    (
        lambda m: sum({t.data_ptr(): t.numel() for t in m.state_dict().values()}.values()),
        "缓冲区（掩码、统计量）不是参数。",
        "Buffers (masks, statistics) are no parameters.",
    ),
    (
        lambda m: sum(w.numel() for w in m.parameters()) + sum(b.numel() for b in m.buffers()),
        "缓冲区（掩码、统计量）不是参数。",
        "Buffers (masks, statistics) are no parameters.",
    ),
    (
        lambda m: sum(w.numel() for n, w in m.named_parameters() if n.endswith("weight")),
        "偏置也是参数。",
        "Biases are parameters too.",
    ),
    (
        lambda m: sum(w.numel() for w in m.parameters(recurse=False)),
        "只数了最外层：要走遍整棵树。",
        "Only the outermost module was counted: walk the whole tree.",
    ),
    (
        lambda m: len(list(m.parameters())),
        "这是张量的个数：每个张量里有 numel() 个数。",
        "That is how many tensors there are: each holds numel() numbers.",
    ),
)


# ---- the formula, and what one forgets


def _decoder(vocab, hidden, layers, heads, kv_heads, ffn, tied, mistake: str = "") -> int:
    keys = hidden if mistake == "gqa" else hidden * kv_heads // heads
    matrices = 2 if mistake == "gate" else 3
    norms = 0 if mistake == "norms" else 2 * hidden
    block = 2 * hidden**2 + 2 * hidden * keys + matrices * hidden * ffn + norms
    if mistake == "output":
        block -= hidden**2
    tables = {"tied": 2, "untied": 1}.get(mistake, 1 if tied else 2)
    if mistake == "swapped":
        tables = 2 if tied else 1
    last = 0 if mistake in ("last", "norms") else hidden
    return vocab * hidden * tables + layers * block + last


FORGOTTEN = (
    (
        "gate",
        "带门的前馈层有三个矩阵：门、上、下。",
        "A feed-forward layer with a gate has three matrices: gate, up, down.",
    ),
    (
        "gqa",
        "键和值的投影只有 kv_heads 个头那么宽。",
        "The projections of keys and values are only kv_heads heads wide.",
    ),
    ("last", "少了块外面的最后一个 RMSNorm。", "The last RMSNorm, outside the blocks, is missing."),
    (
        "norms",
        "RMSNorm 也有参数：每个块两个，外面一个。",
        "RMSNorms have parameters too: two in each block, one outside.",
    ),
    (
        "untied",
        "不共享时，输出层另有一个 vocab × hidden 的矩阵。",
        "Unless it is tied, the output layer has a vocab × hidden matrix of its own.",
    ),
    (
        "tied",
        "共享时，词嵌入和输出层是同一个矩阵，只数一次。",
        "When tied, embedding and output layer are one matrix and count once.",
    ),
    (
        "swapped",
        "tied 的意思反了：共享时只有一个矩阵。",
        "tied the wrong way round: when tied there is a single matrix.",
    ),
    ("output", "少了注意力的输出投影。", "The output projection of attention is missing."),
)


def _settings(case: tuple) -> str:
    names = ("vocab", "hidden", "layers", "heads", "kv_heads", "ffn", "tied")
    return ", ".join(f"{name}={value}" for name, value in zip(names, case, strict=True))


# ---- a file of weights


def _shapes(layers: int, hidden: int, ffn: int, kv_width: int, tied: bool, vocab: int) -> dict[str, tuple]:
    """Names and shapes as in a Llama checkpoint; sorted as in files, where layer 10 comes before layer 2."""
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        shapes |= {at + f"self_attn.{p}_proj.weight": (hidden, hidden) for p in "qo"}
        shapes |= {at + f"self_attn.{p}_proj.weight": (kv_width, hidden) for p in "kv"}
        shapes |= {at + f"mlp.{p}_proj.weight": (ffn, hidden) for p in ("gate", "up")}
        shapes |= {at + "mlp.down_proj.weight": (hidden, ffn)}
        shapes |= {at + f"{p}_layernorm.weight": (hidden,) for p in ("input", "post_attention")}
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    return dict(sorted(shapes.items()))


def _misread(key: str, got, right: dict) -> tuple[str, str]:
    if isinstance(got, str):
        return "要数字，不要文本：用 int() 转换。", "A number is needed, not text: convert it with int()."
    if key == "layers" and got == right["layers"] - 1:
        return "层号从 0 开始。", "Layers are numbered from 0."
    if key == "layers" and isinstance(got, int) and got > right["layers"]:
        return (
            "一层有好几个张量：数不同的层号。",
            "A layer has several tensors: count different layer numbers.",
        )
    if key == "layers" and got == 10:
        return (
            "文件里按名字排序，10 排在 2 前面：别只看最后一个。",
            "Files are sorted by name, 10 before 2: do not take the last one.",
        )
    if key in ("ffn", "kv_width") and got == right["hidden"]:
        return (
            "权重的形状是 (out, in)：输出宽度在前。",
            "A weight has the shape (out, in): the output width comes first.",
        )
    if key == "hidden" and got in (right["ffn"], 100):
        return (
            "隐状态的宽度是词嵌入的第二维。",
            "The width of the hidden state is the second dimension of the embedding.",
        )
    if key == "tied":
        return "看文件里有没有 lm_head.weight。", "Look whether the file holds lm_head.weight."
    return "看清楚是哪个张量、哪一维。", "Mind which tensor and which dimension."


def _number(value) -> float:
    """One number from whatever the student handed in; a bool, a list or a tensor of many is none."""
    if isinstance(value, bool):
        raise Wrong("请给一个数字。", "Give a number.")
    tensor = to_tensor(value)
    if tensor.numel() != 1:
        raise Wrong(
            f"应当是一个数，得到形状 {tuple(tensor.shape)}。",
            f"One number is needed, not shape {tuple(tensor.shape)}.",
        )
    return float(tensor)


def _plain(value):
    """A tensor or NumPy number as a Python one, so that equal values compare equal."""
    return value.item() if hasattr(value, "item") else value


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 0.01 * abs(b)


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(1.0, abs(b))
