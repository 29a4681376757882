"""Intra-class collapse: single classes that have lost their variety, while the set as a whole hardly shows it.

Three measures of a class's samples against its real images, each a test: how far they spread, how many of the real images
they lie near, and how many directions they amount to. Each takes its worst class, which corrects for the number of classes.
Samples that are all a little off (bolder, brighter, moved by a pixel) are of poor quality, and as varied as before: spread and
directions are taken around the samples' own mean, and coverage is of samples that are set right first, and near real ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gantk_eval.collapse import coverage, spread, vendi
from gantk_eval.collapse.calibration import ALPHA, Needs, Reason, Relabellings, TestResult, result_of
from gantk_eval.collapse.classes import mode_name
from gantk_eval.collapse.coverage import expected_coverage, incidence, make_balls, reach
from gantk_eval.collapse.spread import Traces
from gantk_eval.collapse.vendi import AXES, moments_of, vendi_scores

__all__ = ["ClassAxes", "class_axes", "class_coverage", "class_spread", "class_vendi"]

FEWEST_JUDGED = 20
"""Classes of which fewer generated or held-out images would be there, were its images shared out evenly, are left out."""
MOST_CLASSES = 100
"""And of very many classes all but the most frequent, where a class costs an eigenvalue problem for each relabelling."""
MOST_BALLS = 2000
"""Reference images of a class that are tried for neighbours."""
FEWEST_NEAR = 0.9
"""A class of whose samples fewer are near a real one, as a share of held-out images', is of poor quality, whatever it covers."""
WIDEST = 1.5
"""A class that spreads so many times as far, squared, as held-out images has not lost directions."""
MOSTLY = 0.8
"""1 − ratio of coverage from which it is `collapsed`: more than of all images, for one class can be faded or bright alone."""
AXES_FROM = 500
"""Reference images of a class that its axes are worked out from."""
DRAWS = 20
"""Random subsets over which a score at a smaller number of images is averaged."""

ClassAxes = dict[int, np.ndarray]
"""By class: the principal axes [d, 16] of its reference images, the longest first."""


def class_spread(traces: Traces, class_names: Sequence[str] | None = None) -> TestResult:
    """The variance of looks within a class. Statistic: the largest shortfall of log trace; effect: the largest 1 − ratio."""
    fakes, reals = traces.members[0], traces.heldout
    judged = _judged(fakes + reals, fakes.sum(), reals.sum())
    judged = judged[np.minimum(fakes, reals)[judged] > 1]
    logs = np.log(np.maximum(traces.variance[:, judged], 1e-30))
    ratios = np.exp(logs[0]) / np.maximum(traces.real[judged], 1e-30)
    said = [
        f"samples of class {mode_name(int(each), class_names)} vary by {ratio:.0%} of what its real images do"
        for each, ratio in zip(judged, ratios, strict=True)
    ]
    result = _worst("class_spread", logs, ratios, judged, said, (spread.SUSPECT, spread.COLLAPSED), "quality")
    if not len(judged):
        result.powerful = False
        result.weakness = (
            f"no class has {FEWEST_JUDGED} generated and {FEWEST_JUDGED} held-out images, so the variety within classes cannot be "
            "judged; generate more, or give more held-out images"
        )
    return result


