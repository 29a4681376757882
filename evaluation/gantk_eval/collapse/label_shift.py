"""How much of each class there is in unlabelled images, by maximum likelihood (Saerens, Latinne & Decaestecker 2002).

If images of a class look alike in both sets and only the classes' shares differ, an image x of the other set has the
likelihood Σ_k π_k p(k|x) / p(k), with p(k|x) the classifier's probability and p(k) the share that it was made for. Its
maximum over π uses all that the classifier says of each image. Counts of predicted classes, put right with the confusion
matrix, are also unbiased; but on CIFAR-10 they are half as uncertain again (a standard deviation of 0.12 against 0.08 for a
class down to a fifth, 2,000 images, a classifier of 72 %).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["LabelShift", "class_distance", "class_shift", "temperature"]

ITERATIONS = 100
BISECTIONS = 14
Z95 = 1.645


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def temperature(logits: np.ndarray, accuracy: float) -> float:
    """The factor on `logits` [m, K] with which the mean confidence in the predicted class equals the accuracy.

    Needs no labels of these images, only the accuracy on others. Between 1/8 and 8.
    """
    low, high = -3.0, 3.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _softmax(logits * 2.0**middle).max(axis=1).mean() < accuracy:
            low = middle
        else:
            high = middle
    return float(2.0 ** ((low + high) / 2))


@dataclass(frozen=True)
class LabelShift:
    """`ratios` [n, K]: p(k|x) / p(k) of the generated images; `real` [m, K]: of held-out ones; `prior` [K]: their p(k);
    `factor`: on logits, for calibrated probabilities."""

    ratios: np.ndarray
    real: np.ndarray
    prior: np.ndarray
    factor: float = 1.0

    @classmethod
    def of(cls, fake_logits: np.ndarray, heldout_logits: np.ndarray, accuracy: float) -> LabelShift:
        """From logits [n, K], [m, K] and the classifier's accuracy. The held-out images' own shares are the prior."""
        factor = temperature(heldout_logits.astype(np.float64), accuracy)
        real = _softmax(heldout_logits.astype(np.float64) * factor)
        prior = np.maximum(real.mean(axis=0), 1e-9)
        return cls(_softmax(fake_logits.astype(np.float64) * factor) / prior, real / prior, prior, factor)

    def shares(self) -> np.ndarray:
        """The generated images' shares [K], by expectation maximisation."""
        shares = self.prior / self.prior.sum()
        for _ in range(ITERATIONS):
            before, shares = shares, self._step(shares)
            if np.abs(shares - before).max() < 1e-7:
                break
        return shares

    def _step(self, shares: np.ndarray) -> np.ndarray:
        likelihood = np.maximum(self.ratios @ shares, 1e-300)
        return shares * (self.ratios.T @ (1.0 / likelihood)) / len(self.ratios)

    def _log_likelihood(self, shares: np.ndarray) -> float:
        return float(np.log(np.maximum(self.ratios @ shares, 1e-300)).sum())

    def influence(self, logits: np.ndarray) -> np.ndarray:
        """[p, K] for images with `logits` [p, K]: its mean over a set estimates the set's shares, by one step of Fisher
        scoring from the held-out images' shares. Linear in the images, so that thousands of sets cost one product."""
        ratios = _softmax(logits.astype(np.float64) * self.factor) / self.prior
        information = self.real.T @ self.real / len(self.real)
        return ratios @ np.linalg.pinv(information, hermitian=True)

    def upper(self, shares: np.ndarray, index: int) -> float:
        """The 95 % upper bound of one class's share by profile likelihood: where the best fit with so much of it is worse
        by 1.645² / 2. Right also where none of the class was seen, which an interval of ± 2 standard deviations is not."""
        best, current = self._log_likelihood(shares), shares
        low, high = float(shares[index]), 1.0
        for _ in range(BISECTIONS):
            # From the near side: the share sought is mostly small.
            middle = low + (high - low) / (8 if high > 0.5 else 2)
            current = self._fixed(current, index, middle)
            if best - self._log_likelihood(current) > Z95**2 / 2:
                high = middle
            else:
                low = middle
        return high

    def _fixed(self, shares: np.ndarray, index: int, value: float) -> np.ndarray:
        """The most likely shares with one of them held at `value`."""
        others = np.arange(len(shares)) != index
        found = np.where(others, np.maximum(shares, 1e-6), 0.0)
        found = found / found.sum() * (1.0 - value)
        found[index] = value
        for _ in range(10):
            found = np.where(others, self._step(found), 0.0)
            found = found / max(found.sum(), 1e-300) * (1.0 - value)
            found[index] = value
        return found

    def deviations(self, shares: np.ndarray, count: int) -> np.ndarray:
        """The standard deviations [K] of the estimated shares of `count` images whose true shares these are.

        From the Fisher information of the likelihood, as an average over held-out images.
        """
        likelihood = np.maximum(self.real @ shares, 1e-12)
        information = self.real.T @ (self.real / likelihood[:, None]) / len(self.real)
        covariance = np.linalg.pinv(information, hermitian=True) - np.outer(shares, shares)
        return np.sqrt(np.maximum(np.diag(covariance), 0.0) / count)


def class_shift(fake: np.ndarray, heldout: np.ndarray, fake_classes: np.ndarray, heldout_classes: np.ndarray) -> float:
    """How far images of a class have moved away from real ones, where 1 is the way to the next class: squared distance of
    class means over the squared distance to the nearest other class, less what chance gives; the median over classes.

    `fake` [n, d], `heldout` [m, d]: features; classes are predicted ones. Lost classes leave it at 0: the others do not move.
    Blur and the like move all of them, and at 1/4 the mean stands on the border, so that predictions say nothing of classes.
    """
    present = [k for k in np.unique(heldout_classes) if np.count_nonzero(heldout_classes == k) >= 10]
    if len(present) < 2:
        return 0.0
    means = np.stack([heldout[heldout_classes == k].mean(axis=0) for k in present])
    apart = np.square(means[:, None] - means[None]).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    moved = []
    for place, k in enumerate(present):
        mine, real = fake[fake_classes == k], heldout[heldout_classes == k]
        if len(mine) >= 10:
            chance = mine.var(axis=0).sum() / len(mine) + real.var(axis=0).sum() / len(real)
            moved.append((np.square(mine.mean(axis=0) - means[place]).sum() - chance) / max(apart[place].min(), 1e-30))
    return float(np.median(moved)) if moved else 0.0


def class_distance(
    fake: np.ndarray, heldout: np.ndarray, fake_classes: np.ndarray, heldout_classes: np.ndarray
) -> float:
    """How far samples lie from the middle of the real images of their class, where 1 is as far as those: median squared
    distances in one class over the other, of the median sample. 1 for real images, whichever classes are lost.

    `class_shift` sees classes that move, and this the samples that are scattered around one class because they resemble
    none: an unfinished generator's strokes are all called 1. Medians, for a classifier's odd mistake lies far off.
    """
    found = []
    for k in np.unique(fake_classes):
        mine, real = fake[fake_classes == k], heldout[heldout_classes == k]
        if len(real) >= 10:
            middle = np.median(real, axis=0)
            usual = max(float(np.median(np.square(real - middle).sum(axis=1))), 1e-30)
            found.append(np.full(len(mine), np.median(np.square(mine - middle).sum(axis=1)) / usual))
    return float(np.median(np.concatenate(found))) if found else 1.0
