"""Cheap signs of collapse between evaluations, which call one early."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gantk_eval import Report
from safetensors.torch import load_file

import gantk
from gantk.config import load_config
from gantk.scoring import evaluate_checkpoint
from gantk.tracking import read_metrics
from gantk.training.monitors import SAMPLES, Monitor, coarse, mean_distance, nearest
from gantk.training.trainer import Trainer

EVERY_STEP = (
    *("plugins=[scripted_verdicts]", "train.kimg=0.256", "evaluate.every_kimg=0.032", "train.log_every_kimg=0.032"),
    *("checkpoint.every_kimg=99", "samples.every_kimg=99", "tracking.wandb=disabled", "tracking.progress=false"),
)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the verdicts of a run, one evaluation after the other."""
    original = Trainer._build_evaluator
    monkeypatch.setattr(Trainer, "_build_evaluator", original)  # put back when the test is over
    import scripted_verdicts

    monkeypatch.setattr(Trainer, "_build_evaluator", lambda self: scripted_verdicts.Scripted(self))
    return lambda verdicts: monkeypatch.setenv("SCRIPTED_VERDICTS", verdicts)


def test_distances_of_known_points() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    assert nearest(points).tolist() == pytest.approx([1, 18**0.5, 1])
    assert mean_distance(points).item() == pytest.approx((5 + 1 + 18**0.5) / 3)
    assert coarse(torch.ones(2, 3, 32, 32)).shape == (2, 3 * 64)
    assert coarse(torch.ones(2, 2, 1, 1)).shape == (2, 2)


