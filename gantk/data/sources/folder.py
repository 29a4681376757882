"""A folder of image files."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from gantk_eval.errors import DataError
from gantk_eval.walk import Classes, image_endings, left_out_sentence, list_images, split_of

from gantk.data.hashing import digest_of, hashes_of_files
from gantk.data.sources.base import Source, local_path, missing


class FolderSource(Source):
    """The image files at any depth below a folder, in the order of their relative paths.

    The sub-folders of the first level that has several are the classes, in the order of their names (of their
    values, where all are numbers); everything below one belongs to it. Images that stand in the folder itself
    have no labels. Links are followed. Hidden files and folders are left out, and files whose endings are no
    image's are counted in `left_out`.
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
        self._names, self.left_out = list_images(self._folder)
        if not self._names:
            if self.left_out[".parquet"]:
                raise DataError(f"{self._folder} holds parquet files and no images; set data.source=parquet")
            others = f" ({sentence})" if (sentence := left_out_sentence(self.left_out)) else ""
            raise DataError(
                f"{self._folder} holds no images{others}; put images there ({', '.join(sorted(image_endings()))}), in "
                "sub-folders if they have classes, or set data.path to where they are"
            )
        self.labels, self.class_names = self._classes() if use_labels else (None, None)

    def _classes(self) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
        found = Classes.of(self._names)
        if found.loose is not None:
            raise DataError(
                f"{self._folder} has images both in sub-folders ({found.inside}) and beside them "
                f"({len(self._names) - found.inside}, such as {found.loose}); put each image into a class's sub-folder, "
                "or set data.use_labels=false"
            )
        if found.splits:
            base = self._folder / found.wrapper
            train = next(name for name in found.splits if split_of(name) == "train")
            other = next(name for name in found.splits if split_of(name) not in ("train", None))
            raise DataError(
                f"the sub-folders of {base} are splits ({', '.join(found.splits)}), not classes; set "
                f"data.path={base / train} data.heldout_path={base / other}"
            )
        return found.labels, found.names

    def __len__(self) -> int:
        return len(self._names)

    @cached_property
    def _fingerprint(self) -> str:
        hashes = hashes_of_files(self._folder, self._names, progress=self.progress, unreadable=True)
        return digest_of("folder", list(zip(self._names, hashes, strict=True)), self._use_labels)

    def fingerprint(self) -> str:
        return self._fingerprint

    def item(self, index: int) -> Path:
        return self._folder / self._names[index]

    def locate(self, index: int) -> str:
        return str(self._folder / self._names[index])
