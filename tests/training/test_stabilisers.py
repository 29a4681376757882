"""Stabilised games go on after a stop as if there had been none, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import gantk
from gantk.runs import find_checkpoint
from gantk.tracking import read_metrics

GAMES = {
    "spectral": (
        "network.spectral_norm=[generator, discriminator]",
        "network.attention=[4]",
        "network.discriminator_batch_norm=false",
        "objective={type: gan, loss: hinge, discriminator_steps: 2}",
    ),
    "lazy-augmented": (
        "objective={type: gan, loss: relativistic, augment: [color, translation, cutout]}",
        "objective.regularization={r1: {gamma: 3, every: 3}, r2: {gamma: 1}}",
        "objective.regularization.r1.schedule={type: linear, end_kimg: 0.3}",
    ),
    "penalised": (
        "objective={type: gan, loss: wasserstein, regularization: {gradient_penalty: {}, weight_clip: 0.1}}",
        "train.accumulation=2",
    ),
}


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("game", GAMES)
def test_going_on_changes_nothing(game: str, precision: str, tiny: Path) -> None:
    def train(name: str, kimg: float) -> Path:
        return gantk.train(
            tiny, *GAMES[game], f"name={name}", f"train.kimg={kimg}", f'train.precision="{precision}"',
            "train.log_every_kimg=0.032", "evaluate.every_kimg=99", "samples.every_kimg=99", "tracking.progress=false",
        ).folder  # fmt: skip

    straight = train("straight", 0.32)
    train("broken", 0.16)
    broken = train("broken", 0.32)
    one, other = (find_checkpoint(str(folder)).checkpoint for folder in (straight, broken))
    assert one.step == other.step == 10
    assert one.files == other.files
    for file in one.files:
        if file.endswith(".safetensors"):
            stem = file.removesuffix(".safetensors")
            for name, value in one.tensors(stem).items():
                assert torch.equal(value, other.tensors(stem)[name]), f"{stem}/{name}"
    curves = [
        [{key: value for key, value in row.items() if not key.startswith("speed/")} for row in read_metrics(folder)]
        for folder in (straight, broken)
    ]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 10
