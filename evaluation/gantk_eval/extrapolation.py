"""The Fréchet distance for endlessly many generated images, by a straight line in 1/N (Chong & Forsyth 2020, FID∞)."""

from __future__ import annotations

import numpy as np

from gantk_eval.frechet import factor, frechet_distance
from gantk_eval.statistics import Statistics

__all__ = ["extrapolated_frechet_distance", "why_not_extrapolated"]

PER_DIMENSION = 4
BENT = 0.2
"""Where the correction that the smaller sizes call for is so much off the one that the larger ones do, it is no line."""


def why_not_extrapolated(count: int, dims: int) -> str:
    """The sentence for a set too small for a fit against 1/N; empty where it is large enough."""
    fewest = max(100, PER_DIMENSION * dims)
    if count >= fewest:
        return ""
    return (
        f"its bias falls as 1/N only where N is well above the {dims:,} dimensions; with at least {fewest:,} images there is a "
        "value at infinite N"
    )


def extrapolated_frechet_distance(
    features: np.ndarray,
    reference: Statistics,
    *,
    reference_factor: np.ndarray | None = None,
    whole: float | None = None,
    seed: int = 0,
) -> float | None:
    """FD at infinitely many generated images, or None where 1/N does not describe its bias.

    `features` [n, d]; `whole`: their FD, where it is at hand. The points of the fit are n (all images) and n/2 (the mean of
    two disjoint halves). Both use every image once, so that what moves the score to first order moves both alike and
    cancels in the slope: half the scatter of a fit on random subsets, for a quarter of the work. Where n >= 8 d, quarters
    must lie on the line as well. Below 4 d images it is None. Only the bias in the number of *generated* images goes; that
    of the reference stays. Its standard error is about that of FD itself.
    """
    count, dims = features.shape
    if why_not_extrapolated(count, dims):
        return None
    right = factor(reference) if reference_factor is None else reference_factor
    order = np.random.default_rng(seed).permutation(count)

    def of_parts(parts: int) -> np.ndarray:
        size = count // parts
        pieces = (order[part * size : (part + 1) * size] for part in range(parts))
        return np.array([frechet_distance(Statistics.of(features[p]), reference, second_factor=right) for p in pieces])

    full = float(of_parts(1)[0]) if whole is None else whole
    halves = float(of_parts(2).mean())
    if count >= 2 * PER_DIMENSION * dims:
        quarters = of_parts(4)
        # On a line in 1/N, halving N again adds twice as much.
        correction, next_correction = halves - full, (float(quarters.mean()) - halves) / 2.0
        noise = 2.0 * float(quarters.std(ddof=1)) / 2.0
        if abs(next_correction - correction) > BENT * abs(correction) + noise:
            return None
    return 2.0 * full - halves
