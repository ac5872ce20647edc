# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] tags=["zh"]
# # 04 监督微调
#
# **这一课回答的问题**：`SFTTrainer` 到底做了什么？监督微调（supervised fine-tuning，SFT）是 RLHF 的第一步：给模型看写好的例子，让它照着写。这一步只有一行 `trainer.train()`，可是从一段文本到一个损失，中间有七八个地方会悄悄出错：不报错，损失照样下降，模型却学歪了。这一课把每一步都手算一遍，在真实的批次上和训练器对到小数点后 5 位；然后真的训练两个模型，和基础模型放在一起比，看 SFT 能换来什么、换不来什么。
#
# **需要什么**
#
# | 配置（profile） | 硬件 | 时间 |
# |---|---|---|
# | `offline`（默认） | 2 个 CPU 核 | 大约 2 分钟，不联网 |
# | `imdb` | 2 个 CPU 核，或一块 GPU | CPU 上大约 10 分钟 |
# | `full` | 一块 GPU | 几分钟 |
#
# 三种配置运行的是同样的单元格。读过[第 00 课](00_overview.ipynb)就够了；想看清模型内部，可以先读[第 03 课](03_gpt_from_scratch.ipynb)。

# %% [markdown] tags=["en"]
# # 04 Supervised fine-tuning
#
# **The question of this lesson**: what does `SFTTrainer` do? Supervised fine-tuning (SFT) is the first step of RLHF: show the model written examples and let it imitate them. The step itself is one line, `trainer.train()`, but on the way from a text to a loss there are seven or eight places where things go wrong in silence: nothing is raised, the loss goes down all the same, and the model learns something else. Here every stage is computed by hand and agrees with the trainer to 5 decimals on a real batch. Then two models are trained for real and set beside the base model, to see what SFT buys and what it cannot buy.
#
# **What you need**
#
# | profile | hardware | time |
# |---|---|---|
# | `offline` (default) | 2 CPU cores | about 2 minutes, no network |
# | `imdb` | 2 CPU cores, or one GPU | about 10 minutes on the CPU |
# | `full` | one GPU | a few minutes |
#
# All three run the same cells. [Lesson 00](00_overview.ipynb) is all the preparation needed; [lesson 03](03_gpt_from_scratch.ipynb) shows what is inside the model.

# %% tags=["setup"]
import time

from rlhf import checks, evaluate, pictures, profiles, report  # before torch: idle threads then sleep

started = time.perf_counter()
setup = profiles.setup("04_supervised_fine_tuning")

# %%
import inspect
import math
import re
from dataclasses import MISSING, dataclass, fields

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
import transformers
import trl
from datasets import Dataset, disable_progress_bars
from torch.nn.utils.rnn import pad_sequence
from trl import SFTConfig, SFTTrainer, pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from rlhf import data, sft
from rlhf.rewards import SentimentReward, WordJudge

plt.style.use(pictures.STYLE)
transformers.logging.set_verbosity_error()  # it warns of padding, which section 4 looks into
disable_progress_bars()  # of the data preparation; training keeps its own
sizes = setup.sizes
window = sizes["max_length"]
print({key: value for key, value in sizes.items() if not hasattr(value, "items")})

# %% [markdown] tags=["zh"]
# ## 1 模仿谁？
#
# 强化学习靠分数，SFT 靠**示范**（demonstration）：一批写好的文本。模型逐个预测示范里的下一个词元（token），预测错了就改。没有分数，没有奖励模型（reward model），也没有“不好的例子”。所以唯一要决定的是：**给它看什么**。
#
# 我们的任务是写好评，手边有两种选择：
#
# - **全部影评**：有褒有贬。模型会更像影评作者，但没有理由更偏爱好评。
# - **只有正面影评**：标签是 1 的那些。模仿好评，就该写出好评。
#
# 第一种是第二种的**对照组**：两者从同一个基础模型出发，读同样多的影评，走同样多的步。没有它，就说不清进步来自“只看好评”，还是仅仅来自“多训练了一会儿”。
#
# 还有一件事要先问清楚：基础模型已经读过哪些影评？拿它读过的去训练，再说“损失下降了”，就不老实了。

# %% [markdown] tags=["en"]
# ## 1 Imitate whom?
#
# Reinforcement learning lives on scores; SFT lives on **demonstrations**: texts that somebody has written. The model predicts the next token of each demonstration and is corrected where it was wrong. There are no scores, there is no reward model, and there are no bad examples. So one decision is left: **what to show it**.
#
# Our task is to write praise, and there are two choices:
#
# - **All reviews**, favourable or not. The model becomes more like a reviewer; it has no reason to prefer praise.
# - **Positive reviews only**, those with label 1. Imitating praise should give praise.
#
# The first is the **control** of the second: both start from the same base model, read equally many reviews and take equally many steps. Without it nobody could tell whether progress comes from "praise only" or simply from "trained a little longer".
#
# One thing has to be asked first: which reviews has the base model already read? To train on those and then announce that the loss went down would not be honest.

# %%
reviews = data.load_reviews(setup.dataset, "train")
read = sft.reviews_read(setup.policy, len(reviews))  # from the record of the build, None without one
if read is None:
    print("Nobody recorded which reviews this policy has read: some demonstrations may not be new to it.")
elif read < len(reviews):
    print(f"The policy was built from the first {read:,} of {len(reviews):,} reviews;")
    print(f"the demonstrations come from the other {len(reviews) - read:,}: it has read none of them.")
else:
    print(f"The policy was built from all {read:,} reviews: some demonstrations are not new to it.")

# %%
demos = {which: sft.demonstrations(setup, which, sizes["reviews"]) for which in ("everything", "positive")}
label_of = {data.plain_text(row["text"]): row["label"] for row in reviews}
for which, rows in demos.items():
    share = sum(label_of[text] for text in rows["text"]) / len(rows)
    print(f"{which:10} {len(rows):,} reviews, {share:.0%} of them positive")
print(demos["positive"][0]["text"][:300], "…")

# %% [markdown] tags=["zh"]
# ## 2 从文本到批次
#
# 模型读的不是文本，而是一个整数矩阵。从一列字符串到这个矩阵，要走五步：
#
# ![从文本到批次和标签](../figs/04_batch.svg)
#
# 1. 在每条文本后面接上**结束符**（end-of-sequence token，EOS），表示“写完了”。
# 2. 分词（tokenise）：切成词元的编号。
# 3. **截断**（truncation）到 `max_length` 个词元。注意顺序：结束符先接上去，所以太长的文本会把它连同尾巴一起切掉。
# 4. **填充**（padding）：一批里的每一行都要一样长，短的在右边补上填充词元。
# 5. 抄一份作为**标签**（labels）：每个位置的标准答案。不该计入损失的位置写上 −100，这是 PyTorch 的交叉熵约定的“忽略”记号。
#
# 先用小数字做一遍。三行词元，0 是结束符，同时也拿来填充（GPT-2 没有专门的填充词元，大家都这么借用，第 4 节会看到这有多危险）：

# %% [markdown] tags=["en"]
# ## 2 From text to a batch
#
# A model does not read text, it reads a matrix of integers. From a list of strings to that matrix there are five stages:
#
# ![From text to a batch and its labels](../figs/04_batch.svg)
#
# 1. Append the **end-of-sequence token** (EOS) to each text. It says: finished.
# 2. Tokenise: cut the text into the numbers of its tokens.
# 3. **Truncate** to `max_length` tokens. Mind the order: EOS is there already, so a text that is too long loses it along with its tail.
# 4. **Pad**: all rows of a batch have to be equally long, so shorter ones are filled up on the right.
# 5. Copy the result as **labels**: the right answer at each position. Positions that must not count get −100, the mark by which PyTorch's cross-entropy ignores a position.
#
# First on small numbers. Three rows of tokens; 0 is EOS and also serves as padding (GPT-2 has no padding token of its own and everybody borrows this one; section 4 shows how dangerous that is):

# %%
toy = [[11, 12, 0], [21, 0], [31, 32, 33, 34]]  # the last one was cut: its EOS is gone
longest = max(map(len, toy))
ids = torch.tensor([row + [0] * (longest - len(row)) for row in toy])  # (B=3, T=4)
labels = torch.tensor([row + [-100] * (longest - len(row)) for row in toy])  # (B, T)
for mine, package in zip((ids, labels), sft.pad_rows(toy, pad_token_id=0), strict=True):
    torch.testing.assert_close(mine, package)
labels

# %% [markdown] tags=["zh"]
# 第一行的标签里有一个 0（结束符，要学），后面跟着 −100（填充，不学）。两者在 `ids` 里都是 0，只有**位置**能把它们分开。
#
# 再用真实的文本做一遍，和训练器对照。为了让批次里有长有短、看得清楚，这一节只取每条影评的第一句话。

# %% [markdown] tags=["en"]
# The labels of the first row hold a 0 (EOS, to be learnt) and then −100 (padding, not to be learnt). In `ids` both are 0; only their **place** tells them apart.
#
# Now on real texts, side by side with the trainer. To see long and short rows in one batch, this section takes only the first sentence of each review.

# %%
policy, tokenizer = sft.load_policy(setup.policy, setup.device)
print("EOS", tokenizer.eos_token_id, "· padding", tokenizer.pad_token_id, "· vocabulary", len(tokenizer))

short = Dataset.from_dict(
    {"text": [text.split(". ")[0].rstrip(".") + "." for text in demos["positive"]["text"]]}
)
four = short.select(range(4))
for text in four["text"]:
    print(text[:100])

