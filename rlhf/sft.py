"""Step 1, supervised fine-tuning: reviews → demonstrations → TRL's SFTTrainer → a folder like the hub's.

In: a :class:`rlhf.profiles.Setup` and the sizes of lesson 04, which explains every stage. Out: by default
``output/sft_1``, an ordinary causal language model with its tokenizer. The training itself is TRL's; here is
only what turns the course's reviews into its inputs, and its result into a folder that is whole or absent::

    train_sft(setup)                                             # positive reviews → output/sft_1
    train_sft(setup, which="everything", folder=setup.output / "everything")

Other rows than reviews (best-of-K responses, say) go through :func:`make_trainer` and :func:`save`: a dataset
with a column ``text``, or with ``prompt`` and ``completion``, whose prompt tokens then carry no loss.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from accelerate.utils import DistributedType
from torch import nn

from rlhf import model_files, profiles
from rlhf.data import LABEL_NAMES, load_reviews, plain_text
from rlhf.errors import BadData, BadProfile
from rlhf.files import folder_mark, whole_folder

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
    from trl import SFTConfig, SFTTrainer

    from rlhf.profiles import Setup

LESSON = "04_supervised_fine_tuning"
RECORD = "sft.json"
IGNORED = -100  # the label of a position that does not count, as torch's cross-entropy and all of HF have it
WHICH = {"everything": None, "negative": LABEL_NAMES.index("neg"), "positive": LABEL_NAMES.index("pos")}


# ---------------------------------------------------------------------------------------------------- data


def lesson_sizes(profile: str | None = None) -> Mapping[str, Any]:
    """The sizes that ``profiles/<profile>.yaml`` gives lesson 04, for whoever trains Step 1 elsewhere.

    Raises:
        BadProfile: no such profile, or it has no block for lesson 04.
    """
    found = profiles.read(profile)
    if LESSON not in found.get("lessons", {}):
        raise BadProfile(
            f"profiles/{found['name']}.yaml 里没有 lessons: {LESSON} 的规模。",
            f"profiles/{found['name']}.yaml has no sizes under lessons: {LESSON}.",
        )
    return found["lessons"][LESSON]


def reviews_read(policy: Path, total: int) -> int | None:
    """How many reviews, from the first one, the build of ``policy`` drew from; ``total`` if it set no limit.

    None for a policy that :mod:`rlhf.build` did not make: nobody can say what it has read.
    """
    try:
        sizes = json.loads((policy / "build.json").read_text(encoding="utf-8"))["sizes"]
    except (OSError, ValueError, KeyError):
        return None
    return min(total, sizes.get("reviews") or total)


def demonstrations(setup: Setup, which: str = "positive", n: int | None = None) -> Dataset:
    """What the policy is to imitate: ``n`` reviews of the training split, one column ``text``.

    ``which`` is ``positive``, ``negative`` or ``everything``. Reviews that the policy's build cannot have
    read are taken where there are any; their order is drawn with the setup's seed.

    Raises:
        BadData: fewer than ``n`` such reviews, or another ``which``.
    """
    from datasets import Dataset

    reviews = load_reviews(setup.dataset, "train")
    read = reviews_read(setup.policy, len(reviews)) or 0
    fresh = reviews.select(range(read % len(reviews), len(reviews))).shuffle(seed=setup.seed)
    return Dataset.from_dict({"text": _pick(fresh, which, n)})


def answers(path: str | Path) -> Dataset:
    """The chosen texts of preference pairs, question and answer, one column ``text`` (:mod:`rlhf.pairs`)."""
    from rlhf.pairs import load_pairs

    return load_pairs(path, "train", drop_bad=True).select_columns("chosen").rename_column("chosen", "text")


def held_out_reviews(setup: Setup, which: str = "positive", n: int | None = None) -> list[str]:
    """``n`` reviews of the **test** split as texts, which no training of the course reads."""
    return _pick(load_reviews(setup.dataset, "test").shuffle(seed=setup.seed), which, n)


def _pick(reviews: Dataset, which: str, n: int | None) -> list[str]:
    if which not in WHICH:
        known = ", ".join(WHICH)
        raise BadData(
            f"没有 {which!r} 这一类影评；可选：{known}。", f"No reviews {which!r}; there are: {known}."
        )
    label = WHICH[which]
    rows = [row for row, its in enumerate(reviews["label"][:]) if label is None or its == label]
    if not rows or (n is not None and len(rows) < n):
        raise BadData(
            f"需要 {n or 1} 条影评（{which}），只有 {len(rows)} 条。",
            f"{n or 1} reviews ({which}) are needed, there are {len(rows)}.",
        )
    return [plain_text(text) for text in reviews.select(rows[:n])["text"]]


# ------------------------------------------------------------------------------------------------- training


def load_policy(
    folder: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32, **packed: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model, by default in float32, and its tokenizer. ``packed`` is what
    :func:`rlhf.quantize.loading` says about fewer bits.

    Raises:
        MissingAssets: files of the folder are missing or damaged.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = model_files.load_tokenizer(folder)
    with model_files.readable(folder):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **packed)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model if packed else model.to(device), tokenizer


def make_config(
    folder: str | Path, sizes: Mapping[str, Any], *, seed: int = 0, device: str = "cpu", **changes
) -> SFTConfig:
    """TRL's configuration with the profile's sizes and this course's choices.

    ``sizes``: ``max_length``, ``batch_size`` and ``learning_rate``; ``changes`` are fields of ``SFTConfig``
    and win. Unlike TRL's defaults: float32, no recomputed activations (the models are small), curves to
    TensorBoard under ``folder``, no checkpoints (the result is saved by :func:`save`).
    """
    from trl import SFTConfig

    known = {field.name for field in fields(SFTConfig)}
    # the name changes with transformers 6, and the old one already warns
    recompute = next(name for name in ("activation_checkpointing", "gradient_checkpointing") if name in known)
    settings = {
        "max_length": sizes["max_length"],
        "per_device_train_batch_size": sizes["batch_size"],
        "per_device_eval_batch_size": sizes["batch_size"],
        "learning_rate": sizes["learning_rate"],
        "num_train_epochs": 1,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 5,
        "logging_steps": 5,
        "bf16": False,
        recompute: False,
        "report_to": "tensorboard",
        "save_strategy": "no",
        "disable_tqdm": False,  # show the progress whatever the verbosity
        "dataloader_pin_memory": device.startswith("cuda"),
        "use_cpu": device == "cpu",
        "seed": seed,
    }
    return SFTConfig(output_dir=str(folder), **settings | changes)


def make_trainer(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    config: SFTConfig,
    held_out: Mapping[str, Dataset] | Dataset | None = None,
    *,
    peft_config: PeftConfig | None = None,
    **settings,
) -> SFTTrainer:
    """TRL's trainer on ``rows`` (``text``, or ``prompt`` and ``completion``); it changes ``model`` in place.

    Args:
        held_out: one or more sets of such rows, to be evaluated when the configuration says so.
        peft_config: train an adapter (``peft.LoraConfig``) instead of the weights.
        settings: further arguments of ``SFTTrainer`` (``data_collator``, ``callbacks`` …).

    Raises:
        BadData: no rows, or neither of the two layouts.
    """
    from trl import SFTTrainer

    for part in (rows, *(held_out.values() if isinstance(held_out, Mapping) else [held_out])):
        if part is not None:
            _check_rows(part)
    with _quiet_preparation(tokenizer), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # names that the libraries will change for each other
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=tokenizer,
            peft_config=peft_config,
            **settings,
        )
    keep_logs_together(trainer)
    return trainer


def keep_logs_together(trainer: Trainer) -> None:
    """TensorBoard's files of ``trainer`` go under its ``output_dir``, whatever it does first.

    transformers' callback learns that place when training begins. What is logged before, by an evaluation of
    the untrained model, would open a folder ``runs`` wherever the program was started.
    """
    from transformers.integrations import TensorBoardCallback

    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            run = time.strftime("%Y%m%d-%H%M%S")
            callback.logging_dir = os.path.join(trainer.args.output_dir, "runs", run)


def save(trainer: SFTTrainer, folder: str | Path, *, merge: bool = True, **facts) -> Path:
    """The trained model and its tokenizer into ``folder``, whole or not at all; an adapter is merged first.

    ``merge=False`` saves the adapter as it is: :mod:`rlhf.merge` merges it later. Of several processes the
    main one writes. ``facts`` and what the trainer logged go to ``sft.json``. Nothing pickled is written.

    Raises:
        CannotWrite: no space or no permission.
    """
    model, folder = trainer.accelerator.unwrap_model(trainer.model), Path(folder)
    weights = gathered_weights(trainer)
    if not trainer.accelerator.is_main_process:
        return folder
    if merge and hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    record = {**facts, "steps": trainer.state.global_step, "history": trainer.state.log_history}
    with whole_folder(folder) as partial:
        model.save_pretrained(partial, **weights)
        trainer.processing_class.save_pretrained(partial)
        (partial / RECORD).write_text(json.dumps(record, default=str) + "\n", encoding="utf-8")
    return folder


def gathered_weights(trainer: Trainer) -> dict[str, Any]:
    """What ``save_pretrained`` has to be told where ZeRO-3 or FSDP has shared the weights out: all of them,
    gathered in the main process. Nothing elsewhere. Every process has to call it. (Not run in shards.)"""
    accelerator = trainer.accelerator
    kind = accelerator.distributed_type
    zero_3 = kind == DistributedType.DEEPSPEED and accelerator.state.deepspeed_plugin.zero_stage == 3
    if not zero_3 and kind != DistributedType.FSDP:
        return {}
    return {"state_dict": accelerator.get_state_dict(trainer.model_wrapped)}


def train_sft(
    setup: Setup,
    sizes: Mapping[str, Any] | None = None,
    *,
    which: str = "positive",
    folder: str | Path | None = None,
    peft_config: PeftConfig | None = None,
) -> Path:
    """Step 1 as one call: the profile's policy, fine-tuned on ``which`` reviews, into ``folder``.

    Args:
        sizes: ``reviews``, ``max_length``, ``batch_size``, ``learning_rate``; what is missing is taken from
            the profile's sizes of lesson 04.
        folder: by default ``output/sft_1``. The curves go into the folder of ``setup``'s lesson.

    Raises:
        BadData: too few reviews. CannotWrite: no space or no permission.
    """
    sizes = {**lesson_sizes(setup.profile), **(sizes or {})}
    folder = Path(folder or profiles.root() / "output" / "sft_1")
    rows = demonstrations(setup, which, sizes["reviews"])
    model, tokenizer = load_policy(setup.policy, setup.device)
    config = make_config(setup.output / folder.name, sizes, seed=setup.seed, device=setup.device)
    trainer = make_trainer(model, tokenizer, rows, config, peft_config=peft_config)
    trainer.train()
    return save(trainer, folder, **origin(setup, which, sizes))


def reuse_or_train(setup: Setup) -> Path:
    """``output/sft_1`` as it is if the same policy, reviews, sizes and seed made it; otherwise train it."""
    folder = profiles.root() / "output" / "sft_1"
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {}
    wanted = origin(setup, "positive", lesson_sizes(setup.profile))
    made_alike = all(record.get(key) == value for key, value in wanted.items())
    return folder if made_alike else train_sft(setup)


def origin(setup: Setup, which: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """What a result depends on, as JSON holds it: :func:`save` it, and :func:`reuse_or_train` can tell."""
    facts = {"which": which, "profile": setup.profile, "seed": setup.seed, "sizes": dict(sizes)}
    facts |= {"policy": folder_mark(setup.policy), "reviews": folder_mark(setup.dataset)}
    return json.loads(json.dumps(facts))


# ------------------------------------------------------------------------------------------------ measuring


@torch.no_grad()
def token_losses(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    batch_size: int = 32,
) -> list[torch.Tensor]:
    """−log p of every token given the ones before it, in nats: one tensor ``(T - 1,)`` per text.

    Texts are prepared as SFTTrainer prepares them: EOS at the end, then cut to ``max_length`` tokens. A text
    of a single token gives an empty tensor, since nothing comes before it.

    Raises:
        BadData: no texts, or a ``max_length`` below 2.
    """
    if not texts or max_length < 2:
        raise BadData("需要至少一条文本、至少 2 个词元。", "At least one text and 2 tokens are needed.")
    encoded = [tokenizer.encode(text + tokenizer.eos_token, verbose=False)[:max_length] for text in texts]
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    losses = []
    for start in range(0, len(encoded), batch_size):
        rows = encoded[start : start + batch_size]
        ids, labels = pad_rows(rows, tokenizer.pad_token_id)  # (B, T) both
        mask = (labels != IGNORED).long().to(device)
        logits = model(input_ids=ids.to(device), attention_mask=mask).logits[:, :-1]  # (B, T-1, V)
        target = labels[:, 1:].to(device)  # (B, T-1)
        each = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none")
        each = each.view(target.shape).cpu()  # (B, T-1), 0 on padding
        losses += [each[row, : len(tokens) - 1] for row, tokens in enumerate(rows)]
    model.train(was_training)
    return losses


def perplexity(losses: Sequence[torch.Tensor]) -> float:
    """exp of the mean over all **tokens** (not over texts) of what :func:`token_losses` returned."""
    return math.exp(torch.cat(list(losses)).mean().item())


def pad_rows(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token lists → ``(input_ids, labels)``, both ``(B, T)``, padded on the right.

    Labels are the ids themselves; padding is found by its place and gets ``-100``, so that a real token with
    the same number as the padding, such as EOS, keeps its label.
    """
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_token_id)
    labels = torch.full((len(rows), longest), IGNORED)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = labels[place, : len(row)] = torch.tensor(row)
    return ids, labels


