"""Statistics, Fréchet distance, Inception Score and kernel distance against known answers and torch-fidelity."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from gantk_eval import DataError
from gantk_eval.extrapolation import extrapolated_frechet_distance
from gantk_eval.frechet import frechet_distance
from gantk_eval.inception_score import inception_score
from gantk_eval.kernel_distance import kernel_distance
from gantk_eval.statistics import RunningStatistics, Statistics
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric


def features(count: int, dims: int, seed: int, decay: float = 0.0) -> np.ndarray:
    """Float32 features around a mean that is not zero, with a spectrum that falls as exp(-decay i)."""
    generator = np.random.default_rng(seed)
    scales = np.exp(-decay * np.arange(dims))
    return (generator.standard_normal((count, dims)) * scales + 0.4).astype(np.float32)


def test_statistics_are_numpys() -> None:
    x = features(500, 20, 0)
    statistics = Statistics.of(x)
    assert np.allclose(statistics.mean, x.astype(np.float64).mean(axis=0), rtol=1e-14)
    assert np.allclose(statistics.covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-12, atol=1e-15)


def test_streaming_statistics_equal_two_passes_for_any_batches() -> None:
    x = features(500, 20, 0)
    whole = Statistics.of(x)
    for sizes in ([500], [1, 99, 400], [7] * 71 + [3]):
        running = RunningStatistics(20, shift=np.full(20, 0.3))
        for batch in np.split(x, np.cumsum(sizes)[:-1]):
            running.update(batch)
        result = running.reduce(expected=500)
        assert result.count == 500
        assert np.allclose(result.mean, whole.mean, rtol=1e-13)
        assert np.allclose(result.covariance, whole.covariance, rtol=1e-11, atol=1e-14)
    with pytest.raises(RuntimeError, match="499"):
        running.reduce(expected=499)


def gaussian(mean: np.ndarray, covariance: np.ndarray) -> Statistics:
    return Statistics(10**6, mean, covariance)


def test_frechet_of_gaussians_in_closed_form() -> None:
    # Covariances that commute: FD = |m1 - m2|² + Σ (√λi - √μi)².
    generator = np.random.default_rng(0)
    basis = scipy.linalg.qr(generator.standard_normal((30, 30)))[0]
    first, second = generator.uniform(0.01, 4, 30), generator.uniform(0.01, 4, 30)
    shift = generator.standard_normal(30)
    distance = frechet_distance(
        gaussian(np.zeros(30), (basis * first) @ basis.T), gaussian(shift, (basis * second) @ basis.T)
    )
    assert distance == pytest.approx(shift @ shift + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum(), rel=1e-12)


def test_frechet_of_gaussians_that_do_not_commute() -> None:
    generator = np.random.default_rng(1)
    a, b = (np.cov(generator.standard_normal((12, 60))) for _ in range(2))
    root = scipy.linalg.sqrtm(a)
    expected = np.trace(a) + np.trace(b) - 2 * np.trace(scipy.linalg.sqrtm(root @ b @ root)).real
    assert frechet_distance(gaussian(np.zeros(12), a), gaussian(np.zeros(12), b)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("count", [40, 64, 65, 400])
def test_frechet_of_a_set_with_itself_is_rounding(count: int, decay: float) -> None:
    x = features(count, 64, 0, decay)
    permuted = x[np.random.default_rng(1).permutation(count)]
    statistics, other = Statistics.of(x), Statistics.of(permuted)
    limit = 1e-10 * np.trace(statistics.covariance)
    assert abs(frechet_distance(statistics, statistics)) <= limit
    assert abs(frechet_distance(statistics, other)) <= limit


@pytest.mark.slow
@pytest.mark.parametrize(("decay", "count"), [(0.0, 2500), (0.02, 2500), (0.02, 1000)])
def test_frechet_of_a_set_with_itself_at_inceptions_size(decay: float, count: int) -> None:
    """Above and below full rank, on a flat spectrum and on one that falls to e⁻⁴⁰."""
    x = features(count, 2048, 0, decay)
    permuted = x[np.random.default_rng(1).permutation(count)]
    statistics, other = Statistics.of(x), Statistics.of(permuted)
    limit = 1e-10 * np.trace(statistics.covariance)
    assert abs(frechet_distance(statistics, statistics)) <= limit
    assert abs(frechet_distance(statistics, other)) <= limit


@pytest.mark.parametrize(("n", "m"), [(30, 40), (30, 500), (500, 30)])
def test_frechet_of_deficient_covariances_is_exact(n: int, m: int) -> None:
    x, y = features(n, 64, 2).astype(np.float64), features(m, 64, 3).astype(np.float64) * 1.3
    centred = [z - z.mean(axis=0) for z in (x, y)]
    nuclear = scipy.linalg.svdvals(centred[0] @ centred[1].T).sum() / np.sqrt((n - 1) * (m - 1))
    traces = sum((c**2).sum() / (len(c) - 1) for c in centred)
    expected = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum() + traces - 2 * nuclear
    assert frechet_distance(Statistics.of(x), Statistics.of(y)) == pytest.approx(expected, rel=1e-10)
    without_features = [Statistics(len(z), z.mean(axis=0), np.cov(z, rowvar=False)) for z in (x, y)]
    assert frechet_distance(*without_features) == pytest.approx(expected, rel=1e-8)


def test_frechet_with_dead_features_is_that_of_the_live_ones() -> None:
    x, y = features(300, 20, 4), features(300, 20, 5)
    pad = np.zeros((300, 10), np.float32)
    live = frechet_distance(Statistics.of(x), Statistics.of(y))
    dead = frechet_distance(Statistics.of(np.hstack([x, pad])), Statistics.of(np.hstack([y, pad])))
    assert dead == pytest.approx(live, rel=1e-10)


def test_frechet_agrees_with_torch_fidelity() -> None:
    x, y = features(2000, 32, 6), features(1500, 32, 7) * 1.1
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(torch.from_numpy(z.astype(np.float64))) for z in (x, y)), verbose=False
    )["frechet_inception_distance"]
    assert frechet_distance(Statistics.of(x), Statistics.of(y)) == pytest.approx(theirs, rel=1e-9)


def test_extrapolation_takes_the_bias_in_the_generated_images_off() -> None:
    dims = 8
    truth = gaussian(np.zeros(dims), np.eye(dims))
    naive, extrapolated = [], []
    for seed in range(12):
        x = np.random.default_rng(seed).standard_normal((400, dims))  # the same distribution: the true distance is 0
        naive.append(frechet_distance(Statistics.of(x), truth))
        extrapolated.append(extrapolated_frechet_distance(x, truth, seed=seed))
    assert np.mean(naive) > 0.03
    assert abs(np.mean(np.array(extrapolated, dtype=float))) < 0.4 * np.mean(naive)
    assert extrapolated_frechet_distance(features(100, 64, 0), Statistics.of(features(100, 64, 1))) is None


def test_inception_score_is_torch_fidelitys_in_float64() -> None:
    logits = np.random.default_rng(0).standard_normal((503, 17)) * 3
    theirs = isc_features_to_metric(torch.from_numpy(logits))
    mean, std = inception_score(logits)
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert std == pytest.approx(theirs["inception_score_std"], rel=1e-12)


def test_inception_score_known_answers() -> None:
    classes = np.eye(10)[np.arange(1000) % 10] * 200.0
    assert inception_score(classes, splits=1)[0] == pytest.approx(10.0, rel=1e-9)
    assert inception_score(np.tile(classes[:1], (100, 1)))[0] == pytest.approx(1.0, abs=1e-12)
    with pytest.raises(DataError, match="10 splits"):
        inception_score(classes[:9])


def test_kernel_distance_is_torch_fidelitys_in_float64() -> None:
    x, y = features(300, 24, 0), features(250, 24, 1) * 1.2
    theirs = kid_features_to_metric(
        torch.from_numpy(x).double(), torch.from_numpy(y).double(), kid_subset_size=100, verbose=False
    )
    mean, std = kernel_distance(x, y, subset_size=100)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-12)
    assert std == pytest.approx(theirs["kernel_inception_distance_std"], abs=1e-12)


def test_kernel_distance_of_one_distribution_is_about_zero() -> None:
    mean, std = kernel_distance(features(2000, 16, 0), features(2000, 16, 1), subset_size=200)
    assert abs(mean) < std / 3


@pytest.mark.parametrize(("size", "words"), [(101, "subsets of 101"), (1, "at least 2")])
def test_kernel_distance_says_when_there_are_too_few(size: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        kernel_distance(features(100, 4, 0), features(200, 4, 1), subset_size=size)


def test_one_image_has_no_statistics() -> None:
    with pytest.raises(DataError, match="at least 2"):
        Statistics.of(features(1, 4, 0))
