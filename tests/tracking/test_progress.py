"""The progress bar, on a terminal and off it."""

from __future__ import annotations

import io
import sys

import pytest

from gantk import progress
from gantk.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_run_without_a_terminal_prints_few_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(100_000.0)
    for step in range(1, 10_001):  # 10 kimg each 17.28 s: two days
        clock.now += 17.28
        bar.update(step * 10.0, {"d": 0.693, "g": 1.5})
    bar.close()
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert shown.out == ""
    assert 250 < len(lines) < 350, "each ten minutes, in the long run"
    assert lines[0] == "  0% 10.0/100000.0 kimg, 579 images/s, 47:59:42 left, d 0.693, g 1.5"
    assert lines[-1] == "100% 100000.0/100000.0 kimg, 579 images/s, 00:00 left, d 0.693, g 1.5"


def test_a_short_run_says_each_tenth_but_not_in_a_burst(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(10.0)
    for step in range(1, 101):
        clock.now += 0.2
        bar.update(step / 10)
    assert 10 <= len(capsys.readouterr().err.splitlines()) <= 12
    burst = Progress(10.0)
    for step in range(1, 101):
        clock.now += 0.001
        burst.update(step / 10)
    assert [line[:4] for line in capsys.readouterr().err.splitlines()] == ["100%"]
    beyond = Progress(1.0)
    clock.now += 0.5
    beyond.update(1.024)  # the last step may go beyond
    assert capsys.readouterr().err.startswith("100% 1.0/1.0 kimg")


def test_rate_is_of_the_last_half_minute(clock: Clock) -> None:
    bar = Progress(1000.0, enabled=False, start_kimg=500.0)
    assert bar.images_per_second == 0
    clock.now += 10
    bar.update(501.0)
    assert bar.images_per_second == pytest.approx(100), "what a resumed run had seen before does not count"
    for second in range(1, 61):
        clock.now += 1
        bar.update(501.0 + second)
    assert bar.images_per_second == pytest.approx(1000)
    clock.now += 300  # an evaluation
    bar.restart()
    clock.now += 1
    bar.update(561.5)
    assert bar.images_per_second == pytest.approx(500)


def test_disabled_shows_only_what_it_is_told(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(1.0, enabled=False)
    clock.now += 1000
    bar.update(1.0)
    bar.write("said")
    bar.close()
    assert capsys.readouterr().err == "said\n"


def test_the_bar_on_a_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = Progress(200.0, start_kimg=100.0)
    clock.now += 10
    bar.update(120.0, {"d": 0.5})
    clock.now += 10
    bar.update(150.0, {"g": 2.0})
    bar.write("a line above")
    bar.update(200.128)  # the last step may go beyond
    bar.close()
    bar.close()
    shown = terminal.getvalue()
    last = shown.rstrip().split("\r")[-1]
    assert last.startswith("100% |")
    assert "200.0/200.0 kimg" in last
    assert "d 0.5, g 2" in last
    assert "a line above\n" in shown
    assert "150.0/200.0 kimg, 2,500 images/s, 00:20 left" in shown
