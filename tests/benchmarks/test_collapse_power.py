"""The benchmark of the collapse verdict: its bounds, its table, and a repetition in worlds that need no files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import collapse_power
from benchmarks.collapse_power import CASES, LOSSES, cases_of, done, lower_bound, plan, table, upper_bound
from benchmarks.collapse_worlds import Set, World, displace, improve


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
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row("real", seed, "ok")) + "\n" for seed in (0, 1, 1)))
    assert len(done(path)) == 2
    assert done(tmp_path / "none.jsonl") == []


def test_rows_of_another_detector_are_made_again_where_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World("w", *[Set(*[np.zeros((4, 2))] * 4)] * 2, {}, np.eye(2), ("0", "1"), 0.75)
    detectors = iter(["one", "two"])
    monkeypatch.setattr(collapse_power, "load_world", lambda data: world)
    monkeypatch.setattr(collapse_power, "knowledge_of", lambda evidence: None)

    def work(*, anew: bool) -> list[str]:
        name = next(detectors)
        monkeypatch.setattr(collapse_power, "detector", lambda: name)
        monkeypatch.setattr(
            collapse_power,
            "row_of",
            lambda world, case, samples, seed, known: {
                **row(case.name, seed, "ok"),
                "samples": samples,
                "data": world.name,
                "detector": name,
                "memorisation": "memorised",
            },
        )
        collapse_power.run(tmp_path / "rows.jsonl", ["w"], 1.0, 1, 1, 0, anew)
        return [found["detector"] for found in done(tmp_path / "rows.jsonl")]

    first = work(anew=False)
    assert len(first) == sum(not case.needs for case in CASES.values()), "there are no checkpoints of this one"
    assert set(first) == {"one"}
    detectors = iter(["two", "two"])
    assert work(anew=False) == first
    assert work(anew=True) == ["two"] * len(first)
    record = json.loads((tmp_path / "rows.json").read_text())
    assert record["figures"] == {
        "rows": len(first),
        "detectors": {"two": len(first)},
        "classifier_right": {"w": 0.75},
    }
    detectors = iter(["two"])
    (tmp_path / "rows.json").unlink()
    work(anew=True)
    assert not (tmp_path / "rows.json").exists(), "no row was made"
    assert f"Rows: {len(first)} by `two`." in table(done(tmp_path / "rows.jsonl"))


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


def test_a_part_of_one_class_is_as_many_and_of_one_kind() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 400)
    pixels = generator.standard_normal((4000, 4)) * [3, 1, 1, 1] + 10 * labels[:, None]
    pool = Set(pixels, pixels, np.eye(10)[labels], labels)
    world = World("w", pool, pool, {}, np.eye(10), tuple("0123456789"), 1.0)
    for name, share in (("a quarter of one class", 0.25), ("one class all alike", 0.1)):
        made = CASES[name].make(world, generator.permutation(4000), 400, np.random.default_rng(1), 7)
        assert np.bincount(made.labels, minlength=10)[7] == 40
        mine, whole = made.pixels[made.labels == 7] - 70, pixels[labels == 7] - 70
        assert len(np.unique(mine, axis=0)) == 40
        if name == "a quarter of one class":
            edge = np.quantile(whole[:, 0], [share, 1 - share])
            below, above = (mine[:, 0] < edge[0] + 0.5).all(), (mine[:, 0] > edge[1] - 0.5).all()
            assert below != above, "one end of the longest axis"
        else:
            assert np.linalg.norm(mine - whole.mean(axis=0), axis=1).max() < np.quantile(
                np.linalg.norm(whole - whole.mean(axis=0), axis=1), 0.11
            )


def test_displaced_images_are_moved_bolder_or_brighter() -> None:
    images = np.zeros((1, 5, 5, 1), dtype=np.uint8)
    images[0, 2, 2] = 200
    moved, bold = displace(images, "moved"), displace(images, "toned")
    assert np.argwhere(moved[0, ..., 0]).tolist() == [[3, 3]]
    assert np.argwhere(bold[0, ..., 0]).tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
    photograph = np.full((1, 2, 2, 3), 220, dtype=np.uint8)
    assert (displace(photograph - 100, "toned") == 170).all()
    assert (displace(photograph, "toned") == 255).all()


def test_jittered_images_are_turned_shifted_and_scaled_a_little() -> None:
    """The middle of a bar moves by at most the shift, its direction by the turn, its length by the scale."""
    images = np.zeros((60, 33, 33, 1), dtype=np.uint8)
    images[:, 6:27, 15:18] = 255
    changed = improve(images, np.zeros(60, dtype=np.int64), "jittered")
    rows, columns = np.mgrid[:33, :33]
    shifts, angles, lengths = [], [], []
    for image in changed[..., 0].astype(np.float64):
        weight = image / image.sum()
        middle = (weight * rows).sum(), (weight * columns).sum()
        down, across = rows - middle[0], columns - middle[1]
        spread = np.array([[weight * down**2, weight * down * across], [weight * down * across, weight * across**2]])
        values, axes = np.linalg.eigh(spread.sum(axis=(2, 3)))
        axis = axes[:, 1] * np.sign(axes[0, 1])
        shifts.append(np.array(middle) - 16)
        angles.append(np.rad2deg(np.arctan2(axis[1], axis[0])))
        lengths.append(np.sqrt(12 * values[1]) / 21)
    for values, reach in ((np.ravel(shifts), 1.2 * 1.25), (np.array(angles), 7.0), (np.array(lengths) - 1, 0.075)):
        assert np.abs(values).max() <= 1.05 * reach
        assert np.abs(values).max() > 0.5 * reach
        assert np.abs(values.mean()) < 0.3 * reach
    photograph = np.full((4, 32, 32, 3), 200, dtype=np.uint8)
    assert (improve(photograph, np.zeros(4, dtype=np.int64), "jittered") == 200).all(), (
        "the edge is mirrored, not black"
    )


def test_mixed_images_have_a_quarter_of_the_nearest_of_their_class() -> None:
    images = np.array([0, 40, 200, 10, 240], dtype=np.uint8).reshape(5, 1, 1, 1).repeat(4, axis=1)
    mixed = improve(images, np.array([0, 0, 0, 1, 1]), "mixed")
    assert mixed[:, 0, 0, 0].tolist() == [10, 30, 160, 68, 182]


def test_at_the_quickstarts_sizes_generators_are_judged() -> None:
    rows = [{**row(world, seed, "ok"), "data": "quickstart"} for world in cases_of("quickstart") for seed in range(20)]
    rows += [row("real", seed, "ok") for seed in range(3)]
    assert not set(cases_of("quickstart")) & set(LOSSES)
    text = table(rows)
    assert "**2,000 samples, 1,500 held-out images**" in text
    assert (
        "| quickstart | real, with labels | 20 | 100.0% | 0.0% | 0.0% | 0.0% |  |  | not `ok` in 0.0%, at most 13.9% |"
        in text
    )
    assert text.index("| d | real |") < text.index("1,500 held-out images")
    assert {data for data, *_ in plan(["quickstart"], 20, 20, 5)} == {"quickstart"}
    assert {name for _, name, *_ in plan(["quickstart"], 20, 20, 5)} == set(cases_of("quickstart"))
