"""Copies for a class: what students must not see, what teachers plan with, and that the copies run."""

import base64
import copy
import json

import nbformat
import pytest

from rlhf import errors, profiles
from tools import along, editions, executing, leaks, teaching, timing
from tools.notebooks import Course, build, read, tags, write

NAME = "43_class"
LESSON = """\
# %% [markdown] tags=["zh"]
# # 43 一课
#
# 见[术语表](../GLOSSARY.md)和[前一课](43_class.ipynb#top)。![一条曲线](../figs/a.svg)

# %% [markdown] tags=["en"]
# # 43 A lesson
#
# See the [glossary](../GLOSSARY.md) and [one before](43_class.ipynb#top). ![a rising curve](../figs/a.svg)

# %% tags=["setup"]
value = 20
print("set up")

# %% [markdown] tags=["zh"]
# ## 1 练习

# %% [markdown] tags=["en"]
# ## 1 Exercises

# %% tags=["exercise"]
answer = ...
print("graded:", answer)

# %% jupyter={"source_hidden": true} tags=["solution"]
answer_1 = value * 2 + 2
print("passed:", answer_1)

# %% tags=["table"]
print("seconds 90.0", value)
"""


@pytest.fixture
def course(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    made = Course(tmp_path)
    for path in (made.source(NAME), tmp_path / "GLOSSARY.md", tmp_path / "figs" / "a.svg"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(LESSON if path.suffix == ".py" else "x", encoding="utf-8")
    notebook = build(made.source(NAME))
    for count, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        text = {2: "passed: 42\n", 3: "seconds 90.0 20\n"}.get(count, "\n")
        cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text=text)], count + 1
    write(notebook, made.notebook(NAME))
    return made


def export(course, *words):
    return editions.main(["--root", str(course.root), *words])


def copies(course, edition):
    return [read(course.root / "output" / edition / lang / f"{NAME}.ipynb") for lang in ("zh", "en")]


# ----------------------------------------------------------------------------------------------- the copies


def test_students_get_no_solution_no_output_and_files_beside_the_notebook(course, capsys):
    assert export(course) == 0, capsys.readouterr()
    for made, language in zip(copies(course, "student"), ("zh", "en"), strict=True):
        assert "answer_1" not in json.dumps(made) and "must_pass" not in json.dumps(made)
        code = [cell for cell in made.cells if cell.cell_type == "code"]
        assert len(code) == 3 and not any(cell.outputs or cell.execution_count for cell in code)
        assert "](figs/a.svg)" in made.cells[0].source and "](GLOSSARY.md)" in made.cells[0].source
        assert editions.NOTICE[language] == made.cells[1].source
        folder = course.root / "output" / "student" / language
        assert (folder / "figs" / "a.svg").is_file() and NAME in (folder / "README.md").read_text("utf-8")
        nbformat.validate(made)


def test_teachers_get_open_solutions_outputs_and_a_plan(course, monkeypatch, capsys):
    lesson = read(course.notebook(NAME))
    assert export(course, "--edition", "teacher") == 0, capsys.readouterr()
    made = copies(course, "teacher")[1]
    solution = next(cell for cell in made.cells if "solution" in tags(cell))
    assert "jupyter" not in solution.metadata and solution.outputs[0].text == "passed: 42\n"
    plan = made.cells[1].source
    assert "4 cells have not been timed" in plan and "took 1.5 minutes" in plan  # of the closing table
    for cell in lesson.cells:
        cell.metadata[timing.SECONDS] = {"wall": 60.0, "cpu": 24.0}
    lesson.metadata[timing.TIMED] = {"date": "2026-11-21", "hardware": "2 × CPU", "threads": 1}
    write(lesson, course.notebook(NAME))
    monkeypatch.setattr(teaching, "PERIOD", 0.3)  # so that the second section does not fit in
    assert export(course, "--edition", "teacher") == 0
    zh, en = copies(course, "teacher")
    assert "| beginning | 0 | 24 | 0.4 |" in en.cells[1].source  # setup
    assert "| 1 Exercises | 5 | 72 | 1.6 |" in en.cells[1].source  # exercise, solution and table
    assert "2 × CPU" in zh.cells[1].source and "“1 练习”之前" in zh.cells[1].source
    stop = next(i for i, cell in enumerate(zh.cells) if "⏸ **" in cell.source)
    assert zh.cells[stop + 1].source == "## 1 练习" and "约 0.4 分钟" in zh.cells[stop].source


