"""Work split over ranks: the same report in one process and in two."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from gantk_eval import distributed

Processes = Callable[..., list[tuple[int, str, str]]]
WORKER = """
import json
import numpy as np
from gantk_eval import ArrayImages, DataError, Evaluator, distributed
from gantk_eval.extractors import classifier
from gantk_eval.statistics import RunningStatistics

classifier.STEPS = {1: 40, 3: 40}
generator = np.random.default_rng(0)
labels = generator.integers(0, 3, 600)
pixels = (labels[:, None, None] * 80 + generator.integers(0, 60, (600, 8, 8))).astype(np.uint8)
sets = [ArrayImages(pixels[a:b], labels[a:b]) for a, b in ((0, 300), (300, 400), (400, 531))]
report = Evaluator(sets[0], sets[1], batch_size=16, accuracy_floor=0.0).evaluate(sets[2])

running = RunningStatistics(4)
for chunk in distributed.chunks(103, 10):
    running.update(np.stack([np.sin(chunk + i) for i in range(4)], axis=1))
covariance = running.reduce(expected=103).covariance

class Broken(ArrayImages):
    def read(self, indices):
        if 20 in indices:
            raise DataError("cannot read image 20")
        return super().read(indices)

try:
    Evaluator(sets[0], metrics=["fd_pixel_pca"], collapse=False, batch_size=16).evaluate(Broken(pixels[:60]))
    raised = "nothing"
except DataError as error:
    raised = str(error)
protocol = report.to_dict()["protocol"]
protocol.pop("software")
print(json.dumps({"report": {**report.to_dict(), "protocol": protocol}, "raised": raised, "cov":
covariance.tolist()}))
"""


def close(first: object, second: object, path: str = "") -> None:
    if isinstance(first, dict) and isinstance(second, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            close(first[key], second[key], f"{path}.{key}")
    elif isinstance(first, float):
        assert second == pytest.approx(first, rel=1e-9, abs=1e-12), path
    else:
        assert first == second, path


@pytest.mark.slow
def test_two_processes_give_the_report_of_one(tmp_path: Path, in_processes: Processes) -> None:
    def run(world: int) -> list[dict]:
        ended = in_processes(WORKER, world, tmp_path / str(world))
        assert all(code == 0 for code, _, _ in ended), ended
        return [json.loads(out.strip().splitlines()[-1]) for _, out, _ in ended]

    (alone,) = run(1)
    pair = run(2)
    for result in pair:
        close(alone["report"], result["report"])
        assert np.allclose(result["cov"], alone["cov"], rtol=1e-12)
        # An error on one rank is raised on all, and none waits for ever.
        assert result["raised"] == "cannot read image 20"


def test_chunks_are_aligned_to_the_global_index(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [c.tolist() for c in distributed.chunks(23, 5)]
    assert list(chain.from_iterable(alone)) == list(range(23))
    shares = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "world_size", lambda: 3)
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append([c.tolist() for c in distributed.chunks(23, 5)])
    assert sorted(chain.from_iterable(shares)) == alone
    assert shares[1] == [alone[1], alone[4]]


def test_the_count_is_asserted() -> None:
    rows = np.arange(6.0).reshape(3, 2)
    assert distributed.gather_rows(np.array([2, 0, 1]), rows, 3)[:, 0].tolist() == [2.0, 4.0, 0.0]
    for indices in ([0, 1, 1], [0, 1, 3]):
        with pytest.raises(RuntimeError, match="each once"):
            distributed.gather_rows(np.array(indices), rows, 3)


@pytest.mark.slow
def test_accelerate_launches_the_command(tmp_path: Path) -> None:
    """`accelerate launch -m gantk eval` in two processes prints what one process does."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = torch.nn.Linear(192, 40), torch.nn.Linear(40, 24)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.tanh(self.first(x.flatten(1).float() / 255.0)))

    torch.jit.script(Net()).save(str(tmp_path / "net.pt"))
    generator = np.random.default_rng(0)
    for name, count in (("fake", 107), ("real", 131), ("heldout", 90)):
        np.savez(tmp_path / f"{name}.npz", images=generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8))
    command = ["-m", "gantk", "eval", "--json", "--device", "cpu", "--extractor", str(tmp_path / "net.pt")]
    for option in ("images", "reference", "heldout"):
        name = {"images": "fake", "reference": "real"}.get(option, option)
        command += [f"--{option}", str(tmp_path / f"{name}.npz")]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port]
    reports = []
    for number, start in enumerate(([], launch)):
        environment = {**os.environ, "GANTK_CACHE": str(tmp_path / f"cache{number}"), "OMP_NUM_THREADS": "1"}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(
            [sys.executable, *start, *command], env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout))
    alone, pair = reports
    assert pair["protocol"].pop("software")["world_size"] == "2"
    assert alone["protocol"].pop("software")["world_size"] == "1"
    assert {"fd_net", "kd_net", "coverage_net"} <= set(alone["metrics"])
    assert alone["run"].pop("date") <= pair["run"].pop("date")
    close(alone, pair)
