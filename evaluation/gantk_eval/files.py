"""Encoded images in folders, zips and parquet files: found, listed and labelled, and decoded when they are read."""

from __future__ import annotations

import json
import threading
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import numpy as np

from gantk_eval.errors import DataError
from gantk_eval.images import FORMATS, Header, content_fingerprint, decode, is_grey_mode, read_header

__all__ = ["EncodedFiles", "EncodedImages", "FolderFiles", "ParquetFiles", "ZipFiles", "open_encoded"]

EXTENSIONS = (
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".jfif",
)
KEEP_DECODED = 1 << 30  # bytes of pixels up to which a set is decoded once and then kept in memory
LABEL_COLUMNS = ("label", "labels", "class", "class_label", "fine_label", "target")


class EncodedFiles(Protocol):
    """N encoded images, of any sizes and modes, in a fixed order."""

    name: str
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None

    def __len__(self) -> int: ...

    def data(self, index: int) -> bytes | Path:
        """The encoded image, or the file that it is in."""

    def file(self, index: int) -> str:
        """What to call image `index` in a message."""


def _classes(paths: Sequence[PurePosixPath]) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels from the first sub-folder, below the folder that all share; None unless every image is in one of several."""
    common = 0
    while all(len(p.parts) > common + 1 for p in paths) and len({p.parts[common] for p in paths}) == 1:
        common += 1
    if any(len(p.parts) < common + 2 for p in paths):
        return None, None
    names = sorted({p.parts[common] for p in paths})
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[p.parts[common]] for p in paths], dtype=np.int64), tuple(names)


def _wanted(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() in EXTENSIONS


class FolderFiles:
    """The image files below a folder, in the order of their paths; sub-folders are classes."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder
        found = (PurePosixPath(p.relative_to(folder).as_posix()) for p in folder.rglob("*") if p.is_file())
        self._paths = sorted((p for p in found if _wanted(p)), key=str)
        if not self._paths:
            raise DataError(f"{folder} holds no images ({', '.join(EXTENSIONS)}); give {FORMATS}")
        self.labels, self.class_names = _classes(self._paths)

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
            names = self._zip.namelist()
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"cannot read {path}: {error}; give {FORMATS}") from error
        self._paths = sorted((p for p in map(PurePosixPath, names) if _wanted(p)), key=str)
        if not self._paths:
            raise DataError(f"{path} holds no images ({', '.join(EXTENSIONS)}); give {FORMATS}")
        self.labels, self.class_names = _classes(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def data(self, index: int) -> bytes:
        try:
            with self._lock:
                return self._zip.read(str(self._paths[index]))
        except (OSError, zipfile.BadZipFile, RuntimeError, KeyError, ValueError) as error:
            raise DataError(f"cannot read {self.file(index)}: {error}; repair or remove that image") from error

    def file(self, index: int) -> str:
        return f"{self.name}/{self._paths[index]}"


class ParquetFiles:
    """A column of encoded images, and of integer classes where there is one, in one or several parquet files.

    `image_column`, `label_column`: by default found from the Hugging Face schema in the file, or by type and name.
    Raises DataError, listing the columns there are, where a column is missing or the choice is not clear.
    Only the row groups in use are in memory.
    """

    def __init__(
        self,
        paths: Path | Sequence[Path],
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        use_labels: bool = True,
    ) -> None:
        import pyarrow.parquet as pq

        self._paths = [paths] if isinstance(paths, Path) else list(paths)
        self.name = str(self._paths[0]) if len(self._paths) == 1 else str(self._paths[0].parent)
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        self._starts: list[int] = []
        self._open: list[Any] = []
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        count = 0
        for number, path in enumerate(self._paths):
            try:
                file = pq.ParquetFile(path, memory_map=True)
            except Exception as error:
                raise DataError(
                    f"cannot read {path}: {str(error).splitlines()[0]}; give a whole parquet file"
                ) from error
            self._open.append(file)
            for group in range(file.metadata.num_row_groups):
                self._groups.append((number, group))
                self._starts.append(count)
                count += file.metadata.row_group(group).num_rows
        self._count = count
        if count == 0:
            raise DataError(f"{self.name} holds no rows; give {FORMATS}")
        schema = self._open[0].schema_arrow
        features = _hub_features(schema)
        self.image_column = image_column or self._find_images(schema, features)
        self._check_column(schema, self.image_column)
        self.label_column: str | None = None
        self.labels: np.ndarray | None = None
        self.class_names: tuple[str, ...] | None = None
        if use_labels:
            self._read_labels(schema, features, label_column)

    def _check_column(self, schema: Any, column: str) -> None:
        if column not in schema.names:
            raise DataError(f"{self.name} has no column `{column}` (it has {', '.join(schema.names)})")

    def _find_images(self, schema: Any, features: dict[str, Any]) -> str:
        import pyarrow as pa

        marked = [n for n, f in features.items() if isinstance(f, dict) and f.get("_type") == "Image"]
        found = [n for n in marked if n in schema.names] or [
            field.name
            for field in schema
            if pa.types.is_binary(field.type)
            or pa.types.is_large_binary(field.type)
            or (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
        ]
        if len(found) != 1:
            which = "several columns that may hold images" if found else "no column of encoded images"
            raise DataError(f"{self.name} has {which} (columns: {', '.join(schema.names)}); name the image column")
        return found[0]

    def _read_labels(self, schema: Any, features: dict[str, Any], wanted: str | None) -> None:
        import pyarrow as pa

        if wanted is not None:
            self._check_column(schema, wanted)
            column: str | None = wanted
        else:
            classes = [n for n, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"]
            named = [n for n in LABEL_COLUMNS if n in schema.names and pa.types.is_integer(schema.field(n).type)]
            column = classes[0] if len(classes) == 1 else next(iter(named), None)
        if column is None:
            return
        if not pa.types.is_integer(schema.field(column).type):
            raise DataError(
                f"column `{column}` of {self.name} holds {schema.field(column).type}; labels must be integers"
            )
        values = [f.read(columns=[column]).column(0).to_pandas().to_numpy() for f in self._open]
        labels = np.concatenate(values)
        if labels.dtype.kind not in "iu" or labels.min() < 0:  # null or -1: the hub's way to say "not given"
            if wanted is not None:
                raise DataError(
                    f"column `{column}` of {self.name} has missing or negative labels; classes count from 0"
                )
            return
        self.label_column, self.labels = column, labels.astype(np.int64)
        names = features.get(column, {}).get("names") if isinstance(features.get(column), dict) else None
        self.class_names = tuple(names) if names else None

    def __len__(self) -> int:
        return self._count

    def data(self, index: int) -> bytes:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        with self._lock:
            column = self._cache.get(group)
            if column is None:
                number, inside = self._groups[group]
                column = self._open[number].read_row_group(inside, columns=[self.image_column]).column(0)
                self._cache[group] = column
                if len(self._cache) > 2:
                    self._cache.popitem(last=False)
            value = column[index - self._starts[group]].as_py()
        if isinstance(value, dict):
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise DataError(f"cannot read {self.file(index)}: the row holds no encoded image; remove that row")
        return value

    def file(self, index: int) -> str:
        return f"{self.name}, row {index}"


def _hub_features(schema: Any) -> dict[str, Any]:
    """The `datasets` feature schema that the hub's parquet files carry; empty where there is none."""
    try:
        return dict(json.loads(schema.metadata[b"huggingface"])["info"]["features"])
    except (KeyError, TypeError, ValueError):
        return {}


class ReadableFiles:
    """The files that can be decoded; `skipped` names the others. Raises DataError where none can."""

    def __init__(self, files: EncodedFiles) -> None:
        self._files = files
        self.name, self.class_names = files.name, files.class_names
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


def open_encoded(path: Path) -> EncodedFiles:
    """Lists the encoded images in a folder, a zip, a parquet file, or a folder of parquet files.

    Raises DataError where there are none.
    """
    if path.is_dir():
        parquet = sorted(path.glob("*.parquet"))
        if parquet and not any(p.suffix.lower() in EXTENSIONS for p in path.rglob("*")):
            return ParquetFiles(parquet)
        return FolderFiles(path)
    if path.suffix.lower() == ".parquet":
        return ParquetFiles(path)
    if path.suffix.lower() == ".zip":
        return ZipFiles(path)
    raise DataError(f"{path} is not a set of images; give {FORMATS}")


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


class EncodedImages:
    """Encoded files as an `ImageSet`: all of one size, decoded when read, and kept where a GiB is enough.

    `channels` None: 1 where every image is grey, else 3. `skip_unreadable`: every image is decoded at once, those that
    fail are left out, and `skipped` lists their names. `notes`: a line for each kind of image that is not taken as it is
    (transparent, 16-bit, …), which says how many there are and what is done with them.
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
        self.notes = _notes(kinds, len(files), self._channels)
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
