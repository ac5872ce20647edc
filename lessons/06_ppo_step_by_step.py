# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] tags=["zh"]
# # 06 一步 PPO，慢动作
#
# **这一课回答的问题**：一步 PPO 的里面，到底发生了什么？我们拿一批真实的提示（query），让训练先跑九步，把第十步录下来，然后一个张量一个张量地看：它叫什么，什么形状，哪些位置算数，这些数是怎么来的。
#
# **需要什么**
#
# | 配置（profile） | 硬件 | 时间 |
# |---|---|---|
# | `offline`（默认） | 2 个 CPU 核 | 一分钟多，不联网 |
# | `imdb` | 2 个 CPU 核，或一块 GPU | CPU 上要几分钟 |
# | `full` | 一块 GPU | 几分钟 |
#
# 只需要[第 00 课](00_overview.ipynb)里的角色：策略（policy）、价值头（value head）、参考模型（reference model）、奖励模型（reward model）。公式都先用小数字手算一遍，再和课程库里真正干活的函数对照。

# %% [markdown] tags=["en"]
# # 06 PPO step by step
#
# **The question of this lesson**: what exactly happens inside one step of PPO? We take a real batch of prompts, let training run for nine steps, and then record the tenth: tensor by tensor, with its name, its shape, the positions that count, and where its numbers come from.
#
# **What you need**
#
# | profile | hardware | time |
# |---|---|---|
# | `offline` (default) | 2 CPU cores | a little over a minute, no network |
# | `imdb` | 2 CPU cores, or one GPU | a few minutes on the CPU |
# | `full` | one GPU | a few minutes |
#
# All you need to know are the roles of [lesson 00](00_overview.ipynb): policy, value head, reference, reward model. Every formula is worked out on small numbers first and then compared with the function of the course's package that does the real work.

# %% tags=["setup"]
import time

from rlhf import checks, evaluate, pictures, profiles, report  # before torch: idle threads then sleep

started = time.perf_counter()
setup = profiles.setup("06_ppo_step_by_step")

# %%
import copy
import inspect

import matplotlib.pyplot as plt
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from IPython.display import display
from tqdm import tqdm
from transformers import AutoTokenizer

from rlhf import data, sampling
from rlhf.ppo import (
    AdaptiveKLController,
    AutoModelForCausalLMWithValueHead,
    LengthSampler,
    PPOConfig,
    PPOTrainer,
    create_reference_model,
    losses,
    trace,
)
from rlhf.rewards import SentimentReward, WordJudge

plt.style.use(pictures.STYLE)

# %% [markdown] tags=["zh"]
# ## 1 九步正常播放，第十步慢放
#
# ![一步 PPO 的地图：每个张量和它的形状](../figs/06_step.svg)
#
# 这张图就是整课的地图。B 是一批里的序列数，T 是一条序列的词元（token）数（提示加回复，补到一样长），V 是词表大小，H 是隐状态（hidden state）的宽度。
#
# 为什么不直接看第一步？因为第一步太平淡：策略和参考模型还一模一样，KL 处处是 0。所以先走九步。先把角色请进来：

# %% [markdown] tags=["en"]
# ## 1 Nine steps at full speed, the tenth in slow motion
#
# ![A map of one PPO step: every tensor with its shape](../figs/06_step.svg)
#
# This drawing is the map of the lesson. B is the number of sequences in a batch, T the number of tokens of a sequence (query and response, padded to one length), V the vocabulary, H the width of the hidden states.
#
# Why not look at the first step? Because it is dull: policy and reference are still the same, and the KL is 0 everywhere. So nine steps come first. The cast:

# %%
tokenizer = AutoTokenizer.from_pretrained(setup.policy)
tokenizer.pad_token = tokenizer.eos_token  # GPT-2 has no padding token of its own
model = AutoModelForCausalLMWithValueHead.from_pretrained(setup.policy, seed=setup.seed).to(setup.device)
ref_model = create_reference_model(model)
reward_model = SentimentReward(setup.reward_model, device=setup.device)

# %%
knobs = dict(setup.ppo)
steps = knobs.pop("steps")
knobs |= {"seed": setup.seed, "accelerator_kwargs": {"cpu": setup.device == "cpu"}}
config = PPOConfig(**knobs, logging_dir=setup.output / "runs" / time.strftime("%Y%m%d-%H%M%S"))
B, updates = config.batch_size, config.ppo_epochs * config.batch_size // config.backward_batch_size
print(f"{steps} PPO steps, each: {B} responses, {config.ppo_epochs} epochs, {updates} optimiser steps")
trainer = PPOTrainer(config, model, ref_model, tokenizer)

# %% [markdown] tags=["zh"]
# 提示是训练集里影评的开头，回复（response）由策略接着写。平常训练每一步都换一批新提示；这一课为了前后能比，十步都用**同一批提示**，但每一步都让策略重新写回复。

# %% [markdown] tags=["en"]
# A query is the beginning of a review of the training split. Ordinary training takes new queries at every step; here all ten steps use **the same queries**, so that before and after can be compared, but the policy writes new responses at every step.

# %%
reviews = data.load_reviews(setup.dataset, "train").shuffle(seed=setup.seed).select(range(4 * B))
query_length = LengthSampler(setup.prompts["min_tokens"], setup.prompts["max_tokens"], seed=setup.seed)
prompts = data.build_prompts(reviews, tokenizer, query_length, setup.prompts["min_chars"]).select(range(B))
queries, openings = list(prompts["input_ids"]), list(prompts["query"])  # B × (Q,), B texts
for ids, text in list(zip(queries, openings, strict=True))[:4]:
    print(tuple(ids.shape), ids.tolist(), repr(text))

# %%
response_length = LengthSampler(setup.response["min_tokens"], setup.response["max_tokens"])


def rollout(trainer):
    """Fresh responses to the batch, B × (R,), and the scores of the whole texts, (B,)."""
    responses = trainer.generate(queries, length_sampler=response_length, return_prompt=False)
    written = tokenizer.batch_decode(responses, skip_special_tokens=True)
    return responses, reward_model([q + r for q, r in zip(openings, written, strict=True)])


# %%
history = []
for _ in tqdm(range(steps - 1)):
    responses, scores = rollout(trainer)
    stats = trainer.step(queries, responses, scores)
    history.append(trainer.log_stats(stats, {}, scores))

# %% [markdown] tags=["zh"]
# 现在录第十步。`trace.recording` 在这一步期间替训练器的方法和 `losses` 里的函数各套一层“录音”：它们照常计算，返回值的副本记到带子上。它自己不算任何东西，也不动随机数；录与不录，参数、统计、随机状态逐位相同（测试里比过）。

# %% [markdown] tags=["en"]
# Now record the tenth. During this step, `trace.recording` puts a microphone around the trainer's methods and around the functions in `losses`: they compute as always, and a copy of what they return goes on the tape. It computes nothing itself and draws no random number; with or without it, parameters, statistics and random states agree bit for bit (the tests compare them).

# %%
responses, scores = rollout(trainer)
with trace.recording(trainer) as tape:
    stats = trainer.step(queries, responses, scores)
history.append(trainer.log_stats(stats, {}, scores))
b = tape.batch  # what was computed once, for the whole batch
print(len(tape.records), "tensors,", len(tape.updates), "minibatch passes")

# %% [markdown] tags=["zh"]
# 这就是一步里算出来的全部东西，按先后排列。`times` 是算了几次（每个小批（minibatch）一次，每一遍一次）；`live` 是其中算数的位置有多少个；`mean` 只对这些位置取平均。后面每一节解释其中几行。

# %% [markdown] tags=["en"]
# Here is everything that one step computes, in order. `times` says how often (once per minibatch, once per pass); `live` how many of its slots count; `mean` is over these only. Each of the following sections explains some of the lines.

# %%
pd.set_option("display.max_rows", 100)
tape.table().query("stage != 'statistics'")

# %% [markdown] tags=["zh"]
# 而训练器里的 `step` 只有这么长，五个阶段，就是表里的 `stage`：

# %% [markdown] tags=["en"]
# And the trainer's `step` is no longer than this; its phases are the `stage` of the table:

# %%
print(inspect.getsource(PPOTrainer.step).split('"""')[2])

# %% [markdown] tags=["zh"]
# ## 2 提示
#
# ### 2.1 为什么切得这么短？
#
# 提示越短，回复能决定的就越多。量一量：同一个开头写 8 条回复，看分数的方差里有多大一部分来自“同一个开头下回复的不同”，其余的则是开头早就定好的。

# %% [markdown] tags=["en"]
# ## 2 Queries
#
# ### 2.1 Why cut them so short?
#
# The shorter the query, the more the response decides. Measure it: write 8 responses to each opening and ask what share of the variance of the scores arises among responses to the same opening; the rest was settled by the opening.

# %%
texts = [data.plain_text(text)[:400] for text in reviews["text"][B : B + 24]]
heads = [torch.tensor(ids) for ids in tokenizer(texts)["input_ids"]]


def share_of_the_response(tokens, samples=8):
    """Variance of the score within an opening, divided by its whole variance."""
    ids = [head[:tokens] for head in heads for _ in range(samples)]
    written = evaluate.respond(ref_model, tokenizer, ids, 12, seed=setup.seed)
    score = reward_model(tokenizer.batch_decode(written.sequences)).view(len(heads), samples)
    return float(score.var(1).mean() / score.flatten().var())


for tokens in (2, 7, 40):
    print(f"openings of {tokens:2} tokens: the response decides {share_of_the_response(tokens):4.0%}")

# %% [markdown] tags=["zh"]
# 给出的开头越长，分数里早就定好的那部分就越大，策略能左右的越少。短提示还有一个好处：便宜。
#
# ### 2.2 左填充（left padding）
#
# 提示长短不一，要补成一样长才能一起算。**采样时补在左边**：下一个词元总是从最后一列接着写，最后一列必须是真正的词元。补上的位置用注意力掩码（attention mask）盖住，位置编号从第一个真词元数起。

# %% [markdown] tags=["en"]
# The longer the opening, the more of the score is settled before the policy writes a word, and the less it can change. Short queries are cheap, too.
#
# ### 2.2 Left padding
#
# Queries differ in length and are padded so that they can be computed together. **For sampling, they are padded on the left**: the next token is written after the last column, so the last column must hold a real token. The attention mask covers what was filled in, and positions are counted from the first real token.

# %%
few = [min(queries, key=len), *sorted(queries, key=len)[-2:]]  # one short query, two long ones
ids, attention = sampling.left_pad(few, tokenizer.pad_token_id)  # (3, Q), (3, Q)
positions = (attention.cumsum(1) - 1).clamp(min=0)  # (3, Q)
print(ids, positions, sep="\n")

