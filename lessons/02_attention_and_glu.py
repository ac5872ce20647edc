# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] tags=["zh"]
# # 02 注意力与 GLU
#
# **这一课回答的问题**：大语言模型是由什么积木搭起来的？答案只有一块积木，叫 Transformer 块（block），重复许多层。它分两半：**注意力**（attention）在词元之间搬运信息，**前馈层**（feed-forward network，FFN，或它带门的变体 GLU）在每个位置上各自加工信息。这一课把两半都从零算出来，和 PyTorch、transformers 一个数一个数地对，再把它们一个一个拆掉，看策略会变成什么样。
#
# **需要什么**
#
# | 配置（profile） | 硬件 | 时间 |
# |---|---|---|
# | `offline`（默认） | 2 个 CPU 核，不联网 | 大约 1 分钟 |
# | `imdb` | 2 个 CPU 核，或一块 GPU | CPU 上几分钟 |
# | `full` | 一块 GPU | 没有实测 |
#
# 会矩阵乘法和一点 PyTorch 就够了。三种配置运行同样的单元格。

# %% [markdown] tags=["en"]
# # 02 Attention and GLU
#
# **The question of this lesson**: what is the building block of a large language model? There is only one, the transformer block, and it is repeated many times. It has two halves: **attention** carries information between tokens, and a **feed-forward network** (FFN, or its gated relative, the GLU) works on the information at each position. This lesson computes both halves from scratch, compares them with PyTorch and transformers digit by digit, and then takes them out one at a time to see what becomes of the policy.
#
# **What you need**
#
# | profile | hardware | time |
# |---|---|---|
# | `offline` (default) | 2 CPU cores, no network | about 1 minute |
# | `imdb` | 2 CPU cores, or one GPU | a few minutes on the CPU |
# | `full` | one GPU | not timed |
#
# Matrix products and a little PyTorch are all the preparation needed. The three profiles run the same cells.

# %% tags=["setup"]
import time

from rlhf import checks, evaluate, pictures, profiles, report  # before torch: idle threads then sleep

started = time.perf_counter()
setup = profiles.setup("02_attention_and_glu")

# %%
import contextlib
import copy
import inspect
import re

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display
from torch import nn
from tqdm import tqdm
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from rlhf import blocks, data, pretrain, sampling
from rlhf.ppo import losses
from rlhf.rewards import SentimentReward

plt.style.use(pictures.STYLE)

# %% [markdown] tags=["zh"]
# ## 1 一块积木，两半
#
# 先看实物。这是课程策略（policy）里的一个块，结构和 GPT-2 的一样：

# %% [markdown] tags=["en"]
# ## 1 One block, two halves
#
# The real thing first. This is one block of the course's policy, built like GPT-2's:

# %%
tokenizer = AutoTokenizer.from_pretrained(setup.policy)
tokenizer.pad_token = tokenizer.eos_token  # GPT-2 has no padding token of its own
policy = AutoModelForCausalLM.from_pretrained(setup.policy, attn_implementation="eager")
policy.to(setup.device).eval().requires_grad_(False)
config = policy.config
print(
    config.n_layer, "blocks, width", config.n_embd, "with", config.n_head, "heads\n", policy.transformer.h[0]
)

# %% [markdown] tags=["zh"]
# 左边是它的接线图（右边是另一种接法，第 9 节再说）。中间那条竖线叫**残差流**（residual stream）：每个位置一个向量，从最底层一直流到最顶层。两半都从流里读，算出一点东西，再**加**回流里去。
#
# ![pre-LN 与 post-LN 的块](../figs/02_block.svg)
#
# 参数主要在哪一半？

# %% [markdown] tags=["en"]
# On the left is how it is wired (on the right another way, which section 9 comes to). The vertical line is the **residual stream**: one vector per position, flowing from the bottom to the top. Each half reads from the stream, computes something, and **adds** it back.
#
# ![A block with pre-LN and one with post-LN](../figs/02_block.svg)
#
# Which half holds most of the parameters?

# %%
block = policy.transformer.h[0]
for name, part in (("attention", block.attn), ("feed-forward", block.mlp), ("both norms", block.ln_1)):
    count = sum(p.numel() for p in part.parameters()) * (2 if part is block.ln_1 else 1)
    print(f"{name:13} {count:>10,} = {count / config.n_embd**2:5.2f} d²")

# %% [markdown] tags=["zh"]
# 记住这两个数：$d$ 在这里是隐状态的宽度（从第 4 节起记作 $H$），注意力大约是 $4d^2$（四个 $d\times d$ 的矩阵），前馈层大约是 $8d^2$。块里三分之二的参数不在注意力里。
#
# ## 2 注意力，用四个词元手算
#
# 四个词元：a、dull、film、shines。每个词元有四个特征：是不是名词、是不是形容词、是不是动词、褒贬（verdict）。

# %% [markdown] tags=["en"]
# Keep these two numbers in mind: $d$ is the width of the hidden states here (called $H$ from section 4 on), attention has about $4d^2$ weights (four matrices of $d\times d$), the feed-forward network about $8d^2$. Two thirds of a block are not attention.
#
# ## 2 Attention on four tokens, by hand
#
# Four tokens: a, dull, film, shines. Each has four features: noun or not, adjective or not, verb or not, and a verdict.

# %%
words = ["a", "dull", "film", "shines"]
x = torch.tensor([[0.0, 0, 0, 0], [0, 1, 0, -1], [1, 0, 0, 0], [0, 0, 1, 1]])  # (T=4, H=4)
# all (H, d=2): a noun asks for an adjective, a verb for a noun · I am an adjective, a noun · verdict, noun
W_q = torch.tensor([[3.0, 0], [0, 0], [0, 3], [0, 0]])
W_k = torch.tensor([[0.0, 2], [2, 0], [0, 0], [0, 0]])
W_v = torch.tensor([[0.0, 1], [0, 0], [0, 0], [1, 0]])
Q, K, V = x @ W_q, x @ W_k, x @ W_v  # (T, d) each
pd.DataFrame({"query": Q.tolist(), "key": K.tolist(), "value": V.tolist()}, index=words)

# %% [markdown] tags=["zh"]
# ### 2.1 查询、键、值
#
# 每个词元说三句话：**查询**（query）是“我在找什么”，**键**（key）是“我是什么”，**值**（value）是“找到我的话，就拿走这个”。（提示在代码里也叫 query，同名而已，不是一回事。）真实模型里 $W_q$、$W_k$、$W_v$ 是学出来的；这里由我们来定，好让每个数都有意思：名词 film 在找形容词，动词 shines 在找名词，a 和 dull 什么都不找。
#
# 查询和键的内积就是匹配的程度，除以 $\sqrt{d}$；从这里起 $d$ 是查询和键的宽度，也就是 2（为什么要除，2.4 再说）：
#
# $$S = \frac{QK^\top}{\sqrt{d}}$$

# %% [markdown] tags=["en"]
# ### 2.1 Queries, keys, values
#
# Every token says three things. Its **query**: this is what I look for. Its **key**: this is what I am. Its **value**: this is what you get from me. (Prompts are called queries in code, too; the two have only the name in common.) In a real model $W_q$, $W_k$ and $W_v$ are learnt; here we choose them so that every number means something. The noun film looks for an adjective, the verb shines for a noun; a and dull look for nothing.
#
# The inner product of a query and a key says how well they match; it is divided by $\sqrt{d}$; from here on $d$ is how wide queries and keys are, 2 in this case (2.4 says why):
#
# $$S = \frac{QK^\top}{\sqrt{d}}$$

# %%
scores = Q @ K.T / Q.shape[-1] ** 0.5  # (T, T): row t asks, column s is asked
pd.DataFrame(scores.numpy(), index=words, columns=words).round(2)

# %% [markdown] tags=["zh"]
# ### 2.2 softmax：把匹配程度变成权重
#
# 每一行各自做 softmax：取指数，再除以整行的和。于是每一行都是正数，加起来等于 1：
#
# $$w_{ts} = \frac{e^{S_{ts}}}{\sum_{s'} e^{S_{ts'}}}$$

# %% [markdown] tags=["en"]
# ### 2.2 Softmax: from match to weight
#
# Each row gets a softmax of its own: take exponentials, divide by the row's sum. Then every row is positive and sums to 1:
#
# $$w_{ts} = \frac{e^{S_{ts}}}{\sum_{s'} e^{S_{ts'}}}$$

# %%
weights = scores.exp() / scores.exp().sum(-1, keepdim=True)  # (T, T)
torch.testing.assert_close(weights, scores.softmax(-1))
pd.DataFrame(weights.numpy(), index=words, columns=words).round(2)

# %% [markdown] tags=["zh"]
# ### 2.3 按权重取值
#
# 输出是值的加权平均，$O = wV$。film 那一行的第一个数接近 −1：它从 dull 那里把褒贬拿了过来。注意力就是这样让信息在词元之间流动的。什么都不找的 a 和 dull，得到的是所有值的平均。

# %% [markdown] tags=["en"]
# ### 2.3 Take the values by weight
#
# The output is the weighted mean of the values, $O = wV$. The first number in the row of film is close to −1: it has taken the verdict over from dull. This is how attention moves information from token to token. Those who look for nothing, a and dull, get the mean of all values.

# %%
output = weights @ V  # (T, T) @ (T, d) -> (T, d)
e = torch.tensor(6 / 2**0.5).exp()  # film asks dull; the three other scores of its row are 0, and exp(0) = 1
torch.testing.assert_close(output[2, 0], (-1 * e + 1 * 1) / (e + 3))  # the verdicts of dull and of shines
pd.DataFrame(output.numpy(), index=words, columns=["verdict", "noun"]).round(2)

# %% [markdown] tags=["zh"]
# 整个注意力就这么三行。课程库里的函数也只有这么长，它和 PyTorch 的 `F.scaled_dot_product_attention`（高度优化过的同一个公式）结果相同：

# %% [markdown] tags=["en"]
# Attention is these three lines. The package's function is hardly longer, and equals PyTorch's `F.scaled_dot_product_attention`, the same formula, highly optimised:

# %%
print(inspect.getsource(blocks.attention).split('"""')[2])
ours, _ = blocks.attention(Q, K, V)
torch.testing.assert_close(ours, output)
torch.testing.assert_close(ours, F.scaled_dot_product_attention(Q[None], K[None], V[None])[0])

# %% [markdown] tags=["zh"]
# ### 2.4 为什么要除以 √d？
#
# 若 $q$ 和 $k$ 的每个分量都独立、均值 0、方差 1，内积是 $d$ 个这样的乘积之和，方差就是 $d$，标准差是 $\sqrt{d}$。头越宽，分数越大，softmax 就越接近“赢者通吃”。那样有什么不好？权重贴近 0 或 1 时，softmax 的梯度 $w(1-w)$ 接近 0，学不动了。量一量：64 个随机的键，一个随机的查询，头宽从 4 到 1,024。

# %% [markdown] tags=["en"]
# ### 2.4 Why divide by √d?
#
# If all components of $q$ and $k$ are independent with mean 0 and variance 1, their inner product is a sum of $d$ such products, with variance $d$ and standard deviation $\sqrt{d}$. The wider the head, the larger the scores, and the closer the softmax gets to winner takes all. What is wrong with that? Where weights are close to 0 or 1, the gradient of the softmax, $w(1-w)$, is close to 0, and nothing is learnt. Measure it: 64 random keys, a random query, heads from 4 to 1,024 wide.

# %%
rows, generator = [], torch.Generator().manual_seed(0)
for d in (4, 16, 64, 256, 1024):
    q, k = torch.randn(500, 1, d, generator=generator), torch.randn(500, 64, d, generator=generator)
    raw = (q @ k.transpose(1, 2)).squeeze(1)  # (500, 64)
    for name, s in (("no scale", raw), ("/ √d", raw / d**0.5)):
        w = s.softmax(-1)
        found = s.std(), w.amax(-1).mean(), (w * (1 - w)).sum(-1).mean()
        rows.append([d, name, *(float(value) for value in found)])
saturation = pd.DataFrame(rows, columns=["d", "scale", "std of scores", "largest weight", "gradient"])
assert saturation.query("scale == '/ √d'")["std of scores"].between(0.9, 1.1).all()
saturation.pivot(index="d", columns="scale").round(3)

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 2.4), layout="constrained")
for panel, key in zip(axes, ("largest weight", "gradient"), strict=True):
    for name, part in saturation.groupby("scale"):
        panel.plot(part["d"], part[key], "o-", label=name)
    panel.set(xscale="log", xlabel="width of the head d", title=f"{key} of a row of 64 (mean)", ylim=(0, 1))
axes[0].legend()
plt.show()

# %% [markdown] tags=["zh"]
# 不除的话，头一宽，几乎全部权重都压在一个键上，梯度趋近 0。除了以后，两条线几乎与宽度无关。
#
# ## 3 掩码：谁可以看谁
#
# ### 3.1 因果掩码（causal mask）
#
# 语言模型要预测下一个词元，而训练时一整段文本的所有位置是同时算的。位置 $t$ 如果看得见 $t+1$，它就能抄答案。所以只准看自己和前面：把未来的分数换成 $-\infty$，softmax 之后权重就恰好是 0，而且这一行**剩下的权重仍然加起来等于 1**。

