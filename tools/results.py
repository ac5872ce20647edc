"""The results in both READMEs, written from the kept result files: no figure there is typed by hand.

In: ``benchmarks/results/07_<profile>.json``, made by ``python figs/07_result.py --keep`` after a run of
lesson 07, the chain's (see :mod:`tools.chain`), and the times that the committed notebooks' tables state.
Out: README.md and README.zh.md, between their ``results``, ``chain`` and ``caption`` marks, and the last cell
of every row of the lesson table.

    python -m tools.results            # write
    python -m tools.results --check    # exit code 1 if a README says anything else than the files
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from rlhf import errors, profiles
from rlhf.files import whole_text
from tools import chain, kept

READMES = {"en": profiles.CHECKOUT / "README.md", "zh": profiles.CHECKOUT / "README.zh.md"}
START, END = "<!-- results: python -m tools.results -->", "<!-- /results -->"
CAPTION, CAPTION_END = "<!-- caption: python -m tools.results -->", "<!-- /caption -->"
LESSON_ROW = re.compile(r"(\| \[[^\]]+\]\((notebooks/[^)]+\.ipynb)\) \|.*\| )[^|]*( \|)")
SECONDS = re.compile(r"seconds ([\d.]+)")  # in the line under every closing table
MINUTES = {"en": "{:.1f} min", "zh": "{:.1f} 分钟"}
ROWS = 8  # examples shown

HEADS = {
    "en": (
        "profile | mean score | gain | gain, word judge | KL, nats per response | distinct-2 | steps × batch",
        "query | before | after | score before | score after",
    ),
    "zh": (
        "配置 | 平均分 | 增益 | 增益，词袋评委 | 每条回复的 KL（nat） | distinct-2 | 步数 × 批量",
        "提示 | 训练前 | 训练后 | 分数（前） | 分数（后）",
    ),
}


def block(language: str) -> str:
    """Tables and sentences of one language, Markdown."""
    runs = {name: _read(name) for name in ("offline", "imdb")}
    totals, examples = HEADS[language]
    rows = [_row(name, run) for name, run in runs.items()]
    shown = [_example(row) for row in runs["imdb"]["shown"][:ROWS]]
    facts, example = (text.format(**_facts(**runs)) for text in TEXTS[language])
    lines = [*kept.table(totals, rows), "", facts, "", example, "", *kept.table(examples, shown)]
    return "\n".join([START, *lines, END])


def caption(language: str) -> str:
    """The line under the picture of the ``imdb`` run."""
    run = _read("imdb")
    n = run["numbers"]
    facts = {
        "seed": run["meta"]["seed"],
        "prompts": n["prompts"],
        "before": f"{n['reward_mean_before']:.2f}",
        "after": f"{n['reward_mean_after']:.2f}",
        "gain": kept.gain(n, "reward"),
    }
    return f"{CAPTION}\n*{CAPTIONS[language].format(**facts)}*\n{CAPTION_END}"


def lesson_seconds(notebook: Path) -> float | None:
    """How long the committed run of a lesson took, up to its closing table; None if that does not say."""
    found = SECONDS.search(notebook.read_text(encoding="utf-8"))
    return float(found[1]) if found else None


def _read(profile: str) -> dict:
    keep = "python figs/07_result.py --keep"
    return kept.read(f"07_{profile}.json", f"先运行第 07 课，再运行 {keep}。", f"Run lesson 07, then {keep}.")


def _row(name: str, run: dict) -> str:
    n = run["numbers"]
    cells = [
        f"`{name}`",
        f"{n['reward_mean_before']:.2f} → {n['reward_mean_after']:.2f}",
        kept.gain(n, "reward"),
        kept.gain(n, "judge"),
        f"{n['kl']:.1f}",
        f"{n['distinct_2_before']:.2f} → {n['distinct_2_after']:.2f}",
        f"{run['steps']} × {run['batch']}",
    ]
    return " | ".join(cells)


def _example(row: dict) -> str:
    texts = [" ".join(str(row[key]).split()).replace("|", "\\|") for key in list(row)[:3]]
    return " | ".join([*texts, f"{row['reward (before)']:.2f}", f"{row['reward (after)']:.2f}"])


TEXTS = {
    "en": (
        "{prompts} prompts, seed {seed}, {hardware}, {date}; timed while other work ran on the same cores. "
        "The `imdb` models were built in {policy:.0f} + {classifier:.0f} min (policy, classifier); the "
        "classifier is right on {accuracy:.1%} of the 25,000 real test reviews (first 256 tokens). Lesson 07 "
        "took {offline:.1f} min offline and {imdb:.1f} min on `imdb`. How the settings were found, and other "
        "seeds and prompts: [benchmarks/RESULTS.md](benchmarks/RESULTS.md).",
        "From the `imdb` run, the first prompts of the shuffled test split, not a selection:",
    ),
    "zh": (
        "{prompts} 个提示，种子 {seed}，{hardware}，{date}；计时的时候，同样的核上还跑着别的任务。"
        "`imdb` 的模型构建用了 {policy:.0f} + {classifier:.0f} 分钟（策略、分类器）；"
        "分类器在 25,000 条真实测试影评上（前 256 个词元）判对 {accuracy:.1%}。"
        "第 07 课在 offline 上用了 {offline:.1f} 分钟，在 `imdb` 上用了 {imdb:.1f} 分钟。"
        "设置是怎么选的、换种子换提示会怎样，见 [benchmarks/RESULTS.md](benchmarks/RESULTS.md)。",
        "下面来自 `imdb` 那次运行：打乱后的测试集的前几个提示，没有挑选。",
    ),
}

CAPTIONS = {
    "en": "Real IMDB, profile `imdb`, seed {seed}, 2 CPU cores: mean score of {prompts} held-out prompts "
    "{before} → {after}, paired gain {gain}. Drawn by [figs/07_result.py](figs/07_result.py).",
    "zh": "真实 IMDB，`imdb` 配置，种子 {seed}，2 个 CPU 核：{prompts} 个留出提示的平均分 "
    "{before} → {after}，配对增益 {gain}。由 [figs/07_result.py](figs/07_result.py) 画出。",
}


def _facts(offline: dict, imdb: dict) -> dict:
    """What the sentences of :data:`TEXTS` are filled with; times in minutes."""
    build = imdb["build"]
    return {
        **{key: imdb["meta"][key] for key in ("seed", "hardware", "date")},
        "prompts": imdb["numbers"]["prompts"],
        "policy": build["policy_seconds"] / 60,
        "classifier": build["classifier_seconds"] / 60,
        "accuracy": build["accuracy"],
        "offline": offline["meta"]["seconds"] / 60,
        "imdb": imdb["meta"]["seconds"] / 60,
    }


def renewed(text: str, language: str) -> str:
    """``text`` with everything that this module writes written afresh."""
    text = _between(text, START, END, block(language))
    text = _between(text, CAPTION, CAPTION_END, caption(language))
    text = _between(text, chain.START, chain.END, chain.block(language))
    return LESSON_ROW.sub(lambda row: _timed(row, language), text)


def _between(text: str, start: str, end: str, fresh: str) -> str:
    if text.count(start) != 1 or text.count(end) != 1:
        raise errors.BadData(
            f"README 里应当恰好有一对标记 {start} … {end}。",
            f"A README needs the marks {start} … {end} exactly once.",
        )
    before, rest = text.split(start)
    return before + fresh + rest.split(end)[1]


def _timed(row: re.Match, language: str) -> str:
    seconds = lesson_seconds(profiles.CHECKOUT / row[2])
    return row[0] if seconds is None else f"{row[1]}{MINUTES[language].format(seconds / 60)}{row[3]}"


@errors.command
def main() -> int:
    stale = []
    for language, path in READMES.items():
        text = Path(path).read_text(encoding="utf-8")
        fresh = renewed(text, language)
        if fresh != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                whole_text(path, fresh)
    if "--check" in sys.argv:
        print("stale:" if stale else "up to date", *stale)
        return int(bool(stale))
    print("written:" if stale else "up to date", *stale)
    return 0


if __name__ == "__main__":
    sys.exit(main())
