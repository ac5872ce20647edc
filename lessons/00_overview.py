# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] tags=["zh"]
# # 00 总览：我们要做什么？
#
# **这一课回答的问题**：RLHF（reinforcement learning from human feedback，基于人类反馈的强化学习）要解决什么任务？分哪几步？有哪些角色？学完整门课能得到什么？
#
# **需要什么**：会一点 Python，知道“语言模型逐个预测下一个词元（token）”就够了，不需要强化学习基础。默认的 `offline` 配置只用 CPU，不联网，几分钟之内跑完。术语都收在 [GLOSSARY.md](../GLOSSARY.md)。
#
# **怎么读**：从上到下逐格运行。每一格都很短，先猜它会输出什么，再运行。

# %% [markdown] tags=["en"]
# # 00 Overview: what are we going to do?
#
# **The question of this lesson**: What task does RLHF (reinforcement learning from human feedback) solve, in which stages, who plays which role, and what will you have at the end of the course?
#
# **What you need**: a little Python, and the idea that a language model predicts one token after the other. No reinforcement learning. The default profile, `offline`, runs on a CPU, without a network, in a few minutes. All terms are collected in [GLOSSARY.md](../GLOSSARY.md).
#
# **How to read it**: run the cells from top to bottom. Each is short; guess what it will print before you run it.

# %% tags=["setup"]
import time

from rlhf import (
    checks,
    evaluate,
    profiles,
    promise,
    report,
)  # rlhf before torch: it keeps idle threads from spinning

started = time.perf_counter()
setup = profiles.setup("00_overview")

# %% [markdown] tags=["zh"]
# ## 1 任务：写正面影评
#
# 语言模型会接着一段开头往下写。在影评上训练过的模型，写出来的影评有好评也有差评，因为训练数据里两种都有。我们想要的是另一个模型：**不论开头是什么，接下来都写好评**，而且读起来仍然像影评。
#
# 公开的模型里就有这样一对：`lvwerra/gpt2-imdb` 是在 IMDB 影评上微调过的 GPT-2；`lvwerra/gpt2-imdb-pos` 是从它出发，用 PPO 和一个情感分类器的打分训练出来的，专写好评。这门课把从前者到后者的路完整走一遍，每一步都自己写、自己训练、自己检验。
#
# 先看数据：每条影评有正文 `text` 和标签 `label`。

# %% [markdown] tags=["en"]
# ## 1 The task: write positive reviews
#
# A language model continues an opening. One that was trained on movie reviews writes good and bad ones, because its training data holds both. We want another model: **whatever the opening, the continuation is positive**, and still reads like a review.
#
# There is such a pair in public: `lvwerra/gpt2-imdb` is GPT-2 fine-tuned on IMDB's movie reviews; `lvwerra/gpt2-imdb-pos` started from it and was trained with PPO, on the scores of a sentiment classifier, to write positive reviews. This course walks the whole way from the first to the second, and you write, train and check every step yourself.
#
# The data first: a review has a `text` and a `label`.

# %%
from rlhf.data import load_reviews, plain_text

reviews = load_reviews(setup.dataset, "train")
reviews

# %%
names = reviews.features["label"].names
for row in reviews.shuffle(seed=setup.seed).select(range(4)):
    print(f"{names[row['label']]} | {plain_text(row['text'])[:150]} …")

# %% [markdown] tags=["zh"]
# **“人类反馈”在哪里？** 就在标签里。在真实的 IMDB 上，标签来自影评作者自己打的星：是人说了这条影评是褒是贬。（自带的影评是程序按一套语法写的，标签也由程序给出，替人站在这个位置上。）第 2 步会用这些判断训练一个打分的模型，之后它替人打分，想打多少次都行。
#
# 为什么不直接拿好评做微调，要绕这么一圈？因为微调只会模仿写好的例子；而很多时候，人**写不出**理想的回答，却**看得出**两个回答哪个更好。RLHF 用的正是这种“看得出”。

# %% [markdown] tags=["en"]
# **Where is the human feedback?** In the labels. On the real IMDB they come from the stars that the reviewers gave: a person said whether a review praises or complains. (The bundled reviews are written by a program, from a grammar, and so are their labels; they stand in for a person here.) Stage 2 trains a model on these judgements; from then on it judges in people's place, as often as we like.
#
# Why not simply fine-tune on the positive reviews? Because fine-tuning only imitates examples that someone wrote. Often people **cannot write** the ideal answer, but **can see** which of two answers is better. That ability is what RLHF uses.

# %% [markdown] tags=["zh"]
# ## 2 三个阶段，外加第四个
#
# ![RLHF 的各个阶段](../figs/00_stages.svg)
#
# 前三个阶段来自 InstructGPT（[Ouyang 等 2022](https://arxiv.org/abs/2203.02155)），第四个来自 Llama 2（[Touvron 等 2023](https://arxiv.org/abs/2307.09288)）：
#
# | 阶段 | 学什么 | 结果存在 | 课 |
# |---|---|---|---|
# | 1 监督微调（supervised fine-tuning，SFT） | 模仿写好的例子 | `output/sft_1` | 04 |
# | 2 奖励模型（reward model） | 给一段文本打一个分 | `output/rm_2` | 05 |
# | 3 PPO（proximal policy optimization） | 让写出来的文本得分更高 | `output/ppo_3` | 06、07 |
# | 4 拒绝采样（rejection sampling） | 写 K 条，留下最好的，再去模仿它 | `output/rs_4` | 08 |
#
# 第四个阶段不用强化学习，只用采样和微调，却是 PPO 很强的对手。它到底够不够用，第 08 课用同样的预算来比。

