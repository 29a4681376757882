"""Where a run begins: anew, or at a checkpoint that fits its config."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gantk.config import Config, differences, load_config
from gantk.config.loading import indivisible, keys_left_out, read_yaml, with_ends
from gantk.data.places import check_places, moved, with_absolute_paths
from gantk.errors import CheckpointError, ConfigError, DataError, UserError
from gantk.objectives import Objective
from gantk.plugins import changes as changed_plugins
from gantk.plugins import read_plugins
from gantk.runs import find_checkpoint, newest_whole
from gantk.runtime import Runtime
from gantk.training.checkpoint import Checkpoint, recover
from gantk.training.run_lock import RunLock

if TYPE_CHECKING:
    from gantk.data import Dataset
    from gantk.training.trainer import Trainer

# What may differ between a checkpoint and the config that goes on from it. What changes the last bits of the weights
# (threads, device, number of processes) is announced when the checkpoint is loaded.
MAY_CHANGE = (
    *("train.kimg", "train.log_every_kimg", "train.threads", "train.device", "train.world_size", "train.compile"),
    *("train.on_nonfinite", "train.max_skipped"),
    *(
        "data.storage",
        "data.on_bad_image",
        "data.max_bad_images",
        "checkpoint.",
        "samples.",
        "evaluate.",
        "collapse.",
        "tracking.",
        "name",
    ),
)

_DECIDES = ("train.log_every_kimg", "evaluate.", "collapse.")
_ACTS = "resuming with other evaluations or looks at the samples, which `collapse.action` acts on:"


def check_batch(config: Config, runtime: Runtime) -> None:
    """Raises `ConfigError` for a batch that cannot be cut for the processes there are."""
    if problem := indivisible(config, runtime.world_size):
        raise ConfigError(problem)


def check_images(config: Config, name: str, dataset: Dataset, main: Dataset) -> None:
    """Raises `DataError` where the source `name` has too few images for a batch, or other channels than the main one."""
    if len(dataset.train) < config.train.batch_size:
        raise DataError(
            f"there are {len(dataset.train)} training images, fewer than `train.batch_size: {config.train.batch_size}`: "
            "lower it, or add images"
        )
    if dataset.channels != main.channels:
        raise DataError(
            f"the images of {name} have {dataset.channels} channels, and those of data {main.channels}, and networks are made "
            f"for one number: set `data.channels` and `{name}.channels` to the same, 1 or 3"
        )


def take_lock(folder: Path, runtime: Runtime) -> RunLock:
    """The run's lock, held by the main process.

    Raises:
        ConfigError: on all processes, where another trainer has it, or the folder cannot be written.
    """
    lock = RunLock(folder)
    try:
        held = lock.acquire() if runtime.is_main else None
    except OSError as error:
        held = f"cannot write to the run's folder {folder}: {error.strerror}; repair that, or set $GANTK_RUNS to another place"
    if runtime.max(int(held is not None)):
        raise ConfigError(held or f"run {folder} is being trained by another process")
    return lock


@torch.no_grad()
def set_up(trainer: Trainer) -> None:
    """Let the objective look at the first global batch of a new run; then all processes have the main one's networks,
    state and averages, whatever was initialised from data or drawn at random.
    """
    objective, config = trainer.objective, trainer.config
    if type(objective).setup is not Objective.setup:
        objective.setup(trainer.batches.at_start(torch.arange(config.train.batch_size), (0, "setup", 0)))
    trainer.runtime.broadcast([*trainer.runner.bare.values(), objective])
    trainer.averaged.restart(trainer.runner.bare)


def settle_places(config: Config, resume: str) -> Config:
    """The config with absolute paths to its data, found before anything is written.

    Raises:
        DataError: for a new run, where there is nothing at one of them.
    """
    record = config.run_folder / "config.yaml"
    if resume not in ("auto", "never"):
        with suppress(UserError):
            record = find_checkpoint(resume).checkpoint.config_file
    if not record.is_file():
        check_places(config)
        return with_absolute_paths(config)
    recorded: dict[str, Any] = {}
    with suppress(UserError):
        recorded = read_yaml(record)
    return with_absolute_paths(config, recorded)


def find_start(
    config: Config, runtime: Runtime, resume: str, allow_changes: bool
) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to go on from, if any, and what is to be said about it in the log.

    Nothing is written before this is known.

    Raises:
        ConfigError: for a run that is there and must not be.
        CheckpointError: for one that is damaged, or of another config (unless `allow_changes`).
    """
    folder = config.run_folder
    if runtime.is_main:
        recover(folder / "checkpoints")
    runtime.barrier()
    if resume == "never":
        if (folder / "config.yaml").is_file():
            raise ConfigError(f"run {folder} is there already: give another `--name`, or go on with `--resume auto`")
        return None, []
    start, told = _newest(config) if resume == "auto" else (find_checkpoint(resume).checkpoint, [])
    if start is not None:
        told = [*told, *_changes(config, start, allow_changes)]
    return start, told


def _newest(config: Config) -> tuple[Checkpoint | None, list[str]]:
    newest, problems = newest_whole(config.run_folder)
    if problems and newest is None:
        # Starting anew would overwrite what is left of the run.
        raise CheckpointError(
            f"run {config.run_folder} has no whole checkpoint ({problems[0]}): give another `--name`, or delete the run's folder"
        )
    return newest, problems


def _changes(config: Config, start: Checkpoint, allow: bool) -> list[str]:
    """What differs from the checkpoint's config, in sentences; raises CheckpointError unless they are allowed."""
    # With the plugins that the run has now.
    before, told = moved(load_config(start.config_file, plugins_imported=True), config)
    # A schedule without an end of its own ends with the training, so that a longer training has other rates.
    every = differences(with_ends(before), with_ends(config))
    changes = [d for d in every if not d.startswith(MAY_CHANGE)]
    if config.collapse.action != "warn":
        told = [*told, *(f"{_ACTS} {d}" for d in every if d.startswith(_DECIDES))]
    records = start.state.get("plugins")
    if records is not None:
        # Their text counts, and not where it is.
        changes = [d for d in changes if not d.startswith("plugins:")]
        changes += changed_plugins(records, read_plugins(config.plugins))
    elif config.plugins:
        told = [*told, f"{start.folder} has no record of its plugins: whether they have changed since is not known"]
    if changes and not allow:
        follows = (
            f"; a schedule without `end_kimg` ends at `train.kimg`, which was {before.train.kimg:g} and is now "
            f"{config.train.kimg:g}: give it the `end_kimg` that it had"
            if any("schedule.end_kimg:" in change for change in changes) and before.train.kimg != config.train.kimg
            else ""
        )
        raise CheckpointError(
            f"the config differs from that of {start.folder} ({'; '.join(changes)}{follows}): take the old values"
            f"{_old_text(changes, start)}, start anew with another `--name`, or pass `--allow-changes`"
        )
    changed = {change.partition(":")[0] for change in changes}
    told += [f"resuming with a changed config: {change}" for change in changes]
    return told + [
        f"the config of {start.folder} is of another version, and has no `{key}`, which is {value} now: the run goes on, "
        "but perhaps not as it would have"
        for key, value in keys_left_out(start.config_file).items()
        if key not in changed and not key.startswith(MAY_CHANGE)
    ]


def _old_text(changes: list[str], start: Checkpoint) -> str:
    """The place of the old text of a plugin, if one has changed."""
    if not any(change.startswith("plugin ") for change in changes):
        return ""
    return f" (the old text of a plugin is {start.folder / 'plugin.NAME.py'})"
