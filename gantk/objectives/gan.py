"""The two-player game of Goodfellow et al. 2014, with any of the adversarial losses, with or without labels."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from gantk.augmentation import DiffAugment, Kind
from gantk.config.schema import Section
from gantk.errors import ConfigError
from gantk.losses import LOSSES
from gantk.networks import Family
from gantk.objectives.base import OBJECTIVES, Batch, Networks, Objective, Phase, Terms
from gantk.objectives.packing import packed_discriminator
from gantk.regularizers import Critic, Regularization, RegularizationConfig


class GANConfig(Section):
    type: Literal["gan"] = "gan"
    loss: Literal["nonsaturating", "minimax", "least_squares", "hinge", "wasserstein", "relativistic"] = "nonsaturating"
    """The adversarial loss. `wasserstein` needs a Lipschitz constraint on the discriminator to mean anything.
    `relativistic` judges each generated image against a real one; its generator step plays on fresh real images."""
    discriminator_steps: int = Field(1, ge=1)
    """Updates of the discriminator for each of the generator."""
    pack: int = Field(1, ge=1, le=16)
    """Samples that the discriminator judges at once (PacGAN); `train.batch_size` counts single samples."""
    reuse_fakes: bool = True
    """The generator learns from the images that the discriminator has just learnt from, as in the official PyTorch
    example, which saves it a pass; with `false` from new ones, as in Goodfellow et al. 2014, algorithm 1. (`relativistic`
    always takes new ones.)"""
    regularization: RegularizationConfig = RegularizationConfig()
    """Penalties on the discriminator's slope, and weight clipping."""
    augment: tuple[Kind, ...] = ()
    """DiffAugment: the random changes through which the discriminator sees all images, real and generated."""


@OBJECTIVES.register("gan")
class GAN(Objective):
    Config = GANConfig

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        self.networks = {
            "generator": family.make("generator"),
            "discriminator": packed_discriminator(family, config.pack),
        }
        self.adversarial = LOSSES[config.loss]
        if config.augment and family.resolution < 4:
            raise ConfigError("`objective.augment` changes images, and the data are points: leave it out")
        self.augment = DiffAugment(config.augment)
        trains = ("discriminator",)
        self.reuse = config.reuse_fakes and not self.adversarial.paired
        self.regularization = Regularization(
            config.regularization, self.networks["discriminator"], self.critic, self.fake
        )
        if config.loss == "wasserstein" and not self.regularization.bounds_slope:
            self.advice = (
                "`objective.loss: wasserstein` has nothing here that bounds the discriminator's slope, so its loss falls without "
                "end and measures nothing: give `objective.regularization.gradient_penalty` (as in configs/wgan_gp.yaml), "
                "`weight_clip`, or `network.spectral_norm`"
            )
        self.phases = (
            Phase(
                "d",
                trains,
                self.discriminator_loss,
                repeats=config.discriminator_steps,
                after_update=self.regularization.after_update(trains),
                leaves=("generator",) if self.reuse else (),
            ),
            *self.regularization.phases(trains, optimizer="d"),
            Phase("g", ("generator",), self.generator_loss, batch="new" if self.adversarial.paired else "same"),
        )

    @classmethod
    def group(cls, config: Any) -> int:
        return int(config.pack)

    def fake(self, networks: Networks, batch: Batch) -> Tensor:
        """Images generated for the rows of `batch`, of the same classes as its real ones."""
        return self.generate(networks, self.latent(batch.draw("z")), self.labels(batch))

    def labels(self, batch: Batch) -> Tensor | None:
        return batch.labels if self.family.conditional else None

    def judge(self, networks: Networks, images: Tensor, labels: Tensor | None = None) -> Tensor:
        logits: Tensor = networks["discriminator"](images, labels if self.family.conditional else None)
        return logits

    def critic(self, networks: Networks, batch: Batch, what: str) -> Critic:
        """What gives logits to images of the rows of `batch`, as the discriminator sees them."""
        labels = self.labels(batch)

        def judge(images: Tensor) -> Tensor:
            logits: Tensor = networks["discriminator"](self.augment(images, batch.draw, what), labels)
            return logits

        return judge

    def discriminator_loss(self, networks: Networks, batch: Batch) -> Terms:
        z = self.latent(batch.draw("z"))
        fake_images = self.generate(networks, z, self.labels(batch))
        if self.reuse:
            batch.left["z"] = z
            if fake_images.requires_grad:
                batch.left["fake"] = fake_images
        # Real and fake go through the discriminator apart: its batch statistics would mix in one batch.
        real = self.regularization.judge(networks, batch, batch.images, "real")
        fake = self.regularization.judge(networks, batch, fake_images.detach(), "fake")
        on_real, on_fake = self.adversarial.discriminator(real.logits, fake.logits)
        loss = on_real.mean() + on_fake.mean()
        penalty, log = self.regularization.penalty(networks, batch, real, fake)
        beliefs = {**self._belief("real", real.logits), **self._belief("fake", fake.logits)}
        return Terms(loss + penalty, {"loss": loss.detach(), **log, **beliefs})

    def generator_loss(self, networks: Networks, batch: Batch) -> Terms:
        fake = self.critic(networks, batch, "fake")(self._fake_to_learn_from(networks, batch))
        if self.adversarial.paired:
            with torch.no_grad():
                real = self.critic(networks, batch, "real")(batch.images)
            loss = self.adversarial.generator(fake, real).mean()
        else:
            loss = self.adversarial.generator(fake).mean()
        return Terms(loss, {"loss": loss.detach(), **self._belief("fake", fake)})

    def _fake_to_learn_from(self, networks: Networks, batch: Batch) -> Tensor:
        """Taken, not looked at: its graph would lie in memory until the next step."""
        fake_images = batch.left.pop("fake", None)
        if fake_images is not None:
            return fake_images
        z = batch.left.get("z")
        if z is None:
            return self.fake(networks, batch)
        return self.generate(networks, z, self.labels(batch))

    def _belief(self, name: str, logits: Tensor) -> dict[str, Tensor]:
        """D(x) averaged over the batch: the probability of being real, where the loss makes it one, or the logit."""
        logits = logits.detach()
        return {name: (logits.sigmoid() if self.adversarial.probabilistic else logits).mean()}