# %% [markdown] tags=["en"]
# Without the division, a wide head puts nearly all its weight on one key, and the gradient goes to 0. With it, both lines hardly depend on the width.
#
# ## 3 Masks: who may look at whom
#
# ### 3.1 The causal mask
#
# A language model predicts the next token, and training computes all positions of a text at once. If position $t$ could see $t+1$, it could copy the answer. So it may look at itself and at what came before: scores of the future become $-\infty$. After the softmax their weight is exactly 0, and **the rest of the row still sums to 1**.

# %%
mask = blocks.causal_mask(4)  # (T, T) of bool, lower triangle
output, weights = blocks.attention(Q, K, V, mask)
torch.testing.assert_close(
    output, F.scaled_dot_product_attention(Q[None], K[None], V[None], is_causal=True)[0]
)
pd.DataFrame(weights.numpy(), index=words, columns=words).round(2)

# %% [markdown] tags=["zh"]
# 整个计算画成一张图，数字就是上面的数字：
#
# ![四个词元的注意力：六个矩阵](../figs/02_attention.svg)
#
# 掩码有没有漏？直接检验：改掉最后一个词元，前面各位置的输出应当一个数都不变。

# %% [markdown] tags=["en"]
# The whole computation as a picture, with the numbers from above:
#
# ![Attention on four tokens as six matrices](../figs/02_attention.svg)
#
# Does the mask leak? Test it: change the last token, and no output before it may change.

# %%
changed = x.clone()
changed[-1] = torch.tensor([1.0, 5.0, -2.0, 3.0])
for name, allowed in (("causal mask", mask), ("no mask", None)):
    first, _ = blocks.attention(x @ W_q, x @ W_k, x @ W_v, allowed)
    second, _ = blocks.attention(changed @ W_q, changed @ W_k, changed @ W_v, allowed)
    gap = (first - second).abs().amax(-1)  # (T,)
    print(f"{name:11}: changes", ", ".join(f"{w} {g:.2f}" for w, g in zip(words, gap.tolist(), strict=True)))
    assert (gap[:-1].max() == 0) == (name == "causal mask")

# %% [markdown] tags=["zh"]
# 为什么要在 softmax **之前**用 $-\infty$，而不是之后乘 0？那样的话，未来的分数已经进了分母：权重加起来不到 1，而且未来仍然通过分母影响了过去。
#
# ### 3.2 填充掩码（padding mask）
#
# 一批文本长短不一，短的要补填充（padding）。填充不是文本，谁都不该读它。两种掩码合在一起：“是真词元，**并且**不在未来”。这里有个陷阱：填充在左边时，第一个位置什么也看不到，右边是未来，自己又是填充，softmax 的分母就成了 0：

# %% [markdown] tags=["en"]
# Why $-\infty$ **before** the softmax, and not a product with 0 after it? Because then the scores of the future are in the denominator: the weights no longer sum to 1, and the future still reaches the past through that sum.
#
# ### 3.2 The padding mask
#
# Texts of a batch differ in length, so short ones are padded. Padding is no text, and nobody should read it. The two masks combined: "a real token **and** not in the future". There is a trap: when padding is on the left, the first position has nothing at all to look at, with the future to its right and being padding itself, and the softmax divides by 0:

# %%
# (B=2, T=4): the first text is padded on the left
attention_mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
strict = blocks.causal_mask(4) & attention_mask.bool()[:, None, :]  # (B, T, T)
_, weights = blocks.attention(Q.expand(2, 4, 2), K.expand(2, 4, 2), V.expand(2, 4, 2), strict)
masked = F.scaled_dot_product_attention(Q[None], K[None], V[None], attn_mask=strict[:1])
lowest = torch.finfo(torch.float32).min  # a finite number in place of -inf
print("by the formula:     ", weights[0, 0].tolist())
print("PyTorch's function: ", masked[0, 0].tolist(), "(the output)")
print("a finite minimum:   ", scores.masked_fill(~strict[0], lowest).softmax(-1)[0].tolist())

# %% [markdown] tags=["zh"]
# 公式给出 NaN；PyTorch 的融合函数遇到整行都被遮住时返回 0；transformers 的 `eager` 实现用一个负得极大、但有限的数代替 $-\infty$，这样的行就成了平均。三种都行，只要不是 NaN，因为没有人读这一行的输出。`blocks.visible` 让填充只看自己：

# %% [markdown] tags=["en"]
# The formula gives NaN; PyTorch's fused function returns 0 for a row that is masked entirely; the `eager` implementation of transformers puts a hugely negative but finite number in place of $-\infty$, and such a row becomes an even mean. Anything but NaN will do, since nobody reads the output of this row. `blocks.visible` lets padding look at itself:

# %%
print(inspect.getsource(blocks.visible).split('"""')[2])
allowed = blocks.visible(attention_mask)  # (B, 1, T, T)
print(allowed[0, 0].int())

# %% [markdown] tags=["zh"]
# ## 4 多头：同一个公式，换个形状
#
# 一套注意力权重只能表达一种看法。所以把宽度 $H$ 切成几段，每段是一个**头**（head），各做各的注意力，最后拼回来，再乘一个矩阵混合。没有新公式，只有变形。用 0 到 11 来看清楚哪个数去了哪里：

# %% [markdown] tags=["en"]
# ## 4 Many heads: the same formula in another shape
#
# One set of weights can look in one way only. So the width $H$ is cut into pieces; each is a **head** with an attention of its own, and in the end they are joined and mixed by one more matrix. There is no new formula, only a change of shape. The numbers 0 to 11 show which goes where:

# %%
toy = torch.arange(12).view(1, 3, 4)  # (B=1, T=3, H=4)
heads = blocks.split_heads(toy, 2)  # (B, heads=2, T, d=2)
print("tokens:", toy[0].tolist())
print("head 0:", heads[0, 0].tolist(), " head 1:", heads[0, 1].tolist())
print("wrong: ", toy.view(1, 2, 3, 2)[0, 0].tolist(), "← view without transpose: features of other tokens")
assert torch.equal(blocks.merge_heads(heads), toy)

# %% [markdown] tags=["zh"]
# 最后一行是常见的错误：形状完全正确，不报错，却把不同词元的特征混进了同一行。
#
# 现在拼成整块。课程库里的 `SelfAttention` 和 `Block`：

# %% [markdown] tags=["en"]
# The last line is a common mistake: the shape is right and nothing is raised, yet features of different tokens are mixed into one row.
#
# Now the assembled block: `SelfAttention` and `Block` of the package.

# %%
for method in (blocks.SelfAttention.forward, blocks.Block.forward):
    print(inspect.getsource(method))

# %% [markdown] tags=["zh"]
# 它真的就是 GPT-2 的块吗？把策略的权重装进我们的块里，比一比。（transformers 里 GPT-2 的 `Conv1D` 把权重存成“进 × 出”，`nn.Linear` 存成“出 × 进”，要转置。GPT-2 的 GELU 用的是 tanh 近似。）

# %% [markdown] tags=["en"]
# Is it really GPT-2's block? Put the policy's weights into ours and compare. (GPT-2's `Conv1D` in transformers keeps a weight as in × out, `nn.Linear` as out × in, hence the transpose. GPT-2's GELU is the tanh approximation.)

