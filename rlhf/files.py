"""Files and folders that appear whole or not at all.

In: the place of a folder or of a text file. Out: a sibling to write into, renamed when everything is in it.
Models, reports and notebooks are saved this way.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf.errors import CannotWrite, CourseError


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A sibling folder to write into; it becomes ``folder`` only when the block ends without error.

    Raises:
        CannotWrite: no space or no permission. What was in ``folder`` before is still there.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder.parent, folder.name)
        yield partial
        for file in partial.rglob("*"):
            # safetensors writes files that only their owner may read
            file.chmod(0o755 if file.is_dir() else 0o644)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except CourseError:
        raise
    except OSError as error:
        raise CannotWrite(
            f"无法写入 {folder}：{error.strerror or error}。请检查磁盘空间和写权限，没有留下半成品。",
            f"Cannot write {folder}: {error.strerror or error}. Check disk space and permission; "
            "nothing half-written was left.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def folder_mark(folder: Path) -> str | list:
    """What tells this model or data folder from another: the fingerprint that :mod:`rlhf.build` left in it;
    of a downloaded folder, its files and their sizes."""
    try:
        return json.loads((folder / "build.json").read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError):
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return [[file.relative_to(folder).as_posix(), file.stat().st_size] for file in files]


def whole_text(path: Path, text: str) -> Path:
    """Write ``text`` to ``path`` in UTF-8: a temporary neighbour, then one rename. Returns ``path``.

    Raises:
        CannotWrite: no space or no permission. What was in ``path`` before is still there.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=".", delete=False
        ) as file:
            temporary = file.name
            file.write(text)
        os.chmod(temporary, 0o644)  # a temporary file is private; what is written here is there to be read
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise CannotWrite(
            f"无法写入 {path}：{error.strerror}", f"Cannot write {path}: {error.strerror}"
        ) from error
    return path


def remove_leftovers(parent: Path, name: str) -> None:
    """Delete what killed runs left in ``parent`` of folders called ``name`` (``*`` allowed); a run that still
    works keeps its own."""
    from psutil import pid_exists

    for leftover in parent.glob(f".{name}.*.partial"):
        owner = leftover.name.split(".")[-2]
        if owner.isdigit() and not pid_exists(int(owner)):
            shutil.rmtree(leftover, ignore_errors=True)
