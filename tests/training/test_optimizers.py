"""Optimisers, their schedules and their state; the moving average; the meter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gantk.config.schema import OptimizerConfig, OptimizerSettings, ScheduleConfig
from gantk.errors import CheckpointError
from gantk.schedules import schedule_factor
from gantk.training.averaging import Averaged
from gantk.training.checkpoint import Checkpoint, write
from gantk.training.meter import Meter
from gantk.training.optimizers import Player, build_optimizer
from gantk.training.phases import norms_of

KINDS: dict[str, tuple[dict[str, Any], Any]] = {
    "adam": ({"type": "adam", "lr": 0.01}, lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.5, 0.999), fused=False)),
    "adam-decay": (
        {"type": "adam", "lr": 0.01, "betas": (0.0, 0.9), "eps": 1e-3, "weight_decay": 0.1},
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.0, 0.9), eps=1e-3, weight_decay=0.1, fused=False),
    ),
    "adamw": (
        {"type": "adamw", "lr": 0.01, "weight_decay": 0.1},
        lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.5, 0.999), weight_decay=0.1, fused=False),
    ),
    "sgd": ({"type": "sgd", "lr": 0.01}, lambda p: torch.optim.SGD(p, lr=0.01, fused=False)),
    "sgd-momentum": (
        {"type": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1, fused=False),
    ),
    "sgd-nesterov": (
        {"type": "sgd", "lr": 0.01, "momentum": 0.9, "nesterov": True},
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, fused=False),
    ),
    "rmsprop": ({"type": "rmsprop", "lr": 0.01, "eps": 1e-8}, lambda p: torch.optim.RMSprop(p, lr=0.01, eps=1e-8)),
    "rmsprop-momentum": (
        {"type": "rmsprop", "lr": 0.01, "momentum": 0.5},
        lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    ),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def step(net: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for parameter in net.parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
    optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_each_type_moves_as_pytorchs_own(kind: str) -> None:
    ours, plain = network(), network()
    settings, make = KINDS[kind]
    player = Player("x", OptimizerSettings(**settings), {"net": ours})
    reference = make(list(plain.parameters()))
    for number in range(5):
        step(ours, player.optimizer, number)
        step(plain, reference, number)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_state_goes_through_a_checkpoint(kind: str, tmp_path: Path) -> None:
    """Three steps, a checkpoint, two steps: bit for bit what five steps give, with weights in channels-last order."""
    settings = OptimizerSettings(**KINDS[kind][0])
    straight = network()
    player = Player("x", settings, {"net": straight})
    for number in range(3):
        step(straight, player.optimizer, number)
    write(
        tmp_path / "step-00000003",
        tensors={"optimizer.x": player.state(), "net": straight.state_dict()},
        state={},
        config="",
    )
    for number in (3, 4):
        step(straight, player.optimizer, number)

    saved = Checkpoint(tmp_path / "step-00000003")
    resumed = network()
    saved.load_network("net", resumed)
    again = Player("x", settings, {"net": resumed})
    again.load_state(saved.tensors("optimizer.x"))
    assert resumed[0].weight.stride() == straight[0].weight.stride()  # type: ignore[index]
    for number in (3, 4):
        step(resumed, again.optimizer, number)
    for mine, theirs in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert player.state().keys() == again.state().keys()
    for key, value in player.state().items():
        assert torch.equal(value, again.state()[key]), key


def test_state_of_another_optimiser_is_refused() -> None:
    adam = Player("d", OptimizerSettings(), {"net": network()})
    step(network(), adam.optimizer, 0)
    for parameter in adam.parameters:
        parameter.grad = torch.ones_like(parameter)
    adam.optimizer.step()
    for settings, what in (
        (OptimizerSettings(type="sgd"), "none"),
        (OptimizerSettings(type="sgd", momentum=0.5), "momentum_buffer"),
        (OptimizerSettings(type="rmsprop"), "square_avg, step"),
    ):
        with pytest.raises(CheckpointError, match=rf"exp_avg.*type `{settings.type}` has {what}: take the old type"):
            Player("d", settings, {"net": network()}).load_state(adam.state())
    other = nn.Sequential(nn.Conv2d(3, 9, 3))
    with pytest.raises(CheckpointError, match=r"optimiser `d` has \(8, 3, 3, 3\) for `net\.0\.weight`"):
        Player("d", OptimizerSettings(), {"net": other}).load_state(adam.state())
    with pytest.raises(CheckpointError, match=r"moves `net\.\d\.\w+`, which the config's networks do not have"):
        Player("d", OptimizerSettings(), {"net": network()[:1]}).load_state(adam.state())  # type: ignore[index]


def test_fused_where_pytorch_has_it() -> None:
    parameters = list(network().parameters())
    for kind in ("adam", "adamw", "sgd"):
        optimizer = build_optimizer(OptimizerSettings(type=kind), parameters)  # type: ignore[arg-type]
        assert getattr(optimizer, "_step_supports_amp_scaling", False), kind


# Schedules


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ({}, {0: 1, 50: 1, 200: 1}),
        ({"type": "linear"}, {0: 1, 25: 0.75, 50: 0.5, 100: 0, 150: 0}),
        ({"type": "linear", "final": 0.5}, {0: 1, 50: 0.75, 100: 0.5, 150: 0.5}),
        ({"type": "linear", "start_kimg": 50}, {0: 1, 50: 1, 75: 0.5, 100: 0}),
        ({"type": "linear", "start_kimg": 20, "end_kimg": 40}, {20: 1, 30: 0.5, 40: 0, 90: 0}),
        ({"type": "cosine"}, {0: 1, 25: 0.5 + 0.5 * math.cos(math.pi / 4), 50: 0.5, 100: 0}),
        ({"type": "cosine", "final": 0.2}, {0: 1, 50: 0.6, 100: 0.2}),
        ({"warmup_kimg": 10}, {0: 0, 5: 0.5, 10: 1, 20: 1}),
        ({"type": "linear", "warmup_kimg": 10}, {0: 0, 5: 0.5 * 0.95, 10: 0.9, 50: 0.5}),
    ],
)
def test_schedule(schedule: dict[str, Any], factors: dict[int, float]) -> None:
    for kimg, factor in factors.items():
        assert schedule_factor(ScheduleConfig(**schedule), kimg * 1000, 100) == pytest.approx(factor, abs=1e-12), kimg


def test_rates_are_set_for_each_optimiser() -> None:
    config = OptimizerConfig(
        lr=1e-3, phases={"g": {"lr": 1e-2, "schedule": {"type": "linear"}}}, schedule=ScheduleConfig(warmup_kimg=10)
    )
    players = {name: Player(name, config.of(name), {"net": network()}) for name in ("d", "g")}
    for player in players.values():
        player.set_rate(5_000, 100)
    assert players["d"].rate == pytest.approx(1e-3 * 0.5)
    assert players["g"].rate == pytest.approx(1e-2 * 0.5 * 0.95)
    assert all(group["lr"] == players["g"].rate for group in players["g"].optimizer.param_groups)


# Norms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_total_norm(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(3, 4, dtype=dtype), torch.randn(5, dtype=dtype)]
    wanted = torch.cat([g.double().flatten() for g in gradients]).norm()
    norm = torch.linalg.vector_norm(norms_of(gradients))
    assert norm.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert abs(norm - wanted) / wanted < 1e-6


# The moving average


def test_average_is_that_of_the_formula() -> None:
    net = network().double()
    average = Averaged({"net": net}, half_life_kimg=2.0)
    assert next(average.networks["net"].parameters()) is not next(net.parameters())
    wanted = [p.detach().clone() for p in net.parameters()]
    images, batch = 0, 500
    for number in range(60):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
            net[1].running_mean.fill_(number)  # type: ignore[index]
            net[1].num_batches_tracked.fill_(number)  # type: ignore[index]
        images += batch
        average.update({"net": net}, images, batch)
        half_life = min(2000.0, images / 10)
        kept = 0.5 ** (batch / half_life)
        wanted = [kept * w + (1 - kept) * p.detach() for w, p in zip(wanted, net.parameters(), strict=True)]
        for mine, theirs in zip(average.networks["net"].parameters(), wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
        assert (average.networks["net"][1].running_mean == number).all()  # type: ignore[index]
        assert average.networks["net"][1].num_batches_tracked == number  # type: ignore[index]
    # At 20 kimg the half-life is its own, no longer a tenth of the images seen.
    assert images / 10 > 2000


def test_no_averaging_is_a_copy() -> None:
    net = network()
    average = Averaged({"net": net}, half_life_kimg=0.0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    average.update({"net": net}, 32, 32)
    for mine, theirs in zip(average.networks["net"].parameters(), net.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert not any(p.requires_grad for p in average.networks["net"].parameters())
    assert not average.networks["net"].training


# The meter


class _Alone:
    world_size, rank = 1, 0
    device = torch.device("cpu")

    @staticmethod
    def gather(rows: torch.Tensor) -> torch.Tensor:
        return rows

    @staticmethod
    def sum(values: torch.Tensor) -> torch.Tensor:
        return values


def test_meter_means_and_starts_anew() -> None:
    meter, alone = Meter(), _Alone()
    assert meter.read(alone) == {}  # type: ignore[arg-type]
    for value in (1.0, 2.0, 6.0):
        meter.add("a", torch.tensor(value))
    meter.add("b", torch.tensor(5.0, dtype=torch.float64))
    assert meter.read(alone) == {"a": 3.0, "b": 5.0}  # type: ignore[arg-type]
    assert meter.read(alone) == {}  # type: ignore[arg-type]


def test_meter_keeps_no_hold_of_what_it_was_given() -> None:
    meter, state = Meter(), torch.tensor(1.0)
    meter.add("p", state)
    state += 10
    meter.add("p", state)
    assert meter.read(_Alone()) == {"p": 6.0}  # type: ignore[arg-type]


def test_meter_goes_through_a_checkpoint() -> None:
    meter, other, alone = Meter(), Meter(), _Alone()
    for value in (1.0, 2.0):
        meter.add("a", torch.tensor(value))
    other.load_state(meter.state(alone), alone)  # type: ignore[arg-type]
    for each in (meter, other):
        each.add("a", torch.tensor(6.0))
    assert other.read(alone) == meter.read(alone) == {"a": 3.0}  # type: ignore[arg-type]
