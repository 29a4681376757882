"""Decoded once: found again, built again when it must be, by many at once, and after an interruption."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_worlds import config, pictures, png, write_folder, write_parquet

from gantk.data import cache, open_dataset
from gantk.data.sources import open_sources
from gantk.data.transform import Transform
from gantk.errors import DataError


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that were decoded, as they are."""
    names: list[str] = []
    call = Transform.__call__

    def counting(self: Transform, item: Any, *, name: str) -> np.ndarray:
        names.append(name)
        return call(self, item, name=name)

    monkeypatch.setattr(Transform, "__call__", counting)
    return names


def entries() -> list[Path]:
    return sorted(p for p in (Path(os.environ["GANTK_CACHE"]) / "data").iterdir() if (p / "images.npy").exists())


def test_a_second_open_decodes_nothing(tmp_path: Path, decoded: list[str]) -> None:
    root = write_folder(tmp_path / "images", pictures(30))
    first = open_dataset(config("folder", root))
    assert len(decoded) == 31  # one more to see whether they are grey
    decoded.clear()
    second = open_dataset(config("folder", root))
    assert decoded == []
    np.testing.assert_array_equal(first.train.read(range(27)), second.train.read(range(27)))
    assert first.sha256 == second.sha256
    # The same content elsewhere is the same entry.
    open_dataset(config("folder", shutil.copytree(root, tmp_path / "copy")))
    assert decoded == []
    assert len(entries()) == 1


def test_a_second_open_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "images", pictures(30))
    first = open_dataset(config("folder", root)).sha256
    monkeypatch.setattr("gantk.data.hashing.sha256_of_file", lambda path: pytest.fail(f"{path} was read"))
    monkeypatch.setattr("gantk.data.cache.sha256_of_file", lambda path: pytest.fail(f"{path} was read"))
    monkeypatch.setattr("gantk.data.store.content_fingerprint", lambda images: pytest.fail("hashed again"))
    assert open_dataset(config("folder", root)).sha256 == first


