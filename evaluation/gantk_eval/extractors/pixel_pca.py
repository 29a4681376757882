"""Pixels on a coarse grid along the reference's principal axes: features that need neither weights nor labels."""

from __future__ import annotations

import hashlib

import numpy as np

from gantk_eval import distributed
from gantk_eval.cache import cached_arrays, pack, unpack
from gantk_eval.images import ImageSet

__all__ = ["PixelPCAExtractor", "coarse_pixels"]

GRID = 16
COMPONENTS = 64
FIT_IMAGES = 10_000
RECIPE = "pixel-pca-1"


def coarse_pixels(images: np.ndarray) -> np.ndarray:
    """uint8 [n, H, W, C] -> float64 [n, h·w·C] in [0, 1]: means over the cells of a grid of at most 16×16."""
    import torch
    import torch.nn.functional as F

    batch = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).double() / 255.0
    size = (min(GRID, batch.shape[2]), min(GRID, batch.shape[3]))
    return F.adaptive_avg_pool2d(batch, size).flatten(1).numpy()


class PixelPCAExtractor:
    """The projection of `coarse_pixels` on up to 64 principal axes of the reference (at most 10,000 evenly spaced images).

    Distances see layout and colour, not meaning: a weak measure, for monitoring, where nothing better is at hand.
    """

    name = "pixel_pca"
    resize = f"area-{GRID}"
    precision = "fp64"

    def __init__(self, reference: ImageSet) -> None:
        arrays = unpack(distributed.from_first(lambda: pack(_cached(reference))))
        self._mean, self._axes = arrays["mean"], arrays["axes"]
        height, width, channels = reference.shape
        self._grid = (channels, min(GRID, height), min(GRID, width))
        self.dims = self._axes.shape[1]
        self.weights_sha256 = hashlib.sha256(self._mean.tobytes() + self._axes.tobytes()).hexdigest()

    def features(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, C] -> float64 [n, dims]."""
        return (coarse_pixels(images) - self._mean) @ self._axes

    def mirrored(self, features: np.ndarray) -> np.ndarray:
        """float64 [n, dims] -> [n, dims]: what the features of the images mirrored left to right are, as far as the axes
        span them: features are carried back to pixels, mirrored, and projected again."""
        pixels = self._mean + np.asarray(features, dtype=np.float64) @ self._axes.T
        flipped = pixels.reshape(-1, *self._grid)[..., ::-1].reshape(pixels.shape)
        return (flipped - self._mean) @ self._axes

    def logits(self, features: np.ndarray) -> None:
        """None: there are no classes here."""
        return


def _cached(reference: ImageSet) -> dict[str, np.ndarray]:
    fields = {"recipe": RECIPE, "reference": reference.fingerprint(), "components": COMPONENTS, "grid": GRID}
    return cached_arrays(
        "pixel_pca",
        fields,
        lambda: _fit(reference),
        lambda arrays: arrays["axes"].shape[0] == len(arrays["mean"]),
    )


def _fit(reference: ImageSet) -> dict[str, np.ndarray]:
    chosen = np.unique(np.linspace(0, len(reference) - 1, min(len(reference), FIT_IMAGES)).astype(np.int64))
    pixels = np.concatenate(
        [coarse_pixels(reference.read(part)) for part in np.array_split(chosen, len(chosen) // 500 + 1)]
    )
    mean = pixels.mean(axis=0)
    centred = pixels - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, : min(COMPONENTS, len(pixels) - 1, pixels.shape[1])]
    # An axis's sign is arbitrary in LAPACK: its largest entry is made positive, so that machines agree.
    largest = np.abs(axes).argmax(axis=0)
    return {"mean": mean, "axes": axes * np.sign(axes[largest, np.arange(axes.shape[1])])}
