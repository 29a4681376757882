"""What a checkpoint holds of a run: taken from a trainer, and given back to one."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gantk.errors import CheckpointError
from gantk.training import checkpoint as checkpoints
from gantk.training.checkpoint import Checkpoint
from gantk.training.random_states import gather_random_states, load_random_state

if TYPE_CHECKING:
    from gantk.data import Dataset
    from gantk.training.trainer import Trainer

log = logging.getLogger("gantk")


def take(trainer: Trainer) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Copies in host memory for each file's stem, by name (on the main process), and `state.json`.

    Every process must call it, for some of it is gathered.
    """
    runner = trainer.runner
    tensors = {**gather_random_states(trainer.runtime), "meter": runner.meter.state(trainer.runtime)}
    for name, module in runner.bare.items():
        tensors[name] = module.state_dict()
    for name, module in trainer.averaged.networks.items():
        tensors[f"{name}.ema"] = module.state_dict()
    for player in runner.players.values():
        tensors[f"optimizer.{player.name}"] = player.state()
    tensors["objective"] = trainer.objective.state_dict()
    if trainer.adaptation.meter is not None:
        tensors["adaptation"] = trainer.adaptation.meter.state(trainer.runtime)
    scaler = trainer.runtime.accelerator.scaler
    state = {
        "step": trainer.step,
        "images": trainer.images,
        "cursor": trainer.batches.cursor,
        "best": trainer.best,
        "collapse": trainer.guard.state(),
        "monitor": trainer.monitor.state(),
        "evaluation_due": trainer.evaluation_due,
        "skipped": dict(runner.watch.skipped),
        "scaler_skipped": runner.watch.scaler_state() if runner.scaled else {},
        "shape": trainer.sampler.shape.to_json(),
        "data_sha256": {name: data.sha256 for name, data in _datasets(trainer).items()},
        "data_identity": {name: data.identity for name, data in _datasets(trainer).items()},
        "data": trainer.dataset.description,
        "plugins": [plugin.record() for plugin in trainer.plugins],
        "in_force": dict(trainer.runtime.describe()),
        "gradient_scaler": None if scaler is None else scaler.state_dict(),
    }
    if not trainer.runtime.is_main:
        return {}, state
    # `copy`: training goes on to change what is in host memory already.
    copies = {
        stem: {name: value.detach().to("cpu", copy=True) for name, value in values.items()}
        for stem, values in tensors.items()
    }
    return copies, state


def restore(trainer: Trainer, start: Checkpoint, allow_changes: bool) -> None:
    """Bring a trainer to where the checkpoint `start` was taken.

    Raises:
        CheckpointError: where it is of other networks, optimisers, or (unless `allow_changes`) images.
    """
    state, runner, runtime = start.state, trainer.runner, trainer.runtime
    datasets = _datasets(trainer)
    if state["data_sha256"].keys() != datasets.keys() or not all(d.is_that_of(state, n) for n, d in datasets.items()):
        if not allow_changes:
            raise CheckpointError(
                f"the training images are not those of {start.folder} (then: {state.get('data', 'not recorded')}; now: "
                f"{trainer.dataset.description}): take the old ones, start anew with another `--name`, or pass `--allow-changes`"
            )
        log.warning("resuming with other training images than those of %s", start.folder)
    restore_players(trainer, start)
    trainer.guard.load_state(state.get("collapse", {}))
    trainer.guard.apply_rates(trainer)
    trainer.monitor.load_state(state.get("monitor", {}))
    runner.meter.load_state(start.tensors("meter"), runtime)
    if trainer.adaptation.meter is not None and start.has("adaptation"):
        trainer.adaptation.meter.load_state(start.tensors("adaptation"), runtime)
    trainer.step, trainer.images, trainer.batches.cursor = start.step, int(state["images"]), int(state["cursor"])
    runner.watch.skipped.update(state.get("skipped", {}))
    runner.watch.load_scaler_state(state.get("scaler_skipped", {}))
    trainer.evaluation_due = bool(state.get("evaluation_due"))
    if state["best"] and runtime.max(int(runtime.is_main and _has_best(trainer, start))):
        trainer.best = (str(state["best"][0]), float(state["best"][1]))
    else:
        trainer.guard.best_verdict = None
    if state["gradient_scaler"] and runtime.accelerator.scaler is not None:
        runtime.accelerator.scaler.load_state_dict(state["gradient_scaler"])
    load_random_state(runtime, start)
    was, now = state["in_force"], json.loads(json.dumps(dict(runtime.describe())))
    for key in sorted(was.keys() | now.keys()):
        if was.get(key) != now.get(key):
            before = was.get(key, "not recorded")
            log.warning(
                "%s was %s and is %s: the run goes on, but not bit for bit as it would have", key, before, now.get(key)
            )


def restore_players(trainer: Trainer, start: Checkpoint) -> None:
    """Give the networks, their averages, the optimisers and the objective the state that they have in `start`.

    Raises:
        CheckpointError: where it is of other networks or optimisers.
    """
    for name, module in trainer.runner.bare.items():
        start.load_network(name, module)
    for name, module in trainer.averaged.networks.items():
        start.load_network(f"{name}.ema", module)
    for player in trainer.runner.players.values():
        player.load_state(start.tensors(f"optimizer.{player.name}"))
    start.load_network("objective", trainer.objective)


def _datasets(trainer: Trainer) -> dict[str, Dataset]:
    return {"": trainer.dataset, **trainer.extra}


def _has_best(trainer: Trainer, start: Checkpoint) -> bool:
    """Whether the best so far stays marked in this run: it is not another run's, nor from after `start`."""
    best = checkpoints.read_best(trainer.folder / "checkpoints")
    return best is not None and int(best["checkpoint"].removeprefix("step-")) <= start.step
