"""The one image reader: bytes, files and arrays to uint8 pixels, by one documented rule.

How a picture becomes pixels (`decode`): the EXIF orientation is applied; of an animation the first frame is taken; 16-bit
values keep their high byte (which gives back exactly an 8-bit image that was stored as 16-bit, and is what Pillow does to
16-bit RGB); palettes, CMYK and the other colour models become RGB; transparency is laid over white. A picture counts as
grey by its mode (`1`, `L`, `LA`, 16-bit grey), whatever its pixels are.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from gantk_eval.errors import DataError

__all__ = [
    "ArrayImages",
    "GeneratedImages",
    "Header",
    "ImageSet",
    "content_fingerprint",
    "decode",
    "is_grey_mode",
    "open_images",
    "read_header",
]

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
TRANSPARENT_MODES = ("LA", "La", "RGBA", "RGBa", "PA")
FORMATS = "a folder or zip of images, .npy, .npz (images, labels) or .parquet"
CHUNK = 1024


def is_grey_mode(mode: str) -> bool:
    """Whether a Pillow mode is read as one grey channel."""
    return mode in GREY_MODES


def _named(data: bytes | Path, name: str | None) -> str:
    return name or (str(data) if isinstance(data, Path) else "an image")


def _source(data: bytes | Path) -> Any:
    if data == b"":
        raise ValueError("it is empty and holds no image")
    return io.BytesIO(data) if isinstance(data, bytes) else data


class Header(NamedTuple):
    """What a picture is, before its pixels are decoded."""

    height: int
    width: int
    mode: str
    """Pillow's."""
    transparent: bool
    """Whether there is an alpha channel or a transparent colour, used or not."""
    deep: bool
    """Whether its values have 16 bits."""
    frames: bool
    """Whether there are several: an animation's, or a file's pages."""


def read_header(data: bytes | Path, *, name: str | None = None) -> Header:
    """Height, width (after EXIF orientation), Pillow mode and the like, without decoding the pixels.

    Raises DataError, naming the image, where it is no image.
    """
    from PIL import Image

    try:
        with Image.open(_source(data)) as image:
            width, height = image.size
            # Of the formats that carry EXIF; asking the others would read the whole file.
            oriented = image.format in ("JPEG", "MPO", "TIFF", "WEBP") or "exif" in image.info
            if oriented and image.getexif().get(0x0112, 1) in (5, 6, 7, 8):
                width, height = height, width
            mode = image.mode
            transparent = mode in TRANSPARENT_MODES or "transparency" in image.info
            # Pillow opens 16-bit colour as 8-bit; that it is to be cut stands only in how the pixels are stored.
            deep = mode.startswith("I") or any(";16" in str(tile) for tile in image.tile)
            return Header(height, width, mode, transparent, deep, _has_frames(image))
    except Exception as error:
        raise DataError(_unreadable(_named(data, name), error)) from error


def _has_frames(image: Any) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # there is a second frame, a damaged one, which is not read anyway
        return True


def _unreadable(name: str, error: Exception) -> str:
    what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, FileNotFoundError):
        what = f"there is no file {error.filename}" + (
            "" if not os.path.islink(name) else ", which is a link to nothing"
        )
    elif isinstance(error, OSError) and error.strerror:
        what = error.strerror.lower()
    elif "cannot identify" in what:
        what = "it is not an image that Pillow can read"
    return f"cannot read {name}: {what}; repair or remove that image"


def decode(data: bytes | Path, *, channels: Literal[1, 3] | None = None, name: str | None = None) -> np.ndarray:
    """Decodes one picture to uint8 [height, width, channels], by the rule at the head of this module.

    `channels`: 1 (luma, ITU-R 601-2) or 3; None keeps grey pictures grey and makes everything else RGB.
    Raises DataError, naming `name` or the path, where the picture is missing or damaged.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(_source(data)) as opened:
            opened.load()
            grey = is_grey_mode(opened.mode)
            image: Image.Image = ImageOps.exif_transpose(opened)
            pixels = _pixels(image, channels or (1 if grey else 3))
    except DataError:
        raise
    except Exception as error:
        raise DataError(_unreadable(_named(data, name), error)) from error
    return pixels


def _pixels(image: Any, channels: int) -> np.ndarray:
    from PIL import Image

    if image.mode == "F":
        raise ValueError("it holds floating-point pixels, whose range is not known; save it as 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("it holds 32-bit pixels; save it as 8 or 16 bits")
        image = Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in TRANSPARENT_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image).convert("RGB")
    if channels == 1:
        if image.mode not in ("1", "L", "RGB"):
            image = image.convert("RGB")
        return np.array(image.convert("L"), dtype=np.uint8)[:, :, None]
    return np.array(image.convert("RGB"), dtype=np.uint8)


@runtime_checkable
class ImageSet(Protocol):
    """Random access to N images of one shape, uint8, with labels or without."""

    @property
    def name(self) -> str:
        """What people call it: a path, or a few words."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""

    @property
    def labels(self) -> np.ndarray | None:
        """int64 [N], or None."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The name of class 0, 1, ..., or None."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [n, height, width, channels], in the order of `indices`."""

    def fingerprint(self) -> str:
        """sha256, in hex, of the content: shape, pixels in order, labels."""


