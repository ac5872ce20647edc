# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] tags=["zh"]
# # 03 从零写 GPT
#
# **这一课回答的问题**：GPT-2 到底有多少代码？我能不能自己写出来，把训练好的权重装进去，让它和 transformers 里的那个写得一字不差？能的话，再往前走一步：从零写出**低秩适配**（LoRA），只训练百分之几的参数，让它偏向好评。
#
# **需要什么**
#
# | 配置（profile） | 硬件 | 时间 |
# |---|---|---|
# | `offline`（默认） | 2 个 CPU 核，不联网 | 大约 1 分钟 |
# | `imdb` | 2 个 CPU 核，或一块 GPU | CPU 上几分钟 |
# | `full` | 一块 GPU | 没有实测 |
#
# 先读过[第 02 课](02_attention_and_glu.ipynb)：注意力、掩码、残差流和键值缓存都在那里从零算过，这一课把它们拼成一个完整的模型。

# %% [markdown] tags=["en"]
# # 03 GPT from scratch
#
# **The question of this lesson**: how much code is GPT-2, really? Can you write it yourself, load trained weights into it, and have it write exactly what the one in transformers writes? If so, one step further: **LoRA** from scratch, which trains a few percent of the parameters and turns the model towards praise.
#
# **What you need**
#
# | profile | hardware | time |
# |---|---|---|
# | `offline` (default) | 2 CPU cores, no network | about 1 minute |
# | `imdb` | 2 CPU cores, or one GPU | a few minutes on the CPU |
# | `full` | one GPU | not timed |
#
# Read [lesson 02](02_attention_and_glu.ipynb) first: attention, masks, the residual stream and the KV cache are worked out there; this lesson puts them together into a whole model.

# %% tags=["setup"]
import time

from rlhf import checks, evaluate, pictures, profiles, report  # before torch: idle threads then sleep

started = time.perf_counter()
setup = profiles.setup("03_gpt_from_scratch")

# %%
import copy
import dataclasses
import inspect
import math
import random
import re
from collections import Counter

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf import blocks, data, gpt, lora, published, sampling
from rlhf.gpt import GPT, GPTConfig
from rlhf.ppo import losses
from rlhf.ppo.value_head import ValueHead
from rlhf.rewards import SentimentReward

plt.style.use(pictures.STYLE)

# %% [markdown] tags=["zh"]
# ## 1 一张图看完
#
# ![词元编号怎样变成 logits](../figs/03_gpt.svg)
#
# 从左到右：词元（token）编号先变成向量，加上位置；向量沿着**残差流**（residual stream）穿过许多层一样的块，每块里注意力（attention）和前馈层（FFN）各往流上加一点；最后归一化，再和每个词元的嵌入做内积，就得到 logits。图里的名字就是代码里的类：
#
# | 类 | 输入 → 输出 |
# |---|---|
# | `GPT` | 编号 `(B, T)` → logits `(B, T, V)` |
# | `TransformerDecoder` | 编号 `(B, T)` → 隐状态 `(B, T, H)` |
# | `TransformerDecoderBlock` | `(B, T, H)` → `(B, T, H)` |
# | `MaskedMultiheadSelfAttention` | `(B, T, H)` → `(B, T, H)`，在词元之间搬运信息 |
# | `FFN` | `(B, T, H)` → `(B, T, H)`，每个位置各算各的 |
#
# 它们都在 `rlhf/gpt.py` 里。这一课一个一个看，每个都先用小数字算一遍，再和现成的实现对一遍。模型有多大，写在检查点（checkpoint）的 `config.json` 里：

# %% [markdown] tags=["en"]
# ## 1 The whole on one page
#
# ![How token ids become logits](../figs/03_gpt.svg)
#
# From left to right: token ids become vectors and get their positions; the vectors flow along the **residual stream** through many equal blocks, in each of which attention and the feed-forward layer (FFN) add a little to it; in the end they are normalised, and their dot product with every token's embedding gives the logits. The names in the picture are the classes in the code:
#
# | class | in → out |
# |---|---|
# | `GPT` | ids `(B, T)` → logits `(B, T, V)` |
# | `TransformerDecoder` | ids `(B, T)` → hidden states `(B, T, H)` |
# | `TransformerDecoderBlock` | `(B, T, H)` → `(B, T, H)` |
# | `MaskedMultiheadSelfAttention` | `(B, T, H)` → `(B, T, H)`, carries information between tokens |
# | `FFN` | `(B, T, H)` → `(B, T, H)`, every position by itself |
#
# All of them live in `rlhf/gpt.py`. We look at them one by one, first on small numbers and then against an existing implementation. How large the model is stands in the checkpoint's `config.json`:

# %%
config = GPTConfig.from_published(published.read_config(setup.policy))
pd.Series(dataclasses.asdict(config), name=f"policy of profile {setup.profile}").to_frame()

# %% [markdown] tags=["zh"]
# ## 2 编号变成向量
#
# 词嵌入（embedding）是一张表，一行一个词元。查表就是按编号取行；它等于 one-hot 向量乘矩阵，只是不做那些乘以 0 的无用功。

# %% [markdown] tags=["en"]
# ## 2 Ids become vectors
#
# The embedding is a table with one row per token. To look up is to take rows by their number; it equals a one-hot vector times the matrix, without all the multiplications by 0.

# %%
table = torch.arange(12.0).view(4, 3)  # (V=4, H=3)
ids = torch.tensor([[2, 0, 2]])  # (B=1, T=3)
looked_up = table[ids]  # (B, T, H)
torch.testing.assert_close(looked_up, F.one_hot(ids, 4).float() @ table)  # (B, T, V) @ (V, H)
looked_up

# %% [markdown] tags=["zh"]
# 光有词元不够，“狗咬人”和“人咬狗”用的是同样的词。GPT-2 另有一张**位置表**：第几个词元，就再加上第几行。一批文本长短不一，要用填充（padding）补齐；这时“第几个”必须沿着掩码（mask）数，填充不算。第 02 课量过数错的代价，这里只核对函数：

# %% [markdown] tags=["en"]
# Tokens alone are not enough: "dog bites man" and "man bites dog" have the same words. GPT-2 has a second table, for **positions**: the row of the place a token stands at is added. Texts of a batch differ in length and are filled up with padding; then the place has to be counted along the mask, and padding does not count. Lesson 02 measured what a wrong count costs; here we only check the function:

# %%
mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])  # (B=2, T=5): padded on the left, on the right
place = torch.zeros_like(mask)
for row, t in mask.nonzero().tolist():
    place[row, t] = mask[row, :t].sum()  # how many real tokens stand before this one
real = mask.bool()
torch.testing.assert_close(place[real], blocks.position_ids(mask)[real])
blocks.position_ids(mask)

# %% [markdown] tags=["zh"]
# ## 3 注意力：谁可以读谁
#
# 每个词元可以读自己和前面的词元，不能读后面的（因果掩码，causal mask），也不能读填充。两个条件合成一张表：行是读的人，列是被读的人。
#
# 有个小陷阱：填充位置自己不能什么都不读，否则 softmax 是 0/0，得到 NaN，再一路传下去。让它读自己就行，反正没有人用它的结果。

# %% [markdown] tags=["en"]
# ## 3 Attention: who may read whom
#
# A token may read itself and the tokens before it, not those after it (the causal mask), and no padding. The two conditions make one table: rows read, columns are read.
#
# There is a small trap. A padded position must not be left with nothing to read, or its softmax is 0/0, a NaN, and it spreads. So it reads itself; nobody uses what comes of it.

# %%
visible = gpt.visible_keys(mask, new=5)  # (B, 1, T, T): the same for all heads
by_hand = [[k <= q and (bool(mask[0, k]) or k == q) for k in range(5)] for q in range(5)]
assert visible[0, 0].tolist() == by_hand
visible[0, 0].long()

