"""DCGAN (Radford, Metz and Chintala 2016) and its class-conditional form, at any size of 4 … 7 times a power of two.

The paper's rules: strided convolutions for pooling, batch normalisation everywhere but at the generator's output and the
discriminator's input, ReLU and tanh in the generator, LeakyReLU 0.2 in the discriminator, weights from N(0, 0.02) and
batch-norm gains from N(1, 0.02). The conditional networks have a label, one-hot, concatenated to the input of every layer
(as the authors' MNIST code does, whose kernel of 5 and hidden layer of 1,024 `configs/cdcgan_mnist.yaml` has).
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.errors import ConfigError
from gantk.networks.family import NETWORKS, Family, LatentConfig
from gantk.networks.layers import SelfAttention, add_spectral_norm


class DCGANConfig(LatentConfig):
    type: Literal["dcgan"] = "dcgan"
    width: int = Field(64, ge=1)
    """Feature maps next to the image in both networks; they double with each halving of the size (paper's code: 128)."""
    discriminator_width: int | None = Field(None, ge=1)
    """Where the discriminator's is another."""
    max_channels: int = Field(1024, ge=1)
    """Feature maps double up to this many."""
    kernel_size: Literal[4, 5] = 4
    """Of the strided convolutions; the base layers span the whole base."""
    batch_norm: bool = True
    """Batch normalisation in both networks, but at the generator's output and the discriminator's input."""
    discriminator_batch_norm: bool | None = None
    """Where the discriminator is to be another. Gradient penalties and spectral norm want it without."""
    spectral_norm: tuple[Literal["generator", "discriminator"], ...] = ()
    """The networks whose weights are divided by their largest singular value (SNGAN: the discriminator; SAGAN: both)."""
    attention: tuple[int, ...] = ()
    """The sides of the feature maps, in pixels, on which self-attention follows in both networks (SAGAN)."""
    hidden_dim: int = Field(0, ge=0)
    """Units of a fully connected layer between latent and feature maps, and feature maps and logit. 0: none."""

    @property
    def norm_in_discriminator(self) -> bool:
        return self.batch_norm if self.discriminator_batch_norm is None else self.discriminator_batch_norm

    @model_validator(mode="after")
    def _bounded(self) -> DCGANConfig:
        if "discriminator" in self.spectral_norm and self.norm_in_discriminator:
            raise ValueError(
                "`spectral_norm` bounds the discriminator's slope, and its batch norm takes the bound away: set "
                "`discriminator_batch_norm` to false"
            )
        return self


class ConditionalDCGANConfig(DCGANConfig):
    type: Literal["conditional_dcgan"] = "conditional_dcgan"  # type: ignore[assignment]


def base_and_levels(resolution: int) -> tuple[int, int]:
    """`resolution` = base · 2^levels with a base of 4 … 7.

    Raises:
        ConfigError: where there is no such pair; the two nearest sizes that have one are named.
    """

    def split(size: int) -> tuple[int, int] | None:
        base, levels = size, 0
        while base > 7 and base % 2 == 0:
            base, levels = base // 2, levels + 1
        return (base, levels) if 4 <= base <= 7 and levels >= 1 else None

    found = split(resolution)
    if found is None:
        below = next((size for size in range(resolution, 7, -1) if split(size)), None)
        above = next(size for size in range(max(resolution, 8), 4096) if split(size))
        near = f"{below} or {above}" if below else str(above)
        raise ConfigError(
            f"`data.resolution: {resolution}` is not 4 … 7 times a power of two, which is what DCGAN can make: use {near}"
        )
    return found


def _attention(config: DCGANConfig, side: int, channels: int) -> nn.Module | None:
    return SelfAttention(channels) if side in config.attention else None


def _initialise(network: nn.Module, spectral_norm: bool) -> None:
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
    if spectral_norm:
        add_spectral_norm(network)


def _widths(width: int, levels: int, most: int) -> list[int]:
    """Feature maps from the image inwards, one for each halving."""
    return [min(width * 2**level, most) for level in range(levels)]


def _with_labels(linear: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Apply `linear` to x with the one-hot labels int64 [N] as further columns or constant feature maps behind its own.

    A one-hot map meets a single slice of the weights, so its response is computed once a class and picked by label: on CPUs
    half of what the maps cost when they are joined to x.
    """
    own = x.shape[1]
    if isinstance(linear, nn.Linear):
        return F.linear(x, linear.weight[:, :own], linear.bias) + linear.weight[:, own:].t()[labels]
    transposed = isinstance(linear, nn.ConvTranspose2d)
    assert isinstance(linear, (nn.Conv2d, nn.ConvTranspose2d))
    weight = linear.weight if transposed else linear.weight.transpose(0, 1)  # [inputs, outputs, k, k]
    of_classes = weight[own:]
    if len(of_classes) > len(labels):
        of_classes, labels = of_classes[labels], torch.arange(len(labels), device=labels.device)
    kernels = of_classes.flatten(0, 1)[None]  # every class's outputs, side by side, from one constant map
    constant = x.new_ones(1, 1, *x.shape[2:])
    stride, padding = linear.stride, cast(tuple[int, ...], linear.padding)
    if transposed:
        more = linear.output_padding
        y = F.conv_transpose2d(x, weight[:own], linear.bias, stride, padding, more)
        response = F.conv_transpose2d(constant, kernels, None, stride, padding, more)
    else:
        y = F.conv2d(x, weight[:own].transpose(0, 1), linear.bias, stride, padding)
        response = F.conv2d(constant, kernels.transpose(0, 1), None, stride, padding)
    return y + response.unflatten(1, of_classes.shape[:2])[0].index_select(0, labels)


class _Layer(nn.Module):
    """A linear map, its normalisation, its activation and self-attention. The labels join the input, where there are any."""

    def __init__(
        self,
        linear: nn.Module,
        norm: nn.Module | None,
        activation: nn.Module | None,
        attention: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.linear, self.norm, self.activation, self.attention = linear, norm, activation, attention

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        x = self.linear(x) if labels is None else _with_labels(self.linear, x, labels)
        if self.norm is not None:
            x = self.norm(x)
        x = x if self.activation is None else self.activation(x)
        return x if self.attention is None else self.attention(x)


class DCGANGenerator(nn.Module):
    def __init__(self, config: DCGANConfig, channels: int, resolution: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        base, levels = base_and_levels(resolution)
        outwards = _widths(config.width, levels, config.max_channels)[::-1]
        normed, kernel = config.batch_norm, config.kernel_size
        self.hidden: _Layer | None = None
        inputs = config.latent_dim
        if config.hidden_dim:
            linear = nn.Linear(inputs + classes, config.hidden_dim, bias=not normed)
            self.hidden = _Layer(linear, nn.BatchNorm1d(config.hidden_dim) if normed else None, nn.ReLU())
            inputs = config.hidden_dim
        # On a 1×1 input a transposed convolution of the base's size is the paper's "project and reshape".
        project = nn.ConvTranspose2d(inputs + classes, outwards[0], base, bias=not normed)
        norm = nn.BatchNorm2d(outwards[0]) if normed else None
        self.project = _Layer(project, norm, nn.ReLU(), _attention(config, base, outwards[0]))
        self.layers = nn.ModuleList()
        for before, after in zip(outwards, [*outwards[1:], channels], strict=True):
            last = len(self.layers) == levels - 1
            up = nn.ConvTranspose2d(
                before + classes,
                after,
                kernel,
                2,
                kernel // 2 - 1 + kernel % 2,
                kernel % 2,
                bias=last or not normed,
            )
            norm = nn.BatchNorm2d(after) if normed and not last else None
            attention = None if last else _attention(config, base * 2 ** (len(self.layers) + 1), after)
            self.layers.append(_Layer(up, norm, nn.Tanh() if last else nn.ReLU(), attention))
        _initialise(self, spectral_norm="generator" in config.spectral_norm)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z [N, latent_dim], labels int64 [N] → images [N, C, H, W] in [−1, 1]."""
        labels = labels if self.classes else None
        x = z if self.hidden is None else self.hidden(z, labels)
        x = self.project(x[:, :, None, None], labels)
        for layer in self.layers:
            x = layer(x, labels)
        return x


class DCGANDiscriminator(nn.Module):
    def __init__(self, config: DCGANConfig, channels: int, resolution: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        base, levels = base_and_levels(resolution)
        inwards = _widths(config.discriminator_width or config.width, levels, config.max_channels)
        normed, kernel = config.norm_in_discriminator, config.kernel_size
        self.layers = nn.ModuleList()
        for before, after in zip([channels, *inwards[:-1]], inwards, strict=True):
            first = not self.layers
            down = nn.Conv2d(before + classes, after, kernel, 2, (kernel - 1) // 2, bias=first or not normed)
            norm = nn.BatchNorm2d(after) if normed and not first else None
            attention = _attention(config, resolution // 2 ** (len(self.layers) + 1), after)
            self.layers.append(_Layer(down, norm, nn.LeakyReLU(0.2), attention))
        self.hidden: _Layer | None = None
        if config.hidden_dim:
            linear = nn.Conv2d(inwards[-1] + classes, config.hidden_dim, base, bias=not normed)
            norm = nn.BatchNorm2d(config.hidden_dim) if normed else None
            self.hidden = _Layer(linear, norm, nn.LeakyReLU(0.2))
            self.logit = _Layer(nn.Conv2d(config.hidden_dim + classes, 1, 1), None, None)
        else:
            self.logit = _Layer(nn.Conv2d(inwards[-1] + classes, 1, base), None, None)
        _initialise(self, spectral_norm="discriminator" in config.spectral_norm)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images [N, C, H, W] in [−1, 1], labels int64 [N] → logits [N]."""
        return self.logit(self.features(x, labels), labels if self.classes else None).flatten()

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The last feature maps before the logit, [N, F, h, w]."""
        labels = labels if self.classes else None
        for layer in self.layers:
            x = layer(x, labels)
        return x if self.hidden is None else self.hidden(x, labels)


@NETWORKS.register("dcgan")
class DCGAN(Family):
    Config = DCGANConfig

    @classmethod
    def check_shape(cls, config: Any, resolution: int) -> None:
        base, levels = base_and_levels(resolution)
        sides = [base * 2**level for level in range(levels)]
        asked = config.attention if isinstance(config, DCGANConfig) else ()
        if unknown := [side for side in asked if side not in sides]:
            raise ConfigError(
                f"`network.attention` names feature maps of {unknown[0]} pixels, and these networks have "
                f"{', '.join(map(str, sides))}: name some of those"
            )

    def generator(self) -> nn.Module:
        return DCGANGenerator(self.config, self.channels, self.resolution, self.num_classes or 0)

    def discriminator(self) -> nn.Module:
        return DCGANDiscriminator(self.config, self.channels, self.resolution, self.num_classes or 0)


@NETWORKS.register("conditional_dcgan")
class ConditionalDCGAN(DCGAN):
    Config = ConditionalDCGANConfig
    conditional = True
