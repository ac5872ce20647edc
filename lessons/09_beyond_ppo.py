# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] tags=["zh"]
# # 09 PPO 之外：GRPO、RLOO、DPO
#
# **这一课回答的问题**：PPO 要价值头、参考模型、GAE、裁剪。别的方法省掉了哪些，又添了什么？同一个任务、同一个起点、同样多的生成词元，谁走得最远？
#
# **需要什么**
#
# | 配置（profile） | 硬件 | 时间 |
# |---|---|---|
# | `offline`（默认） | 2 个 CPU 核 | 大约 3 分钟，不联网 |
# | `imdb` | 2 个 CPU 核，或一块 GPU | 没有量过 |
# | `full` | 一块 GPU | 没有在这里运行过 |
#
# 三种配置运行的是同样的单元格。要先读过[第 06 课](06_ppo_step_by_step.ipynb)：优势、概率比、裁剪、KL 在那里讲过；拒绝采样在[第 08 课](08_rejection_sampling.ipynb)。

# %% [markdown] tags=["en"]
# # 09 Beyond PPO: GRPO, RLOO, DPO
#
# **The question of this lesson**: PPO wants a value head, a reference, GAE and clipping. Which of these do other methods leave out, and what do they ask for instead? On the same task, from the same start, with the same number of generated tokens: who gets furthest?
#
# **What you need**
#
# | profile | hardware | time |
# |---|---|---|
# | `offline` (default) | 2 CPU cores | about 3 minutes, no network |
# | `imdb` | 2 CPU cores, or one GPU | not timed |
# | `full` | one GPU | not run here |
#
# All three run the same cells. [Lesson 06](06_ppo_step_by_step.ipynb) comes first: advantages, ratios, clipping and KL are explained there; rejection sampling is [lesson 08](08_rejection_sampling.ipynb).

# %% tags=["setup"]
import time

from rlhf import checks, evaluate, pictures, profiles, report  # before torch: idle threads then sleep

started = time.perf_counter()
setup = profiles.setup("09_beyond_ppo")

# %%
import dataclasses
import inspect
import itertools

import matplotlib.pyplot as plt
import pandas as pd
import torch
import trl
from IPython.display import display
from torch.nn.utils.rnn import pad_sequence
from torch.testing import assert_close
from tqdm import tqdm

from rlhf import beyond, frontier, rejection, sft
from rlhf.beyond import METHODS, STRENGTH, HeldOut, Task, best_of, dpo, losses, online
from rlhf.beyond.run import Run, workplace
from rlhf.frontier import NAMES
from rlhf.ppo.losses import kl_k1, kl_k3
from rlhf.rewards import SentimentReward, WordJudge

plt.style.use(pictures.STYLE)

# %% [markdown] tags=["zh"]
# ## 1 谁需要什么
#
# ![每种方法一列，每个零件一行：策略、价值头、参考模型、奖励模型、每个提示的回复数、功劳算给谁](../figs/09_needs.svg)
#
# - **PPO**：每个提示一条回复，价值头（value head）猜每个词元往后能得多少分，实际减去猜的就是优势（advantage）。
# - **GRPO**（组相对策略优化）：每个提示 K 条回复，用它们的平均分当基线（baseline），价值头不要了。
# - **RLOO**（留一法的 REINFORCE）：也是 K 条，每条的基线是**另外** K − 1 条的平均；连“每个词元一个概率比”也不要了，整条回复只有一个。
# - **DPO**（直接偏好优化）：只要成对的回复，一好一坏；训练时不采样，也不问奖励模型。
# - **拒绝采样**和 **n 选一**：第 08 课的两位，这里当对照。
#
# 图里的字变成数：每种方法训练多少参数，训练时还要放着多少不动的参数，一个提示写几条。

# %% [markdown] tags=["en"]
# ## 1 Who needs what
#
# ![One column per method, one row per part: policy, value head, reference, reward model, responses per prompt, who gets the credit](../figs/09_needs.svg)
#
# - **PPO**: one response per prompt; the value head guesses what every token will still earn, and the advantage is what came less what was guessed.
# - **GRPO** (group relative policy optimisation): K responses per prompt, whose mean score is the baseline; no value head.
# - **RLOO** (REINFORCE, leave-one-out): K responses as well, the baseline of each is the mean of the **other** K − 1; one ratio per response instead of one per token.
# - **DPO** (direct preference optimisation): nothing but pairs of responses, a better one and a worse one; no sampling and no reward model while it trains.
# - **Rejection sampling** and **best-of-n**: both from lesson 08, here for comparison.
#
# The words of the drawing as numbers: how many parameters each method trains, how many it keeps in memory without training them, how many responses it writes to a prompt.

# %%
policy, tokenizer = sft.load_policy(setup.policy, setup.device)  # the start, and the reference
reward = SentimentReward(setup.reward_model, device=setup.device)
sizes = setup.sizes["methods"]
n, n_reward = (sum(p.numel() for p in model.parameters()) for model in (policy, reward.model))
n_head = policy.config.hidden_size + 1  # H weights and a bias
print(f"policy {n:,}, value head {n_head:,}, reward model {n_reward:,}")

# %%
rows = {}
for name in METHODS:
    online_scores = name in ("ppo", "grpo", "rloo")  # asked about every batch
    rows[NAMES[name]] = {
        "trained": (n if name != "best_of_n" else 0) + (n_head if name == "ppo" else 0),
        "frozen, reference": n if name in ("ppo", "grpo", "rloo", "dpo") else 0,
        "frozen, reward model": n_reward if online_scores else 0,
        "responses per prompt": sizes[name].get("k", 1) if name != "best_of_n" else "n per answer",
        "how far: set by": STRENGTH[name],
    }
pd.DataFrame(rows).T

# %% [markdown] tags=["zh"]
# 奖励模型在 DPO、拒绝采样里也要用，但是打完分就可以请出内存，所以记作 0。价值头在这里只是一个线性层；在大模型上，价值网络（critic）常常是和策略一样大的另一个模型，GRPO 省下的正是它。
#
# ## 2 同样的起跑线
#
# 六种方法收到的是同一个 `Task`：起点、奖励、词元预算（训练时一共生成多少个回复词元）、种子。提示都从**同一张表的开头**取：每个提示写 K 条的方法，用到的提示就只有 1/K。

# %% [markdown] tags=["en"]
# DPO and rejection sampling use the reward model too, but once the scores are there it can leave the memory, hence the 0. The value head is a single linear layer here; with large models the critic often is another model as large as the policy, and that is what GRPO saves.
#
# ## 2 The same starting line
#
# All six methods are given the same `Task`: start, reward, a budget of tokens (how many response tokens may be generated in training) and a seed. Prompts come from the **front of one list**: a method with K responses per prompt gets through 1/K as many of them.

# %%
print(inspect.getsource(Task).split('"""')[2])
prompts = evaluate.held_out_prompts(setup, tokenizer, seed=setup.seed)
words = WordJudge.fit(evaluate.judge_reviews(setup, prompts))  # a second judge, no part in training
held_out = HeldOut(setup, setup.policy, reward, words, seed=setup.seed)
print(f"the start scores {held_out.start.reward:+.2f} on {len(held_out.prompts)} held-out prompts")

# %%
task = Task(setup, setup.policy, reward, setup.sizes["run"], setup.seed, held_out)
lists = {k: list(Run("look", task).prompts(k, 16)[0]["query"]) for k in (1, 8)}
assert lists[8] == lists[1][: len(lists[8])]
print({f"K = {k}": f"{len(part)} prompts" for k, part in lists.items()}, lists[8][:3], "…")

# %% [markdown] tags=["zh"]
# 为什么数词元？大模型训练里，采样是最贵的一项；而且奖励模型看过多少文本，正是“从它那里学到了多少”的上限。K 选一例外：它不训练，可是**每一个答案**都要付 n 倍的词元，永远如此。
#
# ## 3 GRPO：和自己的另外几条比
#
# ![左：价值头给每个词元一个猜测；右：同一个提示的几条回复互相比较](../figs/09_baseline.svg)
#
# ### 3.1 优势
#
# 一个提示的 K 个分数 $r_1, \dots, r_K$：
#
# $$A_i = \frac{r_i - \operatorname{mean}(r)}{\operatorname{std}(r)}$$
#
# 一条回复里的每个词元都拿同一个 $A_i$。（代码给标准差加上 0.0001，免得除以 0。）用小数字算一遍：

