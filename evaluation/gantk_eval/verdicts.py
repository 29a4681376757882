"""What tests against held-out images say of generated ones: the verdict on collapse, and the one on memorisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gantk_eval import memorisation
from gantk_eval.collapse.calibration import FEWEST_PERMUTATIONS
from gantk_eval.collapse.neighbours import nearest, nearest_distance
from gantk_eval.collapse.verdict import inconclusive
from gantk_eval.collapse_verdict import CollapseTest
from gantk_eval.errors import DataError, UserError
from gantk_eval.features import Features
from gantk_eval.images import ImageSet
from gantk_eval.labels import align_labels
from gantk_eval.standard_errors import spread_rows

__all__ = ["Verdicts"]

FEWEST_REAL = 20
LOOKED_UP = 1000
"""Held-out images that are looked for in the reference."""
SHARED = 0.05
"""The share of held-out images that may stand in the reference, beyond its own rate of copies."""


class Verdicts:
    """Judges sets of generated images against one reference and held-out set; what the tests learn of these two is kept.

    `enabled`: whether to test at all. Raises UserError for so few permutations that no test could ever reject, and DataError
    where the held-out images are the reference.
    """

    def __init__(
        self, reference: ImageSet, heldout: ImageSet | None, *, enabled: bool, seed: int, permutations: int
    ) -> None:
        if enabled and permutations < FEWEST_PERMUTATIONS:
            raise UserError(
                f"{permutations} permutations are too few for any of the collapse tests to reject at 1 %; give at least "
                f"{FEWEST_PERMUTATIONS}, or collapse=False"
            )
        if heldout is reference:
            raise DataError(
                f"the held-out images are {reference.name}, the reference itself: give other real images, which it does not hold"
            )
        self._reference, self._heldout, self._enabled = reference, heldout, enabled
        self._seed, self._permutations = seed, permutations
        self._shared: str | None = None
        self._memorisation: memorisation.MemorisationTest | None = None
        self._collapse: CollapseTest | None = None

    def collapse(
        self,
        fake: ImageSet,
        generated: Mapping[str, Features],
        reference: Mapping[str, Features],
        heldout: Mapping[str, Features] | None,
        no_classifier: str,
    ) -> tuple[dict[str, Any], bytes | None]:
        """The verdict, and its picture where it could be told. Features by extractor; `no_classifier`: why there is none."""
        if not self._enabled:
            return inconclusive("the collapse tests were turned off"), None
        if heldout is None or self._heldout is None:
            return inconclusive(
                "no held-out images were given, and without them no test is calibrated (--heldout)"
            ), None
        if min(len(self._heldout), len(self._reference)) < FEWEST_REAL:
            return inconclusive(f"fewer than {FEWEST_REAL} held-out or reference images; give some hundreds"), None
        if shared := self._shared_images(reference, heldout):
            return inconclusive(shared), None
        if self._collapse is None:
            labels = align_labels(self._heldout, self._reference)
            self._collapse = CollapseTest(
                self._reference,
                reference,
                heldout,
                labels,
                no_classifier,
                seed=self._seed,
                permutations=self._permutations,
            )
        return self._collapse.judge(fake, generated, align_labels(fake, self._reference))

    def memorised(
        self,
        generated: Mapping[str, Features],
        reference: Mapping[str, Features],
        heldout: Mapping[str, Features] | None,
    ) -> dict[str, Any]:
        """Whether generated images are copies of the reference's."""
        if not self._enabled:
            return memorisation.inconclusive("the tests against held-out images were turned off")
        if heldout is None:
            return memorisation.inconclusive("no held-out images were given, and without them nearness means nothing")
        if shared := self._shared_images(reference, heldout):
            return memorisation.inconclusive(shared)
        if self._memorisation is None:
            looks = [images["pixel_pca"] for images in (heldout, reference)]
            mirror = getattr(looks[0].extractor, "mirrored", None)
            pixels = [features.values for features in looks]
            self._memorisation = memorisation.MemorisationTest(*pixels, seed=self._seed, mirror=mirror)
        return self._memorisation.judge(generated["pixel_pca"].values)

    def _shared_images(self, reference: Mapping[str, Features], heldout: Mapping[str, Features]) -> str:
        """A sentence where held-out images stand in the reference, so that nothing is calibrated by them; else nothing."""
        if self._shared is None:
            real, other = reference["pixel_pca"].values, heldout["pixel_pca"].values
            # Of equal images the features are equal but for rounding.
            tiny = 1e-6 * float(np.sqrt(real.var(axis=0, dtype=np.float64).sum()))
            rows = spread_rows(len(real), LOOKED_UP)
            share = float(np.mean(nearest_distance(other[spread_rows(len(other), LOOKED_UP)], real) <= tiny))
            self._shared = ""
            if share >= SHARED:  # data may hold copies of its own
                own = float(np.mean(nearest(real[rows], real, 2)[0][:, 1] <= tiny))
                if share - own >= SHARED:
                    self._shared = (
                        f"{share:.0%} of the held-out images are in the reference too ({own:.0%} of its own are there twice), "
                        "and neither a test against them nor a floor means anything: give real images that the reference does not "
                        "hold (--heldout)"
                    )
        return self._shared
