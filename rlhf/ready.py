"""A class joins anywhere: make what the earlier lessons would have left, and nothing twice.

    python -m rlhf.ready 07                  # the same as make ready LESSON=07
    python -m rlhf.ready 10 --profile imdb   # for another profile; --plan says what it would do

In: a lesson. Out: the profile's models and data (built by :mod:`rlhf.build`, or downloaded for ``full``),
and under ``output/`` the results of other lessons that this one reads. Each is made as its lesson makes it,
from the profile's own models, by the stage of :mod:`rlhf.train` that belongs to that lesson. What is there
already is left alone; a result of other settings, where the lesson asks for the usual ones, is put aside.

What a lesson reads is read off its source, :func:`needs`: no list of it can go out of date.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rlhf import errors, model_files, profiles
from rlhf.errors import BadData, CannotWrite, CourseError, MissingAssets
from rlhf.stages import STAGES

LESSONS = profiles.CHECKOUT / "lessons"
KEPT = profiles.CHECKOUT / "benchmarks" / "results"
REUSES = "reuse_or_train"  # of these modules it takes a result of the usual settings only, and else trains
MODULES = {"rlhf.sft": "sft", "rlhf.reward_model": "reward"}


@dataclass(frozen=True)
class Need:
    """A result that a lesson reads: the stage that makes it, and whether only the usual settings will do."""

    stage: str
    usual: bool = False

    @property
    def name(self) -> str:
        return STAGES[self.stage].makes

    @property
    def lesson(self) -> str:
        return STAGES[self.stage].lesson

    @property
    def folder(self) -> Path:
        return profiles.root() / "output" / self.name


# ------------------------------------------------------------------------------------- what a lesson reads


def lesson_named(word: str) -> str:
    """The lesson of this number or name: ``7``, ``07``, ``07_ppo``, ``notebooks/07_ppo_imdb.ipynb``.

    Raises:
        BadData: none, or none of that name; the message lists those that exist.
    """
    there = sorted(path.stem for path in LESSONS.glob("[0-9][0-9]_*.py"))
    wanted = PurePosixPath(word.strip()).name.removesuffix(".ipynb").removesuffix(".py")
    wanted = wanted.zfill(2) if wanted.isdigit() else wanted
    found = [name for name in there if wanted and name.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    zh, en = _no_such_lesson(word.strip(), there)
    listed = "".join(f"\n  {name}" for name in there)
    raise BadData(f"{zh}现有：", f"{en} There are:{listed}")


def _no_such_lesson(word: str, there: Sequence[str]) -> tuple[str, str]:
    """What to say to ``word``, which names none of the lessons or no single one."""
    if not word.strip("./"):
        return (
            "要准备哪一课？例如 make ready LESSON=07。",
            "Which lesson? For example: make ready LESSON=07.",
        )
    if len(re.split(r"[\s,;，、]+", word)) > 1:
        return (
            f"一次一课，而不是“{word}”：几课就运行几次。",
            f"One lesson at a time, not {word!r}: run it for each.",
        )
    like = ", ".join(name for name in there if word.lower() in name)
    if like:
        return f"要写编号，“{word}”不够：也许是 {like}？", f"{word!r} is not enough, give the number: {like}?"
    return f"没有“{word}”这一课。", f"There is no lesson {word!r}."


def needs(source: str, lesson: str) -> tuple[Need, ...]:
    """What a lesson reads of other lessons' results, in the order of the stages.

    A lesson reads ``output/<name>`` where its code holds that name as a string, and the usual result where it
    calls ``reuse_or_train`` of the module that makes it. What it makes itself it does not need.

    Args:
        source: the lesson's Python source; its text is comments there. lesson: its key, ``NN_topic``.
    """
    tree = ast.parse(source)
    modules = _modules(tree)
    named, usual = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            named.add(PurePosixPath(node.value).name)
        elif isinstance(node, ast.Attribute) and node.attr == REUSES and isinstance(node.value, ast.Name):
            usual.add(MODULES.get(modules.get(node.value.id, "")))
    return tuple(
        Need(key, usual=key in usual)
        for key, stage in STAGES.items()
        if stage.lesson != lesson and (key in usual or stage.makes in named)
    )


def _modules(tree: ast.AST) -> dict[str, str]:
    """What the names that a source imports from this package stand for: ``step_1`` → ``rlhf.sft``."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Import):
            found |= {each.asname: each.name for each in node.names if each.asname}
    return found


# ----------------------------------------------------------------------------------------- what is there


@dataclass(frozen=True)
class State:
    """Whether a need is met; ``other`` says what else is in its place, as (zh, en)."""

    there: bool
    other: tuple[str, str] | None = None


