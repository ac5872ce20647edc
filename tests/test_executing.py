"""Several lessons at once: who waits for whom, what is said, what a failure or Ctrl-C leaves behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from rlhf.profiles import CHECKOUT
from tools import executing, lessons, order
from tools.notebooks import Course, pair

STARTS = "import os, time\nfrom pathlib import Path\n"
REST = '# %%\nprint(os.environ["OMP_NUM_THREADS"])\n'


@pytest.fixture
def course(tmp_path, monkeypatch):
    for name in ("RLHF_PROFILE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    (tmp_path / "lessons").mkdir()
    return Course(tmp_path)


@pytest.fixture(scope="module")
def needed():
    course = Course(CHECKOUT)
    return order.needs(course, course.names())


def write(course: Course, name: str, code: str) -> None:
    course.source(name).write_text(f"# %%\n{STARTS}{code}\n{REST}", encoding="utf-8")


def run(course: Course, *words: str) -> int:
    return lessons.main(["--root", str(course.root), "execute", *words])


# --------------------------------------------------------------------------------------------------- order


def test_who_needs_whom_in_this_course(needed):
    assert needed["07_ppo_imdb"] == {"04_supervised_fine_tuning", "05_reward_modelling"}
    assert needed["10_evaluation"] >= {"07_ppo_imdb", "08_rejection_sampling"}
    assert not needed["04_supervised_fine_tuning"] and not needed["05_reward_modelling"]  # theirs
    alone = order.needs(Course(CHECKOUT), ["01_model_inspection", "07_ppo_imdb"])
    assert not any(alone.values())  # nobody waits for one that is not run


def test_the_longest_chain_begins_first():
    needed = {"a": set(), "b": set(), "c": {"b"}, "d": {"c"}, "e": set()}
    takes = {"a": 5.0, "b": 1.0, "c": 3.0, "d": 2.0, "e": 4.0}
    assert order.by_urgency(needed, takes) == ["b", "a", "c", "e", "d"]
    assert list(order.schedule(needed, takes, 1)) == ["b", "a", "c", "e", "d"]
    two = order.schedule(needed, takes, 2)
    assert two == {"b": (0, 0), "a": (0, 1), "c": (1, 0), "e": (4, 0), "d": (5, 1)}
    waits = order.schedule({"a": set(), "b": {"a"}}, {"a": 2.0, "b": 1.0}, 2)
    assert waits == {"a": (0, 0), "b": (2, 1)}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    "takes", [{}, {"07_ppo_imdb": 1e4}, {"10_evaluation": 1e4, "04_supervised_fine_tuning": 1}]
)
def test_processes_that_wait_for_each_other_come_to_an_end(count, takes, needed):
    """Played through with times that are not those they were planned with."""
    slots = order.schedule(needed, dict.fromkeys(needed, 100.0) | takes, count)
    lanes = [[name for name, slot in slots.items() if slot.lane == lane] for lane in range(count)]
    ended: set[str] = set()
    while any(lanes):
        ready = [lane for lane in lanes if lane and needed[lane[0]] <= ended]
        assert ready, f"all wait: {lanes}"
        ended.add(ready[-1].pop(0))
    assert ended == set(needed)


def test_time_comes_from_the_cells_of_the_notebook(course):
    assert order.seconds(course, "01_new") == order.UNTIMED
    name = "00_overview"
    assert 5 < order.seconds(Course(CHECKOUT), name) < 600


# ----------------------------------------------------------------------------------------------- execution


def test_two_at_once_share_the_cores_and_one_that_needs_another_waits(course, capfd):
    """The first two meet: neither can end before the other has begun. The third finds what the first made."""
    meet = "Path('../{0}').touch()\nwhile not Path('../{1}').exists(): time.sleep(0.01)\n"
    make = "Path('sft_1').touch()\n"
    write(course, "04_supervised_fine_tuning", meet.format("a", "b").replace("../", "") + make)
    write(course, "05_other", meet.format("b", "a").replace("../", ""))
    write(course, "07_user", "assert Path('sft_1').exists()")
    assert run(course, "--jobs", "2", "--timeout", "60") == 0, capfd.readouterr()
    said = capfd.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith("[")]
    begun = [re.fullmatch(r"\[(\d)/3\] (\w+) …", line) for line in lines]
    ended = [re.fullmatch(r"\[(\d)/3\] (\w+) … \d+ s ✓", line) for line in lines]
    assert sum(map(bool, begun)) == sum(map(bool, ended)) == 3 and "3/3 ✓" in said
    assert begun[0][2] == "04_supervised_fine_tuning" and lines[-1].startswith("[3/3] 07_user")
    for name in ("04_supervised_fine_tuning", "05_other"):
        text = (course.root / "output" / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
        assert f'"{max(1, executing.cores() // 2)}\\n"' in text and '"threads": ' in text


def test_one_fails_and_the_others_go_on(course, capfd):
    write(course, "01_broken", "1 / 0")
    write(course, "02_fine", "")
    assert run(course, "--jobs", "2") == 1
    said = capfd.readouterr()
    assert re.search(r"\[\d/2\] 01_broken … \d+ s ✗\ncell 0:", said.out) and "ZeroDivisionError" in said.out
    assert re.search(r"\[\d/2\] 02_fine … \d+ s ✓", said.out)
    assert said.err.strip().endswith("Failed: 01_broken")


def test_ctrl_c_ends_all_kernels(course):
    for name in ("01_one", "02_two"):
        write(course, name, f"Path({name!r}).write_text(str(os.getpid()))\ntime.sleep(600)")
    command = [sys.executable, "-m", "tools.lessons", "--root", str(course.root), "execute", "--jobs", "2"]
    process = subprocess.Popen(
        command,
        cwd=CHECKOUT,
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # what a shell starts in the background is deaf to Ctrl-C, and so would be its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    places = [course.root / name for name in ("01_one", "02_two")]
    patience = time.monotonic() + 300
    while not all(place.is_file() and place.read_text() for place in places):
        assert time.monotonic() < patience and process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and err.strip().endswith("Stopped."), err
    assert "✓" not in out and not any(psutil.pid_exists(int(place.read_text())) for place in places)


def test_how_many_is_bounded_by_cores_memory_and_a_gpu(monkeypatch):
    monkeypatch.setenv("RLHF_DEVICE", "cpu")
    monkeypatch.setattr(executing, "cores", lambda: 64)
    assert executing.how_many(3) == 3 and executing.how_many(50) <= executing.MOST
    monkeypatch.setattr(executing, "cores", lambda: 1)
    assert executing.how_many(50) == 1
    monkeypatch.setattr(executing, "cores", lambda: 64)
    monkeypatch.setattr(executing, "MEMORY", psutil.virtual_memory().total)
    assert executing.how_many(50) == 1
    monkeypatch.setattr(executing, "MEMORY", 1)
    monkeypatch.setenv("RLHF_DEVICE", "mps")
    assert executing.how_many(50) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert executing.share_of_threads(2) is None


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_a_wrong_number_is_named(course, number, capsys):
    with pytest.raises(SystemExit):
        run(course, "--jobs", number)
    assert "is not a number of lessons" in capsys.readouterr().err


def test_the_terminal_shows_all_that_run(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    board = executing.Board(3, 2)
    board.begins("01_one")
    board.begins("02_two")
    board.is_at("02_two", 40)
    assert capsys.readouterr().out.endswith("\r\x1b[K[1/3] 01_one … 0 % · [2/3] 02_two … 40 %")
    board.ends("01_one", "cell 3: it broke")
    said = capsys.readouterr().out.split("\r\x1b[K")
    assert said[1] == "[1/3] 01_one … 0 s ✗\ncell 3: it broke\n" and said[2] == "[2/3] 02_two … 40 %"


def test_a_lesson_that_is_no_python_waits_for_nobody_and_is_run(course):
    course.source("07_half").write_text("# %%\nprint(\n", encoding="utf-8")
    write(course, "04_supervised_fine_tuning", "")
    assert order.needs(course, course.names())["07_half"] == set()


def test_nbmake_keeps_the_order_too(course):
    """In two processes: 07 needs what 04 makes late; the notebooks that need nothing run meanwhile."""
    write(course, "04_supervised_fine_tuning", "time.sleep(3)\nPath('../sft_1').touch()")
    write(course, "07_user", "assert Path('../sft_1').exists()")
    write(course, "01_other", "assert not Path('../sft_1').exists()")
    course.notebooks.mkdir()
    for name in course.names():
        pair(course, name)
    shutil.copy(CHECKOUT / "notebooks" / "conftest.py", course.notebooks)
    command = ["-m", "pytest", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup", "--nbmake", "-v"]
    done = subprocess.run(
        [sys.executable, *command, str(course.notebooks)],
        cwd=CHECKOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "JUPYTER_PREFER_ENV_PATH": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    order_of_ends = re.findall(r"PASSED \S*?(\d\d)_\w+\.ipynb", done.stdout)
    assert order_of_ends == ["01", "04", "07"]
