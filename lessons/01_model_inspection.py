# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] tags=["zh"]
# # 01 模型解剖
#
# **这一课回答的问题**：GPT-2、OPT-350m、ChatGLM、Llama 里面究竟有什么？参数（parameter）藏在哪里，一共多少，要占多少内存？打开真正训练过的权重，又能看出什么？
#
# 我们不下载这些大模型，也不运行别人仓库里的代码：只凭公布的配置，就能在笔记本电脑上把 7B 的模型“搭”出来，逐层拆开看。最后再打开这门课真正要用的两个模型。
#
# **需要什么**
#
# | 配置（profile） | 硬件 | 时间 |
# |---|---|---|
# | `offline`（默认） | 2 个 CPU 核 | 不到 1 分钟，不联网 |
# | `imdb` | 2 个 CPU 核，或一块 GPU | 大约 1 分钟 |
# | `full` | 一块 GPU | 几分钟 |
#
# 会一点 Python 就行。注意力、门控这些部件怎么算，第 02 课再讲；这一课只看它们长什么样、有多大。

# %% [markdown] tags=["en"]
# # 01 Model inspection
#
# **The question of this lesson**: What is really inside GPT-2, OPT-350m, ChatGLM, Llama? Where are the parameters, how many are there, and how much memory do they take? And what can be seen in weights that were really trained?
#
# None of these large models is downloaded, and no code of somebody else's repository is run: from the published configurations alone, a laptop can put up a 7B model and take it apart layer by layer. At the end we open the two models that this course really works with.
#
# **What you need**
#
# | profile | hardware | time |
# |---|---|---|
# | `offline` (default) | 2 CPU cores | less than 1 minute, no network |
# | `imdb` | 2 CPU cores, or one GPU | about 1 minute |
# | `full` | one GPU | a few minutes |
#
# A little Python is enough. How attention and gates compute is the subject of lesson 02; here we look at what the parts are and how large.

# %% tags=["setup"]
import time

from rlhf import anatomy, checks, evaluate, memory, museum, pictures, profiles, report  # before torch

started = time.perf_counter()
setup = profiles.setup("01_model_inspection")

# %%
import copy
import inspect
import json

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForSequenceClassification,
)

from rlhf import data
from rlhf.rewards import SentimentReward

plt.style.use(pictures.STYLE)

# %% [markdown] tags=["zh"]
# ## 1 模型是一棵由模块组成的树
#
# PyTorch 的模型是一棵树：每个节点是一个模块（module），大模块里装着小模块，叶子上挂着参数。先造一个小到能用手数清的 GPT-2：词表 11 个词元，最多 8 个位置，隐状态 4 维，1 个块，2 个头。

# %% [markdown] tags=["en"]
# ## 1 A model is a tree of modules
#
# A PyTorch model is a tree: every node is a module, modules hold smaller modules, and parameters hang on the leaves. We begin with a GPT-2 that is small enough to be counted by hand: a vocabulary of 11 tokens, at most 8 positions, hidden states of width 4, 1 block, 2 heads.