# %%
NAMES = {"norm_1": "ln_1", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj"}
NAMES |= {"norm_2": "ln_2", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}


def rebuilt(theirs: nn.Module, heads: int) -> blocks.Block:
    """One of transformers' GPT-2 blocks as a block of ours, with the same weights."""
    width, hidden = theirs.mlp.c_fc.weight.shape
    ours = blocks.Block(width, heads, blocks.FFN(width, hidden, "gelu_tanh", bias=True))
    for here, there in NAMES.items():
        source, target = theirs.get_submodule(there), ours.get_submodule(here)
        target.weight.data = source.weight.T if source.weight.dim() == 2 else source.weight
        target.bias.data = source.bias
    return ours.to(source.weight.device).eval().requires_grad_(False)


# %% [markdown] tags=["zh"]
# 用两段不一样长的文本，左边填充，64 位浮点数（这样剩下的差别就只会是公式的差别，不是舍入）。transformers 有两种实现：`eager` 是一步步的矩阵乘法，`sdpa` 调用 PyTorch 的融合函数。

# %% [markdown] tags=["en"]
# Two texts of different length, padded on the left, in 64-bit floats (so that what differs is the formula, not rounding). transformers has two implementations: `eager` multiplies matrices one by one, `sdpa` calls PyTorch's fused function.

# %%
precise = copy.deepcopy(policy).double()
pair = "This movie was", "I have never seen such a dull film"
queries = [torch.tensor(tokenizer(text)["input_ids"], device=setup.device) for text in pair]
ids, attention_mask = sampling.left_pad(queries, tokenizer.pad_token_id)  # (B, T) each
inputs = {"input_ids": ids, "attention_mask": attention_mask}
inputs["position_ids"] = blocks.position_ids(attention_mask)
live = attention_mask.bool()
for implementation in ("eager", "sdpa"):
    precise.set_attn_implementation(implementation)
    states = precise(**inputs, output_hidden_states=True).hidden_states  # n_layer + 1 tensors (B, T, H)
    ours = rebuilt(precise.transformer.h[0], config.n_head)(states[0], blocks.visible(attention_mask))
    torch.testing.assert_close(ours[live], states[1][live], atol=1e-5, rtol=1e-5)
    print(f"{implementation:5}: largest difference {(ours - states[1])[live].abs().max():.1e}, bar 1e-5")

# %% [markdown] tags=["zh"]
# 一整个 GPT-2 也就是：词嵌入（embedding）加位置编码（position encoding），穿过所有块，最后一次归一化，再乘输出矩阵。第 03 课会把它写成一个完整的类。

# %% [markdown] tags=["en"]
# And a whole GPT-2 is: embeddings plus position encodings, through all blocks, one last norm, one output matrix. Lesson 03 turns this into a proper class.

# %%
body = precise.transformer
stream = body.wte(ids) + body.wpe(inputs["position_ids"])  # (B, T, H)
for theirs in body.h:
    stream = rebuilt(theirs, config.n_head)(stream, blocks.visible(attention_mask))
logits = precise.lm_head(body.ln_f(stream))  # (B, T, V)
torch.testing.assert_close(logits[live], precise(**inputs).logits[live], atol=1e-5, rtol=1e-5)
print("logits", tuple(logits.shape), "equal those of transformers")

# %% [markdown] tags=["zh"]
# ## 5 真实的头在看什么
#
# 把策略的注意力权重画出来。行是正在读的词元，列是被读的词元，越蓝权重越大。

# %% [markdown] tags=["en"]
# ## 5 What the real heads look at
#
# Draw the attention weights of the policy. Rows are the tokens that read, columns the tokens that are read; the bluer, the larger the weight.

# %%
test = data.load_reviews(setup.dataset, "test").shuffle(seed=setup.seed)
texts = [data.plain_text(text) for text in test["text"][:600]]
encoded = [tokens for tokens in tokenizer(texts, verbose=False)["input_ids"] if len(tokens) >= 48]
held_out = torch.tensor([tokens[:48] for tokens in encoded[:64]], device=setup.device)  # (64, 48)
maps = torch.stack(policy(held_out, output_attentions=True).attentions)  # (layers, N, heads, T, T)
print("maps", tuple(maps.shape))

# %% [markdown] tags=["zh"]
# 它们就是第 2 节的公式算出来的权重吗？拿第 0 层核对：

# %% [markdown] tags=["en"]
# Are they the weights of section 2's formula? Check layer 0:

# %%
embedded = policy.transformer.wte(held_out) + policy.transformer.wpe.weight[:48]  # (N, T, H)
parts = block.attn.c_attn(block.ln_1(embedded)).chunk(3, dim=-1)  # queries, keys, values: (N, T, H) each
_, weights = blocks.attention(
    *(blocks.split_heads(p, config.n_head) for p in parts), blocks.causal_mask(48, setup.device)
)
torch.testing.assert_close(weights, maps[0], atol=1e-4, rtol=1e-4)
print("yes:", tuple(weights.shape), "and every row sums to", round(weights.sum(-1).mean().item(), 4))

# %%
layers = sorted({round(i * (config.n_layer - 1) / 3) for i in range(4)})  # at most 4 of them, evenly spread
columns, size = min(config.n_head, 6), 14
tokens = [pictures.visible(tokenizer.decode(token)) for token in held_out[0, :size]]
grid = {"squeeze": False, "figsize": (1.9 * columns, 2 * len(layers)), "layout": "constrained"}
figure, axes = plt.subplots(len(layers), columns, **grid)
for row, layer in zip(axes, layers, strict=True):
    for head, panel in enumerate(row):
        panel.imshow(maps[layer, 0, head, :size, :size].cpu(), cmap="Blues", vmin=0, vmax=0.7)
        panel.set_title(f"layer {layer}, head {head}", fontsize=8)
        panel.set(xticks=[], yticks=range(size) if head == 0 else [])
        panel.grid(False)
    row[0].set_yticklabels(tokens, fontsize=6)
plt.show()

# %% [markdown] tags=["zh"]
# 三角形的上半边永远是白的：因果掩码。一条紧贴对角线的斜线，是在看“前一个词元”；一条竖线，是许多词元都在看同一个位置，例如句中的标点，或者全文的开头。（没有东西可找的时候，权重总得放在某处，因为 softmax 不能全为 0；大模型常常学会把它停放在第一个词元上，叫作 attention sink。）
#
# 一条影评看不出习惯。在全部留出影评上求平均：从当前位置往回数，每个距离上放了多少权重？和“平均分配”比，最偏爱的距离是几？

# %% [markdown] tags=["en"]
# The upper triangle is always white: the causal mask. A line just below the diagonal is a head that looks at the previous token; a vertical line means that many tokens look at one place, such as a punctuation mark or the very start. (With nothing to look for, the weight must go somewhere, since a softmax cannot be all 0. Large models often learn to park it on the first token; this is called an attention sink.)
#
# One review does not show a habit. Average over all held-out reviews: counting back from the current position, how much weight does each distance get? Compared with an even share, which distance is liked best?

# %%
reach, even = 24, (1 / torch.arange(25, 49)).mean().item()  # rows 24 to 47 see 25 to 48 positions each
back = [maps.diagonal(-k, dim1=-2, dim2=-1)[..., reach - k :].mean((1, 3)) for k in range(reach + 1)]
back = torch.stack(back, dim=-1).cpu() / even  # (layers, heads, distance), 1 = an even share
best = back.argmax(-1)
figure, axes = plt.subplots(1, len(layers), figsize=(8, 2.3), sharey=True, layout="constrained")
for panel, layer in zip(axes, layers, strict=True):
    for head in range(columns):
        label = f"head {head}: {best[layer, head]}"
        panel.plot(back[layer, head], lw=1.2, label=label)
    panel.axhline(1, color="0.5", ls=":")
    panel.set(yscale="log", xlabel="distance looked back", title=f"layer {layer}")
    panel.set_yticks([0.25, 0.5, 1, 2, 4, 8], ["1/4", "1/2", "1", "2", "4", "8"], minor=False)
    panel.minorticks_off()
    panel.legend(title="likes best", fontsize=7)
axes[0].set_ylabel("weight, times an even share")
plt.show()

# %% [markdown] tags=["zh"]
# 虚线是平均分配。高出虚线的是偏爱，低于它的是冷落。
#
# 提醒一句：图好看，不等于头重要。重不重要，要把它拿掉再量。把一个头的输出清零，看留出影评上的损失涨多少：

# %% [markdown] tags=["en"]
# The dotted line is an even share; above it lies what a head prefers, below it what it neglects.
#
# A word of warning: a pretty map does not make a head important. To know, take it out and measure. Set the output of one head to zero and see how much the loss on held-out reviews rises:


# %%
def loss_of(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each next token, ``(B, T)`` to a mean over ``B · (T - 1)`` predictions."""
    logits = model(input_ids=rows).logits[:, :-1]  # (B, T-1, V): the last position has no next token
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def without_head(layer: int, head: int) -> float:
    """The loss when one head of the policy is silent."""
    width = config.n_embd // config.n_head

    def silence(module, args):
        args[0][..., head * width : (head + 1) * width] = 0  # (B, T, heads · d): before the heads are mixed

    hook = policy.transformer.h[layer].attn.c_proj.register_forward_pre_hook(silence)
    loss = loss_of(policy, few).item()
    hook.remove()
    return loss


# %%
few = held_out[:32]
base = loss_of(policy, few).item()
harm = torch.tensor([[without_head(layer, head) - base for head in range(columns)] for layer in layers])
assert abs(loss_of(policy, few).item() - base) < 1e-5, "a hook was left behind"
figure, axes = plt.subplots(figsize=(4.6, 2.4), layout="constrained")
axes.imshow(harm, cmap="Oranges", vmin=0)
for row in range(len(layers)):
    for column in range(columns):
        ink = "white" if harm[row, column] > 0.6 * harm.max() else "black"
        axes.text(column, row, f"{harm[row, column]:.2f}", ha="center", va="center", fontsize=8, color=ink)
axes.set(xlabel="head", ylabel="layer", xticks=range(columns), yticks=range(len(layers)), yticklabels=layers)
axes.set_title(f"the loss ({base:.2f}) rises by … without this head")
axes.grid(False)
plt.show()

# %% [markdown] tags=["zh"]
# 掩码、形状、头都齐了。接下来两节讲怎么用：一节是最容易出错的地方，一节是最能省计算的地方。
#
# ## 6 左填充：掩码和位置都要对
#
# 策略要一批一批地写，而提示长短不一。续写总是接在最后一列后面，所以填充放在**左边**。这时有两件事必须告诉模型：哪些列是填充（`attention_mask`），每个词元在**自己的文本里**是第几个（`position_ids`）。忘了任何一件，什么错都不会报：
#
# ![左填充：正确、忘了掩码、忘了位置](../figs/02_padding.svg)

# %% [markdown] tags=["en"]
# Masks, shapes, heads: all there. The next two sections are about using them: one where most goes wrong, one where most work can be saved.
#
# ## 6 Left padding: mask and positions must both be right
#
# A policy writes for a whole batch at once, and prompts differ in length. Writing continues behind the last column, so padding goes to the **left**. The model must then be told two things: which columns are padding (`attention_mask`), and how far into **its own text** each token is (`position_ids`). Forget either, and nothing is raised:
#
# ![Left padding: right, mask forgotten, positions forgotten](../figs/02_padding.svg)

# %%
prompts = evaluate.held_out_prompts(setup, tokenizer, seed=setup.seed)
queries = [ids.to(setup.device) for ids in prompts["input_ids"][:32]]  # 32 tensors (Q,), ragged
ids, attention_mask = sampling.left_pad(queries, tokenizer.pad_token_id)  # (B, Q) each
print("tokens   ", ids[0].tolist(), repr(prompts["query"][0]))
print("mask     ", attention_mask[0].tolist())
print("positions", blocks.position_ids(attention_mask)[0].tolist())
print(inspect.getsource(blocks.position_ids).split('"""')[2])

# %% [markdown] tags=["zh"]
# 对照是每条提示**单独**算，不填充。对的做法应当和它一模一样（只差舍入），错的做法差多少，就是错误的代价：

# %% [markdown] tags=["en"]
# The yardstick is each prompt computed **alone**, without padding. The right way must equal it but for rounding; how far the others are off is the price of the mistake:


# %%
def counted(mask: torch.Tensor) -> torch.Tensor:
    """Positions as a plain forward call has them: 0, 1, 2, … from the first column, padding or not."""
    return torch.arange(mask.shape[1], device=mask.device).expand_as(mask)


WAYS = {  # what the model is told of a mask (B, T): the mask it gets, the positions it gets
    "both right": (lambda mask: mask, blocks.position_ids),
    "mask forgotten": (torch.ones_like, blocks.position_ids),
    "positions forgotten": (lambda mask: mask, counted),
    "both forgotten": (torch.ones_like, counted),
}


def last_logits(ids: torch.Tensor, mask: torch.Tensor, way: str) -> torch.Tensor:
    """Logits of the next token, ``(B, V)``."""
    told, placed = (tell(mask) for tell in WAYS[way])
    return policy(ids, attention_mask=told, position_ids=placed, logits_to_keep=1).logits[:, -1]


def greedy(ids: torch.Tensor, mask: torch.Tensor, way: str, steps: int = 8) -> torch.Tensor:
    """The likeliest token, again and again: ``(B, steps)``."""
    for _ in range(steps):
        token = last_logits(ids, mask, way).argmax(-1, keepdim=True)  # (B, 1)
        ids, mask = torch.cat((ids, token), 1), torch.cat((mask, torch.ones_like(token)), 1)
    return ids[:, -steps:]


# %%
single = [(q[None], torch.ones_like(q)[None], "both right") for q in queries]  # B=1: no padding
alone = torch.cat([last_logits(*one) for one in single])  # (B, V)
alone_text = torch.cat([greedy(*one) for one in single])  # (B, steps)
rows = {}
for way in WAYS:
    logits, text = last_logits(ids, attention_mask, way), greedy(ids, attention_mask, way)
    rows[way] = {
        "largest logit difference": (logits - alone).abs().max().item(),
        "KL, nats": losses.kl_full(alone.log_softmax(-1), logits.log_softmax(-1)).mean().clamp(min=0).item(),
        "next greedy token changed": (logits.argmax(-1) != alone.argmax(-1)).float().mean().item(),
        "greedy tokens changed": (text != alone_text).float().mean().item(),
    }
padding = pd.DataFrame(rows).T
assert padding.iloc[0, 0] < 1e-2 and (padding.iloc[1:, 0] > 0.1).all()
padding.round(5)

# %% [markdown] tags=["zh"]
# 只有第一行是对的。其余各行都能跑，都会一本正经地写下去，只是不是模型本来要写的话。看两条填充最多的提示：

# %% [markdown] tags=["en"]
# Only the first row is right. The others run too and write on without a word of complaint, only not what the model meant to write. Two of the prompts with the most padding:

# %%
for row in attention_mask.sum(1).argsort()[:2].tolist():
    print(repr(prompts["query"][row]))
    for way in WAYS:
        text = greedy(ids, attention_mask, way)[row]
        print(f"  {way:20} → {tokenizer.decode(text)!r}")

# %% [markdown] tags=["zh"]
# 错得多严重，要看填充有多少。同样的提示，左边再多补 $n$ 个填充：

# %% [markdown] tags=["en"]
# How wrong it gets depends on how much padding there is. The same prompts, with $n$ more pads on the left:

# %%
pads, curves = (0, 1, 2, 4, 8, 16, 32, 64), {way: [] for way in WAYS}
for n in pads:
    more = F.pad(ids, (n, 0), value=tokenizer.pad_token_id), F.pad(attention_mask, (n, 0))  # (B, n + Q)
    for way, curve in curves.items():
        logq = last_logits(*more, way).log_softmax(-1)
        curve.append(losses.kl_full(alone.log_softmax(-1), logq).mean().clamp(min=1e-9).item())
figure, axes = plt.subplots(figsize=(5.5, 2.6), layout="constrained")
for way, curve in curves.items():
    axes.plot(pads, curve, "o-", ms=3, label=way)
axes.set(yscale="log", xlabel="additional pads on the left", ylabel="KL to the unpadded, nats")
axes.legend(ncols=2, loc="center", bbox_to_anchor=(0.5, 0.32))
plt.show()
assert max(curves["both right"]) < 1e-3

# %% [markdown] tags=["zh"]
# 正确的做法不管填多少都不变。忘了掩码，模型就把填充当成了文本来读；忘了位置，它就把第一个词当成了文本中间的词。
#
# 陷阱在于：transformers 的 `generate` 会替你从掩码算出位置，而普通的前向调用**不会**，它从第一列数起。采样用前者、算概率用后者的代码（PPO 正是如此），两边就对不上了：还没训练，KL 就不是 0。自己核对：

# %% [markdown] tags=["en"]
# Done right, the result does not depend on the padding. Without the mask the model reads padding as text; without positions it takes the first word for one in the middle of a text.
#
# The trap: `generate` in transformers works out the positions from the mask, but a plain forward call does **not**; it counts from the first column. Code that samples with the one and computes probabilities with the other, as PPO does, disagrees with itself: the KL is not 0 before any training. See for yourself:

# %%
plain = policy(ids, attention_mask=attention_mask).logits[:, -1]
torch.testing.assert_close(
    plain, last_logits(ids, attention_mask, "positions forgotten"), atol=1e-4, rtol=1e-4
)
written = evaluate.respond(policy, tokenizer, queries, 4, do_sample=False, eos_token_id=-1).responses
same = (torch.stack(written) == alone_text[:, :4]).float().mean().item()
print(f"a plain call equals 'positions forgotten'; generate writes what each prompt alone gives: {same:.0%}")

# %% [markdown] tags=["zh"]
# ## 7 键值缓存：数字一样，计算少得多
#
# 写回复时，每写一个词元就要再算一次。可是前面各位置的键和值**不会变**：它们只依赖自己和更早的位置（因果掩码的功劳）。那就把它们存起来，这就是键值缓存（KV cache）：每一步只算新词元的查询、键、值，拿新查询去问存着的所有键。
#
# ### 7.1 手算
#
# 还是那四个词元，一次喂一个。这里连掩码都不用，因为缓存里只有过去：

# %% [markdown] tags=["en"]
# ## 7 The KV cache: the same numbers for far less work
#
# Writing a response means computing again for every new token. But keys and values of earlier positions **do not change**: they depend on themselves and on what came before only (thanks to the causal mask). So keep them. That is the KV cache: every step computes query, key and value of the new token alone, and asks all the stored keys.
#
# ### 7.1 By hand
#
# The same four tokens, fed one at a time. Not even a mask is needed, since the cache holds nothing but the past:

# %%
keys, values, steps = [], [], []
for token in x:  # (H,)
    keys.append(token @ W_k)
    values.append(token @ W_v)
    step, _ = blocks.attention((token @ W_q)[None], torch.stack(keys), torch.stack(values))  # (1, d)
    steps.append(step[0])
torch.testing.assert_close(torch.stack(steps), blocks.attention(Q, K, V, mask)[0])
torch.stack(steps).round(decimals=2)

# %% [markdown] tags=["zh"]
# ### 7.2 数一数乘加
#
# 长为 $T$、宽为 $H$、共 $L$ 层时，算下一个词元要多少次乘加（multiply-add）？每个位置每层有 $12H^2$ 个权重各乘一次（第 1 节数过：$4+8$），注意力的 $QK^\top$ 和 $wV$ 各要 $H\times$（被看的位置数），最后是输出矩阵：
#
# $$\text{all again: } L\,(12H^2T + 2HT^2) + VH \qquad \text{cached: } L\,(12H^2 + 2HT) + VH$$
#
# 公式对不对，让 PyTorch 数一遍：

# %% [markdown] tags=["en"]
# ### 7.2 Count the multiply-adds
#
# With $T$ positions, width $H$ and $L$ layers, how many multiply-adds does the next token cost? Per position and layer each of the $12H^2$ weights is used once (section 1 counted them: $4+8$); $QK^\top$ and $wV$ take $H\times$ (positions looked at) each; then comes the output matrix:
#
# $$\text{all again: } L\,(12H^2T + 2HT^2) + VH \qquad \text{cached: } L\,(12H^2 + 2HT) + VH$$
#
# Is the formula right? Let PyTorch count:

# %%
from torch.utils.flop_counter import FlopCounterMode

L, H, VOCAB = config.n_layer, config.n_embd, config.vocab_size
text = held_out[:1].repeat(1, 3)[:, : min(120, config.n_positions - 2)]  # (1, T)
lengths, counts = (8, 16, 32, 64, text.shape[1]), []
for T in lengths:
    stored = policy(text[:, : T - 1], use_cache=True).past_key_values
    with FlopCounterMode(display=False) as again:
        whole = policy(text[:, :T], use_cache=False, logits_to_keep=1).logits
    with FlopCounterMode(display=False) as step:
        new = policy(text[:, T - 1 : T], past_key_values=stored, logits_to_keep=1).logits
    torch.testing.assert_close(new, whole, atol=1e-3, rtol=1e-3)  # the same numbers
    counts.append((again.get_total_flops() // 2, step.get_total_flops() // 2))  # 2 FLOPs per multiply-add
    formula = L * (12 * H**2 * T + 2 * H * T**2) + VOCAB * H, L * (12 * H**2 + 2 * H * T) + VOCAB * H
    assert counts[-1] == formula
    saved = counts[-1][0] / counts[-1][1]
    print(f"T = {T:3}: all again {counts[-1][0]:>13,}, cached {counts[-1][1]:>11,}, {saved:5.1f} ×")

# %% [markdown] tags=["zh"]
# ### 7.3 量一量时间
#
# 次数是一回事，秒数是另一回事。真的写 7 遍，每个词元记下最快的一次（慢的几次，是机器正忙着别的事）：

# %% [markdown] tags=["en"]
# ### 7.3 Take the time
#
# Counts are one thing, seconds another. Write for real, 7 times, and keep the fastest time of every token (in a slower one, the machine was busy with something else):


# %%
def write(start: torch.Tensor, steps: int, cached: bool) -> tuple[torch.Tensor, list[float]]:
    """Greedy continuation of ``(1, Q)``: all tokens ``(1, Q + steps)``, and the milliseconds of each step."""
    ids, cache, spent = start, None, []
    for _ in range(steps):
        began = time.perf_counter()
        fed = ids if cache is None else ids[:, -1:]
        out = policy(fed, past_key_values=cache, use_cache=cached, logits_to_keep=1)
        cache = out.past_key_values if cached else None
        ids = torch.cat((ids, out.logits[:, -1].argmax(-1, keepdim=True)), 1)
        spent.append(1000 * (time.perf_counter() - began))
    return ids, spent


start, ways = text[:, :8], {"all again": False, "cached": True}
runs = [{way: write(start, text.shape[1] - 8, cached) for way, cached in ways.items()} for _ in range(7)]
fastest = {way: pd.DataFrame([run[way][1] for run in runs]).min() for way in ways}  # milliseconds, (steps,)
for way, spent in fastest.items():
    print(f"{way:9}: {len(spent)} tokens in {spent.sum() / 1000:.2f} s")
print("same tokens:", all(torch.equal(run["all again"][0], run["cached"][0]) for run in runs))

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 2.4), layout="constrained")
for place, (name, spent) in enumerate(fastest.items()):
    axes[0].plot(lengths, [count[place] for count in counts], "o-", label=name)
    smooth = spent.rolling(9, center=True, min_periods=1).median()
    axes[1].plot(range(8, 8 + len(smooth)), smooth, label=name)
axes[0].set(yscale="log", xlabel="length T", title="multiply-adds for one more token")
axes[1].set(ylim=(0, None), xlabel="length T", title="milliseconds for one more token")
axes[0].legend()
plt.show()

# %% [markdown] tags=["zh"]
# 左图里的差距随长度变大，最后超过一个数量级；右图里差得少得多：模型这么小，一步里大部分时间花在 Python 和启动运算上，不在乘法上。模型越大、文本越长，右图就越像左图。
#
# 代价是内存：每层都要为每个词元存一个键和一个值，宽度都是 $H$：

# %% [markdown] tags=["en"]
# In the left picture the gap grows with the length, to more than an order of magnitude; in the right one it is much smaller: in so small a model most of a step goes into Python and into launching operations, not into products. The larger the model and the longer the text, the more the right picture looks like the left.
#
# The price is memory. Per token and layer a key and a value are kept, each $H$ wide:

# %%
stored = policy(text, use_cache=True).past_key_values
size = sum(part.numel() * part.element_size() for kept in stored.layers for part in (kept.keys, kept.values))
assert size == 2 * L * H * 4 * text.shape[1]
print(f"this policy: {size // text.shape[1]:,} bytes per token (32-bit)")
llama = 2 * 32 * 4096 * 2  # Llama-2-7B: 32 layers, width 4096, 16-bit numbers
print(f"Llama-2-7B:  {llama:,} bytes per token, {llama * 4096 / 2**30:.0f} GiB for a text of 4,096 tokens")

# %% [markdown] tags=["zh"]
# ## 8 前馈层与 GLU
#
# 注意力只搬运、只求平均；把拿来的东西**加工**成别的，是另一半的事。前馈层对每个位置单独做同一件事：拉宽、弯一下、再压回来。
#
# $$\mathrm{FFN}(x) = W_{\text{down}}\;\mathrm{act}(W_{\text{up}}\,x)$$
#
# GLU（gated linear unit，门控线性单元）多一个矩阵，用来算**门**（gate）：每个特征放多少过去，由 $x$ 自己决定（⊙ 是逐个相乘）。
#
# $$\mathrm{GLU}(x) = W_{\text{down}}\bigl(\mathrm{act}(W_{\text{gate}}\,x) \odot W_{\text{up}}\,x\bigr)$$
#
# 门的激活函数不同，名字就不同：sigmoid 叫 GLU，ReLU 叫 ReGLU，GELU 叫 GEGLU，SiLU（也叫 Swish）叫 SwiGLU，不用激活函数叫 Bilinear（[Shazeer 2020](https://arxiv.org/abs/2002.05202)）。
#
# ![FFN 与 GLU](../figs/02_glu.svg)
#
# ### 8.1 手算
#
# 两个输入特征，三个隐藏特征：

# %% [markdown] tags=["en"]
# ## 8 The feed-forward network and the GLU
#
# Attention carries and averages; making something else of what it brought is the job of the other half. The feed-forward network does the same thing at every position by itself: widen, bend, squeeze.
#
# $$\mathrm{FFN}(x) = W_{\text{down}}\;\mathrm{act}(W_{\text{up}}\,x)$$
#
# A GLU (gated linear unit) has one more matrix, for a **gate**: how much of each feature passes is decided by $x$ itself (⊙ multiplies entry by entry).
#
# $$\mathrm{GLU}(x) = W_{\text{down}}\bigl(\mathrm{act}(W_{\text{gate}}\,x) \odot W_{\text{up}}\,x\bigr)$$
#
# The activation of the gate gives the name: with a sigmoid it is GLU, with ReLU ReGLU, with GELU GEGLU, with SiLU (also called Swish) SwiGLU, without any Bilinear ([Shazeer 2020](https://arxiv.org/abs/2002.05202)).
#
# ![FFN and GLU](../figs/02_glu.svg)
#
# ### 8.1 By hand
#
# Two input features, three hidden ones:

# %%
point = torch.tensor([1.0, -2.0])  # (d=2,)
up = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # (hidden=3, d): nn.Linear keeps (out, in)
gate = torch.tensor([[0.0, 1.0], [2.0, 0.0], [-1.0, -1.0]])  # (hidden, d)
down = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])  # (d, hidden)
g, u = gate @ point, up @ point  # (hidden,) each
opened = g * torch.sigmoid(g)  # SiLU(g) = g · σ(g)
print(f"gate before {g}, after SiLU {opened}, times {u}")
print("out", down @ (opened * u))

