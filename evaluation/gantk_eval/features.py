"""Features of one set of images under one extractor, with what follows from them worked out once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from gantk_eval.cache import pack, read_arrays, write_bytes
from gantk_eval.extractors import Extractor
from gantk_eval.frechet import factor
from gantk_eval.neighbours import Balls
from gantk_eval.statistics import Statistics

__all__ = ["Features"]

SUBSET_SEED = 2020


@dataclass(frozen=True)
class Features:
    """`values` [n, d], in the order of the images.

    `total`: the statistics of all images where they are so many that `values` is only a sample of them. `path`: where
    statistics and factor are kept on disk, under a name that says all that they depend on.
    """

    values: np.ndarray
    extractor: Extractor
    total: Statistics | None = None
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.values) if self.total is None else self.total.count

    def remembered(self, path: Path) -> Features:
        """The same, with its statistics kept in a file. A damaged file is made again."""
        return replace(self, path=path)

    @cached_property
    def statistics(self) -> Statistics:
        return self._worked_out[0]

    @cached_property
    def factor(self) -> np.ndarray:
        """A [d, r] with A Aᵀ the covariance."""
        return self._worked_out[1]

    @cached_property
    def _worked_out(self) -> tuple[Statistics, np.ndarray]:
        dims = self.values.shape[1]
        # Below full rank both follow from the centred features in no time.
        path = self.path if len(self) > dims else None
        found = None if path is None else read_arrays(path)
        if found is not None and not {"count", "mean", "covariance", "factor"} - set(found):
            same = int(found["count"]) == len(self) and found["covariance"].shape == (dims, dims)
            if same and found["mean"].shape == (dims,) and len(found["factor"]) == dims:
                return Statistics(len(self), found["mean"], found["covariance"]), found["factor"]
        statistics = Statistics.of(self.values) if self.total is None else self.total
        root = factor(statistics)
        if path is not None:
            count = np.array(statistics.count)
            arrays = {"count": count, "mean": statistics.mean, "covariance": statistics.covariance, "factor": root}
            write_bytes(path, pack(arrays))
        return statistics, root

    @cached_property
    def logits(self) -> np.ndarray:
        logits = self.extractor.logits(self.values)
        assert logits is not None
        return logits

    @cached_property
    def classes(self) -> np.ndarray:
        """The predicted class of each image, int64 [n]."""
        return self.logits.argmax(axis=1)

    @cached_property
    def _balls(self) -> dict[int, Balls]:
        return {}

    def balls(self, count: int) -> Balls:
        """The nearest-neighbour balls of `subset(count)`."""
        if count not in self._balls:
            self._balls[count] = Balls(self.subset(count).values)
        return self._balls[count]

    def subset(self, count: int) -> Features:
        """`count` of the images, drawn without replacement by a fixed seed: a split sorted by class must not matter.

        Where only a sample is kept they are drawn from it, and are as many as it holds at most.
        """
        if count >= len(self):
            return self
        chosen = np.random.default_rng(SUBSET_SEED).permutation(len(self.values))[:count]
        return Features(self.values[np.sort(chosen)], self.extractor)

    def where(self, mask: np.ndarray) -> Features:
        """The images at which `mask`, bool [n], is true."""
        return Features(self.values[mask], self.extractor)
