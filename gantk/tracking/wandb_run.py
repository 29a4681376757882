"""Weights & Biases: one W&B run for each run folder, kept through resumes and later evaluations.

W&B is a guest here. It never asks for anything, it is waited for within limits, and what fails in it is said
once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gantk.records import read_json, write_json
from gantk.tracking.local import KIMG
from gantk.tracking.sink import Sink

if TYPE_CHECKING:
    from gantk.config.schema import Config

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]

INIT_TIMEOUT = 10.0
"""Seconds that W&B's server has to answer when a run starts; then W&B is off."""
FINISH_TIMEOUT = 30.0
"""Seconds that the last uploads may take; what is left then stays in the run folder for `wandb sync`."""
EXIT_PREEMPTED = 75

_ENVIRONMENT_MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}


class WandbRun(Sink):
    """A W&B run. Its id, project, entity and mode stand in the run folder's `wandb.json`; W&B's own files in
    `wandb/`."""

    title = "W&B"

    def __init__(self) -> None:
        super().__init__()
        self._run: Any = None
        self._on = False  # until a run is open

    @classmethod
    def of_training(cls, config: Config, folder: Path, *, resumed: bool) -> WandbRun:
        """Opens the W&B run of a training run, by `config.tracking.wandb`; when `resumed`, the one it had
        before.

        `auto` follows `$WANDB_DISABLED` and `$WANDB_MODE` where they are set, and else is online with an API key and off
        without. `$WANDB_PROJECT` counts where the config does not set a project.
        """
        settings = config.tracking
        if not resumed:  # or a later evaluation would go to the W&B run of an earlier training
            (folder / "wandb.json").unlink(missing_ok=True)
        named = "wandb_project" in settings.model_fields_set
        identity = read_json(folder / "wandb.json") or {
            "id": None,
            "project": settings.wandb_project if named else os.environ.get("WANDB_PROJECT") or settings.wandb_project,
            "entity": settings.wandb_entity,
        }
        sink = cls()
        asked = mode_of_environment()
        mode = settings.wandb if settings.wandb != "auto" else asked or "auto"
        if asked is not None and mode != asked:
            log.info("W&B: the environment asks for %s; `tracking.wandb: %s` wins.", asked, mode)
        sink._start(mode, folder, identity, name=config.name, config=config.model_dump(mode="json"))
        return sink

    @classmethod
    def of_evaluation(cls, folder: Path) -> WandbRun:
        """Opens the W&B run that `folder/wandb.json` names once more, in the mode it was made in
        (`$WANDB_MODE` comes first). Where there is no such file the run had no W&B, and this has none."""
        sink = cls()
        identity = read_json(folder / "wandb.json")
        if identity is not None:
            sink._start(mode_of_environment() or identity.get("mode") or "auto", folder, identity)
        return sink

    def _start(self, mode: str, folder: Path, identity: Mapping[str, Any], **options: Any) -> None:
        if mode == "disabled":
            return
        self._on = True
        self._attempt(lambda: self._open(mode, folder, identity, **options))
        self._on = self._run is not None

    def _open(self, mode: str, folder: Path, identity: Mapping[str, Any], **options: Any) -> None:
        # Without a key W&B would ask for one, and on a terminal wait for the answer for ever.
        if mode != "offline" and not has_key():
            level = logging.INFO if mode == "auto" else logging.WARNING
            log.log(level, "W&B is off, because there is no API key: set $WANDB_API_KEY, or run `wandb login`.")
            return
        import wandb

        settings = wandb.Settings(
            init_timeout=INIT_TIMEOUT,
            finish_timeout=FINISH_TIMEOUT,
            silent=True,  # what matters is said below, in one line
            console="off",  # stdout is for machines, and log.txt is kept already
        )
        self._run = wandb.init(
            id=identity["id"],
            project=identity["project"],
            entity=identity["entity"],
            dir=str(folder),
            mode="offline" if mode == "offline" else "online",
            resume=None if identity["id"] is None else "allow",
            reinit="create_new",  # whatever other W&B run this process has is left alone
            settings=settings,
            **options,
        )
        self._run.define_metric(KIMG)
        self._run.define_metric("*", step_metric=KIMG)
        kept = {
            "id": self._run.id,
            "project": self._run.project,
            "entity": self._run.entity or identity["entity"],
        }
        write_json(folder / "wandb.json", {**kept, "mode": "offline" if mode == "offline" else "online"})
        if mode == "offline":
            # Each resume and evaluation leaves a folder of its own; W&B uploads them in order.
            log.info(
                "W&B: offline; `wandb sync %s` uploads run %s.",
                folder / "wandb" / "offline-run-*",
                self._run.id,
            )
        else:
            log.info("W&B: %s", self._run.url)

    def _log(self, kimg: float, values: Mapping[str, float | str]) -> None:
        # Never `step=`: W&B drops rows whose step goes back, as it does after a resume.
        self._run.log({KIMG: kimg, **values})

    def _image(self, kimg: float, name: str, path: Path) -> None:
        import wandb

        self._run.log({KIMG: kimg, name: wandb.Image(str(path))})

    def _alert(self, title: str, text: str) -> None:
        self._run.alert(title=title, text=text)

    def _summary(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))

    def _finish(self, exit_code: int) -> None:
        if exit_code == EXIT_PREEMPTED:
            self._run.mark_preempting()
        self._run.finish(exit_code=exit_code)


def mode_of_environment() -> Mode | None:
    """The mode that `$WANDB_DISABLED` or `$WANDB_MODE` asks for; None where neither does."""
    if os.environ.get("WANDB_DISABLED", "").strip().lower() in ("1", "true", "yes", "on"):
        return "disabled"
    return _ENVIRONMENT_MODES.get(os.environ.get("WANDB_MODE", "").strip().lower())


def has_key() -> bool:
    """Whether W&B finds a key by itself: in the environment, a netrc file or its own settings. It does not
    ask."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True  # asking W&B would cost five seconds here when there is no network
    import wandb

    return bool(wandb.login(prompt=False, verify=False))
