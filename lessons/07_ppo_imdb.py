# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] tags=["zh"]
# # 07 用 PPO 写好评
#
# **这一课回答的问题**：PPO 真的有用吗？我们让一个会写影评的语言模型学会只写好评，然后在它从没见过的开头上，用数字说明它变了多少、付出了什么代价。
#
# **需要什么**
#
# | 配置（profile） | 硬件 | 时间 |
# |---|---|---|
# | `offline`（默认） | 2 个 CPU 核 | 大约 4 分钟，不联网 |
# | `imdb` | 2 个 CPU 核，或一块 GPU | CPU 上要几十分钟 |
# | `full` | 一块 GPU | 公开的同类运行用了 35 分 19 秒（A800-80GB，占显存 10,097 MiB） |
#
# 三种配置运行的是同样的单元格，只有模型、数据和大小不同。先读过[第 00 课](00_overview.ipynb)就够了：用到的公式，这里都从头推一遍。

# %% [markdown] tags=["en"]
# # 07 PPO on IMDB
#
# **The question of this lesson**: does PPO work? We take a language model that writes movie reviews and teach it to write only favourable ones. Then, on openings it has never seen, numbers say how much it changed and what that cost.
#
# **What you need**
#
# | profile | hardware | time |
# |---|---|---|
# | `offline` (default) | 2 CPU cores | about 4 minutes, no network |
# | `imdb` | 2 CPU cores, or one GPU | tens of minutes on the CPU |
# | `full` | one GPU | a published run of this kind took 35 min 19 s (A800-80GB, 10,097 MiB of its memory) |
#
# All three run the same cells; only models, data and sizes differ. [Lesson 00](00_overview.ipynb) is all the preparation needed: every formula used here is derived from scratch.

# %% tags=["setup"]
import time

from rlhf import checks, evaluate, pictures, profiles, report  # before torch: idle threads then sleep

started = time.perf_counter()
setup = profiles.setup("07_ppo_imdb")

# %%
import inspect
import warnings
from collections import Counter

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import display
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf import data, loop, sampling
from rlhf.ppo import (
    AdaptiveKLController,
    AutoModelForCausalLMWithValueHead,
    LengthSampler,
    PPOConfig,
    PPOTrainer,
    create_reference_model,
    losses,
)
from rlhf.rewards import SentimentReward, WordJudge

plt.style.use(pictures.STYLE)

# %% [markdown] tags=["zh"]
# ## 1 一个任务，四个角色
#
# 任务：给模型一条影评的前几个词元（token），例如 `This movie`，让它接着写。写得越像好评，得分越高。没有人给它看“标准答案”，它只能自己试着写，再看分数。这就是 RLHF 的第三步（Step 3），前两步（监督微调、训练奖励模型）的产物在这里都要用到。
#
# ![PPO 的循环：采样、评估、优化](../figs/07_loop.svg)
#
# PPO 把三个阶段反复循环：**采样**（rollout）→ **评估**（evaluation）→ **优化**（optimisation）。其中有四个角色：
#
# - **策略**（policy）：正在学习的语言模型，回复（response）由它来写。
# - **价值头**（value head）：策略顶上的一个线性层，每写一个词元都估计一次：从这里写下去，还能得多少奖励（reward）。它和策略一起学。
# - **参考模型**（reference model）：训练开始前的策略的副本，冻结不动。离它越远，罚得越重。
# - **奖励模型**（reward model）：读完整条文本，给出一个分数（score）。同样冻结不动。

# %% [markdown] tags=["en"]
# ## 1 One task, four roles
#
# The task: the model is given the first few tokens of a review, such as `This movie`, and writes on. The more its text sounds like praise, the higher the score. Nobody shows it a right answer: it has to try, and look at the score. This is Step 3 of RLHF; what the first two steps produce (supervised fine-tuning, a reward model) is needed here.
#
# ![The PPO loop: rollout, evaluation, optimisation](../figs/07_loop.svg)
#
# PPO repeats three phases: **rollout** → **evaluation** → **optimisation**. Four roles take part:
#
# - The **policy** is the language model that learns; it writes the responses.
# - The **value head** is one linear layer on top of the policy. At every token it estimates how much reward is still to come. It learns along with the policy.
# - The **reference model** is a frozen copy of the policy from before training. The further the policy moves away from it, the higher the penalty.
# - The **reward model** reads a whole text and gives it one score. It is frozen too.

# %% [markdown] tags=["zh"]
# ## 2 提示（query）：影评的开头
#
# 提示只有几个词元长，取自训练集里每条影评的开头。影评要超过 200 个字符，太短的不要。

# %% [markdown] tags=["en"]
# ## 2 Queries: how reviews begin
#
# A query is a few tokens long and is cut from the beginning of a review of the training split. Reviews need more than 200 characters; shorter ones are left out.

# %%
reviews = data.load_reviews(setup.dataset, "train")
print(len(reviews), "reviews; labels", Counter(reviews["label"]))
print(reviews[0]["label"], reviews[0]["text"][:240], "…")

# %% [markdown] tags=["zh"]
# 每个提示的长度是随机的，由 `LengthSampler` 抽取。配置里写的是“2 到 8”，可是 8 到底会不会出现？抽 10,000 次数一数：

# %% [markdown] tags=["en"]
# The length of each query is random; `LengthSampler` draws it. The profile says "2 to 8", but does 8 ever occur? Draw 10,000 times and count:

# %%
query_length = LengthSampler(setup.prompts["min_tokens"], setup.prompts["max_tokens"])
drawn = Counter(query_length() for _ in range(10_000))
print(sorted(drawn.items()))  # the upper bound is excluded

# %%
tokenizer = AutoTokenizer.from_pretrained(setup.policy)
tokenizer.pad_token = tokenizer.eos_token  # GPT-2 has no padding token of its own

dataset = data.build_prompts(reviews, tokenizer, query_length, setup.prompts["min_chars"])
print(len(reviews), "reviews →", len(dataset), "queries")
for row in dataset.select(range(5)):
    print(len(row["input_ids"]), row["input_ids"].tolist(), repr(row["query"]))

# %% [markdown] tags=["zh"]
# 为什么切得这么短？开头越短，策略自己要写的就越多，回复是褒是贬就越由它决定；同时，这么短的开头通常还没有泄露原来那条影评的褒贬。
#
# 最后的成绩要在**留出提示**（held-out prompts）上量：它们来自测试集，训练时从没用过。但要诚实：两三个词元的开头（`This is`）谁都会用，所以有些留出提示会和训练用的提示逐字相同。有多少，数一数就知道：

# %% [markdown] tags=["en"]
# Why so short? The less is given, the more the policy has to write itself, and the more it is the policy that decides whether the text is praise. Nor does so short an opening usually give away what the original review thought.
#
# The final result is measured on **held-out** queries: they come from the test split, which training never touches. To be honest about it: everybody begins with `This is`, so some held-out queries equal a training query word for word. How many? Count:

# %%
prompts = evaluate.held_out_prompts(setup, tokenizer, seed=setup.seed)
known = set(dataset["query"])
same = sum(query in known for query in prompts["query"])
print(len(prompts), "held-out queries;", same, "of them also begin some training review")
print(prompts["query"][:5])

# %% [markdown] tags=["zh"]
# ## 3 策略和它的回复
#
# `AutoModelForCausalLMWithValueHead` 是一个普通的语言模型再加一个价值头。参考模型就是它此刻的副本。

# %% [markdown] tags=["en"]
# ## 3 The policy and its responses
#
# `AutoModelForCausalLMWithValueHead` is an ordinary language model plus a value head. The reference is a copy of it as it is now.

# %%
model = AutoModelForCausalLMWithValueHead.from_pretrained(setup.policy, seed=setup.seed).to(setup.device)
ref_model = create_reference_model(model)
for name, part in (
    ("policy", model.pretrained_model),
    ("value head", model.v_head),
    ("reference", ref_model),
):
    total = sum(p.numel() for p in part.parameters())
    learns = sum(p.numel() for p in part.parameters() if p.requires_grad)
    print(f"{name:10} {total:>11,} parameters, {learns:>11,} of them learn")

# %% [markdown] tags=["zh"]
# 一次前向计算同时给出两样东西：每个位置上下一个词元的 logits，和每个位置的价值。

# %% [markdown] tags=["en"]
# One forward pass gives two things: the logits of the next token at every position, and a value at every position.

# %%
ids = prompts[0]["input_ids"].unsqueeze(0).to(setup.device)  # (Q,) -> (B=1, Q)
with torch.no_grad():
    logits, _, values = model(ids)
print("ids", tuple(ids.shape), "logits", tuple(logits.shape), "values", tuple(values.shape))

