"""What a training step costs with glibc as it comes, and as the trainer sets it (`gantk/allocator.py`).

    python -m benchmarks.allocator

The setting is for the whole of a process and cannot be taken back, so that each turn is a process of its own; the two
kinds take turns. DCGAN at width 64, bf16 where the processor has it and float32, on two threads.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import Any

import torch

from benchmarks import records
from benchmarks.runs import made_up_images, own_folder, steps_of, trainer_for, write_npz
from benchmarks.timing import OTHERS_MAY_USE, BusyMachineError, timed

# (side, batch, precision, steps).
CASES = ((64, 128, "bf16", 8), (64, 128, "no", 6), (32, 64, "bf16", 48), (32, 64, "no", 32))


def turn(resolution: int, batch_size: int, precision: str, steps: int, threads: int = 2) -> dict[str, float]:
    """Milliseconds and page faults a step, and the largest memory of this process."""
    torch.set_num_threads(threads)
    with own_folder() as folder:
        data = write_npz(made_up_images(8 * batch_size, resolution), folder / "images.npz")
        trainer = trainer_for(folder, "run", data, resolution, batch_size, precision, threads=threads, device="cpu")
        steps_of(trainer, 3)
        faults, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        steps_of(trainer, steps)
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "ms_a_step": 1000 * seconds / steps,
        "page_faults_a_step": (after.ru_minflt - faults) / steps,
        "peak_megabytes": after.ru_maxrss / 1024,
    }


def in_a_process(keep: bool, case: tuple[int, int, str, int]) -> dict[str, float]:
    code = "import json, sys, gantk.allocator, gantk.runtime\n"
    if not keep:
        code += "gantk.runtime.keep_freed_memory = lambda: False\n"
    code += f"from benchmarks.allocator import turn\nprint('\\n' + json.dumps(turn(*{case!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _keep_figures(here: dict[bool, dict[str, float]], keep: bool, case: tuple[int, int, str, int]) -> None:
    here[keep] = in_a_process(keep, case)


def measure(case: tuple[int, int, str, int], rounds: int) -> dict[str, Any]:
    turns: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    thrown_away = 0
    while len(turns[True]) < rounds:
        order = (False, True) if (len(turns[True]) + thrown_away) % 2 else (True, False)
        here: dict[bool, dict[str, float]] = {}
        others = [timed(partial(_keep_figures, here, keep, case)).others for keep in order]
        if max(others) > OTHERS_MAY_USE:
            thrown_away += 1
            if thrown_away > 2 * rounds:
                raise BusyMachineError("other processes disturb it: run it again when the machine is idle")
            continue
        for keep, figures in here.items():
            turns[keep].append(figures)
    found = {
        name: {key: round(statistics.median(t[key] for t in turns[keep]), 1) for key in turns[keep][0]}
        for name, keep in (("as it comes", False), ("as set", True))
    }
    ratios = [a["ms_a_step"] / b["ms_a_step"] for a, b in zip(turns[False], turns[True], strict=True)]
    return {**found, "times_as_fast": round(statistics.median(ratios), 3), "rounds": rounds, "thrown_away": thrown_away}


def main() -> None:
    parser = argparse.ArgumentParser(description="a training step with glibc as it comes and as the trainer sets it")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    results = {}
    for case in CASES:
        name = f"{case[0]}px batch {case[1]} {'fp32' if case[2] == 'no' else case[2]}"
        results[name] = found = measure(case, rounds)
        before, after = found["as it comes"], found["as set"]
        print(
            f"{name:<22}{before['ms_a_step']:>8.1f} → {after['ms_a_step']:.1f} ms a step, "
            f"{found['times_as_fast']:.2f} times as fast; page faults {before['page_faults_a_step']:,.0f} → "
            f"{after['page_faults_a_step']:,.0f}; peak memory {before['peak_megabytes']:,.0f} → {after['peak_megabytes']:,.0f} MB",
            flush=True,
        )
    print(f"written to {records.write('allocator', results)}")


if __name__ == "__main__":
    main()
