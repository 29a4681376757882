"""Evaluations side by side: one table, ranked where the protocols agree, and refused by the name of the field where not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gantk_eval.errors import DataError
from gantk_eval.metrics import Metric, find_metric
from gantk_eval.neighbours import BALLS
from gantk_eval.protocol import RANKED_BY
from gantk_eval.text import columns, shortened

__all__ = ["Comparison", "compare", "read_report"]

_OF_ONE_KIND = {
    "is_splits": ("is",),
    "kid_subsets": ("kd",),
    "kid_subset_size": ("kd",),
    "neighbour_images": tuple(BALLS),
    "ms_ssim_scales": ("ms_ssim",),
}
"""Fields that matter to some metrics only."""
_OF_EXTRACTORS = ("extractor", "weights_sha256", "resize", "precision")
"""Fields that hold one part for each extractor, joined by `+`."""


def read_report(path: str | Path) -> dict[str, Any]:
    """An evaluation's JSON. Raises DataError, naming the file, where it is none."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if all(part in found for part in ("metrics", "collapse", "protocol")):
            return dict(found)
    except (OSError, ValueError, TypeError):
        pass
    raise DataError(f"{path} is no evaluation; give a file that `gantk eval` wrote, from a run's eval/ or from --json")


@dataclass(frozen=True)
class Comparison:
    """Evaluations by label, and for each metric whether its scores may be ranked.

    `differs`: metric -> field of the protocol -> its value in each evaluation that has the metric (a dict by label); empty
    where they agree. `ranking`: metric -> labels, best first; only of metrics that two or more have and that agree.
    `tied`: metric -> labels whose distance to the best is within 1.96 of their common standard error.
    """

    reports: dict[str, dict[str, Any]]
    differs: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    ranking: dict[str, list[str]] = field(default_factory=dict)
    tied: dict[str, list[str]] = field(default_factory=dict)

    @property
    def refusal(self) -> str:
        """The sentence where some scores must not be ranked, and a line for each field that differs; empty where all may be."""
        if not self.differs:
            return ""
        by_values: dict[tuple[str, str], list[str]] = {}
        for metric, fields in self.differs.items():
            for name, values in fields.items():
                by_values.setdefault((name, _grouped(values)), []).append(metric)
        lines = [f"`{name}`: {values} ({shortened(metrics)})" for (name, values), metrics in by_values.items()]
        return "\n  ".join(["scores of different protocols are not ranked; they differ in", *lines])

    def to_dict(self) -> dict[str, Any]:
        """As JSON types: {evaluations, ranking, tied, differs, refusal}."""
        return {
            "evaluations": self.reports,
            "ranking": self.ranking,
            "tied": self.tied,
            "differs": self.differs,
            "refusal": self.refusal or None,
        }

    def table(self) -> str:
        """The metrics as rows and the evaluations as columns: value ± standard error, and the rank where there is one."""
        labels = list(self.reports)
        rows = [["metric", *labels]]
        for metric in _metric_names(self.reports.values()):
            rows.append([metric, *(self._cell(metric, label) for label in labels)])
        scores = len(rows)
        rows += [["floor of " + name, *cells] for name, cells in self._floors(labels)]
        for part in ("collapse", "memorisation"):
            verdicts = [str((self.reports[label].get(part) or {}).get("verdict", "–")) for label in labels]
            rows.append([part, *verdicts])
        runs = [self.reports[label].get("run") or {} for label in labels]
        if any("kimg" in run for run in runs):
            rows.append(["kimg", *(f"{run['kimg']:g}" if "kimg" in run else "not said" for run in runs)])
        rows.append(["protocol", *(str(self.reports[x]["protocol"].get("fingerprint", "?"))[:12] for x in labels)])
        lines = columns(rows)
        lines.insert(scores + 1, lines[1])
        if any(self.tied.values()):
            lines.append("≈ not to be told from the best: the difference is within 1.96 of their common standard error")
        return "\n".join(lines)

    def _cell(self, metric: str, label: str) -> str:
        entry = self.reports[label]["metrics"].get(metric)
        if entry is None or entry.get("value") is None:
            return "–"
        text = f"{entry['value']:.5g}"
        if entry.get("standard_error") is not None:
            text += f" ± {entry['standard_error']:.2g}"
        if metric in self.ranking:
            values = [self.reports[other]["metrics"][metric]["value"] for other in self.ranking[metric]]
            # Equal scores, as counts of modes often are, share the first place among them.
            text += f"  #{values.index(entry['value']) + 1}{' ≈' if label in self.tied[metric] else ''}"
        return text

    def _floors(self, labels: Sequence[str]) -> list[tuple[str, list[str]]]:
        found = []
        for metric in _metric_names(self.reports.values()):
            entries = [self.reports[label]["metrics"].get(metric) or {} for label in labels]
            if any(entry.get("floor") is not None for entry in entries):
                cells = ["–" if e.get("floor") is None else f"{e['floor']:.5g} (n={e['floor_n']:,})" for e in entries]
                found.append((metric, cells))
        return found


