"""Another `type` or `source` on the command line: what the config wrote for the old one goes with it, and that is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

REGISTERED = ("network", "objective")
"""The sections whose keys depend on their `type`."""
OPTIMIZER_KEYS: Mapping[str, tuple[str, ...]] = {
    "betas": ("adam", "adamw"),
    "eps": ("adam", "adamw", "rmsprop"),
    "momentum": ("sgd", "rmsprop"),
    "nesterov": ("sgd",),
}
"""The optimisers that use a key; those that are not named here go with all."""
_HUB, _TABLES = ("hub",), ("hub", "parquet")
_IMAGES = ("digits", "hub", "parquet", "folder", "npz", "mnist5k")
DATA_KEYS: Mapping[str, tuple[str, ...]] = {
    # A place is that of the old data, whatever the new source is.
    **dict.fromkeys(("path", "heldout_path"), ()),
    **dict.fromkeys(("revision", "name", "split", "heldout_split"), _HUB),
    **dict.fromkeys(("image_column", "label_column"), _TABLES),
    "mixture": ("mixture",),
    "count": ("mixture", "stacked_mnist"),
    "channels": _IMAGES,
    **dict.fromkeys(("resolution", "flip"), (*_IMAGES, "stacked_mnist")),
}
"""The sources that a key can be kept for when another source takes the old one's place; not named: for all."""


def registry(key: str) -> Any:
    """The registry of `network` or `objective`."""
    if key == "network":
        from gantk.networks import NETWORKS

        return NETWORKS
    from gantk.objectives import OBJECTIVES

    return OBJECTIVES


def drop_keys_of_old_types(values: Mapping[str, Any], merged: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Takes out of `merged` what `values` wrote for a `type` or `source` that an override replaces.

    Keys that the new one has too are kept, and so is whatever an override gives.

    Args:
        values: of the file; merged: the same with the overrides, a copy of its own.
        overrides: as `key.sub=value`.

    Returns:
        A sentence for each section that lost something.
    """
    paths = [override.partition("=")[0].strip() for override in overrides]
    notes = []
    for path in dict.fromkeys(paths):
        place, _, word = path.rpartition(".")
        if word not in ("type", "source") or place in paths:
            continue
        before, after = _at(values, place), _at(merged, place)
        if before is None or after is None:
            continue
        old, new = before.get(word, "adam" if place == "optimizer" else None), after[word]
        takes = None if old is None or old == new else _takes(place, new)
        if takes is None:
            continue
        given = {other[len(place) + 1 :].partition(".")[0] for other in paths if other.startswith(f"{place}.")}
        dropped = [key for key in before if key in after and key not in given and not takes(key)]
        for key in dropped:
            del after[key]
        if dropped:
            names = ", ".join(f"`{place}.{key}`" for key in dropped)
            notes.append(f"`{path}` is `{new}` in place of `{old}`, so the config's {names} {_are(dropped)} left out")
    return notes


def _are(keys: Sequence[str]) -> str:
    return "is" if len(keys) == 1 else "are"


def _at(values: Mapping[str, Any], place: str) -> Any:
    found: Any = values
    for key in place.split(".") if place else ():
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _takes(place: str, new: Any) -> Callable[[str], bool] | None:
    """Return whether a section of the type `new` takes a key; None where that is not known."""
    if place in REGISTERED:
        try:
            fields = registry(place).get(new).Config.model_fields
        except ValueError:
            return None
        return lambda key: key in fields
    if place == "optimizer" or place.startswith("optimizer.phases."):
        return lambda key: new in OPTIMIZER_KEYS.get(key, (new,))
    if place == "data" or place.startswith("extra_data."):
        return lambda key: new in DATA_KEYS.get(key, (new,))
    return None
