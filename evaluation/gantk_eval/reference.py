"""Reference statistics in files: the mean and covariance of a set's features, as pytorch-fid, clean-fid and ADM keep them.

`.npz` with `mu` [d] and `sigma` [d, d], float64. What is written here also says how it was made (`gantk`: JSON; `count`),
which those programs ignore. ADM's files hold images besides, for what needs them, and `mu_s`, `sigma_s`, for sFID, which
is not computed here: they are not read, and not written.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gantk_eval.collapse.verdict import inconclusive
from gantk_eval.errors import DataError, UserError
from gantk_eval.extraction import Extraction
from gantk_eval.extractors import Extractor
from gantk_eval.extractors.choice import build_extractor, choose_extractor
from gantk_eval.extractors.inception import InceptionExtractor, find_weights
from gantk_eval.features import Features
from gantk_eval.images import ImageSet
from gantk_eval.measures import measure
from gantk_eval.metrics import metric_name
from gantk_eval.protocol import Protocol
from gantk_eval.report import Report, left_out, score
from gantk_eval.statistics import Statistics

__all__ = [
    "ReferenceStatistics",
    "build_reference",
    "evaluate_against_statistics",
    "holds_statistics",
    "read_reference",
    "write_reference",
]

SAME = ("extractor", "weights_sha256", "resize", "precision")
"""What must agree between a reference and the features that are compared with it."""
UNKNOWN_COUNT = 1 << 40


@dataclass(frozen=True)
class ReferenceStatistics:
    """`mean` float64 [d], `covariance` float64 [d, d] (divided by count - 1); `count`: None where the file does not say.

    `made`: extractor, weights_sha256, resize, precision, images_sha256, shape; empty in files of other programs.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None
    made: dict[str, Any]
    name: str

    def fingerprint(self) -> str:
        """sha256 of the numbers."""
        data = np.ascontiguousarray(self.mean).tobytes() + np.ascontiguousarray(self.covariance).tobytes()
        return hashlib.sha256(data).hexdigest()


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
            mean, covariance = file["mu"].astype(np.float64), file["sigma"].astype(np.float64)
            count = int(file["count"]) if "count" in file.files else None
            made = json.loads(str(file["gantk"])) if "gantk" in file.files else {}
    except Exception as error:
        what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"cannot read {path}: {what}; give reference statistics, an .npz with mu and sigma") from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise DataError(
            f"{path} holds mu of shape {mean.shape} and sigma of {covariance.shape}; they must be [d] and [d, d]"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DataError(f"{path} holds numbers that are not finite; build it again")
    if not np.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-9 * float(np.abs(covariance).max() or 1.0)):
        raise DataError(f"sigma in {path} is not symmetric, so it is no covariance; build it again")
    return ReferenceStatistics(mean, covariance, count, dict(made), str(path))


def write_reference(path: str | Path, statistics: ReferenceStatistics) -> None:
    """Writes an .npz that pytorch-fid, clean-fid and `read_reference` read. Raises DataError where that fails."""
    arrays: dict[str, np.ndarray] = {"mu": statistics.mean, "sigma": statistics.covariance}
    if statistics.count is not None:
        arrays["count"] = np.array(statistics.count)
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


def _extractor(
    wanted: str | Path | None, weights: str | Path | None, precision: str, shape: tuple[int, int], device: Any
) -> tuple[str, Extractor]:
    """The name under which scores ask for it, and the extractor."""
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
    device: Any = "cpu",
    batch_size: int = 100,
    progress: bool = False,
) -> ReferenceStatistics:
    """The statistics of a set, from the cache where its content, the extractor and its weights have been seen before.

    Memory does not grow with the number of images. Raises UserError for an extractor that statistics are of no use with,
    WeightsError for missing weights.
    """
    _, network = _extractor(extractor, inception_weights, precision, images.shape[:2], device)
    extraction = Extraction(
        {"reference": network}, device=device, batch_size=batch_size, progress=progress, only_statistics=["reference"]
    )
    found = extraction.cached(images, "reference")["reference"].statistics
    made = {key: getattr(network, {"extractor": "name"}.get(key, key)) for key in SAME}
    made |= {"images_sha256": images.fingerprint(), "shape": list(images.shape)}
    return ReferenceStatistics(found.mean, found.covariance, found.count, made, images.name)