# %% [markdown] tags=["zh"]
# 注意力的公式来自第 02 课：$\mathrm{softmax}(QK^\top/\sqrt d)\,V$。这里要看的是形状：一个线性层一次算出查询、键、值，再拆成几个头。

# %% [markdown] tags=["en"]
# The formula is that of lesson 02, $\mathrm{softmax}(QK^\top/\sqrt d)\,V$. What matters here are the shapes: one linear layer computes queries, keys and values at once, and they are split into heads.

# %%
torch.manual_seed(setup.seed)
toy = GPTConfig(vocab_size=50, n_positions=16, n_embd=8, n_layer=2, n_head=2)
attention = gpt.MaskedMultiheadSelfAttention(toy).eval()
x = torch.randn(2, 5, 8)  # (B, T, H)
q, k, v = (blocks.split_heads(part, toy.n_head) for part in attention.qkv(x).chunk(3, dim=-1))
print(
    "x", tuple(x.shape), "→ qkv(x)", tuple(attention.qkv(x).shape), "→ q", tuple(q.shape), "(B, heads, T, d)"
)

# %%
want = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)  # (B, heads, T, d)
want = attention.out(want.transpose(1, 2).flatten(2))  # heads side by side: (B, T, H)
torch.testing.assert_close(attention(x, visible), want)
print(inspect.getsource(gpt.MaskedMultiheadSelfAttention.forward))

# %% [markdown] tags=["zh"]
# 结果和 PyTorch 自带的 `F.scaled_dot_product_attention` 一致。`cache` 先不管，第 8 节生成文本时才用到。
#
# ## 4 前馈层和它的激活函数
#
# 前馈层更简单：变宽，过激活函数，再变窄，每个位置各算各的。GPT-2 的激活函数叫 `gelu_new`，是 GELU 的 tanh 近似（第 1 节的表里若写着 `gelu_pytorch_tanh`，那是同一个公式，只是一步算完）：
#
# $$\mathrm{gelu\_new}(x) = \tfrac12\,x\,\Bigl(1+\tanh\bigl(\sqrt{2/\pi}\,(x+0.044715\,x^3)\bigr)\Bigr)$$

# %% [markdown] tags=["en"]
# The result is that of PyTorch's own `F.scaled_dot_product_attention`. Leave `cache` aside until section 8 writes text.
#
# ## 4 The feed-forward layer and its activation
#
# This one is simpler: wider, an activation, narrow again, every position by itself. GPT-2's activation is called `gelu_new`, a tanh approximation of GELU (if the table of section 1 says `gelu_pytorch_tanh`, that is the same formula, computed in one step):
#
# $$\mathrm{gelu\_new}(x) = \tfrac12\,x\,\Bigl(1+\tanh\bigl(\sqrt{2/\pi}\,(x+0.044715\,x^3)\bigr)\Bigr)$$

# %%
x = torch.linspace(-4, 4, 201)
by_hand = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
torch.testing.assert_close(by_hand, gpt.ACTIVATIONS["gelu_new"](x), atol=1e-5, rtol=1e-5)
difference = (by_hand - gpt.ACTIVATIONS["gelu"](x)).abs().max()
print(f"the approximation and the exact GELU differ by at most {difference:.5f}\n")
print(inspect.getsource(gpt.FFN))

# %% [markdown] tags=["zh"]
# 差得这么少，用错了会怎样？不会报错，写出来的也像模像样，只是数字悄悄地不对。第 6 节装上真的权重以后，我们故意用错一次，看看差多少。
#
# ## 5 拼起来
#
# 一个块：先归一化，算注意力，**加**回流上；再归一化，算前馈层，再**加**回去。归一化只作用在支路上，流本身不动（pre-LN）。

# %% [markdown] tags=["en"]
# With so little between them, what if you take the wrong one? Nothing is raised, the texts still look fine, only the numbers are quietly off. Once real weights are in, section 6 makes the mistake on purpose.
#
# ## 5 Putting it together
#
# A block: normalise, attend, **add** to the stream; normalise, feed forward, **add** again. The norm acts on the branch only, the stream itself is left alone (pre-LN).

# %%
print(inspect.getsource(gpt.TransformerDecoderBlock.forward))
print(inspect.getsource(gpt.TransformerDecoder.forward))
print(inspect.getsource(GPT.head))

# %% [markdown] tags=["zh"]
# 整个 GPT-2 就是这些。最后一行值得多看一眼：输出头没有自己的权重，它就是词嵌入的转置（权重共享，weight tying）。
#
# 数一数参数，看有没有漏掉什么。宽度 $H$、前馈层中间的宽度 $I$（代码里的 `inner`）、词表 $V$、位置 $P$；括号里依次是注意力、前馈层、两个归一化：
#
# $$(V+P)\,H \;+\; n_{\mathrm{layer}}\,\bigl(4H^2+4H \;+\; 2HI+I+H \;+\; 4H\bigr) \;+\; 2H$$

# %% [markdown] tags=["en"]
# That is all of GPT-2. The last line deserves a second look: the output head has no weights of its own, it is the token embedding transposed (weight tying).
#
# Count the parameters to see whether anything is missing. Width $H$, width inside the FFN $I$ (`inner` in the code), vocabulary $V$, positions $P$; in brackets stand attention, FFN and two norms:
#
# $$(V+P)\,H \;+\; n_{\mathrm{layer}}\,\bigl(4H^2+4H \;+\; 2HI+I+H \;+\; 4H\bigr) \;+\; 2H$$

# %%
theirs = AutoModelForCausalLM.from_pretrained(setup.policy).to(setup.device).eval().requires_grad_(False)
torch.manual_seed(setup.seed)
fresh = GPT(config)
H, inner = config.n_embd, config.inner
block = (4 * H**2 + 4 * H) + (2 * H * inner + inner + H) + 4 * H  # attention, FFN, two norms
formula = (config.vocab_size + config.n_positions) * H + config.n_layer * block + 2 * H
print(f"formula {formula:,}, ours {lora.count(fresh).total:,}, transformers {theirs.num_parameters():,}")
assert formula == lora.count(fresh).total == theirs.num_parameters()

# %% [markdown] tags=["zh"]
# ## 6 装上真的权重
#
# 现在的 `fresh` 是随机的，什么都不会。训练好的权重在检查点里，名字和形状都按 GPT-2 原来的写法。要做的只有两件事：**换名字**，和**转置**。

# %% [markdown] tags=["en"]
# ## 6 Real weights
#
# So far `fresh` is random and knows nothing. The trained weights are in the checkpoint, with GPT-2's own names and shapes. Two things are left to do: **rename** and **transpose**.

# %%
stored = {name.removeprefix("transformer."): t for name, t in published.read_weights(setup.policy).items()}
rows = []
for name, tensor in fresh.state_dict().items():
    if not re.search(r"blocks\.(?!0)", name):  # the other blocks look like block 0
        theirs_name = published.published_name(name)
        rows.append((theirs_name, tuple(stored[theirs_name].shape), name, tuple(tensor.shape)))
pd.DataFrame(rows, columns=["published name", "shape", "our name", "our shape"])

# %% [markdown] tags=["zh"]
# 为什么要转置？GPT-2 最早用 TensorFlow 训练，线性层写成 $y = xW + b$，$W$ 的形状是 `(in, out)`，transformers 用一个叫 Conv1D 的类照样保留下来；`nn.Linear` 写的是 $y = xW^\top + b$，形状是 `(out, in)`。同一个层，两种放法：

# %% [markdown] tags=["en"]
# Why transpose? GPT-2 was first trained in TensorFlow, where a linear layer is $y = xW + b$ with $W$ of shape `(in, out)`; transformers keeps it that way, in a class called Conv1D. `nn.Linear` computes $y = xW^\top + b$ with shape `(out, in)`. One layer, stored in two ways:

# %%
from transformers.pytorch_utils import Conv1D

