"""The collapse verdict on sets of images: from features by extractor to the tests, and the picture beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gantk_eval.collapse.exhibit import exhibit
from gantk_eval.collapse.known import Known
from gantk_eval.collapse.picture import draw
from gantk_eval.collapse.verdict import ClassEvidence, Evidence, Judgement, examine, knowledge_of
from gantk_eval.extractors.classifier import ClassifierExtractor
from gantk_eval.features import Features
from gantk_eval.images import ImageSet

__all__ = ["CollapseTest", "without_loss"]

LOOKS, CLASSES = "pixel_pca", "classifier"
DEEP = ("inception", "dinov2", "clip")
"""Extractors whose features know what an image shows, the one that is taken first."""
NO_LABELS = "the reference has no labels"


class CollapseTest:
    """Judges sets of generated images against one reference and held-out set; what it learns of these two is kept.

    `reference_features`, `heldout_features`: by extractor: pixel-PCA's for looks; for what images show Inception's where
    they are there, else DINOv2's, CLIP's or the classifier's. Those of which only a sample is kept are passed over: every
    image needs its own. `heldout_labels`: in the classifier's numbering, where there are any. `no_classifier`: why there is
    none. Then deep features see lost modes, and pixels do not.
    """

    def __init__(
        self,
        reference: ImageSet,
        reference_features: Mapping[str, Features],
        heldout_features: Mapping[str, Features],
        heldout_labels: np.ndarray | None,
        no_classifier: str = "",
        *,
        seed: int,
        permutations: int,
    ) -> None:
        self._reference, self._features, self._heldout = reference, reference_features, heldout_features
        self._heldout_labels, self._no_classifier = heldout_labels, no_classifier or NO_LABELS
        self._seed, self._permutations = seed, permutations
        self._known: dict[str | None, Known] = {}

    def judge(
        self, fake: ImageSet, generated: Mapping[str, Features], labels: np.ndarray | None
    ) -> tuple[dict[str, Any], bytes]:
        """{verdict, reasons, tests, missing} of `fake`, and the picture as PNG. `labels`: those it was made for, if any."""
        deep = self._deep(generated)
        evidence = self._evidence(generated, labels, deep)
        if deep not in self._known:
            self._known[deep] = knowledge_of(evidence)
        known = self._known[deep]
        found = examine(evidence, seed=self._seed, permutations=self._permutations, known=known)
        if not getattr(fake, "varied", True):
            found = without_loss(found)
        shown = exhibit(evidence, found, known, self._reference.labels)
        picture = draw(found.verdict, found.reasons, shown, self._reference.read, fake.read)
        return found.to_dict(), picture

    def _deep(self, generated: Mapping[str, Features]) -> str | None:
        """The deep extractor that has a row for each generated, held-out and reference image."""
        roles = (generated, self._heldout, self._features)
        whole = (name for name in DEEP if name in generated and all(role[name].total is None for role in roles))
        return next(whole, None)

    def _evidence(
        self, generated: Mapping[str, Features], labels: np.ndarray | None, deep_name: str | None
    ) -> Evidence:
        roles = (generated, self._heldout, self._features)
        fake, heldout, reference = (features[LOOKS].values for features in roles)
        classes = None
        if CLASSES in generated:
            extractor = generated[CLASSES].extractor
            assert isinstance(extractor, ClassifierExtractor)
            classes = ClassEvidence(
                fake=generated[CLASSES].values,
                heldout=self._heldout[CLASSES].values,
                reference=self._features[CLASSES].values,
                fake_classes=generated[CLASSES].classes,
                heldout_classes=self._heldout[CLASSES].classes,
                reference_classes=self._features[CLASSES].classes,
                confusion=extractor.confusion,
                class_names=self._reference.class_names,
                fake_labels=labels,
                heldout_labels=self._heldout_labels,
                fake_logits=generated[CLASSES].logits,
                heldout_logits=self._heldout[CLASSES].logits,
            )
        if deep_name is not None:
            deep = (generated[deep_name].values, self._heldout[deep_name].values, self._features[deep_name].values)
            return Evidence(fake, heldout, reference, classes, "", deep)
        blind = self._no_classifier
        sampled = [name for name in DEEP if name in generated]
        if sampled:
            blind += (
                f"; and of so many images only a sample of the features of {sampled[0]} is kept where Fréchet distances alone "
                "are wanted of them (ask for another of its metrics too, kid or coverage, and all of them are kept)"
            )
        return Evidence(fake, heldout, reference, classes, blind)


def without_loss(found: Judgement) -> Judgement:
    """The judgement of samples whose generator has never drawn varied ones: nothing that was never there can be lost.

    Samples that are too unlike real images to be judged are then `inconclusive`, however little they vary: an untrained
    network's are all grey. Near-duplicates are what they are from the start, and so is what samples like real ones lack.
    """
    if not found.unreal or found.verdict == "inconclusive" or "duplicates" in found.kinds:
        return found
    likeness = found.reasons[-1].partition(", so ")[0]
    nothing = f"{likeness}: the samples show nothing yet, and have never been varied, so nothing is lost"
    return replace(found, verdict="inconclusive", reasons=[nothing], kinds=[], missing=[], alike=[])
