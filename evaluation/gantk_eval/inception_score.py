"""The Inception Score (Salimans et al. 2016), by torch-fidelity's arithmetic in float64."""

from __future__ import annotations

import numpy as np

from gantk_eval.errors import DataError

__all__ = ["SPLITS", "inception_score"]

SPLITS = 10


def inception_score(logits: np.ndarray, *, splits: int = SPLITS) -> tuple[float, float]:
    """exp(E KL(p(y|x) || p(y))): mean and standard deviation (ddof=0) over `splits` parts of the shuffled samples.

    `logits`: [n, classes]; the permutation is `RandomState(2020)`'s, as in torch-fidelity, which is called here.
    Raises DataError where n < splits: torch-fidelity would return NaN without a word.
    """
    if len(logits) < splits:
        raise DataError(
            f"the Inception Score takes {splits} splits, and there are {len(logits)} images; give at least {splits}"
        )
    import torch
    from torch_fidelity.metric_isc import isc_features_to_metric

    scores = isc_features_to_metric(torch.from_numpy(np.asarray(logits, dtype=np.float64)), splits=splits)
    return float(scores["inception_score_mean"]), float(scores["inception_score_std"])