conv, linear = Conv1D(3, 2), nn.Linear(2, 3)  # both take 2 numbers and give 3
linear.weight.data, linear.bias.data = conv.weight.data.T.contiguous(), conv.bias.data
x = torch.randn(4, 2)
torch.testing.assert_close(linear(x), conv(x))
print("Conv1D", tuple(conv.weight.shape), "nn.Linear", tuple(linear.weight.shape))

# %% [markdown] tags=["zh"]
# 装进去，然后做这一课最重要的核对：同样的输入，logits 和 transformers 的一样。

# %% [markdown] tags=["en"]
# Load them, and then comes the most important check of this lesson: on the same input, the logits are those of transformers.

# %%
tokenizer = AutoTokenizer.from_pretrained(setup.policy)
tokenizer.pad_token = tokenizer.eos_token  # GPT-2 has no padding token of its own
model = GPT.from_pretrained(setup.policy).to(setup.device)

reviews = data.load_reviews(setup.dataset, "test").shuffle(seed=setup.seed)
encoded = tokenizer([data.plain_text(text)[:400] for text in reviews["text"][:32]])["input_ids"]
ids = torch.tensor([row[:24] for row in encoded if len(row) >= 24][:4], device=setup.device)  # (B=4, T=24)
with torch.no_grad():
    ours, want = model(ids), theirs(ids).logits  # (B, T, V) each
print(tuple(ours.shape), f"largest difference {(ours - want).abs().max():.1e}")
torch.testing.assert_close(ours, want, atol=1e-4, rtol=1e-5)

# %% [markdown] tags=["zh"]
# 差别只剩浮点数的舍入。再来一批长短不一的，左填充，最短的只有一个词元。比较真词元的位置：

# %% [markdown] tags=["en"]
# What is left is rounding. Now a batch of unequal lengths, padded on the left, the shortest of a single token. We compare where there are real tokens:

# %%
ragged = [row[:n] for row, n in zip(ids, (24, 9, 3, 1), strict=True)]
padded, mask = sampling.left_pad(ragged, tokenizer.pad_token_id)  # (B, T) each
place = blocks.position_ids(mask)
with torch.no_grad():
    ours = model(padded, mask)
    want = theirs(padded, attention_mask=mask, position_ids=place).logits
    careless = theirs(padded, attention_mask=mask).logits  # no positions given
real = mask.bool()
print(f"with position_ids: largest difference {(ours - want)[real].abs().max():.1e}")
print(f"without:           largest difference {(ours - careless)[real].abs().max():.1e}")
torch.testing.assert_close(ours[real], want[real], atol=1e-4, rtol=1e-5)

# %% [markdown] tags=["zh"]
# 第二行是怎么回事？transformers 的 `forward` **不会**根据掩码计算位置，没给 `position_ids` 就从 0 数到底，连填充也算；只有它的 `generate` 会替你算好。我们的 `GPT` 总是沿着掩码数，所以没有这个坑。不信可以看它的源码：

# %% [markdown] tags=["en"]
# What happened in the second line? `forward` of transformers does **not** work out positions from the mask: without `position_ids` it counts from 0 straight through, padding and all; only its `generate` does that for you. Our `GPT` always counts along the mask, so there is nothing to fall into. See for yourself in its source:

# %%
source = inspect.getsource(type(theirs.transformer).forward).splitlines()
print("\n".join(line for line in source if "position_ids" in line and "=" in line))

# %% [markdown] tags=["zh"]
# 再兑现第 4 节的承诺：同样的权重，换一个激活函数。没有任何报错，只有数字在变：

# %% [markdown] tags=["en"]
# And the promise of section 4: the same weights with another activation. Nothing complains, only the numbers change:

# %%
with torch.no_grad():
    right = model(ids)
    for name in ("gelu", "relu"):
        other = GPT(dataclasses.replace(config, activation_function=name)).to(setup.device).eval()
        other.load_state_dict(model.state_dict())
        wrong = other(ids)
        same = (wrong.argmax(-1) == right.argmax(-1)).float().mean()
        print(
            f"{name}: logits off by up to {(wrong - right).abs().max():.3f}; likeliest token equal in {same:.0%}"
        )

# %% [markdown] tags=["zh"]
# 所以“看起来能用”不算数：**把数字对一遍**，才知道对不对。同样的道理，遇到自己不会算的配置，宁可停下来说清楚，也不要悄悄算错。例如有的 GPT-2 还要把注意力分数再除以层号：

# %% [markdown] tags=["en"]
# So "it seems to work" does not count: only **comparing numbers** tells. By the same token, a configuration that the class cannot compute should stop it with a clear word, rather than give wrong numbers. Some GPT-2s, for instance, also divide attention scores by the number of the layer:

# %%
odd = {**published.read_config(setup.policy), "scale_attn_by_inverse_layer_idx": True}
try:
    GPTConfig.from_published(odd)
except published.UnsupportedModel as error:
    print(error)

# %% [markdown] tags=["zh"]
# ## 7 存下来，再读回来
#
# 自己的模型要有自己的检查点：一个 safetensors 文件放张量，一个 JSON 文件放配置。整个文件夹先写在旁边，写完了再改名，所以断电也不会留下半个。

# %% [markdown] tags=["en"]
# ## 7 Save it, read it back
#
# A model of your own needs a checkpoint of its own: a safetensors file for the tensors and a JSON file for the configuration. The folder is written next to its place and renamed when it is complete, so that even a power cut leaves no half of one.

# %%
folder = model.save_checkpoint(setup.output / "checkpoint")
again = GPT.from_checkpoint(folder).to(setup.device)
assert torch.equal(again(ids), model(ids))
for path in sorted(folder.iterdir()):
    print(f"{path.name:24} {path.stat().st_size / 1024:>10,.1f} KiB")

# %% [markdown] tags=["zh"]
# 反方向也走得通：按 GPT-2 的名字和放法存，任何人用 transformers 就能打开，不需要这门课的代码。

# %% [markdown] tags=["en"]
# The other direction works too: saved with GPT-2's names and layout, the model opens in transformers for anyone, without this course's code.

# %%
exported = model.save_pretrained(setup.output / "exported", tokenizer.save_pretrained)
opened = AutoModelForCausalLM.from_pretrained(exported).to(setup.device).eval()
assert torch.equal(opened(ids).logits, theirs(ids).logits)
print(sorted(path.name for path in exported.iterdir() if not path.name.startswith(".")))

# %% [markdown] tags=["zh"]
# ## 8 生成文本
#
# ### 8.1 选下一个词元
#
# 模型只给出下一个词元的 logits，选哪一个是另一回事。**贪心解码**（greedy decoding）取最大的；**采样**（sampling）按概率抽。抽之前还可以动手脚：**温度**（temperature）除 logits，top-k 只留最可能的 k 个，top-p 只留加起来刚够 p 的那几个。

# %% [markdown] tags=["en"]
# ## 8 Writing
#
# ### 8.1 Choosing the next token
#
# The model gives logits of the next token; which one to take is another matter. **Greedy decoding** takes the largest; **sampling** draws by probability. And before the draw one may tamper: the **temperature** divides the logits, top-k keeps the k likeliest tokens, top-p keeps the fewest that together reach p.

# %%
prompts = evaluate.held_out_prompts(setup, tokenizer, setup.sizes["prompts"], seed=setup.seed)
prompt = prompts["input_ids"][0].to(setup.device)  # (Q,)
with torch.no_grad():
    logits = model(prompt[None])[:, -1]  # (1, Q, V) -> the last position: (1, V)
top = logits[0].topk(12).indices
looks = {"as it is": logits, "temperature 0.5": logits / 0.5}
looks |= {"top-k 5": gpt.keep_top_k(logits, 5), "top-p 0.6": gpt.keep_top_p(logits, 0.6)}
print(repr(prompts["query"][0]), "… likeliest:", [tokenizer.decode(i) for i in top[:5]])

