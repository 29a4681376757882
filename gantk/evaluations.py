"""A run's evaluations: what each is of, which of them a user means, and what a new course of the run leaves behind."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml
from gantk_eval.compare import read_report

from gantk import __version__
from gantk.errors import ConfigError, DataError
from gantk.records import read_json, write_json
from gantk.runs import find_checkpoint, runs_folder, runs_instead_of

_OF_TRAINING, _OF_CHECKPOINT = re.compile(r"(\d{10,})"), re.compile(r"step-(\d{8,})(?:-.*)?")
"""Names of evaluations: made in training, after so many images; and of a checkpoint, by `gantk eval`."""
SUPERSEDED = "superseded"
"""The folder in `eval/` for evaluations of a course that the run has left."""


def describe_run(
    name: str, step: int, images: int, *, seed: int | None = None, checkpoint: Path | None = None
) -> dict[str, Any]:
    """The section `run` of an evaluation's JSON.

    Args:
        name: the run's.
        step: steps of training that the scored networks have seen.
        images: real images that they have seen.
        seed: of the samples.
        checkpoint: the checkpoint's folder; None in training, where it is written after the evaluation.
    """
    return {
        "name": name,
        "step": step,
        "kimg": images / 1000,
        "seed": seed,
        "checkpoint": None if checkpoint is None else checkpoint.name,
        "checkpoint_sha256": None if checkpoint is None else manifest_sha256(checkpoint),
        **describe_now(),
    }


def describe_now() -> dict[str, str]:
    """The version of gantk, and the date in UTC."""
    return {"gantk": __version__, "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}


def manifest_sha256(checkpoint: Path) -> str:
    """The sha256 of a checkpoint's manifest, which holds those of its files."""
    return hashlib.sha256((checkpoint / "manifest.json").read_bytes()).hexdigest()


def evaluation_file(run: Path, images: int) -> Path:
    """The file of an evaluation made in training, after so many real images."""
    return run / "eval" / f"{images:010d}.json"


def name_checkpoint(evaluation: Path, checkpoint: Path) -> None:
    """Write into an evaluation made in training which checkpoint holds the networks that it scored."""
    _add_to_run(evaluation, checkpoint=checkpoint.name, checkpoint_sha256=manifest_sha256(checkpoint))


def mark_rolled_back(evaluation: Path) -> None:
    """Write into an evaluation made in training that its networks were replaced: the checkpoint of its step has others."""
    _add_to_run(evaluation, rolled_back=True)


def _add_to_run(evaluation: Path, **facts: Any) -> None:
    report = read_json(evaluation)
    if report is not None and isinstance(report.get("run"), dict):
        write_json(evaluation, {**report, "run": {**report["run"], **facts}})


@dataclass(frozen=True)
class Evaluation:
    """An evaluation's JSON file, with what it holds."""

    path: Path
    report: dict[str, Any]
    step: int | None
    """Steps of training that the scored networks had seen; None: neither the file nor its name says."""
    when: float
    """Seconds since 1970: the date that it records, or the file's."""
    recorded: bool
    """True where the file itself says what it is of. Those of older versions of gantk do not."""

    @property
    def sentence(self) -> str:
        """The place of the evaluation, and the model it is of."""
        if not self.recorded:
            return f"{self.path} (written by an older gantk, it does not say of which step: taken by its name and time)"
        run = self.report["run"]
        kimg = f"{run['kimg']:g} kimg, " if "kimg" in run else ""
        return f"{self.path} ({kimg}scored {run['date'].replace('T', ' ').replace('+00:00', ' UTC')})"

    def places(self) -> list[str]:
        """A line for each thing that belongs to it and is there: its file, the verdict's picture, the run's samples."""
        picture, samples = self.path.with_suffix(".png"), self.path.parent.parent / "samples"
        lines = [f"evaluation: {self.sentence}"]
        lines += [f"the verdict's picture: {picture}"] if picture.is_file() else []
        return lines + ([f"samples drawn in training: {samples}"] if samples.is_dir() else [])


