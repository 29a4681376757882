"""Samples that are made here: points of a Gaussian mixture, and Stacked MNIST. Their modes are known.

Both are fixed data sets, drawn by address: sample i is the same in every run, whatever the run's seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gantk_eval.errors import DataError
from gantk_eval.known_modes import KnownModesEvaluator, MixtureEvaluator
from gantk_eval.mixture import MIXTURES, Mixture

from gantk.config.schema import DataConfig
from gantk.data.hashing import digest_of
from gantk.data.store import Store
from gantk.draws import Draws, key_of

POINTS, HELDOUT_POINTS = 100_000, 10_000
STACKS, HELDOUT_STACKS = 128_000, 26_000


class MixturePixels:
    """Points in the plane as images of one pixel and two channels, float32; `part` tells training from held-out draws."""

    shape = (1, 1, 2)
    dtype = torch.float32

    def __init__(self, mixture: Mixture, count: int, part: str) -> None:
        self._identity = digest_of("mixture 2", mixture.name, mixture.fingerprint(), count, part)
        index = torch.arange(count)
        modes = Draws(key_of("mixture", mixture.name, part, "mode"), index).integers(mixture.modes).numpy()
        noise = Draws(key_of("mixture", mixture.name, part, "noise"), index, torch.float64).normal(2).numpy()
        points = mixture.means[modes] + mixture.std * noise
        self._points = points.astype(np.float32).reshape(count, *self.shape)

    def __len__(self) -> int:
        return len(self._points)

    def rows(self, rows: np.ndarray) -> np.ndarray:
        return self._points[rows]

    def fingerprint(self, key: str) -> str | None:
        return digest_of(self._identity, key)

    def keep_fingerprint(self, key: str, value: str) -> None:
        """Needs no keeping."""

    def identity(self, key: str) -> str:
        return digest_of(self._identity, key)


class StackedPixels:
    """Three digits as the channels of one image, put together when they are read.

    `digits`: grey images with labels 0 … 9. Which three make stack i is drawn uniformly from all of them, as in the published
    protocol, so the modes have MNIST's own shares.
    """

    dtype = torch.uint8

    def __init__(self, digits: Store, count: int, part: str) -> None:
        assert digits.labels is not None
        height, width, _ = digits.shape
        self.shape = (height, width, 3)
        self._digits = digits
        index = torch.arange(count)
        self._chosen = Draws(key_of("stacked_mnist", part), index).integers(len(digits), 3).numpy()
        self._identity = digest_of("stacked 2", digits.fingerprint(), count, part)
        self._made_from = digest_of("stacked 2", digits.identity(), count, part)
        self.labels = (digits.labels[self._chosen] * np.array([100, 10, 1])).sum(axis=1)

    def __len__(self) -> int:
        return len(self._chosen)

    def rows(self, rows: np.ndarray) -> np.ndarray:
        channels = self._digits.read(self._chosen[rows].reshape(-1))
        height, width, _ = self.shape
        return np.ascontiguousarray(channels.reshape(len(rows), 3, height, width).transpose(0, 2, 3, 1))

    def fingerprint(self, key: str) -> str | None:
        return digest_of(self._identity, key)

    def keep_fingerprint(self, key: str, value: str) -> None:
        """Needs no keeping."""

    def identity(self, key: str) -> str:
        return digest_of(self._made_from, key)


class MixtureModes:
    """What is known of a mixture's points."""

    def __init__(self, mixture: Mixture, count: int) -> None:
        self.mixture, self._count = mixture, count
        self.extent: float | None = mixture.extent

    def evaluator(self, *, device: Any, progress: bool = False, **options: Any) -> KnownModesEvaluator:
        return MixtureEvaluator(self.mixture, n_real=self._count, **options)


class StackedModes:
    """What is known of stacked digits: the digits themselves, from which a classifier learns to read them."""

    extent: float | None = None

    def __init__(self, digits: Store, count: int) -> None:
        self._digits, self._count = digits, count

    def evaluator(self, *, device: Any, progress: bool = False, **options: Any) -> KnownModesEvaluator:
        from gantk_eval.stacked import StackedEvaluator

        return StackedEvaluator(self._digits, n_real=self._count, device=device, progress=progress, **options)


def mixture_of(config: DataConfig) -> Mixture:
    assert config.mixture is not None
    return MIXTURES[config.mixture]


def digits_config(config: DataConfig) -> DataConfig:
    """The data config of the digits that `source: stacked_mnist` is made from."""
    from gantk.data.places import looks_local

    path = config.path or ""
    local = looks_local(path)
    keys = ("path", "revision", "name", "split", "heldout_path", "heldout_split", "heldout_fraction", "image_column")
    values = {key: getattr(config, key) for key in (*keys, "label_column", "resolution", "storage")}
    if local:
        for key in ("revision", "name", "heldout_split"):
            if values[key] is not None:
                raise DataError(
                    f"data.{key} belongs to a dataset on the hub, and data.path={path} is on this disk; take it out"
                )
        values["split"] = "train"
    elif config.heldout_path is not None:
        raise DataError(
            f"data.heldout_path goes with files on this disk, and data.path={path} is on the hub; take it out"
        )
    return DataConfig(source="parquet" if local else "hub", channels=1, **values)


def check_digits(digits: Store) -> np.ndarray:
    """The digit of each image: its label, or the number that is the name of its class.

    Raises DataError where the images are not labelled 0 … 9.
    """
    labels, names = digits.labels, digits.class_names
    if labels is not None and names is not None and all(name.isdecimal() for name in names):
        labels = np.array([int(name) for name in names], dtype=np.int64)[labels]
    if labels is None or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{digits.name} has no labels 0 … 9, and stacks are made of digits; set data.path to MNIST")
    return labels
