"""The verdict: which tests fired, whether they could have, and what that means, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gantk_eval.collapse.calibration import ALPHA, PERMUTATIONS, TestResult, holm
from gantk_eval.collapse.classes import class_histogram
from gantk_eval.collapse.duplicates import duplicate_distance, duplicates
from gantk_eval.collapse.quality import FEWEST_REALISTIC, realism

__all__ = ["MOST_IMAGES", "ClassEvidence", "Evidence", "inconclusive", "judge"]

MOST_IMAGES = 10_000
"""Of each set, the first so many go into the tests that compare all pairs."""


@dataclass(frozen=True)
class ClassEvidence:
    """What a classifier says: its features and predicted classes, and its confusion [true, predicted] (counts)."""

    fake: np.ndarray
    heldout: np.ndarray
    reference: np.ndarray
    fake_classes: np.ndarray
    heldout_classes: np.ndarray
    confusion: np.ndarray
    class_names: Sequence[str] | None = None


@dataclass(frozen=True)
class Evidence:
    """Features of generated, held-out and reference images: [n, d], [m, d], [r, d], in which near means looking alike."""

    fake: np.ndarray
    heldout: np.ndarray
    reference: np.ndarray
    classes: ClassEvidence | None = None
    no_classes_because: str = "the reference has no labels"


def inconclusive(reason: str) -> dict[str, Any]:
    """The verdict where nothing could be tested."""
    return {"verdict": "inconclusive", "reasons": [reason], "tests": [], "missing": []}


def judge(evidence: Evidence, *, seed: int = 0, permutations: int = PERMUTATIONS) -> dict[str, Any]:
    """Weighs the tests: {verdict, reasons, tests, missing}, as in the evaluation result.

    `collapsed` or `suspect`: a test's p, adjusted over the family (Holm), is at most 1 % *and* its effect is that large.
    `inconclusive`: nothing fired, but a test had too few images, was not possible, or the samples are too unlike real
    images to judge modes (poor quality is not collapse). `ok`: nothing fired that would have.
    """
    fake, heldout, reference = (x[:MOST_IMAGES] for x in (evidence.fake, evidence.heldout, evidence.reference))
    classes = evidence.classes
    if classes is not None:
        likeness = realism(classes.fake[:MOST_IMAGES], classes.heldout[:MOST_IMAGES], classes.reference[:MOST_IMAGES])
        # Near in a classifier's eyes and near in pixels are both needed: noise can land on a class's features.
        likeness = min(likeness, realism(fake, heldout, reference))
    else:
        likeness = realism(fake, heldout, reference)
    unreal = likeness < FEWEST_REALISTIC
    distance = duplicate_distance(reference)
    if unreal:
        # Faint or blurred samples are near to each other for their lack of contrast: distances shrink with their spread.
        contrast = np.sqrt(fake.var(axis=0).sum() / max(heldout.var(axis=0).sum(), 1e-300))
        distance *= min(1.0, max(float(contrast), 1e-6))  # equal images stay equal in the face of rounding
    tests = [duplicates(fake, heldout, distance, seed=seed, permutations=permutations)]
    tests[0].needs_quality = False
    if classes is not None:
        tests.append(
            class_histogram(
                classes.fake_classes,
                classes.heldout_classes,
                classes.confusion,
                class_names=classes.class_names,
                seed=seed + 1,
                permutations=permutations,
            )
        )
    for test, adjusted in zip(tests, holm([test.p for test in tests]), strict=True):
        test.p_adjusted = adjusted
    return {**_weigh(tests, evidence, likeness, unreal), "tests": [test.to_dict() for test in tests]}


def _weigh(tests: list[TestResult], evidence: Evidence, likeness: float, unreal: bool) -> dict[str, Any]:
    fired = [t for t in tests if t.severity != "none" and t.p_adjusted <= ALPHA and not (unreal and t.needs_quality)]
    fired.sort(key=lambda t: (t.severity != "collapsed", -t.effect))
    reasons = [reason for test in fired for reason in test.reasons]
    missing = [mode for test in fired for mode in test.missing]
    quality = (
        f"quality: only {likeness:.0%} of samples are as near to real images as 95 % of held-out images are, "
        "so lost modes cannot be told from poor quality"
    )
    if fired:
        verdict = "collapsed" if any(t.severity == "collapsed" for t in fired) else "suspect"
        return {"verdict": verdict, "reasons": reasons + ([quality] if unreal else []), "missing": missing}
    if unreal:
        return {"verdict": "inconclusive", "reasons": [quality], "missing": []}
    weak = [test.weakness for test in tests if not test.powerful]
    if evidence.classes is None:
        weak.append(f"lost modes cannot be judged: {evidence.no_classes_because}")
    if weak:
        return {"verdict": "inconclusive", "reasons": weak, "missing": []}
    calm = "no class is lost or starved, and near-duplicates are no more frequent than in real images"
    return {"verdict": "ok", "reasons": [calm], "missing": []}
