"""Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020), by blocks.

A ball around each image of a set reaches to its k-th nearest other image of that set; the balls together stand for the
set's manifold. Precision: the share of generated images inside a real ball. Recall: the share of real images inside a
generated ball. Density: how many real balls a generated image lies in, over k. Coverage: the share of real balls with a
generated image inside. k = 3 for precision and recall, 5 for density and coverage; the border belongs to the ball (<=), and
an image is no neighbour of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gantk_eval.standard_errors import share_standard_error

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BALLS", "MOST_IMAGES", "Balls", "NeighbourScores", "neighbour_scores"]

PRECISION_K = 3
DENSITY_K = 5
BALLS = {"precision": PRECISION_K, "recall": PRECISION_K, "density": DENSITY_K, "coverage": DENSITY_K}
"""k of each measure."""
MOST_IMAGES = 10_000
"""Of each side; the work grows with the product of both, and the literature's values are at 10,000."""
CELLS = 1 << 23
"""Distances held at a time (64 MB)."""


@dataclass(frozen=True)
class NeighbourScores:
    """Each measure as (value, standard error over other samples of the model, the reference held fixed)."""

    precision: tuple[float, float]
    recall: tuple[float, float]
    density: tuple[float, float]
    coverage: tuple[float, float]


class Balls:
    """One set of features [n, d] with the squared distances of each to its nearest others; work it out once.

    `squared` float64 [n, k] and `nearest` int64 [n, k], nearest first, for k up to 5 (fewer where there are fewer points).
    """

    scores: tuple[Balls, NeighbourScores] | None = None
    """What was last worked out against which real balls."""

    def __init__(self, features: np.ndarray) -> None:
        import torch

        self.points = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float64))
        count = len(self.points)
        k = min(DENSITY_K, count - 1)
        self.squared = np.empty((count, k))
        self.nearest = np.empty((count, k), dtype=np.int64)
        block = max(1, CELLS // max(1, count))
        for start in range(0, count, block):
            squared = _squared(self.points[start : start + block], self.points)
            rows = torch.arange(len(squared))
            squared[rows, start + rows] = torch.inf
            values, found = squared.topk(k, dim=1, largest=False)
            self.squared[start : start + block] = values.numpy()
            self.nearest[start : start + block] = found.numpy()

    def __len__(self) -> int:
        return len(self.points)

    def radius(self, k: int) -> np.ndarray:
        """Squared radii float64 [n] of the balls to the k-th neighbour, or the last that there is."""
        return self.squared[:, min(k, self.squared.shape[1]) - 1]


def _squared(queries: Tensor, points: Tensor) -> Tensor:
    """Squared distances float64 [n, m]; what is rounding beside the lengths is 0, so that copies are at no distance."""
    import torch

    lengths = points.square().sum(dim=1)[None, :] + queries.square().sum(dim=1, keepdim=True)
    squared = torch.addmm(lengths, queries, points.T, alpha=-2.0)
    return torch.where(squared > 1e-12 * lengths, squared, 0.0)


def neighbour_scores(fake: Balls, real: Balls) -> NeighbourScores:
    """The four measures of generated against real features; memory is bounded, at any numbers of images.

    Errors: precision and density are means over generated images, which are independent given the reference, so theirs
    is a share's and the standard deviation over √n. Recall and coverage are not; theirs is the jackknife's, leaving out each generated
    image once (balls that lose a neighbour grow), which on average is no smaller than the truth (Efron & Stein 1981).
    """
    import torch

    count, reals = len(fake), len(real)
    wide, narrow = (torch.from_numpy(real.radius(k)) for k in (DENSITY_K, PRECISION_K))
    reach = torch.from_numpy(fake.radius(PRECISION_K))
    # Each ball as it would be if one of the neighbours that it reaches were left out.
    grown = torch.from_numpy(fake.radius(PRECISION_K + 1))
    reached = fake.nearest[:, :PRECISION_K]
    inside = np.zeros(count, dtype=bool)
    balls = np.zeros(count, dtype=np.int64)
    covered = recalled = 0
    alone = np.zeros(count)  # real balls that only this generated image is in
    change = np.zeros(count)  # how recall's count changes when this generated image is left out
    block = max(1, CELLS // max(1, count))
    for start in range(0, reals, block):
        rows = slice(start, start + block)
        squared = _squared(real.points[rows], fake.points)
        inside |= (squared <= narrow[rows, None]).any(dim=0).numpy()
        occupied = squared <= wide[rows, None]
        balls += occupied.sum(dim=0).numpy()
        occupants = occupied.sum(dim=1)
        covered += int((occupants > 0).sum())
        alone += occupied[occupants == 1].sum(dim=0).numpy()
        holders = squared <= reach
        numbers = holders.sum(dim=1)
        recalled += int((numbers > 0).sum())
        few = torch.nonzero(numbers <= 1)[:, 0]
        change += _recall_changes(holders[few].numpy(), (squared[few] <= grown).numpy(), reached)
    density, coverage = balls / DENSITY_K, covered / reals
    return NeighbourScores(
        (float(inside.mean()), share_standard_error(int(inside.sum()), count)),
        (recalled / reals, _jackknife(change / reals)),
        (float(density.mean()), float(density.std(ddof=1) / np.sqrt(count))),
        (coverage, _jackknife(alone / reals)),
    )


def _recall_changes(holders: np.ndarray, grown: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """For real images in at most one generated ball: +1 or -1 for each generated image whose absence changes that.

    `holders`, `grown` bool [rows, n]: in whose ball each real image is, and in whose it would be if that lost a neighbour;
    `reached` int64 [n, 3]: the neighbours that a ball reaches.
    """
    change = np.zeros(holders.shape[1])
    rows, balls = np.nonzero(grown & ~holders)
    # (real image, left-out image) pairs for which some other ball grows over the real image.
    pairs: np.ndarray = np.unique(np.stack([np.repeat(rows, reached.shape[1]), reached[balls].ravel()], axis=1), axis=0)
    held = np.asarray(holders.any(axis=1))
    sole: np.ndarray = np.where(held, holders.argmax(axis=1), -1)
    gained = pairs[~held[pairs[:, 0]], 1]
    np.add.at(change, gained, 1.0)
    saved = np.zeros(len(holders), dtype=bool)
    left_out = sole[pairs[:, 0]]
    saved[pairs[pairs[:, 1] == left_out, 0]] = True
    np.add.at(change, sole[held & ~saved], -1.0)
    return change


def _jackknife(changes: np.ndarray) -> float:
    """The jackknife's standard error from how the value changes when each of n is left out."""
    count = len(changes)
    return float(np.sqrt((count - 1) / count * np.square(changes - changes.mean()).sum()))
