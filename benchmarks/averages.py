"""Batch-norm statistics of averaged networks: what estimating them anew changes in the scores, and what it costs.

    python -m benchmarks.averages --data FOLDER        # mnist_train.parquet, cifar10_train.parquet, and the _test ones

Three small runs on a processor, of minutes each (`--only bigan` for one): a DCGAN on MNIST, a conditional one on CIFAR-10,
and a BiGAN (Donahue et al. 2017) on MNIST, whose averaged encoder takes real images. At the end of each its averages are
scored with the statistics that they took over from the trained networks, and with those of
`gantk/training/reestimation.py`, from 1,024 samples (the toolkit's number) and from 16,384.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.config import load_config
from gantk.config.schema import Section
from gantk.networks import Family
from gantk.objectives import OBJECTIVES, Batch, Objective, Phase, Terms
from gantk.objectives.base import Networks
from gantk.scoring import build_evaluator, generated_images
from gantk.training import reestimation
from gantk.training.trainer import Trainer

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SAMPLES = 5000
MANY = 16_384


class BiGANConfig(Section):
    type: Literal["bench_bigan"] = "bench_bigan"
    width: int = 16


def _features(channels: int, width: int, norm: bool) -> list[nn.Module]:
    """[N, channels, 32, 32] to [N, 64 · width], halved three times."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
        layers.append(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=not norm))
        layers += [nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)] if norm else [nn.LeakyReLU(0.2)]
    return [*layers, nn.Flatten()]


class _Joint(nn.Module):
    """Logits of pairs of an image and a z."""

    def __init__(self, channels: int, width: int, latent_dim: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*_features(channels, width, norm=False))
        self.logit = nn.Sequential(nn.Linear(64 * width + latent_dim, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1))

    def forward(self, images: Tensor, z: Tensor) -> Tensor:
        logits: Tensor = self.logit(torch.cat([self.features(images), z], 1))[:, 0]
        return logits


@OBJECTIVES.register("bench_bigan")
class BiGAN(Objective):
    Config = BiGANConfig
    averaged = ("generator", "encoder")

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        encoder = [
            *_features(family.channels, config.width, norm=True),
            nn.Linear(64 * config.width, family.latent_dim),
        ]
        self.networks = {
            "generator": family.make("generator"),
            "encoder": nn.Sequential(*encoder),
            "discriminator": _Joint(family.channels, config.width, family.latent_dim),
        }
        self.phases = (
            Phase("d", ("discriminator",), self.discriminator_loss),
            Phase("ge", ("generator", "encoder"), self.players_loss, batch="same"),
        )

    def _logits(self, networks: Networks, batch: Batch) -> tuple[Tensor, Tensor]:
        z = self.latent(batch.shared("z"))
        judge = networks["discriminator"]
        real: Tensor = judge(batch.images, networks["encoder"](batch.images))
        fake: Tensor = judge(self.generate(networks, z), z)
        return real, fake

    def discriminator_loss(self, networks: Networks, batch: Batch) -> Terms:
        real, fake = self._logits(networks, batch)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        return Terms(loss, {"loss": loss.detach()})

    def players_loss(self, networks: Networks, batch: Batch) -> Terms:
        real, fake = self._logits(networks, batch)
        loss = F.softplus(real).mean() + F.softplus(-fake).mean()
        return Terms(loss, {"loss": loss.detach()})

    def run_averages(self, networks: Networks, z: Tensor, labels: Tensor | None, real: Callable[[], Batch]) -> None:
        super().run_averages(networks, z, labels, real)
        networks["encoder"](real().images)


def runs(data: Path) -> dict[str, tuple[Path, list[str], float]]:
    """A config, what is laid over it, and how long it is trained, by the run's name."""

    def source(name: str) -> str:
        paths = f"path: {data}/{name}_train.parquet, heldout_path: {data}/{name}_test.parquet"
        return f"data={{source: parquet, {paths}, resolution: 32}}"

    common = ["train.batch_size=64", "train.device=cpu", "train.precision='no'", "tracking.wandb=disabled"]
    common += [
        "tracking.progress=false",
        "samples.every_kimg=20",
        "evaluate.every_kimg=999",
        "checkpoint.every_kimg=999",
    ]
    mnist, cifar = [source("mnist"), *common], [source("cifar10"), *common]
    small = "network={type: dcgan, width: 32, latent_dim: 64}"
    conditional = "network={type: conditional_dcgan, width: 32, latent_dim: 64, hidden_dim: 64}"
    return {
        "dcgan-mnist": (CONFIGS / "dcgan_mnist.yaml", [*mnist, small], 60),
        "conditional-cifar10": (CONFIGS / "dcgan_cifar10.yaml", [*cifar, conditional], 60),
        "bigan-mnist": (CONFIGS / "dcgan_mnist.yaml", [*mnist, small, "objective={type: bench_bigan}"], 200),
    }


@torch.no_grad()
def _encoded(trainer: Trainer) -> dict[str, float]:
    """How far an encoder's z lie outside of where they are drawn, and how near G(E(x)) comes to x."""
    networks = trainer.averaged.networks
    if "encoder" not in networks:
        return {}
    images = trainer.batches.main.take(torch.arange(50_000, 51_000), None).images
    z = networks["encoder"](images)
    error = (networks["generator"](z, None) - images).abs().mean()
    return {"outside": float((z.abs() > 1).float().mean()), "reconstruction": float(error)}


def measure(config: Path, overrides: list[str], kimg: float) -> dict[str, Any]:
    """Train, then score the averages with copied statistics and with those that are estimated anew."""
    trainer = Trainer(load_config(config, [*overrides, f"train.kimg={kimg}", "name=run"]), resume="never")
    steps = []
    while not trainer.finished:
        start = time.process_time()
        trainer.train_step()
        steps.append(time.process_time() - start)
    # On photographs the classifier takes longer than the run.
    metrics = ("fd_pixel_pca", "fd_classifier") if trainer.dataset.channels == 1 else ("fd_pixel_pca",)
    evaluator = build_evaluator(
        trainer.dataset, device=torch.device("cpu"), batch_size=100, metrics=metrics, collapse=False
    )

    def score(name: str) -> dict[str, float]:
        report = evaluator.evaluate(cast("Any", generated_images(trainer.sampler, SAMPLES, name)))
        return {**{metric: report.metrics[metric]["value"] for metric in metrics}, **_encoded(trainer)}

    found = {"copied": score("copied")}
    for rows, name in ((reestimation.ROWS, "estimated"), (MANY, "from_many")):
        reestimation.ROWS = rows
        seconds = []
        for _ in range(3 if name == "estimated" else 1):
            trainer.reestimation = reestimation.Reestimation()
            start = time.process_time()
            trainer.reestimation.refresh(trainer)
            seconds.append(time.process_time() - start)
        found[name] = {**score(name), "seconds": statistics.median(seconds)}
    reestimation.ROWS = 1024
    trainer._record_end(None)
    between = trainer.config.samples.every_kimg * 1000 / trainer.config.train.batch_size * statistics.median(steps)
    return {**found, "step_seconds": statistics.median(steps), "share": found["estimated"]["seconds"] / between}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", default="", help="runs whose name has this in it")
    options = parser.parse_args()
    for name, (config, overrides, kimg) in runs(options.data).items():
        if options.only in name:
            with tempfile.TemporaryDirectory() as folder:
                os.environ["GANTK_RUNS"] = folder
                print(name, measure(config, overrides, kimg), flush=True)


if __name__ == "__main__":
    main()