# %%
rows = [tokenizer.encode(text + tokenizer.eos_token) for text in four["text"]]  # stages 1 and 2
cut = sorted(map(len, rows))[2]  # short enough for at least one row to lose its end
print("tokens", [len(row) for row in rows], "→ cut to", cut)
rows = [row[:cut] for row in rows]  # stage 3
input_ids, labels = sft.pad_rows(rows, tokenizer.pad_token_id)  # stages 4 and 5, both (B, T)
print("input_ids", tuple(input_ids.shape), "labels", tuple(labels.shape))

# %% [markdown] tags=["zh"]
# 同样的四条文本，交给 TRL 的 `SFTTrainer`。它在构造时就把数据准备好了（前三步和标签），批次由它的整理函数（data collator）现场拼出来：

# %% [markdown] tags=["en"]
# The same four texts go to TRL's `SFTTrainer`. It prepares its data when it is constructed (the first three stages and the labels); its data collator puts the batch together on the spot:

# %%
few = {**sizes, "max_length": cut, "batch_size": 4}
quiet = {"seed": setup.seed, "device": setup.device, "report_to": "none"}
trainer = sft.make_trainer(policy, tokenizer, four, sft.make_config(setup.output / "look", few, **quiet))
print(trainer.train_dataset)

batch = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
print({key: tuple(value.shape) for key, value in batch.items()})
assert torch.equal(batch["input_ids"], input_ids) and torch.equal(batch["labels"], labels)

# %% [markdown] tags=["zh"]
# 一个不差。把这一批画出来：每格一个词元，颜色说明它的标签算不算数。

# %% [markdown] tags=["en"]
# Equal to the last number. Draw this batch: one cell per token; the colour says whether its label counts.


# %%
def draw_batch(axes, input_ids, labels, title):
    """Text that counts (blue), EOS that counts (green), positions that do not count (grey)."""
    for row, column in torch.cartesian_prod(*map(torch.arange, input_ids.shape)).tolist():
        token, counts = int(input_ids[row, column]), int(labels[row, column]) != -100
        colour = "0.85" if not counts else "#8fd3bd" if token == tokenizer.eos_token_id else "#bcdcf0"
        axes.add_patch(plt.Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="white"))
        word = "EOS" if token == tokenizer.eos_token_id else tokenizer.decode([token]).strip()[:10]
        axes.text(column + 0.5, row + 0.5, word.replace("$", r"\$"), ha="center", va="center", fontsize=7)
    for axis, size in ((axes.yaxis, len(input_ids)), (axes.xaxis, input_ids.shape[1])):
        axis.set_ticks([place + 0.5 for place in range(size)], labels=range(size))  # in the middle of a cell
    axes.set(xlim=(0, input_ids.shape[1]), ylim=(len(input_ids), 0), title=title)
    axes.set(xlabel="position", ylabel="row")
    axes.grid(False)


figure, axes = plt.subplots(figsize=(min(15, 0.65 * cut), 2.1), layout="constrained")
draw_batch(axes, batch["input_ids"], batch["labels"], "blue and green count, grey does not")
plt.show()

# %% [markdown] tags=["zh"]
# 看每一行的末尾：没被截断的行以绿色的 EOS 结束，后面的 EOS 只是填充，是灰的；被截断的行没有绿色，这条示范没有告诉模型该在哪里停。
#
# ### 2.1 错开一位
#
# 标签和输入看起来一样，可模型不是在“预测自己”。位置 t 读到了前 t 个词元，它要预测的是第 t+1 个。所以算损失时要**错开一位**：logits 去掉最后一个，标签去掉第一个。`SFTTrainer`（以及所有 transformers 模型）在内部替你错开，你**不要**自己再错一次。

# %% [markdown] tags=["en"]
# Look at the end of each row: a row that was not cut ends with a green EOS, and the EOS behind it are padding, hence grey. A row that was cut has no green: this demonstration never says where to stop.
#
# ### 2.1 The shift by one
#
# Labels look like the input, yet the model does not predict what it has just read. At position t it has seen the first t tokens and predicts number t+1. So the loss is computed with a **shift by one**: logits without the last position, labels without the first. `SFTTrainer`, like every model of transformers, does this for you. Do **not** shift once more yourself.

# %%
live = labels[:, 1:] != -100  # (B, T-1): which predictions count
tokens = int(batch["attention_mask"].sum())
print(f"{input_ids.numel()} positions, {tokens} tokens, {int(live.sum())} count")
assert live.sum() == tokens - len(labels)  # the first token of a row is never predicted

# %% [markdown] tags=["zh"]
# ## 3 损失
#
# SFT 的损失就是语言模型的损失：对每个算数的位置，取模型给正确词元的概率，求负对数，再对**所有词元**取平均（$b$ 是行，$t$ 是位置，$N$ 是算数的词元个数，方括号里成立记 1，不成立记 0）。
#
# $$L = -\frac{1}{N}\sum_{b,t}\,[\text{label}_{b,t+1}\neq -100]\;\log \pi(y_{b,t+1}\mid y_{b,\le t})$$
#
# 小数字：一行，3 个位置，词表（vocabulary）只有 4 个词元。

# %% [markdown] tags=["en"]
# ## 3 The loss
#
# The loss of SFT is that of any language model: at each position that counts, take the probability of the right token, its negative logarithm, and average over **all tokens** ($b$ is the row, $t$ the position, $N$ the number of tokens that count; the square bracket is 1 where it holds and 0 elsewhere).
#
# $$L = -\frac{1}{N}\sum_{b,t}\,[\text{label}_{b,t+1}\neq -100]\;\log \pi(y_{b,t+1}\mid y_{b,\le t})$$
#
# Small numbers: one row, 3 positions, a vocabulary of 4 tokens.

