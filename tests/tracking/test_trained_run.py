"""W&B around a real training: what a run leaves there offline, and a training that W&B fails."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from offline_reader import read_offline_runs

import gantk
from gantk.tracking import read_metrics

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    str(ROOT / "configs" / "tiny.yaml"), "name=run", "train.kimg=0.256", "train.log_every_kimg=0.128", "samples.every_kimg=0.256",
    "checkpoint.every_kimg=99", "evaluate.every_kimg=99",
)  # fmt: skip


def test_offline_training_is_read_back() -> None:
    folder = gantk.train(*SHORT, "tracking.wandb=offline").folder
    (run,) = read_offline_runs(folder)
    assert (run.name, run.exit_code) == ("run", 0)
    assert run.config["train"]["kimg"] == 0.256
    assert run.config["optimizer"]["betas"] == [0.5, 0.999]
    rows = [row for row in run.history if "d/loss" in row]
    assert [row["progress/kimg"] for row in rows] == [0.128, 0.256]
    written = [row for row in read_metrics(folder) if "d/loss" in row]
    # Beliefs in real and generated images, D(x) and D(G(z)), are probabilities.
    for row, line in zip(rows, written, strict=True):
        for key in (
            "d/loss",
            "g/loss",
            "d/real",
            "d/fake",
            "d/grad_norm",
            "g/grad_norm",
            "speed/images_per_second",
        ):
            assert row[key] == line[key], key
            assert row[key] > 0, key
        assert row["d/real"] < 1
        assert row["d/fake"] < 1
    (picture,) = [row for row in run.history if "samples" in row]
    assert picture["progress/kimg"] == 0.256
    (copy,) = folder.glob(f"wandb/offline-run-*/files/{picture['samples']['path']}")
    (grid,) = (folder / "samples").glob("*.png")
    assert copy.read_bytes() == grid.read_bytes()


def test_training_completes_where_init_raises(
    monkeypatch: pytest.MonkeyPatch, warnings_of: Callable[[], list[str]]
) -> None:
    import wandb

    def init(**options: object) -> None:
        raise wandb.errors.CommError("no such host")

    monkeypatch.setattr(wandb, "init", init)
    folder = gantk.train(*SHORT, "tracking.wandb=offline").folder
    status = json.loads((Path(os.environ["GANTK_RUNS"]) / "run" / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["step"]) == ("completed", 0, 8)
    (warning,) = warnings_of()
    assert "W&B is off from now on (CommError: no such host)" in warning
    assert len(read_metrics(folder)) == 2
