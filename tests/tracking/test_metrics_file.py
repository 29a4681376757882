"""`metrics.jsonl` and TensorBoard: what is written, and what a resume leaves of it."""

from __future__ import annotations

import json
import math
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gantk.errors import ConfigError, UserError
from gantk.grids import save_grid
from gantk.records import Status
from gantk.tracking import Tracker, log_evaluation, read_metrics
from gantk.tracking.local import MetricsFile

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def open_tracker(tmp_path: Path, make_config: Any) -> Callable[..., Tracker]:
    return lambda resumed_kimg=None, **tracking: Tracker.open(
        make_config(wandb="disabled", **tracking), tmp_path, resumed_kimg=resumed_kimg
    )


def kimgs(folder: Path) -> list[float]:
    return [row["progress/kimg"] for row in read_metrics(folder)]


def test_rows_are_strict_json_and_there_at_once(tmp_path: Path, open_tracker: Callable[..., Tracker]) -> None:
    tracker = open_tracker()
    values = {
        "python": 1,
        "torch": torch.tensor(0.5),
        "numpy": np.float32(0.25),
        "nan": math.nan,
        "inf": torch.tensor(math.inf),
        "text": "grün",
    }
    tracker.log(0.128, values)
    line = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    assert json.loads(line, parse_constant=refuse) == {
        "progress/kimg": 0.128,
        "python": 1.0,
        "torch": 0.5,
        "numpy": 0.25,
        "nan": None,
        "inf": None,
        "text": "grün",
    }
    tracker.finish()
    tracker.finish()  # a second call does nothing


def test_scores_are_flattened(
    tmp_path: Path,
    open_tracker: Callable[..., Tracker],
    report: dict[str, Any],
    warnings_of: Callable[[], list[str]],
) -> None:
    tracker = open_tracker()
    tracker.scores(1.0, report)
    tracker.scores(2.0, report)
    assert read_metrics(tmp_path)[0] == {
        "progress/kimg": 1.0,
        "eval/fid": 12.5,
        "eval/fid_extrapolated": 11.0,
        "eval/fid_floor": 2.25,
        "eval/is": 3.5,
        "eval/is_std": 0.125,
        "eval/collapse": "collapsed",
        "eval/memorisation": "ok",
        "eval/n_fake": 500,
    }
    assert len(warnings_of()) == 1, "the alert is for the change, not for each evaluation"
    tracker.scores(3.0, {**report, "collapse": {"verdict": "ok", "reasons": []}})
    tracker.scores(4.0, report)
    assert len(warnings_of()) == 2


def test_a_resume_starts_where_the_checkpoint_was(tmp_path: Path, open_tracker: Callable[..., Tracker]) -> None:
    tracker = open_tracker()
    for step in range(1, 8):
        tracker.log(step * 0.1, {"loss/d": step})
    tracker.finish()
    before = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"progress/kimg": 0.2, "loss/')  # killed while writing

    resumed = open_tracker(resumed_kimg=300 / 1000)  # 3 * 0.1 is a little more than that
    assert (tmp_path / "metrics.jsonl").read_bytes().splitlines() == before[:3]
    for step in range(4, 8):
        resumed.log(step * 0.1, {"loss/d": step})
    resumed.finish()
    assert (tmp_path / "metrics.jsonl").read_bytes().splitlines() == before
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*.part"))


def test_a_resume_without_the_file_and_a_new_run(tmp_path: Path, open_tracker: Callable[..., Tracker]) -> None:
    open_tracker(resumed_kimg=5.0).log(6.0, {})
    assert kimgs(tmp_path) == [6.0]
    open_tracker().log(1.0, {})
    assert kimgs(tmp_path) == [1.0]


def test_a_half_written_line_is_read_past_and_mended(tmp_path: Path, report: dict[str, Any]) -> None:
    whole = b'{"progress/kimg": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(whole + b'{"progress/kimg": 2.0, "name": "gr\xc3')
    assert kimgs(tmp_path) == [1.0]
    log_evaluation(tmp_path, 1.0, report)
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["progress/kimg"] for line in lines] == [1.0, 1.0]


def test_evaluation_does_not_replace_the_file_under_a_training_run(
    tmp_path: Path, open_tracker: Callable[..., Tracker], report: dict[str, Any]
) -> None:
    Status(tmp_path)
    tracker = open_tracker()
    tracker.log(1.0, {})
    log_evaluation(tmp_path, 1.0, report)
    tracker.log(2.0, {})
    assert kimgs(tmp_path) == [1.0, 1.0, 2.0]


