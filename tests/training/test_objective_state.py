"""An objective's own state: as a network's buffers, in one process and in two; what sets it up, and what it adapts by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from gantk.config import load_config
from gantk.errors import CheckpointError, ConfigError
from gantk.objectives import Objective
from gantk.objectives.checks import check_collectives
from gantk.tracking import read_metrics
from gantk.training.agreement import checksum
from gantk.training.checkpoint import Checkpoint, checkpoints_in
from gantk.training.trainer import Trainer

SHORT = (
    "plugins=[stateful_games]", "train.kimg=0.256", "train.log_every_kimg=0.096", "checkpoint.every_kimg=99",
    "samples.every_kimg=99", "evaluate.every_kimg=99", "train.adapt_every_kimg=0.064",
)  # fmt: skip


def make(tiny: Path, game: str, *overrides: str, **options: Any) -> Trainer:
    return Trainer(load_config(tiny, [*SHORT, f"objective.type={game}", *overrides]), **options)


def trained(tiny: Path, game: str, *overrides: str, **options: Any) -> Trainer:
    trainer = make(tiny, game, *overrides, **options)
    trainer.train()
    return trainer


def saved(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Everything in the newest checkpoint, by file and name."""
    newest = Checkpoint(checkpoints_in(trainer.folder / "checkpoints")[-1])
    assert newest.step == trainer.step
    stems = [name.removesuffix(".safetensors") for name in newest.files if name.endswith(".safetensors")]
    return {f"{stem}/{name}": value for stem in stems for name, value in newest.tensors(stem).items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


# As a network's buffers


def test_state_is_in_the_precision_of_the_run(tiny: Path) -> None:
    ema = trained(tiny, "test_lecam", "train.precision=float64").objective.ema
    assert ema.dtype == torch.float64
    assert not torch.equal(ema, ema.float().double()), "it was not rounded on the way"


def test_one_batch_that_is_not_finite_does_not_poison_the_state(tiny: Path) -> None:
    trainer = trained(tiny, "test_lecam", "objective.poison_at=4", "train.on_nonfinite=skip", "train.kimg=0.512")
    assert trainer.objective.ema.isfinite().all()
    skipped = [row["d/skipped"] for row in read_metrics(trainer.folder)]
    assert skipped[-1] == 1, "the one update, and none of those after it"
    assert saved(trainer)["objective/ema"].isfinite().all()


@pytest.mark.parametrize("log_every", [0.064, 0.512])
def test_one_batch_that_is_not_finite_does_not_poison_a_networks_buffers(tiny: Path, log_every: float) -> None:
    """Not until the next line of the log either, or that would decide on how many updates are lost."""
    overrides = ("objective.poison_at=4", "train.on_nonfinite=skip", "train.kimg=0.512")
    trainer = trained(tiny, "test_scaled", *overrides, f"train.log_every_kimg={log_every}")
    assert trainer.runner.bare["discriminator"].unit.isfinite()
    row = read_metrics(trainer.folder)[-1]
    # That of the discriminator, and of the generator, which is judged by it in the same step.
    assert (row["d/skipped"], row["g/skipped"]) == (1, 1)


def test_a_state_that_stays_finite_is_remembered_as_it_was(tiny: Path) -> None:
    trainer = make(tiny, "test_lecam")
    trainer.objective.ema.fill_(3.0)
    trainer.buffers.remember()
    trainer.objective.ema[1] = float("nan")
    trainer.buffers.remember()
    trainer.buffers.mend()
    assert trainer.objective.ema.tolist() == [3.0, 3.0]
    trainer.objective.ema.fill_(4.0)
    trainer.buffers.keep()
    trainer.objective.ema[0] = float("-inf")
    trainer.buffers.keep()
    assert trainer.objective.ema.tolist() == [4.0, 4.0]


def test_checksums_see_one_bit_and_places() -> None:
    values = torch.randn(3, 4, 5, 6)
    assert checksum(values) == checksum(values.to(memory_format=torch.channels_last))
    other = values.clone()
    other[1, 2, 3, 4] = torch.nextafter(other[1, 2, 3, 4], torch.tensor(9.0))
    swapped = values.flip(0)
    assert len({int(checksum(each)) for each in (values, other, swapped)}) == 3
    for dtype in (torch.bool, torch.uint8, torch.float16, torch.int64, torch.float64):
        some = torch.tensor([1, 0, 1, 1]).to(dtype)
        assert checksum(some) != checksum(some.flip(0))
        assert checksum(some[0]).shape == ()


# Two processes


@pytest.fixture(scope="module")
def two(tiny: Path, launch: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `worker.states` leaves on two processes, by process; and the folder of its runs."""
    folder = tmp_path_factory.mktemp("states")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANTK_RUNS", str(folder / "runs"))
        patch.setenv("GANTK_CACHE", str(folder / "cache"))
        done = launch(2, "states", tiny, folder / "out", *SHORT)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        "runs": folder / "runs",
        "said": [json.loads(Path(f"{folder}/out.{rank}").read_text()) for rank in range(2)],
        "set_up": [load_file(f"{folder}/out.setup.{rank}") for rank in range(2)],
    }


def of_run(two: dict[str, Any], name: str) -> dict[str, torch.Tensor]:
    newest = Checkpoint(checkpoints_in(two["runs"] / name / "checkpoints")[-1])
    assert newest.step == 8
    stems = [file.removesuffix(".safetensors") for file in newest.files if file.endswith(".safetensors")]
    return {f"{stem}/{name}": value for stem in stems for name, value in newest.tensors(stem).items()}


@pytest.mark.slow
@pytest.mark.parametrize("game", ["test_lecam", "test_adaptive"])
def test_two_processes_resume_exactly(game: str, two: dict[str, Any]) -> None:
    """Stopped in the midst of the intervals of logging and of adaptation; with averages, a count and a pool of images."""
    straight = of_run(two, f"{game}-straight")
    assert_equal(straight, of_run(two, f"{game}-broken"))
    if game == "test_lecam":
        assert straight["objective/count"] == 8 * 16
        assert (straight["objective/pool"].std((1, 2, 3)) > 0).all(), "48 images, and none twice"
        assert len(straight["objective/pool"].flatten(1).unique(dim=0)) == 48
    assert two["said"][0][f"{game}-state"] == two["said"][1][f"{game}-state"] != [0.0, 0.0]
    rows = [
        [{k: v for k, v in row.items() if not k.startswith("speed/")} for row in read_metrics(two["runs"] / name)]
        for name in (f"{game}-straight", f"{game}-broken")
    ]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_state_that_differs_between_processes_is_refused(two: dict[str, Any]) -> None:
    for said in two["said"]:
        assert said["same"] == "done"
        assert said["own"].startswith(
            "CheckpointError: after step 1 the processes do not hold the same buffer `count` of the objective (process 1 "
            "differs from process 0)"
        )
    assert json.loads((two["runs"] / "own" / "status.json").read_text())["exit_code"] == 4
    assert not checkpoints_in(two["runs"] / "own" / "checkpoints")


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_a_collective_that_waits_for_all_is_refused_before_training(tiny: Path, tmp_path: Path, name: str) -> None:
    """Grids and the discriminator's gap run networks on one process; a group of one stands for several here."""
    sampler = make(tiny, "test_gathers").sampler
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        check_collectives(sampler)
        sampler.networks[name].register_forward_hook(lambda *_: dist.all_reduce(torch.ones(1)) and None)
        with pytest.raises(ConfigError, match=r"calls torch\.distributed \(c10d\.allreduce_.*gather_with_gradient"):
            check_collectives(sampler)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_networks_with_a_collective_are_sampled_and_scored(two: dict[str, Any]) -> None:
    """On one process alone, where the others do not run them."""
    folder = two["runs"] / "gathers"
    assert len(list((folder / "samples").glob("*.png"))) == 2
    (row,) = [row for row in read_metrics(folder) if "eval/fd_pixel_pca" in row]
    assert "eval/discriminator_gap" in row
    assert json.loads((folder / "status.json").read_text())["exit_code"] == 0


@pytest.mark.slow
def test_set_up_with_the_whole_first_batch_on_every_process(two: dict[str, Any], tiny: Path) -> None:
    alone = make(tiny, "test_from_data", "train.accumulation=2")
    batch = alone.objective.set_up_with
    assert batch.index.tolist() == list(range(32))
    assert alone.batches.cursor == 0
    for found in two["set_up"]:
        assert torch.equal(found["images"], batch.images)
        assert torch.equal(found["z"], batch.draw("z").normal(4))
    one, other = two["set_up"]
    assert_equal(one, other)
    assert any(name.startswith("network/") for name in one)
    for name in one:
        if name.startswith("average/"):
            assert torch.equal(one[name], one[name.replace("average/", "network/")]), name
    # What is trained on next is what it was set up with.
    alone.batches.begin_step()
    assert torch.equal(next(alone.batches.next("d", 0, 0, True)).images, batch.images[:16])


# Adaptation


def test_adaptation_does_not_depend_on_what_is_logged(tiny: Path) -> None:
    rare = trained(tiny, "test_adaptive", "name=rare")
    often = trained(tiny, "test_adaptive", "name=often", "train.log_every_kimg=0.032")
    assert [images for images, _ in rare.objective.calls] == [64, 128, 192, 256]
    assert rare.objective.calls == often.objective.calls
    assert rare.objective.strength != 0
    one, two = ({k: v for k, v in saved(t).items() if not k.startswith("meter/")} for t in (rare, often))
    assert_equal(one, two)
    rows = read_metrics(often.folder)
    for number, (_, means) in enumerate(rare.objective.calls):
        for name in ("d/real", "g/loss", "d/grad_norm"):
            whole = sum(row[name] for row in rows[2 * number : 2 * number + 2]) / 2
            assert means[name] == pytest.approx(whole, rel=1e-6)
    assert not any(name.startswith("monitor/") for _, means in rare.objective.calls for name in means)
    other = trained(tiny, "test_adaptive", "name=other", "train.adapt_every_kimg=0.128")
    assert other.objective.strength != rare.objective.strength


def test_looking_at_networks_that_draw_noise_changes_nothing_of_what_is_trained(tiny: Path) -> None:
    """Logging with its monitors, grids, and evaluations with the discriminator's gap."""
    seldom = ("train.log_every_kimg=9", "samples.every_kimg=9", "evaluate.every_kimg=9")
    often = (
        "train.log_every_kimg=0.064",
        "samples.every_kimg=0.096",
        "evaluate.every_kimg=0.128",
        "evaluate.samples=64",
    )
    one, other = (trained(tiny, "test_noisy", f"name=noisy{len(o[0])}", *o) for o in (seldom, often))
    assert_equal(*({k: v for k, v in saved(t).items() if not k.startswith("meter/")} for t in (one, other)))
    rows = [np.arange(first, first + 8) for first in (0, 0, 8)]
    silent = other.averaged.networks["generator"].network
    noise = [other.sampler.raw(some) - silent(other.sampler.latent(some)) for some in rows]
    assert torch.equal(noise[0], noise[1]), "the same samples are the same"
    assert not torch.allclose(noise[0], noise[2], atol=0.01), "others have other noise"


def test_adaptation_resumes_exactly_and_keeps_its_interval(tiny: Path) -> None:
    straight = trained(tiny, "test_adaptive", "name=straight")
    trained(tiny, "test_adaptive", "name=broken", "train.kimg=0.096")  # three steps, and two are an interval
    with pytest.raises(CheckpointError, match=r"train\.adapt_every_kimg: 0\.064 → 0\.128"):
        make(tiny, "test_adaptive", "name=broken", "train.adapt_every_kimg=0.128")
    resumed = trained(tiny, "test_adaptive", "name=broken", "train.log_every_kimg=0.032")
    one, two = ({k: v for k, v in saved(t).items() if not k.startswith("meter/")} for t in (straight, resumed))
    assert_equal(one, two)


def test_nothing_adapts_by_what_is_not_finite(tiny: Path) -> None:
    trainer = trained(tiny, "test_adaptive", "objective.poison_at=2", "train.on_nonfinite=skip")
    assert [images for images, _ in trainer.objective.calls] == [64, 192, 256]
    assert trainer.objective.strength.isfinite()


def test_the_old_name_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`after_step` .* is now `adapt\(images, means\)`"):

        class Old(Objective):
            def after_step(self, images: int, reduced: dict[str, float]) -> None: ...
