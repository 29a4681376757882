"""Small data sets with known pixels, written by the tests in every format that gantk reads."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gantk.config.schema import DataConfig


def pictures(count: int, side: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random pixels: uint8 [count, side, side, channels]."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, C] (or [H, W]) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(
    path: Path,
    images: Sequence[bytes | None],
    labels: Sequence[Any] | None = None,
    *,
    names: Sequence[str] | None = None,
    image_column: str = "image",
    label_column: str = "label",
    hub_schema: bool = True,
    row_group_size: int = 7,
) -> Path:
    """A parquet file as the hub has them; `hub_schema=False`: plain binary without metadata."""
    if hub_schema:
        values: pa.Array = pa.array(
            [{"bytes": image, "path": None} for image in images],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
    else:
        values = pa.array(images, pa.binary())
    columns = {image_column: values}
    features: dict[str, Any] = {image_column: {"_type": "Image"}}
    if labels is not None:
        columns[label_column] = pa.array(labels)
        if names is not None:
            features[label_column] = {"names": list(names), "_type": "ClassLabel"}
    table = pa.table(columns)
    if hub_schema:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def write_folder(
    root: Path, images: np.ndarray, labels: np.ndarray | None = None, names: Sequence[str] | None = None
) -> Path:
    """A PNG for each image, in a sub-folder for each class; in the folder itself without labels."""
    for index, image in enumerate(images):
        folder = root if labels is None else root / (names[labels[index]] if names else str(labels[index]))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index:05d}.png").write_bytes(png(image))
    return root


def config(source: str, path: Path | str | None = None, **keys: Any) -> DataConfig:
    """A DataConfig at 8 pixels."""
    where = {} if path is None else {"path": str(path)}
    held = {"heldout_path": str(keys.pop("heldout_path"))} if "heldout_path" in keys else {}
    return DataConfig(source=source, **{"resolution": 8, **where, **held, **keys})
