"""Metrics that need more than features: pixels of pairs (MS-SSIM, LPIPS), or the generator itself (path length)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gantk_eval.extractors import Extractor
from gantk_eval.images import ImageSet
from gantk_eval.lpips import LPIPS
from gantk_eval.metrics import METRICS, Metric
from gantk_eval.pairs import Pairs, choose_pairs, ms_ssim, scales_for
from gantk_eval.path_length import EPSILON, TRIMMED, PathGenerator, path_lengths
from gantk_eval.report import score
from gantk_eval.standard_errors import trimmed_mean

__all__ = ["EXTRA_KINDS", "Extras", "Harvest", "why_not"]

PAIR_KINDS = ("ms_ssim", "lpips")
EXTRA_KINDS = (*PAIR_KINDS, "ppl")
FEW_PAIRS = 1000


@dataclass
class Harvest:
    """What is kept of the generated images for these metrics: pixels uint8 [2 p, H, W, C] of `pairs`, and lengths [n]."""

    pairs: Pairs | None = None
    pixels: np.ndarray | None = None
    lengths: dict[str, np.ndarray] = field(default_factory=dict)


def why_not(name: str, kind: str, images: ImageSet) -> str:
    """The sentence where the metric `name` can't be had of these images; empty where it can."""
    if kind == "ppl" and not isinstance(getattr(images, "generator", None), PathGenerator):
        return f"{name} needs a generator whose latents can be moved along a path, and {images.name} is images alone; score a model"
    if kind == "ms_ssim" and not scales_for(images.shape):
        return f"{name} needs images of at least 11 pixels a side, and {images.name} is {images.shape[1]}×{images.shape[0]}"
    if kind in EXTRA_KINDS and len(images) < 4:
        return f"{name} needs at least 2 pairs of images, and {images.name} has {len(images)}; give more"
    return ""


class Extras:
    """Works these metrics out. `lpips`: the network, where a metric wants it; `extractors`: by name."""

    def __init__(
        self, names: Sequence[str], lpips: LPIPS | None, extractors: Mapping[str, Extractor], *, seed: int, chunk: int
    ) -> None:
        self._names = [name for name in names if METRICS[name].kind in EXTRA_KINDS]
        self._lpips, self._extractors, self._seed, self._chunk = lpips, extractors, seed, max(1, chunk // 2)

    def pairs(self, images: ImageSet) -> Pairs | None:
        """The images to keep for pairs, where a metric wants them."""
        wanted = any(METRICS[name].kind in PAIR_KINDS for name in self._names)
        return choose_pairs(len(images), images.shape) if wanted else None

    def lengths(self, images: ImageSet) -> dict[str, np.ndarray]:
        """The steps of each path-length metric, on all ranks together: as many as there are pairs of images."""
        found = {}
        for name in self._names:
            if METRICS[name].kind == "ppl":
                generator = images.generator  # type: ignore[attr-defined]
                distance = self._distance(METRICS[name])
                found[name] = path_lengths(generator, distance, len(images) // 2, seed=self._seed, chunk=self._chunk)
        return found

    def _distance(self, metric: Metric) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        if metric.extractor == "lpips":
            assert self._lpips is not None
            return self._lpips.distances
        extractor = self._extractors[metric.extractor]

        def squared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            step = extractor.features(second).astype(np.float64) - extractor.features(first).astype(np.float64)
            return np.asarray(np.square(step).sum(axis=1))

        return squared

    def entries(self, harvest: Harvest, n_real: int, heldout: ImageSet | None) -> dict[str, dict[str, Any]]:
        """Each metric's entry."""
        found = {}
        for name in self._names:
            if METRICS[name].kind == "ppl":
                found[name] = self._path_entry(harvest.lengths[name], n_real)
            else:
                found[name] = self._pair_entry(METRICS[name].kind, harvest, n_real, heldout)
        return found

    def _path_entry(self, lengths: np.ndarray, n_real: int) -> dict[str, Any]:
        value, error = trimmed_mean(lengths, TRIMMED)
        warning = None
        if len(lengths) < FEW_PAIRS:
            warning = f"{len(lengths):,} steps are few for a mean of a long-tailed length; {FEW_PAIRS:,} pairs of samples would do"
        return score(
            value,
            standard_error=error,
            n_fake=2 * len(lengths),
            n_real=n_real,
            warning=warning,
            none_because={"floor": "real images have no latents"},
            epsilon=EPSILON,
        )

    def _pair_entry(self, kind: str, harvest: Harvest, n_real: int, heldout: ImageSet | None) -> dict[str, Any]:
        assert harvest.pairs is not None
        assert harvest.pixels is not None
        values = self._of_pairs(kind, harvest.pixels, harvest.pairs)
        floor, floor_n, reasons = None, None, {}
        if heldout is None:
            reasons["floor"] = "no held-out images were given"
        elif len(heldout) >= 4:
            real = choose_pairs(min(len(heldout), 2 * len(values)), heldout.shape)
            # Of all held-out images, not the first ones: a split may be sorted by class.
            spread = np.random.default_rng(0).permutation(len(heldout))[real.kept]
            floor, floor_n = float(self._of_pairs(kind, heldout.read(spread), real).mean()), 2 * len(real)
        warning = None
        if len(values) < FEW_PAIRS // 2:
            warning = f"{len(values):,} pairs are few; {FEW_PAIRS:,} images would do"
        return score(
            float(values.mean()),
            standard_error=float(values.std(ddof=1) / np.sqrt(len(values))),
            floor=floor,
            floor_n=floor_n,
            n_fake=2 * len(values),
            n_real=n_real,
            warning=warning,
            none_because=reasons,
        )

    def _of_pairs(self, kind: str, pixels: np.ndarray, pairs: Pairs) -> np.ndarray:
        first, second = pixels[pairs.first], pixels[pairs.second]
        if kind == "ms_ssim":
            return ms_ssim(first, second)
        assert self._lpips is not None
        return self._lpips.distances(first, second)
