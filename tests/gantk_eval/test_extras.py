"""Path length, MS-SSIM and LPIPS: generators and pairs whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from gantk_eval import (
    ArrayImages,
    DataError,
    Evaluator,
    GeneratedImages,
    StreamingEvaluator,
    UserError,
    WeightsError,
    evaluate,
)
from gantk_eval import lpips as lpips_module
from gantk_eval.lpips import LPIPS, find_backbone
from gantk_eval.metrics import METRICS, find_metric
from gantk_eval.pairs import choose_pairs, ms_ssim, scales_for
from gantk_eval.path_length import EPSILON, PathGenerator, interpolate, path_lengths
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

SIDE = 12


class Linear:
    """G(z) = 0.02 W z as an image of one channel; latents by index."""

    latent_path: Literal["linear", "spherical"] = "linear"

    def __init__(self, gain: float = 1.0, labels: np.ndarray | None = None) -> None:
        self.weight = torch.randn(SIDE * SIDE, 5, generator=torch.Generator().manual_seed(0)) * 0.02 * gain
        self.classes = labels

    def latent(self, index: np.ndarray) -> Tensor:
        return torch.stack([torch.randn(5, generator=torch.Generator().manual_seed(1000 + int(i))) for i in index])

    def labels(self, index: np.ndarray) -> np.ndarray | None:
        return None if self.classes is None else self.classes[index]

    def decode(self, latent: Tensor, labels: np.ndarray | None) -> Tensor:
        return (latent @ self.weight.T).reshape(-1, 1, SIDE, SIDE)


def squared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.square(second.astype(np.float64) - first).sum(axis=(1, 2, 3))


def test_the_path_length_of_a_linear_generator_is_that_of_the_line() -> None:
    assert isinstance(Linear(), PathGenerator)
    generator = Linear()
    lengths = path_lengths(generator, squared, 40, seed=0, chunk=7)
    ends = [
        generator.decode(generator.latent(2 * np.arange(40) + end), None).double().numpy() * 127.5 for end in (0, 1)
    ]
    # Straight, so the same at each t, and free of ε.
    assert lengths == pytest.approx(squared(*(np.moveaxis(e, 1, -1) for e in ends)), rel=0.02)
    assert path_lengths(Linear(3.0), squared, 40, seed=0, chunk=7) == pytest.approx(9 * lengths, rel=0.02)
    assert path_lengths(Linear(0.0), squared, 40, seed=0, chunk=7) == pytest.approx(np.zeros(40))


def test_path_lengths_do_not_depend_on_chunks() -> None:
    whole = path_lengths(Linear(), squared, 23, seed=1, chunk=23)
    assert path_lengths(Linear(), squared, 23, seed=1, chunk=4) == pytest.approx(whole, rel=1e-3)


def test_both_ends_have_the_class_of_the_first() -> None:
    seen: list[Any] = []

    class Labelled(Linear):
        def decode(self, latent: Tensor, labels: np.ndarray | None) -> Tensor:
            seen.append(labels)
            return super().decode(latent, labels)

    path_lengths(Labelled(labels=np.arange(20) % 3), squared, 10, seed=0, chunk=10)
    assert [labels.tolist() for labels in seen] == [(2 * np.arange(10) % 3).tolist()] * 2


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 5), dims=st.integers(2, 9), t=st.floats(0, 1), seed=st.integers(0, 9999))
def test_spherical_paths_keep_the_length_of_latents(count: int, dims: int, t: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(count, dims, generator=draw, dtype=torch.float64) for _ in range(2))
    first, second = (z / z.norm(dim=1, keepdim=True) for z in (first, second))
    times = torch.full((count, 1), t, dtype=torch.float64)
    assert interpolate(first, second, times, "spherical").norm(dim=1).numpy() == pytest.approx(np.ones(count), abs=1e-6)
    for end, expected in ((0.0, first), (1.0, second)):
        found = interpolate(first, second, torch.full_like(times, end), "spherical")
        assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(interpolate(first, first, times, "spherical"), first)
    assert torch.allclose(interpolate(first, second, times, "linear"), first + t * (second - first))


def generated(generator: Linear | None, count: int = 200) -> GeneratedImages:
    maker = generator or Linear()

    def make(index: np.ndarray) -> np.ndarray:
        image = maker.decode(maker.latent(index), None).permute(0, 2, 3, 1)
        return (image * 127.5 + 128).clamp(0, 255).to(torch.uint8).numpy()

    return GeneratedImages(count, make, (SIDE, SIDE, 1), identity="linear", generator=generator)


def real(count: int = 200, seed: int = 5) -> ArrayImages:
    return ArrayImages(np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8))


def test_a_report_with_path_length_and_pairs() -> None:
    evaluator = Evaluator(real(), real(seed=6), metrics=["ppl", "ms_ssim", "fd_pixel_pca"], collapse=False)
    report = evaluator.evaluate(generated(Linear()))
    assert set(report.metrics) == {"ppl_pixel_pca", "ms_ssim", "fd_pixel_pca"}
    length, likeness = report.metrics["ppl_pixel_pca"], report.metrics["ms_ssim"]
    assert length["value"] > 0
    assert 0 < length["standard_error"] < length["value"]
    assert length["epsilon"] == EPSILON
    assert length["none_because"] == {"floor": "real images have no latents"}
    # Noise is unlike itself; images that share five directions are alike.
    assert abs(likeness["floor"]) < 0.05
    assert likeness["n_fake"] == 200
    assert report.protocol["ms_ssim_scales"] == 1
    same = evaluator.evaluate(generated(Linear(0.0)))
    assert same.metrics["ms_ssim"]["value"] == pytest.approx(1.0)
    assert same.metrics["ppl_pixel_pca"]["value"] == pytest.approx(0.0)
    assert json_roundtrip(report)


def json_roundtrip(report: Any) -> bool:
    import json

    return bool(json.loads(report.to_json()) == report.to_dict())


@pytest.mark.parametrize(
    ("make", "metric", "error", "words"),
    [
        (lambda: generated(None), "ppl", DataError, "needs a generator"),
        (lambda: generated(Linear(), 3), "ms_ssim", DataError, "at least 2 pairs"),
        (lambda: generated(Linear()), "lpips", WeightsError, "vgg16-397923af.pth"),
        (lambda: generated(Linear()), "ppl_lpips", WeightsError, "vgg16-397923af.pth"),
    ],
)
def test_what_cannot_be_had_gets_its_sentence(
    make: Callable[[], GeneratedImages], metric: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        evaluate(make(), real(), metrics=[metric], collapse=False)


def test_small_images_and_streams_are_refused() -> None:
    tiny = ArrayImages(np.zeros((20, 8, 8), np.uint8))
    with pytest.raises(DataError, match="at least 11 pixels"):
        evaluate(tiny, tiny, metrics=["ms_ssim"], collapse=False)
    for name in ("ppl", "ms_ssim"):
        with pytest.raises(UserError, match="keeps no pixels"):
            StreamingEvaluator(real(), metrics=[name])


def test_every_metric_says_which_way_is_better() -> None:
    for name in ("ppl_pixel_pca", "ppl_lpips", "ms_ssim", "fid", "fid_per_class", "fd_inception-custom", "kid"):
        metric = find_metric(name)
        assert metric is not None
        assert not metric.higher_is_better, name
    for name in ("lpips", "is", "coverage_classifier", "vendi_inception", "conditional_accuracy"):
        assert METRICS[name].higher_is_better, name


@settings(max_examples=40, deadline=None)
@given(count=st.integers(4, 3000), side=st.integers(1, 600))
def test_pairs_are_of_different_images_each_once(count: int, side: int) -> None:
    pairs = choose_pairs(count, (side, side, 3))
    used = pairs.kept[np.concatenate([pairs.first, pairs.second])]
    assert len(set(used.tolist())) == 2 * len(pairs)
    assert len(pairs) == min(1000, count // 2, (256 << 20) // (6 * side * side))


@pytest.mark.parametrize(("side", "scales"), [(10, 0), (11, 1), (22, 2), (43, 2), (44, 3), (99, 4), (176, 5)])
def test_ms_ssim_takes_the_scales_that_fit(side: int, scales: int) -> None:
    assert scales_for((side, 2 * side, 1)) == scales
    if scales:
        image = np.random.default_rng(0).integers(0, 256, (2, side, side, 1), dtype=np.uint8)
        assert ms_ssim(image, image) == pytest.approx(np.ones(2))


@pytest.mark.slow
def test_lpips_from_a_local_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    torch.manual_seed(0)
    layers = torchvision.models.vgg16(weights=None).features
    state = {f"features.{key}": value for key, value in layers.state_dict().items()}
    folder = tmp_path / "weights"
    folder.mkdir()
    path = folder / lpips_module.BACKBONE_FILE
    torch.save(state, path)
    with pytest.raises(WeightsError, match="is not the published file"):
        find_backbone()
    monkeypatch.setattr(lpips_module, "SHA256_PREFIX", lpips_module.sha256_of(path)[:8])
    assert find_backbone() == path
    network = LPIPS(path)
    # The whole backbone is the file's: layer by layer the same activations.
    x = torch.rand(2, 3, 64, 64)
    inside = network._network.net(x)
    for activation, last in zip(inside, (3, 8, 15, 22, 29), strict=True):
        assert torch.allclose(activation, layers[: last + 1](x), atol=1e-6)
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    assert network.distances(images, images) == pytest.approx(np.zeros(4), abs=1e-7)
    distances = network.distances(images[:2], images[2:])
    assert (distances > 0).all()
    assert network.distances(images[2:], images[:2]) == pytest.approx(distances, rel=1e-5)
    monkeypatch.setattr(lpips_module, "BLOCK", 1)
    assert network.distances(images[:2], images[2:]) == pytest.approx(distances, rel=1e-5)
    grey = images[..., :1]
    assert network.distances(grey[:2], grey[2:]) == pytest.approx(
        network.distances(grey[:2].repeat(3, axis=3), grey[2:].repeat(3, axis=3)), rel=1e-6
    )
    # Small steps: the distance is quadratic, which path lengths rely on.
    base = images[:1].astype(np.float32) / 2 + 32
    direction = np.random.default_rng(1).standard_normal(base.shape).astype(np.float32)
    near, far = (network.distances(base, base + h * direction)[0] for h in (2.0, 4.0))
    assert far / near == pytest.approx(4.0, rel=0.25)
    report = evaluate(
        generated(Linear(), 20), real(40), real(40, 6), metrics=["lpips", "ppl", "ppl_pixel_pca"], collapse=False
    )
    assert list(report.metrics) == ["lpips", "ppl_lpips", "ppl_pixel_pca"]
    assert report.metrics["lpips"]["value"] < report.metrics["lpips"]["floor"]
    assert report.metrics["ppl_lpips"]["value"] > 0
    assert "lpips-vgg16" in report.protocol["extractor"]
