"""The checkpoint folder: whole or not there, and refused when it is not what was written."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gantk.errors import CheckpointError
from gantk.runs import newest_whole
from gantk.training import checkpoint as module
from gantk.training.checkpoint import (
    Checkpoint,
    checkpoint_name,
    checkpoints_in,
    drop_newer,
    prune,
    read_best,
    write,
    write_best,
)


def save(folder: Path, step: int = 1, value: float = 1.0) -> Path:
    target = folder / checkpoint_name(step)
    tensors = {"generator": {"w": torch.full((3, 4), value), "n": torch.tensor(7)}, "objective": {}}
    write(target, tensors=tensors, state={"step": step, "images": 32 * step}, config="name: x\n")
    return target


def edit_manifest(folder: Path, change: Any) -> None:
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    checkpoint = Checkpoint(save(tmp_path, 12, 0.5))
    assert checkpoint.files == {"generator.safetensors", "objective.safetensors", "config.yaml", "state.json"}
    assert torch.equal(checkpoint.tensors("generator")["w"], torch.full((3, 4), 0.5))
    assert checkpoint.tensors("generator")["n"].shape == ()
    assert checkpoint.tensors("objective") == {}
    assert (checkpoint.step, checkpoint.kimg) == (12, 0.384)
    assert checkpoint.config_file.read_text() == "name: x\n"
    assert checkpoint.has("generator")
    assert not checkpoint.has("discriminator")
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000012"]


def test_manifest_has_size_and_sha256_of_every_other_file(tmp_path: Path) -> None:
    folder = save(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    import hashlib

    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_tensors_of_any_layout_keep_their_values(tmp_path: Path) -> None:
    value = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5).to(memory_format=torch.channels_last)
    write(tmp_path / "step-00000001", tensors={"x": {"a": value, "b": value.t() if value.dim() == 2 else value[:, 0]}},
          state={}, config="")  # fmt: skip
    again = Checkpoint(tmp_path / "step-00000001").tensors("x")
    assert torch.equal(again["a"], value)
    assert torch.equal(again["b"], value[:, 0])


@pytest.mark.parametrize("point", ["save_file", "_sha256", "_sync", "rename", "json"])
def test_failure_while_writing_leaves_the_old_one_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    folder = save(tmp_path, 1, 1.0)

    def fail(*arguments: Any, **keywords: Any) -> Any:
        raise OSError(28, "No space left on device")

    if point == "rename":
        rename = Path.rename

        def fail_into_place(self: Path, target: Path) -> Path:
            if not target.name.startswith("."):
                monkeypatch.setattr(Path, "rename", rename)
                fail()
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", fail_into_place)
    elif point == "json":
        monkeypatch.setattr(Path, "write_text", fail)
    else:
        monkeypatch.setattr(module, point, fail)
    with pytest.raises(CheckpointError, match=r"could not write the checkpoint .*No space left") as caught:
        save(tmp_path, 1, 2.0)
    assert caught.value.exit_code == 4
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [folder]
    assert float(Checkpoint(folder).tensors("generator")["w"][0, 0]) == 1.0


def test_writing_again_replaces(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, 1.0)
    save(tmp_path, 1, 2.0)
    assert float(Checkpoint(folder).tensors("generator")["w"][0, 0]) == 2.0
    assert list(tmp_path.iterdir()) == [folder]


def test_leftovers_of_a_process_with_our_number_do_not_stop_us(tmp_path: Path) -> None:
    """In a container every process that was killed here had the same number."""
    for suffix in ("partial", "old.partial"):
        left = tmp_path / f".{checkpoint_name(1)}.{os.getpid()}.{suffix}"
        left.mkdir()
        (left / "generator.safetensors").write_text("half")
    folder = save(tmp_path)
    Checkpoint(folder)
    assert list(tmp_path.iterdir()) == [folder]


# Killed


def killed_while(work: Callable[[], None], at: int, folder: Path) -> bool:
    """Runs `work` in a process that dies by SIGKILL just before its file operation number `at` below `folder`.

    Returns:
        Whether it died.
    """
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if event == "open" or event.startswith(("os.", "shutil.")):
                if not any(str(folder) in str(argument) for argument in arguments):
                    return
                seen += 1
                if seen == at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, outcome = os.waitpid(child, 0)
    assert outcome in (0, signal.SIGKILL)
    return outcome != 0


def killed_after_bytes(work: Callable[[], None], limit: int) -> bool:
    """The same, when a file grows beyond `limit` bytes: in the midst of writing one."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, outcome = os.waitpid(child, 0)
    assert os.WIFSIGNALED(outcome) or outcome == 0
    return outcome != 0


