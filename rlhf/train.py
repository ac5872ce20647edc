"""The four stages as commands, for runs without a notebook: the lessons' functions, settings from a recipe.

    python -m rlhf.train sft       --config recipes/sft.yaml         # → output/sft_1   lesson 04
    python -m rlhf.train reward    --config recipes/reward.yaml      # → output/rm_2    lesson 05
    python -m rlhf.train ppo       --config recipes/ppo.yaml         # → output/ppo_3   lesson 07
    python -m rlhf.train rejection --config recipes/rejection.yaml   # → output/rs_4    lesson 08
    python -m rlhf.train ppo --help                                  # every field, and what it is for

A field comes from the command line (``--field value`` or ``--set field=value``), else from the recipe, else
from the profile, else from its default in :mod:`rlhf.stages`. The result is an ordinary model folder with
``recipe.yaml``, all fields as they really were, beside the weights, and ``made_from.json``, which tells the
models and data it was made from. What is needed on the way only, the curves for TensorBoard and the states
that an interrupted run goes on from, is in ``output/runs/<name>``; the same command once more goes on. PPO
then ends as if it had never stopped; SFT and the reward model go on from the checkpoints of transformers'
Trainer, rejection sampling from its last whole round.

Launched in several processes (``python -m torch.distributed.run --nproc_per_node 2 -m rlhf.train …``, or
``accelerate launch``) it takes the same words and leaves the same folder; batch sizes are then those of each
process. Lesson 11 does it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf import assets, errors, launched, model_files, profiles, quantize, recipes
from rlhf.errors import BadRecipe, CannotWrite, MissingAssets
from rlhf.files import folder_mark, whole_text
from rlhf.stages import OWN, STAGES, Stage, pairs_at

if TYPE_CHECKING:
    from rlhf.profiles import Setup

RECIPE, ORIGIN = "recipe.yaml", "made_from.json"
MODEL = ("config.json", "adapter_config.json")  # a result has one: a model, or an adapter left apart
UNFINISHED = ("state", "checkpoint-*")  # what an interrupted run leaves in its folder
MAY_DIFFER = ("resume", "save_every", "output", "log_with")  # between a run and its continuation
FULL_OR_FORBIDDEN = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
Fields = Mapping[str, recipes.Field]


@errors.command
def main(words: Sequence[str] | None = None) -> int:
    """The command ``python -m rlhf.train``."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    if words[0] not in STAGES:
        raise BadRecipe(
            f"没有名为 {words[0]} 的阶段；可选：{', '.join(STAGES)}。",
            f"There is no stage {words[0]}; there are: {', '.join(STAGES)}.",
        )
    try:
        with launched.group():
            run(words[0], words[1:])
    except KeyboardInterrupt:
        if launched.is_main():
            print("\n同样的命令再运行一次，就接着跑。 The same command once more goes on.", file=sys.stderr)
        raise
    return 0


@dataclasses.dataclass(frozen=True)
class Job:
    """One stage, and all that it was told: what :func:`plan` makes of words and :func:`carry_out` runs."""

    name: str
    values: Mapping[str, Any]

    @property
    def stage(self) -> Stage:
        return STAGES[self.name]

    @property
    def folder(self) -> Path:
        """Where the result goes: a name stands for a folder under ``output/``."""
        output = Path(self.values["output"]).expanduser()
        return output.resolve() if len(output.parts) > 1 else profiles.root() / "output" / output

    @property
    def work(self) -> Path:
        """Where curves and the states of an unfinished run go."""
        return self.folder.parent / "runs" / self.folder.name


def run(name: str, words: Sequence[str]) -> Path:
    """One stage, from words to its result; returns the folder. What can be wrong is a ``CourseError``. Of
    several processes that were launched together each calls this, and the main one writes."""
    launched.join(profiles.pick_device())
    with launched.one_voice():
        job = plan(name, words)
    return carry_out(job)


def plan(name: str, words: Sequence[str]) -> Job:
    """The stage ``name`` with every field resolved and checked; nothing is read but profile and recipe."""
    job = Job(name, resolve(STAGES[name], STAGES[name].known(), words, _program(name)))
    _check_launch(job)
    return job


