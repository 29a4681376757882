"""Which columns of a table hold the images and their classes, and what the classes are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from gantk_eval.errors import DataError

IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "labels", "class", "class_label", "fine_label", "target")
MOST_CLASSES = 100_000  # a larger value is an identity number, not a class


def features_of(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """The `datasets` features that Hugging Face writes into a table's metadata; empty without any."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _holds_encoded(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def find_images(schema: pa.Schema, wanted: str | None, where: str) -> str:
    """The column of encoded images: `wanted`, or the only one that can be.

    Raises DataError, listing the columns there are, where it is missing, holds something else, or several
    could be it.
    """
    columns = ", ".join(schema.names)
    if wanted is not None:
        if wanted not in schema.names:
            raise DataError(
                f"{where} has no column `{wanted}` (it has {columns}); set data.image_column to one of them"
            )
        if not _holds_encoded(schema.field(wanted).type):
            raise DataError(
                f"column `{wanted}` of {where} holds {schema.field(wanted).type}, not encoded images; set "
                f"data.image_column to the column that does (there are {columns})"
            )
        return wanted
    features = features_of(schema)
    found = [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
    if not found:
        found = [field.name for field in schema if _holds_encoded(field.type)]
        named = [name for name in found if name in IMAGE_NAMES]
        found = named if len(named) == 1 else found
    if not found:
        raise DataError(f"{where} has no column of encoded images (it has {columns}); images are bytes, as PNG or JPEG")
    if len(found) > 1:
        raise DataError(
            f"{where} has several columns that could be the images ({', '.join(found)}); set data.image_column to one"
        )
    return found[0]


def find_labels(schema: pa.Schema, wanted: str | None, where: str) -> str | None:
    """The column of classes: `wanted`, or the only one that can be, or None. Raises DataError as
    `find_images` does.
    """
    if wanted is not None:
        if wanted not in schema.names:
            raise DataError(
                f"{where} has no column `{wanted}` (it has {', '.join(schema.names)}); set "
                "data.label_column to one of them, or data.use_labels=false"
            )
        return wanted
    features = features_of(schema)
    found = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    if not found:
        kinds = {field.name: field.type for field in schema}
        found = [
            n for n in LABEL_NAMES if n in kinds and (pa.types.is_integer(kinds[n]) or pa.types.is_string(kinds[n]))
        ][:1]
    if len(found) > 1:
        raise DataError(
            f"{where} has several columns of classes ({', '.join(found)}); set data.label_column to one of "
            "them, or data.use_labels=false"
        )
    return found[0] if found else None


def read_labels(
    column: pa.ChunkedArray, name: str, feature: dict[str, Any], where: str
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Classes, int64 [N] counted from 0, and their names where they have any.

    Integers are taken as they are, words are numbered in their alphabetical order, false and true are 0 and
    1. A column of nothing but -1 (the hub's way to keep a test set's answers back) means no labels.
    Raises DataError where rows lack a label or the column holds no classes.
    """
    fix = "; set data.label_column to another, or data.use_labels=false"
    if column.null_count:
        raise DataError(f"column `{name}` of {where} has {column.null_count} rows without a label{fix}")
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        words = sorted(pc.unique(column).to_pylist())
        numbers = pc.index_in(column, value_set=pa.array(words, type=column.type))
        return numbers.to_numpy().astype(np.int64), tuple(words)
    if pa.types.is_boolean(column.type):
        return column.to_numpy().astype(np.int64), (f"not {name}", name)
    if not pa.types.is_integer(column.type):
        raise DataError(f"column `{name}` of {where} holds {column.type}, not classes{fix}")
    labels = column.to_numpy().astype(np.int64)
    if len(labels) and labels.max() < 0:
        return None, None
    names = tuple(str(n) for n in feature.get("names") or ()) or None
    most = len(names) if names else MOST_CLASSES
    if len(labels) and (labels.min() < 0 or labels.max() >= most):
        raise DataError(
            f"column `{name}` of {where} has values from {labels.min()} to {labels.max()}, and classes are "
            f"counted from 0 to {most - 1} at most{fix}"
        )
    return labels, names
