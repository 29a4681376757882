"""What the C library does with freed memory, seen by the page faults of a child process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import psutil
import pytest

from gantk import allocator
from gantk.config.schema import TrainConfig
from gantk.runtime import Runtime

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
# Two blocks of 40 MB, more than glibc ever keeps of itself, taken and given back twenty times.
CODE = """
import resource
import numpy as np
from gantk.allocator import keep_freed_memory
print(keep_freed_memory() if {keep} else None)
def work():
    for _ in range(20):
        blocks = [np.ones(5_000_000) for _ in range(2)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool, **environment: str) -> tuple[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(keep=keep)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    set_, count = done.stdout.split()
    return set_, int(count)


def test_freed_memory_is_not_asked_for_again() -> None:
    _, before = faults(keep=False)
    done, after = faults(keep=True)
    assert done == "True"
    assert before > 100 * max(after, 1)


def test_what_the_user_chose_stays() -> None:
    done, count = faults(keep=True, MALLOC_TRIM_THRESHOLD_="131072")
    assert done == "False"
    assert count > 1000


def test_it_is_set_for_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("gantk.runtime.keep_freed_memory", lambda: asked.append(True))
    Runtime(TrainConfig(kimg=1, device="cpu"))
    assert asked == [True]


def test_pages_can_be_given_back() -> None:
    me = psutil.Process()
    blocks = [np.ones(100_000) for _ in range(500)]
    above = np.ones(1_000)
    del blocks
    allocator.release_freed_memory()
    before = me.memory_info().rss
    blocks = [np.ones(100_000) for _ in range(500)]
    full = me.memory_info().rss
    above += np.ones(1_000)
    del blocks
    allocator.release_freed_memory()
    assert full - before > 300e6
    assert me.memory_info().rss - before < 100e6