# %% [markdown] tags=["zh"]
# 补错了会怎样？拿最短的那条提示，比较它单独算时和补齐后算时“下一个词元”的分布。距离取总变差：0 表示相同，1 表示毫无重叠。

# %% [markdown] tags=["en"]
# What if it is done wrong? Take the shortest query and compare the distribution of its next token when computed alone and when computed in a padded batch. The distance is the total variation: 0 means equal, 1 no overlap at all.

# %%
backbone = ref_model.pretrained_model
rows = torch.nn.utils.rnn.pad_sequence(few, batch_first=True, padding_value=tokenizer.pad_token_id)  # (3, Q)
cases = {"left, mask, positions": {"input_ids": ids, "attention_mask": attention, "position_ids": positions}}
cases["left, mask, positions 0 1 2 …"] = cases["left, mask, positions"] | {
    "position_ids": torch.arange(ids.shape[1]).expand_as(ids)
}
cases["left, no mask"] = {"input_ids": ids}
cases["right, last column"] = {"input_ids": rows, "attention_mask": attention.flip(1)}

# %%
with torch.no_grad():
    alone = backbone(few[0][None].to(setup.device)).logits[0, -1].softmax(-1)  # (V,)
    for name, inputs in cases.items():
        there = backbone(**{k: v.to(setup.device) for k, v in inputs.items()}).logits[0, -1].softmax(-1)
        print(f"{name:30} distance {(alone - there).abs().sum().item() / 2:.4f}")

# %% [markdown] tags=["zh"]
# 只有第一种写法和单独算的一样（到舍入误差为止）。课程里的 `trainer.generate` 总是这样补，不管分词器喜欢哪一边；**训练时**则反过来补在右边（见第 4 节的图），那里位置从 0 数起正好是对的。

# %% [markdown] tags=["en"]
# Only the first agrees with the query alone, up to rounding. The course's `trainer.generate` always pads like that, whatever side the tokenizer prefers. **In training** it is the other way round: padding goes to the right (see the drawing of section 4), where counting positions from 0 is right as it is.

# %% [markdown] tags=["zh"]
# ## 3 回复
#
# ### 3.1 为什么每条回复都正好写满？
#
# 每条回复的长度上限是抽出来的。几乎每条都正好写到上限，因为提前结束要靠结束符（EOS），而它很少出现。量一量它的概率，再和影评真正写完的地方比一比：

# %% [markdown] tags=["en"]
# ## 3 Responses
#
# ### 3.1 Why is every response exactly as long as it may be?
#
# The limit of each response is drawn at random. Nearly all of them are exactly that long: to end earlier takes an end-of-sequence token (EOS), and that is rare. Measure its probability, and compare with the places where reviews really end:

# %%
limits = evaluate.response_lengths(setup, B, seed=setup.seed)
written = evaluate.respond(ref_model, tokenizer, queries, limits, seed=setup.seed)
early = sum(n < limit for n, limit in zip(written.lengths, limits, strict=True))
print(f"limits from {min(limits)} to {max(limits)} tokens; {early} of {B} responses ended before theirs")


# %%
def live_distributions(policy, count=32):
    """Log-probabilities of the whole vocabulary at the live slots of the first sequences: (n, V)."""
    ids, attention, mask = (b[k][:count].to(setup.device) for k in ("input_ids", "attention_mask", "mask"))
    with torch.no_grad():
        logits = policy.pretrained_model(ids, attention_mask=attention).logits[:, :-1]  # (count, T-1, V)
    return logits[mask.bool()].float().log_softmax(-1)


p_eos = live_distributions(ref_model)[:, tokenizer.eos_token_id].exp().mean().item()
print(f"probability of EOS at a slot: {p_eos:.4%}; of at least one in 15 slots: {1 - (1 - p_eos) ** 15:.2%}")

# %% [markdown] tags=["zh"]
# ### 3.2 为什么 `min_length` 是 −1？
#
# 老教程的采样设置里总有一行 `"min_length": -1`。意思是：不要压制 EOS。`min_length` 为正时，`transformers` 会在写够之前把 EOS 的概率改成 0，抽样用的分布就不再是策略自己的分布了。在影评的结尾，EOS 本来该出现的地方，看得最清楚：

# %% [markdown] tags=["en"]
# ### 3.2 Why is `min_length` −1?
#
# Old tutorials have a line `"min_length": -1` among their sampling settings. It means: do not suppress EOS. With a positive `min_length`, `transformers` sets the probability of EOS to 0 until enough is written, and samples no longer come from the policy's own distribution. It shows best at the end of a review, where EOS belongs:

# %%
tails = [data.plain_text(text)[-240:] for text in reviews["text"][:64]]
ends = [torch.tensor(ids[-40:]) for ids in tokenizer(tails)["input_ids"]]  # the last tokens of 64 reviews
longest = max(map(len, ends))
for minimum in (-1, longest + 1):
    next_token = evaluate.respond(ref_model, tokenizer, ends, 1, seed=setup.seed, min_length=minimum)
    stopped = sum(int(r[0]) == tokenizer.eos_token_id for r in next_token.responses)
    print(f"min_length {minimum:3}: {stopped} of {len(ends)} reviews end here")

# %% [markdown] tags=["zh"]
# ### 3.3 如果采样用 top-k 50，打分用完整的 softmax？
#
# `transformers` 的 `generate` 默认只从最可能的 50 个词元里抽（`top_k=50`）。而 PPO 后面算对数概率用的是完整的 softmax。两者不是同一个分布，会差多少？各写一批，量两样东西：被抽中的词元有多意外（−log p），减去按完整分布平均应当有多意外（熵）；用抽中的词元估计的 KL，和对整个词表求和的精确 KL。第三行是更极端的情形：回复根本不是策略写的，而是参考模型写的。

# %% [markdown] tags=["en"]
# ### 3.3 What if sampling used top-k 50 and the log-probabilities the full softmax?
#
# By default, `generate` of `transformers` draws from the 50 likeliest tokens only (`top_k=50`). PPO then computes log-probabilities from the full softmax. These are two distributions; how far apart? Write a batch each way and measure two things: how surprising the drawn tokens are (−log p), less how surprising they should be on average under the full distribution (its entropy); and the KL estimated from the drawn tokens beside the exact one, summed over the vocabulary. The third row is more extreme: here the policy wrote none of the responses, the reference did.


# %%
def examine(sample):
    """Under the policy: surprise less entropy of each token, (n,), and the estimated KL of each response, (B,)."""
    checked = trainer.validate(sample.queries, sample.responses, torch.zeros(B))
    seen = trainer.forward_rollouts(checked)  # log-probabilities and KL, (B, T-1)
    with torch.no_grad():
        logits = trainer.forward(checked.input_ids, checked.attention_mask)[2]  # (B, T-1, V)
    excess = -seen.logprobs - losses.entropy_from_logits(logits)  # (B, T-1)
    return excess[seen.mask.bool()].cpu(), (seen.kl * seen.mask).sum(1).cpu()


# %%
writers = {"policy, full softmax": (trainer.policy, {}), "policy, top_k=50": (trainer.policy, {"top_k": 50})}
writers["reference, full softmax"] = (ref_model, {})
rows = {}
for name, (writer, cut) in writers.items():
    sample = evaluate.respond(writer, tokenizer, queries, limits, seed=setup.seed, **cut)
    excess, kl = examine(sample)
    noise = 3 * excess.std().item() / len(excess) ** 0.5
    exact = evaluate.response_kl(trainer.policy, ref_model, sample).mean().item()
    rows[name] = {"−log p less entropy": excess.mean().item(), "± 3 se": noise}
    rows[name] |= {"KL, estimated": kl.mean().item(), "KL, exact": exact}
sampled = pd.DataFrame(rows).T.rename_axis("written by")
sampled.round(3)

# %%
logp = live_distributions(trainer.policy)  # (n, V)
kept = logp.topk(50).values.exp().sum(-1)  # (n,) probability of the 50 likeliest tokens
nats = float(-kept.log().mean() * b["response_lengths"].float().mean())
print(
    f"the 50 likeliest tokens hold {kept.mean():.1%} of the probability on average, {kept.min():.1%} at worst"
)
print(f"KL of the top-50 sampler to the policy: {nats:.2f} nats per response (KL target: {config.target:g})")

# %% [markdown] tags=["zh"]
# 第一行的差在误差之内是 0：这是“样本真的来自这个策略”的检验。从前 50 个里抽，词元就不够意外：策略有一截尾巴从来没人去抽，PPO 却当它抽过；KL 的估计和概率比因此都带着偏差。最后一行的估计是负的，而真正的 KL 不会是负的：样本换了来源，估计的就是别的东西了。训练器看到 KL 低于 −1 会发出警告，说的正是这件事。所以课程里采样一律用 `top_k=0`、`top_p=1`、温度 1：

# %% [markdown] tags=["en"]
# In the first row the difference is 0 within noise: a test that the samples really come from this policy. Drawn from the top 50, tokens are not surprising enough: the policy has a tail that nobody sampled, while PPO believes it was; its KL estimate and its ratios are biased. In the last row the estimate is negative, which a true KL never is: with samples from elsewhere it estimates something else. The trainer warns when it sees a KL below −1, and this is why. Hence this course always samples with `top_k=0`, `top_p=1` and temperature 1:

# %%
print(sampling.FULL_SOFTMAX)

# %% [markdown] tags=["zh"]
# ### 3.4 为什么参考模型也要写回复？
#
# 经典循环里有 `generate_ref_response=True`：让参考模型对同样的提示也写一份。这会不会影响训练？量一量：打开和关上这个开关，策略写出来的是不是同样的东西；再看看 `step` 收不收参考模型的回复。

# %% [markdown] tags=["en"]
# ### 3.4 Why does the reference write responses, too?
#
# The classic loop has `generate_ref_response=True`: the reference answers the same queries. Does that influence training? Measure: does the policy write the same with the switch on and off, and is there a place for the reference's responses in `step`?

# %%
torch.manual_seed(setup.seed)
alone = trainer.generate(queries, max_new_tokens=8, return_prompt=False)
torch.manual_seed(setup.seed)
ours, theirs = trainer.generate(queries, max_new_tokens=8, return_prompt=False, generate_ref_response=True)
print("the policy's responses are the same:", all(map(torch.equal, alone, ours)))
print("step takes:", [name for name in inspect.signature(PPOTrainer.step).parameters if name != "self"])

# %%
for name, some in (("policy", ours), ("reference", theirs)):
    written = tokenizer.batch_decode(some, skip_special_tokens=True)
    mean = reward_model([q + r for q, r in zip(openings, written, strict=True)]).mean()
    print(f"{name:9} {mean:+.3f}  {openings[0]!r} → {written[0]!r}")

