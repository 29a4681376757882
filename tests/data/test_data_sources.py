"""Each source gives the pixels and labels that were written into it, and says in one sentence what is
wrong.
"""

from __future__ import annotations

import io
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_worlds import config, pictures, png, write_folder, write_parquet
from PIL import Image
from sklearn.datasets import load_digits

from gantk.config.schema import DataConfig
from gantk.data import open_dataset
from gantk.data.sources import open_sources
from gantk.errors import DataError

LABELS = np.arange(20) % 3
NAMES = ("ant", "bee", "cat")


def everything(dataset: Any) -> np.ndarray:
    return dataset.train.read(np.arange(len(dataset.train)))


def fails(settings: DataConfig, *words: str) -> str:
    """The one sentence that opening the data ends with; it must hold all of `words`."""
    with pytest.raises(DataError) as caught:
        open_dataset(settings)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert caught.value.exit_code == 3
    for word in words:
        assert word in sentence, sentence
    return sentence


def test_digits_are_scikit_learns_pixels_in_full_range() -> None:
    dataset = open_dataset(config("digits"), seed=3)
    assert (len(dataset.train), len(dataset.heldout)) == (1617, 180)
    assert (dataset.channels, dataset.num_classes) == (1, 10)
    both = np.concatenate([everything(dataset), dataset.heldout.read(np.arange(180))])[..., 0]
    expected = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, both)) == sorted(map(bytes, expected))
    assert both.max() == 255


def test_digits_are_enlarged_bicubically() -> None:
    source, _ = open_sources(config("digits"))
    dataset = open_dataset(config("digits", resolution=32, heldout_fraction=0.001))
    assert dataset.train.shape == (32, 32, 1)
    image = Image.fromarray(source.item(0)[:, :, 0]).resize((32, 32), Image.Resampling.BICUBIC)
    first = dataset.train if 0 in dataset.train._rows else dataset.heldout
    np.testing.assert_array_equal(first.read([0])[0, :, :, 0], np.asarray(image))


@pytest.mark.parametrize("channels", [1, 3])
def test_equal_pixels_are_one_content_whatever_they_are_read_from(tmp_path: Path, channels: int) -> None:
    labels = np.sort(LABELS)  # folders are read class by class
    images, held = pictures(20, channels=channels), pictures(3, channels=channels, seed=1)
    encoded = [png(image) for image in images]
    for kind, data, marks in (("train", images, labels), ("held", held, np.arange(3))):
        write_folder(tmp_path / kind, data, marks, NAMES)
        squeezed = data[..., 0] if channels == 1 else data
        np.savez(tmp_path / f"{kind}.npz", images=squeezed, labels=marks)
    write_parquet(tmp_path / "train.parquet", encoded, labels, names=NAMES)
    write_parquet(tmp_path / "plain.parquet", encoded, labels, hub_schema=False, image_column="img")
    write_parquet(tmp_path / "held.parquet", [png(image) for image in held], np.arange(3), names=NAMES)
    parts = tmp_path / "parts"
    write_parquet(parts / "train-0.parquet", encoded[:9], labels[:9], names=NAMES)
    write_parquet(parts / "train-1.parquet", encoded[9:], labels[9:], names=NAMES)
    held_parquet = tmp_path / "held.parquet"
    opened = [
        open_dataset(config("folder", tmp_path / "train", heldout_path=tmp_path / "held")),
        open_dataset(config("npz", tmp_path / "train.npz", heldout_path=tmp_path / "held.npz")),
        open_dataset(config("parquet", tmp_path / "train.parquet", heldout_path=held_parquet)),
        open_dataset(config("parquet", parts, heldout_path=held_parquet)),
        open_dataset(config("parquet", f"{parts}/train-*.parquet", heldout_path=held_parquet)),
    ]
    plain = config("parquet", tmp_path / "plain.parquet", heldout_fraction=0.05)
    both = open_dataset(plain)
    assert {dataset.sha256 for dataset in opened} == {opened[0].sha256}
    assert len({dataset.heldout.fingerprint() for dataset in opened}) == 1
    for dataset in opened:
        np.testing.assert_array_equal(everything(dataset), images)
        np.testing.assert_array_equal(dataset.train.labels, labels)
        assert (dataset.channels, dataset.num_classes, len(dataset.heldout)) == (channels, 3, 3)
    assert opened[0].class_names == opened[2].class_names == NAMES
    assert (len(both.train), len(both.heldout), both.num_classes) == (19, 1, 3)
    changed = images.copy()
    changed[7, 0, 0, 0] ^= 1
    np.savez(tmp_path / "train.npz", images=changed, labels=labels)
    again = open_dataset(config("npz", tmp_path / "train.npz", heldout_path=tmp_path / "held.npz"))
    assert again.sha256 != opened[0].sha256


