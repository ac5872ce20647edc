"""The chain's table in both READMEs: SFT → PPO → rejection sampling, from kept results of ``rlhf.pipeline``.

In: ``benchmarks/results/pipeline_<profile>.json``, each a copy of the ``output/pipeline/pipeline.json`` that
``python -m rlhf.pipeline --profile <profile>`` left. Out: Markdown, which :mod:`tools.results` puts in place.
"""

from __future__ import annotations

from tools import kept

PROFILES = ("offline", "imdb")
START, END = "<!-- chain: python -m tools.results -->", "<!-- /chain -->"
HEADS = {
    "en": "profile | model | score of `rm_2` | gain over SFT | score of the classifier | gain over SFT "
    "| KL to SFT | distinct-2",
    "zh": "配置 | 模型 | `rm_2` 的分数 | 比 SFT 高 | 分类器的分数 | 比 SFT 高 | 与 SFT 的 KL | distinct-2",
}
TEXTS = {
    "en": "Seed {seed}, {prompts} held-out prompts, {hardware}, {date}. The four stages took {times} "
    "of processor time. PPO sampled {ppo_3} responses in training, rejection sampling {rs_4}: "
    "the budgets differ: no race.",
    "zh": "种子 {seed}，{prompts} 个留出提示，{hardware}，{date}。四个阶段占用的处理器时间：{times}。"
    "训练中 PPO 采样了 {ppo_3} 条回复，拒绝采样 {rs_4} 条：预算不同，不是比赛。",
}
MINUTES = {"en": "{:.0f} min on `{}`", "zh": "`{1}` {0:.0f} 分钟"}
JOINED = {"en": " and ", "zh": "，"}
AND = {"en": " and ", "zh": " 和 "}


def block(language: str) -> str:
    """The table of every kept profile and a line on how it was made. Raises MissingAssets."""
    runs = {name: _read(name) for name in PROFILES}
    rows = [row for name, run in runs.items() for row in _rows(name, run)]
    return "\n".join(
        [START, *kept.table(HEADS[language], rows), "", TEXTS[language].format(**_facts(runs, language)), END]
    )


def _read(profile: str) -> dict:
    return kept.read(
        f"pipeline_{profile}.json",
        "先运行 python -m rlhf.pipeline，再把 output/pipeline/pipeline.json 复制到 benchmarks/results。",
        "Run python -m rlhf.pipeline, and copy output/pipeline/pipeline.json to benchmarks/results.",
    )


def _rows(profile: str, run: dict) -> list[str]:
    """One row per model, the reference of the gains second."""
    models = run["models"]
    first, *rest = models
    start = models[first]  # its "before" is the reference itself
    reference = {"reward": start["reward_mean_before"], "judge": start["judge_mean_before"]}
    middle = [
        f"`{profile}`",
        f"`{run['reference']}`",
        f"{reference['reward']:.2f}",
        "",
        f"{reference['judge']:.2f}",
        "",
        "0",
        f"{start['distinct_2_before']:.2f}",
    ]
    return [
        _row(profile, first, start),
        " | ".join(middle),
        *(_row(profile, name, models[name]) for name in rest),
    ]


def _row(profile: str, name: str, n: dict) -> str:
    cells = [f"`{profile}`", name if name == "base" else f"`{name}`"]
    for judge in ("reward", "judge"):
        cells += [f"{n[f'{judge}_mean_after']:.2f}", kept.gain(n, judge)]
    return " | ".join([*cells, f"{n['kl']:.1f}", f"{n['distinct_2_after']:.2f}"])


def _facts(runs: dict[str, dict], language: str) -> dict:
    """What a sentence of :data:`TEXTS` is filled with."""
    imdb = runs["imdb"]
    times = [
        MINUTES[language].format(sum(stage["cpu_seconds"] for stage in run["stages"]) / 60, name)
        for name, run in runs.items()
    ]
    sampled = {
        name: AND[language].join(f"{_sampled(run, stage):,}" for run in runs.values())
        for stage, name in (("ppo", "ppo_3"), ("rejection", "rs_4"))
    }
    return {
        **{key: imdb["meta"][key] for key in ("seed", "hardware", "date")},
        **sampled,
        "prompts": imdb["models"]["ppo_3"]["prompts"],
        "times": JOINED[language].join(times),
    }


def _sampled(run: dict, stage: str) -> int:
    """Responses written in training."""
    recipe = next(entry["recipe"] for entry in run["stages"] if entry["stage"] == stage)
    if stage == "ppo":
        return recipe["steps"] * recipe["batch_size"]
    return recipe["rounds"] * recipe["prompts"] * recipe["k"]
