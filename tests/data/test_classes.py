"""Classes are the distinct labels: none that nothing belongs to, and the same in training and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_worlds import config, pictures, png, write_folder, write_parquet
from gantk_eval import ArrayImages, Evaluator, open_images
from gantk_eval.labels import align_labels, distinct_classes, with_distinct_classes

from gantk.data import inspect, open_dataset
from gantk.errors import DataError
from gantk.sampling import ImageShape

NUMBERS = np.array([0, 3, 17, 900])


def holed(path: Path, numbers: np.ndarray = NUMBERS, count: int = 40, **more: Any) -> Path:
    return write_parquet(
        path, [png(image) for image in pictures(count, **more)], numbers[np.arange(count) % len(numbers)]
    )


def test_distinct_labels_are_the_classes() -> None:
    labels, names = distinct_classes(np.array([3, 900, 3, 0]), None)
    assert labels.tolist() == [1, 2, 1, 0]
    assert names == ("0", "3", "900")
    for whole, given in ((np.array([1, 0, 2]), None), (np.array([0, 5]), tuple("abcdef"))):
        assert distinct_classes(whole, given) == (whole, given) or given is not None
        assert distinct_classes(whole, given)[0] is whole


@pytest.mark.parametrize("storage", ["memory", "stream"])
@pytest.mark.parametrize("numbers", [[0, 3, 17, 900], [1, 2, 3, 4]], ids=["holes", "from 1"])
def test_numbers_make_no_classes_that_nothing_belongs_to(tmp_path: Path, storage: str, numbers: list[int]) -> None:
    values = np.array(numbers)
    path = holed(tmp_path / "a.parquet", values)
    np.savez(tmp_path / "a.npz", images=pictures(40), labels=values[np.arange(40) % 4])
    for source, place in (("parquet", path), ("npz", tmp_path / "a.npz")):
        dataset = open_dataset(config(source, place, storage=storage, heldout_fraction=0.2))
        assert dataset.num_classes == 4
        assert dataset.class_names == tuple(map(str, numbers))
        for store in (dataset.train, dataset.heldout):
            np.testing.assert_array_equal(store.labels, store._rows % 4)
        assert ImageShape.of(dataset).class_shares == (0.25,) * 4
        assert inspect(config(source, place)).train.labels == {str(number): 10 for number in numbers}


def test_held_out_numbers_are_matched_by_number(tmp_path: Path) -> None:
    train = holed(tmp_path / "a.parquet")
    held = holed(tmp_path / "b.parquet", np.array([900, 3]), count=6, seed=1)
    dataset = open_dataset(config("parquet", train, heldout_path=held))
    assert dataset.heldout.labels is not None
    assert dataset.heldout.labels.tolist() == [3, 1] * 3
    assert inspect(config("parquet", train, heldout_path=held)).unknown_classes is None
    foreign = holed(tmp_path / "c.parquet", np.array([4]), count=6, seed=2)
    with pytest.raises(DataError, match=r"lack \(4\), which have 0, 3, 17, 900"):
        open_dataset(config("parquet", train, heldout_path=foreign))
    assert "lack (4)" in str(inspect(config("parquet", train, heldout_path=foreign)).unknown_classes)


def test_numbers_of_declared_classes_are_places(tmp_path: Path) -> None:
    """Held-out labels that lost their names, with holes, beside declared ones; a class without images keeps its name."""
    names = ("ant", "bee", "cat", "dog", "eel")
    encoded = [png(image) for image in pictures(30)]
    train = write_parquet(tmp_path / "a.parquet", encoded, np.array([0, 2, 3])[np.arange(30) % 3], names=names)
    held = write_parquet(
        tmp_path / "b.parquet", [png(image) for image in pictures(4, seed=1)], [3, 2, 3, 2], hub_schema=False
    )
    dataset = open_dataset(config("parquet", train, heldout_path=held))
    assert dataset.class_names == names
    assert dataset.heldout.labels is not None
    assert dataset.heldout.labels.tolist() == [3, 2, 3, 2]
    np.testing.assert_allclose(ImageShape.of(dataset).class_shares, [1 / 3, 0, 1 / 3, 1 / 3, 0])
    assert inspect(config("parquet", train)).train.labels == {"ant": 10, "bee": 0, "cat": 10, "dog": 10, "eel": 0}


def test_a_run_and_an_evaluation_number_classes_alike(tmp_path: Path) -> None:
    held = holed(tmp_path / "held.parquet", count=8, seed=1)
    dataset = open_dataset(config("parquet", holed(tmp_path / "a.parquet"), heldout_path=held))
    reference = with_distinct_classes(open_images(tmp_path / "a.parquet"))
    assert reference.class_names == dataset.train.class_names == ("0", "3", "17", "900")
    assert reference.fingerprint() == dataset.sha256
    # Samples of a run (numbers and names), folders by number, and arrays with the numbers themselves.
    folder = write_folder(tmp_path / "samples", pictures(8), np.arange(8) % 2, ("900", "017"))
    samples = ArrayImages(pictures(4), [3, 0, 1, 2], class_names=dataset.train.class_names)
    for images, expected in (
        (open_images(folder), [2] * 4 + [3] * 4),
        (samples, [3, 0, 1, 2]),
        (ArrayImages(pictures(3), [900, 3, 0]), [3, 1, 0]),
        (open_images(held), [0, 1, 2, 3] * 2),
    ):
        for real in (reference, dataset.train):
            assert align_labels(images, real).tolist() == expected  # type: ignore[union-attr]
    with pytest.raises(DataError, match=r"lacks \(5\), whose classes are 0, 3, 17, 900"):
        align_labels(ArrayImages(pictures(2), [5, 3]), reference)


def test_an_evaluation_names_the_numbers(tmp_path: Path) -> None:
    def report(labels: list[int]) -> dict[str, Any]:
        evaluator = Evaluator(
            ArrayImages(pictures(40), np.array(labels * 20)), metrics=["fd_pixel_pca_per_class"], collapse=False
        )
        fake = ArrayImages(pictures(40, seed=1), np.array(labels * 20))
        return evaluator.evaluate(fake).to_dict()["metrics"]["fd_pixel_pca_per_class"]

    one, other = report([0, 1]), report([17, 900])
    assert [row["class"] for row in other["classes"]] == ["17", "900"]
    assert one["value"] == other["value"]


def test_stacks_are_of_the_digits_that_there_are(tmp_path: Path) -> None:
    digits = write_parquet(
        tmp_path / "a.parquet",
        [png(image) for image in pictures(60, side=28, channels=1)],
        np.array([1, 7, 9])[np.arange(60) % 3],
    )
    dataset = open_dataset(config("stacked_mnist", digits, resolution=28, count=50))
    assert dataset.train.labels is not None
    assert {int(d) for label in dataset.train.labels for d in f"{label:03d}"} == {1, 7, 9}
