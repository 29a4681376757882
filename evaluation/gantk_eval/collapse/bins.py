"""Bins: the number of statistically different bins (NDB, Richardson & Weiss 2018), one-sided. Where do samples fail to go?

The reference is cut into k-means cells on one half of it; the other half says how much of real data each cell holds. Fitting
and counting on the same images would make every cell look emptier in new ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gantk_eval.collapse.calibration import (
    Reason,
    Relabellings,
    TestResult,
    benjamini_hochberg,
    result_of,
    would_notice,
)

__all__ = ["Bins", "bins", "fit_bins"]

MOST = 100
FEWEST_EXPECTED = 10
LOST, STARVED = 0.2, 0.5  # upper confidence bounds of seen / expected
SUSPECT, COLLAPSED = 0.08, 0.25  # share of real data that lies in cells where samples are missing


@dataclass(frozen=True)
class Bins:
    """`centers` [K, d], and the `shares` [K] of real data in each cell."""

    centers: np.ndarray
    shares: np.ndarray

    def assign(self, features: np.ndarray) -> np.ndarray:
        """The cell of each of `features` [n, d]: int64 [n]."""
        squares = np.square(self.centers).sum(axis=1)
        return (squares - 2.0 * features.astype(np.float32) @ self.centers.T).argmin(axis=1)


def fit_bins(reference: np.ndarray, expected: int, seed: int = 0) -> Bins:
    """At most 100 cells, of which a set of `expected` real images would put 10 or more into each on average."""
    from sklearn.cluster import MiniBatchKMeans

    order = np.random.default_rng(seed).permutation(len(reference))
    half = len(reference) // 2
    fitted, counted = reference[order[:half]], reference[order[half:]]
    number = int(np.clip(expected // (2 * FEWEST_EXPECTED), 1, min(MOST, max(1, half // 10))))
    means = MiniBatchKMeans(number, random_state=seed, n_init=1, batch_size=2048).fit(fitted.astype(np.float32))
    found = Bins(means.cluster_centers_.astype(np.float32), np.zeros(number))
    return Bins(found.centers, np.bincount(found.assign(counted), minlength=number) / len(counted))


def bins(
    fake: np.ndarray, heldout: np.ndarray, shares: np.ndarray, relabellings: Relabellings, *, names: str = "mode"
) -> TestResult:
    """How much of real data lies in cells that the samples fail to visit.

    `fake` [n], `heldout` [m]: the cell of each image. `shares` [K]: of real data. Statistic: Σ max(0, share − seen / n).
    A cell is named where Benjamini & Hochberg's procedure at 1 % rejects that it is visited as often as by held-out images
    (one-sided hypergeometric), at least 10 samples are expected, and the upper 95 % bound of seen / expected is below 0.2
    (lost) or 0.5 (starved). Effect: the share of real data missing in the named cells.
    """
    from scipy.stats import beta, hypergeom

    count, number = len(fake), len(shares)
    pool = np.concatenate([fake, heldout])
    visits = relabellings.sums(np.eye(number, dtype=np.float32)[pool])
    statistics = np.maximum(0.0, shares - visits / count).sum(axis=1)
    seen = visits[0]
    total = seen + np.bincount(heldout, minlength=number)
    rare = hypergeom.cdf(seen, len(pool), total, count)
    # From the reference's other half and the held-out images together: one of them alone is noisy.
    expected = np.maximum((shares * len(heldout) + total - seen) / (2 * len(heldout)), 1e-12) * count
    upper = beta.ppf(0.95, seen + 1, np.maximum(count - seen, 1e-9)) * count / expected
    named = benjamini_hochberg(rare) & (expected >= FEWEST_EXPECTED) & (upper < STARVED)
    effect = float(((expected - seen)[named]).sum() / count)
    result = result_of("bins", statistics, effect=effect, suspect=SUSPECT, collapsed=COLLAPSED, needs="detail")
    order = sorted(np.flatnonzero(named), key=lambda i: (seen[i] / expected[i], -expected[i]))
    lost = [int(i) for i in order if upper[i] < LOST]
    starved = [int(i) for i in order if upper[i] >= LOST]
    if result.severity != "none":
        for group, kind, word in ((lost, "lost mode", "missing"), (starved, "starved mode", "starved")):
            if group:
                wanted, found = expected[group].sum(), seen[group].sum()
                text = (
                    f"{len(group)} of {number} regions of real data are {word}: {found:,.0f} of an expected {wanted:,.0f} "
                    "samples fall there"
                )
                result.reasons.append(Reason(kind, text))  # type: ignore[arg-type]
        result.missing = [
            {"mode": f"{names} {i}", "expected": round(expected[i]), "seen": round(seen[i])} for i in lost + starved
        ]
    # One mode in ten gone: a tenth of real data missing, on top of what chance alone leaves empty.
    result.powerful = would_notice(statistics, float(statistics[1:].mean()) + 0.1)
    if not result.powerful:
        result.weakness = f"with {count:,} samples a tenth of the data could be missing unnoticed; generate more"
    return result
