"""Training and evaluation list the same files, classes and labels, and say what they leave aside."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_worlds import config, pictures, png, write_folder, write_parquet
from gantk_eval import open_images
from gantk_eval.files import FolderFiles, ZipFiles
from gantk_eval.walk import image_endings, list_files
from PIL import Image

from gantk.data import inspect, open_dataset
from gantk.data.sources import open_sources
from gantk.data.sources.folder import FolderSource
from gantk.errors import DataError

NAMES = ("ant", "bee", "cat")


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """Nested folders with links to a file, to a class's folder, to a folder above, and to nothing."""
    root = write_folder(tmp_path / "set", pictures(6), np.arange(6) % 2, NAMES)
    (root / "bee" / "deep" / "er").mkdir(parents=True)
    (root / "bee" / "deep" / "er" / "x.PNG").write_bytes(png(pictures(1, seed=1)[0]))
    elsewhere = write_folder(tmp_path / "elsewhere", pictures(3, seed=2))
    (root / "cat").symlink_to(elsewhere, target_is_directory=True)
    (root / "ant" / "linked.png").symlink_to(elsewhere / "00000.png")
    (root / "ant" / "up").symlink_to(root, target_is_directory=True)
    (root / "ant" / "self").symlink_to(root / "ant" / "self")
    (root / "ant" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "y.png").write_bytes(b"not seen")
    return root


def test_links_give_the_same_files_and_classes_to_both(linked: Path) -> None:
    source, files = FolderSource(str(linked)), FolderFiles(linked)
    expected = [
        *("ant/00000.png", "ant/00002.png", "ant/00004.png", "ant/gone.png", "ant/linked.png"),
        *("bee/00001.png", "bee/00003.png", "bee/00005.png", "bee/deep/er/x.PNG"),
        *("cat/00000.png", "cat/00001.png", "cat/00002.png"),
    ]
    assert [source.locate(i) for i in range(len(source))] == [str(linked / name) for name in expected]
    assert [files.file(i) for i in range(len(files))] == [str(linked / name) for name in expected]
    assert source.class_names == files.class_names == NAMES
    for labels in (source.labels, files.labels):
        assert labels is not None
        assert labels.tolist() == [0] * 5 + [1] * 4 + [2] * 3
    # `self` is a link to itself: no folder, and no image by its name.
    assert source.left_out == {"no ending": 1}


def test_a_link_to_nothing_is_one_bad_image(linked: Path) -> None:
    gone = str(linked / "ant" / "gone.png")
    with pytest.raises(DataError, match=r"gone\.png.*link to nothing.*data\.on_bad_image=skip") as caught:
        open_dataset(config("folder", linked))
    assert gone in str(caught.value)
    dataset = open_dataset(config("folder", linked, on_bad_image="skip"))
    assert len(dataset.train) + len(dataset.heldout) == 11
    assert inspect(config("folder", linked)).train.corrupt_count == 1
    with pytest.raises(DataError, match=r"gone\.png.*link to nothing.*--skip-unreadable"):
        open_images(linked)
    images: Any = open_images(linked, skip_unreadable=True)
    assert images.skipped == (gone,)
    assert images.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 3


def test_a_link_that_is_mended_is_read_again(linked: Path) -> None:
    open_dataset(config("folder", linked, on_bad_image="skip"))
    (linked / "ant" / "gone.png").unlink()
    (linked / "ant" / "gone.png").write_bytes(png(pictures(1, seed=5)[0]))
    dataset = open_dataset(config("folder", linked))
    assert len(dataset.train) + len(dataset.heldout) == 12


def test_parquet_at_any_depth_and_behind_links(tmp_path: Path) -> None:
    root = tmp_path / "set"
    images = pictures(6)
    write_parquet(root / "a" / "b" / "0.parquet", [png(i) for i in images[:2]], [0, 1])
    write_parquet(root / "c" / "1.parquet", [png(i) for i in images[2:4]], [0, 1])
    write_parquet(tmp_path / "else" / "2.parquet", [png(i) for i in images[4:]], [0, 1])
    (root / "d").symlink_to(tmp_path / "else", target_is_directory=True)
    source, _ = open_sources(config("parquet", root))
    np.testing.assert_array_equal(open_images(root).read(range(6)), images)
    assert [source.item(i) for i in range(6)] == [png(i) for i in images]
    np.testing.assert_array_equal(open_images(f"{root}/**/?.parquet").read(range(2)), images[:2])
    write_parquet(root / "a" / "train-0.parquet", [png(images[0])], [0])
    write_parquet(root / "a" / "test-0.parquet", [png(images[0])], [0])
    for opened in (lambda: open_images(root), lambda: open_sources(config("parquet", root))):
        with pytest.raises(DataError, match="several splits"):
            opened()


