"""Commands whose stdout or stderr is closed, full, or read by nobody: in processes of their own."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PYTHON = shlex.quote(sys.executable)
GANTK = f"{PYTHON} -m gantk"
SHORT = "train.kimg=0.128 evaluate.every_kimg=99 checkpoint.every_kimg=0.064"
TRAIN = f"{GANTK} train --config configs/tiny.yaml {SHORT}"
IN_PYTHON = f"{PYTHON} -c 'import gantk, sys; gantk.train(*sys.argv[1:])' configs/tiny.yaml {SHORT}"
BROKEN = "stderr cannot be written any more"

TRAINED = {
    "full": (f"{TRAIN} --name full 2>/dev/full", f"{BROKEN} (No space left on device)"),
    "closed": (f"{TRAIN} --name closed <&- >&- 2>&-", "stderr is closed"),
    "reader-left": (f"{IN_PYTHON} name=reader-left 2>&1 | head -1", f"{BROKEN} (Broken pipe)"),
}


def shell(command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def test_training_does_not_end_for_want_of_a_listener(tmp_path: Path) -> None:
    started = {name: shell(command) for name, (command, _) in TRAINED.items()}
    for name, (_, said) in TRAINED.items():
        code, _, err = result(started[name])
        assert code == 0, (name, err)
        assert "Traceback" not in err
        folder = tmp_path / "runs" / name
        assert json.loads((folder / "status.json").read_text())["state"] == "completed"
        assert sorted(path.name for path in (folder / "checkpoints").glob("step-*")) == [
            "step-00000002",
            "step-00000004",
        ]
        log = (folder / "log.txt").read_text()
        assert log.count(said) == 1, log
        assert log.count("stderr") == 1, log


def test_results_that_nobody_reads(tmp_path: Path) -> None:
    images = tmp_path / "images.npy"
    np.save(images, np.random.default_rng(0).integers(0, 255, (64, 8, 8, 1), dtype=np.uint8))
    scored = f"{GANTK} eval --images {images} --reference {images} --metrics fd_pixel_pca --device cpu"
    started = {
        "list | head": shell(f"{GANTK} list | head -1"),
        "help | true": shell(f"{GANTK} --help | true"),
        "help closed": shell(f"{GANTK} --help >&-"),
        "help full": shell(f"{GANTK} --help >/dev/full"),
        "eval full": shell(f"{scored} --json >/dev/full"),
        "eval ascii": shell(f"PYTHONIOENCODING=ascii {scored}"),
    }
    results = {name: result(process) for name, process in started.items()}
    for name, (code, _, err) in results.items():
        assert "Traceback" not in err, (name, err)
        if "full" in name:
            assert code == 3, (name, err)
            assert err.splitlines()[-1].startswith("gantk: cannot write the result to stdout: No space left on device")
        else:
            assert code == 0, (name, err)
            assert "gantk: " not in err, name
        if "|" in name or "closed" in name:
            assert err.count("\n") < 10
    assert results["list | head"][1].count("\n") == 1
    assert "fd_pixel_pca" in results["eval ascii"][1]
    assert results["eval ascii"][1].isascii()


def test_log_files_hold_whole_lines() -> None:
    """No frames of bars, and with `tracking.progress: false` no progress at all."""
    short = "train.kimg=0.064 evaluate.every_kimg=0.064 evaluate.metrics=[fd_classifier] evaluate.samples=64"
    command = f"{GANTK} train --config configs/tiny.yaml {short} samples.every_kimg=99"
    started = {on: shell(f"{command} --name progress-{on} tracking.progress={on}") for on in ("true", "false")}
    for on, process in started.items():
        code, out, err = result(process)
        assert code == 0, err
        assert out == ""
        assert "\r" not in err
        assert ("training the classifier" in err) == (on == "true")
        assert ("0.1/0.1 kimg" in err) == (on == "true")