def test_the_copies_run_in_their_own_folder_and_stay_clean(course, capsys, monkeypatch):
    assert export(course, "--edition", "student", "--run") == 2  # without models, nothing is tried
    assert "rlhf.build" in capsys.readouterr().err
    for name in ("require_model", "require_data"):
        monkeypatch.setattr(profiles, name, lambda folder, prepare: None)
    assert export(course, "--edition", "student", "--run") == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert said.count(f"{NAME} runs") == 1  # zh and en have the same code
    assert not any(cell.get("outputs") for made in copies(course, "student") for cell in made.cells)


def test_a_copy_that_needs_a_solution_or_litters_is_found(course, tmp_path):
    lesson = read(course.notebook(NAME))
    lesson.cells[-1].source = "print(answer_1)"
    write(editions.student(lesson, "zh"), tmp_path / "needs.ipynb")
    assert "NameError" in editions.run_copy(tmp_path / "needs.ipynb")
    lesson.cells[-1].source = "open('left.txt', 'w').close()"
    write(editions.student(lesson, "zh"), tmp_path / "litters.ipynb")
    assert "left.txt" in editions.run_copy(tmp_path / "litters.ipynb")


@pytest.mark.parametrize("name", Course(profiles.CHECKOUT).names())
def test_no_lesson_leaks_and_none_is_half_translated(name, tmp_path):
    course = Course(profiles.CHECKOUT)
    for edition in editions.EDITIONS:
        for language in ("zh", "en"):
            out = tmp_path / edition / language
            editions.export(course, name, edition, language, out, course.names())
            for other in course.names():  # lessons point at each other
                (out / f"{other}.ipynb").touch()
            assert editions.problems(course, name, edition, language, out) == []


def test_links_to_lessons_that_are_not_handed_out_become_words(course, capsys):
    (course.lessons / "44_next.py").write_text(LESSON.replace("43", "44").replace("44_class", "43_class"))
    place = course.root / "output" / "student" / "en" / "44_next.ipynb"
    assert export(course, "44") == 0, capsys.readouterr()
    assert "and one before." in read(place).cells[0].source
    assert export(course) == 0, capsys.readouterr()
    assert "and [one before](43_class.ipynb#top)." in read(place).cells[0].source


def test_a_copy_that_somebody_worked_in_is_put_aside(course, capsys):
    assert export(course, "--edition", "student") == 0 == export(course, "--edition", "student")
    kept = course.root / "output" / "student_before" / "zh"
    assert not kept.exists()
    for answer, name in (("answer = 42", NAME), ("answer = 43", f"{NAME}_2")):
        path = course.root / "output" / "student" / "zh" / f"{NAME}.ipynb"
        made = read(path)
        made.cells[4].source = answer
        write(made, path)
        assert export(course, "--edition", "student") == 0
        assert f"output/student_before/zh/{name}.ipynb" in capsys.readouterr().out
        assert read(kept / f"{name}.ipynb").cells[4].source == answer
        assert read(path).cells[4].source.startswith("answer = ...")


# ------------------------------------------------------------------------------------------------- the plan


def timed(*cells):
    """A lesson in English whose sections are ``(text, seconds of its one code cell)``."""
    made = nbformat.v4.new_notebook()
    for number, (text, seconds) in enumerate(cells):
        made.cells.append(nbformat.v4.new_markdown_cell(text, id=f"text-{number}"))
        made.cells.append(nbformat.v4.new_code_cell("x", id=f"code-{number}"))
        made.cells[-1].metadata[timing.SECONDS] = {"wall": seconds, "cpu": seconds}
    return made


def test_the_minutes_add_up_and_the_parts_are_even():
    long = "word " * 180 * 16  # 16 minutes each
    made = teaching.parted(timed(*[(f"## {k} Part\n\n{long}", 20.4) for k in range(6)]))
    plan = teaching.plan(made)
    rows = [row.split("|") for row in plan.text("en").splitlines() if row.startswith("| ")][2:]
    reading, running = ([int(row[place].strip(" *")) for row in rows] for place in (2, 3))
    assert sum(reading[:-1]) == reading[-1] and sum(running[:-1]) == running[-1] == 122  # not 6 × 20
    assert plan.sections[plan.stops[0]].title == "3 Part" and len(plan.stops) == 1  # 3 and 3, not 2 and 4
    assert "one of about 20 s in “0 Part”" in plan.text("en") and "guess" not in plan.text("en")
    assert teaching.plan(teaching.parted(timed(("## 1 A", 1.0)))).stops == []


