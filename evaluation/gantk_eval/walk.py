"""The one walker: files below a folder, which of them are images, and what their sub-folders say of classes and splits."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from gantk_eval.errors import DataError

__all__ = [
    "Classes",
    "ending_counts",
    "endings",
    "find_parquet",
    "image_endings",
    "is_hidden",
    "is_image",
    "left_out_sentence",
    "list_files",
    "list_images",
    "several_splits",
    "split_of",
]

NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF")
"""Formats that Pillow registers and that are no pictures, or none that it can decode itself."""
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
SHOWN = 5  # endings that are named; the rest are counted


@cache
def image_endings() -> frozenset[str]:
    """The endings of the image files that are read: all that the installed Pillow opens, less `NO_PICTURES`.

    Lower case, each with its dot (`.avif`). A plugin that is imported before the first call adds its own.
    """
    from PIL import Image

    Image.init()
    # JPEG's reader opens .mpo files too, and has not registered itself for them.
    opened = {*Image.OPEN, "MPO"} - set(NO_PICTURES)
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in opened)


def is_image(name: str) -> bool:
    """Return whether a file's name ends as an image's."""
    return PurePosixPath(name).suffix.lower() in image_endings()


def is_hidden(name: str) -> bool:
    """Return whether a file, or a folder on the way to it, is hidden (`.name`), or left by macOS in an archive."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def list_files(folder: Path) -> list[str]:
    """The paths of all files at any depth below a folder that are not hidden, relative to it, with `/`, sorted.

    Links to files and folders are followed, but not in circles; a link to nothing counts as a file. Raises DataError
    for a folder that cannot be listed.
    """
    return sorted(_walk(folder))


def _walk(folder: Path) -> Iterator[str]:
    pending = [(folder, "", frozenset({os.path.realpath(folder)}))]
    while pending:
        current, prefix, above = pending.pop()
        try:
            entries = list(os.scandir(current))
        except OSError as error:
            raise DataError(f"cannot list {current}: {error.strerror}; see that you may read it") from error
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if not _is_folder(entry):
                yield f"{prefix}{entry.name}"
            elif (real := os.path.realpath(entry.path)) not in above:
                pending.append((Path(entry.path), f"{prefix}{entry.name}/", above | {real}))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def list_images(folder: Path) -> tuple[list[str], Counter[str]]:
    """The image files among those of `list_files`, and the number of the others by their ending (see `endings`)."""
    names = list_files(folder)
    return [name for name in names if is_image(name)], ending_counts(name for name in names if not is_image(name))


def ending_counts(names: Iterable[str]) -> Counter[str]:
    """The number of files by the endings of their names; `no ending` for names without one."""
    return Counter(PurePosixPath(name).suffix.lower() or "no ending" for name in names)


def endings(left_out: Mapping[str, int]) -> str:
    """The numbers of files by their endings, for people: `.txt: 12, .svg: 3`, the most frequent first."""
    found = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{ending}: {count:,}" for ending, count in found[:SHOWN])
    return shown + (f" and {len(found) - SHOWN} more endings" if len(found) > SHOWN else "")


def left_out_sentence(left_out: Mapping[str, int]) -> str:
    """The sentence on files that are no images; empty where there are none."""
    count = sum(left_out.values())
    if not count:
        return ""
    files = "file that is not an image is" if count == 1 else "files that are not images are"
    return f"{count:,} {files} left out ({endings(left_out)})"


@dataclass(frozen=True)
class Classes:
    """Classes from the sub-folders of images: those of the first level that has several.

    A folder that only wraps another (`img_align_celeba/img_align_celeba`) says nothing. Everything below a class's
    folder belongs to it.
    """

    labels: np.ndarray | None
    """int64 [N]; None where no image is in a class's folder, some are beside them, or the folders are splits."""
    names: tuple[str, ...] | None
    """The folders' names in their order; in that of their values where all are numbers."""
    wrapper: str
    """The folder that holds the classes' folders, relative to that of the images."""
    loose: str | None = None
    """The first image that stands beside class folders, where some do."""
    inside: int = 0
    """Images in class folders."""
    splits: tuple[str, ...] = ()
    """The folders' names, where they are those of splits (`train`, `test`)."""

    @classmethod
    def of(cls, names: Sequence[str]) -> Classes:
        """Those of images with these relative paths, of which there is at least one."""
        parts = [PurePosixPath(name).parts for name in names]
        level = 0
        while len({p[level] for p in parts}) == 1 and all(len(p) > level + 1 for p in parts):
            level += 1
        wrapper = "/".join(parts[0][:level])
        inside = [len(p) > level + 1 for p in parts]
        if not any(inside):
            return cls(None, None, wrapper)
        if not all(inside):
            return cls(None, None, wrapper, loose=names[inside.index(False)], inside=sum(inside))
        folders = sorted({p[level] for p in parts})
        if several_splits(folders):
            return cls(None, None, wrapper, inside=len(parts), splits=tuple(folders))
        if all(name.isdecimal() for name in folders):
            folders.sort(key=int)
        number = {name: i for i, name in enumerate(folders)}
        labels = np.array([number[p[level]] for p in parts], dtype=np.int64)
        return cls(labels, tuple(folders), wrapper, inside=len(parts))

    def aside(self) -> str:
        """The sentence on sub-folders that are not taken as classes; empty where all are, or there are none."""
        if self.loose is not None:
            return f"sub-folders are not taken as classes, for images stand beside them too (such as {self.loose})"
        if self.splits:
            return f"sub-folders are not taken as classes, for they are splits ({', '.join(self.splits)})"
        return ""


def split_of(name: str) -> str | None:
    """The split that a file or folder name speaks of (`train-00000-of-00002.parquet`: train), if any."""
    for word in re.split(r"[^a-z]+", name.lower()):
        if word in SPLIT_NAMES:
            return SPLIT_NAMES[word]
    return None


def several_splits(names: Iterable[str]) -> bool:
    """Return whether some names are the training data's and others a test or validation split's."""
    found = {split_of(name) for name in names}
    return "train" in found and len(found - {None}) > 1


def find_parquet(path: Path, fix: str) -> list[Path]:
    """A parquet file, those at any depth below a folder, or those that a pattern (`folder/train-*.parquet`) names.

    Sorted by name; empty where nothing is there. Raises DataError, with `fix` as what to do, where the files of a
    folder are several splits.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        return sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    names = [name for name in list_files(path) if name.lower().endswith(".parquet")]
    if several_splits(names):
        raise DataError(f"{path} holds several splits ({names[0]} ... {names[-1]}); {fix}")
    return [path / name for name in names]
