"""The weights-free tier: the classifier and pixel-PCA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gantk_eval import ArrayImages, DataError
from gantk_eval.extractors import classifier
from gantk_eval.extractors.classifier import ClassifierExtractor
from gantk_eval.extractors.pixel_pca import PixelPCAExtractor, coarse_pixels


def stripes(count: int, side: int = 8, channels: int = 1) -> ArrayImages:
    """Two classes that are told apart at once: horizontal and vertical stripes, with noise."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, count)
    wave = (np.arange(side) % 2 * 200).astype(np.uint8)
    images = np.where(labels[:, None, None] == 1, wave[None, :, None], wave[None, None, :])
    images = images + generator.integers(0, 50, (count, side, side))
    return ArrayImages(np.repeat(images[..., None], channels, axis=3).astype(np.uint8), labels)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "STEPS", {1: 30, 3: 30})


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("side", "channels"), [(4, 1), (7, 3), (40, 1)])
def test_any_size_and_number_of_channels(side: int, channels: int) -> None:
    images = stripes(120, side, channels)
    if side == 40:  # stripes of one pixel are even grey to a classifier at 32×32
        fine = stripes(120, 20, channels).read(range(120))
        images = ArrayImages(fine.repeat(2, axis=1).repeat(2, axis=2), images.labels)
    extractor = ClassifierExtractor(images, floor=0.0)
    features = extractor.features(images.read(range(10)))
    assert features.shape == (10, extractor.dims)
    assert extractor.logits(features).shape == (10, 2)
    assert extractor.accuracy > 0.9
    assert extractor.confusion.sum() == 18  # 15 %, never trained on


@pytest.mark.usefixtures("quick")
def test_seed_and_content_decide_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = stripes(100)
    before = torch.random.get_rng_state()
    first = ClassifierExtractor(images, floor=0.0)
    assert torch.equal(before, torch.random.get_rng_state()), "it must not move the caller's random numbers"
    monkeypatch.setenv("GANTK_CACHE", str(tmp_path / "other"))
    assert ClassifierExtractor(images, floor=0.0).weights_sha256 == first.weights_sha256
    assert ClassifierExtractor(images, floor=0.0, seed=1).weights_sha256 != first.weights_sha256


class StopError(Exception):
    pass


@pytest.mark.parametrize("channels", [1, 3])
def test_an_interrupted_training_resumes_and_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    monkeypatch.setattr(classifier, "STEPS", {1: 120, 3: 120})
    images, steps = stripes(400, channels=channels), 0

    def stop_after_70() -> None:
        nonlocal steps
        steps += 1
        if steps == 70:
            raise StopError

    monkeypatch.setenv("GANTK_CACHE", str(tmp_path / "whole"))
    whole = ClassifierExtractor(images, floor=0.0)
    monkeypatch.setenv("GANTK_CACHE", str(tmp_path / "interrupted"))
    with pytest.raises(StopError):
        ClassifierExtractor(images, floor=0.0, check=stop_after_70)
    resumed = ClassifierExtractor(images, floor=0.0, check=stop_after_70)
    assert steps == 70 + 70, "of 120 steps the first 50 were kept"
    assert resumed.weights_sha256 == whole.weights_sha256
    assert [file.suffixes for file in (tmp_path / "interrupted" / "classifiers").iterdir()] == [[".npz"]]


@pytest.mark.usefixtures("quick")
def test_what_is_kept_of_a_training_may_be_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "STEPS", {1: 60, 3: 60})
    images, steps = stripes(100), 0

    def stop() -> None:
        nonlocal steps
        steps += 1
        if steps == 55:
            raise StopError

    with pytest.raises(StopError):
        ClassifierExtractor(images, floor=0.0, check=stop, seed=5)
    folder = classifier.cache_folder() / "classifiers"
    for file in folder.glob("*.part.npz"):
        file.write_bytes(file.read_bytes()[:1000])
    again = ClassifierExtractor(images, floor=0.0, check=stop, seed=5)
    assert steps == 55 + 60
    monkeypatch.setenv("GANTK_CACHE", str(tmp_path / "other"))
    assert again.weights_sha256 == ClassifierExtractor(images, floor=0.0, seed=5).weights_sha256


