"""Checkpoints: folders of safetensors and JSON, with a manifest, renamed into place when whole. Nothing is unpickled.

    step-00001000/  manifest.json   size and sha256 of every other file
                    config.yaml     the run's config
                    state.json      step, images, cursor, image shape, what was in force
                    generator.safetensors, generator.ema.safetensors, discriminator.safetensors, …
                    plugin.NAME.py  the text of each plugin
                    optimizer.d.safetensors, …   objective.safetensors   rng-00000.safetensors (one for each process)

A flipped bit in a safetensors file loads without a word; the manifest sees it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gantk.errors import CheckpointError
from gantk.records import write_json

log = logging.getLogger("gantk")

FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(
    folder: Path,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    config: str,
    files: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint at `folder`, which is there whole or not at all.

    Args:
        tensors: for each file's stem, its tensors by name.
        state: what goes to `state.json`.
        config: the text of `config.yaml`.
        files: further text files, by name.

    Raises:
        CheckpointError: when it cannot be written, on a full disk say; what was half-written is taken away.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old.partial")
    try:
        # In a container the process that was killed here before us had the same number.
        for left in (temporary, aside):
            if left.exists():
                shutil.rmtree(left)
        temporary.mkdir(parents=True)
        (temporary / "config.yaml").write_text(config, encoding="utf-8")
        (temporary / "state.json").write_text(json.dumps(dict(state), indent=1), encoding="utf-8")
        # safetensors makes files for their owner alone; these have the rights that the umask leaves.
        rights = stat.S_IMODE((temporary / "config.yaml").stat().st_mode)
        for stem, values in tensors.items():
            plain = {name: value.detach().cpu().contiguous() for name, value in values.items()}
            save_file(plain, temporary / f"{stem}.safetensors")
            (temporary / f"{stem}.safetensors").chmod(rights)
        for name, text in (files or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
        written = sorted(temporary.iterdir())
        manifest = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in written}
        (temporary / "manifest.json").write_text(
            json.dumps({"format": FORMAT, "files": manifest}, indent=1), encoding="utf-8"
        )
        for path in temporary.iterdir():
            _sync(path)
        _sync(temporary)
        if folder.exists():
            folder.rename(aside)
        temporary.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"could not write the checkpoint {folder}: {error}") from error


def store(
    folder: Path,
    name: str,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    config: str,
    best: tuple[str, float] | None,
    keep: int,
    files: Mapping[str, str] | None = None,
) -> None:
    """Write the checkpoint `name` into `folder`, mark it as the best where it is, and only then delete old ones.

    Args:
        tensors, state, config, files: as for `write`.
        best: the metric and the value that make it the best.
        keep: how many of the newest to keep.

    Raises:
        CheckpointError: when it cannot be written. A retention that fails to delete is warned of.
    """
    write(folder / name, tensors=tensors, state=state, config=config, files=files)
    if best is not None:
        write_best(folder, name, *best)
    for problem in prune(folder, keep):
        log.warning(problem)


class Checkpoint:
    """A checkpoint folder, whole and undamaged.

    Raises:
        CheckpointError: where a file is missing, has changed, or the manifest names what it must not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            files = manifest["files"]
            if manifest["format"] != FORMAT:
                raise CheckpointError(f"{folder} has format {manifest['format']}; this version of gantk reads {FORMAT}")
            for name, entry in files.items():
                # A manifest is input: it must not make us read outside its folder.
                if Path(name).name != name or name in (".", ".."):
                    raise CheckpointError(
                        f"{folder / 'manifest.json'} names `{name}`, which is not a file of the checkpoint"
                    )
                path = folder / name
                if not path.is_file() or path.is_symlink():
                    raise CheckpointError(f"{path} is missing: the checkpoint is not whole, take another one")
                if path.stat().st_size != entry["bytes"] or _sha256(path) != entry["sha256"]:
                    raise CheckpointError(
                        f"{path} is damaged (it is not the file that the manifest describes): take another checkpoint"
                    )
            self.files = frozenset(files)
            self.state: dict[str, Any] = json.loads(self.file("state.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CheckpointError(f"{folder} is not a checkpoint: it has no manifest.json") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder} is damaged: its manifest or state cannot be read ({error})") from error

    def file(self, name: str) -> Path:
        """The path of one of its files.

        Raises:
            CheckpointError: where it has none of that name.
        """
        if name not in self.files:
            raise CheckpointError(f"{self.folder} has no {name}: it does not fit this config")
        return self.folder / name

    @property
    def config_file(self) -> Path:
        return self.file("config.yaml")

    @property
    def step(self) -> int:
        return int(self.state["step"])

    @property
    def kimg(self) -> float:
        return float(self.state["images"]) / 1000

    def has(self, stem: str) -> bool:
        return f"{stem}.safetensors" in self.files

    def tensors(self, stem: str) -> dict[str, Tensor]:
        path = self.file(f"{stem}.safetensors")
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error

    def load_network(self, stem: str, network: torch.nn.Module) -> None:
        """Load `stem` into `network`.

        Raises:
            CheckpointError: naming the parameters that differ.
        """
        saved, wanted = self.tensors(stem), network.state_dict()
        differences = [f"`{name}` is only in the checkpoint" for name in saved.keys() - wanted.keys()]
        differences += [f"`{name}` is only in the config's network" for name in wanted.keys() - saved.keys()]
        differences += [
            f"`{name}` is {tuple(saved[name].shape)} in the checkpoint and {tuple(wanted[name].shape)} in the config's network"
            for name in saved.keys() & wanted.keys()
            if saved[name].shape != wanted[name].shape
        ]
        if differences:
            more = f" and {len(differences) - 3} more differences" if len(differences) > 3 else ""
            raise CheckpointError(
                f"{self.folder / stem}.safetensors does not fit the config: {'; '.join(sorted(differences)[:3])}{more}"
            )
        network.load_state_dict(saved)


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoint folders in `folder`, oldest first, whole or not."""
    if not folder.is_dir():
        return []
    found = [
        (int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(found)]


def write_best(folder: Path, name: str, metric: str, value: float) -> None:
    """Point `best.json` at the checkpoint `name`.

    Raises:
        CheckpointError: when it cannot be written.
    """
    try:
        write_json(folder / "best.json", {"checkpoint": name, "metric": metric, "value": value})
    except OSError as error:
        raise CheckpointError(f"could not write {folder / 'best.json'}: {error}") from error


def read_best(folder: Path) -> dict[str, Any] | None:
    try:
        best = json.loads((folder / "best.json").read_text(encoding="utf-8"))
        return best if _NAME.fullmatch(best["checkpoint"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def recover(folder: Path) -> None:
    """Put back what a save that was killed had set aside and not yet replaced."""
    for aside in folder.glob(".step-*.old.partial"):
        match = _NAME.match(aside.name, 1)
        if match and not (folder / match[0]).exists():
            aside.rename(folder / match[0])


def drop_newer(folder: Path, step: int) -> list[str]:
    """Delete the checkpoints beyond `step`, and the mark of the best where it is one of them.

    A run that goes on from `step` takes another course; they would be taken for its newest.

    Returns:
        A sentence for each that was deleted, or could not be.
    """
    newer = [path for path in checkpoints_in(folder) if int(path.name.removeprefix("step-")) > step]
    best = read_best(folder)
    if best is not None and best["checkpoint"] in {path.name for path in newer}:
        (folder / "best.json").unlink()
    return [_delete(path) or f"{path} is deleted, for the run goes on from before it" for path in newer]


def _delete(path: Path) -> str | None:
    # Out of sight first: who is killed in the midst of deleting leaves no half of a checkpoint.
    hidden = path if path.name.startswith(".") else path.with_name(f".{path.name}.deleted.partial")
    try:
        if hidden != path:
            path.rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        return f"could not delete the old checkpoint {path}: {error}"
    return None


def prune(folder: Path, keep: int) -> list[str]:
    """Delete all but the newest `keep` checkpoints and the best, and what interrupted saves left behind.

    Returns:
        A sentence for each that could not be deleted.
    """
    best = read_best(folder)
    kept = {path.name for path in checkpoints_in(folder)[-keep:]} | ({best["checkpoint"]} if best else set())
    doomed = [path for path in checkpoints_in(folder) if path.name not in kept]
    doomed += [path for path in folder.glob(".step-*.partial") if path.is_dir()]
    for left in folder.glob(".best.json.*.part"):
        left.unlink(missing_ok=True)
    return [problem for path in doomed if (problem := _delete(path))]
