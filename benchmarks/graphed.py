"""Runs of the trainer whose steps are replays of a CUDA graph, several of them side by side on one GPU.

A step of a game as small as those of `mixtures.py` is a few hundred kernels of a few microseconds, which Python launches more
slowly than the GPU works through them. In a `GraphedTrainer` the trainer's phases, carried out by its own `PhaseRunner`, are
captured once and replayed. What changes from step to step is read from tables on the device, by a counter: which
images, which random numbers, which learning rate. So a replay is the step that the trainer would make, and a
checkpoint of one goes on in the other (`tests/benchmarks/test_graphed.py`). On a processor the same steps are made one by one.

For games on data that stay on the device, without labels, in which nothing but these three changes: all phases in each step,
no penalty with a schedule, no averaged weights, no dropout, one process. Signals are not caught: what is lost is at most what came
after the newest checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from gantk.config import Config
from gantk.data.sampler import shuffled_indices
from gantk.draws import Draws, child_key, key_of, word_of
from gantk.errors import ConfigError, PreemptedError
from gantk.objectives import Batch
from gantk.runtime import Runtime
from gantk.schedules import schedule_factor
from gantk.training.batches import normalised
from gantk.training.meter import Meter
from gantk.training.trainer import Trainer

WARM_UP = 3
"""Steps of the usual kind before the graph is captured: memory and kernels are chosen in them."""


Call = tuple[str, tuple[Any, ...], tuple[tuple[str, Any], ...]]
"""Of a method of `Draws`: its name, its arguments, and its named arguments."""
Purpose = tuple[tuple[int | str, ...], tuple[str, ...]]
"""A purpose that an objective draws for: the key's parts but seed and step, and the names of children."""


class _Answers:
    """In the place of `Draws`: every call of a method is answered by a function of the children's names and that call."""

    def __init__(self, answer: Callable[[tuple[str, ...], Call], Tensor], children: tuple[str, ...] = ()) -> None:
        self._answer, self._children = answer, children

    def of(self, name: str) -> _Answers:
        return _Answers(self._answer, (*self._children, name))

    def __getattr__(self, method: str) -> Callable[..., Tensor]:
        return lambda *arguments, **named: self._answer(
            self._children, (method, arguments, tuple(sorted(named.items())))
        )


def _key(seed: int, step: int, purpose: Purpose) -> int:
    parts, children = purpose
    key = key_of(seed, "train", step, *parts)
    for name in children:
        key = child_key(key, name)
    return key


def _carry_out(call: Call, draws: Draws) -> Tensor:
    method, arguments, named = call
    drawn: Tensor = getattr(draws, method)(*arguments, **dict(named))
    return drawn


class _OfManySteps(Draws):
    """The draws of the same rows under many keys, one after the other: `words` int64 [steps], `index` int64 [N]."""

    def __init__(self, words: Tensor, index: Tensor, dtype: torch.dtype) -> None:
        super().__init__(0, index.repeat(len(words)), dtype)
        self._words = words.repeat_interleave(len(index))

    def _word(self) -> Tensor:
        return self._words


class _Sums(Meter):
    """A meter that adds in place, as a graph must, and once more for each replay."""

    def __init__(self) -> None:
        super().__init__()
        self._a_step: dict[str, int] = {}

    def add(self, name: str, value: Tensor) -> None:
        if name in self._sums:
            self._sums[name].add_(value.detach().float())
            self._counts[name] = self._counts.get(name, 0) + 1
        else:
            super().add(name, value)

    def captured(self, before: dict[str, int]) -> None:
        """What was counted since `before` was captured, and has not happened yet."""
        self._a_step = {name: count - before.get(name, 0) for name, count in self._counts.items()}
        self._counts = dict(before)

    def replayed(self, times: int) -> None:
        for name, count in self._a_step.items():
            self._counts[name] = self._counts.get(name, 0) + count * times

    def counts(self) -> dict[str, int]:
        return dict(self._counts)

    def state(self, runtime: Runtime) -> dict[str, Tensor]:
        return super().state(runtime) if self._counts else {}

    def read(self, runtime: Runtime) -> dict[str, float]:
        sums = dict(self._sums)
        if not self._counts:
            return {}
        values = super().read(runtime)
        for total in sums.values():
            total.zero_()
        self._sums, self._counts = sums, {}
        return values