# %% [markdown] tags=["zh"]
# 所以它只是为了**记日志**：同一批提示上，训练中的策略和原来的模型并排放着。参考模型真正的工作是给策略写的词元打对数概率（第 5 节），那不需要它自己写任何东西。

# %% [markdown] tags=["en"]
# So it is there for the **log** only: the policy in training and the model as it was, side by side on the same queries. The real work of the reference is to give log-probabilities to the policy's tokens (section 5), for which it need not write anything.

# %% [markdown] tags=["zh"]
# ## 4 词元与格子
#
# ### 4.1 第 t 格预测第 t+1 个词元
#
# ![词元和预测它们的格子，以及两种填充](../figs/06_slots.svg)
#
# 训练时，提示和回复拼成一条，补在右边，形状 (B, T)。每个位置预测**下一个**词元，所以和回复有关的一切都有 T−1 格（slot）：第 t 格上的对数概率、价值、奖励、优势，说的都是第 t+1 个词元。选一条序列放到显微镜下：

# %% [markdown] tags=["en"]
# ## 4 Tokens and slots
#
# ### 4.1 Slot t predicts token t+1
#
# ![Tokens, the slots that predict them, and the two kinds of padding](../figs/06_slots.svg)
#
# For training, query and response are joined and padded on the right: (B, T). Every position predicts the **next** token, so whatever concerns the response has T−1 slots: log-probability, value, reward and advantage in slot t all speak about token t+1. Put one sequence under the microscope:

# %%
padding = b["mask"].shape[1] - (b["query_lengths"] - 1 + b["response_lengths"])  # (B,) slots behind the end
fits = (padding >= 2) & (b["response_lengths"] >= 6) & (b["response_lengths"] <= 11)  # (B,)
fits &= b["query_lengths"] >= 3
row = int(torch.where(fits, b["scores"], -torch.inf).argmax())  # the best of these
print(f"sequence {row}, score {b['scores'][row]:.2f}:", tokenizer.decode(b["input_ids"][row]))
tape.picture(row, tokenizer, title=f"sequence {row}: one column per slot, headed by the token it predicts")

# %% [markdown] tags=["zh"]
# 灰掉的列不算数：左边是提示，右边是填充。蓝色高于 0，橙色低于 0（`ratio` 一行以 1 为界），每行的颜色自成一个尺度。接下来各节就是自上而下地解释这张表。

# %% [markdown] tags=["en"]
# Faded columns do not count: the query on the left, padding on the right. Blue is above 0, orange below 0 (in the line `ratio`, above and below 1); every line has a colour scale of its own. The sections that follow explain this table from top to bottom.

# %% [markdown] tags=["zh"]
# ### 4.2 哪些格子算数：起点是 len(q) − 1
#
# 回复的第一个词元，是由提示的**最后一个**词元所在的格子预测的。所以起点是 len(q) − 1，不是 len(q)：

# %% [markdown] tags=["en"]
# ### 4.2 Which slots count: the start is len(q) − 1
#
# The first token of the response is predicted by the slot of the **last** query token. So the start is len(q) − 1, not len(q):

# %%
q, r, T = int(b["query_lengths"][row]), int(b["response_lengths"][row]), b["input_ids"].shape[1]
by_hand = torch.zeros(T - 1, dtype=torch.long)
by_hand[q - 1 : q - 1 + r] = 1
torch.testing.assert_close(by_hand, b["mask"][row])
one_late = tokenizer.decode(b["input_ids"][row, 1:][q : q + r - 1])  # what a start of len(q) would train on
print(f"query {q}, response {r}, T {T}: live slots {q - 1} to {q + r - 2}, that is {int(by_hand.sum())}")
print(f"start = len(q): {r - 1} slots, {one_late!r}; lost: {tokenizer.decode(b['input_ids'][row, q])!r}")

# %%
live, slots = int(b["mask"].sum()), b["mask"].numel()
print(f"whole batch: {live} of {slots} slots live = {int(b['response_lengths'].sum())} response tokens")
print(f"one late would lose {B} of them, {B / live:.1%}: the first word of every response")
classic = losses.response_mask(torch.tensor([6]), torch.tensor([32]), 38)  # 6 + 32 tokens: T = 38
where = f"of {classic.numel()} slots, from slot {int(classic.argmax())}"
print(f"a query of 6 and a response of 32: {int(classic.sum())} {where}")
assert live == b["response_lengths"].sum() and classic.sum() == 32

# %% [markdown] tags=["zh"]
# 这个“差一位”是真实代码里出现过的：6 个词元的提示加 32 个词元的回复，拼起来 38 个，算数的应当是 32 格，不是 31 格。丢掉的偏偏是最要紧的第一个词。整批的样子：

# %% [markdown] tags=["en"]
# This off-by-one has been made in real code: a query of 6 tokens and a response of 32 make 38, and 32 slots are live, not 31. The one that gets lost is the first word, of all words. The whole batch:

# %%
slot, begins = torch.arange(T - 1), (b["query_lengths"] - 1)[:, None]  # (T-1,), (B, 1)
ends = begins + b["response_lengths"][:, None]  # (B, 1)
parts = (slot >= begins).long() + (slot >= ends).long()  # (B, T-1): 0 query, 1 response, 2 padding
figure, axes = plt.subplots(figsize=(7.5, 3), layout="constrained")
colours = plt.matplotlib.colors.ListedColormap(["#56B4E9", "#0072B2", "#d9d9d9"])
picture = axes.imshow(parts.T, aspect="auto", cmap=colours, interpolation="nearest")
bar = figure.colorbar(picture, ticks=[0.33, 1, 1.67])
bar.ax.set_yticklabels(["query", "response", "padding"])
bar.ax.invert_yaxis()  # from the top, as in the map
axes.set(xlabel="sequence", ylabel="slot", title=f"{live / slots:.0%} of the slots are live")
axes.yaxis.get_major_locator().set_params(integer=True)
axes.grid(False)
plt.show()

# %% [markdown] tags=["zh"]
# ### 4.3 提示的位置为什么也要算？
#
# 提示那几格的数也都算出来了，然后被掩码乘成 0。那为什么要算？两个测量回答：它们对损失的梯度是不是 0？改动提示里的一个词元，回复的对数概率变不变？

# %% [markdown] tags=["en"]
# ### 4.3 Why are prompt positions computed at all?
#
# The numbers of the prompt's slots are computed and then multiplied by a mask of 0. Why compute them? Two measurements: is their gradient 0? And if one token of the prompt changes, do the log-probabilities of the response?

# %%
few = slice(0, 16)
ids, attention, mask = (b[k][few].to(setup.device) for k in ("input_ids", "attention_mask", "mask"))
old, advantages = (b[k][few].to(setup.device) for k in ("logprobs", "advantages"))  # (16, T-1)
logits, _, _ = trainer.policy(ids, attention)  # (16, T, V)
logits.retain_grad()
ratio = losses.probability_ratio(losses.logprobs_from_logits(logits[:, :-1], ids[:, 1:]), old, mask)
losses.policy_loss(ratio, advantages, mask, config.cliprange)[0].backward()
pull = logits.grad[:, :-1].abs().sum(-1).cpu()  # (16, T-1): how hard the loss pulls at each slot
for part, name in enumerate(("query", "response", "padding")):
    print(f"{name:9} slots: largest gradient {pull[parts[few] == part].max():.2g}")
trainer.optimizer.zero_grad()

# %%
changed = ids.clone()
changed[:, 0] = changed[:, 0].roll(1)  # the first token of another query
with torch.no_grad():
    now, other = (trainer.forward(x, attention)[0] for x in (ids, changed))  # (16, T-1) each
moved = losses.masked_mean((now - other).abs(), mask).item()
print(f"another first token moves the response's log-probabilities by {moved:.2f} nats per token")

# %% [markdown] tags=["zh"]
# 所以：提示的格子**不参与学习**（梯度恰好是 0），却**必须计算**，因为回复的每个词元都要通过注意力读到提示。一次前向把所有位置一起算完，再用掩码挑出要的，比分开算简单得多。

# %% [markdown] tags=["en"]
# So the prompt's slots **take no part in learning** (their gradient is exactly 0) but **have to be computed**: every token of the response reads the prompt through attention. One forward pass computes all positions together, and a mask picks what is needed, which is far simpler than computing them apart.

# %% [markdown] tags=["zh"]
# ## 5 每格四个数
#
# ### 5.1 从 logits 到对数概率：gather，不是 argmax
#
# 模型给出 (B, T, V) 的 logits。最后一个位置预测的词元谁也没写过，丢掉它；其余的做 log-softmax，再取出**实际写下的**那个词元的一项：
#
# $$\log\pi(a_t) = z_{t,a_t} - \log\sum_v e^{z_{t,v}}$$

# %% [markdown] tags=["en"]
# ## 5 Four numbers per slot
#
# ### 5.1 From logits to log-probabilities: gather, not argmax
#
# The model gives logits (B, T, V). The last position predicts a token that nobody has written and is dropped; the others go through a log-softmax, and the entry of the token that was **really written** is taken:
#
# $$\log\pi(a_t) = z_{t,a_t} - \log\sum_v e^{z_{t,v}}$$

# %%
z = torch.tensor([[[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]]])  # (B=1, 2 slots, V=3)
tokens = torch.tensor([[1, 0]])  # (1, 2), the tokens that were written
by_hand = torch.stack([z[0, t, a] - z[0, t].exp().sum().log() for t, a in enumerate(tokens[0])])[None]
torch.testing.assert_close(by_hand, losses.logprobs_from_logits(z, tokens))
print("written:", by_hand, " argmax would give:", z.log_softmax(-1).amax(-1))

# %%
with torch.no_grad():
    z = backbone(ids, attention_mask=attention).logits  # (16, T, V)
wide = z[:, :-1].log_softmax(-1)  # (16, T-1, V)
picked = wide.gather(-1, ids[:, 1:, None]).squeeze(-1)  # (16, T-1, 1) -> (16, T-1)
print(tuple(z.shape), "→", tuple(wide.shape), "→", tuple(picked.shape))
torch.testing.assert_close(picked.cpu(), b["ref_logprobs"][few], rtol=1e-4, atol=1e-4)
agree = (wide.argmax(-1) == ids[:, 1:])[mask.bool()].float().mean()
print(f"only {agree:.0%} of the sampled tokens are the likeliest; argmax would score other tokens instead")

# %% [markdown] tags=["zh"]
# ### 5.2 价值：H → 1，它就是 critic 吗？
#
# 价值头是一个线性层，读的是输出层读的同一个隐状态：(B, T, H) 乘上 (H, 1) 得 (B, T, 1)，挤掉最后一维。

# %% [markdown] tags=["en"]
# ### 5.2 Values: H → 1. Is this the critic?
#
# The value head is one linear layer. It reads the same hidden states as the output layer: (B, T, H) times (H, 1) gives (B, T, 1), and the last dimension is squeezed away.