def class_coverage(
    pool: np.ndarray,
    classes: np.ndarray,
    reference: np.ndarray,
    reference_classes: np.ndarray,
    relabellings: Relabellings,
    class_names: Sequence[str] | None = None,
) -> TestResult:
    """The share of a class's real images that have one of its samples among their neighbours (coverage within the class).

    `pool` [n + m, d]: features of generated, then held-out images; `reference` [r, d]; `classes`, `reference_classes`: as
    recognised. How all classes have moved and shrunk is taken out beforehand (`_set_right`): it is poor quality, or shrinkage,
    and this test is about single classes. Statistic: the largest shortfall against as many images drawn from both sets.
    Effect: the largest 1 − ratio to held-out images, at the smaller number of the two, and of these to so many as are among
    neighbours as often as samples are; none where a class's samples are so by less than 90 % of what held-out images are, for
    what is near no real image covers none.
    """
    count = relabellings.generated
    sizes = np.bincount(classes)
    judged = _judged(sizes, count, len(classes) - count)
    fakes, reals = (np.bincount(side, minlength=len(sizes)) for side in (classes[:count], classes[count:]))
    there = np.bincount(reference_classes, minlength=len(sizes))
    judged = judged[(there[judged] >= FEWEST_JUDGED) & (np.minimum(fakes, reals)[judged] > 1)]
    pool = _set_right(pool, classes, judged, count)
    surplus, seen, wanted = np.zeros((len(relabellings.members), len(judged))), *np.zeros((2, len(judged)))
    for place, each in enumerate(judged):
        inside, middle = np.flatnonzero(classes == each), np.flatnonzero(reference_classes == each)
        balls = make_balls(reference[middle], min(len(inside), MOST_BALLS))
        reached, number = reach(pool[inside], balls), len(balls.radii)
        hit = incidence(reached.ball, reached.image, (number, len(inside)))
        blocks = [(((hit @ block.T) > 0).mean(axis=0), block.sum(axis=1)) for block in relabellings.blocks(inside)]
        covered, size = (np.concatenate(parts) for parts in zip(*blocks, strict=True))

        # A relabelling has more of the class or fewer: what is left to see is variety, and not how often it is drawn.
        numbers, back = np.unique(size.astype(np.int64), return_inverse=True)
        visits = np.bincount(reached.ball, minlength=number)
        surplus[:, place] = covered - np.array([expected_coverage(visits, len(inside), int(n)) for n in numbers])[back]

        fake = inside < count
        mine, real = (np.bincount(reached.ball[side[reached.image]], minlength=number) for side in (fake, ~fake))
        within = np.bincount(reached.image, minlength=len(inside)) > 0
        if within[fake].mean() >= FEWEST_NEAR * within[~fake].mean() > 0:
            least = min(fakes[each], reals[each])
            often = min(1.0, (mine.sum() / fakes[each]) / (real.sum() / reals[each]))
            seen[place] = expected_coverage(mine, int(fakes[each]), int(least))
            wanted[place] = expected_coverage(real, int(reals[each]), round(least * often))
    ratios = np.divide(seen, wanted, out=np.ones(len(judged)), where=wanted > 0)
    said = [
        f"samples of class {mode_name(int(each), class_names)} lie near only {mine:.0%} of its real images, where as many real "
        f"ones would be near {real:.0%}"
        for each, mine, real in zip(judged, seen, wanted, strict=True)
    ]
    return _worst("class_coverage", surplus, ratios, judged, said, (coverage.SUSPECT, MOSTLY), "detail")


def _set_right(pool: np.ndarray, classes: np.ndarray, judged: np.ndarray, count: int) -> np.ndarray:
    """`pool` [n + m, d] with its first `count` images, the generated, moved and scaled as the middle one of the `judged` classes
    is to lie where held-out images of it do, and to spread as they do. One class that has lost a part of itself is in the
    minority, and stays as it is."""
    if not len(judged):
        return pool
    sides = [[pool[:count][classes[:count] == k], pool[count:][classes[count:] == k]] for k in judged]
    moved = np.median([fake.mean(axis=0) - real.mean(axis=0) for fake, real in sides], axis=0)
    spreads = [fake.var(axis=0).sum() / max(real.var(axis=0).sum(), 1e-30) for fake, real in sides]
    scale = float(np.clip(np.sqrt(np.median(spreads)), 0.25, 4.0))
    pool = pool.copy()
    for each, (fake, _) in zip(judged, sides, strict=True):
        mine = np.flatnonzero(classes[:count] == each)
        mean = fake.mean(axis=0)
        pool[mine] = mean + (fake - mean) / scale - moved
    return pool


def class_axes(reference: np.ndarray, classes: np.ndarray) -> ClassAxes:
    """Of reference images [r, d] of which each is recognised as one of `classes` [r]; for the hundred most frequent classes."""
    from scipy.linalg import eigh

    sizes = np.bincount(classes)
    frequent = np.argsort(-sizes, kind="stable")[:MOST_CLASSES]
    found: ClassAxes = {}
    for each in frequent[sizes[frequent] >= FEWEST_JUDGED]:
        mine = reference[np.flatnonzero(classes == each)[:AXES_FROM]].astype(np.float64)
        mine -= mine.mean(axis=0)
        # The smaller of XᵀX and XXᵀ: what the latter's eigenvectors make of the rows of X are the former's.
        many = len(mine) >= mine.shape[1]
        product = mine.T @ mine if many else mine @ mine.T
        vectors = eigh(product, subset_by_index=(max(0, len(product) - AXES), len(product) - 1))[1][:, ::-1]
        if not many:
            vectors = mine.T @ vectors
            vectors /= np.maximum(np.linalg.norm(vectors, axis=0), 1e-12)
        found[int(each)] = np.ascontiguousarray(vectors)
    return found


