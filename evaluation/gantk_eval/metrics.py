"""The metrics that there are, by the name that a user gives, and what each needs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gantk_eval.errors import UserError

__all__ = [
    "DEFAULT_KINDS",
    "GENERIC",
    "KNOWN_MODES",
    "METRICS",
    "Metric",
    "check_names",
    "find_metric",
    "metric_name",
    "metrics_of",
    "resolve",
]


@dataclass(frozen=True)
class Metric:
    """`kind`: fd (Fréchet), is (Inception Score), kd (kernel distance), accuracy, precision, recall, density, coverage, vendi,
    fd_per_class, ppl (path length), ms_ssim or lpips (of pairs), modes, modes_raw, high_quality or reverse_kl (of known modes);
    `extractor`: whose features."""

    kind: str
    extractor: str

    @property
    def higher_is_better(self) -> bool:
        """Which way a ranking goes."""
        return self.kind not in ("fd", "kd", "fd_per_class", "ppl", "ms_ssim", "reverse_kl")


_PUBLISHED = {"fd": "fid", "is": "is", "kd": "kid", "fd_per_class": "fid_per_class"}
"""Names that belong to Inception's published weights alone."""
_ANY_FEATURES = ("fd", "kd", "precision", "recall", "density", "coverage", "vendi", "fd_per_class")
_PATH_FEATURES = ("classifier", "pixel_pca")
"""Whose features can be had of images that are not rounded to bytes."""
GENERIC = ("precision", "recall", "density", "coverage", "vendi", "fd_per_class", "ppl")
"""Names that stand for the same measure in the best features at hand; the result's name says in which."""
DEFAULT_KINDS = ("fd", "is", "kd", "precision", "recall", "density", "coverage", "vendi")
"""What is worked out where nothing is asked for: all that costs little beside the extraction of the features."""


def metric_name(kind: str, extractor: str) -> str:
    """`fid`, `kd_classifier`, `fd_pixel_pca_per_class`: a score's name, which says in whose features it is.

    Only Inception's published weights make a FID: `metric_name("fd", "inception-custom")` is `fd_inception-custom`.
    """
    if kind == "fd" and extractor in ("inception_spatial", "inception-v3-compat-spatial"):
        return "sfid"
    if extractor in ("inception", "inception-v3-compat"):
        return _PUBLISHED.get(kind, f"{kind}_inception")
    if kind == "fd_per_class":
        return f"fd_{extractor}_per_class"
    return "conditional_accuracy" if kind == "accuracy" else f"{kind}_{extractor}"


def metrics_of(extractor: str, *, classes: bool) -> dict[str, Metric]:
    """The metrics in an extractor's features. `classes`: whether it has logits, which an Inception Score needs."""
    kinds = ("fd", "is", *_ANY_FEATURES[1:]) if classes else _ANY_FEATURES
    return {metric_name(kind, extractor): Metric(kind, extractor) for kind in kinds}


METRICS: dict[str, Metric] = {
    **metrics_of("inception", classes=True),
    "sfid": Metric("fd", "inception_spatial"),
    **metrics_of("classifier", classes=True),
    "conditional_accuracy": Metric("accuracy", "classifier"),
    **metrics_of("pixel_pca", classes=False),
    **metrics_of("dinov2", classes=False),
    **metrics_of("clip", classes=False),
    **{f"ppl_{extractor}": Metric("ppl", extractor) for extractor in ("lpips", *_PATH_FEATURES)},
    "ms_ssim": Metric("ms_ssim", "pixels"),
    "lpips": Metric("lpips", "lpips"),
}
"""By name. More extractors add theirs with `METRICS.update(metrics_of(...))`."""


KNOWN_MODES = ("modes", "modes_raw", "high_quality", "reverse_kl", "mode_spread", "least_spread")
"""Measures of samples whose true modes are known: points in the plane, stacks of digits."""
_KNOWN_MODES = {name: Metric(name, "known_modes") for name in ("modes", "modes_raw", "high_quality", "reverse_kl")}
"""Not of images, so not to be asked of `Evaluator`. The spreads are not among them: neither up nor down is better, 1 is."""


def check_names(names: Iterable[str], choices: Iterable[str] | None = None) -> None:
    """Refuse names that no metric has, before anything is read or computed.

    `choices`: what there is, where it is not all of `METRICS`, `GENERIC` and `KNOWN_MODES`.
    Raises UserError, with the nearest name where one is near, else with all.
    """
    known = list(choices) if choices is not None else [*METRICS, *GENERIC, *KNOWN_MODES]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean `{close[0]}`?" if close else f"; choose from {', '.join(known)}"
            raise UserError(f"there is no metric `{name}`{hint}")


def find_metric(name: str) -> Metric | None:
    """The metric of a score's name, also of one of known modes, under custom Inception weights or under a generic name; None:
    unknown, or of no direction."""
    if name in METRICS:
        return METRICS[name]
    if name in _KNOWN_MODES:
        return _KNOWN_MODES[name]
    for kind in ("fd_per_class", *_ANY_FEATURES, "is", "ppl"):
        if name == kind or name.startswith(f"{kind}_"):
            return Metric(kind, name.removeprefix(kind).removeprefix("_"))
    return None


def resolve(names: Sequence[str], extractor: str, path_extractor: str) -> tuple[str, ...]:
    """The names with the generic ones put into the features of `extractor`, the path length's into those of
    `path_extractor`, each once."""
    best = {name: path_extractor if name == "ppl" else extractor for name in GENERIC}
    return tuple(dict.fromkeys(metric_name(n, best[n]) if n in GENERIC else n for n in names))
