# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] tags=["zh"]
# # 10 评估
#
# **这一课回答的问题**：真的变好了吗？平均分涨了，只说明打分的人更满意。这一课请别的评委来两两比较，再反过来审一审评委：它看位置吗，看长度吗，和别人意见一致吗，压力之下还靠得住吗？
#
# **需要什么**
#
# | 配置（profile） | 硬件 | 时间 |
# |---|---|---|
# | `offline`（默认） | 2 个 CPU 核 | 大约 2 分钟，不联网，不要密钥 |
# | `imdb` | 2 个 CPU 核，或一块 GPU | 没有量过 |
# | `full` | 一块 GPU | 没有在这里运行过 |
#
# 三种配置运行的是同样的单元格。先读过[第 00 课](00_overview.ipynb)就够了；跑过第 04、05、07、08 课的话，这里评的就是你自己的成果。

# %% [markdown] tags=["en"]
# # 10 Evaluation
#
# **The question of this lesson**: is it really better? A mean score that went up only says that whoever scores is more pleased. Here other judges compare pairs, and then the judges are examined: do they look at the place, at the length, do they agree with each other, and can they be trusted under pressure?
#
# **What you need**
#
# | profile | hardware | time |
# |---|---|---|
# | `offline` (default) | 2 CPU cores | about 2 minutes, no network, no key |
# | `imdb` | 2 CPU cores, or one GPU | not timed |
# | `full` | one GPU | not run here |
#
# All three run the same cells. [Lesson 00](00_overview.ipynb) is all the preparation needed; if you have run lessons 04, 05, 07 and 08, it is your own results that are judged here.

# %% tags=["setup"]
import time

from rlhf import checks, evaluate, pictures, profiles, report  # before torch: idle threads then sleep

started = time.perf_counter()
setup = profiles.setup("10_evaluation")

# %%
import hashlib
import inspect
import itertools
import json
import math
import shutil
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import yaml
from IPython.display import display
from transformers import AutoTokenizer

from rlhf import judge, promise, rejection, sft
from rlhf import reward_model as step_2
from rlhf.baselines import listed_words
from rlhf.files import folder_mark
from rlhf.judge import Always, EndpointJudge, Faults, Judgements, Question, RewardJudge, judge_pairs, serve
from rlhf.rewards import PairwiseReward, SentimentReward, WordJudge

plt.style.use(pictures.STYLE)

# %% [markdown] tags=["zh"]
# ## 1 选手和评委
#
# **选手**（contestant）是四个策略（policy）：出发时的策略、第 04 课的 SFT、第 07 课的 PPO、第 08 课的拒绝采样（rejection sampling）。后三个按名字在 `output/` 里找；哪个不在，这里就用同一个函数训练一个小的，留着下次用。

# %% [markdown] tags=["en"]
# ## 1 Contestants and judges
#
# The **contestants** are four policies: the one at the start, SFT of lesson 04, PPO of lesson 07, rejection sampling of lesson 08. The last three are looked up in `output/` by name; if one is missing, the same function trains a small one here, which is kept for the next time.

# %%
policy, tokenizer = sft.load_policy(setup.policy, setup.device)
small = setup.sizes["small"]


def fits(folder):
    """Is there a model that speaks this profile's tokens?"""
    return folder.is_dir() and AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()


def find(name, train):
    """output/<name>, or what an earlier run of this lesson has trained, or what ``train(folder)`` trains."""
    for folder in (profiles.root() / "output" / name, setup.output / name):
        if fits(folder):
            print("found", folder.relative_to(profiles.root()))
            return folder
    print("trained here, small:", name)
    return train(setup.output / name)


# %%
def small_rejection(folder):
    config = rejection.RejectionConfig.of(small["rejection"])
    rejection.train_rounds(setup, config, folder=folder)
    return folder


def small_reward(folder):
    pairs = step_2.make_pairs(setup)
    return step_2.train(setup, pairs | {"train": pairs["train"].select(range(small["pairs"]))}, folder)


# %%
folders = {
    "SFT": find("sft_1", lambda folder: sft.train_sft(setup, small["sft"], folder=folder)),
    "PPO": find("ppo_3", lambda folder: promise.short_ppo(setup)),
    "rejection": find("rs_4", small_rejection),
}
rm_2 = find("rm_2", small_reward)

# %% [markdown] tags=["zh"]
# 四位选手回答同样的留出提示（held-out prompts），长度上限和随机种子也相同：

# %% [markdown] tags=["en"]
# All four answer the same held-out prompts, with the same length limits and the same random seed:

# %%
prompts = evaluate.held_out_prompts(setup, tokenizer, seed=setup.seed)
lengths = evaluate.response_lengths(setup, len(prompts), seed=setup.seed)
queries = list(prompts["query"])
print(len(queries), "prompts; at most", lengths[:5], "… tokens")

# %%
models = {"start": policy} | {name: sft.load_policy(at, setup.device)[0] for name, at in folders.items()}
rollouts = {
    name: evaluate.respond(model, tokenizer, prompts, lengths, seed=setup.seed)
    for name, model in models.items()
}
written = {name: rollout.texts(tokenizer) for name, rollout in rollouts.items()}

# %%
kl = {name: evaluate.response_kl(model, policy, rollouts[name]) for name, model in models.items()}  # (P,)
print({name: f"KL to the start {each.mean():.2f}" for name, each in kl.items()})

# %%
for row in range(3):
    print(repr(queries[row]))
    for name, texts in written.items():
        print(f"{name:>12}: {texts[row]!r}")

# %% [markdown] tags=["zh"]
# **评委**（judge）读一个提示和两条回复，说出 A、B 或平局。任何打分函数都可以当评委：谁的分高谁赢。这里有四位：
#
# | 评委 | 是什么 | 参与过训练吗 |
# |---|---|---|
# | `sentiment` | 情感分类器，第 07、08 课的奖励模型（reward model） | 参与过：那两课的 PPO 和拒绝采样照它的分数训练 |
# | `pairs` | 第 05 课从偏好对里学出来的奖励模型 | 一般没有；用 `make pipeline` 训练的，照的是它的分数 |
# | `words` | 词袋分类器，学的是没当过提示的测试影评 | 没有 |
# | `list` | 手写的褒贬词表，数一数 | 没有，它什么也没学过 |
#
# 照着谁训练，再请谁来评，就像考生自己改卷。参与过的只用来对照，结论听没参与过的。到底是谁，代码来查：

# %% [markdown] tags=["en"]
# A **judge** reads a query and two responses and says A, B or tie. Any function that scores can be one: the higher score wins. Four of them:
#
# | judge | what it is | did it take part in training? |
# |---|---|---|
# | `sentiment` | the sentiment classifier, reward model of lessons 07 and 08 | yes: PPO and rejection sampling of those lessons were trained on its scores |
# | `pairs` | the reward model that lesson 05 learnt from preference pairs | usually not; what `make pipeline` trains is trained on its scores |
# | `words` | a bag-of-words classifier that learnt from test reviews not behind any prompt | no |
# | `list` | a list of words of praise and blame, counted | no, it has never learnt anything |
#
# To be judged by whom one was trained on is to mark one's own exam. Judges that took part are here for comparison; conclusions are drawn from the others. Code finds out who is who:

# %%
sentiment = SentimentReward(setup.reward_model, device=setup.device)
words = WordJudge.fit(evaluate.judge_reviews(setup, prompts))
scorers = {"sentiment": sentiment, "pairs": PairwiseReward(rm_2, setup.device), "words": words}
scorers["list"] = listed_words
judges = {name: RewardJudge(score, name=name) for name, score in scorers.items()}


# %%
def teacher(folder):
    """Whose scores trained it: the classifier's in lessons 07 and 08; a recipe, if there is one, says."""
    recipe = folder / "recipe.yaml"
    named = yaml.safe_load(recipe.read_text())["reward_model"] if recipe.is_file() else "profile"
    return "sentiment" if named == "profile" else "pairs"


teachers = {name: teacher(folders[name]) for name in ("PPO", "rejection")}
neutral = [name for name in judges if name not in teachers.values()]
print("trained on the scores of", teachers, "→ neutral judges:", neutral)

# %%
example = Question("This movie ", "was a joy to watch.", "was a waste of time.")
print({name: each([example, example.swapped()]) for name, each in judges.items()})

