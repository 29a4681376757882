"""Reads what W&B wrote into `run-*.wandb`: LevelDB log blocks around `wandb_internal_pb2.Record`."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    id: str = ""
    project: str = ""
    name: str = ""
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    """Step metric by metric name, or by glob."""
    alerts: list[tuple[str, str]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    preempting: bool = False


def read_offline_runs(folder: Path, patience: float = 20.0) -> list[OfflineRun]:
    """The offline runs under `folder/wandb`, oldest first, when each has its exit record.

    W&B's own process closes a run's file a moment after `finish()` has returned, so it is waited for.
    """
    deadline = time.monotonic() + patience
    while True:
        paths = folder.glob("wandb/offline-run-*/run-*.wandb")
        try:
            runs = [read_run(path) for path in sorted(paths, key=lambda path: path.parent.name)]
            if all(run.exit_code is not None for run in runs) or time.monotonic() > deadline:
                return runs
        except (AssertionError, struct.error):  # a block that is only half there
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def read_run(path: Path) -> OfflineRun:
    from wandb.proto import wandb_internal_pb2

    run = OfflineRun()
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.project, run.name = record.run.run_id, record.run.project, record.run.display_name
            run.config |= _items(record.run.config.update)
        elif kind == "history":
            run.history.append(_items(record.history.item))
        elif kind == "summary":
            run.summary |= _items(record.summary.update)
        elif kind == "metric":
            run.metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "alert":
            run.alerts.append((record.alert.title, record.alert.text))
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
        elif kind == "files":
            run.files += [file.path for file in record.files.files]
        elif kind == "preempting":
            run.preempting = True
    return run


def records(data: bytes) -> Iterator[bytes]:
    """The records of the file; raises AssertionError where its framing is broken."""
    assert data[:4] == b":W&B"
    place, parts = 7, b""
    while place < len(data):
        left = BLOCK - place % BLOCK
        if left < 7:  # too little for a header: padded with zeros
            place += left
            continue
        checksum, length, kind = struct.unpack("<IHB", data[place : place + 7])
        payload = data[place + 7 : place + 7 + length]
        assert len(payload) == length
        assert zlib.crc32(payload, zlib.crc32(bytes([kind]))) == checksum
        parts = payload if kind in (FULL, FIRST) else parts + payload
        if kind in (FULL, LAST):
            yield parts
        place += 7 + length


def _items(items: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        *parents, last = list(item.nested_key) or [item.key]
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = json.loads(item.value_json)
    return values
