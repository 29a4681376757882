"""Each collapse test alone: its arithmetic against the plain way, and what it says in a world that is made for it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gantk_eval.collapse.bins import bins, fit_bins, possible_losses
from gantk_eval.collapse.calibration import Reason, Relabellings, TestResult, benjamini_hochberg
from gantk_eval.collapse.conditional import label_agreement
from gantk_eval.collapse.coverage import coverage, make_balls, reach
from gantk_eval.collapse.duplicates import clusters
from gantk_eval.collapse.exhibit import Exhibit, exhibit
from gantk_eval.collapse.intra_class import class_spread
from gantk_eval.collapse.label_shift import LabelShift, class_distance, class_shift, temperature
from gantk_eval.collapse.neighbours import close_pairs, kth_other, nearest_other
from gantk_eval.collapse.pairs import pair_distance
from gantk_eval.collapse.picture import draw
from gantk_eval.collapse.spread import AXES, mode_traces, within_mode
from gantk_eval.collapse.vendi import vendi, vendi_axes
from gantk_eval.collapse.verdict import ClassEvidence, Evidence, examine, judge, knowledge_of, ordered
from gantk_eval.collapse_verdict import CollapseTest
from gantk_eval.features import Features
from gantk_eval.images import ArrayImages

CLASSES, DIMS = 5, 24
CENTERS = np.random.default_rng(3).standard_normal((CLASSES, DIMS)) * 0.55
"""So near to each other that the best classifier there is errs on one image in six."""
UNUSED: Any = None
"""The extractor of features that are at hand."""


def images(count: int, seed: int, shares: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Features [count, 24] and true classes."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(CLASSES, count, p=shares)
    return CENTERS[labels] + generator.standard_normal((count, DIMS)), labels


def logits(features: np.ndarray) -> np.ndarray:
    """Of the best classifier for equally frequent classes."""
    return features @ CENTERS.T - np.square(CENTERS).sum(axis=1) / 2


def confusion(count: int = 5000) -> np.ndarray:
    features, labels = images(count, 77)
    table = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    np.add.at(table, (labels, logits(features).argmax(axis=1)), 1)
    return table


def shares_of(index: int, left: float) -> np.ndarray:
    shares = np.ones(CLASSES)
    shares[index] = left
    return shares / shares.sum()


def evidence(
    fake: np.ndarray, labels: np.ndarray | None = None, count: int = 2000, given: np.ndarray | None = None
) -> Evidence:
    """With a classifier; `given`: labels that the samples were asked to have."""
    real, truth = images(count, 1)
    reference, _ = images(4000, 2)
    classes = ClassEvidence(
        fake,
        real,
        reference,
        logits(fake).argmax(axis=1),
        logits(real).argmax(axis=1),
        logits(reference).argmax(axis=1),
        confusion(),
        tuple("abcde"),
        given,
        None if given is None else truth,
        logits(fake),
        logits(real),
    )
    return Evidence(fake.copy(), real.copy(), reference.copy(), classes)


def relabel(generated: int, heldout: int, count: int = 499) -> Relabellings:
    return Relabellings.draw(generated, heldout, count, 0)


# -- arithmetic ---------------------------------------------------------------------------------------------------------


def test_relabellings_are_subsets_and_the_first_is_the_truth() -> None:
    found = relabel(30, 70, 200)
    assert found.members.shape == (201, 100)
    assert (found.members.sum(axis=1) == 30).all()
    assert found.members[0, :30].all()
    assert found.members[1:].mean(axis=0).std() < 0.06, "each image is drawn as often as any other"
    values = np.random.default_rng(0).standard_normal((100, 3))
    assert np.allclose(found.sums(values), found.members @ values, atol=1e-4)


def test_benjamini_hochberg() -> None:
    p = np.array([0.9, 0.001, 0.0004, 0.02, 0.006])
    # Sorted: 0.0004 <= 0.002, 0.001 <= 0.004, 0.006 <= 0.006, 0.02 > 0.008.
    assert benjamini_hochberg(p, 0.01).tolist() == [False, True, True, False, True]
    assert not benjamini_hochberg(np.full(5, 0.5)).any()


def test_close_pairs_are_those_of_the_full_matrix() -> None:
    generator = np.random.default_rng(0)
    points = generator.standard_normal((1500, 4)) + 50
    points[100:110] = points[5]
    full = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(full, np.inf)
    assert np.allclose(nearest_other(points), full.min(axis=1), atol=1e-9)
    assert np.allclose(kth_other(points, 5), np.sort(full, axis=1)[:, 4], atol=1e-2)
    first, second = close_pairs(points, 0.2, 50)
    expected = np.argwhere(full <= 0.2)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == {(i, j) for i, j in expected.tolist()}
    few, _ = close_pairs(points, 0.2, 3)
    assert np.bincount(few).max() == 3
    groups = clusters(points, first, second, 0.2)
    assert {5, *range(100, 110)} <= set(groups[0].tolist())


def test_the_ends_of_a_chain_are_not_one_image() -> None:
    """Each of 101 points is within 1.5 of its neighbours, and the ends are 100 apart; five points far away are copies."""
    points = np.zeros((106, 2))
    points[:101, 0] = np.arange(101)
    points[101:] = 500
    groups = clusters(points, *close_pairs(points, 1.5, 8), 1.5)
    assert sorted(np.concatenate(groups).tolist()) == list(range(106))
    assert groups[0].tolist() == [101, 102, 103, 104, 105]
    assert 34 <= len(groups) - 1 <= 51
    for group in groups[1:]:
        assert np.ptp(points[group, 0]) <= 2
    far = np.concatenate([points, points + 1000])  # as held-out images: pairs among them are none of the samples'
    assert [len(g) for g in clusters(points, *close_pairs(far, 1.5, 8), 1.5)] == [len(g) for g in groups]


def test_where_nothing_looks_real_no_coverage_is_lost() -> None:
    fake, real = images(300, 1)[0] + 1000, images(400, 2)[0]
    balls = make_balls(images(500, 3)[0], 300)
    result = coverage(reach(np.concatenate([fake, real]), balls), 300, 0.0, relabel(300, 400))
    assert (result.effect, result.severity) == (0.0, "none")


def test_coverage_is_the_share_of_balls_that_are_hit() -> None:
    fake, real = images(300, 1)[0], images(400, 2)[0]
    balls = make_balls(images(500, 3)[0], 300)
    assert len(balls.radii) == 300
    distance = np.linalg.norm(fake[:, None] - balls.centers[None], axis=2)
    result = coverage(reach(np.concatenate([fake, real]), balls), 300, 1.0, relabel(300, 400))
    assert 1 - result.statistic == pytest.approx((distance <= balls.radii).any(axis=0).mean(), abs=0.004)
    assert abs(result.effect) < 0.02
    assert result.p > 0.01
    # k = 5, equally many images: 1 − (N choose ...)/... tends to 1 − 2^−5 = 0.969.
    assert 1 - result.null_mean == pytest.approx(0.969, abs=0.015)


def test_vendi_is_the_exponential_entropy_of_the_kernel() -> None:
    fake, real, reference = (images(n, n)[0] for n in (200, 250, 900))
    mean, axes = vendi_axes(reference)
    result = vendi(np.concatenate([fake, real]), (mean, axes), relabel(200, 250))
    unit = (fake - mean) @ axes
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T / len(unit))
    values = values[values > 1e-9]
    assert -result.statistic == pytest.approx(np.exp(-(values * np.log(values)).sum()), rel=1e-4)
    assert abs(result.effect) < 0.1
    one_direction = vendi(
        np.concatenate([mean + (fake[:1] - mean) * np.ones((200, 1)), real]), (mean, axes), relabel(200, 250)
    )
    assert one_direction.severity == "collapsed"
    assert one_direction.p == pytest.approx(1 / 500)


def test_pair_distance_is_over_all_pairs() -> None:
    fake, real = images(150, 1)[0], images(200, 2)[0]
    squared = np.square(fake[:, None] - fake[None]).sum(axis=2)
    expected = np.sqrt(squared[~np.eye(150, dtype=bool)].mean())
    result = pair_distance(np.concatenate([fake, real]), 1.0, relabel(150, 200))
    assert -result.statistic == pytest.approx(expected, rel=1e-4)
    assert pair_distance(np.concatenate([0.5 * fake, real]), 1.0, relabel(150, 200)).effect == pytest.approx(
        0.5, abs=0.1
    )


def test_mode_traces_are_the_traces_of_covariance_matrices() -> None:
    (fake, labels), (real, others) = images(300, 1), images(400, 2)
    modes = np.concatenate([labels, others])
    traces = mode_traces(np.concatenate([fake, real]), modes, CLASSES + 1, relabel(300, 400, 20))
    for k in range(CLASSES):
        assert traces.variance[0, k] == pytest.approx(np.trace(np.cov(fake[labels == k][:, :AXES].T)), rel=1e-4)
        assert traces.real[k] == pytest.approx(np.trace(np.cov(real[others == k][:, :AXES].T)), rel=1e-4)
    assert traces.members[0].tolist() == [*np.bincount(labels, minlength=CLASSES).tolist(), 0]
    assert traces.contrast == pytest.approx(1.0, abs=0.1)


def test_a_class_that_is_all_alike_is_named_and_others_are_not() -> None:
    (fake, labels), (real, others) = images(1000, 1), images(1500, 2)
    fake[labels == 2] = CENTERS[2] + 0.3 * (fake[labels == 2] - CENTERS[2])
    traces = mode_traces(np.concatenate([fake, real]), np.concatenate([labels, others]), CLASSES, relabel(1000, 1500))
    result = class_spread(traces, tuple("abcde"))
    assert result.severity == "collapsed"
    (reason,) = result.reasons
    assert re.fullmatch(r"samples of class c vary by (8|9|10)% of what its real images do", reason)
    assert within_mode(traces).severity == "none"


def test_maximum_likelihood_shares_are_right_and_their_bound_holds() -> None:
    real, _ = images(4000, 1)
    true = shares_of(2, 0.2)
    found, covered = [], 0
    for seed in range(30):
        fake, _ = images(1000, 100 + seed, true)
        shift = LabelShift.of(logits(fake), logits(real), float(np.trace(confusion()) / confusion().sum()))
        shares = shift.shares()
        found.append(shares)
        covered += shift.upper(shares, 2) >= true[2]
        assert shift.upper(shares, 2) > shares[2]
    found_mean, spread = np.mean(found, axis=0), np.std(found, axis=0)
    assert np.allclose(found_mean, true, atol=0.02)
    assert covered >= 25, "a 95 % bound"
    assert spread[2] == pytest.approx(shift.deviations(true, 1000)[2], rel=0.5)
    # One step of Fisher scoring is a mean over images: at the held-out images' own shares it gives these back.
    assert np.allclose(shift.influence(logits(real)).mean(axis=0), shift.prior, atol=1e-6)


def test_a_lost_class_has_a_bound_above_zero() -> None:
    real, _ = images(4000, 1)
    fake, _ = images(1000, 5, shares_of(2, 0.0))
    shift = LabelShift.of(logits(fake), logits(real), 0.83)
    shares = shift.shares()
    assert shares[2] < 0.02
    assert 0.001 < shift.upper(shares, 2) < 0.05


def test_temperature_makes_confidence_match_accuracy() -> None:
    features, labels = images(4000, 1)
    accuracy = float((logits(features).argmax(axis=1) == labels).mean())
    assert temperature(3.0 * logits(features), accuracy) == pytest.approx(1 / 3, rel=0.1)


def test_class_shift_sees_moved_classes_and_no_lost_ones() -> None:
    real, truth = images(3000, 1)
    fake, labels = images(2000, 2, shares_of(0, 0.0))
    assert abs(class_shift(fake, real, labels, truth)) < 0.02
    apart = np.linalg.norm(CENTERS[:, None] - CENTERS[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    step = 0.5 * apart.min() * np.ones(DIMS) / np.sqrt(DIMS)
    expected = np.median(np.square(step).sum() / np.square(apart.min(axis=1)[1:]))
    assert class_shift(fake + step, real, labels, truth) == pytest.approx(expected, rel=0.25)


def test_class_distance_sees_samples_that_belong_to_no_class() -> None:
    real, truth = images(3000, 1)
    fake, labels = images(2000, 2, shares_of(0, 0.0))
    assert class_distance(fake, real, labels, truth) == pytest.approx(1.0, abs=0.05)
    scattered = CENTERS[2] + 2.0 * np.random.default_rng(0).standard_normal((2000, DIMS))
    assert class_distance(scattered, real, np.full(2000, 2), truth) == pytest.approx(4.0, rel=0.1)


def test_strokes_that_are_all_called_one_class_are_poor_quality() -> None:
    # As near to real images as they should be, for they are near one class, but wider than it: no class is *lost*.
    generator = np.random.default_rng(0)
    scattered = CENTERS[2] + 1.5 * generator.standard_normal((2000, DIMS)) * (np.arange(DIMS) < 12)
    found = examine(evidence(scattered), permutations=499)
    assert "lost class" not in found.kinds, found.reasons


def test_bins_name_the_region_that_is_left_out() -> None:
    reference = images(6000, 3)[0]
    cells = fit_bins(reference, 1000)
    assert cells.shares.sum() == pytest.approx(1.0)
    fake, real = images(3000, 1)[0], images(1500, 2)[0]
    where = cells.assign(real)
    biggest = np.argsort(-cells.shares)[:10]
    fake = fake[~np.isin(cells.assign(fake), biggest)][:1000]
    result = bins(cells.assign(fake), where, cells.shares, relabel(1000, 1500), names="region")
    assert result.severity in ("suspect", "collapsed")
    assert {m["mode"] for m in result.missing} == {f"region {i}" for i in biggest}
    assert all(m["seen"] == 0 for m in result.missing)
    calm = bins(cells.assign(images(1000, 9)[0]), where, cells.shares, relabel(1000, 1500))
    assert calm.severity == "none"
    assert calm.missing == []


def test_labels_swapped_ignored_and_right() -> None:
    (fake, labels), (real, truth) = images(1000, 1), images(1500, 2)
    predicted = np.concatenate([logits(fake).argmax(axis=1), logits(real).argmax(axis=1)])

    def result(given: np.ndarray) -> TestResult:
        both = np.concatenate([given, truth])
        return label_agreement(predicted, both, confusion(), relabel(1000, 1500), class_names=tuple("abcde"))

    assert result(labels).severity == "none"
    swap = np.array([0, 3, 2, 1, 4])
    swapped = result(swap[labels])
    assert swapped.severity == "suspect"
    assert "labels b and d are swapped" in swapped.reasons[0]
    assert len(swapped.reasons) == 1
    ignored = result(np.random.default_rng(0).permutation(labels))
    assert "the label is ignored" in ignored.reasons[0]
    unknown = labels.copy()
    unknown[:200] = -1
    assert result(unknown).severity == "none"
    turned = result((labels + 1) % CLASSES)  # no label is right, and each shows one class
    assert turned.severity == "suspect"
    assert all(reason.kind == "label swapped" for reason in turned.reasons)
    assert "mostly b" in turned.reasons[2]


@pytest.mark.parametrize("seed", range(6))
def test_labels_of_two_classes(seed: int) -> None:
    """Ignored, they are right in half of the cases; swapped, in none, and no share is above all."""
    generator = np.random.default_rng(seed)
    truth, shown = generator.integers(0, 2, 1500), generator.integers(0, 2, 1000)
    table = np.array([[990, 10], [30, 970]])

    def read(classes: np.ndarray) -> np.ndarray:
        return np.where(generator.random(len(classes)) < table[classes, classes] / 1000, classes, 1 - classes)

    predicted = np.concatenate([read(shown), read(truth)])
    for given, kind in ((generator.permutation(shown), "label ignored"), (1 - shown, "label swapped")):
        found = label_agreement(predicted, np.concatenate([given, truth]), table, relabel(1000, 1500))
        assert found.severity == "suspect", kind
        assert {reason.kind for reason in found.reasons} == {kind}
        assert "101%" not in found.reasons[0]


# -- verdicts -----------------------------------------------------------------------------------------------------------


def kinds(found: Evidence) -> tuple[str, list[str], list[str]]:
    judgement = examine(found, permutations=1999)
    return judgement.verdict, judgement.kinds, judgement.reasons


def test_real_images_are_ok_labelled_or_not() -> None:
    fake, labels = images(2000, 5)
    assert kinds(evidence(fake))[0] == "ok"
    assert kinds(evidence(fake, given=labels))[0] == "ok"


def test_starved_class_is_named_by_likelihood() -> None:
    verdict, found, reasons = kinds(evidence(images(2000, 5, shares_of(1, 0.2))[0]))
    assert verdict == "suspect"
    assert found[0] == "starved class"
    assert reasons[0].startswith("class b has")


def test_shrinkage_comes_before_the_regions_that_it_empties() -> None:
    fake, labels = images(2000, 5)
    verdict, found, _ = kinds(evidence(CENTERS[labels] + 0.65 * (fake - CENTERS[labels])))
    assert verdict in ("suspect", "collapsed")
    assert found[0] == "shrinkage"
    assert "class collapse" not in found, "all classes shrink: said once"


def test_the_documented_order_of_reasons() -> None:
    given = [Reason(kind, kind) for kind in ("diversity", "lost mode", "class collapse", "starved class", "duplicates")]
    assert [str(r) for r in ordered(given)] == [
        "duplicates",
        "starved class",
        "lost mode",
        "class collapse",
        "diversity",
    ]
    with_cause = ordered([*given, Reason("shrinkage", "shrinkage")])
    assert [str(r) for r in with_cause] == ["duplicates", "starved class", "shrinkage", "lost mode", "diversity"]


def test_swapped_labels_are_suspect_and_no_lost_diversity() -> None:
    fake, labels = images(2000, 5)
    verdict, found, _ = kinds(evidence(fake, given=np.array([2, 1, 0, 3, 4])[labels]))
    assert verdict == "suspect"
    assert found == ["label swapped"]


def test_moved_classes_are_poor_quality() -> None:
    fake, _ = images(2000, 5, shares_of(1, 0.0))
    verdict, _, reasons = kinds(evidence(fake + 0.5 * np.ones(DIMS)))
    assert verdict == "inconclusive"
    assert reasons[0].startswith("quality")


def test_too_few_samples_are_not_called_ok() -> None:
    verdict, _, reasons = kinds(evidence(images(120, 5)[0]))
    assert verdict == "inconclusive"
    assert "down to a fifth" in reasons[0]


def test_a_folder_sorted_by_class_is_judged_by_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from gantk_eval.collapse import verdict

    fake, labels = images(3000, 5)
    monkeypatch.setattr(verdict, "MOST_IMAGES", 1500)
    assert kinds(evidence(fake[np.argsort(labels)]))[0] == "ok"


def ring(count: int, seed: int, modes: int = 8, keep: int = 8, sigma: float = 0.02) -> np.ndarray:
    generator = np.random.default_rng(seed)
    angle = 2 * np.pi * generator.integers(0, keep, count) / modes
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) + sigma * generator.standard_normal((count, 2))


@pytest.mark.parametrize("lost", [0, 1, 4, 7])
def test_points_in_the_plane_without_labels(lost: int) -> None:
    found = judge(
        Evidence(ring(2000, 1, keep=8 - lost), ring(2000, 2), ring(6000, 3), no_classes_because=""), permutations=1999
    )
    if lost == 0:
        assert found["verdict"] == "ok", found
    else:
        assert found["verdict"] in ("suspect", "collapsed"), found
        missing = sum(m["expected"] for m in found["missing"])
        assert missing == pytest.approx(2000 * lost / 8, rel=0.35), "what is missing is what was left out"


def test_points_that_huddle_in_the_middle_of_their_modes() -> None:
    found = examine(
        Evidence(ring(2000, 1, sigma=0.008), ring(2000, 2), ring(6000, 3), no_classes_because=""), permutations=1999
    )
    assert found.verdict in ("suspect", "collapsed")


def test_deep_features_take_the_place_of_classes() -> None:
    made = [images(n, n) for n in (2001, 2002, 4000)]
    deep = fake, real, reference = tuple(features + CENTERS[labels] for features, labels in made)
    found = judge(Evidence(fake[:, :3], real[:, :3], reference[:, :3], None, "", deep))
    assert found["verdict"] == "ok", found
    pixels_only = judge(Evidence(fake[:, :3], real[:, :3], reference[:, :3]))
    assert pixels_only["verdict"] == "inconclusive"


def of_a_lost_mode() -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Deep features (generated, held-out, reference) with clear modes, of which the generated images lack the second, and
    the reference's modes."""
    (fake, made), (real, truth), (reference, labels) = (
        images(2000, 7, shares_of(1, 0.0)),
        images(2002, 8),
        images(4000, 9),
    )
    deep = (fake + CENTERS[made], real + CENTERS[truth], reference + CENTERS[labels])
    return deep, labels


