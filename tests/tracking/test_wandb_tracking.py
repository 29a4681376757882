"""Weights & Biases: real offline runs, read back; and everything that may go wrong with it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from offline_reader import read_offline_runs

from gantk.grids import save_grid
from gantk.records import Status
from gantk.tracking import Tracker, log_evaluation, read_metrics

ROOT = Path(__file__).resolve().parents[2]


def grid(folder: Path) -> Path:
    path = folder / "samples" / "kimg-2.png"
    save_grid(np.full((4, 64, 64, 1), 7, np.uint8), path)
    return path


def test_offline_run_is_read_back(tmp_path: Path, make_config: Any, report: dict[str, Any]) -> None:
    folder = tmp_path / "run42"
    tracker = Tracker.open(make_config(wandb="offline", wandb_project="birds"), folder)
    for kimg in range(1, 401):  # more than one 32 KiB block
        tracker.log(float(kimg), {"loss/d": 1 / kimg, "loss/g": 2.0})
    tracker.image(400.0, "samples", grid(folder))
    tracker.scores(400.0, report)
    tracker.summary({"best/fid": 12.5})
    tracker.finish()

    (run,) = read_offline_runs(folder)
    identity = json.loads((folder / "wandb.json").read_text())
    assert identity == {"id": run.id, "project": "birds", "entity": identity["entity"], "mode": "offline"}
    assert run.id
    assert (run.project, run.name, run.exit_code) == ("birds", "run42", 0)
    assert run.config["seed"] == 3
    assert run.config["tracking"]["wandb_project"] == "birds"
    assert run.metrics["*"] == "progress/kimg"
    losses = [row for row in run.history if "loss/d" in row]
    assert [row["progress/kimg"] for row in losses] == list(range(1, 401))
    assert [row["loss/d"] for row in losses] == [1 / kimg for kimg in range(1, 401)]
    (image,) = [row for row in run.history if "samples" in row]
    assert image["progress/kimg"] == 400
    assert image["samples"]["_type"] == "image-file"
    (copy,) = folder.glob(f"wandb/offline-run-*/files/{image['samples']['path']}")
    assert copy.read_bytes() == grid(folder).read_bytes()
    (scores,) = [row for row in run.history if "eval/fid" in row]
    assert (scores["eval/fid"], scores["eval/fid_floor"], scores["eval/is_std"]) == (12.5, 2.25, 0.125)
    assert (scores["eval/collapse"], scores["progress/kimg"]) == ("collapsed", 400)
    assert run.summary["best/fid"] == 12.5
    assert run.summary["loss/d"] == 1 / 400
    ((title, text),) = run.alerts
    assert title == "Mode collapse"
    assert "class 7 is missing" in text
    assert not (tmp_path / "wandb").exists(), "W&B's files belong into the run folder, whatever $WANDB_DIR says"


def test_resume_and_evaluation_keep_the_id(tmp_path: Path, make_config: Any, report: dict[str, Any]) -> None:
    config = make_config(wandb="offline", wandb_project="birds")
    Tracker.open(config, tmp_path).finish(exit_code=75)
    resumed = Tracker.open(make_config(wandb="offline", wandb_project="fish"), tmp_path, resumed_kimg=0.0)
    resumed.log(1.0, {"loss/d": 0.5})
    resumed.finish()
    picture = tmp_path / "collapse.png"
    save_grid(np.zeros((1, 8, 8, 3), dtype=np.uint8), picture)
    log_evaluation(tmp_path, 1.0, report, picture)

    first, second, third = read_offline_runs(tmp_path)
    assert first.id == second.id == third.id
    assert {first.project, second.project, third.project} == {"birds"}, "an id means nothing in another project"
    assert first.preempting
    assert (first.exit_code, second.exit_code) == (75, 0)
    assert [row["loss/d"] for row in second.history if "loss/d" in row] == [0.5]
    (row,) = [row for row in third.history if "eval_ckpt/fid" in row]
    assert (row["eval_ckpt/fid"], row["progress/kimg"]) == (12.5, 1.0)
    assert [row.get("eval_ckpt/fid") for row in read_metrics(tmp_path)] == [None, 12.5]
    assert any("eval_ckpt/collapse_picture" in name for row in third.history for name in row)

    Tracker.open(config, tmp_path).finish()
    assert json.loads((tmp_path / "wandb.json").read_text())["id"] != first.id, "a new run has an id of its own"


def test_evaluation_leaves_the_w_and_b_of_a_training_run_alone(
    tmp_path: Path, make_config: Any, report: dict[str, Any], messages: list[tuple[int, str]]
) -> None:
    Tracker.open(make_config(wandb="offline"), tmp_path).finish()
    status = Status(tmp_path)
    log_evaluation(tmp_path, 1.0, report)
    assert len(read_offline_runs(tmp_path)) == 1
    assert any("still training" in text for _, text in messages)
    assert [row["eval_ckpt/fid"] for row in read_metrics(tmp_path)] == [12.5]
    status.finish("completed", 0)
    log_evaluation(tmp_path, 1.0, report)
    assert len(read_offline_runs(tmp_path)) == 2


def test_evaluation_of_a_run_without_w_and_b_has_none(tmp_path: Path, report: dict[str, Any]) -> None:
    log_evaluation(tmp_path, 2.0, report)
    assert not (tmp_path / "wandb").exists()
    assert read_metrics(tmp_path)[0]["eval_ckpt/collapse"] == "collapsed"


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_without_a_key_it_is_off_and_asks_nothing_on_a_terminal(tmp_path: Path, mode: str) -> None:
    pty = pytest.importorskip("pty")
    script = f"""
