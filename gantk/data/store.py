"""A split's images where training wants them: on the device, in memory, on disk, or decoded when seen."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from gantk_eval.errors import DataError
from gantk_eval.images import content_fingerprint

from gantk.data.cache import Decoded, processors, remember, remembered
from gantk.data.copies import hashes_of
from gantk.data.damaged import offering_to_skip
from gantk.data.hashing import digest_of
from gantk.data.sources import Source
from gantk.data.transform import Transform

Storage = Literal["device", "memory", "disk", "stream"]
DISK_READERS = 8  # more than processors: they wait for the disk


class Pixels(Protocol):
    """Random access to all the images of a source, transformed."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""

    @property
    def dtype(self) -> torch.dtype:
        """uint8 for images; float32 for points, which are taken as they are."""

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """[n, H, W, C] of that type. May be called from several threads at once."""

    def fingerprint(self, key: str) -> str | None:
        """The content hash of a choice of rows and labels that `key` stands for, where it is known without
        reading them.
        """

    def keep_fingerprint(self, key: str, value: str) -> None:
        """Remembers it for the next start, where that can be done."""

    def identity(self, key: str) -> str:
        """What a choice of rows and labels is made from, whichever way the pixels are kept; never reads them."""


def _made_from(source: Source, transform: Transform) -> tuple[str, list[Any]]:
    """What images are made from, as it is now: the files may change while a run goes on.

    Hashed after the word `streamed`, as the checkpoints of earlier runs that stream have it.
    """
    return source.fingerprint(), transform.identity()


class CachedPixels:
    """The memory-mapped images of a cache entry."""

    dtype = torch.uint8

    def __init__(self, decoded: Decoded, source: Source, transform: Transform) -> None:
        self._folder: Path = decoded.folder
        self._images = decoded.images
        height, width, channels = decoded.images.shape[1:]
        self.shape: tuple[int, int, int] = (height, width, channels)
        self._made_from = _made_from(source, replace(transform, channels=channels))

    def rows(self, rows: np.ndarray) -> np.ndarray:
        return np.take(self._images, rows, axis=0)

    def hashes(self) -> np.ndarray | None:
        """The hash of every image's pixels (see `copies.hashes_of`)."""
        return hashes_of(self._images, self._folder)

    def fingerprint(self, key: str) -> str | None:
        return remembered(self._folder, key)

    def keep_fingerprint(self, key: str, value: str) -> None:
        remember(self._folder, key, value)

    def identity(self, key: str) -> str:
        return digest_of("streamed", *self._made_from, key)


class StreamedPixels:
    """Images that are decoded each time they are read: the same pixels as the cache would hold.

    Their fingerprint is that of the source and the transform, for hashing pixels would mean decoding
    everything.
    """

    dtype = torch.uint8

    def __init__(self, source: Source, transform: Transform) -> None:
        if transform.channels is None:
            raise ValueError("the transform's channels must be decided")
        self._source = source
        self._transform = transform
        self._made_from = _made_from(source, transform)
        self.shape: tuple[int, int, int] = (transform.resolution, transform.resolution, transform.channels)

    def rows(self, rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), *self.shape), dtype=np.uint8)
        for place, row in enumerate(rows.tolist()):
            try:
                images[place] = self._transform(self._source.item(row), name=self._source.locate(row))
            except DataError as error:
                raise offering_to_skip(error) from error
        return images

    def fingerprint(self, key: str) -> str | None:
        return self.identity(key)

    def keep_fingerprint(self, key: str, value: str) -> None:
        """Needs no keeping."""

    def identity(self, key: str) -> str:
        return digest_of("streamed", *self._made_from, key)


