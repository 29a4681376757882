"""The collapse verdict on sets of images: from features by extractor to the tests, and the picture beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gantk_eval.collapse.exhibit import exhibit
from gantk_eval.collapse.known import Known
from gantk_eval.collapse.picture import draw
from gantk_eval.collapse.verdict import ClassEvidence, Evidence, examine, knowledge_of
from gantk_eval.extractors.classifier import ClassifierExtractor
from gantk_eval.features import Features
from gantk_eval.images import ImageSet

__all__ = ["CollapseTest"]

LOOKS, CLASSES, DEEP = "pixel_pca", "classifier", "inception"
NO_LABELS = "the reference has no labels"


class CollapseTest:
    """Judges sets of generated images against one reference and held-out set; what it learns of these two is kept.

    `reference_features`, `heldout_features`: by extractor: pixel-PCA's for looks; for what images show Inception's where
    they are there, else the classifier's. `heldout_labels`: in the classifier's numbering, where there are any.
    `no_classifier`: why there is none. Then Inception's features see lost modes, and pixels do not.
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
        self._known: Known | None = None

    def judge(
        self, fake: ImageSet, generated: Mapping[str, Features], labels: np.ndarray | None
    ) -> tuple[dict[str, Any], bytes]:
        """{verdict, reasons, tests, missing} of `fake`, and the picture as PNG. `labels`: those it was made for, if any."""
        evidence = self._evidence(generated, labels)
        if self._known is None:
            self._known = knowledge_of(evidence)
        found = examine(evidence, seed=self._seed, permutations=self._permutations, known=self._known)
        shown = exhibit(evidence, found, self._known, self._reference.labels)
        picture = draw(found.verdict, found.reasons, shown, self._reference.read, fake.read)
        return found.to_dict(), picture

    def _evidence(self, generated: Mapping[str, Features], labels: np.ndarray | None) -> Evidence:
        roles = (generated, self._heldout, self._features)
        fake, heldout, reference = (features[LOOKS].values for features in roles)
        classes = deep = None
        if CLASSES in generated:
            extractor = generated[CLASSES].extractor
            assert isinstance(extractor, ClassifierExtractor)
            classes = ClassEvidence(
                fake=generated[CLASSES].values,
                heldout=self._heldout[CLASSES].values,
                reference=self._features[CLASSES].values,
                fake_classes=generated[CLASSES].classes,
                heldout_classes=self._heldout[CLASSES].classes,
                confusion=extractor.confusion,
                class_names=self._reference.class_names,
                fake_labels=labels,
                heldout_labels=self._heldout_labels,
                fake_logits=generated[CLASSES].logits,
                heldout_logits=self._heldout[CLASSES].logits,
            )
        if DEEP in generated:
            deep = (generated[DEEP].values, self._heldout[DEEP].values, self._features[DEEP].values)
        return Evidence(fake, heldout, reference, classes, "" if deep is not None else self._no_classifier, deep)
