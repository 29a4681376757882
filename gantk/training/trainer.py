"""The trainer: for each phase, accumulate, backward, step; then the moving average; then the hooks."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import torch
from gantk_eval import Evaluator

from gantk import records
from gantk.config import Config, differences, dump_yaml, load_config
from gantk.data import Dataset, open_dataset
from gantk.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InterruptedRunError,
    PreemptedError,
    UserError,
)
from gantk.progress import Progress
from gantk.runs import find_checkpoint, newest_whole
from gantk.runtime import Runtime
from gantk.sampling import ImageShape, Sampler, build_objective
from gantk.tracking import Tracker
from gantk.training import checkpoint as checkpoints
from gantk.training.averaging import Averaged
from gantk.training.batches import Batches, Stream
from gantk.training.checkpoint import Checkpoint
from gantk.training.hooks import (
    Checkpoints,
    Evaluation,
    Grids,
    Hook,
    Logging,
    prune_checkpoints,
    stop_if_diverged,
)
from gantk.training.phases import PhaseRunner
from gantk.training.random_states import gather_random_states, load_random_state
from gantk.training.signals import Signals

log = logging.getLogger("gantk")

# What may differ between a checkpoint and the config that goes on from it. What changes the last bits of the weights
# (threads, device, number of processes) is announced when the checkpoint is loaded.
_MAY_CHANGE = (
    *("train.kimg", "train.log_every_kimg", "train.threads", "train.device", "train.world_size", "train.compile"),
    *("data.storage", "checkpoint.", "samples.", "evaluate.", "tracking.", "name"),
)


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
        self.signals = Signals()
        self._clock = (time.perf_counter(), 0)
        start = self._find_start(resume)
        if start is not None:
            self._refuse_changes(start, allow_changes)
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

    def _find_start(self, resume: str) -> Checkpoint | None:
        """The checkpoint to go on from, if any. Nothing is written before this is known."""
        total = self.runtime.world_size * self.config.train.accumulation
        if self.config.train.batch_size % total:
            raise ConfigError(
                f"`train.batch_size: {self.config.train.batch_size}` does not divide by {self.runtime.world_size} processes × "
                f"`train.accumulation: {self.config.train.accumulation}`: make it a multiple of {total}"
            )
        if self.runtime.is_main and records.is_running(self.folder):
            raise ConfigError(
                f"run {self.folder} is being trained by another process: wait, stop it, or give another `--name`"
            )
        self.runtime.barrier()
        exists = (self.folder / "config.yaml").is_file()
        if resume == "never":
            if exists:
                raise ConfigError(
                    f"run {self.folder} is there already: give another `--name`, or go on with `--resume auto`"
                )
            return None
        if resume != "auto":
            return find_checkpoint(resume).checkpoint
        newest, problems = newest_whole(self.folder)
        if problems and newest is None:
            # Starting anew would overwrite what is left of the run.
            raise CheckpointError(
                f"run {self.folder} has no whole checkpoint ({problems[0]}): give another `--name`, or delete the run's folder"
            )
        for problem in problems:
            log.warning(problem)
        return newest

    def _prepare(self, start: Checkpoint | None) -> None:
        config, runtime = self.config, self.runtime
        self.dataset = open_dataset(config.data, seed=config.seed, device=runtime.device, progress=runtime.is_main)
        self.extra = {
            name: open_dataset(data, seed=config.seed, device=runtime.device, progress=runtime.is_main)
            for name, data in config.extra_data.items()
        }
        for dataset in (self.dataset, *self.extra.values()):
            self._check_size(dataset)
        shape = image_shape(self.dataset)
        self.objective = build_objective(config, shape)
        if runtime.is_main:
            log.info("data: %s", self.dataset.description)
        self.objective.to(runtime.device)
        for name, network in self.objective.networks.items():
            self.objective.networks[name] = runtime.place(network)
        averaged = {name: self.objective.networks[name] for name in self.objective.averaged}
        self.averaged = Averaged(averaged, config.train.ema_half_life_kimg)
        self.runner = PhaseRunner(self.objective, runtime, config.train, config.optimizer)
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
            self._load(start)
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
        if start is not None:
            log.info("resuming from %s", start.folder)
            for sentence in checkpoints.drop_newer(self.folder / "checkpoints", start.step):
                log.warning(sentence)
        self.progress = Progress(config.train.kimg, enabled=config.tracking.progress, start_kimg=self.kimg)

    def _refuse_changes(self, start: Checkpoint, allow: bool) -> None:
        changes = [d for d in differences(load_config(start.config_file), self.config) if not d.startswith(_MAY_CHANGE)]
        if changes and not allow:
            raise CheckpointError(
                f"the config differs from that of {start.folder} ({'; '.join(changes)}): take the old values, start anew with "
                "another `--name`, or pass `--allow-changes`"
            )
        for change in changes:
            log.warning("resuming with a changed config: %s", change)

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
        self.batches.begin_step()
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

    def _build_evaluator(self) -> Evaluator:
        """Refuses unknown metrics and missing weights; what takes long waits for the first evaluation."""
        from gantk.scoring import build_evaluator, check_best_by

        config = self.config.evaluate
        check_best_by(config.best_by, config.metrics)
        return build_evaluator(
            self.dataset,
            device=self.runtime.device,
            seed=self.config.seed,
            batch_size=config.batch_size,
            metrics=config.metrics,
            progress=self.runtime.is_main and self.config.tracking.progress,
        )

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
        if score is not None and is_better(score, self.best):
            self.best, self.best_is_new = score, True
        if self.runtime.is_main:
            values = report.to_dict()
            records.write_json(self.folder / "eval" / f"{self.images:010d}.json", values)
            self.tracker.scores(self.kimg, values)
            self.progress.write(f"at {self.kimg:g} kimg\n{report.table()}")
            self.status.update(verdict=report.verdict)
        self._restart_clock()

    def save(self) -> None:
        """Write a checkpoint, whole or not at all; every process must call it.

        Raises:
            DivergedError: where an update was withheld since the last logging: what spoilt its gradient may have gone
                into the batch statistics, which a checkpoint would keep.
        """
        stop_if_diverged(self, {})
        name = checkpoints.checkpoint_name(self.step)
        random_states = gather_random_states(self.runtime)
        meter = self.runner.meter.state(self.runtime)
        if self.runtime.is_main:
            folder = self.folder / "checkpoints"
            tensors: dict[str, dict[str, torch.Tensor]] = {**random_states, "meter": meter}
            for network, module in self.runner.bare.items():
                tensors[network] = module.state_dict()
            for network, module in self.averaged.networks.items():
                tensors[f"{network}.ema"] = module.state_dict()
            for player in self.runner.players.values():
                tensors[f"optimizer.{player.name}"] = player.state()
            tensors["objective"] = self.objective.state_dict()
            checkpoints.write(folder / name, tensors=tensors, state=self._state(), config=dump_yaml(self.config))
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

    def _state(self) -> dict[str, Any]:
        scaler = self.runtime.accelerator.scaler
        return {
            "step": self.step,
            "images": self.images,
            "cursor": self.batches.cursor,
            "best": self.best,
            "shape": self.sampler.shape.to_json(),
            "data_sha256": {
                "": self.dataset.sha256,
                **{name: data.sha256 for name, data in self.extra.items()},
            },
            "in_force": dict(self.runtime.describe()),
            "gradient_scaler": None if scaler is None else scaler.state_dict(),
        }

    def _load(self, start: Checkpoint) -> None:
        state = start.state
        data = {"": self.dataset.sha256, **{name: dataset.sha256 for name, dataset in self.extra.items()}}
        if state["data_sha256"] != data:
            if not self._allow_changes:
                raise CheckpointError(
                    f"the training images are not those of {start.folder}: take the old ones, start anew with another "
                    "`--name`, or pass `--allow-changes`"
                )
            log.warning("resuming with other training images than those of %s", start.folder)
        for name, module in self.runner.bare.items():
            start.load_network(name, module)
        for name, module in self.averaged.networks.items():
            start.load_network(f"{name}.ema", module)
        for player in self.runner.players.values():
            player.load_state(start.tensors(f"optimizer.{player.name}"))
        start.load_network("objective", self.objective)
        self.runner.meter.load_state(start.tensors("meter"), self.runtime)
        self.step, self.images, self.batches.cursor = (
            start.step,
            int(state["images"]),
            int(state["cursor"]),
        )
        if state["best"] and self.runtime.max(int(self.runtime.is_main and self._has_best(start))):
            self.best = (str(state["best"][0]), float(state["best"][1]))
        if state["gradient_scaler"] and self.runtime.accelerator.scaler is not None:
            self.runtime.accelerator.scaler.load_state_dict(state["gradient_scaler"])
        load_random_state(self.runtime, start)
        was, now = state["in_force"], json.loads(json.dumps(dict(self.runtime.describe())))
        for key in sorted(was.keys() | now.keys()):
            if was.get(key) != now.get(key):
                log.warning(
                    "%s was %s and is %s: the run goes on, but not bit for bit as it would have",
                    key,
                    was.get(key),
                    now.get(key),
                )

    def _has_best(self, start: Checkpoint) -> bool:
        """Whether the best so far stays marked in this run: it is not another run's, nor from after `start`."""
        best = checkpoints.read_best(self.folder / "checkpoints")
        return best is not None and int(best["checkpoint"].removeprefix("step-")) <= start.step

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
        state, code = outcome(error)
        message = None if error is None else str(error) or type(error).__name__
        if hasattr(self, "progress"):
            self.progress.close()
        self.status.update(step=self.step, kimg=self.kimg)
        self.status.finish(state, code, message)
        if hasattr(self, "tracker"):
            self.tracker.finish(code)


def outcome(error: BaseException | None) -> tuple[records.State, int]:
    """The state and exit code that an error stands for."""
    if error is None:
        return "completed", 0
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    code = error.exit_code if isinstance(error, UserError) else 1
    states: dict[int, records.State] = {5: "diverged", 75: "preempted", 130: "interrupted"}
    return states.get(code, "failed"), code


def image_shape(dataset: Dataset) -> ImageShape:
    """What networks for `dataset` are built for."""
    names = shares = None
    if dataset.num_classes and dataset.train.labels is not None:
        # An npz or a parquet file has classes without names: their numbers are the names.
        names = dataset.class_names or tuple(str(label) for label in range(dataset.num_classes))
        counts = torch.bincount(torch.as_tensor(dataset.train.labels), minlength=len(names)).double()
        shares = tuple((counts / counts.sum()).tolist())
    return ImageShape(dataset.channels, dataset.resolution, names, shares)
