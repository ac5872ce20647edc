"""What PLATFORMS.md and the dev container promise is there."""

import json
import re
import subprocess

from rlhf import profiles
from tools import twins

HERE = profiles.CHECKOUT


def test_the_dev_container_runs_what_exists():
    text = (HERE / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8")
    container = json.loads(text)  # validated against the schema of devcontainers/spec when it was written
    command = container["postCreateCommand"]
    assert subprocess.run([*command.split(), "-n"], cwd=HERE, capture_output=True).returncode == 0
    needed = re.search(
        r'requires-python = ">=3\.(\d+)"', (HERE / "pyproject.toml").read_text(encoding="utf-8")
    )
    assert int(container["image"].rpartition("3.")[2]) >= int(needed[1])
    assert "ms-toolsai.jupyter" in container["customizations"]["vscode"]["extensions"]


def test_both_halves_of_the_page_say_the_same():
    text = (HERE / "PLATFORMS.md").read_text(encoding="utf-8")
    zh, en = text.split("## English")
    zh = zh.split("## 中文")[1]
    rows = [[line for line in half.splitlines() if line.startswith("| ")] for half in (zh, en)]
    assert len(rows[0]) == len(rows[1]) == 8
    outside = [sorted(re.findall(r"https?://[^\s)>]+", half)) for half in (zh, en)]
    assert outside[0] == outside[1]
    assert not twins.CJK.search(twins.Text(en).plain)
    for path in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (HERE / path).is_file(), path
    commands = set(re.findall(r"`make ([a-z-]+)", text))
    for command in commands:
        assert subprocess.run(["make", "-n", command], cwd=HERE, capture_output=True).returncode == 0, command
    for readme in ("README.md", "README.zh.md"):
        assert "(PLATFORMS.md)" in (HERE / readme).read_text(encoding="utf-8")
