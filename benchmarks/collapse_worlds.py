"""Real MNIST and CIFAR-10 as features, in worlds whose diversity is known, extracted once and kept in the cache folder.

A data set is cut in two. On the *reference* the classifier is trained and everything is fitted. The *pool* is real data that
the detector did not see: held-out and generated-like images are drawn from it without replacement. Worlds that change pixels
are the first images of the pool, changed and extracted anew.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gantk_eval import ArrayImages, open_images
from gantk_eval.cache import cached_arrays, key_of, pack, read_arrays, write_bytes
from gantk_eval.extractors.classifier import ClassifierExtractor
from gantk_eval.extractors.pixel_pca import PixelPCAExtractor
from gantk_eval.paths import cache_folder

REFERENCE = {"mnist": 15_000, "cifar10": 20_000, "digits": 700, "quickstart": 3500}
"""`quickstart`: MNIST again, with as many reference images as the quickstart trains on."""
CHANGED = 20_000
"""So many images of the pool are extracted again in each world that changes pixels."""
CHANGES = ("blur", "noise", "jpeg", "means", "blend")
DISPLACEMENTS = ("moved", "toned")
"""Worlds of images that are as varied as before and all a little off, in a file of their own."""
DISPLACED = 6000
GOOD = ("jittered", "mixed")
"""Worlds of images that a good generator might draw, in a file of their own, as many as of `DISPLACEMENTS`."""
TURN, SHIFT, SCALE = 7.0, 1.2, 0.06
"""Degrees, pixels and share that `jittered` images are turned, shifted and scaled by, at the most."""
GENERATORS = (
    "early",
    "generator at 100 kimg",
    "generator at 150 kimg",
    "generator at 200 kimg",
    "generator at 300 kimg",
)
"""Worlds of samples of a checkpoint, each in a file of its own (`add_generator`)."""
FORMAT = "worlds-2"
FIELDS = ("pixels", "deep", "logits", "labels")


@dataclass(frozen=True)
class Set:
    """Of some images: pixel-PCA and classifier features, class logits, true labels."""

    pixels: np.ndarray
    deep: np.ndarray
    logits: np.ndarray
    labels: np.ndarray

    @property
    def classes(self) -> np.ndarray:
        return self.logits.argmax(axis=1)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Set:
        return Set(*(getattr(self, field)[rows] for field in FIELDS))


@dataclass(frozen=True)
class World:
    """A data set: `reference` and `pool`, the `changed` first images of the pool, and the classifier's confusion."""

    name: str
    reference: Set
    pool: Set
    changed: dict[str, Set]
    confusion: np.ndarray
    class_names: tuple[str, ...]
    accuracy: float


