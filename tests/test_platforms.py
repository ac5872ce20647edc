"""What PLATFORMS.md, the dev container and tools.hosted promise is there."""

import importlib.util
import json
import re
import shlex
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from rlhf.errors import MissingAssets
from tools import hosted, slides, system, twins

HERE = hosted.CHECKOUT


def test_the_dev_container_runs_what_exists():
    text = (HERE / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8")
    container = json.loads(text)  # validated against the schema of devcontainers/spec when it was written
    script = HERE / shlex.split(container["postCreateCommand"])[-1]
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert subprocess.run(["make", "-n", "build"], cwd=HERE, capture_output=True).returncode == 0
    assert "\nmake build\n" in script.read_text(encoding="utf-8")
    installed = set(shlex.split(container["onCreateCommand"]))
    assert installed > {system.APT.get(name, name) for name in slides.NEEDED}
    needed = re.search(
        r'requires-python = ">=3\.(\d+)"', (HERE / "pyproject.toml").read_text(encoding="utf-8")
    )
    assert int(re.search(r"python:3\.(\d+)-", container["image"])[1]) >= int(needed[1])
    assert "ms-toolsai.jupyter" in container["customizations"]["vscode"]["extensions"]


def test_the_dev_container_goes_on_without_the_index_of_torch(tmp_path):
    """A folder with a blank and Chinese letters, no network: make has the last word."""
    home = tmp_path / "一 课"
    (home / ".devcontainer").mkdir(parents=True)
    script = (HERE / ".devcontainer" / "create.sh").read_text(encoding="utf-8")
    (home / ".devcontainer" / "create.sh").write_text(script, encoding="utf-8")
    (home / "requirements.txt").write_text("torch==2.13.0\n")
    (home / "Makefile").write_text("build:\n\t@echo built\n")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, body in {
        "python3": 'mkdir -p .venv/bin; cp "$(dirname "$0")/pip" .venv/bin/pip',
        "pip": 'echo "$@" >> asked; exit 1',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    command = ["bash", str(home / ".devcontainer" / "create.sh")]
    done = subprocess.run(
        command, env={"PATH": f"{programs}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "built" and "could not be fetched" in done.stdout
    assert "whl/cpu torch==2.13.0" in (home / "asked").read_text()


def test_a_hosted_notebook_keeps_what_its_platform_set_up():
    lines = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    install, fixed = hosted.wanted(lines)
    names = {re.match(r"[\w.-]+", line)[0].lower() for line in install}
    assert names.isdisjoint({"torch", "numpy", "ipykernel", "ipywidgets", "jupyterlab", "pytest", "ruff"})
    assert names >= {"transformers", "trl", "peft", "datasets", "accelerate", "jupytext"}
    kept = dict(line.split("==") for line in fixed)
    assert kept["torch"] == metadata.version("torch") and {"ipython", "tornado", "numpy"} <= set(kept)
    install, fixed = hosted.wanted(["# a comment", "", "wandb_not_here==1", "numpy==0.0.1  # old"])
    assert install == ["wandb_not_here==1"] and "numpy==0.0.1" not in fixed


def test_a_platform_without_torch_gets_ours(monkeypatch):
    monkeypatch.setattr(hosted, "installed", lambda name: None)
    assert hosted.wanted(["torch==2.13.0", "ruff==1"]) == (["torch==2.13.0"], [])


def test_what_goes_wrong_in_a_hosted_notebook_is_said_in_words(monkeypatch):
    with pytest.raises(MissingAssets, match=r"No matching distribution.*no-such-package"):
        hosted.pip("install", "--no-index", "no-such-package-rlhf")
    said = 'raise RuntimeError("operator torchvision::nms does not exist")'
    monkeypatch.setattr(hosted, "SMOKE", said)
    with pytest.raises(MissingAssets, match="not importable: RuntimeError: operator torchvision::nms"):
        hosted.smoke()


def test_an_old_torchao_is_known_by_what_peft_says_of_it(monkeypatch):
    peft = Path(importlib.util.find_spec("peft").origin).with_name("import_utils.py")
    assert hosted.OLD in peft.read_text(encoding="utf-8")
    said = f"ImportError: {hosted.OLD} torchao. Found version 0.10.0"
    for text, old in ((said, True), ("", False), ("ImportError: peft", False)):
        monkeypatch.setattr(hosted, "run", lambda *a, t=text: subprocess.CompletedProcess(a, bool(t), "", t))
        assert hosted.old_torchao() is old


def test_both_halves_of_the_page_say_the_same():
    text = (HERE / "PLATFORMS.md").read_text(encoding="utf-8")
    zh, en = text.split("## English")
    zh = zh.split("## 中文")[1]
    rows = [[line for line in half.splitlines() if line.startswith("| ")] for half in (zh, en)]
    assert len(rows[0]) == len(rows[1]) == 11
    outside = [sorted(re.findall(r"https?://[^\s)>]+", half)) for half in (zh, en)]
    assert outside[0] == outside[1]
    assert not twins.CJK.search(twins.Text(en).plain)
    for path in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (HERE / path).is_file(), path
    commands = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.M))
    assert {"kernel", "lab", "build"} <= commands
    for command in commands:
        assert subprocess.run(["make", "-n", command], cwd=HERE, capture_output=True).returncode == 0, command
    for module in set(re.findall(r"python -m (tools\.\w+|rlhf\.\w+)", text)):
        assert (HERE / f"{module.replace('.', '/')}.py").is_file() or (
            HERE / module.replace(".", "/")
        ).is_dir()
    for readme in ("README.md", "README.zh.md"):
        assert "(PLATFORMS.md)" in (HERE / readme).read_text(encoding="utf-8")