# %% [markdown] tags=["en"]
# Why count tokens? With large models, sampling is the largest part of the bill; and how much text the reward model has scored bounds what can have been learnt from it. Best-of-n is the exception: it trains nothing, but **every answer** costs n times the tokens, for ever.
#
# ## 3 GRPO: compared with one's own other responses
#
# ![Left: a value head guesses for every token; right: responses to one prompt are compared with each other](../figs/09_baseline.svg)
#
# ### 3.1 Advantages
#
# The K scores of a prompt are $r_1, \dots, r_K$:
#
# $$A_i = \frac{r_i - \operatorname{mean}(r)}{\operatorname{std}(r)}$$
#
# All tokens of a response get the same $A_i$. (The code adds 0.0001 to the standard deviation, lest it divide by 0.) With small numbers:

# %%
toy = torch.tensor([[1.9, -0.3, 0.2, -1.4], [2.1, 2.0, 2.1, 2.0]])  # (P=2, K=4)
centred = toy - toy.mean(1, keepdim=True)
scaled = centred / (toy.std(1, keepdim=True) + 1e-4)
assert_close(scaled.flatten(), losses.group_advantages(toy))
assert_close(centred.flatten(), losses.group_advantages(toy, scale=False))
print("centred", [[round(x, 2) for x in row] for row in centred.tolist()])
print("scaled ", [[round(x, 2) for x in row] for row in scaled.tolist()])

# %% [markdown] tags=["zh"]
# 看第二行：四条几乎一样好，分数只差 0.1，除以标准差以后，优势却和第一行差不多大。奖励模型的一点噪声，就这样被放大成“一条好、一条坏”。Dr. GRPO 因此不除。K 条分数全都相同的提示，优势是 0，什么也教不了。
#
# ### 3.2 损失
#
# 概率比和裁剪与 PPO 一样，逐个词元算（$\rho_t$ 是新旧策略给这个词元的概率之比）；KL 不再放进奖励，而是直接加进损失，用 k3 估计：
#
# $$L = \frac{1}{B}\sum_i \frac{1}{R_i}\sum_t \Big[\max\big(-A_i\,\rho_t,\ -A_i \operatorname{clip}(\rho_t, 1-\varepsilon, 1+\varepsilon)\big) + \beta\, k_3\Big]$$
#
# 先在每条回复内平均，再对回复平均。两条回复，长 3 和 1，手写一遍：

# %% [markdown] tags=["en"]
# Look at the second row: four responses that are about equally good, scores 0.1 apart, and after the division their advantages are about as large as in the first row. A little noise of the reward model is blown up into "one good, one bad". Dr. GRPO leaves the division out for that reason. Where all K scores are the same, all advantages are 0 and the prompt teaches nothing.
#
# ### 3.2 The loss
#
# Ratio and clipping are those of PPO, token by token ($\rho_t$ is the probability of this token under the new policy over that under the old one); the KL does not go into the reward but straight into the loss, estimated by k3:
#
# $$L = \frac{1}{B}\sum_i \frac{1}{R_i}\sum_t \Big[\max\big(-A_i\,\rho_t,\ -A_i \operatorname{clip}(\rho_t, 1-\varepsilon, 1+\varepsilon)\big) + \beta\, k_3\Big]$$
#
# First the mean within each response, then over responses. Two responses, 3 tokens and 1 token long, by hand:

# %%
old = torch.tensor([[-1.0, -2.0, -0.5], [-1.5, 0.0, 0.0]])  # (B=2, R=3), 0.0 is padding
new = old + torch.tensor([[0.3, -0.1, 0.0], [0.4, 9.9, 9.9]])  # whatever stands on the padding
ref = old - 0.2
mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
A, epsilon, beta = torch.tensor([0.9, -0.9]), 0.2, 0.1

# %%
total = 0.0
for i in range(2):
    terms = []
    for t in range(int(mask[i].sum())):  # padding is never touched
        rho = (new[i, t] - old[i, t]).exp()
        d = ref[i, t] - new[i, t]
        plain, clipped = -A[i] * rho, -A[i] * rho.clamp(1 - epsilon, 1 + epsilon)
        terms.append(torch.max(plain, clipped) + beta * (d.exp() - 1 - d))
    total = total + torch.stack(terms).mean() / 2
assert_close(total, losses.grpo_loss(new, old, ref, A, mask, epsilon, beta))
print(f"loss {total:.4f}")

# %% [markdown] tags=["zh"]
# 课程用的函数，去掉说明只有三行；TRL 默认的那一种（`dapo`）换成了对**全部词元**平均，长的回复因此更重：

# %% [markdown] tags=["en"]
# The function of the package has three lines below its docstring. TRL's default (`dapo`) takes the mean over **all tokens** instead, so a long response weighs more:


# %%
def body(function):
    """The code below the docstring."""
    return inspect.getsource(function).split('"""')[-1].strip("\n")


for function in (losses.group_advantages, losses.grpo_loss, losses.dapo_loss):
    print(f"--- {function.__name__}\n{body(function)}")
print("dapo:", round(losses.dapo_loss(new, old, ref, A, mask, epsilon, 0.0).item(), 4))

# %% [markdown] tags=["zh"]
# ### 3.3 组基线和价值头，谁的优势噪声小？
#
# 优势里的噪声就是梯度里的噪声。拿真实的回复量一量：让起点给留出提示各写 K 条。

# %% [markdown] tags=["en"]
# ### 3.3 Group baseline or value head: whose advantages are less noisy?
#
# Noise in the advantages is noise in the gradient. Measured on real responses: the start writes K of them to every held-out prompt.

# %%
K = setup.sizes["pool"]["k"]
many = held_out.prompts.select(range(setup.sizes["pool"]["prompts"]))
parts = policy, tokenizer, many, held_out.lengths[: len(many)], K, reward
pool = rejection.sample_pool(*parts, seed=setup.seed + 1)
scores = pool.scores.double()  # (P, K)
print("scores", tuple(scores.shape), f"mean {scores.mean():+.2f}, variance {scores.var():.2f}")

# %% [markdown] tags=["zh"]
# 组基线的优势方差可以直接写出来。一条回复不参与自己的基线时（RLOO），方差正好是提示内部方差的 $\frac{K}{K-1}$ 倍：K = 2 时翻倍，K 大了就几乎不多付。这是恒等式，不是近似：

# %% [markdown] tags=["en"]
# For a group baseline the variance of the advantages can be written down. Where a response takes no part in its own baseline (RLOO), it is the variance within the prompt times $\frac{K}{K-1}$: twice as much at K = 2, hardly more for a large K. That is an identity, no approximation:

# %%
within = scores.var(1).mean()  # of the K scores of a prompt, averaged over prompts
loo = losses.leave_one_out(scores).reshape(scores.shape)  # (P, K)
assert_close(loo.square().mean(), within * K / (K - 1))
print(f"within a prompt {within:.3f}, leave-one-out with K = {K}: {loo.square().mean():.3f}")

# %% [markdown] tags=["zh"]
# 价值头要学，这里替它学到最好：在一半提示的隐状态上做最小二乘，这是线性头的最优解；在另一半提示上量。特征是每一格（slot）的隐状态，它只看见提示和已经写出的词元。

# %% [markdown] tags=["en"]
# A value head has to learn; here it gets the best it can: least squares on the hidden states of one half of the prompts, which is the optimum of a linear head, and the measurement on the other half. The features are the hidden states of the slots: they have seen the prompt and the tokens written so far.