# %%
figure, axes = plt.subplots(1, 4, figsize=(10, 2.5), sharey=True, layout="constrained")
words = [repr(tokenizer.decode(i))[1:-1].replace("$", r"\$") for i in top]
for panel, (name, row) in zip(axes, looks.items(), strict=True):
    probability = row.softmax(-1)[0].cpu()  # (V,)
    panel.barh(words, probability[top.cpu()])
    panel.set(title=f"{name}\n{int((probability > 0).sum()):,} tokens left", xlabel="probability")
axes[0].invert_yaxis()
plt.show()

# %% [markdown] tags=["zh"]
# 截断会让文字更稳妥，但也改变了分布。PPO 需要“抽样用的分布就是打分用的分布”，所以课程里默认一个都不截（为什么，见第 06 课）。
#
# ### 8.2 一个提示
#
# 最朴素的写法就是一个循环：算一遍，选一个，接上去，再算一遍。

# %% [markdown] tags=["en"]
# Cutting makes texts safer, but it changes the distribution. PPO needs the distribution that samples to be the one that is scored, so nothing is cut by default in this course (lesson 06 says why).
#
# ### 8.2 One prompt
#
# The plainest way is a loop: compute, choose, append, compute again.

# %%
print(inspect.getsource(GPT.generate).split('"""')[2])
for seed in range(3):
    torch.manual_seed(seed)
    print(repr(prompts["query"][0]), "→", repr(tokenizer.decode(model.generate(prompt, 14))))

# %% [markdown] tags=["zh"]
# ### 8.3 一批提示
#
# ![左填充的一批提示怎样被续写](../figs/03_batch.svg)
#
# 一次只写一条太慢。`batch_generate` 把长短不一的提示**左填充**成一块（这样每行最后一列都是真词元，新词元接在后面），第一遍算完所有提示，之后每步只算一列新词元：前面的键和值都在缓存（KV cache）里。写完的行不能走，只好变成填充，等别人写完。

# %% [markdown] tags=["en"]
# ### 8.3 A batch of prompts
#
# ![How a left-padded batch of prompts is continued](../figs/03_batch.svg)
#
# One text at a time is slow. `batch_generate` pads prompts of different lengths **on the left** into one block (so that every row ends in a real token and new ones follow it), reads all prompts in a first pass, and from then on computes a single new column per step: earlier keys and values are in the KV cache. A row that has finished cannot leave; it turns into padding and waits for the others.

# %%
print(inspect.getsource(GPT._continue).split('"""')[2])

# %% [markdown] tags=["zh"]
# 核对：32 个长短不一的留出提示。贪心解码没有随机性，我们的词元和 transformers 的逐个相等。采样时两边服从同一个分布，但用的随机数不同：在 CPU 上，课程的 `sampling.generate` 每行只取一个随机数，到累积概率里去查，比 `torch.multinomial` 快；所以随机种子相同，抽到的词元也不同。第三种情况把句号当作结束符（EOS），好让许多行提前写完：

# %% [markdown] tags=["en"]
# The check: 32 held-out prompts of different lengths. Greedy decoding has no randomness, and our tokens equal those of transformers one by one. When sampling, both follow the same distribution but use other random numbers: on a CPU, the course's `sampling.generate` takes one random number per row and looks it up in the cumulative probabilities, which is faster than `torch.multinomial`; so even from the same seed the sampled tokens differ. The third case takes the full stop for the end-of-sequence token (EOS), so that many rows finish early:

# %%
queries = [query.to(setup.device) for query in prompts["input_ids"][:32]]
stop = tokenizer.encode(".")[0]
greedy, sampled = {"do_sample": False}, {"do_sample": True}
for name, settings in (
    ("greedy", greedy),
    ("sampled", sampled),
    ("until '.'", {**greedy, "eos_token_id": stop}),
):
    written = []
    for write in (model.batch_generate, lambda *a, **s: sampling.generate(theirs, *a, **s)):
        torch.manual_seed(setup.seed)
        written.append([r.tolist() for r in write(queries, 16, **settings).responses])
    equal = sum(a == b for a, b in zip(*written, strict=True))
    lengths = Counter(len(r) for r in written[0])
    print(f"{name:10} {equal} of {len(queries)} responses equal; lengths {min(lengths)} to {max(lengths)}")
    assert name == "sampled" or equal == len(queries)

# %% [markdown] tags=["zh"]
# 一条一条写和一起写，词元也一样；快了多少，量一下：

# %% [markdown] tags=["en"]
# Written one by one or all together, the tokens are the same; how much faster is it?

# %%
few = queries[:8]
clock = time.perf_counter()
alone = [model.generate(query, 16, do_sample=False).tolist() for query in few]
seconds = time.perf_counter() - clock
clock = time.perf_counter()
together = [r.tolist() for r in model.batch_generate(few, 16, do_sample=False).responses]
ratio = seconds / (time.perf_counter() - clock)
assert alone == together
print(f"{len(few)} prompts: as a batch with a cache {ratio:.1f} times as fast as one by one without")

# %% [markdown] tags=["zh"]
# ## 9 LoRA：只训练一条低秩的旁路
#
# ![LoRA 的低秩旁路，和合并](../figs/03_lora.svg)
#
# 微调要改动 $W$。LoRA（Hu 等，2021）的想法：$W$ 不动，旁边加一条支路，改动限制为两个瘦长矩阵的乘积：
#
# $$y = Wx + b + \frac{\alpha}{r}\,BAx,\qquad A\in\mathbb R^{r\times \mathrm{in}},\quad B\in\mathbb R^{\mathrm{out}\times r}$$
#
# 秩 $r$ 很小，所以要学的数很少。$A$ 随机初始化，$B$ 从 0 开始，于是刚加上去时**什么都没变**。先用小数字算：

# %% [markdown] tags=["en"]
# ## 9 LoRA: train a low-rank side path only
#
# ![The low-rank side path of LoRA, and merging](../figs/03_lora.svg)
#
# Fine-tuning changes $W$. The idea of LoRA (Hu et al., 2021): leave $W$ alone and put a path beside it, whose change is limited to the product of two thin matrices:
#
# $$y = Wx + b + \frac{\alpha}{r}\,BAx,\qquad A\in\mathbb R^{r\times \mathrm{in}},\quad B\in\mathbb R^{\mathrm{out}\times r}$$
#
# The rank $r$ is small, so there is little to learn. $A$ starts random and $B$ at 0, so that a new side path **changes nothing**. First on small numbers:

# %%
torch.manual_seed(setup.seed)
W, b = torch.randn(4, 6), torch.randn(4)  # (out, in), (out,)
A, B = torch.randn(2, 6), torch.zeros(4, 2)  # (r, in), (out, r)
x, alpha = torch.randn(3, 6), 8.0  # (B, in)
y = x @ W.T + b + alpha / len(A) * (x @ A.T @ B.T)  # never the (out, in) matrix B A: two thin steps
torch.testing.assert_close(y, x @ W.T + b)  # B is 0
B = torch.randn(4, 2)
y = x @ W.T + b + alpha / len(A) * (x @ A.T @ B.T)
y

# %%
layer = nn.Linear(6, 4)
layer.weight.data, layer.bias.data = W, b
layer = lora.LoRALinear(layer, rank=2, alpha=alpha)
layer.lora_A.data, layer.lora_B.data = A, B
torch.testing.assert_close(layer(x), y)
print(inspect.getsource(lora.LoRALinear.forward).split('"""')[2])

# %% [markdown] tags=["zh"]
# `lora.inject` 按名字挑出线性层，换成 `LoRALinear`，再冻结其余的一切。名字用通配符写：

# %% [markdown] tags=["en"]
# `lora.inject` picks linear layers by name, puts a `LoRALinear` in place of each, and freezes everything else. Names are patterns:

