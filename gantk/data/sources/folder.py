"""A folder of image files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from gantk_eval.errors import DataError
from gantk_eval.files import EXTENSIONS

from gantk.data.hashing import digest_of, hashes_of_files
from gantk.data.sources.base import Source, local_path, missing, several_splits


class FolderSource(Source):
    """The image files at any depth below a folder, in the order of their relative paths.

    The sub-folders of the first level that has several are the classes, in the order of their names (of their
    values, where all are numbers); everything below one belongs to it. Images that stand in the folder itself
    have no labels. Hidden files and folders, and files without an image's extension, are left out and counted
    in `skipped`.
    Raises DataError where there is no such folder, it has no images, images stand both beside and in class
    folders (only where labels are wanted), or its sub-folders are splits.
    """

    def __init__(self, path: str, *, use_labels: bool = True) -> None:
        self._folder = local_path(path)
        self._use_labels = use_labels
        if not self._folder.exists():
            raise missing(self._folder, path, "a folder of images")
        if not self._folder.is_dir():
            kind = {".parquet": "parquet", ".npz": "npz"}.get(self._folder.suffix.lower())
            fix = f"set data.source={kind}" if kind else "unpack it, and set data.path to the folder of images"
            raise DataError(f"{self._folder} is a file, and data.source=folder wants a folder; {fix}")
        self.description = f"folder {self._folder}"
        found = sorted(_walk(self._folder))
        self._names = [name for name in found if PurePosixPath(name).suffix.lower() in EXTENSIONS]
        self.skipped = len(found) - len(self._names)
        if not self._names:
            if any(name.lower().endswith(".parquet") for name in found):
                raise DataError(f"{self._folder} holds parquet files and no images; set data.source=parquet")
            raise DataError(
                f"{self._folder} holds no images ({', '.join(EXTENSIONS)}); put images there, in "
                "sub-folders if they have classes, or set data.path to where they are"
            )
        self.labels, self.class_names = self._classes() if use_labels else (None, None)

    def _classes(self) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
        parts = [PurePosixPath(name).parts for name in self._names]
        level = 0
        # A folder that only wraps another (img_align_celeba/img_align_celeba) says nothing about classes.
        while len({p[level] for p in parts}) == 1 and all(len(p) > level + 1 for p in parts):
            level += 1
        inside = [len(p) > level + 1 for p in parts]
        if not any(inside):
            return None, None
        if not all(inside):
            loose = self._names[inside.index(False)]
            raise DataError(
                f"{self._folder} has images both in sub-folders ({sum(inside)}) and beside them "
                f"({len(inside) - sum(inside)}, such as {loose}); put each image into a class's sub-folder, "
                "or set data.use_labels=false"
            )
        names = sorted({p[level] for p in parts})
        if several_splits(names):
            base = self._folder.joinpath(*parts[0][:level])
            other = next(name for name in names if "train" not in name.lower())
            train = next(name for name in names if "train" in name.lower())
            raise DataError(
                f"the sub-folders of {base} are splits ({', '.join(names)}), not classes; set "
                f"data.path={base / train} data.heldout_path={base / other}"
            )
        if all(name.isdecimal() for name in names):
            names.sort(key=int)
        number = {name: i for i, name in enumerate(names)}
        return np.array([number[p[level]] for p in parts], dtype=np.int64), tuple(names)

    def __len__(self) -> int:
        return len(self._names)

    @cached_property
    def _fingerprint(self) -> str:
        hashes = hashes_of_files(self._folder, self._names, progress=self.progress)
        return digest_of("folder", list(zip(self._names, hashes, strict=True)), self._use_labels)

    def fingerprint(self) -> str:
        return self._fingerprint

    def item(self, index: int) -> Path:
        return self._folder / self._names[index]

    def locate(self, index: int) -> str:
        return str(self._folder / self._names[index])


def _walk(folder: Path, below: str = "") -> Iterator[str]:
    """The relative paths of all files that are not hidden. Links are followed, but not in circles."""
    pending = [(folder, below, frozenset({os.path.realpath(folder)}))]
    while pending:
        current, prefix, above = pending.pop()
        try:
            entries = list(os.scandir(current))
        except OSError as error:
            raise DataError(f"cannot list {current}: {error.strerror}; see that you may read it") from error
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if not entry.is_dir():
                yield f"{prefix}{entry.name}"
            elif (real := os.path.realpath(entry.path)) not in above:
                pending.append((Path(entry.path), f"{prefix}{entry.name}/", above | {real}))
