"""Coverage (Naeem et al. 2020): real images with a sample among their neighbours, as a ratio to what real images reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gantk_eval.collapse.calibration import Reason, Relabellings, TestResult, result_of
from gantk_eval.collapse.neighbours import kth_other, squared_distances

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Balls", "Reach", "coverage", "expected_coverage", "incidence", "make_balls", "reach"]

NEIGHBOURS = 5
SUSPECT, COLLAPSED = 0.35, 0.6  # 1 − coverage / coverage of equally many real images
MOST_BALLS = 10_000


@dataclass(frozen=True)
class Balls:
    """`centers` [N, d]: real images; `radii` [N]: how far each one's 5th nearest other is."""

    centers: np.ndarray
    radii: np.ndarray


def make_balls(reference: np.ndarray, count: int, seed: int = 0) -> Balls:
    """Of as many real images as there are samples (`count`), at most 10,000: with many more samples than balls all are hit."""
    number = min(count, len(reference), MOST_BALLS)
    centers = reference[np.sort(np.random.default_rng(seed).permutation(len(reference))[:number])]
    return Balls(centers, kth_other(centers, NEIGHBOURS))


@dataclass(frozen=True)
class Reach:
    """Which images lie in which balls: pairs (`image`, `ball`); `closest` [p]: each image's distance to its nearest centre."""

    closest: np.ndarray
    image: np.ndarray
    ball: np.ndarray


def reach(pool: np.ndarray, balls: Balls, *, pairs: bool = True) -> Reach:
    """The distances of `pool` [p, d] to the balls, looked at once; without `pairs`, only `closest`."""
    closest = np.empty(len(pool), dtype=np.float32)
    images, found = [], []
    limits = np.square(balls.radii).astype(np.float32)[None, :]
    for rows, squared in squared_distances(pool, balls.centers):
        closest[rows] = squared.min(axis=1)
        if pairs:
            image, ball = np.divmod(np.flatnonzero(squared <= limits), len(balls.radii))
            images.append(image + rows.start)
            found.append(ball)
    none = np.empty(0, dtype=np.int64)
    return Reach(np.sqrt(np.maximum(closest, 0.0)), np.concatenate([none, *images]), np.concatenate([none, *found]))


def coverage(reached: Reach, balls: int, realistic: float, relabellings: Relabellings) -> TestResult:
    """The share of `balls` with a generated image inside, against that of equally many real images.

    `reached`: of generated, then held-out images. `realistic`: the share of generated images that look real. The others
    cannot cover anything, which is poor quality and no lost diversity; so the effect compares with what n · realistic real
    images would cover.
    """
    pool = len(reached.closest)
    inside = incidence(reached.ball, reached.image, (balls, pool))
    covered = np.concatenate([((inside @ block.T) > 0).mean(axis=0) for block in relabellings.blocks()])
    count = relabellings.generated
    visited = np.bincount(reached.ball[reached.image >= count], minlength=balls)
    expected = expected_coverage(visited, pool - count, round(count * realistic))
    # Where no sample looks real none is expected to cover anything, and nothing can be said to be lost.
    effect = 1.0 - covered[0] / expected if expected > 0 else 0.0
    result = result_of("coverage", 1.0 - covered, effect=effect, suspect=SUSPECT, collapsed=COLLAPSED, needs="detail")
    if result.severity != "none":
        text = (
            f"only {covered[0]:.0%} of real images have a sample among their neighbours, where {expected:.0%} would with "
            f"{round(count * realistic):,} real images"
        )
        result.reasons.append(Reason("diversity", text))
    return result


def incidence(balls: np.ndarray, images: np.ndarray, shape: tuple[int, int]) -> csr_matrix:
    """A sparse float32 matrix [balls, images] that is 1 for these pairs."""
    from scipy.sparse import csr_matrix

    return csr_matrix((np.ones(len(balls), dtype=np.float32), (balls, images)), shape=shape)


def expected_coverage(visited: np.ndarray, heldout: int, draws: int) -> float:
    """The mean coverage by `draws` of so many held-out images, of which `visited` [N] lie in each ball."""
    if draws <= heldout:
        from scipy.special import gammaln

        others = heldout - visited
        possible = others >= draws
        left = np.where(possible, others, draws)
        log_missed = gammaln(left + 1) - gammaln(left - draws + 1) - gammaln(heldout + 1) + gammaln(heldout - draws + 1)
        missed = np.where(possible, np.exp(log_missed), 0.0)
    else:
        missed = (1.0 - visited / heldout) ** draws
    return float(1.0 - missed.mean())
