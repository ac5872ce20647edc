# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] tags=["zh"]
# # 08 拒绝采样
#
# **这一课回答的问题**：非要用强化学习不可吗？不用价值头，不用裁剪，也不用 KL 惩罚，只会“多写几条、挑最好的、照着学”，能走多远？又要付出什么？
#
# **需要什么**
#
# | 配置（profile） | 硬件 | 时间 |
# |---|---|---|
# | `offline`（默认） | 2 个 CPU 核 | 大约 2 分钟，不联网 |
# | `imdb` | 2 个 CPU 核，或一块 GPU | CPU 上大约 10 分钟 |
# | `full` | 一块 GPU | 没有在这里运行过 |
#
# 三种配置运行的是同样的单元格。先读过[第 00 课](00_overview.ipynb)就够了；和[第 07 课](07_ppo_imdb.ipynb)的 PPO 对照着看最好。

# %% [markdown] tags=["en"]
# # 08 Rejection sampling
#
# **The question of this lesson**: do we need reinforcement learning at all? Without a value head, without clipping and without a KL penalty, how far gets a method that only writes several responses, picks the best and imitates it? And what does that cost?
#
# **What you need**
#
# | profile | hardware | time |
# |---|---|---|
# | `offline` (default) | 2 CPU cores | about 2 minutes, no network |
# | `imdb` | 2 CPU cores, or one GPU | about 10 minutes on the CPU |
# | `full` | one GPU | not run here |
#
# All three run the same cells. [Lesson 00](00_overview.ipynb) is all the preparation needed; it reads best next to the PPO of [lesson 07](07_ppo_imdb.ipynb).

# %% tags=["setup"]
import time

from rlhf import checks, evaluate, pictures, profiles, report  # before torch: idle threads then sleep

started = time.perf_counter()
setup = profiles.setup("08_rejection_sampling")

# %%
import inspect
import itertools

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import display
from transformers import AutoModelForCausalLM, pipeline

from rlhf import rejection, sampling, sft
from rlhf.rewards import SentimentReward, WordJudge

plt.style.use(pictures.STYLE)

# %% [markdown] tags=["zh"]
# ## 1 做法：写 K 条，留一条，学一条
#
# ![一轮拒绝采样：采样、挑选、模仿，再回到采样](../figs/08_rounds.svg)
#
# 这是 Llama 2 用的做法，重复若干轮，每轮三步：
#
# 1. **采样**：对每个提示，让**当前最新**的策略（policy）写 K 条回复（response）。
# 2. **挑选**：奖励模型（reward model）给每条打分，每个提示只留最高的一条，其余 K − 1 条丢掉。
# 3. **模仿**：把留下的回复当作标准答案，做一次监督微调（SFT）。
#
# 没有价值头，没有优势，没有概率比。Llama 2-Chat 的前四版 RLHF 只用了它，之后才在它的结果上再接着做 PPO。
#
# 名字要小心：统计学里的“拒绝采样”按一定的概率接受或拒绝每个样本，得到的样本**严格**服从目标分布；这里是“K 选一”（best-of-K），名字相同，算法不同。
#
# 图下方的两个对照（control）一会儿都要跑：
#
# - **随机挑**：样本数和训练步数都一样，只是不看分数，随便留一条。分数若也涨了，功劳就不在奖励模型。
# - **冻结的采样器**：每一轮都由出发时的策略来写，新策略只学、不写。这是 K 选一的蒸馏（distillation），不是 Llama 2 的循环。

# %% [markdown] tags=["en"]
# ## 1 The recipe: write K, keep one, learn one
#
# ![One round of rejection sampling: sample, choose, imitate, and back to sampling](../figs/08_rounds.svg)
#
# This is what Llama 2 did, for several rounds of three steps:
#
# 1. **Sample**: the **newest** policy writes K responses to every prompt.
# 2. **Choose**: the reward model scores each of them; the best one of every prompt is kept, the other K − 1 are thrown away.
# 3. **Imitate**: what was kept counts as the right answer, and the policy is fine-tuned on it as in SFT.
#
# No value head, no advantages, no ratios. The first four RLHF versions of Llama 2-Chat used nothing else; after that, PPO went on from its result.
#
# Mind the name: in statistics, rejection sampling accepts or rejects each sample with a certain probability, and what is accepted follows the target distribution **exactly**. Here it is best-of-K: the same name for another algorithm.
#
# The two controls below the drawing will both be run:
#
# - **Random pick**: as many samples and as many training steps, but any response is kept, whatever it scores. If scores rise here too, the reward model deserves no credit.
# - **Frozen sampler**: in every round it is the policy of the start that writes; the new policy learns but never writes. This distils best-of-K, it is not Llama 2's loop.

# %%
config = rejection.RejectionConfig.of(setup.sizes)
print(config)
print(
    f"{config.rounds} rounds × {config.prompts} prompts × {config.k} = {config.rounds * config.prompts * config.k:,} samples"
)
print(f"of which {config.rounds * config.prompts:,} are kept to learn from")

# %% [markdown] tags=["zh"]
# 出发点是配置里的策略。想从第 04 课的成果出发，给 `train_rounds` 加上 `start=profiles.root() / "output" / "sft_1"` 就行；这里不用它，是为了让这一课单独也能跑，并且每次跑都一样。

# %% [markdown] tags=["en"]
# The start is the policy of the profile. To start from what lesson 04 made, add `start=profiles.root() / "output" / "sft_1"` to `train_rounds`; it is not used here so that the lesson runs by itself, and in the same way every time.

# %%
policy, tokenizer = sft.load_policy(
    setup.policy, setup.device
)  # also the reference: it is never trained here
reward_model = SentimentReward(setup.reward_model, device=setup.device)
prompts = evaluate.held_out_prompts(setup, tokenizer, seed=setup.seed)
lengths = evaluate.response_lengths(setup, len(prompts), seed=setup.seed)
print(f"{sum(p.numel() for p in policy.parameters()):,} parameters; {len(prompts)} held-out prompts")

# %% [markdown] tags=["zh"]
# ## 2 一个提示，K 条回复
#
# 同一个提示，策略写了这么几条，按分数从高到低排：

# %% [markdown] tags=["en"]
# ## 2 One prompt, K responses
#
# What the policy writes to one and the same prompt, from the highest score to the lowest:

# %%
one = rejection.sample_pool(policy, tokenizer, prompts[:1], [12], config.k, reward_model, seed=setup.seed)
print(repr(one.prompts[0]), "→ scores", tuple(one.scores.shape))  # (P=1, K)
for j in one.scores[0].argsort(descending=True).tolist():
    print(f"{one.scores[0, j]:+.2f}  {one.texts[j]}")

