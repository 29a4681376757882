"""The base of every tracker that is there in addition to `metrics.jsonl`, and so may fail without harm."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Sink:
    """A place beside `metrics.jsonl` that keeps what is tracked. Whatever goes wrong in it is warned of once,
    and it is off from then on: training never stops for it."""

    title: str
    """Its name, for people."""

    def __init__(self) -> None:
        self._on = True

    def log(self, kimg: float, values: Mapping[str, float | str]) -> None:
        """One row of numbers and texts, at `kimg` thousand images."""
        self._attempt(lambda: self._log(kimg, values))

    def image(self, kimg: float, name: str, path: Path) -> None:
        """A PNG file that is on disk already."""
        self._attempt(lambda: self._image(kimg, name, path))

    def alert(self, title: str, text: str) -> None:
        self._attempt(lambda: self._alert(title, text))

    def summary(self, values: Mapping[str, Any]) -> None:
        self._attempt(lambda: self._summary(values))

    def finish(self, exit_code: int) -> None:
        self._attempt(lambda: self._finish(exit_code))
        self._on = False

    def _log(self, kimg: float, values: Mapping[str, float | str]) -> None:
        raise NotImplementedError

    def _image(self, kimg: float, name: str, path: Path) -> None:
        raise NotImplementedError

    def _alert(self, title: str, text: str) -> None:
        """Alerts, where the place has them."""

    def _summary(self, values: Mapping[str, Any]) -> None:
        """Numbers about the run as a whole, where the place has them."""

    def _finish(self, exit_code: int) -> None:
        raise NotImplementedError

    def _attempt(self, action: Callable[[], None]) -> None:
        if not self._on:
            return
        try:
            action()
        except Exception as error:
            self._on = False
            reason = " ".join(str(error).split()) or "no message"
            log.warning(
                "%s is off from now on (%s: %s); metrics.jsonl goes on.",
                self.title,
                type(error).__name__,
                reason,
            )
