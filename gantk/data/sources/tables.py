"""Images in columns of tables: parquet files here, datasets of the Hugging Face hub in `hub.py`."""

from __future__ import annotations

import os
import shutil
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from gantk_eval import cache_folder
from gantk_eval.columns import find_images, find_labels, picture_of, read_labels_of_files
from gantk_eval.errors import DataError
from gantk_eval.walk import find_parquet

from gantk.config.schema import DataConfig
from gantk.data.hashing import digest_of, hashes_of_files
from gantk.data.sources.base import COLUMNS, Item, Source, local_path, missing

ROWS = 256


class TableSource(Source):
    """Rows of a table with a column of encoded images and, where there is one, a column of classes."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config

    @cached_property
    @abstractmethod
    def _schema(self) -> pa.Schema: ...

    @abstractmethod
    def _columns(self, name: str) -> list[tuple[pa.Schema, pa.ChunkedArray]]:
        """A whole column of each of the table's files, in memory or memory-mapped, with the file's schema."""

    @cached_property
    @abstractmethod
    def _pictures(self) -> pa.ChunkedArray:
        """The image column for access to any row at once, memory-mapped."""

    def _columns_wanted(self) -> list[Any]:
        config = self._config
        wanted = [config.image_column, config.label_column if config.use_labels else None, config.use_labels]
        name = self._label_column
        if name is not None and config.label_column is None:
            kind = self._schema.field(name).type
            if not (pa.types.is_integer(kind) or pa.types.is_string(kind)):
                # Of these types no column was found by its name once, and what is cached from then has no labels.
                wanted.append(name)
        return wanted

    @cached_property
    def _image_column(self) -> str:
        return find_images(self._schema, self._config.image_column, self.description, COLUMNS)

    @cached_property
    def _found_labels(self) -> tuple[str | None, list[str]]:
        if not self._config.use_labels:
            return None, []
        return find_labels(self._schema, self._config.label_column, self.description, COLUMNS)

    @property
    def _label_column(self) -> str | None:
        return self._found_labels[0]

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self._found_labels[1])

    @cached_property
    def _classes(self) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
        name = self._label_column
        if name is None:
            return None, None
        found = read_labels_of_files(self._columns(name), name, self.description, COLUMNS)
        return found.values, found.names

    @property
    def labels(self) -> np.ndarray | None:  # type: ignore[override]
        return self._classes[0]

    @property
    def class_names(self) -> tuple[str, ...] | None:  # type: ignore[override]
        return self._classes[1]

    def item(self, index: int) -> Item:
        return picture_of(self._pictures[index].as_py(), self._folder_of(index))

    def _folder_of(self, index: int) -> Path | None:
        """The folder to which a path in row `index` may be relative."""
        return None


class ParquetSource(TableSource):
    """One parquet file, all those below a folder, or those that a pattern such as `data/train-*.parquet`
    names.

    Their rows in order, files by name. Raises DataError where nothing is there, a file is damaged, the files'
    columns differ, or the files of a folder are several splits.
    """

    def __init__(self, path: str, config: DataConfig) -> None:
        super().__init__(config)
        self._paths = _find_files(path)
        self.description = f"parquet {local_path(path)}"
        self._files = [_open_parquet(file) for file in self._paths]
        self._ends = list(accumulate(file.metadata.num_rows for file in self._files))
        if self._ends[-1] == 0:
            raise DataError(f"{self.description} holds no rows; set data.path to files that have images")
        names = self._schema.names
        for file_path, file in zip(self._paths, self._files, strict=True):
            lost = sorted(set(names) ^ set(file.schema_arrow.names))
            if lost:
                raise DataError(
                    f"{file_path} and {self._paths[0]} differ in their columns ({', '.join(lost)}), so they "
                    "are not one data set; set data.path to one file, or to a pattern such as "
                    "folder/train-*.parquet"
                )
        # The choice of columns is checked at once, before anything is read.
        _ = self._image_column, self._found_labels

    @cached_property
    def _schema(self) -> pa.Schema:
        return self._files[0].schema_arrow

    def _columns(self, name: str) -> list[tuple[pa.Schema, pa.ChunkedArray]]:
        try:
            columns = [pq.read_table(path, columns=[name], memory_map=True).column(0) for path in self._paths]
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self.description, error) from error
        return [(file.schema_arrow, column) for file, column in zip(self._files, columns, strict=True)]

    @cached_property
    def _pictures(self) -> pa.ChunkedArray:
        """The image column in an uncompressed Arrow file in the cache folder, written when it is first
        needed.

        A parquet file can only be decompressed a row group at a time: thousands of rows for one.
        """
        path = cache_folder() / "data" / "encoded" / f"{self.fingerprint()[:32]}.arrow"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                need = sum(Path(p).stat().st_size for p in self._paths)
                free = shutil.disk_usage(path.parent).free
                if need > free:
                    raise DataError(
                        f"data.storage=stream needs {need / 1e9:.1f} GB in {path.parent}, where "
                        f"{free / 1e9:.1f} GB are free; make room, or set $GANTK_CACHE to a folder on a "
                        "larger disk"
                    )
                partial = path.with_suffix(".partial")
                schema = pa.schema([self._schema.field(self._image_column)])
                with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                    for batch in self._batches(0):
                        writer.write_batch(batch.cast(schema))
                partial.replace(path)
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all().column(0)

    def _batches(self, start: int) -> Iterator[pa.RecordBatch]:
        """Batches of the image column from row `start` on. Only one batch is in memory."""
        end = 0
        for path, file in zip(self._paths, self._files, strict=True):
            groups = []
            before = end  # rows that stand before the first group that is read
            for group in range(file.metadata.num_row_groups):
                end += file.metadata.row_group(group).num_rows
                if end > start:
                    groups.append(group)
                else:
                    before = end
            try:
                for batch in file.iter_batches(ROWS, row_groups=groups, columns=[self._image_column]):
                    if before + len(batch) > start:
                        yield batch.slice(max(0, start - before))
                    before += len(batch)
            except (OSError, pa.ArrowException) as error:
                raise _damaged(str(path), error) from error

    def __len__(self) -> int:
        return self._ends[-1]

    @cached_property
    def _fingerprint(self) -> str:
        # Files are known by their order, not by their names: a copy elsewhere is the same data.
        root = Path(os.path.commonpath([path.parent.resolve() for path in self._paths]))
        names = [str(path.resolve().relative_to(root)) for path in self._paths]
        hashes = hashes_of_files(root, names, progress=self.progress)
        return digest_of("parquet", hashes, self._columns_wanted())

    def fingerprint(self) -> str:
        return self._fingerprint

    def items(self, start: int = 0) -> Iterator[Item]:
        index = start
        for batch in self._batches(start):
            for cell in batch.column(0):
                yield picture_of(cell.as_py(), self._folder_of(index))
                index += 1

    def _folder_of(self, index: int) -> Path:
        return self._paths[bisect_right(self._ends, index)].parent

    def locate(self, index: int) -> str:
        file = bisect_right(self._ends, index)
        return f"row {index - (self._ends[file - 1] if file else 0)} of {self._paths[file]}"


def _find_files(text: str) -> list[Path]:
    path = local_path(text)
    fix = (
        "set data.path and data.heldout_path to one each, by a file's name or a pattern such as folder/train-*.parquet"
    )
    files = find_parquet(path, fix)
    if not files and path.is_dir():
        raise DataError(
            f"{path} holds no .parquet files; set data.path to where they are, or data.source=folder for images"
        )
    if not files:
        raise missing(path, text, "a parquet file, a folder of them, or a pattern")
    return files


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(str(path), error) from error


def _damaged(where: str, error: Exception) -> DataError:
    reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
    return DataError(f"cannot read {where}: {reason}; give a whole parquet file")