# %%
probability = logits[0, -1].softmax(-1)  # last position: (V,)
top = probability.topk(8)
print(repr(prompts[0]["query"]), "is followed by")
for p, token in zip(top.values.tolist(), top.indices.tolist(), strict=True):
    print(f"{p:6.1%} {tokenizer.decode(token)!r}")

# %% [markdown] tags=["zh"]
# 写回复就是从这个分布里抽一个词元，接在后面，再抽下一个。同一个开头，每次抽出来的都不一样。下面的设置不做任何截断（不用 top-k，也不用 top-p）：抽样用的分布必须和后面算概率用的分布是同一个，否则 KL 和概率比都会算错。

# %% [markdown] tags=["en"]
# To write a response is to draw a token from this distribution, append it, and draw the next. The same opening continues differently each time. Nothing is cut off below (no top-k, no top-p): the distribution that samples must be the one whose probabilities are computed later, or the KL and the ratios come out wrong.

# %%
print(sampling.FULL_SOFTMAX)
rollout = evaluate.respond(model, tokenizer, [prompts[0]["input_ids"]] * 4, 12, seed=setup.seed)
for response, text in zip(rollout.responses, rollout.texts(tokenizer), strict=True):
    print(tuple(response.shape), repr(prompts[0]["query"]), "→", repr(text))  # (R,)

# %% [markdown] tags=["zh"]
# ## 4 奖励模型：分数从哪里来
#
# 奖励模型是一个情感分类器，有 NEGATIVE 和 POSITIVE 两个标签，每个标签一个 logit。分数就是 POSITIVE 的**原始 logit**，不做 softmax：概率到 0.99 就贴着天花板，分不出好和更好；logit 没有这样的天花板。先做一个最简单的检查：

# %% [markdown] tags=["en"]
# ## 4 The reward model: where scores come from
#
# The reward model is a sentiment classifier with two labels, NEGATIVE and POSITIVE, and one logit for each. The score is the **raw logit** of POSITIVE, without a softmax: a probability of 0.99 touches the ceiling and cannot tell good from better; a logit has no such ceiling. First the simplest of checks:

# %%
reward_model = SentimentReward(setup.reward_model, device=setup.device)
texts = ["this movie was really bad!!", "this movie was really good!!"]
bad, good = reward_model(texts).tolist()
print(f"{bad:+.3f}  {texts[0]}\n{good:+.3f}  {texts[1]}")
assert good > bad

# %% [markdown] tags=["zh"]
# 要看的是次序：夸的那句得分更高。原始 logit 的零点没有特别的含义，两句里谁正谁负并不要紧。
#
# 取分数要按标签的**名字**取，不要按位置取：有的流水线会把两个标签按分数排序，第一个不一定总是同一个标签。

# %% [markdown] tags=["en"]
# What counts is the order: the praise scores higher. The zero of a raw logit has no meaning of its own, so the signs of the two do not matter.
#
# Pick the score by the label's **name**, not by its position: some pipelines sort the labels by score, and then the first one is not always the same label.

# %%
print(reward_model.model.config.id2label, "→ index", reward_model.index)
print(inspect.getsource(SentimentReward._score))

# %% [markdown] tags=["zh"]
# 奖励模型自己靠得住吗？策略会把它的每个漏洞都学走，所以先拿标过褒贬的测试影评量一量。右图更要紧：PPO 让它读的只有二十来个词元，而标签说的是整条影评，开头往往还看不出褒贬，分数自然挤向中间。策略要做的，就是在这么短的篇幅里把褒贬写明白。

# %% [markdown] tags=["en"]
# Can the reward model itself be trusted? The policy will learn every hole it has, so measure it on labelled reviews of the test split first. The right picture matters more: in PPO it reads some twenty tokens only, while the label speaks of the whole review. An opening often has not said yet what it thinks, so scores crowd towards the middle. The policy has to make its verdict clear within so few words.

# %%
test = data.load_reviews(setup.dataset, "test").shuffle(seed=setup.seed).select(range(400))
label = torch.tensor(test["label"])  # (400,)
whole = [data.plain_text(text) for text in test["text"]]
short = tokenizer.batch_decode([ids[:24] for ids in tokenizer([text[:400] for text in whole])["input_ids"]])

figure, axes = plt.subplots(1, 2, figsize=(8, 2.4), sharey=True, layout="constrained")
for panel, (name, texts) in zip(axes, {"whole review": whole, "first 24 tokens": short}.items(), strict=True):
    score = reward_model(texts)  # (400,)
    panel.hist(
        [score[label == 0], score[label == 1]], bins=24, label=["negative", "positive"], color=["C1", "C0"]
    )
    share = ((score > 0) == (label == 1)).float().mean()
    panel.set(title=f"{name}: sign agrees with the label in {share:.0%}", xlabel="score (logit of POSITIVE)")
axes[0].legend(title="true label")
plt.show()

# %% [markdown] tags=["zh"]
# ## 5 从一个分数到损失
#
# 奖励模型给整条文本**一个**分数，而策略一次决定**一个**词元。PPO 用三步把前者变成后者能用的信号。先用小数字手算，再和课程库里真正干活的函数对比。
#
# 两条回复，每条最多 3 个词元；第二条只有 2 个，最后一格是填充（padding）。

# %% [markdown] tags=["en"]
# ## 5 From one score to a loss
#
# The reward model gives **one** score to a whole text, but the policy decides about **one** token at a time. Three steps turn the former into a signal for the latter. We compute them by hand on small numbers and compare with the functions of the course's package that do the real work.
#
# Two responses of at most 3 tokens each; the second has only 2, and its last slot is padding.

# %%
scores = torch.tensor([2.0, -1.0])  # (B,)
logprobs = torch.tensor([[-1.2, -0.7, -2.1], [-0.4, -1.5, -9.0]])  # (B, R), of the policy
ref_logprobs = torch.tensor([[-1.5, -0.6, -2.9], [-0.4, -1.0, -9.0]])  # (B, R), of the reference
mask = torch.tensor([[1, 1, 1], [1, 1, 0]])  # (B, R), 1 on response tokens
beta, gamma, lam = 0.2, 1.0, 0.95

# %% [markdown] tags=["zh"]
# ### 5.1 每个词元的奖励
#
# $$r_t = -\beta\,\bigl(\log\pi(a_t)-\log\pi_{\mathrm{ref}}(a_t)\bigr) + [t\ \text{last}]\cdot \text{score}$$
#
# 括号里是单个词元的 KL 估计。每个词元都为偏离参考模型付一点税，分数只加在**最后一个真正的词元**上，不是最后一列。

# %% [markdown] tags=["en"]
# ### 5.1 One reward per token
#
# $$r_t = -\beta\,\bigl(\log\pi(a_t)-\log\pi_{\mathrm{ref}}(a_t)\bigr) + [t\ \text{last}]\cdot \text{score}$$
#
# The bracket is the KL, estimated from a single token. Every token pays a little tax for leaving the reference; the score is added on the **last real token**, which is not the last column.

# %%
rewards = -beta * (logprobs - ref_logprobs)  # (B, R)
for row in range(len(scores)):
    last = int(mask[row].nonzero()[-1])
    rewards[row, last] += scores[row]

expected, _ = losses.token_rewards(scores, losses.kl_k1(logprobs, ref_logprobs), mask, beta)
torch.testing.assert_close(rewards, expected)
rewards

# %% [markdown] tags=["zh"]
# ### 5.2 优势（advantage）
#
# 一个词元是好是坏，要和预期比。价值头的预期是 $V_t$，走一步之后的意外是 $\delta_t = r_t + \gamma V_{t+1} - V_t$。广义优势估计（GAE）从右往左，把后面的意外打折累加起来：
#
# $$A_t = \delta_t + \gamma\lambda A_{t+1}$$

# %% [markdown] tags=["en"]
# ### 5.2 Advantages
#
# Whether a token is good depends on what was expected. The value head expected $V_t$; the surprise of one step is $\delta_t = r_t + \gamma V_{t+1} - V_t$. Generalised advantage estimation (GAE) adds up the discounted surprises that follow, from right to left:
#
# $$A_t = \delta_t + \gamma\lambda A_{t+1}$$

# %%
values = torch.tensor([[0.5, 0.9, 1.4], [0.1, -0.3, 0.0]])  # (B, R), 0 on padding
rewards = rewards * mask
advantages, advantage, next_value = torch.zeros(2, 3), torch.zeros(2), torch.zeros(2)
for t in reversed(range(3)):
    delta = rewards[:, t] + gamma * next_value - values[:, t]  # (B,)
    advantage = delta + gamma * lam * advantage
    advantages[:, t], next_value = advantage, values[:, t]

torch.testing.assert_close(advantages, losses.gae(rewards, values, gamma, lam))
advantages