class Store:
    """One split of a data set, and a `gantk_eval.ImageSet`.

    `rows`: int64, the split's images among all of `pixels`. `labels`: int64, one for each of `rows`, or None.
    `device` is where `storage: device` keeps the images, and where the batches of the others will go (for a
    GPU they are put into pinned memory). Images are brought to memory or to the device with the first
    `fetch`, so an evaluation that only reads does not pay for it.
    """

    def __init__(
        self,
        pixels: Pixels,
        rows: np.ndarray,
        *,
        name: str,
        storage: Storage,
        labels: np.ndarray | None = None,
        class_names: tuple[str, ...] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.name = name
        self.storage: Storage = storage
        self.shape: tuple[int, int, int] = pixels.shape
        self.labels = labels
        self.class_names = class_names
        self.device = torch.device(device)
        self._pixels = pixels
        self._rows = np.asarray(rows, dtype=np.int64)
        self._label_tensor = None if labels is None else torch.from_numpy(labels)
        self._resident: torch.Tensor | None = None
        self._fingerprint: str | None = None
        self._identity: str | None = None
        self._readers = DISK_READERS if storage == "disk" else processors()
        self._pool: ThreadPoolExecutor | None = None
        self._coming: tuple[torch.Tensor, list[Future[np.ndarray]]] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (float32 for points) [n, height, width, channels], in the order of `indices`."""
        return self._pixels.rows(self._rows[np.asarray(indices, dtype=np.int64)])

    def fingerprint(self) -> str:
        """sha256, in hex, of shape, pixels and labels: equal for equal content, whatever it was read from.

        With `storage: stream` it is that of the encoded source and the transform instead. Worked out once and
        remembered.
        """
        if self._fingerprint is None:
            key = self._key()
            self._fingerprint = self._pixels.fingerprint(key)
            if self._fingerprint is None:
                self._fingerprint = content_fingerprint(self)
                self._pixels.keep_fingerprint(key, self._fingerprint)
        return self._fingerprint

    def identity(self) -> str:
        """sha256, in hex, of the encoded source, the transform and the choice of images: the same for every `storage`."""
        if self._identity is None:
            self._identity = self._pixels.identity(self._key())
        return self._identity

    def _key(self) -> str:
        digest = hashlib.sha256(self._rows.astype("<i8").tobytes())
        digest.update(b"" if self.labels is None else self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def label_of(self, indices: torch.Tensor) -> torch.Tensor | None:
        """Classes, int64 [B], on the CPU; None where there are no labels."""
        return None if self._label_tensor is None else self._label_tensor[indices]

    @property
    def reads_ahead(self) -> bool:
        """Whether `fetch` does anything with what is upcoming."""
        return self.storage not in ("device", "memory")

    def fetch(self, indices: torch.Tensor, upcoming: torch.Tensor | None = None) -> torch.Tensor:
        """A batch: uint8 (float32 for points) [B, C, H, W] with channels-last strides, on the device for `storage: device`, else
        on the CPU.

        `indices`: int64 [B] on the CPU, each in 0 ... len - 1. `upcoming`: what the next call will ask for;
        from disk and stream, threads begin to read it now.
        Raises DataError, from a stream, naming a damaged picture.
        """
        if not self.reads_ahead:
            batch = self._from_resident(indices)
        else:
            coming, self._coming = self._coming, None
            if coming is not None and torch.equal(coming[0], indices):
                parts = coming[1]
            else:
                parts = self._begin(indices)
            if upcoming is not None:
                self._coming = (upcoming.clone(), self._begin(upcoming))
            arrays = [part.result() for part in parts]
            batch = self._pinned(len(indices))
            if arrays:
                np.concatenate(arrays, out=batch.numpy())
        return batch.view(len(indices), *self.shape).permute(0, 3, 1, 2)

    def _from_resident(self, indices: torch.Tensor) -> torch.Tensor:
        if self._resident is None:
            images = torch.from_numpy(self._pixels.rows(self._rows))
            # As rows of bytes: an index_select of these is twice as fast as one of [N, H, W, C].
            images = images.view(len(self), math.prod(self.shape))
            self._resident = images.to(self.device) if self.storage == "device" else images
        if self._resident.device.type != "cpu":
            return self._resident.index_select(0, indices.to(self.device, non_blocking=True))
        batch = self._pinned(len(indices)).view(len(indices), math.prod(self.shape))
        return torch.index_select(self._resident, 0, indices, out=batch)

    def _pinned(self, count: int) -> torch.Tensor:
        """Room for a batch; pinned where it will go on to a GPU, so that the copy runs beside the
        computation.
        """
        return torch.empty((count, *self.shape), dtype=self._pixels.dtype, pin_memory=self.device.type == "cuda")

    def _begin(self, indices: torch.Tensor) -> list[Future[np.ndarray]]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._readers, thread_name_prefix="read")
        rows = self._rows[indices.numpy()]
        parts = [part for part in np.array_split(rows, self._readers) if len(part)]
        return [self._pool.submit(self._pixels.rows, part) for part in parts]
