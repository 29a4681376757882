"""The class histogram: how often each class is generated, with the classifier's own mistakes taken out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gantk_eval.collapse.calibration import ALPHA, PERMUTATIONS, Severity, TestResult

__all__ = ["class_histogram", "corrected_shares"]

DROPPED, STARVED = 0.2, 0.5  # upper confidence bounds of seen / expected
DRAWS = 1000
FEWEST_EXPECTED = 10
POWER = 0.8
POWER_RUNS = 50


def corrected_shares(shares: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    """True class shares from predicted ones: solves shares = Cᵀ π, with C[i, j] = P(predicted j | true i).

    `shares` [..., K], `confusion` [..., K, K] with rows that sum to 1. Unbiased, and therefore sometimes below zero. Where
    the classifier cannot tell classes apart (a singular C) the least-squares solution is taken.
    """
    if confusion.ndim == 2:
        flat = shares.reshape(-1, len(confusion)).T
        try:
            return np.linalg.solve(confusion.T, flat).T.reshape(shares.shape)
        except np.linalg.LinAlgError:
            return (np.linalg.pinv(confusion.T) @ flat).T.reshape(shares.shape)
    return np.linalg.solve(np.swapaxes(confusion, -1, -2), shares[..., None])[..., 0]


def _rows(confusion: np.ndarray) -> np.ndarray:
    """Row-normalised confusion with a little prior weight on the diagonal, for classes that were hardly tested."""
    counts = confusion + np.eye(len(confusion))
    return counts / counts.sum(axis=1, keepdims=True)


def _ratio_draws(
    fake: np.ndarray, real: np.ndarray, confusion: np.ndarray, generator: np.random.Generator, draws: int
) -> np.ndarray:
    """Draws [draws, K] from the posterior of (share in the generated) / (share in the real) for each class.

    Dirichlet posteriors with Jeffreys' prior for both histograms and, with prior weight 1/K a cell, for the confusion: all
    three are counts, and at a few hundred images each of them matters.
    """
    classes = len(fake)
    gamma = generator.standard_gamma
    if classes <= 100:
        rows = gamma(confusion + 1.0 / classes, size=(draws, classes, classes))
        rows /= np.maximum(rows.sum(axis=2, keepdims=True), 1e-300)
    else:
        rows = _rows(confusion)  # too many to draw; with this many classes the counts of G are the smaller ones anyway
    histograms = []
    for counts in (fake, real):
        weights = gamma(counts + 0.5, size=(draws, classes))
        histograms.append(weights / weights.sum(axis=1, keepdims=True))
    generated = corrected_shares(histograms[0], rows)
    expected = corrected_shares(histograms[1], rows)
    return generated / np.maximum(expected, 0.1 / max(1, real.sum()))


def class_histogram(
    fake: np.ndarray,
    heldout: np.ndarray,
    confusion: np.ndarray,
    *,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> TestResult:
    """Whether a class is lost: the largest shortfall of a class, in units of the null's standard deviation.

    `fake` [n], `heldout` [m]: predicted classes, int. `confusion` [true, predicted]: counts on images that the classifier
    was not trained on. Null: generated and held-out are exchangeable; the histogram of n images drawn from both together
    is multivariate hypergeometric. The maximum over classes corrects for their number, also for each class that is named.
    A class is `dropped` where the upper 99 % bound of seen / expected is below 0.2, and `starved` where below 0.5; the
    effect is the largest 1 - seen / expected.
    """
    classes = len(confusion)
    count = len(fake)
    rows = _rows(confusion.astype(np.float64))
    seen = np.bincount(fake, minlength=classes)
    real = np.bincount(heldout, minlength=classes)
    generator = np.random.default_rng(seed)
    null = corrected_shares(
        generator.multivariate_hypergeometric(seen + real, count, size=permutations) / count, np.asarray(rows)
    )
    generated = corrected_shares(seen / count, rows)
    expected = corrected_shares(real / len(heldout), rows)
    spread = np.maximum(null.std(axis=0), 1e-12)
    worst = ((null.mean(axis=0) - null) / spread).max(axis=1)
    shortfall = (null.mean(axis=0) - generated) / spread
    class_p = (1 + (worst[None, :] >= shortfall[:, None] - 1e-12).sum(axis=1)) / (1 + permutations)

    upper = np.quantile(_ratio_draws(seen, real, confusion, generator, DRAWS), 0.99, axis=0)
    judged = expected * count >= FEWEST_EXPECTED
    lost = judged & (class_p <= ALPHA)
    dropped = np.flatnonzero(lost & (upper < DROPPED))
    starved = np.flatnonzero(lost & (upper >= DROPPED) & (upper < STARVED))
    severity: Severity = "collapsed" if len(dropped) else "suspect" if len(starved) else "none"
    ratio = np.where(judged, generated / np.maximum(expected, 1e-12), 1.0)
    result = TestResult(
        name="class_histogram",
        statistic=float(shortfall.max()),
        null_mean=float(worst.mean()),
        effect=float(np.clip(1.0 - ratio.min(), 0.0, 1.0)),
        p=float(class_p.min()),
        severity=severity,
    )
    for group, word in ((dropped, "dropped"), (starved, "starved")):
        for index in sorted(group, key=lambda i: generated[i] / expected[i]):
            mode = class_names[int(index)] if class_names is not None and index < len(class_names) else str(index)
            number, wanted = max(0, round(generated[index] * count)), round(expected[index] * count)
            result.reasons.append(f"class {mode} has {number:,} of an expected {wanted:,} samples ({word})")
            result.missing.append({"mode": mode, "expected": wanted, "seen": number})
    _check_power(result, expected, count, real, confusion, rows, generator)
    return result


def _check_power(
    result: TestResult,
    expected: np.ndarray,
    count: int,
    real: np.ndarray,
    confusion: np.ndarray,
    rows: np.ndarray,
    generator: np.random.Generator,
) -> None:
    """Would the loss of the rarest class have been noticed? Simulated, from the classifier's own confusion."""
    shares = np.maximum(expected, 0.0)
    rarest = int(shares.argmin())
    if shares[rarest] * count < FEWEST_EXPECTED:
        result.powerful = False
        result.weakness = (
            f"a class of which only {shares[rarest] * count:.1f} of {count:,} samples are expected cannot be judged; "
            f"generate at least {FEWEST_EXPECTED / max(shares[rarest], 1e-3):,.0f}"
        )
        return
    shares[rarest] = 0.0
    predicted = (shares / shares.sum()) @ rows
    predicted /= predicted.sum()
    found = 0
    for _ in range(POWER_RUNS):
        simulated = generator.multinomial(count, predicted)
        bound = np.quantile(_ratio_draws(simulated, real, confusion, generator, DRAWS // 4)[:, rarest], 0.99)
        found += bool(bound < STARVED)
    if found < POWER * POWER_RUNS:
        result.powerful = False
        result.weakness = (
            f"with {count:,} generated and {real.sum():,} held-out images a lost class would be noticed in only "
            f"{found / POWER_RUNS:.0%} of cases; generate more, or give more held-out images"
        )