def store_step(folder: Path, step: int, value: float, best: tuple[str, float] | None = None) -> None:
    tensors = {"generator": {"w": torch.full((3, 40), value)}, "objective": {}}
    state = {"step": step, "images": 32 * step, "value": value}
    module.store(folder, checkpoint_name(step), tensors, state, "name: x\n", best, keep=1)


def assert_whole(run: Path, allowed: set[tuple[int, float]]) -> None:
    module.recover(run / "checkpoints")
    found, _ = newest_whole(run)
    assert found is not None
    assert (found.step, found.state["value"]) in allowed
    assert float(found.tensors("generator")["w"][0, 0]) == found.state["value"]
    for path in checkpoints_in(run / "checkpoints"):
        Checkpoint(path)  # one that is there is whole
    best = read_best(run / "checkpoints")
    assert best is None or (run / "checkpoints" / best["checkpoint"]).is_dir()


@pytest.mark.parametrize("target", [2, 1], ids=["the next one", "the same one again"])
def test_sigkill_at_every_point_of_a_save(tmp_path: Path, target: int) -> None:
    points = 0
    while True:
        points += 1
        run = tmp_path / str(points)
        folder = run / "checkpoints"
        store_step(folder, 1, 1.0, ("fd", 9.0))
        died = killed_while(lambda: store_step(folder, target, 2.0, ("fd", 8.0)), points, folder)  # noqa: B023
        assert_whole(run, {(1, 1.0), (target, 2.0)} if died else {(target, 2.0)})
        store_step(folder, 3, 3.0, ("fd", 7.0))
        assert sorted(path.name for path in folder.iterdir()) == ["best.json", checkpoint_name(3)], points
        if not died:
            break
    assert points > 20


def test_sigkill_in_the_midst_of_a_file(tmp_path: Path) -> None:
    store_step(tmp_path / "checkpoints", 1, 1.0)
    outcomes = set()
    for limit in (0, 1, 7, 30, 100, 300, 500, 700, 100_000):
        died = killed_after_bytes(lambda: store_step(tmp_path / "checkpoints", 2, 2.0), limit)
        outcomes.add(died)
        assert_whole(tmp_path, {(1, 1.0)} if died else {(2, 2.0)})
    assert outcomes == {True, False}


def test_full_disk_while_saving(tmp_path: Path) -> None:
    """A limit on the size of files stands in for it."""
    store_step(tmp_path / "checkpoints", 1, 1.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for limit in (0, 100, 500):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            with pytest.raises(CheckpointError, match="could not write") as caught:
                store_step(tmp_path / "checkpoints", 2, 2.0)
            assert caught.value.exit_code == 4
            assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [checkpoint_name(1)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert_whole(tmp_path, {(1, 1.0)})


# Damage


@pytest.mark.parametrize("name", ["generator.safetensors", "state.json", "config.yaml", "objective.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "longer", "symlink", "pickle"])
def test_damage_is_seen_and_the_file_named(tmp_path: Path, name: str, damage: str) -> None:
    folder = save(tmp_path)
    path = folder / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[:-1])
    elif damage == "longer":
        path.write_bytes(data + b" ")
    elif damage == "pickle":
        path.write_bytes(pickle.dumps({"w": 1}))
    else:
        path.unlink()
        if damage == "symlink":
            (tmp_path / "elsewhere").write_bytes(data)
            path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=str(path)) as caught:
        Checkpoint(folder)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", ["../outside.json", "/etc/passwd", "sub/x", "..", ".", "", "a\x00b"])
def test_manifest_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path)
    (tmp_path / "outside.json").write_text("{}")
    entry = {"bytes": 2, "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}
    edit_manifest(folder, lambda m: m["files"].update({name: entry}))
    with pytest.raises(CheckpointError):
        Checkpoint(folder)


def test_path_escape_is_refused_before_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path)
    (tmp_path / "outside.json").write_text("{}")
    edit_manifest(folder, lambda m: m.update(files={"../outside.json": {"bytes": 2, "sha256": "x"}}))
    monkeypatch.setattr(module, "_sha256", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(CheckpointError, match=r"names `\.\./outside\.json`, which is not a file of the checkpoint"):
        Checkpoint(folder)


def test_pickle_with_a_true_manifest_is_not_executed(tmp_path: Path) -> None:
    """Somebody who writes the file can write the manifest as well; still nothing is unpickled."""
    folder = save(tmp_path)

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "executed",))

    path = folder / "generator.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    entry = {"bytes": path.stat().st_size, "sha256": module._sha256(path)}
    edit_manifest(folder, lambda m: m["files"].update({path.name: entry}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoint(folder).tensors("generator")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"format": 1}', '{"format": 1, "files": 3}', '{"format": 1, "files": {"a": 1}}', "\x00"],
)
def test_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    folder = save(tmp_path)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError):
        Checkpoint(folder)