# %% [markdown] tags=["en"]
# ## 2 Three stages, and a fourth
#
# ![The stages of RLHF](../figs/00_stages.svg)
#
# The first three stages are those of InstructGPT ([Ouyang et al. 2022](https://arxiv.org/abs/2203.02155)), the fourth comes from Llama 2 ([Touvron et al. 2023](https://arxiv.org/abs/2307.09288)):
#
# | stage | what is learnt | kept in | lesson |
# |---|---|---|---|
# | 1 supervised fine-tuning (SFT) | to imitate good examples | `output/sft_1` | 04 |
# | 2 reward model | to give a text one score | `output/rm_2` | 05 |
# | 3 PPO (proximal policy optimization) | to write texts that score higher | `output/ppo_3` | 06, 07 |
# | 4 rejection sampling | to write K texts, keep the best, and imitate it | `output/rs_4` | 08 |
#
# The fourth needs no reinforcement learning, only sampling and fine-tuning, and is a serious rival of PPO. Whether it is enough is measured in lesson 08, with the same budget for both.

# %% [markdown] tags=["zh"]
# ## 3 谁扮演什么角色
#
# ![谁持有哪些权重](../figs/00_roles.svg)
#
# - **策略（policy）**：正在学习的语言模型。状态是已有的文字，动作是下一个词元。
# - **价值头（value head）**：接在策略最后一层隐状态上的一个线性层，为每个位置猜一个数：从这里写下去，最后大概能得多少奖励。只在训练时用。
# - **参考模型（reference）**：策略出发时的副本，冻结。用来衡量策略走了多远。
# - **奖励模型（reward model）**：读完整段文本，给一个分。冻结。
#
# 现在把它们真的装进内存。

# %% [markdown] tags=["en"]
# ## 3 Who plays which role
#
# ![Who holds which weights](../figs/00_roles.svg)
#
# - **Policy**: the language model that learns. Its state is the text so far, its action the next token.
# - **Value head**: one linear layer on the policy's last hidden state. At every position it guesses a number: how much reward is still to come from here. Used in training only.
# - **Reference**: a frozen copy of the policy as it was at the start. It measures how far the policy has gone.
# - **Reward model**: reads a whole text and gives one score. Frozen.
#
# Now let us really load them.

# %%
from transformers import AutoTokenizer

from rlhf.ppo import AutoModelForCausalLMWithValueHead, create_reference_model
from rlhf.rewards import SentimentReward

tokenizer = AutoTokenizer.from_pretrained(setup.policy)
policy = AutoModelForCausalLMWithValueHead.from_pretrained(setup.policy, seed=setup.seed).to(setup.device)
reference = create_reference_model(policy.pretrained_model)
reward = SentimentReward(setup.reward_model, setup.device)
print(f"{len(tokenizer):,} tokens in the vocabulary; the policy reads {policy.config.n_positions} at most")

# %% [markdown] tags=["zh"]
# 数一数参数。`requires_grad` 为真的才会被训练；共享的权重（GPT-2 的词嵌入和输出层是同一个矩阵）只算一次。

# %% [markdown] tags=["en"]
# Count the parameters. Only those with `requires_grad` are trained; a shared weight (GPT-2's embedding and its output layer are one matrix) counts once.

# %%
import pandas as pd

roles = {"policy": policy.pretrained_model, "value head": policy.v_head}
roles |= {"reference": reference, "reward model": reward.model}
rows = {}
for role, module in roles.items():
    sizes = [(w.numel(), w.requires_grad) for w in module.parameters()]
    rows[role] = type(module).__name__, sum(n for n, _ in sizes), sum(n for n, grad in sizes if grad)
weights = pd.DataFrame.from_dict(rows, orient="index", columns=["class", "parameters", "trainable"])
weights

# %% [markdown] tags=["zh"]
# 要训练的参数很贵：除了权重本身，还要梯度和 Adam 的两个动量，一共四份。冻结的只要一份。用 fp32（每个数 4 字节）算一算，激活值另计：

# %% [markdown] tags=["en"]
# A parameter that is trained is expensive: besides the weight itself there is a gradient and Adam's two moments, four numbers in all. A frozen one needs one. In fp32 (4 bytes per number), activations not counted:

# %%
frozen = weights["parameters"] - weights["trainable"]
memory = 4 * (4 * weights["trainable"] + frozen) / 2**20
memory.round(2).rename("MiB").to_frame()

# %% [markdown] tags=["zh"]
# 出发的时候，策略和参考模型的输出应当一模一样。一次前向就能看到策略的两种输出：词表上的 logits，和价值头的一列数（还没训练，所以没有意义）。

# %% [markdown] tags=["en"]
# At the start, policy and reference must say exactly the same. One forward pass shows the two outputs of the policy: logits over the vocabulary, and the value head's numbers (untrained, so they mean nothing yet).