# %%
with torch.no_grad():
    output = trainer.policy.pretrained_model(ids, attention_mask=attention, output_hidden_states=True)
    hidden, head = output.hidden_states[-1], trainer.policy.v_head.summary  # (16, T, H), Linear(H, 1)
    product = hidden.float() @ head.weight.T + head.bias  # (16, T, 1)
    torch.testing.assert_close(product.squeeze(-1), trainer.policy.v_head(hidden))
print(tuple(hidden.shape), "×", tuple(head.weight.T.shape), "→", tuple(product.shape), "→ squeeze")
print(f"{sum(p.numel() for p in head.parameters())} parameters of its own")

# %% [markdown] tags=["zh"]
# 是的，它就是评论家（critic），只不过没有自己的身子：它长在演员（actor，也就是策略）的躯干上。证据：价值损失的梯度会不会流进躯干？和策略损失的比一比：

# %% [markdown] tags=["en"]
# Yes, it is the critic, but one without a body of its own: it sits on the backbone of the actor, the policy. The evidence: does the gradient of the value loss flow into the backbone? Compare with that of the policy loss:

# %%
batch = trainer.experience.rows(torch.arange(16, device=setup.device))
logprobs, values, _ = trainer.forward(batch.input_ids, batch.attention_mask)  # (16, T-1) each
ratio = losses.probability_ratio(logprobs, batch.logprobs, batch.mask)
parts_of_the_loss = {
    "policy loss": losses.policy_loss(ratio, batch.advantages, batch.mask, config.cliprange)[0],
    f"{config.vf_coef} × value loss": config.vf_coef
    * losses.value_loss(values, batch.values, batch.returns, batch.mask, config.cliprange_value)[0],
}
body = [p for p in trainer.policy.pretrained_model.parameters() if p.requires_grad]
for name, loss in parts_of_the_loss.items():
    gradient = torch.autograd.grad(loss, body, retain_graph=True)
    print(f"{name:16} pulls at the backbone with norm {sum(g.square().sum() for g in gradient) ** 0.5:.3f}")

# %% [markdown] tags=["zh"]
# 别处也有分开的做法：InstructGPT 的价值函数是另一个完整的模型，TRL 0.12 之后的 `PPOTrainer` 也单独要一个 `value_model`。分开更稳，也更贵：多一整份要训练的参数。
#
# ### 5.3 KL：抽样的估计为什么会是负的？
#
# 每格的 KL 只看写下的那个词元：$k_1 = \log\pi - \log\pi_{\mathrm{ref}}$。先看两个词的玩具：

# %% [markdown] tags=["en"]
# Elsewhere they are separate: the value function of InstructGPT is another whole model, and TRL's `PPOTrainer` asked for a `value_model` from 0.12 on. Separate is steadier and dearer, with one more set of parameters to train.
#
# ### 5.3 KL: how can an estimate be negative?
#
# In each slot the KL looks at the written token alone: $k_1 = \log\pi - \log\pi_{\mathrm{ref}}$. First a toy with two words:

# %%
p, ref = torch.tensor([0.7, 0.3]), torch.tensor([0.5, 0.5])
k1 = p.log() - ref.log()  # of either word
print(f"drawn with 70%: {k1[0]:+.3f}   drawn with 30%: {k1[1]:+.3f}   on average {(p * k1).sum():+.3f}")
torch.testing.assert_close((p * k1).sum(), losses.kl_full(p.log(), ref.log()))

# %%
k1 = b["kl"][b["mask"].bool()]  # (live slots,)
per_response = (b["kl"] * b["mask"]).sum(1)  # (B,)
print(
    f"{(k1 < 0).float().mean():.0%} of the slots and {(per_response < 0).float().mean():.0%} of the responses"
)
print(f"are negative; the mean of the batch, objective/kl, is {per_response.mean():.2f} nats")
first = history[0]["objective/kl"]
print(f"in step 1, policy and reference were the same: objective/kl was {first:.2g}")

# %% [markdown] tags=["zh"]
# 抽到一个策略比参考模型更不看好的词元，这一格就是负的；按策略的概率平均起来才不为负。Schulman 的三种估计，记 $\ell = \log\pi_{\mathrm{ref}} - \log\pi$：
#
# $$k_1 = -\ell \qquad k_2 = \tfrac12 \ell^2 \qquad k_3 = e^{\ell} - 1 - \ell$$
#
# 哪个有偏，哪个抖得厉害？在真实的格子上量：每格按策略抽 400 次，和对整个词表求和的精确值比。

# %% [markdown] tags=["en"]
# Draw a token that the policy likes less than the reference does, and the slot is negative; only the average under the policy is not. Schulman's three estimators, with $\ell = \log\pi_{\mathrm{ref}} - \log\pi$:
#
# $$k_1 = -\ell \qquad k_2 = \tfrac12 \ell^2 \qquad k_3 = e^{\ell} - 1 - \ell$$
#
# Which is biased, which is noisy? Measure on real slots: draw 400 times from the policy at each, and compare with the exact value, summed over the vocabulary.

# %%
ell = torch.tensor([-0.5, 0.0, 0.8])
for estimator, formula in (("kl_k1", -ell), ("kl_k2", ell**2 / 2), ("kl_k3", ell.exp() - 1 - ell)):
    torch.testing.assert_close(formula, getattr(losses, estimator)(torch.zeros(3), ell))

p, ref = live_distributions(trainer.policy, 16), live_distributions(ref_model, 16)  # (n, V) each
exact = losses.kl_full(p, ref)  # (n,)
drawn = torch.multinomial(p.exp(), 400, replacement=True)  # (n, 400)
at_p, at_ref = p.gather(1, drawn), ref.gather(1, drawn)  # (n, 400)
estimates = {f"k{i}": getattr(losses, f"kl_k{i}")(at_p, at_ref) for i in (1, 2, 3)}

# %%
rows = []
for name, k in estimates.items():
    bias = k.mean(1) - exact  # (n,), each the mean of 400 draws
    noise = float((k.var(1) / k.shape[1]).mean().sqrt() / len(exact) ** 0.5)
    line = {"estimator": name, "mean": k.mean(), "bias": bias.mean(), "± (2 standard errors)": 2 * noise}
    rows.append(line | {"sd of one draw": k.var(1).mean().sqrt(), "negative draws": (k < 0).float().mean()})
quality = pd.DataFrame(rows).set_index("estimator").astype(float)
print(f"exact KL, mean over {len(exact)} slots: {exact.mean():.4f} nats")
quality.round(4)

# %%
figure, axes = plt.subplots(1, 3, figsize=(8, 2.2), sharey=True, layout="constrained")
for panel, (name, k) in zip(axes, estimates.items(), strict=True):
    panel.hist(k.flatten().clamp(-2, 2).cpu(), bins=80, density=True, log=True)
    panel.axvline(exact.mean().cpu(), color="C1", ls="--", label="exact mean")
    panel.set(title=f"{name}: bias {quality.loc[name, 'bias']:+.3f}", xlabel="one draw, cut to ±2")
axes[0].set(ylabel="density")
axes[0].legend()
plt.show()

# %% [markdown] tags=["zh"]
# $k_1$ 无偏，会出负数；$k_2$ 从不为负，但有偏，两个分布离得越远偏得越多；$k_3$ 从不为负而且无偏（偏差在误差之内），代价是偶尔抽到一个参考模型很看好、策略不看好的词元，$e^{\ell}$ 就很大。经典的 PPO 用 $k_1$ 当税：它进的是**求和**，正负相消正是无偏的来源。`PPOConfig(kl_penalty=...)` 可以换成别的。

# %% [markdown] tags=["en"]
# $k_1$ is unbiased and goes negative. $k_2$ is never negative but biased, the more so the further apart the distributions are. $k_3$ is never negative and unbiased (its bias is within the error), at a price: now and then a token is drawn that the reference likes much better than the policy does, and $e^{\ell}$ is large. The classic PPO taxes with $k_1$: it enters a **sum**, and the cancelling of signs is what makes it unbiased. `PPOConfig(kl_penalty=...)` offers others.

# %% [markdown] tags=["zh"]
# ## 6 功劳怎么分：奖励、优势（advantage）、回报（return）
#
# ![一个词元的路：三个角色给出的数变成 KL、奖励、意外 δ、优势，最后进两个损失；分数只加在最后一个词元上，优势从右往左传](../figs/06_token.svg)
#
# 先跟着一个词元走一遍，数字是编的，算法是真的（图由 `losses` 里的函数算出）。“joy” 不是最后一个词元，所以分数不落在它头上，它自己的奖励只有一点 KL 税；分数的好处是经由优势从右边传过来的。
#
# ### 6.1 每格的奖励
#
# $$r_t = -\beta\,k_{1,t} + [t\ \text{last live}]\cdot \text{score}$$
#
# 分数落在**最后一个没被掩码盖住的**格子上。补齐的一批里，那通常不是最后一列。手算两条，再看真实的这一批里有多少条会放错：

# %% [markdown] tags=["en"]
# ## 6 Sharing out the credit: rewards, advantages, returns
#
# ![One token's way: what three roles say becomes KL, reward, surprise δ and advantage, and ends in two losses; the score is added at the last token only, and the advantage travels from right to left](../figs/06_token.svg)
#
# First follow one token. Its numbers are made up, the arithmetic is real (the functions in `losses` computed the drawing). "joy" is not the last token, so the score does not fall on it, and all the reward of its own is a little KL tax; its share of the score comes from the right, through the advantage.
#
# ### 6.1 One reward per slot
#
# $$r_t = -\beta\,k_{1,t} + [t\ \text{last live}]\cdot \text{score}$$
#
# The score falls on the **last unmasked** slot, which in a padded batch is usually not the last column. Two sequences by hand, and then the real batch: how many scores would be misplaced?

# %%
kl = torch.tensor([[0.0, 0.5, -0.2, 0.1, 9.0], [0.3, 0.4, 0.1, 0.2, -0.1]])  # (2, 5); 9.0 stands on padding
mask = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 1, 1]])  # (2, 5)
rewards, scores_in = -0.2 * kl, torch.tensor([2.0, -1.0])
rewards[0, 2] += scores_in[0]  # the last 1 of the first mask
rewards[1, 4] += scores_in[1]  # the last 1 of the second
torch.testing.assert_close(rewards, losses.token_rewards(scores_in, kl, mask, 0.2)[0])
misplaced = int((losses.last_index(b["mask"]) < T - 2).sum())
print(rewards * mask + 0.0, f"the last column would be wrong for {misplaced} of {B} sequences", sep="\n")

