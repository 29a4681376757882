"""The verdict: which tests fired, whether they could have, and what that means, in words.

Reasons stand in the order of `calibration.Kind`, a cause before what follows from it: duplicates; lost classes; starved
classes; lost and starved modes (regions of real data, in classes or where there are none); within-mode shrinkage; single
classes without variety; labels ignored or swapped; lost diversity of no particular kind. Where samples shrink towards the
middle of their modes, the edges of the modes are empty in consequence, and lost modes come after shrinkage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np

from gantk_eval.collapse.bins import bins
from gantk_eval.collapse.calibration import PERMUTATIONS, Kind, Needs, Reason, Relabellings, TestResult, holm
from gantk_eval.collapse.classes import class_histogram
from gantk_eval.collapse.conditional import label_agreement
from gantk_eval.collapse.coverage import coverage, reach
from gantk_eval.collapse.duplicates import duplicates
from gantk_eval.collapse.intra_class import class_coverage, class_spread, class_vendi
from gantk_eval.collapse.known import Known
from gantk_eval.collapse.label_shift import class_distance, class_shift
from gantk_eval.collapse.pairs import pair_distance
from gantk_eval.collapse.quality import (
    FEWEST_CERTAIN,
    FEWEST_REALISTIC,
    FURTHEST_SHIFT,
    WIDEST_CLASS,
    certain_share,
    realistic_share,
)
from gantk_eval.collapse.spread import mode_traces, within_mode
from gantk_eval.collapse.vendi import vendi

__all__ = ["MOST_IMAGES", "ClassEvidence", "Evidence", "Judgement", "examine", "inconclusive", "judge"]

MOST_IMAGES = 10_000
"""Of each set, so many at most go into the tests that compare all pairs; drawn by a fixed seed."""
ALWAYS_NAMED = 3
"""So many classes without variety are named one by one, also where they are most of those that there are."""
MOST_REASONS = 10
"""Sentences of one kind; with a thousand classes the rest is classes."""


@dataclass(frozen=True)
class ClassEvidence:
    """What a classifier says: its features and predicted classes, and its confusion [true, predicted] (counts). Rows of the
    reference are those of `Evidence.reference`.

    `fake_labels`, `heldout_labels`: the label that each sample was asked to have, and the true label of each held-out image,
    in the classifier's numbering (-1: of no class that it knows); where both are there, labels are tested too.
    `fake_logits`, `heldout_logits` [n, K], [m, K]: with them shares of classes are known more exactly than by counting.
    """

    fake: np.ndarray
    heldout: np.ndarray
    reference: np.ndarray
    fake_classes: np.ndarray
    heldout_classes: np.ndarray
    reference_classes: np.ndarray
    confusion: np.ndarray
    class_names: Sequence[str] | None = None
    fake_labels: np.ndarray | None = None
    heldout_labels: np.ndarray | None = None
    fake_logits: np.ndarray | None = None
    heldout_logits: np.ndarray | None = None


@dataclass(frozen=True)
class Evidence:
    """Features of generated, held-out and reference images: [n, d], [m, d], [r, d], in which near means looking alike.

    `classes`: a classifier's view. `deep`: features (generated, held-out, reference) that know what an image shows, such as
    Inception's; the classifier's by default, and where there is no classifier the first three. `no_classes_because`: where
    there are no classes, why what there is cannot see lost modes; empty where it can (points in the plane).
    """

    fake: np.ndarray
    heldout: np.ndarray
    reference: np.ndarray
    classes: ClassEvidence | None = None
    no_classes_because: str = "the reference has no labels"
    deep: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None


@dataclass
class Judgement:
    """The verdict with what it stands on. `kinds`: of the reasons, in their order (a remark on quality after them has none).
    `alike`: the classes whose samples have lost their variety. `unreal`: whether samples are too unlike real images
    for lost modes to be judged. `realism`: the share of samples that look like real images; `shift`: how far classes have
    moved (`label_shift.class_shift`); `duplicate_distance`: within which two samples are near-duplicates."""

    verdict: str
    reasons: list[str]
    kinds: list[Kind]
    tests: list[TestResult] = field(default_factory=list)
    missing: list[dict[str, Any]] = field(default_factory=list)
    alike: list[int] = field(default_factory=list)
    unreal: bool = False
    realism: float = 1.0
    shift: float = 0.0
    duplicate_distance: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """{verdict, reasons, tests, missing}, as in the evaluation result."""
        return {
            "verdict": self.verdict,
            "reasons": self.reasons,
            "tests": [test.to_dict() for test in self.tests],
            "missing": self.missing,
        }


def inconclusive(reason: str) -> dict[str, Any]:
    """The verdict where nothing could be tested."""
    return Judgement("inconclusive", [reason], []).to_dict()


def judge(
    evidence: Evidence, *, seed: int = 0, permutations: int = PERMUTATIONS, known: Known | None = None
) -> dict[str, Any]:
    """Weighs the tests: {verdict, reasons, tests, missing}, as in the evaluation result; see `examine`."""
    return examine(evidence, seed=seed, permutations=permutations, known=known).to_dict()


def knowledge_of(evidence: Evidence) -> Known:
    """What `examine` would work out of the reference; hand it to each call that has the same reference."""
    rows = places(len(evidence.reference), 2)
    looks, deep = evidence.reference, deep_features(evidence)[2]
    some = looks[rows]
    return Known(some, some if deep is looks else deep[rows], rows)


def examine(
    evidence: Evidence,
    *,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    known: Known | None = None,
    relabellings: Relabellings | None = None,
) -> Judgement:
    """Weighs the tests. `relabellings`: drawn before, for as many images, instead of by `seed`.

    `collapsed` or `suspect`: a test's p, adjusted over the family (Holm), is at most 1 % *and* its effect is that large.
    `inconclusive`: nothing fired, but a test had too few images, was not possible, or the samples are too unlike real
    images to judge modes (poor quality is not collapse). `ok`: nothing fired that would have.
    """
    known = known or knowledge_of(evidence)
    classes = evidence.classes
    fake_deep, heldout_deep, _ = deep_features(evidence)
    fakes, reals = (places(len(x), role) for role, x in enumerate((evidence.fake, evidence.heldout)))
    fake, heldout = evidence.fake[fakes], evidence.heldout[reals]
    count = len(fake)
    relabellings = relabellings or Relabellings.draw(count, len(heldout), permutations, seed)
    looks = np.concatenate([fake, heldout])
    apart = known.deep is not known.looks
    deep = np.concatenate([fake_deep[fakes], heldout_deep[reals]]) if apart else looks

    spheres = known.balls(count, deep=False)
    reached = reach(looks, spheres, pairs=not apart)
    likeness = realistic = realistic_share(reached.closest[:count], reached.closest[count:])
    if apart:
        spheres = known.balls(count, deep=True)
        reached = reach(deep, spheres)
        # Near in a classifier's eyes and near in pixels are both needed: noise can land on a class's features.
        realistic = min(likeness, realistic_share(reached.closest[:count], reached.closest[count:]))

    shift, wide, certain = 0.0, 1.0, 1.0
    if classes is not None:
        if classes.fake_logits is not None and classes.heldout_logits is not None:
            certain = certain_share(
                classes.fake_logits[fakes],
                classes.heldout_logits[reals],
                classes.fake_classes[fakes],
                classes.heldout_classes[reals],
            )
        sides = (deep[:count], deep[count:], classes.fake_classes[fakes], classes.heldout_classes[reals])
        shift, wide = class_shift(*sides), class_distance(*sides)
    cells = known.bins(count)
    where = cells.assign(deep)
    strayed = class_shift(deep[:count], deep[count:], where[:count], where[count:])

    # Shrunken, faint or blurred samples are near to each other without being copies: distances shrink with their spread. By
    # half at most for samples that look real, or copies of one image would not be near enough; the others may all be faint.
    faint = float(np.sqrt(fake.var(axis=0).sum() / max(heldout.var(axis=0).sum(), 1e-300)))
    least = 0.5 if realistic >= FEWEST_REALISTIC else 1e-6  # equal images stay equal in the face of rounding
    distance = known.duplicate_distance * float(np.clip(faint, least, 1.0))
    tests = [duplicates(fake, heldout, distance, relabellings)]
    if classes is not None:
        tests.append(
            class_histogram(
                classes.fake_classes,
                classes.heldout_classes,
                classes.confusion,
                relabellings,
                fake_logits=classes.fake_logits,
                heldout_logits=classes.heldout_logits,
                class_names=classes.class_names,
                places=(fakes, reals),
                seed=seed,
            )
        )
    # Where there are classes it is they that are looked for; where neither they nor such features are, the verdict says so.
    losses = known.losses(count) if classes is None and not evidence.no_classes_because else None
    tests.append(bins(where[:count], where[count:], cells.shares, relabellings, names="region", losses=losses))
    rotated = (looks - known.looks.mean(axis=0)) @ known.axes
    traces = mode_traces(rotated, known.cells.assign(looks), len(known.cells.shares), relabellings)
    tests.append(within_mode(traces))
    if classes is not None:
        predicted = np.concatenate([classes.fake_classes[fakes], classes.heldout_classes[reals]])
        labels = _labels(classes, fakes, reals)
        modes = predicted if labels is None else labels
        tests.append(
            class_spread(mode_traces(rotated, modes, len(classes.confusion), relabellings), classes.class_names)
        )
        if labels is not None:  # given, not recognised, and so right however poor the samples are
            tests[-1].needs = "appearance"
        # A classifier's own features are made to forget what varies within its classes.
        detailed = evidence.deep is not None
        values, real = (deep, known.deep) if detailed else (looks, known.looks)
        recognised, names = classes.reference_classes[known.rows], classes.class_names
        axes = known.class_axes(recognised, deep=detailed)
        tests += [
            class_coverage(values, predicted, real, recognised, relabellings, names),
            class_vendi(values, predicted, axes, relabellings, names),
        ]
        if labels is not None:
            tests.append(
                label_agreement(predicted, labels, classes.confusion, relabellings, class_names=classes.class_names)
            )
    tests.append(coverage(reached, len(spheres.radii), min(1.0, realistic / 0.95), relabellings))
    tests.append(vendi(deep, known.vendi_axes, relabellings))
    tests.append(pair_distance(rotated, traces.contrast, relabellings))
    for test, adjusted in zip(tests, holm([test.p for test in tests]), strict=True):
        test.p_adjusted = adjusted
    found = _weigh(tests, evidence, _Quality(likeness, realistic, shift, wide, certain, strayed))
    return replace(found, tests=tests, realism=realistic, shift=shift, duplicate_distance=distance)


def deep_features(evidence: Evidence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What images show: features of generated, held-out and reference images."""
    if evidence.deep is not None:
        return evidence.deep
    if evidence.classes is not None:
        return evidence.classes.fake, evidence.classes.heldout, evidence.classes.reference
    return evidence.fake, evidence.heldout, evidence.reference


