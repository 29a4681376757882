"""The one reader of tables' columns: which hold the images and their classes, and what stands in their cells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gantk_eval.errors import DataError

__all__ = [
    "EVALUATION",
    "LABEL_NAMES",
    "Keys",
    "Labels",
    "features_of",
    "find_images",
    "find_labels",
    "picture_of",
    "read_labels",
    "read_labels_of_files",
]

IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "labels", "class", "class_label", "fine_label", "target")
MOST_CLASSES = 100_000  # more different values are identity numbers, not classes


@dataclass(frozen=True)
class Keys:
    """The names of the settings that choose columns, for the sentences of errors."""

    image: str
    label: str
    without: str
    """The end of a sentence that offers to do without labels; empty where that cannot be asked for."""


EVALUATION = Keys("--image-column (image_column)", "--label-column (label_column)", "")


@dataclass(frozen=True)
class Labels:
    """The classes of a table's rows."""

    values: np.ndarray | None
    """int64 [N], not negative: numbers as they stand in the column, or the places of words in `names`. None: there are none."""
    names: tuple[str, ...] | None
    """The names of class 0, 1, …: declared by the table, or words. None: the classes are their numbers."""


def picture_of(value: Any, beside: Path | None = None) -> bytes | Path:
    """The encoded picture in a cell: bytes, or the `datasets` struct of bytes and path.

    A path is looked for as it is, then below the folder `beside`. An empty cell is b"", which nobody can decode, and a
    path to nothing is given back, so that both are bad images with a sentence each.
    """
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        if content is None and path:
            found = Path(path)
            return beside / path if beside is not None and not found.is_file() else found
        value = content
    return value if isinstance(value, bytes) else b""


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
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def find_images(schema: pa.Schema, wanted: str | None, where: str, keys: Keys) -> str:
    """The column of encoded images: `wanted`, or the only one that can be.

    Raises DataError, listing the columns there are, where it is missing, holds something else, or several
    could be it.
    """
    columns = ", ".join(schema.names)
    if wanted is not None:
        if wanted not in schema.names:
            raise DataError(f"{where} has no column `{wanted}` (it has {columns}); set {keys.image} to one of them")
        if not _holds_encoded(schema.field(wanted).type):
            raise DataError(
                f"column `{wanted}` of {where} holds {schema.field(wanted).type}, not encoded images; set "
                f"{keys.image} to the column that does (there are {columns})"
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
            f"{where} has several columns that could be the images ({', '.join(found)}); set {keys.image} to one"
        )
    return found[0]


def find_labels(schema: pa.Schema, wanted: str | None, where: str, keys: Keys) -> tuple[str | None, list[str]]:
    """The column of classes (`wanted`, the only one that is declared as such, or the first of `LABEL_NAMES` that can be; None
    where there is none), and a sentence for each column that bears such a name and is left aside.

    Raises DataError where `wanted` is missing, or several are declared.
    """
    if wanted is not None:
        if wanted not in schema.names:
            raise DataError(
                f"{where} has no column `{wanted}` (it has {', '.join(schema.names)}); set {keys.label} to one of "
                f"them{keys.without}"
            )
        return wanted, []
    features = features_of(schema)
    declared = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    if len(declared) > 1:
        raise DataError(
            f"{where} has several columns of classes ({', '.join(declared)}); set {keys.label} to one of them{keys.without}"
        )
    named = [name for name in LABEL_NAMES if name in schema.names and name not in declared]
    found = [*declared, *(name for name in named if _holds_classes(schema.field(name).type))]
    aside = [
        f"column `{name}` holds {schema.field(name).type}, not classes, and is left aside"
        for name in named
        if name not in found
    ]
    aside += [
        f"column `{name}` is left aside, for `{found[0]}` is taken for the classes; {keys.label} chooses"
        for name in found[1:]
    ]
    return (found[0] if found else None), aside


