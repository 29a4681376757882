"""What a person should look at to believe a verdict: which images, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gantk_eval.collapse.classes import mode_name
from gantk_eval.collapse.coverage import NEIGHBOURS as BALL
from gantk_eval.collapse.duplicates import NEIGHBOURS, clusters
from gantk_eval.collapse.known import Known
from gantk_eval.collapse.neighbours import close_pairs, kth_other, nearest_distance
from gantk_eval.collapse.verdict import Evidence, Judgement, deep_features, places

__all__ = ["Alike", "Exhibit", "exhibit"]

ROWS = 8
CLASSES = 3
IN_ROW = 12
POINTS = 2000


@dataclass(frozen=True)
class Alike:
    """A class without variety: its `name`; `samples`: rows of the generated images of it, as they come; `lacking`: rows of the
    reference, real images of the class that none of its samples is as near as the fifth real one."""

    name: str
    samples: np.ndarray
    lacking: np.ndarray


@dataclass(frozen=True)
class Exhibit:
    """`missing`: entries of the verdict's `missing`, each with rows of the *reference* that show what is missing, under
    `heading`; `kind` of mode each is, where its name does not say so.
    `alike`: classes without variety.
    `clusters`: of near-duplicates, rows of the generated images; `in_clusters`: how many lie in any. `samples`: rows of the
    generated images as they come, to be looked at beside `others`, rows of the reference as they come; none where neither a
    finding nor their quality is to be seen in them. (Without `others` they take the place of the map.) `real` [m, 2], `fake`
    [n, 2]: held-out and generated features on the reference's two longest principal axes."""

    missing: list[tuple[dict[str, Any], np.ndarray]] = field(default_factory=list)
    alike: list[Alike] = field(default_factory=list)
    clusters: list[np.ndarray] = field(default_factory=list)
    in_clusters: int = 0
    samples: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    others: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    real: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    fake: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    heading: str = "Missing or starved: real images of what the samples lack"
    kind: str = "class"


def exhibit(
    evidence: Evidence, judgement: Judgement, known: Known, reference_labels: np.ndarray | None = None
) -> Exhibit:
    """Picks the images for a verdict on `evidence`; `reference_labels` [r] show what a lost class looks like."""
    names = evidence.classes.class_names if evidence.classes is not None else None
    missing = []
    for entry in judgement.missing[:ROWS]:
        rows = _rows_of(str(entry["mode"]), len(evidence.fake), known, reference_labels, names)
        if len(rows):
            missing.append((entry, rows[:IN_ROW]))
    groups: list[np.ndarray] = []
    if "duplicates" in judgement.kinds:
        mine = places(len(evidence.fake), 0)
        pairs = close_pairs(evidence.fake[mine], judgement.duplicate_distance, NEIGHBOURS)
        groups = [mine[group] for group in clusters(evidence.fake[mine], *pairs, judgement.duplicate_distance)]
    fake, real, _ = deep_features(evidence)
    mean, axes = known.map_axes
    return Exhibit(
        missing,
        [_alike(number, evidence, known) for number in judgement.alike[:CLASSES]],
        [group for group in groups[:ROWS] if len(group) > 1],
        sum(len(group) for group in groups),
        # They are generated once more, where there is something to be seen in them.
        evenly(len(evidence.fake)) if judgement.kinds or judgement.unreal else np.empty(0, dtype=np.int64),
        known.rows[evenly(len(known.rows))],
        (real[:POINTS] - mean) @ axes,
        (fake[:POINTS] - mean) @ axes,
    )


def _alike(number: int, evidence: Evidence, known: Known) -> Alike:
    """By what samples and real images are recognised as, in the features that the tests of single classes look at."""
    classes = evidence.classes
    assert classes is not None
    fake, known_real = (evidence.fake, known.looks) if evidence.deep is None else (evidence.deep[0], known.deep)
    judged = places(len(fake), 0)
    mine = judged[classes.fake_classes[judged] == number]
    real = np.flatnonzero(classes.reference_classes[known.rows] == number)[:POINTS]
    lacking = np.empty(0, dtype=np.int64)
    if len(mine) and len(real) > 1:
        features = known_real[real]
        lacking = real[nearest_distance(features, fake[mine]) > kth_other(features, BALL)]
    name = mode_name(number, classes.class_names)
    return Alike(name, mine[evenly(len(mine))], known.rows[lacking[evenly(len(lacking))]])


def evenly(count: int) -> np.ndarray:
    """A row of places, spread evenly over `count`."""
    if not count:
        return np.empty(0, dtype=np.int64)
    return np.unique(np.linspace(0, count - 1, IN_ROW).round().astype(np.int64))


def _rows_of(mode: str, count: int, known: Known, labels: np.ndarray | None, names: Sequence[str] | None) -> np.ndarray:
    """Reference rows in a region (the middle of it first) or of a class."""
    if mode.startswith("region "):
        cells, number = known.bins(min(count, len(places(count, 0)))), int(mode.removeprefix("region "))
        inside = np.flatnonzero(cells.assign(known.deep) == number)
        far = np.square(known.deep[inside] - cells.centers[number]).sum(axis=1)
        return known.rows[inside[np.argsort(far)]]
    if labels is None:
        return np.empty(0, dtype=np.int64)
    number = list(names).index(mode) if names is not None and mode in names else int(mode)
    return np.flatnonzero(labels == number)