def places(count: int, role: int) -> np.ndarray:
    """Which of `count` images take part: all, or so many as there may be, wherever a set sorted by class begins."""
    if count <= MOST_IMAGES:
        return np.arange(count)
    return np.sort(np.random.default_rng(role).permutation(count)[:MOST_IMAGES])


def _labels(classes: ClassEvidence | None, fakes: np.ndarray, reals: np.ndarray) -> np.ndarray | None:
    if classes is None or classes.fake_labels is None or classes.heldout_labels is None:
        return None
    return np.concatenate([classes.fake_labels[fakes], classes.heldout_labels[reals]])


@dataclass(frozen=True)
class _Quality:
    """How much samples are like real images: the share that looks so, and the share that also shows what real ones show;
    how far classes have moved, how wide they are, how many samples are clearly of their class, and how far cells have moved."""

    likeness: float
    realistic: float
    shift: float
    wide: float
    certain: float
    strayed: float

    def enough(self, need: Needs, classes: bool) -> bool:
        """Whether a test with this need says something."""
        if need == "nothing":
            return True
        if need == "appearance":
            return self.likeness >= FEWEST_REALISTIC
        judged = self.realistic >= FEWEST_REALISTIC
        if classes:
            judged = (
                judged and self.shift < FURTHEST_SHIFT and self.wide < WIDEST_CLASS and self.certain >= FEWEST_CERTAIN
            )
        return judged and (self.strayed < FURTHEST_SHIFT or (classes and need == "quality"))

    def sentence(self, classes: bool) -> str:
        """Why it is not enough to judge lost modes."""
        what = f"only {self.realistic:.0%} of samples are as near to real images as 95% of held-out images are"
        if self.realistic >= FEWEST_REALISTIC:
            shift, kind = (self.shift, "class") if classes else (self.strayed, "region")
            what = f"samples of a {kind} have moved {np.sqrt(max(shift, 0.0)):.0%} of the way to the next {kind}"
            if classes and self.certain < FEWEST_CERTAIN:
                what = f"only {self.certain:.0%} of samples show their class as clearly as the middle one of real images does"
            elif classes and self.shift < FURTHEST_SHIFT:
                what = f"samples lie {np.sqrt(self.wide):.1f} times as far from the middle of their class as real images do"
        return f"quality: {what}, so lost modes cannot be told from poor quality"


