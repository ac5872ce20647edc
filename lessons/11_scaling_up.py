# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] tags=["zh"]
# # 11 扩大规模
#
# **这一课回答的问题**：从一个笔记本到八块 GPU，要改什么？代码几乎一行不改；要改的是怎么启动、每个进程拿哪些数据、谁的显存里放什么。这一课真的启动两个进程，和一个进程逐个参数地对账。
#
# **需要什么**
#
# | 配置（profile） | 硬件 | 时间 |
# |---|---|---|
# | `offline`（默认） | 2 个 CPU 核 | 大约 2 分钟，不联网 |
# | `imdb` | 2 个 CPU 核，或两块 GPU | 没有量过 |
# | `full` | 两块 GPU 更好 | 没有在这里运行过 |
#
# 三种配置运行的是同样的单元格。先读过[第 06 课](06_ppo_step_by_step.ipynb)或[第 07 课](07_ppo_imdb.ipynb)会更容易。

# %% [markdown] tags=["en"]
# # 11 Scaling up
#
# **The question of this lesson**: from one notebook to eight GPUs, what has to change? Hardly a line of code; what changes is how things are started, which rows each process gets, and what lies in whose memory. This lesson really starts two processes and compares them with one, parameter by parameter.
#
# **What you need**
#
# | profile | hardware | time |
# |---|---|---|
# | `offline` (default) | 2 CPU cores | about 2 minutes, no network |
# | `imdb` | 2 CPU cores, or two GPUs | not timed |
# | `full` | two GPUs are better | not run here |
#
# All three run the same cells. [Lesson 06](06_ppo_step_by_step.ipynb) or [lesson 07](07_ppo_imdb.ipynb) is a good preparation.

# %% tags=["setup"]
import time

from rlhf import checks, evaluate, pictures, profiles, report  # before torch: idle threads then sleep

started = time.perf_counter()
setup = profiles.setup("11_scaling_up")

# %%
import inspect
import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import openai
import pandas as pd
import torch
import torch.distributed as dist
import yaml
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from transformers import AutoModelForCausalLM, LlamaConfig

from rlhf import memory, merge, plan, sft, train
from rlhf.ppo import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer, losses, processes
from rlhf.rewards import SentimentReward, WordJudge
from rlhf.serve import running

plt.style.use(pictures.STYLE)
warnings.simplefilter("ignore", FutureWarning)  # names that the libraries will change for each other
CPU = {"cpu": setup.device == "cpu"}  # what Accelerate is told

# %% [markdown] tags=["zh"]
# ## 1 一个阶段，一条命令
#
# 笔记本适合边看边学；要跑一夜的训练，该是一条命令加一份**配方**（recipe）。四个阶段各是一条，用的就是前几课的函数：

# %% [markdown] tags=["en"]
# ## 1 One stage, one command
#
# A notebook is for looking while learning; a training that takes a night should be one command and one **recipe**. The four stages are one each, made of the functions of earlier lessons:

# %%
print(train.usage())

# %% [markdown] tags=["zh"]
# 配方是一份 YAML，每行一个字段。命令行优先于配方，配方优先于配置（profile），配置优先于默认值。7B 模型的 PPO 是这样写的：

# %% [markdown] tags=["en"]
# A recipe is a YAML file, one field to a line. The command line wins over the recipe, the recipe over the profile, the profile over the defaults. PPO of a 7B model reads like this:

# %%
seven = profiles.CHECKOUT / "recipes" / "7b"
print((seven / "ppo.yaml").read_text(encoding="utf-8"))

# %%
job = train.plan("ppo", ["--config", str(seven / "ppo.yaml"), "--steps", "100"])
print({name: job.values[name] for name in ("steps", "batch_size", "lora_rank", "cliprange")})
assert job.values["steps"] == 100  # the command line wins

# %% [markdown] tags=["zh"]
# `cliprange` 两处都没写，来自 `PPOConfig` 的默认值。`python -m rlhf.train ppo --help` 逐个解释字段；写错的字段名、类型、范围，都在读任何模型之前报错。
#
# **7B 的一条龙**是六条命令，中间的产物都是普通的模型文件夹：
#
# ```
# python -m rlhf.train sft    --config recipes/7b/sft.yaml       # LoRA on Orca-style answers
# python -m rlhf.merge sft_7b_lora --output sft_7b
# python -m rlhf.train reward --config recipes/7b/reward.yaml    # which answer is preferred
# python -m rlhf.merge rm_7b_lora --output rm_7b
# python -m rlhf.train ppo    --config recipes/7b/ppo.yaml       # reference = adapter off
# python -m rlhf.merge ppo_7b_lora --output ppo_7b
# ```
#
# 7B 的权重这里没有。这一课用小模型走 PPO、合并、服务这几步，形状和 7B 的一样：LoRA、参考模型是关掉的适配器、先存适配器再合并。整条 7B 配方用微型 Llama 从头跑到尾，是 `tests/test_large.py`。
#
# ## 2 数据并行：分行，再平均梯度
#
# 用上多个设备，最简单的办法是**数据并行**（data-parallel）：每个进程都有整个模型，各拿这一批里的几行，叫一个**分片**（shard）。各算各的梯度，然后求平均（全归约，all-reduce），大家做同样的更新。为什么这样是对的？因为各份一样大的时候，平均的平均就是平均：

# %% [markdown] tags=["en"]
# `cliprange` stands in neither and is the default of `PPOConfig`. `python -m rlhf.train ppo --help` explains every field; a wrong name, type or range is refused before any model is read.
#
# **The 7B path** is six commands, with ordinary model folders in between:
#
# ```
# python -m rlhf.train sft    --config recipes/7b/sft.yaml       # LoRA on Orca-style answers
# python -m rlhf.merge sft_7b_lora --output sft_7b
# python -m rlhf.train reward --config recipes/7b/reward.yaml    # which answer is preferred
# python -m rlhf.merge rm_7b_lora --output rm_7b
# python -m rlhf.train ppo    --config recipes/7b/ppo.yaml       # reference = adapter off
# python -m rlhf.merge ppo_7b_lora --output ppo_7b
# ```
#
# There are no 7B weights here. This lesson goes through PPO, merging and serving with a small model, in the same shape as at 7B: LoRA, a reference that is the adapter switched off, an adapter saved and then merged. The whole of the 7B recipes runs with a miniature Llama in `tests/test_large.py`.
#
# ## 2 Data-parallel: split the rows, average the gradients
#
# The plainest way to use several devices is to be **data-parallel**: every process holds the whole model and takes a part of the batch's rows, a **shard**. Each computes a gradient; the gradients are averaged (an **all-reduce**), and all make the same update. Why is that right? Because a mean of means is the mean, if all parts are equally large:

# %%
torch.manual_seed(0)
x, y = torch.randn(8, 3), torch.randn(8)  # 8 rows with 3 features; one target each
w = torch.zeros(3, requires_grad=True)


def gradient(rows):
    """Of the mean squared error over these rows."""
    return torch.autograd.grad(((x[rows] @ w - y[rows]) ** 2).mean(), w)[0]  # (3,)


# %%
whole = gradient(slice(0, 8))
first, second = gradient(slice(0, 4)), gradient(slice(4, 8))  # two processes, four rows each
torch.testing.assert_close((first + second) / 2, whole)
print("whole batch:", whole.tolist())
print("two shards: ", ((first + second) / 2).tolist())

# %% [markdown] tags=["zh"]
# ### 2.1 分片不一样大
#
# 一份 2 行、一份 6 行，平均就错了；语言模型里“行”其实是词元（token），各份的词元数几乎从来不同。改法：每个进程先把自己的损失乘上自己的份额再乘进程数，后面的“除以进程数”就抵消了：

# %% [markdown] tags=["en"]
# ### 2.1 Shards of unequal size
#
# With 2 rows here and 6 there the average is wrong; and in a language model the "rows" are tokens, of which shards hardly ever have equally many. The remedy: each process multiplies its loss by its share and by the number of processes, which cancels the division that follows:

# %%
parts = [slice(0, 2), slice(2, 8)]
uneven = [gradient(part) for part in parts]
share = [2 / 8, 6 / 8]
right = sum(g * s * 2 for g, s in zip(uneven, share, strict=True)) / 2  # the last division is DDP's
torch.testing.assert_close(right, whole)
print(f"plain average: off by {((uneven[0] + uneven[1]) / 2 - whole).abs().max():.3f}; weighed: 0")

# %% [markdown] tags=["zh"]
# ### 2.2 均值和方差：三个数就够
#
# PPO 要把优势（advantage）白化（whitening）：减去**整批**的均值，除以标准差。哪个进程都没有整批。好在均值和方差只要三个和：个数、总和、平方和；每个进程报出三个数，加起来就行。

# %% [markdown] tags=["en"]
# ### 2.2 Mean and variance: three numbers are enough
#
# PPO whitens the advantages: minus the mean of the **whole batch**, divided by its standard deviation. No process has the whole batch. Luckily mean and variance need three sums only: the count, the sum, the sum of squares; each process reports three numbers, and they are added up.

# %%
advantages = (
    torch.randn(8, 5) + torch.arange(8).float()[:, None] // 4 * 2
)  # (8, 5), the second half is larger
mask = (torch.arange(5) < torch.tensor([5, 3, 4, 5, 2, 5, 1, 5])[:, None]).long()  # (8, 5)
shards = [slice(0, 4), slice(4, 8)]


def three_sums(rows):
    """What one process sends: count, sum and sum of squares of its tokens, ``(3,)``."""
    live = advantages[rows][mask[rows].bool()]  # (tokens,)
    return torch.tensor([len(live), live.sum(), (live**2).sum()])


# %%
count, total, squares = sum(three_sums(rows) for rows in shards)  # an all-reduce
mean = total / count
variance = (squares - count * mean**2) / (count - 1)
torch.testing.assert_close(mean, losses.masked_mean(advantages, mask))
torch.testing.assert_close(variance, losses.masked_var(advantages, mask))
print(f"{count:.0f} tokens, mean {mean:.4f}, variance {variance:.4f}: as over the whole batch")

# %%
together = (advantages - mean) * torch.rsqrt(variance + 1e-8) * mask  # (8, 5)
torch.testing.assert_close(together, losses.whiten(advantages, mask))
apart = torch.cat([losses.whiten(advantages[rows], mask[rows]) for rows in shards])
print(f"each process whitens its own rows: off by up to {(apart - together).abs().max():.2f}")

# %% [markdown] tags=["zh"]
# 最后一行是真实的错误：TRL 当年的 PPO 就是各进程各白化各的。哪个进程碰上了容易的提示，它的优势就被压低，别的被抬高：同样的数据，换个分法，梯度就变了。
#
# ### 2.3 这里的 PPO 怎么做
#
# `rlhf.ppo` 更干脆：每个进程把自己那几行送进模型（这一步才贵），然后把每个词元的**几个数**（编号、对数概率、价值）交换给大家。之后的白化、裁剪、损失，每个进程都拿整批来算，用的就是单进程的代码。梯度只流过自己的行：

# %% [markdown] tags=["en"]
# The last line is a real mistake: in its day TRL's PPO whitened within each process. Where a process met easy prompts its advantages were pushed down and those of the others up: the same data, split another way, gave another gradient.
#
# ### 2.3 How PPO does it here
#
# `rlhf.ppo` is more direct: each process puts its own rows through the models, which is the expensive part, and then a **few numbers** per token (ids, log-probabilities, values) are exchanged. Whitening, clipping and losses are then computed by every process over the whole batch, with the code of a single process. Gradients flow through a process's own rows only:

# %%
print(inspect.getsource(processes.join).split('"""')[2])

# %% [markdown] tags=["zh"]
# ![两个进程走一步 PPO：各自采样、各自过模型，交换三次](../figs/11_step.svg)
#
# ## 3 真的两个进程
#
# 说法要能验证。先从策略（policy）采样十批回复存成文件；再写一个脚本，拿这些回复走十步 PPO；用一个进程和两个进程各跑一次，比较最后的每一个参数。脚本就是下面两个函数的源码，在笔记本里写一遍，存成文件：

# %% [markdown] tags=["en"]
# ![One PPO step in two processes: each samples and goes through the models, and they exchange three times](../figs/11_step.svg)
#
# ## 3 Two processes, really
#
# Claims want checking. First ten batches of responses are sampled from the policy and stored in a file; then a script takes ten PPO steps on them. It is run once in one process and once in two, and every parameter is compared in the end. The script is the source of the two functions below, written once in this notebook and saved:

# %%
policy, tokenizer = sft.load_policy(setup.policy, setup.device)
prompts = evaluate.held_out_prompts(setup, tokenizer, seed=setup.seed)
reward = SentimentReward(setup.reward_model, device=setup.device)
ROWS, STEPS = 8, 10  # rows in a batch of all processes
some = prompts.select(range(ROWS * STEPS))
limits = evaluate.response_lengths(setup, len(some), seed=setup.seed)
rollout = evaluate.respond(policy, tokenizer, some, limits, seed=setup.seed)
print(len(rollout), "responses, lengths", rollout.lengths[:8], "…")

