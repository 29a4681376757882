"""From any picture to a training image: decoded, cropped to the central square, resized, grey or RGB."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gantk_eval.images import decode

Channels = Literal[1, 3]
RULE = "1 decode, central square, Pillow bicubic"  # part of every cache key: change it when the pixels change


@dataclass(frozen=True)
class Transform:
    """The documented rule by which pictures of any size and mode become training images.

    1. Decode (`gantk_eval.images.decode`: EXIF orientation, 16 bits to 8, transparency over white, the first
       frame).
    2. Crop the largest square from the middle; an odd margin loses its extra row or column at the bottom or
       right.
    3. Resize to `resolution` with Pillow's bicubic filter, which is antialiased when it shrinks. Nothing is
       done to an image that has the size already, so that such pixels are kept exactly.
    4. `channels`: 1 (luma, ITU-R 601-2) or 3; None keeps what the picture is (grey by its mode, else RGB).
    """

    resolution: int
    channels: Channels | None = None

    def identity(self) -> list[Any]:
        """What a cache of this transform's results is keyed by."""
        return [RULE, self.resolution, self.channels]

    def __call__(self, item: bytes | Path | np.ndarray, *, name: str) -> np.ndarray:
        """uint8 [resolution, resolution, channels] of an encoded picture, a file, or uint8 pixels [H, W, 1 or
        3].

        Raises DataError naming `name` where the picture is missing or damaged.
        """
        if isinstance(item, np.ndarray):
            pixels = _with_channels(item, self.channels)
        else:
            pixels = decode(item, channels=self.channels, name=name)
        height, width = pixels.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
        if side == self.resolution:
            return pixels
        from PIL import Image

        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        image = image.resize((self.resolution, self.resolution), Image.Resampling.BICUBIC)
        return np.asarray(image).reshape(self.resolution, self.resolution, pixels.shape[2])


def _with_channels(pixels: np.ndarray, channels: int | None) -> np.ndarray:
    if channels is None or pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