def evaluate_against_statistics(
    fake: ImageSet,
    reference: ReferenceStatistics,
    *,
    metrics: Any = None,
    extractor: str | Path | None = None,
    inception_weights: str | Path | None = None,
    precision: str = "fp32",
    device: Any = "cpu",
    batch_size: int = 100,
    progress: bool = False,
    **_: Any,
) -> Report:
    """The Fréchet distance of generated images from statistics: all that can be had without the reference's images.

    Raises DataError where another metric is named, the dimensions differ, or the file says that it was made otherwise.
    """
    from gantk_eval import distributed

    kind, network = _extractor(extractor, inception_weights, precision, fake.shape[:2], device)
    name = metric_name("fd", kind)
    others = [m for m in metrics or () if m not in ("fid", name)]
    if others:
        raise DataError(
            f"{reference.name} holds statistics, which allow fid alone; give the real images for {', '.join(others)}"
        )
    if network.dims != len(reference.mean):
        raise DataError(
            f"{reference.name} is of {len(reference.mean)} features, and {network.name} has {network.dims}; name the extractor "
            "that it was made with (--extractor)"
        )
    for key in SAME if reference.made else ():
        mine = getattr(network, {"extractor": "name"}.get(key, key))
        if reference.made.get(key) != mine:
            raise DataError(
                f"{reference.name} was made with {key} {reference.made.get(key)}, and in use is {mine}; build it again"
            )
    if not reference.made and distributed.rank() == 0:
        print(
            f"warning: {reference.name} does not say how it was made: with another resize or other weights than "
            f"{network.name}'s the distance means nothing",
            file=sys.stderr,
        )
    extraction = Extraction(
        {"fake": network}, device=device, batch_size=batch_size, progress=progress, only_statistics=["fake"]
    )
    generated = extraction.extract(fake, ["fake"], "generated images")[0]["fake"]
    fingerprint = fake.fingerprint() if distributed.rank() == 0 else ""

    def work() -> bytes:
        total = Statistics(reference.count or UNKNOWN_COUNT, reference.mean, reference.covariance)
        real = Features(np.empty((0, network.dims)), network, total=total)
        found = measure("fd", generated, real, 0)
        entry = score(
            found.value,
            standard_error=found.standard_error,
            extrapolated=found.extrapolated,
            n_fake=len(fake),
            n_real=reference.count or 0,
        )
        if found.warning:
            entry["warning"] = found.warning
        protocol = _protocol(fake, reference, network, fingerprint, device)
        why = f"{reference.name} holds statistics and no images, and the tests need both"
        skipped = left_out(images=fake)
        return (
            Report({name: entry}, inconclusive(why), protocol.to_dict(), skipped=skipped).to_json(indent=None).encode()
        )

    return Report.from_dict(json.loads(distributed.from_first(work)))


def _protocol(
    fake: ImageSet, reference: ReferenceStatistics, network: Extractor, fingerprint: str, device: Any
) -> Protocol:
    import torch

    return Protocol(
        extractor=network.name,
        weights_sha256=network.weights_sha256,
        resize=network.resize,
        precision=network.precision,
        shape=fake.shape,
        n_fake=len(fake),
        n_real=reference.count or 0,
        n_heldout=None,
        seed=0,
        # Built from known images it is the same reference as they are.
        reference_sha256=str(reference.made.get("images_sha256") or reference.fingerprint()),
        heldout_sha256=None,
        fake_sha256=fingerprint,
        is_splits=None,
        kid_subsets=None,
        kid_subset_size=None,
        neighbour_images=None,
        software={"torch": torch.__version__, "numpy": np.__version__, "device": str(device)},
    )
