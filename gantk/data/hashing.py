"""What files hold, as sha256, without reading a file again whose size and time of change stayed the same."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gantk_eval import cache_folder
from gantk_eval.errors import DataError
from gantk_eval.progress import Bar

PIECE = 1 << 20
UNREADABLE = "unreadable"
logger = logging.getLogger(__name__)


def digest_of(*parts: Any) -> str:
    """The sha256, in hex, of some JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hex. Raises OSError where it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes the whole file or nothing: readers never see half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none that can be read (it is only ever a memo)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def hashes_of_files(root: Path, names: Sequence[str], *, progress: bool = False, unreadable: bool = False) -> list[str]:
    """The sha256 of each of the files `names` below `root`, in that order.

    What was seen is remembered in the cache folder by (path, size, mtime in ns), so that the next start reads
    only files that are new or were changed. A file that cannot be read (a link to nothing, say) has the word
    `unreadable` for its hash where `unreadable` is true; else DataError names it.
    """
    memo_path = cache_folder() / "data" / "hashes" / f"{digest_of(str(root.resolve()))[:32]}.json"
    memo = read_json(memo_path)

    def stat_of(name: str) -> os.stat_result | None:
        try:
            return os.stat(root / name)
        except OSError:
            if not unreadable:
                raise
            return None

    def hash_of(name: str) -> str:
        try:
            return sha256_of_file(root / name)
        except OSError:
            if not unreadable:
                raise
            return UNREADABLE

    try:
        stats = [stat_of(name) for name in names]
        unseen = [
            (name, stat)
            for name, stat in zip(names, stats, strict=True)
            if stat is not None and memo.get(name, [])[:2] != [stat.st_size, stat.st_mtime_ns]
        ]
        absent = {name for name, stat in zip(names, stats, strict=True) if stat is None}
        if unseen:
            with (
                ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
                Bar(
                    len(unseen),
                    "reading files",
                    "file",
                    enabled=progress,
                    purpose=f"reading {len(unseen):,} new or changed files of {root}, to notice when one changes (once)",
                ) as bar,
            ):
                found = pool.map(hash_of, [name for name, _ in unseen])
                for (name, stat), sha256 in zip(unseen, found, strict=True):
                    memo[name] = [stat.st_size, stat.st_mtime_ns, sha256]
                    bar.update()
            # Who may read a file can change without a trace in its size and time.
            _keep(memo_path, {n: memo[n] for n in names if n not in absent and memo[n][2] != UNREADABLE})
    except OSError as error:
        what = error.strerror or type(error).__name__
        raise DataError(
            f"cannot read {error.filename or root}: {what}; see that the file is there and that you may read it"
        ) from error
    return [UNREADABLE if name in absent else memo[name][2] for name in names]


def _keep(path: Path, memo: dict[str, Any]) -> None:
    try:
        write_json(path, memo)
    except OSError as error:  # a cache that others share with us, say: it costs reading the files next time
        logger.debug("cannot write %s: %s", path, error)