def _metric_names(reports: Any) -> list[str]:
    return list(dict.fromkeys(name for report in reports for name in report["metrics"]))


def compare(reports: Mapping[str, Mapping[str, Any]]) -> Comparison:
    """Puts evaluations (a report's `to_dict`, or the JSON that `gantk eval` writes) side by side, by label.

    A metric's scores are ranked where all protocols agree in every field of `RANKED_BY` that it depends on: lower is better
    for distances, higher for the others. Numbers of splits matter to the Inception Score alone, and so on; of several
    extractors' fields the metric's own part counts.
    """
    result = Comparison({label: dict(report) for label, report in reports.items()})
    for name in _metric_names(reports.values()):
        having = [x for x in reports if (reports[x]["metrics"].get(name) or {}).get("value") is not None]
        if len(having) < 2:
            continue
        metric = find_metric(name)
        if metric is None:  # of a later version, or a spread, which is best at 1: shown, not ranked
            continue
        seen = {label: _fields(metric, reports[label]) for label in having}
        differing = {
            key: {label: seen[label][key] for label in having}
            for key in RANKED_BY
            if len({json.dumps(fields[key], sort_keys=True) for fields in seen.values()}) > 1
            and not (key == "reference_sha256" and _made_from_the_same([reports[label] for label in having]))
        }
        if differing:
            result.differs[name] = differing
            continue
        entries = {label: reports[label]["metrics"][name] for label in having}
        sign = -1.0 if metric.higher_is_better else 1.0
        order = sorted(having, key=lambda label: sign * entries[label]["value"])
        result.ranking[name] = order
        result.tied[name] = [label for label in order[1:] if _within_error(entries[order[0]], entries[label])]
    return result


def _made_from_the_same(reports: Iterable[Mapping[str, Any]]) -> bool:
    """Whether all say that their reference images are made from the same, whatever they were kept in."""
    identities = {report["protocol"].get("reference_identity") for report in reports}
    return len(identities) == 1 and None not in identities


def _fields(metric: Metric, report: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the protocol that the metric's scores depend on; the others are None."""
    protocol = report["protocol"]
    kind, extractor = metric.kind, metric.extractor
    extractors = str(protocol.get("extractor", "")).split("+")
    place = _place(extractor, extractors)
    fields = {}
    for key in RANKED_BY:
        value = protocol.get(key)
        if key in _OF_ONE_KIND and kind not in _OF_ONE_KIND[key]:
            value = None
        if key in _OF_EXTRACTORS and place is not None and len(str(value).split("+")) == len(extractors):
            value = str(value).split("+")[place]
        fields[key] = value
    return fields


def _place(extractor: str, names: Sequence[str]) -> int | None:
    """Which of the protocol's extractors a metric's is: `dinov2` is called `dinov2-vitb14` there."""
    if extractor in names:
        return names.index(extractor)
    spatial = extractor.endswith("spatial")
    stem = extractor.removesuffix("_spatial")
    return next((i for i, n in enumerate(names) if n.startswith(stem) and n.endswith("-spatial") == spatial), None)


def _within_error(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    errors = [float(e["standard_error"]) for e in (first, second) if e.get("standard_error") is not None]
    together = sum(error**2 for error in errors) ** 0.5
    return len(errors) == 2 and abs(first["value"] - second["value"]) <= 1.96 * together


def _grouped(values: Mapping[str, Any]) -> str:
    """A field's values, each with the evaluations that have it."""
    having: dict[str, list[str]] = {}
    for label, value in values.items():
        having.setdefault(_short(value), []).append(label)
    return ", ".join(f"{value} in {shortened(labels)}" for value, labels in having.items())


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
