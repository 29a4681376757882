"""What tests against held-out images say of generated ones: the verdict on collapse, and the one on memorisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gantk_eval import memorisation
from gantk_eval.collapse.calibration import FEWEST_PERMUTATIONS
from gantk_eval.collapse.verdict import inconclusive
from gantk_eval.collapse_verdict import CollapseTest
from gantk_eval.errors import UserError
from gantk_eval.features import Features
from gantk_eval.images import ImageSet
from gantk_eval.labels import align_labels

__all__ = ["Verdicts"]

FEWEST_REAL = 20


class Verdicts:
    """Judges sets of generated images against one reference and held-out set; what the tests learn of these two is kept.

    `enabled`: whether to test at all. Raises UserError for so few permutations that no test could ever reject.
    """

    def __init__(
        self, reference: ImageSet, heldout: ImageSet | None, *, enabled: bool, seed: int, permutations: int
    ) -> None:
        if enabled and permutations < FEWEST_PERMUTATIONS:
            raise UserError(
                f"{permutations} permutations are too few for any of the collapse tests to reject at 1 %; give at least "
                f"{FEWEST_PERMUTATIONS}, or collapse=False"
            )
        self._reference, self._heldout, self._enabled = reference, heldout, enabled
        self._seed, self._permutations = seed, permutations
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
        if self._memorisation is None:
            looks = [images["pixel_pca"] for images in (heldout, reference)]
            mirror = getattr(looks[0].extractor, "mirrored", None)
            pixels = [features.values for features in looks]
            self._memorisation = memorisation.MemorisationTest(*pixels, seed=self._seed, mirror=mirror)
        return self._memorisation.judge(generated["pixel_pca"].values)