# %% [markdown] tags=["zh"]
# ## 2 一对，问两次
#
# 评委也许偏爱某个位置。办法很老：**换位**（position swap）再问一次。候选者（candidate）先当 A，再当 B；两次都赢才算赢，两次都输才算输，其余都是平局。
#
# ![一对回复按两种顺序问两次，两个回答合成一个结果](../figs/10_swap.svg)

# %% [markdown] tags=["en"]
# ## 2 One pair, asked twice
#
# A judge may prefer a place. The remedy is an old one, the **position swap**: ask again the other way round. The candidate is first A, then B; a win is a win in both orders, a loss is a loss in both, and anything else is a tie.
#
# ![A pair of responses is asked about in both orders, and two answers make one outcome](../figs/10_swap.svg)

# %%
straight = ["A", "A", "B", "tie", "B", "A"]  # the candidate is A
swapped = ["B", "A", "A", "tie", "B", "B"]  # the candidate is B
worth = {("A", "B"): 1.0, ("B", "A"): 0.0}  # a win, a loss; anything else is half a point
points = [worth.get(pair, 0.5) for pair in zip(straight, swapped, strict=True)]
toy = Judgements((Question("q", "x", "y"),) * 6, tuple(straight), tuple(swapped))
assert points == toy.points.tolist()
print(points, toy.tally(), f"win rate {np.mean(points):.3f}")

# %% [markdown] tags=["zh"]
# **胜率**（win rate）= （胜 + 平 ÷ 2）÷ 全部。真的比一场：PPO 对出发时的策略，评委是 `words`。

# %% [markdown] tags=["en"]
# The **win rate** = (wins + ties ÷ 2) ÷ all. A real match: PPO against the policy at the start, judged by `words`.

# %%
print(inspect.getsource(judge.both_orders).split('"""')[2])
match = judge_pairs(judges["words"], queries, written["PPO"], written["start"], ("PPO", "start"))
rate = judge.win_rate(match)
print(rate)
print("Wilson interval [{:.3f}, {:.3f}]; sign test p = {:.2g}".format(*rate.wilson, rate.p))

# %% [markdown] tags=["zh"]
# 三个数说的是同一件事的三个方面：
#
# - 方括号里是**自助法区间**（bootstrap interval）：把提示反复重抽，胜率会落在哪里。
# - **Wilson 区间**：哪些真实的胜率，会让现在这个结果不算稀奇。
# - **符号检验**（sign test）的 p：若两边势均力敌，胜负这样悬殊（或更悬殊）有多大可能。平局不算在内。
#
# ### 2.1 一个只会答 B 的评委
#
# 下面这位评委根本不读，永远答 B。先看只问一种顺序会怎样：

# %% [markdown] tags=["en"]
# Three numbers about three sides of one thing:
#
# - In brackets, the **bootstrap interval**: where the win rate falls when the prompts are drawn again and again.
# - The **Wilson interval**: the true win rates under which a result like this one would be no surprise.
# - p of the **sign test**: if both sides were equals, how likely is a split of wins and losses as uneven as this, or more. Ties do not count.
#
# ### 2.1 A judge that only says B
#
# The next judge does not read at all: it always says B. First look at what a single order would make of it:

# %%
blind = judge_pairs(Always("B"), queries, written["PPO"], written["start"])
for name, answers, place in (("PPO shown as A", blind.straight, "A"), ("PPO shown as B", blind.swapped, "B")):
    print(f"one order, {name}: PPO wins {answers.count(place) / len(answers):.0%}")
fooled = judge.win_rate(blind)
print("both orders:", fooled)
print("Wilson interval [{:.3f}, {:.3f}]".format(*fooled.wilson))
print(judge.order_bias(blind))

# %% [markdown] tags=["zh"]
# 只问一种顺序，PPO 要么全输要么全赢，全看它坐在哪里。换位以后，胜率正好是 0.5。
#
# 但是看那个自助法区间：它缩成了一个点，好像确凿无疑。每一对的结果都一样（平局），重抽多少次也还是一样，自助法就看不见不确定性。Wilson 区间不会这样。**结果整齐得可疑的时候，不要相信自助法。**
#
# ### 2.2 顺序偏差
#
# 真正说明问题的是**顺序偏差**（order bias）：在 A 和 B 这些回答里，B 占多少？每一对都换过位置，谁好谁坏已经抵消，不看位置的评委应当在 0.5 附近。`order_bias` 还会算出不看位置时 95% 会落进去的范围，落在外面就判为有偏。（如果每一对在两种顺序下结果都相同，A 和 B 就必然各占一半，这个范围缩成 0.5 一个点。）
#
# 现实中的评委没有这么极端，它们只是**偏向**某个位置。造一个：给坐在 B 的回复加一点分。

# %% [markdown] tags=["en"]
# Asked in one order only, PPO loses or wins everything, depending on where it sits. After swapping, the win rate is 0.5 exactly.
#
# But look at the bootstrap interval: it has shrunk to a point, as if there were no doubt at all. All pairs ended alike, as ties, and however often they are drawn again they still do, so the bootstrap sees no uncertainty. The Wilson interval does. **Where results are suspiciously uniform, do not trust a bootstrap.**
#
# ### 2.2 Order bias
#
# What gives the judge away is its **order bias**: among the answers A and B, how many are B? Every pair was swapped, so who is better cancels out, and a judge that ignores the place should be near 0.5. `order_bias` also computes where it would fall in 95% of cases without a bias; outside of that it is called biased. (Where every pair has the same outcome in both orders, A and B must come up equally often, and that range shrinks to 0.5.)
#
# Real judges are not so extreme, they only **lean** towards a place. Let us build one: whatever sits at B gets a bonus.


# %%
class Leaning:
    """Adds ``bonus`` to the score of whatever is shown as B."""

    def __init__(self, reward, bonus):
        self.reward, self.bonus, self.name = reward, bonus, f"leans {bonus:.1f}"

    def __call__(self, questions):
        a = self.reward([question.query + question.a for question in questions])  # (N,)
        b = self.reward([question.query + question.b for question in questions])  # (N,)
        ahead = (b + self.bonus - a).tolist()
        return ["tie" if not each else "B" if each > 0 else "A" for each in ahead]


# %%
spread = words([q + r for q, r in zip(queries, written["start"], strict=True)]).std().item()
print(f"standard deviation of the scores: {spread:.2f}")

# %%
rows = {}
for bonus in (0, 0.5, 1, 2, 4):
    leaning = judge_pairs(Leaning(words, bonus * spread), queries, written["PPO"], written["start"])
    bias = judge.order_bias(leaning)
    rows[bonus] = {
        "PPO shown as A": leaning.straight.count("A") / len(leaning),
        "PPO shown as B": leaning.swapped.count("B") / len(leaning),
        "both orders": judge.win_rate(leaning).rate,
        "share of B": bias.share_b,
        "permitted up to": bias.permitted[1],
        "biased": bias.biased,
        "same in both orders": bias.consistent,
    }
lean = pd.DataFrame(rows).T
lean.index.name = "bonus, in standard deviations"
lean

# %%
figure, axes = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
for column, style in (("PPO shown as A", "C1--"), ("PPO shown as B", "C2--"), ("both orders", "C0-")):
    axes.plot(lean.index, lean[column].astype(float), style, marker="o", label=column)
axes.plot(lean.index, lean["share of B"].astype(float), "C7:", label="share of B")
axes.axhline(0.5, color="C7", lw=0.8)
axes.set(xlabel="bonus of place B, in standard deviations of the scores", ylabel="win rate", ylim=(0, 1.02))
axes.legend(ncols=2)
plt.show()
assert not lean["biased"][0] and lean["biased"][4]

# %% [markdown] tags=["zh"]
# 两条虚线是只问一种顺序的结果，越偏越离谱，方向还相反。实线是换位以后的：偏差被除掉了，代价是矛盾的对变成平局，胜率被拉向 0.5。换位**修正**偏差，却不能让不读的评委读起来；所以胜率旁边，总要写上“两种顺序结果相同”的比例。
#
# 奖励模型当评委，两条回复是分开读的，所以不会有顺序偏差。把两条放在一起读的聊天模型就会有（第 5 节）。
#
# ## 3 长度偏差
#
# 第二种常见的偏差：长的赢。怎么查？让**同一个**策略写两遍，一遍短，一遍长（词元数的上限翻倍），好坏应当差不多。再加一位只数词数的评委，看看极端是什么样子：

