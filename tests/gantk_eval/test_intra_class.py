"""Collapse inside single classes: each measure against the plain way, and what the verdict says of a class that lost its variety."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from gantk_eval.collapse.calibration import Reason, Relabellings, TestResult
from gantk_eval.collapse.coverage import make_balls
from gantk_eval.collapse.exhibit import exhibit
from gantk_eval.collapse.intra_class import class_axes, class_coverage, class_spread, class_vendi
from gantk_eval.collapse.picture import draw
from gantk_eval.collapse.spread import mode_traces
from gantk_eval.collapse.verdict import ClassEvidence, Evidence, Judgement, examine, knowledge_of, ordered

CLASSES, DIMS = 4, 6
CENTERS = np.eye(CLASSES, DIMS) * 30
"""So far from each other that every image is recognised."""
NAMES = tuple("abcd")


def images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [count, 6] and classes."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, count)
    return CENTERS[labels] + generator.standard_normal((count, DIMS)), labels


def poor(index: int, count: int = 1200, seed: int = 1, *, left: float) -> tuple[np.ndarray, np.ndarray]:
    """Of class `index` only what lies below `left` on one axis is drawn, as often as all of it would be."""
    features, labels = images(8 * count, seed)
    kept = (labels != index) | (features[:, -1] < left)
    out, rows = [], np.flatnonzero(kept)
    for each in range(CLASSES):
        out.append(rows[labels[rows] == each][: count // CLASSES])
    found = np.concatenate(out)
    return features[found], labels[found]


def covered(
    fake: tuple[np.ndarray, np.ndarray], real: tuple[np.ndarray, np.ndarray], permutations: int = 499
) -> TestResult:
    pool, classes = (np.concatenate([a, b]) for a, b in zip(fake, real, strict=True))
    relabellings = Relabellings.draw(len(fake[0]), len(real[0]), permutations, 0)
    return class_coverage(pool, classes, *images(3000, 3), relabellings, NAMES)


def directions(
    fake: tuple[np.ndarray, np.ndarray], real: tuple[np.ndarray, np.ndarray], permutations: int = 499
) -> TestResult:
    pool, classes = (np.concatenate([a, b]) for a, b in zip(fake, real, strict=True))
    relabellings = Relabellings.draw(len(fake[0]), len(real[0]), permutations, 0)
    return class_vendi(pool, classes, class_axes(*images(3000, 3)), relabellings, NAMES)


def evidence(fake: tuple[np.ndarray, np.ndarray], labels: np.ndarray | None = None) -> Evidence:
    """`labels`: those that the samples were asked to have."""
    real, reference = images(1500, 2), images(3000, 3)
    classes = ClassEvidence(
        fake[0], real[0], reference[0], fake[1], real[1], reference[1], np.eye(CLASSES, dtype=np.int64) * 500, NAMES,
        fake_labels=labels, heldout_labels=None if labels is None else real[1],
    )  # fmt: skip
    return Evidence(fake[0].copy(), real[0].copy(), reference[0].copy(), classes)


def judged(fake: tuple[np.ndarray, np.ndarray], labels: np.ndarray | None = None) -> Judgement:
    return examine(evidence(fake, labels))


def test_class_coverage_is_counted_within_the_class() -> None:
    """Against all distances, of a class of which a part is left; the other classes say that nothing has moved."""
    fake, real = poor(2, left=-0.8), images(1500, 2)
    reference, truth = images(3000, 3)
    sides = [(x[c == 2]) for x, c in (fake, real)]
    every = [(fake[0][fake[1] == k], real[0][real[1] == k]) for k in range(CLASSES)]
    moved = np.median([a.mean(axis=0) - b.mean(axis=0) for a, b in every], axis=0)
    scale = np.sqrt(np.median([a.var(axis=0).sum() / b.var(axis=0).sum() for a, b in every]))
    assert np.abs(moved).max() < 0.2
    assert scale == pytest.approx(1.0, abs=0.05)
    mine, others = (sides[0] - sides[0].mean(axis=0)) / scale + sides[0].mean(axis=0) - moved, sides[1]
    balls = make_balls(reference[truth == 2], len(mine) + len(others))
    hits = [np.linalg.norm(x[:, None] - balls.centers[None], axis=2) <= balls.radii for x in (mine, others)]
    (reason,) = covered(fake, real).reasons
    seen, wanted = re.fullmatch(
        r"samples of class c lie near only (\d+)% of its real images, where as many real ones would be near (\d+)%",
        reason,
    ).groups()  # type: ignore[union-attr]
    assert int(seen) == pytest.approx(100 * hits[0].any(axis=0).mean(), abs=1.0)
    generator = np.random.default_rng(0)
    often = min(1.0, hits[0].sum(axis=1).mean() / hits[1].sum(axis=1).mean())
    number = round(often * len(mine))
    drawn = [hits[1][generator.permutation(len(others))[:number]].any(axis=0).mean() for _ in range(200)]
    assert int(wanted) == pytest.approx(100 * np.mean(drawn), abs=1.5)


def test_class_vendi_is_the_exponential_entropy_of_the_kernel_around_the_class() -> None:
    """Against the kernel of all pairs. Class 1 varies along one axis alone, and has moved."""
    fake, real = images(1000, 1), images(1000, 2)
    flat = fake[0].copy()
    flat[fake[1] == 1, 1:] = CENTERS[1, 1:] + 0.03 * (flat[fake[1] == 1, 1:] - CENTERS[1, 1:])
    flat[fake[1] == 1] += 3
    result = directions((flat, fake[1]), real)

    def score(x: np.ndarray) -> float:
        unit = (x - x.mean(axis=0)) / np.linalg.norm(x - x.mean(axis=0), axis=1, keepdims=True)
        values = np.linalg.eigvalsh(unit @ unit.T / len(x))
        values = values[values > 1e-12]
        return float(np.exp(-(values * np.log(values)).sum()))

    mine, others = flat[fake[1] == 1], real[0][real[1] == 1]
    least = min(len(mine), len(others))
    assert result.severity == "collapsed"
    (reason,) = result.reasons
    assert re.search(r"class b amount to 1\.\d different directions, as many real ones to 5\.\d ", reason)
    assert result.effect == pytest.approx(1 - score(mine[:least]) / score(others[:least]), abs=0.02)


def test_axes_are_the_same_from_few_images_as_by_the_covariance() -> None:
    """With fewer images than dimensions the other product is taken."""
    few = np.random.default_rng(0).standard_normal((40, 60)) * np.linspace(1, 4, 60)
    axes = class_axes(few, np.zeros(40, dtype=np.int64))[0]
    expected = np.linalg.eigh(np.cov(few.T))[1][:, ::-1][:, :16]
    assert np.allclose(axes.T @ axes, np.eye(16), atol=1e-8)
    assert np.allclose(np.abs((axes * expected).sum(axis=0)), 1.0, atol=1e-6)


def test_a_class_of_which_a_part_is_left_is_named_by_the_verdict_and_once() -> None:
    fake = poor(2, left=-1.2)
    found = judged(fake)
    assert found.verdict in ("suspect", "collapsed"), found.reasons
    said = [text for kind, text in zip(found.kinds, found.reasons, strict=True) if kind == "class collapse"]
    assert len(said) == 1
    assert " class c " in said[0]
    assert judged(images(1200, 7)).verdict == "ok"


def test_what_several_tests_say_of_a_class_is_said_once_by_the_first() -> None:
    """Class 0 is twenty images, over and over but for a jitter too large for duplicates: no spread, coverage or directions."""
    features, labels = images(1200, 1)
    mine = np.flatnonzero(labels == 0)
    point = CENTERS[0] + 0.5
    features[mine] = point + 0.25 * (features[mine] - CENTERS[0]) * np.array([1, 0.1, 0.1, 0.1, 0.1, 0.1])
    found = judged((features, labels))
    fired = {t.name for t in found.tests if t.severity != "none" and t.p_adjusted <= 0.01}
    assert {"class_spread", "class_coverage"} <= fired
    said = [text for kind, text in zip(found.kinds, found.reasons, strict=True) if kind == "class collapse"]
    assert said == [text for text in said if text.startswith("samples of class a vary by")]
    assert len(said) == 1


def test_a_starved_class_is_not_said_to_have_lost_its_variety() -> None:
    """Fewer samples cover less and amount to fewer directions; what they are compared with is as few real images."""
    features, labels = images(2400, 1)
    kept = np.concatenate([np.flatnonzero(labels != 3), np.flatnonzero(labels == 3)[:40]])
    fake = features[kept], labels[kept]
    assert covered(fake, images(1500, 2)).severity == "none"
    assert directions(fake, images(1500, 2)).severity == "none"
    found = judged(fake)
    assert found.verdict in ("suspect", "collapsed")
    assert "class collapse" not in found.kinds


def test_what_is_taken_for_a_lost_class_is_no_class_without_variety() -> None:
    """Class 3 is lost; thirty samples of class 0 are taken for it, and lie near none of its real images."""
    features, labels = images(2400, 1)
    kept = labels != 3
    features, labels = features[kept], labels[kept].copy()
    labels[np.flatnonzero(labels == 0)[:30]] = 3
    found = judged((features, labels))
    assert "lost class" in found.kinds or "starved class" in found.kinds
    assert "class collapse" not in found.kinds
    assert not found.alike


def off(how: str, which: np.ndarray, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Samples that are not quite like real ones, and as varied as they are."""
    out = features.copy()
    if how == "moved":
        out[which] += 1.0
    elif how == "faded":
        out[which] = CENTERS[labels[which]] + 0.75 * (out[which] - CENTERS[labels[which]])
    elif how == "noisy":
        out[which] += np.random.default_rng(5).standard_normal((which.sum(), DIMS))
    else:  # every second one is near nothing real
        out[np.flatnonzero(which)[::2]] += 25
    return out