def data_folder() -> Path:
    return Path(os.environ.get("GANTK_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def read_images(name: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """All images uint8 [n, H, W, C] in a seeded order, labels, class names; scikit-learn's digits as a stand-in."""
    if name == "digits":
        from sklearn.datasets import load_digits

        data = load_digits()
        images = (data.images / 16 * 255).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)[..., None]
        labels, names = data.target.astype(np.int64), tuple("0123456789")
    else:
        files = "mnist" if name == "quickstart" else name
        sets = [open_images(data_folder() / f"{files}_{split}.parquet") for split in ("train", "test")]
        images = np.concatenate([s.read(np.arange(len(s))) for s in sets])
        labels = np.concatenate([s.labels for s in sets])
        names = sets[0].class_names or tuple(str(i) for i in range(10))
    order = np.random.default_rng(0).permutation(len(images))[: 30_000 if name == "quickstart" else None]
    return images[order], labels[order], names


def available() -> tuple[str, ...]:
    there = tuple(n for n in ("mnist", "cifar10") if (data_folder() / f"{n}_train.parquet").is_file())
    return there or ("digits",)


def change(images: np.ndarray, labels: np.ndarray, how: str, means: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """uint8 [n, H, W, C] changed: `blur` (Gaussian, sigma 1 px), `noise` (sigma 10), `jpeg` (quality 30), `blend` (halfway
    to the class mean), `means` (the nearest of 50 cluster means, plus noise of sigma 2)."""
    from PIL import Image, ImageFilter

    generator = np.random.default_rng(1)
    if how == "blend":
        return np.rint((images.astype(np.float32) + means[labels]) / 2).astype(np.uint8)
    if how == "noise":
        return (images + generator.normal(0, 10, images.shape)).round().clip(0, 255).astype(np.uint8)
    if how == "means":
        flat = images.reshape(len(images), -1).astype(np.float32)
        middle = centers.reshape(len(centers), -1)
        nearest = ((middle**2).sum(1) - 2 * flat @ middle.T).argmin(axis=1)
        return (centers[nearest] + generator.normal(0, 2, images.shape)).round().clip(0, 255).astype(np.uint8)
    changed = np.empty_like(images)
    for number, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        if how == "blur":
            picture = picture.filter(ImageFilter.GaussianBlur(1))
        else:
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=30)
            picture = Image.open(buffer)
        changed[number] = np.asarray(picture).reshape(image.shape)
    return changed


def displace(images: np.ndarray, how: str) -> np.ndarray:
    """uint8 [n, H, W, C]: `moved` a pixel down and to the right, the edge repeated; or `toned`: grey strokes a pixel bolder,
    photographs brighter by 50."""
    if how == "moved":
        return np.pad(images, ((0, 0), (1, 0), (1, 0), (0, 0)), mode="edge")[:, :-1, :-1]
    if images.shape[-1] == 1:
        wide = np.pad(images, ((0, 0), (1, 0), (1, 0), (0, 0)))
        return np.maximum.reduce([wide[:, 1:, 1:], wide[:, :-1, 1:], wide[:, 1:, :-1], wide[:, :-1, :-1]])
    return (images.astype(np.int16) + 50).clip(0, 255).astype(np.uint8)


def improve(images: np.ndarray, labels: np.ndarray, how: str) -> np.ndarray:
    """uint8 [n, H, W, C] such as a good generator might draw: `jittered` (each turned, shifted and scaled a little, the edge
    mirrored), or `mixed` (three quarters of an image and a quarter of the nearest other one of its class)."""
    from scipy.ndimage import affine_transform

    generator = np.random.default_rng(2)
    if how == "mixed":
        partners = np.empty_like(images)
        for label in np.unique(labels):
            mine = np.flatnonzero(labels == label)
            flat = images[mine].reshape(len(mine), -1).astype(np.float32)
            far = np.square(flat).sum(1) - 2 * flat @ flat.T
            np.fill_diagonal(far, np.inf)
            partners[mine] = images[mine[far.argmin(axis=1)]]
        return np.rint(0.75 * images + 0.25 * partners.astype(np.float64)).astype(np.uint8)
    middle = (np.array(images.shape[1:3]) - 1) / 2
    changed = np.empty_like(images)
    for number, image in enumerate(images):
        angle = np.deg2rad(generator.uniform(-TURN, TURN))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn *= 1 + generator.uniform(-SCALE, SCALE)
        offset = middle - turn @ (middle + generator.uniform(-SHIFT, SHIFT, 2))
        for channel in range(image.shape[-1]):
            moved = affine_transform(image[..., channel].astype(np.float32), turn, offset, order=3, mode="mirror")
            changed[number, ..., channel] = moved.round().clip(0, 255)
    return changed


class _Extraction:
    """A data set's images, the extractors that its reference makes, and the `arrays` that they have given so far."""

    def __init__(self, name: str) -> None:
        self.images, self.labels, self.names = read_images(name)
        self.size = REFERENCE[name]
        reference = ArrayImages(self.images[: self.size], self.labels[: self.size], name=f"{name} reference")
        self.classifier, self.pca = ClassifierExtractor(reference, floor=0.0), PixelPCAExtractor(reference)
        self.arrays: dict[str, np.ndarray] = {}

    def add(self, role: str, pictures: np.ndarray, truth: np.ndarray) -> None:
        parts = np.array_split(np.arange(len(pictures)), len(pictures) // 500 + 1)
        deep = np.concatenate([self.classifier.features(pictures[p]) for p in parts])
        pixels = np.concatenate([self.pca.features(pictures[p]) for p in parts]).astype(np.float32)
        logits = self.classifier.logits(deep).astype(np.float32)
        for field, values in zip(FIELDS, (pixels, deep, logits, truth), strict=True):
            self.arrays[f"{role}.{field}"] = values


def _extract_displaced(name: str) -> dict[str, np.ndarray]:
    extraction = _Extraction(name)
    few = slice(extraction.size, extraction.size + DISPLACED)
    for how in DISPLACEMENTS:
        extraction.add(how, displace(extraction.images[few], how), extraction.labels[few])
    return extraction.arrays


def _extract_good(name: str) -> dict[str, np.ndarray]:
    extraction = _Extraction(name)
    few = slice(extraction.size, extraction.size + DISPLACED)
    for how in GOOD:
        extraction.add(how, improve(extraction.images[few], extraction.labels[few], how), extraction.labels[few])
    return extraction.arrays


def _extract(name: str) -> dict[str, np.ndarray]:
    from sklearn.cluster import MiniBatchKMeans

    extraction = _Extraction(name)
    images, labels, names = extraction.images, extraction.labels, extraction.names
    size, add, arrays = extraction.size, extraction.add, extraction.arrays
    arrays |= {"confusion": extraction.classifier.confusion, "names": np.array(names)}
    add("reference", images[:size], labels[:size])
    add("pool", images[size:], labels[size:])
    if not changes_of(name):
        return arrays
    few, truth = images[size : size + CHANGED], labels[size : size + CHANGED]
    means = np.stack([few[truth == c].mean(axis=0) for c in range(len(names))])
    flat = few[:10_000].reshape(len(few[:10_000]), -1).astype(np.float32)
    clusters = MiniBatchKMeans(50, random_state=0, n_init=1).fit(flat).cluster_centers_
    centers = clusters.reshape(50, *few.shape[1:])
    for how in CHANGES:
        add(how, change(few, truth, how, means, centers), truth)
    return arrays


def changes_of(name: str) -> tuple[str, ...]:
    """Worlds that change pixels for the worse; the quickstart's sizes are for good generators alone."""
    return () if name == "quickstart" else (*CHANGES, *DISPLACEMENTS)


def add_generator(name: str, checkpoint: str, role: str = "early", count: int = 6000) -> None:
    """Makes the world `role` of data set `name`: `count` samples of a gantk checkpoint, through the same extractors."""
    import torch

    from gantk.runs import find_checkpoint
    from gantk.sampling import load_sampler

    if role not in GENERATORS:
        raise ValueError(f"{role}: there are {', '.join(GENERATORS)}")
    extraction = _Extraction(name)
    sampler, _ = load_sampler(find_checkpoint(checkpoint).checkpoint, torch.device("cpu"), 0)
    parts = np.array_split(np.arange(count), count // 500)
    pictures = np.concatenate([sampler.images(part) for part in parts])
    if pictures.shape[1:] != extraction.images.shape[1:]:
        raise ValueError(f"{checkpoint} makes images of {pictures.shape[1:]}, {name} has {extraction.images.shape[1:]}")
    labels = [sampler.labels(part) for part in parts]
    truth = np.full(count, -1) if labels[0] is None else np.concatenate([np.asarray(part) for part in labels])
    extraction.add(role, pictures, truth)
    write_bytes(_generator_path(name, role), pack(extraction.arrays))


def _generator_path(name: str, role: str) -> Path:
    return cache_folder() / "worlds" / f"{key_of({'format': FORMAT, 'name': name, 'world': role})}.npz"


def load_world(name: str) -> World:
    """The data set's features, from the cache or extracted now (a minute or two)."""
    arrays = cached_arrays(
        "worlds", {"format": FORMAT, "name": name}, lambda: _extract(name), lambda a: "pool.deep" in a
    )
    if changes_of(name):
        arrays |= cached_arrays(
            "worlds", {"format": FORMAT, "name": name, "world": "displaced"}, lambda: _extract_displaced(name),
            lambda a: all(f"{how}.deep" in a for how in DISPLACEMENTS),
        )  # fmt: skip
    arrays |= cached_arrays(
        "worlds", {"format": FORMAT, "name": name, "world": "good"}, lambda: _extract_good(name),
        lambda a: all(f"{how}.deep" in a for how in GOOD),
    )  # fmt: skip
    generated = {role: found for role in GENERATORS if (found := read_arrays(_generator_path(name, role)))}
    for found in generated.values():
        arrays |= found
    changes = (*changes_of(name), *GOOD, *generated)

    def part(role: str) -> Set:
        return Set(*(arrays[f"{role}.{kind}"] for kind in FIELDS))

    confusion = arrays["confusion"]
    return World(
        name,
        part("reference"),
        part("pool"),
        {how: part(how) for how in changes},
        confusion,
        tuple(str(n) for n in arrays["names"]),
        float(np.trace(confusion) / confusion.sum()),
    )


if __name__ == "__main__":
    import sys

    # python -m benchmarks.collapse_worlds --generator mnist early_mnist ["generator at 150 kimg"]
    if "--generator" in sys.argv:
        data, checkpoint, *roles = sys.argv[sys.argv.index("--generator") + 1 :]
        add_generator(data, checkpoint, roles[0] if roles else "early")
    else:
        for world in sys.argv[1:] or available():
            found = load_world(world)
            print(world, len(found.reference), len(found.pool), f"classifier {found.accuracy:.1%}")
