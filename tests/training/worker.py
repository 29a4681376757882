"""Runs in each process of a test at world size 2: trains configs and leaves what the test compares."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

import gantk
from gantk.config import Config, load_config
from gantk.errors import PreemptedError, UserError
from gantk.runtime import gather_with_gradient
from gantk.training.hooks import Hook
from gantk.training.phases import PhaseRunner
from gantk.training.run_lock import RunLock
from gantk.training.trainer import Trainer


def batches(config: Config, out: str) -> None:
    """Leaves what each process plays on in the first two steps: rows, images (flipped or not), labels and z."""
    trainer = Trainer(config)
    kept: dict[str, torch.Tensor] = {}
    for step in range(2):
        trainer.batches.begin_step()
        for micro, batch in enumerate(trainer.batches.next("d", step, 0, True)):
            values = {"index": batch.index, "images": batch.images, "z": batch.draw("z").normal(4)}
            kept |= {f"{step}/{micro}/{name}": value.clone().contiguous() for name, value in values.items()}
    save_file(kept, f"{out}.{trainer.runtime.rank}")
    trainer.runtime.barrier()


def drawn(config: Config, out: str) -> None:
    """Trains, and leaves the positions in the data that each process really drew."""
    trainer = Trainer(config)
    positions: list[int] = []
    take = trainer.batches.main.take

    def recorded(where: torch.Tensor, *more: Any) -> Any:
        positions.extend(where.tolist())
        return take(where, *more)

    trainer.batches.main.take = recorded  # type: ignore[method-assign]
    trainer.train()
    Path(f"{out}.{trainer.runtime.rank}").write_text(json.dumps(positions))


class Stop(Hook):
    """Signals one process alone after a step."""

    def __init__(self, step: int) -> None:
        super().__init__(1e9)
        self.step = step

    def after_step(self, trainer: Trainer) -> None:
        if trainer.step == self.step and trainer.runtime.rank == trainer.runtime.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)


def boundaries(config_file: str, steps: str, overrides: list[str]) -> None:
    """Trains `straight`, and `broken`, which is stopped after each of `steps` and goes on."""
    for precision in ("no", "bf16"):
        common = [*overrides, f"train.precision={precision}"]
        trainer = Trainer(load_config(config_file, [*common, f"name=straight-{precision}"]))
        trainer.train()
        broken = load_config(config_file, [*common, f"name=broken-{precision}"])
        for step in map(int, steps.split(",")):
            trainer = Trainer(broken)
            trainer.hooks.insert(0, Stop(step))
            try:
                trainer.train()
            except PreemptedError:
                assert trainer.step == step
            else:
                raise AssertionError(f"it was not stopped at {step}")
        trainer = Trainer(broken)
        trainer.train()


def unlogged(config: Config, out: str) -> None:
    """One process is signalled in the midst of a logging interval that never ends; leaves after which step both stopped."""
    from gantk.training import trainer as module

    module.AGREE_SECONDS = 0.0
    trainer = Trainer(config)
    trainer.hooks.insert(0, Stop(5))
    stopped = None
    try:
        trainer.train()
    except PreemptedError:
        stopped = trainer.step
    Path(f"{out}.{trainer.runtime.rank}").write_text(json.dumps(stopped))


def faults(config_file: str, out: str, overrides: list[str]) -> None:
    """What goes wrong on one process ends the run on both, with the same error; leaves what each was told."""
    from gantk.sampling import Sampler
    from gantk.training import checkpoint

    told: dict[str, str] = {}
    rank = int(os.environ["RANK"])

    def run(name: str, *more: str) -> None:
        try:
            Trainer(load_config(config_file, [*overrides, *more, f"name={name}"])).train()
            told[f"{len(told)} {name}"] = "done"
        except UserError as error:
            told[f"{len(told)} {name}"] = f"{type(error).__name__}: {error}"

    run("straight")
    # A signal to one process, while both evaluate.
    images, calls = Sampler.images, 0

    def signalled(self: Sampler, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if rank == 1 and calls == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return images(self, *arguments)

    Sampler.images = signalled  # type: ignore[method-assign]
    run("broken")
    Sampler.images = images  # type: ignore[method-assign]
    run("broken")

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    save_file_before = checkpoint.save_file
    checkpoint.save_file = full  # type: ignore[assignment]
    run("full")
    checkpoint.save_file = save_file_before
    run("full")
    if rank == 0:
        lock = RunLock(load_config(config_file, [*overrides, "name=held"]).run_folder)
        assert lock.acquire() is None
    run("held")
    Path(f"{out}.{rank}").write_text(json.dumps(told))


def opened(config: Config, out: str) -> None:
    """Opens the data at the same moment as the processes of another run; leaves how many images were decoded here."""
    from gantk.data.transform import Transform

    rank, count = os.environ["RANK"], 0
    decode = Transform.__call__

    def counted(self: Transform, item: Any, *, name: str) -> Any:
        nonlocal count
        count += 1
        return decode(self, item, name=name)

    Transform.__call__ = counted  # type: ignore[method-assign]
    Path(f"{out}.here.{rank}").touch()
    deadline = time.monotonic() + 60
    while len(list(Path(out).parent.glob("*.here.*"))) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    trainer = Trainer(config)
    trainer.train()
    Path(f"{out}.{rank}").write_text(json.dumps([count, trainer.dataset.sha256]))


def poison(config: Config, out: str) -> None:
    """Trains into an update that is not finite, and leaves what each process has before and after."""
    trainer = Trainer(config)
    at = config.objective.at  # type: ignore[attr-defined]
    for _ in range(at):
        trainer.train_step()
    state = {}
    for when in ("before", "after"):
        for name, network in trainer.runner.bare.items():
            state |= {f"{when}/{name}.{key}": value.clone() for key, value in network.named_parameters()}
        for name, player in trainer.runner.players.items():
            state |= {f"{when}/{name}/{key}": value.clone() for key, value in player.state().items()}
        if when == "before":
            trainer.train_step()
    save_file({k: v.detach().contiguous() for k, v in state.items()}, f"{out}.{trainer.runtime.rank}")
    trainer.hooks[0].act(trainer)


def gradients(config_file: str, out: str, overrides: list[str]) -> None:
    """Two steps of each game in the file `out`.json, with each phase's reduced gradient kept before its update, and the
    buffers afterwards. One process for all of them, for starting it takes longer than they do.
    """
    kept: dict[str, torch.Tensor] = {}
    update = PhaseRunner._update
    trainer: Trainer
    game = ""

    def keep(self, phase, player):  # type: ignore[no-untyped-def]
        for name, parameter in player.named.items():
            kept[f"{game}/{trainer.step}/{phase.name}/{name}"] = parameter.grad.detach().clone().contiguous()
        update(self, phase, player)

    PhaseRunner._update = keep  # type: ignore[method-assign]
    games: dict[str, list[str]] = json.loads(Path(out).with_suffix(".json").read_text())
    for game, own in games.items():
        trainer = Trainer(load_config(config_file, [*overrides, *own, f"name={game}-{Path(out).stem}"]))
        trainer.train_step()
        trainer.train_step()
        for network, module in trainer.runner.bare.items():
            for name, buffer in module.named_buffers():
                # Every process's own, for they have to be equal.
                whole = trainer.runtime.gather(buffer.detach().clone().reshape(1, -1))
                kept[f"{game}/buffer/{network}.{name}"] = whole
    if trainer.runtime.is_main:
        save_file(kept, out)
    trainer.runtime.barrier()


def reductions(config: Config, out: str) -> None:
    """Three steps; leaves the bytes of gradients that DDP reduced, by phase and network, and those of the parameters."""
    reduced: dict[str, int] = {}
    trainer = Trainer(config)
    playing = ""
    run = trainer.runner.run

    def name_it(phase, *args):  # type: ignore[no-untyped-def]
        nonlocal playing
        playing = phase.name
        run(phase, *args)

    def count(network, bucket):  # type: ignore[no-untyped-def]
        place = f"{playing}/{network}"
        reduced[place] = reduced.get(place, 0) + bucket.buffer().nbytes
        return default_hooks.allreduce_hook(dist.group.WORLD, bucket)

    trainer.runner.run = name_it  # type: ignore[method-assign]
    for network, wrapped in trainer.runner.wrapped.items():
        wrapped.register_comm_hook(network, count)  # type: ignore[operator]
    for _ in range(3):
        trainer.train_step()
    parameters = {n: sum(p.nbytes for p in module.parameters()) for n, module in trainer.runner.bare.items()}
    if trainer.runtime.is_main:
        Path(out).write_text(json.dumps({"reduced": reduced, "parameters": parameters}))
    trainer.runtime.barrier()


def states(config_file: str, out: str, overrides: list[str]) -> None:
    """Games with a state of their own: each straight through and broken off, with state that differs, and set up."""
    from gantk.training import trainer as module

    # Asked after every step, so that both stop at the same one.
    module.AGREE_SECONDS = 0.0
    rank = int(os.environ["RANK"])
    told: dict[str, Any] = {}

    def run(name: str, game: str, *more: str, stop_at: int = 0) -> Trainer:
        trainer = Trainer(load_config(config_file, [*overrides, *more, f"objective.type={game}", f"name={name}"]))
        trainer.hooks.insert(0, Stop(stop_at))
        try:
            trainer.train()
        except PreemptedError:
            assert trainer.step == stop_at
        return trainer

    pool = ("objective.pool=48", "objective.count=same")
    for game, own in (("test_lecam", pool), ("test_adaptive", ())):
        trainer = run(f"{game}-straight", game, *own)
        told[f"{game}-state"] = torch.cat([b.flatten().double() for b in trainer.objective.buffers()]).tolist()
        run(f"{game}-broken", game, *own, stop_at=5)
        run(f"{game}-broken", game, *own)
    for count in ("same", "own"):
        try:
            run(count, "test_lecam", f"objective.count={count}", "train.kimg=0.064")
            told[count] = "done"
        except UserError as error:
            told[count] = f"{type(error).__name__}: {error}"
    # One chunk of samples is one process's; the grid and the discriminator's gap are the main one's.
    run(
        "gathers", "test_gathers", "train.kimg=0.128", "samples.every_kimg=0.064",
        "evaluate={every_kimg: 0.128, samples: 50, metrics: [fd_pixel_pca]}",
    )  # fmt: skip
    config = load_config(
        config_file, [*overrides, "objective.type=test_from_data", "name=setup", "train.accumulation=2"]
    )
    trainer = Trainer(config)
    batch = trainer.objective.set_up_with
    found = {"images": batch.images, "z": batch.draw("z").normal(4), "offset": trainer.objective.offset}
    for kind, networks in (("network", trainer.runner.bare), ("average", trainer.averaged.networks)):
        found |= {f"{kind}/{n}.{k}": v for n, module in networks.items() for k, v in module.state_dict().items()}
    save_file({name: value.detach().clone().contiguous() for name, value in found.items()}, f"{out}.setup.{rank}")
    Path(f"{out}.{rank}").write_text(json.dumps(told))
    trainer.runtime.barrier()


def gathered(config_file: str, out: str, overrides: list[str]) -> None:
    """Gathers rows, and leaves the first and second derivatives of a function of all of them."""
    import warnings

    warnings.simplefilter("error")
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    own = torch.arange(1.0, 13.0, dtype=torch.float64).view(2, 2, 3)[rank].requires_grad_()
    whole = gather_with_gradient(own)
    (first,) = torch.autograd.grad(whole.square().sum(1).pow(3).sum(), own, create_graph=True)
    (second,) = torch.autograd.grad(gather_with_gradient(first).square().sum(), own)
    found = {"whole": whole.detach(), "first": first.detach(), "second": second.detach()}
    save_file({name: value.contiguous() for name, value in found.items()}, f"{out}.{rank}")
    dist.destroy_process_group()


OF_A_CONFIG = {
    "train": lambda config, out: gantk.train(config),
    **{each.__name__: each for each in (batches, drawn, opened, poison, reductions, unlogged)},
}
OF_A_FILE = {each.__name__: each for each in (boundaries, faults, gathered, gradients, states)}


def main() -> None:
    mode, config_file, out, *overrides = sys.argv[1:]
    if mode in OF_A_CONFIG:
        OF_A_CONFIG[mode](load_config(config_file, overrides), out)
    else:
        OF_A_FILE[mode](config_file, out, overrides)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
