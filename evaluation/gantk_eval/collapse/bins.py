"""Bins: the number of statistically different bins (NDB, Richardson & Weiss 2018), one-sided. Where do samples fail to go?

The reference is cut into k-means cells on one half of it; the other half says how much of real data each cell holds. Fitting
and counting on the same images would make every cell look emptier in new ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gantk_eval.collapse.calibration import (
    ALPHA,
    DROPPED,
    FAMILY,
    STARVED,
    Reason,
    Relabellings,
    TestResult,
    benjamini_hochberg,
    result_of,
    would_notice,
)

__all__ = ["Bins", "bins", "fit_bins", "possible_losses"]

MOST = 100
FEWEST_EXPECTED = 10
PARTS, SILHOUETTE, SUBSTANTIAL = (5, 8, 10, 12), 2000, 0.25
WIDE, AXES = 256, 64
REPEATS = 10
POWER = 0.8
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

    fitted, counted = _halves(reference, seed)
    number = int(np.clip(expected // (2 * FEWEST_EXPECTED), 1, min(MOST, max(1, len(fitted) // 10))))
    means = MiniBatchKMeans(number, random_state=seed, n_init=1, batch_size=2048).fit(fitted.astype(np.float32))
    found = Bins(means.cluster_centers_.astype(np.float32), np.zeros(number))
    return Bins(found.centers, np.bincount(found.assign(counted), minlength=number) / len(counted))


def possible_losses(reference: np.ndarray, cells: Bins, seed: int = 0) -> np.ndarray:
    """What might be lost, [J, K]: real data cut into a few parts by k-means on the half that `cells` were not fitted on; for each
    part that holds about a tenth or more, the share of real data that is of it and in each cell. Parts are not made of whole
    cells.
    """
    counted, number = _halves(reference, seed)[1], len(cells.shares)
    where, cuts = cells.assign(counted), _cuts(counted.astype(np.float32), seed + 1)
    losses = np.stack([np.bincount(where[cut == part], minlength=number) for cut in cuts for part in np.unique(cut)])
    shares = losses / len(counted)
    return shares[shares.sum(axis=1) >= SUSPECT]


def _halves(reference: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One half to fit cells on, the other to count in them: on the same data the counts would be biased."""
    order = np.random.default_rng(seed).permutation(len(reference))
    half = len(reference) // 2
    return reference[order[:half]], reference[order[half:]]


