"""Checkpoints are written while training goes on: what is written is of one moment, and no failure is lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from gantk.config import load_config
from gantk.errors import CheckpointError, PreemptedError, UserError
from gantk.training import checkpoint as checkpoints
from gantk.training.background import Background
from gantk.training.checkpoint import Checkpoint, checkpoints_in
from gantk.training.hooks import Hook
from gantk.training.trainer import Trainer

SHORT = (
    "name=run", "train.kimg=0.256", "data.limit=100", "checkpoint={every_kimg: 0.064, keep: 9}", "samples.every_kimg=99",
    "evaluate.every_kimg=99",
)  # fmt: skip


def make(tiny: Path, *overrides: str) -> Trainer:
    return Trainer(load_config(tiny, [*SHORT, *overrides]))


def status(trainer: Trainer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((trainer.folder / "status.json").read_text())
    return found


class _Held:
    """Writes go on only when `go` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.threads = threading.Event(), set()
        store = checkpoints.store

        def held(*arguments: Any) -> None:
            self.threads.add(threading.current_thread())
            assert self.go.wait(60)
            store(*arguments)

        monkeypatch.setattr(checkpoints, "store", held)


def test_what_is_written_is_of_the_moment_of_the_save(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = make(tiny, "name=straight")
    straight.train()
    held = _Held(monkeypatch)
    trainer = make(tiny)
    trainer.train_step()
    trainer.train_step()
    trainer.save()
    # Everything goes on to change in place while the first checkpoint waits to be written.
    for _ in range(3):
        trainer.train_step()
    assert not checkpoints_in(trainer.folder / "checkpoints")
    held.go.set()
    trainer.await_save()
    assert threading.main_thread() not in held.threads
    one, other = (Checkpoint(t.folder / "checkpoints" / "step-00000002") for t in (straight, trainer))
    assert one.files == other.files
    for name in one.files:
        if name.endswith(".safetensors") and name != "meter.safetensors":
            a, b = one.tensors(name.removesuffix(".safetensors")), other.tensors(name.removesuffix(".safetensors"))
            assert all(torch.equal(a[key], b[key]) for key in a), name
    assert one.state["cursor"] == other.state["cursor"]


def test_the_last_save_is_awaited(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = _Held(monkeypatch)
    trainer = make(tiny, "checkpoint.every_kimg=99")
    seen = []
    threading.Timer(0.5, lambda: (seen.append(status(trainer)["state"]), held.go.set())).start()
    trainer.train()
    assert seen == ["running"]
    assert status(trainer)["state"] == "completed"
    assert Checkpoint(trainer.folder / "checkpoints" / "step-00000008").step == 8


def fail(*arguments: Any, **keywords: Any) -> None:
    raise OSError(28, "No space left on device")


def test_failure_is_reported_like_that_of_a_save_in_the_foreground(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(tiny)

    class FullDisk(Hook):
        def after_step(self, trainer: Trainer) -> None:
            if trainer.step == 3:
                trainer.await_save()
                monkeypatch.setattr(checkpoints, "save_file", fail)
            if trainer.step > 4:
                # Training goes on until the failure shows, and no further.
                trainer._background._work and trainer._background._work.exception()

    trainer.hooks.insert(0, FullDisk(1))
    with pytest.raises(
        CheckpointError, match=r"could not write the checkpoint .*step-00000004.*No space left"
    ) as caught:
        trainer.train()
    assert caught.value.exit_code == 4
    assert trainer.step in (4, 5)
    found = status(trainer)
    assert (found["state"], found["exit_code"]) == ("failed", 4)
    assert "No space left" in found["message"]
    folder = trainer.folder / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-00000002"]
    monkeypatch.undo()
    assert Checkpoint(folder / "step-00000002").step == 2


@pytest.mark.parametrize("at_end", [True, False])
def test_failure_of_the_last_save_is_no_success(tiny: Path, at_end: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(tiny, "checkpoint.every_kimg=99")
    monkeypatch.setattr(checkpoints, "save_file", fail)
    if not at_end:
        trainer.signals.number = 15
    with pytest.raises(CheckpointError, match="No space left"):
        trainer.train()
    assert (status(trainer)["state"], status(trainer)["exit_code"]) == ("failed", 4)


def test_another_error_waits_for_the_save_and_is_the_one_to_be_heard(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(tiny)

    class Failing(Hook):
        def after_step(self, trainer: Trainer) -> None:
            if trainer.step == 3:
                raise PreemptedError("for another reason")

    trainer.hooks.insert(0, Failing(1))
    held = _Held(monkeypatch)
    threading.Timer(0.3, held.go.set).start()
    with pytest.raises(PreemptedError, match="another reason"):
        trainer.train()
    assert Checkpoint(trainer.folder / "checkpoints" / "step-00000002").step == 2


@contextlib.contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Stands in for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_disk_that_is_full_when_a_checkpoint_is_due(tiny: Path) -> None:
    first = make(tiny, "train.kimg=0.128")
    first.train()
    files = list((first.folder / "checkpoints" / "step-00000004").iterdir())
    limit = max(path.stat().st_size for path in files) - 1
    with file_size_limit(limit), pytest.raises(CheckpointError, match="could not write the checkpoint") as caught:
        make(tiny).train()
    assert caught.value.exit_code == 4
    assert (status(first)["state"], status(first)["exit_code"]) == ("failed", 4)
    left = sorted(path.name for path in (first.folder / "checkpoints").iterdir())
    assert left == ["step-00000002", "step-00000004"]
    again = make(tiny)
    again.train()
    assert again.step == 8


def test_disk_that_is_full_when_a_picture_is_due(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, path: Any, *rest: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "grid.png")

    monkeypatch.setattr(Image.Image, "save", full)
    trainer = make(tiny, "samples.every_kimg=0.128")
    with pytest.raises(UserError, match=r"cannot write grid\.png: No space left on device; make room") as caught:
        trainer.train()
    assert caught.value.exit_code == 3
    assert (status(trainer)["state"], status(trainer)["exit_code"]) == ("failed", 3)


def test_disk_that_is_full_when_a_row_is_due(tiny: Path) -> None:
    trainer = make(tiny, "checkpoint.every_kimg=99", "train.log_every_kimg=0.064")
    with file_size_limit(100), pytest.raises(UserError, match=r"Cannot write .*metrics\.jsonl: .*make room") as caught:
        trainer.train()
    assert caught.value.exit_code == 3
    assert not (trainer.folder / "metrics.jsonl").read_bytes()


def test_the_config_is_written_whole_or_not_at_all(tiny: Path) -> None:
    make(tiny, "train.kimg=0.064").train()
    file = Path(os.environ["GANTK_RUNS"]) / "run" / "config.yaml"
    before = file.read_text()
    with file_size_limit(len(before) // 2), pytest.raises(UserError, match="make room") as caught:
        make(tiny)
    assert caught.value.exit_code == 3
    assert file.read_text() == before


def test_background_work() -> None:
    background = Background()
    assert background.finish() is None
    assert not background.failed
    done = []
    background.begin(lambda: done.append(1))
    with pytest.raises(RuntimeError, match="under way"):
        background.begin(lambda: None)
    assert background.finish() is None
    assert done == [1]

    def bug() -> None:
        raise KeyError("a bug is no user's mistake")

    background.begin(bug)
    with pytest.raises(KeyError):
        background.finish()
    assert not background.failed
