"""Are the samples like real images at all? Where they are not, their classes say nothing about lost modes."""

from __future__ import annotations

import numpy as np

__all__ = [
    "FEWEST_CERTAIN",
    "FEWEST_REALISTIC",
    "FURTHEST_SHIFT",
    "WIDEST_CLASS",
    "certain_share",
    "clarity",
    "realistic_share",
]

FEWEST_REALISTIC = 0.5
"""Below this share of realistic samples modes are not judged."""
FURTHEST_SHIFT = 0.25
"""Nor are they where classes have moved half of the way, squared, to the next (`label_shift.class_shift`)."""
WIDEST_CLASS = 2.0
"""Nor where samples lie so many times as far, squared, from the middle of their class (`label_shift.class_distance`)."""

FEWEST_CERTAIN = 0.25
"""Nor where a smaller share of samples is as clearly of its class as the middle one of real images (`certain_share`): a class
that has no samples may be one that the generator cannot draw well enough to be recognised."""


def certain_share(
    fake_logits: np.ndarray, heldout_logits: np.ndarray, fake_classes: np.ndarray, heldout_classes: np.ndarray
) -> float:
    """The share of samples whose class is more probable than that of the median held-out image of the same class.

    0.5 for real images, whatever classes there are: it measures how clearly a sample shows something, and no diversity.
    Logits [n, K], [m, K]; classes [n], [m] as recognised. Samples of a class that no held-out image has count as certain.
    """
    ours, theirs = (clarity(logits) for logits in (fake_logits, heldout_logits))
    median = np.full(fake_logits.shape[1], -np.inf)
    for each in np.unique(heldout_classes):
        median[each] = np.median(theirs[heldout_classes == each])
    bound = median[fake_classes]
    # A classifier that is certain of everything says 0 of all: then ties are halved, as they are among real images.
    return float(np.mean(ours > bound) + 0.5 * np.mean(ours == bound))


def clarity(logits: np.ndarray) -> np.ndarray:
    """The log-probability of the most probable class, float64 [n], from logits [n, K]."""
    top = logits.max(axis=1, keepdims=True)
    return -np.log(np.exp((logits - top).astype(np.float64)).sum(axis=1))


def realistic_share(fake: np.ndarray, heldout: np.ndarray) -> float:
    """The share of generated images as near to a reference image as 95 % of held-out images are (0.95 for real ones), from the
    distances [n], [m] to the nearest reference image.

    It measures fidelity, not diversity: copies of one good image have a share of 1.
    """
    return float(np.mean(fake <= np.quantile(heldout, 0.95)))
