"""A run that was stopped and goes on is, bit for bit, the run that was not stopped."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gantk.config import load_config
from gantk.data import open_dataset
from gantk.errors import CheckpointError, ConfigError, InterruptedRunError, PreemptedError, UserError
from gantk.runtime import Runtime
from gantk.tracking import read_metrics
from gantk.training.checkpoint import Checkpoint, checkpoints_in, read_best, write_best
from gantk.training.hooks import Hook
from gantk.training.trainer import Trainer

# 12 steps on 100 images: a new epoch begins inside of the fourth, seventh and tenth; a row is written every third step.
SHORT = (
    "train.kimg=0.384", "train.log_every_kimg=0.096", "data.limit=100", "checkpoint.every_kimg=99", "samples.every_kimg=99",
    "evaluate.every_kimg=99",
)  # fmt: skip


class _Signal(Hook):
    """Sends this process a signal after a step, as a scheduler would."""

    def __init__(self, step: int, number: int) -> None:
        super().__init__(1e9)
        self.step, self.number = step, number

    def after_step(self, trainer: Trainer) -> None:
        if trainer.step == self.step:
            os.kill(os.getpid(), self.number)


def train(
    tiny: Path, name: str, *overrides: str, stop_at: int | None = None, number: int = signal.SIGTERM, **options: Any
) -> Trainer:
    """A run, stopped by a signal after step `stop_at`, or to its end."""
    trainer = Trainer(load_config(tiny, [*SHORT, *overrides, f"name={name}"]), **options)
    if stop_at is None:
        trainer.train()
    else:
        trainer.hooks.insert(0, _Signal(stop_at, number))
        with pytest.raises(UserError):
            trainer.train()
    return trainer


def final(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Everything in the newest checkpoint, by file and name."""
    newest = Checkpoint(checkpoints_in(trainer.folder / "checkpoints")[-1])
    assert newest.step == trainer.step
    stems = [name.removesuffix(".safetensors") for name in newest.files if name.endswith(".safetensors")]
    return {f"{stem}/{name}": value for stem in stems for name, value in newest.tensors(stem).items()}


def rows(trainer: Trainer) -> list[dict[str, float]]:
    return [
        {key: value for key, value in row.items() if not key.startswith("speed/")}
        for row in read_metrics(trainer.folder)
    ]


def status(trainer: Trainer) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((trainer.folder / "status.json").read_text())
    return value


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