# %% [markdown] tags=["zh"]
# 第二条回复得了 −1 分，比价值头预期的还差，于是它的优势是负的：这些词元以后要少写。分数只在最后一格，优势却传到了第一个词元。
#
# ### 5.3 裁剪（clipping）后的损失
#
# 同一批回复要用好几遍（`ppo_epochs`）。第一遍之后，策略已经不是当初写回复的那个，要乘上概率比（probability ratio）$\rho_t = \pi(a_t)/\pi_{\mathrm{old}}(a_t)$ 来修正。概率比走得太远，就不再给好处：
#
# $$L = \max\bigl(-A\rho,\; -A\,\mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon)\bigr)$$

# %% [markdown] tags=["en"]
# The second response scored −1, worse than the value head expected, so its advantages are negative: write these tokens less often. The score sits in the last slot only, yet the advantage reaches the first token.
#
# ### 5.3 The clipped loss
#
# A batch of responses is used several times (`ppo_epochs`). After the first pass the policy is no longer the one that wrote them, and the ratio $\rho_t = \pi(a_t)/\pi_{\mathrm{old}}(a_t)$ corrects for that. Once the ratio has moved too far, moving on earns nothing:
#
# $$L = \max\bigl(-A\rho,\; -A\,\mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon)\bigr)$$

# %%
ratio, epsilon = torch.linspace(0.4, 1.6, 121)[None], 0.2  # (1, 121)
figure, axes = plt.subplots(1, 2, figsize=(8, 2.4), layout="constrained")
for panel, A in zip(axes, (1.0, -1.0), strict=True):
    loss = torch.max(-A * ratio, -A * ratio.clamp(1 - epsilon, 1 + epsilon))
    ours, _ = losses.policy_loss(ratio, torch.full_like(ratio, A), torch.ones_like(ratio), epsilon)
    torch.testing.assert_close(loss.mean(), ours)
    panel.plot(ratio[0], -A * ratio[0], "--", color="C1", label="not clipped")
    panel.plot(ratio[0], loss[0], color="C0", label="PPO")
    panel.set(
        title=f"A = {A:+.0f}: make it {'more' if A > 0 else 'less'} likely", xlabel="ratio", ylabel="loss"
    )
axes[0].legend()
plt.show()

# %% [markdown] tags=["zh"]
# 平的地方梯度为 0：好词元的概率涨过 20%，或坏词元的概率跌过 20%，这一批就不再推它。反方向走错了却不封顶，随时可以拉回来。

# %% [markdown] tags=["en"]
# Where the line is flat, the gradient is 0: once a good token has become 20% more likely, or a bad one 20% less, this batch pushes no further. A step in the wrong direction is not capped and can always be undone.

# %% [markdown] tags=["zh"]
# ## 6 训练
#
# 所有大小都来自配置文件。`PPOConfig` 的字段名和默认值与经典的 TRL（0.11 及以前）一致。
#
# 配置里的三个开关 `response_only`、`fused`、`reuse_sampling` 只省掉用不着的计算：提示位置上的 logits 没有损失要用，采样时已经得到的对数概率不必
# 再算一遍。除了舍入误差，结果不变。第 06 课要看每一个位置，所以把它们关掉了。

# %% [markdown] tags=["en"]
# ## 6 Training
#
# All sizes come from the profile. The fields of `PPOConfig` have the names and defaults of the classic TRL (up to 0.11).
#
# Three switches of the profile, `response_only`, `fused` and `reuse_sampling`, only leave out work: no loss reads the logits at prompt positions, and
# log-probabilities known from sampling need not be computed again. The step stays the same up to rounding. Lesson 06 looks at every position and has
# them off.

# %%
knobs = dict(setup.ppo)
steps = knobs.pop("steps")
config = PPOConfig(
    **knobs,
    seed=setup.seed,
    logging_dir=setup.output / "runs" / time.strftime("%Y%m%d-%H%M%S"),  # one folder per run
    accelerator_kwargs={"cpu": setup.device == "cpu"},
)
updates = config.ppo_epochs * config.batch_size // config.backward_batch_size
print(f"{steps} steps: each samples {config.batch_size} responses and makes {updates} updates")
print(f"learning rate {config.learning_rate:g}, beta {config.init_kl_coef}, KL target {config.target}")

# %%
trainer = PPOTrainer(config, model, ref_model, tokenizer, dataset=dataset, data_collator=data.collator)
response_length = LengthSampler(setup.response["min_tokens"], setup.response["max_tokens"])
print(len(trainer.dataloader), "batches in the data;", steps, "will be used")
assert steps <= len(trainer.dataloader)

# %% [markdown] tags=["zh"]
# 下面就是经典的循环，多年来的教程几乎都这样写：`generate` → 打分 → `step` → `log_stats`。运行之前先猜一猜：
#
# - 第一步的 `objective/kl` 会是多少？（此时策略和参考模型还一模一样。）
# - 平均分数会一直上升吗？KL 呢？
#
# 曲线会边训练边更新。

# %% [markdown] tags=["en"]
# Here is the classic loop, as years of tutorials write it: `generate` → score → `step` → `log_stats`. Guess before you run it:
#
# - What is `objective/kl` in the first step? (Policy and reference are still the same.)
# - Will the mean score keep rising? And the KL?
#
# The curves move while training runs.

# %%
history = []
live = report.LiveCurves(["env/reward_mean", "objective/kl"], every=5, smooth=5, columns=2)
with live:
    for _, batch in tqdm(zip(range(steps), trainer.dataloader, strict=False), total=steps):
        queries = batch["input_ids"]  # B tensors (Q,), of different lengths

        # rollout: B tensors (R,)
        responses = trainer.generate(queries, length_sampler=response_length, return_prompt=False)
        batch["response"] = tokenizer.batch_decode(responses, skip_special_tokens=True)

        # evaluation
        texts = [q + r for q, r in zip(batch["query"], batch["response"], strict=True)]
        scores = reward_model(texts)  # (B,)

        # optimisation
        stats = trainer.step(queries, responses, scores)
        history.append(trainer.log_stats(stats, batch, scores))
        live.add(history[-1])

# %% [markdown] tags=["zh"]
# 整个 `step` 只有这么长。第 5 节手算过的东西都在里面：

# %% [markdown] tags=["en"]
# The whole of `step` is no longer than this. What section 5 computed by hand is all in it:

# %%
print(inspect.getsource(PPOTrainer.step).split('"""')[2])

# %% [markdown] tags=["zh"]
# ## 7 看懂这次训练
#
# ### 7.1 每个指标一句话
#
# | 指标 | 意思 |
# |---|---|
# | `env/reward_mean`，`env/reward_std` | 这一批回复的分数的均值和标准差：训练要提高的就是前者 |
# | `objective/kl` | 每条回复相对参考模型的 KL（逐词元求和，单位 nat）：为分数付出的代价 |
# | `objective/kl_coef` | $\beta$，KL 的税率；KL 高于目标它就升，低于目标就降 |
# | `objective/entropy` | 每条回复的 $-\log\pi$ 之和：越小，说明策略越笃定、越单调 |
# | `ppo/mean_scores`，`ppo/std_scores` | 训练器实际使用的分数；没有打开缩放和截断时，均值就是 `env/reward_mean` |
# | `ppo/mean_non_score_reward` | 每个词元平均交的税，即 $-\beta\cdot$KL |
# | `ppo/policy/entropy` | 每个位置上下一个词元分布的熵，对整个词表求和 |
# | `ppo/policy/approxkl` | 更新时策略已经离开“写回复的那个自己”多远（平方近似，恒不为负） |
# | `ppo/policy/policykl` | 同一个距离，带符号的估计；提前停止看的是它 |
# | `ppo/policy/clipfrac` | 被裁剪的词元所占的比例；到了好几成，就说明步子太大 |
# | `ppo/policy/advantages_mean` | 白化之后优势的均值，见练习 3 |
# | `ppo/policy/grad_norm` | 梯度的范数；突然变大往往是发散的前兆 |
# | `ppo/loss/policy`，`ppo/loss/value`，`ppo/loss/total` | 裁剪后的策略损失、价值损失、两者加权之和。策略损失**不会**像监督学习那样越降越低，它每一步都从 0 附近重新开始 |
# | `ppo/returns/mean`，`ppo/returns/var` | 回报（优势加价值，价值头的学习目标）的均值和方差 |
# | `ppo/val/mean`，`ppo/val/var`，`ppo/val/vpred` | 价值头的估计：采样时的均值和方差，更新中的均值 |
# | `ppo/val/error` | 估计与回报之差的平方的均值 |
# | `ppo/val/clipfrac` | 价值被裁剪的词元所占的比例 |
# | `ppo/val/var_explained` | 回报的方差里，价值头解释了多少：1 是完美，0 等于只会报均值，负的更糟 |
#
# 其余的（`tokens/…` 是长度，`time/ppo/…` 是各阶段的秒数）看名字就明白。