# %%
texts = [q + r for q, r in zip(some["query"], rollout.texts(tokenizer), strict=True)]
columns = [[ids.tolist() for ids in part] for part in (rollout.queries, rollout.responses)]
columns.append(reward(texts).tolist())
batches = [[column[i : i + ROWS] for column in columns] for i in range(0, ROWS * STEPS, ROWS)]
data = setup.output / "rollouts.json"
data.write_text(json.dumps(batches))
print(
    len(batches), "batches of", len(batches[0][0]), "rows; scores", [round(s, 2) for s in batches[0][2][:4]]
)


# %%
def ten_steps(policy, file, rows, mini, accumulation):
    """PPO on stored rollouts; a batch of all processes has ``rows``. Returns the trainer and its losses."""
    own = rows // int(os.environ.get("WORLD_SIZE", 1))  # rows of one process
    config = PPOConfig(
        batch_size=own,
        mini_batch_size=mini or own,
        gradient_accumulation_steps=own if accumulation else 1,
        accumulate_by_tokens=True,
        ppo_epochs=2,
        learning_rate=1e-4,
        log_with="none",
        accelerator_kwargs={"cpu": True},
    )
    trainer = PPOTrainer(config, AutoModelForCausalLMWithValueHead.from_pretrained(policy, seed=0))
    mine, totals = trainer.own_rows(rows), []
    for queries, responses, scores in json.loads(Path(file).read_text()):
        tensors = ([torch.tensor(row) for row in column[mine]] for column in (queries, responses, scores))
        totals.append(trainer.step(*tensors)["ppo/loss/total"])
    return trainer, totals


# %%
def main(policy, file, rows, out):
    """The ten steps in two ways; the main process saves what was learnt and prints the losses."""
    for way, mini, accumulation in (("at_once", 0, False), ("row_by_row", 1, True)):
        trainer, totals = ten_steps(policy, file, int(rows), mini, accumulation)
        if trainer.accelerator.is_main_process:
            learnt = {name: p.detach().clone() for name, p in trainer.policy.named_parameters()}
            save_file(learnt, f"{out}_{way}.safetensors")
            print(f"{trainer.accelerator.num_processes} × {trainer.config.batch_size} rows, {way}:", end=" ")
            print("losses", [round(total, 6) for total in totals[:3]], "…")
    if trainer.accelerator.num_processes > 1:
        print(json.dumps(shares(policy, trainer.accelerator.process_index)), flush=True)


# %% [markdown] tags=["zh"]
# `row_by_row` 是**梯度累积**（gradient accumulation）：每次只过一行，攒够了再更新，第 4 节要用。`shares` 是第 6 节的：量一量每个进程手里有多少字节。

# %% [markdown] tags=["en"]
# `row_by_row` is **gradient accumulation**: one row goes through at a time, and the update waits until all have; section 4 looks at it. `shares` belongs to section 6 and measures how many bytes each process holds.


# %%
def shares(policy, rank):
    """Bytes that this process really holds: one step with a sharded optimiser, one with sharded weights."""

    def held(tensors):
        own = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
        return sum(t.numel() * t.element_size() for t in own)

    def moments(optimizer):
        return held(value for state in optimizer.state.values() for value in state.values())

    found, ids = {}, torch.arange(64).reshape(2, 32)
    for way in ("replicated", "ZeRO-1", "FSDP"):
        model = AutoModelForCausalLM.from_pretrained(policy)
        if way == "FSDP":
            for block in (*model.transformer.h, model):
                fully_shard(block, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        kind = ZeroRedundancyOptimizer if way == "ZeRO-1" else torch.optim.Adam
        extra = {"optimizer_class": torch.optim.Adam} if way == "ZeRO-1" else {}
        optimizer = kind(model.parameters(), lr=1e-4, **extra)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        weights, gradients = held(model.parameters()), held(p.grad for p in model.parameters())
        found[way] = [weights, gradients, moments(getattr(optimizer, "optim", optimizer))]
    return {"rank": rank, **found}


# %%
IMPORTS = """
import json, os, sys
from pathlib import Path
import torch, torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from transformers import AutoModelForCausalLM
from rlhf.ppo import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer
"""
script = setup.output / "ten_steps.py"
functions = "\n\n".join(inspect.getsource(part) for part in (shares, ten_steps, main))
script.write_text(f"{IMPORTS}\n{functions}\nmain(*sys.argv[1:])\n")
print(len(script.read_text().splitlines()), "lines in", script.name)

# %% [markdown] tags=["zh"]
# 启动器（launcher）是 PyTorch 自带的 `torch.distributed.run`（命令行上也叫 `torchrun`）：它把同一条命令启动 N 遍，每个进程从环境变量里得知自己是第几个（`RANK`）、一共几个（`WORLD_SIZE`）。CPU 上的通信用 gloo，GPU 上用 NCCL。

# %% [markdown] tags=["en"]
# The launcher is PyTorch's own `torch.distributed.run`, also known as `torchrun`: it starts the same command N times, and environment variables tell each process which one it is (`RANK`) and how many there are (`WORLD_SIZE`). They talk through gloo on a CPU and through NCCL on GPUs.


# %%
def launch(launcher, *words, device="cpu"):
    """Start a script or a module in several processes; returns what it printed, progress bars left out."""
    command = ["-m", *launcher, *words]
    print("$ python", *command)
    settings = {"OMP_NUM_THREADS": "1", "RLHF_DEVICE": device, "PYTHONPATH": str(profiles.CHECKOUT)}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=profiles.root(),
        env=os.environ | settings,
        capture_output=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode()[-3000:])
    return re.sub(r"[^\n]*\r", "", done.stdout.decode())  # the last state of a bar is enough


def torchrun(number):
    return "torch.distributed.run", "--standalone", "--nproc_per_node", str(number)


def short(path):
    """As seen from the root, where the launched processes run."""
    return os.path.relpath(path, profiles.root())


# %%
said = {}
for number in (1, 2):
    words = (
        short(script),
        short(setup.policy),
        short(data),
        str(ROWS),
        f"{short(setup.output)}/learnt_{number}",
    )
    said[number] = launch(torchrun(number), *words).splitlines()
    print(*[line for line in said[number] if not line.startswith("{")], sep="\n")

# %%
ways = [(number, way) for number in (1, 2) for way in ("at_once", "row_by_row")]
learnt = {way: load_file(setup.output / "learnt_{}_{}.safetensors".format(*way)) for way in ways}
start = dict(AutoModelForCausalLMWithValueHead.from_pretrained(setup.policy, seed=0).named_parameters())


def largest(one, other, skip="c_attn.bias"):
    """The largest difference between two sets of parameters, and between what is skipped."""
    apart = {name: (one[name] - other[name].detach()).abs().max().item() for name in one}
    return [max(v for n, v in apart.items() if n.endswith(skip) == which) for which in (False, True)]


