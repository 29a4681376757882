"""The data of a run: found, decoded, split, and put where training wants it."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import psutil
import torch
from gantk_eval.errors import DataError
from gantk_eval.labels import distinct_classes
from gantk_eval.walk import left_out_sentence

from gantk.config.schema import Config, DataConfig
from gantk.data import copies
from gantk.data.cache import NoRoomError, look_through, open_decoded
from gantk.data.classes import count_classes, in_training_classes
from gantk.data.damaged import Damaged, Tolerance
from gantk.data.sources import Source, open_sources
from gantk.data.store import CachedPixels, Pixels, Storage, Store, StreamedPixels
from gantk.data.transform import Channels, Transform

if TYPE_CHECKING:
    from gantk_eval.known_modes import KnownModesEvaluator

DEVICE_SHARE = 0.25  # of the GPU's free memory
MEMORY_SHARE = 0.5  # of the memory that is available, over all the processes on this machine
logger = logging.getLogger(__name__)


class KnownModes(Protocol):
    """What is known of samples that are made here."""

    extent: float | None
    """Points: half the side of a square around the origin that holds them, for pictures. None: images."""

    def evaluator(self, *, device: Any, progress: bool = False, **options: Any) -> KnownModesEvaluator:
        """What counts the modes of generated samples."""


@dataclass(frozen=True)
class Dataset:
    """Training and held-out images of one size, with classes or without."""

    train: Store
    heldout: Store
    """Never trained on: the data's own test split, or a seeded share."""
    channels: int
    resolution: int
    class_names: tuple[str, ...] | None
    num_classes: int | None
    """None where there are no labels."""
    description: str
    """One line for people."""
    modes: KnownModes | None = None
    """What is known of the modes, where the samples are made here."""
    commit: str | None = None
    """The commit of the hub that the training images are from, where they are from there."""

    @property
    def sha256(self) -> str:
        """The content of the training images: pixels, order and labels."""
        return self.train.fingerprint()

    @property
    def identity(self) -> str:
        """What the training images are made from; the same for every `data.storage`, as `sha256` is not."""
        return self.train.identity()

    def is_that_of(self, state: Mapping[str, Any], name: str = "") -> bool:
        """Whether a checkpoint's `state` was trained on these images, as its data source `name`.

        The same pixels from elsewhere are the same images, and so are those of the same source kept in another way.
        """
        then = {state["data_sha256"].get(name), state.get("data_identity", {}).get(name)} - {None}
        # One after the other: hashing the pixels is the longer way.
        return self.identity in then or self.sha256 in then


@dataclass(frozen=True)
class _Opened:
    pixels: Pixels
    count: int
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    good: np.ndarray
    """int64: the rows that are not damaged."""


def open_dataset(
    config: DataConfig, *, seed: int = 0, device: torch.device | str = "cpu", progress: bool = False
) -> Dataset:
    """Finds the images, decodes them once into the cache, sets held-out ones apart, chooses the storage.

    Safe to call from any number of processes and runs at once: one decodes, the others wait for it. `seed`
    chooses the held-out share where the data has no split of its own. The training images decide on grey or
    RGB, and on the numbers of the classes; held-out images are made to fit.
    Raises DataError in one sentence where data is missing, damaged (named), or too little or too much.
    """
    device = torch.device(device)
    if config.source in ("mixture", "stacked_mnist"):
        return _open_made(config, seed, device, progress)
    found = _find(config, progress)
    return _divide(found, _rows_of([found], seed), device)


def open_datasets(
    config: Config, *, device: torch.device | str = "cpu", progress: bool = False, names: Collection[str] | None = None
) -> dict[str, Dataset]:
    """All sources of a config (or those of `names`), as `open_dataset` opens them; the main one's name is empty.

    Progress is shown where both the caller and `config.tracking.progress` want it.
    The rows of paired sources stay together: the same of them are held out, an image that is damaged in one of them is left
    out of all, and the labels of the first decide where classes give their shares.
    Raises DataError as `open_dataset` does, and where sources that are paired have not equally many images.
    """
    device, progress = torch.device(device), progress and config.tracking.progress
    wanted = [name for name in config.sources if names is None or name in names]
    opened: dict[str, Dataset] = {}
    for order in dict.fromkeys(config.order_of(name) for name in wanted):
        group = [name for name in config.sources if config.order_of(name) == order]
        if len(group) == 1:
            opened[order] = open_dataset(config.sources[order], seed=config.seed, device=device, progress=progress)
            continue
        group.sort(key=lambda name: name != order)
        found = {name: _find(config.sources[name], progress) for name in group}
        _check_pairs({f"extra_data.{name}" if name else "data": each for name, each in found.items()})
        rows = _rows_of(list(found.values()), config.seed)
        opened |= {name: _divide(each, rows, device) for name, each in found.items()}
    return {name: opened[name] for name in wanted}


