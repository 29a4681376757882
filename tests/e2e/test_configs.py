"""Each config is built and trains: on synthetic data of its shape, and on its local twin where that is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import gantk
from gantk.config import load_config
from gantk.tracking import read_metrics
from gantk.training.trainer import Trainer

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
CHANNELS = dict.fromkeys(("dcgan_mnist", "cdcgan_mnist", "wgan_gp", "r3gan_small", "quickstart", "tiny"), 1)
NO_RECORDS = ("tracking.wandb=disabled", "tracking.progress=false", "evaluate.every_kimg=1000000")


def synthetic(path: Path, resolution: int, channels: int) -> Path:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (40, resolution, resolution, channels), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(40) % 10)
    return path


@pytest.mark.parametrize("file", CONFIGS, ids=lambda path: path.stem)
def test_two_steps_on_synthetic_data_of_its_shape(file: Path, tmp_path: Path) -> None:
    config = load_config(file)
    resolution = config.data.resolution
    here = "data.count=100"
    if config.data.source != "mixture":
        data = synthetic(tmp_path / "data.npz", resolution, CHANNELS.get(file.stem, 3))
        here = f"data={{source: npz, path: {data}, resolution: {resolution}}}"
    config = load_config(
        file, [here, "train.batch_size=4", "train.kimg=0.008", "train.threads=1", "collapse.action=warn", *NO_RECORDS]
    )
    trainer = Trainer(config)
    before = {name: [p.detach().clone() for p in net.parameters()] for name, net in trainer.runner.bare.items()}
    trainer.train()
    assert trainer.step == 2
    for name, network in trainer.runner.bare.items():
        assert any(not torch.equal(a, b) for a, b in zip(before[name], network.parameters(), strict=True)), name
    assert list((trainer.folder / "samples").glob("*.png"))


TWINS = {
    "dcgan_mnist": ("mnist", (28, 28, 1)),
    "cdcgan_mnist": ("mnist", (28, 28, 1)),
    "dcgan_cifar10": ("cifar10", (32, 32, 3)),
    "wgan_gp": ("mnist", (28, 28, 1)),
    "r3gan_small": ("mnist", (28, 28, 1)),
    "sngan": ("cifar10", (32, 32, 3)),
    "dcgan_diffaugment": ("cifar10", (32, 32, 3)),
}
SMALLER = {"wgan_gp", "r3gan_small", "sngan", "dcgan_diffaugment"}
"""Of a quarter of their width, or they would take minutes."""


@pytest.mark.realdata
@pytest.mark.parametrize("name", TWINS)
def test_real_twin_trains(name: str, request: pytest.FixtureRequest, project_root: Path) -> None:
    data, shape = TWINS[name]
    folder = request.getfixturevalue("real_mnist" if data == "mnist" else "real_data")
    run = gantk.train(
        project_root / "configs" / f"{name}.yaml",
        "data.source=parquet",
        f"data.path={folder / f'{data}_train.parquet'}",
        f"data.heldout_path={folder / f'{data}_test.parquet'}",
        "train.kimg=3.84",
        "train.threads=1",
        "train.log_every_kimg=0.64",
        *(["network.width=16"] if name in SMALLER else []),
        *NO_RECORDS,
    )
    rows = read_metrics(run.folder)
    assert rows[-1]["progress/kimg"] == 3.84
    # Thirty steps are enough for the discriminator to tell noise from images, most of the time.
    assert rows[-1]["d/loss"] < rows[0]["d/loss"]
    from gantk.runs import find_checkpoint
    from gantk.sampling import load_sampler

    sampler, config = load_sampler(find_checkpoint(str(run.folder)).checkpoint)
    images = sampler.images(np.arange(4))
    assert images.shape == (4, *shape)
    assert sampler.conditional == (config.network.type == "conditional_dcgan")
