"""Runs in each process of a test at world size 2: trains configs and leaves what the test compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

import gantk
from gantk.config import load_config
from gantk.training.phases import PhaseRunner
from gantk.training.trainer import Trainer


def main() -> None:
    mode, config_file, out, *overrides = sys.argv[1:]
    config = load_config(config_file, overrides)
    if mode == "train":
        gantk.train(config)
        return
    # mode "gradients": two steps of each game in the file `out`.json, with each phase's reduced gradient kept before its
    # update, and the buffers afterwards. One process for all of them, for starting it takes longer than they do.
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


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
