"""Duplicates: generated images that are much nearer to each other than real images ever are (the birthday paradox test
of Arora, Risteski & Zhang 2018, with a measured distance in place of a person's eye)."""

from __future__ import annotations

import numpy as np

from gantk_eval.collapse.calibration import PERMUTATIONS, Severity, TestResult, permutation_p
from gantk_eval.collapse.neighbours import nearest, nearest_distance

__all__ = ["duplicate_distance", "duplicates"]

NEIGHBOURS = 8
SUSPECT, COLLAPSED = 0.05, 0.2  # share of generated images that have a near-duplicate, beyond real's own
FEWEST = 100


def duplicate_distance(reference: np.ndarray) -> float:
    """The 0.1 % quantile of the distances of real images to their nearest other; at least 1 % of the median one.

    The second holds where real data has exact copies of its own, so that rounding is not taken for difference.
    """
    distances = nearest_distance(reference, reference, itself=True)
    return float(max(np.quantile(distances, 0.001), 0.01 * np.median(distances)))


def duplicates(
    fake: np.ndarray,
    heldout: np.ndarray,
    distance: float,
    *,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> TestResult:
    """The share of generated images with another generated image within `distance`, against that of held-out images.

    `fake` [n, d], `heldout` [m, d]: features. Null: which of the n + m images are the generated ones is exchangeable; the
    share is counted anew for each draw of n, in the graph of near-duplicates (8 nearest), which does not depend on it.
    Effect: the share beyond held-out's own.
    """
    count = len(fake)
    pool = np.concatenate([fake, heldout])
    distances, indices = nearest(pool, pool, NEIGHBOURS, itself=True)
    near = distances <= distance
    involved = np.flatnonzero(near.any(axis=1))
    graph = np.where(near, indices, len(pool))[involved]  # the last place stands for nobody

    member = np.zeros(len(pool) + 1, dtype=bool)
    member[:count] = True

    def share(chosen: np.ndarray) -> float:
        return float(np.count_nonzero(chosen[graph].any(axis=1) & chosen[involved]) / count)

    observed = share(member)
    generator = np.random.default_rng(seed)
    null = np.zeros(permutations)
    for number in range(permutations if len(involved) else 0):
        chosen = np.zeros(len(pool) + 1, dtype=bool)
        chosen[generator.permutation(len(pool))[:count]] = True
        null[number] = share(chosen)
    mine = ~member[:-1]
    real = np.count_nonzero((np.append(mine, False)[graph]).any(axis=1) & mine[involved]) / len(heldout)
    effect = observed - real
    severity: Severity = "collapsed" if effect >= COLLAPSED else "suspect" if effect >= SUSPECT else "none"
    result = TestResult(
        name="duplicates",
        statistic=observed,
        null_mean=float(null.mean()),
        effect=float(effect),
        p=permutation_p(observed, null),
        severity=severity,
    )
    fewest = min(count, len(heldout))
    if fewest < FEWEST:
        result.powerful = False
        result.weakness = f"{fewest} images are too few to look for duplicates; give at least {FEWEST}"
    if severity != "none":
        number, groups = _groups(graph, involved, count)
        result.reasons.append(
            f"{number:,} of {count:,} samples are near-duplicates of {groups:,} images "
            f"({real:.1%} of real images have a near-duplicate)"
        )
    return result


def _groups(graph: np.ndarray, involved: np.ndarray, count: int) -> tuple[int, int]:
    """How many generated images have a near-duplicate among the generated, and in how many clusters they lie."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows = np.repeat(involved, graph.shape[1])
    columns = graph.ravel()
    keep = (rows < count) & (columns < count)
    rows, columns = rows[keep], columns[keep]
    nodes = np.unique(np.concatenate([rows, columns]))
    if not len(nodes):
        return 0, 0
    edges = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    _, component = connected_components(edges, directed=False)
    return len(nodes), len(np.unique(component[nodes]))
