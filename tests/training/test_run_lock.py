"""Two trainers never share a run's folder, and a dead one does not keep the next out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gantk.config import load_config
from gantk.errors import CheckpointError, ConfigError
from gantk.training import run_lock as module
from gantk.training.run_lock import RunLock
from gantk.training.trainer import Trainer

SHORT = ("name=run", "train.kimg=0.064", "data.limit=100", "samples.every_kimg=99", "evaluate.every_kimg=99")
HOLD = (
    "import sys, time; from pathlib import Path; from gantk.training.run_lock import RunLock\n"
    "lock = RunLock(Path(sys.argv[1])); print(lock.acquire(), flush=True); time.sleep(100)"
)


def test_second_trainer_is_refused_and_the_lock_of_a_dead_one_recovered(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(tiny, [*SHORT])
    other = subprocess.Popen([sys.executable, "-c", HOLD, config.run_folder], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "None\n"
        with pytest.raises(
            ConfigError, match=rf"is being trained by another process \(process {other.pid} on "
        ) as caught:
            Trainer(config)
        assert caught.value.exit_code == 2
    finally:
        other.kill()
        other.wait()
        assert other.stdout is not None
        other.stdout.close()
    Trainer(config).train()
    assert any(f"from process {other.pid}, which died" in r.getMessage() for r in caplog.records)
    assert not (config.run_folder / "lock.json").exists()


def test_lock_is_given_back_however_a_run_ends(tiny: Path) -> None:
    config = load_config(tiny, [*SHORT])
    Trainer(config).train()
    with pytest.raises(ConfigError, match="is there already"):
        Trainer(config, resume="never")
    with pytest.raises(CheckpointError, match="there is no run"):
        Trainer(config, resume="nowhere")
    with pytest.raises(CheckpointError, match="the config differs"):
        Trainer(load_config(tiny, [*SHORT, "optimizer.lr=1"]))
    Trainer(config).train()


def test_folder_that_cannot_be_written_is_a_sentence(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTK_RUNS", "/dev/null/runs")
    with pytest.raises(ConfigError, match=r"cannot write to the run's folder /dev/null/runs/run: Not a directory"):
        Trainer(load_config(tiny, [*SHORT]))


def other_machine(folder: Path, age: float = 0.0) -> Path:
    folder.mkdir(parents=True)
    record = folder / "lock.json"
    record.write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    then = time.time() - age
    os.utime(record, (then, then))
    return record


def test_other_machine_that_beats_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.2)
    record = other_machine(tmp_path / "run")
    over = threading.Event()
    beat = threading.Thread(target=module._beat, args=(record, over))
    beat.start()
    try:
        held = RunLock(tmp_path / "run").acquire()
        assert held is not None
        assert "(process 7 on elsewhere)" in held
    finally:
        over.set()
        beat.join()
    # It stops beating: its machine is dead, and the run goes on here.
    lock = RunLock(tmp_path / "run")
    assert lock.acquire() is None
    lock.release()


def test_other_machine_of_long_ago_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: pytest.fail("it waited"))
    other_machine(tmp_path / "run", age=2 * module.LONG_AGO_SECONDS)
    lock = RunLock(tmp_path / "run")
    assert lock.acquire() is None
    assert json.loads((tmp_path / "run" / "lock.json").read_text())["pid"] == os.getpid()
    lock.release()


def test_the_holder_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
    lock = RunLock(tmp_path / "run")
    assert lock.acquire() is None
    before = (tmp_path / "run" / "lock.json").stat().st_mtime_ns
    deadline = time.monotonic() + 20
    while (tmp_path / "run" / "lock.json").stat().st_mtime_ns == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert RunLock(tmp_path / "run").acquire() is not None
    lock.release()
    again = RunLock(tmp_path / "run")
    assert again.acquire() is None
    again.release()
