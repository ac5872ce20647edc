"""Step 2: a reward model from preference pairs, trained with TRL's RewardTrainer.

In: a :class:`rlhf.profiles.Setup` and preference pairs (:mod:`rlhf.pairs`). Out: ``output/rm_2``, an ordinary
``…ForSequenceClassification`` folder with one label, which :class:`rlhf.rewards.PairwiseReward` scores with.
Lesson 05 goes through it step by step; lesson 07 trains a policy against the result. Sizes are those of
``lessons: 05_reward_modelling:`` in the profile, whichever lesson asks.

It starts from the profile's policy, not from ``output/sft_1``: the reward model then is the same whether or
not lesson 04 was run before, and it knows the language of the texts it will read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlhf import pairs, profiles, rewards, text_form
from rlhf.data import load_reviews
from rlhf.errors import BadProfile
from rlhf.files import folder_mark, whole_folder
from rlhf.model_files import load_tokenizer, readable
from rlhf.sft import gathered_weights, keep_logs_together

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import RewardTrainer

    from rlhf.profiles import Setup

KEY = "05_reward_modelling"
RECORD = "reward_model.json"
LONGEST = rewards.LONGEST
REVIEWS_PER_PAIR = 5  # reviews looked at for a pair; more only cost time


def train(setup: Setup, splits: Mapping[str, Dataset] | None = None, folder: Path | None = None) -> Path:
    """Make the pairs, train, save. Returns the folder, by default ``output/rm_2``.

    Args:
        splits: other preference pairs, ``train`` and ``test``; by default those of :func:`make_pairs`.

    Raises:
        BadProfile: the profile has no sizes for it. BadData, MissingAssets: see :mod:`rlhf.pairs`.
        CannotWrite: no space or no permission; what was in the folder before is still there.
    """
    splits = make_pairs(setup) if splits is None else splits
    tokenizer = load_tokenizer(setup.policy)
    started = time.perf_counter()
    trainer = new_trainer(setup, splits, tokenizer)
    trainer.train()
    record = {"seconds": round(time.perf_counter() - started, 1)}
    return save(setup, trainer, splits, folder, record)


def reuse_or_train(setup: Setup) -> Path:
    """``output/rm_2`` as it is if the same sizes, seed, policy and reviews made it; otherwise train it."""
    folder = profiles.root() / "output" / "rm_2"
    return folder if _record(folder).get("fingerprint") == fingerprint(setup) else train(setup)


def sizes(setup: Setup) -> Mapping[str, Any]:
    """The sizes of a setup of lesson 05 (those of a recipe may differ from the profile's); for any other
    lesson what the profile says about lesson 05. Raises BadProfile where it says nothing."""
    own = setup.sizes if setup.lesson == KEY else {}
    found = own or profiles.read(setup.profile).get("lessons", {}).get(KEY, {})
    if missing := {"pairs", "held_out", "tokens", "reward"} - set(found):
        raise BadProfile(
            f"profiles/{setup.profile}.yaml 的 lessons: {KEY}: 缺少 {', '.join(sorted(missing))}。",
            f"profiles/{setup.profile}.yaml lacks {', '.join(sorted(missing))} in lessons: {KEY}:.",
        )
    return found


def make_pairs(setup: Setup) -> dict[str, Dataset]:
    """Pairs from the profile's reviews: ``train`` and ``test``, each from the reviews of its own split."""
    asked, tokenizer = sizes(setup), load_tokenizer(setup.policy)
    found = {}
    for split, count in (("train", asked["pairs"]), ("test", asked["held_out"])):
        reviews = load_reviews(setup.dataset, split).shuffle(seed=setup.seed)
        reviews = reviews.select(range(min(len(reviews), REVIEWS_PER_PAIR * count)))
        found[split] = pairs.review_pairs(
            reviews, tokenizer, count, tuple(asked["tokens"]), asked.get("turned", 0.2), setup.seed
        )
    return found


def new_model(
    policy: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    seed: int = 0,
    labels: int = 1,
    dtype: torch.dtype = torch.float32,
    **packed: Any,
) -> PreTrainedModel:
    """The policy's body with a new ``Linear(H, labels)`` on top; the same seed gives the same head.
    ``packed`` is what :func:`rlhf.quantize.loading` says about fewer bits."""
    from transformers import AutoModelForSequenceClassification

    with torch.random.fork_rng(), _errors_only(), readable(policy):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            policy, num_labels=labels, dtype=dtype, **packed
        )
    model.config.pad_token_id = tokenizer.pad_token_id  # without it no last token is found
    return model


