"""Networks are run on blocks of one size, aligned to the global index, so that a feature never depends on the batch.

A matrix product of another shape rounds in another order: the same image in another batch has features that differ in their
last bits, and a score with them. In blocks of a fixed shape each image is always in the same place of the same block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["aligned", "block_size", "in_blocks"]

CPU_BLOCK = 16
ACCELERATOR_BLOCK = 64


def block_size(device: Any) -> int:
    """Images a block: few on a CPU, whose caches are small; more on an accelerator."""
    import torch

    return CPU_BLOCK if torch.device(device).type == "cpu" else ACCELERATOR_BLOCK


def aligned(batch_size: int, device: Any) -> int:
    """The batch size rounded up to whole blocks."""
    block = block_size(device)
    return -(-batch_size // block) * block


def in_blocks(images: np.ndarray, size: int, run: Callable[[np.ndarray], np.ndarray], *, fill: bool) -> np.ndarray:
    """`run` over consecutive blocks of `size` images, joined.

    `fill`: the last block is filled up with copies of its last image, which are thrown away: the shape never changes.
    """
    parts = []
    for start in range(0, len(images), size):
        block = images[start : start + size]
        count = len(block)
        if fill and count < size:
            block = np.concatenate([block, np.repeat(block[-1:], size - count, axis=0)])
        parts.append(run(block)[:count])
    return np.concatenate(parts)
