"""The places of data on this disk: looked for before a run begins, recorded as absolute paths, and found again.

A relative path in a config means one below the working folder in which a run is started, wherever the config's file is.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from gantk.config.schema import Config, DataConfig
from gantk.data.sources.base import local_path, missing

KEYS = ("path", "heldout_path")
WHAT = {
    "folder": "a folder of images",
    "npz": "an .npz file",
    "parquet": "a parquet file, a folder of them, or a pattern",
    "stacked_mnist": "MNIST as parquet",
}


def is_on_disk(data: DataConfig) -> bool:
    """Return whether a source reads files at `path`: `stacked_mnist` may mean a dataset on the hub instead."""
    if data.source == "stacked_mnist":
        return looks_local(data.path or "")
    return data.source in WHAT


def looks_local(text: str) -> bool:
    """Return whether a text that may be a dataset's id on the hub (two words) is a path or a pattern."""
    signs = any(sign in text for sign in "*~$") or text[:1] in ("/", ".")
    return local_path(text).exists() or text.endswith(".parquet") or signs


def is_there(path: Path) -> bool:
    """Return whether something is at a path, or a pattern finds something."""
    return path.exists() or bool(glob.glob(str(path), recursive=True))


def check_places(config: Config) -> None:
    """Raises DataError, in one sentence, where there is nothing at a path of the config's data."""
    for data in sources_of(config).values():
        if not is_on_disk(data):
            continue
        for key in KEYS:
            text = getattr(data, key)
            if text is not None and not is_there(path := local_path(text)):
                raise missing(path, text, WHAT[data.source], key)


def sources_of(config: Config) -> dict[str, DataConfig]:
    """The sections of the config that say where data are, by their keys."""
    return {"data": config.data, **{f"extra_data.{name}": data for name, data in config.extra_data.items()}}


def with_absolute_paths(config: Config, recorded: Mapping[str, Any] | None = None) -> Config:
    """The config with absolute paths to data on this disk.

    `recorded`: the values of the run's own record, where it is there already. A relative path to nothing is then taken for
    the recorded one that ends in it: the run is resumed from another folder than it was started in.
    Paths that begin with `~` or `$VARIABLE` mean the same from everywhere, and stay as they are.
    """

    def settled(key: str, data: DataConfig) -> DataConfig:
        if not is_on_disk(data):
            return data
        then = _section(recorded or {}, key)
        updates = {}
        for name in KEYS:
            text = getattr(data, name)
            if text is None or (path := local_path(text)).is_absolute():
                continue
            before = then.get(name)
            known = isinstance(before, str) and Path(before).parts[-len(path.parts) :] == path.parts
            updates[name] = before if known and not is_there(path) else _absolute(path)
        return data.model_copy(update=updates)

    return _replaced(config, {key: settled(key, data) for key, data in sources_of(config).items()})


def moved(before: Config, now: Config) -> tuple[Config, list[str]]:
    """An earlier config with the paths of `now` where these are the same places, or where nothing is at the old ones any
    more; with a sentence for each of the latter.
    """
    told, found = [], {}
    others = sources_of(now)
    for key, data in sources_of(before).items():
        other = others.get(key)
        updates = {}
        for name in KEYS if other is not None and is_on_disk(data) and is_on_disk(other) else ():
            old, new = getattr(data, name), getattr(other, name)
            if old is None or new is None or old == new:
                continue
            same = os.path.realpath(local_path(old)) == os.path.realpath(local_path(new))
            if same or not is_there(local_path(old)):
                updates[name] = new
                told += [] if same else [f"{key}.{name} was {old}, where nothing is, and is {new} now"]
        found[key] = data.model_copy(update=updates)
    return _replaced(before, found), told


def found_again(config: Config, homes: Iterable[Path]) -> Config:
    """A recorded config with the paths at which its data are now, where nothing is at the recorded ones.

    `homes`: folders of which the first is the one that the run was started in. What was below it is looked for below the
    working folder and below the others.
    """
    homes = list(homes)

    def candidates(path: Path) -> Iterator[Path]:
        if not path.is_absolute():
            relative = path
        elif homes and path.is_relative_to(homes[0]):
            relative = path.relative_to(homes[0])
        else:
            return
        yield from (home / relative for home in (Path.cwd(), *homes))

    def settled(data: DataConfig) -> DataConfig:
        updates = {}
        for name in KEYS if is_on_disk(data) else ():
            text = getattr(data, name)
            if text is None or is_there(path := local_path(text)):
                continue
            place = next((candidate for candidate in candidates(path) if is_there(candidate)), None)
            if place is not None:
                updates[name] = str(place)
        return data.model_copy(update=updates)

    return _replaced(config, {key: settled(data) for key, data in sources_of(config).items()})


def _absolute(path: Path) -> str:
    """Without `..`, unless it stands behind a link."""
    short = os.path.abspath(path)
    return short if os.path.realpath(short) == os.path.realpath(path) else str(path.absolute())


def _section(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return cast("Mapping[str, Any]", found if isinstance(found, Mapping) else {})


def _replaced(config: Config, sections: Mapping[str, DataConfig]) -> Config:
    extra = {name: sections.get(f"extra_data.{name}", data) for name, data in config.extra_data.items()}
    return config.model_copy(update={"data": sections["data"], "extra_data": extra})
