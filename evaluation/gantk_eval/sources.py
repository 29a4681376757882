"""Whatever a caller has, as a set of images: a path, an array, a tensor, a dataset, a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gantk_eval.errors import DataError
from gantk_eval.images import ArrayImages, GeneratedImages, ImageSet, open_images

if TYPE_CHECKING:
    import torch
    from PIL import Image

    Source = (
        str
        | Path
        | ImageSet
        | np.ndarray
        | torch.Tensor
        | tuple[np.ndarray, np.ndarray]
        | Sequence[Any]
        | Callable[[np.ndarray], np.ndarray]
    )

__all__ = ["as_images", "as_pixels"]

_IMAGE_KEYS = ("image", "img", "pixels", "images")
_LABEL_KEYS = ("label", "labels", "class")
ROUNDING = 1e-4
"""How far outside its stated range a float may be before it is refused, as a share of the range."""


def as_pixels(
    images: Any,
    *,
    value_range: tuple[float, float] | None = None,
    channels_first: bool | None = None,
    name: str = "images",
) -> np.ndarray:
    """A batch of images as uint8 [N, H, W, C], C of 1 (grey) or 3 (RGB).

    `images`: uint8, or floats of the stated `value_range`, as a NumPy array [N, H, W, C] or [N, H, W], or as a torch tensor
    [N, C, H, W] or [N, H, W] on any device. `channels_first` says otherwise. Floats become bytes by torch-fidelity's rule,
    `floor(clamp(x·127.5 + 128, 0, 255))` with x the value carried from `value_range` to [-1, 1].
    Raises DataError for floats without a range, with values outside it (with the range that was seen; a ten-thousandth of it
    is let pass as rounding), or NaN; for other types and shapes.
    """
    tensor = not isinstance(images, np.ndarray) and hasattr(images, "detach")
    array = images.detach().cpu() if tensor else images
    if tensor:
        array = (array.float() if array.is_floating_point() else array).numpy()
    array = np.asarray(array)
    first = tensor if channels_first is None else channels_first
    if first and array.ndim == 4:
        if array.shape[1] not in (1, 3):
            raise DataError(f"{name} has shape {array.shape}; a tensor must be N×C×H×W with 1 or 3 channels")
        array = np.moveaxis(array, 1, -1)
    if array.dtype.kind == "f":
        array = _bytes(array, value_range, name)
    # Its checks of type and shape, and their sentences.
    return ArrayImages(np.ascontiguousarray(array), name=name).read(np.arange(len(array)))


def _bytes(array: np.ndarray, value_range: tuple[float, float] | None, name: str) -> np.ndarray:
    if not np.isfinite(array).all():
        raise DataError(f"{name} holds NaN or infinite values; look for where they come from")
    seen = f"from {array.min():.4g} to {array.max():.4g}" if array.size else "of no values"
    if value_range is None:
        raise DataError(f"{name} holds floats {seen}, whose meaning can't be known; say value_range=(-1, 1) or (0, 1)")
    low, high = value_range
    slack = ROUNDING * (high - low)
    if array.size and (array.min() < low - slack or array.max() > high + slack):
        raise DataError(
            f"{name} holds floats {seen}, outside the stated range from {low:g} to {high:g}; clamp or rescale them"
        )
    unit = (array.astype(np.float64) - low) * (2.0 / (high - low)) - 1.0
    return np.clip(unit * 127.5 + 128.0, 0.0, 255.0).astype(np.uint8)


def as_images(
    source: Source,
    *,
    samples: int | None = None,
    value_range: tuple[float, float] | None = None,
    name: str = "images",
) -> ImageSet:
    """A set of images from:

    - an `ImageSet`, as it is;
    - a path: a folder or zip (sub-folders are labels), `.npy`, `.npz` or `.parquet`;
    - an array uint8 [N, H, W, C] or [N, H, W], or a tensor uint8 [N, C, H, W]; floats with their `value_range`;
    - a pair (images, labels) of the same and integers, words or truth values [N];
    - a dataset (`len()` and `[i]`; PyTorch's and Hugging Face's are such): items are an image, (image, label), or a dict with
      `image` or `img` and perhaps `label`; an image is a PIL image or one of the arrays above without N. All of one size.
      It is read once, into memory (N·H·W·C bytes); for more than fits, give a path;
    - a function: gets int64 [n] and returns uint8 [n, H, W, C], the samples of these global indices; `samples` says how many.
    Raises DataError for anything else, naming `name`.
    """
    if isinstance(source, (str, Path)):
        return open_images(source)
    if isinstance(source, np.ndarray) or hasattr(source, "detach"):
        return ArrayImages(as_pixels(source, value_range=value_range, name=name), name=name)
    if isinstance(source, ImageSet):
        return source
    if isinstance(source, tuple) and len(source) == 2 and not isinstance(source[0], tuple):
        pixels = as_pixels(source[0], value_range=value_range, name=name)
        return ArrayImages(pixels, np.asarray(source[1]), name=name)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _read_dataset(source, value_range, name)
    if callable(source):
        if samples is None:
            raise DataError(f"{name} is a function: say how many samples it shall make (samples=10_000)")
        first = np.asarray(source(np.arange(1, dtype=np.int64)))
        if first.dtype != np.uint8 or first.ndim != 4:
            raise DataError(
                f"{name}: the function returned {first.dtype} of shape {first.shape}; it must return uint8 [n, H, W, C]"
            )
        height, width, channels = first.shape[1:]
        identity = f"{getattr(source, '__module__', '?')}.{getattr(source, '__qualname__', type(source).__name__)}"
        return GeneratedImages(samples, source, (height, width, channels), identity=identity, name=name)
    raise DataError(f"{name} is a {type(source).__name__}; give a path, an array, a tensor, a dataset, or a function")


def _read_dataset(dataset: Any, value_range: tuple[float, float] | None, name: str) -> ArrayImages:
    if not len(dataset):
        raise DataError(f"{name} is an empty dataset; give one with images")
    pixels: np.ndarray | None = None
    labels: list[int | str] = []
    for number in range(len(dataset)):
        image, label = _item(dataset[number], f"item {number} of {name}")
        one = _one_image(image, value_range, f"item {number} of {name}")
        if pixels is None:
            pixels = np.empty((len(dataset), *one.shape), dtype=np.uint8)
        if one.shape != pixels.shape[1:]:
            raise DataError(
                f"item {number} of {name} has shape {one.shape}, and item 0 {pixels.shape[1:]}; bring all to one size"
            )
        pixels[number] = one
        if label is not None:
            labels.append(label if isinstance(label, str) else int(label))
    assert pixels is not None
    if labels and len(labels) < len(pixels):
        raise DataError(f"{name} has labels for {len(labels)} of {len(pixels)} images; give all of them one, or none")
    return ArrayImages(pixels, np.array(labels) if labels else None, class_names=_class_names(dataset), name=name)


def _item(item: Any, name: str) -> tuple[Any, Any]:
    """Image and label of a dataset's item."""
    if isinstance(item, dict):
        image = next((item[key] for key in _IMAGE_KEYS if key in item), None)
        if image is None:
            raise DataError(f"{name} has no image (it has {', '.join(map(str, item))}); call it `image`")
        return image, next((item[key] for key in _LABEL_KEYS if key in item), None)
    if isinstance(item, (tuple, list)):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _one_image(image: Any, value_range: tuple[float, float] | None, name: str) -> np.ndarray:
    if hasattr(image, "convert"):
        return _from_pil(image)
    if not hasattr(image, "shape"):
        raise DataError(f"{name} is a {type(image).__name__}; an image is a PIL image, an array or a tensor")
    return as_pixels(image[None], value_range=value_range, name=name)[0]


def _from_pil(image: Image.Image) -> np.ndarray:
    """By the one reader's rule: a PNG keeps every mode that it knows."""
    import io

    from gantk_eval.images import decode

    if image.mode in ("L", "RGB"):
        pixels = np.asarray(image)
        return pixels[:, :, None] if pixels.ndim == 2 else pixels
    buffer = io.BytesIO()
    image.save(buffer, format="TIFF" if image.mode == "CMYK" else "PNG")
    return decode(buffer.getvalue(), name="a PIL image")


def _class_names(dataset: Any) -> Sequence[str] | None:
    """Hugging Face's and torchvision's names of the classes."""
    features = getattr(dataset, "features", None)
    if isinstance(features, dict):
        names = next((getattr(features[key], "names", None) for key in _LABEL_KEYS if key in features), None)
    else:
        names = getattr(dataset, "classes", None)
    return None if names is None else [str(n) for n in names]
