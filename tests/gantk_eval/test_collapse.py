"""The collapse verdict, in feature worlds with a known answer. Pictures are in test_evaluator.py."""

from __future__ import annotations

import numpy as np
import pytest
from gantk_eval.collapse.calibration import Relabellings, holm, permutation_p
from gantk_eval.collapse.classes import class_histogram, corrected_shares
from gantk_eval.collapse.duplicates import duplicate_distance, duplicates
from gantk_eval.collapse.neighbours import nearest, nearest_distance
from gantk_eval.collapse.quality import certain_share, realistic_share
from gantk_eval.collapse.verdict import ClassEvidence, Evidence, judge

CLASSES, DIMS = 10, 16
CENTERS = np.random.default_rng(99).standard_normal((CLASSES, DIMS)) * 6


def world(
    count: int, seed: int, shares: np.ndarray | None = None, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters around ten centres: features [count, 16], true classes [count]."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(CLASSES, count, p=shares)
    return CENTERS[labels] + spread * generator.standard_normal((count, DIMS)), labels


def predicted(labels: np.ndarray, accuracy: float, seed: int) -> np.ndarray:
    """What a classifier with evenly spread mistakes says."""
    generator = np.random.default_rng(seed)
    wrong = (labels + generator.integers(1, CLASSES, len(labels))) % CLASSES
    return np.where(generator.random(len(labels)) < accuracy, labels, wrong)


def confusion(accuracy: float, count: int = 5000) -> np.ndarray:
    labels = np.random.default_rng(5).integers(0, CLASSES, count)
    table = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    np.add.at(table, (labels, predicted(labels, accuracy, 6)), 1)
    return table


def verdict(fake: tuple[np.ndarray, np.ndarray], accuracy: float = 0.98, heldout: int = 1000, seed: int = 0) -> dict:
    real, reference = world(heldout, 1), world(3000, 2)
    classes = ClassEvidence(
        fake[0],
        real[0],
        reference[0],
        predicted(fake[1], accuracy, 7),
        predicted(real[1], accuracy, 8),
        predicted(reference[1], accuracy, 9),
        confusion(accuracy),
        tuple("abcdefghij"),
    )
    return judge(Evidence(fake[0], real[0], reference[0], classes), seed=seed)


def without(index: int, left: float = 0.0) -> np.ndarray:
    shares = np.full(CLASSES, 1.0)
    shares[index] = left
    return shares / shares.sum()


def test_holm_and_permutation_p() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert permutation_p(5.0, np.zeros(1999)) == pytest.approx(1 / 2000)
    assert permutation_p(0.0, np.zeros(1999)) == 1.0


def test_nearest_is_the_full_distance_matrix() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((1500, 5)) + 100, generator.standard_normal((70, 5)) + 100
    full = np.linalg.norm(x[:, None] - y[None], axis=2)
    distances, indices = nearest(x, y, 3)
    assert np.allclose(distances, np.sort(full, axis=1)[:, :3], atol=1e-6)
    assert (indices[:, 0] == full.argmin(axis=1)).all()
    assert (nearest(y, y, 1, itself=True)[1][:, 0] != np.arange(70)).all()


def test_corrected_shares_undo_the_confusion() -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(CLASSES), 4)
    rows = confusion(0.7) / confusion(0.7).sum(axis=1, keepdims=True)
    assert np.allclose(corrected_shares(shares @ rows, rows), shares)
    assert np.allclose(corrected_shares(shares @ rows, np.broadcast_to(rows, (4, CLASSES, CLASSES))), shares)


@pytest.mark.parametrize("accuracy", [0.98, 0.7])
def test_real_data_is_ok(accuracy: float) -> None:
    result = verdict(world(2000, 3), accuracy, heldout=3000)
    assert result["verdict"] == "ok", result
    names = "duplicates class_histogram bins within_mode class_spread class_coverage class_vendi coverage vendi pair_distance"
    assert [t["name"] for t in result["tests"]] == names.split()
    assert set(result["tests"][0]) == {"name", "statistic", "null_mean", "effect", "p", "p_adjusted", "outcome"}


