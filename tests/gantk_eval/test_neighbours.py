"""Precision, recall, density, coverage: against torch-fidelity, worlds with known answers, and counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gantk_eval import neighbours
from gantk_eval.neighbours import Balls, NeighbourScores, neighbour_scores
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_prc import calculate_precision_recall_full, calculate_precision_recall_part

NAMES = ("precision", "recall", "density", "coverage")


def cloud(count: int, dims: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dims)) * scale + shift


def scores(fake: np.ndarray, real: np.ndarray) -> NeighbourScores:
    return neighbour_scores(Balls(fake), Balls(real))


def values(found: NeighbourScores) -> list[float]:
    return [getattr(found, name)[0] for name in NAMES]


@pytest.mark.parametrize(("n", "m"), [(300, 300), (301, 97), (60, 400)])
def test_precision_and_recall_are_torch_fidelitys(n: int, m: int) -> None:
    fake, real = cloud(n, 10, 0, 0.8, 0.2), cloud(m, 10, 1)
    found = scores(fake, real)
    for theirs in (calculate_precision_recall_full, calculate_precision_recall_part):
        precision, recall = theirs(torch.from_numpy(fake), torch.from_numpy(real), 3, 50)
        # Its means are taken in float32.
        assert found.precision[0] * n == pytest.approx(round(precision * n), abs=1e-9)
        assert found.recall[0] * m == pytest.approx(round(recall * m), abs=1e-9)


def by_hand(fake: np.ndarray, real: np.ndarray) -> list[float]:
    """From the definitions, one pair at a time."""

    def radius(points: np.ndarray, i: int, k: int) -> float:
        return sorted(float(np.linalg.norm(points[i] - p)) for j, p in enumerate(points) if j != i)[k - 1]

    def inside(x: np.ndarray, points: np.ndarray, k: int) -> list[bool]:
        return [bool(np.linalg.norm(x - p) <= radius(points, i, k)) for i, p in enumerate(points)]

    return [
        float(np.mean([any(inside(x, real, 3)) for x in fake])),
        float(np.mean([any(inside(y, fake, 3)) for y in real])),
        float(np.mean([sum(inside(x, real, 5)) / 5 for x in fake])),
        float(np.mean(np.array([inside(x, real, 5) for x in fake]).any(axis=0))),
    ]


@settings(max_examples=25, deadline=None)
@given(n=st.integers(6, 25), m=st.integers(6, 25), dims=st.integers(1, 6), seed=st.integers(0, 2**20))
def test_all_four_are_as_defined_for_any_shape(n: int, m: int, dims: int, seed: int) -> None:
    fake, real = cloud(n, dims, seed, 0.8), cloud(m, dims, seed + 1)
    assert values(scores(fake, real)) == pytest.approx(by_hand(fake, real), abs=1e-12)


def test_identical_disjoint_tight_and_wide() -> None:
    x = cloud(200, 5, 0)
    assert values(scores(x, x[::-1]))[:2] == [1.0, 1.0]
    assert values(scores(x, x[::-1]))[3] == 1.0
    assert values(scores(x + 100.0, x)) == [0.0, 0.0, 0.0, 0.0]
    tight, wide = scores(cloud(300, 5, 1, 0.2), cloud(300, 5, 2)), scores(cloud(300, 5, 1, 3.0), cloud(300, 5, 2))
    assert tight.precision[0] > 0.99
    assert tight.recall[0] < 0.1
    assert tight.density[0] > 1.2
    assert tight.coverage[0] < 0.6
    assert wide.precision[0] < 0.4
    assert wide.recall[0] > 0.9


def test_coverage_of_one_distribution_is_the_exact_null() -> None:
    # With n = m and k = 5 it is 1 - 2^-5 in the limit: 0.969, METRICS's number.
    found = [values(scores(cloud(500, 4, s), cloud(500, 4, 100 + s)))[3] for s in range(12)]
    assert np.mean(found) == pytest.approx(1 - 2.0**-5, abs=0.005)


def test_results_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, real = cloud(130, 6, 0, 0.7), cloud(111, 6, 1)
    whole = scores(fake, real)
    monkeypatch.setattr(neighbours, "CELLS", 1000)
    for name in NAMES:
        assert getattr(scores(fake, real), name) == pytest.approx(getattr(whole, name), rel=1e-12)


def test_copies_are_at_no_distance() -> None:
    x = np.repeat(cloud(20, 64, 0, 1.0, 50.0), 6, axis=0)
    assert Balls(x).radius(5).max() == 0.0
    assert values(scores(x, x)) == [1.0, 1.0, pytest.approx(6 / 5), 1.0]


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_errors_are_the_jackknifes_by_leaving_out(scale: float) -> None:
    fake, real = cloud(50, 3, 0, scale), cloud(70, 3, 1)
    without = np.array([values(scores(np.delete(fake, i, axis=0), real)) for i in range(50)])
    expected = np.sqrt(49 / 50 * np.square(without - without.mean(axis=0)).sum(axis=0))
    found = scores(fake, real)
    for place, name in ((1, "recall"), (2, "density"), (3, "coverage")):
        assert getattr(found, name)[1] == pytest.approx(expected[place], rel=1e-9), name
    assert found.precision[1] >= expected[0] * 0.9


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_errors_cover_other_samples_of_the_same_model(scale: float) -> None:
    real = Balls(cloud(400, 6, 10_000))
    runs = [neighbour_scores(Balls(cloud(400, 6, s, scale)), real) for s in range(120)]
    for name in NAMES:
        value, error = np.array([getattr(run, name) for run in runs]).T
        assert value.std() < 1.15 * np.sqrt(np.mean(error**2)), name
        assert np.mean(error) < 2.5 * value.std(), name
        assert np.mean(abs(value - value.mean()) <= 1.96 * error) >= 0.9, name
