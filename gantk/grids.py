"""Sample grids: many small images in one PNG that a person can look at."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gantk.records import write_atomic

if TYPE_CHECKING:
    import torch

PADDING = 2
"""Pixels of background around each image, at the size at which it is shown."""
SMALL = 64
"""Images with both sides below so many pixels are enlarged."""
BACKGROUND = 255


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Generated images as bytes: `floor(clamp(x * 127.5 + 128, 0, 255))`, torch-fidelity's rule.

    Args:
        images: [N, C, H, W] in [-1, 1], of any float type and on any device. Values outside are clamped.

    Returns:
        uint8 [N, H, W, C], contiguous, in the CPU's memory.
    """
    import torch

    # In bf16 and fp16 neighbouring grey levels would fall together.
    wide = images.detach().to(torch.promote_types(images.dtype, torch.float32))
    pixels = (wide * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())


def make_grid(images: np.ndarray, columns: int | None = None, labels: Sequence[str] | None = None) -> Image.Image:
    """Lays images out row by row on white.

    Args:
        images: uint8 [N, H, W, C] with C = 1 (grey) or 3 (RGB). Sides below 64 pixels are enlarged by the
            least whole factor that brings the longer one to 64 (nearest neighbour: each pixel becomes a
            block).
        columns: Images in a row. Default: the square root of N, rounded up.
        labels: A caption for each row, written to its left.

    Raises:
        ValueError: where the array is not such images, or there are not as many labels as rows.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"a grid wants uint8 images [N, H, W, 1 or 3], not {images.dtype} {images.shape}")
    count, height, width, channels = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    if labels is not None and len(labels) != rows:
        raise ValueError(f"{len(labels)} captions for {rows} rows")

    factor = max(1, math.ceil(SMALL / max(height, width)))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    cell_height, cell_width = height * factor + PADDING, width * factor + PADDING
    font = ImageFont.load_default(size=14)
    margin = math.ceil(max(font.getlength(text) for text in labels)) + 4 * PADDING if labels else 0

    size = (rows * cell_height + PADDING, margin + columns * cell_width + PADDING, channels)
    canvas = np.full(size, BACKGROUND, dtype=np.uint8)
    for index, image in enumerate(images):
        top = PADDING + index // columns * cell_height
        left = margin + PADDING + index % columns * cell_width
        canvas[top : top + cell_height - PADDING, left : left + cell_width - PADDING] = image

    picture = Image.fromarray(canvas[:, :, 0] if channels == 1 else canvas)
    draw = ImageDraw.Draw(picture)
    for row, text in enumerate(labels or ()):
        middle = (margin - 2 * PADDING, PADDING + row * cell_height + (cell_height - PADDING) // 2)
        draw.text(middle, text, fill=0 if channels == 1 else (0, 0, 0), anchor="rm", font=font)
    return picture


def save_scatter(points: np.ndarray, path: Path, extent: float, side: int = 512) -> None:
    """Writes points in the plane as a picture, atomically: black dots on white, y upwards.

    Args:
        points: float [N, 2]. Those outside the picture are left out, and counted in its corner.
        path: of the PNG file.
        extent: Half the side of the square around the origin that is shown.
        side: Of the picture, in pixels.
    """
    places = (points * np.array([1, -1]) / extent + 1) / 2 * side
    inside = np.all((places >= 0) & (places < side), axis=1)
    picture = Image.new("L", (side, side), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    draw.line([(0, side / 2), (side, side / 2)], fill=225)
    draw.line([(side / 2, 0), (side / 2, side)], fill=225)
    for x, y in places[inside]:
        draw.ellipse([x - 1.5, y - 1.5, x + 1.5, y + 1.5], fill=0)
    font = ImageFont.load_default(size=14)
    text = f"{len(points):,} points, axes to ±{extent:.3g}"
    if not inside.all():
        text += f"; {np.count_nonzero(~inside):,} lie outside"
    draw.text((PADDING * 3, PADDING * 2), text, fill=90, font=font)
    data = io.BytesIO()
    picture.save(data, format="PNG")
    write_atomic(Path(path), data.getvalue())


def save_grid(images: np.ndarray, path: Path, columns: int | None = None, labels: Sequence[str] | None = None) -> None:
    """Writes `make_grid(images, columns, labels)` to `path` as PNG, atomically; its folder is created where
    missing."""
    data = io.BytesIO()
    make_grid(images, columns, labels).save(data, format="PNG")
    write_atomic(Path(path), data.getvalue())
