"""Pair distance: how far two random samples are from each other, against two random real images."""

from __future__ import annotations

import numpy as np

from gantk_eval.collapse.calibration import Reason, Relabellings, TestResult, result_of

__all__ = ["pair_distance"]

SUSPECT, COLLAPSED = 0.3, 0.6  # 1 − distance / real distance


def pair_distance(pool: np.ndarray, contrast: float, relabellings: Relabellings) -> TestResult:
    """The root mean square distance over *all* pairs of samples, which is √(2 tr Σ): no pairs are drawn, none is noise.

    `pool` [n + m, d]: features of generated, then held-out images. `contrast`: as of `spread.Traces`, in squared units; the
    effect leaves out what faint images lose by being faint. Noise adds to the distance, so noisy samples can hide a loss.
    """
    count = relabellings.generated
    values = (pool - pool.mean(axis=0)).astype(np.float32)
    sums = relabellings.sums(np.concatenate([values, np.square(values).sum(axis=1, keepdims=True)], axis=1)) / count
    traces = np.maximum(sums[:, -1] - np.square(sums[:, :-1]).sum(axis=1), 0.0) * count / max(count - 1, 1)
    real = pool[count:].var(axis=0, ddof=1).sum()
    ratio = np.sqrt(traces[0] / max(float(real), 1e-30))
    result = result_of(
        "pair_distance",
        -np.sqrt(2.0 * traces),
        effect=1.0 - ratio / np.sqrt(contrast),
        suspect=SUSPECT,
        collapsed=COLLAPSED,
        needs="appearance",
    )
    if result.severity != "none":
        text = f"two samples are {ratio:.0%} as far apart as two real images are"
        result.reasons.append(Reason("diversity", text))
    return result
