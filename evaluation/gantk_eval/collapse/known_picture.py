"""The picture for a verdict where modes are known: points in the plane, or stacks of real digits that are not generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gantk_eval.collapse.exhibit import IN_ROW, ROWS, Exhibit
from gantk_eval.collapse.picture import FAKE, GAP, INK, LINE, MAP, MARGIN, PALE, REAL, WIDTH, as_png, begin, write
from gantk_eval.mixture import HIGH_QUALITY, Mixture

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

__all__ = ["Mark", "draw_points", "stacks_to_show"]

PLANE = WIDTH - 3 * MARGIN - MAP
ABOUT = 6.0
"""σ to each side of a mode."""
LOST, SHRUNKEN = (30, 70, 170), (130, 40, 150)
SAMPLES, SEED = 64, 90210
MOST, FEWEST_REAL = 5000, 500
"""Points that are drawn."""


@dataclass(frozen=True)
class Mark:
    """A mode to circle, and the lines under it."""

    mode: int
    lines: tuple[str, ...]
    lost: bool
    """Whether it is lost or starved; else it has shrunk."""


def draw_points(
    verdict: str, reasons: Sequence[str], points: np.ndarray, mixture: Mixture, marks: Sequence[Mark]
) -> bytes:
    """The picture as PNG: generated `points` [n, 2] over those of a perfect sampler, in the plane and about their modes."""
    finite = points[np.isfinite(points).all(axis=1)]
    generated = finite[:MOST]
    real = mixture.sample(max(len(generated), FEWEST_REAL), np.random.default_rng(SEED))
    canvas, pen, top = begin(verdict, reasons, 2 * LINE + PLANE + LINE)
    right, below = 2 * MARGIN + PLANE, top + 2 * LINE + GAP

    calm = "no mode is lost, starved or shrunken" if verdict == "ok" else "no mode is marked"
    circled = "circled: lost and starved modes (blue; samples seen of expected), shrunken ones (purple)"
    write(pen, (MARGIN, top), "Points of a perfect sampler (grey) and generated ones (red)", INK, 13)
    write(pen, (MARGIN, top + LINE), circled if marks else calm, PALE, 12)
    plane = _Panel(pen, MARGIN, top + 2 * LINE, PLANE, mixture.extent)
    plane.scatter(real, REAL)
    plane.scatter(generated, FAKE)
    radius = HIGH_QUALITY * mixture.std
    for mode in dict.fromkeys(mark.mode for mark in marks):
        mine = [mark for mark in marks if mark.mode == mode]
        plane.circle(mixture.means[mode], radius, LOST if mine[0].lost else SHRUNKEN)
        lines = {line: LOST if mark.lost else SHRUNKEN for mark in reversed(mine) for line in mark.lines}
        plane.label(mixture.means[mode], radius, lines)
    outside = np.count_nonzero(np.abs(generated).max(axis=1, initial=0.0) > mixture.extent)
    notes = [f"{outside:,} generated points lie outside, and are drawn at the border"] if outside else []
    if len(finite) < len(points):
        notes.append(f"{len(points) - len(finite):,} are not finite")
    write(pen, (MARGIN, below + PLANE), "; ".join(notes), PALE, 12)

    write(pen, (right, top), "All of them about the mode that is nearest to each", INK, 13)
    write(pen, (right, top + LINE), "circle: 3σ, within which samples are of high quality", PALE, 12)
    about = _Panel(pen, right, top + 2 * LINE, MAP, ABOUT)
    for some, color in ((real, REAL), (generated, FAKE)):
        away = (some - mixture.means[mixture.nearest(some)[0]]) / mixture.std
        near = np.abs(away).max(axis=1, initial=0.0) <= ABOUT
        about.scatter(away[near], color)
    about.circle(np.zeros(2), HIGH_QUALITY, PALE)
    if not near.all():
        far = f"{np.count_nonzero(~near):,} of {len(generated):,} generated points lie farther out"
        write(pen, (right, below + MAP), far, PALE, 12)
    return as_png(canvas)


class _Panel:
    """A square of `side` pixels with the origin in its middle; its borders are at ±`extent`."""

    def __init__(self, pen: ImageDraw, left: int, top: int, side: int, extent: float) -> None:
        self._pen, self._left, self._top, self._side = pen, left, top, side
        self._scale, self._middle = side / (2 * extent), side / 2
        pen.rectangle((left, top, left + side - 1, top + side - 1), outline=(210, 210, 210))

    def _place(self, points: np.ndarray) -> np.ndarray:
        """Pixels [..., 2], the second axis of the plane pointing up; what lies outside is put at the border."""
        limit = self._middle - 4
        at = np.clip(points * self._scale, -limit, limit) * np.array([1, -1]) + self._middle
        placed: np.ndarray = at + np.array([self._left, self._top])
        return placed

    def scatter(self, points: np.ndarray, color: tuple[int, int, int]) -> None:
        for x, y in self._place(points).round().astype(int):
            self._pen.rectangle((x - 1, y - 1, x, y), fill=color)

    def _radius(self, radius: float) -> float:
        return max(1.2 * radius * self._scale, 12.0) if radius * self._scale < 20 else radius * self._scale

    def circle(self, middle: np.ndarray, radius: float, color: tuple[int, int, int]) -> None:
        (x, y), r = self._place(middle), self._radius(radius)
        self._pen.ellipse((x - r, y - r, x + r, y + r), outline=color, width=2)

    def label(self, middle: np.ndarray, radius: float, lines: Mapping[str, tuple[int, int, int]]) -> None:
        (x, y), r = self._place(middle), self._radius(radius)
        for number, (line, color) in enumerate(lines.items()):
            write(self._pen, (int(x), int(y + r + 2 + 12 * number)), line, color, 11, anchor="ma")


def stacks_to_show(
    lost: Sequence[dict[str, Any]], heading: str, labels: np.ndarray, copies: Sequence[np.ndarray], count: int
) -> Exhibit:
    """What to show of stacks: rows of real ones of the `lost` modes (entries of `missing`), each [n, 3], the rows of the three
    digits in a set with these `labels`; the largest clusters of `copies`; and the first of `count` samples.

    Where there are many lost modes, some of all over them. A mode of a digit that is not in the set cannot be shown.
    """
    generator = np.random.default_rng(SEED)
    rows = []
    for place in np.unique(np.linspace(0, len(lost) - 1, min(ROWS, len(lost))).round().astype(int)):
        having = [np.flatnonzero(labels == int(digit)) for digit in lost[place]["mode"]]
        if all(len(found) for found in having):
            rows.append((lost[place], np.stack([generator.choice(found, IN_ROW) for found in having], axis=1)))
    largest = sorted(copies, key=len, reverse=True)
    return Exhibit(
        missing=rows,
        clusters=largest[:ROWS],
        in_clusters=sum(map(len, copies)),
        samples=np.arange(min(count, SAMPLES)),
        heading=f"{heading}, {len(rows):,} of {len(lost):,} modes",
        kind="mode",
    )
