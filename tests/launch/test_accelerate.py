"""The launch files, and `accelerate launch` as the README writes it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

from gantk import runtime
from gantk.config.schema import TrainConfig
from gantk.errors import ConfigError
from gantk.runtime import Runtime, choose_device

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
TINY = "configs/tiny.yaml"
NO_EVALUATION = "evaluate.every_kimg=1000"
Run = Callable[..., "subprocess.CompletedProcess[str]"]
EVERY_FLAG = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")


def recorded(name: str, tmp_path: Path, run: str = "tiny") -> dict[str, Any]:
    """A JSON file of a run's folder."""
    found: dict[str, Any] = json.loads((tmp_path / "runs" / run / name).read_text())
    return found


# The files


@pytest.mark.parametrize(
    ("file", "kind", "processes", "machines", "cpu"),
    [
        ("cpu.yaml", DistributedType.NO, 1, 1, True),
        ("one_gpu.yaml", DistributedType.NO, 1, 1, False),
        ("multi_gpu.yaml", DistributedType.MULTI_GPU, 8, 1, False),
        ("multi_node.yaml", DistributedType.MULTI_GPU, 16, 2, False),
    ],
)
def test_accelerate_reads_the_file(file: str, kind: Any, processes: int, machines: int, cpu: bool) -> None:
    """Its own loader refuses keys that it does not know."""
    config = load_config_from_file(str(LAUNCH / file))
    assert (config.distributed_type, config.num_processes, config.num_machines) == (kind, processes, machines)
    assert config.use_cpu is cpu
    assert config.mixed_precision == "no", "the run's own precision must win"


def test_every_launch_file_is_tested_and_explained() -> None:
    files = {path.name for path in LAUNCH.glob("*.yaml")}
    assert files == {"cpu.yaml", "one_gpu.yaml", "multi_gpu.yaml", "multi_node.yaml"}
    readme = (LAUNCH / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in files | {"slurm.sh"})


# Training


def test_the_documented_command_in_a_checkout_that_is_not_installed(run: Run, only_here: str, tmp_path: Path) -> None:
    """`accelerate launch gantk/train.py --config …`, word for word, with gantk nowhere but in the working folder."""
    checkout = tmp_path / "checkout"
    for folder in ("gantk", "evaluation", "configs"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    assert run("python", "-c", "import gantk", cwd=tmp_path, PYTHONPATH=only_here).returncode == 1
    done = run(
        *("accelerate", "launch", "gantk/train.py", "--config", TINY, NO_EVALUATION), cwd=checkout, PYTHONPATH=only_here
    )
    assert done.returncode == 0, done.stderr
    assert recorded("status.json", tmp_path)["state"] == "completed"
    assert recorded("environment.json", tmp_path)["world_size"] == 1
    assert done.stdout == ""


@pytest.mark.slow
def test_the_cpu_file_trains(run: Run, tmp_path: Path) -> None:
    done = run(
        "accelerate", "launch", "--config_file", "launch/cpu.yaml", "gantk/train.py", "--config", TINY, NO_EVALUATION
    )
    assert done.returncode == 0, done.stderr
    assert recorded("status.json", tmp_path)["state"] == "completed"
    assert (tmp_path / "runs" / "tiny" / "checkpoints" / "step-00000040" / "manifest.json").is_file()


@pytest.mark.slow
def test_the_one_gpu_file_trains_on_the_cpu_where_there_is_no_gpu(run: Run, tmp_path: Path) -> None:
    file = "launch/one_gpu.yaml"
    done = run("accelerate", "launch", "--config_file", file, "gantk/train.py", "--config", TINY, NO_EVALUATION)
    assert done.returncode == 0, done.stderr
    assert recorded("environment.json", tmp_path)["device"] == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["multi_gpu flag", "multi_gpu.yaml", "torchrun"])
def test_two_real_processes_on_a_cpu(run: Run, tmp_path: Path, port: str, launcher: str) -> None:
    extra: dict[str, str] = {}
    if launcher == "torchrun":
        extra["ACCELERATE_USE_CPU"] = "true"
        command = ["torchrun", "--nproc_per_node", "2", "--master_port", port]
    elif launcher == "multi_gpu.yaml":
        command = ["accelerate", "launch", "--config_file", "launch/multi_gpu.yaml"]
        command += ["--num_processes", "2", "--main_process_port", port]
    else:
        command = [
            "accelerate",
            "launch",
            "--multi_gpu",
            "--num_processes",
            "2",
            "--main_process_port",
            port,
            *EVERY_FLAG,
        ]
    done = run(*command, "gantk/train.py", "--config", TINY, NO_EVALUATION, "train.device=cpu", **extra)
    assert done.returncode == 0, done.stderr
    environment = recorded("environment.json", tmp_path)
    assert (environment["world_size"], environment["device"]) == (2, "cpu")
    assert recorded("status.json", tmp_path)["state"] == "completed"


