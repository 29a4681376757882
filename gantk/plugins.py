"""Plugins: modules of the user's own, named in a config, that register networks and objectives when they are imported.

Their text is part of a run's record. The run's folder and each checkpoint hold a copy of every file of theirs, and its hash;
a run does not resume with another text unasked. A checkpoint is loaded with the text that it was trained with: the module
itself where it is still the same, else the copy.

Importing runs code. A copy is run only where the config beside it names it in `plugins`, and only from the user's own runs
folder; from anywhere else, where `$GANTK_TRUST_PLUGINS` is 1.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gantk.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from gantk.config import Config
    from gantk.training.checkpoint import Checkpoint

log = logging.getLogger("gantk")

TRUST = "GANTK_TRUST_PLUGINS"
_PREFIX = "plugin."
_INIT = ".__init__"


@dataclass(frozen=True)
class Plugin:
    """A plugin's text."""

    entry: str
    """Its entry in the config's `plugins`: a module's name or an absolute path."""
    name: str
    """The module's name."""
    texts: Mapping[str, str]
    """The text of each of its modules, and of the user's own that they import, by name; a package's name ends in `.__init__`."""

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for module, text in sorted(self.texts.items()):
            digest.update(f"{module}\0{text}\0".encode())
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """Its part of a checkpoint's `state.json`."""
        return {"entry": self.entry, "module": self.name, "files": sorted(self.texts), "sha256": self.sha256}


class _Copies(importlib.machinery.PathFinder):
    """Finds modules in the copies of checkpoints, before any other finder."""

    files: dict[str, Path] = {}  # noqa: RUF012

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname + _INIT in cls.files:
            file = cls.files[fullname + _INIT]
            return importlib.util.spec_from_file_location(fullname, file, submodule_search_locations=[])
        if fullname in cls.files:
            return importlib.util.spec_from_file_location(fullname, cls.files[fullname])
        return None


_loaded: dict[str, str] = {}
"""The hash of the text that was run, by module."""


def resolve(entry: Any, folder: Path | None = None) -> str:
    """An entry of `plugins` as a config keeps it: a path is made absolute, a module's name stays.

    A path is relative to `folder`, that of the config's file, or else to the working folder.
    """
    text = str(entry)
    if not (text.endswith(".py") or any(sign in text for sign in "/\\~$")):
        return text
    path = Path(os.path.expandvars(text)).expanduser()
    there = [base / path for base in (folder, Path.cwd()) if base is not None and (base / path).exists()]
    return str((there[0] if there else (folder or Path.cwd()) / path).resolve())


def config_of(checkpoint: Checkpoint) -> Config:
    """The config of a checkpoint, with the plugins that it was trained with.

    Raises:
        CheckpointError, ConfigError: as `load_recorded` does, and for a config that is none.
    """
    from gantk.config.loading import load_config, read_yaml

    load_recorded(checkpoint, read_yaml(checkpoint.config_file).get("plugins"))
    return load_config(checkpoint.config_file, plugins_imported=True)


def import_plugins(entries: Any, origin: str) -> None:
    """Import the plugins that a config names, as `resolve` gives them.

    Raises:
        ConfigError: for one that is not there. An exception of its own is raised as it is.
    """
    for entry in entries if isinstance(entries, (list, tuple)) else ():
        _run(_original(str(entry), origin))


def read_plugins(entries: Iterable[str]) -> list[Plugin]:
    """The texts of imported plugins, for a run's record."""
    return [_original(entry, "the config") for entry in entries]


def copies_for_checkpoint(plugins: Iterable[Plugin]) -> dict[str, str]:
    """The files that a checkpoint holds of plugins: text by name."""
    return {f"{_PREFIX}{module}.py": text for plugin in plugins for module, text in plugin.texts.items()}


