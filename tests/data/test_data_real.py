"""MNIST and CIFAR-10 as their parquet twins of the hub."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gantk.config.schema import DataConfig
from gantk.data import inspect, open_dataset

pytestmark = pytest.mark.realdata


def _config(folder: Path, name: str, resolution: int, **keys: object) -> DataConfig:
    return DataConfig(
        source="parquet",
        path=str(folder / f"{name}_train.parquet"),
        heldout_path=str(folder / f"{name}_test.parquet"),
        resolution=resolution,
        **keys,  # type: ignore[arg-type]
    )


def test_mnist(real_data: Path) -> None:
    dataset = open_dataset(_config(real_data, "mnist", 28))
    assert (len(dataset.train), len(dataset.heldout)) == (60_000, 10_000)
    assert (dataset.channels, dataset.class_names) == (1, tuple("0123456789"))
    # The published counts of the training digits.
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(dataset.train.labels).tolist() == counts  # type: ignore[arg-type]
    mean = dataset.train.read(range(60_000)).mean() / 255
    assert mean == pytest.approx(0.1307, abs=1e-4)  # the constant that everyone normalises with


def test_cifar10_is_what_the_datasets_library_reads(real_data: Path, tmp_path: Path) -> None:
    import datasets

    dataset = open_dataset(_config(real_data, "cifar10", 32))
    assert (len(dataset.train), len(dataset.heldout), dataset.channels) == (50_000, 10_000, 3)
    assert dataset.class_names is not None
    assert dataset.class_names[0] == "airplane"
    assert np.bincount(dataset.train.labels).tolist() == [5000] * 10  # type: ignore[arg-type]
    twin = datasets.load_dataset(
        "parquet",
        data_files=str(real_data / "cifar10_test.parquet"),
        split="train",
        cache_dir=str(tmp_path / "hf"),
    )
    assert twin.features["label"].names == list(dataset.class_names)
    for index in range(0, 10_000, 997):
        np.testing.assert_array_equal(dataset.heldout.read([index])[0], np.asarray(twin[index]["img"]))
        assert twin[index]["label"] == dataset.heldout.labels[index]  # type: ignore[index]


def test_cifar10_streamed_is_what_is_cached(real_data: Path) -> None:
    cached = open_dataset(_config(real_data, "cifar10", 16, channels=1)).heldout
    streamed = open_dataset(_config(real_data, "cifar10", 16, channels=1, storage="stream")).heldout
    chosen = np.random.default_rng(0).integers(0, 10_000, 500)
    np.testing.assert_array_equal(cached.read(chosen), streamed.read(chosen))


def test_doctor_finds_nothing_wrong_with_mnist(real_mnist: Path) -> None:
    config = DataConfig(source="parquet", path=str(real_mnist / "mnist_test.parquet"), resolution=28)
    report = inspect(config)
    count = pq.read_metadata(real_mnist / "mnist_test.parquet").num_rows
    assert count in (10_000, 1_500)
    assert report.train.sizes == {"28×28": count}
    assert report.train.modes == {"L": count}
    assert report.corrupt_count == 0


def test_a_flipped_byte_in_the_middle_of_mnist_is_named(real_mnist: Path, tmp_path: Path) -> None:
    table = pq.read_table(real_mnist / "mnist_test.parquet").to_pylist()
    content = bytearray(table[1000]["image"]["bytes"])
    assert Image.open(io.BytesIO(bytes(content))).size == (28, 28)
    content[len(content) // 2] ^= 255
    table[1000]["image"]["bytes"] = bytes(content)
    schema = pq.read_schema(real_mnist / "mnist_test.parquet")
    pq.write_table(pa.Table.from_pylist(table, schema=schema), tmp_path / "flipped.parquet")
    with pytest.raises(Exception, match=r"row 1000 of .*flipped\.parquet"):
        open_dataset(DataConfig(source="parquet", path=str(tmp_path / "flipped.parquet"), resolution=28))
