"""The tracker: one call for each thing worth writing down, handed on to every place that keeps it."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantk.errors import UserError
from gantk.records import is_running
from gantk.tracking.local import MetricsFile, read_metrics
from gantk.tracking.sink import Sink

if TYPE_CHECKING:
    from gantk.config.schema import Config

log = logging.getLogger(__name__)

_TITLES = {"collapsed": "Mode collapse", "suspect": "Mode collapse suspected"}


class Tracker:
    """Writes `metrics.jsonl`, and hands everything on to W&B and TensorBoard where the config asks for them.

    Only the main process makes one. Nothing that W&B or TensorBoard does can stop a run.
    """

    def __init__(self, metrics: MetricsFile, sinks: Iterable[Sink] = ()) -> None:
        self._metrics = metrics
        self._sinks = list(sinks)
        self.verdict: str | None = None
        """Of the latest evaluation."""

    @classmethod
    def open(
        cls, config: Config, folder: Path, *, resumed_kimg: float | None = None, scores_due: bool = False
    ) -> Tracker:
        """Opens every tracker that `config.tracking` asks for.

        Args:
            config: The run's config; W&B gets all of it.
            folder: The run folder, which everything is written to.
            resumed_kimg: Where a resumed run goes on from, in thousands of images: rows of `metrics.jsonl`
                beyond it are dropped, so that no point stands twice, and W&B goes on in the same run. None: a
                new run, which replaces the files of an earlier one.
            scores_due: The evaluation at `resumed_kimg` is about to be made up for: a row that a killed attempt
                left of it is dropped as well.

        Raises:
            ConfigError: where TensorBoard is asked for and not installed.
            DataError: where `metrics.jsonl` cannot be written.
        """
        sinks: list[Sink] = []
        if config.tracking.tensorboard:
            from gantk.tracking.tensorboard_files import TensorboardFiles

            sinks.append(TensorboardFiles(folder, resumed_kimg=resumed_kimg))
        metrics = MetricsFile(folder, keep_kimg=resumed_kimg, scores_due=scores_due)

        from gantk.tracking.wandb_run import WandbRun

        sinks.append(WandbRun.of_training(config, folder, resumed=resumed_kimg is not None))
        tracker = cls(metrics, sinks)
        if resumed_kimg is not None:
            verdicts = [row["eval/collapse"] for row in read_metrics(folder) if "eval/collapse" in row]
            tracker.verdict = verdicts[-1] if verdicts else None
        return tracker

    def log(self, kimg: float, values: Mapping[str, Any]) -> None:
        """Writes one row: numbers by name (`loss/d`), at `kimg` thousand images.

        Values may be Python, NumPy or torch scalars, or text. A number that is not finite is null in
        `metrics.jsonl`; W&B and TensorBoard get it as it is.

        Raises:
            DataError: where `metrics.jsonl` cannot be written.
        """
        row = {name: value if isinstance(value, str) else float(value) for name, value in values.items()}
        self._metrics.append(kimg, row)
        for sink in self._sinks:
            sink.log(kimg, row)

    def image(self, kimg: float, name: str, path: Path) -> None:
        """Shows the PNG file `path`, which is on disk already, under `name` in W&B and TensorBoard."""
        for sink in self._sinks:
            sink.image(kimg, name, path)

    def scores(
        self, kimg: float, report: Mapping[str, Any], beside: Mapping[str, float] | None = None, *, prefix: str = "eval"
    ) -> None:
        """Writes an evaluation (DESIGN's JSON: `metrics`, `collapse`, …) as one row; see `flatten`. `beside`: further values of
        that row.

        When the verdict on collapse changes, an alert goes out with its reasons: once, not at each evaluation
        that says so. A first verdict is a change where it is `suspect` or `collapsed`.
        """
        more = {f"{prefix}/{name}": value for name, value in (beside or {}).items()}
        self.log(kimg, {**flatten(report, prefix), **more})
        collapse = report.get("collapse") or {}
        before, self.verdict = self.verdict, collapse.get("verdict")
        if self.verdict is None or self.verdict == before or (before is None and self.verdict not in _TITLES):
            return
        reasons = "; ".join(collapse.get("reasons") or ()) or "no reason given"
        was = f" (it was {before})" if before is not None else ""
        self.alert(
            _TITLES.get(self.verdict, f"Verdict on collapse: {self.verdict}"),
            f"The samples at {kimg:g} kimg are {self.verdict}{was}: {reasons}.",
            level=logging.WARNING if self.verdict in _TITLES else logging.INFO,
            on_terminal=False,  # the evaluation's own line is there
        )

    def alert(self, title: str, text: str, level: int = logging.WARNING, *, on_terminal: bool = True) -> None:
        """Says so in the log, and through W&B by whatever way its user gets alerts (mail, Slack)."""
        log.log(level, "%s: %s", title, text, extra={"on_terminal": on_terminal})
        for sink in self._sinks:
            sink.alert(title, text)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Sets what W&B shows of the run as a whole (the best score, say). It is no row of
        `metrics.jsonl`."""
        for sink in self._sinks:
            sink.summary(values)

    def finish(self, exit_code: int = 0) -> None:
        """Closes everything, waiting at most half a minute for W&B's uploads. A second call does nothing."""
        self._metrics.close()
        for sink in self._sinks:
            sink.finish(exit_code)
        self._sinks = []


def flatten(report: Mapping[str, Any], prefix: str = "eval") -> dict[str, float | str]:
    """An evaluation's JSON as a row: `eval/fid`, `eval/fid_floor`, `eval/fid_standard_error`, `eval/is_std`,
    …; `eval/collapse` and `eval/memorisation` (the verdicts, as text); `eval/n_fake`. What is null is left
    out."""
    row: dict[str, Any] = {}
    for name, result in (report.get("metrics") or {}).items():
        row[f"{prefix}/{name}"] = result.get("value")
        for detail in ("std", "standard_error", "extrapolated", "floor"):
            row[f"{prefix}/{name}_{detail}"] = result.get(detail)
    for part in ("collapse", "memorisation"):
        row[f"{prefix}/{part}"] = (report.get(part) or {}).get("verdict")
    row[f"{prefix}/n_fake"] = (report.get("protocol") or {}).get("n_fake")
    return {name: value for name, value in row.items() if value is not None}


def log_evaluation(folder: Path, kimg: float, report: Mapping[str, Any], picture: Path | None = None) -> None:
    """Adds a later evaluation (`gantk eval --ckpt`) of the checkpoint at `kimg` to its run's records.

    It becomes a row `eval_ckpt/…` of `metrics.jsonl`, in the W&B run that `folder/wandb.json` names and in
    TensorBoard, where the run has those; so does the `picture` of its collapse verdict, a PNG file. It has a prefix
    of its own because scores from different numbers of samples do not belong on one curve with training's `eval/…`.
    While the run trains, W&B is left alone (one run takes one writer) and a line says so.

    Nothing is raised: the evaluation is done and its scores are what was asked for, so a run folder that
    cannot be written (someone else's, say) gets a warning.
    """
    from gantk.tracking.tensorboard_files import TensorboardFiles
    from gantk.tracking.wandb_run import WandbRun

    running = is_running(folder)
    sinks: list[Sink] = []
    try:
        # Broken lines are mended where no one else is writing.
        metrics = MetricsFile(folder, keep_kimg=math.inf if running else sys.float_info.max)
        if TensorboardFiles.are_in(folder):
            sinks.append(TensorboardFiles(folder, resumed_kimg=math.inf))
        if running:
            log.info("W&B: the run is still training and is its W&B run's only writer; see metrics.jsonl.")
        else:
            sinks.append(WandbRun.of_evaluation(folder))
        tracker = Tracker(metrics, sinks)
        tracker.scores(kimg, report, prefix="eval_ckpt")
        if picture is not None:
            tracker.image(kimg, "eval_ckpt/collapse_picture", picture)
        tracker.finish()
    except UserError as error:
        log.warning("%s The evaluation itself is whole.", error)
