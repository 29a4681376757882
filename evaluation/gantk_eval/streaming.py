"""Evaluation for other people's training loops: hand over batches as they are made, ask for the report at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from gantk_eval import distributed
from gantk_eval.errors import DataError, UserError
from gantk_eval.evaluator import Evaluator
from gantk_eval.extras import EXTRA_KINDS
from gantk_eval.features import Features
from gantk_eval.metrics import METRICS
from gantk_eval.report import Report
from gantk_eval.sources import as_images, as_pixels

__all__ = ["StreamingEvaluator"]


class StreamingEvaluator:
    """Scores generated images that come in batches.

        stream = StreamingEvaluator("train/", "test/", value_range=(-1, 1))   # on every rank
        for z in latents:
            stream.update(generator(z))                                       # each rank its own batches
        report = stream.compute()                                             # on every rank, the same report

    `reference`, `heldout`: anything that `as_images` takes. `value_range`: of float images, (-1, 1) or (0, 1); None: images
    are uint8. Further options are the `Evaluator`'s (`metrics`, `device`, `seed`, `collapse`, …). What is worked out of the
    reference is kept over `reset`, so keep one object for a whole training.

    A batch goes through the extractors when it comes and its pixels are let go; what is kept is 4 bytes a feature (8 kB an
    image for Inception). Nothing is exchanged between ranks before `compute`, which gathers features with their indices once
    and checks the counts; ranks may have seen different numbers of images.
    """

    def __init__(
        self,
        reference: Any,
        heldout: Any = None,
        *,
        value_range: tuple[float, float] | None = None,
        **options: Any,
    ) -> None:
        whole = [name for name in options.get("metrics") or () if name in METRICS and METRICS[name].kind in EXTRA_KINDS]
        if whole or "ppl" in (options.get("metrics") or ()):
            raise UserError(
                f"{', '.join(whole) or 'ppl'} can't be had of a stream, which keeps no pixels and knows no generator; use evaluate()"
            )
        self._evaluator = Evaluator(
            as_images(reference, value_range=value_range, name="the reference"),
            None if heldout is None else as_images(heldout, value_range=value_range, name="the held-out images"),
            **options,
        )
        self._value_range = value_range
        self.reset()

    def reset(self) -> None:
        """Forgets the images seen so far."""
        self._features: dict[str, list[np.ndarray]] = {}
        self._labels: list[np.ndarray] = []
        self._indices: list[np.ndarray] = []
        self._counts: list[int] = []

    def update(self, images: Any, labels: Any = None, *, index: Sequence[int] | np.ndarray | None = None) -> None:
        """Adds a batch of this rank's.

        `images`: uint8 or float (of `value_range`), a tensor [n, C, H, W] on any device or an array [n, H, W, C]. `labels`:
        integers [n], the classes that were asked for. `index`: int64 [n], the samples' global indices, each once over all
        ranks; with them the report does not depend on who made which sample. Without, samples count in the order of the
        batches, and within the k-th batch of all ranks by rank.
        Raises DataError for images of another size than the reference's, or of values outside their range.
        """
        pixels = as_pixels(images, value_range=self._value_range, name="the batch")
        self._evaluator.check_pixels(pixels, "the batch")
        if not len(pixels):
            return
        if self._counts and ((labels is None) == bool(self._labels) or (index is None) == bool(self._indices)):
            raise UserError("give labels, and indices, with every batch or with none")
        for given, kept in ((labels, self._labels), (index, self._indices)):
            if given is not None:
                values = np.asarray(given.cpu() if hasattr(given, "cpu") else given).astype(np.int64)
                if values.shape != (len(pixels),):
                    raise DataError(
                        f"a batch of {len(pixels)} images came with labels or indices of shape {values.shape}"
                    )
                kept.append(values)
        for name, rows in self._evaluator.features_of(pixels).items():
            self._features.setdefault(name, []).append(rows)
        self._counts.append(len(pixels))

    def compute(self) -> Report:
        """The report on all images of all ranks so far; every rank must call it, and each gets the same.

        Raises DataError where there are too few images, or indices are missing or twice there.
        """
        counts = distributed.gather_counts(self._counts)
        total = int(sum(sum(c) for c in counts))
        if total < 2:
            raise DataError(f"{total} generated image is too few for any metric; update with at least 2")
        mine = np.concatenate(self._indices) if self._indices else _places(counts, distributed.rank())
        kept, labelled = self._features, bool(self._labels)
        if distributed.world_size() > 1:  # a rank that saw nothing takes part in the gathering, with empty arrays
            kept, labelled = self._evaluator.empty_features(kept), distributed.any_rank(labelled)
        features = {
            name: Features(distributed.gather_rows(mine, np.concatenate(rows), total), self._evaluator.extractor(name))
            for name, rows in kept.items()
        }
        labels = None
        if labelled:
            own = np.concatenate([np.empty(0, dtype=np.int64), *self._labels])
            labels = distributed.gather_rows(mine, own[:, None], total)[:, 0]
        digest = hashlib.sha256(b"gantk-stream-1")
        for name in sorted(features):
            digest.update(np.ascontiguousarray(features[name].values).tobytes())
        return self._evaluator.report_on(features, labels, digest.hexdigest())


def _places(counts: Sequence[Sequence[int]], rank: int) -> np.ndarray:
    """Global indices of this rank's images: by number of the batch, then by rank."""
    places, start = [np.empty(0, dtype=np.int64)], 0
    for batch in range(max((len(c) for c in counts), default=0)):
        for other, sizes in enumerate(counts):
            size = sizes[batch] if batch < len(sizes) else 0
            if other == rank:
                places.append(np.arange(start, start + size, dtype=np.int64))
            start += size
    return np.concatenate(places)