class _OnDevice:
    """What `PhaseRunner.run` takes its batches from: the images, random numbers and rates of the step that `at` points to.

    Tables hold a chunk of steps: `rows` int64 [steps, draws, batch], places in the training set; `drawn` [steps, batch, …], what
    each of `calls` gives. (To draw in the graph would be a quarter of its kernels.)
    """

    def __init__(self, trainer: Trainer, draws: int, calls: Mapping[tuple[Purpose, Call], Tensor], steps: int) -> None:
        device = trainer.runtime.device
        self.trainer, self.draws, config = trainer, draws, trainer.config
        size = config.train.batch_size
        self.at = torch.zeros(1, dtype=torch.int64, device=device)
        self.rows = torch.zeros(steps, draws, size, dtype=torch.int64, device=device)
        self.drawn = {
            call: torch.zeros(steps, *given.shape, dtype=given.dtype, device=device) for call, given in calls.items()
        }
        # On a GPU fused kernels read a rate of this type; on a processor one as wide as a Python number.
        wide = torch.float32 if device.type == "cuda" else torch.float64
        self.rates = torch.zeros(steps, len(trainer.runner.players), dtype=wide, device=device)
        self.index = torch.arange(size, device=device)
        store = trainer.dataset.train
        store.fetch(torch.zeros(1, dtype=torch.int64))  # that it is there
        if store._resident is None or store._resident.device.type != device.type:
            raise _refusal(config, f"images that are not on the device (`data.storage` is {store.storage})")
        self.images, self.shape = store._resident, store.shape
        self._drawn = 0
        self._last: tuple[Tensor, dict[str, Tensor]] | None = None

    def fill(self, steps: int) -> None:
        """The tables for the trainer's next steps."""
        trainer, config = self.trainer, self.trainer.config
        size, first = config.train.batch_size, trainer.batches.cursor
        positions = torch.arange(first, first + steps * self.draws * size)
        rows = shuffled_indices(positions, len(trainer.dataset.train), config.seed)
        self.rows[:steps].copy_(rows.view(steps, self.draws, size))
        for (purpose, call), table in self.drawn.items():
            coming = range(trainer.step, trainer.step + steps)
            words = torch.tensor([word_of(_key(config.seed, step, purpose)) for step in coming])
            draws = _OfManySteps(words.to(self.index.device), self.index, trainer.runtime.dtype)
            table[:steps].copy_(_carry_out(call, draws).view(steps, *table.shape[1:]))
        images = trainer.images + size * np.arange(steps)
        rates = [
            [
                schedule_factor(p.settings.schedule, int(seen), config.train.kimg) * p.settings.lr * p.scale
                for seen in images
            ]
            for p in trainer.runner.players.values()
        ]
        self.rates[:steps].copy_(torch.tensor(rates, dtype=torch.float64).T)
        self.at.zero_()

    def begin_step(self) -> None:
        self._drawn, self._last = 0, None

    def next(self, phase: str, step: int, repeat: int, new: bool) -> Iterator[Batch]:
        if new or self._last is None:
            rows = self.rows.index_select(0, self.at)[0, self._drawn]
            pixels = self.images.index_select(0, rows).view(len(rows), *self.shape).permute(0, 3, 1, 2)
            self._last = (normalised(pixels, self.trainer.runtime.dtype), {})
            self._drawn += 1
        images, left = self._last

        def draw_for(*parts: int | str) -> Callable[[str], Draws]:
            tables = self.drawn

            def draw(purpose: str) -> Draws:
                def answer(children: tuple[str, ...], call: Call) -> Tensor:
                    return tables[((*parts, purpose), children), call].index_select(0, self.at)[0]

                return cast("Draws", _Answers(answer))

            return draw

        yield Batch(images, None, self.index, {}, draw_for(phase, repeat), draw_for(self._drawn), 0, left)


