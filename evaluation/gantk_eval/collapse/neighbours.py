"""Nearest neighbours by blocks, for features of a few dozen dimensions."""

from __future__ import annotations

import numpy as np

__all__ = ["nearest", "nearest_distance"]

BLOCK = 1024


def nearest(queries: np.ndarray, points: np.ndarray, k: int, *, itself: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Distances [n, k] and indices [n, k] of the k points nearest to each query, nearest first.

    `itself`: queries and points are the same array, and a point is no neighbour of its own.
    """
    import torch

    k = min(k, len(points) - int(itself))
    # float64: from |x|² + |y|² - 2xy, copies would be up to 1e-3 apart in float32.
    left = torch.from_numpy(np.asarray(queries, dtype=np.float64))
    right = torch.from_numpy(np.asarray(points, dtype=np.float64))
    center = right.mean(dim=0)
    left, right = left - center, right - center
    squares = right.square().sum(dim=1)
    distances = np.empty((len(left), k))
    indices = np.empty((len(left), k), dtype=np.int64)
    for start in range(0, len(left), BLOCK):
        block = left[start : start + BLOCK]
        squared = torch.addmm(squares[None, :] + block.square().sum(dim=1, keepdim=True), block, right.T, alpha=-2.0)
        if itself:
            rows = torch.arange(len(block))
            squared[rows, start + rows] = torch.inf
        values, found = squared.topk(k, dim=1, largest=False)
        distances[start : start + BLOCK] = values.clamp_min(0.0).sqrt().numpy()
        indices[start : start + BLOCK] = found.numpy()
    return distances, indices


def nearest_distance(queries: np.ndarray, points: np.ndarray, *, itself: bool = False) -> np.ndarray:
    """float64 [n]: how far each query's nearest point is."""
    return nearest(queries, points, 1, itself=itself)[0][:, 0]
