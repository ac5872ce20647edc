"""The whole chain as one command: SFT → reward model → PPO → rejection sampling, and what each was worth.

    python -m rlhf.pipeline                    # the four recipes of recipes/; the same as make pipeline
    python -m rlhf.pipeline --profile imdb     # with the models, reviews and sizes of another profile
    python -m rlhf.pipeline --recipes mine/    # one's own sft.yaml, reward.yaml, ppo.yaml …
    python -m rlhf.pipeline --again            # train anew what is there already

Every stage is that of ``python -m rlhf.train``. One that the same recipe made from the same models is taken
as it is; an interrupted one goes on. PPO and rejection sampling both begin with the result of SFT and learn
from the reward model, so they can be compared: the table at the end puts them beside the policy at the very
beginning and beside SFT, on prompts that nobody trained on, and asks a judge that took no part. It is saved
in ``output/pipeline``. Lessons 04, 05, 07 and 08 explain the stages, lesson 07 the table.
"""

from __future__ import annotations

import html
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rlhf import errors, profiles, recipes, train
from rlhf.errors import BadRecipe, CannotWrite, CourseError
from rlhf.files import whole_text
from rlhf.stages import STAGES
from rlhf.train import Job

if TYPE_CHECKING:
    from rlhf.report import Report

BASE = "base"  # the row of the policy that SFT begins with
METHODS = ("ppo", "rejection")  # both begin with SFT's result and learn from the reward model
JUDGE = "sentiment classifier"
COLUMNS = {  # of the table: the Chinese under the English
    "step": "步骤",
    "reward model": "奖励模型均分",
    "gain": "比 SFT 高（95% 区间）",
    "classifier": "情感分类器均分（没有参与训练）",
    "classifier gain": "比 SFT 高（95% 区间）",
    "KL": "每条回复与 SFT 的 KL（nat）",
    "distinct-2": "不同二元组占比",
}


class StageFailed(CourseError, RuntimeError):
    """A stage of the chain could not be finished; the message says which, why, and how to go on."""


@dataclass(frozen=True)
class Took:
    """What became of a stage: trained now, in so many seconds, or taken as it was (None)."""

    job: Job
    seconds: float | None = None
    cpu_seconds: float | None = None
    went_on: bool = False  # the seconds are those since it went on

    def __str__(self) -> str:
        if self.seconds is None:
            return f"{self.job.name}: taken as it was"
        end = ", second part" if self.went_on else ""
        return f"{self.job.name}: {self.seconds:.0f} s (CPU {self.cpu_seconds:.0f} s){end}"

    def record(self) -> dict[str, Any]:
        """The same as JSON holds it, with the recipe."""
        times = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "went_on": self.went_on}
        return {"stage": self.job.name, "trained": self.seconds is not None, **times} | {
            "output": self.job.folder.name,
            "recipe": dict(self.job.values),
        }


@errors.command
def main(words: Sequence[str] | None = None) -> int:
    """The command ``python -m rlhf.pipeline``."""
    parser = recipes.Parser(
        prog="python -m rlhf.pipeline",
        description="四个阶段连着跑，最后一张表。 SFT, a reward model, PPO and rejection sampling in a row, "
        "and one table of what each gained. What the same recipe has made already is taken as it is.",
        allow_abbrev=False,
    )
    named = os.environ.get("RLHF_PROFILE") or None
    known = ", ".join(profiles.names())
    parser.add_argument(
        "--profile", default=named, help=f"{known}; default: RLHF_PROFILE, else what the recipes say"
    )
    parser.add_argument(
        "--recipes",
        metavar="DIR",
        default=profiles.CHECKOUT / "recipes",
        help="the folder of the four recipes; default: those of the course",
    )
    parser.add_argument("--again", action="store_true", help="train every stage anew")
    given = parser.parse_args(None if words is None else list(words))
    run(Path(given.recipes), given.profile, given.again)
    return 0


