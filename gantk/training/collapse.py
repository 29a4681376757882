"""What follows from a verdict while training: it is told when it changes, and the run stops or goes back where asked to.

A rollback loads the networks, their averages, the optimisers and the objective's state from the best healthy checkpoint. It
does not turn the clock back: the images seen, the step and the place in the stream of real images go on, so the run draws
other images and other noise than before, every point of `metrics.jsonl` stands once, and the collapse stays in the curves.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gantk_eval import Report

from gantk.config.schema import CollapseConfig
from gantk.errors import CollapseError, ConfigError
from gantk.training import checkpoint as checkpoints
from gantk.training import snapshot
from gantk.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from gantk.training.trainer import Trainer

log = logging.getLogger("gantk")

_RANKS = {"collapsed": 2, "suspect": 1}
BY_VERDICT = "verdict"
"""What the best is the best by where no metric ranks checkpoints; its value is the verdict's rank."""


def rank(verdict: str | None) -> int:
    """0: healthy, as far as can be told; 1: suspect; 2: collapsed."""
    return _RANKS.get(verdict or "", 0)


class CollapseGuard:
    """Carries out `collapse.action`. All processes hold one, get the same reports, and act alike."""

    def __init__(self, config: CollapseConfig) -> None:
        self.config = config
        self.rollbacks = 0
        """How often the run went back so far."""
        self.best_verdict: str | None = None
        """The verdict on the best checkpoint."""

    def check(self, optimizers: Iterable[str]) -> None:
        """Raises `ConfigError` where the config names an optimiser that there is not."""
        known = sorted(optimizers)
        factor = self.config.learning_rate_factor
        for name in factor if isinstance(factor, dict) else ():
            if name not in known:
                raise ConfigError(
                    f"`collapse.learning_rate_factor.{name}`: this objective has the optimisers {', '.join(known)}"
                )

    def rate_factor(self, optimizer: str) -> float:
        """What the rollbacks so far multiply an optimiser's learning rate with."""
        factor = self.config.learning_rate_factor
        return float((factor.get(optimizer, 1.0) if isinstance(factor, dict) else factor) ** self.rollbacks)

    def state(self) -> dict[str, Any]:
        return {"rollbacks": self.rollbacks, "best_verdict": self.best_verdict}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.rollbacks, self.best_verdict = int(state.get("rollbacks", 0)), state.get("best_verdict")

    @property
    def has_healthy(self) -> bool:
        """Whether the best checkpoint is one to go back to."""
        return self.best_verdict is not None and rank(self.best_verdict) < 2

    def prefers(self, verdict: str, is_better: bool) -> bool:
        """Whether a model with `verdict` is the best so far: a healthier one always is, one as healthy if its score is."""
        if self.best_verdict is None:
            return is_better
        return rank(verdict) < rank(self.best_verdict) or (rank(verdict) == rank(self.best_verdict) and is_better)

    def act(self, trainer: Trainer, report: Report) -> None:
        """What the config asks for after an evaluation.

        Raises:
            CollapseError: where the run stops for it. Its last checkpoint is written.
        """
        action = self.config.action
        if report.verdict != "collapsed" or action == "warn" or trainer.images < self.config.from_kimg * 1000:
            return
        if not trainer.monitor.varied:
            if trainer.runtime.is_main:
                log.warning(
                    "collapsed at %g kimg, but its samples have never been varied, so nothing is lost yet: training goes on",
                    trainer.kimg,
                )
            return
        reason = report.collapse["reasons"][0] if report.collapse["reasons"] else "no reason given"
        if action == "rollback":
            if not self.has_healthy:
                if trainer.runtime.is_main:
                    log.warning(
                        "collapsed at %g kimg, and no checkpoint was ever healthy: training goes on", trainer.kimg
                    )
                return
            if self.rollbacks < self.config.max_rollbacks:
                self._roll_back(trainer, reason)
                return
        trainer.save()
        trainer.await_save()
        again = f" after {self.rollbacks} rollbacks" if self.rollbacks else ""
        # The best of a run that was never healthy has collapsed itself. A changed recipe is refused without the flag.
        advice = (
            f"change the recipe, and start anew or go on from the best healthy checkpoint with `--resume "
            f"{trainer.config.name}@best --allow-changes`"
            if self.has_healthy
            else "no checkpoint was ever healthy, so change the recipe and start anew with another `--name`"
        )
        raise CollapseError(
            f"the samples at {trainer.kimg:g} kimg have collapsed{again} ({reason}), and `collapse.action` is {action}: {advice}"
        )

    def _roll_back(self, trainer: Trainer, reason: str) -> None:
        # What is the best may still be under way to the disk.
        trainer.await_save()
        folder = trainer.folder / "checkpoints"
        best = checkpoints.read_best(folder)
        if best is None:
            raise CollapseError(
                f"collapsed at {trainer.kimg:g} kimg, and {folder / 'best.json'} is gone: put it back, or start anew"
            )
        start = Checkpoint(folder / best["checkpoint"])
        snapshot.restore_players(trainer, start)
        self.rollbacks += 1
        self.apply_rates(trainer)
        if trainer.runtime.is_main:
            trainer.reporter.rolled_back()
            changed = [(name, self.rate_factor(name)) for name in trainer.runner.players]
            rates = "".join(f", {name}'s learning rate × {factor:.3g}" for name, factor in changed if factor != 1)
            trainer.tracker.log(trainer.kimg, {"collapse/rollbacks": self.rollbacks, "collapse/from_kimg": start.kimg})
            trainer.status.update(rollbacks=self.rollbacks)
            trainer.tracker.alert(
                f"Rollback {self.rollbacks} of {self.config.max_rollbacks}",
                f"collapsed at {trainer.kimg:g} kimg ({reason}); the networks of {start.kimg:g} kimg play on{rates}",
            )
        # At once: a run that is killed now must not go on from the collapsed networks.
        trainer.save()
        trainer.await_save()

    def apply_rates(self, trainer: Trainer) -> None:
        """Set what the rollbacks so far make of the learning rates."""
        for player in trainer.runner.players.values():
            player.scale = self.rate_factor(player.name)
