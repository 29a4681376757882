"""How much more a step of the conditional DCGAN costs than the unconditional one's: `python -m benchmarks.conditional`.

Three trainers take turns in one process on one thread, on the same random images of ten classes: `dcgan`,
`conditional_dcgan` with its defaults, and with the kernel and the hidden layer of the authors' MNIST code. The figures are of
processor time, in whatever company.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.timing import compare
from gantk.config import parse_config
from gantk.training.trainer import Trainer

NETWORKS: dict[str, dict[str, Any]] = {
    "dcgan": {"type": "dcgan"},
    "conditional": {"type": "conditional_dcgan"},
    "paper": {"type": "conditional_dcgan", "kernel_size": 5, "hidden_dim": 1024},
}


def measure(side: int, channels: int, width: int, batch_size: int, rounds: int, steps: int = 4) -> dict[str, float]:
    """Milliseconds of a step of each kind, and the ratios of the conditional ones to `dcgan`: medians over the rounds."""
    with tempfile.TemporaryDirectory() as place:
        os.environ |= {"GANTK_RUNS": f"{place}/runs", "GANTK_CACHE": f"{place}/cache"}
        rng = np.random.default_rng(0)
        count = max(600, 2 * batch_size)
        images = rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8)
        np.savez(f"{place}/images.npz", images=images, labels=np.arange(count) % 10)
        trainers: dict[str, Trainer] = {}
        for name, network in NETWORKS.items():
            config = {
                "name": name,
                "data": {"source": "npz", "path": f"{place}/images.npz", "resolution": side},
                "network": {"width": width, **network},
                "objective": {"type": "gan"},
                "train": {"kimg": 1000, "batch_size": batch_size, "threads": 1, "device": "cpu", "precision": "no"},
                "evaluate": {"every_kimg": 10000},
                "tracking": {"wandb": "disabled", "progress": False},
            }
            trainers[name] = Trainer(parse_config(config))

        def turn(trainer: Trainer) -> None:
            for _ in range(steps):
                trainer.train_step()

        turns = {name: partial(turn, trainer) for name, trainer in trainers.items()}
        found = compare(turns, rounds=rounds, others_may_use=float("inf"))
        for trainer in trainers.values():
            trainer._record_end(None)
    return {
        **{f"{name}_ms": round(1e3 * found.process_seconds(name) / steps, 1) for name in NETWORKS},
        **{f"{name}_to_dcgan": round(found.process_ratio(name, "dcgan"), 2) for name in ("conditional", "paper")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    figures = {
        "28x28x1_width_32_batch_64": measure(28, 1, 32, 64, rounds),
        "32x32x3_width_64_batch_64": measure(32, 3, 64, 64, rounds),
    }
    for name, found in figures.items():
        print(name, found)
    print(records.write("conditional_busy", figures))


if __name__ == "__main__":
    main()
