"""Damaged pictures: an error that names them, or left out, counted and bounded, in the cache and in a stream."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_worlds import config, pictures, png, write_folder, write_parquet

from gantk.data import cache, open_dataset
from gantk.errors import DataError

BAD = (5_000, 5_001, 9_999)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """10,000 pictures, of which three are damaged, with labels."""
    images, labels = pictures(10_000), np.arange(10_000) % 7
    encoded = [png(image) for image in images]
    encoded[BAD[0]] = encoded[BAD[0]][:40]
    encoded[BAD[1]] = b"not a picture"
    encoded[BAD[2]] = b""
    path = write_parquet(tmp_path_factory.mktemp("world") / "a.parquet", encoded, labels)
    return path, images, labels


@pytest.mark.parametrize("storage", ["disk", "stream"])
def test_error_names_the_picture(world: Any, storage: str) -> None:
    def read_all() -> None:
        dataset = open_dataset(config("parquet", world[0], storage=storage))
        dataset.train.read(range(len(dataset.train)))

    with pytest.raises(DataError, match=r"row 5000") as caught:
        read_all()
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("storage", ["disk", "stream"])
def test_skipping_leaves_out_what_is_damaged_and_nothing_else(
    world: Any, storage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, images, labels = world
    for again in range(2):
        dataset = open_dataset(config("parquet", path, storage=storage, on_bad_image="skip"))
        rows = np.concatenate([dataset.train._rows, dataset.heldout._rows])
        assert sorted(rows) == sorted(set(range(10_000)) - set(BAD))
        np.testing.assert_array_equal(dataset.train.read(range(len(dataset.train))), images[dataset.train._rows])
        np.testing.assert_array_equal(dataset.heldout.read(range(len(dataset.heldout))), images[dataset.heldout._rows])
        assert dataset.train.labels is not None
        np.testing.assert_array_equal(dataset.train.labels, labels[dataset.train._rows])
        told = [
            record.getMessage() for record in caplog.records if "damaged pictures are left out" in record.getMessage()
        ]
        assert len(told) == 1
        assert "3 damaged pictures" in told[0]
        assert "row 5000" in told[0]
        if again == 0:
            caplog.clear()


def test_stream_is_looked_through_once(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config("parquet", world[0], storage="stream", on_bad_image="skip", channels=3)
    first = open_dataset(settings)
    monkeypatch.setattr(cache, "decoded_in_order", lambda *_, **__: pytest.fail("looked through again"))
    second = open_dataset(settings)
    np.testing.assert_array_equal(first.train._rows, second.train._rows)


def test_what_was_skipped_once_is_an_error_where_it_must_be(world: Any) -> None:
    """And the other way round: one cache serves both."""
    open_dataset(config("parquet", world[0], on_bad_image="skip"))
    with pytest.raises(DataError, match="row 5000"):
        open_dataset(config("parquet", world[0]))
    with pytest.raises(DataError, match=r"more than 2 of the 10,000 pictures of .* are damaged .*data\.max_bad_images"):
        open_dataset(config("parquet", world[0], on_bad_image="skip", max_bad_images=0.0002))


def test_too_many_are_an_error(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", pictures(50))
    for number in range(10, 13):
        (root / f"{number:05d}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"more than 1 of the 50 pictures.*00010\.png.*data\.max_bad_images"):
        open_dataset(config("folder", root, on_bad_image="skip"))
    dataset = open_dataset(config("folder", root, on_bad_image="skip", max_bad_images=0.06))
    assert len(dataset.train) + len(dataset.heldout) == 47


def test_first_picture_is_damaged_and_the_rest_are_grey(tmp_path: Path) -> None:
    grey = pictures(30)[..., :1]
    encoded = [b"", *(png(image) for image in grey[1:])]
    path = write_parquet(tmp_path / "a.parquet", encoded)
    for storage in ("disk", "stream"):
        dataset = open_dataset(config("parquet", path, on_bad_image="skip", storage=storage))
        assert dataset.channels == 1
        assert 0 not in dataset.train._rows
        assert 0 not in dataset.heldout._rows


def test_interrupted_build_remembers_what_it_skipped(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write = cache.Bar

    class Stopping(write):  # type: ignore[misc, valid-type]
        total_seen = 0

        def update(self, count: int = 1) -> None:
            Stopping.total_seen += count
            if Stopping.total_seen > 6_000:
                raise KeyboardInterrupt
            super().update(count)

    settings = config("parquet", world[0], on_bad_image="skip")
    with monkeypatch.context() as context:
        context.setattr(cache, "Bar", Stopping)
        with pytest.raises(KeyboardInterrupt):
            open_dataset(settings)
    (partial,) = (Path(os.environ["GANTK_CACHE"]) / "data").glob("*.partial")
    assert (partial / "damaged.json").is_file()
    # An interrupted build that had skipped some is no build for who allows none.
    with pytest.raises(DataError, match="row 5000"):
        open_dataset(config("parquet", world[0]))
    dataset = open_dataset(settings)
    assert len(dataset.train) + len(dataset.heldout) == 9_997
    assert not set(BAD) & {*dataset.train._rows.tolist(), *dataset.heldout._rows.tolist()}


def test_one_damaged_picture_is_said_in_the_singular(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_parquet(tmp_path / "a.parquet", [png(image) for image in pictures(19)] + [b""], np.arange(20) % 2)
    open_dataset(config("parquet", path, storage="disk", on_bad_image="skip"))
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(told) == 1
    assert ": 1 damaged picture is left out (" in told[0]
