"""Signals are noted when they come, and acted on between steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Signals:
    """The last signal that asked this process to stop.

    SIGINT is an interrupt by hand; SIGTERM and SIGUSR1 are how schedulers announce that they will take the machine away.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def urgency(self) -> int:
        """0: none came. 1: an interrupt by hand. 2: an order to leave the machine, which weighs more."""
        return {None: 0, int(signal.SIGINT): 1}.get(self.number, 2)

    def _note(self, number: int, frame: object) -> None:
        if self.number is not None and number == signal.SIGINT:
            # The second time by hand means now.
            raise KeyboardInterrupt
        self.number = number

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Notes signals for as long as it lasts; then they do what they did before."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGUSR1"):
            numbers.append(signal.SIGUSR1)
        before = {}
        try:
            for number in numbers:
                before[number] = signal.signal(number, self._note)
        except ValueError:
            # Not the main thread: whoever runs us there handles signals.
            pass
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
