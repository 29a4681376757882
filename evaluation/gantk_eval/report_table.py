"""A report as text for people: one line while a model trains, and the table, with the verdict first."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gantk_eval.metrics import find_metric
from gantk_eval.text import columns, number

if TYPE_CHECKING:
    from gantk_eval.report import Report

__all__ = ["line", "table"]

MOST_ROWS = 20
LONGEST_REASON = 90
"""Characters of the first reason that a line has room for; the table has all of it."""
MEANINGS = {
    "ok": "no diversity is lost that the tests below would have seen",
    "suspect": "some diversity seems to be lost",
    "collapsed": "diversity is lost",
    "inconclusive": "it cannot be told whether diversity is lost",
}
OUTCOMES = {"ok": "ok", "fired": "!", "not judged": "not judged"}
LOOKS_FOR = {
    "duplicates": "samples that repeat each other",
    "class_histogram": "classes that are missing or rare",
    "bins": "regions of the real images that are left out",
    "within_mode": "samples that vary too little within a region",
    "class_spread": "classes whose samples vary too little",
    "class_coverage": "classes whose real images are not reached",
    "class_vendi": "classes with too few different samples",
    "label_agreement": "samples that do not show the class asked for",
    "coverage": "real images with no sample near them",
    "vendi": "too few different samples in all",
    "pair_distance": "pairs of samples that are too alike",
    "extent": "points that do not spread as far as the mixture",
    "lost_modes": "modes without samples",
    "evenness": "modes that are rarer than others",
    "shrinkage": "modes that are too narrow",
}
"""The loss that each test of the verdict looks for. A test that is not among them stands in the table without."""
_FIRST = ("modes", "high_quality")
"""The scores that say most where the modes are known."""


def line(report: Report, first: str | None = None) -> str:
    """The scores that say most, each with its real-data floor, and the verdict with its first reason: one line.

    `first`: the metric that ranks the run's checkpoints, where it is another than the Fréchet distance.
    """
    return " · ".join([*(_brief(name, report.metrics[name]) for name in _headline(report, first)), _verdict(report)])


def _headline(report: Report, first: str | None) -> list[str]:
    """At most two metrics: what ranks checkpoints (a distance), and coverage; or of known modes their number and quality."""
    there = [name for name, entry in report.metrics.items() if entry.get("value") is not None]
    kinds = {name: metric.kind for name in there if (metric := find_metric(name)) is not None}
    known = [name for name in _FIRST if name in there]
    by_kind = [next((n for n in there if kinds.get(n) == kind), None) for kind in ("fd", "coverage")]
    wanted = [first if first in there else None, *(known or by_kind), *there[:1]]
    return list(dict.fromkeys(name for name in wanted if name is not None))[:2]


def _brief(name: str, entry: Mapping[str, Any]) -> str:
    of = f" of {entry['of']:,}" if entry.get("of") is not None else ""
    floor = f" (real {entry['floor']:.3g})" if entry.get("floor") is not None else ""
    return f"{_with_arrow(name)} {entry['value']:.3g}{of}{floor}"


def _with_arrow(name: str) -> str:
    """The metric's name and which way is better."""
    metric = find_metric(name)
    return name if metric is None else f"{name} {'↑' if metric.higher_is_better else '↓'}"


def _verdict(report: Report) -> str:
    reasons = report.collapse.get("reasons") or []
    text = report.verdict
    if report.verdict != "ok" and reasons:
        text += f": {textwrap.shorten(reasons[0], LONGEST_REASON, placeholder=' …')}"
        if len(reasons) > 1:
            text += f" (and {len(reasons) - 1} more)"
    return text + (" · memorised" if report.memorisation.get("verdict") == "memorised" else "")


