"""The class histogram: how often each class is generated, with the classifier's own mistakes taken out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gantk_eval.collapse.calibration import ALPHA, DROPPED, FAMILY, STARVED, Reason, Relabellings, Severity, TestResult
from gantk_eval.collapse.label_shift import Z95, LabelShift

__all__ = ["class_histogram", "corrected_shares", "mode_name"]

FIFTH = 0.2
DRAWS = 1000
FEWEST_EXPECTED = 10
POWER = 0.85
"""80 % is what is wanted; at a few hundred samples the estimate of it is itself uncertain by some per cent."""


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


def confusion_rows(confusion: np.ndarray) -> np.ndarray:
    """Row-normalised confusion with a little prior weight on the diagonal, for classes that were hardly tested."""
    counts = confusion + np.eye(len(confusion))
    return counts / counts.sum(axis=1, keepdims=True)


def mode_name(index: int, class_names: Sequence[str] | None) -> str:
    """What people call class `index`."""
    return class_names[index] if class_names is not None and index < len(class_names) else str(index)


class _Counts:
    """Shares from the counts of predicted classes, put right with the confusion matrix; where there are no logits.

    The bound is of Dirichlet posteriors with Jeffreys' prior for both histograms and, with prior weight 1/K a cell, for the
    confusion: all three are counts, and at a few hundred images each of them matters.
    """

    def __init__(
        self, fake: np.ndarray, heldout: np.ndarray, confusion: np.ndarray, generator: np.random.Generator
    ) -> None:
        classes = len(confusion)
        seen, real = (np.bincount(x, minlength=classes) for x in (fake, heldout))
        self._classes = heldout
        self._rows = confusion_rows(confusion.astype(np.float64))
        self._real = real
        self.generated = corrected_shares(seen / seen.sum(), self._rows)
        self.expected = corrected_shares(real / real.sum(), self._rows)
        if classes <= 100:
            rows = generator.standard_gamma(confusion + 1.0 / classes, size=(DRAWS, classes, classes))
            rows /= np.maximum(rows.sum(axis=2, keepdims=True), 1e-300)
        else:
            # Too many to draw; with this many classes the counts of the generated are the smaller ones anyway.
            rows = self._rows[None]
        try:
            undo = np.linalg.inv(np.swapaxes(rows, -1, -2))
        except np.linalg.LinAlgError:
            undo = np.linalg.pinv(np.swapaxes(rows, -1, -2))

        def draws(counts: np.ndarray) -> np.ndarray:
            weights = generator.standard_gamma(counts + 0.5, size=(DRAWS, classes))
            return np.matmul(undo, (weights / weights.sum(axis=1, keepdims=True))[:, :, None])[:, :, 0]

        ratios = draws(seen) / np.maximum(draws(real), 0.1 / max(1, real.sum()))
        self._upper = np.quantile(ratios, 0.95, axis=0)

    def scores(self, classes: np.ndarray, logits: np.ndarray | None) -> np.ndarray:
        """[p, K] whose mean over a set of images is its shares: rows of the confusion's inverse."""
        return np.linalg.pinv(self._rows)[classes]

    def upper(self, index: int) -> float:
        """The 95 % upper bound of seen / expected."""
        return float(self._upper[index])

    def weights(self, shares: np.ndarray) -> np.ndarray:
        """How much more often than among held-out images each of these would be seen, were the shares so."""
        ratio = np.maximum(shares @ self._rows, 0.0) / np.maximum(self._real / self._real.sum(), 1e-12)
        return ratio[self._classes]

    def deviations(self, shares: np.ndarray, count: int) -> np.ndarray:
        """Of the corrected shares of `count` images with these true shares, their sampling and the held-out images'."""
        undo = np.linalg.pinv(self._rows)  # π = p · undo
        predicted = np.maximum(shares @ self._rows, 0.0)
        return np.sqrt(np.maximum(np.square(undo).T @ predicted - np.square(predicted @ undo), 0.0) / count)


class _Likelihood:
    """Shares by maximum likelihood, from logits; see `label_shift`."""

    def __init__(self, fake: np.ndarray, heldout: np.ndarray, accuracy: float) -> None:
        self._shift = LabelShift.of(fake, heldout, accuracy)
        self._heldout = len(heldout)
        self.generated = self._shift.shares()
        self.expected = self._shift.prior
        self._chance = self._shift.deviations(self.expected, self._heldout)

    def scores(self, classes: np.ndarray, logits: np.ndarray | None) -> np.ndarray:
        """[p, K] whose mean over a set of images is its shares, to first order around the held-out images'."""
        assert logits is not None
        return self._shift.influence(logits)

    def upper(self, index: int) -> float:
        """The 95 % upper bound of seen / expected."""
        ratio = self.generated[index] / self.expected[index]
        own = self._shift.upper(self.generated, index) / self.expected[index] - ratio
        others = Z95 * ratio * self._chance[index] / self.expected[index]
        return float(ratio + np.hypot(own, others))

    def weights(self, shares: np.ndarray) -> np.ndarray:
        """How much more often than among held-out images each of these would be seen, were the shares so."""
        return self._shift.real @ shares

    def deviations(self, shares: np.ndarray, count: int) -> np.ndarray:
        return self._shift.deviations(shares, count)