# %%
rows = {"ten steps moved": largest(learnt[1, "at_once"], start)}
rows |= {f"{n} × {way}": largest(learnt[n, way], learnt[1, "at_once"]) for n, way in ways[1:]}
table = pd.DataFrame(rows, ["parameters", "attention biases"]).T
assert (table["parameters"].iloc[1:] < 1e-5).all()
table.map("{:.1e}".format)

# %% [markdown] tags=["zh"]
# 第一行是十步走了多远，下面三行是和“一个进程、一次过”的差别：都在 1e-5 以内，剩下的是浮点数相加的次序。
#
# 右边那一列为什么单独放？它是 `c_attn.bias`，里面有**键**（key）的偏置。给所有键加上同一个向量，每个查询（query）对各位置的得分就加了同一个数，softmax 看不见；所以它的梯度应当正好是 0，算出来的全是舍入误差，而 Adam 除以梯度的大小，把误差放大成了步子。输出一点不受影响。对账的时候，先知道哪些差别不要紧。
#
# ## 4 梯度累积：时间换显存
#
# 一次放不下 8 行，就一行一行来：8 次前向和反向，梯度加在一起，更新一次。上表的 `1 × row_by_row` 就是 1 × 8 对 8 × 1。要相等，有一个条件：按**词元**加权（`accumulate_by_tokens=True`）。经典的做法是每个小批各取平均再平均，短的小批里，每个词元的分量就更大，和 2.1 节是同一个错。
#
# ## 5 LoRA：参考模型不用第二份
#
# PPO 要两个模型：学的**策略**和不动的**参考模型**（reference）。用 LoRA 的话，底座从来不变，变的只有适配器（adapter）；把适配器**关掉**，就是参考模型。数一数张量：

# %% [markdown] tags=["en"]
# The first line is how far ten steps went; the three below are the differences from "one process, all at once": all within 1e-5, which is the order of floating-point sums.
#
# Why is the column on the right apart? It is `c_attn.bias`, which holds the biases of the **keys**. Adding one vector to all keys adds one number to a query's scores at all positions, and softmax does not see that; the gradient should therefore be exactly 0, what is computed is rounding, and Adam, which divides by the size of the gradient, turns it into steps. The output is not affected at all. Whoever compares numbers should know which differences do not matter.
#
# ## 4 Gradient accumulation: time for memory
#
# If 8 rows do not fit, take them one by one: 8 forward and backward passes, gradients added up, one update. In the table above, `1 × row_by_row` is 1 × 8 against 8 × 1. They are equal on one condition: weights by **tokens** (`accumulate_by_tokens=True`). Classically the mean of every minibatch is averaged, where each token of a short minibatch counts more: the mistake of section 2.1 once more.
#
# ## 5 LoRA: a reference without a second copy
#
# PPO takes two models, the **policy** that learns and the **reference** that does not move. With LoRA the base never changes, only the adapter does; with the adapter switched **off**, it is the reference. Count the tensors:

# %%
adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", fan_in_fan_out=True)  # Conv1D's way
config = PPOConfig(batch_size=8, mini_batch_size=8, log_with="none", accelerator_kwargs=CPU)
trainers = {
    name: PPOTrainer(
        config, AutoModelForCausalLMWithValueHead.from_pretrained(setup.policy, peft_config=peft)
    )
    for name, peft in (("all weights", None), ("LoRA", adapter))
}

# %%
rows = {}
for name, trainer in trainers.items():
    own = list(trainer.policy.parameters())
    copy = [] if trainer.ref_model is None else list(trainer.ref_model.parameters())
    rows[name] = {
        "tensors of the policy": len(own),
        "tensors of a reference": len(copy),
        "numbers that learn": sum(p.numel() for p in own if p.requires_grad),
        "MB of weights": f"{memory.tensor_bytes([*own, *copy]) / 1e6:.2f}",
    }
pd.DataFrame(rows)

# %% [markdown] tags=["zh"]
# LoRA 那一列没有参考模型的张量。关掉适配器，得到的真是原来的模型吗？先把适配器弄乱，当作它学过了：

# %% [markdown] tags=["en"]
# In the column of LoRA no tensor belongs to a reference. Is it really the first model that one gets with the adapter off? Scramble the adapter, as if it had learnt:

# %%
tuned = trainers["LoRA"].policy.pretrained_model
ids = torch.arange(1, 33, device=setup.device).reshape(2, 16)
with torch.no_grad():
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            weight.normal_(0, 0.1)
    on = tuned(input_ids=ids).logits  # (2, 16, V)
    with tuned.disable_adapter():
        off = tuned(input_ids=ids).logits
    torch.testing.assert_close(off, policy(input_ids=ids).logits)
print(f"adapter on: logits move by up to {(on - off).abs().max():.2f}; off: the base's own")

# %% [markdown] tags=["zh"]
# ## 6 显存的账本
#
# 训练一个参数要多少字节？16 位混合精度加 Adam，经典的账是 16：权重 2、梯度 2、优化器（optimiser）12（float32 的主权重和两个矩，各 4）。数据并行时每块 GPU 都付全额。**ZeRO** 把它们分摊（shard）到各块 GPU：1 级分优化器，2 级再分梯度，3 级连权重也分；PyTorch 自带的 **FSDP** 和 3 级一样。
#
# ![四块 GPU 各自放着什么：数据并行、ZeRO-1、ZeRO-2、ZeRO-3](../figs/11_shares.svg)
#
# 代价是通信：3 级时，算到哪一块，就要现把那一块的权重收齐，用完再扔。公式写出来，和 `rlhf.plan` 对账：

# %% [markdown] tags=["en"]
# ## 6 The memory ledger
#
# How many bytes does it take to train a parameter? With 16-bit mixed precision and Adam the classic account is 16: weights 2, gradient 2, optimiser 12 (a float32 copy and two moments, 4 each). Data-parallel, every GPU pays it all. **ZeRO** shares it out: stage 1 the optimiser, stage 2 the gradients too, stage 3 the weights as well; **FSDP**, which PyTorch brings, is like stage 3.
#
# ![What each of four GPUs holds: data-parallel, ZeRO-1, ZeRO-2, ZeRO-3](../figs/11_shares.svg)
#
# The price is communication: under stage 3 the weights of each block are gathered when it is computed, and thrown away again. Here is the formula, compared with `rlhf.plan`:


# %%
def per_rank(n, processes, zero):
    """Bytes of weights, gradients and optimiser on one GPU, if all ``n`` parameters learn."""
    shared = {"optimizer": zero >= 1, "gradients": zero >= 2, "weights": zero >= 3}
    whole = {"weights": 2 * n, "gradients": 2 * n, "optimizer": 12 * n}
    return {name: size / (processes if shared[name] else 1) for name, size in whole.items()}