def look(need: Need, profile: str) -> State:
    """Is the result there, made for this profile and, where that is asked for, with the usual settings?"""
    folder = need.folder
    if not folder.exists() or not any(folder.iterdir()):
        return State(False)
    if not model_files.has(folder) or not (folder / "config.json").is_file():
        return State(False, ("不是完整的模型", "is not a whole model"))
    setup = _setup(need, profile)
    if _words(folder) != _words(setup.policy):
        return State(False, ("是别的配置的", "is of another profile"))
    if need.usual and not _made_as_usual(need, setup):
        return State(
            False,
            ("不是用通常的设置或现在的代码得到的", "was made with other settings, or by older code"),
        )
    return State(True)


def _words(folder: Path) -> dict[str, int]:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder).get_vocab()


def _setup(need: Need, profile: str) -> profiles.Setup:
    """The setup that the need's own lesson works with."""
    from rlhf import train

    return train.make_setup(STAGES[need.stage], _job(need, profile).values)


def _job(need: Need, profile: str):
    from rlhf import train

    return train.plan(need.stage, ["--profile", profile])


def _made_as_usual(need: Need, setup: profiles.Setup) -> bool:
    """What ``reuse_or_train`` asks before it takes a result as it is."""
    from rlhf import reward_model, sft

    if need.stage == "sft":
        wanted = sft.origin(setup, "positive", sft.lesson_sizes(setup.profile))
        record = _json(need.folder / sft.RECORD)
        return all(record.get(key) == value for key, value in wanted.items())
    return _json(need.folder / reward_model.RECORD).get("fingerprint") == reward_model.fingerprint(setup)


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


# ----------------------------------------------------------------------------------------------- making it


def base(profile: str) -> str:
    """What has to be done for the profile's own models and data: ``build``, ``download``, ``both``, or
    nothing. What was built from other settings counts as missing, for ``make lab`` would build it anew."""
    from rlhf import build

    fields = profiles.read(profile)
    try:
        profiles.require_base(fields)
    except MissingAssets:
        if "build" not in fields:
            return "download"
        real = "corpus" not in fields["build"]  # built from reviews that have to be downloaded first
        return "both" if real and not profiles.dataset_folder(fields).is_dir() else "build"
    return "build" if "build" in fields and build.outdated(profile) else ""


def make_base(profile: str, how: str) -> None:
    """Build or download the profile's models and data.

    Raises:
        MissingAssets: the download did not end well; it has said why.
    """
    from rlhf import assets, build

    if how != "build" and assets.main(["--profile", profile]):
        raise MissingAssets(
            f"配置 {profile} 的下载没有完成，原因见上。同样的命令再运行一次就接着下。",
            f"The download for the profile {profile} is not complete; the reason is above. The same "
            "command once more goes on.",
        )
    if how != "download":
        build.build(profile, side_by_side=build.room_for_two())


def make(need: Need, profile: str) -> None:
    """Train one result as its lesson does, or go on with an interrupted run of the same settings."""
    from rlhf import pipeline, train

    job = _job(need, profile)
    go_on = train.unfinished(job.work) and not pipeline.differences(
        job.work, job, train.origin(job, _setup(need, profile))
    )
    train.carry_out(job, anew=not go_on)


def put_aside(folder: Path) -> Path:
    """Rename ``folder`` to the first free ``<name>_before``, ``<name>_before_2``, …; returns the new place.

    Raises:
        CannotWrite: no permission.
    """
    names = (f"{folder.name}_before{end}" for end in ("", *(f"_{k}" for k in range(2, 1000))))
    places = (folder.with_name(name) for name in names)
    place = next(place for place in places if not place.exists())
    try:
        return folder.rename(place)
    except OSError as error:
        raise CannotWrite(
            f"无法把 {folder.name} 改名为 {place.name}：{error.strerror}",
            f"Cannot rename {folder.name} to {place.name}: {error.strerror}",
        ) from error


def about_seconds(stage: str, profile: str) -> float | None:
    """How long a stage took in the kept run of the chain, scaled to as many responses; None without one.

    The smaller of clock and processor: other work ran beside some of them.
    """
    rows = _json(KEPT / f"pipeline_{profile}.json").get("stages", [])
    row = next((row for row in rows if row["stage"] == stage and row["trained"]), None)
    if row is None:
        return None
    from rlhf import train

    there, here = row["recipe"], train.plan(stage, ["--profile", profile]).values
    scale = _responses(stage, here) / _responses(stage, there)
    return scale * min(row["seconds"], row["cpu_seconds"])