# %% [markdown] tags=["en"]
# ## 7 Reading the run
#
# ### 7.1 Every metric in one line
#
# | metric | meaning |
# |---|---|
# | `env/reward_mean`, `env/reward_std` | mean and standard deviation of the scores of this batch; the former is what training is to raise |
# | `objective/kl` | KL of each response to the reference (summed over its tokens, in nats): the price paid for the score |
# | `objective/kl_coef` | $\beta$, the rate of the KL tax; it rises when the KL is above target and falls when it is below |
# | `objective/entropy` | the sum of $-\log\pi$ over each response: the smaller, the surer and the more monotonous the policy |
# | `ppo/mean_scores`, `ppo/std_scores` | the scores as the trainer uses them; with scaling and clipping off, their mean is `env/reward_mean` |
# | `ppo/mean_non_score_reward` | the tax of an average token, $-\beta\cdot$KL |
# | `ppo/policy/entropy` | entropy of the next-token distribution at each position, summed over the whole vocabulary |
# | `ppo/policy/approxkl` | how far the update has moved the policy from the one that wrote the responses (a square, never negative) |
# | `ppo/policy/policykl` | the same distance, estimated with a sign; early stopping looks at this one |
# | `ppo/policy/clipfrac` | the share of tokens that are clipped; several tenths mean that the steps are too large |
# | `ppo/policy/advantages_mean` | mean of the whitened advantages, see exercise 3 |
# | `ppo/policy/grad_norm` | norm of the gradient; a sudden rise often announces divergence |
# | `ppo/loss/policy`, `ppo/loss/value`, `ppo/loss/total` | the clipped policy loss, the value loss, their weighted sum. The policy loss does **not** go down and down as in supervised learning: every step begins near 0 again |
# | `ppo/returns/mean`, `ppo/returns/var` | mean and variance of the returns (advantage plus value, the target of the value head) |
# | `ppo/val/mean`, `ppo/val/var`, `ppo/val/vpred` | what the value head says: mean and variance at the rollout, mean during the update |
# | `ppo/val/error` | mean squared difference between its estimate and the return |
# | `ppo/val/clipfrac` | the share of tokens whose value is clipped |
# | `ppo/val/var_explained` | how much of the variance of the returns the value head explains: 1 is perfect, 0 is no better than their mean, below is worse |
#
# The names of the others say it all (`tokens/…` are lengths, `time/ppo/…` are seconds per phase).

# %%
log = pd.DataFrame(history)
log.to_csv(setup.output / "history.csv", index=False)  # the run's curves, kept beside its table
shown = [key for key in log if key.startswith(("env", "objective", "ppo")) and log[key].nunique() > 1]
overview = pd.DataFrame({"first step": log[shown].iloc[0], "last 5 steps": log[shown].tail(5).mean()})
overview.round(4)

# %%
keys = ["env/reward_mean", "objective/kl", "objective/kl_coef"]
keys += ["ppo/loss/value", "ppo/val/var_explained", "ppo/policy/clipfrac"]
report.curves(log, keys, smooth=5, lines={"objective/kl": config.target})

# %% [markdown] tags=["zh"]
# 怎么读这六条曲线：分数和 KL **一起**上升，分数就是拿 KL 换来的。虚线是 KL 的目标：KL 低于它，$\beta$ 就慢慢下降，税变轻；高于它则相反。看一眼纵轴：$\beta$ 在这么短的训练里几乎没动（练习 1 会算它动得有多慢）。价值头一开始是随机的，`ppo/val/var_explained` 从 0 附近或更低处慢慢爬上来。
#
# ### 7.2 TensorBoard 和 W&B
#
# 同样的曲线（再加上直方图）已经写进 TensorBoard 的日志，不用任何设置。在终端里、仓库的根目录下运行：
#
# ```bash
# tensorboard --logdir output/07_ppo_imdb/runs --port 8080
# ```
#
# 然后在浏览器里打开 <http://127.0.0.1:8080>。多跑几次，各次的曲线会画在同一张图里，便于比较。想用 W&B，只要在 `PPOConfig` 里加上 `log_with="wandb"`：默认离线，不登录、不上传，还会多一张每一步的文本表；之后想上传时再用 `wandb sync`。

# %% [markdown] tags=["en"]
# How to read these six curves: score and KL rise **together**, for the score is bought with KL. The dashed line is the KL target: while the KL is below it, $\beta$ slowly falls and the tax gets lighter; above it, the reverse. Mind the scale: in so short a run $\beta$ hardly moves (exercise 1 works out how slowly). The value head starts at random; `ppo/val/var_explained` climbs from about 0 or below.
#
# ### 7.2 TensorBoard and W&B
#
# The same curves, with histograms, have been written to a TensorBoard log without any setting. In a terminal, at the root of the repository:
#
# ```bash
# tensorboard --logdir output/07_ppo_imdb/runs --port 8080
# ```
#
# Then open <http://127.0.0.1:8080> in a browser. Several runs lie on top of each other and can be compared. For W&B, add `log_with="wandb"` to `PPOConfig`: it is offline by default, needs no login, uploads nothing, and adds a table of the texts of each step; `wandb sync` uploads later if you wish.

