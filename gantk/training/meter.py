"""Means of what a step reports, kept on the device until somebody reads them."""

from __future__ import annotations

import torch
from torch import Tensor

from gantk.runtime import Runtime


class Meter:
    """Sums and counts of scalars by name. Adding never waits for the device; `read` does, once."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, value: Tensor) -> None:
        value = value.detach().float()
        # A copy: the tensor may be a game's own state, which goes on to change.
        self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        self._counts[name] = self._counts.get(name, 0) + 1

    def read(self, runtime: Runtime) -> dict[str, float]:
        """The means over the interval and over all processes; then starts anew. Every process must call it."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        means = torch.stack([self._sums[name] / self._counts[name] for name in names])
        values = (runtime.sum(means) / runtime.world_size).tolist()
        self._sums, self._counts = {}, {}
        return dict(zip(names, values, strict=True))

    def state(self, runtime: Runtime) -> dict[str, Tensor]:
        """Return what has been added since the last reading, for a checkpoint: name to [processes, 2], each one's sum and count.

        Every process must call it.
        """
        if not self._sums:
            return {}
        names = sorted(self._sums)
        sums = runtime.gather(torch.stack([self._sums[name] for name in names])[None])
        return {
            name: torch.stack([sums[:, place], torch.full_like(sums[:, place], self._counts[name])], 1)
            for place, name in enumerate(names)
        }

    def load_state(self, state: dict[str, Tensor], runtime: Runtime) -> None:
        """Resume with this process's own sums, so that the means are the same to the last bit; with another number of
        processes than before, with the mean of all.
        """
        for name, value in state.items():
            rows = value.reshape(-1, 2)
            total, count = rows[runtime.rank] if len(rows) == runtime.world_size else rows.mean(0)
            self._sums[name] = total.to(runtime.device)
            self._counts[name] = int(count)
