"""Runs on points in the plane: the trainer does not care, and what was a grid of images is a scatter plot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import gantk
from gantk.cli import app
from gantk.config import load_config
from gantk.errors import ConfigError
from gantk.grids import save_scatter
from gantk.objectives import Phase
from gantk.objectives.packing import Packed
from gantk.runs import find_checkpoint
from gantk.sampling import load_sampler
from gantk.tracking import read_metrics
from gantk.training.optimizers import Player
from gantk.training.phases import PhaseRunner
from gantk.training.trainer import Trainer

RING = Path(__file__).resolve().parents[2] / "configs" / "ring.yaml"
SMALL = (
    *("network.generator_hidden=[32, 32]", "network.discriminator_hidden=[32]", "data.count=2000", "train.kimg=4"),
    *("train.log_every_kimg=1", "checkpoint.every_kimg=2", "evaluate.every_kimg=2", "samples.every_kimg=2"),
    *("tracking.wandb=disabled", "tracking.progress=false"),
)


def test_a_run_on_the_ring(tmp_path: Path) -> None:
    run = gantk.train(RING, *SMALL)
    rows = [row for row in read_metrics(run.folder) if "eval/modes" in row]
    assert [row["progress/kimg"] for row in rows] == [2, 4]
    assert run.best is not None
    assert run.best[0] == "reverse_kl"
    report = json.loads((run.folder / "eval" / "0000004000.json").read_text())
    assert report["metrics"]["high_quality"]["floor"] == pytest.approx(0.989, abs=0.001)
    assert report["protocol"]["extractor"] == "known_mixture:ring"
    with Image.open(run.folder / "samples" / "0000004000.png") as picture:
        assert picture.size == (512, 512)
    with Image.open(run.folder / "eval" / "0000004000.png") as picture:
        assert picture.format == "PNG"
    sampler, _ = load_sampler(find_checkpoint("ring").checkpoint)
    points = sampler.points(np.arange(10))
    assert points.shape == (10, 2)
    assert points.dtype == np.float64
    assert sampler.points(np.array([7])) == pytest.approx(points[7:8], abs=1e-5)
    done = CliRunner().invoke(app, ["sample", "--ckpt", "ring", "--out", str(tmp_path / "p.npz"), "--count", "10"])
    assert done.exit_code == 0, done.output
    assert np.allclose(np.load(tmp_path / "p.npz")["points"], points, atol=1e-5)
    seen = tmp_path / "seen.png"
    done = CliRunner().invoke(app, ["eval", "--ckpt", "ring", "--json", "--picture", str(seen)])
    assert done.exit_code == 0, done.output
    with Image.open(seen) as picture:
        assert picture.format == "PNG"
    assert json.loads(done.stdout)["metrics"]["modes"]["value"] == report["metrics"]["modes"]["value"]


def test_a_folder_of_points_is_refused(tmp_path: Path) -> None:
    gantk.train(RING, *SMALL, "train.kimg=0.2", "evaluate.every_kimg=99")
    done = CliRunner().invoke(app, ["sample", "--ckpt", "ring", "--out", str(tmp_path / "folder")])
    assert "the samples are points" in str(done.exception)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_batch_of_packs_gives_the_same_gradients_however_it_is_cut(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, torch.Tensor] = {}

    def keep(self: PhaseRunner, phase: Phase, player: Player) -> None:
        kept.update({f"{phase.name}/{name}": value.grad.clone() for name, value in player.named.items()})

    monkeypatch.setattr(PhaseRunner, "_update", keep)
    gradients = []
    for accumulation in (1, 2):
        cut = (f"train.accumulation={accumulation}", f"name=cut-{accumulation}", "train.batch_size=24")
        # Batch statistics are a micro-batch's own: without them the cut must not matter.
        exact = ("train.precision=float64", "network.batch_norm=false", f"objective.pack={size}")
        trainer = Trainer(load_config(RING, [*SMALL, *cut, *exact]))
        assert isinstance(trainer.runner.bare["discriminator"], Packed)
        trainer.train_step()
        gradients.append(dict(kept))
        kept.clear()
    assert gradients[0].keys() == gradients[1].keys()
    assert {name[0] for name in gradients[0]} == {"d", "g"}
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-9, atol=1e-14), name


def test_a_batch_that_does_not_divide_into_packs_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"`train\.batch_size: 100` does not divide by packs of 3: make it a multiple of 3"
    ) as e:
        load_config(RING, ["objective.pack=3"])
    assert e.value.exit_code == 2
    with pytest.raises(ConfigError, match=r"`train\.accumulation: 2` × packs of 3: make it a multiple of 6"):
        load_config(RING, ["objective.pack=3", "train.accumulation=2"])
    from gantk.config.loading import indivisible

    config = load_config(RING, ["objective.pack=4", "train.batch_size=104"])
    assert indivisible(config, 2) is None
    assert "4 processes × packs of 4: make it a multiple of 16" in str(indivisible(config, 4))


def test_a_scatter_plot_shows_points_where_they_are(tmp_path: Path) -> None:
    save_scatter(np.array([[0.5, 0.5], [9.0, 0.0]]), tmp_path / "plot.png", extent=1.0, side=200)
    picture = np.asarray(Image.open(tmp_path / "plot.png"))
    assert picture[50, 150] == 0  # right of the middle, and above it
    assert (picture[60:, :] == 0).sum() == 0
