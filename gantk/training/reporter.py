"""The outcome of an evaluation in training: files, trackers, a line for people; and one table when the run has ended."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gantk_eval import Report
from gantk_eval.terminal import say

from gantk.evaluations import describe_run, evaluation_file, evaluations_of, mark_rolled_back
from gantk.training.discriminator_gap import OVERFITS, DiscriminatorGap, discriminator_gap

if TYPE_CHECKING:
    from gantk.config import Config
    from gantk.training.trainer import Trainer

log = logging.getLogger("gantk")


class Reporter:
    """Records each evaluation and says it in a line, and prints the table of the last one. Only the main process has one."""

    def __init__(self, config: Config) -> None:
        self._run, self._folder, self._seed = config.name, config.run_folder, config.seed
        self._gap: DiscriminatorGap | None = None
        self.scored: Path | None = None
        """The evaluation of the networks as they are now, where there is one: a checkpoint of them belongs to it."""

    def record(self, trainer: Trainer, report: Report, best_by: str) -> None:
        """Write an evaluation down, with its picture and its points, and say it in a line, which is also in `log.txt`.

        `best_by`: the metric that ranks checkpoints, which comes first in the line.
        """
        from gantk.scoring import write_report

        kimg = trainer.kimg
        report = replace(report, run=describe_run(self._run, trainer.step, trainer.images, seed=self._seed))
        self.scored = evaluation_file(trainer.folder, trainer.images)
        picture = write_report(self.scored, report)
        gap = discriminator_gap(trainer)
        trainer.tracker.scores(kimg, report.to_dict(), None if gap is None else gap.points())
        if picture is not None:
            trainer.tracker.image(kimg, "eval/collapse_picture", picture)
        self._gap = gap
        text = f"{kimg:g} kimg: {report.line(best_by)}"
        if gap is not None and gap.ranked_above >= OVERFITS:
            text += f" · {gap.brief()}"
        log.info("%s", text)
        trainer.status.update(verdict=report.verdict, reasons=report.collapse["reasons"])

    def rolled_back(self) -> None:
        """Note that the networks of the last evaluation have been replaced by older ones."""
        if self.scored is not None:
            mark_rolled_back(self.scored)
        self.scored = None

    def end(self) -> None:
        """Print the table of the run's last evaluation on stderr, where there is one, also of a run that had ended before."""
        if not (found := evaluations_of(self._folder)):
            return
        report = Report.from_dict(found[-1].report)
        lines = ["", report.table(), *([] if self._gap is None else [self._gap.sentence()]), *found[-1].places()]
        say("\n".join([*lines, f"print this again: gantk show {self._run}"]))
