# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] tags=["zh"]
# # 05 奖励模型
#
# **这一课回答的问题**：`RewardTrainer` 到底做了什么？我们用成对的偏好训练一个奖励模型（reward model），存到 `output/rm_2`，再用实验回答更难的问题：它学到的真的是“好坏”吗？多高的准确率才算够？
#
# **需要什么**
#
# | 配置（profile） | 硬件 | 时间 |
# |---|---|---|
# | `offline`（默认） | 2 个 CPU 核 | 不到 2 分钟，不联网 |
# | `imdb` | 2 个 CPU 核，或一块 GPU | CPU 上不到 10 分钟 |
# | `full` | 一块 GPU | 几分钟 |
#
# 三种配置运行的是同样的单元格，只有模型、数据和大小不同。先读过[第 00 课](00_overview.ipynb)就够了。

# %% [markdown] tags=["en"]
# # 05 Reward modelling
#
# **The question of this lesson**: what does `RewardTrainer` do? We train a reward model on pairs of preferences, save it to `output/rm_2`, and then ask the harder questions with experiments: is it quality that it has learnt, and how accurate is accurate enough?
#
# **What you need**
#
# | profile | hardware | time |
# |---|---|---|
# | `offline` (default) | 2 CPU cores | less than 2 minutes, no network |
# | `imdb` | 2 CPU cores, or one GPU | less than 10 minutes on the CPU |
# | `full` | one GPU | a few minutes |
#
# All three run the same cells; only models, data and sizes differ. [Lesson 00](00_overview.ipynb) is all the preparation needed.

# %% tags=["setup"]
import time

from rlhf import checks, evaluate, pictures, profiles, report  # before torch: idle threads then sleep

started = time.perf_counter()
setup = profiles.setup("05_reward_modelling")

# %%
import inspect
import math
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import transformers
from datasets import Dataset, disable_progress_bars
from IPython.display import display
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from rlhf import baselines, data, reward_model, rewards, sampling
from rlhf.errors import BadData
from rlhf.pairs import is_turned, split_prompt, to_text

plt.style.use(pictures.STYLE)
transformers.logging.set_verbosity_error()  # a new head is what we want; no warning needed
disable_progress_bars()  # of the data preparation; training keeps its own

# %% [markdown] tags=["zh"]
# ## 1 偏好：一对一对地比
#
# 请人给一条影评打分，今天打 7 分的，明天可能打 6 分；两个人的 7 分也不是一回事。但把两条放在一起问“哪条更好”，人就稳定得多。所以 RLHF 收集的是**偏好数据**（preference data）：同一个提示（prompt），两个回答，人选中的叫 `chosen`，另一个叫 `rejected`。
#
# 注意：`chosen` 只表示**比较好**，不表示好。两个都很差，也得选一个。
#
# 这一课的偏好对由课程自带的影评做成，褒贬的标签就是“标注者”：同样的开头，一条来自好评，一条来自差评，好评那条是 `chosen`。

# %% [markdown] tags=["en"]
# ## 1 Preferences: two at a time
#
# Ask somebody to rate a review, and today's 7 is tomorrow's 6; nor do two people mean the same by a 7. Put two reviews side by side and ask which is better, and people are far steadier. So RLHF collects **preference data**: one prompt, two answers; the one that was picked is called `chosen`, the other `rejected`.
#
# Mind that `chosen` only means **better**, not good. If both are poor, one of them is chosen all the same.
#
# The pairs of this lesson are made from the course's reviews, and their labels play the annotator: two texts with the same opening, one from a favourable review and one from an unfavourable one; the former is `chosen`.

# %%
made = reward_model.make_pairs(setup)
folder = data.save_pairs(setup.output / "pairs", made)  # in the layout of HH-RLHF
splits = data.load_pairs(folder, {"train": "train", "test": "test"})
test = splits["test"]
print(sorted(file.name for file in folder.iterdir()))
print({name: len(rows) for name, rows in splits.items()}, test.column_names)

# %%
turned = np.array([is_turned(*pair) for pair in zip(test["chosen"], test["rejected"], strict=True)])
for row in [*np.flatnonzero(~turned)[:4], *np.flatnonzero(turned)[:2]]:
    prompt, good, poor = split_prompt(test[int(row)]["chosen"], test[int(row)]["rejected"])
    print(f"{prompt!r}\n   chosen   {good!r}\n   rejected {poor!r}")

# %% [markdown] tags=["zh"]
# 最后两对是同一句话，只是“虽然”的前后两半对调了：词一个不差，只有次序不同，说话人的意思却反过来了。这样的对叫**对调的对**。
#
# 好的教学用偏好数据，不能让人靠旁门左道就猜对。检查两条最常见的旁门左道：看长短，看某一个词。

# %% [markdown] tags=["en"]
# The last two are one sentence whose halves around "although" were exchanged: not a word is different, only the order, and yet the speaker means the opposite. We call them **turned pairs**.
#
# Preference data that is good to learn from must not be solved by a trick. Check the two commonest ones: looking at the length, and looking at one telltale word.

# %%
tokenizer = reward_model.load_tokenizer(setup.policy)
lengths = {name: [len(ids) for ids in tokenizer(test[name][:])["input_ids"]] for name in test.column_names}
difference = np.subtract(lengths["chosen"], lengths["rejected"])
print(f"mean tokens: chosen {np.mean(lengths['chosen']):.1f}, rejected {np.mean(lengths['rejected']):.1f}")
print(
    f"chosen is longer in {(difference > 0).mean():.0%} of the pairs, shorter in {(difference < 0).mean():.0%}"
)

# %%
telling = Counter()
for chosen, rejected in zip(test["chosen"], test["rejected"], strict=True):
    a, b = (set(text.lower().replace(".", "").replace(",", "").split()) for text in (chosen, rejected))
    telling.update(a - b)
    telling.subtract(b - a)
for word, lead in sorted(telling.items(), key=lambda item: -abs(item[1]))[:5]:
    print(f"{word!r:10} alone is right in {0.5 + abs(lead) / 2 / len(test):.1%} of the pairs")

# %% [markdown] tags=["zh"]
# 长短说明不了什么，最会“告密”的单个词也只比抛硬币好一点点。
#
# ### 1.1 三种文件布局，一个读取函数
#
# 公开的偏好数据主要有三种样子，`data.load_pairs` 都认得，文件可以是 `parquet`、`jsonl` 或 `jsonl.gz`：
#
# | 布局 | 列 | 一列里是什么 |
# |---|---|---|
# | HH-RLHF（`Anthropic/hh-rlhf`，训练 160,800 对，测试 8,552 对） | `chosen`、`rejected` | 整段对话，提示在前，最后一个 `Assistant:` 之后是回答 |
# | TRL 的显式提示 | `prompt`、`chosen`、`rejected` | 提示和回答分开 |
# | Orca（`Intel/orca_dpo_pairs`） | `system`、`question`、`chosen`、`rejected` | 问题和回答分开 |
#
# 读出来统一成两列**整段文本**：奖励模型读的永远是“提示 + 回答”。

# %% [markdown] tags=["en"]
# Length tells nothing, and the most telling single word is hardly better than a coin.
#
# ### 1.1 Three layouts of files, one function
#
# Public preference data comes in three shapes. `data.load_pairs` knows them all, as `parquet`, `jsonl` or `jsonl.gz`:
#
# | layout | columns | what a column holds |
# |---|---|---|
# | HH-RLHF (`Anthropic/hh-rlhf`, 160,800 pairs to train on, 8,552 to test) | `chosen`, `rejected` | the whole dialogue, prompt first; the answer follows the last `Assistant:` |
# | TRL's explicit prompt | `prompt`, `chosen`, `rejected` | prompt and answers apart |
# | Orca (`Intel/orca_dpo_pairs`) | `system`, `question`, `chosen`, `rejected` | question and answers apart |
#
# What comes out has two columns of **whole texts**: a reward model always reads prompt and answer together.

# %%
layouts = setup.output / "layouts"
talk = "\n\nHuman: Is the film good?\n\nAssistant:"
hh = [{"chosen": f"{talk} Yes, and short.", "rejected": f"{talk} No idea, number {i}."} for i in range(5)]
data.save_pairs(layouts / "hh", {"train": Dataset.from_list(hh)})
first = data.load_pairs(layouts / "hh")[0]
print(first)
print(split_prompt(first["chosen"], first["rejected"]))

# %%
orca = {
    "system": "Be brief.",
    "question": "Is the film good?",
    "chosen": "Yes.",
    "rejected": "Films are many things.",
}
Dataset.from_list([orca]).to_parquet(layouts / "orca.parquet")
print(data.load_pairs(layouts / "orca.parquet")[0])
print(inspect.getsource(to_text))

# %% [markdown] tags=["zh"]
# Orca 的 `chosen` 都出自 GPT-4 或 GPT-3.5，`rejected` 都出自 Llama-2-13b-chat。这里藏着一条捷径：模型不必判断好坏，认出**是谁写的**就行。这样训练出来的奖励模型，准确率可以很高，可是一遇到别的作者就不灵了。
#
# 切片的写法和 `datasets` 一样。写错了会怎样，也看一看：

# %% [markdown] tags=["en"]
# In Orca, every `chosen` was written by GPT-4 or GPT-3.5 and every `rejected` by Llama-2-13b-chat. That is a shortcut: there is no need to judge quality when it is enough to recognise **who wrote it**. Such a reward model can be very accurate and still be lost as soon as somebody else writes.
#
# Slices are written as in `datasets`. And this is what happens when something is wrong:

# %%
cut = data.load_pairs(layouts / "hh", {"train": "train[:3]", "held_out": "train[60%:]"})
print({name: len(rows) for name, rows in cut.items()})

wrong = {"columns": {"prompt": "a", "completion": "b"}, "empty": {"chosen": "a", "rejected": " "}}
wrong["equal"] = {"chosen": "the same", "rejected": "the same"}
for name, row in wrong.items():
    Dataset.from_list([row]).to_json(layouts / f"{name}.jsonl")
    try:
        data.load_pairs(layouts / f"{name}.jsonl")
    except BadData as error:
        print(f"\n{error}")

# %% [markdown] tags=["zh"]
# 一模一样的一对说不出偏好，可是它会混进训练：差永远是 0，损失永远是 $\ln 2$，什么也学不到。大的公开数据里真的有这样的行，`drop_bad=True` 会跳过它们并报告条数。

# %% [markdown] tags=["en"]
# A pair of equal texts prefers nothing, and yet it would take part in training: a difference of 0, a loss of $\ln 2$, for ever, and nothing learnt. Large public data sets can hold such rows; `drop_bad=True` leaves them out and says how many.

# %% [markdown] tags=["zh"]
# ## 2 从文本到一个批次
#
# ### 2.1 词元
#
# `RewardTrainer` 给每条文本末尾加上结束符（EOS），再切成词元（token）。课程库里的 `to_tokens` 做同样的事，训练和打分都用它：

# %% [markdown] tags=["en"]
# ## 2 From texts to a batch
#
# ### 2.1 Tokens
#
# `RewardTrainer` puts the end-of-sequence token (EOS) behind every text and cuts it into tokens. `to_tokens` in the course's package does the same, and training and scoring both use it:

# %%
print(inspect.getsource(rewards.to_tokens).split('"""')[2])
few = test.select(range(8))
ours = reward_model.tokenise(few, tokenizer, max_length=512)
print(ours.column_names, [tokenizer.decode(token) for token in ours[0]["chosen_ids"]][-5:])

# %%
looking = reward_model.new_trainer(setup, {"train": splits["train"].select(range(256))}, tokenizer)
theirs = RewardTrainer(looking.model, looking.args, train_dataset=few, processing_class=tokenizer)
for name in ("chosen_ids", "rejected_ids"):
    assert list(theirs.train_dataset[name]) == list(ours[name])
print("TRL makes the same tokens; its columns:", theirs.train_dataset.column_names)

# %% [markdown] tags=["zh"]
# 有一处故意不同：超过 `max_length` 的对，TRL 整对**丢掉**，课程库则从**开头**截断，因为要评判的是文本的结尾。
#
# ### 2.2 批次
#
# 一批 B 对，训练器把它们叠成 2B 条文本：前一半全是 `chosen`，后一半全是 `rejected`，右边填充（padding）到一样长，一次前向就全部算完。长短相近的对排进同一批（`train_sampling_strategy="group_by_length"`，用到 `length` 那一列），填充就少，算得也快。

# %% [markdown] tags=["en"]
# One difference is on purpose: TRL **leaves out** a pair that exceeds `max_length`; the package cuts its **beginning** off, because the end of a text is what is judged.
#
# ### 2.2 The batch
#
# Of B pairs the trainer makes a stack of 2B texts: first all that were `chosen`, then all that were `rejected`, padded on the right to one length, and one forward pass does them all. Pairs of like length share a batch (`train_sampling_strategy="group_by_length"`, which uses the column `length`): there is less padding, and it runs faster.

# %%
batch = next(iter(looking.get_train_dataloader()))
print({name: tuple(value.shape) for name, value in batch.items()}, "= (2B, T)")
print(f"{1 - batch['attention_mask'].float().mean():.0%} of it is padding")
half = len(batch["input_ids"]) // 2
for row in (0, half):
    print(repr(tokenizer.decode(batch["input_ids"][row], skip_special_tokens=True)[:90]))

# %% [markdown] tags=["zh"]
# ## 3 从词元到一个分数：每一步的形状
#
# 奖励模型就是策略（policy）的身体，换了一个头：原来的头给出整个词表的 logits，新的头是 `Linear(H, 1)`，只给一个数。
#
# ![奖励模型的一次前向：形状从 [B, T] 到 [B, 1]](../figs/05_walk.svg)
#
# 为什么从策略出发，而不是从零开始？它已经会读影评了，要学的只剩“喜欢哪一条”。这里用的是配置里的策略，而不是第 04 课的 `output/sft_1`：这样不管先上哪一课，得到的奖励模型都一样。
#
# 取一对长短不一的文本，一步一步走：

# %% [markdown] tags=["en"]
# ## 3 From tokens to one score: the shape of every step
#
# A reward model is the body of the policy with another head. The old head gave the logits of the whole vocabulary; the new one is a `Linear(H, 1)` and gives one number.
#
# ![One forward pass of a reward model: shapes from [B, T] to [B, 1]](../figs/05_walk.svg)
#
# Why begin with the policy rather than from scratch? It can read reviews already; what is left to learn is which one is preferred. It is the policy of the profile, not `output/sft_1` of lesson 04: the reward model then comes out the same whichever lesson you took first.
#
# Take a pair of different lengths and go step by step:

# %%
model = looking.model.eval()
pair = test[int(np.abs(difference).argmax())]
ids = rewards.to_tokens(tokenizer, [pair["chosen"], pair["rejected"]], max_length=512)
inputs = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(setup.device)
input_ids, mask = inputs["input_ids"], inputs["attention_mask"]  # (B, T) each
print("tokens", tuple(input_ids.shape), "of which real:", mask.sum(1).tolist())
print(input_ids[:, -6:].tolist(), "← the last six columns; padding is", tokenizer.pad_token_id)

# %%
with torch.no_grad():
    hidden = model.base_model(**inputs).last_hidden_state  # (B, T) -> (B, T, H)
print("hidden", tuple(hidden.shape), "first numbers of the first token:", hidden[0, 0, :4].tolist())
weight = model.score.weight  # (1, H)
print("head", tuple(weight.shape), "bias:", model.score.bias)

# %%
by_hand = (hidden * weight[0]).sum(-1, keepdim=True)  # (B, T, H) · (H,) -> (B, T, 1)
with torch.no_grad():
    token_scores = model.score(hidden)  # (B, T, 1)
torch.testing.assert_close(by_hand, token_scores, rtol=1e-4, atol=1e-5)
print("a number at every token", tuple(token_scores.shape), token_scores[0, :5, 0].tolist())

# %%
real = input_ids != tokenizer.pad_token_id  # (B, T)
columns = torch.arange(input_ids.shape[1], device=input_ids.device)  # (T,)
last = (real * columns).argmax(1)  # (B,): the rightmost column that is not padding
scores = token_scores[torch.arange(len(last)), last]  # (B, T, 1) -> (B, 1)
print("last column read:", last.tolist(), "→ scores", tuple(scores.shape), scores[:, 0].tolist())

with torch.no_grad():
    torch.testing.assert_close(model(**inputs).logits, scores)  # transformers does just this

# %% [markdown] tags=["zh"]
# ### 3.1 最后一个词元是哪一个？
#
# 上面找“不是填充”的位置时，比的是词元编号，不是 `attention_mask`；`transformers` 里也是这样写的。GPT-2 没有填充词元，只好拿 EOS 来填充。于是训练器加在末尾的那个 EOS 也被当成了填充，真正读分数的位置是**它前面那个词元**：

# %% [markdown] tags=["en"]
# ### 3.1 Which token is the last?
#
# What is "not padding" was decided by token number above, not by `attention_mask`, and that is how `transformers` does it. GPT-2 has no padding token, so EOS has to serve. The EOS that the trainer put at the end then counts as padding too, and the score is read at **the token before it**:

# %%
by_mask = mask.sum(1) - 1  # (B,)
for row in range(len(last)):
    read, end = (tokenizer.decode(input_ids[row, place]) for place in (last[row], by_mask[row]))
    print(f"row {row}: the mask ends at column {by_mask[row]} {end!r}; read is column {last[row]} {read!r}")
if tokenizer.pad_token_id == tokenizer.eos_token_id:
    assert (last == by_mask - 1).all()

# %% [markdown] tags=["zh"]
# 这里无伤大雅：打分的文本带不带 EOS，分数都一样。可是换一个填充词元和 EOS **不同**的模型（例如 OPT），读分数的位置就是 EOS 本身；那时打分忘了加 EOS，读到的就是训练时从没有读过的位置。所以 `PairwiseReward` 总是照训练时的样子加上它。
#
# ### 3.2 为什么由最后一个词元代表全文？
#
# 注意力（attention）是因果的：每个位置只看得到自己和前面。改动一个词，只有它和它后面的位置会变。下面先改第一个词元，再改最后一个真正的词元，看每个位置上的数变了多少：

# %% [markdown] tags=["en"]
# Here it does no harm: with or without EOS, a text gets the same score. But take a model whose padding token is **not** its EOS (OPT, for one), and the score is read at EOS itself; forget to add it when scoring, and what is read is a position that training never read. So `PairwiseReward` always adds it, as training did.
#
# ### 3.2 Why does the last token speak for the whole text?
#
# Attention is causal: a position sees itself and what comes before. Change a word, and only it and the positions after it can change. Below, first the first token is exchanged, then the last real one; see by how much the number at each position changes:


# %%
def scores_at_tokens(input_ids):
    """(B, T) -> (B, T)"""
    with torch.no_grad():
        return model.score(model.base_model(input_ids).last_hidden_state)[..., 0]