# %%
toy = LlamaConfig(
    vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
)
ask = plan.Ask("sft", sequences=1, tokens=16, dtype="bfloat16")
for number, zero in ((1, 2), (4, 2), (4, 3), (8, 3)):
    found = plan.needs(toy, ask, processes=number, zero=zero)
    mine = per_rank(found.parameters, number, zero)
    torch.testing.assert_close([found.rows[name] for name in mine], list(mine.values()), check_dtype=False)
    print(f"{number} processes, ZeRO-{zero}: {found.parameters:,} parameters, bytes", mine)

# %% [markdown] tags=["zh"]
# 公式归公式，真的这样放吗？第 3 节的两个进程已经量过了：同一个模型走一步，数一数各自手里的张量。这里是 float32，所以是权重 4、梯度 4、两个矩 8。`ZeRO-1` 用的是 PyTorch 的 `ZeroRedundancyOptimizer`，`FSDP` 是 `fully_shard`：

# %% [markdown] tags=["en"]
# So much for the formula; is it so in memory? The two processes of section 3 have measured it: the same model takes one step, and each counts the tensors it holds. This is float32, hence weights 4, gradients 4, two moments 8. `ZeRO-1` is PyTorch's `ZeroRedundancyOptimizer`, `FSDP` is `fully_shard`:

# %%
measured = [json.loads(line) for line in said[2] if line.startswith("{")]
rows = {
    (way, f"process {each['rank']}"): [size / 1e6 for size in each[way]]
    for way in ("replicated", "ZeRO-1", "FSDP")
    for each in sorted(measured, key=lambda each: each["rank"])
}
held = pd.DataFrame(rows, ["weights", "gradients", "optimiser"]).T
held["MB"] = held.sum(axis=1)
held.round(2)

# %%
totals = held["MB"].groupby(level=0).sum()
weights = held.loc["replicated", "weights"].iloc[0]
assert abs(totals["replicated"] / weights - 2 * 16 / 4) < 0.01  # both hold 16 bytes where a weight takes 4
assert abs(totals["FSDP"] / weights - 16 / 4) < 0.01  # together they hold one model
print(f"both together: {totals['replicated']:.1f} MB replicated, {totals['FSDP']:.1f} MB under FSDP")

# %% [markdown] tags=["zh"]
# ### 6.1 7B 要多少
#
# `rlhf.plan` 不加载权重：它用没有存储的张量真走一步，数出激活值和临时张量，所以一台笔记本就能回答“放得下吗”。先看 PPO：

# %% [markdown] tags=["en"]
# ### 6.1 How much does 7B take?
#
# `rlhf.plan` loads no weights: it takes a real step with tensors that have no storage, and counts activations and temporaries, so that a laptop can say whether it fits. PPO first:

# %%
questions = {stage: plan.Question.of(seven / f"{stage}.yaml") for stage in ("sft", "reward", "ppo")}
print(plan.report(questions["ppo"], plan.gpu("a100-80gb")))

# %%
full = replace(questions["sft"].ask, lora_rank=0)  # all 7 billion learn
eight = {"8 GPUs": {"processes": 8}, "8, ZeRO-2": {"processes": 8, "zero": 2}}
eight |= {"8, ZeRO-3": {"processes": 8, "zero": 3}}
needs = {f"{stage}, LoRA\n1 or 8 GPUs": question.needs() for stage, question in questions.items()}
needs |= {f"sft, all\n{how}": questions["sft"].needs(ask=full, **among) for how, among in eight.items()}
ledger = pd.DataFrame({name: found.rows for name, found in needs.items()}) / memory.GIB
ledger.loc["at the peak"] = [found.total / memory.GIB for found in needs.values()]
ledger.rename(columns=lambda name: name.replace("\n", ", ")).round(1)

# %%
parts = ledger.drop("at the peak").fillna(0)
parts = parts[parts.max(axis=1) > 0.3]  # rows that can be seen
figure, axes = plt.subplots(figsize=(9, 3.8), layout="constrained")
parts.T.plot.barh(stacked=True, ax=axes, width=0.7)
for size in ("rtx-4090", "a100-80gb"):
    axes.axvline(plan.gpu(size).usable / memory.GIB, color="C7", ls="--", lw=1)
    axes.text(plan.gpu(size).usable / memory.GIB, -0.75, f" {size}", fontsize=8)