def _cuts(features: np.ndarray, seed: int) -> list[np.ndarray]:
    """[n, d] cut into a few parts that hang together, int [n]: of several numbers of parts the one of the best silhouette.

    Where even that has no substantial structure (a silhouette below 0.25, Kaufman & Rousseeuw 1990; figure recalled), all of
    them: nothing says then what a mode would be.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    some = features[np.random.default_rng(seed).permutation(len(features))[:SILHOUETTE]]
    # Parts that hang together differ on long axes, and k-means on all of them takes seconds.
    if features.shape[1] > WIDE:
        mean, axes = some.mean(axis=0), _longest_axes(some)
        features, some = (features - mean) @ axes, (some - mean) @ axes
    fits, cuts = [-np.inf], [np.zeros(len(features), dtype=np.int64)]
    different = len(np.unique(some, axis=0))
    for number in PARTS:
        if different <= 2 * number:
            break
        means = KMeans(number, random_state=seed, n_init=10).fit(some)
        if 1 < len(np.unique(means.labels_)) < len(some):
            cuts.append(means.predict(features))
            fits.append(float(silhouette_score(some, means.labels_)))
    best = int(np.argmax(fits))
    return [cuts[best]] if fits[best] >= SUBSTANTIAL or len(cuts) == 1 else cuts[1:]


def _longest_axes(features: np.ndarray) -> np.ndarray:
    """The principal axes of [n, d], the 64 longest or as many as there are: [d, 64], from the smaller matrix of products."""
    from scipy.linalg import eigh

    centred = features - features.mean(axis=0, dtype=np.float64)
    n, d = centred.shape
    few = min(AXES, n, d)
    if d <= n:
        return np.asarray(eigh(centred.T @ centred, subset_by_index=(d - few, d - 1))[1], dtype=np.float32)
    values, vectors = eigh(centred @ centred.T, subset_by_index=(n - few, n - 1))
    there = values > 1e-9 * values[-1]  # of the others the direction is rounding
    return np.asarray((centred.T @ vectors[:, there]) / np.sqrt(values[there]), dtype=np.float32)


def bins(
    fake: np.ndarray,
    heldout: np.ndarray,
    shares: np.ndarray,
    relabellings: Relabellings,
    *,
    names: str = "mode",
    losses: np.ndarray | None = None,
) -> TestResult:
    """How much of real data lies in cells that the samples fail to visit.

    `fake` [n], `heldout` [m]: the cell of each image. `shares` [K]: of real data. Statistic: Σ max(0, share − seen / n).
    A cell is named where Benjamini & Hochberg's procedure at 1 % rejects that it is visited as often as by held-out images
    (one-sided hypergeometric), at least 10 samples are expected, and the upper 95 % bound of seen / expected is below 0.2
    (lost) or 0.5 (starved). Effect: the share of real data missing in the named cells.
    `losses`: see `possible_losses`; with them the test is `powerful` only where it would find them in 80 % of simulated cases. (To
    be given where no other test looks for lost modes.)
    """
    count, number = len(fake), len(shares)
    pool = np.concatenate([fake, heldout])
    visits = relabellings.sums(np.eye(number, dtype=np.float32)[pool])
    statistics = np.maximum(0.0, shares - visits / count).sum(axis=1)
    seen = visits[0]
    total = seen + np.bincount(heldout, minlength=number)
    expected, upper, named = _missing(seen, total - seen, shares)
    effect = float(((expected - seen)[named]).sum() / count)
    result = result_of("bins", statistics, effect=effect, suspect=SUSPECT, collapsed=COLLAPSED, needs="detail")
    order = sorted(np.flatnonzero(named), key=lambda i: (seen[i] / expected[i], -expected[i]))
    lost = [int(i) for i in order if upper[i] < DROPPED]
    starved = [int(i) for i in order if upper[i] >= DROPPED]
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
    if losses is not None:
        result.powerful = result.powerful and _power(count, len(heldout), shares, losses, statistics) >= POWER
    if not result.powerful:
        result.weakness = (
            f"with {count:,} samples and {len(heldout):,} held-out images a tenth of the data could be missing unnoticed; generate "
            "more, or give more held-out and reference images"
        )
    return result


def _missing(seen: np.ndarray, real: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From visits of generated and held-out images, [K] each: the expected ones, the upper bound of seen / expected, and which
    cells are named."""
    from scipy.stats import beta, hypergeom

    count, heldout = int(seen.sum()), int(real.sum())
    rare = hypergeom.cdf(seen, count + heldout, seen + real, count)
    # From the reference's other half and the held-out images together: one of them alone is noisy.
    expected = np.maximum((shares * heldout + real) / (2 * heldout), 1e-12) * count
    upper = beta.ppf(0.95, seen + 1, np.maximum(count - seen, 1e-9)) * count / expected
    return expected, upper, benjamini_hochberg(rare) & (expected >= FEWEST_EXPECTED) & (upper < STARVED)


def _power(count: int, heldout: int, shares: np.ndarray, losses: np.ndarray, statistics: np.ndarray) -> float:
    """The share of simulated cases in which a loss is found: each of `losses` happens a few times."""
    generator = np.random.default_rng(0)
    # `shares` are themselves counted, which is in the null and not in what is simulated: so only what a loss adds is compared.
    even = generator.multinomial(count, shares / shares.sum(), size=100)
    usual = np.maximum(0.0, shares - even / count).sum(axis=1).mean()
    critical = np.quantile(statistics[1:], 1.0 - ALPHA / FAMILY) - statistics[1:].mean()
    found = []
    for loss in losses:
        left = np.maximum(shares - loss, 0.0)
        for _ in range(REPEATS):
            seen = generator.multinomial(count, left / left.sum())
            real = generator.multinomial(heldout, shares / shares.sum())
            expected, _, named = _missing(seen, real, shares)
            effect = (expected - seen)[named].sum() / count
            found.append(effect >= SUSPECT and np.maximum(0.0, shares - seen / count).sum() - usual >= critical)
    return float(np.mean(found)) if found else 0.0
