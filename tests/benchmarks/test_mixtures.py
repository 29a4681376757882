"""The comparison on mixtures runs, goes on where it was, and says what it did not run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.mixtures import spread, table

ROOT = Path(__file__).resolve().parents[2]


def test_a_spread_that_no_seed_has_is_a_dash() -> None:
    assert spread([0.5, None, 0.7], 1) == "0.6±0.1"
    floors = {"modes": [8, 8, 8], "high_quality": [0.99, 0.98, 0.99], "reverse_kl": [0.0, 0.0, 0.0]}
    row = {"modes": 0, "high_quality": 0.0, "reverse_kl": 2.1, "mode_spread": None, "verdict": "collapsed"}
    lines = table({"ring/gan": {"steps": 20, "seeds": {"0": {**row, "floors": floors}}}})
    assert any("| 2.100 | – | collapsed |" in line for line in lines)


@pytest.mark.slow
def test_a_short_comparison(tmp_path: Path) -> None:
    small = [
        "network.generator_hidden=[16]",
        "network.discriminator_hidden=[16]",
        "data.count=500",
        "evaluate.samples=200",
    ]
    command = [
        sys.executable,
        "-m",
        "benchmarks.mixtures",
        "--data",
        "ring",
        "--recipes",
        "gan,pacgan2",
        "--seeds",
        "1",
    ]
    command += ["--steps", "20", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path), "--set", *small]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "evaluation")])}

    def run(command: list[str] = command) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout

    first = run()
    assert "| ring, published: PacGAN2 | | 7.9±.1 | 95.6 | .07 |" in first
    assert "ours: gan_short** (20 steps) | 1 |" in first
    assert "ours: pacgan2_short** (20 steps) | 1 |" in first
    assert "a perfect sampler of 8 modes" in first
    figures = json.loads((tmp_path / "mixtures.json").read_text())["figures"]
    assert figures["not_run"] == []
    status = tmp_path / "runs" / "bench-ring-gan-0_short20" / "status.json"
    before = status.read_bytes()
    assert run() == first
    assert status.read_bytes() == before  # a run that is whole is not run again
    alone = [*command[: command.index("--recipes")], "--recipes", "stabilised", *command[command.index("--seeds") :]]
    both = run(alone)
    assert "ours: stabilised_short** (20 steps) | 1 |" in both
    assert "ours: gan_short** (20 steps) | 1 |" in both  # of the earlier call
    assert set(json.loads((tmp_path / "mixtures.json").read_text())["figures"]) == {
        *("ring/gan_short", "ring/pacgan2_short", "ring/stabilised_short", "not_run")
    }
