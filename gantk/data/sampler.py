"""The order of the training images: an endless stream of shuffled epochs, each position computed alone.

Nothing is kept between calls but a cache, so a resumed run, or one with another number of processes, goes on
exactly where the stream was: the position in images is the whole state.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch


@lru_cache(maxsize=8)
def permutation(seed: int, epoch: int, size: int, source: str = "") -> torch.Tensor:
    """The order of an epoch: int64 [size], a permutation of 0 ... size - 1. Do not change it in place."""
    # Neighbouring seeds and epochs must not give related generators, so that both go through a hash.
    name = f" {source}" if source else ""
    digest = hashlib.sha256(f"gantk order {seed} {epoch}{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randperm(size, generator=generator)


def shuffled_indices(positions: torch.Tensor | range, size: int, seed: int, source: str = "") -> torch.Tensor:
    """Which image stands at each of some positions of the endless stream.

    `positions`: int64 [n], each at least 0, in any order. Position p belongs to epoch p // size and is
    element p % size of that epoch's permutation, so each image comes exactly once an epoch. `source`: the name of one of
    several sources, each of which has an order of its own.
    Returns int64 [n] on the CPU, each in 0 ... size - 1. Raises ValueError for an empty data set or a
    negative position.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    if isinstance(positions, range):
        positions = torch.arange(positions.start, positions.stop, positions.step, dtype=torch.int64)
    if not positions.numel():
        return positions.clone()
    lowest, highest = (int(bound) for bound in positions.aminmax())
    if lowest < 0:
        raise ValueError("positions must not be negative")
    if lowest // size == highest // size:
        # All but one batch of an epoch.
        return permutation(seed, lowest // size, size, source)[positions - lowest // size * size]
    epochs = positions.div(size, rounding_mode="floor")
    offsets = positions - epochs * size
    indices = torch.empty_like(positions)
    for epoch in epochs.unique().tolist():
        here = epochs == epoch
        indices[here] = permutation(seed, epoch, size, source)[offsets[here]]
    return indices
