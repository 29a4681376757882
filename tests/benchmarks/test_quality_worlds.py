"""The benchmark of changed images: its plan, its losses, its table, and one verdict in a world that needs no files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import collapse_worlds, quality_worlds
from benchmarks.quality_changes import DEVELOPMENT, HELDBACK, LEVELS
from benchmarks.quality_worlds import LOSSES, Setting, Task, plan, read, run, table


def test_the_plan_keeps_the_halves_apart_and_repeats_nothing() -> None:
    for half, mine, others in (("development", DEVELOPMENT, HELDBACK), ("heldback", HELDBACK, DEVELOPMENT)):
        tasks = list(plan(half, ["mnist", "cifar10"], 1))
        assert len({task.key for task in tasks}) == len(tasks)
        assert {kind for task in tasks for kind in task.kinds} == set(mine)
        assert not {kind for task in tasks for kind in task.kinds} & set(others)
        assert {task.level for task in tasks if task.kinds} == set(LEVELS)
        assert {len(task.kinds) for task in tasks} == {0, 1, 2}


def test_losses_lose_what_they_say() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 4000)
    rows = np.arange(4000)
    drawn = {name: lose(rows, labels, 1000, 1, np.random.default_rng(1)) for name, lose in LOSSES.items()}
    assert {len(found) for found in drawn.values()} == {1000}
    share = {name: np.mean(labels[found] == 1) for name, found in drawn.items()}
    assert share["nothing"] == pytest.approx(0.25, abs=0.04)
    assert share["one class removed"] == 0
    assert share["one class down to a fifth"] == pytest.approx(0.05 / 0.8, abs=0.03)
    assert len(np.unique(drawn["each image four times"])) == 250
    alike = drawn["half of the classes without variety"]
    variety = [len(np.unique(alike[labels[alike] == c])) / np.sum(labels[alike] == c) for c in range(4)]
    assert variety == pytest.approx([1, 0.1, 1, 0.1], abs=0.01)


def test_the_table_counts_what_was_said_of_each_strength() -> None:
    common = {"data": "d", "seed": 0, "loss": "nothing", "detector": "x"}
    rows = [
        common | {"kinds": kinds, "level": level, "verdict": verdict}
        for kinds, level, verdict in (
            ("unchanged", "mild", "ok"),
            ("blurred", "mild", "ok"),
            ("shifted", "mild", "collapsed"),
            ("blurred", "strong", "inconclusive"),
        )
    ]
    rows += [common | {"kinds": "blurred", "level": "mild", "verdict": "suspect", "loss": "one class removed"}]
    lines = table(rows).splitlines()[2:]
    assert "| d | nothing | mild | 2 | 50.0% | 0.0% | 0.0% | 50.0% | collapsed at most 97.5% |" in lines
    assert "| d | nothing | strong | 1 | 0.0% | 100.0% | 0.0% | 0.0% | collapsed at most 95.0% |" in lines
    assert "| d | nothing | unchanged | 1 | 100.0% | 0.0% | 0.0% | 0.0% | collapsed at most 95.0% |" in lines
    assert "| d | one class removed | mild | 1 | 0.0% | 0.0% | 100.0% | 0.0% | found at least 5.0% |" in lines


@pytest.mark.slow
def test_a_world_is_judged_once_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(quality_worlds.SETTINGS, "few", Setting("digits", 700, 400, 200))
    monkeypatch.setattr(collapse_worlds, "available", lambda: ("digits",))
    path = tmp_path / "rows.jsonl"
    tasks = [
        Task("few", kinds, "mild", loss, 0)
        for kinds in ((), ("shifted",))
        for loss in ("nothing", "each image four times")
    ]
    run(path, tasks, minutes=5)
    rows = read(path)
    assert [row["verdict"] for row in rows if row["loss"] == "each image four times"] == ["collapsed"] * 2
    assert not [row for row in rows if row["loss"] == "nothing" and row["verdict"] == "collapsed"]
    run(path, tasks, minutes=5)
    assert len(path.read_text().splitlines()) == len(tasks)
    assert json.loads(path.read_text().splitlines()[0])["kinds"] == "unchanged"