# %%
files = [path for path in config.logging_dir.rglob("*tfevents*") if path.is_file()]
print(len(files), "file(s),", sum(path.stat().st_size for path in files) // 1024, "KiB of TensorBoard logs")

# %% [markdown] tags=["zh"]
# ### 7.3 看一条回复里的每个词元
#
# 训练器留着最后一批的全部中间结果。取出分数最高的那条回复，把第 5 节的三个量画到词元上。蓝色为正，橙色为负。

# %% [markdown] tags=["en"]
# ### 7.3 One response, token by token
#
# The trainer keeps every intermediate of the last batch. Take the response with the highest score and put three quantities of section 5 on its tokens. Blue is positive, orange is negative.

# %%
last = trainer.experience
row = int(last.scores.argmax())
live_slots = last.mask[row].bool()  # (T-1,), True where a response token is predicted
tokens = [tokenizer.decode(token) for token in last.input_ids[row, 1:][live_slots]]  # (R,)
print(f"score {last.scores[row]:.3f}:", batch["query"][row], "→", batch["response"][row])

# %%
looks = {"KL to the reference (log p − log p_ref)": last.kl}
looks |= {"value: what was expected just before this token": last.values}
looks |= {"advantage (whitened)": last.advantages}
for title, numbers in looks.items():  # each (B, T-1)
    display(report.token_heat(tokens, numbers[row][live_slots], title, show_values=True))

# %% [markdown] tags=["zh"]
# KL 大的词元，就是策略改得最多的地方：参考模型觉得不太可能，策略却常写。单个词元的估计可以是负的（碰巧抽到一个策略比参考模型更不看好的词），平均起来才不为负。词元上的价值是**写下它之前**的预期，所以一个关键的词出现以后，要到下一个词元才看得到价值跳动。优势则说：写下这个词元之后，结果比预期好还是差。

# %% [markdown] tags=["en"]
# Tokens with a large KL are where the policy changed most: the reference finds them unlikely, the policy writes them often. For a single token the estimate can be negative (by chance a token was drawn that the policy likes less than the reference does); only on average it is not. The value on a token is what was expected **before it was written**, so after a decisive word the jump shows on the next token. The advantage says whether, once this token was written, things went better or worse than expected.

# %% [markdown] tags=["zh"]
# ## 8 保存，再读回来
#
# 第 3 步的成果存到 `output/ppo_3`，和第 00 课的表里说的一样。这个文件夹就是一个普通的 `transformers` 模型，不装这门课的库也能用；价值头单独放在旁边的一个文件里。

# %% [markdown] tags=["en"]
# ## 8 Save it and load it again
#
# The result of Step 3 goes to `output/ppo_3`, as the table of lesson 00 says. The folder is an ordinary `transformers` model, of use to anyone without this course's package; the value head lies beside it in a file of its own.

# %%
folder = trainer.save_pretrained(profiles.root() / "output" / "ppo_3")
print(sorted(path.name for path in folder.iterdir()))

# %%
reloaded = AutoModelForCausalLM.from_pretrained(folder).to(setup.device)
greedy = [
    evaluate.respond(model, tokenizer, prompts["input_ids"][:4], 12, do_sample=False).texts(tokenizer)
    for model in (trainer.policy, reloaded)
]
assert greedy[0] == greedy[1], "the reloaded policy writes something else"
for query, text in zip(prompts["query"], greedy[1], strict=False):
    print(repr(query), "→", repr(text))

# %% [markdown] tags=["zh"]
# 读回来的模型逐字写出同样的回复。这里用的是贪心解码（greedy decoding），每步只取概率最大的词元：适合核对两个模型是否相同，不适合评估，因为它只露出每个开头的一种写法。评估要用抽样。
#
# ## 9 训练前后
#
# 要回答“有用吗”，只看训练时的曲线不够：那是训练用的提示，打分的又是训练时的同一位评委。这里这样量：
#
# - **留出提示**：来自测试集，训练从没见过。前后两个模型用同样的提示、同样的回复长度、同样的随机种子。
# - **配对增益**（paired gain）：同一个提示，后减前，再平均；用自助法（bootstrap）给出 95% 区间。
# - **第二位评委**（second judge）：一个词袋分类器，只用测试集里**没有拿来当提示**的影评训练，结构和训练数据都与奖励模型不同。只对奖励模型有效的把戏，多半骗不了它。但它也不是真人：在同一种影评里学出来的两位评委，会喜欢同样的字眼；它在整条影评上判得再准（下面会量），也不等于在半句话上同样可靠。所以表里的回复还要自己读一读。
# - **代价**：KL，以及 distinct-2（不同的二元词组占全部二元词组的比例），后者下降太多就是在重复套话。

# %% [markdown] tags=["en"]
# The reloaded model writes the same responses, word for word. This is greedy decoding, the likeliest token at every step: good for comparing two models, not for evaluation, because it shows a single continuation of each opening. Evaluation has to sample.
#
# ## 9 Before and after
#
# The training curves alone cannot answer "does it work?": they come from the training queries and from the very judge that was trained on. So we measure like this:
#
# - **Held-out queries** from the test split, which training never saw. Both models get the same queries, the same response lengths and the same random seed.
# - **Paired gain**: the difference for each query, averaged, with a 95% interval by bootstrap.
# - **A second judge**: a bag-of-words classifier, trained on those reviews of the test split that are **not behind a query**. It shares neither architecture nor training data with the reward model; a trick that works on the reward model only will hardly fool it. Still it is no human being: two judges that learnt from the same kind of reviews like the same words, and however often it is right about whole reviews (measured below), half a sentence is another matter. So read the responses in the table yourself, too.
# - **The cost**: KL, and distinct-2 (different word pairs divided by all word pairs), which falls far when stock phrases repeat.

# %%
others = evaluate.judge_reviews(setup, prompts)
cut = len(others) * 3 // 4
judge = WordJudge.fit(others.select(range(cut)))
accuracy = judge.accuracy(others.select(range(cut, len(others))))
print(
    f"the word judge learnt from {cut} reviews; on {len(others) - cut} others it is right in {accuracy:.1%}"
)

# %%
lengths = evaluate.response_lengths(setup, len(prompts), seed=setup.seed)
before = evaluate.respond(trainer.ref_model, tokenizer, prompts, lengths, seed=setup.seed)
after = evaluate.respond(trainer.policy, tokenizer, prompts, lengths, seed=setup.seed)
kl = evaluate.response_kl(trainer.policy, trainer.ref_model, after)  # (N,), summed over the tokens
print(len(before), "responses before,", len(after), "after; KL per response", round(kl.mean().item(), 2))

# %% tags=["table"]
result = evaluate.compare(
    prompts,
    before,
    after,
    tokenizer,
    reward_model,
    judge=judge,
    kl=kl,
    shown=setup.evaluation["shown"],
    title="07 PPO on IMDB",
    meta=report.run_meta(setup, started),
)
result.save(setup.output)
result

# %% [markdown] tags=["zh"]
# 下面几行断言把“学到了”说清楚：增益的区间整个高于训练前分数标准差的四分之一，第二位评委也看得出进步，代价没有失控。哪一天训练坏了，这一课就运行不下去。

# %% [markdown] tags=["en"]
# These assertions say what "it learnt" means: the whole interval of the gain lies above a quarter of the standard deviation that scores had before, the second judge sees progress too, and the cost has not run away. If training ever breaks, this lesson stops here.

# %%
n, spread = result.numbers, result.table["reward (before)"].std()
assert result.gain[1] > spread / 4, "hardly any gain: nothing was learnt"
assert result.judge_gain[1] > 0, "the second judge sees no gain"
assert n["distinct_2_after"] > n["distinct_2_before"] / 2, "the responses repeat themselves"
assert n["kl"] < 30, "the policy ran away from the reference"
print(result.summary())

# %% [markdown] tags=["zh"]
# 有些留出提示与训练提示逐字相同（第 2 节数过）。会不会只是把练过的开头背熟了？把它们去掉，只看训练影评里**从没出现过**的开头：

# %% [markdown] tags=["en"]
# Some held-out queries equal a training query word for word (section 2 counted them). Has the policy only rehearsed those openings? Leave them out and look at openings that begin **no** training review:

# %%
new = [query not in known for query in prompts["query"]]
unseen = result.table[new]
print(len(unseen), "of", len(prompts), "openings begin no training review")
if len(unseen) >= 16:  # fewer would say nothing
    mean, low, high = report.bootstrap_gain(unseen["reward (before)"], unseen["reward (after)"])
    print(f"on them: gain {mean:+.2f}, 95% interval [{low:+.2f}, {high:+.2f}]")
    assert low > 0

# %% [markdown] tags=["zh"]
# 平均数会掩盖个体。每个点是一个提示；落在虚线上方的变好了，下方的变差了：

# %% [markdown] tags=["en"]
# A mean hides the individuals. Each dot is a query; above the dashed line it gained, below it lost:

# %%
x, y = result.table["reward (before)"], result.table["reward (after)"]
figure, axes = plt.subplots(figsize=(4, 3.2), layout="constrained")
axes.scatter(x, y, s=10, alpha=0.6)
axes.axline((0, 0), slope=1, color="C1", ls="--")
axes.set(xlabel="reward before", ylabel="reward after", title=f"{(y > x).mean():.0%} of the queries gained")
plt.show()

# %% [markdown] tags=["zh"]
# 那么它到底学会了什么？数一数哪些词变多了、哪些变少了（每 1,000 个词里的次数）：

# %% [markdown] tags=["en"]
# So what has it learnt? Count which words became more frequent and which less (occurrences per 1,000 words):

# %%
words = [
    Counter(" ".join(r.texts(tokenizer)).lower().replace(".", " ").replace(",", " ").split())
    for r in (before, after)
]
rate = pd.DataFrame({"before": words[0], "after": words[1]}).fillna(0)
rate = (1000 * rate / rate.sum()).round(1)
rate["change"] = rate["after"] - rate["before"]
ordered = rate.sort_values("change")
pd.concat([ordered.tail(8)[::-1], ordered.head(8)])

# %% [markdown] tags=["zh"]
# 变多的若是各种各样的好话，而且读起来还像影评，这就是我们想要的。若是个别几个词猛增几十倍，句子也不通了，那就是**奖励黑客**（reward hacking）：策略没有学会夸电影，只是发现了评委偏爱的字眼。表里的回复、distinct-2 和这张词频表要放在一起看，单看分数分不出这两种情况。

# %% [markdown] tags=["en"]
# If what grew are many kinds of praise, and the texts still read like reviews, this is what we wanted. If a few words grew tens of times and sentences fall apart, it is **reward hacking**: the policy has not learnt to praise films, it has found the words that the judge likes. Look at the responses in the table, distinct-2 and these words together; the score alone cannot tell the two cases apart.

# %% [markdown] tags=["zh"]
# ## 10 与公开结果比一比
#
# 一次公开的运行（GPT-2，真实 IMDB，194 步，一块 A800-80GB，35 分 19 秒，显存 10,097 MiB），用训练集里的 16 个提示评估：均值 0.592 → 2.244，中位数 0.647 → 2.492。

# %% [markdown] tags=["en"]
# ## 10 Compared with a published result
#
# A published run (GPT-2, the real IMDB, 194 steps, one A800-80GB, 35 min 19 s, 10,097 MiB of memory) was evaluated on 16 queries of the training set: mean 0.592 → 2.244, median 0.647 → 2.492.

# %%
published = {"mean before": 0.592, "mean after": 2.244, "median before": 0.647, "median after": 2.492}
here = {name: n["reward_" + name.replace(" ", "_")] for name in published}
comparison = pd.DataFrame([published, here], index=["published, GPT-2", f"here, profile {setup.profile}"])
comparison["queries"] = [16, int(n["prompts"])]
comparison["drawn from"] = ["training split", "test split"]
comparison.round(3)

# %% [markdown] tags=["zh"]
# 那样的评估缺了什么？
#
# - 提示来自**训练集**，策略在同样的开头上练过。
# - 只有 16 个提示，也没有区间。要知道 16 个够不够，见下一个单元格。
# - 打分的就是训练用的奖励模型，没有第二位评委；也没有报告 KL 和多样性，所以看不出是写得更好，还是钻了评委的空子。
# - 只有一个随机种子。（这一课也只有一个；换种子可以设置环境变量 `RLHF_SEED`。）
#
# 反过来，表里的两行也**不能直接比大小**：奖励是另一个分类器的原始 logit，尺度由那个分类器自己决定。`offline` 的 +1 和 `full` 的 +1 不是一回事；能比的只是同一个配置的前和后。

# %% [markdown] tags=["en"]
# What does such an evaluation lack?
#
# - The queries are from the **training split**: the policy practised on these very openings.
# - There are only 16 of them, and no interval. Whether 16 are enough, the next cell shows.
# - The judge is the reward model that was trained on, with no second one; and neither KL nor diversity is reported. Better writing cannot be told from a trick played on the judge.
# - There is one random seed. (Here too; set the environment variable `RLHF_SEED` for another.)
#
# In turn, the two rows above **cannot be compared in size**: a reward is the raw logit of another classifier, which sets its own scale. A +1 of `offline` is not a +1 of `full`; only before and after within one profile compare.

# %%
first = result.table.head(16)
for name, table in (("16 queries", first), (f"{len(result.table)} queries", result.table)):
    mean, low, high = report.bootstrap_gain(table["reward (before)"], table["reward (after)"])
    print(f"{name:>11}: gain {mean:+.2f}, 95% interval [{low:+.2f}, {high:+.2f}], width {high - low:.2f}")

# %% [markdown] tags=["zh"]
# ## 11 停下来，再接着跑
#
# 真正的训练要跑几个小时，中途总会断。只存权重是不够的：优化器的动量、$\beta$、随机数的状态、数据读到了哪里，少了哪一样，接着跑的就是**另一次**训练。`save_state` 把它们都存下来，`load_state` 读回来。
#
# 怎么知道什么都没漏？同样的训练做两遍，一遍一口气跑完 4 步，一遍跑 2 步就扔掉，换一个全新的训练器接着跑，再逐个参数比较：

# %% [markdown] tags=["en"]
# ## 11 Stop, and go on
#
# A real training takes hours, and something always comes in between. Saving the weights is not enough: the optimiser's moments, $\beta$, the random states, the place among the prompts; leave one out, and what goes on is **another** run. `save_state` keeps them all, `load_state` brings them back.
#
# How do we know that nothing was forgotten? Do the same run twice: once 4 steps in one go; once 2 steps, thrown away, and continued by a brand-new trainer. Then compare every parameter:

# %%
small = {"batch_size": 16, "mini_batch_size": 16, "log_with": "none"}


def go_on(until, state=None):
    """A new trainer, continued from ``state`` if there is one, trained until step ``until``."""
    trainer = loop.build_trainer(setup, setup.output / "resume", prompts=dataset, **small)
    lengths = loop.response_lengths(setup)
    if state is not None:
        trainer.load_state(state, extra={"lengths": lengths})
    loop.run(trainer, reward_model, lengths, until, title=f"to step {until}")
    return trainer, lengths


# %%
unbroken, _ = go_on(4)
broken, lengths_drawn = go_on(2)
state = broken.save_state(setup.output / "resume" / "states", extra={"lengths": lengths_drawn})
resumed, _ = go_on(4, state)
pairs = list(zip(unbroken.model.parameters(), resumed.model.parameters(), strict=True))
print(
    f"{state.name}: {sum(torch.equal(a, b) for a, b in pairs)} of {len(pairs)} parameters are equal, bit for bit"
)
assert setup.device != "cpu" or all(torch.equal(a, b) for a, b in pairs)

# %% [markdown] tags=["zh"]
# 在 CPU 上逐位相等。（GPU 上有些运算的累加顺序不固定，同一次训练跑两遍也会差一点点。）
#
# ## 12 把整条链接起来：自己的 SFT，自己的奖励模型
#
# 到这里用的都是配置里现成的模型。RLHF 的完整流程却是自己走完三步：第 04 课的 `output/sft_1` 做起点，第 05 课从偏好对里学出来的 `output/rm_2` 打分，PPO 训练。两者按名字查找；还没有的，就地训练一次（相当于先运行第 04、05 课里训练的那一步）。

# %% [markdown] tags=["en"]
# Bit for bit, on a CPU. (On a GPU some sums have no fixed order, and the same run done twice differs a little.)
#
# ## 12 The whole chain: our own SFT, our own reward model
#
# So far the models came ready-made with the profile. RLHF in full takes all three steps itself: `output/sft_1` of lesson 04 is where we start, `output/rm_2`, which lesson 05 learnt from preference pairs, gives the scores, and PPO trains. Both are found by name; what is missing is trained on the spot, once (the training step of lessons 04 and 05).

# %%
from rlhf import reward_model as step_2
from rlhf import sft as step_1
from rlhf.rewards import PairwiseReward

sft_1, rm_2 = step_1.reuse_or_train(setup), step_2.reuse_or_train(setup)
own_reward = PairwiseReward(rm_2, setup.device)
for text in ("this movie was really bad!!", "this movie was really good!!"):
    print(f"{own_reward([text]).item():6.2f}  {text}")

# %%
chain_sizes = dict(setup.sizes["chain"])
chain_steps = chain_sizes.pop("steps")
chain = loop.build_trainer(setup, setup.output / "runs" / "chain", sft_1, dataset, **chain_sizes)
chain_history = loop.run(chain, own_reward, loop.response_lengths(setup), chain_steps, title="own chain")

# %% [markdown] tags=["zh"]
# 训练用的是 `rm_2` 的分数。**情感分类器这次一点没有参与**，正好请它来当评委：如果连它也觉得变好了，学到的就不只是 `rm_2` 的口味。

# %% [markdown] tags=["en"]
# The scores that trained it are those of `rm_2`. **The sentiment classifier took no part this time**, which makes it a good judge: if it sees an improvement as well, more was learnt than the taste of `rm_2`.

# %%
own_before = evaluate.respond(chain.ref_model, tokenizer, prompts, lengths, seed=setup.seed)
own_after = evaluate.respond(chain.policy, tokenizer, prompts, lengths, seed=setup.seed)
own = evaluate.compare(
    prompts,
    own_before,
    own_after,
    tokenizer,
    own_reward,
    judge=reward_model,
    judge_name="sentiment classifier",
    kl=evaluate.response_kl(chain.policy, chain.ref_model, own_after),
    shown=8,
    title="SFT, then PPO on our own reward model",
    names=("SFT", "PPO"),
    meta=report.run_meta(setup, started),
)
own.save(setup.output / "chain")
own

# %%
works = own.gain[1] > 0 and own.judge_gain[1] > 0
print("both intervals lie above 0:", works, "·", own.summary())
assert works or setup.profile != "offline", "the chain did not learn what it learns on the offline profile"

# %% [markdown] tags=["zh"]
# ## 13 失败实验室
#
# 知道怎样算“跑坏了”，比跑好一次更有用。下面每次只改一个设置，其余不变，跑很短的几步（批量小，学习率大，让毛病快点露出来），最后和不改的对照组（control）比较。
#
# | 实验 | 改了什么 |
# |---|---|
# | `no penalty` | $\beta = 0$，离参考模型多远都不用付代价 |
# | `heavy penalty` | $\beta = 5$，离开一点就重罚 |
# | `no whitening` | 优势不做白化 |
# | `no value loss` | 价值损失的权重是 0，价值头永远不学 |
# | `20 epochs` | 同一批回复反复用 20 遍 |
# | `20 epochs, brake` | 同上，但走得太远就提前停止（early stopping） |
#
# **先预测，再运行**：和对照组相比，每个实验的分数和 KL 会更高还是更低？把猜测写下来，练习 5 会问。

# %% [markdown] tags=["en"]
# ## 13 A lab of failures
#
# To know what going wrong looks like is worth more than one run that goes well. Each run below changes one setting, leaves the rest alone and takes only a few steps (a small batch and a large learning rate, so that faults show soon); at the end it is compared with the control, which changes nothing.
#
# | run | what is changed |
# |---|---|
# | `no penalty` | $\beta = 0$: going away from the reference costs nothing |
# | `heavy penalty` | $\beta = 5$: every step away is fined heavily |
# | `no whitening` | the advantages are left as they are |
# | `no value loss` | the value loss has weight 0: the value head never learns |
# | `20 epochs` | the same batch of responses is used 20 times over |
# | `20 epochs, brake` | the same with early stopping: a step ends when it has gone too far |
#
# **Predict, then run**: will score and KL of each run be higher or lower than those of the control? Write your guesses down; exercise 5 asks for them.

# %%
lab = {
    "control": {},
    "no penalty": {"init_kl_coef": 0.0, "adap_kl_ctrl": False},
    "heavy penalty": {"init_kl_coef": 5.0, "adap_kl_ctrl": False},
    "no whitening": {"whiten_advantages": False},
    "no value loss": {"vf_coef": 0.0},
    "20 epochs": {"ppo_epochs": 20},
    "20 epochs, brake": {"ppo_epochs": 20, "early_stopping": True, "target_kl": 0.1},
}
lab_sizes = dict(setup.sizes["lab"])
lab_steps = lab_sizes.pop("steps")
lab_prompts, lab_lengths = prompts.select(range(min(64, len(prompts)))), lengths[:64]


# %%
def experiment(name):
    """Train one run of the lab; its curves, what it writes on held-out prompts, KL, minibatches left out."""
    settings = lab_sizes | lab[name] | {"log_with": "none"}
    trainer = loop.build_trainer(setup, setup.output / "lab", prompts=dataset, **settings)
    with warnings.catch_warnings(record=True) as said:  # one for every minibatch that is left out
        warnings.simplefilter("always")
        rows = loop.run(trainer, reward_model, loop.response_lengths(setup), lab_steps, title=name)
    left_out = sum("ratio_threshold" in str(each.message) for each in said)
    written = evaluate.respond(trainer.policy, tokenizer, lab_prompts, lab_lengths, seed=setup.seed)
    kl = evaluate.response_kl(trainer.policy, trainer.ref_model, written).mean().item()
    return pd.DataFrame(rows), written.texts(tokenizer), kl, left_out


runs = {name: experiment(name) for name in lab}

# %%
rows = {}
for name, (curve, texts, kl, left_out) in runs.items():
    scores = reward_model([q + r for q, r in zip(lab_prompts["query"], texts, strict=True)])
    rows[name] = {"score": scores.mean().item(), "KL": kl, "distinct-2": report.distinct_n(texts)}
    tail = curve.tail(3).mean(numeric_only=True)
    rows[name] |= {"clipfrac": tail["ppo/policy/clipfrac"], "value explained": tail["ppo/val/var_explained"]}
    rows[name]["left out"] = left_out
failures = pd.DataFrame(rows).T
failures.round(2)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for axis, key in zip(axes, ("env/reward_mean", "objective/kl"), strict=True):
    for style, (name, (curve, *_)) in zip(("-", "--", ":", "-.", "-", "--", ":"), runs.items(), strict=True):
        axis.plot(curve[key], style, label=name, lw=2.5 if name == "control" else 1.3)
    axis.set(xlabel="step", title=key)
axes[1].legend(fontsize=7)
plt.show()

# %% [markdown] tags=["zh"]
# 数字之外，读几条。没有惩罚的那一次，分数并不难看；看看它写了什么：

# %% [markdown] tags=["en"]
# Besides the numbers, read a few. The score of the run without a penalty looks well enough; look at what it writes:

# %%
for row in range(6):
    print(repr(lab_prompts["query"][row]))
    for name in ("control", "no penalty", "heavy penalty"):
        print(f"    {name:>13}: {runs[name][1][row]!r}")

# %%
control = failures.loc["control"]
expected = {
    "no penalty, KL": failures["KL"]["no penalty"] > control["KL"],
    "heavy penalty, score": failures["score"]["heavy penalty"] < control["score"],
    "20 epochs, clipfrac": failures["clipfrac"]["20 epochs"] > control["clipfrac"],
    "no value loss, value explained": failures["value explained"]["no value loss"]
    < control["value explained"],
}
print(expected)
assert all(expected.values()) or setup.profile != "offline", "a failure did not fail as it should"

# %%
favourite = Counter(" ".join(runs["no penalty"][1]).split()).most_common(3)
print("what the run without a penalty likes to write:", favourite)

# %% [markdown] tags=["zh"]
# 怎么读这张表：
#
# - `no penalty`：没有什么拉住它，KL 比对照组大得多，distinct-2 往下掉。分数照样涨，句子却越来越像口头禅：这就是**奖励黑客**。只看分数，看不出毛病。
# - `heavy penalty`：分数不涨，反而可能跌。罚得这么重，奖励里几乎只剩 KL 的噪声，模型被噪声推着走，KL 也未必小。$\beta$ 要在这两头之间选。
# - `no whitening`：Adam 会自己调整梯度的尺度，所以常常看不到灾难；少掉的是“减去均值”：比平均好的和比平均差的不再互相抵消，一批里可能人人都被鼓励，或者人人都挨罚。
# - `no value loss`：价值头从头到尾是随机的，`value explained` 起不来，优势里的噪声没人替它减掉。短短几步看不出分数的差别，长跑才吃亏。
# - `20 epochs`：同一批数据榨了 20 遍，策略早已不是写下这些回复的那个自己，clipfrac 很高。KL 和多样性都付出去了，分数却未必跟着涨。`left out` 一列数的是：有多少个小批（minibatch）里概率比的均值超过了 `ratio_threshold`，训练器只好跳过不学。刹车（`brake`）让多余的几遍提前结束。
#
# 这些都是一个种子的短跑，数字会随种子变；断言里的四条，就是练习 5 要你预测的四条。

# %% [markdown] tags=["en"]
# How to read the table:
#
# - `no penalty`: nothing holds it back; the KL is far above the control's, distinct-2 falls. The score rises all the same while sentences turn into a tic: this is **reward hacking**. The score alone shows nothing wrong.
# - `heavy penalty`: the score does not rise and may fall. Under so heavy a tax the reward is little more than the noise of the KL, noise pushes the model about, and even the KL need not be small. $\beta$ is chosen between these two ends.
# - `no whitening`: Adam rescales gradients by itself, so often there is no disaster to see. What is lost is the subtraction of the mean: those above the average and those below it no longer cancel, and a whole batch may be encouraged, or a whole batch punished.
# - `no value loss`: the value head stays random throughout, `value explained` never rises, and nobody takes the noise out of the advantages. A few steps hide it; a long run pays for it.
# - `20 epochs`: one batch is squeezed 20 times; the policy has long ceased to be the one that wrote these responses, and clipfrac is high. KL and diversity are spent, and the score need not follow. The column `left out` counts the minibatches whose mean ratio exceeded `ratio_threshold`, so that the trainer skipped them. Early stopping (`brake`) ends the superfluous passes.
#
# These are short runs with one seed, and the figures change with it; the four assertions are what exercise 5 asks you to predict.

# %% [markdown] tags=["zh"]
# ## 14 小结
#
# - 一步 PPO = 采样、评估、优化；四个角色里只有策略和价值头在学。
# - 一条文本一个分数，变成每个词元的奖励（扣掉 $\beta\cdot$KL），再变成优势，再变成裁剪后的损失。
# - 分数是拿 KL 换来的：永远把两者放在一起看。
# - “有用”要用留出提示、配对增益、区间、第二位评委来说，不能只给一条上升的训练曲线。
# - 奖励模型的漏洞就是策略的目标；上面的词频表显示它究竟学了什么。
# - 存下完整的状态，断了也能逐位接上；自己的 SFT 和奖励模型接起来，没参与训练的评委也说变好了。
# - 每一种跑坏的样子，都在某条曲线上看得见：KL、clipfrac、distinct-2 要和分数一起看。

# %% [markdown] tags=["en"]
# ## 14 Summary
#
# - A step of PPO is rollout, evaluation, optimisation; of the four roles only the policy and the value head learn.
# - One score per text becomes a reward per token (less $\beta\cdot$KL), then an advantage, then a clipped loss.
# - The score is bought with KL: always look at both.
# - "It works" takes held-out queries, a paired gain, an interval and a second judge; a rising training curve is not enough.
# - The holes of the reward model are what the policy aims at; the table of words shows what it really learnt.
# - With its whole state saved, a run goes on bit for bit; and with our own SFT and reward model, a judge that took no part still sees the gain.
# - Every way of going wrong shows on some curve: watch KL, clipfrac and distinct-2 along with the score.

# %% [markdown] tags=["zh"]
# ## 15 练习
#
# 把 `...` 换成你的答案再运行，批改结果马上出现。每题后面藏着一个参考答案，点开就能看。
#
# ### 练习 1（先预测，再运行）
#
# KL 的税率 $\beta$ 会自己调整。假设训练一开始 $\beta = 0.2$，目标是 6，每批 128 条，`horizon` 是 10,000，而 KL 在全部 184 步里始终远高于目标。最后 $\beta$ 是多少？先读下面的控制器，用纸笔或计算器算，误差在 1% 以内就算对。

# %% [markdown] tags=["en"]
# ## 15 Exercises
#
# Replace `...` with your answer and run the cell; it is graded at once. A solution is hidden after each exercise; click to open it.
#
# ### Exercise 1 (predict first, then run)
#
# The KL tax $\beta$ adjusts itself. Suppose training starts with $\beta = 0.2$, the target is 6, a batch holds 128 responses, `horizon` is 10,000, and the KL stays far above the target for all of 184 steps. What is $\beta$ in the end? Read the controller below and use pencil or calculator; within 1% counts as right.

# %%
print(inspect.getsource(AdaptiveKLController.update))

# %% tags=["exercise"]
answer_1 = ...
checks.e07_1(answer_1)

# %% tags=["solution"] jupyter={"source_hidden": true}
controller = AdaptiveKLController(0.2, target=6.0, horizon=10_000)
for _ in range(184):
    controller.update(60.0, 128)  # however far the KL is off, the error is clipped to 0.2
checks.e07_1(controller.value).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 2（找错）
#
# 下面的函数想算每个词元的奖励。它不报错，训练也能跑，学到的却不是我们想要的。两个错误都是真实代码里出现过的：找出来，写出正确的 `token_rewards`。（回复可以从中间开始，也可以提前结束；填充位置上放什么都行，只是不能有分数。）

# %% [markdown] tags=["en"]
# ### Exercise 2 (find the bug)
#
# The function below is meant to compute the reward of each token. It raises nothing and training runs, but what is learnt is not what we want. Both of its mistakes have been made in real code: find them and write the right `token_rewards`. (A response may begin late and end early; padding may hold anything but a score.)


# %%
def buggy_rewards(scores, logprobs, ref_logprobs, mask, kl_coef):
    """scores (B,), the others (B, R) -> rewards (B, R)."""
    rewards = -kl_coef * (ref_logprobs - logprobs)
    rewards[:, -1] += scores
    return rewards


# %% tags=["exercise"]
def token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef): ...  # your code


