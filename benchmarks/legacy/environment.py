"""The environment that the legacy side of ``benchmarks/speed.py`` runs in: made once, outside the checkout.

In: ``requirements.txt`` beside this file. Out: the path of a Python that has TRL 0.11.4. Nothing of it gets
into the course's own environment.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def cache() -> Path:
    """Where the benchmark keeps what git must not see: ``$XDG_CACHE_HOME/rlhf-course``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlhf-course"


def legacy_python(folder: Path | None = None) -> Path:
    """The Python of the legacy environment, which is made first if need be (minutes, some 2 GB).

    ``folder`` is a virtual environment to use or to make; by default one in :func:`cache`, named by what
    ``requirements.txt`` says, so that a change of it makes a new one. It needs Python 3.11 or 3.12. Raises
    ``CalledProcessError`` if pip cannot install; what pip says is shown.
    """
    key = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder = folder or cache() / f"legacy-{key}"
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == key:
        return python
    print(f"making the legacy environment in {folder}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    # without --no-compile, pip spends as long on compiling files that nobody imports as on all else
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "-r", str(REQUIREMENTS)]
    subprocess.run(install, check=True, stdout=sys.stderr)
    stamp.write_text(key, encoding="utf-8")
    return python