def test_what_pillow_reads_is_read_and_the_rest_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images, root = pictures(8, side=16), tmp_path / "set"
    root.mkdir()
    for number, ending in enumerate((".avif", ".jp2", ".qoi", ".tga", ".jpe", ".apng", ".ico", ".pcx")):
        pixels = Image.fromarray(images[number])
        kind = {".apng": "PNG", ".jpe": "JPEG"}.get(ending)
        pixels.save(root / f"{number}{ending}", format=kind, **({"quality": 100} if ending == ".avif" else {}))
    for name in ("a.pdf", "b.eps", "c.txt", "d.txt", "nothing"):
        (root / name).write_text("%PDF or else")
    assert not {".pdf", ".eps", ".ps", ".mpg", ".wmf", ".h5", ".grib"} & image_endings()
    words = r"5 files that are not images are left out (.txt: 2, .eps: 1, .pdf: 1, no ending: 1)"
    files: Any = open_images(root)
    assert len(files) == 8
    assert words in files.notes
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset(config("folder", root, resolution=16))
    assert len(dataset.train) + len(dataset.heldout) == 8
    assert [record.getMessage() for record in caplog.records] == [f"folder {root}: {words}"]
    assert words in inspect(config("folder", root, resolution=16)).table()
    # Lossless ones come back exactly, to both.
    for number in (1, 2, 3, 5, 7):
        np.testing.assert_array_equal(files.read([number])[0], images[number])


def test_windows_zips_have_classes_too(tmp_path: Path) -> None:
    images = pictures(4)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number, image in enumerate(images):
            member = zipfile.ZipInfo(f"set/{NAMES[number % 2]}/{number}.png")
            member.filename = member.filename.replace("/", "\\")
            archive.writestr(member, png(image))
        folder = zipfile.ZipInfo("x")
        folder.filename = "set\\ant.png\\"
        archive.writestr(folder, b"")
        archive.writestr("readme.md", b"")
    files = ZipFiles(tmp_path / "a.zip")
    assert files.class_names == NAMES[:2]
    assert files.labels is not None
    assert files.labels.tolist() == [0, 0, 1, 1]
    assert files.notes == ("1 file that is not an image is left out (.md: 1)",)
    np.testing.assert_array_equal(open_images(tmp_path / "a.zip").read(range(4)), images[[0, 2, 1, 3]])


