"""Two machines train together: two network namespaces with an address each, and a wire between them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from gantk.training.checkpoint import Checkpoint, checkpoints_in

pytestmark = [pytest.mark.multinode, pytest.mark.timeout(280)]
ROOT = Path(__file__).resolve().parents[2]
PORT = "29517"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def cannot(why: str) -> NoReturn:
    """Where this test has to run, as in continuous integration, a skip would go unseen."""
    if os.environ.get("GANTK_TESTS_MULTINODE") == "required":
        pytest.fail(why)
    pytest.skip(why)


class Machines:
    """Two hosts, `0` and `1`, on which processes can be started and all be killed."""

    def __init__(self, names: list[str], environment: dict[str, str]) -> None:
        self.names, self.environment = names, environment
        self.started: list[subprocess.Popen[str]] = []

    def launch(self, number: int, *overrides: str) -> subprocess.Popen[str]:
        """The command of launch/README.md for several machines, cut down to a CPU process on each."""
        command = [
            *("accelerate", "launch", "--config_file", "launch/multi_node.yaml", "--machine_rank", str(number)),
            *("--num_processes", "2", "--main_process_ip", "10.213.7.1", "--main_process_port", PORT),
            *("gantk/train.py", "--config", "configs/tiny.yaml", "train.device=cpu", "evaluate.every_kimg=1000"),
            *overrides,
        ]
        environment = {**self.environment, "GLOO_SOCKET_IFNAME": "wire"}
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.names[number], *command],
            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def processes(self, number: int) -> list[int]:
        found = subprocess.run(["ip", "netns", "pids", self.names[number]], capture_output=True, text=True)
        return [int(word) for word in found.stdout.split()]

    def kill(self, number: int) -> None:
        for process in self.processes(number):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@pytest.fixture
def machines(environment: dict[str, str]) -> Iterator[Machines]:
    if os.geteuid() != 0:
        cannot("network namespaces want root")
    if shutil.which("ip") is None:
        cannot("there is no `ip` (package iproute2)")
    names = [f"gantk-{os.getpid()}-{number}" for number in range(2)]
    made = Machines(names, environment)
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", "wire", "netns", names[0], "type", "veth", "peer", "name", "wire", "netns", names[1])
        except subprocess.CalledProcessError as error:
            cannot(f"no network namespaces here: {error.stderr.strip()}")
        for number, name in enumerate(names):
            ip("-n", name, "addr", "add", f"10.213.7.{number + 1}/24", "dev", "wire")
            for device in ("lo", "wire"):
                ip("-n", name, "link", "set", device, "up")
        yield made
    finally:
        for number in range(2):
            made.kill(number)
        for process in made.started:
            process.wait(timeout=30)
            assert process.stderr is not None
            process.stderr.close()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def run_folder(name: str) -> Path:
    return Path(os.environ["GANTK_RUNS"]) / name


def status(name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((run_folder(name) / "status.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def finish(processes: list[subprocess.Popen[str]]) -> list[str]:
    errors = []
    for process in processes:
        _, error = process.communicate(timeout=120)
        errors.append(error)
    return errors


def weights(name: str) -> dict[str, torch.Tensor]:
    newest = Checkpoint(checkpoints_in(run_folder(name) / "checkpoints")[-1])
    return {
        f"{stem}/{key}": value
        for stem in (file.removesuffix(".safetensors") for file in newest.files if file.endswith(".safetensors"))
        for key, value in newest.tensors(stem).items()
    }


def test_machine_that_is_killed_and_started_again_changes_nothing(machines: Machines) -> None:
    long = ("train.kimg=25.6", "train.log_every_kimg=0.64", "checkpoint.every_kimg=1.6", "samples.every_kimg=1000")
    straight = [machines.launch(number, *long, "name=straight") for number in range(2)]
    errors = finish(straight)
    assert status("straight")["state"] == "completed", errors
    recorded = json.loads((run_folder("straight") / "environment.json").read_text())
    assert recorded["world_size"] == 2

    seen = 0
    for killed in (1, 0):
        both = [machines.launch(number, *long, "name=broken") for number in range(2)]
        deadline = time.monotonic() + 60
        while not (status("broken").get("state") == "running" and status("broken").get("step", 0) >= seen + 150):
            assert all(process.poll() is None for process in both), finish(both)
            assert time.monotonic() < deadline
            time.sleep(0.02)
        machines.kill(killed)
        other = finish(both)[1 - killed]
        assert not machines.processes(1 - killed)
        assert both[1 - killed].returncode != 0
        assert "another process of this run has died" in other
        seen = Checkpoint(checkpoints_in(run_folder("broken") / "checkpoints")[-1]).step
        assert 50 <= seen < 800
        if killed == 1:
            assert (status("broken")["state"], status("broken")["exit_code"]) == ("failed", 1)
    both = [machines.launch(number, *long, "name=broken") for number in range(2)]
    errors = finish(both)
    assert status("broken")["state"] == "completed", errors
    assert status("broken")["resumed_from"].endswith(f"step-{seen:08d}")
    one, other_weights = weights("straight"), weights("broken")
    assert one.keys() == other_weights.keys()
    for name in one:
        assert torch.equal(one[name], other_weights[name]), name
