"""The phase design: games that the trainer has never heard of, in one process and in two."""

from __future__ import annotations

import json
import os
import typing
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import gantk
from gantk.augmentation import Kind
from gantk.config import load_config
from gantk.draws import Draws
from gantk.errors import ConfigError
from gantk.losses import LOSSES
from gantk.networks import Family
from gantk.objectives import OBJECTIVES
from gantk.objectives.gan import GAN
from gantk.regularizers import RegularizationConfig
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
    "test_shared": (),
    "test_by_method": (),
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


# Gradients at one and two processes, and in one and four micro-batches

PENALTIES = {
    "r1": "{gamma: 10}",
    "r2": "{gamma: 10}",
    "gradient_penalty": "{}",
}
PLAYED: dict[str, tuple[str, ...]] = {
    **{game: (PLUGIN, f"objective={{type: {game}}}", *overrides) for game, overrides in GAMES.items()},
    **{f"loss-{loss}": (f"objective.loss={loss}",) for loss in LOSSES},
    **{f"folded-{name}": (f"objective.regularization.{name}={keys}",) for name, keys in PENALTIES.items()},
    **{
        f"lazy-{name}": (f"objective.regularization.{name}={keys}", f"objective.regularization.{name}.every=2")
        for name, keys in PENALTIES.items()
    },
    "weight_clip": ("objective={type: gan, loss: wasserstein, regularization: {weight_clip: 0.03}}",),
    "critic-steps": (
        "objective={type: gan, loss: wasserstein, discriminator_steps: 2}",
        "objective.regularization.gradient_penalty={}",
    ),
    "r3gan": (
        "objective={type: gan, loss: relativistic}",
        "objective.regularization={r1: {gamma: 1, schedule: {type: linear, end_kimg: 0.05}}, r2: {gamma: 1}}",
    ),
    **{f"augment-{kind}": (f"objective.augment=[{kind}]",) for kind in typing.get_args(Kind)},
    "augmented-penalty": (
        "objective.augment=[color, translation, cutout]",
        "objective.regularization={r1: {gamma: 10}, gradient_penalty: {every: 2}}",
    ),
    "spectral-attention": (
        "network.spectral_norm=[generator, discriminator]",
        "network.attention=[4]",
        "objective={type: gan, loss: hinge}",
    ),
    "packed": ("objective={type: gan, pack: 2, regularization: {r1: {gamma: 10}, gradient_penalty: {}}}",),
    "points": (
        "data={source: mixture, mixture: ring, count: 2000}",
        "network={type: mlp, generator_hidden: [16], discriminator_hidden: [16]}",
        "objective.regularization.r1.gamma=1",
    ),
    "conditional": ("network={type: conditional_dcgan, width: 8, hidden_dim: 16}", "objective.augment=[color]"),
}
NOT_PLAYED = {
    "test_dropout": "its noise comes from each process's own generator",
    "test_poison": "its gradients are no numbers",
    "test_reads_its_loss": "as `gan`, but slower",
    "test_two_networks": "as `gan`, with a second generator",
    "test_lecam": "its state follows each process's own logits within a step, and their mean from step to step",
    "test_adaptive": "as `gan`, on images with noise",
    "test_from_data": "as `gan`, from weights with noise of their own",
    "test_gathers": "its networks are of whole batches, which micro-batches are not",
    "test_encoder": "as `gan`, beside an encoder with batch norm",
    "test_noisy": "its noise comes from each process's own generator",
    "test_scaled": "its buffer follows each process's own images",
}


def test_everything_there_is_is_played() -> None:
    played = {"gan", *(game for game in PLAYED if game in OBJECTIVES.names())}
    assert set(OBJECTIVES.names()) - set(NOT_PLAYED) == played
    assert set(PENALTIES) | {"weight_clip"} == set(RegularizationConfig.model_fields)


@pytest.fixture(scope="module")
def gradients(tiny: Path, launch, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Tensor]]:  # type: ignore[no-untyped-def]
    """By number of processes: `game/step/phase/parameter` to its reduced gradient, from one launch each."""
    found = {}
    common = ("network.batch_norm=false", "evaluate.every_kimg=99", "train.log_every_kimg=99")
    games = {}
    for game, overrides in PLAYED.items():
        games[game] = [*overrides, "train.precision=float64", *common]
        games[f"{game}.fp32"] = [*overrides, 'train.precision="no"', *common]
    parts = {
        f"{game}.parts": [*games[game], "train.accumulation=4"] for game in PLAYED if game != "test_feature_matching"
    }
    games["with-batch-norm"] = ["data.resolution=16", "train.precision=float64", *common[1:]]
    folder = tmp_path_factory.mktemp("gradients")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANTK_RUNS", str(folder / "runs"))
        patch.setenv("GANTK_CACHE", str(folder / "cache"))
        for world in (1, 2):
            file = folder / f"world-{world}.safetensors"
            file.with_suffix(".json").write_text(json.dumps({**games, **(parts if world == 1 else {})}))
            done = launch(world, "gradients", tiny, file)
            assert done.returncode == 0, done.stderr[-3000:]
            found[world] = load_file(file)
    return found


