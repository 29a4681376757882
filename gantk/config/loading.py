"""From a YAML file and `key.sub=value` overrides to a `Config`, or to sentences that say what is wrong with it."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from gantk.config.explain import Known, explain, key_paths, unusable_numbers
from gantk.config.schema import AGREED_IN_PAIRS, Config, OptimizerSettings, Section
from gantk.config.switches import OPTIMIZER_KEYS, REGISTERED, drop_keys_of_old_types, registry
from gantk.config.yaml_text import read_text, write_text
from gantk.errors import ConfigError
from gantk.plugins import import_plugins, resolve
from gantk.recipes import find_config, recipes

log = logging.getLogger(__name__)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: where there is no such file, or it is not YAML, or not a mapping.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = sorted(str(other) for other in file.parent.glob("*.yaml")) if file.parent.is_dir() else []
        close = difflib.get_close_matches(str(file), near, n=1)
        hint = (
            f"did you mean {close[0]}?"
            if close
            else f"there are: {', '.join(near)}"
            if near
            else "name one that exists"
        )
        if file.stem in recipes():
            hint = f"the recipe of that name is given without a folder: `gantk train {file.stem}`"
        raise ConfigError(f"there is no config file {file}; {hint}") from error
    except IsADirectoryError as error:
        raise ConfigError(
            f"{file} is a folder, not a config file; to train on the images in it: `gantk train --data {file}`"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config file {file} cannot be read: {error}") from error
    try:
        value = read_text(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{file}{where} is not valid YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(value, dict):
        raise ConfigError(
            f"{file} holds no settings: a config is a mapping of keys such as `name:`, `data:` and `train:`"
        )
    return value


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`values` with each `key.sub=value` laid over it; a value is read as YAML (`[1, 2]`, `null`, `2e-4`)."""
    merged: dict[str, Any] = _copy(values)
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(
                f"`{override}` is not an override: write `key.sub=value`, for example `train.batch_size=64`"
            )
        try:
            value = read_text(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"the value of `{override}` is not valid YAML: put it in quotes") from error
        section = merged
        for key in keys[:-1]:
            # A section with nothing in it is a null.
            below = section[key] = {} if section.get(key) is None else section[key]
            if not isinstance(below, dict):
                raise ConfigError(f"`{override}`: `{key}` is a value and holds no further keys")
            section = below
        section[keys[-1]] = value
    return merged


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def load_config(path: str | Path, overrides: Sequence[str] = (), *, plugins_imported: bool = False) -> Config:
    """The config of a recipe's name or in a YAML file, with overrides.

    `plugins_imported`: leave its plugins alone, for they are imported already.

    Raises:
        ConfigError: naming every error by its path, each with what would fix it.
    """
    config, notes = load_with_notes(path, overrides, plugins_imported=plugins_imported)
    warn_once(notes)
    return config


def load_with_notes(
    path: str | Path, overrides: Sequence[str] = (), *, plugins_imported: bool = False
) -> tuple[Config, list[str]]:
    """Load as `load_config` does, and return with it what the user should know about the config, a sentence each."""
    file = find_config(path)
    return build_config(read_yaml(file), overrides, str(file), file.parent, plugins_imported)


def build_config(
    values: Mapping[str, Any],
    overrides: Sequence[str] = (),
    origin: str = "the config",
    folder: Path | None = None,
    plugins_imported: bool = False,
) -> tuple[Config, list[str]]:
    """A `Config` from plain values with overrides, and what the user should know about it.

    Raises:
        ConfigError: as `parse_config`.
    """
    merged = apply_overrides(values, overrides)
    _resolve_plugins(merged, origin, folder, plugins_imported)
    notes = drop_keys_of_old_types(values, merged, overrides)
    try:
        return parse_config(merged, origin, folder, plugins_imported=True), notes
    except ConfigError:
        warn_once(notes)
        raise


def warn_once(notes: Sequence[str]) -> None:
    """Logs each of `notes`, on the first process alone."""
    for note in notes if os.environ.get("RANK", "0") == "0" else ():
        log.warning("%s", note)


def parse_config(
    values: Mapping[str, Any],
    origin: str = "the config",
    folder: Path | None = None,
    plugins_imported: bool = False,
) -> Config:
    """A `Config` from plain values, as `load_config` reads them.

    Args:
        values: as in a YAML file.
        origin: what sentences call them.
        folder: the one that the paths of plugins are relative to. Default: the working folder.
        plugins_imported: as for `load_config`.

    Raises:
        ConfigError: naming every error by its path, each with what would mend it.
    """
    values = dict(values)
    _resolve_plugins(values, origin, folder, plugins_imported)
    problems: list[str] = []
    explained: list[tuple[str, ...]] = []
    known = _known_keys(values)
    for key in REGISTERED:
        section, found = _configure(key, values, known)
        if found:
            problems += found
            explained.append((key,))
        elif section is not None:
            values[key] = section
    if found := _problems_of_phases(values, known):
        problems += found
        explained.append(("optimizer", "phases"))
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        # What was explained above, under the paths of its own keys, is not said again.
        problems += [
            explain(item, Config, known=known)
            for item in error.errors()
            if not any(item["loc"][: len(path)] == path for path in explained)
        ]
    if not problems:
        problems += unusable_numbers(config.model_dump()) or _cross_check(config) or _misfits(config)
    if problems:
        if len(problems) == 1:
            raise ConfigError(f"{origin}: {problems[0]}")
        raise ConfigError(f"{origin} has {len(problems)} errors:\n" + "\n".join(f"  {problem}" for problem in problems))
    return config


