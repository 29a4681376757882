"""`gantk eval` says the same whether one process evaluates or two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gantk

ROOT = Path(__file__).resolve().parents[2]


def evaluate(world: int, cache: Path) -> dict[str, Any]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)] if world > 1 else []
    # 250 samples are three chunks, of which the processes have two and one.
    command = [sys.executable, *launcher, "-m", "gantk", "eval", "--ckpt", "run", "--samples", "250", "--json"]
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "",
        "GANTK_CACHE": str(cache),
    }  # fmt: skip
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@pytest.mark.slow
def test_scores_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    gantk.train(
        str(ROOT / "configs" / "tiny.yaml"), "name=run", "train.kimg=0.256", "evaluate.every_kimg=99", "checkpoint.every_kimg=99",
        "samples.every_kimg=99",
    )  # fmt: skip
    # Each with a cache of its own, so that both extract all features themselves.
    one, two = (evaluate(world, tmp_path / f"cache-{world}") for world in (1, 2))
    assert [value["protocol"]["software"]["world_size"] for value in (one, two)] == ["1", "2"]
    assert one["metrics"].keys() == two["metrics"].keys()
    assert one["metrics"]
    for name, alone in one["metrics"].items():
        together = two["metrics"][name]
        assert together["value"] == pytest.approx(alone["value"], rel=1e-6, abs=1e-9), name
        assert (together["n_fake"], together["n_real"]) == (alone["n_fake"], alone["n_real"]), name
    assert one["protocol"]["n_fake"] == two["protocol"]["n_fake"] == 250
    assert one["protocol"]["fake_sha256"] == two["protocol"]["fake_sha256"]
    assert one["collapse"]["verdict"] == two["collapse"]["verdict"]
