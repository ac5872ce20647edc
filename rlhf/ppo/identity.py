"""Which run a saved state belongs to: settings, shapes, the reference and the prompts, and how two differ.

In: a :class:`~rlhf.ppo.PPOTrainer`. Out: plain values that must be the same when a run goes on, and an error
that names the field when they are not. :mod:`rlhf.ppo.state` asks before it changes anything; lesson 07 shows
what would go wrong.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from ..errors import BadState
from . import sharding
from .config import PPOConfig

if TYPE_CHECKING:
    from .trainer import PPOTrainer

# Fields of PPOConfig on which no number depends: logging, labels, names that are only accepted.
FREE = {"log_with", "logging_dir", "tracker_project_name", "tracker_kwargs", "project_kwargs", "exp_name"}
FREE |= {"task_name", "model_name", "query_dataset", "reward_model", "steps", "accelerator_kwargs"}
FREE |= {"forward_batch_size", "optimize_cuda_cache", "optimize_device_cache", "compare_steps"}
FREE |= {"push_to_hub_if_best_kwargs", "dataset_num_proc", "remove_unused_columns"}
# Entries of a model's configuration that say where it came from, not what it computes.
ORIGIN = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "use_cache"}


def identity(trainer: PPOTrainer) -> dict[str, Any]:
    """What must be the same when a run goes on: settings, shapes, reference and prompts."""
    config = {f.name: getattr(trainer.config, f.name) for f in fields(trainer.config) if f.name not in FREE}
    scheduler = trainer.lr_scheduler
    return {
        "config": config,
        "model": _model_config(trainer.policy),
        "parameters": {name: _shape(p) for name, p in trainable(trainer).items()},
        "optimizer": {
            "class": _inner_class(trainer.optimizer),
            "groups": [len(group["params"]) for group in trainer.optimizer.param_groups],
        },
        "lr_scheduler": None if scheduler is None else _inner_class(scheduler),
        "processes": trainer.accelerator.num_processes,
        **trainer.frozen_parts,
    }


def frozen_parts(trainer: PPOTrainer) -> dict[str, Any]:
    """Digests of what a run never changes: the reference, frozen weights, the prompts. Computed once."""
    frozen = {n: p for n, p in trainer.policy.named_parameters() if not p.requires_grad}
    reference = trainer.ref_model and trainer.accelerator.unwrap_model(trainer.ref_model)
    return {
        "frozen": _digest_parameters(frozen.items()),
        "reference": None if reference is None else _digest_parameters(reference.named_parameters()),
        "dataset": None if trainer.dataset is None else _digest_dataset(trainer.dataset),
    }


def environment(trainer: PPOTrainer) -> dict[str, Any]:
    """What the last bits of a number may depend on; a difference is worth a warning, not an error."""
    device = trainer.current_device.type
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": device,
        "threads": torch.get_num_threads() if device == "cpu" else None,
    }


def trainable(trainer: PPOTrainer) -> dict[str, torch.nn.Parameter]:
    """Policy and value head; with an adapter, the adapter and the head."""
    return {name: p for name, p in trainer.policy.named_parameters() if p.requires_grad}


def _model_config(policy: torch.nn.Module) -> dict[str, Any]:
    """Configuration of backbone and adapters: also what changes no shape, such as ``lora_alpha``."""
    found = {k: v for k, v in policy.config.to_dict().items() if k not in ORIGIN}
    for name, adapter in getattr(policy.pretrained_model, "peft_config", {}).items():
        settings = {k: v for k, v in adapter.to_dict().items() if k != "base_model_name_or_path"}
        found[f"adapter {name}"] = settings
    return json.loads(
        json.dumps(found, default=lambda v: sorted(map(str, v)) if isinstance(v, set) else str(v))
    )


def _shape(parameter: torch.Tensor) -> str:
    return f"{str(parameter.dtype).removeprefix('torch.')} {tuple(parameter.shape)}"


def _inner_class(wrapped: Any) -> str:
    """The name of an optimiser's or scheduler's class, under Accelerate's wrapper."""
    kind = type(wrapped).__name__
    inner = {"AcceleratedOptimizer": "optimizer", "AcceleratedScheduler": "scheduler"}.get(kind)
    return type(getattr(wrapped, inner)).__name__ if inner else kind


