"""Graders of lesson 03: what a fresh model costs, Conv1D, top-p, merging, and who learns under LoRA."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from rlhf.checks.compare import compare, to_tensor
from rlhf.checks.verdict import NotAnswered, Wrong, grader, run
from rlhf.gpt import GPT, GPTConfig, keep_top_p

TINY = GPTConfig(
    vocab_size=11, n_positions=8, n_embd=6, n_layer=2, n_head=2, embd_pdrop=0, attn_pdrop=0, resid_pdrop=0
)
DROPPED = -1e4  # a logit below this counts as dropped, whatever the student wrote there


@grader
def e03_1(loss, trainable, *, vocab: int = 50257, layers: int = 12, width: int = 768, rank: int = 8):
    """Two numbers before anything runs: the loss of random weights, and what LoRA trains on qkv and out."""
    got, right = float(_one(loss, "loss")), math.log(vocab)
    if not abs(got - right) <= 0.01 * right:
        raise Wrong(*_about_the_loss(got, vocab))
    count = layers * rank * ((width + 3 * width) + (width + width))
    given = float(_one(trainable, "trainable"))
    if given != count:
        raise Wrong(*_about_the_count(given, layers, width, rank))
    return f"正确：{right:.3f} 和 {count:,}。", f"Correct: {right:.3f} and {count:,}."


@grader
def e03_2(to_linear):
    """``to_linear(name, tensor, shape)``: a published tensor in the layout of ``nn.Linear`` and friends."""
    for prefix in ("transformer.", ""):
        for name, tensor, transposed in _published():
            want = tensor.T if transposed else tensor
            got = to_tensor(run(to_linear, prefix + name, tensor, tuple(want.shape)), (name, name))
            if transposed and got.shape == tensor.shape and torch.equal(got, tensor.double()):
                raise Wrong(*_not_transposed(name, tensor))
            if not transposed and tensor.dim() == 2 and torch.equal(got, tensor.T.double()):
                raise Wrong(
                    f"{name} 是嵌入表，不是 Conv1D，不该转置。",
                    f"{name} is an embedding table, not a Conv1D: it is not transposed.",
                )
            compare(got, want, name=(name, name))


@grader
def e03_3(top_p):
    """``top_p(logits, p)``: (B, V) with the fewest likeliest tokens that reach p kept, the others −inf."""
    for seed, (rows, vocab, p) in enumerate([(3, 9, 0.7), (2, 6, 0.95), (4, 12, 0.05), (1, 5, 0.5)]):
        logits = 2 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))
        got = to_tensor(run(top_p, logits, p), ("结果", "The result"))
        if got.shape != logits.shape:
            compare(got.nan_to_num(neginf=0.0), logits, name=("结果", "The result"))
        _explain_top_p(got, logits, p)
        kept = torch.isfinite(keep_top_p(logits, p))
        compare(got[kept], logits[kept], name=("留下的 logits", "What is kept"))


@grader
def e03_4(merged_weight):
    """``merged_weight(W, A, B, alpha)``: W + (alpha / r) B A, with A (r, in) and B (out, r)."""
    generator = torch.Generator().manual_seed(0)
    for rank, rows, columns, alpha in ((2, 4, 6, 8.0), (3, 5, 5, 2.0), (1, 3, 4, 16.0)):
        shapes = ((rows, columns), (rank, columns), (rows, rank))
        w, a, b = (torch.randn(shape, generator=generator) for shape in shapes)
        got = to_tensor(run(merged_weight, w, a, b, alpha), ("合并后的权重", "The merged weight"))
        if got.shape == w.shape:
            _explain_merge(got - w, b @ a, alpha, rank)
        compare(got, w + alpha / rank * b @ a, name=("合并后的权重", "The merged weight"))


@grader
def e03_5(prepare):
    """``prepare(model, patterns, fresh)`` returns an optimizer; what learns is seen by letting it train."""
    if not callable(prepare):
        raise Wrong("这里要交函数本身（不带括号）。", "Hand in the function itself, without calling it.")
    cases = [("v_head", ["*.qkv"]), ("score", ["*.qkv", "*.out"]), ("value", ["*.blocks.1.ffn.*"])]
    for fresh, patterns in cases:
        model = Critic(fresh)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer = prepare(model, patterns, [fresh])
        if optimizer is None or optimizer is ...:
            raise NotAnswered
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise Wrong("要返回优化器。", "Return the optimizer.")
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        _train(model, optimizer)
        _who_learnt(model, before, start, fresh, patterns)


class Critic(nn.Module):
    """A tiny GPT and, under the name ``fresh``, a head that no checkpoint knows."""

    def __init__(self, fresh: str):
        super().__init__()
        with torch.random.fork_rng():  # the notebook's own random numbers go on as if this had not been
            torch.manual_seed(0)
            self.gpt = GPT(TINY)
            self.add_module(fresh, nn.Linear(TINY.n_embd, 1))
        self.fresh = fresh

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids ``(B, T)`` to values ``(B, T)``."""
        return self.get_submodule(self.fresh)(self.gpt.decoder(ids, torch.ones_like(ids))).squeeze(-1)


