"""Exact copies are counted on decoded pixels, among training images and between them and the held-out ones."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from data_worlds import config, pictures, png, write_folder
from PIL import Image

from gantk.data import copies, inspect, open_dataset


def test_copies_are_counted_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures(40)
    train, held = write_folder(tmp_path / "train", images), write_folder(tmp_path / "held", pictures(10, seed=1))
    # The same pixels in another format are copies; two of one image are two copies, one of them held out as well.
    for name in ("x.bmp", "y.tiff"):
        Image.fromarray(images[3]).save(train / name)
    (held / "z.png").write_bytes(png(images[3]))
    settings = config("folder", train, heldout_path=held)
    said = (
        "2 of 42 training images are exact copies of others, and 1 of 11 held-out images are exact copies of training "
        "images: a held-out set that holds copies judges nothing; remove the copies"
    )
    for again in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            open_dataset(settings)
        assert [record.getMessage() for record in caplog.records] == [f"folder {train}: {said}"], again
        # The second time nothing is hashed.
        monkeypatch.setattr(copies, "hash_of", lambda _: pytest.fail("hashed again"))
    table = inspect(settings).table()
    assert "copies    2 are exact copies of others" in table
    assert "1 are exact copies of training images" in table


def test_a_share_is_told_of_its_copies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = np.repeat(pictures(30), 2, axis=0)
    root = write_folder(tmp_path / "set", images)
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset(config("folder", root, heldout_fraction=0.2))
    train = {image.tobytes() for image in dataset.train.read(range(len(dataset.train)))}
    shared = sum(image.tobytes() in train for image in dataset.heldout.read(range(len(dataset.heldout))))
    assert shared > 0
    assert f"{shared} of 12 held-out images are exact copies of training images" in caplog.text
    assert f"{len(dataset.train) - len(train)} of 48 training images are exact copies" in caplog.text
    assert "copies may stand on both sides" in inspect(config("folder", root)).table()


def test_images_without_copies_are_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_folder(tmp_path / "set", pictures(30))
    with caplog.at_level(logging.WARNING):
        open_dataset(config("folder", root))
    assert not caplog.records
    assert "are exact copies" not in inspect(config("folder", root)).table()
    assert copies.hash_of(np.asarray(Image.open(io.BytesIO(png(pictures(1)[0]))))) == copies.hash_of(pictures(1)[0])