# %%
import torch

ids = tokenizer("This movie was", return_tensors="pt")["input_ids"].to(setup.device)  # (1, T)
with torch.no_grad():
    logits, _, values = policy(input_ids=ids)  # (1, T, V) and (1, T)
    ref_logits = reference(input_ids=ids).logits  # (1, T, V)
print(logits.shape, values.shape, "largest difference:", (logits - ref_logits).abs().max().item())

# %% [markdown] tags=["zh"]
# ## 4 奖励模型怎么打分
#
# 奖励模型是一个情感分类器。它输出两个数（logits），我们取名为 `POSITIVE` 的那一个，不做 softmax，直接当作分数（score）。先试两句最简单的：

# %% [markdown] tags=["en"]
# ## 4 How the reward model scores
#
# The reward model is a sentiment classifier. It puts out two numbers (logits); we take the one called `POSITIVE`, without softmax, as the score. Two simple sentences first:

# %%
SENTENCES = (
    "I hated this movie. It was a huge disappointment.",
    "I loved this movie. It was a delight from start to finish.",
)
for text in SENTENCES:
    print(f"{reward([text]).item():6.2f} | {text}")

# %% [markdown] tags=["zh"]
# 再看测试集（test split）里完整的影评，奖励模型训练时没见过它们。好评和差评的分数分得开吗？

# %% [markdown] tags=["en"]
# Now whole reviews of the test split, which the reward model never saw in training. Do the scores tell good reviews from bad ones?

# %%
held = load_reviews(setup.dataset, "test").shuffle(seed=setup.seed)[:256]  # dict of lists
scores = reward([plain_text(text) for text in held["text"]])  # (256,)
labels = torch.tensor(held["label"])  # (256,)
for label, name in enumerate(names):
    print(f"{name}: mean score {scores[labels == label].mean():5.2f}")

# %%
from matplotlib import pyplot as plt

from rlhf.pictures import STYLE

plt.style.use(STYLE)
figure, axes = plt.subplots(figsize=(6.4, 2.6))
groups = [scores[labels == label].numpy() for label in (0, 1)]
axes.hist(groups, bins=40, stacked=True, color=["#D55E00", "#0072B2"], label=[f"labelled {n}" for n in names])
axes.set(xlabel="score: raw logit of POSITIVE", ylabel="reviews")
axes.legend()
plt.show()

# %% [markdown] tags=["zh"]
# **为什么用 logit，不用概率？** 概率会饱和：分数够高以后，再高也几乎看不出差别，策略就收不到“还能更好”的信号。假设两个 logit 互为相反数，$P(\text{POSITIVE}) = 1 / (1 + e^{-2z})$：

# %% [markdown] tags=["en"]
# **Why the logit and not the probability?** A probability saturates: once the score is high, higher hardly shows, and the policy gets no signal that it could do better still. If the two logits are each other's negative, $P(\text{POSITIVE}) = 1 / (1 + e^{-2z})$:

# %%
z = torch.tensor([-2.0, 0.0, 2.0, 4.0])
for score, probability in zip(z, torch.sigmoid(2 * z), strict=True):
    print(f"logit {score:4.1f}   probability {probability:.6f}")

# %% [markdown] tags=["zh"]
# ## 5 硬件与配置
#
# 同一份代码，三种配置（profile）。换配置只改一个环境变量，单元格一个字都不用改：
#
# ```
# RLHF_PROFILE=imdb make lab
# ```
#
# - `offline`（默认）：课程自带的语料（由语法生成，比真实影评容易得多），现场训练的微型模型。只用 CPU，不联网，人人都能跑完。
# - `imdb`：真实的 IMDB 影评，模型仍是从头训练的小模型。CPU 能跑，有 GPU 更好。
# - `full`：公开发布的模型和真实影评，需要一块 GPU。

# %% [markdown] tags=["en"]
# ## 5 Hardware and profiles
#
# One code, three profiles. To change the profile, change one environment variable, and not a letter in the cells:
#
# ```
# RLHF_PROFILE=imdb make lab
# ```
#
# - `offline` (default): the course's own corpus (generated from a grammar, and far easier than real reviews), tiny models trained on the spot. CPU only, no network: anybody can run it.
# - `imdb`: the real IMDB reviews, still small models trained from scratch. Runs on a CPU, better on a GPU.
# - `full`: the published models and the real reviews, on one GPU.

# %%
rows = {}
for name in profiles.names():
    p = profiles.read(name)
    rows[name] = {key: p[key] for key in ("policy", "reward_model", "dataset", "prepare")}
    rows[name] |= {"PPO steps × batch": f"{p['ppo']['steps']} × {p['ppo']['batch_size']}"}
    rows[name] |= {"learning rate": f"{p['ppo']['learning_rate']:g}"}
pd.DataFrame(rows)

# %% [markdown] tags=["zh"]
# 你现在用的是：

# %% [markdown] tags=["en"]
# What you are using now:

# %%
report.run_meta(setup)

# %% [markdown] tags=["zh"]
# ## 6 第一次采样
#
# 提示（query）是测试集影评的开头，只留几个词元；回复（response）由策略接着写，长度也很短。先让还没有用 PPO 训练过的策略写，存起来，最后做对照。

