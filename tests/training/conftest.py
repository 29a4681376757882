from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _games_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture(scope="session")
def launch() -> Launch:
    """`launch(world, mode, config, out, *overrides)` runs `worker.py` on so many CPU processes, and waits."""

    def run(
        world: int, mode: str, config: Path, out: Path | str = "-", *overrides: str
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable]
        if world > 1:
            command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)]
        command += [str(HERE / "worker.py"), mode, str(config), str(out), *overrides]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "CUDA_VISIBLE_DEVICES": "",
        }
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)

    return run


@pytest.fixture(scope="session")
def tiny() -> Path:
    return ROOT / "configs" / "tiny.yaml"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished conditional run `trained` with checkpoints at steps 4 and 8. Not to be changed."""
    import gantk

    world = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANTK_RUNS", str(world / "runs"))
        patch.setenv("GANTK_CACHE", str(world / "cache"))
        return gantk.train(
            ROOT / "configs" / "tiny.yaml",
            "name=trained",
            "network.type=conditional_dcgan",
            "network.hidden_dim=16",
            "train.kimg=0.256",
            "checkpoint.every_kimg=0.128",
            "samples.count=20",
            "evaluate.every_kimg=99",
        ).folder


@pytest.fixture
def trained_copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` in the test's own runs folder."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "trained"))
