"""What importing the package does to a process: freed memory is kept, unless the user has decided."""

import ctypes
import os
import subprocess
import sys

import pytest

from rlhf.profiles import CHECKOUT

# Ten times what a training step asks for and frees: how many pages the kernel had to map anew?
PROGRAM = """
import resource, sys
import numpy
if "rlhf" in sys.argv:
    import rlhf
def steps(n):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        kept = [numpy.ones(size * 2**20, dtype=numpy.uint8) for size in (20, 20, 9, 5)]
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
steps(2)
print(steps(10))
"""


def pages(*words: str, **environment: str) -> int:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(
        command, env=clean | environment, cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_kept_for_the_next_step():
    assert pages("rlhf") < 200 < 2000 < pages()  # 54 MiB are 13,824 pages
    assert pages("rlhf", MALLOC_TOP_PAD_="0") > 2000  # who has set something is left alone
