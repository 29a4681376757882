"""The two-player game of Goodfellow et al. 2014, with any of the adversarial losses, with or without labels."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from gantk.config.schema import Section
from gantk.losses import LOSSES
from gantk.networks import Family
from gantk.objectives.base import OBJECTIVES, Batch, Networks, Objective, Phase, Terms
from gantk.objectives.packing import packed_discriminator


class GANConfig(Section):
    type: Literal["gan"] = "gan"
    loss: Literal["nonsaturating", "minimax", "least_squares", "hinge", "wasserstein"] = "nonsaturating"
    """The adversarial loss. `wasserstein` needs a Lipschitz constraint on the discriminator to mean anything."""
    discriminator_steps: int = Field(1, ge=1)
    """Updates of the discriminator for each of the generator."""
    pack: int = Field(1, ge=1, le=16)
    """Samples that the discriminator judges at once (PacGAN); `train.batch_size` counts single samples."""


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
        self.phases = (
            Phase("d", ("discriminator",), self.discriminator_loss, repeats=config.discriminator_steps),
            Phase("g", ("generator",), self.generator_loss, batch="same"),
        )

    @classmethod
    def group(cls, config: Any) -> int:
        return int(config.pack)

    def fake(self, networks: Networks, batch: Batch) -> Tensor:
        """Images generated for the rows of `batch`, of the same classes as its real ones."""
        return self.generate(networks, self.latent(batch.draw("z")), self.labels(batch))

    def labels(self, batch: Batch) -> Tensor | None:
        return batch.labels if self.family.conditional else None

    def discriminator_loss(self, networks: Networks, batch: Batch) -> Terms:
        labels = self.labels(batch)
        with torch.no_grad():
            fake_images = self.fake(networks, batch)
        # Real and fake go through the discriminator apart: its batch statistics would mix in one batch.
        real = networks["discriminator"](batch.images, labels)
        fake = networks["discriminator"](fake_images, labels)
        on_real, on_fake = self.adversarial.discriminator(real, fake)
        loss = on_real.mean() + on_fake.mean()
        return Terms(loss, {"loss": loss.detach(), **self._belief("real", real), **self._belief("fake", fake)})

    def generator_loss(self, networks: Networks, batch: Batch) -> Terms:
        logits = networks["discriminator"](self.fake(networks, batch), self.labels(batch))
        loss = self.adversarial.generator(logits).mean()
        return Terms(loss, {"loss": loss.detach(), **self._belief("fake", logits)})

    def _belief(self, name: str, logits: Tensor) -> dict[str, Tensor]:
        """D(x) averaged over the batch: the probability of being real, where the loss makes it one, or the logit."""
        logits = logits.detach()
        return {name: (logits.sigmoid() if self.adversarial.probabilistic else logits).mean()}
