"""Copies of the training set are found; real, poor and collapsed images are not taken for copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gantk_eval import ArrayImages, evaluate
from gantk_eval.memorisation import MemorisationTest, data_copying

DIMS = 12


def cloud(count: int, seed: int) -> np.ndarray:
    """Three clusters of different widths."""
    generator = np.random.default_rng(seed)
    which = generator.integers(0, 3, count)
    return generator.standard_normal((count, DIMS)) * (0.5 + which[:, None]) + 6 * which[:, None]


TRAIN = cloud(1500, 0)
TEST = MemorisationTest(cloud(600, 1), TRAIN)


def test_real_samples_are_ok() -> None:
    result = TEST.judge(cloud(600, 2))
    assert result["verdict"] == "ok"
    assert abs(result["c_t"]) < 2
    assert abs(result["authenticity"] - result["authenticity_floor"]) < 0.1
    assert result["examples"] == []


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_copies_are_memorised_and_named(noise: float) -> None:
    chosen = np.random.default_rng(3).permutation(1500)[:500]
    result = TEST.judge(TRAIN[chosen] + noise * np.random.default_rng(4).standard_normal((500, DIMS)))
    assert result["verdict"] == "memorised"
    assert result["copies"] > 0.9
    assert result["authenticity"] < 0.1
    assert result["c_t"] < -5
    for example in result["examples"]:
        assert chosen[example["generated"]] == example["reference"]
    assert f"sample {result['examples'][0]['generated']} copies image" in result["reasons"][0]


def test_a_tenth_of_copies_is_enough_and_four_in_a_hundred_are_not_though_significant() -> None:
    for share, verdict in ((0.1, "memorised"), (0.04, "ok")):
        samples = cloud(1000, 5)
        number = int(1000 * share)
        samples[:number] = TRAIN[:number]
        result = TEST.judge(samples)
        assert result["copies_p"] <= 0.01
        assert result["verdict"] == verdict


def test_typical_samples_are_near_and_no_copies() -> None:
    centres = np.stack([TRAIN[np.random.default_rng(i).permutation(1500)[:1]][0] for i in range(400)])
    shrunk = 0.3 * (cloud(400, 6) - centres.mean(axis=0)) + centres.mean(axis=0)
    assert TEST.judge(shrunk)["verdict"] == "ok"
    middles = (TRAIN[:500] + TRAIN[500:1000]) / 2
    assert TEST.judge(middles)["verdict"] == "ok"
    assert TEST.judge(np.repeat(cloud(1, 7), 400, axis=0))["verdict"] == "ok"


def test_a_training_set_with_copies_of_its_own() -> None:
    doubled = np.repeat(TRAIN[:700], 2, axis=0)
    test = MemorisationTest(cloud(600, 1), doubled)
    assert test.judge(cloud(600, 2))["verdict"] == "inconclusive", "every training image is there twice"
    partly = np.concatenate([TRAIN, TRAIN[:500]])
    test = MemorisationTest(cloud(600, 1), partly)
    assert test.judge(cloud(600, 2))["verdict"] == "ok"
    assert test.judge(partly[1000:])["verdict"] == "memorised"


def blotches(count: int, seed: int) -> np.ndarray:
    """Smooth colours with grain, uint8 [count, 12, 12, 3]: of more dimensions than pixel PCA keeps, and not symmetric."""
    from PIL import Image

    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    big = np.stack([np.asarray(Image.fromarray(x).resize((12, 12), Image.Resampling.BICUBIC)) for x in coarse])
    return (big + generator.normal(0.0, 8.0, big.shape)).clip(0, 255).astype(np.uint8)


def test_mirrored_copies_are_memorised_and_real_images_are_not() -> None:
    from gantk_eval.extractors.pixel_pca import PixelPCAExtractor

    train = blotches(1200, 0)
    extractor = PixelPCAExtractor(ArrayImages(train))
    features, heldout = extractor.features(train), extractor.features(blotches(400, 1))
    test = MemorisationTest(heldout, features, mirror=extractor.mirrored)
    chosen = np.random.default_rng(3).permutation(1200)[:400]
    copies = train[chosen]
    copies[::2] = copies[::2, :, ::-1]
    noisy = (copies + np.random.default_rng(4).normal(0, 10, copies.shape)).clip(0, 255).astype(np.uint8)
    for images in (copies, noisy, train[chosen][:, :, ::-1]):
        result = test.judge(extractor.features(images))
        assert result["verdict"] == "memorised"
        assert result["mirrored"] is True
        assert result["copies"] > 0.95
        assert result["authenticity"] < 0.05
        assert result["c_t"] < -5
        for example in result["examples"]:
            assert chosen[example["generated"]] == example["reference"]
    for images in (blotches(400, 2), blotches(400, 5)[:, :, ::-1]):
        result = test.judge(extractor.features(images))
        assert result["verdict"] == "ok"
        assert abs(result["copies"] - result["copies_floor"]) < 0.03
        assert abs(result["c_t"]) < 2
        assert abs(result["authenticity"] - result["authenticity_floor"]) < 0.1
    blind = MemorisationTest(heldout, features).judge(extractor.features(train[chosen][:, :, ::-1]))
    assert blind["verdict"] == "ok"
    assert blind["mirrored"] is False
    assert "mirrored copies were not looked for" in blind["reasons"][1]


def test_a_training_set_that_holds_its_mirrored_images() -> None:
    from gantk_eval.extractors.pixel_pca import PixelPCAExtractor

    single = blotches(600, 0)
    train = np.concatenate([single, single[:, :, ::-1]])
    extractor = PixelPCAExtractor(ArrayImages(train))
    test = MemorisationTest(extractor.features(blotches(400, 1)), extractor.features(train), mirror=extractor.mirrored)
    noise = np.random.default_rng(4).normal(0, 10, (400, 12, 12, 3))
    for copies in (single[:400], single[:400, :, ::-1]):
        noisy = (copies + noise).clip(0, 255).astype(np.uint8)
        result = test.judge(extractor.features(noisy))
        assert result["verdict"] == "memorised"
        assert result["copies"] > 0.95
        assert result["mirrored"] is True
    assert test.judge(extractor.features(blotches(400, 2)))["verdict"] == "ok"


def test_features_of_mirrored_images_are_mirrored_features() -> None:
    from gantk_eval.extractors.pixel_pca import PixelPCAExtractor

    for shape in ((4, 5, 3), (9, 7, 1)):  # few enough pixels that the axes span them all
        images = np.random.default_rng(0).integers(0, 256, (300, *shape), dtype=np.uint8)
        extractor = PixelPCAExtractor(ArrayImages(images))
        expected = extractor.features(images[:, :, ::-1])
        assert np.allclose(extractor.mirrored(extractor.features(images)), expected, atol=1e-9)


@pytest.mark.parametrize("width", [1, 3])
def test_the_two_nearest_either_way_are_two_different_images(width: int) -> None:
    points = np.random.default_rng(0).standard_normal((150, width))
    test = MemorisationTest(points, points, mirror=np.negative)
    queries = np.random.default_rng(1).standard_normal((40, width))
    distances, indices, turned = test._nearest(queries, 2)
    both = [np.linalg.norm(sign * queries[:, None] - points[None], axis=2) for sign in (1, -1)]
    smaller = np.minimum(*both)
    order = np.argsort(smaller, axis=1)[:, :2]
    assert np.array_equal(indices, order)
    assert np.allclose(distances, np.take_along_axis(smaller, order, axis=1), atol=1e-7)
    assert np.allclose(np.linalg.norm(turned - points[indices[:, 0]], axis=1), distances[:, 0], atol=1e-7)


def test_too_few_images_are_inconclusive() -> None:
    assert "at least 100" in TEST.judge(TRAIN[:99])["reasons"][0]
    assert MemorisationTest(cloud(50, 1), TRAIN).judge(TRAIN)["verdict"] == "inconclusive"


def test_c_t_is_standard_normal_for_held_out_images() -> None:
    # Meehan et al.'s statistic over its own spread, over worlds in which nothing is copied.
    generator = np.random.default_rng(0)
    p = []
    for _ in range(400):
        cells = [generator.integers(0, 4, 200) for _ in range(2)]
        distances = [generator.exponential(1.0 + c) for c in cells]
        p.append(data_copying(*cells, *distances)[1])
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.09
    assert data_copying(np.zeros(10), np.zeros(300), np.ones(10), np.ones(300)) == (None, None)


@pytest.mark.slow
def test_false_alarms_on_held_out_images_are_rare() -> None:
    fired, small = 0, []
    for seed in range(80):
        test = MemorisationTest(cloud(200, 3 * seed), cloud(400, 3 * seed + 1))
        result = test.judge(cloud(200, 3 * seed + 2))
        fired += result["verdict"] == "memorised"
        small.append(result["copies_p"] <= 0.05)
    assert fired == 0
    assert np.mean(small) <= 0.1


def test_the_report_tells_copies_and_does_not_call_them_collapse(
    digit_sets: tuple[ArrayImages, ArrayImages, ArrayImages],
) -> None:
    # Without labels: no classifier need be trained for this.
    reference, heldout, others = (ArrayImages(images.read(range(len(images)))) for images in digit_sets)
    options = {"metrics": ["fd_pixel_pca"], "permutations": 1199}
    copied = evaluate(ArrayImages(reference.read(range(0, 1000, 2))), reference, heldout, **options)
    assert copied.memorisation["verdict"] == "memorised"
    assert copied.memorisation["mirrored"] is True
    mirrored = ArrayImages(np.ascontiguousarray(reference.read(range(0, 1000, 2))[:, :, ::-1]))
    assert evaluate(mirrored, reference, heldout, **options).memorisation["verdict"] == "memorised"
    assert copied.verdict not in ("collapsed", "suspect")
    assert "memorisation: memorised" in copied.table()
    assert evaluate(others, reference, heldout, **options).memorisation["verdict"] == "ok"
    assert evaluate(others, reference, **options).memorisation["verdict"] == "inconclusive"


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_worlds_of_real_images(name: str, real_data: Path) -> None:
    from gantk_eval import open_images
    from gantk_eval.extractors.pixel_pca import PixelPCAExtractor

    train, test = (open_images(real_data / f"{name}_{split}.parquet") for split in ("train", "test"))
    pixels = train.read(range(10_000))
    extractor = PixelPCAExtractor(ArrayImages(pixels))
    judge = MemorisationTest(
        extractor.features(test.read(range(2000))), extractor.features(pixels), mirror=extractor.mirrored
    ).judge
    generator = np.random.default_rng(0)
    real, copies = test.read(range(2000, 4000)).astype(float), pixels[:2000].astype(float)

    def found(images: np.ndarray) -> dict[str, Any]:
        return judge(extractor.features(images.clip(0, 255).astype(np.uint8)))

    mixed = real.copy()
    mixed[:200] = copies[:200]
    for images in (copies, copies + generator.normal(0, 40, copies.shape), mixed, copies[:, :, ::-1]):
        assert found(images)["verdict"] == "memorised"
    assert found(copies[:, :, ::-1])["copies"] > 0.9
    blurred = sum(np.roll(real, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    mean = np.repeat(real.mean(axis=0, keepdims=True), 2000, axis=0) + generator.normal(0, 5, real.shape)
    repeated = np.repeat(real[:100], 20, axis=0)
    halfway = (copies + pixels[2000:4000]) / 2
    for images in (real, blurred, real + generator.normal(0, 30, real.shape), mean, repeated, halfway, real * 0.5 + 64):
        assert found(images)["verdict"] == "ok"
    if name == "cifar10":  # nearer than held-out images, and no copies
        assert found(blurred)["c_t"] < -2
        assert found(halfway)["c_t"] < -2
        assert found(np.roll(copies, 1, axis=2))["verdict"] == "memorised"
