"""Checks of an objective before it is trained: an author's slips as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gantk.collectives import NoCollectives, alone
from gantk.draws import torch_seeded
from gantk.errors import ConfigError
from gantk.objectives.base import Objective, Phase


def check_objective(objective: Objective) -> None:
    """Raise ConfigError where networks, averages and phases do not fit together."""
    at = f"`objective.type: {getattr(objective.config, 'type', type(objective).__name__)}`"
    networks = getattr(objective, "networks", {})
    there = ", ".join(networks) or "none"
    if not objective.averaged:
        raise ConfigError(
            f"{at} has no `averaged` networks, and samples are drawn from averages: name there what makes its samples"
        )
    for name in objective.averaged:
        if name not in networks:
            raise ConfigError(
                f"{at} averages `{name}`, and its networks are {there}: set `averaged` to names among them"
            )
    if not getattr(objective, "phases", ()):
        raise ConfigError(f"{at} has no `phases`, so nothing would be trained: give it one for each update of a step")
    names = [phase.name for phase in objective.phases]
    for phase in objective.phases:
        if names.count(phase.name) > 1:
            raise ConfigError(f"{at} has two phases with the name `{phase.name}`: give each its own")
        if not phase.trains:
            raise ConfigError(f"{at}: phase `{phase.name}` trains nothing: name its networks in `trains`")
        for name in (*phase.trains, *phase.inference, *phase.leaves):
            if name not in networks:
                raise ConfigError(f"{at}: phase `{phase.name}` names the network `{name}`, and there are: {there}")
        if not any(True for name in phase.trains for _ in networks[name].parameters()):
            raise ConfigError(f"{at}: phase `{phase.name}` trains networks without parameters: name others in `trains`")


class Recording(Mapping[str, nn.Module]):
    """Networks by name, with the names that were asked for."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self._networks, self.asked = networks, set[str]()

    def __getitem__(self, name: str) -> nn.Module:
        self.asked.add(name)
        return self._networks[name]

    def __iter__(self) -> Iterator[str]:
        self.asked.update(self._networks)
        return iter(self._networks)

    def __len__(self) -> int:
        return len(self._networks)


def check_samples(sampler: Any) -> None:
    """Draw two samples, as the first grid would; raise ConfigError where they are no images of the data's shape, or come from
    the trained network in place of its average.

    An exception of the objective's own is raised as it is.
    """
    objective, index = sampler.objective, np.arange(2)
    own = objective.networks
    objective.networks = recording = Recording(own)
    try:
        with torch.random.fork_rng(devices=[sampler.device] if sampler.device.type == "cuda" else []):
            samples = sampler.raw(index, sampler.labels(index))
    finally:
        objective.networks = own
    if live := sorted(recording.asked & set(objective.averaged)):
        raise ConfigError(
            f"`generate` of the objective takes `{live[0]}` from `self.networks`, which in training is not its average: take "
            "it from the `networks` that it is given"
        )
    shape = sampler.shape
    wanted = (2, shape.channels, shape.resolution, shape.resolution)
    found = tuple(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
    if found != wanted:
        raise ConfigError(f"`generate` of the objective gives {found} for two samples: it must give a tensor {wanted}")


def check_collectives(sampler: Any) -> None:
    """Run networks on this process as grids, evaluations and the discriminator's gap do, where there are several processes.

    Raises ConfigError where one of them calls `torch.distributed` itself, and would wait for the other processes.
    """
    objective, networks = sampler.objective, sampler.networks
    modules = [*networks.values()]
    # One that is compiled cannot be looked into.
    if not dist.is_initialized() or any(getattr(network, "_compiled_call_impl", None) for network in modules):
        return
    index = np.arange(objective.group(objective.config))
    labels = sampler.labels(index)
    modes = [network.training for network in modules]
    try:
        for network in modules:
            network.eval()
        with NoCollectives(), alone(), torch.no_grad(), torch_seeded(0, sampler.device):
            images = sampler.raw(index, labels)
            classes = None if labels is None else torch.as_tensor(labels, device=sampler.device)
            objective.judge(networks, images, classes)
    finally:
        for network, mode in zip(modules, modes, strict=True):
            network.train(mode)


def check_gradients(phase: Phase, networks: dict[str, nn.Module]) -> None:
    """Raise ConfigError where a parameter that a phase trains got no gradient.

    Several processes would wait for it with "Expected to have finished reduction"; so a single one does not train it either.
    """
    without = [
        f"{name}.{key}"
        for name in phase.trains
        for key, value in networks[name].named_parameters()
        if value.grad is None
    ]
    if without:
        more = f" (and {len(without) - 1} more)" if len(without) > 1 else ""
        network, _, parameter = without[0].partition(".")
        raise ConfigError(
            f"phase `{phase.name}` trains the network `{network}`, and its loss does not depend on the parameter "
            f"`{parameter}`{more}: make a network of its own of what the phase does not use, or add `0 * output.sum()` of it "
            "to the loss"
        )