def _train(model: Critic, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    """A few steps of regression: B moves in the first one, A from the second on."""
    ids = torch.randint(0, TINY.vocab_size, (4, 6), generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        loss = (model(ids) - ids / 10).square().mean()
        if not loss.requires_grad:
            raise Wrong("什么都不学：所有参数都冻结了。", "Nothing learns: every parameter is frozen.")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _who_learnt(model: nn.Module, before: dict, start: dict, fresh: str, patterns: list[str]) -> None:
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, start[name])}
    adapter = {name for name in start if name.endswith(("lora_A", "lora_B"))}
    new = {name for name in start if name.startswith(fresh + ".") and name not in adapter}
    if not adapter:
        raise Wrong("模型里没有适配器。", "There are no adapters in the model.")
    if adapter != _expected(before, patterns):
        raise Wrong(
            f"适配器加错了层：应当只加在符合 {patterns} 的层上。",
            f"Adapters on the wrong layers: they belong on those that match {patterns}.",
        )
    base = sorted(moved - adapter - new)
    if base:
        raise Wrong(
            f"原来的权重也变了，例如 {base[0]}：它应当冻结。",
            f"Weights of the checkpoint have moved, {base[0]} for one: they should be frozen.",
        )
    if not adapter & moved:
        raise Wrong(
            "适配器没有动：建立优化器的时候，它们还不存在。",
            "The adapters have not moved: when the optimizer was made, they did not exist yet.",
        )
    if not adapter <= moved:
        raise Wrong(
            "有的适配器没有学：A 和 B 都要学。", "Some adapters have not learnt: A and B both have to."
        )
    if not new <= moved:
        raise Wrong(
            f"{fresh} 没有动：它不是从检查点来的，冻结了就永远是随机数。",
            f"{fresh} has not moved. It did not come from the checkpoint: frozen, it stays random for ever.",
        )


def _expected(before: dict, patterns: list[str]) -> set[str]:
    """The names that adapters on the right layers have."""
    layers = {
        name.rpartition(".")[0]
        for name in before
        if name.startswith("gpt.decoder.blocks.") and "norm" not in name
    }
    chosen = [name for name in layers if any(fnmatchcase(name, pattern) for pattern in patterns)]
    return {f"{name}.{part}" for name in chosen for part in ("lora_A", "lora_B")}


def _one(value, name: str) -> Tensor:
    number = to_tensor(value, (name, name))
    if isinstance(value, bool) or number.numel() != 1:
        raise Wrong(f"{name} 应当是一个数字。", f"{name} should be one number.")
    return number.reshape(())


def _about_the_loss(got: float, vocab: int) -> tuple[str, str]:
    for guess, zh, en in (
        (
            math.log2(vocab),
            "这是以 2 为底的；交叉熵用自然对数。",
            "That is base 2; cross-entropy takes the natural log.",
        ),
        (
            math.log10(vocab),
            "这是以 10 为底的；交叉熵用自然对数。",
            "That is base 10; cross-entropy takes the natural log.",
        ),
        (
            -math.log(vocab),
            "损失是负的对数概率，应当为正。",
            "The loss is minus the log-probability, so it is positive.",
        ),
        (
            1 / vocab,
            "这是概率；损失是它的负对数。",
            "That is the probability; the loss is minus its logarithm.",
        ),
        (float(vocab), "这是困惑度；损失是它的对数。", "That is the perplexity; the loss is its logarithm."),
    ):
        if abs(got - guess) <= 0.01 * abs(guess):
            return zh, en
    return (
        f"loss 不是 {got:.4g}。什么都不知道的模型给每个词元差不多的概率，即 1 / V。",
        f"The loss is not {got:.4g}. A model that knows nothing gives each token about the same, 1 / V.",
    )


def _about_the_count(got: float, layers: int, width: int, rank: int) -> tuple[str, str]:
    right = layers * rank * 6 * width
    for guess, zh, en in (
        (layers * rank * 4 * width, "qkv 的输出宽度是 3H，不是 H。", "The output of qkv is 3H wide, not H."),
        (layers * rank * 2 * width, "只数了 A，还有 B。", "Those are the A only; there are the B too."),
        (right / layers, "这是一层的，一共有 n_layer 层。", "That is one block; there are n_layer of them."),
        (
            layers * 4 * width * width,
            "这是完整的矩阵，不是低秩的那两个。",
            "Those are the full matrices, not the two thin ones.",
        ),
        (right / rank, "忘了乘以秩 r。", "The rank r is missing."),
    ):
        if got == guess:
            return f"trainable 不对：{zh}", f"trainable is not right: {en}"
    return (
        f"trainable 不是 {got:,.0f}。每个适配的层：A 有 r·in 个数，B 有 out·r 个数。",
        f"trainable is not {got:,.0f}. Per adapted layer: A has r·in numbers, B has out·r.",
    )


