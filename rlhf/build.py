"""Reviews to models: corpus → tokenizer → small policy → small sentiment classifier, all from scratch.

In: the bundled corpus (profile ``offline``) or any folder in the IMDB layout (``imdb``, ``--data DIR``).
Out: ``model/<profile>/policy`` and ``model/<profile>/sentiment`` in the file layout of the hub, safetensors.

    python -m rlhf.build                                    # offline: bundled corpus, tiny models, CPU
    python -m rlhf.build --profile imdb --data dataset/imdb  # real reviews, small models

Every stage is built beside its place and renamed when whole, so a folder is either complete or absent. A
stage whose sizes, seed and data have not changed is skipped; an interrupted one starts over. The command
trains policy and classifier side by side where there are cores for both; the weights are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf import errors, profiles
from rlhf.beside import beside
from rlhf.files import whole_folder

FORMAT = 1  # raise it when the same sizes and seed should give other files than before
FREE_BYTES = 300 * 2**20
MODELS = ("policy", "sentiment")


@dataclass(frozen=True)
class Plan:
    """What one build makes and from what."""

    profile: str
    sizes: Mapping[str, Any]
    seed: int
    device: str
    data: Path
    policy: Path
    sentiment: Path


def build(
    profile: str | None = None,
    data: str | Path | None = None,
    seed: int | None = None,
    force: bool = False,
    side_by_side: bool = False,
) -> Plan:
    """Build what is missing or out of date, in order; one line per stage.

    Args:
        side_by_side: train the two models at the same time, the classifier in a process of its own.

    Raises:
        BadProfile: the profile has nothing to build (``full`` is downloaded).
        MissingAssets, BadData: the reviews are absent or cannot be trained on; said before any training.
        CannotWrite: no space or no permission; nothing half-written is left.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # nothing is forked here, and both cores are free
    plan = make_plan(profile, data, seed)
    _check_space(plan.policy.parent)
    with _one_at_a_time(plan.policy.parent):
        if "corpus" in plan.sizes:
            _corpus_stage(plan, force)
        reviews = _Reviews(plan.data)
        if side_by_side and (force or not any(_up_to_date(name, plan, reviews) for name in MODELS)):
            with beside(_classifier_alone, plan, force):
                _policy_stage(plan, reviews, force)
        else:
            _policy_stage(plan, reviews, force)
            _sentiment_stage(plan, reviews, force)
    return plan


def room_for_two() -> bool:
    """Whether the two models are better trained at the same time: each gains little from a second core."""
    return (os.cpu_count() or 1) > 1 and profiles.pick_device() == "cpu"


def outdated(profile: str) -> bool:
    """Whether a model that is there was built with other sizes, another seed or from other reviews than
    ``profile`` asks for now, so that :func:`build` would build it anew. Reads no model."""
    plan = make_plan(profile, None, None)
    digest = _digest_files(plan.data)
    records = {name: _recorded(getattr(plan, name)) for name in MODELS}
    return any(
        record is not None and record != _fingerprint(name, plan, digest) for name, record in records.items()
    )


def make_plan(profile: str | None, data: str | Path | None, seed: int | None) -> Plan:
    """Resolve a profile into sizes and folders. On a GPU the profile's ``gpu`` sizes replace the others."""
    fields = profiles.read(profile)
    if "build" not in fields:
        raise errors.BadProfile(
            f"配置 {fields['name']} 不需要构建，请下载：{fields['prepare']}",
            f"The profile {fields['name']} is not built but downloaded: {fields['prepare']}",
        )
    sizes, device = dict(fields["build"]), profiles.pick_device()
    larger = sizes.pop("gpu", {})
    if device.startswith("cuda"):
        sizes = {key: {**value, **larger.get(key, {})} for key, value in sizes.items()}
    return Plan(
        profile=fields["name"],
        sizes=sizes,
        seed=profiles.seed(fields) if seed is None else seed,
        device=device,
        data=_data_folder(fields, data),
        policy=profiles.root() / fields["policy"],
        sentiment=profiles.root() / fields["reward_model"],
    )


