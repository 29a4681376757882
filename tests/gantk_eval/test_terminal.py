"""stdout and stderr that break, and the progress of long jobs."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest
from gantk_eval import progress, terminal
from gantk_eval.errors import DataError
from gantk_eval.progress import Bar, Pace


class Broken(io.StringIO):
    """A stream whose writes fail with this error, and which counts them."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.tries = error, 0

    def write(self, text: str) -> int:
        self.tries += 1
        raise self.error


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


GONE = BrokenPipeError(errno.EPIPE, "Broken pipe")
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [GONE, FULL, ValueError("I/O operation on closed file."), OSError(errno.EIO, "gone")])
def test_a_broken_stderr_is_reported_once_and_then_left_alone(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken(error)
    monkeypatch.setattr(sys, "stderr", broken)
    monkeypatch.setattr(terminal, "_lost", None)
    for _ in range(3):
        terminal.say("a line")
    with Bar(3, "a job", "step", purpose="what it is for") as bar:
        bar.update(3)
    assert broken.tries == 1
    assert [record.getMessage().split("(")[0] for record in caplog.records] == ["stderr cannot be written any more "]
    assert terminal.stderr_lost() is not None
    monkeypatch.setattr(sys, "stderr", again := io.StringIO())
    terminal.say("another")
    assert again.getvalue() == "another\n", "a stream that takes its place is written to"


def test_no_stderr_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    terminal.say("a line")
    with Bar(3, "a job", "step", purpose="what it is for") as bar:
        bar.update(3)
    assert not terminal.is_terminal()
    assert terminal.stderr_lost() == "is closed"


def test_a_slow_reader_loses_a_text_and_not_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Broken(BlockingIOError(errno.EAGAIN, "try again"))
    monkeypatch.setattr(sys, "stderr", slow)
    terminal.STDERR.write("one")
    terminal.STDERR.write("two")
    assert slow.tries == 2


def test_a_result_that_cannot_be_written_is_an_error_and_a_reader_that_left_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(FULL))
    with terminal.guarded(), pytest.raises(DataError, match="cannot write the result to stdout: No space left"):
        print("a result")
    monkeypatch.setattr(sys, "stdout", left := Broken(GONE))
    with terminal.guarded():
        print("a result")
        print("more")
    assert left.tries == 1
    assert sys.stdout is left, "the streams are put back"
    monkeypatch.setattr(sys, "stdout", None)
    with terminal.guarded():
        print("a result")


def test_characters_that_the_terminal_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with terminal.guarded():
        print("8×8, Fréchet ± 0.1 · 日")
        sys.stdout.flush()
    assert raw.getvalue() == b"8x8, Frechet +- 0.1 - ?\n"
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw := io.BytesIO(), encoding="latin-1"))
    terminal.say("8×8 …")  # no command line around it
    sys.stderr.flush()
    assert raw.getvalue() == "8×8 ...\n".encode("latin-1")


def test_bytes_do_not_go_past_the_guard() -> None:
    assert not hasattr(terminal.STDERR, "buffer")
    with pytest.raises(TypeError):
        terminal.STDERR.write(b"x")  # type: ignore[arg-type]


def test_without_a_terminal_a_job_writes_few_whole_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(3600, "a job", "step", purpose="a job of an hour (once)") as bar:
        for _ in range(3600):
            clock.now += 1
            bar.update()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "\r" not in shown.err
    lines = shown.err.splitlines()
    assert lines[:3] == [
        "a job of an hour (once)",
        "a job: 10 of 3,600 steps (0%), 59:50 left",
        "a job: 30 of 3,600 steps (1%), 59:30 left",
    ]
    assert lines[-1] == "a job: 3,600 of 3,600 steps in 1:00:00"
    assert len(lines) == 12, "after 10, 30, 70, 150, 310, 630 s and then every ten minutes"


def test_a_short_job_writes_its_purpose_alone(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(9, "a job", "step", purpose="decoding (once)") as bar:
        for _ in range(9):
            clock.now += 1
            bar.update()
    assert capsys.readouterr().err == "decoding (once)\n"


def test_what_was_done_before_does_not_shorten_the_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar(200, "a job", "image", done=100)
    clock.now += 10
    bar.update(50)
    assert capsys.readouterr().err == "a job: 150 of 200 images (75%), 00:10 left\n"


def test_a_job_that_is_left_does_not_claim_to_be_done(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        with Bar(9, "a job", "step") as bar:
            clock.now += 10
            bar.update()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().err == "a job: 1 of 9 steps (11%), 01:20 left\n"


@pytest.mark.parametrize("disabled_by", ["argument", "environment"])
def test_nothing_is_written_where_progress_is_off(
    disabled_by: str, clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if disabled_by == "environment":
        monkeypatch.setenv("TQDM_DISABLE", "1")
    for stream in (sys.stderr, Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        with Bar(9, "a job", "step", enabled=disabled_by == "environment", purpose="what for") as bar:
            clock.now += 1000
            bar.update(9)
    assert capsys.readouterr().err == ""
    assert stream.getvalue() == ""  # type: ignore[attr-defined]


def test_on_a_terminal_the_purpose_stays_and_the_bar_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    with Bar(2, "a job", "step", purpose="what it is for") as bar:
        bar.update()
        terminal.say("a line above")
        bar.update()
    text = shown.getvalue()
    assert text.startswith("what it is for\n")
    assert "a job:   0%|" in text
    assert "a line above\n" in text
    assert text.rsplit("\r", 1)[-1] == "", "the last frame is blank"


def test_bytes_are_counted_in_megabytes(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(None, "weights", "B") as bar:
        clock.now += 10
        bar.update(2_500_000)
    assert capsys.readouterr().err == "weights: 2.5 MB\nweights: 2.5 MB in 00:10\n"


def test_pace() -> None:
    pace = Pace(0.0)
    assert [now for now in range(1, 1000) if pace.due(float(now))] == [10, 30, 70, 150, 310, 630]
    assert not pace.due(630.5, early_after=1.0)
    assert pace.due(631.0, early_after=1.0)


def test_closed_descriptors_are_filled() -> None:
    kept = os.dup(0)
    try:
        os.close(0)
        with terminal.guarded(), open(__file__) as first:
            assert first.fileno() > 2, "a file must not get the number of a standard stream"
    finally:
        os.dup2(kept, 0)
        os.close(kept)
