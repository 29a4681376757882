"""What the tests need to know of the reference alone: worked out once, kept for every further verdict."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from gantk_eval.collapse.bins import Bins, fit_bins, possible_losses
from gantk_eval.collapse.coverage import Balls, make_balls
from gantk_eval.collapse.duplicates import duplicate_distance
from gantk_eval.collapse.intra_class import ClassAxes, class_axes
from gantk_eval.collapse.vendi import vendi_axes

__all__ = ["Known"]

CELLS = 10
"""Modes that variances are taken within where there are no classes."""


class Known:
    """Of reference images: `looks` [r, d], features in which near means looking alike; `deep` [r, e], what they show.

    The two are one array where there is nothing deeper than looks (pixels, or points in the plane). `rows` [r]: which of the
    reference's images these are, all by default.
    """

    def __init__(self, looks: np.ndarray, deep: np.ndarray, rows: np.ndarray | None = None) -> None:
        self.looks, self.deep = looks, deep
        self.rows = np.arange(len(deep)) if rows is None else rows
        self._balls: dict[tuple[bool, int], Balls] = {}
        self._bins: dict[int, Bins] = {}
        self._losses: dict[int, np.ndarray] = {}
        self._class_axes: dict[bool, ClassAxes] = {}

    @cached_property
    def duplicate_distance(self) -> float:
        """Below this distance real images are as good as never."""
        return duplicate_distance(self.looks)

    @cached_property
    def axes(self) -> np.ndarray:
        """The principal axes [d, d] of `looks`, the longest first."""
        centred = self.looks - self.looks.mean(axis=0)
        return np.ascontiguousarray(np.linalg.eigh(centred.T @ centred)[1][:, ::-1])

    @cached_property
    def vendi_axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Of `deep`."""
        return vendi_axes(self.deep.astype(np.float64))

    def class_axes(self, classes: np.ndarray, *, deep: bool) -> ClassAxes:
        """Of `deep` or `looks`, whose images are recognised as one of `classes` [r]: always the same, as they are."""
        if deep not in self._class_axes:
            self._class_axes[deep] = class_axes(self.deep if deep else self.looks, classes)
        return self._class_axes[deep]

    @cached_property
    def map_axes(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean [e] of `deep` and its two longest principal axes [e, 2], for a picture."""
        from scipy.linalg import eigh

        mean = self.deep.mean(axis=0)
        centred = (self.deep - mean).astype(np.float64)
        size = centred.shape[1]
        longest = eigh(centred.T @ centred, subset_by_index=(max(0, size - 2), size - 1))[1][:, ::-1]
        return mean, longest * np.where(longest.sum(axis=0) < 0, -1.0, 1.0)  # an axis's sign is arbitrary

    @cached_property
    def cells(self) -> Bins:
        """Ten cells of `looks`."""
        return fit_bins(self.looks, 20 * CELLS)

    def balls(self, count: int, *, deep: bool) -> Balls:
        """As many balls as there are samples, in `deep` or in `looks`."""
        key = (deep, count)
        if key not in self._balls:
            self._balls[key] = make_balls(self.deep if deep else self.looks, count)
        return self._balls[key]

    def bins(self, count: int) -> Bins:
        """Cells of `deep` for `count` samples."""
        if count not in self._bins:
            self._bins[count] = fit_bins(self.deep, count)
        return self._bins[count]

    def losses(self, count: int) -> np.ndarray:
        """What might be lost of `deep`, in the cells for `count` samples."""
        if count not in self._losses:
            self._losses[count] = possible_losses(self.deep, self.bins(count))
        return self._losses[count]