def test_false_alarms_are_rare() -> None:
    p = []
    table = confusion(0.9)
    for seed in range(40):
        fake, real = world(300, 1000 + seed), world(300, 2000 + seed)
        classes = predicted(fake[1], 0.9, seed), predicted(real[1], 0.9, seed + 500)
        p.append(class_histogram(*classes, table, Relabellings.draw(300, 300, 499, seed)).p)
    # Under the null p is uniform: below a half about as often as not, and hardly ever below 1 %.
    assert 9 <= sum(x <= 0.5 for x in p) <= 31
    assert sum(x <= 0.01 for x in p) <= 3


@pytest.mark.parametrize("accuracy", [0.98, 0.7])
def test_a_lost_class_is_named(accuracy: float) -> None:
    result = verdict(world(2000, 3, without(4)), accuracy)
    assert result["verdict"] == "collapsed", result
    assert [m["mode"] for m in result["missing"]] == ["e"]
    assert result["missing"][0]["seen"] < 0.1 * result["missing"][0]["expected"]
    assert result["missing"][0]["expected"] == pytest.approx(200, rel=0.25)
    assert "class e has" in result["reasons"][0]


def test_a_starved_class_is_suspect() -> None:
    result = verdict(world(3000, 3, without(4, 0.3)))
    assert result["verdict"] == "suspect", result
    assert "starved" in result["reasons"][0]


def test_repeated_images_are_collapse() -> None:
    features, labels = world(250, 3)
    result = verdict((np.repeat(features, 4, axis=0), np.repeat(labels, 4)))
    assert result["verdict"] == "collapsed", result
    assert "1,000 of 1,000 samples are near-duplicates of 250 images" in result["reasons"][0]


def test_one_image_over_and_over_is_collapse() -> None:
    features, labels = world(1, 3)
    result = verdict((np.repeat(features, 1000, axis=0), np.repeat(labels, 1000)))
    assert result["verdict"] == "collapsed"
    assert len(result["missing"]) == CLASSES - 1


def test_duplicates_among_real_images_are_no_collapse() -> None:
    # Real data in which a third of the images are there twice: so may the generated ones be.
    def doubled(seed: int) -> np.ndarray:
        features = world(600, seed)[0]
        return np.concatenate([features, features[:200]])

    relabellings = Relabellings.draw(800, 800, 499, 0)
    result = duplicates(doubled(3), doubled(1), duplicate_distance(world(3000, 2)[0]), relabellings)
    assert result.statistic > 0.4
    assert abs(result.effect) < 0.05
    assert result.severity == "none"


def test_poor_quality_is_not_collapse() -> None:
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((1000, DIMS)) * 40
    result = verdict((noise, np.zeros(1000, dtype=np.int64)))  # a classifier may call all noise one class
    assert result["verdict"] == "inconclusive"
    assert "quality" in result["reasons"][0]
    faint = 100 + 0.001 * generator.standard_normal((1000, DIMS))  # without contrast, but no two alike
    assert verdict((faint, np.zeros(1000, dtype=np.int64)))["verdict"] == "inconclusive"


@pytest.mark.parametrize(("sharpness", "expected"), [(1.0, "collapsed"), (0.1, "inconclusive")])
def test_a_class_that_is_lost_among_unclear_samples_is_not_judged(sharpness: float, expected: str) -> None:
    """Class 3 has no samples. Where the others are clearly of their classes, it is lost; else it may be one that cannot be
    recognised yet."""
    fake, real, reference = world(2000, 3, without(3)), world(1000, 1), world(3000, 2)
    logits = [-np.square(x[:, None] - CENTERS).sum(axis=2) / 40 for x in (fake[0], real[0])]
    classes = ClassEvidence(
        fake[0], real[0], reference[0], logits[0].argmax(1), logits[1].argmax(1), predicted(reference[1], 0.98, 9),
        confusion(0.98), tuple("abcdefghij"),
        fake_logits=logits[0] * sharpness, heldout_logits=logits[1],
    )  # fmt: skip
    result = judge(Evidence(fake[0], real[0], reference[0], classes), seed=0)
    assert result["verdict"] == expected, result["reasons"]
    if expected == "collapsed":
        assert result["reasons"][0].startswith("class d has 0 of an expected")
    else:
        assert "samples show their class as clearly as the middle one of real images" in result["reasons"][0]


