"""Standard errors against simulation; the Vendi score, extrapolation, warnings and distances for each class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from gantk_eval import ArrayImages, DataError, UserError, evaluate, extrapolation
from gantk_eval.extrapolation import extrapolated_frechet_distance
from gantk_eval.frechet import factor, frechet_distance
from gantk_eval.inception_score import inception_score
from gantk_eval.kernel_distance import kernel_distance
from gantk_eval.standard_errors import (
    frechet_standard_error,
    inception_score_standard_error,
    kernel_distance_standard_error,
    share_standard_error,
    spread_rows,
    trimmed_mean,
)
from gantk_eval.statistics import Statistics
from gantk_eval.vendi import vendi_score
from hypothesis import given, settings
from hypothesis import strategies as st

DIMS = 16
SCALES = np.exp(-3 * np.arange(DIMS) / DIMS)
REFERENCE = np.random.default_rng(99).standard_normal((640, DIMS)) * SCALES
STATISTICS = Statistics.of(REFERENCE)
FACTOR = factor(STATISTICS)


def samples(seed: int, count: int, scale: float = 1.1, shift: float = 0.2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIMS)) * SCALES * scale + shift * SCALES


def frechet(x: np.ndarray) -> tuple[float, float]:
    own = Statistics.of(x)
    return frechet_distance(own, STATISTICS, second_factor=FACTOR), frechet_standard_error(x, own, STATISTICS, FACTOR)


def kernel(x: np.ndarray) -> tuple[float, float]:
    value, std = kernel_distance(x, REFERENCE, subset_size=100, subsets=10)
    return value, kernel_distance_standard_error(x, REFERENCE, subsets=10, subset_std=std)


def inception(x: np.ndarray) -> tuple[float, float]:
    return inception_score(4 * x), inception_score_standard_error(4 * x, 10)  # type: ignore[return-value]


def test_frechets_error_is_its_influence_by_finite_differences() -> None:
    x = samples(0, 300)
    step, influence = 1e-5, []
    own = Statistics.of(x)
    base = frechet_distance(own, STATISTICS)
    for row in x[:300]:
        # The distribution with a little more weight on one image.
        mean = own.mean + step * (row - own.mean)
        covariance = (1 - step) * own.covariance + step * (1 - step) * np.outer(row - own.mean, row - own.mean)
        influence.append((frechet_distance(Statistics(300, mean, covariance), STATISTICS) - base) / step)
    assert frechet(x)[1] == pytest.approx(np.std(influence, ddof=1) / np.sqrt(300), rel=1e-3)


def test_inception_scores_error_is_the_jackknifes() -> None:
    logits = samples(1, 400) * 4
    without = np.array([inception_score(np.delete(logits, i, axis=0), splits=1)[0] for i in range(400)])
    jackknife = np.sqrt(399 / 400 * np.square(without - without.mean()).sum())
    assert inception_score_standard_error(logits, 1) == pytest.approx(jackknife, rel=0.02)


def coverage(measure: Callable[[np.ndarray], tuple[float, float]], runs: int, **world: float) -> tuple[float, float]:
    """How often value ± 1.96 errors holds the expectation, and the mean error over the true spread."""
    found = np.array([measure(samples(seed, 200, **world)) for seed in range(runs)])
    value, error = found.T
    return float(np.mean(abs(value - value.mean()) <= 1.96 * error)), float(error.mean() / value.std())


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "shift"), [(1.1, 0.2), (0.7, 0.3), (1.0, 0.0)])
@pytest.mark.parametrize("measure", [frechet, kernel, vendi_score], ids=["fid", "kid", "vendi"])
def test_errors_cover_the_expectation_at_this_n(
    measure: Callable[[np.ndarray], tuple[float, float]], scale: float, shift: float
) -> None:
    covered, ratio = coverage(measure, 120 if measure is kernel else 300, scale=scale, shift=shift)
    # Binomial noise of 300 runs is ±0.013, of 120 ±0.02. Where both distributions are equal the error is too large, by up to √2.
    assert covered >= (0.88 if measure is kernel else 0.90)
    assert 0.85 < ratio < 1.5


@pytest.mark.slow
def test_inception_scores_error_covers_its_expectation() -> None:
    found = np.array([[*inception_score(4 * samples(s, 500))[:1], inception(samples(s, 500))[1]] for s in range(200)])
    value, error = found.T
    assert np.mean(abs(value - value.mean()) <= 1.96 * error) >= 0.89
    assert 0.8 < error.mean() / value.std() < 1.25


@pytest.mark.slow
def test_the_naive_bootstrap_would_not_have() -> None:
    x = samples(0, 60, 1.0, 0.0)
    generator = np.random.default_rng(0)
    draws = [frechet(x[generator.integers(0, 60, 60)])[0] for _ in range(200)]
    truth = np.mean([frechet(samples(seed, 60, 1.0, 0.0))[0] for seed in range(200)])
    assert np.quantile(draws, 0.025) > truth, "the reason why it is not in use"


@pytest.mark.parametrize(("power", "expected"), [(1.0, 3.0), (0.3, None)])
def test_extrapolation_takes_a_line_in_1_over_n_and_nothing_else(
    power: float, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extrapolation, "frechet_distance", lambda first, *_, **__: 3.0 + 50.0 / first.count**power)
    found = extrapolated_frechet_distance(samples(0, 400), STATISTICS)
    assert found == (None if expected is None else pytest.approx(expected))
    assert extrapolated_frechet_distance(samples(0, 60), STATISTICS) is None, "fewer than 4 d"


def test_extrapolation_makes_use_of_the_whole_distance() -> None:
    x = samples(0, 400)
    given = extrapolated_frechet_distance(x, STATISTICS, whole=frechet(x)[0])
    assert given == pytest.approx(extrapolated_frechet_distance(x, STATISTICS))


def test_vendi_known_answers() -> None:
    assert vendi_score(np.eye(10)[np.arange(100) % 10]) == pytest.approx((10.0, 0.0), abs=1e-9)
    assert vendi_score(np.ones((50, 4))) == pytest.approx((1.0, 0.0), abs=1e-9)
    shares = np.array([0.5, 0.25, 0.25])
    value, error = vendi_score(np.eye(3)[[0, 0, 1, 2]])
    assert value == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert error > 0
    assert vendi_score(np.zeros((5, 3)))[0] == pytest.approx(1.0)


@settings(max_examples=25, deadline=None)
@given(count=st.integers(2, 40), dims=st.integers(1, 40), seed=st.integers(0, 2**20))
def test_vendi_is_the_entropy_of_the_kernel_for_any_shape(count: int, dims: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((count, dims))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T / count)
    values = values[values > 1e-14]
    value = vendi_score(x.astype(np.float32))[0]
    assert value == pytest.approx(np.exp(-(values * np.log(values)).sum()), rel=1e-4)
    assert 1 - 1e-9 <= value <= min(count, dims) + 1e-9


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 500), most=st.integers(1, 500))
def test_spread_rows_are_some_of_the_rows_once(count: int, most: int) -> None:
    rows = spread_rows(count, most)
    assert len(rows) == min(count, most) == len(set(rows.tolist()))
    assert rows[0] == 0
    assert rows[-1] == (count - 1 if most > 1 else 0)


def test_shares_and_trimmed_means() -> None:
    assert share_standard_error(50, 100) == pytest.approx(0.05, rel=0.03)
    assert share_standard_error(100, 100) > 0
    values = np.concatenate([np.random.default_rng(0).standard_normal(98), [1e6, -1e6]])
    mean, error = trimmed_mean(values, 0.01)
    assert abs(mean) < 0.3
    assert error == pytest.approx(0.1, rel=0.25)


def test_a_distance_for_each_class_sees_what_the_whole_hides() -> None:
    # Classes swapped: the whole is the same set, and each class is the other's.
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    pixels = (labels[:, None, None] * 120 + generator.integers(0, 60, (400, 8, 8))).astype(np.uint8)
    reference, fake = ArrayImages(pixels[:200], labels[:200]), ArrayImages(pixels[200:], labels[200:])
    swapped = ArrayImages(pixels[200:], 1 - labels[200:])
    options = {"metrics": ["fd_pixel_pca", "fd_pixel_pca_per_class"], "collapse": False}
    right, wrong = (evaluate(images, reference, **options).metrics for images in (fake, swapped))
    assert right["fd_pixel_pca"] == wrong["fd_pixel_pca"]
    name = "fd_pixel_pca_per_class"
    assert wrong[name]["value"] > 20 * right[name]["value"]
    rows = right[name]["classes"]
    assert right[name]["value"] == pytest.approx(np.mean([row["value"] for row in rows]))
    assert [row["n_fake"] for row in rows] == [100, 100]
    with pytest.raises(DataError, match="needs labels"):
        evaluate(ArrayImages(pixels[200:]), reference, **options)


def test_generic_names_take_the_best_features_at_hand() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    report = evaluate(ArrayImages(pixels[:30]), ArrayImages(pixels[30:]), metrics=["coverage", "vendi"], collapse=False)
    assert list(report.metrics) == ["coverage_pixel_pca", "vendi_pixel_pca"]
    assert "1,000 would do" in report.metrics["coverage_pixel_pca"]["warning"]
    assert "too few images for coverage_pixel_pca" in report.table()
    assert report.metrics["coverage_pixel_pca"]["none_because"]["floor"] == "no held-out images were given"


@pytest.mark.parametrize("grey", [0, 77])
@pytest.mark.parametrize("heldout", [False, True])
def test_a_reference_of_equal_images_is_one_point(grey: int, heldout: bool) -> None:
    """All black, say: the distance and its error are those of the squared distances to it, and a sentence says so."""
    reference = ArrayImages(np.full((120, 8, 8), grey, dtype=np.uint8))
    pixels = np.random.default_rng(0).integers(0, 256, (130, 8, 8), dtype=np.uint8)
    held = ArrayImages(reference.read(range(110))) if heldout else None
    report = evaluate(ArrayImages(pixels), reference, held, metrics=["fd_pixel_pca"], permutations=1199)
    entry = report.metrics["fd_pixel_pca"]
    squares = np.square((pixels.reshape(130, 64).astype(np.float64) - grey) / 255.0).sum(axis=1)
    assert entry["value"] == pytest.approx(squares.mean(), rel=0.01)
    assert entry["standard_error"] == pytest.approx(squares.std(ddof=1) / np.sqrt(130), rel=0.05)
    assert "all real images are equal" in entry["warning"]
    assert report.verdict != "ok"


def test_one_image_that_differs_makes_no_point() -> None:
    real = np.zeros((300, 8, 8), dtype=np.uint8)
    real[7, 2, 2] = 1
    entry = evaluate(ArrayImages(real[::-1].copy()), ArrayImages(real), metrics=["fd_pixel_pca"]).metrics[
        "fd_pixel_pca"
    ]
    assert entry["value"] == pytest.approx(0.0, abs=1e-9)
    assert entry["standard_error"] >= 0
    assert "are equal" not in (entry["warning"] or "")


def test_permutations_that_could_never_reject_are_refused() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    with pytest.raises(UserError, match="500 permutations are too few"):
        evaluate(ArrayImages(pixels), ArrayImages(pixels), metrics=["fd_pixel_pca"], permutations=500)
