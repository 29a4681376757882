"""Damaged pictures: an error, or left out, counted and bounded."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from gantk_eval.errors import DataError

from gantk.data.sources import Source


@dataclass(frozen=True)
class Tolerance:
    """What to do about damaged pictures. `share`: of all pictures, how many may be left out (one always may)."""

    skip: bool = False
    share: float = 0.01

    def most(self, count: int) -> int:
        """How many of `count` pictures may be left out."""
        return max(1, int(self.share * count)) if self.skip else 0


def offering_to_skip(error: DataError) -> DataError:
    """The same sentence, with the setting that does without such pictures."""
    return DataError(f"{error}, or set data.on_bad_image=skip to leave such images out")


class Damaged:
    """The damaged pictures of a source that were met so far, with what is wrong with each. Threads may share it."""

    def __init__(self, source: Source, tolerance: Tolerance, found: Mapping[int, str] | None = None) -> None:
        """`found`: what is known from before. Raises DataError where the tolerance does not allow it."""
        self._source, self._tolerance = source, tolerance
        self._lock = threading.Lock()
        self.found: dict[int, str] = {}
        for index, message in sorted((found or {}).items()):
            self.note(index, DataError(message))

    def note(self, index: int, error: DataError) -> None:
        """Raises `error`, or a DataError that counts, where it is one too many."""
        if not self._tolerance.skip:
            raise offering_to_skip(error)
        with self._lock:
            self.found[index] = str(error)
            count, most = len(self.found), self._tolerance.most(len(self._source))
            if count > most:
                raise DataError(
                    f"more than {most} of the {len(self._source):,} pictures of {self._source.description} are damaged (the "
                    f"first: {self.found[min(self.found)]}); repair them, or raise data.max_bad_images"
                )

    def sentence(self) -> str | None:
        """What was left out, for the log; None where nothing was."""
        if not self.found:
            return None
        first = [self.found[index] for index in sorted(self.found)[:3]]
        more = "; …" if len(self.found) > 3 else ""
        count = len(self.found)
        pictures = "1 damaged picture is" if count == 1 else f"{count:,} damaged pictures are"
        return f"{self._source.description}: {pictures} left out ({'; '.join(first)}{more})"
