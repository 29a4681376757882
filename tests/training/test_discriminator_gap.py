"""What the discriminator thinks of training images and of held-out ones."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

import gantk
from gantk.config import load_config
from gantk.tracking import read_metrics
from gantk.training.discriminator_gap import compare, discriminator_gap
from gantk.training.trainer import Trainer

QUIET = ("train.kimg=0.128", "evaluate.every_kimg=99", "tracking.wandb=disabled", "tracking.progress=false")


def test_pairs_are_counted_and_ties_by_halves() -> None:
    rng = np.random.default_rng(0)
    train, heldout = rng.integers(0, 9, 60).astype(float), rng.integers(0, 7, 40).astype(float)
    above = (train[:, None] > heldout).mean() + (train[:, None] == heldout).mean() / 2
    gap = compare(train, heldout)
    assert gap.ranked_above == pytest.approx(above, abs=1e-12)
    assert gap.points()["discriminator_gap"] == pytest.approx(train.mean() - heldout.mean())
    assert gap.counts == (60, 40)


def test_chance_holds_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(1)
    outside = [
        abs(gap.ranked_above - 0.5) > gap.chance for gap in (compare(*rng.normal(size=(2, 200))) for _ in range(1000))
    ]
    assert 25 <= sum(outside) <= 75


def test_images_learnt_by_heart_are_ranked_above_others(tiny: Path, tmp_path: Path) -> None:
    # Pure noise: there is nothing to learn but the images themselves.
    rng = np.random.default_rng(2)
    for name, count in (("train", 32), ("heldout", 200)):
        np.savez(tmp_path / f"{name}.npz", images=rng.integers(0, 256, (count, 16, 16, 1), dtype=np.uint8))
    where = [f"data={{source: npz, resolution: 16, path: {tmp_path}/train.npz, heldout_path: {tmp_path}/heldout.npz}}"]
    trainer = Trainer(
        load_config(tiny, [*QUIET, *where, "train.kimg=6.4", "objective.discriminator_steps=2"]), resume="never"
    )
    before = discriminator_gap(trainer)
    trainer.train()
    after = discriminator_gap(trainer)
    assert before is not None
    assert after is not None
    assert abs(before.ranked_above - 0.5) <= 2 * before.chance
    assert "by heart" not in before.sentence()
    assert after.ranked_above > 0.75
    assert "by heart" in after.sentence()


@pytest.mark.parametrize("pack", [1, 16])
def test_looking_moves_nothing(tiny: Path, pack: int) -> None:
    trainer = Trainer(load_config(tiny, [*QUIET, "data.resolution=16", f"objective.pack={pack}"]), resume="never")
    trainer.train_step()
    trainer.runner.bare["generator"].eval()
    before = {name: copy.deepcopy(network.state_dict()) for name, network in trainer.runner.bare.items()}
    modes = {name: network.training for name, network in trainer.runner.bare.items()}
    random = torch.get_rng_state()
    gap = discriminator_gap(trainer)
    assert gap is not None
    assert gap.counts == tuple(
        min(1000, len(store)) // pack for store in (trainer.dataset.train, trainer.dataset.heldout)
    )
    assert modes == {name: network.training for name, network in trainer.runner.bare.items()}
    assert torch.equal(random, torch.get_rng_state())
    for name, network in trainer.runner.bare.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, before[name][key]), (name, key)
    trainer.train()


def test_it_is_told_and_kept_with_each_evaluation(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = gantk.train(
        tiny, *QUIET, "evaluate.every_kimg=0.064", "evaluate.metrics=[fd_pixel_pca]", "network.type=conditional_dcgan"
    )
    rows = [row for row in read_metrics(run.folder) if "eval/discriminator_gap" in row]
    assert [row["progress/kimg"] for row in rows] == [0.064, 0.128]
    for row in rows:
        assert row["eval/discriminator_gap"] == pytest.approx(
            row["eval/discriminator_train"] - row["eval/discriminator_heldout"]
        )
        assert 0 <= row["eval/discriminator_ranks_train_above"] <= 1
    assert capfd.readouterr().err.count("discriminator: ranks a training image above") == 1, (
        "with the table, at the end"
    )


def test_a_game_without_such_a_discriminator_has_no_gap(tiny: Path) -> None:
    trainer = Trainer(
        load_config(
            tiny,
            [
                *QUIET,
                "plugins=[games]",
                "objective={type: test_two_domains}",
                "extra_data={b: {source: digits, resolution: 8}}",
            ],
        ),
        resume="never",
    )
    assert discriminator_gap(trainer) is None