length = int(last[0]) + 1
for name, place in (("the first token changed", 0), ("the last token changed", length - 1)):
    changed = input_ids[:1, :length].clone()  # (1, T)
    changed[0, place] = (changed[0, place] + 1) % model.config.vocab_size  # some other token
    moved = (scores_at_tokens(changed) - scores_at_tokens(input_ids[:1, :length])).abs()[0]  # (T,)
    print(f"{name}: {int((moved > 1e-6).sum())} of {length} positions moved, the last by {moved[-1]:.4f}")
    assert moved[:place].max() < 1e-6 if place else moved[-1] > 1e-6

# %% [markdown] tags=["zh"]
# 只有最后一个位置读过整个提示和整个回答，别的位置都缺一截。训练也只从这个位置传回梯度。
#
# ### 3.3 为什么不能对所有位置取平均？
#
# 填充的位置上也有数字，只是没有意义。取平均就把它们算了进去，于是同一条文本的分数会随着**同一批里最长的邻居**而变：

# %% [markdown] tags=["en"]
# Only the last position has read the whole prompt and the whole answer; every other one lacks a piece. And it is only from there that gradients flow back in training.
#
# ### 3.3 Why not average over all positions?
#
# Padding carries numbers too; they just mean nothing. An average takes them in, and the score of a text then depends on **the longest neighbour in its batch**:

# %%
rows = []
for extra in (0, 8, 32):
    padded = F.pad(input_ids, (0, extra), value=tokenizer.pad_token_id)  # (B, T + extra)
    with torch.no_grad():
        read = model(padded, attention_mask=F.pad(mask, (0, extra))).logits[0, 0]
    rows.append(
        {
            "padding added": extra,
            "last real token": read.item(),
            "mean over all": scores_at_tokens(padded)[0].mean().item(),
        }
    )
table = pd.DataFrame(rows).set_index("padding added")
assert np.ptp(table["last real token"]) < 1e-5 < np.ptp(table["mean over all"])
table.round(5)

# %% [markdown] tags=["zh"]
# ### 3.4 左填充还是右填充？
#
# 生成文本时要左填充（第 07 课），训练奖励模型用右填充。对打分来说，两边都行，只要两件事做对：找的是最右边的真词元，位置编号从**第一个真词元**数起。GPT-2 的位置是绝对的，而 `transformers` 里的 GPT-2 分类模型不会替你数：

# %% [markdown] tags=["en"]
# ### 3.4 Left or right padding?
#
# Generation needs padding on the left (lesson 07); reward models are trained with padding on the right. For scoring, either works if two things are right: the token read is the rightmost real one, and positions count from **the first real token**. GPT-2's positions are absolute, and the GPT-2 classifier of `transformers` does not count them for you:

# %%
left, left_mask = sampling.left_pad(
    [torch.tensor(row, device=setup.device) for row in ids], tokenizer.pad_token_id
)
positions = (left_mask.cumsum(1) - 1).clamp(min=0)  # (B, T): 0 at the first real token
with torch.no_grad():
    careless = model(left, attention_mask=left_mask).logits[:, 0]
    counted = model(left, attention_mask=left_mask, position_ids=positions).logits[:, 0]
print("tokens:", left_mask.sum(1).tolist(), "of", left.shape[1])
for name, value in (("right", scores[:, 0]), ("left", careless), ("left, positions counted", counted)):
    print(f"{name:24}", [round(x, 5) for x in value.tolist()])
torch.testing.assert_close(counted, scores[:, 0], rtol=1e-4, atol=1e-5)

# %% [markdown] tags=["zh"]
# ## 4 损失：只有差才算数
#
# Bradley–Terry 模型说：人更喜欢 `chosen` 的概率，由两个分数的**差**决定。记 `chosen` 的分数为 $r_c$，`rejected` 的分数为 $r_r$，$\sigma$ 是 sigmoid：
#
# $$P(c \succ r) = \sigma(r_c - r_r), \qquad L = -\log\sigma(r_c - r_r)$$
#
# ![从一对文本到损失：同一个模型读两遍，相减，再取负对数](../figs/05_loss.svg)
#
# 先用三对小数字算：

# %% [markdown] tags=["en"]
# ## 4 The loss: only the difference counts
#
# The Bradley–Terry model says that the probability of preferring `chosen` depends on the **difference** of the two scores. Call the score of `chosen` $r_c$ and that of `rejected` $r_r$; $\sigma$ is the sigmoid:
#
# $$P(c \succ r) = \sigma(r_c - r_r), \qquad L = -\log\sigma(r_c - r_r)$$
#
# ![From a pair of texts to the loss: one model reads both, subtract, take the negative logarithm](../figs/05_loss.svg)
#
# First with three small pairs:

# %%
chosen, rejected = torch.tensor([2.0, 0.3, -1.0]), torch.tensor([-1.0, 0.3, 0.5])  # (B,) each
probability = 1 / (1 + torch.exp(-(chosen - rejected)))  # (B,)
loss = -probability.log()
for row in zip(chosen - rejected, probability, loss, strict=True):
    print("difference {:+.1f} → probability {:.3f} → loss {:.3f}".format(*row))
torch.testing.assert_close(loss, -F.logsigmoid(chosen - rejected))
print("ln 2 =", round(math.log(2), 4))

# %% [markdown] tags=["zh"]
# 排对了，损失接近 0；不知道，损失是 $\ln 2$；排反了，损失随差距直线上升。梯度的大小是 $1-\sigma(d)$，也就是“错了多少”：已经排对、差距又大的对几乎不再推动模型。

# %% [markdown] tags=["en"]
# In the right order, the loss is near 0; undecided, it is $\ln 2$; in the wrong order, it grows in a straight line. The gradient has the size $1-\sigma(d)$, which is how wrong the model was: a pair that is in order by a wide margin hardly pushes any more.

# %%
d = torch.linspace(-5, 5, 201, requires_grad=True)
(slope,) = torch.autograd.grad(-F.logsigmoid(d).sum(), d)
torch.testing.assert_close(slope, d.sigmoid() - 1)
figure, axes = plt.subplots(figsize=(4.8, 2.6), layout="constrained")
axes.plot(d.detach(), -F.logsigmoid(d).detach(), label="loss, −log σ(d)")
axes.plot(d.detach(), -slope, "--", label="pull of the gradient, 1 − σ(d)")
axes.plot(0, math.log(2), "o", color="C0")
axes.annotate("ln 2: no idea", (0, math.log(2)), (0.6, 1.5), arrowprops={"arrowstyle": "-"})
axes.set(xlabel="difference d: chosen − rejected")
axes.legend()
plt.show()

# %% [markdown] tags=["zh"]
# ### 4.1 和训练器对一对
#
# 训练器里的损失就是这几行：

# %% [markdown] tags=["en"]
# ### 4.1 The same as the trainer's
#
# The loss in the trainer is these lines:

# %%
source = inspect.getsource(RewardTrainer.compute_loss)
print(source[source.index("        # Split the rewards") : source.index('        if mode == "train"')])

# %%
with torch.no_grad():
    chosen, rejected = model(**batch).logits[:, 0].chunk(2)  # (2B, 1) -> (B,), (B,)
    theirs = looking.compute_loss(model, dict(batch))
coefficient = looking.args.center_rewards_coefficient
ours = -F.logsigmoid(chosen - rejected).mean() + coefficient * ((chosen + rejected) ** 2).mean()
torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
print(f"by hand {ours:.6f}, trainer {theirs:.6f}; {len(chosen)} pairs, centring coefficient {coefficient}")

# %% [markdown] tags=["zh"]
# ### 4.2 居中（centring）
#
# 给所有分数加上同一个数，差不变，损失也不变：零点在哪里，偏好数据说不出来。于是零点会随初始化和训练漂到任意地方。训练器可以加一小项 $c\,(r_c+r_r)^2$，把它拉回 0 附近（Eisenstein 等人 2023，式 2；TRL 推荐 $c=0.01$）。下面给所有分数加上 $s$，看损失对 $s$ 的梯度：

# %% [markdown] tags=["en"]
# ### 4.2 Centring
#
# Add one number to all scores: the differences stay, and so does the loss. Preference data cannot say where the zero is, so it drifts to wherever initialisation and training take it. The trainer can add a small term $c\,(r_c+r_r)^2$ that pulls it back to about 0 (Eisenstein et al. 2023, equation 2; TRL recommends $c=0.01$). Below, $s$ is added to all scores; look at the gradient of the loss with respect to $s$:

# %%
chosen, rejected = torch.tensor([7.0, 5.3, 4.0]), torch.tensor([4.0, 5.3, 5.5])  # the toy pairs, 5 higher
for c in (0.0, 0.01):
    s = torch.zeros((), requires_grad=True)
    a, b = chosen + s, rejected + s
    loss = -F.logsigmoid(a - b).mean() + c * ((a + b) ** 2).mean()
    (gradient,) = torch.autograd.grad(loss, s)
    print(f"c = {c}: loss {loss:.4f}, gradient of the shift {gradient:+.4f}")
    assert (gradient.abs() < 1e-6) == (c == 0)

# %% [markdown] tags=["zh"]
# 次序与零点无关，准确率不受影响。可是 PPO 用的是分数本身：大家都高出 5 分，价值头（value head）就得先花时间学会这 5 分。所以居中是为下一步做的准备。
#
# ## 5 训练
#
# 所有大小都来自配置文件。TRL 的默认值是为大模型准备的，在 CPU 上的小模型改了哪些，比一比就知道：