def test_other_format_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path)
    edit_manifest(folder, lambda m: m.update(format=2))
    with pytest.raises(CheckpointError, match="has format 2; this version of gantk reads 1"):
        Checkpoint(folder)


def test_folder_without_manifest_is_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it has no manifest\.json"):
        Checkpoint(tmp_path)


def test_network_that_does_not_fit_is_told_what_differs(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    write(tmp_path / "step-00000001", tensors={"net": net.state_dict()}, state={}, config="")
    checkpoint = Checkpoint(tmp_path / "step-00000001")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_network("net", nn.Sequential(nn.Linear(2, 4)))
    assert "`0.weight` is (3, 2) in the checkpoint and (4, 2) in the config's network" in str(caught.value)
    assert "1 more differences" in str(caught.value)
    with pytest.raises(CheckpointError, match=r"`2\.bias` is only in the config's network"):
        checkpoint.load_network("net", nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1), nn.Linear(1, 1)))
    with pytest.raises(CheckpointError, match=r"has no other\.safetensors"):
        checkpoint.load_network("other", net)


# Retention


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in range(1, 7):
        save(tmp_path, step)
    write_best(tmp_path, checkpoint_name(2), "fd", 3.0)
    for left in (".step-00000009.1.partial", ".step-00000009.1.old.partial"):
        (tmp_path / left).mkdir()
    assert prune(tmp_path, 2) == []
    assert [path.name for path in checkpoints_in(tmp_path)] == [checkpoint_name(step) for step in (2, 5, 6)]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    assert read_best(tmp_path) == {"checkpoint": checkpoint_name(2), "metric": "fd", "value": 3.0}


def test_prune_that_fails_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(1, 4):
        save(tmp_path, step)
    rmtree = module.shutil.rmtree

    def fail(path: Path, **keywords: Any) -> None:
        if checkpoint_name(1) in path.name:
            raise PermissionError(13, "Permission denied")
        rmtree(path, **keywords)

    monkeypatch.setattr(module.shutil, "rmtree", fail)
    (problem,) = prune(tmp_path, 1)
    assert checkpoint_name(1) in problem
    assert "Permission denied" in problem
    assert [path.name for path in checkpoints_in(tmp_path)] == [checkpoint_name(3)]
    monkeypatch.undo()
    assert prune(tmp_path, 1) == []
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint_name(3)]


def test_checkpoints_are_ordered_by_step(tmp_path: Path) -> None:
    for step in (100_000_000, 99_999_999, 5):
        (tmp_path / checkpoint_name(step)).mkdir()
    for other in ("step-1", "step-0000000x", "notes", ".step-00000001.3.partial"):
        (tmp_path / other).mkdir()
    (tmp_path / checkpoint_name(7)).write_text("a file")
    assert [int(path.name[5:]) for path in checkpoints_in(tmp_path)] == [5, 99_999_999, 100_000_000]
    assert checkpoints_in(tmp_path / "nowhere") == []


def test_dropping_what_is_newer(tmp_path: Path) -> None:
    for step in (1, 2, 3, 100_000_000):
        save(tmp_path, step)
    write_best(tmp_path, checkpoint_name(3), "fd", 3.0)
    sentences = drop_newer(tmp_path, 2)
    assert len(sentences) == 2
    assert checkpoint_name(3) in sentences[0]
    assert [path.name for path in checkpoints_in(tmp_path)] == [checkpoint_name(1), checkpoint_name(2)]
    assert read_best(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"checkpoint": "../x"}', '{"checkpoint": 3}'])
def test_mark_of_the_best_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "best.json").write_text(text)
    assert read_best(tmp_path) is None