# %%
logits = torch.tensor([[[2.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]])  # (B=1, T=3, V=4)
toy_labels = torch.tensor([[2, 0, 1]])  # (B, T)
logp = logits[:, :-1].log_softmax(-1)  # (B, T-1, V): the last position predicts nothing
loss = -(logp[0, 0, 0] + logp[0, 1, 1]) / 2  # position 0 should say 0, position 1 should say 1
torch.testing.assert_close(loss, F.cross_entropy(logits[0, :-1], toy_labels[0, 1:]))
loss

# %% [markdown] tags=["zh"]
# 现在是真实的批次：自己算，再问训练器。

# %% [markdown] tags=["en"]
# Now the real batch: by hand, then ask the trainer.

# %%
policy.eval()  # dropout off, where there is any
batch = {key: value.to(setup.device) for key, value in batch.items()}
with torch.no_grad():
    logits = policy(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits  # (B, T, V)
    trainers = trainer.compute_loss(trainer.model, dict(batch))
target = batch["labels"][:, 1:]  # (B, T-1)
live = target != -100
logp = logits[:, :-1].log_softmax(-1)  # (B, T-1, V)
picked = logp.gather(-1, target.clamp(min=0)[..., None])[..., 0]  # (B, T-1), of each right token
by_hand = -picked[live].sum() / live.sum()
torch.testing.assert_close(by_hand, trainers, atol=1e-5, rtol=0)
print(f"by hand {by_hand:.6f}, trainer {trainers:.6f}, difference {abs(by_hand - trainers):.1e}")

# %% [markdown] tags=["zh"]
# 如果自己先错开一位再交给模型，会怎样？模型内部还要再错一次，于是每个位置被要求预测**后面第二个**词元。什么都不会报错，只是损失大得多，而且训练下去模型会学成“跳着说话”。

# %% [markdown] tags=["en"]
# What if the labels are shifted by hand first? The model shifts once more, so each position is asked for the token **after the next**. Nothing is raised; the loss is just far higher, and a model trained like this learns to skip every other word.

# %%
twice = batch["labels"].roll(-1, dims=1)
twice[:, -1] = -100
with torch.no_grad():
    wrong = trainer.compute_loss(trainer.model, batch | {"labels": twice})
print(f"shifted once {by_hand:.3f}, shifted twice {wrong:.3f}")
assert wrong > by_hand

# %% [markdown] tags=["zh"]
# ### 3.1 困惑度，以及每个词元的损失
#
# 损失的单位是 nat，不太好想象。取指数就是**困惑度**（perplexity）：模型平均在多少个等可能的词元之间犹豫。要先对所有词元平均，**再**取指数。
#
# 平均数下面藏着很大的差别。看一条模型没见过的影评：颜色越深，这个词元越出乎意料。

# %% [markdown] tags=["en"]
# ### 3.1 Perplexity, and the loss of each token
#
# The unit of the loss is the nat, which is hard to picture. Its exponential is the **perplexity**: between how many equally likely tokens the model hesitates on average. Average over all tokens first, **then** take the exponential.
#
# The average hides large differences. Here is a review that the model has never seen: the darker, the more surprising the token.

# %%
held_out = {
    which: sft.held_out_reviews(setup, which, sizes["held_out"]) for which in ("positive", "negative")
}
losses = sft.token_losses(policy, tokenizer, held_out["positive"], window)  # one (T-1,) per review
print(f"{len(losses)} positive held-out reviews, perplexity {sft.perplexity(losses):.2f}")

pieces = [tokenizer.decode([token]) for token in tokenizer.encode(held_out["positive"][0], verbose=False)]
report.token_heat(pieces[1 : 1 + len(losses[0])], losses[0], "loss of each token, in nats")

# %% [markdown] tags=["zh"]
# 句子开头、人名、形容词很难猜；词的后半截、固定搭配、标点几乎不用猜。SFT 能改进的主要是前一类。
#
# ### 3.2 模型能看多远
#
# `max_length` 该取多少？先量一下基础模型在每个位置上的平均损失，一直量到 `max_length` 的两倍（或者模型位置的上限）：

# %% [markdown] tags=["en"]
# The beginning of a sentence, names and adjectives are hard to guess; second halves of words, set phrases and punctuation need hardly any guessing. What SFT can improve is mostly the former.
#
# ### 3.2 How far the model can see
#
# How large should `max_length` be? Measure the mean loss of the base model at each position, up to twice `max_length` (or as many positions as the model has):

# %%
room = min(2 * window, policy.config.max_position_embeddings)
far = sft.token_losses(policy, tokenizer, held_out["positive"][:64] + held_out["negative"][:64], room)
grid = pad_sequence(far, batch_first=True, padding_value=math.nan)  # (N, room-1), nan where a review is over
by_position = grid.nanmean(0)
inside, outside = grid[:, 8 : window - 1].nanmean(), grid[:, window:].nanmean()
print(f"mean loss at positions 9 to {window}: {inside:.2f} nats, beyond them: {outside:.2f}")

figure, axes = plt.subplots(figsize=(7, 2.3), layout="constrained")
axes.plot(range(1, room), by_position)
axes.axvline(window, color="C1", ls="--")
axes.set(title="base model: mean loss by position (dashed: max_length)", xlabel="position", ylabel="nats")
plt.show()

# %% [markdown] tags=["zh"]
# 前几个位置难，是因为还没有上文。再往后，如果曲线在虚线处突然跳高，原因是：从零训练的小模型当初只读过这么长的窗口，后面的位置向量从来没有训练过。这时若用更长的文本去微调，损失会大跌，看起来像奇迹，其实只是补学了位置。所以 `max_length` 取训练过的窗口长度，困惑度也只在窗口里量：我们要的是**内容**上的进步。
#
# 如果你用的是 `full` 配置，GPT-2 的 1,024 个位置都训练过，曲线不会跳。

# %% [markdown] tags=["en"]
# The first positions are hard because there is no context yet. Further on, if the curve jumps at the dashed line, this is why: a small model trained from scratch has only ever read windows of that length, and the position vectors beyond have never been trained. Fine-tuning on longer texts would then make the loss plunge, which looks like a miracle and is only positions being caught up on. So `max_length` is the window that was trained, and perplexity is measured inside it: the progress we want is one of **content**.
#
# With the profile `full` all 1,024 positions of GPT-2 have been trained, and nothing jumps.

# %% [markdown] tags=["zh"]
# ## 4 填充 = 结束符：永远停不下来的模型
#
# GPT-2、Llama、Mistral 都没有填充词元，于是几乎每份教程都写着 `tokenizer.pad_token = tokenizer.eos_token`。这一行本身没有错。错在**按编号**去屏蔽填充：凡是等于 `pad_token_id` 的标签都改成 −100。填充确实没了，可是每条示范末尾那个真正的结束符，编号也一样，也被一起抹掉了。
#
# transformers 自带的整理函数就是按编号屏蔽的，自己看：

# %% [markdown] tags=["en"]
# ## 4 Padding = EOS: the model that never stops
#
# GPT-2, Llama and Mistral have no padding token, so nearly every tutorial says `tokenizer.pad_token = tokenizer.eos_token`. That line alone does no harm. The harm is to mask padding **by its number**: every label that equals `pad_token_id` becomes −100. Padding is gone, true; but the real EOS at the end of each demonstration has the same number and is wiped out with it.
#
# The collator that comes with transformers masks by number; see for yourself:

# %%
source = inspect.getsource(transformers.DataCollatorForLanguageModeling.torch_call)
print(source[source.index("        else:\n            labels =") :])

# %% [markdown] tags=["zh"]
# TRL 的整理函数在补齐**之前**就知道每行有多长，按位置屏蔽（第 2 节已经核对过）。同一批短文本，三种做法各有多少个标签算数？

# %% [markdown] tags=["en"]
# TRL's collator knows the length of each row **before** it pads, and masks by place (section 2 checked it). The same short texts, three ways of masking: how many labels count?

# %%
stop = sizes["stop"]
fits = [
    text for text in short["text"] if len(tokenizer.encode(text + tokenizer.eos_token)) <= stop["max_length"]
]
rows = [tokenizer.encode(text + tokenizer.eos_token) for text in fits[:16]]
ids, by_place = sft.pad_rows(rows, tokenizer.pad_token_id)  # (B, T)
masks = {
    "by place (TRL)": by_place,
    "by number (careless)": ids.masked_fill(ids == tokenizer.pad_token_id, -100),
    "not at all": ids,
}
counts = {
    name: [(m[:, 1:] != -100).sum(), (m[:, 1:] == tokenizer.eos_token_id).sum()] for name, m in masks.items()
}
pd.DataFrame(counts, index=["labels that count", "of them EOS"]).map(int).T

# %% [markdown] tags=["zh"]
# 16 条文本应当有 16 个 EOS 标签。按编号屏蔽，一个都不剩：模型**从来没有**被要求停下来。完全不屏蔽则走向另一头：大量的标签在教它“结束符后面还是结束符”，这太好猜了，平均损失会低得好看，却说明不了什么。
#
# 光数标签还不够，训练一下看看。两次训练只差一行：下面这个整理函数在 TRL 的结果上补了那句粗心的屏蔽。数据是只有一句话的短影评，模型应当学会写完一句就停。

# %% [markdown] tags=["en"]
# There are 16 texts, so there should be 16 EOS labels. Masked by number, none is left: the model is **never** asked to stop. Not masking at all errs on the other side: many labels teach that EOS is followed by EOS, which is easy to guess, so the mean loss looks fine and means little.
#
# Counting labels is not enough; train and see. The two runs differ in one line: the collator below adds the careless masking to what TRL's returns. The data are reviews of a single sentence, so the model should learn to write one sentence and stop.


# %%
@dataclass
class ByNumber(DataCollatorForLanguageModeling):
    """TRL's collator, and then the careless line."""

    def torch_call(self, examples):
        batch = super().torch_call(examples)
        batch["labels"][batch["input_ids"] == self.pad_token_id] = -100
        return batch


def stop_run(collator=None):
    """Fine-tune the base on single sentences; the trained model."""
    model, _ = sft.load_policy(setup.policy, setup.device)
    config = sft.make_config(setup.output / "stop", stop | {"batch_size": 16}, **quiet, logging_strategy="no")
    rows = Dataset.from_dict({"text": fits[: stop["reviews"]]})
    output = sft.make_trainer(model, tokenizer, rows, config, data_collator=collator).train()
    print(f"{output.global_step} steps, mean training loss {output.training_loss:.2f}")
    return model


stoppers = {"base": policy, "by number": stop_run(ByNumber(tokenizer.pad_token_id)), "by place": stop_run()}

# %%
openings = evaluate.held_out_prompts(setup, tokenizer, 128, seed=setup.seed)
eos_rate = {}
for name, model in stoppers.items():
    written = evaluate.respond(model, tokenizer, openings, stop["new_tokens"], seed=setup.seed)
    eos_rate[name] = sum(int(r[-1]) == tokenizer.eos_token_id for r in written.responses) / len(written)
    print(f"{name:10} {eos_rate[name]:4.0%} stop within {stop['new_tokens']} tokens")
    print(f"{'':10} {openings['query'][0]!r} → {written.texts(tokenizer)[0]!r}")
assert eos_rate["by place"] > eos_rate["by number"] + 0.3, "masking by number should cost the EOS"

# %% [markdown] tags=["zh"]
# 同样的数据、同样的步数、同样的学习率，一个学会了停，另一个没有；而上面打印的两个训练损失，看不出哪里不对。这个坑在公开的讨论里反复出现，见 [transformers 的 23530 号讨论](https://github.com/huggingface/transformers/issues/23530)和 [TRL 的 976 号讨论](https://github.com/huggingface/trl/issues/976)。
#
# 那么正式训练里会有多少个结束符？截断也会吃掉它们，数一下：

# %% [markdown] tags=["en"]
# The same data, the same number of steps, the same learning rate; one has learnt to stop, the other has not, and the two training losses printed above give no hint of it. The trap comes up again and again in public: [issue 23530 of transformers](https://github.com/huggingface/transformers/issues/23530), [issue 976 of TRL](https://github.com/huggingface/trl/issues/976).
#
# And how many EOS will the real training have? Truncation eats them too; count:

# %%
encoded = tokenizer(list(demos["positive"]["text"]), verbose=False)["input_ids"]
lengths = [len(ids) + 1 for ids in encoded]  # with EOS
read = sum(min(length, window) for length in lengths) / sum(lengths)
print(
    f"{sum(n <= window for n in lengths)} of {len(lengths)} demonstrations keep their EOS within {window} tokens"
)
print(
    f"median length {sorted(lengths)[len(lengths) // 2]} tokens; {read:.0%} of the text is inside the window"
)

# %% [markdown] tags=["zh"]
# 所以这样训练出的 Step 1 模型几乎不会主动停：影评比窗口长得多。这对我们没有妨碍，后面 PPO 的回复（response）长度由我们规定；但要让对话模型学会停，示范就必须完整地装进窗口。

# %% [markdown] tags=["en"]
# So the Step 1 model trained like this will hardly ever stop by itself, because reviews are much longer than the window. That is no obstacle here: in PPO we set the length of a response. But a chat model that has to learn to stop needs demonstrations that fit into the window whole.

# %% [markdown] tags=["zh"]
# ## 5 打包
#
# 填充的位置也要算一遍前向，白费力气。**打包**（packing）把几条短文本首尾相接，装进一行：
#
# ![填充和打包](../figs/04_packing.svg)
#
# TRL 的默认办法叫 `bfd`（best-fit decreasing，最佳适配递减）：从长到短，每条放进刚好装得下的那一行。玩具数字，每行 6 格：

# %% [markdown] tags=["en"]
# ## 5 Packing
#
# Padded positions go through the forward pass too, for nothing. **Packing** puts several short texts into one row, end to end:
#
# ![Padding and packing](../figs/04_packing.svg)
#
# TRL's default way is `bfd` (best-fit decreasing): from the longest to the shortest, each goes into the row where it fits most tightly. Toy numbers, rows of 6:

# %%
pieces = Dataset.from_dict({"input_ids": [[1] * 5, [2] * 2, [3] * 3, [4], [5] * 7]})
for strategy in ("bfd", "bfd_split", "wrapped"):
    print(f"{strategy:10}", pack_dataset(pieces, 6, strategy)[:])

# %% [markdown] tags=["zh"]
# `seq_lengths` 记住了每行由哪几条组成。`bfd` 丢掉超长的部分（最后那条多出来的一个词元不见了），`bfd_split` 把它切下来另放，`wrapped` 则不管界限，从头切到尾。
#
# 能省多少？看短影评，每批 16 条：

# %% [markdown] tags=["en"]
# `seq_lengths` remembers of which texts a row consists. `bfd` drops what is too long (the last text has lost a token), `bfd_split` cuts it off and places it elsewhere, `wrapped` ignores all boundaries and cuts straight through.
#
# How much does it save? The short reviews, 16 to a batch:

# %%
lengths = [len(tokenizer.encode(text)) + 1 for text in fits]
lengths = lengths[: len(lengths) // 16 * 16]  # whole batches only
padded = sum(16 * max(lengths[i : i + 16]) for i in range(0, len(lengths), 16))
packed = pack_dataset(Dataset.from_dict({"input_ids": [[0] * n for n in lengths]}), window, "bfd")
print(f"padded: {1 - sum(lengths) / padded:.0%} of the positions are padding")
print(
    f"packed into rows of {window}: {1 - sum(lengths) / (len(packed) * window):.0%} of the places stay empty"
)

# %% [markdown] tags=["zh"]
# 打包有两个要小心的地方。一是位置编号：每条文本都要从 0 重新数起。二是注意力（attention）：后一条不能看见前一条。训练器的批次里没有 `attention_mask`，只有 `position_ids`，transformers 从编号归零的地方认出界限。这样算出来的损失应当与分开填充时完全一样：

# %% [markdown] tags=["en"]
# Two things need care. Positions: each text has to count from 0 again. And attention: a text must not see the one before it. The trainer's batch holds no `attention_mask`, only `position_ids`; transformers recognises the boundaries where the numbers start anew. The loss should then equal that of the padded batch exactly:

# %%
three = Dataset.from_dict({"text": fits[:3]})
room = sum(len(tokenizer.encode(text)) + 1 for text in three["text"])
config = sft.make_config(setup.output / "look", few | {"max_length": room}, **quiet)
padding = sft.make_trainer(policy, tokenizer, three, config)
config = sft.make_config(setup.output / "look", few | {"max_length": room}, **quiet, packing=True)
packing = sft.make_trainer(policy, tokenizer, three, config)

loss = {}
for name, its in {"padded": padding, "packed": packing}.items():
    batch = its.data_collator([its.train_dataset[row] for row in range(len(its.train_dataset))])
    batch = {key: value.to(setup.device) if torch.is_tensor(value) else value for key, value in batch.items()}
    with torch.no_grad():
        loss[name] = its.compute_loss(policy.eval(), dict(batch))
    print(f"{name}: input_ids {tuple(batch['input_ids'].shape)}, loss {loss[name]:.6f}")
print("position_ids", batch["position_ids"][0].tolist())
torch.testing.assert_close(loss["packed"], loss["padded"], atol=1e-5, rtol=0)

# %% [markdown] tags=["zh"]
# 一样。可是界限是怎么认出来的？训练器悄悄地传了 `use_cache=False`。自己写循环时若忘了它，模型会准备一个键值缓存（KV cache），认界限的那段代码就不再生效，后面的文本便看得见前面的：不报错，logits 却变了。

# %% [markdown] tags=["en"]
# Equal. But how were the boundaries recognised? The trainer quietly passes `use_cache=False`. Leave it out in a loop of your own, and the model sets up a KV cache, the code that looks for boundaries no longer acts, and later texts see earlier ones: nothing is raised, and the logits change.

# %%
inputs = {key: batch[key] for key in ("input_ids", "position_ids")}
alone = [
    policy(input_ids=ids[None]).logits[0]
    for ids in batch["input_ids"][0].split(packing.train_dataset["seq_lengths"][0])
]
alone = torch.cat(alone)  # (T, V): every text by itself
for use_cache in (False, True):
    together = policy(**inputs, use_cache=use_cache).logits[0]  # (T, V)
    print(f"use_cache={use_cache}: largest difference of a logit {(together - alone).abs().max():.5f}")

# %% [markdown] tags=["zh"]
# ## 6 只在补全上算损失
#
# 有些数据分成两半：`prompt`（提示，别人写的）和 `completion`（补全，模型该写的）。模型不必学会写提示，所以提示部分的标签是 −100。给 `SFTTrainer` 这两列，它就默认只算补全（`completion_only_loss`）。第 08 课的拒绝采样会用到：提示是给定的，只模仿选中的回复。

# %% [markdown] tags=["en"]
# ## 6 Loss on the completion only
#
# Some data come in two halves: `prompt`, written by somebody else, and `completion`, which is the model's job. The model need not learn to write prompts, so their labels are −100. Given these two columns, `SFTTrainer` counts the completion only, by default (`completion_only_loss`). Rejection sampling in lesson 08 uses this: the prompt is given, only the chosen response is imitated.

# %%
halves = [
    (tokenizer.decode(ids[:4]), tokenizer.decode(ids[4:])) for ids in map(tokenizer.encode, four["text"])
]
pairs = Dataset.from_dict({"prompt": [p for p, _ in halves], "completion": [c for _, c in halves]})
config = sft.make_config(setup.output / "look", few | {"max_length": 64}, **quiet)
trainer = sft.make_trainer(policy, tokenizer, pairs, config)
row = trainer.train_dataset[0]
print(repr(pairs[0]["prompt"]), "→", repr(pairs[0]["completion"]))
print("labels", row["labels"])

# %%
batch = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
batch = {key: value.to(setup.device) for key, value in batch.items()}
whole = batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}
with torch.no_grad():
    logits = policy(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    for name, part in {"completion only": batch, "whole text": whole}.items():
        # cross_entropy ignores -100 by default
        by_hand = F.cross_entropy(logits[:, :-1].flatten(0, 1), part["labels"][:, 1:].flatten())
        torch.testing.assert_close(by_hand, trainer.compute_loss(policy, dict(part)), atol=1e-5, rtol=0)
        print(f"{name:16} {int((part['labels'][:, 1:] != -100).sum()):3} labels count, loss {by_hand:.4f}")

# %% [markdown] tags=["zh"]
# 两个损失不能互相比较：它们平均的不是同一批词元。
#
# 切提示时要小心词元的边界：若提示末尾的半个词和补全开头的半个词会被分词器并成一个词元，界限就落在词元中间。这里按词元切开再解码，所以不会。

# %% [markdown] tags=["en"]
# The two losses must not be compared with each other: they average different tokens.
#
# Mind token boundaries when cutting off a prompt: if the tokenizer would merge the end of the prompt and the beginning of the completion into one token, the border falls inside a token. Here the text is cut between tokens and then decoded, so this cannot happen.

# %% [markdown] tags=["zh"]
# ## 7 梯度累积：先求和，后相除
#
# 显存装不下 8 条，就一条一条地算，攒够 8 次再更新：**梯度累积**（gradient accumulation）。结果应当和一次算 8 条一模一样。可是“把每个小批（minibatch）的平均损失再平均”**不是**同一个数：小批长短不一，短文本里的词元就占了便宜。
#
# 正确的做法是把所有小批的词元损失加起来，除以**整个大批**的词元总数。玩具数字：一个小批有 1 个词元，损失 4；另一个有 9 个词元，损失都是 1。

# %% [markdown] tags=["en"]
# ## 7 Gradient accumulation: add first, divide afterwards
#
# If 8 texts do not fit into memory, compute one at a time and update after 8: **gradient accumulation**. The result should be exactly that of 8 at once. But "the mean of the minibatches' mean losses" is **not** the same number: minibatches differ in length, and tokens of short texts get more weight.
#
# Right is to add up the token losses of all minibatches and divide by the number of tokens of the **whole** batch. Toy numbers: one minibatch has 1 token with loss 4, the other has 9 tokens with loss 1 each.

# %%
toy = [torch.tensor([4.0]), torch.ones(9)]  # per-token losses of two minibatches
mean_of_means = torch.stack([part.mean() for part in toy]).mean()
token_mean = sum(part.sum() for part in toy) / sum(len(part) for part in toy)
torch.testing.assert_close(token_mean, torch.cat(toy).mean())
print(f"mean of means {mean_of_means:.2f}, mean over tokens {token_mean:.2f}")

# %% [markdown] tags=["zh"]
# transformers 的 `Trainer` 很长一段时间里算的就是前者，[直到 2024 年才改正](https://huggingface.co/blog/gradient_accumulation)。现在对不对？自己检验：4 条短的加 4 条长的，一次算完 8 条，和分 8 次逐条算，各走一步，用最朴素的 SGD，这样权重的变化就正比于梯度。

# %% [markdown] tags=["en"]
# For a long time the `Trainer` of transformers computed the former; it was [put right in 2024](https://huggingface.co/blog/gradient_accumulation). Is it right today? Test it: 4 short texts and 4 long ones, one step with 8 at once and one step with 8 times one, by plain SGD, so that the change of the weights is proportional to the gradient.

# %%
eight = Dataset.from_dict({"text": sorted(fits, key=len)[:4] + demos["positive"]["text"][:4]})


def one_step(batch_size, accumulation):
    """One SGD step on the eight texts: what was logged, and all weights as one vector."""
    model, _ = sft.load_policy(setup.policy, setup.device)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # chance would make the two runs differ
    settings = {
        "max_steps": 1,
        "optim": "sgd",
        "warmup_steps": 0,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
    }
    config = sft.make_config(
        setup.output / "look",
        sizes | {"batch_size": batch_size, "learning_rate": 0.1},
        gradient_accumulation_steps=accumulation,
        disable_tqdm=True,
        **settings | quiet,
    )
    trainer = sft.make_trainer(model, tokenizer, eight, config)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return trainer.state.log_history[0]["loss"], torch.cat([p.detach().flatten() for p in model.parameters()])


(loss_8x1, at_once), (loss_1x8, in_turn) = one_step(8, 1), one_step(1, 8)
start = torch.cat([p.detach().flatten() for p in policy.parameters()])
print(f"8 at once: loss {loss_8x1:.6f} · 8 times 1: loss {loss_1x8:.6f}")
torch.testing.assert_close(loss_8x1, loss_1x8, atol=1e-5, rtol=0)
torch.testing.assert_close(at_once, in_turn, atol=1e-5, rtol=0)
print(
    f"weights moved by up to {(at_once - start).abs().max():.1e}, both agree to {(at_once - in_turn).abs().max():.0e}"
)

# %% [markdown] tags=["zh"]
# 两种分法，同样的损失、同样的权重。那么这个损失等于我们手算的吗？

# %% [markdown] tags=["en"]
# Two ways of dividing the work, the same loss, the same weights. And is this loss the one we compute by hand?

# %%
each = sft.token_losses(policy, tokenizer, list(eight["text"]), window)  # 8 tensors (T-1,)
total, predictions = torch.cat(each).sum(), sum(len(losses) for losses in each)
print("predictions in each text", [len(losses) for losses in each])
print(f"mean of means                         {torch.stack([losses.mean() for losses in each]).mean():.4f}")
print(f"mean over all predictions             {total / predictions:.4f}")
print(f"sum / labels, the first ones included {total / (predictions + len(each)):.4f}")
print(f"logged by the trainer                 {loss_8x1:.4f}")

# %% [markdown] tags=["zh"]
# “平均的平均”差得远，训练器没有犯这个错。但如果你的策略是 GPT-2，它记录的也不是“对所有预测取平均”，而是下面一行：除数里多算了每行的第一个标签，而那个标签从来没有被预测。原因很有意思：transformers 靠**类名**判断一个模型的损失会不会错位，名字里含有 `ForCausalLM` 的才算，而 GPT-2 的类叫 `GPT2LMHeadModel`。这只是一个接近 1 的系数，不改变梯度的方向，却足以让你在对数字的时候怀疑自己。评估时的损失（`eval_loss`，以及第 3 节的 `compute_loss`）没有这个问题。

# %% [markdown] tags=["en"]
# The mean of means is far off, and the trainer does not make that mistake. But if your policy is a GPT-2, what it logs is not the mean over all predictions either; it is the line below: the divisor also counts the first label of each row, which is never predicted. The reason is curious: transformers tells by its **class name** whether a model's loss shifts, and counts only names that contain `ForCausalLM`; GPT-2's class is called `GPT2LMHeadModel`. It is only a factor close to 1 and does not change the direction of the gradient, but it is enough to make you doubt yourself when you compare numbers. The loss in evaluation (`eval_loss`, and `compute_loss` in section 3) is free of it.

# %%
shifts = policy.loss_type == "ForCausalLM"  # what the class name says
divisor = predictions if shifts else predictions + len(each)
print(type(policy).__name__, "· loss_type", policy.loss_type)
torch.testing.assert_close((total / divisor).item(), loss_8x1, atol=1e-4, rtol=0)

# %% [markdown] tags=["zh"]
# 多卡训练也是同一个道理：每张卡的词元数不同，也要先加后除。

# %% [markdown] tags=["en"]
# The same holds across several GPUs: each has its own number of tokens, so again add first and divide afterwards.

# %% [markdown] tags=["zh"]
# ## 8 打开 SFTTrainer
#
# 现在读它的源代码就不难了。先看继承关系和它自己写了哪些方法：训练循环、优化器、日志都来自 transformers 的 `Trainer`，SFT 自己的部分很少。

# %% [markdown] tags=["en"]
# ## 8 Opening SFTTrainer
#
# Its source is easy to read now. First its ancestors, and which methods it brings itself: the training loop, the optimiser and the logging come from the `Trainer` of transformers; little is SFT's own.

# %%
print(" → ".join(parent.__name__ for parent in SFTTrainer.__mro__[:4]))
print([name for name, value in vars(SFTTrainer).items() if inspect.isfunction(value)])

# %% [markdown] tags=["zh"]
# 准备数据的每一步都报了名字，按出现的顺序列出来。第 2 节五步里的四步都在：接 EOS、分词、标签、截断（标签在截断之前就抄好，再一起截断）；填充不在，它是整理函数的事。其余几行是岔路：对话格式、没有一个标签算数的行、打包。

# %% [markdown] tags=["en"]
# Each stage of the data preparation announces its name; here they are in order. Four of the five stages of section 2 are there: EOS, tokenising, labels, truncation (labels are copied first and then cut along). Padding is not, it is the collator's job. The other lines are side roads: chat formats, rows in which no label counts, packing.

# %%
print("\n".join(re.findall(r'\["desc"\] = f"(.+?) \{', inspect.getsource(SFTTrainer._prepare_dataset))))

# %%
wanted = re.compile(r"per_token_loss = -|num_tokens = outputs|loss = per_token_loss|use_cache")
code = inspect.getsource(SFTTrainer.compute_loss).splitlines()
print("\n".join(line for line in code if wanted.search(line)))

# %% [markdown] tags=["zh"]
# 再看默认值。`SFTConfig` 改了 `TrainingArguments` 的哪些默认值？

# %% [markdown] tags=["en"]
# Then the defaults. Which defaults of `TrainingArguments` does `SFTConfig` change?

# %%
usual = {field.name: field.default for field in fields(transformers.TrainingArguments)}
changed = {
    f.name: (usual[f.name], f.default)
    for f in fields(SFTConfig)
    if f.name in usual and f.default is not MISSING
}
changed = {name: pair for name, pair in changed.items() if pair[0] != pair[1]}
pd.DataFrame(changed, index=["TrainingArguments", "SFTConfig"]).T

# %% [markdown] tags=["zh"]
# `bf16` 写的是 `None`，实际上只要没选 `fp16` 就会打开：半精度。`gradient_checkpointing` 省显存、费时间。对大模型这两样都有用；我们的模型小，又要和手算对到第 5 位小数，所以 `sft.make_config` 把它们都关了：

# %% [markdown] tags=["en"]
# `bf16` says `None`, which in fact switches it on unless `fp16` is chosen: half precision. `gradient_checkpointing` saves memory and costs time. Both help with large models; ours are small and have to agree with computations by hand to 5 decimals, so `sft.make_config` switches them off:

# %%
print(inspect.getsource(sft.make_config).split('"""')[2])

# %% [markdown] tags=["zh"]
# 网上的教程多半是为旧版本写的。旧名字今天叫什么：
#
# | 旧教程 | 现在 |
# |---|---|
# | `SFTTrainer(tokenizer=…)` | `SFTTrainer(processing_class=…)` |
# | `SFTTrainer(max_seq_length=…)` | `SFTConfig(max_length=…)` |
# | `SFTTrainer(dataset_text_field=…, packing=…)` | 同名，移到了 `SFTConfig` |
# | `DataCollatorForCompletionOnlyLM(…)` | `prompt` 和 `completion` 两列，`completion_only_loss` |

# %% [markdown] tags=["en"]
# Most tutorials on the web were written for older versions. What the old names are called today:
#
# | old tutorial | today |
# |---|---|
# | `SFTTrainer(tokenizer=…)` | `SFTTrainer(processing_class=…)` |
# | `SFTTrainer(max_seq_length=…)` | `SFTConfig(max_length=…)` |
# | `SFTTrainer(dataset_text_field=…, packing=…)` | the same names, moved to `SFTConfig` |
# | `DataCollatorForCompletionOnlyLM(…)` | columns `prompt` and `completion`, `completion_only_loss` |

# %%
arguments = set(inspect.signature(SFTTrainer).parameters)
settings = {field.name for field in fields(SFTConfig)}
assert "processing_class" in arguments and not {"tokenizer", "max_seq_length", "packing"} & arguments
assert {"max_length", "dataset_text_field", "packing", "completion_only_loss"} <= settings
print("checked with trl", trl.__version__, "and transformers", transformers.__version__)

# %% [markdown] tags=["zh"]
# ## 9 训练
#
# 两次训练：全部影评、只有正面影评。开始之前先预测（写在纸上）：
#
# - 训练到最后，**没见过的正面影评**上的损失，哪一个模型更低？
# - **没见过的负面影评**上的损失呢？只看过好评的模型，读到差评会更惊讶还是更不惊讶？

# %% [markdown] tags=["en"]
# ## 9 Training
#
# Two runs: on all reviews, and on positive ones only. Predict before you start (on paper):
#
# - At the end, which model has the lower loss on **positive reviews it has not seen**?
# - And on **negative reviews it has not seen**? Will a model that was shown praise alone be more surprised by a bad review, or less?

# %%
watched = {which: Dataset.from_dict({"text": texts[:64]}) for which, texts in held_out.items()}
steps = math.ceil(sizes["reviews"] / sizes["batch_size"])
print(f"{sizes['reviews']:,} reviews, {sizes['batch_size']} to a batch: {steps} steps")

runs = {}
for which, rows in demos.items():
    model, tokenizer = sft.load_policy(setup.policy, setup.device)
    config = sft.make_config(
        setup.output / which,
        sizes,
        seed=setup.seed,
        device=setup.device,
        eval_strategy="steps",
        eval_steps=max(1, steps // 3),
        eval_on_start=True,
    )
    runs[which] = sft.make_trainer(model, tokenizer, rows, config, watched)
    runs[which].train()

# %% [markdown] tags=["zh"]
# 上面的表里，`Validation Loss` 一栏总是“No log”：评测数据有两份，各有自己的一栏（`Positive Loss` 和 `Negative Loss`）。训练器记录的每个指标一句话：
#
# | 指标 | 意思 |
# |---|---|
# | `loss` | 训练批次上每个词元的平均交叉熵（nat）；GPT-2 的会略低一点，原因见第 7 节 |
# | `eval_positive_loss`，`eval_negative_loss` | 同一个量，在没见过的正面、负面影评上 |
# | `mean_token_accuracy` | 概率最大的词元恰好正确的比例 |
# | `entropy` | 下一个词元的分布有多分散；大致跟着损失走 |
# | `grad_norm` | 梯度的范数；突然变大是不祥之兆 |
# | `learning_rate` | 学习率：先升后降（余弦） |
# | `num_tokens` | 读过的词元总数 |
# | `epoch` | 数据读过了几遍 |

# %% [markdown] tags=["en"]
# In the tables above, the column `Validation Loss` always says "No log": there are two sets to evaluate on, each with a column of its own (`Positive Loss` and `Negative Loss`). Every metric that the trainer logs, in one line:
#
# | metric | meaning |
# |---|---|
# | `loss` | mean cross-entropy per token of the training batches, in nats; a little low with GPT-2, see section 7 |
# | `eval_positive_loss`, `eval_negative_loss` | the same, on positive and negative reviews that were not seen |
# | `mean_token_accuracy` | how often the likeliest token is the right one |
# | `entropy` | how spread out the next-token distribution is; it roughly follows the loss |
# | `grad_norm` | norm of the gradient; a sudden rise is a bad sign |
# | `learning_rate` | the learning rate: it rises, then falls (a cosine) |
# | `num_tokens` | tokens read so far |
# | `epoch` | how often the data have been read |

# %%
curves = {
    "loss": "training loss",
    "eval_positive_loss": "held out, positive",
    "eval_negative_loss": "held out, negative",
}
figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), layout="constrained", sharex=True)
for which, trainer in runs.items():
    log = pd.DataFrame(trainer.state.log_history).set_index("step")
    for panel, (key, title) in zip(axes, curves.items(), strict=True):
        log[key].dropna().plot(ax=panel, label=f"SFT on {which}", marker="" if key == "loss" else "o")
        panel.set(title=title, xlabel="step")
axes[0].set_ylabel("nats per token")
axes[1].legend()
plt.show()

# %% [markdown] tags=["zh"]
# 怎么读？如果留出的损失先升后降，不必惊慌：基础模型是用很小的学习率收尾的，现在学习率一下子升到峰值，先把它从原来的谷底里震了出来，等学习率降下来，它才落到更低的地方。所以 SFT 跑到一半就停，可能比不跑还差。右图回答了刚才的第二个预测。
#
# 曲线也写进了 TensorBoard 的日志，在仓库的根目录下运行：
#
# ```bash
# tensorboard --logdir output/04_supervised_fine_tuning --port 8080
# ```
#
# ## 10 留出的困惑度降了吗？
#
# 训练损失下降不算数，那是练过的题。在测试集的影评上量，三个模型，两种影评：

# %% [markdown] tags=["en"]
# How to read them? If the held-out losses rise before they fall, do not worry: the base model ended its own training at a tiny learning rate; now the rate climbs to its peak and first shakes the model out of the valley where it had settled, and only as the rate comes down does it settle lower. So an SFT run that is stopped half-way can be worse than none. The right picture answers the second prediction.
#
# The curves have also gone to a TensorBoard log; at the root of the repository:
#
# ```bash
# tensorboard --logdir output/04_supervised_fine_tuning --port 8080
# ```
#
# ## 10 Has the held-out perplexity fallen?
#
# A falling training loss does not count; those are the exercises it practised on. Measure on reviews of the test split: three models, two kinds of review.

# %%
models = {"base": policy} | {f"SFT on {which}": trainer.model for which, trainer in runs.items()}
nats = {
    name: {w: sft.token_losses(model, tokenizer, texts, window) for w, texts in held_out.items()}
    for name, model in models.items()
}
perplexity = pd.DataFrame(
    {name: {w: sft.perplexity(part) for w, part in its.items()} for name, its in nats.items()}
).T
perplexity["all"] = [sft.perplexity(its["positive"] + its["negative"]) for its in nats.values()]
perplexity.round(3)

# %% [markdown] tags=["zh"]
# 差别有多可靠？对每条影评算平均损失，与基础模型配对相减，再用自助法（bootstrap）给出 95% 区间。负数表示下降：

# %% [markdown] tags=["en"]
# How reliable are the differences? Take the mean loss of each review, subtract that of the base model for the same review, and bootstrap a 95% interval. Negative means a fall:

# %%
change = {}
for name in list(models)[1:]:
    for which in held_out:
        old, new = ([x.mean().item() for x in nats[model][which] if len(x)] for model in ("base", name))
        change[name, which] = report.bootstrap_gain(old, new)
        print(
            "{:18} {:8} {:+.3f} nats per token [{:+.3f}, {:+.3f}]".format(name, which, *change[name, which])
        )
assert change["SFT on positive", "positive"][2] < 0, "held-out perplexity did not fall: nothing was learnt"

# %%
mean, low, high = change["SFT on everything", "positive"]
extra = change["SFT on positive", "positive"][0] - mean
verdict = "fell as well" if high < 0 else "did not clearly change" if low < 0 else "rose"
print(
    f"On positive reviews the loss of the control {verdict} ({mean:+.3f}): that part is plain further training."
)
print(f"Choosing the demonstrations changed it by another {extra:+.3f}.")

control, chosen = (
    [x.mean().item() for x in nats[f"SFT on {which}"]["negative"] if len(x)] for which in demos
)
mean, low, high = report.bootstrap_gain(control, chosen)
print("On negative reviews the loss of the model that saw praise alone differs")
print(f"from the control's by {mean:+.3f} [{low:+.3f}, {high:+.3f}],")
print(f"from the base's by {change['SFT on positive', 'negative'][0]:+.3f}.")
assert low > 0, "a model that saw praise alone should find bad reviews less familiar"

# %% [markdown] tags=["zh"]
# 这就是对照组的用处。从零训练的小模型只训练过很短的时间，再读任何影评都会进步；只有超出对照组的那一部分，才是“挑选示范”的功劳。在负面影评上，两个模型分道扬镳：和对照组相比，只看好评的那个对差评陌生得多，这正是我们要的**偏心**。

# %% [markdown] tags=["en"]
# This is what the control is for. A small model trained from scratch has been trained only briefly, so reading any more reviews helps it; only what goes beyond the control is due to the choice of demonstrations. On negative reviews the two part ways: compared with the control, bad reviews are much less familiar to the model that saw praise alone, and that is exactly the **bias** we are after.

# %% [markdown] tags=["zh"]
# ## 11 output/sft_1：Step 1 的成果
#
# 两个模型里，哪一个该成为后面几课的起点？Step 1 的示范要示范**任务本身**，我们的任务是写好评，所以 `output/sft_1` 是只看正面影评的那个。另一个留在这一课的文件夹里，只作对照。

# %% [markdown] tags=["en"]
# ## 11 output/sft_1: the result of Step 1
#
# Which of the two should the following lessons start from? The demonstrations of Step 1 are to demonstrate **the task**, and ours is to write praise; so `output/sft_1` is the one that saw positive reviews only. The other stays in this lesson's folder, as a control.

# %%
where = {"positive": profiles.root() / "output" / "sft_1", "everything": setup.output / "sft_everything"}
for which, folder in where.items():
    sft.save(runs[which], folder, **sft.origin(setup, which, sizes))  # with a note of what it was made from
folder = where["positive"]
print(sorted(path.name for path in folder.iterdir()))

# %%
again = transformers.AutoModelForCausalLM.from_pretrained(folder).to(setup.device)  # plain transformers
greedy = [
    evaluate.respond(model, tokenizer, openings["input_ids"][:3], 14, do_sample=False).texts(tokenizer)
    for model in (runs["positive"].model, again)
]
assert greedy[0] == greedy[1], "the saved model writes something else"
for query, text in zip(openings["query"], greedy[1], strict=False):
    print(repr(query), "→", repr(text))

# %% [markdown] tags=["zh"]
# 整个 Step 1 也可以一次调用完成，做的就是上面这几步；后面的课需要时会这样用：

# %% [markdown] tags=["en"]
# The whole of Step 1 is also a single call, made of the same pieces; later lessons use it where they need it:

# %%
print(inspect.getsource(sft.train_sft).split('"""')[2])

# %% [markdown] tags=["zh"]
# ## 12 只训练一小部分：LoRA
#
# 7B 的模型做全量微调，光是梯度和 Adam 的两份状态就要几十 GB。**低秩适配**（LoRA）冻结原来的权重，只在每个线性层旁边加两个小矩阵（第 03 课从零写过）。用 PEFT 库，只要多给一个参数：

# %% [markdown] tags=["en"]
# ## 12 Training only a small part: LoRA
#
# Full fine-tuning of a 7B model takes tens of gigabytes for the gradients and Adam's two states alone. **LoRA** freezes the weights and trains two small matrices beside each linear layer (lesson 03 writes it from scratch). With the library PEFT it is one more argument:

# %%
from peft import LoraConfig

lora = sizes["lora"]
adapter = LoraConfig(
    r=lora["rank"], lora_alpha=2 * lora["rank"], target_modules="all-linear", task_type="CAUSAL_LM"
)
adapter.fan_in_fan_out = policy.config.model_type == "gpt2"  # GPT-2 stores its matrices transposed
model, _ = sft.load_policy(setup.policy, setup.device)
config = sft.make_config(setup.output / "lora", sizes | {"learning_rate": lora["learning_rate"]}, **quiet)
lora_run = sft.make_trainer(
    model, tokenizer, demos["positive"].select(range(lora["reviews"])), config, peft_config=adapter
)
learns = sum(p.numel() for p in lora_run.model.parameters() if p.requires_grad)
total = sum(p.numel() for p in lora_run.model.parameters())
print(f"{learns:,} of {total:,} parameters learn: {learns / total:.1%}")

# %%
lora_run.train()
adapted = sft.token_losses(lora_run.model, tokenizer, held_out["positive"], window)
merged = lora_run.model.merge_and_unload()
same = sft.token_losses(merged, tokenizer, held_out["positive"], window)
torch.testing.assert_close(torch.cat(adapted), torch.cat(same), atol=1e-3, rtol=1e-3)
full = len(demos["positive"]) // sizes["batch_size"]
print(
    f"LoRA, {lora_run.state.global_step} steps: held-out perplexity {sft.perplexity(adapted):.3f} (positive reviews)"
)
print(
    f"base: {perplexity.loc['base', 'positive']:.3f}; full fine-tuning, {full} steps: {perplexity.loc['SFT on positive', 'positive']:.3f}"
)

# %% [markdown] tags=["zh"]
# 学习率比全量微调大得多，步数少得多，两者不能直接比高低；这里只是演示它怎么用。合并（merge）之后，适配器消失在原来的权重里，输出不变。第 11 课的 7B 路线用的就是它。

# %% [markdown] tags=["en"]
# Its learning rate is much higher and its steps are far fewer than those of the full run, so the two are not a contest; this only shows how it is used. After merging, the adapter has disappeared into the weights and the outputs are the same. The 7B road of lesson 11 uses it.

# %% [markdown] tags=["zh"]
# ## 13 训练前后
#
# 困惑度说的是“读”，任务要的是“写”。三个模型用同样的留出提示（held-out prompts）、同样的长度、同样的随机种子各写一遍，奖励模型打分。SFT 从没见过奖励模型的分数，所以这里的奖励模型本身就是局外的评委；旁边再放一位词袋评委。SFT 的差别不大，所以提示比别的课多一些，区间才够窄。

# %% [markdown] tags=["en"]
# ## 13 Before and after
#
# Perplexity is about reading; the task is writing. The three models answer the same held-out prompts with the same lengths and the same random seed, and the reward model scores them. SFT never saw a score, so the reward model is an outside judge here; a bag-of-words judge stands beside it. The effect of SFT is not large, so there are more prompts than in other lessons, to make the intervals narrow.

# %%
prompts = evaluate.held_out_prompts(setup, tokenizer, sizes["prompts"], seed=setup.seed)
reward_model = SentimentReward(setup.reward_model, device=setup.device)
others = evaluate.judge_reviews(setup, prompts)
cut = len(others) * 3 // 4
judge = WordJudge.fit(others.select(range(cut)))
accuracy = judge.accuracy(others.select(range(cut, len(others))))
print(
    f"the word judge learnt from {cut} reviews and is right in {accuracy:.1%} of {len(others) - cut} others"
)

# %%
lengths = evaluate.response_lengths(setup, len(prompts), seed=setup.seed)
written, rewards, judged, kl = {}, {}, {}, {"base": 0.0}
for name, model in models.items():
    written[name] = evaluate.respond(model, tokenizer, prompts, lengths, seed=setup.seed)
    responses = written[name].texts(tokenizer)
    texts = [query + response for query, response in zip(prompts["query"], responses, strict=True)]
    rewards[name], judged[name] = reward_model(texts), judge(texts)  # each (N,)
    if model is not policy:
        kl[name] = evaluate.response_kl(model, policy, written[name]).mean().item()
    print(f"{name:18} {texts[0]!r}")

# %%
rows = {}
for name in models:
    gain, judge_gain = (report.bootstrap_gain(part["base"], part[name]) for part in (rewards, judged))
    stopped = sum(int(response[-1]) == tokenizer.eos_token_id for response in written[name].responses)
    rows[name] = {
        "reward: mean": f"{rewards[name].mean():.3f}",
        "median": f"{rewards[name].median():.3f}",
        "gain [95%]": "{:+.3f} [{:+.3f}, {:+.3f}]".format(*gain),
        "word judge: gain [95%]": "{:+.3f} [{:+.3f}, {:+.3f}]".format(*judge_gain),
        "KL to base": f"{kl[name]:.2f}",
        "distinct-2": f"{report.distinct_n(written[name].texts(tokenizer)):.3f}",
        "ended by EOS": f"{stopped / len(prompts):.1%}",
        "perplexity, positive": f"{perplexity.loc[name, 'positive']:.3f}",
        "perplexity, all": f"{perplexity.loc[name, 'all']:.3f}",
    }
policies = pd.DataFrame(rows).T
policies.to_csv(setup.output / "policies.csv")
policies

# %% [markdown] tags=["zh"]
# 三行，三个模型。基础模型那一行的增益和 KL 按定义是 0。KL 是每条回复相对基础模型的 KL 散度（nat），distinct-2 是不同的二元词组占全部二元词组的比例。再看文本本身（前 16 个提示；统计仍是全部提示的）：

# %% [markdown] tags=["en"]
# Three rows, three models; the gain and the KL of the base are 0 by definition. KL is the divergence from the base per response, in nats; distinct-2 is the share of word pairs that differ. And the texts themselves (the first 16 prompts; the statistics are over all of them):

# %% tags=["table"]
before, after = "base", "SFT on positive"
result = report.before_after(
    prompts["query"],
    *(written[name].texts(tokenizer) for name in (before, after)),
    rewards[before],
    rewards[after],
    judge_before=judged[before],
    judge_after=judged[after],
    judge_name="word judge",
    kl=kl[after],
    title="04 Supervised fine-tuning: base and output/sft_1",
    names=(before, after),
    meta=report.run_meta(setup, started),
    show=setup.evaluation["shown"],
)
result.save(setup.output)
result

# %%
assert result.gain[1] > 0, "no gain on held-out prompts: nothing was learnt"
assert result.numbers["distinct_2_after"] > result.numbers["distinct_2_before"] / 2, (
    "the responses repeat themselves"
)
for name, old in (("SFT on everything", "base"), ("SFT on positive", "SFT on everything")):
    mean, low, high = report.bootstrap_gain(rewards[old], rewards[name])
    verdict = "a gain" if low > 0 else "a loss" if high < 0 else "no difference that these prompts can show"
    print(f"{name} against {old}: {mean:+.3f} [{low:+.3f}, {high:+.3f}] → {verdict}")

# %% [markdown] tags=["zh"]
# ### 13.1 模仿的天花板
#
# 增益为什么只有这么多？因为模仿者最多写得和示范**一样**。取留出的影评的开头，截成和模型的文本同样的长度，让奖励模型打分，就知道天花板在哪里：

# %% [markdown] tags=["en"]
# ### 13.1 The ceiling of imitation
#
# Why is the gain no larger? Because an imitator writes at best **like** its demonstrations. Take the openings of held-out reviews, cut them to the length of the models' texts, and let the reward model score them: that is where the ceiling is.

# %%
room = [len(query) + length for query, length in zip(prompts["input_ids"], lengths, strict=True)]
real = {}
for which in sft.WHICH:
    encoded = map(tokenizer.encode, sft.held_out_reviews(setup, which))
    real[f"reviews, {which}"] = reward_model(
        [tokenizer.decode(ids[:n]) for ids, n in zip(encoded, room, strict=False)]
    )

figure, axes = plt.subplots(figsize=(7, 2.2), layout="constrained")
for name, part in (rewards | real).items():
    error = 1.96 * part.std() / len(part) ** 0.5
    axes.barh(name, part.mean(), xerr=error, color="C2" if "reviews" in name else "C0")
axes.set(title="mean reward of texts of equal length, 95% interval", xlabel="reward (logit of POSITIVE)")
axes.invert_yaxis()
plt.show()

# %%
ceiling = real["reviews, positive"].mean() - real["reviews, everything"].mean()
reached = rewards["SFT on positive"].mean() - rewards["base"].mean()
print(f"reviews: choosing the positive ones is worth {ceiling:+.3f}")
print(f"models:  SFT on positive reviews is worth {reached:+.3f}, {reached / ceiling:.0%} of it")

# %% [markdown] tags=["zh"]
# 正面影评的开头二十来个词元里，也常常还没有亮出褒贬，所以天花板本来就不高。SFT 把模型带到示范的水平，就到头了：它不知道什么叫“更好”，只知道什么叫“像”。要比示范更好，就得有人打分，这正是后面几课的事：第 05 课训练奖励模型，第 07 课的 PPO 用它把分数推过这条线。

# %% [markdown] tags=["en"]
# Within their first twenty tokens or so, positive reviews often have not said yet what they think, so the ceiling is not high. SFT takes the model to the level of its demonstrations and ends there: it does not know what "better" means, only what "alike" means. To do better than the demonstrations somebody has to score, and that is what the next lessons are about: lesson 05 trains a reward model, and PPO in lesson 07 uses it to push the score beyond this line.

# %% [markdown] tags=["zh"]
# ## 14 小结
#
# - 从文本到批次：接上 EOS、分词、截断、填充、标签。截断会吃掉 EOS，填充绝不能按编号屏蔽。
# - 损失是所有算数的词元的平均交叉熵；错开一位由模型内部完成，不要做第二次。
# - 打包省下填充，但要让位置从 0 重数、让文本互不相见；`use_cache=False` 不能少。
# - 梯度累积：先加所有词元的损失，再除以总数；“平均的平均”是另一个目标。
# - 困惑度要在留出的文本上、在训练过的窗口里量，还要有对照组。
# - SFT 只会模仿：选什么示范就得到什么模型，天花板是示范本身。`output/sft_1` 是只看正面影评的那个。

# %% [markdown] tags=["en"]
# ## 14 Summary
#
# - From text to a batch: append EOS, tokenise, truncate, pad, label. Truncation eats EOS; padding must never be masked by its number.
# - The loss is the mean cross-entropy over all tokens that count; the model shifts by one itself, so do not do it twice.
# - Packing saves padding, but positions must start from 0 again and texts must not see each other; `use_cache=False` is indispensable.
# - Gradient accumulation: add the losses of all tokens, then divide by their number; the mean of means is another objective.
# - Measure perplexity on held-out texts, inside the window that was trained, and beside a control.
# - SFT can only imitate: the choice of demonstrations is the choice of model, and they are its ceiling. `output/sft_1` is the one that saw positive reviews only.

# %% [markdown] tags=["zh"]
# ## 15 练习
#
# 把 `...` 换成你的答案再运行，批改结果马上出现。每题后面藏着一个参考答案，点开就能看。
#
# ### 练习 1（先预测，再运行）
#
# 一个权重完全随机的 GPT-2，词表有 50,257 个词元。训练的第一步，它的损失（nat）和困惑度各是多少（误差在 5% 以内算对）？这是检查训练代码的好办法：第一步的损失若差得远，标签或者错位一定有问题。

# %% [markdown] tags=["en"]
# ## 15 Exercises
#
# Replace `...` with your answer and run the cell; it is graded at once. A solution is hidden after each exercise; click to open it.
#
# ### Exercise 1 (predict first, then run)
#
# A GPT-2 with entirely random weights has a vocabulary of 50,257 tokens. At the first step of training, what are its loss (in nats) and its perplexity (within 5% counts as right)? A good test of any training code: if the first loss is far off, labels or shift are wrong.

# %% tags=["exercise"]
first_loss, first_perplexity = ..., ...
checks.e04_1(first_loss, first_perplexity)

# %% tags=["solution"] jupyter={"source_hidden": true}
torch.manual_seed(0)
blank = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=64, n_layer=2, n_head=2)).eval()
random_ids = torch.randint(blank.config.vocab_size, (2, 16))  # (B, T)
with torch.no_grad():
    measured = blank(input_ids=random_ids, labels=random_ids).loss.item()