def test_what_a_cell_says_before_a_heading_stays_before_the_stop():
    fenced = "```\n## no heading\n```"
    text = f"How to read it.\n\n{fenced}\n\n## 2 Next\n\nGuess before you run it.\n\n## 3 Last"
    made = teaching.parted(timed(("## 1 First", 1.0), (text, 1.0)))
    starts = [cell.source.splitlines()[0] for cell in made.cells if cell.cell_type == "markdown"]
    assert starts == ["## 1 First", "How to read it.", "## 2 Next", "## 3 Last"]
    assert len({cell.id for cell in made.cells}) == len(made.cells)
    plan = teaching.plan(made)
    assert [each.title for each in plan.sections if each.guess] == ["2 Next"]
    assert "only then run: “2 Next”" in plan.text("en")


# ----------------------------------------------------------------------------------------- what is found out


@pytest.mark.parametrize(
    ("edition", "language", "sentence"),
    [
        ("student", "zh", "做完以后，对照下面的参考答案。"),
        ("student", "zh", "答案在文末。"),
        ("student", "en", "Compare with the solution below."),
        ("student", "en", "Stuck? The answer is folded away in the next cell."),
        ("teacher", "zh", "点开下面那格，就是参考答案。"),
        ("teacher", "en", "Click to open the solution."),
    ],
)
def test_sentences_about_solutions_that_are_not_there_are_found(
    course, tmp_path, edition, language, sentence
):
    right = {
        "zh": "每题后面藏着一个参考答案，点开就能看。没有人知道标准答案。",
        "en": "A solution is hidden after each exercise; click to open it. There is no right answer.",
    }
    lesson = read(course.notebook(NAME))
    place = next(i for i, cell in enumerate(lesson.cells) if tags(cell) == [language])
    lesson.cells[place].source += f"\n\n{right[language]}"
    for text, count in (("", 0), (f"\n\n{sentence}", 1)):
        lesson.cells[place].source += text
        made = editions.MAKERS[edition](lesson, language)
        found = leaks.misleading(made, edition, language, editions.OWN)
        assert len(found) == count, found


def test_documents_take_along_what_they_lead_to(course, tmp_path):
    more = {
        "benchmarks/RESULTS.md": "[more](MORE.md), ![a curve](../figs/b.svg), [code](../rlhf), [x](https://a.bc)",
        "benchmarks/MORE.md": "[back](RESULTS.md) and [the lesson](../lessons/43_class.py)",
        "figs/b.svg": "<svg/>",
    }
    for name, text in more.items():
        (course.root / name).parent.mkdir(exist_ok=True)
        (course.root / name).write_text(text)
    along.take(course.root, {"benchmarks/RESULTS.md"}, tmp_path / "out")
    assert (tmp_path / "out" / "figs" / "b.svg").is_file()
    assert (tmp_path / "out" / "benchmarks" / "MORE.md").read_text() == "[back](RESULTS.md) and the lesson"
    assert leaks.lost_documents(tmp_path / "out") == []
    (tmp_path / "out" / "figs" / "b.svg").unlink()
    (tmp_path / "out" / "README.md").write_text("see [nothing](nothing.md)")
    found = leaks.lost_documents(tmp_path / "out")
    assert [what.partition(",")[0] for what in found] == ["README.md", "benchmarks/RESULTS.md"]


def planted(course, where):
    """The student's copy of the lesson with its solution in some corner."""
    lesson = read(course.notebook(NAME))
    made = editions.student(lesson, "en")
    where(made, "answer_1 = value * 2 + 2")
    return leaks.solutions(lesson, made)


def as_output(kind, wrap=str):
    return lambda made, text: made.cells[-1].outputs.append(
        nbformat.v4.new_output("display_data", data={kind: wrap(text)})
    )


