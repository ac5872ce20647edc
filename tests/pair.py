"""Two processes that find each other, as ``torch.distributed.run`` starts them, for half the time.

    python pair.py MODULE FOLDER

In: a module beside this file with a function ``main(folder)``. It is imported once, which is what takes the
time, and then the process forks: nothing has been computed yet, and it has one thread. Out: the exit code of
the first that fails, which ends the other, else 0. The launcher itself is tested in test_train_launched.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
COUNT = 2
# Only on Linux may a process fork that has loaded numerical libraries.
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(COUNT)]


def run(module: str, folder: Path) -> None:
    """Run ``main(folder)`` of the module in two processes; if one of them fails, fail with what it said."""
    search = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    settings = {"PYTHONPATH": search, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launcher = [] if sys.platform == "linux" else LAUNCHER
    command = [sys.executable, *launcher, __file__, module, str(folder)]
    process = subprocess.Popen(command, env=os.environ | settings, stderr=subprocess.PIPE, text=True)
    try:
        _, said = process.communicate(timeout=540)
    finally:
        process.terminate()  # if it took too long; it ends its two processes, which a kill would leave
    assert process.returncode == 0, said[-4000:]


def fork(work: Callable[[Path], None], folder: Path) -> int:
    """``work(folder)`` in each of the processes; the first exit code that is not 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    group |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(COUNT))
    children: set[int] = set()
    for index in range(COUNT):
        if (child := os.fork()) == 0:
            os.environ.update(group | dict.fromkeys(("RANK", "LOCAL_RANK"), str(index)))
            os._exit(attempt(work, folder))
        children.add(child)
    signal.signal(signal.SIGTERM, lambda *_: end(children))
    failed = 0
    while children:
        child, status = os.wait()
        children.remove(child)
        if status and not failed:
            failed = abs(os.waitstatus_to_exitcode(status))
            end(children)
    return failed


def attempt(work: Callable[[Path], None], folder: Path) -> int:
    """Exit code of a process."""
    try:
        work(folder)
        return 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1


def end(children: Iterable[int]) -> None:
    """Stop those that are left."""
    for child in children:
        os.kill(child, signal.SIGTERM)


if __name__ == "__main__":
    main, place = importlib.import_module(sys.argv[1]).main, Path(sys.argv[2])
    sys.exit(attempt(main, place) if "RANK" in os.environ else fork(main, place))
