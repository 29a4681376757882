"""Classes of the training images, and held-out labels in their numbers."""

from __future__ import annotations

import numpy as np
from gantk_eval.errors import DataError
from gantk_eval.labels import in_numbering_of

Names = tuple[str, ...] | None


def count_classes(labels: np.ndarray | None, names: Names) -> int | None:
    """The number of classes: of the names where there are any, else of the labels; None without labels."""
    if labels is None:
        return None
    return len(names) if names is not None else int(labels.max()) + 1


def in_training_classes(
    labels: np.ndarray, names: Names, train_labels: np.ndarray, train_names: Names, where: str
) -> np.ndarray:
    """Labels int64 [N] of other images, in the numbers of the training images' classes.

    Raises DataError, naming the images by `where`, for classes that the training images lack.
    """
    count = count_classes(train_labels, train_names) or 0
    present, places = np.unique(labels, return_inverse=True)
    found = in_numbering_of(present, names, train_names, count)
    if (found < 0).any():
        unknown = present[found < 0]
        shown = [str(label) if names is None else names[label] for label in unknown.tolist()]
        theirs = ", ".join(train_names[:10]) + ("" if len(train_names) <= 10 else ", …") if train_names else ""
        raise DataError(
            f"{where} has classes that the training images lack ({', '.join(shown[:5])}), which have "
            f"{theirs or f'0 to {count - 1}'}; give both the same classes, or set data.use_labels=false"
        )
    return found[places]
