"""Parity with torch-fidelity and torchmetrics: one seeded random weights file in the real format, given to all sides.

(a) features; (b) arithmetic on the same features in float64; (c) end to end, from pictures to scores.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gantk_eval import ArrayImages, DataError, Evaluator, GeneratedImages, open_images
from gantk_eval.extractors.inception import InceptionExtractor
from gantk_eval.images import ImageSet
from gantk_eval.verify import Row, Verification, exact_frechet, frechet_scale, torch_fidelity_features, verify
from PIL import Image


def smooth(count: int, side: int, seed: int) -> np.ndarray:
    """Blotches of colour with grain: more like pictures than noise is, and different from one another."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    big = np.stack([np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC)) for x in coarse])
    grain = generator.normal(0.0, 12.0, big.shape)
    return (big + grain).clip(0, 255).astype(np.uint8)


def in_kinds(images: np.ndarray, folder: Path) -> dict[str, ImageSet]:
    """The same pictures as a folder of PNGs, an array, and the samples of a generator."""
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:05d}.png")
    generated = GeneratedImages(len(images), lambda index: images[index], images.shape[1:], identity="sampler")
    return {"png": open_images(folder), "array": ArrayImages(images), "generator": generated}


def check(outcome: Verification) -> None:
    assert outcome.agrees, outcome.table()
    rows = {row.name: row for row in outcome.rows}
    assert outcome.feature_error <= 1e-5
    assert rows["fid"].exact > 1e-3
    assert rows["is"].exact > 1.05  # scores that could differ
    assert abs(rows["kid"].exact) > 1e-5
    assert rows["kid"].error <= 1e-6
    for name in ("fid", "is"):  # with few images their own rounding shows, which averages out
        assert rows[name].error <= 1e-6 * max(1.0, 100 / min(outcome.n_fake, outcome.n_real))


@pytest.mark.parametrize(
    "side", [32, pytest.param(64, marks=pytest.mark.slow), pytest.param(512, marks=pytest.mark.slow)]
)
def test_scores_are_those_of_torch_fidelitys_features(tmp_path: Path, inception_weights: Path, side: int) -> None:
    """(a) and (c), and the same scores whatever the pictures come in."""
    count = 24 if side == 32 else 104  # as few as KID takes at 32 pixels; `test_with_more_images` has 200 of them
    fake, real = smooth(count, side, 0), smooth(count - 4, side, 1)
    real[:, : side // 4] //= 2
    kinds = in_kinds(fake, tmp_path / "fake")
    outcome = verify(kinds["png"], ArrayImages(real), inception_weights, custom=True, torchmetrics=side == 64)
    check(outcome)
    if side == 64:
        other = next(row for row in outcome.rows if row.name == "fid (torchmetrics)")
        assert other.as_shipped == pytest.approx(other.exact, rel=1e-4)  # its eigenvalues lose half of their digits
    rows = {row.name: row for row in outcome.rows}
    evaluator = Evaluator(
        ArrayImages(real),
        metrics=["fid", "is", "kid", "precision", "recall"],
        inception_weights=inception_weights,
        kid_subset_size=count - 4,
        collapse=False,
    )
    if side == 32:  # the others are the same pixels, as `test_extraction` shows with a network that costs less
        kinds = {"generator": kinds["generator"]}
    for kind, images in kinds.items():
        metrics = evaluator.evaluate(images).metrics
        assert metrics["fd_inception-custom"]["value"] == pytest.approx(rows["fid"].gantk, rel=1e-9), kind
        assert metrics["is_inception-custom"]["value"] == pytest.approx(rows["is"].gantk, rel=1e-9), kind
        assert metrics["is_inception-custom"]["std"] == pytest.approx(rows["is std"].gantk, rel=1e-9), kind
        assert metrics["kd_inception-custom"]["value"] == pytest.approx(rows["kid"].gantk, rel=1e-9), kind


def test_arithmetic_on_the_same_features_is_exact() -> None:
    """(b): IS, KID, precision and recall equal torch-fidelity's functions to 1e-9, FID an exact reference to 1e-8."""
    import torch
    from gantk_eval.frechet import frechet_distance
    from gantk_eval.inception_score import inception_score
    from gantk_eval.kernel_distance import kernel_distance
    from gantk_eval.neighbours import Balls, neighbour_scores
    from gantk_eval.statistics import Statistics
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    generator = np.random.default_rng(0)
    mix = generator.standard_normal((40, 300)) / 6
    for n, m in ((700, 500), (250, 200)):  # above and below full rank
        x = np.abs(generator.standard_normal((n, 40)) @ mix).astype(np.float32)
        y = np.abs(generator.standard_normal((m, 40)) @ mix * 1.1 + 0.05).astype(np.float32)
        a, b = (torch.from_numpy(z.astype(np.float64)) for z in (x, y))
        assert frechet_distance(Statistics.of(x), Statistics.of(y)) == pytest.approx(exact_frechet(x, y), rel=1e-8)
        theirs = kid_features_to_metric(a, b, kid_subset_size=150, verbose=False)
        mean, std = kernel_distance(x, y, subset_size=150)
        assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
        assert std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9)
        theirs = prc_features_to_metric(a, b, verbose=False)
        scores = neighbour_scores(Balls(x), Balls(y))
        assert 0.02 < scores.precision[0] < 1
        assert scores.precision[0] == pytest.approx(theirs["precision"], abs=1e-6)  # its mean is taken in float32
        assert scores.recall[0] == pytest.approx(theirs["recall"], abs=1e-6)
        assert round(theirs["precision"] * n) == round(scores.precision[0] * n)
        assert 0.02 < scores.recall[0] < 1
        assert round(theirs["recall"] * m) == round(scores.recall[0] * m)
        logits = a[:, :50] * 8
        theirs = isc_features_to_metric(logits)
        mean, std = inception_score(logits.numpy())
        assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
        assert std == pytest.approx(theirs["inception_score_std"], rel=1e-9)