CASES: dict[str, tuple[str, ...]] = {
    "fp32": (),
    "bf16": ("train.precision=bf16",),
    "repeats-accumulation": ("objective.discriminator_steps=2", "train.accumulation=2"),
    "dropout-flip": ("plugins=[games]", "objective.type=test_dropout", "data.flip=true"),
    "conditional-schedule": (
        "network={type: conditional_dcgan, width: 8, hidden_dim: 16}",
        "optimizer.schedule={type: cosine, warmup_kimg: 0.1}",
        "optimizer.clip_norm=0.5",
    ),
    "sgd-rmsprop": (
        "optimizer.phases={d: {type: sgd, momentum: 0.9}, g: {type: rmsprop, momentum: 0.5}}",
        "optimizer.lr=1e-3",
        "train.channels_last=false",
    ),
    "lazy-disk": ("plugins=[games]", "objective={type: test_lazy_r1, interval: 4}", "data.storage=disk"),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", CASES)
def test_stopping_and_going_on_changes_nothing(case: str, tiny: Path) -> None:
    straight = train(tiny, "straight", *CASES[case])
    assert straight.step == 12
    # Stopped inside of a logging interval, and once more at the very next step.
    train(tiny, "broken", *CASES[case], stop_at=5)
    train(tiny, "broken", *CASES[case], stop_at=6)
    resumed = train(tiny, "broken", *CASES[case])
    assert_equal(final(straight), final(resumed))
    assert rows(straight) == rows(resumed)
    assert [row["progress/kimg"] for row in rows(resumed)] == [0.096, 0.192, 0.288, 0.384]
    assert status(resumed)["resumed_from"].endswith("step-00000006")
    assert (status(resumed)["state"], status(resumed)["exit_code"]) == ("completed", 0)
    assert status(straight)["resumed_from"] is None


def test_the_comparison_can_fail(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume that forgets one thing is seen: the optimiser, the place in the data, the random state, the average."""
    case = CASES["dropout-flip"]
    straight = final(train(tiny, "straight", *case))
    train(tiny, "broken", *case, stop_at=5)
    folder = Path(os.environ["GANTK_RUNS"]) / "broken"
    for forgotten, patch in {
        "optimiser": ("gantk.training.optimizers.Player.load_state", lambda self, state: None),
        "random state": ("gantk.training.snapshot.load_random_state", lambda runtime, start: None),
    }.items():
        copy = shutil.copytree(folder, folder.with_name(f"without-{forgotten.replace(' ', '-')}"))
        with pytest.MonkeyPatch.context() as context:
            context.setattr(*patch)
            resumed = final(train(tiny, copy.name, *case))
        assert any(not torch.equal(straight[name], resumed[name]) for name in straight), forgotten


def test_same_config_and_seed_give_the_same_weights(tiny: Path) -> None:
    one, two = (train(tiny, name) for name in ("one", "two"))
    assert_equal(final(one), final(two))
    assert rows(one) == rows(two)
    other = final(train(tiny, "three", "seed=1"))
    same = final(one)
    for name in same:
        if name.startswith("generator/") and name.endswith("weight"):
            assert not torch.isclose(same[name], other[name]).all(), name


def test_the_weights_do_not_depend_on_what_is_logged_drawn_and_saved(tiny: Path) -> None:
    game = ("plugins=[games]", "objective.type=test_dropout")
    quiet = train(tiny, "quiet", *game)
    busy = train(
        tiny, "busy", *game, "train.log_every_kimg=0.032", "samples.every_kimg=0.032", "checkpoint.every_kimg=0.032",
        "evaluate={every_kimg: 0.192, samples: 50, metrics: [fd_pixel_pca]}",
    )  # fmt: skip
    assert_equal(final(quiet), final(busy))
    assert len([row for row in rows(busy) if "d/loss" in row]) == 12
    assert len(list((busy.folder / "eval").glob("*.json"))) == 2
    assert len(list((busy.folder / "eval").glob("*.png"))) == 2, "the pictures of the collapse verdict"


def test_a_finished_run_can_be_lengthened(tiny: Path) -> None:
    straight = train(tiny, "straight")
    train(tiny, "half", "train.kimg=0.192")
    longer = train(tiny, "half")
    assert_equal(final(straight), final(longer))
    assert rows(straight) == rows(longer)


def test_a_finished_run_stays_as_it_is(tiny: Path) -> None:
    before = train(tiny, "done")
    again = train(tiny, "done")
    assert again.step == 12
    assert rows(again) == rows(before)
    assert status(again)["state"] == "completed"


# What a run goes on from


def test_changed_config_is_refused_with_the_difference(tiny: Path) -> None:
    train(tiny, "run", "train.kimg=0.192")
    before = (Path(os.environ["GANTK_RUNS"]) / "run" / "status.json").read_bytes()
    with pytest.raises(CheckpointError, match=r"optimizer\.lr: 0\.0002 → 0\.001.*--allow-changes") as caught:
        train(tiny, "run", "optimizer.lr=1e-3")
    assert caught.value.exit_code == 4
    assert "train.kimg" not in str(caught.value)
    # The refused command says nothing about the run.
    assert (Path(os.environ["GANTK_RUNS"]) / "run" / "status.json").read_bytes() == before
    allowed = train(tiny, "run", "optimizer.lr=1e-3", allow_changes=True)
    assert allowed.step == 12
    assert allowed.runner.players["d"].rate == 1e-3
    assert "resuming with a changed config: optimizer.lr" in (allowed.folder / "log.txt").read_text()


def test_what_decides_when_a_collapse_is_acted_on_is_announced(tiny: Path) -> None:
    acting = ("collapse.action=stop", "evaluate={every_kimg: 0.128, samples: 20, metrics: [fd_pixel_pca]}")
    train(tiny, "run", *acting, "train.kimg=0.128")
    more = ("train.kimg=0.192", "train.log_every_kimg=0.064")
    log = (train(tiny, "run", *acting, *more).folder / "log.txt").read_text()
    assert re.search(r"which `collapse\.action` acts on: train\.log_every_kimg: \S+ → 0\.064", log)
    train(tiny, "calm", "train.kimg=0.128")
    log = (train(tiny, "calm", *more).folder / "log.txt").read_text()
    assert "acts on" not in log


def test_changed_images_are_refused(tiny: Path, tmp_path: Path) -> None:
    import numpy as np

    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images)
    data = f"data={{source: npz, path: {tmp_path}/data.npz, resolution: 8}}"
    train(tiny, "run", "data.limit=null", data, "train.kimg=0.192")
    images[3, 4, 5] ^= 255
    images[7, 1, 1] ^= 255
    np.savez(tmp_path / "data.npz", images=images)
    with pytest.raises(CheckpointError, match=r"the training images are not those of .*--allow-changes"):
        train(tiny, "run", "data.limit=null", data)
    assert train(tiny, "run", "data.limit=null", data, allow_changes=True).step == 12


@pytest.mark.parametrize(("first", "then"), [("memory", "stream"), ("stream", "disk")])
def test_another_storage_is_the_same_images(first: str, then: str, tiny: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(60) % 10)
    data = ("data.limit=null", f"data={{source: npz, path: {tmp_path}/data.npz, resolution: 8}}")
    straight = train(tiny, "straight", *data)
    train(tiny, "run", *data, f"data.storage={first}", stop_at=5)
    assert_equal(final(straight), final(train(tiny, "run", *data, f"data.storage={then}")))
    # The same file under another order of its images is other data, and said so, from a stream too.
    np.savez(tmp_path / "data.npz", images=images[::-1], labels=np.arange(60) % 10)
    with pytest.raises(CheckpointError, match="the training images are not those of"):
        train(tiny, "run", *data, f"data.storage={then}", "train.kimg=0.5")


def test_the_same_pixels_from_elsewhere_are_the_same_images(tiny: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images)
    np.savez_compressed(tmp_path / "copy.npz", images=images)
    data = "data={{source: npz, path: {}/{}.npz, resolution: 8}}"
    run = train(tiny, "run", "data.limit=null", data.format(tmp_path, "data"), stop_at=5)
    copy = open_dataset(load_config(tiny, [data.format(tmp_path, "copy")]).data)
    state = Checkpoint(checkpoints_in(run.folder / "checkpoints")[-1]).state
    assert copy.is_that_of(state)
    assert state["data_identity"] != {"": copy.identity}
    # A checkpoint from before the identity was kept: of decoded pixels, and of a stream.
    assert copy.is_that_of({"data_sha256": state["data_sha256"]})
    assert run.dataset.is_that_of({"data_sha256": state["data_identity"]})
    assert not copy.is_that_of({"data_sha256": state["data_identity"]})


def test_network_of_another_size_is_told_apart_although_allowed(tiny: Path) -> None:
    train(tiny, "run", "train.kimg=0.192")
    with pytest.raises(CheckpointError, match=r"network\.width: 8 → 4"):
        train(tiny, "run", "network.width=4")
    with pytest.raises(CheckpointError, match=r"is \(.*\) in the checkpoint and \(.*\) in the config's network"):
        train(tiny, "run", "network.width=4", allow_changes=True)


def test_never_refuses_a_run_that_is_there(tiny: Path) -> None:
    train(tiny, "run", "train.kimg=0.192")
    with pytest.raises(ConfigError, match="is there already: give another `--name`") as caught:
        train(tiny, "run", resume="never")
    assert caught.value.exit_code == 2
    assert train(tiny, "fresh", "train.kimg=0.064", resume="never").step == 2


def damage(folder: Path) -> Path:
    file = folder / "generator.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return file


def test_damaged_newest_is_passed_over_with_a_warning(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    straight = train(tiny, "straight")
    run = train(tiny, "run", "checkpoint.every_kimg=0.064", "train.kimg=0.256")
    older, newest = checkpoints_in(run.folder / "checkpoints")
    file = damage(newest)
    with pytest.raises(CheckpointError, match=f"{file} is damaged") as caught:
        train(tiny, "run", resume=str(newest))
    assert caught.value.exit_code == 4
    with pytest.raises(CheckpointError, match=f"{file} is damaged"):
        train(tiny, "run", resume=f"run@{newest.name}")
    resumed = train(tiny, "run")
    assert any(str(file) in record.message for record in caplog.records)
    assert status(resumed)["resumed_from"] == str(older)
    assert_equal(final(straight), final(resumed))
    assert rows(straight) == rows(resumed)


def test_run_of_which_all_is_damaged_is_not_overwritten(tiny: Path) -> None:
    run = train(tiny, "run", "train.kimg=0.192")
    (only,) = checkpoints_in(run.folder / "checkpoints")
    damage(only)
    before = (run.folder / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match="has no whole checkpoint"):
        train(tiny, "run")
    assert (run.folder / "metrics.jsonl").read_bytes() == before


def test_going_back_to_an_older_checkpoint_takes_another_course(tiny: Path) -> None:
    """What came after it is dropped: the next `auto` must not go on from there."""
    run = train(tiny, "run", "checkpoint={every_kimg: 0.064, keep: 9}")
    folder = run.folder / "checkpoints"
    write_best(folder, "step-00000008", "fd", 1.0)
    back = train(tiny, "run", "checkpoint.keep=9", resume="run@step-00000004", stop_at=5)
    assert [path.name for path in checkpoints_in(folder)] == [f"step-0000000{step}" for step in (2, 4, 5)]
    assert read_best(folder) is None
    assert status(back)["resumed_from"] == str(folder / "step-00000004")
    resumed = train(tiny, "run", "checkpoint.keep=9")
    assert status(resumed)["resumed_from"] == str(folder / "step-00000005")
    assert_equal(final(train(tiny, "straight")), final(resumed))


def test_another_runs_checkpoint(tiny: Path) -> None:
    train(tiny, "first", stop_at=5)
    second = train(tiny, "second", resume="first")
    assert_equal(final(train(tiny, "straight")), final(second))
    with pytest.raises(
        CheckpointError,
        match="`frist`; the runs there are: first, second, straight; did you mean `first`",
    ):
        train(tiny, "third", resume="frist")


def test_difference_of_the_machine_is_announced(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tiny, "run", stop_at=5)
    train(tiny, "run", "train.threads=2", allow_changes=True)
    assert any("threads was 1 and is 2: the run goes on, but not bit for bit" in r.message for r in caplog.records)


def test_nothing_is_announced_where_nothing_differs(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tiny, "run", stop_at=5)
    caplog.clear()
    train(tiny, "run")
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == []


# Signals


@pytest.mark.parametrize(
    ("number", "error", "code", "state"),
    [
        (signal.SIGTERM, PreemptedError, 75, "preempted"),
        (signal.SIGUSR1, PreemptedError, 75, "preempted"),
        (signal.SIGINT, InterruptedRunError, 130, "interrupted"),
    ],
)
def test_signal_saves_and_stops(tiny: Path, number: int, error: type[UserError], code: int, state: str) -> None:
    before = signal.getsignal(number)
    trainer = Trainer(load_config(tiny, [*SHORT, "name=run"]))
    trainer.hooks.insert(0, _Signal(4, number))
    with pytest.raises(error) as caught:
        trainer.train()
    assert caught.value.exit_code == code
    assert Checkpoint(trainer.folder / "checkpoints" / "step-00000004").step == 4
    assert (status(trainer)["state"], status(trainer)["exit_code"], status(trainer)["step"]) == (state, code, 4)
    assert signal.getsignal(number) is before


def test_second_interrupt_stops_at_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gantk.training.signals.AGAIN_SECONDS", 0.0)
    trainer = Trainer(load_config(tiny, [*SHORT, "name=run"]))

    class Twice(Hook):
        def after_step(self, trainer: Trainer) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    trainer.hooks.insert(0, Twice(1))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert (status(trainer)["state"], status(trainer)["exit_code"]) == ("interrupted", 130)
    assert checkpoints_in(trainer.folder / "checkpoints") == []


@pytest.mark.parametrize(
    ("where", "precision"), [((5, "d", 0), "no"), ((5, "d", 1), "bf16"), ((5, "g", 1), "no"), ((5, "g", 1), "bf16")]
)
def test_signal_between_two_micro_batches(where: tuple[int, str, int], precision: str, tiny: Path) -> None:
    """The step ends, whatever part of its gradient was there, and what goes on is the run that was not stopped."""
    case = (
        *CASES["repeats-accumulation"], "plugins=[games]", "objective.type=test_dropout", f"train.precision={precision}",
    )  # fmt: skip
    straight = train(tiny, "straight", *case)
    trainer = Trainer(load_config(tiny, [*SHORT, *case, "name=broken"]))
    draw, seen = trainer.batches.next, []

    def signalled(phase: str, *arguments: Any) -> Iterator[Any]:
        for micro, batch in enumerate(draw(phase, *arguments)):
            if (trainer.step, phase, micro) == where and not seen:
                seen.append(len(trainer.batches.rows()))
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    trainer.batches.next = signalled  # type: ignore[method-assign]
    with pytest.raises(PreemptedError):
        trainer.train()
    assert seen == [2], "an update is of two micro-batches"
    assert trainer.step == 6
    resumed = train(tiny, "broken", *case)
    assert_equal(final(straight), final(resumed))
    assert rows(straight) == rows(resumed)


def test_signal_in_the_last_step_completes(tiny: Path) -> None:
    trainer = Trainer(load_config(tiny, [*SHORT, "name=run"]))
    trainer.hooks.insert(0, _Signal(12, signal.SIGTERM))
    trainer.train()
    assert status(trainer)["state"] == "completed"


def test_a_step_that_was_just_saved_is_not_saved_again(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = []
    save = Trainer.save
    monkeypatch.setattr(Trainer, "save", lambda self: (saves.append(self.step), save(self)))
    train(tiny, "run", "checkpoint.every_kimg=0.128", stop_at=4)
    assert saves == [4]


def test_run_that_is_being_trained_is_refused(tiny: Path) -> None:
    trainer = Trainer(load_config(tiny, [*SHORT, "name=run"]))
    with pytest.raises(ConfigError, match="is being trained by another process"):
        Trainer(load_config(tiny, [*SHORT, "name=run"]))
    trainer.train()


# Every boundary

# 12 steps of 32 images, an epoch of 96: steps 3, 6, 9 end one. Logged at 3, 6, 9, 12, evaluated after 4, 8 and 12.
BOUNDARIES = {
    "in the first interval": 1, "end of an epoch": 3, "right after an evaluation": 4, "in the midst of an epoch": 5,
    "end of an epoch again": 6, "evaluation in the middle of an interval": 8, "the step before the last": 11,
}  # fmt: skip
AT_BOUNDARIES = (
    "train.kimg=0.384", "train.log_every_kimg=0.096", "data.limit=96", "checkpoint.every_kimg=99", "samples.every_kimg=99",
    "evaluate={every_kimg: 0.128, samples: 60, metrics: [fd_pixel_pca]}", "plugins=[games]", "data.flip=true",
)  # fmt: skip


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize(("steps", "accumulation"), [(1, 1), (2, 2)])
def test_stopped_at_every_boundary(precision: str, steps: int, accumulation: int, tiny: Path) -> None:
    case = (
        *AT_BOUNDARIES, f"train.precision={precision}", f"train.accumulation={accumulation}",
        f"objective={{type: test_dropout, discriminator_steps: {steps}}}",
    )  # fmt: skip
    straight = train(tiny, "straight", *case)
    for step in BOUNDARIES.values():
        stopped = train(tiny, "broken", *case, stop_at=step)
        assert stopped.step == step
    resumed = train(tiny, "broken", *case)
    assert_equal(final(straight), final(resumed))
    assert rows(straight) == rows(resumed)
    points = [(row["progress/kimg"], "d/loss" in row) for row in rows(resumed)]
    assert len(points) == len(set(points)) == 4 + 3
    assert status(resumed)["resumed_from"].endswith("step-00000011")


class Bomb:
    """What unpickling executes."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def test_a_pickle_in_place_of_any_file_is_not_executed(tiny: Path, tmp_path: Path) -> None:
    """In a checkpoint whose manifest vouches for it, and in the decoded data."""
    run = train(tiny, "run", stop_at=5)
    (newest,) = checkpoints_in(run.folder / "checkpoints")
    bomb = pickle.dumps(Bomb(tmp_path / "executed"))
    files = sorted(path for path in newest.iterdir() if path.name != "manifest.json")
    assert {"generator.safetensors", "generator.ema.safetensors", "state.json", "config.yaml"} <= {
        f.name for f in files
    }
    assert any(file.name.startswith("optimizer") for file in files)
    for file in [*files, newest / "manifest.json"]:
        before, manifest = file.read_bytes(), (newest / "manifest.json").read_bytes()
        file.write_bytes(bomb)
        if file.name != "manifest.json":
            vouched = json.loads(manifest)
            vouched["files"][file.name] = {"sha256": hashlib.sha256(bomb).hexdigest(), "bytes": len(bomb)}
            (newest / "manifest.json").write_text(json.dumps(vouched))
        with pytest.raises(UserError):
            train(tiny, "run")
        assert not (tmp_path / "executed").exists(), file
        file.write_bytes(before)
        (newest / "manifest.json").write_bytes(manifest)
    for file in (Path(os.environ["GANTK_CACHE"])).rglob("*.np[yz]"):
        file.write_bytes(bomb)
    assert train(tiny, "run").step == 12, "the data are decoded anew"
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
def test_two_runs_of_two_processes_open_new_data_at_once(tiny: Path, tmp_path: Path, launch: Any) -> None:
    """One of the four decodes, each image once, and all train on the same."""
    images = np.random.default_rng(0).integers(0, 256, (600, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images)
    data = f"data={{source: npz, path: {tmp_path}/data.npz, resolution: 8}}"

    def start(name: str) -> Any:
        return launch(2, "opened", tiny, tmp_path / name, *SHORT, "data.limit=null", data, f"name={name}")

    with ThreadPoolExecutor() as pool:
        for done in pool.map(start, ("one", "two")):
            assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads((tmp_path / f"{name}.{rank}").read_text()) for name in ("one", "two") for rank in (0, 1)]
    decoded = sorted(count for count, _ in told)
    assert decoded[:3] == [0, 0, 0]
    # The first is looked at once more, to know grey from colour.
    assert decoded[3] in (600, 601)
    assert len({sha256 for _, sha256 in told}) == 1
    runs = Path(os.environ["GANTK_RUNS"])
    one, two = (Checkpoint(checkpoints_in(runs / name / "checkpoints")[-1]) for name in ("one", "two"))
    assert_equal(one.tensors("generator"), two.tensors("generator"))


@pytest.mark.slow
def test_two_processes_stopped_at_every_boundary(tiny: Path, launch: Any) -> None:
    """One process alone is signalled each time, and both stop at the same step, in fp32 and bf16."""
    case = (
        *AT_BOUNDARIES, "train.accumulation=2", "objective={type: test_dropout, discriminator_steps: 2}",
        "train.log_every_kimg=0.032",
    )  # fmt: skip
    done = launch(2, "boundaries", tiny, ",".join(map(str, BOUNDARIES.values())), *case)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = Path(os.environ["GANTK_RUNS"])
    for precision in ("no", "bf16"):
        one, two = (
            Checkpoint(checkpoints_in(runs / f"{name}-{precision}" / "checkpoints")[-1])
            for name in ("straight", "broken")
        )
        assert one.step == two.step == 12
        assert one.files == two.files
        assert {"rng-00000.safetensors", "rng-00001.safetensors"} <= one.files
        for stem in (name.removesuffix(".safetensors") for name in one.files if name.endswith(".safetensors")):
            assert_equal(one.tensors(stem), two.tensors(stem))
        assert not torch.equal(*(one.tensors(f"rng-0000{rank}")["cpu"] for rank in range(2)))
        found = [
            [
                {k: v for k, v in row.items() if not k.startswith("speed/")}
                for row in read_metrics(runs / f"{name}-{precision}")
            ]
            for name in ("straight", "broken")
        ]
        assert found[0] == found[1]
        assert len(found[0]) == 12 + 3


# World size


@pytest.mark.slow
def test_what_is_drawn_does_not_depend_on_the_world_and_differs_between_processes(
    tiny: Path, tmp_path: Path, launch: Any
) -> None:
    case = ("data.flip=true", "data.limit=100", "train.accumulation=2")
    for world in (1, 2):
        done = launch(world, "batches", tiny, tmp_path / str(world), *case, f"name=world{world}")
        assert done.returncode == 0, done.stderr[-3000:]
    drawn = {world: [load_file(f"{tmp_path / str(world)}.{rank}") for rank in range(world)] for world in (1, 2)}

    def whole(world: int, step: int, name: str) -> torch.Tensor:
        """A step's values in the order of the rows of the global batch."""
        index = torch.cat([part[f"{step}/{micro}/index"] for part in drawn[world] for micro in range(2)])
        values = torch.cat([part[f"{step}/{micro}/{name}"] for part in drawn[world] for micro in range(2)])
        assert sorted(index.tolist()) == list(range(32))
        return values[index.argsort()]

    for step in range(2):
        for name in ("images", "z"):
            assert torch.equal(whole(1, step, name), whole(2, step, name)), name
            one, other = (part[f"{step}/0/{name}"] for part in drawn[2])
            assert not any(torch.equal(a, b) for a in one for b in other), name


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_world_size_goes_on_with_the_next_image(
    before: int, after: int, tiny: Path, tmp_path: Path, launch: Any
) -> None:
    """No image comes twice in an epoch, none is left out, and what changes is said."""
    case = [*SHORT, "plugins=[games]", "objective.type=test_dropout", "data.limit=96", "name=run"]
    done = launch(before, "drawn", tiny, tmp_path / "before", *case, "train.kimg=0.16")
    assert done.returncode == 0, done.stderr[-3000:]
    runs = Path(os.environ["GANTK_RUNS"])
    assert Checkpoint(runs / "run" / "checkpoints" / "step-00000005").state["cursor"] == 160
    done = launch(after, "drawn", tiny, tmp_path / "after", *case, "train.kimg=0.384")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        f"world_size was {before} and is {after}: the run goes on, but not bit for bit as it would have" in done.stderr
    )
    newest = Checkpoint(runs / "run" / "checkpoints" / "step-00000012")
    assert newest.state["cursor"] == 384
    assert newest.has("rng-00001") == (after == 2)
    # What the processes drew before and after, whoever took which.
    parts = {
        when: [json.loads(Path(f"{tmp_path / when}.{rank}").read_text()) for rank in range(world)]
        for when, world in (("before", before), ("after", after))
    }
    assert all(part for part in (*parts["before"], *parts["after"])), "every process draws"
    positions = [position for when in ("before", "after") for part in parts[when] for position in part]
    assert sorted(positions) == list(range(384))
    assert min(min(part) for part in parts["after"]) == 160
    trainer = Trainer(load_config(tiny, [*case, "train.kimg=0.384", "train.world_size=null", "name=other"]))
    images = trainer.batches.main.indices(torch.tensor(sorted(positions))).view(4, 96)
    assert all(sorted(epoch.tolist()) == list(range(96)) for epoch in images)


# Another version


@pytest.mark.parametrize("key", ["gantk", "accelerate", "numpy", "python", "cuda", "cudnn", "torch"])
def test_another_version_is_announced(key: str, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(tiny, "run", stop_at=5)
    assert key in Checkpoint(checkpoints_in(run.folder / "checkpoints")[-1]).state["in_force"]
    describe = Runtime.describe
    monkeypatch.setattr(Runtime, "describe", lambda self: {**describe(self), key: "0.0.1"})
    told = (train(tiny, "run").folder / "log.txt").read_text()
    assert " and is 0.0.1: the run goes on, but not bit for bit" in next(
        line for line in told.splitlines() if f"WARNING {key} was " in line
    )


def test_a_key_that_the_checkpoint_does_not_know_is_announced(tiny: Path) -> None:
    """As after an update: the new key has today's default, which need not be what was done before there was one."""
    run = train(tiny, "run", stop_at=5)
    (newest,) = checkpoints_in(run.folder / "checkpoints")
    without_keys(newest, "eps: ", "every_kimg: ")
    told = (train(tiny, "run").folder / "log.txt").read_text()
    assert f"the config of {newest} is of another version, and has no `optimizer.eps`, which is 1e-08 now" in told
    assert "every_kimg`, which" not in told, "it may change at any time"
    run = train(tiny, "other", stop_at=5)
    (newest,) = checkpoints_in(run.folder / "checkpoints")
    without_keys(newest, "eps: ")
    with pytest.raises(CheckpointError, match=r"optimizer\.eps: 1e-08 → 1e-06"):
        train(tiny, "other", "optimizer.eps=1e-6")


def without_keys(checkpoint: Path, *keys: str) -> None:
    """As an older version would have written it."""
    file = checkpoint / "config.yaml"
    kept = [line for line in file.read_text().splitlines(keepends=True) if not line.strip().startswith(keys)]
    file.write_text("".join(kept))
    manifest = checkpoint / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["config.yaml"] = {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "bytes": file.stat().st_size,
    }
    manifest.write_text(json.dumps(content))


@pytest.mark.parametrize("where", ["optimizer.schedule", "optimizer.phases.g.schedule"])
def test_a_schedule_that_ends_with_the_training_does_not_change_silently(where: str, tiny: Path) -> None:
    cosine = f"{where}={{type: cosine}}"
    train(tiny, "run", cosine, "train.kimg=0.192")
    with pytest.raises(
        CheckpointError, match=rf"{where}\.end_kimg: 0\.192 → 0\.384.*which was 0\.192 and is now 0\.384"
    ):
        train(tiny, "run", cosine)
    kept = train(tiny, "run", f"{where}={{type: cosine, end_kimg: 0.192}}", "train.kimg=0.256")
    assert kept.runner.players["g"].rate == 0
    changed = train(tiny, "run", cosine, allow_changes=True)
    assert (
        f"resuming with a changed config: {where}.end_kimg: 0.192 → 0.384" in (changed.folder / "log.txt").read_text()
    )
