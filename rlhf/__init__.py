"""The course's package. Import it before torch: it tells OpenMP to sleep instead of spin.

Two training processes on one machine starve each other when idle OpenMP threads spin on the cores the
other one needs. ``OMP_WAIT_POLICY=passive`` stops that, but only if it is set before torch is imported.

It also tells the C library to keep the memory that torch frees. A training step frees and asks for the same
sizes all the time, and whatever goes back to the kernel in between is cleared and mapped page by page when it
is asked for again: up to a third of the time of a small training. Results are the same to the last bit.
"""

import ctypes
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked data workers would warn on every batch
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # mallopt's names for what it sets (glibc: malloc.h)
MEBIBYTE = 2**20


def keep_freed_memory(below: int = 32 * MEBIBYTE) -> bool:
    """Let glibc keep freed blocks of less than ``below`` bytes for the next one that asks. Larger ones go
    back to the kernel at once: kept, they raised the peak of a large model by a fifth.

    Returns:
        Whether it was told: not where the C library is another one, and not where the environment has said
        what it wants (``MALLOC_…``, ``GLIBC_TUNABLES``).
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return False
    wanted = {MMAP_THRESHOLD: below, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 64 * MEBIBYTE}
    return sum(mallopt(name, value) for name, value in wanted.items()) == len(wanted)


keep_freed_memory()
