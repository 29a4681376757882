"""Labels of one set in the numbering of another, and what is said where they do not match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gantk_eval.errors import DataError
from gantk_eval.images import ImageSet

__all__ = ["align_labels", "other_classes"]


def align_labels(images: ImageSet, reference: ImageSet) -> np.ndarray | None:
    """The labels of `images` in the reference's numbering: by class names where both have them, else as they are.

    Folders named by numbers match the numbers of a reference that has no names. None where there are no labels, or where the
    names of both have nothing in common, and so are about something else (`other_classes`). Raises DataError where some of
    the classes are the reference's and some are not.
    """
    if images.labels is None or reference.labels is None:
        return None
    mine, names = _names(images, reference)
    present = np.unique(images.labels)
    if mine is not None and len(present) and present[-1] >= len(mine):
        raise DataError(f"{images.name} has label {present[-1]} but {len(mine)} class names; give each class its name")
    remedy = f"give both the same classes, or {images.name} without labels (in one folder, say)"
    if mine is None or names is None or mine == names:
        count = max(len(names or ()), int(reference.labels.max()) + 1)
        beyond = present[present >= count]
        if len(beyond):
            raise DataError(
                f"{images.name} has labels that {reference.name} lacks ({_some(beyond)}), whose classes are 0 to {count - 1}; "
                f"{remedy}"
            )
        return images.labels
    if other_classes(images, reference):
        return None
    number = {name: i for i, name in enumerate(names)}
    unknown = [mine[label] for label in present if mine[label] not in number]
    if unknown:
        raise DataError(f"{images.name} has classes that {reference.name} lacks ({_some(unknown)}); {remedy}")
    translate = np.array([number.get(name, -1) for name in mine], dtype=np.int64)
    return translate[images.labels]


def other_classes(images: ImageSet, reference: ImageSet) -> str:
    """The sentence where both sets have named classes and share none of them; else empty."""
    if images.labels is None or reference.labels is None:
        return ""
    mine, names = _names(images, reference)
    if mine is None or names is None:
        return ""
    present = [mine[label] for label in np.unique(images.labels) if label < len(mine)]
    if not present or set(present) & set(names):
        return ""
    return (
        f"{images.name} and {reference.name} have no class in common ({_some(present)}; {_some(names)}), so the labels of "
        f"{images.name} are left aside; name its classes as the reference's are"
    )


def _names(images: ImageSet, reference: ImageSet) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """The class names of both, to be compared; numbers for a reference without names where the others' names are numbers."""
    mine, names = images.class_names, reference.class_names
    if mine is not None and names is None and all(name.isdecimal() for name in mine):
        assert reference.labels is not None
        # A folder that lacks class 4 numbers the rest anew, and only its name says which one class 5 is.
        return tuple(str(int(name)) for name in mine), tuple(map(str, range(int(reference.labels.max()) + 1)))
    return mine, names


def _some(names: Sequence[Any] | np.ndarray) -> str:
    return ", ".join(map(str, names[:5])) + (", …" if len(names) > 5 else "")