# %%
@torch.no_grad()
def slots(pool, k):
    """Hidden state before every response token (N, H), its response (N,), its place in it (N,)."""
    found = []
    for at in range(0, len(pool.responses), 256):
        rows = range(at, min(at + 256, len(pool.responses)))
        whole = [torch.cat([pool.queries[i // k], pool.responses[i]]) for i in rows]
        ids = pad_sequence(whole, batch_first=True).to(setup.device)  # (B, T), padded on the right
        seen = pad_sequence([torch.ones_like(row) for row in whole], batch_first=True).to(setup.device)
        out = policy(ids, attention_mask=seen, output_hidden_states=True)
        hidden = out.hidden_states[-1].double().cpu()  # (B, T, H)
        for row, i in enumerate(rows):
            first = len(pool.queries[i // k]) - 1  # the slot that predicts the first response token
            for t in range(len(pool.responses[i])):
                found.append((hidden[row, first + t], i, t))
    states, response, place = zip(*found, strict=True)
    return torch.stack(states), torch.tensor(response), torch.tensor(place)


# %%
states, response, place = slots(pool, K)
X = torch.cat([states, torch.ones(len(states), 1, dtype=torch.float64)], 1)  # (N, H + 1)
target = scores.flatten()[response]  # (N,), the score that the response will get
learnt_on = response // K < len(many) // 2  # (N,), by prompt
head = torch.linalg.lstsq(X[learnt_on], target[learnt_on, None]).solution  # (H + 1, 1)
V = (X @ head)[:, 0]  # (N,)
print("slots", tuple(X.shape), f"of which {int(learnt_on.sum()):,} to learn from")

# %%
test, mean = ~learnt_on, target[learnt_on].mean()
squares = {
    "the mean of all": (target - mean).square(),  # (N,), one number per slot
    "value head": (target - V).square(),
    "leave-one-out, K = 2": losses.leave_one_out(scores.reshape(-1, 2)).square()[response],
    f"leave-one-out, K = {K}": loo.flatten().square()[response],
}
table = pd.DataFrame({name: value[test].numpy() for name, value in squares.items()})
noise = table.groupby(place[test].numpy()).mean()
noise.index.name = "place in the response"
noise.round(2)

# %%
figure, axes = plt.subplots(figsize=(6.5, 2.9), layout="constrained")
for column, (color, mark, dashes) in zip(
    noise, (("C6", "", ":"), ("C0", "o", "-"), ("C1", "s", "--"), ("C2", "^", "-")), strict=True
):
    axes.plot(noise.index, noise[column], color=color, marker=mark, linestyle=dashes, label=column)
axes.set(xlabel="place of the token in its response", ylabel="mean square of the advantage", ylim=(0, None))
axes.legend(ncols=2)
plt.show()

# %%
value, group = noise["value head"], noise[f"leave-one-out, K = {K}"]
less = [int(t) for t in noise.index if value[t] < group[t]]
print(f"before the first token: value head {value[0]:.2f}, leave-one-out {group[0]:.2f}")
print(f"the value head is less noisy at places {less or 'none'} of {int(noise.index[-1]) + 1}")

# %% [markdown] tags=["zh"]
# 怎么读这张图：
#
# - 第一个词元之前，两者看到的只有提示。组基线直接量出了这个提示的平均分；价值头要靠**别的**提示去猜。
# - 往后，价值头**能**看到得更多：已经写出 “a dull”，就该降低预期。组基线看不见，整条回复一个数。价值头有没有用上这一点，看它的线比组基线低多少。
# - 点线是最便宜的基线：所有回复的总平均。总方差和提示内部的方差（前面都印出来了）若差不多，提示之间本来就没有多少差别，这时任何基线都省不了多少，学不好的价值头还不如总平均。
# - 靠后的位置只剩下较长的回复，所以同一条线上不同位置的数不是同一批回复；同一位置上的几条线可以比。
# - 组基线不用学，可是要付 K 条回复：同样的预算，见到的提示只有 1/K。
#
# 这里的价值头是事后用最小二乘学的，策略站着不动；训练中的价值头要追着一个走动的策略学，没有这么舒服。
#
# ## 4 RLOO：留一法
#
# $$A_i = r_i - \frac{1}{K-1}\sum_{j\ne i} r_j$$
#
# 和 GRPO 只差一个“不算自己”。为什么要紧？基线里若有自己，$r_i$ 就被自己抵消掉一部分：优势整体缩小到 $\frac{K-1}{K}$，K 一样时只是换了学习率；不算自己，期望里的梯度才不打折（unbiased）。

# %% [markdown] tags=["en"]
# How to read it:
#
# - Before the first token, both have seen the prompt alone. The group baseline has measured the mean score of this prompt; the value head has to guess it from **other** prompts.
# - Further on, the value head **can** see more: once "a dull" is written, it should expect less. The group baseline cannot see that; it has one number for the whole response. Whether the head makes use of it shows in how far its line is below.
# - The dotted line is the cheapest baseline, the mean of all responses. Where the total variance and the variance within prompts (both printed above) are about the same, prompts hardly differ, no baseline can save much, and a head that has not learnt well does worse than the mean.
# - Late places exist in longer responses only, so along one line the responses are not the same; at one place, the lines may be compared.
# - A group baseline has nothing to learn, but costs K responses: within the same budget it sees 1/K of the prompts.
#
# The value head here was fitted afterwards by least squares, to a policy that stands still; in training, a head has to run after one that moves, and has a harder time.
#
# ## 4 RLOO: leave one out
#
# $$A_i = r_i - \frac{1}{K-1}\sum_{j\ne i} r_j$$
#
# From GRPO it differs by leaving itself out. Why does that matter? With itself in the baseline, part of $r_i$ cancels itself: all advantages shrink to $\frac{K-1}{K}$ of what they should be, which for a fixed K is no more than another learning rate; without itself, the expected gradient is not discounted (it is unbiased).

# %%
r = toy[0]  # (K=4,)
others = torch.stack([torch.cat([r[:i], r[i + 1 :]]).mean() for i in range(4)])
assert_close(r - others, losses.leave_one_out(toy)[:4])
assert_close((r - r.mean()) * 4 / 3, r - others)  # the same, but for the factor K / (K - 1)
print([round(x, 3) for x in (r - others).tolist()])

# %% [markdown] tags=["zh"]
# KL 放在哪里，三种方法各不相同，所以它们的 β 不能互相比：
#
# | | KL 放在 | 估计 | 单位 |
# |---|---|---|---|
# | PPO | 每个词元的奖励 | k1 | 分数 |
# | RLOO | 整条回复的分数，先扣税再算基线 | k1 之和 | 分数 |
# | GRPO | 损失 | k3 | 优势，也就是“几个标准差的分数” |
# | DPO | 不用采样，藏在损失的形式里（第 6 节） | 无 | 偏好的对数几率 |
#
# 扣税和损失，各写一遍。概率比是**整条回复**的：各词元的比相乘。

# %% [markdown] tags=["en"]
# Where the KL goes differs from method to method, so their betas cannot be compared:
#
# | | the KL is in | estimate | unit |
# |---|---|---|---|
# | PPO | the reward of every token | k1 | scores |
# | RLOO | the score of the whole response, taxed before the baseline | sum of k1 | scores |
# | GRPO | the loss | k3 | advantages, that is scores in standard deviations |
# | DPO | nowhere to be sampled, hidden in the form of the loss (section 6) | none | log-odds of a preference |
#
# Tax and loss, written out. The ratio is that of the **whole response**, the product over its tokens.

# %%
raw = torch.tensor([[1.0, -0.5]])  # (P=1, K=2): the two responses of section 3.2
tax = beta * (kl_k1(old, ref) * mask).sum(1)  # (B,)
assert_close(raw - tax[None], losses.taxed_scores(raw, old, ref, mask, beta))
rho = ((new - old) * mask).sum(1).exp()  # (B,), one ratio per response
by_hand = torch.max(-A * rho, -A * rho.clamp(0.8, 1.2)).mean()
assert_close(by_hand, losses.rloo_loss(new, old, A, mask))
print("ratios", [round(x, 3) for x in rho.tolist()], f"loss {by_hand:.4f}")
for function in (losses.taxed_scores, losses.leave_one_out, losses.rloo_loss):
    print(f"--- {function.__name__}\n{body(function)}")

# %% [markdown] tags=["zh"]
# ## 5 和 TRL 比：一批真实的数据
#
# 玩具数字对上了，还要和真正用来训练的 `GRPOTrainer`、`RLOOTrainer` 对一遍。做法：造出 TRL 的训练器，让它真的采样、打分、算优势；同一批回复，用最朴素的办法（一条一条、不填充）算对数概率，代进上面的函数。
#
# 策略要先推离起点，否则三份对数概率都一样，错了也看不出来。

# %% [markdown] tags=["en"]
# ## 5 Against TRL, on a real batch
#
# The toy numbers agree; now the same against the `GRPOTrainer` and the `RLOOTrainer` that do the real training. TRL's trainer is built and really samples, scores and computes advantages; for the same responses, log-probabilities are computed in the plainest way (one by one, without padding) and put into the functions above.
#
# The policy is first pushed away from the start: otherwise all three log-probabilities are the same, and no mistake would show.


# %%
@torch.no_grad()
def push(model, seed):
    generator = torch.Generator(setup.device).manual_seed(seed)
    for weight in model.parameters():
        weight += 0.01 * torch.randn(weight.shape, generator=generator, device=weight.device)


@torch.no_grad()
def plain_logprobs(model, queries, responses):
    """Of every sampled token: one sequence after the other, no padding. (B, R), 0 behind the end."""
    rows = []
    for query, answer in zip(queries, responses, strict=True):
        ids = torch.cat([torch.as_tensor(part).to(setup.device) for part in (query, answer)])  # (T,)
        logp = model(ids[None]).logits[0, :-1].log_softmax(-1)  # (T-1, V)
        rows.append(logp.gather(1, ids[1:, None])[len(query) - 1 :, 0])  # (R,)
    return pad_sequence(rows, batch_first=True)


# %%
def real_batch(kind, config, folder, **own):
    """A trainer of TRL's, one batch of it, and plain log-probabilities old, new and of the reference."""
    run = Run("look", task)
    sizes_here = online.OnlineConfig(k=4, batch_size=16, mini_batch_size=16, epochs=2, beta=0.07)
    trainer = online.make_trainer(run, sizes_here, kind, config, folder, **own)
    trainer.current_gradient_accumulation_steps = 1
    rows = [trainer.train_dataset[i] for i in range(4) for _ in range(4)]  # P=4 prompts, K=4
    push(run.policy, 1)
    batch = trainer._generate_and_score_completions(rows)
    live = batch["completion_mask"].bool()
    answers = [ids[on] for ids, on in zip(batch["completion_ids"], live, strict=True)]
    queries = [row["input_ids"] for row in rows]
    old = plain_logprobs(run.policy, queries, answers)
    push(run.policy, 2)
    new, ref = (plain_logprobs(model, queries, answers) for model in (run.policy, held_out.reference))
    return trainer, batch, (new, old, ref)


# %%
def group_scores(trainer, batch):
    """The scores that TRL asked for, again: (P=4, K=4)."""
    live = batch["completion_mask"].bool()
    ids = [row[on] for row, on in zip(batch["completion_ids"], live, strict=True)]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    whole = [row["prompt"] + text for row, text in zip(trainer.rows, texts, strict=True)]
    return reward(whole).reshape(4, 4).to(setup.device)


# %%
tight, agreed = {"atol": 1e-4, "rtol": 1e-4}, {}
for name, own in (("grpo_loss", online.PAPER), ("dapo_loss", {})):
    with workplace(setup.seed) as folder:
        trainer, batch, logp = real_batch(online.GRPO, trl.GRPOConfig, folder, **own)
        advantages = losses.group_advantages(group_scores(trainer, batch))
        assert_close(advantages, batch["advantages"], atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            theirs = trainer._compute_loss(trainer.model, batch)
        ours = getattr(losses, name)(*logp, advantages, batch["completion_mask"], beta=0.07)
        assert_close(theirs, ours, **tight)
        agreed[name] = {"TRL": theirs.item(), "ours": ours.item()}
print(agreed)

# %%
with workplace(setup.seed) as folder:
    trainer, batch, logp = real_batch(online.RLOO, trl.RLOOConfig, folder)
    new_logp, old_logp, ref_logp = logp
    live = batch["completion_mask"]
    sixteen = group_scores(trainer, batch)
    taxed = losses.taxed_scores(sixteen, old_logp, ref_logp, live, 0.07)
    advantages = losses.leave_one_out(taxed)
    assert_close(advantages, batch["advantages"], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        theirs = trainer._compute_loss(trainer.model, batch)
    ours = losses.rloo_loss(new_logp, old_logp, advantages, live)
assert_close(theirs, ours, **tight)
agreed["rloo_loss"] = {"TRL": theirs.item(), "ours": ours.item()}
pd.DataFrame(agreed).T.round(6)

# %% [markdown] tags=["zh"]
# ### 5.1 一个不出声的陷阱：左填充而没有位置
#
# TRL 的这两个训练器把提示填充在**左边**，把掩码给了模型，却不给位置编号（position ids）。GPT-2 于是从填充的第一格数起：真正的词元站错了位置，算出来的对数概率是另一回事。拿掉课程的修补（`positions_from_mask`），看同一批回复：

# %% [markdown] tags=["en"]
# ### 5.1 A silent trap: padding on the left, and no positions
#
# Both trainers of TRL pad prompts on the **left** and hand the model a mask, but no position ids. GPT-2 then counts from the first padding token: the real tokens stand at the wrong places, and the log-probabilities are about something else. Take the course's repair (`positions_from_mask`) away and look at the same responses:

# %%
ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)  # (B, T)
seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)  # (B, T)
width = batch["completion_ids"].shape[1]
with torch.no_grad():
    right = trainer._get_per_token_logps_and_entropies(trainer.model, ids, seen, width)[0]  # (B, R)
    trainer.positions.remove()
    wrong = trainer._get_per_token_logps_and_entropies(trainer.model, ids, seen, width)[0]
padding = (batch["prompt_mask"] == 0).sum(1)  # (B,)
print("padding in front:", padding.tolist())

# %%
off = {"with positions": right, "without": wrong}
error = {name: ((each - new_logp).abs() * live).sum(1) / live.sum(1) for name, each in off.items()}
trap = pd.DataFrame({name: each.cpu().numpy() for name, each in error.items()})
trap = trap.groupby(padding.cpu().numpy()).mean()
trap.index.name = "padding tokens in front"
assert error["with positions"].max() < 1e-3 and (padding > 0).any()
assert error["without"][padding > 0].mean() > 10 * error["with positions"].max()
trap.map("{:.5f}".format)

# %% [markdown] tags=["zh"]
# 表里是每个词元的对数概率错了多少 nat。没有填充的那几行不受影响，别的都错。没有任何报错，也没有任何指标会变红：新旧两份对数概率错得一样，概率比照样从 1 开始。用 RoPE 这类相对位置的模型不受影响；GPT-2、OPT 这样学一张位置表的，就要自己补上。课程的补法是一个钩子：

# %% [markdown] tags=["en"]
# The table says by how many nats the log-probability of a token is off. Rows without padding are not concerned, the others are all wrong. Nothing is raised, and no metric turns red: old and new log-probabilities are wrong alike, and ratios start at 1 as they should. Models with relative positions such as RoPE do not care; those with a table of positions, like GPT-2 and OPT, need help. The course's is a hook:

# %%
print(body(online.positions_from_mask))

# %% [markdown] tags=["zh"]
# ## 6 DPO：不训练奖励模型，也不采样
#
# ### 6.1 隐含的奖励
#
# “分数减去 β 倍的 KL”这个目标，最优的策略写得出来：
#
# $$\pi^*(y) \propto \pi_{\text{ref}}(y)\, e^{r(y)/\beta} \quad\Longleftrightarrow\quad r(y) = \beta \log\frac{\pi^*(y)}{\pi_{\text{ref}}(y)} + \text{const}$$
#
# 右边说：每个策略都**隐含**一个奖励，就是它相对参考模型的对数概率比乘以 β。把它代进 Bradley–Terry 模型（第 05 课），差一个常数没关系，相减就没了，于是偏好数据可以直接用来训练策略：
#
# $$L = -\log \sigma\Big(\beta \log\frac{\pi(y_w)}{\pi_{\text{ref}}(y_w)} - \beta \log\frac{\pi(y_l)}{\pi_{\text{ref}}(y_l)}\Big)$$
#
# 真是同一个策略吗？三种回复的小世界里验算：左手按公式写出 $\pi^*$，右手用 DPO 的损失去找。

# %% [markdown] tags=["en"]
# ## 6 DPO: no reward model to train, no sampling
#
# ### 6.1 The implicit reward
#
# For the objective "score minus β times KL", the best policy can be written down:
#
# $$\pi^*(y) \propto \pi_{\text{ref}}(y)\, e^{r(y)/\beta} \quad\Longleftrightarrow\quad r(y) = \beta \log\frac{\pi^*(y)}{\pi_{\text{ref}}(y)} + \text{const}$$
#
# The right side says: every policy **implies** a reward, its log-ratio to the reference times β. Put into the Bradley–Terry model (lesson 05), the constant does not matter, since it cancels in the difference, and preferences can train the policy directly:
#
# $$L = -\log \sigma\Big(\beta \log\frac{\pi(y_w)}{\pi_{\text{ref}}(y_w)} - \beta \log\frac{\pi(y_l)}{\pi_{\text{ref}}(y_l)}\Big)$$
#
# Is it really the same policy? A small world of three responses: write $\pi^*$ down by the formula, then look for it with DPO's loss.

# %%
ref_p, r, beta = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.0, 1.0, 2.5]), 0.8
best = ref_p * (r / beta).exp()
best = best / best.sum()
implicit = beta * (best / ref_p).log()
assert_close(implicit - implicit[0], r - r[0])  # the reward, but for a constant
print("best policy", [round(x, 3) for x in best.tolist()])

# %%
logits = ref_p.log().clone().requires_grad_()
search = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")


def expected_loss():
    """All pairs, each preferred as often as Bradley and Terry say."""
    search.zero_grad()
    logp, total = logits.log_softmax(0), 0
    for w, b in itertools.permutations(range(3), 2):  # the better one and the worse one
        ratios = logp[w] - ref_p[w].log(), logp[b] - ref_p[b].log()
        loss = -(beta * (ratios[0] - ratios[1])).sigmoid().log()
        assert_close(loss, losses.dpo_loss(logp[w], logp[b], ref_p[w].log(), ref_p[b].log(), beta))
        total = total + (r[w] - r[b]).sigmoid() * loss
    total.backward()
    return total


# %%
search.step(expected_loss)
found = logits.softmax(0).detach()
assert_close(found, best, atol=1e-3, rtol=0)
print("found by DPO", [round(x, 3) for x in found.tolist()])

# %% [markdown] tags=["zh"]
# 同一个策略。前提也要看清：偏好要按 Bradley–Terry 的概率来，而且每一对都见得到。下面的真实数据两条都不满足：奖励模型排出来的对**永远**是高分赢，而且只有起点写出来的那些。永远赢的对，损失要到概率比无穷大才停，所以 β 在这里不再是“奖励的单位”，走多远由步数和学习率说了算。
#
# ### 6.2 真实的一对，真实的一批
#
# 每个提示写 K 条，最高分的当好的（chosen），最低分的当坏的（rejected）；分数相同的不成对。

# %% [markdown] tags=["en"]
# The same policy. Mind the conditions: preferences come with Bradley–Terry's probabilities, and every pair is seen. The real data below meets neither: of pairs that a reward model ranks, the higher score **always** wins, and there are only those that the start has written. With pairs that always win, the loss rests only at infinite ratios, so β no longer is the unit of the reward, and how far one gets depends on steps and learning rate.
#
# ### 6.2 A real pair, a real batch
#
# K responses to every prompt; the highest score is chosen, the lowest rejected, equal scores make no pair.

# %%
run = Run("look", task)
drawn = best_of.Draws(run, 4).pool(run.policy, 200)
ranked = dpo.rank(drawn)
order = drawn.scores[0].argsort(descending=True).tolist()
print(repr(drawn.prompts[0]))
for word, j in (("chosen", order[0]), ("rejected", order[-1])):
    print(f"{word:>9} {drawn.scores[0, j]:+.2f} {drawn.texts[j]!r}")
print(len(ranked), "pairs with", ranked.column_names)

# %%
with workplace(setup.seed) as folder:
    trainer = dpo.make_trainer(run, dpo.PairConfig(batch_size=8, beta=0.3), ranked, folder)
    push(run.policy, 1)
    rows = [trainer.train_dataset[i] for i in range(8)]
    sums = {}
    for who, model in (("policy", run.policy), ("reference", held_out.reference)):
        for side in ("chosen_ids", "rejected_ids"):
            each = plain_logprobs(model, [row["prompt_ids"] for row in rows], [row[side] for row in rows])
            sums[who, side] = each.sum(1)  # (P,): of the whole response, not the mean
    with torch.no_grad():
        theirs = trainer._compute_loss(trainer.model, trainer.data_collator(rows), return_outputs=False)
ours = losses.dpo_loss(*sums.values(), beta=0.3)
assert_close(theirs.cpu(), ours.cpu(), **tight)
print(f"TRL {theirs:.6f}, ours {ours:.6f}\n{body(losses.dpo_loss)}")

# %% [markdown] tags=["zh"]
# 交给 TRL 的是采样得到的词元。给它文本，它会自己重新分词，还给没写完的回复补上结束符，第 08 课说过这会教坏策略。
#
# ## 7 TRL 的默认值和论文不一样的地方
#
# 名字相同，默认值不同，跑出来的就不是论文里的算法。下表的 `TRL` 一列是代码当场从配置类里读出来的，`here` 一列也是：

# %% [markdown] tags=["en"]
# TRL gets the tokens that were sampled. Given texts, it would make tokens of its own and put an EOS behind responses that were not finished, which teaches the policy badly, as lesson 08 showed.
#
# ## 7 Where TRL's defaults are not the papers'
#
# With the same name and other defaults, what runs is not the algorithm of the paper. The column `TRL` is read from the configuration classes on the spot, and so is `here`:


# %%
def default(kind, name):
    field = next(each for each in dataclasses.fields(kind) if each.name == name)
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()


here = dataclasses.asdict(online.OnlineConfig()) | online.PAPER
here |= {"num_iterations": here["epochs"], "num_generations": here["k"], "disable_dropout": True}
papers = {
    (trl.GRPOConfig, "beta"): 0.04,
    (trl.GRPOConfig, "loss_type"): "grpo",
    (trl.GRPOConfig, "scale_rewards"): "group",
    (trl.GRPOConfig, "use_bias_correction_kl"): "no ratio",
    (trl.GRPOConfig, "epsilon"): "not given",
    (trl.GRPOConfig, "num_iterations"): 1,
    (trl.GRPOConfig, "num_generations"): 64,
    (trl.RLOOConfig, "num_generations"): "2, 4",
    (trl.RLOOConfig, "epsilon"): "no clipping",
    (trl.RLOOConfig, "disable_dropout"): "–",
    (trl.DPOConfig, "beta"): 0.1,
    (trl.DPOConfig, "disable_dropout"): "–",
}

# %%
rows = []
for (kind, name), paper in papers.items():
    own = dpo.PairConfig().beta if (kind, name) == (trl.DPOConfig, "beta") else here[name]
    rows.append([kind.__name__, name, default(kind, name), paper, own])
print("trl", trl.__version__)
pd.DataFrame(rows, columns=["configuration", "setting", "TRL", "paper", "here"]).set_index("configuration")

# %% [markdown] tags=["zh"]
# 几个会让人吃惊的：
#
# - GRPO 的 `beta` 是 0：没有 KL 惩罚，连参考模型都不加载。想要论文里的算法，得自己写上。
# - `loss_type` 是 `dapo`：对全部词元平均。`epsilon` 和 `num_iterations` 合起来看：一批只用一遍，概率比恒为 1，裁剪从不发生；一批切成几个小批时，从第二个小批起才会。
# - `disable_dropout` 是 `False`：模型若有 dropout，采样和算损失时的概率就不一样，概率比一开始就不是 1。
# - `use_bias_correction_kl` 给 k3 乘上概率比。值在第一步没有差别，梯度有。
#
# 最后一条不用相信，算一下：概率比等于 1 处，两种写法的梯度。

# %% [markdown] tags=["en"]
# Some of these surprise people:
#
# - GRPO's `beta` is 0: there is no KL penalty, and the reference is not even loaded. For the paper's algorithm one has to ask.
# - `loss_type` is `dapo`, the mean over all tokens. Read `epsilon` together with `num_iterations`: where a batch is used once, all ratios are 1 and nothing is ever clipped; if it is cut into minibatches, clipping can begin with the second one.
# - `disable_dropout` is `False`: if a model has dropout, sampling and loss see different probabilities, and ratios are not 1 even at the start.
# - `use_bias_correction_kl` multiplies k3 by the ratio. In the first step that leaves the value alone, but not the gradient.
#
# The last one need not be believed; here are both gradients where the ratio is 1.

# %%
logp = torch.tensor([-1.0, -2.0], requires_grad=True)
ratio, there = (logp - logp.detach()).exp(), torch.tensor([-1.5, -1.8])
gradients = {}
for name, term in (("k3", kl_k3(logp, there)), ("ratio × k3", ratio * kl_k3(logp, there))):
    (gradients[name],) = torch.autograd.grad(term.sum(), logp, retain_graph=True)
    print(f"{name:>10}: value {term.sum():.4f}, gradient {[round(x, 4) for x in gradients[name].tolist()]}")
assert_close(gradients["ratio × k3"], kl_k1(logp, there).detach())

# %% [markdown] tags=["zh"]
# 值一样，梯度不同。乘了概率比的那个，梯度正好是 k1 乘 $\nabla\log\pi$（断言），期望就是反向 KL 的梯度；不乘的那个不是。
#
# ## 8 每种方法，真跑一次
#
# 同样的起点、提示、种子和词元预算。规模很小，只为看见每种方法怎么动；要比高下，看第 9 节的三个种子。强度取配置里的第一个。跑之前先猜：谁的分数最高？谁走得最远（KL 最大）？

# %% [markdown] tags=["en"]
# Equal values, different gradients. With the ratio, the gradient is k1 times $\nabla\log\pi$ exactly (the assertion), whose expectation is the gradient of the reverse KL; without it, it is not.
#
# ## 8 One real run of each
#
# The same start, prompts, seed and budget of tokens. These runs are small and only show how each method moves; for a verdict see the three seeds of section 9. The strength is the first of the profile. Guess before running: who scores highest, and who goes furthest (the largest KL)?


# %%
def own_settings(name):
    """The profile's settings of a method, at the first of its strengths."""
    settings = {key: value for key, value in sizes[name].items() if key != "strengths"}
    return settings | {STRENGTH[name]: sizes[name]["strengths"][0]}


runs = {}
for name in tqdm(METHODS, desc="methods"):
    runs[name] = beyond.method(name)(dataclasses.replace(task, points=2), **own_settings(name))
print({NAMES[name]: f"{result.tokens:,} tokens" for name, result in runs.items()})

# %%
rows = {}
for name, result in runs.items():
    end = result.final
    rows[NAMES[name]] = {
        "strength": f"{STRENGTH[name]} = {own_settings(name)[STRENGTH[name]]:g}",
        "gain": "{:+.2f} [{:+.2f}, {:+.2f}]".format(*end.gain),
        "word judge": "{:+.2f} [{:+.2f}, {:+.2f}]".format(*end.judge),
        "KL": round(end.kl, 2),
        "distinct-2": round(end.distinct_2, 2),
        "tokens in training": f"{result.tokens:,}" if result.policy else "0",
        "an answer costs": f"× {result.settings.get('n', 1)}",
        "seconds": round(result.seconds),
    }
small = pd.DataFrame(rows).T
small.to_csv(setup.output / "runs.csv")
small

# %%
figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.1), layout="constrained")
for name, result in runs.items():
    color, mark, dashes = frontier.LOOKS[name]
    looks = {"color": color, "marker": mark, "linestyle": dashes}
    gains = [0.0] + [point.gain[0] for point in result.curve[1:]]
    if name != "best_of_n":
        panels[0].plot([point.tokens for point in result.curve], gains, **looks)
    panels[1].plot([point.kl for point in result.curve], gains, label=NAMES[name], **looks)
panels[0].set(xlabel="generated tokens", ylabel="gain in reward over the start", title="on the way")
panels[1].set(xlabel="KL to the start, nats per response", title="what it costs")
panels[1].legend()
plt.show()

# %% [markdown] tags=["zh"]
# 左图是花掉的词元，右图是走过的路：同样的增益，KL 小的更好。只有一个种子，别急着下结论。几件可以对照原理看的事：
#
# - 同样的词元，各方法的**更新次数**差得很多：PPO 每批看 4 遍；DPO 每个提示只用最好和最坏的两条，拒绝采样只用最好的一条，其余的不直接进损失。
# - K 条一组的方法，见到的提示只有 PPO 的 1/K。
# - n 选一没有训练，KL 用的是上界 $\log n - (n-1)/n$，代价在“每个答案”那一列。
#
# ### 8.1 GRPO 的记录里有什么
#
# 这几个数每次生成后都会记下来：`reward` 是一批的平均分，`reward_std` 是提示内部的标准差，`kl` 是 k3 的平均（每个词元，不是每条回复），`entropy` 是熵，`grad_norm` 是梯度的长度。一批里没有几个提示，所以这么短的训练里，`reward` 的起伏多半是噪声：有没有进步，看上面留出提示的那张表。

# %% [markdown] tags=["en"]
# On the left is what was spent, on the right the way that was gone: with the same gain, less KL is better. It is one seed, so draw no conclusions yet. Some things to check against the principles:
#
# - With the same tokens the **number of updates** differs a lot: PPO goes through every batch 4 times; DPO uses the best and the worst response to a prompt only, rejection sampling the best one only, and the others never enter the loss.
# - Methods with groups of K see 1/K of PPO's prompts.
# - Best-of-n trains nothing; its KL is the bound $\log n - (n-1)/n$, and its price is in the column of tokens per answer.
#
# ### 8.1 What GRPO logs
#
# These numbers are logged along the way: `reward` is the mean score of a batch, `reward_std` the standard deviation within prompts, `kl` the mean of k3 (per token, not per response), `entropy` the entropy, `grad_norm` the length of the gradient. A batch holds few prompts, so that in so short a run most of what `reward` does is noise: whether there is progress, the table on held-out prompts above has to say.

# %%
log = pd.DataFrame(runs["grpo"].history)[["reward", "reward_std", "kl", "entropy", "grad_norm"]].dropna()
display(report.curves(log.reset_index(drop=True), list(log), columns=5, smooth=4))

# %% [markdown] tags=["zh"]
# ### 8.2 每个策略都是一个奖励模型
#
# 第 6 节说策略隐含着奖励 $\beta\log(\pi/\pi_{\text{ref}})$。真的排得对吗？拿第 3 节的回复（起点写的，训练没有用过），在每个提示内部两两比较：隐含奖励高的那条，奖励模型也给高分的比例。0.5 是乱猜。

# %% [markdown] tags=["en"]
# ### 8.2 Every policy is a reward model
#
# Section 6 says that a policy implies the reward $\beta\log(\pi/\pi_{\text{ref}})$. Does it rank well? Take the responses of section 3 (written by the start, used by no training) and compare two at a time within a prompt: how often does the one with the higher implicit reward have the higher score, too? 0.5 is guessing.

# %%
P = min(48, len(many))
queries = [query for query in pool.queries[:P] for _ in range(K)]
start_logp = plain_logprobs(held_out.reference, queries, pool.responses[: P * K]).sum(1)


def ranks_like_the_reward(model):
    """Per prompt: share of its pairs that the log-ratio orders as the scores do. (P,)"""
    ratio = (plain_logprobs(model, queries, pool.responses[: P * K]).sum(1) - start_logp).reshape(P, K).cpu()
    i, j = torch.combinations(torch.arange(K)).T
    same = (ratio[:, i] > ratio[:, j]) == (scores[:P, i] > scores[:P, j])  # (P, pairs)
    return same.double().mean(1)


for name, result in runs.items():
    if result.policy is not None:
        share = ranks_like_the_reward(result.policy)
        middle, low, high = report.bootstrap_gain([0.5] * P, share.tolist())
        print(f"{NAMES[name]:>18}: {0.5 + middle:.2f} [{0.5 + low:.2f}, {0.5 + high:.2f}]")

# %% [markdown] tags=["zh"]
# 原理上不只是 DPO：任何一个朝着奖励走的策略，都把一部分奖励写进了自己的概率里。区间整个在 0.5 以上的，才看得出写进去了一些；这里的运行很短，写进去的不多。
#
# ## 9 前沿：三个种子，几种强度
#
# 一次运行只是一个点，而每种方法都有一个“走多远”的旋钮（KL 系数、轮数、n）。公平的比较是**前沿**（frontier）：每种方法用几种强度、三个种子各跑一遍，画出“付多少 KL、换多少分数”。这要跑很久，所以结果放在 `benchmarks/results/` 里，由 `make frontier` 生成；命令、种子、硬件、日期都在文件里：

# %% [markdown] tags=["en"]
# In principle this is not just DPO: any policy that moves towards the reward writes part of it into its probabilities. Where the whole interval is above 0.5, some of it shows; the runs here are short and have not written much.
#
# ## 9 The frontier: three seeds, several strengths
#
# One run is one point, and every method has a knob for how far it goes (a KL coefficient, rounds, n). The fair comparison is a **frontier**: every method at several strengths, with three seeds each, and the picture of how much score is bought for how much KL. That takes long, so the results are kept in `benchmarks/results/`, made by `make frontier`; command, seeds, hardware and date are inside:

# %%
own = frontier.RESULTS / f"frontier_{setup.profile}.json"
kept = frontier.load(own if own.is_file() else frontier.RESULTS / "frontier_offline.json")
facts = {key: kept.record[key] for key in ("profile", "command", "hardware", "date", "budget", "prompts")}
facts["seeds"] = sorted({row["seed"] for row in kept.record["runs"]})
pd.Series(facts, name="kept runs").to_frame()

# %%
table = frontier.table(kept)
table[["gain", "low", "high", "KL", "distinct-2", "second judge", "seeds", "tokens", "seconds"]].round(2)

# %%
figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
frontier.draw(kept, axes)
plt.show()

# %% [markdown] tags=["zh"]
# 越靠左上越好。竖线是 95% 区间，**提示和种子一起重抽**：同一个方法的三个种子差得多，区间就宽。（只有三个种子，这样的区间偏窄。）表里的 `second judge` 是没有参与训练的词袋评委；`seconds` 只供参考，机器当时忙闲不一。
#
# 谁赢？不同方法停在不同的 KL，不能直接比分数。所以在同一个 KL 处比：点与点之间用直线连（从原点出发），比的是**配对的差**，差的区间含 0 就是分不出。“没有结论”是合法的结果。下面几行由代码写成：

# %% [markdown] tags=["en"]
# Upper left is better. The bars are 95% intervals, with prompts **and seeds drawn again**: where the three seeds of a method differ much, its interval is wide. (Three seeds are few, and such intervals are rather narrow.) `second judge` in the table is the word judge, which took no part in training; do not compare `seconds`, the machine was not equally busy in all runs.
#
# Who wins? Methods stop at different KLs, so their scores cannot be compared as they are. They are compared at the same KL: straight lines between the points (from the origin on), and what counts is the **paired difference**; if its interval holds 0, they cannot be told apart. "Inconclusive" is a legal result. The next lines are written by code:

# %%
for kl in (0.5, 1.5, 2.5, 4.0):
    verdict = frontier.compare(kept, kl)
    print(verdict.zh, verdict.en, sep="\n", end="\n\n")

# %%
compared = frontier.compare(kept, 2.5)
compared.rows.round(2)

# %% [markdown] tags=["zh"]
# 读结论时别忘了：
#
# - “第一名”是看了数据才挑的，六个里挑最高，难免有运气；所以小胜不算胜。
# - 学习率各试了两三个（`offline`，别的种子、别的提示），K、批大小、遍数没有调，更新次数也不一样多。换一个预算，名次会变。
# - 拒绝采样的轮数不像 KL 系数那样越调越远：总预算一样，轮数多了，每轮分到的样本就少。
# - 任务很小：回复不到 16 个词元，要学的只是一种口气。推理题上的 GRPO、几万对人类偏好上的 DPO，都不在这张图里。
#
# ## 10 训练前后
#
# 同一个提示，每种方法写了什么：

# %% [markdown] tags=["en"]
# To be kept in mind while reading it:
#
# - Who is "first" was picked after looking: the highest of six owes something to luck, so a narrow win is none.
# - Two or three learning rates were tried for each (`offline`, another seed, other prompts); K, batch sizes and epochs were not tuned, nor are there equally many updates. With another budget the order may change.
# - More rounds of rejection sampling need not go further, unlike a lower KL coefficient: the budget is the same, so with more rounds each has fewer samples.
# - The task is small: responses of less than 16 tokens, and nothing to learn but a tone of voice. GRPO on reasoning, DPO on tens of thousands of human preferences: not in this picture.
#
# ## 10 Before and after
#
# What each method writes to the same prompt:

# %%
answers = {"start": held_out.answer(held_out.reference)}
answers |= {NAMES[name]: held_out.answer(run.policy) for name, run in runs.items() if run.policy is not None}
shown = range(6)
story = {}
for name, rollout in answers.items():
    texts = rollout.texts(tokenizer)
    scored = held_out.score(reward, texts)
    story[name] = [f"{texts[i]} [{scored[i]:+.1f}]" for i in shown]
with pd.option_context("display.max_colwidth", None):
    display(pd.DataFrame(story, index=pd.Index([held_out.queries[i] for i in shown], name="query")))

# %% [markdown] tags=["zh"]
# 第 8 节的运行很短，GRPO 在那张表里的区间可能还含着 0。收尾的表让 GRPO 再练一次：词元和第 9 节的一次运行一样多，别的都不变。

# %% [markdown] tags=["en"]
# The runs of section 8 are short, and GRPO's interval there may still hold 0. For the closing table GRPO trains once more, with as many tokens as a run of section 9 and nothing else changed.

# %%
enough = dataclasses.replace(task, budget=setup.sizes["budget"], points=1)
longer = beyond.method("grpo")(enough, **own_settings("grpo"))
answer = held_out.answer(longer.policy)
print(f"{longer.tokens:,} tokens instead of {runs['grpo'].tokens:,}, {longer.seconds:.0f} s")

# %% tags=["table"]
result = evaluate.compare(
    held_out.prompts,
    answers["start"],
    answer,
    tokenizer,
    reward,
    judge=words,
    kl=evaluate.response_kl(longer.policy, held_out.reference, answer),
    shown=setup.evaluation["shown"],
    title="09 Beyond PPO: GRPO",
    meta=report.run_meta(setup, started),
)
result.save(setup.output)
result

# %%
told = {"better": [], "worse": [], "no difference established": []}
for name, run in [*((NAMES[name], run) for name, run in runs.items()), ("GRPO (longer run)", longer)]:
    _, low, high = run.final.gain
    key = "better" if low > 0 else "worse" if high < 0 else "no difference established"
    told[key].append(name)
print("this lesson's runs against the start:")
for key, names in told.items():
    print(f"  {key}: {', '.join(names) or 'none'}")

# %% [markdown] tags=["zh"]
# ## 11 小结
#
# - 去掉价值头的代价是 K 条回复：GRPO 和 RLOO 用同一提示的其他回复当基线。留一法的方差是提示内部方差的 $\frac{K}{K-1}$ 倍；价值头能看见写到一半的回复，组基线不能。
# - KL 可以进奖励（PPO）、进分数（RLOO）、进损失（GRPO）或藏在损失的形式里（DPO）；各自的 β 单位不同，不能互相比。
# - DPO 在 Bradley–Terry 的世界里找到的是同一个最优策略；真实的对不在那个世界里。
# - 每个损失不超过五行，和 TRL 的训练器在真实的一批上对过。
# - 用别人的训练器，先读默认值：`beta`、`loss_type`、dropout，还有左填充时的位置。
# - 比较方法要同样的起点、提示和词元，几种强度、几个种子，在同一个 KL 处比，带上区间。

# %% [markdown] tags=["en"]
# ## 11 Summary
#
# - No value head costs K responses: GRPO and RLOO take the other responses to a prompt as their baseline. Leave-one-out has $\frac{K}{K-1}$ times the variance within a prompt; a value head can see a half-written response, a group baseline cannot.
# - The KL can go into the reward (PPO), the score (RLOO), the loss (GRPO) or into the form of the loss (DPO); their betas have different units and cannot be compared.
# - In a Bradley–Terry world DPO finds the same best policy; real pairs do not live there.
# - Every loss fits into five lines, and agreed with TRL's trainer on a real batch.
# - Before using somebody's trainer, read its defaults: `beta`, `loss_type`, dropout, and positions where it pads on the left.
# - To compare methods: the same start, prompts and tokens, several strengths and seeds, at the same KL, with intervals.

# %% [markdown] tags=["zh"]
# ## 12 练习
#
# 把 `...` 换成你的答案再运行，批改结果马上出现。每题后面藏着一个参考答案，点开就能看。
#
# ### 练习 1（留一法）
#
# 写出 `leave_one_out`：输入 `(P, K)` 的奖励，输出同样形状的优势，每条减去**另外** K − 1 条的平均。

# %% [markdown] tags=["en"]
# ## 12 Exercises
#
# Replace `...` with your answer and run the cell; it is graded at once. A solution is hidden after each exercise; click to open it.
#
# ### Exercise 1 (leave one out)
#
# Write `leave_one_out`: from rewards `(P, K)` to advantages of the same shape, each reward minus the mean of the **other** K − 1.


# %% tags=["exercise"]
def leave_one_out(rewards): ...  # your code


checks.e09_1(leave_one_out)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_1(rewards):
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)  # (P, K)
    return rewards - others


checks.e09_1(solution_1).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 2（DPO 的损失）
#
# 写出 `dpo_loss`：四个 `(P,)` 的对数概率（整条回复之和）和 `beta`，返回一个数。

# %% [markdown] tags=["en"]
# ### Exercise 2 (DPO's loss)
#
# Write `dpo_loss`: four `(P,)` log-probabilities (sums over whole responses) and `beta`; return one number.


# %% tags=["exercise"]
def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta): ...  # your code


