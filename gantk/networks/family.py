"""What every network family has: a config, an image shape, a latent distribution, and a method for each network."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gantk.config.schema import Section
from gantk.draws import Draws
from gantk.errors import ConfigError, UserError
from gantk.registry import Registry


class LatentConfig(Section):
    """The latent z of a generator; a family's config extends it."""

    latent_dim: int = Field(100, ge=1)
    """Numbers in each z."""
    latent: Literal["uniform", "normal"] = "uniform"
    """`uniform`: on [−1, 1), as in DCGAN. `normal`: N(0, I)."""


class Family:
    """The networks of one kind for one image shape.

    A game asks for networks by their role: `family.make("generator")` calls the method `generator()`. Generators take
    `(z [N, latent_dim], labels int64 [N] or None)` and give images [N, C, H, W] in [−1, 1]; discriminators take
    `(images, labels)` and give logits [N].
    """

    Config: ClassVar[type[Section]]
    conditional: ClassVar[bool] = False
    """Whether its networks use labels."""

    def __init__(self, config: Any, *, channels: int, resolution: int, num_classes: int | None) -> None:
        if self.conditional and not num_classes:
            raise ConfigError(
                f"`network.type: {config.type}` is conditional, but the data has no labels: sort the images into class "
                "sub-folders, name `data.label_column`, or choose `network.type: dcgan`"
            )
        self.config, self.channels, self.resolution = config, channels, resolution
        self.num_classes = num_classes if self.conditional else None

    @classmethod
    def check_shape(cls, config: Any, resolution: int) -> None:
        """Raises `ConfigError` for a size that these networks cannot make."""

    @property
    def latent_dim(self) -> int:
        return int(self.config.latent_dim)

    def make(self, role: str) -> nn.Module:
        build = getattr(self, role, None)
        if build is None:
            raise ConfigError(
                f"`network.type: {self.config.type}` has no {role}, which the objective needs: choose another network"
            )
        network: nn.Module = build()
        return network

    def draw_latent(self, draws: Draws, truncation: float = 1.0) -> Tensor:
        """Draw z [N, latent_dim], from `draws`.

        Args:
            truncation: scales a normal z, so that it lies nearer the centre, where most of what was trained on lay: samples are
                less varied and often cleaner (1: as trained; 0: the centre alone).

        Raises:
            UserError: for truncation other than 1 of a uniform z. It was trained on everywhere alike, so there are no rare z to
                leave out, and a smaller cube is a part of it where networks only blur.
        """
        if self.config.latent == "uniform":
            if truncation != 1.0:
                raise UserError(
                    f"`--truncation {truncation:g}` does not go with `network.latent: uniform`, which this model was trained on: no "
                    "z is rarer than another, and a narrower range only blurs the samples; leave it out, or train with "
                    "network.latent=normal"
                )
            z = draws.uniform(self.latent_dim, low=-1.0, high=1.0)
        else:
            z = draws.normal(self.latent_dim)
        return z * truncation if truncation != 1.0 else z


def one_hot(labels: Tensor, classes: int, like: Tensor) -> Tensor:
    """[N, classes] in the dtype of `like`."""
    # torch's own lets the host look for the largest label, and so wait for it.
    return (labels[:, None] == torch.arange(classes, device=labels.device)).to(like.dtype)


NETWORKS: Registry[type[Family]] = Registry("network", "gantk.networks")