def table(report: Report) -> str:
    """The verdict in a sentence with its reasons, the tests that it stands on, a row for each metric, and the protocol."""
    lines = [f"collapse: {report.verdict}, {MEANINGS.get(report.verdict, '')}".rstrip(", ")]
    reasons = report.collapse.get("reasons") or []
    if len(reasons) == 1:
        lines[0] += f": {reasons[0]}"
    else:
        lines += [f"  - {reason}" for reason in reasons]
    lines += _missing(report.collapse.get("missing") or [])
    lines += ["", *_metrics(report.metrics), *_warnings(report.metrics)]
    lines += _modes(report.metrics.get("modes", {}).get("each", []))
    lines += _tests(report.collapse.get("tests") or [], reasons)
    lines += ["", f"memorisation: {report.memorisation['verdict']}"]
    lines += [f"  - {reason}" for reason in report.memorisation["reasons"]]
    protocol = report.protocol
    made = f"{protocol.get('extractor', '?')}, {protocol.get('precision', '?')}"
    lines += ["", f"protocol {str(protocol.get('fingerprint', '?'))[:12]}: {made}"]
    if protocol.get("classifier_accuracy") is not None:
        lines[-1] += f", classifier {protocol['classifier_accuracy']:.1%} right on held-out images"
    return "\n".join(lines)


def _metrics(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [("metric", "value", "±", "generated", "real", "real-vs-real floor")]
    for name, entry in metrics.items():
        spread = ""
        if entry.get("standard_error") is not None:
            spread = f"{number(entry['standard_error'])} (se)"
        elif entry.get("std") is not None:
            spread = f"{number(entry['std'])} (std)"
        reasons = entry.get("none_because", {})
        floor = f"none ({reasons.get('floor', 'no held-out images')})"
        if entry.get("floor") is not None:
            floor = f"{number(entry['floor'])} (n={entry['floor_n']:,})"
            if entry.get("floor_low") is not None:
                floor = f"{number(entry['floor'])} [{number(entry['floor_low'])}, {number(entry['floor_high'])}]"
        value = f"none ({reasons.get('value', 'it could not be computed')})"
        if entry["value"] is not None:
            value = number(entry["value"])
        if entry.get("extrapolated") is not None:
            value += f" (N→∞: {number(entry['extrapolated'])})"
        real = f"{entry['n_real']:,}" if entry["n_real"] else "not said"
        rows.append((_with_arrow(name), value, spread, f"{entry['n_fake']:,}", real, floor))
    return columns(rows, right=(3, 4))


def _warnings(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for each warning, with the names of the metrics that share it."""
    shared: dict[str, list[str]] = {}
    for name, entry in metrics.items():
        if entry.get("warning"):
            shared.setdefault(entry["warning"], []).append(name)
    return [f"too few images for {', '.join(names)}: {warning}" for warning, names in shared.items()]


def _modes(modes: list[dict[str, Any]]) -> list[str]:
    """The known modes one by one."""
    if not modes:
        return []
    rows = [("mode", "nearest", "within 3σ", "spread over the true one")]
    for entry in modes:
        spread = "–" if entry["spread"] is None else f"{entry['spread']:.2f}"
        rows.append((str(entry["mode"]), f"{entry['nearest']:,}", f"{entry['high_quality']:,}", spread))
    return ["", *columns(rows, right=(1, 2))]


def _missing(missing: list[dict[str, Any]]) -> list[str]:
    """The missing and starved modes, with expected and seen counts."""
    if not missing:
        return []
    rows = [("missing or starved", "expected", "seen")]
    rows += [(str(entry["mode"]), f"{entry['expected']:,}", f"{entry['seen']:,}") for entry in missing[:MOST_ROWS]]
    more = [f"and {len(missing) - MOST_ROWS:,} more"] if len(missing) > MOST_ROWS else []
    return ["", *columns(rows, right=(1, 2)), *more]


def _tests(tests: list[dict[str, Any]], reasons: list[str]) -> list[str]:
    """Each test of the verdict: ok, ! where it found a loss, or not judged and why, where the `reasons` above do not say so."""
    if not tests:
        return []
    rows = [("test", "result", "effect", "p (adjusted)", "what it looks for")]
    for test in tests:
        result = OUTCOMES.get(test.get("outcome", ""), "–")
        about = LOOKS_FOR.get(test["name"], "")
        rows.append((test["name"], result, f"{test['effect']:.2f}", f"{test['p_adjusted']:.3g}", about))
    lines = ["", *columns(rows, right=(2,))]
    because: dict[str, list[str]] = {}
    for test in tests:
        if test.get("because") and test["because"] not in reasons:
            because.setdefault(test["because"], []).append(test["name"])
    return [*lines, *(f"not judged: {', '.join(names)}: {why}" for why, names in because.items())]
