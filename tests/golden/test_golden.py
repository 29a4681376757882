"""Golden runs: see `curves.py` for what they are and how to make them anew."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import curves


@pytest.mark.parametrize("name", curves.GAMES)
def test_the_curve_is_the_one_that_is_kept(name: str) -> None:
    size, where = curves.deviation(curves.kept(name), curves.run(name))
    assert size < curves.TOLERANCE, (
        f"{name} moved by {size:.1e} ({where}). If that is meant, run `python tests/golden/curves.py --write {name}` and say "
        "why in the commit message"
    )


def test_every_kept_curve_has_its_game() -> None:
    assert {file.stem for file in curves.HERE.glob("*.json")} == set(curves.GAMES)


# What must not move a curve: another order of summation, another layout, another rounding of the weights.
NEUTRAL: dict[str, tuple[str, tuple[str, ...]]] = {
    "threads": ("dcgan", ("train.threads=2",)),
    "layout": ("dcgan", ("train.channels_last=false",)),
    "micro-batches": ("diffaugment", ("train.accumulation=1",)),
    "storage": ("dcgan", ("data.storage=disk",)),
    "last-digits": ("r3gan", ()),
}
# What must: each is a mistake that a refactoring makes easily, and small.
CHANGED: dict[str, tuple[str, tuple[str, ...]]] = {
    "rate": ("dcgan", ("optimizer.lr=1.01e-3",)),
    "beta": ("dcgan", ("optimizer.betas=[0.5, 0.99]",)),
    "flip": ("dcgan", ("data.flip=false",)),
    "penalty": ("wgan_gp", ("objective.regularization.gradient_penalty.weight=10.1",)),
    "schedule": ("r3gan", ("objective.regularization.r1.schedule.end_kimg=0.41",)),
    "clip": ("wgan", ("objective.regularization.weight_clip=0.0101",)),
    "augment": ("diffaugment", ("objective.augment=[color, translation]",)),
    "draws": ("dcgan", ("seed=1",)),
}


@pytest.mark.parametrize("change", NEUTRAL)
def test_a_neutral_change_stays_within_the_tolerance(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, overrides = NEUTRAL[change]
    if change == "last-digits":
        monkeypatch.setattr("gantk.training.trainer.build_objective", _with_other_last_digits())
    size, where = curves.deviation(curves.kept(name), curves.run(name, overrides))
    assert size < curves.TOLERANCE / 10, where


@pytest.mark.parametrize("change", CHANGED)
def test_another_computation_is_far_beyond_it(change: str) -> None:
    name, overrides = CHANGED[change]
    size, where = curves.deviation(curves.kept(name), curves.run(name, overrides))
    assert size > 1000 * curves.TOLERANCE, where


def test_a_value_more_or_less_is_seen() -> None:
    curve = curves.kept("dcgan")
    fewer = [{key: value for key, value in row.items() if key != "d/real"} for row in curve]
    assert curves.deviation(curve, fewer)[0] == float("inf")
    assert curves.deviation(curve, curve)[0] == 0


def _with_other_last_digits() -> Callable[..., Any]:
    """Initial weights of which every one is off by 1e-10 of itself: far more than another machine's rounding."""
    from gantk.sampling import build_objective

    def build(*arguments: Any) -> Any:
        objective = build_objective(*arguments)
        for network in objective.networks.values():
            network.double()
            for parameter in network.parameters():
                parameter.data.mul_(1 + 1e-10 * torch.randn_like(parameter))
        return objective

    return build
