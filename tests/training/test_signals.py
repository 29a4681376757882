"""A run that is told to stop saves and stops, whatever it is doing, and none outlives its launcher."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import gantk
from gantk.config import load_config
from gantk.data import cache
from gantk.errors import InterruptedRunError, PreemptedError
from gantk.tracking import read_metrics
from gantk.training import checkpoint as checkpoints
from gantk.training import signals as module
from gantk.training.checkpoint import Checkpoint, checkpoints_in
from gantk.training.hooks import Hook
from gantk.training.signals import Signals
from gantk.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    "name=run", "train.kimg=0.256", "train.log_every_kimg=0.064", "data.limit=100", "checkpoint.every_kimg=0.128",
    "samples.every_kimg=99", "evaluate={every_kimg: 0.128, samples: 200, metrics: [fd_pixel_pca]}",
)  # fmt: skip


def status() -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((Path(os.environ["GANTK_RUNS"]) / "run" / "status.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def train(tiny: Path, *overrides: str) -> Trainer:
    trainer = Trainer(load_config(tiny, [*SHORT, *overrides]))
    trainer.train()
    return trainer


def rows(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if not k.startswith("speed/")} for row in read_metrics(folder)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = Checkpoint(checkpoints_in(folder / "checkpoints")[-1])
    return {
        f"{stem}/{name}": value
        for stem in sorted(file.removesuffix(".safetensors") for file in newest.files if file.endswith(".safetensors"))
        for name, value in newest.tensors(stem).items()
    }


def once(function: Callable[..., Any], at: int, number: int) -> Callable[..., Any]:
    """`function`, with a signal to this process at its call number `at`."""
    calls = 0

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), number)
        return function(*arguments, **keywords)

    return wrapped


# In one process: evaluation, cache, save


@pytest.mark.parametrize("at", [2, 4], ids=["middle", "end"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_evaluation_is_left_and_made_up_for(tiny: Path, number: int, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two evaluations of two chunks each: the signal comes in the second chunk of one."""
    from gantk.sampling import Sampler

    straight = train(tiny, "name=straight")
    error, code = {signal.SIGTERM: (PreemptedError, 75), signal.SIGINT: (InterruptedRunError, 130)}[number]
    with monkeypatch.context() as context:
        context.setattr(Sampler, "images", once(Sampler.images, at, number))
        with pytest.raises(error):
            train(tiny)
    assert status()["exit_code"] == code
    stopped = Path(os.environ["GANTK_RUNS"]) / "run"
    newest = Checkpoint(checkpoints_in(stopped / "checkpoints")[-1])
    assert newest.step == 2 * at
    assert newest.state["evaluation_due"] is True
    assert len(list((stopped / "eval").glob("*.json"))) == at // 2 - 1 if (stopped / "eval").exists() else at == 2
    resumed = train(tiny)
    assert status()["resumed_from"] == str(newest.folder)
    assert rows(resumed.folder) == rows(straight.folder)
    assert sorted(p.name for p in (resumed.folder / "eval").iterdir()) == sorted(
        p.name for p in (straight.folder / "eval").iterdir()
    )
    one, other = weights(straight.folder), weights(resumed.folder)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    best = [checkpoints.read_best(t.folder / "checkpoints") for t in (straight, resumed)]
    assert best[0] == best[1] is not None


