"""From the command to the end of the first step, on data that is in the cache.

    python -m benchmarks.start

`configs/dcgan_cifar10.yaml` on local parquet (`$GANTK_DATA`, or `../shared/data`), or `configs/quickstart.yaml` where that
is missing. Each start is a process of its own; the first fills the cache and is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.runs import own_folder
from benchmarks.timing import BusyMachineError, Turn, timed

ROOT = Path(__file__).resolve().parent.parent
GOAL_S = 10.0
# The command's own way to the trainer, left as soon as a step is done.
CHILD = """
import os, sys
from gantk.cli import main
import gantk.training.trainer as trainer
step = trainer.Trainer.train_step
def once(self):
    step(self)
    sys.stderr.flush()
    os._exit(0)
trainer.Trainer.train_step = once
main(sys.argv[1:])
"""


def arguments_for(data: Path | None) -> list[str]:
    if data is None:
        return ["--config", str(ROOT / "configs" / "quickstart.yaml")]
    config = ["--config", str(ROOT / "configs" / "dcgan_cifar10.yaml"), "data.source=parquet"]
    return [
        *config,
        f"data.path={data / 'cifar10_train.parquet'}",
        f"data.heldout_path={data / 'cifar10_test.parquet'}",
    ]


def find_data() -> Path | None:
    places = [os.environ.get("GANTK_DATA"), ROOT.parent / "shared" / "data"]
    return next((Path(p) for p in places if p and (Path(p) / "cifar10_train.parquet").is_file()), None)


def start(arguments: list[str], name: str) -> Turn:
    """Seconds from before the process was there until its first step was done."""
    command = [sys.executable, "-c", CHILD, "train", *arguments, f"name={name}", "tracking.wandb=disabled"]

    def run() -> None:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])

    return timed(run)


def measure(arguments: list[str], times: int = 5, others_may_use: float = 0.1) -> dict[str, Any]:
    """The medians over the starts that nobody disturbed, of up to three times `times`."""
    with own_folder():
        first = start(arguments, "first")
        kept: list[Turn] = []
        tried = 0
        while len(kept) < times and tried < 3 * times:
            tried += 1
            turn = start(arguments, f"again-{tried}")
            if turn.others <= others_may_use:
                kept.append(turn)
        if not kept:
            raise BusyMachineError(
                "every start was disturbed by other processes: run it again when the machine is idle"
            )
    return {
        "seconds_to_first_step": round(statistics.median(turn.wall for turn in kept), 2),
        "processor_seconds_to_first_step": round(statistics.median(turn.process for turn in kept), 2),
        "seconds_with_an_empty_cache": round(first.wall, 2),
        "goal_seconds": GOAL_S,
        "starts": len(kept),
        "starts_thrown_away": tried - len(kept),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="from the command to the end of the first step")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument(
        "--busy", action="store_true", help="in whatever company: then believe the processor time alone"
    )
    arguments = parser.parse_args()
    data = find_data()
    config = "dcgan_cifar10, parquet" if data else "quickstart (CIFAR-10 is not at hand)"
    found = {"config": config, **measure(arguments_for(data), arguments.times, float("inf") if arguments.busy else 0.1)}
    print(
        f"{config}: first step done after {found['seconds_to_first_step']} s, of which {found['processor_seconds_to_first_step']} s "
        f"of processor time ({found['starts']} starts)"
    )
    print(f"written to {records.write('start_busy' if arguments.busy else 'start', found)}")


if __name__ == "__main__":
    main()
