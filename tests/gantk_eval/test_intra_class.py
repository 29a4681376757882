"""Collapse inside single classes: each measure against the plain way, and what the verdict says of a class that lost its variety."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from gantk_eval.collapse.calibration import Relabellings, TestResult
from gantk_eval.collapse.coverage import make_balls, reach
from gantk_eval.collapse.exhibit import exhibit
from gantk_eval.collapse.intra_class import class_axes, class_coverage, class_spread, class_vendi
from gantk_eval.collapse.picture import draw
from gantk_eval.collapse.spread import mode_traces
from gantk_eval.collapse.vendi import vendi_axes
from gantk_eval.collapse.verdict import ClassEvidence, Evidence, Judgement, examine, knowledge_of

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
    reference, truth = images(3000, 3)
    balls = make_balls(reference, len(fake[0]))
    pool, classes = (np.concatenate([a, b]) for a, b in zip(fake, real, strict=True))
    reached = reach(pool, balls)
    relabellings = Relabellings.draw(len(fake[0]), len(real[0]), permutations, 0)
    return class_coverage(reached, balls, truth[balls.rows], classes, relabellings, NAMES)


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
    """Against all distances: the worst class is the one of which the smallest share of balls is hit by its own samples."""
    fake, real = poor(2, left=-0.8), images(1500, 2)
    reference, truth = images(3000, 3)
    balls = make_balls(reference, len(fake[0]))
    shares = []
    for each in range(CLASSES):
        middle = balls.centers[truth[balls.rows] == each]
        mine = fake[0][fake[1] == each]
        hit = np.linalg.norm(mine[:, None] - middle[None], axis=2) <= balls.radii[truth[balls.rows] == each]
        shares.append(hit.any(axis=0).mean())
    assert np.argmin(shares) == 2
    (reason,) = covered(fake, real).reasons
    seen, wanted = re.fullmatch(
        r"samples of class c lie near only (\d+)% of its real images, where as many real ones would be near (\d+)%",
        reason,
    ).groups()  # type: ignore[union-attr]
    assert int(seen) == pytest.approx(100 * shares[2], abs=1.0)
    # As many real ones: 300 of the 375 or so held-out ones, over and over.
    mine, middle = real[0][real[1] == 2], balls.centers[truth[balls.rows] == 2]
    hit = np.linalg.norm(mine[:, None] - middle[None], axis=2) <= balls.radii[truth[balls.rows] == 2]
    generator = np.random.default_rng(0)
    drawn = [hit[generator.permutation(len(mine))[:300]].any(axis=0).mean() for _ in range(100)]
    # Of samples that are as near as real ones are, 95 % or a little less are realistic.
    assert int(wanted) == pytest.approx(100 * np.mean(drawn), abs=2.0)


def test_class_vendi_is_the_exponential_entropy_of_the_kernel_around_the_class() -> None:
    """Against the kernel of all pairs. Class 1 varies along one axis alone."""
    fake, real = images(1000, 1), images(1200, 2)
    flat = fake[0].copy()
    flat[fake[1] == 1, 1:] = CENTERS[1, 1:] + 0.05 * (flat[fake[1] == 1, 1:] - CENTERS[1, 1:])
    result = directions((flat, fake[1]), real)
    reference, truth = images(3000, 3)
    mean = reference[truth == 1][:500].mean(axis=0)

    def score(x: np.ndarray) -> float:
        unit = (x - mean) / np.linalg.norm(x - mean, axis=1, keepdims=True)
        values = np.linalg.eigvalsh(unit @ unit.T / len(x))
        values = values[values > 1e-12]
        return float(np.exp(-(values * np.log(values)).sum()))

    mine = score(flat[fake[1] == 1])
    assert result.severity == "collapsed"
    (reason,) = result.reasons
    assert f"class b amount to {mine:.1f} different directions, its real images to" in reason
    assert result.effect == pytest.approx(1 - mine / score(real[0][real[1] == 1]), abs=0.02)


def test_axes_are_the_same_from_few_images_as_by_the_covariance() -> None:
    """With fewer images than dimensions the other product is taken."""
    generator = np.random.default_rng(0)
    few = generator.standard_normal((40, 60)) * np.linspace(1, 4, 60)
    mean, axes = vendi_axes(few)
    unit = (few - mean) / np.linalg.norm(few - mean, axis=1, keepdims=True)
    expected = np.linalg.eigh(unit.T @ unit)[1][:, ::-1][:, :16]
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
    assert next(t for t in found.tests if t.name == "class_coverage").severity == "collapsed"
    assert "lost class" in found.kinds or "starved class" in found.kinds
    assert "class collapse" not in found.kinds
    assert not found.alike


def test_a_class_of_poor_quality_has_not_lost_its_variety() -> None:
    """Half of its samples are noise that is near no real image: the other half cannot cover what all of it would."""
    features, labels = images(1200, 1)
    mine = np.flatnonzero(labels == 1)
    features[mine[::2]] += 25 * np.sign(np.random.default_rng(0).standard_normal((len(mine[::2]), DIMS)))
    result = covered((features, labels), images(1500, 2))
    assert result.severity == "none"
    assert result.effect < 0.2
    features[mine] += 100
    assert covered((features, labels), images(1500, 2)).effect == 0.0


def test_classes_with_too_few_images_are_left_out() -> None:
    fake, real = images(60, 1), images(1500, 2)
    for result in (covered(fake, real), directions(fake, real)):
        assert (result.effect, result.severity, result.p) == (0.0, "none", 1.0)
    assert set(class_axes(*images(60, 3))) == {k for k, n in enumerate(np.bincount(images(60, 3)[1])) if n >= 20}
    many = np.repeat(np.arange(150), 20 + np.arange(150) % 2)
    assert len(class_axes(np.random.default_rng(0).standard_normal((len(many), 4)), many)) == 100


@pytest.mark.parametrize("test", [covered, directions])
def test_under_the_null_p_is_uniform(test) -> None:  # type: ignore[no-untyped-def]
    p = [test(images(400, 100 + seed), images(500, 200 + seed), 199).p for seed in range(40)]
    assert 9 <= sum(x <= 0.5 for x in p) <= 31
    assert sum(x <= 0.02 for x in p) <= 4


def test_labels_decide_for_the_spread_and_what_is_seen_for_the_others() -> None:
    """Labels of two classes are exchanged: each class's images are as many and as varied as before."""
    features, labels = images(1200, 1)
    found = judged((features, labels), np.array([1, 0, 2, 3])[labels])
    assert found.kinds == ["label swapped"], found.reasons


