"""The trainer: for each phase, accumulate, backward, step; then the moving average; then the hooks."""

from __future__ import annotations

import logging
import time

import torch

from gantk import records
from gantk.config import Config, dump_yaml
from gantk.data import Dataset, open_dataset
from gantk.errors import DataError, InterruptedRunError, PreemptedError
from gantk.progress import Progress
from gantk.runtime import Runtime
from gantk.sampling import ImageShape, Sampler, build_objective
from gantk.scoring import Scores
from gantk.tracking import Tracker
from gantk.training import checkpoint as checkpoints
from gantk.training import snapshot
from gantk.training.averaging import Averaged
from gantk.training.batches import Batches, Stream
from gantk.training.checkpoint import Checkpoint
from gantk.training.collapse import CollapseGuard
from gantk.training.hooks import (
    Checkpoints,
    Evaluation,
    Grids,
    Hook,
    Logging,
    prune_checkpoints,
    stop_if_diverged,
)
from gantk.training.monitors import Monitor
from gantk.training.phases import PhaseRunner
from gantk.training.signals import Signals
from gantk.training.start import find_start

log = logging.getLogger("gantk")


class Trainer:
    """One run of one config.

    Args:
        config: what to train.
        resume: `auto` goes on from the newest whole checkpoint of the run, where there is one; `never` refuses a run
            that is there; anything else names a checkpoint, as `--ckpt` does.
        allow_changes: go on although config or data differ from the checkpoint's.

    Raises:
        UserError: with the documented exit code, for anything that the user can mend.
    """

    def __init__(self, config: Config, resume: str = "auto", allow_changes: bool = False) -> None:
        self.config = config
        self.folder = config.run_folder
        self.runtime = Runtime(config.train)
        self.step = 0
        self.images = 0
        """Real images seen, by the first phase's count; what all intervals and schedules go by."""
        self.best: tuple[str, float] | None = None
        self.best_is_new = False
        self._allow_changes = allow_changes
        self._saved_at: int | None = None
        self.guard = CollapseGuard(config.collapse)
        self.monitor = Monitor(config.train.log_every_kimg)
        self.signals = Signals()
        self._clock = (time.perf_counter(), 0)
        start = find_start(config, self.runtime, resume, allow_changes)
        if self.runtime.is_main:
            records.open_log(self.folder)
            log.info("run %s: %s", config.name, self.runtime.in_force.sentence())
            self.status = records.Status(self.folder)
        try:
            self._prepare(start)
        except BaseException as error:
            self._record_end(error)
            raise

    # Before the first step

    def _prepare(self, start: Checkpoint | None) -> None:
        config, runtime = self.config, self.runtime
        self.dataset = open_dataset(config.data, seed=config.seed, device=runtime.device, progress=runtime.is_main)
        self.extra = {
            name: open_dataset(data, seed=config.seed, device=runtime.device, progress=runtime.is_main)
            for name, data in config.extra_data.items()
        }
        for dataset in (self.dataset, *self.extra.values()):
            self._check_size(dataset)
        shape = ImageShape.of(self.dataset)
        self.objective = build_objective(config, shape)
        if runtime.is_main:
            log.info("data: %s", self.dataset.description)
        self.objective.to(runtime.device)
        for name, network in self.objective.networks.items():
            self.objective.networks[name] = runtime.place(network)
        averaged = {name: self.objective.networks[name] for name in self.objective.averaged}
        self.averaged = Averaged(averaged, config.train.ema_half_life_kimg)
        self.runner = PhaseRunner(self.objective, runtime, config.train, config.optimizer)
        self.guard.check(self.runner.players)
        streams = {
            name: Stream(dataset, config.seed, data.flip, runtime.device, runtime.dtype)
            for (name, dataset), data in zip(
                {"": self.dataset, **self.extra}.items(),
                [config.data, *config.extra_data.values()],
                strict=True,
            )
        }
        self.batches = Batches(
            streams.pop(""),
            streams,
            seed=config.seed,
            batch_size=config.train.batch_size,
            accumulation=config.train.accumulation,
            rank=runtime.rank,
            world_size=runtime.world_size,
        )
        self.sampler = Sampler(self.objective, self.averaged.networks, shape, config.seed, runtime.device)
        # Dropout and the like draw from here: another sequence on each process.
        torch.manual_seed(config.seed * 1_000_003 + runtime.rank)
        if start is not None:
            snapshot.restore(self, start, self._allow_changes)
        else:
            self._setup_objective()
        self.hooks: list[Hook] = [
            Logging(config.train.log_every_kimg),
            Grids(config.samples.every_kimg),
            Evaluation(config.evaluate.every_kimg, config.train.kimg),
            Checkpoints(config.checkpoint.every_kimg),
        ]
        self._evaluator = self._build_evaluator() if config.evaluate.every_kimg <= config.train.kimg else None
        if runtime.is_main:
            self._open_records(start)

    def _check_size(self, dataset: Dataset) -> None:
        if len(dataset.train) < self.config.train.batch_size:
            raise DataError(
                f"there are {len(dataset.train)} training images, fewer than `train.batch_size: {self.config.train.batch_size}`: "
                "lower it, or add images"
            )

    def _setup_objective(self) -> None:
        self.batches.begin_step()
        for batch in self.batches.next("setup", 0, 0, True):
            with torch.no_grad():
                self.objective.setup(batch)
            break
        self.batches.cursor = 0

    def _open_records(self, start: Checkpoint | None) -> None:
        config, kimg = self.config, None if start is None else self.kimg
        (self.folder / "config.yaml").write_text(dump_yaml(config))
        records.write_json(self.folder / "environment.json", records.environment(self.runtime.describe()))
        self.status.update(step=self.step, kimg=self.kimg, resumed_from=str(start.folder) if start else None)
        self.tracker = Tracker.open(config, self.folder, resumed_kimg=kimg)
        self.status.update(verdict=self.tracker.verdict, rollbacks=self.guard.rollbacks)
        if start is not None:
            log.info("resuming from %s", start.folder)
            for sentence in checkpoints.drop_newer(self.folder / "checkpoints", start.step):
                log.warning(sentence)
        self.progress = Progress(config.train.kimg, enabled=config.tracking.progress, start_kimg=self.kimg)

    # The loop

    @property
    def kimg(self) -> float:
        return self.images / 1000

    @property
    def finished(self) -> bool:
        return self.images >= self.config.train.kimg * 1000

    def train(self) -> None:
        """Train to the end, and record how it ended."""
        try:
            with self.signals.watched():
                self._clock = (time.perf_counter(), self.images)
                while not self.finished:
                    self.train_step()
                    for hook in self.hooks:
                        hook.after_step(self)
                    self._stop_if_asked()
        except BaseException as error:
            self._record_end(error)
            raise
        self._record_end(None)

    def train_step(self) -> None:
        """One step of the whole game."""
        self.batches.begin_step(self.images)
        for player in self.runner.players.values():
            player.set_rate(self.images, self.config.train.kimg)
        for phase in self.objective.phases:
            if phase.due(self.step, self.images):
                for repeat in range(phase.repeats):
                    self.runner.run(phase, repeat, self.step, self.batches)
        self.runtime.average_buffers(list(self.runner.bare.values()))
        self.step += 1
        self.images += self.config.train.batch_size
        self.averaged.update(self.runner.bare, self.images, self.config.train.batch_size)

    def read_meter(self) -> dict[str, float]:
        return self.runner.meter.read(self.runtime)

    def images_per_second(self) -> float:
        """Since the last time this was asked."""
        (then, images), now = self._clock, time.perf_counter()
        self._clock = (now, self.images)
        return (self.images - images) / max(now - then, 1e-9)

    # Evaluation and checkpoints

    def _build_evaluator(self) -> Scores:
        """Refuses unknown metrics and missing weights; what takes long waits for the first evaluation."""
        from gantk.scoring import build_evaluator, check_best_by

        config = self.config.evaluate
        evaluator = build_evaluator(
            self.dataset,
            device=self.runtime.device,
            batch_size=config.batch_size,
            metrics=config.metrics,
            progress=self.runtime.is_main and self.config.tracking.progress,
        )
        check_best_by(config.best_by, config.metrics, evaluator)
        return evaluator

    def evaluate(self) -> None:
        """Score the averaged networks on all processes; mark the best."""
        from gantk.scoring import best_value, generated_images, is_better

        config = self.config.evaluate
        if self._evaluator is None:
            self._evaluator = self._build_evaluator()
        report = self._evaluator.evaluate(
            generated_images(self.sampler, config.samples, f"{self.config.name}:{self.step}")
        )
        score = best_value(report, config.best_by)
        if score is not None and self.guard.prefers(report.verdict, is_better(score, self.best)):
            self.best, self.best_is_new, self.guard.best_verdict = score, True, report.verdict
        self.monitor.wants_evaluation = False
        if self.runtime.is_main:
            values = report.to_dict()
            records.write_json(self.folder / "eval" / f"{self.images:010d}.json", values)
            self.tracker.scores(self.kimg, values)
            self.progress.write(f"at {self.kimg:g} kimg\n{report.table()}")
            self.status.update(verdict=report.verdict, reasons=report.collapse["reasons"])
        self._restart_clock()
        self.guard.act(self, report)

    def save(self) -> None:
        """Write a checkpoint, whole or not at all; every process must call it.

        Raises:
            DivergedError: where an update was withheld since the last logging: what spoilt its gradient may have gone
                into the batch statistics, which a checkpoint would keep.
        """
        stop_if_diverged(self, {})
        tensors, state = snapshot.take(self)
        if self.runtime.is_main:
            folder, name = self.folder / "checkpoints", checkpoints.checkpoint_name(self.step)
            checkpoints.write(folder / name, tensors=tensors, state=state, config=dump_yaml(self.config))
            if self.best_is_new and self.best is not None:
                checkpoints.write_best(folder, name, *self.best)
            prune_checkpoints(self)
        self.best_is_new, self._saved_at = False, self.step
        self.runtime.barrier()
        self._restart_clock()

    def _restart_clock(self) -> None:
        """The time that an evaluation or a save took is not the training's."""
        self._clock = (time.perf_counter(), self.images)
        if self.runtime.is_main:
            self.progress.restart()

    # The end

    def _stop_if_asked(self) -> None:
        """Save and stop when any process has been signalled; agreed on at each logging interval."""
        if self.runtime.world_size > 1 and not self.hooks[0].due(self):
            return
        asked = self.runtime.max(self.signals.urgency)
        if not asked or self.finished:
            return
        if self._saved_at != self.step:
            self.save()
        if asked == 1:
            raise InterruptedRunError(f"interrupted at {self.kimg:g} kimg; the same command goes on from there")
        raise PreemptedError(f"asked to stop at {self.kimg:g} kimg; the same command goes on from there")

    def _record_end(self, error: BaseException | None) -> None:
        """How the run ended, where launchers cannot lose it."""
        if not self.runtime.is_main or not hasattr(self, "status"):
            return
        state, code = records.outcome(error)
        message = None if error is None else str(error) or type(error).__name__
        if hasattr(self, "progress"):
            self.progress.close()
        self.status.update(step=self.step, kimg=self.kimg)
        self.status.finish(state, code, message)
        if hasattr(self, "tracker"):
            self.tracker.finish(code)
