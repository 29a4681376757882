"""Names for network families and games, so that a new one touches one file."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from gantk.config.schema import Section


class Configurable(Protocol):
    Config: ClassVar[type[Section]]


T = TypeVar("T", bound=type[Configurable])


class Registry(Generic[T]):
    """Classes by the name that a config's `type` gives them. Each has a nested `Config`, its section of the config.

    The modules of `package` are imported at the first look-up; modules elsewhere register themselves when they are
    imported (the config's `plugins`).
    """

    def __init__(self, what: str, package: str) -> None:
        self.what, self.package = what, package
        self._classes: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        def add(cls: T) -> T:
            known = self._classes.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (
                cls.__module__,
                cls.__qualname__,
            ):
                raise ValueError(f"two {self.what} types are called `{name}`: {known.__module__} and {cls.__module__}")
            self._classes[name] = cls
            return cls

        return add

    def _discover(self) -> None:
        if not self._discovered:
            self._discovered = True
            for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
                importlib.import_module(f"{self.package}.{module.name}")

    def names(self) -> list[str]:
        self._discover()
        return sorted(self._classes)

    def get(self, name: str) -> T:
        self._discover()
        if name not in self._classes:
            close = difflib.get_close_matches(name, self._classes, n=1)
            hint = f"; did you mean `{close[0]}`?" if close else ""
            raise ValueError(f"there is no {self.what} type `{name}`{hint} (there are: {', '.join(self.names())})")
        return self._classes[name]

    def configure(self, value: Any) -> Section:
        """The typed section for `value`: a mapping with `type`, or a section already."""
        if isinstance(value, Section):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise ValueError(f"needs `type`, one of: {', '.join(self.names())}")
        section: Section = self.get(value["type"]).Config.model_validate(value)
        return section
