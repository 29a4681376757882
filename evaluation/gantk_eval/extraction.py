"""From images to features: one pass, shared over ranks by global index, resumed where it was interrupted, cached by content.

Features are kept at 4 bytes each (8 kB an image for Inception), whatever metrics want; where only a Fréchet distance is
wanted of more than `KEEP_BYTES` of them, statistics are summed up as the images go by, and memory does not grow with N.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gantk_eval import distributed
from gantk_eval.cache import key_of, pack, read_arrays, write_bytes
from gantk_eval.extractors import Extractor, feature_type
from gantk_eval.extractors.blocks import aligned
from gantk_eval.extractors.inception_spatial import features_under
from gantk_eval.features import Features
from gantk_eval.images import GeneratedImages, ImageSet
from gantk_eval.pairs import Pairs
from gantk_eval.paths import cache_folder
from gantk_eval.progress import Bar
from gantk_eval.statistics import RunningStatistics, Statistics

__all__ = ["KEEP_BYTES", "Extraction", "content_key"]

FEATURE_CACHE = "features-2"
KEEP_BYTES = 1 << 30
"""Features of one set under one extractor that are kept although only their mean and covariance are needed."""
SAMPLE_IMAGES = 32_768
"""Features that are kept of a larger set, for the standard error and the extrapolation; drawn by a fixed seed."""
_ROLES = {"reference": "real images", "heldout": "held-out images"}
SAVE_SECONDS = 60.0
"""Between two savings of an extraction under way; shorter ones touch no disk."""


def content_key(images: ImageSet, extractor: Extractor, device: Any) -> str:
    """sha256 over all that features depend on: images, extractor, weights, resize, precision, kind of device."""
    return key_of(
        {
            "format": FEATURE_CACHE,
            "images": images.fingerprint(),
            "extractor": extractor.name,
            "weights": extractor.weights_sha256,
            "resize": extractor.resize,
            "precision": extractor.precision,
            "device": str(device).split(":")[0],
        }
    )


class Extraction:
    """Extracts features of image sets. `extractors`: by the name under which metrics ask for them.

    `only_statistics`: those of which nothing but Fréchet distances is wanted. `batch_size`: images read at a time, rounded
    up to whole blocks (`extractors.blocks`), so that no feature depends on it. `check`: see `distributed.Check`; called on
    every rank after each chunk.
    """

    def __init__(
        self,
        extractors: Mapping[str, Extractor],
        *,
        device: Any,
        batch_size: int,
        progress: bool,
        only_statistics: Sequence[str] = (),
        check: distributed.Check = distributed.no_check,
    ) -> None:
        self._extractors = extractors
        self._device, self._progress, self._check = device, progress, check
        self._batch_size = aligned(batch_size, device)
        self._only_statistics = tuple(only_statistics)

    def _streams(self, name: str, count: int) -> bool:
        size = count * self._extractors[name].dims * 4
        return name in self._only_statistics and size > KEEP_BYTES and count > SAMPLE_IMAGES

    def cached(self, images: ImageSet, role: str) -> dict[str, Features]:
        """Features of real images by extractor: from the cache, else extracted now and cached.

        Only rank 0 need have those that come from the cache: it alone computes metrics.
        """
        found: dict[str, Features] = {}
        keys: dict[str, str] = {}
        names = list(self._extractors)

        def read() -> bytes:
            for name in names:
                keys[name] = content_key(images, self._extractors[name], self._device)
                features = self._read(keys[name], name, len(images))
                if features is not None:
                    found[name] = features
            return json.dumps(list(found)).encode()

        there = json.loads(distributed.from_first(read))
        for name, features in self.extract(images, [n for n in names if n not in there], role)[0].items():
            found[name] = features
            if distributed.rank() == 0:
                arrays = {"features": features.values}
                if features.total is not None:
                    total = features.total
                    arrays |= {"count": np.array(total.count), "mean": total.mean, "covariance": total.covariance}
                write_bytes(self._path(keys[name]), pack(arrays))
        for name, key in keys.items():
            found[name] = found[name].remembered(cache_folder() / "statistics" / f"{key}.npz")
        return found

    @staticmethod
    def _path(key: str) -> Path:
        return cache_folder() / "features" / f"{key}.npz"

    def _read(self, key: str, name: str, count: int) -> Features | None:
        extractor = self._extractors[name]
        arrays = read_arrays(self._path(key))
        if arrays is None or "features" not in arrays or arrays["features"].ndim != 2:
            return None
        features, dims = arrays["features"], extractor.dims
        if features.shape[1] != dims:
            return None
        if len(features) == count:
            return Features(features, extractor)
        # A larger set's statistics with a sample of its features: enough where a Fréchet distance is all that is wanted.
        if name not in self._only_statistics or {"count", "mean", "covariance"} - set(arrays):
            return None
        if (
            int(arrays["count"]) != count
            or arrays["mean"].shape != (dims,)
            or arrays["covariance"].shape != (dims, dims)
        ):
            return None
        return Features(features, extractor, total=Statistics(count, arrays["mean"], arrays["covariance"]))

    def extract(
        self, images: ImageSet, names: Sequence[str], role: str, pairs: Pairs | None = None
    ) -> tuple[dict[str, Features], np.ndarray | None]:
        """One pass: this rank's chunks through the named extractors, then all ranks' rows in index order.

        Also the pixels uint8 [2 p, H, W, C] of `pairs`, where given.
        """
        if not names and pairs is None:
            return {}, None
        count = len(images)
        streams = [name for name in names if self._streams(name, count)]
        kept = None
        # What a function makes is known by a name alone, and another model may come to bear it: that is never kept.
        if not streams and not isinstance(images, GeneratedImages):
            key = distributed.from_first(lambda: self._parts_key(images, names).encode()).decode()
            kept = _Parts(cache_folder() / "partial" / key)
        chosen = {name: self._extractors[name] for name in names}
        walk = _Walk(images, chosen, streams, self._batch_size, kept, pairs)
        silent = not self._progress or distributed.rank() != 0
        indices, where, pixels, *arrays = walk.run(role, silent, self._check)
        result: dict[str, Features] = {}
        for name, array in zip(walk.order, arrays, strict=True):
            if name in streams:
                places = np.searchsorted(walk.sample, indices[walk.sampled(indices)])
                values = distributed.gather_rows(places, array, len(walk.sample))
                result[name] = Features(values, self._extractors[name], total=walk.sums[name].reduce(expected=count))
            else:
                result[name] = Features(distributed.gather_rows(indices, array, count), self._extractors[name])
        if kept is not None and distributed.rank() == 0:
            kept.forget()
        gathered = None if pairs is None else distributed.gather_rows(where, pixels, len(pairs.kept))
        return {name: result[name] for name in names}, gathered

    def _parts_key(self, images: ImageSet, names: Sequence[str]) -> str:
        return key_of({name: content_key(images, self._extractors[name], self._device) for name in names})


class _Walk:
    """This rank's walk over its chunks. `order`: the extractors whose rows are kept whole, then those that stream."""

    def __init__(
        self,
        images: ImageSet,
        extractors: Mapping[str, Extractor],
        streams: Sequence[str],
        batch_size: int,
        parts: _Parts | None,
        pairs: Pairs | None,
    ) -> None:
        self._images, self._extractors, self._streams, self._parts = images, extractors, streams, parts
        self._batch_size = batch_size
        self._pictures = np.empty(0, dtype=np.int64) if pairs is None else pairs.kept
        self._count = len(images)
        order = (
            np.random.default_rng(2020).permutation(self._count)[:SAMPLE_IMAGES] if streams else np.empty(0, np.int64)
        )
        self.sample = np.sort(order)
        self.sums: dict[str, RunningStatistics] = {}
        self._whole = [name for name in extractors if name not in streams]
        self.order = [*self._whole, *streams]

    def sampled(self, indices: np.ndarray) -> np.ndarray:
        """bool [n]: which of these global indices are in the sample."""
        return np.isin(indices, self.sample, assume_unique=True)

    def run(self, role: str, silent: bool, check: distributed.Check) -> tuple[np.ndarray, ...]:
        """Every rank's own rows; an error of one is raised by all, at the latest after the chunk under way."""
        whole, order = self._whole, self.order
        rows: dict[str, list[np.ndarray]] = {
            name: [np.empty((0, e.dims), dtype=feature_type(e))] for name, e in self._extractors.items()
        }
        mine = distributed.chunks(self._count, self._batch_size)
        before: _Before | None = None

        def start_out() -> tuple[np.ndarray, ...]:
            nonlocal before
            if self._parts is not None:
                before = self._parts.load(whole, {n: self._extractors[n].dims for n in whole})
            if before is not None:
                there = min(self._count, len(before.indices))
                distributed.say(
                    f"going on with {self._images.name}: the features of {there:,} of {self._count:,} images are there from "
                    "an evaluation that was interrupted"
                )
            if self._streams:
                # Around the first images' mean, which every rank works out: sums of squares about a distant origin lose digits.
                first = self._images.read(np.arange(min(self._batch_size, self._count)))
                for name, start in features_under({n: self._extractors[n] for n in self._streams}, first).items():
                    self.sums[name] = RunningStatistics(start.shape[1], shift=start.mean(axis=0, dtype=np.float64))
            return ()

        distributed.all_or_none(start_out)
        where, pictures = [np.empty(0, dtype=np.int64)], [np.empty((0, *self._images.shape), dtype=np.uint8)]
        fresh: list[np.ndarray] = []  # chunks whose features are not on disk yet
        saved = 0
        clock = time.monotonic()
        world = distributed.world_size()
        done = 0
        what = f"features of the {_ROLES.get(role, role)}"
        with Bar(self._count, what, "image", enabled=not silent) as bar:

            def one(chunk: np.ndarray) -> None:
                nonlocal fresh, saved, clock, done
                known = None if before is None else before.rows(chunk)
                wanted = np.isin(chunk, self._pictures)
                if wanted.any() or known is None:
                    pixels = self._images.read(chunk)
                    where.append(np.searchsorted(self._pictures, chunk[wanted]))
                    pictures.append(pixels[wanted])
                if known is not None:
                    for name in whole:
                        rows[name].append(known[name])
                else:
                    under = features_under(self._extractors, pixels)
                    for name in order:
                        features = under[name]
                        if name in self.sums:
                            self.sums[name].update(features)
                            features = features[self.sampled(chunk)]
                        rows[name].append(features)
                    fresh.append(chunk)
                done += len(chunk)
                bar.update(min(len(chunk) * world, self._count - bar.n))
                if self._parts is not None and fresh and time.monotonic() - clock > SAVE_SECONDS:
                    self._save(fresh, rows, mine)
                    fresh, saved, clock = [], done, time.monotonic()

            try:
                distributed.in_chunks(self._count, self._batch_size, one, check)
            except BaseException:
                if self._parts is not None and fresh and (saved or time.monotonic() - clock > SAVE_SECONDS / 12):
                    self._save(fresh, rows, mine)
                    saved = done
                if saved:
                    distributed.say(
                        f"stopped; the same command goes on from the features of {saved * world:,} images that are kept"
                    )
                elif time.monotonic() - clock > SAVE_SECONDS / 12:
                    distributed.say(f"stopped; the next evaluation of {self._images.name} starts anew")
                raise
        indices = np.concatenate([*mine, np.empty(0, dtype=np.int64)])
        kept = (np.concatenate(rows[name]) for name in order)
        return (indices, np.concatenate(where), np.concatenate(pictures), *kept)

    def _save(self, fresh: list[np.ndarray], rows: dict[str, list[np.ndarray]], mine: list[np.ndarray]) -> None:
        assert self._parts is not None
        place = {int(chunk[0]): number + 1 for number, chunk in enumerate(mine)}  # rows begin with an empty array
        numbers = [place[int(chunk[0])] for chunk in fresh]
        arrays = {name: np.concatenate([rows[name][n] for n in numbers]) for name in self._whole}
        self._parts.save(np.concatenate(fresh), arrays)