def measured(tiny: Path, samples: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
    trainer = Trainer(load_config(tiny, ["tracking.wandb=disabled", "tracking.progress=false"]))
    real = trainer.batches.main.take(torch.arange(1000, 1000 + SAMPLES), None).images
    trainer.sampler.raw = lambda *_: samples(real)  # type: ignore[method-assign]
    trainer.monitor.measure(trainer)
    values = trainer.read_meter()
    trainer._record_end(None)
    return values


def test_what_the_monitor_measures(tiny: Path) -> None:
    varied = measured(tiny, lambda real: real)
    assert varied["monitor/diversity"] == pytest.approx(1, abs=0.1)
    assert varied["monitor/duplicates"] < 0.1
    repeated = measured(tiny, lambda real: real[:8].repeat(8, 1, 1, 1))
    assert repeated["monitor/duplicates"] == 1
    flat = measured(tiny, lambda real: real.mean(0) + 0.1 * (real - real.mean(0)))
    assert flat["monitor/diversity"] == pytest.approx(0.1, abs=0.02)


def test_a_sign_calls_once_and_only_after_variety() -> None:
    monitor = Monitor(1.0)
    good, bad = (
        {"monitor/diversity": 0.9, "monitor/duplicates": 0.0},
        {"monitor/diversity": 0.2, "monitor/duplicates": 0.5},
    )
    assert monitor.judge(bad) is None  # an untrained generator
    assert not monitor.varied
    assert monitor.judge(good) is None
    assert monitor.varied
    assert not monitor.wants_evaluation
    sign = monitor.judge(bad)
    assert sign is not None
    assert "differ 0.2 times as much" in sign
    assert "50%" in sign
    assert monitor.wants_evaluation
    assert monitor.varied
    assert monitor.judge(bad) is None
    assert monitor.judge(good) is None
    certain = {"d/real": 0.995, "d/fake": 0.002, "g/fake": 0.002}
    assert "the discriminator is certain" in str(monitor.judge(certain))
    for _ in range(3):  # it stays certain, and was told once
        assert monitor.judge({**good, **certain}) is None
    assert monitor.judge({**good, "d/real": 0.6, "d/fake": 0.4}) is None
    assert "the discriminator is certain" in str(monitor.judge({**good, **certain}))
    again = Monitor(1.0)
    again.load_state(json.loads(json.dumps(monitor.state())))
    assert again.state() == monitor.state()


def test_looks_are_rare_enough_and_depend_on_the_images_alone() -> None:
    assert [kimg for kimg in range(1, 9) if Monitor(1.0).due(kimg * 1000)] == [2, 4, 6, 8]
    assert [step for step in range(1, 20) if Monitor(0.32).due(step * 320)] == [7, 14]
    assert Monitor(5.0).due(5000)


def test_a_sign_brings_the_evaluation_forward(
    tiny: Path, script: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    script("ok collapsed ok")
    monkeypatch.setattr("gantk.training.monitors.EVERY_KIMG", 0.032)
    monkeypatch.setattr(Monitor, "judge", lambda self, values: _call(self, values))
    seen: list[dict[str, float]] = []

    def _call(monitor: Monitor, values: dict[str, float]) -> str | None:
        seen.append(dict(values))
        if len(seen) == 3:
            monitor.wants_evaluation = True
            return "a sign"
        return None

    run = gantk.train(tiny, *EVERY_STEP, "evaluate.every_kimg=0.128")
    evaluated = [row["progress/kimg"] for row in read_metrics(run.folder) if "eval/collapse" in row]
    assert evaluated == [0.096, 0.128, 0.256]
    assert all("monitor/diversity" in values for values in seen)


def test_measuring_does_not_wait_for_the_device(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(load_config(tiny, ["tracking.wandb=disabled", "tracking.progress=false"]))
    trainer.monitor.measure(trainer)  # the look at real images, once
    samples = trainer.sampler.raw(np.arange(SAMPLES))
    trainer.sampler.raw = lambda *_: samples  # type: ignore[method-assign]

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a value was read on the host")

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    trainer.monitor.measure(trainer)
    monkeypatch.undo()
    assert trainer.read_meter()["monitor/diversity"] > 0
    trainer._record_end(None)


def test_a_monitor_that_is_off_measures_nothing(tiny: Path) -> None:
    run = gantk.train(tiny, "collapse.monitor=false", "train.kimg=4.48", "evaluate.every_kimg=99", "name=unwatched")
    on = gantk.train(tiny, "train.kimg=4.48", "evaluate.every_kimg=99", "name=watched")
    assert not any("monitor/diversity" in row for row in read_metrics(run.folder))
    looked = [row for row in read_metrics(on.folder) if "monitor/diversity" in row]
    assert [row["progress/kimg"] for row in looked] == [2.24, 4.48]
    # It looks, and touches nothing.
    ends = [
        load_file(next((r.folder / "checkpoints").glob("step-00000140")) / "generator.safetensors") for r in (run, on)
    ]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_the_verdict_knows_whether_samples_have_ever_been_varied(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is handed on with the samples, in training and afterwards; a verdict of `ok` says so, too."""
    asked: list[bool] = []

    class Evaluator:
        def evaluate(self, fake: Any) -> Report:
            asked.append(fake.varied)
            collapse = {"verdict": verdict, "reasons": [], "tests": [], "missing": []}
            entry = {"value": 1.0, "n_fake": 2, "n_real": 2}
            protocol = {"fingerprint": "0" * 64, "extractor": "none", "precision": "none", "n_fake": 2}
            return Report({"fd_pixel_pca": entry}, collapse, protocol)

    monkeypatch.setattr(Trainer, "_build_evaluator", lambda self: Evaluator())
    monkeypatch.setattr("gantk.scoring.build_evaluator", lambda *_, **__: Evaluator())
    looks = iter([(0.1, 0.9), (0.4, 0.1), (0.9, 0.1)])
    monkeypatch.setattr(Monitor, "_look", lambda *_: tuple(map(torch.tensor, next(looks))))
    settings = (
        "train.kimg=0.128",
        "evaluate.every_kimg=0.032",
        "checkpoint.every_kimg=0.128",
        "collapse.monitor=false",
    )
    verdict = "collapsed"
    run = gantk.train(tiny, *settings)
    assert asked == [False, False, True, True], "once they were, nobody looks again"
    asked.clear()
    evaluate_checkpoint(str(run.folder))
    assert asked == [True]
    asked.clear()
    looks, verdict = iter([(0.1, 0.9)]), "ok"
    gantk.train(tiny, *settings, "name=said")
    assert asked == [False, True, True, True]
