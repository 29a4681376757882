"""The moving average of a network's weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gantk.networks.layers import iterate, spectral_norms


class Averaged:
    """Exponential moving averages of networks, with a half-life in images, kept on every process.

    Parameters are averaged. Buffers are copied, but for singular vectors, which go one power iteration on towards those of
    the averaged weights; batch-norm statistics are estimated anew when they are needed (`reestimation.py`). The half-life
    is at most a tenth of the images seen so far, so that the random start is soon forgotten (Karras et al. 2020 do alike).
    """

    def __init__(self, networks: dict[str, nn.Module], half_life_kimg: float) -> None:
        self.half_life = half_life_kimg * 1000
        self.networks = {
            name: copy.deepcopy(network).requires_grad_(False).eval() for name, network in networks.items()
        }
        self._spectral_norms = {name: spectral_norms(network) for name, network in self.networks.items()}

    def restart(self, networks: Mapping[str, nn.Module]) -> None:
        """Begin anew at the networks as they are."""
        for name, average in self.networks.items():
            average.load_state_dict(networks[name].state_dict())

    @torch.no_grad()
    def update(
        self,
        networks: Mapping[str, nn.Module],
        images: int,
        batch_size: int,
        stood_still: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`images` seen so far, of which `batch_size` in this step.

        `stood_still`: for networks of which a step may have been withheld, a scalar on the device that is not 0 where it
        was: their average then stays as it is, too.
        """
        half_life = min(self.half_life, images / 10)
        weight = 1 - 0.5 ** (batch_size / half_life) if half_life > 0 else 1.0
        for name, average in self.networks.items():
            source = networks[name]
            still = (stood_still or {}).get(name)
            mine: list[Tensor] = list(average.parameters())
            theirs: list[Tensor] = list(source.parameters())
            torch._foreach_lerp_(mine, [_or(still, a, b) for a, b in zip(mine, theirs, strict=True)], weight)
            for buffer, new in zip(average.buffers(), source.buffers(), strict=True):
                buffer.copy_(_or(still, buffer, new))
            iterate(self._spectral_norms[name])


def _or(still: Tensor | None, mine: Tensor, theirs: Tensor) -> Tensor:
    return theirs if still is None else torch.where(still.bool(), mine, theirs)
