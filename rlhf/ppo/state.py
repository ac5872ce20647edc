"""Stop a run anywhere and go on later: the whole state of a training in a folder, and back.

In: a :class:`~rlhf.ppo.PPOTrainer` between two steps. Out: ``<folder>/0003_step_000030/`` with ``state.json``
(numbers, settings, checksums) and ``tensors.safetensors`` (everything large); nothing is pickled. A run that
is killed and continued ends with the same parameters as one that was never interrupted, on a CPU bit for bit.
Lesson 07 does it.

What has to come back, besides the weights: the optimiser's moments, the scheduler, beta, the running moments
of the scores, every random state (the next sampled token depends on it), the permutations of minibatches,
and the place among the prompts. What does not change, the frozen reference and the prompts themselves, is not
stored; it is recognised by a digest, so that a run never goes on against another reference unnoticed.

A folder appears under its name only when it is complete, by one rename, and nothing is ever overwritten: the
one before is removed afterwards. So there is no moment at which a kill could leave no whole state.
(Accelerate's ``save_state`` pickles, overwrites in place, and does not know the place in a shuffled epoch.)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import BadState, CannotWrite, CourseError, MissingAssets
from ..files import remove_leftovers, whole_folder
from . import randomness, sharding
from .identity import check_change, compare, environment, identity, trainable, warn_about
from .packing import pack, unpack
from .prompts import PromptLoader

if TYPE_CHECKING:
    from .trainer import PPOTrainer

FORMAT = 1
RECORD, TENSORS = "state.json", "tensors.safetensors"
VERSION = re.compile(
    r"(\d{4,})_step_\d{6,}"
)  # a counter, then the step: a later save never meets an old name


# ------------------------------------------------------------------------------------------- save and load


def save(
    trainer: PPOTrainer, folder: str | Path, extra: Mapping[str, Any] | None = None, keep: int = 2
) -> Path:
    """See :meth:`PPOTrainer.save_state`."""
    _check_moment(trainer)
    plain, tensors = snapshot(trainer, extra or {})
    folder = Path(folder)
    if trainer.accelerator.is_main_process:
        count = max([0, *(_count(path) for path in versions(folder))]) + 1
        target = folder / f"{count:04d}_step_{trainer.current_step:06d}"
        _write(target, plain, tensors)
        _remove(versions(folder)[: -max(1, keep)])
    trainer.accelerator.wait_for_everyone()
    return versions(folder)[-1]


def load(
    trainer: PPOTrainer,
    folder: str | Path,
    extra: Mapping[str, Any] | None = None,
    change: Sequence[str] = (),
) -> Path:
    """See :meth:`PPOTrainer.load_state`."""
    place = _find(Path(folder))
    record, tensors = _read(place)
    check_change(trainer.config, change)
    compare(record["identity"], identity(trainer), set(change), place)
    try:
        state = unpack(record["state"], tensors)
        own = state["processes"][trainer.accelerator.process_index]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _damaged(place / RECORD, repr(error)) from error
    _check_extra(own["extra"], extra or {}, place)
    warn_about(record["environment"], environment(trainer))
    _restore(trainer, state, own, extra or {}, place)
    if "learning_rate" in change:
        _change_learning_rate(trainer, record["identity"]["config"]["learning_rate"])
    trainer.accelerator.wait_for_everyone()
    return place


def versions(folder: str | Path) -> list[Path]:
    """The complete states under ``folder``, the oldest first."""
    found = [path for path in Path(folder).glob("*_step_*") if VERSION.fullmatch(path.name)]
    return sorted((path for path in found if path.is_dir()), key=_count)


def latest(folder: str | Path) -> Path | None:
    """The state that was saved last under ``folder``, or None."""
    found = versions(folder)
    return found[-1] if found else None


def snapshot(trainer: PPOTrainer, extra: Mapping[str, Any]) -> tuple[dict, dict[str, torch.Tensor]]:
    """Everything that changes in the course of a run: JSON values, and the tensors they name. Of several
    processes only the main one, which writes, gets them."""
    scaler, loader = trainer.accelerator.scaler, trainer.dataloader
    tensors: dict[str, torch.Tensor] = {}
    own = {
        "random": randomness.global_states(trainer.current_device),
        "extra": {name: _state_of(name, part) for name, part in extra.items()},
    }
    everyones = gather_object([own])  # each samples with random numbers of its own
    main = trainer.accelerator.is_main_process
    facts = {"identity": identity(trainer), "environment": environment(trainer)}  # of shards: all take part
    learnt = sharding.collect({**trainable(trainer)}, keep=main)
    optimizer = sharding.collect(trainer.optimizer.state_dict(), keep=main)
    if not main:
        return {}, {}
    state = {
        "current_step": trainer.current_step,
        "policy": learnt,
        "optimizer": optimizer,
        "lr_scheduler": None if trainer.lr_scheduler is None else trainer.lr_scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "kl_coef": trainer.kl_ctl.value,
        "running": dict(vars(trainer.running)),
        "permutations": randomness.numpy_state(trainer.permutations),
        "prompts": loader.state_dict() if isinstance(loader, PromptLoader) else None,
        "processes": everyones,
    }
    try:
        plain = {name: pack(part, name, tensors) for name, part in state.items()}
    except TypeError as error:
        raise BadState(
            f"这个状态里有不能保存的东西：{error}。只能保存数、文本、张量以及由它们组成的字典和列表。",
            f"The state holds something that cannot be saved: {error}. Only numbers, texts, tensors, and "
            "dicts and lists of them can.",
        ) from error
    return {"format": FORMAT, "step": trainer.current_step, **facts, "state": plain}, tensors


def _restore(trainer: PPOTrainer, state: dict, own: dict, extra: Mapping[str, Any], place: Path) -> None:
    """Put a state into the trainer. Shapes and names have been compared before."""
    try:
        for name, part in extra.items():  # first, since they may refuse
            part.load_state_dict(own["extra"][name])
        with torch.no_grad():
            for name, parameter in trainable(trainer).items():
                parameter.copy_(sharding.like(state["policy"][name], parameter))
        trainer.optimizer.load_state_dict(sharding.optimizer_state(trainer.optimizer, state["optimizer"]))
        if trainer.lr_scheduler is not None:
            trainer.lr_scheduler.load_state_dict(state["lr_scheduler"])
        if trainer.accelerator.scaler is not None and state["scaler"] is not None:
            trainer.accelerator.scaler.load_state_dict(state["scaler"])
        if isinstance(trainer.dataloader, PromptLoader):
            trainer.dataloader.load_state_dict(state["prompts"])
        trainer.kl_ctl.value = state["kl_coef"]
        vars(trainer.running).update(state["running"])
        randomness.set_numpy_state(trainer.permutations, state["permutations"])
        randomness.set_global_states(own["random"], trainer.current_device)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CourseError):
            raise
        raise _damaged(place / RECORD, repr(error)) from error
    trainer.current_step, trainer.resumed, trainer.unfinished = state["current_step"], True, False
    trainer.experience, trainer.passes = None, []


def _state_of(name: str, part: Any) -> Any:
    if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
        kind = type(part).__name__
        raise BadState(
            f"extra[{name!r}] 是 {kind}，没有 state_dict 和 load_state_dict，无法保存。",
            f"extra[{name!r}] is a {kind} without state_dict and load_state_dict, so it cannot be saved.",
        )
    return part.state_dict()


def _change_learning_rate(trainer: PPOTrainer, saved: float) -> None:
    """The configured rate instead of the saved one; a scheduler keeps its shape."""
    factor = trainer.config.learning_rate / saved if saved else 1.0
    for group in (g for g in trainer.optimizer.param_groups if g["lr"] is not None):
        group["lr"] *= factor
        if "initial_lr" in group:
            group["initial_lr"] *= factor
    if trainer.lr_scheduler is not None:
        trainer.lr_scheduler.base_lrs = [rate * factor for rate in trainer.lr_scheduler.base_lrs]


# ------------------------------------------------------------------------------------------------ checks


def _check_moment(trainer: PPOTrainer) -> None:
    if trainer.unfinished:
        raise BadState(
            "上一步没有做完就被打断，参数只更新了一部分，不能保存。请用 load_state 回到上一次保存的状态。",
            "The last step was interrupted half-way, so the parameters are those of no step. Go back to the "
            "last saved state with load_state.",
        )


def _check_extra(saved: dict, given: Mapping[str, Any], place: Path) -> None:
    if saved.keys() != given.keys():
        raise BadState(
            f"{place} 保存了 extra={sorted(saved)}，而 load_state 得到的是 {sorted(given)}。",
            f"{place} was saved with extra={sorted(saved)}, but load_state was given {sorted(given)}.",
        )
    for name, part in given.items():
        _state_of(name, part)


# ------------------------------------------------------------------------------------------------- files


def _write(target: Path, plain: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Both files into a folder that is there as a whole or not at all; on the disk before it has its name."""
    try:
        with whole_folder(target) as partial:
            partial.mkdir()
            save_file(tensors, partial / TENSORS, metadata={"format": "pt"})
            record = {"files": {TENSORS: _digest_file(partial / TENSORS)}, **plain}
            record = {"checksum": _digest_record(record), **record}
            (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            for file in (partial / TENSORS, partial / RECORD):
                _flush(file)
    except SafetensorError as error:
        raise CannotWrite(f"无法写入 {target}：{error}", f"Cannot write {target}: {error}") from error


def _read(place: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    try:
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        if record.pop("checksum") != _digest_record(record) or record["format"] != FORMAT:
            raise ValueError("checksum")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(place / RECORD, str(error)) from error
    try:
        if _digest_file(place / TENSORS) != record["files"][TENSORS]:
            raise ValueError("checksum")
        return record, load_file(place / TENSORS)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _damaged(place / TENSORS, str(error)) from error


def _find(folder: Path) -> Path:
    """``folder`` itself if it is one state, else the one saved last under it."""
    place = folder if VERSION.fullmatch(folder.name) and folder.is_dir() else latest(folder)
    if place is None:
        raise MissingAssets(
            f"{folder} 里没有保存过的训练状态；先用 trainer.save_state({str(folder)!r}) 保存。",
            f"No training state was saved in {folder}; trainer.save_state({str(folder)!r}) does that.",
        )
    return place


def _damaged(file: Path, reason: str) -> BadState:
    others = [path.name for path in versions(file.parent.parent) if path != file.parent]
    return BadState(
        f"训练状态已损坏：{file}（{reason}）。" + (f"还可以载入：{', '.join(others)}。" if others else ""),
        f"The training state is damaged: {file} ({reason})."
        + (f" Can still be loaded: {', '.join(others)}." if others else ""),
    )


def _remove(old: Sequence[Path]) -> None:
    """Delete states: out of sight by one rename first, so that no half of one is ever taken for a whole."""
    for path in old:
        hidden = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            os.replace(path, hidden)
        except OSError:  # it stays; the new one is safe
            continue
        shutil.rmtree(hidden, ignore_errors=True)
    if old:
        remove_leftovers(old[0].parent, "*_step_*")


def _count(path: Path) -> int:
    return int(path.name.split("_")[0])


def _flush(file: Path) -> None:
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())


def _digest_file(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _digest_record(record: dict) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