checks.e09_2(dpo_loss)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_2(chosen, rejected, ref_chosen, ref_rejected, beta):
    margin = (chosen - ref_chosen) - (rejected - ref_rejected)  # (P,)
    return -torch.nn.functional.logsigmoid(beta * margin).mean()


checks.e09_2(solution_2).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 3（找错：短的回复变轻了）
#
# 下面的 GRPO 损失不报错，回复一样长的时候结果也完全正确。可是回复长短不一时，它就偏心。找出错误，写出正确的 `grpo_loss`（论文的平均法）。填充处的数可以是任何值。

# %% [markdown] tags=["en"]
# ### Exercise 3 (find the bug: short responses weigh less)
#
# The GRPO loss below raises nothing, and with responses of equal length its result is right. With different lengths it is not impartial. Find the bug and write the right `grpo_loss` (averaged as in the paper). On the padding there may be any number.


# %%
def buggy_grpo_loss(logprobs, old, ref, advantages, mask, cliprange, beta):
    """(B, R) log-probabilities, (B,) advantages, (B, R) mask -> a scalar."""
    ratio = ((logprobs - old) * mask).exp()
    a, d = advantages[:, None], (ref - logprobs) * mask
    surrogate = torch.max(-a * ratio, -a * ratio.clamp(1 - cliprange, 1 + cliprange))
    terms = surrogate + beta * (d.exp() - 1 - d)
    return (terms * mask).mean(1).mean()