# %% [markdown] tags=["en"]
# ## 6 A first sample
#
# A query is the opening of a test review, cut to a few tokens; the policy writes the response, which is short as well. Let the policy write as it is, before any PPO, and keep what it wrote, to compare with at the end.

# %%
prompts = evaluate.held_out_prompts(setup, tokenizer)
lengths = evaluate.response_lengths(setup, len(prompts))
before = evaluate.respond(reference, tokenizer, prompts, lengths, seed=setup.seed)
print(f"{len(before)} prompts; responses of {min(before.lengths)} to {max(before.lengths)} tokens")

# %%
written = before.texts(tokenizer)
for query, response in list(zip(prompts["query"], written, strict=True))[:6]:
    print(f"{reward([query + response]).item():6.2f} | {query} ▸{response}")

# %% [markdown] tags=["zh"]
# 有褒有贬，和训练数据一样。再写一段长的，给每个词元涂上颜色：颜色越深，策略觉得这个词元越意外（对数概率越低）。
#
# 下面的函数是 PPO 里用得最多的一步：模型给**实际写出的**那个词元多大的对数概率？位置 $t$ 的 logits 预测第 $t+1$ 个词元，所以两边各错开一位。

# %% [markdown] tags=["en"]
# Praise and complaint, as in the training data. Now a longer text, with a colour for every token: the stronger, the more the token surprised the policy (the lower its log-probability).
#
# The function below is the most used step of PPO: what log-probability does a model give to the token that was **really written**? The logits at position $t$ predict token $t+1$, hence the shift by one on either side.

# %%
from rlhf.ppo import losses


def token_logprobs(model, ids):
    """Log-probability of every token of ``ids`` (T,) but the first, given those before it: (T-1,)."""
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits  # (1, T, V)
    return losses.logprobs_from_logits(logits[:, :-1], ids[None, 1:])[0]


# %%
opening = tokenizer("This movie", return_tensors="pt")["input_ids"]  # (1, Q)
ids = evaluate.respond(reference, tokenizer, list(opening), 40, seed=setup.seed).sequences[0]  # (T,)
tokens = tokenizer.convert_ids_to_tokens(ids[1:].tolist())
report.token_heat(tokens, token_logprobs(reference, ids), "log-probability of each token, base policy")

# %% [markdown] tags=["zh"]
# ## 7 先尝一口 PPO
#
# 只求高分是危险的：策略会找到奖励模型的漏洞，写出得分高却不成句的东西，这叫奖励黑客（reward hacking）。所以要同时看住它离参考模型有多远。PPO 在这里最大化的是
#
# $$R(x, y) = r(x, y) - \beta \sum_t \left[\log \pi(y_t \mid x, y_{<t}) - \log \pi_{\mathrm{ref}}(y_t \mid x, y_{<t})\right]$$
#
# $r(x, y)$ 是奖励模型对提示 $x$ 加回复 $y$ 的打分；方括号里的差在平均意义上就是 KL 散度；$\beta$ 是偏离的“税率”。用两条想象中的回复算一笔账：第一条自然，第二条分数高但走得太远。

# %% [markdown] tags=["en"]
# ## 7 A taste of PPO
#
# High scores alone are dangerous: the policy would find holes in the reward model and write what scores high and is no sentence at all. This is called reward hacking. So we also watch how far it goes from the reference. What PPO maximises here is
#
# $$R(x, y) = r(x, y) - \beta \sum_t \left[\log \pi(y_t \mid x, y_{<t}) - \log \pi_{\mathrm{ref}}(y_t \mid x, y_{<t})\right]$$
#
# $r(x, y)$ is the reward model's score of query $x$ and response $y$; the difference in brackets is, on average, the KL divergence; $\beta$ is the rate at which leaving is taxed. Two imagined responses, one natural, one that scores high but went too far:

# %%
beta = 0.2
for name, score, log_ratios in (("natural", 1.5, [0.4, 0.1, 0.6]), ("too far", 2.5, [4.0, 3.0, 2.0])):
    print(
        f"{name}: score {score}, tax {beta * sum(log_ratios):.2f}, R = {score - beta * sum(log_ratios):.2f}"
    )

# %% [markdown] tags=["zh"]
# 现在真的训练一小会儿：步数是该配置完整训练的一半。循环就是经典的四步：生成 → 打分 → `step` → `log_stats`，第 07 课会一行一行地讲。结果存在这一课的输出文件夹里，设置不变就不会重新训练。

# %% [markdown] tags=["en"]
# Now train for a little while, for real: half the steps of the profile's full run. The loop is the classic one of four moves: generate → score → `step` → `log_stats`; lesson 07 goes through it line by line. The result is kept in this lesson's output folder and is not trained again while the settings stay the same.

# %%
folder = promise.short_ppo(setup)
history = promise.history(folder)
print(f"{len(history)} PPO steps of {setup.ppo['batch_size']} texts each, saved in {folder.name}/")

# %% [markdown] tags=["zh"]
# - `env/reward_mean`：这一批文本的平均分，应当上升。
# - `objective/kl`：平均每条回复离参考模型多远（单位 nat），从零附近出发，随训练上升。