def test_a_cross_check_that_fails_says_so(inception_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gantk_eval import verify as module

    def off_by_a_little(weights: Path, images: ImageSet, indices: np.ndarray, **_: object) -> tuple:
        extractor = InceptionExtractor(weights, custom=True)
        features = extractor.features(images.read(indices)) * np.float32(1.0001)
        return features, extractor.logits(features).astype(np.float32)

    monkeypatch.setattr(module, "torch_fidelity_features", off_by_a_little)
    outcome = verify(
        ArrayImages(smooth(10, 32, 0)), ArrayImages(smooth(10, 32, 1)), inception_weights, torchmetrics=False
    )
    assert not outcome.agrees
    assert "DIFFER with" in outcome.table()
    assert {row.name for row in outcome.rows if not row.agrees} >= {"fid", "kid"}
    assert outcome.to_dict()["agrees"] is False
    assert not Row("x", float("nan"), 1.0, None, 1e-6, 1.0, "").agrees


@pytest.mark.parametrize("again", ["itself", "in another order"])
def test_a_set_agrees_with_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, again: str) -> None:
    """FID is 0 then but for the last digits of its traces, of which no share is to be had; a small network stands in."""
    from gantk_eval import verify as module
    from gantk_eval.statistics import Statistics

    generator = np.random.default_rng(0)
    mix, classes = generator.standard_normal((192, 64)) / 14, generator.standard_normal((64, 10))

    class Small:
        name = "small"

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def features(self, images: np.ndarray) -> np.ndarray:
            return np.abs(images.reshape(len(images), -1) / 255.0 @ mix).astype(np.float32)

        def logits(self, features: np.ndarray) -> np.ndarray:
            return features.astype(np.float64) @ classes

    def theirs(weights: Path, images: ImageSet, indices: np.ndarray, **_: object) -> tuple[np.ndarray, np.ndarray]:
        pixels = images.read(indices)
        noise = np.random.default_rng(int(pixels.sum())).standard_normal((len(pixels), 64))
        features = (Small().features(pixels) * (1.0 + 1e-7 * noise)).astype(np.float32)
        return features, Small().logits(features).astype(np.float32)

    monkeypatch.setattr(module, "InceptionExtractor", Small)
    monkeypatch.setattr(module, "torch_fidelity_features", theirs)
    monkeypatch.setattr(module, "_torchmetrics_fid", lambda *_: 1e-5)
    pixels = generator.integers(0, 256, (120, 8, 8, 3), dtype=np.uint8)
    same = pixels if again == "itself" else pixels[generator.permutation(120)]
    outcome = verify(ArrayImages(pixels), ArrayImages(same), tmp_path / "none")
    assert outcome.agrees, outcome.table()
    assert {"fid", "fid (torchmetrics)"} <= {row.name for row in outcome.rows}
    assert all(np.isfinite(row.error) and row.error < 1e-7 for row in outcome.rows if row.name.startswith("fid"))

    true = module.frechet_distance

    def off_by_a_little(first: Statistics, second: Statistics) -> float:
        return true(first, second) + 1e-11 * float(np.trace(first.covariance + second.covariance))

    monkeypatch.setattr(module, "frechet_distance", off_by_a_little)
    wrong = verify(ArrayImages(pixels), ArrayImages(same), tmp_path / "none")
    assert {row.name for row in wrong.rows if not row.agrees} == {"fid", "fid (torchmetrics)"}


