"""Profiles: one switch for models, data, sizes and device. The only module that knows a path or a size.

In: the name of a profile (``RLHF_PROFILE``, default ``offline``) and ``profiles/<name>.yaml``.
Out: a frozen :class:`Setup` that a lesson takes everything from. Lesson 00 explains the three profiles.

Environment, all optional: ``RLHF_PROFILE`` (offline, imdb, full), ``RLHF_HOME`` (where ``model/``,
``dataset/`` and ``output/`` live; default: the checkout), ``RLHF_DATA`` (another folder of reviews),
``RLHF_DEVICE`` (cpu, cuda, mps), ``RLHF_SEED`` (default: the profile's).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rlhf import model_files, plain_yaml
from rlhf.errors import BadProfile, CannotWrite, MissingAssets

CHECKOUT = Path(__file__).resolve().parent.parent
REQUIRED = (
    "policy",
    "reward_model",
    "dataset",
    "prepare",
    "seed",
    "prompts",
    "response",
    "evaluation",
    "ppo",
)


def root() -> Path:
    """The folder that holds ``model/``, ``dataset/`` and ``output/``: ``RLHF_HOME`` or the checkout."""
    return Path(os.environ.get("RLHF_HOME") or CHECKOUT).expanduser().resolve()


def names() -> list[str]:
    """The profiles that exist, one per file in ``profiles/``."""
    return sorted(path.stem for path in (CHECKOUT / "profiles").glob("*.yaml"))


def read(name: str | None = None) -> Mapping[str, Any]:
    """One profile file as a read-only mapping. ``name`` defaults to ``RLHF_PROFILE``, then ``offline``.

    Raises:
        BadProfile: no such profile (the message lists them), or a required field is missing.
    """
    name = name or os.environ.get("RLHF_PROFILE") or "offline"
    if name not in names():
        known = ", ".join(names())
        raise BadProfile(
            f"没有名为 {name!r} 的配置；可选：{known}。用环境变量 RLHF_PROFILE 选择。",
            f"There is no profile {name!r}; there are: {known}. Choose one with RLHF_PROFILE.",
        )
    fields = plain_yaml.parse((CHECKOUT / "profiles" / f"{name}.yaml").read_text(encoding="utf-8"))
    missing = [key for key in REQUIRED if key not in fields]
    if missing:
        raise BadProfile(
            f"profiles/{name}.yaml 缺少字段：{', '.join(missing)}。",
            f"profiles/{name}.yaml lacks the fields {', '.join(missing)}.",
        )
    return MappingProxyType({"name": name, **fields})


@dataclass(frozen=True)
class Setup:
    """What a lesson works with. Paths are absolute; sizes are plain read-only mappings.

    Attributes:
        profile: name of the profile. lesson: key of the lesson, ``NN_topic``.
        policy, reward_model, dataset: folders in the layout of the hub.
        prompts: ``min_chars``, ``min_tokens``, ``max_tokens`` (exclusive) of a query.
        response: ``min_tokens``, ``max_tokens`` (exclusive) of a response.
        evaluation: how many held-out prompts are scored, how many are shown.
        ppo: ``steps`` and the fields of ``PPOConfig`` that the profile sets.
        sizes: what ``lessons: NN_topic:`` of the profile says for this lesson alone (its ``ppo`` part goes
            into ``ppo``).
        device: a string torch accepts. seed: the one seed of the run.
    """

    profile: str
    lesson: str
    policy: Path
    reward_model: Path
    dataset: Path
    prompts: Mapping[str, Any]
    response: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    ppo: Mapping[str, Any]
    device: str
    seed: int
    prepare: str
    sizes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """The lesson's folder under ``output/``, made when first asked for."""
        return make_folder(root() / "output" / self.lesson)

    def describe(self) -> str:
        """One line: profile, models, data, device, seed."""
        where = [_short(path) for path in (self.policy, self.reward_model, self.dataset)]
        return (
            f"profile {self.profile} · policy {where[0]} · reward model {where[1]} · data {where[2]} · "
            f"{_hardware(self.device)} · seed {self.seed}"
        )

    def meta(self) -> dict[str, Any]:
        """What a saved report says about the run it came from."""
        return {
            "lesson": self.lesson,
            "profile": self.profile,
            "seed": self.seed,
            "hardware": _hardware(self.device),
        }