for name, rows in (("both 3 tokens", [0, 0]), ("3 tokens and 1", [0, 1])):  # of section 3.2
    case = new[rows], old[rows], ref[rows], A, mask[rows], 0.2, 0.1
    print(f"{name}: {buggy_grpo_loss(*case):.4f}, right {losses.grpo_loss(*case):.4f}")


# %% tags=["exercise"]
def grpo_loss(logprobs, old, ref, advantages, mask, cliprange, beta): ...  # your code


checks.e09_3(grpo_loss)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_3(logprobs, old, ref, advantages, mask, cliprange, beta):
    ratio = ((logprobs - old) * mask).exp()
    a, d = advantages[:, None], (ref - logprobs) * mask
    surrogate = torch.max(-a * ratio, -a * ratio.clamp(1 - cliprange, 1 + cliprange))
    terms = surrogate + beta * (d.exp() - 1 - d)
    return ((terms * mask).sum(1) / mask.sum(1)).mean()  # by its own length, not by the padded one


checks.e09_3(solution_3).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 4（先预测，再对照）
#
# GRPO 训练的第一次更新：策略就是起点，还没有动过；假设回复一样长，整组都在这一批里。损失是多少？被裁剪的词元占多少？先想，再填两个数。

# %% [markdown] tags=["en"]
# ### Exercise 4 (predict, then compare)
#
# The first update of a GRPO run: the policy is the start and has not moved; suppose that responses have equal length and whole groups are in the batch. What is the loss, and which share of the tokens is clipped? Think first, then give two numbers.

