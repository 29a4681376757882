"""Reference statistics in files: the mean and covariance of a set's features, as pytorch-fid, clean-fid and ADM keep them.

`.npz` with `mu` [d] and `sigma` [d, d], float64. ADM's have besides `mu_s` and `sigma_s`, of the spatial features that sFID
compares, and images in `arr_0`, from which its evaluator works out what statistics do not allow. What is written here also
says how it was made (`gantk`: JSON; `count`), which those programs ignore.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gantk_eval import distributed
from gantk_eval.cache import pack, unpack
from gantk_eval.errors import DataError, UserError
from gantk_eval.extraction import Extraction
from gantk_eval.extractors import Extractor
from gantk_eval.extractors.choice import build_extractor, choose_extractor
from gantk_eval.extractors.inception import InceptionExtractor, find_weights
from gantk_eval.extractors.inception_spatial import InceptionSpatialExtractor
from gantk_eval.images import ImageSet

__all__ = [
    "MADE_WITH",
    "Moments",
    "ReferenceStatistics",
    "build_reference",
    "extractor_of_statistics",
    "holds_images_too",
    "holds_statistics",
    "read_reference",
    "write_reference",
]

MADE_WITH = ("extractor", "weights_sha256", "resize", "precision")
"""What must agree between a reference and the features that are compared with it."""
ADM_IMAGES = 10_000
"""Images beside the statistics of ADM's reference batches."""
ADM_SEED = 2020


@dataclass(frozen=True)
class Moments:
    """`mean` float64 [d], `covariance` float64 [d, d], divided by the count less 1."""

    mean: np.ndarray
    covariance: np.ndarray

    def __post_init__(self) -> None:
        """Raises ValueError, with what is wrong, for what is no mean and covariance."""
        mean, covariance = self.mean, self.covariance
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(f"of shapes {mean.shape} and {covariance.shape}, where [d] and [d, d] are due")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError("not finite everywhere")
        if not np.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-9 * float(np.abs(covariance).max() or 1.0)):
            raise ValueError("not symmetric, so no covariance")
        if (covariance.diagonal() < 0).any():
            raise ValueError("negative on the diagonal, so no covariance")


@dataclass(frozen=True)
class ReferenceStatistics:
    """`features`: their mean and covariance; `spatial`: those of Inception's spatial features, for sFID, where they are known.
    `count`: of the images; None where the file does not say.

    `made`: extractor, weights_sha256, resize, precision, images_sha256, shape; empty in files of other programs.
    """

    features: Moments
    count: int | None
    made: dict[str, Any]
    name: str
    spatial: Moments | None = None

    def fingerprint(self, *, spatial: bool = False) -> str:
        """sha256 of the numbers of `features`; with `spatial` of those too."""
        digest = hashlib.sha256()
        for moments in (self.features, self.spatial if spatial else None):
            if moments is not None:
                digest.update(np.ascontiguousarray(moments.mean).tobytes())
                digest.update(np.ascontiguousarray(moments.covariance).tobytes())
        return digest.hexdigest()


def holds_statistics(path: str | Path) -> bool:
    """Whether a file is an .npz with `mu` and `sigma`."""
    return {"mu.npy", "sigma.npy"} <= _arrays_in(path)


def holds_images_too(path: str | Path) -> bool:
    """Whether a file of statistics has images besides, as ADM's reference batches do."""
    return holds_statistics(path) and bool({"images.npy", "arr_0.npy"} & _arrays_in(path))


def _arrays_in(path: str | Path) -> set[str]:
    path = Path(path)
    if path.suffix.lower() != ".npz" or not path.is_file():
        return set()
    try:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return set()


def read_reference(path: str | Path) -> ReferenceStatistics:
    """Reads statistics; never unpickles. Raises DataError where the file is damaged or is none, or the arrays do not fit."""
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            names = ["mu", "sigma", *(name for name in ("mu_s", "sigma_s") if name in file.files)]
            arrays = {name: _real_numbers(file[name], name) for name in names}
            count = int(file["count"]) if "count" in file.files else None
            made = json.loads(str(file["gantk"])) if "gantk" in file.files else {}
            if count is not None and count < 2:
                raise ValueError(f"`count` is {count}, and statistics are of at least 2 images")
            if not isinstance(made, dict):
                raise ValueError("`gantk` does not say how the file was made")
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}; give reference statistics, an .npz with mu and sigma") from error
    except Exception as error:
        what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"cannot read {path}: {what}; give reference statistics, an .npz with mu and sigma") from error
    features = _moments(path, arrays, "mu", "sigma")
    spatial = _moments(path, arrays, "mu_s", "sigma_s") if {"mu_s", "sigma_s"} <= set(arrays) else None
    return ReferenceStatistics(features, count, dict(made), str(path), spatial)


