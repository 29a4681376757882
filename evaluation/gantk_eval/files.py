"""Encoded images in folders, zips and parquet files: found, listed and labelled, and decoded when they are read."""

from __future__ import annotations

import threading
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from gantk_eval.errors import DataError
from gantk_eval.images import FORMATS, Header, content_fingerprint, decode, is_grey_mode, read_header
from gantk_eval.walk import (
    Classes,
    ending_counts,
    find_parquet,
    image_endings,
    is_hidden,
    is_image,
    left_out_sentence,
    list_images,
)

__all__ = ["EncodedFiles", "EncodedImages", "FolderFiles", "ZipFiles", "is_parquet", "open_encoded"]

KEEP_DECODED = 1 << 30  # bytes of pixels up to which a set is decoded once and then kept in memory


class EncodedFiles(Protocol):
    """N encoded images, of any sizes and modes, in a fixed order."""

    name: str
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    notes: tuple[str, ...]
    """Sentences on files and labels that are left aside."""

    def __len__(self) -> int: ...

    def data(self, index: int) -> bytes | Path:
        """The encoded image, or the file that it is in."""

    def file(self, index: int) -> str:
        """What to call image `index` in a message."""


def _no_images(where: Path, left_out: Counter[str]) -> DataError:
    others = f"{sentence}; " if (sentence := left_out_sentence(left_out)) else ""
    return DataError(f"{where} holds no images; {others}give {FORMATS} (of {', '.join(sorted(image_endings()))})")


class FolderFiles:
    """The image files at any depth below a folder, as `walk` lists them; sub-folders are classes."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder
        self._paths, left_out = list_images(folder)
        if not self._paths:
            raise _no_images(folder, left_out)
        classes = Classes.of(self._paths)
        self.labels, self.class_names = classes.labels, classes.names
        self.notes = tuple(filter(None, (left_out_sentence(left_out), classes.aside())))

    def __len__(self) -> int:
        return len(self._paths)

    def data(self, index: int) -> Path:
        return self._folder / self._paths[index]

    def file(self, index: int) -> str:
        return str(self._folder / self._paths[index])


class ZipFiles:
    """The image files in a zip archive, in the order of their paths; sub-folders are classes."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._lock = threading.Lock()
        try:
            self._zip = zipfile.ZipFile(path)
            members = [member.filename for member in self._zip.infolist() if not member.is_dir()]
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"cannot read {path}: {error}; give {FORMATS}") from error
        # Some programs on Windows write their own separator, against the format.
        found = sorted((name.replace("\\", "/"), name) for name in members if not name.endswith("\\"))
        found = [(name, member) for name, member in found if not is_hidden(name)]
        left_out = ending_counts(name for name, _ in found if not is_image(name))
        self._members = [member for name, member in found if is_image(name)]
        self._paths = [name for name, _ in found if is_image(name)]
        if not self._paths:
            raise _no_images(path, left_out)
        classes = Classes.of(self._paths)
        self.labels, self.class_names = classes.labels, classes.names
        self.notes = tuple(filter(None, (left_out_sentence(left_out), classes.aside())))

    def __len__(self) -> int:
        return len(self._paths)

    def data(self, index: int) -> bytes:
        try:
            with self._lock:
                return self._zip.read(self._members[index])
        except (OSError, zipfile.BadZipFile, RuntimeError, KeyError, ValueError) as error:
            raise DataError(f"cannot read {self.file(index)}: {error}; repair or remove that image") from error

    def file(self, index: int) -> str:
        return f"{self.name}/{self._paths[index]}"


class ReadableFiles:
    """The files that can be decoded; `skipped` names the others. Raises DataError where none can."""

    def __init__(self, files: EncodedFiles) -> None:
        self._files = files
        self.name, self.class_names, self.notes = files.name, files.class_names, files.notes
        self._good: list[int] = []
        skipped = []
        for index in range(len(files)):
            try:
                decode(files.data(index), name=files.file(index))
                self._good.append(index)
            except DataError:
                skipped.append(files.file(index))
        self.skipped = tuple(skipped)
        if not self._good:
            raise DataError(f"none of the {len(files):,} images of {files.name} can be read; give {FORMATS}")
        self.labels = None if files.labels is None else files.labels[self._good]

    def __len__(self) -> int:
        return len(self._good)

    def data(self, index: int) -> bytes | Path:
        return self._files.data(self._good[index])

    def file(self, index: int) -> str:
        return self._files.file(self._good[index])


def open_encoded(path: Path, *, image_column: str | None = None, label_column: str | None = None) -> EncodedFiles:
    """Lists the encoded images in a folder, a zip, a parquet file, a folder of parquet files at any depth, or those that a
    pattern such as `folder/train-*.parquet` names. The columns are those of parquet files.

    Raises DataError where there are none, or columns are named and the files are not parquet.
    """
    if is_parquet(path):
        from gantk_eval.parquet_files import ParquetFiles

        found = find_parquet(path, "name one of them, by a file's name or folder/train-*.parquet")
        return ParquetFiles(found, image_column=image_column, label_column=label_column)
    for column in filter(None, (image_column, label_column)):
        raise DataError(f"{path} is not parquet, and so has no column `{column}`; leave it out")
    if path.is_dir():
        return FolderFiles(path)
    if path.suffix.lower() == ".zip":
        return ZipFiles(path)
    raise DataError(f"{path} is not a set of images; give {FORMATS}")


