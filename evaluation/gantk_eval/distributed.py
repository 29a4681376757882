"""Ranks, for evaluation: work is split by global sample index, and brought together once, in index order.

Everything here also works in one process that never initialised `torch.distributed`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from gantk_eval import terminal
from gantk_eval.errors import DataError, UserError, WeightsError

__all__ = [
    "all_or_none", "any_rank", "chunks", "from_first", "from_first_unless", "gather_counts", "gather_rows", "in_chunks",
    "no_check", "rank", "say", "world_size",
]  # fmt: skip

Check = Callable[[], None]
"""Called now and then by what takes long; what it raises on one rank ends the work on all, with the same error."""
CHECK_SECONDS = 0.2
"""How often `from_first_unless` has all ranks listen."""

_ERRORS: dict[str, type[UserError]] = {c.__name__: c for c in (UserError, DataError, WeightsError)}


def _initialised() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 where there is one process."""
    import torch.distributed as dist

    return dist.get_rank() if _initialised() else 0


def world_size() -> int:
    """The number of processes that evaluate together."""
    import torch.distributed as dist

    return dist.get_world_size() if _initialised() else 1


def say(message: str) -> None:
    """A line on stderr, from the first rank alone."""
    if rank() == 0:
        terminal.say(message)


def chunks(count: int, size: int) -> list[np.ndarray]:
    """This rank's chunks of the global indices 0..count-1: rank r of W takes chunks r, r+W, r+2W, ...

    A chunk's contents depend on `count` and `size` alone, so a network sees the same batches in any world.
    """
    starts = range(rank() * size, count, world_size() * size)
    return [np.arange(start, min(start + size, count), dtype=np.int64) for start in starts]


def no_check() -> None:
    """Nobody asks to stop."""