def run(folder: Path, profile: str | None = None, again: bool = False) -> Path:
    """Train what is not there yet, compare, show; returns the folder of the table.

    Args:
        folder: holds ``sft.yaml``, ``reward.yaml``, ``ppo.yaml`` and ``rejection.yaml``.
        profile: in place of the one that the recipes name. again: take nothing as it is.

    Raises:
        BadRecipe, BadProfile, CannotWrite: before anything is trained. StageFailed: a stage went wrong.
    """
    jobs = read_recipes(folder, profile)
    output = writable(profiles.root() / "output" / "pipeline")
    took = [one_stage(job, f"{place}/{len(jobs)}", again) for place, job in enumerate(jobs.values(), 1)]
    print("\n== 在留出提示上比较 · comparing on held-out prompts", flush=True)
    outcome = Outcome(jobs, compare(jobs), took)
    outcome.show()
    outcome.save(output)
    print(f"→ {train.place(output / 'pipeline.html')}")
    return output


# ---------------------------------------------------------------------------------------------- the stages


def read_recipes(folder: Path, profile: str | None = None) -> dict[str, Job]:
    """The four stages with all their fields, checked one by one and together.

    Raises:
        BadRecipe: a wrong field; or PPO or rejection sampling do not begin with what SFT makes, do not learn
            from what the reward stage makes, or are of another profile.
    """
    words = ["--profile", profile] if profile else []
    jobs = {name: train.plan(name, ["--config", str(folder / f"{name}.yaml"), *words]) for name in STAGES}
    wanted = {"policy": jobs["sft"].values["output"], "reward_model": jobs["reward"].values["output"]}
    same = {"profile": jobs["sft"].values["profile"]}
    needs = {"reward": same, "ppo": wanted | same, "rejection": wanted | same}
    for name, fields in needs.items():
        for field, value in fields.items():
            if jobs[name].values[field] != value:
                file, found = folder / f"{name}.yaml", jobs[name].values[field]
                raise BadRecipe(
                    f"{file}：字段 {field} 是 {found}，四个阶段要连成一条链，这里应当是 {value}。",
                    f"{file}: the field {field} is {found}; for the four stages to be a chain it must be "
                    f"{value}.",
                )
    names = [BASE, *(job.folder.name for job in jobs.values())]
    if len(set(names)) < len(names):
        raise BadRecipe(
            f"五个模型的名字应当各不相同：{', '.join(names)}。",
            f"The five models need five different names, not {', '.join(names)}.",
        )
    return jobs


def writable(folder: Path) -> Path:
    """``folder``, made if need be. Raises CannotWrite now rather than after minutes of training."""
    profiles.make_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise CannotWrite(
            f"无法写入 {folder}：{error.strerror}。换一个位置（RLHF_HOME）或检查权限与磁盘空间。",
            f"Cannot write to {folder}: {error.strerror}. Choose another place (RLHF_HOME) or check "
            "permission and space.",
        ) from error


def one_stage(job: Job, number: str, again: bool = False) -> Took:
    """Take a stage as it is, let it go on, or train it; prints which.

    Raises:
        StageFailed: it could not be finished.
    """
    print(f"\n== {number} {job.name} → {train.place(job.folder)}", flush=True)
    hint = StageFailed(
        f"第 {number} 阶段 {job.name} 没有完成。同样的命令再运行一次（不加 --again）就接着跑，"
        "已完成的阶段直接使用。",
        f"Stage {number}, {job.name}, is not finished. The same command once more (without --again) goes on "
        "from here and takes finished stages as they are.",
    )
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        reason, go_on = to_do(job, again)
        print(reason, flush=True)
        if go_on is None:
            return Took(job)
        train.carry_out(job, anew=not go_on)
    except CourseError as error:
        raise StageFailed(f"{error.zh}\n{hint.zh}", f"{error.en}\n{hint.en}") from error
    except BaseException:  # Ctrl-C, or what needs its traceback: no memory, a bug
        print(f"\n{hint}", file=sys.stderr)
        raise
    return Took(job, time.perf_counter() - wall, time.process_time() - cpu, went_on=go_on)


