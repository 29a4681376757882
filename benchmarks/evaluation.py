"""Evaluation: images/s of the Inception extractor beside torch-fidelity's, the Fréchet solver beside others, bf16's shift.

    python -m benchmarks.evaluation [extractor] [frechet] [--busy]

Weights are a seeded random state dict of the same network: speed does not depend on their values, and the shift of the scores
in bf16 is that of such a network. `--busy` takes rounds that other processes disturbed as well, and then the ratios of
processor time are the ones to read.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import scipy.linalg
import torch
from gantk_eval.extractors.inception import InceptionExtractor
from gantk_eval.frechet import factor, frechet_distance
from gantk_eval.statistics import Statistics

from benchmarks import records
from benchmarks.timing import OTHERS_MAY_USE, Comparison, compare

IMAGES = 16
SIDE = 32
DIMENSIONS = 2048
COUNT = 10_000


def random_weights(path: Path) -> None:
    """A seeded random state dict in torch-fidelity's format."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    network_type = module.FeatureExtractorInceptionV3
    with (
        mock.patch.object(module.torch, "load", return_value={}),
        mock.patch.object(network_type, "load_state_dict", return_value=None),
    ):
        torch.manual_seed(0)
        network = network_type("random", ["2048"], feature_extractor_weights_path="none")
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            part.weight.data *= 1.4
    # Features of about the published network's size, and classes that differ between pictures, for the scores.
    with torch.inference_mode():
        shown = torch.from_numpy(pictures(8, 3)).permute(0, 3, 1, 2).contiguous()
        (features,) = network(shown)
        scale = 20.0 / features.norm(dim=1).mean()
        for name in ("branch1x1", "branch3x3_2a", "branch3x3_2b", "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool"):
            norm = getattr(network.Mixed_7c, name).bn
            norm.weight.data *= scale
            norm.bias.data *= scale
        features = features * scale
        mean = features.mean(dim=0)
        weight = torch.randn_like(network.fc.weight)
        weight -= torch.outer(weight @ mean, mean) / mean.square().sum()
        network.fc.weight.data = weight * 1.5 / (features @ weight.T).std()
    torch.save(network.state_dict(), path)


def pictures(count: int, seed: int, dark: float = 1.0) -> np.ndarray:
    """Blotches of colour with grain, uint8 [n, 32, 32, 3]."""
    generator = np.random.default_rng(seed)
    coarse = torch.from_numpy(generator.integers(0, 256, (count, 3, 4, 4)).astype(np.float32))
    big = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear").permute(0, 2, 3, 1).numpy()
    return ((big + generator.normal(0.0, 12.0, big.shape)) * dark).clip(0, 255).astype(np.uint8)


def ratios(found: Comparison, slow: str, fast: str) -> dict[str, Any]:
    return {
        "ratio": round(found.ratio(slow, fast), 2),
        "ratio_of_processor_time": round(found.process_ratio(slow, fast), 2),
        "spread": [round(value, 2) for value in found.spread(slow, fast)],
        "rounds": found.rounds,
        "thrown_away": found.thrown_away,
    }