def of_game(found: dict[str, Tensor], game: str) -> dict[str, Tensor]:
    return {key.partition("/")[2]: value for key, value in found.items() if key.partition("/")[0] == game}


def assert_near(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float, steps: tuple[int, ...]) -> None:
    """Each parameter's gradient, relative to its norm; where that is next to nothing, to a share of the whole phase's."""
    assert one.keys() == other.keys()
    of_phase: dict[str, float] = defaultdict(float)
    for key, value in one.items():
        of_phase["/".join(key.split("/")[:2])] += float(value.norm()) ** 2
    compared = 0
    for key, value in one.items():
        if key.split("/")[0] not in map(str, steps):
            continue
        scale = max(float(value.norm()), 1e-3 * of_phase["/".join(key.split("/")[:2])] ** 0.5)
        assert scale > 0, key
        assert float((value - other[key]).norm()) / scale < tolerance, key
        compared += 1
    assert compared


@pytest.mark.parametrize("game", PLAYED)
def test_gradients_do_not_depend_on_the_number_of_processes(game: str, gradients: dict[int, dict[str, Tensor]]) -> None:
    one, two = (of_game(gradients[world], game) for world in (1, 2))
    assert all(value.dtype == torch.float64 for value in one.values())
    if game.startswith("lazy-"):
        assert any(key.startswith(f"0/{game.removeprefix('lazy-')}/") for key in one), (
            "the penalty is a phase of its own"
        )
    # The second step is of what the first has made of weights, singular vectors and optimisers.
    assert_near(one, two, 1e-10, steps=(0, 1))
    one, two = (of_game(gradients[world], f"{game}.fp32") for world in (1, 2))
    assert all(value.dtype == torch.float32 for value in one.values())
    assert_near(one, two, 1e-4, steps=(0,))


@pytest.mark.parametrize("game", sorted(set(PLAYED) - {"test_feature_matching"}))
def test_four_micro_batches_are_one_batch(game: str, gradients: dict[int, dict[str, Tensor]]) -> None:
    one, four = (of_game(gradients[1], name) for name in (game, f"{game}.parts"))
    assert_near(one, four, 1e-10, steps=(0, 1))


def test_batch_norm_makes_another_step_of_it(gradients: dict[int, dict[str, Tensor]]) -> None:
    """As launch/README.md says; and the comparison above can fail."""
    one, two = (of_game(gradients[world], "with-batch-norm") for world in (1, 2))
    key = next(key for key in one if key.startswith("0/d/") and key.endswith("weight"))
    assert (one[key] - two[key]).norm() / one[key].norm() > 1e-3
    for key in one:
        if key.startswith("buffer/"):
            assert torch.equal(two[key][0], two[key][1]), "averaged once a step"


def test_buffers_are_equal_on_all_processes(gradients: dict[int, dict[str, Tensor]]) -> None:
    one, two = (of_game(gradients[world], "spectral-attention") for world in (1, 2))
    buffers = [key for key in one if key.startswith("buffer/")]
    assert len(buffers) > 10
    for key in buffers:
        assert torch.equal(two[key][0], two[key][1]), key
        torch.testing.assert_close(one[key][0], two[key][0], rtol=1e-10, atol=1e-12)


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

        def draw(purpose: str, rows: slice = rows) -> Draws:
            return _rows(batch.draw(purpose), rows)

        part = type(batch)(batch.images[rows], None, batch.index[rows], {}, draw, draw)
        halves.append(trainer.objective.match(trainer.runner.bare, part).loss)
    assert abs((halves[0] + halves[1]) / 2 - whole) / whole > 0.05


def _rows(draws: Draws, rows: slice) -> Draws:
    return type(draws)(draws.key, draws.index[rows], draws.dtype)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_output_that_is_left_and_one_that_is_computed_again_agree(accumulation: int, tiny: Path) -> None:
    """`batch.shared` gives a later phase the numbers of an earlier one, which `batch.draw` does not."""
    common = (PLUGIN, f"train.accumulation={accumulation}", *QUICK)
    weights = []
    for again in ("false", "true"):
        config = load_config(tiny, [*common, f"objective={{type: test_shared, again: {again}}}", f"name=again-{again}"])
        trainer = Trainer(config)
        trainer.train()
        assert trainer.objective.compared >= 8 * accumulation
        assert trainer.objective.differed == 0, "computed again with the same weights"
        weights.append({n: p.detach() for n, p in trainer.runner.bare["generator"].named_parameters()})
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    config = load_config(tiny, [*common, "objective={type: test_shared, drawn: draw}", "name=apart"])
    trainer = Trainer(config)
    trainer.train()
    assert trainer.objective.differed == trainer.objective.compared, "the check above can fail"