axes.set(xlabel="GiB per GPU (training and sampling do not coincide; here all is stacked)", ylabel="")
axes.invert_yaxis()
axes.legend(fontsize=7.5, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %%
for name, found in needs.items():
    fits = [card.name for card in plan.gpus().values() if found.total <= card.usable]
    print(
        f"{name.replace(chr(10), ', '):26} {found.total / memory.GIB:6.1f} GiB → {fits[0] if fits else 'none'}"
    )

# %% [markdown] tags=["zh"]
# 箭头后面是表里装得下它的最小的一张卡（代码算的）。两件事值得记住：
#
# - LoRA 的三个阶段，八块 GPU 和一块 GPU **每块**要的一样多：数据并行不省显存，只省时间。
# - 全部参数都学，数据并行时每块都要付全额；ZeRO-3 才把它摊开。两笔账记法不同：朴素做法的权重、梯度、矩都是 bfloat16，每个参数 8 字节；DeepSpeed 的 ZeRO 另存 float32 主权重和 float32 的矩，共 16 字节，更准，靠分摊才省下来。
#
# ## 7 两个进程的一次真训练
#
# 把 7B 的 PPO 缩小：LoRA、不合并、参考模型是关掉的适配器。配方里的批大小是**每个进程**的。启动器换成 `accelerate launch`，它把 `torchrun` 的参数写进一份 YAML；后面的命令一个字也不变：

# %% [markdown] tags=["en"]
# Behind the arrow stands the smallest card of the table that holds it, found by code. Two things to remember:
#
# - In the three LoRA stages eight GPUs need as much **each** as a single one: data-parallel saves time, not memory.
# - Where all parameters learn, data-parallel makes every GPU pay in full; it takes ZeRO-3 to spread it. The two accounts differ: plain training keeps weights, gradients and moments in bfloat16, 8 bytes per parameter; DeepSpeed's ZeRO has a float32 copy and float32 moments besides, 16 bytes, which is more exact and gets smaller only by being shared.
#
# ## 7 A real training in two processes
#
# PPO of the 7B recipe made small: LoRA, not merged, the reference is the adapter switched off. Batch sizes in a recipe are those of **each process**. The launcher is `accelerate launch` this time, which has the arguments of `torchrun` in a YAML file; not a word of the command behind it changes:

# %%
fields = {"profile": setup.profile, "seed": setup.seed, "output": "ppo_two_lora", "merge": False}
recipe = setup.output / "two.yaml"
recipe.write_text(yaml.safe_dump(fields | setup.sizes["two"], sort_keys=False))
print(recipe.read_text())

# %%
words = "-m", "rlhf.train", "ppo", "--config", short(recipe)
two_cpus = short(profiles.CHECKOUT / "recipes" / "accelerate" / "two_cpus.yaml")
accelerate = "accelerate.commands.launch", "--main_process_port", "0", "--config_file", two_cpus
if torch.cuda.device_count() >= 2:
    print(launch(torchrun(2), *words, device="cuda"))
else:
    print(launch(accelerate, *words))

# %% [markdown] tags=["zh"]
# 两个进程，可是每一行只印了一遍：只有**主进程**（`RANK` 为 0）印字、画进度条、写文件，别的等它。结果是普通的文件夹：

# %% [markdown] tags=["en"]
# Two processes, and yet every line was printed once: only the **main process** (`RANK` 0) prints, draws progress bars and writes files, and the others wait for it. The result is an ordinary folder:

# %%
made = profiles.root() / "output" / "ppo_two_lora"
print(sorted(path.name for path in made.iterdir()))
print("made by", json.loads((made / "made_from.json").read_text())["processes"], "processes")
log = pd.read_csv(made / "history.csv")
print(log[["env/reward_mean", "objective/kl"]].iloc[[0, -1]].round(2))

# %%
report.curves(log, keys=("env/reward_mean", "objective/kl", "ppo/policy/entropy"))

# %% [markdown] tags=["zh"]
# 这一次和单进程的训练不会逐位相同：每个进程用自己的随机种子采样（`device_specific` 的种子），写出来的回复不同。第 3 节喂的是同样的回复，所以能对上账。若两个进程用**同样的**种子采样同样的提示，第二个进程就白干了；练习 2 讲的就是提示这一半。
#
# ### 7.1 检查点、中断、失败
#
# - 每隔 `save_every` 步，状态存进 `output/runs/ppo_two_lora/state`：主进程写，但每个进程的随机状态都在里面。写法是“先写旁边，再改名”，断电也不会留下半个。
# - 同样的命令再来一次，就接着跑；两个进程存的，要两个进程接着跑，换了个数会报错。
# - 一个进程出了错（比如显存不够），启动器会结束其余的，退出码不是 0，`output/` 里不会有半个模型。
# - 不能多进程跑的阶段（`rejection`）在读任何东西之前就说出来。
#
# ### 7.2 换一种硬件
#
# 训练的命令不变，变的是前面的启动器：
#
# | 硬件 | 启动 | 在这里跑过吗 |
# |---|---|---|
# | 一块 GPU | `python -m rlhf.train ppo --config recipes/7b/ppo.yaml` | 没有 |
# | 两个 CPU 进程 | `RLHF_DEVICE=cpu accelerate launch --config_file recipes/accelerate/two_cpus.yaml -m rlhf.train …` | 跑过 |
# | 八块 GPU | `torchrun --nproc_per_node 8 -m rlhf.train …`，或 `accelerate launch --config_file recipes/accelerate/eight_gpus.yaml -m rlhf.train …` | 没有 |
# | ZeRO-2、ZeRO-3（DeepSpeed） | `accelerate launch --config_file recipes/accelerate/zero3.yaml -m rlhf.train sft …` | 用微型模型，在两个 CPU 进程里 |
# | FSDP | `accelerate launch --config_file recipes/accelerate/fsdp.yaml -m rlhf.train …` | 这种切分跑过：微型模型，两个 CPU 进程；这份文件没有 |
# | Gaudi（HPU） | `accelerate launch --config_file recipes/accelerate/gaudi.yaml -m rlhf.train …` | 没有，按文档写成 |
#
# ZeRO 用于 `sft` 和 `reward`，FSDP 三个阶段都能用，但 PPO 要当心：每写一个词元都要用到全部权重，所以采样之前先把切开的权重收集成一整份，写完再扔掉。
# 训练全部参数时，省下的仍然很可观；用 LoRA 时，要训练的只有适配器，切分省不下什么，反而多出收集的那一份。所以 7B 用 LoRA，一块大卡放得下，八块就数据并行。
#
# ## 8 合并适配器
#
# 训练存下的只是适配器，这里才几百 kB。服务、评测都想要一个完整的模型：$W + \frac{\alpha}{r}BA$ 加一次，存下来。`python -m rlhf.merge` 做这件事，并且当场核对：合并前后的 logits 要相等，存盘再读回来还要相等，否则什么也不写。

# %% [markdown] tags=["en"]
# This run does not equal one in a single process bit by bit: each process samples with a seed of its own (a `device_specific` one) and writes other responses. In section 3 both were given the same ones, so the accounts could be balanced. Had both processes sampled the same prompts with the **same** seed, the second would have worked for nothing; exercise 2 is about the prompts' half of it.
#
# ### 7.1 Checkpoints, interrupts, failures
#
# - Every `save_every` steps the state goes to `output/runs/ppo_two_lora/state`: the main process writes, but the random state of each is in it. It is written beside its place and then renamed, so that no power cut leaves a half.
# - The same command once more goes on; what two processes saved, two have to continue, another number is refused.
# - If one process fails, out of memory say, the launcher ends the others, its exit code is not 0, and there is no half a model in `output/`.
# - A stage that cannot run in several processes (`rejection`) says so before it reads anything.
#
# ### 7.2 Other hardware
#
# The training command stays, the launcher in front of it changes:
#
# | hardware | launch | run here? |
# |---|---|---|
# | one GPU | `python -m rlhf.train ppo --config recipes/7b/ppo.yaml` | no |
# | two CPU processes | `RLHF_DEVICE=cpu accelerate launch --config_file recipes/accelerate/two_cpus.yaml -m rlhf.train …` | yes |
# | eight GPUs | `torchrun --nproc_per_node 8 -m rlhf.train …`, or `accelerate launch --config_file recipes/accelerate/eight_gpus.yaml -m rlhf.train …` | no |
# | ZeRO-2, ZeRO-3 (DeepSpeed) | `accelerate launch --config_file recipes/accelerate/zero3.yaml -m rlhf.train sft …` | with a miniature, in two CPU processes |
# | FSDP | `accelerate launch --config_file recipes/accelerate/fsdp.yaml -m rlhf.train …` | such sharding, with a miniature in two CPU processes; not this file |
# | Gaudi (HPU) | `accelerate launch --config_file recipes/accelerate/gaudi.yaml -m rlhf.train …` | no, written from documentation |
#
# ZeRO is for `sft` and `reward`. FSDP takes all three stages, with a catch in PPO: every token written needs all the weights, so the shards are gathered into a whole before sampling and dropped afterwards. Where all parameters learn, that still saves much. With LoRA only the adapter learns: sharding has little to save, and the gathered copy comes on top. So 7B takes LoRA, which fits one large card, and eight of them data-parallel.
#
# ## 8 Merging the adapter
#
# What training saved is an adapter only, some hundred kB here. Serving and evaluation want a whole model: add $W + \frac{\alpha}{r}BA$ once and save it. `python -m rlhf.merge` does so and checks on the spot: logits must be equal before and after merging, and again after storing and loading; otherwise nothing is written.

# %%
merged = merge.merge(
    "ppo_two_lora", "ppo_two", again=True
)  # python -m rlhf.merge ppo_two_lora --output ppo_two
print(merged)

# %%
after, _ = sft.load_policy(merged.folder, setup.device)
unmerged = PeftModel.from_pretrained(sft.load_policy(setup.policy, setup.device)[0], made).eval()
with torch.no_grad():
    both = [model(input_ids=ids).logits for model in (after, unmerged)]  # (2, 16, V) each
torch.testing.assert_close(*both, atol=1e-3, rtol=1e-4)
print(f"merged and unmerged differ by at most {(both[0] - both[1]).abs().max():.1e}")

# %% [markdown] tags=["zh"]
# ## 9 服务
#
# 结果能用了，该让别人也用上。最通行的接口是 OpenAI 式的 HTTP；transformers 自带一个服务器（`transformers serve`），`rlhf.serve` 给它补上模型缺的对话模板和采样设置。下面在一个空闲端口上把训练前后的模型一起端出来，用官方的 `openai` 客户端各问一次，然后关掉：

# %% [markdown] tags=["en"]
# ## 9 Serving
#
# The result works, so let others use it. The interface most in use is OpenAI's, over HTTP; transformers brings a server (`transformers serve`), and `rlhf.serve` adds what the model lacks, a chat template and sampling settings. Here the models before and after are served on a free port, asked once each through the official `openai` client, and stopped:

# %%
with running(setup.policy, merged.folder) as server:
    client = openai.OpenAI(base_url=server.base_url, api_key="none")
    said_by = {
        model: client.completions.create(model=model, prompt="This movie", max_tokens=16, seed=1)
        .choices[0]
        .text
        for model in server.models
    }
for model, text in said_by.items():
    print(f"{model:>8}: This movie{text!r}  score {reward(['This movie' + text])[0]:+.2f}")

# %% [markdown] tags=["zh"]
# 想在网页上并排比较，每个回答都带着奖励模型的分数：`python -m rlhf.serve profile ppo_two --open`。用户很多时换 vLLM，它也是同样的接口：`vllm serve output/ppo_two`（没有在这里运行过）。
#
# ## 10 训练前后
#
# 表里是两个进程训练、合并之后的模型，在训练没见过的提示上：

# %% [markdown] tags=["en"]
# To compare side by side on a web page, with the reward of each answer: `python -m rlhf.serve profile ppo_two --open`. For many users take vLLM, which has the same interface: `vllm serve output/ppo_two` (not run here).
#
# ## 10 Before and after
#
# The table is of the model that two processes trained, after merging, on prompts that training never saw:

# %%
lengths = evaluate.response_lengths(setup, len(prompts), seed=setup.seed)
answers = {
    name: evaluate.respond(model, tokenizer, prompts, lengths, seed=setup.seed)
    for name, model in (("before", policy), ("after", after))
}
kl = evaluate.response_kl(after, policy, answers["after"])  # (P,)
judge = WordJudge.fit(evaluate.judge_reviews(setup, prompts))
print(f"{len(kl)} prompts, KL {kl.mean():.2f} nats per response")

# %% tags=["table"]
result = evaluate.compare(
    prompts,
    answers["before"],
    answers["after"],
    tokenizer,
    reward,
    judge=judge,
    kl=kl,
    shown=setup.evaluation["shown"],
    title="11 Scaling up: PPO with LoRA in two processes",
    meta=report.run_meta(setup, started),
)
result.save(setup.output)
result

# %%
gain, low, high = result.gain
print(f"score: {gain:+.2f} [{low:+.2f}, {high:+.2f}]", "a gain" if low > 0 else "no gain is established")
gain, low, high = result.judge_gain
print(f"word judge: {gain:+.2f} [{low:+.2f}, {high:+.2f}]", "a gain" if low > 0 else "no gain is established")

# %% [markdown] tags=["zh"]
# 奖励是它训练时的目标；词袋评委没有参与训练，它的那一行更可信。
#
# ## 11 小结
#
# - 一个阶段是一条命令加一份配方；启动器决定进程数，命令本身不变。
# - 数据并行：各算各的行，平均梯度；分片不一样大，就按词元加权；均值和方差由个数、和、平方和合成。
# - 两个进程和一个进程、8 × 1 和 1 × 8，参数相差不到 1e-5；对不上的那一列，先想想它该不该对上。
# - LoRA 的参考模型就是关掉的适配器；训练存适配器，服务之前合并并核对。
# - 数据并行不省显存；ZeRO 和 FSDP 才省，代价是通信。先用 `rlhf.plan` 算，再排队等卡。
# - 只有主进程写文件；一个进程失败，大家一起停，不留半成品。

# %% [markdown] tags=["en"]
# The reward is what it was trained on; the word judge took no part in training, and its line deserves more trust.
#
# ## 11 Summary
#
# - A stage is one command and one recipe; the launcher decides on the number of processes, and the command stays.
# - Data-parallel: each process computes its rows, gradients are averaged; unequal shards are weighed by tokens; mean and variance come from count, sum and sum of squares.
# - Two processes and one, 8 × 1 and 1 × 8: parameters differ by less than 1e-5; where a column does not agree, ask first whether it should.
# - With LoRA the reference is the adapter switched off; training saves an adapter, which is merged and checked before serving.
# - Data-parallel saves no memory; ZeRO and FSDP do, at the price of communication. Ask `rlhf.plan` before queueing for a card.
# - Only the main process writes files; if one process fails all stop, and nothing half-written is left.

# %% [markdown] tags=["zh"]
# ## 12 练习
#
# 把 `...` 换成你的答案再运行，批改结果马上出现。每题后面藏着一个参考答案，点开就能看。
#
# ### 练习 1（三个数）
#
# 每个进程报出 `(count, sum, squares)`：个数、和、平方和。写出 `mean_and_variance(parts)`：全部数的均值和**无偏**方差。有的进程可能一个数也没有。

# %% [markdown] tags=["en"]
# ## 12 Exercises
#
# Replace `...` with your answer and run the cell; it is graded at once. A solution is hidden after each exercise; click to open it.
#
# ### Exercise 1 (three numbers)
#
# Every process reports `(count, sum, squares)`, where the last is the sum of squares. Write `mean_and_variance(parts)`: mean and **unbiased** variance of all numbers. Some process may have none at all.


# %% tags=["exercise"]
def mean_and_variance(parts): ...  # your code


checks.e11_1(mean_and_variance)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_1(parts):
    count, total, squares = (sum(column) for column in zip(*parts, strict=True))
    mean = total / count
    return mean, (squares - count * mean**2) / (count - 1)


checks.e11_1(solution_1).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 2（找错：两个进程，一份工作）
#
# 下面的函数决定第 `rank` 个进程在第 `step` 步取数据的哪几行。它能跑，损失也会下降，可是加进程不会变快，有的行还一直轮不到。找出错误，写出正确的 `my_rows`：
#
# - 同一步里，`world` 个进程的行互不相同，合起来 `batch * world` 行；
# - 一轮（epoch）之内每行只出现一次，下一轮重新洗牌；
# - 次序由 `seed` 决定。`total` 是 `batch * world` 的整数倍，或者多出来的尾巴不用。

# %% [markdown] tags=["en"]
# ### Exercise 2 (find the bug: two processes, one job)
#
# The function below decides which rows of the data process `rank` takes in step `step`. It runs, and the loss goes down; yet more processes make nothing faster, and some rows never come up. Find the mistakes and write the right `my_rows`:
#
# - within one step the rows of the `world` processes are all different, `batch * world` together;
# - within an epoch each row comes up once, and the next epoch is shuffled anew;
# - the order is decided by `seed`. `total` is a multiple of `batch * world`, or what is left over is not used.


# %%
def buggy_rows(total, step, batch, rank, world, seed):
    """The rows that one process takes in one step."""
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed + rank))
    start = step * batch % total
    return order[start : start + batch].tolist()