print(f"measured {measured:.3f}; ln V = {math.log(blank.config.vocab_size):.3f}")
checks.e04_1(measured, math.exp(measured)).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 2（找错）
#
# 下面的函数要为一批文本做标签，之后交给模型（`model(input_ids, attention_mask=…, labels=…)`）。它不报错，训练损失也会下降。两个错误都是真实代码里常见的：找出来，写出正确的 `make_labels`。填充可能在左边，也可能在右边；一行中间也可能有 EOS。（每行的第一个真词元前面没有上文，它的标签写不写 −100 都算对。）

# %% [markdown] tags=["en"]
# ### Exercise 2 (find the bug)
#
# The function below is meant to make the labels of a batch, which then goes to the model (`model(input_ids, attention_mask=…, labels=…)`). It raises nothing, and the training loss goes down. Both of its mistakes are common in real code: find them and write the right `make_labels`. Padding may be on the left or on the right, and there may be an EOS in the middle of a row. (Nothing comes before the first real token of a row; −100 or its number both count as right there.)


# %%
def buggy_labels(input_ids, attention_mask, pad_token_id):
    """input_ids, attention_mask (B, T), pad_token_id = EOS -> labels (B, T)."""
    labels = input_ids.masked_fill(input_ids == pad_token_id, -100)
    labels = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], dim=1)
    return labels


