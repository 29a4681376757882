"""How far a run is, for people: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from gantk_eval import terminal
from gantk_eval.progress import Pace, wanted
from tqdm import tqdm

WINDOW = 30.0
"""Seconds over which images/s is averaged."""


class Progress:
    """Progress by thousands of images seen, with images/s over the last half minute, the latest losses and
    the time left.

    On a terminal this is a bar (tqdm, on stderr). Elsewhere it is a line at each tenth of the run and after
    10, 20, 40 … seconds (at most 10 minutes), so that a log of a run of days stays readable.
    """

    def __init__(self, total_kimg: float, enabled: bool = True, *, start_kimg: float = 0.0) -> None:
        """
        Args:
            total_kimg: Where the run ends, in thousands of images.
            enabled: Whether to show anything but what `write` is given.
            start_kimg: Where a resumed run starts.
        """
        self._total = total_kimg
        self._kimg = start_kimg
        self._values: dict[str, float] = {}
        enabled = wanted(enabled)
        self._lines = enabled and not terminal.is_terminal()
        self._bar: tqdm | None = None
        if enabled and not self._lines:
            self._bar = tqdm(
                total=total_kimg,
                initial=min(start_kimg, total_kimg),
                file=terminal.STDERR,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}% |{bar:24}| {n:.1f}/{total:.1f} kimg{postfix}",
            )
        now = time.monotonic()
        self._pace, self._last_tenth = Pace(now), self._tenth()
        self._window: deque[tuple[float, float]] = deque([(now, start_kimg)])

    @property
    def images_per_second(self) -> float:
        """Over the last half minute (or what there is of it since the start or `restart`); 0 before the first
        update."""
        (start, first), (end, last) = self._window[0], self._window[-1]
        return (last - first) * 1000 / (end - start) if end > start else 0.0

    def restart(self) -> None:
        """Leaves a pause (an evaluation, a checkpoint) out of images/s: called when training goes on."""
        self._window = deque([(time.monotonic(), self._kimg)])

    def update(self, kimg: float, values: Mapping[str, float] | None = None) -> None:
        """Moves to `kimg` thousand images; `values` (losses by name) are shown until others come."""
        now = time.monotonic()
        step, self._kimg = kimg - self._kimg, kimg
        self._values |= values or {}
        self._window.append((now, kimg))
        while len(self._window) > 2 and self._window[1][0] <= now - WINDOW:
            self._window.popleft()
        if self._bar is not None:
            self._bar.set_postfix_str(self._details(), refresh=False)
            self._bar.update(min(step, self._total - self._bar.n))
        elif self._lines:
            tenth = self._tenth()
            early = (0.0 if kimg >= self._total else 1.0) if tenth > self._last_tenth else None
            if self._pace.due(now, early_after=early):
                self._last_tenth = tenth
                # The last step may end beyond the total.
                share = min(kimg / self._total, 1.0)
                self.write(f"{share:4.0%} {kimg:.1f}/{self._total:.1f} kimg, {self._details()}")

    def write(self, text: str) -> None:
        """A line on stderr, above the bar where there is one."""
        terminal.say(text)

    def close(self) -> None:
        """Leaves the bar as it stands. A second call does nothing."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
        self._bar, self._lines = None, False

    def _tenth(self) -> int:
        return int(10 * self._kimg / self._total + 1e-9)

    def _details(self) -> str:
        rate = self.images_per_second
        parts = [f"{rate:,.0f} images/s"]
        if rate > 0:
            left = max(self._total - self._kimg, 0.0) * 1000 / rate
            parts.append(f"{tqdm.format_interval(int(left))} left")
        return ", ".join(parts + [f"{name} {value:.3g}" for name, value in self._values.items()])