@dataclass(frozen=True)
class _Found:
    """One source, decoded, before it is divided into training and held-out images."""

    config: DataConfig
    train_source: Source
    train: _Opened
    heldout_source: Source | None
    heldout: _Opened | None
    """Held-out images of their own, where there are any."""


_Rows = tuple[np.ndarray, np.ndarray]
"""int64: the training images among those of `_Found.train`, and the held-out ones, among those of `_Found.heldout` where it has
any of their own."""


def _find(config: DataConfig, progress: bool) -> _Found:
    train_source, heldout_source = open_sources(config, progress=progress)
    for source in (train_source, heldout_source):
        if source is not None:
            for sentence in filter(None, (left_out_sentence(source.left_out), *source.notes)):
                _say(f"{source.description}: {sentence}")
    transform = Transform(config.resolution, config.channels)
    tolerance = Tolerance(config.on_bad_image == "skip", config.max_bad_images)
    train = _open(train_source, transform, config.storage, tolerance, progress)
    if train.labels is not None:
        # Numbers from 1, or with holes, make no classes that nothing belongs to.
        labels, names = distinct_classes(train.labels, train.class_names)
        train = replace(train, labels=labels, class_names=names)
    heldout = None
    if heldout_source is not None:
        decided: Channels = 1 if train.pixels.shape[2] == 1 else 3
        heldout = _open(heldout_source, replace(transform, channels=decided), config.storage, tolerance, progress)
    return _Found(config, train_source, train, heldout_source, heldout)


def _rows_of(together: Sequence[_Found], seed: int) -> _Rows:
    """The rows that sources whose rows belong together have in common, divided by the labels of the first."""
    first = together[0]
    everything = reduce(np.intersect1d, [found.train.good for found in together])
    if first.heldout is not None:
        own = [found.heldout.good for found in together if found.heldout is not None]
        train_rows, heldout_rows = everything, reduce(np.intersect1d, own)
    else:
        labels = None if first.train.labels is None else first.train.labels[everything]
        heldout_rows = everything[heldout_share(len(everything), first.config.heldout_fraction, seed, labels)]
        if len(heldout_rows) >= len(everything):
            raise DataError(
                f"{first.train_source.description} holds {first.train.count} image, too few to set a held-out one apart; "
                "add images"
            )
        train_rows = np.setdiff1d(everything, heldout_rows)
    return train_rows[: first.config.limit], heldout_rows


def _check_pairs(found: Mapping[str, _Found]) -> None:
    """Raises DataError where sources whose rows belong together, by their keys, are not equally long."""
    (first, one), *others = found.items()
    for name, other in others:
        for what, a, b in (
            ("images", one.train, other.train),
            ("held-out images of its own", one.heldout, other.heldout),
        ):
            counts = [0 if opened is None else opened.count for opened in (a, b)]
            if counts[0] != counts[1]:
                raise DataError(
                    f"{first} has {counts[0]:,} {what} and {name} has {counts[1]:,}, and their rows belong together "
                    "(`paired_with`): give both equally many, in the same order"
                )


