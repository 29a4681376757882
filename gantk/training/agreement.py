"""Checks that all processes hold the same networks, averages and state of the objective: a checkpoint keeps one of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gantk.errors import CheckpointError

if TYPE_CHECKING:
    from gantk.training.trainer import Trainer

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def checksum(values: Tensor) -> Tensor:
    """An int64 scalar, on the device, of the bits of `values` and their places; not 0 but for bits that are all 0."""
    flat = values.detach().contiguous().flatten()
    bits = flat.view(_INTEGERS.get(flat.element_size(), torch.int64)).to(torch.int64)
    # Sums of integers wrap around and depend on no order; odd weights let no single change pass.
    return (bits * torch.arange(1, 2 * len(bits) + 1, 2, device=bits.device)).sum()


def _held(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer that is to be the same on all processes, with what it is called."""
    modules: dict[str, nn.Module] = {f"of network `{name}`": network for name, network in trainer.runner.bare.items()}
    modules |= {f"of the average of network `{name}`": average for name, average in trainer.averaged.networks.items()}
    modules["of the objective"] = trainer.objective
    for place, module in modules.items():
        for kind, named in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
            yield from ((f"{kind} `{name}` {place}", value) for name, value in named if value.numel())


def check_agreement(trainer: Trainer) -> None:
    """Compare what the processes hold, with one collective; every process must call it.

    Raises:
        CheckpointError: on all of them, naming what differs, and where.
    """
    if trainer.runtime.world_size == 1:
        return
    held = dict(_held(trainer))
    sums = trainer.runtime.gather(torch.stack([checksum(value) for value in held.values()])[None]).cpu()
    differs = sums != sums[0]
    if not differs.any():
        return
    names = [name for name, other in zip(held, differs.any(0).tolist(), strict=True) if other]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    where = ", ".join(str(rank) for rank, other in enumerate(differs.any(1).tolist()) if other)
    raise CheckpointError(
        f"after step {trainer.step} the processes do not hold the same {', '.join(names[:3])}{more} (process {where} "
        "differs from process 0), and a checkpoint keeps one of them: floating-point buffers are averaged over processes once "
        "a step; compute all others from what every process has, as `gantk.runtime.gather_with_gradient` gives it"
    )
