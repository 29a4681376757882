"""How this process gets memory from the operating system, where the C library is glibc."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_KEPT_BYTES = 2**31 - 1
# What a user sets to have it otherwise.
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Have what is freed kept for the next step: nothing is mapped by itself, and the heap's end is not given back below 2 GiB.

    glibc returns the activations of a training step to the operating system as they are freed, and asks for the same
    megabytes again in the next step: thousands of page faults, a tenth of a step's time on a CPU (`python -m
    benchmarks.allocator`). What was freed once is kept for good, but for `release_freed_memory`. Does nothing, and returns
    False, elsewhere than on glibc, and where the user chose otherwise by an environment variable of glibc's.
    """
    mallopt = _function("mallopt")
    if mallopt is None or any(name in os.environ for name in _CHOSEN):
        return False
    # The largest threshold differs between versions; mapping no block at all is the same everywhere.
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)) and bool(mallopt(_MMAP_MAX, 0))


def release_freed_memory() -> None:
    """Give the freed pages back, for after something that wants much memory and is over: a decoding, an evaluation."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Any:
    """A function of glibc's; None on another C library."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
