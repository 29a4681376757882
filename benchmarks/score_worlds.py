"""What each score sees and hides, on sets of CIFAR-10 images whose faults are known. Features: pixels (no weights).

python -m benchmarks.score_worlds FOLDER     # with cifar10_train.parquet and cifar10_test.parquet
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from gantk_eval import ArrayImages, Evaluator, open_images

from benchmarks.records import write

COUNT = 2000
KINDS = ("fd", "precision", "recall", "density", "coverage", "vendi")


def main(folder: str) -> None:
    train, test = (open_images(Path(folder) / f"cifar10_{split}.parquet") for split in ("train", "test"))
    assert test.labels is not None
    real = train.read(range(10_000))
    heldout, others = test.read(range(COUNT)), test.read(range(COUNT, 10_000))
    labels = test.labels[COUNT:]
    whole = others[:COUNT].astype(float)
    blurred = sum(np.roll(whole, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    worlds = {
        "other real images": whole,
        "blurred": blurred,
        "noisy": whole + np.random.default_rng(0).normal(0, 30, whole.shape),
        "five classes only": others[labels < 5][:COUNT],
        "100 images, 20 times": np.repeat(whole[:100], 20, axis=0),
        "training images": real[:COUNT],
    }
    evaluator = Evaluator(ArrayImages(real), ArrayImages(heldout), metrics=[f"{k}_pixel_pca" for k in KINDS])
    found = {}
    print("| images | " + " | ".join(KINDS) + " | collapse | memorisation |\n|" + "---|" * (len(KINDS) + 3))
    for name, pixels in worlds.items():
        report = evaluator.evaluate(ArrayImages(np.clip(pixels, 0, 255).astype(np.uint8)))
        entries = [report.metrics[f"{kind}_pixel_pca"] for kind in KINDS]
        if name == "other real images":
            print("| *floor* | " + " | ".join(f"{e['floor']:.3g}" for e in entries) + " | | |")
        found[name] = {
            "scores": report.metrics,
            "collapse": report.verdict,
            "memorisation": report.memorisation["verdict"],
        }
        cells = " | ".join(f"{e['value']:.3g} ± {e['standard_error']:.1g}" for e in entries)
        print(f"| {name} | {cells} | {report.verdict} | {report.memorisation['verdict']} |", flush=True)
    write("score_worlds", {"images": COUNT, "reference": len(real), "heldout": len(heldout), "worlds": found})


if __name__ == "__main__":
    main(sys.argv[1])