# %% [markdown] tags=["en"]
# - `env/reward_mean`: the mean score of the batch; it should rise.
# - `objective/kl`: how far a response is from the reference on average (in nats); it starts near zero and rises with training.

# %%
report.curves(history, ["env/reward_mean", "objective/kl"], smooth=3, columns=2)

# %% [markdown] tags=["zh"]
# ## 8 日志在哪里，TensorBoard 怎么开
#
# 所有训练结果都在 `output/` 下，一课一个文件夹。训练时每一步都写进 TensorBoard 的日志，每换一组设置就另开一个子文件夹，名字由设置算出：

# %% [markdown] tags=["en"]
# ## 8 Where the logs are, and how to open TensorBoard
#
# Everything that trains writes under `output/`, one folder per lesson. Each step of the training above also went into TensorBoard's log, in a subfolder for each set of settings, whose name is computed from them:

# %%
for run in sorted((setup.output / "runs").iterdir()):
    print(run.relative_to(profiles.root()).as_posix())

# %%
keys = [key for key in history[0] if not key.startswith("time/")]
print(len(keys), "metrics per step:", *keys, sep="\n  ")

# %% [markdown] tags=["zh"]
# **在 VS Code 里**：打开命令面板（Ctrl+Shift+P，macOS 上是 Cmd+Shift+P），运行 `Python: Launch TensorBoard`（没有这条命令，就先安装 TensorBoard 扩展），选择 `output` 文件夹。
#
# **手动启动**：在课程的文件夹里运行下面的命令，然后打开 http://127.0.0.1:8080 。
#
# ```
# tensorboard --logdir output --port 8080
# ```
#
# **训练在服务器上，浏览器在自己的电脑上**：用 SSH 隧道把服务器的 8080 端口接到本机的 10086 端口。先在自己的电脑上运行
#
# ```
# ssh -L 10086:127.0.0.1:8080 user@server
# ```
#
# 登录以后，在服务器上启动 `tensorboard --logdir output --port 8080`，再在自己电脑的浏览器里打开 http://127.0.0.1:10086 。TensorBoard 默认只监听服务器的本机地址，外网连不进来。

# %% [markdown] tags=["en"]
# **In VS Code**: open the command palette (Ctrl+Shift+P; Cmd+Shift+P on macOS), run `Python: Launch TensorBoard` (if there is no such command, install the extension TensorBoard first) and choose the folder `output`.
#
# **By hand**: run this in the course's folder, then open http://127.0.0.1:8080 .
#
# ```
# tensorboard --logdir output --port 8080
# ```
#
# **Training on a server, browser on your own computer**: an SSH tunnel connects port 8080 of the server with port 10086 of your computer. On your own computer, run
#
# ```
# ssh -L 10086:127.0.0.1:8080 user@server
# ```
#
# Once logged in, start `tensorboard --logdir output --port 8080` on the server, and open http://127.0.0.1:10086 in your own browser. By default TensorBoard listens on the server's local address only, so nobody can connect from outside.

# %% [markdown] tags=["zh"]
# ## 9 版本地图
#
# 网上大多数 RLHF 教程用的是 TRL 旧版的 PPO，照抄到今天会报错。先认清它们属于哪个版本：
#
# | TRL | 发布日期 | `PPOTrainer` 的样子 |
# |---|---|---|
# | 0.4 到 0.11 | 2023-03-09 到 2024-10-15 | 经典循环：`generate`、打分、`step`、`log_stats` |
# | 0.12 | 2024-11-01 | 名字没变，换成了另一个训练器：没有 `step`，只有 `train()`，奖励模型要事先交给它 |
# | 0.26 | 2025-12-09 | 搬到 `trl.experimental.ppo`，旧的导入方式给出警告 |
# | 0.29 | 2026-02-25 | `from trl import PPOTrainer` 不再可用 |
# | 2026-09 起 | [#7020](https://github.com/huggingface/trl/pull/7020) | 整个删除，连同带价值头的模型 |
#
# 看看现在装的版本里还有没有：

# %% [markdown] tags=["en"]
# ## 9 A map of versions
#
# Most RLHF tutorials use the PPO of old TRL versions and fail today as they stand. It helps to know which version one belongs to:
#
# | TRL | released | what `PPOTrainer` is |
# |---|---|---|
# | 0.4 to 0.11 | 2023-03-09 to 2024-10-15 | the classic loop: `generate`, score, `step`, `log_stats` |
# | 0.12 | 2024-11-01 | another trainer under the same name: no `step`, only `train()`, and the reward model is handed over beforehand |
# | 0.26 | 2025-12-09 | moved to `trl.experimental.ppo`; the old import warns |
# | 0.29 | 2026-02-25 | `from trl import PPOTrainer` no longer works |
# | from 2026-09 | [#7020](https://github.com/huggingface/trl/pull/7020) | removed altogether, the model with a value head as well |
#
# Is any of it left in the version installed here?

# %%
import importlib.metadata
from pathlib import Path

import trl

modules = Path(trl.__file__).parent.rglob("*ppo*.py")
print(
    "trl",
    importlib.metadata.version("trl"),
    "· modules with ppo in their name:",
    [path.name for path in modules],
)