def to_do(job: Job, again: bool = False) -> tuple[str, bool | None]:
    """What is left to do for a stage, in words; then whether to go on with an unfinished run (True), to train
    it from the beginning (False), or nothing (None)."""
    if again:
        return "重新训练 · trained anew, as asked", False
    sources = train.origin(job, train.make_setup(job.stage, job.values))
    if train.unfinished(job.work) and job.values["resume"] and not differences(job.work, job, sources):
        return "接着上次没跑完的训练 · going on with the interrupted run", True
    if not (job.folder / "config.json").is_file():
        return "训练 · training", False
    if found := differences(job.folder, job, sources):
        why = "那里的模型不是这样来的，重新训练 · what is there was made otherwise; trained anew:"
        return "\n  ".join([why, *found]), False
    return "同样的配方已经训练过，直接使用 · made by this recipe already, taken as it is", None


def differences(place: Path, job: Job, sources: Mapping[str, Any]) -> list[str]:
    """In what the run that left ``place`` differs from ``job``, as lines to print."""
    if not (place / train.RECIPE).is_file():
        return [f"no {train.RECIPE}: not a result of this command, a lesson's perhaps"]
    try:
        return train.changes(place, job, sources)
    except BadRecipe as error:
        return [error.en]


# ----------------------------------------------------------------------------------------------- the table


def compare(jobs: Mapping[str, Job]) -> dict[str, Report]:
    """Each policy against that of SFT, on the same held-out prompts.

    Returns:
        By the name of the policy (the one at the very beginning, PPO's, rejection sampling's) a before/after
        report with SFT as "before". The score is the reward model's, the second judge the profile's sentiment
        classifier, KL is to SFT.
    """
    from rlhf import evaluate, report, sft, stages
    from rlhf.rewards import SentimentReward

    setup = train.make_setup(jobs["sft"].stage, jobs["sft"].values)
    model, tokenizer = sft.load_policy(jobs["sft"].folder, setup.device)
    prompts = evaluate.held_out_prompts(setup, tokenizer)
    lengths = evaluate.response_lengths(setup, len(prompts), setup.seed)
    before = evaluate.respond(model.eval(), tokenizer, prompts, lengths, seed=setup.seed)
    reward = stages.load_reward(jobs["reward"].folder, setup.device)
    judge = SentimentReward(setup.reward_model, setup.device)
    others = {BASE: setup.policy, **{jobs[name].folder.name: jobs[name].folder for name in METHODS}}
    start, reports = jobs["sft"].folder.name, {}
    for name, folder in others.items():
        other, _ = sft.load_policy(folder, setup.device)
        after = evaluate.respond(other.eval(), tokenizer, prompts, lengths, seed=setup.seed)
        reports[name] = evaluate.compare(
            prompts,
            before,
            after,
            tokenizer,
            reward,
            judge=judge,
            judge_name=JUDGE,
            kl=evaluate.response_kl(other, model, after),
            shown=setup.evaluation["shown"],
            title=f"{start} → {name}",
            names=(start, name),
            meta=report.run_meta(setup, lesson="pipeline"),
        )
    return reports


