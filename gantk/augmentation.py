"""Differentiable augmentation of what the discriminator sees (DiffAugment; Zhao et al. 2020, section 3 and appendix).

Real and generated images go through the same random changes, in the discriminator's passes and in the generator's, whose
gradient flows back through them. So the discriminator cannot learn a small data set by heart, and the generator does not
learn to draw augmented images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from gantk.draws import Draws

Draw = Callable[[str], Draws]
Kind = Literal["color", "translation", "cutout"]


def color(images: Tensor, draw: Draw) -> Tensor:
    """Brightness, saturation and contrast, in this order; values may leave [−1, 1], as in the paper.

    Args:
        images: [N, C, H, W] in [−1, 1].
        draw: random numbers for a purpose, a row for each image.
    """
    images = images + draw("brightness").uniform(1, 1, 1, low=-0.5, high=0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * draw("saturation").uniform(1, 1, 1, low=0.0, high=2.0)
    level = images.mean((1, 2, 3), keepdim=True)
    return level + (images - level) * draw("contrast").uniform(1, 1, 1, low=0.5, high=1.5)


def translation(images: Tensor, draw: Draw, ratio: float = 1 / 8) -> Tensor:
    """Shifts of up to `ratio` of each side, by whole pixels; what comes in from outside is 0 (mid-grey).

    Args and shapes as for `color`.
    """
    _, channels, height, width = images.shape
    rows, rows_inside = _shifted(draw("translation.y"), height, ratio)
    columns, columns_inside = _shifted(draw("translation.x"), width, ratio)
    # One look-up in the flattened image: an interpolation would blur it, and a product with a matrix round it in bf16.
    source = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    inside = (rows_inside[:, :, None] & columns_inside[:, None, :]).to(images.dtype)
    moved = images.flatten(2).gather(2, source[:, None].expand(-1, channels, -1))
    return moved.reshape(images.shape) * inside[:, None]


def _shifted(draws: Draws, size: int, ratio: float) -> tuple[Tensor, Tensor]:
    """For each place on a side the place that its pixel comes from, int64 [N, size], and whether that is inside."""
    most = int(size * ratio + 0.5)
    shift = draws.integers(2 * most + 1, 1) - most
    source = torch.arange(size, device=shift.device) - shift
    return source.clamp(0, size - 1), (source >= 0) & (source < size)


def cutout(images: Tensor, draw: Draw, ratio: float = 1 / 2) -> Tensor:
    """A rectangle of `ratio` of each side set to 0 (mid-grey); its centre is anywhere, so it may hang over the edge.

    Args and shapes as for `color`.
    """
    _, _, height, width = images.shape
    rows = _covered(draw("cutout.y"), height, ratio)
    columns = _covered(draw("cutout.x"), width, ratio)
    return images * (~(rows[:, :, None] & columns[:, None, :])).to(images.dtype)[:, None]


def _covered(draws: Draws, size: int, ratio: float) -> Tensor:
    """bool [N, size]: the places on a side that the rectangle covers."""
    length = int(size * ratio + 0.5)
    # A rectangle of even length has its centre between two pixels, of which there is one more.
    start = draws.integers(size + 1 - length % 2, 1) - length // 2
    place = torch.arange(size, device=start.device)
    return (place >= start) & (place < start + length)


_CHANGES: dict[str, Callable[[Tensor, Draw], Tensor]] = {"color": color, "translation": translation, "cutout": cutout}


class DiffAugment:
    """The changes of `kinds`, in the paper's order: color, translation, cutout.

    Called with images [N, C, H, W] in [−1, 1], a batch's `draw`, and what the images are (`real`, `fake`), so that real
    and generated images are changed independently of each other. Without kinds it gives the images back.
    """

    def __init__(self, kinds: Sequence[Kind] = ()) -> None:
        self.changes = [change for name, change in _CHANGES.items() if name in kinds]

    def __call__(self, images: Tensor, draw: Draw, what: str) -> Tensor:
        for change in self.changes:
            images = change(images, lambda purpose: draw(f"augment.{what}.{purpose}"))
        return images
