"""One piece of work at a time in a thread beside the training, whose failure is not lost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from gantk.errors import UserError


class Background:
    """Does what it is given while training goes on. Python waits for it at exit, whatever ends the program."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._work: Future[None] | None = None

    def begin(self, work: Callable[[], None]) -> None:
        """Start `work`. What went before must have been waited for."""
        if self._work is not None:
            raise RuntimeError("there is work under way: call `finish` first")
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._work = self._pool.submit(work)

    @property
    def failed(self) -> bool:
        """Whether the work has ended, and badly. Does not wait."""
        return self._work is not None and self._work.done() and self._work.exception() is not None

    def finish(self) -> UserError | None:
        """Wait for the work, if there is any.

        Returns:
            What it failed with, where it is for the user to mend; anything else is raised.
        """
        work, self._work = self._work, None
        try:
            if work is not None:
                work.result()
        except UserError as error:
            return error
        return None