# ------------------------------------------------------------------------------------------------- details


def _check_rows(rows: Dataset) -> None:
    columns = set(rows.column_names)
    if not len(rows) or not ("text" in columns or {"prompt", "completion"} <= columns):
        raise BadData(
            f"SFT 需要 text 一列，或 prompt 和 completion 两列；现有 {len(rows)} 行，列 {sorted(columns)}。",
            f"SFT needs rows with text, or with prompt and completion; there are {len(rows)} rows with "
            f"{sorted(columns)}.",
        )
    used = ["text"] if "text" in columns else ["prompt", "completion"]
    texts = zip(*(rows[name] for name in used), strict=True)
    bad = [
        row for row, parts in enumerate(texts) if not any(parts) or not all(isinstance(t, str) for t in parts)
    ]
    if bad:
        raise BadData(f"第 {bad[0]} 行是空的或不是文本。", f"Row {bad[0]} is empty or not text.")


@contextlib.contextmanager
def _quiet_preparation(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """No progress bar per stage, and no alarm about long texts: TRL tokenises whole texts before it cuts."""
    import datasets

    bars, limit = datasets.are_progress_bars_disabled(), tokenizer.model_max_length
    datasets.disable_progress_bars()
    tokenizer.model_max_length = int(1e30)
    try:
        yield
    finally:
        tokenizer.model_max_length = limit
        if not bars:
            datasets.enable_progress_bars()
