"""Images for training: sources, the decode-once cache, held-out splits, stateless shuffling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gantk.data.dataset import Dataset, open_dataset, open_datasets
    from gantk.data.report import DataReport, inspect
    from gantk.data.sampler import shuffled_indices
    from gantk.data.store import Store

__all__ = ["DataReport", "Dataset", "Store", "inspect", "open_dataset", "open_datasets", "shuffled_indices"]

_WHERE = {
    "DataReport": "report",
    "Dataset": "dataset",
    "Store": "store",
    "inspect": "report",
    "open_dataset": "dataset",
    "open_datasets": "dataset",
    "shuffled_indices": "sampler",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f"gantk.data.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'gantk.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