@pytest.mark.parametrize("loss", ["nonsaturating", "wasserstein"])
def test_the_gan_learns_the_same_from_images_that_are_left_as_from_images_computed_again(loss: str, tiny: Path) -> None:
    weights = []
    for leaves in (True, False):
        config = load_config(
            tiny, [f"objective={{type: gan, loss: {loss}, discriminator_steps: 2}}", *QUICK, f"name=leaves-{leaves}"]
        )
        trainer = Trainer(config)
        first, *rest = trainer.objective.phases
        assert first.leaves == ("generator",)
        if not leaves:
            trainer.objective.phases = (replace(first, leaves=()), *rest)
        trainer.train()
        weights.append([p.detach() for m in trainer.runner.bare.values() for p in m.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_what_is_gathered_is_differentiated_twice_and_warns_of_nothing(tmp_path: Path, launch) -> None:  # type: ignore[no-untyped-def]
    """The sum over all rows of their squares' cubes, on two processes, against the whole on one."""
    done = launch(2, "gathered", tmp_path, tmp_path / "found")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "deprecated" not in done.stderr
    rows = torch.arange(1.0, 13.0, dtype=torch.float64).view(4, 3).requires_grad_()
    (first,) = torch.autograd.grad(rows.square().sum(1).pow(3).sum(), rows, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), rows)
    for rank in range(2):
        found = load_file(f"{tmp_path / 'found'}.{rank}")
        own = slice(2 * rank, 2 * rank + 2)
        assert torch.equal(found["whole"], rows.detach())
        # Each of two processes has the whole's loss, and sends its gradient back.
        torch.testing.assert_close(found["first"], 2 * first[own].detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(found["second"], 8 * second[own], rtol=1e-12, atol=0)


class Slips(GAN):
    """A GAN with one mistake, which `slip` makes."""

    def __init__(self, config: Any, family: Family) -> None:
        super().__init__(config, family)
        slip = SLIP
        if slip == "averaged":
            self.averaged = ()
        elif slip == "generator":
            self.networks["maker"] = self.networks.pop("generator")
        elif slip == "nothing":
            self.phases = (replace(self.phases[0], trains=()), self.phases[1])
        elif slip == "unknown":
            self.phases = (replace(self.phases[0], leaves=("critic",)), self.phases[1])
        elif slip == "twice":
            self.phases = (self.phases[0], self.phases[0])
        elif slip == "heads":
            self.networks["discriminator"].other_head = torch.nn.Linear(3, 1)

    def generate(self, networks: Any, z: Tensor, labels: Tensor | None = None) -> Tensor:
        images = super().generate(self.networks if SLIP == "own" else networks, z, labels)
        if SLIP == "raises" and not torch.is_grad_enabled():
            raise ZeroDivisionError("my own mistake")
        return images[:1] if SLIP == "shape" and len(images) == 2 else images


SLIP = ""


@pytest.mark.parametrize(
    ("slip", "sentence"),
    [
        ("averaged", r"has no `averaged` networks"),
        ("generator", r"averages `generator`, and its networks are discriminator, maker"),
        ("nothing", r"phase `d` trains nothing"),
        ("unknown", r"phase `d` names the network `critic`, and there are: generator, discriminator"),
        ("twice", r"two phases with the name `d`"),
        ("shape", r"gives \(1, 1, 8, 8\) for two samples: it must give a tensor \(2, 1, 8, 8\)"),
        (
            "own",
            r"`generate` of the objective takes `generator` from `self.networks`, which in training is not its average",
        ),
        ("heads", r"phase `d` trains the network `discriminator`, .*parameter `other_head\.weight` \(and 1 more\)"),
    ],
)
def test_an_authors_slips_are_sentences(slip: str, sentence: str, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SLIP", slip)
    monkeypatch.setitem(OBJECTIVES._classes, "gan", Slips)
    with pytest.raises(ConfigError, match=sentence):
        Trainer(load_config(tiny, QUICK)).train_step()


def test_an_exception_of_the_objectives_own_is_raised_before_training(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "SLIP", "raises")
    monkeypatch.setitem(OBJECTIVES._classes, "gan", Slips)
    with pytest.raises(ZeroDivisionError, match="my own mistake"):
        Trainer(load_config(tiny, QUICK))


def test_lazy_phase_is_every_few_steps(tiny: Path) -> None:
    trainer = Trainer(load_config(tiny, ["objective.regularization.r1={gamma: 1, every: 4}", *QUICK]))
    trainer.train()
    rows = [row for row in read_metrics(trainer.folder) if "r1/loss" in row]
    assert [row["progress/kimg"] for row in rows] == [0.032, 0.16]
    assert set(trainer.runner.players) == {"d", "g"}


def test_batch_statistics_refuse_accumulation(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.accumulation: 2.*phase `g`"):
        gantk.train(tiny, PLUGIN, "objective.type=test_feature_matching", "train.accumulation=2")


def test_two_processes_train_and_resume(tiny: Path, launch) -> None:  # type: ignore[no-untyped-def]
    done = launch(2, "train", tiny, "-", *QUICK)
    assert done.returncode == 0, done.stderr[-3000:]
    done = launch(2, "train", tiny, "-", *QUICK, "train.kimg=0.512")
    assert done.returncode == 0, done.stderr[-3000:]
    folder = Path(os.environ["GANTK_RUNS"]) / "tiny"
    kimgs = [row["progress/kimg"] for row in read_metrics(folder)]
    assert kimgs == sorted(set(kimgs))
    assert kimgs[-1] == 0.512
