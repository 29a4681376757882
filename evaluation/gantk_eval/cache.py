"""Cached arrays under a content key: written whole or not at all, and made again where a file is damaged."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gantk_eval.paths import cache_folder

__all__ = ["cached_arrays", "key_of", "new_file_beside", "pack", "read_arrays", "unpack", "write_bytes"]


def key_of(fields: Mapping[str, Any]) -> str:
    """sha256 over the canonical JSON of all that the content depends on; a stale entry is impossible by construction."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def new_file_beside(path: Path) -> tuple[BinaryIO, Path]:
    """A new, hidden file in the folder of `path`, open for writing, and its own path: to be renamed to `path` when whole.

    It has the rights that the umask leaves, where those of the `tempfile` module are for their owner alone.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    return temporary.open("xb"), temporary


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file that is either whole or absent, by renaming. A cache that can't be written is no failure."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file, temporary = new_file_beside(path)
    except OSError:
        return
    try:
        with file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as the bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of `pack`."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of an .npz (whose members carry checksums), or None where it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def cached_arrays(
    kind: str,
    fields: Mapping[str, Any],
    make: Callable[[], dict[str, np.ndarray]],
    valid: Callable[[dict[str, np.ndarray]], bool],
) -> dict[str, np.ndarray]:
    """The arrays for `fields` from the cache folder, or made now and kept there. `valid` guards against foreign files."""
    path = cache_folder() / kind / f"{key_of(fields)}.npz"
    found = read_arrays(path)
    if found is not None:
        try:
            if valid(found):
                return found
        except (KeyError, IndexError, ValueError):
            pass
    made = make()
    write_bytes(path, pack(made))
    return made