# %%
layer = blocks.GLU(2, 3, "SwiGLU")
for linear, weight in ((layer.gate, gate), (layer.up, up), (layer.down, down)):
    linear.weight.data = weight
torch.testing.assert_close(layer(point), down @ (opened * u))
ffn = blocks.FFN(2, 3, "gelu")
ffn.up.weight.data, ffn.down.weight.data = up, down
torch.testing.assert_close(ffn(point), down @ F.gelu(up @ point))
print(inspect.getsource(blocks.FFN.forward), inspect.getsource(blocks.GLU.forward), sep="\n")

# %% [markdown] tags=["zh"]
# 它就是 Llama 的前馈层吗？把同样的权重放进 transformers 的 `LlamaMLP`：

# %% [markdown] tags=["en"]
# Is it the feed-forward layer of Llama? Put the same weights into `LlamaMLP` of transformers:

# %%
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

theirs, ours = LlamaMLP(LlamaConfig(hidden_size=64, intermediate_size=172)), blocks.GLU(64, 172, "SwiGLU")
renamed = {name.replace("_proj", ""): weight for name, weight in theirs.state_dict().items()}
ours.load_state_dict(renamed)
sample = torch.randn(2, 5, 64)  # (B, T, d)
torch.testing.assert_close(ours(sample), theirs(sample), atol=1e-5, rtol=1e-5)
print("equal to 1e-5:", list(renamed))

# %% [markdown] tags=["zh"]
# ### 8.2 门长什么样
#
# 上排：激活函数本身。SiLU 和 GELU 其实也是门，$x\cdot\sigma(x)$ 和 $x\cdot\Phi(x)$：用 $x$ 自己来决定放多少 $x$ 过去。下排：GLU 里一个隐藏特征的输出，横轴是门的输入 $g$，纵轴是被放行的 $u$；蓝为正，红为负，白为 0。

# %% [markdown] tags=["en"]
# ### 8.2 What gates look like
#
# Top row: the activations themselves. SiLU and GELU are gates too, $x\cdot\sigma(x)$ and $x\cdot\Phi(x)$: $x$ decides how much of $x$ passes. Bottom row: the output of one hidden feature of a GLU, with the gate's input $g$ on the horizontal axis and what it lets through, $u$, on the vertical one; blue is positive, red negative, white 0.

# %%
line = torch.linspace(-4, 4, 81)
torch.testing.assert_close(F.gelu(line), line * torch.special.ndtr(line))  # Φ, the normal distribution's
torch.testing.assert_close(F.silu(line), line * torch.sigmoid(line))
figure, axes = plt.subplots(2, 5, figsize=(9, 3.7), layout="constrained")
for (name, act), curve, square in zip(blocks.GATES.items(), *axes, strict=True):
    bend = blocks.ACTIVATIONS[act](line)  # (81,)
    curve.plot(line, bend)
    curve.set(title=f"act = {act}", xlabel="g", ylim=(-4.2, 4.2))
    square.imshow(line[:, None] * bend, origin="lower", extent=(-4, 4, -4, 4), cmap="RdBu", vmin=-8, vmax=8)
    square.set(title=name, xlabel="g")
    square.grid(False)
axes[0, 0].set_ylabel("act(g)")
axes[1, 0].set_ylabel("u")
plt.show()

