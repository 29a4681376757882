"""`launch/slurm.sh`, with stand-ins for Slurm's own commands that do what their manuals say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "slurm.sh"
TINY = ("--config", "configs/tiny.yaml", "evaluate.every_kimg=1000000")

# Starts a process for each task, hands a USR1 on to them as Slurm does before the time limit, returns the highest code.
SRUN = """#!{python}
import os, signal, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("-"):
    words.pop(0)
tasks, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_NNODES"])
started = []
for task in range(tasks):
    places = dict(SLURM_PROCID=task, SLURM_LOCALID=task % (tasks // nodes), SLURM_NODEID=task // (tasks // nodes))
    started.append(subprocess.Popen(words, env=dict(os.environ, **dict((k, str(v)) for k, v in places.items()))))
signal.signal(signal.SIGUSR1, lambda *_: [process.send_signal(signal.SIGUSR1) for process in started])
open(os.environ["FAKE_SLURM"] + "/srun.pid", "w").write(str(os.getpid()))
codes = [process.wait() for process in started]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SCONTROL = """#!/bin/bash
echo "$@" >>"$FAKE_SLURM/scontrol.log"
if [[ $1 == show ]]; then echo 127.0.0.1; fi
"""
SQUEUE = """#!/bin/bash
echo "${FAKE_STATE:-RUNNING}"
"""


@pytest.fixture
def slurm(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of a batch script: two nodes with a task each."""
    shims = tmp_path / "slurm"
    shims.mkdir()
    for name, text in (("srun", SRUN.replace("{python}", sys.executable)), ("scontrol", SCONTROL), ("squeue", SQUEUE)):
        (shims / name).write_text(text)
        (shims / name).chmod(0o755)
    return {
        **environment,
        "PATH": f"{shims}{os.pathsep}{environment['PATH']}",
        "FAKE_SLURM": str(shims),
        "PYTHON": sys.executable,
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_NTASKS": "2",
        "SLURM_NNODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }


def submit(environment: dict[str, str], tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As Slurm runs it: from a copy, somewhere else."""
    copy = tmp_path / "slurm_script"
    copy.write_text(SCRIPT.read_text())
    return subprocess.run(
        ["bash", copy, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )


def status(tmp_path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((tmp_path / "runs" / "tiny" / "status.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def test_bash_can_read_it() -> None:
    done = subprocess.run(["bash", "-n", SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(SCRIPT, os.X_OK)


def test_it_asks_for_the_signal_and_the_requeue() -> None:
    options = [line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--signal=USR1@120", "--requeue", "--open-mode=append"} <= set(options)


@pytest.mark.parametrize(
    ("change", "says"), [({"SLURM_SUBMIT_DIR": "/"}, "GANTK_HOME"), ({"PYTHON": "/no/python"}, "PYTHON")]
)
def test_it_says_what_is_not_set_up(slurm: dict[str, str], tmp_path: Path, change: dict[str, str], says: str) -> None:
    done = submit({**slurm, **change}, tmp_path, *TINY)
    assert done.returncode == 2
    assert says in done.stderr


@pytest.mark.slow
def test_two_nodes_train(slurm: dict[str, str], tmp_path: Path) -> None:
    done = submit(slurm, tmp_path, *TINY)
    assert done.returncode == 0, done.stderr
    assert status(tmp_path)["state"] == "completed"
    assert json.loads((tmp_path / "runs" / "tiny" / "environment.json").read_text())["world_size"] == 2
    assert (tmp_path / "slurm" / "scontrol.log").read_text().split() == ["show", "hostnames", "node[1-2]"]


@pytest.mark.slow
def test_a_wrong_config_keeps_its_exit_code_and_is_not_requeued(slurm: dict[str, str], tmp_path: Path) -> None:
    done = submit(slurm, tmp_path, *TINY, "train.batch_sise=3")
    assert done.returncode == 2
    assert done.stderr.count("did you mean `batch_size`") == 1
    assert "requeue" not in (tmp_path / "slurm" / "scontrol.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("state", ["RUNNING", "CANCELLED"])
def test_the_signal_before_the_time_limit(slurm: dict[str, str], tmp_path: Path, state: str) -> None:
    """It saves, is put back into the queue (unless it was cancelled), and goes on to the end."""
    (tmp_path / "slurm_script").write_text(SCRIPT.read_text())
    job = subprocess.Popen(
        ["bash", tmp_path / "slurm_script", *TINY, "train.kimg=100000"],
        cwd=tmp_path,
        env={**slurm, "FAKE_STATE": state},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while status(tmp_path).get("step", 0) < 20 and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(int((tmp_path / "slurm" / "srun.pid").read_text()), signal.SIGUSR1)
        _, errors = job.communicate(timeout=120)
    finally:
        for process in psutil.Process(job.pid).children(recursive=True) if job.poll() is None else ():
            process.kill()
        job.kill()
    asked = (tmp_path / "slurm" / "scontrol.log").read_text()
    assert (status(tmp_path)["state"], status(tmp_path)["exit_code"]) == ("preempted", 75), errors
    if state == "CANCELLED":
        assert job.returncode == 75
        assert "requeue" not in asked
        return
    assert job.returncode == 0, errors
    assert f"requeue {slurm['SLURM_JOB_ID']}" in asked
    stopped = status(tmp_path)["kimg"]
    done = submit(slurm, tmp_path, *TINY, f"train.kimg={stopped + 1.28}")
    assert done.returncode == 0, done.stderr
    assert status(tmp_path)["state"] == "completed"
    assert "checkpoints" in status(tmp_path)["resumed_from"]
