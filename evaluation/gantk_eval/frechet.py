"""The Fréchet distance between two Gaussians, without the matrix square root of a product that is not symmetric.

FD = |m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½ (Dowson & Landau 1982; Heusel et al. 2017, eq. 6). With S1 = L Lᵀ and
S2 = A Aᵀ the eigenvalues of S1 S2 are the squared singular values of Lᵀ A, so the last trace is the nuclear norm of
Lᵀ A: real, not negative, and exact for rank-deficient covariances, where eigenvalues of S1 S2 lose half of their digits.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

from gantk_eval.statistics import Statistics

__all__ = ["factor", "frechet_distance"]


def factor(statistics: Statistics) -> np.ndarray:
    """A [d, r] with A Aᵀ the covariance: the centred features where count <= d, else Cholesky, else eigenvectors.

    Compute it once for a reference that is compared often.
    """
    if statistics.centred is not None:
        return statistics.centred.T / np.sqrt(statistics.count - 1)
    import torch

    covariance = statistics.covariance
    # PyTorch's linear algebra, as its threads made the features: beside them another library's would wait for processors.
    lower, stopped = (tensor.numpy() for tensor in torch.linalg.cholesky_ex(torch.from_numpy(covariance)))
    pivots = np.diagonal(lower) ** 2
    # A pivot at rounding level is noise, and its column with it: such a matrix is deficient although Cholesky went on.
    if not stopped and pivots.min() > len(pivots) * np.finfo(np.float64).eps * np.trace(covariance):
        return lower
    values, vectors = np.linalg.eigh(covariance)
    keep = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    keep &= np.arange(len(values)) >= len(values) - (statistics.count - 1)
    return vectors[:, keep] * np.sqrt(values[keep])


def frechet_distance(
    first: Statistics,
    second: Statistics,
    *,
    first_factor: np.ndarray | None = None,
    second_factor: np.ndarray | None = None,
) -> float:
    """The squared Fréchet distance between Gaussians fitted to two sets of features.

    Not clamped: for equal sets it may be off zero by rounding, in either direction, up to 1e-10 of the trace.
    `first_factor`, `second_factor`: their `factor`, where it is at hand.
    """
    import torch

    left = factor(first) if first_factor is None else first_factor
    right = factor(second) if second_factor is None else second_factor
    difference = first.mean - second.mean
    product = torch.from_numpy(left).T @ torch.from_numpy(right)
    # Divide and conquer is the fast driver; the slower one converges where it does not.
    try:
        nuclear = float(torch.linalg.svdvals(product).sum()) if product.numel() else 0.0
    except torch.linalg.LinAlgError:
        nuclear = float(scipy.linalg.svd(product.numpy(), compute_uv=False, lapack_driver="gesvd").sum())
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    return float(difference @ difference + traces - 2.0 * nuclear)