def _holds_classes(kind: pa.DataType) -> bool:
    """Return whether a type is an integer, string or boolean, or a dictionary of one."""
    if pa.types.is_dictionary(kind):
        return _holds_classes(kind.value_type)
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_text(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def read_labels_of_files(
    files: Sequence[tuple[pa.Schema, pa.ChunkedArray]], name: str, where: str, keys: Keys
) -> Labels:
    """The classes in one column of several files, each given with its schema, as `read_labels` gives them.

    Files of several programs may hold words, or integers, in different types. Raises DataError where some hold words and
    others numbers, or declare other names for the same numbers.
    """
    fix = f"; set {keys.label} to another{keys.without}"
    features = [features_of(schema).get(name, {}) for schema, _ in files]
    if any(feature.get("names") != features[0].get("names") for feature in features):
        raise DataError(f"column `{name}` of {where} has other names of classes in some files than in others{fix}")
    parts = [
        part.cast(part.type.value_type) if pa.types.is_dictionary(part.type) else part for part in (c for _, c in files)
    ]
    kinds = list(dict.fromkeys(part.type for part in parts))
    if len(kinds) > 1:
        if all(map(_is_text, kinds)):
            common = pa.large_string()
        elif all(map(pa.types.is_integer, kinds)):
            common = pa.uint64() if pa.uint64() in kinds else pa.int64()
        else:
            raise DataError(
                f"column `{name}` of {where} holds {' in some files and '.join(map(str, kinds))} in others, which are not the "
                f"same classes{fix}"
            )
        try:
            parts = [part.cast(common) for part in parts]
        except pa.ArrowInvalid as error:
            raise DataError(f"column `{name}` of {where} holds both negative numbers and uint64{fix}") from error
    column = pa.chunked_array([chunk for part in parts for chunk in part.chunks], type=parts[0].type)
    return read_labels(column, name, features[0], where, keys)


def read_labels(column: pa.ChunkedArray, name: str, feature: dict[str, Any], where: str, keys: Keys) -> Labels:
    """The classes in a column of integers, words or truth values, or of a dictionary of those (pandas' category).

    Integers are taken as they are; `feature` may declare their names. Words are numbered in their alphabetical order,
    false and true are 0 and 1. A column of nothing but -1 (the hub's way to keep a test set's answers back) means no labels.
    Raises DataError where rows lack a label or the column holds no classes.
    """
    fix = f"; set {keys.label} to another{keys.without}"
    if not _holds_classes(column.type):
        raise DataError(f"column `{name}` of {where} holds {column.type}, not classes{fix}")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        raise DataError(f"column `{name}` of {where} has {column.null_count} rows without a label{fix}")
    if _is_text(column.type):
        column = column.cast(pa.large_string())
        words = sorted(pc.unique(column).to_pylist())
        _check_number(len(words), name, where, fix)
        numbers = pc.index_in(column, value_set=pa.array(words, type=column.type))
        return Labels(numbers.to_numpy().astype(np.int64), tuple(words))
    if pa.types.is_boolean(column.type):
        names = ("false", "true") if name in LABEL_NAMES else (f"not {name}", name)
        return Labels(column.to_numpy().astype(np.int64), names)
    try:
        labels = column.cast(pa.int64()).to_numpy().astype(np.int64)  # a copy, which may be written to
    except pa.ArrowInvalid as error:
        raise DataError(f"column `{name}` of {where} holds numbers beyond 64 bits, not classes{fix}") from error
    if len(labels) and labels.max() < 0:
        return Labels(None, None)
    declared = tuple(str(n) for n in feature.get("names") or ()) or None
    most = len(declared) if declared else None
    if len(labels) and (labels.min() < 0 or (most is not None and labels.max() >= most)):
        counted = f"counted from 0 to {most - 1}" if most is not None else "not negative"
        raise DataError(
            f"column `{name}` of {where} has values from {labels.min()} to {labels.max()}, and classes are {counted}{fix}"
        )
    _check_number(len(np.unique(labels)), name, where, fix)
    return Labels(labels, declared)


def _check_number(different: int, name: str, where: str, fix: str) -> None:
    if different > MOST_CLASSES:
        raise DataError(
            f"column `{name}` of {where} has {different:,} different values, and {MOST_CLASSES:,} classes are the most{fix}"
        )