def test_a_folder_of_any_pictures(tmp_path: Path) -> None:
    """Sizes, modes and depths of all kinds, hidden files and others that are no images, inside a wrapping
    folder.
    """
    root = tmp_path / "set" / "set"
    for name, mode, size in (
        ("2/a.png", "RGBA", (9, 20)),
        ("10/deep/er/b.jpg", "L", (30, 8)),
        ("10/c.bmp", "RGB", (8, 8)),
        ("2/d.gif", "P", (5, 4)),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, 77).save(root / name)
    (root / "2" / "notes.txt").write_text("no image")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_bytes(b"not seen")
    source, _ = open_sources(config("folder", tmp_path / "set"))
    assert (len(source), source.left_out, source.class_names) == (4, {".txt": 1}, ("2", "10"))
    dataset = open_dataset(config("folder", tmp_path / "set", heldout_fraction=0.25))
    assert dataset.train.shape == (8, 8, 3)
    assert len(dataset.train) == 3


def test_a_folder_without_classes_has_no_labels(tmp_path: Path) -> None:
    dataset = open_dataset(config("folder", write_folder(tmp_path / "flat", pictures(6))))
    assert dataset.num_classes is dataset.class_names is dataset.train.labels is dataset.heldout.labels is None
    assert dataset.train.label_of(torch.tensor([0])) is None


def test_the_middle_of_a_picture_is_what_is_kept(tmp_path: Path) -> None:
    wide = np.zeros((8, 20, 3), dtype=np.uint8)
    wide[:, 6:14] = pictures(1)[0]
    (tmp_path / "a").mkdir()
    for name in ("0.png", "1.png"):
        (tmp_path / "a" / name).write_bytes(png(wide))
    dataset = open_dataset(config("folder", tmp_path / "a"))
    np.testing.assert_array_equal(dataset.train.read([0])[0], pictures(1)[0])


def test_one_picture_in_colour_makes_the_set_colour(tmp_path: Path) -> None:
    grey, colour = pictures(200, channels=1), pictures(1, channels=3, seed=2)
    root = write_folder(tmp_path / "mixed", grey)
    (root / "00150.png").write_bytes(png(colour[0]))
    for storage in ("memory", "stream"):
        settings = config("folder", root, storage=storage, heldout_fraction=0.01)
        dataset = open_dataset(settings)
        assert dataset.channels == 3, storage
        row = int(np.flatnonzero(dataset.train._rows == 150)[0])
        np.testing.assert_array_equal(dataset.train.read([row]), colour)
        np.testing.assert_array_equal(dataset.train.read([0])[0], np.repeat(grey[dataset.train._rows[0]], 3, axis=2))
    assert open_dataset(config("folder", root, channels=1)).train.shape == (8, 8, 1)


def test_words_and_truth_values_are_classes_too(tmp_path: Path) -> None:
    encoded = [png(image) for image in pictures(6)]
    words = write_parquet(tmp_path / "w.parquet", encoded, ["dog", "cat", "dog", "cat", "ape", "ape"])
    dataset = open_dataset(config("parquet", words, heldout_fraction=0.17))
    assert dataset.class_names == ("ape", "cat", "dog")
    table = write_parquet(tmp_path / "t.parquet", encoded, [True, False] * 3, label_column="Smiling")
    assert open_dataset(config("parquet", table)).num_classes is None
    assert open_dataset(config("parquet", table, label_column="Smiling")).class_names == (
        "not Smiling",
        "Smiling",
    )


