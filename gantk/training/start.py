"""Where a run begins: anew, or at a checkpoint that fits its config."""

from __future__ import annotations

import logging
from pathlib import Path

from gantk.config import Config, differences, load_config
from gantk.config.loading import indivisible
from gantk.errors import CheckpointError, ConfigError
from gantk.runs import find_checkpoint, newest_whole
from gantk.runtime import Runtime
from gantk.training.checkpoint import Checkpoint, recover
from gantk.training.run_lock import RunLock

log = logging.getLogger("gantk")

# What may differ between a checkpoint and the config that goes on from it. What changes the last bits of the weights
# (threads, device, number of processes) is announced when the checkpoint is loaded.
_MAY_CHANGE = (
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


def check_batch(config: Config, runtime: Runtime) -> None:
    """Raises `ConfigError` for a batch that cannot be cut for the processes there are."""
    if problem := indivisible(config, runtime.world_size):
        raise ConfigError(problem)


def take_lock(folder: Path, runtime: Runtime) -> RunLock:
    """The run's lock, held by the main process.

    Raises:
        ConfigError: on all processes, where another trainer has it, or the folder cannot be written.
    """
    lock = RunLock(folder)
    try:
        held = lock.acquire() if runtime.is_main else None
    except OSError as error:
        held = f"cannot write to the run's folder {folder}: {error.strerror}; mend that, or set $GANTK_RUNS to another place"
    if runtime.max(int(held is not None)):
        raise ConfigError(held or f"run {folder} is being trained by another process")
    return lock


def find_start(config: Config, runtime: Runtime, resume: str, allow_changes: bool) -> Checkpoint | None:
    """The checkpoint to go on from, if any. Nothing is written before this is known.

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
        return None
    start = _newest(config) if resume == "auto" else find_checkpoint(resume).checkpoint
    if start is not None:
        _refuse_changes(config, start, allow_changes)
    return start


def _newest(config: Config) -> Checkpoint | None:
    newest, problems = newest_whole(config.run_folder)
    if problems and newest is None:
        # Starting anew would overwrite what is left of the run.
        raise CheckpointError(
            f"run {config.run_folder} has no whole checkpoint ({problems[0]}): give another `--name`, or delete the run's folder"
        )
    for problem in problems:
        log.warning(problem)
    return newest


def _refuse_changes(config: Config, start: Checkpoint, allow: bool) -> None:
    changes = [d for d in differences(load_config(start.config_file), config) if not d.startswith(_MAY_CHANGE)]
    if changes and not allow:
        raise CheckpointError(
            f"the config differs from that of {start.folder} ({'; '.join(changes)}): take the old values, start anew with "
            "another `--name`, or pass `--allow-changes`"
        )
    for change in changes:
        log.warning("resuming with a changed config: %s", change)
