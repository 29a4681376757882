"""A network of the user's own, as TorchScript or torch.export file: uint8 images in, features out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gantk_eval.errors import WeightsError
from gantk_eval.extractors.blocks import block_size, in_blocks
from gantk_eval.extractors.precision import exact_float32
from gantk_eval.extractors.state_dicts import kind_of
from gantk_eval.extractors.weights import sha256_of

__all__ = ["OwnModuleExtractor", "name_of_file"]

WANTED = (
    "it must take uint8 images of shape N×3×H×W and return floating-point features of shape N×d, or a tuple that begins with "
    "them (resize and normalise inside of it)"
)


TAKEN = ("dinov2", "clip", "classifier", "lpips", "pixels")
"""Names of extractors that come with gantk, besides all that begin with `inception`."""


def name_of_file(path: Path) -> str:
    """The name of a file's scores: its own without the ending, in lower case (`fd_my-net` for `My Net.pt`).

    No file may lend its scores the name of another network's: `inception-v3-compat.pt` is `own-inception-v3-compat`.
    """
    name = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "module"
    return f"own-{name}" if name in TAKEN or name.startswith("inception") else name


@contextmanager
def _tensors_only() -> Iterator[None]:
    """torch.export falls back to unpickling where a file's weights are no plain tensors; not here."""
    before = {
        name: os.environ.pop(name, None)
        for name in ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    }
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        yield
    finally:
        del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        os.environ.update({name: value for name, value in before.items() if value is not None})


class OwnModuleExtractor:
    """Features of a module in a file. It takes uint8 [n, 3, H, W] and returns float [n, d] (or [n, d, 1, 1], or a tuple that
    begins with that), in evaluation mode; grey images are repeated to RGB.

    Such a file is a program, and runs with the user's rights; Python objects in it are never unpickled. A module that was
    exported for a fixed batch is fed that many images at a time.
    `shape`: height and width of the images, for a first try. Raises WeightsError where the file cannot be loaded, fails on
    such images, or returns something else.
    """

    resize = "its own"
    precision = "fp32"

    def __init__(self, path: Path, *, shape: tuple[int, int], device: Any = "cpu") -> None:
        import torch

        self._device = torch.device(device)
        self._path = path
        self.name = name_of_file(path)
        self._batch = block_size(device)
        try:
            if kind_of(path) == "torchscript":
                self._module = torch.jit.load(str(path), map_location=self._device).eval()
            else:
                with _tensors_only():
                    program = torch.export.load(str(path))
                self._batch = _fixed_batch(program) or self._batch
                self._module = program.module().to(self._device)
        except Exception as error:
            raise WeightsError(
                f"cannot load {path}: {_first_line(error)}; give a file of torch.jit.save or torch.export.save"
            ) from error
        self.weights_sha256 = sha256_of(path)
        self.dims = self._run(np.zeros((self._batch, *shape, 3), dtype=np.uint8)).shape[1]

    def features(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 1 or 3] -> float32 [n, dims]."""
        return in_blocks(images, self._batch, self._run, fill=True)

    def _run(self, images: np.ndarray) -> np.ndarray:
        import torch

        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self._device).permute(0, 3, 1, 2)
        if batch.shape[1] == 1:
            batch = batch.repeat(1, 3, 1, 1)
        try:
            with exact_float32(self._device):
                result = self._module(batch.contiguous())
        except Exception as error:
            raise WeightsError(
                f"{self._path} fails on uint8 images of shape {tuple(batch.shape)}: {_first_line(error)}; {WANTED}"
            ) from error
        while isinstance(result, (tuple, list)) and result:
            result = result[0]
        good = isinstance(result, torch.Tensor) and result.is_floating_point() and result.dim() >= 2
        if not good or len(result) != len(batch) or result.flatten(1).shape[1] != result.shape[1]:
            what = (
                f"{result.dtype} of shape {tuple(result.shape)}"
                if isinstance(result, torch.Tensor)
                else type(result).__name__
            )
            raise WeightsError(f"{self._path} returns {what} for {len(batch)} images; {WANTED}")
        values = result.flatten(1).float().cpu().numpy()
        if not np.isfinite(values).all():
            raise WeightsError(f"{self._path} returns features that are not finite; {WANTED}")
        return values

    def logits(self, features: np.ndarray) -> None:
        """None: nothing is known of classes."""
        return


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _fixed_batch(program: Any) -> int | None:
    """The batch that an exported program insists on; None where any will do."""
    names = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            size = node.meta["val"].shape[0]
            return int(size) if isinstance(size, int) else None
    return None
