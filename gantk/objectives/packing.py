"""Packing: the discriminator judges several samples at once, so that it sees a lack of variety (Lin et al. 2018, PacGAN).

A part that an objective composes: it asks `packed_discriminator` for its discriminator, and nothing else in its losses
changes.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from gantk.errors import ConfigError
from gantk.networks import Family


def pack(samples: Tensor, size: int) -> Tensor:
    """[N, C, H, W] → [N / size, size · C, H, W]: neighbours in the batch laid on top of each other.

    Raises:
        ValueError: where N is no multiple of `size`.
    """
    if len(samples) % size:
        raise ValueError(f"{len(samples)} samples do not divide into packs of {size}")
    return samples.reshape(len(samples) // size, size * samples.shape[1], *samples.shape[2:])


class Packed(nn.Module):
    """A discriminator of packs, called with single samples: [N, C, H, W] → logits [N / size]."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        logits: Tensor = self.network(pack(x, self.size), None)
        return logits

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Of each pack, the last layer before the logit."""
        features: Tensor = self.network.features(pack(x, self.size), None)  # type: ignore[operator]
        return features


def packed_discriminator(family: Family, size: int) -> nn.Module:
    """The family's discriminator for packs of `size` samples; with 1, the plain one.

    Raises:
        ConfigError: for a conditional family, whose labels belong to single samples.
    """
    if size == 1:
        return family.make("discriminator")
    if family.conditional:
        raise ConfigError(
            f"`objective.pack: {size}` does not go with `network.type: {family.config.type}`, whose discriminator takes the "
            "label of a single image: set `pack` to 1, or choose an unconditional network"
        )
    wide = copy.copy(family)
    wide.channels = family.channels * size
    return Packed(wide.make("discriminator"), size)
