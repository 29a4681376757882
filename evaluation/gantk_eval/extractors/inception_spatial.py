"""Inception's spatial features, for sFID, from the same pass as the others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gantk_eval.extractors import Extractor
from gantk_eval.extractors.inception import PUBLISHED_INCEPTION, InceptionExtractor

__all__ = ["PUBLISHED_SPATIAL", "InceptionSpatialExtractor", "features_under"]

PUBLISHED_SPATIAL = f"{PUBLISHED_INCEPTION}-spatial"
"""The extractor's name with the published weights in float32: the only one whose Fréchet distance is sFID."""


class InceptionSpatialExtractor:
    """The first 7 channels of the 17x17 map that TensorFlow calls `mixed_6/conv`, position by position: 2,023 numbers.

    They keep where things are, which the average over positions of the usual features forgets (Nash et al. 2021, sFID).
    The layer, its 7 channels and their order are those of ADM's evaluator (Dhariwal & Nichol 2021); in the names of PyTorch it
    is `Mixed_6d.branch1x1`, after batch norm and ReLU.
    """

    dims = 17 * 17 * 7

    def __init__(self, inception: InceptionExtractor) -> None:
        self.inception = inception
        self.name = f"{inception.name}-spatial"
        self.weights_sha256 = inception.weights_sha256
        self.resize, self.precision = inception.resize, inception.precision

    def features(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 1 or 3] -> float32 [n, 2023], none of them negative."""
        return self.inception.spatial(images)

    def logits(self, features: np.ndarray) -> None:
        """None: there are no classes in them."""


def features_under(extractors: Mapping[str, Extractor], images: np.ndarray) -> dict[str, np.ndarray]:
    """Features [n, d] of uint8 [n, H, W, C] under each extractor, by its name; Inception runs once for both of its."""
    found: dict[str, np.ndarray] = {}
    spatial = {name: e for name, e in extractors.items() if isinstance(e, InceptionSpatialExtractor)}
    for name, extractor in extractors.items():
        twin = next((other for other, e in spatial.items() if e.inception is extractor), None)
        if twin is not None and isinstance(extractor, InceptionExtractor):
            found[name], found[twin] = extractor.with_spatial(images)
        elif name not in spatial:
            found[name] = extractor.features(images)
    return {name: found[name] if name in found else extractors[name].features(images) for name in extractors}
