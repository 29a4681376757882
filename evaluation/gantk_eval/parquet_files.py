"""Encoded images in a column of parquet files, a row group at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gantk_eval.columns import EVALUATION, find_images, find_labels, picture_of, read_labels_of_files
from gantk_eval.errors import DataError
from gantk_eval.images import FORMATS

__all__ = ["ParquetFiles"]


class ParquetFiles:
    """A column of encoded images, and of classes where there is one, in one or several parquet files.

    `image_column`, `label_column`: by default found from the Hugging Face schema in the file, or by type and name.
    Raises DataError, listing the columns there are, where a column is missing or the choice is not clear. Labels that
    were not asked for and cannot be read are left aside with a note. Only the row groups in use are in memory.
    """

    def __init__(
        self,
        paths: Path | Sequence[Path],
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        use_labels: bool = True,
    ) -> None:
        self._paths = [paths] if isinstance(paths, Path) else list(paths)
        self.name = str(self._paths[0]) if len(self._paths) == 1 else str(self._paths[0].parent)
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        self._starts: list[int] = []
        self._open: list[pq.ParquetFile] = []
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        count = 0
        for number, path in enumerate(self._paths):
            try:
                file = pq.ParquetFile(path, memory_map=True)
            except Exception as error:
                raise DataError(
                    f"cannot read {path}: {str(error).splitlines()[0]}; give a whole parquet file"
                ) from error
            self._open.append(file)
            for group in range(file.metadata.num_row_groups):
                self._groups.append((number, group))
                self._starts.append(count)
                count += file.metadata.row_group(group).num_rows
        self._count = count
        if count == 0:
            raise DataError(f"{self.name} holds no rows; give {FORMATS}")
        schema = self._open[0].schema_arrow
        self.image_column = find_images(schema, image_column, self.name, EVALUATION)
        self.label_column: str | None = None
        self.labels: np.ndarray | None = None
        self.class_names: tuple[str, ...] | None = None
        self.notes: tuple[str, ...] = ()
        if use_labels:
            try:
                self._read_labels(schema, label_column)
            except DataError as error:
                if label_column is not None:
                    raise
                self.notes = (*self.notes, f"labels are left aside: {error}")

    def _read_labels(self, schema: pa.Schema, wanted: str | None) -> None:
        column, aside = find_labels(schema, wanted, self.name, EVALUATION)
        self.notes = tuple(aside)
        if column is None:
            return
        lacking = [
            path for path, file in zip(self._paths, self._open, strict=True) if column not in file.schema_arrow.names
        ]
        if lacking:
            raise DataError(
                f"{lacking[0]} has no column `{column}`, which {self._paths[0]} has; give files of one kind"
            )
        files = [(file.schema_arrow, file.read(columns=[column]).column(0)) for file in self._open]
        found = read_labels_of_files(files, column, self.name, EVALUATION)
        if found.values is None:
            self.notes = (*self.notes, f"column `{column}` holds nothing but negative numbers, so there are no labels")
            return
        self.label_column, self.labels, self.class_names = column, found.values, found.names

    def __len__(self) -> int:
        return self._count

    def data(self, index: int) -> bytes | Path:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        number, inside = self._groups[group]
        with self._lock:
            column = self._cache.get(group)
            if column is None:
                column = self._open[number].read_row_group(inside, columns=[self.image_column]).column(0)
                self._cache[group] = column
                if len(self._cache) > 2:
                    self._cache.popitem(last=False)
            value = column[index - self._starts[group]].as_py()
        return picture_of(value, self._paths[number].parent)

    def file(self, index: int) -> str:
        return f"{self.name}, row {index}"
