"""Files and folders have the rights that the umask leaves, so that others can read a checkpoint where it lets them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gantk.cli import main

ROOT = Path(__file__).resolve().parents[2]


def test_all_that_is_written_has_the_usual_rights(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (80, 8, 8), dtype=np.uint8)):
        Image.fromarray(pixels).save(pictures / f"{number}.png")
    before = set(tmp_path.rglob("*"))
    out = tmp_path / "out"
    short = ("train.kimg=0.064", "evaluate.metrics=[fd_pixel_pca]", "evaluate.samples=32", "samples.every_kimg=0.064")
    data = ("data.source=folder", f"data.path={pictures}", "checkpoint.every_kimg=0.032", "evaluate.every_kimg=0.064")
    mask = os.umask(0o027)
    try:
        for command in (
            ("train", "--config", str(ROOT / "configs" / "tiny.yaml"), *data, *short),
            ("eval", "--ckpt", "tiny", "--metrics", "fd_pixel_pca"),
            ("sample", "--ckpt", "tiny", "--out", str(out / "samples"), "--count", "3"),
            ("sample", "--ckpt", "tiny", "--out", str(out / "samples.npz"), "--count", "3"),
            ("sample", "--ckpt", "tiny", "--out", str(out / "grid.png"), "--count", "3"),
            ("export", "--ckpt", "tiny", "--out", str(out / "exported")),
        ):
            with pytest.raises(SystemExit) as end:
                main(list(command))
            assert not end.value.code, command
    finally:
        os.umask(mask)
    written = sorted(set(tmp_path.rglob("*")) - before)
    assert sum(path.suffix == ".safetensors" for path in written) > 6
    assert {".json", ".png", ".npz", ".npy", ".yaml", ".txt", ".jsonl", ".safetensors"} <= {p.suffix for p in written}
    wrong = {
        str(path.relative_to(tmp_path)): oct(stat.S_IMODE(path.lstat().st_mode))
        for path in written
        if stat.S_IMODE(path.lstat().st_mode) != (0o750 if path.is_dir() else 0o640)
    }
    assert wrong == {}