def class_histogram(
    fake: np.ndarray,
    heldout: np.ndarray,
    confusion: np.ndarray,
    relabellings: Relabellings,
    *,
    fake_logits: np.ndarray | None = None,
    heldout_logits: np.ndarray | None = None,
    places: tuple[np.ndarray, np.ndarray] | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
) -> TestResult:
    """Whether a class is lost: the largest shortfall of a class, in units of the null's standard deviation.

    `fake` [n], `heldout` [m]: predicted classes, int. `confusion` [true, predicted]: counts on images that the classifier
    was not trained on. `fake_logits`, `heldout_logits`: [n, K], [m, K], where there are any; with them (and at most 100
    classes) shares are of maximum likelihood, else predicted counts put right with the confusion matrix. `places`: which of
    the images the relabellings are of, where not of all. The maximum over classes corrects for their number, also for each
    class that is named.

    A class is `dropped` where the upper 95 % bound of seen / expected is below 0.2, and `starved` where below 0.5; the
    effect is the largest 1 - seen / expected.
    """
    classes = len(confusion)
    count = len(fake)
    estimate: _Likelihood | _Counts
    if fake_logits is not None and heldout_logits is not None and classes <= 100:
        estimate = _Likelihood(fake_logits, heldout_logits, float(np.trace(confusion) / max(1, confusion.sum())))
    else:
        fake_logits = heldout_logits = None
        estimate = _Counts(fake, heldout, confusion, np.random.default_rng(seed))
    fakes, reals = places if places is not None else (np.arange(count), np.arange(len(heldout)))
    logits = None
    if fake_logits is not None and heldout_logits is not None:
        logits = np.concatenate([fake_logits[fakes], heldout_logits[reals]])
    scores = estimate.scores(np.concatenate([fake[fakes], heldout[reals]]), logits)
    shares = relabellings.sums(scores) / relabellings.generated
    spread = np.maximum(shares[1:].std(axis=0), 1e-12)
    shortfalls = (shares[1:].mean(axis=0) - shares) / spread
    worst, shortfall = shortfalls[1:].max(axis=1), shortfalls[0]
    class_p = (1 + (worst[:, None] >= shortfall - 1e-9).sum(axis=0)) / (1 + len(worst))

    generated, expected = estimate.generated, estimate.expected
    judged = expected * count >= FEWEST_EXPECTED
    ratio = np.where(judged, generated / np.maximum(expected, 1e-12), 1.0)
    upper = {int(k): estimate.upper(int(k)) for k in np.flatnonzero(judged & (class_p <= ALPHA) & (ratio < STARVED))}
    dropped = [k for k, bound in upper.items() if bound < DROPPED]
    starved = [k for k, bound in upper.items() if DROPPED <= bound < STARVED]
    severity: Severity = "collapsed" if dropped else "suspect" if starved else "none"
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
            mode = mode_name(index, class_names)
            number, wanted = max(0, round(generated[index] * count)), round(expected[index] * count)
            result.reasons.append(
                Reason(
                    "lost class" if word == "dropped" else "starved class",
                    f"class {mode} has {number:,} of an expected {wanted:,} samples ({word})",
                    int(index),
                )
            )
            result.missing.append({"mode": mode, "expected": wanted, "seen": number})
    critical = float(np.quantile(worst, 1 - ALPHA / FAMILY))
    real_scores = estimate.scores(heldout, heldout_logits)
    pooled = (relabellings.generated, relabellings.members.shape[1] - relabellings.generated)
    _check_power(result, estimate, (count, len(heldout)), pooled, real_scores, spread, critical, class_names)
    return result


def _check_power(
    result: TestResult,
    estimate: _Likelihood | _Counts,
    numbers: tuple[int, int],
    pooled: tuple[int, int],
    scores: np.ndarray,
    spread: np.ndarray,
    critical: float,
    class_names: Sequence[str] | None,
) -> None:
    """Would each class be missed, were it down to a fifth? By the normal law of its estimated share.

    Two things must happen: the shortfall exceeds the critical value, and the upper bound of the ratio is below a half.
    `numbers`, `pooled`: of generated and held-out images, all and those that are relabelled; `scores` [m, K]: of held-out ones.
    """
    from scipy.stats import norm

    count, heldout = numbers
    expected = np.maximum(estimate.expected, 0.0)
    rarest = int(expected.argmin())
    if expected[rarest] * count < FEWEST_EXPECTED:
        result.powerful = False
        name = mode_name(rarest, class_names)
        if expected[rarest] * heldout < 1:
            result.weakness = f"class {name} has no held-out images, so it cannot be judged; give held-out images of it"
        else:
            result.weakness = (
                f"class {name}, of which only {expected[rarest] * count:.1f} of {count:,} samples are expected, cannot be judged; "
                f"generate at least {FEWEST_EXPECTED / expected[rarest]:,.0f}"
            )
        return
    chance = estimate.deviations(expected, heldout) / expected
    power = np.ones(len(expected))
    # With a thousand classes the rarest few stand for all.
    for index in np.argsort(expected)[:100]:
        shares = expected.copy()
        shares[index] *= FIFTH
        shares /= shares.sum()
        ratio = shares[index] / expected[index]
        own = max(float(estimate.deviations(shares, count)[index] / expected[index]), 1e-9)
        bound = norm.cdf((STARVED - ratio) / np.hypot(own, ratio * chance[index]) - Z95)
        # The null is drawn from both sets together, so a part of the loss is in its mean too.
        short = (expected[index] - shares[index]) * pooled[1] / sum(pooled) / spread[index]
        weights = estimate.weights(shares)
        mean = np.average(scores[:, index], weights=weights)
        noise = np.sqrt(np.average(np.square(scores[:, index] - mean), weights=weights) / pooled[0])
        seen = norm.cdf((short - critical) / max(float(noise / spread[index]), 1e-9))
        power[index] = min(bound, seen)
    worst = int(power.argmin())
    if power[worst] < POWER:
        result.powerful = False
        result.weakness = (
            f"with {count:,} generated and {heldout:,} held-out images class {mode_name(worst, class_names)}, were it down "
            f"to a fifth, would be noticed in only {power[worst]:.0%} of cases; generate more, or give more held-out images"
        )
