"""A training that was interrupted resumes where it was last kept, and ends with the same bits as one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gantk_eval.cache import pack, read_arrays, write_bytes

__all__ = ["KeptTraining"]

EVERY = 50
"""Steps between two writes: seconds of work that an interruption loses at most."""
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class KeptTraining:
    """The state of a training in a file beside its result: network, AdamW's moments, schedule, random numbers and order.

    `file`: where it is kept, under a name that says all that the result depends on; None: nowhere. A file that cannot be
    written, or is damaged, costs the work that it holds and nothing else.
    """

    def __init__(self, file: Path | None, network: Any, optimizer: Any, schedule: Any, generator: Any) -> None:
        self._file, self._network, self._optimizer = file, network, optimizer
        self._schedule, self._generator = schedule, generator

    def resume(self) -> tuple[int, Any]:
        """Restore what was kept: the steps done, and what is left of the epoch's order (int64 [n]); 0 and empty without."""
        import torch

        nothing = torch.empty(0, dtype=torch.int64)
        found = None if self._file is None else read_arrays(self._file)
        if found is None:
            return 0, nothing
        parameters = self._optimizer.param_groups[0]["params"]
        try:
            done, order, rate = int(found["done"]), torch.from_numpy(found["order"]), float(found["rate"])
            generator = torch.from_numpy(found["generator"])
            network = {k.removeprefix("net."): torch.from_numpy(v) for k, v in found.items() if k.startswith("net.")}
            moments = [
                {key: torch.from_numpy(found[f"{place}.{key}"]) for key in _MOMENTS} for place in range(len(parameters))
            ]
            self._network.load_state_dict(network)
        except (KeyError, ValueError, RuntimeError, TypeError):
            return 0, nothing
        for parameter, values in zip(parameters, moments, strict=True):
            # In the parameter's own memory format, or the next step's last bits might differ.
            self._optimizer.state[parameter] = {
                key: value if key == "step" else torch.empty_like(parameter).copy_(value)
                for key, value in values.items()
            }
        self._generator.set_state(generator)
        self._schedule.load_state_dict({"last_epoch": done, "_step_count": done + 1, "_last_lr": [rate]})
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        return done, order

    def keep(self, done: int, order: Any) -> None:
        """Write the state after `done` steps, where it is time to."""
        if self._file is None or done % EVERY:
            return
        arrays = {f"net.{name}": value.cpu().numpy() for name, value in self._network.state_dict().items()}
        for place, parameter in enumerate(self._optimizer.param_groups[0]["params"]):
            for key in _MOMENTS:
                arrays[f"{place}.{key}"] = self._optimizer.state[parameter][key].cpu().numpy()
        arrays |= {"done": np.int64(done), "order": order.numpy(), "generator": self._generator.get_state().numpy()}
        arrays["rate"] = np.float64(self._optimizer.param_groups[0]["lr"])
        write_bytes(self._file, pack(arrays))