checks.e07_2(token_rewards)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_2(scores, logprobs, ref_logprobs, mask, kl_coef):
    rewards = -kl_coef * (logprobs - ref_logprobs)  # the sign: drifting away costs
    position = torch.arange(mask.shape[1])
    last = (mask * position).argmax(1)  # (B,): the last response token, not the last column
    rewards[torch.arange(len(scores)), last] += scores
    return rewards


checks.e07_2(solution_2).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 3（先预测，再看）
#
# 在任何一步里，`ppo/policy/advantages_mean`（白化后的优势的均值）会是多少？在第一遍的第一个小批（minibatch）里，概率比 $\rho$ 的均值会是多少？先写下两个数，再点开参考答案，看这次训练里量到的值。（第 7 节表里的 `ppo/policy/advantages_mean` 是各小批均值的平均；小批的词元数不一样，所以会差一点点。）

# %% [markdown] tags=["en"]
# ### Exercise 3 (predict first, then look)
#
# In any step, what is `ppo/policy/advantages_mean`, the mean of the whitened advantages? And in the first minibatch of the first pass, what is the mean of the ratio $\rho$? Write down two numbers, then open the solution to see what was measured in this run. (The `ppo/policy/advantages_mean` in the table of section 7 is the mean of the minibatches' means; they hold different numbers of tokens, so it is off by a little.)

