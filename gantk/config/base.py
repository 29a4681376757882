"""The base of every part of a config, plugins' own included."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

CONTAINERS = (dict, tuple, list)


class Section(BaseModel):
    """The base of every part of a config: frozen, unknown keys and numbers that are not finite refused.

    A key that stands there with nothing behind it (`optimizer:`) and holds further keys or a list has its defaults.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_what_is_empty(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        filled = dict(value)
        for key, item in value.items():
            field = cls.model_fields.get(key)
            if item is not None or field is None:
                continue
            kind = typing.get_origin(field.annotation) or field.annotation
            if isinstance(kind, type) and issubclass(kind, (Section, *CONTAINERS)):
                # Where there is no default, what the section needs is asked for by name.
                filled[key] = {} if field.is_required() else field.get_default(call_default_factory=True)
        return filled


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation names, in a union or as the values of a mapping too; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, dict, typing.Annotated):
        return next((found for part in typing.get_args(annotation) if (found := section_in(part))), None)
    return None
