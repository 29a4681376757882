"""The protocol of a score: everything that must agree before two scores may be compared, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["RANKED_BY", "Protocol"]

ARITHMETIC = "gantk-eval-2"
"""Goes up when a change of the arithmetic moves a score beyond rounding."""

RANKED_BY = (
    "arithmetic",
    "extractor",
    "weights_sha256",
    "resize",
    "precision",
    "shape",
    "n_fake",
    "n_real",
    "reference_sha256",
    "is_splits",
    "kid_subsets",
    "kid_subset_size",
    "neighbour_images",
    "ms_ssim_scales",
)
"""The fields that the fingerprint covers: scores whose fields here differ must not be ranked against each other."""


@dataclass(frozen=True)
class Protocol:
    """How a set of scores was made. Where several extractors were in use their fields are joined by `+`."""

    extractor: str
    weights_sha256: str
    resize: str
    precision: str
    shape: tuple[int, int, int]
    """Height, width and channels of the images as they were given."""
    n_fake: int
    n_real: int
    seed: int
    """Of the classifier and of the permutations; KID's subsets and IS's splits always use 2020."""
    reference_sha256: str
    fake_sha256: str
    n_heldout: int | None = None
    heldout_sha256: str | None = None
    is_splits: int | None = None
    kid_subsets: int | None = None
    kid_subset_size: int | None = None
    neighbour_images: int | None = None
    """Images of each side in precision, recall, density and coverage."""
    ms_ssim_scales: int | None = None
    """Of the 5, how many fit into the images."""
    classifier_accuracy: float | None = None
    """On reference images that the classifier was not trained on."""
    arithmetic: str = ARITHMETIC
    reference_identity: str | None = None
    """What the reference images are made from, where they can tell: equal although one run decodes them as it goes, and its
    `reference_sha256` is not that of pixels."""
    software: dict[str, str] = field(default_factory=dict)
    """Versions and the device; recorded, not compared."""

    @property
    def fingerprint(self) -> str:
        """sha256 over the canonical JSON of the fields in `RANKED_BY`."""
        fields = {name: getattr(self, name) for name in RANKED_BY}
        return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """All fields and the fingerprint, as JSON types."""
        return {**asdict(self), "shape": list(self.shape), "fingerprint": self.fingerprint}