def _data_folder(fields: Mapping[str, Any], data: str | Path | None) -> Path:
    if data is None:
        return profiles.dataset_folder(fields)
    if "corpus" in fields["build"]:
        raise errors.BadProfile(
            f"配置 {fields['name']} 使用自带语料，不接受 --data；真实影评请用 --profile imdb。",
            f"The profile {fields['name']} uses the bundled corpus and takes no --data; for real reviews use "
            "--profile imdb.",
        )
    folder = Path(data).expanduser().resolve()
    if not folder.is_dir():
        raise errors.MissingAssets(
            f"--data 指向的文件夹不存在：{data}", f"There is no folder {data} (--data)."
        )
    return folder


class _Reviews:
    """Both splits, read and checked once, cleaned of HTML line breaks; digest of the files they came from."""

    def __init__(self, folder: Path):
        from rlhf.data import load_reviews, plain_text

        self.folder = folder
        splits = {split: load_reviews(folder, split) for split in ("train", "test")}
        self.texts = {split: [plain_text(text) for text in rows["text"]] for split, rows in splits.items()}
        self.labels = {split: list(rows["label"]) for split, rows in splits.items()}
        self.digest = _digest_files(folder)


# ------------------------------------------------------------------------------------------------- stages


def _corpus_stage(plan: Plan, force: bool) -> None:
    from rlhf.corpus import write_corpus

    source = sorted((profiles.CHECKOUT / "dataset" / "offline").rglob("*"))
    code = profiles.CHECKOUT / "rlhf" / "corpus.py"
    mark = _digest(
        [plan.sizes["corpus"], plan.seed, *(_digest_file(f) for f in [*source, code] if f.is_file())]
    )
    if not force and _recorded(plan.data) == mark:
        return _say(f"corpus · {plan.data.name} is up to date")
    begin = time.monotonic()
    with whole_folder(plan.data) as folder:
        write_corpus(folder, seed=plan.seed, **plan.sizes["corpus"])
        _write_record(folder, {"fingerprint": mark, "seed": plan.seed})
    _say(f"corpus · {plan.data.name} · {time.monotonic() - begin:.0f} s")


def _classifier_alone(plan: Plan, force: bool) -> None:
    """The last stage in a process of its own, which reads the reviews itself."""
    _sentiment_stage(plan, _Reviews(plan.data), force)


def _policy_stage(plan: Plan, reviews: _Reviews, force: bool) -> None:
    from rlhf import pretrain

    sizes = plan.sizes["policy"]

    def train() -> tuple[Any, Any, dict]:
        texts = reviews.texts["train"][: sizes.get("reviews")]
        tokenizer = pretrain.policy_tokenizer(texts, sizes["vocab"], sizes["positions"])
        model, facts = pretrain.train_policy(
            tokenizer, texts, sizes, plan.seed, plan.device, _say_of("policy")
        )
        return tokenizer, model, facts

    _model_stage("policy", plan.policy, plan, reviews, force, train)


def _sentiment_stage(plan: Plan, reviews: _Reviews, force: bool) -> None:
    from rlhf import pretrain

    sizes, say = plan.sizes["sentiment"], _say_of("sentiment")

    def train() -> tuple[Any, Any, dict]:
        texts, labels = (part["train"][: sizes.get("reviews")] for part in (reviews.texts, reviews.labels))
        tokenizer = pretrain.classifier_tokenizer(texts, sizes["vocab"], sizes["positions"])
        model, facts = pretrain.train_classifier(tokenizer, texts, labels, sizes, plan.seed, plan.device, say)
        right = pretrain.accuracy(
            model,
            tokenizer,
            reviews.texts["test"],
            reviews.labels["test"],
            window=min(256, sizes["positions"]),
            device=plan.device,
        )
        say(f"accuracy on the test split, first 256 tokens: {right:.4f}")
        return tokenizer, model, {**facts, "test_accuracy": right}

    _model_stage("sentiment", plan.sentiment, plan, reviews, force, train)