def _digest_parameters(parameters: Iterable[tuple[str, torch.Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, parameter in parameters:
        digest.update(f"{name} {_shape(parameter)}".encode())
        if parameter.numel():
            digest.update(
                sharding.plain(parameter).detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            )
    return digest.hexdigest()


def _digest_dataset(dataset: Any) -> dict[str, Any]:
    """Number of rows, and a digest of every query's tokens in order."""
    plain = dataset.with_format(None) if hasattr(dataset, "with_format") else dataset
    columns = getattr(plain, "column_names", None) or list(plain[0])
    digest = hashlib.sha256()
    if "input_ids" in columns:
        whole = hasattr(plain, "column_names")
        for row in plain["input_ids"] if whole else (plain[i]["input_ids"] for i in range(len(plain))):
            tokens = np.asarray(row, dtype=np.int64)
            digest.update(len(tokens).to_bytes(4, "little") + tokens.tobytes())
    return {"rows": len(plain), "tokens": digest.hexdigest()}


# ------------------------------------------------------------------------------------------ comparing


def compare(saved: dict, here: dict, change: set[str], place: Path) -> None:
    """Raise BadState that names every field in which the state and this trainer differ (the first few)."""
    here = json.loads(json.dumps(here))  # tuples are lists in the file
    saved = {**saved, "config": _defaults() | saved["config"]}  # a field that is newer than the state
    known = saved["model"].keys() & here["model"].keys()  # another version of transformers may know more
    saved, here = ({**side, "model": {k: side["model"][k] for k in known}} for side in (saved, here))
    found = list(_differences(saved, here, ""))
    found = [line for line in found if line[0].removeprefix("config.") not in change]
    if not found:
        return
    lines = [f"{name}: {_short(there)} → {_short(now)}" for name, there, now in found[:5]]
    rest = len(found) - len(lines)
    listed = "\n  ".join(lines + ([f"… (+{rest})"] if rest > 0 else []))
    zh, en = _hint({name for name, _, _ in found})
    raise BadState(
        f"{place} 里的状态属于另一次训练，以下各项不同（保存时 → 现在）。{zh}",
        f"The state in {place} belongs to another run; these differ (saved → now).{en}\n  {listed}",
    )


def _defaults() -> dict[str, Any]:
    """What a run did that did not know a field of PPOConfig yet."""
    plain = (f for f in fields(PPOConfig) if f.name not in FREE and f.default is not MISSING)
    return {f.name: f.default for f in plain}


def _differences(saved: Any, here: Any, place: str) -> Iterable[tuple[str, Any, Any]]:
    """Every leaf in which two trees of plain values differ: its name and both values."""
    if isinstance(saved, dict) and isinstance(here, dict):
        for key in [*saved, *(key for key in here if key not in saved)]:
            name = f"{place}.{key}" if place else str(key)
            yield from _differences(saved.get(key), here.get(key), name)
    elif saved != here:
        yield place, saved, here


def _hint(names: set[str]) -> tuple[str, str]:
    """What to do about the most likely mistake."""
    if names == {"dataset.tokens"}:
        return (
            "行数相同而提示不同：切提示的 LengthSampler 很可能没有 seed。",
            " As many prompts, but others: the LengthSampler that cut them probably has no seed.",
        )
    if names & {"reference", "frozen"}:
        return (
            "参考模型必须是训练开始时的那一个：用原来的模型建立训练器，再调用 load_state。",
            " The reference has to be the one the run began with: build the trainer from the original model, "
            "then call load_state.",
        )
    if all(name.startswith("config.") for name in names):
        return (
            "若确实要改，请在 load_state(..., change=[...]) 里写明。",
            " To change them on purpose, name them in load_state(..., change=[...]).",
        )
    return "", ""


def check_change(config: PPOConfig, change: Sequence[str]) -> None:
    known = {f.name for f in fields(config)} - FREE
    if isinstance(change, str) or (unknown := sorted(set(change) - known)):
        wrong = change if isinstance(change, str) else ", ".join(unknown)
        raise BadState(
            f"change 应当是 PPOConfig 字段名的列表，不认识：{wrong}",
            f"change must be a list of fields of PPOConfig; unknown: {wrong}",
        )


def warn_about(saved: dict, here: dict) -> None:
    """One warning about whatever makes the rest of the run differ in the last bits."""
    changed = [f"{k} {saved.get(k)} -> {value}" for k, value in here.items() if saved.get(k) != value]
    if changed:
        listed = ", ".join(changed)
        warnings.warn(f"the run goes on, but not bit for bit as if it never stopped: {listed}", stacklevel=4)


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text[:12] + "…" if re.fullmatch("[0-9a-f]{64}", text) else text[:80]