def extractor_figures(allowed: float, folder: Path) -> dict[str, Any]:
    """Images/s of torch-fidelity's extractor, ours in float32, ours in bf16; and what bf16 does to features and scores."""
    from gantk_eval.inception_score import inception_score
    from gantk_eval.kernel_distance import kernel_distance
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    random_weights(folder / "weights.pth")
    theirs = FeatureExtractorInceptionV3(
        "x", ["2048"], feature_extractor_weights_path=str(folder / "weights.pth")
    ).eval()
    exact = InceptionExtractor(folder / "weights.pth", custom=True)
    quick = InceptionExtractor(folder / "weights.pth", custom=True, precision="bf16")
    images = pictures(IMAGES, 0)
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def run_theirs() -> np.ndarray:
        with torch.inference_mode():
            return theirs(tensors)[0].numpy()

    expected, mine, short = run_theirs(), exact.features(images), quick.features(images)
    lengths = np.linalg.norm(expected, axis=1)
    found = compare(
        {"torch-fidelity": run_theirs, "fp32": lambda: exact.features(images), "bf16": lambda: quick.features(images)},
        others_may_use=allowed,
        limit_s=200.0,
        rounds=5,
        at_least=1 if allowed == 1.0 else 3,
    )
    sets = [pictures(96, 1), pictures(96, 2, dark=0.8)]
    scores: dict[str, dict[str, float]] = {}
    for name, extractor in (("fp32", exact), ("bf16", quick)):
        features = [extractor.features(s) for s in sets]
        scores[name] = {
            "fd": frechet_distance(*(Statistics.of(f) for f in features)),
            "kd": kernel_distance(*features, subset_size=48)[0],
            "is": inception_score(extractor.logits(features[0]))[0],
        }
    return {
        "images_per_s": {name: round(IMAGES / found.seconds(name), 1) for name in found.turns},
        "fp32_to_torch_fidelity": ratios(found, "torch-fidelity", "fp32"),
        "bf16_to_torch_fidelity": ratios(found, "torch-fidelity", "bf16"),
        "largest_feature_error_fp32": float((np.linalg.norm(mine - expected, axis=1) / lengths).max()),
        "largest_feature_error_bf16": float((np.linalg.norm(short - expected, axis=1) / lengths).max()),
        "scores": scores,
        "bf16_shift_percent": {
            name: round(100 * (scores["bf16"][name] - value) / (value - (1.0 if name == "is" else 0.0)), 3)
            for name, value in scores["fp32"].items()
        },
    }


def frechet_figures(allowed: float) -> dict[str, Any]:
    """Seconds for the distance of two sets of statistics at d = 2048, the reference's factor cached."""
    generator = np.random.default_rng(0)
    scales = np.exp(-4.0 * np.arange(DIMENSIONS) / DIMENSIONS)
    sets = [
        Statistics.of((generator.standard_normal((COUNT, DIMENSIONS)) * scales + 0.3 * i).astype(np.float32))
        for i in (0, 1)
    ]
    cached = factor(sets[1])
    first, second = (torch.from_numpy(s.covariance) for s in sets)

    def by_eigenvalues() -> float:
        roots = torch.linalg.eigvals(first @ second).sqrt().real.sum().item()
        return float(np.square(sets[0].mean - sets[1].mean).sum() + first.trace() + second.trace() - 2 * roots)

    def by_square_root() -> float:
        root = np.trace(scipy.linalg.sqrtm(sets[0].covariance @ sets[1].covariance)).real
        return float(np.square(sets[0].mean - sets[1].mean).sum() + first.trace() + second.trace() - 2 * root)

    def ours() -> float:
        return frechet_distance(*sets, second_factor=cached)

    values = {"gantk": ours(), "torch eigvals": by_eigenvalues(), "scipy sqrtm": by_square_root()}
    found = compare(
        {"gantk": ours, "torch eigvals": by_eigenvalues, "scipy sqrtm": by_square_root},
        others_may_use=allowed,
        limit_s=200.0,
        rounds=5,
        at_least=1 if allowed == 1.0 else 3,
        warmup=0,
    )
    return {
        "dimensions": DIMENSIONS,
        "seconds": {name: round(found.seconds(name), 2) for name in found.turns},
        "torch_eigvals_to_gantk": ratios(found, "torch eigvals", "gantk"),
        "scipy_sqrtm_to_gantk": ratios(found, "scipy sqrtm", "gantk"),
        "values": values,
    }


def main() -> None:
    wanted = [word for word in sys.argv[1:] if not word.startswith("-")] or ["extractor", "frechet"]
    allowed = 1.0 if "--busy" in sys.argv else OTHERS_MAY_USE
    figures: dict[str, Any] = {"threads": torch.get_num_threads(), "disturbed_rounds_taken": allowed == 1.0}
    with tempfile.TemporaryDirectory() as folder:
        if "extractor" in wanted:
            figures["extractor"] = extractor_figures(allowed, Path(folder))
        if "frechet" in wanted:
            figures["frechet"] = frechet_figures(allowed)
    for part in wanted:
        for name, value in figures[part].items():
            print(f"{part:10} {name:32} {value}")
    print(records.write("evaluation", figures))


if __name__ == "__main__":
    main()