def _resolve_plugins(values: dict[str, Any], origin: str, folder: Path | None, imported: bool) -> None:
    if isinstance(values.get("plugins"), (list, tuple)):
        values["plugins"] = [resolve(entry, folder) for entry in values["plugins"]]
        if not imported:
            import_plugins(values["plugins"], origin)


def _known_keys(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """The full paths of the keys that a config of these `type`s can have, by their last words."""
    types = {}
    for key in REGISTERED:
        section = values.get(key)
        with contextlib.suppress(ValueError):
            if isinstance(section, Section):
                types[key] = type(section)
            elif isinstance(section, Mapping) and isinstance(section.get("type"), str):
                types[key] = registry(key).get(section["type"]).Config
    known: dict[str, list[str]] = {}
    for path in key_paths(Config, types):
        if "." in path:
            known.setdefault(path.rpartition(".")[2], []).append(path)
    return known


def _configure(key: str, values: Mapping[str, Any], known: Known) -> tuple[Section | None, list[str]]:
    """The typed section for `network` or `objective`, or the sentences that say why there is none."""
    if key not in values:
        return None, []
    known_types = registry(key)
    try:
        return known_types.configure(values[key]), []
    except ValidationError as error:
        model = known_types.get(values[key]["type"]).Config
        return None, [explain(item, model, prefix=(key,), known=known) for item in error.errors()]
    except ValueError as error:
        return None, [f"`{key}`: {error}"]


def _problems_of_phases(values: Mapping[str, Any], known: Known) -> list[str]:
    optimizer = values.get("optimizer")
    phases = optimizer.get("phases") if isinstance(optimizer, Mapping) else None
    problems = []
    for name, settings in phases.items() if isinstance(phases, Mapping) else ():
        try:
            OptimizerSettings.model_validate({} if settings is None else settings)
        except ValidationError as error:
            prefix = ("optimizer", "phases", str(name))
            problems += [explain(item, OptimizerSettings, prefix=prefix, known=known) for item in error.errors()]
    return problems


def _misfits(config: Config) -> list[str]:
    """What shows when the game is built, on a device that computes nothing: parts that do not go together."""
    import torch

    from gantk.sampling import ImageShape, build_objective

    shape = ImageShape(config.data.channels or 3, config.data.resolution, ("0", "1"), (0.5, 0.5))
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            build_objective(config, shape)
    except ConfigError as error:
        return [str(error)]
    except Exception:
        # A plugin may compute with its weights, and there are none here. Its own mistakes show when it is built for real.
        return []
    return []


def _cross_check(config: Config) -> list[str]:
    """What no key shows alone; each sentence names the fix."""
    from gantk.networks import NETWORKS
    from gantk.objectives import OBJECTIVES

    problems = []
    family = NETWORKS.get(config.network.type)  # type: ignore[attr-defined]
    objective = OBJECTIVES.get(config.objective.type)  # type: ignore[attr-defined]
    train = config.train
    try:
        family.check_shape(config.network, config.data.resolution)
    except ConfigError as error:
        problems.append(str(error))
    if family.conditional and not config.data.use_labels:
        problems.append(
            f"`network.type: {config.network.type}` uses labels, and `data.use_labels` is false: "  # type: ignore[attr-defined]
            "set it to true, or choose an unconditional network"
        )
    if problem := indivisible(config, processes=1):
        problems.append(problem)
    if train.sync_batchnorm and train.device == "cpu":
        problems.append("`train.sync_batchnorm` needs GPUs, and `train.device` is cpu: set one of them otherwise")
    if train.precision == "fp16" and train.device == "cpu":
        problems.append("`train.precision: fp16` needs a GPU, and `train.device` is cpu: use bf16 or no")
    action, every = config.collapse.action, config.evaluate.every_kimg
    if action != "warn" and every > train.kimg:
        problems.append(
            f"`collapse.action: {action}` acts at evaluations, and with `evaluate.every_kimg: {every:g}` beyond `train.kimg: "
            f"{train.kimg:g}` there are none: lower `evaluate.every_kimg`, or set `collapse.action` to warn"
        )
    for name in objective.sources:
        if name not in config.extra_data:
            problems.append(
                f"`objective.type` plays on a second source: add `extra_data.{name}`, with keys as in `data`"
            )
    for name, extra in config.extra_data.items():
        if extra.resolution != config.data.resolution:
            problems.append(f"`extra_data.{name}.resolution` differs from `data.resolution`: make them equal")
        problems += _misfits_of_pair(config, name)
    for name in ("", *config.optimizer.phases):
        settings, at = config.optimizer.of(name), f"optimizer.phases.{name}" if name else "optimizer"
        if settings.type == "sgd" and settings.nesterov and settings.momentum == 0:
            problems.append(f"`{at}.nesterov` needs `{at}.momentum` above 0: set it, or take nesterov out")
        problems += _unused_by_optimizer(config, name, at)
    return problems


def _misfits_of_pair(config: Config, name: str) -> list[str]:
    extra, at = config.extra_data[name], f"extra_data.{name}"
    if extra.paired_with is None:
        return []
    if "data" in config.extra_data:
        return ["`extra_data.data` has the name by which `paired_with` means the main source: give it another"]
    try:
        leader = config.order_of(name)
    except ValueError as error:
        return [str(error)]
    other, where = config.sources[leader], f"extra_data.{leader}" if leader else "data"
    for source, path in ((extra, at), (other, where)):
        if source.source in ("mixture", "stacked_mnist"):
            return [
                f"`{at}.paired_with` goes with stored images, and `{path}.source: {source.source}` makes its samples"
            ]
    return [
        f"`{at}.{key}: {getattr(extra, key)}` differs from `{where}.{key}: {getattr(other, key)}`, and their rows belong "
        "together (`paired_with`): make them equal, or leave it out there"
        for key in AGREED_IN_PAIRS
        if getattr(extra, key) != getattr(other, key)
    ]


def _unused_by_optimizer(config: Config, name: str, at: str) -> list[str]:
    """Settings that the optimiser would not look at: of the phase `name`, or in common for all (empty)."""
    optimizer = config.optimizer
    types = {optimizer.of(phase).type for phase in ([name] if name else ["", *optimizer.phases])}
    written = set(optimizer.phases[name] if name else optimizer.model_fields_set)
    return [
        f"`{at}.{key}` is not used by `type: {', '.join(sorted(types))}`, but by {' and '.join(users)}: take it out, or choose "
        "one of these"
        for key, users in OPTIMIZER_KEYS.items()
        if key in written
        and not types & set(users)
        # A config that was written out whole has the defaults of every key.
        and getattr(optimizer.of(name), key) != OptimizerSettings.model_fields[key].default
    ]


def indivisible(config: Config, processes: int) -> str | None:
    """What is wrong where the batch cannot be cut for so many processes; None where it can."""
    from gantk.objectives import OBJECTIVES

    train, game = config.train, config.objective
    group = OBJECTIVES.get(game.type).group(game)  # type: ignore[attr-defined]
    total = processes * train.accumulation * group
    if train.batch_size % total == 0:
        return None
    parts = [f"{processes} processes"] if processes > 1 else []
    parts += [f"`train.accumulation: {train.accumulation}`"] if train.accumulation > 1 or group == 1 else []
    parts += [f"packs of {group}"] if group > 1 else []
    return (
        f"`train.batch_size: {train.batch_size}` does not divide by {' × '.join(parts)}: make it a multiple of {total}"
    )


def dump_yaml(config: Config) -> str:
    """The whole config as YAML, every default written out. Loading it gives an equal config."""
    return write_text(config.model_dump(mode="json"))


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested mappings, each under its path with dots."""
    if isinstance(value, Mapping):
        return {k: v for key, item in value.items() for k, v in flatten(item, f"{path}.{key}" if path else key).items()}
    return {path: value}


def keys_left_out(path: str | Path) -> dict[str, Any]:
    """The keys that the file does not have, and the values that they have by default now.

    Of a file that `dump_yaml` wrote, those that have come since.
    """
    written = flatten(read_yaml(path))
    whole = flatten(load_config(path, plugins_imported=True).model_dump(mode="json"))
    return {key: value for key, value in whole.items() if key not in written}


def with_ends(config: Config) -> Config:
    """The same config, with `train.kimg` written where a learning-rate schedule ends at it for want of an `end_kimg`."""
    optimizer = config.optimizer

    def ended(schedule: Any) -> dict[str, Any]:
        follows = schedule.type != "constant" and schedule.end_kimg is None
        return {"end_kimg": config.train.kimg} if follows else {}

    common = optimizer.schedule.model_copy(update=ended(optimizer.schedule))
    phases = dict(optimizer.phases)
    for name, settings in phases.items():
        if "schedule" in settings and (end := ended(optimizer.of(name).schedule)):
            phases[name] = {**settings, "schedule": {**settings["schedule"], **end}}
    return config.model_copy(update={"optimizer": optimizer.model_copy(update={"schedule": common, "phases": phases})})


def differences(old: Config, new: Config) -> list[str]:
    """The keys that differ, as `key: old → new`."""

    a, b = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    missing = "(not set)"
    return [
        f"{key}: {a.get(key, missing)} → {b.get(key, missing)}"
        for key in dict.fromkeys([*a, *b])
        if a.get(key, missing) != b.get(key, missing)
    ]


def expand_path(path: str) -> Path:
    """`~` and `$VARIABLES` in a path, resolved."""
    return Path(os.path.expandvars(path)).expanduser()
