"""The clock that every benchmark here goes by."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks import records, timing
from benchmarks.timing import BusyMachineError, Comparison, Turn, compare


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_medians_and_ratios_are_over_the_rounds() -> None:
    slow = [Turn(wall, wall, 0.0) for wall in (4.0, 6.0, 90.0)]
    fast = [Turn(wall, 2 * wall, 0.0) for wall in (2.0, 2.0, 30.0)]
    found = Comparison({"slow": slow, "fast": fast})
    assert found.seconds("slow") == 6.0
    # 2, 3 and 3: the round in which everything was slow has its say as any other.
    assert found.ratio("slow", "fast") == 3.0
    assert found.process_ratio("slow", "fast") == 1.5
    assert found.spread("slow", "fast") == (2.0, 3.0)


def test_variants_take_turns_and_the_order_is_turned_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "timed", lambda work: (work(), Turn(1.0, 1.0, 0.0))[1])
    calls: list[str] = []
    compare({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=1)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"


def test_a_disturbed_round_is_thrown_away_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = iter([Turn(1, 1, 0), Turn(1, 1, 0.5), *[Turn(1, 1, 0)] * 6])
    monkeypatch.setattr(timing, "timed", lambda work: next(turns))
    found = compare({"a": lambda: None, "b": lambda: None}, rounds=3)
    assert (found.rounds, found.thrown_away) == (3, 1)
    assert all(turn.others == 0 for kept in found.turns.values() for turn in kept)


def test_no_figure_comes_from_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "timed", lambda work: Turn(1, 1, 0.5))
    with pytest.raises(BusyMachineError, match=r"rounds were disturbed by other processes"):
        compare({"a": lambda: None}, limit_s=0.05)


BURN = [sys.executable, "-c", "while True: pass"]
ORPHAN = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"


def test_what_other_processes_use_is_seen() -> None:
    """Of a process that is not our child; it gets its share of a processor on the busiest machine."""
    started = subprocess.run([sys.executable, "-c", ORPHAN, *BURN], capture_output=True, text=True, check=True)
    burner = psutil.Process(int(started.stdout))
    try:
        turn = timing.timed(lambda: spin(0.5))
    finally:
        burner.kill()
    assert turn.others * turn.wall * (psutil.cpu_count() or 1) > 0.1


def test_what_our_children_use_is_ours() -> None:
    """Workers that load data, say, whether they are still there at the end or not."""
    end = "import time\nwhile time.process_time() < 0.5: pass"
    turn = timing.timed(lambda: subprocess.run([sys.executable, "-c", end], check=True))
    assert turn.process > 0.4
    burner = subprocess.Popen(BURN)
    try:
        turn = timing.timed(lambda: time.sleep(1.0))
    finally:
        burner.kill()
        burner.wait()
    assert turn.process > 0.1


def test_what_we_use_ourselves_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    own, busy = itertools.count(5.0, 1.0), itertools.count(100.0, 1.25)
    monkeypatch.setattr(timing, "_own_seconds", lambda: next(own))
    monkeypatch.setattr(timing, "_busy_seconds", lambda: next(busy))
    monkeypatch.setattr("psutil.cpu_count", lambda: 2)
    turn = timing.timed(lambda: time.sleep(0.1))
    assert turn.others * turn.wall * 2 == pytest.approx(0.25)


def test_a_result_says_how_it_was_got(tmp_path: Path) -> None:
    path = records.write("some", {"ratio": 2.0}, tmp_path)
    values = json.loads(path.read_text())
    assert values["figures"] == {"ratio": 2.0}
    assert set(values) == {"benchmark", "command", "date", "machine", "versions", "figures"}
    assert values["versions"]["torch"]
    assert values["machine"]["cores"] >= 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_result_does_not_name_the_host(tmp_path: Path) -> None:
    import socket

    assert f'"{socket.gethostname()}"' not in records.write("some", {}, tmp_path).read_text()
