"""Changes of quality: what they leave as it is, and that each is one."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality_changes import DEVELOPMENT, HELDBACK, KINDS, LEVELS, changed, combinations


def pictures(count: int, channels: int, side: int = 16, seed: int = 0) -> np.ndarray:
    """Smooth random images uint8 [count, side, side, channels], no two alike."""
    generator = np.random.default_rng(seed)
    coarse = generator.uniform(20, 235, (count, 4, 4, channels))
    return coarse.repeat(side // 4, axis=1).repeat(side // 4, axis=2).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_changes_every_image_and_more_where_it_is_stronger(name: str, channels: int) -> None:
    images, labels = pictures(24, channels), np.arange(24) % 3
    real = pictures(60, channels, seed=1), np.arange(60) % 3
    distances = []
    for level in LEVELS:
        found = changed(images, labels, name, level, real)
        assert found.shape == images.shape
        assert found.dtype == np.uint8
        assert np.array_equal(found, changed(images, labels, name, level, real))
        distances.append(np.abs(found.astype(float) - images).mean())
    assert 0 < distances[0] < distances[2]
    # Nothing is lost: images that differed before differ still.
    strong = changed(images, labels, name, "strong", real)
    assert len(np.unique(strong.reshape(24, -1), axis=0)) == 24


def test_a_mixture_is_with_another_image_and_of_the_same_class_where_it_says_so() -> None:
    real, classes = pictures(40, 1, seed=2), np.arange(40) % 2
    nearest = {}
    for name in ("mixed with its nearest of the class", "mixed with its nearest"):
        mixed = changed(real, classes, name, "strong", (real, classes)).astype(float)
        share = KINDS[name].strengths[2]
        other = (mixed - (1 - share) * real) / share
        distances = np.abs(other[:, None] - real[None]).mean((2, 3, 4))
        nearest[name] = distances.argmin(1)
        assert distances.min(1).max() < 2.0
        assert (nearest[name] != np.arange(40)).all()
    assert (classes[nearest["mixed with its nearest of the class"]] == classes).all()
    assert (classes[nearest["mixed with its nearest"]] != classes).any()


def test_the_halves_share_the_kinds_out_and_stay_as_they_were_drawn() -> None:
    assert set(DEVELOPMENT) | set(HELDBACK) == set(KINDS)
    assert not set(DEVELOPMENT) & set(HELDBACK)
    assert abs(len(DEVELOPMENT) - len(HELDBACK)) <= 1
    assert len(KINDS) >= 30
    # Another draw would mix what a detector was built on with what it is reported on.
    assert DEVELOPMENT[:3] == ("affine, repeated borders", "zoomed in", "zoomed out")


def test_combinations_are_of_two_kinds_each_once() -> None:
    pairs = combinations(DEVELOPMENT, 30)
    assert len(set(pairs)) == 30
    assert all(first != second and {first, second} <= set(DEVELOPMENT) for first, second in pairs)
    images, labels = pictures(8, 1), np.zeros(8, int)
    both = changed(images, labels, ("shifted", "white noise"), "mild", (images, labels))
    first = changed(images, labels, "shifted", "mild", (images, labels))
    assert not np.array_equal(both, first)