def _published() -> Iterator[tuple[str, Tensor, bool]]:
    """Names of a GPT-2 checkpoint, a tensor each, and whether Conv1D stored it. Some matrices are square."""
    width, inner, vocab = 4, 4, 4
    shapes = {
        "wte.weight": ((vocab, width), False),
        "wpe.weight": ((7, width), False),
        "h.0.ln_1.weight": ((width,), False),
        "h.0.attn.c_attn.weight": ((width, 3 * width), True),
        "h.0.attn.c_attn.bias": ((3 * width,), False),
        "h.0.attn.c_proj.weight": ((width, width), True),
        "h.11.mlp.c_fc.weight": ((width, 3 * inner), True),
        "h.1.mlp.c_proj.weight": ((inner, width), True),
        "h.1.mlp.c_proj.bias": ((width,), False),
        "ln_f.bias": ((width,), False),
    }
    generator = torch.Generator().manual_seed(3)
    for name, (shape, transposed) in shapes.items():
        yield name, torch.randn(shape, generator=generator), transposed


def _not_transposed(name: str, tensor: Tensor) -> tuple[str, str]:
    if tensor.shape[0] == tensor.shape[1]:
        return (
            f"{name} 是方阵，转不转置形状都一样，所以不会报错；但它也是 Conv1D，必须转置。",
            f"{name} is square: with or without transposing, its shape is the same and nothing complains. "
            "But it is a Conv1D too and has to be transposed.",
        )
    return f"{name} 是 Conv1D，必须转置。", f"{name} is a Conv1D and has to be transposed."


def _explain_top_p(got: Tensor, logits: Tensor, p: float) -> None:
    """Compare which tokens are kept, and name the mistakes that are made most often."""
    kept, want = got > DROPPED, torch.isfinite(keep_top_p(logits, p))
    probability, order = logits.softmax(-1).sort(descending=True)
    before = probability.cumsum(-1) - probability
    sorted_kept = torch.zeros_like(want).scatter(-1, order, before + probability <= p)
    if torch.equal(kept, want):
        return
    if bool(((got >= 0) & (got <= 1)).all()):
        raise Wrong(
            "返回的是概率；要返回 logits，去掉的写成 −inf。",
            "Return logits, −inf where a token is dropped, not probabilities.",
        )
    if not kept.any(-1).all():
        raise Wrong(
            "有一行什么都没留下：越过 p 的那个词元本身要留下。",
            "A row has nothing left: the token that crosses p is kept.",
        )
    if torch.equal(kept, sorted_kept):
        raise Wrong(
            "少留了一个：使总和达到 p 的那个词元本身也要留下。",
            "One too few: the token with which the sum reaches p is kept as well.",
        )
    if torch.equal(kept.sum(-1), want.sum(-1)):
        raise Wrong(
            "个数对，词元不对：排序之后，要把结果放回原来的位置。",
            "The right number of tokens, but the wrong ones: after sorting, put the result back in place.",
        )
    if kept.all():
        raise Wrong("什么都没去掉。", "Nothing was dropped.")
    raise Wrong(
        f"p={p:g} 时每行应当留下 {want.sum(-1).tolist()} 个，而不是 {kept.sum(-1).tolist()} 个。"
        "概率从大到小累加，到 p 为止。",
        f"At p={p:g} the rows keep {want.sum(-1).tolist()} tokens, not {kept.sum(-1).tolist()}. "
        "Add up probabilities from the largest down, until p is reached.",
    )


def _explain_merge(delta: Tensor, product: Tensor, alpha: float, rank: int) -> None:
    """Name a wrong scale before the numbers are compared."""
    for scale, zh, en in (
        (1.0, "缺少比例 α / r。", "The scale α / r is missing."),
        (alpha, "比例是 α / r，不是 α。", "The scale is α / r, not α."),
        (rank / alpha, "比例反了：是 α / r。", "The scale is upside down: it is α / r."),
        (-alpha / rank, "是加，不是减。", "It is added, not subtracted."),
    ):
        if scale != alpha / rank and _like(delta, scale * product):
            raise Wrong(zh, en)
    if rank > 1 and delta.shape[0] == delta.shape[1] and _like(delta, alpha / rank * product.T):
        raise Wrong("B A 转置了。", "B A is transposed.")


def _like(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5)
