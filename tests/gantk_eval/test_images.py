"""The image reader: one rule for every format and mode."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gantk_eval import DataError, open_images
from gantk_eval.images import ArrayImages, GeneratedImages, ImageSet, decode
from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.fixture
def grey(rgb: np.ndarray) -> np.ndarray:
    return rgb[:, :, 0]


def test_rgb_and_grey_come_back_as_they_are(rgb: np.ndarray, grey: np.ndarray) -> None:
    assert np.array_equal(decode(encoded(Image.fromarray(rgb))), rgb)
    assert np.array_equal(decode(encoded(Image.fromarray(grey))), grey[:, :, None])
    assert np.array_equal(decode(encoded(Image.fromarray(grey)), channels=3), np.repeat(grey[:, :, None], 3, axis=2))


def test_rgb_to_grey_is_luma(rgb: np.ndarray) -> None:
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode(encoded(Image.fromarray(rgb)), channels=1)[:, :, 0] - luma).max() <= 1


def test_sixteen_bits_keep_the_high_byte(grey: np.ndarray) -> None:
    stored = Image.fromarray(grey.astype(np.uint16) * 257)
    assert stored.mode.startswith("I;16")
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode(encoded(stored, kind))[:, :, 0], grey)


def test_one_bit_and_palette(grey: np.ndarray, rgb: np.ndarray) -> None:
    assert set(np.unique(decode(encoded(Image.fromarray(grey > 127))))) == {0, 255}
    palette = Image.fromarray(rgb).quantize(200)
    assert np.array_equal(decode(encoded(palette)), np.array(palette.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_over_white(mode: str) -> None:
    clear = Image.new(mode, (4, 4), (10, 20, 30, 0) if mode == "RGBA" else (10, 0))
    half = Image.new(mode, (4, 4), (0, 0, 0, 128) if mode == "RGBA" else (0, 128))
    assert (decode(encoded(clear)) == 255).all()
    assert decode(encoded(clear)).shape == (4, 4, 3 if mode == "RGBA" else 1)
    assert np.abs(decode(encoded(half)).astype(int) - 127).max() <= 1


def test_transparent_palette_entry_lies_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert decode(encoded(image, transparency=0)).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_cmyk_becomes_rgb() -> None:
    pixels = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert pixels.shape == (8, 8, 3)
    assert pixels[..., 0].min() > 240
    assert pixels[..., 1:].max() < 15


def test_first_frame_of_an_animation(grey: np.ndarray) -> None:
    frames = [Image.fromarray(np.full((4, 4), v, np.uint8)) for v in (30, 200)]
    assert (decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == 30).all()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 8:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise to show
    data = encoded(Image.fromarray(pixels), "JPEG", quality=95, exif=exif)
    turned = decode(data)
    assert turned.shape == (16, 8, 3)
    assert turned[:6].max() < 30
    assert turned[-6:].min() > 225
    (tmp_path / "a.jpg").write_bytes(data)
    assert open_images(tmp_path).shape == (16, 8, 3)


def test_damaged_images_are_named(tmp_path: Path, rgb: np.ndarray) -> None:
    data = encoded(Image.fromarray(np.tile(rgb, (20, 20, 1))))
    with pytest.raises(DataError, match="cannot read the seventh"):
        decode(data[: len(data) // 2], name="the seventh")
    with pytest.raises(DataError, match="not an image that Pillow can read"):
        decode(b"not an image")
    bad = tmp_path / "bad.png"
    bad.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"bad\.png"):
        open_images(tmp_path).read([0])
    with pytest.raises(DataError, match="floating-point"):
        decode(encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"))


def test_what_is_done_with_odd_images_is_told(tmp_path: Path, rgb: np.ndarray, grey: np.ndarray) -> None:
    def notes(*files: bytes) -> list[str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for number, data in enumerate(files):
            (folder / f"{number}.png").write_bytes(data)
        return list(open_images(folder).notes)  # type: ignore[attr-defined]

    plain, flat = encoded(Image.fromarray(rgb)), encoded(Image.fromarray(grey))
    assert notes(plain, plain) == []
    assert notes(flat, flat) == []
    assert notes(flat, plain, flat) == ["2 of 3 images are grey, and are repeated to RGB as the others have colours"]
    transparent = "have an alpha channel or a transparent colour, and are laid over white"
    assert notes(plain, encoded(Image.fromarray(rgb).convert("RGBA"))) == [f"1 of 2 images {transparent}"]
    palette = Image.fromarray(rgb).quantize(20)
    assert notes(plain, encoded(palette)) == ["1 of 2 images have a palette, and become RGB"]
    assert notes(plain, encoded(palette, transparency=0))[0] == f"1 of 2 images {transparent}"
    deep = encoded(Image.fromarray(grey.astype(np.uint16) * 257))
    assert notes(deep) == ["1 of 1 images have 16-bit values, of which the high byte is kept"]
    cmyk = encoded(Image.fromarray(rgb).convert("CMYK"), "JPEG")
    assert notes(plain, cmyk, cmyk) == ["2 of 3 images are CMYK, and become RGB"]
    frames = [Image.fromarray(np.full((5, 7), v, np.uint8)) for v in (30, 200)]
    for kind in ("PNG", "GIF", "WEBP", "TIFF"):
        moving = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        still = encoded(frames[0], kind)
        told = "1 of 2 images have several frames, of which the first is taken"
        assert told in notes(plain, moving), kind
        assert told not in notes(plain, still), kind


def test_sixteen_bit_colours_are_told(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    values = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    images = open_images(tmp_path)
    assert np.array_equal(images.read([0])[0], values)
    assert images.notes == ("1 of 1 images have 16-bit values, of which the high byte is kept",)  # type: ignore[attr-defined]


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    return generator.integers(0, 256, (9, 6, 6, 3), dtype=np.uint8), np.repeat(np.arange(3), 3)


def in_every_format(folder: Path, images: np.ndarray, labels: np.ndarray) -> dict[str, Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    np.savez(folder / "a.npz", images=images, labels=labels)
    data = [encoded(Image.fromarray(x)) for x in images]
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for i, (item, label) in enumerate(zip(data, labels, strict=True)):
            place = folder / "a" / f"class{label}" / f"{i:03d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(item)
            archive.writestr(f"top/class{label}/{i:03d}.png", item)
    table = pa.table({"image": [{"bytes": d, "path": None} for d in data], "label": pa.array(labels)})
    pq.write_table(table, folder / "a.parquet", row_group_size=4)
    return {"npz": folder / "a.npz", "zip": folder / "a.zip", "folder": folder / "a", "parquet": folder / "a.parquet"}


def test_one_content_has_one_fingerprint(tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = pictures
    expected = ArrayImages(images, labels).fingerprint()
    for kind, path in in_every_format(tmp_path, images, labels).items():
        opened = open_images(path)
        assert isinstance(opened, ImageSet)
        assert opened.shape == (6, 6, 3)
        assert opened.labels is not None
        assert opened.labels.tolist() == labels.tolist(), kind
        assert np.array_equal(opened.read([8, 0, 8]), images[[8, 0, 8]]), kind
        assert opened.fingerprint() == expected, kind
    np.save(tmp_path / "a.npy", images)
    assert open_images(tmp_path / "a.npy").fingerprint() == ArrayImages(images).fingerprint()


def test_fingerprint_sees_pixels_labels_and_shape(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = pictures
    changed = images.copy()
    changed[3, 2, 1, 0] ^= 1
    sets = [
        ArrayImages(images),
        ArrayImages(changed),
        ArrayImages(images, labels),
        ArrayImages(images, labels[::-1].copy()),
        ArrayImages(images.reshape(9, 4, 9, 3)),
    ]
    assert len({s.fingerprint() for s in sets}) == len(sets)


def test_numbered_folders_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    for name in ("10", "2", "0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(encoded(Image.new("L", (4, 4), int(name))))
    opened = open_images(tmp_path)
    assert opened.class_names == ("0", "2", "10")
    assert opened.labels is not None
    shown = {int(opened.read([i])[0, 0, 0, 0]): int(label) for i, label in enumerate(opened.labels)}
    assert shown == {0: 0, 2: 1, 10: 2}


def test_mixed_grey_and_colour_is_colour(tmp_path: Path, rgb: np.ndarray, grey: np.ndarray) -> None:
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(grey)))
    assert open_images(tmp_path).shape == (5, 7, 1)
    (tmp_path / "b.png").write_bytes(encoded(Image.fromarray(rgb)))
    assert open_images(tmp_path).shape == (5, 7, 3)
    assert open_images(tmp_path).labels is None


def test_sizes_that_differ_are_refused_by_name(tmp_path: Path) -> None:
    for i, size in enumerate([(4, 4), (4, 4), (5, 4)]):
        (tmp_path / f"{i}.png").write_bytes(encoded(Image.new("RGB", size)))
    with pytest.raises(DataError, match=r"2\.png is 5×4"):
        open_images(tmp_path)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.linspace(-1, 1, 48, dtype=np.float32).reshape(1, 4, 4, 3), r"float32 values from -1 to 1.*127\.5"),
        (np.full((1, 4, 4, 3), np.nan), "NaN"),
        (np.zeros((2, 3, 8, 8), np.uint8), "N×C×H×W"),
        (np.zeros((2, 8, 8, 4), np.uint8), "4 channels"),
        (np.zeros((4, 4), np.uint8), "N×H×W"),
        (np.zeros((2, 4, 4), np.int64), "int64"),
    ],
)
def test_arrays_that_are_not_images_are_refused(array: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        ArrayImages(array)


def test_labels_that_do_not_fit_are_refused() -> None:
    images = np.zeros((3, 4, 4), np.uint8)
    for labels, words in (([0, 1], "3 images but 2 labels"), ([0, 1, -1], "negative"), ([0.5, 1, 2], "float64")):
        with pytest.raises(DataError, match=words):
            ArrayImages(images, labels)  # type: ignore[arg-type]


def test_sources_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "named.npz", pictures=np.zeros((2, 4, 4), np.uint8))
    np.savez(tmp_path / "objects.npz", images=np.array([{}], dtype=object))
    np.save(tmp_path / "none.npy", np.zeros((0, 4, 4), np.uint8))
    (tmp_path / "bad.zip").write_bytes(b"PK")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    (tmp_path / "notes.txt").write_text("x")
    cases = {
        "missing": "there is nothing at",
        "empty": "holds no images",
        "named.npz": "no array `images`",
        "objects.npz": "never unpickled",
        "none.npy": "holds no images",
        "bad.zip": "cannot read",
        "bad.parquet": "cannot read",
        "notes.txt": "not a set of images",
    }
    for name, words in cases.items():
        with pytest.raises(DataError, match=words):
            open_images(tmp_path / name)


def test_generated_images_are_known_by_their_identity() -> None:
    def make(indices: np.ndarray) -> np.ndarray:
        return np.broadcast_to(indices.astype(np.uint8)[:, None, None, None], (len(indices), 4, 4, 1))

    first = GeneratedImages(10, make, (4, 4, 1), identity="checkpoint a, seed 0")
    assert np.array_equal(first.read([3, 7])[:, 0, 0, 0], [3, 7])
    assert first.fingerprint() == GeneratedImages(10, make, (4, 4, 1), identity="checkpoint a, seed 0").fingerprint()
    assert first.fingerprint() != GeneratedImages(10, make, (4, 4, 1), identity="checkpoint b, seed 0").fingerprint()
    with pytest.raises(DataError, match="must return uint8"):
        GeneratedImages(10, make, (4, 4, 3), identity="x").read([0])