# %% tags=["exercise"]
loss, clipped = ..., ...
checks.e09_4(loss, clipped)

# %% tags=["solution"] jupyter={"source_hidden": true}
logp = old_logp.clone().requires_grad_()  # the real batch of section 5, before it moved
first = losses.grpo_loss(logp, old_logp, old_logp, losses.group_advantages(sixteen), live, 0.2, 0.04)
first.backward()
print(f"loss {first.item():+.6f}, length of its gradient {logp.grad.norm():.3f}")
checks.e09_4(0.0, 0.0).must_pass()

# %% [markdown] tags=["zh"]
# ## 13 延伸阅读
#
# - Shao et al. 2024，[DeepSeekMath](https://arxiv.org/abs/2402.03300)：GRPO，4.1 节。
# - Ahmadian et al. 2024，[Back to Basics](https://arxiv.org/abs/2402.14740)：RLOO，为什么在语言模型上 REINFORCE 就够了。
# - Rafailov et al. 2023，[Direct Preference Optimization](https://arxiv.org/abs/2305.18290)：DPO；第 4 节是这里的 6.1。
# - Liu et al. 2025，[Understanding R1-Zero-Like Training](https://arxiv.org/abs/2503.20783)：Dr. GRPO，长度和标准差带来的偏差。
# - Yu et al. 2025，[DAPO](https://arxiv.org/abs/2503.14476)：TRL 默认的平均法从这里来。
# - Tajwar et al. 2024，[Preference Fine-Tuning Should Leverage On-Policy Data](https://arxiv.org/abs/2404.14367)：为什么自己采样很要紧。

# %% [markdown] tags=["en"]
# ## 13 Further reading
#
# - Shao et al. 2024, [DeepSeekMath](https://arxiv.org/abs/2402.03300): GRPO, section 4.1.
# - Ahmadian et al. 2024, [Back to Basics](https://arxiv.org/abs/2402.14740): RLOO, and why REINFORCE is enough for language models.
# - Rafailov et al. 2023, [Direct Preference Optimization](https://arxiv.org/abs/2305.18290): DPO; its section 4 is 6.1 here.
# - Liu et al. 2025, [Understanding R1-Zero-Like Training](https://arxiv.org/abs/2503.20783): Dr. GRPO, and the biases of length and standard deviation.
# - Yu et al. 2025, [DAPO](https://arxiv.org/abs/2503.14476): where TRL's default average comes from.
# - Tajwar et al. 2024, [Preference Fine-Tuning Should Leverage On-Policy Data](https://arxiv.org/abs/2404.14367): why it matters to sample for oneself.
