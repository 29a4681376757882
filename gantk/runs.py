"""Where runs are, and what a user may name as `--ckpt`."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from gantk.errors import CheckpointError
from gantk.training.checkpoint import Checkpoint, checkpoints_in, read_best

_SHOWN = 12
"""The runs that an error names at most."""


def runs_folder() -> Path:
    """`$GANTK_RUNS`, or `runs/` below the working folder."""
    return Path(os.environ.get("GANTK_RUNS") or "runs").expanduser()


def list_runs() -> list[str]:
    """The names of the runs there are."""
    folder = runs_folder()
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if (path / "config.yaml").is_file())


def runs_instead_of(name: str) -> str:
    """The end of a sentence on a run that is not there: the first runs there are, and the one whose name is nearest."""
    known = list_runs()
    if not known:
        return f"there are no runs in {runs_folder()}/ yet"
    more = f" and {len(known) - _SHOWN:,} more" if len(known) > _SHOWN else ""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    nearest = f"; did you mean `{close[0]}`?" if close else ""
    return f"the runs there are: {', '.join(known[:_SHOWN])}{more}{nearest}"


@dataclass(frozen=True)
class Found:
    """What `--ckpt` stands for."""

    checkpoint: Checkpoint
    run: Path | None
    """The run's folder, where the checkpoint is in one."""

    @property
    def sentence(self) -> str:
        whole = any(name.startswith("optimizer.") for name in self.checkpoint.files)
        kind = "checkpoint" if whole else "exported generator"
        return f"{kind} {self.checkpoint.folder} ({self.checkpoint.kimg:g} kimg)"


def newest_whole(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest undamaged checkpoint of a run, and a sentence for each newer one that is damaged."""
    problems: list[str] = []
    for folder in reversed(checkpoints_in(run / "checkpoints")):
        try:
            return Checkpoint(folder), problems
        except CheckpointError as error:
            problems.append(str(error))
    return None, problems


def find_checkpoint(spec: str) -> Found:
    """Resolve a run's name, a run folder, a checkpoint folder or an exported generator.

    `NAME@best` is the best checkpoint by the evaluations during training, `NAME@step-00001000` that one, and a plain
    `NAME` the newest that is whole.

    Raises:
        CheckpointError: where there is none; the sentence lists the runs that there are.
    """
    name, which = spec, ""
    if "@" in spec and not Path(spec).expanduser().exists():
        # The last one: a path may hold an `@` of its own.
        name, _, which = spec.rpartition("@")
    path = Path(name).expanduser()
    run = next((p for p in (path, runs_folder() / name) if (p / "checkpoints").is_dir()), None)
    if run is None:
        if (path / "manifest.json").is_file():
            return Found(Checkpoint(path), path.parent.parent if path.parent.name == "checkpoints" else None)
        raise CheckpointError(f"there is no run or checkpoint `{spec}`; {runs_instead_of(name)}")
    folder = run / "checkpoints"
    if which == "best":
        best = read_best(folder)
        if best is None:
            raise CheckpointError(
                f"run {run} has no best checkpoint, for no evaluation has marked one: set `evaluate.every_kimg`, or take `{name}`"
            )
        return Found(Checkpoint(folder / best["checkpoint"]), run)
    if which:
        if not (folder / which).is_dir():
            there = ", ".join(p.name for p in checkpoints_in(folder)) or "none"
            raise CheckpointError(f"run {run} has no checkpoint `{which}`; there are: {there}")
        return Found(Checkpoint(folder / which), run)
    checkpoint, problems = newest_whole(run)
    if checkpoint is None:
        raise CheckpointError(problems[0] if problems else f"run {run} has no checkpoint yet: train it first")
    return Found(checkpoint, run)