# %% tags=["exercise"]
def make_labels(input_ids, attention_mask, pad_token_id): ...  # your code


checks.e04_2(make_labels)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_2(input_ids, attention_mask, pad_token_id):
    return input_ids.masked_fill(attention_mask == 0, -100)  # by place; the model shifts by itself


checks.e04_2(solution_2).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 3
#
# 写出 SFT 的损失：`logits` 是 (B, T, V)，`labels` 是 (B, T)，−100 不计。别忘了错开一位；平均是对词元，不是对行。

# %% [markdown] tags=["en"]
# ### Exercise 3
#
# Write the loss of SFT: `logits` is (B, T, V), `labels` is (B, T), −100 does not count. Remember the shift by one, and that the mean is over tokens, not over rows.


# %% tags=["exercise"]
def sft_loss(logits, labels): ...  # your code


checks.e04_3(sft_loss)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_3(logits, labels):
    target = labels[:, 1:]  # (B, T-1)
    live = target != -100
    logp = logits[:, :-1].log_softmax(-1).gather(-1, target.clamp(min=0)[..., None])[..., 0]  # (B, T-1)
    return -logp[live].mean()


checks.e04_3(solution_3).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 4（找错）
#
# 下面是许多教程里的梯度累积。每个小批给出一个张量（n,）：其中每个算数的词元的损失。函数返回要反向传播的总损失。错在哪里？写出正确的 `accumulated_loss`，使它等于把所有小批合成一批时的损失。

