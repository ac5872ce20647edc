"""What is asked: a stage, its sizes and settings, and the configuration of its model.

In: a recipe of :mod:`rlhf.train` and words that replace its fields. Out: an :class:`Ask` and a configuration
of transformers; no weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf import memory, museum, plain_yaml, profiles
from rlhf.errors import MissingAssets
from rlhf.memory import BadPlan

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

STAGES = ("sft", "reward", "ppo")


@dataclass(frozen=True)
class Ask:
    """What one process does, as the recipe says.

    Attributes:
        stage: sft, reward or ppo. sequences, tokens: of one forward and backward pass. passes: how many of
            them make a step. dtype: of the frozen weights and the arithmetic. lora_rank: 0 trains everything.
        quantize: how the frozen weights beside an adapter are stored: none (in dtype), 8bit or 4bit.
        optimizer: adam, adamw or adafactor. checkpointing: recompute activations. rows: sequences that PPO
            samples per step. new_tokens: how long their responses are.
    """

    stage: str
    sequences: int
    tokens: int
    passes: int = 1
    dtype: str = "float32"
    lora_rank: int = 0
    quantize: str = "none"
    optimizer: str = "adam"
    checkpointing: bool = False
    rows: int = 0
    new_tokens: int = 0

    @classmethod
    def of(cls, stage: str, values: Mapping[str, Any], positions: int = 1 << 30) -> Ask:
        """From the fields of a recipe. Raises BadPlan for a stage that is not planned."""
        if stage not in STAGES:
            raise BadPlan(
                f"不估算 {stage} 阶段；可选：{', '.join(STAGES)}。拒绝采样的训练就是 SFT，采样看 PPO。",
                f"The stage {stage} is not planned; there are: {', '.join(STAGES)}. Rejection sampling "
                "trains like SFT and samples like PPO.",
            )
        common = {
            "stage": stage,
            "dtype": values.get("dtype", "float32"),
            "lora_rank": values.get("lora_rank", 0),
            "quantize": values.get("quantize", "none"),
            "optimizer": values.get("optimizer", "adam"),
            "checkpointing": values.get("gradient_checkpointing", False),
        }
        memory.bytes_of(common["dtype"])
        accumulated = values.get("gradient_accumulation_steps", 1)
        if stage == "ppo":
            queries, responses = (values[name][1] - 1 for name in ("query_tokens", "response_tokens"))
            size = values["mini_batch_size"]
            return cls(
                sequences=size,
                tokens=min(queries + responses, positions),
                passes=values["ppo_epochs"] * max(1, values["batch_size"] // size),
                rows=values["batch_size"],
                new_tokens=responses,
                **common,
            )
        longest = values.get("max_length", positions)
        if stage == "reward" and values.get("data", "reviews") == "reviews":
            longest = min(longest, values["tokens"][1] + 1)  # and the end-of-sequence token
        both = 2 if stage == "reward" else 1  # chosen and rejected go through together
        return cls(
            sequences=both * values["batch_size"],
            tokens=min(longest, positions),
            passes=accumulated,
            **common,
        )


def read_recipe(path: str | Path, words: Sequence[str] = (), stage: str | None = None) -> tuple[str, dict]:
    """The stage and every field of a recipe; the name of the file tells the stage: ``sft.yaml``.

    Raises:
        BadPlan: the name tells no stage. BadRecipe: as :func:`rlhf.train.resolve`.
    """
    from rlhf import train

    stage = stage or next((name for name in train.STAGES if Path(path).stem.startswith(name)), None)
    if stage not in train.STAGES:
        raise BadPlan(
            f"从 {Path(path).name} 看不出是哪个阶段；用 --stage 说明：{', '.join(STAGES)}。",
            f"{Path(path).name} does not tell its stage; name it with --stage: {', '.join(STAGES)}.",
        )
    known = train.STAGES[stage].known()
    given = ["--config", str(path), *words]
    return stage, train.resolve(train.STAGES[stage], known, given, "python -m rlhf.plan")


def find_config(
    name: str, values: Mapping[str, Any], near: Path | None = None
) -> tuple[str, PreTrainedConfig]:
    """A title and the configuration of a model: a folder, a name under ``output/`` or ``model/``, an exhibit
    of the museum or the hub's name of one, or what a recipe in the folder ``near`` is going to make.

    Raises:
        BadPlan: nothing of that; the message lists the exhibits.
    """
    from transformers import AutoConfig

    from rlhf.stages import OWN

    name, root = str(name), profiles.root()
    if name == OWN:
        profile = profiles.read(values.get("profile"))
        folder = root / profile["policy"]
        if not (folder / "config.json").is_file():
            raise MissingAssets(
                f"还没有 {profile['policy']}。先运行：{profile['prepare']}，或用 --model 换一个模型。",
                f"There is no {profile['policy']} yet. Run: {profile['prepare']}; "
                "or name another with --model.",
            )
        return folder.name, AutoConfig.from_pretrained(folder)
    last = Path(name).name
    for folder in (root / "output" / name, root / name, Path(name).expanduser(), root / "model" / last):
        if (folder / "config.json").is_file():
            return last, AutoConfig.from_pretrained(folder)
    for card in museum.exhibits().values():
        if name in (card.name, card.repo) or last == card.repo.rpartition("/")[2]:
            if card.cls.startswith("rlhf.") or not card.cls.endswith(("ForCausalLM", "LMHeadModel")):
                continue
            import transformers

            return card.title, getattr(transformers, card.cls).config_class(**card.fields())
    for file in sorted(near.glob("*.yaml")) if near else ():
        found = plain_yaml.parse(file.read_text(encoding="utf-8")) or {}
        if found.get("output") in (name, f"{name}_lora") and found.get("policy") not in (None, name):
            return find_config(found["policy"], found, near)
    known = ", ".join(museum.names())
    raise BadPlan(
        f"找不到 {name} 的配置。用 --model 指定一个文件夹，或这些之一：{known}。",
        f"There is no configuration of {name}. Name a folder with --model, or one of: {known}.",
    )
