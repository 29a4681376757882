"""YAML as configs have it: version 1.2's words, a key at most once, and the same read back as was written.

PyYAML reads version 1.1, in which `no` and `off` are false, `032` is 26, `1:30` is 90, and `2024-01-02` is a date. Here
these are strings, and a key that wants a truth value or a number takes them as `true`, `false` and decimal numbers.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

_FLOAT = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
    r"|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)
_WORDS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
    ("null", re.compile(r"(?:~|null|Null|NULL|)$"), "~nN"),
    ("merge", re.compile(r"<<$"), "<"),
)


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key written twice, of which the first would be lost without a word."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the base class's, and of this class alone

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key.value}` stands here twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either version of YAML would read as something other than a string."""


for _name, _pattern, _first in _WORDS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, [*_first, *([""] if _name == "null" else [])])
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read_text(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: where it is not YAML, or has a key twice.
    """
    return yaml.load(text, Loader=_Loader)


def write_text(value: Any) -> str:
    """A value as YAML, mappings in their own order."""
    written: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return written


def write_line(key: str, value: Any) -> str:
    """`key: value` on one line, lists and mappings in brackets."""
    written: str = yaml.dump(
        {key: value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=float("inf")
    )
    return written.strip()[1:-1]