# %% [markdown] tags=["zh"]
# 看 ReGLU：$g<0$ 的一半完全关上。SwiGLU 和 GEGLU 是它的光滑版，负的一侧留了一点缝。Bilinear 没有门可关，是纯粹的乘积。FFN 做不到的是这个**乘积**：两个都随 $x$ 变的量相乘。
#
# ### 8.3 参数要对齐
#
# 三个矩阵比两个多。（这里照文献的习惯，用 $d$ 记模型的宽度，也就是前面的 $H$。）要比较得公平，就把隐藏宽度缩到三分之二：$3\cdot d\cdot\tfrac23\cdot 4d = 2\cdot d\cdot 4d$。Llama-7B 的 11,008 这个怪数就是这样来的，再向上取到 256 的倍数：

# %% [markdown] tags=["en"]
# See ReGLU: the half with $g<0$ is shut. SwiGLU and GEGLU are smooth versions of it that leave a crack open on the negative side. Bilinear has no gate to shut, it is a plain product. What an FFN cannot do is this **product**, of two quantities that both depend on $x$.
#
# ### 8.3 Matching the parameters
#
# Three matrices are more than two. (As in the literature, $d$ is the width of the model here, the $H$ of earlier sections.) To compare fairly, the hidden width shrinks to two thirds: $3\cdot d\cdot\tfrac23\cdot 4d = 2\cdot d\cdot 4d$. That is where the odd 11,008 of Llama-7B comes from, rounded up to a multiple of 256:

# %%
for width, multiple in ((768, 1), (4096, 256)):
    hidden = blocks.matched_hidden(4 * width, multiple)
    print(
        f"width {width}: FFN 4d = {4 * width}, GLU {hidden}; weights {8 * width**2:,} and {3 * width * hidden:,}"
    )
assert blocks.matched_hidden(4 * 4096, 256) == LlamaConfig().intermediate_size == 11008

# %% [markdown] tags=["zh"]
# ### 8.4 谁用哪一种
#
# 不必听别人说，可以自己数。按各家族的默认配置搭一层，放在 meta 设备上（只有形状，没有数字，也不下载），数一数前馈层的权重：以 $d$ 个为一份，FFN 的份数是隐藏宽度的 2 倍，GLU 是 3 倍。

# %% [markdown] tags=["en"]
# ### 8.4 Who uses which
#
# No need to believe a table, one can count. Build one layer from each family's default configuration on the meta device (shapes without numbers, nothing is downloaded) and count the weights of its feed-forward part: in units of $d$ they are 2 times the hidden width for an FFN, 3 times for a GLU.


