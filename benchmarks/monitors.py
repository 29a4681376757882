"""What the monitors between evaluations cost: a look's processor time over that of the training between two looks.

python -m benchmarks.monitors --config configs/quickstart.yaml
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import records
from gantk.config import load_config
from gantk.training.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"))
    parser.add_argument("--steps", type=int, default=6, help="steps and looks that are timed, in turns")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GANTK_RUNS"] = folder
        quiet = ["tracking.wandb=disabled", "tracking.progress=false", "train.device=cpu", "train.threads=1"]
        trainer = Trainer(load_config(options.config, quiet))
        batch, log_every = trainer.config.train.batch_size, trainer.config.train.log_every_kimg
        trainer.train_step()
        # A look is due at a whole number of logging intervals; `measure` looks only then.
        interval = next(
            n * log_every * 1000 for n in range(1, 10_000) if trainer.monitor.due(round(n * log_every * 1000))
        )
        trainer.images = round(interval)
        trainer.monitor.measure(trainer)  # the look at real images, once
        steps, looks = [], []
        for _ in range(options.steps):
            start = time.process_time()
            trainer.train_step()
            middle = time.process_time()
            trainer.images = round(interval)
            trainer.monitor.measure(trainer)
            steps.append(middle - start)
            looks.append(time.process_time() - middle)
        trainer._record_end(None)
    step, look = statistics.median(steps), statistics.median(looks)
    share = look / (step * interval / batch)
    print(
        f"a look {look * 1000:.1f} ms, a step of {batch} images {step * 1000:.1f} ms, a look every {interval:.0f} images: "
        f"{share:.2%} of the training"
    )
    records.write("monitors", {"look_s": look, "step_s": step, "images_between_looks": interval, "share": share})


if __name__ == "__main__":
    main()