def _weigh(tests: list[TestResult], evidence: Evidence, quality: _Quality) -> Judgement:
    classes = evidence.classes is not None
    remark = quality.sentence(classes)
    for test in tests:
        test.settle_outcome("" if quality.enough(test.needs, classes) else remark)
    fired = [test for test in tests if test.outcome == "fired"]
    number = len(evidence.classes.confusion) if evidence.classes is not None else 0
    reasons = _shortened(ordered([r for test in fired for r in test.reasons if isinstance(r, Reason)], number))
    # A lost class leaves its regions empty too: they are listed where no class says it better.
    missing = next((test.missing for test in fired if test.missing), [])
    unreal = not quality.enough("quality", classes)
    if fired:
        verdict = "collapsed" if any(t.severity == "collapsed" for t in fired) else "suspect"
        texts = [str(reason) for reason in reasons] + ([remark] if unreal else [])
        kinds = [reason.kind for reason in reasons]
        alike = [reason.mode for reason in reasons if reason.kind == "class collapse" and reason.mode is not None]
        return Judgement(verdict, texts, kinds, missing=missing, alike=alike, unreal=unreal)
    if unreal:
        return Judgement("inconclusive", [remark], [], unreal=True)
    weak = [test.weakness for test in tests if not test.powerful]
    if evidence.classes is None and evidence.no_classes_because:
        weak.append(f"lost modes cannot be judged: {evidence.no_classes_because}")
    if weak:
        return Judgement("inconclusive", weak, [])
    seen = "no class is lost or starved" if evidence.classes is not None else "no region of real data is left out"
    calm = f"{seen}, samples vary within modes, and near-duplicates are no more frequent than in real images"
    return Judgement("ok", [calm], [])