# %% [markdown] tags=["en"]
# The dashed lines ask in one order only; the stronger the bias, the wilder they get, and in opposite directions. The solid line is what swapping makes of it: the bias is gone, at the price of pairs that contradict themselves, which become ties and draw the win rate to 0.5. Swapping **corrects** a bias, it does not make a judge read who does not; so next to a win rate belongs the share of pairs with the same outcome in both orders.
#
# A reward model as a judge reads the two responses apart from each other and can have no order bias. A chat model that reads them side by side can (section 5).
#
# ## 3 Length bias
#
# The second common bias: the longer one wins. How to find out? Let **one and the same** policy write twice, short and long (twice the limit in tokens); they should be about equally good. A judge that only counts words joins in, to show what the extreme looks like:

# %%
longer = evaluate.respond(policy, tokenizer, prompts, [2 * n for n in lengths], seed=setup.seed + 1)
long_texts = longer.texts(tokenizer)
counter = RewardJudge(lambda texts: [len(text.split()) for text in texts], name="counts words")
for name, texts in (("short", written["start"]), ("long", long_texts)):
    print(f"{name}: {np.mean([len(text.split()) for text in texts]):.1f} words on average")

# %%
rows = {}
for name, each in (judges | {"counts words": counter}).items():
    judged = judge_pairs(each, queries, long_texts, written["start"], ("long", "short"))
    bias, rate = judge.length_bias(judged), judge.win_rate(judged)
    rows[name] = {
        "long wins": f"{rate.rate:.2f} [{rate.low:.2f}, {rate.high:.2f}]",
        "longer wins": f"{bias.longer_wins:.2f} [{bias.low:.2f}, {bias.high:.2f}]",
        "log-odds": f"{bias.coefficient:+.2f} [{bias.coefficient_low:+.2f}, {bias.coefficient_high:+.2f}]",
        "at equal length": round(bias.at_equal_length, 2),
        "length matters": not bias.coefficient_low <= 0 <= bias.coefficient_high,
    }
pd.DataFrame(rows).T

# %% [markdown] tags=["zh"]
# - `longer wins`：分出胜负、长度又不同的那些对里，长的赢了多少。
# - `log-odds`：每长一个词，赢面（对数几率）加多少；区间跨过 0，就看不出长度有影响。
# - `at equal length`：按同一条逻辑曲线，假如两边一样长，胜率是多少。这就是长度控制的胜率（length-controlled win rate）的想法。只数词数的那一行不必当真：胜负完全由长度决定，就没有“一样长时谁赢”可言。
#
# 影评长了，褒贬也更清楚，分数的好坏两头都会拉开；只有平均地往上抬，才是长度偏差。这一课的比赛里，四位选手的长度上限相同，差别只在谁更早写完，所以长度在这里帮不了谁多少。换一个任务，先做这个检查。
#
# ## 4 评委之间一致吗
#
# 四位评委都说 PPO 赢，是不是就够了？如果他们看的是同一样东西，四位也只算一位；如果他们各说各话，多数票又没有意义。**一致性**（agreement）量的就是这个。先把六场比赛（四位选手两两相遇）让每位评委都评一遍：

# %% [markdown] tags=["en"]
# - `longer wins`: of the pairs that were decided and differ in length, how many the longer one won.
# - `log-odds`: how much the odds (their logarithm) rise for each further word; where the interval holds 0, no effect of the length can be seen.
# - `at equal length`: by the same logistic curve, the win rate if both were equally long. This is the idea of the length-controlled win rate. In the row of the judge that counts words it means nothing: where length decides everything, there is no telling who would win at equal length.
#
# In a longer review praise and blame come out more clearly, so scores spread in both directions; it is a length bias only if they rise on average. In the matches of this lesson all four contestants have the same limits, and lengths differ only by who finishes early, so length cannot help anybody much. In another task, make this check first.
#
# ## 4 Do the judges agree?
#
# Four judges say that PPO wins; is that enough? If all of them look at the same thing, four are as good as one; if each says something else, a majority means nothing. **Agreement** measures that. First every judge judges all six matches (four contestants, each against each):

# %%
matches = {name: judge.round_robin(each, queries, written) for name, each in judges.items()}
outcomes = {name: [o for match in six for o in match.outcomes] for name, six in matches.items()}
print({name: len(labels) for name, labels in outcomes.items()})
pd.DataFrame({name: Counter(labels) for name, labels in outcomes.items()}).fillna(0).astype(int)

# %% [markdown] tags=["zh"]
# 一致的比例会骗人：两位评委若都几乎总说“赢”，闭着眼睛也会一致。**Cohen 的 kappa** 把靠运气的那部分去掉：
#
# $$\kappa = \frac{p_{\text{same}} - p_{\text{chance}}}{1 - p_{\text{chance}}}$$
#
# 1 是完全一致，0 是和运气一样。手算一个小例子：

# %% [markdown] tags=["en"]
# Raw agreement deceives: two judges that nearly always say "win" agree with their eyes closed. **Cohen's kappa** takes off what chance gives:
#
# $$\kappa = \frac{p_{\text{same}} - p_{\text{chance}}}{1 - p_{\text{chance}}}$$
#
# 1 is perfect agreement, 0 is what chance gives. A small case by hand:

# %%
one = ["win", "win", "win", "win", "loss", "win", "tie", "win"]
other = ["win", "win", "win", "loss", "loss", "win", "win", "win"]
same = np.mean([x == y for x, y in zip(one, other, strict=True)])
chance = sum(one.count(kind) * other.count(kind) for kind in set(one)) / len(one) ** 2
kappa = (same - chance) / (1 - chance)
assert abs(kappa - judge.agreement(one, other).kappa) < 1e-9
print(f"same {same:.3f}, by chance {chance:.3f}, kappa {kappa:.3f}")

# %%
names = list(judges)
agreed = {
    (x, y): judge.agreement(outcomes[x], outcomes[y], resamples=500)
    for x, y in itertools.combinations(names, 2)
}
table = pd.DataFrame(np.eye(4), names, names)
for (x, y), each in agreed.items():
    table.loc[x, y] = table.loc[y, x] = each.kappa
print(f"highest {np.triu(table, 1).max():.2f}")

# %%
figure, axes = plt.subplots(figsize=(4.2, 3.4), layout="constrained")
axes.imshow(table, vmin=0, vmax=1, cmap="Blues")
axes.grid(False)
axes.set(xticks=range(4), yticks=range(4), xticklabels=names, yticklabels=names, title="Cohen's kappa")
for x, y in itertools.product(range(4), repeat=2):
    value = table.iloc[x, y]
    axes.text(y, x, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.5 else "black")
plt.show()

# %%
for (x, y), each in agreed.items():
    print(f"{x:>9} and {y:<6}: {each}")

# %% [markdown] tags=["zh"]
# 每一行都印出了一致的比例和运气的比例，两者的差才是内容。（六场里同一个提示出现六次，并不独立，所以这些区间偏窄。）再对照前面的胜负表：一位评委若大多判平局，它的 kappa 就低。`list` 正容易这样：回复短，里面常常没有一个表上的词，两边都是 0 分。
#
# 没有“及格线”：人和人评摘要，一致的比例也不过 70% 左右。要紧的是先知道评委之间有多一致，再看胜率：它离 0.5 的距离若比评委之间的分歧还小，就别下结论。
#
# ## 5 请聊天模型当评委
#
# 现实里最常用的评委是大的聊天模型。它有礼貌、会解释，也会出各种状况：答非所问、限流（HTTP 429）、超时、收费。这一节用官方的 `openai` 客户端去问一个 OpenAI 式的接口（endpoint），而接口就开在本机，不联网，不要密钥：
#
# ![从两种顺序的问题，经过缓存、上限和重试，到接口，再到读出来的回答](../figs/10_endpoint.svg)
#
# 问题是这样写的：