@pytest.mark.slow
def test_two_machines_on_one(environment: dict[str, str], tmp_path: Path, port: str) -> None:
    """The command of `multi_node.yaml` on each of two machines, which are both this one."""
    command = ["accelerate", "launch", "--config_file", "launch/multi_node.yaml", "--num_processes", "2"]
    command += ["--main_process_ip", "127.0.0.1", "--main_process_port", port]
    train = ["gantk/train.py", "--config", TINY, NO_EVALUATION]
    machines = [
        subprocess.Popen(
            [*command, "--machine_rank", rank, *train], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    errors = [machine.communicate(timeout=240)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], "\n".join(errors)
    assert recorded("environment.json", tmp_path)["world_size"] == 2
    assert "score it with" in errors[0]
    assert "score it with" not in errors[1]


# Refusals


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--cpu", "MULTI_CPU file", "MULTI_CPU default file"])
def test_a_launch_that_silently_starts_one_process_is_refused(run: Run, tmp_path: Path, how: str) -> None:
    options = ["--cpu", "--num_processes", "2", *EVERY_FLAG]
    if how != "--cpu":
        values = yaml.safe_load((LAUNCH / "cpu.yaml").read_text()) | {
            "distributed_type": "MULTI_CPU",
            "num_processes": 2,
        }
        file = tmp_path / ("launch.yaml" if how == "MULTI_CPU file" else "huggingface/accelerate/default_config.yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(values))
        options = ["--config_file", str(file)] if how == "MULTI_CPU file" else []
    done = run("accelerate", "launch", "--quiet", *options, "gantk/train.py", "--config", TINY)
    assert done.returncode != 0
    assert "the launcher asks for 2 processes and there are 1" in done.stderr
    assert "torchrun --nproc_per_node 2" in done.stderr
    assert not (tmp_path / "runs").exists()


class _Parent:
    def __init__(self, command: str) -> None:
        self.command = command

    def cmdline(self) -> list[str]:
        return self.command.split()


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("python bin/accelerate launch --cpu --num_processes 2 gantk/train.py --config c.yaml", 2),
        ("python bin/accelerate launch --cpu --num-processes=2 gantk/train.py", 2),
        ("python bin/accelerate-launch --num_processes 3 gantk/train.py", 3),
        ("python -m accelerate.commands.launch --num_processes 4 gantk/train.py", 4),
        ("python bin/accelerate launch --config_file {launch}/multi_gpu.yaml gantk/train.py", 8),
        ("python bin/accelerate launch --config_file {launch}/multi_gpu.yaml --num_processes 2 gantk/train.py", 2),
        ("python bin/accelerate launch gantk/train.py --config c.yaml", None),
        ("bash train_all.sh --num_processes 2", None),
    ],
)
def test_what_the_launcher_was_asked_for(monkeypatch: pytest.MonkeyPatch, command: str, asked: int | None) -> None:
    monkeypatch.setattr("psutil.Process", lambda pid: _Parent(command.format(launch=LAUNCH)))
    monkeypatch.setattr(runtime, "_default_launch_file", lambda: None)
    assert runtime._processes_asked_for() == asked


def test_another_world_than_the_config_wants_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`train\.world_size` asks for 2 processes and there are 1") as refused:
        Runtime(TrainConfig(kimg=1, device="cpu", world_size=2, precision="no"))
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("ACCELERATE_USE_FSDP", "true", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "train.compile"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "train.accumulation"),
    ],
)
def test_what_a_launcher_may_not_ask_for(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, fix: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=fix):
        Runtime(TrainConfig(kimg=1, device="cpu"))


@pytest.mark.parametrize(("beforehand", "in_force"), [(None, "processors"), ("1", 1)])
def test_a_launcher_leaves_no_core_idle_unless_asked_to(
    environment: dict[str, str], tmp_path: Path, beforehand: str | None, in_force: Any
) -> None:
    from gantk.data.cache import processors

    environment.pop("OMP_NUM_THREADS")
    if beforehand is not None:
        environment["OMP_NUM_THREADS"] = beforehand
    # The launcher's part is played by a shell: exports come after its own environment was laid down.
    child = "from gantk.config.schema import TrainConfig; from gantk.runtime import Runtime; import torch; "
    child += "Runtime(TrainConfig(device='cpu', kimg=1)); print(torch.get_num_threads())"
    shell = f'export OMP_NUM_THREADS=1 ACCELERATE_MIXED_PRECISION=no; "{sys.executable}" -c "{child}"; true'
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split()[-1:] == [str(processors() if in_force == "processors" else in_force)], done.stderr


def test_a_launch_on_the_cpu_keeps_off_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the precision would be chosen for a GPU that accelerate does not use."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose_device("auto").type == "cuda"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert choose_device("auto").type == "cpu"


ENDS_AFTER_A_COLLECTIVE = """
import torch, torch.distributed as dist
from gantk.runtime import connect
connect("cpu")
network = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
network(torch.randn(2, 4)).sum().backward()
for _ in range(3):
    dist.all_reduce(torch.zeros(3))
"""


@pytest.mark.slow
def test_processes_that_end_right_after_a_collective_end_well(run: Run, tmp_path: Path) -> None:
    """Two in three such launches ended with SIGABRT in one of the processes."""
    script = tmp_path / "script.py"
    script.write_text(ENDS_AFTER_A_COLLECTIVE)
    for _ in range(4):
        done = run("torchrun", "--standalone", "--nproc_per_node", "2", script, ACCELERATE_USE_CPU="true")
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_train_on_when_nobody_reads_their_output(
    environment: dict[str, str], tmp_path: Path, port: str
) -> None:
    launch = f"accelerate launch --multi_gpu --num_processes 2 {' '.join(EVERY_FLAG)} --main_process_port {port}"
    command = f"{launch} gantk/train.py --config {TINY} {NO_EVALUATION} train.kimg=0.128 checkpoint.every_kimg=0.064"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} 2>&1 | head -1"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert recorded("status.json", tmp_path)["state"] == "completed"
    log = (tmp_path / "runs" / "tiny" / "log.txt").read_text()
    assert log.count("stderr cannot be written any more (Broken pipe)") == 1
