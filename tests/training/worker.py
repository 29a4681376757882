"""Runs in each process of a test at world size 2: trains a config and leaves what the test compares."""

from __future__ import annotations

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
    # mode "gradients": one step, with each phase's reduced gradient kept before its update.
    kept: dict[str, torch.Tensor] = {}
    update = PhaseRunner._update

    def keep(self, phase, player):  # type: ignore[no-untyped-def]
        for name, parameter in player.named.items():
            kept[f"{phase.name}/{name}"] = parameter.grad.detach().clone().contiguous()
        update(self, phase, player)

    PhaseRunner._update = keep  # type: ignore[method-assign]
    trainer = Trainer(config)
    trainer.train_step()
    if trainer.runtime.is_main:
        save_file(kept, out)
    trainer.runtime.barrier()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