def ordered(reasons: Sequence[Reason], classes: int = 0) -> list[Reason]:
    """The reasons in the documented order, each cause before what follows from it; `classes`: how many there are."""
    order = {kind: float(place) for place, kind in enumerate(get_args(Kind))}
    if "shrinkage" in {reason.kind for reason in reasons}:
        reasons = [reason for reason in reasons if reason.kind != "class collapse"]
        order["shrinkage"] = order["lost mode"] - 0.5
    # What is recognised as a class that is lost is another class's, and varies as it may.
    lost = {reason.mode for reason in reasons if reason.kind in ("lost class", "starved class")} - {None}
    reasons = [reason for reason in reasons if reason.kind != "class collapse" or reason.mode not in lost]
    # What several tests say of one class is said once, by the first of them.
    said = {(reason.kind, reason.mode): reason for reason in reversed(reasons) if reason.mode is not None}
    reasons = [reason for reason in reasons if reason.mode is None or said[reason.kind, reason.mode] is reason]
    alike = [reason for reason in reasons if reason.kind == "class collapse"]
    if classes and len(alike) > max(ALWAYS_NAMED, classes // 2):  # then it is no matter of single classes
        what = f"{len(alike)} of {classes} classes have lost their variety; of the first, {alike[0]}"
        reasons = [reason for reason in reasons if reason.kind != "class collapse"]
        reasons.append(Reason("diversity", what))
    return sorted(reasons, key=lambda reason: order[reason.kind])


def _shortened(reasons: Sequence[Reason]) -> list[Reason]:
    """The first few reasons of each kind, and how many more there are."""
    short: list[Reason] = []
    for kind in dict.fromkeys(reason.kind for reason in reasons):
        mine = [reason for reason in reasons if reason.kind == kind]
        short += mine[:MOST_REASONS]
        if len(mine) > MOST_REASONS:
            short.append(Reason(kind, f"and {len(mine) - MOST_REASONS} more of this kind ({kind})"))
    return short
