"""Classes that are the distinct labels of a set, labels of one set in the numbering of another, and what does not match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from gantk_eval.errors import DataError
from gantk_eval.images import ImageSet, content_fingerprint

__all__ = ["align_labels", "distinct_classes", "in_numbering_of", "other_classes", "with_distinct_classes"]

Names = tuple[str, ...] | None


def distinct_classes(labels: np.ndarray, names: Names) -> tuple[np.ndarray, Names]:
    """Labels int64 [N] numbered 0, 1, … without holes, and their names: the numbers that they had.

    Labels that have names, or no holes, are given back as they are.
    """
    if names is not None or not len(labels):
        return labels, names
    values, places = np.unique(labels, return_inverse=True)
    if values[0] == 0 and values[-1] == len(values) - 1:
        return labels, None
    return places.astype(np.int64), tuple(map(str, values.tolist()))


class _Renumbered:
    """A set with other labels and names of the classes."""

    def __init__(self, images: ImageSet, labels: np.ndarray, class_names: Names) -> None:
        self._images, self.labels, self.class_names = images, labels, class_names
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self._images)

    def fingerprint(self) -> str:
        """sha256 of the content with these labels: that of a set which has been numbered so all along."""
        if self._fingerprint is None:
            self._fingerprint = content_fingerprint(cast(ImageSet, self))
        return self._fingerprint

    def __getattr__(self, name: str) -> Any:
        return getattr(self._images, name)


def with_distinct_classes(images: ImageSet) -> ImageSet:
    """The set itself, or one of the same images whose classes are the distinct labels (see `distinct_classes`)."""
    if images.labels is None:
        return images
    labels, names = distinct_classes(images.labels, images.class_names)
    return images if labels is images.labels else cast(ImageSet, _Renumbered(images, labels, names))


def in_numbering_of(present: np.ndarray, names: Names, other_names: Names, other_count: int) -> np.ndarray:
    """The number that each of the classes `present` (int64 [K]) has in another set of `other_count` classes; −1: none.

    Classes are the same by their names. The name of a class without one is its number; where the names on the other side are
    words, classes without names are the same by their number.
    """
    if names is None and other_names is None:
        return np.where(present < other_count, present, -1)
    if names is None or other_names is None:
        named = cast("tuple[str, ...]", names or other_names)
        if not all(name.isdecimal() for name in named):
            return np.where(present < other_count, present, -1)
    mine = [str(int(label)) if names is None else names[label] for label in present]
    others = list(map(str, range(other_count))) if other_names is None else list(other_names)
    if all(name.isdecimal() for name in (*mine, *others)):  # 007 is 7
        mine, others = [str(int(name)) for name in mine], [str(int(name)) for name in others]
    number = {name: place for place, name in enumerate(others)}
    return np.array([number.get(name, -1) for name in mine], dtype=np.int64)


def align_labels(images: ImageSet, reference: ImageSet) -> np.ndarray | None:
    """The labels of `images` in the reference's numbering (see `in_numbering_of`).

    None where there are no labels, or where the names of both have nothing in common, and so are about something else
    (`other_classes`). Raises DataError where some of the classes are the reference's and some are not.
    """
    if images.labels is None or reference.labels is None:
        return None
    if other_classes(images, reference):
        return None
    present, places = np.unique(images.labels, return_inverse=True)
    found = _numbers(images, reference, present)
    if (found < 0).any():
        unknown, names = present[found < 0], images.class_names
        remedy = f"give both the same classes, or {images.name} without labels (in one folder, say)"
        if names is None:
            raise DataError(
                f"{images.name} has labels that {reference.name} lacks ({_some(unknown)}), whose classes are "
                f"{_range(reference)}; {remedy}"
            )
        shown = _some([names[label] for label in unknown])
        raise DataError(f"{images.name} has classes that {reference.name} lacks ({shown}); {remedy}")
    return found[places]


def other_classes(images: ImageSet, reference: ImageSet) -> str:
    """The sentence where both sets have named classes and share none of them; else empty."""
    names = images.class_names
    if images.labels is None or reference.labels is None or names is None or not len(images.labels):
        return ""
    present = np.unique(images.labels)
    if (_numbers(images, reference, present) >= 0).any():
        return ""
    others = reference.class_names or tuple(map(str, range(_count(reference))))
    return (
        f"{images.name} and {reference.name} have no class in common ({_some([names[label] for label in present])}; "
        f"{_some(others)}), so the labels of {images.name} are left aside; name its classes as the reference's are"
    )


def _numbers(images: ImageSet, reference: ImageSet, present: np.ndarray) -> np.ndarray:
    names = images.class_names
    if names is not None and len(present) and present[-1] >= len(names):
        raise DataError(f"{images.name} has label {present[-1]} but {len(names)} class names; give each class its name")
    return in_numbering_of(present, names, reference.class_names, _count(reference))


def _count(reference: ImageSet) -> int:
    assert reference.labels is not None
    return max(len(reference.class_names or ()), int(reference.labels.max()) + 1)


def _range(reference: ImageSet) -> str:
    names, count = reference.class_names, _count(reference)
    numbers = names is None or not all(map(str.isdecimal, names)) or list(map(int, names)) == list(range(count))
    return f"0 to {count - 1}" if numbers or names is None else _some(names)


def _some(names: Sequence[Any] | np.ndarray) -> str:
    return ", ".join(map(str, names[:5])) + (", …" if len(names) > 5 else "")