# %% [markdown] tags=["en"]
# ### Exercise 4 (find the bug)
#
# Below is gradient accumulation as many tutorials have it. Each minibatch gives a tensor (n,): the loss of each of its tokens that count. The function returns the total loss to backpropagate. What is wrong? Write `accumulated_loss` so that it equals the loss of all minibatches in one batch.


# %%
def buggy_accumulation(minibatches):
    """A list of tensors (n_i,), the token losses of each minibatch -> one loss."""
    total = 0.0
    for token_losses in minibatches:
        total = total + token_losses.mean() / len(minibatches)
    return total


# %% tags=["exercise"]
def accumulated_loss(minibatches): ...  # your code


checks.e04_4(accumulated_loss)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_4(minibatches):
    tokens = sum(len(token_losses) for token_losses in minibatches)  # known before the first backward pass
    return sum(token_losses.sum() / tokens for token_losses in minibatches)


print("buggy", buggy_accumulation(each).item(), "right", solution_4(each).item())
checks.e04_4(solution_4).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 5
#
# 一行里打包了几条文本，长度是 `seq_lengths`，例如 `[3, 1, 2]`。写出这一行的位置编号，以及哪些标签算数（True / False，同样长）。提示：每条文本的第一个词元前面没有它自己的上文。

# %% [markdown] tags=["en"]
# ### Exercise 5
#
# A row is packed from texts of the lengths `seq_lengths`, for instance `[3, 1, 2]`. Write the position numbers of the row, and which of its labels count (True or False, equally long). Hint: nothing of its own text comes before the first token of a text.


