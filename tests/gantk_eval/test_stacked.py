"""Stacked MNIST's count, with the classifier's errors taken out, against worlds whose number of modes is known."""

from __future__ import annotations

import io

import numpy as np
import pytest
from gantk_eval.collapse.known_picture import stacks_to_show
from gantk_eval.images import ArrayImages, GeneratedImages
from gantk_eval.report import Report
from gantk_eval.stacked import MODES, StackedEvaluator, floors, judge_stacked, measure, misread, mode_of
from PIL import Image

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
    assert sum(line.split()[0].isdigit() for line in text[named : text.index("and 680 more")].splitlines()[2:]) == 20


def picture_of(report: Report) -> bytes:
    """The bytes of its pixels."""
    assert report.picture is not None
    with Image.open(io.BytesIO(report.picture)) as picture:
        assert picture.format == "PNG"
        return picture.tobytes()


def test_real_digits_are_stacked_for_what_is_lost() -> None:
    labels = np.array([3, 1, 2, 3, 1, 2, 2])
    lost = [{"mode": f"{mode}", "expected": 26, "seen": 0} for mode in ("123", "222", "907")]
    copies = [np.arange(2), np.arange(5)]
    shown = stacks_to_show(lost, "Lost", labels, copies, 10)
    assert [entry["mode"] for entry, _ in shown.missing] == ["123", "222"]  # no 9 and no 0 can be shown
    for entry, rows in shown.missing:
        assert rows.shape == (12, 3)
        assert set(mode_of(labels[rows])) == {int(entry["mode"])}
    assert shown.heading == "Lost, 2 of 3 modes"
    assert [len(group) for group in shown.clusters] == [5, 2]
    assert shown.in_clusters == 7
    assert shown.samples.tolist() == list(range(10))
    many = [{"mode": f"{mode:03d}", "expected": 26, "seen": 0} for mode in range(700)]
    shown = stacks_to_show(many, "Lost", np.arange(10), [], 100)
    assert [entry["mode"] for entry, _ in shown.missing] == ["000", "100", "200", "300", "399", "499", "599", "699"]
    digits = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    stacks = StackedEvaluator(ArrayImages(digits, np.arange(10)), n_real=10)._real(shown.missing[-1][1])
    assert stacks.shape == (12, 4, 4, 3)
    assert (stacks == [6, 9, 9]).all()


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
    whole = report
    one = mode_of(digits.target[chosen]) != 123
    report = evaluator.evaluate(GeneratedImages(int(one.sum()), lambda i: stacks[one][i], (8, 8, 3), identity="one"))
    assert len({picture_of(whole), picture_of(report)}) == 2
    five = np.isin(digits.target[chosen[:, 0]], [5])
    without = stacks[~five]
    report = evaluator.evaluate(GeneratedImages(len(without), lambda i: without[i], (8, 8, 3), identity="no 5"))
    assert report.verdict == "collapsed"
    assert "digit 5 of the first channel" in report.collapse["reasons"][0]
    assert len({picture_of(whole), picture_of(report)}) == 2
    noise = np.random.default_rng(3).integers(0, 256, (3000, 8, 8, 3), dtype=np.uint8)
    report = evaluator.evaluate(GeneratedImages(len(noise), lambda i: noise[i], (8, 8, 3), identity="noise"))
    assert report.verdict == "inconclusive"  # read as some digits, which says nothing of lost ones
    assert report.collapse["reasons"][0].startswith("quality:")
    picture_of(report)
    for some, low, high in ((stacks, 0.94, 1.0), (noise, 0.0, 0.0), (stacks // 4, 0.0, 0.3)):
        read = evaluator.classifier.logits(evaluator.classifier.features(some[:1000, ..., :1])).argmax(1)
        assert low <= evaluator._looks_real(some[:1000, ..., :1], read).mean() <= high
    faded = stacks // 4
    report = evaluator.evaluate(GeneratedImages(len(faded), lambda i: faded[i], (8, 8, 3), identity="faded"))
    assert report.verdict == "inconclusive"
    assert report.collapse["reasons"][0].startswith("quality:")


def test_modes_are_not_judged_by_digits_that_are_none() -> None:
    """Noise is read as a few digits, which says nothing of lost ones."""
    digits = np.random.default_rng(0).integers(0, 3, (5000, 3))
    confusion = np.eye(10, dtype=np.int64) * 1000
    assert judge_stacked(measure(mode_of(digits), confusion), digits, confusion)["verdict"] == "collapsed"
    unclear = judge_stacked(measure(mode_of(digits), confusion), digits, confusion, certain=0.02)
    assert unclear["verdict"] == "inconclusive"
    assert "only 2% of the channels show their digit" in unclear["reasons"][0]
    unlike = judge_stacked(measure(mode_of(digits), confusion), digits, confusion, realistic=0.1)
    assert unlike["verdict"] == "inconclusive"
    assert "only 10% of the channels are as near to a real digit" in unlike["reasons"][0]
