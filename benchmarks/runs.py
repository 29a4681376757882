"""Trainers for benchmarks: a run of its own in a temporary folder, on images made up on the spot."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from gantk.training.trainer import Trainer

NEVER = 1e6


def made_up_images(count: int, resolution: int) -> Tensor:
    """uint8 [count, 3, resolution, resolution]: noise, for what is in a picture does not change what it costs."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, resolution, resolution), dtype=torch.uint8, generator=generator)


def write_npz(images: Tensor, path: Path) -> Path:
    np.savez(path, images=images.permute(0, 2, 3, 1).numpy())
    return path


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder that holds runs and cache while it lasts, whatever the user's own are."""
    names = ("GANTK_RUNS", "GANTK_CACHE")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="gantk-benchmark-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        os.environ["GANTK_RUNS"], os.environ["GANTK_CACHE"] = str(folder / "runs"), str(folder / "cache")
        try:
            yield folder
        finally:
            for variable, value in before.items():
                if value is None:
                    os.environ.pop(variable, None)
                else:
                    os.environ[variable] = value


def config_text(name: str, data: Path, resolution: int, batch_size: int, precision: str, **train: object) -> str:
    """A config of DCGAN at width 64 that logs as usual and never samples, scores or saves."""
    more = "".join(f", {key}: {str(value).lower()}" for key, value in train.items())
    return f"""
name: {name}
data: {{source: npz, path: "{data}", resolution: {resolution}, heldout_fraction: 0.01}}
network: {{type: dcgan, width: 64}}
objective: {{type: gan}}
train: {{kimg: {NEVER}, batch_size: {batch_size}, precision: "{precision}"{more}}}
samples: {{every_kimg: {NEVER}}}
evaluate: {{every_kimg: {2 * NEVER}}}
checkpoint: {{every_kimg: {NEVER}}}
tracking: {{wandb: disabled, progress: false}}
"""


def trainer_for(
    folder: Path, name: str, data: Path, resolution: int, batch_size: int, precision: str, **train: object
) -> Trainer:
    """A trainer before its first step; `train` are further keys of that section."""
    from gantk.config import load_config
    from gantk.training.trainer import Trainer

    file = folder / f"{name}.yaml"
    file.write_text(config_text(name, data, resolution, batch_size, precision, **train))
    return Trainer(load_config(file), resume="never")


def steps_of(trainer: Trainer, count: int) -> None:
    """As `Trainer.train` goes through them: hooks, and so logging, included."""
    for _ in range(count):
        trainer.train_step()
        for hook in trainer.hooks:
            hook.after_step(trainer)
