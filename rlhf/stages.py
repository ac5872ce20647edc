"""The four stages of the course as recipes: what each can be told, and what it does with it.

In: checked values (:mod:`rlhf.recipes`) and a :class:`rlhf.profiles.Setup`. Out: a model folder. Every stage
calls the functions of its lesson: :mod:`rlhf.sft` (04), :mod:`rlhf.reward_model` (05), :mod:`rlhf.loop` (07),
:mod:`rlhf.rejection` (08). :mod:`rlhf.train` runs them as commands; lesson 11 goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf import errors, launched, profiles, quantize
from rlhf.errors import BadData, BadRecipe
from rlhf.files import whole_folder
from rlhf.recipes import Field, known_fields

if TYPE_CHECKING:
    import torch

    from rlhf.loop import Reward
    from rlhf.profiles import Setup
    from rlhf.rejection import RejectionConfig

OWN = "profile"  # as the name of a model: the one that the profile names
# What TRL's RewardConfig calls it, and what it is called here, as in the other stages.
REWARD_CONFIG = (
    "per_device_train_batch_size",
    "num_train_epochs",
    "learning_rate",
    "center_rewards_coefficient",
)
TRAINERS_NAMES = {"per_device_train_batch_size": "batch_size", "num_train_epochs": "epochs"}


# ------------------------------------------------------------------------------------------------- recipes


@dataclass
class Recipe:
    """What every stage is told."""

    profile: str = "offline"  # offline, imdb or full: its models, data, and the sizes that are not given here
    policy: str = OWN  # model to begin with: profile, a result by its name (sft_1), or a folder
    output: str = ""  # the result: a name under output/, or a folder
    seed: int = 0  # of everything random
    resume: bool = True  # go on with an interrupted run of this recipe; false: begin anew


@dataclass
class Large:
    """What a large model asks for. The defaults are those of a small one; lesson 11 and recipes/7b."""

    dtype: str = "float32"  # of weights that do not learn and of the arithmetic: float32 or bfloat16
    lora_rank: int = 0  # train a LoRA adapter of this rank; 0: train all weights
    quantize: str = "none"  # the frozen weights beside an adapter in 8bit or 4bit: needs bitsandbytes
    merge: bool = True  # merge the adapter into the result; false: save it alone, for python -m rlhf.merge


@dataclass
class Trained(Large):
    """The same for the stages that transformers' Trainer trains; PPOConfig has the first two itself."""

    gradient_accumulation_steps: int = 1  # passes per update: it sees so many times batch_size
    gradient_checkpointing: bool = False  # trade time for memory: recompute activations in the backward pass
    keep: int = 2  # checkpoints that are kept


@dataclass
class SFTRecipe(Recipe, Trained):
    """Step 1: imitate reviews."""

    output: str = "sft_1"  # the result: a name under output/, or a folder
    data: str = "reviews"  # the profile's reviews; or a file or folder of pairs: their chosen texts
    which: str = "positive"  # the reviews to imitate: positive, negative or everything
    reviews: int = 1600  # how many of them
    max_length: int = 64  # tokens of a review that are read
    packing: bool = False  # put texts one behind the other and cut them into blocks of max_length
    batch_size: int = 16  # reviews per update
    learning_rate: float = 1e-3  # of AdamW at its highest; it rises briefly and falls along a cosine
    epochs: float = 1.0  # passes over the reviews
    save_every: int = 50  # updates between two checkpoints


@dataclass
class RewardRecipe(Recipe, Trained):
    """Step 2: learn what is preferred."""

    output: str = "rm_2"  # the result: a name under output/, or a folder
    data: str = "reviews"  # pairs made from the profile's reviews; or a file or folder of pairs (lesson 05)
    pairs: int = 3000  # pairs to learn from
    held_out: int = 800  # pairs to measure the accuracy on
    tokens: list[int] = field(default_factory=lambda: [12, 48])  # shortest and longest text made
    turned: float = 0.2  # share of pairs that are a text and the same text turned round
    max_length: int = 512  # tokens of a text that are read, its end; scoring reads as many
    batch_size: int = 32  # pairs per update
    learning_rate: float = 1e-3  # of AdamW at its highest; it rises briefly and falls along a cosine
    epochs: float = 1.0  # passes over the pairs
    center_rewards_coefficient: float = 0.01  # how strongly scores are drawn to a mean of 0
    save_every: int = 50  # updates between two checkpoints