def test_held_out_classes_keep_the_training_numbers(tmp_path: Path) -> None:
    train = write_folder(tmp_path / "train", pictures(6), np.arange(6) % 3, NAMES)
    held = write_folder(tmp_path / "held", pictures(4, seed=1), np.array([0, 1, 0, 1]), ("bee", "cat"))
    dataset = open_dataset(config("folder", train, heldout_path=held))
    assert dataset.heldout.labels is not None
    assert dataset.heldout.labels.tolist() == [1, 1, 2, 2]
    write_folder(held, pictures(1, seed=2), np.array([0]), ("dog",))
    fails(config("folder", train, heldout_path=held), "dog", "data.use_labels=false")


def test_a_test_split_without_answers_has_no_labels(tmp_path: Path) -> None:
    encoded = [png(image) for image in pictures(6)]
    train = write_parquet(tmp_path / "a.parquet", encoded, [0, 1, 2] * 2, names=NAMES)
    held = write_parquet(tmp_path / "b.parquet", encoded[:3], [-1, -1, -1], names=NAMES)
    dataset = open_dataset(config("parquet", train, heldout_path=held))
    assert dataset.heldout.labels is None
    assert dataset.num_classes == 3


# What is wrong, in one sentence


def test_paths_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in ("folder", "parquet", "npz"):
        fails(config(source, tmp_path / "nowhere"), str(tmp_path / "nowhere"), "does not exist", "data.path")
    fails(config("folder", "owner/photos"), "does not exist", "data.source=hub")
    monkeypatch.delenv("PHOTOS", raising=False)
    fails(config("folder", "$PHOTOS/cats"), "$PHOTOS", "not set")


def test_the_wrong_kind_of_source(tmp_path: Path) -> None:
    table = write_parquet(tmp_path / "t" / "a.parquet", [png(pictures(1)[0])])
    fails(config("folder", table), "data.source=parquet")
    fails(config("folder", table.parent), "data.source=parquet")
    fails(config("npz", table), "not an .npz file")
    images = write_folder(tmp_path / "images", pictures(2))
    fails(config("parquet", images), "no .parquet files", "data.source=folder")
    fails(config("hub", images), "on this disk", "data.source=folder")
    fails(config("hub", tmp_path / "typo"), "not a dataset's id", "data.source=folder")


