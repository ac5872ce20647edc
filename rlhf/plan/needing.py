"""What one process needs: a row of bytes for every purpose, shared out as ZeRO does.

In: a configuration, an :class:`~rlhf.plan.Ask`, a number of processes. Out: :class:`Needs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rlhf import memory, museum
from rlhf.memory import BadPlan

from .asking import Ask
from .building import build
from .cards import READING, UTILISATION, Gpu
from .counting import Count, count, optimizer_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# What the rows mean; --help prints it.
ROWS = {
    "weights": (
        "全部权重；LoRA 时底座（可量化）加适配器。ZeRO-3 分摊到各进程",
        "all weights, with LoRA the base (quantised if asked) and the adapter; ZeRO-3 shares them out",
    ),
    "gradients": (
        "只有要训练的权重才有（训练阶段）。ZeRO-2、3 分摊",
        "of the weights that learn (while training); ZeRO-2 and 3 share them out",
    ),
    "optimizer": (
        "Adam 的两个矩，或 Adafactor 的行列均值；ZeRO 时还有 float32 主权重，并分摊",
        "Adam's two moments, or Adafactor's rows and columns; under ZeRO also float32 weights; shared out",
    ),
    "reference": (
        "PPO 的参考模型，ZeRO-3 也分摊；LoRA 时是关掉适配器的策略，不占显存",
        "of PPO, shared out by ZeRO-3; with LoRA it is the policy with its adapter off and takes nothing",
    ),
    "reward_model": ("PPO 打分用的模型，只有权重", "what scores PPO's texts; weights only"),
    "value_head": (
        "PPO 的价值头：权重、梯度、优化器状态，float32",
        "of PPO: weights, gradients and what the optimizer keeps, float32",
    ),
    "activations": (
        "一次前向为反向留下的张量（训练阶段）",
        "what one forward pass keeps for the backward pass (while training)",
    ),
    "temporaries": (
        "峰值处另有的临时张量，如 logits 及其梯度（训练阶段）",
        "what comes and goes at the peak, logits and their gradient above all (while training)",
    ),
    "cache": ("采样时的键和值（采样阶段）", "keys and values while sampling"),
    "gathered": (
        "ZeRO-3：正在算的那一块的完整权重（两块，和词表；训练阶段）",
        "ZeRO-3: whole weights of what is computed just now (two blocks and the vocabulary; while training)",
    ),
    "gathered_whole": (
        "ZeRO-3 的 PPO：采样前收集成一整份的权重（采样阶段）",
        "PPO under ZeRO-3: all weights, gathered once to sample from (while sampling)",
    ),
}


@dataclass(frozen=True)
class Needs:
    """What one process needs: bytes by purpose (the rows of :data:`ROWS`), FLOPs and bytes read per step."""

    rows: Mapping[str, float]
    parameters: int
    trained: int
    flops: float
    read: float
    tokens: int

    PHASES = {  # noqa: RUF012
        "training": ("gradients", "activations", "temporaries", "gathered"),
        "sampling": ("cache", "gathered_whole"),
    }

    @property
    def always(self) -> float:
        """What is there all the time."""
        passing = {name for names in self.PHASES.values() for name in names}
        return sum(value for name, value in self.rows.items() if name not in passing)

    def during(self, phase: str) -> float:
        """Bytes while ``training`` or ``sampling``."""
        return self.always + sum(self.rows.get(name, 0.0) for name in self.PHASES[phase])

    @property
    def total(self) -> float:
        """The larger of the two phases: what the GPU must hold."""
        return max(self.during(phase) for phase in self.PHASES)

    def seconds(self, gpu: Gpu, utilisation: float = UTILISATION) -> float:
        """Time of one step: products at a share of the GPU's peak, sampling at a share of its bandwidth."""
        return self.flops / (utilisation * gpu.tflops * 1e12) + self.read / (READING * gpu.bandwidth * 1e9)