@dataclass
class Texts(Recipe):
    """What the stages that sample are told besides. Of a range of lengths the last is excluded."""

    reward_model: str = OWN  # what scores the texts: profile, a result by its name (rm_2), or a folder
    min_chars: int = 200  # only reviews longer than this give a query
    query_tokens: list[int] = field(default_factory=lambda: [2, 8])  # lengths of queries, [from, to)
    response_tokens: list[int] = field(default_factory=lambda: [4, 16])  # lengths of responses


@dataclass
class PPORecipe(Texts, Large):
    """Step 3: PPO. The fields of ``PPOConfig`` follow these."""

    output: str = "ppo_3"  # the result: a name under output/, or a folder
    data: str = "reviews"  # beginnings of the profile's reviews are the queries; or questions of these pairs
    steps: int = 28  # PPO steps; each samples batch_size responses
    stop_kl: float | None = None  # end the run after a step whose KL per response is above this
    save_every: int = 5  # PPO steps between two saved states


@dataclass
class RejectionRecipe(Texts):
    """Step 4: rejection sampling. The fields of ``RejectionConfig`` follow these."""

    output: str = "rs_4"  # the result: a name under output/, or a folder


@dataclass(frozen=True)
class Stage:
    """One command: the lesson it belongs to, what it makes, which fields it knows, what a profile says about
    them, which values cannot work (BadRecipe or BadConfig), and the training itself. ``alone``: it runs in
    one process only. ``shards``: the ways of sharing the model out in which it can be launched."""

    lesson: str
    about: str
    makes: str
    known: Callable[[], dict[str, Field]]
    sizes: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
    check: Callable[[Mapping[str, Any]], object]
    train: Callable[[Mapping[str, Any], Setup, Path, Path], object]
    alone: bool = False
    shards: tuple[str, ...] = ("ZeRO-2", "ZeRO-3", "FSDP", "FSDP1")


# ------------------------------------------------------------------------------------------ what is known


def _ppo_fields() -> dict[str, Field]:
    """The recipe's fields, and those of PPOConfig that this command leaves to the user."""
    from rlhf.ppo import PPOConfig, identity

    labels = identity.FREE - {"log_with"} - {f.name for f in fields(PPORecipe)}
    return known_fields(PPORecipe, PPOConfig, without=labels)


def _rejection_fields() -> dict[str, Field]:
    from rlhf.rejection import RejectionConfig

    return known_fields(RejectionRecipe, RejectionConfig)


def _lesson(profile: Mapping[str, Any], key: str) -> dict[str, Any]:
    return dict(profile.get("lessons", {}).get(key, {}))


