"""Gaussian mixtures with known modes: the ring and the grid on which mode coverage is measured exactly.

Protocol of Lin, Khetan, Fanti and Oh 2018 (PacGAN), section 4.1: 2,500 samples; a sample belongs to its nearest mode and is
of high quality within 3σ of it; a mode is covered by one sample of high quality; the reverse KL is that of the histogram of
modes over the samples of high quality against the uniform one (so their code; the paper does not say of which samples). A
perfect sampler does not reach 100 % or 0: `floors` draws from the mixture itself and says what it reaches, which is printed
beside each number.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

__all__ = ["HIGH_QUALITY", "MIXTURES", "Floor", "Measures", "Mixture", "floors", "measure", "reverse_kl"]

HIGH_QUALITY = 3.0
"""A sample is of high quality within so many σ of its nearest mode."""
DUPLICATE = 1e-3
"""Two samples within so many σ of each other are the same point; chance brings 2,500 that near once in 5,000 points."""


@dataclass(frozen=True)
class Mixture:
    """Equal shares of isotropic Gaussians in the plane: `means` float64 [K, 2], `std` σ of each."""

    name: str
    means: np.ndarray
    std: float

    @property
    def modes(self) -> int:
        return len(self.means)

    @property
    def extent(self) -> float:
        """Half the side of a square, centred on the origin, that holds the mixture with room around it."""
        return float(1.25 * (np.abs(self.means).max() + HIGH_QUALITY * self.std))

    def fingerprint(self) -> str:
        """sha256 of means and σ."""
        return hashlib.sha256(np.append(self.means.ravel(), self.std).astype("<f8").tobytes()).hexdigest()

    def sample(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """float64 [count, 2], independent draws."""
        chosen = generator.integers(self.modes, size=count)
        return self.means[chosen] + self.std * generator.standard_normal((count, 2))

    def nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For points [n, 2] the nearest mode, int64 [n], and the distance to it in σ, float64 [n]."""
        squares = ((points[:, None, :] - self.means[None]) ** 2).sum(axis=2)
        mode = squares.argmin(axis=1)
        return mode, np.sqrt(squares[np.arange(len(points)), mode]) / self.std


def _ring() -> Mixture:
    angles = 2 * math.pi * np.arange(8) / 8
    # Rounded, so that 0 is 0 in a sentence that names a mode.
    return Mixture("ring", np.stack([np.cos(angles), np.sin(angles)], axis=1).round(15) + 0.0, 0.01)


def _grid() -> Mixture:
    side = np.array([-4.0, -2.0, 0.0, 2.0, 4.0])
    return Mixture("grid", np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2), 0.05)


MIXTURES: dict[str, Mixture] = {"ring": _ring(), "grid": _grid()}
"""`ring`: 8 modes on the unit circle, σ = 0.01. `grid`: 25 modes on {−4, −2, 0, 2, 4}², σ = 0.05."""


