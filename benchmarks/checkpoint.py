"""How long training stands still for a checkpoint of a 64-px DCGAN: `python -m benchmarks.checkpoint`.

The save is timed as the training loop sees it (`Trainer.save`), and beside it the same save with its writing waited for, in
turns; then a step while a checkpoint is written, beside a step without. Each turn is checked for neighbours: see `timing`.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import records
from benchmarks.timing import Turn, timed
from gantk.config import parse_config
from gantk.training.trainer import Trainer


def measure(saves: int = 5, batch_size: int = 128) -> dict[str, float]:
    """Milliseconds of wall time, over `saves` saves of each kind, and the share of processors that others used meanwhile."""
    with tempfile.TemporaryDirectory() as place:
        os.environ |= {"GANTK_RUNS": f"{place}/runs", "GANTK_CACHE": f"{place}/cache"}
        images = np.random.default_rng(0).integers(0, 256, (max(600, 2 * batch_size), 64, 64, 3), dtype=np.uint8)
        np.savez(f"{place}/images.npz", images=images)
        trainer = Trainer(
            parse_config(
                {
                    "name": "stall",
                    "data": {"source": "npz", "path": f"{place}/images.npz", "resolution": 64},
                    "network": {"type": "dcgan"},
                    "objective": {"type": "gan"},
                    "train": {"kimg": 1000, "batch_size": batch_size},
                    "evaluate": {"every_kimg": 10000},
                    "tracking": {"wandb": "disabled", "progress": False},
                }
            )
        )

        def waited_for() -> None:
            trainer.save()
            trainer.await_save()

        stalls: list[Turn] = []
        foreground: list[Turn] = []
        beside: list[Turn] = []
        alone: list[Turn] = []
        trainer.train_step()
        for _ in range(saves):
            alone.append(timed(trainer.train_step))
            stalls.append(timed(trainer.save))
            beside.append(timed(trainer.train_step))
            trainer.await_save()
            foreground.append(timed(waited_for))
        folder = sorted((Path(place) / "runs" / "stall" / "checkpoints").iterdir())[-1]
        size = sum(path.stat().st_size for path in folder.iterdir())
        trainer._record_end(None)

    def median(turns: list[Turn]) -> float:
        return round(1e3 * statistics.median(turn.wall for turn in turns), 1)

    return {
        "checkpoint_megabytes": round(size / 1e6, 1),
        "stall_ms_median": median(stalls),
        "stall_ms_worst": round(1e3 * max(turn.wall for turn in stalls), 1),
        "waited_for_ms_median": median(foreground),
        "step_ms_median": median(alone),
        "step_beside_a_write_ms_median": median(beside),
        "others_share_of_processors_median": round(
            statistics.median(turn.others for turn in (*stalls, *foreground, *beside, *alone)), 3
        ),
    }


if __name__ == "__main__":
    figures = measure()
    for name, value in figures.items():
        print(f"{name:36} {value}")
    print(records.write("checkpoint", figures))
