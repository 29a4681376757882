"""Distances by blocks, for features of a few dozen to a few thousand dimensions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["close_pairs", "kth_other", "nearest", "nearest_distance", "nearest_other", "squared_distances"]

BLOCK = 1024


def nearest(queries: np.ndarray, points: np.ndarray, k: int, *, itself: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Distances [n, k] and indices [n, k] of the k points nearest to each query, nearest first, in float64.

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


def nearest_other(points: np.ndarray) -> np.ndarray:
    """float64 [n]: how far each point's nearest other is; found in float32, measured in float64."""
    centred = points - points.mean(axis=0)
    found = np.empty(len(points))
    for rows, squared in squared_distances(centred, centred):
        places = np.arange(rows.start, rows.stop)
        squared[np.arange(len(squared)), places] = np.inf
        other = squared.argmin(axis=1)
        found[rows] = np.sqrt(np.square(centred[places] - centred[other]).sum(axis=1, dtype=np.float64))
    return found


def kth_other(points: np.ndarray, k: int) -> np.ndarray:
    """float64 [n]: how far each point's k-th nearest other is, as far as float32 tells."""
    k = min(k, len(points) - 1)
    found = np.empty(len(points))
    for rows, squared in squared_distances(points, points):
        squared[np.arange(len(squared)), np.arange(rows.start, rows.stop)] = np.inf
        found[rows] = np.sqrt(np.maximum(np.partition(squared, k - 1, axis=1)[:, k - 1], 0.0))
    return found


def squared_distances(queries: np.ndarray, points: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances float32 [block, p], block by block with the rows that they are of.

    Right to about 1e-6 of the squared spread: for comparing neighbours, not for telling copies.
    """
    center = points.mean(axis=0)
    left = (queries - center).astype(np.float32)
    right = (points - center).astype(np.float32)
    # |x − y|² as one product of (−2x, |x|², 1) and (y, 1, |y|²): a pass over the result for each term would cost as much.
    ones = np.ones((max(len(left), len(right)), 1), dtype=np.float32)
    wide = np.concatenate([-2.0 * left, np.square(left).sum(axis=1, keepdims=True), ones[: len(left)]], axis=1)
    tall = np.concatenate([right, ones[: len(right)], np.square(right).sum(axis=1, keepdims=True)], axis=1).T
    tall = np.ascontiguousarray(tall)
    for start in range(0, len(left), BLOCK):
        rows = slice(start, min(start + BLOCK, len(left)))
        yield rows, wide[rows] @ tall


def close_pairs(points: np.ndarray, distance: float, most: int) -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs (i, j), i ≠ j, within `distance` of each other; of each i at most the `most` nearest.

    Two int64 arrays, sorted by i. Candidates are found in float32 and decided in float64.
    """
    centred = points - points.mean(axis=0)
    slack = 8e-6 * float(np.square(centred).sum(axis=1).max(initial=0.0))
    firsts, seconds, gaps = [], [], []
    for rows, squared in squared_distances(centred, centred):
        squared[np.arange(len(squared)), np.arange(rows.start, rows.stop)] = np.inf
        limit = distance * distance + slack
        close = np.flatnonzero(squared.min(axis=1) <= limit)
        within = squared[close] <= limit
        crowded = np.flatnonzero(within.sum(axis=1) > 4 * most)
        if len(crowded):  # copies by the hundred: the nearest few stand for them
            keep = np.argpartition(squared[close[crowded]], 4 * most, axis=1)[:, : 4 * most + 1]
            thinned = np.zeros((len(crowded), within.shape[1]), dtype=bool)
            np.put_along_axis(thinned, keep, True, axis=1)
            within[crowded] &= thinned
        first, second = np.nonzero(within)
        first = close[first] + rows.start
        gap = np.square(centred[first] - centred[second]).sum(axis=1, dtype=np.float64)
        good = gap <= distance * distance
        firsts.append(first[good])
        seconds.append(second[good])
        gaps.append(gap[good])
    first, second, gap = np.concatenate(firsts), np.concatenate(seconds), np.concatenate(gaps)
    order = np.lexsort((gap, first))
    first, second = first[order], second[order]
    starts = np.searchsorted(first, first, side="left")
    nearest_few = np.arange(len(first)) - starts < most
    return first[nearest_few], second[nearest_few]
