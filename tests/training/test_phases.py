"""The phase design: games that the trainer has never heard of, in one process and in two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import gantk
from gantk.config import load_config
from gantk.errors import ConfigError
from gantk.tracking import read_metrics
from gantk.training.trainer import Trainer

PLUGIN = "plugins=[games]"
TWO_DOMAINS = "extra_data={b: {source: digits, resolution: 8}}"
QUICK = ("train.kimg=0.256", "evaluate.every_kimg=99", "train.log_every_kimg=0.032")
GAMES = {
    "gan": (),
    "test_lazy_r1": (),
    "test_two_domains": (TWO_DOMAINS,),
    "test_feature_matching": (),
}


@pytest.mark.parametrize("game", GAMES)
def test_a_game_plays_through_the_unchanged_trainer(game: str, tiny: Path) -> None:
    config = load_config(tiny, [PLUGIN, f"objective={{type: {game}}}", *GAMES[game], *QUICK])
    trainer = Trainer(config)
    before = {n: [p.detach().clone() for p in m.parameters()] for n, m in trainer.runner.bare.items()}
    trainer.train()
    for name, module in trainer.runner.bare.items():
        moved = [not torch.equal(a, b) for a, b in zip(before[name], module.parameters(), strict=True)]
        assert all(moved), name
    assert len(read_metrics(trainer.folder)) == 8


@pytest.mark.parametrize("game", GAMES)
def test_gradients_do_not_depend_on_the_number_of_processes(game: str, tiny: Path, tmp_path: Path, launch) -> None:  # type: ignore[no-untyped-def]
    overrides = [
        PLUGIN, f"objective={{type: {game}}}", *GAMES[game], "train.precision=float64", "network.batch_norm=false",
    ]  # fmt: skip
    files = []
    for world in (1, 2):
        files.append(tmp_path / f"world-{world}.safetensors")
        done = launch(world, "gradients", tiny, files[-1], *overrides, f"name=world-{world}")
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(file) for file in files)
    assert one.keys() == two.keys()
    if game == "test_lazy_r1":
        assert any(name.startswith("r1/") for name in one)
    for name in one:
        assert one[name].dtype == torch.float64
        scale = one[name].norm().clamp_min(1e-12)
        assert (one[name] - two[name]).norm() / scale < 1e-10, name


def test_feature_matching_without_gathering_would_be_wrong(tiny: Path, tmp_path: Path, launch, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """The test above can fail: the mean of two halves' losses is not the whole batch's."""
    config = load_config(
        tiny,
        [
            PLUGIN,
            "objective.type=test_feature_matching",
            "train.precision=float64",
            "network.batch_norm=false",
            *QUICK,
        ],
    )
    trainer = Trainer(config)
    trainer.batches.begin_step()
    (batch,) = trainer.batches.next("g", 0, 0, True)
    whole = trainer.objective.match(trainer.runner.bare, batch).loss
    halves = []
    for rows in (slice(0, 16), slice(16, 32)):
        part = type(batch)(
            batch.images[rows],
            None,
            batch.index[rows],
            {},
            lambda purpose, rows=rows: _rows(batch.draw(purpose), rows),
        )
        halves.append(trainer.objective.match(trainer.runner.bare, part).loss)
    assert abs((halves[0] + halves[1]) / 2 - whole) / whole > 0.05


def _rows(draws, rows):  # type: ignore[no-untyped-def]
    return type(draws)(draws.key, draws.index[rows], draws.dtype)


def test_lazy_phase_is_every_few_steps_and_weighs_as_much_more(tiny: Path) -> None:
    config = load_config(tiny, [PLUGIN, "objective={type: test_lazy_r1, interval: 4}", *QUICK])
    trainer = Trainer(config)
    trainer.train()
    rows = [row for row in read_metrics(trainer.folder) if "r1/loss" in row]
    assert [row["progress/kimg"] for row in rows] == [0.032, 0.16]
    assert set(trainer.runner.players) == {"d", "g"}


def test_accumulation_equals_one_batch(tiny: Path, tmp_path: Path, launch) -> None:  # type: ignore[no-untyped-def]
    files = []
    for parts in (1, 4):
        files.append(tmp_path / f"parts-{parts}.safetensors")
        overrides = [
            f"train.accumulation={parts}",
            "train.precision=float64",
            "network.batch_norm=false",
            f"name=parts-{parts}",
        ]
        done = launch(1, "gradients", tiny, files[-1], *overrides)
        assert done.returncode == 0, done.stderr[-3000:]
    one, four = (load_file(file) for file in files)
    for name in one:
        assert (one[name] - four[name]).norm() / one[name].norm().clamp_min(1e-12) < 1e-10, name


def test_batch_statistics_refuse_accumulation(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.accumulation: 2.*phase `g`"):
        gantk.train(tiny, PLUGIN, "objective.type=test_feature_matching", "train.accumulation=2")


def test_two_processes_train_and_resume(tiny: Path, launch) -> None:  # type: ignore[no-untyped-def]
    done = launch(2, "train", tiny, "-", *QUICK)
    assert done.returncode == 0, done.stderr[-3000:]
    done = launch(2, "train", tiny, "-", *QUICK, "train.kimg=0.512")
    assert done.returncode == 0, done.stderr[-3000:]
    import os

    folder = Path(os.environ["GANTK_RUNS"]) / "tiny"
    kimgs = [row["progress/kimg"] for row in read_metrics(folder)]
    assert kimgs == sorted(set(kimgs))
    assert kimgs[-1] == 0.512