def _check_launch(job: Job) -> None:
    """Raise BadRecipe where this stage cannot run in as many processes as were launched, or in shards."""
    name, how, number = job.name, launched.sharding(), launched.count()
    if job.stage.alone and number > 1:
        raise BadRecipe(
            f"{name} 阶段只能用一个进程运行，而这里启动了 {number} 个。请直接运行：{_program(name)} …",
            f"The stage {name} runs in one process, and {number} were launched. Run it directly: "
            f"{_program(name)} …",
        )
    if how and how not in job.stage.shards:
        raise BadRecipe(
            f"{name} 阶段不能用 {how} 启动。请用 recipes/accelerate/fsdp.yaml（FSDP2，分摊权重），"
            "或 recipes/accelerate/eight_gpus.yaml（每个进程一整份）。",
            f"The stage {name} cannot be launched with {how}. Use recipes/accelerate/fsdp.yaml (FSDP2, the "
            "weights are shared out) or recipes/accelerate/eight_gpus.yaml (a whole model in each process).",
        )
    if how in ("ZeRO-3", "FSDP", "FSDP1") and job.values.get("lora_rank") and job.values.get("merge"):
        raise BadRecipe(
            f"{how} 把权重分摊到各个进程，适配器不能就地合并。"
            "请写 merge: false，训练后运行 python -m rlhf.merge。",
            f"{how} shares the weights out, so the adapter cannot be merged there. Set merge: false, and run "
            "python -m rlhf.merge after the training.",
        )
    quantize.require(job.values.get("quantize", "none"), how)


def carry_out(job: Job, anew: bool = False) -> Path:
    """Train, or go on with what was interrupted (unless ``anew``), and save; returns the folder.

    Raises:
        MissingAssets, BadRecipe, CannotWrite: see :func:`make_setup` and :func:`begin`.
    """
    launched.join(profiles.pick_device())
    main, sources, head = launched.is_main(), {}, ""
    with launched.one_voice():  # the others wait here until the main one has made the folders ready
        setup = make_setup(job.stage, job.values)
        if main:
            sources, head = origin(job, setup), _head(job, setup)
            begin(job, sources, head, job.values["resume"] and not anew)
    launched.say(setup.describe())
    try:
        job.stage.train(job.values, setup, job.work, job.folder)
    except OSError as error:
        if error.errno not in FULL_OR_FORBIDDEN or isinstance(error, CannotWrite):
            raise
        raise CannotWrite(f"无法写入：{error}", f"Cannot write: {error}") from error
    if not main:
        return job.folder
    _write_record(job.folder, job, sources, head)
    for left in unfinished(job.work):
        shutil.rmtree(left, ignore_errors=True)
    where = place(job.folder), place(job.work)
    print(f"→ {where[0]}; {RECIPE} in it says how · curves: tensorboard --logdir {where[1]}")
    return job.folder


def _head(job: Job, setup: Setup) -> str:
    """The first lines of the recipe that is left with the result."""
    number = launched.count()
    among = f"\n{number} processes; batch sizes are those of each" if number > 1 else ""
    return f"{_program(job.name)} --config {RECIPE}\n{setup.describe()}{among}"


def _program(name: str) -> str:
    return f"python -m rlhf.train {name}"


def resolve(stage: Stage, known: Fields, words: Sequence[str], program: str) -> dict[str, Any]:
    """Every field of a stage: command line, else recipe, else profile, else default.

    Raises:
        BadRecipe, BadConfig: a field that does not exist, or a value it cannot have. BadProfile: no such
            profile.
    """
    usual = profiles.read()
    about = f"{stage.about}\n\nIn brackets: the default; sizes are those of the profile {usual['name']}."
    config, given = recipes.parse_words(words, known, program, about, _of_profile(stage, known, usual, {}))
    given = {**(recipes.read_file(config, known) if config else {}), **given}
    chosen = _of_profile(stage, known, profiles.read(given.get("profile")), given)
    values = {name: field.default for name, field in known.items()} | chosen | given
    stage.check(values)
    return values


