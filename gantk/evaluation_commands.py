"""The commands that read evaluations which are there: show and compare."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gantk.errors import ConfigError

JsonOption = Annotated[bool, typer.Option("--json", help="As JSON on stdout, and nothing else there.")]


def show(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE",
            help="A run's name (also run42@best, run42@step-00001000) or folder, or a JSON file of `gantk eval`.",
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Print the newest evaluation of a run's last step, without scoring again.

    gantk show run42

    gantk show run42@best
    """
    from gantk_eval.report import Report

    from gantk.evaluations import find_evaluation

    found = find_evaluation(run)
    if as_json:
        typer.echo(json.dumps(found.report, indent=1))
    else:
        typer.echo(Report.from_dict(found.report).table())
    for line in found.places():
        typer.echo(line, err=True)


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Names, folders, or JSON files of `gantk eval`.")],
    as_json: JsonOption = False,
) -> None:
    """Put evaluations of runs side by side, ranked where their protocols agree: of each run the newest of its last step.

    gantk compare run41 run42 run43@best

    Scores of different protocols are shown but not ranked: the differing field is named, and the exit code is 2.
    """
    from gantk_eval.compare import compare as compare_reports

    from gantk.evaluations import find_evaluation

    if len(runs) < 2:
        raise ConfigError("`gantk compare` takes two or more runs: gantk compare run41 run42")
    if len(set(runs)) < len(runs):
        raise ConfigError("`gantk compare` was given a run twice: name each once")
    found = {run: find_evaluation(run) for run in runs}
    seen: dict[Path, str] = {}
    for run, evaluation in found.items():
        other = seen.setdefault(evaluation.path.resolve(), run)
        if other != run:
            raise ConfigError(
                f"`{other}` and `{run}` are one and the same evaluation, {evaluation.path}: name each once"
            )
    labels = short_names(runs)
    comparison = compare_reports({labels[run]: evaluation.report for run, evaluation in found.items()})
    if as_json:
        typer.echo(json.dumps(comparison.to_dict(), indent=1))
    else:
        typer.echo(comparison.table())
    for run, evaluation in found.items():
        typer.echo(f"{labels[run]}: {evaluation.sentence}", err=True)
    if comparison.refusal:
        raise ConfigError(comparison.refusal)


def short_names(specs: Sequence[str]) -> Mapping[str, str]:
    """For each of several names and paths, all different, the shortest part of it that tells it from the others.

    The one part of the paths that differs where there is one (`a` and `b` of runs/a/eval/1.json and runs/b/eval/1.json), the
    nearest to the end; else as many of the last parts as it takes.
    """
    parts = {spec: Path(spec).with_suffix("").parts if spec.endswith(".json") else Path(spec).parts for spec in specs}
    for place in range(1, max(map(len, parts.values())) + 1):
        single = {spec: found[-place] for spec, found in parts.items() if len(found) >= place}
        if len(single) == len(specs) == len(set(single.values())):
            return single
    for length in range(1, max(map(len, parts.values())) + 1):
        ends = {spec: str(Path(*found[-length:])) for spec, found in parts.items()}
        if len(set(ends.values())) == len(specs):
            return ends
    return {spec: spec for spec in specs}


COMMANDS: dict[str, Callable[..., Any]] = {"show": show, "compare": compare}
"""The commands by their names on the command line."""
