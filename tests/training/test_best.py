"""Which checkpoint is the best: by the metric that is named, or by the Fréchet distance of the tier in use."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gantk_eval import ArrayImages, Report

from gantk.scoring import best_value, build_evaluator, is_better


def report(**values: float | None) -> Report:
    metrics: dict[str, Any] = {name: {"value": value} for name, value in values.items()}
    return Report(metrics, {"verdict": "ok"}, {})


def test_without_a_name_it_is_the_distance_of_the_tier() -> None:
    assert best_value(report(kid=0.1, fid=3.0, precision_inception=0.7), None) == ("fid", 3.0)
    assert best_value(report(is_classifier=5.0, fd_classifier=2.0, fd_classifier_per_class=9.0), None) == (
        "fd_classifier",
        2.0,
    )
    assert best_value(report(reverse_kl=0.2), None) == ("reverse_kl", 0.2)
    assert best_value(report(kid=0.1), None) is None


def test_generic_names_are_found_in_whichever_features_they_are() -> None:
    scores = report(fd_classifier=2.0, coverage_classifier=0.8)
    assert best_value(scores, "coverage") == ("coverage_classifier", 0.8)
    assert best_value(scores, "coverage_classifier") == ("coverage_classifier", 0.8)
    assert best_value(scores, "kid") is None
    assert best_value(report(coverage_classifier=None), "coverage") is None


@pytest.mark.parametrize(
    ("name", "up"),
    [
        *((name, True) for name in ("is", "coverage_classifier", "conditional_accuracy", "modes", "vendi_pixel_pca")),
        *((name, False) for name in ("fid", "fd_inception-custom", "kid", "ppl_classifier", "reverse_kl", "ms_ssim")),
    ],
)
def test_each_metric_is_ranked_its_own_way(name: str, up: bool) -> None:
    assert is_better((name, 2.0), (name, 1.0)) is up
    assert is_better((name, 1.0), (name, 2.0)) is not up
    assert is_better((name, 1.0), None)
    assert is_better((name, 1.0), ("another", 0.0)), "the metric has changed"


def test_the_yardstick_does_not_depend_on_the_runs_seed() -> None:
    # A classifier of another seed has other weights, and scores under other weights are not ranked.
    assert "seed" not in inspect.signature(build_evaluator).parameters
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    dataset = SimpleNamespace(train=ArrayImages(pixels), heldout=ArrayImages(pixels), modes=None)
    evaluator = build_evaluator(
        dataset, device=torch.device("cpu"), batch_size=10, metrics=["fd_pixel_pca"], collapse=False
    )
    assert evaluator.evaluate(ArrayImages(pixels)).protocol["seed"] == 0