@dataclass(frozen=True)
class Outcome:
    """All that the command has to tell: the stages, what became of them, what their policies are worth."""

    jobs: Mapping[str, Job]
    reports: Mapping[str, Report]
    took: Sequence[Took]

    def table(self) -> pd.DataFrame:
        """One row per policy, in the order of the chain; texts where there is an interval."""
        rows = {BASE: None, self.jobs["sft"].folder.name: self._start()}
        for name, each in self.reports.items():
            rows[name] = _row(each)
        steps = ("pretrained", "1 SFT", "3 PPO", "4 rejection sampling")
        whole = [(step, *row) for step, row in zip(steps, rows.values(), strict=True)]
        return pd.DataFrame(whole, index=list(rows), columns=list(COLUMNS))

    def _start(self) -> tuple:
        """SFT's own row: it is what the others are compared with."""
        n = self.reports[BASE].numbers
        return n["reward_mean_before"], "", n["judge_mean_before"], "", 0.0, n["distinct_2_before"]

    def notes(self) -> list[str]:
        """What the table is about, whether the judge that took no part sees a gain, and the time it took."""
        start, prompts = self.jobs["sft"].folder.name, len(self.reports[BASE].table)
        reward = self.jobs["reward"].folder.name
        about = [
            f"reward model: {reward} · classifier: {JUDGE} ({prompts} 个留出提示 held-out prompts)",
            f"区间和 KL 都以 {start} 为准 · gains and KL against {start}; 95% bootstrap intervals",
        ]
        return [*about, self._budget(), *map(self._verdict, METHODS), " · ".join(map(str, self.took))]

    def _budget(self) -> str:
        """How many responses each method may learn from, lest the table be read as a race."""
        ppo, rejection = (self.jobs[name].values for name in METHODS)
        samples = (
            ppo["steps"] * ppo["batch_size"],
            rejection["rounds"] * rejection["prompts"] * rejection["k"],
        )
        listed = ", ".join(
            f"{self.jobs[name].folder.name} {n}" for name, n in zip(METHODS, samples, strict=True)
        )
        fair = "" if samples[0] == samples[1] else " (预算不同，不是比赛 · no race: the budgets differ)"
        return f"训练中采样的回复 · responses sampled in training: {listed}{fair}"

    def _verdict(self, method: str) -> str:
        name = self.jobs[method].folder.name
        mean, low, high = self.reports[name].judge_gain
        zh, en = ("看到了进步", "sees a gain") if low > 0 else ("看不出进步", "sees no gain")
        if high < 0:
            zh, en = "看到了退步", "sees a loss"
        gain = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
        return f"{name}: 没有参与训练的情感分类器{zh} · the {JUDGE}, which took no part, {en}: {gain}"

    def show(self) -> None:
        """Table and notes on the terminal."""
        print(self.table().to_string(float_format="{:.2f}".format, line_width=1000))
        print(*self.notes(), sep="\n")

    def save(self, folder: Path) -> None:
        """``pipeline.html`` to read, ``pipeline.json`` to compute with, every comparison in a folder of its
        own. Raises CannotWrite: no space or no permission."""
        from rlhf.report import CSS, PAGE

        steps = dict(self.table()["step"])
        found = {
            "meta": self.reports[BASE].meta,
            "reference": self.jobs["sft"].folder.name,
            "models": {name: {"step": steps[name], **each.numbers} for name, each in self.reports.items()},
            "notes": self.notes(),
            "stages": [each.record() for each in self.took],
        }
        whole_text(folder / "pipeline.json", json.dumps(found, ensure_ascii=False, indent=1) + "\n")
        for name, each in self.reports.items():
            each.save(folder / name)
        foot = "".join(f'<p class="note">{html.escape(note)}</p>' for note in self.notes())
        parts = "".join(f"<section>{each.to_html()}</section>" for each in self.reports.values())
        title = "四个阶段 · The whole chain"
        first = f'<div class="rlhf-report">{_table_html(self.table())}{foot}</div>'
        body = f"{CSS}<h1>{title}</h1>{first}{parts}"
        whole_text(folder / "pipeline.html", PAGE.format(title=title, body=body))


def _row(each: Report) -> tuple:
    n = each.numbers
    reward, judge = ("{:+.2f} [{:+.2f}, {:+.2f}]".format(*gain) for gain in (each.gain, each.judge_gain))
    return n["reward_mean_after"], reward, n["judge_mean_after"], judge, n["kl"], n["distinct_2_after"]


def _table_html(table: pd.DataFrame) -> str:
    head = (f'{html.escape(en)}<br><span class="zh">{html.escape(zh)}</span>' for en, zh in COLUMNS.items())
    rows = ["".join(f"<th>{each}</th>" for each in ("", *head))]
    for name, row in table.iterrows():
        shown = (f"{value:.2f}" if isinstance(value, float) else html.escape(value) for value in row)
        cells = "".join(f'<td class="num">{value}</td>' for value in shown)
        rows.append(f"<th>{html.escape(str(name))}</th>{cells}")
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


if __name__ == "__main__":
    sys.exit(main())
