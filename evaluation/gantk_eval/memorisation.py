"""Does the generator copy its training images? C_T, authenticity, and copies counted against held-out images.

Apart from collapse: a generator can copy all of its training set in all its variety. What decides is the *copies*: samples
much nearer to one training image than to any other. Nearness alone decides nothing, for blurred or typical samples lie near
to many training images and copy none of them. A mirrored copy is a copy: training with flips, a generator draws them as often.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gantk_eval.collapse.neighbours import nearest
from gantk_eval.standard_errors import spread_rows

__all__ = ["FEWEST", "MOST_QUERIES", "MemorisationTest", "data_copying", "inconclusive"]

ALPHA = 0.01
COPIES = 0.05
"""The share of copies beyond held-out's own that is called memorisation."""
RATIO_QUANTILE = 0.005
"""Of training images against the others: how rarely a real image is so much nearer to its nearest than to its second."""
FEWEST = 100
MOST_QUERIES = 5000
CELLS = 10
FEWEST_IN_CELL = 20
EXAMPLES = 5


Mirror = Callable[[np.ndarray], np.ndarray]


def inconclusive(reason: str) -> dict[str, Any]:
    """The result where nothing could be tested."""
    return {
        "verdict": "inconclusive",
        "reasons": [reason],
        "c_t": None,
        "c_t_p": None,
        "authenticity": None,
        "authenticity_floor": None,
        "copies": None,
        "copies_floor": None,
        "copies_p": None,
        "mirrored": None,
        "examples": [],
    }