def test_the_spread_of_a_class_by_its_worst_class() -> None:
    fake, real = images(1000, 1), images(1500, 2)
    fake[0][fake[1] == 3] = CENTERS[3] + 0.3 * (fake[0][fake[1] == 3] - CENTERS[3])
    pool, modes = (np.concatenate([a, b]) for a, b in zip(fake, real, strict=True))
    result = class_spread(mode_traces(pool, modes, CLASSES, Relabellings.draw(1000, 1500, 499, 0)), NAMES)
    assert [r.mode for r in result.reasons] == ["d"]  # type: ignore[attr-defined]
    assert result.effect == pytest.approx(0.91, abs=0.02)


def test_the_picture_shows_what_the_class_has_left_and_what_no_sample_is_near() -> None:
    fake, truth = poor(2, left=-1.2), images(3000, 3)
    given = evidence(fake)
    known = knowledge_of(given)
    judgement = examine(given, known=known)
    assert judgement.alike == ["c"]
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


def test_a_class_by_the_label_asked_for_and_without_any_sample() -> None:
    """Labels decide whose samples are shown; of a class without any nothing is."""
    features, labels = images(1200, 1)
    asked = np.where(labels == 0, 3, labels)
    given = evidence((features, labels), asked)
    known = knowledge_of(given)
    shown = exhibit(given, Judgement("suspect", ["?"], ["class collapse"], alike=["d", "a"]), known)
    assert set(asked[shown.alike[0].samples]) == {3}
    assert len(shown.alike[1].samples) == len(shown.alike[1].lacking) == 0


@pytest.mark.parametrize(("alike", "named"), [(3, True), (4, False)])
def test_where_most_classes_lost_their_variety_they_are_not_named_one_by_one(alike: int, named: bool) -> None:
    (features, labels), real = images(2000, 1), images(1500, 2)
    for each in range(alike):
        features[labels == each] = CENTERS[each] + 0.3 * (features[labels == each] - CENTERS[each])
    pool, modes = np.concatenate([features, real[0]]), np.concatenate([labels, real[1]])
    result = class_spread(mode_traces(pool, modes, CLASSES, Relabellings.draw(2000, 1500, 499, 0)), NAMES)
    kinds = [reason.kind for reason in result.reasons]  # type: ignore[attr-defined]
    assert kinds == (["class collapse"] * 3 if named else ["diversity"])
    if not named:
        what = r"4 of 4 classes have lost their variety; of the worst, samples of class [a-d] vary by \d+% of what .*"
        assert re.fullmatch(what, result.reasons[0])


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