@pytest.mark.parametrize("how", ["moved", "faded", "noisy", "half astray"])
@pytest.mark.parametrize("single", [False, True])
def test_samples_that_are_a_little_off_have_not_lost_their_variety(how: str, single: bool) -> None:
    """All of them, or those of one class."""
    features, labels = images(1200, 1)
    which = labels == 1 if single else np.ones(len(labels), dtype=bool)
    fake = off(how, which, features, labels), labels
    for test in (covered, directions):
        assert test(fake, images(1500, 2)).severity == "none", test


def test_what_is_near_no_real_image_is_not_judged() -> None:
    features, labels = images(1200, 1)
    features[labels == 1] += 100
    assert covered((features, labels), images(1500, 2)).effect == 0.0


@pytest.mark.parametrize("heldout", [250, 1500, 6000])
def test_a_loss_is_found_whichever_side_is_the_larger(heldout: int) -> None:
    """1,200 samples, of which one class is a part."""
    result = covered(poor(2, left=-1.4), images(heldout, 2))
    assert result.severity == "suspect", result
    assert result.effect == pytest.approx(0.59, abs=0.1)


def test_which_classes_are_judged_does_not_depend_on_who_is_generated() -> None:
    """Classes of some twenty held-out images each: where the smaller side decides, those are left out that have too few of it,
    and what is judged has more there, and less on the other side, than it would have by chance."""
    generator = np.random.default_rng(0)
    p = []
    for seed in range(60):
        labels = generator.integers(0, 30, 1800)
        values = generator.standard_normal((1800, DIMS)) + 20 * labels[:, None]
        relabellings = Relabellings.draw(1200, 600, 99, seed)
        reference = np.arange(1500) % 30
        axes = class_axes(generator.standard_normal((1500, DIMS)) + 20 * reference[:, None], reference)
        p.append(class_vendi(values, labels, axes, relabellings).p)
    assert 18 <= sum(x <= 0.5 for x in p) <= 42
    assert sum(x <= 0.1 for x in p) <= 13