def _of_profile(
    stage: Stage, known: Fields, profile: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """What the profile says about this stage's fields, checked like a recipe."""
    sizes = {name: value for name, value in stage.sizes(profile, given).items() if name in known}
    sizes |= {"profile": profile["name"], "seed": profiles.seed(profile)}
    return recipes.check(sizes, known, f"profiles/{profile['name']}.yaml")


def make_setup(stage: Stage, values: Mapping[str, Any]) -> Setup:
    """The profile's setup with the recipe's models, seed and lengths in place of its own.

    Raises:
        MissingAssets: a model is not there; the message names the command that makes it.
    """
    from accelerate.utils import set_seed

    own = {name: values[name] == OWN for name in ("policy", "reward_model") if name in values}
    own["dataset"] = values.get("data", "reviews") == "reviews"
    with contextlib.redirect_stdout(io.StringIO()):  # it would describe the profile's models
        setup = profiles.setup(stage.lesson, values["profile"], [name for name in own if own[name]])
    changes: dict[str, Any] = {"seed": values["seed"], "policy": find_model(values["policy"], setup.policy)}
    if "reward_model" in values:
        changes["reward_model"] = find_model(values["reward_model"], setup.reward_model)
        queries, responses = (_range(values, name) for name in ("query_tokens", "response_tokens"))
        changes |= {"prompts": {"min_chars": values["min_chars"], **queries}, "response": responses}
    set_seed(values["seed"])
    return dataclasses.replace(setup, **changes)


def _range(values: Mapping[str, Any], name: str) -> dict[str, int]:
    """``[2, 8]`` as the profile has it: ``min_tokens`` 2, ``max_tokens`` 8."""
    if len(values[name]) != 2 or not 0 < values[name][0] < values[name][1]:
        raise BadRecipe(
            f"{name} 应当是两个递增的正整数，例如 [2, 8]，而不是 {values[name]}。",
            f"{name} must be two rising whole numbers such as [2, 8], not {values[name]}.",
        )
    return dict(zip(("min_tokens", "max_tokens"), values[name], strict=True))


def find_model(name: str, own: Path) -> Path:
    """The folder of a model: ``own`` for ``profile``, a name under ``output/``, or a folder.

    Raises:
        MissingAssets: there is none; the message names the command that makes it, or the models that exist.
            Or one of its files is damaged.
    """
    if name == OWN:
        return own
    output = profiles.root() / "output"
    places = (
        output / name,
        profiles.root() / name,
        Path(name).expanduser(),
        profiles.root() / "model" / name,
    )
    for folder in places:
        if (folder / "config.json").is_file():
            model_files.check(folder, "重新训练或取来它。", "Train or fetch it again.")
            return folder.resolve()
    for key, stage in STAGES.items():
        if Path(name).name == stage.makes:
            command = f"python -m rlhf.train {key} --config recipes/{key}.yaml"
            raise MissingAssets(
                f"还没有 {name}。先运行：{command}", f"There is no {name} yet. Run: {command}"
            )
    if (output / f"{name}_lora" / "adapter_config.json").is_file():
        command = f"python -m rlhf.merge {name}_lora --output {name}"
        raise MissingAssets(f"还没有 {name}。先运行：{command}", f"There is no {name} yet. Run: {command}")
    for asset in assets.catalogue():
        if asset.type == "model" and Path(name).name == asset.name:
            command = f"./download.sh --only {asset.name}"
            raise MissingAssets(
                f"还没有 {name}。先运行：{command}", f"There is no {name} yet. Run: {command}"
            )
    there = ", ".join(sorted(path.parent.name for path in output.glob("*/config.json"))) or "-"
    raise MissingAssets(
        f"找不到模型 {name}。output/ 里有：{there}；也可以写 profile（配置自带的），或一个文件夹。",
        f"There is no model {name}. Under output/ there are: {there}; profile (the profile's own) or a "
        "folder can be named too.",
    )


def begin(job: Job, sources: Mapping[str, Any], head: str, resume: bool) -> None:
    """Make the working folder ready: as an interrupted run of this recipe left it, or empty.

    Raises:
        BadRecipe: the interrupted run was of another recipe; the message names the fields.
        CannotWrite: one of the two folders holds something else, which is left alone.
    """
    work = job.work
    for place, marks in ((work, (RECIPE,)), (job.folder, MODEL)):
        if place.is_dir() and any(place.iterdir()) and not any((place / mark).is_file() for mark in marks):
            raise CannotWrite(
                f"{place} 里已有别的文件，不会覆盖。请用 output 换一个名字。",
                f"{place} holds other files and is left alone. Choose another name with output.",
            )
    if resume and unfinished(work):
        if changed := changes(work, job, sources):
            listed = "\n  ".join(changed)
            raise BadRecipe(
                f"{work} 里没跑完的训练用的是另一份配方或别的模型（见下）。"
                "改回去，或用 --resume false 重新开始。",
                f"The unfinished run in {work} was of another recipe, or of other models. Go back to its "
                f"values, or begin anew with --resume false.\n  {listed}",
            )
    else:
        shutil.rmtree(work, ignore_errors=True)
    _write_record(work, job, sources, head)


def origin(job: Job, setup: Setup) -> dict[str, Any]:
    """What a result depends on besides its recipe: the content of the models and the data that it names, and
    in how many processes it was made, if in several."""
    data = job.values.get("data", "reviews")
    pairs = None if data == "reviews" else pairs_at(data)
    found: dict[str, Any] = {
        "policy": _content(setup.policy),
        "dataset": folder_mark(pairs or setup.dataset),
    }
    if launched.count() > 1:
        found["processes"] = launched.count()
    if "reward_model" in job.values:
        found["reward_model"] = _content(setup.reward_model)
    return found


def _content(folder: Path) -> str:
    """A digest of a model: its weights, its configuration and its tokenizer."""
    digest = hashlib.sha256()
    for pattern in (*model_files.WEIGHTS, "config.json", "tokenizer.json"):
        for path in sorted(folder.glob(pattern)):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def changes(place: Path, job: Job, sources: Mapping[str, Any]) -> list[str]:
    """In what the run that left its record in ``place`` differs from ``job``; empty: in nothing that counts.

    Raises:
        BadRecipe: there is no record, or it has fields that the stage does not know.
    """
    found = recipes.differences(recipes.read_file(place / RECIPE, job.stage.known()), job.values, MAY_DIFFER)
    try:
        before = json.loads((place / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    number = [sources.get("processes", 1), before.pop("processes", 1)]
    if number[0] != number[1]:
        found.append(f"processes: {number[1]} → {number[0]}")
    return found + [
        f"{name}: {job.values.get(name, 'reviews')}, which is not what it was then"
        for name, mark in sources.items()
        if name != "processes" and before.get(name) != mark
        if not any(line.startswith(f"{name}: ") for line in found)
    ]


def _write_record(place: Path, job: Job, sources: Mapping[str, Any], head: str) -> None:
    """The origin first: where there is a recipe, all is there."""
    whole_text(place / ORIGIN, json.dumps(sources, indent=1) + "\n")
    recipes.write_file(place / RECIPE, job.values, job.stage.known(), head)


def unfinished(work: Path) -> list[Path]:
    return [path for pattern in UNFINISHED for path in work.glob(pattern)]


def place(folder: Path) -> str:
    try:
        return folder.relative_to(profiles.root()).as_posix()
    except ValueError:
        return str(folder)


def usage() -> str:
    """What is printed when no stage is named."""
    lines = [
        "usage: python -m rlhf.train STAGE [--config recipes/STAGE.yaml] [--FIELD VALUE ...]",
        "选一个阶段；STAGE --help 列出它的全部字段。 Choose a stage; STAGE --help lists its fields.",
        "",
    ]
    return "\n".join(lines + [f"  {name:10} {stage.about}" for name, stage in STAGES.items()])


if __name__ == "__main__":
    sys.exit(main())