# %% [markdown] tags=["zh"]
# 好的那几条，策略**本来就写得出来**，只是不常写。拒绝采样不教新东西，它只是让已经会写的好回复变得更常见。K 条里若一条好的也没有，这个提示这一轮就学不到什么。
#
# 同一个提示的 K 条回复，长度（词元数）是一样的，否则分数高也可能只是因为写得长。
#
# ### 2.1 摆成一张表
#
# P 个提示各写 K 条，一次全部交给 `sampling.generate`：一个长长的列表，P · K 行。之后要能折回 `(P, K)` 的表，每行取最大。顺序错了，不会报错：
#
# ![从 P · K 个分数的列表到每个提示一个选择，以及会出错的顺序](../figs/08_choose.svg)

# %% [markdown] tags=["en"]
# The good ones are what the policy **could write all along**, only not often. Rejection sampling teaches nothing new, it makes good responses more frequent that were possible before. A prompt without a good one among its K teaches little in this round.
#
# All K responses to a prompt have the same length in tokens; otherwise a high score might just mean a long text.
#
# ### 2.1 Folded into a table
#
# P prompts with K responses each go to `sampling.generate` at once: one long list of P · K rows. Afterwards it has to fold back into a table `(P, K)`, of which every row has its maximum taken. The wrong order raises nothing:
#
# ![From a list of P · K scores to one pick per prompt, and the order that goes wrong](../figs/08_choose.svg)

# %%
names = ["a1", "a2", "a3", "b1", "b2", "b3"]  # P=2 prompts, K=3, prompt by prompt
flat = torch.tensor([0.2, 1.9, -1.1, 0.7, -0.4, 0.1])  # (P*K,)
table = flat.reshape(2, 3)  # (P*K,) -> (P, K)
picks = table.argmax(1)  # (P,), each 0 … K-1
places = torch.arange(2) * 3 + picks  # (P,), back in the flat list
torch.testing.assert_close(picks, rejection.pick_best(table))
print("picks", picks.tolist(), "→", [names[i] for i in places])

# %%
order = [0, 3, 1, 4, 2, 5]  # what `queries * K` gives: a b a b a b
mixed = flat[order].reshape(2, 3)  # rows hold both prompts
wrong = torch.arange(2) * 3 + mixed.argmax(1)
print([[names[i] for i in row] for row in torch.tensor(order).reshape(2, 3).tolist()])
print("wrong order picks", [names[order[i]] for i in wrong], "although b1 scores", flat[3].item())

# %% [markdown] tags=["zh"]
# ### 2.2 一起写要快多少
#
# 教程里常见的写法是一条一条地生成。一起写有多快？同一个模型，同样的设置，量一量。（长度相同的排在一批里，谁也不用等谁。）

# %% [markdown] tags=["en"]
# ### 2.2 How much faster is all at once?
#
# Tutorials often generate one response at a time. How fast is all at once? The same model, the same settings, measured. (Rows of equal length share a batch, so that none waits for another.)


# %%
def one_by_one(n):
    for i in range(n):
        ids = prompts[i]["input_ids"][None].to(setup.device)  # (Q,) -> (1, Q)
        fixed = {"attention_mask": torch.ones_like(ids), "pad_token_id": tokenizer.pad_token_id}
        policy.generate(input_ids=ids, max_new_tokens=lengths[i], **fixed, **sampling.FULL_SOFTMAX)


def all_at_once(n):
    rejection.sample_pool(
        policy, tokenizer, prompts[:n], lengths[:n], 16, lambda texts: torch.zeros(len(texts))
    )


# %%
rates = {}
for name, write, count in (("one by one", one_by_one, 16), ("all at once", all_at_once, 32)):
    write(2)  # warm up
    clock = time.perf_counter()
    write(count)
    rates[name] = count * (16 if write is all_at_once else 1) / (time.perf_counter() - clock)
print({name: f"{rate:.0f} responses per second" for name, rate in rates.items()})
print(f"all at once is {rates['all at once'] / rates['one by one']:.0f} times as fast")
assert rates["all at once"] > 3 * rates["one by one"]

# %% [markdown] tags=["zh"]
# 反复的、更仔细的测量在 `benchmarks/rejection.py`。
#
# ## 3 K 条里的最高分，期望是多少？
#
# 写得越多，最高的一条越高。可是高多少？K 取多大才划算？这有一个干净的答案，不用训练就能算。
#
# ### 3.1 公式
#
# 设一条回复的分数不超过 $x$ 的概率是 $F(x)$。K 条都不超过 $x$ 的概率就是 $F(x)^K$，这就是最大值的分布。求导得到密度 $K F^{K-1} f$，于是
#
# $$\mathbb{E}[\max] = K\int x\,F(x)^{K-1}\,dF(x)$$
#
# 统计学管排好序的样本叫**次序统计量**（order statistics）。假如分数是标准正态分布，数值积分给出：

# %% [markdown] tags=["en"]
# A more careful measurement, repeated, is in `benchmarks/rejection.py`.
#
# ## 3 What can be expected of the best of K?
#
# The more responses, the higher the best of them. But how much higher, and which K is worth its price? There is a clean answer that needs no training.
#
# ### 3.1 The formula
#
# Let $F(x)$ be the probability that a response scores at most $x$. All K of them score at most $x$ with probability $F(x)^K$, and that is the distribution of the maximum. Its density is the derivative, $K F^{K-1} f$, hence
#
# $$\mathbb{E}[\max] = K\int x\,F(x)^{K-1}\,dF(x)$$
#
# Statisticians call the values of a sorted sample **order statistics**. If scores were standard normal, numerical integration says:

# %%
x = torch.linspace(-6, 8, 14_001, dtype=torch.float64)
normal = torch.distributions.Normal(0.0, 1.0)
f, F = normal.log_prob(x).exp(), normal.cdf(x)
figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
for K in (1, 2, 4, 8, 16):
    density = K * F ** (K - 1) * f  # of the maximum of K
    expected = torch.trapezoid(x * density, x)
    axes.plot(x, density, label=f"K = {K}: mean {expected:+.2f}")
axes.set(
    xlim=(-3, 4.5), xlabel="score, in standard deviations", title="the best of K normal scores", yticks=[]
)
axes.legend()
plt.show()

# %% [markdown] tags=["zh"]
# 曲线往右移，也越来越窄：从 1 条到 2 条赚得最多，以后每翻一倍，多赚的都比上一次少一点。
#
# ### 3.2 从 N 个分数估计
#
# 真实的 $F$ 不知道，手里只有 N 个分数。从中取 K 个，一共 $\binom{N}{K}$ 种取法，把每种取法的最大值平均起来，就是**无偏**（unbiased）的估计。不用真的枚举：排好序以后，第 $i$ 小的分数正好是其中 $\binom{i-1}{K-1}$ 种取法的最大值。

# %% [markdown] tags=["en"]
# The curve moves to the right and gets narrower: going from 1 to 2 gains most, and each further doubling gains a little less than the one before.
#
# ### 3.2 Estimated from N scores
#
# The true $F$ is unknown; all we have is N scores. There are $\binom{N}{K}$ ways to take K of them, and the mean of their maxima is an **unbiased** estimate. No need to go through all of them: once sorted, the $i$-th smallest score is the maximum of exactly $\binom{i-1}{K-1}$ ways.

