"""The benchmark of the collapse verdict: its bounds, its table, and a repetition in worlds that need no files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.collapse_power import CASES, LOSSES, done, lower_bound, plan, table, upper_bound
from benchmarks.collapse_worlds import Set, World


def row(world: str, seed: int, verdict: str, named: bool = False) -> dict[str, object]:
    given = {
        "data": "d",
        "world": world,
        "samples": 2000,
        "seed": seed,
        "verdict": verdict,
        "named": named,
        "first": named,
    }
    return {**given, "kinds": [], "realism": 1.0, "shift": 0.0, "seconds": 0.1}


def test_clopper_pearson_bounds() -> None:
    assert upper_bound(0, 149) == pytest.approx(1 - 0.05 ** (1 / 149))
    assert upper_bound(0, 149) < 0.02 < upper_bound(0, 140)
    assert lower_bound(100, 100) == pytest.approx(0.05 ** (1 / 100))
    assert upper_bound(5, 5) == 1.0


def test_table_counts_verdicts_and_right_reasons() -> None:
    rows = [row("real", seed, "ok" if seed else "suspect") for seed in range(4)]
    rows += [row("class removed", seed, "collapsed", seed > 0) for seed in range(4)]
    text = table(rows)
    assert "| d | real | 4 | 75.0% | 25.0% | 0.0% | 0.0% |" in text
    assert "false alarms 25.0%" in text
    assert "| d | class removed | 4 | 0.0% | 0.0% | 100.0% | 0.0% | 75.0% | 75.0% | found in 100.0%" in text


def test_a_repetition_counts_once(tmp_path: Path) -> None:
    import json

    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row("real", seed, "ok")) + "\n" for seed in (0, 1, 1)))
    assert len(done(path)) == 2
    assert done(tmp_path / "none.jsonl") == []


def test_the_plan_has_every_loss_a_hundred_times_and_real_images_five_hundred() -> None:
    tasks = list(plan(["mnist"], 500, 100, 40))
    assert len(set(tasks)) == len(tasks)
    assert sum(task[:3] == ("mnist", "real", 2000) for task in tasks) == 500
    for name in LOSSES:
        assert sum(task[:3] == ("mnist", name, 2000) for task in tasks) == 100, name


def test_worlds_do_what_they_say() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 100)
    pool = Set(generator.standard_normal((1000, 4)), generator.standard_normal((1000, 4)), np.eye(10)[labels], labels)
    world = World("w", pool, pool, {}, np.eye(10), tuple("0123456789"), 1.0)
    rows = generator.permutation(1000)

    def make(name: str, target: int) -> Set:
        return CASES[name].make(world, rows, 400, np.random.default_rng(1), target)

    assert not (make("class removed", 7).labels == 7).any()
    assert 2 <= (make("class down to a fifth", 7).labels == 7).sum() <= 25
    assert len(np.unique(make("500 images repeated", 0).pixels, axis=0)) == 100
    swapped = make("labels of two classes swapped", 7)
    assert set(swapped.labels[swapped.classes == 7]) == {9}
    assert set(swapped.labels[swapped.classes == 9]) == {7}
    real = make("real", 0)
    assert len(np.unique(real.pixels, axis=0)) == 400, "drawn without replacement"