def content_fingerprint(images: ImageSet) -> str:
    """sha256 over shape, pixels and labels: the same for the same content in any format. Reads every image once."""
    digest = hashlib.sha256()
    height, width, channels = images.shape
    digest.update(f"gantk-images-1 {len(images)} {height} {width} {channels} ".encode())
    for start in range(0, len(images), CHUNK):
        pixels = images.read(np.arange(start, min(start + CHUNK, len(images))))
        digest.update(np.ascontiguousarray(pixels).tobytes())
    labels = images.labels
    digest.update(b"no labels" if labels is None else np.ascontiguousarray(labels, dtype="<i8").tobytes())
    return digest.hexdigest()


def words_as_classes(labels: Any, class_names: Sequence[str] | None) -> tuple[Any, Sequence[str] | None]:
    """Labels that are words as their numbers in alphabetical order, and truth values as 0 and 1, with their names.

    Where `class_names` has names already, words are their places in them; other labels are given back as they are.
    """
    array = np.asarray(labels)
    if array.dtype.kind == "b":
        return array.astype(np.int64), class_names or ("false", "true")
    if array.dtype.kind == "O" and all(isinstance(word, str) for word in array.flat):
        array = array.astype(str)
    if array.dtype.kind not in "UT" or array.ndim != 1:
        return labels, class_names
    words = tuple(map(str, np.unique(array)))
    if class_names is not None and set(words) <= set(class_names):
        words = tuple(class_names)
    number = {word: place for place, word in enumerate(words)}
    return np.array([number[str(word)] for word in array], dtype=np.int64), words


def _check_labels(labels: Any, count: int, name: str) -> np.ndarray | None:
    if labels is None:
        return None
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"the labels of {name} are {array.dtype} of shape {array.shape}; give one integer class for each image"
        )
    if len(array) != count:
        raise DataError(f"{name} has {count} images but {len(array)} labels; give one label for each image")
    if count and array.min() < 0:
        raise DataError(f"{name} has a negative label ({array.min()}); classes are counted from 0")
    return array.astype(np.int64)


