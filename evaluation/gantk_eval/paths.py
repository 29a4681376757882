"""Where things are kept: the cache folder, and the folders in which weight files are looked for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["cache_folder", "offline", "weight_folders"]


def cache_folder() -> Path:
    """The folder of everything that can be made again: `$GANTK_CACHE`, else `gantk` in the user's cache folder.

    It need not exist yet.
    """
    chosen = os.environ.get("GANTK_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "gantk"


def weight_folders() -> list[Path]:
    """The folders in which weight files are looked for, in order: `$GANTK_WEIGHTS`, torch.hub's, gantk's own.

    torch-fidelity keeps its files in torch.hub's folder, so that one serves both.
    """
    folders = []
    chosen = os.environ.get("GANTK_WEIGHTS")
    if chosen:
        folders.append(Path(chosen).expanduser())
    hub = os.environ.get("TORCH_HOME")
    base = Path(hub) if hub else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    folders.append(base.expanduser() / "hub" / "checkpoints")
    folders.append(cache_folder() / "weights")
    return folders


def offline() -> bool:
    """Return whether the environment says not to try the network: `GANTK_OFFLINE`, or what Hugging Face's libraries go by."""
    return any(
        os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on")
        for name in ("GANTK_OFFLINE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    )