def test_classes_with_too_few_images_are_left_out() -> None:
    fake, real = images(60, 1), images(1500, 2)
    for result in (covered(fake, real), directions(fake, real)):
        assert (result.effect, result.severity, result.p) == (0.0, "none", 1.0)
    assert set(class_axes(*images(60, 3))) == {k for k, n in enumerate(np.bincount(images(60, 3)[1])) if n >= 20}
    weak = judged(fake)
    assert weak.verdict == "inconclusive"
    assert any("the variety within classes cannot be judged" in reason for reason in weak.reasons)
    many = np.repeat(np.arange(150), 20 + np.arange(150) % 2)
    assert len(class_axes(np.random.default_rng(0).standard_normal((len(many), 4)), many)) == 100


@pytest.mark.parametrize("test", [covered, directions])
def test_under_the_null_p_is_uniform(test) -> None:  # type: ignore[no-untyped-def]
    p = [test(images(400, 100 + seed), images(500, 200 + seed), 199).p for seed in range(40)]
    assert 9 <= sum(x <= 0.5 for x in p) <= 31
    assert sum(x <= 0.02 for x in p) <= 4


def test_swapped_labels_leave_the_variety_of_their_classes() -> None:
    """Labels of two classes are exchanged: each class's images are as many and as varied as before."""
    features, labels = images(1200, 1)
    found = judged((features, labels), np.array([1, 0, 2, 3])[labels])
    assert found.kinds == ["label swapped"], found.reasons


