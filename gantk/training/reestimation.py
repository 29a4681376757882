"""Batch-norm statistics of averaged networks, estimated anew before somebody looks at them or keeps them.

In each step an average takes over the statistics of the network that is trained. They describe that network's activations
and not the average's, whose weights are others (Izmailov et al. 2018, section 3, for averages in general). So the averages
are run, with batch norm as in training and all else as in evaluation, on fixed draws by address: the same statistics
whenever, and however often, they are asked for. They are means over the batches of all processes, each as large as one of
training's, and so equal on all processes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gantk.draws import Draws, key_of, torch_seeded

if TYPE_CHECKING:
    from gantk.objectives import Batch
    from gantk.training.trainer import Trainer

log = logging.getLogger("gantk")

ROWS = 1024
"""Samples at least, over all processes together."""


def with_statistics(network: nn.Module) -> list[Any]:
    """The layers of a network that keep running statistics: PyTorch's batch norms, and what is built like them."""
    names = ("running_mean", "running_var")
    return [
        layer
        for layer in network.modules()
        if hasattr(layer, "momentum") and all(isinstance(getattr(layer, name, None), Tensor) for name in names)
    ]


class Reestimation:
    """Statistics of a trainer's averages, which are estimated at most once a step, and never where none are kept."""

    def __init__(self) -> None:
        self._step: int | None = None
        """The step after which they were estimated last."""
        self._warned = False

    @torch.no_grad()
    def refresh(self, trainer: Trainer) -> None:
        """Have the averages' statistics describe them; every process must call it.

        Without averaging (`train.ema_half_life_kimg: 0`) they are the trained network's own, and stay so.
        """
        if self._step == trainer.step or not trainer.averaged.half_life:
            return
        self._step = trainer.step
        layers = {
            name: found for name, network in trainer.averaged.networks.items() if (found := with_statistics(network))
        }
        if not layers:
            return
        every = [layer for found in layers.values() for layer in found]
        with _as_estimated(trainer, every) as calls:
            for z, labels, real in _draws(trainer):
                trainer.objective.run_averages(trainer.sampler.networks, z, labels, real)
        ran = [layer for layer in every if layer in calls]
        trainer.runtime.average([value for layer in ran for value in (layer.running_mean, layer.running_var)])
        left_out = [name for name, found in layers.items() if not any(layer in calls for layer in found)]
        if left_out and not self._warned and trainer.runtime.is_main:
            self._warned = True
            log.warning(
                "the average of network `%s` has batch norm and `Objective.run_averages` does not run it: its statistics "
                "stay those of the network that is trained",
                "`, `".join(left_out),
            )


def _draws(trainer: Trainer) -> Iterator[tuple[Tensor, Tensor | None, Callable[[], Batch]]]:
    """This process's share of the fixed draws: z, classes with their shares of the data, and real images on demand."""
    batches, sampler, runtime = trainer.batches, trainer.sampler, trainer.runtime
    size, world, shares = batches.size, runtime.world_size, sampler.shape.class_shares
    for number in range(math.ceil(ROWS / (size * world))):
        start = (number * world + runtime.rank) * size
        rows = torch.arange(start, start + size)
        index = rows.to(runtime.device)

        def draws(what: str, index: Tensor = index) -> Draws:
            return Draws(key_of(trainer.config.seed, "statistics", what), index, runtime.dtype)

        def real(rows: Tensor = rows) -> Batch:
            return batches.at_start(rows, ("statistics",))

        labels = draws("label").categorical(torch.tensor(shares)) if sampler.conditional and shares else None
        yield trainer.objective.latent(draws("z")), labels, real


@contextmanager
def _as_estimated(trainer: Trainer, layers: list[Any]) -> Iterator[dict[Any, int]]:
    """Layers in training mode with means over all their passes, all else in evaluation mode; gives the number of passes.

    PyTorch's random state is what it was afterwards, and so are statistics that have not become finite ones.
    """
    calls: dict[Any, int] = {}
    modules = [module for network in trainer.sampler.networks.values() for module in network.modules()]
    modes = [module.training for module in modules]
    before = [(layer.momentum, {name: value.clone() for name, value in layer.named_buffers()}) for layer in layers]

    def count(layer: Any, _: object) -> None:
        if layer not in calls:
            # Nothing of the old stays, were it infinite.
            layer.running_mean.zero_()
            layer.running_var.zero_()
        calls[layer] = calls.get(layer, 0) + 1
        layer.momentum = 1 / calls[layer]

    hooks = [layer.register_forward_pre_hook(count) for layer in layers]
    device = trainer.runtime.device
    try:
        for module in modules:
            module.training = False
        for layer in layers:
            layer.training = True
        with torch_seeded(trainer.config.seed, device), torch.autocast(device.type, enabled=False):
            yield calls
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for layer, (momentum, buffers) in zip(layers, before, strict=True):
            layer.momentum = momentum
            finite = layer.running_mean.isfinite().all() & layer.running_var.isfinite().all()
            for name, value in layer.named_buffers():
                estimated = layer in calls and name in ("running_mean", "running_var")
                value.copy_(torch.where(finite, value, buffers[name]) if estimated else buffers[name])