@pytest.mark.parametrize(
    "where",
    [
        lambda made, text: made.cells.append(nbformat.v4.new_code_cell(text)),
        lambda made, text: made.cells.append(
            nbformat.v4.new_code_cell(text.replace(" ", "  "), metadata={"jupyter": {"source_hidden": True}})
        ),
        lambda made, text: made.cells[0].metadata.update(note={"deep": [text]}),
        lambda made, text: made.metadata.update(hint=text),
        lambda made, text: made.cells[0].update(attachments={"a.txt": {"text/plain": text}}),
        lambda made, text: made.cells.append(
            nbformat.v4.new_markdown_cell(f"<details>\n\n```\n{text}\n```\n</details>")
        ),
        as_output("text/html", lambda text: f"<b>{text.replace(' ', '&nbsp;')}</b>"),
        as_output("application/json", lambda text: {"source": json.dumps(f"{text}\nprint(1)")}),
    ],
    ids=["cell", "hidden", "cell metadata", "metadata", "attachment", "details", "html", "json"],
)
def test_a_planted_solution_is_found_wherever_it_is(course, where):
    assert planted(course, where)
    assert planted(course, lambda made, text: None) == []


def test_a_solution_in_base64_is_found(course):
    coded = base64.b64encode(b"answer_1 = value * 2 + 2").decode()
    assert planted(course, lambda made, _: made.cells[0].update(attachments={"a": {"text/plain": coded}}))


def faults(course, edition, out, known, change) -> list[str]:
    """What is found in a copy, of which nothing was said before ``change``; ``known`` is the number and the
    tag of a cell that ``change`` relies on."""
    editions.export(course, NAME, edition, "zh", out)
    assert editions.problems(course, NAME, edition, "zh", out) == []
    made = read(out / f"{NAME}.ipynb")
    assert known[1] in tags(made.cells[known[0]])
    change(made)
    write(made, out / f"{NAME}.ipynb")
    return editions.problems(course, NAME, edition, "zh", out)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (
            lambda made: made.cells[4].update(source="answer = 42\nprint(answer)"),
            "no open cell of the lesson",
        ),
        (lambda made: made.cells[4].update(source=f"{made.cells[4].source}  # 42"), "no open cell"),
        (lambda made: made.cells[4].outputs.append(nbformat.v4.new_output("stream", text="42")), "output"),
        (lambda made: made.cells[4].update(execution_count=3), "number of a run"),
        (lambda made: made.cells[0].update(attachments={"a.png": {"image/png": "x"}}), "attachments: a.png"),
        (lambda made: made.cells[4].metadata.update(hint=42), "metadata beside its tags: hint"),
        (lambda made: made.cells.pop(4), "a cell of the lesson is missing"),
        (lambda made: made.cells.append(nbformat.v4.new_raw_cell("42")), "no open cell of the lesson"),
        (lambda made: made.cells.append(made.cells.pop(3)), "in another order"),
    ],
)
def test_whatever_else_a_students_copy_holds_is_found(course, tmp_path, where, said):
    found = faults(course, "student", tmp_path / "out", (4, "exercise"), where)
    assert any(said in what for what in found), found


def test_files_beside_the_copies_are_read(course, tmp_path):
    editions.export(course, NAME, "student", "zh", tmp_path / "out")
    assert editions.folder_problems(course, "student", tmp_path / "out") == []
    (tmp_path / "out" / "old.ipynb").write_text("{}")
    (tmp_path / "out" / "notes.txt").write_text("so: answer_1 = value * 2 + 2")
    found = editions.folder_problems(course, "student", tmp_path / "out")
    assert [what.partition(":")[0] for what in found] == ["notes.txt", "old.ipynb"]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (lambda made: made.cells[-1].metadata.pop("seconds"), "1 cells without a time"),
        (lambda made: made.cells.pop(1), "the plan of the time is missing"),
        (lambda made: made.cells.pop(5), "0 cells tagged solution"),
        (lambda made: made.cells[5].metadata.update(jupyter={"source_hidden": True}), "is folded"),
        (lambda made: made.cells[5].update(outputs=[]), "outputs are not those"),
    ],
)
def test_what_a_teachers_copy_lacks_is_found(course, tmp_path, where, said):
    lesson = read(course.notebook(NAME))
    for cell in lesson.cells:
        cell.metadata[timing.SECONDS] = {"wall": 60.0, "cpu": 24.0}
    write(lesson, course.notebook(NAME))
    found = faults(course, "teacher", tmp_path / "out", (5, "solution"), where)
    assert any(said in what for what in found), found


