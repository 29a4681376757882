"""Every test has its own cache and runs folder, no network and no W&B key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GANTK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("GANTK_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "wandb"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def project_root() -> Path:
    return ROOT


@pytest.fixture
def real_data() -> Path:
    """The folder with MNIST and CIFAR-10 as parquet; the test is skipped where there is none."""
    for folder in (os.environ.get("GANTK_DATA"), ROOT.parent / "shared" / "data"):
        if folder and (Path(folder) / "mnist_train.parquet").is_file():
            return Path(folder)
    pytest.skip("no real data: set $GANTK_DATA to a folder with mnist_train.parquet and the others")
