"""Collectives through which gradients flow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gantk.errors import ConfigError

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Within it `gather_with_gradient` gives this process's own rows, as in a run of one process.

    For grids, evaluations and whatever else runs networks on one process, or on another number of batches on each: a
    network that gathers would wait for the others for ever.
    """
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


class NoCollectives(TorchDispatchMode):
    """Within it a collective raises ConfigError, naming itself, before it waits for other processes."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            raise ConfigError(
                f"a network of the objective calls torch.distributed ({func}) in its forward pass, and would wait for ever where "
                "it runs on one process alone, as for grids and evaluations: gather with `gantk.runtime.gather_with_gradient`, "
                "which then gives that process's own rows"
            )
        return func(*args, **(kwargs or {}))


def gather_with_gradient(rows: Tensor) -> Tensor:
    """[N, …] of each process to [world · N, …], through which gradients flow back to every process.

    For losses on batch statistics: each process computes the whole batch's loss, and the average that DDP takes of the
    gradients is then the gradient of that loss. Where a network gathers in its own forward pass, it has this process's rows
    alone when samples are drawn and discriminators are looked at (`alone`).
    """
    if _ALONE.get() or not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


class _Gather(torch.autograd.Function):
    """Concatenate every process's rows; the gradient of a row is the sum of what all processes send back for it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        own: Tensor = _SumOfOwnRows.apply(gradient)
        return own


class _SumOfOwnRows(torch.autograd.Function):
    """The adjoint of `_Gather`: sum [world · N, …] over processes, and keep this process's N rows."""

    @staticmethod
    def forward(ctx: Any, gathered: Tensor) -> Tensor:
        # A copy: what autograd hands over must not be changed.
        total = gathered.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gathered: Tensor = _Gather.apply(gradient)
        return gathered
