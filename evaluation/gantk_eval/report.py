"""What an evaluation found: numbers with their floors, a verdict with its reasons, and the protocol."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

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

    @property
    def verdict(self) -> str:
        """The collapse verdict: `ok`, `suspect`, `collapsed` or `inconclusive`."""
        return str(self.collapse["verdict"])

    def to_dict(self) -> dict[str, Any]:
        """The evaluation result as JSON types: metrics, collapse, memorisation, protocol; and skipped, where images were."""
        result = {
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
            data["memorisation"],
            skipped=data.get("skipped", {}),
        )

    def table(self) -> str:
        """The report as text for people: a row for each metric, the verdict with its reasons, and the protocol."""
        rows = [("metric", "value", "± ", "real-vs-real floor", "generated", "real")]
        for name, entry in self.metrics.items():
            spread = ""
            if entry.get("standard_error") is not None:
                spread = f"{_number(entry['standard_error'])} (se)"
            elif entry.get("std") is not None:
                spread = f"{_number(entry['std'])} (std)"
            reasons = entry.get("none_because", {})
            floor = f"none ({reasons.get('floor', 'no held-out images')})"
            if entry.get("floor") is not None:
                floor = f"{_number(entry['floor'])} (n={entry['floor_n']:,})"
                if entry.get("floor_low") is not None:
                    floor = f"{_number(entry['floor'])} [{_number(entry['floor_low'])}, {_number(entry['floor_high'])}]"
            value = f"none ({reasons.get('value', 'it could not be worked out')})"
            if entry["value"] is not None:
                value = _number(entry["value"])
            if entry.get("extrapolated") is not None:
                value += f" (N→∞: {_number(entry['extrapolated'])})"
            rows.append(
                (
                    name,
                    value,
                    spread,
                    floor,
                    f"{entry['n_fake']:,}",
                    f"{entry['n_real']:,}" if entry["n_real"] else "not said",
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        lines += self._warnings()
        lines += _modes_table(self.metrics.get("modes", {}).get("each", []))
        lines += ["", f"collapse: {self.verdict}"]
        lines += [f"  - {reason}" for reason in self.collapse["reasons"]]
        lines += _collapse_tables(self.collapse)
        lines += ["", f"memorisation: {self.memorisation['verdict']}"]
        lines += [f"  - {reason}" for reason in self.memorisation["reasons"]]
        protocol = self.protocol
        lines += ["", f"protocol {protocol['fingerprint'][:12]}: {protocol['extractor']}, {protocol['precision']}"]
        if protocol.get("classifier_accuracy") is not None:
            lines[-1] += f", classifier {protocol['classifier_accuracy']:.1%} right on held-out images"
        return "\n".join(lines)

    def _warnings(self) -> list[str]:
        """One line for each warning, with the names of the metrics that share it."""
        shared: dict[str, list[str]] = {}
        for name, entry in self.metrics.items():
            if entry.get("warning"):
                shared.setdefault(entry["warning"], []).append(name)
        return [f"too few images for {', '.join(names)}: {warning}" for warning, names in shared.items()]


MOST_ROWS = 20


def _modes_table(modes: list[dict[str, Any]]) -> list[str]:
    """The known modes one by one."""
    if not modes:
        return []
    width = max(len(entry["mode"]) for entry in modes)
    lines = ["", f"  {'mode'.ljust(width)}  nearest  within 3σ  spread over the true one"]
    for entry in modes:
        spread = "–" if entry["spread"] is None else f"{entry['spread']:.2f}"
        lines.append(f"  {entry['mode'].ljust(width)}  {entry['nearest']:7,}  {entry['high_quality']:9,}  {spread}")
    return lines


def _collapse_tables(collapse: dict[str, Any]) -> list[str]:
    """What is missing, with expected and seen counts, and the tests."""
    lines = []
    missing, tests = collapse.get("missing") or [], collapse.get("tests") or []
    if missing:
        width = max(len(str(entry["mode"])) for entry in missing[:MOST_ROWS])
        width = max(width, len("missing or starved"))
        lines += ["", f"  {'missing or starved'.ljust(width)}  expected  seen"]
        for entry in missing[:MOST_ROWS]:
            lines.append(f"  {str(entry['mode']).ljust(width)}  {entry['expected']:8,}  {entry['seen']:4,}")
        if len(missing) > MOST_ROWS:
            lines.append(f"  and {len(missing) - MOST_ROWS:,} more")
    if tests:
        width = max(len(test["name"]) for test in tests)
        lines += ["", f"  {'test'.ljust(width)}  effect  p (adjusted)"]
        lines += [f"  {test['name'].ljust(width)}  {test['effect']:6.2f}  {test['p_adjusted']:.3g}" for test in tests]
    return lines


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"