def test_a_full_disk_is_one_sentence_and_leaves_whole_rows(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path, keep_kimg=None)
    metrics.append(1.0, {"loss/d": 1.0})
    size = (tmp_path / "metrics.jsonl").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        with pytest.raises(UserError, match=r"Cannot write .*metrics\.jsonl"):
            metrics.append(2.0, {"loss/d": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / "metrics.jsonl").stat().st_size == size
    metrics.append(2.0, {"loss/d": 1.0})
    assert kimgs(tmp_path) == [1.0, 2.0]


def test_an_evaluation_survives_a_folder_that_cannot_be_written(
    tmp_path: Path, report: dict[str, Any], warnings_of: Callable[[], list[str]]
) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    log_evaluation(tmp_path, 1.0, report)
    (warning,) = warnings_of()
    assert "Cannot write" in warning


def events(folder: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(
        str(folder / "tensorboard")
    )
    accumulator.Reload()
    return accumulator


def test_tensorboard_is_read_back(tmp_path: Path, open_tracker: Callable[..., Tracker], report: dict[str, Any]) -> None:
    pytest.importorskip("tensorboard")
    picture = tmp_path / "grid.png"
    save_grid(np.zeros((2, 64, 64, 3), np.uint8), picture)
    tracker = open_tracker(tensorboard=True)
    for kimg in (1.0, 2.0, 3.0):
        tracker.log(kimg, {"loss/d": kimg / 2, "loss/g": math.nan})
    tracker.image(2.0, "samples", picture)
    tracker.scores(3.0, report)
    tracker.finish()
    written = events(tmp_path)
    assert [(event.step, event.value) for event in written.Scalars("loss/d")] == [
        (1000, 0.5),
        (2000, 1.0),
        (3000, 1.5),
    ]
    assert all(math.isnan(event.value) for event in written.Scalars("loss/g"))
    assert written.Scalars("eval/fid")[0].value == 12.5
    (image,) = written.Images("samples")
    assert (image.step, image.width, image.height) == (2000, 134, 68)

    resumed = open_tracker(resumed_kimg=2.0, tensorboard=True)
    resumed.log(2.5, {"loss/d": 9.0})
    resumed.finish()
    assert [(event.step, event.value) for event in events(tmp_path).Scalars("loss/d")] == [
        (1000, 0.5),
        (2000, 1.0),
        (2500, 9.0),
    ]
    log_evaluation(tmp_path, 2.5, report)
    assert events(tmp_path).Scalars("eval_ckpt/fid")[0].step == 2500

    open_tracker(tensorboard=True).finish()
    assert "loss/d" not in events(tmp_path).Tags()["scalars"], "a new run starts with no points"


def test_tensorboard_that_is_not_installed(
    tmp_path: Path, open_tracker: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"progress/kimg": 1.0}\n')
    monkeypatch.setattr("gantk.tracking.tensorboard_files._installed", lambda: False)
    with pytest.raises(ConfigError, match=r"tracking\.tensorboard.*pip install"):
        open_tracker(tensorboard=True)
    assert kimgs(tmp_path) == [1.0], "nothing is touched before the mistake is known"


def test_tensorboard_that_breaks_warns_once(
    tmp_path: Path, open_tracker: Callable[..., Tracker], warnings_of: Callable[[], list[str]]
) -> None:
    pytest.importorskip("tensorboard")
    tracker = open_tracker(tensorboard=True)
    for kimg in (1.0, 2.0):
        tracker.image(kimg, "samples", tmp_path / "missing.png")
    tracker.log(1.0, {"loss/d": 1.0})
    tracker.finish()
    (warning,) = warnings_of()
    assert warning.startswith("TensorBoard is off from now on (FileNotFoundError")
    assert kimgs(tmp_path) == [1.0]


def test_a_killed_writer_leaves_whole_rows(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from gantk.tracking.local import MetricsFile
metrics = MetricsFile(Path({str(tmp_path)!r}), keep_kimg=None)
for kimg in range(100):
    metrics.append(float(kimg), {{"loss/d": 1.0}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == -signal.SIGKILL
    assert kimgs(tmp_path) == list(range(100))
