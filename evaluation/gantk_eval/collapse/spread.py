"""Spread: within-mode shrinkage.

It shows in the variance around the mean of each mode, in features of an image's layout and colour; on their coarsest axes,
which blur and noise hardly touch. Fading shrinks it too: an image without contrast lies near every other. So it is told beside
what is left of the *modes' own* contrast, which fading takes away as well, and collapse does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gantk_eval.collapse.calibration import Reason, Relabellings, TestResult, result_of, would_notice

__all__ = ["Traces", "mode_traces", "within_mode"]

AXES = 16
"""Principal axes that are looked at: the coarse ones, which blur and noise hardly touch."""
SUSPECT, COLLAPSED = 0.5, 0.8  # share of the variance within a mode that is gone
FEWEST = 10


@dataclass(frozen=True)
class Traces:
    """Of K modes under each relabelling: `members` [1 + B, K], `variance` [1 + B, K] (trace of the covariance matrix), the
    held-out images' own `real` [K] with `heldout` [K] images, and `contrast`: the squared distance of the generated modes'
    means from the mean of all, as a share (at most 1) of what held-out images have in the same modes."""

    members: np.ndarray
    variance: np.ndarray
    real: np.ndarray
    heldout: np.ndarray
    contrast: float


def mode_traces(pool: np.ndarray, modes: np.ndarray, number: int, relabellings: Relabellings) -> Traces:
    """The variances within modes of `pool` [n + m, d] (generated, then held-out), whose modes are `modes` [n + m]."""
    count = relabellings.generated
    features = (pool[:, :AXES] - pool[count:, :AXES].mean(axis=0)).astype(np.float32)
    rows = len(relabellings.members)
    members, variance = np.zeros((rows, number)), np.zeros((rows, number))
    real, heldout = np.zeros(number), np.zeros(number)
    kept = there = 0.0
    for mode in range(number):
        inside = np.flatnonzero(modes == mode)
        if not len(inside):
            continue
        values = features[inside]
        center = values.mean(axis=0)  # of all: sums of squares around a far origin would lose their last digits
        values = values - center
        columns = np.concatenate(
            [np.ones((len(values), 1)), values, np.square(values).sum(axis=1, keepdims=True)], axis=1
        )
        columns = columns.astype(np.float32)
        sums = np.concatenate([block @ columns for block in relabellings.blocks(inside)]).astype(np.float64)
        size = np.maximum(sums[:, 0], 1.0)
        members[:, mode] = sums[:, 0]
        inner = sums[:, -1] / size - np.square(sums[:, 1:-1] / size[:, None]).sum(axis=1)
        variance[:, mode] = np.maximum(inner, 0.0) * size / np.maximum(size - 1.0, 1.0)
        mine = inside >= count
        heldout[mode] = mine.sum()
        if heldout[mode] > 1:
            real[mode] = values[mine].var(axis=0, ddof=1).sum()
            if members[0, mode] > 0:
                far = np.square(values[~mine].mean(axis=0) + center).sum()
                kept += members[0, mode] * min(far, 4.0 * np.square(values[mine].mean(axis=0) + center).sum())
                there += members[0, mode] * np.square(values[mine].mean(axis=0) + center).sum()
    contrast = min(1.0, kept / there) if there > 0 else 1.0
    return Traces(members, variance, real, heldout, max(contrast, 1e-6))


def within_mode(traces: Traces) -> TestResult:
    """Whether samples huddle around the middle of their modes: the variance within modes, averaged over all of them.

    Statistic: −log of Σ w_k tr_k, weights by how many of the generated are in mode k. Effect: 1 − the ratio to held-out
    images. Where faded images alone would explain it (the modes' own contrast is gone as well), it is at most `suspect`.
    """
    weights = traces.members[0] * (traces.heldout > 1)
    weights = weights / max(weights.sum(), 1.0)
    inner = traces.variance @ weights
    statistics = -np.log(np.maximum(inner, 1e-30))
    ratio = inner[0] / max(float(traces.real @ weights), 1e-30)
    result = result_of(
        "within_mode", statistics, effect=1.0 - ratio, suspect=SUSPECT, collapsed=COLLAPSED, needs="appearance"
    )
    if result.severity == "collapsed" and 1.0 - ratio / traces.contrast < COLLAPSED:
        result.severity = "suspect"
    if result.severity != "none":
        text = (
            f"within modes, samples vary by {ratio:.0%} of what real images do, while the modes keep {traces.contrast:.0%} "
            "of their contrast (within-mode shrinkage)"
        )
        result.reasons.append(Reason("shrinkage", text))
    result.powerful = would_notice(statistics, float(-np.log(np.maximum(inner[1:].mean() * 0.5, 1e-30))))
    if not result.powerful:
        result.weakness = "so few samples that half of the variance within modes could be lost unnoticed; generate more"
    return result
