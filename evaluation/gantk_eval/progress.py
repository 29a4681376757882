"""How far a long job is, for people: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from gantk_eval import terminal

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["FIRST_LINE", "LONGEST_WAIT", "Bar", "Pace", "wanted"]

FIRST_LINE, LONGEST_WAIT = 10.0, 600.0
"""Without a terminal: seconds to the first line, and the most between two. The wait doubles from line to line."""


def wanted(enabled: bool = True) -> bool:
    """Return whether progress is shown: where the caller wants it and `$TQDM_DISABLE` is not set."""
    return enabled and os.environ.get("TQDM_DISABLE", "").strip().lower() in ("", "0", "false", "no", "off")


class Pace:
    """Decides when the next line of a long job is due: after 10, 20, 40 … seconds, then every 10 minutes.

    `now`: the clock in seconds when the job starts.
    """

    def __init__(self, now: float) -> None:
        self._wait, self._last = FIRST_LINE, now

    def due(self, now: float, *, early_after: float | None = None) -> bool:
        """Return whether a line is due at `now`, which then counts as written; `early_after` seconds are enough where given."""
        waited = now - self._last
        regular = waited >= self._wait
        if not regular and (early_after is None or waited < early_after):
            return False
        if regular:
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        self._last = now
        return True


class Bar:
    """The progress of one job, as a context manager.

    On a terminal it is a bar on stderr that goes when the job is done. Elsewhere nothing is written for 10 seconds, and then
    few whole lines, so that log files stay readable.

    Args:
        total: how much there is to do; None where that is not known.
        what: the job in two or three words, to stand before the bar.
        unit: what is counted, in the singular; `B` for bytes.
        enabled: whether to show anything.
        done: how much of it was done before.
        purpose: a sentence, written before the bar, on what the job is for; for jobs that are done once.
    """

    def __init__(
        self,
        total: int | None,
        what: str,
        unit: str,
        *,
        enabled: bool = True,
        done: int = 0,
        purpose: str | None = None,
    ) -> None:
        self.n, self._total, self._what, self._unit = done, total, what, unit
        self._bar: Any = None
        enabled = wanted(enabled)
        self._lines = enabled and not terminal.is_terminal()
        self._start, self._done_before, self._written = time.monotonic(), done, False
        self._pace = Pace(self._start)
        if enabled and purpose is not None:
            terminal.say(purpose)
        if enabled and not self._lines:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                initial=done,
                desc=what,
                unit=unit,
                unit_scale=unit == "B" or (total or 0) >= 10_000,
                file=terminal.STDERR,
                dynamic_ncols=True,
                leave=False,
            )

    def update(self, count: int = 1) -> None:
        """Count `count` more as done."""
        self.n += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._lines and self._pace.due(now := time.monotonic()):
            self._written = True
            terminal.say(self._line(now - self._start))

    def close(self) -> None:
        """Take the bar away; without a terminal, end lines that were begun with one that gives the time. Once is enough."""
        if self._bar is not None:
            self._bar.close()
        if self._lines and self._written:
            terminal.say(f"{self._what}: {self._count()} in {_minutes(time.monotonic() - self._start)}")
        self._bar, self._lines = None, False

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._lines = False
        self.close()

    def _count(self) -> str:
        if self._unit == "B":
            return f"{self.n / 1e6:,.1f} MB" + ("" if self._total is None else f" of {self._total / 1e6:,.1f}")
        of = "" if self._total is None else f" of {self._total:,}"
        return f"{self.n:,}{of} {self._unit}{'' if (self._total or self.n) == 1 else 's'}"

    def _line(self, seconds: float) -> str:
        line = f"{self._what}: {self._count()}"
        new = self.n - self._done_before
        if self._total is None or new <= 0:
            return line
        left = max(self._total - self.n, 0) * seconds / new
        return f"{line} ({self.n / max(self._total, 1):.0%}), {_minutes(left)} left"


def _minutes(seconds: float) -> str:
    from tqdm import tqdm

    return str(tqdm.format_interval(int(seconds)))
