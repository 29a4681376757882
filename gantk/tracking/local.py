"""`metrics.jsonl`: one JSON object a line, always written, whatever else is."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gantk.errors import DataError
from gantk.records import plain, write_atomic

KIMG = "progress/kimg"
"""The x axis, in each row: thousands of real images seen."""
_HALF_AN_IMAGE = 0.0005


class MetricsFile:
    """`metrics.jsonl`, open for appending. Each row is one write, so that a kill leaves at most one broken
    line."""

    def __init__(self, folder: Path, *, keep_kimg: float | None, scores_due: bool = False) -> None:
        """Opens `folder/metrics.jsonl`.

        Args:
            folder: The run folder; created where it is missing.
            keep_kimg: Rows beyond so many kimg, and lines that a kill left half-written, are dropped first,
                atomically. None: the file starts empty. `math.inf`: nothing is dropped, not even a broken
                line, so that another process may be appending too.
            scores_due: Scores of training at `keep_kimg` itself are dropped, too.

        Raises:
            DataError: where the file cannot be written.
        """
        self.path = folder / "metrics.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if keep_kimg is None:
                self.path.unlink(missing_ok=True)
            elif not math.isinf(keep_kimg):
                _keep(self.path, keep_kimg, scores_due)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - open for as long as the run
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def append(self, kimg: float, values: Mapping[str, Any]) -> None:
        """Writes the row `{"progress/kimg": kimg, **values}`. Numbers that are not finite are written as
        null.

        Raises:
            DataError: where the disk is full; the file is left without a part of the row.
        """
        line = json.dumps(plain({KIMG: kimg, **values}), ensure_ascii=False, allow_nan=False).encode() + b"\n"
        before = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):  # an unbuffered file may take a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), before)
            raise _cannot_write(self.path, error) from error

    def close(self) -> None:
        self._file.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of `folder/metrics.jsonl`, in the order written; a half-written line is passed over."""
    try:
        lines = (folder / "metrics.jsonl").read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [row for row in map(_parse, lines) if row is not None]


def _keep(path: Path, kimg: float, scores_due: bool) -> None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    kept = []
    for line in data.splitlines():
        row = _parse(line)
        if row is None or row.get(KIMG, 0.0) > kimg + _HALF_AN_IMAGE:
            continue
        again = scores_due and row.get(KIMG, 0.0) >= kimg - _HALF_AN_IMAGE and any(k.startswith("eval/") for k in row)
        if not again:
            kept.append(line + b"\n")
    if b"".join(kept) != data:
        write_atomic(path, b"".join(kept))


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # a broken end, or bytes that are not UTF-8
        return None
    return row if isinstance(row, dict) else None


def _cannot_write(path: Path, error: OSError) -> DataError:
    reason = error.strerror or error
    return DataError(
        f"Cannot write {path}: {reason}; make room (or mend the folder), and start the same command again."
    )
