"""What an evaluation found: numbers with their floors, a verdict with its reasons, and the protocol."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from gantk_eval import report_table

__all__ = ["Report", "left_out", "score"]

NAMED = 20
"""How many of the images that were left out are named."""


def left_out(**sets: Any) -> dict[str, dict[str, Any]]:
    """For each of the image sets that has left out images that cannot be read: {count, first}, with the first names."""
    skipped = {role: tuple(getattr(images, "skipped", ())) for role, images in sets.items()}
    return {role: {"count": len(names), "first": list(names[:NAMED])} for role, names in skipped.items() if names}


def score(
    value: float | None,
    *,
    n_fake: int,
    n_real: int,
    std: float | None = None,
    standard_error: float | None = None,
    extrapolated: float | None = None,
    floor: float | None = None,
    floor_n: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One metric's entry: the value and what it takes to read it. What is not known or not valid is None, and
    `none_because` says why; `warning` is a sentence where there are too few images."""
    return {
        "value": value,
        "std": std,
        "standard_error": standard_error,
        "extrapolated": extrapolated,
        "floor": floor,
        "floor_n": floor_n,
        "n_fake": n_fake,
        "n_real": n_real,
        **more,
    }


@dataclass(frozen=True)
class Report:
    """The result of `evaluate`.

    `metrics`: name -> {value, std, standard_error, extrapolated, floor, floor_n, n_fake, n_real, warning, none_because, ...};
    `floor` is the same metric of held-out real images against the reference at `floor_n` images; `none_because` says of
    each field that is None why; distances for each class stand under `classes`, known
    modes of points one by one under `each` of `modes`. `collapse`: verdict (`ok`, `suspect`,
    `collapsed`, `inconclusive`), reasons, tests, missing. `memorisation`: verdict (`memorised`, `ok`, `inconclusive`),
    reasons, and the numbers of `memorisation.MemorisationTest.judge`. `protocol`: how it was made.
    `skipped`: `images`, `reference`, `heldout` -> {count, first}, of sets of which unreadable images were left out.
    `run`: what was scored and when, as the caller knows it (gantk: the run's name, step, kimg and checkpoint, the version of
    gantk and the date); None where nobody said.
    `picture`: a PNG of what the collapse verdict is about, on the first process only; it is no part of the JSON.
    """

    metrics: dict[str, dict[str, Any]]
    collapse: dict[str, Any]
    protocol: dict[str, Any]
    memorisation: dict[str, Any] = field(
        default_factory=lambda: {"verdict": "inconclusive", "reasons": ["memorisation was not tested"]}
    )
    picture: bytes | None = field(default=None, compare=False, repr=False)
    skipped: dict[str, dict[str, Any]] = field(default_factory=dict)
    run: dict[str, Any] | None = None

    @property
    def verdict(self) -> str:
        """The collapse verdict: `ok`, `suspect`, `collapsed` or `inconclusive`."""
        return str(self.collapse["verdict"])

    def to_dict(self) -> dict[str, Any]:
        """The evaluation result as JSON types: metrics, collapse, memorisation, protocol; run, where it is known; and skipped,
        where images were."""
        result = {
            **({} if self.run is None else {"run": self.run}),
            "metrics": self.metrics,
            "collapse": self.collapse,
            "memorisation": self.memorisation,
            "protocol": self.protocol,
        }
        return {**result, "skipped": self.skipped} if self.skipped else result

    def to_json(self, *, indent: int | None = 2) -> str:
        """`to_dict` as text; a number that is not finite is an error, since JSON has none."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Report:
        """The report of a `to_dict`."""
        return cls(
            data["metrics"],
            data["collapse"],
            data["protocol"],
            **({"memorisation": data["memorisation"]} if "memorisation" in data else {}),
            skipped=data.get("skipped", {}),
            run=data.get("run"),
        )

    def line(self, first: str | None = None) -> str:
        """The scores that say most with their real-data floors, and the verdict with its first reason, in one line.

        `first`: the metric to begin with, where it is another than the Fréchet distance.
        """
        return report_table.line(self, first)

    def table(self) -> str:
        """The report as text for people: the verdict with its reasons first, the scores, the tests, and the protocol."""
        return report_table.table(self)
