"""Are the samples like real images at all? Where they are not, their classes say nothing about lost modes."""

from __future__ import annotations

import numpy as np

from gantk_eval.collapse.neighbours import nearest_distance

__all__ = ["FEWEST_REALISTIC", "realism"]

FEWEST_REALISTIC = 0.5
"""Below this share of realistic samples modes are not judged."""


def realism(fake: np.ndarray, heldout: np.ndarray, reference: np.ndarray) -> float:
    """The share of generated images as near to a reference image as 95 % of held-out images are (0.95 for real ones).

    Features [n, d], [m, d], [r, d], best of a classifier. It measures fidelity, not diversity: copies of one good image
    have a realism of 1.
    """
    limit = np.quantile(nearest_distance(heldout, reference), 0.95)
    return float(np.mean(nearest_distance(fake, reference) <= limit))