# %%
PATTERNS = ["*.attention.qkv", "*.attention.out"]
adapted = copy.deepcopy(model)
print(lora.count(adapted))
names = lora.inject(adapted, PATTERNS, rank=4, alpha=8)
print(lora.count(adapted), "with adapters on", len(names), "layers:", names[0], "…")
assert torch.equal(adapted(ids), model(ids))  # B is 0: nothing has changed

# %% [markdown] tags=["zh"]
# 和 PEFT 库的 LoRA 对一遍：同样的底座，同样的 $A$、$B$（这里给 $B$ 随机数，否则是拿 0 比 0），输出一样。

# %% [markdown] tags=["en"]
# Against the library PEFT: the same base, the same $A$ and $B$ ($B$ gets random numbers here, or we would compare 0 with 0), the same outputs.

# %%
from peft import LoraConfig, inject_adapter_in_model

peft = LoraConfig(r=4, lora_alpha=8, target_modules=["qkv", "out"])
other = inject_adapter_in_model(peft, copy.deepcopy(model))
for name, layer in lora.adapters(adapted).items():
    nn.init.normal_(layer.lora_B, std=0.05)
    twin = other.get_submodule(name)
    twin.lora_A["default"].weight.data.copy_(layer.lora_A)
    twin.lora_B["default"].weight.data.copy_(layer.lora_B)
print(f"largest difference {(adapted(ids) - other(ids)).abs().max():.1e}")
torch.testing.assert_close(adapted(ids), other(ids), atol=1e-4, rtol=1e-5)

# %% [markdown] tags=["zh"]
# 谁会收到梯度？只有适配器（adapter）：

# %% [markdown] tags=["en"]
# Who receives gradients? The adapters alone:

# %%
gpt.next_token_loss(adapted(ids), ids).backward()
touched = [name for name, parameter in adapted.named_parameters() if parameter.grad is not None]
print(len(touched), "tensors with a gradient:", Counter(name.rpartition(".")[2] for name in touched))
assert set(touched) == set(lora.adapter_state(adapted))

# %% [markdown] tags=["zh"]
# 训练完可以**合并**（merge）：把 $\frac{\alpha}{r}BA$ 加进 $W$，输出不变，推理时也没有额外的计算；再减出来，就回到从前。不合并的好处是，**关掉旁路就是原来的模型**：不用再存一份参考模型（reference model）。

# %% [markdown] tags=["en"]
# After training one can **merge**: add $\frac{\alpha}{r}BA$ to $W$; outputs stay the same, and inference has no extra work. Subtract it and the old weights are back. Without merging there is another benefit: **switch the side path off and the model is the old one**, so that the reference model needs no copy.

# %%
with torch.no_grad():
    apart = adapted(ids)
    with lora.disabled(adapted):
        assert torch.equal(adapted(ids), model(ids))  # the reference, for free
    lora.merge(adapted)
    print(f"merged against unmerged: largest difference {(adapted(ids) - apart).abs().max():.1e}")
    torch.testing.assert_close(adapted(ids), apart, atol=1e-4, rtol=1e-5)

# %% [markdown] tags=["zh"]
# ## 10 一个陷阱：冻结了新加的价值头
#
# “冻结其余的一切”里藏着一个坑。PPO 给策略（policy）加了一个**价值头**（value head），它不是从检查点来的，是刚刚随机初始化的。把它也冻结，它就永远是一组随机数。分类头、奖励模型（reward model）的打分头也一样。
#
# 试一试。任务：读一段影评，让价值头在每个位置上都预测奖励模型给整段的分数。

# %% [markdown] tags=["en"]
# ## 10 A trap: freezing a new value head
#
# "Freeze everything else" hides a pit. PPO gives the policy a **value head** that did not come from the checkpoint but has just been initialised at random. Freeze it too, and it stays a set of random numbers for ever. The same goes for a classification head, or the score head of a reward model.
#
# Let us try. The task: read a piece of a review and let the value head predict, at every position, the score that the reward model gives to the whole piece.


# %%
class Critic(nn.Module):
    """A GPT with a value head that no checkpoint knows."""

    def __init__(self):
        super().__init__()
        self.gpt = GPT.from_pretrained(setup.policy)
        self.v_head = ValueHead(config.n_embd, seed=setup.seed)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        return self.gpt.decoder(x, torch.ones_like(x))  # (B, T) -> (B, T, H)


# %%
size = setup.sizes["critic"]
texts = [data.plain_text(text)[:400] for text in reviews["text"][: size["texts"]]]
pieces = [tokenizer(text)["input_ids"][:20] for text in texts]
x = torch.tensor([piece for piece in pieces if len(piece) == 20], device=setup.device)  # (B, 20)
reward_model = SentimentReward(setup.reward_model, device=setup.device)
target = reward_model(tokenizer.batch_decode(x)).to(setup.device)[:, None]  # (B, 1)
print(
    len(x),
    "pieces; scores have mean",
    round(target.mean().item(), 2),
    "and variance",
    round(target.var().item(), 2),
)

# %% [markdown] tags=["zh"]
# 比较四种做法：价值头冻结或不冻结；价值损失的梯度只到价值头为止，或者一直传进适配器。除了损失，还要看**策略变了多少**：在这些文本上，现在的下一个词元分布和出发时的 KL 散度，逐词元加起来。

# %% [markdown] tags=["en"]
# Four ways are compared: the head frozen or not, and the gradient of the value loss stopped at the head or passed on into the adapters. Besides the loss, look at **how far the policy has moved**: the KL divergence of its next-token distribution from the one it started with, summed over the tokens of these texts.


# %%
def fit_values(keep: tuple[str, ...], through: bool) -> tuple[list[float], float]:
    """Train for a while; returns the value losses and the KL per text that it cost."""
    torch.manual_seed(setup.seed)
    critic = Critic().to(setup.device)
    lora.inject(critic, ["*.qkv", "*.out"], rank=8, keep=keep)
    head, side = [p for p in critic.v_head.parameters() if p.requires_grad], lora.adapters(critic).values()
    groups = [{"params": head, "lr": 1e-2}, {"params": [p for a in side for p in (a.lora_A, a.lora_B)]}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.0)
    history, features = [], critic.hidden(x).detach()  # (B, T, H): what the frozen policy says
    for _ in range(size["steps"]):
        values = critic.v_head(critic.hidden(x) if through else features)  # (B, T)
        loss = (values - target).square().mean()
        history.append(loss.item())
        if loss.requires_grad:  # with everything frozen there is nothing to do
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        start, now = (critic.gpt.head(h).log_softmax(-1) for h in (features, critic.hidden(x)))
    return history, losses.kl_full(now, start).sum(1).mean().item()


# %%
ways = {
    "head frozen, gradient stops there": ((), False),
    "head frozen, gradient into the adapters": ((), True),
}
ways |= {"head learns, gradient stops there": (("v_head",), False)}
ways |= {"head learns, gradient into the adapters": (("v_head",), True)}
fits = {name: fit_values(*way) for name, way in tqdm(ways.items())}
rows = [(name, h[0], h[-1], kl) for name, (h, kl) in fits.items()]
pd.DataFrame(rows, columns=["way", "value loss, first", "last", "KL of the policy, nats per text"]).round(3)

# %%
figure, axes = plt.subplots(figsize=(9, 2.6), layout="constrained")
for name, (values, kl) in fits.items():
    axes.plot(values, label=f"{name} (KL {kl:.1f})", ls="--" if "frozen" in name else "-")
axes.axhline(target.var(unbiased=False).item(), color="0.5", lw=1)
axes.set(xlabel="step", ylabel="value loss", title="grey: a head that always says the mean score")
axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
plt.show()

# %%
flat, bent, alone, both = fits.values()
assert flat[0][-1] == flat[0][0], "a frozen head on frozen features cannot learn"
assert alone[0][-1] < alone[0][0] and alone[1] == 0, "a head that learns improves and leaves the policy alone"
print(
    f"frozen head, adapters bent to fit it: KL {bent[1]:.1f}; the same with a head that learns: KL {both[1]:.1f}"
)