# %%
draws, K = torch.tensor([0.3, -1.2, 0.9, 2.0, 0.1, -0.4]), 3  # (N=6,)
ways = [max(way) for way in itertools.combinations(draws.tolist(), K)]
by_hand = torch.tensor(ways, dtype=torch.float64).mean()
torch.testing.assert_close(by_hand, rejection.expected_max(draws, K))
again = [max(way) for way in itertools.product(draws.tolist(), repeat=K)]  # each draw may come up again
print(
    f"{len(ways)} ways: {by_hand:.3f}; with repeats, {len(again)} ways: {sum(again) / len(again):.3f}, too low"
)

# %% [markdown] tags=["zh"]
# 第二个数是把经验分布直接代进公式的结果：同一个分数可以重复出现，最大值就被拉低了。K 接近 N 时差得尤其多。
#
# ### 3.3 理论和实测
#
# 给每个留出提示写两堆回复。第一堆用来估计（理论），第二堆是全新的：真的分成 K 条一组，真的取最大（实测）。

# %% [markdown] tags=["en"]
# The second number is what the formula gives if the empirical distribution is put straight into it: a score may then come up twice, which pulls the maximum down, and most of all when K is near N.
#
# ### 3.3 Theory and measurement
#
# Every held-out prompt gets two heaps of responses. The first one serves the estimate (theory). The second one is fresh: it is really cut into groups of K, and the maximum is really taken (measurement).

# %%
n = setup.sizes["pool"]
first, fresh = (
    rejection.sample_pool(policy, tokenizer, prompts, lengths, n, reward_model, seed=setup.seed + heap)
    for heap in (1, 2)
)
spread = first.scores.var(1).mean().sqrt().item()  # of the scores of one prompt
print("scores", tuple(first.scores.shape), "and", tuple(fresh.scores.shape))  # (P, N)
print(f"mean {first.scores.mean():+.3f}, standard deviation within a prompt {spread:.3f}")


