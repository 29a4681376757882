"""A training step of gantk against the loop that everyone copies, and against one tuned by hand.

    python -m benchmarks.training_step

DCGAN at width 64 on two threads of a CPU: 64×64 at batch 128 and 32×32 at batch 64; bf16 where the processor has it (what
`train.precision: auto` takes), and float32. All three train the same networks from the same images. The trainer is timed
with everything that it does in a run: data, gradient norms, the moving average, logging at its default interval.

The loop that everyone copies runs in a process of its own, which has the C library's memory as everyone has it; the trainer
sets it otherwise for all of its process (`gantk/allocator.py`), and the loop tuned by hand, in the same one, gains by that.

`--busy` is for a machine that others use: one thread, and processor time instead of wall time, in whatever company.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from benchmarks import records
from benchmarks.loops import TunedLoop, UsualLoop
from benchmarks.runs import made_up_images, own_folder, steps_of, trainer_for, write_npz
from benchmarks.timing import OTHERS_MAY_USE, Comparison, compare

# (side, batch, precision, steps in a turn): a turn is a second or two.
CASES = ((64, 128, "bf16", 3), (64, 128, "no", 2), (32, 64, "bf16", 16), (32, 64, "no", 8))
# Goals of the comparison, by (side, precision): how many times as fast as the usual loop, and at most how much slower
# than the one tuned by hand.
GOALS = {(64, "bf16"): (1.9, 1.03), (64, "no"): (1.2, 1.03), (32, "bf16"): (None, 1.05), (32, "no"): (None, 1.05)}


def _serve(pipe: Connection, images: Tensor, batch_size: int, threads: int) -> None:
    torch.set_num_threads(threads)
    loop = UsualLoop(images, batch_size, torch.device("cpu"))
    pipe.send(None)
    while steps := pipe.recv():
        for _ in range(steps):
            loop.step()
        pipe.send(None)


@contextlib.contextmanager
def usual_loop_elsewhere(images: Tensor, batch_size: int, threads: int) -> Iterator[Callable[[int], None]]:
    """So many steps of the usual loop, made by another process while this one waits."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, images, batch_size, threads), daemon=True)
    process.start()
    theirs.close()

    def steps_of_it(steps: int) -> None:
        ours.send(steps)
        ours.recv()

    try:
        ours.recv()
        yield steps_of_it
        ours.send(0)
        process.join(timeout=30)
    finally:
        process.kill()


def measure(
    resolution: int,
    batch_size: int,
    precision: str,
    steps: int,
    *,
    threads: int = 2,
    rounds: int = 7,
    limit_s: float = 120,
    others_may_use: float = OTHERS_MAY_USE,
) -> Comparison:
    """The three loops in turn, `steps` steps a turn."""
    torch.set_num_threads(threads)
    images = made_up_images(max(8, 1024 // batch_size) * batch_size, resolution)
    cpu = torch.device("cpu")
    tuned = TunedLoop(images, batch_size, cpu, bf16=precision == "bf16")
    with own_folder() as folder, usual_loop_elsewhere(images, batch_size, threads) as usual:
        data = write_npz(images, folder / "images.npz")
        trainer = trainer_for(
            folder, "benchmark", data, resolution, batch_size, precision, threads=threads, device="cpu"
        )
        # It asks for deterministic kernels in the whole process; the other runs as its author runs it.
        asked = torch.are_deterministic_algorithms_enabled()

        def tune() -> None:
            torch.use_deterministic_algorithms(False)
            for _ in range(steps):
                tuned.step()

        def train() -> None:
            torch.use_deterministic_algorithms(asked, warn_only=True)
            steps_of(trainer, steps)

        variants = {"usual": lambda: usual(steps), "tuned": tune, "trainer": train}
        try:
            return compare(variants, rounds=rounds, limit_s=limit_s, warmup=2, others_may_use=others_may_use)
        finally:
            torch.use_deterministic_algorithms(False)


def figures(found: Comparison, images_in_a_turn: int, processor_time: bool = False) -> dict[str, Any]:
    """`processor_time`: speeds and ratios by that instead of wall time."""
    seconds, ratio = (found.process_seconds, found.process_ratio) if processor_time else (found.seconds, found.ratio)
    return {
        "clock": "processor time" if processor_time else "wall time",
        "images_per_second": {name: round(images_in_a_turn / seconds(name), 1) for name in found.turns},
        "trainer_vs_usual": round(ratio("usual", "trainer"), 3),
        "tuned_vs_usual": round(ratio("usual", "tuned"), 3),
        "trainer_time_vs_tuned": round(ratio("trainer", "tuned"), 4),
        "trainer_processor_time_vs_tuned": round(found.process_ratio("trainer", "tuned"), 4),
        "rounds": found.rounds,
        "rounds_thrown_away": found.thrown_away,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="gantk's training step against the loop that everyone copies")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit", type=float, default=120, help="seconds for each case")
    parser.add_argument("--busy", action="store_true", help="one thread, by processor time, whoever else is there")
    arguments = parser.parse_args()
    # Not as many steps: one thread takes twice as long.
    how: dict[str, Any] = {"threads": 1, "others_may_use": float("inf")} if arguments.busy else {}
    results: dict[str, Any] = {}
    print("one thread, processor time" if arguments.busy else "two threads, wall time")
    print(f"{'case':<22}{'usual':>9}{'tuned':>9}{'trainer':>9}   trainer/usual   over tuned")
    for resolution, batch_size, precision, steps in CASES:
        steps = max(1, steps // 2) if arguments.busy else steps
        limit = {"rounds": arguments.rounds, "limit_s": arguments.limit}
        found = measure(resolution, batch_size, precision, steps, **limit, **how)
        name = f"{resolution}px batch {batch_size} {'fp32' if precision == 'no' else precision}"
        faster, overhead = GOALS[resolution, precision]
        result = figures(found, steps * batch_size, arguments.busy)
        results[name] = {**result, "goal_trainer_vs_usual": faster, "goal_trainer_time_vs_tuned": overhead}
        speeds = "".join(f"{result['images_per_second'][kind]:>9.0f}" for kind in ("usual", "tuned", "trainer"))
        over = 100 * (result["trainer_time_vs_tuned"] - 1)
        print(f"{name:<22}{speeds}{result['trainer_vs_usual']:>13.2f}{over:>13.1f} %", flush=True)
    print(
        f"written to {records.write('training_step_busy' if arguments.busy else 'training_step', results)} (images/s)"
    )


if __name__ == "__main__":
    main()
