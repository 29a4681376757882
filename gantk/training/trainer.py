"""The trainer: for each phase, accumulate, backward, step; then the moving average; then the hooks."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

import torch

from gantk import records
from gantk.allocator import release_freed_memory
from gantk.config import Config, dump_yaml
from gantk.data import open_datasets
from gantk.errors import CheckpointError, CollapseError, PeerLostError, full_disk
from gantk.evaluations import evaluation_file, name_checkpoint, set_aside_newer
from gantk.objectives.checks import check_collectives, check_samples
from gantk.plugins import copies_for_checkpoint, read_plugins, write_copies
from gantk.progress import Progress
from gantk.runtime import Runtime
from gantk.sampling import ImageShape, Sampler, build_objective
from gantk.scoring import Scores
from gantk.tracking import Tracker
from gantk.training import checkpoint as checkpoints
from gantk.training import snapshot
from gantk.training.adaptation import Adaptation
from gantk.training.agreement import check_agreement
from gantk.training.averaging import Averaged
from gantk.training.background import Background
from gantk.training.batches import Batches, Stream
from gantk.training.checkpoint import Checkpoint
from gantk.training.collapse import BY_VERDICT, CollapseGuard, rank
from gantk.training.hooks import Checkpoints, Evaluation, Grids, Hook, Logging
from gantk.training.monitors import Monitor
from gantk.training.nonfinite import Buffers, settle
from gantk.training.phases import PhaseRunner
from gantk.training.reestimation import Reestimation
from gantk.training.reporter import Reporter
from gantk.training.signals import Signals, Stopped
from gantk.training.start import check_batch, check_images, find_start, set_up, settle_places, take_lock

log = logging.getLogger("gantk")

_SAVE_FAILED = 3  # weightier than any signal
AGREE_SECONDS = 2.0
"""How long several processes go on, at most, before they ask each other whether one has been told to stop."""


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
        self.plugins = read_plugins(config.plugins)
        self.runtime = Runtime(config.train)
        self.step = 0
        self.images = 0
        """Real images seen, by the first phase's count; what all intervals and schedules go by."""
        self.best: tuple[str, float] | None = None
        """What the best checkpoint is the best by, and its value there: a metric, or `BY_VERDICT`."""
        self.best_is_new = False
        self.evaluation_due = False
        """Whether a signal ended an evaluation, which is then made up for when the run goes on."""
        self._allow_changes = allow_changes
        self._saved_at: int | None = None
        self._agreed = (0, 0.0)
        """The step and the moment at which processes last asked each other whether to stop."""
        self._agree_at = 0
        self.guard = CollapseGuard(config.collapse)
        self.monitor = Monitor(config.train.log_every_kimg)
        self.reestimation = Reestimation()
        self.signals = Signals()
        self._background = Background()
        self._clock = (time.perf_counter(), 0)
        check_batch(config, self.runtime)
        self.config = config = settle_places(config, resume)
        with self.signals.watched():
            self._lock = take_lock(self.folder, self.runtime)
            try:
                start, told = find_start(config, self.runtime, resume, allow_changes)
            except BaseException:
                self._lock.release()
                raise
            if self.runtime.is_main:
                records.open_log(self.folder)
                log.info("run %s: %s", config.name, self.runtime.in_force.sentence())
                for sentence in told:
                    log.warning("%s", sentence)
                self.status = records.Status(self.folder)
                self.reporter = Reporter(config)
                self.signals.last_words = lambda error: self.status.finish(*records.outcome(error), str(error))
            with self._recording_the_end():
                try:
                    with self.signals.interrupting():
                        self._prepare(start)
                except Stopped:
                    raise self.signals.error(self.signals.urgency, "before the first step") from None

    # Before the first step

    def _prepare(self, start: Checkpoint | None) -> None:
        config, runtime = self.config, self.runtime
        datasets = open_datasets(config, device=runtime.device, progress=runtime.is_main)
        for name, dataset in datasets.items():
            check_images(config, f"extra_data.{name}" if name else "data", dataset, datasets[""])
        self.dataset, self.extra = datasets[""], {name: dataset for name, dataset in datasets.items() if name}
        release_freed_memory()
        shape = ImageShape.of(self.dataset)
        self.objective = build_objective(config, shape)
        if runtime.is_main:
            log.info("data: %s", self.dataset.description)
            if self.objective.advice is not None:
                log.warning("%s", self.objective.advice)
        self.objective.to(device=runtime.device, dtype=runtime.dtype)
        for name, network in self.objective.networks.items():
            self.objective.networks[name] = runtime.place(network)
        averaged = {name: self.objective.networks[name] for name in self.objective.averaged}
        self.averaged = Averaged(averaged, config.train.ema_half_life_kimg)
        self.runner = PhaseRunner(self.objective, runtime, config.train, config.optimizer)
        self.adaptation = Adaptation(self.objective, config.train.adapt_every_kimg)
        self.runner.adaptation_meter = self.adaptation.meter
        self.guard.check(self.runner.players)
        streams = {
            name: Stream(datasets[name], config.seed, data.flip, runtime.device, runtime.dtype, config.order_of(name))
            for name, data in config.sources.items()
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
            set_up(self)
        self.buffers = Buffers([*self.runner.bare.values(), *self.averaged.networks.values(), self.objective])
        self.played_with = Buffers([*self.runner.bare.values(), self.objective])
        check_samples(self.sampler)
        check_collectives(self.sampler)
        self._logging = Logging(config.train.log_every_kimg)
        self.hooks: list[Hook] = [
            self._logging,
            Grids(config.samples.every_kimg),
            Evaluation(config.evaluate.every_kimg, config.train.kimg),
            Checkpoints(config.checkpoint.every_kimg),
        ]
        self._evaluator = self._build_evaluator() if config.evaluate.every_kimg <= config.train.kimg else None
        if runtime.is_main:
            self._open_records(start)

    def _open_records(self, start: Checkpoint | None) -> None:
        config, kimg = self.config, None if start is None else self.kimg
        records.write_atomic(self.folder / "config.yaml", dump_yaml(config).encode())
        write_copies(self.folder / "plugins", self.plugins)
        records.write_json(self.folder / "environment.json", records.environment(self.runtime.describe()))
        self.status.update(step=self.step, kimg=self.kimg, resumed_from=str(start.folder) if start else None)
        self.tracker = Tracker.open(config, self.folder, resumed_kimg=kimg, scores_due=self.evaluation_due)
        self.status.update(verdict=self.tracker.verdict, rollbacks=self.guard.rollbacks)
        if start is not None:
            log.info("resuming from %s", start.folder)
            for sentence in checkpoints.drop_newer(self.folder / "checkpoints", start.step):
                log.warning(sentence)
        if sentence := set_aside_newer(self.folder, self.step):
            log.info(sentence)
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
        with self.signals.watched(), self._recording_the_end():
            self._make_up_evaluation()
            self._clock = (time.perf_counter(), self.images)
            self._agreed, self._agree_at = (self.step, time.perf_counter()), self.step + 1
            first = self.step + 1
            while not self.finished:
                self.train_step()
                if self.step == first:
                    check_agreement(self)
                for hook in self.hooks:
                    hook.after_step(self)
                self._stop_if_asked()
            self.await_save()
            self._record_end(None)

    def train_step(self) -> None:
        """One step of the whole game."""
        self.batches.begin_step(self.images)
        self.runner.watch.begin_step()
        for player in self.runner.players.values():
            player.set_rate(self.images, self.config.train.kimg)
        for phase in self.objective.phases:
            if phase.due(self.step, self.images):
                for repeat in range(phase.repeats):
                    self.runner.run(phase, repeat, self.step, self.batches)
        self.runtime.average_buffers([*self.runner.bare.values(), self.objective])
        if self.runner.may_go_on:
            # What a loss is computed with must be finite in the next step, and not only when this is looked at.
            self.played_with.keep()
        self.step += 1
        self.images += self.config.train.batch_size
        # Where one withheld update ends the run nothing need be kept back.
        still = self.runner.watch.stood_still if self.runner.may_go_on else None
        self.averaged.update(self.runner.bare, self.images, self.config.train.batch_size, still)
        self.adaptation.after_step(self)

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
            check=self.signals.check,
        )
        check_best_by(config.best_by, config.metrics, evaluator)
        return evaluator

    def evaluate(self) -> None:
        """Score the averaged networks on all processes; mark the best.

        A signal ends it: it is then due when the run goes on.
        """
        from gantk.scoring import best_value, generated_images, is_better

        settle(self, {})
        self.reestimation.refresh(self)
        config = self.config.evaluate
        if self._evaluator is None:
            self._evaluator = self._build_evaluator()
        images = generated_images(
            self.sampler,
            config.samples,
            f"{self.config.name}:{self.step}",
            before_each=self.signals.check,
            varied=self.monitor.note_variety(self),
        )
        self.evaluation_due = True
        try:
            # Several processes leave it together, between two chunks of images or steps of a classifier; one anywhere.
            with self.signals.interrupting() if self.runtime.world_size == 1 else contextlib.nullcontext():
                report = self._evaluator.evaluate(images)
        except (Stopped, RuntimeError) as error:
            if self.signals.is_stop(error):
                return
            raise
        self.evaluation_due = False
        score = best_value(report, config.best_by)
        if score is None:
            # No metric ranks this model: it is the best where it is healthier, or as healthy and newer than another such.
            score, better = (BY_VERDICT, float(rank(report.verdict))), self.best is None or self.best[0] == BY_VERDICT
        else:
            better = is_better(score, self.best)
        if self.guard.prefers(report.verdict, better):
            self.best, self.best_is_new, self.guard.best_verdict = score, True, report.verdict
        self.monitor.wants_evaluation = False
        self.monitor.varied = self.monitor.varied or report.verdict == "ok"
        if self.runtime.is_main:
            self.reporter.record(self, report, score[0])
        release_freed_memory()
        self._restart_clock()
        self.guard.act(self, report)

    def _make_up_evaluation(self) -> None:
        if self.evaluation_due and self.config.evaluate.every_kimg <= self.config.train.kimg:
            self.evaluate()
            if not self.evaluation_due:
                self.save()
            self._stop_if_asked()

    def save(self) -> None:
        """Take a checkpoint, which is written while training goes on, whole or not at all; every process must call it.

        Raises:
            CheckpointError: where the one before could not be written, or processes do not hold the same.
            DivergedError: as `settle` does; what is not finite is never saved.
        """
        settle(self, {})
        self.reestimation.refresh(self)
        self.await_save()
        check_agreement(self)
        tensors, state = snapshot.take(self)
        if self.runtime.is_main:
            name, config = checkpoints.checkpoint_name(self.step), dump_yaml(self.config)
            folder, keep = self.folder / "checkpoints", self.config.checkpoint.keep
            best, scored = self.best if self.best_is_new else None, self.reporter.scored
            evaluation = scored if scored == evaluation_file(self.folder, self.images) else None

            def store() -> None:
                checkpoints.store(folder, name, tensors, state, config, best, keep, copies_for_checkpoint(self.plugins))
                if evaluation is not None:
                    name_checkpoint(evaluation, folder / name)

            self._background.begin(store)
        self.best_is_new, self._saved_at = False, self.step
        self._restart_clock()

    def keep_diverged(self) -> str:
        """Write the last finite state beside the checkpoints, where no resume takes it by itself, and say where it is."""
        tensors, state = snapshot.take(self)
        folder = self.folder / "diverged"
        if self.runtime.is_main:
            try:
                checkpoints.write(
                    folder / checkpoints.checkpoint_name(self.step),
                    tensors=tensors,
                    state=state,
                    config=dump_yaml(self.config),
                    files=copies_for_checkpoint(self.plugins),
                )
                checkpoints.prune(folder, keep=1)
            except CheckpointError as error:
                log.error("%s", error)
        return f"in {folder}"

    def await_save(self) -> None:
        """Until the checkpoint under way is there; every process must call it.

        Raises:
            CheckpointError: on all of them, where it could not be written.
        """
        failure = self._background.finish()
        if self.runtime.max(int(failure is not None)):
            raise failure or CheckpointError("the main process could not write a checkpoint: see what it says")

    def _restart_clock(self) -> None:
        """The time that an evaluation or a save took is not the training's."""
        self._clock = (time.perf_counter(), self.images)
        if self.runtime.is_main:
            self.progress.restart()

    # The end

    def _stop_if_asked(self) -> None:
        """Save and stop when any process has been signalled, or could not save."""
        if not self._asks_the_others():
            return
        asked = self.runtime.max(_SAVE_FAILED if self._background.failed else self.signals.urgency)
        if asked == _SAVE_FAILED:
            self.await_save()
        if not asked or (self.finished and not self.evaluation_due):
            return
        if self._saved_at != self.step:
            self.save()
        self.await_save()
        raise self.signals.error(asked, f"at {self.kimg:g} kimg")

    def _asks_the_others(self) -> bool:
        """Whether all processes ask now, and at the same step, if one is to stop: every one or two seconds, for the answer
        makes a GPU wait; and whenever the log is written.
        """
        if self.runtime.world_size == 1:
            return True
        if not (self.evaluation_due or self._logging.due(self) or self.step >= self._agree_at):
            return False
        (step, then), now = self._agreed, time.perf_counter()
        pace = AGREE_SECONDS * (self.step - step) / max(now - then, 1e-3)
        # The fastest process's, so that all come to the same step.
        self._agree_at = self.step + max(1, self.runtime.max(int(min(pace, 1e6))))
        self._agreed = (self.step, now)
        return True

    @contextlib.contextmanager
    def _recording_the_end(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            told = self._told(error)
            self._record_end(told)
            if told is error:
                raise
            raise told from error

    def _told(self, error: BaseException) -> BaseException:
        """What the machine did to us, as a sentence; any other error as it is."""
        if self.runtime.lost_a_peer(error):
            return PeerLostError(
                "another process of this run has died, or its machine has: give the same command again on all machines, "
                "and it goes on from the newest checkpoint"
            )
        return full_disk(error, f"to {self.folder}") or error

    def _record_end(self, error: BaseException | None) -> None:
        """How the run ended, where launchers cannot lose it."""
        if not self.runtime.is_main or not hasattr(self, "status"):
            return
        if error is not None:
            # The run's own error is the one to be raised; that the last save failed as well is said.
            try:
                failure: BaseException | None = self._background.finish()
            except Exception as fault:
                failure = fault
            if failure is not None:
                log.error("%s", failure)
        state, code = records.outcome(error)
        message = None if error is None else str(error) or type(error).__name__
        if hasattr(self, "progress"):
            self.progress.close()
        if error is None or isinstance(error, CollapseError):
            self.reporter.end()
        self.status.update(step=self.step, kimg=self.kimg)
        self.status.finish(state, code, message)
        if hasattr(self, "tracker"):
            self.tracker.finish(code)
        self._lock.release()