class MemorisationTest:
    """Judges sets of samples against one training set and its held-out images; what does not depend on the samples is worked
    out once. Features [m, d] and [r, d] in which near means looking alike.

    At most 5,000 samples and held-out images are looked at, evenly spaced; the training set is used whole. `mirror`: from
    features [n, d] to those of the mirrored images [n, d]. With it, all distances to a training image are the smaller of the
    two that an image has as it is and mirrored, for samples, held-out and training images alike; without it (features that
    there is no way back from to pixels) mirrored copies are not found. Where half of the training images stand there mirrored as
    well, all are taken as they are: mirrored copies are copies of those, and modulo mirroring each image would be there twice.
    """

    def __init__(self, heldout: np.ndarray, train: np.ndarray, *, seed: int = 0, mirror: Mirror | None = None) -> None:
        self._train, self._seed = train, seed
        self._mirror: Mirror | None = None
        self._looks_mirrored = mirror is not None
        self._heldout = heldout[spread_rows(len(heldout), MOST_QUERIES)]
        self._useless = ""
        if min(len(heldout), len(train)) < FEWEST:
            self._useless = _too_few(min(len(heldout), len(train)))
            return
        rows = spread_rows(len(train), MOST_QUERIES)
        among = self._nearest_others(rows)
        # Training images that are there twice say nothing of how near two different images come.
        self._tiny = 1e-6 * float(np.sqrt(train.var(axis=0, dtype=np.float64).sum()))
        if not self._set_threshold(among[among[:, 0] > self._tiny]):
            return
        if mirror is not None:
            twins = self._ratios(self._leave_out(*nearest(mirror(train[rows]), train, 3), rows)) <= self._threshold
            if twins.mean() < 0.5:
                self._mirror = mirror
                among = self._nearest_others(rows)
                if not self._set_threshold(among[(among[:, 0] > self._tiny) & ~twins]):
                    return
        self._distances, indices, turned = self._nearest(self._heldout, 2)
        self._copied = self._ratios(self._distances) <= self._threshold
        self._authenticity = self._authentic(self._distances[:, 0], indices[:, 0])
        self._cells = _cells(train, seed)
        self._heldout_cells = self._cells(turned)

    def _set_threshold(self, different: np.ndarray) -> bool:
        """From the distances [n, 2] of different training images; False where they are too few for a threshold."""
        if len(different) < FEWEST:
            self._useless = "the reference consists of copies of few images, so a copy means nothing"
            return False
        self._threshold = float(np.quantile(different[:, 0] / different[:, 1], RATIO_QUANTILE))
        return True

    def _ratios(self, distances: np.ndarray) -> np.ndarray:
        first, second = distances[:, 0], distances[:, 1]
        return np.where(first <= self._tiny, 0.0, first / np.maximum(second, self._tiny))

    def _nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distances [n, k] to the k nearest training images and their indices [n, k], nearest first, and the queries [n, d]
        turned as the nearest one lies."""
        distances, indices = nearest(queries, self._train, k)
        if self._mirror is None:
            return distances, indices, queries
        mirrored = self._mirror(queries)
        others, places = nearest(mirrored, self._train, k)
        both, where = np.hstack([distances, others]), np.hstack([indices, places])
        order = np.argsort(both, axis=1, kind="stable")
        both, where = np.take_along_axis(both, order, axis=1), np.take_along_axis(where, order, axis=1)
        # A training image that is near both ways counts once: the second nearest is to be another one.
        repeated = np.zeros(where.shape, dtype=bool)
        for column in range(1, where.shape[1]):
            repeated[:, column] = (where[:, :column] == where[:, column, None]).any(axis=1)
        first = np.argsort(repeated, axis=1, kind="stable")[:, : distances.shape[1]]
        turned = np.where((others[:, 0] < distances[:, 0])[:, None], mirrored, queries)
        return np.take_along_axis(both, first, axis=1), np.take_along_axis(where, first, axis=1), turned

    def _nearest_others(self, rows: np.ndarray) -> np.ndarray:
        """Distances [n, 2] of the training images `rows` to their two nearest others."""
        distances, indices, _ = self._nearest(self._train[rows], 3)
        return self._leave_out(distances, indices, rows)

    @staticmethod
    def _leave_out(distances: np.ndarray, indices: np.ndarray, rows: np.ndarray) -> np.ndarray:
        # Its own place is left out by index: among copies it need not come first.
        own = indices == rows[:, None]
        own[~own.any(axis=1), 2] = True
        return distances[~own].reshape(len(rows), 2)

    def _authentic(self, distances: np.ndarray, indices: np.ndarray) -> float:
        hit, inverse = np.unique(indices, return_inverse=True)
        return float(np.mean(distances > self._nearest_others(hit)[inverse, 0]))

    def judge(self, fake: np.ndarray) -> dict[str, Any]:
        """The verdict `memorised`, `ok` or `inconclusive` on samples [n, d], with what it stands on.

        - `copies`: the share of samples whose nearest training image is so much nearer than the second that among training
          images themselves (each against the others) it happens in 0.5 %. The threshold comes from the training set alone,
          so that under H0 (samples and held-out images exchangeable given it) the numbers on both sides are hypergeometric
          and `copies_p` is exact (Fisher). `copies_floor`: of held-out images.
        - `c_t`: Meehan, Chaudhuri & Dasgupta (2020): in each of 10 cells of the training set the Mann–Whitney z of the
          samples' distances to it against held-out's, averaged with held-out's weights. Well below 0: nearer than held-out
          images are. `c_t_p` is one-sided, from the variance of that average.
        - `authenticity`: AuthPct of Alaa et al. (2022): the share of samples farther from their nearest training image than
          that is from its own nearest other one. `authenticity_floor`: of held-out images.
        - `mirrored`: whether mirrored copies were looked for as well.
        - `examples`: {generated, reference, ratio} of the clearest copies, by index.

        `memorised`: at least 5 % copies beyond held-out's share, and p <= 1 %. `inconclusive`: fewer than 100 images.
        """
        if self._useless or len(fake) < FEWEST:
            return inconclusive(self._useless or _too_few(len(fake)))
        rows = spread_rows(len(fake), MOST_QUERIES)
        samples = fake[rows]
        distances, indices, turned = self._nearest(samples, 2)
        ratios = self._ratios(distances)
        copied = ratios <= self._threshold
        c_t, c_t_p = data_copying(self._cells(turned), self._heldout_cells, distances[:, 0], self._distances[:, 0])
        result: dict[str, Any] = {
            "verdict": "ok",
            "reasons": [],
            "c_t": c_t,
            "c_t_p": c_t_p,
            "authenticity": self._authentic(distances[:, 0], indices[:, 0]),
            "authenticity_floor": self._authenticity,
            "copies": float(copied.mean()),
            "copies_floor": float(self._copied.mean()),
            "copies_p": _fisher(copied, self._copied),
            "mirrored": self._looks_mirrored,
            "examples": [],
        }
        _weigh(result, rows, ratios, copied, indices[:, 0])
        return result


def _too_few(count: int) -> str:
    return f"{count} images are too few to tell copies from chance; give at least {FEWEST} generated, held-out and reference images"


def _weigh(
    result: dict[str, Any], rows: np.ndarray, ratios: np.ndarray, copied: np.ndarray, originals: np.ndarray
) -> None:
    """Puts in verdict, reasons and examples."""
    order = np.argsort(ratios, kind="stable")
    order = order[copied[order]][:EXAMPLES]
    examples = [
        {"generated": int(rows[i]), "reference": int(originals[i]), "ratio": float(ratios[i])} for i in order.tolist()
    ]
    share, floor = result["copies"], result["copies_floor"]
    if result["copies_p"] <= ALPHA and share - floor >= COPIES:
        distinct = len(np.unique(originals[copied]))
        result["verdict"] = "memorised"
        result["examples"] = examples
        result["reasons"] = [
            f"{share:.1%} of samples are copies of {distinct:,} training images: much nearer to one of them than to any other "
            f"({floor:.1%} of held-out images are); sample {examples[0]['generated']} copies image {examples[0]['reference']}"
        ]
        return
    result["reasons"] = [
        f"{share:.1%} of samples are much nearer to one training image than to any other, as {floor:.1%} of held-out images are"
    ]
    if not result["mirrored"]:
        result["reasons"].append(
            "mirrored copies were not looked for: of these features the mirrored ones are not known"
        )
    if result["c_t_p"] is not None and result["c_t_p"] <= ALPHA:
        result["reasons"].append(
            f"samples lie nearer to the training set than held-out images do (C_T = {result['c_t']:.1f}), but not at single "
            "images: so do blurred and typical samples"
        )


def _fisher(fake: np.ndarray, heldout: np.ndarray) -> float:
    """One-sided p of so many copies among the samples, given the copies on both sides."""
    from scipy.stats import hypergeom

    copies = int(fake.sum() + heldout.sum())
    return float(hypergeom.sf(int(fake.sum()) - 1, len(fake) + len(heldout), copies, len(fake)))


def _cells(train: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function from features [n, d] to the cell of each, int64 [n]: k-means on at most 10,000 training images."""
    from sklearn.cluster import KMeans

    fit = train[spread_rows(len(train), 2 * MOST_QUERIES)].astype(np.float64)
    cells = KMeans(min(CELLS, len(fit) // FEWEST_IN_CELL), n_init=1, random_state=seed).fit(fit)
    return lambda features: np.asarray(cells.predict(features.astype(np.float64)))


def data_copying(
    fake_cells: np.ndarray, heldout_cells: np.ndarray, fake_distances: np.ndarray, heldout_distances: np.ndarray
) -> tuple[float | None, float | None]:
    """C_T (Meehan et al. 2020, section 3) and its one-sided p; None where no cell has 20 images of either side.

    The cell of each sample [n] and held-out image [m], and its distance to the nearest training image. Given the cells each
    z is standard normal under H0, so their weighted mean has the variance Σ w².
    """
    from scipy.stats import norm

    scores, weights = [], []
    for cell in np.unique(heldout_cells):
        here, there = fake_distances[fake_cells == cell], heldout_distances[heldout_cells == cell]
        if min(len(here), len(there)) >= FEWEST_IN_CELL:
            scores.append(_mann_whitney(here, there))
            weights.append(len(there))
    if not scores:
        return None, None
    weight = np.array(weights) / sum(weights)
    c_t = float(weight @ np.array(scores))
    return c_t, float(norm.cdf(c_t / np.sqrt(np.square(weight).sum())))


def _mann_whitney(first: np.ndarray, second: np.ndarray) -> float:
    """z of the first being larger than the second, with the variance that ties leave; 0 where all are equal."""
    from scipy.stats import rankdata

    n, m = len(first), len(second)
    pooled = np.concatenate([first, second])
    ranks = rankdata(pooled)
    _, ties = np.unique(pooled, return_counts=True)
    total = n + m
    variance = n * m / 12.0 * (total + 1 - float((ties**3 - ties).sum()) / (total * (total - 1)))
    if variance <= 0:
        return 0.0
    return float((ranks[:n].sum() - n * (n + 1) / 2.0 - n * m / 2.0) / np.sqrt(variance))