# %% tags=["exercise"]
advantages_mean, first_ratio = ..., ...
checks.e07_3(advantages_mean, first_ratio)

# %% tags=["solution"] jupyter={"source_hidden": true}
measured_mean = losses.masked_mean(last.advantages, last.mask)  # of the last step
first_pass = trainer.passes[0]
measured_ratio = losses.masked_mean(first_pass["policy/ratio"], first_pass["mask"])
print(f"advantages_mean {measured_mean:.2g}, ratio {measured_ratio:.6f}")
checks.e07_3(measured_mean, measured_ratio).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 4（刹车）
#
# `PPOConfig(early_stopping=True)` 会在一步之内踩刹车：每一遍之后看 `policykl`，超过 `target_kl` 的 1.5 倍就不再继续这一步的其余各遍。写出这个判断。想一想：`policykl` 是带符号的估计，负的时候该怎么办？

# %% [markdown] tags=["en"]
# ### Exercise 4 (the brake)
#
# `PPOConfig(early_stopping=True)` puts on a brake within a step: after each pass it looks at `policykl`, and above 1.5 times `target_kl` the remaining passes of that step are left out. Write this test. Mind that `policykl` is an estimate with a sign: what if it is negative?


# %% tags=["exercise"]
def should_stop(policykl, target_kl): ...  # your code