def needs(
    config: PreTrainedConfig,
    ask: Ask,
    reward: PreTrainedConfig | None = None,
    *,
    processes: int = 1,
    zero: int = 0,
) -> Needs:
    """What one of ``processes`` needs.

    Args:
        reward: configuration of PPO's reward model. zero: stage of DeepSpeed's ZeRO; FSDP is like 3.

    Raises:
        BadPlan: no such ZeRO stage, no process, ZeRO with a quantised base, or see :func:`count`.
    """
    if zero not in (0, 2, 3) or processes < 1:
        raise BadPlan(
            f"--zero 是 0、2 或 3，--processes 至少 1；现在是 {zero} 和 {processes}。",
            f"--zero is 0, 2 or 3 and --processes at least 1, not {zero} and {processes}.",
        )
    if zero and ask.quantize != "none":
        raise BadPlan(
            "量化的底座不能分摊（--zero）；要么 quantize: none，要么每个进程一整份。",
            "A quantised base is not shared out (--zero): quantize: none, or a whole one in every process.",
        )
    counted, *parts = count(config, ask)
    rows = _shard(counted, parts, processes, zero)
    flops, read = ask.passes * counted.both, 0.0
    parameters, trained = int(counted.parameters), int(counted.trained)
    if ask.stage == "ppo":
        scorer = _frozen(reward or config, ask)
        full = 0.0 if ask.lora_rank else counted.weights
        if zero == 3:
            full /= processes
            rows["gathered_whole"] = counted.weights
        rows |= {"reference": full, "reward_model": scorer.weights}
        rows["value_head"] = _value_head(config.hidden_size, ask.optimizer)
        rows["cache"] = counted.cache
        trained += config.hidden_size + 1
        parameters += config.hidden_size + 1
        chunks = ask.rows / ask.sequences
        # `forward` holds the passes of policy and reference; one token of a response reads all weights and,
        # on the average, half of the cache
        flops += chunks * (counted.forward + scorer.forward)
        flops += ask.rows * ask.new_tokens * 2 * counted.parameters
        read = chunks * ask.new_tokens * (counted.weights + counted.cache / 2)
    rows["temporaries"] = max(rows["temporaries"], counted.scoring - counted.activations) + counted.unpacked
    tokens = ask.rows * ask.tokens or ask.passes * ask.sequences * ask.tokens
    return Needs({name: rows.get(name, 0.0) for name in ROWS}, parameters, trained, flops, read, tokens)


def _value_head(hidden: int, optimizer: str) -> float:
    """Weights, gradients and optimiser of ``Linear(hidden, 1)``."""
    parts = [torch.empty(1, hidden, device="meta"), torch.empty(1, device="meta")]
    return 8.0 * (hidden + 1) + optimizer_bytes(parts, optimizer)


def _frozen(config: PreTrainedConfig, ask: Ask) -> Count:
    """The reward model: its weights, and the FLOPs of one pass over the rollouts."""
    plain = Ask("reward", ask.sequences, ask.tokens, dtype=ask.dtype)
    one, two = (build(config, plain, depth) for depth in (1, 2))
    sizes = [memory.tensor_bytes(model.parameters()) for model in (one, two)]
    numbers = [museum.anatomy.count(model) for model in (one, two)]
    further = config.num_hidden_layers - 1
    total, number = (pair[0] + (pair[1] - pair[0]) * further for pair in (sizes, numbers))
    return Count(weights=total, forward=2.0 * number * ask.sequences * ask.tokens)


def _shard(counted: Count, parts: Sequence[float], processes: int, zero: int) -> dict[str, float]:
    """Weights, gradients and optimiser of one process.

    Without ZeRO all is as plain PyTorch has it: gradients and optimiser in the format of the weights
    that learn (PEFT keeps adapters in float32). DeepSpeed keeps these in 2 bytes with gradients in 2 bytes,
    and in its share of the optimiser a float32 copy and two moments, 12 bytes per number (Rajbhandari et al.
    2020, section 3.1).
    """
    moving = {
        "activations": counted.activations,
        "temporaries": max(0.0, counted.peak - counted.activations),
    }
    if zero == 0:
        return {
            "weights": counted.weights,
            "gradients": counted.trained_bytes,
            "optimizer": counted.optimizer,
            **moving,
        }
    frozen = counted.weights - counted.trained_bytes
    rows = {
        "weights": frozen + 2.0 * counted.trained,
        "gradients": 2.0 * counted.trained / processes,
        "optimizer": 12.0 * counted.trained / processes,
        **moving,
    }
    if zero == 3:
        rows["weights"] /= processes
        rows["gathered"] = min(2 * parts[0] + parts[1], counted.weights)
    return rows
