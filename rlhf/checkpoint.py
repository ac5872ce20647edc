"""A checkpoint of one's own: a folder with tensors (safetensors) and a JSON record of what they belong to.

In: tensors by name and a record of plain values. Out: a folder that appears whole or not at all, and the same
two things read back. Lesson 03 saves its GPT and its LoRA adapters with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.errors import CannotWrite, MissingAssets
from rlhf.files import whole_folder

RECORD, TENSORS = "checkpoint.json", "checkpoint.safetensors"


def save(folder: str | Path, kind: str, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Path:
    """Write ``tensors`` and ``record`` as a checkpoint of this ``kind``; an older checkpoint is replaced.

    Raises:
        CannotWrite: no space or no permission, or ``folder`` holds something else, which is left alone.
    """
    folder = Path(folder)
    refuse_to_replace(folder, RECORD)
    try:
        with whole_folder(folder) as partial:
            partial.mkdir()
            plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
            save_file(plain, partial / TENSORS)
            text = json.dumps({"kind": kind, **record}, indent=1)
            (partial / RECORD).write_text(text + "\n", encoding="utf-8")
    except SafetensorError as error:
        raise CannotWrite(f"无法写入 {folder}：{error}", f"Cannot write {folder}: {error}") from error
    return folder


def load(folder: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``(record, tensors)`` of a checkpoint that :func:`save` wrote, on the CPU.

    Raises:
        MissingAssets: there is none, it is of another kind, or a file is damaged.
    """
    folder = Path(folder)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        found = record.pop("kind")
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        raise MissingAssets(
            f"{folder} 里没有可用的检查点（需要 {RECORD} 和 {TENSORS}）。",
            f"There is no usable checkpoint in {folder} (it takes {RECORD} and {TENSORS}).",
        ) from error
    if found != kind:
        raise MissingAssets(
            f"{folder} 是 {found} 的检查点，不是 {kind} 的。",
            f"The checkpoint in {folder} is one of {found}, not of {kind}.",
        )
    return record, tensors


def refuse_to_replace(folder: Path, mark: str) -> None:
    """Raise CannotWrite if ``folder`` holds files but not ``mark``: it is not ours to replace."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file():
        raise CannotWrite(
            f"{folder} 里已有别的文件，不会覆盖它。请换一个文件夹。",
            f"{folder} holds other files and is left alone. Choose another folder.",
        )
