"""`inspect` tells what is in the data and stops at nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_worlds import config, pictures, png, write_folder, write_parquet
from PIL import Image

from gantk.data import inspect
from gantk.data.report import NAMED
from gantk.errors import DataError


def test_report_of_a_folder(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", pictures(12), np.arange(12) % 2, ("cat", "dog"))
    Image.new("L", (3, 20)).save(root / "cat" / "grey.png")
    (root / "dog" / "cut.png").write_bytes(png(pictures(1)[0])[:50])
    (root / "dog" / "fake.jpg").write_text("no image at all")
    (root / "readme.md").write_text("x")
    report = inspect(config("folder", root))
    assert report.heldout is None
    split = report.train
    assert (split.count, split.left_out, split.corrupt_count, report.corrupt_count) == (15, {".md": 1}, 2, 2)
    assert split.labels == {"cat": 7, "dog": 8}
    assert split.sizes == {"8×8": 12, "3×20": 1}
    assert split.modes == {"RGB": 12, "L": 1}
    assert split.enlarged == 1
    assert "cut.png" in split.corrupt[0]
    assert "fake.jpg" in split.corrupt[1]
    table = report.table()
    for part in (
        "cat: 7",
        "8×8: 12",
        "RGB: 12",
        "cut.png",
        "15; 1 file that is not an image is left out (.md: 1)",
        "data.heldout_fraction",
    ):
        assert part in table


def test_report_of_a_table_with_many_damaged_rows(tmp_path: Path) -> None:
    images: list[bytes | None] = [png(image) for image in pictures(100)]
    images[5:55] = [b"broken"] * 50
    train = write_parquet(tmp_path / "a.parquet", images, (np.arange(100) % 30).tolist())
    held = write_parquet(tmp_path / "b.parquet", images[60:70], [0] * 10)
    report = inspect(config("parquet", train, heldout_path=held))
    assert report.train.corrupt_count == 50
    assert len(report.train.corrupt) == NAMED
    assert "row 5 of" in report.train.corrupt[0]
    assert report.heldout is not None
    assert report.heldout.count == 10
    assert f"and {50 - NAMED} more" in report.table()
    assert "and 20 more (from 3 to 4 images each)" in report.table()


def test_report_of_arrays(tmp_path: Path) -> None:
    report = inspect(config("digits"))
    assert report.train.sizes == {"8×8": 1797}
    assert report.train.modes == {"L": 1797}
    assert report.train.labels["3"] == 183
    np.savez(tmp_path / "a.npz", images=pictures(4))
    assert "classes   none" in inspect(config("npz", tmp_path / "a.npz")).table()


def test_no_data_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        inspect(config("folder", tmp_path / "nowhere"))