def test_evaluation_that_was_made_up_for_and_not_saved_leaves_no_second_row(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the two, the worst moment there is."""
    from gantk.sampling import Sampler

    straight = train(tiny, "name=straight")
    with monkeypatch.context() as context:
        context.setattr(Sampler, "images", once(Sampler.images, 2, signal.SIGTERM))
        with pytest.raises(PreemptedError):
            train(tiny)
    with monkeypatch.context() as context:
        context.setattr(Trainer, "save", lambda self: pytest.exit("killed"))
        with pytest.raises(pytest.exit.Exception):
            train(tiny)
    assert rows(train(tiny).folder) == rows(straight.folder)


def test_decoding_is_left_and_gone_on_with(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = train(tiny, "name=straight")
    monkeypatch.setenv("GANTK_CACHE", os.environ["GANTK_CACHE"] + "-other")
    write = cache.Bar

    class Signalling(write):  # type: ignore[misc, valid-type]
        def update(self, count: int = 1) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            super().update(count)

    with monkeypatch.context() as context:
        context.setattr(cache, "Bar", Signalling)
        with pytest.raises(PreemptedError, match="before the first step"):
            train(tiny)
    assert (status()["state"], status()["exit_code"], status()["step"]) == ("preempted", 75, 0)
    assert not checkpoints_in(Path(os.environ["GANTK_RUNS"]) / "run" / "checkpoints")
    one, other = weights(straight.folder), weights(train(tiny).folder)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_save_is_not_left(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Awaited(Hook):
        def after_step(self, trainer: Trainer) -> None:
            trainer.await_save()

    trainer = Trainer(load_config(tiny, [*SHORT, "evaluate.every_kimg=99"]))
    trainer.hooks.append(Awaited(1))
    with monkeypatch.context() as context:
        context.setattr(checkpoints, "_sync", once(checkpoints._sync, 3, signal.SIGTERM))
        with pytest.raises(PreemptedError):
            trainer.train()
    folder = Path(os.environ["GANTK_RUNS"]) / "run" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-00000004"]
    assert Checkpoint(folder / "step-00000004").step == 4
    assert train(tiny).step == 8


# What counts as being told


def test_the_interrupt_that_a_launcher_hands_on_is_not_a_second_one() -> None:
    signals = Signals()
    with signals.watched():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.urgency == 1
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.urgency == 2
        signals._since -= 2 * module.AGAIN_SECONDS
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_nohup_is_left_alone() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signals = Signals()
        with signals.watched():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.urgency == 0
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
        with signals.watched():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.urgency == 2
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("words", "is_launcher"),
    [
        ("/v/bin/python /v/bin/accelerate launch gantk/train.py", True),
        ("/v/bin/python /v/bin/accelerate-launch gantk/train.py", True),
        ("python -m accelerate.commands.launch gantk/train.py", True),
        ("/v/bin/python3 /v/bin/torchrun --nproc_per_node 2 gantk/train.py", True),
        ("python -m torch.distributed.run --nproc_per_node 2 gantk/train.py", True),
        ("-bash", False),
        ("/v/bin/python /v/bin/accelerate test", False),
        ("slurmstepd: [1.0]", False),
        ("bash launch/slurm.sh --config configs/accelerate.yaml", False),
    ],
)
def test_launchers_are_known(words: str, is_launcher: bool) -> None:
    assert module._is_launcher(words.split()) is is_launcher


def test_parent_that_died_while_pytorch_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gantk, "STARTED_BY", 999_999_999)
    for variable in ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(variable, raising=False)
    assert module.launcher_of_this_process() is None
    for variable in ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION"):
        with monkeypatch.context() as context:
            context.setenv(variable, "none")
            assert module.launcher_of_this_process() == 999_999_999


def test_an_orphan_that_hears_nothing_is_ended(tmp_path: Path) -> None:
    """It hangs where no handler runs, as in a collective whose other members are gone."""
    code = (
        "import gantk, os, signal, sys, threading, time\n"
        "from gantk.training import signals as m\n"
        "gantk.STARTED_BY, m.GRACE_SECONDS, m.POLL_SECONDS = 999999999, 0.3, 0.05\n"
        "os.environ['TORCHELASTIC_RUN_ID'] = 'x'\n"
        "s = m.Signals()\n"
        f"s.last_words = lambda error: open({str(tmp_path / 'words')!r}, 'w').write(str(error))\n"
        "with s.watched():\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=50)
    assert done.returncode == 75
    assert "the launcher died" in (tmp_path / "words").read_text()


# Launchers, as users start and stop them


@pytest.fixture
def started() -> Iterator[Callable[..., psutil.Process]]:
    """Starts a launcher in a process group of its own and waits until its run has made some steps."""
    launchers: list[subprocess.Popen[bytes]] = []
    workers: list[psutil.Process] = []

    def start(*command: str) -> psutil.Process:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
        overrides = ("--config", "configs/tiny.yaml", "name=run", "train.kimg=100000", "evaluate.every_kimg=1000000")
        launcher = subprocess.Popen(
            [sys.executable, "-m", *command, "gantk/train.py", *overrides, "train.log_every_kimg=0.64"],
            cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        launchers.append(launcher)
        deadline = time.monotonic() + 100
        while status().get("step", 0) < 20:
            assert launcher.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process = psutil.Process(launcher.pid)
        workers.extend(process.children(recursive=True))
        return process

    yield start
    for worker in workers:
        if worker.is_running():
            worker.kill()
    for launcher in launchers:
        launcher.kill()
        launcher.wait()


ACCELERATE = (
    "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no",
    "--dynamo_backend", "no",
)  # fmt: skip
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")


OUTLIVE_SECONDS = 10.0


def test_an_orphan_has_a_few_seconds() -> None:
    assert module.GRACE_SECONDS + module.POLL_SECONDS < OUTLIVE_SECONDS


def assert_ended_well(launcher: psutil.Process, workers: list[psutil.Process], state: str, code: int) -> None:
    # The promise is "a few seconds": the grace that `signals` gives, and the time to notice.
    _, alive = psutil.wait_procs(workers, timeout=OUTLIVE_SECONDS)
    assert not alive, "a trainer outlived its launcher"
    assert (status()["state"], status()["exit_code"]) == (state, code)
    newest = Checkpoint(checkpoints_in(Path(os.environ["GANTK_RUNS"]) / "run" / "checkpoints")[-1])
    assert newest.step == status()["step"] >= 20


def signal_and_see(started: Any, command: tuple[str, ...], whom: str, number: int, state: str, code: int) -> None:
    launcher = started(*command)
    workers = [child for child in launcher.children() if "gantk/train.py" in child.cmdline()]
    assert len(workers) == (2 if command is TORCHRUN else 1)
    if whom == "group":
        os.killpg(launcher.pid, number)
    else:
        (launcher if whom == "launcher" else workers[-1]).send_signal(number)
    assert_ended_well(launcher, workers, state, code)


def test_launcher_that_dies_takes_its_trainer_along(started: Any) -> None:
    signal_and_see(started, ACCELERATE, "launcher", signal.SIGTERM, "preempted", 75)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "whom", "number", "state", "code"),
    [
        (ACCELERATE, "launcher", signal.SIGKILL, "preempted", 75),
        (ACCELERATE, "launcher", signal.SIGUSR1, "preempted", 75),
        (ACCELERATE, "group", signal.SIGINT, "interrupted", 130),
        # The launcher dies of it, and tells its trainer nothing: an orphan is as good as preempted.
        (ACCELERATE, "launcher", signal.SIGINT, "preempted", 75),
        (ACCELERATE, "worker", signal.SIGTERM, "preempted", 75),
        (ACCELERATE, "worker", signal.SIGINT, "interrupted", 130),
        (ACCELERATE, "worker", signal.SIGUSR1, "preempted", 75),
        (TORCHRUN, "launcher", signal.SIGTERM, "preempted", 75),
        (TORCHRUN, "launcher", signal.SIGUSR1, "preempted", 75),
        (TORCHRUN, "launcher", signal.SIGKILL, "preempted", 75),
        (TORCHRUN, "group", signal.SIGINT, "interrupted", 130),
        (TORCHRUN, "launcher", signal.SIGINT, "interrupted", 130),
        (TORCHRUN, "worker", signal.SIGUSR1, "preempted", 75),
    ],
)
def test_signal(started: Any, command: tuple[str, ...], whom: str, number: int, state: str, code: int) -> None:
    signal_and_see(started, command, whom, number, state, code)


@pytest.mark.slow
def test_two_processes_do_not_wait_for_the_log_to_stop(tiny: Path, tmp_path: Path, launch: Any) -> None:
    done = launch(2, "unlogged", tiny, tmp_path / "told", *SHORT, "train.log_every_kimg=1000", "name=run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert [json.loads(Path(f"{tmp_path / 'told'}.{rank}").read_text()) for rank in range(2)] == [5, 5]
    assert status()["state"] == "preempted"


@pytest.mark.slow
def test_what_happens_to_one_process_ends_the_run_on_both(tiny: Path, tmp_path: Path, launch: Any) -> None:
    """A signal in the midst of an evaluation, a disk that is full, a run that another trainer has."""
    # Four chunks of samples, two for each process: the one that is signalled stops before its second.
    evaluation = "evaluate={every_kimg: 0.128, samples: 400, metrics: [fd_pixel_pca]}"
    done = launch(2, "faults", tiny, tmp_path / "told", *SHORT, evaluation)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads(Path(f"{tmp_path / 'told'}.{rank}").read_text()) for rank in range(2))
    for told in (first, second):
        assert told["0 straight"] == told["2 broken"] == told["4 full"] == "done"
        assert told["1 broken"].startswith("PreemptedError: asked to stop at 0.128 kimg")
        assert told["3 full"].startswith("CheckpointError: ")
        assert told["5 held"].startswith("ConfigError: ")
        assert "is being trained by another process" in told["5 held"]
    assert "No space left" in first["3 full"]
    runs = Path(os.environ["GANTK_RUNS"])
    one, other = weights(runs / "straight"), weights(runs / "broken")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert rows(runs / "straight") == rows(runs / "broken")
    assert checkpoints.read_best(runs / "straight" / "checkpoints") == checkpoints.read_best(
        runs / "broken" / "checkpoints"
    )