def setup(
    lesson: str, profile: str | None = None, needs: Iterable[str] = ("policy", "reward_model", "dataset")
) -> Setup:
    """Everything a lesson needs; prints one line about it and seeds Python, NumPy and torch. Of ``policy``,
    ``reward_model`` and ``dataset`` those that it ``needs`` must be there.

    Raises:
        BadProfile: unknown profile. MissingAssets: a model or the data is not there, or half there.
    """
    fields = read(profile)
    sizes = dict(fields.get("lessons", {}).get(lesson, {}))
    ppo = {**fields["ppo"], **sizes.pop("ppo", {})}
    result = Setup(
        profile=fields["name"],
        lesson=lesson,
        policy=root() / fields["policy"],
        reward_model=root() / fields["reward_model"],
        dataset=dataset_folder(fields),
        prompts=MappingProxyType(dict(fields["prompts"])),
        response=MappingProxyType(dict(fields["response"])),
        evaluation=MappingProxyType(dict(fields["evaluation"])),
        ppo=MappingProxyType(ppo),
        sizes=MappingProxyType(sizes),
        device=pick_device(),
        seed=seed(fields),
        prepare=fields["prepare"],
    )
    for name in needs:
        (require_data if name == "dataset" else require_model)(getattr(result, name), result.prepare)
    _seed_everything(result.seed)
    print(result.describe())
    return result


def seed(fields: Mapping[str, Any]) -> int:
    """The profile's seed, or ``RLHF_SEED``."""
    value = os.environ.get("RLHF_SEED", fields["seed"])
    try:
        return int(value)
    except ValueError:
        raise BadProfile(
            f"RLHF_SEED 必须是整数，现在是 {value!r}。", f"RLHF_SEED must be a whole number, not {value!r}."
        ) from None


def dataset_folder(fields: Mapping[str, Any]) -> Path:
    """``RLHF_DATA``, else the profile's folder, else the folder its models were built from (``--data``)."""
    if os.environ.get("RLHF_DATA"):
        return Path(os.environ["RLHF_DATA"]).expanduser().resolve()
    folder = root() / fields["dataset"]
    record = root() / fields["reward_model"] / "build.json"
    if not folder.is_dir() and record.is_file():
        return Path(json.loads(record.read_text(encoding="utf-8")).get("data", folder))
    return folder


def pick_device() -> str:
    """``RLHF_DEVICE``, else cuda, else cpu."""
    import torch

    asked = os.environ.get("RLHF_DEVICE")
    if asked and asked.startswith("cuda") and not torch.cuda.is_available():
        raise BadProfile(
            "RLHF_DEVICE 要求 cuda，但 torch 看不到 GPU。去掉这个变量就会用 CPU。",
            "RLHF_DEVICE asks for cuda, but torch sees no GPU. Unset it to use the CPU.",
        )
    among = os.environ.get("LOCAL_RANK")  # of several processes that were launched together
    own = "cuda" if among is None else f"cuda:{among}"
    return asked or (own if torch.cuda.is_available() else "cpu")


def require_base(fields: Mapping[str, Any]) -> None:
    """Raise MissingAssets unless the models and the reviews of a profile's ``fields`` are here."""
    for name in ("policy", "reward_model"):
        require_model(root() / fields[name], fields["prepare"])
    require_data(dataset_folder(fields), fields["prepare"])


def require_model(folder: Path, prepare: str) -> None:
    """Raise MissingAssets unless ``folder`` holds a configuration and weights that can be read."""
    if not folder.is_dir():
        raise MissingAssets(
            f"找不到模型 {_short(folder)}。请先运行：{prepare}",
            f"The model {_short(folder)} is not here. Run: {prepare}",
        )
    if not (folder / "config.json").is_file() or not model_files.has(folder):
        raise MissingAssets(
            f"模型文件夹 {_short(folder)} 不完整（缺 config.json 或权重）。请删除它，再运行：{prepare}",
            f"The model folder {_short(folder)} is incomplete (no config.json or no weights). "
            f"Delete it, then run: {prepare}",
        )
    model_files.check(
        folder, f"请删除 {_short(folder)}，再运行：{prepare}", f"Delete {_short(folder)}, then run: {prepare}"
    )


def require_data(folder: Path, prepare: str) -> None:
    """Raise MissingAssets unless ``folder`` exists and holds a parquet file."""
    if not folder.is_dir() or not any(folder.rglob("*.parquet")):
        raise MissingAssets(
            f"找不到影评数据 {_short(folder)}。请先运行：{prepare}",
            f"The reviews {_short(folder)} are not here. Run: {prepare}",
        )


def make_folder(folder: Path) -> Path:
    """Create a folder, or say plainly why it cannot be created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(
            f"无法建立文件夹 {folder}:{error.strerror}。换一个位置（RLHF_HOME)或检查权限与磁盘空间。",
            f"Cannot create {folder}: {error.strerror}. Choose another place (RLHF_HOME) or "
            "check permission and space.",
        ) from error
    return folder


def _short(path: Path) -> str:
    """The path as seen from the root, so that no output shows where a machine keeps its files."""
    try:
        return path.relative_to(root()).as_posix()
    except ValueError:
        return path.name


def _hardware(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device} ({torch.get_num_threads()} threads)"


def _seed_everything(value: int) -> None:
    import random

    import numpy
    import torch

    random.seed(value)
    numpy.random.seed(value)
    torch.manual_seed(value)
