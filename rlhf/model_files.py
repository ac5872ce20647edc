"""Whether a model's folder can be read, said before a library trips over it.

In: a folder in the layout of the hub. Out: nothing, its tokenizer, or a :class:`MissingAssets` that names the
file, what is wrong with it and what to do. A download or a build that was cut off, a full disk and an edited
``config.json`` all end here instead of in the middle of a library.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf import errors
from rlhf.errors import MissingAssets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
TOKENIZERS = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken", "tekken.json")  # where the vocabulary is


def has(folder: Path, patterns: Iterable[str] = WEIGHTS) -> bool:
    """Whether a file of one of these names is in ``folder``; by default weights, of whatever content."""
    return any(any(folder.glob(pattern)) for pattern in patterns)


def check(folder: Path, zh: str, en: str) -> None:
    """Look at every JSON file, and at the weights without reading them: milliseconds for any size.

    Args:
        zh, en: what to do about it, a sentence in either language.

    Raises:
        MissingAssets: a file is damaged, or a part of the weights is not there.
    """
    files = sorted(folder.glob("*.json")) + [path for one in WEIGHTS for path in sorted(folder.glob(one))]
    for path in files:
        if (reason := fault(path)) is not None:
            raise MissingAssets(
                f"{folder.name}/{path.name} 已损坏（{reason[0]}）。{zh}",
                f"{folder.name}/{path.name} is damaged ({reason[1]}). {en}",
            )


def fault(path: Path) -> tuple[str, str] | None:
    """What is wrong with a file of a model's folder, in both languages; None: nothing that can be seen."""
    if path.suffix == ".safetensors":
        return _weights_fault(path)
    if path.suffix == ".bin":
        # what torch.save has written since 2020; older files begin as a pickle does
        with path.open("rb") as file:
            begin = file.read(2)
        return None if zipfile.is_zipfile(path) or begin[:1] == b"\x80" else ("不是权重", "no weights")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"不是合法的 JSON：{error}", f"no valid JSON: {error}"
    parts = found.get("weight_map") if path.name.endswith(".index.json") and isinstance(found, dict) else None
    missing = sorted(set(parts.values()) - {file.name for file in path.parent.iterdir()}) if parts else []
    return (f"缺 {missing[0]}", f"{missing[0]} is not there") if missing else None


def _weights_fault(path: Path) -> tuple[str, str] | None:
    """Opening reads the header, and compares what it promises with the length of the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return None if file.keys() else ("里面没有张量", "it holds no tensors")
    except (OSError, SafetensorError) as error:
        return f"{error}", f"{error}"


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in ``folder``. One without a padding token pads with EOS, as GPT-2's does: harmless where
    padding is recognised by its place, not by its number (lesson 04).

    Raises:
        MissingAssets: there is none, or its files are damaged.
    """
    from transformers import AutoTokenizer

    if not has(Path(folder), TOKENIZERS):  # transformers would make an empty one
        raise MissingAssets(
            f"模型文件夹 {Path(folder).name} 里没有分词器。重新取来或训练它。",
            f"The model folder {Path(folder).name} has no tokenizer. Fetch or train it again.",
        )
    with readable(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def readable(folder: str | Path) -> contextlib.AbstractContextManager[None]:
    """What the libraries raise in this block for files of ``folder``, as a MissingAssets that names it."""
    name = Path(folder).name
    return errors.reading(
        MissingAssets,
        f"模型文件夹 {name} 读不进来：{{reason}}。重新取来或训练它。",
        f"The model folder {name} cannot be loaded: {{reason}}. Fetch or train it again.",
    )
