"""Features of one set of images under one extractor, with what follows from them worked out once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gantk_eval.extractors import Extractor
from gantk_eval.frechet import factor
from gantk_eval.neighbours import Balls
from gantk_eval.statistics import Statistics

__all__ = ["Features"]

SUBSET_SEED = 2020


@dataclass(frozen=True)
class Features:
    """`values` [n, d], in the order of the images."""

    values: np.ndarray
    extractor: Extractor

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def statistics(self) -> Statistics:
        return Statistics.of(self.values)

    @cached_property
    def factor(self) -> np.ndarray:
        return factor(self.statistics)

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
        """`count` of the images, drawn without replacement by a fixed seed: a split sorted by class must not matter."""
        if count >= len(self):
            return self
        chosen = np.random.default_rng(SUBSET_SEED).permutation(len(self))[:count]
        return Features(self.values[np.sort(chosen)], self.extractor)

    def where(self, mask: np.ndarray) -> Features:
        """The images at which `mask`, bool [n], is true."""
        return Features(self.values[mask], self.extractor)
