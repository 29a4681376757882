"""Intra-class collapse: single classes that have lost their variety, while the set as a whole hardly shows it.

Three measures of a class's samples against its real images, each a test: how far they spread, how many of the real images
they lie near, and how many directions they amount to. Each takes its worst class, which corrects for the number of classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gantk_eval.collapse import coverage, spread, vendi
from gantk_eval.collapse.calibration import ALPHA, Needs, Reason, Relabellings, TestResult, result_of
from gantk_eval.collapse.classes import mode_name
from gantk_eval.collapse.coverage import Balls, Reach, expected_coverage, incidence
from gantk_eval.collapse.quality import realistic_share
from gantk_eval.collapse.spread import Traces
from gantk_eval.collapse.vendi import moments_of, vendi_axes, vendi_scores

__all__ = ["ClassAxes", "class_axes", "class_coverage", "class_spread", "class_vendi"]

FEWEST_JUDGED = 20
"""Classes with fewer generated or held-out images are left out."""
ALWAYS_NAMED = 3
"""So many classes without variety are named one by one, also where they are most of those that there are."""
MOST_CLASSES = 100
"""And of very many classes all but the most frequent, where a class costs an eigenvalue problem for each relabelling."""
AXES_FROM = 500
"""Reference images of a class that its axes are worked out from."""

ClassAxes = dict[int, tuple[np.ndarray, np.ndarray]]
"""By class: the mean [d] of its reference images and the principal axes [d, 16] of the directions in which they differ from it."""


def class_spread(traces: Traces, class_names: Sequence[str] | None = None) -> TestResult:
    """The variance of looks within a class. Statistic: the largest shortfall of log trace; effect: the largest 1 − ratio."""
    judged = np.flatnonzero((traces.members[0] >= FEWEST_JUDGED) & (traces.heldout >= FEWEST_JUDGED))
    logs = np.log(np.maximum(traces.variance[:, judged], 1e-30))
    ratios = np.exp(logs[0]) / np.maximum(traces.real[judged], 1e-30)
    names = [mode_name(int(each), class_names) for each in judged]
    said = [
        f"samples of class {name} vary by {ratio:.0%} of what its real images do"
        for name, ratio in zip(names, ratios, strict=True)
    ]
    limits = spread.SUSPECT, spread.COLLAPSED
    return _worst("class_spread", logs, ratios, names, said, limits, "quality")


def class_coverage(
    reached: Reach,
    balls: Balls,
    ball_classes: np.ndarray,
    classes: np.ndarray,
    relabellings: Relabellings,
    class_names: Sequence[str] | None = None,
) -> TestResult:
    """The share of a class's real images that have one of its samples among their neighbours (coverage within the class).

    `ball_classes` [N]: of the real images in the middle of `balls`; `classes` [n + m]: as recognised, of generated, then
    held-out images. Statistic: the largest shortfall
    against as many images drawn from both sets. Effect: the largest 1 − ratio to as many held-out images as the class has
    realistic samples.
    """
    count = relabellings.generated
    number = int(max(ball_classes.max(initial=-1), classes.max(initial=-1))) + 1
    sets = (classes[:count], classes[count:], ball_classes)
    judged = np.flatnonzero(np.min([np.bincount(x, minlength=number) for x in sets], axis=0) >= FEWEST_JUDGED)
    surplus, seen, wanted = np.zeros((len(relabellings.members), len(judged))), *np.zeros((2, len(judged)))
    own = np.flatnonzero(ball_classes[reached.ball] == classes[reached.image])
    for place, each in enumerate(judged):
        inside, middle = np.flatnonzero(classes == each), np.flatnonzero(ball_classes == each)
        pairs = own[classes[reached.image[own]] == each]
        ball, image = np.searchsorted(middle, reached.ball[pairs]), np.searchsorted(inside, reached.image[pairs])
        hit = incidence(ball, image, (len(middle), len(inside)))
        blocks = [(((hit @ block.T) > 0).mean(axis=0), block.sum(axis=1)) for block in relabellings.blocks(inside)]
        covered, size = (np.concatenate(parts) for parts in zip(*blocks, strict=True))

        # A relabelling has more of the class or fewer: what is left to see is variety, and not how often it is drawn.
        sizes, back = np.unique(size.astype(np.int64), return_inverse=True)
        visits = np.bincount(ball, minlength=len(middle))
        surplus[:, place] = covered - np.array([expected_coverage(visits, len(inside), int(n)) for n in sizes])[back]

        fake = inside < count
        near = realistic_share(reached.closest[inside[fake]], reached.closest[inside[~fake]])
        real = np.bincount(ball[~fake[image]], minlength=len(middle))
        seen[place] = covered[0]
        wanted[place] = expected_coverage(real, int((~fake).sum()), round(int(fake.sum()) * min(1.0, near / 0.95)))
    # Where no sample of a class looks real, nothing of it can be said to be lost.
    ratios = np.divide(seen, wanted, out=np.ones(len(judged)), where=wanted > 0)
    names = [mode_name(int(each), class_names) for each in judged]
    said = [
        f"samples of class {name} lie near only {mine:.0%} of its real images, where as many real ones would be near {real:.0%}"
        for name, mine, real in zip(names, seen, wanted, strict=True)
    ]
    limits = coverage.SUSPECT, coverage.COLLAPSED
    return _worst("class_coverage", surplus, ratios, names, said, limits, "detail")


def class_axes(reference: np.ndarray, classes: np.ndarray) -> ClassAxes:
    """Of reference images [r, d] of which each is recognised as one of `classes` [r]; for the hundred most frequent classes."""
    sizes = np.bincount(classes)
    frequent = np.argsort(-sizes, kind="stable")[:MOST_CLASSES]
    found: ClassAxes = {}
    for each in frequent[sizes[frequent] >= FEWEST_JUDGED]:
        mine = np.flatnonzero(classes == each)[:AXES_FROM]
        found[int(each)] = vendi_axes(reference[mine].astype(np.float64))
    return found


def class_vendi(
    pool: np.ndarray,
    classes: np.ndarray,
    axes: ClassAxes,
    relabellings: Relabellings,
    class_names: Sequence[str] | None = None,
) -> TestResult:
    """The Vendi score of a class's samples around its own real mean: in how many directions they differ.

    `pool` [n + m, d], `classes` [n + m]: as recognised, of generated, then held-out images. Statistic: the largest shortfall of
    the score's logarithm; few samples amount to fewer directions, so the effect is 1 − the ratio to as many held-out images.
    """
    count = relabellings.generated
    names, said, logs, ratios = [], [], [], []
    generator = np.random.default_rng(0)
    for each, (mean, basis) in sorted(axes.items()):
        inside = np.flatnonzero(classes == each)
        fakes = int(np.count_nonzero(inside < count))
        reals = len(inside) - fakes
        if min(fakes, reals) < FEWEST_JUDGED:
            continue
        products = moments_of(pool[inside], mean, basis)
        sums = [block @ products for block in relabellings.blocks(inside)]
        scores = vendi_scores(np.concatenate(sums).astype(np.float64), basis.shape[1])
        # As many held-out images as there are samples, a few times over; all of them where there are not so many.
        draws = [generator.permutation(reals)[: min(fakes, reals)] for _ in range(20 if fakes < reals else 1)]
        drawn = products[fakes:].astype(np.float64)[np.stack(draws)].sum(axis=1)
        real = float(vendi_scores(drawn, basis.shape[1]).mean())
        name = mode_name(each, class_names)
        names.append(name)
        logs.append(np.log(scores))
        ratios.append(scores[0] / real)
        said.append(
            f"samples of class {name} amount to {scores[0]:.1f} different directions, its real images to {real:.1f} (Vendi score)"
        )
    values = np.stack(logs, axis=1) if logs else np.zeros((len(relabellings.members), 0))
    limits = vendi.SUSPECT, vendi.COLLAPSED
    return _worst("class_vendi", values, np.array(ratios), names, said, limits, "detail")


def _worst(
    test: str,
    values: np.ndarray,
    ratios: np.ndarray,
    names: Sequence[str],
    said: Sequence[str],
    limits: tuple[float, float],
    needs: Needs,
) -> TestResult:
    """The result from a measure of variety, `values` [1 + B, k] of k classes, and their `ratios` [k] to real images; with
    their `names` and what is `said` of each if it is lost; `limits`: from what effects on it is `suspect` or `collapsed`.

    Statistic: the largest shortfall over classes, in standard deviations of the null. Effect: the largest 1 − ratio.
    """
    suspect, collapsed = limits
    if not len(names):
        return result_of(test, np.zeros(len(values)), effect=0.0, suspect=suspect, collapsed=collapsed, needs=needs)
    deviations = np.maximum(values[1:].std(axis=0), 1e-12)
    shortfalls = (values[1:].mean(axis=0) - values) / deviations
    statistics = shortfalls.max(axis=1)
    class_p = (1 + (statistics[1:, None] >= shortfalls[0] - 1e-9).sum(axis=0)) / len(statistics)
    losses = np.where(class_p <= ALPHA, 1.0 - ratios, 0.0)
    result = result_of(test, statistics, effect=float(losses.max()), suspect=suspect, collapsed=collapsed, needs=needs)
    worst = [int(place) for place in np.argsort(-losses) if losses[place] >= suspect]
    if len(worst) > max(ALWAYS_NAMED, len(names) // 2):  # then it is no matter of single classes
        what = f"{len(worst)} of {len(names)} classes have lost their variety; of the worst, {said[worst[0]]}"
        result.reasons.append(Reason("diversity", what))
    else:
        result.reasons += [Reason("class collapse", said[place], names[place]) for place in worst]
    return result