# %% [markdown] tags=["zh"]
# - 价值头冻结、梯度到它为止：损失一动不动，一条水平线。这是陷阱最老实的样子，看曲线就能发现。
# - 价值头冻结、梯度传进适配器：损失也许照样下降，看上去没问题。可是价值头不能动，只好由**策略**扭曲自己，去迁就一组随机数，代价在 KL 那一栏。这是陷阱更阴险的样子。
# - 让价值头学：损失下降，策略不必为它改变。
#
# 所以 `lora.inject` 有一个参数 `keep`：不是从检查点来的模块，都写进去。在 PEFT 里它叫 `modules_to_save`。

# %% [markdown] tags=["en"]
# - Head frozen, gradient stops there: the loss does not move, a flat line. This is the honest form of the trap; the curve gives it away.
# - Head frozen, gradient into the adapters: the loss may well go down and all looks fine. But as the head cannot move, it is the **policy** that bends itself to suit a set of random numbers, and the KL column says at what price. This is the sly form.
# - Let the head learn: the loss goes down, and the policy does not have to change for its sake.
#
# That is what the argument `keep` of `lora.inject` is for: name every module that did not come from the checkpoint. In PEFT it is called `modules_to_save`.

# %% [markdown] tags=["zh"]
# ## 11 用 LoRA 做一次监督微调
#
# 现在让它偏向好评：给它看正面影评，逐个词元地模仿，只训练适配器。这就是监督微调（supervised fine-tuning，SFT）的最小形式，第 04 课细讲。
#
# 给它看影评的哪一段？我们的回复只有十几个词元。在一整条好评里，读到后面，上文早已说明了褒贬，模型照着往下写就是了，学不到“主动夸”。所以切成短短的一段，从句子开头切起：没有上文可依靠，只好自己学会往好里写。

# %% [markdown] tags=["en"]
# ## 11 Supervised fine-tuning with LoRA
#
# Now turn it towards praise: show it positive reviews, let it imitate them token by token, and train the adapters only. This is supervised fine-tuning (SFT) in its smallest form; lesson 04 goes into it.
#
# Which part of a review to show? Our responses are little over ten tokens long. In a whole review the text so far has long said what it thinks of the film, the model only has to go along, and never learns to praise of its own accord. So we cut short pieces that begin with a sentence: with nothing before them to lean on, it has to learn to write well of a film by itself.


