"""From the words of a command to the config of a run, and to its name."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gantk.config import Config, load_config
from gantk.config.loading import apply_overrides, flatten, load_with_notes, read_yaml
from gantk.errors import ConfigError
from gantk.recipes import find_config, recipes
from gantk.recipes.folder import look_at, name_of, place_of, plan

_LONGEST = 80
"""Characters of a name made from overrides; longer ones are cut, and told apart by a hash."""


@dataclass(frozen=True)
class Choice:
    """The config that a command asks for, and what it is made from."""

    config: Config
    file: Path
    """The recipe's, or the user's own."""
    overrides: tuple[str, ...] = ()
    """The settings laid over the file, without the run's name."""
    notes: tuple[str, ...] = ()
    """Sentences that the user should read about it."""


def choose(
    config: str | None, words: Sequence[str] = (), *, name: str | None = None, data: str | None = None
) -> Choice:
    """The config of a command line.

    Args:
        config: the value of `--config`: a recipe's name or a YAML file, whose `name` stays the run's.
        words: overrides as `key.sub=value`, and, in place of `config`, one recipe or file, whose overrides make a
            name of their own.
        name: the value of `--name`.
        data: the value of `--data`: images to train on in place of the recipe's, or by a recipe that suits them.

    Raises:
        ConfigError: for a recipe that is not there, and for every error in the config.
        DataError: where there is nothing at `data` to train on.
    """
    named = [word for word in words if "=" not in word]
    overrides = tuple(word for word in words if "=" in word)
    if config is not None:
        place = place_of(data) if data is not None else []
        return _loaded(find_config(config), (*place, *words), name)
    if len(named) > 1:
        raise ConfigError(
            f"one recipe at a time, and there are {len(named)}: {', '.join(named)}; a setting is written as `key.sub=value`"
        )
    if data is not None:
        return _for_images(data, named, overrides, name)
    if not named:
        raise ConfigError(
            "no recipe is given: name one, as `gantk train quickstart`, give your own images with `--data FOLDER`, or a file with "
            f"`--config FILE`; the recipes are: {', '.join(recipes())}"
        )
    return _named_by_overrides(find_config(named[0]), (), overrides, name)


def _for_images(data: str, named: Sequence[str], overrides: tuple[str, ...], name: str | None) -> Choice:
    """A recipe for the images at `data`: the one that is named, or the one that suits them."""
    notes: tuple[str, ...] = ()
    if named:
        file, first = find_config(named[0]), tuple(place_of(data))
        base = f"{load_config(file).name}-{name_of(data)}"
    else:
        chosen = plan(look_at(data, apply_overrides({}, overrides).get("data") or {}), data)
        file, first, notes, base = recipes()[chosen.recipe], chosen.overrides, chosen.reasons, name_of(data)
    choice = _named_by_overrides(file, (*first, f"name={json.dumps(base)}"), overrides, name)
    # What the recipe had for its own data is left out as a matter of course.
    kept = [note for note in choice.notes if named or " in place of " not in note]
    return replace(choice, notes=(*notes, *kept))


def _loaded(file: Path, overrides: Sequence[str], name: str | None) -> Choice:
    # In quotes: a name such as `42` or `no` is no number and no truth value.
    own = [f"name={json.dumps(name)}"] if name is not None else []
    config, notes = load_with_notes(file, [*overrides, *own])
    return Choice(config, file, tuple(overrides), tuple(notes))


def _named_by_overrides(file: Path, first: tuple[str, ...], overrides: tuple[str, ...], name: str | None) -> Choice:
    """The config of a file with `first` and `overrides`, called after the latter if they change what is trained."""
    choice = _loaded(file, (*first, *overrides), name)
    if name is not None or any(override.partition("=")[0].strip() == "name" for override in overrides):
        return choice
    config = choice.config
    try:
        before = flatten(load_with_notes(file, first)[0].model_dump(mode="json"))
    except ConfigError:
        # A file that is whole only with its overrides.
        before = flatten(read_yaml(file))
    called = name_for(config.name, before, flatten(config.model_dump(mode="json")), overrides)
    if called == config.name:
        return choice
    note = f"this run is `{called}`, named after its overrides; give it another name with `--name`"
    return replace(choice, config=config.model_copy(update={"name": called}), notes=(*choice.notes, note))


def name_for(base: str, before: Mapping[str, Any], after: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """A name for the run `base` with `overrides`, the same for the same settings in whatever way they are written.

    Keys that may change between a run's checkpoint and its continuation (`train.kimg`, `evaluate.…`) do not count:
    with another of those it is still the same run.

    Args:
        base: the name without overrides.
        before: the flat config without overrides, after: with them.
        overrides: as `key.sub=value`.
    """
    from gantk.training.start import MAY_CHANGE

    changed = {
        key: after.get(key)
        for key in dict.fromkeys([*before, *after])
        if before.get(key, ...) != after.get(key, ...) and not key.startswith(MAY_CHANGE)
    }
    if not changed:
        return base
    # What follows from an override, as another network's defaults do, is not part of the name.
    written = flatten(apply_overrides({}, overrides))
    shown = {key: value for key, value in changed.items() if key in written}
    short = Counter(key.rpartition(".")[2] for key in after)
    parts, whole = [], bool(shown)
    for key, value in shown.items():
        section, _, last = key.rpartition(".")
        word = section if last == "type" else last if short[last] == 1 else key
        text = _text(value)
        whole = whole and re.fullmatch(r"[\w.-]+", text, re.ASCII) is not None
        parts.append(f"{word}-{text}")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([base, *parts]))
    if whole and len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
    return f"{name[: _LONGEST - 9].rstrip('-')}-{digest}"


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "-".join(map(_text, value)) or "none"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)