def _sft_sizes(profile: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return _lesson(profile, "04_supervised_fine_tuning")


def _reward_sizes(profile: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    found = _lesson(profile, "05_reward_modelling")
    trainer = found.pop("reward", {})
    own = {TRAINERS_NAMES.get(name, name): value for name, value in trainer.items()}
    return {**found, **own}


def _text_sizes(profile: Mapping[str, Any]) -> dict[str, Any]:
    queries, responses = profile["prompts"], profile["response"]
    return {
        "min_chars": queries["min_chars"],
        "query_tokens": [queries["min_tokens"], queries["max_tokens"]],
        "response_tokens": [responses["min_tokens"], responses["max_tokens"]],
    }


def _ppo_sizes(profile: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The profile's; for a policy or a reward model of one's own, those of lesson 07's chain."""
    own = any(given.get(name, OWN) != OWN for name in ("policy", "reward_model"))
    chain = _lesson(profile, "07_ppo_imdb").get("chain", {}) if own else {}
    return {**_text_sizes(profile), **profile["ppo"], **chain}


def _rejection_sizes(profile: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {**_text_sizes(profile), **_lesson(profile, "08_rejection_sampling")}


def _check_counts(values: Mapping[str, Any]) -> None:
    """Raise BadRecipe for a number too small to train with."""
    counts = ("save_every", "steps", "reviews", "pairs", "held_out", "max_length", "batch_size", "keep")
    for name in (*counts, "gradient_accumulation_steps"):
        _at_least(values, name, 1)
    for name in ("lora_rank", "turned", "center_rewards_coefficient", "min_chars"):
        _at_least(values, name, 0)
    for name in ("learning_rate", "epochs"):
        _at_least(values, name, 1e-12)
    quantize.check(values)
    if values.get("dtype", "float32") not in ("float32", "bfloat16"):
        raise BadRecipe(
            f"字段 dtype 是 float32 或 bfloat16，而不是 {values['dtype']}。",
            f"The field dtype is float32 or bfloat16, not {values['dtype']}.",
        )


def _at_least(values: Mapping[str, Any], name: str, least: float) -> None:
    if name in values and not values[name] >= least:
        bound = f">= {least}" if least in (0, 1) else "> 0"
        raise BadRecipe(
            f"字段 {name} 必须 {bound}，而不是 {values[name]}。",
            f"The field {name} must be {bound}, not {values[name]}.",
        )


def _check_ppo(values: Mapping[str, Any]) -> None:
    from rlhf.ppo import PPOConfig

    _check_counts({name: value for name, value in values.items() if name != "learning_rate"})
    PPOConfig(**_ppo_settings(values))


def _ppo_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that PPOConfig means as well: ``steps`` and ``reward_model`` are labels there."""
    from rlhf.ppo import PPOConfig

    names = {f.name for f in fields(PPOConfig)} - {"steps", "reward_model"}
    return {name: value for name, value in values.items() if name in names}


def _rejection_config(values: Mapping[str, Any]) -> RejectionConfig:
    from rlhf.rejection import RejectionConfig

    return RejectionConfig(**{f.name: values[f.name] for f in fields(RejectionConfig)})


# --------------------------------------------------------------------------------------------- the stages


def train_sft(values: Mapping[str, Any], setup: Setup, work: Path, folder: Path) -> None:
    """Step 1 with TRL's SFTTrainer, as lesson 04 does it."""
    from trl import SFTConfig

    from rlhf import sft

    names = ("reviews", "max_length", "batch_size", "learning_rate")
    sizes = {**sft.lesson_sizes(setup.profile), **{name: values[name] for name in names}}
    if values["data"] == "reviews":
        rows = sft.demonstrations(setup, values["which"], sizes["reviews"])
    else:
        rows = sft.answers(pairs_at(values["data"]))
    model, tokenizer = sft.load_policy(setup.policy, setup.device, _dtype(values), **_packed(values, setup))
    more = {"num_train_epochs": values["epochs"], **_trainer_settings(values, SFTConfig)}
    if values["packing"]:
        more |= {"packing": True, "packing_strategy": "wrapped"}
    config = sft.make_config(work, sizes, seed=setup.seed, device=setup.device, **more)
    adapter = _adapter(values["lora_rank"])
    trainer = sft.make_trainer(model, tokenizer, rows, config, peft_config=adapter)
    trainer.train(resume_from_checkpoint=_newest(work))
    sft.save(trainer, folder, merge=values["merge"], **sft.origin(setup, values["which"], sizes))


def train_reward(values: Mapping[str, Any], setup: Setup, work: Path, folder: Path) -> None:
    """Step 2 with TRL's RewardTrainer, as lesson 05 does it."""
    from trl import RewardConfig

    from rlhf import pairs, reward_model

    setup = _with_sizes(setup, values)
    if values["data"] == "reviews":
        splits = reward_model.make_pairs(setup)
    else:
        splits = pairs.load_splits(pairs_at(values["data"]), values["pairs"], values["held_out"])
    started, tokenizer = time.perf_counter(), reward_model.load_tokenizer(setup.policy)
    model = reward_model.new_model(
        setup.policy, tokenizer, setup.seed, dtype=_dtype(values), **_packed(values, setup)
    )
    trainer = reward_model.new_trainer(
        setup,
        splits,
        tokenizer,
        model,
        longest=values["max_length"],
        peft_config=_adapter(values["lora_rank"], "SEQ_CLS"),
        output_dir=str(work),
        **_trainer_settings(values, RewardConfig),
    )
    trainer.train(resume_from_checkpoint=_newest(work))
    record = {"seconds": round(time.perf_counter() - started, 1)}
    reward_model.save(setup, trainer, splits, folder, record, merge=values["merge"])


def _with_sizes(setup: Setup, values: Mapping[str, Any]) -> Setup:
    """The setup whose sizes of lesson 05 are the recipe's."""
    trainer = {name: values[TRAINERS_NAMES.get(name, name)] for name in REWARD_CONFIG}
    sizes = {name: values[name] for name in ("pairs", "held_out", "tokens", "turned")}
    reward = {**setup.sizes.get("reward", {}), **trainer}
    return replace(setup, sizes={**setup.sizes, **sizes, "reward": reward})


def train_ppo(values: Mapping[str, Any], setup: Setup, work: Path, folder: Path) -> None:
    """Step 3 with the course's own PPO, as lesson 07 does it: :mod:`rlhf.loop`."""
    import pandas as pd

    from rlhf import loop
    from rlhf.ppo import latest_state

    settings = _ppo_settings(values)
    if values["dtype"] != "float32":
        settings["accelerator_kwargs"] = {"cpu": setup.device == "cpu", "mixed_precision": "bf16"}
    questions = None if values["data"] == "reviews" else pairs_at(values["data"])
    loading = {"dtype": _dtype(values), "peft_config": _adapter(values["lora_rank"])}
    loading |= _packed(values, setup)
    trainer = loop.build_trainer(setup, work / "runs", questions=questions, loading=loading, **settings)
    with launched.loading_whole():
        reward = load_reward(setup.reward_model, setup.device, _dtype(values))
    with launched.one_voice():  # before anything is sampled
        check_template(reward, trainer.dataset["query"][:])
    lengths, history = loop.response_lengths(setup), History()
    extra, state = {"lengths": lengths, "history": history}, work / "state"
    if latest_state(state) is not None:
        trainer.load_state(state, extra)
        launched.say(f"going on after step {trainer.current_step} of {values['steps']}")

    def after(row: dict[str, float]) -> bool:
        history.rows.append(row)
        if trainer.current_step % values["save_every"] == 0 or trainer.current_step == values["steps"]:
            trainer.save_state(state, extra)
        return values["stop_kl"] is not None and row["objective/kl"] > values["stop_kl"]

    loop.run(trainer, reward, lengths, values["steps"], after)
    if values["merge"] and trainer.policy.is_peft_model:
        trainer.policy.pretrained_model = trainer.policy.pretrained_model.merge_and_unload()
    weights = trainer.whole_weights()
    if trainer.accelerator.is_main_process:
        with whole_folder(folder) as partial:
            trainer.policy.save_pretrained(partial, trainer.tokenizer.save_pretrained, state_dict=weights)
            pd.DataFrame(history.rows).to_csv(partial / "history.csv", index=False)
        print(history.summary())
    for tracker in trainer.accelerator.trackers:  # end_training would also leave the group of processes
        tracker.finish()


def train_rejection(values: Mapping[str, Any], setup: Setup, work: Path, folder: Path) -> None:
    """Step 4, best-of-K and SFT in rounds, as lesson 08 does it."""
    from rlhf import rejection

    score, config = load_reward(setup.reward_model, setup.device), _rejection_config(values)
    places = {"folder": folder, "logs": work / "runs", "state": work / "state"}
    rejection.train_rounds(setup, config, score=score, **places)


STAGES = {
    "sft": Stage(
        "04_supervised_fine_tuning",
        "Step 1, supervised fine-tuning: the policy imitates reviews (lesson 04).",
        SFTRecipe.output,
        lambda: known_fields(SFTRecipe),
        _sft_sizes,
        _check_counts,
        train_sft,
    ),
    "reward": Stage(
        "05_reward_modelling",
        "Step 2, a reward model: it learns from pairs which text is preferred (lesson 05).",
        RewardRecipe.output,
        lambda: known_fields(RewardRecipe),
        _reward_sizes,
        _check_counts,
        train_reward,
    ),
    "ppo": Stage(
        "07_ppo_imdb",
        "Step 3, PPO: the policy learns to score high and stays near where it began (lessons 06 and 07).",
        PPORecipe.output,
        _ppo_fields,
        _ppo_sizes,
        _check_ppo,
        train_ppo,
        shards=("FSDP",),
    ),
    "rejection": Stage(
        "08_rejection_sampling",
        "Step 4, rejection sampling: the best of K responses is imitated, in rounds (lesson 08).",
        RejectionRecipe.output,
        _rejection_fields,
        _rejection_sizes,
        _rejection_config,
        train_rejection,
        alone=True,
    ),
}


class History:
    """What every PPO step logged, as a part of the saved state: curves go on where a run goes on."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, list]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, list]) -> None:
        self.rows[:] = state["rows"]

    def summary(self) -> str:
        """Mean score and KL of the first and the last step."""
        if not self.rows:
            return "no step was taken"
        ends = [(row["env/reward_mean"], row["objective/kl"]) for row in (self.rows[0], self.rows[-1])]
        (score, kl), (last_score, last_kl) = ends
        return (
            f"{len(self.rows)} steps · score {score:+.2f} → {last_score:+.2f} · KL {kl:.1f} → {last_kl:.1f}"
        )


def load_reward(folder: Path, device: str, dtype: torch.dtype | None = None) -> Reward:
    """The reward model in ``folder``: one label means it learnt from pairs, several a classifier. ``dtype``
    is for the first kind, which may be large; float32 unless given.

    Raises:
        BadData: no reward model, or files that are missing or damaged.
    """
    from transformers import AutoConfig

    from rlhf.rewards import PairwiseReward, SentimentReward

    name = Path(folder).name
    with errors.reading(
        BadData,
        f"奖励模型 {name} 读不进来：{{reason}}。重新训练或下载它，或换一个 reward_model。",
        f"The reward model {name} cannot be loaded: {{reason}}. Train or download it again, or name "
        "another reward_model.",
    ):
        one = AutoConfig.from_pretrained(folder).num_labels == 1
        return PairwiseReward(folder, device, dtype=dtype) if one else SentimentReward(folder, device)


def check_template(reward: Reward, queries: Sequence[str]) -> None:
    """Raise BadData where ``reward`` learnt from texts of another form than these queries will become."""
    if hasattr(reward, "check"):
        reward.check([f"{query} x" for query in queries])


def pairs_at(name: str) -> Path:
    """A file or folder of pairs: below ``RLHF_HOME`` or the checkout, else as it is written."""
    inside = profiles.root() / name
    return inside if inside.exists() else Path(name).expanduser()


def _dtype(values: Mapping[str, Any]) -> torch.dtype:
    import torch

    return getattr(torch, values["dtype"])


def _packed(values: Mapping[str, Any], setup: Setup) -> dict[str, Any]:
    """What loads the base in fewer bits, if the recipe says so: :mod:`rlhf.quantize`."""
    return quantize.loading(values["quantize"], _dtype(values), setup.device)


def _adapter(rank: int, task: str = "CAUSAL_LM") -> Any:
    """LoRA on every linear layer but the head; None for rank 0. A score head is new and learns as a whole."""
    if rank < 1:
        return None
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type=task)


def _trainer_settings(values: Mapping[str, Any], config: type) -> dict[str, Any]:
    """The fields that every Trainer knows, under its names."""
    known = {f.name for f in fields(config)}
    # the name changes with transformers 6, and the old one already warns
    recompute = next(name for name in ("activation_checkpointing", "gradient_checkpointing") if name in known)
    mixed = {} if values["dtype"] == "float32" else {"bf16": True}
    return {
        "save_strategy": "steps",
        "save_steps": values["save_every"],
        "save_total_limit": values["keep"],
        "gradient_accumulation_steps": values["gradient_accumulation_steps"],
        recompute: values["gradient_checkpointing"],
        **mixed,
    }


def _newest(work: Path) -> str | None:
    """The newest whole checkpoint of transformers' Trainer, which writes ``trainer_state.json`` last."""
    for folder in sorted(work.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1])):
        with contextlib.suppress(OSError, ValueError):
            step = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
            launched.say(f"going on after update {step}")
            return str(folder)
    return None
