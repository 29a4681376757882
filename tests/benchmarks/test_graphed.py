"""A step that is captured once and replayed is the step that the trainer makes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import gantk
from benchmarks import graphed, mixtures
from gantk.config import Config, load_config
from gantk.errors import ConfigError
from gantk.runs import find_checkpoint
from gantk.runtime import Runtime

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = ("network.generator_hidden=[12, 12]", "network.discriminator_hidden=[10]", "data.count=500")
QUIET = ("tracking.wandb=disabled", "tracking.progress=false", "collapse.monitor=false")
STEPS = 24


def ring(name: str, *overrides: str, steps: int = STEPS, batch: int = 30) -> Config:
    kimg = steps * batch / 1000
    often = (f"train.log_every_kimg={8 * batch / 1000}", f"checkpoint.every_kimg={kimg / 3}", "evaluate.every_kimg=99")
    return load_config(
        CONFIGS / "ring.yaml",
        [f"name={name}", *SMALL, *QUIET, *often, f"train.kimg={kimg}", f"train.batch_size={batch}", *overrides],
    )


RECIPES = {
    "gan": (),
    "pacgan2": ("objective.pack=2",),
    "relativistic": mixtures.RECIPES["stabilised"].laid_over("grid", kimg=STEPS * 30 / 1000),
    "seeds in one run": ("plugins=[benchmarks.replicas]", "network.type=replicated_mlp", "network.replicas=3"),
}


def tensors(name: str) -> Mapping[str, Tensor]:
    checkpoint = find_checkpoint(name).checkpoint
    files = sorted(file.stem for file in checkpoint.folder.glob("*.safetensors"))
    assert {"generator", "discriminator", "generator.ema"} < set(files)
    return {f"{file}:{key}": value for file in files for key, value in checkpoint.tensors(file).items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_its_steps_are_the_trainers(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTK_RUNS", str(tmp_path))
    usual = ring("usual", *RECIPES[recipe])
    gantk.train(usual)
    graphed.train_together([ring("replayed", *RECIPES[recipe])])
    mine, its = tensors("usual"), tensors("replayed")
    assert mine.keys() == its.keys()
    assert len(mine) > 10
    for key, value in mine.items():
        # On a GPU the sums of a captured step may be in another order.
        close = (1e-4, 1e-6) if torch.cuda.is_available() else (0, 0)
        torch.testing.assert_close(its[key], value, rtol=close[0], atol=close[1], msg=key)
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("usual", "replayed")
    ]
    assert len(rows[0]) == len(rows[1]) == 3
    for one, other in zip(*rows, strict=True):
        for name in ("d/loss", "g/loss", "d/real", "d/lr"):
            assert other[name] == pytest.approx(one[name], rel=1e-5), name
    assert json.loads((tmp_path / "replayed" / "status.json").read_text())["state"] == "completed"


def test_runs_side_by_side_that_look_at_different_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTK_RUNS", str(tmp_path))
    other = ("seed=1", "train.kimg=1.2", "train.log_every_kimg=0.15", "checkpoint.every_kimg=0.6")
    for config in (ring("usual"), ring("other-usual", *other)):
        gantk.train(config)
    graphed.train_together([ring("replayed"), ring("other-replayed", *other)])
    for usual, replayed in (("usual", "replayed"), ("other-usual", "other-replayed")):
        mine, its = tensors(usual), tensors(replayed)
        for key, value in mine.items():
            if key.startswith("rng-"):  # of the process, which they share and do not draw from
                continue
            close = (1e-4, 1e-6) if torch.cuda.is_available() else (0, 0)
            torch.testing.assert_close(its[key], value, rtol=close[0], atol=close[1], msg=key)


def test_what_it_leaves_when_the_minutes_are_over_the_trainer_goes_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANTK_RUNS", str(tmp_path))
    gantk.train(ring("usual"))
    graphed.train_together([ring("stopped")], minutes=0)
    status = json.loads((tmp_path / "stopped" / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["step"]) == ("preempted", 75, graphed.WARM_UP)
    gantk.train(ring("stopped"))
    mine, its = tensors("usual"), tensors("stopped")
    assert all(torch.equal(its[key], value) for key, value in mine.items())
    # And where the trainer stopped, it goes on; a run that is whole it leaves alone.
    graphed.train_together([ring("stopped")])
    assert json.loads((tmp_path / "stopped" / "status.json").read_text())["step"] == STEPS


def test_how_a_run_failed_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTK_RUNS", str(tmp_path))
    monkeypatch.setattr(graphed, "_one_look_on", lambda trainers: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        graphed.train_together([ring("first"), ring("second", "seed=1")])
    for name in ("first", "second"):
        assert json.loads((tmp_path / name / "status.json").read_text())["state"] == "failed"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("train.ema_half_life_kimg=1", "train.ema_half_life_kimg"),
        ("train.precision=fp16", "train.precision"),
        ("collapse.monitor=true", "collapse.monitor"),
        ("train.log_every_kimg=0.03", "train.log_every_kimg"),
        ("train.log_every_kimg=0.25", "train.log_every_kimg"),
        ("checkpoint.every_kimg=0.3", "checkpoint.every_kimg"),
        (
            "objective.regularization={r1: {gamma: 1.0, schedule: {type: linear, end_kimg: 1}}}",
            "objective.regularization.r1.schedule",
        ),
    ],
)
def test_a_game_that_a_graph_would_not_follow_is_refused(
    override: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANTK_RUNS", str(tmp_path))
    with pytest.raises(ConfigError, match=named):
        graphed.train_together([ring("sound"), ring("refused", override)])
    assert not list(tmp_path.iterdir()), "nothing begins"


def test_each_replay_counts_in_the_means() -> None:
    """On a GPU, where the additions that are captured do not happen then; here they are of nothing."""
    meter = graphed._Sums()
    meter.add("d/loss", torch.tensor(1.0))
    before = meter.counts()
    meter.add("d/loss", torch.tensor(0.0))
    meter.captured(before)
    for _ in range(2):
        meter._sums["d/loss"].add_(4.0)
    meter.replayed(2)
    runtime = Runtime(ring("meter").train)
    assert meter.read(runtime) == {"d/loss": pytest.approx(3.0)}
    assert meter.read(runtime) == {}
    meter._sums["d/loss"].add_(5.0)
    meter.replayed(1)
    assert meter.read(runtime) == {"d/loss": pytest.approx(5.0)}


def digits(name: str, *overrides: str) -> Config:
    """A DCGAN on 8 px."""
    often = ("train.kimg=0.32", "train.batch_size=16", "train.log_every_kimg=0.16", "evaluate.every_kimg=99")
    plain = ("train.ema_half_life_kimg=0", "checkpoint.every_kimg=0.32", "train.device=auto")
    return load_config(CONFIGS / "tiny.yaml", [f"name={name}", *QUIET, *often, *plain, *overrides])


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_its_steps_on_images_are_the_trainers(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTK_RUNS", str(tmp_path))
    gantk.train(digits("usual", f"train.precision={precision}"))
    graphed.train_together([digits("replayed", f"train.precision={precision}")])
    mine, its = tensors("usual"), tensors("replayed")
    exact = not torch.cuda.is_available()
    for key, value in mine.items():
        close = (0, 0) if exact else (1e-4, 1e-5) if precision == "no" else (5e-2, 5e-3)
        torch.testing.assert_close(its[key], value, rtol=close[0], atol=close[1], msg=key)


def test_images_on_the_disk_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTK_RUNS", str(tmp_path))
    with pytest.raises(ConfigError, match=r"`data.storage` is disk"):
        graphed.train_together([digits("disk", "data.storage=disk")])


def test_a_phase_that_sits_out_steps_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTK_RUNS", str(tmp_path))
    lazy = ring("lazy", "objective.regularization={r1: {gamma: 1.0, every: 4}}")
    with pytest.raises(ConfigError, match="not played in each step"):
        graphed.train_together([lazy])


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_graphs_steps_are_the_trainers(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Side by side with another run, on streams of their own."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setenv("GANTK_RUNS", str(tmp_path))
    gantk.train(ring("usual", *RECIPES[recipe]))
    graphed.train_together([ring("replayed", *RECIPES[recipe]), ring("other", "seed=1", *RECIPES[recipe])])
    mine, its, other = tensors("usual"), tensors("replayed"), tensors("other")
    for key, value in mine.items():
        torch.testing.assert_close(its[key], value, rtol=1e-4, atol=1e-6, msg=key)
    assert any(not torch.equal(other[key], value) for key, value in mine.items())
    row = json.loads((tmp_path / "replayed" / "metrics.jsonl").read_text().splitlines()[-1])
    usual = json.loads((tmp_path / "usual" / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["d/loss"] == pytest.approx(usual["d/loss"], rel=1e-3)