# %% [markdown] tags=["en"]
# The order has nothing to do with the zero, and accuracy stays as it is. But PPO uses the scores themselves: if all are 5 too high, the value head first has to learn those 5. Centring prepares for the next step.
#
# ## 5 Training
#
# All sizes come from the profile. TRL's defaults are meant for large models; compare what is changed for small ones on a CPU:

# %%
trainer = reward_model.new_trainer(setup, splits, tokenizer)
names = ["learning_rate", "num_train_epochs", "per_device_train_batch_size", "lr_scheduler_type"]
names += ["max_length", "center_rewards_coefficient", "disable_dropout"]
defaults = [RewardConfig.__dataclass_fields__[name].default for name in names]
here = [getattr(trainer.args, name) for name in names]
pd.DataFrame({"default": map(str, defaults), "here": map(str, here)}, names)

# %% [markdown] tags=["zh"]
# 此外，TRL 默认还打开 `bf16` 和激活重算，都是为了省显存；小模型在 CPU 上用不着，库里关掉了。训练前先把还没训练的模型也存一份，最后的对比表要用。运行之前先猜一猜：损失从哪里开始？准确率呢？

# %% [markdown] tags=["en"]
# TRL also turns on `bf16` and the recomputation of activations, which save GPU memory; small models on a CPU need neither, and the package turns them off. The untrained model is saved as well; the closing table needs it. Guess before you run it: where does the loss begin? And the accuracy?

# %%
untrained = rewards.PairwiseReward(
    reward_model.save(setup, trainer, splits, setup.output / "untrained"), setup.device
)
result = trainer.train()
print(f"{result.global_step} steps in {result.metrics['train_runtime']:.0f} s")

# %%
log = pd.DataFrame([row for row in trainer.state.log_history if "loss" in row]).set_index("step")
lines = {"loss": math.log(2), "accuracy": 0.5, "mean_reward": 0.0}
report.curves(log, ["loss", "accuracy", "margin", "mean_reward"], columns=2, lines=lines)

# %% [markdown] tags=["zh"]
# 每个指标一句话：
#
# | 指标 | 意思 |
# |---|---|
# | `loss` | 第 4 节的损失，含居中项；虚线是 $\ln 2$ |
# | `accuracy` | 这一批里 `chosen` 得分更高的比例；虚线是抛硬币 |
# | `margin` | 差 $r_c - r_r$ 的均值；可以一直变大，大并不等于对 |
# | `mean_reward`，`min_reward`，`max_reward` | 分数的均值、最小值、最大值；居中项让均值留在 0 附近 |
# | `grad_norm`，`learning_rate` | 梯度的范数；学习率，先升后降 |
# | `num_tokens` | 到此为止读过的词元数 |
#
# 曲线说的都是**训练用的**对。有没有学到东西，要看没见过的。
#
# ## 6 它学到了吗？
#
# 存到 `output/rm_2`。文件夹是普通的 `transformers` 模型，不装这门课的库也能用：

# %% [markdown] tags=["en"]
# Every metric in one line:
#
# | metric | meaning |
# |---|---|
# | `loss` | the loss of section 4 with the centring term; the dashed line is $\ln 2$ |
# | `accuracy` | the share of the batch in which `chosen` scores higher; the dashed line is a coin |
# | `margin` | mean of the difference $r_c - r_r$; it can grow for ever, and large does not mean right |
# | `mean_reward`, `min_reward`, `max_reward` | mean, smallest and largest score; centring keeps the mean near 0 |
# | `grad_norm`, `learning_rate` | norm of the gradient; the learning rate, first up, then down |
# | `num_tokens` | tokens read so far |
#
# All of these curves are about the pairs **trained on**. Whether anything was learnt shows on pairs that were not.
#
# ## 6 Has it learnt?
#
# Save it to `output/rm_2`. The folder is an ordinary `transformers` model, of use without this course's package:

# %%
folder = reward_model.save(setup, trainer, splits)
print(folder.name, sorted(path.name for path in folder.iterdir()))
anywhere = AutoModelForSequenceClassification.from_pretrained(folder)
print(type(anywhere).__name__, "num_labels =", anywhere.config.num_labels)

reward = rewards.PairwiseReward(folder, setup.device)
text = test[0]["chosen"]
with torch.no_grad():
    logit = anywhere(**tokenizer(text + tokenizer.eos_token, return_tensors="pt")).logits  # (1, 1)
torch.testing.assert_close(reward([text]), logit[0].cpu(), rtol=1e-4, atol=1e-4)
print(f"{reward([text]).item():+.3f} {text!r}")

# %% [markdown] tags=["zh"]
# `PairwiseReward` 的用法和第 07 课的 `SentimentReward` 一样：文本进，分数 `(B,)` 出。下面的对手也都是这个样子，所以同一个函数就能量出所有的准确率：
#
# - **抛硬币**、**挑长的**：什么都不懂的两个。
# - **数词表里的词**：好词数减去坏词数，词表是通用的，没有看过数据。
# - **数学过的词**：每个词一个权重，在**同样的训练对**上用同样的损失拟合，只是不知道词序。
#
# 区间是对留出的对做的 95% 自助法（bootstrap）。

# %% [markdown] tags=["en"]
# `PairwiseReward` is called as `SentimentReward` is in lesson 07: texts in, scores `(B,)` out. So are its opponents below, and one function measures them all:
#
# - **A coin** and **the longer one**: two that understand nothing.
# - **Listed words**: praising words minus blaming words, from everyday lists that never saw the data.
# - **Counted words**: one weight per word, fitted with the same loss to **the same training pairs**; it only lacks the order of words.
#
# The intervals are 95% bootstrap intervals over the held-out pairs.

# %%
print(inspect.getsource(baselines.wins))
scorers = {"reward model": reward, "before training": untrained, "coin": baselines.coin}
scorers |= {"longer": baselines.length, "listed words": baselines.listed_words}
scorers["counted words"] = baselines.CountedWords.fit(splits["train"])
scored = {
    name: [scorer(test[side][:]) for side in ("chosen", "rejected")] for name, scorer in scorers.items()
}

# %%
right = {name: baselines.wins(*both) for name, both in scored.items()}  # (N,) each
found = {name: report.bootstrap_gain(np.zeros(len(test)), r) for name, r in right.items()}
accuracies = pd.DataFrame(found, ["accuracy", "low", "high"]).T
accuracies.round(3)

# %%
figure, axes = plt.subplots(figsize=(6, 2.4), layout="constrained")
order = accuracies.iloc[::-1]
reach = [order["accuracy"] - order["low"], order["high"] - order["accuracy"]]
axes.errorbar(order["accuracy"], range(len(order)), xerr=reach, fmt="o", capsize=3)
axes.axvline(0.5, color="C1", ls="--")
axes.set_yticks(range(len(order)), order.index)
axes.set(xlabel=f"held-out accuracy, {len(test)} pairs, 95% intervals")
plt.show()

# %%
best = accuracies.drop("reward model")["high"]
low = accuracies.loc["reward model", "low"]
assert low > best[["before training", "coin", "longer", "listed words"]].max(), "hardly better than a trick"
if setup.profile == "offline":
    assert accuracies.loc["reward model", "accuracy"] >= 0.85 and low > best.max()
beaten = ", ".join(name for name in best.index if low > best[name])
print(f"The whole interval of the reward model lies above those of: {beaten}.")

# %% [markdown] tags=["zh"]
# 数词的对手输在哪里？按种类分开看。再请一位更强的来：除了单个的词，还数**相邻的两个词**，“although the”这样的邻居会告诉它一点次序。

# %% [markdown] tags=["en"]
# Where does the one that counts words lose? Split by kind of pair. And invite a stronger one, which counts **pairs of neighbouring words** too; neighbours such as "although the" give it a little of the order.

# %%
neighbours = baselines.CountedWords.fit(splits["train"], longest=2)
right["words and neighbours"] = baselines.wins(*(neighbours(test[side][:]) for side in test.column_names))
kinds = {"all": turned | True, "turned": turned, "others": ~turned}
print({kind: int(which.sum()) for kind, which in kinds.items()}, "pairs")
names = ["reward model", "counted words", "words and neighbours"]
shares = {kind: {name: right[name][which].mean() for name in names} for kind, which in kinds.items()}
pd.DataFrame(shares).round(3)

# %%
gap = report.bootstrap_gain(right["words and neighbours"], right["reward model"])
verdict = "the interval leaves 0 out" if gap[1] > 0 or gap[2] < 0 else "the interval holds 0: no verdict"
print("reward model − words and neighbours: {:+.3f} [{:+.3f}, {:+.3f}]; ".format(*gap) + verdict)

# %% [markdown] tags=["zh"]
# 在对调的对上，数单个词的方法**只能**得一半：两边的词一模一样。这正是需要一个会读次序的模型的理由。在别的对上，这批影评的褒贬大多写在个别词里，数词就能走很远。所以“准确率高”本身说不清模型是怎么做到的，要有这样成对设计的题目才分得出来。
#
# ### 6.1 一个词一个词地看
#
# 每个位置都有一个数。训练只用最后一个，但把中间的也画出来，可以看到意见是怎样形成的（蓝色为正，橙色为负）：

# %% [markdown] tags=["en"]
# On turned pairs, counting single words **cannot** get more than half: both sides hold the same words. That is the reason for a model that reads order. On the others, the opinion of these reviews mostly sits in single words, and counting goes a long way. So a high accuracy by itself does not say how it was reached; it takes pairs designed like these to tell.
#
# ### 6.1 Token by token
#
# There is a number at every position. Training only uses the last one, but with those before it you can watch an opinion form (blue is positive, orange is negative):

