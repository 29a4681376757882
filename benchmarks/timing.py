"""How everything here is timed: variants in turn in one process, and no number from a moment when others used the processor.

A neighbour on a shared machine can make a step ten times slower. So the variants of a comparison take turns, each turn
is checked against the whole machine's processor time, and a round that others disturbed is thrown away. What is quoted
is the median, and for a comparison the median of the ratios within each round, which share the machine's mood.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import psutil

Work = Callable[[], object]
# A turn is disturbed when others had more than this share of all processors while it ran.
OTHERS_MAY_USE = 0.03


class BusyMachineError(RuntimeError):
    """Too few undisturbed rounds in the time that there was."""


@dataclass(frozen=True)
class Turn:
    """One timed call of one variant."""

    wall: float
    """Seconds."""
    process: float
    """Processor seconds of this process, over all its threads, and of its children."""
    others: float
    """The share of all processors, 0 … 1, that other processes (or a hypervisor's other guests) used meanwhile."""


@dataclass
class Comparison:
    """Turns of several variants, by name: those of the rounds that nobody disturbed."""

    turns: dict[str, list[Turn]] = field(default_factory=dict)
    thrown_away: int = 0
    """Rounds that others disturbed."""

    @property
    def rounds(self) -> int:
        return min((len(turns) for turns in self.turns.values()), default=0)

    def seconds(self, name: str) -> float:
        """The median wall time of a turn of `name`."""
        return statistics.median(turn.wall for turn in self.turns[name])

    def process_seconds(self, name: str) -> float:
        """The median processor time of a turn of `name`."""
        return statistics.median(turn.process for turn in self.turns[name])

    def ratio(self, slow: str, fast: str) -> float:
        """How many times as long `slow` takes as `fast`: the median over the rounds."""
        pairs = zip(self.turns[slow], self.turns[fast], strict=True)
        return statistics.median(a.wall / b.wall for a, b in pairs)

    def process_ratio(self, slow: str, fast: str) -> float:
        """The same in processor time, which a neighbour disturbs less."""
        pairs = zip(self.turns[slow], self.turns[fast], strict=True)
        return statistics.median(a.process / b.process for a, b in pairs)

    def spread(self, slow: str, fast: str) -> tuple[float, float]:
        """The smallest and the largest of the rounds' ratios."""
        ratios = [a.wall / b.wall for a, b in zip(self.turns[slow], self.turns[fast], strict=True)]
        return min(ratios), max(ratios)


def _busy_seconds() -> float:
    """Processor seconds that all processes of this machine have used since it started."""
    times = psutil.cpu_times()
    # Guests' time is part of `user`. Time stolen by the hypervisor is others' as well.
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))


def _own_seconds() -> float:
    """Processor seconds of this process and of its children, those that have ended included."""
    me = psutil.Process()
    # Our own to the nanosecond; what /proc has counts in hundredths of a second.
    total = time.process_time() + sum(me.cpu_times()[2:4])
    for child in me.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += sum(child.cpu_times()[:4])  # user and system, its own and of its children that have ended
    return total


def timed(work: Work) -> Turn:
    """Call `work` once, and see who else was there."""
    busy, own, wall = _busy_seconds(), _own_seconds(), time.perf_counter()
    work()
    wall = time.perf_counter() - wall
    process = _own_seconds() - own
    foreign = _busy_seconds() - busy - process
    return Turn(wall, process, max(0.0, foreign) / (wall * (psutil.cpu_count() or 1)))


def compare(
    variants: Mapping[str, Work],
    *,
    rounds: int = 7,
    at_least: int = 3,
    limit_s: float = 240.0,
    warmup: int = 1,
    others_may_use: float = OTHERS_MAY_USE,
) -> Comparison:
    """Time each of `variants` in turn, until `rounds` rounds were undisturbed or `limit_s` seconds are over.

    Every other round runs backwards, so that no variant always comes after the same one. Let a turn take half a second
    or more: the machine's own clock of who used it counts in hundredths.

    Raises:
        BusyMachineError: for fewer than `at_least` undisturbed rounds.
    """
    for _ in range(warmup):
        for work in variants.values():
            work()
    found = Comparison({name: [] for name in variants})
    end = time.perf_counter() + limit_s
    number = 0
    while found.rounds < rounds and time.perf_counter() < end:
        order = list(variants) if number % 2 == 0 else list(variants)[::-1]
        turns = {name: timed(variants[name]) for name in order}
        number += 1
        if max(turn.others for turn in turns.values()) > others_may_use:
            found.thrown_away += 1
            continue
        for name, turn in turns.items():
            found.turns[name].append(turn)
    if found.rounds < min(at_least, rounds):
        raise BusyMachineError(
            f"{found.thrown_away} of {number} rounds were disturbed by other processes, and {at_least} good ones are needed: "
            "run it again when the machine is idle"
        )
    return found
