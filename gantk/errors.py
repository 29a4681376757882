"""Every way in which a command can end other than well, with the exit code it is documented to have."""

from __future__ import annotations

import errno

from gantk_eval.errors import DataError, UserError, WeightsError

__all__ = [
    "CheckpointError",
    "CollapseError",
    "ConfigError",
    "DataError",
    "DivergedError",
    "InterruptedRunError",
    "PeerLostError",
    "PreemptedError",
    "UserError",
    "WeightsError",
    "full_disk",
]


class ConfigError(UserError):
    """The config, or the command line, asks for something that cannot be."""

    exit_code = 2


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or does not fit the config."""

    exit_code = 4


class DivergedError(UserError):
    """A loss or a gradient is no longer a finite number."""

    exit_code = 5


class CollapseError(UserError):
    """The verdict is `collapsed`, and the caller asked to fail on it."""

    exit_code = 6


class PeerLostError(UserError):
    """Another process of the run has died."""

    exit_code = 1


class PreemptedError(UserError):
    """The run was asked to stop by its scheduler; its checkpoint is written."""

    exit_code = 75


class InterruptedRunError(UserError):
    """The run was interrupted by its user; its checkpoint is written."""

    exit_code = 130


def full_disk(error: BaseException, where: str) -> DataError | None:
    """The sentence for an error that says that there is no room on a disk; None for any other.

    Args:
        error: what was raised.
        where: what was written to, with its preposition, in case the error does not name a file.
    """
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    return DataError(
        f"cannot write {error.filename or where}: {error.strerror}; make room, and give the same command again"
    )
