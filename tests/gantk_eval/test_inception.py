"""The Inception tier with seeded random weights in the real format, against torch-fidelity's own extractor."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from gantk_eval import ArrayImages, DataError, Evaluator, UserError, WeightsError
from gantk_eval.extractors import inception
from gantk_eval.extractors.blocks import block_size
from gantk_eval.extractors.inception import WEIGHTS_FILE, InceptionExtractor, find_weights
from gantk_eval.extractors.resizing import tf1_bilinear
from gantk_eval.inception_score import inception_score
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


def pictures(count: int, side: int, seed: int, channels: int = 3) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def theirs(weights: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    data = io.BytesIO(weights.read_bytes())
    network = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], feature_extractor_weights_path=data)
    with torch.no_grad():
        layers = network(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    return {name: value.numpy() for name, value in zip(("2048", "logits_unbiased"), layers, strict=True)}


@pytest.mark.parametrize(("side", "channels"), [(32, 3), (64, 1)])
def test_features_are_torch_fidelitys(
    inception: InceptionExtractor, inception_weights: Path, side: int, channels: int
) -> None:
    images = pictures(3, side, 0, channels)
    before = torch.random.get_rng_state()
    mine = inception.features(images)
    assert torch.equal(before, torch.random.get_rng_state())
    expected = theirs(inception_weights, np.repeat(images, 3 // channels, axis=3))
    error = np.linalg.norm(mine - expected["2048"], axis=1) / np.linalg.norm(expected["2048"], axis=1)
    assert np.linalg.norm(expected["2048"][0] - expected["2048"][1]) > 1e-3  # else the test could not fail
    assert error.max() <= 1e-5
    logits = inception.logits(mine)
    # Its own logits are float32 sums over 2,048 products.
    assert np.linalg.norm(logits - expected["logits_unbiased"]) <= 1e-4 * np.linalg.norm(logits)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 48), (299, 299), (512, 512), (301, 700), (1, 2)])
def test_the_resize_is_tensorflow_1s(height: int, width: int) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, height, width))).float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(images, size=(299, 299), align_corners=False)
    assert (tf1_bilinear(images, 299) - expected).abs().max() <= 1e-4
    ordinary = torch.nn.functional.interpolate(images, size=(299, 299), mode="bilinear", align_corners=False)
    assert (height, width) == (299, 299) or (ordinary - expected).abs().max() > 1  # else the test could not fail


def test_features_do_not_depend_on_the_batch(inception: InceptionExtractor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gantk_eval.extractors.inception.block_size", block_size)
    images = pictures(7, 32, 0)
    together = inception.features(images)
    assert np.array_equal(together[:1], inception.features(images[:1]))
    assert np.array_equal(together[4:], inception.features(images[4:]))


def test_bf16_is_near_and_has_another_name(inception: InceptionExtractor, inception_weights: Path) -> None:
    images = pictures(3, 32, 0)
    exact = inception.features(images)
    quick = InceptionExtractor(inception_weights, custom=False, precision="bf16")
    features = quick.features(images)
    assert features.dtype == np.float32
    error = np.linalg.norm(features - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert 1e-4 < error.max() < 2e-2
    assert (quick.name, quick.precision) == ("inception-bf16", "bf16")
    assert InceptionExtractor(inception_weights, custom=True, precision="bf16").name == "inception-custom-bf16"
    with pytest.raises(UserError, match="fp32, bf16"):
        InceptionExtractor(inception_weights, custom=True, precision="fp16")


def test_the_precision_of_the_loop_around_does_not_matter(inception: InceptionExtractor) -> None:
    images = pictures(2, 32, 0)
    expected = inception.features(images)
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert np.array_equal(inception.features(images), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_score_under_other_weights_is_never_called_fid(inception_weights: Path) -> None:
    reference, fake = ArrayImages(pictures(21, 16, 0)), ArrayImages(pictures(20, 16, 1))
    evaluator = Evaluator(
        reference, metrics=["fid", "is", "kid"], inception_weights=inception_weights, kid_subset_size=20, collapse=False
    )
    report = evaluator.evaluate(fake)
    assert set(report.metrics) == {"fd_inception-custom", "is_inception-custom", "kd_inception-custom"}
    assert report.protocol["extractor"] == "inception-custom"
    assert report.metrics["kd_inception-custom"]["subset_size"] == 20
    assert report.metrics["fd_inception-custom"]["floor"] is None
    assert report.verdict == "inconclusive"
    layers = theirs(inception_weights, np.concatenate([fake.read(range(20)), reference.read(range(21))]))
    score = inception_score(layers["logits_unbiased"][:20])[0]
    assert report.metrics["is_inception-custom"]["value"] - 1 == pytest.approx(score - 1, rel=1e-3, abs=1e-9)
    x, y = layers["2048"][:20].astype(np.float64), layers["2048"][20:].astype(np.float64)
    xc, yc = x - x.mean(axis=0), y - y.mean(axis=0)
    nuclear = np.linalg.svd(xc @ yc.T, compute_uv=False).sum() / np.sqrt(19 * 20)
    exact = ((x.mean(0) - y.mean(0)) ** 2).sum() + (xc**2).sum() / 19 + (yc**2).sum() / 20 - 2 * nuclear
    assert report.metrics["fd_inception-custom"]["value"] == pytest.approx(exact, rel=1e-5)
    json.dumps(report.to_dict(), allow_nan=False)


def test_scores_in_bf16_are_marked(inception_weights: Path) -> None:
    reference, fake = ArrayImages(pictures(3, 16, 0)), ArrayImages(pictures(4, 16, 1))
    options = {"metrics": ["fid"], "inception_weights": inception_weights, "collapse": False}
    exact, quick = (Evaluator(reference, precision=p, **options).evaluate(fake) for p in ("fp32", "bf16"))
    assert set(quick.metrics) == {"fd_inception-custom-bf16"}
    assert (quick.protocol["extractor"], quick.protocol["precision"]) == ("inception-custom-bf16", "bf16")
    assert quick.protocol["fingerprint"] != exact.protocol["fingerprint"]
    expected = exact.metrics["fd_inception-custom"]["value"]
    assert quick.metrics["fd_inception-custom-bf16"]["value"] == pytest.approx(expected, rel=0.2)
    assert quick.metrics["fd_inception-custom-bf16"]["value"] != expected
    with pytest.raises(UserError, match="fp32, bf16"):
        Evaluator(reference, precision="fp16")


def test_missing_weights_are_named_with_hash_and_place(tmp_path: Path) -> None:
    images = ArrayImages(pictures(4, 8, 0))
    with pytest.raises(WeightsError, match=rf"{WEIGHTS_FILE}.*6726825d") as caught:
        Evaluator(images, metrics=["fid"])
    assert caught.value.exit_code == 3
    assert str(tmp_path / "weights") in str(caught.value)


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path, inception_weights: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / WEIGHTS_FILE).write_bytes(inception_weights.read_bytes())
    with pytest.raises(WeightsError, match="sha256 begins with"):
        find_weights()


def test_a_server_that_cannot_even_be_looked_up_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No time limit of a socket ends a look-up of a name."""
    released, ended = threading.Event(), threading.Event()

    def urlopen(*_: object, **__: object) -> None:
        released.wait(60)
        ended.set()
        raise OSError("too late")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    monkeypatch.setattr(inception, "DOWNLOAD_SECONDS", 0.1)
    assert inception._download(tmp_path / WEIGHTS_FILE) is None
    assert not ended.is_set()
    released.set()
    assert ended.wait(30)


