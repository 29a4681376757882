"""Seeds that are trained in one run are what they would be alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gantk
from benchmarks import replicas
from benchmarks.mixtures import RECIPES
from gantk.config import load_config
from gantk.draws import Draws, key_of
from gantk.objectives import OBJECTIVES, Batch
from gantk.objectives.base import Objective
from gantk.runs import find_checkpoint
from gantk.sampling import load_sampler

S, ROWS, STEPS = 3, 8, 6
RING = Path(__file__).resolve().parents[2] / "configs" / "ring.yaml"
SMALL = ("network.generator_hidden=[12, 12]", "network.discriminator_hidden=[10]")
PLUGIN = ("plugins=[benchmarks.replicas]", "network.type=replicated_mlp")


def copies_of(stacked: Objective, overrides: list[str]) -> list[Objective]:
    """Games of their own that begin with the weights of the replicas."""
    alone = []
    for number in range(S):
        game = objective(overrides)
        for role, network in game.networks.items():
            state = stacked.networks[role].state_dict()
            network.load_state_dict({k: v[number] if v.dim() else v for k, v in state.items()})
        alone.append(game)
    return alone


def objective(overrides: list[str]) -> Objective:
    from gantk.networks import NETWORKS

    config: Any = load_config(RING, overrides)
    family = NETWORKS.get(config.network.type)(config.network, channels=2, resolution=1, num_classes=None)
    return OBJECTIVES.get(config.objective.type)(config.objective, family)


def play(game: Objective, real: Tensor, rows: Tensor, eps: float) -> None:
    """A few steps of a game on given points, [STEPS, N, 2, 1, 1], the rows' z being those of their places."""
    optimizers = {
        phase.name: torch.optim.Adam(
            [p for name in phase.trains for p in game.networks[name].parameters()], lr=1e-3, betas=(0.5, 0.9), eps=eps
        )
        for phase in game.phases
    }
    for step in range(STEPS):
        for phase in game.phases:

            def draw(purpose: str, step: int = step, phase: str = phase.name) -> Draws:
                return Draws(key_of(0, step, phase, purpose), rows)

            batch = Batch(real[step], None, rows, {}, draw, draw)
            terms = phase.loss(game.networks, batch)
            optimizers[phase.name].zero_grad()
            terms.loss.backward()
            optimizers[phase.name].step()


@pytest.mark.parametrize("recipe", ["gan", "pacgan2", "stabilised"])
def test_each_is_trained_as_if_it_were_alone(recipe: str) -> None:
    torch.manual_seed(0)
    chosen = RECIPES[recipe]
    overrides = [*SMALL, *chosen.laid_over("ring", kimg=1.0), f"objective.pack={chosen.pack}"]
    overrides += [f"train.batch_size={S * ROWS}"]
    stacked = objective([*overrides, *PLUGIN, f"network.replicas={S}"])
    alone = copies_of(stacked, overrides)
    real = torch.randn(STEPS, S * ROWS, 2, 1, 1)
    play(stacked, real, torch.arange(S * ROWS), eps=1e-8 / S)
    for number, game in enumerate(alone):
        mine = torch.arange(number * ROWS, (number + 1) * ROWS)
        play(game, real[:, mine], mine, eps=1e-8)
        for role, network in game.networks.items():
            state = stacked.networks[role].state_dict()
            for name, value in network.state_dict().items():
                torch.testing.assert_close(
                    state[name][number] if value.dim() else state[name],
                    value,
                    rtol=2e-3,
                    atol=2e-4,
                    msg=f"{role}.{name}",
                )
    # They began apart, and are apart.
    weights = stacked.networks["generator"].state_dict()["layers.0.weight"]
    assert (weights[0] - weights[1]).abs().max() > 1e-2


def test_what_does_not_divide_is_refused_in_training_and_filled_up_after_it() -> None:
    game = objective([*SMALL, *PLUGIN, "network.replicas=3"])
    network: nn.Module = game.networks["generator"]
    with pytest.raises(ValueError, match="8 rows do not divide among 3 replicas"):
        network(torch.randn(8, 2))
    network.eval()
    z = torch.randn(9, 2)
    with torch.no_grad():
        assert torch.equal(network(z[:8])[:6], network(z)[:6])
        assert network(z[:8]).shape == (8, 2, 1, 1)


def test_a_replica_becomes_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    quiet = ("train.kimg=0.6", "train.batch_size=60", "evaluate.every_kimg=99", "checkpoint.every_kimg=0.3")
    run = gantk.train(
        RING,
        *SMALL,
        *PLUGIN,
        "network.replicas=3",
        *quiet,
        "data.count=500",
        "tracking.wandb=disabled",
        "tracking.progress=false",
    )
    checkpoint = find_checkpoint(str(run.folder)).checkpoint
    folders = replicas.split(checkpoint, tmp_path / "alone")
    assert [folder.name for folder in folders] == ["0", "1", "2"]
    together, _ = load_sampler(checkpoint)
    z = torch.randn(5, 2)
    of_all = together.decode(torch.cat([z, z, z]), None).view(3, 5, 2)
    for number, folder in enumerate(folders):
        sampler, config = load_sampler(find_checkpoint(str(folder)).checkpoint)
        assert (config.network.type, config.plugins) == ("mlp", ())
        torch.testing.assert_close(sampler.decode(z, None).view(5, 2), of_all[number], rtol=1e-4, atol=1e-5)
    assert not np.allclose(of_all[0], of_all[1])
