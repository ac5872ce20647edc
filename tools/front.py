"""The page that a folder for a class begins with.

In: the copies that lie in the folder. Out: its ``README.md``: how to open it, the lessons by their titles,
and for teachers how many minutes each takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhf.files import whole_text
from tools import leaks, teaching
from tools.notebooks import read

PAGE = {
    "zh": "# {title}\n\n先装好课程、备好模型（课程文件夹里 `make build`，一次就行），激活它的 `.venv`，"
    "再在这个文件夹里运行 `jupyter lab`。\n从任何一课开始都可以：在课程文件夹里 `make ready LESSON=07`，"
    "会备好前面各课留下的东西。\n\n{rows}\n",
    "en": "# {title}\n\nInstall the course and make its models (`make build` in the course's folder, once), "
    "activate its `.venv`, and run `jupyter lab` in this folder.\nYou can begin with any lesson: "
    "`make ready LESSON=07`, in the course's folder, prepares what the earlier ones would have left."
    "\n\n{rows}\n",
}
MINUTES = {
    "zh": "\n分钟数，照各课开头的计划：\n\n| 课 | 阅读、讲解和练习（估计） | 运行（实测） | 可以停几次 |\n"
    "|---|---|---|---|\n{rows}\n\n讲课用的幻灯片：在课程文件夹里 `make slides`，成品在 `output/slides/`。\n",
    "en": "\nMinutes, from the plans at the beginning of the lessons:\n\n"
    "| lesson | reading, talking, exercises (estimate) | running (measured) | places to stop |\n"
    "|---|---|---|---|\n{rows}\n\nSlides to talk with: `make slides` in the course's folder puts them into "
    "`output/slides/`.\n",
}
TITLES = {
    ("student", "zh"): "学生版",
    ("student", "en"): "Student edition",
    ("teacher", "zh"): "教师版",
    ("teacher", "en"): "Teacher edition",
}


def page(names: Sequence[str], edition: str, language: str, out: Path, own: str) -> None:
    """``README.md`` of a folder: how to open it, the lessons by their titles; for teachers, their minutes.

    Args:
        own: the tag of cells that the edition added.
    """
    copies = {name: read(out / f"{name}.ipynb") for name in names}
    titles = {name: made.cells[0].source.splitlines()[0].lstrip("# ") for name, made in copies.items()}
    rows = "\n".join(f"- [{title}]({name}.ipynb)" for name, title in titles.items())
    text = PAGE[language].format(title=TITLES[edition, language], rows=rows)
    if edition == "teacher":
        plans = {name: teaching.plan(leaks.without(made, own)) for name, made in copies.items()}
        rows = "\n".join(f"| {titles[name]} | {plan.minutes(language)} |" for name, plan in plans.items())
        text += MINUTES[language].format(rows=rows)
    whole_text(out / "README.md", text)
