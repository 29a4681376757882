"""Are the samples like real images at all? Where they are not, their classes say nothing about lost modes."""

from __future__ import annotations

import numpy as np

from gantk_eval.collapse.neighbours import nearest_distance

__all__ = ["FEWEST_REALISTIC", "FURTHEST_SHIFT", "WIDEST_CLASS", "realism", "realistic_share"]

FEWEST_REALISTIC = 0.5
"""Below this share of realistic samples modes are not judged."""
FURTHEST_SHIFT = 0.25
"""Nor are they where classes have moved half of the way, squared, to the next (`label_shift.class_shift`)."""
WIDEST_CLASS = 2.0
"""Nor where samples lie so many times as far, squared, from the middle of their class (`label_shift.class_distance`)."""


def realism(fake: np.ndarray, heldout: np.ndarray, reference: np.ndarray) -> float:
    """The share of generated images as near to a reference image as 95 % of held-out images are (0.95 for real ones).

    Features [n, d], [m, d], [r, d], best of a classifier. It measures fidelity, not diversity: copies of one good image
    have a realism of 1.
    """
    return realistic_share(nearest_distance(fake, reference), nearest_distance(heldout, reference))


def realistic_share(fake: np.ndarray, heldout: np.ndarray) -> float:
    """`realism` from the distances [n], [m] to the nearest reference image."""
    return float(np.mean(fake <= np.quantile(heldout, 0.95)))
