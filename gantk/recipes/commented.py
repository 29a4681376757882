"""A config to edit: every key with what it means, the defaults as comments."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from gantk.config import Config
from gantk.config.base import Section, section_in
from gantk.config.loading import flatten
from gantk.config.yaml_text import write_line

_WIDTH = 100


def commented(
    config: Config, *, title: str, written: Iterable[str] = (), remarks: Mapping[str, str] | None = None
) -> str:
    """The YAML text of a config, which loads as an equal one.

    Args:
        config: the config.
        title: a comment for the top, lines without `#`.
        written: the paths of keys to write out even where their values are the defaults.
        remarks: what is said of single keys, by their paths.
    """
    lines = [f"# {line}".rstrip() for line in title.splitlines()]
    lines += ["#", "# Keys that begin with # have their defaults: take the # away to set them.", ""]
    lines += _section(config, "", 0, {*written, "network.type", "objective.type"}, remarks or {})
    return "\n".join(lines) + "\n"


def _section(section: Section, path: str, depth: int, written: set[str], remarks: Mapping[str, str]) -> Iterator[str]:
    margin = "  " * depth
    for key, field in type(section).model_fields.items():
        value, at = getattr(section, key), f"{path}.{key}" if path else key
        yield from _comment(field, margin)
        if isinstance(value, Section):
            yield f"{margin}{key}:"
            yield from _section(value, at, depth + 1, written, remarks)
        else:
            plain = section.model_dump(mode="json", include={key})[key]
            changed = field.is_required() or value != field.get_default(call_default_factory=True)
            named = value is not None and any(other == at or other.startswith(f"{at}.") for other in written)
            shown = changed or named
            line = write_line(key, plain)
            remark = f"  # {remarks[at]}" if at in remarks else ""
            yield f"{margin}{line}{remark}" if shown else f"{margin}# {line}"
        if depth == 0:
            yield ""


def _comment(field: FieldInfo, margin: str) -> Iterator[str]:
    """A key's meaning, and what stands below it where nothing does yet."""
    text = " ".join((field.description or "").split())
    below = section_in(field.annotation)
    if below is not None and below is not Section and (field.default is None or "dict[" in str(field.annotation)):
        text = f"{text} Keys: {', '.join(below.model_fields)}.".strip()
    for line in textwrap.wrap(text, _WIDTH - len(margin) - 3, break_long_words=False, break_on_hyphens=False):
        yield f"{margin}## {line}"


def title_of(file: Path) -> str:
    """The comment that a config begins with."""
    lines = file.read_text(encoding="utf-8").splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(line[1:].removeprefix(" ") for line in lines[:end])


def remarks_of(file: Path) -> dict[str, str]:
    """The comments behind the keys of a config, by the paths of the keys."""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    last = ""
    for line in file.read_text(encoding="utf-8").splitlines():
        key = re.match(r"( *)([\w.-]+):(.*)", line)
        if key is None:
            more = re.match(r" +# +(.*)", line)
            if more and last in found:
                found[last] += " " + more[1].strip()
            continue
        depth = len(key[1])
        above = [*((d, k) for d, k in above if d < depth), (depth, key[2])]
        last = ".".join(name for _, name in above)
        if remark := re.search(r"(?:^|\s)#\s+(.*)$", key[3]):
            found[last] = remark[1].strip()
    return found


def init_text(
    config: Config, file: Path, overrides: Mapping[str, Any], values: Mapping[str, Any], *, title: str | None = None
) -> str:
    """The text of `gantk init`: a recipe's config with its own comments, but those of keys that overrides have changed.

    Args:
        config: the recipe's, with the overrides.
        file: the recipe's.
        overrides: those, as nested mappings.
        values: what the recipe's file holds.
        title: a comment for the top. Default: the recipe's.
    """
    changed = flatten(overrides)
    remarks = {path: remark for path, remark in remarks_of(file).items() if path not in changed}
    return commented(
        config, title=title_of(file) if title is None else title, written=[*flatten(values), *changed], remarks=remarks
    )
