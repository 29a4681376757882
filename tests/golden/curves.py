"""Golden runs: the loss curves of tiny games, kept beside this file, against which a refactoring shows itself neutral.

    python tests/golden/curves.py            runs every game anew and says which curves differ
    python tests/golden/curves.py --write    … and keeps the new ones: say in the commit message why they moved

They run in float64 on one thread, where another machine, PyTorch or order of summation changes the sixteenth digit. All
weights changed in the tenth move no value by more than a tenth of `TOLERANCE`, and the mildest of the mistakes that were
tried moves one by a thousand times as much: `test_golden.py` holds both to account.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOLERANCE = 1e-5
"""The largest relative deviation of any value of a curve (of values below 1e-6, against 1e-6)."""

_COMMON = (
    "data.resolution=16", "network.width=4", "train.precision=float64", "train.kimg=0.512", "train.log_every_kimg=0.032",
    "optimizer.lr=1e-3",
    "samples.every_kimg=99", "checkpoint.every_kimg=99", "evaluate.every_kimg=99", "tracking.progress=false",
)  # fmt: skip
_NO_NORM = "network.discriminator_batch_norm=false"
GAMES: dict[str, tuple[str, ...]] = {
    "dcgan": ("data.flip=true",),
    "conditional_dcgan": (
        "network={type: conditional_dcgan, kernel_size: 5, hidden_dim: 16}",
        "optimizer.schedule={type: cosine, warmup_kimg: 0.1}",
        "optimizer.clip_norm=0.5",
    ),
    "wgan_gp": (
        "objective={type: gan, loss: wasserstein, discriminator_steps: 3}",
        "objective.regularization.gradient_penalty={}",
        "optimizer.betas=[0, 0.9]",
        _NO_NORM,
    ),
    "wgan": (
        "objective={type: gan, loss: wasserstein, regularization: {weight_clip: 0.01}}",
        "optimizer.type=rmsprop",
    ),
    "sngan": (
        "objective.loss=hinge",
        "network.spectral_norm=[generator, discriminator]",
        "network.attention=[8]",
        _NO_NORM,
    ),
    "r3gan": (
        "objective={type: gan, loss: relativistic}",
        "objective.regularization={r1: {gamma: 0.5, schedule: {type: cosine, end_kimg: 0.4}}, r2: {gamma: 0.5}}",
        "network.batch_norm=false",
    ),
    "diffaugment": (
        "objective={type: gan, loss: least_squares, augment: [color, translation, cutout]}",
        "objective.regularization.r1={gamma: 1, every: 4}",
        "train.accumulation=2",
        "network.batch_norm=false",
    ),
}
Curve = list[dict[str, float]]


def run(name: str, overrides: Sequence[str] = ()) -> Curve:
    """Train a game and give its curve, a row a step; needs `$GANTK_RUNS` to be a folder without it."""
    import torch

    from gantk.config import load_config
    from gantk.tracking import read_metrics
    from gantk.training.trainer import Trainer

    config = load_config(ROOT / "configs" / "tiny.yaml", [*_COMMON, f"name={name}", *GAMES[name], *overrides])
    threads = torch.get_num_threads()
    try:
        trainer = Trainer(config)
        trainer.train()
    finally:
        torch.set_num_threads(threads)
    rows = read_metrics(trainer.folder)
    return [{key: value for key, value in row.items() if not key.startswith("speed/")} for row in rows]


def kept(name: str) -> Curve:
    rows: Curve = json.loads((HERE / f"{name}.json").read_text())
    return rows


def deviation(one: Curve, other: Curve) -> tuple[float, str]:
    """The largest relative deviation between two curves, and where it is; infinite where they have other values at all."""
    if [row.keys() for row in one] != [row.keys() for row in other]:
        return float("inf"), "the curves do not have the same values"
    pairs = [
        (abs(a[key] - b[key]) / max(abs(a[key]), abs(b[key]), 1e-6), f"{key} at {a['progress/kimg']:g} kimg")
        for a, b in zip(one, other, strict=True)
        for key in a
    ]
    return max(pairs)


def main() -> int:
    write = "--write" in sys.argv[1:]
    names = [word for word in sys.argv[1:] if word != "--write"] or list(GAMES)
    differing = 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GANTK_RUNS"] = os.environ["GANTK_CACHE"] = folder
        for name in names:
            curve = run(name)
            file = HERE / f"{name}.json"
            size, where = deviation(kept(name), curve) if file.is_file() else (float("inf"), "there is none yet")
            print(f"{name}: {size:.1e} ({where})", file=sys.stderr)
            if size > TOLERANCE:
                differing += 1
                if write:
                    lines = ",\n".join(json.dumps(row) for row in curve)
                    file.write_text(f"[\n{lines}\n]\n")
    return int(bool(differing) and not write)


if __name__ == "__main__":
    sys.exit(main())