@dataclass(frozen=True)
class Measures:
    """What n samples show of a mixture with K modes."""

    assigned: np.ndarray
    """int64 [K]: samples whose nearest mode it is."""
    good: np.ndarray
    """int64 [K]: those of them within 3σ."""
    squares: np.ndarray
    """float64 [K]: the sum of their squared distances to the mode's mean, in σ²."""
    duplicates: int
    """Samples with another within σ/1000."""
    spread_all: float
    """The square root of the generated covariance's trace over the mixture's: 1 where the whole has its true extent."""

    @property
    def count(self) -> int:
        return int(self.assigned.sum())

    @property
    def modes(self) -> int:
        """Modes with at least one sample of high quality."""
        return int(np.count_nonzero(self.good))

    @property
    def high_quality(self) -> float:
        """The share of samples within 3σ of their nearest mode."""
        return float(self.good.sum() / self.count)

    @property
    def reverse_kl(self) -> float:
        """KL(generated ‖ uniform) of the modes of samples of high quality, in nats; log K, the most, where there are none."""
        return reverse_kl(self.good) if self.good.any() else math.log(len(self.good))

    @property
    def spreads(self) -> np.ndarray:
        """float64 [K]: the standard deviation of a mode's samples within 3σ, over that of the true Gaussian cut at 3σ.

        1 for a perfect sampler, below where a mode has shrunk; not a number for a mode without samples.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(self.squares / self.good / truncated_moments()[0])

    @property
    def mode_spread(self) -> float:
        """The same over all samples of high quality together; not a number where there are none."""
        good = self.good.sum()
        return float(np.sqrt(self.squares.sum() / good / truncated_moments()[0])) if good else math.nan

    @property
    def least_spread(self) -> float:
        """The smallest of `spreads` over modes with at least 10 samples; not a number where there is none."""
        judged = self.spreads[self.good >= 10]
        return float(judged.min()) if len(judged) else math.nan


def reverse_kl(counts: np.ndarray) -> float:
    """KL(counts ‖ uniform) in nats: Σ p log(K p), with 0 log 0 = 0. Its mean for a perfect sampler is about (K − 1) / 2n."""
    shares = counts[counts > 0] / counts.sum()
    return float((shares * np.log(shares * len(counts))).sum())


@lru_cache(maxsize=1)
def truncated_moments() -> tuple[float, float]:
    """Mean and variance of r² for a point of the plane's standard Gaussian, given r < 3: r²/2 is a cut exponential."""
    a = HIGH_QUALITY**2 / 2
    inside = 1 - math.exp(-a)
    first = (1 - math.exp(-a) * (1 + a)) / inside
    second = (2 - math.exp(-a) * (a * a + 2 * a + 2)) / inside
    return 2 * first, 4 * (second - first * first)


def measure(points: np.ndarray, mixture: Mixture) -> Measures:
    """The measures of samples, float [n, 2]. Points that are not finite count as samples that hit nothing and repeat nothing.

    Raises ValueError for another shape.
    """
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"points must be [n, 2] with n at least 1, not {points.shape}")
    finite = points[np.isfinite(points).all(axis=1)].astype(np.float64)
    points = np.nan_to_num(points.astype(np.float64), nan=1e9, posinf=1e9, neginf=-1e9)
    mode, distance = mixture.nearest(points)
    within = distance < HIGH_QUALITY
    size = mixture.modes
    true = mixture.means.var(axis=0).sum() + 2 * mixture.std**2
    return Measures(
        assigned=np.bincount(mode, minlength=size),
        good=np.bincount(mode[within], minlength=size),
        squares=np.bincount(mode[within], weights=distance[within] ** 2, minlength=size),
        duplicates=_duplicates(finite, DUPLICATE * mixture.std),
        spread_all=float(np.sqrt(points.var(axis=0).sum() / true)),
    )


def _duplicates(points: np.ndarray, distance: float) -> int:
    from scipy.spatial import cKDTree

    if len(points) < 2:
        return 0
    near, _ = cKDTree(points).query(points, k=2)
    return int(np.count_nonzero(near[:, 1] <= distance))


@dataclass(frozen=True)
class Floor:
    """A measure of a perfect sampler at the same number of samples: its mean, and where 99 % of repetitions lie."""

    mean: float
    low: float
    high: float


@lru_cache(maxsize=64)
def _floors(name: str, count: int, repetitions: int, seed: int) -> dict[str, Floor]:
    mixture = MIXTURES[name]
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(repetitions):
        found = measure(mixture.sample(count, generator), mixture)
        rows.append((found.modes, found.high_quality, found.reverse_kl, found.mode_spread, found.least_spread))
    values = np.array(rows)
    names = ("modes", "high_quality", "reverse_kl", "mode_spread", "least_spread")
    low, high = np.quantile(values, [0.005, 0.995], axis=0)
    means = values.mean(axis=0)
    return {key: Floor(float(means[i]), float(low[i]), float(high[i])) for i, key in enumerate(names)}


def floors(mixture: Mixture, count: int, *, repetitions: int = 400, seed: int = 0) -> dict[str, Floor]:
    """What a perfect sampler of one of `MIXTURES` reaches with `count` samples, by simulation, for each measure."""
    return _floors(mixture.name, count, repetitions, seed)
