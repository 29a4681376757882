"""The permutation null, and the correction for several tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

__all__ = ["ALPHA", "PERMUTATIONS", "TestResult", "holm", "permutation_p", "subsets"]

ALPHA = 0.01
"""The family-wise error of all tests together, by Holm."""
PERMUTATIONS = 1999
"""So that the smallest p, 1/2000, can pass Holm's correction at ALPHA for up to twenty tests."""

Severity = Literal["none", "suspect", "collapsed"]


@dataclass
class TestResult:
    """One test. `severity` is what its effect size would mean if its p value, adjusted over the family, is below ALPHA."""

    __test__ = False  # pytest takes the name for a test's

    name: str
    statistic: float
    null_mean: float
    effect: float
    p: float
    severity: Severity
    reasons: list[str] = field(default_factory=list)
    missing: list[dict[str, Any]] = field(default_factory=list)
    powerful: bool = True
    """Whether a loss worth the name would have been found at these numbers of images."""
    weakness: str = ""
    """Why not, where it is not."""
    needs_quality: bool = True
    """Whether samples too unlike real images make the test say nothing."""
    p_adjusted: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """The entry under `tests`."""
        names = ("name", "statistic", "null_mean", "effect", "p", "p_adjusted")
        return {name: getattr(self, name) for name in names}


def permutation_p(observed: float, null: np.ndarray) -> float:
    """One-sided p of `observed` being large: (1 + #{null >= observed}) / (1 + B); exact at any B (Phipson & Smyth 2010)."""
    return float((1 + np.count_nonzero(null >= observed - 1e-12)) / (1 + len(null)))


def subsets(pool: int, size: int, count: int, seed: int) -> np.ndarray:
    """Masks bool [count, pool], each with `size` members drawn without replacement: relabelled generated sets."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, pool), dtype=bool)
    for mask in masks:
        mask[generator.permutation(pool)[:size]] = True
    return masks


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (Holm 1979), in the order given."""
    order = np.argsort(values)
    adjusted = [0.0] * len(values)
    running = 0.0
    for place, index in enumerate(order):
        running = max(running, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = running
    return adjusted