def _responses(stage: str, values: Mapping) -> float:
    """What the time of a stage grows with."""
    if stage == "ppo":
        return values["steps"] * values["batch_size"]
    return values["rounds"] * values["prompts"] * values["k"] if stage == "rejection" else 1.0


def about_base(profile: str) -> float | None:
    """How long building took in the kept run of lesson 07; None without one, or where nothing is built."""
    took = _json(KEPT / f"07_{profile}.json").get("build") or {}
    return sum(value for key, value in took.items() if key.endswith("_seconds")) or None


# ------------------------------------------------------------------------------------------ the command line


STEPS = {
    "build": "要构建 to be built",
    "download": "要下载 to be downloaded",
    "both": "要先下载，再构建 to be downloaded, then built",
    "": "",
}


@dataclass(frozen=True)
class Todo:
    """Everything that one lesson asks for, and what of it is not there."""

    lesson: str
    profile: str
    base: str
    needs: Mapping[Need, State]

    @property
    def missing(self) -> list[Need]:
        return [need for need, state in self.needs.items() if not state.there]

    def lines(self) -> list[str]:
        """The list that is printed, in both languages."""
        fields = profiles.read(self.profile)
        what = ", ".join(fields[name] for name in ("policy", "reward_model", "dataset"))
        about = about_base(self.profile) if self.base in ("build", "both") else None
        lines = [_line(what, STEPS[self.base], about)]
        for need, state in self.needs.items():
            step = "" if state.there else "要训练 to be trained"
            what = f"output/{need.name} · 第 {need.lesson[:2]} 课的结果 of lesson {need.lesson[:2]}"
            lines.append(_line(what, step, None if state.there else about_seconds(need.stage, self.profile)))
            if state.other:
                lines.append(
                    f"    现有的{state.other[0]}，改名保留 · what is there {state.other[1]}: put aside"
                )
        return lines


def _line(what: str, step: str, seconds: float | None) -> str:
    if not step:
        return f"  ✓ {what}"
    about = (
        "没有量过 not measured"
        if seconds is None
        else f"约 {seconds / 60:.1f} 分钟 about {seconds / 60:.1f} min"
    )
    return f"  → {what}: {step} ({about})"


def todo(lesson: str, profile: str) -> Todo:
    """What ``lesson`` asks for and what of it is there. Raises BadProfile: no such profile."""
    profile = profiles.read(profile)["name"]
    wanted, first = needs((LESSONS / f"{lesson}.py").read_text(encoding="utf-8"), lesson), base(profile)
    states = {need: State(False) if first else look(need, profile) for need in wanted}
    return Todo(lesson, profile, first, states)


def prepare(found: Todo) -> list[str]:
    """Make what is missing; returns what was made, with the seconds it took."""
    made = []
    if found.base:
        made.append(_timed(f"profile {found.profile}", lambda: make_base(found.profile, found.base)))
        found = todo(found.lesson, found.profile)  # results of other models may have been there
    for need in found.missing:
        if found.needs[need].other:
            print(f"  {need.name} → {put_aside(need.folder).name}")
        print(f"\n== output/{need.name}", flush=True)
        made.append(_timed(f"output/{need.name}", lambda need=need: make(need, found.profile)))
    left = [need.name for need in todo(found.lesson, found.profile).missing]
    if left:
        raise CourseError(
            f"做完之后仍然缺 {', '.join(left)}：请把上面的输出告诉老师。",
            f"Still missing after all: {', '.join(left)}. Show the output above to your teacher.",
        )
    return made


def _timed(name: str, work) -> str:
    begun = time.perf_counter()
    work()
    return f"{name}: {time.perf_counter() - begun:.0f} s"


@errors.command
def main(words: Sequence[str] | None = None) -> int:
    """The command ``python -m rlhf.ready``."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhf.ready",
        description="准备好一课需要的一切。 Makes what a lesson needs of what earlier ones would have left.",
    )
    parser.add_argument("lesson", nargs="?", default="", metavar="NN", help="the lesson's number or name")
    parser.add_argument("--profile", help="offline, imdb or full (default: RLHF_PROFILE, else offline)")
    parser.add_argument("--plan", action="store_true", help="only say what is there and what is missing")
    asked = parser.parse_args(None if words is None else list(words))
    lesson = lesson_named(asked.lesson)
    found = todo(lesson, profiles.read(asked.profile)["name"])
    print(f"{lesson} · 配置 profile {found.profile}", *found.lines(), sep="\n", flush=True)
    if asked.plan:
        return 0
    for line in prepare(found):
        print(f"  ✓ {line}")
    print(f"准备好了 · ready: make lab → notebooks/{lesson}.ipynb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