# %% [markdown] tags=["zh"]
# ### 6.2 意外 δ 和优势 A
#
# 价值头在每一格都有预期 $V_t$（和词表的大小 V 无关）。走一步之后的意外叫时序差分误差（temporal-difference error），记作 $\delta_t$；优势是**从这一格往后所有意外的折扣和**：
#
# $$\delta_t = r_t + \gamma V_{t+1} - V_t \qquad A_t = \sum_{k\ge 0} (\gamma\lambda)^k\,\delta_{t+k}$$
#
# 三格的玩具：$\gamma = 1$，$\lambda = 0.5$。先用纸笔算：δ 是 0.3、0.1、0.4；从右往左，优势是 0.4、0.3、0.45。

# %% [markdown] tags=["en"]
# ### 6.2 The surprise δ and the advantage A
#
# In every slot the value head expects $V_t$, no relation of the vocabulary V. The surprise of one step is the temporal-difference error $\delta_t$; the advantage is **the discounted sum of all surprises from this slot on**:
#
# $$\delta_t = r_t + \gamma V_{t+1} - V_t \qquad A_t = \sum_{k\ge 0} (\gamma\lambda)^k\,\delta_{t+k}$$
#
# A toy of three slots, $\gamma = 1$, $\lambda = 0.5$. With pencil and paper: the δ are 0.3, 0.1, 0.4; from right to left, the advantages are 0.4, 0.3, 0.45.

# %%
rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.2, 0.5, 0.6]])  # (1, 3) each
torch.testing.assert_close(losses.td_errors(rewards, values, 1.0), torch.tensor([[0.3, 0.1, 0.4]]))
torch.testing.assert_close(losses.gae(rewards, values, 1.0, 0.5), torch.tensor([[0.45, 0.3, 0.4]]))
print(inspect.getsource(losses.td_errors).split('"""')[2], inspect.getsource(losses.gae).split('"""')[2])

# %% [markdown] tags=["zh"]
# 再用录下来的真实数字，直接按公式里的那个和来算，和训练器用递推算出来的对照：

# %% [markdown] tags=["en"]
# Now with the recorded numbers: the sum exactly as the formula says, against the recursion that the trainer used.

# %%
gamma, lam = config.gamma, config.lam
delta = b["delta"][row]  # (T-1,)
n = len(delta)
summed = torch.stack([sum((gamma * lam) ** k * delta[t + k] for k in range(n - t)) for t in range(n)])
torch.testing.assert_close(summed, b["advantages_raw"][row], rtol=1e-4, atol=1e-5)
torch.testing.assert_close(b["returns"][row], b["advantages_raw"][row] + b["values"][row])  # returns: A + V

# %%
frame = tape.slots(row, tokenizer).query("part == 'response'")
words = [pictures.visible(token) for token in frame["token"]]
figure, axes = plt.subplots(1, 3, figsize=(9.5, 2.4), sharey=True, layout="constrained")
names = {"rewards": "reward: all on the last", "delta": "delta", "advantages_raw": "advantage"}
for panel, (name, title) in zip(axes, names.items(), strict=True):
    panel.bar(range(len(words)), frame[name], color=["C0" if x > 0 else "C1" for x in frame[name]])
    panel.axhline(0, color="k", lw=0.6)
    panel.set_xticks(range(len(words)), words, rotation=60, ha="right", fontsize=7)
    panel.set(title=title)
axes[0].set(ylabel="in units of the score")
plt.show()

# %% [markdown] tags=["zh"]
# 奖励几乎全在最后一格。δ 是一格一格的意外，有正有负，只看得见眼前一步。优势把后面的意外都加了进来，所以第一个词元也分得到最后那个分数。**拿 δ 的列表当优势**是真实代码里的错误：等于 $\lambda = 0$，前面的词元几乎学不到分数。
#
# ### 6.3 白化（whitening）
#
# 优势减去均值、除以标准差，只用活的格子。填充格里的零要是混进来，均值和标准差就都偏了：

# %% [markdown] tags=["en"]
# Nearly all reward is in the last slot. The δ are surprises slot by slot, up and down, and look one step ahead only. The advantage adds up the later ones, so even the first token gets its share of the final score. **Using the list of δ as advantages** is a mistake made in real code: it amounts to $\lambda = 0$, and the early tokens hardly learn about the score.
#
# ### 6.3 Whitening
#
# Subtract the mean and divide by the standard deviation, over live slots only. If the zeros of padding get in, mean and standard deviation are both off:

# %%
x = torch.tensor([[1.0, 2.0, 0.0, 0.0], [4.0, 5.0, 6.0, 0.0]])
mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
lively = x[mask.bool()]  # (5,)
by_hand = (x - lively.mean()) / lively.std() * mask
torch.testing.assert_close(by_hand, losses.whiten(x, mask))
print(
    f"live slots: mean {lively.mean():.2f}, sd {lively.std():.2f}; with padding {x.mean():.2f}, {x.std():.2f}"
)

# %%
inside = losses.masked_mean(b["advantages"], b["mask"]).item()
print(f"mean of the whitened advantages over the batch: {inside:.1e}")
for update in tape.updates[:2]:
    part = losses.masked_mean(update["mask"] * b["advantages"][update["rows"]], update["mask"]).item()
    print(f"over one minibatch of {len(update['rows'])}: {part:+.4f}")
print(f"ppo/policy/advantages_mean, the mean of these: {stats['ppo/policy/advantages_mean']:+.1e}")
assert abs(inside) < 1e-6

# %% [markdown] tags=["zh"]
# 所以日志里 `ppo/policy/advantages_mean` 是 1e-9 那么小的数，并不说明策略没在学：白化刚把均值减掉，剩下的只是舍入误差。（白化针对整批，分到各个小批就不再恰好是 0。整批当一个小批时，看到的就是那个 1e-9。）

# %% [markdown] tags=["en"]
# So when the log says that `ppo/policy/advantages_mean` is some 1e-9, it does not mean that nothing is learnt: whitening has just subtracted the mean, and rounding is what is left. (The whole batch is whitened together, so a minibatch is not exactly at 0. With one minibatch per batch, you see that 1e-9.)

# %% [markdown] tags=["zh"]
# ## 7 更新
#
# ### 7.1 概率比一遍一遍地走远
#
# 同一批数据要用好几遍。每更新一次，策略就不再是写下这些回复的那个；概率比（probability ratio）$\rho_t = \exp(\log\pi - \log\pi_{\mathrm{old}})$ 量它走了多远。第一个小批算的时候还没更新过，所以处处恰好是 1：

# %% [markdown] tags=["en"]
# ## 7 The updates
#
# ### 7.1 The ratio walks away, pass by pass
#
# A batch is used several times. With every update the policy is less the one that wrote these responses; the ratio $\rho_t = \exp(\log\pi - \log\pi_{\mathrm{old}})$ says how far it has gone. When the first minibatch is computed, nothing has been updated yet: it is 1 everywhere, exactly.

# %%
first = tape.updates[0]
hand = ((first["logprobs"] - b["logprobs"][first["rows"]]) * first["mask"]).exp()  # (b, T-1)
torch.testing.assert_close(hand, first["ratio"])
spread = (first["ratio"] - 1).abs().max().item()
print(f"first minibatch: largest |ratio − 1| {spread:.1e}, clipped {first['policy_clipfrac']:.0%}")

# %%
figure, axes = plt.subplots(1, 3, figsize=(9.5, 2.4), layout="constrained")
for epoch in range(config.ppo_epochs):
    some = torch.cat([u["ratio"][u["mask"].bool()] for u in tape.updates if u["epoch"] == epoch])
    axes[0].hist(some.clamp(0.4, 1.6), bins=60, histtype="step", label=f"epoch {epoch + 1}", log=True)
for edge in (1 - config.cliprange, 1 + config.cliprange):
    axes[0].axvline(edge, color="k", lw=0.8, ls=":")
axes[0].set(title="ratio of every live slot", xlabel="ratio, cut to 0.4 … 1.6", ylabel="slots")
axes[0].set_ylim(top=30 * axes[0].get_ylim()[1])  # room for the legend
axes[0].legend(ncols=2, loc="upper center")
axes[1].plot([u["policy_clipfrac"] for u in tape.updates], marker=".")
axes[1].set(title="share of clipped slots", xlabel="minibatch pass")
axes[2].plot([u["approx_kl"] for u in tape.updates], marker=".", label="approx_kl (k2)")
axes[2].plot([u["policy_kl"] for u in tape.updates], marker=".", label="policy_kl (k1)")
axes[2].set(title="distance from the old policy", xlabel="minibatch pass", ylabel="nats per token")
axes[2].legend()
plt.show()

# %% [markdown] tags=["zh"]
# ### 7.2 裁剪（clipping）：四种情形
#
# $$L_t = \max\bigl(-A_t\rho_t,\; -A_t\,\mathrm{clip}(\rho_t, 1-\epsilon, 1+\epsilon)\bigr)$$
#
# ![裁剪：横轴是概率比，纵轴是损失。好词元涨过 1 + ε、坏词元跌过 1 − ε 以后损失走平，没有梯度；走错方向的照样有](../figs/06_clip.svg)
#
# 概率比走出 $1\pm\epsilon$ 并不等于被裁剪，还要看方向。用自动微分看四种情形各自的梯度：

# %% [markdown] tags=["en"]
# ### 7.2 Clipping: four cases
#
# $$L_t = \max\bigl(-A_t\rho_t,\; -A_t\,\mathrm{clip}(\rho_t, 1-\epsilon, 1+\epsilon)\bigr)$$
#
# ![Clipping: the loss over the ratio. It is flat, without a gradient, where a good token rose beyond 1 + ε or a bad one fell below 1 − ε; a move the wrong way keeps its gradient](../figs/06_clip.svg)
#
# A ratio outside $1\pm\epsilon$ is not always clipped; the direction matters. Automatic differentiation shows the gradient in each of four cases:

# %%
ratio = torch.tensor([[1.5, 0.5, 1.5, 0.5]], requires_grad=True)  # (1, 4)
A, ones = torch.tensor([[1.0, 1.0, -1.0, -1.0]]), torch.ones(1, 4)
by_hand = torch.max(-A * ratio, -A * ratio.clamp(0.8, 1.2)).mean()
loss, share = losses.policy_loss(ratio, A, ones, 0.2)
torch.testing.assert_close(by_hand, loss)
loss.backward()
for a, rho, slope in zip(A[0].tolist(), ratio[0].tolist(), ratio.grad[0].tolist(), strict=True):
    print(f"A = {a:+.0f}, ratio {rho}: gradient {slope:+.2f}{'' if slope else ', clipped'}")
print(f"clip fraction {share:.0%}")

