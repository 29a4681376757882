"""Layers that network families share: spectral normalisation and self-attention."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class SpectralNorm(nn.Module):
    """A weight divided by its largest singular value, found by power iteration (Miyato et al. 2018, section 2 and appendix A).

    The iteration goes one step on after each update of the weight and not in each forward pass: all passes of an update,
    over real and fake images and over micro-batches, are then of one and the same function, and the singular vectors
    (buffers, part of a checkpoint) are equal on all processes. In full precision, whatever the network runs in.

    Args:
        weight: [out, in, …], or [in, out, …] of a transposed convolution.
        transposed: whether it is the latter.
        iterations: power iterations on the initial weight.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor, transposed: bool = False, iterations: int = 30) -> None:
        super().__init__()
        self.transposed = transposed
        with torch.no_grad():
            matrix = self._matrix(weight)
            self.register_buffer("left", nn.functional.normalize(torch.randn_like(matrix[:, 0]), dim=0))
            self.register_buffer("right", torch.zeros_like(matrix[0]))
            for _ in range(iterations):
                self.iterate(weight)

    def _matrix(self, weight: Tensor) -> Tensor:
        """[outputs, all else]."""
        return (weight.transpose(0, 1) if self.transposed else weight).flatten(1)

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        matrix = self._matrix(weight)
        self.right.copy_(nn.functional.normalize(matrix.mT @ self.left, dim=0))
        self.left.copy_(nn.functional.normalize(matrix @ self.right, dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return weight / torch.dot(self.left, self._matrix(weight) @ self.right)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def add_spectral_norm(network: nn.Module) -> None:
    """Spectral normalisation of every convolution and linear layer of a network whose weights are initialised."""
    for module in list(network.modules()):
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            normed = SpectralNorm(module.weight.detach(), isinstance(module, nn.ConvTranspose2d))
            parametrize.register_parametrization(module, "weight", normed)


def spectral_norms(network: nn.Module) -> list[tuple[SpectralNorm, Tensor]]:
    """Each spectral norm in a network, with the weight that it divides."""
    return [
        (each, module.original)
        for module in network.modules()
        if isinstance(module, parametrize.ParametrizationList)
        for each in module
        if isinstance(each, SpectralNorm)
    ]


def iterate(norms: Iterable[tuple[SpectralNorm, Tensor]]) -> None:
    """What is due when a network's weights have changed: one power iteration of each spectral norm."""
    for norm, weight in norms:
        norm.iterate(weight)


class SelfAttention(nn.Module):
    """x + γ · attention(x) over all places of a feature map, γ starting at 0 (Zhang et al. 2019, section 3).

    Softmax and products are written out: PyTorch's fused attention cannot be differentiated twice, which a penalty on
    the discriminator's slope needs.

    Args:
        channels: C of the feature maps [N, C, H, W]; queries, keys and values have an eighth as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 8, 1)
        self.query = nn.Conv2d(channels, inner, 1, bias=False)
        self.key = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, inner, 1, bias=False)
        self.out = nn.Conv2d(inner, channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        # [N, to, from]: how much each place takes of each place.
        weights = (query.mT @ key).softmax(2)
        attended = (value @ weights.mT).unflatten(2, x.shape[2:])
        return x + self.gain * self.out(attended)