taken = [buggy_rows(16, 0, 4, rank, 4, seed=0) for rank in range(4)]
print(taken, "→", len({row for rows in taken for row in rows}), "different rows of 16")


# %% tags=["exercise"]
def my_rows(total, step, batch, rank, world, seed): ...  # your code


checks.e11_2(my_rows)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_2(total, step, batch, rank, world, seed):
    epoch, place = divmod(step, total // (batch * world))
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed + epoch))  # one deck for all
    start = place * batch * world + rank * batch
    return order[start : start + batch].tolist()


taken = [solution_2(16, 0, 4, rank, 4, seed=0) for rank in range(4)]
print(taken, "→", len({row for rows in taken for row in rows}), "different rows of 16")
checks.e11_2(solution_2).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 3（分片不一样大）
#
# 每个进程的损失是自己那些词元的**平均**，DDP 随后对梯度取各进程的平均。写出 `factor(tokens, rank)`：第 `rank` 个进程反向之前该把损失乘上几，结果才等于对全部词元的平均？`tokens` 是各进程的词元数。

# %% [markdown] tags=["en"]
# ### Exercise 3 (unequal shards)
#
# The loss of each process is the **mean** over its own tokens, and DDP then averages the gradients of all processes. Write `factor(tokens, rank)`: what must process `rank` multiply its loss with before the backward pass, for the result to be that of the mean over all tokens? `tokens` are the numbers of tokens of all processes.