# %% [markdown] tags=["zh"]
# 因此 PPO 由这门课自己写，放在 `rlhf.ppo`：名字沿用经典的，数值与 TRL 0.11.4 逐项核对过。旧教程改掉导入就能跑：
#
# | 教程里写的 | 在这里 |
# |---|---|
# | `from trl import PPOTrainer, PPOConfig` | `from rlhf.ppo import PPOTrainer, PPOConfig` |
# | `AutoModelForCausalLMWithValueHead`, `create_reference_model` | 都在 `rlhf.ppo` |
# | `from trl.core import LengthSampler` | `from rlhf.ppo import LengthSampler` |
# | `trl.core.respond_to_batch` | `rlhf.sampling.generate` |
# | `pipeline(..., return_all_scores=True)` | `pipeline(..., top_k=None)`，按标签名取分；或 `rlhf.rewards.SentimentReward` |
# | `project_kwargs={"logging_dir": ...}` | 不用写，默认就有日志目录 |
# | `SFTTrainer`, `RewardTrainer`, `DPOTrainer`, `GRPOTrainer` | 仍在 `trl` 里，直接用 |

# %% [markdown] tags=["en"]
# That is why PPO is the course's own, in `rlhf.ppo`: with the classic names, and numbers checked one by one against TRL 0.11.4. An old tutorial runs with its imports changed:
#
# | in the tutorial | here |
# |---|---|
# | `from trl import PPOTrainer, PPOConfig` | `from rlhf.ppo import PPOTrainer, PPOConfig` |
# | `AutoModelForCausalLMWithValueHead`, `create_reference_model` | both in `rlhf.ppo` |
# | `from trl.core import LengthSampler` | `from rlhf.ppo import LengthSampler` |
# | `trl.core.respond_to_batch` | `rlhf.sampling.generate` |
# | `pipeline(..., return_all_scores=True)` | `pipeline(..., top_k=None)`, and pick the score by its label; or `rlhf.rewards.SentimentReward` |
# | `project_kwargs={"logging_dir": ...}` | not needed, there is a logging directory by default |
# | `SFTTrainer`, `RewardTrainer`, `DPOTrainer`, `GRPOTrainer` | still in `trl`, used as they are |

# %%
from rlhf import ppo

print(*ppo.__all__, sep="\n")

# %% [markdown] tags=["zh"]
# ## 10 检查
#
# 比较之前，先确认比较本身站得住。第一，采样可以重复：同一个种子，同样的回复。第二，参考模型到自己的 KL 是零。第三，评测用的影评有几条出现在训练集里？（自带语料应当是零；真实 IMDB 的两个划分之间有少量重复。）

# %% [markdown] tags=["en"]
# ## 10 Checks
#
# Before comparing, make sure that the comparison holds. First, sampling repeats: the same seed, the same responses. Second, the KL of the reference to itself is zero. Third, how many of the reviews used for evaluation occur in the training split? (None in the bundled corpus; the two splits of the real IMDB share a few.)

# %%
again = evaluate.respond(reference, tokenizer, prompts, lengths, seed=setup.seed)
print("same responses:", again.texts(tokenizer) == written)
print("KL to itself:", evaluate.response_kl(reference, reference, before).abs().max().item())
print("also in training:", len(set(prompts["review"]) & set(reviews["text"])))

# %% [markdown] tags=["zh"]
# 第四，策略是照着奖励模型的分数学的，让同一个奖励模型来评它，难免偏心。所以再请一位**没有参与训练**的评委：只看词和词对的逻辑回归，用测试集里其余的影评训练。它自己准不准，也要先量一下。（自带的影评很容易，它在完整的影评上会接近满分；回复只有几个词元，就难得多。）

# %% [markdown] tags=["en"]
# Fourth, the policy learnt from the reward model's scores, so the same reward model is a biased judge of it. A second judge that **took no part in training** stands beside it: a logistic regression on words and word pairs, trained on the other reviews of the test split. How good it is must be measured first, too. (The bundled reviews are easy, and on whole ones it comes close to full marks; responses of a few tokens are much harder.)

# %%
from rlhf.rewards import WordJudge

others = evaluate.judge_reviews(setup, prompts).train_test_split(test_size=0.15, seed=setup.seed)
judge = WordJudge.fit(others["train"], seed=setup.seed)
right = judge.accuracy(others["test"])
print(f"trained on {len(others['train'])} reviews, right on {right:.1%} of {len(others['test'])} others")

# %% [markdown] tags=["zh"]
# ## 11 训练前后：一个要兑现的承诺
#
# 同样的提示，同样的长度，同一个种子：左边是原来的策略，右边是刚才训练了一小会儿的策略。

# %% [markdown] tags=["en"]
# ## 11 Before and after: a promise to keep
#
# The same prompts, the same lengths, the same seed: on the left the policy as it was, on the right the one that has just been trained for a little while.

# %%
from transformers import AutoModelForCausalLM

trained = AutoModelForCausalLM.from_pretrained(folder).to(setup.device).eval()
after = evaluate.respond(trained, tokenizer, prompts, lengths, seed=setup.seed)
kl = evaluate.response_kl(trained, reference, after)  # (N,)
print(f"KL per response: mean {kl.mean():.2f}, from {kl.min():.2f} to {kl.max():.2f}")

