"""The Vendi score (Friedman & Dieng 2023): how many different images a set amounts to, as a ratio to real images."""

from __future__ import annotations

import numpy as np

from gantk_eval.collapse.calibration import Reason, Relabellings, TestResult, result_of

__all__ = ["vendi", "vendi_axes"]

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
    features = _unit((pool - mean) @ basis).astype(np.float32)
    size = features.shape[1]
    upper = np.triu_indices(size)
    products = features[:, upper[0]] * features[:, upper[1]]
    count = relabellings.generated
    sums = relabellings.sums(products)
    scores = _scores(sums / count, upper, size)
    real = _scores(products[count:].mean(axis=0, dtype=np.float64)[None], upper, size)[0]
    result = result_of(
        "vendi", -scores, effect=1.0 - scores[0] / real, suspect=SUSPECT, collapsed=COLLAPSED, needs="detail"
    )
    if result.severity != "none":
        text = f"samples amount to {scores[0]:.1f} different directions, real images to {real:.1f} (Vendi score)"
        result.reasons.append(Reason("diversity", text))
    return result


def _scores(moments: np.ndarray, upper: tuple[np.ndarray, np.ndarray], size: int) -> np.ndarray:
    """Vendi scores [r] of second moments given as upper triangles [r, size·(size + 1) / 2]."""
    matrices = np.zeros((len(moments), size, size))
    matrices[:, upper[0], upper[1]] = moments
    matrices[:, upper[1], upper[0]] = moments
    values = np.maximum(np.linalg.eigvalsh(matrices), 1e-12)
    values /= values.sum(axis=1, keepdims=True)
    return np.exp(-(values * np.log(values)).sum(axis=1))
