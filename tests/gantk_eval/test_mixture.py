"""Known mixtures: measures and floors against their closed forms, and the verdict in worlds with a known answer."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from gantk_eval.collapse.known_picture import LOST, PLANE, SHRUNKEN
from gantk_eval.collapse.picture import FAKE, MARGIN, REAL
from gantk_eval.compare import compare
from gantk_eval.errors import UserError
from gantk_eval.known_modes import GeneratedPoints, MixtureEvaluator, judge_mixture
from gantk_eval.mixture import MIXTURES, Mixture, floors, measure, reverse_kl, truncated_moments
from gantk_eval.report import Report
from PIL import Image

from gantk.scoring import best_value
from gantk.tracking.tracker import flatten

COUNT = 2500


def verdict(points: np.ndarray, mixture: Mixture) -> tuple[str, str]:
    found = judge_mixture(measure(points, mixture), mixture)
    return found["verdict"], found["reasons"][0]


def drawn(mixture: Mixture, seed: int = 0, count: int = COUNT) -> np.ndarray:
    return mixture.sample(count, np.random.default_rng(seed))


def test_modes_stand_where_the_protocol_puts_them() -> None:
    ring, grid = MIXTURES["ring"], MIXTURES["grid"]
    assert (ring.modes, ring.std, grid.modes, grid.std) == (8, 0.01, 25, 0.05)
    assert np.allclose(np.linalg.norm(ring.means, axis=1), 1)
    assert {tuple(mean) for mean in grid.means} == {(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)}


@pytest.mark.parametrize("name", MIXTURES)
def test_floors_are_those_of_theory(name: str) -> None:
    floor = floors(MIXTURES[name], COUNT)
    # A point lies within 3σ of its mode with 1 − exp(−9/2); the KL of n draws over K cells is (K − 1) / 2n.
    assert floor["high_quality"].mean == pytest.approx(1 - math.exp(-4.5), abs=2e-4)
    assert 0.983 < floor["high_quality"].low < 0.985 < 0.993 < floor["high_quality"].high < 0.995
    modes = MIXTURES[name].modes
    assert floor["reverse_kl"].mean == pytest.approx((modes - 1) / (2 * COUNT * 0.9889), rel=0.1)
    assert floor["modes"].low == modes
    assert floor["mode_spread"].mean == pytest.approx(1, abs=2e-3)


def test_truncated_moments_by_simulation() -> None:
    squares = (np.random.default_rng(0).standard_normal((400_000, 2)) ** 2).sum(axis=1)
    inside = squares[squares < 9]
    assert truncated_moments() == pytest.approx((inside.mean(), inside.var()), rel=0.01)


def test_measures_of_five_points() -> None:
    ring = MIXTURES["ring"]
    points = np.array([[1, 0], [1.02, 0], [1.05, 0], [0, 1], [0, 1]], dtype=np.float32)
    found = measure(points, ring)
    assert found.modes == 2
    assert found.high_quality == pytest.approx(4 / 5)  # (1.05, 0) is 5σ away
    assert found.assigned.sum() == 5
    assert found.reverse_kl == pytest.approx(math.log(8) - math.log(2))  # two modes, two good samples each
    assert found.duplicates == 2
    assert found.mode_spread == pytest.approx(math.sqrt((0 + 4 + 0 + 0) / 4 / truncated_moments()[0]), rel=1e-3)


def test_reverse_kl() -> None:
    assert reverse_kl(np.array([5, 5, 5])) == 0
    assert reverse_kl(np.array([9, 0, 0])) == pytest.approx(math.log(3))


def test_points_that_are_not_finite_hit_nothing() -> None:
    found = measure(np.array([[np.nan, 0], [np.inf, 1], [0.0, 1.0]]), MIXTURES["ring"])
    assert (found.count, int(found.good.sum())) == (3, 1)
    nowhere = measure(np.full((10, 2), 50.0), MIXTURES["ring"])
    assert nowhere.reverse_kl == pytest.approx(math.log(8))
    assert math.isnan(nowhere.mode_spread)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_perfect_sampler_is_ok(name: str) -> None:
    verdicts = [verdict(drawn(MIXTURES[name], seed), MIXTURES[name])[0] for seed in range(100)]
    assert verdicts.count("ok") >= 99


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("lost", [1, 3])
def test_lost_modes_are_named(name: str, lost: int) -> None:
    mixture = MIXTURES[name]
    points = drawn(mixture)
    points = points[mixture.nearest(points)[0] >= lost]
    found = judge_mixture(measure(points, mixture), mixture)
    assert found["verdict"] == "collapsed"
    assert len(found["missing"]) == lost
    assert "has 0 of an expected" in found["reasons"][0]


@pytest.mark.parametrize("name", MIXTURES)
def test_other_worlds(name: str) -> None:
    mixture, generator = MIXTURES[name], np.random.default_rng(1)
    points = drawn(mixture)
    mode = mixture.nearest(points)[0]
    starved = points[(mode != 2) | (generator.random(COUNT) < 0.2)]
    shrunk = mixture.means[mode] + 0.3 * (points - mixture.means[mode])
    one_shrunk = np.where((mode == 2)[:, None], shrunk, points)
    shifted = points + np.where(mode == 2, 6 * mixture.std, 0)[:, None]
    worlds = {
        "starved": (starved, "suspect", "(starved)"),
        "shrunk": (shrunk, "collapsed", f"{mixture.modes} of {mixture.modes} modes have shrunk"),
        "one shrunk": (one_shrunk, "collapsed", "1 of"),
        "repeated": (points[:50].repeat(50, axis=0), "collapsed", "repeated points"),
        "one place": (0.001 * generator.standard_normal((COUNT, 2)), "collapsed", "all samples together"),
        # Poor quality is not collapse.
        "a mode hit beside its middle": (shifted, "inconclusive", "quality"),
        "noise": (generator.uniform(-mixture.extent, mixture.extent, (COUNT, 2)), "inconclusive", "quality"),
        "too few": (points[:100], "inconclusive", "too few")
        if name == "ring"
        else (points[:500], "inconclusive", "too few"),
    }
    for world, (samples, wanted, words) in worlds.items():
        got, reason = verdict(samples, mixture)
        assert (got, words in reason) == (wanted, True), (world, got, reason)


def test_reasons_come_in_the_order_of_precedence() -> None:
    """A starved mode, which is suspect, before a shrunken one, which is collapsed."""
    mixture = MIXTURES["ring"]
    points = drawn(mixture)
    mode = mixture.nearest(points)[0]
    points = np.where((mode == 5)[:, None], mixture.means[mode] + 0.3 * (points - mixture.means[mode]), points)
    points = points[(mode != 2) | (np.random.default_rng(1).random(COUNT) < 0.25)]
    found = judge_mixture(measure(points, mixture), mixture)
    assert found["verdict"] == "collapsed"
    assert ["starved" in reason for reason in found["reasons"]] == [True, False]
    assert found["reasons"][1].startswith("1 of 8 modes has shrunk")


def test_each_mode_is_reported() -> None:
    mixture = MIXTURES["ring"]
    points = drawn(mixture)
    mode = mixture.nearest(points)[0]
    points[mode == 5] = mixture.means[5] + 0.3 * (points[mode == 5] - mixture.means[5])
    points[mode == 2] += 6 * mixture.std
    points = points[mode != 7]
    fake = GeneratedPoints(len(points), lambda index: points[index], identity="known")
    report = MixtureEvaluator(mixture, n_real=10).evaluate(fake)
    each = Report.from_dict(json.loads(report.to_json())).metrics["modes"]["each"]
    assert [entry["mode"] for entry in each][:3] == ["(1, 0)", "(0.707, 0.707)", "(0, 1)"]
    assert [entry["nearest"] for entry in each] == [*np.bincount(mode, minlength=8)[:7].tolist(), 0]
    assert [each[number]["high_quality"] for number in (2, 7)] == [0, 0]
    assert [each[number]["spread"] for number in (2, 7)] == [None, None]
    assert each[5]["spread"] == pytest.approx(0.3, abs=0.03)
    assert all(each[number]["spread"] == pytest.approx(1, abs=0.15) for number in (0, 1, 3, 4, 6))
    lines = [line.split() for line in report.table().splitlines()]
    assert ["(0.707,", "-0.707)", "0", "0", "–"] in lines


@pytest.mark.parametrize("spread", [0.7, 0.85])
def test_a_blob_is_poor_quality_and_not_collapse(spread: float) -> None:
    """Which modes samples of no structure are nearest to says nothing of lost ones."""
    grid = MIXTURES["grid"]
    width = spread * math.sqrt((grid.means.var(axis=0).sum() + 2 * grid.std**2) / 2)
    for seed in range(5):
        blob = width * np.random.default_rng(seed).standard_normal((COUNT, 2))
        found = measure(blob, grid)
        assert found.high_quality < 0.05
        assert found.spread_all == pytest.approx(spread, rel=0.05)
        judged = judge_mixture(found, grid)
        assert judged["verdict"] == "inconclusive", judged
        assert judged["reasons"][0].startswith("quality: only")
        assert judged["missing"] == []
        assert [test["name"] for test in judged["tests"]] == ["extent", "duplicates"]
        # At one place between the modes it is as bad, and collapsed.
        judged = judge_mixture(measure(np.array([1.0, 1.0]) + 0.05 * blob, grid), grid)
        assert judged["verdict"] == "collapsed"
        assert "all samples together spread" in judged["reasons"][0]
        assert judged["missing"] == []


def test_the_report_stands_beside_its_floors() -> None:
    mixture = MIXTURES["grid"]
    points = drawn(mixture)
    asked: list[np.ndarray] = []

    def generate(index: np.ndarray) -> np.ndarray:
        asked.append(index)
        return points[index]

    evaluator = MixtureEvaluator(mixture, n_real=10, batch_size=1000)
    report = evaluator.evaluate(GeneratedPoints(COUNT, generate, identity="perfect"))
    assert np.array_equal(np.concatenate(asked), np.arange(COUNT))
    assert report.verdict == "ok"
    for name, entry in report.metrics.items():
        assert entry["floor_low"] <= entry["floor"] <= entry["floor_high"], name
        assert entry["floor_low"] <= entry["value"] <= entry["floor_high"], name
    assert "high_quality" in report.table()
    assert "[0.98" in report.table()
    with pytest.raises(UserError, match="there is no metric fid for data whose modes are known"):
        MixtureEvaluator(mixture, n_real=10, metrics=["fid"])


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("count", [1, 2, 5, 20, 60])
def test_few_samples_are_scored_and_never_called_collapsed(name: str, count: int) -> None:
    mixture = MIXTURES[name]
    report = MixtureEvaluator(mixture, n_real=100).evaluate(
        GeneratedPoints(count, lambda index: drawn(mixture, 1, count)[index], identity="few")
    )
    assert report.verdict in ("inconclusive", "ok")
    assert "no held-out images" not in report.table()
    least = report.metrics["least_spread"]
    assert (least["floor"] is None) == (not math.isfinite(floors(mixture, count)["least_spread"].mean))


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("count", [200, 2500])
def test_the_p_of_the_extent_is_uniform_under_a_perfect_sampler(name: str, count: int) -> None:
    mixture, generator = MIXTURES[name], np.random.default_rng(0)
    p = [
        judge_mixture(measure(mixture.sample(count, generator), mixture), mixture)["tests"][0]["p"] for _ in range(400)
    ]
    assert np.mean(np.array(p) <= 0.05) < 0.09
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.1)
    alone = np.repeat(drawn(mixture, 3, 1), count, axis=0)
    assert verdict(alone, mixture)[0] == "collapsed"


def test_points_that_are_not_finite_are_no_repeated_points() -> None:
    ring = MIXTURES["ring"]
    points = drawn(ring)
    points[:150] = np.nan
    assert measure(points, ring).duplicates <= 10


def test_what_could_not_be_worked_out_is_none_and_not_zero() -> None:
    """A spread of nothing is no shrinkage."""
    mixture = MIXTURES["grid"]

    def evaluated(points: np.ndarray) -> Report:
        return MixtureEvaluator(mixture, n_real=100).evaluate(
            GeneratedPoints(len(points), lambda index: points[index], identity=str(points[0]))
        )

    nowhere, whole = evaluated(np.random.default_rng(0).normal(1.0, 0.01, (COUNT, 2))), evaluated(drawn(mixture))
    found = json.loads(nowhere.to_json())["metrics"]
    assert [name for name, entry in found.items() if entry["value"] is None] == ["mode_spread", "least_spread"]
    assert found["modes"]["value"] == 0
    assert "none (no sample is within 3σ of a mode)" in nowhere.table()
    assert "none (no mode has 10 samples within 3σ)" in nowhere.table()
    both = compare({"nowhere": nowhere.to_dict(), "whole": whole.to_dict()})
    assert "–" in next(line for line in both.table().splitlines() if line.startswith("mode_spread"))
    assert "eval/mode_spread" not in flatten(nowhere.to_dict())
    assert best_value(nowhere, "least_spread") is None
    assert best_value(nowhere, None) == ("reverse_kl", pytest.approx(math.log(25)))


def test_the_picture_circles_what_is_lost() -> None:
    mixture = MIXTURES["ring"]
    points = drawn(mixture)
    mode = mixture.nearest(points)[0]
    narrow = mixture.means[mode] + 0.3 * (points - mixture.means[mode])
    strange = np.concatenate([points[:-2], [[np.nan, 0.0], [50.0, 0.0]]])
    blob = np.random.default_rng(0).normal(0, 0.6, (COUNT, 2))
    worlds = {
        "whole": points,
        "lost": points[mode != 1],
        "narrow": np.where((mode == 2)[:, None], narrow, points),
        "strange": strange,
        "blob": blob,
    }
    seen = {}
    for world, samples in worlds.items():
        report = MixtureEvaluator(mixture, n_real=10).evaluate(
            GeneratedPoints(len(samples), lambda index, rows=samples: rows[index], identity=world)
        )
        assert report.picture is not None
        with Image.open(io.BytesIO(report.picture)) as picture:
            assert picture.format == "PNG"
            seen[world] = np.asarray(picture.convert("RGB"))

    def has(world: str, color: tuple[int, int, int]) -> bool:
        return bool((seen[world] == color).all(axis=2).any())

    assert {world for world in worlds if has(world, LOST)} == {"lost"}
    assert {world for world in worlds if has(world, SHRUNKEN)} == {"narrow"}
    assert all(has(world, FAKE) and has(world, REAL) for world in worlds)
    # The circle and what is written are at the mode's place: up and to the right of the middle.
    rows, columns = np.nonzero((seen["lost"] == LOST).all(axis=2))
    assert rows.max() < seen["lost"].shape[0] / 2
    assert MARGIN + PLANE / 2 < columns.min() < columns.max() < MARGIN + PLANE


def test_few_samples_have_no_floor_and_a_true_reason() -> None:
    mixture = MIXTURES["grid"]
    few = GeneratedPoints(20, lambda index: drawn(mixture, 1, 20)[index], identity="few")
    report = MixtureEvaluator(mixture, n_real=100).evaluate(few)
    assert report.metrics["least_spread"]["floor"] is None
    assert "none (20 samples of a perfect sampler do not always give one)" in report.table()