checks.e07_4(should_stop)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_4(policykl, target_kl):
    return bool(policykl > 1.5 * target_kl)  # a negative estimate is no reason to stop


stops = sum(solution_4(value, 0.01) for value in log["ppo/policy/policykl"])
print(f"mean policykl above 1.5 × 0.01 in {stops} of {len(log)} steps of this run")
checks.e07_4(solution_4).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 5（先预测，再对照第 13 节）
#
# 和对照组相比，下面四个量是更高（`"higher"`）还是更低（`"lower"`）？凭道理回答，不要看表；答完再和第 13 节的表对照。

# %% [markdown] tags=["en"]
# ### Exercise 5 (predict, then compare with section 13)
#
# Compared with the control, is each of these four higher (`"higher"`) or lower (`"lower"`)? Answer by reasoning, not by the table; then look at the table of section 13.

# %% tags=["exercise"]
forecast = {
    "no penalty: KL": ...,
    "heavy penalty: score": ...,
    "20 epochs: clipfrac": ...,
    "no value loss: value explained": ...,
}
checks.e07_5(forecast)

# %% tags=["solution"] jupyter={"source_hidden": true}
solution_5 = {
    "no penalty: KL": "higher",  # nothing holds the policy back
    "heavy penalty: score": "lower",  # little is left of the reward but the noise of the KL
    "20 epochs: clipfrac": "higher",  # the policy moves far from the one that wrote the batch
    "no value loss: value explained": "lower",  # a head that never learns explains nothing
}
checks.e07_5(solution_5).must_pass()

# %% [markdown] tags=["zh"]
# ## 16 延伸阅读
#
# - Ziegler et al. 2019，[Fine-Tuning Language Models from Human Preferences](https://arxiv.org/abs/1909.08593)：这一课的任务、KL 惩罚和自适应的 $\beta$ 都出自这里。
# - Schulman et al. 2017，[Proximal Policy Optimization Algorithms](https://arxiv.org/abs/1707.06347)：PPO 的原论文，裁剪的公式是其中的式 7。
# - Schulman et al. 2016，[High-Dimensional Continuous Control Using Generalized Advantage Estimation](https://arxiv.org/abs/1506.02438)：GAE。
# - Ouyang et al. 2022，[InstructGPT](https://arxiv.org/abs/2203.02155)：三步走的 RLHF，这里是其中的第 3 步。
# - Huang et al.，[The N Implementation Details of RLHF with PPO](https://huggingface.co/blog/the_n_implementation_details_of_rlhf_with_ppo)：论文里没写的细节。
# - Schulman，[Approximating KL Divergence](http://joschu.net/blog/kl-approx.html)：三种 KL 估计。
# - 经典的 notebook：[gpt2-sentiment.ipynb](https://github.com/huggingface/trl/blob/v0.11.4/examples/notebooks/gpt2-sentiment.ipynb)（TRL 0.11.4），以及它训练出的 [lvwerra/gpt2-imdb-pos-v2](https://huggingface.co/lvwerra/gpt2-imdb-pos-v2)。

# %% [markdown] tags=["en"]
# ## 16 Further reading
#
# - Ziegler et al. 2019, [Fine-Tuning Language Models from Human Preferences](https://arxiv.org/abs/1909.08593): the task of this lesson, the KL penalty and the adaptive $\beta$ come from here.
# - Schulman et al. 2017, [Proximal Policy Optimization Algorithms](https://arxiv.org/abs/1707.06347): the paper on PPO; clipping is its equation 7.
# - Schulman et al. 2016, [High-Dimensional Continuous Control Using Generalized Advantage Estimation](https://arxiv.org/abs/1506.02438): GAE.
# - Ouyang et al. 2022, [InstructGPT](https://arxiv.org/abs/2203.02155): RLHF in three steps, of which this is Step 3.
# - Huang et al., [The N Implementation Details of RLHF with PPO](https://huggingface.co/blog/the_n_implementation_details_of_rlhf_with_ppo): what the papers leave out.
# - Schulman, [Approximating KL Divergence](http://joschu.net/blog/kl-approx.html): three estimators of the KL.
# - The classic notebook, [gpt2-sentiment.ipynb](https://github.com/huggingface/trl/blob/v0.11.4/examples/notebooks/gpt2-sentiment.ipynb) (TRL 0.11.4), and the model it trained, [lvwerra/gpt2-imdb-pos-v2](https://huggingface.co/lvwerra/gpt2-imdb-pos-v2).
