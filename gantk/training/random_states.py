"""PyTorch's own random state on each process, for dropout and what else draws from it, in and out of checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor

from gantk.runtime import Runtime
from gantk.training.checkpoint import Checkpoint


def _stem(rank: int) -> str:
    return f"rng-{rank:05d}"


def gather_random_states(runtime: Runtime) -> dict[str, dict[str, Tensor]]:
    """For each process's file its states; every process must call it."""
    states = {"cpu": torch.get_rng_state()}
    if runtime.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(runtime.device)
    gathered: dict[str, dict[str, Tensor]] = {_stem(rank): {} for rank in range(runtime.world_size)}
    for kind, state in states.items():
        rows = runtime.gather(state[None].to(runtime.device)).cpu()
        for rank, row in enumerate(rows):
            gathered[_stem(rank)][kind] = row
    return gathered


def load_random_state(runtime: Runtime, start: Checkpoint) -> None:
    """This process's, where the checkpoint has one: with more processes than before, the new ones keep their seeds."""
    if not start.has(_stem(runtime.rank)):
        return
    states = start.tensors(_stem(runtime.rank))
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and runtime.device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], runtime.device)