# %% [markdown] tags=["zh"]
# 损失是四格的平均，所以不被裁剪的梯度是 1/4；更新朝着梯度的反方向走，负的梯度让概率上升。只有“已经朝着有利方向走出去”的才被裁剪：好词元（A > 0）涨过了头，坏词元（A < 0）跌过了头。走错方向的不封顶，照样拉回来。
#
# ### 7.3 价值也裁剪
#
# 新的价值离采样时的价值最多走 ε，两种误差取大的：

# %% [markdown] tags=["en"]
# The loss is the mean of four slots, so a gradient that is not clipped has size 1/4; an update goes against the gradient, and a negative one raises the probability. Only what has already moved out in the profitable direction is clipped: good tokens (A > 0) that rose too far, bad ones (A < 0) that fell too far. A move the wrong way is never capped and gets pulled back.
#
# ### 7.3 Values are clipped, too
#
# A new value may move at most ε from the one at the rollout, and the larger of two errors counts:

# %%
new, old, R = torch.tensor([[1.0, 0.4]]), torch.tensor([[0.5, 0.5]]), torch.tensor([[2.0, 0.0]])
kept = torch.clamp(new, old - 0.2, old + 0.2)  # [[0.7, 0.4]]
by_hand = torch.max((new - R) ** 2, (kept - R) ** 2).mean() / 2
loss, share = losses.value_loss(new, old, R, torch.ones(1, 2), 0.2)
torch.testing.assert_close(by_hand, loss)
total = tape.updates[-1]["policy_loss"] + config.vf_coef * tape.updates[-1]["value_loss"]
torch.testing.assert_close(total, tape.updates[-1]["loss"])  # what is differentiated
print(f"value loss {loss:.3f}, {share:.0%} of the values clipped; total = policy + {config.vf_coef} × value")

# %% [markdown] tags=["zh"]
# ### 7.4 仪表盘：熵、近似 KL、提前停止
#
# 熵（entropy）是下一个词元有多拿不准。近似 KL 是策略在这一步之内离采样时的自己多远：`approx_kl` 用 $k_2$，恒不为负；`policy_kl` 用 $k_1$，带符号。它们只用来看，和参考模型无关，也不进损失。

# %% [markdown] tags=["en"]
# ### 7.4 The dashboard: entropy, approximate KL, early stopping
#
# Entropy says how undecided the next token is. The approximate KL is how far, within this step, the policy has moved from the one that sampled: `approx_kl` uses $k_2$ and is never negative, `policy_kl` uses $k_1$ with its sign. They are for looking at; they have nothing to do with the reference and enter no loss.

# %%
z = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])  # (2, V=3)
p = z.softmax(-1)
torch.testing.assert_close(-(p * p.log()).sum(-1), losses.entropy_from_logits(z))
sure, undecided = losses.entropy_from_logits(z).tolist()
print(f"entropy of a sure slot {sure:.3f}, of an undecided one {undecided:.3f}, which is log 3")
last = tape.updates[-1]
moved, m = (last["logprobs"] - b["logprobs"][last["rows"]])[last["mask"].bool()], last["mask"]
torch.testing.assert_close(last["approx_kl"], (moved**2).mean() / 2)
torch.testing.assert_close(last["policy_kl"], -moved.mean())

# %% [markdown] tags=["zh"]
# 打开 `early_stopping`（提前停止）后，每一遍结束时看最后一个小批的 `policy_kl`，超过 `target_kl` 的 1.5 倍就不再走剩下的几遍。拿录下来的数字问：要是开着，会停在哪一遍？

# %% [markdown] tags=["en"]
# With `early_stopping` on, the `policy_kl` of the last minibatch is looked at after every epoch; above 1.5 times `target_kl` the remaining epochs are left out. Ask the recording: where would it have stopped?

# %%
at_the_end = {u["epoch"]: float(u["policy_kl"]) for u in tape.updates}  # the last minibatch of each epoch
print({epoch + 1: round(kl, 4) for epoch, kl in at_the_end.items()})
for target in (1.0, 0.05, 0.01, 0.002):
    stop = next((epoch + 1 for epoch, kl in at_the_end.items() if kl > 1.5 * target), None)
    print(f"target_kl {target}: " + (f"stops after epoch {stop}" if stop else "goes through all epochs"))

# %% [markdown] tags=["zh"]
# ### 7.5 拼起来：恰好一次优化器更新
#
# 前面的零件，就是训练器的几个方法。从头取一个策略，把它们一个个调用，只更新**一次**；然后拿同一批数据再更新九次，看第 12 节的表里会怎样。

# %% [markdown] tags=["en"]
# ### 7.5 Assembled: exactly one optimiser step
#
# The parts above are methods of the trainer. Take a policy from the start, call them one after the other, and update **once**; then nine times more on the same batch. The table of section 12 shows what that does.

# %%
start = AutoModelForCausalLMWithValueHead.from_pretrained(setup.policy, seed=setup.seed).to(setup.device)
plain = PPOConfig(**knobs | {"mini_batch_size": B, "gradient_accumulation_steps": 1}, log_with="none")
single = PPOTrainer(plain, start, ref_model, tokenizer)
responses, scores = rollout(single)
checked = single.validate(queries, responses, scores)  # check and pad
experience = single.forward_rollouts(checked)  # log-probabilities, values, KL
single.compute_rewards(experience, checked.scores)
single.compute_advantages(experience)
everyone = torch.arange(B, device=setup.device)
passes = single.update(experience, everyone)  # forward, loss, backward, Adam: one optimiser step
after_one = copy.deepcopy(single.policy)
for _ in range(9):
    passes += single.update(experience, everyone)
print(
    f"clipped: {passes[0]['policy/clipfrac']:.0%} in the first update, {passes[-1]['policy/clipfrac']:.0%} in the tenth"
)

# %% [markdown] tags=["zh"]
# ## 8 β 怎么动
#
# 一步的最后，自适应 KL 控制器（adaptive KL controller）调整 KL 的税率：
#
# $$e = \mathrm{clip}\!\left(\frac{\mathrm{KL}}{\mathrm{target}} - 1,\, -0.2,\, 0.2\right) \qquad \beta \leftarrow \beta\left(1 + e\,\frac{B}{\mathrm{horizon}}\right)$$
#
# KL 差得再远，一步最多也只动 0.2 · B / horizon：B 是 128、`horizon` 是 10,000 时，是千分之 2.56。

# %% [markdown] tags=["en"]
# ## 8 How β moves
#
# At the end of a step the controller adjusts the rate of the KL tax:
#
# $$e = \mathrm{clip}\!\left(\frac{\mathrm{KL}}{\mathrm{target}} - 1,\, -0.2,\, 0.2\right) \qquad \beta \leftarrow \beta\left(1 + e\,\frac{B}{\mathrm{horizon}}\right)$$
#
# However far the KL is off, one step moves it by at most 0.2 · B / horizon: 2.56 per mille when B is 128 and `horizon` is 10,000.

# %%
for measured in (0.5, 6.5, 60.0):
    controller = AdaptiveKLController(0.2, target=6.0, horizon=10_000)
    controller.update(measured, 128)
    error = min(max(measured / 6.0 - 1, -0.2), 0.2)
    assert abs(controller.value - 0.2 * (1 + error * 128 / 10_000)) < 1e-12
    print(f"KL {measured:4}: error {error:+.3f}, beta 0.2 → {controller.value:.6f}")
print(f"this run: beta {config.init_kl_coef} → {trainer.kl_ctl.value:.5f} in {steps} steps")

# %% [markdown] tags=["zh"]
# 由此可以解释一个常见的疑问：**KL 为什么总停在目标之上？** 一次 184 步、每步 128 条的训练里，就算 KL 一直超标，β 也只能从 0.2 走到 0.32：

# %% [markdown] tags=["en"]
# That explains a frequent doubt: **why does the KL settle above its target?** In a run of 184 steps of 128, even with the KL too high all the time, β only gets from 0.2 to 0.32:

# %%
print(f"0.2 × (1 + 0.2 × 128 / 10000)^184 = {0.2 * (1 + 0.2 * 128 / 10_000) ** 184:.3f}")
controller, betas, kls = AdaptiveKLController(0.2, target=6.0, horizon=10_000), [], []
for _ in range(400):
    kls.append(2.4 / controller.value)  # a made-up policy: twice the tax, half the KL; 12 nats at 0.2
    betas.append(controller.value)
    controller.update(kls[-1], 128)
for step in (0, 184, 271, 399):
    print(f"step {step:3}: beta {betas[step]:.3f}, KL {kls[step]:.2f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 2.3), layout="constrained")
for panel, curve, title in zip(axes, (betas, kls), ("beta", "KL, toy policy"), strict=True):
    panel.plot(curve)
    panel.axvline(184, color="k", lw=0.8, ls=":")
    panel.set(title=title, xlabel="PPO step (dotted: 184)")
axes[1].axhline(6.0, color="C1", ls="--")
axes[1].set(ylabel="nats per response")
plt.show()

# %% [markdown] tags=["zh"]
# 玩具里假设税率翻倍、KL 减半：0.2 时 KL 是 12，要回到 6，β 得到 0.4，就算步步都用足 0.2 也要 271 步；实际还要更久，因为 KL 离目标不到两成以后，步子就越来越小。训练在 184 步结束，KL 自然停在目标之上。这不是错误，是控制器慢。想快一点，可以把 `horizon` 调小，或一开始就给大一点的 `init_kl_coef`。

# %% [markdown] tags=["en"]
# The toy assumes that doubling the tax halves the KL: 12 at a rate of 0.2, so to get back to 6, β has to reach 0.4, which takes 271 steps even at full speed; it takes longer, since the steps shrink once the KL is less than 0.2 of the target away. If training ends at 184, the KL ends above its target. That is no error, the controller is slow. To speed it up, use a smaller `horizon`, or a larger `init_kl_coef` from the start.

# %% [markdown] tags=["zh"]
# ## 9 日志：`Logging with tensorboard requires a logging_dir`
#
# 照着老教程写 `log_with="tensorboard"`，常常在第一行就碰到这个错误。原因：`PPOConfig` 的 `log_with` 传给了 Accelerate，而 TensorBoard 要知道写到哪个文件夹；Accelerate 从 `ProjectConfiguration` 里拿这个路径，TRL 则把它藏在 `project_kwargs` 里，默认是空的。重现一遍：

# %% [markdown] tags=["en"]
# ## 9 Logs: `Logging with tensorboard requires a logging_dir`
#
# Follow an old tutorial, write `log_with="tensorboard"`, and this error often comes with the first line. The cause: the `log_with` of `PPOConfig` is handed to Accelerate, and TensorBoard must know which folder to write to; Accelerate takes it from a `ProjectConfiguration`, which TRL filled from `project_kwargs`, empty by default. Reproduce it:

# %%
try:
    Accelerator(log_with="tensorboard", **config.accelerator_kwargs)
except ValueError as error:
    print(error)
project = ProjectConfiguration(logging_dir=str(setup.output / "runs"))  # what project_kwargs is made into
works = Accelerator(log_with="tensorboard", project_config=project, **config.accelerator_kwargs)
print("with a logging_dir:", [str(kind) for kind in works.log_with])

# %%
print("project_kwargs here:", config.project_kwargs, "· log_with:", config.log_with)
found = [path for path in config.logging_dir.rglob("*tfevents*") if path.is_file()]
print(len(found), "file(s) of TensorBoard logs,", sum(path.stat().st_size for path in found) // 1024, "KiB")
assert found, "no log was written"

# %% [markdown] tags=["zh"]
# 在这门课里什么都不用设置：不写就是 TensorBoard，文件夹自动建在 `output` 下面；老教程里的 `project_kwargs={"logging_dir": ...}` 照样认得。

# %% [markdown] tags=["en"]
# In this course nothing needs to be set: without a word it is TensorBoard, in a folder that is made under `output`; the `project_kwargs={"logging_dir": ...}` of old tutorials is understood all the same.

# %% [markdown] tags=["zh"]
# ## 10 如果换一组旋钮？
#
# `tape.what_if` 拿录下来的对数概率、价值和分数，用训练器自己的方法重算奖励和优势，换成别的 β、γ、λ；换裁剪范围 ε 时，概率比保持录下来的样子。先看静止的四联图：

# %% [markdown] tags=["en"]
# ## 10 What if the knobs were different?
#
# `tape.what_if` takes the recorded log-probabilities, values and scores and lets the trainer's own methods compute rewards and advantages again, with another β, γ or λ; for another clip range ε, the ratios stay as they were recorded. First four pictures that stand still:

# %%
figure, axes = plt.subplots(1, 4, figsize=(11, 3.4), layout="constrained")
knob_values = {"beta": (0.0, 0.2, 1.0), "gamma": (0.8, 0.95, 1.0), "lam": (0.0, 0.7, 0.95, 1.0)}
for panel, (knob, some) in zip(axes, knob_values.items(), strict=False):
    for value in some:
        line = tape.what_if(**{knob: value}).slots(row).query("part == 'response'")
        panel.plot(range(r), line["advantages_raw"], marker=".", label=f"{knob} {value}")
    panel.axhline(0, color="k", lw=0.6)
    panel.set(title=f"advantage and {knob}", xlabel="response token")
    panel.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.22))  # below: lines fill the panel
