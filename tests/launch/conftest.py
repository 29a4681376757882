"""Commands as a user gives them: processes of their own, in a world without the user's own accelerate config."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
FREE_OF_LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables for a command: the test's own folders, one thread, no GPU, nothing of a launcher around us."""
    kept = {k: v for k, v in os.environ.items() if k not in FREE_OF_LAUNCHERS and not k.startswith("ACCELERATE_")}
    return {
        **kept,
        "HOME": str(tmp_path / "home"),
        "HF_HOME": str(tmp_path / "huggingface"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.fixture
def run(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command from the project's folder and returns its exit code and output."""

    def go(*command: str | Path, cwd: Path = ROOT, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env={**environment, **extra},
            capture_output=True,
            text=True,
            timeout=240,
        )

    return go


@pytest.fixture
def port() -> str:
    """A port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.fixture
def only_here(tmp_path: Path) -> str:
    """A folder for PYTHONPATH that hides this checkout's editable install from every Python that is started with it.

    Python imports `sitecustomize` after it has read the .pth files, and before it puts the script's folder on the path.
    """
    folder = tmp_path / "hides-the-checkout"
    folder.mkdir()
    hidden = [str(ROOT), str(ROOT / "evaluation")]
    (folder / "sitecustomize.py").write_text(
        f"import os, sys\nsys.path[:] = [p for p in sys.path if os.path.realpath(p) not in {hidden!r}]\n"
    )
    return str(folder)
