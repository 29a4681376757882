"""Batch-norm statistics of averaged networks: what PyTorch's own `update_bn` finds on the same draws."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from gantk.config import load_config
from gantk.sampling import load_sampler
from gantk.training.checkpoint import Checkpoint, checkpoints_in
from gantk.training.reestimation import ROWS, _draws, with_statistics
from gantk.training.trainer import Trainer

SHORT = (
    "plugins=[stateful_games]", "train.kimg=0.256", "checkpoint.every_kimg=99", "samples.every_kimg=99",
    "evaluate.every_kimg=99", "train.precision=float64",
)  # fmt: skip


def make(tiny: Path, *overrides: str) -> Trainer:
    trainer = Trainer(load_config(tiny, [*SHORT, *overrides]), resume="never")
    for _ in range(6):
        trainer.train_step()
    return trainer


def statistics(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.named_buffers() if "running" in name}


def assert_near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() != set()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-10, atol=1e-12)


def far(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any(float((one[name] - other[name]).norm() / other[name].norm()) > 0.01 for name in one)


def test_they_are_those_of_the_averaged_weights(tiny: Path) -> None:
    trainer = make(tiny)
    average, network = trainer.averaged.networks["generator"], trainer.runner.bare["generator"]
    copied, wanted = statistics(average), copy.deepcopy(average)
    draws = [z for z, _, _ in _draws(trainer)]
    assert sum(map(len, draws)) == ROWS
    update_bn(draws, wanted)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    counted = {name: value.clone() for name, value in average.named_buffers() if "tracked" in name}
    weights = [parameter.clone() for parameter in average.parameters()]
    random = torch.get_rng_state()
    trainer.reestimation.refresh(trainer)
    assert_near(statistics(average), statistics(wanted))
    assert far(copied, statistics(average))
    # Nothing else has moved.
    assert all(torch.equal(a, b) for a, b in zip(weights, average.parameters(), strict=True))
    assert all(torch.equal(value, dict(average.named_buffers())[name]) for name, value in counted.items())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert not any(module.training for module in average.modules())
    assert network.training
    assert all(layer.momentum == 0.1 and not layer._forward_pre_hooks for layer in with_statistics(average))


def test_they_are_estimated_once_a_step_and_are_then_the_same(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(tiny)
    trainer.reestimation.refresh(trainer)
    first = statistics(trainer.averaged.networks["generator"])
    with monkeypatch.context() as patch:
        patch.setattr(type(trainer.objective), "run_averages", None)
        trainer.reestimation.refresh(trainer)
    trainer.reestimation._step = None
    trainer.reestimation.refresh(trainer)
    again = statistics(trainer.averaged.networks["generator"])
    assert all(torch.equal(first[name], again[name]) for name in first)
    trainer.train_step()
    trainer.reestimation.refresh(trainer)
    later = statistics(trainer.averaged.networks["generator"])
    assert not any(torch.equal(first[name], later[name]) for name in first)


def test_grids_evaluations_and_checkpoints_have_them(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(tiny)
    seen: list[bool] = []

    def look(*_: Any) -> None:
        average = trainer.averaged.networks["generator"]
        wanted = copy.deepcopy(average)
        update_bn([z for z, _, _ in _draws(trainer)], wanted)
        seen.append(not far(statistics(average), statistics(wanted)))

    monkeypatch.setattr(trainer.sampler, "save_picture", lambda count, path: (look(), path.parent.mkdir(exist_ok=True)))
    monkeypatch.setattr(trainer.tracker, "image", lambda *_: None)
    trainer.hooks[1].act(trainer)
    trainer.train_step()
    look()
    images = type(trainer.sampler).images
    monkeypatch.setattr(type(trainer.sampler), "images", lambda self, *rest: (look(), images(self, *rest))[1])
    trainer.evaluate()
    monkeypatch.undo()
    trainer.train_step()
    trainer.save()
    trainer.await_save()
    look()
    assert seen[:3] == [True, False, True]
    assert all(seen[2:])
    newest = Checkpoint(checkpoints_in(trainer.folder / "checkpoints")[-1])
    loaded, _ = load_sampler(newest)
    assert torch.equal(loaded.raw(np.arange(8)), trainer.sampler.raw(np.arange(8)))
    trainer._record_end(None)


def test_classes_come_with_their_shares(tiny: Path) -> None:
    trainer = make(tiny, "network={type: conditional_dcgan, width: 8, hidden_dim: 16}")
    labels = torch.cat([labels for _, labels, _ in _draws(trainer) if labels is not None])
    shares = torch.bincount(labels, minlength=10) / len(labels)
    assert (shares - torch.tensor(trainer.sampler.shape.class_shares)).abs().max() < 0.05
    trainer.reestimation.refresh(trainer)
    average = trainer.averaged.networks["generator"]
    wanted = copy.deepcopy(average)
    drawn = [(z, labels) for z, labels, _ in _draws(trainer)]

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = wanted

        def forward(self, number: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner(*drawn[int(number)])
            return out

    update_bn([torch.tensor(number) for number in range(len(drawn))], Both())
    assert_near(statistics(average), statistics(wanted))


def test_an_encoder_is_run_on_real_images(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make(tiny, "objective.type=test_encoder")
    encoder = trainer.averaged.networks["encoder"]
    wanted = copy.deepcopy(encoder)
    real = [batch().images for _, _, batch in _draws(trainer)]
    update_bn(real, wanted)
    trainer.reestimation.refresh(trainer)
    assert_near(statistics(encoder), statistics(wanted))
    assert "does not run it" not in caplog.text
    # The first images of the stream, whatever has been drawn since.
    assert torch.equal(torch.cat(real)[:32], trainer.batches.main.take(torch.arange(32), None).images)


def test_an_average_that_is_not_run_keeps_its_copies_and_is_named_once(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make(tiny, "objective={type: test_encoder, runs: false}")
    copied = statistics(trainer.averaged.networks["encoder"])
    for _ in range(2):
        trainer.reestimation._step = None
        trainer.reestimation.refresh(trainer)
    after = statistics(trainer.averaged.networks["encoder"])
    assert all(torch.equal(copied[name], after[name]) for name in copied)
    assert caplog.text.count("the average of network `encoder` has batch norm and `Objective.run_averages`") == 1


def test_several_passes_count_alike(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(tiny)

    def twice(self: Any, networks: Any, z: torch.Tensor, *_: Any) -> None:
        networks["generator"](z)
        networks["generator"](-z / 2)

    monkeypatch.setattr(type(trainer.objective), "run_averages", twice)
    wanted = copy.deepcopy(trainer.averaged.networks["generator"])
    update_bn([some for z, _, _ in _draws(trainer) for some in (z, -z / 2)], wanted)
    trainer.reestimation.refresh(trainer)
    assert_near(statistics(trainer.averaged.networks["generator"]), statistics(wanted))


@pytest.mark.parametrize("without", ["network.batch_norm=false", "train.ema_half_life_kimg=0"])
def test_where_there_is_nothing_to_estimate_nothing_runs(
    tiny: Path, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(tiny, without)
    monkeypatch.setattr(type(trainer.objective), "run_averages", None)
    trainer.reestimation.refresh(trainer)


def test_statistics_that_are_not_finite_are_not_taken(tiny: Path) -> None:
    trainer = make(tiny)
    average = trainer.averaged.networks["generator"]
    copied = statistics(average)
    with torch.no_grad():
        next(average.parameters()).fill_(1e308)
    trainer.reestimation.refresh(trainer)
    after = statistics(average)
    assert all(value.isfinite().all() for value in after.values())
    assert any(torch.equal(copied[name], after[name]) for name in copied)
