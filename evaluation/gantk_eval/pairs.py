"""Diversity as the likeness of random pairs: MS-SSIM (Wang et al. 2003; Odena et al. 2017 for generators) and LPIPS."""

from __future__ import annotations

import numpy as np

__all__ = ["KERNEL", "Pairs", "choose_pairs", "ms_ssim", "scales_for"]

MOST_PAIRS = 1000
MOST_BYTES = 256 << 20
"""Of the pixels that are kept for the pairs."""
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
KERNEL = 11
BLOCK = 50
SEED = 2020


class Pairs:
    """Which images of a set make pairs: `kept` int64 [2 p], ascending; pair i is of the kept images first[i] and second[i].

    Every image is in one pair at most, so that the pairs are independent and the error of their mean is its ordinary one.
    """

    def __init__(self, count: int, image_bytes: int) -> None:
        number = min(MOST_PAIRS, count // 2, MOST_BYTES // (2 * image_bytes))
        drawn = np.random.default_rng(SEED).permutation(count)[: 2 * number]
        self.kept = np.sort(drawn)
        self.first, self.second = np.searchsorted(self.kept, drawn[:number]), np.searchsorted(self.kept, drawn[number:])

    def __len__(self) -> int:
        return len(self.first)


def choose_pairs(count: int, shape: tuple[int, int, int]) -> Pairs:
    """Random pairs out of `count` images of this height, width and channels: at most 1,000, and 256 MB."""
    return Pairs(count, int(np.prod(shape)))


def scales_for(shape: tuple[int, int, int]) -> int:
    """How many of the 5 scales fit into images of this shape, by torchmetrics' rule as well: 5 from 176 pixels, 4 from 99,
    3 from 44, 2 from 22, 1 from 11, else 0."""
    side = min(shape[:2])
    fits = [side // max(2 ** (k - 1), (k - 1) ** 2) >= KERNEL for k in range(1, len(WEIGHTS) + 1)]
    return sum(fits)


def ms_ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Multi-scale structural similarity float64 [n] of pairs of images uint8 [n, H, W, C], by torchmetrics.

    Where fewer than 5 scales fit, the first ones' weights are brought to a sum of 1: that is another measure, and the number
    of scales stands in the protocol.
    """
    import torch
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    scales = scales_for((*first.shape[1:3], first.shape[3]))
    weights = tuple(w / sum(WEIGHTS[:scales]) for w in WEIGHTS[:scales])
    found = []
    for start in range(0, len(first), BLOCK):
        pair = (
            torch.from_numpy(np.ascontiguousarray(x[start : start + BLOCK])).permute(0, 3, 1, 2).double()
            for x in (first, second)
        )
        similarity = multiscale_structural_similarity_index_measure(
            *pair, data_range=255.0, betas=weights, kernel_size=KERNEL, reduction="none"
        )
        found.append(similarity.flatten().numpy())
    return np.concatenate(found)