def test_sub_folders_that_are_no_classes_are_told(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_folder(tmp_path / "splits" / split, pictures(2))
    splits = FolderFiles(tmp_path / "splits")
    assert splits.labels is None
    assert splits.notes == ("sub-folders are not taken as classes, for they are splits (test, train)",)
    mixed = write_folder(tmp_path / "mixed", pictures(4), np.arange(4) % 2, NAMES)
    (mixed / "loose.png").write_bytes(png(pictures(1)[0]))
    beside = FolderFiles(mixed)
    assert beside.labels is None
    assert "loose.png" in beside.notes[0]


# Labels in tables


def table(path: Path, label: pa.Array, name: str = "label", **more: pa.Array) -> Path:
    encoded = pa.array([png(image) for image in pictures(len(label))], pa.binary())
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": encoded, name: label, **more}), path, row_group_size=2)
    return path


WORDS = ["dog", "cat", "dog", "ape", "ape", "cat"]


@pytest.mark.parametrize(
    ("label", "names"),
    [
        (pa.array(WORDS), ("ape", "cat", "dog")),
        (pa.array(WORDS, pa.large_string()), ("ape", "cat", "dog")),
        (pa.array(WORDS, pa.string_view()), ("ape", "cat", "dog")),
        (pa.array(WORDS).dictionary_encode(), ("ape", "cat", "dog")),
        (pa.array(WORDS, pa.large_string()).dictionary_encode(), ("ape", "cat", "dog")),
        (pa.array([2, 1, 2, 0, 0, 1], pa.uint8()), None),
        (pa.array([2, 1, 2, 0, 0, 1], pa.int64()).dictionary_encode(), None),
        (pa.array([1, 0, 1, 0, 0, 1]).cast(pa.bool_()), ("false", "true")),
    ],
    ids=["string", "large_string", "string_view", "category", "large category", "uint8", "int category", "bool"],
)
def test_every_type_of_labels_is_read_by_both(tmp_path: Path, label: pa.Array, names: tuple[str, ...] | None) -> None:
    path = table(tmp_path / "a.parquet", label)
    source, _ = open_sources(config("parquet", path))
    files = open_images(path)
    expected = [2, 1, 2, 0, 0, 1] if names != ("false", "true") else [1, 0, 1, 0, 0, 1]
    for one in (source, files):
        assert one.class_names == names
        assert one.labels is not None
        assert one.labels.tolist() == expected
        assert not one.notes  # type: ignore[union-attr]


def test_labels_as_pandas_and_polars_write_them(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"image": [png(image) for image in pictures(6)], "label": pandas.Categorical(WORDS)})
    frame.to_parquet(tmp_path / "a.parquet")
    assert open_dataset(config("parquet", tmp_path / "a.parquet")).class_names == ("ape", "cat", "dog")
    assert open_images(tmp_path / "a.parquet").class_names == ("ape", "cat", "dog")


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (pa.array(["b", "a"]), pa.array(["c", "a"], pa.large_string()), ("a", "b", "c")),
        (pa.array(["b", "a"]), pa.array(["c", "a"]).dictionary_encode(), ("a", "b", "c")),
        (
            pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.int8()), ["a", "b"]),
            pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.int16()), ["a", "c"]),
            ("a", "b", "c"),
        ),
        (pa.array([1, 0], pa.int32()), pa.array([2, 0], pa.uint64()), None),
    ],
    ids=["string and large", "string and category", "categories", "int32 and uint64"],
)
def test_files_may_differ_in_the_type_of_their_labels(
    tmp_path: Path, first: pa.Array, second: pa.Array, names: tuple[str, ...] | None
) -> None:
    """Files of one set that several programs wrote."""
    table(tmp_path / "1.parquet", first)
    table(tmp_path / "2.parquet", second)
    source, _ = open_sources(config("parquet", tmp_path))
    for one in (source, open_images(tmp_path)):
        assert one.class_names == names
        assert one.labels is not None
        assert one.labels.tolist() == [1, 0, 2, 0]


def test_files_whose_labels_mean_other_classes_are_refused(tmp_path: Path) -> None:
    """Words beside numbers; and the same numbers with other declared names, which were all called by the first file's."""
    table(tmp_path / "mixed" / "1.parquet", pa.array(["b", "a"]))
    table(tmp_path / "mixed" / "2.parquet", pa.array([1, 0]))
    for number, names in enumerate((["ant", "bee"], ["bee", "ant"])):
        write_parquet(tmp_path / "named" / f"{number}.parquet", [png(p) for p in pictures(2)], [0, 1], names=names)
    for folder, sentence in (
        ("mixed", "column `label` of .* holds string in some files and int64 in others"),
        ("named", "column `label` of .* has other names of classes in some files"),
    ):
        source, _ = open_sources(config("parquet", tmp_path / folder))
        with pytest.raises(DataError, match=sentence):
            source.labels  # noqa: B018
        files: Any = open_images(tmp_path / folder)
        assert files.labels is None
        assert "labels are left aside" in files.notes[0]