# %% tags=["table"]
result = evaluate.compare(
    prompts,
    before,
    after,
    tokenizer,
    reward,
    judge=judge,
    kl=kl,
    shown=setup.evaluation["shown"],
    title="00 overview: the base policy, and the same policy after a short PPO",
    meta=report.run_meta(setup, started),
)
result.save(setup.output)
result

# %% [markdown] tags=["zh"]
# **怎么读这张表**
#
# - 先看 **gain** 一行：同一个提示，后减前，再取平均；旁边是 95 % 自助法（bootstrap）区间。区间整个在零以上，才谈得上提高。
# - 再看**第二位评委**（word judge）：它没参与训练。如果只有奖励模型觉得变好，就要怀疑策略是在讨好奖励模型。
# - **KL**：每条回复离参考模型多远。同样的提高，KL 越小越划算。（这里对整个词表求和，比训练曲线里只看采到的词元的 `objective/kl` 更准。）
# - **distinct-2**：不同的相邻词对占多少。猛降说明策略在重复同几句话。
# - 最后**自己读几条**：像影评吗？数字不会替你读。
#
# 训练到底改了什么？取训练后写得最长的一条，看每个词元的 $\log \pi - \log \pi_{\mathrm{ref}}$：蓝色是训练后变得更可能的词元，橙色相反。

# %% [markdown] tags=["en"]
# **How to read the table**
#
# - First the **gain**: after minus before on the same prompt, then the mean, with its 95 % bootstrap interval. Only an interval wholly above zero speaks of an improvement.
# - Then the **second judge** (word judge), which took no part in training. If the reward model alone sees an improvement, suspect that the policy learnt to please the reward model.
# - **KL**: how far a response is from the reference. The same gain is worth more at a smaller KL. (Summed over the whole vocabulary here, and so more exact than `objective/kl` of the training curve, which looks at the sampled tokens only.)
# - **distinct-2**: the share of different neighbouring word pairs. A steep fall means that the policy says the same few things again and again.
# - At last, **read some yourself**: do they read like reviews? No number does that for you.
#
# What did training change? Take the longest response after training and look at $\log \pi - \log \pi_{\mathrm{ref}}$ of every token: blue became more likely, orange less.

# %%
longest = max(range(len(after)), key=lambda i: after.lengths[i])
ids = after.sequences[longest]  # (T,)
shift = token_logprobs(trained, ids) - token_logprobs(reference, ids)  # (T-1,)
report.token_heat(
    tokenizer.convert_ids_to_tokens(ids[1:].tolist()),
    shift,
    "log π − log π_ref",
    show_values=True,
    precision=1,
)

# %% [markdown] tags=["zh"]
# **要兑现的承诺**：到第 07 课结束时，你会自己写出这个循环，训练满步数，并且能解释表里的每一个数；到第 08、09 课，再问不用 PPO 能不能做到。

# %% [markdown] tags=["en"]
# **The promise to keep**: by the end of lesson 07 you will have written this loop yourself, run it for all its steps, and be able to explain every number in the table; lessons 08 and 09 then ask whether it can be done without PPO.

# %% [markdown] tags=["zh"]
# ## 12 小结
#
# - 任务：让语言模型接着任意开头写好评。“好”由奖励模型打分，而奖励模型学自人的判断。
# - 阶段：SFT → 奖励模型 → PPO；拒绝采样是不用强化学习的第四条路。
# - 角色：策略和价值头在学；参考模型和奖励模型冻结。
# - 目标：分数减去 $\beta$ 乘 KL。没有后一项，策略会钻奖励模型的空子。
# - 证据：用训练没见过的提示、配对的区间、第二位评委，再加上自己的眼睛。

# %% [markdown] tags=["en"]
# ## 12 Summary
#
# - The task: continue any opening with praise. What is good is scored by a reward model, which learnt it from people's judgements.
# - The stages: SFT → reward model → PPO; rejection sampling is the fourth way, without reinforcement learning.
# - The roles: policy and value head learn; reference and reward model stay frozen.
# - The objective: score minus $\beta$ times KL. Without the second term the policy exploits the reward model.
# - The evidence: prompts that training never saw, a paired interval, a second judge, and your own eyes.

# %% [markdown] tags=["zh"]
# ## 13 练习
#
# 把 `...` 换成你的答案再运行。批改会告诉你哪里不对；参考答案在每题后面折叠着。
#
# ### 练习 1 谁在学习？
#
# PPO 更新哪些角色？每个填 `"trained"` 或 `"frozen"`。

# %% [markdown] tags=["en"]
# ## 13 Exercises
#
# Replace `...` by your answer and run the cell. The grader says what is wrong; a solution is folded away after each exercise.
#
# ### Exercise 1 Who learns?
#
# Which roles does PPO update? Write `"trained"` or `"frozen"` for each.

# %% tags=["exercise"]
my_roles = {"policy": ..., "value head": ..., "reference": ..., "reward model": ...}
checks.e00_1(my_roles)

# %% tags=["solution"] jupyter={"source_hidden": true}
solution_1 = {"policy": "trained", "value head": "trained", "reference": "frozen", "reward model": "frozen"}
checks.e00_1(solution_1).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 2 配对的平均增益
#
# 表里的增益（gain）是怎么算的？写一个函数：`before` 和 `after` 是两个一样长的列表，`before[i]` 和 `after[i]` 是同一个提示训练前后的分数；返回平均增益。

