"""Lesson upkeep, on a small lesson written to a temporary course: pair, execute, check, export, new."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

from rlhf import errors
from tools import checking, exercises, lessons, results, running, twins
from tools.notebooks import Course, build, one_language, pair, read, tags

REPO = Path(__file__).resolve().parent.parent
NAME = "42_small"
LESSON = """\
# %% [markdown] tags=["zh"]
# # 42 小课
#
# 学 2 件事：$a^2$、[链接](small.zh.md)。
#
# ![一条曲线](a.svg)

# %% [markdown] tags=["en"]
# # 42 A small lesson
#
# Learn 2 things: $a^2$ and a [link](small.md).
#
# ![A rising curve](a.svg)

# %% tags=["setup"]
import os
from tqdm import tqdm
from rlhf import profiles, report

# %% [markdown] tags=["zh"]
# ## 1 概念

# %% [markdown] tags=["en"]
# ## 1 The idea

# %%
for _ in tqdm(range(500), mininterval=0):
    pass
with report.LiveCurves(["kl"], every=1, seconds=0) as live:
    for step in range(3):
        live.add({"kl": step})
print(os.environ["OMP_WAIT_POLICY"], report.__file__)

# %% tags=["table"]
texts = [f"text {i}" for i in range(16)]
result = report.before_after(texts, texts, texts, [0.0] * 16, [1.0] * 16, title="small")
result.save(profiles.root() / "output" / "42_small")
result
"""
EXERCISE = """
# %% tags=["exercise"]
answer = ...
print("checks.e42_{k}(answer)")

