"""Standard output and standard error for people: writing to them never ends the work, whoever stopped reading."""

from __future__ import annotations

import codecs
import contextlib
import io
import logging
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

from gantk_eval.errors import DataError

__all__ = ["STDERR", "Stream", "guarded", "is_terminal", "say", "stderr_lost"]

log = logging.getLogger(__name__)

_PLAIN = {
    "×": "x", "·": "-", "…": "...", "−": "-", "–": "-", "—": "-", "→": "->", "↑": "^", "↓": "v", "≥": ">=", "≤": "<=",
    "±": "+-", "≈": "~", "≠": "!=", "γ": "gamma", "σ": "sigma", "“": '"', "”": '"', "’": "'", "∞": "inf",
}  # fmt: skip
_PLAINLY = "gantk_eval.plainly"
_GONE = (BrokenPipeError, ValueError)
"""Nobody reads any more: the reader closed its end, or the stream itself was closed."""
_lost: str | None = None


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that a terminal's encoding lacks by others that look like them, or by `?`."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    ascii_only = [
        _PLAIN.get(c) or unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode() or "?" for c in text
    ]
    return "".join(ascii_only), error.end


codecs.register_error(_PLAINLY, _plainly)


class Stream:
    """A text stream that drops what is written to it once the stream below cannot be written any more.

    What breaks is reported once, by a warning in the log. The stream is looked up at each call, so that one that was
    replaced (by a notebook, or a test) is written to.

    Args:
        name: `stdout` or `stderr`, for the report.
        below: returns the stream to write to; None where there is none.
        must_arrive: raise DataError where the stream still has a reader and a write fails (a full disk): for results.
    """

    def __init__(self, name: str, below: Callable[[], TextIO | None], *, must_arrive: bool = False) -> None:
        self._name, self._below, self._must_arrive = name, below, must_arrive
        self._gone: TextIO | None = None

    def write(self, text: str) -> int:
        """Write `text`, with `?` for what the encoding lacks; return its length, also where it is dropped."""
        if not isinstance(text, str):
            raise TypeError(f"write() takes str, not {type(text).__name__}")
        # Writing nothing is how libraries ask what kind of stream it is, and they pass over errors.
        if text and (stream := self._open()) is not None:
            try:
                try:
                    stream.write(text)
                except UnicodeEncodeError:
                    encoding = stream.encoding or "ascii"
                    stream.write(text.encode(encoding, _PLAINLY).decode(encoding))
            except (OSError, ValueError) as error:
                self._failed(stream, error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream below, where it can still be written."""
        if (stream := self._open()) is not None:
            try:
                stream.flush()
            except ValueError:
                pass  # closed, so that nothing is waiting
            except OSError as error:
                self._failed(stream, error)

    def isatty(self) -> bool:
        """Return whether the stream below is a terminal that can still be written."""
        stream = self._open()
        try:
            return stream is not None and stream.isatty()
        except (OSError, ValueError):
            return False

    @property
    def encoding(self) -> str:
        """The encoding of the stream below."""
        return getattr(self._below(), "encoding", None) or "utf-8"

    def fileno(self) -> int:
        """The file descriptor of the stream below. Raises io.UnsupportedOperation where there is none."""
        if (stream := self._below()) is None:
            raise io.UnsupportedOperation("fileno")
        return stream.fileno()

    def __getattr__(self, name: str) -> Any:
        # Bytes would go past the guard.
        if name == "buffer" or (stream := self._below()) is None:
            raise AttributeError(name)
        return getattr(stream, name)

    def _open(self) -> TextIO | None:
        stream = self._below()
        return None if stream is self._gone else stream

    def _failed(self, stream: TextIO, error: OSError | ValueError) -> None:
        global _lost
        if isinstance(error, BlockingIOError) and not self._must_arrive:
            return  # a reader that is slow: this text alone is lost
        self._gone = stream
        if stream in (sys.__stdout__, sys.__stderr__):
            _into_nothing(stream)
        reason = getattr(error, "strerror", None) or str(error)
        if self._must_arrive and not isinstance(error, _GONE):
            raise DataError(
                f"cannot write the result to {self._name}: {reason}; make room, or send it to another place, and give the same "
                "command again"
            ) from error
        if self._name == "stderr":
            _lost = f"cannot be written any more ({reason})"
            log.warning("stderr %s: what is said from now on is not shown", _lost)


def _into_nothing(stream: TextIO) -> None:
    """Send a file descriptor to the null device: what is still in its buffer would fail when Python exits, with code 120."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


STDERR = cast(TextIO, Stream("stderr", lambda: sys.stderr))
"""`sys.stderr` as it is at each call, for lines and bars; a write to it never raises."""


def is_terminal() -> bool:
    """Return whether a person may be reading stderr on a terminal."""
    return STDERR.isatty()


def say(text: str) -> None:
    """Write a line to stderr, above the bar where there is one. Never raises for want of a reader."""
    from tqdm import tqdm

    tqdm.write(text, file=STDERR)


def stderr_lost() -> str | None:
    """Why nobody can read stderr, as the end of a sentence that begins with it; None where somebody can."""
    return "is closed" if sys.stderr is None else _lost


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Let nothing that is written to stdout or stderr end the command, as long as the block lasts.

    A closed stream, or one whose reader has gone, takes everything and shows nothing. A full disk below stdout is an error:
    a result that was asked for is lost. Characters that the terminal lacks are replaced.

    `print` and `sys.stdout.flush` raise DataError there.
    """
    global _lost
    # The next file to be opened would get the number of a closed stream, and everything that is printed below Python.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    before = sys.stdout, sys.stderr
    _lost = "is closed" if sys.stderr is None else None
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_PLAINLY)
    sys.stdout = cast(TextIO, Stream("stdout", lambda: before[0], must_arrive=True))
    sys.stderr = cast(TextIO, Stream("stderr", lambda: before[1]))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