def tokenise(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """``chosen`` and ``rejected`` as ``chosen_ids`` and ``rejected_ids``, which RewardTrainer takes as is.

    A column ``length``, that of the longer one, lets pairs of like length share a batch.
    """
    from datasets import Dataset

    ids = {f"{name}_ids": rewards.to_tokens(tokenizer, rows[name][:], max_length) for name in pairs.COLUMNS}
    length = [max(map(len, pair)) for pair in zip(*ids.values(), strict=True)]
    return Dataset.from_dict({**ids, "length": length})


def new_trainer(
    setup: Setup,
    splits: Mapping[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel | None = None,
    *,
    longest: int = LONGEST,
    peft_config: PeftConfig | None = None,
    **changes: Any,
) -> RewardTrainer:
    """TRL's RewardTrainer with the profile's sizes, ready to ``train()`` and ``evaluate()``.

    Args:
        splits: ``train`` and, if there is one, ``test``. model: by default :func:`new_model`.
        longest: tokens of a text that are read, its end; whoever scores with the result reads as many.
        peft_config: train an adapter (``peft.LoraConfig``) and the score head instead of all weights.
        changes: fields of ``RewardConfig`` that differ from the profile's.
    """
    from transformers import PrinterCallback
    from trl import RewardConfig, RewardTrainer

    model = new_model(setup.policy, tokenizer, setup.seed) if model is None else model
    longest = min(model.config.max_position_embeddings, longest)
    model.config.reads_tokens = longest  # what scores with it cuts texts alike
    data = {name: tokenise(rows, tokenizer, longest) for name, rows in splits.items()}
    cpu = setup.device == "cpu"
    settings = {
        "output_dir": str(profiles.make_folder(profiles.root() / "output" / KEY)),
        "train_sampling_strategy": "group_by_length",  # little of a batch is padding then
        "remove_unused_columns": False,  # the lengths are used
        "max_length": None,  # nothing to leave out: tokenise has cut what was too long
        "seed": setup.seed,
        "use_cpu": cpu,
        "bf16": not cpu,  # TRL's default, and slow on a CPU
        _recompute(RewardConfig): False,  # TRL's default saves memory that small models do not need
        "dataloader_pin_memory": not cpu,
        "report_to": "tensorboard",
        "save_strategy": "no",
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,  # below 1: a share of the run
        **sizes(setup)["reward"],
        **changes,
    }
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(**settings),
        train_dataset=data["train"],
        eval_dataset=data.get("test"),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    trainer.remove_callback(PrinterCallback)  # a dict per log; the lesson draws the history instead
    keep_logs_together(trainer)
    return trainer


def save(
    setup: Setup,
    trainer: RewardTrainer,
    splits: Mapping[str, Dataset],
    folder: Path | None = None,
    record: Mapping[str, Any] | None = None,
    *,
    merge: bool = True,
) -> Path:
    """Model, tokenizer and a record of how it was made; the folder appears whole or not at all.

    An adapter is merged first; ``merge=False`` saves it as it is, for :mod:`rlhf.merge`. Of several processes
    the main one writes.
    """
    folder = profiles.root() / "output" / "rm_2" if folder is None else Path(folder)
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.config.texts_begin_with = template_of(splits["train"])
    form = form_of(splits["train"], trainer.processing_class, model.config.reads_tokens).to_dict()
    setattr(model.config, text_form.ATTRIBUTE, form)
    facts = {**(record or {}), "pairs": len(splits["train"]), "steps": trainer.state.global_step}
    facts |= text_form.recorded(vars(model.config))
    if trainer.eval_dataset is not None:
        facts["held_out"] = {key: float(value) for key, value in trainer.evaluate().items()}
    weights = gathered_weights(trainer)
    if not trainer.accelerator.is_main_process:
        return folder
    if merge and hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    with whole_folder(folder) as partial:
        model.save_pretrained(partial, **weights)
        trainer.processing_class.save_pretrained(partial)
        text = json.dumps({"fingerprint": fingerprint(setup), **facts}, indent=1) + "\n"
        (partial / RECORD).write_text(text, encoding="utf-8")
    return folder


def template_of(rows: Dataset) -> str:
    """How every text begins if they are dialogues in the style of HH-RLHF, else nothing."""
    begins = pairs.HUMAN.rstrip()
    return begins if all(text.startswith(begins) for text in rows["chosen"]) else ""


def form_of(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> text_form.TextForm:
    """What the texts of these pairs look like, and which tokens they become: what scoring is held to."""
    prompts = [pairs.split_prompt(*both)[0] for both in zip(rows["chosen"], rows["rejected"], strict=True)]

    def encode(text: str) -> list[int]:
        return rewards.to_tokens(tokenizer, [text], max_length)[0]

    return text_form.TextForm.of(prompts, tokenizer.eos_token, max_length, encode)


def _recompute(config: type) -> str:
    """What recomputing activations is called: the name changes with transformers 6, and the old one warns."""
    known = {field.name for field in fields(config)}
    return next(name for name in ("activation_checkpointing", "gradient_checkpointing") if name in known)


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
    """No report that the head is new: that is what was asked for."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def fingerprint(setup: Setup) -> str:
    """What the result depends on: sizes, seed, device, the policy, the reviews and the code."""
    code = [Path(module.__file__).read_bytes() for module in (pairs, rewards, text_form)]
    code.append(Path(__file__).read_bytes())
    digests = [hashlib.sha256(content).hexdigest() for content in code]
    marks = [folder_mark(folder) for folder in (setup.policy, setup.dataset)]
    facts = [dict(sizes(setup)), setup.seed, setup.device, marks, digests]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _record(folder: Path) -> dict:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
