"""A loss or a gradient that is not finite moves nothing on any process, and is told by phase, network and layer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file

import gantk
from gantk.config import load_config
from gantk.errors import DivergedError
from gantk.runs import find_checkpoint
from gantk.tracking import read_metrics
from gantk.training.checkpoint import Checkpoint, checkpoints_in
from gantk.training.trainer import Trainer

SHORT = (
    "name=run", "train.kimg=0.256", "train.log_every_kimg=0.128", "data.limit=100", "checkpoint.every_kimg=0.128",
    "samples.every_kimg=99", "evaluate.every_kimg=99", "plugins=[games]",
)  # fmt: skip


def make(tiny: Path, *overrides: str) -> Trainer:
    return Trainer(load_config(tiny, [*SHORT, *overrides]))


def stopped(trainer: Trainer) -> str:
    with pytest.raises(DivergedError) as caught:
        trainer.train()
    assert caught.value.exit_code == 5
    return str(caught.value)


def finite(tensors: dict[str, torch.Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in tensors.values() if value.is_floating_point())


def test_layer_whose_gradient_was_spoilt_is_named(tiny: Path) -> None:
    trainer = make(tiny)
    named = dict(trainer.runner.bare["discriminator"].named_parameters())
    middle = list(named)[len(named) // 2]
    named[middle].register_hook(lambda gradient: gradient * math.nan)
    message = stopped(trainer)
    assert "phase `d` (which trains discriminator) had a gradient that is not finite by 0.128 kimg" in message
    assert f"first in the gradient of network `discriminator`, layer `{middle}`" in message
    assert "the output of" not in message


def test_layer_that_overflows_is_named(tiny: Path) -> None:
    trainer = make(tiny)
    network = trainer.runner.bare["discriminator"]
    leaves = [name for name, module in network.named_modules() if list(module.parameters(recurse=False))]
    layer = leaves[1]
    with torch.no_grad():
        next(network.get_submodule(layer).parameters()).fill_(3e38)
    message = stopped(trainer)
    assert "phase `d`" in message
    assert "had a loss that is not finite" in message
    assert f"(the output of network `discriminator`, layer `{layer}`, is the first that is not finite)" in message


def test_the_last_finite_state_is_kept_beside_the_checkpoints(tiny: Path) -> None:
    trainer = make(tiny, "objective={type: test_poison, at: 5, spoil: images}")
    message = stopped(trainer)
    assert "phase `d` (which trains discriminator) had a loss that is not finite by 0.256 kimg" in message
    assert f"the last finite state is in {trainer.folder / 'diverged'}" in message
    assert [path.name for path in checkpoints_in(trainer.folder / "checkpoints")] == ["step-00000004"]
    kept = find_checkpoint(str(trainer.folder / "diverged" / "step-00000008")).checkpoint
    for name in kept.files:
        if name.endswith(".safetensors") and name != "meter.safetensors":
            assert finite(kept.tensors(name.removesuffix(".safetensors"))), name
    # `auto` goes on from the last one that was whole before; whoever wants the other names it.
    assert make(tiny, "objective={type: test_poison, at: 99, spoil: images}", "name=other").step == 0
    again = Trainer(
        load_config(tiny, [*SHORT, "objective={type: test_poison, at: 99}", "train.kimg=0.32"]), allow_changes=True
    )
    again.train()
    assert json.loads((again.folder / "status.json").read_text())["resumed_from"].endswith("step-00000004")


@pytest.mark.parametrize("spoil", ["loss", "images"])
def test_skipping_is_counted_and_leaves_nothing_that_is_not_finite(
    tiny: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make(tiny, f"objective={{type: test_poison, at: 5, spoil: {spoil}}}", "train.on_nonfinite=skip")
    trainer.train()
    (warning,) = [r.getMessage() for r in caplog.records if "skipped" in r.getMessage()]
    assert "phase `d` (which trains discriminator) had a loss that is not finite by 0.256 kimg" in warning
    assert "skipped, 1 updates of at most 100 so far" in warning
    assert [row.get("d/skipped") for row in read_metrics(trainer.folder)] == [0, 1]
    newest = Checkpoint(checkpoints_in(trainer.folder / "checkpoints")[-1])
    assert newest.state["skipped"] == {"d": 1, "g": 0}
    for name in newest.files:
        if name.endswith(".safetensors") and name != "meter.safetensors":
            assert finite(newest.tensors(name.removesuffix(".safetensors"))), name
    # The count goes on with the run.
    resumed = make(
        tiny, f"objective={{type: test_poison, at: 1, spoil: {spoil}}}", "train.on_nonfinite=skip", "train.max_skipped=1",
        "train.kimg=0.384", "name=other",
    )  # fmt: skip
    resumed.train()
    more = Trainer(
        load_config(
            tiny,
            [
                *SHORT, f"objective={{type: test_poison, at: 1, spoil: {spoil}}}", "train.on_nonfinite=skip",
                "train.max_skipped=1", "train.kimg=0.384",
            ],
        ),
        allow_changes=True,
    )  # fmt: skip
    assert "more than `train.max_skipped: 1` updates were skipped" in stopped(more)


def test_loss_that_is_infinite_with_a_gradient_that_is_not(tiny: Path) -> None:
    """It would move the weights on all processes but be seen on one."""
    from gantk.objectives import Terms
    from gantk.objectives.gan import GAN

    loss = GAN.generator_loss

    def with_infinite_constant(self: Any, networks: Any, batch: Any) -> Terms:
        terms = loss(self, networks, batch)
        return Terms(terms.loss + math.inf, terms.log)

    trainer = make(tiny)
    phases = trainer.objective.phases
    trainer.objective.phases = (phases[0], replace(phases[1], loss=with_infinite_constant.__get__(trainer.objective)))
    before = {name: value.clone() for name, value in trainer.runner.bare["generator"].named_parameters()}
    trainer.train_step()
    after = dict(trainer.runner.bare["generator"].named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "phase `g` (which trains generator) had a loss that is not finite" in stopped(trainer)


@pytest.mark.slow
def test_what_happens_on_one_process_moves_none(tiny: Path, tmp_path: Path, launch: Any) -> None:
    game = "objective={type: test_poison, at: 2, rank: 1, spoil: images}"
    done = launch(2, "poison", tiny, tmp_path / "state", *SHORT, game)
    assert done.returncode != 0
    assert "had a loss on process 1 (of 0 to 1) that is not finite" in done.stderr
    states = [load_file(f"{tmp_path / 'state'}.{rank}") for rank in range(2)]
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]), name
        if name.startswith(("before/discriminator.", "before/d/")):
            assert torch.equal(states[0][name], states[0][name.replace("before", "after")]), name
    after = {name: name.replace("before", "after") for name in states[0] if name.startswith("before/generator.")}
    assert any(not torch.equal(states[0][name], states[0][later]) for name, later in after.items())
    # And as a user sees it.
    done = launch(2, "train", tiny, "-", *SHORT, game, "name=whole")
    status = json.loads((gantk.load_config(tiny, ["name=whole"]).run_folder / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("diverged", 5), done.stderr[-2000:]
    assert "process 1" in status["message"]


# The gradient scaler of fp16


def scaled(tiny: Path, *overrides: str) -> Trainer:
    """A run whose gradients go through a real gradient scaler, which Accelerate has on GPUs only."""
    trainer = make(tiny, "checkpoint.every_kimg=99", *overrides)
    runner, accelerator = trainer.runner, trainer.runtime.accelerator
    accelerator.scaler = torch.amp.GradScaler("cpu")
    accelerator.unscale_gradients = lambda optimizer: accelerator.scaler.unscale_(optimizer.optimizer)
    for player in runner.players.values():
        player.prepared = AcceleratedOptimizer(player.optimizer, device_placement=False, scaler=accelerator.scaler)
    runner.scaled = True
    return trainer


def spoil_gradient(trainer: Trainer, network: str, steps: range) -> None:
    """The loss stays what it is: only what comes back from it is no number."""
    next(iter(trainer.runner.bare[network].parameters())).register_hook(
        lambda gradient: gradient * math.nan if trainer.step in steps else gradient
    )


def test_a_scaler_that_keeps_skipping_ends_the_run(tiny: Path) -> None:
    trainer = scaled(tiny, "train.kimg=3.2")
    spoil_gradient(trainer, "discriminator", range(3, 999))
    message = stopped(trainer)
    assert "phase `d` (which trains discriminator) had a gradient that is not finite" in message
    assert "in the gradient of network `discriminator`" in message
    # Withheld from the fourth step on, and looked at after every fourth.
    assert trainer.step == 36
    assert "the gradient scaler of fp16 has skipped 33 updates in a row" in message
    assert read_metrics(trainer.folder)[-1]["d/skipped"] == 33


def test_a_scaler_that_finds_its_scale_goes_on(tiny: Path) -> None:
    """However many it has skipped in all: they are counted, and those in a row begin anew."""
    trainer = scaled(tiny, "train.kimg=2.56")
    for start in range(0, 60, 20):
        spoil_gradient(trainer, "discriminator", range(start, start + 15))
    trainer.train()
    assert trainer.step == 80
    last = read_metrics(trainer.folder)[-1]
    assert (last["d/skipped"], last["g/skipped"]) == (45, 0)
    (newest,) = checkpoints_in(trainer.folder / "checkpoints")
    assert Checkpoint(newest).state["scaler_skipped"] == {"d": [45, 0], "g": [0, 0]}


@pytest.mark.parametrize("way", ["scaler", "skip"])
def test_the_average_does_not_move_in_a_skipped_step(way: str, tiny: Path) -> None:
    trainer = scaled(tiny) if way == "scaler" else make(tiny, "train.on_nonfinite=skip")
    spoil_gradient(trainer, "generator", range(2, 3))
    average, network = trainer.averaged.networks["generator"], trainer.runner.bare["generator"]
    for step in range(4):
        before = {name: value.clone() for name, value in average.state_dict().items()}
        weights = {name: value.clone() for name, value in network.named_parameters()}
        trainer.train_step()
        after = average.state_dict()
        moved = [name for name in before if not torch.equal(before[name], after[name])]
        trained = [name for name, value in network.named_parameters() if not torch.equal(weights[name], value)]
        assert bool(moved) == bool(trained) == (step != 2), (step, moved, trained)
