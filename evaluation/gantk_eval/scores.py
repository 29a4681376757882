"""From features to scores: each metric's value, its errors, and its real-vs-real floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gantk_eval.errors import DataError
from gantk_eval.features import Features
from gantk_eval.measures import Measured, fewest_images, measure
from gantk_eval.metrics import METRICS, Metric, metric_name
from gantk_eval.report import score
from gantk_eval.standard_errors import share_standard_error

__all__ = ["METRICS", "Features", "Metric", "Scorer"]

NO_HELDOUT = "no held-out images were given"


class Scorer:
    """Scores generated features against the reference's; floors are worked out once for each number of images.

    By extractor: `reference`, and `heldout` for the floors; their labels, int64 [n], in the reference's numbering.
    """

    def __init__(
        self,
        reference: Mapping[str, Features],
        heldout: Mapping[str, Features] | None,
        *,
        reference_labels: np.ndarray | None = None,
        heldout_labels: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self._reference, self._heldout = reference, heldout
        self._reference_labels, self._heldout_labels = reference_labels, heldout_labels
        self._class_names = class_names
        self._floors: dict[tuple[str, int, int], tuple[float, int] | None] = {}
        self._by_class: dict[tuple[str, int], Features] = {}

    def score(
        self, generated: Mapping[str, Features], names: Sequence[str], labels: np.ndarray | None, subset_size: int
    ) -> dict[str, dict[str, Any]]:
        """The entries of the named metrics, and `conditional_accuracy` where there are labels and a classifier.

        Under Inception weights that are not the published ones, or in bfloat16, a metric's name says so
        (`fd_inception-custom`, `fd_inception-bf16`).
        """
        names = list(names)
        if labels is not None and "classifier" in generated and "conditional_accuracy" not in names:
            names.append("conditional_accuracy")
        entries = {}
        for name in names:
            metric = METRICS[name]
            features = generated[metric.extractor]
            if features.extractor.name.startswith("inception-"):
                name = metric_name(metric.kind, features.extractor.name)
            if metric.kind in ("accuracy", "fd_per_class"):
                if labels is None:
                    raise DataError(f"{name} needs labels for the generated images; give a labelled set")
                by_labels = self._accuracy if metric.kind == "accuracy" else self._per_class
                entries[name] = by_labels(metric, features, labels)
            else:
                entries[name] = self._compare(metric, features, subset_size)
        return entries

    def _compare(self, metric: Metric, fake: Features, subset_size: int) -> dict[str, Any]:
        reference = self._reference[metric.extractor]
        return _entry(
            measure(metric.kind, fake, reference, subset_size),
            self._floor(metric, len(fake), subset_size),
            self._heldout,
        )

    def _floor(self, metric: Metric, count: int, subset_size: int) -> tuple[float, int] | None:
        """The metric of held-out against reference images at `count` images, or as many as there are, and how many."""
        if self._heldout is None:
            return None
        key = (f"{metric.kind} {metric.extractor}", count, subset_size)
        if key not in self._floors:
            real = self._heldout[metric.extractor].subset(count)
            self._floors[key] = None
            if len(real) >= fewest_images(metric.kind):
                reference = self._reference[metric.extractor]
                found = measure(metric.kind, real, reference, subset_size, errors=False)
                self._floors[key] = (found.value, found.n_fake)
        return self._floors[key]

    def _accuracy(self, metric: Metric, fake: Features, labels: np.ndarray) -> dict[str, Any]:
        hits = int(np.count_nonzero(fake.classes == labels))
        result = Measured(hits / len(fake), len(fake), len(self._reference[metric.extractor]))
        result.standard_error = share_standard_error(hits, len(fake))
        floor = None
        if self._heldout is not None and self._heldout_labels is not None:
            real = self._heldout[metric.extractor]
            floor = (float(np.mean(real.classes == self._heldout_labels)), len(real))
        return _entry(result, floor, self._heldout)

    def _per_class(self, metric: Metric, fake: Features, labels: np.ndarray) -> dict[str, Any]:
        """The mean over classes of the Fréchet distance to real images of the same class (Miyato & Koyama 2018)."""
        real_labels = self._reference_labels
        if real_labels is None:
            raise DataError("a distance for each class needs labels for the reference; give a labelled set")
        reference = self._reference[metric.extractor]
        rows: list[dict[str, Any]] = []
        for number in np.unique(real_labels):
            mask = labels == number
            name = str(number)
            if self._class_names is not None and number < len(self._class_names):
                name = self._class_names[number]
            key = (metric.extractor, int(number))
            if key not in self._by_class:
                self._by_class[key] = reference.where(real_labels == number)
            real = self._by_class[key]
            row: dict[str, Any] = {
                "class": name,
                "n_fake": int(mask.sum()),
                "n_real": len(real),
                "value": None,
                "floor": None,
            }
            if min(row["n_fake"], len(real)) >= 2:
                found = measure("fd", fake.where(mask), real, 0)
                row |= {"value": found.value, "standard_error": found.standard_error, "warning": found.warning}
                row |= self._class_floor(metric, int(number), found.n_fake, real)
            rows.append(row)
        judged = [row for row in rows if row["value"] is not None]
        if not judged:
            raise DataError("no class has two generated and two real images; generate more, or check the labels")
        result = Measured(
            float(np.mean([r["value"] for r in judged])), len(fake), len(reference), more={"classes": rows}
        )
        result.standard_error = float(np.sqrt(sum(r["standard_error"] ** 2 for r in judged)) / len(judged))
        few = [row for row in judged if row["warning"]]
        if len(judged) < len(rows):
            result.warning = (
                f"{len(rows) - len(judged)} of {len(rows)} classes have fewer than 2 images and are left out"
            )
        elif few:
            result.warning = f"in {len(few)} of {len(rows)} classes, {few[0]['class']} among them: {few[0]['warning']}"
        floors = [row["floor"] for row in judged]
        whole = None if None in floors else (float(np.mean(floors)), min(row["floor_n"] for row in judged))
        return _entry(result, whole, self._heldout)

    def _class_floor(self, metric: Metric, number: int, count: int, real: Features) -> dict[str, Any]:
        if self._heldout is None or self._heldout_labels is None:
            return {"floor": None, "floor_n": None}
        key = (f"class {number} {metric.extractor}", count, 0)
        if key not in self._floors:
            held = self._heldout[metric.extractor].where(self._heldout_labels == number).subset(count)
            value = (measure("fd", held, real, 0, errors=False).value, len(held)) if len(held) >= 2 else None
            self._floors[key] = value
        floor = self._floors[key]
        return {"floor": floor and floor[0], "floor_n": floor and floor[1]}


def _entry(found: Measured, floor: tuple[float, int] | None, heldout: Mapping[str, Features] | None) -> dict[str, Any]:
    reasons = dict(found.none_because)
    if floor is None:
        reasons["floor"] = (
            NO_HELDOUT if heldout is None else "there are too few held-out images, or they have no labels"
        )
    return score(
        found.value,
        std=found.std,
        standard_error=found.standard_error,
        extrapolated=found.extrapolated,
        floor=None if floor is None else floor[0],
        floor_n=None if floor is None else floor[1],
        n_fake=found.n_fake,
        n_real=found.n_real,
        warning=found.warning,
        none_because=reasons,
        **found.more,
    )