class _Before:
    """Features of some global indices, from parts that were saved."""

    def __init__(self, indices: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        self.indices, first = np.unique(indices, return_index=True)
        self._arrays = {name: array[first] for name, array in arrays.items()}

    def rows(self, chunk: np.ndarray) -> dict[str, np.ndarray] | None:
        """The features of a chunk where all of its images are there."""
        places = np.searchsorted(self.indices, chunk)
        if places[-1] >= len(self.indices) or not np.array_equal(self.indices[places], chunk):
            return None
        return {name: array[places] for name, array in self._arrays.items()}


class _Parts:
    """Features on disk of an extraction that is not finished: files that are whole or not there, from any rank."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, indices: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        write_bytes(self._folder / f"{int(indices[0]):012d}-{len(indices)}.npz", pack({"indices": indices, **arrays}))

    def load(self, names: Sequence[str], dims: Mapping[str, int]) -> _Before | None:
        """What is there and whole; None where that is nothing."""
        if not self._folder.is_dir():
            return None
        indices: list[np.ndarray] = []
        arrays: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for path in sorted(self._folder.glob("*.npz")):
            part = read_arrays(path)
            if part is None or "indices" not in part:
                continue
            if any(name not in part or part[name].shape != (len(part["indices"]), dims[name]) for name in names):
                continue
            indices.append(part["indices"])
            for name in names:
                arrays[name].append(part[name])
        if not indices:
            return None
        return _Before(np.concatenate(indices), {name: np.concatenate(arrays[name]) for name in names})

    def forget(self) -> None:
        """Removes them: the extraction is finished."""
        shutil.rmtree(self._folder, ignore_errors=True)
