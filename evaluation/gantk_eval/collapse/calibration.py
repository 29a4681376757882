"""The permutation null, the size of an effect, and the correction for several tests.

Each test asks one question of *relabellings*: were the generated and the held-out images exchangeable, any n of the n + m
would be as good a "generated set" as the real one. Row 0 of `Relabellings.members` is the set as it is, the others are drawn.
A test computes its statistic for every row at once, and its p value is the rank of the first among all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

__all__ = [
    "ALPHA",
    "DROPPED",
    "FAMILY",
    "FEWEST_PERMUTATIONS",
    "PERMUTATIONS",
    "STARVED",
    "Kind",
    "Reason",
    "Relabellings",
    "TestResult",
    "at_least",
    "benjamini_hochberg",
    "holm",
    "permutation_p",
    "result_of",
]

ALPHA = 0.01
"""The family-wise error of all tests together, by Holm."""
DROPPED, STARVED = 0.2, 0.5
"""A class, region or mode is lost, or starved, where the upper confidence bound of seen / expected is below this."""
PERMUTATIONS = 1999
"""So that the smallest p, 1/2000, can pass Holm's correction at ALPHA for up to twenty tests."""
FAMILY = 12
"""Tests, at the most, that the error is shared by."""
FEWEST_PERMUTATIONS = 1199
"""With fewer not even the smallest p, 1 / (1 + B), passes the correction over as many tests."""
BLOCK = 500
"""Relabellings worked on at a time where all at once would not fit into a modest memory."""
EIGHTY = 0.84
"""Standard deviations by which an alternative must clear the critical value to be found in 80 % of cases."""

Severity = Literal["none", "suspect", "collapsed"]
Outcome = Literal["ok", "fired", "not judged"]
Needs = Literal["nothing", "appearance", "quality", "detail"]
Kind = Literal[
    "duplicates",
    "lost class",
    "starved class",
    "lost mode",
    "starved mode",
    "shrinkage",
    "class collapse",
    "label ignored",
    "label swapped",
    "diversity",
]
"""What can be wrong, in the order in which reasons are given: a cause before what follows from it."""


class Reason(str):
    """One sentence for a person, of what `kind` the loss is that it tells of, and which class it is about, if one."""

    kind: Kind
    mode: int | None

    def __new__(cls, kind: Kind, text: str, mode: int | None = None) -> Reason:
        reason = super().__new__(cls, text)
        reason.kind, reason.mode = kind, mode
        return reason


@dataclass
class TestResult:
    """One test. `severity` is what its effect size would mean if its p value, adjusted over the family, is below ALPHA."""

    __test__ = False  # pytest takes the name for a test's

    name: str
    statistic: float
    null_mean: float
    effect: float
    p: float
    severity: Severity
    reasons: list[str] = field(default_factory=list)
    missing: list[dict[str, Any]] = field(default_factory=list)
    powerful: bool = True
    """Whether a loss worth the name would have been found at these numbers of images."""
    weakness: str = ""
    """Why not, where it is not."""
    needs: Needs = "quality"
    """What samples must have in common with real images for the test to say something: nothing; their looks at the scale of
    the layout; enough for their classes to be recognised; or enough to be told which region of a class they lie in."""
    p_adjusted: float = 1.0
    outcome: Outcome = "ok"
    """Set by `settle_outcome`, once p is adjusted."""
    because: str = ""
    """Why it is not judged, where it is not."""

    def settle_outcome(self, unfit: str = "") -> None:
        """Fixes `outcome` and `because`. `unfit`: why the samples are too unlike real images for this test, if they are."""
        if unfit:
            self.outcome, self.because = "not judged", unfit
        elif self.severity != "none" and self.p_adjusted <= ALPHA:
            self.outcome, self.because = "fired", ""
        elif not self.powerful:
            self.outcome, self.because = "not judged", self.weakness
        else:
            self.outcome, self.because = "ok", ""

    def to_dict(self) -> dict[str, Any]:
        """The entry under `tests`."""
        names = ("name", "statistic", "null_mean", "effect", "p", "p_adjusted", "outcome")
        entry = {name: getattr(self, name) for name in names}
        return {**entry, "because": self.because} if self.because else entry


@dataclass(frozen=True)
class Relabellings:
    """`members`: float32 [1 + B, n + m], 1 for who counts as generated; row 0 is the truth: the first n."""

    members: np.ndarray
    generated: int

    @classmethod
    def draw(cls, generated: int, heldout: int, count: int, seed: int) -> Relabellings:
        """`count` relabellings, each with `generated` members drawn without replacement."""
        generator = np.random.default_rng(seed)
        members = np.zeros((count + 1, generated + heldout), dtype=np.float32)
        members[0, :generated] = 1
        for row in members[1:]:
            row[generator.permutation(generated + heldout)[:generated]] = 1
        return cls(members, generated)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Over each row's members, the sum of `values` [n + m, k]: float64 [1 + B, k]."""
        values = np.ascontiguousarray(values, dtype=np.float32)
        return np.concatenate([block @ values for block in self.blocks()]).astype(np.float64)

    def blocks(self, columns: np.ndarray | slice = slice(None)) -> Iterator[np.ndarray]:
        """The rows, a few hundred at a time."""
        for start in range(0, len(self.members), BLOCK):
            yield self.members[start : start + BLOCK, columns]


def result_of(
    name: str,
    statistics: np.ndarray,
    *,
    effect: float,
    suspect: float,
    collapsed: float,
    needs: Needs = "quality",
) -> TestResult:
    """The result of a test from its statistic on all relabellings [1 + B] (large means less diversity) and its effect."""
    null = statistics[1:]
    return TestResult(
        name=name,
        statistic=float(statistics[0]),
        null_mean=float(null.mean()),
        effect=float(effect),
        p=permutation_p(statistics[0], null),
        severity=at_least(effect, collapsed, suspect),
        needs=needs,
    )


def at_least(effect: float, collapsed: float, suspect: float) -> Severity:
    """How bad an effect is, by the sizes from which it is `collapsed` or `suspect`."""
    return "collapsed" if effect >= collapsed else "suspect" if effect >= suspect else "none"


def would_notice(statistics: np.ndarray, alternative: float) -> bool:
    """Whether a true value of `alternative` would reject in 80 % of cases at ALPHA shared by the family."""
    null = statistics[1:]
    critical = np.quantile(null, 1.0 - ALPHA / FAMILY)
    return bool(alternative >= critical + EIGHTY * null.std())


def permutation_p(observed: float, null: np.ndarray) -> float:
    """One-sided p of `observed` being large: (1 + #{null >= observed}) / (1 + B); exact at any B (Phipson & Smyth 2010)."""
    slack = 1e-9 * max(1.0, abs(float(observed)))  # equal values must stay equal in the face of rounding
    return float((1 + np.count_nonzero(null >= observed - slack)) / (1 + len(null)))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (Holm 1979), in the order given."""
    order = np.argsort(values)
    adjusted = [0.0] * len(values)
    running = 0.0
    for place, index in enumerate(order):
        running = max(running, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = running
    return adjusted


def benjamini_hochberg(values: np.ndarray, rate: float = ALPHA) -> np.ndarray:
    """Which hypotheses are rejected at a false discovery rate of `rate` (Benjamini & Hochberg 1995): bool, as `values`."""
    order = np.argsort(values)
    passed = np.asarray(values)[order] <= rate * np.arange(1, len(values) + 1) / len(values)
    rejected = np.zeros(len(values), dtype=bool)
    if passed.any():
        rejected[order[: np.flatnonzero(passed)[-1] + 1]] = True
    return rejected
