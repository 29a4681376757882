"""The kernel distance (KID, Bińkowski et al. 2018), by torch-fidelity's arithmetic in float64."""

from __future__ import annotations

import numpy as np

from gantk_eval.errors import DataError

__all__ = ["SUBSETS", "SUBSET_SIZE", "kernel_distance"]

SUBSETS = 100
SUBSET_SIZE = 1000


def kernel_distance(
    fake: np.ndarray, reference: np.ndarray, *, subset_size: int = SUBSET_SIZE, subsets: int = SUBSETS
) -> tuple[float, float]:
    """The unbiased squared MMD with kernel (x·y/d + 1)³: mean and standard deviation (ddof=0) over random subsets.

    `fake` [n, d], `reference` [m, d]; drawn by `RandomState(2020)` as in torch-fidelity, which is called here, on float64
    (in float32, its usual input, it is 2e-4 to 2e-3 off). Unbiased, so a value just below zero is right for a good model.
    Raises DataError where either side has fewer images than `subset_size`, or that is below 2.
    """
    fewest = min(len(fake), len(reference))
    if subset_size < 2:
        raise DataError(f"KID's subset size is {subset_size}; give at least 2 (--kid-subset-size)")
    if fewest < subset_size:
        raise DataError(
            f"KID takes subsets of {subset_size} images, and there are {fewest}; give more images or a smaller subset "
            f"(--kid-subset-size {fewest})"
        )
    import torch
    from torch_fidelity.metric_kid import kid_features_to_metric

    scores = kid_features_to_metric(
        torch.from_numpy(np.asarray(fake, dtype=np.float64)),
        torch.from_numpy(np.asarray(reference, dtype=np.float64)),
        kid_subsets=subsets,
        kid_subset_size=subset_size,
        verbose=False,
    )
    return float(scores["kernel_inception_distance_mean"]), float(scores["kernel_inception_distance_std"])