def class_vendi(
    pool: np.ndarray,
    classes: np.ndarray,
    axes: ClassAxes,
    relabellings: Relabellings,
    class_names: Sequence[str] | None = None,
) -> TestResult:
    """The Vendi score of a class's samples around their own mean: in how many directions they differ.

    `pool` [n + m, d], `classes` [n + m]: as recognised, of generated, then held-out images. Few images amount to fewer
    directions, so all relabellings are compared at one size. Statistic: the largest shortfall of the score's logarithm.
    Effect: the largest 1 − ratio to held-out images, at the smaller number of the two; none where samples spread further than
    real ones, for then it is those that are astray that say in which directions they differ.
    """
    count = relabellings.generated
    generator = np.random.default_rng(0)
    judged, said, logs, ratios = [], [], [], []
    for each in _judged(np.bincount(classes), count, len(classes) - count):
        # In any order, so that the first few members of a relabelling are as good as all of them.
        inside = generator.permutation(np.flatnonzero(classes == each))
        fake = inside < count
        least = int(min(fake.sum(), (~fake).sum()))
        if least < 2 or int(each) not in axes:
            continue
        basis = axes[int(each)]
        products = np.empty((len(inside), basis.shape[1] * (basis.shape[1] + 1) // 2), dtype=np.float32)
        variances = []
        for side in (fake, ~fake):
            values = pool[inside[side]]
            products[side] = moments_of(values, values.mean(axis=0), basis)
            variances.append((values @ basis).var(axis=0).sum())
        scores = vendi_scores(_sums_at_one_size(products, inside, relabellings), basis.shape[1])
        mine, real = (_mean_score(products[side], least, basis.shape[1], generator) for side in (fake, ~fake))
        judged.append(int(each))
        logs.append(np.log(scores))
        ratios.append(mine / real if variances[0] <= WIDEST * variances[1] else 1.0)
        said.append(
            f"samples of class {mode_name(int(each), class_names)} amount to {mine:.1f} different directions, as many real ones "
            f"to {real:.1f} (Vendi score)"
        )
    values = np.stack(logs, axis=1) if logs else np.zeros((len(relabellings.members), 0))
    limits = vendi.SUSPECT, vendi.COLLAPSED
    return _worst("class_vendi", values, np.array(ratios), np.array(judged, dtype=np.int64), said, limits, "detail")


def _sums_at_one_size(values: np.ndarray, places: np.ndarray, relabellings: Relabellings) -> np.ndarray:
    """Of `values` [p, k] at `places` [p] of the pool, float64 [1 + B, k]: over each relabelling's first members among them, as
    many as the one with the fewest has."""
    size = min(int(block.sum(axis=1).min()) for block in relabellings.blocks(places))
    sums = []
    for block in relabellings.blocks(places):
        sums.append((block * (np.cumsum(block, axis=1) <= max(1, size))) @ values)
    return np.concatenate(sums).astype(np.float64)


def _mean_score(products: np.ndarray, number: int, size: int, generator: np.random.Generator) -> float:
    """The Vendi score of `number` of the images with these `moments_of`: the mean over some random choices of them."""
    times = DRAWS if number < len(products) else 1
    draws = np.stack([generator.permutation(len(products))[:number] for _ in range(times)])
    return float(vendi_scores(products.astype(np.float64)[draws].sum(axis=1), size).mean())


def _judged(sizes: np.ndarray, generated: float, heldout: float) -> np.ndarray:
    """Classes, of `sizes` images in both sets together: relabelling must not change which are judged, or p would be wrong."""
    least = min(generated, heldout) / max(generated + heldout, 1)
    return np.flatnonzero(sizes * least >= FEWEST_JUDGED)


def _worst(
    test: str,
    values: np.ndarray,
    ratios: np.ndarray,
    judged: np.ndarray,
    said: Sequence[str],
    limits: tuple[float, float],
    needs: Needs,
) -> TestResult:
    """The result from a measure of variety, `values` [1 + B, k] of the classes `judged` [k], and their `ratios` [k] to real
    images; with what is `said` of each if it is lost; `limits`: from what effects on it is `suspect` or `collapsed`.

    Statistic: the largest shortfall over classes, in standard deviations of the null. Effect: the largest 1 − ratio.
    """
    suspect, collapsed = limits
    if not len(judged):
        return result_of(test, np.zeros(len(values)), effect=0.0, suspect=suspect, collapsed=collapsed, needs=needs)
    deviations = np.maximum(values[1:].std(axis=0), 1e-12)
    shortfalls = (values[1:].mean(axis=0) - values) / deviations
    statistics = shortfalls.max(axis=1)
    class_p = (1 + (statistics[1:, None] >= shortfalls[0] - 1e-9).sum(axis=0)) / len(statistics)
    losses = np.where(class_p <= ALPHA, 1.0 - ratios, 0.0)
    result = result_of(test, statistics, effect=float(losses.max()), suspect=suspect, collapsed=collapsed, needs=needs)
    for place in np.argsort(-losses, kind="stable"):
        if losses[place] >= suspect:
            result.reasons.append(Reason("class collapse", said[place], int(judged[place])))
    return result
