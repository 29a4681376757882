"""Perceptual path length (Karras, Laine & Aila 2019, section 4.1): how much an image changes along a path in latent space."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np

from gantk_eval import distributed

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EPSILON", "TRIMMED", "PathGenerator", "path_lengths"]

EPSILON = 1e-4
TRIMMED = 0.01
"""The share of the shortest and of the longest steps that is left out, as in StyleGAN2's measure."""


@runtime_checkable
class PathGenerator(Protocol):
    """What a generator must have for a path length; gantk's `Sampler` has it."""

    @property
    def latent_path(self) -> Literal["linear", "spherical"]:
        """How to go from one latent to another within their distribution: spherical for a normal one (White 2016)."""

    def latent(self, index: np.ndarray) -> Tensor:
        """The latents [n, ...] of the samples with these global indices, int64 [n]."""

    def labels(self, index: np.ndarray) -> np.ndarray | None:
        """Their classes int64 [n], or None."""

    def decode(self, latent: Tensor, labels: np.ndarray | None) -> Tensor:
        """Images float [n, C, H, W] in [-1, 1], not rounded to bytes: neighbours would come out equal."""


def path_lengths(
    generator: PathGenerator,
    distance: Callable[[np.ndarray, np.ndarray], np.ndarray],
    pairs: int,
    *,
    seed: int,
    chunk: int,
) -> np.ndarray:
    """d(G(I(z1, z2; t)), G(I(z1, z2; t + ε))) / ε² for each pair: float64 [pairs], on every rank.

    z1 and z2 are the latents of the samples 2 i and 2 i + 1, both with the class of the first; t is uniform on [0, 1),
    depends on seed and i alone; ε = 1e-4; I is `latent_path`'s. `distance`: of two arrays of images float32 [n, H, W, C] in
    [0, 255] the distance of each pair, quadratic in small changes (LPIPS is; else a squared feature distance). Ranks share
    the pairs by index.
    """
    times = np.random.default_rng([seed, 0x9917]).random(pairs)

    def work() -> tuple[np.ndarray, ...]:
        mine = distributed.chunks(pairs, chunk)
        found = [_steps(generator, distance, index, times[index]) for index in mine]
        return np.concatenate([np.empty(0, dtype=np.int64), *mine]), np.concatenate([np.empty(0), *found])

    index, lengths = distributed.all_or_none(work)
    return distributed.gather_rows(index, lengths[:, None], pairs)[:, 0]


def _steps(
    generator: PathGenerator,
    distance: Callable[[np.ndarray, np.ndarray], np.ndarray],
    index: np.ndarray,
    times: np.ndarray,
) -> np.ndarray:
    import torch

    first, second = generator.latent(2 * index), generator.latent(2 * index + 1)
    labels = generator.labels(2 * index)
    ends = []
    for shift in (0.0, EPSILON):
        # In float64: ε is near the rounding of float32, and a latent's error would be divided by it.
        t = torch.as_tensor(times + shift, device=first.device).reshape(-1, *[1] * (first.ndim - 1))
        point = interpolate(first.double(), second.double(), t, generator.latent_path)
        with torch.no_grad():
            image = generator.decode(point.to(first.dtype), labels)
        ends.append((image.float() * 127.5 + 127.5).permute(0, 2, 3, 1).cpu().numpy())
    return np.asarray(distance(*ends), dtype=np.float64) / EPSILON**2


def interpolate(first: Tensor, second: Tensor, t: Tensor, path: Literal["linear", "spherical"]) -> Tensor:
    """The point at t between latents [n, ...]; spherical (Shoemake 1985), by the angle between them as vectors."""
    import torch

    if path == "linear":
        return torch.lerp(first, second, t)
    shape = (-1, *[1] * (first.ndim - 1))
    left, right = first.flatten(1), second.flatten(1)
    cosine = (left * right).sum(dim=1) / (left.norm(dim=1) * right.norm(dim=1))
    angle = torch.acos(cosine.clamp(-1.0, 1.0)).reshape(shape)
    sine = torch.sin(angle)
    point = (torch.sin((1.0 - t) * angle) * first + torch.sin(t * angle) * second) / sine
    return torch.where(sine.abs() < 1e-9, torch.lerp(first, second, t), point)  # parallel: there is no arc