import sys, types
from pathlib import Path
from gantk.config.schema import Section, TrackingConfig
from gantk.records import open_log
from gantk.tracking import Tracker
class Config(Section):
    name: str = "run"
    tracking: TrackingConfig = TrackingConfig(wandb={mode!r})
assert sys.stdin.isatty() and sys.stderr.isatty()
folder = Path({str(tmp_path)!r})
open_log(folder)
tracker = Tracker.open(Config(), folder)
tracker.log(1.0, {{"loss/d": 1.0}})
tracker.finish()
print("trained on")
"""
    controller, terminal = pty.openpty()
    # As a user has it: W&B may say what it wants to.
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SILENT"}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
    )
    os.close(terminal)
    try:
        code = process.wait(timeout=60)
    finally:
        process.kill()
    shown = os.read(controller, 100_000).decode()
    os.close(controller)
    assert code == 0, shown
    assert shown.replace("\r", "").count("W&B is off, because there is no API key") == 1
    assert "trained on" in shown
    assert len(shown.strip().splitlines()) == 2, shown
    assert ("warning" in shown) == (mode == "online")
    assert len(read_metrics(tmp_path)) == 1


def test_auto_without_a_key_is_no_warning(tmp_path: Path, make_config: Any, messages: list[tuple[int, str]]) -> None:
    Tracker.open(make_config(wandb="auto"), tmp_path).finish()
    assert [level for level, _ in messages] == [logging.INFO]
    assert not (tmp_path / "wandb.json").exists()


@pytest.mark.parametrize(
    ("configured", "environment", "mode"),
    [
        ("auto", "offline", "offline"),
        ("auto", "disabled", None),
        ("auto", "", "online"),
        ("online", "offline", "online"),
        ("offline", "online", "offline"),
        ("disabled", "online", None),
    ],
)
def test_modes(
    tmp_path: Path,
    make_config: Any,
    monkeypatch: pytest.MonkeyPatch,
    configured: str,
    environment: str,
    mode: str | None,
) -> None:
    import wandb

    asked = []
    monkeypatch.setattr(wandb, "init", lambda **options: asked.append(options["mode"]) or FakeRun())
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_MODE", environment)
    Tracker.open(make_config(wandb=configured), tmp_path).finish()
    assert asked == ([mode] if mode else [])


@pytest.mark.parametrize(("configured", "mode"), [("auto", None), ("online", "online")])
def test_wandb_disabled_is_honoured_where_the_config_leaves_it_open(
    tmp_path: Path,
    make_config: Any,
    monkeypatch: pytest.MonkeyPatch,
    messages: list[tuple[int, str]],
    configured: str,
    mode: str | None,
) -> None:
    import wandb

    asked = []
    monkeypatch.setattr(wandb, "init", lambda **options: asked.append(options["mode"]) or FakeRun())
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_DISABLED", "true")
    monkeypatch.setenv("WANDB_MODE", "online")
    Tracker.open(make_config(wandb=configured), tmp_path).finish()
    assert asked == ([mode] if mode else [])
    said = [text for _, text in messages if "the environment asks for disabled" in text]
    assert len(said) == (configured == "online")


@pytest.mark.parametrize(("settings", "project"), [({}, "of-the-group"), ({"wandb_project": "mine"}, "mine")])
def test_the_project_of_the_environment(
    tmp_path: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], project: str
) -> None:
    import wandb

    asked = []
    monkeypatch.setattr(wandb, "init", lambda **options: asked.append(options["project"]) or FakeRun())
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_PROJECT", "of-the-group")
    Tracker.open(make_config(wandb="online", **settings), tmp_path).finish()
    assert asked == [project]


def test_a_key_in_netrc_is_found(tmp_path: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    asked = []
    monkeypatch.setattr(wandb, "init", lambda **options: asked.append(options["mode"]) or FakeRun())
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:7")  # nothing listens there
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:7\n  login user\n  password {'k' * 40}\n")
    wandb.teardown()  # settings are read from the environment once
    try:
        Tracker.open(make_config(wandb="auto"), tmp_path).finish()
    finally:
        wandb.teardown()
    assert asked == ["online"]


class FakeRun(SimpleNamespace):
    """A W&B run that takes everything, but for what the test makes fail."""

    def __init__(self, fails: tuple[str, ...] = ()) -> None:
        super().__init__(id="abc", project="p", entity="me", url="https://example.org", dir="files", calls=[])
        for name in ("define_metric", "log", "alert", "finish", "mark_preempting"):
            setattr(self, name, self._call(name, name in fails))
        self.summary: dict[str, Any] = {}

    def _call(self, name: str, fails: bool) -> Callable[..., None]:
        def call(*arguments: Any, **options: Any) -> None:
            self.calls.append(name)
            if fails:
                raise RuntimeError(f"{name} is\nbroken")

        return call


def test_init_that_raises_warns_once(
    tmp_path: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch, warnings_of: Callable[[], list[str]]
) -> None:
    import wandb

    def init(**options: Any) -> None:
        raise wandb.errors.CommError("no such host")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    tracker = Tracker.open(make_config(wandb="auto"), tmp_path)
    for kimg in (1.0, 2.0):
        tracker.log(kimg, {"loss/d": 1.0})
    tracker.finish()
    (warning,) = warnings_of()
    assert "W&B is off from now on (CommError: no such host)" in warning
    assert len(read_metrics(tmp_path)) == 2
    assert not (tmp_path / "wandb.json").exists()


@pytest.mark.parametrize("broken", ["define_metric", "log", "alert", "finish"])
def test_failure_on_the_way_warns_once(
    tmp_path: Path,
    make_config: Any,
    monkeypatch: pytest.MonkeyPatch,
    warnings_of: Callable[[], list[str]],
    broken: str,
) -> None:
    import wandb

    run = FakeRun(fails=(broken,))
    monkeypatch.setattr(wandb, "init", lambda **options: run)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    tracker = Tracker.open(make_config(wandb="auto"), tmp_path)
    for kimg in (1.0, 2.0, 3.0):
        tracker.log(kimg, {"loss/d": 1.0})
    tracker.alert("title", "text")
    tracker.finish()
    assert run.calls.count(broken) == 1, "it is off after its first failure"
    assert [text for text in warnings_of() if "W&B is off" in text] == [
        f"W&B is off from now on (RuntimeError: {broken} is broken); metrics.jsonl goes on."
    ]
    assert len(read_metrics(tmp_path)) == 3


def test_unreachable_server_costs_seconds_only(
    tmp_path: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch, warnings_of: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr("gantk.tracking.wandb_run.INIT_TIMEOUT", 1.0)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    import wandb

    wandb.teardown()  # settings are read from the environment once
    try:
        start = time.monotonic()
        tracker = Tracker.open(make_config(wandb="auto"), tmp_path)
        tracker.log(1.0, {"loss/d": 1.0})
        tracker.finish()
    finally:
        wandb.teardown()
    assert time.monotonic() - start < 20
    (warning,) = warnings_of()
    assert "W&B is off" in warning


def test_imports_stay_light() -> None:
    code = "import sys, gantk.tracking, gantk.records, gantk.grids; print({'torch', 'wandb'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert answer.stdout.strip() == "set()"
