"""Random numbers by address: row i of a draw depends on its key and on i alone.

A generator with a state gives other numbers when a batch is cut differently over processes, or when a run goes on after
a restart. Here a number is a hash of (key, row index, column), with splitmix64 (Steele, Lea and Flood 2014) as the hash:
sample i is the same whatever the batch size, the number of processes or the moment it is drawn. The integers are equal
bit for bit on every device; `normal` goes through log and cos, whose last bit can differ between devices.

Each kind of draw has bits of its own, so `draws.uniform(62)` and `draws.categorical(shares)` are independent of each other. The
same kind asked for twice gives the same numbers twice; where two of a kind must differ, each has a name: `draws.of("noise")`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

_WORD = (1 << 64) - 1


def _signed(value: int) -> int:
    """A 64-bit word as torch holds it: int64, two's complement."""
    value &= _WORD
    return value - (1 << 64) if value >= 1 << 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, by: int) -> Tensor:
    """Logical right shift; torch's own keeps the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def key_of(*parts: int | str) -> int:
    """A 63-bit key from any parts, for example `key_of(seed, "z", step, "g")`."""
    digest = hashlib.sha256("\x1f".join(f"{type(part).__name__}:{part}" for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def word_of(key: int) -> int:
    """The odd int64 that `Draws` adds to each row for this key."""
    return _signed(key * 2 + 1)


def child_key(key: int, name: str) -> int:
    """The key of `draws.of(name)`, for the draws of `key`."""
    return key_of(key, "of", name)


_KINDS = {kind: _signed(2 * key_of("kind", kind)) for kind in ("uniform", "integers", "categorical")} | {"normal": 0}
"""The even int64 that each kind of draw adds to the key's word; `normal` has the bits that it always had."""


@contextmanager
def torch_seeded(key: int, device: torch.device) -> Iterator[None]:
    """Within it PyTorch's own generators, of the CPU and of `device`, begin at `key`; afterwards they are what they were.

    For networks that draw noise in their forward pass, where they run beside training: what is looked at, and how often,
    then changes nothing of what is trained.
    """
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        # Not `torch.manual_seed`, which seeds devices whose state is not kept here.
        torch.default_generator.manual_seed(key)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(key)
        yield


@lru_cache(maxsize=64)
def _next_to(value: float, towards: float, dtype: torch.dtype) -> float:
    """The number of `dtype` beside `value`."""
    return float(torch.nextafter(torch.tensor(value, dtype=dtype), torch.tensor(towards, dtype=dtype)))


class Draws:
    """The random numbers of the rows `index` under one key; kinds of draws, and children by name, are independent.

    Args:
        key: from `key_of`.
        index: int64 [N], the global index of each row, on the device where the numbers are wanted.
        dtype: of the floating-point draws.
    """

    def __init__(self, key: int, index: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.key, self.dtype, self.device = key, dtype, index.device
        self._rows = index
        # Apple's GPUs have no float64, which `normal` and `categorical` need on the way.
        self.index = index.cpu() if index.device.type == "mps" else index

    def of(self, name: str) -> Draws:
        """The draws of the same rows for a part with a name, independent of these and of those with other names."""
        return Draws(child_key(self.key, name), self._rows, self.dtype)

    def _word(self) -> int | Tensor:
        """The key's part of each row's hash."""
        return word_of(self.key)

    def _bits(self, columns: int, kind: str = "normal") -> Tensor:
        """int64 [N, columns] of uniform bits."""
        rows = _mix((self.index + 1) * _GAMMA + self._word() + _KINDS[kind])
        steps = torch.arange(1, columns + 1, device=self.index.device) * _GAMMA
        return _mix(rows[:, None] + steps)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """[N, *shape], uniform on [low, high)."""
        # 24 bits are what float32 holds exactly; more would round up to `high` itself.
        unit = _shift_right(self._bits(math.prod(shape), "uniform"), 40).to(self.dtype) * 2.0**-24
        # The sum can round up to `high` as well, where `low` is far from 0.
        return (
            (unit * (high - low) + low).clamp_max(_next_to(high, low, self.dtype)).reshape(-1, *shape).to(self.device)
        )

    def normal(self, *shape: int) -> Tensor:
        """[N, *shape], standard normal, by the Box–Muller transform."""
        count = math.prod(shape)
        bits = self._bits(2 * count)
        # In (0, 1], so that the logarithm is finite.
        first = (_shift_right(bits[:, :count], 11) + 1).double() * 2.0**-53
        second = _shift_right(bits[:, count:], 11).double() * 2.0**-53
        values = torch.sqrt(-2.0 * torch.log(first)) * torch.cos((2 * math.pi) * second)
        return values.to(self.dtype).reshape(-1, *shape).to(self.device)

    def integers(self, high: int, *shape: int) -> Tensor:
        """int64 [N, *shape], uniform on 0 … high−1 (biased by less than high/2^63)."""
        return (_shift_right(self._bits(math.prod(shape), "integers"), 1) % high).reshape(-1, *shape).to(self.device)

    def categorical(self, probabilities: Tensor) -> Tensor:
        """int64 [N], classes drawn with `probabilities` [K]."""
        edges = probabilities.to(device=self.index.device, dtype=torch.float64).cumsum(0)
        unit = _shift_right(self._bits(1, "categorical")[:, 0], 11).double() * 2.0**-53
        classes = torch.searchsorted(edges / edges[-1], unit, right=True).clamp_max(len(probabilities) - 1)
        return classes.to(self.device)