def test_an_exact_zero_is_divided_by_nothing() -> None:
    features = np.random.default_rng(0).standard_normal((30, 5))
    assert frechet_scale(0.0, features, features) == pytest.approx(2e-6 * np.trace(np.cov(features.T)))
    assert frechet_scale(-7.0, features, features) == 7.0
    assert frechet_scale(0.0, features[[0, 0]], features[[0, 0]]) > 0


@pytest.mark.slow
def test_with_more_images_scores_agree_more_closely(inception_weights: Path) -> None:
    real = smooth(200, 32, 1)
    real[:, :8] //= 2
    outcome = verify(ArrayImages(smooth(200, 32, 0)), ArrayImages(real), inception_weights, torchmetrics=False)
    assert all(row.limit == pytest.approx(1e-6) for row in outcome.rows if row.name in ("fid", "is"))
    check(outcome)


@pytest.mark.slow
def test_the_cross_check_takes_grey_pictures_and_a_share_of_many(inception_weights: Path) -> None:
    grey = smooth(30, 32, 0)[..., :1]
    outcome = verify(ArrayImages(grey), ArrayImages(grey[:12]), inception_weights, most=11, torchmetrics=False)
    assert (outcome.n_fake, outcome.n_real) == (11, 11)
    assert outcome.agrees, outcome.table()
    with pytest.raises(DataError, match="at least 10 images"):
        verify(ArrayImages(grey), ArrayImages(grey[:9]), inception_weights)


def test_torch_fidelitys_extractor_is_not_given_a_pickle(inception_weights: Path, tmp_path: Path) -> None:
    import pickle

    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"x": Path}))
    with pytest.raises(Exception, match=r"(?i)weights.?only|unpickl|magic"):
        torch_fidelity_features(tmp_path / "bad.pth", ArrayImages(smooth(10, 32, 0)), np.arange(2))


@pytest.mark.slow
def test_the_command_prints_the_columns(
    tmp_path: Path, inception_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from typer.testing import CliRunner

    from gantk.cli import app

    monkeypatch.setenv("GANTK_INCEPTION_WEIGHTS", str(inception_weights))
    for seed, name in enumerate(("fake", "real")):
        np.savez(tmp_path / f"{name}.npz", images=smooth(10, 32, seed))
    command = ["eval", "--images", str(tmp_path / "fake.npz"), "--reference", str(tmp_path / "real.npz"), "--verify"]
    result = CliRunner().invoke(app, [*command, "--device", "cpu", "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["agrees"] is True
    assert {"fid", "fid (torchmetrics)", "is", "kid", "precision", "recall"} <= set(found["scores"])
    assert "eigenvalues" in found["scores"]["fid"]["why"]