# %% jupyter={{"source_hidden": true}} tags=["solution"]
print("checks.e42_{k}(1).must_pass()")
"""
FULL = LESSON + "".join(EXERCISE.format(k=k) for k in (1, 2, 3))


@pytest.fixture
def course(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    monkeypatch.delenv("RLHF_PROFILE", raising=False)
    made = Course(tmp_path)
    for folder in (made.lessons, made.notebooks):
        folder.mkdir()
        (folder / "small.md").write_text("Words.\n", encoding="utf-8")
        (folder / "small.zh.md").write_text("一些话。\n", encoding="utf-8")
        (folder / "a.svg").touch()
    made.source(NAME).write_text(FULL, encoding="utf-8")
    return made


def tool(course, *arguments):
    return lessons.main(["--root", str(course.root), *arguments])


def test_pairing_is_stable_and_keeps_the_outputs_of_unchanged_cells(course):
    assert pair(course, NAME) and not pair(course, NAME)
    path = course.notebook(NAME)
    notebook = read(path)
    for count, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        cell.execution_count = count + 1
        cell.outputs = [nbformat.v4.new_output("stream", text=f"{count}\n")]
    nbformat.write(notebook, path)
    before = {cell.id: cell for cell in notebook.cells}
    changed = FULL.replace("500", "501").replace("## 1 The idea", "## 1 An idea")
    course.source(NAME).write_text("# %%\n1 + 1\n\n" + changed, encoding="utf-8")
    assert pair(course, NAME)
    after = read(path)
    lost = [cell.source for cell in after.cells if cell.cell_type == "code" and not cell.outputs]
    assert len(lost) == 2 and lost[0] == "1 + 1" and "501" in lost[1]  # only the new and the edited cell
    kept = [cell for cell in after.cells if cell.cell_type == "code" and cell.outputs]
    assert all(cell.outputs == before[cell.id].outputs for cell in kept) and len(kept) == 8
    assert after.metadata["generated"]["from"] == f"lessons/{NAME}.py"
    assert len({cell.id for cell in after.cells}) == len(after.cells)
    nbformat.validate(after)


def test_execute_and_check_the_whole_way(course, capsys):
    alts = course.root / "figs" / "42_plots.yaml"
    alts.parent.mkdir()
    alts.write_text("- {code: LiveCurves, zh: 一条上升的曲线, en: a rising curve}\n", encoding="utf-8")
    assert tool(course, "execute", "--inplace") == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert re.search(r"\[1/1\] 42_small … \d+ s ✓", said)
    notebook = read(course.notebook(NAME))
    cell = next(c for c in notebook.cells if "LiveCurves" in c.source)
    by_name = {output.get("name", "picture"): output for output in cell.outputs}
    assert len(cell.outputs) == len(by_name) == 3  # a bar, a picture, a line: no spam
    assert by_name["stderr"].text.count("\n") <= 2 and "500/500" in by_name["stderr"].text
    assert "image/png" in by_name["picture"].data
    assert by_name["stdout"].text.strip() == "passive ./rlhf/report.py"
    assert str(REPO) not in course.notebook(NAME).read_text(encoding="utf-8")
    assert "execution" not in cell.metadata and tool(course, "check") == 0
    assert "42_small" in (course.root / "output" / "index.html").read_text(encoding="utf-8")
    # an edit without a new run is found out
    course.source(NAME).write_text(FULL.replace("range(3)", "range(4)"), encoding="utf-8")
    assert tool(course, "check") == 1 and "not the one of the source" in capsys.readouterr().out
    assert tool(course, "pair") == 0
    assert tool(course, "check") == 1 and "not executed in one go" in capsys.readouterr().out
    # both languages apart, with the outputs
    assert tool(course, "export", "--lang", "en") == 0
    english = read(course.root / "output" / "en" / f"{NAME}.ipynb")
    assert not any("zh" in tags(c) for c in english.cells) and any(c.get("outputs") for c in english.cells)


def test_a_failing_lesson_is_shown_and_the_next_one_still_runs(course, capsys):
    course.source("41_broken").write_text(
        '# %%\nprint("start")\n\n# %%\nvalue = 1\nvalue / 0\n', encoding="utf-8"
    )
    course.source(NAME).write_text('# %%\nprint("fine")\n', encoding="utf-8")
    out = course.root / "run"
    assert tool(course, "execute", "--out", str(out)) == 1
    said = capsys.readouterr()
    assert re.search(r"\[1/2\] 41_broken … \d+ s ✗", said.out) and re.search(
        r"\[2/2\] 42_small … \d+ s ✓", said.out
    )
    assert "    value / 0" in said.out and "ZeroDivisionError" in said.out and "\x1b[" not in said.out
    assert "41_broken" in said.err
    assert read(out / "41_broken.ipynb").cells[0].outputs[0].text == "start\n"
    assert read(out / "42_small.ipynb").cells[0].outputs[0].text == "fine\n"


def test_what_must_not_be_committed_is_refused(course, capsys):
    pair(course, NAME)
    before = course.notebook(NAME).read_bytes()
    course.source(NAME).write_text(
        '# %%\nprint("/home/somebody/secret")\nprint(object())\n', encoding="utf-8"
    )
    assert tool(course, "execute", "--inplace", "42") == 1
    said = capsys.readouterr().out
    assert "a path of this machine: /home/somebody" in said and "a memory address" in said
    assert course.notebook(NAME).read_bytes() == before


def test_a_cell_that_takes_too_long_or_kills_the_kernel_fails(course):
    notebook = build(course.source(NAME))
    notebook.cells = [nbformat.v4.new_code_cell("import time; time.sleep(60)")]
    with pytest.raises(running.CellFailed, match="sleep"):
        running.run(notebook, course.root, timeout=1)
    notebook.cells = [nbformat.v4.new_code_cell("import os; os._exit(1)")]
    with pytest.raises(running.CellFailed, match="_exit"):
        running.run(notebook, course.root, timeout=30)


def test_in_place_runs_are_offline_ones(course, monkeypatch):
    monkeypatch.setenv("RLHF_PROFILE", "imdb")
    assert tool(course, "execute", "--inplace") == 2


def test_unknown_lessons_and_broken_notebooks_are_said_plainly(course, capsys):
    assert tool(course, "pair", "77") == 2 and "77" in capsys.readouterr().err
    course.notebook(NAME).write_text("{", encoding="utf-8")
    assert tool(course, "check") == 2 and f"{NAME}.ipynb" in capsys.readouterr().err


def test_no_permission_leaves_nothing_behind(course, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(errors.CannotWrite):
        pair(course, NAME)
    assert [
        path.name for path in course.notebooks.iterdir() if "ipynb" in path.name or path.name[0] == "."
    ] == []


def test_a_new_lesson_keeps_the_conventions(course, capsys):
    assert tool(course, "new", "05_reward", "--zh", "奖励模型", "--en", "Reward modelling") == 0
    assert checking.problems(course, "05_reward", source_only=True) == []
    assert tool(course, "new", "05_reward") == 2 and tool(course, "new", "Reward") == 2
    ruff = Path(sys.executable).with_name("ruff")
    formatted = subprocess.run(
        [ruff, "format", "--check", course.source("05_reward")], capture_output=True, text=True
    )
    assert formatted.returncode == 0, formatted.stdout


def test_a_lesson_without_faults_has_none(course):
    assert checking.problems(course, NAME, source_only=True) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Learn 2 things", "Learn 3 things", "numbers differ"),
        ("things: $a^2$", "things: $a^3$", "formulas differ"),
        ("(small.md)", "(other.md)", "links differ"),
        ("(small.md)", "(other.md)", "other.md does not exist"),
        ("![A rising curve](a.svg)", "![A rising curve](b.svg)", "images differ"),
        ("## 1 The idea", "### 1 The idea", "headings differ"),
        ("## 1 The idea", "## 2 The idea", "headings differ"),
        ("The idea", "The idea 想", "holds Chinese"),
        ("## 1 概念", "## 1 Idea", "no Chinese"),
        ("# # 42 A", "# # 41 A", "headings differ"),
        ('# %% [markdown] tags=["en"]\n# ## 1', "# %% [markdown]\n# ## 1", "needs one of the tags"),
        ('# %% [markdown] tags=["en"]\n# ## 1 The idea\n', "", "not followed by its en twin"),
        ("import os\n", "import os  # 注释\n", "English"),
        ('tags=["table"]', 'tags=["tables"]', "unknown tags"),
        ('tags=["setup"]', "", "tagged 'setup'"),
        ("result.save", "result.keep", None),
        ("checks.e42_2(1)", "checks.e42_3(1)", "solution of exercise 2"),
        (".must_pass()", ".passed", "must_pass"),
        ('jupyter={"source_hidden": true}', "", "not hidden"),
        (EXERCISE.format(k=3), "", "2 exercises"),
        ("[link](small.md)", "[link][x]\n#\n# [x]: gone.md", "(no gone.md.)"),
        ("[link](small.md)", "[link](#nowhere)", "no heading or id #nowhere"),
        ("[link](small.md)", "[link](Small.md)", "it is spelled small.md"),
        ("![A rising curve](a.svg)", "![](a.svg)", "has no alt text"),
        ("![A rising curve](a.svg)", '<img src="a.svg">', "has no alt text"),
        ("![A rising curve](a.svg)", "![a.svg](a.svg)", "the name of a file"),
        ("学 2 件事：", "Learn 2 things: ", "not translated"),
        ("学 2 件事：", "学 is what we do, 2 件事：", "not translated"),
        ("学 2 件事：", "学 2 件事：" + "说" * 40, "one says more"),
        ("# Learn 2 things: $a^2$ and a", "# Learn 2 things: $a^2$ and\n#\n# a", "blocks differ"),
        ("answer = ...", "answer = 42", "answered already"),
        ("# %%\nfor _", "# %% [raw]\n# words\n\n# %%\nfor _", "a raw cell"),
        ("for step in range(3):\n", "for step in range(3):\n" + "        pass\n" * 40, "more than 40"),
    ],
)
def test_faults_are_found(course, old, new, said):
    assert old in FULL
    course.source(NAME).write_text(FULL.replace(old, new, 1), encoding="utf-8")
    found = checking.problems(course, NAME, source_only=True)
    assert any(said in problem for problem in found) if said else not found, found


def executed(course):
    """The notebook of a lesson with a verdict for each exercise, as if it had been run."""
    notebook = build(course.source(NAME))
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        sign = "○" if "exercise" in tags(cell) else "✓"
        cell.execution_count = number
        cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": f"{sign} e42"})]
        cell.metadata["seconds"] = {"wall": 1.0, "cpu": 1.0}
    notebook.metadata["timed"] = {"date": "2026-11-21", "hardware": "2 × CPU", "threads": 1}
    return notebook


def shows(kind, data):
    output = nbformat.v4.new_output("display_data", {kind: data})
    return lambda made: made.cells[5].outputs.append(output)


EXERCISE_CELL, SOLUTION_CELL = 7, 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda made: made.cells[EXERCISE_CELL].update(outputs=made.cells[2].outputs),
            "verdict on an answer",
        ),
        (lambda made: made.cells[SOLUTION_CELL].update(outputs=made.cells[7].outputs), "did not pass"),
        (lambda made: made.cells[5].metadata.pop("seconds"), "1 cells have no time"),
        (lambda made: made.cells[5].metadata.update(hint="42"), "hint do not come from the source"),
        (lambda made: made.cells[0].update(attachments={"a": {"image/png": "x"}}), "attachments do not come"),
        (shows("image/png", "x"), "no alt text for the plot"),
        (shows("text/html", '<img src="a.png">'), "has no alt text"),
        (shows("text/html", "<svg></svg>"), "without <title>"),
        (shows("text/html", '<a href="gone.html">x</a>'), "leads to gone.html does not exist"),
        (shows("text/markdown", "[x](gone.md)"), "leads to gone.md does not exist"),
        (shows("text/html", "<script src='https://cdn.example.org/a.js'></script>"), "from another site"),
    ],
)
def test_faults_of_the_notebook_are_found(course, change, said):
    made = executed(course)
    nbformat.write(made, course.notebook(NAME))
    before = checking.problems(course, NAME)
    assert not any(said in problem for problem in before), before
    change(made)
    nbformat.write(made, course.notebook(NAME))
    assert any(said in problem for problem in checking.problems(course, NAME))


def test_a_solution_or_a_grader_in_another_cell_is_found(course):
    graders = course.root / "lesson42.py"
    graders.write_text(
        "expected = [value * 2 + 1 for value in queries]\nshare = sum(expected) / len(queries)\n"
    )
    solution = nbformat.v4.new_code_cell(
        "gain = after - before\ngain.mean()", metadata={"tags": ["solution"]}
    )
    told = [
        nbformat.v4.new_markdown_cell(
            "<details>\n\n```\ngain = after  - before\ngain.mean()\n```\n</details>"
        ),
        nbformat.v4.new_code_cell("# gain = after - before\n# gain.mean()"),
        nbformat.v4.new_code_cell("inspect.getsource(checks.e42_1)"),
        nbformat.v4.new_markdown_cell(f"```\n{graders.read_text()}\n```"),
        nbformat.v4.new_code_cell("gain = before - after\ngain.mean()"),  # a bug hunt
    ]
    notebook = nbformat.v4.new_notebook(cells=[solution, *told])
    found = [what.partition(":")[0] for what in exercises.given_away(notebook, graders)]
    assert found == ["cell 1", "cell 2", "cell 3", "cell 4"]


def test_a_solution_under_other_names_is_found(tmp_path):
    """Renamed in code and in text, without the lines that follow it, hinted at in its exercise."""
    answer = (
        "def answer(log, cut):\n    late = [row for row in log if row['step'] > cut]\n    return len(late)\n"
    )
    other = answer.replace("answer", "pick").replace("late", "kept").replace("row", "each").replace("'", '"')
    exercise = nbformat.v4.new_code_cell(
        "# late = [row for row in log if row['step'] > cut]\nchecks.e42_1(...)"
    )
    exercise.metadata["tags"] = ["exercise"]
    solution = nbformat.v4.new_code_cell(f"{answer}\nchecks.e42_1(answer).must_pass()")
    solution.metadata["tags"] = ["solution"]
    told = [
        nbformat.v4.new_code_cell(other),
        nbformat.v4.new_markdown_cell(f"```python\n{other}```"),
        nbformat.v4.new_code_cell("checks.e42_1(512)"),
        nbformat.v4.new_code_cell("def count(log, cut):\n    return len(log) - cut"),
    ]
    notebook = nbformat.v4.new_notebook(cells=[exercise, solution, *told])
    found = {what.partition(":")[0] for what in exercises.given_away(notebook, tmp_path / "none")}
    assert found == {"cell 0", "cell 2", "cell 3", "cell 4"}


def test_stray_notebooks_and_missing_ones(course):
    shutil.copy(course.source(NAME), course.notebooks / "09_gone.ipynb")
    assert "09_gone" in checking.strays(course)[0]
    assert any("is missing" in problem for problem in checking.problems(course, NAME))


@pytest.mark.parametrize(
    ("zh", "en"),
    [
        ("共 20,000 条，95% 区间", "20000 in all, a 95 % interval"),
        ("从 −0.5 到 +2.25", "from -0.5 to 2.25"),
        ("长度 2–7 的提示", "prompts of 2-7 tokens"),
        ("见 `a=1` 与 `b`；`b` 更好", "see `b` and `a=1`"),
        ("是 $x_1+1$ 吗", "is it $x_1 + 1$"),
        ("打开 <http://127.0.0.1:10086>，再看", "open <http://127.0.0.1:10086> and look"),
        ("见 http://127.0.0.1:1/a。", "see http://127.0.0.1:1/a."),
        ("```\nls -l 3\n```\n好", "```\nls -l 3\n```\ngood"),
        ("第 1 步：`zh 中文 3`", "step 1: `zh 中文 3`"),
        ("1. 甲\n2. 乙", "1. one\n2. two"),
        ("| 甲 | 乙 |\n|--|--|\n| 1 | 2 |", "| a | b |\n|---|---|\n| 1 | 2 |"),
    ],
)
def test_twins_that_agree(zh, en):
    assert twins.differences(zh, en) == []


@pytest.mark.parametrize(
    ("zh", "en", "said"),
    [
        ("从 −0.5 起", "from 0.5", "numbers"),
        ("有 128 个，128 个", "128 of them", "numbers"),
        ("1.41e-5 学习率", "a learning rate of 1.4e-5", "numbers"),
        ("公式 $\\beta$", "the formula $\\gamma$", "formulas"),
        ("公式 $\\beta$", "the formula", "formulas"),
        ("见 `a`", "see `b`", "inline code"),
        ("好\n```\nx = 1\n```", "good\n```\nx = 2\n```", "fences"),
        ("- 甲\n- 乙", "- one and two", "list items"),
        ("| 甲 |\n|--|\n| 乙 |", "| a |\n|--|", "table rows"),
        ("好（非常）", "good（very）", "holds Chinese"),
        ("- 有 3 个\n- 有 4 个", "- 4 of them\n- 3 of them", "numbers differ"),
        ("第一段。\n\n第二段。", "One paragraph.", "blocks differ"),
        ("一段，\n\n[见][x]", "A paragraph,\n\n[see][x]", "is no link"),
        ("看[这里](a.md)", "look [这里](a.md)", "Chinese"),
        ("一段话，说得很清楚。", "**…**", "the English is missing"),
        ("甲：the reward of a response", "A: the reward of a response", "not translated"),
        ("| 甲 | the first thing |\n|--|--|", "| a | the first thing |\n|--|--|", "not translated"),
        ("第一段讲得很短。", "The first paragraph " + "says very much " * 8, "one says more"),
    ],
)
def test_twins_that_differ(zh, en, said):
    assert any(said in problem for problem in twins.differences(zh, en)), twins.differences(zh, en)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\r 10%|#\r 50%|##\r100%|###\ndone\n", "100%|###\ndone\n"),
        ("\r 10%\n\r  5%\x1b[A\r 90%\n\r 99%\x1b[A\n", " 90%\n 99%"),
        ("a\r\nb\r\n", "a\nb\n"),
        ("plain\ntext", "plain\ntext"),
    ],
)
def test_progress_bars_leave_their_last_state(text, shown):
    assert running.collapse(text).rstrip("\n") == shown.rstrip("\n")


def test_paths_of_this_machine_are_shortened_and_the_rest_is_found():
    text = f"{REPO}/rlhf/x.py {sys.prefix}/lib {Path.home()}/notes {REPO}-other"
    short = running.without_paths(text)
    assert short.startswith("./rlhf/x.py .venv/lib ~/notes") or REPO.is_relative_to(Path.home())
    found = [
        bool(checking.ABSOLUTE.search(t)) for t in ("/tmp/ipykernel_3/4.py", "C:\\Users\\me", "/home/me/x")
    ]
    assert found == [True] * 3
    for fine in (
        "https://host/home/page",
        "and/or",
        "</data/>",
        "lvwerra/gpt2-imdb",
        "./tmp/x",
        "output/data/x",
    ):
        assert not checking.ABSOLUTE.search(fine)


def test_one_language(course):
    notebook = build(course.source(NAME))
    for language, other in (("zh", "en"), ("en", "zh")):
        single = one_language(notebook, language)
        assert {language} <= {tag for cell in single.cells for tag in tags(cell)}
        assert not any(other in tags(cell) for cell in single.cells)


def test_the_house_has_its_commands():
    run = REPO / ".ci" / "run"
    assert run.stat().st_mode & stat.S_IXUSR and "make test" in run.read_text()
    shown = subprocess.run(["make", "-n", "course"], cwd=REPO, capture_output=True, text=True)
    assert "tools.lessons execute" in shown.stdout, shown.stderr


def test_saving_a_notebook_in_jupyterlab_changes_nothing_in_the_lesson(course):
    pair(course, NAME)
    saved = jupytext.writes(
        read(course.notebook(NAME)), fmt="py:percent"
    )  # what the jupytext extension writes
    course.source(NAME).write_text(saved, encoding="utf-8")
    assert not pair(course, NAME) and checking.problems(course, NAME, source_only=True) == []


@pytest.mark.parametrize("setting", ["as it is", "without"])
def test_jupyterlab_opens_a_notebook_that_is_newer_than_its_lesson(course, setting):
    """After every run it is; and in a fresh checkout, whichever file git wrote last."""
    from jupyter_server.services.contents.largefilemanager import LargeFileManager
    from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class

    pyproject = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    line = "outdated_text_notebook_margin = inf"
    assert line in pyproject
    (course.root / "pyproject.toml").write_text(
        pyproject.replace(line, "") if setting == "without" else pyproject
    )
    text = FULL.replace("import os\n", "import os\n\n\n")  # as ruff lays it out, not jupytext
    course.source(NAME).write_text(text, encoding="utf-8")
    pair(course, NAME)
    os.utime(course.source(NAME), (1, 1))
    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)(root_dir=str(course.root))
    if setting == "without":
        with pytest.raises(Exception, match="is more recent than"):
            manager.get(f"notebooks/{NAME}.ipynb")
    else:
        assert manager.get(f"notebooks/{NAME}.ipynb")["content"]["cells"]


def test_the_readmes_say_what_the_result_files_say():
    for language, path in results.READMES.items():
        text = path.read_text(encoding="utf-8")
        assert results.renewed(text, language) == text, f"{path.name} is stale: python -m tools.results"
        stale = text.replace(results.START, f"{results.START}\nsomebody typed 9.99 here")
        assert results.renewed(stale, language) == text
        typed, rows = results.LESSON_ROW.subn(r"\g<1>a typed time\g<3>", text)
        assert rows and results.renewed(typed, language) == text, "a lesson's table does not state its time"


def test_a_readme_without_marks_is_refused():
    with pytest.raises(errors.BadData, match="exactly once"):
        results.renewed("# Nothing to fill here", "en")