# %% [markdown] tags=["en"]
# Every line prints raw agreement and chance; what lies between them is the content. (Each prompt occurs in all six matches, which are not independent, so these intervals are rather narrow.) Compare the table of outcomes above: a judge that mostly says tie has a low kappa. It easily happens to `list`: responses are short, often hold no word of its list, and then both score 0.
#
# There is no pass mark: people who compare summaries agree on some 70% of pairs. What matters is to know how far judges agree before reading a win rate: where it differs from 0.5 by less than judges differ from each other, draw no conclusion.
#
# ## 5 A chat model as a judge
#
# The judge most used in practice is a large chat model. It is polite, it explains itself, and it has troubles of every kind: answers beside the point, rate limits (HTTP 429), timeouts, a bill. This section asks an OpenAI-compatible endpoint through the official `openai` client; the endpoint runs on this machine, without network and without a key:
#
# ![From questions in both orders, through cache, cap and retries, to an endpoint and to the answers read from it](../figs/10_endpoint.svg)
#
# A question reads like this:

# %%
asked = setup.sizes["asked"]
sides = queries[:asked], written["PPO"][:asked], written["start"][:asked]
questions = judge.both_orders(*sides)
print(judge.to_prompt(questions[0]))

# %% [markdown] tags=["zh"]
# 回答是一段文字，要读成 A、B 或平局。读不出来的叫**无效回答**（malformed answer），计数，绝不猜：

# %% [markdown] tags=["en"]
# The answer is a text that has to be read as A, B or tie. What cannot be read is a **malformed answer**: it is counted, never guessed:

# %%
for text in ("[[A]]", "B is warmer, so [[B]].", "[[C]]", "A film to love!", "[[A]] or [[B]]", ""):
    print(f"{text!r:26} → {judge.read_answer(text)}")

# %% [markdown] tags=["zh"]
# 第四条以 A 开头，可那个 A 是冠词。取第一个字母的程序会把它当成 A，于是坐在 A 的那一方白得一分（练习 3）。
#
# ### 5.1 服务器、账单、上限
#
# 本机的服务器背后是情感分类器，它按要求**使坏**：20% 的问题得到无效回答，10% 第一次遇到 429，少数第一次超时。模型的名字里带着奖励模型的指纹（fingerprint）：答案存在磁盘上，换了模型，名字就变，旧答案不会冒充新的。

# %% [markdown] tags=["en"]
# The fourth begins with A, but that A is an article. A program that takes the first letter reads it as A, a free point for whoever sits there (exercise 3).
#
# ### 5.1 A server, a bill, a cap
#
# Behind the server on this machine is the sentiment classifier, and it **misbehaves** on request: 20% of the questions get a malformed answer, 10% meet a 429 at first, a few time out at first. The model's name holds a fingerprint of the reward model: answers are kept on disk, and with another model the name changes, so that no old answer passes for a new one.

# %%
mark = hashlib.sha256(json.dumps(folder_mark(setup.reward_model)).encode()).hexdigest()[:8]
served, cache = f"sentiment-{mark}", setup.output / "answers"
faults = Faults(malformed=0.2, busy=0.1, slow=0.03, delay=6.0)
shutil.rmtree(cache, ignore_errors=True)  # this lesson wants to see an empty cache
truth = Counter(faults.of(judge.to_prompt(question)) for question in questions)
print(served, dict(truth))

# %% [markdown] tags=["zh"]
# 问之前先估价。价格是每百万词元的（输入，输出），这里随便写了一个；估价往高里算。然后故意把上限（cap）定得太低：

# %% [markdown] tags=["en"]
# Before asking, estimate. Prices are per million tokens (in, out); the ones here are made up, and estimates err on the high side. Then the cap is set too low on purpose:

# %%
with serve(judges["sentiment"], served, faults) as server:
    settings = {"price": (0.15, 0.60), "cache": cache, "timeout": 4.0, "progress": False}
    thrifty = EndpointJudge(served, server.url, **settings)
    expected = thrifty.estimate(questions)
    print(expected)
    thrifty.max_cost = expected.cost / 6
    try:
        judge_pairs(thrifty, *sides, ("PPO", "start"))
    except judge.CapReached as stop:
        print(stop.en)
        print(stop.judgements.answers())
    asking = EndpointJudge(served, server.url, max_cost=expected.cost, **settings)  # a higher cap
    answered = judge_pairs(asking, *sides, ("PPO", "start"))
    again = EndpointJudge(served, server.url, **settings)
    judge_pairs(again, *sides)
    statuses = dict(server.statuses)

# %%
usage = pd.DataFrame([vars(each.usage) for each in (thrifty, asking, again)])
usage.index = ["with a cap too low", "with a higher cap", "once more"]
display(usage)
print("HTTP statuses sent:", statuses)
print(answered.answers(), answered.tally())
assert asking.usage.malformed == truth["malformed"] and asking.usage.failed == 0
assert again.usage.asked == 0 and again.usage.cached == len(questions)

# %% [markdown] tags=["zh"]
# 第二次从缓存里拿走已经付过钱的，只问剩下的；第三次一个问题也不用问。429 和超时由客户端等一等再问，所以 `failed` 是 0。无效回答的个数和服务器使坏的次数正好相等。
#
# ### 5.2 缺了的对怎么办
#
# 一对里有一个无效回答，这一对就不完整，不进胜率。这样做有个前提：**无效与谁赢无关**。保险的办法是给出两头：假如缺的全输，假如缺的全赢。

# %% [markdown] tags=["en"]
# The second run took what was paid for from the cache and asked the rest only; the third had nothing to ask. After a 429 or a timeout the client waits and asks again, so `failed` is 0. There are exactly as many malformed answers as the server made.
#
# ### 5.2 What about the pairs that are missing?
#
# A pair with one malformed answer is incomplete and enters no win rate. That assumes that **malformed has nothing to do with who wins**. To be safe, give both ends: what if all missing pairs were lost, and what if they were won?

# %%
points = answered.points  # (N,), NaN where an answer is missing
low, high = (np.nan_to_num(points, nan=value).mean() for value in (0.0, 1.0))
direct = judge.win_rate(judge_pairs(judges["sentiment"], *sides))
print("from the complete pairs:", judge.win_rate(answered))
print(f"whatever the missing ones are: {low:.3f} to {high:.3f}")
print("the same judge without HTTP:", direct)
assert low <= direct.rate <= high
print(judge.order_bias(answered))

# %% [markdown] tags=["zh"]
# ### 5.3 换成真正的接口
#
# 代码一行也不用改，只换名字、地址和密钥。密钥放在环境变量 `OPENAI_API_KEY` 里，或者写进仓库根目录的 `openai.key`（git 忽略它；若它被跟踪了，程序会拒绝读取）。不要写进笔记本。
#
# ```python
# chat = EndpointJudge("gpt-4o-mini", price=(0.15, 0.60), max_cost=0.50, requests_per_minute=300, cache=setup.output / "answers")
# print(chat.estimate(questions))  # look at the price first
# chat_match = judge_pairs(chat, *sides, ("PPO", "start"))
# ```
#
# 任何 OpenAI 式的接口都行，vLLM、Ollama 或 llama.cpp 的服务器也行：给出 `base_url`（通常以 `/v1` 结尾），或设置 `OPENAI_BASE_URL`。价格去查它当天的价目表。问完先看三样：`order_bias`、`length_bias`，以及和另一位评委的 `agreement`。
#
# ## 6 把所有比赛合成一个排名
#
# 四位选手六场比赛，能不能每人给一个数？**Bradley–Terry 模型**给选手 $i$ 一个实力 $s_i$：
#
# $$P(i\ \text{beats}\ j) = \sigma(s_i - s_j)$$
#
# 第 05 课见过它：奖励模型的损失就是它，那里的“选手”是回复，这里是策略。实力由最大似然求出。三位选手的小例子，用梯度下降求，再和库里的函数比：