def test_real_images_are_as_clear_as_real_images_whatever_their_classes() -> None:
    """Classes 0 to 4 are recognised more easily than the others; only others are there."""
    generator = np.random.default_rng(0)
    classes = [generator.integers(5, 10, 4000), generator.integers(0, 10, 4000)]
    logits = [np.eye(10)[c] * np.abs(generator.normal(np.where(c < 5, 6.0, 2.0), 0.5))[:, None] for c in classes]
    assert certain_share(logits[0], logits[1], *classes) == pytest.approx(0.5, abs=0.04)
    assert certain_share(logits[0] * 0.5, logits[1], *classes) < 0.05
    assert certain_share(logits[0], logits[1][:0], classes[0], classes[1][:0]) == 1.0


def test_real_images_are_realistic_by_its_definition() -> None:
    real, other, reference = world(2000, 1)[0], world(2000, 3)[0], world(3000, 2)[0]
    near = [nearest_distance(some, reference) for some in (other, real, other + 100, real[:1].repeat(50, axis=0))]
    assert realistic_share(near[0], near[1]) == pytest.approx(0.95, abs=0.02)
    assert realistic_share(near[2], near[1]) == 0.0
    assert realistic_share(near[3], near[1]) == 1.0  # fidelity, not diversity


def test_too_few_samples_are_inconclusive_not_ok() -> None:
    result = verdict(world(60, 3))
    assert result["verdict"] == "inconclusive"
    assert "generate at least" in result["reasons"][0] or "too few" in result["reasons"][0]
    assert verdict(world(1000, 3), heldout=40)["verdict"] == "inconclusive"


def test_without_labels_lost_modes_are_not_claimed_to_be_there() -> None:
    real, reference = world(1000, 1)[0], world(3000, 2)[0]
    result = judge(Evidence(world(1000, 3)[0], real, reference))
    assert result["verdict"] == "inconclusive"
    assert "no labels" in result["reasons"][0]
    repeated = np.repeat(world(250, 3)[0], 4, axis=0)
    assert judge(Evidence(repeated, real, reference))["verdict"] == "collapsed"


@pytest.mark.parametrize(("count", "heldout"), [(200, 1000), (500, 1000), (2000, 200)])
def test_without_classes_a_lost_mode_is_never_ok_where_it_cannot_be_found(count: int, heldout: int) -> None:
    """`ok` at these numbers would be said of a set without one of the ten modes."""
    reference = world(5000, 50)[0]
    for seed in range(3):
        real, fake = world(heldout, 1 + seed)[0], world(count, 300 + seed, without(seed))[0]
        found = judge(Evidence(fake, real, reference, None, "", (fake, real, reference)))
        assert found["verdict"] != "ok", found
    enough = [world(n, n)[0] for n in (2000, 2001)]
    assert judge(Evidence(*enough, reference, None, "", (*enough, reference)))["verdict"] == "ok"


def test_a_class_that_no_held_out_image_has_is_named() -> None:
    made, truth = world(1000, 3)[1], world(1000, 1, without(4))[1]
    relabellings = Relabellings.draw(1000, 1000, 999, 0)
    found = class_histogram(
        made, truth, np.eye(CLASSES, dtype=np.int64) * 500, relabellings, class_names=tuple("abcdefghij")
    )
    assert not found.powerful
    assert found.weakness == "class e has no held-out images, so it cannot be judged; give held-out images of it"


def test_a_classifier_that_is_certain_of_everything_makes_no_image_unclear() -> None:
    logits = np.eye(CLASSES)[np.arange(200) % CLASSES] * 60
    assert certain_share(logits, logits, logits.argmax(1), logits.argmax(1)) == 0.5