# %%
toy = GPT2LMHeadModel(
    GPT2Config(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
)
toy

# %% [markdown] tags=["zh"]
# 括号里是模块在树里的名字，冒号后是它的类。从外往里读：`transformer` 里有词嵌入 `wte`、位置嵌入 `wpe`、块的列表 `h`、最后的归一化 `ln_f`；外面还有输出层 `lm_head`。沿着树走一遍，列出每个参数的形状：

# %% [markdown] tags=["en"]
# Before the colon stands a module's name in the tree, behind it its class. Read from the outside in: `transformer` holds the embedding `wte`, the positions `wpe`, the list of blocks `h` and the last norm `ln_f`; outside of it is the output layer `lm_head`. Walk the tree and list the shape of every parameter:

# %%
for name, weight in toy.named_parameters():
    print(f"{name:36} {tuple(weight.shape)!s:9} {weight.numel():4}")

# %% [markdown] tags=["zh"]
# 每个块的参数个数只由隐状态的宽度 $H$ 决定：注意力 $4H^2+4H$，前馈层 $8H^2+5H$，两个归一化 $4H$，一共 $12H^2+13H$。一共 $L$ 个块，再加上词表 $V$ 和位置 $P$ 的两张表，以及最后一个归一化：
#
# $$N = (V + P)\,H + L\,(12H^2 + 13H) + 2H$$

# %% [markdown] tags=["en"]
# How many parameters a block has depends on the width $H$ of the hidden states alone: attention $4H^2+4H$, the feed-forward layer $8H^2+5H$, two norms $4H$, together $12H^2+13H$. There are $L$ blocks; add the two tables for $V$ tokens and $P$ positions, and the last norm:
#
# $$N = (V + P)\,H + L\,(12H^2 + 13H) + 2H$$


# %%
def gpt2_parameters(V, P, H, L):
    return (V + P) * H + L * (12 * H**2 + 13 * H) + 2 * H


print("by formula", gpt2_parameters(V=11, P=8, H=4, L=1), "· counted", toy.num_parameters())
assert gpt2_parameters(11, 8, 4, 1) == toy.num_parameters()
print(f"GPT-2 (124M): {gpt2_parameters(V=50_257, P=1024, H=768, L=12):,}")

# %% [markdown] tags=["zh"]
# 公式里没有 `lm_head`，上面的清单里也没有，可是它明明在树上，是一个 4 → 11 的线性层。这是因为它**就是**词嵌入那个矩阵：同一块内存，两个名字，这叫权重共享（weight tying）。数参数时只能数一次，认的是对象，不是名字：

# %% [markdown] tags=["en"]
# `lm_head` is not in the formula and not in the list above, although the tree shows it: a linear layer 4 → 11. That is because it **is** the matrix of the embedding: one piece of memory with two names, which is called weight tying. Count it once; go by the object, not by the name:

# %%
print("the same object:", toy.lm_head.weight is toy.transformer.wte.weight)
by_name = sum(w.numel() for _, w in toy.named_parameters(remove_duplicate=False))
seen, by_object = set(), 0
for module in toy.modules():
    for weight in module.parameters(recurse=False):
        if id(weight) not in seen:
            by_object, seen = by_object + weight.numel(), seen | {id(weight)}
print("by name", by_name, "· by object", by_object, "· difference", by_name - by_object, "= 11 × 4")
assert by_object == anatomy.count(toy)

# %% [markdown] tags=["zh"]
# GPT-2 还有一个怪脾气：它的线性层叫 `Conv1D`，权重是转置着存的，形状 `(in, out)`，而 `nn.Linear` 存的是 `(out, in)`。算出来的东西一样，都是 $xW+b$；但把 GPT-2 的权重抄进自己写的模型时，忘了转置就会出错（方阵最危险，形状对得上，不会报错）。

# %% [markdown] tags=["en"]
# GPT-2 has another oddity: its linear layers are called `Conv1D` and store the weight transposed, with the shape `(in, out)`, where `nn.Linear` stores `(out, in)`. What they compute is the same, $xW+b$; but whoever copies GPT-2's weights into a model of their own and forgets to transpose is in trouble (worst with square matrices, whose shapes fit and raise nothing).

# %%
layer, x = toy.transformer.h[0].attn.c_attn, torch.randn(3, 4)  # (T, H)
print(type(layer).__name__, "weight", tuple(layer.weight.shape))
torch.testing.assert_close(layer(x), x @ layer.weight + layer.bias)  # (T, H) @ (H, 3H)
torch.testing.assert_close(layer(x), F.linear(x, layer.weight.T, layer.bias))

# %% [markdown] tags=["zh"]
# ## 2 没有权重的模型：元设备
#
# Llama-2-7B 的权重在 fp32 下有 25 GiB，大多数笔记本装不下。可是要看结构，并不需要那些数。PyTorch 有一个元设备（meta device）：放在上面的张量有形状、有类型，就是没有内存。

# %% [markdown] tags=["en"]
# ## 2 A model without weights: the meta device
#
# In fp32, the weights of Llama-2-7B take 25 GiB, more than most laptops have. But nobody needs those numbers to look at the structure. PyTorch has a meta device: a tensor that lives there has a shape and a type, and no memory.

# %%
import psutil

before, since = psutil.Process().memory_info().rss, time.perf_counter()
llama = museum.build("llama-2-7b")
seconds, grown = time.perf_counter() - since, psutil.Process().memory_info().rss - before
needed = memory.weights(anatomy.count(llama))
print(f"{anatomy.count(llama):,} parameters in {seconds:.1f} s")
print(f"they would take {needed / 2**30:.1f} GiB; this process grew by {grown / 2**30:.1f} GiB")
assert grown < needed / 10

# %%
weight = llama.model.layers[0].mlp.gate_proj.weight
print(weight.device, weight.dtype, tuple(weight.shape))
try:
    weight.mean().item()
except RuntimeError as error:
    print("RuntimeError:", error)

# %% [markdown] tags=["zh"]
# 数读不出来，形状却都在，而且能“跑”：前向计算在元设备上只推算形状。给它 5 个词元，看看出来什么：

# %% [markdown] tags=["en"]
# There is no number to read, but all shapes are there, and the model even "runs": on the meta device a forward pass works out shapes and nothing else. Give it 5 tokens and see what comes out:

# %%
out = anatomy.forward(llama, tokens=5)
print("logits", tuple(out.logits.shape))  # (B, T, V)
print("keys of layer 0", tuple(out.past_key_values.layers[0].keys.shape))  # (B, heads, T, head_dim)

# %% [markdown] tags=["zh"]
# ## 3 博物馆
#
# `rlhf/museum.yaml` 里抄录了 8 个模型公布的 `config.json`，以及别人公布的参数个数。我们照着配置在元设备上搭出模型，自己数一遍，再和公布的数对照：

# %% [markdown] tags=["en"]
# ## 3 The museum
#
# `rlhf/museum.yaml` holds what the published `config.json` of 8 models says, and the numbers of parameters that others have published. We build the models from the configurations on the meta device, count for ourselves, and compare:

# %%
counts = museum.counts()
assert (counts["counted"] == counts["published"]).all()
counts.assign(**{column: counts[column].map("{:,}".format) for column in ("counted", "published")})

# %% [markdown] tags=["zh"]
# 一个不差。公布的数字从哪里来？逐个列出来源，都可以自己去查：配置在仓库页面的 `config.json`，个数在下面的地址。

# %% [markdown] tags=["en"]
# They agree to the last digit. Where do the published numbers come from? Here is the source of each, so that you can check: the configuration is `config.json` on the repository's page, the count is at the address below.

# %%
for name, exhibit in museum.exhibits().items():
    print(f"{name:13} {exhibit.published:>13,}  {exhibit.source}")

# %% [markdown] tags=["zh"]
# 还有一个独立的证据：权重文件的大小。一个数占几个字节是已知的，所以文件的字节数减去“参数个数 × 字节数”，应该只剩一点文件头。

# %% [markdown] tags=["en"]
# There is independent evidence too: the size of the weight files. How many bytes a number takes is known, so the bytes of the file less "parameters × bytes" should leave a small header and nothing else.

# %%
for name, exhibit in museum.exhibits().items():
    if exhibit.file:
        rest = exhibit.file["bytes"] - exhibit.published * exhibit.file["each"]
        print(f"{name:13} {exhibit.file['bytes']:>14,} bytes in the files, {rest:>10,} of them no parameters")
masks = 12 * 1024 * 1024  # of GPT-2: one causal mask per layer
print(f"GPT-2: {masks * 4:,} bytes are masks; {124_439_808 + masks:,} numbers in the file, and a header")

# %% [markdown] tags=["zh"]
# GPT-2 多出来一大块：旧文件里连因果掩码（每层一张 1024 × 1024 的表）也存了进去。所以同一个模型，网上能看到三个大小：论文写 117M（OpenAI 后来在仓库的 README 里承认数错了），实际是 124M，Hugging Face 的页面按文件里数字的个数显示成 137M。**看到“参数量”，先问是怎么数的。**
#
# ## 4 逐个解剖
#
# `print(model)` 给的是零件在树里的顺序，也就是写代码的人声明它们的顺序，并不是计算的顺序。谁先谁后，要挂上钩子（hook）真跑一遍才知道。钩子就是“每次这个模块算完，顺便叫一声”：

# %% [markdown] tags=["en"]
# GPT-2 has a large piece too many: the old file holds the causal masks as well, a table of 1024 × 1024 per layer. That is why one and the same model is seen with three sizes: the paper says 117M (OpenAI later admitted the mistake in its repository's README), in truth it has 124M, and its page on Hugging Face shows 137M, the count of numbers in the file. **Whenever you read a parameter count, ask how it was counted.**
#
# ## 4 Taking them apart
#
# `print(model)` lists the parts in the order of the tree, which is the order in which somebody declared them and not the order of computation. Which comes first, only a hook on a real pass can tell. A hook says: whenever this module has finished, let me know:

# %%
opt = museum.build("opt-350m", small=True)  # the same architecture, small, with random weights
block, called = opt.model.decoder.layers[0], []
print("declared:", [name for name, _ in block.named_children()])

hooks = [
    part.register_forward_hook(lambda module, args, output, name=name: called.append(name))
    for name, part in block.named_children()
]
anatomy.forward(opt)
for hook in hooks:
    hook.remove()
print("called:  ", called)
steps, _ = anatomy.first_block(opt)
assert [step.path.split(".")[0] for step in steps if step.kind != "attention"] == called[1:]

# %% [markdown] tags=["zh"]
# 声明的顺序里，归一化排在激活函数后面；算的时候它紧跟在注意力后面。`anatomy.first_block` 做的就是同一件事，还记下每一步进出的宽度。下面的图全是用它从模块树画出来的（`figs/01_families.py`），图上的每个名字、每个数都读自模型。
#
# ### 4.1 GPT-2：后来者的底本
#
# ![GPT-2 的整体和一个块](../figs/01_family_gpt2.svg)
#
# 左边自下而上是整个模型：词嵌入，加上学来的位置编码，12 个块，归一化，输出层。右边是一个块：归一化 → 注意力 → 加回去，归一化 → 前馈层 → 加回去。灰线是残差流（residual stream）：从头到尾没有东西挡它，归一化在支路**里面**，这叫 pre-LN。

# %% [markdown] tags=["en"]
# In the declaration the norm stands behind the activation; in the computation it follows attention at once. `anatomy.first_block` does the same thing and also notes the widths that go in and out. The drawings below are all made with it from the module tree (`figs/01_families.py`): every name and every number on them is read off the model.
#
# ### 4.1 GPT-2: the template
#
# ![GPT-2 as a whole, and one of its blocks](../figs/01_family_gpt2.svg)
#
# On the left, from the bottom up, the whole model: the embedding, plus learned positions, 12 blocks, a norm, the output layer. On the right one block: norm → attention → add, norm → feed-forward layer → add. The grey line is the residual stream. Nothing stands in its way from beginning to end; the norms are **inside** the branches. This is called pre-LN.

# %%
gpt2 = museum.build("gpt2")
print(*museum.steps("gpt2"), sep="\n")
print("pad token:", gpt2.config.pad_token_id, "· head tied:", anatomy.tied(gpt2))

# %% [markdown] tags=["zh"]
# GPT-2 **没有填充词元**（pad token）：它训练时从不补齐，一段接一段地读。等到你想成批地用它，就会碰壁。所以几乎每个教程里都有一行 `tokenizer.pad_token = tokenizer.eos_token`，这门课也一样；第 04 课会看到这一行藏着什么陷阱。

# %% [markdown] tags=["en"]
# GPT-2 has **no padding token**: in its training nothing was ever filled up, texts followed one another. As soon as you want batches, you run into that. Hence the line `tokenizer.pad_token = tokenizer.eos_token` in nearly every tutorial, and in this course as well; lesson 04 shows the trap in it.

# %%
scorer = GPT2ForSequenceClassification(GPT2Config(**museum.card("gpt2").fields(small=True), num_labels=1))
for batch in (1, 2):
    try:
        print(batch, "row(s):", tuple(scorer(torch.full((batch, 3), 5)).logits.shape))  # (B, 1)
    except ValueError as error:
        print(batch, "row(s):", error)

# %% [markdown] tags=["zh"]
# ### 4.2 OPT-350m：家里的异类
#
# ![OPT-350m 的整体和一个块](../figs/01_family_opt-350m.svg)
#
# 两处和 GPT-2 不同，和自己的兄弟姐妹也不同：
#
# - 归一化排在加法**后面**，正好压在残差流上：post-LN。
# - 词嵌入只有 512 维，隐状态却是 1024 维，所以进出各有一个投影 `project_in` 和 `project_out`。
#
# 和同族的 OPT-125m 对比一下就清楚了：

# %% [markdown] tags=["en"]
# ### 4.2 OPT-350m: the odd one out
#
# ![OPT-350m as a whole, and one of its blocks](../figs/01_family_opt-350m.svg)
#
# It differs from GPT-2, and from its own siblings, in two places:
#
# - The norm stands **behind** the addition, right in the residual stream: post-LN.
# - The embedding is 512 wide and the hidden state 1024, so there are projections on either side, `project_in` and `project_out`.
#
# Side by side with its sibling OPT-125m:

# %%
for name in ("opt-125m", "opt-350m"):
    steps, _ = anatomy.first_block(museum.build(name, small=True))
    fields = museum.card(name).config
    print(f"{name}: {' → '.join(anatomy.pattern(steps))}")
    print(f"    hidden {fields['hidden_size']}, word_embed_proj_dim {fields['word_embed_proj_dim']}")

# %% [markdown] tags=["zh"]
# 为什么只有它这样？在 Meta 的仓库里，开发者自己提了一个 issue（[metaseq #388](https://github.com/facebookresearch/metaseq/issues/388)）：归一化放前面的设置只在模型并行时才默认打开，这个模型没有用模型并行，看来就这样漏掉了。KerasHub 收录 OPT 时干脆跳过它，注释写着“和别的检查点结构不同”。**同一个系列，不等于同一个结构。**
#
# 这会带来一个很具体的后果：拿它当奖励模型时，打分的那一层接在 512 维上，不是 1024 维。按 `hidden_size` 去建打分层，形状就对不上。

# %% [markdown] tags=["en"]
# Why only this one? In Meta's repository a developer opened an issue about it ([metaseq #388](https://github.com/facebookresearch/metaseq/issues/388)): putting the norm first was the default only with model parallelism, which this model did without, and so it seems to have slipped through. KerasHub, which carries the OPT family, leaves this one out; a comment says that it does not match the structure of the other checkpoints. **The same family is not the same architecture.**
#
# This has a very concrete consequence: when it serves as a reward model, the scoring layer sits on a width of 512, not 1024. A scoring layer built from `hidden_size` does not fit.

# %%
with torch.device("meta"):
    scorer = OPTForSequenceClassification(OPTConfig(**museum.card("opt-350m").fields(), num_labels=1))
    hidden = scorer.model(torch.zeros(1, 3, dtype=torch.long) + 5).last_hidden_state
print("hidden_size", scorer.config.hidden_size, "· what comes out", tuple(hidden.shape))  # (B, T, 512)
print("score head", scorer.score)
assert scorer.score.in_features == hidden.shape[-1] == 512

# %% [markdown] tags=["zh"]
# OPT 还有一个习惯：分词器总在最前面放一个 `</s>`，编号 2。这个记号在别处表示“结束”，在 OPT 里却表示“开始”。用公布的分词器设置、现场造一份很小的词表，就能看到：

# %% [markdown] tags=["en"]
# OPT has one more habit: its tokenizer always puts a `</s>`, number 2, in front. Elsewhere this token says "the end"; with OPT it says "the beginning". The published tokenizer settings with a tiny vocabulary made on the spot show it:

# %%
from tokenizers import ByteLevelBPETokenizer

folder = profiles.make_folder(setup.output / "opt_tokenizer")
trained = ByteLevelBPETokenizer()
special = ["<s>", "<pad>", "</s>", "<unk>"]  # numbers 0 to 3, as published
trained.train_from_iterator(["this movie was good"] * 9, 300, special_tokens=special, show_progress=False)
trained.save_model(str(folder))
published = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "bos_token": "</s>"}
published |= {"eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
(folder / "tokenizer_config.json").write_text(json.dumps(published), encoding="utf-8")
ids = AutoTokenizer.from_pretrained(folder)("this movie")["input_ids"]
print(ids, "→", AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(ids))
assert ids[0] == museum.card("opt-350m").config["bos_token_id"] == 2

# %% [markdown] tags=["zh"]
# 想核对真的那一份：`./download.sh --only opt-350m` 之后，`AutoTokenizer.from_pretrained("model/opt-350m")("hello")` 的第一个编号就是 2。
#
# ### 4.3 ChatGLM-6B：名不副实的 GLU
#
# ![ChatGLM-6B 的整体和一个块](../figs/01_family_chatglm-6b.svg)
#
# 最早的 ChatGLM-6B 在 transformers 里没有自己的类：代码放在它自己的仓库里（怎么对待这种代码，见第 6 节）。我们读了那份代码和配置，另写了一个只用来看的版本 `rlhf/chatglm.py`，零件的名字和形状与公布的一致，参数个数也一个不差。
#
# 它的前馈层，类名就叫 GLU，可是看看里面：

# %% [markdown] tags=["en"]
# To check the real one: after `./download.sh --only opt-350m`, the first number of `AutoTokenizer.from_pretrained("model/opt-350m")("hello")` is 2.
#
# ### 4.3 ChatGLM-6B: a GLU in name only
#
# ![ChatGLM-6B as a whole, and one of its blocks](../figs/01_family_chatglm-6b.svg)
#
# The first ChatGLM-6B has no class in transformers: its code lies in its own repository (section 6 is about such code). We read that code and the configuration and wrote a version for looking at only, `rlhf/chatglm.py`, whose parts have the published names and shapes, and the published number of parameters to the last digit.
#
# The class of its feed-forward layer is called GLU. Look inside:

# %%
from rlhf import chatglm

print(inspect.getsource(chatglm.GLU))

# %% [markdown] tags=["zh"]
# 门控线性单元（GLU）要有**两路**投影相乘，一路当门。这里只有一路：$H \to 4H$，GELU，$4H \to H$，是最普通的前馈层（FFN）。同一个文件里倒是定义了真正带门的 `GEGLU`，但没有人用它。名字会骗人，宽度不会：有门的时候，升上去的两路加起来，宽度是降回来那一路的两倍。

# %% [markdown] tags=["en"]
# A gated linear unit (GLU) multiplies **two** projections, one of them the gate. Here there is a single one: $H \to 4H$, GELU, $4H \to H$, the plainest of feed-forward layers (FFN). The same file does define a `GEGLU` with a real gate, but nobody uses it. Names deceive, widths do not: with a gate, what comes up is twice as wide as what goes down.

# %%
for name in ("gpt2", "chatglm-6b", "chatglm2-6b", "llama-2-7b"):
    up, down = anatomy.ffn_widths(museum.steps(name))
    print(f"{name:12} up {up:>6} · down {down:>6} · {'gated' if up == 2 * down else 'not gated'}")

# %% [markdown] tags=["zh"]
# 块的结构也特别：第一步就是归一化，像 pre-LN；可是残差（图中灰线）是从归一化**之后**接出来的，还乘上 $\alpha=\sqrt{2L}$。归一化就挡在残差流上，所以它是 post-LN，而且是 GLM-130B 用的那种 DeepNorm：$x \leftarrow \mathrm{LN}(\alpha x + f(x))$。光看调用顺序分不出来，那就做个实验：**把一个块的输入放大 1000 倍，输出跟着放大吗？** 残差流畅通，就跟着放大；归一化挡着，就纹丝不动。

# %% [markdown] tags=["en"]
# Its block is special as well. The first step is a norm, as in pre-LN; but the residual (the grey line) starts **behind** that norm and is multiplied by $\alpha=\sqrt{2L}$. So a norm stands in the residual stream, and this is post-LN, of the kind that GLM-130B uses, DeepNorm: $x \leftarrow \mathrm{LN}(\alpha x + f(x))$. The order of the calls cannot tell the two apart, but an experiment can: **multiply the input of a block by 1000; does the output grow along?** With a free residual stream it does; with a norm in its way it does not move.

# %%
for name in museum.names():
    model = museum.build(name, small=True)
    grows = anatomy.highway(model, factor=1000)
    print(f"{name:13} output × {grows:5.0f}   {museum.block_order(name)}")
    assert grows > 100 or grows < 1.01  # nothing in between

# %% [markdown] tags=["zh"]
# 畅通的残差流正是 pre-LN 好训练的原因：梯度可以从最后一块一路走回第一块，途中不经过任何归一化。第 02 课会把这件事画出来。
#
# ### 4.4 Llama、Qwen、ChatGLM2：殊途同归
#
# ![Llama-2-7B 的整体和一个块](../figs/01_family_llama.svg)
#
# 2023 年以后，大家走到了一起：pre-LN，用更简单的 RMSNorm，没有位置表而是旋转查询和键（RoPE），前馈层换成带门的 SwiGLU，线性层大多不要偏置。ChatGLM2 也改走这条路，和第一代几乎没有共同点。transformers 里的 `Glm` 类是为它的后代 GLM-4 写的，块的结构相同，所以把 ChatGLM2 的配置换个字段名就能搭出来。
#
# 细看还有差别：ChatGLM2 和 Qwen2.5 的查询、键、值有偏置，输出没有；键和值的头比查询少得多。

# %% [markdown] tags=["en"]
# A free residual stream is why pre-LN is easy to train: the gradient walks back from the last block to the first without passing a single norm. Lesson 02 draws it.
#
# ### 4.4 Llama, Qwen, ChatGLM2: all roads meet
#
# ![Llama-2-7B as a whole, and one of its blocks](../figs/01_family_llama.svg)
#
# From 2023 on they converge: pre-LN, with the simpler RMSNorm; no table of positions but rotated queries and keys (RoPE); a feed-forward layer with a gate, SwiGLU; hardly any biases. ChatGLM2 took this road too and shares next to nothing with the first generation. The class `Glm` in transformers was written for its descendant GLM-4, whose blocks are the same, so ChatGLM2's configuration builds it with other field names.
#
# Small differences remain: in ChatGLM2 and Qwen2.5 queries, keys and values have a bias, the output has none; and there are far fewer heads for keys and values than for queries.

# %%
for name in ("llama-2-7b", "chatglm2-6b", "qwen2.5-0.5b"):
    attention = anatomy.blocks(museum.build(name))[0].self_attn
    parts = {part: getattr(attention, part) for part in ("q_proj", "k_proj", "v_proj", "o_proj")}
    text = ", ".join(
        f"{p[0]} {m.out_features}{' + bias' if m.bias is not None else ''}" for p, m in parts.items()
    )
    print(f"{name:13} {museum.facts(name).attention:12} {text}")

# %% [markdown] tags=["zh"]
# ### 4.5 DistilBERT：奖励模型的身体
#
# ![DistilBERT 的整体和一个块](../figs/01_family_distilbert.svg)
#
# 它不是语言模型，而是编码器：没有因果掩码，每个位置都能看到前文和后文；结构还是 2017 年那种 post-LN。我们的奖励模型就是它加一个分类头：768 → 768 → 2。分类头有多大，一减便知：

# %% [markdown] tags=["en"]
# ### 4.5 DistilBERT: the body of the reward model
#
# ![DistilBERT as a whole, and one of its blocks](../figs/01_family_distilbert.svg)
#
# It is not a language model but an encoder: there is no causal mask, every position sees what comes before and what comes after; and it is still post-LN, as in 2017. Our reward model is this body with a classification head, 768 → 768 → 2. How large the head is, a subtraction shows:

# %%
from transformers import DistilBertConfig, DistilBertForSequenceClassification

with torch.device("meta"):
    classifier = DistilBertForSequenceClassification(
        DistilBertConfig(**museum.card("distilbert").fields(), num_labels=2)
    )
head = anatomy.count(classifier) - museum.card("distilbert").published
print(f"with its head {anatomy.count(classifier):,}; the head alone {head:,}")
assert head == (768 * 768 + 768) + (768 * 2 + 2) == anatomy.by_kind(classifier)["head"]

# %% [markdown] tags=["zh"]
# ## 5 一张表
#
# 现在把 8 个模型排在一起。除了填充词元（它写在配置里），每一格都是量出来的：块的次序靠放大实验，注意力的种类看缓存里有几个头，门看宽度，共享看是不是同一个对象。

# %% [markdown] tags=["en"]
# ## 5 One table
#
# Now all 8 of them in one table. But for the pad token, which the configuration names, every entry is measured: block order by the experiment with the factor, the kind of attention by the heads in the cache, the gate by the widths, tying by the identity of the objects.

# %%
museum.table()

# %% [markdown] tags=["zh"]
# - **MHA / GQA / MQA**：每个查询头都有自己的键和值，叫多头（MHA）；几个查询头共用一组，叫分组查询（GQA）；全体共用一组，叫 MQA。ChatGLM2 的配置写的是 `multi_query_attention`，但组数是 2，严格说是 GQA。
# - **RoPE on 50% of a head**：ChatGLM2 只旋转每个头的一半；第一代则有两个位置编号，各管半个头。
# - **填充词元**：没有的（none），成批使用之前要自己指定一个。
#
# 参数都花在了哪里？按种类画出来：

# %% [markdown] tags=["en"]
# - **MHA / GQA / MQA**: if every query head has keys and values of its own, it is multi-head (MHA); if several query heads share them, grouped-query (GQA); if all share one, MQA. ChatGLM2's configuration says `multi_query_attention`, but with 2 groups, which strictly is GQA.
# - **RoPE on 50% of a head**: ChatGLM2 rotates one half of each head; the first generation has two position numbers, one for each half.
# - **Pad token**: where there is none, you have to name one before you work with batches.
#
# What are the parameters spent on? By kind:

# %%
shares = museum.shares()
figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
left = torch.zeros(len(shares))
for kind in [kind for kind in anatomy.KINDS if shares[kind].max() > 0.002]:
    axes.barh(shares.index, shares[kind], left=left, label=kind)
    left += torch.tensor(shares[kind].to_numpy())
axes.invert_yaxis()
axes.set(xlabel="share of all parameters", xlim=(0, 1))
axes.legend(ncols=6, loc="upper center", bbox_to_anchor=(0.45, 1.16), frameon=False)
plt.show()

# %% [markdown] tags=["zh"]
# 两条规律一眼就能看出来：模型小了，词嵌入占的份额就大，因为词表不会跟着变小（OPT-350m 是例外，它的词嵌入只有 512 维）；块里面，前馈层比注意力大，带门又用分组查询的模型尤其明显。归一化几乎不占地方。
#
# ## 6 别人仓库里的代码：`trust_remote_code`
#
# 打开 ChatGLM-6B 的 `config.json`，里面有一段 `auto_map`，意思是：“要用我，请先运行我仓库里的这几个 Python 文件。”transformers 默认会停下来问你一句 `[y/N]`，15 秒没人回答就报错；`trust_remote_code=False` 是直接拒绝，`trust_remote_code=True` 则下载并**运行**它们。造一个这样的文件夹，用 `False` 去读；里面的代码一旦运行，就会留下痕迹：

# %% [markdown] tags=["en"]
# Two rules meet the eye: in a small model the embedding has a large share, since the vocabulary does not shrink along (except in OPT-350m, whose embedding is 512 wide); and within the blocks the feed-forward layer is larger than attention, most of all with a gate and grouped queries. Norms take next to nothing.
#
# ## 6 Code from a repository: `trust_remote_code`
#
# The `config.json` of ChatGLM-6B has an entry `auto_map`, which says: "to use me, run these Python files of my repository first." By default transformers stops and asks, `[y/N]`, and raises an error if nobody answers within 15 seconds; `trust_remote_code=False` refuses at once, and `trust_remote_code=True` downloads and **runs** them. Let us make such a folder and read it with `False`. If its code ever runs, it leaves a trace:

# %%
folder = profiles.make_folder(setup.output / "untrusted")
trace = folder / "i_was_here"
code = f"open({str(trace)!r}, 'w').write('and I could have done anything')\n"
(folder / "configuration_chatglm.py").write_text(code, encoding="utf-8")
config = {"model_type": "chatglm", "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig"}}
(folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

try:
    AutoConfig.from_pretrained(folder, trust_remote_code=False)
except ValueError as error:
    print(str(error).strip().splitlines()[-1])
print("the code ran:", trace.exists())
assert not trace.exists()

# %% [markdown] tags=["zh"]
# 注意，这里要读的只是**配置**，连权重都还没碰，就已经要执行别人的程序了。运行它，等于让它用你的身份做任何事：读文件、读密钥、上网。而且仓库的内容会变：今天看过的代码，明天可能换了。ChatGLM-6B 自己就换过：早先的版本词表是 150,528，现在是 130,528，同一个名字，参数少了 81,920,000 个。
#
# 能怎么办？
#
# - 优先用 transformers 自带的类；看结构，有配置就够了，就像这一课。
# - 非用不可时，先读代码，再用 `revision=` 钉住读过的那个提交，放进没有密钥、不能联网的容器里跑。
# - 权重只用 safetensors：旧的 `.bin` 是 pickle 格式，加载时同样可能执行代码。PyTorch 2.6 起默认 `weights_only=True`，拒绝其中的代码；在更早的版本里，连这道关也被绕过（CVE-2025-32434），所以 transformers 遇到 `.bin` 会要求 2.6 以上。

# %% [markdown] tags=["en"]
# Mind that only the **configuration** was to be read; no weight had been touched, and already somebody else's program was to run. To run it means to let it do anything in your name: read files, read keys, use the network. And repositories change: the code that you read today may be another one tomorrow. ChatGLM-6B itself has changed: an earlier revision had a vocabulary of 150,528, today's has 130,528, the same name with 81,920,000 parameters fewer.
#
# What to do?
#
# - Prefer the classes that transformers brings along; to look at a structure the configuration is enough, as in this lesson.
# - Where there is no other way, read the code first, pin the commit that you have read with `revision=`, and run it in a container without keys and without a network.
# - Take weights as safetensors only: the old `.bin` is a pickle, and loading one may run code just the same. From PyTorch 2.6 on the default is `weights_only=True`, which refuses code in it; in earlier versions even that could be got round (CVE-2025-32434), so for a `.bin` transformers insists on 2.6 or later.

# %%
smaller = anatomy.count(museum.build("chatglm-6b"))
larger = anatomy.count(museum.build("chatglm-6b", vocab_size=150_528))
print(f"{larger:,} − {smaller:,} = {larger - smaller:,}")

# %% [markdown] tags=["zh"]
# ## 7 要占多少内存
#
# ### 7.1 权重、梯度、Adam
#
# 一个参数占几个字节，取决于数字格式：fp32 占 4，bf16 和 fp16 占 2，int8 占 1。只用模型，有权重就够了；要训练，每个参数还要一个梯度，Adam 再要两个动量：fp32 下一共 $4 \times 4 = 16$ 字节。表里的“bf16 加 fp32 主权重”（master weights）是混合精度的做法：用 bf16 的权重和梯度来算，另存一份 fp32 的权重来更新，表里把它和动量一起算在 `optimizer` 一栏。先口算小的，再问计算器：

# %% [markdown] tags=["en"]
# ## 7 How much memory does it take?
#
# ### 7.1 Weights, gradients, Adam
#
# How many bytes a parameter takes depends on the number format: 4 in fp32, 2 in bf16 and fp16, 1 in int8. To use a model, the weights are enough; to train it, every parameter also needs a gradient, and Adam two moments: in fp32 that is $4 \times 4 = 16$ bytes. "bf16 with fp32 master weights" in the table is mixed precision: weights and gradients in bf16 do the computing, and a second copy of the weights in fp32 takes the updates; the table counts it with the moments, under `optimizer`. A small one by head, then ask the calculator:

# %%
toy_facts = anatomy.Anatomy.of(toy)
plan = memory.plan_training(toy_facts)
print(
    f"{toy_facts.parameters} parameters × 16 = {toy_facts.parameters * 16} bytes; calculator {plan.total:.0f}"
)
assert plan.total == toy_facts.parameters * 16

llama_facts = museum.facts("llama-2-7b")
print(llama_facts)
memory.ledger(
    {
        "inference, bf16": memory.plan_frozen(llama_facts),
        "training, fp32": memory.plan_training(llama_facts),
        "training, bf16 with fp32 master weights": memory.plan_training(
            llama_facts, dtype="bfloat16", master=True
        ),
        "LoRA, 20 million adapters, bf16": memory.plan_training(
            llama_facts, dtype="bfloat16", trained=20_000_000
        ),
    }
).round(1)

# %% [markdown] tags=["zh"]
# 单位是 GiB，激活值另算。整个博物馆都算一遍：

# %% [markdown] tags=["en"]
# The unit is GiB, without activations. The same for the whole museum:

# %%
rows = {}
for name in museum.names():
    f = museum.facts(name)
    training = memory.plan_training(f).row()
    rows[museum.card(name).title] = {"weights, bf16": memory.weights(f.parameters, "bfloat16") / 2**30}
    rows[museum.card(name).title] |= {
        "weights, fp32": training["weights"],
        "gradients": training["gradients"],
    }
    rows[museum.card(name).title] |= {"Adam": training["optimizer"], "training, fp32": training["total"]}
pd.DataFrame(rows).T.round(2)

# %% [markdown] tags=["zh"]
# 混合精度并没有省下这部分内存，每个参数还是 16 字节；它省的是激活值和时间。用 7B 的模型推理，一块 24 GB 的显卡就行；要训练它的全部参数，连 80 GB 的也装不下。LoRA 只训练旁边的小矩阵，冻结的部分只要权重，于是又装得下了。
#
# ### 7.2 用真的模型核对
#
# 公式对不对，拿真的模型来量。复制一份这个配置的策略，做一步 Adam，再去数内存里的字节：

# %% [markdown] tags=["en"]
# Mixed precision saves nothing here, it is 16 bytes per parameter again; what it saves is activations and time. Inference with a 7B model fits on a card of 24 GB; training all of its parameters does not even fit on 80 GB. LoRA trains small matrices on the side only and needs nothing but the weights of what is frozen, so it fits again.
#
# ### 7.2 Checked on a real model
#
# Is the formula right? Measure on a real model: copy the profile's policy, make one step of Adam, and count the bytes in memory:

# %%
policy = AutoModelForCausalLM.from_pretrained(setup.policy, dtype=torch.float32).to(setup.device).eval()
tokenizer = AutoTokenizer.from_pretrained(setup.policy)
tokenizer.pad_token = tokenizer.eos_token
facts = anatomy.Anatomy.of(policy)

student = copy.deepcopy(policy)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
ids = torch.randint(len(tokenizer), (4, 32), device=setup.device)  # (B, T)
F.cross_entropy(student(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
optimizer.step()
measured, planned = memory.measured_training(student, optimizer), memory.plan_training(facts)
memory.ledger({"measured": measured, "planned": planned}, unit=1).astype(int)

# %% [markdown] tags=["zh"]
# 权重和梯度一个字节不差；Adam 多出来的几百个字节，是它给每个张量记的步数。
#
# ### 7.3 键值缓存
#
# 生成的时候，前面每个词元的键和值都留着，免得重算，这就是键值缓存（KV cache）。每个词元要留
#
# $$2 \times L \times n_{\mathrm{kv}} \times d_{\mathrm{head}}$$
#
# 个数：2 是键**和**值，$L$ 是层数，$n_{\mathrm{kv}}$ 是有自己键值的头数（不是查询的头数！），$d_{\mathrm{head}}$ 是一个头的宽度。量一量：

# %% [markdown] tags=["en"]
# Weights and gradients agree to the byte; the few hundred bytes that Adam has on top are its step counter, one per tensor.
#
# ### 7.3 The KV cache
#
# During generation the keys and values of all earlier tokens are kept, so that they need not be computed again: the KV cache. Every token leaves
#
# $$2 \times L \times n_{\mathrm{kv}} \times d_{\mathrm{head}}$$
#
# numbers: 2 for keys **and** values, $L$ layers, $n_{\mathrm{kv}}$ heads with keys and values of their own (not query heads!), each $d_{\mathrm{head}}$ wide. Measure it:

# %%
with torch.no_grad():
    cache = policy(ids, use_cache=True).past_key_values
by_hand = 2 * facts.layers * facts.kv_heads * facts.head_dim * ids.numel() * 4  # fp32
print("by hand", by_hand, "· calculator", int(memory.kv_cache(facts, 32, 4, "float32")), end=" · ")
print("measured", memory.measured_cache(cache))
assert by_hand == memory.kv_cache(facts, 32, 4, "float32") == memory.measured_cache(cache)

# %%
rows = {}
for name in [name for name in museum.names() if museum.facts(name).cached]:
    f = museum.facts(name)
    rows[museum.card(name).title] = {
        "layers": f.layers,
        "KV heads": f.kv_heads,
        "head width": f.head_dim,
        "KiB per token, 16 bit": memory.kv_cache(f, tokens=1) / 1024,
        "tokens until it equals the weights": int(
            memory.weights(f.parameters) / memory.kv_cache(f, 1, dtype="float32")
        ),
    }
pd.DataFrame(rows).T.astype(int)

# %% [markdown] tags=["zh"]
# 看 ChatGLM 的两代：层数、宽度都一样，缓存却差了 16 倍，全靠把键值的头从 32 个减到 2 个。这就是 GQA 存在的理由：省的主要不是参数，而是缓存；缓存小了，同一块显卡才能同时服务更多人、读更长的上下文。

# %% [markdown] tags=["en"]
# Compare the two generations of ChatGLM: as many layers, as wide, and the cache differs by a factor of 16, just because the heads of keys and values went from 32 to 2. That is what GQA is for: it saves cache more than parameters, and with a smaller cache the same card serves more people at a time and reads longer contexts.

# %%
lengths = torch.logspace(2, 5, 40)  # 100 to 100,000 tokens
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for name, style in (
    ("chatglm-6b", "C1--"),
    ("chatglm2-6b", "C1-"),
    ("llama-2-7b", "C0--"),
    ("qwen2.5-0.5b", "C2-"),
):
    f = museum.facts(name)
    size = torch.tensor([memory.kv_cache(f, int(n)) for n in lengths]) / 2**30
    axes.plot(lengths, size, style, label=f"{museum.card(name).title}, {f.attention}")
axes.axhline(memory.weights(llama_facts.parameters, "bfloat16") / 2**30, color="grey", ls=":")
axes.text(110, 16, "weights of Llama-2-7B", color="grey", va="bottom")
axes.set(xscale="log", yscale="log", xlabel="tokens in the cache", ylabel="GiB, 16 bit")
axes.legend()
plt.show()

# %% [markdown] tags=["zh"]
# ### 7.4 激活值（只能估）
#
# 训练时，前向计算的中间结果要留到反向计算，叫激活值（activations）。它随批量和长度增长，没有精确的公式，得看每个算子留下什么。计算器按“每层每个词元留下几个宽度为 $H$ 的向量”来估；用 `autograd` 的钩子，可以量出真正留下的字节：

# %% [markdown] tags=["en"]
# ### 7.4 Activations (an estimate)
#
# In training, intermediate results of the forward pass stay until the backward pass: the activations. They grow with batch and length, and there is no exact formula; it depends on what every operation keeps. The calculator estimates how many vectors of width $H$ stay per layer and token; a hook of `autograd` measures the bytes that really stay:

# %%
rows = []
for batch, length in ((2, 16), (4, 32), (8, 64)):
    ids = torch.randint(len(tokenizer), (batch, length), device=setup.device)  # (B, T)
    real = memory.measured_activations(student, lambda ids=ids: student(ids).logits.log_softmax(-1).mean())
    guess = memory.activations(facts, length, batch)
    rows.append((batch, length, f"{real:,}", f"{guess:,.0f}", f"{guess / real:.2f}"))
pd.DataFrame(rows, columns=["batch", "tokens", "measured, bytes", "estimate, bytes", "ratio"])

# %% [markdown] tags=["zh"]
# 比值在 1 附近，做规划够用了。激活函数怎么写也有关系：原版 GPT-2 的 `gelu_new` 一步步地算，每一步都留下中间结果；融合成一步的 `gelu_pytorch_tanh` 只留下输入，算出来的数却一样。
#
# ### 7.5 与 Accelerate 对照
#
# Accelerate 也有一个估算器。它给的总量，就是权重加上缓冲区（buffer，比如 RoPE 的频率表）：

# %% [markdown] tags=["en"]
# The ratio is around 1, good enough for planning. Even the way an activation function is written matters: `gelu_new` of the original GPT-2 goes step by step and every step keeps its result; `gelu_pytorch_tanh`, fused into one step, keeps its input only, for the same numbers.
#
# ### 7.5 Compared with Accelerate
#
# Accelerate has an estimator too. Its total is the weights plus the buffers (such as RoPE's table of frequencies):

# %%
from accelerate.utils import calculate_maximum_sizes

rows = {}
for name in museum.names():
    model = museum.build(name)
    theirs, _ = calculate_maximum_sizes(model)
    buffers = memory.tensor_bytes(model.buffers())
    rows[museum.card(name).title] = theirs, int(memory.weights(anatomy.count(model))), buffers
compared = pd.DataFrame(rows, index=["Accelerate", "weights, ours", "buffers"]).T
assert (compared["Accelerate"] == compared["weights, ours"] + compared["buffers"]).all()
compared.map("{:,}".format)

# %% [markdown] tags=["zh"]
# 训练的估计也一样吗？fp32 下一样，都是权重的 4 倍。混合精度下要当心：`accelerate estimate-memory` 显示的是各项中**最大的一项**，不是总和。

# %% [markdown] tags=["en"]
# Is the estimate for training the same too? In fp32 it is, 4 times the weights. With mixed precision, take care: what `accelerate estimate-memory` prints is the **largest** of several parts and not their sum.

# %%
from accelerate.commands.estimate import estimate_training_usage

one = llama_facts.parameters * 4  # bytes of the fp32 weights
for precision in ("float32", "bfloat16"):
    parts = estimate_training_usage(one, precision)
    print(precision, {part: f"{size / one:g} ×" for part, size in parts.items()}, end=" → ")
    print(f"prints {max(parts.values()) / 2**30:.0f} GiB")
ours = memory.plan_training(llama_facts)
assert ours.total == estimate_training_usage(one, "float32")["step"]
print(f"ours: fp32 {ours.total / 2**30:.0f} GiB, mixed", end=" ")
print(f"{memory.plan_training(llama_facts, dtype='bfloat16', master=True).total / 2**30:.0f} GiB")

# %% [markdown] tags=["zh"]
# ### 7.6 PPO 要养活几个模型？
#
# RLHF 的第 3 步同时要四个角色：正在学的策略（价值头很小，略去）、冻结的参考模型和奖励模型，还有生成时的缓存，按一批轨迹（rollout）64 条回复算。`checkpointing=True` 是激活重算：每层只留下输入，别的到反向时再算一遍，用时间换内存。用 7B 的模型来做，账是这样的：

# %% [markdown] tags=["en"]
# ### 7.6 How many models does PPO have to feed?
#
# Step 3 of RLHF needs four roles at a time: the policy that learns (its value head is tiny and left out), the frozen reference and reward model, and the cache while it generates (for 64 responses at a time; such a batch is called a rollout). `checkpointing=True` recomputes activations: each layer keeps its input only, and the rest is computed again in the backward pass, time for memory. With 7B models the bill looks like this:

# %%
parts = {
    "policy, mixed precision": memory.plan_training(
        llama_facts, tokens=512, batch=4, dtype="bfloat16", master=True, checkpointing=True
    ),
    "reference, bf16": memory.plan_frozen(llama_facts),
    "reward model, bf16": memory.plan_frozen(llama_facts),
    "cache of 64 rollouts": memory.Plan(cache=memory.kv_cache(llama_facts, tokens=512, batch=64)),
}
parts["all of them"] = sum(parts.values(), memory.Plan())
memory.ledger(parts).round(1)

# %% [markdown] tags=["zh"]
# 难怪 7B 的 PPO 要用好几块显卡，或者改用 LoRA（这时参考模型就是“关掉适配器的策略”，可以不另占一份）。第 11 课会用同一个计算器做规划。现在问你自己的问题：换一个模型、长度、批量，再运行下面这一格。

# %% [markdown] tags=["en"]
# No wonder that PPO with 7B models takes several cards, or LoRA (then the reference is the policy with its adapters switched off and takes no copy of its own). Lesson 11 plans with the same calculator. Now ask your own question: change the model, the length, the batch, and run the cell below again.

# %%
mine = museum.facts("qwen2.5-0.5b")  # one of museum.names()
memory.ledger(
    {
        "generate 8 answers": memory.plan_generation(mine, tokens=2048, batch=8),
        "train on 8 texts": memory.plan_training(mine, tokens=2048, batch=8),
        "the same, checkpointing": memory.plan_training(mine, tokens=2048, batch=8, checkpointing=True),
    }
).round(1)

# %% [markdown] tags=["zh"]
# ## 8 真的打开看：训练过的权重
#
# 结构看完了，现在看数字。先和一份**同样结构、随机权重**的模型对比：

# %% [markdown] tags=["en"]
# ## 8 Opened for real: trained weights
#
# So much for structure; now the numbers. First in comparison with a model of the **same architecture and random weights**:

# %%
torch.manual_seed(setup.seed)
random = AutoModelForCausalLM.from_config(policy.config).to(setup.device).eval()
assert {k: v.shape for k, v in random.state_dict().items()} == {
    k: v.shape for k, v in policy.state_dict().items()
}

figure, axes = plt.subplots(1, 3, figsize=(9, 2.4), layout="constrained")
for panel, path in zip(axes, ("wte", "h.0.attn.c_attn", "h.0.mlp.c_fc"), strict=True):
    for model, color, label in ((random, "C1", "random"), (policy, "C0", "trained")):
        weight = model.transformer.get_submodule(path).weight.detach().flatten().cpu()
        panel.hist(weight, bins=80, range=(-0.4, 0.4), color=color, alpha=0.6, label=label, density=True)
    panel.set(title=path, xlabel="weight")
axes[0].legend()
plt.show()

# %% [markdown] tags=["zh"]
# 随机的是一个窄窄的正态分布，训练把它拉宽了，尾巴更长。可是光看直方图，看不出模型懂什么。换个问法：词嵌入里，谁和谁挨得近？用余弦相似度找邻居：

# %% [markdown] tags=["en"]
# Random weights are a narrow bell; training has widened it and given it longer tails. But no histogram shows what the model knows. Ask differently: in the embedding, who stands close to whom? Cosine similarity finds the neighbours:


# %%
def neighbours(model, word, k=6):
    table = F.normalize(model.get_input_embeddings().weight.detach(), dim=-1)  # (V, H), length 1
    near = (table @ table[tokenizer(word)["input_ids"][0]]).topk(k + 1)  # (V,)
    return [f"{tokenizer.decode(i)!r} {s:.2f}" for s, i in zip(near.values, near.indices, strict=True)][1:]


words = [" good", " bad", " movie", " he", " was", " funny"]
words = [word for word in words if len(tokenizer(word)["input_ids"]) == 1]  # one token each
for word in words:
    print(f"{word!r:9} trained {', '.join(neighbours(policy, word))}")
print(f"{words[0]!r:9} random  {', '.join(neighbours(random, words[0]))}")

# %% [markdown] tags=["zh"]
# 训练过的邻居有道理，随机的没有。但要看清是什么道理：意思**相反**的词常常是近邻，因为它们能填进同样的句子。语言模型学的是“这里能放什么词”，不是“这个词是褒还是贬”。RLHF 要另外请一个奖励模型，这是原因之一。
#
# 再看位置表 `wpe`：第 $i$ 行和第 $j$ 行有多像？

# %% [markdown] tags=["en"]
# The neighbours of trained words make sense, the random ones do not. But mind which sense: words of **opposite** meaning are often close, because they fit into the same sentences. A language model learns which word can stand here, not whether it praises. That is one reason why RLHF brings in a reward model.
#
# Now the table of positions, `wpe`: how alike are row $i$ and row $j$?

# %%
table = F.normalize(policy.transformer.wpe.weight.detach().cpu(), dim=-1)  # (P, H)
alike = table @ table.T  # (P, P)
figure, axes = plt.subplots(figsize=(4, 3.2), layout="constrained")
image = axes.imshow(alike, cmap="RdBu", vmin=-1, vmax=1)
axes.grid(False)
axes.set(title="cosine similarity of position vectors", xlabel="position", ylabel="position")
figure.colorbar(image)
plt.show()
next_to = alike.diagonal(1)  # (P-1,): every position with its successor
known = (next_to > 0.5).nonzero()
last = int(known.max()) + 1 if len(known) else 0
print(f"neighbouring positions resemble each other up to position {last} of {len(table) - 1};")
print(
    "the rest are still random: no text in training was longer"
    if last < len(table) - 2
    else "all are trained"
)

# %% [markdown] tags=["zh"]
# 相邻的位置彼此相像，这是训练出来的：一开始每一行都是随机的。如果图的右下角只剩一条对角线，那些位置就从来没有训练过。配置里写着能读这么长，**权重却说没读过这么长**：模型的说明书和它的经历是两回事。生成时走到那里，写出来的东西就不可靠了。
#
# 奖励模型的最后一层只有两行，一行给 NEGATIVE，一行给 POSITIVE：

# %% [markdown] tags=["en"]
# That neighbouring positions are alike was learnt; at first every row was random. If only a diagonal is left in the lower right corner, those positions were never trained. The configuration says that the model can read so far, **the weights say that it never has**: a model's manual and its experience are two things. What it writes once it gets there cannot be relied on.
#
# The last layer of the reward model has only two rows, one for NEGATIVE and one for POSITIVE:

# %%
reward_model = SentimentReward(setup.reward_model, device=setup.device)
rows = reward_model.model.classifier.weight.detach()  # (2, H)
print("cosine of the two rows:", round(F.cosine_similarity(rows[0], rows[1], dim=0).item(), 2))

test = data.load_reviews(setup.dataset, "test").shuffle(seed=setup.seed).select(range(200))
label = torch.tensor(test["label"])  # (200,)
untrained = copy.copy(reward_model)
torch.manual_seed(setup.seed)
untrained.model = type(reward_model.model)(reward_model.model.config).to(setup.device).eval()
for name, judge in (("random weights", untrained), ("trained", reward_model)):
    score = judge([data.plain_text(text) for text in test["text"]])  # (200,)
    right = ((score > score.median()) == (label == 1)).float().mean()
    print(f"{name:15} spread of scores {score.std():.2g}, order agrees with the label in {right:.0%}")

# %% [markdown] tags=["zh"]
# 两行几乎相反：交叉熵只关心两个 logit 的差，训练就把它们推向了两边。随机权重的奖励模型也会打分，只是分数几乎不动，和褒贬无关。（这里以分数的中位数为界。）

# %% [markdown] tags=["en"]
# The two rows are nearly opposite: cross-entropy cares about the difference of the two logits only, and so training has pushed them apart. A reward model with random weights scores as well, but its scores hardly move and have nothing to do with praise. (The line is drawn at the median score.)

# %% [markdown] tags=["zh"]
# ## 9 随机的权重，训练过的权重
#
# 最后一张表：同样的结构，随机的权重对训练过的权重，在留出提示上各写一段，用同样的随机种子采样，由奖励模型打分。先猜一猜：胡言乱语会得多少分？
#
# 每一课的结尾都有这样一张表。这里的“KL to the reference”以**随机模型**为参考：训练让分布走了多远，单位是 nat。

# %% [markdown] tags=["en"]
# ## 9 Random weights, trained weights
#
# The last table: the same architecture with random and with trained weights, both continue held-out prompts, sampled with the same seed, scored by the reward model. Guess first: how does gibberish score?
#
# Every lesson ends with a table like this. Here "KL to the reference" has the **random model** as its reference: how far training has moved the distribution, in nats.

# %%
prompts = evaluate.held_out_prompts(setup, tokenizer, seed=setup.seed)
lengths = evaluate.response_lengths(setup, len(prompts))
before = evaluate.respond(random, tokenizer, prompts, lengths, seed=setup.seed)
after = evaluate.respond(policy, tokenizer, prompts, lengths, seed=setup.seed)
kl = evaluate.response_kl(policy, random, after)  # (N,), summed over the tokens
print(len(before), "random responses,", len(after), "trained ones")

# %% tags=["table"]
result = evaluate.compare(
    prompts,
    before,
    after,
    tokenizer,
    reward_model,
    kl=kl,
    shown=setup.evaluation["shown"],
    title="01 random weights against trained weights",
    names=("random", "trained"),
    meta=report.run_meta(setup, started),
)
result.save(setup.output)
result

# %%
mean, low, high = result.gain
if low > 0:
    verdict = "trained text scores higher on average"
elif high < 0:
    verdict = "trained text even scores LOWER on average"
else:
    verdict = "no difference that the interval tells from zero: the table shows no gain"
print(f"gain {mean:+.2f}, 95% interval [{low:+.2f}, {high:+.2f}]: {verdict}")
spread = result.table[["reward (random)", "reward (trained)"]].std()
print(
    f"the scores themselves vary far more: standard deviations {spread.iloc[0]:.2f} and {spread.iloc[1]:.2f}"
)
best = result.table.loc[result.table["reward (random)"].idxmax()]
print(
    f"the best gibberish scores {best['reward (random)']:+.2f}: {best['query']!r} + {best['response (random)']!r}"
)
below = (result.table["reward (trained)"] < best["reward (random)"]).mean()
above = (result.table["reward (random)"] > result.table["reward (trained)"].median()).mean()
print(f"which is more than {below:.0%} of the trained texts get")
print(f"{above:.0%} of the gibberish scores above the median trained text; 50% would mean: no difference")

# %% [markdown] tags=["zh"]
# 先看最后一行的百分比：奖励模型要是认得出乱码，它应该接近 0；要是完全分不出，就是 50%。再看那段得分最高的乱码，它凭什么拿高分？也许碰巧含有几个好词，也许提示里就有（打分看的是提示加回复），也许什么理由都看不出来：没见过的东西，模型照样会给出一个数。distinct-2 也帮不上忙：乱码的词组几乎从不重复，它反而接近满分。
#
# 原因很简单：奖励模型只学过分辨影评的褒贬，从没见过乱码，也没有人问过它“这算不算人话”。**分数回答的是它被训练去回答的问题，不是你心里想的那个问题。** 这就是为什么后面每张表都要同时看 KL 和多样性，为什么 PPO 要有参考模型拉住策略。
#
# 那么有没有一个数，能把两者分开？有，语言模型自己的困惑度（perplexity）：给它读真的影评，看它有多意外。

# %% [markdown] tags=["en"]
# Look at the percentage in the last line: if the reward model recognised gibberish, it would be near 0; if it could not tell at all, 50%. Then look at the gibberish with the highest score: what has earned it? Perhaps a few kind words happened to be in it, or in the prompt (what is scored is prompt plus response); perhaps you can see no reason at all: a model gives a number to what it has never seen, too. Nor does distinct-2 help: gibberish hardly ever repeats a pair of words and gets nearly full marks.
#
# The reason is simple: the reward model has learnt to tell praise from complaint in reviews; it has never seen gibberish, and nobody ever asked it whether a text makes sense. **A score answers the question that it was trained on, not the one in your head.** That is why all later tables show KL and diversity beside the score, and why PPO has a reference model to hold the policy back.
#
# Is there a number that tells the two apart? Yes, the perplexity of the language model itself: let it read real reviews, and see how surprised it is.

# %%
ids = tokenizer(list(test["text"]), truncation=True, max_length=48)["input_ids"]
ids = torch.tensor([row for row in ids if len(row) == 48][:100], device=setup.device)  # (B, T)
perplexity = {}
for name, model in (("random", random), ("trained", policy)):
    with torch.no_grad():
        logits = model(ids).logits[:, :-1]  # (B, T-1, V): position t predicts token t + 1
    perplexity[name] = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).exp().item()
    print(f"{name:8} perplexity {perplexity[name]:8.1f}   (vocabulary: {len(tokenizer)})")
assert perplexity["trained"] < perplexity["random"] / 2

# %% [markdown] tags=["zh"]
# 随机模型的困惑度和词表差不多一样大：它在全部词元里瞎猜。训练过的只在几十个词元之间犹豫，甚至更少。
#
# ## 10 小结
#
# - 模型是一棵模块树；参数挂在叶子上，共享的只数一次。看到“参数量”，先问怎么数的。
# - 元设备能让任何大小的模型在笔记本上现形：有配置就够，不必下载，更不必运行别人的代码。
# - 名字会骗人（`GLU` 不带门，`multi_query` 是 GQA，OPT-350m 不像 OPT）；宽度、缓存的形状、放大实验不会。
# - 内存：训练是每个参数 16 字节（fp32），生成看键值缓存，而缓存只看有几个**键值**头。
# - 权重会说话：位置表说出训练时读过多长，词嵌入说出它学的是用法，不是褒贬。
# - 奖励模型没学过什么是乱码：分数只在它见过的那种文本上有意义。

# %% [markdown] tags=["en"]
# The random model's perplexity is about as large as the vocabulary: it guesses among all tokens. The trained one hesitates between some dozens of tokens, or fewer.
#
# ## 10 Summary
#
# - A model is a tree of modules; parameters hang on the leaves, and shared ones count once. When you read a parameter count, ask how it was counted.
# - The meta device shows a model of any size on a laptop: a configuration is enough, no download, and no need to run anybody's code.
# - Names deceive (`GLU` has no gate, `multi_query` is GQA, OPT-350m is unlike OPT); widths, the shape of the cache and the experiment with the factor do not.
# - Memory: training takes 16 bytes per parameter (fp32); generation depends on the KV cache, and that on the heads for **keys and values**.
# - Weights talk: the table of positions says how long the texts in training were, the embedding that it learnt usage and not praise.
# - Nobody taught the reward model what gibberish is: a score means something only on the kind of text it has seen.

# %% [markdown] tags=["zh"]
# ## 11 练习
#
# 把 `...` 换成你的答案再运行，批改结果马上出现。每题后面藏着一个参考答案，点开就能看。
#
# ### 练习 1（先预测，再运行）
#
# 一台服务器用 Llama-2-7B 同时服务 32 个人，每人的上下文都是 4,096 个词元，缓存用 16 位。缓存一共多少 GiB？如果当初像后来的模型那样只用 8 个键值头，又是多少？（配置：32 层，32 个头，每个头宽 128。）先心算，别用计算器函数。

# %% [markdown] tags=["en"]
# ## 11 Exercises
#
# Replace `...` with your answer and run the cell; it is graded at once. A solution is hidden after each exercise; click to open it.
#
# ### Exercise 1 (predict first, then run)
#
# A server runs Llama-2-7B for 32 people at a time, each with a context of 4,096 tokens, and a 16-bit cache. How many GiB does the cache take in all? And how many, had the model only 8 heads for keys and values, as later ones have? (The configuration: 32 layers, 32 heads, each of width 128.) By head, without the calculator's functions.

# %% tags=["exercise"]
as_it_is, with_8_heads = ..., ...
checks.e01_1(as_it_is, with_8_heads)

# %% tags=["solution"] jupyter={"source_hidden": true}
cached = memory.kv_cache(llama_facts, tokens=4096, batch=32) / 2**30
print(
    f"{cached:.0f} GiB, the weights in 16 bit {memory.weights(llama_facts.parameters, 'bfloat16') / 2**30:.1f} GiB"
)
checks.e01_1(cached, cached / 4).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 2（找错）
#
# 下面的函数想数模型有多少参数，很多人就是这样写的；上面 GPT-2 的 137M 也是这样来的。它有两个错。写出正确的 `count_parameters`：共享的只数一次，冻结的也要数，不是参数的不数。

# %% [markdown] tags=["en"]
# ### Exercise 2 (find the bug)
#
# The function below is meant to count a model's parameters. Many people write it like this, and GPT-2's 137M came about the same way. It has two mistakes. Write the right `count_parameters`: what is shared counts once, what is frozen counts too, and what is no parameter does not count.


# %%
def buggy_count(model):
    """How many parameters the model has."""
    return sum(tensor.numel() for tensor in model.state_dict().values())


print("toy model:", buggy_count(toy), "instead of", anatomy.count(toy))


# %% tags=["exercise"]
def count_parameters(model): ...  # your code


checks.e01_2(count_parameters)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_2(model):
    unique = {id(weight): weight for weight in model.parameters()}  # by object; buffers are no parameters
    return sum(weight.numel() for weight in unique.values())


checks.e01_2(solution_2).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 3
#
# 为 Llama 这一类模型写出参数公式 `decoder_parameters(vocab, hidden, layers, heads, kv_heads, ffn, tied)`。每个块：查询和输出投影 $H \times H$，键和值投影 $H \times (H \cdot n_{\mathrm{kv}} / n)$（$H$ 是 `hidden`，$n$ 是 `heads`，$n_{\mathrm{kv}}$ 是 `kv_heads`），带门的前馈层（三个 `hidden` 与 `ffn` 之间的矩阵），两个 RMSNorm（各 $H$ 个）；都没有偏置。块外面：词嵌入，最后一个 RMSNorm，不共享时还有输出层。用 Llama-2-7B 试试：应当正好是 6,738,415,616。

# %% [markdown] tags=["en"]
# ### Exercise 3
#
# Write the formula for models like Llama: `decoder_parameters(vocab, hidden, layers, heads, kv_heads, ffn, tied)`. In each block: query and output projections $H \times H$, key and value projections $H \times (H \cdot n_{\mathrm{kv}} / n)$ ($H$ is `hidden`, $n$ is `heads`, $n_{\mathrm{kv}}$ is `kv_heads`), a feed-forward layer with a gate (three matrices between `hidden` and `ffn`), two RMSNorms (of $H$ numbers each); no biases. Outside: the embedding, a last RMSNorm, and the output layer unless it is tied. Try it on Llama-2-7B: it should be 6,738,415,616 exactly.


# %% tags=["exercise"]
def decoder_parameters(vocab, hidden, layers, heads, kv_heads, ffn, tied): ...  # your code


checks.e01_3(decoder_parameters)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_3(vocab, hidden, layers, heads, kv_heads, ffn, tied):
    keys = hidden * kv_heads // heads
    block = 2 * hidden**2 + 2 * hidden * keys + 3 * hidden * ffn + 2 * hidden
    return vocab * hidden * (1 if tied else 2) + layers * block + hidden


print(f"{solution_3(32_000, 4096, 32, 32, 32, 11_008, tied=False):,}")
checks.e01_3(solution_3).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 4
#
# 用混合精度做 LoRA。写出 `training_bytes(frozen, trained)`：冻结的和可训练的参数各有多少个，返回一共多少字节（激活值不算）。所有权重存成 bf16；可训练的还要 bf16 的梯度、一份 fp32 的主权重，和 Adam 的两个 fp32 动量。

# %% [markdown] tags=["en"]
# ### Exercise 4
#
# LoRA with mixed precision. Write `training_bytes(frozen, trained)`: given how many parameters are frozen and how many learn, return the bytes in all (without activations). All weights are kept in bf16; those that learn also need a gradient in bf16, a master copy in fp32, and Adam's two moments in fp32.


# %% tags=["exercise"]
def training_bytes(frozen, trained): ...  # your code


checks.e01_4(training_bytes)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_4(frozen, trained):
    return 2 * (frozen + trained) + (2 + 4 + 4 + 4) * trained


adapters = 20_000_000
print(f"{solution_4(llama_facts.parameters, adapters) / 2**30:.1f} GiB instead of", end=" ")
print(f"{solution_4(0, llama_facts.parameters) / 2**30:.1f} GiB without LoRA")
checks.e01_4(solution_4).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 5（侦探）
#
# 有人给你一个权重文件，没有配置。只凭张量的名字和形状，能说出它的结构吗？写出 `read_checkpoint(shapes)`：输入是“名字 → 形状”的字典（Llama 一类的命名，和下面打印的一样），返回一个字典，键是 `layers`、`hidden`、`ffn`、`kv_width`（键投影的输出宽度）和 `tied`（文件里没有 `lm_head.weight`，就是共享）。

# %% [markdown] tags=["en"]
# ### Exercise 5 (detective work)
#
# Somebody hands you a file of weights without its configuration. Can you tell the architecture from the names and shapes of the tensors alone? Write `read_checkpoint(shapes)`: it gets a dict from name to shape (named as in Llama, and as printed below) and returns a dict with the keys `layers`, `hidden`, `ffn`, `kv_width` (the output width of the key projection) and `tied` (if the file holds no `lm_head.weight`, it is tied).

# %%
shapes = {name: tuple(weight.shape) for name, weight in museum.build("qwen2.5-0.5b").named_parameters()}
for name, shape in list(shapes.items())[:13]:
    print(f"{name:44} {shape}")


# %% tags=["exercise"]
def read_checkpoint(shapes): ...  # your code


checks.e01_5(read_checkpoint)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_5(shapes):
    layers = {name.split(".")[2] for name in shapes if name.startswith("model.layers.")}
    ffn, hidden = shapes["model.layers.0.mlp.gate_proj.weight"]  # (out, in)
    kv_width = shapes["model.layers.0.self_attn.k_proj.weight"][0]
    tied = "lm_head.weight" not in shapes
    return {"layers": len(layers), "hidden": hidden, "ffn": ffn, "kv_width": kv_width, "tied": tied}


print(solution_5(shapes))
checks.e01_5(solution_5).must_pass()

# %% [markdown] tags=["zh"]
# ## 12 延伸阅读
#
# - Radford et al. 2019，[Language Models are Unsupervised Multitask Learners](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf)：GPT-2。参数个数的更正见 [openai/gpt-2](https://github.com/openai/gpt-2) 的 README。
# - Zhang et al. 2022，[OPT: Open Pre-trained Transformer Language Models](https://arxiv.org/abs/2205.01068)：OPT；350m 的来历见 [metaseq #388](https://github.com/facebookresearch/metaseq/issues/388)。
# - Zeng et al. 2023，[GLM-130B](https://arxiv.org/abs/2210.02414)，和 Wang et al. 2022，[DeepNet](https://arxiv.org/abs/2203.00555)：DeepNorm。
# - Touvron et al. 2023，[Llama 2](https://arxiv.org/abs/2307.09288)；Qwen Team 2024，[Qwen2.5](https://arxiv.org/abs/2412.15115)。
# - Ainslie et al. 2023，[GQA](https://arxiv.org/abs/2305.13245)：从多头到分组查询。
# - Xiong et al. 2020，[On Layer Normalization in the Transformer Architecture](https://arxiv.org/abs/2002.04745)：pre-LN 为什么好训练。
# - Korthikanti et al. 2022，[Reducing Activation Recomputation in Large Transformer Models](https://arxiv.org/abs/2205.05198)：激活值怎么数。
# - transformers 的[安全说明](https://github.com/huggingface/transformers/blob/main/SECURITY.md)：远程代码和权重格式。

# %% [markdown] tags=["en"]
# ## 12 Further reading
#
# - Radford et al. 2019, [Language Models are Unsupervised Multitask Learners](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf): GPT-2. For the corrected parameter counts see the README of [openai/gpt-2](https://github.com/openai/gpt-2).
# - Zhang et al. 2022, [OPT: Open Pre-trained Transformer Language Models](https://arxiv.org/abs/2205.01068): OPT; what happened to the 350m is in [metaseq #388](https://github.com/facebookresearch/metaseq/issues/388).
# - Zeng et al. 2023, [GLM-130B](https://arxiv.org/abs/2210.02414), and Wang et al. 2022, [DeepNet](https://arxiv.org/abs/2203.00555): DeepNorm.
# - Touvron et al. 2023, [Llama 2](https://arxiv.org/abs/2307.09288); Qwen Team 2024, [Qwen2.5](https://arxiv.org/abs/2412.15115).
# - Ainslie et al. 2023, [GQA](https://arxiv.org/abs/2305.13245): from multi-head to grouped-query attention.
# - Xiong et al. 2020, [On Layer Normalization in the Transformer Architecture](https://arxiv.org/abs/2002.04745): why pre-LN is easy to train.
# - Korthikanti et al. 2022, [Reducing Activation Recomputation in Large Transformer Models](https://arxiv.org/abs/2205.05198): how to count activations.
# - transformers' [security policy](https://github.com/huggingface/transformers/blob/main/SECURITY.md): remote code and formats of weights.
