"""Adaptation of an objective: means over an interval of its own, whatever is logged, and when."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gantk.objectives import Objective
from gantk.training.hooks import passes
from gantk.training.meter import Meter

if TYPE_CHECKING:
    from gantk.training.trainer import Trainer


class Adaptation:
    """Calls `Objective.adapt` each time a multiple of `every_kimg` has been passed.

    An objective that does not adapt costs nothing.
    """

    def __init__(self, objective: Objective, every_kimg: float) -> None:
        self.every = every_kimg * 1000
        self.meter = Meter() if type(objective).adapt is not Objective.adapt else None
        """Values that the phases reported since the last call."""

    def after_step(self, trainer: Trainer) -> None:
        if self.meter is None or not passes(trainer.images, trainer.config.train.batch_size, self.every):
            return
        means = self.meter.read(trainer.runtime)
        # A value that is not finite would stay in what is adapted for ever.
        if all(map(math.isfinite, means.values())):
            trainer.objective.adapt(trainer.images, means)
