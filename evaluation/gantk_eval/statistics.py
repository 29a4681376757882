"""Mean and covariance of features in float64: from an array, or in one pass from batches spread over ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gantk_eval import distributed
from gantk_eval.errors import DataError

__all__ = ["RunningStatistics", "Statistics"]


@dataclass(frozen=True)
class Statistics:
    """What a Fréchet distance needs of a set of features.

    `mean`: float64 [d]. `covariance`: float64 [d, d], divided by count - 1. `centred`: float64 [count, d], the features
    less their mean, kept where count <= d: then the covariance is rank-deficient and they are its exact factor.
    """

    count: int
    mean: np.ndarray
    covariance: np.ndarray
    centred: np.ndarray | None = None

    @classmethod
    def of(cls, features: np.ndarray) -> Statistics:
        """From features [n, d] of any float type, in two passes (no cancellation). Raises DataError where n < 2."""
        count, dims = features.shape
        if count < 2:
            raise DataError(
                f"{count} image has no covariance; give at least 2, and thousands for a number that means much"
            )
        mean = features.mean(axis=0, dtype=np.float64)
        if count <= dims:
            centred = features.astype(np.float64) - mean
            return cls(count, mean, centred.T @ centred / (count - 1), centred)
        total = np.zeros((dims, dims))
        for start in range(0, count, 8192):  # blocks: a float64 copy of everything would be twice the features
            block = features[start : start + 8192].astype(np.float64) - mean
            total += block.T @ block
        return cls(count, mean, total / (count - 1))


class RunningStatistics:
    """Count, sum and sum of outer products in float64; constant memory at any number of images.

    `shift` [d], the same on every rank (the reference's mean, say), is taken off each feature first: sums of squares
    around a distant origin lose digits. `reduce` is the only collective, one reduction each for count, sum and outer sum.
    """

    def __init__(self, dims: int, shift: np.ndarray | None = None) -> None:
        self._shift = np.zeros(dims) if shift is None else np.asarray(shift, dtype=np.float64)
        self._count = np.zeros(1, dtype=np.int64)
        self._sum = np.zeros(dims)
        self._outer = np.zeros((dims, dims))

    def update(self, features: np.ndarray) -> None:
        """Adds features [n, d]."""
        block = features.astype(np.float64) - self._shift
        self._count += len(block)
        self._sum += block.sum(axis=0)
        self._outer += block.T @ block

    def reduce(self, expected: int | None = None) -> Statistics:
        """The statistics over all ranks, on every rank. `expected`: the count that there must be (RuntimeError)."""
        count = int(distributed.reduce_sum(self._count)[0])
        if expected is not None and count != expected:
            raise RuntimeError(f"evaluation counted {count} samples where there must be {expected}")
        if count < 2:
            raise DataError(f"{count} image has no covariance; give at least 2")
        mean = distributed.reduce_sum(self._sum) / count
        covariance = (distributed.reduce_sum(self._outer) - count * np.outer(mean, mean)) / (count - 1)
        return Statistics(count, mean + self._shift, covariance)