# %% [markdown] tags=["en"]
# ### Exercise 2 The paired mean gain
#
# How is the gain in the table computed? Write the function: `before` and `after` are two lists of equal length, `before[i]` and `after[i]` the scores of the same prompt before and after training; return the mean gain.


# %% tags=["exercise"]
def paired_gain(before, after):
    # your code
    return ...


checks.e00_2(paired_gain)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_2(before, after):
    gains = [new - old for old, new in zip(before, after, strict=True)]
    return sum(gains) / len(gains)


checks.e00_2(solution_2).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 3 分数放在哪个词元上？
#
# 第 7 节的 $R(x, y)$ 是整条回复的总账。训练时要把它摊到每个词元上：第 $t$ 个词元得到 $-\beta \cdot \mathrm{kl}_t$，而分数要等全文写完才有，所以只加在**最后一个**词元上。写出这个函数：`kl` 是一个列表，每个词元一个数；返回一个和它一样长的列表。

# %% [markdown] tags=["en"]
# ### Exercise 3 Which token gets the score?
#
# The $R(x, y)$ of section 7 is the balance of a whole response. Training spreads it over the tokens: token $t$ receives $-\beta \cdot \mathrm{kl}_t$, and since the score exists only once the text is complete, it is added to the **last** token alone. Write the function: `kl` is a list with one number per token; return a list of the same length.


# %% tags=["exercise"]
def token_rewards(kl, score, beta):
    # your code
    return ...


checks.e00_3(token_rewards)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_3(kl, score, beta):
    rewards = [-beta * k for k in kl]
    rewards[-1] += score
    return rewards


checks.e00_3(solution_3).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 4 找错：分数拿对了吗？
#
# 很多教程用 `pipeline` 打分，再用下标取“第一个”分数。下面的函数就是这么写的，它取到的是什么？

# %% [markdown] tags=["en"]
# ### Exercise 4 Find the bug: is this the right score?
#
# Many tutorials score with a `pipeline` and then take the first score by its position. The function below does; what does it really take?

# %%
from transformers import pipeline

classifier = pipeline("sentiment-analysis", model=str(setup.reward_model), device=setup.device)


def buggy_score(output):
    return output[0]["score"]


for text in SENTENCES:
    output = classifier(text, top_k=None, function_to_apply="none")
    print(f"{buggy_score(output):6.2f} | {output}")

# %% [markdown] tags=["zh"]
# 差评也得了高分：`top_k=None` 会按分数从高到低排序，排在第一的是**分数高的那个标签**，不一定是 `POSITIVE`。拿这种分数训练，策略学到的是“态度鲜明”，而不是“正面”。写一个正确的版本：`output` 就是上面打印的那种列表，返回 `POSITIVE` 的分数。

# %% [markdown] tags=["en"]
# The bad review scores high as well: `top_k=None` sorts by score, so the first entry is **whichever label scores higher**, not always `POSITIVE`. A policy trained on such scores learns to be outspoken, not positive. Write a correct version: `output` is a list as printed above; return the score of `POSITIVE`.


# %% tags=["exercise"]
def positive_score(output):
    # your code
    return ...


checks.e00_4(positive_score)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_4(output):
    return next(entry["score"] for entry in output if entry["label"] == "POSITIVE")


checks.e00_4(solution_4).must_pass()

# %% [markdown] tags=["zh"]
# ## 14 延伸阅读
#
# - [Ouyang 等 2022，InstructGPT](https://arxiv.org/abs/2203.02155)：三个阶段的出处，图 2 值得细看。
# - [Ziegler 等 2019](https://arxiv.org/abs/1909.08593)：较早用人的偏好微调语言模型的工作，写出情感正面的续文正是其中一个任务。
# - [Stiennon 等 2020](https://arxiv.org/abs/2009.01325)：从人的反馈学做摘要，讨论了奖励模型被过度优化的后果。
# - [Schulman 等 2017，PPO](https://arxiv.org/abs/1707.06347)：算法本身，第 06 课逐行对照。
# - [Touvron 等 2023，Llama 2](https://arxiv.org/abs/2307.09288)：拒绝采样与 PPO 并用。
#
# 下一课：模型里面有什么？

# %% [markdown] tags=["en"]
# ## 14 Further reading
#
# - [Ouyang et al. 2022, InstructGPT](https://arxiv.org/abs/2203.02155): where the three stages come from; its figure 2 is worth a long look.
# - [Ziegler et al. 2019](https://arxiv.org/abs/1909.08593): an early work that fine-tunes language models from human preferences; continuing a text with positive sentiment is one of its tasks.
# - [Stiennon et al. 2020](https://arxiv.org/abs/2009.01325): learning to summarise from human feedback, and what happens when a reward model is over-optimised.
# - [Schulman et al. 2017, PPO](https://arxiv.org/abs/1707.06347): the algorithm itself; lesson 06 follows it line by line.
# - [Touvron et al. 2023, Llama 2](https://arxiv.org/abs/2307.09288): rejection sampling and PPO together.
#
# Next lesson: what is inside a model?
