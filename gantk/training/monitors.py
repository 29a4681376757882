"""Cheap signs of collapse between evaluations: they judge nothing, but can call the evaluation that does."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from gantk.training.trainer import Trainer

log = logging.getLogger("gantk")

SAMPLES = 64
"""Fixed samples that are looked at each time."""
REAL = 256
"""Real images that they are compared with, once."""
EVERY_KIMG = 2.0
"""At most one look in so many thousand images: 64 samples through the generator alone are then below 1 % of the training."""
CELLS = 8
"""Images are compared on a grid of 8×8 means: a sign must be cheap, and noise must not count as variety."""
DIVERSITY, DUPLICATES = 0.5, 0.2
"""Signs: less than half of the real images' mean distance; a fifth of the samples as near to another as 1 % of the real."""
REAL_BELIEF, FAKE_BELIEF = 0.99, 0.01
"""A sign: the discriminator is certain of real and of generated images alike."""


def coarse(samples: Tensor) -> Tensor:
    """[N, C, H, W] → float32 [N, D]: means over a grid of at most 8×8 cells."""
    cells = (min(CELLS, samples.shape[2]), min(CELLS, samples.shape[3]))
    return F.adaptive_avg_pool2d(samples.float(), cells).flatten(1)


def nearest(features: Tensor) -> Tensor:
    """The distance of each row of [N, D] to its nearest other, [N]."""
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.fill_diagonal_(math.inf).amin(1)


def mean_distance(features: Tensor) -> Tensor:
    """The mean distance of two different rows of [N, D], a scalar."""
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.sum() / (len(features) * (len(features) - 1))


def _signs(diversity: float, duplicates: float) -> list[str]:
    """The signs of a lack of variety, in words."""
    signs = []
    if not diversity >= DIVERSITY:
        signs.append(f"the fixed samples differ {diversity:.2g} times as much as real images do")
    if not duplicates <= DUPLICATES:
        signs.append(f"{duplicates:.0%} of the fixed samples are near-duplicates (1 % of real images are)")
    return signs


class Monitor:
    """Looks at a few fixed samples now and then, and at what the discriminator believes.

    What it measures goes to the meter as tensors on the device and is read with everything else, so nothing waits for it.
    All processes measure, and judge the means over processes: they come to the same conclusion.
    """

    def __init__(self, log_every_kimg: float) -> None:
        self._log_every = log_every_kimg
        self._every = max(1, math.ceil(EVERY_KIMG / log_every_kimg - 1e-9))
        self._real: tuple[Tensor, Tensor] | None = None
        self.varied = False
        """True where the samples have ever been varied, as a look or a verdict says: what never was cannot be lost."""
        self.armed = False
        """True where the samples have been varied since the last sign: before that, a lack of variety is nothing new."""
        self.belief_armed = True
        """Whether the discriminator has been uncertain since its certainty last called an evaluation."""
        self.wants_evaluation = False

    def state(self) -> dict[str, Any]:
        return {
            "varied": self.varied,
            "armed": self.armed,
            "belief_armed": self.belief_armed,
            "wants_evaluation": self.wants_evaluation,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.armed, self.wants_evaluation = bool(state.get("armed")), bool(state.get("wants_evaluation"))
        self.varied = bool(state.get("varied", self.armed))
        self.belief_armed = bool(state.get("belief_armed", True))

    def due(self, images: int) -> bool:
        """Whether this logging interval is one with a look; it depends on the number of images alone."""
        return math.floor(images / (self._log_every * 1000) + 1e-9) % self._every == 0

    @torch.no_grad()
    def measure(self, trainer: Trainer) -> None:
        """Adds `monitor/diversity` and `monitor/duplicates` to the meter, where a look is due."""
        if not self.due(trainer.images):
            return
        diversity, duplicates = self._look(trainer)
        trainer.runner.meter.add("monitor/diversity", diversity)
        trainer.runner.meter.add("monitor/duplicates", duplicates)

    @torch.no_grad()
    def note_variety(self, trainer: Trainer) -> bool:
        """Before an evaluation: whether the samples are varied, or once were. Waits for the device, until they once were."""
        if not self.varied:
            diversity, duplicates = self._look(trainer)
            self.varied = not _signs(float(diversity), float(duplicates))
        return self.varied

    def _look(self, trainer: Trainer) -> tuple[Tensor, Tensor]:
        """Diversity and the share of near-duplicates of the fixed samples, scalars on the device."""
        if self._real is None:
            self._real = self._look_at_real(trainer)
        real_distance, near = self._real
        samples = coarse(trainer.sampler.raw(np.arange(SAMPLES), trainer.sampler.labels(np.arange(SAMPLES))))
        return mean_distance(samples) / real_distance, (nearest(samples) <= near).float().mean()

    def _look_at_real(self, trainer: Trainer) -> tuple[Tensor, Tensor]:
        """The mean distance of real images, and that below which 1 % of them have a neighbour among as many as are looked at."""
        count = min(REAL, len(trainer.dataset.train))
        features = coarse(trainer.batches.main.take(torch.arange(count), None).images)
        groups = features.split(min(SAMPLES, count))
        distances = torch.cat([nearest(group) for group in groups if len(group) > 1])
        return mean_distance(features).clamp_min(1e-12), distances.quantile(0.01)

    def judge(self, values: Mapping[str, float]) -> str | None:
        """From the values of a logging interval: the sign that calls for an evaluation now, in words, or None.

        A sign calls once; then the samples must have been varied, or the discriminator uncertain, again.
        """
        signs: list[str] = []
        diversity, duplicates = values.get("monitor/diversity"), values.get("monitor/duplicates")
        if diversity is not None and duplicates is not None:
            signs = _signs(diversity, duplicates)
            self.varied, self.armed = self.varied or not signs, self.armed or not signs
        certain: list[str] = []
        for name, real in values.items():
            if name.endswith("/real") and (phase := name.removesuffix("/real")) + "/fake" in values:
                fake = values[f"{phase}/fake"]
                if REAL_BELIEF <= real <= 1 and 0 <= fake <= FAKE_BELIEF:
                    certain.append(f"the discriminator is certain (real {real:.3f}, generated {fake:.3f})")
        told = [*signs, *(certain if self.belief_armed else [])] if self.armed else []
        if not certain:
            self.belief_armed = True
        if not told:
            return None
        self.armed, self.belief_armed = self.armed and not signs, self.belief_armed and not certain
        self.wants_evaluation = True
        return "; ".join(told)