# %%
model = reward.model
example = test[int(np.flatnonzero(turned)[0])]
for name in ("chosen", "rejected"):
    row = torch.tensor([tokenizer(example[name])["input_ids"]], device=setup.device)  # (1, T)
    words = [tokenizer.decode(token) for token in row[0]]
    display(report.token_heat(words, scores_at_tokens(row)[0], name, show_values=True, precision=1))

# %% [markdown] tags=["zh"]
# ### 6.2 它知道自己有多大把握吗？
#
# $\sigma(|d|)$ 是模型对自己这个判断的把握。校准（calibration）的意思是：它说有 90% 把握的那些对里，真的有 90% 判断对了。

# %% [markdown] tags=["en"]
# ### 6.2 Does it know how sure it may be?
#
# $\sigma(|d|)$ is how sure the model is of its own decision. Calibration means: of the pairs on which it is 90% sure, it is right in 90%.

# %%
c, r = scored["reward model"]  # (N,) each
margin = (c - r).numpy()  # (N,)
sure = 1 / (1 + np.exp(-np.abs(margin)))  # (N,), from 0.5 to 1
bins = np.array_split(np.argsort(sure), 8)  # eight bins of equally many pairs
claimed = np.array([sure[rows].mean() for rows in bins])
correct = np.array([report.bootstrap_gain(np.zeros(len(rows)), (margin[rows] > 0) * 1.0) for rows in bins])
error = sum(len(rows) * abs(c - r) for rows, c, r in zip(bins, claimed, correct[:, 0], strict=True)) / len(
    sure
)
print(f"expected calibration error {error:.3f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
axes[0].hist(
    [margin[~turned], margin[turned]], bins=30, stacked=True, label=["others", "turned"], color=["C0", "C1"]
)
axes[0].axvline(0, color="0.5", ls="--")
axes[0].set(title=f"{(margin > 0).mean():.0%} of the pairs in order", ylabel="pairs")
axes[0].set(xlabel="margin: chosen − rejected")
axes[0].legend()
reach = np.abs(correct[:, 1:] - correct[:, :1]).T
axes[1].errorbar(claimed, correct[:, 0], yerr=reach, fmt="o", capsize=3)
axes[1].axline((0.5, 0.5), slope=1, color="C1", ls="--")
axes[1].set(title="calibration", xlabel="how sure it is, σ(|d|)", ylabel="share that is right")
plt.show()

# %%
temperatures = np.linspace(0.5, 4, 71)
losses = [np.logaddexp(0, -margin / t).mean() for t in temperatures]  # −log σ(d / t)
best_t = temperatures[int(np.argmin(losses))]
kind = "too sure of itself" if best_t > 1.05 else "not sure enough" if best_t < 0.95 else "about right"
print(
    f"held-out loss {np.logaddexp(0, -margin).mean():.3f}; with all margins divided by {best_t:.2f}: {min(losses):.3f}"
)
print(f"so the model is {kind}")

# %% [markdown] tags=["zh"]
# 除以温度不改变任何一对的次序，只改变把握。PPO 里分数的尺度和 KL 系数是一对：分数整体大一倍，就等于 KL 系数小一半。
#
# ### 6.3 “chosen” 只是比较好
#
# 偏好只在**同一对**之内有意义。拿一对里的 `chosen` 去和别的对里的 `rejected` 比呢？

# %% [markdown] tags=["en"]
# Dividing by a temperature changes no order, only how sure the model is. In PPO the scale of the scores and the KL coefficient go together: scores twice as large are a KL coefficient half as large.
#
# ### 6.3 "Chosen" is only the better one
#
# A preference means something **within its pair** only. What if the `chosen` of one pair meets the `rejected` of another?

# %%
elsewhere = (c[:, None] < r[None, :]).float().mean()  # (N, N)
print(
    f"chosen below its own rejected: {(c < r).float().mean():.1%}; below a rejected of any pair: {elsewhere:.1%}"
)
print(f"chosen texts with a negative score: {(c < 0).float().mean():.1%}")
print(
    f"lowest chosen that is still in order: {c[c > r].min():+.2f} {test[int(torch.where(c > r, c, 99).argmin())]['chosen']!r}"
)

# %% [markdown] tags=["zh"]
# ## 7 一个学会了“长”的奖励模型
#
# 真实的标注里，好回答往往也更长。这时“好”和“长”都能解释标签，模型会挑容易的那个学。我们故意做一份这样的数据：`chosen` 保持原样，`rejected` 只留开头几个词元。褒贬还在，但长短也跟着它走。

# %% [markdown] tags=["en"]
# ## 7 A reward model that learnt length
#
# In real annotations, good answers tend to be longer as well. Then both "good" and "long" explain the labels, and a model learns the easier one. Let us make such data on purpose: `chosen` stays as it is, and of `rejected` only the first few tokens are kept. The opinion is still there, but length goes with it.

# %%
sizes = setup.sizes["biased"]


def shorten(rows, column):
    """The same pairs, with the texts of one column cut to a few tokens."""
    random = np.random.default_rng(setup.seed)
    keep = random.integers(*sizes["short"], size=len(rows))
    short = [ids[:n] for ids, n in zip(tokenizer(rows[column][:])["input_ids"], keep, strict=True)]
    texts = {name: rows[name][:] for name in rows.column_names}
    return Dataset.from_dict(texts | {column: tokenizer.batch_decode(short)})


# %%
long_enough = [n >= 2 * sizes["short"][1] for n in map(min, zip(*lengths.values(), strict=True))]
equal = test.select(np.flatnonzero(np.array(long_enough) & ~turned))  # both whole, and long
versions = {"chosen longer, as in training": shorten(equal, "rejected"), "equally long": equal}
versions["chosen shorter"] = shorten(equal, "chosen")
for name, rows in versions.items():
    print(f"{name:30} {baselines.accuracy(baselines.length, rows)[0]:.0%} by length alone")

# %%
biased_rows = {"train": shorten(splits["train"].select(range(sizes["pairs"])), "rejected")}
biased_trainer = reward_model.new_trainer(setup, biased_rows, tokenizer, **sizes["reward"])
biased_trainer.train()
biased = rewards.PairwiseReward(
    reward_model.save(setup, biased_trainer, biased_rows, setup.output / "biased"), setup.device
)
print(f"{len(biased_rows['train'])} pairs, {biased_trainer.state.global_step} steps")

# %%
judged = {"biased": biased, "reward model": reward}
pd.DataFrame(
    {
        name: {
            kind: "{:.3f} [{:.3f}, {:.3f}]".format(*baselines.accuracy(scorer, rows))
            for kind, rows in versions.items()
        }
        for name, scorer in judged.items()
    }
)

# %% [markdown] tags=["zh"]
# 第一行是通常的做法：留出的对和训练的对来自同一处。光看这一行，有偏的模型好得不得了。后两行只改了长短，内容的褒贬一点没变，它就露了馅。
#
# ### 7.1 对照试验：内容不变，只变长
#
# 上面的办法需要重做数据。还有一个更直接的试验，任何奖励模型都能做：取留出文本的开头，和训练时剪短的那一边一样短，再在后面加上**不褒不贬**的句子。一个公正的评委不该为此加分。

# %% [markdown] tags=["en"]
# The first row is the usual procedure: held-out pairs from the same source as the training pairs. By that row alone the biased model is excellent. The other two change nothing but the length, not a word of praise or blame, and it is found out.
#
# ### 7.1 A controlled test: same content, more of it
#
# That took new data. There is a more direct test, which works on any reward model: take the openings of held-out texts, as short as the cut side was in training, and add sentences that **neither praise nor blame**. A fair judge should give nothing for them.

# %%
NEUTRAL = [" It runs for two hours.", " The film was shown on a Tuesday.", " It was shot in two countries."]
some = test.select(range(min(300, len(test))))
texts = some["chosen"][:] + some["rejected"][:]  # as many favourable ones as unfavourable ones
texts = tokenizer.batch_decode([ids[: sizes["short"][0]] for ids in tokenizer(texts)["input_ids"]])
longer = {n: [text + "".join(NEUTRAL[:n]) for text in texts] for n in range(len(NEUTRAL) + 1)}
gains = {}
for name, scorer in judged.items():
    gains[name] = report.bootstrap_gain(scorer(texts), scorer(longer[3]))
    risen = (scorer(longer[3]) > scorer(texts)).float().mean()
    print(
        "{:13} three neutral sentences: {:+.2f} [{:+.2f}, {:+.2f}],".format(name, *gains[name]),
        f"{risen:.0%} rise",
    )

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained")
for panel, (name, scorer) in zip(axes, judged.items(), strict=True):
    curve = torch.stack([scorer(longer[n]) for n in longer]).view(len(longer), 2, -1).mean(-1)  # (4, 2)
    panel.plot(list(longer), curve[:, 0], "o-", label="openings of chosen")
    panel.plot(list(longer), curve[:, 1], "s--", label="openings of rejected")
    panel.set(title=name, xlabel="neutral sentences added", ylabel="mean score", xticks=list(longer))
axes[1].legend()
plt.show()

# %%
spread = {name: scorer(texts).std().item() for name, scorer in judged.items()}
share = {name: gains[name][0] / spread[name] for name in judged}
print({name: f"{value:+.2f} standard deviations" for name, value in share.items()})
assert gains["biased"][1] > 0 and share["biased"] > share["reward model"], "the bias was not caught"

# %% [markdown] tags=["zh"]
# 看图时分开看两件事。两条线**之间**的距离是褒贬，线的**升降**是长短。有偏的模型两条线叠在一起，加上第一句废话就一下子冲到顶：它不看褒贬，只数长短。要是拿它去做 PPO，策略第一个学会的就是啰嗦。我们的奖励模型，两条线分得开；两条线一起移动了多少，就是它自己的长度偏差，上面按标准差打印了出来。很少有哪个奖励模型完全没有，所以才要量。两条线略微靠拢倒说得过去：后面的话冲淡了前面的意见。
#
# 这样的试验叫**反事实检验**：只改一个因素，看分数动不动。换成别的因素也一样做：口气、列表符号、道歉的话、作者。
#
# ## 8 65% 的准确率够吗？
#
# 在公开的人类偏好数据上，奖励模型的准确率常常只有 65% 到 75%。先别急着说低。标注者自己也会不一致：
#
# - InstructGPT：训练数据的标注者之间，一致率 72.6% ± 1.5%（[Ouyang 等 2022](https://arxiv.org/abs/2203.02155)，3.4 节）。
# - HH-RLHF：研究人员和众包标注者之间，大约 63%（[Bai 等 2022](https://arxiv.org/abs/2204.05862)，2.1 节）。
#
# 标签有噪声，测出来的准确率就有**天花板**（noise ceiling）：一个永远判断正确的模型，遇到标错的标签也会被记成错。模拟一下：把留出的标签以概率 $e$ 随机翻转。

# %% [markdown] tags=["en"]
# Look at two things separately. The distance **between** the lines is the opinion; their **slope** is length. The two lines of the biased model lie on each other and jump to the top with the first idle sentence: it has no opinion, it measures length. In PPO, the first thing a policy would learn from it is to ramble. Our reward model keeps its lines apart; how far they move together is a length bias of its own, printed above in standard deviations. Hardly any reward model is free of it, which is why one measures. That the lines draw a little closer is fair: what follows waters the opinion down.
#
# This is a **counterfactual test**: change one thing and see whether the score moves. It works for other things as well: tone, bullet points, apologies, the author.
#
# ## 8 Is 65% accuracy enough?
#
# On public human preferences, reward models often reach 65% to 75% only. Before calling that low, see how often the annotators agree:
#
# - InstructGPT: the annotators of the training data with each other, 72.6% ± 1.5% ([Ouyang et al. 2022](https://arxiv.org/abs/2203.02155), section 3.4).
# - HH-RLHF: researchers with crowd workers, about 63% ([Bai et al. 2022](https://arxiv.org/abs/2204.05862), section 2.1).
#
# Noisy labels put a **noise ceiling** on the accuracy that can be measured: a model that is always right is marked wrong wherever the label is. A simulation: flip the held-out labels at random with probability $e$.

# %%
random = np.random.default_rng(setup.seed)
truth, ours = np.ones(len(test)), right["reward model"]  # 1: in the order of the label
rows = []
for e in (0.0, 0.1, 0.2, 0.3):
    flip, other = (random.random((200, len(test))) < e for _ in range(2))  # 200 annotators, twice
    measured = {
        name: np.where(flip, 1 - w, w).mean() for name, w in (("perfect model", truth), ("ours", ours))
    }
    rows.append({"e": e, **measured, "two annotators agree": (flip == other).mean()})
noise = pd.DataFrame(rows).set_index("e")
noise.round(3)

# %%
e = np.linspace(0, 0.5, 101)
agree = (1 - e) ** 2 + e**2  # both right, or both wrong
figure, axes = plt.subplots(figsize=(5, 2.8), layout="constrained")
axes.plot(agree, 1 - e, label="ceiling: a perfect model")
axes.plot(noise["two annotators agree"], noise["ours"], "o-", label="this lesson's model, labels flipped")
for name, x in (("HH-RLHF", 0.63), ("InstructGPT", 0.726)):
    axes.axvline(x, color="C1", ls=":")
    axes.text(x + 0.005, 0.88, name, rotation=90, size=8)
axes.set(xlabel="how often two annotators agree", ylabel="measured accuracy", ylim=(0.5, 1.02))
axes.legend(loc="lower right")
plt.show()

# %% [markdown] tags=["zh"]
# 两条点线与实线相交的高度，就是那两份数据的天花板（练习 5 来算它们）。所以 65% 到 75% 要和天花板比，而不是和 100% 比。模拟里假设每一对都一样容易标错；真实的噪声集中在两个回答差不多好的对上，那里排错的代价也小。
#
# 这份数据自己也有天花板：有的片段还没说出褒贬就被截断了。另一位评委（课程的情感分类器，读过整条影评的训练数据）在同样的对上能对多少？

# %% [markdown] tags=["en"]
# Where the dotted lines meet the solid one is the ceiling of those two data sets (exercise 5 computes them). So 65% to 75% has to be compared with the ceiling, not with 100%. The simulation takes every pair as equally easy to get wrong; real noise gathers in pairs whose answers are about equally good, and there a mistake costs little.
#
# This data has a ceiling of its own: some pieces were cut off before they said what they think. How many of the same pairs does another judge get right, the course's sentiment classifier, which was trained on whole reviews?

# %%
classifier = rewards.SentimentReward(setup.reward_model, setup.device)
plain = test.select(np.flatnonzero(~turned))
for name, scorer in (("reward model", reward), ("sentiment classifier", classifier)):
    print("{:21} {:.3f} [{:.3f}, {:.3f}]".format(name, *baselines.accuracy(scorer, plain)))

# %% [markdown] tags=["zh"]
# （对调的对没有算进来：那个分类器没有见过这样的题。）
#
# 那么真实的人类偏好呢？用同样的代码，在真实的 HH-RLHF 上训练这门课的小模型，结果见 [benchmarks/RESULTS.md](../benchmarks/RESULTS.md)，命令是 `benchmarks/reward_pairs.py`。那些对话里有冒犯性的内容，这里只报数字，不展示文本。
#
# ## 9 另一条路：情感分类器
#
# 第 07 课的奖励模型不是成对训练的，而是一个**情感分类器**：每条文本一个标签，两个 logit，交叉熵。用同样的文本也训练一个，只是这次一条一条地标：`chosen` 是 POSITIVE，`rejected` 是 NEGATIVE。

# %% [markdown] tags=["en"]
# (Turned pairs are left out: that classifier has never met such a question.)
#
# And real human preferences? The same code trains this course's small model on the real HH-RLHF; the result is in [benchmarks/RESULTS.md](../benchmarks/RESULTS.md), the command is `benchmarks/reward_pairs.py`. Those dialogues hold offensive content, so there are numbers here and no texts.
#
# ## 9 The other road: a sentiment classifier
#
# The reward model of lesson 07 was not trained on pairs; it is a **sentiment classifier**: one label per text, two logits, cross-entropy. Train one on the same texts, labelled one by one this time: `chosen` is POSITIVE, `rejected` is NEGATIVE.

# %%
some = splits["train"].select(range(setup.sizes["classifier"]["pairs"]))
texts = some["chosen"][:] + some["rejected"][:]
labelled = Dataset.from_dict(
    {"input_ids": rewards.to_tokens(tokenizer, texts, 512), "label": [1] * len(some) + [0] * len(some)}
)
two = reward_model.new_model(setup.policy, tokenizer, setup.seed, labels=2)
two.config.id2label, two.config.label2id = {0: "NEGATIVE", 1: "POSITIVE"}, {"NEGATIVE": 0, "POSITIVE": 1}
print(len(labelled), "labelled texts; head", tuple(two.score.weight.shape))

# %%
arguments = transformers.TrainingArguments(
    output_dir=str(setup.output / "sentiment"),
    learning_rate=setup.sizes["classifier"]["learning_rate"],
    per_device_train_batch_size=setup.sizes["classifier"]["batch_size"],
    num_train_epochs=1,
    lr_scheduler_type="cosine",
    warmup_steps=0.05,
    logging_steps=50,
    seed=setup.seed,
    use_cpu=setup.device == "cpu",
    dataloader_pin_memory=setup.device != "cpu",
    report_to="none",
    save_strategy="no",
)
collator = transformers.DataCollatorWithPadding(tokenizer)
transformers.Trainer(two, arguments, collator, labelled, processing_class=tokenizer).train()
two.save_pretrained(setup.output / "sentiment")
tokenizer.save_pretrained(setup.output / "sentiment")
print(sorted(path.name for path in (setup.output / "sentiment").iterdir() if path.is_file()))

# %% [markdown] tags=["zh"]
# ### 9.1 两个 logit，一个分数
#
# 经典教程用 `pipeline("sentiment-analysis")` 来取分数。三个参数都要紧：`top_k=None` 给出全部标签，`function_to_apply="none"` 不做 softmax；最后，按标签的**名字**取：

# %% [markdown] tags=["en"]
# ### 9.1 Two logits, one score
#
# The classic tutorials get the score from `pipeline("sentiment-analysis")`. All of it matters: `top_k=None` gives every label, `function_to_apply="none"` leaves out the softmax, and then the score is picked by the label's **name**:

# %%
pipe = transformers.pipeline(
    "sentiment-analysis",
    model=str(setup.output / "sentiment"),
    top_k=None,
    function_to_apply="none",
    device=setup.device,
)
texts = ["this movie was really bad!!", "this movie was really good!!"]
outputs = pipe(texts)
for text, output in zip(texts, outputs, strict=True):
    print(text, "→", [(item["label"], round(item["score"], 2)) for item in output])

# %%
by_position = [output[1]["score"] for output in outputs]
by_name = [next(item["score"] for item in output if item["label"] == "POSITIVE") for output in outputs]
print("entry 1:", np.round(by_position, 2), "· entry named POSITIVE:", np.round(by_name, 2))
sentiment = rewards.SentimentReward(setup.output / "sentiment", setup.device)
np.testing.assert_allclose(sentiment(texts), by_name, rtol=1e-3, atol=1e-4)
assert all(output == sorted(output, key=lambda item: -item["score"]) for output in outputs)

# %% [markdown] tags=["zh"]
# `top_k=None` 会按分数从大到小排序，所以“第 1 项”一会儿是这个标签，一会儿是那个。老教程里的 `return_all_scores=True` 不排序，按位置取也没事；这个参数已经没有了，照着老教程改一改就会掉进这个坑。自己查：

# %% [markdown] tags=["en"]
# `top_k=None` sorts by score, largest first, so "entry 1" is now one label, now the other. `return_all_scores=True` of old tutorials did not sort, and picking by position was safe; that argument is gone, and whoever replaces it in an old tutorial falls into this hole. See for yourself:

# %%
known = inspect.signature(transformers.TextClassificationPipeline._sanitize_parameters).parameters
print(list(known), "return_all_scores" in known)
logits = torch.tensor(
    [[item["score"] for item in sorted(o, key=lambda item: item["label"])] for o in outputs]
)
cross_entropy = F.cross_entropy(logits, torch.tensor([0, 1]))  # logits: (B, 2), NEGATIVE first
difference = logits[:, 1] - logits[:, 0]  # (B,)
torch.testing.assert_close(cross_entropy, -F.logsigmoid(torch.stack([-difference[0], difference[1]])).mean())

# %% [markdown] tags=["zh"]
# 最后两行说：两个 logit 的交叉熵也是 $-\log\sigma(d)$，$d$ 是差，和成对的损失同一个式子。差别在于谁减谁：分类器减的是**同一条文本**的两个标签，偏好模型减的是**两条文本**。所以分类器要的是绝对的标签（这条好不好），偏好模型只要相对的（哪条更好）。
#
# 它在成对的题上怎么样？

# %% [markdown] tags=["en"]
# The last two lines say that the cross-entropy of two logits is $-\log\sigma(d)$ too, $d$ being the difference: the same formula as for pairs. What differs is who is subtracted from whom: the classifier subtracts two labels of **one text**, the preference model subtracts **two texts**. So the classifier needs absolute labels (is this one good?), the preference model relative ones (which is better?).
#
# How does it do on pairs?

# %%
for name, scorer in {"classifier, logit of POSITIVE": sentiment, "reward model of pairs": reward}.items():
    share, low, high = baselines.accuracy(scorer, test)
    assert low > 0.5, f"{name}: no better than a coin"
    print(f"{name:30} {share:.3f} [{low:.3f}, {high:.3f}]")
print(f"the classifier learnt from {len(some)} of the {len(splits['train'])} pairs, one text at a time")

# %% [markdown] tags=["zh"]
# ## 10 给策略的回复打分
#
# 第 07 课要用 `output/rm_2` 来训练策略。它没有读过策略写的东西，只读过影评的片段，换了地方还灵吗？让策略在留出的提示上写回复，再请没有参与的第二位评委（情感分类器）来核对：

# %% [markdown] tags=["en"]
# ## 10 Scoring what the policy writes
#
# Lesson 07 will train a policy against `output/rm_2`. It has never read what the policy writes, only pieces of reviews; does it still work there? Let the policy answer held-out prompts, and compare with a second judge that took no part, the sentiment classifier:

# %%
prompts = evaluate.held_out_prompts(setup, tokenizer, seed=setup.seed)
policy = AutoModelForCausalLM.from_pretrained(setup.policy).to(setup.device)
how_long = evaluate.response_lengths(setup, len(prompts), seed=setup.seed)
rollout = evaluate.respond(policy, tokenizer, prompts, how_long, seed=setup.seed)
samples = [q + a for q, a in zip(prompts["query"], rollout.texts(tokenizer), strict=True)]
print(len(samples), "samples, for example", samples[:3])

# %%
for name, scorer in (("before training", untrained), ("after training", reward)):
    together = np.corrcoef(scorer(samples), classifier(samples))[0, 1]
    print(f"{name:16} correlation with the sentiment classifier on the policy's samples: {together:+.2f}")
order = reward(samples).argsort()
for place in [*order[:3], *order[-3:]]:
    print(f"{reward([samples[place]]).item():+.2f} {samples[place]!r}")
assert together > 0.1, "it does not carry over to the policy's samples"

# %% [markdown] tags=["zh"]
# 相关是正的，但远不到 1：几个词元长的回复，往往还没有什么褒贬可言，两位评委猜的不一样。策略会去找奖励模型**给高分**的地方，不管另一位评委同不同意；这就是第 07 课要一直看着第二位评委的原因。
#
# ### 10.1 模板不一致
#
# 还有一个老实的奖励模型也会栽的跟头：训练时的文本是一个样子，打分时是另一个样子。下面是同样的留出对，只是打分前套上了“Question: … Answer: …”：

# %% [markdown] tags=["en"]
# The correlation is positive but far from 1: a response of a few tokens often says neither good nor bad, and the two judges guess differently. A policy will go where the reward model gives **high scores**, whether or not the other judge agrees, and that is why lesson 07 keeps an eye on the second judge all the time.
#
# ### 10.1 Another template
#
# There is one thing that trips up even an honest reward model: texts of one shape in training, of another when scoring. Here are the same held-out pairs, put into "Question: … Answer: …" before they are scored:


# %%
def as_question(row):
    prompt, good, poor = split_prompt(row["chosen"], row["rejected"])
    return {
        k: f"Question: {prompt}\nAnswer: {a.strip()}\n" for k, a in (("chosen", good), ("rejected", poor))
    }


asked = test.map(as_question)
print(repr(asked[0]["chosen"][:70]))
both = {"as in training": scored["reward model"]}
both["another template"] = [reward(asked[side][:]) for side in asked.column_names]
for name, (good, poor) in both.items():
    share = report.bootstrap_gain(np.zeros(len(test)), baselines.wins(good, poor))
    print(
        "{:17} accuracy {:.3f} [{:.3f}, {:.3f}],".format(name, *share),
        f"mean score {torch.cat([good, poor]).mean():+.2f}",
    )

# %% [markdown] tags=["zh"]
# 不报错，分数照出，只是差了。所以训练文本若带模板（例如对话），模板会记在模型的 `config.json` 里，`PairwiseReward` 收到没有这个模板的文本就报错，而不是默默给一个没有意义的分数。这里的训练文本没有模板可记，上面这一格它就拦不住：套模板的人要自己当心。
#
# ## 11 训练前后
#
# 这一课里策略没有变，变的是评委。所以这张表比的不是两种回复，而是**同一对回答**在训练前后得到的分数：留出的对，每行一对；“before training” 的两列是没训练过的模型。增益就是差（margin），配对的自助法区间。KL 在这里没有意义，因为策略没有动过。

# %% [markdown] tags=["en"]
# No error, scores come out as ever, only worse. So if the training texts have a template, as dialogues do, it is noted in the model's `config.json`, and `PairwiseReward` raises an error for texts without it rather than give a score that means nothing. The training texts of this lesson have no template to note, and so nothing stopped the cell above: whoever puts texts into one has to take care.
#
# ## 11 Before and after
#
# In this lesson the policy has not changed, the judge has. So the table does not compare two responses but the scores that **the same pair of answers** gets before and after training: held-out pairs, one per row; the two columns "before training" are from the untrained model. The gain is the margin, with a paired bootstrap interval. KL means nothing here, since no policy has moved.

# %% tags=["table"]
parts = [split_prompt(*pair) for pair in zip(test["chosen"], test["rejected"], strict=True)]
queries, good, poor = zip(*parts, strict=True)
result = report.before_after(
    queries,
    poor,
    good,
    *reversed(scored["reward model"]),
    judge_before=scored["before training"][1],
    judge_after=scored["before training"][0],
    judge_name="before training",
    names=("rejected", "chosen"),
    title="05 Reward modelling",
    meta=report.run_meta(setup, started),
    show=setup.evaluation["shown"],
)
result.save(setup.output)
result

# %%
assert len(result.table) >= 16 and result.gain[1] > 0, "the chosen answers do not score higher"
assert result.gain[1] > result.judge_gain[2], "no better than before training"
print(result.summary())

# %% [markdown] tags=["zh"]
# 再看三组文本各自的平均分，训练前和训练后：

# %% [markdown] tags=["en"]
# And the mean scores of three groups of texts, before and after training:

# %%
after, before = scored["reward model"], scored["before training"]
groups = {"held-out, chosen": (before[0], after[0]), "held-out, rejected": (before[1], after[1])}
groups["policy samples"] = (untrained(samples), reward(samples))
rows = {}
for name, both in groups.items():
    means = [report.bootstrap_gain(np.zeros(len(scores)), scores) for scores in both]
    rows[name] = ["{:+.2f} [{:+.2f}, {:+.2f}]".format(*mean) for mean in means] + [f"{both[1].std():.2f}"]
pd.DataFrame(rows, ["mean before", "mean after", "spread after"]).T

# %% [markdown] tags=["zh"]
# ## 12 小结
#
# - 偏好是成对的；`chosen` 只表示比较好，零点和尺度都是任意的。
# - 一条文本的分数：`[B, T]` → `[B, T, H]` → `Linear(H, 1)` → `[B, T, 1]` → 最后一个真词元 → `[B, 1]`。最后一个，因为只有它读完了提示和回答；填充不能读，也不能平均。
# - 损失是 $-\log\sigma(r_c-r_r)$，从 $\ln 2$ 开始；居中项管零点。
# - 准确率要带区间，要和抛硬币、长短、数词比，也要和噪声的天花板比。
# - 留出的对若和训练的对有同样的毛病，就查不出毛病；要做只改一个因素的对照试验。
# - 训练和打分用同一个函数变成词元；分类器的分数按标签的名字取。

# %% [markdown] tags=["en"]
# ## 12 Summary
#
# - Preferences come in pairs; `chosen` only means better, and both zero and scale are arbitrary.
# - The score of a text: `[B, T]` → `[B, T, H]` → `Linear(H, 1)` → `[B, T, 1]` → the last real token → `[B, 1]`. The last, because only it has read prompt and answer; padding is neither read nor averaged.
# - The loss is $-\log\sigma(r_c-r_r)$ and begins at $\ln 2$; centring looks after the zero.
# - Give accuracy with an interval, and compare it with a coin, with length, with counted words, and with the noise ceiling.
# - Held-out pairs that share the fault of the training pairs cannot show the fault; a controlled test that changes one thing can.
# - One function makes the tokens for training and for scoring; a classifier's score is picked by the name of its label.

# %% [markdown] tags=["zh"]
# ## 13 练习
#
# 把 `...` 换成你的答案再运行，批改结果马上出现。每题后面藏着一个参考答案，点开就能看。
#
# ### 练习 1（先预测，再运行）
#
# 一个刚装上新头、还没训练过的奖励模型：损失大约是多少（保留 2 位小数）？准确率（0 到 1 之间）大约是多少？不加居中项。先写下来，再点开参考答案，看这次运行在训练前量到的值。

# %% [markdown] tags=["en"]
# ## 13 Exercises
#
# Replace `...` with your answer and run the cell; it is graded at once. A solution is hidden after each exercise; click to open it.
#
# ### Exercise 1 (predict first, then run)
#
# A reward model with a new head, not trained at all: what is its loss, about (to 2 decimals)? And its accuracy (between 0 and 1)? Without the centring term. Write both down, then open the solution to see what this run measured before training.

# %% tags=["exercise"]
loss_at_the_start, accuracy_at_the_start = ..., ...
checks.e05_1(loss_at_the_start, accuracy_at_the_start)

# %% tags=["solution"] jupyter={"source_hidden": true}
margins = scored["before training"][0] - scored["before training"][1]  # (N,)
measured = -F.logsigmoid(margins).mean().item(), (margins > 0).float().mean().item()
print("measured: loss {:.3f}, accuracy {:.3f}".format(*measured))
checks.e05_1(math.log(2), 0.5).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 2（找错）
#
# 有人用问答数据训练了一个奖励模型，然后写了下面的函数，打分时把问题和回答变成词元。它不报错，分数却差得离谱。他手里只剩下**训练时的三条样本**：先看仔细，再写出正确的 `serve`。（分词器由参数给出；`tokenizer.eos_token` 是结束符。）

# %% [markdown] tags=["en"]
# ### Exercise 2 (find the bug)
#
# Somebody trained a reward model on questions and answers and wrote the function below, which turns a question and an answer into tokens for scoring. It raises nothing, but the scores are far off. What is left are **three samples as training saw them**: look closely, then write the right `serve`. (The tokenizer is an argument; `tokenizer.eos_token` is the end-of-sequence token.)

# %%
limit = 24
talks = [("Was it good?", "Yes, I liked it."), ("Why?", "The story was warm."), ("So?", "It was slow. " * 12)]
for question, answer in talks:
    seen = tokenizer(f"Question: {question}\nAnswer: {answer}{tokenizer.eos_token}")["input_ids"][-limit:]
    print(f"{len(seen):2} tokens: {tokenizer.decode(seen)!r}")


# %%
def buggy_serve(tokenizer, question, answer, max_length):
    """-> token numbers, at most ``max_length`` of them"""
    return tokenizer(question + "\n" + answer, truncation=True, max_length=max_length)["input_ids"]


for question, answer in talks:
    print(repr(tokenizer.decode(buggy_serve(tokenizer, question, answer, limit))))


# %% tags=["exercise"]
def serve(tokenizer, question, answer, max_length): ...  # your code


checks.e05_2(serve)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_2(tokenizer, question, answer, max_length):
    text = f"Question: {question}\nAnswer: {answer}" + tokenizer.eos_token  # the template, and EOS
    return tokenizer(text)["input_ids"][-max_length:]  # too long: the answer at the end stays


checks.e05_2(solution_2).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 3
#
# 写出取分数的那一步：给你每个词元上的数和掩码（1 是真词元），返回每一行最后一个真词元上的数。填充可能在右边、左边，或者两边都有。

# %% [markdown] tags=["en"]
# ### Exercise 3
#
# Write the step that reads the score: given the number at every token and the mask (1 on real tokens), return for each row the number at its last real token. Padding may be on the right, on the left, or on both sides.


# %% tags=["exercise"]
def last_scores(token_scores, mask): ...  # (B, T), (B, T) -> (B,)


checks.e05_3(last_scores)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_3(token_scores, mask):
    columns = torch.arange(mask.shape[1])  # (T,)
    return token_scores[torch.arange(len(mask)), (mask * columns).argmax(1)]  # (B,)


checks.e05_3(solution_3).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 4
#
# 写出训练器的损失：$-\log\sigma(r_c-r_r)$ 的均值，加上 `centre` 乘以 $(r_c+r_r)^2$ 的均值。差很大时（例如 −200）也不能得到 inf。

# %% [markdown] tags=["en"]
# ### Exercise 4
#
# Write the loss of the trainer: the mean of $-\log\sigma(r_c-r_r)$, plus `centre` times the mean of $(r_c+r_r)^2$. Even a large difference (−200, say) must not give inf.


# %% tags=["exercise"]
def pair_loss(chosen, rejected, centre): ...  # (B,), (B,), a number -> one number


checks.e05_4(pair_loss)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_4(chosen, rejected, centre):
    return -F.logsigmoid(chosen - rejected).mean() + centre * ((chosen + rejected) ** 2).mean()


checks.e05_4(solution_4).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 5
#
# 两位标注者各自独立，以同样的概率 $e$ 标错，他们的一致率是 `agreement`。一个永远正确的模型，和其中**一位**的标签相比，准确率是多少？写成函数，再算一算第 8 节的两份数据：0.726 和 0.63。

# %% [markdown] tags=["en"]
# ### Exercise 5
#
# Two annotators err independently, each with probability $e$, and they agree in a share `agreement` of all pairs. What accuracy does a model that is always right reach against the labels of **one** of them? Write it as a function, then compute it for the two data sets of section 8: 0.726 and 0.63.


# %% tags=["exercise"]
def ceiling(agreement): ...  # your code


checks.e05_5(ceiling)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_5(agreement):
    e = (1 - math.sqrt(2 * agreement - 1)) / 2  # solves (1 − e)² + e² = agreement
    return 1 - e


print({agreement: round(solution_5(agreement), 3) for agreement in (0.726, 0.63)})
checks.e05_5(solution_5).must_pass()

# %% [markdown] tags=["zh"]
# ## 14 延伸阅读
#
# - Bradley 与 Terry 1952，[Rank Analysis of Incomplete Block Designs](https://doi.org/10.2307/2334029)：成对比较的模型。
# - Christiano 等 2017，[Deep Reinforcement Learning from Human Preferences](https://arxiv.org/abs/1706.03741)：从偏好学奖励。
# - Ouyang 等 2022，[InstructGPT](https://arxiv.org/abs/2203.02155)：奖励模型是三步中的第 2 步。
# - Bai 等 2022，[Training a Helpful and Harmless Assistant](https://arxiv.org/abs/2204.05862)：HH-RLHF 数据，也讨论了校准。
# - Eisenstein 等 2023，[Helping or Herding?](https://arxiv.org/abs/2312.09244)：居中项（式 2），以及奖励模型之间的分歧。
# - Singhal 等 2023，[A Long Way to Go: Investigating Length Correlations in RLHF](https://arxiv.org/abs/2310.03716)：分数里有多少只是长短。
# - Lambert 等 2024，[RewardBench](https://arxiv.org/abs/2403.13787)：怎样评测奖励模型。
# - TRL 的文档：[Reward Trainer](https://huggingface.co/docs/trl/reward_trainer)。

# %% [markdown] tags=["en"]
# ## 14 Further reading
#
# - Bradley and Terry 1952, [Rank Analysis of Incomplete Block Designs](https://doi.org/10.2307/2334029): the model of paired comparisons.
# - Christiano et al. 2017, [Deep Reinforcement Learning from Human Preferences](https://arxiv.org/abs/1706.03741): rewards learnt from preferences.
# - Ouyang et al. 2022, [InstructGPT](https://arxiv.org/abs/2203.02155): the reward model is Step 2 of three.
# - Bai et al. 2022, [Training a Helpful and Harmless Assistant](https://arxiv.org/abs/2204.05862): the HH-RLHF data, with a discussion of calibration.
# - Eisenstein et al. 2023, [Helping or Herding?](https://arxiv.org/abs/2312.09244): the centring term (equation 2), and how reward models disagree.
# - Singhal et al. 2023, [A Long Way to Go: Investigating Length Correlations in RLHF](https://arxiv.org/abs/2310.03716): how much of the score is only length.
# - Lambert et al. 2024, [RewardBench](https://arxiv.org/abs/2403.13787): how to evaluate reward models.
# - TRL's documentation: [Reward Trainer](https://huggingface.co/docs/trl/reward_trainer).
