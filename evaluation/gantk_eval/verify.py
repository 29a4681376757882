"""The cross-check: the user's own images through torch-fidelity and torchmetrics as well, side by side, with the reasons.

Three columns for each score. *gantk*: this package, end to end. *exact*: torch-fidelity's features, with its own functions on
them in float64 (for FID, whose eigenvalues there lose half of their digits, the nuclear norm of the centred features'
product): what the score is. *as shipped*: what the other library itself answers, with its usual types and settings.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gantk_eval.errors import DataError
from gantk_eval.extractors.blocks import aligned
from gantk_eval.extractors.inception import InceptionExtractor
from gantk_eval.extractors.precision import exact_float32
from gantk_eval.frechet import frechet_distance
from gantk_eval.images import ImageSet
from gantk_eval.inception_score import SPLITS, inception_score
from gantk_eval.kernel_distance import SUBSET_SIZE, kernel_distance
from gantk_eval.neighbours import Balls, neighbour_scores
from gantk_eval.progress import Bar
from gantk_eval.statistics import Statistics

__all__ = ["MOST_IMAGES", "Row", "Verification", "exact_frechet", "frechet_scale", "torch_fidelity_features", "verify"]

MOST_IMAGES = 500
"""Of each set: torch-fidelity sees some twenty images a second on a CPU."""


SCORE_LIMIT = 1e-6
"""Of FID and IS - 1, relative, from `ENOUGH_IMAGES` on. Seen with random weights, by sets of 100 and 200 images: 6e-7 and less."""
ENOUGH_IMAGES = 100
"""Rounding differs from image to image and averages out, in each of the ten splits of the Inception Score as well: with
n < 100 images the limit is 100 / n times as wide."""

NO_DISTANCE = 1e-6
"""Of tr S1 + tr S2: a Fréchet distance below this share is none, and errors are measured by the share instead."""


@dataclass(frozen=True)
class Row:
    """One compared number. `limit`: how far `gantk` may be from `exact`; `relative_to`: what that is a share of."""

    name: str
    gantk: float
    exact: float
    as_shipped: float | None
    limit: float
    relative_to: float
    why: str

    @property
    def error(self) -> float:
        """How far `gantk` is from `exact`, as a share of `relative_to`."""
        return abs(self.gantk - self.exact) / self.relative_to

    @property
    def agrees(self) -> bool:
        """Whether the error is within the limit; a value that is not a number never is."""
        return bool(self.error <= self.limit)


@dataclass(frozen=True)
class Verification:
    """What `verify` found. `feature_error`: the largest ‖Δ‖/‖f‖ over all images, to be at most `feature_limit`."""

    rows: Sequence[Row]
    feature_error: float
    n_fake: int
    n_real: int
    extractor: str
    feature_limit: float = 1e-5

    @property
    def agrees(self) -> bool:
        """Whether every number is within its limit."""
        return self.feature_error <= self.feature_limit and all(row.agrees for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "agrees": self.agrees,
            "extractor": self.extractor,
            "n_fake": self.n_fake,
            "n_real": self.n_real,
            "features": {"error": self.feature_error, "limit": self.feature_limit},
            "scores": {
                row.name: {
                    "gantk": row.gantk,
                    "exact": row.exact,
                    "as_shipped": row.as_shipped,
                    "error": row.error,
                    "limit": row.limit,
                    "agrees": row.agrees,
                    "why": row.why,
                }
                for row in self.rows
            },
        }

    def table(self) -> str:
        """For people: the columns side by side, and why the shipped numbers differ."""
        cells = [("score", "gantk", "exact", "error", "limit", "", "as shipped")]
        for row in self.rows:
            shipped = "" if row.as_shipped is None else f"{row.as_shipped:.10g}"
            verdict = "agrees" if row.agrees else "DIFFERS"
            cells.append(
                (
                    row.name,
                    f"{row.gantk:.10g}",
                    f"{row.exact:.10g}",
                    f"{row.error:.1e}",
                    f"{row.limit:.0e}",
                    verdict,
                    shipped,
                )
            )
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
        lines.insert(1, "  ".join("-" * width for width in widths))
        verdict = "agree" if self.feature_error <= self.feature_limit else "DIFFER"
        head = (
            f"cross-check on {self.n_fake:,} generated and {self.n_real:,} real images with {self.extractor}: features "
            f"{verdict} with torch-fidelity's to {self.feature_error:.1e} of their norm (limit {self.feature_limit:.0e})"
        )
        notes = [f"  {row.name}: {row.why}" for row in self.rows if row.why]
        return "\n".join([head, "", *lines, "", "why the numbers as shipped differ:", *notes])


def exact_frechet(first: np.ndarray, second: np.ndarray) -> float:
    """The Fréchet distance of two sets of features [n, d] and [m, d] by a road of its own: no covariance is ever formed.

    tr (S1 S2)^½ is the nuclear norm of X Yᵀ over √((n-1)(m-1)), X and Y the centred features in float64.
    """
    x, y = (z.astype(np.float64) for z in (first, second))
    difference = x.mean(axis=0) - y.mean(axis=0)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    nuclear = np.linalg.svd(x @ y.T, compute_uv=False).sum() / np.sqrt((len(x) - 1) * (len(y) - 1))
    traces = np.square(x).sum() / (len(x) - 1) + np.square(y).sum() / (len(y) - 1)
    return float(difference @ difference + traces - 2.0 * nuclear)


def frechet_scale(distance: float, first: np.ndarray, second: np.ndarray) -> float:
    """What an error of the Fréchet distance between features [n, d] and [m, d] is a share of: the distance, but at least
    `NO_DISTANCE` of tr S1 + tr S2; always > 0.

    The distance is a difference of sums of that size, whose rounding stays where the distance goes: a set against itself
    is off zero in the last digits of the traces, on every road.
    """
    traces = sum(float(features.var(axis=0, dtype=np.float64, ddof=1).sum()) for features in (first, second))
    return max(abs(distance), NO_DISTANCE * traces, float(np.finfo(np.float64).tiny))


def _loaded(weights: Path) -> io.BytesIO:
    """The state dict as torch-fidelity wants it, which would unpickle a file: loaded safely, and written anew."""
    import torch

    buffer = io.BytesIO()
    torch.save(torch.load(weights, map_location="cpu", weights_only=True), buffer)
    buffer.seek(0)
    return buffer


def torch_fidelity_features(
    weights: Path, images: ImageSet, indices: np.ndarray, *, device: Any = "cpu", progress: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Layers `2048` and `logits_unbiased` of torch-fidelity's own extractor, float32 [n, 2048] and [n, 1008]."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with torch.random.fork_rng(devices=[]):
        network = FeatureExtractorInceptionV3(
            "verify", ["2048", "logits_unbiased"], feature_extractor_weights_path=_loaded(weights)
        )
    network = network.to(torch.device(device)).eval()
    features, logits = [], []
    with exact_float32(device), Bar(len(indices), "torch-fidelity's features", "image", enabled=progress) as bar:
        for part in np.array_split(indices, -(-len(indices) // 50)):
            batch = torch.from_numpy(np.ascontiguousarray(images.read(part))).permute(0, 3, 1, 2)
            if batch.shape[1] == 1:
                batch = batch.repeat(1, 3, 1, 1)
            layers = network(batch.contiguous().to(torch.device(device)))
            bar.update(len(part))
            features.append(layers[0].cpu().numpy())
            logits.append(layers[1].cpu().numpy())
    return np.concatenate(features), np.concatenate(logits)


def _torchmetrics_fid(weights: Path, sets: Sequence[tuple[ImageSet, np.ndarray]], device: Any) -> float:
    """FID as torchmetrics computes it, told to be comparable: TF1's resize instead of its antialiased one, float64 states."""
    import tempfile

    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        path.write_bytes(_loaded(weights).getbuffer())
        with torch.random.fork_rng(devices=[]):
            metric = FrechetInceptionDistance(
                feature=2048, antialias=False, feature_extractor_weights_path=str(path)
            ).set_dtype(torch.float64)
    metric = metric.to(torch.device(device))
    with exact_float32(device):
        for real, (images, indices) in enumerate(sets):
            for part in np.array_split(indices, -(-len(indices) // 50)):
                batch = torch.from_numpy(np.ascontiguousarray(images.read(part))).permute(0, 3, 1, 2)
                metric.update(batch.expand(-1, 3, -1, -1).to(torch.device(device)), real=bool(real))
        return float(metric.compute())


def verify(
    fake: ImageSet,
    reference: ImageSet,
    weights: Path,
    *,
    custom: bool = False,
    device: Any = "cpu",
    most: int = MOST_IMAGES,
    torchmetrics: bool = True,
    progress: bool = False,
) -> Verification:
    """Runs both sets, or `most` evenly spaced images of each, through this package and through torch-fidelity.

    `weights`: an Inception state dict, given to both sides. `torchmetrics`: whether to ask that library's FID too, in
    float64, which takes about as long again.
    Raises DataError where there are fewer images than the Inception Score has splits.
    """
    import torch
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    fewest = min(len(fake), len(reference))
    if fewest < SPLITS:
        raise DataError(
            f"the cross-check takes at least {SPLITS} images on each side, and there are {fewest}; give more"
        )
    extractor = InceptionExtractor(weights, custom=custom, device=device)
    chosen = [np.unique(np.linspace(0, len(s) - 1, min(len(s), most)).astype(np.int64)) for s in (fake, reference)]
    sets = list(zip((fake, reference), chosen, strict=True))
    step = aligned(100, device)
    ours, theirs, their_logits = [], [], []
    for images, indices in sets:
        parts = [indices[i : i + step] for i in range(0, len(indices), step)]
        ours.append(np.concatenate([extractor.features(images.read(part)) for part in parts]))
        features, logits = torch_fidelity_features(weights, images, indices, device=device, progress=progress)
        theirs.append(features)
        their_logits.append(logits)
    feature_error = max(
        float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max())
        for a, b in zip(ours, theirs, strict=True)
    )
    exact = [torch.from_numpy(features.astype(np.float64)) for features in theirs]
    shipped = [torch.from_numpy(features) for features in theirs]
    size = min(SUBSET_SIZE, *(len(indices) for indices in chosen))

    limit = SCORE_LIMIT * max(1.0, ENOUGH_IMAGES / min(len(indices) for indices in chosen))

    # Fréchet distance
    mine = frechet_distance(*(Statistics.of(features) for features in ours))
    fid = exact_frechet(*theirs)
    their_fid = fid_statistics_to_metric(*(fid_features_to_statistics(f) for f in shipped), verbose=False)
    their_double = fid_statistics_to_metric(*(fid_features_to_statistics(f) for f in exact), verbose=False)
    key = "frechet_inception_distance"
    by_mean, by_roots = their_fid[key] - their_double[key], their_double[key] - fid
    why = (
        f"torch-fidelity is off by {their_fid[key] - fid:+.1e}: {by_roots:+.1e} from the square roots of eigenvalues of S1·S2, "
        f"which lose half of their digits where a covariance has no full rank, and {by_mean:+.1e} from statistics of float32 features"
    )
    share_of = frechet_scale(fid, *theirs)
    rows = [Row("fid", mine, fid, their_fid[key], limit, share_of, why)]
    if torchmetrics:
        other = _torchmetrics_fid(weights, sets, device)
        why = (
            f"torchmetrics with antialias=False and set_dtype(torch.float64) is off by {other - fid:+.1e}, for the same eigenvalues; "
            "as it comes, it resizes with antialiasing, which is another score"
        )
        rows.append(Row("fid (torchmetrics)", mine, fid, other, limit, share_of, why))

    # Inception Score; what carries information is its distance from 1
    own_logits = extractor.logits(ours[0])
    exact_logits = torch.from_numpy(extractor.logits(theirs[0]))
    score, spread = inception_score(own_logits)
    its = isc_features_to_metric(exact_logits, splits=SPLITS)
    its_own = isc_features_to_metric(torch.from_numpy(their_logits[0]), splits=SPLITS)
    why = "torch-fidelity takes the class probabilities in float32"
    mean, std = "inception_score_mean", "inception_score_std"
    rows.append(Row("is", score, its[mean], its_own[mean], limit, abs(its[mean] - 1.0) or 1.0, why))
    rows.append(Row("is std", spread, its[std], its_own[std], limit, abs(its[mean] - 1.0) or 1.0, ""))

    # Kernel distance
    value, spread = kernel_distance(ours[0], ours[1], subset_size=size)
    settings = {"kid_subset_size": size, "verbose": False}
    its = kid_features_to_metric(exact[0], exact[1], **settings)
    its_own = kid_features_to_metric(shipped[0], shipped[1], **settings)
    mean, std = "kernel_inception_distance_mean", "kernel_inception_distance_std"
    why = "torch-fidelity sums the kernel in float32: third powers of sums over 2,048 products"
    rows.append(Row("kid", value, its[mean], its_own[mean], 1e-6, 1.0, why))
    rows.append(Row("kid std", spread, its[std], its_own[std], 1e-6, 1.0, ""))

    # Precision and recall; a feature that moves in its last digit can move one image over the border of a ball
    scores = neighbour_scores(Balls(ours[0]), Balls(ours[1]))
    its = prc_features_to_metric(exact[0], exact[1], verbose=False)
    its_own = prc_features_to_metric(shipped[0], shipped[1], verbose=False)
    for name, (value, _), count in (
        ("precision", scores.precision, len(ours[0])),
        ("recall", scores.recall, len(ours[1])),
    ):
        why = "within one image" if its_own[name] != its[name] else ""
        rows.append(Row(name, value, its[name], its_own[name], 1.01 / count, 1.0, why))
    return Verification(rows, feature_error, len(chosen[0]), len(chosen[1]), extractor.name)