def test_labels_decide_for_the_spread_and_what_is_recognised_for_the_others() -> None:
    """Who asks for class 0 gets what lies near its middle; the rest of it comes under another label."""
    features, labels = images(1600, 1)
    mine = np.flatnonzero(labels == 0)
    far = np.linalg.norm(features[mine] - CENTERS[0], axis=1)
    asked = labels.copy()
    asked[mine[far > np.quantile(far, 0.25)]] = 1
    severity = {t.name: t.severity for t in judged((features, labels), asked).tests}
    assert severity["class_spread"] == "suspect"
    assert severity["class_coverage"] == severity["class_vendi"] == "none"
    assert {t.name: t.severity for t in judged((features, labels)).tests}["class_spread"] == "none"


def test_the_spread_of_a_class_by_its_worst_class() -> None:
    fake, real = images(1000, 1), images(1500, 2)
    fake[0][fake[1] == 3] = CENTERS[3] + 0.3 * (fake[0][fake[1] == 3] - CENTERS[3])
    pool, modes = (np.concatenate([a, b]) for a, b in zip(fake, real, strict=True))
    result = class_spread(mode_traces(pool, modes, CLASSES, Relabellings.draw(1000, 1500, 499, 0)), NAMES)
    assert [r.mode for r in result.reasons] == [3]  # type: ignore[attr-defined]
    assert result.effect == pytest.approx(0.91, abs=0.02)


