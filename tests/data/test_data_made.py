"""Samples that are made here: points of a mixture, and stacks of digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data_worlds import png, write_parquet
from gantk_eval.errors import DataError
from gantk_eval.images import GeneratedImages
from gantk_eval.mixture import MIXTURES, measure
from pydantic import ValidationError

from gantk.config.schema import DataConfig
from gantk.data import inspect, open_dataset
from gantk.training.batches import Stream


def digits_file(path: Path, count: int, seed: int = 0, classes: int = 10) -> Path:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
    return write_parquet(path, [png(image) for image in images], (np.arange(count) % classes).tolist())


@pytest.mark.parametrize("name", ["ring", "grid"])
def test_points_are_a_perfect_sample(name: str) -> None:
    dataset = open_dataset(DataConfig(source="mixture", mixture=name))
    assert (len(dataset.train), dataset.channels, dataset.resolution) == (100_000, 2, 1)
    points = dataset.train.read(np.arange(100_000)).reshape(-1, 2)
    found = measure(points, MIXTURES[name])
    assert found.modes == MIXTURES[name].modes
    assert found.high_quality == pytest.approx(0.98889, abs=0.0015)
    assert found.reverse_kl < 3 * MIXTURES[name].modes / 200_000
    assert found.mode_spread == pytest.approx(1, abs=0.01)
    heldout = dataset.heldout.read(np.arange(100)).reshape(-1, 2)
    # Whole points: of single coordinates a pair may be equal by chance.
    assert not set(map(tuple, heldout.tolist())) & set(map(tuple, points.tolist()))


def test_points_are_drawn_by_address() -> None:
    first = open_dataset(DataConfig(source="mixture", mixture="grid", count=500), seed=0)
    again = open_dataset(DataConfig(source="mixture", mixture="grid", count=1000), seed=1)
    rows = np.arange(500)
    assert np.array_equal(first.train.read(rows), again.train.read(rows))
    assert first.sha256 != again.sha256


def test_points_reach_the_game_as_they_are() -> None:
    dataset = open_dataset(DataConfig(source="mixture", mixture="grid", count=500))
    stream = Stream(dataset, 0, False, torch.device("cpu"), torch.float32)
    positions = torch.arange(7)
    taken = stream.take(positions, None)
    wanted = dataset.train.read(stream.indices(positions).numpy())
    assert taken.images.shape == (7, 2, 1, 1)
    assert taken.labels is None
    assert np.array_equal(taken.images.flatten(1).numpy(), wanted.reshape(-1, 2))
    assert taken.images.abs().max() > 1.5


def test_stacks_are_three_digits_with_their_mode(tmp_path: Path) -> None:
    train, test = digits_file(tmp_path / "train.parquet", 60), digits_file(tmp_path / "test.parquet", 40, seed=1)
    config = DataConfig(source="stacked_mnist", path=str(train), heldout_path=str(test), count=200)
    dataset = open_dataset(config)
    digits = open_dataset(DataConfig(source="parquet", path=str(train), heldout_path=str(test), resolution=28))
    assert (dataset.channels, dataset.resolution, dataset.num_classes, len(dataset.train)) == (3, 28, 1000, 200)
    known = {
        image.tobytes(): label
        for image, label in zip(digits.train.read(np.arange(60)), digits.train.labels, strict=True)
    }
    for index in (0, 17, 199):
        (stack,) = dataset.train.read([index])
        read = [known[np.ascontiguousarray(stack[..., [channel]]).tobytes()] for channel in range(3)]
        assert dataset.train.labels[index] == 100 * read[0] + 10 * read[1] + read[2]
        assert dataset.class_names[dataset.train.labels[index]] == "".join(map(str, read))
    (held,) = dataset.heldout.read([5])
    assert np.ascontiguousarray(held[..., [0]]).tobytes() not in known
    batch = dataset.train.fetch(torch.tensor([17, 0]))
    assert np.array_equal(batch.permute(0, 2, 3, 1).numpy(), dataset.train.read([17, 0]))


def test_stacks_want_ten_labelled_digits(tmp_path: Path) -> None:
    letters = digits_file(tmp_path / "letters.parquet", 60, classes=12)
    with pytest.raises(DataError, match=r"no labels 0 … 9, and stacks are made of digits; set data\.path to MNIST"):
        open_dataset(DataConfig(source="stacked_mnist", path=str(letters)))
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(DataConfig(source="stacked_mnist", path=str(tmp_path / "none.parquet")))


def test_wrong_keys_are_explained() -> None:
    def refusal(**keys: object) -> str:
        with pytest.raises(ValidationError) as caught:
            DataConfig.model_validate(keys)
        return str(caught.value)

    assert "name one" in refusal(source="mixture")
    assert "take it out" in refusal(source="digits", resolution=8, mixture="ring")
    assert "points have no `resolution`" in refusal(source="mixture", mixture="ring", resolution=8)
    assert "points have no" in refusal(source="mixture", mixture="ring", flip=True)
    assert "is built in: take it out" in refusal(source="mixture", mixture="ring", path="x")
    assert "set `limit`" in refusal(source="digits", resolution=8, count=10)
    assert "MNIST's parquet file" in refusal(source="stacked_mnist")
    assert "at least 4 for images" in refusal(source="digits", resolution=2)
    assert "Field required" in refusal(source="digits")


def test_doctor_looks_at_what_stacks_are_made_of(tmp_path: Path) -> None:
    train = digits_file(tmp_path / "train.parquet", 60)
    report = inspect(DataConfig(source="stacked_mnist", path=str(train)))
    assert report.train.count == 60
    assert inspect(DataConfig(source="mixture", mixture="ring", count=50)).train.count == 50


@pytest.mark.realdata
def test_stacks_of_real_mnist_have_a_thousand_modes(real_mnist: Path) -> None:
    train, test = (str(real_mnist / f"mnist_{split}.parquet") for split in ("train", "test"))
    dataset = open_dataset(DataConfig(source="stacked_mnist", path=train, heldout_path=test))
    assert dataset.modes is not None
    evaluator = dataset.modes.evaluator(device="cpu", batch_size=1000)
    # Stacks of test digits, which neither the classifier nor a generator has seen.
    report = evaluator.evaluate(GeneratedImages(26_000, dataset.heldout.read, (28, 28, 3), identity="real"))
    print(report.table())
    assert report.protocol["classifier_accuracy"] > 0.97
    assert report.metrics["modes"]["value"] >= 998
    assert report.metrics["reverse_kl"]["value"] < 1.5 * report.metrics["reverse_kl"]["floor"]
    assert report.verdict == "ok"
