"""The Vendi score (Friedman & Dieng 2023): the effective number of different images in a set, without any reference."""

from __future__ import annotations

import numpy as np

__all__ = ["vendi_score"]

BLOCK = 8192


def vendi_score(features: np.ndarray) -> tuple[float, float]:
    """exp of the entropy of the eigenvalues of K/n, with K the cosines of the features; and its standard error.

    `features` [n, d]. Between 1 (all alike) and the smaller of n and d. The eigenvalues of K/n are those of the d×d matrix
    Σ x xᵀ / n of the normalised features, so memory is d² at any n. The error is the delta method's: the influence of x on
    the entropy is -xᵀ (log ρ) x less its mean, with ρ that matrix; it is about the expectation at n, which is below the
    value at infinite n. A feature vector of zeros counts as a direction of its own.
    """
    count, dims = features.shape
    moments = np.zeros((dims + 1, dims + 1))
    for start in range(0, count, BLOCK):
        block = _normalised(features[start : start + BLOCK])
        moments += block.T @ block
    values, vectors = np.linalg.eigh(moments / count)
    keep = values > len(values) * np.finfo(np.float64).eps
    shares = values[keep] / values[keep].sum()
    logs = np.log(shares)
    score = float(np.exp(-(shares * logs).sum()))
    total, squares = 0.0, 0.0
    for start in range(0, count, BLOCK):
        surprise = -np.square(_normalised(features[start : start + BLOCK]) @ vectors[:, keep]) @ logs
        total += float(surprise.sum())
        squares += float(np.square(surprise).sum())
    variance = max(0.0, squares - total**2 / count) / max(1, count - 1)
    return score, score * float(np.sqrt(variance / count))


def _normalised(features: np.ndarray) -> np.ndarray:
    """Unit vectors float64 [n, d + 1]; the last entry is 1 for a vector of zeros, else 0."""
    wide = features.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    nothing = lengths <= 0.0
    return np.hstack([wide / np.where(nothing, 1.0, lengths)[:, None], nothing[:, None].astype(np.float64)])
