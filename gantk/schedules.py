"""Factors that follow the images seen: on learning rates, and on the weights of penalties."""

from __future__ import annotations

import math

from gantk.config.schema import ScheduleConfig


def schedule_factor(schedule: ScheduleConfig, images: int, total_kimg: float) -> float:
    """What a value is multiplied with after `images` real images of a run of `total_kimg` thousand."""
    kimg = images / 1000
    factor = 1.0
    if schedule.type != "constant":
        end = schedule.end_kimg if schedule.end_kimg is not None else total_kimg
        span = max(end - schedule.start_kimg, 1e-9)
        done = min(max((kimg - schedule.start_kimg) / span, 0.0), 1.0)
        shape = 1 - done if schedule.type == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        factor = schedule.final + (1 - schedule.final) * shape
    if schedule.warmup_kimg > 0:
        factor *= min(kimg / schedule.warmup_kimg, 1.0)
    return factor