# %%
def feed_forward(name: str) -> dict:
    """Width, hidden width and kind of the feed-forward layer of one family, from the shapes of its matrices."""
    cfg = AutoConfig.for_model(name)
    cfg.num_hidden_layers = 1
    with torch.device("meta"):
        model = AutoModel.from_config(cfg)
    weights = [w for key, w in model.named_parameters() if w.dim() == 2 and re.search(r"mlp|ffn|\.fc\d", key)]
    d = cfg.hidden_size
    others = [w.numel() // d for w in weights]  # each matrix is d × something
    hidden = min(others)
    names = ("hidden_activation", "hidden_act", "activation_function", "activation")
    act = next(getattr(cfg, key) for key in names if getattr(cfg, key, None))
    kind = {2: "FFN", 3: "GLU"}[sum(others) // hidden]
    return {"kind": kind, "activation": act, "d": d, "hidden": hidden, "hidden / d": round(hidden / d, 2)}


families = ("gpt2", "opt", "distilbert", "phi", "llama", "qwen2", "glm4", "gemma", "modernbert")
pd.DataFrame({name: feed_forward(name) for name in families}).T

# %% [markdown] tags=["zh"]
# 规律很清楚：GPT-2、OPT、BERT 一代用 FFN，近年的解码器几乎都用 GLU；门是 silu 的就是 SwiGLU，是 gelu 的就是 GEGLU。表里是 transformers 里配置类的默认值，同一家族各个大小的型号会有不同。名字也会骗人：最初的 ChatGLM-6B 里有个类叫 `GLU`，里面却没有门（第 01 课会看到）。所以要数矩阵，不要看名字。
#
# ## 9 残差流，和归一化放在哪里
#
# ### 9.1 最后的向量是一个和
#
# 每一半都只往残差流里加。所以最后一个块的输出，**恰好**等于词嵌入与位置编码，加上所有注意力、所有前馈层的输出：

# %% [markdown] tags=["en"]
# The pattern is plain: the generation of GPT-2, OPT and BERT uses FFNs, recent decoders nearly always GLUs; a silu gate is SwiGLU, a gelu gate GEGLU. These are the defaults of the configuration classes in transformers; models of one family differ from size to size. Names can mislead, too: the first ChatGLM-6B has a class called `GLU` without a gate (lesson 01 shows it). So count matrices, do not read names.
#
# ## 9 The residual stream, and where to put the norm
#
# ### 9.1 The last vector is a sum
#
# Each half only adds to the residual stream. So what leaves the last block is **exactly** the embeddings and position encodings plus what all attentions and all feed-forward layers have put out:

# %%
added, hooks = [], []
for one in policy.transformer.h:
    keep = lambda _, args, out: added.append(out[0] if isinstance(out, tuple) else out)  # noqa: E731
    hooks += [one.attn.register_forward_hook(keep), one.mlp.register_forward_hook(keep)]
last = []
hooks.append(policy.transformer.ln_f.register_forward_pre_hook(lambda _, args: last.append(args[0])))
policy(few)
for hook in hooks:
    hook.remove()
embedded = policy.transformer.wte(few) + policy.transformer.wpe.weight[: few.shape[1]]  # (B, T, H)
torch.testing.assert_close(embedded + sum(added), last[0], atol=1e-3, rtol=1e-3)
lengths = {
    "attention": added[::2],
    "feed-forward": added[1::2],
    "embedding": [embedded],
    "end of stream": last,
}
for name, parts in lengths.items():  # mean length of the vectors, layer by layer
    print(f"{name:13}", [round(part.norm(dim=-1).mean().item(), 2) for part in parts])

# %% [markdown] tags=["zh"]
# 既然流里一直是同一种向量，就可以在任何一层**提前下车**：取那一层的流，直接归一化、乘输出矩阵，看模型此刻会猜什么（这叫 logit lens）。每过一个块，留出影评上的损失降多少？（输出矩阵就是词嵌入表，所以一个块都还没过的时候，最像的往往是刚读到的那个词自己。）

# %% [markdown] tags=["en"]
# Since the stream carries the same kind of vector all the way, one may **get off early**: take the stream after any block, apply the last norm and the output matrix, and see what the model would guess at this point (the logit lens). How much does each block lower the loss on held-out reviews? (The output matrix is the table of embeddings, so before the first block the best match tends to be the very word just read.)

# %%
states = [*policy(few, output_hidden_states=True).hidden_states[:-1], last[0]]  # L + 1 times (B, T, H)
for number, state in enumerate(states):
    logits = policy.lm_head(policy.transformer.ln_f(state[:, :-1]))  # (B, T-1, V)
    loss = F.cross_entropy(logits.flatten(0, 1), few[:, 1:].flatten())
    guess = tokenizer.decode(logits[0, 12].argmax())
    print(
        f"after {number} blocks: loss {loss:5.2f}, guesses {guess!r} after {tokenizer.decode(few[0, 9:13])!r}"
    )

# %% [markdown] tags=["zh"]
# ### 9.2 LayerNorm 与 RMSNorm
#
# 层归一化（layer norm）让一个位置上的向量回到固定的大小。LayerNorm 减均值、除以标准差；RMSNorm 不减均值，只除以均方根，Llama 以来的模型多用它：少一步，也没有偏置。
#
# $$\mathrm{LN}(x) = \frac{x-\mu}{\sqrt{\sigma^2+\epsilon}}\odot\gamma+\beta \qquad \mathrm{RMS}(x) = \frac{x}{\sqrt{\tfrac1H\sum_i x_i^2+\epsilon}}\odot\gamma$$

# %% [markdown] tags=["en"]
# ### 9.2 LayerNorm and RMSNorm
#
# A layer norm brings the vector of a position back to a fixed size. LayerNorm subtracts the mean and divides by the standard deviation; RMSNorm subtracts nothing and divides by the root mean square. Most models since Llama use the latter: a step less, and no bias.
#
# $$\mathrm{LN}(x) = \frac{x-\mu}{\sqrt{\sigma^2+\epsilon}}\odot\gamma+\beta \qquad \mathrm{RMS}(x) = \frac{x}{\sqrt{\tfrac1H\sum_i x_i^2+\epsilon}}\odot\gamma$$

# %%
vector = torch.tensor([1.0, 3.0, -2.0, 6.0])  # (H=4,)
layer_norm = (vector - vector.mean()) / (vector.var(unbiased=False) + 1e-5).sqrt()
rms_norm = vector / (vector.pow(2).mean() + 1e-5).sqrt()
torch.testing.assert_close(layer_norm, nn.LayerNorm(4)(vector))
torch.testing.assert_close(rms_norm, nn.RMSNorm(4, eps=1e-5)(vector))
print(f"LayerNorm {layer_norm}\nRMSNorm   {rms_norm}")
for name, norm in (("LayerNorm", nn.LayerNorm(4)), ("RMSNorm", nn.RMSNorm(4))):
    same = [torch.allclose(norm(other), norm(vector), atol=1e-3) for other in (10 * vector, vector + 10)]
    print(
        f"{name:9} ignores scale: {same[0]}, ignores a shift: {same[1]}, {sum(p.numel() for p in norm.parameters())} parameters"
    )

# %% [markdown] tags=["zh"]
# ### 9.3 pre-LN 与 post-LN
#
# 最初的 Transformer 把归一化放在加法**之后**（post-LN），GPT-2 以来放在每一半**之前**（pre-LN）。第 1 节的图里，差别在于残差流有没有被碰。刚初始化时就能看出后果。搭不同深度的模型，量两样东西：残差流有多大，最后一个块的前馈层收到多大的梯度。

# %% [markdown] tags=["en"]
# ### 9.3 Pre-LN and post-LN
#
# The first transformer put the norm **behind** the addition (post-LN); since GPT-2 it stands **before** each half (pre-LN). In the drawing of section 1 the difference is whether the stream itself is touched. What follows from that shows at initialisation already. Build models of different depth and measure two things: how large the stream is, and how large a gradient the feed-forward layer of the last block receives.


# %%
def at_init(depth: int, pre: bool, width: int = 64, length: int = 32) -> tuple[list[float], float]:
    """Root mean square of the stream after each block, and the gradient norm of the last block's W_down."""
    torch.manual_seed(0)
    stack = nn.ModuleList(blocks.Block(width, 4, blocks.FFN(width, 4 * width), pre=pre) for _ in range(depth))
    for weight in stack.parameters():
        if weight.dim() == 2:
            nn.init.xavier_normal_(weight)
    final, head = nn.LayerNorm(width) if pre else nn.Identity(), nn.Linear(width, 500)
    stream, sizes = torch.randn(8, length, width), []  # (B, T, H)
    for one in stack:
        stream = one(stream, blocks.causal_mask(length))
        sizes.append(stream.pow(2).mean().sqrt().item())
    loss = F.cross_entropy(head(final(stream)).flatten(0, 1), torch.randint(500, (8 * length,)))
    loss.backward()
    return sizes, stack[-1].mlp.down.weight.grad.norm().item()


# %%
depths, measured = (2, 4, 8, 16, 32), {}
for name, pre in (("pre-LN", True), ("post-LN", False)):
    measured[name] = [at_init(depth, pre) for depth in depths]
figure, axes = plt.subplots(1, 2, figsize=(8, 2.5), layout="constrained")
for name, results in measured.items():
    axes[0].plot(range(1, depths[-1] + 1), results[-1][0], label=name)
    axes[1].plot(depths, [gradient for _, gradient in results], "o-", label=name)
first = measured["pre-LN"][0][1]
falling = [first * (depths[0] / depth) ** 0.5 for depth in depths]
axes[1].plot(depths, falling, ":", color="0.4", label="1/√depth")
axes[0].set(xlabel="block", title="size (RMS) of the residual stream")
axes[1].set(xscale="log", yscale="log", xlabel="depth", title="gradient of the last block's W_down")
axes[1].set_xticks(depths, depths)
for panel in axes:
    panel.legend()
plt.show()

# %%
(shallow, deep), (shallow_post, deep_post) = ([r[i][1] for i in (0, -1)] for r in measured.values())
print(
    f"from {depths[0]} to {depths[-1]} blocks the gradient is multiplied by {deep / shallow:.2f} (pre-LN), {deep_post / shallow_post:.2f} (post-LN)"
)
print(
    f"the stream of {depths[-1]} pre-LN blocks grows to {measured['pre-LN'][-1][0][-1]:.1f}; post-LN stays at {measured['post-LN'][-1][0][-1]:.1f}"
)
assert deep / shallow < 0.6 < deep_post / shallow_post

# %% [markdown] tags=["zh"]
# pre-LN 的流越往上越大（每个块加上差不多大小的一份，方差就线性增长），最后归一化时要除以它，所以越深，靠近输出的块收到的梯度越小，大致按 $1/\sqrt{\text{depth}}$。post-LN 的流永远是 1，靠近输出的梯度与深度无关，一直很大，于是训练一开始要用很小的学习率慢慢热身（warm-up），否则容易发散（[Xiong 等 2020](https://arxiv.org/abs/2002.04745)）。这就是今天大多数模型用 pre-LN 的原因。
#
# ## 10 旋转位置编码（RoPE）
#
# 注意力本身不知道次序：把前面的词元打乱，加权平均不变。GPT-2 的办法是给每个位置学一个向量，加在词嵌入上。Llama 一代的办法是**旋转**：把查询和键的特征两两配对，看成平面上的箭头，按所在位置 $m$ 转一个角度 $m\theta_i$，每对有自己的转速 $\theta_i = 10000^{-2i/d}$。
#
# $$\langle R_m q,\; R_n k\rangle = \langle q,\; R_{n-m}\,k\rangle$$
#
# 两个箭头各转各的，夹角只取决于差 $n-m$。**相对位置**就这样进了分数，一个参数也不用学。

# %% [markdown] tags=["en"]
# The pre-LN stream grows on its way up (each block adds a share of about the same size, so the variance grows linearly). The last norm divides by its size, so the deeper the model, the smaller the gradient near the output, roughly like $1/\sqrt{\text{depth}}$. The post-LN stream is always 1 and the gradient near the output stays large whatever the depth, so training has to start with very small learning rates (warm-up) or may diverge ([Xiong et al. 2020](https://arxiv.org/abs/2002.04745)). This is why most models today use pre-LN.
#
# ## 10 Rotary positions (RoPE)
#
# Attention by itself knows no order: shuffle the earlier tokens, and a weighted mean stays the same. GPT-2 learns one vector per position and adds it to the word's. The generation of Llama **rotates**: the features of queries and keys are taken in pairs, as arrows in a plane, and turned by an angle $m\theta_i$ at position $m$; every pair has its own speed $\theta_i = 10000^{-2i/d}$.
#
# $$\langle R_m q,\; R_n k\rangle = \langle q,\; R_{n-m}\,k\rangle$$
#
# Each arrow turns by itself, yet the angle between two depends on the difference $n-m$ only. That is how **relative position** enters the scores, without a single parameter to learn.

# %%
print(
    inspect.getsource(blocks.rotary_angles).split('"""')[2], inspect.getsource(blocks.rotate).split('"""')[2]
)
angle = torch.tensor(torch.pi / 6)  # one pair, by hand: a rotation matrix
turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
arrow = torch.tensor([2.0, 1.0])
torch.testing.assert_close(blocks.rotate(arrow, angle[None]), turn @ arrow)
print(turn @ arrow)

# %%
generator = torch.Generator().manual_seed(1)
q, k = torch.randn(2, 64, generator=generator, dtype=torch.float64)  # (d,) each: one query, one key


def score(m: int, n: int) -> float:
    """Query at position m, key at position n, both rotated."""
    places = (torch.tensor(place).double() for place in (m, n))
    turned = [blocks.rotate(v, blocks.rotary_angles(p, 64)) for v, p in zip((q, k), places, strict=True)]
    return float(turned[0] @ turned[1])


for m, n in ((5, 2), (105, 102), (1005, 1002), (5, 3)):
    print(f"query at {m:4}, key at {n:4}: {score(m, n):+.6f}")
only_the_difference = float(q @ blocks.rotate(k, blocks.rotary_angles(torch.tensor(2 - 5).double(), 64)))
assert abs(score(5, 2) - only_the_difference) < 1e-6  # the formula: m = 5, n = 2
assert abs(score(5, 2) - score(1005, 1002)) < 1e-6 < abs(score(5, 2) - score(5, 3))

# %% [markdown] tags=["zh"]
# 前三行的距离都是 3，分数相同；第四行距离是 2，分数就变了。画出来：左边是一对特征随位置转动的箭头；中间是同一个查询和键放在所有位置上的分数，每条斜线上颜色相同；右边是策略学出来的位置编码在第 0 层、第 0 个头里的分数（只看位置，不看词；每一行减去了均值，因为整行一起加减，softmax 看不出来），斜线远没有那么整齐，甚至根本看不出来。

# %% [markdown] tags=["en"]
# The first three lines have a distance of 3 and the same score; the fourth, at a distance of 2, differs. As a picture: on the left, a pair of features turning with the position; in the middle, the scores of one query and one key at all positions, the same colour along each diagonal; on the right, the scores that the policy's learnt position encodings give in head 0 of layer 0 (positions alone, no words; the mean of each row is taken off, since the softmax does not see what a whole row has in common): the diagonals are far less tidy, if they show at all.

# %%
places = torch.arange(24.0)
angles = blocks.rotary_angles(places, 64)  # (T, d / 2)
turned = [blocks.rotate(v.float().expand(24, 64), angles) for v in (q, k)]  # (T, d) each
rope = turned[0] @ turned[1].T  # (T, T)
parts = block.attn.c_attn(block.ln_1(policy.transformer.wpe.weight[:24])).cpu().chunk(3, dim=-1)
width = config.n_embd // config.n_head
learnt = parts[0][:, :width] @ parts[1][:, :width].T / width**0.5  # (T, T)
learnt = learnt - learnt.mean(-1, keepdim=True)  # what a whole row has in common, the softmax does not see
figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
for place in range(8):
    tip = blocks.rotate(torch.tensor([1.0, 0.0]), torch.tensor([0.4 * place]))
    axes[0].annotate("", tip, (0, 0), arrowprops={"arrowstyle": "->", "color": plt.cm.viridis(place / 8)})
    axes[0].text(*(1.12 * tip), place, ha="center", va="center", fontsize=8)
axes[0].set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal", title="one pair, positions 0 to 7")
for panel, values, title in (
    (axes[1], rope, "RoPE: score by position"),
    (axes[2], learnt, "learnt positions"),
):
    panel.imshow(values, cmap="RdBu")
    panel.set(xlabel="key at", title=title)
    panel.grid(False)
axes[1].set_ylabel("query at")
plt.show()

# %% [markdown] tags=["zh"]
# 还记得第 6 节吗？忘了位置，GPT-2 就写错。RoPE 只看距离，整体平移不要紧：左填充时**掩码对了，位置从哪里数起都一样**。用一个随机权重的小 Llama 核对（它和课程库的 `rotate` 用同样的配对方式）：

# %% [markdown] tags=["en"]
# Remember section 6? With positions forgotten, GPT-2 went wrong. RoPE sees distances only, and shifting everything changes nothing: under left padding, **as long as the mask is right, it does not matter where counting starts**. Check it with a small Llama of random weights (which pairs features as the package's `rotate` does):

# %%
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

whole = torch.cat((angles, angles), -1)[None]  # (1, T, d): transformers repeats them for both halves
expanded = [v.float().expand(1, 1, 24, 64) for v in (q, k)]  # (B, heads, T, d)
for here, there in zip(turned, apply_rotary_pos_emb(*expanded, whole.cos(), whole.sin()), strict=True):
    torch.testing.assert_close(here, there[0, 0], atol=1e-5, rtol=1e-5)
print("the package's rotation is that of transformers")

# %%
torch.manual_seed(0)
shape = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 4}
special = {"vocab_size": len(tokenizer), "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}
tiny_llama = LlamaForCausalLM(LlamaConfig(**shape, **special)).eval().requires_grad_(False)
rows, mask = ids.cpu(), attention_mask.cpu()
places = blocks.position_ids(mask), counted(mask)
right, wrong = (tiny_llama(rows, attention_mask=mask, position_ids=p).logits[:, -1] for p in places)
moved = padding.loc["positions forgotten", "largest logit difference"]
print(
    f"positions forgotten: Llama's logits move by {(right - wrong).abs().max():.1e}, GPT-2's by {moved:.1e}"
)
assert (right - wrong).abs().max() < 1e-4

# %% [markdown] tags=["zh"]
# ## 11 FFN 还是 SwiGLU：训练了再说
#
# 搭两种小策略，只有前馈层不同，参数一样多，用同样的影评、同样的批次、同样的学习率从头训练。各用几个随机种子，因为一次的胜负可能只是运气。
#
# 为了省时间，做两处简化：只保留最常见的词元，其余全都换成编号 0（不然大半时间花在巨大的输出矩阵上）；文本切成短块。

# %% [markdown] tags=["en"]
# ## 11 FFN or SwiGLU: train, then talk
#
# Build two kinds of small policy that differ in the feed-forward layer only, with equally many parameters, and train them from scratch on the same reviews, in the same batches, at the same learning rate. Each gets several random seeds, since a single win may be luck.
#
# To be quick, we simplify in two ways: the commonest tokens are kept and all others become number 0 (or else most of the time goes into the huge output matrix), and texts are cut into short blocks.

# %%
sizes = setup.sizes


def token_blocks(split: str, count: int) -> torch.Tensor:
    """Blocks of tokens, ``(N, block)``, cut from ``count`` reviews."""
    reviews = [data.plain_text(text) for text in data.load_reviews(setup.dataset, split)["text"][:count]]
    encoded = tokenizer(reviews, verbose=False)["input_ids"]
    generator = torch.Generator().manual_seed(setup.seed)
    return pretrain.review_blocks(encoded, sizes["block"], tokenizer.eos_token_id, generator)


train_rows, test_rows = token_blocks("train", sizes["reviews"]), token_blocks("test", 150)[:512]
counted_tokens = train_rows.flatten().bincount(minlength=len(tokenizer))
common = counted_tokens.argsort(descending=True)[: sizes["vocab"] - 1]
renumber = torch.zeros(len(tokenizer), dtype=torch.long)
renumber[common] = torch.arange(1, sizes["vocab"])
train_rows, test_rows = renumber[train_rows], renumber[test_rows].to(setup.device)
rare = (train_rows == 0).float().mean()
print(f"train {tuple(train_rows.shape)}, test {tuple(test_rows.shape)}, rare tokens {rare:.1%}")


# %%
def tiny_policy(kind: str, seed: int) -> nn.Module:
    """An untrained GPT-2 whose feed-forward layers are FFNs, or GLUs of the given kind with as many weights."""
    torch.manual_seed(seed)
    shape = {"positions": sizes["block"], **{key: sizes[key] for key in ("width", "layers", "heads")}}
    model, width = pretrain.new_policy(shape, sizes["vocab"], 0), sizes["width"]
    for one in model.transformer.h:
        narrow = blocks.matched_hidden(4 * width)
        one.mlp = blocks.FFN(width, 4 * width) if kind == "FFN" else blocks.GLU(width, narrow, kind)
    return model.to(setup.device)


def train(model: nn.Module, seed: int) -> list[float]:
    """Train in place; the loss of every step. The seed decides which blocks come when."""
    generator, curve = torch.Generator().manual_seed(seed), []

    def batches():
        while True:
            chosen = torch.randint(len(train_rows), (sizes["batch"],), generator=generator)
            yield train_rows[chosen].to(setup.device)  # (B, T)

    def keep(batch: torch.Tensor) -> torch.Tensor:
        loss = loss_of(model, batch)
        curve.append(loss.item())
        return loss

    pretrain.optimise(model, batches(), keep, sizes["steps"], sizes["learning_rate"], 0.1, lambda line: None)
    return curve


# %%
kinds = ("FFN", "SwiGLU")
trained, curves = {}, {}
for kind, seed in tqdm([(kind, seed) for seed in range(sizes["seeds"]) for kind in kinds]):
    trained[kind, seed] = tiny_policy(kind, seed)
    curves[kind, seed] = train(trained[kind, seed], seed)
for kind in kinds:
    print(
        f"{kind:6} {sum(p.numel() for p in trained[kind, 0].transformer.h.parameters()):,} parameters in the blocks"
    )

# %% [markdown] tags=["zh"]
# 在测试集的文本块上比较。每个种子一行：两种模型的损失、它们的差，以及换一批文本时差会落在哪里（自助法区间）。换种子是另一种噪声：**同一种**模型的损失会变多少，下一个单元格印出来。因为同一行的两个模型见过同样的批次，差比损失本身稳得多。

# %% [markdown] tags=["en"]
# Compare them on blocks of the test split. One row per seed: the loss of either, their difference, and where the difference would fall on other texts (bootstrap interval). Seeds are a second kind of noise: how much the loss of the **same** kind of model changes is printed by the next cell. Since the two models of a row have seen the same batches, their difference is much steadier than the losses.


# %%
@torch.no_grad()
def block_losses(model: nn.Module) -> torch.Tensor:
    """Mean loss of each test block, ``(N,)``."""
    logits = model(input_ids=test_rows).logits[:, :-1]  # (N, T-1, V)
    return F.cross_entropy(logits.transpose(1, 2), test_rows[:, 1:], reduction="none").mean(1).cpu()


rows = {}
for seed in range(sizes["seeds"]):
    pair = [block_losses(trained[kind, seed]) for kind in kinds]
    gap, low, high = report.bootstrap_gain(*pair)
    both = [part.mean().item() for part in pair]
    rows[seed] = [*both, gap, low, high]
names = [*kinds, "SwiGLU − FFN", "95% low", "95% high"]
contest = pd.DataFrame(rows, index=names).T.rename_axis("seed")
contest.round(4)

# %%
gaps, noise = contest["SwiGLU − FFN"], contest[list(kinds)].std().max()
print(f"SwiGLU − FFN: {gaps.mean():+.4f} in the mean; one kind differs between seeds by {noise:.4f} (std)")
if (contest["95% high"] < 0).all() or (contest["95% low"] > 0).all():
    ahead, behind = kinds[::-1] if gaps.mean() < 0 else kinds
    print(
        f"verdict: after {sizes['steps']} steps {ahead} is ahead of {behind}, in every seed and beyond its interval"
    )
else:
    print(
        f"verdict: these {sizes['steps']} steps do not tell the two apart: some interval holds 0, or signs differ"
    )

# %%
smooth = {key: pd.Series(curve).rolling(15, min_periods=1).mean() for key, curve in curves.items()}
figure, axes = plt.subplots(1, 2, figsize=(8, 2.5), layout="constrained")
for (kind, seed), curve in smooth.items():
    axes[0].plot(curve, color=f"C{kinds.index(kind)}", lw=1, label=kind if seed == 0 else None)
for seed in range(sizes["seeds"]):
    axes[1].plot(smooth["SwiGLU", seed] - smooth["FFN", seed], lw=1, label=f"seed {seed}")
axes[1].axhline(0, color="0.4", ls=":")
axes[0].set(xlabel="step", ylabel="nats per token", title="training loss")
axes[1].set(xlabel="step", title="SwiGLU − FFN (below 0: SwiGLU is ahead)")
for panel in axes:
    panel.legend()
plt.show()

# %% [markdown] tags=["zh"]
# 怎么看待这个结果：
#
# - 判决由代码按数字写出，谁领先就写谁，分不出就说分不出。换个种子、换个配置，可能不同。
# - Shazeer 2020 的实验里，门控的各种变体稳定地好一点，但也只好百分之几 nat，而且模型大得多，训练也长得多。右图的走势比终点更值得看：差距在随训练怎样变化？把配置里的 `steps` 加到 8 倍，再看一次。
# - 两个形状不同的层用同一个学习率，未必对两者都合适。公平的比较要给每一种各自调好学习率，这是许多架构比较里最常见的漏洞。
#
# ## 12 拆掉一半，看看会怎样
#
# 最后回到真正的策略。用前向钩子（forward hook）把它每一层的同一个零件拆掉，什么也不重新训练：
#
# - **no causal mask**：每个位置可以看见所有位置，包括后面的；
# - **no attention**：注意力的输出换成 0，词元之间不再有任何往来；
# - **no feed-forward**：前馈层的输出换成 0。

# %% [markdown] tags=["en"]
# How to take this result:
#
# - The verdict is written by code from the numbers: it names whoever is ahead, and says so if nobody is. Another seed or profile may differ.
# - In Shazeer's 2020 experiments the gated variants were steadily better, but by some hundredths of a nat, in far larger models and far longer runs. The trend on the right tells more than its end: how does the gap change as training goes on? Set `steps` in the profile to 8 times as many and look again.
# - One learning rate for two layers of different shape need not suit both. A fair comparison tunes it for each; this is the commonest hole in comparisons of architectures.
#
# ## 12 Take out one half and see
#
# Back to the real policy at last. Forward hooks take the same part out of each of its layers; nothing is trained again:
#
# - **no causal mask**: every position may see all positions, later ones too;
# - **no attention**: the output of attention becomes 0, and tokens have no dealings with each other;
# - **no feed-forward**: the output of the feed-forward network becomes 0.


# %%
def see_all(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Give every position the row of the last one in the mask (B, 1, T, T): everything but padding."""
    mask = kwargs["attention_mask"]
    return args, kwargs | {"attention_mask": None if mask is None else mask[..., -1:, :], "is_causal": False}


@contextlib.contextmanager
def without(model: nn.Module, part: str):
    """While the ``with`` block runs, every block of ``model`` lacks one part."""
    hooks = []
    for one in model.transformer.h:
        if part == "no causal mask":
            hooks.append(one.attn.register_forward_pre_hook(see_all, with_kwargs=True))
        if part == "no attention":
            silent = lambda _, args, out: (torch.zeros_like(out[0]), *out[1:])  # noqa: E731
            hooks.append(one.attn.register_forward_hook(silent))
        if part == "no feed-forward":
            hooks.append(one.mlp.register_forward_hook(lambda _, args, out: torch.zeros_like(out)))
    try:
        yield model
    finally:
        for hook in hooks:
            hook.remove()


# %% [markdown] tags=["zh"]
# 没有因果掩码，第 7 节的缓存就**不合法**了：新词元一来，前面每个位置都会看见它，它们的键和值全都要变。所以这里生成时关掉缓存（`use_cache=False`）。用一个例子确认：

# %% [markdown] tags=["en"]
# Without the causal mask, the cache of section 7 is **not allowed**: as soon as a new token arrives, every earlier position sees it, and all their keys and values change. So generation runs without the cache here (`use_cache=False`). One example to confirm it:

# %%
for part in ("full", "no causal mask"):
    with without(policy, part):
        stored = policy(text[:, :15], use_cache=True).past_key_values
        cached = policy(text[:, 15:16], past_key_values=stored).logits[0, -1]
        again = policy(text[:, :16], use_cache=False).logits[0, -1]
    gap = (cached - again).abs().max().item()
    print(f"{part:15}: cached and computed again differ by {gap:.1e}")
    assert (gap < 1e-2) == (part == "full")

# %% [markdown] tags=["zh"]
# 同一个道理，概率也要换个算法。平时一次前向就得到整条回复每个位置的概率（PPO 也是这样算的），这只有在谁都看不见后文时才成立。没有因果掩码，就得把每个前缀单独算一遍，只取最后一个位置。两种算法都写出来，比一比：

# %% [markdown] tags=["en"]
# For the same reason probabilities have to be computed differently. Usually one forward pass gives them at every position of a response (PPO does so, too), which is right only if nobody sees what comes later. Without the causal mask every prefix has to be computed by itself, for the sake of its last position. Write down both and compare:


# %%
def in_one_pass(model: nn.Module, rollout: sampling.Rollout) -> torch.Tensor:
    """Log-probabilities before every response token, from one pass: ``(all response tokens, V)``."""
    ids, mask = sampling.left_pad(rollout.sequences, tokenizer.pad_token_id)  # all end in the last column
    logits = model(ids, attention_mask=mask, position_ids=blocks.position_ids(mask)).logits  # (B, T, V)
    rows = [row[-n - 1 : -1] for row, n in zip(logits, rollout.lengths, strict=True)]  # before each token
    return torch.cat(rows).log_softmax(-1)


def prefix_by_prefix(model: nn.Module, rollout: sampling.Rollout) -> torch.Tensor:
    """The same, token by token as in generation, each from the tokens before it and nothing else."""
    starts, whole = [len(query) for query in rollout.queries], rollout.sequences
    found = [[] for _ in whole]
    for step in range(max(rollout.lengths)):
        alive = [row for row, n in enumerate(rollout.lengths) if n > step]
        prefixes = [whole[row][: starts[row] + step] for row in alive]
        ids, mask = sampling.left_pad(prefixes, tokenizer.pad_token_id)
        out = model(ids, attention_mask=mask, position_ids=blocks.position_ids(mask), logits_to_keep=1)
        for row, logp in zip(alive, out.logits[:, -1].log_softmax(-1), strict=True):
            found[row].append(logp)  # (V,)
    return torch.cat([torch.stack(rows) for rows in found])


# %%
VARIANTS = ("full", "no causal mask", "no attention", "no feed-forward")
sample = evaluate.respond(policy, tokenizer, prompts["input_ids"][:16], 8, seed=setup.seed)
for part in VARIANTS:
    with without(policy, part):
        gap = (in_one_pass(policy, sample) - prefix_by_prefix(policy, sample)).abs().max().item()
    print(f"{part:15}: one pass and prefix by prefix differ by {gap:.1e}")
    assert (gap > 1e-2) == (part == "no causal mask")

# %% [markdown] tags=["zh"]
# 现在让四种策略都来回答留出提示：

# %% [markdown] tags=["en"]
# Now all four answer the held-out prompts:

# %%
reward_model = SentimentReward(setup.reward_model, device=setup.device)
lengths = evaluate.response_lengths(setup, len(prompts), seed=setup.seed)
rollouts, texts, rewards, kl, fluency = {}, {}, {}, {}, {}
for name in tqdm(VARIANTS):
    masked = name != "no causal mask"
    with without(policy, name):
        rollout = evaluate.respond(policy, tokenizer, prompts, lengths, seed=setup.seed, use_cache=masked)
        logp = (in_one_pass if masked else prefix_by_prefix)(policy, rollout)  # (all tokens, V)
    logq = in_one_pass(policy, rollout)  # the intact policy on the same text
    chosen = logq.gather(1, torch.cat(rollout.responses)[:, None]).squeeze(1)  # (all tokens,)
    kl[name] = torch.stack([part.sum() for part in losses.kl_full(logp, logq).cpu().split(rollout.lengths)])
    fluency[name] = torch.stack([part.mean() for part in chosen.cpu().split(rollout.lengths)])  # (N,)
    texts[name] = rollout.texts(tokenizer)
    rewards[name] = reward_model([q + r for q, r in zip(prompts["query"], texts[name], strict=True)])
print({name: len(responses) for name, responses in texts.items()})

# %% [markdown] tags=["zh"]
# 下面是结果，每拆一个零件一张表，各列出前 4 个提示，统计用的是全部提示。**reward** 是奖励模型的分数；**gain** 是同一提示上“拆掉之后减完整”，带 95% 区间；**KL** 是拆过的策略离完整策略多远；**log p** 是完整策略给这些回复里每个词元的平均对数概率，当作“通不通顺”的尺子（它当然偏向自己，不算公正的第二位评委）；distinct-2 是多样性。

# %% [markdown] tags=["en"]
# The results, one table per part that was taken out, with the first 4 prompts each and statistics over all of them. **reward** is the reward model's score; **gain** is ablated minus full on the same prompt, with a 95% interval; **KL** says how far the ablated policy is from the full one; **log p** is the mean log-probability that the full policy gives to each token of these responses, a yardstick of fluency (biased towards itself, of course, and no impartial second judge); distinct-2 is diversity.

# %% tags=["table"]
reports = {}
for name in VARIANTS[1:]:
    reports[name] = report.before_after(
        prompts["query"],
        texts["full"],
        texts[name],
        rewards["full"],
        rewards[name],
        judge_before=fluency["full"],
        judge_after=fluency[name],
        judge_name="log p",
        kl=kl[name],
        names=("full", name),
        title=f"02 block ablation: {name}",
        meta=report.run_meta(setup, started),
        show=setup.evaluation["shown"],
    )
reports["no attention"].save(setup.output)
for result in reports.values():
    result.show = 4  # all four answers stand side by side below
display(*reports.values())

# %% [markdown] tags=["zh"]
# 三张表的要点合成一张：

# %% [markdown] tags=["en"]
# The gist of the three in one:

# %%
NUMBERS = {
    "reward": "reward_mean",
    "gain": "reward_gain",
    "95% low": "reward_gain_low",
    "95% high": "reward_gain_high",
}
NUMBERS |= {"KL": "kl", "log p": "judge_mean", "distinct-2": "distinct_2"}
rows = {
    "full": {short: reports["no attention"].numbers.get(f"{key}_before") for short, key in NUMBERS.items()}
}
for name, result in reports.items():
    n = result.numbers
    rows[name] = {short: n.get(f"{key}_after", n.get(key)) for short, key in NUMBERS.items()}
summary = pd.DataFrame(rows, dtype=float).T
summary.map(lambda value: "" if pd.isna(value) else f"{value:.3f}")

# %% [markdown] tags=["zh"]
# 同一行是同一个提示，方括号里是奖励：

# %% [markdown] tags=["en"]
# A row is one prompt; the reward is in brackets:

# %%
shown = pd.DataFrame({"query": prompts["query"]})
for name in VARIANTS:
    scored = zip(texts[name], rewards[name].tolist(), strict=True)
    shown[name] = [f"{response} [{score:+.2f}]" for response, score in scored]
left = {"text-align": "left", "vertical-align": "top"}
styled = shown.head(setup.evaluation["shown"]).style.hide().set_uuid("02").set_properties(**left)
report.Html(styled.to_html(), shown.head(4).to_string(index=False))

# %% [markdown] tags=["zh"]
# 先自己读一读这些回复，再看奖励：奖励模型分得出它们吗？

# %% [markdown] tags=["en"]
# Read the responses first, then look at the rewards: can the reward model tell them apart?

# %%
for name, row in summary.iloc[1:].iterrows():
    told = row["95% low"] > 0 or row["95% high"] < 0
    verdict = f"{'higher' if row['gain'] > 0 else 'lower'} than full" if told else "not to be told from full"
    worse = row["log p"] - summary.loc["full", "log p"]
    print(f"{name:15}: reward {verdict}; KL {row['KL']:5.2f} nats per response; log p per token {worse:+.2f}")
assert (summary.loc[["no attention", "no feed-forward"], "KL"] > 2).all()
assert (summary["log p"].iloc[2:] < summary.loc["full", "log p"] - 0.5).all()

# %% [markdown] tags=["zh"]
# 这张表是这门课后半段的一个警告。拆掉一半的模型写的东西明眼人一看就不对，KL 和 log p 也立刻看得出来，奖励却不一定：奖励模型只回答它学过的那个问题（是褒是贬），**通不通顺不归它管**。所以 PPO 不能只追奖励，还要用 KL 把策略拴住；也正因为如此，每张训练前后的对比表都同时列出 KL 和多样性。
#
# 还有一处值得想：策略是带着掩码训练的，没了掩码，它并不会作弊，只是看到了从没见过的东西。**从头就不带掩码训练**会怎样？见练习 5。
#
# ## 13 小结
#
# - 注意力：查询问，键答，值给；$\mathrm{softmax}(QK^\top/\sqrt{d})\,V$。除以 $\sqrt{d}$ 是为了不让 softmax 饱和。
# - 掩码在 softmax 之前加：因果掩码不许看未来，填充掩码不许看填充。多头只是变形。
# - 左填充时，掩码和位置都要对；错了不报错，只会悄悄写出别的东西。RoPE 不怕平移，学出来的位置怕。
# - 键值缓存用内存换计算，数字不变；它之所以合法，靠的是因果掩码。
# - 前馈层占块里三分之二的参数；GLU 多一道门，隐藏宽度取三分之二，参数就一样多。
# - 残差流是一个和；pre-LN 不碰它，所以深的模型也好训练。
# - 谁更好，要在同样的参数、同样的数据、几个种子下量过再说，还要说出噪声有多大。

# %% [markdown] tags=["en"]
# This table is a warning for the rest of the course. Anyone can see that a model with one half missing writes nonsense, and KL and log p show it at once; the reward need not. A reward model answers only the question it was trained on (praise or blame), and **fluency is none of its business**. That is why it is not enough for PPO to chase the reward: the KL has to keep the policy on a lead. And why every before/after table shows KL and diversity as well.
#
# One more thing to ponder: the policy was trained with the mask. Without it, it does not cheat, it merely sees what it has never seen. What if a model is trained **without the mask from the start**? See exercise 5.
#
# ## 13 Summary
#
# - Attention: queries ask, keys answer, values give; $\mathrm{softmax}(QK^\top/\sqrt{d})\,V$. The $\sqrt{d}$ keeps the softmax from saturating.
# - Masks come before the softmax: the causal one hides the future, the padding one hides padding. Many heads are only a reshape.
# - Under left padding, mask and positions must both be right; mistakes raise nothing and quietly write something else. RoPE does not mind a shift, learnt positions do.
# - The KV cache trades memory for work and changes no number; it is the causal mask that makes it legitimate.
# - The feed-forward network holds two thirds of a block's parameters; a GLU adds a gate, and at two thirds of the hidden width has equally many.
# - The residual stream is a sum; pre-LN leaves it alone, which is why deep models train well.
# - Which is better has to be measured, at equal parameters, on equal data, with several seeds, and with the noise stated.

# %% [markdown] tags=["zh"]
# ## 14 练习
#
# 把 `...` 换成你的答案再运行，批改结果马上出现。每题后面藏着一个参考答案，点开就能看。
#
# ### 练习 1（找错）
#
# 下面的注意力形状全对，也不报错，但有三处错误，都是真实代码里出现过的。找出来，写出正确的 `attention`（输入都是二维的，不带批次；只返回输出）。

# %% [markdown] tags=["en"]
# ## 14 Exercises
#
# Replace `...` with your answer and run the cell; it is graded at once. A solution is hidden after each exercise; click to open it.
#
# ### Exercise 1 (find the bug)
#
# All shapes of the attention below are right and nothing is raised, but there are three mistakes in it, each made in real code. Find them and write the right `attention` (inputs are two-dimensional, without a batch; return the output only).


# %%
def buggy_attention(query, key, value, mask):
    """query (T, d), key (S, d), value (S, e), mask (T, S) of bool, True where row t may look -> (T, e)."""
    scores = query @ key.T
    weights = scores * mask
    return weights @ value


# %% tags=["exercise"]
def attention(query, key, value, mask): ...  # your code


checks.e02_1(attention)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_1(query, key, value, mask):
    scores = query @ key.T / query.shape[-1] ** 0.5  # 1. the scale
    scores = scores.masked_fill(~mask, -torch.inf)  # 2. hidden means -inf before the softmax, not 0
    return scores.softmax(-1) @ value  # 3. the softmax


checks.e02_1(solution_1).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 2（左填充的位置）
#
# 写出 `position_ids`：输入是 0 和 1 的掩码，形状 (B, T)，输出每个真词元在自己文本里的位置，从 0 数起。填充位置上放什么都行，但必须是合法的位置（不小于 0，小于 T），因为它们也要去查位置编码表。填充可能在左，也可能在右。

# %% [markdown] tags=["en"]
# ### Exercise 2 (positions under left padding)
#
# Write `position_ids`: in comes a mask of 0 and 1, shape (B, T); out goes the position of every real token in its own text, counted from 0. On padding any number will do as long as it is a valid position (not below 0, and below T), since it is looked up in the table of position encodings too. Padding may be on the left or on the right.


# %% tags=["exercise"]
def position_ids(attention_mask): ...  # your code


checks.e02_2(position_ids)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_2(attention_mask):
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


checks.e02_2(solution_2).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 3（找错）
#
# 这个 pre-LN 块能训练，损失也会下降，只是比应有的差得多。错在哪里？写出正确的 `block`。

# %% [markdown] tags=["en"]
# ### Exercise 3 (find the bug)
#
# This pre-LN block trains, and its loss goes down, only much less than it should. What is wrong? Write the right `block`.


# %%
def buggy_block(x, attention, ffn, norm_1, norm_2):
    """x (B, T, H); the others are functions from (B, T, H) to (B, T, H)."""
    parts = [attention(norm_1(x))]
    x = x + parts[0]
    parts.append(ffn(norm_2(x)))
    return x + parts[0]


# %% tags=["exercise"]
def block(x, attention, ffn, norm_1, norm_2): ...  # your code


checks.e02_3(block)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_3(x, attention, ffn, norm_1, norm_2):
    x = x + attention(norm_1(x))
    return x + ffn(norm_2(x))  # the FFN's output, not attention's once more


checks.e02_3(solution_3).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 4（SwiGLU）
#
# 写出 `swiglu`，权重的形状与 `nn.Linear` 相同（出 × 进）。再算一个数：GPT-2 的宽度是 768，FFN 的隐藏宽度是 3,072。换成 SwiGLU，参数一样多（不算偏置），隐藏宽度应是多少？

# %% [markdown] tags=["en"]
# ### Exercise 4 (SwiGLU)
#
# Write `swiglu`, with weights shaped as in `nn.Linear` (out × in). And compute one number: GPT-2 has a width of 768 and an FFN with a hidden width of 3,072. What is the hidden width of a SwiGLU with equally many parameters (biases not counted)?


# %% tags=["exercise"]
# x (..., d), w_gate and w_up (hidden, d), w_down (d, hidden)
def swiglu(x, w_gate, w_up, w_down): ...  # your code


hidden_width = ...
checks.e02_4(swiglu, hidden_width)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_4(x, w_gate, w_up, w_down):
    gate = x @ w_gate.T
    return (gate * gate.sigmoid() * (x @ w_up.T)) @ w_down.T


checks.e02_4(solution_4, 3072 * 2 // 3).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 5（先预测，再运行）
#
# 用第 11 节的小策略（FFN，种子 0），用同样的数据、训练同样多步，但**从头到尾不加因果掩码**，训练出它的一个孪生兄弟。和带掩码的那个相比：
#
# - 训练结束时，它的训练损失更低还是更高？
# - 真正用起来，只给前文、让它猜下一个词元时，它在测试集上的损失更低还是更高？
#
# 先写下 `"lower"` 或 `"higher"`，再点开参考答案，它会真的训练一遍。

# %% [markdown] tags=["en"]
# ### Exercise 5 (predict first, then run)
#
# Take the small policy of section 11 (FFN, seed 0) and train a twin on the same data for as many steps, but **without the causal mask from beginning to end**. Compared with the one that has the mask:
#
# - is its training loss at the end lower or higher?
# - in real use, when it is given the past only and has to guess the next token, is its loss on the test split lower or higher?
#
# Write down `"lower"` or `"higher"` for each, then open the solution, which really trains it.

# %% tags=["exercise"]
training_loss, loss_in_use = ..., ...
checks.e02_5(training_loss, loss_in_use)


# %% tags=["solution"] jupyter={"source_hidden": true}
@torch.no_grad()
def in_use(model):
    """Loss when each test block is cut off before the token to guess, so that only the past is there."""
    cuts = range(4, sizes["block"], 3)
    guesses = [(model(test_rows[:, :t], logits_to_keep=1).logits[:, -1], test_rows[:, t]) for t in cuts]
    return torch.stack([F.cross_entropy(*guess) for guess in guesses]).mean().item()


unmasked, masked = tiny_policy("FFN", 0), trained["FFN", 0]
with without(unmasked, "no causal mask"):
    cheating = train(unmasked, 0)
    used = in_use(unmasked)
ends = [sum(curve[-10:]) / 10 for curve in (curves["FFN", 0], cheating)]
uses = [in_use(masked), used]
print(f"training loss at the end: {ends[0]:.2f} with the mask, {ends[1]:.2f} without")
print(f"loss in real use:         {uses[0]:.2f} with the mask, {uses[1]:.2f} without")
plt.figure(figsize=(5, 2.2), layout="constrained")
for name, curve in (("with the mask", curves["FFN", 0]), ("without", cheating)):
    plt.plot(pd.Series(curve).rolling(9, min_periods=1).mean(), label=name)
plt.title("training loss: too good to be true")
plt.xlabel("step")
plt.ylabel("nats per token")
plt.legend()
plt.show()
outcome = ["lower" if pair[1] < pair[0] else "higher" for pair in (ends, uses)]
checks.e02_5(*outcome).must_pass()

# %% [markdown] tags=["zh"]
# ## 15 延伸阅读
#
# - Vaswani et al. 2017，[Attention Is All You Need](https://arxiv.org/abs/1706.03762)：式 1 就是第 2 节，那时是 post-LN。
# - Xiong et al. 2020，[On Layer Normalization in the Transformer Architecture](https://arxiv.org/abs/2002.04745)：第 9.3 节量的就是它的结论。
# - Shazeer 2020，[GLU Variants Improve Transformer](https://arxiv.org/abs/2002.05202)：只有几页，结尾把成功归功于“神的恩典”。
# - Su et al. 2021，[RoFormer](https://arxiv.org/abs/2104.09864)：RoPE。
# - Zhang & Sennrich 2019，[Root Mean Square Layer Normalization](https://arxiv.org/abs/1910.07467)：RMSNorm。
# - Xiao et al. 2023，[Efficient Streaming Language Models with Attention Sinks](https://arxiv.org/abs/2309.17453)：为什么权重会停放在第一个词元上。
# - Elhage et al. 2021，[A Mathematical Framework for Transformer Circuits](https://transformer-circuits.pub/2021/framework/index.html)：残差流这个看法的出处。

# %% [markdown] tags=["en"]
# ## 15 Further reading
#
# - Vaswani et al. 2017, [Attention Is All You Need](https://arxiv.org/abs/1706.03762): equation 1 is section 2; in those days it was post-LN.
# - Xiong et al. 2020, [On Layer Normalization in the Transformer Architecture](https://arxiv.org/abs/2002.04745): what section 9.3 measures is their result.
# - Shazeer 2020, [GLU Variants Improve Transformer](https://arxiv.org/abs/2002.05202): a few pages, which in the end attribute the success to divine benevolence.
# - Su et al. 2021, [RoFormer](https://arxiv.org/abs/2104.09864): RoPE.
# - Zhang & Sennrich 2019, [Root Mean Square Layer Normalization](https://arxiv.org/abs/1910.07467): RMSNorm.
# - Xiao et al. 2023, [Efficient Streaming Language Models with Attention Sinks](https://arxiv.org/abs/2309.17453): why weight is parked on the first token.
# - Elhage et al. 2021, [A Mathematical Framework for Transformer Circuits](https://transformer-circuits.pub/2021/framework/index.html): where the view of a residual stream comes from.