axes[0].set_ylabel("in units of the score")
ranges, shares = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5), []
for value in ranges:
    u = tape.what_if(cliprange=value).updates[-1]  # the last minibatch of the step
    shares.append(losses.masked_mean((u["policy_clipped"] > u["policy_plain"]).float(), u["mask"]))
axes[3].plot(ranges, shares, marker=".")
axes[3].set(title="share of clipped slots, last pass", xlabel="clip range", ylim=(0, None))
plt.show()

# %% [markdown] tags=["zh"]
# - **β** 越大，偏离参考模型的词元被压得越低。
# - **γ** 小于 1，分数传到前面要打折；回复这么短，一般不打折。
# - **λ** 为 0 时优势就是 δ，只看一步；为 1 时就是“后面的奖励之和减去价值”，不再相信后面各格的价值，但抖动大。
# - **ε** 越小，越多的格子不再给梯度。
#
# 在运行着的 notebook 里，下面是四个滑块和随之变化的格子表；在静态页面上看不到滑块，看上面的图就好。

# %% [markdown] tags=["en"]
# - The larger **β**, the lower the tokens that leave the reference.
# - With **γ** below 1 the score is discounted on its way to the front; for responses this short one does not.
# - With **λ** at 0 the advantage is δ and looks one step ahead; at 1 it is "the sum of later rewards less the value": it no longer trusts the values of later slots, and it is noisy.
# - The smaller **ε**, the more slots give no gradient any more.
#
# In a running notebook, four sliders follow, with a grid that changes along. A static page shows no sliders; the pictures above have to do there.


# %%
def draw(beta, gamma, lam, epsilon):
    other = tape.what_if(beta=beta, gamma=gamma, lam=lam, cliprange=epsilon)
    return other.grid(row, tokenizer, title=f"beta {beta}, gamma {gamma}, lambda {lam}, clip range {epsilon}")


starts = {"beta": (0, 2, 0.05, tape.beta[0]), "gamma": (0.5, 1, 0.01, gamma)}
starts |= {"lam": (0, 1, 0.05, lam), "epsilon": (0.01, 0.6, 0.01, config.cliprange)}
display(pictures.sliders(draw, **starts))
tape.grid(row, tokenizer, title="as recorded")

# %% [markdown] tags=["zh"]
# ## 11 检查
#
# 到这里说过的话，在整批数据上一次查完：

# %% [markdown] tags=["en"]
# ## 11 Checks
#
# What has been said so far, checked over the whole batch at once:

# %%
recorded = trainer.experience  # the trainer's own memory of the step
for name in ("logprobs", "ref_logprobs", "kl", "rewards", "values", "advantages", "returns"):
    assert torch.equal(getattr(recorded, name).cpu(), b[name]), name
dead = b["mask"] == 0
assert not b["advantages"][dead].any() and not b["values"][dead].any()
assert torch.equal(b["delta"], losses.td_errors(b["rewards_used"], b["values"], config.gamma))
clip_fractions = [float(u["policy_clipfrac"]) for u in tape.updates]
assert abs(sum(clip_fractions) / len(clip_fractions) - stats["ppo/policy/clipfrac"]) < 1e-6
assert tape.beta == (stats["objective/kl_coef"], trainer.kl_ctl.value)
print("the recording agrees with the trainer, slot by slot")

# %% [markdown] tags=["zh"]
# ## 12 训练前后
#
# ### 12.1 同一批提示，重新抽样
#
# 四个策略：出发时的；恰好更新一次的；在同一批上更新十次的（第 7.5 节）；走完十步 PPO 的。每个策略给这一批的每条提示重写两条回复，长度和随机种子相同，配对比较。

# %% [markdown] tags=["en"]
# ## 12 Before and after
#
# ### 12.1 The same prompts, sampled afresh
#
# Four policies: as at the start; after exactly one optimiser step; after ten on one and the same batch (section 7.5); after ten PPO steps. Each writes two new responses to every query of the batch, with the same lengths and the same seeds, and they are compared in pairs.

# %%
policies = {"before": ref_model, "1 optimiser step": after_one}
policies |= {"10 optimiser steps, one batch": single.policy, f"{steps} PPO steps": trainer.policy}
counts = [0, 1, 10, len(tape.updates) * steps]
twice = [ids for ids in queries for _ in range(2)]  # 2B queries
limits = evaluate.response_lengths(setup, 2 * B, seed=setup.seed + 1)
rows, baseline = [], None
for (name, policy), count in zip(policies.items(), counts, strict=True):
    sample = evaluate.respond(policy, tokenizer, twice, limits, seed=setup.seed + 1)
    score = reward_model(tokenizer.batch_decode(sample.sequences, skip_special_tokens=True))  # (2B,)
    score = score.view(B, 2).mean(1).tolist()  # one number per query
    baseline = baseline or score
    gain = report.bootstrap_gain(baseline, score)
    line = {"policy": name, "optimiser steps": count, "score": sum(score) / B}
    line |= dict(zip(("gain", "95% low", "95% high"), gain, strict=True))
    line["KL"] = evaluate.response_kl(policy, ref_model, sample).mean().item()
    rows.append(line | {"distinct-2": report.distinct_n(sample.texts(tokenizer))})
ladder = pd.DataFrame(rows).set_index("policy")
ladder.round(3)

# %%
for name, line in ladder.iloc[1:].iterrows():
    verdict = "above zero" if line["95% low"] > 0 else "not told apart from zero"
    bought = f"{line['gain']:+.2f} for {line['KL']:.2f} nats of KL"
    print(f"{name:30} {bought}; interval [{line['95% low']:+.2f}, {line['95% high']:+.2f}], {verdict}")
assert ladder["95% low"].iloc[-1] > 0, "ten PPO steps did not raise the reward of their own batch"

# %% [markdown] tags=["zh"]
# 上面几句是代码照着区间写的，换一个种子会变；只有最后一行是这一课保证的。中间两行常常和零分不开：一次更新走得太短；在**同一批**上反复更新，KL 照样花出去，被裁剪的格子越来越多（第 7.5 节），信息却还是那一批的。要继续往前走，得用**新写的回复**，这就是 PPO 把采样放在循环里的原因。
#
# ### 12.2 没见过的提示
#
# 十步都用同一批提示，会不会只是把它们背熟了？所以结尾的表照例用**留出提示**（held-out prompts）：来自测试集，训练从没用过；另有一位没参与训练的第二位评委（second judge）（只看词的逻辑回归，用测试集里别的影评训练）。

# %% [markdown] tags=["en"]
# The code wrote these lines by looking at the intervals; another seed may change them, and only the last is what this lesson guarantees. The rows between often cannot be told from zero: a single update is too short a way; updates on **the same batch**, again and again, spend KL all the same, more and more slots are clipped (section 7.5), and the information is still that of one batch. To get further takes **freshly written responses**; that is why sampling is inside PPO's loop.
#
# ### 12.2 Prompts it never saw
#
# Ten steps on the same queries: has it just learnt them by heart? The closing table therefore uses **held-out prompts** as always: from the test split, never trained on; with a second judge that took no part in training (a logistic regression on words, fitted to other reviews of the test split).

# %%
held_out = evaluate.held_out_prompts(setup, tokenizer, seed=setup.seed)
judge = WordJudge.fit(evaluate.judge_reviews(setup, held_out, limit=3_000))
limits = evaluate.response_lengths(setup, len(held_out), seed=setup.seed)
before, after = (
    evaluate.respond(policy, tokenizer, held_out, limits, seed=setup.seed)
    for policy in (ref_model, trainer.policy)
)
kl = evaluate.response_kl(trainer.policy, ref_model, after)  # (N,)

# %% tags=["table"]
result = evaluate.compare(
    held_out,
    before,
    after,
    tokenizer,
    reward_model,
    judge=judge,
    kl=kl,
    shown=setup.evaluation["shown"],
    title=f"06 PPO step by step: before, and after {steps} PPO steps",
    meta=report.run_meta(setup, started),
)
result.save(setup.output)
result

# %%
low, high = result.gain[1:]
told = "the gain is real" if low > 0 else "no gain that could be told from chance"
print(f"held-out prompts, 95% interval [{low:+.2f}, {high:+.2f}]: {told}")
print(result.summary())

# %% [markdown] tags=["zh"]
# 十步只是开了个头。完整的训练、每个指标的曲线、各种失败的样子，在[第 07 课](07_ppo_imdb.ipynb)。

