"""How far a score would move with other samples of the same model: standard errors that are valid, each for its metric.

Everywhere the reference is held fixed and the generated images are the random ones; the error is about the score's own
expectation at this number of images (E[FID_N], say), not about its limit at infinitely many. The naive bootstrap is used
nowhere: drawing with replacement plants copies, which move a covariance, a nearest neighbour or an entropy by more than
chance does.
"""

from __future__ import annotations

import numpy as np

from gantk_eval.statistics import Statistics

__all__ = [
    "MOST_ROWS",
    "frechet_standard_error",
    "inception_score_standard_error",
    "kernel_distance_standard_error",
    "share_standard_error",
    "spread_rows",
    "trimmed_mean",
]

MOST_ROWS = 10_000
"""The variance of an influence is estimated on at most so many images; it is then divided by the real N."""
KERNEL_ROWS = 4000
BLOCK = 2048


def spread_rows(count: int, most: int) -> np.ndarray:
    """At most `most` of the indices 0..count-1, evenly spaced: int64, ascending, each once."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def frechet_standard_error(
    features: np.ndarray, statistics: Statistics, reference: Statistics, reference_factor: np.ndarray
) -> float:
    """The delta method's standard error of FD(features, reference) about E[FD_N], the reference held fixed.

    With S the covariance of the features and T = A (Aᵀ S A)^-½ Aᵀ the map that carries their Gaussian to the reference's
    (A Aᵀ the reference's covariance), FD's influence function at x is
    2 (x - m)·(m - m_r) + (x - m)ᵀ (I - T) (x - m) - tr((I - T) S); the error is its standard deviation over √N. Where the
    two distributions are equal the first order vanishes and what is left overestimates the error (by about √2).
    `features` [n, d]; `statistics`, `reference`: of both sides; `reference_factor` [d, r]: its `factor`.
    """
    rows = spread_rows(len(features), MOST_ROWS)
    values, vectors = np.linalg.eigh(reference_factor.T @ statistics.covariance @ reference_factor)
    keep = values > 1e-12 * values.max(initial=0.0)
    half = (reference_factor @ vectors[:, keep]) * values[keep] ** -0.25
    shift = 2.0 * (statistics.mean - reference.mean)
    influence = np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        centred = features[rows[start : start + BLOCK]].astype(np.float64) - statistics.mean
        influence[start : start + BLOCK] = (
            centred @ shift + np.square(centred).sum(axis=1) - np.square(centred @ half).sum(axis=1)
        )
    return float(influence.std(ddof=1) / np.sqrt(statistics.count))


def inception_score_standard_error(logits: np.ndarray, splits: int) -> float:
    """The delta method's standard error of the Inception Score over `splits` parts, about its expectation at n/splits.

    The influence of x on exp(E KL(p(y|x) || p(y))) is the score times (KL(p(y|x) || p(y)) - E KL): the movement of p(y)
    itself cancels to first order. `logits` [n, classes], cut and shuffled as in `inception_score`.
    """
    from scipy.special import log_softmax

    count = len(logits)
    order = np.random.RandomState(2020).permutation(count)
    variance = 0.0
    for part in range(splits):
        rows = order[part * count // splits : (part + 1) * count // splits]
        log_p = log_softmax(np.asarray(logits[rows], dtype=np.float64), axis=1)
        p = np.exp(log_p)
        marginal = np.log(np.maximum(p.mean(axis=0), 1e-300))
        divergence = (p * (log_p - marginal)).sum(axis=1)
        if len(rows) > 1:
            variance += np.exp(2.0 * divergence.mean()) * divergence.var(ddof=1) / len(rows)
    return float(np.sqrt(variance) / splits)


def kernel_distance_standard_error(
    fake: np.ndarray, reference: np.ndarray, *, subsets: int, subset_std: float
) -> float:
    """The standard error of the mean over KID's random subsets, the reference held fixed.

    Two parts. Given the images, the subsets are independent draws: subset_std² / subsets. The mean over all subsets is a
    U-statistic of order 2 in the generated images, with h(x, x') = k(x, x') - g(x) - g(x') and g the mean kernel to the
    reference; its variance is (4 (n - 2) ζ1 + 2 ζ2) / (n (n - 1)) exactly (Hoeffding 1948), with ζ1 = Cov(h(x, x'),
    h(x, x'')) and ζ2 = Var h estimated without bias (Sutherland 2019), on at most 4,000 generated and 10,000 real images.
    `fake` [n, d], `reference` [m, d]; `subset_std`: over the subsets, as torch-fidelity reports it (ddof=0).
    """
    count, dims = fake.shape
    x = fake[spread_rows(count, KERNEL_ROWS)].astype(np.float64)
    y = reference[spread_rows(len(reference), MOST_ROWS)].astype(np.float64)
    used = len(x)
    if used < 4:
        return float("nan")
    to_reference = np.empty(used)
    row_sums, total_squares = np.empty(used), 0.0
    for start in range(0, used, BLOCK):
        block = x[start : start + BLOCK]
        to_reference[start : start + BLOCK] = ((block @ y.T / dims + 1.0) ** 3).mean(axis=1)
    for start in range(0, used, BLOCK):
        h = (x[start : start + BLOCK] @ x.T / dims + 1.0) ** 3
        h -= to_reference[start : start + BLOCK, None] + to_reference[None, :]
        h[np.arange(len(h)), start + np.arange(len(h))] = 0.0
        row_sums[start : start + BLOCK] = h.sum(axis=1)
        total_squares += float(np.square(h).sum())
    pairs = used * (used - 1)
    total = float(row_sums.sum())
    # Means over pairs, triples and quadruples of different images: unbiased for E h², E h(x,x')h(x,x''), (E h)².
    square = total_squares / pairs
    shared = (float(np.square(row_sums).sum()) - total_squares) / (pairs * (used - 2))
    disjoint = (total**2 - 4.0 * float(np.square(row_sums).sum()) + 2.0 * total_squares) / (
        pairs * (used - 2) * (used - 3)
    )
    first, second = max(0.0, shared - disjoint), max(0.0, square - disjoint)
    over_images = (4.0 * (count - 2) * first + 2.0 * second) / (count * (count - 1))
    over_subsets = subset_std**2 / max(1, subsets - 1)
    return float(np.sqrt(over_images + over_subsets))


def share_standard_error(hits: int, count: int) -> float:
    """The standard error of hits / count for independent trials, by Agresti & Coull (1998): not 0 where all of them hit."""
    middle = (hits + 2.0) / (count + 4.0)
    return float(np.sqrt(middle * (1.0 - middle) / (count + 4.0)))


def trimmed_mean(values: np.ndarray, share: float) -> tuple[float, float]:
    """The mean without the lowest and the highest `share` of the values, and its standard error (Tukey & McLaughlin 1963).

    `values` [n]. The error is the winsorised standard deviation over (1 - 2 share) √n.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    cut = int(share * len(ordered))
    kept = ordered[cut : len(ordered) - cut]
    winsorised = np.clip(ordered, kept[0], kept[-1])
    error = winsorised.std(ddof=1) / ((1.0 - 2.0 * cut / len(ordered)) * np.sqrt(len(ordered)))
    return float(kept.mean()), float(error)