class GraphedTrainer(Trainer):
    """A trainer whose steps are launched, many in a row, and looked after when they are done: `begin`, then again and again
    `prepare`, `launch`, `advanced`; `train_together` does so."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.cuda = self.runtime.device.type == "cuda"
        self.stream = torch.cuda.Stream() if self.cuda else None
        self._replay: Callable[[], None] | None = None
        self.chunk = max(1, round(config.train.log_every_kimg * 1000 / config.train.batch_size))
        """Steps at most between two looks at what is due."""

    def begin(self) -> None:
        """A few usual steps, then the capture."""
        self.runner.meter = _Sums()
        asked: dict[tuple[Purpose, Call], Tensor] = {}
        usual = self.batches._draw_for

        def recording(moment: tuple[int | str, ...], index: Tensor) -> Callable[[str], Draws]:
            inner = usual(moment, index)

            def draw(purpose: str) -> Draws:
                def answer(children: tuple[str, ...], call: Call) -> Tensor:
                    draws = inner(purpose)
                    for name in children:
                        draws = draws.of(name)
                    given = asked[((*moment[1:], purpose), children), call] = _carry_out(call, draws)
                    return given

                return cast("Draws", _Answers(answer))

            return draw

        self.batches._draw_for = recording  # type: ignore[method-assign]
        before = self.batches.cursor
        with self._on_stream():
            for _ in range(WARM_UP):
                self.train_step()
        self.batches._draw_for = usual  # type: ignore[method-assign]
        drawn = (self.batches.cursor - before) // WARM_UP // self.config.train.batch_size
        self.tables = _OnDevice(self, drawn, asked, self.chunk)
        self._rates = [torch.zeros_like(self.tables.rates[0, 0]) for _ in self.runner.players]
        for player, rate in zip(self.runner.players.values(), self._rates, strict=True):
            for group in player.optimizer.param_groups:
                group["lr"], group["capturable"] = rate, self.cuda
        if not self.cuda:
            self._replay = self._one_step
            return
        meter = self.runner.meter
        counted = meter.counts()
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            self._one_step()
        meter.captured(counted)
        self._replay = graph.replay

    def _one_step(self) -> None:
        """The body of the graph: `Trainer.train_step` without what the host counts."""
        tables = self.tables
        for place, rate in enumerate(self._rates):
            rate.copy_(tables.rates.index_select(0, tables.at)[0, place])
        tables.begin_step()
        self.runner.watch.begin_step()
        for phase in self.objective.phases:
            for repeat in range(phase.repeats):
                self.runner.run(phase, repeat, self.step, tables)  # type: ignore[arg-type]
        tables.at.add_(1)

    def steps_to_next_look(self) -> int:
        """Until a logging interval ends, or the run."""
        done = self.images // self.config.train.batch_size
        total = -(-round(self.config.train.kimg * 1000) // self.config.train.batch_size)
        return min(self.chunk - done % self.chunk, total - done)

    def prepare(self, steps: int) -> None:
        with self._on_stream():
            self.tables.fill(steps)

    def launch(self) -> None:
        """One step; on a GPU it is not awaited."""
        assert self._replay is not None
        with self._on_stream():
            self._replay()

    def advanced(self, steps: int) -> None:
        """After so many launches: counts, and what is due."""
        if self.stream is not None:
            self.stream.synchronize()
            self.runner.meter.replayed(steps)  # type: ignore[attr-defined]
        size = self.config.train.batch_size
        self.step += steps
        self.images += steps * size
        self.batches.cursor += steps * self.tables.draws * size
        self.averaged.update(self.runner.bare, self.images, size, None)
        for hook in self.hooks:
            hook.after_step(self)
        if self.cuda:
            torch.cuda.synchronize()

    def finish(self, error: BaseException | None) -> None:
        """Records how the run ended, and lets go of its folder."""
        self._record_end(error)

    def _on_stream(self) -> Any:
        return torch.cuda.stream(self.stream)


def _refusal(config: Config, what: str) -> ConfigError:
    return ConfigError(f"{config.name}: a graph of a step would not follow {what}: train it without graphs")


def _check(config: Config) -> None:
    """Raises ConfigError where more changes from step to step than a graph is told."""
    wrong = []
    look = config.train.log_every_kimg
    if look * 1000 <= WARM_UP * config.train.batch_size or not _divides(config.train.batch_size / 1000, look):
        wrong.append("train.log_every_kimg, which must be a number of steps, and of more than the first few")
    for name in ("checkpoint", "samples", "evaluate"):
        # What is due is looked for where a logging interval ends.
        every = getattr(config, name).every_kimg
        if every <= config.train.kimg and not _divides(look, every):
            wrong.append(f"{name}.every_kimg, which must be a multiple of train.log_every_kimg")
    if config.train.ema_half_life_kimg:
        wrong.append("train.ema_half_life_kimg")
    if config.train.accumulation > 1:
        wrong.append("train.accumulation")
    if config.train.precision == "fp16":
        wrong.append("train.precision")
    if config.data.flip or config.extra_data:
        wrong.append("data.flip and extra_data")
    if config.collapse.monitor:
        wrong.append("collapse.monitor")
    penalties = getattr(config.objective, "regularization", None)
    for name, penalty in (penalties.model_dump() if penalties is not None else {}).items():
        if isinstance(penalty, dict) and penalty.get("schedule", {}).get("type", "constant") != "constant":
            wrong.append(f"objective.regularization.{name}.schedule")
    if wrong:
        raise _refusal(config, ", ".join(wrong))


def _divides(part: float, whole: float) -> bool:
    return abs(whole / part - round(whole / part)) < 1e-6


def train_together(configs: list[Config], minutes: float = 1e6) -> None:
    """Runs of these configs to their ends, side by side; after the minutes each is saved where it is, to be gone on with.

    Raises ConfigError for what a graph cannot follow; where the config alone says so, before any of them begins.
    """
    end = time.monotonic() + 60 * minutes
    for config in configs:
        _check(config)
    trainers = [GraphedTrainer(config) for config in configs]
    ended: list[GraphedTrainer] = []
    error: BaseException | None = None
    try:
        for trainer in trainers:
            _check_game(trainer)
            if not trainer.finished:
                trainer.begin()
        while True:
            for trainer in [t for t in trainers if t.finished and t not in ended]:
                trainer.await_save()
                trainer.finish(None)
                ended.append(trainer)
            active = [trainer for trainer in trainers if trainer not in ended]
            if not active:
                return
            if time.monotonic() > end:
                error = PreemptedError("the minutes were over; the same command goes on from there")
                for trainer in active:
                    trainer.save()
                    trainer.await_save()
                return
            _one_look_on(active)
    except BaseException as fault:
        error = fault
        raise
    finally:
        for trainer in trainers:
            if trainer not in ended:
                trainer.finish(error)


def _one_look_on(trainers: list[GraphedTrainer]) -> None:
    """Each trainer's steps to its next look."""
    counts = [trainer.steps_to_next_look() for trainer in trainers]
    for trainer, count in zip(trainers, counts, strict=True):
        trainer.prepare(count)
    longest = max(counts)
    for number in range(longest):
        for trainer, count in zip(trainers, counts, strict=True):
            # Spread evenly: a run whose queue is full would hold up the others.
            if number * count // longest != (number + 1) * count // longest:
                trainer.launch()
    for trainer, count in zip(trainers, counts, strict=True):
        trainer.advanced(count)


def _check_game(trainer: Trainer) -> None:
    for phase in trainer.objective.phases:
        if phase.every != 1 or phase.from_kimg > 0 or phase.to_kimg * 1000 < trainer.config.train.kimg * 1000:
            raise _refusal(trainer.config, f"phase `{phase.name}`, which is not played in each step")
    if trainer.adaptation.meter is not None:
        raise _refusal(trainer.config, "an objective that adapts")
    if trainer.objective.family.conditional:
        raise _refusal(trainer.config, "labels")
