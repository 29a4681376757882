"""From features to scores: each metric's value, spread, and real-vs-real floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gantk_eval.errors import DataError
from gantk_eval.extractors import Extractor
from gantk_eval.frechet import extrapolated_frechet_distance, factor, frechet_distance
from gantk_eval.inception_score import SPLITS, inception_score
from gantk_eval.kernel_distance import kernel_distance
from gantk_eval.report import score
from gantk_eval.statistics import Statistics

__all__ = ["METRICS", "Features", "Metric", "Scorer"]

FLOOR_SEED = 2020


@dataclass(frozen=True)
class Metric:
    """`kind`: fd (Fréchet), is (Inception Score), kd (kernel distance) or accuracy; `extractor`: whose features."""

    kind: str
    extractor: str


METRICS: dict[str, Metric] = {
    "fid": Metric("fd", "inception"),
    "is": Metric("is", "inception"),
    "kid": Metric("kd", "inception"),
    "fd_classifier": Metric("fd", "classifier"),
    "is_classifier": Metric("is", "classifier"),
    "kd_classifier": Metric("kd", "classifier"),
    "conditional_accuracy": Metric("accuracy", "classifier"),
    "fd_pixel_pca": Metric("fd", "pixel_pca"),
    "kd_pixel_pca": Metric("kd", "pixel_pca"),
}
"""The metrics that there are, by the name that the user gives."""


@dataclass(frozen=True)
class Features:
    """Features [n, d] of one set of images under one extractor, with what follows from them worked out once."""

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

    def subset(self, count: int) -> Features:
        """`count` of the images, drawn without replacement by a fixed seed: a split sorted by class must not matter."""
        if count >= len(self):
            return self
        chosen = np.random.default_rng(FLOOR_SEED).permutation(len(self))[:count]
        return Features(self.values[np.sort(chosen)], self.extractor)


class Scorer:
    """Scores generated features against the reference's. By extractor: `reference`, and `heldout` for the floors."""

    def __init__(
        self,
        reference: dict[str, Features],
        heldout: dict[str, Features] | None,
        heldout_labels: np.ndarray | None,
    ) -> None:
        self._reference, self._heldout, self._heldout_labels = reference, heldout, heldout_labels

    def score(
        self, generated: dict[str, Features], names: Sequence[str], labels: np.ndarray | None, subset_size: int
    ) -> dict[str, dict[str, Any]]:
        """The entries of the named metrics, and `conditional_accuracy` where there are labels and a classifier.

        Under Inception weights that are not the published ones a metric's name says so (`fd_inception-custom`).
        """
        names = list(names)
        if labels is not None and "classifier" in generated and "conditional_accuracy" not in names:
            names.append("conditional_accuracy")
        entries = {}
        for name in names:
            metric = METRICS[name]
            features = generated[metric.extractor]
            if features.extractor.name == "inception-custom":
                name = f"{metric.kind}_inception-custom"
            if metric.kind == "accuracy":
                if labels is None:
                    raise DataError("conditional_accuracy needs labels for the generated images; give a labelled set")
                entries[name] = self._accuracy(features, labels)
            else:
                entries[name] = self._compare(metric, features, subset_size)
        return entries

    def _compare(self, metric: Metric, fake: Features, subset_size: int) -> dict[str, Any]:
        reference = self._reference[metric.extractor]
        floor: float | None = None
        floor_n: int | None = None
        if self._heldout is not None:
            real = self._heldout[metric.extractor].subset(len(fake))
            fewest = SPLITS if metric.kind == "is" else 2
            if len(real) >= fewest:
                floor, floor_n = self._value(metric, real, reference, subset_size)[0], len(real)
        value, std = self._value(metric, fake, reference, subset_size)
        extrapolated = None
        if metric.kind == "fd":
            extrapolated = extrapolated_frechet_distance(
                fake.values, reference.statistics, reference_factor=reference.factor
            )
        more = {"subset_size": subset_size} if metric.kind == "kd" else {}
        return score(
            value,
            std=std,
            extrapolated=extrapolated,
            floor=floor,
            floor_n=floor_n,
            n_fake=len(fake),
            n_real=len(reference),
            **more,
        )

    @staticmethod
    def _value(metric: Metric, fake: Features, real: Features, subset_size: int) -> tuple[float, float | None]:
        """The value and, where the metric has one, its standard deviation over splits or subsets."""
        if metric.kind == "fd":
            distance = frechet_distance(
                fake.statistics, real.statistics, first_factor=fake.factor, second_factor=real.factor
            )
            return distance, None
        if metric.kind == "is":
            return inception_score(fake.logits)
        return kernel_distance(fake.values, real.values, subset_size=min(subset_size, len(fake)))

    def _accuracy(self, fake: Features, labels: np.ndarray) -> dict[str, Any]:
        value = float(np.mean(fake.classes == labels))
        floor, floor_n = None, None
        if self._heldout is not None and self._heldout_labels is not None:
            real = self._heldout["classifier"]
            floor, floor_n = float(np.mean(real.classes == self._heldout_labels)), len(real)
        return score(
            value,
            standard_error=float(np.sqrt(value * (1.0 - value) / len(fake))),
            floor=floor,
            floor_n=floor_n,
            n_fake=len(fake),
            n_real=len(self._reference["classifier"]),
        )
