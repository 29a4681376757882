"""Decoded once: the training images as one memory-mapped array of uint8, in a folder named by their content
and transform.

    cache_folder()/data/<key>/images.npy   uint8 [N, H, W, C]
                              labels.npy   int64 [N], where there are labels
                              meta.json    class names, where they came from, size and sha256 of the two files
                              content.json content hashes that were asked for (a memo)

Any number of processes and runs may ask for one at the same time: the first builds it under a lock, in
`<key>.partial`, the others wait. That folder takes its name when it is whole. A build that was interrupted
goes on where it stopped; an entry that is damaged is found (by size, and by hash where a file was touched
since) and built again.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from gantk_eval import cache_folder
from gantk_eval.errors import DataError
from gantk_eval.progress import Bar

from gantk.data.damaged import Damaged, Tolerance, offering_to_skip
from gantk.data.hashing import digest_of, read_json, sha256_of_file, write_json
from gantk.data.sources import Item, Source
from gantk.data.transform import Channels, Transform

BATCH = 64  # images that a thread decodes at a time
SPARE = 64 << 20  # bytes of disk to leave free
logger = logging.getLogger(__name__)


class NoRoomError(DataError):
    """The decoded images do not fit on the disk."""


class _FoundColourError(Exception):
    """The images so far were grey, and this one is not."""


@dataclass(frozen=True)
class Decoded:
    """A whole entry. `images`: uint8 [N, H, W, C], memory-mapped; `labels`: int64 [N] or None."""

    folder: Path
    images: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    damaged: dict[int, str]
    """The rows of `images` that hold nothing, with what was wrong with the picture."""


def processors() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def entry_folder(source: Source, transform: Transform) -> Path:
    """Where the images of a source under a transform are, or would be, kept."""
    return cache_folder() / "data" / digest_of(source.fingerprint(), transform.identity())[:32]


def open_decoded(source: Source, transform: Transform, *, tolerance: Tolerance, progress: bool = False) -> Decoded:
    """The decoded images, from the cache where they are there, else decoded now (and waited for, where
    another does it).

    Raises DataError naming a damaged picture that `tolerance` does not allow, NoRoomError where the disk is too small.
    """
    folder = entry_folder(source, transform)
    found = _open_entry(folder)
    if found is None:
        found = _open_or_build(source, transform, folder, tolerance, progress)
    Damaged(source, tolerance, found.damaged)
    return found


def _open_or_build(source: Source, transform: Transform, folder: Path, tolerance: Tolerance, progress: bool) -> Decoded:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{folder}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("another process is decoding %s; waiting for it", source.description)
            lock.acquire()
        try:
            found = _open_entry(folder)
            if found is None:
                shutil.rmtree(folder, ignore_errors=True)
                _build(source, transform, folder, tolerance, progress)
                found = _open_entry(folder)
        finally:
            lock.release()
    except OSError as error:
        raise DataError(
            f"cannot write the decoded images to {folder.parent}: {error.strerror or error}; make room, or "
            "set $GANTK_CACHE to a folder that you may write to (or data.storage=stream)"
        ) from error
    if found is None:
        raise DataError(
            f"the decoded images in {folder} changed while they were written; see what else writes to $GANTK_CACHE"
        )
    return found


def _open_entry(folder: Path) -> Decoded | None:
    meta = read_json(folder / "meta.json")
    if not meta:
        if folder.exists():
            logger.warning("%s is incomplete; decoding again", folder)
        return None
    try:
        for name, told in meta["files"].items():
            _verify(folder / name, told)
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False) if "labels.npy" in meta["files"] else None
        names = meta["class_names"]
        damaged = {int(index): str(message) for index, message in meta.get("damaged", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s is damaged (%s); decoding again", folder, error)
        return None
    return Decoded(folder, images, labels, tuple(names) if names is not None else None, damaged)


def _verify(path: Path, told: dict[str, Any]) -> None:
    """Raises ValueError where a file is not what was written. It is read only if it was touched since."""
    stat = path.stat()
    if stat.st_size != told["size"]:
        raise ValueError(f"{path.name} has {stat.st_size} bytes, not {told['size']}")
    if stat.st_mtime_ns == told["mtime_ns"]:
        return
    if sha256_of_file(path) != told["sha256"]:
        raise ValueError(f"{path.name} does not hold what was written")
    try:
        os.utime(path, ns=(stat.st_atime_ns, told["mtime_ns"]))  # a copy of the cache: need not be read next time
    except OSError:
        logger.debug("cannot set the time of %s", path)


def _build(source: Source, transform: Transform, folder: Path, tolerance: Tolerance, progress: bool) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    labels, class_names = source.labels, source.class_names
    channels = transform.channels or (1 if _first_is_grey(source, transform, tolerance) else 3)
    try:
        damaged = _write_images(source, transform, channels, partial / "images.npy", tolerance, progress)
    except _FoundColourError:
        damaged = _write_images(source, transform, 3, partial / "images.npy", tolerance, progress)
    files = ["images.npy"]
    if labels is not None:
        np.save(partial / "labels.npy", labels)
        files.append("labels.npy")
    written = {}
    for name in files:
        stat = (partial / name).stat()
        written[name] = {
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "sha256": sha256_of_file(partial / name),
        }
    meta = {
        "source": source.description,
        "transform": transform.identity(),
        "class_names": class_names,
        "files": written,
        "damaged": damaged,
    }
    (partial / "damaged.json").unlink(missing_ok=True)
    write_json(partial / "meta.json", meta)
    partial.rename(folder)


def look_through(source: Source, transform: Transform, tolerance: Tolerance) -> tuple[Channels, dict[int, str]]:
    """Without keeping what is decoded: the channels (1 where every image is grey by its mode, else 3, which the first
    image in colour says), and the damaged pictures, which takes reading all of them where `tolerance` lets them be left
    out.
    """
    remembered_in = cache_folder() / "data" / f"{entry_folder(source, transform).name}.damaged.json"
    known = read_json(remembered_in) if tolerance.skip else {}
    if known:
        found = {int(index): str(message) for index, message in known["damaged"].items()}
        return (1 if known["channels"] == 1 else 3), Damaged(source, tolerance, found).found
    damaged = Damaged(source, tolerance)
    channels: Channels = transform.channels or (1 if _first_is_grey(source, transform, tolerance) else 3)
    if tolerance.skip or (transform.channels is None and channels == 1):
        try:
            for batch in decoded_in_order(source, transform, damaged=damaged):
                if transform.channels is None and channels == 1 and batch.shape[3] == 3:
                    raise _FoundColourError
        except _FoundColourError:
            channels = 3
            if tolerance.skip:
                for _ in decoded_in_order(source, replace(transform, channels=3), damaged=damaged):
                    pass
    if tolerance.skip:
        try:
            remembered_in.parent.mkdir(parents=True, exist_ok=True)
            write_json(remembered_in, {"channels": channels, "damaged": damaged.found})
        except OSError:
            logger.debug("cannot remember what is damaged in %s", remembered_in)
    return channels, damaged.found


def _first_is_grey(source: Source, transform: Transform, tolerance: Tolerance) -> bool:
    damaged = Damaged(source, tolerance)
    for index, item in enumerate(source.items()):
        try:
            return transform(item, name=source.locate(index)).shape[2] == 1
        except DataError as error:
            damaged.note(index, error)
    return False


def _write_images(
    source: Source, transform: Transform, channels: Channels, path: Path, tolerance: Tolerance, progress: bool
) -> dict[int, str]:
    """Appends to what an interrupted build left, if it is of the same shape, and returns what is damaged. Plain
    writes: a full disk is then an OSError, where it would kill a process that writes through a memory map.
    """
    count, side = len(source), transform.resolution
    row = side * side * channels
    header = _npy_header((count, side, side, channels))
    done = 0
    if path.exists():
        with path.open("rb") as file:
            if file.read(len(header)) == header:
                done = min(count, (path.stat().st_size - len(header)) // row)
    need, free = (count - done) * row + SPARE, shutil.disk_usage(path.parent).free
    if need > free:
        raise NoRoomError(
            f"the decoded images of {source.description} need {need / 1e9:.2f} GB in {path.parent.parent}, "
            f"where {free / 1e9:.2f} GB are free; make room, set $GANTK_CACHE to a folder on a larger disk, "
            "or set data.storage=stream"
        )
    notes = path.with_name("damaged.json")
    earlier = {int(index): str(message) for index, message in read_json(notes).items() if int(index) < done}
    damaged = Damaged(source, tolerance, earlier)
    told = len(damaged.found)
    if channels == 3:  # a guess of grey is left undecided, so that an image in colour is seen as one
        transform = replace(transform, channels=3)
    with (
        path.open("r+b" if done else "wb") as file,
        Bar(
            count,
            "decoding",
            "image",
            enabled=progress,
            done=done,
            purpose=f"decoding {source.description} to {side}×{side} pixels (once; kept in {path.parent.parent})",
        ) as bar,
    ):
        if not done:
            file.write(header)
        file.seek(len(header) + done * row)
        file.truncate()
        for pixels in decoded_in_order(source, transform, done, damaged):
            if pixels.shape[3] != channels:
                raise _FoundColourError
            if len(damaged.found) > told:
                # Before the rows that stand for them, so that who goes on after an interruption knows of them.
                told = len(damaged.found)
                write_json(notes, damaged.found)
            file.write(pixels.tobytes())
            bar.update(len(pixels))
        file.flush()
        os.fsync(file.fileno())
        if file.tell() != len(header) + count * row:
            raise DataError(f"{source.description} gave another number of images than the {count} it says it has")
    return damaged.found


def decoded_in_order(
    source: Source, transform: Transform, start: int = 0, damaged: Damaged | None = None
) -> Iterator[np.ndarray]:
    """Batches uint8 [n, H, W, C] of the images from `start` on, decoded by a thread for each processor.

    Damaged pictures are noted in `damaged`, and black. Raises DataError naming the first one where there is no
    `damaged`, or where it allows no more, and _FoundColourError where `transform.channels` is
    None and a batch has both grey and RGB images.
    """

    def decode(first: int, items: list[Item]) -> np.ndarray:
        images: list[np.ndarray | None] = []
        for index, item in enumerate(items, start=first):
            try:
                images.append(transform(item, name=source.locate(index)))
            except DataError as error:
                if damaged is None:
                    raise offering_to_skip(error) from error
                damaged.note(index, error)
                images.append(None)
        kinds = {image.shape[2] for image in images if image is not None} or {transform.channels or 1}
        if len(kinds) > 1:
            raise _FoundColourError
        black = np.zeros((transform.resolution, transform.resolution, kinds.pop()), dtype=np.uint8)
        return np.stack([black if image is None else image for image in images])

    items = source.items(start)
    threads = processors()
    pending: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            while True:
                while len(pending) < 2 * threads and (batch := list(islice(items, BATCH))):
                    pending.append(pool.submit(decode, start, batch))
                    start += len(batch)
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _npy_header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def remembered(folder: Path, key: str) -> str | None:
    """A content hash that was worked out before for this entry."""
    return read_json(folder / "content.json").get(key)


def remember(folder: Path, key: str, value: str) -> None:
    """Keeps a content hash for the next start. That the cache may not be written is no error."""
    try:
        write_json(folder / "content.json", {**read_json(folder / "content.json"), key: value})
    except OSError:
        logger.debug("cannot remember a hash in %s", folder)
