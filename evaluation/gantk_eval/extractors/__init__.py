"""Feature extractors: what turns uint8 images into the vectors that the metrics compare."""

from __future__ import annotations

from typing import Protocol

import numpy as np

__all__ = ["Extractor"]


class Extractor(Protocol):
    """Turns images into features, and says how, for the protocol."""

    name: str
    """`inception-v3-compat`, `classifier`, `pixel_pca`; scores of another extractor are never called FID or IS."""
    weights_sha256: str
    """Of the weights in use: a file's, or for weights made here of their serialised form."""
    resize: str
    """How images come to the network's size."""
    precision: str
    """`fp32` or `fp64`; features are of that type."""
    dims: int
    """The length of a feature vector."""

    def features(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, C] -> float32 or float64 [n, dims]; must not depend on what else is in the batch."""

    def logits(self, features: np.ndarray) -> np.ndarray | None:
        """Class logits float64 [n, classes] from features (float64 arithmetic), or None where there are no classes."""
