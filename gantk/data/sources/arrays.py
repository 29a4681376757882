"""Images that are arrays already: scikit-learn's digits, and `.npz` files."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
from gantk_eval.errors import DataError
from gantk_eval.images import ImageSet, open_images

from gantk.data.hashing import digest_of, hashes_of_files
from gantk.data.sources.base import Source, local_path, missing


class DigitsSource(Source):
    """scikit-learn's 1,797 handwritten digits, 8×8 grey, which come with the package.

    Their values 0 ... 16 become 0 ... 255. UCI ML hand-written digits (Alpaydin and Kaynak, 1998), the test
    set.
    """

    def __init__(self, *, use_labels: bool = True) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        self.description = "scikit-learn's handwritten digits"
        self._images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        self.labels = digits.target.astype(np.int64) if use_labels else None
        self.class_names = tuple(str(name) for name in digits.target_names) if use_labels else None

    def __len__(self) -> int:
        return len(self._images)

    def fingerprint(self) -> str:
        return digest_of("digits", hashlib.sha256(self._images.tobytes()).hexdigest(), self.labels is not None)

    def item(self, index: int) -> np.ndarray:
        return self._images[index]

    def locate(self, index: int) -> str:
        return f"digit {index} of scikit-learn's digits"


class NpzSource(Source):
    """A `.npz` file: `images` uint8 N×H×W×C (C of 1 or 3) or N×H×W, and integers `labels` N where there are
    any.

    Raises DataError where the file is missing or not such a file; its arrays are read when they are first
    needed.
    """

    def __init__(self, path: str, *, use_labels: bool = True) -> None:
        self._path = local_path(path)
        self._use_labels = use_labels
        if not self._path.exists():
            raise missing(self._path, path, "an .npz file")
        if not self._path.is_file() or self._path.suffix.lower() != ".npz":
            raise DataError(f"{self._path} is not an .npz file; save one with np.savez(path, images=..., labels=...)")
        self.description = f"npz {self._path}"

    @cached_property
    def _content(self) -> ImageSet:
        return open_images(self._path)

    @cached_property
    def labels(self) -> np.ndarray | None:  # type: ignore[override]
        return self._content.labels if self._use_labels else None

    @cached_property
    def class_names(self) -> tuple[str, ...] | None:  # type: ignore[override]
        return self._content.class_names if self._use_labels else None

    def __len__(self) -> int:
        return len(self._content)

    def fingerprint(self) -> str:
        return digest_of("npz", hashes_of_files(self._path.parent, [self._path.name]), self._use_labels)

    def item(self, index: int) -> np.ndarray:
        return self._content.read([index])[0]

    def locate(self, index: int) -> str:
        return f"image {index} of {self._path}"