def _model_stage(
    name: str,
    folder: Path,
    plan: Plan,
    reviews: _Reviews,
    force: bool,
    train: Callable[[], tuple[Any, Any, dict]],
) -> None:
    if not force and _up_to_date(name, plan, reviews):
        return _say(f"{name} · {_place(folder)} is up to date")
    _say(f"{name} · building {_place(folder)} from {reviews.folder.name}, seed {plan.seed}, on {plan.device}")
    begin = time.monotonic()
    tokenizer, model, facts = train()
    seconds = round(time.monotonic() - begin, 1)
    with whole_folder(folder) as partial:
        model.cpu().save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        tokenizer.backend_tokenizer.model.save(str(partial))  # vocab.json and merges.txt, as on the hub
        record = {
            "fingerprint": _fingerprint(name, plan, reviews.digest),
            "seed": plan.seed,
            "data": str(reviews.folder),
            "sizes": plan.sizes[name],
        }
        _write_record(partial, {**record, **facts, "seconds": seconds, "device": plan.device})
    _say(f"{name} · done in {seconds:.0f} s · {facts}")


# -------------------------------------------------------------------------------------- folders and records


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Two builds of one profile wait for each other instead of writing over each other."""
    from filelock import FileLock, Timeout

    profiles.make_folder(folder)
    try:
        lock = FileLock(folder / ".build.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _say("another build of this profile is running; waiting for it")
            lock.acquire()
    except OSError as error:
        raise errors.CannotWrite(
            f"无法在 {folder} 写文件：{error.strerror}。请检查权限，或用 RLHF_HOME 换一个位置。",
            f"Cannot write in {folder}: {error.strerror}. Check permission or choose "
            "another place with RLHF_HOME.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _check_space(folder: Path) -> None:
    profiles.make_folder(folder)
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        raise errors.CannotWrite(
            f"磁盘空间不足：{folder} 只剩 {free / 2**20:.0f} MiB，需要 {FREE_BYTES / 2**20:.0f} MiB。",
            f"Not enough disk: {folder} has {free / 2**20:.0f} MiB left, "
            f"{FREE_BYTES / 2**20:.0f} MiB are needed.",
        )


def _recorded(folder: Path) -> str | None:
    """The fingerprint a finished folder was built with, or None."""
    try:
        return json.loads((folder / "build.json").read_text(encoding="utf-8")).get("fingerprint")
    except (OSError, ValueError):
        return None


def _write_record(folder: Path, record: dict) -> None:
    (folder / "build.json").write_text(json.dumps(record, indent=1, default=dict) + "\n", encoding="utf-8")


def _fingerprint(name: str, plan: Plan, reviews: str) -> str:
    """What a model depends on; ``reviews`` is their digest."""
    return _digest([FORMAT, name, plan.sizes[name], plan.seed, reviews])


def _up_to_date(name: str, plan: Plan, reviews: _Reviews) -> bool:
    """Made from the same code and data, and whole: what was damaged since is built anew."""
    folder = getattr(plan, name)
    try:
        profiles.require_model(folder, "")
    except errors.MissingAssets:
        return False
    return _recorded(folder) == _fingerprint(name, plan, reviews.digest)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).hexdigest()


def _digest_file(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _digest_files(folder: Path) -> str:
    return _digest([_digest_file(file) for file in sorted(folder.rglob("*.parquet"))])


def _place(folder: Path) -> str:
    return "/".join(folder.parts[-3:])


def _say(line: str) -> None:
    print(line, flush=True)


def _say_of(name: str) -> Callable[[str], None]:
    """Lines of a stage, named: two may be talking at the same time."""
    return lambda line: _say(f"{name} · {line.strip()}")


@errors.command
def main(arguments: list[str] | None = None) -> int:
    """The command ``python -m rlhf.build``."""
    parser = argparse.ArgumentParser(prog="python -m rlhf.build", description=__doc__.split("\n\n")[0])
    parser.add_argument("--profile", help="offline or imdb (default: RLHF_PROFILE, else offline)")
    parser.add_argument("--data", help="a folder of reviews in the IMDB layout (profile imdb)")
    parser.add_argument("--seed", type=int, help="default: the profile's seed")
    parser.add_argument("--force", action="store_true", help="build again even what is up to date")
    asked = parser.parse_args(arguments)
    build(asked.profile, asked.data, asked.seed, asked.force, side_by_side=room_for_two())
    return 0


if __name__ == "__main__":
    sys.exit(main())