def _check_pixels(array: np.ndarray, name: str) -> np.ndarray:
    """The array as [N, H, W, C], or DataError where it isn't uint8 or not of such a shape."""
    if array.dtype != np.uint8:
        seen = ""
        if array.dtype.kind in "fiu" and array.size:
            sample = np.asarray(array[: 64 * 1024 // max(1, array[0].size) + 1])
            if array.dtype.kind == "f" and not np.isfinite(sample).all():
                seen = ", with NaN or infinity among them"
            else:
                seen = f" from {sample.min():.4g} to {sample.max():.4g}"
        if array.dtype.kind == "b":
            raise DataError(f"{name} holds booleans, and images must be uint8; convert with x.astype(np.uint8) * 255")
        raise DataError(
            f"{name} holds {array.dtype} values{seen}, and images must be uint8; from [-1, 1] convert with "
            "(x * 127.5 + 128).clip(0, 255).astype(uint8), from [0, 1] with (x * 255 + 0.5).clip(0, 255).astype(uint8), "
            "whole numbers from 0 to 255 with astype(uint8)"
        )
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or 0 in array.shape[1:]:
        raise DataError(f"{name} has shape {array.shape}; images must be N×H×W×C or N×H×W")
    if array.shape[-1] not in (1, 3):
        if array.shape[1] in (1, 3):
            raise DataError(
                f"{name} has shape {array.shape}, which looks like N×C×H×W; give N×H×W×C (move axis 1 to the end)"
            )
        raise DataError(f"{name} has {array.shape[-1]} channels (shape {array.shape}); give 1 (grey) or 3 (RGB)")
    return array


class ArrayImages:
    """Images in memory or memory-mapped.

    `images`: uint8 [N, H, W, C] with C of 1 or 3, or [N, H, W]; other types are refused with DataError, never converted,
    since a float's range cannot be known. `labels`: integers, words or truth values [N]. Nothing is copied.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | Sequence[int] | Sequence[str] | None = None,
        *,
        class_names: Sequence[str] | None = None,
        name: str = "the array",
    ) -> None:
        self.name = name
        self._images = _check_pixels(images, name)
        height, width, channels = self._images.shape[1:]
        self.shape: tuple[int, int, int] = (int(height), int(width), int(channels))
        if labels is not None:
            labels, class_names = words_as_classes(labels, class_names)
        self.labels = _check_labels(labels, len(self._images), name)
        self.class_names = tuple(class_names) if class_names is not None else None
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [n, height, width, channels]."""
        return np.asarray(self._images[np.asarray(indices, dtype=np.int64)])

    def fingerprint(self) -> str:
        """sha256 of the content; read once, then remembered (do not change the array afterwards)."""
        if self._fingerprint is None:
            self._fingerprint = content_fingerprint(self)
        return self._fingerprint


class GeneratedImages:
    """Images that a function makes: the i-th sample of a generator.

    `generate(indices)` gets int64 [n] and returns uint8 [n, H, W, C]; it must depend on the indices alone (z drawn by global
    sample index), for it is called with whatever chunk a rank has. `identity` says which function it is (a checkpoint's hash
    and the seed) and stands in the fingerprint, since hashing pixels would mean generating everything twice. `generator`: a
    `path_length.PathGenerator`, for metrics of the model rather than of its images. `varied`: whether the generator is known
    to have drawn varied images at some time; of one that never has the verdict does not say that it lost them.
    """

    def __init__(
        self,
        count: int,
        generate: Callable[[np.ndarray], np.ndarray],
        shape: tuple[int, int, int],
        *,
        identity: str,
        labels: np.ndarray | Sequence[int] | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "generated samples",
        generator: object = None,
        varied: bool = True,
    ) -> None:
        if count < 1:
            raise DataError(f"{name}: {count} samples asked for; ask for at least one")
        self.name = name
        self.shape = shape
        self.labels = _check_labels(labels, count, name)
        self.class_names = tuple(class_names) if class_names is not None else None
        self.identity = identity
        self.generator = generator
        self.varied = varied
        self._count = count
        self._generate = generate

    def __len__(self) -> int:
        return self._count

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [n, height, width, channels], made now."""
        indices = np.asarray(indices, dtype=np.int64)
        pixels = np.asarray(self._generate(indices))
        if pixels.dtype != np.uint8 or pixels.shape != (len(indices), *self.shape):
            raise DataError(
                f"{self.name}: the function returned {pixels.dtype} of shape {pixels.shape}; it must return uint8 of shape "
                f"{(len(indices), *self.shape)}"
            )
        return pixels

    def fingerprint(self) -> str:
        """sha256 of identity, count, shape and labels."""
        digest = hashlib.sha256(f"gantk-generated-1 {self._count} {self.shape} {self.identity} ".encode())
        digest.update(b"no labels" if self.labels is None else self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def open_images(
    path: str | Path,
    *,
    skip_unreadable: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
) -> ImageSet:
    """Opens a set of images: a folder or zip (sub-folders are labels), `.npy`, `.npz` or `.parquet`.

    `.npy`: uint8 N×H×W×C or N×H×W, memory-mapped. `.npz`: the same as `images` (or `arr_0`), with `labels` (integers, words
    or truth values) where there are any. `.parquet` (a file, a folder of them at any depth, or a pattern): a column of
    encoded images and, where there is one, a column of classes; `image_column` and `label_column` name them. In folders
    and zips files are taken in the order of their paths; all images must have one size, and the set is grey only where
    every image is.
    `skip_unreadable`: leave out encoded images that cannot be read, and list them in the set's `skipped`. The set's `notes`
    say which files and labels are left aside.
    Raises DataError where nothing is there, it holds no images, sizes differ, or a file is not readable (named).
    """
    path = Path(path).expanduser()
    from gantk_eval.files import EncodedImages, open_encoded

    if not path.exists() and not glob.glob(str(path), recursive=True):
        raise DataError(f"there is nothing at {path.absolute()}; give {FORMATS}")
    suffix = path.suffix.lower()
    if path.is_file() and suffix in (".npy", ".npz") and image_column is None and label_column is None:
        return _open_numpy(path)
    files = open_encoded(path, image_column=image_column, label_column=label_column)
    return EncodedImages(files, skip_unreadable=skip_unreadable)


def _open_numpy(path: Path) -> ArrayImages:
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix.lower() == ".npy" else None, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            images, labels, names = loaded, None, None
        else:
            with loaded:
                keys = list(loaded.files)
                key = next((k for k in ("images", "arr_0") if k in keys), None)
                if key is None:
                    raise DataError(
                        f"{path} has no array `images` (it has {', '.join(keys) or 'none at all'}); save it with "
                        "np.savez(path, images=..., labels=...)"
                    )
                images = loaded[key]
                labels = loaded["labels"] if "labels" in keys else loaded["arr_1"] if "arr_1" in keys else None
                names = [str(n) for n in loaded["class_names"]] if "class_names" in keys else None
    except DataError:
        raise
    except Exception as error:
        what = "it holds Python objects, which are never unpickled" if "pickle" in str(error).lower() else str(error)
        raise DataError(f"cannot read {path}: {what}; save uint8 images with np.save or np.savez") from error
    if len(images.shape) == 0 or len(images) == 0:
        raise DataError(f"{path} holds no images; give {FORMATS}")
    return ArrayImages(images, labels, class_names=names, name=str(path))