# %%
def compare_best_of(K):
    theory = rejection.expected_max(first.scores, K)  # (P, N) -> (P,)
    groups = fresh.scores.double().reshape(len(prompts), n // K, K)  # (P, N) -> (P, N/K, K)
    measured = groups.max(-1).values.mean(1)  # (P,)
    gains = theory - first.scores.double().mean(1), measured - fresh.scores.double().mean(1)
    off = gains[1] - gains[0] if K > 1 else measured - theory
    scale = gains[0].mean() if K > 1 else spread
    row = {"K": K, "theory": theory.mean(), "measured": measured.mean(), "gain, theory": gains[0].mean()}
    row |= {"gain, measured": gains[1].mean(), "off by %": 100 * off.mean() / scale}
    row |= {"± %": 200 * off.std() / len(off) ** 0.5 / scale}
    return row | {"all prompts mixed": rejection.expected_max(first.scores.flatten(), K)}


best_of = pd.DataFrame([compare_best_of(K) for K in (1, 2, 4, 8, 16)]).astype(float).set_index("K")
best_of.index = best_of.index.astype(int)
best_of.round(3)

# %% [markdown] tags=["zh"]
# 百分比要有分母。原始 logit 的零点是随意的，“分数的 5%”没有意义；所以看的是**增益**的 5%，增益就是最好的一条比随便一条高多少。K = 1 时没有增益，除以同一个提示内部的标准差。“± %”是差的两倍标准误，两堆都是有限的，差一点是应该的。

# %% [markdown] tags=["en"]
# A percentage needs a denominator. The zero of a raw logit is arbitrary, so "5% of the score" means nothing; here it is 5% of the **gain**: how much higher the best one scores than any one. At K = 1 there is no gain, and the denominator is the standard deviation within a prompt. "± %" is two standard errors of the difference: both heaps are finite, so some difference is due.

# %%
worst = best_of["off by %"].abs().max()
print(f"largest difference between theory and measurement: {worst:.1f}%")
for K, row in best_of.iterrows():
    assert abs(row["off by %"]) < max(5, 1.5 * row["± %"]), f"K = {K}: theory and measurement disagree"
    assert row["all prompts mixed"] >= row["theory"] - 1e-9
per_sample = best_of["gain, theory"].diff()
print("each doubling of K adds", [f"{K}: {more:+.2f}" for K, more in per_sample.dropna().items()])

# %%
figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
axes.plot(best_of.index, best_of["theory"], label="theory, prompt by prompt")
axes.plot(best_of.index, best_of["measured"], "o", color="C1", label="measured on fresh samples")
axes.plot(best_of.index, best_of["all prompts mixed"], "--", color="C7", label="wrong: all prompts mixed")
axes.set_xscale("log", base=2)
axes.set(xticks=best_of.index, xticklabels=best_of.index, xlabel="K", ylabel="expected score of the best")
axes.legend()
plt.show()

# %% [markdown] tags=["zh"]
# 虚线是一个常见的错误：把所有提示的分数混成一堆再估计。那等于允许“挑提示”：有的提示天生分高，混在一起，最大值就总来自它们。而拒绝采样必须**每个提示**各留一条。由 $t^K$ 的凸性可以证明，混起来的估计绝不会更低。
#
# 再看“每翻一倍多赚多少”那一行，和第 3.1 节的正态分布比一比：正态分布里一次比一次少，真实的分数却未必。多数回复不好不坏，偶尔有一条满是好话，分布的右边拖着一条长尾巴，K 大了还常常有新的收获。
#
# ## 4 K 选一的代价：KL
#
# 挑过的回复不再服从原来的策略。走了多远？（这一节照文献的写法，把 K 写成 $n$。）先看一个算得清楚的例子：只有 6 种回复，按分数从低到高排好。n 条里最好的是第 $i$ 种的概率，等于“都不高于它”减去“都低于它”：

# %% [markdown] tags=["en"]
# The dashed line is a common mistake: to throw the scores of all prompts together and estimate from that. It allows picking among **prompts**: some of them score high whatever follows, and the maximum always comes from those. Rejection sampling has to keep one response of **every** prompt. That the mixed estimate is never lower follows from the convexity of $t^K$.
#
# Now look at the line "each doubling of K adds", next to the normal distribution of section 3.1. There, each doubling gains less than the one before; real scores need not obey. Most responses are lukewarm and a few are full of praise: the distribution has a long tail on the right, where a larger K keeps finding more.
#
# ## 4 The price of best-of-K: KL
#
# Responses that were picked no longer follow the policy that wrote them. How far have they moved? (This section writes $n$ for K, as the literature does.) First a case where everything can be computed: just 6 responses, sorted from the lowest score to the highest. The best of n is the $i$-th with the probability that all are at most as good, less the probability that all are worse:

# %%
p = torch.tensor([0.40, 0.25, 0.15, 0.10, 0.07, 0.03], dtype=torch.float64)  # (6,), lowest score first
at_most = p.cumsum(0)  # (6,)
toy = pd.DataFrame(index=pd.Index([1, 2, 4, 8, 16, 32], name="n"), columns=["exact KL", "bound"], dtype=float)
for n_best in toy.index:
    q = at_most**n_best - (at_most - p) ** n_best  # (6,): the policy "best of n"
    toy.loc[n_best] = (q * (q / p).log()).sum().item(), rejection.best_of_kl(n_best)
assert (toy["exact KL"] <= toy["bound"] + 1e-12).all()
toy.round(3)

# %% [markdown] tags=["zh"]
# 右边一列是文献里常用的公式，而且与分数无关：
#
# $$\mathrm{KL}(\text{best of } n\,\|\,\pi) \le \log n - \frac{n-1}{n}$$
#
# 道理：最好的一条在原分布里的名次 $u = F(x)$ 的密度是 $n u^{n-1}$，而随便一条的名次是均匀的，所以 $\mathrm{KL} = \int_0^1 n u^{n-1} \log (n u^{n-1})\,du$，积出来就是右边。Stiennon 等人 2020 年把它当等式用；Beirami 等人证明它是**上界**：只要有哪条回复单独占了不小的概率（上面的例子正是这样），真实的 KL 就更小。语言模型的长回复几乎不会重复，这时它很接近等式。

# %% [markdown] tags=["en"]
# The right column is a formula that the literature uses a lot, and that does not depend on the scores:
#
# $$\mathrm{KL}(\text{best of } n\,\|\,\pi) \le \log n - \frac{n-1}{n}$$
#
# Where it comes from: the rank $u = F(x)$ of the best one within the original distribution has the density $n u^{n-1}$, the rank of any one is uniform, so $\mathrm{KL} = \int_0^1 n u^{n-1} \log (n u^{n-1})\,du$, which is the right side. Stiennon et al. 2020 use it as an equation; Beirami et al. prove that it is an **upper bound**: as soon as some single response has a sizeable probability, as in the case above, the true KL is smaller. Long responses of a language model hardly ever repeat, and then it is close to an equation.

# %%
u = torch.linspace(1e-9, 1, 200_001, dtype=torch.float64)
for n_best in (2, 8, 32):
    density = n_best * u ** (n_best - 1)  # of the rank of the best
    integral = torch.trapezoid(torch.xlogy(density, density), u)
    torch.testing.assert_close(integral.item(), rejection.best_of_kl(n_best), atol=1e-6, rtol=0)
    print(f"n = {n_best:>2}: integral {integral:.4f}, log n − (n − 1)/n = {rejection.best_of_kl(n_best):.4f}")

# %% [markdown] tags=["zh"]
# 这就是 K 选一的“价目表”：K 条里挑一条，付不到 $\log K$ 的 KL，换来第 3 节的增益。第 10 节会把训练出来的策略画到同一张图上。
#
# ## 5 模仿：SFT 读到的是什么
#
# 挑出来的回复怎样变成训练数据？拿第一堆举例（这里只是看看，不训练）：

# %% [markdown] tags=["en"]
# This is the price list of best-of-K: picking one of K costs less than $\log K$ of KL and buys the gain of section 3. Section 10 puts the trained policies into the same picture.
#
# ## 5 Imitation: what SFT gets to read
#
# How do picked responses become training data? Take the first heap as an example (to look at, not to train on):

# %%
rows = rejection.demonstrations(first, rejection.pick_best(first.scores))
row = rows[0]
print(rows.num_rows, "rows with", rows.column_names)
tokens = [tokenizer.decode(token) for token in row["input_ids"]]  # (Q + R,)
report.token_heat(
    tokens, row["completion_mask"], "1: carries the loss, 0: only read", show_values=True, precision=0
)

# %% [markdown] tags=["zh"]
# 损失只算在回复上：提示不是策略写的，没有什么可奖励。
#
# 这里交给 TRL 的是**采样时的词元**，不是文字。为什么？只给文字，TRL 会自己重新分词，再在末尾补一个结束符（EOS）。数一数这两件事会改动多少行：

# %% [markdown] tags=["en"]
# Only the response carries loss: the prompt was not written by the policy, there is nothing in it to reward.
#
# What TRL is given here are **the tokens that were sampled**, not the text. Why? From a text, TRL makes tokens of its own and puts an end-of-sequence token (EOS) behind them. Count how many rows these two things would change:

# %%
texts = [prompt + completion for prompt, completion in zip(rows["prompt"], rows["completion"], strict=True)]
retokenised = tokenizer(texts, add_special_tokens=False)["input_ids"]
other = sum(list(a) != list(b) for a, b in zip(retokenised, rows["input_ids"], strict=True))
stopped = sum(ids[-1] == tokenizer.eos_token_id for ids in rows["input_ids"])
print(f"{other} of {len(rows)} rows would have other tokens than those that were sampled")
print(f"{stopped} of {len(rows)} responses end with an EOS of their own; the others ran out of room")

# %% [markdown] tags=["zh"]
# 词元不同，学的就不是当初写下、被打了分的那条。更要紧的是 EOS：这些回复大多是写到长度上限被截断的，并没有“写完”。给它们补上 EOS，策略就会学着过早收尾。（想核对 TRL 的做法，看 `SFTTrainer._prepare_dataset` 的源码里的 `add_eos`。）
#
# 训练本身由 TRL 的 `SFTTrainer` 完成，整个函数是：

# %% [markdown] tags=["en"]
# With other tokens, what is learnt is not what was written and scored. The EOS matters more: most of these responses were cut off at their maximal length and are not finished. With an EOS behind them, the policy would learn to stop too early. (To check what TRL does, look for `add_eos` in the source of `SFTTrainer._prepare_dataset`.)
#
# The training itself is done by TRL's `SFTTrainer`; this is the whole function:

# %%
print(inspect.getsource(rejection.imitate))

# %% [markdown] tags=["zh"]
# ## 6 几轮下来
#
# 一轮就是前面几节的东西拼起来：

# %% [markdown] tags=["en"]
# ## 6 The rounds
#
# A round is what the sections above prepared, put together:

# %%
print(inspect.getsource(rejection.one_round).split('"""')[2].split("losses =")[0])

# %% [markdown] tags=["zh"]
# 每轮之后，用同样的留出提示、同样的长度、同样的随机种子量一次。运行之前先猜一猜，写在纸上：
#
# - 随机挑的对照，分数会涨吗？它的 KL 呢？
# - 冻结采样器的对照，会在哪里停下来？（提示：第 3 节。）

# %% [markdown] tags=["en"]
# After every round the same held-out prompts are answered, with the same lengths and the same random seed. Guess before you run it, on paper:
#
# - Will the random pick raise the score? And its KL?
# - Where will the frozen sampler come to rest? (Hint: section 3.)

# %%
found = {}  # (arm, round) -> what was measured


def watch(arm):
    def measure(number, model):
        if number == 0 and found:
            return  # all arms start from the same policy
        rollout = evaluate.respond(model, tokenizer, prompts, lengths, seed=setup.seed)
        written = rollout.texts(tokenizer)
        scores = reward_model([q + r for q, r in zip(prompts["query"], written, strict=True)])  # (P,)
        kl = evaluate.response_kl(model, policy, rollout)  # (P,)
        found[arm, number] = {"rollout": rollout, "texts": written, "scores": scores, "kl": kl}
        print(f"{arm}, round {number}: held-out score {scores.mean():+.2f}, KL {kl.mean():.2f}")

    return measure


# %%
best = rejection.train_rounds(setup, config, on_round=watch("best of K"))

# %% [markdown] tags=["zh"]
# 两个对照，样本数相同，SFT 的步数也相同。第 1 轮里三者的采样器是同一个，用同样的种子写出的是同样的回复，所以直接沿用，不再重写。

# %% [markdown] tags=["en"]
# The two controls, with the same number of samples and of SFT steps. In round 1 the sampler is the same for all three and writes the same responses from the same seed, so they are used again instead of being written again.

# %%
controls = {"random pick": {"pick": "random"}, "frozen sampler": {"refresh": False}}
runs = {"best of K": best}
for arm, change in controls.items():
    other = rejection.RejectionConfig.of(setup.sizes, **change)
    where = setup.output / arm.replace(" ", "_")
    runs[arm] = rejection.train_rounds(
        setup, other, folder=where, first_pool=best.first_pool, on_round=watch(arm)
    )

# %% [markdown] tags=["zh"]
# ## 7 看懂这次训练
#
# 每轮记下这些数：
#
# | 指标 | 意思 |
# |---|---|
# | `score/mean` | 这一轮采样器写的全部回复的平均分：它说明**采样器**有多好 |
# | `score/best` | 每个提示 K 条里的最高分，再平均；与上一行的差就是第 3 节的增益 |
# | `score/std` | 同一个提示的 K 条分数的标准差：没有差别，就没得挑 |
# | `score/picked` | 真正拿去学的那些回复的平均分 |
# | `sft/loss_first`，`sft/loss_last` | SFT 的第一个和最后一个损失（每个词元的 −log p） |
# | `samples`，`seconds` | 写了多少条，用了多少秒 |

# %% [markdown] tags=["en"]
# ## 7 Reading the run
#
# Every round leaves these numbers:
#
# | metric | meaning |
# |---|---|
# | `score/mean` | mean score of all responses the sampler wrote in this round: how good the **sampler** is |
# | `score/best` | the best of K of every prompt, averaged; what it has over the line above is the gain of section 3 |
# | `score/std` | standard deviation of the K scores of a prompt: without differences there is nothing to choose |
# | `score/picked` | mean score of the responses that were learnt from |
# | `sft/loss_first`, `sft/loss_last` | first and last loss of SFT (−log p per token) |
# | `samples`, `seconds` | how many responses were written, and how long it took |

# %%
log = pd.concat(
    {arm: pd.DataFrame(run.history, index=range(1, config.rounds + 1)) for arm, run in runs.items()}
)
log.index.names = ["arm", "round"]
log.round(3)

# %%
start = found["best of K", 0]
figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
for place, arm in enumerate(runs):
    steps = [0] + [number for name, number in found if name == arm and number]
    told = [start] + [found[arm, number] for number in steps[1:]]
    gains = [report.bootstrap_gain(start["scores"], each["scores"]) for each in told]  # mean, low, high
    middle, low, high = (torch.tensor(part) for part in zip(*gains, strict=True))
    axes[0].errorbar(
        steps, middle, (middle - low, high - middle), fmt="o-", capsize=3, color=f"C{place}", label=arm
    )
    axes[1].plot(steps, [each["kl"].mean() for each in told], "o-", color=f"C{place}")
    axes[2].plot(steps[1:], log.loc[arm, "score/mean"], "o-", color=f"C{place}")
axes[0].axhline(
    best_of.loc[config.k, "gain, theory"] if config.k in best_of.index else float("nan"),
    color="C7",
    ls="--",
    lw=1,
)
for panel, title in zip(
    axes,
    ("held-out gain (dashed: best of K)", "KL to the start, nats", "score/mean of the sampler"),
    strict=True,
):
    panel.set(title=title, xlabel="round", xticks=range(config.rounds + 1))
axes[1].legend(*axes[0].get_legend_handles_labels())  # there it covers no line
plt.show()

# %% [markdown] tags=["zh"]
# 左图：误差线是配对增益的 95% 区间；虚线是出发时的策略 K 选一的增益，不训练，只在写的时候挑。中图是代价。右图：冻结的采样器每轮都是同一个，只差抽样的噪声。下面一句由代码写成，数字来自这次运行：

# %% [markdown] tags=["en"]
# Left: the bars are 95% intervals of the paired gain; the dashed line is what best-of-K gains with the policy of the start, choosing at writing time without any training. In the middle is the price. Right: a frozen sampler is the same one in every round, but for the noise of sampling. The next lines are written by code, with the numbers of this run:

# %%
last = config.rounds
gain = {arm: (found[arm, last]["scores"] - start["scores"]).mean().item() for arm in runs}
kl = {arm: found[arm, last]["kl"].mean().item() for arm in runs}
ceiling = rejection.expected_max(first.scores, config.k).mean().item() - first.scores.mean().item()
print(
    f"best of {config.k} at writing time gains {ceiling:+.2f} for at most {rejection.best_of_kl(config.k):.2f} nats"
)
for arm in runs:
    print(f"{arm:>14}: gain {gain[arm]:+.2f}, KL {kl[arm]:.2f} after {last} rounds")
print(
    "the frozen sampler's arm is",
    "below" if gain["frozen sampler"] < ceiling else "above",
    "best-of-K,",
    end=" ",
)
print("the refreshed one", "below" if gain["best of K"] < ceiling else "above", "it")

# %% [markdown] tags=["zh"]
# 怎么读：
#
# - **随机挑**：学自己写的东西，第一步的梯度平均起来是 0，没有方向；可是它的 KL 不是 0，分数也可能朝哪一边晃一点。这就是 SFT 本身的漂移：样本有限，每一步都带着噪声，而损失里没有任何东西把它拉回来。拒绝采样的 KL 里，也有这么一部分什么都没买到。
# - **冻结的采样器**：老师一直是“K 选一”，学得再好也就是老师的水平，所以有天花板。实际停下的地方往往还要低：样本这么少，SFT 学不到十成。
# - **更新的采样器**：老师跟着学生一起变好。理想情况下三轮以后相当于几条里挑一条？练习 1 来算。
#
# 日志已经写进 TensorBoard：每一轮的 SFT 损失，和上表的每一个数。
#
# ```bash
# tensorboard --logdir output/08_rejection_sampling/runs --port 8080
# ```
#
# ## 8 保存，再读回来
#
# 第 4 步的成果在 `output/rs_4`，是一个普通的 `transformers` 模型；旁边的 `rounds.json` 记着每一轮，`runs/` 是它的 TensorBoard 日志。

# %% [markdown] tags=["en"]
# How to read it:
#
# - **Random pick**: where one imitates what one wrote oneself, the gradient of the first step is 0 on average, it has no direction; yet the KL is not 0, and the score may wander a little to either side. That is the drift of SFT itself: samples are finite, every step is noisy, and nothing in the loss pulls back. Part of the KL of rejection sampling buys nothing either.
# - **Frozen sampler**: its teacher is best-of-K for ever, and the best pupil only gets as good as the teacher. There is a ceiling, and it usually comes to rest below it: from so few samples SFT learns only part of the lesson.
# - **Refreshed sampler**: the teacher improves along with the pupil. In the ideal case, what best-of-how-many do three rounds amount to? Exercise 1 works it out.
#
# The logs are in TensorBoard's format: the SFT loss of each round and every number of the table above.
#
# ```bash
# tensorboard --logdir output/08_rejection_sampling/runs --port 8080
# ```
#
# ## 8 Save it and load it again
#
# The result of Step 4 is in `output/rs_4`, an ordinary `transformers` model; `rounds.json` beside it remembers every round, and `runs/` are its TensorBoard logs.

# %%
folder = profiles.root() / "output" / "rs_4"
print(sorted(path.name for path in folder.iterdir()))
print(len([path for path in (folder / "runs").rglob("*tfevents*") if path.is_file()]), "TensorBoard files")
reloaded = AutoModelForCausalLM.from_pretrained(folder).to(setup.device)
greedy = [
    evaluate.respond(model, tokenizer, prompts["input_ids"][:4], 12, do_sample=False).texts(tokenizer)
    for model in (best.policy, reloaded)
]
assert greedy[0] == greedy[1], "the reloaded policy writes something else"

# %% [markdown] tags=["zh"]
# ## 9 训练前后
#
# 出发时的策略、每一轮、随机挑的对照，都在同样的留出提示上比较。第二位评委（second judge）是词袋分类器，只学过没当过提示的测试影评，没有参与挑选。

# %% [markdown] tags=["en"]
# ## 9 Before and after
#
# The policy of the start, every round, and the controls are compared on the same held-out prompts. The second judge is a bag-of-words classifier that learnt from test reviews not behind any prompt; it had no part in the choosing.

# %%
others = evaluate.judge_reviews(setup, prompts)
cut = len(others) * 3 // 4
judge = WordJudge.fit(others.select(range(cut)))
accuracy = judge.accuracy(others.select(range(cut, len(others))))
print(f"the word judge is right about {accuracy:.1%} of {len(others) - cut} reviews it did not learn from")
for each in found.values():
    each["judged"] = judge([q + r for q, r in zip(prompts["query"], each["texts"], strict=True)])  # (P,)


# %%
def numbers(each):
    gain, low, high = report.bootstrap_gain(start["scores"], each["scores"])
    judged, judged_low, judged_high = report.bootstrap_gain(start["judged"], each["judged"])
    return {
        "mean": each["scores"].mean().item(),
        "median": each["scores"].median().item(),
        "gain": f"{gain:+.2f} [{low:+.2f}, {high:+.2f}]",
        "word judge": f"{judged:+.2f} [{judged_low:+.2f}, {judged_high:+.2f}]",
        "KL": each["kl"].mean().item(),
        "distinct-2": report.distinct_n(each["texts"]),
    }


arms = pd.DataFrame({key: numbers(each) for key, each in found.items()}).T
arms.index = pd.MultiIndex.from_tuples([("start", 0), *list(found)[1:]], names=["arm", "round"])
arms.to_csv(setup.output / "arms.csv")
arms.infer_objects().round(2)

# %% [markdown] tags=["zh"]
# 断言把“有用”说清楚：每一轮都高过同一轮的随机挑，最后一轮两者的区间完全分开，第二位评委也看得出进步。

# %% [markdown] tags=["en"]
# Assertions say what "it works" means: every round is above the random pick of the same round, in the last round their intervals lie apart, and the second judge sees progress too.

# %%
for number in range(1, last + 1):
    ahead = report.bootstrap_gain(
        found["random pick", number]["scores"], found["best of K", number]["scores"]
    )
    print("round {}: {:+.2f} [{:+.2f}, {:+.2f}] above the random pick".format(number, *ahead))
    assert ahead[0] > 0, "no better than picking at random"
chosen, control = (
    report.bootstrap_gain(start["scores"], found[arm, last]["scores"]) for arm in ("best of K", "random pick")
)
assert chosen[1] > control[2], "the intervals of the last round touch"
assert report.bootstrap_gain(start["judged"], found["best of K", last]["judged"])[1] > 0
print(f"last round: best of K from {chosen[1]:+.2f}, random pick up to {control[2]:+.2f}")

# %% tags=["table"]
result = evaluate.compare(
    prompts,
    start["rollout"],
    found["best of K", last]["rollout"],
    tokenizer,
    reward_model,
    judge=judge,
    kl=found["best of K", last]["kl"],
    shown=setup.evaluation["shown"],
    title="08 Rejection sampling",
    meta=report.run_meta(setup, started),
)
result.save(setup.output)
result

# %% [markdown] tags=["zh"]
# 同一个提示，一轮一轮地怎么变，对照又写了什么：

# %% [markdown] tags=["en"]
# How responses to the same prompt change from round to round, and what the control wrote:

# %%
columns = {"start": start} | {f"round {i}": found["best of K", i] for i in range(1, last + 1)}
columns |= {f"random pick, round {last}": found["random pick", last]}
story = {
    name: [
        f"{text} [{score:+.1f}]"
        for text, score in zip(each["texts"][:6], each["scores"][:6].tolist(), strict=True)
    ]
    for name, each in columns.items()
}
with pd.option_context("display.max_colwidth", None):
    display(pd.DataFrame(story, index=pd.Index(prompts["query"][:6], name="query")))

# %% [markdown] tags=["zh"]
# ## 10 那么，需要强化学习吗？
#
# 分数是拿 KL 换来的，所以两个一起画。没有圆点的线是 K 选一：不训练，只在写的时候挑，KL 用第 4 节的上界。

# %% [markdown] tags=["en"]
# ## 10 So, do we need reinforcement learning?
#
# Scores are bought with KL, so draw both. The line without dots is best-of-K: no training, only choosing at writing time, with the bound of section 4 as its KL.

# %%
sizes = torch.arange(1, n + 1).tolist()
curve = [rejection.expected_max(first.scores, k).mean().item() - first.scores.mean().item() for k in sizes]
figure, axes = plt.subplots(figsize=(6.5, 3), layout="constrained")
axes.plot(
    [rejection.best_of_kl(k) for k in sizes], curve, color="C7", label=f"best of 1 … {n}, at writing time"
)
for place, arm in enumerate(runs):
    points = [start] + [found[arm, number] for number in range(1, last + 1)]
    across = [each["kl"].mean() for each in points]
    axes.plot(
        across,
        [(each["scores"] - start["scores"]).mean() for each in points],
        "o-",
        color=f"C{place}",
        label=arm,
    )
axes.set(xlabel="KL to the start, nats", ylabel="gain in reward")
axes.legend()
plt.show()

# %% [markdown] tags=["zh"]
# 图上离左上角越近越好。读的时候想着三件事：
#
# - K 选一的 KL 是**理想**的：挑选只动该动的。SFT 用有限的样本去逼近它，要多付漂移的钱；随机挑的那条平线就是纯粹的漂移。
# - 但是 K 选一每交一条都要真写 K 条，K 再大，KL 也只按 $\log K$ 增长；训练过的策略写一条就是一条，而且一轮一轮地还能走远。
# - 损失里没有 KL。想少付一点：样本多一些、学习率低一些、轮数少一些，或者干脆用带 KL 惩罚的 PPO。
#
# 和 PPO 比，两者到底差在哪里？
#
# | | 拒绝采样 | PPO |
# |---|---|---|
# | 学什么 | 只学最好的一条，其余丢掉 | 好的多写，坏的少写：每一条都用上 |
# | 功劳算到哪里 | 整条回复一起学 | 优势把功劳分到每个词元 |
# | 离参考模型多远 | 没有约束，只看训练了多少 | 每个词元交 KL 税 |
# | 同时在内存里 | 策略；打分可以另外做 | 策略、价值头、参考模型、奖励模型 |
# | 新写的零件 | 没有：采样加 SFT | 价值头、GAE、裁剪、KL 控制器 |
#
# 其实它也是强化学习：在每一轮的第一步，“只学最好的一条”的梯度，就是奖励为 1（被选中）或 0（没选中）的策略梯度；K 条互相比较，起了基线（baseline）的作用。从第二步起，写回复的已经不是当前的策略，PPO 会用概率比修正并裁剪，这里则不管。所以回答是：**不一定需要 PPO，但绕不开“自己写、有人评、再学习”这个循环**。冻结采样器的对照说明：不更新写的人，就有天花板。
#
# 第 09 课会让 PPO、GRPO、RLOO、DPO 和拒绝采样用同样多的样本比一比。

# %% [markdown] tags=["en"]
# The nearer to the upper left, the better. Three things to keep in mind:
#
# - The KL of best-of-K is the **ideal** one: choosing moves only what it has to. SFT approximates it from finite samples and pays for the drift on top; the flat line of the random pick is pure drift.
# - But best-of-K has to write K responses for each one it hands in, and however large K, its KL only grows with $\log K$; a trained policy writes one, and round after round it can go further.
# - There is no KL in the loss. To pay less: more samples, a lower learning rate, fewer rounds, or PPO with its KL penalty after all.
#
# What sets it apart from PPO?
#
# | | rejection sampling | PPO |
# |---|---|---|
# | what is learnt from | the best response only, the others are thrown away | more of the good, less of the bad: every response counts |
# | where the credit goes | to the response as a whole | advantages share it out among the tokens |
# | distance to the reference | no constraint, it depends on how long one trains | every token pays a KL tax |
# | in memory at once | the policy; scoring can happen elsewhere | policy, value head, reference, reward model |
# | new parts | none: sampling and SFT | value head, GAE, clipping, KL controller |
#
# In fact it is reinforcement learning as well: at the first step of a round, the gradient of "learn the best one only" is the policy gradient for a reward of 1 (picked) or 0 (not picked), and comparing the K with each other acts as a baseline. From the second step on, the policy is no longer the one that wrote the responses; PPO corrects with ratios and clips, here nobody minds. So the answer is: **PPO is not a must, but there is no way around the loop of writing, being judged and learning**. The control with the frozen sampler shows that where the writer is never renewed there is a ceiling.
#
# Lesson 09 lets PPO, GRPO, RLOO, DPO and rejection sampling compete on the same number of samples.

# %% [markdown] tags=["zh"]
# ## 11 小结
#
# - 拒绝采样 = 写 K 条、留最好的、SFT，再用新策略重来；三步都是现成的零件。
# - 最好的一条能高多少，训练前就能算：$\mathbb{E}[\max] = K\int x F^{K-1} dF$，要**逐个提示**算，用无偏的估计。
# - K 选一的 KL 不超过 $\log K - (K-1)/K$；SFT 学出来的策略没有这个保证。
# - 没有对照就没有结论：随机挑告诉我们漂移有多大，冻结的采样器告诉我们循环值多少。
# - 交给 SFT 的应当是采样时的词元；别给没写完的回复补 EOS。

# %% [markdown] tags=["en"]
# ## 11 Summary
#
# - Rejection sampling = write K, keep the best, SFT, and again with the new policy; all three parts come off the shelf.
# - How much the best one gains can be computed before training: $\mathbb{E}[\max] = K\int x F^{K-1} dF$, **prompt by prompt**, with the unbiased estimate.
# - Best-of-K costs at most $\log K - (K-1)/K$ of KL; a policy that SFT taught has no such guarantee.
# - Without controls there is no conclusion: the random pick tells how large the drift is, the frozen sampler what the loop is worth.
# - SFT should get the tokens that were sampled, and no EOS behind a response that was not finished.

# %% [markdown] tags=["zh"]
# ## 12 练习
#
# 把 `...` 换成你的答案再运行，批改结果马上出现。每题后面藏着一个参考答案，点开就能看。
#
# ### 练习 1（先预测，再对照）
#
# 假设 SFT 模仿得完美：学完以后，策略写出的正好就是“它的老师 K 选一”的分布。K = 8，三轮之后，策略相当于出发时的策略的 n 选一。n 是多少？三种做法各填一个数：采样器更新、采样器冻结、随机挑。（提示：最大值的分布是 $F^K$。下一轮再从它里面取 K 条。）

# %% [markdown] tags=["en"]
# ## 12 Exercises
#
# Replace `...` with your answer and run the cell; it is graded at once. A solution is hidden after each exercise; click to open it.
#
# ### Exercise 1 (predict, then compare)
#
# Suppose SFT imitates perfectly: afterwards the policy writes exactly the distribution "best of K of its teacher". With K = 8, after three rounds, the policy amounts to best-of-n of the policy at the start. What is n? One number for each of the three: refreshed sampler, frozen sampler, random pick. (Hint: the maximum is distributed as $F^K$. The next round draws its K from that.)

# %% tags=["exercise"]
refreshed, frozen, random_pick = ..., ..., ...
checks.e08_1(refreshed, frozen, random_pick)

# %% tags=["solution"] jupyter={"source_hidden": true}
answers = 8**3, 8, 1  # (F^8)^8 is F^64, and so on; a frozen teacher stays F^8; a random pick stays F
for answer in answers:
    print(f"best of {answer}: at most {rejection.best_of_kl(answer):.2f} nats")
print(
    {arm: f"gain {gain[arm]:+.2f}, KL {kl[arm]:.2f}" for arm in runs}
)  # what was measured, K and rounds of the profile
checks.e08_1(*answers).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 2（找错：不动的计数器）
#
# 下面的循环想给每个提示挑一条最好的，每次处理 `size` 个提示。它不报错，返回的条数也对，训练能跑，损失也降。可是这样训练出来的策略只见过几个提示。找出错误，写出正确的 `collect`。（提示的总数不一定是 `size` 的整数倍；`sample(batch, k)` 返回每个提示的 k 条回复，`score(texts)` 返回每条完整文本的分数。）

# %% [markdown] tags=["en"]
# ### Exercise 2 (find the bug: the counter that never moves)
#
# The loop below is meant to pick the best response to every prompt, `size` prompts at a time. It raises nothing, it returns the right number of pairs, training runs and the loss falls. Yet a policy trained like this has seen a few prompts only. Find the bug and write the right `collect`. (The number of prompts need not be a multiple of `size`; `sample(batch, k)` returns k responses for every prompt, `score(texts)` one score per whole text.)


# %%
def buggy_collect(prompts, size, k, sample, score):
    """prompts: list of str -> [(prompt, best response), ...], one for every prompt."""
    pairs, start = [], 0
    while len(pairs) < len(prompts):
        batch = prompts[start : start + size]
        for prompt, responses in zip(batch, sample(batch, k), strict=True):
            scores = score([prompt + response for response in responses])
            pairs.append((prompt, responses[scores.index(max(scores))]))
    return pairs[: len(prompts)]


# %% tags=["exercise"]
def collect(prompts, size, k, sample, score): ...  # your code


checks.e08_2(collect)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_2(prompts, size, k, sample, score):
    pairs = []
    for start in range(0, len(prompts), size):  # the counter moves by itself
        batch = prompts[start : start + size]
        for prompt, responses in zip(batch, sample(batch, k), strict=True):
            scores = score([prompt + response for response in responses])
            pairs.append((prompt, responses[scores.index(max(scores))]))
    return pairs


checks.e08_2(solution_2).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 3（找错：按位置取分数）
#
# 打分的流水线给每条文本返回两个标签和各自的 logit，**按分数从高到低排**。看两条文本的输出：

# %% [markdown] tags=["en"]
# ### Exercise 3 (find the bug: the score chosen by position)
#
# The scoring pipeline returns two labels for every text, each with its logit, **sorted by score**. Look at what it says about two texts:

# %%
classify = pipeline(
    "sentiment-analysis",
    model=reward_model.model,
    tokenizer=reward_model.tokenizer,
    top_k=None,  # all labels
    function_to_apply="none",  # raw logits
)
outputs = classify(["this movie was really good!!", "this movie was really bad!!"])
for output in outputs:
    print([f"{each['label']} {each['score']:+.2f}" for each in output])

# %% [markdown] tags=["zh"]
# 下面的函数想从 K 条回复里挑出最像好评的一条。它挑出来的，有时是最狠的差评。为什么？写出正确的 `best_of`：输入是 K 条回复的流水线输出，返回最好的那条的**下标**。

# %% [markdown] tags=["en"]
# The function below is meant to pick the response that sounds most like praise. What it picks is sometimes the harshest criticism. Why? Write the right `best_of`: from the pipeline's output for K responses, return the **index** of the best one.


# %%
def buggy_best_of(outputs):
    """outputs: per response a list of {"label": …, "score": …} -> index of the best response."""
    scores = [output[0]["score"] for output in outputs]
    return scores.index(max(scores))


# %% tags=["exercise"]
def best_of_outputs(outputs): ...  # your code


checks.e08_3(best_of_outputs)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_3(outputs):
    scores = [{each["label"]: each["score"] for each in output}["POSITIVE"] for output in outputs]
    return scores.index(max(scores))


sample_of = classify([one.prompts[0] + text for text in one.texts])  # the K responses of section 2
for pick in (buggy_best_of, solution_3):
    print(f"{pick.__name__}: {one.scores[0, pick(sample_of)]:+.2f} {one.texts[pick(sample_of)]}")
checks.e08_3(solution_3).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 4（期望最大值）
#
# 写出第 3 节的估计：从 N 个分数估计 K 条里最高分的期望，无偏，而且 N = 200 也要很快（不能枚举）。

# %% [markdown] tags=["en"]
# ### Exercise 4 (the expected maximum)
#
# Write the estimate of section 3: the expected best of K from N scores, unbiased, and fast at N = 200 too (no going through all the ways).


# %% tags=["exercise"]
def expected_best(scores, k): ...  # your code


checks.e08_4(expected_best)

# %% tags=["solution"] jupyter={"source_hidden": true}
from math import comb


def solution_4(scores, k):
    ordered, total = sorted(scores), comb(len(scores), k)
    return sum(score * comb(i, k - 1) for i, score in enumerate(ordered)) / total  # i scores are below it


checks.e08_4(solution_4).must_pass()

# %% [markdown] tags=["zh"]
# ## 13 延伸阅读
#
# - Touvron et al. 2023，[Llama 2](https://arxiv.org/abs/2307.09288)：3.2.3 节是这一课的做法；图 7 是 K 条里的最高分，图 8 是采样温度的影响。他们后来让每一轮也能用以前各轮的好样本，否则有的能力会退步。
# - Stiennon et al. 2020，[Learning to summarize from human feedback](https://arxiv.org/abs/2009.01325)：附录里用到 $\log n - (n-1)/n$。
# - Beirami et al. 2024，[Theoretical guarantees on the best-of-n alignment policy](https://arxiv.org/abs/2401.01879)：它是上界，不是等式。
# - Gao et al. 2022，[Scaling Laws for Reward Model Overoptimization](https://arxiv.org/abs/2210.10760)：挑得太狠，代理奖励还在涨，真正的质量却在跌。
# - Dong et al. 2023，[RAFT](https://arxiv.org/abs/2304.06767)，以及 Gulcehre et al. 2023，[ReST](https://arxiv.org/abs/2308.08998)：同一个循环的另外两种样子。
# - Chen et al. 2021，[Evaluating Large Language Models Trained on Code](https://arxiv.org/abs/2107.03374)：pass@k 的无偏估计，和练习 4 是同一个想法。

# %% [markdown] tags=["en"]
# ## 13 Further reading
#
# - Touvron et al. 2023, [Llama 2](https://arxiv.org/abs/2307.09288): section 3.2.3 is the recipe of this lesson; figure 7 shows the best of K, figure 8 the effect of the sampling temperature. Later they let every round use good samples of earlier rounds as well, because some abilities had got worse.
# - Stiennon et al. 2020, [Learning to summarize from human feedback](https://arxiv.org/abs/2009.01325): the appendix uses $\log n - (n-1)/n$.
# - Beirami et al. 2024, [Theoretical guarantees on the best-of-n alignment policy](https://arxiv.org/abs/2401.01879): it is an upper bound, not an equation.
# - Gao et al. 2022, [Scaling Laws for Reward Model Overoptimization](https://arxiv.org/abs/2210.10760): choose too hard, and the proxy reward still rises while true quality falls.
# - Dong et al. 2023, [RAFT](https://arxiv.org/abs/2304.06767), and Gulcehre et al. 2023, [ReST](https://arxiv.org/abs/2308.08998): two other forms of the same loop.
# - Chen et al. 2021, [Evaluating Large Language Models Trained on Code](https://arxiv.org/abs/2107.03374): the unbiased estimate of pass@k, the same idea as exercise 4.
