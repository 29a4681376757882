"""Tensors out of weight files, and nothing else: no file is ever unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from gantk_eval.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["kind_of", "read_state_dict"]


def kind_of(path: Path) -> str:
    """What a file is: `torchscript`, `export` (torch.export), `safetensors`, `state_dict`, or `unknown`."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return "unknown"
    if not head.startswith(b"PK"):
        length = int.from_bytes(head[:8], "little")
        if head[8:9] == b"{" and 0 < length < 1 << 30:
            return "safetensors"
        # The oldest form of torch.save: a pickle that begins with this protocol and number.
        return "state_dict" if head[:2] == b"\x80\x02" else "unknown"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return "unknown"
    inner = {name.partition("/")[2] for name in names} | set(names)
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return "torchscript"
    if any(name == "serialized_exported_program.json" or name.startswith("models/") for name in inner):
        return "export"
    return "state_dict" if "data.pkl" in inner else "unknown"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, of a .pth or .pt state dict (with `weights_only`), or of a TorchScript archive.

    A dictionary inside the file under `state_dict` or `model` is taken. Raises WeightsError, naming the file.
    """
    import torch

    try:
        kind = kind_of(path)
        if kind == "safetensors":
            from safetensors.torch import load_file

            return dict(load_file(str(path)))
        if kind == "torchscript":
            return dict(torch.jit.load(str(path), map_location="cpu").state_dict())
        state = torch.load(path, map_location="cpu", weights_only=True)
        for outer in ("state_dict", "model", "teacher"):
            if isinstance(state, dict) and isinstance(state.get(outer), dict):
                state = state[outer]
        found = {key: value for key, value in dict(state).items() if isinstance(value, torch.Tensor)}
    except Exception as error:
        what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"cannot load {path}: {what}; give a state dict of tensors (.pth, .pt, .safetensors)"
        ) from error
    if not found:
        raise WeightsError(f"cannot load {path}: it holds no tensors; give a state dict (.pth, .pt, .safetensors)")
    return found
