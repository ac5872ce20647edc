"""Install the course beside what a hosted notebook (Colab, Kaggle) has: ``!python -m tools.hosted``.

In: the Python that runs this, ``requirements.txt``. Out: the course's libraries and ``rlhf`` in that Python;
torch, NumPy and the notebook's machinery stay as the platform set them up. Needs nothing but pip.

Why not all of ``requirements.txt``: beside a torchvision that was built for another torch, nothing can import
``pipeline`` (``operator torchvision::nms does not exist``), and a new ipykernel or IPython can take down the
runtime that shows the notebook. A torchao too old for peft, which then refuses LoRA, is taken out.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from rlhf import errors

CHECKOUT = Path(__file__).resolve().parents[1]
# What the platform has keeps its version; what it lacks comes from requirements.txt.
KEPT = {"torch", "numpy", "pandas", "matplotlib", "scikit-learn", "jinja2", "pyyaml", "tqdm", "tensorboard"}
KEPT |= {"wandb", "ipykernel", "ipywidgets", "nbclient", "nbconvert", "nbformat"}
# What those stand on keeps its version as well.
BELOW = ["torchvision", "torchaudio", "scipy", "pillow", "protobuf"]
BELOW += ["ipython", "jupyter-client", "jupyter-core", "notebook", "tornado", "pyzmq", "traitlets"]
# For make alone.
LEFT_OUT = frozenset(
    ["jupyterlab", "ruff", "pytest", "pytest-timeout", "pytest-xdist", "nbmake", "pre-commit"]
)
OLD = "Found an incompatible version of"  # how peft begins when it refuses a torchao
SMOKE = """
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM, pipeline
from trl import DPOTrainer, GRPOTrainer, RewardTrainer, SFTTrainer
from peft import LoraConfig, get_peft_model
small = AutoConfig.for_model("gpt2", n_layer=1, n_head=1, n_embd=8, vocab_size=16)
get_peft_model(AutoModelForCausalLM.from_config(small), LoraConfig(target_modules=["c_attn"]))
from rlhf import checks, evaluate, pictures, ppo, profiles, report
print(f"torch {torch.__version__}, transformers {transformers.__version__}")
"""


def installed(name: str) -> str | None:
    """The version of a package here, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def wanted(lines: list[str]) -> tuple[list[str], list[str]]:
    """Lines of a requirements file → what to install, and ``name==version`` of what must not change."""
    install, fixed = [], []
    for line in lines:
        name = re.match(r"[\w.-]*", line)[0].lower().replace("_", "-")
        here = installed(name) if name in KEPT else None
        if here is not None:
            fixed.append(f"{name}=={here}")
        elif name and name not in LEFT_OUT:
            install.append(line)
    fixed += [f"{name}=={here}" for name in BELOW if (here := installed(name)) is not None]
    return install, sorted(set(fixed))


def run(*arguments: str) -> subprocess.CompletedProcess:
    """This Python with ``arguments``; what it says is kept."""
    return subprocess.run([sys.executable, *arguments], cwd=CHECKOUT, capture_output=True, text=True)


def pip(*arguments: str) -> None:
    """Run pip.

    Raises:
        MissingAssets: pip failed; its last line is in the message.
    """
    done = run("-m", "pip", "-q", "--disable-pip-version-check", *arguments)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [
            done.stderr.strip()[-300:]
        ]
        raise errors.MissingAssets(
            f"pip 没有装上：{said[-1]}。检查网络（Kaggle：右侧 Settings → Internet），再运行一次。",
            f"pip could not install: {said[-1]}. Check the network (Kaggle: Settings → Internet), try again.",
        )


def old_torchao() -> bool:
    """Whether peft refuses to work because of the torchao that is here."""
    done = run("-c", "from peft.import_utils import is_torchao_available as ask; ask()")
    return f"{OLD} torchao" in done.stderr


def smoke() -> str:
    """Import what the lessons import, in a fresh Python; returns the versions.

    Raises:
        MissingAssets: something cannot be imported; the message says what.
    """
    done = run("-c", SMOKE)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["?"])[-1]
        raise errors.MissingAssets(
            f"装好了，但不能导入：{last}。有终端的话请用 make kernel：它用自己的环境。",
            f"Installed, but not importable: {last}. In a terminal, make kernel uses its own environment.",
        )
    return done.stdout.strip().splitlines()[-1]


@errors.command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.hosted", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--plan", action="store_true", help="only say what would be installed and what is kept"
    )
    options = parser.parse_args(argv)
    install, fixed = wanted((CHECKOUT / "requirements.txt").read_text(encoding="utf-8").splitlines())
    print("保留 · kept:", " ".join(fixed) or "—")
    if options.plan:
        print("安装 · to install:", *install, sep="\n  ")
        return 0
    print("安装要几分钟，中间不出声。 · Installing takes minutes, in silence.", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        lists = [Path(folder) / name for name in ("install.txt", "fixed.txt")]
        for path, lines in zip(lists, (install, fixed), strict=True):
            path.write_text("\n".join([*lines, ""]), encoding="utf-8")
        pip("install", "-r", str(lists[0]), "-c", str(lists[1]))
    pip("install", "--no-deps", "-e", ".")
    if old_torchao():
        pip("uninstall", "-y", "torchao")
    print(f"✓ {smoke()}")
    print("请重启内核，再打开课。 · Restart the kernel, then open a lesson.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