def test_the_picture_shows_what_the_class_has_left_and_what_no_sample_is_near() -> None:
    fake, truth = poor(2, left=-1.2), images(3000, 3)
    given = evidence(fake)
    known = knowledge_of(given)
    judgement = examine(given, known=known)
    assert judgement.alike == [2]
    shown = exhibit(given, judgement, known)
    (alike,) = shown.alike
    assert (alike.name, len(alike.samples), len(alike.lacking)) == ("c", 12, 12)
    assert (fake[1][alike.samples] == 2).all()
    assert (truth[1][alike.lacking] == 2).all()
    # What is left lies below −1.2 on the last axis.
    assert (truth[0][alike.lacking, -1] > -1.2).all()
    asked: dict[str, list[np.ndarray]] = {"real": [], "fake": []}

    def reader(whose: str) -> Callable[[np.ndarray], np.ndarray]:
        def read(rows: np.ndarray) -> np.ndarray:
            asked[whose].append(rows)
            return np.full((len(rows), 6, 6, 3), 200, dtype=np.uint8)

        return read

    draw(judgement.verdict, judgement.reasons, shown, reader("real"), reader("fake"))
    assert any(np.array_equal(rows, alike.samples) for rows in asked["fake"])
    assert any(np.array_equal(rows, alike.lacking) for rows in asked["real"])


def test_the_picture_goes_by_what_is_recognised_as_the_tests_do() -> None:
    """Whatever labels were asked for; of a class without any sample nothing is shown."""
    features, labels = images(1200, 1)
    seen = np.where(labels == 0, 3, labels)
    given = evidence((features, seen), labels)
    shown = exhibit(given, Judgement("suspect", ["?"], ["class collapse"], alike=[3, 0]), knowledge_of(given))
    assert [alike.name for alike in shown.alike] == ["d", "a"]
    assert set(seen[shown.alike[0].samples]) == {3}
    assert len(shown.alike[1].samples) == len(shown.alike[1].lacking) == 0


@pytest.mark.parametrize(("alike", "named"), [(3, True), (4, False)])
def test_where_most_classes_lost_their_variety_they_are_not_named_one_by_one(alike: int, named: bool) -> None:
    reasons = [Reason("class collapse", f"samples of class {k} are alike", k) for k in range(alike)]
    found = ordered([*reasons, Reason("class collapse", "and of class 0 again", 0)], CLASSES)
    assert [reason.kind for reason in found] == (["class collapse"] * 3 if named else ["diversity"])
    if not named:
        assert found[0] == "4 of 4 classes have lost their variety; of the first, samples of class 0 are alike"


def test_lost_and_shrunken_classes_are_not_counted_among_those_without_variety() -> None:
    alike = [Reason("class collapse", f"samples of class {k} are alike", k) for k in range(5)]
    lost = [Reason("lost class", f"class {k} is lost", k) for k in range(1, 5)]
    assert [r.mode for r in ordered([*alike, *lost], 5)] == [1, 2, 3, 4, 0]
    shrunken = Reason("shrinkage", "within modes")
    assert ordered([*alike, shrunken], 5) == [shrunken]


def test_classes_of_one_name_are_two_classes() -> None:
    """As "crane" is in ImageNet, a bird and a machine."""
    reasons = [Reason("lost class", "class crane is lost", 3), Reason("class collapse", "samples of class crane", 2)]
    assert ordered(reasons, 10) == reasons


@pytest.mark.parametrize("lost", ["looks", "deep"])
def test_variety_is_looked_for_in_deep_features_where_there_are_any_and_else_in_looks(lost: str) -> None:
    """Of class c a part is left, in the looks alone or in Inception's features alone."""
    part, whole = poor(2, left=-1.2), images(8000, 1)
    rows = [np.flatnonzero(whole[1] == each)[: np.count_nonzero(part[1] == each)] for each in range(CLASSES)]
    sets = {"part": part[0], "whole": whole[0][np.concatenate(rows)]}
    given = evidence(part)
    looks, deep = ("part", "whole") if lost == "looks" else ("whole", "part")
    given = replace(given, fake=sets[looks])
    kinds = {name: examine(replace(given, deep=some)).kinds for name, some in {
        "none": None, "inception": (sets[deep], given.heldout.copy(), given.reference.copy()),
    }.items()}  # fmt: skip
    assert ("class collapse" in kinds["none"]) == (lost == "looks"), kinds
    assert ("class collapse" in kinds["inception"]) == (lost == "deep"), kinds
