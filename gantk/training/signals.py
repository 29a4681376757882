"""Signals, and the death of our launcher, are noted when they come, and acted on when the step is done."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

import gantk
from gantk.errors import InterruptedRunError, PreemptedError, UserError

AGAIN_SECONDS = 1.0
"""A second interrupt this long after the first is a person who will not wait. Sooner, it is the same one: a terminal
interrupts launcher and trainers alike, and the launcher hands its own on to the trainers."""
POLL_SECONDS = 0.5
GRACE_SECONDS = 8.0
"""What a trainer whose launcher has died has to end its step and save, before it is ended: a process that waits for others
that are gone hears no signal."""
_ASKED = "asked to stop"


class Stopped(BaseException):
    """A signal came in the midst of something that may be left undone. No `except Exception` on the way mistakes it."""


class Signals:
    """The signals that asked this process to stop, the weightiest counting.

    SIGINT is an interrupt by hand; SIGTERM, SIGUSR1 and SIGHUP are how schedulers, launchers and closing terminals announce
    that the machine is to be left. A launcher that dies (`accelerate launch` and `torchrun` do so without a word to their
    workers at some signals) counts as SIGTERM.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.last_words: Callable[[UserError], None] = lambda error: None
        """Called in another thread just before an orphan is ended that did not end by itself."""
        self._since = 0.0
        self._interruptible = False

    @property
    def urgency(self) -> int:
        """0: none came. 1: an interrupt by hand. 2: an order to leave the machine, which weighs more."""
        return {None: 0, int(signal.SIGINT): 1}.get(self.number, 2)

    def error(self, urgency: int, where: str) -> UserError:
        """What to raise when a run stops at `where` for a signal of this urgency."""
        if urgency == 1:
            return InterruptedRunError(f"interrupted {where}; the same command goes on from there")
        return PreemptedError(f"asked to stop {where}; the same command goes on from there")

    def _note(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.number is not None and now - self._since > AGAIN_SECONDS:
            raise KeyboardInterrupt
        if self.urgency < 2:
            self.number = number
        self._since = self._since or now
        if self._interruptible:
            self._interruptible = False
            raise Stopped

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Notes signals, and whether the launcher lives, for as long as it lasts; then they do what they did before."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        numbers += [getattr(signal, name) for name in ("SIGUSR1", "SIGHUP") if hasattr(signal, name)]
        before = {}
        over = threading.Event()
        try:
            for number in numbers:
                if number != getattr(signal, "SIGHUP", None) or signal.getsignal(number) is not signal.SIG_IGN:
                    # `nohup` has SIGHUP ignored, and is meant to.
                    before[number] = signal.signal(number, self._note)
        except ValueError:
            # Not the main thread: whoever runs us there handles signals.
            pass
        launcher = launcher_of_this_process() if before else None
        if launcher is not None:
            threading.Thread(target=self._watch, args=(launcher, over), name="launcher-watch", daemon=True).start()
        try:
            yield
        finally:
            over.set()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _watch(self, launcher: int, over: threading.Event) -> None:
        while os.getppid() == launcher:
            if over.wait(POLL_SECONDS):
                return
        os.kill(os.getpid(), signal.SIGTERM)
        if over.wait(GRACE_SECONDS):
            return
        error = PreemptedError(
            "the launcher died, and nothing could be saved after that; the same command goes on from the last checkpoint"
        )
        self.last_words(error)
        os._exit(error.exit_code)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """What is done in here may be left undone: a signal ends it at once, with `Stopped`."""
        self._interruptible = True
        try:
            if self.number is not None:
                self._interruptible = False
                raise Stopped
            yield
        finally:
            self._interruptible = False

    def check(self) -> None:
        """Raises a RuntimeError where a signal has come, which `is_stop` knows again on the processes it is told to."""
        if self.number is not None:
            raise RuntimeError(_ASKED)

    @staticmethod
    def is_stop(error: BaseException) -> bool:
        return isinstance(error, Stopped) or (isinstance(error, RuntimeError) and str(error) == _ASKED)


def launcher_of_this_process() -> int | None:
    """The process id of the `accelerate launch` or `torchrun` that started us, dead or alive; None where nothing did.

    Another parent may go without us: a shell that was left with `nohup gantk train … &` running.
    """
    parent = gantk.STARTED_BY
    if os.getppid() != parent:
        # It died while PyTorch was being imported; what it was can only be told from what it left us.
        launched = "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    else:
        try:
            launched = _is_launcher(psutil.Process(parent).cmdline())
        except psutil.Error:
            launched = False
        # A script between the launcher and us ends when its launcher ends it.
        launched = launched or "TORCHELASTIC_RUN_ID" in os.environ
    return parent if launched else None


def _is_launcher(words: list[str]) -> bool:
    # Behind an interpreter or not, and as a command or a module.
    first = [os.path.basename(word) for word in words[:4]]
    if any(word in ("torchrun", "torch.distributed.run", "torch.distributed.launch") for word in first):
        return True
    return any("accelerate" in word for word in first) and any("launch" in word for word in first)
