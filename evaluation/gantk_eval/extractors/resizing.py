"""How images come to a network's size: TensorFlow 1's bilinear rule as two matrix products, and antialiased bicubic."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

__all__ = ["bicubic", "tf1_bilinear"]


@lru_cache(maxsize=64)
def _axis(inside: int, outside: int) -> tuple[Any, Any]:
    """The source positions in use (int64, or None for all of them) and the weights float32 [outside, positions]."""
    import torch

    # float32 throughout, as in TensorFlow's kernel: in double precision the weights differ by more than a rounding.
    places = torch.arange(outside, dtype=torch.float32) * torch.tensor(inside / outside, dtype=torch.float32)
    low = places.long()
    high = (low + 1).clamp_max(inside - 1)
    fraction = places - low.float()
    used = torch.unique(torch.cat([low, high]))
    weights = torch.zeros(outside, len(used))
    rows = torch.arange(outside)
    weights.index_put_((rows, torch.searchsorted(used, low)), 1.0 - fraction, accumulate=True)
    weights.index_put_((rows, torch.searchsorted(used, high)), fraction, accumulate=True)
    return (None if len(used) == inside else used), weights


def tf1_bilinear(images: Any, size: int) -> Any:
    """float32 [n, c, H, W] -> [n, c, size, size] as TensorFlow 1 resizes (`align_corners=False`, no half-pixel centres).

    Each output pixel is a weighted mean of two rows and of two columns; without antialiasing a shrunk image leaves the
    others out. As two small matrix products this is some ten times faster than by indexing four neighbours; values in
    0..255 agree with that to 5e-5.
    """
    import torch

    rows, down = _axis(images.shape[2], size)
    columns, across = _axis(images.shape[3], size)
    if rows is not None:
        images = images.index_select(2, rows.to(images.device))
    if columns is not None:
        images = images.index_select(3, columns.to(images.device))
    return torch.matmul(down.to(images.device), torch.matmul(images, across.t().to(images.device)))


def bicubic(images: Any, size: int) -> Any:
    """float32 [n, c, H, W] in 0..255 -> [n, c, size, size], antialiased bicubic as in Pillow, clamped to 0..255.

    The whole picture is brought to a square, as for Inception: nothing is cropped away.
    """
    import torch.nn.functional as F

    if tuple(images.shape[2:]) == (size, size):
        return images
    resized = F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp(0.0, 255.0)
