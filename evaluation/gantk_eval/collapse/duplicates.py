"""Duplicates: generated images that are much nearer to each other than real images ever are (the birthday paradox test
of Arora, Risteski & Zhang 2018, with a measured distance in place of a person's eye)."""

from __future__ import annotations

import numpy as np

from gantk_eval.collapse.calibration import Reason, Relabellings, TestResult, result_of
from gantk_eval.collapse.neighbours import close_pairs, nearest_other

__all__ = ["clusters", "duplicate_distance", "duplicates"]

NEIGHBOURS = 8
SUSPECT, COLLAPSED = 0.05, 0.2  # share of generated images that have a near-duplicate, beyond real's own
FEWEST = 100


def duplicate_distance(reference: np.ndarray) -> float:
    """The 0.1 % quantile of the distances of real images to their nearest other; at least 1 % of the median one.

    The second holds where real data has exact copies of its own, so that rounding is not taken for difference.
    """
    distances = nearest_other(reference)
    return float(max(np.quantile(distances, 0.001), 0.01 * np.median(distances)))


def duplicates(fake: np.ndarray, heldout: np.ndarray, distance: float, relabellings: Relabellings) -> TestResult:
    """The share of generated images with another generated image within `distance`, against that of held-out images.

    `fake` [n, d], `heldout` [m, d]: features. Under a relabelling the share is counted anew, in the graph of
    near-duplicates (8 nearest), which does not depend on it. Effect: the share beyond held-out's own.
    """
    count = len(fake)
    first, second = close_pairs(np.concatenate([fake, heldout]), distance, NEIGHBOURS)
    shares = np.zeros(len(relabellings.members))
    if len(first):
        starts = np.flatnonzero(np.diff(first, prepend=-1))
        for row, member in enumerate(relabellings.members):
            near = np.maximum.reduceat(member[second], starts)
            shares[row] = np.count_nonzero(near * member[first[starts]]) / count
    among_real = (first >= count) & (second >= count)
    real = len(np.unique(first[among_real])) / len(heldout)
    result = result_of(
        "duplicates", shares, effect=shares[0] - real, suspect=SUSPECT, collapsed=COLLAPSED, needs="nothing"
    )
    fewest = min(count, len(heldout))
    if fewest < FEWEST:
        result.powerful = False
        result.weakness = f"{fewest} images are too few to look for duplicates; give at least {FEWEST}"
    if result.severity != "none":
        groups = clusters(fake, first, second, distance)
        images = f"{len(groups):,} image" + ("" if len(groups) == 1 else "s")
        result.reasons.append(
            Reason(
                "duplicates",
                f"{sum(map(len, groups)):,} of {count:,} samples are near-duplicates of {images} "
                f"({real:.1%} of real images have a near-duplicate)",
            )
        )
    return result


def clusters(fake: np.ndarray, first: np.ndarray, second: np.ndarray, distance: float) -> list[np.ndarray]:
    """Groups of generated images that look like one image, rows of `fake` [n, d], the largest group first.

    `first`, `second`: pairs within `distance` (those with an index of n or more are passed over). Each group is what lies
    within `distance` of one of its images that no earlier group has, begun at the image with the most near ones. Chains of
    pairs are no groups: their ends may have nothing in common. What a chain leaves over is a group of one.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(fake)
    keep = (first < count) & (second < count)
    rows, columns = first[keep], second[keep]
    nodes = np.unique(np.concatenate([rows, columns]))
    if not len(nodes):
        return []
    edges = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    _, component = connected_components(edges, directed=False)
    crowd = np.bincount(rows, minlength=count) + np.bincount(columns, minlength=count)
    order = nodes[np.argsort(component[nodes], kind="stable")]
    groups: list[np.ndarray] = []
    for chain in np.split(order, np.flatnonzero(np.diff(component[order])) + 1):
        left = chain[np.argsort(-crowd[chain], kind="stable")]
        while len(left):
            near = np.square(fake[left] - fake[left[0]]).sum(axis=1, dtype=np.float64) <= distance * distance
            near[0] = True
            groups.append(np.sort(left[near]))
            left = left[~near]
    return sorted(groups, key=lambda group: (-len(group), int(group[0])))
