"""The Vendi score (Friedman & Dieng 2023): how many different images a set amounts to, as a ratio to real images."""

from __future__ import annotations

import numpy as np

from gantk_eval.collapse.calibration import Reason, Relabellings, TestResult, result_of

__all__ = ["AXES", "moments_of", "vendi", "vendi_axes", "vendi_scores"]

AXES = 16
SUSPECT, COLLAPSED = 0.3, 0.6  # 1 − score / the score of as many real images


def vendi_axes(reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean [d] and the first 16 principal axes [d, 16] of the directions in which reference images differ from it."""
    from scipy.linalg import eigh

    mean = reference.mean(axis=0)
    directions = _unit(reference - mean)
    size = directions.shape[1]
    vectors = eigh(directions.T @ directions, subset_by_index=(max(0, size - AXES), size - 1))[1]
    return mean, np.ascontiguousarray(vectors[:, ::-1])


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def vendi(pool: np.ndarray, axes: tuple[np.ndarray, np.ndarray], relabellings: Relabellings) -> TestResult:
    """exp of the entropy of the eigenvalues of K / n, with the cosine kernel around the reference's mean.

    `pool` [n + m, d]: features of generated, then held-out images. On 16 axes the eigenvalues are those of a 16 × 16 matrix,
    which is a sum over images: two thousand relabellings cost a tenth of a second. It misses small modes that are dropped.
    """
    mean, basis = axes
    count, size = relabellings.generated, basis.shape[1]
    products = moments_of(pool, mean, basis)
    scores = vendi_scores(relabellings.sums(products), size)
    real = vendi_scores(products[count:].sum(axis=0, dtype=np.float64)[None], size)[0]
    result = result_of(
        "vendi", -scores, effect=1.0 - scores[0] / real, suspect=SUSPECT, collapsed=COLLAPSED, needs="detail"
    )
    if result.severity != "none":
        text = f"samples amount to {scores[0]:.1f} different directions, real images to {real:.1f} (Vendi score)"
        result.reasons.append(Reason("diversity", text))
    return result


def moments_of(features: np.ndarray, mean: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Of each image's direction from the mean on the axes [d, k], the products of any two coordinates: float32
    [n, k·(k + 1) / 2]. Their sum over a set is k × k, and has the eigenvalues of the set's K."""
    directions = _unit((features - mean) @ basis).astype(np.float32)
    first, second = np.triu_indices(basis.shape[1])
    return directions[:, first] * directions[:, second]


def vendi_scores(sums: np.ndarray, size: int) -> np.ndarray:
    """Vendi scores [r] of sets of which the sums of `moments_of` over `size` axes are [r, size·(size + 1) / 2]."""
    first, second = np.triu_indices(size)
    matrices = np.zeros((len(sums), size, size))
    matrices[:, first, second] = sums
    matrices[:, second, first] = sums
    values = np.maximum(np.linalg.eigvalsh(matrices), 1e-12)
    values /= values.sum(axis=1, keepdims=True)
    return np.exp(-(values * np.log(values)).sum(axis=1))
