"""Sentences for what is wrong with a config: the key by its path, what it is, and what would do instead."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from gantk.config.base import Section, section_in

Known = Mapping[str, Sequence[str]]
"""The full paths of each key of a config, by its last word."""
LARGEST = 1e15
"""The largest number in a config: a thousand times as much still counts images exactly."""
_NEAR = 0.8


def explain(item: Any, model: type[BaseModel], prefix: tuple[str, ...] = (), known: Known | None = None) -> str:
    """One sentence for one of pydantic's errors, with the path of the key.

    Args:
        item: of `ValidationError.errors()`.
        model: the section that was validated.
        prefix: the path of that section.
        known: the keys of the whole config, to suggest one that stands elsewhere.
    """
    loc = tuple(str(part) for part in item["loc"])
    path = ".".join((*prefix, *loc)) or "the config"
    kind, given = item["type"], item.get("input")
    if kind == "extra_forbidden":
        return f"`{path}` is not a key{_other_keys(loc[-1], _keys_at(model, loc[:-1]), known or {})}"
    if kind == "missing":
        return f"`{path}` is missing: it has no default"
    message = item["msg"].removeprefix("Value error, ")
    message = message.partition(", unable to parse string")[0]
    message = message[:1].lower() + message[1:] if message[1:2].islower() else message
    if kind == "value_error":
        return f"`{path}`: {message}"
    if given is None:
        return f"`{path}` has no value: give it one{_or_its_default(model, loc)} ({message})"
    hint = ""
    if kind == "literal_error" and isinstance(given, str):
        options = [part.strip(" '") for part in item["ctx"]["expected"].replace(" or ", ",").split(",")]
        hint = did_you_mean(given, options, offer=False)
    if kind == "string_type" and isinstance(given, (int, float)):
        # `true` is how YAML writes it.
        hint = f'; write it in quotes: "{str(given).lower() if isinstance(given, bool) else given}"'
    shown = (
        repr(given) if not isinstance(given, (Mapping, list)) or len(str(given)) < 60 else f"a {type(given).__name__}"
    )
    return f"`{path}`: {message}, and is {shown}{hint}"


def did_you_mean(word: str, options: Sequence[str], offer: bool = True) -> str:
    """The end of a sentence: the option nearest to `word`, or else all of them (where `offer`)."""
    close = difflib.get_close_matches(word, options, n=1)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f" (there are: {', '.join(options)})" if options and offer else ""


def _other_keys(word: str, beside: Sequence[str], known: Known) -> str:
    """The end of a sentence: the key that was meant, beside the wrong one or elsewhere in the config."""
    close = difflib.get_close_matches(word, beside, n=1)
    if close and (close[0].startswith(word) or difflib.SequenceMatcher(None, word, close[0]).ratio() >= _NEAR):
        return did_you_mean(word, beside)
    elsewhere = known.get(word, ())
    if not elsewhere and not close:
        elsewhere = [path for key in difflib.get_close_matches(word, known, n=1, cutoff=_NEAR) for path in known[key]]
    if elsewhere:
        paths = [f"`{path}`" for path in elsewhere]
        return f"; did you mean {', '.join(paths[:-1])}{' or ' if paths[:-1] else ''}{paths[-1]}?"
    return did_you_mean(word, beside)


def _or_its_default(model: type[BaseModel], loc: Sequence[str]) -> str:
    """The default of the key at `loc`, where it has one that can be written."""
    for part in loc[:-1]:
        field = model.model_fields.get(part)
        found = section_in(field.annotation) if field is not None else model
        if found is None:
            return ""
        model = found
    field = model.model_fields.get(loc[-1]) if loc else None
    if field is None or field.is_required() or isinstance(field.default, Section):
        return ""
    return f", or take the line out for its default, {field.default}"


def _keys_at(model: type[BaseModel], loc: Sequence[str]) -> list[str]:
    """The keys that stand beside the one in error."""
    for part in loc:
        field = model.model_fields.get(part)
        if field is None:
            # A name of the user's own, in a mapping of sections.
            continue
        found = section_in(field.annotation)
        if found is None or found is Section:
            return []
        model = found
    return list(model.model_fields)


def key_paths(model: type[BaseModel], types: Mapping[str, type[BaseModel]], prefix: str = "") -> Iterator[str]:
    """The full path of every key of a config, without those in the user's own mappings.

    Args:
        model: the whole config's class.
        types: the classes of the sections that depend on a `type`, by their keys.
    """
    for key, field in model.model_fields.items():
        path = f"{prefix}.{key}" if prefix else key
        yield path
        below = types.get(path) or section_in(field.annotation)
        if below is not None and below is not Section and not str(field.annotation).startswith("dict["):
            yield from key_paths(below, types, path)


def unusable_numbers(value: Any, path: str = "") -> list[str]:
    """A sentence for each number in nested mappings and lists that is not finite, or too large to count with."""
    if isinstance(value, Mapping):
        return [s for key, item in value.items() for s in unusable_numbers(item, f"{path}.{key}" if path else key)]
    if isinstance(value, (list, tuple)):
        return [sentence for item in value for sentence in unusable_numbers(item, path)]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return []
    if not math.isfinite(value):
        return [f"`{path}`: input should be a finite number, and is {value}"]
    if abs(value) > LARGEST:
        return [f"`{path}`: is {value:g}, and no number in a config can be larger than {LARGEST:g}"]
    return []
