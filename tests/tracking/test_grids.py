"""Sample grids: the right pixels in the right places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gantk.grids import save_grid, to_uint8


def load(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def test_pixels_of_a_grid(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 70, 3), dtype=np.uint8)
    save_grid(images, tmp_path / "new" / "grid.png", columns=3)
    grid = load(tmp_path / "new" / "grid.png")
    assert grid.shape == (2 * 66 + 2, 3 * 72 + 2, 3)
    expected = np.full_like(grid, 255)
    for index, (top, left) in enumerate([(2, 2), (2, 74), (2, 146), (68, 2), (68, 74)]):
        expected[top : top + 64, left : left + 70] = images[index]
    assert np.array_equal(grid, expected)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["grid.png"]


def test_small_grey_images_are_enlarged_blockwise(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), dtype=np.uint8)
    save_grid(images, tmp_path / "grid.png")
    grid = load(tmp_path / "grid.png")
    assert grid.shape == (2 * 86 + 2, 2 * 86 + 2), "two by two, three times as large, grey"
    second = grid[2 : 2 + 84, 88 : 88 + 84]
    for offset in range(3):
        assert np.array_equal(second[offset::3, offset::3], images[1, :, :, 0])


def test_captions_stand_left_of_the_rows(tmp_path: Path) -> None:
    images = np.full((4, 64, 64, 3), 100, np.uint8)
    save_grid(images, tmp_path / "plain.png", columns=2)
    save_grid(images, tmp_path / "grid.png", columns=2, labels=["cat", "a longer name"])
    bare, grid = load(tmp_path / "plain.png"), load(tmp_path / "grid.png")
    margin = grid.shape[1] - bare.shape[1]
    assert margin > 20
    assert np.array_equal(grid[:, margin:], bare)
    for row in (grid[2:66, :margin], grid[68:132, :margin]):
        assert (row < 100).any(), "something is written"
        assert (row[:16] == 255).all(), "in the middle of its row"
        assert (row[-16:] == 255).all()


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 4, 4, 1), np.float32), None),
        (np.zeros((2, 4, 4), np.uint8), None),
        (np.zeros((2, 3, 4, 4), np.uint8), None),
        (np.zeros((0, 4, 4, 1), np.uint8), None),
        (np.zeros((2, 4, 4, 1), np.uint8), ["one", "two"]),
    ],
)
def test_refused(tmp_path: Path, images: np.ndarray, labels: list[str] | None) -> None:
    with pytest.raises(ValueError, match=r"grid wants|captions"):
        save_grid(images, tmp_path / "grid.png", labels=labels)
    assert not list(tmp_path.glob("*.png"))


def test_to_uint8_is_the_rule() -> None:
    values = torch.tensor([-2.0, -1.0, -0.999, 0.0, 0.5, 0.9999, 1.0, 1.004, 9.0])
    levels = to_uint8(values.reshape(1, 1, 1, -1))
    assert levels.shape == (1, 1, 9, 1)
    # Before the floor: 0.5, 0.6275, 128, 191.75, 255.487, 255.5; 1.004 would wrap round to 0 unclamped.
    assert levels.ravel().tolist() == [0, 0, 0, 128, 191, 255, 255, 255, 255]


def test_to_uint8_layout_and_types() -> None:
    images = torch.rand(2, 3, 4, 5) * 2 - 1
    levels = to_uint8(images)
    assert (levels.shape, levels.dtype) == ((2, 4, 5, 3), np.uint8)
    assert levels.flags["C_CONTIGUOUS"]
    assert np.array_equal(levels[1, 2, :, 0], to_uint8(images[1:, :1])[0, 2, :, 0])
    for kind in (torch.bfloat16, torch.float16):
        low = images.to(kind)
        assert np.array_equal(to_uint8(low), to_uint8(low.float())), "the arithmetic is in fp32"
    assert np.array_equal(to_uint8(images.contiguous(memory_format=torch.channels_last)), levels)