def _real_numbers(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds {array.dtype} values")
    return array.astype(np.float64)


def _moments(path: Path, arrays: Mapping[str, np.ndarray], mean: str, covariance: str) -> Moments:
    try:
        return Moments(arrays[mean], arrays[covariance])
    except ValueError as error:
        raise DataError(f"{mean} and {covariance} in {path} are {error}; build it again") from error


def write_reference(path: str | Path, statistics: ReferenceStatistics, images: ImageSet | None = None) -> None:
    """Writes an .npz that `read_reference`, pytorch-fid and clean-fid read; with `images` and `spatial` also ADM's evaluator.

    `images`: those that the statistics are of; up to 10,000 of them, drawn by a fixed seed, go into the file, as RGB.
    Raises DataError where it cannot be written.
    """
    arrays = {"mu": statistics.features.mean, "sigma": statistics.features.covariance}
    if statistics.spatial is not None:
        arrays |= {"mu_s": statistics.spatial.mean, "sigma_s": statistics.spatial.covariance}
    if statistics.count is not None:
        arrays["count"] = np.array(statistics.count)
    if images is not None:
        chosen = np.sort(np.random.default_rng(ADM_SEED).permutation(len(images))[:ADM_IMAGES])
        pixels = images.read(chosen)
        arrays["arr_0"] = np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels
    arrays["gantk"] = np.array(json.dumps(statistics.made))
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def extractor_of_statistics(
    wanted: str | Path | None, weights: str | Path | None, precision: str, shape: tuple[int, int], device: Any
) -> tuple[str, Extractor]:
    """The name under which scores ask for it, and the extractor.

    Raises UserError for one that is made from the reference's images, WeightsError for missing weights.
    """
    choice = choose_extractor(wanted or "inception")
    if choice.name == "inception":
        path, custom = find_weights(choice.file or weights)
        network = InceptionExtractor(path, custom=custom, device=device, precision=precision)
        return network.name, network
    if choice.name in ("classifier", "pixel_pca"):
        raise UserError(f"{choice.name} is made from the reference's images, so statistics alone are of no use with it")
    return choice.name, build_extractor(choice, shape=shape, device=device)


def build_reference(
    images: ImageSet,
    *,
    extractor: str | Path | None = None,
    inception_weights: str | Path | None = None,
    precision: str = "fp32",
    spatial: bool = False,
    device: Any = "cpu",
    batch_size: int = 100,
    progress: bool = False,
) -> ReferenceStatistics:
    """The statistics of a set, from the cache where its content, the extractor and its weights have been seen before.

    Memory does not grow with the number of images. `spatial`: also those that sFID compares, from the same pass. Raises
    UserError for an extractor that statistics are of no use with, or `spatial` with another than Inception; DataError for
    fewer than 2 images, WeightsError for missing weights. Every rank gets the same.
    """
    if len(images) < 2:
        raise DataError(
            f"{images.name} holds {len(images)} image; statistics need at least 2, and thousands to mean much"
        )
    _, network = extractor_of_statistics(extractor, inception_weights, precision, images.shape[:2], device)
    networks = {"features": network}
    if spatial:
        if not isinstance(network, InceptionExtractor):
            raise UserError(f"sFID's statistics are of Inception, and the extractor is {network.name}; leave it out")
        networks["spatial"] = InceptionSpatialExtractor(network)
    extraction = Extraction(
        networks, device=device, batch_size=batch_size, progress=progress, only_statistics=list(networks)
    )
    found = extraction.cached(images, "reference")

    def numbers() -> bytes:  # features that were cached are on the first rank alone
        statistics = {name: found[name].statistics for name in networks}
        means = {f"{name}.mean": each.mean for name, each in statistics.items()}
        return pack(means | {f"{name}.covariance": each.covariance for name, each in statistics.items()})

    arrays = unpack(distributed.from_first(numbers))
    moments = {name: Moments(arrays[f"{name}.mean"], arrays[f"{name}.covariance"]) for name in networks}
    made = {key: getattr(network, {"extractor": "name"}.get(key, key)) for key in MADE_WITH}
    made |= {"images_sha256": images.fingerprint(), "shape": list(images.shape)}
    return ReferenceStatistics(moments["features"], len(images), made, images.name, moments.get("spatial"))
