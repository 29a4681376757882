"""The comparison on mixtures runs, goes on where it was, and says what it did not run."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.mixtures import Cell, cells_of, figures_of, merged, spread, table

ROOT = Path(__file__).resolve().parents[2]


FLOORS = {"modes": [8, 8, 8], "reverse_kl": [0.001, 0.0, 0.002], "high_quality": [0.99, 0.98, 1.0]}


def finished(runs: Path, cell: Cell, reverse_kl: float) -> None:
    """What a run leaves that is read of it."""
    folder = runs / cell.name
    (folder / "eval").mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"state": "completed"}))
    values = {"modes": 8, "reverse_kl": reverse_kl, "high_quality": 0.9}
    metrics = {
        name: {"value": value, **dict(zip(("floor", "floor_low", "floor_high"), FLOORS[name], strict=True))}
        for name, value in values.items()
    }
    report = {
        "metrics": metrics,
        "collapse": {"verdict": "ok", "reasons": ["all is there"]},
        "protocol": {"n_fake": 2500},
    }
    places = [folder / "eval" / "0002000000.json"]
    if cell.replicas:
        places = [folder / "replicas" / f"{number}.json" for number in range(cell.replicas)]
    for place in places:
        place.with_suffix("").mkdir(parents=True)
        place.write_text(json.dumps(report))


def test_a_try_leaves_the_rows_of_longer_runs_and_of_more_seeds(tmp_path: Path) -> None:
    long = [Cell("ring", "gan", seed, 20_000) for seed in range(3)]
    for cell in long:
        finished(tmp_path / "first", cell, reverse_kl=0.1)
    figures = merged({}, figures_of(long, tmp_path / "first"))
    others = [Cell("ring", "gan", 1, 20_000), Cell("ring", "gan", 0, 200), Cell("ring", "gan", 0, 20_000, replicas=2)]
    others.append(Cell("ring", "gan", 0, 400_000))
    for cell in others:
        finished(tmp_path / "second", cell, reverse_kl=0.5)
    figures = merged(figures, figures_of(others, tmp_path / "second"))
    assert {name: list(entry["seeds"]) for name, entry in figures.items()} == {
        "ring/gan_short20000": ["0", "1", "2"],
        "ring/gan_short200": ["0"],
        "ring/gan_short20000_batched": ["0", "1"],
        "ring/gan": ["0"],
    }
    divergences = [row["reverse_kl"] for row in figures["ring/gan_short20000"]["seeds"].values()]
    assert divergences == [0.1, 0.5, 0.1], "the newer one for a seed that both have"
    assert [entry.get("batched", False) for entry in figures.values()] == [False, False, True, False]
    lines = "\n".join(table(figures))
    assert "ours: gan_short** (20,000 steps) | 3 | 8.0±0.0 |" in lines
    assert "ours: gan_short** (200 steps) | 1 |" in lines
    assert "ours: gan_short** (20,000 steps, seeds in one run) | 2 |" in lines
    assert "ours: gan** (400,000 steps) | 1 |" in lines


def test_a_figure_is_of_the_end_of_a_run_whichever_checkpoint_was_scored_beside_it(tmp_path: Path) -> None:
    """A full run of Stacked MNIST had the figures of its checkpoint at 60,000 steps, which `gantk eval` had been asked for."""
    cell = Cell("ring", "gan", 0, 20_000)
    finished(tmp_path, cell, reverse_kl=0.1)
    scores = tmp_path / cell.name / "eval"
    whole = json.loads((scores / "0002000000.json").read_text())

    def scored(name: str, verdict: str) -> None:
        (scores / name).write_text(json.dumps({**whole, "collapse": {"verdict": verdict, "reasons": [name]}}))

    def figure() -> tuple[str, list[str]]:
        row = figures_of([cell], tmp_path)["ring/gan_short20000"]["seeds"]["0"]
        return row["verdict"], row["reasons"]

    for name in ("0001000000.json", "step-00010000-2500.json", "step-00020000-200.json", "step-00200000-2500.json"):
        scored(name, "suspect")
    assert figure() == ("ok", ["all is there"])
    again = "step-00020000-2500.json"
    scored(again, "collapsed")
    assert figure() == ("collapsed", [again]), "the same samples, judged by a newer detector"


@pytest.mark.parametrize(("replicas", "kimg"), [(0, "2000.0"), (3, "6000.0")])
def test_the_rings_penalties_fall_over_the_run_and_the_grids_stay(replicas: int, kimg: str) -> None:
    ring, grid = (Cell(data, "stabilised", 0, 20_000, replicas).command([]) for data in ("ring", "grid"))
    assert f"train.kimg={kimg}" in ring
    for name in ("r1", "r2"):
        at = f"objective.regularization.{name}"
        settings = [f"{at}.gamma=0.02", f"{at}.schedule.type=cosine", f"{at}.schedule.final=0.1"]
        assert {*settings, f"{at}.schedule.end_kimg={kimg}"} <= set(ring)
    assert not [setting for setting in grid if "regularization" in setting and "schedule" in setting]


def test_a_spread_that_no_seed_has_is_a_dash() -> None:
    assert spread([0.5, None, 0.7], 1) == "0.6±0.1"
    floors = {"modes": [8, 8, 8], "high_quality": [0.99, 0.98, 0.99], "reverse_kl": [0.0, 0.0, 0.0]}
    row = {"modes": 0, "high_quality": 0.0, "reverse_kl": 2.1, "mode_spread": None, "verdict": "collapsed"}
    lines = table({"ring/gan": {"steps": 20, "seeds": {"0": {**row, "floors": floors}}}})
    assert any("| 2.1000 | – | collapsed |" in line for line in lines)


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
    other = subprocess.run(
        [*command, "optimizer.lr=1e-5"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert other.returncode == 2  # a run of another recipe lends nobody its figures
    assert "bench-ring-gan-0_short20 was trained with other settings (optimizer.lr: " in other.stderr
    alone = [*command[: command.index("--recipes")], "--recipes", "stabilised", *command[command.index("--seeds") :]]
    both = run(alone)
    assert "ours: stabilised_short** (20 steps) | 1 |" in both
    assert "ours: gan_short** (20 steps) | 1 |" in both  # of the earlier call
    assert set(json.loads((tmp_path / "mixtures.json").read_text())["figures"]) == {
        *("ring/gan_short20", "ring/pacgan2_short20", "ring/stabilised_short20", "not_run")
    }


def test_seeds_of_stacks_are_runs_of_their_own_and_points_have_no_files() -> None:
    options = argparse.Namespace(data="ring,stacked_mnist", recipes="gan,stabilised", batched=True, seeds=2, steps=None)
    cells = cells_of(options)
    assert [cell.name for cell in cells] == [
        "bench-ring-gan-2seeds",
        "bench-ring-stabilised-2seeds",
        "bench-stacked_mnist-gan-0",
        "bench-stacked_mnist-gan-1",
    ]
    given = ["data.path=mnist.parquet", "train.deterministic=false"]
    assert [given[0] in cell.overrides(given) for cell in cells] == [False, False, True, True]
    assert all(given[1] in cell.overrides(given) for cell in cells)
