"""Exact copies among decoded images: a held-out set that holds copies of training images judges nothing."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import numpy as np

MOST = 4 << 30  # bytes of pixels beyond which images are not hashed on the way to training
logger = logging.getLogger(__name__)


def hash_of(pixels: np.ndarray) -> bytes:
    """16 bytes that stand for the pixels of one image; grey images and the same ones as RGB differ."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()


def hashes_of(images: np.ndarray, folder: Path) -> np.ndarray | None:
    """The hash of each image of a cache entry, V16 [N], computed once and kept beside it as `hashes.npy`.

    None where there are more than `MOST` bytes to read.
    """
    path = folder / "hashes.npy"
    try:
        found: np.ndarray = np.load(path, allow_pickle=False)
        if found.shape == (len(images), 2) and found.dtype == np.uint64:
            return found.view("V16").reshape(-1)
    except (OSError, ValueError):
        logger.debug("no hashes in %s yet", folder)
    if images.nbytes > MOST:
        return None
    found = np.frombuffer(b"".join(map(hash_of, images)), dtype=np.uint64).reshape(-1, 2)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.save(file, found)
        temporary.replace(path)
    except OSError:  # a cache that others share with us, say
        logger.debug("cannot write %s", path)
    return found.view("V16").reshape(-1)


def count_copies(hashes: np.ndarray | list[bytes]) -> int:
    """The number of images that are copies of an earlier one."""
    values = hashes.tolist() if isinstance(hashes, np.ndarray) else hashes
    return len(values) - len(set(values))


def count_shared(hashes: np.ndarray | list[bytes], others: np.ndarray | list[bytes]) -> int:
    """The number of `hashes` that stand among `others`."""
    mine, theirs = ([*h.tolist()] if isinstance(h, np.ndarray) else h for h in (hashes, others))
    known = set(theirs)
    return sum(value in known for value in mine)


def sentence(count: int, copies: int, heldout_count: int, shared: int) -> str:
    """The sentence on copies among training images and on held-out ones that are copies of these; empty without any."""
    parts = []
    if copies:
        parts.append(f"{copies:,} of {count:,} training images are exact copies of others")
    if shared:
        parts.append(
            f"{shared:,} of {heldout_count:,} held-out images are exact copies of training images: a held-out set that holds "
            "copies judges nothing"
        )
    return f"{', and '.join(parts)}; remove the copies" if parts else ""