@pytest.mark.parametrize(
    ("label", "kind"),
    [(pa.array([0.0, 1, 2, 0, 1, 2]), "double"), (pa.array([[0], [1], [2], [0], [1], [2]]), "list")],
    ids=["float", "list"],
)
def test_labels_that_are_left_aside_are_told(
    tmp_path: Path, label: pa.Array, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = table(tmp_path / "a.parquet", label)
    with caplog.at_level(logging.WARNING):
        assert open_dataset(config("parquet", path)).num_classes is None
    (said,) = [record.getMessage() for record in caplog.records]
    assert "column `label`" in said
    assert kind in said
    assert "left aside" in said
    assert "column `label`" in inspect(config("parquet", path)).table()
    files: Any = open_images(path)
    assert files.labels is None
    assert kind in files.notes[0]


def test_evaluation_says_which_labels_it_could_not_take(tmp_path: Path) -> None:
    holes = table(tmp_path / "a.parquet", pa.array([0, 1, None, 0, 1, 0]))
    files: Any = open_images(holes)
    assert files.labels is None
    assert "1 rows without a label" in files.notes[0]
    with pytest.raises(DataError, match="1 rows without a label"):
        open_images(holes, label_column="label")
    two = table(tmp_path / "b.parquet", pa.array([0, 1, 0]), target=pa.array(["a", "b", "a"]))
    second: Any = open_images(two)
    assert second.labels.tolist() == [0, 1, 0]
    assert "`target`" in second.notes[0]
    assert open_images(two, label_column="target").class_names == ("a", "b")


def test_a_cache_from_before_is_not_taken_for_the_labels_of_now(tmp_path: Path) -> None:
    """Images of a file with `large_string` labels were once read without labels, and kept under the key of the wanted columns alone."""
    from gantk.data.hashing import digest_of, sha256_of_file

    path = table(tmp_path / "a.parquet", pa.array(WORDS, pa.large_string()))
    source, _ = open_sources(config("parquet", path))
    assert source.fingerprint() != digest_of("parquet", [sha256_of_file(path)], [None, None, True])
    plain = table(tmp_path / "b.parquet", pa.array([0, 1, 2]))
    source, _ = open_sources(config("parquet", plain))
    assert source.fingerprint() == digest_of("parquet", [sha256_of_file(plain)], [None, None, True])


def test_arrays_have_words_and_truth_values_for_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", images=pictures(6), labels=np.array(WORDS))
    np.savez(tmp_path / "b.npz", images=pictures(4), labels=np.array([True, False, True, False]))
    for opened in (open_images(tmp_path / "w.npz"), open_sources(config("npz", tmp_path / "w.npz"))[0]):
        assert opened.class_names == ("ape", "cat", "dog")
        assert opened.labels is not None
        assert opened.labels.tolist() == [2, 1, 2, 0, 0, 1]
    assert open_images(tmp_path / "b.npz").class_names == ("false", "true")
    np.savez(tmp_path / "m.npz", images=pictures(2) > 100)
    with pytest.raises(DataError, match=r"booleans.*x\.astype\(np\.uint8\) \* 255"):
        open_images(tmp_path / "m.npz")


# Cells


def test_cells_without_a_picture_are_bad_images(tmp_path: Path) -> None:
    images = pictures(8)
    (tmp_path / "there.png").write_bytes(png(images[3]))
    cells: list[Any] = [{"bytes": png(image), "path": None} for image in images]
    cells[2] = None
    cells[3] = {"bytes": None, "path": "there.png"}
    cells[5] = {"bytes": None, "path": "gone.png"}
    cells[6] = {"bytes": None, "path": None}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), path, row_group_size=3)
    with pytest.raises(DataError, match=r"row 2 of .*is empty.*data\.on_bad_image=skip"):
        open_dataset(config("parquet", path))
    with pytest.raises(DataError, match=r"row 2: it is empty.*--skip-unreadable"):
        open_images(path)
    for storage in ("disk", "stream"):
        settings = config("parquet", path, storage=storage, on_bad_image="skip", max_bad_images=0.5)
        dataset = open_dataset(settings)
        rows = np.concatenate([dataset.train._rows, dataset.heldout._rows])
        assert sorted(rows) == [0, 1, 3, 4, 7]
        both = np.concatenate([s.read(range(len(s))) for s in (dataset.train, dataset.heldout)])
        np.testing.assert_array_equal(both, images[rows])
    files: Any = open_images(path, skip_unreadable=True)
    assert files.skipped == tuple(f"{path}, row {row}" for row in (2, 5, 6))
    np.testing.assert_array_equal(files.read(range(5)), images[[0, 1, 3, 4, 7]])
    assert any("there is no file" in line and "gone.png" in line for line in inspect(settings).train.corrupt)


def test_columns_can_be_named_for_evaluation(tmp_path: Path) -> None:
    left, right = pictures(4), pictures(4, seed=1)
    cells = {"left": [png(i) for i in left], "right": [png(i) for i in right], "kind": ["a", "b", "a", "b"]}
    path = tmp_path / "two.parquet"
    pq.write_table(pa.table(cells), path)
    with pytest.raises(DataError, match=r"left, right.*--image-column"):
        open_images(path)
    images = open_images(path, image_column="right", label_column="kind")
    np.testing.assert_array_equal(images.read(range(4)), right)
    assert images.class_names == ("a", "b")
    with pytest.raises(DataError, match=r"no column `middle` \(it has left, right, kind\)"):
        open_images(path, image_column="middle")
    with pytest.raises(DataError, match="is not parquet"):
        open_images(write_folder(tmp_path / "f", left), image_column="left")


def test_hidden_files_and_order(tmp_path: Path) -> None:
    for name in ("b/1.png", "a/2.png", ".x/3.png", "__MACOSX/4.png", "a/.5.png", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_files(tmp_path) == ["a/2.png", "b/1.png", "c.txt"]
