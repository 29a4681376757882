"""Training from Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantk.config import Config, load_config
from gantk.config.loading import build_config, warn_once
from gantk.recipes import recipes
from gantk.recipes.choosing import choose
from gantk.training.trainer import Trainer


@dataclass(frozen=True)
class Run:
    """A run that has ended well."""

    folder: Path
    """`runs/<name>/`: `metrics.jsonl`, `samples/`, `checkpoints/`, `eval/` and the rest."""
    kimg: float
    best: tuple[str, float] | None
    """The metric that marks the best checkpoint, and its value; `("verdict", rank)` where no metric ranks checkpoints (0: healthy,
    1: suspect, 2: collapsed); None where nothing was evaluated."""


def train(
    config: Config | Mapping[str, Any] | str | Path,
    *overrides: str,
    resume: str = "auto",
    allow_changes: bool = False,
) -> Run:
    """Train as `gantk train` does, in this process.

    Args:
        config: a `Config`, the mapping that a YAML file would hold, such a file's path, or a recipe's name. A run of a
            recipe with overrides is named after them, as on the command line.
        overrides: `key.sub=value`, as on the command line (not with a `Config`, which is frozen and complete).
        resume: `auto` goes on from the run's newest checkpoint, `never` refuses a run that is there; else a checkpoint.
        allow_changes: resume although the config differs.

    Raises:
        gantk.errors.UserError: for what the caller can mend; its `exit_code` says of what kind it is.
    """
    if isinstance(config, Config):
        if overrides:
            raise TypeError(
                "overrides go with a file or a mapping; a Config is complete: use config.model_copy(update=...)"
            )
        settings = config
    elif isinstance(config, Mapping):
        settings, notes = build_config(config, overrides)
        warn_once(notes)
    elif isinstance(config, str) and config in recipes():
        choice = choose(None, [config, *overrides])
        settings = choice.config
        warn_once(choice.notes)
    else:
        settings = load_config(config, overrides)
    trainer = Trainer(settings, resume, allow_changes)
    trainer.train()
    return Run(trainer.folder, trainer.kimg, trainer.best)