def test_addresses_by_reference_go_along(course):
    lesson = read(course.notebook(NAME))
    lesson.cells[0].source += "\n\n见[图][a]。\n\n[a]: ../figs/a.svg"
    made, files = along.moved(lesson, course.root)
    assert "[a]: figs/a.svg" in made.cells[0].source and "figs/a.svg" in files


def test_tags_and_hidden_cells_are_found_and_shown_lines_are_no_secret(course):
    assert planted(course, lambda made, _: made.cells[-1].metadata.update(tags=["solution"]))
    assert planted(course, lambda made, _: made.cells[-1].metadata.update(jupyter={"source_hidden": True}))
    assert planted(course, lambda made, _: made.cells.append(nbformat.v4.new_code_cell("value = 20"))) == []


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("zh", "Nobody translated this."),
        (
            "zh",
            "第一段。\n\n"
            + "The second paragraph was left as it stood in the other language, as one can see.",
        ),
        ("en", "A lesson 一课"),
    ],
)
def test_a_planted_foreign_cell_is_found(course, language, source):
    lesson = read(course.notebook(NAME))
    made = editions.student(lesson, language)
    assert leaks.untranslated(lesson, made, language) == []
    made.cells.append(nbformat.v4.new_markdown_cell(source))
    assert len(leaks.untranslated(lesson, made, language)) == 1


def test_a_missing_twin_and_the_other_language_are_found(course):
    lesson = read(course.notebook(NAME))
    made = editions.student(lesson, "zh")
    made.cells.append(lesson.cells[1])  # tagged en, and in English
    assert len(leaks.untranslated(lesson, made, "zh")) == 1
    lacking = copy.deepcopy(lesson)
    del lacking.cells[1]
    assert "1 in en" in leaks.untranslated(lacking, editions.student(lacking, "zh"), "zh")[0]


def test_files_that_do_not_go_along_are_found(course, tmp_path):
    lesson = read(course.notebook(NAME))
    lesson.cells[0].source += " [gone](../figs/gone.svg)"
    with pytest.raises(errors.BadData, match=r"gone\.svg"):
        along.moved(lesson, course.root)
    lesson.cells[0].source = "[the solutions](../lessons/43_class.py)"
    with pytest.raises(errors.BadData, match="43_class"):
        along.moved(lesson, course.root)
    made = editions.student(read(course.notebook(NAME)), "zh")
    (tmp_path / "deep").mkdir()
    found = leaks.missing_files(made, tmp_path / "deep")
    assert len(found) == 3 and "figs/a.svg" in found[-1]


# ------------------------------------------------------------------------------------------------- the times


def test_a_run_notes_what_every_cell_took_and_times_can_be_renewed_alone(course):
    from tools import running

    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("text"),
            nbformat.v4.new_code_cell("import time; time.sleep(0.4)"),
            nbformat.v4.new_code_cell(
                "began = time.process_time()\nwhile time.process_time() < began + 0.6: pass"
            ),
        ]
    )
    running.run(notebook, course.root, 60)
    waited, worked = (cell.metadata[timing.SECONDS] for cell in notebook.cells[1:])
    assert waited["wall"] >= 0.4 > waited["cpu"] and worked["cpu"] > 0.4
    assert worked["wall"] >= 0.9 * worked["cpu"] and timing.seconds(notebook.cells[2]) <= worked["wall"]
    assert set(notebook.metadata[timing.TIMED]) == {"date", "hardware", "threads"}
    assert timing.SECONDS not in notebook.cells[0].metadata
    # only times change; a cell of other content keeps none
    run = read(course.notebook(NAME))
    for cell in run.cells[2:]:
        cell.metadata[timing.SECONDS] = {"wall": 1.0, "cpu": 1.0}
    run.cells[-1].id = "another"
    before = read(course.notebook(NAME))
    assert executing.times(course)(NAME, run, "") == ""
    after = read(course.notebook(NAME))
    timed = [cell for cell in after.cells if timing.SECONDS in cell.metadata]
    assert len(timed) == sum(timing.SECONDS in cell.metadata for cell in run.cells) - 1
    for cell in after.cells:
        cell.metadata.pop(timing.SECONDS, None)
    assert after.cells == before.cells


def test_unknown_lessons_are_said_plainly(course, capsys):
    assert export(course, "77") == 2 and "77" in capsys.readouterr().err