def test_folders_that_will_not_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fails(config("folder", tmp_path / "empty"), "holds no images")
    mixed = write_folder(tmp_path / "mixed", pictures(4), np.arange(4) % 2)
    (mixed / "loose.png").write_bytes(png(pictures(1)[0]))
    fails(config("folder", mixed), "loose.png", "data.use_labels=false")
    assert open_dataset(config("folder", mixed, use_labels=False)).num_classes is None
    splits = tmp_path / "splits"
    for split in ("train", "test"):
        write_folder(splits / split, pictures(4), np.arange(4) % 2)
    fails(config("folder", splits), f"data.path={splits / 'train'} data.heldout_path={splits / 'test'}")


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", pictures(300))
    whole = (root / "00222.png").read_bytes()
    (root / "00222.png").write_bytes(whole[: len(whole) // 2])
    fails(config("folder", root), str(root / "00222.png"))
    encoded: list[bytes | None] = [png(image) for image in pictures(20)]
    encoded[13] = b"nonsense"
    write_parquet(tmp_path / "p" / "0.parquet", encoded[:10])
    fails(
        config("parquet", write_parquet(tmp_path / "p" / "1.parquet", encoded[10:]).parent),
        "row 3 of",
        "1.parquet",
    )
    encoded[13] = None
    fails(config("parquet", write_parquet(tmp_path / "null.parquet", encoded)), "row 13 of")


def test_tables_that_will_not_do(tmp_path: Path) -> None:
    encoded = [png(image) for image in pictures(6)]
    labelled = write_parquet(tmp_path / "a.parquet", encoded, [0, 1, 2] * 2, names=NAMES)
    fails(config("parquet", labelled, label_column="clas"), "`clas`", "image, label", "data.label_column")
    fails(config("parquet", labelled, image_column="img"), "`img`", "image, label", "data.image_column")
    fails(config("parquet", labelled, image_column="label"), "int64", "not encoded images")
    holes = write_parquet(tmp_path / "b.parquet", encoded, [0, 1, None, 0, 1, 0], names=NAMES)
    fails(config("parquet", holes), "1 rows without a label", "data.use_labels=false")
    assert len(open_dataset(config("parquet", holes, use_labels=False)).train) == 5
    beyond = write_parquet(tmp_path / "c.parquet", encoded, [0, 1, 2, 3, 0, 0], names=NAMES)
    fails(config("parquet", beyond), "values from 0 to 3", "0 to 2")
    floats = write_parquet(tmp_path / "d.parquet", encoded, [0.5] * 6, label_column="score")
    fails(config("parquet", floats, label_column="score"), "double", "not classes")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "text.parquet")
    fails(config("parquet", tmp_path / "text.parquet"), "no column of encoded images", "text, n")
    pq.write_table(pa.table({"left": encoded, "right": encoded}), tmp_path / "two.parquet")
    fails(config("parquet", tmp_path / "two.parquet"), "left, right", "data.image_column")
    assert len(open_dataset(config("parquet", tmp_path / "two.parquet", image_column="left")).train) == 5
    (tmp_path / "cut.parquet").write_bytes(labelled.read_bytes()[:-20])
    fails(config("parquet", tmp_path / "cut.parquet"), "cut.parquet", "whole parquet file")
    write_parquet(tmp_path / "none.parquet", [])
    fails(config("parquet", tmp_path / "none.parquet"), "no rows")


def test_parquet_folders_that_will_not_do(tmp_path: Path) -> None:
    encoded = [png(image) for image in pictures(6)]
    write_parquet(tmp_path / "s" / "test-0.parquet", encoded[:2])
    write_parquet(tmp_path / "s" / "train-0.parquet", encoded[2:])
    fails(config("parquet", tmp_path / "s"), "several splits", "train-*.parquet")
    write_parquet(tmp_path / "t" / "train" / "0.parquet", encoded[2:])
    write_parquet(tmp_path / "t" / "validation" / "0.parquet", encoded[:2])
    fails(config("parquet", tmp_path / "t"), "several splits", "validation")
    assert len(open_dataset(config("parquet", tmp_path / "t" / "train")).train) == 3
    write_parquet(tmp_path / "d" / "x.parquet", encoded)
    write_parquet(tmp_path / "d" / "y.parquet", encoded, image_column="img")
    fails(config("parquet", tmp_path / "d"), "differ in their columns", "image, img")


def test_arrays_that_will_not_do(tmp_path: Path) -> None:
    images = pictures(6)
    for name, arrays, words in (
        ("names", {"pictures": images}, ("`images`", "pictures")),
        ("type", {"images": images / 255.0}, ("float64", "uint8")),
        ("shape", {"images": images.transpose(0, 3, 1, 2)}, ("N×H×W×C",)),
        ("count", {"images": images, "labels": np.arange(5)}, ("6 images", "5 labels")),
        ("kind", {"images": images, "labels": np.linspace(0, 1, 6)}, ("labels", "float64")),
        ("empty", {"images": images[:0]}, ("no images",)),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        fails(config("npz", tmp_path / f"{name}.npz"), name, *words)
    (tmp_path / "text.npz").write_text("not a zip")
    fails(config("npz", tmp_path / "text.npz"), "text.npz")


def test_held_out_images_must_be_others(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", pictures(4))
    fails(config("folder", root, heldout_path=root), "are the training images")
    one = write_folder(tmp_path / "one", pictures(1))
    fails(config("folder", one), "too few", "held-out")


def test_rows_can_be_read_from_anywhere(tmp_path: Path) -> None:
    """Row groups and files of unequal lengths, read in order from any row, and one row at a time."""
    encoded = [png(image) for image in pictures(40)]
    for name, part, size in (("a", encoded[:17], 5), ("b", encoded[17:18], 9), ("c", encoded[18:], 4)):
        write_parquet(tmp_path / f"{name}.parquet", part, row_group_size=size)
    source, _ = open_sources(config("parquet", tmp_path))
    for start in range(41):
        assert list(source.items(start)) == encoded[start:]
    assert [source.item(index) for index in range(40)] == encoded
    assert source.locate(17) == f"row 0 of {tmp_path / 'b.parquet'}"
    assert source.locate(39) == f"row 21 of {tmp_path / 'c.parquet'}"


# The hub


@pytest.fixture
def hub_twin(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`datasets.load_dataset` gives a small DatasetDict; returns the calls that were made."""
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    splits = datasets.DatasetDict()
    for seed, (split, count) in enumerate((("train", 20), ("validation", 4), ("test", 5))):
        encoded = [{"bytes": png(image), "path": None} for image in pictures(count, seed=seed)]
        columns = {"img": encoded, "label": (np.arange(count) % 3).tolist()}
        splits[split] = datasets.Dataset.from_dict(columns, features=features)
    calls: list[dict[str, Any]] = []

    def load_dataset(path: str, **options: Any) -> Any:
        calls.append({"path": path, **options})
        return splits

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_hub_splits_columns_and_classes(hub_twin: list[dict[str, Any]]) -> None:
    dataset = open_dataset(config("hub", "owner/insects", name="plain"))
    np.testing.assert_array_equal(everything(dataset), pictures(20))
    np.testing.assert_array_equal(dataset.heldout.read(np.arange(5)), pictures(5, seed=2))
    assert (dataset.class_names, dataset.train.labels.tolist()[:4]) == (NAMES, [0, 1, 2, 0])  # type: ignore[union-attr]
    assert (hub_twin[0]["path"], hub_twin[0]["name"]) == ("owner/insects", "plain")
    assert "owner/insects (train)" in dataset.description
    validated = open_dataset(config("hub", "owner/insects", heldout_split="validation"))
    assert len(validated.heldout) == 4
    assert validated.sha256 == dataset.sha256
    fails(
        config("hub", "owner/insects", split="training"),
        "`training`",
        "train, validation, test",
        "data.split",
    )
    fails(config("hub", "owner/insects", heldout_split="dev"), "`dev`", "data.heldout_split")


def test_a_pinned_and_decoded_hub_dataset_needs_no_hub(
    hub_twin: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = config("hub", "owner/insects", revision="0123456789abcdef" * 2 + "01234567")
    monkeypatch.setattr("gantk.data.sources.hub.Hub.commit_on_hub", lambda self: self.revision)
    monkeypatch.setattr("gantk.data.sources.hub.offline", lambda: False)
    first = open_dataset(pinned)
    assert [call["revision"] for call in hub_twin] == [pinned.revision]
    monkeypatch.setattr("gantk.data.sources.hub.Hub.commit_on_hub", lambda self: pytest.fail("the hub was asked"))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("the hub's files were asked for"))
    assert open_dataset(pinned).sha256 == first.sha256


def test_hub_without_a_network_fails_at_once() -> None:
    begin = time.monotonic()
    sentence = fails(
        config("hub", "owner/insects", revision="main"),
        "owner/insects",
        "gantk prepare",
        "data.source=folder",
    )
    assert "revision main" in sentence
    assert time.monotonic() - begin < 10


def test_hub_that_does_not_answer_is_given_up_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that never answers: the sentence comes, and nothing else is tried."""
    monkeypatch.setattr("gantk.data.sources.hub.offline", lambda: False)
    monkeypatch.setattr("gantk.data.sources.hub.PROBE_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(60))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    begin = time.monotonic()
    fails(config("hub", "owner/insects"), "gantk prepare")
    assert time.monotonic() - begin < 10


def test_hub_errors_become_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    def raising(error: Exception) -> None:
        def load_dataset(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    raising(RuntimeError("Dataset scripts are no longer supported, but found lsun.py"))
    fails(config("hub", "owner/lsun"), "loading script", "parquet")
    raising(DatasetNotFoundError("no"))
    fails(config("hub", "owner/lsun"), "no dataset owner/lsun", "hf auth login")
    raising(ValueError("Config name is missing. Please pick one among ['a', 'b']"))
    fails(config("hub", "owner/lsun"), "['a', 'b']", "data.name")
    raising(OSError("connection reset"))
    fails(config("hub", "owner/lsun"), "connection reset", "again")


def test_a_jpeg_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pictures(1, side=16)[0]).save(buffer, "JPEG")
    path = write_parquet(tmp_path / "j.parquet", [buffer.getvalue()] * 2)
    dataset = open_dataset(config("parquet", path, resolution=16))
    np.testing.assert_array_equal(dataset.train.read([0])[0], np.asarray(Image.open(buffer)))