# %% [markdown] tags=["en"]
# ### 5.3 A real endpoint
#
# No line of code changes, only the name, the address and the key. The key goes into the environment variable `OPENAI_API_KEY` or into the file `openai.key` at the root of the repository (git ignores it; should it be tracked, the program refuses to read it). Never into a notebook.
#
# ```python
# chat = EndpointJudge("gpt-4o-mini", price=(0.15, 0.60), max_cost=0.50, requests_per_minute=300, cache=setup.output / "answers")
# print(chat.estimate(questions))  # look at the price first
# chat_match = judge_pairs(chat, *sides, ("PPO", "start"))
# ```
#
# Any OpenAI-compatible endpoint will do, the servers of vLLM, Ollama or llama.cpp as well: give `base_url` (it usually ends in `/v1`), or set `OPENAI_BASE_URL`. Look up its prices of the day. When it has answered, look at three things first: `order_bias`, `length_bias`, and its `agreement` with another judge.
#
# ## 6 All matches in one ranking
#
# Four contestants, six matches: can each get one number? The **Bradley–Terry model** gives contestant $i$ a strength $s_i$:
#
# $$P(i\ \text{beats}\ j) = \sigma(s_i - s_j)$$
#
# Lesson 05 has met it: it is the reward model's loss, where the contestants are responses; here they are policies. Strengths are found by maximum likelihood. A small case of three, by gradient descent, compared with the package's function:

# %%
wins = {("x", "y"): (7, 3), ("y", "z"): (6, 4), ("x", "z"): (9, 1)}  # (won, lost) by the first
s = {name: torch.zeros((), requires_grad=True) for name in "xyz"}
step = torch.optim.LBFGS(s.values(), max_iter=100, line_search_fn="strong_wolfe")


def loss():
    step.zero_grad()
    total = 0
    for (i, j), (won, lost) in wins.items():  # plus one imagined tie, half a win for each side
        gap = s[i] - s[j]
        total = total - (won + 0.5) * gap.sigmoid().log() - (lost + 0.5) * (-gap).sigmoid().log()
    total.backward()
    return total


# %%
step.step(loss)
print({name: round(value.item(), 3) for name, value in s.items()}, "sum 0: only differences count")


def toy_match(i, j, won, lost):
    texts = tuple(Question(f"query {n}", "x", "y") for n in range(won + lost))
    return Judgements(texts, ("A",) * won + ("B",) * lost, ("B",) * won + ("A",) * lost, "toy", i, j)


# %%
ratings = judge.bradley_terry([toy_match(*names, *result) for names, result in wins.items()])
for name, strength in zip(ratings.names, ratings.strengths, strict=True):
    torch.testing.assert_close(s[name].item(), float(strength), atol=1e-3, rtol=0)
print(f"P(x beats z) = {ratings.probability('x', 'z'):.3f}, observed 0.9")

# %% [markdown] tags=["zh"]
# 多想象一场平局（每人半胜），全胜的选手就不会得到无穷大的实力。现在是真的六场，四位评委各排一次；区间由重抽提示得到：

# %% [markdown] tags=["en"]
# One imagined tie per match, half a win for each side, keeps a contestant that always wins from being infinitely strong. Now the real six matches, ranked by each of the four judges; the intervals come from drawing the prompts again:

# %%
ranking = {name: judge.bradley_terry(six) for name, six in matches.items()}
for name, ratings in ranking.items():
    print(name, {who: round(points) for who, points in ratings.elo().items()}, "on the scale of chess")
    print(ratings)

# %%
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for place, (name, ratings) in enumerate(ranking.items()):
    order = [ratings.names.index(who) for who in written]
    middle, low, high = (part[order] for part in (ratings.strengths, ratings.low, ratings.high))
    across = np.arange(4) + 0.14 * (place - 1.5)
    axes.errorbar(across, middle, (middle - low, high - middle), fmt="o", capsize=3, label=name)
axes.set(xticks=range(4), xticklabels=list(written), ylabel="strength, log-odds")
axes.axhline(0, color="C7", lw=0.8)
axes.legend(title="judge", loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown] tags=["zh"]
# 一个数能不能说清六场？把模型预言的胜率和每场实际的胜率摆在一起，差得多，就说明“剪刀石头布”式的相克，排名会骗人：

# %% [markdown] tags=["en"]
# Can one number each tell about all six matches? Put the win rates that the model predicts next to those of each match; where they differ much, contestants beat each other in a circle, and a ranking deceives:

# %%
rows = [
    {
        "match": f"{m.candidate} – {m.opponent}",
        "win rate": judge.win_rate(m).rate,
        "Bradley–Terry": ranking["words"].probability(m.candidate, m.opponent),
    }
    for m in matches["words"]
]
predicted = pd.DataFrame(rows).set_index("match")
print(f"largest difference {(predicted['win rate'] - predicted['Bradley–Terry']).abs().max():.3f}")
predicted.round(3)

# %% [markdown] tags=["zh"]
# 前两名分得出高下吗？让代码说，每位评委一句：

# %% [markdown] tags=["en"]
# Can the first two be told apart? Let code say it, one line for each judge:

# %%
for name, six in matches.items():
    first, second = ranking[name].names[:2]
    top = next(m for m in six if {m.candidate, m.opponent} == {first, second})
    result = judge.win_rate(top)
    share = result.rate if top.candidate == first else 1 - result.rate
    clear = "clearly" if result.low > 0.5 or result.high < 0.5 else "not clearly (the interval holds 0.5)"
    print(f"{name:>9}: {first} before {second}, {share:.2f} of the points, {clear}")

# %% [markdown] tags=["zh"]
# ## 7 过度优化：评委被优化的时候
#
# 古德哈特定律（Goodhart's law）：一个指标一旦成了目标，就不再是好指标。奖励模型是真正的好坏的**代理**（proxy）；照着它挑得越狠，挑中的就越是它看走眼的。起先两者一起涨；再往后，代理还在涨，真的却跌了。这叫**过度优化**（over-optimisation）。
#
# 我们真做一遍。代理：只学过一小部分偏好对的弱奖励模型。**黄金**（gold）标准：情感分类器，它没有参与代理的训练，这里也不拿它来挑；`words` 是第二个黄金标准。优化的办法是 n 选一（best-of-n），n 越大，压力越大；代价是 KL：
#
# $$\mathrm{KL} \le \log n - \frac{n-1}{n}$$

# %% [markdown] tags=["en"]
# ## 7 Over-optimisation: when the judge is what is optimised
#
# Goodhart's law: once a measure becomes a target, it ceases to be a good measure. A reward model is a **proxy** for what is truly good; the harder one picks by it, the more one picks what it is wrong about. At first both rise; then the proxy still rises while the truth falls. That is **over-optimisation**.
#
# Here it is done for real. The proxy: a weak reward model that has learnt from a fraction of the pairs. The **gold** standard: the sentiment classifier, which had no part in training the proxy and does no picking here; `words` is a second gold standard. The optimiser is best-of-n: the larger n, the harder the pressure; the price is KL:
#
# $$\mathrm{KL} \le \log n - \frac{n-1}{n}$$

# %%
weak = setup.sizes["weak"]
pairs = step_2.make_pairs(setup)
splits = {"train": pairs["train"].select(range(weak["pairs"])), "test": pairs["test"]}
trainer = step_2.new_trainer(
    setup, splits, step_2.load_tokenizer(setup.policy), num_train_epochs=weak["epochs"], disable_tqdm=True
)
print(f"{trainer.train().global_step} updates on {weak['pairs']} pairs")

# %%
proxy = PairwiseReward(step_2.save(setup, trainer, splits, setup.output / "weak_rm"), setup.device)
right = {
    name: np.mean((each(splits["test"]["chosen"][:]) > each(splits["test"]["rejected"][:])).numpy())
    for name, each in (("proxy", proxy), ("rm_2", scorers["pairs"]))
}
print("right on held-out pairs:", {k: f"{v:.1%}" for k, v in right.items()})