def test_deep_features_see_a_mode_that_is_dropped() -> None:
    deep, labels = of_a_lost_mode()
    looks = tuple(np.random.default_rng(n).standard_normal((len(x), 3)) for n, x in enumerate(deep))
    given = Evidence(*looks, None, "", deep)
    known = knowledge_of(given)
    found = examine(given, permutations=1999, known=known)
    assert found.verdict in ("suspect", "collapsed"), found
    assert found.kinds[0] == "lost mode", found.kinds
    assert "regions of real data are missing: 0 of an expected" in found.reasons[0]
    gone = [entry for entry in found.missing if entry["seen"] == 0]
    assert 0 < sum(entry["expected"] for entry in gone) < 440, "a fifth of 2,000, and no more"
    shown = [labels[rows] for entry, rows in exhibit(given, found, known).missing if entry["seen"] == 0]
    assert np.concatenate(shown).tolist() == [1] * sum(map(len, shown)), "pictures of what was left out"
    by_looks = examine(Evidence(*looks, None, ""), permutations=1999)
    assert by_looks.verdict not in ("suspect", "collapsed"), by_looks


@pytest.mark.parametrize("there", [("inception", "clip"), ("dinov2", "clip"), ("clip",)])
def test_the_first_deep_extractor_that_has_all_images_is_taken(there: tuple[str, ...]) -> None:
    """It alone sees the lost mode; behind it stand features that know nothing, before it those of a sample."""
    deep, _ = of_a_lost_mode()
    generator = np.random.default_rng(0)
    sets: list[dict[str, Features]] = []
    for values in deep:
        noise = generator.standard_normal((len(values), 3))
        features = {"pixel_pca": noise} | dict.fromkeys(there, generator.standard_normal((len(values), 4)))
        features[there[0]] = values
        sets.append({name: Features(array, UNUSED) for name, array in features.items()})
    if there == ("clip",):  # of the reference's Inception features only a sample is kept
        for role, features in enumerate(sets):
            values = features["clip"].values
            whole = Features(values, UNUSED)
            sample = Features(values[:100], UNUSED, total=whole.statistics)
            features["inception"] = sample if role == 2 else whole
    pixels = ArrayImages(np.zeros((4000, 4, 4), np.uint8))
    test = CollapseTest(pixels, sets[2], sets[1], None, seed=0, permutations=1999)
    found, _ = test.judge(ArrayImages(np.zeros((2000, 4, 4), np.uint8)), sets[0], None)
    assert found["verdict"] in ("suspect", "collapsed"), found
    assert "regions of real data are missing" in found["reasons"][0]