def test_only_small_colour_sets_have_a_smaller_batch() -> None:
    """Grey sets and large ones keep the recipe that their scores were published under."""
    assert [classifier.batch_size(1, count) for count in (60, 510, 5000)] == [60, 100, 100]
    assert [classifier.batch_size(3, count) for count in (20, 510, 1020, 1999, 2000, 10_000)] == [
        20,
        25,
        51,
        99,
        100,
        100,
    ]
    assert len(classifier._split(2353, 0)[0]) == 2000


@pytest.mark.usefixtures("quick")
def test_it_is_trained_once_and_again_where_the_cache_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = stripes(100)
    first = ClassifierExtractor(images, floor=0.0)
    (file,) = (tmp_path / "cache" / "classifiers").iterdir()
    train = classifier._train
    calls: list[int] = []
    monkeypatch.setattr(classifier, "_train", lambda *args: calls.append(1) or train(*args))
    assert ClassifierExtractor(images, floor=0.0).weights_sha256 == first.weights_sha256
    assert not calls
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert ClassifierExtractor(images, floor=0.0).weights_sha256 == first.weights_sha256
    assert len(calls) == 1


@pytest.mark.usefixtures("quick")
def test_a_poor_classifier_is_refused() -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (200, 8, 8), dtype=np.uint8)
    noise = ArrayImages(pixels, generator.integers(0, 2, 200))
    with pytest.raises(DataError, match=r"below the floor of 97%.*give weights of Inception"):
        ClassifierExtractor(noise)
    assert ClassifierExtractor(noise, floor=0.0).accuracy < 0.97


def test_labels_are_needed() -> None:
    images = np.zeros((40, 8, 8), np.uint8)
    with pytest.raises(DataError, match=r"no labels.*a sub-folder for each class, or give weights of Inception"):
        ClassifierExtractor(ArrayImages(images))
    with pytest.raises(DataError, match="at least 2 classes"):
        ClassifierExtractor(ArrayImages(images, np.zeros(40, np.int64)))


@pytest.mark.usefixtures("quick")
def test_features_do_not_depend_on_the_batch() -> None:
    images = stripes(64)
    extractor = ClassifierExtractor(images, floor=0.0)
    whole = extractor.features(images.read(range(64)))
    parts = [extractor.features(images.read(range(i, min(i + 9, 64)))) for i in range(0, 64, 9)]
    assert len(parts[-1]) == 1  # a batch of one takes other kernels
    assert np.array_equal(whole, np.concatenate(parts))


@pytest.mark.slow
def test_the_recipe_reads_digits(digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits
    assert ClassifierExtractor(ArrayImages(images[:1617], labels[:1617])).accuracy >= 0.97


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(("name", "least"), [("mnist", 0.98), ("cifar10", 0.70)])
def test_the_recipe_on_real_data(request: pytest.FixtureRequest, name: str, least: float) -> None:
    from gantk_eval import open_images

    folder = request.getfixturevalue("real_mnist" if name == "mnist" else "real_data")
    assert ClassifierExtractor(open_images(folder / f"{name}_train.parquet")).accuracy >= least


def test_pixel_pca_keeps_distances_along_the_principal_axes() -> None:
    generator = np.random.default_rng(0)
    base = generator.integers(0, 256, (3, 16, 16, 1))
    weights = generator.dirichlet(np.ones(3), 200)
    images = np.tensordot(weights, base, axes=1).round().astype(np.uint8)
    extractor = PixelPCAExtractor(ArrayImages(images))
    assert extractor.dims == 64
    features = extractor.features(images)
    pixels = coarse_pixels(images)
    distance = np.linalg.norm(pixels[0] - pixels[1])
    assert np.linalg.norm(features[0] - features[1]) == pytest.approx(distance, rel=0.02)
    share = features.var(axis=0)
    assert share[:2].sum() / share.sum() > 0.99  # mixtures of three pictures span two dimensions
    assert PixelPCAExtractor(ArrayImages(images)).weights_sha256 == extractor.weights_sha256


def test_coarse_pixels_are_cell_means() -> None:
    images = np.zeros((1, 32, 32, 1), np.uint8)
    images[0, :2, 2:4] = 255
    coarse = coarse_pixels(images).reshape(16, 16)
    assert coarse[0, 1] == 1.0
    assert coarse.sum() == 1.0
