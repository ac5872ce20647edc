"""The answer in words: a table, whether a GPU holds it, how long a step takes, what would make it smaller.

In: a recipe file as a :class:`Question`. Out: the text that the command prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf import profiles
from rlhf.memory import GIB

from .asking import Ask, find_config, read_recipe
from .cards import UTILISATION, Gpu, gpus
from .needing import Needs, needs

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Question:
    """A recipe, its models, and how it is launched."""

    title: str
    config: PreTrainedConfig
    ask: Ask
    reward: PreTrainedConfig | None = None
    processes: int = 1
    zero: int = 0

    @classmethod
    def of(
        cls, path: str | Path, words: Sequence[str] = (), model: str | None = None, stage: str | None = None
    ) -> Question:
        """From a recipe file and what replaces its fields. Raises as :func:`read_recipe` does."""
        stage, values = read_recipe(path, words, stage)
        near = Path(path).parent
        title, config = find_config(model or values["policy"], values, near)
        reward = None
        if stage == "ppo" and not model:
            reward = _reward_config(values, near, config)
        positions = getattr(config, "max_position_embeddings", None) or 1 << 30
        return cls(title, config, Ask.of(stage, values, positions), reward)

    def needs(self, **other: Any) -> Needs:
        """What it needs; ``other`` replaces ``ask``, ``processes`` or ``zero``."""
        asked = {"ask": self.ask, "processes": self.processes, "zero": self.zero} | other
        return needs(self.config, asked.pop("ask"), self.reward, **asked)


def _reward_config(values: Mapping[str, Any], near: Path, policy: PreTrainedConfig) -> PreTrainedConfig:
    from transformers import AutoConfig

    from rlhf.stages import OWN

    if values["reward_model"] != OWN:
        return find_config(values["reward_model"], values, near)[1]
    folder = profiles.root() / profiles.read(values.get("profile"))["reward_model"]
    return AutoConfig.from_pretrained(folder) if (folder / "config.json").is_file() else policy


def changes(ask: Ask) -> list[tuple[str, Ask, int | None]]:
    """What makes a run smaller, the cheapest first: ``(what to write, the new Ask, ZeRO)``. Every
    line includes those before it."""
    found: list[tuple[str, Ask, int | None]] = []

    def add(text: str, zero: int | None = None, **new: Any) -> None:
        found.append((text, replace(found[-1][1] if found else ask, **new), zero))

    if ask.dtype == "float32":
        add("dtype: bfloat16", dtype="bfloat16")
    if not ask.checkpointing:
        add("gradient_checkpointing: true", checkpointing=True)
    size = "mini_batch_size" if ask.stage == "ppo" else "batch_size"
    least = 2 if ask.stage == "reward" else 1
    if ask.sequences > least:
        factor = ask.sequences // least
        add(
            f"{size}: 1 and {factor} times the gradient_accumulation_steps",
            sequences=least,
            passes=ask.passes * factor,
        )
    if not ask.lora_rank:
        add("lora_rank: 16", lora_rank=16)
    if ask.stage != "ppo":  # which samples from whole weights
        add("--zero 3 on 8 GPUs", zero=3)
    if ask.quantize == "none":
        add("quantize: 4bit (without --zero)", quantize="4bit")
    return found


def report(question: Question, chosen: Gpu | None = None, utilisation: float = UTILISATION) -> str:
    """What is printed: the table, and what it means for one GPU or for all in the table."""
    found, ask = question.needs(), question.ask
    lines = [
        f"{ask.stage} · {question.title}: {found.parameters:,} parameters, {found.trained:,} of them learn",
        f"one process: {ask.sequences} × {ask.tokens} tokens in a pass, {ask.passes} passes a step, "
        f"{ask.dtype}, {f'LoRA of rank {ask.lora_rank}' if ask.lora_rank else 'all weights'}"
        f"{f' on a base in {ask.quantize}' if ask.quantize != 'none' else ''}"
        f"{', Adafactor' if ask.optimizer == 'adafactor' else ''}"
        f"{', activations recomputed' if ask.checkpointing else ''} · {question.processes} "
        f"process{'es' if question.processes > 1 else ''}, ZeRO {question.zero}",
        "",
        f"{'per process':14}{'GiB':>9}",
    ]
    lines += [f"{name:14}{value / GIB:9.2f}" for name, value in found.rows.items() if value]
    phases = [
        f"{phase} {found.during(phase) / GIB:.2f}" for phase in ("training", "sampling")[: 1 + bool(ask.rows)]
    ]
    lines += [f"{'at the peak':14}{found.total / GIB:9.2f}   ({', '.join(phases)})", ""]
    if chosen is None:
        return "\n".join(lines + [_verdict(found, g, utilisation) for g in gpus().values()])
    lines += [_verdict(found, chosen, utilisation)]
    if ask.dtype == "float32":
        lines += ["float32: products take at least twice this time (TF32) · float32 的矩阵乘至少慢一倍"]
    if found.total > chosen.usable:
        lines += ["", "smaller · 缩小（逐条累加，each line with those before it）:"]
        lines += _smaller(question, chosen)
    return "\n".join(lines)


def _verdict(found: Needs, one: Gpu, utilisation: float) -> str:
    left = (one.usable - found.total) / GIB
    verdict = (
        f"fits · 放得下, {left:.1f} GiB left" if left >= 0 else f"too small · 放不下, by {-left:.1f} GiB"
    )
    seconds = found.seconds(one, utilisation)
    speed = f"{_time(seconds)} a step, {found.tokens / seconds:,.0f} tokens/s" if left >= 0 else ""
    return f"{one.name:10} {one.usable / GIB:6.1f} usable   {verdict:32} {speed}".rstrip()


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _smaller(question: Question, chosen: Gpu) -> list[str]:
    lines = []
    for text, ask, zero in changes(question.ask):
        launch = {"processes": max(8, question.processes), "zero": zero} if zero else {}
        total = question.needs(ask=ask, **launch).total
        lines.append(f"  {text:64} → {total / GIB:6.1f} GiB{', fits' if total <= chosen.usable else ''}")
        if total <= chosen.usable:
            return lines
    total = question.needs().total
    large = next((g.name for g in gpus().values() if g.usable >= total), None)
    return [*lines, f"  another GPU: {large or 'none in the table'}"]
