"""What a run records of itself beside its numbers: `status.json`, `environment.json` and `log.txt`.

Nothing here imports torch at module level, and nothing knows of ranks: only the main process calls it.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

import psutil
from gantk_eval import terminal
from gantk_eval.cache import new_file_beside
from gantk_eval.errors import UserError

log = logging.getLogger(__name__)

State = Literal["running", "completed", "preempted", "interrupted", "diverged", "failed"]

PACKAGES = (
    *("gantk", "torch", "torchvision", "accelerate", "torchmetrics", "torch-fidelity", "datasets", "numpy"),
    *("scipy", "scikit-learn", "safetensors", "pillow", "pyarrow", "wandb", "tensorboard"),
)


def plain(value: Any) -> Any:
    """`value` as strict JSON can hold it: paths and unknown objects as text, NumPy and torch scalars as
    numbers, tuples and sets as lists, and numbers that are not finite as `None` (JSON has no word for
    them)."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    if hasattr(value, "tolist"):  # NumPy and torch scalars and arrays alike
        return plain(value.tolist())
    return str(value)


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` so that at every moment `path` holds either what it held before or all of `data`.

    The folder is created where it is missing. Raises `OSError`, with nothing left behind, when the disk is
    full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file, temporary = new_file_beside(path)
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


@contextmanager
def folder_whole(path: Path) -> Iterator[Path]:
    """A new folder to write files to, which stand in `path` when the block ends well, and nowhere when it does not.

    `path` is a folder that is empty or not there yet. Where it is new, it appears with all of its files at once.
    """
    new = not path.exists()
    place = path.parent if new else path
    place.mkdir(parents=True, exist_ok=True)
    part = place / f".{path.name}.{secrets.token_hex(4)}.part"
    part.mkdir()
    try:
        yield part
        if new:
            part.rename(path)
        else:
            for file in sorted(part.iterdir()):
                file.rename(path / file.name)
            part.rmdir()
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes `plain(value)` as indented UTF-8 JSON, atomically (see `write_atomic`)."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where the file is missing, unreadable or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


# -- environment.json ----------------------------------------------------------------------------------------


def environment(extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The machine, the software and the command line of this process, for `environment.json`.

    Args:
        extra: What is in force in this run (precision, device, threads, world …), laid over the rest.

    Environment variables are left out: they hold keys.
    """
    return {
        "time": _now(),
        "command": list(sys.argv),
        "folder": os.getcwd(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": _packages(),
        "git": _git(),
        "cpu": _cpu(),
        "accelerators": _accelerators(),
        **(extra or {}),
    }


def _packages() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def processor_name() -> str:
    """The CPU's model, as it calls itself."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cpu() -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "model": processor_name(),
        "logical": os.cpu_count(),
        "usable": usable,
        "memory_bytes": psutil.virtual_memory().total,
    }


def _accelerators() -> list[dict[str, Any]]:
    import torch

    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {
            "name": device.name,
            "memory_bytes": device.total_memory,
            "capability": f"{device.major}.{device.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
        for device in properties
    ]


def _git() -> dict[str, Any] | None:
    """The commit of the working tree that the command was given in, or None outside of one (or without
    git)."""

    def ask(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return answer.stdout.strip()

    try:
        commit = ask("rev-parse", "HEAD")
        changes = ask("status", "--porcelain", "--untracked-files=no")
        return {"commit": commit, "changed": bool(changes), "tree": ask("rev-parse", "--show-toplevel")}
    except (OSError, subprocess.SubprocessError):
        return None


# -- status.json ---------------------------------------------------------------------------------------------


class Status:
    """`status.json`: where the run stands, and how it ended. Launchers lose exit codes; this file does not.

    Keys: `state` (running, completed, preempted, interrupted, diverged, failed), `exit_code` (null while
        running),
    `started` and `updated` (UTC, ISO 8601), `step`, `kimg`, `resumed_from`, `message`, `verdict` (of the
    latest evaluation) and its `reasons`, `rollbacks`, `pid`, `host`. A file that cannot be written is warned of once and stops nothing: the
    run's own error is the one to be heard.
    """

    _FIELDS = ("step", "kimg", "resumed_from", "message", "verdict", "reasons", "rollbacks")

    def __init__(self, folder: Path, **fields: Any) -> None:
        """Starts `folder/status.json` anew in the state `running`; `fields` as in `update`."""
        self.path = folder / "status.json"
        self._broken = False
        now = _now()
        self._values: dict[str, Any] = {"state": "running", "exit_code": None, "started": now, "updated": now}
        self._values |= {"step": 0, "kimg": 0.0, "resumed_from": None, "message": None, "verdict": None}
        self._values |= {"reasons": None, "rollbacks": 0}
        self._values |= {"pid": os.getpid(), "host": socket.gethostname()}
        self.update(**fields)

    def update(self, **fields: Any) -> None:
        """Sets any of `step`, `kimg`, `resumed_from`, `message`, `verdict`, `reasons`, `rollbacks`, and writes the file.

        Raises:
            TypeError: on any other field.
        """
        unknown = set(fields) - set(self._FIELDS)
        if unknown:
            raise TypeError(f"status.json has no field {', '.join(sorted(unknown))}")
        self._values |= fields
        self._write()

    def finish(self, state: State, exit_code: int, message: str | None = None) -> None:
        """Writes how the run ended; without a message the last one stays.

        Raises:
            ValueError: on a state that is not one, or not an end.
        """
        if state not in get_args(State) or state == "running":
            raise ValueError(f"{state!r} is not a way for a run to end")
        self._values |= {"state": state, "exit_code": exit_code}
        if message is not None:
            self._values["message"] = message
        self._write()

    def _write(self) -> None:
        self._values["updated"] = _now()
        try:
            write_json(self.path, self._values)
        except OSError as error:
            if not self._broken:
                log.warning("Cannot write %s: %s.", self.path, error.strerror or error)
            self._broken = True


def outcome(error: BaseException | None) -> tuple[State, int]:
    """The state and the exit code that the end of a run by `error` stands for; None: it has trained to its end."""
    if error is None:
        return "completed", 0
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    code = error.exit_code if isinstance(error, UserError) else 1
    states: dict[int, State] = {5: "diverged", 75: "preempted", 130: "interrupted"}
    return states.get(code, "failed"), code


def is_running(folder: Path) -> bool:
    """Whether a process is training in `folder` now, as far as `status.json` and this machine can tell.

    A run on another host is believed when it says that it runs, unless it has said nothing for an hour.
    """
    status = read_json(folder / "status.json")
    if status is None or status.get("state") != "running":
        return False
    try:
        if status["host"] != socket.gethostname():
            return time.time() - _seconds(status["updated"]) < 3600
        # A process of the same number that began after the run did is some other program.
        return psutil.Process(status["pid"]).create_time() <= _seconds(status["started"]) + 1
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _seconds(time_stamp: str) -> float:
    return datetime.fromisoformat(time_stamp).timestamp()


# -- log.txt -------------------------------------------------------------------------------------------------


class _StderrHandler(logging.Handler):
    """The message alone, for people, above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        if any(getattr(handler, "stream", None) is sys.stderr for handler in logging.getLogger().handlers):
            return  # the program around us shows its log there already
        if not getattr(record, "on_terminal", True):
            return  # it is said there in other words
        try:
            prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            terminal.say(prefix + self.format(record))
        except Exception:
            self.handleError(record)


class _FileHandler(logging.FileHandler):
    """`log.txt`. When it cannot be written any more, that is said once, and the run goes on."""

    broken = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.broken:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is the base class's
        self.broken = True
        reason = sys.exc_info()[1]
        with suppress(OSError):
            self.close()  # it flushes what is left, and so may fail again
        log.warning("Cannot write %s any more: %s.", self.baseFilename, reason)


def open_log(folder: Path) -> logging.Handler:
    """Sends what `gantk` and `gantk_eval` log to stderr (the message) and to `folder/log.txt` (appended, with
    UTC time and level), and returns the file's handler. A log that was open before is closed: one process,
    one run."""
    close_log()
    folder.mkdir(parents=True, exist_ok=True)
    handler = _FileHandler(folder / "log.txt", encoding="utf-8")
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    for name in ("gantk", "gantk_eval"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.addHandler(_StderrHandler())
    if (lost := terminal.stderr_lost()) is not None:
        log.warning("stderr %s: what is said stands in this file alone", lost)
    return handler


def close_log() -> None:
    """Closes what `open_log` opened; does nothing where nothing is open."""
    for name in ("gantk", "gantk_eval"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if isinstance(handler, (_FileHandler, _StderrHandler)):
                logger.removeHandler(handler)
                handler.close()