# %%
many = prompts.select(range(weak["prompts"]))
pool = rejection.sample_pool(
    policy, tokenizer, many, lengths[: len(many)], weak["samples"], proxy, seed=setup.seed + 7
)
whole = [pool.prompts[i // weak["samples"]] + text for i, text in enumerate(pool.texts)]
scored = {"proxy": pool.scores}  # (P, N) each
scored |= {name: scorers[name](whole).reshape(pool.scores.shape) for name in ("sentiment", "words", "pairs")}
print({name: tuple(each.shape) for name, each in scored.items()}, f"{len(whole):,} responses")

# %% [markdown] tags=["zh"]
# 第 08 课的估计稍微推广一下：按代理从低到高排好序，第 $i$ 条在 $\binom{i-1}{n-1}$ 种取法里被挑中；平均的不是它的代理分，而是它的黄金分：

# %% [markdown] tags=["en"]
# The estimate of lesson 08, a little more general: sorted by the proxy from low to high, the $i$-th is picked in $\binom{i-1}{n-1}$ ways; what is averaged is not its proxy score but its gold score:


# %%
def best_by(chooser, judged, n):
    """Mean ``judged`` score of what ``chooser`` ranks first of n, over all ways: (P, N) -> (P,)"""
    N = chooser.shape[1]
    ways = [math.comb(i, n - 1) / math.comb(N, n) for i in range(N)]
    ordered = judged.double().gather(1, chooser.argsort(1))  # (P, N), lowest by the chooser first
    return ordered @ torch.tensor(ways, dtype=torch.float64)


# %%
four = (
    torch.tensor([[0.1, 0.9, 0.4, 0.7]]),
    torch.tensor([[5.0, 1.0, 3.0, 2.0]]),
)  # the chooser likes bad ones
ways = [max(way, key=lambda i: four[0][0, i]) for way in itertools.combinations(range(4), 2)]
torch.testing.assert_close(best_by(*four, 2)[0], four[1][0, ways].double().mean())
torch.testing.assert_close(
    best_by(scored["proxy"], scored["proxy"], 4), rejection.expected_max(scored["proxy"], 4)
)
print("chosen among two:", ways, "→ gold", best_by(*four, 2).item())

# %% [markdown] tags=["zh"]
# 各个打分者的尺度不同，所以都除以“同一个提示内部的标准差”：涨了几个标准差。对照：若直接按黄金分来挑，能涨多少（点线）；若用学了更多对的 `rm_2` 来挑呢？

# %% [markdown] tags=["en"]
# Scorers have scales of their own, so each is divided by its standard deviation within a prompt: by how many of those did it rise? For comparison: how much would picking by gold itself gain (dotted), and what about picking by `rm_2`, which has learnt from more pairs?

# %%
sizes = [2**i for i in range(int(math.log2(weak["samples"])) + 1)]
across = [rejection.best_of_kl(n) for n in sizes]
unit = {name: each.var(1).mean().sqrt().item() for name, each in scored.items()}


def gains(chooser, judged):
    """Gain over any one response in standard deviations, per prompt and n: (P, sizes)."""
    at = torch.stack([best_by(scored[chooser], scored[judged], n) for n in sizes], 1)
    return ((at - at[:, :1]) / unit[judged]).numpy()


# %%
found = {(c, j): gains(c, j) for c in ("proxy", "pairs", "sentiment") for j in scored}
bands = {
    key: np.array([report.bootstrap_gain(np.zeros(len(v)), column, 2000) for column in v.T])
    for key, v in found.items()
}  # (sizes, 3): mean, low, high
print({f"{c} picks, {j} scores": bands[c, j][-1].round(2).tolist() for c, j in bands if c == "proxy"})

# %%
figure, panels = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True, layout="constrained")
for panel, chooser in zip(panels, ("proxy", "pairs"), strict=True):
    lines = {
        f"{chooser} itself": (chooser, chooser, "C1--"),
        "gold: sentiment": (chooser, "sentiment", "C0-"),
    }
    lines |= {"gold: words": (chooser, "words", "C2-"), "picked by gold": ("sentiment", "sentiment", "C7:")}
    for label, (c, j, style) in lines.items():
        mean, low, high = bands[c, j].T
        panel.plot(across, mean, style, marker=".", label=label)
        panel.fill_between(across, low, high, color=style[:2], alpha=0.15, lw=0)
    panel.set(title=f"best of n, picked by {chooser}", xlabel="KL to the start, nats (bound)")
panels[0].set_ylabel("gain, standard deviations")
panels[0].legend(fontsize=8)
plt.show()

# %% [markdown] tags=["zh"]
# 有没有拐点？用眼睛看会看出自己想看的，先找最高点再检验“它比终点高”，更是必然得逞：最高点就是挑出来的。所以提示分成两半：一半用来**找**最高点，另一半用来**量**从那里到终点跌了没有。

# %% [markdown] tags=["en"]
# Is there a turning point? Eyes see what they want to see, and to look for the highest point and then test whether it is above the end is bound to succeed: the highest point was picked. So the prompts are cut in two: one half **finds** the highest point, the other **measures** whether gold falls from there to the end.


# %%
def verdict(chooser, gold):
    curve = found[chooser, gold]  # (P, sizes)
    peak = int(curve[::2].mean(0).argmax())
    change, low, high = report.bootstrap_gain(curve[1::2, peak], curve[1::2, -1])
    end = f"from n = {sizes[peak]} to n = {sizes[-1]}: {change:+.2f} [{low:+.2f}, {high:+.2f}]"
    if peak == len(sizes) - 1:
        return f"no turn-over: highest at the largest n = {sizes[-1]}"
    return f"{'TURN-OVER' if high < 0 else 'a fall is not established'}, {end}"


# %%
for chooser, gold in itertools.product(("proxy", "pairs"), ("sentiment", "words")):
    share = bands[chooser, gold][-1, 0] / bands[chooser, chooser][-1, 0]
    print(f"picked by {chooser}, gold {gold}: {verdict(chooser, gold)}")
    print(f"    at n = {sizes[-1]} a gain of 1 by {chooser} is worth {share:+.2f} of {gold}")
loss_of = 1 - bands["proxy", "sentiment"][-1, 0] / bands["sentiment", "sentiment"][-1, 0]
print(f"picking by the proxy instead of by gold gives away {loss_of:.0%} of what could be gained")

# %% [markdown] tags=["zh"]
# 上面几行是代码写的，数字和结论来自这一次运行；没有拐点也是合法的结果。即使没有拐点，也看得出**代理高估了自己**：它给自己挑中的那些打的分，比任何一个黄金标准给的都高出许多（下面的断言）。
#
# 两幅图是两个极端之间的两点，要和前面“在留出的对上答对多少”一起看。答对的若和抛硬币（50%）差不多，代理几乎什么也不懂：连“起先一起涨”都没有，只剩它自己在涨。答对得多的那一位，黄金就跟着涨很久。Gao 等人（见延伸阅读）用大小不同的许多奖励模型，量的是这两者之间的情形。
#
# 它看走眼的是什么？下面是代理最喜欢、而黄金不以为然的几条：

# %% [markdown] tags=["en"]
# Those lines were written by code, and their numbers and conclusions belong to this run; that there is no turn-over is a legal result. Even without one it shows that **the proxy overrates itself**: what it picks scores far higher with itself than with either gold standard (the assertion below).
#
# Read the two pictures along with the share of held-out pairs that each picker got right. Where that is about a coin toss (50%), the proxy knows next to nothing: gold does not even rise at first, and only the proxy does. By the one that is right more often, gold is carried along for long. Gao et al. (see further reading) measured what lies in between, with reward models of many sizes.
#
# What is it wrong about? Here are some that the proxy likes best while gold does not agree:

# %%
for gold in ("sentiment", "words"):
    assert bands["proxy", "proxy"][-1, 1] > bands["proxy", gold][-1, 2], "the proxy does not overrate itself"
top = scored["proxy"].argmax(1)  # (P,)
picked = {name: each.gather(1, top[:, None])[:, 0] / unit[name] for name, each in scored.items()}
worst = (picked["sentiment"] - picked["proxy"]).argsort()[:6].tolist()
print("of prompts", worst)

# %%
rows = [
    {"query": pool.prompts[i], "best by the proxy": pool.texts[i * weak["samples"] + top[i]]}
    | {name: picked[name][i].item() for name in ("proxy", "sentiment", "words")}
    for i in worst
]
with pd.option_context("display.max_colwidth", None):
    display(pd.DataFrame(rows).round(2))

# %% [markdown] tags=["zh"]
# ### 7.1 训练也会
#
# n 选一走不远：KL 只按 $\log n$ 增长。训练可以走得更远。用同一个弱代理做几轮拒绝采样，每轮之后在留出提示上量代理、黄金和真正的 KL：

# %% [markdown] tags=["en"]
# ### 7.1 Training does it, too
#
# Best-of-n does not go far: KL only grows with $\log n$. Training can go further. A few rounds of rejection sampling with the same weak proxy, and after each of them proxy, gold and the true KL on held-out prompts:

# %%
path = []


def watch(number, model):
    rollout = evaluate.respond(model, tokenizer, prompts, lengths, seed=setup.seed)
    texts = rollout.texts(tokenizer)
    whole = [q + r for q, r in zip(queries, texts, strict=True)]
    row = {"round": number, "KL": evaluate.response_kl(model, policy, rollout).mean().item()}
    scores = {"proxy": proxy(whole), "sentiment": sentiment(whole), "words": words(whole)}
    path.append(row | {"distinct-2": report.distinct_n(texts), "scores": scores})


config = rejection.RejectionConfig.of(weak["rounds"])
last = rejection.train_rounds(
    setup, config, score=proxy, folder=setup.output / "by_the_proxy", on_round=watch
)

# %%
rows = []
for point in path:
    row = {name: point[name] for name in ("round", "KL", "distinct-2")}
    for name, scores in point["scores"].items():
        gain = report.bootstrap_gain(path[0]["scores"][name], scores)
        row[name] = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(value / unit[name] for value in gain))
    rows.append(row)