def in_chunks(count: int, size: int, work: Callable[[np.ndarray], None], check: Check = no_check) -> list[np.ndarray]:
    """Does `work` for each of this rank's chunks and returns the chunks; after each one, all ranks hear of all.

    An error of `work` or `check` on one rank is so raised on every rank before the next chunk, not after the last.
    """
    mine = chunks(count, size)

    def one(number: int) -> tuple[np.ndarray, ...]:
        check()
        if number < len(mine):
            work(mine[number])
        return ()

    # Every rank takes part in as many rounds as the one with the most chunks.
    for number in range(-(-count // (world_size() * size))):
        all_or_none(partial(one, number))
    return mine


def _device() -> str:
    """Where tensors must be for the backend in use."""
    import torch
    import torch.distributed as dist

    return f"cuda:{torch.cuda.current_device()}" if "nccl" in dist.get_backend() else "cpu"


def gather_rows(indices: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """All ranks' rows, sorted by their global index: [count, ...] on every rank.

    `indices`: int64 [n], the global index of each of this rank's `rows` [n, d]. Ranks may hold different numbers of rows.
    Raises RuntimeError where an index is missing or there twice: the count is asserted, not hoped for.
    """
    if world_size() > 1:
        indices, rows = _all_gather(indices, rows)
    order = np.argsort(indices, kind="stable")
    if len(indices) != count or not np.array_equal(indices[order], np.arange(count)):
        raise RuntimeError(f"evaluation gathered {len(indices)} samples where there must be {count}, each once")
    return np.ascontiguousarray(rows[order])


def _all_gather(indices: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import torch
    import torch.distributed as dist

    device = _device()
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(rows)], dtype=torch.int64, device=device))
    lengths = [int(s.item()) for s in sizes]
    gathered = []
    for array in (indices, rows):
        padded = np.zeros((max(lengths), *array.shape[1:]), dtype=array.dtype)
        padded[: len(array)] = array
        mine = torch.from_numpy(padded).to(device)
        parts = [torch.empty_like(mine) for _ in lengths]
        dist.all_gather(parts, mine)
        cut = [part[:n].cpu().numpy() for part, n in zip(parts, lengths, strict=True)]
        gathered.append(np.concatenate(cut))
    return gathered[0], gathered[1]


def gather_counts(counts: Sequence[int]) -> list[list[int]]:
    """Every rank's list of numbers, on every rank; their lengths may differ."""
    mine = np.asarray(counts, dtype=np.int64)
    if world_size() == 1:
        return [mine.tolist()]
    where, rows = _all_gather(np.full(len(mine), rank(), dtype=np.int64), mine)
    return [rows[where == other].tolist() for other in range(world_size())]


def any_rank(flag: bool) -> bool:
    """Whether it is so on some rank."""
    return bool(reduce_sum(np.array([int(flag)], dtype=np.int64))[0])


def reduce_sum(array: np.ndarray) -> np.ndarray:
    """The sum of an array over all ranks, on every rank."""
    if world_size() == 1:
        return array
    import torch
    import torch.distributed as dist

    total = torch.from_numpy(np.array(array)).to(_device())
    dist.all_reduce(total)
    return total.cpu().numpy()


def _broadcast(data: bytes) -> bytes:
    """Rank 0's bytes, on every rank."""
    import torch
    import torch.distributed as dist

    device = _device()
    size = torch.tensor([len(data)], dtype=torch.int64, device=device)
    dist.broadcast(size, src=0)
    buffer = torch.zeros(int(size.item()), dtype=torch.uint8)
    if rank() == 0:
        buffer = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
    buffer = buffer.to(device)
    dist.broadcast(buffer, src=0)
    return buffer.cpu().numpy().tobytes()


def from_first(work: Callable[[], bytes]) -> bytes:
    """What `work()` returns on rank 0, on every rank; the others wait. An error there is raised on every rank."""
    if world_size() == 1:
        return work()
    failure: Exception | None = None
    message = b""
    if rank() == 0:
        try:
            message = b"+" + work()
        except Exception as error:  # the other ranks wait in the broadcast and must hear of it
            failure = error
            message = f"-{type(error).__name__}:{error}".encode()
    message = _broadcast(message)
    if failure is not None:
        raise failure
    if message[:1] == b"-":
        kind, _, text = message[1:].decode().partition(":")
        raise _ERRORS.get(kind, RuntimeError)(text)
    return message[1:]


def from_first_unless(check: Check, work: Callable[[Check], bytes]) -> bytes:
    """As `from_first`, for work that takes long: where `check` raises on one rank, all leave it together.

    `work` calls what it is given as often as it likes; the ranks that wait listen until it is done.
    """
    if world_size() == 1:
        return work(check)

    def checked() -> tuple[np.ndarray, ...]:
        check()
        return ()

    if rank() != 0:
        while not any_rank(False):
            all_or_none(checked)
        return from_first(lambda: b"")
    left, heard = False, time.monotonic()

    def listen() -> None:
        nonlocal left, heard
        if time.monotonic() - heard < CHECK_SECONDS:
            return
        any_rank(False)
        try:
            all_or_none(checked)
        except BaseException:
            left = True
            raise
        heard = time.monotonic()

    def result() -> bytes:
        if failure is not None:
            raise failure
        return data

    failure: Exception | None = None
    data = b""
    try:
        data = work(listen)
    except Exception as error:
        if left:
            raise
        failure = error
    any_rank(True)
    return from_first(result)


def all_or_none(work: Callable[[], tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """Runs each rank's own share of work; where one fails, all raise its error instead of waiting for it for ever."""
    if world_size() == 1:
        return work()
    import torch
    import torch.distributed as dist

    failure: Exception | None = None
    result: tuple[np.ndarray, ...] = ()
    try:
        result = work()
    except Exception as error:  # told to the other ranks below, then raised
        failure = error
    if not any_rank(failure is not None):
        return result
    device = _device()
    text = f"{type(failure).__name__}:{failure}".encode()[:1000] if failure is not None else b""
    mine = torch.zeros(1000, dtype=torch.uint8)
    mine[: len(text)] = torch.tensor(list(text), dtype=torch.uint8)
    heard = [torch.empty_like(mine, device=device) for _ in range(world_size())]
    dist.all_gather(heard, mine.to(device))
    if failure is not None:
        raise failure
    for other in heard:
        said = bytes(other.cpu().tolist()).rstrip(b"\0").decode(errors="replace")
        if said:
            kind, _, what = said.partition(":")
            raise _ERRORS.get(kind, RuntimeError)(what)
    return result