def _divide(found: _Found, rows: _Rows, device: torch.device) -> Dataset:
    config, train_source, train = found.config, found.train_source, found.train
    train_rows, heldout_rows = rows
    height, width, channels = train.pixels.shape
    if found.heldout is None or found.heldout_source is None:
        heldout = train
        heldout_labels = None if train.labels is None else train.labels[heldout_rows]
        heldout_name = f"{train_source.description}, held-out share"
    else:
        heldout = found.heldout
        heldout_labels = None
        if train.labels is not None and heldout.labels is not None:
            heldout_labels = in_training_classes(
                heldout.labels, heldout.class_names, train.labels, train.class_names, found.heldout_source.description
            )[heldout_rows]
        heldout_name = found.heldout_source.description
    _say_copies(train_source.description, train.pixels, train_rows, heldout.pixels, heldout_rows)
    train_labels = None if train.labels is None else train.labels[train_rows]
    num_classes = count_classes(train.labels, train.class_names)
    # Of a few images kept some classes may be absent, and samples are asked for all of them: names say how many there are.
    names = train.class_names or (None if num_classes is None else tuple(map(str, range(num_classes))))
    storage = _choose(config.storage, train, len(train_rows), device)
    train_store = Store(
        train.pixels,
        train_rows,
        name=train_source.description,
        storage=storage,
        labels=train_labels,
        class_names=names,
        device=device,
    )
    heldout_store = Store(
        heldout.pixels,
        heldout_rows,
        name=heldout_name,
        # Seen now and then, and then mostly through `read`: not worth room on the device.
        storage=_heldout_storage(storage, heldout),
        labels=heldout_labels,
        class_names=names if heldout_labels is not None else None,
        device=device,
    )
    classes = f", {num_classes} classes" if num_classes else ""
    where = {
        "device": f"on {device}",
        "memory": "in memory",
        "disk": "on disk",
        "stream": "decoded as they are seen",
    }
    return Dataset(
        train=train_store,
        heldout=heldout_store,
        channels=channels,
        resolution=config.resolution,
        class_names=train.class_names,
        num_classes=num_classes,
        description=(
            f"{train_source.description}: {len(train_rows):,} training and {len(heldout_rows):,} held-out "
            f"images of {height}×{width}×{channels}{classes}, kept {where[storage]}"
        ),
        commit=train_source.commit,
    )


def _open_made(config: DataConfig, seed: int, device: torch.device, progress: bool) -> Dataset:
    """Samples that are made here, with held-out ones drawn apart from them."""
    from gantk.data import made

    modes: KnownModes
    train: made.MixturePixels | made.StackedPixels
    heldout: made.MixturePixels | made.StackedPixels
    if config.source == "mixture":
        mixture = made.mixture_of(config)
        count = min(config.count or made.POINTS, config.limit or made.POINTS)
        train = made.MixturePixels(mixture, count, "train")
        heldout = made.MixturePixels(mixture, made.HELDOUT_POINTS, "heldout")
        name, labels, heldout_labels, class_names = f"the {mixture.name} of Gaussians", None, None, None
        modes, commit = made.MixtureModes(mixture, count), None
        what = f"points, {mixture.modes} modes"
    else:
        digits = open_dataset(made.digits_config(config), seed=seed, device="cpu", progress=progress)
        for store in (digits.train, digits.heldout):
            # Where some digit is missing, classes are not numbered by digits.
            store.labels, store.class_names = made.check_digits(store), None
        count = min(config.count or made.STACKS, config.limit or made.STACKS)
        train = made.StackedPixels(digits.train, count, "train")
        heldout = made.StackedPixels(digits.heldout, made.HELDOUT_STACKS, "heldout")
        name = f"stacks of {digits.train.name}"
        labels, heldout_labels = (train.labels, heldout.labels) if config.use_labels else (None, None)
        class_names = tuple(f"{mode:03d}" for mode in range(1000)) if config.use_labels else None
        modes, commit = made.StackedModes(digits.train, count), digits.commit
        what = f"images of {'×'.join(map(str, train.shape))}, 1,000 modes"
    size = count * int(np.prod(train.shape)) * train.dtype.itemsize
    storage = _storage("auto" if config.storage == "stream" else config.storage, size, device)
    stores = [
        Store(
            pixels,
            np.arange(rows),
            name=title,
            storage=kept,
            labels=classes,
            class_names=class_names,
            device=device,
        )
        for pixels, rows, title, kept, classes in (
            (train, count, name, storage, labels),
            (
                heldout,
                len(heldout),
                f"{name}, held-out draws",
                "memory" if storage == "device" else storage,
                heldout_labels,
            ),
        )
    ]
    return Dataset(
        train=stores[0],
        heldout=stores[1],
        channels=train.shape[2],
        resolution=config.resolution,
        class_names=class_names,
        num_classes=None if class_names is None else len(class_names),
        description=f"{name}: {count:,} training and {len(heldout):,} held-out {what}",
        modes=modes,
        commit=commit,
    )


