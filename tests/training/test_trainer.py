"""The trainer's own promises: steps counted, gradients gated, refusals in one sentence, several runs in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gantk
from gantk.config import load_config
from gantk.errors import ConfigError, DataError, DivergedError
from gantk.runtime import Runtime, resolve_precision
from gantk.tracking import read_metrics
from gantk.training import phases
from gantk.training.checkpoint import checkpoints_in
from gantk.training.phases import norms_of
from gantk.training.trainer import Trainer

SHORT = ("train.kimg=0.256", "evaluate.every_kimg=99", "samples.every_kimg=99", "checkpoint.every_kimg=99")
ONE_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, on which this goes")


def make(tiny: Path, *overrides: str) -> Trainer:
    return Trainer(load_config(tiny, [*SHORT, *overrides]))


def state_of(trainer: Trainer, player: str) -> dict[str, Tensor]:
    """Copies of what an update of `player` may move."""
    moved = trainer.runner.players[player]
    weights = {name: value.detach().clone() for name, value in moved.named.items()}
    return {**weights, **{name: value.clone() for name, value in moved.state().items()}}


# What a step does


def test_discriminator_steps_are_updates_and_images_count_once(tiny: Path) -> None:
    trainer = make(tiny, "objective.discriminator_steps=3", "train.accumulation=2")
    trainer.train_step()
    steps = {
        name: {int(v) for key, v in player.state().items() if key.endswith("|step")}
        for name, player in trainer.runner.players.items()
    }
    assert steps == {"d": {3}, "g": {1}}
    assert (trainer.step, trainer.images, trainer.batches.cursor) == (1, 32, 96)


def test_a_phase_leaves_no_gradient_to_another_player(tiny: Path) -> None:
    trainer = make(tiny)
    seen: dict[str, set[str]] = {}
    update = trainer.runner._update

    def watch(phase: Any, player: Any) -> None:
        seen[phase.name] = {
            name
            for name, network in trainer.runner.bare.items()
            if any(p.grad is not None for p in network.parameters())
        }
        update(phase, player)

    trainer.runner._update = watch  # type: ignore[method-assign]
    trainer.train_step()
    assert seen == {"d": {"discriminator"}, "g": {"generator"}}
    assert all(p.grad is None for network in trainer.runner.bare.values() for p in network.parameters())


def test_clip_norm_clips_each_phase_to_its_own_norm(tiny: Path) -> None:
    trainer = make(tiny, "optimizer.phases={d: {clip_norm: 0.01}, g: {clip_norm: 1e6}}", "train.log_every_kimg=0.032")
    norms = {}
    for name, player in trainer.runner.players.items():
        step = player.optimizer.step

        def watch(name: str = name, player: Any = player, step: Any = step) -> None:
            norms[name] = float(torch.linalg.vector_norm(norms_of(player.gradients())))
            step()

        player.optimizer.step = watch
    trainer.train()
    logged = read_metrics(trainer.folder)[-1]
    assert norms["d"] == pytest.approx(0.01, rel=1e-3)
    assert logged["d/grad_norm"] > 0.02
    assert norms["g"] == pytest.approx(logged["g/grad_norm"], rel=1e-5)


def test_rates_are_logged_by_schedule(tiny: Path) -> None:
    run = gantk.train(
        tiny, *SHORT, "optimizer.schedule={type: linear}", "optimizer.phases.g.lr=1e-3", "train.log_every_kimg=0.128"
    )
    rows = read_metrics(run.folder)
    # The rate of the interval's last step, which began 32 images before.
    assert [row["d/lr"] for row in rows] == pytest.approx([2e-4 * (1 - 0.096 / 0.256), 2e-4 * (1 - 0.224 / 0.256)])
    assert [row["g/lr"] / row["d/lr"] for row in rows] == pytest.approx([5, 5])


def test_losses_are_means_over_the_interval(tiny: Path) -> None:
    each = read_metrics(gantk.train(tiny, *SHORT, "name=each", "train.log_every_kimg=0.032").folder)
    whole = read_metrics(gantk.train(tiny, *SHORT, "name=whole", "train.log_every_kimg=0.128").folder)
    assert (len(each), len(whole)) == (8, 2)
    for key in ("d/loss", "g/loss", "d/real", "d/fake", "d/grad_norm"):
        for half in range(2):
            values = [row[key] for row in each[4 * half : 4 * half + 4]]
            assert whole[half][key] == pytest.approx(sum(values) / 4, rel=1e-5)
    assert all(0 < row["d/real"] < 1 for row in each)


def test_state_that_a_game_reports_is_read_when_it_was_reported(tiny: Path) -> None:
    run = gantk.train(tiny, *SHORT, "plugins=[games]", "objective.type=test_dropout", "train.log_every_kimg=0.064")
    assert [row["d/seen"] for row in read_metrics(run.folder)] == [48, 112, 176, 240]


def test_channels_last_changes_the_layout_and_not_the_numbers(tiny: Path) -> None:
    trainers = [
        make(tiny, f"train.channels_last={on}", f"name=run-{on}", "train.precision=float64") for on in ("true", "false")
    ]
    for trainer, on in zip(trainers, (True, False), strict=True):
        for networks in (trainer.runner.bare, trainer.averaged.networks):
            weight = networks["generator"].project.linear.weight  # type: ignore[union-attr]
            assert weight.is_contiguous(memory_format=torch.channels_last) == on
        trainer.train_step()
    one, two = (trainer.runner.bare["generator"].state_dict() for trainer in trainers)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-9, atol=1e-11)


def test_average_is_evaluated_not_the_weights(tiny: Path) -> None:
    trainer = make(tiny)
    trainer.train()
    assert trainer.sampler.networks["generator"] is trainer.averaged.networks["generator"]
    assert trainer.sampler.networks["generator"] is not trainer.runner.bare["generator"]


# Gradients that are no numbers

OPTIMISERS = {
    "adam": "optimizer.type=adam",
    "sgd": "optimizer={type: sgd, momentum: 0.9}",
    "plain-sgd": "optimizer.type=sgd",
    "rmsprop": "optimizer={type: rmsprop, momentum: 0.5}",
}


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("player", ["d", "g"])
@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_gradient_that_is_no_number_moves_nothing(optimizer: str, player: str, at: int, tiny: Path) -> None:
    trainer = make(
        tiny, "plugins=[games]", f"objective={{type: test_poison, at: {at}, player: {player}}}", OPTIMISERS[optimizer]
    )
    for _ in range(at):
        trainer.train_step()
    other = "g" if player == "d" else "d"
    before, of_other = state_of(trainer, player), state_of(trainer, other)
    trainer.train_step()
    after = state_of(trainer, player)
    for name, value in after.items():
        # What an optimiser makes in its first step starts at zero.
        assert torch.equal(value, before.get(name, torch.zeros_like(value))), name
    assert any(not torch.equal(value, of_other.get(name, value)) for name, value in state_of(trainer, other).items())
    assert trainer.runner.watch.withheld[player] == 1
    assert trainer.runner.watch.withheld[other] == 0
    # And the next step is a step again.
    trainer.train_step()
    moved = state_of(trainer, player)
    assert all(value.isfinite().all() for value in moved.values())
    assert any(not torch.equal(moved[name], before[name]) for name in before)


@pytest.mark.parametrize("player", ["d", "g"])
def test_divergence_ends_the_run(player: str, tiny: Path) -> None:
    with pytest.raises(
        DivergedError, match=rf"phase `{player}` \(which trains .*optimizer\.phases\.{player}\.lr"
    ) as caught:
        gantk.train(
            tiny, *SHORT, "plugins=[games]", f"objective={{type: test_poison, at: 4, player: {player}}}",
            "checkpoint.every_kimg=0.064", "train.log_every_kimg=0.256",
        )  # fmt: skip
    assert caught.value.exit_code == 5
    folder = load_config(tiny).run_folder
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("diverged", 5)
    assert f"phase `{player}`" in status["message"]
    # Steps 2 and 4 were saved; step 6 was not, although its weights are numbers.
    assert [path.name for path in checkpoints_in(folder / "checkpoints")] == ["step-00000002", "step-00000004"]


def test_loss_that_is_no_number_is_logged_before_the_end(tiny: Path) -> None:
    with pytest.raises(DivergedError):
        gantk.train(
            tiny, *SHORT, "plugins=[games]", "objective={type: test_poison, at: 1}", "train.log_every_kimg=0.064"
        )
    (row,) = read_metrics(load_config(tiny).run_folder)
    assert row["d/grad_norm"] is None
    assert row["g/grad_norm"] is not None


# Refusals


def test_fewer_images_than_a_batch(tiny: Path) -> None:
    with pytest.raises(
        DataError, match=r"there are 31 training images, fewer than `train\.batch_size: 32`: lower it"
    ) as caught:
        make(tiny, "data.limit=31")
    assert caught.value.exit_code == 3
    make(tiny, "data.limit=32")


def test_batch_that_does_not_divide_by_the_processes(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Three(Runtime):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.world_size = 3

    monkeypatch.setattr("gantk.training.trainer.Runtime", Three)
    with pytest.raises(ConfigError, match=r"`train\.batch_size: 32` does not divide by 3 processes .*a multiple of 6"):
        make(tiny, "train.accumulation=2")
    assert not load_config(tiny).run_folder.exists()


def test_world_size_that_is_not_there(tiny: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"`train\.world_size` asks for 4 processes and there are 1: .*torchrun --nproc_per_node 4"
    ):
        make(tiny, "train.world_size=4")


@ONE_GPU
@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.sync_batchnorm=true", r"`train\.sync_batchnorm` needs GPUs"),
        ("train.precision=fp16", r"`train\.precision: fp16` needs a CUDA GPU, and this run is on cpu"),
    ],
)
def test_what_needs_a_gpu_is_refused_without(override: str, sentence: str, tiny: Path) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        make(tiny, "train.device=auto", override)
    assert caught.value.exit_code == 2
    assert not load_config(tiny).run_folder.exists()


def test_precision() -> None:
    assert resolve_precision("auto", "cpu") in ("bf16", "no")
    assert resolve_precision("fp16", "cuda") == "fp16"
    for wanted in ("no", "bf16", "float64"):
        assert resolve_precision(wanted, "cpu") == wanted
    with pytest.raises(ConfigError, match="needs a CUDA GPU"):
        resolve_precision("fp16", "cpu")


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("ACCELERATE_USE_FSDP", "true", "FSDP, which gantk does not support"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed, which"),
        ("ACCELERATE_USE_MEGATRON_LM", "1", "Megatron-LM, which"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", r"use `train\.compile=true` instead"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", r"use `train\.accumulation` instead"),
    ],
)
def test_what_a_launcher_may_not_ask_for(
    variable: str, value: str, sentence: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=sentence):
        make(tiny)


def test_defaults_of_a_launcher_are_no_demands(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for variable, value in {
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
        "ACCELERATE_USE_FSDP": "false",
    }.items():
        monkeypatch.setenv(variable, value)
    make(tiny)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    trainer = make(tiny, "name=other")
    assert "the launcher asks for mixed precision bf16; the config has no, and wins" in caplog.text
    assert trainer.runtime.in_force.precision == "fp32"


def test_optimiser_that_the_game_does_not_have(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"`optimizer\.phases\.generator`: this objective has the optimisers d, g"):
        make(tiny, "optimizer.phases.generator.lr=1")


def test_a_failure_is_recorded(tiny: Path) -> None:
    with pytest.raises(ConfigError):
        make(tiny, "optimizer.phases.generator.lr=1")
    status = json.loads((load_config(tiny).run_folder / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 2)
    assert "optimizer.phases.generator" in status["message"]


def test_labels_that_are_missing(tiny: Path, tmp_path: Path) -> None:
    import numpy as np

    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images)
    data = f"data={{source: npz, path: {tmp_path}/data.npz, resolution: 8}}"
    conditional = "network={type: conditional_dcgan, width: 4, hidden_dim: 8}"
    with pytest.raises(ConfigError, match="is conditional, but the data has no labels"):
        make(tiny, data, conditional)
    # Numbers without names are classes as well.
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(60) % 3)
    trainer = make(tiny, data, conditional)
    assert trainer.sampler.shape.class_names == ("0", "1", "2")
    assert trainer.objective.family.num_classes == 3


# Python


def test_train_takes_a_file_a_mapping_or_a_config(tiny: Path) -> None:
    import yaml

    file = gantk.train(tiny, *SHORT, "name=file")
    mapping = gantk.train(yaml.safe_load(tiny.read_text()), *SHORT, "name=mapping")
    config = gantk.train(load_config(tiny, [*SHORT, "name=config"]))
    for run in (file, mapping, config):
        assert run.kimg == 0.256
        assert run.folder.name in ("file", "mapping", "config")
    with pytest.raises(TypeError, match="a Config is complete"):
        gantk.train(load_config(tiny), "train.kimg=1")


def test_runs_of_other_precisions_follow_each_other_in_one_process(tiny: Path) -> None:
    in_force = []
    for precision in ("bf16", "no", "float64", "bf16"):
        trainer = make(tiny, f"train.precision={precision}", f"name=run-{len(in_force)}")
        trainer.train_step()
        in_force.append(trainer.runtime.in_force.precision)
        wanted = torch.float64 if precision == "float64" else torch.float32
        assert all(p.dtype == wanted for p in trainer.runner.bare["generator"].parameters())
    assert in_force == ["bf16", "fp32", "float64", "bf16"]


def test_run_folder_has_what_is_documented(trained: Path) -> None:
    assert {
        "config.yaml", "environment.json", "status.json", "metrics.jsonl", "log.txt", "samples", "checkpoints",
    } <= {path.name for path in trained.iterdir()}  # fmt: skip
    assert load_config(trained / "config.yaml").name == "trained"
    environment = json.loads((trained / "environment.json").read_text())
    assert (environment["precision"], environment["world_size"], environment["device"]) == ("fp32", 1, "cpu")
    assert [path.name for path in checkpoints_in(trained / "checkpoints")] == ["step-00000004", "step-00000008"]
    assert [path.name for path in sorted((trained / "samples").iterdir())] == ["0000000256.png"]


def test_deterministic_is_of_the_run_not_of_the_process(tiny: Path) -> None:
    make(tiny)
    assert torch.are_deterministic_algorithms_enabled()
    make(tiny, "train.deterministic=false", "name=free")
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_compiled_networks_train(tiny: Path) -> None:
    compiled = make(tiny, "train.compile=true")
    eager = make(tiny, "name=eager")
    for trainer in (compiled, eager):
        trainer.train_step()
        trainer.train_step()
    for name, network in eager.runner.bare.items():
        for key, value in network.state_dict().items():
            torch.testing.assert_close(compiled.runner.bare[name].state_dict()[key], value, rtol=1e-2, atol=1e-3)


LOSS_NAMES = ("nonsaturating", "minimax", "least_squares", "hinge", "wasserstein")


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_gradient_of_each_loss_is_the_mean_over_parts_of_the_batch(
    loss: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What two processes do, without them: the two halves' gradients, averaged, are the whole batch's."""
    kept: list[dict[str, Tensor]] = []
    update = phases.PhaseRunner._update

    def keep(self: Any, phase: Any, player: Any) -> None:
        kept[-1].update({f"{phase.name}/{n}": p.grad.detach().clone() for n, p in player.named.items()})
        update(self, phase, player)

    monkeypatch.setattr(phases.PhaseRunner, "_update", keep)
    for parts in (1, 2):
        kept.append({})
        make(
            tiny, f"objective.loss={loss}", "train.precision=float64", "network.batch_norm=false",
            f"train.accumulation={parts}", f"name=parts-{parts}",
        ).train_step()  # fmt: skip
    whole, halves = kept
    assert whole.keys() == halves.keys()
    for name in whole:
        assert (whole[name] - halves[name]).norm() <= 1e-10 * whole[name].norm() + 1e-14, name
