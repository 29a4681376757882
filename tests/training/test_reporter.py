"""What is written down and said of evaluations in training: a line each, one table, and what the file says it is of."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

import gantk
from gantk.cli import main
from gantk.evaluations import evaluations_of, find_evaluation

SHORT = (
    "train.kimg=0.192",
    "evaluate={every_kimg: 0.064, samples: 40, metrics: [fd_pixel_pca, coverage_pixel_pca]}",
    "checkpoint.every_kimg=0.128",
    "train.log_every_kimg=1",
    "samples.every_kimg=1",
)


def show(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["show", *words])
    assert not stop.value.code
    return capfd.readouterr()


def test_a_run_says_a_line_for_each_evaluation_and_one_table(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = datetime.now(timezone.utc).replace(microsecond=0)
    run = gantk.train(tiny, *SHORT)
    err = capfd.readouterr().err
    lines = [line for line in err.splitlines() if "fd_pixel_pca ↓" in line and " · coverage_pixel_pca ↑" in line]
    assert [line.split(": ")[0] for line in lines] == ["0.064 kimg", "0.128 kimg", "0.192 kimg"]
    assert err.count("real-vs-real floor") == 1
    assert lines == [
        line.split(" INFO ")[1] for line in (run.folder / "log.txt").read_text().splitlines() if " ↓ " in line
    ]

    assert [e.step for e in evaluations_of(run.folder)] == [2, 4, 6]
    for evaluation, saved in zip(evaluations_of(run.folder), (False, True, True), strict=True):
        said = evaluation.report["run"]
        assert (said["name"], said["kimg"], said["seed"]) == (run.folder.name, evaluation.step * 0.032, 0)
        assert said["gantk"] == gantk.__version__
        assert before <= datetime.fromisoformat(said["date"]) <= datetime.now(timezone.utc)
        folder = run.folder / "checkpoints" / f"step-{evaluation.step:08d}"
        # The best so far is saved as well, and may be deleted by now.
        assert said["checkpoint"] in ((folder.name,) if saved else (folder.name, None))
        if folder.is_dir():
            assert said["checkpoint_sha256"] == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()

    # What the run printed at its end is printed again, and nothing is scored.
    table = find_evaluation(run.folder.name).path
    out, noted = show(capfd, run.folder.name)
    assert out.strip() in err
    assert str(table) in noted
    assert json.loads(show(capfd, run.folder.name, "--json")[0]) == json.loads(table.read_text())
    assert find_evaluation(f"{run.folder.name}@best").step in (2, 4, 6)
    # Neither is anything scored where the run is complete already.
    gantk.train(tiny, *SHORT)
    assert out.strip() in capfd.readouterr().err
    assert len(evaluations_of(run.folder)) == 3


def test_evaluations_of_a_course_that_was_left_are_set_aside(tiny: Path) -> None:
    """Where a run goes on from an earlier checkpoint, those of its old end would be taken for its end."""
    run = gantk.train(tiny, *SHORT, "checkpoint.keep=5")
    old = find_evaluation(run.folder.name)
    assert old.step == 6
    early = run.folder / "checkpoints" / "step-00000004"
    gantk.train(tiny, *SHORT, "checkpoint.keep=5", "train.kimg=0.128", resume=str(early), allow_changes=True)
    assert find_evaluation(run.folder.name).step == 4
    assert (run.folder / "eval" / "superseded" / old.path.name).is_file()
    assert not old.path.exists()