def heldout_share(count: int, fraction: float, seed: int, labels: np.ndarray | None = None) -> np.ndarray:
    """Which of `count` images to set apart: sorted int64, at least one, round(fraction × count) of them.

    It depends on (seed, count), and on the labels where there are any: each class then gives its share, to
    within one image (systematic sampling of the shuffled images in the order of their classes).
    """
    chosen = max(1, round(fraction * count))
    digest = hashlib.sha256(f"gantk held-out {seed} {count}".encode()).digest()
    order = np.random.default_rng(int.from_bytes(digest[:8], "little")).permutation(count)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    places = ((np.arange(chosen) + 0.5) * count / chosen).astype(np.int64)
    return np.sort(order[places])


def _open(source: Source, transform: Transform, storage: str, tolerance: Tolerance, progress: bool) -> _Opened:
    if storage != "stream":
        try:
            decoded = open_decoded(source, transform, tolerance=tolerance, progress=progress)
        except NoRoomError as error:
            if storage != "auto":
                raise
            logger.warning("%s; decoding images as they are seen instead, which is slower", str(error).split(";")[0])
        else:
            good = _without(source, len(decoded.images), tolerance, decoded.damaged)
            return _Opened(
                CachedPixels(decoded, source, transform), len(decoded.images), decoded.labels, decoded.class_names, good
            )
    channels, damaged = look_through(source, transform, tolerance)
    good = _without(source, len(source), tolerance, damaged)
    pixels = StreamedPixels(source, replace(transform, channels=channels))
    return _Opened(pixels, len(source), source.labels, source.class_names, good)


def _without(source: Source, count: int, tolerance: Tolerance, damaged: dict[int, str]) -> np.ndarray:
    """The rows that are not damaged; says which are."""
    sentence = Damaged(source, tolerance, damaged).sentence()
    if sentence is not None:
        _say(sentence)
    return np.setdiff1d(np.arange(count), np.array(sorted(damaged), dtype=np.int64))


def _say_copies(where: str, train: Pixels, rows: np.ndarray, heldout: Pixels, heldout_rows: np.ndarray) -> None:
    """Warns of exact copies; a stream is not decoded for that."""
    if not isinstance(train, CachedPixels) or not isinstance(heldout, CachedPixels):
        return
    hashes, others = train.hashes(), heldout.hashes()
    if hashes is not None and others is not None:
        mine, theirs = hashes[rows], others[heldout_rows]
        told = copies.sentence(len(rows), copies.count_copies(mine), len(theirs), copies.count_shared(theirs, mine))
        if told:
            _say(f"{where}: {told}")


def _say(sentence: str) -> None:
    """A warning, once for all the processes of a run."""
    if os.environ.get("RANK", "0") == "0":
        logger.warning("%s", sentence)


def _choose(wanted: str, opened: _Opened, count: int, device: torch.device) -> Storage:
    if isinstance(opened.pixels, StreamedPixels):
        return "stream"
    return _storage(wanted, count * int(np.prod(opened.pixels.shape)), device)


def _storage(wanted: str, size: int, device: torch.device) -> Storage:
    """Where `size` bytes go."""
    if wanted == "auto":
        if device.type == "cuda" and size < DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
            return "device"
        return "memory" if _fits_memory(size) else "disk"
    if wanted == "device":
        return "device" if device.type != "cpu" else "memory"
    return "memory" if wanted == "memory" else "disk"


def _heldout_storage(train: Storage, heldout: _Opened) -> Storage:
    if isinstance(heldout.pixels, StreamedPixels):
        return "stream"
    size = heldout.count * int(np.prod(heldout.pixels.shape))
    return "memory" if train in ("device", "memory") and _fits_memory(size) else "disk"


def _fits_memory(size: int) -> bool:
    processes = max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
    return size * processes < MEMORY_SHARE * psutil.virtual_memory().available