# %% tags=["exercise"]
def factor(tokens, rank): ...  # your code


checks.e11_3(factor)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution_3(tokens, rank):
    return tokens[rank] * len(tokens) / sum(tokens)


weighed = sum(g * solution_3([2, 6], k) for k, g in enumerate(uneven)) / 2  # what DDP makes of it
torch.testing.assert_close(weighed, whole)
checks.e11_3(solution_3).must_pass()

# %% [markdown] tags=["zh"]
# ### 练习 4（先预测，再对照）
#
# 13B 参数的模型，16 块 GPU，16 位混合精度加 Adam，全部参数都学。不写代码，先算出每块 GPU 上权重、梯度、优化器一共多少 GB（10 的 9 次方字节）：数据并行、ZeRO-1、ZeRO-2、ZeRO-3。

# %% [markdown] tags=["en"]
# ### Exercise 4 (predict, then compare)
#
# A model of 13B parameters, 16 GPUs, 16-bit mixed precision with Adam, all parameters learn. Without code, work out how many GB (10 to the 9th bytes) of weights, gradients and optimiser lie on each GPU: data-parallel, ZeRO-1, ZeRO-2, ZeRO-3.

# %% tags=["exercise"]
replicated, zero_1, zero_2, zero_3 = ..., ..., ..., ...
checks.e11_4(replicated, zero_1, zero_2, zero_3)

# %% tags=["solution"] jupyter={"source_hidden": true}
computed = [sum(per_rank(13e9, 16, zero).values()) / 1e9 for zero in range(4)]
print("computed:", computed)
checks.e11_4(16 * 13, 4 * 13 + 12 * 13 / 16, 2 * 13 + 14 * 13 / 16, 16 * 13 / 16).must_pass()

# %% [markdown] tags=["zh"]
# ## 13 延伸阅读
#
# - Rajbhandari et al. 2020，[ZeRO](https://arxiv.org/abs/1910.02054)：3.1 节的 16 字节，第 5 节的三个级别。
# - Zhao et al. 2023，[PyTorch FSDP](https://arxiv.org/abs/2304.11277)：PyTorch 里的同一个想法，和它的坑。
# - Hu et al. 2021，[LoRA](https://arxiv.org/abs/2106.09685)：适配器；第 03 课从零写过。
# - [Accelerate 文档](https://huggingface.co/docs/accelerate)：启动器的配置，DeepSpeed、FSDP、Gaudi。
# - 更大规模的 PPO（采样和训练分开，策略切成几块）：[OpenRLHF](https://arxiv.org/abs/2405.11143)、[HybridFlow / verl](https://arxiv.org/abs/2409.19256)。

# %% [markdown] tags=["en"]
# ## 13 Further reading
#
# - Rajbhandari et al. 2020, [ZeRO](https://arxiv.org/abs/1910.02054): the 16 bytes of section 3.1, the three stages of section 5.
# - Zhao et al. 2023, [PyTorch FSDP](https://arxiv.org/abs/2304.11277): the same idea in PyTorch, and its traps.
# - Hu et al. 2021, [LoRA](https://arxiv.org/abs/2106.09685): adapters, which lesson 03 writes from scratch.
# - [Accelerate's documentation](https://huggingface.co/docs/accelerate): settings of the launcher, DeepSpeed, FSDP, Gaudi.
# - PPO at larger sizes, with sampling and training apart and the policy in pieces: [OpenRLHF](https://arxiv.org/abs/2405.11143), [HybridFlow / verl](https://arxiv.org/abs/2409.19256).
