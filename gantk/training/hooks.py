"""What happens between steps: logging, sample grids, evaluation, checkpoints. Each at its own interval in images."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from gantk.training.nonfinite import settle

if TYPE_CHECKING:
    from gantk.training.trainer import Trainer

log = logging.getLogger("gantk")


def passes(images: int, batch_size: int, every: float) -> bool:
    """Return whether the step that brought the images seen to `images` passed a multiple of `every`."""
    return math.floor(images / every + 1e-9) > math.floor((images - batch_size) / every + 1e-9)


class Hook:
    """Called after each step; acts when a multiple of `every_kimg` has been passed, and at the end."""

    at_end = True

    def __init__(self, every_kimg: float) -> None:
        self.every = every_kimg * 1000

    def due(self, trainer: Trainer) -> bool:
        if trainer.finished:
            return self.at_end
        return passes(trainer.images, trainer.config.train.batch_size, self.every)

    def after_step(self, trainer: Trainer) -> None:
        if self.due(trainer):
            self.act(trainer)

    def act(self, trainer: Trainer) -> None:
        raise NotImplementedError


class Logging(Hook):
    """Losses, beliefs, gradient norms, rates and speed: read from the device here, and nowhere else."""

    def act(self, trainer: Trainer) -> None:
        speed = trainer.images_per_second()
        watched = trainer.config.collapse.monitor
        if watched:
            trainer.monitor.measure(trainer)
        values = trainer.read_meter()
        rates = {f"{name}/lr": player.rate for name, player in trainer.runner.players.items()}
        values = {**values, **rates, "speed/images_per_second": speed}
        if trainer.runner.may_go_on:
            values |= {f"{name}/skipped": count for name, count in trainer.runner.watch.counts().items()}
        if trainer.runtime.is_main:
            trainer.tracker.log(trainer.kimg, values)
            trainer.progress.update(trainer.kimg, {name: v for name, v in values.items() if name.endswith("/loss")})
        settle(trainer, values)
        if watched and (sign := trainer.monitor.judge(values)) and trainer.runtime.is_main:
            log.warning("a sign of collapse at %g kimg: %s", trainer.kimg, sign)
        if trainer.runtime.is_main:
            trainer.status.update(step=trainer.step, kimg=trainer.kimg)


class Grids(Hook):
    """PNG grids of fixed latents, from the averaged generator."""

    def act(self, trainer: Trainer) -> None:
        trainer.reestimation.refresh(trainer)
        if trainer.runtime.is_main:
            path = trainer.folder / "samples" / f"{trainer.images:010d}.png"
            trainer.sampler.save_picture(trainer.config.samples.count, path)
            trainer.tracker.image(trainer.kimg, "samples", path)


class Evaluation(Hook):
    """The same evaluation as `gantk eval`'s, on all processes."""

    @property
    def at_end(self) -> bool:  # type: ignore[override]
        return self.wanted

    def __init__(self, every_kimg: float, total_kimg: float) -> None:
        super().__init__(every_kimg)
        self.wanted = every_kimg <= total_kimg

    def due(self, trainer: Trainer) -> bool:
        # The monitors may call it early; a run that is never evaluated is warned, and that is all.
        return super().due(trainer) or (self.wanted and trainer.monitor.wants_evaluation)

    def act(self, trainer: Trainer) -> None:
        trainer.evaluate()


class Checkpoints(Hook):
    """The newest few, and the best."""

    def act(self, trainer: Trainer) -> None:
        trainer.save()

    def due(self, trainer: Trainer) -> bool:
        # An evaluation that found the best model so far has its checkpoint at once, or there would be none of it.
        return super().due(trainer) or trainer.best_is_new
