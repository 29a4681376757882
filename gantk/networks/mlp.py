"""Fully connected networks, for points in the plane and small images: the GAN of the PacGAN protocol by default.

Lin, Khetan, Fanti and Oh 2018, as their published code has it: a generator of four layers of 400 units with batch norm and
ReLU, a discriminator of three maxout layers (Goodfellow et al. 2013) of 200 units with 5 pieces and no normalisation,
weights N(0, 0.02), biases zero.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from gantk.networks.family import NETWORKS, Family, LatentConfig


class MLPConfig(LatentConfig):
    type: Literal["mlp"] = "mlp"
    latent_dim: int = Field(2, ge=1)
    """Numbers in each z."""
    latent: Literal["uniform", "normal"] = "normal"
    """`uniform`: on [−1, 1). `normal`: N(0, I), as in the PacGAN protocol."""
    generator_hidden: tuple[int, ...] = Field((400, 400, 400, 400), min_length=1)
    """Units of the generator's hidden layers."""
    discriminator_hidden: tuple[int, ...] = Field((200, 200, 200), min_length=1)
    """Units of the discriminator's hidden layers."""
    maxout_pieces: int = Field(5, ge=1)
    """Linear maps of which each hidden unit of the discriminator takes the largest. 1: LeakyReLU(0.2) instead."""
    batch_norm: bool = True
    """In the generator."""
    output: Literal["linear", "tanh"] = "tanh"
    """What the generator ends in: `linear` for points, which have no bounds, `tanh` for images."""
    init_std: float = Field(0.02, gt=0)
    """Of the initial weights, normal with mean 0."""


class Maxout(nn.Module):
    """The largest of `pieces` linear maps for each of `units`: [N, inputs] → [N, units]."""

    def __init__(self, inputs: int, units: int, pieces: int) -> None:
        super().__init__()
        self.units, self.pieces = units, pieces
        self.linear = nn.Linear(inputs, units * pieces)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).view(len(x), self.units, self.pieces).amax(2)


def _initialise(network: nn.Module, std: float) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class MLPGenerator(nn.Module):
    def __init__(self, config: MLPConfig, channels: int, resolution: int) -> None:
        super().__init__()
        self.shape = (channels, resolution, resolution)
        layers: list[nn.Module] = []
        inputs = config.latent_dim
        for units in config.generator_hidden:
            layers.append(nn.Linear(inputs, units, bias=not config.batch_norm))
            if config.batch_norm:
                # Blocks' constants, in which the published results were made: PyTorch's differ.
                layers.append(nn.BatchNorm1d(units, eps=1e-4, momentum=0.05))
            layers.append(nn.ReLU())
            inputs = units
        layers.append(nn.Linear(inputs, channels * resolution * resolution))
        if config.output == "tanh":
            layers.append(nn.Tanh())
        self.layers = nn.Sequential(*layers)
        _initialise(self, config.init_std)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z [N, latent_dim] → samples [N, C, H, W]; points in the plane are [N, 2, 1, 1]."""
        return self.layers(z).view(len(z), *self.shape)


class MLPDiscriminator(nn.Module):
    def __init__(self, config: MLPConfig, channels: int, resolution: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels * resolution * resolution
        for units in config.discriminator_hidden:
            if config.maxout_pieces > 1:
                layers.append(Maxout(inputs, units, config.maxout_pieces))
            else:
                layers += [nn.Linear(inputs, units), nn.LeakyReLU(0.2)]
            inputs = units
        self.layers = nn.Sequential(*layers)
        self.logit = nn.Linear(inputs, 1)
        _initialise(self, config.init_std)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Samples [N, C, H, W] → logits [N]."""
        return self.logit(self.features(x)).flatten()

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The last layer before the logit, [N, units]."""
        features: Tensor = self.layers(x.flatten(1))
        return features


@NETWORKS.register("mlp")
class MLP(Family):
    Config = MLPConfig

    @classmethod
    def check_shape(cls, config: Any, resolution: int) -> None:
        """Any size will do."""

    def generator(self) -> nn.Module:
        return MLPGenerator(self.config, self.channels, self.resolution)

    def discriminator(self) -> nn.Module:
        return MLPDiscriminator(self.config, self.channels, self.resolution)
