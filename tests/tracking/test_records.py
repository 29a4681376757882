"""status.json, environment.json, log.txt."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import signal
import stat
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gantk.records import Status, close_log, environment, is_running, open_log, write_atomic, write_json


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "status.json").read_text())


def test_status_from_start_to_end(tmp_path: Path) -> None:
    status = Status(tmp_path, resumed_from="checkpoints/step-00000010", step=10, kimg=1.28)
    first = read(tmp_path)
    assert first == {
        "state": "running",
        "exit_code": None,
        "started": first["started"],
        "updated": first["updated"],
        "step": 10,
        "kimg": 1.28,
        "resumed_from": "checkpoints/step-00000010",
        "message": None,
        "verdict": None,
        "reasons": None,
        "rollbacks": 0,
        "pid": os.getpid(),
        "host": first["host"],
    }
    assert datetime.fromisoformat(first["started"]).utcoffset().total_seconds() == 0
    status.update(step=20, kimg=2.56, verdict="suspect")
    second = read(tmp_path)
    assert (second["state"], second["step"], second["verdict"]) == ("running", 20, "suspect")
    assert second["started"] == first["started"]
    status.finish("diverged", 5, "loss/d is nan")
    last = read(tmp_path)
    assert (last["state"], last["exit_code"], last["message"]) == ("diverged", 5, "loss/d is nan")
    assert (last["step"], last["kimg"]) == (20, 2.56)
    assert last["updated"] >= second["updated"]


def test_status_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    status = Status(tmp_path)
    with pytest.raises(TypeError, match="loss"):
        status.update(loss=1.0)
    for state in ("running", "done"):
        with pytest.raises(ValueError, match=state):
            status.finish(state, 0)  # type: ignore[arg-type]
    assert read(tmp_path)["state"] == "running"


def test_status_that_cannot_be_written_warns_once(tmp_path: Path, warnings_of: Any) -> None:
    (tmp_path / "status.json").mkdir()
    (tmp_path / "status.json" / "in the way").touch()
    status = Status(tmp_path)
    status.finish("failed", 1)
    (warning,) = warnings_of()
    assert "status.json" in warning
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"], "no temporary file is left"


def test_is_running(tmp_path: Path) -> None:
    assert not is_running(tmp_path)
    status = Status(tmp_path)
    assert is_running(tmp_path)
    running = read(tmp_path)
    write_json(tmp_path / "status.json", {**running, "pid": 2**22 + 1})
    assert not is_running(tmp_path), "killed: no such process"
    write_json(tmp_path / "status.json", {**running, "started": "2001-01-01T00:00:00+00:00"})
    assert not is_running(tmp_path), "killed: another process has its number"
    write_json(tmp_path / "status.json", {**running, "host": "elsewhere"})
    assert is_running(tmp_path)
    write_json(
        tmp_path / "status.json",
        {**running, "host": "elsewhere", "updated": running["started"][:2] + "01-01-01T00:00:00+00:00"},
    )
    assert not is_running(tmp_path)
    (tmp_path / "status.json").write_text("{")
    assert not is_running(tmp_path)
    status.finish("completed", 0)
    assert not is_running(tmp_path)


def test_json_is_strict(tmp_path: Path) -> None:
    value = {
        "path": Path("a") / "b",
        "nan": math.nan,
        "inside": [np.float32(0.5), np.int64(3), {"inf": -math.inf}],
        "array": np.arange(3),
        "set": {"b", "a"},
        1: True,
    }
    write_json(tmp_path / "new" / "value.json", value)
    assert json.loads((tmp_path / "new" / "value.json").read_text()) == {
        "path": "a/b",
        "nan": None,
        "inside": [0.5, 3, {"inf": None}],
        "array": [0, 1, 2],
        "set": ["a", "b"],
        "1": True,
    }


def test_write_is_atomic_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_atomic(path, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_have_the_usual_rights(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", b"")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret-" * 8)
    monkeypatch.chdir(tmp_path)
    record = environment({"precision": "bf16", "threads": 2})
    text = json.dumps(record)
    assert "secret-" not in text
    assert (record["precision"], record["threads"]) == ("bf16", 2)
    assert {"torch", "accelerate", "numpy", "wandb"} <= set(record["packages"])
    assert record["cpu"]["usable"] >= 1
    assert record["cpu"]["memory_bytes"] > 2**28
    assert record["git"] is None
    assert isinstance(record["accelerators"], list)


def test_environment_knows_the_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import subprocess

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "one")
    monkeypatch.chdir(tmp_path)
    assert environment()["git"] == {
        "commit": git("rev-parse", "HEAD"),
        "changed": False,
        "tree": str(tmp_path),
    }
    (tmp_path / "file").write_text("2")
    assert environment()["git"]["changed"] is True


@pytest.fixture
def _closed_log() -> Any:
    yield
    close_log()


@pytest.mark.usefixtures("_closed_log")
def test_log_goes_to_people_and_to_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("gantk.anything")
    open_log(tmp_path / "one")
    logger.info("first")
    open_log(tmp_path / "two")  # another run in the same process
    logger.warning("second")
    logging.getLogger("gantk_eval.anything").info("third")
    shown = capsys.readouterr()
    assert shown.err == "first\nwarning: second\nthird\n"
    assert shown.out == ""
    assert [line.split(" ", 1)[1] for line in (tmp_path / "one" / "log.txt").read_text().splitlines()] == ["INFO first"]
    lines = (tmp_path / "two" / "log.txt").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["WARNING second", "INFO third"]
    assert lines[0].split(" ")[0].endswith("Z")
    open_log(tmp_path / "one")  # a resume: the log goes on
    logger.info("fourth")
    assert len((tmp_path / "one" / "log.txt").read_text().splitlines()) == 2


@pytest.mark.usefixtures("_closed_log")
def test_log_on_a_full_disk_says_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full to stand in for a full disk")
    (tmp_path / "log.txt").symlink_to("/dev/full")
    open_log(tmp_path)
    for word in ("first", "second"):
        logging.getLogger("gantk").info(word)
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert shown.count("Cannot write") == 1
    assert "first\n" in shown
    assert "second\n" in shown