def test_a_download_is_kept_where_it_is_the_right_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer(io.BytesIO):
        headers: dict[str, str] = {}  # noqa: RUF012

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Answer(b"weights"))
    target = tmp_path / "new" / WEIGHTS_FILE
    assert inception._download(target) is None
    assert not list(target.parent.iterdir())
    monkeypatch.setattr(inception, "SHA256_PREFIX", hashlib.sha256(b"weights").hexdigest()[:8])
    assert inception._download(target) == target
    assert target.read_bytes() == b"weights"


def test_own_weights_by_environment(monkeypatch: pytest.MonkeyPatch, inception_weights: Path) -> None:
    monkeypatch.setenv("GANTK_INCEPTION_WEIGHTS", str(inception_weights))
    assert find_weights() == (inception_weights, True)
    monkeypatch.setenv("GANTK_INCEPTION_WEIGHTS", "nowhere.pth")
    with pytest.raises(WeightsError, match=r"nowhere\.pth"):
        find_weights()


def test_weights_are_never_unpickled(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"x": Payload()}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=r"bad\.pth"):
        InceptionExtractor(tmp_path / "bad.pth", custom=True)
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="state dict"):
        InceptionExtractor(tmp_path / "other.pth", custom=True)
    assert not (tmp_path / "executed").exists()


def test_too_few_images_for_a_named_metric(inception_weights: Path) -> None:
    reference = ArrayImages(pictures(12, 8, 0))
    evaluator = Evaluator(reference, metrics=["kid"], inception_weights=inception_weights)
    with pytest.raises(DataError, match="subsets of 1000 images"):
        evaluator.evaluate(ArrayImages(pictures(12, 8, 1)))
    evaluator = Evaluator(reference, metrics=["is"], inception_weights=inception_weights)
    with pytest.raises(DataError, match="10 splits"):
        evaluator.evaluate(ArrayImages(pictures(9, 8, 1)))
    with pytest.raises(DataError, match="at least 2"):
        evaluator.evaluate(ArrayImages(pictures(1, 8, 1)))
