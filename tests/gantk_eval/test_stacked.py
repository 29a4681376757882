"""Stacked MNIST's count, with the classifier's errors taken out, against worlds whose number of modes is known."""

from __future__ import annotations

import numpy as np
import pytest
from gantk_eval.images import ArrayImages, GeneratedImages
from gantk_eval.report import Report
from gantk_eval.stacked import MODES, StackedEvaluator, floors, judge_stacked, measure, misread, mode_of

COUNT = 26_000


def classifier(error: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """P(read | true) of a classifier, and its confusion as counted on 10,000 test digits."""
    truth = np.full((10, 10), error / 9)
    np.fill_diagonal(truth, 1 - error)
    generator = np.random.default_rng(seed)
    return truth, np.stack([generator.multinomial(1000, row) for row in truth])


def read(modes: np.ndarray, truth: np.ndarray, seed: int = 1) -> np.ndarray:
    """The digits that the classifier reads, int64 [n, 3]."""
    digits = np.stack([modes // 100, modes // 10 % 10, modes % 10], axis=1)
    places = np.random.default_rng(seed).random(digits.shape)[..., None] > truth.cumsum(axis=1)[digits]
    return places.sum(axis=-1).clip(0, 9)


def generated(modes: np.ndarray, seed: int = 2) -> np.ndarray:
    return modes[np.random.default_rng(seed).integers(len(modes), size=COUNT)]


def test_misread_images_by_simulation() -> None:
    truth, _ = classifier(0.02)
    exact = np.round(truth * 1e9)
    counts = np.zeros(MODES, dtype=np.int64)
    counts[[123, 777]] = 20_000, 6_000
    mean, variance = misread(counts, exact)
    seen = np.zeros(MODES)
    for seed in range(20):
        seen += np.bincount(mode_of(read(np.repeat([123, 777], [20_000, 6_000]), truth, seed)), minlength=MODES) / 20
    assert mean[[123, 777]] == pytest.approx([0, 0], abs=0.01)
    others = np.setdiff1d(np.arange(MODES), [123, 777])
    assert seen[others].sum() == pytest.approx(mean[others].sum(), rel=0.02)
    assert seen[124] == pytest.approx(mean[124], rel=0.1)
    # With the confusion known all but exactly, what is left is the chance of the reading itself.
    assert variance == pytest.approx(mean, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("error", [0.002, 0.01, 0.02])
@pytest.mark.parametrize("modes", [1, 30, 300, 980, 1000])
def test_the_count_is_right_whatever_the_classifier(error: float, modes: int) -> None:
    truth, confusion = classifier(error)
    there = np.random.default_rng(3).choice(MODES, modes, replace=False)
    found = measure(mode_of(read(generated(there), truth)), confusion)
    assert abs(found.modes - modes) <= 1 + modes // 100  # at most 1 % false ones are expected
    assert len(np.setdiff1d(there, np.flatnonzero(found.covered))) <= 1
    if modes == 300:  # what a count without correction would have said
        assert found.modes_raw > {0.002: 380, 0.01: 600, 0.02: 780}[error]


def test_the_floor_is_that_of_theory() -> None:
    _, confusion = classifier(0.01)
    floor = floors(confusion, COUNT)
    assert floor["reverse_kl"].mean == pytest.approx(999 / (2 * COUNT), rel=0.02)
    assert 0.020 < floor["reverse_kl"].high < 0.023
    assert floor["modes"].low >= 999
    # Digits in MNIST's own shares cannot be uniform.
    shares = np.array([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]) / 60_000
    own = 3 * (shares * np.log(10 * shares)).sum()
    assert floors(confusion, COUNT, shares)["reverse_kl"].mean == pytest.approx(
        floor["reverse_kl"].mean + own, rel=0.05
    )


def judged(modes: np.ndarray, error: float = 0.01, **options: int) -> dict:
    truth, confusion = classifier(error)
    digits = read(modes, truth)
    return judge_stacked(measure(mode_of(digits), confusion), digits, confusion, **options)


def test_verdicts() -> None:
    everything = np.arange(MODES)
    assert judged(generated(everything))["verdict"] == "ok"
    lost = judged(generated(everything[everything // 10 % 10 != 3]))
    assert lost["verdict"] == "collapsed"
    assert "digit 3 of the second channel" in lost["reasons"][0]
    assert lost["missing"][0]["seen"] < 5
    assert len(lost["missing"]) == 100
    weights = np.where(everything < 100, 20, 1)
    uneven = judged(generated(np.repeat(everything, weights)))
    assert uneven["verdict"] in ("suspect", "collapsed")
    assert any("unequal" in reason for reason in uneven["reasons"])
    copied = judged(generated(everything), copies=20_000)
    assert (copied["verdict"], "exact copies" in copied["reasons"][0]) == ("collapsed", True)
    few = judged(generated(everything)[:500])
    assert (few["verdict"], "draw 26,000" in few["reasons"][0]) == ("inconclusive", True)


def test_the_table_says_how_many_lost_modes_it_leaves_out() -> None:
    found = judged(generated(np.arange(300)))
    text = Report({}, found, {"fingerprint": "0", "extractor": "classifier", "precision": "fp32"}).table()
    assert "and 680 more" in text
    named = text.index("missing or starved")
    assert sum(line.split()[0].isdigit() for line in text[named : text.index("and 680 more")].splitlines()[1:-1]) == 20


def test_real_stacks_through_a_real_classifier() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    chosen = np.random.default_rng(0).integers(1797, size=(COUNT, 3))
    stacks = np.stack([pixels[chosen[:, channel]] for channel in range(3)], axis=-1)
    evaluator = StackedEvaluator(ArrayImages(pixels[..., None], digits.target), n_real=1797, batch_size=1000)
    report = evaluator.evaluate(GeneratedImages(COUNT, lambda index: stacks[index], (8, 8, 3), identity="real"))
    assert report.metrics["modes"]["value"] >= 980  # with 27 test digits a class their errors are known but roughly
    assert report.metrics["reverse_kl"]["value"] < 0.1
    assert report.protocol["classifier_accuracy"] > 0.97
    assert "no held-out images" not in report.table()
    assert "none (misread images count too; compare `modes` with its floor)" in report.table()
    five = np.isin(digits.target[chosen[:, 0]], [5])
    without = stacks[~five]
    report = evaluator.evaluate(GeneratedImages(len(without), lambda i: without[i], (8, 8, 3), identity="no 5"))
    assert report.verdict == "collapsed"
    assert "digit 5 of the first channel" in report.collapse["reasons"][0]
    noise = np.random.default_rng(3).integers(0, 256, (3000, 8, 8, 3), dtype=np.uint8)
    report = evaluator.evaluate(GeneratedImages(len(noise), lambda i: noise[i], (8, 8, 3), identity="noise"))
    assert report.verdict == "inconclusive"  # read as some digits, which says nothing of lost ones
    assert report.collapse["reasons"][0].startswith("quality:")


def test_modes_are_not_judged_by_digits_that_are_none() -> None:
    """Noise is read as a few digits, which says nothing of lost ones."""
    digits = np.random.default_rng(0).integers(0, 3, (5000, 3))
    confusion = np.eye(10, dtype=np.int64) * 1000
    assert judge_stacked(measure(mode_of(digits), confusion), digits, confusion)["verdict"] == "collapsed"
    unclear = judge_stacked(measure(mode_of(digits), confusion), digits, confusion, certain=0.02)
    assert unclear["verdict"] == "inconclusive"
    assert "only 2% of the channels show their digit" in unclear["reasons"][0]
