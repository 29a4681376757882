"""gantk: train GANs on one machine or many, with evaluation whose numbers can be believed.

import gantk
run = gantk.train("configs/quickstart.yaml", "train.kimg=50")
print(run.folder)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_config", "train"]

# Before PyTorch is imported, which takes seconds, in which a launcher can die: see `gantk.training.signals`.
STARTED_BY = os.getppid()

if TYPE_CHECKING:
    from gantk.api import train
    from gantk.config import load_config


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import; `gantk --help` must not.
    if name == "train":
        import gantk.api

        return gantk.api.train
    if name == "load_config":
        from gantk.config import load_config

        return load_config
    raise AttributeError(f"module 'gantk' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
