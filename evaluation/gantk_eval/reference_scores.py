"""Scores against statistics, without the images that they are of: the Fréchet distances."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gantk_eval import distributed
from gantk_eval.collapse.verdict import inconclusive
from gantk_eval.errors import DataError
from gantk_eval.extraction import Extraction
from gantk_eval.extractors import Extractor
from gantk_eval.extractors.inception import InceptionExtractor
from gantk_eval.extractors.inception_spatial import InceptionSpatialExtractor
from gantk_eval.features import Features
from gantk_eval.images import ImageSet
from gantk_eval.measures import measure
from gantk_eval.metrics import metric_name
from gantk_eval.protocol import Protocol
from gantk_eval.reference import MADE_WITH, Moments, ReferenceStatistics, extractor_of_statistics
from gantk_eval.report import Report, left_out, score
from gantk_eval.statistics import Statistics

__all__ = ["allowed_by_statistics", "evaluate_against_statistics"]

UNKNOWN_COUNT = 1 << 40


def allowed_by_statistics(metric: str) -> bool:
    """Whether a metric, by its name, needs no more of the reference than its statistics."""
    if metric in ("fd_pixel_pca", "fd_classifier") or metric.endswith(
        "_per_class"
    ):  # made from the images; of their labels
        return False
    return metric in ("fid", "sfid") or metric.startswith("fd_")


def evaluate_against_statistics(
    fake: ImageSet,
    reference: ReferenceStatistics,
    *,
    metrics: Sequence[str] | None = None,
    extractor: str | Path | None = None,
    inception_weights: str | Path | None = None,
    precision: str = "fp32",
    device: Any = "cpu",
    batch_size: int = 100,
    progress: bool = False,
    **_: Any,
) -> Report:
    """The Fréchet distances of generated images from statistics: all that can be had without the reference's images.

    `metrics`: `fid` (or `fd_` with the extractor's name) and `sfid`; None takes the first.
    Raises DataError where another metric is named, the dimensions differ, or the file says that it was made otherwise.
    """
    kind, network = extractor_of_statistics(extractor, inception_weights, precision, fake.shape[:2], device)
    compared: dict[str, tuple[Extractor, Moments]] = {}
    name = metric_name("fd", kind)
    for asked in dict.fromkeys(metrics or (name,)):
        if asked == "sfid":
            spatial = _spatial(network, reference)
            compared[metric_name("fd", spatial[0].name)] = spatial
        elif asked == name or (asked == "fid" and isinstance(network, InceptionExtractor)):
            compared[name] = (network, reference.features)
        elif asked == "fid":
            raise DataError(f"fid is of Inception's features, and the extractor is {network.name}: say {name}")
        else:
            raise DataError(
                f"{reference.name} holds statistics, which allow fid and sfid alone; give the real images for {asked}"
            )
    for each, moments in compared.values():
        if each.dims != len(moments.mean) and moments is reference.spatial:
            raise DataError(
                f"mu_s in {reference.name} is of {len(moments.mean)} features, and sFID's are {each.dims}; build it again"
            )
        if each.dims != len(moments.mean):
            raise DataError(
                f"{reference.name} is of {len(moments.mean)} features, and {each.name} has {each.dims}; name the extractor "
                "that it was made with (--extractor)"
            )
    _check_made(network, reference, fake)
    extraction = Extraction(
        {name: each for name, (each, _) in compared.items()},
        device=device,
        batch_size=batch_size,
        progress=progress,
        only_statistics=list(compared),
    )
    generated = extraction.extract(fake, list(compared), "generated images")[0]
    fingerprint = fake.fingerprint() if distributed.rank() == 0 else ""

    def work() -> bytes:
        entries = {}
        for name, (each, moments) in compared.items():
            total = Statistics(reference.count or UNKNOWN_COUNT, moments.mean, moments.covariance)
            found = measure("fd", generated[name], Features(np.empty((0, each.dims)), each, total=total), 0)
            entries[name] = score(
                found.value,
                standard_error=found.standard_error,
                extrapolated=found.extrapolated,
                n_fake=len(fake),
                n_real=reference.count or 0,
            )
            if found.warning:
                entries[name]["warning"] = found.warning
        protocol = _protocol(fake, reference, [each for each, _ in compared.values()], fingerprint, device)
        why = f"{reference.name} was compared with by its statistics alone, and the tests need real images (--heldout)"
        skipped = left_out(images=fake)
        report = Report(entries, inconclusive(why), protocol.to_dict(), skipped=skipped)
        return report.to_json(indent=None).encode()

    return Report.from_dict(json.loads(distributed.from_first(work)))


def _spatial(network: Extractor, reference: ReferenceStatistics) -> tuple[Extractor, Moments]:
    """What sFID compares."""
    if not isinstance(network, InceptionExtractor):
        raise DataError(
            f"sfid is of Inception's features, and the extractor is {network.name}; leave one of the two out"
        )
    if reference.spatial is None:
        raise DataError(
            f"{reference.name} has not both mu_s and sigma_s, which sfid is worked out from; build it with "
            "`gantk reference build --form adm`, or give the real images"
        )
    return InceptionSpatialExtractor(network), reference.spatial


def _check_made(network: Extractor, reference: ReferenceStatistics, fake: ImageSet) -> None:
    """Raises DataError where the statistics were made otherwise; warns where they do not say how."""
    made_of = reference.made.get("shape")
    if made_of is not None and list(made_of)[:2] != list(fake.shape[:2]):
        raise DataError(
            f"{reference.name} is of images of {made_of[1]}×{made_of[0]}, and {fake.name} is {fake.shape[1]}×{fake.shape[0]}; "
            "bring both to one size"
        )
    for key in MADE_WITH if reference.made else ():
        mine = getattr(network, {"extractor": "name"}.get(key, key))
        if reference.made.get(key) != mine:
            raise DataError(
                f"{reference.name} was made with {key} {reference.made.get(key)}, and in use is {mine}; build it again"
            )
    if not reference.made:
        distributed.say(
            f"warning: {reference.name} does not say how it was made: with another resize or other weights than "
            f"{network.name}'s the distance means nothing"
        )


def _protocol(
    fake: ImageSet, reference: ReferenceStatistics, networks: Sequence[Extractor], fingerprint: str, device: Any
) -> Protocol:
    import torch

    return Protocol(
        extractor="+".join(e.name for e in networks),
        weights_sha256="+".join(e.weights_sha256 for e in networks),
        resize="+".join(e.resize for e in networks),
        precision="+".join(e.precision for e in networks),
        shape=fake.shape,
        n_fake=len(fake),
        n_real=reference.count or 0,
        seed=0,
        # Built from known images it is the same reference as they are.
        reference_sha256=str(
            reference.made.get("images_sha256")
            or reference.fingerprint(spatial=any(isinstance(e, InceptionSpatialExtractor) for e in networks))
        ),
        fake_sha256=fingerprint,
        software={"torch": torch.__version__, "numpy": np.__version__, "device": str(device)},
    )