# %% tags=["exercise"]
def packed_row(seq_lengths):
    positions, counts = ..., ...  # your code
    return positions, counts


checks.e04_5(packed_row)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_5(seq_lengths):
    positions = torch.cat([torch.arange(length) for length in seq_lengths])  # (T,)
    return positions, positions > 0


checks.e04_5(solution_5).must_pass()

# %% [markdown] tags=["zh"]
# ## 16 延伸阅读
#
# - Ouyang et al. 2022，[InstructGPT](https://arxiv.org/abs/2203.02155)：SFT 是其中的第 1 步。
# - Zhou et al. 2023，[LIMA](https://arxiv.org/abs/2305.11206)：1,000 条精选的示范能走多远。
# - Hu et al. 2021，[LoRA](https://arxiv.org/abs/2106.09685)。
# - Ding et al. 2024，[Fewer Truncations Improve Language Modeling](https://arxiv.org/abs/2404.10830)：最佳适配打包的来历。
# - [Fixing Gradient Accumulation](https://huggingface.co/blog/gradient_accumulation)：平均的平均，以及它怎样被改正。
# - [SFTTrainer 的文档](https://huggingface.co/docs/trl/sft_trainer)：数据格式和全部选项。

# %% [markdown] tags=["en"]
# ## 16 Further reading
#
# - Ouyang et al. 2022, [InstructGPT](https://arxiv.org/abs/2203.02155): SFT is its Step 1.
# - Zhou et al. 2023, [LIMA](https://arxiv.org/abs/2305.11206): how far 1,000 hand-picked demonstrations go.
# - Hu et al. 2021, [LoRA](https://arxiv.org/abs/2106.09685).
# - Ding et al. 2024, [Fewer Truncations Improve Language Modeling](https://arxiv.org/abs/2404.10830): where best-fit packing comes from.
# - [Fixing Gradient Accumulation](https://huggingface.co/blog/gradient_accumulation): the mean of means, and how it was put right.
# - [The documentation of SFTTrainer](https://huggingface.co/docs/trl/sft_trainer): data formats and all options.
