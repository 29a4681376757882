"""What the evaluation of Stacked MNIST says of stacks of real digits, whose modes are known.

python -m benchmarks.stacked_worlds FOLDER     # with mnist_train.parquet and mnist_test.parquet

The classifier learns from the training digits, as in a run; the stacks are made of test digits, which it never saw.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from gantk_eval import ArrayImages
from gantk_eval.stacked import MODES

from benchmarks.records import write
from gantk.config.schema import DataConfig
from gantk.data import open_dataset
from gantk.scoring import build_evaluator

COUNT = 26_000
KEPT = 300


def main(folder: str) -> None:
    paths = {
        f"{name}path": str(Path(folder) / f"mnist_{part}.parquet")
        for name, part in (("", "train"), ("heldout_", "test"))
    }
    dataset = open_dataset(DataConfig(source="stacked_mnist", resolution=28, **paths))
    evaluator = build_evaluator(dataset, device="cpu", batch_size=500)  # type: ignore[arg-type]
    pool = dataset.heldout.read(np.arange(len(dataset.heldout)))
    labels = dataset.heldout.labels
    assert labels is not None
    generator = np.random.default_rng(0)

    def stacks(allowed: np.ndarray) -> np.ndarray:
        """New stacks of the test digits in `pool`, of the allowed modes: as many different ones as one asks for."""
        modes = generator.choice(np.flatnonzero(allowed), COUNT)
        channels = []
        for channel, digits in enumerate((modes // 100, modes // 10 % 10, modes % 10)):
            of = (labels // (100, 10, 1)[channel]) % 10
            places = [np.flatnonzero(of == digit) for digit in range(10)]
            rows = np.array([generator.choice(places[digit]) for digit in digits])
            channels.append(pool[rows, :, :, channel])
        return np.stack(channels, axis=3)

    everything = np.ones(MODES, dtype=bool)
    kept = np.isin(np.arange(MODES), generator.permutation(MODES)[:KEPT])
    real = stacks(everything)
    worlds = {
        "real digits, every mode": real,
        f"{KEPT} modes": stacks(kept),
        "no 7 in the first channel": stacks(np.arange(MODES) // 100 != 7),
        "500 images repeated": np.repeat(real[:500], COUNT // 500, axis=0),
        "faded to a quarter": real // 4,
        "noise": generator.integers(0, 256, real.shape, dtype=np.uint8),
    }
    found = {}
    print("| stacks | modes | as read | KL | verdict |\n|---|---|---|---|---|")
    for name, pixels in worlds.items():
        report = evaluator.evaluate(ArrayImages(pixels))
        metrics = report.metrics
        found[name] = {"scores": metrics, "collapse": report.verdict, "reasons": report.collapse["reasons"][:5]}
        values = [metrics[key]["value"] for key in ("modes", "modes_raw", "reverse_kl")]
        print(f"| {name} | {values[0]} | {values[1]} | {values[2]:.4f} | {report.verdict} |", flush=True)
    floor = found["real digits, every mode"]["scores"]["reverse_kl"]
    print(f"floor of the KL: {floor['floor']:.4f} [{floor['floor_low']:.4f}, {floor['floor_high']:.4f}]")
    write("stacked_worlds", {"stacks": COUNT, "classifier_accuracy": evaluator.classifier.accuracy, "worlds": found})  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(sys.argv[1])
