"""How this process gets memory from the operating system, where the C library is glibc."""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_KEPT_BYTES = 2**31 - 1
# What a user sets to have it otherwise.
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Have what is freed kept for the next step, up to 2 GiB at the end of the heap, and nothing mapped by itself.

    glibc returns the activations of a training step to the operating system as they are freed, and asks for the same
    megabytes again in the next step: thousands of page faults, a tenth of the time of a small network's step on a CPU
    (benchmarks/allocator.py). Does nothing, and returns False, elsewhere than on glibc, and where the user chose otherwise
    by an environment variable of glibc's.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _CHOSEN):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # The largest threshold differs between versions; mapping no block at all is the same everywhere.
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)) and bool(mallopt(_MMAP_MAX, 0))
