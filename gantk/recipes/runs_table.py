"""One line on each run: how far it is, its score, its verdict, and when that was."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gantk.evaluations import evaluations_of
from gantk.records import read_json
from gantk.runs import list_runs, runs_folder


def describe_runs() -> dict[str, str]:
    """A line on each run, by its name."""
    lines = {}
    for run in list_runs():
        status = read_json(runs_folder() / run / "status.json") or {}
        parts = [f"{status.get('state', '?')}, {status.get('kimg') or 0:g} kimg"]
        found = evaluations_of(runs_folder() / run)
        report = found[-1].report if found else {}
        parts += [part for part in (_score(report), _verdict(report), _age(status.get("updated"))) if part]
        lines[run] = ", ".join(parts)
    return lines


def _score(report: Mapping[str, Any]) -> str:
    """The Fréchet distance of an evaluation, or whatever it has first."""
    metrics = report.get("metrics") or {}
    name = next((name for name in metrics if name == "fid" or name.startswith("fd_")), next(iter(metrics), None))
    value = None if name is None else (metrics[name] or {}).get("value")
    return f"{name} {value:.4g}" if isinstance(value, (int, float)) else ""


def _verdict(report: Mapping[str, Any]) -> str:
    return str((report.get("collapse") or {}).get("verdict") or "")


def _age(stamp: Any, now: float | None = None) -> str:
    """How long ago a time in ISO format was."""
    try:
        seconds = (time.time() if now is None else now) - datetime.fromisoformat(stamp).timestamp()
    except (TypeError, ValueError):
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return "just now"
