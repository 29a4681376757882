"""Feature extractors: what turns uint8 images into the vectors that the metrics compare."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

__all__ = ["Extractor", "feature_type"]


def feature_type(extractor: Extractor) -> type[np.floating[Any]]:
    """The type of an extractor's features."""
    return np.float64 if extractor.precision == "fp64" else np.float32


class Extractor(Protocol):
    """Turns images into features, and says how, for the protocol."""

    name: str
    """`inception-v3-compat`, `classifier`, `dinov2-vitb14` …; scores of another extractor than Inception are never called
    FID or IS."""
    weights_sha256: str
    """Of the weights in use: a file's, or for weights made here of their serialised form."""
    resize: str
    """How images come to the network's size."""
    precision: str
    """`fp32`, `fp64`, or `bf16` (of the network; its features are float32)."""
    dims: int
    """The length of a feature vector."""

    def features(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, C] -> float32 or float64 [n, dims]; must not depend on what else is in the batch."""

    def logits(self, features: np.ndarray) -> np.ndarray | None:
        """Class logits float64 [n, classes] from features (float64 arithmetic), or None where there are no classes."""