# %% [markdown] tags=["en"]
# Ten steps are a beginning only. The whole training, the curve of every metric, and the ways in which it fails are in [lesson 07](07_ppo_imdb.ipynb).

# %% [markdown] tags=["zh"]
# ## 13 小结
#
# - 一条序列有 T 个词元、T−1 格；第 t 格说的是第 t+1 个词元；活的格子从 len(q) − 1 开始，和回复的词元一样多。
# - 对数概率是从 log-softmax 里 gather 出**写下的**词元；抽样用的分布必须和它是同一个。
# - 奖励 = −β·KL，分数加在最后一个活的格子上；优势是 δ 的折扣和，不是 δ 本身；白化只看活的格子。
# - 概率比从恰好 1 出发；走过头、而且方向有利的才被裁剪。
# - β 一步最多动 0.2 · B / horizon，所以 KL 会停在目标之上。
# - 单个样本的 KL 可以是负的；`advantages_mean` 近于 0 只说明做了白化。

# %% [markdown] tags=["en"]
# ## 13 Summary
#
# - A sequence has T tokens and T−1 slots; slot t speaks about token t+1; live slots begin at len(q) − 1, and there are as many as response tokens.
# - A log-probability is gathered from the log-softmax at the token that was **written**; samples must come from that very distribution.
# - The reward is −β·KL, with the score on the last live slot; the advantage is the discounted sum of the δ, not the δ; whitening looks at live slots only.
# - Ratios start at exactly 1; what moved too far, in the profitable direction, is clipped.
# - β moves by at most 0.2 · B / horizon per step, which is why the KL settles above its target.
# - The KL of a single sample can be negative; an `advantages_mean` near 0 only says that there was whitening.

# %% [markdown] tags=["zh"]
# ## 14 练习
#
# 把 `...` 换成你的答案再运行，批改结果马上出现。参考答案折叠在每题后面。
#
# ### 练习 1（找错）：回复的对数概率
#
# 下面的函数想给**一条**序列的回复词元算对数概率。它不报错，形状多半也对，两个错误却都是真实代码里犯过的。写出正确的版本。

# %% [markdown] tags=["en"]
# ## 14 Exercises
#
# Replace `...` with your answer and run the cell; it is graded at once. A solution is folded away after each exercise.
#
# ### Exercise 1 (find the bug): log-probabilities of a response
#
# The function below is meant to give the log-probabilities of the response tokens of **one** sequence. It raises nothing, and its shape is mostly right, but both of its mistakes have been made in real code. Write the correct one.


# %%
def buggy_logprobs(logits, ids, query_length, response_length):
    """logits (T, V), ids (T,) -> log-probabilities of the response tokens, (R,)."""
    logprobs = logits.log_softmax(-1)  # (T, V)
    tokens = logprobs.argmax(-1)  # (T,)
    picked = logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)  # (T,)
    return picked[query_length : query_length + response_length]


# %% tags=["exercise"]
def response_logprobs(logits, ids, query_length, response_length): ...  # your code


checks.e06_1(response_logprobs)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_1(logits, ids, query_length, response_length):
    start = query_length - 1  # the last query token predicts the first response token
    logprobs = logits[start : start + response_length].log_softmax(-1)  # (R, V)
    tokens = ids[query_length : query_length + response_length]  # (R,), what was written
    return logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


checks.e06_1(solution_1).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 2（找错）：从分数到优势
#
# 这个函数想算白化之前的优势。里面又是两个真实的错误，一个在奖励里，一个在后面。（掩码为 0 的位置返回什么都行。）

# %% [markdown] tags=["en"]
# ### Exercise 2 (find the bug): from scores to advantages
#
# This function is meant to compute the advantages before whitening. Again two real mistakes, one in the rewards and one after them. (Where the mask is 0 you may return anything.)


# %%
def buggy_advantages(scores, kl, values, mask, beta, gamma, lam):
    """scores (B,), the others (B, N), mask 1 on live slots -> advantages (B, N)."""
    rewards = -beta * kl
    rewards[:, -1] += scores
    rewards, values = rewards * mask, values * mask
    next_values = torch.cat([values[:, 1:], torch.zeros(len(values), 1)], dim=1)
    return rewards + gamma * next_values - values


# %% tags=["exercise"]
def advantages_of(scores, kl, values, mask, beta, gamma, lam): ...  # your code


checks.e06_2(advantages_of)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_2(scores, kl, values, mask, beta, gamma, lam):
    rewards, values = -beta * kl * mask, values * mask
    last = (mask * torch.arange(mask.shape[1])).argmax(1)  # (B,), the last live slot
    rewards[torch.arange(len(scores)), last] += scores
    advantages, advantage, next_value = torch.zeros_like(values), 0.0, 0.0
    for t in reversed(range(mask.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * advantage  # add up the surprises to come
        advantages[:, t], next_value = advantage, values[:, t]
    return advantages


checks.e06_2(solution_2).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 3（先预测，再运行）
#
# 一条回复有 10 个词元，分数是 2，价值头在每一格都说 0.5，没有 KL（$\beta = 0$），$\gamma = 1$。**第一个**词元的优势，在 $\lambda = 0$、$\lambda = 0.95$、$\lambda = 1$ 时各是多少？用纸笔或计算器，误差在 1% 以内算对。

# %% [markdown] tags=["en"]
# ### Exercise 3 (predict first, then run)
#
# A response has 10 tokens and scores 2; the value head says 0.5 in every slot; there is no KL ($\beta = 0$), and $\gamma = 1$. What is the advantage of the **first** token at $\lambda = 0$, at $\lambda = 0.95$, at $\lambda = 1$? Pencil or calculator; within 1% counts as right.

# %% tags=["exercise"]
prediction = [..., ..., ...]  # lambda 0, 0.95, 1
checks.e06_3(prediction)

# %% tags=["solution"] jupyter={"source_hidden": true}
rewards, values = torch.zeros(1, 10), torch.full((1, 10), 0.5)
rewards[0, -1] = 2.0
measured = [losses.gae(rewards, values, 1.0, lam)[0, 0].item() for lam in (0.0, 0.95, 1.0)]
print(measured)  # only the last delta is not 0: 1.5, and it travels 9 slots
checks.e06_3(measured).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 4（找错）：白化
#
# 优势要白化，可是一批里长短不齐，短的后面补了 0。下面的函数错在哪里？写一个 `whiten(x, mask)`：活的格子均值为 0、标准差为 1，其余的格子返回 0。

# %% [markdown] tags=["en"]
# ### Exercise 4 (find the bug): whitening
#
# Advantages are to be whitened, but responses differ in length and the short ones are filled up with 0. What is wrong below? Write `whiten(x, mask)`: mean 0 and standard deviation 1 over the live slots, and 0 in all others.


# %%
def buggy_whiten(x, mask):
    """x (B, N), mask 1 on live slots -> (B, N)."""
    x = x * mask
    return (x - x.mean()) / x.std()


# %% tags=["exercise"]
def whiten(x, mask): ...  # your code


checks.e06_4(whiten)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_4(x, mask):
    live = x[mask.bool()]  # (number of live slots,)
    return (x - live.mean()) / live.std() * mask


checks.e06_4(solution_4).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 5：谁被裁剪了？
#
# 写 `clipped(ratio, advantages, epsilon)`：对每一格返回真或假，真表示这一格因为裁剪而**没有梯度**。提示：第 7.2 节的四种情形；优势恰好是 0 的不算裁剪。

# %% [markdown] tags=["en"]
# ### Exercise 5: who is clipped?
#
# Write `clipped(ratio, advantages, epsilon)`: true or false for each slot, true where clipping leaves the slot **without a gradient**. Hint: the four cases of section 7.2; an advantage of exactly 0 does not count as clipped.


# %% tags=["exercise"]
def clipped(ratio, advantages, epsilon): ...  # your code


checks.e06_5(clipped)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_5(ratio, advantages, epsilon):
    too_high = (advantages > 0) & (ratio > 1 + epsilon)
    too_low = (advantages < 0) & (ratio < 1 - epsilon)
    return too_high | too_low


share = solution_5(last["ratio"], b["advantages"][last["rows"]], config.cliprange)[last["mask"].bool()]
print(f"last minibatch: {share.float().mean():.4f}, the trainer said {last['policy_clipfrac']:.4f}")
checks.e06_5(solution_5).must_pass()

# %% [markdown] tags=["zh"]
# ## 15 延伸阅读
#
# - Schulman et al. 2016，[High-Dimensional Continuous Control Using Generalized Advantage Estimation](https://arxiv.org/abs/1506.02438)：式 16 就是第 6.2 节的和。
# - Schulman et al. 2017，[Proximal Policy Optimization Algorithms](https://arxiv.org/abs/1707.06347)：裁剪是式 7，图 1 画的就是第 7.2 节的四种情形。
# - Schulman，[Approximating KL Divergence](http://joschu.net/blog/kl-approx.html)：$k_1$、$k_2$、$k_3$ 的出处。
# - Ziegler et al. 2019，[Fine-Tuning Language Models from Human Preferences](https://arxiv.org/abs/1909.08593)：第 2.2 节是每个词元的 KL 惩罚和自适应的 β。
# - Huang et al.，[The N Implementation Details of RLHF with PPO](https://huggingface.co/blog/the_n_implementation_details_of_rlhf_with_ppo)：论文没写、代码里要紧的细节。
# - [`PPOTrainer.step` 的原文](https://github.com/huggingface/trl/blob/v0.11.4/trl/trainer/ppo_trainer.py)（TRL 0.11.4）：课程的数字和它逐项核对过。

# %% [markdown] tags=["en"]
# ## 15 Further reading
#
# - Schulman et al. 2016, [High-Dimensional Continuous Control Using Generalized Advantage Estimation](https://arxiv.org/abs/1506.02438): equation 16 is the sum of section 6.2.
# - Schulman et al. 2017, [Proximal Policy Optimization Algorithms](https://arxiv.org/abs/1707.06347): clipping is equation 7, and figure 1 shows the four cases of section 7.2.
# - Schulman, [Approximating KL Divergence](http://joschu.net/blog/kl-approx.html): where $k_1$, $k_2$ and $k_3$ come from.
# - Ziegler et al. 2019, [Fine-Tuning Language Models from Human Preferences](https://arxiv.org/abs/1909.08593): section 2.2 has the KL penalty per token and the adaptive β.
# - Huang et al., [The N Implementation Details of RLHF with PPO](https://huggingface.co/blog/the_n_implementation_details_of_rlhf_with_ppo): what papers leave out and code needs.
# - [The original of `PPOTrainer.step`](https://github.com/huggingface/trl/blob/v0.11.4/trl/trainer/ppo_trainer.py) (TRL 0.11.4): the numbers here were checked against it one by one.
