"""What every source of images offers, whatever it reads from."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from gantk_eval.columns import Keys
from gantk_eval.errors import DataError

Item = bytes | Path | np.ndarray
"""A picture: its encoded bytes, the file it is in, or uint8 pixels [H, W, C]."""

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
COLUMNS = Keys("data.image_column", "data.label_column", ", or data.use_labels=false")


class Source(ABC):
    """N pictures of any sizes and modes in a fixed order, with class labels or without.

    Making one is cheap. `fingerprint` reads no more than it must to know the content; length, labels and
    items may load.
    """

    description: str
    """What people call it: the kind and the place."""
    progress: bool = False
    """Whether to show on stderr how far a long read is."""
    left_out: Mapping[str, int] = MappingProxyType({})
    """The number of files that are no images, by the endings of their names."""
    notes: tuple[str, ...] = ()
    """Sentences on what else is left aside: columns of labels, say."""
    commit: str | None = None
    """The commit of the hub that the pictures are from, where they are from there."""
    labels: np.ndarray | None
    """int64 [N], classes counted from 0; None where there are none, or none are wanted."""
    class_names: tuple[str, ...] | None
    """The name of class 0, 1, ..., where classes have names."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256, in hex, that changes whenever the pictures, their order or their labels do."""

    @abstractmethod
    def item(self, index: int) -> Item:
        """Picture `index`, not decoded. May be called from several threads at once."""

    @abstractmethod
    def locate(self, index: int) -> str:
        """Where picture `index` stands, for a message: a file, or a row in one."""

    def items(self, start: int = 0) -> Iterator[Item]:
        """The pictures from `start` on, in order: the fastest way to read all of them."""
        for index in range(start, len(self)):
            yield self.item(index)


def local_path(text: str) -> Path:
    """A path with `~` and `$VARIABLES` expanded. Raises DataError where a variable is not set."""
    path = os.path.expandvars(text)
    unset = re.search(r"\$(\w+|\{[^}]*\})", path)
    if unset:
        raise DataError(f"the path {text} uses {unset[0]}, which is not set; set the variable or write the path out")
    return Path(path).expanduser()


def missing(path: Path, text: str, what: str, key: str = "path") -> DataError:
    """The error for a path that is not there; `key` of `data` is where it stands."""
    hint = ""
    owner, slash, name = text.partition("/")
    if slash and HUB_ID.fullmatch(text) and not Path(owner).exists() and not Path(name).suffix:
        hint = "; if it is a dataset's id on the Hugging Face hub, set data.source=hub"
    return DataError(f"{path.absolute()} does not exist; set data.{key} to {what}{hint}")
