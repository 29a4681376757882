"""TensorBoard event files, in the run folder's `tensorboard/`."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gantk.errors import ConfigError
from gantk.tracking.sink import Sink


class TensorboardFiles(Sink):
    """Writes TensorBoard files. The step is the number of images seen (kimg × 1000), for steps are whole
    numbers."""

    title = "TensorBoard"

    def __init__(self, folder: Path, *, resumed_kimg: float | None) -> None:
        """Opens a new event file in `folder/tensorboard`.

        Args:
            folder: The run folder.
            resumed_kimg: TensorBoard hides points beyond it that an earlier file holds. `math.inf` hides
                none. None: earlier files are removed.

        Raises:
            ConfigError: where TensorBoard is not installed.
        """
        super().__init__()
        if not _installed():
            raise ConfigError(
                "`tracking.tensorboard: true` needs TensorBoard, which is not installed: "
                "`pip install gantk[tensorboard]`, or set it to false."
            )
        self._writer: Any = None
        self._attempt(lambda: self._open(folder / "tensorboard", resumed_kimg))

    @staticmethod
    def are_in(folder: Path) -> bool:
        """Whether the run in `folder` has TensorBoard files, and TensorBoard is there to add to them."""
        return (folder / "tensorboard").is_dir() and _installed()

    def _open(self, folder: Path, resumed_kimg: float | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if resumed_kimg is None:
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        hidden_from = None if resumed_kimg is None or math.isinf(resumed_kimg) else _images(resumed_kimg) + 1
        self._writer = SummaryWriter(str(folder), purge_step=hidden_from)

    def _log(self, kimg: float, values: Mapping[str, float | str]) -> None:
        for name, value in values.items():
            add = self._writer.add_text if isinstance(value, str) else self._writer.add_scalar
            add(name, value, _images(kimg))
        self._writer.flush()

    def _image(self, kimg: float, name: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as picture:
            pixels = np.asarray(picture)
        self._writer.add_image(name, pixels, _images(kimg), dataformats="HW" if pixels.ndim == 2 else "HWC")

    def _finish(self, exit_code: int) -> None:
        self._writer.close()


def _installed() -> bool:
    return importlib.util.find_spec("tensorboard") is not None


def _images(kimg: float) -> int:
    return round(kimg * 1000)
