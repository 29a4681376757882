"""The metrics that an evaluation is asked for: which there are, and whether the images at hand allow them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gantk_eval.errors import DataError, UserError
from gantk_eval.extractors import Extractor
from gantk_eval.extras import why_not
from gantk_eval.images import ImageSet
from gantk_eval.inception_score import SPLITS
from gantk_eval.kernel_distance import SUBSET_SIZE
from gantk_eval.labels import align_labels
from gantk_eval.measures import fewest_images
from gantk_eval.metrics import DEFAULT_KINDS, GENERIC, METRICS, check_names, metric_name, resolve
from gantk_eval.neighbours import BALLS

__all__ = ["Wanted"]

CHEAP_DIMENSIONS = 256
"""Up to so many, a Fréchet distance for each class costs next to nothing and is worked out without being asked for."""


class Wanted:
    """`names`: out of `METRICS` or `GENERIC`; None: all that cost little. `kid_subset_size`: None for the usual one.

    What was named must be had; what was not is left out where images are too few. Raises UserError for an unknown name, or
    none.
    """

    def __init__(self, names: Sequence[str] | None, reference: ImageSet, kid_subset_size: int | None) -> None:
        self.explicit = names is not None
        self.names = tuple(dict.fromkeys(names or ()))
        self._reference, self._kid_subset_size = reference, kid_subset_size
        choices = (*METRICS, *GENERIC)
        if self.explicit and not self.names:
            raise UserError(f"no metrics are named; choose from {', '.join(choices)}")
        check_names(self.names, choices)

    def of(self, *extractors: str) -> bool:
        """Whether a metric is named that is worked out in the features of one of these."""
        return any(name in METRICS and METRICS[name].extractor in extractors for name in self.names)

    @property
    def generic(self) -> bool:
        """Whether something is wanted in the best features at hand, whichever they are."""
        return not self.explicit or any(name in GENERIC for name in self.names)

    @property
    def extractors(self) -> tuple[str, ...]:
        """Whose features are wanted, each once; to be asked after `settle`."""
        return tuple(dict.fromkeys(METRICS[name].extractor for name in self.names))

    def kinds_in(self, extractor: str) -> set[str]:
        """The kinds of metric in one extractor's features."""
        return {METRICS[name].kind for name in self.names if METRICS[name].extractor == extractor}

    def settle(self, best: str, best_of_paths: str) -> None:
        """Puts names to what was not named: the best features at hand, and those of the path length."""
        if not self.explicit:
            names = (metric_name(kind, best) for kind in DEFAULT_KINDS)
            self.names = tuple(name for name in names if name in METRICS)
        self.names = resolve(self.names, best, best_of_paths)

    def check(self, fake: ImageSet) -> int:
        """KID's subset size. Raises DataError where images are too few, or a metric that was named can't be had of them: no
        labels, no generator."""
        size = self._check_counts(len(fake), fake.name)
        for name in self.names if self.explicit else ():
            kind = METRICS[name].kind if name in METRICS else name
            if kind in ("accuracy", "fd_per_class") and align_labels(fake, self._reference) is None:
                raise DataError(f"{name} needs labels for the generated and the reference images; give labelled sets")
            if reason := why_not(name, kind, fake):
                raise DataError(reason)
        return size

    def _check_counts(self, count: int, name: str) -> int:
        fewest = min(count, len(self._reference))
        if count < 2:
            raise DataError(f"{name} holds {count} image, which is too few for any metric; give at least 2")
        size = self._kid_subset_size or (SUBSET_SIZE if self.explicit else min(SUBSET_SIZE, fewest))
        kinds = {METRICS[name].kind if name in METRICS else name: name for name in self.names}
        if "is" in kinds and self.explicit and count < SPLITS:
            raise DataError(
                f"{kinds['is']} takes {SPLITS} splits, and there are {count} images; give at least {SPLITS}"
            )
        named = "kd" in kinds or self._kid_subset_size is not None
        least = fewest_images("kd")
        if named and not least <= size <= fewest:
            enough = f"a subset size from {least} to {fewest} (--kid-subset-size)"
            raise DataError(
                f"{kinds.get('kd', 'kid')} takes subsets of {size} images, and there are {count} generated and "
                f"{len(self._reference)} real; give {enough if least <= fewest else f'at least {least} of each'}"
            )
        few = [name for kind, name in kinds.items() if kind in BALLS and fewest < fewest_images(kind) and self.explicit]
        if few:
            raise DataError(f"{few[0]} takes at least 3 images on each side, and there are {fewest}; give more")
        return size

    def of_images(self, fake: ImageSet, extractors: Mapping[str, Extractor]) -> tuple[str, ...]:
        """What was named; else the default metrics, less those that so few images do not allow, and with those that labels
        allow. To be asked after `settle`."""
        if self.explicit:
            return self.names
        left_out = self.too_few(fake)
        names = [name for name in self.names if name not in left_out]
        labels = align_labels(fake, self._reference)
        best = METRICS[self.names[0]].extractor
        if labels is not None and extractors[best].dims <= CHEAP_DIMENSIONS and self._has_pairs(labels):
            names.append(metric_name("fd_per_class", best))
        return tuple(names)

    def too_few(self, fake: ImageSet) -> dict[str, str]:
        """Why each of the default metrics that so few images do not allow has no value. What was named is refused instead."""
        if self.explicit:
            return {}
        fewest = min(len(fake), len(self._reference))
        kinds = {name: METRICS[name].kind for name in self.names}
        # An Inception Score is of the generated images alone.
        there = {name: len(fake) if kind == "is" else fewest for name, kind in kinds.items()}
        return {
            name: f"{there[name]} images are too few; it takes {fewest_images(kind)}"
            for name, kind in kinds.items()
            if there[name] < fewest_images(kind)
        }

    def _has_pairs(self, labels: np.ndarray) -> bool:
        """Whether some class has two generated and two real images."""
        assert self._reference.labels is not None
        real = np.bincount(self._reference.labels)
        mine = np.bincount(labels[labels >= 0], minlength=len(real))[: len(real)]
        return bool(((real >= 2) & (mine >= 2)).any())
