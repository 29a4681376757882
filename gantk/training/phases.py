"""One move of one player: micro-batches, backward, clip, step."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from gantk.config.schema import OptimizerConfig, TrainConfig
from gantk.errors import ConfigError
from gantk.networks import layers
from gantk.objectives import Objective, Phase
from gantk.objectives.checks import check_gradients
from gantk.runtime import Runtime
from gantk.training.batches import Batches
from gantk.training.meter import Meter
from gantk.training.nonfinite import Watch
from gantk.training.optimizers import Player
from gantk.training.wrapping import with_methods


def norms_of(gradients: list[Tensor]) -> Tensor:
    """The 2-norm of each gradient, in float32 or wider, without leaving the device."""
    wide = [g if g.dtype == torch.float64 else g.float() for g in gradients]
    return torch.stack(torch._foreach_norm(wide))


class PhaseRunner:
    """Carries out an objective's phases: networks wrapped, optimisers built, updates gated on finite gradients.

    A gradient that is not finite moves nothing: the flag stays on the device, and the optimiser's fused kernel reads it
    there, so that no step waits for the host. With DDP the gradients are equal on all processes, and so is the flag.
    """

    def __init__(self, objective: Objective, runtime: Runtime, train: TrainConfig, optimizer: OptimizerConfig) -> None:
        self.objective, self.runtime, self.train = objective, runtime, train
        self.meter = Meter()
        self.adaptation_meter: Meter | None = None
        """Takes the same values, for an objective that adapts by them at an interval of its own."""
        self._check(objective, train, optimizer)
        self.bare: dict[str, nn.Module] = {}
        for name, network in objective.networks.items():
            self.bare[name] = objective.networks[name] = runtime.place(network)
        self.players = self._players(objective, optimizer)
        self._checked: set[str] = set()
        """Phases of which an update has been made."""
        self._graphs: dict[str, bool] = {}
        """Which networks' parameters take gradients, as last set."""
        self._spectral_norms = {name: layers.spectral_norms(network) for name, network in self.bare.items()}
        trained = {name for phase in objective.phases for name in phase.trains}
        self.wrapped = {
            name: with_methods(runtime.distribute(network), network)
            for name, network in self.bare.items()
            if name in trained
        }
        for player in self.players.values():
            player.prepared = runtime.accelerator.prepare_optimizer(player.optimizer)
        self.watch = Watch(objective.phases, runtime.device)
        self.scaled = runtime.in_force.precision == "fp16"
        """Whether gradients are scaled, and a scaler withholds those that overflow."""

    @property
    def may_go_on(self) -> bool:
        """Whether the run goes on when an update was withheld."""
        return self.scaled or self.train.on_nonfinite == "skip"

    @staticmethod
    def _check(objective: Objective, train: TrainConfig, optimizer: OptimizerConfig) -> None:
        for phase in objective.phases:
            if phase.whole_batch and train.accumulation > 1:
                raise ConfigError(
                    f"`train.accumulation: {train.accumulation}` does not go with phase `{phase.name}`, whose loss is of the "
                    "whole batch's statistics: set it to 1"
                )
        known = sorted({phase.plays_with for phase in objective.phases})
        for name in optimizer.phases:
            if name not in known:
                raise ConfigError(f"`optimizer.phases.{name}`: this objective has the optimisers {', '.join(known)}")

    def _players(self, objective: Objective, optimizer: OptimizerConfig) -> dict[str, Player]:
        players: dict[str, Player] = {}
        trains: dict[str, tuple[str, ...]] = {}
        for phase in objective.phases:
            name = phase.plays_with
            if name not in players:
                trains[name] = phase.trains
                players[name] = Player(name, optimizer.of(name), {n: self.bare[n] for n in phase.trains})
            elif trains[name] != phase.trains:
                raise ValueError(f"phases of optimiser `{name}` train {trains[name]} and {phase.trains}")
        return players

    def run(self, phase: Phase, repeat: int, step: int, batches: Batches) -> None:
        player = self.players[phase.plays_with]
        whole_and_last = self.train.accumulation == 1 and repeat == phase.repeats - 1
        graphs = {*phase.trains, *(phase.leaves if whole_and_last else ())}
        networks = {n: self.wrapped[n] if n in graphs else self.bare[n] for n in self.bare}
        trained = [self.wrapped[n] for n in phase.trains]
        accelerator = self.runtime.accelerator
        with self._playing(phase, graphs):
            micro_batches = batches.next(phase.name, step, repeat, phase.batch == "new")
            for number, batch in enumerate(micro_batches, start=1):
                with self.runtime.accumulating(trained, last=number == self.train.accumulation):
                    with accelerator.autocast():
                        terms = phase.loss(networks, batch)
                    loss = self.watch.guard(phase.name, terms.loss)
                    accelerator.backward(loss * (phase.every / self.train.accumulation))
                for name, value in terms.log.items():
                    self._report(f"{phase.name}/{name}", value)
            if phase.name not in self._checked:
                check_gradients(phase, self.bare)
                self._checked.add(phase.name)
            self._update(phase, player)
            if phase.after_update is not None:
                phase.after_update(self.bare)
            for name in phase.trains:
                layers.iterate(self._spectral_norms[name])

    def replay(self, phase: Phase, step: int, batches: Batches) -> None:
        """The phase's forward pass once more, on the images drawn last, for whoever watches the layers."""
        with self._playing(phase):
            for batch in batches.next(phase.name, step, 0, new=False):
                with self.runtime.accelerator.autocast():
                    phase.loss(self.bare, batch)

    @contextlib.contextmanager
    def _playing(self, phase: Phase, graphs: Collection[str] | None = None) -> Iterator[None]:
        """Only `graphs` take gradients, by default what the phase trains: another player's would be computed, reduced and
        left lying.
        """
        graphs = phase.trains if graphs is None else graphs
        for name, network in self.bare.items():
            # Going through all modules takes longer than to see that most are as they should be.
            if self._graphs.get(name) is not (takes := name in graphs):
                network.requires_grad_(takes)
                self._graphs[name] = takes
            if network.training is not (trains := name not in phase.inference):
                network.train(trains)
        yield

    def _report(self, name: str, value: Tensor) -> None:
        self.meter.add(name, value)
        if self.adaptation_meter is not None:
            self.adaptation_meter.add(name, value)

    def _update(self, phase: Phase, player: Player) -> None:
        scaled = self.scaled
        if scaled:
            self.runtime.accelerator.unscale_gradients(player.prepared)
        gradients = player.gradients()
        norms = norms_of(gradients)
        norm = torch.linalg.vector_norm(norms)
        self._report(f"{phase.name}/grad_norm", norm)
        if player.settings.clip_norm is not None:
            shrink = (player.settings.clip_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, shrink.to(gradients[0].dtype))
        withheld = self.watch.flag(phase, player.names_with_gradient(), norms, norm, scaled)
        if scaled:
            # The gradient scaler withholds the update itself, lowers its scale, and goes on: that is its way.
            player.prepared.step()
        else:
            # Without a scaler Accelerate's wrapper adds nothing to the optimiser but time: in each step it looks for a
            # package on the disk, twice, and in each `zero_grad` at a signature.
            if getattr(player.optimizer, "_step_supports_amp_scaling", False):
                player.optimizer.found_inf = withheld  # type: ignore[attr-defined]
                player.optimizer.step()
            else:
                player.step_unless(withheld)
        player.optimizer.zero_grad()
