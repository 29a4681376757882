"""Optimisers by the name of the player they move, their schedules, and their state by the names of the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gantk.config.schema import OptimizerSettings
from gantk.errors import CheckpointError
from gantk.schedules import schedule_factor


def build_optimizer(settings: OptimizerSettings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of `settings`, fused where PyTorch has it so."""
    device = parameters[0].device.type
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    # Fused optimisers also take a flag, on the device, that says whether to update at all: see `PhaseRunner`.
    fused = True if device in ("cpu", "cuda", "mps") else None
    if settings.type in ("adam", "adamw"):
        cls = torch.optim.Adam if settings.type == "adam" else torch.optim.AdamW
        return cls(parameters, betas=settings.betas, eps=settings.eps, fused=fused, **common)
    if settings.type == "sgd":
        return torch.optim.SGD(
            parameters, momentum=settings.momentum, nesterov=settings.nesterov, fused=fused, **common
        )
    # `capturable`: its count of steps is on the device too.
    return torch.optim.RMSprop(
        parameters, momentum=settings.momentum, eps=settings.eps, capturable=device == "cuda", **common
    )


class Player:
    """One optimiser and the named parameters that it moves.

    Args:
        name: the optimiser's, for example `d`.
        settings: from the config.
        networks: the networks that it trains, by name.
    """

    def __init__(self, name: str, settings: OptimizerSettings, networks: Mapping[str, nn.Module]) -> None:
        self.name, self.settings = name, settings
        self.named = {
            f"{network}.{parameter}": value
            for network, module in networks.items()
            for parameter, value in module.named_parameters()
        }
        self.parameters = list(self.named.values())
        self.optimizer = build_optimizer(settings, self.parameters)
        self.scale = 1.0
        """A factor on the learning rate beside the schedule's: rollbacks may lower it."""
        if settings.type == "sgd" and settings.momentum > 0:
            # PyTorch makes it at the first step, from memory that a withheld first step leaves uninitialised.
            for parameter in self.parameters:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        elif settings.type == "rmsprop":
            # There before the first step, for `step_unless` to go back to.
            for parameter in self.parameters:
                state = self.optimizer.state[parameter]
                where = parameter.device if self._steps_on_device() else "cpu"
                state["step"], state["square_avg"] = torch.zeros((), device=where), torch.zeros_like(parameter)
                if settings.momentum > 0:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
        self.prepared: Any = self.optimizer
        """The optimiser as Accelerate wraps it."""

    def set_rate(self, images: int, total_kimg: float) -> None:
        factor = schedule_factor(self.settings.schedule, images, total_kimg)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * factor * self.scale

    @property
    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def names_with_gradient(self) -> list[str]:
        """The names of the parameters that `gradients` speaks of, as `network.parameter`."""
        return [name for name, parameter in self.named.items() if parameter.grad is not None]

    @torch.no_grad()
    def step_unless(self, withheld: Tensor) -> None:
        """Step, and go back where the scalar `withheld` is not 0: for optimisers whose kernels do not take that flag.

        It stays on the device, for the price of a copy of parameters and moments.
        """
        slots = [value for state in self.optimizer.state.values() for value in state.values() if value is not None]
        moved = [*self.parameters, *slots]
        before = [value.clone() for value in moved]
        self.optimizer.step()
        for value, old in zip(moved, before, strict=True):
            value.copy_(torch.where(withheld.bool().to(value.device), old, value))

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts, as `network.parameter|key`."""
        state = {}
        for name, parameter in self.named.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if value is not None:
                    state[f"{name}|{key}"] = torch.as_tensor(value)
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`.

        Raises:
            CheckpointError: for a parameter that there is not, or that has another shape, or the state of an optimiser
                of another type.
        """
        slots = {key.partition("|")[2] for key in state}
        if slots and slots != self._slots():
            raise CheckpointError(
                f"the checkpoint's optimiser `{self.name}` has the state {', '.join(sorted(slots))}, and the config's type "
                f"`{self.settings.type}` has {', '.join(sorted(self._slots())) or 'none'}: take the old type, or start anew"
            )
        for key, value in state.items():
            name, _, slot = key.partition("|")
            parameter = self.named.get(name)
            if parameter is None:
                raise CheckpointError(
                    f"the checkpoint's optimiser `{self.name}` moves `{name}`, which the config's networks do not have"
                )
            if value.dim() == 0:
                loaded = value.clone() if slot == "step" and not self._steps_on_device() else value.to(parameter.device)
            elif value.shape == parameter.shape:
                # In the parameter's own memory format: fused optimisers walk through memory, not through indices.
                loaded = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            else:
                raise CheckpointError(
                    f"the checkpoint's optimiser `{self.name}` has {tuple(value.shape)} for `{name}`, the config {tuple(parameter.shape)}"
                )
            self.optimizer.state[parameter][slot] = loaded

    def _slots(self) -> set[str]:
        momentum = {"momentum_buffer"} if self.settings.momentum > 0 else set()
        if self.settings.type == "sgd":
            return momentum
        if self.settings.type == "rmsprop":
            return {"step", "square_avg"} | momentum
        return {"step", "exp_avg", "exp_avg_sq"}

    def _steps_on_device(self) -> bool:
        group = self.optimizer.param_groups[0]
        return bool(group.get("fused") or group.get("capturable"))
