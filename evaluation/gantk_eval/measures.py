"""One metric of one set of features against another: its value, its errors, and whether there are enough images for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gantk_eval.extrapolation import PER_DIMENSION, extrapolated_frechet_distance, why_not_extrapolated
from gantk_eval.features import Features
from gantk_eval.frechet import frechet_distance
from gantk_eval.inception_score import SPLITS, inception_score
from gantk_eval.kernel_distance import SUBSET_SIZE, SUBSETS, kernel_distance
from gantk_eval.neighbours import BALLS, MOST_IMAGES, neighbour_scores
from gantk_eval.standard_errors import (
    frechet_standard_error,
    inception_score_standard_error,
    kernel_distance_standard_error,
)
from gantk_eval.statistics import Statistics
from gantk_eval.vendi import vendi_score

__all__ = ["Measured", "fewest_images", "measure", "neighbour_count"]

FEWEST_IN_SUBSET = 20
"""Images in each of KID's subsets. Of two images it can be tens of thousands below zero: unbiased, with a variance like that."""
FEWEST_NEIGHBOURS = 1000
"""At this many images precision's standard error is at most 1.6 points."""
PER_CLASS = 5
"""Images a class in each split, below which an Inception Score is mostly its own bias ((classes - 1) / 2 n of its log)."""
USUAL_INCEPTION = 50_000
"""What the literature takes for an Inception Score."""
PER_DIRECTION = 10
"""Images for each effective one, below which a Vendi score says more of their number than of their variety."""


@dataclass
class Measured:
    """A value with what is known of its error; `none_because`: field -> why it is None."""

    value: float
    n_fake: int
    n_real: int
    standard_error: float | None = None
    std: float | None = None
    extrapolated: float | None = None
    warning: str | None = None
    more: dict[str, Any] = field(default_factory=dict)
    none_because: dict[str, str] = field(default_factory=dict)


def neighbour_count(fake: int, real: int) -> int:
    """How many images of each side precision, recall, density and coverage take: as many of one as of the other."""
    return min(fake, real, MOST_IMAGES)


def fewest_images(kind: str) -> int:
    """The number of images of each side below which the metric cannot be computed, or its value would mean nothing."""
    return {"is": SPLITS, "kd": FEWEST_IN_SUBSET}.get(kind, 3 if kind in BALLS else 2)


def measure(kind: str, fake: Features, real: Features, subset_size: int, *, errors: bool = True) -> Measured:
    """Works out a metric. `errors`: whether also its standard error, its value at infinite N and its warning (a floor
    needs none of them)."""
    result = _MEASURES[kind](fake, real, subset_size, errors)
    if errors:
        result.warning = _warning(kind, fake, real, subset_size, result.value)
        if result.standard_error is None and "standard_error" not in result.none_because:
            result.none_because["standard_error"] = "no valid method is known for it"
    return result


def _frechet(fake: Features, real: Features, subset_size: int, errors: bool) -> Measured:
    value = frechet_distance(fake.statistics, real.statistics, first_factor=fake.factor, second_factor=real.factor)
    result = Measured(value, len(fake), len(real))
    if errors:
        result.standard_error = frechet_standard_error(fake.values, fake.statistics, real.statistics, real.factor)
        why_not = why_not_extrapolated(*fake.values.shape)
        if not why_not:
            result.extrapolated = extrapolated_frechet_distance(
                fake.values,
                real.statistics,
                reference_factor=real.factor,
                whole=None if fake.total is not None else value,
            )
            why_not = "FD at n, n/2 and n/4 images does not lie on a line in 1/N"
        if result.extrapolated is None:
            result.none_because["extrapolated"] = why_not
    return result


def _inception(fake: Features, real: Features, subset_size: int, errors: bool) -> Measured:
    value, std = inception_score(fake.logits)
    result = Measured(value, len(fake), len(real), std=std)
    if errors and len(fake) >= 2 * SPLITS:
        result.standard_error = inception_score_standard_error(fake.logits, SPLITS)
    elif errors:
        result.none_because["standard_error"] = "its variance takes at least 2 images in each split"
    return result


def _kernel(fake: Features, real: Features, subset_size: int, errors: bool) -> Measured:
    size = min(subset_size, len(fake))
    value, std = kernel_distance(fake.values, real.values, subset_size=size)
    result = Measured(value, len(fake), len(real), std=std, more={"subset_size": size})
    if errors and len(fake) >= 4:
        result.standard_error = kernel_distance_standard_error(
            fake.values, real.values, subsets=SUBSETS, subset_std=std
        )
    elif errors:
        result.none_because["standard_error"] = "its variance takes at least 4 generated images"
    return result


def _neighbours(kind: str, fake: Features, real: Features, errors: bool) -> Measured:
    count = neighbour_count(len(fake), len(real))
    mine, theirs = fake.balls(count), real.balls(count)
    if mine.scores is None or mine.scores[0] is not theirs:  # the four of them are worked out together
        mine.scores = (theirs, neighbour_scores(mine, theirs))
    value, error = getattr(mine.scores[1], kind)
    more = {"neighbours": BALLS[kind]}
    return Measured(value, count, count, standard_error=error if errors else None, more=more)


def _vendi(fake: Features, real: Features, subset_size: int, errors: bool) -> Measured:
    value, error = vendi_score(fake.values)
    return Measured(value, len(fake), len(real), standard_error=error)


_MEASURES = {
    "fd": _frechet,
    "is": _inception,
    "kd": _kernel,
    "vendi": _vendi,
    **{
        kind: lambda fake, real, _, errors, kind=kind: _neighbours(kind, fake, real, errors)  # type: ignore[misc]
        for kind in BALLS
    },
}


def _is_one_point(statistics: Statistics) -> bool:
    """Whether all features are equal, but for rounding."""
    scale = float(np.square(statistics.mean).sum())
    return float(np.trace(statistics.covariance)) <= float(np.finfo(np.float32).eps) ** 2 * scale


def _warning(kind: str, fake: Features, real: Features, subset_size: int, value: float) -> str | None:
    """The sentence where there are too few images for the metric to mean much, with the number that would do."""
    count, dims = fake.values.shape
    if kind == "fd" and _is_one_point(real.statistics):
        return "the features of all real images are equal, so it is the mean squared distance to one point; check the images"
    if kind == "fd" and min(count, len(real)) < PER_DIMENSION * dims:
        which, number = ("generated", count) if count <= len(real) else ("real", len(real))
        what = "the covariance has no full rank" if number <= dims else "its bias is large and not a line in 1/N"
        return f"with {number:,} {which} images in {dims:,} dimensions {what}; {PER_DIMENSION * dims:,} would do"
    if kind == "is":
        enough = min(USUAL_INCEPTION, PER_CLASS * SPLITS * fake.logits.shape[1])
        if count < enough:
            return f"{count:,} images in {SPLITS} splits bias it downwards; {enough:,} would do"
    if kind == "kd" and min(subset_size, count) < SUBSET_SIZE:
        return f"subsets of {min(subset_size, count):,} images are not the usual ones; {SUBSET_SIZE:,} would do"
    if kind in BALLS and neighbour_count(count, len(real)) < FEWEST_NEIGHBOURS:
        return (
            f"it depends on the number of images, {neighbour_count(count, len(real)):,} on each side; "
            f"{FEWEST_NEIGHBOURS:,} would do"
        )
    if kind == "vendi" and count < PER_DIRECTION * value:
        return f"{count:,} images are few for so many effective ones; {int(PER_DIRECTION * value) + 1:,} would do"
    return None