# -- with Inception's weights and with labels -----------------------------------------------------------------------------


def with_deep(fake: np.ndarray, labels: np.ndarray, unlike: float = 0.0) -> Evidence:
    """A classifier's view and deep features besides, other ones: 32 numbers along other directions.

    `unlike`: by how much of the way between two classes the samples are moved in all features.
    """
    mixing = np.random.default_rng(11).standard_normal((DIMS, 32)) / np.sqrt(DIMS)

    def deep(features: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return (features + CENTERS[classes]) @ mixing

    (real, truth), (reference, known) = images(2000, 1), images(4000, 2)
    step = unlike * np.linalg.norm(CENTERS[0] - CENTERS[1]) * np.ones(DIMS) / np.sqrt(DIMS)
    moved = fake + step
    given = evidence(moved)
    return Evidence(
        moved,
        given.heldout,
        given.reference,
        given.classes,
        "",
        (deep(moved, labels), deep(real, truth), deep(reference, known)),
    )


def test_classes_and_deep_features_together_real() -> None:
    verdict, found, reasons = kinds(with_deep(*images(2000, 5)))
    assert (verdict, found) == ("ok", []), reasons


def test_classes_and_deep_features_together_a_class_removed() -> None:
    judgement = examine(with_deep(*images(2000, 5, shares_of(1, 0.0))), permutations=1999)
    assert judgement.verdict in ("suspect", "collapsed"), judgement.reasons
    assert judgement.kinds[0] == "lost class", judgement.kinds
    assert judgement.reasons[0].startswith("class b ")
    assert judgement.missing[0]["mode"] == "b"


def test_classes_and_deep_features_together_500_images_repeated() -> None:
    fake, labels = (np.tile(array[:500], (4, *[1] * (array.ndim - 1))) for array in images(500, 5))
    verdict, found, reasons = kinds(with_deep(fake, labels))
    assert verdict == "collapsed", reasons
    assert found[0] == "duplicates", found
    assert "near-duplicates" in reasons[0]


def test_classes_and_deep_features_together_moved_samples() -> None:
    verdict, _, reasons = kinds(with_deep(*images(2000, 5), unlike=1.2))
    assert verdict == "inconclusive", reasons
    assert reasons[0].startswith("quality"), reasons


@pytest.mark.parametrize("left", [0.8, 0.6])
def test_classes_and_deep_features_together_blurred_samples(left: float) -> None:
    """All samples nearer to the middle of everything: not all of what tells them apart is left, and no class is lost."""
    fake, labels = images(2000, 5)
    verdict, found, reasons = kinds(with_deep(left * fake + (1 - left) * CENTERS.mean(axis=0), labels))
    assert verdict != "collapsed", reasons
    assert "lost class" not in found


# -- what a user sees ---------------------------------------------------------------------------------------------------


def test_exhibit_and_picture_show_what_is_missing() -> None:
    from PIL import Image

    fake, _ = images(1500, 5, shares_of(1, 0.0))
    fake = np.concatenate([fake, np.repeat(fake[:50], 10, axis=0)])
    given = evidence(fake)
    known = knowledge_of(given)
    judgement = examine(given, known=known)
    labels = images(4000, 2)[1]
    shown = exhibit(given, judgement, known, labels)
    assert judgement.kinds[0] == "duplicates"
    entry, rows = shown.missing[0]
    assert entry["mode"] == "b"
    assert (labels[rows] == 1).all()
    assert 550 <= shown.in_clusters <= 560
    assert all(len(group) >= 11 for group in shown.clusters)
    assert len(np.unique(fake[shown.clusters[-1]], axis=0)) == 1
    asked: list[np.ndarray] = []

    def read(rows: np.ndarray) -> np.ndarray:
        asked.append(rows)
        return np.full((len(rows), 6, 6, 3), 200, dtype=np.uint8)

    png = draw(judgement.verdict, judgement.reasons, shown, read, read)
    with Image.open(io.BytesIO(png)) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[1] > 900
    assert len(asked) == len(shown.missing) + len(shown.clusters) + 2  # samples and real images as they come
    assert len(shown.samples) == len(shown.others) == 12
    assert shown.samples[-1] == len(fake) - 1
    assert (pixels == (200, 62, 40)).all(axis=2).any(), "generated features are on the map"
    assert (pixels == (200, 200, 200)).all(axis=2).sum() > 40 * 40, "the images are there"


@pytest.mark.parametrize("unreal", [False, True])
def test_samples_are_shown_beside_real_images_or_neither_is(unreal: bool) -> None:
    """A caption with nothing under it is what a person saw of an `ok` or an `inconclusive` run."""
    fake, _ = images(1500, 5)
    given = evidence(fake * 3 if unreal else fake)
    known = knowledge_of(given)
    judgement = examine(given, known=known)
    assert judgement.verdict == ("inconclusive" if unreal else "ok")
    asked: dict[str, np.ndarray] = {}

    def reader(whose: str) -> Callable[[np.ndarray], np.ndarray]:
        def read(rows: np.ndarray) -> np.ndarray:
            asked[whose] = rows
            return np.full((len(rows), 6, 6, 3), 200, dtype=np.uint8)

        return read

    shown = exhibit(given, judgement, known, images(4000, 2)[1])
    draw(judgement.verdict, judgement.reasons, shown, reader("real"), reader("fake"))
    assert {whose: len(rows) for whose, rows in asked.items()} == ({"real": 12, "fake": 12} if unreal else {})


def test_a_picture_without_findings_or_kept_samples() -> None:
    def gone(rows: np.ndarray) -> np.ndarray:
        raise RuntimeError("not kept")

    calm = draw("ok", ["no class is lost"], Exhibit(), gone, gone)
    assert calm.startswith(b"\x89PNG")
    stream = draw("collapsed", ["copies"], Exhibit(clusters=[np.arange(3)], in_clusters=3), gone, gone)
    assert stream.startswith(b"\x89PNG")


@pytest.mark.parametrize(("lost", "powerful"), [(5, False), (15, True)])
def test_a_loss_that_would_be_too_small_to_be_told_gives_no_power(lost: int, powerful: bool) -> None:
    """Of 100 cells, `lost` would be empty: significant either way among 10,000 samples, and told from 8 % of the data on."""
    cells, shares = np.repeat(np.arange(100), 100), np.full(100, 0.01)
    losses = np.where(np.arange(100) < lost, 0.01, 0.0)[None]
    relabellings = Relabellings.draw(len(cells), len(cells), 999, seed=0)
    assert bins(cells, cells, shares, relabellings, losses=losses).powerful is powerful


@pytest.mark.parametrize("count", [150, 900])
def test_what_might_be_lost_is_the_same_among_features_of_many_dimensions(count: int) -> None:
    """Turned into 300 dimensions, distances stay, and so do the parts that data fall into: fewer images than axes, or more."""
    generator = np.random.default_rng(5)
    centers = 6 * generator.standard_normal((5, DIMS))
    features = (centers[generator.integers(0, 5, count)] + generator.standard_normal((count, DIMS))).astype(np.float32)
    turn = np.linalg.qr(generator.standard_normal((300, 300)))[0][:, :DIMS]
    wide = (features @ turn.T).astype(np.float32)
    cells, wider = fit_bins(features, count), fit_bins(wide, count)
    found, same = possible_losses(features, cells), possible_losses(wide, wider)
    assert len(found) == len(same) == 5
    assert found.sum() == pytest.approx(1.0)
    assert sorted(found.sum(axis=1)) == pytest.approx(sorted(same.sum(axis=1)))