# %%
def cut_pieces(split: str, label: int, n: int, length: int) -> torch.Tensor:
    """Up to ``n`` pieces of reviews with this label, ``(n, length)`` tokens, each from the start of a sentence."""
    rows = data.load_reviews(setup.dataset, split).shuffle(seed=setup.seed)
    texts = [text for text, has in zip(rows["text"], rows["label"], strict=True) if has == label]
    texts = [data.plain_text(text) for text in texts[: n // 3]]
    starts = [(text, found.end()) for text in texts for found in re.finditer(r"[.!?] ", text)]
    chosen = random.Random(setup.seed).sample(starts, min(3 * n // 2, len(starts)))
    tokens = tokenizer([text[at : at + 12 * length] for text, at in chosen], verbose=False)["input_ids"]
    return torch.tensor([ids[:length] for ids in tokens if len(ids) >= length][:n])


# %%
sizes = setup.sizes
train = cut_pieces("train", 1, sizes["steps"] * sizes["batch_size"], sizes["length"])  # (N, T)
held_out = {
    name: cut_pieces("test", label, sizes["held_out"], sizes["length"])
    for name, label in (("positive", 1), ("negative", 0))
}
print(tuple(train.shape), {name: tuple(rows.shape) for name, rows in held_out.items()})
for row in train[:3]:
    print(repr(tokenizer.decode(row)))

# %% [markdown] tags=["zh"]
# 适配器加在每一个线性层上。模型小，所以百分比显得大：一个宽度为 $H$ 的方阵有 $H^2$ 个数，适配器有 $2rH$ 个，比值是 $2r/H$；$H$ 越大越划算。

# %% [markdown] tags=["en"]
# Adapters go on every linear layer. The model is small, so the percentage looks large: a square matrix of width $H$ has $H^2$ numbers, its adapter $2rH$, a ratio of $2r/H$; the larger $H$, the better the bargain.

# %%
torch.manual_seed(setup.seed)
adapted_layers = lora.inject(model, ["*.qkv", "*.out", "*.up", "*.down"], rank=sizes["rank"])
print(len(adapted_layers), "layers;", lora.count(model))
with torch.device("meta"):  # GPT-2 small with the same rank, without memory for its weights
    small = GPT(GPTConfig())
    lora.inject(small, ["*.qkv", "*.out", "*.up", "*.down"], rank=sizes["rank"])
print("GPT-2 small:", lora.count(small))


# %%
def perplexity(rows: torch.Tensor) -> float:
    """exp of the mean loss per token: how many tokens the model wavers between, so to speak."""
    with torch.no_grad():
        each = [gpt.next_token_loss(model(part), part) for part in rows.to(setup.device).split(64)]
    return torch.stack(each).mean().exp().item()


before_training = {name: perplexity(rows) for name, rows in held_out.items()}
print("perplexity before training:", {name: round(value, 2) for name, value in before_training.items()})

# %% [markdown] tags=["zh"]
# 训练循环没有任何新东西：损失、反向、裁剪梯度、更新。学习率先升后降到 0；LoRA 的学习率通常比全量微调大一个数量级。

# %% [markdown] tags=["en"]
# The loop holds nothing new: loss, backward, clip the gradient, update. The learning rate rises and then falls to 0; with LoRA it is usually ten times that of full fine-tuning.

# %%
learns = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(learns, lr=sizes["learning_rate"], betas=(0.9, 0.98), weight_decay=0.0)
batches = train.to(setup.device).split(sizes["batch_size"])
schedule = torch.optim.lr_scheduler.LambdaLR(
    optimizer, lambda step: min(1, (step + 1) / 10) * (1 - step / len(batches))
)
history = []
model.train()
for batch in tqdm(batches, desc="LoRA SFT"):
    loss = gpt.next_token_loss(model(batch), batch)  # (B, T, V) -> one number
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(learns, 1.0)
    optimizer.step()
    schedule.step()
    history.append({"loss": loss.item()})
model.eval()
report.curves(history, ["loss"], smooth=20, labels=["loss per token, training pieces"], columns=1)

# %%
after_training = {name: perplexity(rows) for name, rows in held_out.items()}
table = pd.DataFrame({"before": before_training, "after": after_training})
table["after / before"] = table["after"] / table["before"]
table.rename_axis("held-out perplexity on").round(3)

# %% [markdown] tags=["zh"]
# 困惑度（perplexity）在**没见过的**正面片段上怎样变，在负面片段上又怎样变？两行都下降的那一部分，是它更会写“从句子开头切起的短片段”了；两行之差，才是它偏向了哪一边：

# %% [markdown] tags=["en"]
# How has the perplexity moved on positive pieces it has **not seen**, and how on negative ones? What both rows have in common is that it got better at short pieces that begin with a sentence; the difference between the rows is the side it has turned to:

# %%
shift = math.log(table.loc["negative", "after / before"] / table.loc["positive", "after / before"])
side = "the positive side" if shift > 0 else "the negative side" if shift < 0 else "neither side"
print(f"it moved towards {side}: {abs(shift):.3f} nats per token more on one than on the other")
assert table.loc["positive", "after / before"] < 1, "held-out positive reviews became no likelier"

# %% [markdown] tags=["zh"]
# 学到的改动真的是低秩的吗？取一层，算 $\frac{\alpha}{r}BA$ 的奇异值：第 $r$ 个之后应当全是 0。

# %% [markdown] tags=["en"]
# Is the change that was learnt really of low rank? Take a layer and compute the singular values of $\frac{\alpha}{r}BA$: after the first $r$ they should all be 0.

# %%
layers = lora.adapters(model)
figure, axes = plt.subplots(figsize=(6, 2.5), layout="constrained")
for name in (adapted_layers[0], adapted_layers[-1]):
    values = torch.linalg.svdvals(layers[name].delta().detach()).cpu()
    axes.semilogy(values.clamp(min=1e-8), ".-", label=name)
    assert int((values > 1e-4 * values[0]).sum()) <= sizes["rank"]
axes.axvline(sizes["rank"] - 0.5, color="0.5", lw=1)
axes.set(
    xlabel="index", ylabel="singular value", title=f"the learnt update: rank {sizes['rank']}, then rounding"
)
axes.legend()
plt.show()

# %% [markdown] tags=["zh"]
# 要保存的也只有适配器。和整个检查点比一比大小；读回来，装到一个新读的模型上，输出一样：

# %% [markdown] tags=["en"]
# Only the adapters need saving. Compare their size with that of the checkpoint; read back and put on a freshly loaded model, they give the same outputs:

# %%
small_folder = lora.save(model, setup.output / "adapters")
again = GPT.from_pretrained(setup.policy).to(setup.device)
lora.load(again, small_folder)
torch.testing.assert_close(again(ids), model(ids))
kib = [sum(path.stat().st_size for path in place.iterdir()) / 1024 for place in (folder, small_folder)]
print(f"checkpoint {kib[0]:,.0f} KiB, adapters {kib[1]:,.0f} KiB")

# %% [markdown] tags=["zh"]
# ## 12 训练前后
#
# 同一个从零写的模型，训练前和训练后，在同样的留出提示（held-out prompts）上各写一遍：同样的长度，同样的随机种子。SFT 的差别不大，所以提示比别的课多一些，区间才够窄。“训练前”不用另外读一遍模型，关掉适配器就是。奖励模型没有参与训练，所以它是一位局外的评委。

# %% [markdown] tags=["en"]
# ## 12 Before and after
#
# The same from-scratch model, before and after training, writes on the same held-out prompts, with the same lengths and the same random seed. The effect of SFT is not large, so there are more prompts than in other lessons, to make the interval narrow. "Before" needs no second model: switch the adapters off. The reward model took no part in the training, so it is an outside judge.

# %%
queries = list(prompts["input_ids"])
lengths = evaluate.response_lengths(setup, len(queries), seed=setup.seed)
with lora.disabled(model):
    torch.manual_seed(setup.seed)
    before = model.batch_generate(queries, lengths)
torch.manual_seed(setup.seed)
after = model.batch_generate(queries, lengths)
print(len(before), "responses before,", len(after), "after")

# %% [markdown] tags=["zh"]
# KL 用课程库的函数来量，它要的是 transformers 的模型。正好借此走一圈：合并，卸下适配器，导出，再用 transformers 打开。顺便核对：走完这一圈，logits 没有变：

# %% [markdown] tags=["en"]
# The KL is measured by the package's function, which takes models of transformers. Just as well: merge, take the adapters off, export, and open the result in transformers. And check that after the whole round trip the logits are the same:

# %%
merged = copy.deepcopy(model)
lora.merge(merged)
lora.remove(merged)
place = merged.save_pretrained(setup.output / "policy", tokenizer.save_pretrained)
policy = AutoModelForCausalLM.from_pretrained(place).to(setup.device).eval()
torch.testing.assert_close(policy(ids).logits, model(ids), atol=1e-3, rtol=1e-4)
kl = evaluate.response_kl(policy, theirs, after)  # (N,), summed over the tokens of a response
print("KL per response", round(kl.mean().item(), 2))

# %% tags=["table"]
result = evaluate.compare(
    prompts,
    before,
    after,
    tokenizer,
    reward_model,
    kl=kl,
    shown=setup.evaluation["shown"],
    title="03 GPT from scratch: before and after LoRA on positive reviews",
    meta=report.run_meta(setup, started),
)
result.save(setup.output)
result

# %%
mean, low, high = result.gain
if low > 0:
    verdict = "a gain: the whole interval lies above 0"
elif high < 0:
    verdict = "a loss: the whole interval lies below 0"
else:
    verdict = "no gain that these prompts can show: the interval holds 0"
print(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}] → {verdict}")
n = result.numbers
assert n["distinct_2_after"] > n["distinct_2_before"] / 2, "the responses repeat themselves"

# %% [markdown] tags=["zh"]
# 还能涨多少？模仿者最多写得和示范一样。把训练用的片段切成和模型的文本（提示加回复）差不多长，让奖励模型打分，就看到了天花板：

# %% [markdown] tags=["en"]
# How much more is there to gain? An imitator writes at best like what it imitates. Cut the training pieces to about the length of the model's texts, query and response together, and let the reward model score them: that is the ceiling.

# %%
ceiling = reward_model(tokenizer.batch_decode(train[:512, :16])).mean().item()
start, end = n["reward_mean_before"], n["reward_mean_after"]
print(
    f"before {start:+.2f}, after {end:+.2f}, the pieces themselves {ceiling:+.2f}: {(end - start) / (ceiling - start):.0%} of the way"
)

# %% [markdown] tags=["zh"]
# 没走完的路，一部分可以靠多练（把配置里的 `steps` 调大试试），一部分走不完：提示里的那几个词不归它写。而天花板本身，靠模仿是过不去的。想写得比示范更好，就要有人打分，这是后面几课的事。
#
# ## 13 小结
#
# - GPT-2 就是两张嵌入表、一摞相同的块、一个归一化，再加一个借来的输出头。
# - 装权重就是换名字，再转置 Conv1D，**方阵也要转**。对不对，只有比过数字才知道。
# - 位置沿着掩码数；填充不能让 softmax 变成 NaN；写完的行变成填充等着。
# - LoRA：$W$ 不动，学 $A$ 和 $B$；$B=0$ 起步，合并后没有额外开销，关掉就是参考模型。
# - 刚初始化的头不能冻结，否则不是学不动，就是把策略拧弯。
# - 模仿好评能让分数动一点；要超过示范，需要奖励。

# %% [markdown] tags=["en"]
# Part of the rest can be had by practice (try more `steps` in the profile), part of it cannot: the words of the query are not its own. And the ceiling itself is out of reach for imitation. To write better than what is shown, somebody has to score; that is what the next lessons are about.
#
# ## 13 Summary
#
# - GPT-2 is two embedding tables, a stack of equal blocks, a norm, and a borrowed output head.
# - Loading weights is renaming plus transposing Conv1D, **square matrices included**. Whether it is right, only comparing numbers can tell.
# - Positions are counted along the mask; padding must not turn a softmax into NaN; rows that have finished wait as padding.
# - LoRA: $W$ stays, $A$ and $B$ learn; it starts at $B=0$, costs nothing once merged, and switched off it is the reference.
# - A freshly initialised head must not be frozen: either nothing is learnt, or the policy is bent out of shape.
# - Imitating praise moves the score a little; to do better than the examples takes a reward.

# %% [markdown] tags=["zh"]
# ## 14 练习
#
# 把 `...` 换成你的答案再运行，批改结果马上出现。每题后面藏着一个参考答案，点开就能看。
#
# ### 练习 1（先预测，再运行）
#
# 两个数，运行任何东西之前就能算出来。
#
# - `loss`：一个刚初始化、什么都没学过的 GPT-2（词表 50,257），每个词元的平均交叉熵大约是多少？误差在 1% 以内算对。
# - `trainable`：给 GPT-2 small（12 层，宽度 768）的每个 `qkv` 和 `out` 加上秩为 8 的 LoRA，有多少个参数要学？要精确值。

# %% [markdown] tags=["en"]
# ## 14 Exercises
#
# Replace `...` with your answer and run the cell; it is graded at once. A solution is hidden after each exercise; click to open it.
#
# ### Exercise 1 (predict first, then run)
#
# Two numbers that can be worked out before anything runs.
#
# - `loss`: a GPT-2 that has just been initialised and has learnt nothing (vocabulary 50,257): what is its mean cross-entropy per token, about? Within 1% counts as right.
# - `trainable`: put LoRA of rank 8 on every `qkv` and every `out` of GPT-2 small (12 blocks, width 768). How many parameters learn? The exact number.

# %% tags=["exercise"]
loss, trainable = ..., ...
checks.e03_1(loss, trainable)

# %% tags=["solution"] jupyter={"source_hidden": true}
with torch.no_grad():
    measured = gpt.next_token_loss(fresh.eval()(ids.cpu()), ids.cpu()).item()
print(f"measured on the random model of section 5: {measured:.3f}; ln V = {math.log(config.vocab_size):.3f}")
with torch.device("meta"):
    small = GPT(GPTConfig())
    lora.inject(small, PATTERNS, rank=8)
checks.e03_1(math.log(50257), lora.count(small).trainable).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 2（找错）
#
# 有人这样装权重：形状对不上就转置。所有张量都装进去了，没有报错，写出来的却不像话。错在哪里？写出正确的 `to_linear`：给出检查点里的名字（前面可能有 `transformer.`，也可能没有）、张量和目标形状，返回 `nn.Linear`、嵌入或归一化层要的张量。

# %% [markdown] tags=["en"]
# ### Exercise 2 (find the bug)
#
# Somebody loads weights like this: transpose whatever does not fit. Every tensor finds its place, nothing is raised, and what the model writes is nonsense. What is wrong? Write the right `to_linear`: given the name in the checkpoint (with or without `transformer.` in front), the tensor and the shape wanted, return the tensor as `nn.Linear`, an embedding or a norm needs it.


# %%
def buggy_to_linear(name, tensor, shape):
    """A tensor of a GPT-2 checkpoint, in the shape that our model wants."""
    return tensor if tuple(tensor.shape) == shape else tensor.T


# %%
broken = copy.deepcopy(merged)
state = {
    name: buggy_to_linear(name, stored[published.published_name(name)], tuple(t.shape))
    for name, t in broken.state_dict().items()
}
broken.load_state_dict(state)
torch.manual_seed(setup.seed)
print(repr(prompts["query"][0]), "→", repr(tokenizer.decode(broken.generate(prompt, 14))))


# %% tags=["exercise"]
def to_linear(name, tensor, shape): ...  # your code


checks.e03_2(to_linear)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_2(name, tensor, shape):
    conv1d = (".attn." in name or ".mlp." in name) and name.endswith(".weight")
    return tensor.T if conv1d else tensor  # by name: attn.c_proj is square and would always seem to fit


checks.e03_2(solution_2).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 3（top-p）
#
# 写出 top-p 的截断：`logits` 的形状是 `(B, V)`，每一行留下概率最大的那几个词元，个数尽量少，但概率之和要达到 `p`；其余的写成 `-inf`。想一想：使总和**越过** `p` 的那一个，留不留？排序之后，怎样回到原来的顺序？

# %% [markdown] tags=["en"]
# ### Exercise 3 (top-p)
#
# Write the cut of top-p: `logits` has the shape `(B, V)`; in every row keep the likeliest tokens, as few as possible, whose probabilities add up to at least `p`; all others become `-inf`. Mind the one with which the sum **crosses** `p`: is it kept? And after sorting, how do you get back to the original order?


# %% tags=["exercise"]
def top_p(logits, p): ...  # your code


checks.e03_3(top_p)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_3(logits, p):
    probability, order = logits.softmax(-1).sort(descending=True)
    before = probability.cumsum(-1) - probability  # what the likelier ones have together
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(dropped, float("-inf"))


checks.e03_3(solution_3).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 4（合并）
#
# 写出合并后的权重。`W` 是 `(out, in)`，`A` 是 `(r, in)`，`B` 是 `(out, r)`。

# %% [markdown] tags=["en"]
# ### Exercise 4 (merging)
#
# Write the merged weight. `W` is `(out, in)`, `A` is `(r, in)`, `B` is `(out, r)`.


# %% tags=["exercise"]
def merged_weight(W, A, B, alpha): ...  # your code


checks.e03_4(merged_weight)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_4(W, A, B, alpha):
    return W + alpha / A.shape[0] * B @ A


checks.e03_4(solution_4).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 5（找错）
#
# 下面的函数给模型加上 LoRA，返回优化器。`fresh` 列出刚刚初始化、不在检查点里的模块名（例如 `["v_head"]`）。它不报错，训练也能跑，却有**两处**错：一处是第 10 节的陷阱，另一处更常见。写出正确的 `prepare`：训练之后，适配器和 `fresh` 里的模块都要动，别的一个都不能动。批改时会真的训练几步，看谁动了。

# %% [markdown] tags=["en"]
# ### Exercise 5 (find the bug)
#
# The function below puts LoRA on a model and returns the optimizer. `fresh` lists the names of modules that have just been initialised and are not in the checkpoint (such as `["v_head"]`). Nothing is raised and training runs, yet there are **two** mistakes: one is the trap of section 10, the other is more common still. Write the right `prepare`: after training, the adapters and the modules in `fresh` must have moved, and nothing else. The grader really trains for a few steps and looks who has.


# %%
def buggy_prepare(model, patterns, fresh):
    """Adapters on the layers that match `patterns`; the optimizer of everything that has to learn."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    lora.inject(model, patterns, rank=4)
    return optimizer


# %% tags=["exercise"]
def prepare(model, patterns, fresh): ...  # your code


checks.e03_5(prepare)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_5(model, patterns, fresh):
    lora.inject(model, patterns, rank=4, keep=fresh)  # first: A and B do not exist before
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)


checks.e03_5(solution_5).must_pass()

# %% [markdown] tags=["zh"]
# ## 15 延伸阅读
#
# - Radford et al. 2019，[Language Models are Unsupervised Multitask Learners](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf)：GPT-2 的论文。
# - Vaswani et al. 2017，[Attention Is All You Need](https://arxiv.org/abs/1706.03762)：注意力和 Transformer。
# - Hu et al. 2021，[LoRA: Low-Rank Adaptation of Large Language Models](https://arxiv.org/abs/2106.09685)：第 4.1 节就是这里的公式。
# - Holtzman et al. 2020，[The Curious Case of Neural Text Degeneration](https://arxiv.org/abs/1904.09751)：top-p 从这里来。
# - Press & Wolf 2017，[Using the Output Embedding to Improve Language Models](https://arxiv.org/abs/1608.05859)：权重共享。
# - Hendrycks & Gimpel 2016，[Gaussian Error Linear Units](https://arxiv.org/abs/1606.08415)：GELU 和它的 tanh 近似。
# - [PEFT 的文档](https://huggingface.co/docs/peft)：LoRA 和它的亲戚们。

# %% [markdown] tags=["en"]
# ## 15 Further reading
#
# - Radford et al. 2019, [Language Models are Unsupervised Multitask Learners](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf): the paper on GPT-2.
# - Vaswani et al. 2017, [Attention Is All You Need](https://arxiv.org/abs/1706.03762): attention and the transformer.
# - Hu et al. 2021, [LoRA: Low-Rank Adaptation of Large Language Models](https://arxiv.org/abs/2106.09685): its section 4.1 is the formula used here.
# - Holtzman et al. 2020, [The Curious Case of Neural Text Degeneration](https://arxiv.org/abs/1904.09751): where top-p comes from.
# - Press & Wolf 2017, [Using the Output Embedding to Improve Language Models](https://arxiv.org/abs/1608.05859): weight tying.
# - Hendrycks & Gimpel 2016, [Gaussian Error Linear Units](https://arxiv.org/abs/1606.08415): GELU and its tanh approximation.
# - [The documentation of PEFT](https://huggingface.co/docs/peft): LoRA and its relatives.
