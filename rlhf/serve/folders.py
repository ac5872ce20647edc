"""A model folder as a server wants it. What ours lack, and what happens to whoever serves them as they are:

- no chat template: ``/v1/chat/completions`` answers 500. These models continue a text, so the template says
  just that; those trained on dialogues get the words that were around a question in training.
- ``do_sample`` is off: ``temperature`` and ``seed`` are accepted and have no effect.

In: the folder of a causal language model. Out: another folder with links to its files and these two things
added. A template or sampling settings of the model's own are kept. Lesson 11 uses it.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rlhf import model_files
from rlhf.errors import CourseError, MissingAssets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE, SAMPLING = "chat_template.jinja", "generation_config.json"
FULL_SOFTMAX = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
OWN, DIALOGUE, CONTINUE = "own", "dialogue", "continue"  # where a chat template comes from


class BadModel(CourseError, ValueError):
    """A folder that holds something else than a language model that can be served."""


@dataclass(frozen=True)
class Served:
    """A folder made ready by :func:`prepare`.

    Attributes:
        name: what clients call it. source: the model's folder. folder: the one to serve.
        form: where its chat template is from: ``own``, ``dialogue`` or ``continue``.
        positions: tokens that prompt and answer may have together; None: no limit is known.
    """

    name: str
    source: Path
    folder: Path
    form: str
    positions: int | None


def prepare(source: Path, place: Path, name: str) -> Served:
    """Make ``place/name`` out of links to the files of ``source``; nothing in ``source`` is changed.

    Raises:
        BadModel: an adapter, a reward model, or no weights. MissingAssets: no model, or no tokenizer.
    """
    config = _check(source)
    folder = place / name
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and file.name != SAMPLING:
            _link(file, folder / file.name)
    _write_sampling(source, folder)
    tokenizer = model_files.load_tokenizer(source)
    form = OWN if tokenizer.chat_template else _form(source)
    if form != OWN:
        begin = json.dumps(automatic_start(tokenizer), ensure_ascii=False)
        template = Path(__file__).with_name(f"{form}.jinja").read_text(encoding="utf-8").rstrip("\n")
        (folder / TEMPLATE).write_text("{{ " + begin + " }}" + template, encoding="utf-8")
    return Served(name, source, folder, form, config.get("positions"))


def automatic_start(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the tokenizer puts in front of every text: ``<s>`` for Llama, nothing for GPT-2."""
    ids, bare = tokenizer("x")["input_ids"], tokenizer("x", add_special_tokens=False)["input_ids"]
    return tokenizer.decode(ids[: ids.index(bare[0])]) if bare and bare[0] in ids else ""


def _check(source: Path) -> dict[str, Any]:
    """Raises unless ``source`` is a causal language model; returns what serving must know of it."""
    name = source.name
    if (source / "adapter_config.json").is_file():
        command = f"python -m rlhf.merge {name} --output {name.removesuffix('_lora')}_merged"
        raise BadModel(
            f"{name} 是适配器，不是完整的模型。先合并：{command}",
            f"{name} is an adapter, not a whole model. Merge it first: {command}",
        )
    if not (source / "config.json").is_file():
        raise MissingAssets(
            f"{source} 里没有模型（缺 config.json）。", f"There is no model in {source} (no config.json)."
        )
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        line = str(error).strip().split("\n")[0][:200]
        raise BadModel(f"{name}/config.json 读不懂：{line}", f"{name}/config.json: {line}") from error
    kind = (config.architectures or ["?"])[0]
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        raise BadModel(
            f"{name} 是 {kind}，不会写文字（奖励模型用 --reward 指定）。",
            f"{name} is a {kind}, which writes no text (a reward model is named with --reward).",
        )
    if not model_files.has(source):
        raise BadModel(f"{name} 里没有权重。", f"{name} has no weights.")
    model_files.check(source, "重新训练或取来它。", "Train or fetch it again.")
    return {"positions": getattr(config.get_text_config(), "max_position_embeddings", None)}


def _form(source: Path) -> str:
    """Whether training data were dialogues, as the recipe beside the weights says."""
    try:
        recipe = yaml.safe_load((source / "recipe.yaml").read_text(encoding="utf-8"))
        return DIALOGUE if recipe.get("data", "reviews") != "reviews" else CONTINUE
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return CONTINUE


def _write_sampling(source: Path, folder: Path) -> None:
    try:
        own = json.loads((source / SAMPLING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        own = {}
    if not own.get("do_sample"):
        own |= FULL_SOFTMAX
    (folder / SAMPLING).write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")


def _link(file: Path, link: Path) -> None:
    try:
        os.symlink(file.resolve(), link)
    except OSError:  # Windows lets only some users make links
        shutil.copy2(file, link)
