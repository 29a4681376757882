"""One trainer in a run's folder at a time, on this machine and on others that share the disk."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gantk.records import read_json, write_json

BEAT_SECONDS = 10.0
"""How often a trainer shows other machines that it lives."""
LONG_AGO_SECONDS = 600.0
"""After so long without a beat nobody waits to see another, whatever the machines' clocks say."""
log = logging.getLogger("gantk")


class RunLock:
    """The right to train in a run's folder.

    On one machine the kernel keeps it, and gives it back when its holder dies, however that was. A holder on another
    machine, whose disk may not pass locks on, is known by `lock.json`, which it touches every few seconds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: FileLock | None = None
        self._over = threading.Event()
        # A trainer that nobody ended: its lock goes with it, and so must the beat.
        weakref.finalize(self, self._over.set)

    def acquire(self) -> str | None:
        """Take it.

        Returns:
            A sentence on who has it, where it could not be taken.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return self._held_by(read_json(self._record))
        except NotImplementedError:
            log.debug("%s is on a disk without locks", self.folder)
        holder = read_json(self._record)
        if holder is not None and holder.get("host") != socket.gethostname() and self._beats(holder):
            lock.release()
            return self._held_by(holder)
        if holder is not None:
            log.warning(
                "taking over %s from process %s, which died on %s", self.folder, holder.get("pid"), holder.get("host")
            )
        write_json(self._record, {"host": socket.gethostname(), "pid": os.getpid()})
        self._lock = lock
        self._over.clear()
        threading.Thread(target=_beat, args=(self._record, self._over), name="run-lock", daemon=True).start()
        return None

    def look(self) -> str | None:
        """A sentence on who has it now, without taking it or waiting; None where nobody does."""
        if not (self.folder / ".lock").exists():
            return None
        lock, holder = FileLock(self.folder / ".lock"), read_json(self._record)
        try:
            with lock.acquire(timeout=0):
                elsewhere = holder is not None and holder.get("host") != socket.gethostname()
                touched = _touched(self._record) or 0
                return self._held_by(holder) if elsewhere and time.time() - touched / 1e9 < 3 * BEAT_SECONDS else None
        except Timeout:
            return self._held_by(holder)
        except NotImplementedError:
            return None

    def release(self) -> None:
        """Give it back; does nothing where it is not held."""
        if self._lock is None:
            return
        self._over.set()
        with contextlib.suppress(OSError):
            self._record.unlink()
        self._lock.release()
        self._lock = None

    @property
    def _record(self) -> Path:
        return self.folder / "lock.json"

    def _beats(self, holder: dict[str, Any]) -> bool:
        """Whether the holder on another machine lives, judged by its touches alone, for clocks differ."""
        before = _touched(self._record)
        if before is None or time.time() - before / 1e9 > LONG_AGO_SECONDS:
            return False
        log.warning("%s: looking whether it lives", self._held_by(holder).partition(":")[0])
        end = time.monotonic() + 2.5 * BEAT_SECONDS
        while time.monotonic() < end:
            time.sleep(BEAT_SECONDS / 10)
            now = _touched(self._record)
            if now != before:
                # Touched: it lives. Gone: it has just ended.
                return now is not None
        return False

    def _held_by(self, holder: dict[str, Any] | None) -> str:
        who = f" (process {holder.get('pid')} on {holder.get('host')})" if holder else ""
        return f"run {self.folder} is being trained by another process{who}: wait, stop it, or give another `--name`"


def _touched(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _beat(path: Path, over: threading.Event) -> None:
    while not over.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