def open_evaluation(path: Path, batch_size: int | None = None) -> Evaluation:
    """Read an evaluation. `batch_size`: the run's, for files that do not say their step.

    Raises:
        DataError: where the file is none.
    """
    report = read_report(path)
    run: dict[str, Any] = report["run"] if isinstance(report.get("run"), dict) else {}
    try:
        # Of images that are no run's there is a date and no step.
        return Evaluation(path, report, run.get("step"), datetime.fromisoformat(run["date"]).timestamp(), True)
    except (TypeError, KeyError, ValueError):
        return Evaluation(path, report, _step_in_name(path, batch_size), path.stat().st_mtime, False)


def _step_in_name(path: Path, batch_size: int | None) -> int | None:
    if (match := _OF_CHECKPOINT.fullmatch(path.stem)) is not None:
        return int(match[1])
    match = _OF_TRAINING.fullmatch(path.stem)
    return None if match is None or batch_size is None else int(match[1]) // batch_size


def _batch_size(run: Path) -> int | None:
    try:
        return int(yaml.safe_load((run / "config.yaml").read_text())["train"]["batch_size"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return None


def evaluations_of(run: Path) -> list[Evaluation]:
    """The evaluations of a run, the one of its end last: by step, and of one step by date. What is no evaluation is passed over."""
    found, batch_size = [], _batch_size(run)
    for path in (run / "eval").glob("*.json"):
        try:
            found.append(open_evaluation(path, batch_size))
        except (DataError, OSError):
            continue
    return sorted(found, key=lambda e: (-1 if e.step is None else e.step, e.when))


def find_evaluation(spec: str) -> Evaluation:
    """Resolve an evaluation: its JSON file, or a run's name or folder, whose newest evaluation of its last step it is.

    `NAME@best` and `NAME@step-00001000` are the newest evaluation of that checkpoint, in training or by `gantk eval`.

    Raises:
        ConfigError: where there is none; the sentence says how to make one.
        DataError: where the file is no evaluation.
    """
    path = Path(spec).expanduser()
    if path.is_file():
        return open_evaluation(path)
    name, which = (spec, "") if path.exists() or "@" not in spec else spec.rpartition("@")[::2]
    run = next((p for p in (Path(name).expanduser(), runs_folder() / name) if (p / "config.yaml").is_file()), None)
    if run is None:
        raise ConfigError(f"there is no run or evaluation `{spec}`; {runs_instead_of(name)}")
    found = evaluations_of(run)
    if which:
        found = _of_checkpoint(found, spec, run, which)
    if not found:
        raise ConfigError(f"{spec} has no evaluation yet; make one with: gantk eval --ckpt {spec}")
    return found[-1]


def _of_checkpoint(found: Sequence[Evaluation], spec: str, run: Path, which: str) -> list[Evaluation]:
    if which == "best":
        which = find_checkpoint(spec).checkpoint.folder.name
    match, folder = _OF_CHECKPOINT.fullmatch(which), run / "checkpoints" / which
    step = None if match is None else int(match[1])
    sha256 = manifest_sha256(folder) if (folder / "manifest.json").is_file() else None

    def fits(evaluation: Evaluation) -> bool:
        run = evaluation.report.get("run") or {}
        known = run.get("checkpoint_sha256")
        same = None in (known, sha256) or known == sha256
        return step is not None and evaluation.step == step and same and not run.get("rolled_back")

    return [evaluation for evaluation in found if fits(evaluation)]


def set_aside_newer(run: Path, step: int) -> str:
    """Move the evaluations beyond `step`, which the run goes on from, to `eval/superseded/`: it takes another course.

    They would be taken for those of its end. Returns a sentence where there were some, else nothing.
    """
    newer = [e for e in evaluations_of(run) if e.step is not None and e.step > step]
    for evaluation in newer:
        folder = run / "eval" / SUPERSEDED
        folder.mkdir(exist_ok=True)
        for file in (evaluation.path, evaluation.path.with_suffix(".png")):
            if file.exists():
                file.replace(folder / file.name)
    folder = run / "eval" / SUPERSEDED
    return (
        f"{len(newer)} evaluations beyond step {step} are moved to {folder}: the run goes on from before"
        if newer
        else ""
    )