def is_parquet(path: Path) -> bool:
    """Return whether a path is a parquet file, a pattern of such, or a folder that holds some and no images."""
    if path.suffix.lower() == ".parquet" and not path.is_dir():
        return True
    if not path.is_dir():
        return False
    images, others = list_images(path)
    return not images and others[".parquet"] > 0


_TREATMENT = {
    "transparent": "have an alpha channel or a transparent colour, and are laid over white",
    "deep": "have 16-bit values, of which the high byte is kept",
    "palette": "have a palette, and become RGB",
    "cmyk": "are CMYK, and become RGB",
    "model": "are of another colour model than RGB, and become RGB",
    "frames": "have several frames, of which the first is taken",
}
"""What `decode` does with the kinds of images that it does not take as they are, in the order in which that is told."""


def _kinds(header: Header) -> list[str]:
    """What is out of the ordinary about an image, and whether it is grey."""
    mode = header.mode
    found = [kind for kind in ("transparent", "deep", "frames") if getattr(header, kind)]
    if is_grey_mode(mode):
        found.append("grey")
    elif mode in ("P", "PA"):
        found.append("palette")
    elif mode == "CMYK":
        found.append("cmyk")
    elif mode in ("YCbCr", "LAB", "HSV"):
        found.append("model")
    return found


def _notes(kinds: Counter[str], count: int, channels: int) -> tuple[str, ...]:
    told = [(kinds[kind], words) for kind, words in _TREATMENT.items()]
    if channels == 3 and kinds["grey"] < count:
        told.append((kinds["grey"], "are grey, and are repeated to RGB as the others have colours"))
    if channels == 1:
        told.append((count - kinds["grey"], "have colours, of which the luma is taken"))
    return tuple(f"{number:,} of {count:,} images {words}" for number, words in told if number)


@contextmanager
def _offering_to_skip(offered: bool = True) -> Iterator[None]:
    """Adds to the sentence on an image that cannot be read how to do without it."""
    try:
        yield
    except DataError as error:
        if not offered:
            raise
        raise DataError(f"{error}, or leave such images out by --skip-unreadable (skip_unreadable=True)") from error


class EncodedImages:
    """Encoded files as an `ImageSet`: all of one size, decoded when read, and kept where a GiB is enough.

    `channels` None: 1 where every image is grey, else 3. `skip_unreadable`: every image is decoded at once, those that
    fail are left out, and `skipped` lists their names. `notes`: a line on files and labels that are left aside, and one for each
    kind of image that is not taken as it is (transparent, 16-bit, …), which says how many there are and what is done with them.
    Raises DataError where sizes differ or a header is not readable.
    """

    def __init__(
        self, files: EncodedFiles, *, channels: Literal[1, 3] | None = None, skip_unreadable: bool = False
    ) -> None:
        self.skipped: tuple[str, ...] = ()
        if skip_unreadable:
            files = ReadableFiles(files)
            self.skipped = files.skipped
        self._files = files
        self.name = files.name
        self.labels = files.labels
        self.class_names = files.class_names
        sizes: Counter[tuple[int, int]] = Counter()
        example: dict[tuple[int, int], int] = {}
        kinds: Counter[str] = Counter()
        for index in range(len(files)):
            with _offering_to_skip(not skip_unreadable):
                header = read_header(files.data(index), name=files.file(index))
            sizes[header.height, header.width] += 1
            example.setdefault((header.height, header.width), index)
            kinds.update(_kinds(header))
        (height, width), usual = sizes.most_common(1)[0]
        if len(sizes) > 1:
            other = next(s for s in sizes if s != (height, width))
            raise DataError(
                f"the images of {self.name} differ in size: {usual} are {width}×{height}, but "
                f"{files.file(example[other])} is {other[1]}×{other[0]}; resize them to one size"
            )
        self._channels: Literal[1, 3] = channels or (1 if kinds["grey"] == len(files) else 3)
        self.notes = (*files.notes, *_notes(kinds, len(files), self._channels))
        self.shape: tuple[int, int, int] = (height, width, self._channels)
        self._kept: np.ndarray | None = None
        self._is_kept = np.zeros(len(files), dtype=bool)
        if len(files) * height * width * self._channels <= KEEP_DECODED:
            self._kept = np.empty((len(files), *self.shape), dtype=np.uint8)
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self._files)

    def _decode(self, index: int) -> np.ndarray:
        if self._kept is not None and self._is_kept[index]:
            return self._kept[index]
        with _offering_to_skip():
            pixels = decode(self._files.data(index), channels=self._channels, name=self._files.file(index))
        if pixels.shape != self.shape:
            raise DataError(f"cannot read {self._files.file(index)}: its header and its pixels disagree on the size")
        if self._kept is not None:
            self._kept[index] = pixels
            self._is_kept[index] = True
        return pixels

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [n, height, width, channels]. DataError names a file that can't be decoded."""
        return (
            np.stack([self._decode(int(i)) for i in indices]) if len(indices) else np.empty((0, *self.shape), np.uint8)
        )

    def fingerprint(self) -> str:
        """sha256 of the content; every image is decoded once."""
        if self._fingerprint is None:
            self._fingerprint = content_fingerprint(self)
        return self._fingerprint