def test_changed_content_or_transform_is_another_entry(tmp_path: Path, decoded: list[str]) -> None:
    root = write_folder(tmp_path / "images", pictures(30))
    first = open_dataset(config("folder", root))
    other = pictures(1, seed=9)[0]
    old = (root / "00004.png").stat()
    (root / "00004.png").write_bytes(png(other))
    os.utime(root / "00004.png", ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    second = open_dataset(config("folder", root))
    assert second.sha256 != first.sha256
    (root / "00029.png").rename(root / "00029b.png")
    (root / "00028.png").unlink()
    assert len(open_dataset(config("folder", root, heldout_fraction=0.01)).train) == 28
    assert open_dataset(config("folder", root, resolution=4)).train.shape == (4, 4, 3)
    assert len(entries()) == 4
    row = int(np.flatnonzero(second.train._rows == 4)[0])
    np.testing.assert_array_equal(second.train.read([row])[0], other)


def _open(path: str, cache_folder: str, go: Any, results: Any) -> None:
    os.environ["GANTK_CACHE"] = cache_folder
    count = 0
    call = Transform.__call__

    def counting(self: Transform, item: Any, *, name: str) -> np.ndarray:
        nonlocal count
        count += 1
        return call(self, item, name=name)

    Transform.__call__ = counting  # type: ignore[method-assign]
    go.wait()
    dataset = open_dataset(config("parquet", path))
    results.put((count, dataset.sha256))


def test_processes_that_open_at_once_decode_once(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [png(image) for image in pictures(600)])
    context = multiprocessing.get_context("fork")
    go, results = context.Event(), context.Queue()
    arguments = (str(path), os.environ["GANTK_CACHE"], go, results)
    processes = [context.Process(target=_open, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    go.set()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert sorted(count for count, _ in found) == [0, 0, 601]
    assert len({sha256 for _, sha256 in found}) == 1


@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_an_interrupted_build_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str], kind: str
) -> None:
    images = pictures(600)
    if kind == "parquet":
        path = write_parquet(tmp_path / "a.parquet", [png(image) for image in images], row_group_size=107)
    else:
        path = write_folder(tmp_path / "a", images)
    settings = config(kind, path, heldout_fraction=0.001)
    write = cache.Bar

    class Stopping(write):  # type: ignore[misc, valid-type]
        def update(self, count: int = 1) -> None:
            super().update(count)
            if self.n >= 256:
                raise KeyboardInterrupt

    monkeypatch.setattr(cache, "Bar", Stopping)
    with pytest.raises(KeyboardInterrupt):
        open_dataset(settings)
    monkeypatch.setattr(cache, "Bar", write)
    assert all(entry.name.endswith(".partial") for entry in entries())
    partial = next((Path(os.environ["GANTK_CACHE"]) / "data").glob("*.partial")) / "images.npy"
    with partial.open("ab") as file:
        file.write(b"half a row")
    decoded.clear()
    dataset = open_dataset(settings)
    assert 0 < len(decoded) <= 600 - 256 + 1
    np.testing.assert_array_equal(dataset.train.read(range(599)), images[dataset.train._rows])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no meta", "labels gone", "meta cut"])
def test_a_damaged_entry_is_built_again(tmp_path: Path, decoded: list[str], damage: str) -> None:
    labels = np.arange(20) % 3
    path = write_parquet(tmp_path / "a.parquet", [png(image) for image in pictures(20)], labels)
    expected = open_dataset(config("parquet", path)).train.read(range(18))
    (entry,) = entries()
    content = bytearray((entry / "images.npy").read_bytes())
    if damage == "truncated":
        (entry / "images.npy").write_bytes(content[:-100])
    elif damage == "flipped":
        content[-100] ^= 4
        (entry / "images.npy").write_bytes(content)
    elif damage == "no meta":
        (entry / "meta.json").unlink()
    elif damage == "labels gone":
        (entry / "labels.npy").unlink()
    else:
        (entry / "meta.json").write_text((entry / "meta.json").read_text()[:-20])
    decoded.clear()
    dataset = open_dataset(config("parquet", path))
    assert len(decoded) == 21
    np.testing.assert_array_equal(dataset.train.read(range(18)), expected)
    assert dataset.num_classes == 3


def test_a_copied_cache_is_read_once_and_then_trusted(
    tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_parquet(tmp_path / "a.parquet", [png(image) for image in pictures(20)])
    open_dataset(config("parquet", path))
    (entry,) = entries()
    os.utime(entry / "images.npy")
    decoded.clear()
    open_dataset(config("parquet", path))
    assert decoded == []
    monkeypatch.setattr("gantk.data.cache.sha256_of_file", lambda path: pytest.fail(f"{path} was read"))
    open_dataset(config("parquet", path))


def test_a_damaged_picture_leaves_no_entry(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", pictures(20))
    good = (root / "00015.png").read_bytes()
    (root / "00015.png").write_bytes(good[:30])
    with pytest.raises(DataError, match=r"00015\.png"):
        open_dataset(config("folder", root))
    assert not [p for p in entries() if not p.name.endswith(".partial")]
    (root / "00015.png").write_bytes(good)
    assert len(open_dataset(config("folder", root)).train) == 18


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    path = write_parquet(tmp_path / "a.parquet", [png(image) for image in pictures(20)])
    usage = shutil.disk_usage(tmp_path)
    small = type(usage)(usage.total, usage.total - cache.SPARE, cache.SPARE)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: small)
    for storage in ("memory", "disk"):
        with pytest.raises(DataError, match=r"GB are free.*GANTK_CACHE.*data\.storage=stream"):
            open_dataset(config("parquet", path, storage=storage))
    dataset = open_dataset(config("parquet", path))
    assert dataset.train.storage == dataset.heldout.storage == "stream"
    np.testing.assert_array_equal(dataset.train.read(range(18)), pictures(20)[dataset.train._rows])
    assert "slower" in caplog.text


def test_a_disk_that_fills_up_while_writing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for it: one sentence, nothing half-written, and it goes on
    later.
    """
    import resource
    import signal

    path = write_parquet(tmp_path / "a.parquet", [png(image) for image in pictures(200)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(DataError, match="cannot write the decoded images"):
            open_dataset(config("parquet", path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    dataset = open_dataset(config("parquet", path))
    np.testing.assert_array_equal(dataset.train.read(range(180)), pictures(200)[dataset.train._rows])


def test_the_entry_says_what_it_is(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [png(image) for image in pictures(20)], np.arange(20) % 2)
    settings = config("parquet", path)
    open_dataset(settings)
    source, _ = open_sources(settings)
    folder = cache.entry_folder(source, Transform(8))
    assert [folder] == entries()
    meta = json.loads((folder / "meta.json").read_text())
    assert str(path) in meta["source"]
    assert meta["files"]["images.npy"]["sha256"] == cache.sha256_of_file(folder / "images.npy")
    assert np.load(folder / "images.npy").shape == (20, 8, 8, 3)