def write_copies(folder: Path, plugins: Sequence[Plugin]) -> None:
    """Write the plugins of a run to its folder as modules, with `plugins.json`, which has their hashes."""
    from gantk.records import write_atomic, write_json

    if not plugins:
        return
    for plugin in plugins:
        for module, text in plugin.texts.items():
            write_atomic(folder.joinpath(*module.split(".")).with_suffix(".py"), text.encode())
    write_json(folder / "plugins.json", {"plugins": [plugin.record() for plugin in plugins]})


def changes(before: Iterable[Mapping[str, Any]], now: Iterable[Plugin]) -> list[str]:
    """The plugins that differ from a checkpoint's record, as `plugin NAME: HASH → HASH`."""
    old = {str(record["module"]): str(record["sha256"]) for record in before}
    new = {plugin.name: plugin.sha256 for plugin in now}
    missing = "(not there)"
    return [
        f"plugin {name}: {old.get(name, missing)[:12]} → {new.get(name, missing)[:12]}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def load_recorded(checkpoint: Checkpoint, entries: Any) -> None:
    """Import the plugins that the config of `checkpoint` names, with the text that it was trained with.

    Raises:
        CheckpointError: where that would run a copy from a folder that is not the user's.
        ConfigError: where there is neither the module nor a copy.
    """
    records = {str(record["entry"]): record for record in checkpoint.state.get("plugins", ())}
    for entry in entries if isinstance(entries, (list, tuple)) else ():
        record = records.get(str(entry))
        if record is None:
            import_plugins([entry], str(checkpoint.config_file))
            continue
        files = {str(module): checkpoint.file(f"{_PREFIX}{module}.py") for module in record["files"]}
        copy = Plugin(str(entry), str(record["module"]), {m: f.read_text(encoding="utf-8") for m, f in files.items()})
        now = _original(str(entry), None)
        if now is not None and now.sha256 == copy.sha256:
            _run(now)
            continue
        state = "is not here" if now is None else "has changed since"
        if not _trusted(checkpoint.folder):
            raise CheckpointError(
                f"{checkpoint.folder} was trained with the plugin `{copy.name}`, which {state}; the checkpoint brings a copy, and "
                f"loading it runs that code: look at {next(iter(files.values()), checkpoint.folder)}, and set ${TRUST}=1 if you "
                "trust it"
            )
        if _loaded.get(copy.name) != copy.sha256:
            log.warning("the plugin `%s` %s: %s is loaded with its own copy", copy.name, state, checkpoint.folder)
        _run(copy, files)


def _trusted(folder: Path) -> bool:
    from gantk.runs import runs_folder

    return os.environ.get(TRUST) == "1" or folder.resolve().is_relative_to(runs_folder().resolve())


# Files


def _original(entry: str, origin: str | None) -> Any:
    """The plugin as it is on this machine now; where it is not there, None, or ConfigError where `origin` is given."""
    is_path = os.path.isabs(entry)
    path = Path(entry)
    name = path.stem if path.suffix == ".py" else path.name if is_path else entry
    if is_path:
        file = path / "__init__.py" if path.is_dir() else path
        if not file.is_file():
            if origin is None:
                return None
            what = "is a folder without `__init__.py`" if path.is_dir() else "is not there"
            raise ConfigError(
                f"{origin}: `plugins` names {path}, which {what}: give a .py file or a package, beside the config"
            )
        if not name.isidentifier():
            raise ConfigError(f"`plugins` names {path}, and `{name}` cannot be a module's name: rename it")
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        spec = _spec(name)
        if spec is None or spec.origin is None or Path(spec.origin).resolve() != file.resolve():
            raise ConfigError(
                f"`plugins` names {path}, and there is another module `{name}` ({spec.origin if spec else '?'}): rename yours"
            )
    else:
        spec = _spec(name)
    if spec is None and (is_path or name not in sys.modules):
        if origin is None:
            return None
        raise ConfigError(
            f"{origin}: `plugins` names the module `{name}`, which cannot be imported (there is none): install it, put its "
            "folder on PYTHONPATH, or give the path of its file, relative to the config's folder"
        )
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return Plugin(entry, name, {})
    return Plugin(entry, name, _texts(name, Path(spec.origin)))


def _spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """How a module would be found, were it not imported yet, and not from a copy."""
    path: Sequence[str] | None = None
    spec = None
    parts = name.split(".")
    importlib.invalidate_caches()
    for end in range(1, len(parts) + 1):
        for finder in sys.meta_path:
            if finder is _Copies:
                continue
            spec = finder.find_spec(".".join(parts[:end]), path)
            if spec is not None:
                break
        else:
            return None
        path = list(spec.submodule_search_locations or ()) if spec is not None else None
    return spec


def _texts(name: str, file: Path) -> dict[str, str]:
    """The text of a module or package, and of the modules beside it, or elsewhere but not installed, that it imports, and so
    on.
    """
    is_package = file.name == "__init__.py"
    root = file.parents[name.count(".") + is_package]
    installed = root.name in ("site-packages", "dist-packages")
    top = name.partition(".")[0]
    texts: dict[str, str] = {}
    elsewhere: dict[str, Path | None] = {}
    todo = [name]
    if is_package:
        below = sorted(file.parent.rglob("*.py"))
        todo += [".".join(path.relative_to(root).with_suffix("").parts).removesuffix(_INIT) for path in below]
    while todo:
        module = todo.pop()
        if module.partition(".")[0] in ("gantk", "gantk_eval") or (installed and module.partition(".")[0] != top):
            continue
        first = module.partition(".")[0]
        beside = root / first
        if first != top and not beside.with_name(f"{first}.py").is_file() and not beside.is_dir():
            if first not in elsewhere:
                elsewhere[first] = _folder_of_loose(first)
            base = elsewhere[first]
        else:
            base = root
        if base is None:
            continue
        found = base.joinpath(*module.split("."))
        for place, called in ((found.with_name(found.name + ".py"), module), (found / "__init__.py", module + _INIT)):
            if place.is_file() and called not in texts:
                texts[called] = place.read_text(encoding="utf-8")
                package = module if called.endswith(_INIT) else module.rpartition(".")[0]
                todo += [*_imports(texts[called], package), *filter(None, [module.rpartition(".")[0]])]
    return texts


def _folder_of_loose(name: str) -> Path | None:
    """The folder on the path that holds a top-level module which is the user's own: not Python's, and not installed."""
    spec = None if name in sys.stdlib_module_names else _spec(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    file = Path(spec.origin)
    # Of an installation for development the files are elsewhere.
    if {"site-packages", "dist-packages"} & set(file.parts) or name in importlib.metadata.packages_distributions():
        return None
    return file.parents[1] if file.name == "__init__.py" else file.parent


def _imports(text: str, package: str) -> Iterator[str]:
    """The names of the modules that a text imports, and of what may be one."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        # Importing it says so.
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


# Importing


def _run(plugin: Plugin, copies: Mapping[str, Path] | None = None) -> None:
    """Import a plugin, from its copies where they are given, unless that text has been run."""
    before = _loaded.get(plugin.name)
    if plugin.name in sys.modules and (before == plugin.sha256 or (before is None and copies is None)):
        # Somebody imported it before us, or we did.
        _loaded[plugin.name] = plugin.sha256
        return
    modules = {module.removesuffix(_INIT) for module in plugin.texts}
    for module in (*plugin.texts, *modules):
        _Copies.files.pop(module, None)
    for module in modules:
        sys.modules.pop(module, None)
    if copies is not None:
        _Copies.files.update(copies)
        if _Copies not in sys.meta_path:
            sys.meta_path.insert(0, _Copies)
    importlib.invalidate_caches()
    importlib.import_module(plugin.name)
    _loaded[plugin.name] = plugin.sha256