pd.DataFrame(rows).set_index("round").round(2)

# %% [markdown] tags=["zh"]
# 单位还是标准差，方括号里是配对增益（paired gain）的 95% 区间。看最后一轮：代理涨了多少，两个黄金标准又涨了多少？
#
# 怎么防？KL 惩罚或少走几步（早停）；更多、更新的偏好数据；几个奖励模型取最低的；以及最要紧的：**留一位从不参与训练的评委**，一路盯着它。
#
# ## 8 多样性、长度、重复
#
# 有些退步，两两比较看不出来：每一条单看都不错，放在一起却千篇一律。所以还要把全部回复当作一个整体来看：
#
# | 指标 | 意思 |
# |---|---|
# | `distinct-1`、`distinct-2`、`distinct-3` | 不同的一元、二元、三元词组占全部的比例，越低越单调 |
# | `same opening` | 最常见的头两个词，占全部回复的比例 |
# | `repeats itself` | 回复内部有二元词组重复的比例 |
# | `words` | 平均词数 |
# | `finished` | 自己写了结束符的比例，其余的是写到上限被截断的 |

# %% [markdown] tags=["en"]
# The unit still is the standard deviation, and the brackets are 95% intervals of the paired gain. Look at the last round: how much did the proxy rise, and how much did the two gold standards?
#
# What helps? A KL penalty, or fewer steps (early stopping); more and newer preference data; several reward models, of which the lowest counts; and most of all: **keep a judge that never takes part in training**, and keep an eye on it all the way.
#
# ## 8 Diversity, length, repetition
#
# Some harm no comparison of pairs can see: each response by itself is good, and all together are the same. So look at all responses as a whole, too:
#
# | metric | meaning |
# |---|---|
# | `distinct-1`, `distinct-2`, `distinct-3` | different words, pairs and triples of words out of all of them; the lower, the more monotonous |
# | `same opening` | the most frequent first two words, as a share of all responses |
# | `repeats itself` | share of responses in which a pair of words occurs twice |
# | `words` | mean number of words |
# | `finished` | share that wrote an end-of-sequence token; the others were cut off at their limit |


# %%
def repeats(text):
    pairs = list(itertools.pairwise(text.split()))
    return len(set(pairs)) < len(pairs)


def style(name):
    texts = written[name]
    openings = Counter(" ".join(text.split()[:2]) for text in texts)
    ends = [int(response[-1]) == tokenizer.eos_token_id for response in rollouts[name].responses]
    return {f"distinct-{n}": report.distinct_n(texts, n) for n in (1, 2, 3)} | {
        "same opening": openings.most_common(1)[0][1] / len(texts),
        "most frequent": openings.most_common(1)[0][0],
        "repeats itself": np.mean([repeats(text) for text in texts]),
        "words": np.mean([len(text.split()) for text in texts]),
        "finished": np.mean(ends),
    }


# %%
assert repeats("so good so good") and not repeats("so very good")
styles = pd.DataFrame({name: style(name) for name in written}).T.infer_objects()
styles.round(3)

# %% [markdown] tags=["zh"]
# distinct-n 会随文本的数量和长度下降，所以只能在条数相同、长度相近的时候比较。
#
# ## 9 训练前后
#
# 先是全部证据的一张总表。胜率都是对出发时的策略：

# %% [markdown] tags=["en"]
# distinct-n falls with the number and the length of texts; compare it only where there are equally many of about the same length.
#
# ## 9 Before and after
#
# First all the evidence in one table. Win rates are against the policy at the start:

# %%
rows = {}
for name in folders:
    row = {"KL": kl[name].mean().item(), "distinct-2": styles.loc[name, "distinct-2"]}
    for who, six in matches.items():
        rate = judge.win_rate(next(m for m in six if (m.candidate, m.opponent) == ("start", name)))
        row[f"win rate, {who}"] = f"{1 - rate.rate:.2f} [{1 - rate.high:.2f}, {1 - rate.low:.2f}]"
    rows[name] = row
evidence = pd.DataFrame(rows).T
evidence.to_csv(setup.output / "evidence.csv")
evidence

# %% tags=["table"]
result = evaluate.compare(
    prompts,
    rollouts["start"],
    rollouts["PPO"],
    tokenizer,
    sentiment,
    judge=words,
    kl=kl["PPO"],
    shown=setup.evaluation["shown"],
    title="10 Evaluation: PPO",
    meta=report.run_meta(setup, started),
)
result.save(setup.output)
result

# %%
for name in folders:
    votes = {}
    for who in neutral:  # the judges that took no part
        rate = judge.win_rate(next(m for m in matches[who] if (m.candidate, m.opponent) == ("start", name)))
        votes[who] = "better" if rate.high < 0.5 else "worse" if rate.low > 0.5 else "open"
    alike = len(set(votes.values())) == 1
    print(f"{name} against the start:", f"all {len(votes)} say {votes['words']}" if alike else votes)

# %% [markdown] tags=["zh"]
# ## 10 小结
#
# - 每一对都按两种顺序问；矛盾就是平局。胜率旁边写上区间、顺序偏差和“两种顺序结果相同”的比例。
# - 整齐得可疑的结果（全是平局、全胜），用 Wilson 区间，别用自助法。
# - 长度偏差用“同一个策略，一长一短”来查；一致性用 kappa，因为一致也可能靠运气。
# - 聊天模型当评委：先估价，设上限，存缓存；无效回答只计数，不猜；缺的对给出两头。
# - Bradley–Terry 把许多场比赛合成一个排名；排名有区间，而且可能被相克骗过。
# - 照着代理优化，代理会高估自己；有没有拐点，用没参与过的评委、在另一半提示上量。
# - 没有一个数够用：胜率、KL、多样性，再读几条原文。

# %% [markdown] tags=["en"]
# ## 10 Summary
#
# - Ask about every pair in both orders; a contradiction is a tie. Next to a win rate belong its interval, the order bias and the share of pairs with the same outcome in both orders.
# - Where results are suspiciously uniform (all ties, all wins), use a Wilson interval instead of the bootstrap.
# - Length bias shows when one policy writes short and long; agreement is measured by kappa, since chance agrees, too.
# - A chat model as a judge: estimate, set a cap, keep a cache; malformed answers are counted, not guessed; give both ends for what is missing.
# - Bradley–Terry turns many matches into one ranking; it has intervals, and circles can deceive it.
# - Optimise a proxy and it overrates itself; whether gold turns over is measured by a judge that took no part, on the other half of the prompts.
# - No single number will do: win rate, KL, diversity, and then read some of the texts.

# %% [markdown] tags=["zh"]
# ## 11 练习
#
# 把 `...` 换成你的答案再运行，批改结果马上出现。每题后面藏着一个参考答案，点开就能看。评委的回答是两个等长的列表：`straight`（候选者是 A）和 `swapped`（候选者是 B）；里面有 `"A"`、`"B"`、`"tie"`，也可能有 `"malformed"` 或 `"failed"`。
#
# ### 练习 1（顺序偏差）
#
# 写出 `share_b`：在 A 和 B 这些回答里，B 占多少？两种顺序都要算；有一个回答缺了的对，整对去掉。

# %% [markdown] tags=["en"]
# ## 11 Exercises
#
# Replace `...` with your answer and run the cell; it is graded at once. A solution is hidden after each exercise; click to open it. A judge's answers are two lists of the same length, `straight` (the candidate is A) and `swapped` (the candidate is B); they hold `"A"`, `"B"`, `"tie"`, and sometimes `"malformed"` or `"failed"`.
#
# ### Exercise 1 (order bias)
#
# Write `share_b`: among the answers A and B, how many are B? Count both orders; leave out pairs that lack an answer, all of the pair.


# %% tags=["exercise"]
def share_b(straight, swapped): ...  # your code


checks.e10_1(share_b)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_1(straight, swapped):
    valid = {"A", "B", "tie"}
    pairs = [pair for pair in zip(straight, swapped, strict=True) if set(pair) <= valid]
    answers = [answer for pair in pairs for answer in pair]
    return answers.count("B") / (answers.count("A") + answers.count("B"))


checks.e10_1(solution_1).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 2（找错：人人都是 0.5 的胜率）
#
# 下面的函数“两种顺序都算了”，可是它给谁的胜率都差不多是 0.5，永远答 B 的评委反而得 0。找出错误（不止一处），写出正确的 `win_rate`：两次都赢才是胜，两次都输才是负，其余是平局，缺了回答的对不算。

# %% [markdown] tags=["en"]
# ### Exercise 2 (find the bug: a win rate of 0.5 for everybody)
#
# The function below "counts both orders", yet it gives everybody a win rate of about 0.5, and a judge that always says B gets 0. Find what is wrong (more than one thing) and write the right `win_rate`: a win is a win in both orders, a loss is a loss in both, the rest are ties, and pairs that lack an answer do not count.


# %%
def buggy_win_rate(straight, swapped):
    """Win rate of the candidate from the answers in both orders."""
    worth = {"A": 1.0, "B": 0.0}
    points = [worth.get(answer, 0.5) for answer in [*straight, *swapped]]
    return sum(points) / len(points)


print("PPO against the start:", buggy_win_rate(match.straight, match.swapped))
print("a judge that always says B:", buggy_win_rate(blind.straight, blind.swapped))


# %% tags=["exercise"]
def win_rate(straight, swapped): ...  # your code


checks.e10_2(win_rate)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_2(straight, swapped):
    worth = {("A", "B"): 1.0, ("B", "A"): 0.0}  # as B the candidate wins with the answer B
    pairs = zip(straight, swapped, strict=True)
    points = [worth.get(pair, 0.5) for pair in pairs if set(pair) <= {"A", "B", "tie"}]
    return sum(points) / len(points)


assert abs(solution_2(match.straight, match.swapped) - judge.win_rate(match).rate) < 1e-9
checks.e10_2(solution_2).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 3（找错：第一个字母）
#
# 下面的函数读评委的回答。它从不出错，也从不说“读不懂”。写出正确的 `read`：判决是双方括号里的字母，`[[C]]` 是平局；一个判决也没有、或者有两个不同的判决，都返回 `"malformed"`。

# %% [markdown] tags=["en"]
# ### Exercise 3 (find the bug: the first letter)
#
# The function below reads a judge's answer. It never fails, and it never says that it cannot read. Write the right `read`: a verdict is the letter in double brackets, `[[C]]` is a tie; where there is no verdict, or two different ones, return `"malformed"`.


# %%
def buggy_read(text):
    """A judge's text -> "A", "B" or "tie"."""
    found = [letter for letter in text if letter in "ABC"] or ["A"]
    return {"A": "A", "B": "B", "C": "tie"}[found[0]]


for text in ("A is longer, yet its ending is sour: [[B]]", "Both are lovely.", ""):
    print(f"{text!r} → {buggy_read(text)}")


# %% tags=["exercise"]
def read(text): ...  # your code


checks.e10_3(read)

# %% tags=["solution"] jupyter={"source_hidden": true}
import re


def solution_3(text):
    verdicts = set(re.findall(r"\[\[([ABC])\]\]", text))
    return {"A": "A", "B": "B", "C": "tie"}[verdicts.pop()] if len(verdicts) == 1 else "malformed"


checks.e10_3(solution_3).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 4（kappa）
#
# 写出 Cohen 的 kappa。两个列表里是 `"win"`、`"tie"`、`"loss"`，没有评的是 `None`；至少一方没有评的对，先去掉。

# %% [markdown] tags=["en"]
# ### Exercise 4 (kappa)
#
# Write Cohen's kappa. The two lists hold `"win"`, `"tie"`, `"loss"`, and `None` where nothing was judged; leave out pairs that at least one of them did not judge.


# %% tags=["exercise"]
def cohens_kappa(one, other): ...  # your code


checks.e10_4(cohens_kappa)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_4(one, other):
    both = [pair for pair in zip(one, other, strict=True) if None not in pair]
    first, second = zip(*both, strict=True)
    same = sum(x == y for x, y in both) / len(both)
    chance = sum(first.count(kind) * second.count(kind) for kind in set(first)) / len(both) ** 2
    return (same - chance) / (1 - chance)


checks.e10_4(solution_4).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 5（先预测，再对照）
#
# 一位心不在焉的评委：每个问题有 0.6 的概率认真读，并且读对；不读就答 B。候选者在 80% 的对里真的更好，其余的对里对手更好；没有真正的平局。不写代码，先算出三个数：候选者总坐 A、只问一种顺序时的胜率；换位以后的胜率；B 的比例。

# %% [markdown] tags=["en"]
# ### Exercise 5 (predict, then compare)
#
# A half-hearted judge reads each question with probability 0.6, and then gets it right; unread, it says B. The candidate truly is better in 80% of the pairs, in the others its opponent is; there are no true ties. Without code, work out three numbers: the win rate if the candidate always sits at A and one order is asked; the win rate after swapping; the share of B.

# %% tags=["exercise"]
one_order, both_orders, share_of_b = ..., ..., ...
checks.e10_5(one_order, both_orders, share_of_b)

# %% tags=["solution"] jupyter={"source_hidden": true}
rng = np.random.default_rng(setup.seed)
better = rng.random(100_000) < 0.8
first = np.where(rng.random(100_000) < 0.6, np.where(better, "A", "B"), "B").tolist()
second = np.where(rng.random(100_000) < 0.6, np.where(better, "B", "A"), "B").tolist()
simulated = first.count("A") / 1e5, solution_2(first, second), solution_1(first, second)
print("simulated: {:.3f}, {:.3f}, {:.3f}".format(*simulated))
checks.e10_5(0.6 * 0.8, 0.8 * (0.6 + 0.2) + 0.2 * 0.2, 1 - 0.6 / 2).must_pass()

# %% [markdown] tags=["zh"]
# ## 12 延伸阅读
#
# - Zheng et al. 2023，[Judging LLM-as-a-Judge](https://arxiv.org/abs/2306.05685)：换位、顺序偏差、长度偏差，3.4 节是这里的规则。
# - Dubois et al. 2024，[Length-Controlled AlpacaEval](https://arxiv.org/abs/2404.04475)：用逻辑回归把长度的影响除掉。
# - Gao et al. 2022，[Scaling Laws for Reward Model Overoptimization](https://arxiv.org/abs/2210.10760)：黄金对代理，n 选一和 PPO，横轴是 KL。
# - Stiennon et al. 2020，[Learning to summarize from human feedback](https://arxiv.org/abs/2009.01325)：图 5 是最早的过度优化曲线之一；附录里有人与人的一致性。
# - Chiang et al. 2024，[Chatbot Arena](https://arxiv.org/abs/2403.04132)：用 Bradley–Terry 给上百个模型排名。

# %% [markdown] tags=["en"]
# ## 12 Further reading
#
# - Zheng et al. 2023, [Judging LLM-as-a-Judge](https://arxiv.org/abs/2306.05685): swapping, order bias, length bias; section 3.4 has the rule used here.
# - Dubois et al. 2024, [Length-Controlled AlpacaEval](https://arxiv.org/abs/2404.04475): a logistic regression takes the effect of length away.
# - Gao et al. 2022, [Scaling Laws for Reward Model Overoptimization](https://arxiv.org/abs/2210.10760): gold against proxy, best-of-n and PPO, over KL.
# - Stiennon et al. 2020, [Learning to summarize from human feedback](https://arxiv.org/abs/2009.01325): figure 5 is one of the first curves of over-optimisation; the appendix tells how far people agree.
# - Chiang et al. 2024, [Chatbot Arena](https://arxiv.org/abs/2403.04132): Bradley–Terry ranks a hundred models and more.
